/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* INTx and MSI of QEMU's edu device. */
#include "rig.h"

#include <errno.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define EDU_STATUS 0x24
#define EDU_RAISE 0x60
#define EDU_ACKNOWLEDGE 0x64

void on_interrupt(void *userdata, unsigned gsi)
{
    struct rig *rig = userdata;

    if (gsi != INTX_GSI && gsi != OTHER_INTX_GSI)
        return;
    if (atomic_load(&rig->stuck)) {
        atomic_store(&rig->stuck, 2);
        while (atomic_load(&rig->stuck))
            (void)usleep(1000);
    } else if (rig->deaf > 0)
        rig->deaf--;
    else
        device_write(rig->edu, EDU_ACKNOWLEDGE, ~0u);
}

void check_edu(struct rig *rig, unsigned gsi, const char *what)
{
    struct count count = count_begin();
    uint64_t last = guest_interrupts(rig->guest, gsi), now;

    for (unsigned i = 0; i < TIMES && count.arrived == i; i++, last = now) {
        edu_raise(rig->edu);
        now = guest_wait(rig->guest, gsi, last + 1, ARRIVAL_MS);
        device_write(rig->edu, EDU_ACKNOWLEDGE, ~0u);
        count_one(&count, now - last);
    }
    (void)check_count(&count, what);
}

unsigned raise_deaf(struct rig *rig, unsigned gsi)
{
    uint64_t before = guest_interrupts(rig->guest, gsi);

    edu_raise(rig->edu);
    silence();
    return (unsigned)(guest_interrupts(rig->guest, gsi) - before);
}

void edu_raise(struct device *edu)
{
    device_write(edu, EDU_RAISE, 1);
}

void edu_acknowledge(struct device *edu)
{
    device_write(edu, EDU_ACKNOWLEDGE, ~0u);
}

void calm_edu(struct rig *rig)
{
    edu_acknowledge(rig->edu);
}

/* As every VMM does it: well while it keeps the eventfds, silent when it does not. */
void check_by_hand(struct rig *rig)
{
    int fd = plug_device(rig, rig->edu, VFIO_PCI_MSI_IRQ_INDEX, EDU_GSI), vfio = device_fd(rig->edu);
    int resample = eventfd(0, EFD_CLOEXEC);
    uint64_t host;
    unsigned n;

    check_edu(rig, EDU_GSI, "by hand, MSI to irqfd, the eventfd kept");
    close(fd);
    silence();
    host = count_host();
    n = raise_deaf(rig, EDU_GSI);
    check(n == 0 && count_host() > host, "by hand, the eventfd closed, nobody holds it: arrived %u", n);
    calm_edu(rig);
    need(set_irqs(vfio, VFIO_PCI_MSI_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, 0, -1) == 0, "MSI off");

    fd = eventfd(0, EFD_CLOEXEC);
    need(irqfd(rig, INTX_GSI, fd, resample) == 0 &&
             set_irqs(vfio, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, 1, fd) == 0 &&
             set_irqs(vfio, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK, 1, resample) == 0,
        "INTx by hand");
    check_edu(rig, INTX_GSI, "by hand, INTx to level irqfd, both eventfds kept");
    close(fd);
    close(resample);
    silence();
    host = count_host();
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0 && count_host() > host, "by hand, both eventfds closed, nobody holds them: arrived %u", n);
    calm_edu(rig);
    need(set_irqs(vfio, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, 0, -1) == 0, "INTx off");
}

void check_msi(struct rig *rig)
{
    int eventfds = count_eventfds(), r;
    const char *message;
    unsigned n;

    r = link_up(rig->client, "msi", "vfio/edu/msi/0", "kvm/a/gsi/24");
    check(r == 0, "edu MSI is linked to a KVM irqfd");
    silence();
    check_edu(rig, EDU_GSI, "edu MSI to KVM irqfd");
    check(count_eventfds() == eventfds, "the VMM keeps no eventfd of it");

    r = link_up(rig->client, "intx", "vfio/edu/intx", "kvm/a/gsi/5/level");
    message = evlink_client_message(rig->client);
    check(r == EVLINK_E_PLUG_FAILED && strstr(message, "EBUSY") &&
              strstr(message, "another of INTx, MSI and MSI-X"),
        "INTx is refused while MSI is in use, and it says why");
    r = link_up(rig->client, "msi9", "vfio/edu/msi/9", "kvm/a/gsi/25");
    check(r == EVLINK_E_PLUG_FAILED && strstr(evlink_client_message(rig->client), "no such interrupt"),
        "a vector that the device has not is refused");
    check_edu(rig, EDU_GSI, "MSI is as it was after both");

    check(evlink_disconnect(rig->client, "msi") == 0, "MSI is unlinked");
    silence();
    n = raise_deaf(rig, EDU_GSI);
    check(n == 0, "MSI is silent after that: arrived %u", n);
    calm_edu(rig);
}

void check_intx(struct rig *rig)
{
    int eventfds = count_eventfds(), r;
    uint64_t before;
    unsigned n;

    r = link_up(rig->client, "intx", "vfio/edu/intx", "kvm/a/gsi/5");
    check(r == EVLINK_E_BAD_ENDPOINT, "INTx to an edge-triggered interrupt is refused");
    r = link_up(rig->client, "intx", "vfio/edu/intx", "kvm/a/gsi/5/level");
    check(r == 0, "edu INTx is linked to a KVM level irqfd, after MSI");
    silence();
    check_edu(rig, INTX_GSI, "edu INTx to KVM level irqfd, unmasked by the EOI");
    check(count_eventfds() == eventfds, "the VMM keeps neither of both eventfds");

    /* The driver serves it the fourth time only: each EOI before brings it back. */
    before = guest_interrupts(rig->guest, INTX_GSI);
    rig->deaf = 3;
    edu_raise(rig->edu);
    n = (unsigned)(guest_wait(rig->guest, INTX_GSI, before + 4, ARRIVAL_MS) - before);
    silence();
    check(n == 4 && guest_interrupts(rig->guest, INTX_GSI) == before + 4,
        "raised once and served at the fourth EOI: arrived %" PRIu64,
        guest_interrupts(rig->guest, INTX_GSI) - before);
    check(device_read(rig->edu, EDU_STATUS) == 0, "and the device is at rest then");
}

/* INTx is linked, and stays so but for the end. */
void check_lives(struct rig *rig)
{
    struct evlink_client *client = rig->client;
    uint64_t before;
    unsigned n;

    check(call(client, "Park", "{\"name\": \"intx\"}") == 0 && comes_to(client, "intx", "parked"),
        "INTx parks");
    before = guest_interrupts(rig->guest, INTX_GSI);
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0, "parked: raised 1, arrived %u", n);
    check(call(client, "Resume", "{\"name\": \"intx\"}") == 0, "INTx resumes");
    /* It is unmasked as well, which may bring it a second time before the guest has served it. */
    n = (unsigned)(guest_wait(rig->guest, INTX_GSI, before + 1, ARRIVAL_MS) - before);
    check(n == 1 || n == 2, "resumed: what was raised meanwhile arrived, times %u", n);
    silence();
    check_edu(rig, INTX_GSI, "after that");

    check(call(client, "Move",
              "{\"name\": \"intx\", \"from\": \"kvm/a/gsi/5/level\", \"to\": \"kvm/a/gsi/10/level\"}") == 0,
        "INTx moves to GSI 10");
    silence();
    before = guest_interrupts(rig->guest, INTX_GSI);
    check_edu(rig, OTHER_INTX_GSI, "moved");
    check(guest_interrupts(rig->guest, INTX_GSI) == before, "and none at GSI 5");

    /* The handler leaves it raised once, and the end moves between the EOI and whatever comes of it. */
    before = guest_interrupts(rig->guest, INTX_GSI);
    check(call(client, "Park", "{\"name\": \"intx\"}") == 0, "INTx parks again");
    edu_raise(rig->edu);
    check(call(client, "Move",
              "{\"name\": \"intx\", \"from\": \"kvm/a/gsi/10/level\", \"to\": \"kvm/a/gsi/5/level\"}") == 0 &&
              call(client, "Resume", "{\"name\": \"intx\"}") == 0,
        "it moves back while parked and raised, and resumes");
    n = (unsigned)(guest_wait(rig->guest, INTX_GSI, before + 1, ARRIVAL_MS) - before);
    check(n >= 1, "what was raised arrived at GSI 5: %u", n);

    check(call(client, "Leave", "{\"endpoint\": \"kvm/a/gsi/5/level\"}") == 0, "the guest leaves");
    check(strcmp(state_of(client, "intx"), "") == 0, "and the link is gone");
    silence();
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0, "left: raised 1, arrived %u", n);
    calm_edu(rig);
}

/* Guest a once more, by another name, for a while. */
static struct evlink_agent *come_late(struct rig *rig)
{
    struct evlink_agent *agent = make_agent("late", rig->guest);
    int r;

    r = evlink_agent_attach(agent, rig->client);
    if (r == 0)
        r = evlink_agent_start(agent);
    check(r == 0 && comes_to(rig->client, "early", "linked"), "its agent comes, and the link is plugged");
    return agent;
}

void check_waiting(struct rig *rig)
{
    struct evlink_client *client = rig->client;
    struct evlink_agent *agent;
    uint64_t before;
    unsigned n;

    /* The consumer is not there yet; the device is, and raises. */
    before = guest_interrupts(rig->guest, INTX_GSI);
    check(link_up(client, "early", "vfio/edu/intx", "kvm/late/gsi/5/level") == 0 &&
              comes_to(client, "early", "waiting"),
        "INTx to a guest that is not there yet: the link waits");
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0, "waiting: raised 1, arrived %u", n);
    agent = come_late(rig);
    n = (unsigned)(guest_wait(rig->guest, INTX_GSI, before + 1, ARRIVAL_MS) - before);
    check(n >= 1, "what was raised before arrived: %u", n);
    check_edu(rig, INTX_GSI, "after that");

    /* It goes before its handler has served the device: there is no EOI, and INTx stays masked. */
    atomic_store(&rig->stuck, 1);
    edu_raise(rig->edu);
    for (int i = 0; i < ARRIVAL_MS && atomic_load(&rig->stuck) != 2; i++)
        (void)usleep(1000);
    before = guest_interrupts(rig->guest, INTX_GSI) + 1;
    check(atomic_load(&rig->stuck) == 2 && evlink_detach(client, "late") == 0 &&
              comes_to(client, "early", "waiting"),
        "the guest's agent detaches before the EOI, and the link waits");
    evlink_agent_free(agent);
    atomic_store(&rig->stuck, 0);
    silence();
    check(
        guest_interrupts(rig->guest, INTX_GSI) == before, "it is silent, though the device is raised still");
    agent = come_late(rig);
    n = (unsigned)(guest_wait(rig->guest, INTX_GSI, before + 1, ARRIVAL_MS) - before);
    check(n >= 1, "it is unmasked then, and arrived: %u", n);
    check_edu(rig, INTX_GSI, "after that");
    check(evlink_detach(client, "late") == 0 && evlink_disconnect(client, "early") == 0,
        "it goes for good, and the link as well");
    evlink_agent_free(agent);
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0, "gone: raised 1, arrived %u", n);
    calm_edu(rig);
}
