/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lists: one object a reply, ordered by name, each found behind the one before, so that what comes and
 * goes while a list is streamed disturbs nothing. Peers see what they may use.
 */
#include "service/method.h"
#include "service/show.h"

#include <fnmatch.h>
#include <string.h>

struct list_parameters {
    const char *match, *group;
};

#define MATCH_FIELD                                                       \
    {                                                                     \
        "match", FIELD_STRING, offsetof(struct list_parameters, match), 0 \
    }

static const struct field match_fields[] = {
    MATCH_FIELD,
    FIELDS_END,
};

static const struct field match_group_fields[] = {
    MATCH_FIELD,
    { "group", FIELD_STRING, offsetof(struct list_parameters, group), 0 },
    FIELDS_END,
};

/* stream() is called for each reply. */
static int begin(struct connection *connection, const struct list_parameters *p,
    void (*stream)(struct connection *connection))
{
    connection->stream = stream;
    connection->match = p->match;
    connection->group = p->group;
    connection->cursor[0] = '\0';
    return 0;
}

static bool is_shown(const struct connection *connection, const char *name, const struct peer *owner)
{
    return policy_allows(&connection->peer, owner) &&
           (!connection->match || fnmatch(connection->match, name, 0) == 0);
}

/* Answers with one object, under key, whose name is the cursor from now on. object: consumed; NULL: there is
 * none. */
static void put(struct connection *connection, const char *key, json_t *object, const char *name, bool last)
{
    json_t *parameters = json_pack("{s:o*}", key, object);

    if (name)
        strcpy(connection->cursor, name);
    if (last)
        connection_reply(connection, parameters);
    else
        connection_stream_reply(connection, parameters);
}

static struct held *next_held(struct connection *connection, const char *name)
{
    struct held *held = model_next_held(connection->server->model, name);

    while (held && !is_shown(connection, held->name, &held->owner))
        held = model_next_held(connection->server->model, held->name);
    return held;
}

static void stream_eventfds(struct connection *connection)
{
    struct held *held = next_held(connection, connection->cursor);
    json_t *eoi;
    bool last;

    if (!held) {
        put(connection, "eventfd", NULL, NULL, true);
        return;
    }
    last = !next_held(connection, held->name);
    eoi = show_eoi(&connection->peer, held, true);
    put(connection, "eventfd", show_eventfd(&connection->peer, held, true), held->name, last && !eoi);
    if (eoi)
        put(connection, "eventfd", eoi, NULL, last);
}

static int list_eventfds(struct connection *connection, const void *parameters)
{
    return begin(connection, parameters, stream_eventfds);
}

static struct link *next_link(struct connection *connection, const char *name)
{
    struct link *link = model_next_link(connection->server->model, name);

    while (link && (!is_shown(connection, link->name, &link->owner) ||
                       (connection->group && (!link->group || strcmp(connection->group, link->group) != 0))))
        link = model_next_link(connection->server->model, link->name);
    return link;
}

static void stream_links(struct connection *connection)
{
    struct link *link = next_link(connection, connection->cursor);

    if (link)
        put(connection, "link", show_link(link), link->name, !next_link(connection, link->name));
    else
        put(connection, "link", NULL, NULL, true);
}

static void stream_specs(struct connection *connection)
{
    struct link *link = next_link(connection, connection->cursor);

    if (link)
        put(connection, "link", show_spec(link), link->name, !next_link(connection, link->name));
    else
        put(connection, "link", NULL, NULL, true);
}

static int export(struct connection *connection, const void *parameters)
{
    return begin(connection, parameters, stream_specs);
}

static int list_links(struct connection *connection, const void *parameters)
{
    return begin(connection, parameters, stream_links);
}

static struct agent *next_agent(struct connection *connection, const char *name)
{
    struct agent *agent = model_next_agent(connection->server->model, name);

    while (agent && !is_shown(connection, agent->name, &agent->owner))
        agent = model_next_agent(connection->server->model, agent->name);
    return agent;
}

static void stream_agents(struct connection *connection)
{
    struct agent *agent = next_agent(connection, connection->cursor);

    if (agent)
        put(connection, "agent", show_agent(agent), agent->name, !next_agent(connection, agent->name));
    else
        put(connection, "agent", NULL, NULL, true);
}

static int list_agents(struct connection *connection, const void *parameters)
{
    return begin(connection, parameters, stream_agents);
}

const struct method list_methods[] = {
    { "ListEventfds", list_eventfds, match_fields, true },
    { "ListLinks", list_links, match_group_fields, true },
    { "Export", export, match_group_fields, true },
    { "ListAgents", list_agents, match_fields, true },
    { NULL, NULL, NULL, false },
};
