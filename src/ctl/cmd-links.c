/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* links: what is linked to what. */
#include "ctl/ctl.h"
#include "ctl/table.h"

/* A link's ends the way that `evlinkctl link` takes them. */
static char *text_end(const json_t *end)
{
    return table_string(json_object_get(end, "endpoint"));
}

static char *text_ends(const json_t *ends)
{
    return table_join(ends, text_end);
}

static const struct table_column columns[] = {
    { "NAME", "name", table_string, TABLE_LEFT, false, "name of the link; an endpoint" },
    { "STATE", "state", table_string, TABLE_LEFT, false,
        "waiting, linked, parked or failed; an end's state" },
    { "PRODUCERS", "producers", text_ends, TABLE_ITEMS, false, "endpoints that signal" },
    { "CONSUMERS", "consumers", text_ends, TABLE_ITEMS, false, "endpoints that are signalled" },
    { "RELAYED", "relayed", table_boolean, TABLE_LEFT, false, "whether evlinkd copies the signals" },
    { "OWNER", "owner.uid", table_user, TABLE_LEFT, false, "user who made it" },
    { "SINCE", "since", table_time, TABLE_LEFT, false, "when it was made" },
    { "KIND", "kind", table_string, TABLE_LEFT, true, "direct or relayed; producer or consumer" },
    { "GROUP", "group", table_string, TABLE_LEFT, true, "group that it is in" },
    { "LABELS", "labels", table_labels, TABLE_ITEMS, true, "its labels" },
    { "LIFETIME", "lifetime", table_string, TABLE_LEFT, true, "how long it lasts" },
    { "FORWARDED", "forwarded", table_integer, TABLE_RIGHT, true, "signals that evlinkd copied" },
    { "REASON", "reason", table_string, TABLE_LEFT, true, "why it is in its state; the same of an end" },
    TABLE_COLUMNS_PEER,
    TABLE_COLUMNS_END,
};

static const struct ctl_option options[] = {
    { "group", 'g', "GROUP", "only the links of this group" },
    { "list", 'l', NULL, "print a line for each link instead" },
    TABLE_OPTION_OUTPUT,
    CTL_OPTIONS_END,
};

/* Appends rows for the ends of one side. */
static bool add_ends(json_t *rows, const json_t *ends, const char *kind)
{
    const json_t *end;
    size_t index;

    json_array_foreach ((json_t *)ends, index, end)
        if (json_array_append_new(rows,
                json_pack("{s:O?, s:s, s:O?, s:O?}", "name", json_object_get(end, "endpoint"), "kind", kind,
                    "state", json_object_get(end, "state"), "reason", json_object_get(end, "reason"))) < 0)
            return false;
    return true;
}

/* Gives each link what the tree has beyond the contract's members: its kind, and its ends as rows. */
static bool add_rows(json_t *links)
{
    json_t *link;
    size_t index;

    json_array_foreach (links, index, link) {
        bool relayed = json_is_true(json_object_get(link, "relayed"));
        json_t *rows = json_array();

        if (json_object_set_new(link, "ends", rows) < 0 ||
            json_object_set_new(link, "kind", json_string(relayed ? "relayed" : "direct")) < 0 ||
            !add_ends(rows, json_object_get(link, "producers"), "producer") ||
            !add_ends(rows, json_object_get(link, "consumers"), "consumer"))
            return false;
    }
    return true;
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    json_auto_t *links = json_array();
    int r;

    r = table_check(args);
    if (r != CTL_OK)
        return r;
    r = ctl_list(ctl, CTL_METHOD("ListLinks"),
        json_pack("{s:s*, s:s*}", "match", args->names[0], "group", ctl_option(args, "group")), "link",
        links);
    if (r != CTL_OK)
        return r;
    if (ctl->json)
        return table_print(ctl, args, "links", links);
    if (!add_rows(links))
        return ctl_oom();
    if (ctl_flag(args, "list"))
        return table_print(ctl, args, "links", links);
    return table_print_tree(ctl, args, links, "ends", "NAME,KIND,STATE,REASON");
}

const struct ctl_command command_links = {
    .name = "links",
    .arguments = "[--list] [--group GROUP] [PATTERN]",
    .help = "List the links and their ends",
    .more = "Below each link are its ends. Unless --output says otherwise, the columns are NAME, KIND, STATE "
            "and\n"
            "REASON. What a column says of an end stands behind the semicolon below.\n",
    .options = options,
    .columns = columns,
    .max = 1,
    .run = run,
};
