/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an agent can plug into, and what it has plugged: see plugs.h. */
#include "lib/plugs.h"
#include "base/cleanup.h"
#include "base/eventfd.h"
#include "base/fd.h"
#include "endpoint/endpoint.h"
#include "lib/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct evl_vm {
    char name[NAME_SIZE];
    int fd; /* borrowed */
    struct evlink_agent_ops ops;
    void *userdata;
};

/* One plugged eventfd. plug points into the rest. */
struct evl_entry {
    const struct evl_vm *vm;
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
    for (size_t i = 0; i < plugs->n_vms; i++)
        free(plugs->vms[i]);
    free(plugs->vms);
    (void)pthread_mutex_destroy(&plugs->lock);
}

static const struct evl_vm *find_vm(const struct evl_plugs *plugs, const char *name)
{
    for (size_t i = 0; i < plugs->n_vms; i++)
        if (strcmp(plugs->vms[i]->name, name) == 0)
            return plugs->vms[i];
    return NULL;
}

const char *evl_plugs_vm(const struct evl_plugs *plugs, size_t index)
{
    return index < plugs->n_vms ? plugs->vms[index]->name : NULL;
}

int evl_plugs_add_kvm(
    struct evl_plugs *plugs, const char *name, int vm_fd, const struct evlink_agent_ops *ops, void *userdata)
{
    struct evl_vm *vm, **vms;
    int r;

    if (!name_is_valid(name))
        return -EINVAL;
    if (find_vm(plugs, name))
        return -EEXIST;
    /* A VMM that runs all of its ioctls itself needs to show nobody its descriptor. */
    if (!ops || !ops->plug || !ops->unplug) {
        r = evl_kvm_check(vm_fd);
        if (r < 0)
            return r;
    }
    vms = reallocarray(plugs->vms, plugs->n_vms + 1, sizeof(struct evl_vm *));
    if (!vms)
        return -ENOMEM;
    plugs->vms = vms;
    vm = calloc(1, sizeof(*vm));
    if (!vm)
        return -ENOMEM;
    strcpy(vm->name, name);
    vm->fd = vm_fd;
    if (ops)
        vm->ops = *ops;
    vm->userdata = userdata;
    plugs->vms[plugs->n_vms++] = vm;
    return 0;
}

/* What a callback returned, as an errno that can be told to the broker. */
static int checked(int r)
{
    if (r > 0)
        return -EINVAL;
    return r < -4095 ? -EIO : r;
}

static bool is_ready_made(const struct evl_vm *vm, bool plug)
{
    return plug ? !vm->ops.plug : !vm->ops.unplug;
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
    };

    return (struct evlink_plug){
        .endpoint = entry->text,
        .subsystem = entry->vm->name,
        .device = endpoint_is_offered(&entry->endpoint) ? entry->endpoint.device : NULL,
        .kind = kinds[entry->endpoint.kind],
        .level = entry->endpoint.level,
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
    const struct evlink_agent_ops *ops = &entry->vm->ops;
    enum evlink_plug_kind kind = entry->plug.kind;
    struct evlink_plug answer;
    int r;

    if (!entry->plug.device || !ops->resolve)
        return 0;
    answer = entry->plug;
    answer.fd = item->fd;
    answer.resample_fd = item->resample_fd;
    r = checked(ops->resolve(entry->vm->userdata, &answer));
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
    if (endpoint_subsystem(&entry->endpoint) == SUBSYSTEM_KVM)
        entry->vm = find_vm(plugs, entry->endpoint.name);
    if (!entry->vm)
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

/* Runs the ioctl and has the table say so. The lock is held, and the table has room. */
static int plug_ready_made(struct evl_plugs *plugs, struct evl_entry *entry)
{
    int r;

    /* The VMM wants no interrupt there now: unmask will plug this one with the others of the GSI. */
    if (is_masked(plugs, entry)) {
        struct evl_entry **place = find(plugs, entry);

        if (place && (*place)->id == entry->id && entry->id != -1)
            return -EBUSY; /* what KVM says of an eventfd that is plugged twice */
        entry->masked = true;
    } else {
        r = evl_kvm_plug(entry->vm->fd, &entry->plug);
        if (r < 0)
            return r;
    }
    put_in(plugs, entry);
    return 0;
}

static int grow(struct evl_plugs *plugs)
{
    size_t larger = plugs->size ? plugs->size * 2 : 16;
    struct evl_entry **moved;

    if (plugs->n_entries < plugs->size)
        return 0;
    moved = reallocarray(plugs->entries, larger, sizeof(struct evl_entry *));
    if (!moved)
        return -ENOMEM;
    plugs->entries = moved;
    plugs->size = larger;
    return 0;
}

/* Everything that can fail on this side does so before anything is plugged. */
static int prepare(struct evl_plugs *plugs, struct evl_entry *entry, const struct evl_item *item)
{
    int r;

    if (entry->endpoint.level != (item->resample_fd >= 0))
        return -EINVAL;
    if (plugs->keep) {
        entry->fd = fd_dup(item->fd);
        if (entry->fd < 0)
            return entry->fd;
        if (entry->endpoint.level) {
            entry->resample_fd = fd_dup(item->resample_fd);
            if (entry->resample_fd < 0)
                return entry->resample_fd;
        }
    }
    (void)pthread_mutex_lock(&plugs->lock);
    r = grow(plugs);
    (void)pthread_mutex_unlock(&plugs->lock);
    return r < 0 ? r : resolve(entry, item);
}

int evl_plugs_plug(struct evl_plugs *plugs, const struct evl_item *item)
{
    CLEANUP(entry_freep) struct evl_entry *entry = NULL;
    int r;

    r = entry_new(plugs, item, &entry);
    if (r == 0)
        r = prepare(plugs, entry, item);
    if (r < 0)
        return r;
    entry->plug.fd = item->fd;
    entry->plug.resample_fd = item->resample_fd;
    if (is_ready_made(entry->vm, true)) {
        (void)pthread_mutex_lock(&plugs->lock);
        r = plug_ready_made(plugs, entry);
        (void)pthread_mutex_unlock(&plugs->lock);
    } else {
        r = checked(entry->vm->ops.plug(entry->vm->userdata, &entry->plug));
        if (r == 0) {
            (void)pthread_mutex_lock(&plugs->lock);
            put_in(plugs, entry);
            (void)pthread_mutex_unlock(&plugs->lock);
        }
    }
    if (r < 0)
        return r;
    (void)TAKE(entry);
    return 0;
}

/* Takes an entry out of the table. The lock is held. */
static void take_out(struct evl_plugs *plugs, struct evl_entry **place)
{
    *place = plugs->entries[--plugs->n_entries];
}

int evl_plugs_unplug(struct evl_plugs *plugs, const struct evl_item *item)
{
    CLEANUP(entry_freep) struct evl_entry *asked = NULL;
    struct evl_entry **place, *entry;
    struct evlink_plug plug;
    int r;

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
    if (!is_ready_made(entry->vm, false)) {
        r = checked(entry->vm->ops.unplug(entry->vm->userdata, &plug));
        if (r < 0)
            return r;
        (void)pthread_mutex_lock(&plugs->lock);
    } else {
        (void)pthread_mutex_lock(&plugs->lock);
        /* Also where it is masked: an earlier agent may have plugged the same before. */
        r = evl_kvm_unplug(entry->vm->fd, &plug);
    }
    if (r == 0 && place)
        take_out(plugs, place);
    (void)pthread_mutex_unlock(&plugs->lock);
    if (r == 0 && place)
        entry_free(entry);
    return r;
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
    const struct evl_vm *vm = NULL;
    struct endpoint parsed;
    const char *complaint;

    if (endpoint_parse(endpoint, &parsed, &complaint) == 0 && endpoint_subsystem(&parsed) == SUBSYSTEM_KVM)
        vm = find_vm(plugs, parsed.name);
    if (vm && vm->ops.notify)
        vm->ops.notify(vm->userdata, type, endpoint, link, reason);
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
        if (entry->plug.kind != EVLINK_PLUG_GSI || !is_ready_made(entry->vm, true) ||
            !is_ready_made(entry->vm, false)) {
            r = -EOPNOTSUPP;
            break;
        }
        if (entry->masked != mask)
            one = mask ? evl_kvm_unplug(entry->vm->fd, &entry->plug)
                       : evl_kvm_plug(entry->vm->fd, &entry->plug);
        if (one == 0)
            entry->masked = mask;
        /* A GSI may have several: one that fails does not keep the others. */
        if (r == -ENOENT || one < 0)
            r = one;
    }
    (void)pthread_mutex_unlock(&plugs->lock);
    return r;
}
