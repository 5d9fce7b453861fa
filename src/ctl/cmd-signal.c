/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* signal: as the eventfd's producer would. */
#include "ctl/ctl.h"
#include "ctl/text.h"

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    int64_t count = 1;
    int r;

    if (args->n_names > 1 && !text_number(args->names[1], 1, INT64_MAX, &count))
        return ctl_usage(args, "signal: '%s' is no whole number from 1", args->names[1]);
    r = ctl_open(ctl);
    if (r == CTL_OK)
        r = ctl_result(ctl, evlink_signal(ctl->client, args->names[0], (uint64_t)count));
    return r == CTL_OK && ctl->json ? ctl_print_json(json_object()) : r;
}

const struct ctl_command command_signal = {
    .name = "signal",
    .arguments = "NAME [COUNT]",
    .help = "Add 1 or COUNT to the counter of an eventfd",
    .min = 1,
    .max = 2,
    .run = run,
};
