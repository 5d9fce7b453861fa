/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* delegate: a command gets a connection that is confined to a scope, in EVLINK_FD. */
#include "base/cleanup.h"
#include "base/fd.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static const struct ctl_option options[] = {
    { "max-eventfds", 0, "N", "how many eventfds the scope may have" },
    { "max-links", 0, "N", "how many links" },
    CTL_OPTIONS_END,
};

/* A limit, -1 where there is none. */
static int read_limit(const struct ctl_args *args, const char *name, int64_t *ret_limit)
{
    const char *text = ctl_option(args, name);

    *ret_limit = -1;
    if (text && !text_number(text, 0, INT64_MAX, ret_limit))
        return ctl_usage(args, "--%s: '%s' is no whole number from 0", name, text);
    return CTL_OK;
}

/* Has the descriptor inherited, and says which it is. -errno. */
static int pass_on(int fd)
{
    char number[24];

    (void)snprintf(number, sizeof(number), "%d", fd);
    return fcntl(fd, F_SETFD, 0) < 0 || setenv("EVLINK_FD", number, true) < 0 ? -errno : 0;
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    CLEANUP(fd_closep) int fd = -1;
    int64_t eventfds, links;
    int r;

    if (!args->exec)
        return ctl_usage(args, "delegate: say after -- what COMMAND is to get the connection");
    r = read_limit(args, "max-eventfds", &eventfds);
    if (r == CTL_OK)
        r = read_limit(args, "max-links", &links);
    if (r == CTL_OK)
        r = ctl_open(ctl);
    if (r != CTL_OK)
        return r;
    r = ctl_result(ctl, evlink_delegate(ctl->client, args->names[0], (const char *const *)args->names + 1,
                            eventfds, links, &fd));
    if (r != CTL_OK)
        return r;
    ctl_close(ctl);
    r = pass_on(fd);
    if (r < 0) {
        ctl_error("delegate: the connection cannot be passed on: %s", strerror(-r));
        return CTL_FAILED;
    }
    return run_exec(args->exec);
}

const struct ctl_command command_delegate = {
    .name = "delegate",
    .arguments = "SCOPE [ENDPOINT...] -- COMMAND [ARGUMENT...]",
    .help = "Run a command with a connection that is confined to a scope",
    .more = "EVLINK_FD tells evlinkctl, and every program with libevlink, that the command runs.\n",
    .options = options,
    .min = 1,
    .max = SIZE_MAX,
    .takes_command = true,
    .run = run,
};
