/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames over a unix stream socket: see socket.h.
 *
 * One recvmsg() can return a plain message merged with a following one that carries descriptors, and nothing
 * tells then where the second began. But a receive never goes beyond a segment with descriptors, and a peek
 * without room for control data says MSG_CTRUNC exactly if it met one. So: peek; without MSG_CTRUNC take all
 * that was seen, however many frames; with it, take one frame, to its NUL.
 */
#include "wire/socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04 /* Linux 6.5 */
#endif

static ssize_t receive(int fd, struct msghdr *message, int flags)
{
    ssize_t n;

    do
        n = recvmsg(fd, message, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

void socket_take_in_order(int fd)
{
    const int on = 1;

    (void)setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
}

int socket_adopt(struct msghdr *message, struct fdset *set)
{
    int fds[FRAME_MAX_FDS];
    size_t n = 0;
    int r;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        size_t length = c->cmsg_len - CMSG_LEN(0);

        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_PIDFD) {
            int pidfd;

            memcpy(&pidfd, CMSG_DATA(c), sizeof(pidfd));
            fd_close(pidfd);
        }
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        /* The kernel makes one such header a message, of no more than FRAME_MAX_FDS. */
        memcpy(fds + n, CMSG_DATA(c), length);
        n += length / sizeof(int);
    }
    r = fdset_adopt(set, fds, n);
    set->foreign = true;
    return r;
}

int socket_receive(int fd, struct frame_in *in)
{
    return socket_receive_if(fd, in, NULL, NULL);
}

int socket_receive_if(int fd, struct frame_in *in, int (*admit)(void *userdata), void *userdata)
{
    union socket_control control;
    struct fdset fds = FDSET_EMPTY;
    struct iovec vector;
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
    int lost;
    char *space;
    size_t length;
    ssize_t n;
    int r;

    r = frame_in_space(in, &space, &length);
    if (r < 0)
        return r;
    vector = (struct iovec){ .iov_base = space, .iov_len = length };
    n = receive(fd, &message, MSG_PEEK);
    if (n <= 0)
        return (int)n;
    vector.iov_len = (size_t)n;
    if (message.msg_flags & MSG_CTRUNC) {
        const char *nul = memchr(space, '\0', (size_t)n);

        if (nul)
            vector.iov_len = (size_t)(nul + 1 - space);
        r = admit ? admit(userdata) : 0;
        if (r < 0)
            return r;
    }
    message = (struct msghdr){
        .msg_iov = &vector,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof(control.space),
    };
    n = receive(fd, &message, 0);
    if (n <= 0)
        return (int)n;
    /* Without memory for them they are as lost as without room in the table. */
    lost = socket_adopt(&message, &fds);
    if (message.msg_flags & MSG_CTRUNC)
        lost = -EMFILE;
    r = frame_in_fill(in, (size_t)n, &fds, lost);
    return r < 0 ? r : 1;
}

bool socket_is_short(int r)
{
    return r == -ETOOMANYREFS || r == -ENOBUFS || r == -ENOMEM;
}

void socket_attach(struct msghdr *message, const struct fdset *fds, union socket_control *control)
{
    struct cmsghdr *header;

    if (fds->n == 0)
        return;
    memset(control, 0, sizeof(*control));
    message->msg_control = control->space;
    message->msg_controllen = CMSG_SPACE(fds->n * sizeof(int));
    header = CMSG_FIRSTHDR(message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds->n * sizeof(int));
    memcpy(CMSG_DATA(header), fds->fds, fds->n * sizeof(int));
}

int socket_send(int fd, struct frame_out *out)
{
    union socket_control control;
    const struct fdset *fds;
    const char *bytes;
    size_t length;

    while ((length = frame_out_peek(out, &bytes, &fds)) > 0) {
        struct iovec vector = { .iov_base = (char *)bytes, .iov_len = length };
        struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
        ssize_t n;

        socket_attach(&message, fds, &control);
        do
            n = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n < 0)
            return -errno;
        frame_out_sent(out, (size_t)n);
    }
    return 0;
}
