/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who may: see policy.h. */
#include "model/policy.h"

#include <fnmatch.h>
#include <string.h>

const char *right_name(enum right right)
{
    static const char *const names[] = {
        [RIGHT_LIST] = "list",
        [RIGHT_CLAIM] = "claim",
        [RIGHT_RENEW] = "renew",
        [RIGHT_RELEASE] = "release",
        [RIGHT_SIGNAL] = "signal",
        [RIGHT_CONNECT] = "connect",
        [RIGHT_DISCONNECT] = "disconnect",
        [RIGHT_PARK] = "park",
        [RIGHT_RESUME] = "resume",
        [RIGHT_MOVE] = "move",
        [RIGHT_LEAVE] = "leave",
        [RIGHT_ATTACH] = "attach",
        [RIGHT_DETACH] = "detach",
        [RIGHT_OFFER] = "offer",
        [RIGHT_WITHDRAW] = "withdraw",
    };

    return names[right];
}

static bool has_gid(const struct peer *peer, gid_t gid)
{
    if (peer->gid == gid)
        return true;
    for (size_t i = 0; peer->groups && i < peer->groups->n; i++)
        if (peer->groups->gids[i] == gid)
            return true;
    return false;
}

static bool is_named(const struct rule *rule, const struct peer *peer)
{
    if (rule->everybody)
        return true;
    for (size_t i = 0; i < rule->n_uids; i++)
        if (rule->uids[i] == peer->uid)
            return true;
    for (size_t i = 0; i < rule->n_gids; i++)
        if (has_gid(peer, rule->gids[i]))
            return true;
    return false;
}

static bool matches(char **globs, const char *text)
{
    for (; globs && *globs; globs++)
        if (fnmatch(*globs, text, 0) == 0)
            return true;
    return false;
}

bool policy_may(const struct policy *policy, const struct peer *peer, enum right right,
    const char *name_or_endpoint, uid_t owner)
{
    bool is_endpoint = strchr(name_or_endpoint, '/');

    if (peer->uid == 0 || peer->uid == owner)
        return true;
    for (size_t i = 0; policy && i < policy->n_rules; i++) {
        const struct rule *rule = &policy->rules[i];

        if ((right == RIGHT_LIST ? rule->rights != 0 : (rule->rights >> right) & 1) && is_named(rule, peer) &&
            matches(is_endpoint ? rule->endpoints : rule->names, name_or_endpoint))
            return true;
    }
    return false;
}
