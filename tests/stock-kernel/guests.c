/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two VMMs: guest a is ours, guest b that of a child, which has a descriptor of our vhost device as well. */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct order {
    unsigned gsi;
    uint64_t count;
};

/* Answers each order with the count that it waited for. */
int run_other(int sock, int vhost_fd)
{
    struct evlink_client *client = open_client();
    struct evlink_agent *agent;
    struct guest *guest;
    struct order order;

    need(guest_new(0, &guest) == 0, "guest b");
    agent = make_agent("b", guest);
    /* Our mm is not the owner's: the ioctls that tell are those that plug. */
    need(evlink_agent_add_vhost(agent, "stolen", vhost_fd, NULL, NULL) == 0, "vhost/stolen");
    need(evlink_agent_attach(agent, client) == 0 && evlink_agent_start(agent) == 0, "agent b");
    while (recv(sock, &order, sizeof(order), 0) == sizeof(order)) {
        order.count = guest_wait(guest, order.gsi, order.count, ARRIVAL_MS);
        if (send(sock, &order, sizeof(order), MSG_NOSIGNAL) != sizeof(order))
            break;
    }
    _exit(0);
}

uint64_t ask_other(int sock, unsigned gsi, uint64_t count)
{
    struct order order = { gsi, count };

    need(send(sock, &order, sizeof(order), MSG_NOSIGNAL) == sizeof(order) &&
             recv(sock, &order, sizeof(order), 0) == sizeof(order),
        "the other VMM answers");
    return order.count;
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

void check_guests(struct rig *rig)
{
    check(link_up(rig->client, "guests", "kvm/a/pio/0x530/2=3", "kvm/b/gsi/6") == 0,
        "a doorbell of guest a is linked to an interrupt of guest b, in another process");
    silence();
    check_doorbell(rig);
    check(evlink_disconnect(rig->client, "guests") == 0, "it is unlinked");
    check(guest_ring_pio(rig->guest, 0x530, 2, 3, 1) == 1, "the doorbell exits to the VMM after that");
}
