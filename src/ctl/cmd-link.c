/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* link: producers to consumers, one link from the command line or a set of them from a file, all or none. */
#include "base/cleanup.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const lifetimes[] = { "persistent", "connection", "lease", "agent", NULL };

static const struct ctl_option options[] = {
    { "name", 0, "NAME", "name of the link; evlinkd makes one up" },
    { "group", 'g', "GROUP", "group of the link" },
    { "label", 0, "KEY=VALUE", "label of the link; may be given several times" },
    { "producer", 'p', "ENDPOINT", "an endpoint that signals; may be given several times" },
    { "consumer", 'c', "ENDPOINT", "an endpoint that is signalled; the same" },
    { "file", 'f', "FILE", "link what FILE says, all or none; -: standard input" },
    { "no-wait", 0, NULL, "fail where an end is absent, rather than wait for it" },
    { "lifetime", 0, "LIFETIME", "persistent (the default), lease, agent or connection" },
    { "lease", 0, "SECONDS", "keep it until not renewed for so long" },
    CTL_OPTIONS_END,
};

/* Appends the endpoints of a list with commas. CTL_OK, or an exit status after its message. */
static int add_ends(const struct ctl_args *args, json_t *ends, const char *list)
{
    for (;;) {
        size_t length = strcspn(list, ",");

        if (length == 0)
            return ctl_usage(args, "link: an endpoint is empty");
        if (json_array_append_new(ends, json_stringn(list, length)) < 0)
            return ctl_oom();
        if (list[length] == '\0')
            return CTL_OK;
        list += length + 1;
    }
}

/* The ends of one side: --OPTION, repeated, or the argument. A new reference; NULL after its message. */
static json_t *take_ends(
    const struct ctl_args *args, const char *option, const char *argument, int *ret_status)
{
    json_auto_t *ends = json_array();
    size_t n = ctl_option_count(args, option);
    int r = CTL_OK;

    if (n == 0 && !argument)
        r = ctl_usage(args, "link: there is no %s", option);
    if (argument)
        r = add_ends(args, ends, argument);
    for (size_t i = 0; i < n && r == CTL_OK; i++)
        r = add_ends(args, ends, ctl_option_at(args, option, i));
    *ret_status = r;
    return r == CTL_OK ? TAKE(ends) : NULL;
}

/* "KEY=VALUE" labels into an object; none leave *ret_labels NULL. */
static int take_labels(const struct ctl_args *args, json_t **ret_labels)
{
    size_t n = ctl_option_count(args, "label");
    json_auto_t *labels = n > 0 ? json_object() : NULL;

    for (size_t i = 0; i < n; i++) {
        const char *label = ctl_option_at(args, "label", i), *equals = strchr(label, '=');
        CLEANUP(freep) char *key = NULL;

        if (!equals || equals == label)
            return ctl_usage(args, "--label: '%s' is not KEY=VALUE", label);
        key = strndup(label, (size_t)(equals - label));
        if (!key)
            return ctl_oom();
        if (json_object_set_new(labels, key, json_string(equals + 1)) < 0)
            return ctl_oom();
    }
    *ret_labels = TAKE(labels);
    return CTL_OK;
}

/* One link, from the command line. */
static int take_link(const struct ctl_args *args, json_t **ret_parameters)
{
    json_auto_t *producers = NULL, *consumers = NULL, *labels = NULL;
    bool named = ctl_flag(args, "producer") || ctl_flag(args, "consumer");
    int r;

    if (args->n_names != (named ? 0 : 2))
        return ctl_usage(args, "link: give PRODUCER and CONSUMER, or both with --producer and --consumer");
    producers = take_ends(args, "producer", named ? NULL : args->names[0], &r);
    if (!producers)
        return r;
    consumers = take_ends(args, "consumer", named ? NULL : args->names[1], &r);
    if (!consumers)
        return r;
    r = take_labels(args, &labels);
    if (r != CTL_OK)
        return r;
    *ret_parameters = json_pack("{s:s*, s:O, s:O, s:s*, s:O*}", "name", ctl_option(args, "name"), "producers",
        producers, "consumers", consumers, "group", ctl_option(args, "group"), "labels", labels);
    return *ret_parameters ? CTL_OK : ctl_oom();
}

static void fclosep(FILE **file)
{
    if (*file && *file != stdin)
        (void)fclose(*file);
}

/* A set of links: a file of LinkSpecs, one a line. */
static int take_links(const struct ctl_args *args, const char *path, json_t **ret_parameters)
{
    static const char *const alone[] = { "name", "group", "label", "producer", "consumer" };
    CLEANUP(fclosep) FILE *file = NULL;
    CLEANUP(freep) char *line = NULL;
    json_auto_t *links = json_array();
    size_t size = 0, number = 0;
    ssize_t length;

    for (size_t i = 0; i < ARRAY_SIZE(alone); i++)
        if (ctl_flag(args, alone[i]))
            return ctl_usage(args, "--%s does not go with --file", alone[i]);
    if (args->n_names > 0)
        return ctl_usage(args, "link: '%s' does not go with --file", args->names[0]);

    file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (!file) {
        ctl_error("%s: %s", path, strerror(errno));
        return CTL_FAILED;
    }
    while (errno = 0, (length = getline(&line, &size, file)) >= 0) {
        json_error_t error;
        json_t *spec;

        number++;
        if (line[strspn(line, " \t\r\n")] == '\0')
            continue;
        spec = json_loadb(line, (size_t)length, JSON_REJECT_DUPLICATES, &error);
        if (!json_is_object(spec)) {
            ctl_error("%s:%zu: %s", path, number, spec ? "this is no JSON object" : error.text);
            json_decref(spec);
            return CTL_FAILED;
        }
        if (json_array_append_new(links, spec) < 0)
            return ctl_oom();
        if (json_array_size(links) > EVLINK_CONNECT_MANY_MAX) {
            ctl_error("%s:%zu: more than %d links: give them in several files", path, number,
                EVLINK_CONNECT_MANY_MAX);
            return CTL_FAILED;
        }
    }
    if (ferror(file)) {
        ctl_error("%s: %s", path, strerror(errno));
        return CTL_FAILED;
    }
    if (json_array_size(links) == 0) {
        ctl_error("%s: there is no link in it: it takes a LinkSpec a line, see io.evlink.Broker(7)", path);
        return CTL_FAILED;
    }
    *ret_parameters = json_pack("{s:O}", "links", links);
    return *ret_parameters ? CTL_OK : ctl_oom();
}

/* Prints the names of links, or with --json the links. */
static int print_links(struct ctl *ctl, json_t *links)
{
    json_t *link;
    size_t index;

    if (ctl->json)
        return ctl_print_json(json_pack("{s:O}", "links", links));
    json_array_foreach (links, index, link) {
        const char *name = json_string_value(json_object_get(link, "name"));
        CLEANUP(freep) char *escaped = text_escape(name ? name : "?");

        if (!escaped)
            return ctl_oom();
        printf("%s\n", escaped);
    }
    return CTL_OK;
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    json_auto_t *parameters = NULL, *reply = NULL, *links = NULL;
    const char *lifetime, *path = ctl_option(args, "file");
    bool connection;
    int64_t lease;
    int r;

    r = ctl_lifetime(args, lifetimes, &lifetime, &lease);
    if (r != CTL_OK)
        return r;
    connection = lifetime && strcmp(lifetime, "connection") == 0;
    if (connection != !!args->exec)
        return ctl_usage(args, connection ? "--lifetime connection needs a COMMAND after --, to last as long"
                                          : "a COMMAND after -- goes with --lifetime connection");
    r = path ? take_links(args, path, &parameters) : take_link(args, &parameters);
    if (r != CTL_OK)
        return r;
    if ((lifetime && json_object_set_new(parameters, "lifetime", json_string(lifetime)) < 0) ||
        (lease > 0 && json_object_set_new(parameters, "leaseSeconds", json_integer(lease)) < 0) ||
        (ctl_flag(args, "no-wait") && json_object_set_new(parameters, "wait", json_false()) < 0))
        return ctl_oom();

    r = ctl_call(
        ctl, path ? CTL_METHOD("ConnectMany") : CTL_METHOD("Connect"), TAKE(parameters), NULL, 0, &reply);
    if (r != CTL_OK)
        return r;
    links = path ? json_incref(json_object_get(reply, "links"))
                 : json_pack("[O*]", json_object_get(reply, "link"));
    r = print_links(ctl, links);
    return r == CTL_OK && args->exec ? run_wait(args->exec) : r;
}

const struct ctl_command command_link = {
    .name = "link",
    .arguments = "PRODUCER[,PRODUCER...] CONSUMER[,CONSUMER...] | --file FILE",
    .help = "Link producers to consumers and print the link's name",
    .more =
        "Endpoints are described in evlink-endpoint(7). FILE has a LinkSpec of io.evlink.Broker(7) a line,\n"
        "in JSON. With --lifetime connection, -- COMMAND [ARGUMENT...] follows: the link lasts while "
        "COMMAND\n"
        "runs.\n",
    .options = options,
    .max = 2,
    .takes_command = true,
    .run = run,
};
