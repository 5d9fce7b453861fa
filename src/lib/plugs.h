/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an agent can plug into, and what it has plugged: its subsystems, the VMM's callbacks or the ioctls for
 * each, and the table that Inventory shows and Unplug goes by.
 *
 * What it keeps true: an entry is in the table exactly while its eventfd is plugged, or masked by the VMM;
 * the ioctls and the table change together, under one lock, so that evlink_agent_mask() of any thread sees
 * neither half. No lock is held while a callback of the VMM runs. It knows nothing of the wire.
 *
 * All but evl_plugs_mask() is for the one thread that serves the agent.
 */
#ifndef LIB_PLUGS_H
#define LIB_PLUGS_H

#include "endpoint/endpoint.h"
#include "lib/evlink.h"

#include <pthread.h>

struct evl_subsystem;
struct evl_entry;

struct evl_plugs {
    pthread_mutex_t lock;
    bool keep; /* EVLINK_AGENT_KEEP */
    struct evl_subsystem **subsystems;
    size_t n_subsystems;
    struct evl_entry **entries;
    size_t n_entries, size;
};

void evl_plugs_init(struct evl_plugs *plugs, bool keep);
/* Closes what was kept. What is plugged stays plugged. */
void evl_plugs_clear(struct evl_plugs *plugs);

/* evlink_agent_add_kvm(), evlink_agent_add_vfio(), evlink_agent_add_vhost(). */
int evl_plugs_add(struct evl_plugs *plugs, enum subsystem kind, const char *name, int fd,
    const struct evlink_agent_ops *ops, void *userdata);

/* The name and the kind of the subsystem at index, NULL behind the last. */
const char *evl_plugs_subsystem(const struct evl_plugs *plugs, size_t index, enum subsystem *ret_kind);

/* An eventfd and where it goes, as it came. */
struct evl_item {
    const char *endpoint;
    int64_t eventfd_id; /* -1: not known */
    int fd;             /* borrowed; -errno where it did not come */
    int resample_fd;    /* borrowed; -1 unless level */
};

/* In this order; those that follow each other at a device at once. errors[i]: 0 or -errno. */
void evl_plugs_plug(struct evl_plugs *plugs, const struct evl_item *items, size_t n, int *errors);
void evl_plugs_unplug(struct evl_plugs *plugs, const struct evl_item *items, size_t n, int *errors);

/* The entry at index, false behind the last. *ret_id is -1 where it is not known. */
bool evl_plugs_at(const struct evl_plugs *plugs, size_t index, const char **ret_endpoint, int64_t *ret_id);

void evl_plugs_notify(
    struct evl_plugs *plugs, const char *type, const char *endpoint, const char *link, const char *reason);

/* evlink_agent_mask() and evlink_agent_unmask(). */
int evl_plugs_mask(struct evl_plugs *plugs, const char *endpoint, bool mask);

#endif
