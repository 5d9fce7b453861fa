/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What there is, as the contract's types in JSON: see show.h. */
#include "service/show.h"

#include <stdio.h>
#include <string.h>

static json_t *show_peer(const struct peer *peer)
{
    return json_pack("{s:I, s:I, s:I}", "uid", (json_int_t)peer->uid, "gid", (json_int_t)peer->gid, "pid",
        (json_int_t)peer->pid);
}

/* Sets key of object to value: consumed. An object that lacks something is none. */
static json_t *with(json_t *object, const char *key, json_t *value)
{
    if (object && json_object_set_new(object, key, value) == 0)
        return object;
    json_decref(object);
    return NULL;
}

static json_t *links_of(const struct peer *peer, const struct held *held)
{
    const struct link *link = model_held_link(peer, held);

    return link ? json_pack("[s]", link->name) : json_array();
}

/* A counter goes further than a JSON integer. */
static json_t *show_count(uint64_t count)
{
    return json_integer(count < INT64_MAX ? (json_int_t)count : INT64_MAX);
}

/* What only the kernel tells. */
static json_t *with_counter(json_t *object, int fd)
{
    struct eventfd_info info;

    if (eventfd_info(fd, &info) < 0)
        return object;
    if (info.id >= 0)
        object = with(object, "eventfdId", json_integer(info.id));
    object = with(object, "pending", show_count(info.count));
    return with(object, "semaphore", json_boolean(info.semaphore));
}

json_t *show_eventfd(const struct peer *peer, const struct held *held, bool detail)
{
    json_t *object = json_pack("{s:s, s:o, s:s, s:o, s:I}", "name", held->name, "owner",
        show_peer(&held->owner), "lifetime", lifetime_name(held->life.lifetime), "links",
        links_of(peer, held), "since", (json_int_t)held->since);

    if (held->life.lifetime == LIFETIME_LEASE)
        object = with(object, "leaseSeconds", json_integer(held->life.term->lease));
    return detail ? with_counter(object, held->eventfd->fd) : object;
}

/* Whoever shares a relayed link's consumer can fill its counter, which is then its own loss. */
static bool is_saturated(const struct end *end)
{
    struct eventfd_info info;

    return end->link->relayed && !end->producer && end->eventfd &&
           eventfd_info(end->eventfd->fd, &info) == 0 && info.count >= EVENTFD_MAX;
}

/* The eventfds of an end, and the agent that serves it where peer may know that one. */
static json_t *with_details(json_t *object, const struct end *end, const struct peer *peer)
{
    const struct eventfd *resample = end->link->resample;
    const struct agent *agent = end->agent;
    struct eventfd_info info;

    if (end->eventfd)
        object = with_counter(object, end->eventfd->fd);
    if (resample && eventfd_info(resample->fd, &info) == 0) {
        if (info.id >= 0)
            object = with(object, "resampleEventfdId", json_integer(info.id));
        object = with(object, "resamplePending", show_count(info.count));
    }
    if (agent && !agent->lost && model_may(agent->model, peer, RIGHT_LIST, agent->name, &agent->owner))
        object = with(object, "agent", json_string(agent->name));
    return object;
}

/* peer: whose eyes the details are for; NULL: they are left out. */
static json_t *show_end(const struct end *end, const struct peer *peer)
{
    char endpoint[ENDPOINT_SIZE], reason[512];
    json_t *object = json_pack("{s:s, s:s}", "endpoint", endpoint_format(&end->endpoint, endpoint), "state",
        end_state_name(end->state));

    if (peer)
        object = with_details(object, end, peer);
    if (model_end_reason(end, reason, sizeof(reason)))
        return with(object, "reason", json_string(reason));
    if (is_saturated(end))
        return with(object, "reason", json_string("its counter is full: signals to it are lost"));
    return object;
}

static json_t *show_ends(const struct link *link, bool producers, const struct peer *peer)
{
    json_t *ends = json_array();

    for (size_t i = 0; ends && i < link->n_ends; i++)
        if (link->ends[i]->producer == producers && !link->ends[i]->retiring &&
            json_array_append_new(ends, show_end(link->ends[i], peer)) < 0) {
            json_decref(ends);
            ends = NULL;
        }
    return ends;
}

static json_t *show_labels(const struct link *link)
{
    json_t *labels = json_object();

    for (char **label = link->labels; label[0]; label += 2)
        labels = with(labels, label[0], json_string(label[1]));
    return labels;
}

static json_t *make_link(const struct link *link, const struct peer *peer)
{
    json_t *object = json_pack("{s:s, s:s*, s:s, s:o, s:o, s:b, s:o, s:s, s:I, s:s*}", "name", link->name,
        "group", link->group, "state", link_state_name(link), "producers", show_ends(link, true, peer),
        "consumers", show_ends(link, false, peer), "relayed", link->relayed, "owner", show_peer(&link->owner),
        "lifetime", lifetime_name(link->life.lifetime), "since", (json_int_t)link->since, "reason",
        link->reason);
    char reason[512];

    if (!link->reason && model_link_reason(link, reason, sizeof(reason)))
        object = with(object, "reason", json_string(reason));

    if (link->relayed)
        object = with(object, "forwarded", show_count(link->forwarded));
    return link->labels ? with(object, "labels", show_labels(link)) : object;
}

json_t *show_link(const struct link *link)
{
    return make_link(link, NULL);
}

json_t *show_link_details(const struct peer *peer, const struct link *link)
{
    return make_link(link, peer);
}

static json_t *show_endpoints(const struct link *link, bool producers)
{
    char endpoint[ENDPOINT_SIZE];
    json_t *array = json_array();

    for (size_t i = 0; array && i < link->n_ends; i++)
        if (link->ends[i]->producer == producers && !link->ends[i]->retiring &&
            json_array_append_new(array, json_string(endpoint_format(&link->ends[i]->endpoint, endpoint))) <
                0) {
            json_decref(array);
            array = NULL;
        }
    return array;
}

json_t *show_spec(const struct link *link)
{
    json_t *object = json_pack("{s:s, s:o, s:o, s:s*}", "name", link->name, "producers",
        show_endpoints(link, true), "consumers", show_endpoints(link, false), "group", link->group);

    return link->labels ? with(object, "labels", show_labels(link)) : object;
}

static json_t *show_offers(const struct agent *agent)
{
    json_t *array = json_array();
    char endpoint[ENDPOINT_SIZE];
    const struct offer *offer = NULL;

    while (array && (offer = model_next_offer(agent, offer)))
        if (json_array_append_new(array, json_string(endpoint_format(&offer->endpoint, endpoint))) < 0) {
            json_decref(array);
            array = NULL;
        }
    return array;
}

json_t *show_eoi(const struct peer *peer, const struct held *held, bool detail)
{
    const struct link *link = model_held_link(peer, held);
    char name[NAME_SIZE + 4];
    json_t *object;

    if (!link || !link->resample)
        return NULL;
    (void)snprintf(name, sizeof(name), "%s/eoi", held->name);
    object =
        json_pack("{s:s, s:o, s:s, s:[s], s:I}", "name", name, "owner", show_peer(&held->owner), "lifetime",
            lifetime_name(link->life.lifetime), "links", link->name, "since", (json_int_t)link->since);
    return detail ? with_counter(object, link->resample->fd) : object;
}

json_t *show_agent(const struct agent *agent)
{
    json_t *subsystems = json_array();

    for (size_t i = 0; subsystems && i < agent->n_subsystems; i++)
        if (json_array_append_new(
                subsystems, json_pack("{s:s, s:s}", "kind", subsystem_name(agent->subsystems[i].subsystem),
                                "name", agent->subsystems[i].name)) < 0) {
            json_decref(subsystems);
            subsystems = NULL;
        }
    return json_pack("{s:s, s:o, s:o, s:o, s:I}", "name", agent->name, "owner", show_peer(&agent->owner),
        "subsystems", subsystems, "offered", show_offers(agent), "since", (json_int_t)agent->since);
}
