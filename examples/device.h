/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A PCI device by VFIO, for the example of passthrough and for tests: opened, reset, its first BAR mapped if
 * it is one of memory. It knows nothing of evlinkd: interrupts are set up by whoever has device_fd(). It maps
 * no guest memory for DMA.
 *
 * Those that return int return a negative errno on failure.
 */
#ifndef EXAMPLES_DEVICE_H
#define EXAMPLES_DEVICE_H

#include <stdint.h>

struct device;

/*
 * Opens a device that is bound to vfio-pci, by its address ("0000:00:05.0"), and makes it a bus master:
 * vfio-pci leaves that off, and an MSI is a write by the device. -ENODEV: there is none, or it has no IOMMU.
 */
int device_open(const char *address, struct device **ret_device);

/*
 * The same device in another process than the one that opened it, which has sent device_fd(). fd: consumed,
 * also on failure.
 */
int device_take(int fd, struct device **ret_device);

/* Takes NULL, returns NULL. */
struct device *device_free(struct device *device);

/* The device's descriptor: borrowed, valid until device_free(). */
int device_fd(const struct device *device);

/* The registers in its first BAR. */
uint32_t device_read(const struct device *device, uint32_t offset);
void device_write(struct device *device, uint32_t offset, uint32_t value);

#endif
