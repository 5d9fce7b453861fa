/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * show: one link from end to end. What the broker knows of it comes from the lists, and who else holds its
 * eventfds from /proc, as far as that goes.
 */
#include "base/cleanup.h"
#include "ctl/ctl.h"
#include "ctl/holders.h"
#include "ctl/table.h"
#include "ctl/text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* In the tree a node is an eventfd, or an end or a holder of one. */
static const struct table_column columns[] = {
    { "EVENTFD", "node", table_string, TABLE_LEFT, false,
        "eventfd; below it the ends that have it, and the descriptors of it that processes have" },
    { "ROLE", "role", table_string, TABLE_LEFT, false,
        "eventfd or semaphore; producer or consumer, of signals or (eoi-) of the end-of-interrupt; holder" },
    { "STATE", "state", table_string, TABLE_LEFT, false, "an end's state" },
    { "PENDING", "pending", table_integer, TABLE_RIGHT, false, "what its counter shows" },
    { "NAMES", "names", table_strings, TABLE_ITEMS, false, "names that it is held under" },
    { "AGENT", "agent", table_string, TABLE_LEFT, false, "agent that plugs at an end" },
    { "PID", "pid", table_integer, TABLE_RIGHT, false, "process of the agent, or of a holder" },
    { "COMMAND", "comm", table_string, TABLE_LEFT, false, "what runs in it" },
    { "REASON", "reason", table_string, TABLE_LEFT, false, "why an end is in its state" },
    TABLE_COLUMNS_END,
};

static const struct ctl_option options[] = {
    TABLE_OPTION_OUTPUT,
    CTL_OPTIONS_END,
};

static const char *const sides[] = { "producers", "consumers" };

/* What is known of all links that are shown. */
struct view {
    json_t *links;    /* with the details of their ends */
    json_t *eventfds; /* {eventfd-id: {eventfdId, names, holders}} */
    json_t *agents;   /* {name: agent}: those of the ends, each with its comm */
    struct holders_tally tally;
    int unseen; /* 0, or the -errno for which nobody could be looked into */
};

static void view_clear(struct view *view)
{
    json_decref(view->links);
    json_decref(view->eventfds);
    json_decref(view->agents);
}

static const char *string_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

static bool has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* ---- What there is ---- */

/* What an eventfd-id is found by. */
#define KEY_SIZE 32

static const char *key_of(const json_t *id, char key[static KEY_SIZE])
{
    (void)snprintf(key, KEY_SIZE, "%" JSON_INTEGER_FORMAT, json_integer_value(id));
    return key;
}

/* An eventfd that is to be looked for; id: NULL: none that is known. */
static bool want_eventfd(struct view *view, json_t *id)
{
    char key[KEY_SIZE];

    return !id || json_object_get(view->eventfds, key_of(id, key)) ||
           json_object_set_new(
               view->eventfds, key, json_pack("{s:O, s:[], s:[]}", "eventfdId", id, "names", "holders")) == 0;
}

/* Notes which eventfds and agents the links' ends have. */
static bool want_all(struct view *view)
{
    json_t *link, *end, *agent;
    size_t i, k;

    json_array_foreach (view->links, i, link)
        for (size_t side = 0; side < ARRAY_SIZE(sides); side++)
            json_array_foreach (json_object_get(link, sides[side]), k, end) {
                agent = json_object_get(end, "agent");
                if (!want_eventfd(view, json_object_get(end, "eventfdId")) ||
                    !want_eventfd(view, json_object_get(end, "resampleEventfdId")) ||
                    (agent && json_object_set_new(view->agents, json_string_value(agent), json_null()) < 0))
                    return false;
            }
    return true;
}

/* The names that eventfds are held under. */
static int add_names(struct ctl *ctl, struct view *view)
{
    json_auto_t *held = json_array();
    json_t *one, *id, *eventfd;
    char key[KEY_SIZE];
    size_t i;
    int r;

    r = ctl_list(ctl, CTL_METHOD("ListEventfds"), json_object(), "eventfd", held);
    if (r != CTL_OK)
        return r;
    json_array_foreach (held, i, one) {
        id = json_object_get(one, "eventfdId");
        eventfd = id ? json_object_get(view->eventfds, key_of(id, key)) : NULL;
        if (eventfd && json_array_append(json_object_get(eventfd, "names"), json_object_get(one, "name")) < 0)
            return ctl_oom();
    }
    return CTL_OK;
}

static int add_agents(struct ctl *ctl, struct view *view)
{
    json_auto_t *agents = json_array();
    json_t *agent, *pid;
    size_t i;
    int r;

    r = ctl_list(ctl, CTL_METHOD("ListAgents"), json_object(), "agent", agents);
    if (r != CTL_OK)
        return r;
    json_array_foreach (agents, i, agent) {
        const char *name = string_of(agent, "name");
        json_t *command;

        if (!json_object_get(view->agents, name))
            continue;
        pid = json_object_get(json_object_get(agent, "owner"), "pid");
        command = holders_command(
            (pid_t)json_integer_value(pid), json_integer_value(json_object_get(agent, "since")));
        if ((command && json_object_set_new(agent, "comm", command) < 0) ||
            json_object_set(view->agents, name, agent) < 0)
            return ctl_oom();
    }
    return CTL_OK;
}

/* Fills the view in around its links. CTL_OK, or an exit status. */
static int view_fill(struct ctl *ctl, struct view *view)
{
    int r;

    if (!want_all(view))
        return ctl_oom();
    r = add_names(ctl, view);
    if (r == CTL_OK)
        r = add_agents(ctl, view);
    if (r != CTL_OK)
        return r;
    view->unseen = holders_find(view->eventfds, &view->tally);
    return view->unseen == -ENOMEM ? ctl_oom() : CTL_OK;
}

/* ---- For people ---- */

/* The row of an eventfd in a link's tree, found by its id; NULL: no memory. */
static json_t *find_row(const struct view *view, json_t *rows, const json_t *id)
{
    char key[KEY_SIZE] = "unknown", node[64];
    json_t *known, *row;

    if (id)
        (void)key_of(id, key);
    row = json_object_get(rows, key);
    if (row)
        return row;
    known = json_object_get(view->eventfds, key);
    (void)snprintf(node, sizeof(node), "eventfd-id:%s", key);
    row = json_pack("{s:s, s:s, s:[], s:O*}", "node", node, "role", "eventfd", "below", "names",
        json_object_get(known, "names"));
    return json_object_set_new(rows, key, row) < 0 ? NULL : row;
}

/* Puts an end below an eventfd that it has. suffix: of its endpoint. */
static bool add_end(const struct view *view, json_t *rows, const json_t *end, const json_t *id,
    json_t *pending, const char *role, const char *suffix)
{
    json_t *agent = json_object_get(view->agents, string_of(end, "agent"));
    json_t *row = find_row(view, rows, id);

    if (!row || (pending && json_object_set(row, "pending", pending) < 0) ||
        (id && id == json_object_get(end, "eventfdId") && json_is_true(json_object_get(end, "semaphore")) &&
            json_object_set_new(row, "role", json_string("semaphore")) < 0))
        return false;
    return json_array_append_new(json_object_get(row, "below"),
               json_pack("{s:s+, s:s, s:O, s:O*, s:O*, s:O*, s:O*}", "node", string_of(end, "endpoint"),
                   suffix, "role", role, "state", json_object_get(end, "state"), "reason",
                   json_object_get(end, "reason"), "agent", json_object_get(end, "agent"), "pid",
                   json_object_get(json_object_get(agent, "owner"), "pid"), "comm",
                   json_object_get(agent, "comm"))) == 0;
}

/* Puts the ends below their eventfds: in the order that signals take, then the way back of a level link. */
static bool add_ends(const struct view *view, json_t *rows, const json_t *link)
{
    static const char *const roles[] = { "producer", "consumer" };
    static const char *const way_back[] = { "eoi-consumer", "eoi-producer" };
    json_t *end, *id;
    size_t i;

    for (size_t side = 0; side < ARRAY_SIZE(sides); side++)
        json_array_foreach (json_object_get(link, sides[side]), i, end)
            if (!add_end(view, rows, end, json_object_get(end, "eventfdId"), json_object_get(end, "pending"),
                    roles[side], ""))
                return false;
    for (size_t side = ARRAY_SIZE(sides); side-- > 0;)
        json_array_foreach (json_object_get(link, sides[side]), i, end) {
            id = json_object_get(end, "resampleEventfdId");
            if (id && !add_end(view, rows, end, id, json_object_get(end, "resamplePending"), way_back[side],
                          has_prefix(string_of(end, "endpoint"), "eventfd/") ? "/eoi" : ""))
                return false;
        }
    return true;
}

static bool add_holders(const struct view *view, json_t *rows)
{
    json_t *row, *holder;
    const char *key;
    size_t i;

    json_object_foreach (rows, key, row)
        json_array_foreach (json_object_get(json_object_get(view->eventfds, key), "holders"), i, holder) {
            CLEANUP(freep) char *fds = table_join(json_object_get(holder, "fds"), table_integer);

            if (!fds || json_array_append_new(json_object_get(row, "below"),
                            json_pack("{s:s+, s:s, s:O, s:O*}", "node", "fd:", fds, "role", "holder", "pid",
                                json_object_get(holder, "pid"), "comm", json_object_get(holder, "comm"))) < 0)
                return false;
        }
    return true;
}

/* Whether the kernel may have an end already, or still. */
static bool is_plugged(const json_t *end)
{
    const char *state = string_of(end, "state");

    return strcmp(state, "absent") != 0 && strcmp(state, "unplugged") != 0;
}

/* Who can tell how many signals went through. A direct link has one consumer. */
static const char *counting_of(const json_t *link)
{
    const json_t *end = json_array_get(json_object_get(link, "consumers"), 0);
    const char *consumer = string_of(end, "endpoint");
    json_t *producer;
    size_t i;

    if (!json_object_get(end, "pending"))
        return "nobody yet: the eventfd that is to be the link's is not held";
    if (has_prefix(consumer, "eventfd/") && json_is_true(json_object_get(end, "semaphore")))
        return "whoever reads it: each read takes one, of a semaphore";
    if (has_prefix(consumer, "eventfd/"))
        return "whoever reads it: each read tells how many came since the one before";
    if (has_prefix(consumer, "vhost/"))
        return "what is pending: vhost never reads the counter";
    if (!is_plugged(end))
        return "what is pending: signals accumulate until the consumer is plugged";
    json_array_foreach (json_object_get(link, "producers"), i, producer)
        if (has_prefix(string_of(producer, "endpoint"), "vfio/"))
            return "nobody: KVM empties the counter before anybody sees it, and posted interrupts bypass it";
    return "nobody: KVM empties the counter before anybody sees it";
}

/* One line of the block above a tree. text: consumed, NULL: no memory. */
static bool put(const char *label, char *text)
{
    char *escaped = text ? text_escape(text) : NULL;
    bool done = escaped != NULL;

    if (done)
        printf("%12s: %s\n", label, escaped);
    free(escaped);
    free(text);
    return done;
}

/* The same of a member of the link, where it has that. */
static bool put_member(const char *label, const json_t *link, const char *member)
{
    const json_t *value = json_object_get(link, member);

    return !value || put(label, table_string(value));
}

static char *text_counting(const json_t *link)
{
    json_t *forwarded = json_object_get(link, "forwarded");
    char *text;

    if (!json_is_true(json_object_get(link, "relayed")))
        return strdup(counting_of(link));
    return asprintf(&text, "evlinkd, which has copied %" JSON_INTEGER_FORMAT " so far",
               json_integer_value(forwarded)) < 0
               ? NULL
               : text;
}

static char *text_owner(const json_t *link)
{
    const json_t *owner = json_object_get(link, "owner");
    CLEANUP(freep) char *user = table_user(json_object_get(owner, "uid"));
    char *text;

    if (!user || asprintf(&text, "%s, from process %" JSON_INTEGER_FORMAT, user,
                     json_integer_value(json_object_get(owner, "pid"))) < 0)
        return NULL;
    return text;
}

static const char *path_of(const json_t *link)
{
    if (json_is_true(json_object_get(link, "relayed")))
        return "relayed: evlinkd copies each signal";
    if (json_object_get(json_array_get(json_object_get(link, "consumers"), 0), "resamplePending"))
        return "direct: one shared eventfd, and one for the end-of-interrupt";
    return "direct: one shared eventfd, and nobody in between";
}

static bool put_block(const json_t *link)
{
    const json_t *labels = json_object_get(link, "labels");
    CLEANUP(freep) char *name = text_escape(string_of(link, "name"));

    if (!name)
        return false;
    printf("%s\n", name);
    return put_member("State", link, "state") && put_member("Reason", link, "reason") &&
           put("Since", text_time_long(json_integer_value(json_object_get(link, "since")))) &&
           put("Owner", text_owner(link)) && put_member("Lifetime", link, "lifetime") &&
           put_member("Group", link, "group") && (!labels || put("Labels", table_labels(labels))) &&
           put("Path", strdup(path_of(link))) && put("Counted by", text_counting(link));
}

static int print_link(struct ctl *ctl, const struct ctl_args *args, const struct view *view, json_t *link)
{
    json_auto_t *rows = json_object(), *tree = json_array();
    json_t *row;
    const char *key;

    if (!put_block(link) || !add_ends(view, rows, link) || !add_holders(view, rows))
        return ctl_oom();
    json_object_foreach (rows, key, row)
        if (json_array_append(tree, row) < 0)
            return ctl_oom();
    (void)putchar('\n');
    return table_print_tree(ctl, args, tree, "below", NULL);
}

static int print_all(struct ctl *ctl, const struct ctl_args *args, const struct view *view)
{
    json_t *link;
    size_t i;

    json_array_foreach (view->links, i, link) {
        int r = print_link(ctl, args, view, link);

        if (r != CTL_OK)
            return r;
        (void)putchar('\n');
    }
    if (view->unseen < 0)
        printf("No holders are shown: /proc: %s.\n", strerror(-view->unseen));
    else
        printf("Holders are those of %zu processes; %zu more may not be looked into. What the kernel itself "
               "holds (KVM,\nVFIO, vhost) and what is on its way in a socket is in no process.\n",
            view->tally.seen, view->tally.hidden);
    return CTL_OK;
}

/* ---- For programs ---- */

/* The values of an object, without nulls. NULL: no memory. */
static json_t *values_of(json_t *object)
{
    json_t *values = json_array(), *value;
    const char *key;

    json_object_foreach (object, key, value)
        if (!json_is_null(value) && json_array_append(values, value) < 0) {
            json_decref(values);
            return NULL;
        }
    return values;
}

static int print_json(const struct view *view)
{
    json_t *processes = NULL;

    if (view->unseen == 0)
        processes = json_pack(
            "{s:I, s:I}", "seen", (json_int_t)view->tally.seen, "hidden", (json_int_t)view->tally.hidden);
    return ctl_print_json(json_pack("{s:O, s:o, s:o, s:o*}", "links", view->links, "eventfds",
        values_of(view->eventfds), "agents", values_of(view->agents), "processes", processes));
}

/* The links that are named, going on after one that is not there. */
static int find_links(struct ctl *ctl, const struct ctl_args *args, json_t *links)
{
    int status = CTL_OK;

    for (size_t i = 0; i < args->n_names && status != CTL_UNREACHABLE; i++) {
        size_t before = json_array_size(links);
        int r = ctl_list(ctl, CTL_METHOD("ListLinks"),
            json_pack("{s:s, s:b}", "match", args->names[i], "details", true), "link", links);

        if (r == CTL_OK && json_array_size(links) == before) {
            ctl_error("there is no link '%s' that you may see: 'evlinkctl links' lists them", args->names[i]);
            r = CTL_FAILED;
        }
        if (r != CTL_OK)
            status = r;
    }
    return status;
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    CLEANUP(view_clear)
    struct view view = { .links = json_array(), .eventfds = json_object(), .agents = json_object() };
    int status, r;

    r = table_check(args);
    if (r != CTL_OK)
        return r;
    status = find_links(ctl, args, view.links);
    if (json_array_size(view.links) == 0)
        return status;
    r = view_fill(ctl, &view);
    if (r == CTL_OK)
        r = ctl->json ? print_json(&view) : print_all(ctl, args, &view);
    return r == CTL_OK ? status : r;
}

const struct ctl_command command_show = {
    .name = "show",
    .arguments = "LINK...",
    .help = "Explain links from end to end, and who holds their eventfds",
    .more = "LINK may be a pattern. Who holds an eventfd is read from /proc: run this as root to see all "
            "processes.\n",
    .options = options,
    .columns = columns,
    .min = 1,
    .max = SIZE_MAX,
    .run = run,
};
