/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an agent can plug into, and what it has plugged: see plugs.h. */
#include "lib/plugs.h"
#include "base/cleanup.h"
#include "base/eventfd.h"
#include "base/fd.h"
#include "lib/kvm.h"
#include "lib/vfio.h"
#include "lib/vhost.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A VM or a device. */
struct evl_subsystem {
    enum subsystem kind;
    char name[NAME_SIZE];
    int fd; /* borrowed */
    struct evlink_agent_ops ops;
    void *userdata;
    unsigned ours; /* VFIO: the set of kinds that were plugged or unplugged here */
};

/* One plugged eventfd. plug points into the rest. */
struct evl_entry {
    struct evl_subsystem *subsystem;
    struct endpoint endpoint;
    char text[ENDPOINT_SIZE];
    struct evlink_plug plug; /* as resolved; its descriptors are valid during a call only */
    int64_t id;              /* the eventfd's; -1 where it is not known */
    int fd, resample_fd;     /* kept; -1 without EVLINK_AGENT_KEEP */
    bool masked;
};

void evl_plugs_init(struct evl_plugs *plugs, bool keep)
{
    *plugs = (struct evl_plugs){ .keep = keep };
    (void)pthread_mutex_init(&plugs->lock, NULL); /* cannot fail with default attributes */
}

static struct evl_entry *entry_free(struct evl_entry *entry)
{
    if (entry) {
        fd_close(entry->fd);
        fd_close(entry->resample_fd);
        free(entry);
    }
    return NULL;
}

DEFINE_CLEANUP(struct evl_entry *, entry_free)

void evl_plugs_clear(struct evl_plugs *plugs)
{
    for (size_t i = 0; i < plugs->n_entries; i++)
        entry_free(plugs->entries[i]);
    free(plugs->entries);
    for (size_t i = 0; i < plugs->n_subsystems; i++)
        free(plugs->subsystems[i]);
    free(plugs->subsystems);
    (void)pthread_mutex_destroy(&plugs->lock);
}

static struct evl_subsystem *find_subsystem(
    const struct evl_plugs *plugs, enum subsystem kind, const char *name)
{
    for (size_t i = 0; i < plugs->n_subsystems; i++)
        if (plugs->subsystems[i]->kind == kind && strcmp(plugs->subsystems[i]->name, name) == 0)
            return plugs->subsystems[i];
    return NULL;
}

const char *evl_plugs_subsystem(const struct evl_plugs *plugs, size_t index, enum subsystem *ret_kind)
{
    if (index >= plugs->n_subsystems)
        return NULL;
    *ret_kind = plugs->subsystems[index]->kind;
    return plugs->subsystems[index]->name;
}

static int check_fd(enum subsystem kind, int fd)
{
    switch (kind) {
    case SUBSYSTEM_KVM:
        return evl_kvm_check(fd);
    case SUBSYSTEM_VFIO:
        return evl_vfio_check(fd);
    case SUBSYSTEM_VHOST:
        return evl_vhost_check(fd);
    case SUBSYSTEM_NONE:
        break;
    }
    return -EINVAL;
}

int evl_plugs_add(struct evl_plugs *plugs, enum subsystem kind, const char *name, int fd,
    const struct evlink_agent_ops *ops, void *userdata)
{
    struct evl_subsystem *subsystem, **subsystems;
    int r;

    if (!name_is_valid(name))
        return -EINVAL;
    if (find_subsystem(plugs, kind, name))
        return -EEXIST;
    /* A VMM that runs all of its ioctls itself needs to show nobody its descriptor. */
    if (!ops || !ops->plug || !ops->unplug) {
        r = check_fd(kind, fd);
        if (r < 0)
            return r;
    }
    subsystems = reallocarray(plugs->subsystems, plugs->n_subsystems + 1, sizeof(struct evl_subsystem *));
    if (!subsystems)
        return -ENOMEM;
    plugs->subsystems = subsystems;
    subsystem = calloc(1, sizeof(*subsystem));
    if (!subsystem)
        return -ENOMEM;
    subsystem->kind = kind;
    strcpy(subsystem->name, name);
    subsystem->fd = fd;
    if (ops)
        subsystem->ops = *ops;
    subsystem->userdata = userdata;
    plugs->subsystems[plugs->n_subsystems++] = subsystem;
    return 0;
}

/* What a callback returned, as an errno that can be told to the broker. */
static int checked(int r)
{
    if (r > 0)
        return -EINVAL;
    return r < -4095 ? -EIO : r;
}

static bool is_ready_made(const struct evl_subsystem *subsystem, bool plug)
{
    return plug ? !subsystem->ops.plug : !subsystem->ops.unplug;
}

/* What the endpoint says, before anybody resolves it. */
static struct evlink_plug plug_from_endpoint(const struct evl_entry *entry)
{
    static const enum evlink_plug_kind kinds[] = {
        [ENDPOINT_GSI] = EVLINK_PLUG_GSI,
        [ENDPOINT_PIO] = EVLINK_PLUG_PIO,
        [ENDPOINT_MMIO] = EVLINK_PLUG_MMIO,
        [ENDPOINT_IRQ] = EVLINK_PLUG_IRQ,
        [ENDPOINT_NOTIFY] = EVLINK_PLUG_NOTIFY,
        [ENDPOINT_INTX] = EVLINK_PLUG_INTX,
        [ENDPOINT_MSI] = EVLINK_PLUG_MSI,
        [ENDPOINT_MSIX] = EVLINK_PLUG_MSIX,
        [ENDPOINT_ERR] = EVLINK_PLUG_ERR,
        [ENDPOINT_REQ] = EVLINK_PLUG_REQ,
        [ENDPOINT_CALL] = EVLINK_PLUG_CALL,
        [ENDPOINT_KICK] = EVLINK_PLUG_KICK,
        [ENDPOINT_VRING_ERR] = EVLINK_PLUG_VRING_ERR,
    };

    return (struct evlink_plug){
        .endpoint = entry->text,
        .subsystem = entry->subsystem->name,
        .device = endpoint_is_offered(&entry->endpoint) ? endpoint_device(&entry->endpoint) : NULL,
        .kind = kinds[entry->endpoint.kind],
        .level = endpoint_is_level(&entry->endpoint),
        .datamatch = entry->endpoint.datamatch,
        .length = entry->endpoint.length,
        .number = entry->endpoint.number,
        .value = entry->endpoint.value,
        .fd = -1,
        .resample_fd = -1,
    };
}

/* Has the VMM turn a device's interrupt or doorbell into a GSI or an address, where it wants to. */
static int resolve(struct evl_entry *entry, const struct evl_item *item)
{
    const struct evlink_agent_ops *ops = &entry->subsystem->ops;
    enum evlink_plug_kind kind = entry->plug.kind;
    struct evlink_plug answer;
    int r;

    if (!entry->plug.device || !ops->resolve)
        return 0;
    answer = entry->plug;
    answer.fd = item->fd;
    answer.resample_fd = item->resample_fd;
    r = checked(ops->resolve(entry->subsystem->userdata, &answer));
    if (r < 0)
        return r;
    if (kind == EVLINK_PLUG_IRQ) {
        if (answer.kind != EVLINK_PLUG_IRQ && answer.kind != EVLINK_PLUG_GSI)
            return -EINVAL;
    } else {
        if (answer.kind == EVLINK_PLUG_IRQ || answer.kind == EVLINK_PLUG_GSI)
            return -EINVAL;
        entry->plug.length = answer.length;
        entry->plug.datamatch = answer.datamatch;
        entry->plug.value = answer.value;
    }
    entry->plug.kind = answer.kind;
    entry->plug.number = answer.number;
    return 0;
}

/* An entry for the item, in no table yet. -EINVAL, -ENODEV, -ENOMEM. */
static int entry_new(const struct evl_plugs *plugs, const struct evl_item *item, struct evl_entry **ret_entry)
{
    CLEANUP(entry_freep) struct evl_entry *entry = NULL;
    struct eventfd_info info;
    const char *reason;

    entry = calloc(1, sizeof(*entry));
    if (!entry)
        return -ENOMEM;
    entry->fd = entry->resample_fd = -1;
    if (endpoint_parse(item->endpoint, &entry->endpoint, &reason) < 0)
        return -EINVAL;
    entry->subsystem =
        find_subsystem(plugs, endpoint_subsystem(&entry->endpoint), endpoint_name(&entry->endpoint));
    if (!entry->subsystem)
        return -ENODEV;
    endpoint_format(&entry->endpoint, entry->text);
    entry->plug = plug_from_endpoint(entry);
    entry->id = item->eventfd_id;
    /* Where there is no /proc, or it may not be opened, Inventory goes without. */
    if (entry->id == -1 && eventfd_info(item->fd, &info) == 0)
        entry->id = info.id;
    *ret_entry = TAKE(entry);
    return 0;
}

/*
 * What the table has of this endpoint and this eventfd. Where an eventfd cannot be told from others, the
 * first of the endpoint.
 */
static struct evl_entry **find(const struct evl_plugs *plugs, const struct evl_entry *like)
{
    struct evl_entry **found = NULL;

    for (size_t i = 0; i < plugs->n_entries; i++) {
        struct evl_entry **place = &plugs->entries[i];

        if (endpoint_compare(&(*place)->endpoint, &like->endpoint) != 0)
            continue;
        if ((*place)->id == like->id && like->id != -1)
            return place;
        if (!found && ((*place)->id == -1 || like->id == -1))
            found = place;
    }
    return found;
}

static bool is_masked(const struct evl_plugs *plugs, const struct evl_entry *like)
{
    for (size_t i = 0; i < plugs->n_entries; i++)
        if (plugs->entries[i]->masked && endpoint_compare(&plugs->entries[i]->endpoint, &like->endpoint) == 0)
            return true;
    return false;
}

/* The table has room, and the lock is held. From now on the plug is done with what is kept, if anything. */
static void put_in(struct evl_plugs *plugs, struct evl_entry *entry)
{
    entry->plug.fd = entry->fd;
    entry->plug.resample_fd = entry->resample_fd;
    plugs->entries[plugs->n_entries++] = entry;
}

/* ---- Plugged ---- */

/*
 * Whether another eventfd is plugged there. Where the kernel does not say so itself, it would put the new one
 * in the other's place, or take the other one away.
 */
static bool is_occupied(const struct evl_plugs *plugs, const struct evl_entry *like)
{
    if (like->subsystem->kind == SUBSYSTEM_KVM)
        return false;
    for (size_t i = 0; i < plugs->n_entries; i++)
        if (endpoint_compare(&plugs->entries[i]->endpoint, &like->endpoint) == 0)
            return true;
    return false;
}

static int plug_kvm(struct evl_plugs *plugs, struct evl_entry *entry)
{
    struct evl_entry **place;

    if (!is_masked(plugs, entry))
        return evl_kvm_plug(entry->subsystem->fd, &entry->plug);
    /* The VMM wants no interrupt there now: unmask will plug this one with the others of the GSI. */
    place = find(plugs, entry);
    if (place && (*place)->id == entry->id && entry->id != -1)
        return -EBUSY; /* what KVM says of an eventfd that is plugged twice */
    entry->masked = true;
    return 0;
}

/* Of the interrupts that a device has one of at a time, those that are enabled and that nobody uses. */
static unsigned find_idle(const struct evl_plugs *plugs, const struct evl_subsystem *subsystem)
{
    unsigned idle = subsystem->ours;

    for (size_t i = 0; i < plugs->n_entries; i++)
        if (plugs->entries[i]->subsystem == subsystem)
            idle &= ~EVL_VFIO_KIND(plugs->entries[i]->plug.kind);
    return idle;
}

/* n entries at one device, which follow each other. */
static int plug_vfio(struct evl_plugs *plugs, struct evl_entry *const *entries, size_t n)
{
    struct evl_subsystem *subsystem = entries[0]->subsystem;
    int32_t fds[EVL_VFIO_RANGE_MAX];
    const struct evl_vfio_range range = {
        .kind = entries[0]->plug.kind,
        .start = (unsigned)entries[0]->plug.number,
        .n = (unsigned)n,
        .fds = fds,
        .unmask_fd = entries[0]->plug.resample_fd,
    };
    int r;

    for (size_t i = 0; i < n; i++)
        fds[i] = entries[i]->plug.fd;
    r = evl_vfio_plug(subsystem->fd, &range, find_idle(plugs, subsystem));
    if (r == 0)
        subsystem->ours |= EVL_VFIO_KIND(range.kind);
    return r;
}

/* Runs the ioctl and has the table say so: for all or none. The lock is held, and the table has room. */
static int plug_ready_made(struct evl_plugs *plugs, struct evl_entry *const *entries, size_t n)
{
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++)
        if (is_occupied(plugs, entries[i]))
            r = -EBUSY;
    if (r == 0)
        switch (entries[0]->subsystem->kind) {
        case SUBSYSTEM_KVM:
            r = plug_kvm(plugs, entries[0]);
            break;
        case SUBSYSTEM_VFIO:
            r = plug_vfio(plugs, entries, n);
            break;
        case SUBSYSTEM_VHOST:
            r = evl_vhost_plug(entries[0]->subsystem->fd, &entries[0]->plug);
            break;
        case SUBSYSTEM_NONE:
            r = -EINVAL;
            break;
        }
    for (size_t i = 0; i < n && r == 0; i++)
        put_in(plugs, entries[i]);
    return r;
}

/* The table has room for one more than are on their way into it. The lock is held. */
static int grow(struct evl_plugs *plugs, size_t n)
{
    size_t larger = plugs->size ? plugs->size * 2 : 16;
    struct evl_entry **moved;

    if (plugs->n_entries + n < plugs->size)
        return 0;
    while (larger <= plugs->n_entries + n)
        larger *= 2;
    moved = reallocarray(plugs->entries, larger, sizeof(struct evl_entry *));
    if (!moved)
        return -ENOMEM;
    plugs->entries = moved;
    plugs->size = larger;
    return 0;
}

/*
 * An entry to be plugged, while n others are on their way. Everything that can fail on this side does so
 * before anything is plugged.
 */
static int prepare(
    struct evl_plugs *plugs, const struct evl_item *item, size_t n, struct evl_entry **ret_entry)
{
    CLEANUP(entry_freep) struct evl_entry *entry = NULL;
    int r;

    if (item->fd < 0)
        return item->fd;
    r = entry_new(plugs, item, &entry);
    if (r < 0)
        return r;
    if (entry->plug.level != (item->resample_fd >= 0))
        return -EINVAL;
    if (plugs->keep) {
        entry->fd = fd_dup(item->fd);
        if (entry->fd < 0)
            return entry->fd;
        if (entry->plug.level) {
            entry->resample_fd = fd_dup(item->resample_fd);
            if (entry->resample_fd < 0)
                return entry->resample_fd;
        }
    }
    (void)pthread_mutex_lock(&plugs->lock);
    r = grow(plugs, n);
    (void)pthread_mutex_unlock(&plugs->lock);
    if (r == 0)
        r = resolve(entry, item);
    if (r < 0)
        return r;
    entry->plug.fd = item->fd;
    entry->plug.resample_fd = item->resample_fd;
    *ret_entry = TAKE(entry);
    return 0;
}

/* Whether an item is for the vector behind that of an entry. */
static bool follows(const struct evl_entry *entry, const struct evl_item *item)
{
    struct endpoint next, parsed;
    const char *reason;

    if ((entry->plug.kind != EVLINK_PLUG_MSI && entry->plug.kind != EVLINK_PLUG_MSIX) ||
        !is_ready_made(entry->subsystem, true) || endpoint_parse(item->endpoint, &parsed, &reason) < 0)
        return false;
    next = entry->endpoint;
    next.number++;
    return endpoint_compare(&next, &parsed) == 0;
}

/* Plugs entries and has the table own them, or frees those that failed. */
static void plug_entries(struct evl_plugs *plugs, struct evl_entry **entries, size_t n, int *errors)
{
    struct evl_subsystem *subsystem = entries[0]->subsystem;
    int r;

    if (is_ready_made(subsystem, true)) {
        (void)pthread_mutex_lock(&plugs->lock);
        r = plug_ready_made(plugs, entries, n);
        for (size_t i = 0; i < n; i++)
            /* One of them was it, and nothing of the others is left: each by itself says which. */
            errors[i] = r < 0 && n > 1 ? plug_ready_made(plugs, &entries[i], 1) : r;
        (void)pthread_mutex_unlock(&plugs->lock);
    } else {
        errors[0] = checked(subsystem->ops.plug(subsystem->userdata, &entries[0]->plug));
        if (errors[0] == 0) {
            (void)pthread_mutex_lock(&plugs->lock);
            put_in(plugs, entries[0]);
            (void)pthread_mutex_unlock(&plugs->lock);
        }
    }
    for (size_t i = 0; i < n; i++)
        if (errors[i] < 0)
            entry_free(entries[i]);
}

void evl_plugs_plug(struct evl_plugs *plugs, const struct evl_item *items, size_t n, int *errors)
{
    struct evl_entry *entries[EVL_VFIO_RANGE_MAX];

    for (size_t i = 0, k; i < n; i += k) {
        errors[i] = prepare(plugs, &items[i], 0, &entries[0]);
        k = 1;
        if (errors[i] < 0)
            continue;
        while (i + k < n && k < ARRAY_SIZE(entries) && follows(entries[k - 1], &items[i + k]) &&
               prepare(plugs, &items[i + k], k, &entries[k]) == 0)
            k++;
        plug_entries(plugs, entries, k, &errors[i]);
    }
}

/* ---- Unplugged ---- */

/* Takes an entry out of the table. The lock is held. */
static void take_out(struct evl_plugs *plugs, struct evl_entry **place)
{
    *place = plugs->entries[--plugs->n_entries];
}

static int unplug_ready_made(
    struct evl_plugs *plugs, const struct evl_entry *entry, bool is_plugged, const struct evlink_plug *plug)
{
    struct evl_subsystem *subsystem = entry->subsystem;

    /* What was asked for is not there, and what is there was not asked for. */
    if (!is_plugged && is_occupied(plugs, entry))
        return 0;
    switch (subsystem->kind) {
    case SUBSYSTEM_KVM:
        /* Also where it is masked: an earlier agent may have plugged the same before. */
        return evl_kvm_unplug(subsystem->fd, plug);
    case SUBSYSTEM_VFIO:
        subsystem->ours |= EVL_VFIO_KIND(plug->kind);
        return evl_vfio_unplug(subsystem->fd, plug->kind, (unsigned)plug->number);
    case SUBSYSTEM_VHOST:
        return evl_vhost_unplug(subsystem->fd, plug);
    case SUBSYSTEM_NONE:
        break;
    }
    return -EINVAL;
}

static int unplug(struct evl_plugs *plugs, const struct evl_item *item)
{
    CLEANUP(entry_freep) struct evl_entry *asked = NULL;
    struct evl_entry **place, *entry;
    struct evlink_plug plug;
    int r;

    if (item->fd < 0)
        return item->fd;
    r = entry_new(plugs, item, &asked);
    if (r < 0)
        return r;
    place = find(plugs, asked);
    if (!place) {
        /* An agent before this one may have plugged it. Where its device is gone, so is the plug. */
        r = resolve(asked, item);
        if (r < 0)
            return r == -ENOENT || r == -ENODEV ? 0 : r;
    }
    entry = place ? *place : asked;
    plug = entry->plug;
    plug.fd = item->fd;
    plug.resample_fd = item->resample_fd;
    if (!is_ready_made(entry->subsystem, false)) {
        r = checked(entry->subsystem->ops.unplug(entry->subsystem->userdata, &plug));
        if (r < 0)
            return r;
        (void)pthread_mutex_lock(&plugs->lock);
    } else {
        (void)pthread_mutex_lock(&plugs->lock);
        r = unplug_ready_made(plugs, entry, place, &plug);
    }
    if (r == 0 && place)
        take_out(plugs, place);
    (void)pthread_mutex_unlock(&plugs->lock);
    if (r == 0 && place)
        entry_free(entry);
    return r;
}

void evl_plugs_unplug(struct evl_plugs *plugs, const struct evl_item *items, size_t n, int *errors)
{
    for (size_t i = 0; i < n; i++)
        errors[i] = unplug(plugs, &items[i]);
}

bool evl_plugs_at(const struct evl_plugs *plugs, size_t index, const char **ret_endpoint, int64_t *ret_id)
{
    if (index >= plugs->n_entries)
        return false;
    *ret_endpoint = plugs->entries[index]->text;
    *ret_id = plugs->entries[index]->id;
    return true;
}

void evl_plugs_notify(
    struct evl_plugs *plugs, const char *type, const char *endpoint, const char *link, const char *reason)
{
    const struct evl_subsystem *subsystem = NULL;
    struct endpoint parsed;
    const char *complaint;

    if (endpoint_parse(endpoint, &parsed, &complaint) == 0)
        subsystem = find_subsystem(plugs, endpoint_subsystem(&parsed), endpoint_name(&parsed));
    if (subsystem && subsystem->ops.notify)
        subsystem->ops.notify(subsystem->userdata, type, endpoint, link, reason);
}

int evl_plugs_mask(struct evl_plugs *plugs, const char *endpoint, bool mask)
{
    struct endpoint parsed;
    const char *complaint;
    int r = -ENOENT;

    if (!plugs->keep)
        return -EOPNOTSUPP;
    if (endpoint_parse(endpoint, &parsed, &complaint) < 0)
        return -EINVAL;
    (void)pthread_mutex_lock(&plugs->lock);
    for (size_t i = 0; i < plugs->n_entries; i++) {
        struct evl_entry *entry = plugs->entries[i];
        int one = 0;

        if (endpoint_compare(&entry->endpoint, &parsed) != 0)
            continue;
        if (entry->plug.kind != EVLINK_PLUG_GSI || !is_ready_made(entry->subsystem, true) ||
            !is_ready_made(entry->subsystem, false)) {
            r = -EOPNOTSUPP;
            break;
        }
        if (entry->masked != mask)
            one = mask ? evl_kvm_unplug(entry->subsystem->fd, &entry->plug)
                       : evl_kvm_plug(entry->subsystem->fd, &entry->plug);
        if (one == 0)
            entry->masked = mask;
        /* A GSI may have several: one that fails does not keep the others. */
        if (r == -ENOENT || one < 0)
            r = one;
    }
    (void)pthread_mutex_unlock(&plugs->lock);
    return r;
}
