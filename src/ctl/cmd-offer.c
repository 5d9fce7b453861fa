/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* offer: endpoints of an agent's devices can be plugged from now on. */
#include "ctl/ctl.h"

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    int r;

    r = ctl_open(ctl);
    if (r == CTL_OK)
        r = ctl_result(ctl, evlink_offer(ctl->client, args->names[0], (const char *const *)args->names + 1));
    return r == CTL_OK && ctl->json ? ctl_print_json(json_object()) : r;
}

const struct ctl_command command_offer = {
    .name = "offer",
    .arguments = "AGENT ENDPOINT...",
    .help = "Let endpoints of an agent's devices be plugged",
    .more = "The agent itself does this when a guest begins to use a device: see evlink_offer(3).\n",
    .min = 2,
    .max = SIZE_MAX,
    .run = run,
};
