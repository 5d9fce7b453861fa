/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How much each user has, and may have: see enum quota in model.h. */
#include "model/private.h"

#include <errno.h>

/* One that has anything. */
struct user {
    uid_t uid;
    size_t used[N_QUOTAS];
    RB_ENTRY(user) by_uid;
};

static int user_compare(const struct user *a, const struct user *b)
{
    return (a->uid > b->uid) - (a->uid < b->uid);
}

RB_GENERATE(user_tree, user, by_uid, user_compare)

void model_set_limits(struct model *model, const struct limits *limits)
{
    model->limits = *limits;
}

int model_charge(struct model *model, uid_t uid, enum quota quota, size_t n, struct fault *fault)
{
    static const char *const names[] = {
        [QUOTA_CONNECTIONS] = "connections of one user",
        [QUOTA_EVENTFDS] = "eventfds of one user",
        [QUOTA_LINKS] = "links of one user",
        [QUOTA_AGENTS] = "agents of one user",
        [QUOTA_SUBSCRIBERS] = "subscribers of one user",
    };
    struct user key = { .uid = uid }, *user = RB_FIND(user_tree, &model->users, &key);
    size_t limit = model->limits.of_user[quota];

    /* What comes back was charged before, maybe by another limit. */
    if (!model->restoring && (n > limit || (user && user->used[quota] > limit - n)))
        return fault_set(fault, FAULT_QUOTA_EXCEEDED, NULL, NULL, names[quota], (int64_t)limit);
    if (!user) {
        user = calloc(1, sizeof(*user));
        if (!user)
            return -ENOMEM;
        user->uid = uid;
        RB_INSERT(user_tree, &model->users, user);
    }
    user->used[quota] += n;
    return 0;
}

void model_refund(struct model *model, uid_t uid, enum quota quota, size_t n)
{
    struct user key = { .uid = uid }, *user = RB_FIND(user_tree, &model->users, &key);

    if (!user)
        return;
    user->used[quota] -= n;
    for (size_t i = 0; i < N_QUOTAS; i++)
        if (user->used[i] > 0)
            return;
    RB_REMOVE(user_tree, &model->users, user);
    free(user);
}
