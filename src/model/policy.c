/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who may: see policy.h. */
#include "model/policy.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

int origin_new(const char *scope, const char *label, struct origin **ret_origin)
{
    size_t size = strlen(label) + 1;
    struct origin *origin = NULL;

    if (scope[0] || label[0]) {
        origin = malloc(sizeof(*origin) + size);
        if (!origin)
            return -ENOMEM;
        origin->standing = (struct standing){ .origin = origin };
        origin->references = 1;
        strcpy(origin->scope, scope);
        memcpy(origin->label, label, size);
    }
    *ret_origin = origin;
    return 0;
}

struct origin *origin_ref(struct origin *origin)
{
    if (origin)
        origin->references++;
    return origin;
}

struct origin *origin_unref(struct origin *origin)
{
    if (origin && --origin->references == 0)
        free(origin);
    return NULL;
}

struct peer policy_owner(const struct peer *peer)
{
    struct peer owner = *peer;
    struct origin *origin = origin_ref(peer_origin(peer));

    owner.standing = origin ? &origin->standing : NULL;
    return owner;
}

void policy_disown(struct peer *owner)
{
    origin_unref(peer_origin(owner));
    owner->standing = NULL;
}

struct culprit policy_culprit(const struct peer *peer)
{
    struct culprit culprit = { .uid = peer->uid };

    _Static_assert(sizeof(culprit.tenant) == NAME_SIZE, "a tenant is known by its scope");
    (void)scope_next_level(peer_scope(peer), culprit.tenant);
    return culprit;
}

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
    const struct groups *groups = peer_groups(peer);

    if (peer->gid == gid)
        return true;
    for (size_t i = 0; groups && i < groups->n; i++)
        if (groups->gids[i] == gid)
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

static bool is_named(const struct rule *rule, const struct peer *peer)
{
    const char *label = peer_label(peer);

    if (rule->labels && !(label[0] && matches(rule->labels, label)))
        return false;
    if (rule->everybody || (rule->labels && rule->n_uids == 0 && rule->n_gids == 0))
        return true;
    for (size_t i = 0; i < rule->n_uids; i++)
        if (rule->uids[i] == peer->uid)
            return true;
    for (size_t i = 0; i < rule->n_gids; i++)
        if (has_gid(peer, rule->gids[i]))
            return true;
    return false;
}

bool policy_is_in_scope(const struct peer *peer, const char *name_or_endpoint)
{
    static const char held[] = "eventfd/";
    const char *scope = peer_scope(peer);
    size_t length = strlen(held);

    /* No endpoint looks like a name of a scope's, which has a dot where those have their first slash. */
    if (!scope[0] || scope_has(scope, name_or_endpoint))
        return true;
    if (!strchr(name_or_endpoint, '/'))
        return false;
    return !peer_grant(peer) || grant_covers(peer_grant(peer), name_or_endpoint) ||
           (strncmp(name_or_endpoint, held, length) == 0 && scope_has(scope, name_or_endpoint + length));
}

bool policy_may_revoke(const struct peer *peer, const char *scope, const struct peer *delegated)
{
    if (!scope_is_within(peer_scope(delegated), scope) || !scope_has(peer_scope(peer), scope))
        return false;
    return peer->uid == 0 || peer->uid == delegated->uid;
}

bool policy_may(const struct policy *policy, const struct peer *peer, enum right right,
    const char *name_or_endpoint, uid_t owner)
{
    bool is_endpoint = strchr(name_or_endpoint, '/');

    if (!policy_is_in_scope(peer, name_or_endpoint))
        return false;
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
