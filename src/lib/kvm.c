/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ioctls on a VM: see kvm.h. */
#include "lib/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

int evl_kvm_check(int vm_fd)
{
    return ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_IRQFD) < 0 ? -errno : 0;
}

/* flags: 0 or KVM_IRQFD_FLAG_DEASSIGN. */
static int irqfd(int vm_fd, const struct evlink_plug *plug, unsigned flags)
{
    struct kvm_irqfd irqfd = {
        .fd = (unsigned)plug->fd,
        .gsi = (unsigned)plug->number,
        .flags = flags,
    };

    if (plug->number > UINT32_MAX)
        return -EINVAL;
    /* KVM finds what to deassign by eventfd and GSI alone. */
    if (plug->level && !flags) {
        irqfd.flags |= KVM_IRQFD_FLAG_RESAMPLE;
        irqfd.resamplefd = (unsigned)plug->resample_fd;
    }
    return ioctl(vm_fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

/* flags: 0 or KVM_IOEVENTFD_FLAG_DEASSIGN, which finds nothing unless all else is as it was at assign. */
static int ioeventfd(int vm_fd, const struct evlink_plug *plug, unsigned flags)
{
    struct kvm_ioeventfd ioeventfd = {
        .datamatch = plug->datamatch ? plug->value : 0,
        .addr = plug->number,
        .len = plug->length,
        .fd = plug->fd,
        .flags = flags,
    };

    if (plug->kind == EVLINK_PLUG_PIO)
        ioeventfd.flags |= KVM_IOEVENTFD_FLAG_PIO;
    if (plug->datamatch)
        ioeventfd.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
    return ioctl(vm_fd, KVM_IOEVENTFD, &ioeventfd) < 0 ? -errno : 0;
}

int evl_kvm_plug(int vm_fd, const struct evlink_plug *plug)
{
    switch (plug->kind) {
    case EVLINK_PLUG_GSI:
        return irqfd(vm_fd, plug, 0);
    case EVLINK_PLUG_PIO:
    case EVLINK_PLUG_MMIO:
        return ioeventfd(vm_fd, plug, 0);
    default:
        return -EOPNOTSUPP;
    }
}

int evl_kvm_unplug(int vm_fd, const struct evlink_plug *plug)
{
    int r;

    switch (plug->kind) {
    case EVLINK_PLUG_GSI:
        return irqfd(vm_fd, plug, KVM_IRQFD_FLAG_DEASSIGN);
    case EVLINK_PLUG_PIO:
    case EVLINK_PLUG_MMIO:
        r = ioeventfd(vm_fd, plug, KVM_IOEVENTFD_FLAG_DEASSIGN);
        return r == -ENOENT ? 0 : r;
    default:
        return -EOPNOTSUPP;
    }
}
