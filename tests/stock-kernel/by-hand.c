/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a VMM does where there is no evlinkd. Whether it keeps the eventfds is up to who calls. */
#include "rig.h"

#include <linux/kvm.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

int set_irqs(int fd, unsigned index, unsigned action, unsigned count, int32_t eventfd)
{
    union {
        struct vfio_irq_set set;
        unsigned char bytes[sizeof(struct vfio_irq_set) + sizeof(eventfd)];
    } irqs = { .set = { .argsz = sizeof(irqs),
                   .flags = action | (count ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE),
                   .index = index,
                   .count = count } };

    memcpy(irqs.bytes + offsetof(struct vfio_irq_set, data), &eventfd, sizeof(eventfd));
    return ioctl(fd, VFIO_DEVICE_SET_IRQS, &irqs);
}

int irqfd(struct rig *rig, unsigned gsi, int fd, int resample_fd)
{
    struct kvm_irqfd irqfd = {
        .fd = (unsigned)fd,
        .gsi = gsi,
        .flags = resample_fd >= 0 ? KVM_IRQFD_FLAG_RESAMPLE : 0,
        .resamplefd = resample_fd >= 0 ? (unsigned)resample_fd : 0,
    };

    return ioctl(guest_vm_fd(rig->guest), KVM_IRQFD, &irqfd);
}

int plug_device(struct rig *rig, struct device *device, unsigned index, unsigned gsi)
{
    int fd = eventfd(0, EFD_CLOEXEC);

    need(irqfd(rig, gsi, fd, -1) == 0 &&
             set_irqs(device_fd(device), index, VFIO_IRQ_SET_ACTION_TRIGGER, 1, fd) == 0,
        "a device's interrupt by hand");
    return fd;
}

int plug_ring(struct rig *rig, int vhost, unsigned long request, unsigned ring, unsigned gsi)
{
    struct vhost_vring_file file = { .index = ring, .fd = eventfd(0, EFD_CLOEXEC) };

    need(irqfd(rig, gsi, file.fd, -1) == 0 && ioctl(vhost, request, &file) == 0,
        "a ring's call or err by hand");
    return file.fd;
}

int plug_doorbell(struct rig *rig, uint64_t value)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    struct kvm_ioeventfd doorbell = {
        .datamatch = value,
        .addr = HAND_PORT,
        .len = 2,
        .fd = fd,
        .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH,
    };

    need(ioctl(guest_vm_fd(rig->guest), KVM_IOEVENTFD, &doorbell) == 0, "a doorbell by hand");
    return fd;
}
