/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Links: made, found, taken down and freed. How they get there is step.c's. See model.h. */
#include "base/clock.h"
#include "base/fd.h"
#include "base/reserve.h"
#include "model/private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int link_compare(const struct link *a, const struct link *b)
{
    return strcmp(a->name, b->name);
}

/* A key without a link is searched for the first of those that are at its endpoint. */
static int end_compare(const struct end *a, const struct end *b)
{
    int c = endpoint_compare(&a->endpoint, &b->endpoint);

    if (c == 0 && !a->link)
        return -1;
    return c ? c : ((uintptr_t)a > (uintptr_t)b) - ((uintptr_t)a < (uintptr_t)b);
}

RB_GENERATE(link_tree, link, by_name, link_compare)
RB_GENERATE(end_tree, end, by_endpoint, end_compare)

struct link *link_find(struct model *model, const char *name)
{
    struct link key = { .name = (char *)name };

    return RB_FIND(link_tree, &model->links, &key);
}

/* ---- Eventfds
 * ----------------------------------------------------------------------------------------------- */

/* The link that has this eventfd, by whatever name or descriptor. NULL: none. */
struct link *eventfd_user(struct model *model, const struct eventfd *eventfd)
{
    struct identity *identity = eventfd->identity;

    if (!identity || identity->link)
        return identity ? identity->link : NULL;
    if (identity->id >= 0)
        identity = RB_FIND(identity_tree, &model->linked, identity);
    return identity ? identity->link : NULL;
}

/* It is known: see eventfd_know(). */
void eventfd_join(struct model *model, struct eventfd *eventfd, struct link *link)
{
    eventfd->identity->link = link;
    if (eventfd->identity->id >= 0)
        RB_INSERT(identity_tree, &model->linked, eventfd->identity);
}

/* Harmless for one that is in no link, or in another one by now. */
void eventfd_leave(struct model *model, struct link *link, struct eventfd *eventfd)
{
    struct end *end;

    if (!eventfd || !eventfd->identity || eventfd->identity->link != link)
        return;
    if (eventfd->identity->id >= 0)
        RB_REMOVE(identity_tree, &model->linked, eventfd->identity);
    eventfd->identity->link = NULL;
    LIST_FOREACH (end, &model->stuck, in_stuck)
        if (end->contends)
            link_touch(model, end->link);
}

/* A new one of the broker's own. -EMFILE, -ENFILE, -ENOMEM, or what keeping it says. */
int eventfd_make(struct model *model, struct eventfd **ret_eventfd)
{
    int fd = eventfd_create(false), r;
    struct eventfd *eventfd;

    if (fd < 0)
        return fd;
    eventfd = eventfd_take(model, fd);
    if (!eventfd) {
        fd_close(fd);
        return -ENOMEM;
    }
    eventfd->ours = true;
    r = eventfd_know(eventfd);
    if (r == 0)
        r = eventfd_keep(model, &eventfd, 1);
    if (r < 0)
        eventfd_unref(eventfd);
    else
        *ret_eventfd = eventfd;
    return r;
}

/* Why a held eventfd cannot be an end's, and, direct, its link's own; NULL: it can. */
const char *eventfd_unfit(const struct eventfd *eventfd, const struct end *end)
{
    const struct link *link = end->link;

    if (!eventfd->identity || !eventfd->identity->semaphore)
        return NULL;
    if (link->relayed)
        return end->producer ? "is a semaphore, which gives a relay one signal at a time" : NULL;
    for (size_t i = 0; i < link->n_ends; i++)
        if (endpoint_is_irqfd(&link->ends[i]->endpoint))
            return "is a semaphore, which cannot signal an irqfd";
    return NULL;
}

/* ---- Ends
 * --------------------------------------------------------------------------------------------------- */

bool end_is_eventfd(const struct end *end)
{
    return end->endpoint.kind == ENDPOINT_EVENTFD;
}

/* eventfd: referenced anew; NULL: none. */
void end_set_eventfd(struct end *end, struct eventfd *eventfd)
{
    struct eventfd *old = end->eventfd;

    end->eventfd = eventfd ? eventfd_ref(eventfd) : NULL;
    eventfd_unref(old);
}

/* Whether it is in the list of those that wait for something that nobody tells of, and for what. */
void end_set_stuck(struct model *model, struct end *end, bool contends, bool retried)
{
    if ((end->contends || end->retried) && !(contends || retried))
        LIST_REMOVE(end, in_stuck);
    else if (!(end->contends || end->retried) && (contends || retried))
        LIST_INSERT_HEAD(&model->stuck, end, in_stuck);
    model->n_retried += retried;
    model->n_retried -= end->retried;
    end->contends = contends;
    end->retried = retried;
}

/* Where memory is out, the reason is not told. */
void end_set_reason(struct end *end, const char *reason)
{
    free(end->reason);
    end->reason = reason ? reserve_strdup(reason) : NULL;
}

/* A new end, the last of a link's. In no site yet. NULL: out of memory. */
struct end *end_new(struct link *link, const struct endpoint *endpoint, bool producer, uid_t uid)
{
    struct end **ends = reallocarray(link->ends, link->n_ends + 1, sizeof(*ends));
    struct end *end = ends ? calloc(1, offsetof(struct end, endpoint) + endpoint_size(endpoint)) : NULL;

    if (ends)
        link->ends = ends;
    if (!end)
        return NULL;
    end->link = link;
    endpoint_copy(&end->endpoint, endpoint);
    end->producer = producer;
    end->uid = uid;
    link->ends[link->n_ends++] = end;
    return end;
}

/* Has those looked at that an end was, or is, in the way of. */
void end_touch_collisions(struct model *model, struct end *end)
{
    struct end *other = NULL;

    while ((other = end_next_collision(end, other)))
        if (other->link != end->link && !link_is_gone(other->link))
            link_touch(model, other->link);
}

static void leave_site(struct model *model, struct end *end)
{
    struct site *site = end->site;

    if (!site)
        return;
    end_touch_collisions(model, end);
    RB_REMOVE(end_tree, &site->ends, end);
    end->site = NULL;
    site_put(model, site);
}

static bool link_has(const struct link *link, const struct eventfd *eventfd)
{
    bool has = link->eventfd == eventfd;

    for (size_t i = 0; i < link->n_ends; i++)
        has |= link->ends[i]->eventfd == eventfd;
    return has;
}

static void end_free(struct model *model, struct end *end)
{
    end_set_stuck(model, end, false, false);
    agent_queue(end, OP_NONE);
    end_set_agent(end, NULL);
    leave_site(model, end);
    end_set_eventfd(end, NULL);
    free(end->reason);
    free(end);
}

/* Takes an end out of its link and frees it. */
void end_remove(struct model *model, struct end *end)
{
    struct link *link = end->link;
    size_t i = 0;

    while (link->ends[i] != end)
        i++;
    link->n_ends--;
    memmove(&link->ends[i], &link->ends[i + 1], (link->n_ends - i) * sizeof(struct end *));
    if (end->eventfd && !link_has(link, end->eventfd))
        eventfd_leave(model, link, end->eventfd);
    end_free(model, end);
}

/* ---- The end of a link
 * -------------------------------------------------------------------------------------- */

void link_free(struct model *model, struct link *link)
{
    while (link->n_ends > 0)
        end_remove(model, link->ends[link->n_ends - 1]);
    eventfd_leave(model, link, link->eventfd);
    eventfd_unref(link->eventfd);
    eventfd_leave(model, link, link->resample);
    eventfd_unref(link->resample);
    /* Last: leaving an eventfd touches those who contended for it, of whom it may have been one. */
    if (link->touched)
        TAILQ_REMOVE(&model->touched, link, in_touched);
    saved_end(model, &link->saved);
    model_refund(model, &link->owner, QUOTA_LINKS, link->charged);
    policy_disown(&link->owner);
    model->n_recovering -= link->recovering;
    for (char **label = link->labels; label && *label; label++)
        free(*label);
    free(link->labels);
    life_drop(&link->life);
    free(link->name);
    free(link->group);
    free(link->ends);
    free(link);
}

/* A link that is down leaves all names; it is freed as soon as none of its ends is dirty. */
void link_dispose(struct model *model, struct link *link)
{
    if (link->named)
        RB_REMOVE(link_tree, &model->links, link);
    link->named = false;
    life_end(model, &link->life);
    if (link->relayed)
        model->hooks->relay(model->userdata, link, true);
    for (size_t i = 0; i < link->n_ends; i++)
        if (end_is_eventfd(link->ends[i]))
            leave_site(model, link->ends[i]);
    if (link->acknowledged) {
        model->counts.links--;
        model_tell_link(model, NOTICE_DISCONNECTED, link, NULL);
    }
    link_touch(model, link);
}

/* Takes a link down, whoever wants it. A call that still waits for it fails. */
void link_down(struct model *model, struct link *link, const char *reason)
{
    if (link->goal == GOAL_DOWN)
        return;
    link->goal = GOAL_DOWN;
    for (size_t i = 0; i < link->n_ends; i++)
        if (!link->ends[i]->reason)
            end_set_reason(link->ends[i], reason);
    if (link->job && link->job->kind != JOB_LEAVE)
        job_fail(model, link->job, FAULT_WRONG_STATE, link->name, NULL, "disconnecting", 0);
    link_touch(model, link);
}

/* Whether a link only waits for its dirty ends. */
bool link_is_gone(const struct link *link)
{
    return !link->named && link->goal == GOAL_DOWN;
}

void model_forwarded(struct link *link, uint64_t count)
{
    link->forwarded += count;
}

/* ---- Connect ----------------------------------------------------------------------------------------------
 */

/* A link's name where peer may know it. */
static const char *told_name(const struct model *model, const struct peer *peer, const struct link *link)
{
    return link->acknowledged && link->named && model_may(model, peer, RIGHT_LIST, link->name, &link->owner)
               ? link->name
               : NULL;
}

/* What a link's labels may take, and how many there may be: short ones take much more than their bytes. */
#define LABEL_BYTES_MAX 8192
#define LABELS_MAX 256

/* The most ends of one link: a step of it looks at each end for each. */
#define ENDS_MAX 1024

static int check_name(
    struct model *model, const struct peer *peer, const struct link_request *request, struct fault *fault)
{
    size_t labels = 0;

    if (request->name && !name_is_valid(request->name))
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "name", 0);
    if (request->group && !name_is_valid(request->group))
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "group", 0);
    if (request->n_producers == 0 || request->n_consumers == 0)
        return fault_set(
            fault, FAULT_INVALID, NULL, NULL, request->n_producers ? "consumers" : "producers", 0);
    if (request->name && link_find(model, request->name))
        return fault_set(fault, FAULT_NAME_TAKEN, request->name, NULL, NULL, 0);
    if ((request->name && !policy_is_in_scope(peer, request->name)) ||
        (request->group && !policy_is_in_scope(peer, request->group)))
        return fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
    for (size_t i = 0; i < 2 * request->n_labels; i++)
        labels += strlen(request->labels[i]);
    if (labels > LABEL_BYTES_MAX)
        return fault_set(
            fault, FAULT_QUOTA_EXCEEDED, NULL, NULL, "bytes of labels in one link", LABEL_BYTES_MAX);
    if (request->n_labels > LABELS_MAX)
        return fault_set(fault, FAULT_QUOTA_EXCEEDED, NULL, NULL, "labels in one link", LABELS_MAX);
    if (request->n_producers + request->n_consumers > ENDS_MAX)
        return fault_set(fault, FAULT_QUOTA_EXCEEDED, NULL, NULL, "ends in one link", ENDS_MAX);
    return 0;
}

static int copy_strings(struct link *link, const struct link_request *request)
{
    if (request->name && !(link->name = strdup(request->name)))
        return -ENOMEM;
    if (request->group && !(link->group = strdup(request->group)))
        return -ENOMEM;
    if (request->n_labels == 0)
        return 0;
    link->labels = calloc(2 * request->n_labels + 1, sizeof(char *));
    for (size_t i = 0; link->labels && i < 2 * request->n_labels; i++)
        if (!(link->labels[i] = strdup(request->labels[i])))
            return -ENOMEM;
    return link->labels ? 0 : -ENOMEM;
}

/* What is wrong with an endpoint by itself, in its place in a link. NULL: nothing. */
const char *end_complaint(const struct endpoint *endpoint, bool producer)
{
    if (endpoint->kind == ENDPOINT_EOI)
        return "is made by its level link and cannot be named";
    if (producer && !endpoint_is_producer(endpoint))
        return "is not a producer";
    if (!producer && !endpoint_is_consumer(endpoint))
        return "is not a consumer";
    return NULL;
}

/* Parses the ends of a request into a link. What is wrong with them is told, but not before permissions are.
 */
static int make_link(
    const struct peer *peer, const struct link_request *request, struct link **ret_link, struct fault *fault)
{
    size_t n = request->n_producers + request->n_consumers, n_eventfds = 0;
    struct link *link = calloc(1, sizeof(*link));

    if (!link)
        return -ENOMEM;
    *ret_link = link;
    link->owner = policy_owner(peer);
    link->since = clock_epoch();
    link->busy = true;
    if (copy_strings(link, request) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        bool producer = i < request->n_producers;
        const char *text = producer ? request->producers[i] : request->consumers[i - request->n_producers];
        struct endpoint endpoint = { 0 };
        const char *reason;

        if (endpoint_parse(text, &endpoint, &reason) >= 0)
            reason = end_complaint(&endpoint, producer);
        if (!reason && endpoint_is_level(&endpoint) && n > 2)
            reason = "is level-triggered: such a link has one producer and one consumer";
        /* Producers come first. What is masked until an EOI would never come again without one. */
        if (!reason && !producer && !endpoint.level && link->ends[0]->endpoint.kind == ENDPOINT_INTX)
            reason = "is not level-triggered, as the interrupt of an INTx has to be";
        if (reason && !fault->code)
            (void)fault_set(fault, FAULT_BAD_ENDPOINT, text, NULL, reason, 0);
        if (!end_new(link, &endpoint, producer, peer->uid))
            return -ENOMEM;
        n_eventfds += endpoint.kind == ENDPOINT_EVENTFD;
    }
    link->relayed = request->n_consumers > 1 || n_eventfds > 1;
    return 0;
}

/* What is there at the far side has an owner: does peer have a right to it? */
static bool end_may_use(struct model *model, const struct peer *peer, struct end *end)
{
    const struct site *site;
    const struct held *held;
    char text[ENDPOINT_SIZE];

    if (!endpoint_name(&end->endpoint)[0])
        return true; /* it did not parse: nobody's */
    endpoint_format(&end->endpoint, text);
    /* What is not there yet as well. */
    if (!policy_is_in_scope(peer, text))
        return false;
    if (end_is_eventfd(end)) {
        held = held_find(model, endpoint_name(&end->endpoint));
        if (held)
            end->uid = held->owner.uid;
        return !held || model_may(model, peer, RIGHT_CONNECT, text, &held->owner);
    }
    site = site_find(model, endpoint_subsystem(&end->endpoint), endpoint_name(&end->endpoint));
    if (!site || !site->agent)
        return true;
    /* Whoever may use it now may have it back from its owner's next agent. */
    end->uid = site->agent->owner.uid;
    return model_may(model, peer, RIGHT_CONNECT, text, &site->agent->owner);
}

static bool is_absent(struct model *model, const struct end *end)
{
    const struct site *site;

    if (end_is_eventfd(end))
        return !held_find(model, endpoint_name(&end->endpoint));
    site = site_find(model, endpoint_subsystem(&end->endpoint), endpoint_name(&end->endpoint));
    return !site || !site_owner(site, &end->endpoint);
}

/* The same for a GSI: whatever is there with the other trigger, and none of those, maybe thousands, that
 * share it. */
static struct end *next_gsi_collision(const struct end *end, struct end *last)
{
    struct end key = { .link = NULL }, *next;

    endpoint_copy(&key.endpoint, &end->endpoint);
    key.endpoint.level = !key.endpoint.level;
    next = last ? RB_NEXT(end_tree, &end->site->ends, last) : RB_NFIND(end_tree, &end->site->ends, &key);
    while (next && next->uid != end->uid && endpoint_compare(&next->endpoint, &key.endpoint) == 0)
        next = RB_NEXT(end_tree, &end->site->ends, next);
    return next && endpoint_compare(&next->endpoint, &key.endpoint) == 0 ? next : NULL;
}

/*
 * The ends in its site that an end collides with, one after the other; last: NULL for the first. They are
 * next to each other in the tree: see endpoint_compare(). What is meant for another user's agent is never
 * plugged at the same one.
 */
struct end *end_next_collision(const struct end *end, struct end *last)
{
    struct end *other = last ? last : (struct end *)end, *next;
    const struct endpoint *endpoint = &end->endpoint;
    bool back = !last || end_compare(last, end) < 0;

    if (endpoint->kind == ENDPOINT_GSI)
        return next_gsi_collision(end, last);
    for (;; other = next) {
        next = back ? RB_PREV(end_tree, &end->site->ends, other) : RB_NEXT(end_tree, &end->site->ends, other);
        if (!next || next->endpoint.kind != endpoint->kind || next->endpoint.number != endpoint->number ||
            strcmp(endpoint_device(&next->endpoint), endpoint_device(endpoint)) != 0) {
            if (!back)
                return NULL;
            back = false;
            next = (struct end *)end;
            continue;
        }
        if (next->uid == end->uid && endpoint_collides(&next->endpoint, endpoint))
            return next;
    }
}

/* Puts an end in its site, unless something is there that it collides with, or its held eventfd has another
 * link. */
static int end_place(
    struct model *model, const struct peer *peer, struct job *job, struct end *end, struct fault *fault)
{
    struct eventfd *eventfd;
    struct end *other = NULL;
    char text[ENDPOINT_SIZE];
    const char *unfit;
    struct link *user;
    int r;

    r = site_get(model, endpoint_subsystem(&end->endpoint), endpoint_name(&end->endpoint), &end->site);
    if (r < 0)
        return r;
    RB_INSERT(end_tree, &end->site->ends, end);
    endpoint_format(&end->endpoint, text);
    while ((other = end_next_collision(end, other))) {
        /* The end that moves away, and what is left of a link and can still be unplugged, is not in the way.
         */
        if (other == end->link->from || end_gives_way(other))
            continue;
        if (other->link->job == job && job->kind == JOB_CONNECT)
            return fault_set(fault, FAULT_BAD_ENDPOINT, text, NULL, "collides with another of this call", 0);
        return fault_set(fault, FAULT_ENDPOINT_BUSY, text, told_name(model, peer, other->link), NULL, 0);
    }
    if (!end->site->held)
        return 0;
    eventfd = end->site->held->eventfd;
    r = eventfd_know(eventfd);
    if (r < 0)
        return r;
    unfit = eventfd_unfit(eventfd, end);
    if (unfit)
        return fault_set(fault, FAULT_BAD_ENDPOINT, text, NULL, unfit, 0);
    user = eventfd_user(model, eventfd);
    if (user)
        return fault_set(fault, FAULT_ENDPOINT_BUSY, text, told_name(model, peer, user), NULL, 0);
    eventfd_join(model, eventfd, end->link);
    end_set_eventfd(end, eventfd);
    if (!end->link->relayed)
        end->link->eventfd = eventfd_ref(eventfd);
    return 0;
}

/* A new eventfd for a link: for one end, or (NULL) for all that share. */
int link_make_eventfd(struct model *model, struct link *link, struct end *end)
{
    struct eventfd *eventfd;
    int r;

    r = eventfd_make(model, &eventfd);
    if (r < 0)
        return r;
    eventfd_join(model, eventfd, link);
    if (end)
        end_set_eventfd(end, eventfd);
    else
        link->eventfd = eventfd_ref(eventfd);
    eventfd_unref(eventfd);
    return 0;
}

/*
 * Gives a link the eventfds that are not held ones: direct, one for all; relayed, one for all such producers,
 * and one for each such consumer [KVM: an eventfd has one irqfd].
 */
static int make_eventfds(struct model *model, struct link *link)
{
    bool shares = false, has_held = false;
    int r;

    for (size_t i = 0; i < link->n_ends; i++) {
        const struct end *end = link->ends[i];

        if (end->endpoint.level) {
            r = eventfd_make(model, &link->resample);
            if (r < 0)
                return r;
            eventfd_join(model, link->resample, link);
        }
        has_held |= end_is_eventfd(end);
        shares |= end->producer && !end_is_eventfd(end);
        if (!link->relayed || end->producer || end_is_eventfd(end))
            continue;
        r = link_make_eventfd(model, link, link->ends[i]);
        if (r < 0)
            return r;
    }
    return (link->relayed ? shares : !has_held) ? link_make_eventfd(model, link, NULL) : 0;
}

/* Charges a link to peer, its owner, until it is freed. */
int link_charge(struct model *model, const struct peer *peer, struct link *link, struct fault *fault)
{
    size_t n = 0;
    int r;

    for (size_t i = 0; i < link->n_ends; i++)
        n += !link->ends[i]->producer;
    r = model_charge(model, peer, QUOTA_LINKS, n, fault);
    if (r == 0)
        link->charged = n;
    return r;
}

/* Gives a link its place among all others. */
static int place_link(struct model *model, const struct peer *peer, struct link *link, struct fault *fault)
{
    int r;

    for (size_t i = 0; i < link->n_ends; i++) {
        r = end_place(model, peer, link->job, link->ends[i], fault);
        if (r)
            return r;
    }
    r = link_charge(model, peer, link, fault);
    return r ? r : make_eventfds(model, link);
}

/* Makes up a name for a link, and gives it. */
static int name_link(struct model *model, struct link *link)
{
    const char *scope = peer_scope(&link->owner);
    char name[NAME_SIZE];

    do
        (void)snprintf(name, sizeof(name), "%.*s%slink-%" PRIu64, SCOPE_LENGTH_MAX, scope,
            scope[0] ? "." : "", ++model->next_link);
    while (link_find(model, name));
    link->name = strdup(name);
    if (!link->name)
        return -ENOMEM;
    RB_INSERT(link_tree, &model->links, link);
    link->named = true;
    return 0;
}

/* The last thing that can fail. */
static int finish_link(struct model *model, struct link *link, enum lifetime lifetime)
{
    int r = link->named ? 0 : name_link(model, link);

    return r < 0 ? r : life_init(&link->life, lifetime, true);
}

/* Everything that can be said before an agent is asked, in the order of the contract's fine print. */
static int prepare(struct model *model, const struct peer *peer, const struct link_request *requests,
    size_t n, bool wait, enum lifetime lifetime, struct job *job, struct fault *fault)
{
    struct fault bad = { 0 };
    char text[ENDPOINT_SIZE];
    struct link *link;
    int r;

    for (size_t i = 0; i < n; i++) {
        r = check_name(model, peer, &requests[i], fault);
        if (r)
            return r;
    }
    for (size_t i = 0; i < n; i++) {
        link = NULL;
        r = make_link(peer, &requests[i], &link, &bad);
        if (link)
            job_add(job, link);
        if (r < 0)
            return r;
        if (!requests[i].name)
            continue;
        if (RB_INSERT(link_tree, &model->links, link))
            return fault_set(fault, FAULT_NAME_TAKEN, requests[i].name, NULL, NULL, 0);
        link->named = true;
    }
    TAILQ_FOREACH (link, &job->links, in_job)
        for (size_t i = 0; i < link->n_ends; i++)
            if (!end_may_use(model, peer, link->ends[i]))
                return fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
    if (bad.code) {
        *fault = bad;
        return (int)bad.code;
    }
    TAILQ_FOREACH (link, &job->links, in_job) {
        r = place_link(model, peer, link, &bad);
        if (r < 0 || r == FAULT_BAD_ENDPOINT) {
            *fault = bad;
            return r;
        }
        for (size_t i = 0; i < link->n_ends && !wait; i++)
            if (is_absent(model, link->ends[i]))
                return fault_set(fault, FAULT_NOT_ATTACHED, endpoint_format(&link->ends[i]->endpoint, text),
                    NULL, NULL, 0);
        if (r > 0) {
            *fault = bad;
            return r;
        }
        r = finish_link(model, link, lifetime);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A Connect that cannot be leaves nothing behind. */
static void unprepare(struct model *model, struct job *job)
{
    struct link *link;

    while ((link = TAILQ_FIRST(&job->links))) {
        TAILQ_REMOVE(&job->links, link, in_job);
        if (link->named)
            RB_REMOVE(link_tree, &model->links, link);
        link_free(model, link);
    }
    free(job);
    /* Links that its ends were in the way of have been touched. */
    model_settle(model);
}

static void begin_link(struct model *model, struct link *link, const struct life_request *life)
{
    life_begin(model, &link->life, life);
    saved_init(model, &link->saved, SAVED_LINK);
    link_touch(model, link);
}

int model_connect(struct model *model, const struct peer *peer, const struct link_request *requests, size_t n,
    bool wait, const struct life_request *life, job_done done, void *userdata, struct job **ret_job,
    struct fault *fault)
{
    struct job *job = job_new(JOB_CONNECT, done, userdata);
    struct link *link;
    int r;

    if (!job)
        return -ENOMEM;
    r = prepare(model, peer, requests, n, wait, life->lifetime, job, fault);
    if (r) {
        unprepare(model, job);
        return r;
    }
    *ret_job = job;
    TAILQ_FOREACH (link, &job->links, in_job)
        begin_link(model, link, life);
    model_settle(model);
    return 0;
}

int model_establish(struct model *model, const struct peer *owner, const struct link_request *request,
    uint64_t mark, struct fault *fault)
{
    const struct life_request life = { .lifetime = LIFETIME_PERSISTENT };
    struct job *job = job_new(JOB_CONNECT, NULL, NULL);
    struct link *link;
    int r;

    if (!job)
        return -ENOMEM;
    r = prepare(model, owner, request, 1, true, life.lifetime, job, fault);
    if (r) {
        unprepare(model, job);
        return r;
    }
    link = TAILQ_FIRST(&job->links);
    link->configured = mark;
    begin_link(model, link, &life);
    /* It is acknowledged before anything is asked: nothing can fail it any more. */
    job_finish(model, job);
    model_settle(model);
    return 0;
}

struct link *model_find_link(struct model *model, const char *name)
{
    return link_find(model, name);
}

/* ---- Verbs on links that are there
 * -------------------------------------------------------------------------- */

/* What a link is, for WrongState. NULL: nothing is in the way of a change. */
static const char *busy_with(const struct link *link)
{
    static const char *const doing[] = {
        [JOB_CONNECT] = "connecting",
        [JOB_DISCONNECT] = "disconnecting",
        [JOB_PARK] = "parking",
        [JOB_RESUME] = "resuming",
        [JOB_MOVE] = "moving",
        [JOB_LEAVE] = "leaving",
    };

    if (link->goal == GOAL_DOWN)
        return doing[JOB_DISCONNECT];
    return link->job ? doing[link->job->kind] : NULL;
}

/* A link that peer has that right to, by name. */
static int get_link(struct model *model, const struct peer *peer, enum right right, const char *name,
    struct link **ret_link, struct fault *fault)
{
    struct link *link;

    if (!name_is_valid(name))
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "name", 0);
    link = link_find(model, name);
    if (!link || !link->acknowledged)
        return fault_set(fault, FAULT_NO_SUCH_LINK, name, NULL, NULL, 0);
    if (!model_may(model, peer, right, name, &link->owner))
        return fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
    *ret_link = link;
    return 0;
}

/* Whether a verb changes anything for a link, which is otherwise passed over in a group. */
static bool is_for(const struct link *link, enum job_kind kind)
{
    if (kind == JOB_PARK)
        return link->goal == GOAL_UP;
    return kind == JOB_RESUME ? link->goal == GOAL_PARKED : link->goal != GOAL_DOWN;
}

/* Adds a link to a job. Another call that is at work on it fails: it is disconnected. */
static void take_over(struct model *model, struct job *job, struct link *link)
{
    if (link->job) {
        job_fail(model, link->job, FAULT_WRONG_STATE, link->name, NULL, "disconnecting", 0);
        job_remove(model, link);
    }
    job_add(job, link);
}

/* The most links that one call answers with. */
#define ANSWER_MAX 1024

/* Takes back a job that has changed nothing. */
static void forget(struct job *job)
{
    struct link *link;

    while ((link = TAILQ_FIRST(&job->links))) {
        TAILQ_REMOVE(&job->links, link, in_job);
        link->job = NULL;
    }
    free(job);
}

/* Begins a verb on a link or on those of a group that the caller may use: a job of them, not touched yet. */
static int begin(struct model *model, const struct peer *peer, enum job_kind kind, const char *name,
    const char *group, job_done done, void *userdata, struct job **ret_job, struct fault *fault)
{
    enum right right = kind == JOB_PARK ? RIGHT_PARK : kind == JOB_RESUME ? RIGHT_RESUME : RIGHT_DISCONNECT;
    struct link *link = NULL;
    struct job *job;
    bool any = false;
    int r;

    if (!name == !group)
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "name", 0);
    if (group && !name_is_valid(group))
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "group", 0);
    if (name) {
        r = get_link(model, peer, right, name, &link, fault);
        if (r)
            return r;
        /* Disconnect does not wait for others' calls: they fail. */
        if ((busy_with(link) && (kind != JOB_DISCONNECT || link->goal == GOAL_DOWN)) || !is_for(link, kind))
            return fault_set(fault, FAULT_WRONG_STATE, name, NULL,
                busy_with(link)             ? busy_with(link)
                : link->goal == GOAL_PARKED ? "parked"
                                            : link_state_name(link),
                0);
    }
    job = job_new(kind, done, userdata);
    if (!job)
        return -ENOMEM;
    *ret_job = job;
    if (link) {
        take_over(model, job, link);
        return 0;
    }
    RB_FOREACH (link, link_tree, &model->links) {
        if (!link->acknowledged || !link->group || strcmp(link->group, group) != 0 ||
            !model_may(model, peer, right, link->name, &link->owner))
            continue;
        any = true;
        if ((!busy_with(link) || kind == JOB_DISCONNECT) && is_for(link, kind))
            take_over(model, job, link);
    }
    if (any && (kind == JOB_DISCONNECT || job->n_links <= ANSWER_MAX))
        return 0;
    forget(job);
    return any ? fault_set(fault, FAULT_QUOTA_EXCEEDED, NULL, NULL, "links in one call", ANSWER_MAX)
               : fault_set(fault, FAULT_NO_SUCH_LINK, group, NULL, NULL, 0);
}

/* Gives all links of a job a goal, and gets on with it. */
static int pursue(struct model *model, struct job *job, enum link_goal goal)
{
    struct link *link;

    TAILQ_FOREACH (link, &job->links, in_job) {
        if (goal == GOAL_DOWN)
            for (size_t i = 0; i < link->n_ends; i++)
                end_set_reason(link->ends[i], "disconnected");
        link->goal = goal;
        for (size_t i = 0; i < link->n_ends; i++)
            link->ends[i]->refused = false;
        link_touch(model, link);
    }
    if (job->n_links == 0)
        job_finish(model, job);
    model_settle(model);
    return 0;
}

int model_disconnect(struct model *model, const struct peer *peer, const char *name, const char *group,
    job_done done, void *userdata, struct job **ret_job, struct fault *fault)
{
    int r = begin(model, peer, JOB_DISCONNECT, name, group, done, userdata, ret_job, fault);

    return r ? r : pursue(model, *ret_job, GOAL_DOWN);
}

int model_park(struct model *model, const struct peer *peer, const char *name, const char *group,
    job_done done, void *userdata, struct job **ret_job, struct fault *fault)
{
    int r = begin(model, peer, JOB_PARK, name, group, done, userdata, ret_job, fault);

    return r ? r : pursue(model, *ret_job, GOAL_PARKED);
}

int model_resume(struct model *model, const struct peer *peer, const char *name, const char *group,
    job_done done, void *userdata, struct job **ret_job, struct fault *fault)
{
    int r = begin(model, peer, JOB_RESUME, name, group, done, userdata, ret_job, fault);

    return r ? r : pursue(model, *ret_job, GOAL_UP);
}

static struct end *find_end(struct link *link, const struct endpoint *endpoint)
{
    for (size_t i = 0; i < link->n_ends; i++)
        if (!link->ends[i]->retiring && endpoint_compare(&link->ends[i]->endpoint, endpoint) == 0)
            return link->ends[i];
    return NULL;
}

/* What is wrong with a Move from one endpoint to another. NULL: nothing. */
static const char *move_complaint(const struct end *from, const struct endpoint *to)
{
    const char *complaint = end_complaint(to, from->producer);

    if (complaint)
        return complaint;
    if (to->kind == ENDPOINT_EVENTFD)
        return "is a held eventfd: such ends do not move";
    if (endpoint_is_level(to) != endpoint_is_level(&from->endpoint))
        return "has another trigger: edge and level stay what they are";
    return NULL;
}

/*
 * Whether a level link moves from one user's VM to another's with a resample eventfd that cannot be replaced:
 * where the producer is an eventfd/, it may have been claimed as NAME/eoi.
 */
static bool keeps_resample(const struct end *from, const struct end *to)
{
    if (!from->endpoint.level || from->uid == from->link->owner.uid || from->uid == to->uid)
        return false;
    for (size_t i = 0; i < from->link->n_ends; i++)
        if (end_is_eventfd(from->link->ends[i]))
            return true;
    return false;
}

/* Adds the new end of a Move to its link. */
static int add_end(struct model *model, const struct peer *peer, struct job *job, struct end *from,
    const struct endpoint *endpoint, struct fault *fault)
{
    struct link *link = from->link;
    struct end *to = end_new(link, endpoint, from->producer, link->owner.uid);
    char text[ENDPOINT_SIZE];
    int r;

    if (!to)
        return -ENOMEM;
    link->from = from;
    link->to = to;
    if (!end_may_use(model, peer, to))
        r = fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
    else if (keeps_resample(from, to))
        r = fault_set(fault, FAULT_BAD_ENDPOINT, endpoint_format(endpoint, text), NULL,
            "is another user's: whoever has the old one would go on having NAME/eoi", 0);
    else
        r = end_place(model, peer, job, to, fault);
    if (r) {
        link->from = link->to = NULL;
        end_remove(model, to);
        return r;
    }
    end_set_eventfd(to, from->eventfd);
    /* Who had it plugged may signal it for ever: where that was somebody else, the link goes on with another.
     */
    if (from->uid != link->owner.uid && from->eventfd && from->eventfd->ours)
        link->renew = from->eventfd;
    return 0;
}

int model_move(struct model *model, const struct peer *peer, const char *name, const char *from,
    const char *to, job_done done, void *userdata, struct job **ret_job, struct fault *fault)
{
    struct endpoint old, new;
    struct end *end;
    struct link *link;
    struct job *job;
    const char *reason;
    int r;

    r = get_link(model, peer, RIGHT_MOVE, name, &link, fault);
    if (r)
        return r;
    if (endpoint_parse(from, &old, &reason) < 0)
        return fault_set(fault, FAULT_BAD_ENDPOINT, from, NULL, reason, 0);
    end = find_end(link, &old);
    if (!end || old.kind == ENDPOINT_EVENTFD)
        return fault_set(fault, FAULT_BAD_ENDPOINT, from, NULL,
            end ? "is a held eventfd: such ends do not move" : "is no end of this link", 0);
    if (endpoint_parse(to, &new, &reason) >= 0)
        reason = move_complaint(end, &new);
    if (reason)
        return fault_set(fault, FAULT_BAD_ENDPOINT, to, NULL, reason, 0);
    if (busy_with(link))
        return fault_set(fault, FAULT_WRONG_STATE, name, NULL, busy_with(link), 0);
    if (endpoint_compare(&old, &new) == 0)
        return fault_set(fault, FAULT_BAD_ENDPOINT, to, NULL, "is where the end is already", 0);
    job = job_new(JOB_MOVE, done, userdata);
    if (!job)
        return -ENOMEM;
    job_add(job, link);
    r = add_end(model, peer, job, end, &new, fault);
    if (r) {
        link->job = NULL;
        free(job);
        return r;
    }
    *ret_job = job;
    link_touch(model, link);
    model_settle(model);
    return 0;
}

int model_leave(struct model *model, const struct peer *peer, const char *text, const char *reason,
    job_done done, void *userdata, struct job **ret_job, struct fault *fault)
{
    struct endpoint endpoint;
    const char *complaint;
    struct site *site;
    struct link *link;
    struct job *job;
    struct end *end;
    const struct link *busy = NULL;
    char canonical[ENDPOINT_SIZE];
    bool any = false;

    if (endpoint_parse(text, &endpoint, &complaint) < 0)
        return fault_set(fault, FAULT_BAD_ENDPOINT, text, NULL, complaint, 0);
    endpoint_format(&endpoint, canonical);
    job = job_new(JOB_LEAVE, done, userdata);
    if (!job)
        return -ENOMEM;
    site = site_find(model, endpoint_subsystem(&endpoint), endpoint_name(&endpoint));
    if (site)
        RB_FOREACH (end, end_tree, &site->ends) {
            if (!end->link->acknowledged || end->link->goal == GOAL_DOWN || end->retiring ||
                endpoint_compare(&end->endpoint, &endpoint) != 0)
                continue;
            if (end->link->job == job)
                continue; /* it is there twice */
            any = true;
            if (!model_may(model, peer, RIGHT_LEAVE, canonical, &end->link->owner) &&
                !model_may(model, peer, RIGHT_LEAVE, end->link->name, &end->link->owner))
                continue;
            if (end->link->job)
                busy = end->link;
            else
                job_add(job, end->link);
        }
    if (busy) {
        forget(job);
        return fault_set(fault, FAULT_WRONG_STATE, told_name(model, peer, busy) ? busy->name : canonical,
            NULL, busy_with(busy), 0);
    }
    if (job->n_links == 0) {
        free(job);
        return any ? fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0)
                   : fault_set(fault, FAULT_NO_SUCH_LINK, text, NULL, NULL, 0);
    }
    *ret_job = job;
    TAILQ_FOREACH (link, &job->links, in_job)
        while ((end = find_end(link, &endpoint)))
            end_retire(model, end, reason);
    model_settle(model);
    return 0;
}

struct link *model_next_link(struct model *model, const char *name)
{
    struct link key = { .name = (char *)name }, *link;

    link = RB_NFIND(link_tree, &model->links, &key);
    while (link && (!link->acknowledged || strcmp(link->name, name) == 0))
        link = RB_NEXT(link_tree, &model->links, link);
    return link;
}

struct link *model_next_member(struct model *model, const char *group, const struct link *last)
{
    struct link *link =
        last ? RB_NEXT(link_tree, &model->links, (struct link *)last) : RB_MIN(link_tree, &model->links);

    while (link && (!link->acknowledged || !link->group || strcmp(link->group, group) != 0))
        link = RB_NEXT(link_tree, &model->links, link);
    return link;
}

int model_renew_link(
    struct model *model, const struct peer *peer, const char *name, int64_t lease, struct fault *fault)
{
    struct link *link;
    int r;

    r = get_link(model, peer, RIGHT_RENEW, name, &link, fault);
    if (r)
        return r == FAULT_INVALID ? fault_set(fault, FAULT_INVALID, NULL, NULL, "link", 0) : r;
    if (link->life.lifetime != LIFETIME_LEASE)
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "name", 0);
    life_renew(model, &link->life, lease);
    saved_due(model, &link->saved);
    return 0;
}
