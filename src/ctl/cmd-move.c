/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* move: one end of a link goes to another endpoint. */
#include "base/cleanup.h"
#include "ctl/ctl.h"

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    json_auto_t *reply = NULL;
    int r;

    r = ctl_call(ctl, CTL_METHOD("Move"),
        json_pack("{s:s, s:s, s:s}", "name", args->names[0], "from", args->names[1], "to", args->names[2]),
        NULL, 0, &reply);
    return r == CTL_OK && ctl->json ? ctl_print_json(TAKE(reply)) : r;
}

const struct ctl_command command_move = {
    .name = "move",
    .arguments = "NAME FROM TO",
    .help = "Move one end of a link to another endpoint",
    .more = "Where TO cannot be plugged, FROM is plugged again.\n",
    .min = 3,
    .max = 3,
    .run = run,
};
