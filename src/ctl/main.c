/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* evlinkctl: every verb of evlinkd's for people and scripts. The table of commands, and what main() has to
 * do. */
#include "base/fd.h"
#include "ctl/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* How long evlinkd may take: longer than it gives an agent (5 s), so that it is the one to say what is wrong.
 */
#define TIMEOUT_DEFAULT 25

#define ROW(name) &command_##name,
const struct ctl_command *const ctl_commands[] = { CTL_COMMANDS(ROW) NULL };
#undef ROW

const struct ctl_command *ctl_command_find(const char *name)
{
    for (size_t i = 0; ctl_commands[i]; i++)
        if (strcmp(ctl_commands[i]->name, name) == 0)
            return ctl_commands[i];
    return NULL;
}

/* Whoever reads our output must be able to trust that a success came with all of it. */
static int close_stdout(int status)
{
    bool failed = ferror(stdout) != 0;

    errno = 0;
    if (fclose(stdout) == 0 && !failed)
        return status;
    if (errno != 0)
        ctl_error("cannot write the output: %s", strerror(errno));
    else
        ctl_error("cannot write the output");
    return status == CTL_OK ? CTL_FAILED : status;
}

int main(int argc, char **argv)
{
    struct ctl ctl = { .timeout = TIMEOUT_DEFAULT };
    struct ctl_args args;
    int status;

    fd_fill_standard();
    /* Characters only: numbers and times are the same everywhere, for scripts. */
    (void)setlocale(LC_CTYPE, "");
    if (ctl_args_parse(&ctl, argc, argv, &args, &status))
        status = args.command->run(&ctl, &args);
    ctl_args_clear(&args);
    ctl_close(&ctl);
    return close_stdout(status);
}
