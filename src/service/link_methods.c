/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The methods on links. */
#include "base/cleanup.h"
#include "service/method.h"
#include "service/show.h"

#include <errno.h>
#include <string.h>

/* The most links of one ConnectMany. */
#define LINKS_MAX 1024

struct spec_parameters {
    const char *name, *group;
    const struct value *producers, *consumers, *labels;
};

#define SPEC_FIELDS(type, spec)                                                         \
    { "name", FIELD_STRING, offsetof(type, spec name), 0 },                             \
        { "producers", FIELD_STRINGS, offsetof(type, spec producers), FIELD_REQUIRED }, \
        { "consumers", FIELD_STRINGS, offsetof(type, spec consumers), FIELD_REQUIRED }, \
        { "group", FIELD_STRING, offsetof(type, spec group), 0 },                       \
    {                                                                                   \
        "labels", FIELD_DICT, offsetof(type, spec labels), 0                            \
    }

static const char **put_strings(const char **to, const struct value *array)
{
    const struct value *item;

    VALUE_FOREACH(item, array)
    *to++ = item->string;
    return to;
}

/* Points a request to what is in the call; *ret_strings is the array that it points through. */
static int make_request(
    const struct spec_parameters *spec, struct link_request *ret_request, const char ***ret_strings)
{
    struct link_request request = {
        .name = spec->name,
        .group = spec->group,
        .n_producers = value_size(spec->producers),
        .n_consumers = value_size(spec->consumers),
        .n_labels = value_size(spec->labels),
    };
    const struct value *label;
    const char **strings, **to;

    strings = calloc(request.n_producers + request.n_consumers + 2 * request.n_labels + 1, sizeof(*strings));
    if (!strings)
        return -ENOMEM;
    request.producers = to = strings;
    request.consumers = to = put_strings(to, spec->producers);
    request.labels = to = put_strings(to, spec->consumers);
    VALUE_FOREACH(label, spec->labels)
    {
        *to++ = label->key;
        *to++ = label->string;
    }
    *ret_request = request;
    *ret_strings = strings;
    return 0;
}

/* Has room ready for an answer that tells links of these requests. -ENOMEM. */
static int expect(struct connection *connection, const struct link_request *requests, size_t n)
{
    size_t most = 0;

    for (const struct link_request *request = requests; request < requests + n; request++)
        most += show_link_most(&connection->peer, request->n_producers + request->n_consumers,
            request->labels, request->n_labels);
    return connection_expect(connection, most);
}

static size_t link_most(const struct link *link, size_t more_ends)
{
    size_t n = 0;

    while (link->labels && link->labels[2 * n])
        n++;
    return show_link_most(&link->owner, link->n_ends + more_ends, (const char *const *)link->labels, n);
}

/* The same of what is told of a link, which may get another end, or of a group. */
static int expect_named(struct connection *connection, const char *name, const char *group)
{
    struct model *model = connection->server->model;
    const struct link *link = name && !group ? model_find_link(model, name) : NULL;
    size_t most = link ? link_most(link, 1) : 0;

    if (group && !name)
        while ((link = model_next_member(model, group, link)))
            most += link_most(link, 0);
    return connection_expect(connection, most);
}

/* Whether the open call is of a method that answers with one link, not with several. */
static bool tells_one(const struct connection *connection)
{
    const char *name = strrchr(connection->call.method, '.');

    return strcmp(name, ".Connect") == 0 || strcmp(name, ".Move") == 0;
}

static void on_links(void *userdata, int r, const struct fault *fault, struct link *const *links, size_t n)
{
    struct connection *connection = userdata;
    struct emit *emit;

    if (r) {
        if (method_fault(connection, fault) < 0)
            connection->failed = true;
    } else if (!links) {
        connection->failed = true;
    } else if (tells_one(connection)) {
        show_link(connection_begin(connection), "link", links[0], NULL);
        connection_end(connection);
    } else {
        emit = connection_begin(connection);
        emit_open_array(emit, "links");
        for (size_t i = 0; i < n; i++)
            show_link(emit, NULL, links[i], NULL);
        emit_close_array(emit);
        connection_end(connection);
    }
    method_job_ended(connection);
}

struct connect_parameters {
    struct spec_parameters spec;
    struct opt_bool wait;
    struct life_parameters life;
};

static const struct field connect_fields[] = {
    SPEC_FIELDS(struct connect_parameters, spec.),
    { "wait", FIELD_OPT_BOOL, offsetof(struct connect_parameters, wait), 0 },
    { "lifetime", FIELD_STRING, offsetof(struct connect_parameters, life.lifetime), 0 },
    { "leaseSeconds", FIELD_INT, offsetof(struct connect_parameters, life.lease), 0 },
    FIELDS_END,
};

static int connect_one(struct connection *connection, const void *parameters)
{
    const struct connect_parameters *p = parameters;
    CLEANUP(freep) const char **strings = NULL;
    struct link_request request;
    struct life_request life;
    struct fault fault;
    struct job *job;
    int r;

    if (method_life(connection, &p->life, true, &life) == 0)
        return 0;
    r = make_request(&p->spec, &request, &strings);
    if (r == 0)
        r = expect(connection, &request, 1);
    if (r < 0)
        return r;
    r = model_connect(connection->server->model, &connection->peer, &request, 1,
        !p->wait.set || p->wait.value, &life, on_links, connection, &job, &fault);
    return method_job(connection, r, job, &fault);
}

struct connect_many_parameters {
    const struct value *links;
    struct opt_bool wait;
    struct life_parameters life;
};

static const struct field connect_many_fields[] = {
    { "links", FIELD_OBJECTS, offsetof(struct connect_many_parameters, links), FIELD_REQUIRED },
    { "wait", FIELD_OPT_BOOL, offsetof(struct connect_many_parameters, wait), 0 },
    { "lifetime", FIELD_STRING, offsetof(struct connect_many_parameters, life.lifetime), 0 },
    { "leaseSeconds", FIELD_INT, offsetof(struct connect_many_parameters, life.lease), 0 },
    FIELDS_END,
};

static const struct field spec_fields[] = {
    SPEC_FIELDS(struct spec_parameters, ),
    FIELDS_END,
};

static int connect_many(struct connection *connection, const void *parameters)
{
    const struct connect_many_parameters *p = parameters;
    size_t n = value_size(p->links), made = 0;
    struct link_request *requests;
    struct life_request life;
    const struct value *link;
    const char ***strings, *bad;
    struct fault fault;
    struct job *job;
    int r = 0;

    if (n == 0 || n > LINKS_MAX)
        return method_invalid(connection, "links");
    if (method_life(connection, &p->life, true, &life) == 0)
        return 0;
    requests = calloc(n, sizeof(*requests));
    strings = calloc(n, sizeof(*strings));
    for (link = p->links + 1; requests && strings && made < n; made++, link += link->span) {
        struct spec_parameters spec = { 0 };

        if (fields_read(link, spec_fields, FIELDS_STRICT, &spec, &bad) < 0) {
            r = method_invalid(connection, bad);
            break;
        }
        r = make_request(&spec, &requests[made], &strings[made]);
        if (r < 0)
            break;
    }
    if (!requests || !strings)
        r = -ENOMEM;
    if (made == n)
        r = expect(connection, requests, n);
    if (made == n && r == 0) {
        r = model_connect(connection->server->model, &connection->peer, requests, n,
            !p->wait.set || p->wait.value, &life, on_links, connection, &job, &fault);
        r = method_job(connection, r, job, &fault);
    }
    while (made-- > 0)
        free(strings[made]);
    free(strings);
    free(requests);
    return r;
}

struct name_or_group {
    const char *name, *group;
};

static const struct field name_or_group_fields[] = {
    { "name", FIELD_STRING, offsetof(struct name_or_group, name), 0 },
    { "group", FIELD_STRING, offsetof(struct name_or_group, group), 0 },
    FIELDS_END,
};

static int disconnect(struct connection *connection, const void *parameters)
{
    const struct name_or_group *p = parameters;
    struct fault fault;
    struct job *job;
    int r;

    r = model_disconnect(connection->server->model, &connection->peer, p->name, p->group, method_job_done,
        connection, &job, &fault);
    return method_job(connection, r, job, &fault);
}

static int park(struct connection *connection, const void *parameters)
{
    const struct name_or_group *p = parameters;
    struct fault fault;
    struct job *job;
    int r = expect_named(connection, p->name, p->group);

    if (r < 0)
        return r;
    r = model_park(
        connection->server->model, &connection->peer, p->name, p->group, on_links, connection, &job, &fault);
    return method_job(connection, r, job, &fault);
}

static int resume(struct connection *connection, const void *parameters)
{
    const struct name_or_group *p = parameters;
    struct fault fault;
    struct job *job;
    int r = expect_named(connection, p->name, p->group);

    if (r < 0)
        return r;
    r = model_resume(
        connection->server->model, &connection->peer, p->name, p->group, on_links, connection, &job, &fault);
    return method_job(connection, r, job, &fault);
}

struct move_parameters {
    const char *name, *from, *to;
};

static const struct field move_fields[] = {
    { "name", FIELD_STRING, offsetof(struct move_parameters, name), FIELD_REQUIRED },
    { "from", FIELD_STRING, offsetof(struct move_parameters, from), FIELD_REQUIRED },
    { "to", FIELD_STRING, offsetof(struct move_parameters, to), FIELD_REQUIRED },
    FIELDS_END,
};

static int move(struct connection *connection, const void *parameters)
{
    const struct move_parameters *p = parameters;
    struct fault fault;
    struct job *job;
    int r = expect_named(connection, p->name, NULL);

    if (r < 0)
        return r;
    r = model_move(connection->server->model, &connection->peer, p->name, p->from, p->to, on_links,
        connection, &job, &fault);
    return method_job(connection, r, job, &fault);
}

struct leave_parameters {
    const char *endpoint, *reason;
};

static const struct field leave_fields[] = {
    { "endpoint", FIELD_STRING, offsetof(struct leave_parameters, endpoint), FIELD_REQUIRED },
    { "reason", FIELD_STRING, offsetof(struct leave_parameters, reason), 0 },
    FIELDS_END,
};

static int leave(struct connection *connection, const void *parameters)
{
    const struct leave_parameters *p = parameters;
    struct fault fault;
    struct job *job;
    int r;

    if (p->reason && strlen(p->reason) > METHOD_REASON_MAX)
        return method_invalid(connection, "reason");
    r = model_leave(connection->server->model, &connection->peer, p->endpoint, p->reason, method_job_done,
        connection, &job, &fault);
    return method_job(connection, r, job, &fault);
}

const struct method link_methods[] = {
    { "Connect", connect_one, connect_fields, false },
    { "ConnectMany", connect_many, connect_many_fields, false },
    { "Disconnect", disconnect, name_or_group_fields, false },
    { "Park", park, name_or_group_fields, false },
    { "Resume", resume, name_or_group_fields, false },
    { "Move", move, move_fields, false },
    { "Leave", leave, leave_fields, false },
    { NULL, NULL, NULL, false },
};
