/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* config: the configuration that is in force, and where it comes from. */
#include "base/cleanup.h"
#include "ctl/ctl.h"
#include "ctl/table.h"

static const struct table_column columns[] = {
    { "SECTION", "section", table_string, TABLE_LEFT, false, "section of the file" },
    { "KEY", "key", table_string, TABLE_LEFT, false, "key in that section" },
    { "VALUE", "value", table_string, TABLE_LEFT, false, "its value, as it was written" },
    { "FROM", "from", table_string, TABLE_LEFT, false, "file and line that say so" },
    TABLE_COLUMNS_END,
};

static const struct ctl_option options[] = {
    TABLE_OPTION_OUTPUT,
    CTL_OPTIONS_END,
};

/* Adds where a setting comes from. */
static int add_from(json_t *setting)
{
    const char *file = json_string_value(json_object_get(setting, "file"));
    json_int_t line = json_integer_value(json_object_get(setting, "line"));
    json_t *from = file ? json_sprintf("%s:%" JSON_INTEGER_FORMAT, file, line) : json_string("default");

    return json_object_set_new(setting, "from", from);
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    json_auto_t *reply = NULL;
    json_t *settings, *setting;
    size_t i;
    int r;

    r = table_check(args);
    if (r == CTL_OK)
        r = ctl_call(ctl, CTL_METHOD("GetConfig"), json_object(), NULL, 0, &reply);
    if (r != CTL_OK)
        return r;
    settings = json_object_get(reply, "settings");
    if (!ctl->json)
        json_array_foreach (settings, i, setting)
            if (add_from(setting) < 0)
                return ctl_oom();
    return table_print(ctl, args, "settings", settings);
}

const struct ctl_command command_config = {
    .name = "config",
    .arguments = "",
    .help = "Show the configuration, and where it comes from",
    .options = options,
    .columns = columns,
    .run = run,
};
