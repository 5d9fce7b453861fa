/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ioctls on a vhost device: VHOST_SET_VRING_CALL, KICK and ERR. vhost takes them only in the address
 * space that called VHOST_SET_OWNER, and fails all else with EPERM.
 */
#ifndef LIB_VHOST_H
#define LIB_VHOST_H

#include "lib/evlink.h"

/* Whether device_fd is a vhost device: 0, -ENOTTY none, -EBADF. Whose it is does not show yet. */
int evl_vhost_check(int device_fd);

/* Plugs what is of a ring; -EOPNOTSUPP for all other kinds. -errno as the kernel has it: -ENOBUFS: no such
 * ring. */
int evl_vhost_plug(int device_fd, const struct evlink_plug *plug);

/* The reverse, whatever eventfd is there. Unplugging what is not plugged is no error. */
int evl_vhost_unplug(int device_fd, const struct evlink_plug *plug);

#endif
