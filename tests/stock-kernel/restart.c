/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * evlinkd is killed while links of every kind stand: interrupts go on arriving while there is none, and the
 * next one has the links as they were, and can do with them what the one before could. The rings of
 * vhost-vsock are linked already. At the end its supervisor is killed as well, which has kept the vault, and
 * that is the end of the links.
 */
#include "rig.h"

#include <stdio.h>
#include <string.h>

#define PARKED 1 /* the vector whose link is parked meanwhile */

/* What goes through all links but the one that is parked. */
static void check_all(struct rig *rig, unsigned intx_gsi)
{
    struct count count;

    check_edu(rig, intx_gsi, "edu INTx to KVM level irqfd");
    if (rig->nic) {
        count = count_begin();
        for (unsigned i = 0; i < TIMES && count.arrived == i; i++)
            count_one(&count, nic_raise(rig, 0, true));
        (void)check_count(&count, "e1000e MSI-X to KVM irqfd");
    }
    if (rig->vhost >= 0)
        check_vsock(rig);
    check_doorbell(rig);
}

static int count_linked(void *userdata, const struct evlink_link_info *info)
{
    *(unsigned *)userdata += strcmp(info->state, "linked") == 0;
    return 0;
}

/* The links can be changed as before. */
static void check_changes(struct rig *rig)
{
    struct evlink_client *client = rig->client;
    uint64_t before;
    unsigned n;

    check(call(client, "Park", "{\"name\": \"intx\"}") == 0 && comes_to(client, "intx", "parked"),
        "INTx parks");
    before = guest_interrupts(rig->guest, INTX_GSI);
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0, "parked: raised 1, arrived %u", n);
    check(call(client, "Resume", "{\"name\": \"intx\"}") == 0 &&
              guest_wait(rig->guest, INTX_GSI, before + 1, ARRIVAL_MS) > before,
        "it resumes, and what was raised meanwhile arrived");
    before = guest_interrupts(rig->guest, OTHER_INTX_GSI);
    silence();
    check(call(client, "Move",
              "{\"name\": \"intx\", \"from\": \"kvm/a/gsi/5/level\", \"to\": \"kvm/a/gsi/10/level\"}") == 0 &&
              guest_interrupts(rig->guest, OTHER_INTX_GSI) == before,
        "and moves");
    if (rig->vhost >= 0)
        check(call(client, "Park", "{\"name\": \"rx\"}") == 0 && comes_to(client, "rx", "parked") &&
                  call(client, "Resume", "{\"name\": \"rx\"}") == 0,
            "the receiving ring's call parks and resumes");
    if (rig->nic) {
        before = guest_interrupts(rig->guest, NIC_GSI + PARKED);
        check(call(client, "Resume", "{\"name\": \"nic1\"}") == 0 &&
                  guest_wait(rig->guest, NIC_GSI + PARKED, before + 1, ARRIVAL_MS) > before,
            "the link that was parked resumes, and what was raised while there was no evlinkd arrived");
        check(evlink_disconnect(client, "nic1") == 0, "it is unlinked");
        silence();
        n = nic_raise(rig, PARKED, false);
        check(n == 0, "it is silent after that: arrived %u", n);
    }
    check(call(client, "Leave", "{\"endpoint\": \"kvm/b/gsi/6\"}") == 0 &&
              strcmp(state_of(client, "guests"), "") == 0 && guest_ring_pio(rig->guest, 0x530, 2, 3, 1) == 1,
        "guest b leaves, and the doorbell exits to the VMM");
    check(link_up(client, "guests", "kvm/a/pio/0x530/2=3", "kvm/b/gsi/6") == 0, "and is linked anew");
}

void check_restart(struct rig *rig)
{
    struct evlink_status status = { .links = 0 };
    unsigned linked = 0, parked = rig->nic ? 1 : 0;
    int r, eventfds = count_eventfds();

    r = link_up(rig->client, "intx", "vfio/edu/intx", "kvm/a/gsi/5/level");
    if (r == 0)
        r = link_up(rig->client, "guests", "kvm/a/pio/0x530/2=3", "kvm/b/gsi/6");
    if (r == 0 && rig->nic)
        r = nic_link(rig, 0) ? -1 : nic_link(rig, PARKED);
    if (r == 0 && rig->nic)
        r = call(rig->client, "Park", "{\"name\": \"nic1\"}");
    (void)evlink_status(rig->client, &status);
    check(r == 0 && count_eventfds() == eventfds, "%d links, of which evlinkd alone has the eventfds",
        (int)status.links);

    kill_evlinkd(rig->supervisor);
    check(evlink_status(rig->client, &status) < 0, "evlinkd is killed, and there is none");
    check_all(rig, INTX_GSI);
    if (rig->nic) {
        unsigned n = nic_raise(rig, PARKED, false);

        check(n == 0, "parked: raised 1, arrived %u", n);
    }
    revive_evlinkd(rig->supervisor);
    evlink_client_free(rig->client);
    rig->client = open_client();
    r = evlink_status(rig->client, &status);
    (void)evlink_list_links(rig->client, NULL, NULL, count_linked, &linked);
    check(r == 0 && status.restored_links == status.links && status.restored_agents == (rig->nic ? 3 : 2) &&
              linked + parked == status.links,
        "it is there again, with %d links, of which %u are linked, and %d agents", (int)status.restored_links,
        linked, (int)status.restored_agents);
    check_all(rig, INTX_GSI);
    check_changes(rig);
    check_all(rig, OTHER_INTX_GSI);

    check(evlink_disconnect(rig->client, "intx") == 0 && evlink_disconnect(rig->client, "guests") == 0 &&
              (!rig->nic || evlink_disconnect(rig->client, "nic0") == 0),
        "they are unlinked");
    silence();
    r = (int)raise_deaf(rig, OTHER_INTX_GSI);
    check(r == 0, "INTx is silent after that: arrived %d", r);
    calm_edu(rig);
}

void check_death(struct rig *rig)
{
    unsigned n;
    uint64_t host, last;
    int exits;

    check(link_up(rig->client, "guests", "kvm/a/pio/0x530/2=3", "kvm/b/gsi/6") == 0 &&
              (!rig->nic || nic_link(rig, 0) == 0),
        "two more links");
    silence();
    kill_evlinkd(rig->supervisor);
    check_edu(rig, EDU_GSI, "evlinkd is killed, its vault is there: edu MSI");
    if (rig->nic) {
        n = nic_raise(rig, 0, true);
        check(n >= 1, "e1000e MSI-X: raised 1, arrived %u", n);
    }
    check_doorbell(rig);

    end_supervisor(rig->supervisor);
    silence();
    host = count_host();
    n = raise_deaf(rig, EDU_GSI);
    check(n == 0 && count_host() > host, "the vault is gone, nobody holds: edu MSI arrived %u", n);
    calm_edu(rig);
    if (rig->nic) {
        host = count_host();
        n = nic_raise(rig, 0, false);
        check(n == 0 && count_host() > host, "e1000e MSI-X arrived %u", n);
    }
    last = ask_other(rig->other, 6, 0);
    exits = guest_ring_pio(rig->guest, 0x530, 2, 3, 1);
    silence();
    n = (unsigned)(ask_other(rig->other, 6, 0) - last);
    check(n == 0 && exits == 0, "the doorbell is swallowed still, and arrived %u, exits to the VMM %d", n,
        exits);
}
