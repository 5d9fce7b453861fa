/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The two rings of a vhost device: see rings.h. */
#include "rings.h"

#include <errno.h>
#include <linux/vhost.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static int tell_ring(int vhost, const struct rings *rings, unsigned i)
{
    struct vhost_vring_state size = { i, RING_SIZE }, base = { i, 0 };
    struct vhost_vring_addr address = {
        .index = i,
        .desc_user_addr = (uintptr_t)rings->ring[i].desc,
        .avail_user_addr = (uintptr_t)&rings->ring[i].avail,
        .used_user_addr = (uintptr_t)&rings->ring[i].used,
    };

    return ioctl(vhost, VHOST_SET_VRING_NUM, &size) < 0 || ioctl(vhost, VHOST_SET_VRING_BASE, &base) < 0 ||
                   ioctl(vhost, VHOST_SET_VRING_ADDR, &address) < 0
               ? -errno
               : 0;
}

int rings_new(int vhost, struct rings **ret_rings)
{
    struct vhost_memory_region region = { .memory_size = sizeof(struct rings) };
    union {
        struct vhost_memory memory;
        unsigned char bytes[sizeof(struct vhost_memory) + sizeof(region)];
    } table = { .memory = { .nregions = 1 } };
    struct rings *rings;
    int r;

    rings = mmap(NULL, sizeof(*rings), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (rings == MAP_FAILED)
        return -errno;
    region.guest_phys_addr = region.userspace_addr = (uintptr_t)rings;
    memcpy(table.bytes + offsetof(struct vhost_memory, regions), &region, sizeof(region));
    r = ioctl(vhost, VHOST_SET_MEM_TABLE, &table) < 0 ? -errno : 0;
    for (unsigned i = 0; i < 2 && r == 0; i++)
        r = tell_ring(vhost, rings, i);
    if (r < 0)
        rings_free(rings);
    else
        *ret_rings = rings;
    return r;
}

struct rings *rings_free(struct rings *rings)
{
    if (rings)
        (void)munmap(rings, sizeof(*rings));
    return NULL;
}

void rings_put(struct rings *rings, unsigned ring, uint32_t length)
{
    rings->ring[ring].desc[0] = (struct vring_desc){
        .addr = (uintptr_t)rings->buffer[ring],
        .len = length,
        .flags = ring == RING_RX ? VRING_DESC_F_WRITE : 0,
    };
    rings->ring[ring].avail.ring[rings->ring[ring].avail.idx % RING_SIZE] = 0;
    __atomic_store_n(&rings->ring[ring].avail.idx, rings->ring[ring].avail.idx + 1, __ATOMIC_RELEASE);
}

bool rings_used(const struct rings *rings, unsigned ring)
{
    return __atomic_load_n(&rings->ring[ring].used.idx, __ATOMIC_ACQUIRE) == rings->ring[ring].avail.idx;
}
