/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The methods on scopes. */
#include "base/cleanup.h"
#include "base/fd.h"
#include "model/delegation.h"
#include "service/method.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

struct delegate_parameters {
    const char *scope;
    const struct value *endpoints;
    struct opt_int eventfds, links;
};

static const struct field delegate_fields[] = {
    { "scope", FIELD_STRING, offsetof(struct delegate_parameters, scope), FIELD_REQUIRED },
    { "endpoints", FIELD_STRINGS, offsetof(struct delegate_parameters, endpoints), FIELD_REQUIRED },
    { "maxEventfds", FIELD_INT, offsetof(struct delegate_parameters, eventfds), 0 },
    { "maxLinks", FIELD_INT, offsetof(struct delegate_parameters, links), 0 },
    FIELDS_END,
};

static int delegate(struct connection *connection, const void *parameters)
{
    const struct delegate_parameters *p = parameters;
    struct server *server = connection->server;
    CLEANUP(freep) const char **endpoints = method_strings(p->endpoints);
    struct delegation_request request = {
        .scope = p->scope,
        .endpoints = endpoints,
        .n_endpoints = value_size(p->endpoints),
        .limit = { .eventfds = p->eventfds.set ? (size_t)p->eventfds.value : SIZE_MAX,
            .links = p->links.set ? (size_t)p->links.value : SIZE_MAX },
    };
    struct delegation *delegation;
    struct fault fault;
    int pair[2], r;

    if (!endpoints)
        return -ENOMEM;
    if (p->eventfds.value < 0)
        return method_invalid(connection, "maxEventfds");
    if (p->links.value < 0)
        return method_invalid(connection, "maxLinks");
    r = model_delegate(server->model, &connection->peer, &request, &delegation, &fault);
    if (r)
        return method_result(connection, r, &fault);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        r = -errno;
        delegation_free(delegation);
        return r;
    }
    r = connection_delegate(server, pair[0], delegation, &fault);
    if (r) {
        fd_close(pair[1]);
        return method_result(connection, r, &fault);
    }
    emit_int(connection_begin(connection), "fileDescriptorIndex", 0);
    connection_end_fd(connection, pair[1]);
    return 0;
}

struct revoke_parameters {
    const char *scope;
};

static const struct field revoke_fields[] = {
    { "scope", FIELD_STRING, offsetof(struct revoke_parameters, scope), FIELD_REQUIRED },
    FIELDS_END,
};

static int revoke(struct connection *connection, const void *parameters)
{
    const struct revoke_parameters *p = parameters;
    const struct peer *peer = &connection->peer;
    struct server *server = connection->server;
    struct connection *other, *next;
    struct fault fault;
    bool any = false;

    if (!scope_is_valid(p->scope))
        return method_invalid(connection, "scope");
    if (!scope_has(peer_scope(peer), p->scope))
        return method_result(connection, fault_set(&fault, FAULT_PERMISSION, NULL, NULL, NULL, 0), &fault);
    /* Never the caller's own: its scope is not within itself. */
    LIST_FOREACH_SAFE (other, &server->connections, in_server, next)
        if (other->delegation && policy_may_revoke(peer, p->scope, &other->peer)) {
            any = true;
            connection_free(other);
        }
    if (!any)
        return method_invalid(connection, "scope");
    connection_done(connection);
    return 0;
}

const struct method delegate_methods[] = {
    { "Delegate", delegate, delegate_fields, false },
    { "Revoke", revoke, revoke_fields, false },
    { NULL, NULL, NULL, false },
};
