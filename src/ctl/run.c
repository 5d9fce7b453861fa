/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands that run commands: by becoming them, or as a child that is waited for because what was made lasts
 * only as long as this process's connection.
 */
#include "ctl/ctl.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int run_exec(char *const *command)
{
    int error;

    (void)execvp(command[0], command);
    error = errno;
    ctl_error("%s: %s", command[0], strerror(error));
    return error == ENOENT ? CTL_NOT_FOUND : CTL_NOT_RUN;
}

int run_wait(char *const *command)
{
    static const int keys[] = { SIGINT, SIGQUIT };
    const struct sigaction ignore = { .sa_handler = SIG_IGN };
    struct sigaction before[2];
    pid_t parent = getpid(), child;
    int status, error;

    /* The terminal sends these to both, and it is the command's to say what they mean. */
    for (size_t i = 0; i < 2; i++)
        (void)sigaction(keys[i], &ignore, &before[i]);
    (void)fflush(stdout); /* an error stands in the stream until main() looks */

    child = fork();
    error = errno;
    if (child == 0) {
        for (size_t i = 0; i < 2; i++)
            (void)sigaction(keys[i], &before[i], NULL);
        /* Without us the command has not what it was started for. */
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent)
            _exit(CTL_NOT_RUN);
        _exit(run_exec(command));
    }
    if (child > 0)
        while (waitpid(child, &status, 0) < 0)
            if (errno != EINTR) {
                error = errno;
                child = -1;
                break;
            }
    for (size_t i = 0; i < 2; i++)
        (void)sigaction(keys[i], &before[i], NULL);
    if (child < 0) {
        ctl_error("%s: %s", command[0], strerror(error));
        return CTL_NOT_RUN;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
