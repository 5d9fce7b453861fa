/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What there is: the lists, which come as streams of one object a reply, the status, and evlink_call() for
 * methods that have no function.
 */
#include "base/cleanup.h"
#include "lib/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct list {
    const char *method;
    const char *member; /* of each reply, the object */
    const char *match, *group;
    /*
     * Takes the object apart and calls back: what the callback returned; or, with *ret_bad the member in
     * question, -EPROTO where it made no sense, and -ENOMEM.
     */
    int (*show)(const struct value *object, const void *reader, const char **ret_bad);
    const void *reader; /* the callback and its userdata */
};

static int read_list(struct evlink_client *client, const struct list *list, struct evl_params *params)
{
    bool more = true;
    int r;

    r = evl_client_send(client, params, VARLINK_MORE, NULL);
    if (r < 0)
        return r;
    while (more) {
        CLEANUP(evl_answer_clear) struct evl_answer answer = { 0 };
        const char *bad = NULL;
        const struct value *object;

        r = evl_client_next(client, &answer);
        if (r < 0)
            return r;
        if (answer.reply.error)
            return evl_client_error(client, params, answer.reply.error, answer.reply.parameters);
        more = answer.reply.continues;
        object = value_get(answer.reply.parameters, list->member);
        /* The answer to an empty list is one reply without an object. */
        if (!object || object->type == VALUE_NULL)
            continue;
        r = list->show(object, list->reader, &bad);
        if (bad && r == -ENOMEM)
            return evl_client_close(client, r,
                "there was no memory for the %s in an answer, and the rest of the list was under way", bad);
        if (bad)
            return evl_client_nonsense(client, bad);
        if (r != 0)
            return evl_client_close(
                client, r, "its reader ended a list with %d, and the rest of the list was under way", r);
    }
    return 0;
}

static int run_list(struct evlink_client *client, const struct list *list)
{
    struct evl_params params;
    int r;

    evl_params_begin(&params, list->method);
    evl_params_optional(&params, "match", list->match);
    evl_params_optional(&params, "group", list->group);
    r = evl_client_begin(client);
    if (r == 0) {
        r = read_list(client, list, &params);
        evl_client_end(client);
    }
    evl_params_clear(&params);
    return r;
}

/* A NULL-terminated array of an array's strings, which are borrowed. -ENOMEM. */
static int make_strings(const struct value *array, const char ***ret_list, const char **ret_bad)
{
    const char **list = calloc(value_size(array) + 1, sizeof(*list));
    const struct value *item;
    size_t i = 0;

    if (!list) {
        *ret_bad = array->key;
        return -ENOMEM;
    }
    VALUE_FOREACH(item, array)
    list[i++] = item->string;
    *ret_list = list;
    return 0;
}

struct owner {
    struct opt_int uid, pid;
};

/* Takes object apart, and its owner. -EPROTO. */
static int decode(const struct value *object, const struct field *fields, void *out, struct owner *ret_owner,
    const char **ret_bad)
{
    static const struct field owner_fields[] = {
        { "uid", FIELD_INT, offsetof(struct owner, uid), FIELD_REQUIRED },
        { "pid", FIELD_INT, offsetof(struct owner, pid), FIELD_REQUIRED },
        FIELDS_END,
    };

    if (fields_read(object, fields, FIELDS_LENIENT, out, ret_bad) < 0 ||
        (ret_owner &&
            fields_read(value_get(object, "owner"), owner_fields, FIELDS_LENIENT, ret_owner, ret_bad) < 0))
        return -EPROTO;
    return 0;
}

/* ---- Eventfds ---- */

struct eventfd_reader {
    int (*callback)(void *userdata, const struct evlink_eventfd_info *info);
    void *userdata;
};

struct eventfd_in {
    const char *name, *lifetime;
    struct opt_int id, pending, lease, since;
    bool semaphore;
    const struct value *links;
};

static int show_eventfd(const struct value *object, const void *data, const char **ret_bad)
{
    static const struct field fields[] = {
        { "name", FIELD_STRING, offsetof(struct eventfd_in, name), FIELD_REQUIRED },
        { "eventfdId", FIELD_INT, offsetof(struct eventfd_in, id), 0 },
        { "pending", FIELD_INT, offsetof(struct eventfd_in, pending), 0 },
        { "semaphore", FIELD_BOOL, offsetof(struct eventfd_in, semaphore), 0 },
        { "lifetime", FIELD_STRING, offsetof(struct eventfd_in, lifetime), FIELD_REQUIRED },
        { "leaseSeconds", FIELD_INT, offsetof(struct eventfd_in, lease), 0 },
        { "links", FIELD_STRINGS, offsetof(struct eventfd_in, links), FIELD_REQUIRED },
        { "since", FIELD_INT, offsetof(struct eventfd_in, since), FIELD_REQUIRED },
        FIELDS_END,
    };
    const struct eventfd_reader *reader = data;
    struct eventfd_in in = { .id.value = -1 };
    struct owner owner = { 0 };
    CLEANUP(freep) const char **links = NULL;
    int r;

    r = decode(object, fields, &in, &owner, ret_bad);
    if (r == 0)
        r = make_strings(in.links, &links, ret_bad);
    if (r < 0)
        return r;
    return reader->callback(reader->userdata, &(const struct evlink_eventfd_info){
                                                  .name = in.name,
                                                  .eventfd_id = in.id.value,
                                                  .pending = (uint64_t)in.pending.value,
                                                  .semaphore = in.semaphore,
                                                  .uid = (uid_t)owner.uid.value,
                                                  .pid = (pid_t)owner.pid.value,
                                                  .lifetime = in.lifetime,
                                                  .lease_seconds = in.lease.value,
                                                  .links = links,
                                                  .since = in.since.value,
                                              });
}

int evlink_list_eventfds(struct evlink_client *client, const char *match,
    int (*callback)(void *userdata, const struct evlink_eventfd_info *info), void *userdata)
{
    const struct eventfd_reader reader = { callback, userdata };

    return run_list(client, &(const struct list){
                                .method = BROKER("ListEventfds"),
                                .member = "eventfd",
                                .match = match,
                                .show = show_eventfd,
                                .reader = &reader,
                            });
}

/* ---- Links ---- */

struct link_reader {
    int (*callback)(void *userdata, const struct evlink_link_info *info);
    void *userdata;
};

struct link_in {
    const char *name, *group, *state, *reason, *lifetime;
    const struct value *producers, *consumers;
    bool relayed;
    struct opt_int forwarded, since;
};

/* Takes the ends apart: an array of value_size() for the caller to free. -ENOMEM, -EPROTO. */
static int decode_ends(const struct value *array, struct evlink_end_info **ret_ends, const char **ret_bad)
{
    static const struct field fields[] = {
        { "endpoint", FIELD_STRING, offsetof(struct evlink_end_info, endpoint), FIELD_REQUIRED },
        { "state", FIELD_STRING, offsetof(struct evlink_end_info, state), FIELD_REQUIRED },
        { "reason", FIELD_STRING, offsetof(struct evlink_end_info, reason), 0 },
        FIELDS_END,
    };
    CLEANUP(freep) struct evlink_end_info *ends = calloc(value_size(array) + 1, sizeof(*ends));
    const struct value *item;
    size_t i = 0;

    if (!ends) {
        *ret_bad = array->key;
        return -ENOMEM;
    }
    VALUE_FOREACH(item, array)
    if (decode(item, fields, &ends[i++], NULL, ret_bad) < 0)
        return -EPROTO;
    *ret_ends = TAKE(ends);
    return 0;
}

static int show_link(const struct value *object, const void *data, const char **ret_bad)
{
    static const struct field fields[] = {
        { "name", FIELD_STRING, offsetof(struct link_in, name), FIELD_REQUIRED },
        { "group", FIELD_STRING, offsetof(struct link_in, group), 0 },
        { "state", FIELD_STRING, offsetof(struct link_in, state), FIELD_REQUIRED },
        { "reason", FIELD_STRING, offsetof(struct link_in, reason), 0 },
        { "producers", FIELD_OBJECTS, offsetof(struct link_in, producers), FIELD_REQUIRED },
        { "consumers", FIELD_OBJECTS, offsetof(struct link_in, consumers), FIELD_REQUIRED },
        { "relayed", FIELD_BOOL, offsetof(struct link_in, relayed), FIELD_REQUIRED },
        { "forwarded", FIELD_INT, offsetof(struct link_in, forwarded), 0 },
        { "lifetime", FIELD_STRING, offsetof(struct link_in, lifetime), FIELD_REQUIRED },
        { "since", FIELD_INT, offsetof(struct link_in, since), FIELD_REQUIRED },
        FIELDS_END,
    };
    const struct link_reader *reader = data;
    struct link_in in = { .forwarded.value = -1 };
    struct owner owner = { 0 };
    CLEANUP(freep) struct evlink_end_info *producers = NULL;
    CLEANUP(freep) struct evlink_end_info *consumers = NULL;
    int r;

    r = decode(object, fields, &in, &owner, ret_bad);
    if (r == 0)
        r = decode_ends(in.producers, &producers, ret_bad);
    if (r == 0)
        r = decode_ends(in.consumers, &consumers, ret_bad);
    if (r < 0)
        return r;
    return reader->callback(reader->userdata, &(const struct evlink_link_info){
                                                  .name = in.name,
                                                  .group = in.group,
                                                  .state = in.state,
                                                  .reason = in.reason,
                                                  .producers = producers,
                                                  .n_producers = value_size(in.producers),
                                                  .consumers = consumers,
                                                  .n_consumers = value_size(in.consumers),
                                                  .relayed = in.relayed,
                                                  .forwarded = in.forwarded.value,
                                                  .uid = (uid_t)owner.uid.value,
                                                  .pid = (pid_t)owner.pid.value,
                                                  .lifetime = in.lifetime,
                                                  .since = in.since.value,
                                              });
}

int evlink_list_links(struct evlink_client *client, const char *match, const char *group,
    int (*callback)(void *userdata, const struct evlink_link_info *info), void *userdata)
{
    const struct link_reader reader = { callback, userdata };

    return run_list(client, &(const struct list){
                                .method = BROKER("ListLinks"),
                                .member = "link",
                                .match = match,
                                .group = group,
                                .show = show_link,
                                .reader = &reader,
                            });
}

/* ---- Agents ---- */

struct agent_reader {
    int (*callback)(void *userdata, const struct evlink_agent_info *info);
    void *userdata;
};

struct agent_in {
    const char *name;
    const struct value *subsystems, *offered;
    struct opt_int since;
};

/* Makes "kind/name" of each {kind, name}: as make_strings(), in one piece of memory. -ENOMEM, -EPROTO. */
static int join_subsystems(const struct value *array, const char ***ret_list, const char **ret_bad)
{
    const struct value *item;
    size_t length = 0, i = 0;
    const char **list;
    char *text;

    VALUE_FOREACH(item, array)
    {
        const char *kind = value_string(value_get(item, "kind"));
        const char *name = value_string(value_get(item, "name"));

        if (!kind || !name) {
            *ret_bad = array->key;
            return -EPROTO;
        }
        length += strlen(kind) + 1 + strlen(name) + 1;
    }
    list = calloc(1, (value_size(array) + 1) * sizeof(*list) + length);
    if (!list) {
        *ret_bad = array->key;
        return -ENOMEM;
    }
    text = (char *)(list + value_size(array) + 1);
    VALUE_FOREACH(item, array)
    {
        list[i++] = text;
        text = stpcpy(text, value_get(item, "kind")->string);
        *text++ = '/';
        text = stpcpy(text, value_get(item, "name")->string) + 1;
    }
    *ret_list = list;
    return 0;
}

static int show_agent(const struct value *object, const void *data, const char **ret_bad)
{
    static const struct field fields[] = {
        { "name", FIELD_STRING, offsetof(struct agent_in, name), FIELD_REQUIRED },
        { "subsystems", FIELD_OBJECTS, offsetof(struct agent_in, subsystems), FIELD_REQUIRED },
        { "offered", FIELD_STRINGS, offsetof(struct agent_in, offered), FIELD_REQUIRED },
        { "since", FIELD_INT, offsetof(struct agent_in, since), FIELD_REQUIRED },
        FIELDS_END,
    };
    const struct agent_reader *reader = data;
    struct agent_in in = { .name = NULL };
    struct owner owner = { 0 };
    CLEANUP(freep) const char **subsystems = NULL;
    CLEANUP(freep) const char **offered = NULL;
    int r;

    r = decode(object, fields, &in, &owner, ret_bad);
    if (r == 0)
        r = join_subsystems(in.subsystems, &subsystems, ret_bad);
    if (r == 0)
        r = make_strings(in.offered, &offered, ret_bad);
    if (r < 0)
        return r;
    return reader->callback(reader->userdata, &(const struct evlink_agent_info){
                                                  .name = in.name,
                                                  .uid = (uid_t)owner.uid.value,
                                                  .pid = (pid_t)owner.pid.value,
                                                  .subsystems = subsystems,
                                                  .offered = offered,
                                                  .since = in.since.value,
                                              });
}

int evlink_list_agents(struct evlink_client *client, const char *match,
    int (*callback)(void *userdata, const struct evlink_agent_info *info), void *userdata)
{
    const struct agent_reader reader = { callback, userdata };

    return run_list(client, &(const struct list){
                                .method = BROKER("ListAgents"),
                                .member = "agent",
                                .match = match,
                                .show = show_agent,
                                .reader = &reader,
                            });
}

/* ---- Status ---- */

struct status_in {
    const char *version;
    bool durable;
    struct opt_int started_at, restored_eventfds, restored_links, eventfds, links, agents, connections;
    struct opt_int restored_agents, restored_in;
    const char *last_end;
};

int evlink_status(struct evlink_client *client, struct evlink_status *ret_status)
{
    static const struct field fields[] = {
        { "version", FIELD_STRING, offsetof(struct status_in, version), FIELD_REQUIRED },
        { "startedAt", FIELD_INT, offsetof(struct status_in, started_at), FIELD_REQUIRED },
        { "durable", FIELD_BOOL, offsetof(struct status_in, durable), FIELD_REQUIRED },
        { "restoredEventfds", FIELD_INT, offsetof(struct status_in, restored_eventfds), FIELD_REQUIRED },
        { "restoredLinks", FIELD_INT, offsetof(struct status_in, restored_links), FIELD_REQUIRED },
        { "eventfds", FIELD_INT, offsetof(struct status_in, eventfds), FIELD_REQUIRED },
        { "links", FIELD_INT, offsetof(struct status_in, links), FIELD_REQUIRED },
        { "agents", FIELD_INT, offsetof(struct status_in, agents), FIELD_REQUIRED },
        { "connections", FIELD_INT, offsetof(struct status_in, connections), FIELD_REQUIRED },
        { "restoredAgents", FIELD_INT, offsetof(struct status_in, restored_agents), 0 },
        { "restoreMicroseconds", FIELD_INT, offsetof(struct status_in, restored_in), 0 },
        { "lastEnd", FIELD_STRING, offsetof(struct status_in, last_end), 0 },
        FIELDS_END,
    };
    CLEANUP(evl_answer_clear) struct evl_answer answer = { 0 };
    struct evl_params params;
    struct status_in in = { .version = NULL };
    const char *bad;
    int r;

    evl_params_begin(&params, BROKER("Status"));
    r = evl_client_call(client, &params, NULL, &answer);
    if (r != 0)
        return r;
    if (fields_read(answer.reply.parameters, fields, FIELDS_LENIENT, &in, &bad) < 0)
        return evl_client_nonsense(client, bad);
    *ret_status = (struct evlink_status){
        .started_at = in.started_at.value,
        .durable = in.durable,
        .restored_eventfds = (uint64_t)in.restored_eventfds.value,
        .restored_links = (uint64_t)in.restored_links.value,
        .eventfds = (uint64_t)in.eventfds.value,
        .links = (uint64_t)in.links.value,
        .agents = (uint64_t)in.agents.value,
        .connections = (uint64_t)in.connections.value,
        .restored_agents = (uint64_t)in.restored_agents.value,
        .restored_in = in.restored_in.value,
    };
    (void)snprintf(ret_status->last_end, sizeof(ret_status->last_end), "%s", in.last_end ? in.last_end : "");
    (void)snprintf(ret_status->version, sizeof(ret_status->version), "%s", in.version);
    return 0;
}

/* ---- Any method ---- */

/* The parameters of a reply as text, for the caller to clear. -ENOMEM. */
static int write_parameters(const struct value *parameters, struct frame_out *text)
{
    static const struct value none = { .type = VALUE_OBJECT, .span = 1 };
    struct emit emit = { .out = text };

    emit_value(&emit, NULL, parameters ? parameters : &none);
    return emit.failed ? -ENOMEM : frame_out_add(text, "", 1);
}

static int call_any(struct evlink_client *client, struct evl_params *params, struct fdset *fds, bool more,
    int (*callback)(void *userdata, const char *error, const char *parameters), void *userdata)
{
    bool expected = true;
    int r;

    r = evl_client_send(client, params, more ? VARLINK_MORE : 0, fds);
    if (r < 0)
        return r;
    while (expected) {
        CLEANUP(evl_answer_clear) struct evl_answer answer = { 0 };
        CLEANUP(frame_out_clear) struct frame_out text = { 0 };

        r = evl_client_next(client, &answer);
        if (r < 0)
            return r;
        expected = answer.reply.continues;
        if (expected && !more)
            return evl_client_nonsense(client, "it announced more where one reply was asked for");
        if (write_parameters(answer.reply.parameters, &text) < 0)
            return evl_client_close(client, -ENOMEM, "out of memory in the middle of a call");
        r = callback ? callback(userdata, answer.reply.error, text.buffer) : 0;
        if (answer.reply.error)
            return evl_client_error(client, params, answer.reply.error, answer.reply.parameters);
        if (r != 0)
            return evl_client_close(client, r, "the call's reader ended it with %d", r);
    }
    return 0;
}

/* What the caller has as text. -EINVAL, -ENOMEM, with the message. */
static int add_parameters(struct evlink_client *client, struct emit *emit, const char *text)
{
    CLEANUP(values_clear) struct values values = { 0 };
    const struct value *member;
    int r;

    r = values_read(text, strlen(text), &values);
    if (r == -EBADMSG)
        return evl_client_say(client, -EINVAL, "the parameters are no JSON object: %.60s", text);
    if (r < 0)
        return evl_client_say(client, r, "the call could not be made: %s", strerror(-r));
    VALUE_FOREACH(member, values.values)
    emit_value(emit, member->key, member);
    return 0;
}

int evlink_call(struct evlink_client *client, const char *method, const char *parameters, const int *fds,
    size_t n_fds, bool more, int (*callback)(void *userdata, const char *error, const char *parameters),
    void *userdata)
{
    CLEANUP(evl_params_clear) struct evl_params params = { 0 };
    struct fdset sent = FDSET_EMPTY;
    int r;

    if (n_fds > FRAME_MAX_FDS)
        return evl_client_say(
            client, -EINVAL, "%zu descriptors: one call carries %d at most", n_fds, FRAME_MAX_FDS);
    evl_params_begin(&params, method);
    r = parameters ? add_parameters(client, &params.emit, parameters) : 0;
    if (r == 0)
        r = evl_client_dup(client, fds, n_fds, &sent);
    if (r < 0)
        return r;
    r = evl_client_begin(client);
    if (r < 0) {
        fdset_clear(&sent);
        return r;
    }
    r = call_any(client, &params, &sent, more, callback, userdata);
    evl_client_end(client);
    return r;
}
