/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Eventfds held by name, and the references to their files. See model.h. */
#include "base/clock.h"
#include "base/fd.h"
#include "model/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int held_compare(const struct held *a, const struct held *b)
{
    return strcmp(a->name, b->name);
}

static int identity_compare(const struct identity *a, const struct identity *b)
{
    return (a->id > b->id) - (a->id < b->id);
}

RB_GENERATE(held_tree, held, by_name, held_compare)
RB_GENERATE(identity_tree, identity, by_id, identity_compare)

struct eventfd *eventfd_take(struct model *model, int fd)
{
    struct eventfd *eventfd = calloc(1, sizeof(*eventfd));

    if (eventfd) {
        eventfd->model = model;
        eventfd->fd = fd;
        eventfd->references = 1;
    }
    return eventfd;
}

struct eventfd *eventfd_ref(struct eventfd *eventfd)
{
    eventfd->references++;
    return eventfd;
}

/* Makes them safe, if there is somebody to keep them: all or none. */
int eventfd_keep(struct model *model, struct eventfd **eventfds, size_t n)
{
    return model->hooks->keep ? model->hooks->keep(model->userdata, eventfds, n) : 0;
}

/* end: whose debt it is going to be; NULL: it goes back into the counter, or on. */
int eventfd_drain_safely(const struct end *end, struct eventfd *eventfd, uint64_t *ret_count)
{
    struct model *model = eventfd->model;

    return eventfd->item ? model->hooks->drain(model->userdata, end, eventfd, ret_count)
                         : eventfd_drain(eventfd->fd, ret_count);
}

/* Without its descriptor. */
static void eventfd_forget(struct eventfd *eventfd)
{
    free(eventfd->identity);
    free(eventfd);
}

struct eventfd *eventfd_unref(struct eventfd *eventfd)
{
    if (eventfd && --eventfd->references == 0) {
        if (eventfd->item)
            eventfd->model->hooks->unkeep(eventfd->model->userdata, eventfd);
        else
            fd_close(eventfd->fd);
        eventfd_forget(eventfd);
    }
    return NULL;
}

/* Finds out what only fdinfo tells. The id stays what it is as long as we have the file. */
int eventfd_know(struct eventfd *eventfd)
{
    struct eventfd_info info;
    int r;

    if (eventfd->identity)
        return 0;
    r = eventfd_info(eventfd->fd, &info);
    if (r < 0)
        return r;
    eventfd->identity = calloc(1, sizeof(*eventfd->identity));
    if (!eventfd->identity)
        return -ENOMEM;
    eventfd->identity->id = info.id;
    eventfd->identity->semaphore = info.semaphore;
    return 0;
}

struct held *held_find(struct model *model, const char *name)
{
    struct held key = { .name = name };

    return RB_FIND(held_tree, &model->held, &key);
}

int model_may_hold(
    struct model *model, const struct peer *peer, const char *const *names, size_t n, struct fault *fault)
{
    for (size_t i = 0; i < n; i++) {
        if (!name_is_valid(names[i]))
            return fault_set(fault, FAULT_INVALID, NULL, NULL, "name", 0);
        if (held_find(model, names[i]))
            return fault_set(fault, FAULT_NAME_TAKEN, names[i], NULL, NULL, 0);
        if (!policy_is_in_scope(peer, names[i]))
            return fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
    }
    return 0;
}

/* One that is in no tree yet, and has no eventfd. NULL: out of memory. */
struct held *held_new(const char *name, enum lifetime lifetime)
{
    size_t size = strlen(name) + 1;
    struct held *held = calloc(1, sizeof(*held) + size);

    if (!held)
        return NULL;
    held->name = memcpy(held + 1, name, size);
    if (life_init(&held->life, lifetime, false) == 0)
        return held;
    free(held);
    return NULL;
}

/* In no tree any more, or not yet, and without its eventfd. */
void held_free(struct held *held)
{
    life_drop(&held->life);
    policy_disown(&held->owner);
    free(held);
}

/* From now on it is held. */
static void held_begin(struct model *model, struct held *held)
{
    struct site *site = site_find(model, SUBSYSTEM_NONE, held->name);

    saved_init(model, &held->saved, SAVED_HELD);
    model->counts.eventfds++;
    model_tell(model, NOTICE_HELD, held->name, NULL, NULL, &held->owner);
    if (site) {
        held->site = site;
        site->held = held;
        site_adopt(model, site);
        site_touch(model, site);
    }
}

/* Its descriptor stays the caller's. */
static void unhold(struct held *held)
{
    if (held && held->eventfd)
        eventfd_forget(held->eventfd);
    if (held)
        held_free(held);
}

int model_hold(struct model *model, const struct peer *peer, const char *const *names, int *fds, size_t n,
    const struct life_request *life, struct held **ret_held, struct fault *fault)
{
    struct eventfd *eventfds[HOLD_MOST];
    struct held *helds[HOLD_MOST];
    int64_t now = clock_epoch();
    size_t made;
    int r;

    if (n > HOLD_MOST)
        return fault_set(fault, FAULT_QUOTA_EXCEEDED, NULL, NULL, "eventfds in one call", HOLD_MOST);
    /* Whether they are taken shows when they are put where names are. */
    for (size_t i = 0; i < n; i++)
        if (!name_is_valid(names[i]))
            return fault_set(fault, FAULT_INVALID, NULL, NULL, "name", 0);
        else if (!policy_is_in_scope(peer, names[i]))
            return fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
    r = model_charge(model, peer, QUOTA_EVENTFDS, n, fault);
    if (r)
        return r;
    for (made = 0; made < n && r == 0; made++) {
        struct held *held = held_new(names[made], life->lifetime);

        if (held)
            held->eventfd = eventfd_take(model, fds[made]);
        if (!held || !held->eventfd)
            r = -ENOMEM;
        /* One that is held, or that the call gives twice. */
        else if (RB_INSERT(held_tree, &model->held, held))
            r = fault_set(fault, FAULT_NAME_TAKEN, names[made], NULL, NULL, 0);
        if (r) {
            unhold(held);
            break;
        }
        held->owner = policy_owner(peer);
        held->since = now;
        helds[made] = held;
        eventfds[made] = held->eventfd;
    }
    if (r == 0)
        r = eventfd_keep(model, eventfds, n);
    if (r) {
        while (made-- > 0) {
            RB_REMOVE(held_tree, &model->held, helds[made]);
            unhold(helds[made]);
        }
        model_refund(model, peer, QUOTA_EVENTFDS, n);
        return r;
    }
    for (size_t i = 0; i < n; i++) {
        fds[i] = -1;
        life_begin(model, &helds[i]->life, life);
        held_begin(model, helds[i]);
    }
    if (ret_held)
        *ret_held = helds[0];
    model_settle(model);
    return 0;
}

/* The held eventfd of that name, if peer has that right to it. */
static int get_held(struct model *model, const struct peer *peer, enum right right, const char *name,
    struct held **ret_held, struct fault *fault)
{
    struct held *held;

    if (!name_is_valid(name))
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "name", 0);
    held = held_find(model, name);
    if (!held)
        return fault_set(fault, FAULT_NO_SUCH_EVENTFD, name, NULL, NULL, 0);
    if (!model_may(model, peer, right, name, &held->owner))
        return fault_set(fault, FAULT_PERMISSION, name, NULL, NULL, 0);
    *ret_held = held;
    return 0;
}

/* The end that has a held eventfd, or waits for it. Others' ends of that name are for others' eventfds. */
static struct end *held_end(const struct held *held)
{
    struct end *end;

    if (held->site)
        RB_FOREACH (end, end_tree, &held->site->ends)
            if (policy_collects(&held->owner, end->uid))
                return end;
    return NULL;
}

/* The name in front of /eoi; NULL: it is another kind of name. */
static const char *eoi_name(const char *text, char name[static NAME_SIZE])
{
    size_t length = strlen(text);

    if (length < 5 || length - 4 > NAME_LENGTH_MAX || strcmp(text + length - 4, "/eoi") != 0)
        return NULL;
    memcpy(name, text, length - 4);
    name[length - 4] = '\0';
    return name;
}

int model_claim(struct model *model, const struct peer *peer, const char *name, struct held **ret_held,
    struct eventfd **ret_eventfd, struct fault *fault)
{
    char buffer[NAME_SIZE];
    const char *of = eoi_name(name, buffer);
    const struct end *end;
    struct held *held;
    int r;

    r = get_held(model, peer, RIGHT_CLAIM, of ? of : name, &held, fault);
    if (r)
        return r;
    end = held_end(held);
    if (of && (!end || !end->link->resample || !end->link->acknowledged))
        return fault_set(fault, FAULT_NO_SUCH_EVENTFD, name, NULL, NULL, 0);
    model_tell(model, NOTICE_CLAIMED, name, NULL, NULL, &held->owner);
    *ret_held = held;
    *ret_eventfd = of ? end->link->resample : held->eventfd;
    return 0;
}

const struct link *model_held_link(const struct peer *peer, const struct held *held)
{
    const struct end *end = held_end(held);

    return end && end->link->acknowledged &&
                   model_may(held->eventfd->model, peer, RIGHT_LIST, end->link->name, &end->link->owner)
               ? end->link
               : NULL;
}

/* The end of a held eventfd's lifetime: it leaves its link. */
void held_drop(struct model *model, struct held *held, enum notice why)
{
    struct end *end;

    life_end(model, &held->life);
    RB_REMOVE(held_tree, &model->held, held);
    model->counts.eventfds--;
    if (held->site) {
        end = held_end(held);
        held->site->held = NULL;
        if (end)
            end_retire(model, end, why == NOTICE_EXPIRED ? "its lease has run out" : "it was released");
    }
    model_tell(model, why, held->name, NULL, NULL, &held->owner);
    saved_end(model, &held->saved);
    model_refund(model, &held->owner, QUOTA_EVENTFDS, 1);
    eventfd_unref(held->eventfd);
    held_free(held);
}

void model_unhold(struct model *model, struct held *held)
{
    held_drop(model, held, NOTICE_RELEASED);
    model_settle(model);
}

bool model_is_awaited(struct model *model, const char *name)
{
    return site_find(model, SUBSYSTEM_NONE, name) != NULL;
}

int model_release(struct model *model, const struct peer *peer, const char *name, struct fault *fault)
{
    const struct link *link;
    struct held *held;
    int r;

    r = get_held(model, peer, RIGHT_RELEASE, name, &held, fault);
    if (r)
        return r;
    if (held_end(held)) {
        link = model_held_link(peer, held);
        return fault_set(fault, FAULT_IN_USE, name, link ? link->name : NULL, NULL, 0);
    }
    held_drop(model, held, NOTICE_RELEASED);
    return 0;
}

int model_renew(
    struct model *model, const struct peer *peer, const char *name, int64_t lease, struct fault *fault)
{
    struct held *held;
    int r;

    r = get_held(model, peer, RIGHT_RENEW, name, &held, fault);
    if (r)
        return r;
    if (held->life.lifetime != LIFETIME_LEASE)
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "name", 0);
    life_renew(model, &held->life, lease);
    saved_due(model, &held->saved);
    return 0;
}

int model_signal(
    struct model *model, const struct peer *peer, const char *name, int64_t count, struct fault *fault)
{
    struct held *held;
    int r;

    r = get_held(model, peer, RIGHT_SIGNAL, name, &held, fault);
    if (r)
        return r;
    if (count < 1)
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "count", 0);
    r = evaio_add(model->aio, held->eventfd->fd, (uint64_t)count);
    if (r == -EAGAIN)
        return fault_set(fault, FAULT_QUOTA_EXCEEDED, name, NULL, "counter", INT64_MAX);
    return r;
}

struct held *model_next_held(struct model *model, const char *name)
{
    struct held key = { .name = name }, *held;

    held = RB_NFIND(held_tree, &model->held, &key);
    return held && strcmp(held->name, name) == 0 ? RB_NEXT(held_tree, &model->held, held) : held;
}
