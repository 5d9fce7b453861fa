/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* claim: a command gets duplicates of held eventfds, the way that systemd passes sockets: sd_listen_fds(3).
 */
#include "base/cleanup.h"
#include "base/fd.h"
#include "ctl/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LISTEN_FDS_START 3

/* Tells the command what it has: LISTEN_FDS, LISTEN_PID, which exec keeps, and LISTEN_FDNAMES. */
static int set_environment(char *const *names, size_t n)
{
    CLEANUP(freep) char *joined = NULL;
    char number[24];
    size_t size = 0;
    FILE *stream = open_memstream(&joined, &size);

    if (!stream)
        return -errno;
    for (size_t i = 0; i < n; i++)
        fprintf(stream, "%s%s", i > 0 ? ":" : "", names[i]);
    if (fclose(stream) != 0)
        return -ENOMEM;
    (void)snprintf(number, sizeof(number), "%zu", n);
    if (setenv("LISTEN_FDNAMES", joined, true) < 0 || setenv("LISTEN_FDS", number, true) < 0)
        return -errno;
    (void)snprintf(number, sizeof(number), "%jd", (intmax_t)getpid());
    if (setenv("LISTEN_PID", number, true) < 0)
        return -errno;
    (void)unsetenv("LISTEN_PIDFDID"); /* of whoever was started with descriptors before us */
    return 0;
}

/* Puts the descriptors at LISTEN_FDS_START and up, to be inherited, over whatever was there. -errno. */
static int arrange(struct fdset *fds)
{
    /* First out of the way of each other. */
    for (size_t i = 0; i < fds->n; i++) {
        int high = fcntl(fds->fds[i], F_DUPFD_CLOEXEC, LISTEN_FDS_START + (int)fds->n);

        if (high < 0)
            return -errno;
        fd_close(fds->fds[i]);
        fds->fds[i] = high;
    }
    for (size_t i = 0; i < fds->n; i++)
        if (dup2(fds->fds[i], LISTEN_FDS_START + (int)i) < 0)
            return -errno;
    return 0;
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    CLEANUP(fdset_clear) struct fdset fds = FDSET_EMPTY;
    int r;

    if (!args->exec)
        return ctl_usage(args, "claim: say after -- what COMMAND is to get the eventfds");
    fds.fds = calloc(args->n_names, sizeof(int));
    if (!fds.fds)
        return ctl_oom();
    r = ctl_open(ctl);
    for (; r == CTL_OK && fds.n < args->n_names; fds.n++) {
        r = ctl_result(ctl, evlink_claim(ctl->client, args->names[fds.n], &fds.fds[fds.n]));
        if (r != CTL_OK)
            break;
    }
    if (r != CTL_OK)
        return r;

    ctl_close(ctl); /* its descriptor may be where one of ours has to go */
    r = arrange(&fds);
    if (r == 0)
        r = set_environment(args->names, args->n_names);
    if (r < 0) {
        ctl_error("claim: the eventfds cannot be passed on: %s", strerror(-r));
        return CTL_FAILED;
    }
    return run_exec(args->exec);
}

const struct ctl_command command_claim = {
    .name = "claim",
    .arguments = "NAME... -- COMMAND [ARGUMENT...]",
    .help = "Run a command with eventfds as its descriptors from 3 on",
    .more = "LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES tell the command about them: see sd_listen_fds(3).\n",
    .min = 1,
    .max = SIZE_MAX,
    .takes_command = true,
    .run = run,
};
