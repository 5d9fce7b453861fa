/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What there is, as the contract's types in JSON: see show.h. */
#include "service/show.h"

#include <stdio.h>
#include <string.h>

/* As much of a reason is told. */
#define REASON_MOST 512

static void show_peer(struct emit *emit, const char *key, const struct peer *peer)
{
    const char *scope = peer_scope(peer), *label = peer_label(peer);

    emit_open(emit, key);
    emit_int(emit, "uid", peer->uid);
    emit_int(emit, "gid", peer->gid);
    emit_int(emit, "pid", peer->pid);
    emit_string(emit, "scope", scope[0] ? scope : NULL);
    emit_string(emit, "label", label[0] ? label : NULL);
    emit_close(emit);
}

/* A counter goes further than a JSON integer. */
static void show_count(struct emit *emit, const char *key, uint64_t count)
{
    emit_int(emit, key, count < INT64_MAX ? (int64_t)count : INT64_MAX);
}

/* What only the kernel tells. */
static void show_counter(struct emit *emit, int fd)
{
    struct eventfd_info info;

    if (eventfd_info(fd, &info) < 0)
        return;
    if (info.id >= 0)
        emit_int(emit, "eventfdId", info.id);
    show_count(emit, "pending", info.count);
    emit_bool(emit, "semaphore", info.semaphore);
}

/* link: the one that peer may know of; NULL: none. */
static void show_common(struct emit *emit, const char *name, const struct peer *owner, enum lifetime lifetime,
    const struct link *link, int64_t since)
{
    emit_string(emit, "name", name);
    show_peer(emit, "owner", owner);
    emit_string(emit, "lifetime", lifetime_name(lifetime));
    emit_open_array(emit, "links");
    emit_string(emit, NULL, link ? link->name : NULL);
    emit_close_array(emit);
    emit_int(emit, "since", since);
}

void show_eventfd(
    struct emit *emit, const char *key, const struct peer *peer, const struct held *held, bool detail)
{
    emit_open(emit, key);
    show_common(
        emit, held->name, &held->owner, held->life.lifetime, model_held_link(peer, held), held->since);
    if (held->life.lifetime == LIFETIME_LEASE)
        emit_int(emit, "leaseSeconds", held->life.term->lease);
    if (detail)
        show_counter(emit, held->eventfd->fd);
    emit_close(emit);
}

bool show_has_eoi(const struct peer *peer, const struct held *held)
{
    const struct link *link = model_held_link(peer, held);

    return link && link->resample;
}

void show_eoi(
    struct emit *emit, const char *key, const struct peer *peer, const struct held *held, bool detail)
{
    const struct link *link = model_held_link(peer, held);
    char name[NAME_SIZE + 4];

    (void)snprintf(name, sizeof(name), "%s/eoi", held->name);
    emit_open(emit, key);
    /* Who may claim it need not know of the link. */
    show_common(emit, name, &held->owner, link ? link->life.lifetime : held->life.lifetime, link,
        link ? link->since : held->since);
    if (detail && link)
        show_counter(emit, link->resample->fd);
    emit_close(emit);
}

/* Whoever shares a relayed link's consumer can fill its counter, which is then its own loss. */
static bool is_saturated(const struct end *end)
{
    struct eventfd_info info;

    return end->link->relayed && !end->producer && end->eventfd &&
           eventfd_info(end->eventfd->fd, &info) == 0 && info.count >= EVENTFD_MAX;
}

/* The eventfds of an end, and the agent that serves it where peer may know that one. */
static void show_details(struct emit *emit, const struct end *end, const struct peer *peer)
{
    const struct eventfd *resample = end->link->resample;
    const struct agent *agent = end->agent;
    struct eventfd_info info;

    if (end->eventfd)
        show_counter(emit, end->eventfd->fd);
    if (resample && eventfd_info(resample->fd, &info) == 0) {
        if (info.id >= 0)
            emit_int(emit, "resampleEventfdId", info.id);
        show_count(emit, "resamplePending", info.count);
    }
    if (agent && !agent->lost && model_may(agent->model, peer, RIGHT_LIST, agent->name, &agent->owner))
        emit_string(emit, "agent", agent->name);
}

static void show_end(struct emit *emit, const struct end *end, const struct peer *eyes)
{
    char endpoint[ENDPOINT_SIZE], reason[REASON_MOST];

    emit_open(emit, NULL);
    emit_string(emit, "endpoint", endpoint_format(&end->endpoint, endpoint));
    emit_string(emit, "state", end_state_name(end->state));
    if (eyes)
        show_details(emit, end, eyes);
    if (model_end_reason(end, reason, sizeof(reason)))
        emit_string(emit, "reason", reason);
    else if (is_saturated(end))
        emit_string(emit, "reason", "its counter is full: signals to it are lost");
    emit_close(emit);
}

static void show_ends(
    struct emit *emit, const char *key, const struct link *link, bool producers, const struct peer *eyes)
{
    emit_open_array(emit, key);
    for (size_t i = 0; i < link->n_ends; i++)
        if (link->ends[i]->producer == producers && !link->ends[i]->retiring)
            show_end(emit, link->ends[i], eyes);
    emit_close_array(emit);
}

static void show_labels(struct emit *emit, const struct link *link)
{
    if (!link->labels)
        return;
    emit_open(emit, "labels");
    for (char **label = link->labels; label[0]; label += 2)
        emit_string(emit, label[0], label[1]);
    emit_close(emit);
}

void show_link(struct emit *emit, const char *key, const struct link *link, const struct peer *eyes)
{
    char reason[REASON_MOST];

    emit_open(emit, key);
    emit_string(emit, "name", link->name);
    emit_string(emit, "group", link->group);
    emit_string(emit, "state", link_state_name(link));
    show_ends(emit, "producers", link, true, eyes);
    show_ends(emit, "consumers", link, false, eyes);
    emit_bool(emit, "relayed", link->relayed);
    show_peer(emit, "owner", &link->owner);
    emit_string(emit, "lifetime", lifetime_name(link->life.lifetime));
    emit_int(emit, "since", link->since);
    if (link->reason)
        emit_string(emit, "reason", link->reason);
    else if (model_link_reason(link, reason, sizeof(reason)))
        emit_string(emit, "reason", reason);
    if (link->relayed)
        show_count(emit, "forwarded", link->forwarded);
    show_labels(emit, link);
    emit_close(emit);
}

/* Of a link, and of an end, without labels: what is there beside names, endpoints and reasons is shorter. */
#define LINK_MOST (512 + 3 * NAME_SIZE + REASON_MOST)
#define END_MOST (128 + ENDPOINT_SIZE + REASON_MOST)

size_t show_link_most(const struct peer *owner, size_t n_ends, const char *const *labels, size_t n_labels)
{
    size_t n = LINK_MOST + n_ends * END_MOST + emit_most(peer_label(owner));

    for (size_t i = 0; i < 2 * n_labels; i++)
        n += emit_most(labels[i]);
    return n;
}

static void show_endpoints(struct emit *emit, const char *key, const struct link *link, bool producers)
{
    char endpoint[ENDPOINT_SIZE];

    emit_open_array(emit, key);
    for (size_t i = 0; i < link->n_ends; i++)
        if (link->ends[i]->producer == producers && !link->ends[i]->retiring)
            emit_string(emit, NULL, endpoint_format(&link->ends[i]->endpoint, endpoint));
    emit_close_array(emit);
}

void show_spec(struct emit *emit, const char *key, const struct link *link)
{
    emit_open(emit, key);
    emit_string(emit, "name", link->name);
    show_endpoints(emit, "producers", link, true);
    show_endpoints(emit, "consumers", link, false);
    emit_string(emit, "group", link->group);
    show_labels(emit, link);
    emit_close(emit);
}

void show_agent(struct emit *emit, const char *key, const struct agent *agent)
{
    char endpoint[ENDPOINT_SIZE];
    const struct offer *offer = NULL;

    emit_open(emit, key);
    emit_string(emit, "name", agent->name);
    show_peer(emit, "owner", &agent->owner);
    emit_open_array(emit, "subsystems");
    for (size_t i = 0; i < agent->n_subsystems; i++) {
        emit_open(emit, NULL);
        emit_string(emit, "kind", subsystem_name(agent->subsystems[i].subsystem));
        emit_string(emit, "name", agent->subsystems[i].name);
        emit_close(emit);
    }
    emit_close_array(emit);
    emit_open_array(emit, "offered");
    while ((offer = model_next_offer(agent, offer)))
        emit_string(emit, NULL, endpoint_format(&offer->endpoint, endpoint));
    emit_close_array(emit);
    emit_int(emit, "since", agent->since);
    emit_close(emit);
}
