/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* MSI-X of QEMU's e1000e. */
#include "rig.h"

#include <errno.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NIC_CTRL_EXT 0x18
#define NIC_ICS 0xc8
#define NIC_IMS 0xd0
#define NIC_IMC 0xd8
#define NIC_EIAC 0xdc
#define NIC_IVAR 0xe4
#define NIC_CAUSE(vector) (1u << (20 + (vector)))

static void nic_start(struct rig *rig)
{
    /* Each cause its own vector, and each vector takes its cause back. */
    device_write(rig->nic, NIC_IMC, ~0u);
    device_write(rig->nic, NIC_IVAR, 0x8u | 0x9u << 4 | 0xau << 8 | 0xbu << 12 | 0xcu << 16);
    device_write(rig->nic, NIC_EIAC, 0x1fu << 20);
}

bool nic_open(struct rig *rig)
{
    int r;

    if (!rig->nic_address || device_open(rig->nic_address, &rig->nic) < 0)
        return false;
    r = evlink_agent_new("nic", 0, &rig->nic_agent);
    if (r == 0)
        r = evlink_agent_add_vfio(rig->nic_agent, "nic", device_fd(rig->nic), NULL, NULL);
    if (r == 0)
        r = evlink_agent_attach(rig->nic_agent, rig->client);
    if (r == 0)
        r = evlink_agent_start(rig->nic_agent);
    errno = -r;
    need(r == 0, "an agent for the e1000e");
    nic_start(rig);
    return true;
}

void nic_close(struct rig *rig)
{
    if (rig->nic_agent)
        (void)evlink_detach(rig->client, "nic");
    rig->nic_agent = evlink_agent_free(rig->nic_agent);
    rig->nic = device_free(rig->nic);
}

void nic_trigger(struct rig *rig, unsigned vector)
{
    device_write(rig->nic, NIC_IMS, NIC_CAUSE(vector));
    device_write(rig->nic, NIC_ICS, NIC_CAUSE(vector));
}

unsigned nic_raise(struct rig *rig, unsigned vector, bool expected)
{
    unsigned gsi = NIC_GSI + vector;
    uint64_t before = guest_interrupts(rig->guest, gsi);

    nic_trigger(rig, vector);
    if (expected)
        return (unsigned)(guest_wait(rig->guest, gsi, before + 1, ARRIVAL_MS) - before);
    silence();
    return (unsigned)(guest_interrupts(rig->guest, gsi) - before);
}

int nic_link(struct rig *rig, unsigned vector)
{
    char name[16], producer[32], consumer[32];

    (void)snprintf(name, sizeof(name), "nic%u", vector);
    (void)snprintf(producer, sizeof(producer), "vfio/nic/msix/%u", vector);
    (void)snprintf(consumer, sizeof(consumer), "kvm/a/gsi/%u", NIC_GSI + vector);
    return link_up(rig->client, name, producer, consumer);
}

static int nic_link_all(struct rig *rig)
{
    char texts[NIC_VECTORS][3][32];
    const char *ends[NIC_VECTORS][2][2];
    struct evlink_link_spec specs[NIC_VECTORS];

    memset(specs, 0, sizeof(specs));
    for (unsigned i = 0; i < NIC_VECTORS; i++) {
        (void)snprintf(texts[i][0], sizeof(texts[i][0]), "nic%u", i);
        (void)snprintf(texts[i][1], sizeof(texts[i][1]), "vfio/nic/msix/%u", i);
        (void)snprintf(texts[i][2], sizeof(texts[i][2]), "kvm/a/gsi/%u", NIC_GSI + i);
        for (int k = 0; k < 2; k++) {
            ends[i][k][0] = texts[i][1 + k];
            ends[i][k][1] = NULL;
        }
        specs[i].name = texts[i][0];
        specs[i].group = "nic";
        specs[i].producers = ends[i][0];
        specs[i].consumers = ends[i][1];
    }
    return evlink_connect_many(rig->client, specs, NIC_VECTORS);
}

static void check_nic_by_hand(struct rig *rig)
{
    struct count count = count_begin();
    int fd = plug_device(rig, rig->nic, VFIO_PCI_MSIX_IRQ_INDEX, NIC_GSI);
    uint64_t host;
    unsigned n;

    for (unsigned i = 0; i < TIMES && count.arrived == i; i++)
        count_one(&count, nic_raise(rig, 0, true));
    (void)check_count(&count, "by hand, MSI-X to irqfd, the eventfd kept");
    close(fd);
    silence();
    host = count_host();
    n = nic_raise(rig, 0, false);
    check(n == 0 && count_host() > host, "by hand, the eventfd closed, nobody holds it: arrived %u", n);
    need(set_irqs(device_fd(rig->nic), VFIO_PCI_MSIX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, 0, -1) == 0,
        "MSI-X off");
}

void check_nic(struct rig *rig)
{
    struct count count;
    char name[16];

    if (!rig->nic) {
        skip("e1000e MSI-X", "there is no such device");
        return;
    }
    check_nic_by_hand(rig);
    /* One more at a time; those before go on. */
    count = count_begin();
    for (unsigned vector = 0; vector < NIC_VECTORS; vector++) {
        check(nic_link(rig, vector) == 0, "e1000e MSI-X vector %u is linked", vector);
        for (unsigned i = 0; i <= vector; i++)
            count_one(&count, nic_raise(rig, i, true));
    }
    (void)check_count(&count, "vectors added one at a time");
    /* And one less. */
    count = count_begin();
    for (unsigned vector = 0; vector < NIC_VECTORS; vector++) {
        unsigned n;

        (void)snprintf(name, sizeof(name), "nic%u", vector);
        (void)evlink_disconnect(rig->client, name);
        silence();
        n = nic_raise(rig, vector, false);
        check(n == 0, "vector %u is unlinked: raised 1, arrived %u", vector, n);
        for (unsigned i = vector + 1; i < NIC_VECTORS; i++)
            count_one(&count, nic_raise(rig, i, true));
    }
    count.more = 0; /* the counts of those that were taken are gone with them */
    (void)check_count(&count, "vectors taken one at a time, the others");

    check(nic_link_all(rig) == 0, "all %d vectors in one call", NIC_VECTORS);
    count = count_begin();
    for (unsigned i = 0; i < TIMES && count.arrived == i; i++)
        count_one(&count, nic_raise(rig, i % NIC_VECTORS, true));
    (void)check_count(&count, "e1000e MSI-X to KVM irqfds");
    check(evlink_disconnect_group(rig->client, "nic") == 0, "and all are unlinked in one");
}
