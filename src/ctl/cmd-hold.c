/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * hold: evlinkd takes eventfds under names: of its own making, or descriptors that evlinkctl inherited, which
 * are held all or none.
 */
#include "base/cleanup.h"
#include "base/eventfd.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LISTEN_FDS_START 3

static const char *const lifetimes[] = { "persistent", "connection", "lease", NULL };

static const struct ctl_option options[] = {
    { "fd", 0, "N", "hold the inherited descriptor N; once for each NAME" },
    { "listen-fds", 0, NULL, "hold what LISTEN_FDS passes, as LISTEN_FDNAMES or NAMEs" },
    { "semaphore", 0, NULL, "make it one that gives 1 at each read" },
    { "lifetime", 0, "LIFETIME", "persistent (the default), lease or connection" },
    { "lease", 0, "SECONDS", "hold it until not renewed for so long" },
    CTL_OPTIONS_END,
};

/* What to hold. */
struct request {
    char **names; /* args', or split */
    size_t n;
    int *fds; /* n, borrowed from whoever started us; NULL: evlinkd makes them */
    const char *lifetime;
    int64_t lease;
    char *listed; /* a copy of LISTEN_FDNAMES, and its names */
    char **split;
};

static void request_clear(struct request *request)
{
    free(request->fds);
    free(request->listed);
    free(request->split);
}

/*
 * Looks at an inherited descriptor, before any of ours is opened: a number that nobody passed would be that
 * of our connection to evlinkd, which would then be sent. That it is an eventfd is evlinkd's to say, but
 * evlinkd does not know its number here. CTL_OK or CTL_USAGE.
 */
static int check_fd(const struct ctl_args *args, const char *option, int fd)
{
    struct eventfd_info info;

    if (fcntl(fd, F_GETFD) < 0)
        return ctl_usage(args, "--%s: descriptor %d is not open", option, fd);
    if (eventfd_info(fd, &info) == -ENOTTY)
        return ctl_usage(args, "--%s: descriptor %d is no eventfd", option, fd);
    return CTL_OK;
}

static int take_fds(const struct ctl_args *args, struct request *request)
{
    size_t n = ctl_option_count(args, "fd");

    if (n != request->n)
        return ctl_usage(args, "hold: %zu names and %zu --fd: they go in pairs", request->n, n);
    request->fds = calloc(n, sizeof(int));
    if (!request->fds)
        return ctl_oom();
    for (size_t i = 0; i < n; i++) {
        const char *value = ctl_option_at(args, "fd", i);
        int64_t fd;
        int r;

        if (!text_number(value, 0, INT_MAX, &fd))
            return ctl_usage(args, "--fd: '%s' is no descriptor's number", value);
        request->fds[i] = (int)fd;
        r = check_fd(args, "fd", request->fds[i]);
        if (r != CTL_OK)
            return r;
    }
    return CTL_OK;
}

/* What sd_listen_fds_with_names(3) does. */
static int take_listen_fds(const struct ctl_args *args, struct request *request)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS"), *listed = getenv("LISTEN_FDNAMES");
    int64_t n;

    if (!pid || !text_number(pid, getpid(), getpid(), &n) || !count ||
        !text_number(count, 1, EVLINK_HOLD_MANY_MAX, &n))
        return ctl_usage(args, "--listen-fds: LISTEN_FDS and LISTEN_PID pass no descriptors to this process");
    request->fds = calloc((size_t)n, sizeof(int));
    request->split = calloc((size_t)n + 1, sizeof(char *)); /* room for one too many */
    if (!request->fds || !request->split)
        return ctl_oom();
    if (request->n == 0 && listed) {
        char *rest, *name;

        rest = request->listed = strdup(listed);
        if (!rest)
            return ctl_oom();
        while (request->n <= (size_t)n && (name = strsep(&rest, ":")))
            request->split[request->n++] = name;
        request->names = request->split;
    }
    if (request->n != (size_t)n)
        return ctl_usage(args, "--listen-fds: there are not as many names as descriptors (%d)", (int)n);
    for (size_t i = 0; i < request->n; i++) {
        int r;

        request->fds[i] = LISTEN_FDS_START + (int)i;
        r = check_fd(args, "listen-fds", request->fds[i]);
        if (r != CTL_OK)
            return r;
    }
    return CTL_OK;
}

static int request_init(const struct ctl_args *args, struct request *request)
{
    bool connection, passed = ctl_flag(args, "fd") || ctl_flag(args, "listen-fds");
    int r;

    request->names = args->names;
    request->n = args->n_names;
    r = ctl_lifetime(args, lifetimes, &request->lifetime, &request->lease);
    if (r != CTL_OK)
        return r;
    connection = request->lifetime && strcmp(request->lifetime, "connection") == 0;
    if (connection != !!args->exec)
        return ctl_usage(args, connection ? "--lifetime connection needs a COMMAND after --, to last as long"
                                          : "a COMMAND after -- goes with --lifetime connection");
    if (passed && ctl_flag(args, "semaphore"))
        return ctl_usage(args, "--semaphore is for what evlinkd makes, not for descriptors that are passed");
    if (ctl_flag(args, "fd") && ctl_flag(args, "listen-fds"))
        return ctl_usage(args, "--fd and --listen-fds exclude each other");
    if (request->n == 0 && !ctl_flag(args, "listen-fds"))
        return ctl_usage(args, "hold: an argument is missing: %s", args->command->arguments);
    if (!passed)
        return CTL_OK;
    r = ctl_flag(args, "fd") ? take_fds(args, request) : take_listen_fds(args, request);
    if (r == CTL_OK && request->n > EVLINK_HOLD_MANY_MAX)
        return ctl_usage(args, "hold: at most %d descriptors at once", EVLINK_HOLD_MANY_MAX);
    return r;
}

/* Holds one, made by evlinkd or passed to us, and appends it to eventfds. */
static int hold_one(
    struct ctl *ctl, const struct request *request, size_t i, bool semaphore, json_t *eventfds)
{
    json_auto_t *parameters =
        json_pack("{s:s, s:s*}", "name", request->names[i], "lifetime", request->lifetime);
    json_auto_t *reply = NULL;
    int r;

    if ((request->fds && json_object_set_new(parameters, "fileDescriptorIndex", json_integer(0)) < 0) ||
        (semaphore && json_object_set_new(parameters, "semaphore", json_true()) < 0) ||
        (request->lease > 0 &&
            json_object_set_new(parameters, "leaseSeconds", json_integer(request->lease)) < 0))
        return ctl_oom();
    r = ctl_call(ctl, CTL_METHOD("Hold"), TAKE(parameters), request->fds, request->fds ? 1 : 0, &reply);
    if (r == CTL_OK && json_array_append(eventfds, json_object_get(reply, "eventfd")) < 0)
        return ctl_oom();
    return r;
}

/* Holds all that were passed or none. The broker's answer is empty: what it holds, the list says. */
static int hold_many(struct ctl *ctl, const struct request *request, json_t *eventfds)
{
    json_auto_t *parameters = json_pack("{s:[], s:s*}", "names", "lifetime", request->lifetime);
    json_t *names = json_object_get(parameters, "names");
    json_auto_t *reply = NULL;
    int r;

    for (size_t i = 0; i < request->n; i++)
        if (json_array_append_new(names, json_string(request->names[i])) < 0)
            return ctl_oom();
    if (request->lease > 0 &&
        json_object_set_new(parameters, "leaseSeconds", json_integer(request->lease)) < 0)
        return ctl_oom();
    r = ctl_call(ctl, CTL_METHOD("HoldMany"), TAKE(parameters), request->fds, request->n, &reply);
    for (size_t i = 0; i < request->n && r == CTL_OK && ctl->json; i++)
        r = ctl_list(ctl, CTL_METHOD("ListEventfds"), json_pack("{s:s}", "match", request->names[i]),
            "eventfd", eventfds);
    return r;
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    CLEANUP(request_clear) struct request request = { 0 };
    json_auto_t *eventfds = json_array();
    int status, r;

    status = request_init(args, &request);
    if (status != CTL_OK)
        return status;
    if (request.fds && request.n > 1)
        status = hold_many(ctl, &request, eventfds);
    else
        for (size_t i = 0; i < request.n && status != CTL_UNREACHABLE; i++) {
            r = hold_one(ctl, &request, i, ctl_flag(args, "semaphore"), eventfds);
            if (r != CTL_OK)
                status = r;
        }
    if (ctl->json && json_array_size(eventfds) > 0) {
        r = ctl_print_json(json_pack("{s:O}", "eventfds", eventfds));
        if (r != CTL_OK)
            status = r;
    }
    return status == CTL_OK && args->exec ? run_wait(args->exec) : status;
}

const struct ctl_command command_hold = {
    .name = "hold",
    .arguments = "[--fd N]... NAME...",
    .help = "Have evlinkd hold eventfds under names",
    .more = "Without --fd and --listen-fds evlinkd makes the eventfds. With --lifetime connection,\n"
            "-- COMMAND [ARGUMENT...] follows: they are held while COMMAND runs.\n",
    .options = options,
    .max = SIZE_MAX,
    .takes_command = true,
    .run = run,
};
