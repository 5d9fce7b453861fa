/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* withdraw: endpoints of an agent are unplugged and cannot be plugged any more; their links wait. */
#include "ctl/ctl.h"

static const struct ctl_option options[] = {
    { "reason", 0, "TEXT", "what the other ends are told" },
    CTL_OPTIONS_END,
};

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    int r;

    r = ctl_open(ctl);
    if (r == CTL_OK)
        r = ctl_result(ctl, evlink_withdraw(ctl->client, args->names[0], (const char *const *)args->names + 1,
                                ctl_option(args, "reason")));
    return r == CTL_OK && ctl->json ? ctl_print_json(json_object()) : r;
}

const struct ctl_command command_withdraw = {
    .name = "withdraw",
    .arguments = "[--reason TEXT] AGENT ENDPOINT...",
    .help = "Unplug endpoints of an agent; their links wait",
    .options = options,
    .min = 2,
    .max = SIZE_MAX,
    .run = run,
};
