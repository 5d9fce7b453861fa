/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* renew: leases, of eventfds and of links. */
#include "ctl/ctl.h"

static const struct ctl_option options[] = {
    { "lease", 0, "SECONDS", "until when, from now" },
    { "link", 0, "NAME", "a link's lease; may be given several times" },
    CTL_OPTIONS_END,
};

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    size_t n_links = ctl_option_count(args, "link");
    int64_t seconds;
    int status;

    if (args->n_names == 0 && n_links == 0)
        return ctl_usage(args, "renew: name eventfds, or links with --link");
    status = ctl_seconds(args, "lease", &seconds);
    if (status == CTL_OK)
        status = ctl_open(ctl);
    if (status != CTL_OK)
        return status;
    for (size_t i = 0; i < args->n_names + n_links && status != CTL_UNREACHABLE; i++) {
        int r = i < args->n_names
                    ? evlink_renew(ctl->client, args->names[i], seconds)
                    : evlink_renew_link(ctl->client, ctl_option_at(args, "link", i - args->n_names), seconds);

        r = ctl_result(ctl, r);
        if (r != CTL_OK)
            status = r;
    }
    return status == CTL_OK && ctl->json ? ctl_print_json(json_object()) : status;
}

const struct ctl_command command_renew = {
    .name = "renew",
    .arguments = "--lease SECONDS NAME... [--link NAME]...",
    .help = "Renew the leases of eventfds and links",
    .options = options,
    .max = SIZE_MAX,
    .run = run,
};
