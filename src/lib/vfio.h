/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ioctls on a VFIO PCI device: VFIO_DEVICE_SET_IRQS for INTx, MSI, MSI-X, errors and requests. VFIO takes
 * them from any process that has the device's descriptor.
 *
 * What it keeps true: a device whose INTx, MSI or MSI-X is in use is never switched to another of them, and a
 * vector that is plugged is neither taken away nor disabled for a moment by what happens to others. So:
 *  - who is in use is asked of the kernel, by a trigger of nothing, since SET_IRQS on one that is not in use
 *    would enable it, even to take a vector away;
 *  - where vectors cannot be added later [VFIO_IRQ_INFO_NORESIZE: before Linux 6.5, and MSI], there is room
 *    for all from the first on;
 *  - what failed is known to have nothing plugged: VFIO tears down the vectors of the call up to the one that
 *    failed [KERNEL.md 20], so that a call names none that was plugged before.
 */
#ifndef LIB_VFIO_H
#define LIB_VFIO_H

#include "lib/evlink.h"

/* The most vectors of one plug: all that a device can have. */
#define EVL_VFIO_RANGE_MAX 256

/* Eventfds (borrowed) for one interrupt, or for several vectors of MSI or MSI-X that follow each other. */
struct evl_vfio_range {
    enum evlink_plug_kind kind;
    unsigned start;
    unsigned n;
    const int32_t *fds;
    int unmask_fd; /* INTx: what unmasks it, -1 for nobody */
};

/* A bit for each kind, for sets of them. */
#define EVL_VFIO_KIND(kind) (1u << (kind))

/* Whether device_fd is a VFIO PCI device: 0, -EOPNOTSUPP another VFIO device, -ENOTTY none, -EBADF. */
int evl_vfio_check(int device_fd);

/*
 * Plugs a range, all or nothing, where nothing is plugged. idle: the set of rivals that may be disabled since
 * nobody uses them. -EBUSY: another rival is enabled; -ENOENT: the device has no such interrupt; -ENOSPC: no
 * room for the vector, on the host or beside those that are in use; else -errno as the kernel has it.
 */
int evl_vfio_plug(int device_fd, const struct evl_vfio_range *range, unsigned idle);

/*
 * Takes one away, whatever eventfd is there. Unplugging what is not plugged is no error. MSI and MSI-X stay
 * enabled, since others, of another process maybe, may have vectors.
 */
int evl_vfio_unplug(int device_fd, enum evlink_plug_kind kind, unsigned number);

#endif
