/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* agents: the processes that plug for evlinkd. */
#include "base/cleanup.h"
#include "ctl/ctl.h"
#include "ctl/table.h"

#include <stdio.h>

static char *text_subsystem(const json_t *subsystem)
{
    const char *kind = json_string_value(json_object_get(subsystem, "kind"));
    const char *name = json_string_value(json_object_get(subsystem, "name"));
    char *text;

    return asprintf(&text, "%s/%s", kind ? kind : "?", name ? name : "?") < 0 ? NULL : text;
}

static char *text_subsystems(const json_t *subsystems)
{
    return table_join(subsystems, text_subsystem);
}

static const struct table_column columns[] = {
    { "NAME", "name", table_string, TABLE_LEFT, false, "name of the agent" },
    { "OWNER", "owner.uid", table_user, TABLE_LEFT, false, "user whose process it is in" },
    { "PID", "owner.pid", table_integer, TABLE_RIGHT, false, "process that it is in" },
    { "SUBSYSTEMS", "subsystems", text_subsystems, TABLE_ITEMS, false, "what it plugs into" },
    { "OFFERED", "offered", table_count, TABLE_RIGHT, false, "how many endpoints it offers" },
    { "SINCE", "since", table_time, TABLE_LEFT, false, "when it attached" },
    { "ENDPOINTS", "offered", table_strings, TABLE_ITEMS, true, "endpoints that it offers" },
    { "UID", "owner.uid", table_integer, TABLE_RIGHT, true, "the user's number" },
    { "GID", "owner.gid", table_integer, TABLE_RIGHT, true, "the group's number" },
    { "SCOPE", "owner.scope", table_string, TABLE_LEFT, true, "delegated scope it came through" },
    { "SECLABEL", "owner.label", table_string, TABLE_LEFT, true, "security label of the process" },
    TABLE_COLUMNS_END,
};

static const struct ctl_option options[] = {
    TABLE_OPTION_OUTPUT,
    CTL_OPTIONS_END,
};

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    json_auto_t *agents = json_array();
    int r;

    r = table_check(args);
    if (r != CTL_OK)
        return r;
    r = ctl_list(
        ctl, CTL_METHOD("ListAgents"), json_pack("{s:s*}", "match", args->names[0]), "agent", agents);
    return r == CTL_OK ? table_print(ctl, args, "agents", agents) : r;
}

const struct ctl_command command_agents = {
    .name = "agents",
    .arguments = "[PATTERN]",
    .help = "List the agents, which plug eventfds for evlinkd",
    .options = options,
    .columns = columns,
    .max = 1,
    .run = run,
};
