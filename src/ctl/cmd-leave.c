/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* leave: an end goes out of its links for good, and the other ends are told. */
#include "base/cleanup.h"
#include "ctl/ctl.h"

static const struct ctl_option options[] = {
    { "reason", 0, "TEXT", "what the other ends are told" },
    CTL_OPTIONS_END,
};

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    json_auto_t *reply = NULL;
    int r;

    r = ctl_call(ctl, CTL_METHOD("Leave"),
        json_pack("{s:s, s:s*}", "endpoint", args->names[0], "reason", ctl_option(args, "reason")), NULL, 0,
        &reply);
    return r == CTL_OK && ctl->json ? ctl_print_json(TAKE(reply)) : r;
}

const struct ctl_command command_leave = {
    .name = "leave",
    .arguments = "[--reason TEXT] ENDPOINT",
    .help = "Take an end out of its links for good",
    .more = "A link that has lost its last producer or its last consumer so is undone.\n",
    .options = options,
    .min = 1,
    .max = 1,
    .run = run,
};
