/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How much each user has, and may have: see enum quota in model.h. */
#include "model/private.h"

#include <errno.h>
#include <string.h>

/* One that has anything: a uid, or (scope is not "") what came through a scope of a uid's or one within it.
 */
struct user {
    uid_t uid;
    char scope[NAME_SIZE];
    size_t used[N_QUOTAS];
    RB_ENTRY(user) by_uid;
};

static int user_compare(const struct user *a, const struct user *b)
{
    if (a->uid != b->uid)
        return a->uid < b->uid ? -1 : 1;
    return strcmp(a->scope, b->scope);
}

RB_GENERATE(user_tree, user, by_uid, user_compare)

void model_set_limits(struct model *model, const struct limits *limits)
{
    model->limits = *limits;
}

static struct user *find(struct model *model, uid_t uid, const char *scope)
{
    struct user key = { .uid = uid };

    strcpy(key.scope, scope);
    return RB_FIND(user_tree, &model->users, &key);
}

/* The same, or a new one. NULL: out of memory. */
static struct user *get(struct model *model, uid_t uid, const char *scope)
{
    struct user *user = find(model, uid, scope);

    if (user)
        return user;
    user = calloc(1, sizeof(*user));
    if (!user)
        return NULL;
    user->uid = uid;
    strcpy(user->scope, scope);
    RB_INSERT(user_tree, &model->users, user);
    return user;
}

/* Forgets one that has nothing. */
static void put(struct model *model, struct user *user)
{
    for (size_t i = 0; i < N_QUOTAS; i++)
        if (user->used[i] > 0)
            return;
    RB_REMOVE(user_tree, &model->users, user);
    free(user);
}

static void refund(
    struct model *model, const struct peer *peer, const char *scope, enum quota quota, size_t n)
{
    struct user *user = find(model, peer->uid, scope);

    if (!user)
        return;
    user->used[quota] -= n;
    put(model, user);
}

/* Scopes have limits of these. */
static bool is_scoped(enum quota quota)
{
    return quota == QUOTA_EVENTFDS || quota == QUOTA_LINKS;
}

/* The next level of a peer's scope that has a count of its own: of what scopes have no limits of, the
 * outermost. */
static bool next_level(const struct peer *peer, enum quota quota, char level[static NAME_SIZE])
{
    return (is_scoped(quota) || !level[0]) && scope_next_level(peer_scope(peer), level);
}

static bool is_too_much(const struct user *user, enum quota quota, size_t n, size_t limit)
{
    return n > limit || (user && user->used[quota] > limit - n);
}

static int exceeded(struct fault *fault, const char *what, size_t limit)
{
    return fault ? fault_set(fault, FAULT_QUOTA_EXCEEDED, NULL, NULL, what, (int64_t)limit)
                 : FAULT_QUOTA_EXCEEDED;
}

/* What a scope has is looked at whichever of its connections asks, by the limit that this one came with. */
static int check_scope(
    struct model *model, const struct peer *peer, enum quota quota, size_t n, struct fault *fault)
{
    const struct grant *grant = peer_grant(peer);

    for (size_t i = 0; grant && i < grant->n_limits; i++) {
        const struct scope_limit *limits = &grant->limits[i];
        size_t limit = quota == QUOTA_EVENTFDS ? limits->eventfds : limits->links;

        if (limit != SIZE_MAX && is_too_much(find(model, peer->uid, limits->scope), quota, n, limit))
            return exceeded(
                fault, quota == QUOTA_EVENTFDS ? "eventfds of one scope" : "links of one scope", limit);
    }
    return 0;
}

/*
 * Who delegates, and the other tenants, have their part of what the user may have, too. A message's
 * descriptors count as FRAME_MAX_FDS while it is received: of them each tenant may have as many at least.
 */
static size_t share_of(enum quota quota, size_t limit)
{
    size_t least = quota == QUOTA_DESCRIPTORS ? HOLD_MOST : 1;
    size_t share = limit / 4 > least ? limit / 4 : least;

    return share < limit ? share : limit;
}

static int check_share(struct model *model, const struct peer *peer, enum quota quota, size_t n,
    const char *what, struct fault *fault)
{
    size_t share = share_of(quota, model->limits.of_user[quota]);
    char outermost[NAME_SIZE] = "";

    if (!scope_next_level(peer_scope(peer), outermost))
        return 0;
    return is_too_much(find(model, peer->uid, outermost), quota, n, share) ? exceeded(fault, what, share) : 0;
}

int model_charge(
    struct model *model, const struct peer *peer, enum quota quota, size_t n, struct fault *fault)
{
    static const struct {
        const char *of_user, *in_all, *of_scope;
    } names[] = {
        [QUOTA_CONNECTIONS] = { "connections of one user", "connections", "connections of one scope" },
        [QUOTA_EVENTFDS] = { "eventfds of one user", "eventfds", NULL },
        [QUOTA_LINKS] = { "links of one user", "links", NULL },
        [QUOTA_AGENTS] = { "agents of one user", "agents", "agents of one scope" },
        [QUOTA_OFFERS] = { "offers of one user", "offers", "offers of one scope" },
        [QUOTA_SUBSCRIBERS] = { "subscribers of one user", "subscribers", "subscribers of one scope" },
        [QUOTA_BYTES] = { "bytes under way of one user", "bytes under way", "bytes under way of one scope" },
        [QUOTA_DESCRIPTORS] = { "descriptors under way of one user", "descriptors under way",
            "descriptors under way of one scope" },
    };
    size_t limit = model->limits.of_user[quota], in_all = model->limits.in_all[quota];
    char level[NAME_SIZE] = "", done[NAME_SIZE] = "";
    struct user *user;
    int r = 0;

    /* What comes back was charged before, maybe by another limit. */
    if (!model->restoring && is_too_much(find(model, peer->uid, ""), quota, n, limit))
        return exceeded(fault, names[quota].of_user, limit);
    /* Root is to see to it; its tenants are not. */
    if (!model->restoring && (peer->uid != 0 || peer_scope(peer)[0]) &&
        (n > in_all || model->used[quota] > in_all - n))
        return exceeded(fault, names[quota].in_all, in_all);
    if (!model->restoring)
        r = is_scoped(quota) ? check_scope(model, peer, quota, n, fault)
                             : check_share(model, peer, quota, n, names[quota].of_scope, fault);
    if (r)
        return r;
    do {
        user = get(model, peer->uid, level);
        if (!user)
            goto fail;
        user->used[quota] += n;
    } while (next_level(peer, quota, level));
    model->used[quota] += n;
    return 0;

fail:
    while (strcmp(done, level) != 0) {
        refund(model, peer, done, quota, n);
        (void)scope_next_level(peer_scope(peer), done);
    }
    return -ENOMEM;
}

void model_refund(struct model *model, const struct peer *peer, enum quota quota, size_t n)
{
    char level[NAME_SIZE] = "";

    do
        refund(model, peer, level, quota, n);
    while (next_level(peer, quota, level));
    model->used[quota] -= n;
}

int model_recharge(struct model *model, const struct peer *peer, enum quota quota, size_t *charged, size_t n,
    struct fault *fault)
{
    int r = 0;

    if (n > *charged)
        r = model_charge(model, peer, quota, n - *charged, fault);
    else if (n < *charged)
        model_refund(model, peer, quota, *charged - n);
    if (r == 0)
        *charged = n;
    return r;
}
