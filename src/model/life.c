/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lifetimes: leases that run out and connections that close, for held eventfds and links alike. See model.h.
 */
#include "base/clock.h"
#include "model/private.h"

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

int64_t model_deadline(const struct model *model)
{
    struct life *first = RB_MIN(life_tree, (struct life_tree *)&model->deadlines);

    return first ? first->deadline : -1;
}

void model_expire(struct model *model, int64_t now)
{
    struct life *life;

    while ((life = RB_MIN(life_tree, &model->deadlines)) && life->deadline <= now)
        let_go(model, life, NOTICE_EXPIRED);
    model_settle(model);
}

void model_cut(struct model *model, struct lifeline *lifeline)
{
    struct life *life;

    while ((life = LIST_FIRST(&lifeline->lives)))
        let_go(model, life, NOTICE_RELEASED);
    model_settle(model);
}
