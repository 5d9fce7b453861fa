/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages, the connection to the broker, calls and their results: see ctl.h. */
#include "ctl/ctl.h"
#include "base/cleanup.h"
#include "ctl/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void complain(const char *format, va_list arguments) __attribute__((format(printf, 1, 0)));

static void complain(const char *format, va_list arguments)
{
    CLEANUP(freep) char *message = NULL, *escaped = NULL;

    if (vasprintf(&message, format, arguments) < 0)
        message = NULL;
    if (message)
        escaped = text_escape(message);
    fprintf(stderr, "evlinkctl: %s\n", escaped ? escaped : strerror(ENOMEM));
}

void ctl_error(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    complain(format, arguments);
    va_end(arguments);
}

int ctl_usage(const struct ctl_args *args, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    complain(format, arguments);
    va_end(arguments);
    return ctl_hint(args);
}

int ctl_hint(const struct ctl_args *args)
{
    if (args->command)
        fprintf(stderr, "Try 'evlinkctl %s --help' for more information.\n", args->command->name);
    else
        fprintf(stderr, "Try 'evlinkctl --help' for more information.\n");
    return CTL_USAGE;
}

int ctl_oom(void)
{
    ctl_error("%s", strerror(ENOMEM));
    return CTL_FAILED;
}

static int open_inherited(struct ctl *ctl, const char *number)
{
    int r = evlink_client_open(NULL, &ctl->client);

    if (r < 0) {
        ctl_error("EVLINK_FD is %s, which cannot be used as a connection to evlinkd: %s. It has to be the "
                  "number of a descriptor that this command inherits; unset it to connect to the socket.",
            number, strerror(-r));
        return CTL_UNREACHABLE;
    }
    ctl->socket = "the connection in EVLINK_FD";
    evlink_client_set_timeout(ctl->client, (unsigned)ctl->timeout * 1000);
    return CTL_OK;
}

int ctl_open(struct ctl *ctl)
{
    const char *path = ctl->socket, *inherited = path ? NULL : secure_getenv("EVLINK_FD");
    int r;

    if (ctl->client)
        return CTL_OK;
    if (inherited && *inherited)
        return open_inherited(ctl, inherited);
    if (!path)
        path = secure_getenv("EVLINK_SOCKET");
    if (!path || !*path)
        path = EVLINK_DEFAULT_SOCKET;
    ctl->socket = path;
    r = evlink_client_open(path, &ctl->client);
    if (r < 0) {
        const char *advice = "";

        if (r == -ENOENT || r == -ECONNREFUSED)
            advice = ". Start it with 'systemctl start evlinkd', or say with --socket where it listens.";
        else if (r == -EACCES || r == -EPERM)
            advice = ". Run this as a user who may use that socket.";
        else if (r == -ENAMETOOLONG)
            advice = ". The path of a socket has up to 107 bytes.";
        ctl_error("evlinkd cannot be reached at %s: %s%s", path, strerror(-r), advice);
        return CTL_UNREACHABLE;
    }
    evlink_client_set_timeout(ctl->client, (unsigned)ctl->timeout * 1000);
    return CTL_OK;
}

void ctl_close(struct ctl *ctl)
{
    ctl->client = evlink_client_free(ctl->client);
}

/* What the library says. The function that it names has another name here. */
static void tell(const char *message)
{
    static const char function[] = "evlink_disconnect()";
    const char *at = strstr(message, function);

    if (at)
        ctl_error("%.*sevlinkctl unlink%s", (int)(at - message), message, at + strlen(function));
    else
        ctl_error("%s", message);
}

int ctl_result(struct ctl *ctl, int r)
{
    if (r == 0)
        return CTL_OK;
    tell(evlink_client_message(ctl->client));
    switch (r) {
    case -ECONNRESET:
    case -ENOTCONN:
    case -EPIPE:
    case -ETIMEDOUT:
        return CTL_UNREACHABLE;
    default:
        return CTL_FAILED;
    }
}

/* Collects the parameters of each reply in an array. */
static int collect(void *userdata, const char *error, const char *parameters)
{
    json_t *reply;

    if (error)
        return 0; /* the library has the sentence */
    reply = json_loads(parameters ? parameters : "{}", 0, NULL);
    return reply && json_array_append_new(userdata, reply) == 0 ? 0 : -ENOMEM;
}

static int call(struct ctl *ctl, const char *method, json_t *parameters, const int *fds, size_t n_fds,
    bool more, json_t *replies)
{
    CLEANUP(freep) char *text = NULL;
    int r;

    if (parameters)
        text = json_dumps(parameters, JSON_COMPACT);
    json_decref(parameters);
    if (!text || !replies)
        return ctl_oom();
    r = ctl_open(ctl);
    if (r != CTL_OK)
        return r;
    return ctl_result(ctl, evlink_call(ctl->client, method, text, fds, n_fds, more, collect, replies));
}

int ctl_call(
    struct ctl *ctl, const char *method, json_t *parameters, const int *fds, size_t n_fds, json_t **ret_reply)
{
    json_auto_t *replies = json_array();
    int r;

    r = call(ctl, method, parameters, fds, n_fds, false, replies);
    if (r != CTL_OK)
        return r;
    if (json_array_size(replies) != 1) {
        ctl_error("%s: the answer made no sense", method);
        return CTL_FAILED;
    }
    *ret_reply = json_incref(json_array_get(replies, 0));
    return CTL_OK;
}

int ctl_list(struct ctl *ctl, const char *method, json_t *parameters, const char *member, json_t *objects)
{
    json_auto_t *replies = json_array();
    json_t *reply;
    size_t index;
    int r;

    r = call(ctl, method, parameters, NULL, 0, true, replies);
    if (r != CTL_OK)
        return r;
    json_array_foreach (replies, index, reply) {
        json_t *object = json_object_get(reply, member);

        /* An empty list is a reply without an object. */
        if (json_is_object(object) && json_array_append(objects, object) < 0)
            return ctl_oom();
    }
    return CTL_OK;
}

int ctl_each(struct ctl *ctl, const struct ctl_args *args,
    int (*function)(struct evlink_client *client, const char *name))
{
    int status;

    status = ctl_open(ctl);
    for (size_t i = 0; i < args->n_names && status != CTL_UNREACHABLE; i++) {
        int r = ctl_result(ctl, function(ctl->client, args->names[i]));

        if (r != CTL_OK)
            status = r;
    }
    return status == CTL_OK && ctl->json ? ctl_print_json(json_object()) : status;
}

int ctl_each_link(struct ctl *ctl, const struct ctl_args *args, const char *method)
{
    const char *group = ctl_option(args, "group");
    json_auto_t *links = json_array();
    size_t n = group ? 1 : args->n_names;
    int status = CTL_OK;

    if (!group == (args->n_names == 0))
        return ctl_usage(args, "%s: name links, or a group with --group", args->command->name);
    for (size_t i = 0; i < n && status != CTL_UNREACHABLE; i++) {
        json_auto_t *reply = NULL;
        int r = ctl_call(ctl, method,
            json_pack("{s:s}", group ? "group" : "name", group ? group : args->names[i]), NULL, 0, &reply);

        if (r != CTL_OK)
            status = r;
        else if (json_array_extend(links, json_object_get(reply, "links")) < 0)
            return ctl_oom();
    }
    if (ctl->json && (status == CTL_OK || json_array_size(links) > 0)) {
        int r = ctl_print_json(json_pack("{s:O}", "links", links));

        if (r != CTL_OK)
            status = r;
    }
    return status;
}

static int print_json(json_t *document, size_t layout)
{
    CLEANUP(freep) char *text = NULL;

    /* ASCII alone: what is escaped in JSON drives no terminal. */
    if (document)
        text = json_dumps(document, layout | JSON_ENSURE_ASCII);
    json_decref(document);
    if (!text)
        return ctl_oom();
    for (const char *c = text; *c; c++)
        if (*c == 0x7f) /* the one control character that JSON lets stand, and only within a string */
            (void)fputs("\\u007f", stdout);
        else
            (void)putchar(*c);
    (void)putchar('\n');
    return CTL_OK; /* whether it could be written is for main() */
}

int ctl_print_json(json_t *document)
{
    return print_json(document, JSON_INDENT(2));
}

int ctl_print_json_line(json_t *document)
{
    return print_json(document, JSON_COMPACT);
}
