/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The calls of evlink.h that hold eventfds and make links, each a method of io.evlink.Broker. */
#include "base/cleanup.h"
#include "lib/client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The build says which version this is. */
#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "0.0.0"
#endif

const char *evlink_version(void)
{
    return PACKAGE_VERSION;
}

int evlink_hold(struct evlink_client *client, const char *name, int fd, enum evlink_lifetime lifetime,
    int64_t lease_seconds)
{
    struct evl_params params;
    struct fdset fds = FDSET_EMPTY;
    int r;

    r = evl_client_dup(client, &fd, 1, &fds);
    if (r < 0)
        return r;
    evl_params_begin(&params, BROKER("Hold"));
    evl_params_string(&params, "name", name);
    evl_params_int(&params, "fileDescriptorIndex", 0);
    evl_params_lifetime(&params, lifetime, lease_seconds);
    return evl_client_call(client, &params, &fds, NULL);
}

int evlink_hold_new(struct evlink_client *client, const char *name, bool semaphore,
    enum evlink_lifetime lifetime, int64_t lease_seconds)
{
    struct evl_params params;

    evl_params_begin(&params, BROKER("Hold"));
    evl_params_string(&params, "name", name);
    if (semaphore)
        evl_params_bool(&params, "semaphore", true);
    evl_params_lifetime(&params, lifetime, lease_seconds);
    return evl_client_call(client, &params, NULL, NULL);
}

int evlink_hold_many(struct evlink_client *client, const char *const *list, const int *fds, size_t n,
    enum evlink_lifetime lifetime, int64_t lease_seconds)
{
    const char *names[EVLINK_HOLD_MANY_MAX + 1] = { NULL };
    struct evl_params params;
    struct fdset sent = FDSET_EMPTY;
    int r;

    if (n == 0 || n > EVLINK_HOLD_MANY_MAX)
        return evl_client_say(
            client, -EINVAL, "%zu eventfds at once: it takes 1 to %d", n, EVLINK_HOLD_MANY_MAX);
    memcpy(names, list, n * sizeof(*names));
    r = evl_client_dup(client, fds, n, &sent);
    if (r < 0)
        return r;
    evl_params_begin(&params, BROKER("HoldMany"));
    for (size_t i = 0; i < n; i++)
        if (!names[i])
            evl_params_fail(&params, -EINVAL, "name %zu is missing", i);
    evl_params_strings(&params, "names", names);
    evl_params_lifetime(&params, lifetime, lease_seconds);
    return evl_client_call(client, &params, &sent, NULL);
}

/* A call whose answer is a descriptor. */
static int call_for_fd(struct evlink_client *client, struct evl_params *params, int *ret_fd)
{
    static const struct field fields[] = {
        { "fileDescriptorIndex", FIELD_INT, 0, FIELD_REQUIRED },
        FIELDS_END,
    };
    CLEANUP(evl_answer_clear) struct evl_answer answer = { 0 };
    struct opt_int index = { 0 };
    const char *bad;
    int r;

    r = evl_client_call(client, params, NULL, &answer);
    if (r != 0)
        return r;
    if (fields_read(answer.reply.parameters, fields, FIELDS_LENIENT, &index, &bad) < 0)
        return evl_client_nonsense(client, bad);
    return evl_client_steal(client, &answer, index, ret_fd);
}

int evlink_claim(struct evlink_client *client, const char *name, int *ret_fd)
{
    struct evl_params params;

    evl_params_begin(&params, BROKER("Claim"));
    evl_params_string(&params, "name", name);
    return call_for_fd(client, &params, ret_fd);
}

int evlink_delegate(struct evlink_client *client, const char *scope, const char *const *endpoints,
    int64_t max_eventfds, int64_t max_links, int *ret_fd)
{
    struct evl_params params;

    evl_params_begin(&params, BROKER("Delegate"));
    evl_params_string(&params, "scope", scope);
    evl_params_strings(&params, "endpoints", endpoints);
    if (max_eventfds >= 0)
        evl_params_int(&params, "maxEventfds", max_eventfds);
    if (max_links >= 0)
        evl_params_int(&params, "maxLinks", max_links);
    return call_for_fd(client, &params, ret_fd);
}

/* The many methods that take one name and answer nothing of interest. */
static int call_with_name(struct evlink_client *client, const char *method, const char *key, const char *name)
{
    struct evl_params params;

    evl_params_begin(&params, method);
    evl_params_string(&params, key, name);
    return evl_client_call(client, &params, NULL, NULL);
}

int evlink_revoke(struct evlink_client *client, const char *scope)
{
    return call_with_name(client, BROKER("Revoke"), "scope", scope);
}

int evlink_release(struct evlink_client *client, const char *name)
{
    return call_with_name(client, BROKER("Release"), "name", name);
}

static int renew(struct evlink_client *client, const char *key, const char *name, int64_t lease_seconds)
{
    struct evl_params params;

    evl_params_begin(&params, BROKER("Renew"));
    evl_params_string(&params, key, name);
    evl_params_int(&params, "leaseSeconds", lease_seconds);
    return evl_client_call(client, &params, NULL, NULL);
}

int evlink_renew(struct evlink_client *client, const char *name, int64_t lease_seconds)
{
    return renew(client, "name", name, lease_seconds);
}

int evlink_renew_link(struct evlink_client *client, const char *link, int64_t lease_seconds)
{
    return renew(client, "link", link, lease_seconds);
}

int evlink_signal(struct evlink_client *client, const char *name, uint64_t count)
{
    struct evl_params params;

    evl_params_begin(&params, BROKER("Signal"));
    evl_params_string(&params, "name", name);
    if (count > INT64_MAX)
        evl_params_fail(&params, -EINVAL, "a count on the wire is at most 2^63 - 1: signal more than once");
    else
        evl_params_int(&params, "count", (int64_t)count);
    return evl_client_call(client, &params, NULL, NULL);
}

static void add_spec(struct evl_params *params, const struct evlink_link_spec *spec)
{
    evl_params_optional(params, "name", spec->name);
    evl_params_strings(params, "producers", spec->producers);
    evl_params_strings(params, "consumers", spec->consumers);
    evl_params_optional(params, "group", spec->group);
    evl_params_labels(params, "labels", spec->labels);
}

static void add_common(struct evl_params *params, const struct evlink_link_spec *spec)
{
    if (spec->no_wait)
        evl_params_bool(params, "wait", false);
    evl_params_lifetime(params, spec->lifetime, spec->lease_seconds);
}

int evlink_connect(struct evlink_client *client, const struct evlink_link_spec *spec, char **ret_name)
{
    CLEANUP(evl_answer_clear) struct evl_answer answer = { 0 };
    struct evl_params params;
    const char *name;
    char *copy;
    int r;

    evl_params_begin(&params, BROKER("Connect"));
    add_spec(&params, spec);
    add_common(&params, spec);
    r = evl_client_call(client, &params, NULL, &answer);
    if (r != 0 || !ret_name)
        return r;
    name = value_string(value_get(value_get(answer.reply.parameters, "link"), "name"));
    if (!name)
        return evl_client_nonsense(client, "it lacks the link's name");
    copy = strdup(name);
    if (!copy)
        return evl_client_say(
            client, -ENOMEM, "the link '%s' is made, but there is no memory for its name", name);
    *ret_name = copy;
    return 0;
}

int evlink_connect_many(struct evlink_client *client, const struct evlink_link_spec *specs, size_t n)
{
    struct evl_params params;

    if (n == 0 || n > EVLINK_CONNECT_MANY_MAX)
        return evl_client_say(
            client, -EINVAL, "%zu links at once: it takes 1 to %d", n, EVLINK_CONNECT_MANY_MAX);
    evl_params_begin(&params, BROKER("ConnectMany"));
    emit_open_array(&params.emit, "links");
    for (size_t i = 0; i < n && params.error == 0; i++) {
        (void)snprintf(params.where, sizeof(params.where), "links[%zu]: ", i);
        emit_open(&params.emit, NULL);
        add_spec(&params, &specs[i]);
        emit_close(&params.emit);
    }
    emit_close_array(&params.emit);
    params.where[0] = '\0';
    add_common(&params, &specs[0]);
    return evl_client_call(client, &params, NULL, NULL);
}

int evlink_disconnect(struct evlink_client *client, const char *name)
{
    return call_with_name(client, BROKER("Disconnect"), "name", name);
}

int evlink_disconnect_group(struct evlink_client *client, const char *group)
{
    return call_with_name(client, BROKER("Disconnect"), "group", group);
}

static int call_with_endpoints(struct evlink_client *client, const char *method, const char *agent,
    const char *const *endpoints, const char *reason)
{
    struct evl_params params;

    evl_params_begin(&params, method);
    evl_params_string(&params, "agent", agent);
    evl_params_strings(&params, "endpoints", endpoints);
    evl_params_optional(&params, "reason", reason);
    return evl_client_call(client, &params, NULL, NULL);
}

int evlink_offer(struct evlink_client *client, const char *agent, const char *const *endpoints)
{
    return call_with_endpoints(client, BROKER("Offer"), agent, endpoints, NULL);
}

int evlink_withdraw(
    struct evlink_client *client, const char *agent, const char *const *endpoints, const char *reason)
{
    return call_with_endpoints(client, BROKER("Withdraw"), agent, endpoints, reason);
}

int evlink_detach(struct evlink_client *client, const char *agent)
{
    return call_with_name(client, BROKER("Detach"), "name", agent);
}
