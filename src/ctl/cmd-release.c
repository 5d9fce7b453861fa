/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* release: evlinkd drops its reference to an eventfd. */
#include "ctl/ctl.h"

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    return ctl_each(ctl, args, evlink_release);
}

const struct ctl_command command_release = {
    .name = "release",
    .arguments = "NAME...",
    .help = "Release eventfds that no link uses",
    .min = 1,
    .max = SIZE_MAX,
    .run = run,
};
