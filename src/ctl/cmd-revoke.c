/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* revoke: evlinkd closes the connections that were delegated for a scope. */
#include "ctl/ctl.h"

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    return ctl_each(ctl, args, evlink_revoke);
}

const struct ctl_command command_revoke = {
    .name = "revoke",
    .arguments = "SCOPE...",
    .help = "Close the delegated connections of scopes",
    .min = 1,
    .max = SIZE_MAX,
    .run = run,
};
