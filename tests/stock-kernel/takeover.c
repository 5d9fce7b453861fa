/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VMM is upgraded in place: its successor, another process with a VM of its own, has got the devices by
 * SCM_RIGHTS, and takes over one end after the other. What a device raises while an end is under way, since
 * the successor is stopped at that moment, arrives when it is plugged.
 */
#include "rig.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static struct evlink_agent *attach_old(struct rig *rig)
{
    struct evlink_agent *agent = NULL;
    int r;

    r = evlink_agent_new("old", 0, &agent);
    if (r == 0)
        r = evlink_agent_add_kvm(agent, "vmm", guest_vm_fd(rig->guest), NULL, NULL);
    if (r == 0)
        r = evlink_agent_add_vfio(agent, "vmm-edu", device_fd(rig->edu), NULL, NULL);
    if (r == 0 && rig->nic)
        r = evlink_agent_add_vfio(agent, "vmm-nic", device_fd(rig->nic), NULL, NULL);
    if (r == 0)
        r = evlink_agent_attach(agent, rig->client);
    if (r == 0)
        r = evlink_agent_start(agent);
    check(r == 0, "a VMM attaches with both devices");
    return agent;
}

/* Its interrupts by now, once there are so many. */
static uint64_t ask_successor(struct rig *rig, unsigned gsi, uint64_t count)
{
    return ask_other(rig->other, gsi, count);
}

/*
 * Has the old one let go of an end of INTx' link, and one of the vector's, at a moment when the successor
 * cannot answer. A device that is not quiet raises then.
 */
static void move_ends(struct rig *rig, const char *intx, const char *msix, bool quiet_edu, const char *what)
{
    const char *const ends[] = { intx, rig->nic ? msix : NULL, NULL };
    uint64_t old[] = { guest_interrupts(rig->guest, INTX_GSI), guest_interrupts(rig->guest, NIC_GSI) };
    uint64_t new[] = { ask_successor(rig, INTX_GSI, 0), ask_successor(rig, NIC_GSI, 0) };
    int r;

    need(kill(rig->other_pid, SIGSTOP) == 0, "the successor stops");
    r = evlink_withdraw(rig->client, "old", ends, NULL);
    if (!quiet_edu)
        edu_raise(rig->edu);
    if (rig->nic)
        nic_trigger(rig, 0);
    silence();
    need(kill(rig->other_pid, SIGCONT) == 0, "the successor goes on");
    check(r == 0 && comes_to(rig->client, "intx", "linked") &&
              (!rig->nic || comes_to(rig->client, "msix", "linked")),
        "%s: the old one lets go, the new one has them", what);
    if (!quiet_edu)
        check(ask_successor(rig, INTX_GSI, new[0] + 1) > new[0],
            "%s: the INTx that was raised meanwhile arrived at the new one", what);
    if (rig->nic)
        check(ask_successor(rig, NIC_GSI, new[1] + 1) > new[1],
            "%s: the MSI-X that was raised meanwhile arrived at the new one", what);
    check(guest_interrupts(rig->guest, INTX_GSI) == old[0] && guest_interrupts(rig->guest, NIC_GSI) == old[1],
        "%s: none of it arrived at the old one", what);
}

static void check_successor(struct rig *rig)
{
    struct count count = count_begin();
    uint64_t last = ask_successor(rig, INTX_GSI, 0), now;

    for (unsigned i = 0; i < TIMES && count.arrived == i; i++, last = now) {
        edu_raise(rig->edu);
        now = ask_successor(rig, INTX_GSI, last + 1);
        count_one(&count, now - last);
    }
    (void)check_count(&count, "edu INTx to the new one");
    if (!rig->nic)
        return;
    count = count_begin();
    last = ask_successor(rig, NIC_GSI, 0);
    for (unsigned i = 0; i < TIMES && count.arrived == i; i++, last = now) {
        nic_trigger(rig, 0);
        now = ask_successor(rig, NIC_GSI, last + 1);
        count_one(&count, now - last);
    }
    (void)check_count(&count, "e1000e MSI-X to the new one");
}

void check_takeover(struct rig *rig)
{
    struct evlink_client *client = rig->client;
    struct evlink_agent *old = attach_old(rig), *rival = NULL;
    uint64_t last;
    int r;

    r = link_up(client, "intx", "vfio/vmm-edu/intx", "kvm/vmm/gsi/5/level");
    if (r == 0 && rig->nic)
        r = link_up(client, "msix", "vfio/vmm-nic/msix/0", "kvm/vmm/gsi/25");
    check(r == 0, "INTx and MSI-X are linked to its guest");
    check_edu(rig, INTX_GSI, "edu INTx to the old one");

    r = evlink_agent_new("rival", 0, &rival);
    if (r == 0)
        r = evlink_agent_add_vfio(rival, "vmm-edu", device_fd(rig->edu), NULL, NULL);
    check(r == 0 && evlink_agent_attach(rival, client) == EVLINK_E_SUBSYSTEM_TAKEN,
        "one that does not take over is refused");
    evlink_agent_free(rival);
    r = start_successor(rig);
    check(r == 0 && strcmp(state_of(client, "intx"), "linked") == 0,
        "another process gets the devices, and attaches to take over");
    check_edu(rig, INTX_GSI, "all is the old one's as yet, edu INTx");

    move_ends(rig, "kvm/vmm/gsi/5/level", "kvm/vmm/gsi/25", false, "consumers");
    /* QEMU's IOAPIC, unlike a real one, forgets a line that rises while nobody has its interrupt. */
    move_ends(rig, "vfio/vmm-edu/intx", "vfio/vmm-nic/msix/0", true, "producers");
    check(evlink_detach(client, "old") == 0, "the old one is done");
    evlink_agent_free(old);
    last = guest_interrupts(rig->guest, INTX_GSI) + guest_interrupts(rig->guest, NIC_GSI);
    check_successor(rig);
    check(guest_interrupts(rig->guest, INTX_GSI) + guest_interrupts(rig->guest, NIC_GSI) == last,
        "and none to the old one");

    check(evlink_disconnect(client, "intx") == 0 && (!rig->nic || evlink_disconnect(client, "msix") == 0) &&
              evlink_detach(client, "new") == 0,
        "they are unlinked, and the new one goes");
    silence();
    last = ask_successor(rig, INTX_GSI, 0);
    edu_raise(rig->edu);
    silence();
    check(ask_successor(rig, INTX_GSI, 0) == last, "it is silent after that");
    calm_edu(rig);
    end_successor(rig);
}
