/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* park: consumers are unplugged, and signals accumulate until resume. */
#include "ctl/ctl.h"

static const struct ctl_option options[] = {
    { "group", 'g', "GROUP", "all links of this group instead" },
    CTL_OPTIONS_END,
};

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    return ctl_each_link(ctl, args, CTL_METHOD("Park"));
}

const struct ctl_command command_park = {
    .name = "park",
    .arguments = "NAME... | --group GROUP",
    .help = "Unplug the consumers of links and let signals accumulate",
    .options = options,
    .max = SIZE_MAX,
    .run = run,
};
