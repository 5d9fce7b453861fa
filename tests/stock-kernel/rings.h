/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The two rings of a vhost device, and a buffer for each. A driver in guest a would have them in its memory;
 * here they are in ours, and the guest rings and is interrupted only.
 */
#ifndef TESTS_RINGS_H
#define TESTS_RINGS_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#define RING_SIZE 8

enum { RING_RX, RING_TX };

struct rings {
    struct {
        struct vring_desc desc[RING_SIZE];
        struct {
            uint16_t flags, idx, ring[RING_SIZE];
        } avail __attribute__((aligned(64)));
        struct {
            uint16_t flags, idx;
            struct vring_used_elem ring[RING_SIZE];
        } used __attribute__((aligned(64)));
    } ring[2] __attribute__((aligned(4096)));
    unsigned char buffer[2][4096];
};

/* Tells a vhost device that we own where they are. -errno. */
int rings_new(int vhost, struct rings **ret_rings);

/* Takes NULL, returns NULL. */
struct rings *rings_free(struct rings *rings);

/* Makes length bytes of a ring's buffer available to the device: to be filled, or to be sent. */
void rings_put(struct rings *rings, unsigned ring, uint32_t length);

/* Whether the device is done with all of them. */
bool rings_used(const struct rings *rings, unsigned ring);

#endif
