/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Delegations: who comes through a delegated connection, and what it may use. What can be delegated is judged
 * here; from then on policy.h does with the delegation's peer what it does with every peer.
 */
#ifndef MODEL_DELEGATION_H
#define MODEL_DELEGATION_H

#include "model/model.h"

struct delegation {
    struct saved saved;
    struct model *model;
    uint64_t socket, line; /* what these are kept under, 0: they are not */
    struct peer peer;      /* that of who delegated, and the scope: what it points to is the delegation's */
    struct standing standing; /* that it points to */
    struct grant *grant;
    struct groups *groups; /* NULL: none */
    int64_t since;
};

struct delegation_request {
    const char *scope;
    const char *const *endpoints;
    size_t n_endpoints;
    struct scope_limit limit; /* its scope is not looked at */
};

/* Returns as all calls of the model: 0, -errno, or a fault. */
int model_delegate(struct model *model, const struct peer *peer, const struct delegation_request *request,
    struct delegation **ret_delegation, struct fault *fault);

/* Its standing is what it has by now. */
void delegation_stand(struct delegation *delegation, struct origin *origin);

/* Its connection is served, and kept under those numbers: from now on it is on record. */
void model_delegated(struct delegation *delegation, uint64_t socket, uint64_t line);

struct delegation *delegation_free(struct delegation *delegation);

#endif
