/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * evlink-passthrough: passes a device's interrupts to a guest, through evlinkd. The device is QEMU's edu,
 * bound to vfio-pci, which interrupts when it is told to; the guest is a real one (guest.h). First its MSI
 * becomes an edge-triggered interrupt of the guest; then its INTx a level-triggered one, which the guest's
 * end of interrupt unmasks. Neither this process nor evlinkd is in the path: VFIO signals an eventfd that KVM
 * takes, and it is evlinkd that keeps the eventfd.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <evlink.h>

#include "device.h"
#include "guest.h"

#define EDU_RAISE 0x60 /* registers of the edu device: what is written is or-ed to what it wants served */
#define EDU_ACKNOWLEDGE 0x64

#define MSI_GSI 24 /* routed as a message, with this vector */
#define MSI_VECTOR 0x40
#define INTX_GSI 5 /* of the PIC */

#define TIMES 100
#define ARRIVAL_MS 1000

struct vmm {
    struct device *device;
    struct guest *guest;
    struct evlink_client *client;
    struct evlink_agent *agent;
};

static int complain(const struct vmm *vmm, const char *what, int r)
{
    const char *why = vmm->client ? evlink_client_message(vmm->client) : "";

    fprintf(stderr, "evlink-passthrough: %s: %s\n", what, r < 0 && !*why ? strerror(-r) : why);
    return r;
}

/* What the guest's driver does in its handler: an INTx stays up until the device is told. */
static void on_interrupt(void *userdata, unsigned gsi)
{
    struct vmm *vmm = userdata;

    if (gsi == INTX_GSI)
        device_write(vmm->device, EDU_ACKNOWLEDGE, ~0u);
}

/* All that a VMM does at start: both ends are its own, so that one agent has both. */
static int attach(struct vmm *vmm, const char *socket_path)
{
    int r;

    r = evlink_client_open(socket_path, &vmm->client);
    if (r != 0)
        return complain(vmm, "cannot reach evlinkd", r);
    r = evlink_agent_new("passthrough", 0, &vmm->agent);
    if (r == 0)
        r = evlink_agent_add_kvm(vmm->agent, "passthrough", guest_vm_fd(vmm->guest), NULL, NULL);
    if (r == 0)
        r = evlink_agent_add_vfio(vmm->agent, "edu", device_fd(vmm->device), NULL, NULL);
    if (r == 0)
        r = evlink_agent_attach(vmm->agent, vmm->client);
    if (r == 0)
        r = evlink_agent_start(vmm->agent);
    return r == 0 ? 0 : complain(vmm, "cannot attach", r);
}

/* Links one interrupt of the device to one of the guest, and unlinks it when they have been counted. */
static int pass(struct vmm *vmm, const char *producer, const char *consumer, unsigned gsi)
{
    const char *const producers[] = { producer, NULL }, *const consumers[] = { consumer, NULL };
    const struct evlink_link_spec link = {
        .name = "passthrough",
        .producers = producers,
        .consumers = consumers,
        .lifetime = EVLINK_CONNECTION,
        .no_wait = true,
    };
    uint64_t before = guest_interrupts(vmm->guest, gsi), now = before;
    int r;

    r = evlink_connect(vmm->client, &link, NULL);
    if (r != 0)
        return complain(vmm, producer, r);
    for (int i = 0; i < TIMES; i++) {
        device_write(vmm->device, EDU_RAISE, 1);
        now = guest_wait(vmm->guest, gsi, now + 1, ARRIVAL_MS);
        device_write(vmm->device, EDU_ACKNOWLEDGE, ~0u);
    }
    printf("%-16s to %-30s raised %d, arrived %d\n", producer, consumer, TIMES, (int)(now - before));
    r = evlink_disconnect(vmm->client, "passthrough");
    if (r != 0)
        return complain(vmm, "cannot disconnect", r);
    return now - before == TIMES ? 0 : -EIO;
}

static int run(struct vmm *vmm, const char *address, const char *socket_path)
{
    int r;

    r = device_open(address, &vmm->device);
    if (r < 0)
        return complain(vmm, address, r);
    r = guest_new(0, &vmm->guest);
    if (r < 0)
        return complain(vmm, "cannot start a guest", r);
    guest_on_interrupt(vmm->guest, on_interrupt, vmm);
    r = guest_route_msi(vmm->guest, MSI_GSI, MSI_VECTOR);
    if (r == 0)
        r = guest_set_level(vmm->guest, INTX_GSI, true);
    if (r < 0)
        return complain(vmm, "cannot set up the guest's interrupts", r);
    r = attach(vmm, socket_path);
    if (r == 0)
        r = pass(vmm, "vfio/edu/msi/0", "kvm/passthrough/gsi/24", MSI_GSI);
    /* A device has one of INTx, MSI and MSI-X at a time. */
    if (r == 0)
        r = pass(vmm, "vfio/edu/intx", "kvm/passthrough/gsi/5/level", INTX_GSI);
    return r;
}

int main(int argc, char **argv)
{
    struct vmm vmm = { 0 };
    int r;

    if (argc < 2 || argc > 3) {
        fputs("Usage: evlink-passthrough ADDRESS-OF-AN-EDU-DEVICE [SOCKET]\n", stderr);
        return EXIT_FAILURE;
    }
    r = run(&vmm, argv[1], argc > 2 ? argv[2] : NULL);
    if (vmm.agent && vmm.client)
        evlink_detach(vmm.client, "passthrough");
    evlink_client_free(vmm.client);
    evlink_agent_free(vmm.agent);
    guest_free(vmm.guest);
    device_free(vmm.device);
    return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
