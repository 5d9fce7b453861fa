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
    bool details;
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

static const struct field link_fields[] = {
    MATCH_FIELD,
    { "group", FIELD_STRING, offsetof(struct list_parameters, group), 0 },
    { "details", FIELD_BOOL, offsetof(struct list_parameters, details), 0 },
    FIELDS_END,
};

/* The most names that are looked at for one reply, before others have their turn. */
#define LOOKS_MAX 32

/* stream() is called until the last reply is made. */
static int begin(struct connection *connection, const struct list_parameters *p,
    void (*stream)(struct connection *connection))
{
    if (!method_match_is_valid(p->match))
        return method_invalid(connection, "match");
    if (!method_match_is_valid(p->group))
        return method_invalid(connection, "group");
    connection->stream = stream;
    connection->match = p->match;
    connection->group = p->group;
    connection->cursor[0] = '\0';
    return 0;
}

static bool is_shown(const struct connection *connection, const char *name, const struct peer *owner)
{
    return model_may(connection->server->model, &connection->peer, RIGHT_LIST, name, owner) &&
           (!connection->match || fnmatch(connection->match, name, 0) == 0);
}

/*
 * Goes on until there is a reply, or for so many names. look: takes the name behind the cursor, shows what it
 * stands for if that is to be shown, and says so; NULL: there is none.
 */
static void look_on(
    struct connection *connection, const char *(*look)(struct connection *connection, bool *ret_shown))
{
    bool shown = false;

    for (int i = 0; i < LOOKS_MAX && !shown; i++) {
        const char *name = look(connection, &shown);

        if (!name) {
            connection_end_stream(connection);
            return;
        }
        strcpy(connection->cursor, name);
    }
}

static const char *look_at_eventfd(struct connection *connection, bool *ret_shown)
{
    struct held *held = model_next_held(connection->server->model, connection->cursor);

    if (!held)
        return NULL;
    *ret_shown = is_shown(connection, held->name, &held->owner);
    if (!*ret_shown)
        return held->name;
    show_eventfd(connection_begin_next(connection), "eventfd", &connection->peer, held, true);
    if (show_has_eoi(&connection->peer, held))
        show_eoi(connection_begin_next(connection), "eventfd", &connection->peer, held, true);
    return held->name;
}

static void stream_eventfds(struct connection *connection)
{
    look_on(connection, look_at_eventfd);
}

static int list_eventfds(struct connection *connection, const void *parameters)
{
    return begin(connection, parameters, stream_eventfds);
}

/* The link behind the cursor, and whether it is to be shown; NULL: there is none. */
static const struct link *next_link(struct connection *connection, bool *ret_shown)
{
    const struct link *link = model_next_link(connection->server->model, connection->cursor);

    *ret_shown = link && is_shown(connection, link->name, &link->owner) &&
                 (!connection->group || (link->group && strcmp(connection->group, link->group) == 0));
    return link;
}

static const char *look_at_link(struct connection *connection, bool *ret_shown)
{
    const struct link *link = next_link(connection, ret_shown);

    if (*ret_shown)
        show_link(connection_begin_next(connection), "link", link, NULL);
    return link ? link->name : NULL;
}

static void stream_links(struct connection *connection)
{
    look_on(connection, look_at_link);
}

static const char *look_at_details(struct connection *connection, bool *ret_shown)
{
    const struct link *link = next_link(connection, ret_shown);

    if (*ret_shown)
        show_link(connection_begin_next(connection), "link", link, &connection->peer);
    return link ? link->name : NULL;
}

static void stream_details(struct connection *connection)
{
    look_on(connection, look_at_details);
}

static int list_links(struct connection *connection, const void *parameters)
{
    const struct list_parameters *p = parameters;

    return begin(connection, p, p->details ? stream_details : stream_links);
}

static const char *look_at_spec(struct connection *connection, bool *ret_shown)
{
    const struct link *link = next_link(connection, ret_shown);

    if (*ret_shown)
        show_spec(connection_begin_next(connection), "link", link);
    return link ? link->name : NULL;
}

static void stream_specs(struct connection *connection)
{
    look_on(connection, look_at_spec);
}

static int export(struct connection *connection, const void *parameters)
{
    return begin(connection, parameters, stream_specs);
}

static const char *look_at_agent(struct connection *connection, bool *ret_shown)
{
    struct agent *agent = model_next_agent(connection->server->model, connection->cursor);

    if (!agent)
        return NULL;
    *ret_shown = is_shown(connection, agent->name, &agent->owner);
    if (*ret_shown)
        show_agent(connection_begin_next(connection), "agent", agent);
    return agent->name;
}

static void stream_agents(struct connection *connection)
{
    look_on(connection, look_at_agent);
}

static int list_agents(struct connection *connection, const void *parameters)
{
    return begin(connection, parameters, stream_agents);
}

const struct method list_methods[] = {
    { "ListEventfds", list_eventfds, match_fields, true },
    { "ListLinks", list_links, link_fields, true },
    { "Export", export, match_group_fields, true },
    { "ListAgents", list_agents, match_fields, true },
    { NULL, NULL, NULL, false },
};
