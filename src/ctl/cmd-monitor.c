/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * monitor: what happens, a line each, until it is interrupted or evlinkd goes. A line is out in full before
 * anything else is done, so that whoever reads them misses nothing and never sees half of one.
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Every type, as Notice of io.evlink.Broker has them. */
#define TYPES                                                                                              \
    "held, claimed, released, expired, attached, detached, offered, withdrawn, linked, waiting, parked,\n" \
    "moved, leaving, left, failed, disconnected, lost"

struct monitor {
    struct ctl *ctl;
    bool stands; /* evlinkd said that the subscription does */
    bool ended;  /* by us, */
    int status;  /* which is how to exit then */
};

/* Between lines there is nothing to finish: everything was flushed. Within one, it is finished first. */
static volatile sig_atomic_t writing, stopped;

static void on_signal(int number)
{
    (void)number;
    if (!writing)
        _exit(CTL_OK);
    stopped = 1;
}

/* The second signal finds the default: a reader that does not read must not keep us. */
static void catch_signals(void)
{
    static const int numbers[] = { SIGINT, SIGTERM };
    const struct sigaction stop = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        struct sigaction before;

        /* What a shell has its background commands ignore stays ignored. */
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            (void)sigaction(numbers[i], &stop, NULL);
    }
}

static void print_row(
    const char *time, const char *type, const char *subject, const char *link, const char *reason)
{
    printf("%-19s  %-12s  %-32s  %-16s  %s\n", time, type, subject, link, reason);
}

/* What a notice says in that member, made safe; "-" where it is absent. NULL: no memory. */
static char *cell(const json_t *notice, const char *member)
{
    const char *text = json_string_value(json_object_get(notice, member));

    return text_escape(text && *text ? text : "-");
}

static int print_notice(json_t *notice)
{
    CLEANUP(freep) char *time = text_time(json_integer_value(json_object_get(notice, "at")));
    CLEANUP(freep) char *type = cell(notice, "type"), *subject = cell(notice, "subject");
    CLEANUP(freep) char *link = cell(notice, "link"), *reason = cell(notice, "reason");
    json_int_t count = json_integer_value(json_object_get(notice, "count"));

    if (count > 0 && reason && strcmp(reason, "-") == 0) {
        free(reason);
        if (asprintf(&reason, "%" JSON_INTEGER_FORMAT " notices came faster than they were read", count) < 0)
            reason = NULL;
    }
    if (!time || !type || !subject || !link || !reason)
        return ctl_oom();
    print_row(time, type, subject, link, reason);
    return CTL_OK;
}

/* The first reply says that the subscription stands, each later one is a notice. */
static int print_reply(struct monitor *monitor, const char *parameters)
{
    json_auto_t *reply = json_loads(parameters, 0, NULL);
    json_t *notice = json_object_get(reply, "notice");

    if (!reply)
        return ctl_oom();
    if (!monitor->stands) {
        monitor->stands = true;
        evlink_client_set_timeout(monitor->ctl->client, 0); /* nothing may happen for days */
        if (!monitor->ctl->json && !monitor->ctl->noheadings)
            print_row("TIME", "TYPE", "SUBJECT", "LINK", "REASON");
    }
    if (!json_is_object(notice))
        return CTL_OK;
    return monitor->ctl->json ? ctl_print_json_line(json_incref(notice)) : print_notice(notice);
}

static int on_reply(void *userdata, const char *error, const char *parameters)
{
    struct monitor *monitor = userdata;

    if (error)
        return 0; /* the library has the sentence */
    writing = 1;
    monitor->status = print_reply(monitor, parameters ? parameters : "{}");
    (void)fflush(stdout);
    writing = 0;
    /* That the output failed, main() says. */
    monitor->ended = monitor->status != CTL_OK || stopped || ferror(stdout);
    return monitor->ended ? -ECANCELED : 0;
}

/* Nothing is told any more: from when on belongs to the account. */
static int say_gone(void)
{
    CLEANUP(freep) char *now = text_time(clock_epoch());

    if (!now)
        return ctl_oom();
    ctl_error("%s: evlinkd has gone: it was stopped or restarted", now);
    return CTL_UNREACHABLE;
}

/* A type that evlinkd does not know it takes for a newer one's: nothing would ever be told. */
static bool is_type(const char *type)
{
    size_t length = strlen(type);

    for (const char *known = TYPES; *known; known += strspn(known, ", \n")) {
        size_t n = strcspn(known, ",");

        if (n == length && strncmp(known, type, n) == 0)
            return true;
        known += n;
    }
    return false;
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    struct monitor monitor = { .ctl = ctl };
    json_auto_t *parameters = json_pack("{s:s*}", "match", args->names[0]);
    json_auto_t *types = json_array();
    CLEANUP(freep) char *text = NULL;
    size_t n = ctl_option_count(args, "type");
    int r;

    for (size_t i = 0; i < n; i++) {
        const char *type = ctl_option_at(args, "type", i);

        if (!is_type(type)) {
            ctl_error("--type: there is no type '%s'", type);
            fprintf(stderr, "Types: %s.\n", TYPES);
            return ctl_hint(args);
        }
        if (json_array_append_new(types, json_string(type)) < 0)
            return ctl_oom();
    }
    if (n > 0 && json_object_set(parameters, "types", types) < 0)
        return ctl_oom();
    text = json_dumps(parameters, JSON_COMPACT);
    if (!text)
        return ctl_oom();
    catch_signals();
    r = ctl_open(ctl);
    if (r != CTL_OK)
        return r;
    r = evlink_call(ctl->client, CTL_METHOD("Monitor"), text, NULL, 0, true, on_reply, &monitor);
    if (monitor.ended)
        return monitor.status;
    if (r == 0) {
        ctl_error("evlinkd ended the subscription");
        return CTL_UNREACHABLE;
    }
    if (r == -ECONNRESET && monitor.stands)
        return say_gone();
    return ctl_result(ctl, r);
}

static const struct ctl_option options[] = {
    { "type", 't', "TYPE", "only notices of this type; may be given several times" },
    CTL_OPTIONS_END,
};

const struct ctl_command command_monitor = {
    .name = "monitor",
    .arguments = "[--type TYPE]... [PATTERN]",
    .help = "Tell what happens until interrupted",
    .more = "Types: " TYPES ".\n"
            "PATTERN is tried on what a notice is about and on the link. The headings come when evlinkd has "
            "begun\n"
            "to listen for us.\n",
    .options = options,
    .max = 1,
    .run = run,
};
