/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Subscriptions to notices: see monitor.h. */
#include "service/monitor.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "service/method.h"

#include <errno.h>
#include <fnmatch.h>
#include <string.h>

/* What may wait for one subscriber. */
#define QUEUE_MAX ((size_t)128 * 1024)

/* The most types in one call: newer brokers may have more than we do. */
#define TYPES_MAX 256

struct monitor {
    struct connection *connection;
    bool all;               /* no types were given */
    bool wanted[N_NOTICES]; /* else these */
    const char *match;      /* of the open call; NULL: everything */
    int64_t lost;
    LIST_ENTRY(monitor) in_server;
};

static bool may_see(const struct monitor *monitor, const struct news *news, const char *what)
{
    const struct connection *connection = monitor->connection;

    return what && model_may(connection->server->model, &connection->peer, RIGHT_LIST, what, news->owner);
}

/* link: the one that may be told. */
static bool is_wanted(const struct monitor *monitor, const struct news *news, const char *link)
{
    if (!(link || may_see(monitor, news, news->subject)) || (!monitor->all && !monitor->wanted[news->notice]))
        return false;
    return !monitor->match || fnmatch(monitor->match, news->subject, 0) == 0 ||
           (link && fnmatch(monitor->match, link, 0) == 0);
}

static struct emit *begin(struct monitor *monitor, const char *type, const char *subject)
{
    struct emit *emit = connection_begin(monitor->connection);

    emit_open(emit, "notice");
    emit_string(emit, "type", type);
    emit_int(emit, "at", clock_epoch());
    emit_string(emit, "subject", subject);
    return emit;
}

static void end(struct monitor *monitor)
{
    emit_close(&monitor->connection->emit);
    connection_end_notice(monitor->connection);
    connection_resume(monitor->connection);
}

void monitor_news(struct server *server, const struct news *news)
{
    struct monitor *monitor;

    LIST_FOREACH (monitor, &server->monitors, in_server) {
        const char *link = may_see(monitor, news, news->link) ? news->link : NULL;
        struct emit *emit;

        if (!is_wanted(monitor, news, link))
            continue;
        if (monitor->lost > 0 || !connection_has_room(monitor->connection, QUEUE_MAX)) {
            monitor->lost++;
            continue;
        }
        emit = begin(monitor, notice_name(news->notice), news->subject);
        emit_string(emit, "link", link);
        emit_string(emit, "reason", news->reason);
        end(monitor);
    }
}

void monitor_drained(struct monitor *monitor)
{
    if (monitor->lost == 0)
        return;
    emit_int(begin(monitor, "lost", "monitor"), "count", monitor->lost);
    end(monitor);
    monitor->lost = 0;
}

void monitor_free(struct monitor *monitor)
{
    const struct connection *connection = monitor->connection;

    LIST_REMOVE(monitor, in_server);
    model_refund(connection->server->model, &connection->peer, QUOTA_SUBSCRIBERS, 1);
    free(monitor);
}

struct monitor_parameters {
    const struct value *types;
    const char *match;
};

static const struct field monitor_fields[] = {
    { "types", FIELD_STRINGS, offsetof(struct monitor_parameters, types), 0 },
    { "match", FIELD_STRING, offsetof(struct monitor_parameters, match), 0 },
    FIELDS_END,
};

/* A type that a newer or an older broker has is none of ours, and no error. */
static void want(struct monitor *monitor, const char *type)
{
    for (size_t i = 0; i < N_NOTICES; i++)
        if (strcmp(notice_name((enum notice)i), type) == 0)
            monitor->wanted[i] = true;
}

static int subscribe(struct connection *connection, const void *parameters)
{
    const struct monitor_parameters *p = parameters;
    struct model *model = connection->server->model;
    struct monitor *monitor;
    struct fault fault;
    const struct value *type;
    int r;

    if (!method_match_is_valid(p->match))
        return method_invalid(connection, "match");
    if (value_size(p->types) > TYPES_MAX)
        return method_invalid(connection, "types");
    r = model_charge(model, &connection->peer, QUOTA_SUBSCRIBERS, 1, &fault);
    if (r)
        return method_result(connection, r, &fault);
    monitor = calloc(1, sizeof(*monitor));
    if (!monitor) {
        model_refund(model, &connection->peer, QUOTA_SUBSCRIBERS, 1);
        return -ENOMEM;
    }
    monitor->connection = connection;
    monitor->match = p->match;
    monitor->all = !p->types;
    VALUE_FOREACH(type, p->types)
    want(monitor, type->string);
    LIST_INSERT_HEAD(&connection->server->monitors, monitor, in_server);
    connection->monitor = monitor;
    /* The subscription stands: what happens from now on is told. */
    (void)connection_begin(connection);
    connection_end_notice(connection);
    return 0;
}

const struct method monitor_methods[] = {
    { "Monitor", subscribe, monitor_fields, true },
    { NULL, NULL, NULL, false },
};
