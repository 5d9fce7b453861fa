/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ioctls on a VM: KVM_IRQFD for GSIs, KVM_IOEVENTFD for ports and guest memory. KVM takes them only in
 * the address space that created the VM, and fails all else with EIO.
 */
#ifndef LIB_KVM_H
#define LIB_KVM_H

#include "lib/evlink.h"

/* Whether vm_fd is a VM of this process: 0, -EIO of another one, -ENOTTY none, -EBADF. */
int evl_kvm_check(int vm_fd);

/* Plugs what has a GSI or an address; -EOPNOTSUPP for all other kinds. -errno as the kernel has it. */
int evl_kvm_plug(int vm_fd, const struct evlink_plug *plug);

/*
 * The reverse: of the same eventfd, through whatever descriptor. Unplugging what is not plugged is no error.
 * After it, KVM has passed on everything that was signalled before; a counter that was plugged is 0.
 */
int evl_kvm_unplug(int vm_fd, const struct evlink_plug *plug);

#endif
