/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* revoke: evlinkd closes the connections that were delegated for a scope. */
#include "ctl/ctl.h"

/* One scope. What the broker has to say of a scope without connections is about the parameter alone. */
static int revoke(struct ctl *ctl, const char *scope)
{
    int r = evlink_revoke(ctl->client, scope);

    if (r != EVLINK_E_INVALID_PARAMETER)
        return ctl_result(ctl, r);
    ctl_error("there is no delegated connection of the scope %s that this user may close", scope);
    return CTL_FAILED;
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    int status = ctl_open(ctl);

    for (size_t i = 0; i < args->n_names && status != CTL_UNREACHABLE; i++) {
        int r = revoke(ctl, args->names[i]);

        if (r != CTL_OK)
            status = r;
    }
    return status == CTL_OK && ctl->json ? ctl_print_json(json_object()) : status;
}

const struct ctl_command command_revoke = {
    .name = "revoke",
    .arguments = "SCOPE...",
    .help = "Close the delegated connections of scopes",
    .min = 1,
    .max = SIZE_MAX,
    .run = run,
};
