/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The methods on held eventfds, and Status. */
#include "base/cleanup.h"
#include "base/discard.h"
#include "base/fd.h"
#include "base/table.h"
#include "service/method.h"
#include "service/row.h"
#include "service/show.h"
#include "service/vault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct hold_parameters {
    const char *name;
    struct opt_int index;
    struct opt_bool semaphore;
    struct life_parameters life;
};

static const struct field hold_fields[] = {
    { "name", FIELD_STRING, offsetof(struct hold_parameters, name), FIELD_REQUIRED },
    { "fileDescriptorIndex", FIELD_INT, offsetof(struct hold_parameters, index), 0 },
    { "semaphore", FIELD_OPT_BOOL, offsetof(struct hold_parameters, semaphore), 0 },
    { "lifetime", FIELD_STRING, offsetof(struct hold_parameters, life.lifetime), 0 },
    { "leaseSeconds", FIELD_INT, offsetof(struct hold_parameters, life.lease), 0 },
    FIELDS_END,
};

/* Of a row, but where a link waits for that name, which would have it before it is safe. */
static int hold_one(struct connection *connection, const char *name, int *fd, const struct life_request *life)
{
    struct model *model = connection->server->model;
    struct row *row = connection->server->row;
    struct fault fault;
    struct held *held;
    int r;

    if (model_is_awaited(model, name))
        table_close();
    else
        row_open(row);
    r = model_hold(model, &connection->peer, &name, fd, 1, life, &held, &fault);
    if (r == 0) {
        if (row->open)
            row_add(row, connection, held);
        show_eventfd(connection_begin(connection), "eventfd", &connection->peer, held, false);
        connection_end(connection);
    }
    row_close(row);
    return method_result(connection, r, &fault);
}

int method_hold(struct connection *connection, const void *parameters)
{
    const struct hold_parameters *p = parameters;
    struct model *model = connection->server->model;
    CLEANUP(fd_discardp) int fd = -1;
    struct life_request life;
    struct eventfd_info info;
    struct fault fault;
    int r;

    if (method_life(connection, &p->life, false, &life) == 0)
        return 0;
    r = model_may_hold(model, &connection->peer, &p->name, 1, &fault);
    if (r)
        return method_result(connection, r, &fault);
    if (p->index.set) {
        fd = p->index.value < 0 ? -1 : fdset_steal(&connection->fds, (size_t)p->index.value);
        if (evaio_is_eventfd(connection->server->aio, fd) != 1)
            return method_not_an_eventfd(connection, p->index.value);
        if (p->semaphore.set && (eventfd_info(fd, &info) < 0 || info.semaphore != p->semaphore.value))
            return method_invalid(connection, "semaphore");
    } else {
        table_close();
        fd = eventfd_create(p->semaphore.value);
        if (fd < 0)
            return fd;
    }
    return hold_one(connection, p->name, &fd, &life);
}

struct hold_many_parameters {
    const struct value *names;
    struct life_parameters life;
};

static const struct field hold_many_fields[] = {
    { "names", FIELD_STRINGS, offsetof(struct hold_many_parameters, names), FIELD_REQUIRED },
    { "lifetime", FIELD_STRING, offsetof(struct hold_many_parameters, life.lifetime), 0 },
    { "leaseSeconds", FIELD_INT, offsetof(struct hold_many_parameters, life.lease), 0 },
    FIELDS_END,
};

/* What is wrong with the names of a call that brought no eventfd: that is told first. */
static int names_fault(struct connection *connection, const char *const *names, size_t n, struct fault *fault)
{
    int r = model_may_hold(connection->server->model, &connection->peer, names, n, fault);

    for (size_t i = 0; i < n && r == 0; i++)
        for (size_t k = 0; k < i && r == 0; k++)
            if (strcmp(names[i], names[k]) == 0)
                r = fault_set(fault, FAULT_NAME_TAKEN, names[i], NULL, NULL, 0);
    return r;
}

static int hold_many(struct connection *connection, const void *parameters)
{
    const struct hold_many_parameters *p = parameters;
    struct model *model = connection->server->model;
    const char *names[FRAME_MAX_FDS], **last = names;
    size_t n = value_size(p->names), bad = n;
    const struct value *name;
    int fds[FRAME_MAX_FDS], r;
    struct life_request life;
    struct fault fault;

    if (n == 0 || n > FRAME_MAX_FDS)
        return method_invalid(connection, "names");
    if (connection->fds.n > n && !connection->fds_lost)
        return method_invalid(connection, "names");
    if (method_life(connection, &p->life, false, &life) == 0)
        return 0;
    VALUE_FOREACH(name, p->names)
    *last++ = name->string;
    for (size_t i = 0; i < n; i++) {
        fds[i] = fdset_steal(&connection->fds, i);
        if (evaio_is_eventfd(connection->server->aio, fds[i]) != 1 && bad == n)
            bad = i;
    }
    /* The model sees where it puts them which names are taken: they need not be looked up before. */
    r = bad == n ? model_hold(model, &connection->peer, names, fds, n, &life, NULL, &fault)
                 : names_fault(connection, names, n, &fault);
    if (r == FAULT_INVALID)
        r = method_invalid(connection, "names");
    else if (r)
        r = method_result(connection, r, &fault);
    else if (bad < n)
        r = method_not_an_eventfd(connection, (int64_t)bad);
    else
        connection_done(connection);
    for (size_t i = 0; i < n; i++)
        fd_discard(fds[i]);
    return r < 0 ? r : 0;
}

static int claim(struct connection *connection, const void *parameters)
{
    const struct name_parameters *p = parameters;
    struct model *model = connection->server->model;
    struct fault fault;
    struct eventfd *eventfd;
    struct held *held;
    struct emit *emit;
    int r, fd;

    r = model_claim(model, &connection->peer, p->name, &held, &eventfd, &fault);
    if (r)
        return method_result(connection, r, &fault);
    fd = fd_dup(eventfd->fd);
    if (fd < 0)
        return fd;
    emit = connection_begin(connection);
    if (eventfd == held->eventfd)
        show_eventfd(emit, "eventfd", &connection->peer, held, false);
    else
        show_eoi(emit, "eventfd", &connection->peer, held, false);
    emit_int(emit, "fileDescriptorIndex", 0);
    connection_end_fd(connection, fd);
    return 0;
}

static int done(struct connection *connection, int r, const struct fault *fault)
{
    if (r)
        return method_result(connection, r, fault);
    connection_done(connection);
    return 0;
}

static int release(struct connection *connection, const void *parameters)
{
    const struct name_parameters *p = parameters;
    struct fault fault;

    return done(
        connection, model_release(connection->server->model, &connection->peer, p->name, &fault), &fault);
}

struct renew_parameters {
    const char *name, *link;
    struct opt_int lease;
};

static const struct field renew_fields[] = {
    { "name", FIELD_STRING, offsetof(struct renew_parameters, name), 0 },
    { "link", FIELD_STRING, offsetof(struct renew_parameters, link), 0 },
    { "leaseSeconds", FIELD_INT, offsetof(struct renew_parameters, lease), FIELD_REQUIRED },
    FIELDS_END,
};

static int renew(struct connection *connection, const void *parameters)
{
    const struct renew_parameters *p = parameters;
    struct model *model = connection->server->model;
    struct fault fault;

    if (!p->name == !p->link)
        return method_invalid(connection, "name");
    if (p->lease.value < 1)
        return method_invalid(connection, "leaseSeconds");
    return done(connection,
        p->name ? model_renew(model, &connection->peer, p->name, p->lease.value, &fault)
                : model_renew_link(model, &connection->peer, p->link, p->lease.value, &fault),
        &fault);
}

struct signal_parameters {
    const char *name;
    struct opt_int count;
};

static const struct field signal_fields[] = {
    { "name", FIELD_STRING, offsetof(struct signal_parameters, name), FIELD_REQUIRED },
    { "count", FIELD_INT, offsetof(struct signal_parameters, count), 0 },
    FIELDS_END,
};

static int signal_held(struct connection *connection, const void *parameters)
{
    const struct signal_parameters *p = parameters;
    int64_t count = p->count.set ? p->count.value : 1;
    struct fault fault;

    return done(connection,
        model_signal(connection->server->model, &connection->peer, p->name, count, &fault), &fault);
}

/* What the process before ended by, as far as it could tell. NULL: there was none. */
static const char *last_end(const struct vault_report *report)
{
    if (!report || report->last.starts == 0)
        return NULL;
    if (report->last.ended == LEDGER_STOPPED)
        return "stopped";
    if (report->last.ended > 0)
        return sigabbrev_np(report->last.ended);
    return getenv("EVLINK_LAST_END") ? getenv("EVLINK_LAST_END") : "killed";
}

static int status(struct connection *connection, const void *parameters)
{
    struct server *server = connection->server;
    struct model_counts counts = model_count(server->model);
    const struct vault_report *report = server->vault ? vault_report(server->vault) : NULL;
    struct emit *emit = connection_begin(connection);

    (void)parameters;
    emit_string(emit, "version", PACKAGE_VERSION);
    emit_int(emit, "startedAt", server->started_at);
    emit_bool(emit, "durable", report != NULL);
    emit_int(emit, "restoredEventfds", report ? (int64_t)report->eventfds : 0);
    emit_int(emit, "restoredLinks", report ? (int64_t)report->links : 0);
    emit_int(emit, "eventfds", (int64_t)counts.eventfds);
    emit_int(emit, "links", (int64_t)counts.links);
    emit_int(emit, "agents", (int64_t)counts.agents);
    emit_int(emit, "connections", (int64_t)server->n_connections);
    emit_string(emit, "lastEnd", last_end(report));
    if (report && report->last.starts > 0) {
        emit_int(emit, "restoredAgents", (int64_t)report->agents);
        emit_int(emit, "restoreMicroseconds", report->took);
    }
    connection_end(connection);
    return 0;
}

const struct method held_methods[] = {
    { "Hold", method_hold, hold_fields, false },
    { "HoldMany", hold_many, hold_many_fields, false },
    { "Claim", claim, method_name_fields, false },
    { "Renew", renew, renew_fields, false },
    { "Release", release, method_name_fields, false },
    { "Signal", signal_held, signal_fields, false },
    { "Status", status, NULL, false },
    { NULL, NULL, NULL, false },
};
