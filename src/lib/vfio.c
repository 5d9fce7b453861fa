/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ioctls on a VFIO PCI device: see vfio.h. */
#include "lib/vfio.h"
#include "base/cleanup.h"

#include <errno.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* The vectors that MSI-X can have, and so the most that are sized at once. */
#define VECTORS_MAX 2048

static int index_of(enum evlink_plug_kind kind)
{
    switch (kind) {
    case EVLINK_PLUG_INTX:
        return VFIO_PCI_INTX_IRQ_INDEX;
    case EVLINK_PLUG_MSI:
        return VFIO_PCI_MSI_IRQ_INDEX;
    case EVLINK_PLUG_MSIX:
        return VFIO_PCI_MSIX_IRQ_INDEX;
    case EVLINK_PLUG_ERR:
        return VFIO_PCI_ERR_IRQ_INDEX;
    case EVLINK_PLUG_REQ:
        return VFIO_PCI_REQ_IRQ_INDEX;
    default:
        return -1;
    }
}

/* The set of those of INTx, MSI and MSI-X that cannot be in use beside this kind; 0 for other kinds. */
static unsigned rivals(enum evlink_plug_kind kind)
{
    const unsigned all =
        EVL_VFIO_KIND(EVLINK_PLUG_INTX) | EVL_VFIO_KIND(EVLINK_PLUG_MSI) | EVL_VFIO_KIND(EVLINK_PLUG_MSIX);

    return all & EVL_VFIO_KIND(kind) ? all & ~EVL_VFIO_KIND(kind) : 0;
}

int evl_vfio_check(int device_fd)
{
    struct vfio_device_info info = { .argsz = sizeof(info) };

    if (ioctl(device_fd, VFIO_DEVICE_GET_INFO, &info) < 0)
        return -errno;
    return info.flags & VFIO_DEVICE_FLAGS_PCI ? 0 : -EOPNOTSUPP;
}

/* flags: an action and what the data is; data: count units of size bytes. What ioctl() returns, or -errno. */
static int set_irqs(
    int device_fd, int index, unsigned start, unsigned count, unsigned flags, const void *data, size_t size)
{
    CLEANUP(freep) struct vfio_irq_set *set = malloc(sizeof(*set) + count * size);
    int r;

    if (!set)
        return -ENOMEM;
    *set = (struct vfio_irq_set){
        .argsz = (unsigned)(sizeof(*set) + count * size),
        .flags = flags,
        .index = (unsigned)index,
        .start = start,
        .count = count,
    };
    if (size > 0)
        memcpy(set->data, data, count * size);
    r = ioctl(device_fd, VFIO_DEVICE_SET_IRQS, set);
    return r < 0 ? -errno : r;
}

/* Sets, or takes away (-1), the triggers from start on. */
static int set_triggers(int device_fd, int index, unsigned start, unsigned count, const int32_t *fds)
{
    return set_irqs(device_fd, index, start, count, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        fds, sizeof(*fds));
}

static int disable(int device_fd, int index)
{
    return set_irqs(device_fd, index, 0, 0, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, NULL, 0);
}

/* Whether it is enabled, with room for this vector: a trigger that is told not to. */
static bool is_enabled(int device_fd, int index, unsigned vector)
{
    const uint8_t no = 0;

    return set_irqs(device_fd, index, vector, 1, VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER, &no,
               sizeof(no)) == 0;
}

/* How many there are of a kind, and whether they can be added to later. -ENOENT: none. */
static int get_info(int device_fd, int index, struct vfio_irq_info *ret_info)
{
    struct vfio_irq_info info = { .argsz = sizeof(info), .index = (unsigned)index };

    /* EINVAL is what it says of a kind that this device cannot have. */
    if (ioctl(device_fd, VFIO_DEVICE_GET_IRQ_INFO, &info) < 0)
        return errno == EINVAL ? -ENOENT : -errno;
    if (info.count == 0)
        return -ENOENT;
    *ret_info = info;
    return 0;
}

/* Has the others make way, if one of them is enabled. */
static int make_way(int device_fd, enum evlink_plug_kind kind, unsigned idle)
{
    static const enum evlink_plug_kind kinds[] = { EVLINK_PLUG_INTX, EVLINK_PLUG_MSI, EVLINK_PLUG_MSIX };
    int r;

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        if (!(rivals(kind) & EVL_VFIO_KIND(kinds[i])) || !is_enabled(device_fd, index_of(kinds[i]), 0))
            continue;
        if (!(idle & EVL_VFIO_KIND(kinds[i])))
            return -EBUSY;
        r = disable(device_fd, index_of(kinds[i]));
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- INTx ---- */

static int plug_intx(int device_fd, const struct evl_vfio_range *range)
{
    const int index = VFIO_PCI_INTX_IRQ_INDEX;
    struct vfio_irq_info info;
    int r;

    r = get_info(device_fd, index, &info);
    if (r < 0)
        return r;
    /* One that is there is somebody else's: the kernel would put ours in its place. */
    if (is_enabled(device_fd, index, 0))
        return -EBUSY;
    r = set_triggers(device_fd, index, 0, 1, range->fds);
    if (r < 0 || range->unmask_fd < 0)
        return r;
    r = set_irqs(device_fd, index, 0, 1, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK,
        &range->unmask_fd, sizeof(int32_t));
    if (r < 0)
        (void)disable(device_fd, index);
    return r;
}

/* ---- MSI and MSI-X ---- */

/*
 * Enables vectors, none of which has a trigger yet: as many as the device has where none can be added later,
 * and as many as it takes where that is more than the host has.
 */
static int enable(int device_fd, int index, const struct vfio_irq_info *info, unsigned needed)
{
    unsigned n = info->flags & VFIO_IRQ_INFO_NORESIZE ? info->count : needed;
    int32_t none[VECTORS_MAX];
    int r;

    memset(none, -1, sizeof(none));
    n = n < VECTORS_MAX ? n : VECTORS_MAX;
    r = set_triggers(device_fd, index, 0, n, none);
    /* It tells how many it could have, if some. */
    if (r > 0 && (unsigned)r < n && (unsigned)r >= needed)
        r = set_triggers(device_fd, index, 0, (unsigned)r, none);
    else if (r != 0 && n > needed)
        r = set_triggers(device_fd, index, 0, needed, none);
    return r > 0 ? -ENOSPC : r;
}

static int plug_vectors(int device_fd, int index, const struct evl_vfio_range *range)
{
    struct vfio_irq_info info;
    unsigned end = range->start + range->n;
    int r;

    r = get_info(device_fd, index, &info);
    if (r < 0)
        return r;
    if (end > info.count)
        return -ENOENT;
    if (!is_enabled(device_fd, index, 0)) {
        r = enable(device_fd, index, &info, end);
        if (r < 0)
            return r;
    } else if (info.flags & VFIO_IRQ_INFO_NORESIZE && !is_enabled(device_fd, index, end - 1)) {
        return -ENOSPC;
    }
    r = set_triggers(device_fd, index, range->start, range->n, range->fds);
    return r > 0 ? -ENOSPC : r;
}

/* ---- All of them ---- */

int evl_vfio_plug(int device_fd, const struct evl_vfio_range *range, unsigned idle)
{
    int index = index_of(range->kind), r;
    struct vfio_irq_info info;

    if (index < 0 || range->n == 0 || range->n > EVL_VFIO_RANGE_MAX)
        return -EOPNOTSUPP;
    r = make_way(device_fd, range->kind, idle);
    if (r < 0)
        return r;
    if (range->kind == EVLINK_PLUG_INTX)
        return plug_intx(device_fd, range);
    if (range->kind == EVLINK_PLUG_MSI || range->kind == EVLINK_PLUG_MSIX)
        return plug_vectors(device_fd, index, range);
    r = get_info(device_fd, index, &info);
    return r < 0 ? r : set_triggers(device_fd, index, 0, 1, range->fds);
}

int evl_vfio_unplug(int device_fd, enum evlink_plug_kind kind, unsigned number)
{
    const int32_t none = -1;
    int index = index_of(kind), r;
    struct vfio_irq_info info;

    if (index < 0)
        return -EOPNOTSUPP;
    if (kind == EVLINK_PLUG_ERR || kind == EVLINK_PLUG_REQ) {
        r = get_info(device_fd, index, &info);
        return r == -ENOENT ? 0 : r < 0 ? r : set_triggers(device_fd, index, 0, 1, &none);
    }
    if (!is_enabled(device_fd, index, number))
        return 0;
    return kind == EVLINK_PLUG_INTX ? disable(device_fd, index)
                                    : set_triggers(device_fd, index, number, 1, &none);
}
