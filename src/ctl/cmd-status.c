/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* status: how evlinkd is doing, on one screen. */
#include "base/cleanup.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

#include <stdio.h>

static long long number(const json_t *status, const char *member)
{
    return json_integer_value(json_object_get(status, member));
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    CLEANUP(freep) char *version = NULL, *socket = NULL, *since = NULL, *before = NULL;
    json_auto_t *status = NULL;
    const char *text, *last_end;
    int r;

    (void)args;
    r = ctl_call(ctl, CTL_METHOD("Status"), json_object(), NULL, 0, &status);
    if (r != CTL_OK)
        return r;
    if (ctl->json)
        return ctl_print_json(TAKE(status));

    text = json_string_value(json_object_get(status, "version"));
    version = text_escape(text ? text : "?");
    socket = text_escape(ctl->socket);
    since = text_time_long(number(status, "startedAt"));
    if (!version || !socket || !since)
        return ctl_oom();
    printf("evlinkd %s\n", version);
    printf("%12s: %s\n", "Socket", socket);
    printf("%12s: %s\n", "Started", since);
    printf("%12s: %s\n", "Durable",
        json_is_true(json_object_get(status, "durable")) ? "yes"
                                                         : "no (what is held ends with this evlinkd)");
    last_end = json_string_value(json_object_get(status, "lastEnd"));
    if (last_end) {
        before = text_escape(last_end);
        if (!before)
            return ctl_oom();
        printf("%12s: %s\n", "Before", before);
        printf("%12s: %lld eventfds, %lld links, %lld agents, in %.1f ms\n", "Restored",
            number(status, "restoredEventfds"), number(status, "restoredLinks"),
            number(status, "restoredAgents"), (double)number(status, "restoreMicroseconds") / 1000);
    }
    printf("%12s: %lld\n", "Eventfds", number(status, "eventfds"));
    printf("%12s: %lld\n", "Links", number(status, "links"));
    printf("%12s: %lld\n", "Agents", number(status, "agents"));
    printf("%12s: %lld\n", "Connections", number(status, "connections"));
    return CTL_OK;
}

const struct ctl_command command_status = {
    .name = "status",
    .arguments = "",
    .help = "Show how evlinkd is doing",
    .run = run,
};
