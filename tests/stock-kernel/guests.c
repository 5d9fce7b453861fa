/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two VMMs: guest a is ours, guest b that of a child, which has a descriptor of our vhost device as well. */
#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum what {
    ORDER_WAIT,     /* for count interrupts on a GSI; the answer has how many there are then */
    ORDER_TAKE_EDU, /* with the device's descriptor */
    ORDER_TAKE_NIC, /* the same */
    ORDER_ATTACH,   /* an agent that takes over */
    ORDER_LET_GO,   /* of all that was taken */
};

/* The answer is the same with another count, or an error in it. */
struct order {
    enum what what;
    unsigned gsi;
    uint64_t count;
};

struct other {
    struct guest *guest;
    struct evlink_client *client;
    struct evlink_agent *successor;
    struct device *edu, *nic;
};

/* fd: borrowed; -1: none. */
static bool send_order(int sock, struct order *order, int fd)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control = { .header = {
                      .cmsg_len = CMSG_LEN(sizeof(int)),
                      .cmsg_level = SOL_SOCKET,
                      .cmsg_type = SCM_RIGHTS,
                  } };
    struct iovec iov = { .iov_base = order, .iov_len = sizeof(*order) };
    struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fd >= 0) {
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
    }
    return sendmsg(sock, &message, MSG_NOSIGNAL) == sizeof(*order);
}

static bool receive_order(int sock, struct order *order, int *fd)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control;
    struct iovec iov = { .iov_base = order, .iov_len = sizeof(*order) };
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    struct cmsghdr *header;

    if (recvmsg(sock, &message, MSG_CMSG_CLOEXEC) != sizeof(*order))
        return false;
    header = CMSG_FIRSTHDR(&message);
    *fd = -1;
    if (header)
        memcpy(fd, CMSG_DATA(header), sizeof(*fd));
    return true;
}

static void serve_device(void *userdata, unsigned gsi)
{
    struct other *other = userdata;

    if (gsi == INTX_GSI && other->edu)
        edu_acknowledge(other->edu);
}

/* What an upgraded VMM does: the devices are those of the one before, the VM is its own. */
static int attach_successor(struct other *other)
{
    int r;

    if (guest_set_level(other->guest, INTX_GSI, true) < 0 ||
        guest_route_msi(other->guest, NIC_GSI, 0x40 + NIC_GSI - EDU_GSI) < 0)
        return -EIO;
    guest_on_interrupt(other->guest, serve_device, other);
    r = evlink_client_reconnect(other->client);
    if (r == 0)
        r = evlink_agent_new("new", EVLINK_AGENT_TAKEOVER, &other->successor);
    if (r == 0)
        r = evlink_agent_add_kvm(other->successor, "vmm", guest_vm_fd(other->guest), NULL, NULL);
    if (r == 0 && other->edu)
        r = evlink_agent_add_vfio(other->successor, "vmm-edu", device_fd(other->edu), NULL, NULL);
    if (r == 0 && other->nic)
        r = evlink_agent_add_vfio(other->successor, "vmm-nic", device_fd(other->nic), NULL, NULL);
    if (r == 0)
        r = evlink_agent_attach(other->successor, other->client);
    return r == 0 ? evlink_agent_start(other->successor) : r;
}

static int obey(struct other *other, const struct order *order, int fd)
{
    switch (order->what) {
    case ORDER_TAKE_EDU:
        return device_take(fd, &other->edu);
    case ORDER_TAKE_NIC:
        return device_take(fd, &other->nic);
    case ORDER_ATTACH:
        return attach_successor(other);
    case ORDER_LET_GO:
        other->successor = evlink_agent_free(other->successor);
        guest_on_interrupt(other->guest, NULL, NULL);
        other->edu = device_free(other->edu);
        other->nic = device_free(other->nic);
        return 0;
    default:
        return -EINVAL;
    }
}

int run_other(int sock, int vhost_fd)
{
    struct other other = { .client = open_client() };
    struct evlink_agent *agent;
    struct order order;
    int fd;

    need(guest_new(0, &other.guest) == 0, "guest b");
    agent = make_agent("b", other.guest);
    /* Our mm is not the owner's: the ioctls that tell are those that plug. */
    need(evlink_agent_add_vhost(agent, "stolen", vhost_fd, NULL, NULL) == 0, "vhost/stolen");
    need(evlink_agent_attach(agent, other.client) == 0 && evlink_agent_start(agent) == 0, "agent b");
    while (receive_order(sock, &order, &fd)) {
        if (order.what == ORDER_WAIT)
            order.count = guest_wait(other.guest, order.gsi, order.count, ARRIVAL_MS);
        else
            order.count = (uint64_t)obey(&other, &order, fd);
        if (!send_order(sock, &order, -1))
            break;
    }
    _exit(0);
}

static uint64_t give_order(int sock, struct order order, int fd)
{
    int none;

    need(send_order(sock, &order, fd) && receive_order(sock, &order, &none), "the other VMM answers");
    return order.count;
}

uint64_t ask_other(int sock, unsigned gsi, uint64_t count)
{
    return give_order(sock, (struct order){ .what = ORDER_WAIT, .gsi = gsi, .count = count }, -1);
}

int start_successor(struct rig *rig)
{
    int r = (int)give_order(rig->other, (struct order){ .what = ORDER_TAKE_EDU }, device_fd(rig->edu));

    if (r == 0 && rig->nic)
        r = (int)give_order(rig->other, (struct order){ .what = ORDER_TAKE_NIC }, device_fd(rig->nic));
    return r == 0 ? (int)give_order(rig->other, (struct order){ .what = ORDER_ATTACH }, -1) : r;
}

void end_successor(struct rig *rig)
{
    (void)give_order(rig->other, (struct order){ .what = ORDER_LET_GO }, -1);
}

void check_doorbell(struct rig *rig)
{
    uint64_t before = ask_other(rig->other, 6, 0), now = before;
    int exits = 0;

    for (unsigned i = 0; i < TIMES && now - before == i; i++) {
        exits += guest_ring_pio(rig->guest, 0x530, 2, 3, 1) != 0;
        now = ask_other(rig->other, 6, now + 1);
    }
    check(now - before == TIMES && exits == 0, "guest a to guest b: rung %d, arrived %u, exits to the VMM %d",
        TIMES, (unsigned)(now - before), exits);
}

/* To an interrupt of its own: by hand it takes one VMM. */
static void check_doorbell_by_hand(struct rig *rig)
{
    uint64_t before = guest_interrupts(rig->guest, HAND_GSI), now = before;
    int fd = plug_doorbell(rig, 3), exits = 0;

    need(irqfd(rig, HAND_GSI, fd, -1) == 0, "an irqfd by hand");
    for (unsigned i = 0; i < TIMES && now - before == i; i++) {
        exits += guest_ring_pio(rig->guest, HAND_PORT, 2, 3, 1) != 0;
        now = guest_wait(rig->guest, HAND_GSI, now + 1, ARRIVAL_MS);
    }
    check(now - before == TIMES && exits == 0,
        "by hand, doorbell to irqfd, the eventfd kept: rung %d, arrived %u", TIMES, (unsigned)(now - before));
    close(fd);
    silence();
    exits = guest_ring_pio(rig->guest, HAND_PORT, 2, 3, 1);
    silence();
    before = now;
    now = guest_interrupts(rig->guest, HAND_GSI);
    check(now == before && exits == 0,
        "by hand, the eventfd closed, nobody holds it: arrived %u, exits to the VMM %d",
        (unsigned)(now - before), exits);
}

void check_guests(struct rig *rig)
{
    check_doorbell_by_hand(rig);
    check(link_up(rig->client, "guests", "kvm/a/pio/0x530/2=3", "kvm/b/gsi/6") == 0,
        "a doorbell of guest a is linked to an interrupt of guest b, in another process");
    silence();
    check_doorbell(rig);
    check(evlink_disconnect(rig->client, "guests") == 0, "it is unlinked");
    check(guest_ring_pio(rig->guest, 0x530, 2, 3, 1) == 1, "the doorbell exits to the VMM after that");
}
