/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lifetimes: leases that run out and connections that close, for held eventfds and links alike. See model.h.
 */
#include "base/clock.h"
#include "model/private.h"

#include <errno.h>
#include <stddef.h>

static int life_compare(const struct life *a, const struct life *b)
{
    if (a->deadline != b->deadline)
        return a->deadline < b->deadline ? -1 : 1;
    return ((uintptr_t)a > (uintptr_t)b) - ((uintptr_t)a < (uintptr_t)b);
}

RB_GENERATE(life_tree, life, by_deadline, life_compare)

/* Dates lie within what int64 microseconds hold. */
#define LEASE_MAX (INT64_C(100) * 366 * 24 * 3600)

static void set_deadline(struct model *model, struct life *life, int64_t lease)
{
    life->lease = lease < LEASE_MAX ? lease : LEASE_MAX;
    life->deadline = clock_monotonic() + life->lease * USEC_PER_SEC;
    RB_INSERT(life_tree, &model->deadlines, life);
}

void life_init(struct model *model, struct life *life, const struct life_request *request, bool is_link)
{
    *life = (struct life){ .lifetime = request->lifetime, .is_link = is_link };
    if (life->lifetime == LIFETIME_LEASE)
        set_deadline(model, life, request->lease);
    else if (life->lifetime == LIFETIME_CONNECTION)
        LIST_INSERT_HEAD(&request->lifeline->lives, life, in_lifeline);
}

/* A lease that was given before: its deadline stands. */
void life_restore(struct model *model, struct life *life)
{
    if (life->lifetime == LIFETIME_LEASE)
        RB_INSERT(life_tree, &model->deadlines, life);
}

void life_renew(struct model *model, struct life *life, int64_t lease)
{
    RB_REMOVE(life_tree, &model->deadlines, life);
    set_deadline(model, life, lease);
}

/* Harmless when repeated. */
void life_end(struct model *model, struct life *life)
{
    if (life->lifetime == LIFETIME_LEASE)
        RB_REMOVE(life_tree, &model->deadlines, life);
    else if (life->lifetime == LIFETIME_CONNECTION)
        LIST_REMOVE(life, in_lifeline);
    life->lifetime = LIFETIME_PERSISTENT;
}

static void let_go(struct model *model, struct life *life, enum notice why)
{
    if (life->is_link) {
        struct link *link = (struct link *)((char *)life - offsetof(struct link, life));

        life_end(model, life);
        link_down(model, link, why == NOTICE_EXPIRED ? "its lease has run out" : "its connection was closed");
    } else {
        held_drop(model, (struct held *)((char *)life - offsetof(struct held, life)), why);
    }
}

/* The first try comes soon, since VMs die quickly; each one after takes twice as long, up to this. */
#define RETRY_FIRST (20 * USEC_PER_MSEC)
#define RETRY_LAST (5 * USEC_PER_SEC)

void retry_later(struct model *model, struct end *end)
{
    if (LIST_EMPTY(&model->retried)) {
        model->retry_after = RETRY_FIRST;
        model->retry_at = clock_monotonic() + RETRY_FIRST;
    }
    if (!end->retried)
        LIST_INSERT_HEAD(&model->retried, end, in_retried);
    end->retried = true;
}

static void retry(struct model *model, int64_t now)
{
    struct end *end, *next;

    LIST_FOREACH_SAFE (end, &model->retried, in_retried, next) {
        if (end->refused && end->error == EBUSY && !end->why) {
            end->refused = false;
            link_touch(model, end->link);
        } else if (!end->flying && !end->queued) {
            LIST_REMOVE(end, in_retried);
            end->retried = false;
        }
    }
    model->retry_after = model->retry_after < RETRY_LAST ? 2 * model->retry_after : RETRY_LAST;
    model->retry_at = now + model->retry_after;
}

int64_t model_deadline(const struct model *model)
{
    struct life *first = RB_MIN(life_tree, (struct life_tree *)&model->deadlines);
    int64_t deadline = first ? first->deadline : -1;

    if (!LIST_EMPTY(&model->retried) && (deadline < 0 || model->retry_at < deadline))
        deadline = model->retry_at;
    return deadline;
}

void model_expire(struct model *model, int64_t now)
{
    struct life *life;

    while ((life = RB_MIN(life_tree, &model->deadlines)) && life->deadline <= now)
        let_go(model, life, NOTICE_EXPIRED);
    if (!LIST_EMPTY(&model->retried) && model->retry_at <= now)
        retry(model, clock_monotonic());
    model_settle(model);
}

void model_cut(struct model *model, struct lifeline *lifeline)
{
    struct life *life;

    while ((life = LIST_FIRST(&lifeline->lives)))
        let_go(model, life, NOTICE_RELEASED);
    model_settle(model);
}
