/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* unlink: links are undone, by name or by group. */
#include "ctl/ctl.h"

static const struct ctl_option options[] = {
    { "group", 'g', "GROUP", "all links of this group instead" },
    CTL_OPTIONS_END,
};

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    const char *group = ctl_option(args, "group");
    int r;

    if (!group == (args->n_names == 0))
        return ctl_usage(args, "unlink: name links, or a group with --group");
    if (!group)
        return ctl_each(ctl, args, evlink_disconnect);
    r = ctl_open(ctl);
    if (r == CTL_OK)
        r = ctl_result(ctl, evlink_disconnect_group(ctl->client, group));
    return r == CTL_OK && ctl->json ? ctl_print_json(json_object()) : r;
}

const struct ctl_command command_unlink = {
    .name = "unlink",
    .arguments = "NAME... | --group GROUP",
    .help = "Unplug the ends of links and forget the links",
    .options = options,
    .max = SIZE_MAX,
    .run = run,
};
