/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state machine of a link: what is wanted of each end, what is known of it, and the next step from there.
 * It has no memory of how it came where it is: whatever happened, a link that was touched is looked at
 * afresh.
 *
 * What it keeps true: producers are plugged after, and unplugged before, the consumers of their link; an end
 * is dirty from before it may be plugged until its owner said that it is not, or is dead; an end that is
 * dirty for reasons not known is unplugged before it is plugged; whoever was there and leaves is announced
 * before it is unplugged and once it is, each once.
 *
 * tests/link.pml is this protocol for spin, under the same names: what is changed here is changed there.
 */
#include "model/private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void link_step(struct model *model, struct link *link);

void link_touch(struct model *model, struct link *link)
{
    saved_due(model, &link->saved);
    if (!link->busy && link->job)
        link->job->n_busy++;
    link->busy = true;
    if (!link->touched) {
        link->touched = true;
        TAILQ_INSERT_TAIL(&model->touched, link, in_touched);
    }
}

void site_touch(struct model *model, struct site *site)
{
    struct end *end;

    RB_FOREACH (end, end_tree, &site->ends) {
        end->refused = false;
        link_touch(model, end->link);
    }
}

void model_settle(struct model *model)
{
    struct link *link;

    if (model->restoring)
        return;
    do {
        while ((link = TAILQ_FIRST(&model->touched))) {
            TAILQ_REMOVE(&model->touched, link, in_touched);
            link->touched = false;
            link_step(model, link);
        }
        agents_go(model);
    } while (!TAILQ_EMPTY(&model->touched));
}

/* ---- What is wanted
 * ----------------------------------------------------------------------------------------- */

/* Whether what the end names is there, for this end. */
static bool is_present(const struct end *end)
{
    const struct agent *owner;

    if (!end->site)
        return false; /* left behind by a link that is gone */
    if (end_is_eventfd(end))
        return end->site->held && end->site->held->eventfd == end->eventfd &&
               policy_collects(&end->site->held->owner, end->uid);
    owner = end_owner(end);
    return owner && policy_collects(&owner->owner, end->uid);
}

/* In the order of a Move, does the old end go before the new one comes? A consumer's eventfd binds once. */
static bool moves_old_first(const struct link *link)
{
    return !link->to->producer || endpoint_collides(&link->from->endpoint, &link->to->endpoint);
}

static bool is_displaced(const struct end *end)
{
    const struct link *link = end->link;

    if (end == link->from)
        return moves_old_first(link) || link->to->state == END_PLUGGED || link->to->state == END_ABSENT;
    return end == link->to && moves_old_first(link) && link->from->dirty;
}

static bool is_wanted(const struct end *end)
{
    const struct link *link = end->link;

    if (link->goal == GOAL_DOWN || (link->goal == GOAL_PARKED && !end->producer) || end->retiring ||
        is_displaced(end))
        return false;
    return end->eventfd && end->eventfd != link->renew && is_present(end);
}

/* Whether it goes on being one of its link's, plugged or not. */
static bool is_staying(const struct end *end)
{
    return end->link->goal != GOAL_DOWN && !end->retiring && is_present(end);
}

/* Whether an agent would do something for the end if it were asked. */
static bool is_reachable(const struct end *end)
{
    return end->agent && !end->agent->lost && !end->agent->late;
}

/* Plugged, and to stay so. Whoever was told to leave is unplugged first, though wanted again meanwhile. */
static bool is_at_rest(const struct end *end)
{
    return end->state == END_PLUGGED && is_wanted(end) &&
           (end_is_eventfd(end) || (end->agent == end_owner(end) && !end->announced));
}

static bool any_end_moves(const struct link *link, bool producers)
{
    for (size_t i = 0; i < link->n_ends; i++) {
        const struct end *end = link->ends[i];

        if (end->producer != producers || end_is_eventfd(end) || !is_reachable(end) || is_at_rest(end))
            continue;
        if (!end->refused && (producers ? end->dirty : is_wanted(end)))
            return true;
    }
    return false;
}

/* Whether it is left of a link that is gone, and will be unplugged as soon as its agent gets to it. */
bool end_gives_way(const struct end *end)
{
    return link_is_gone(end->link) && !end->refused && !(end->agent && end->agent->late);
}

/*
 * Whether something that is left of a link that is gone has to be unplugged first. What is being unplugged is
 * waited for.
 */
static bool is_blocked(const struct end *end, bool for_now)
{
    struct end *other = NULL;

    while ((other = end_next_collision(end, other)))
        if (other->dirty && link_is_gone(other->link) && (!for_now || end_gives_way(other)))
            return true;
    return false;
}

/* The order of things. */
static enum op next_op(const struct end *end)
{
    if (end_is_eventfd(end) || end->flying || end->refused || !is_reachable(end) || is_at_rest(end))
        return OP_NONE;
    if (end->dirty)
        return !end->producer && any_end_moves(end->link, true) ? OP_NONE : OP_UNPLUG;
    if (!is_wanted(end))
        return OP_NONE;
    return (end->producer && any_end_moves(end->link, false)) || is_blocked(end, false) ? OP_NONE : OP_PLUG;
}

/* ---- What is known
 * ------------------------------------------------------------------------------------------ */

/* Which agent the end is dealt with by, and the state that follows from who is there. */
static void bind_end(struct end *end)
{
    struct agent *owner = is_present(end) ? end_owner(end) : NULL;

    if (end_is_eventfd(end)) {
        end->refused = end->refused && end->site && end->site->held;
        end->state = !is_present(end) ? END_ABSENT : is_wanted(end) ? END_PLUGGED : END_UNPLUGGED;
        return;
    }
    if (end->flying)
        return;
    if (!end->dirty) {
        end_set_agent(end, owner);
        end->state = owner ? END_UNPLUGGED : END_ABSENT;
        end->refused = end->refused && owner; /* who is gone says no no more */
    } else if (!end->agent || end->agent->lost) {
        /* What the lost one had plugged is its successor's to unplug, whether it offers it or not. */
        owner = end->site->agent;
        if (owner && policy_collects(&owner->owner, end->uid)) {
            end_set_agent(end, owner);
            end->inherited = true;
        }
        end->state = end->agent && !end->agent->lost ? END_UNKNOWN : END_ABSENT;
    }
}

static void refuse(struct end *end, int error, const char *why)
{
    end->refused = true;
    end->error = error;
    end->why = why;
}

/* A held eventfd that has come is the link's, if it is fit for that: direct, the link's own from now on. */
static bool take_eventfd(struct model *model, struct end *end)
{
    const struct held *held = end->site ? end->site->held : NULL;
    struct eventfd *eventfd = held && policy_collects(&held->owner, end->uid) ? held->eventfd : NULL;
    struct link *link = end->link;

    if (!eventfd || end->eventfd || end->retiring || (!link->relayed && link->eventfd))
        return false;
    end->refused = false;
    if (eventfd_know(eventfd) < 0)
        refuse(end, EIO, "its fdinfo cannot be read");
    else if (eventfd_unfit(eventfd, end))
        refuse(end, EINVAL, eventfd_unfit(eventfd, end));
    else if (eventfd_user(model, eventfd)) {
        refuse(end, EBUSY, "the eventfd is in another link");
        end_set_stuck(model, end, true, end->retried);
    } else {
        eventfd_join(model, eventfd, link);
        end_set_eventfd(end, eventfd);
        if (!link->relayed)
            link->eventfd = eventfd_ref(eventfd);
        /* What the relay had for it while it was away. */
        end_repay(model, end, UINT64_MAX);
        return true;
    }
    return false;
}

static void take_eventfds(struct model *model, struct link *link)
{
    bool changed = false, has_held = false;

    for (size_t i = 0; i < link->n_ends; i++)
        if (end_is_eventfd(link->ends[i])) {
            changed |= take_eventfd(model, link->ends[i]);
            has_held |= !link->ends[i]->retiring;
        }
    /* The one that was to be its own has left before it came. Without memory it goes on waiting. */
    if (!link->relayed && !link->eventfd && !has_held)
        (void)link_make_eventfd(model, link, NULL);
    for (size_t i = 0; i < link->n_ends; i++)
        if (!link->ends[i]->eventfd && link->eventfd && (!link->relayed || link->ends[i]->producer) &&
            !(link->relayed && end_is_eventfd(link->ends[i])))
            end_set_eventfd(link->ends[i], link->eventfd);
    if (changed && link->relayed)
        model->hooks->relay(model->userdata, link, false);
}

/* Makes another eventfd for a link, with the count of the one that it has had. NULL: there is none to be had.
 */
static struct eventfd *replace_eventfd(struct model *model, struct link *link, struct eventfd *old)
{
    struct eventfd *fresh;
    uint64_t count = 0;

    if (eventfd_make(model, &fresh) < 0)
        return NULL;
    eventfd_join(model, fresh, link);
    if (eventfd_drain_safely(NULL, old, &count) >= 0 && count > 0)
        (void)evaio_add(model->aio, fresh->fd, count);
    eventfd_leave(model, link, old);
    return fresh;
}

static void renew_resample(struct model *model, struct link *link)
{
    struct eventfd *old = link->resample, *fresh = replace_eventfd(model, link, old);

    if (!fresh)
        return;
    link->resample = fresh;
    eventfd_unref(old);
}

/* Replaces eventfds of the broker's own, once nothing is plugged with them. */
static void renew_eventfd(struct model *model, struct link *link)
{
    struct eventfd *old = link->renew, *fresh;

    for (size_t i = 0; i < link->n_ends; i++)
        if (link->ends[i]->eventfd == old && (link->ends[i]->dirty || link->ends[i]->flying))
            return;
    link->renew = NULL;
    /* Where this one is the broker's own, nobody can have claimed that one. */
    if (link->resample)
        renew_resample(model, link);
    fresh = replace_eventfd(model, link, old);
    if (!fresh)
        return; /* what stands goes on standing */
    if (link->eventfd == old) {
        eventfd_unref(old);
        link->eventfd = eventfd_ref(fresh);
    }
    for (size_t i = 0; i < link->n_ends; i++)
        if (link->ends[i]->eventfd == old)
            end_set_eventfd(link->ends[i], fresh);
    eventfd_unref(fresh);
    if (link->relayed)
        model->hooks->relay(model->userdata, link, false);
}

/* ---- What is told
 * ------------------------------------------------------------------------------------------- */

/* Tells the agents of a link's ends, but for the one end that it is about. */
static void tell_ends(struct model *model, struct link *link, const struct end *but, const struct news *news)
{
    for (size_t i = 0; i < link->n_ends; i++) {
        struct end *end = link->ends[i];

        if (end != but && end->agent && !end->agent->lost)
            model->hooks->tell(model->userdata, end->agent, end, news);
    }
}

/* Tells of an end that leaves, or has left. */
static void tell_of_end(struct model *model, struct end *end, enum notice notice)
{
    char endpoint[ENDPOINT_SIZE];
    const struct news news = {
        .notice = notice,
        .subject = endpoint_format(&end->endpoint, endpoint),
        .link = end->link->name,
        .reason = end->reason,
        .owner = &end->link->owner,
    };

    model->hooks->news(model->userdata, &news);
    tell_ends(model, end->link, end, &news);
}

static void announce_leaving(struct model *model, struct link *link)
{
    for (size_t i = 0; i < link->n_ends; i++) {
        struct end *end = link->ends[i];

        if (end->state != END_PLUGGED || !is_staying(end))
            continue;
        end->joined |= link->acknowledged;
        if (end->reason)
            end_set_reason(end, NULL);
    }
    /* Who leaves of its own accord comes before those that it takes along. */
    for (int retiring = 1; retiring >= 0; retiring--)
        for (size_t i = 0; i < link->n_ends; i++) {
            struct end *end = link->ends[i];

            if (end->retiring != retiring || !end->joined || end->announced || is_staying(end))
                continue;
            end->announced = true;
            tell_of_end(model, end, NOTICE_LEAVING);
        }
}

/* Gone is who is unplugged, or whose agent is gone. */
static void announce_left(struct model *model, struct link *link)
{
    for (size_t i = 0; i < link->n_ends; i++) {
        struct end *end = link->ends[i];

        if (!end->announced || end->flying || (end->dirty && end->agent && !end->agent->lost))
            continue;
        end->joined = end->announced = false;
        tell_of_end(model, end, NOTICE_LEFT);
    }
}

bool model_end_reason(const struct end *end, char *buffer, size_t size)
{
    const char *name = strerrorname_np(end->error);

    if (end->refused && end->why)
        (void)snprintf(buffer, size, "%s", end->why);
    else if (end->refused)
        (void)snprintf(buffer, size, "%s: %s", name ? name : "unknown", strerror(end->error));
    else if (end->agent && end->agent->late && !is_at_rest(end))
        (void)snprintf(buffer, size, "agent %s does not answer", end->agent->name);
    else if (end->state == END_ABSENT && end->reason)
        (void)snprintf(buffer, size, "%s", end->reason);
    else
        return false;
    return true;
}

bool model_link_reason(const struct link *link, char *buffer, size_t size)
{
    char endpoint[ENDPOINT_SIZE], reason[128];

    for (size_t i = 0; i < link->n_ends; i++) {
        const struct end *end = link->ends[i];

        if (end->retiring || !model_end_reason(end, reason, sizeof(reason)))
            continue;
        (void)snprintf(buffer, size, "%s: %s", endpoint_format(&end->endpoint, endpoint), reason);
        return true;
    }
    return false;
}

/* What its ends make of the link, told where it changes. */
static void update_state(struct model *model, struct link *link)
{
    static const enum notice notices[] = {
        [LINK_WAITING] = NOTICE_WAITING,
        [LINK_LINKED] = NOTICE_LINKED,
        [LINK_PARKED] = NOTICE_PARKED,
        [LINK_FAILED] = NOTICE_FAILED,
    };
    bool failed = false, absent = false, linked = true, parked = link->goal == GOAL_PARKED;
    enum link_state state = link->state;
    struct news news = { .subject = link->name, .link = link->name, .owner = &link->owner };
    char reason[ENDPOINT_SIZE + 128];

    if (link->goal == GOAL_DOWN || link->from)
        return;
    for (size_t i = 0; i < link->n_ends; i++) {
        const struct end *end = link->ends[i];

        if (end->retiring)
            continue;
        failed |= end->refused || (end->agent && end->agent->late && !is_at_rest(end));
        absent |= end->state == END_ABSENT;
        linked &= end->state == END_PLUGGED;
        parked &= end->producer || !end->dirty;
    }
    if (failed)
        state = LINK_FAILED;
    else if (parked)
        state = LINK_PARKED;
    else if (absent)
        state = LINK_WAITING;
    else if (linked)
        state = LINK_LINKED;
    if (state == link->state)
        return;
    link->state = state;
    if (!link->acknowledged)
        return;
    news.notice = notices[state];
    news.reason = model_link_reason(link, reason, sizeof(reason)) ? reason : NULL;
    model->hooks->news(model->userdata, &news);
    tell_ends(model, link, NULL, &news);
}

/* ---- What is done
 * ------------------------------------------------------------------------------------------- */

/* Whether it could be plugged at once but for ends of links that are gone. */
static bool is_next(const struct end *end)
{
    return !end_is_eventfd(end) && !end->flying && !end->dirty && !end->refused && is_wanted(end) &&
           is_reachable(end);
}

/* Whether it would be plugged but for what is being unplugged in its place. */
static bool is_held_up(const struct end *end)
{
    return is_next(end) && is_blocked(end, true);
}

/* Another end that may have the eventfd of one that was refused with EBUSY, as far as its owner may know it.
 */
static const struct end *find_holder(struct model *model, const struct end *end)
{
    const struct peer *owner = &end->link->owner;
    struct site *site;
    struct end *other;

    if (end->error != EBUSY || !endpoint_is_irqfd(&end->endpoint) || !end->eventfd ||
        eventfd_id(end->eventfd) < 0)
        return NULL;
    RB_FOREACH (site, site_tree, &model->sites)
        RB_FOREACH (other, end_tree, &site->ends)
            if (other != end && other->dirty && other->eventfd &&
                eventfd_id(other->eventfd) == eventfd_id(end->eventfd) &&
                endpoint_is_irqfd(&other->endpoint) &&
                model_may(model, owner, RIGHT_LIST, other->link->name, &other->link->owner))
                return other;
    return NULL;
}

/* What an end is stuck with, for a call that waits for it. */
static bool fail_job(struct model *model, struct job *job, const struct end *end)
{
    char endpoint[ENDPOINT_SIZE], holds[ENDPOINT_SIZE];
    const struct end *holder;

    endpoint_format(&end->endpoint, endpoint);
    if (end->refused && end->why)
        job_fail(model, job, FAULT_BAD_ENDPOINT, endpoint, NULL, end->why, 0);
    else if (end->refused) {
        holder = find_holder(model, end);
        job_fail(model, job, FAULT_PLUG_FAILED, endpoint,
            holder ? endpoint_format(&holder->endpoint, holds) : NULL, NULL, end->error);
    } else if (end->agent && end->agent->late && !is_at_rest(end))
        job_fail(model, job, FAULT_AGENT_TIMEOUT, endpoint,
            model_may(model, &end->link->owner, RIGHT_LIST, end->agent->name, &end->agent->owner)
                ? end->agent->name
                : NULL,
            NULL, 0);
    else if (is_next(end) && is_blocked(end, false) && !is_blocked(end, true))
        job_fail(model, job, FAULT_ENDPOINT_BUSY, endpoint, NULL, NULL, 0);
    else
        return false;
    return true;
}

static void fail_if_stuck(struct model *model, struct link *link)
{
    struct job *job = link->job;

    if (!job || link->goal != GOAL_UP || (job->kind != JOB_CONNECT && job->kind != JOB_RESUME))
        return;
    /* What was asked for is what is told. */
    for (int flying = 1; flying >= 0; flying--)
        for (size_t i = 0; i < link->n_ends; i++)
            if (link->ends[i]->flying == flying && (is_wanted(link->ends[i]) || link->ends[i]->refused))
                (void)fail_job(model, job, link->ends[i]);
}

/* Ends a Move that cannot go on, one way or the other. Returns whether there is more to do then. */
static bool finish_move(struct model *model, struct link *link)
{
    struct end *from = link->from, *to = link->to;
    struct job *job = link->job;
    char endpoint[ENDPOINT_SIZE];
    bool failed;

    if (!from)
        return false;
    failed = link->goal == GOAL_DOWN || to->refused || from->dirty;
    /* A Disconnect that came in between does not fail for it. */
    if (job && job->kind == JOB_MOVE && failed && !fail_job(model, job, to) && !fail_job(model, job, from))
        /* Its agent is gone, and it may still be plugged there. */
        job_fail(model, job, FAULT_PLUG_FAILED, endpoint_format(&from->endpoint, endpoint), NULL, NULL,
            ECONNRESET);
    link->from = link->to = NULL;
    if (failed) {
        to->retiring = true;
        to->refused = false;
    } else {
        from->joined = from->announced = false;
        end_remove(model, from);
        model_tell_link(model, NOTICE_MOVED, link, NULL);
        if (link->relayed)
            model->hooks->relay(model->userdata, link, false);
    }
    link_touch(model, link);
    return true;
}

/* Ends that have left for good are gone when that was told; a link without producers or consumers with them.
 */
static void remove_retired(struct model *model, struct link *link)
{
    bool removed = false;

    for (size_t i = link->n_ends; i-- > 0 && link->named;) {
        struct end *end = link->ends[i];

        if (!end->retiring || end->dirty || end->flying || end->announced)
            continue;
        end_remove(model, end);
        removed = true;
    }
    if (removed && link->relayed)
        model->hooks->relay(model->userdata, link, false);
}

void end_retire(struct model *model, struct end *end, const char *reason)
{
    struct link *link = end->link;
    char endpoint[ENDPOINT_SIZE];
    bool alone = true;

    if (end->retiring)
        return;
    end->retiring = true;
    end->refused = false;
    end_set_reason(end, reason);
    if (link->job && link->job->kind == JOB_CONNECT)
        job_fail(
            model, link->job, FAULT_NOT_ATTACHED, endpoint_format(&end->endpoint, endpoint), NULL, NULL, 0);
    for (size_t i = 0; i < link->n_ends; i++)
        alone &=
            link->ends[i]->producer != end->producer || link->ends[i]->retiring || link->ends[i] == link->to;
    if (alone)
        link_down(model, link, reason);
    link_touch(model, link);
}

static bool is_dirty(const struct link *link)
{
    for (size_t i = 0; i < link->n_ends; i++)
        if (link->ends[i]->dirty || link->ends[i]->flying)
            return true;
    return false;
}

/*
 * Of a link that is gone, and whose dirty ends' agents are lost: its eventfds may be linked anew. Where the
 * VM lives on and still has them, its kernel will say so.
 */
static void give_up_eventfds(struct model *model, struct link *link)
{
    for (size_t i = 0; i < link->n_ends; i++)
        if ((link->ends[i]->dirty && is_reachable(link->ends[i])) ||
            (link->ends[i]->agent && link->ends[i]->agent->late))
            return;
    eventfd_leave(model, link, link->eventfd);
    for (size_t i = 0; i < link->n_ends; i++)
        eventfd_leave(model, link, link->ends[i]->eventfd);
}

/* What is in the way of other links has changed, maybe: they look again. */
static void touch_collisions(struct model *model, struct link *link)
{
    for (size_t i = 0; i < link->n_ends; i++)
        if (link->ends[i]->site)
            end_touch_collisions(model, link->ends[i]);
}

static void link_step(struct model *model, struct link *link)
{
    struct job *job;
    bool busy = false;

    take_eventfds(model, link);
    if (link->renew)
        renew_eventfd(model, link);
    for (size_t i = 0; i < link->n_ends; i++)
        bind_end(link->ends[i]);
    announce_leaving(model, link);
    fail_if_stuck(model, link);
    for (size_t i = 0; i < link->n_ends; i++) {
        struct end *end = link->ends[i];

        agent_queue(end, next_op(end));
        busy |= end->queued != OP_NONE || (end->flying && is_reachable(end)) || is_held_up(end);
    }
    announce_left(model, link);
    remove_retired(model, link);
    update_state(model, link);
    if (link_is_gone(link))
        touch_collisions(model, link);
    /* A set that failed just now has it in the list again: what follows is for then. */
    if (busy || link->touched || finish_move(model, link))
        return;
    link->busy = false;
    if (link->recovering && (link->goal != GOAL_DOWN || !link->named)) {
        link->recovering = false;
        model->n_recovering--;
    }
    job = link->job;
    if (job && --job->n_busy == 0)
        job_finish(model, job);
    else if (!job && link->goal == GOAL_DOWN && link->named)
        link_dispose(model, link);
    else if (!link->named && !is_dirty(link))
        link_free(model, link);
    else if (!link->named)
        give_up_eventfds(model, link);
}

/* Adds what was read from the counter before a plug, up to most of it. Where it does not fit, it is full. */
void end_repay(struct model *model, struct end *end, uint64_t most)
{
    uint64_t count = end->debt < most ? end->debt : most;
    const struct evaio_signal signal = { end->eventfd ? end->eventfd->fd : -1, count };

    end->debt = 0;
    if (count > 0 && !model->stopping)
        evaio_signal(model->aio, &signal, 1);
}
