/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * graph: all that is linked as a picture, in the language of Graphviz's dot(1). A node is an endpoint, under
 * the name that it has everywhere; a box of nodes is a subsystem, or the eventfds that are held; an edge is a
 * link's, from a producer to a consumer.
 */
#include "base/cleanup.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

#include <stdio.h>
#include <string.h>

#define EVENTFD "eventfd/"
#define EOI "/eoi"

struct graph {
    json_t *eventfds, *links, *agents; /* as the lists have them */
    json_t *clusters;                  /* {cluster: {endpoint: state}} */
    bool failed;                       /* there was no memory */
};

static void graph_clear(struct graph *graph)
{
    json_decref(graph->eventfds);
    json_decref(graph->links);
    json_decref(graph->agents);
    json_decref(graph->clusters);
}

static const char *string_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "?";
}

/* How dot is to draw what is in that state: nodes and edges alike. */
static const char *style_of(const char *state)
{
    static const struct {
        const char *state, *style;
    } styles[] = {
        { "linked", "style=solid" },
        { "plugged", "style=solid" },
        { "parked", "style=dotted" },
        { "unplugged", "style=dotted" },
        { "failed", "style=bold, color=red" },
        { "unknown", "style=bold, color=red" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(styles); i++)
        if (strcmp(styles[i].state, state) == 0)
            return styles[i].style;
    return "style=dashed"; /* waiting, absent, on the way */
}

/* Writes what is to stand between quotes: dot takes quotes, backslashes and entities there. */
static void put(struct graph *graph, const char *text)
{
    CLEANUP(freep) char *escaped = text_escape(text);

    graph->failed |= !escaped;
    for (const char *c = escaped ? escaped : ""; *c; c++)
        if (*c == '&')
            (void)fputs("&amp;", stdout);
        else
            printf(*c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
}

static void put_id(struct graph *graph, const char *before, const char *name)
{
    printf("\"%s", before);
    put(graph, name);
    (void)putchar('"');
}

/* ---- Nodes ---- */

/* How much of an endpoint names where it is: "kvm/VM" of "kvm/VM/gsi/1", "eventfd" of "eventfd/NAME". */
static size_t place_of(const char *endpoint)
{
    const char *slash = strchr(endpoint, '/');

    if (slash && strncmp(endpoint, EVENTFD, strlen(EVENTFD)) != 0)
        slash = strchr(slash + 1, '/');
    return slash ? (size_t)(slash - endpoint) : 0;
}

/* Notes an endpoint. An interrupt may have several links: one that is not plugged is the news. */
static void add_node(struct graph *graph, const char *endpoint, const char *state)
{
    size_t length = place_of(endpoint);
    json_t *nodes = json_object_getn(graph->clusters, endpoint, length);
    const char *before;

    if (!nodes) {
        nodes = json_object();
        graph->failed |= json_object_setn_new(graph->clusters, endpoint, length, nodes) < 0;
    }
    before = json_string_value(json_object_get(nodes, endpoint));
    if (!before || strcmp(before, "plugged") == 0)
        graph->failed |= json_object_set_new(nodes, endpoint, json_string(state)) < 0;
}

static void add_nodes(struct graph *graph)
{
    static const char *const sides[] = { "producers", "consumers" };
    json_t *object, *end;
    size_t i, k;

    json_array_foreach (graph->eventfds, i, object) {
        CLEANUP(freep) char *endpoint = NULL;

        if (asprintf(&endpoint, EVENTFD "%s", string_of(object, "name")) < 0) {
            endpoint = NULL;
            graph->failed = true;
            continue;
        }
        add_node(graph, endpoint, "plugged");
    }
    json_array_foreach (graph->links, i, object)
        for (size_t side = 0; side < 2; side++)
            json_array_foreach (json_object_get(object, sides[side]), k, end)
                add_node(graph, string_of(end, "endpoint"), string_of(end, "state"));
}

/* The second line of a subsystem's label: its agents, two of them during a takeover. */
static void put_agents(struct graph *graph, const char *place)
{
    json_t *agent, *subsystem;
    bool any = false;
    size_t i, k;

    json_array_foreach (graph->agents, i, agent)
        json_array_foreach (json_object_get(agent, "subsystems"), k, subsystem) {
            const char *kind = string_of(subsystem, "kind"), *name = string_of(subsystem, "name");
            size_t length = strlen(kind);

            if (strncmp(place, kind, length) != 0 || place[length] != '/' ||
                strcmp(place + length + 1, name) != 0)
                continue;
            printf(any ? ", " : "\\nagent ");
            put(graph, string_of(agent, "name"));
            any = true;
        }
    if (!any)
        printf("\\nno agent");
}

static void put_cluster(struct graph *graph, const char *place, json_t *nodes)
{
    bool held = strcmp(place, "eventfd") == 0;
    const char *endpoint;
    json_t *state;

    printf("    subgraph ");
    put_id(graph, "cluster_", place);
    printf(" {\n        label=\"");
    if (held) {
        printf("held eventfds");
    } else {
        put(graph, place);
        put_agents(graph, place);
    }
    printf("\";\n");
    json_object_foreach (nodes, endpoint, state) {
        const char *text = json_string_value(state);

        printf("        ");
        put_id(graph, "", endpoint);
        printf(" [label=\"");
        put(graph, endpoint + strlen(place) + (*place ? 1 : 0));
        if (strcmp(text, "plugged") != 0) {
            printf("\\n");
            put(graph, text);
        }
        printf("\"%s, %s];\n", held ? ", shape=ellipse" : "", style_of(text));
    }
    printf("    }\n");
}

/* ---- Edges ---- */

/* from, to: a name, and what is put in front of it. more: attributes, each with its comma in front. */
static void put_edge(struct graph *graph, const json_t *link, const char *const from[2],
    const char *const to[2], const char *more)
{
    const char *reason = json_string_value(json_object_get(link, "reason"));

    printf("    ");
    put_id(graph, from[0], from[1]);
    printf(" -> ");
    put_id(graph, to[0], to[1]);
    printf(" [label=\"");
    put(graph, string_of(link, "name"));
    printf("\\n");
    put(graph, string_of(link, "state"));
    printf("\"");
    if (reason) {
        printf(", tooltip=\"");
        put(graph, reason);
        printf("\"");
    }
    printf(", %s%s];\n", style_of(string_of(link, "state")), more);
}

/* Where several producers and several consumers are linked, their edges meet in a node of the link's. */
#define JUNCTION "link: "

static void put_link(struct graph *graph, const json_t *link)
{
    json_t *producers = json_object_get(link, "producers"), *consumers = json_object_get(link, "consumers");
    const char *const junction[2] = { JUNCTION, string_of(link, "name") };
    json_t *producer, *consumer;
    size_t i, k;

    if (json_array_size(producers) < 2 || json_array_size(consumers) < 2) {
        json_array_foreach (producers, i, producer)
            json_array_foreach (consumers, k, consumer) {
                const char *const from[2] = { "", string_of(producer, "endpoint") };
                const char *const to[2] = { "", string_of(consumer, "endpoint") };

                put_edge(graph, link, from, to, "");
            }
        return;
    }
    printf("    ");
    put_id(graph, junction[0], junction[1]);
    printf(" [shape=point];\n");
    json_array_foreach (producers, i, producer) {
        const char *const from[2] = { "", string_of(producer, "endpoint") };

        put_edge(graph, link, from, junction, ", arrowhead=none");
    }
    json_array_foreach (consumers, k, consumer) {
        const char *const to[2] = { "", string_of(consumer, "endpoint") };

        put_edge(graph, link, junction, to, "");
    }
}

/* The way back of a level link: from its consumer to where the end-of-interrupt comes out. */
static void put_eoi(struct graph *graph, const json_t *link)
{
    json_t *producers = json_object_get(link, "producers"), *consumers = json_object_get(link, "consumers");
    const char *const from[2] = { "", string_of(json_array_get(consumers, 0), "endpoint") };
    const char *producer = string_of(json_array_get(producers, 0), "endpoint");
    CLEANUP(freep) char *eoi = NULL;
    json_t *held = json_object_get(graph->clusters, "eventfd");

    if (asprintf(&eoi, "%s" EOI, producer) < 0) {
        eoi = NULL;
        graph->failed = true;
    } else if (json_object_get(held, eoi)) {
        const char *const to[2] = { "", eoi };

        put_edge(graph, link, from, to, ", arrowhead=empty, constraint=false");
    }
}

static void put_graph(struct graph *graph)
{
    const char *place;
    json_t *object;
    size_t i;

    printf("digraph evlinkd {\n"
           "    rankdir=LR;\n"
           "    node [shape=box];\n");
    json_object_foreach (graph->clusters, place, object)
        put_cluster(graph, place, object);
    json_array_foreach (graph->links, i, object) {
        put_link(graph, object);
        put_eoi(graph, object);
    }
    printf("}\n");
}

/* With a pattern or a group, eventfds are there for the links that use them. */
static void drop_unlinked(struct graph *graph)
{
    for (size_t i = json_array_size(graph->eventfds); i-- > 0;) {
        json_t *names = json_object_get(json_array_get(graph->eventfds, i), "links"), *name, *link;
        bool used = false;
        size_t k, l;

        json_array_foreach (names, k, name)
            json_array_foreach (graph->links, l, link)
                used |= json_equal(name, json_object_get(link, "name"));
        if (!used)
            graph->failed |= json_array_remove(graph->eventfds, i) < 0;
    }
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    CLEANUP(graph_clear)
    struct graph graph = { json_array(), json_array(), json_array(), json_object(), false };
    const char *match = args->names[0], *group = ctl_option(args, "group");
    int r;

    r = ctl_list(ctl, CTL_METHOD("ListLinks"), json_pack("{s:s*, s:s*}", "match", match, "group", group),
        "link", graph.links);
    if (r == CTL_OK)
        r = ctl_list(ctl, CTL_METHOD("ListEventfds"), json_object(), "eventfd", graph.eventfds);
    if (r == CTL_OK)
        r = ctl_list(ctl, CTL_METHOD("ListAgents"), json_object(), "agent", graph.agents);
    if (r != CTL_OK)
        return r;
    if (match || group)
        drop_unlinked(&graph);
    if (ctl->json)
        return ctl_print_json(json_pack(
            "{s:O, s:O, s:O}", "eventfds", graph.eventfds, "links", graph.links, "agents", graph.agents));
    add_nodes(&graph);
    if (!graph.failed)
        put_graph(&graph);
    return graph.failed ? ctl_oom() : CTL_OK;
}

static const struct ctl_option options[] = {
    { "group", 'g', "GROUP", "only the links of this group" },
    CTL_OPTIONS_END,
};

const struct ctl_command command_graph = {
    .name = "graph",
    .arguments = "[--group GROUP] [PATTERN]",
    .help = "Draw what is linked, for dot(1)",
    .more = "'evlinkctl graph | dot -Tsvg >links.svg' makes a picture. With --json, what it is made from.\n",
    .options = options,
    .max = 1,
    .run = run,
};
