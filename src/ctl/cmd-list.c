/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* list: the eventfds that are held. */
#include "ctl/ctl.h"
#include "ctl/table.h"

static const struct table_column columns[] = {
    { "NAME", "name", table_string, TABLE_LEFT, false, "name that it is held under" },
    { "PENDING", "pending", table_integer, TABLE_RIGHT, false, "what its counter shows" },
    { "SEMAPHORE", "semaphore", table_boolean, TABLE_LEFT, false, "whether each read takes one" },
    { "LIFETIME", "lifetime", table_string, TABLE_LEFT, false, "how long it is held" },
    { "LINKS", "links", table_strings, TABLE_ITEMS, false, "links that use it" },
    { "OWNER", "owner.uid", table_user, TABLE_LEFT, false, "user who made it" },
    { "SINCE", "since", table_time, TABLE_LEFT, false, "when it was made" },
    { "ID", "eventfdId", table_integer, TABLE_RIGHT, true, "the kernel's eventfd-id" },
    { "LEASE", "leaseSeconds", table_integer, TABLE_RIGHT, true, "length of its lease in seconds" },
    TABLE_COLUMNS_PEER,
    TABLE_COLUMNS_END,
};

static const struct ctl_option options[] = {
    TABLE_OPTION_OUTPUT,
    CTL_OPTIONS_END,
};

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    json_auto_t *eventfds = json_array();
    int r;

    r = table_check(args);
    if (r != CTL_OK)
        return r;
    r = ctl_list(
        ctl, CTL_METHOD("ListEventfds"), json_pack("{s:s*}", "match", args->names[0]), "eventfd", eventfds);
    return r == CTL_OK ? table_print(ctl, args, "eventfds", eventfds) : r;
}

const struct ctl_command command_list = {
    .name = "list",
    .arguments = "[PATTERN]",
    .help = "List the eventfds that are held",
    .options = options,
    .columns = columns,
    .max = 1,
    .run = run,
};
