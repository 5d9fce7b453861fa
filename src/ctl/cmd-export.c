/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* export: links as `evlinkctl link --file` takes them, to restore them or to make them on another host. */
#include "ctl/ctl.h"

static const struct ctl_option options[] = {
    { "group", 'g', "GROUP", "only the links of this group" },
    CTL_OPTIONS_END,
};

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    json_auto_t *links = json_array();
    json_t *link;
    size_t index;
    int r;

    r = ctl_list(ctl, CTL_METHOD("Export"),
        json_pack("{s:s*, s:s*}", "match", args->names[0], "group", ctl_option(args, "group")), "link",
        links);
    if (r == CTL_OK && ctl->json)
        return ctl_print_json(json_pack("{s:O}", "links", links));
    for (index = 0; r == CTL_OK && (link = json_array_get(links, index)); index++)
        r = ctl_print_json_line(json_incref(link));
    return r;
}

const struct ctl_command command_export = {
    .name = "export",
    .arguments = "[--group GROUP] [PATTERN]",
    .help = "Print links as 'link --file' takes them",
    .more = "Each line is a LinkSpec of io.evlink.Broker(7) in JSON. With --json they are one document: the\n"
            "parameters of ConnectMany.\n",
    .options = options,
    .max = 1,
    .run = run,
};
