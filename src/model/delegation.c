/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Delegations: see delegation.h. */
#include "model/delegation.h"
#include "base/clock.h"
#include "model/private.h"

#include <errno.h>
#include <string.h>

/*
 * Whether peer has a right to an entry, as far as what is there now goes: each use is judged again. Whoever
 * is let by a rule has a right to a whole subsystem of another's if that rule's glob takes whatever is in it.
 */
static bool may_give(struct model *model, const struct peer *peer, const char *entry,
    const struct endpoint *sample, bool whole)
{
    char text[ENDPOINT_SIZE + 2];
    const struct peer *owner = NULL;
    const struct held *held;
    const struct site *site;

    if (!policy_is_in_scope(peer, entry))
        return false;
    if (endpoint_subsystem(sample) == SUBSYSTEM_NONE) {
        held = held_find(model, endpoint_name(sample));
        owner = held ? &held->owner : NULL;
    } else {
        site = site_find(model, endpoint_subsystem(sample), endpoint_name(sample));
        owner = site && site->agent ? &site->agent->owner : NULL;
    }
    strcpy(text, entry);
    strcat(text, whole ? "" : "/*");
    return !owner || model_may(model, peer, RIGHT_CONNECT, text, owner);
}

/* Adds what is asked for to a grant: its entries, in canonical form. */
static int take_endpoints(struct model *model, const struct peer *peer,
    const struct delegation_request *request, struct grant *grant, struct fault *fault)
{
    struct fault bad = { 0 };
    int r = 0;

    for (size_t i = 0; i < request->n_endpoints && r == 0; i++) {
        char entry[ENDPOINT_SIZE];
        struct endpoint sample;
        const char *reason;
        bool whole;

        if (grant_parse(request->endpoints[i], entry, &sample, &whole, &reason) < 0) {
            if (!bad.code)
                (void)fault_set(&bad, FAULT_BAD_ENDPOINT, request->endpoints[i], NULL, reason, 0);
        } else if (!may_give(model, peer, entry, &sample, whole)) {
            r = fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
        } else {
            r = grant_add(grant, entry);
        }
    }
    /* Permission comes first, wherever in the list it lacks. */
    if (r == 0 && bad.code) {
        *fault = bad;
        r = (int)bad.code;
    }
    return r;
}

/* The limits of the scopes that it is delegated from go on counting, beside its own. */
static int take_limits(const struct peer *peer, const struct delegation_request *request, struct grant *grant)
{
    const struct grant *from = peer_grant(peer);
    struct scope_limit limit = request->limit;
    int r = 0;

    for (size_t i = 0; from && i < from->n_limits && r == 0; i++)
        r = grant_limit(grant, &from->limits[i]);
    strcpy(limit.scope, request->scope);
    if (r == 0 && (limit.eventfds != SIZE_MAX || limit.links != SIZE_MAX))
        r = grant_limit(grant, &limit);
    return r;
}

static int copy_groups(const struct groups *groups, struct groups **ret_groups)
{
    size_t size = groups ? sizeof(*groups) + groups->n * sizeof(gid_t) : 0;

    *ret_groups = groups ? malloc(size) : NULL;
    if (*ret_groups)
        memcpy(*ret_groups, groups, size);
    return groups && !*ret_groups ? -ENOMEM : 0;
}

int model_delegate(struct model *model, const struct peer *peer, const struct delegation_request *request,
    struct delegation **ret_delegation, struct fault *fault)
{
    struct delegation *delegation;
    struct origin *origin;
    int r;

    if (!scope_is_valid(request->scope))
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "scope", 0);
    if (!scope_has(peer_scope(peer), request->scope))
        return fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
    if (request->n_endpoints > SCOPE_ENDPOINTS_MAX)
        return fault_set(
            fault, FAULT_QUOTA_EXCEEDED, NULL, NULL, "endpoints of one scope", SCOPE_ENDPOINTS_MAX);
    delegation = calloc(1, sizeof(*delegation));
    if (!delegation)
        return -ENOMEM;
    delegation->model = model;
    delegation->peer = (struct peer){ .uid = peer->uid, .gid = peer->gid, .pid = peer->pid };
    delegation->since = clock_epoch();
    r = grant_new(&delegation->grant);
    if (r == 0)
        r = take_endpoints(model, peer, request, delegation->grant, fault);
    if (r == 0)
        r = take_limits(peer, request, delegation->grant);
    if (r == 0)
        r = copy_groups(peer_groups(peer), &delegation->groups);
    if (r == 0)
        r = origin_new(request->scope, peer_label(peer), &origin);
    if (r) {
        delegation_free(delegation);
        return r;
    }
    delegation_stand(delegation, origin);
    *ret_delegation = delegation;
    return 0;
}

void delegation_stand(struct delegation *delegation, struct origin *origin)
{
    delegation->standing =
        (struct standing){ .groups = delegation->groups, .grant = delegation->grant, .origin = origin };
    delegation->peer.standing = &delegation->standing;
}

void model_delegated(struct delegation *delegation, uint64_t socket, uint64_t line)
{
    delegation->socket = socket;
    delegation->line = line;
    saved_init(delegation->model, &delegation->saved, SAVED_DELEGATION);
}

struct delegation *delegation_free(struct delegation *delegation)
{
    if (!delegation)
        return NULL;
    if (delegation->saved.number > 0)
        saved_end(delegation->model, &delegation->saved);
    origin_unref(delegation->standing.origin);
    grant_free(delegation->grant);
    free(delegation->groups);
    free(delegation);
    return NULL;
}
