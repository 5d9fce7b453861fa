/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* resume: what was parked is plugged again. */
#include "ctl/ctl.h"

static const struct ctl_option options[] = {
    { "group", 'g', "GROUP", "all links of this group instead" },
    CTL_OPTIONS_END,
};

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    return ctl_each_link(ctl, args, CTL_METHOD("Resume"));
}

const struct ctl_command command_resume = {
    .name = "resume",
    .arguments = "NAME... | --group GROUP",
    .help = "Plug the consumers of parked links again",
    .options = options,
    .max = SIZE_MAX,
    .run = run,
};
