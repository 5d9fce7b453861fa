/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ioctls on a vhost device: see vhost.h. */
#include "lib/vhost.h"

#include <errno.h>
#include <linux/vhost.h>
#include <sys/ioctl.h>

int evl_vhost_check(int device_fd)
{
    uint64_t features;

    return ioctl(device_fd, VHOST_GET_FEATURES, &features) < 0 ? -errno : 0;
}

/* fd: -1 takes away what is there. */
static int set_vring(int device_fd, const struct evlink_plug *plug, int fd)
{
    struct vhost_vring_file file = { .index = (unsigned)plug->number, .fd = fd };
    unsigned long request;

    switch (plug->kind) {
    case EVLINK_PLUG_CALL:
        request = VHOST_SET_VRING_CALL;
        break;
    case EVLINK_PLUG_KICK:
        request = VHOST_SET_VRING_KICK;
        break;
    case EVLINK_PLUG_VRING_ERR:
        request = VHOST_SET_VRING_ERR;
        break;
    default:
        return -EOPNOTSUPP;
    }
    return ioctl(device_fd, request, &file) < 0 ? -errno : 0;
}

int evl_vhost_plug(int device_fd, const struct evlink_plug *plug)
{
    return set_vring(device_fd, plug, plug->fd);
}

int evl_vhost_unplug(int device_fd, const struct evlink_plug *plug)
{
    return set_vring(device_fd, plug, -1);
}
