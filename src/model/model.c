/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The model as a whole: its beginning and end, its names for what it tells. See model.h. */
#include "model/private.h"

#include <errno.h>
#include <string.h>

int model_new(const struct model_hooks *hooks, void *userdata, struct evaio *aio, struct model **ret_model)
{
    struct model *model = calloc(1, sizeof(*model));

    if (!model)
        return -ENOMEM;
    model->hooks = hooks;
    model->userdata = userdata;
    model->aio = aio;
    for (size_t i = 0; i < N_QUOTAS; i++)
        model->limits.of_user[i] = model->limits.in_all[i] = SIZE_MAX;
    TAILQ_INIT(&model->touched);
    TAILQ_INIT(&model->due);
    *ret_model = model;
    return 0;
}

void model_set_policy(struct model *model, const struct policy *policy)
{
    struct site *site;

    model->policy = policy;
    RB_FOREACH (site, site_tree, &model->sites)
        site_adopt(model, site);
    model_settle(model);
}

bool model_may(const struct model *model, const struct peer *peer, enum right right,
    const char *name_or_endpoint, const struct peer *owner)
{
    return policy_may(model->policy, peer, right, name_or_endpoint, owner->uid);
}

struct model_counts model_count(const struct model *model)
{
    return model->counts;
}

void model_tell(struct model *model, enum notice notice, const char *subject, const char *link,
    const char *reason, const struct peer *owner)
{
    const struct news news = {
        .notice = notice, .subject = subject, .link = link, .reason = reason, .owner = owner
    };

    model->hooks->news(model->userdata, &news);
}

const char *notice_name(enum notice notice)
{
    static const char *const names[] = {
        [NOTICE_HELD] = "held",
        [NOTICE_CLAIMED] = "claimed",
        [NOTICE_RELEASED] = "released",
        [NOTICE_EXPIRED] = "expired",
        [NOTICE_ATTACHED] = "attached",
        [NOTICE_DETACHED] = "detached",
        [NOTICE_OFFERED] = "offered",
        [NOTICE_WITHDRAWN] = "withdrawn",
        [NOTICE_LINKED] = "linked",
        [NOTICE_WAITING] = "waiting",
        [NOTICE_PARKED] = "parked",
        [NOTICE_MOVED] = "moved",
        [NOTICE_LEAVING] = "leaving",
        [NOTICE_LEFT] = "left",
        [NOTICE_FAILED] = "failed",
        [NOTICE_DISCONNECTED] = "disconnected",
    };

    return names[notice];
}

const char *lifetime_name(enum lifetime lifetime)
{
    static const char *const names[] = {
        [LIFETIME_PERSISTENT] = "persistent",
        [LIFETIME_CONNECTION] = "connection",
        [LIFETIME_LEASE] = "lease",
        [LIFETIME_AGENT] = "agent",
    };

    return names[lifetime];
}

const char *end_state_name(enum end_state state)
{
    static const char *const names[] = {
        [END_ABSENT] = "absent",
        [END_UNPLUGGED] = "unplugged",
        [END_PLUGGING] = "plugging",
        [END_PLUGGED] = "plugged",
        [END_UNPLUGGING] = "unplugging",
        [END_UNKNOWN] = "unknown",
    };

    return names[state];
}

const char *link_state_name(const struct link *link)
{
    static const char *const names[] = {
        [LINK_WAITING] = "waiting",
        [LINK_LINKED] = "linked",
        [LINK_PARKED] = "parked",
        [LINK_FAILED] = "failed",
    };

    return names[link->state];
}

struct model *model_free(struct model *model)
{
    struct held *held, *next_held;
    struct link *link, *next_link;
    struct agent *agent;
    struct site *site;
    struct end *end;

    if (!model)
        return NULL;
    model->restoring = false; /* it may have failed half-way */
    /* Agents first, as if they were dead, so that what links had plugged is nobody's to unplug. */
    while ((agent = RB_MIN(agent_tree, &model->agents)) || (agent = LIST_FIRST(&model->going)))
        model_agent_dead(agent);
    RB_FOREACH (site, site_tree, &model->sites)
        RB_FOREACH (end, end_tree, &site->ends) {
            end->dirty = false;
            link_touch(model, end->link);
        }
    RB_FOREACH_SAFE (link, link_tree, &model->links, next_link)
        link_down(model, link, NULL);
    model_settle(model);
    RB_FOREACH_SAFE (held, held_tree, &model->held, next_held)
        held_drop(model, held, NOTICE_RELEASED);
    model_settle(model);
    free(model);
    return NULL;
}
