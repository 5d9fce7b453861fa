/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* version: of each part, since they are upgraded one by one. */
#include "base/cleanup.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

#include <stdio.h>

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    CLEANUP(freep) char *daemon = NULL;
    json_auto_t *status = NULL;
    const char *text;
    int r;

    (void)args;
    if (!ctl->json) /* known in any case */
        printf("evlinkctl %s\nlibevlink %s\n", PACKAGE_VERSION, evlink_version());
    r = ctl_call(ctl, CTL_METHOD("Status"), json_object(), NULL, 0, &status);
    if (r != CTL_OK)
        return r;
    text = json_string_value(json_object_get(status, "version"));
    if (ctl->json)
        return ctl_print_json(json_pack("{s:s, s:s, s:s}", "evlinkctl", PACKAGE_VERSION, "libevlink",
            evlink_version(), "evlinkd", text ? text : "?"));
    daemon = text_escape(text ? text : "?");
    if (!daemon)
        return ctl_oom();
    printf("evlinkd %s\n", daemon);
    return CTL_OK;
}

const struct ctl_command command_version = {
    .name = "version",
    .arguments = "",
    .help = "Print the versions of evlinkctl, libevlink and the running evlinkd",
    .run = run,
};
