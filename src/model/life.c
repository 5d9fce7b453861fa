/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lifetimes: leases that run out and connections that close, for held eventfds and links alike. See model.h.
 */
#include "base/clock.h"
#include "model/private.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

static int term_compare(const struct term *a, const struct term *b)
{
    if (a->deadline != b->deadline)
        return a->deadline < b->deadline ? -1 : 1;
    return ((uintptr_t)a > (uintptr_t)b) - ((uintptr_t)a < (uintptr_t)b);
}

RB_GENERATE(term_tree, term, by_deadline, term_compare)

/* Dates lie within what int64 microseconds hold. */
#define LEASE_MAX (INT64_C(100) * 366 * 24 * 3600)

/* Takes what memory it needs, and no more: life_begin() follows, or life_drop(). -ENOMEM. */
int life_init(struct life *life, enum lifetime lifetime, bool is_link)
{
    *life = (struct life){ .lifetime = lifetime, .is_link = is_link };
    if (lifetime != LIFETIME_LEASE && lifetime != LIFETIME_CONNECTION)
        return 0;
    life->term = calloc(1, sizeof(*life->term));
    if (!life->term)
        return -ENOMEM;
    life->term->life = life;
    return 0;
}

static void set_deadline(struct model *model, struct term *term, int64_t lease)
{
    term->lease = lease < LEASE_MAX ? lease : LEASE_MAX;
    term->deadline = clock_monotonic() + term->lease * USEC_PER_SEC;
    RB_INSERT(term_tree, &model->deadlines, term);
}

void life_begin(struct model *model, struct life *life, const struct life_request *request)
{
    if (life->lifetime == LIFETIME_LEASE)
        set_deadline(model, life->term, request->lease);
    else if (life->lifetime == LIFETIME_CONNECTION)
        LIST_INSERT_HEAD(&request->lifeline->terms, life->term, in_lifeline);
}

/* In the place of life_begin(). A lease that was given before: its deadline stands. */
void life_restore(struct model *model, struct life *life, const struct term *term, struct lifeline *lifeline)
{
    if (life->lifetime == LIFETIME_LEASE) {
        life->term->lease = term->lease;
        life->term->deadline = term->deadline;
        RB_INSERT(term_tree, &model->deadlines, life->term);
    } else if (life->lifetime == LIFETIME_CONNECTION) {
        LIST_INSERT_HEAD(&lifeline->terms, life->term, in_lifeline);
    }
}

void life_renew(struct model *model, struct life *life, int64_t lease)
{
    RB_REMOVE(term_tree, &model->deadlines, life->term);
    set_deadline(model, life->term, lease);
}

/* Harmless when repeated. */
void life_end(struct model *model, struct life *life)
{
    if (life->lifetime == LIFETIME_LEASE)
        RB_REMOVE(term_tree, &model->deadlines, life->term);
    else if (life->lifetime == LIFETIME_CONNECTION)
        LIST_REMOVE(life->term, in_lifeline);
    life_drop(life);
}

/* What did not begin. Harmless when repeated. */
void life_drop(struct life *life)
{
    free(life->term);
    life->term = NULL;
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

bool end_may_recover(int error)
{
    return error == EBUSY || error == EMFILE || error == ENFILE || error == ENOMEM;
}

void retry_later(struct model *model, struct end *end)
{
    if (model->n_retried == 0) {
        model->retry_after = RETRY_FIRST;
        model->retry_at = clock_monotonic() + RETRY_FIRST;
    }
    end_set_stuck(model, end, end->contends, true);
}

static void retry(struct model *model, int64_t now)
{
    struct end *end, *next;

    LIST_FOREACH_SAFE (end, &model->stuck, in_stuck, next) {
        if (!end->retried)
            continue;
        if (end->refused && end_may_recover(end->error) && !end->why) {
            end->refused = false;
            link_touch(model, end->link);
        } else if (!end->flying && !end->queued) {
            end_set_stuck(model, end, end->contends, false);
        }
    }
    model->retry_after = model->retry_after < RETRY_LAST ? 2 * model->retry_after : RETRY_LAST;
    model->retry_at = now + model->retry_after;
}

int64_t model_deadline(const struct model *model)
{
    struct term *first = RB_MIN(term_tree, (struct term_tree *)&model->deadlines);
    int64_t deadline = first ? first->deadline : -1;

    if (model->n_retried > 0 && (deadline < 0 || model->retry_at < deadline))
        deadline = model->retry_at;
    return deadline;
}

void model_expire(struct model *model, int64_t now)
{
    struct term *term;

    while ((term = RB_MIN(term_tree, &model->deadlines)) && term->deadline <= now)
        let_go(model, term->life, NOTICE_EXPIRED);
    if (model->n_retried > 0 && model->retry_at <= now)
        retry(model, clock_monotonic());
    model_settle(model);
}

void model_cut(struct model *model, struct lifeline *lifeline)
{
    struct term *term;

    while ((term = LIST_FIRST(&lifeline->terms)))
        let_go(model, term->life, NOTICE_RELEASED);
    model_settle(model);
}
