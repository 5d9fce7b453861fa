/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bare counterparts: what a program of a few lines does where it trusts everybody, keeps nothing past its
 * own death and knows no names. See bench.h.
 */
#include "bench.h"

#include <linux/kvm.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS_MAX 253
#define TABLE_MAX 20000

/* Receives a message of one byte with descriptors. Returns how many those were, -1 at the end. */
static int receive(int socket, char *byte, int *fds)
{
    union {
        char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec vector = { .iov_base = byte, .iov_len = 1 };
    struct msghdr message = {
        .msg_iov = &vector,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof(control.space),
    };
    struct cmsghdr *header;
    size_t length;

    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0)
        return -1;
    header = CMSG_FIRSTHDR(&message);
    if (!header)
        return 0;
    length = header->cmsg_len - CMSG_LEN(0);
    memcpy(fds, CMSG_DATA(header), length);
    return (int)(length / sizeof(int));
}

void bare_store(void *userdata)
{
    static int table[TABLE_MAX];
    int *socket = userdata, n = 0, got;
    char byte;

    while (n + FDS_MAX <= TABLE_MAX && (got = receive(*socket, &byte, table + n)) >= 0) {
        n += got;
        while (byte == 'r' && n > 0)
            close(table[--n]);
        if (write(*socket, "", 1) != 1)
            return;
    }
}

void bare_relay(void *userdata)
{
    struct bare_relay *relay = userdata;
    struct epoll_event event = { .events = EPOLLIN };
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    uint64_t count;

    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, relay->source, &event) < 0)
        return;
    while (epoll_wait(epoll, &event, 1, -1) == 1 && read(relay->source, &count, sizeof(count)) > 0)
        for (size_t i = 0; i < relay->n; i++)
            if (write(relay->destinations[i], &count, sizeof(count)) < 0)
                return;
}

void bare_table(void *userdata)
{
    struct bare_table *table = userdata;
    int *fds = calloc(table->n, sizeof(int));

    if (!fds)
        return;
    for (size_t i = 0; i < table->n; i++)
        if ((fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
            return;
    if (write(table->ready, "", 1) == 1)
        (void)pause();
}

void bare_irqfd(int vm, int fd, unsigned gsi, bool assign)
{
    struct kvm_irqfd irqfd = {
        .fd = (unsigned)fd, .gsi = gsi, .flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN
    };

    if (ioctl(vm, KVM_IRQFD, &irqfd) < 0)
        die("KVM_IRQFD: %m");
}

void bare_doorbell(int vm, int fd, unsigned port)
{
    struct kvm_ioeventfd doorbell = { .fd = fd, .addr = port, .len = 2, .flags = KVM_IOEVENTFD_FLAG_PIO };

    if (ioctl(vm, KVM_IOEVENTFD, &doorbell) < 0)
        die("KVM_IOEVENTFD: %m");
}

void *bare_agent(void *userdata)
{
    struct bare_agent *agent = userdata;
    int fds[FDS_MAX];
    char gsi;

    while (receive(agent->socket, &gsi, fds) == 1) {
        bare_irqfd(agent->vm, fds[0], (unsigned char)gsi, true);
        close(fds[0]);
        if (write(agent->socket, "", 1) != 1)
            break;
    }
    return NULL;
}
