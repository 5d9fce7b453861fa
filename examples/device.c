/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A PCI device by VFIO: see device.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device.h"

struct device {
    int container, group, fd;
    volatile uint32_t *bar;
    size_t size;
};

/* The number of the device's IOMMU group. */
static int find_group(const char *address)
{
    char path[128], target[256];
    const char *number;
    ssize_t n;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
    n = readlink(path, target, sizeof(target) - 1);
    if (n < 0)
        return -ENODEV;
    target[n] = '\0';
    number = strrchr(target, '/');
    return number ? atoi(number + 1) : -ENODEV;
}

static int open_group(struct device *device, const char *address)
{
    struct vfio_group_status status = { .argsz = sizeof(status) };
    char path[64];
    int group = find_group(address);

    if (group < 0)
        return group;
    device->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
    snprintf(path, sizeof(path), "/dev/vfio/%d", group);
    device->group = open(path, O_RDWR | O_CLOEXEC);
    if (device->container < 0 || device->group < 0 ||
        ioctl(device->group, VFIO_GROUP_GET_STATUS, &status) < 0)
        return -errno;
    if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
        return -EBUSY; /* another device of the group is not bound to vfio-pci */
    if (ioctl(device->group, VFIO_GROUP_SET_CONTAINER, &device->container) < 0 ||
        ioctl(device->container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU) < 0)
        return -errno;
    device->fd = ioctl(device->group, VFIO_GROUP_GET_DEVICE_FD, address);
    return device->fd < 0 ? -errno : 0;
}

static int become_master(const struct device *device)
{
    struct vfio_region_info config = { .argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX };
    uint16_t command;
    off_t at;

    if (ioctl(device->fd, VFIO_DEVICE_GET_REGION_INFO, &config) < 0)
        return -errno;
    at = (off_t)config.offset + PCI_COMMAND;
    if (pread(device->fd, &command, sizeof(command), at) != sizeof(command))
        return -EIO;
    command |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    return pwrite(device->fd, &command, sizeof(command), at) == sizeof(command) ? 0 : -EIO;
}

static int map_bar(struct device *device)
{
    struct vfio_region_info bar = { .argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX };
    void *mapped;

    if (ioctl(device->fd, VFIO_DEVICE_GET_REGION_INFO, &bar) < 0)
        return -errno;
    if (!(bar.flags & VFIO_REGION_INFO_FLAG_MMAP))
        return 0; /* it has none */
    mapped = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, device->fd, (off_t)bar.offset);
    if (mapped == MAP_FAILED)
        return -errno;
    device->bar = mapped;
    device->size = bar.size;
    return 0;
}

static struct device *device_new(void)
{
    struct device *device = calloc(1, sizeof(*device));

    if (device)
        device->container = device->group = device->fd = -1;
    return device;
}

int device_open(const char *address, struct device **ret_device)
{
    struct device *device = device_new();
    int r;

    if (!device)
        return -ENOMEM;
    r = open_group(device, address);
    if (r == 0 && ioctl(device->fd, VFIO_DEVICE_RESET) < 0 && errno != ENOTTY && errno != EINVAL)
        r = -errno;
    if (r == 0)
        r = become_master(device);
    if (r == 0)
        r = map_bar(device);
    if (r < 0)
        device_free(device);
    else
        *ret_device = device;
    return r;
}

int device_take(int fd, struct device **ret_device)
{
    struct device *device = device_new();
    int r;

    if (!device) {
        close(fd);
        return -ENOMEM;
    }
    device->fd = fd;
    r = map_bar(device);
    if (r < 0)
        device_free(device);
    else
        *ret_device = device;
    return r;
}

struct device *device_free(struct device *device)
{
    if (!device)
        return NULL;
    if (device->bar)
        munmap((void *)device->bar, device->size);
    if (device->fd >= 0)
        close(device->fd);
    if (device->group >= 0)
        close(device->group);
    if (device->container >= 0)
        close(device->container);
    free(device);
    return NULL;
}

int device_fd(const struct device *device)
{
    return device->fd;
}

uint32_t device_read(const struct device *device, uint32_t offset)
{
    return device->bar[offset / sizeof(uint32_t)];
}

void device_write(struct device *device, uint32_t offset, uint32_t value)
{
    device->bar[offset / sizeof(uint32_t)] = value;
}
