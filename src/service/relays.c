/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The loop's part in relayed links: see relays.h. */
#include "service/relays.h"
#include "base/crash.h"
#include "base/fd.h"
#include "base/log.h"
#include "model/record.h"
#include "relay/relay.h"
#include "service/vault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* How soon a link that could not be relayed in full is tried again, in microseconds. */
#define AGAIN 100000

static const char short_of[] = "the relay is out of memory or descriptors";

struct source {
    int fd;          /* a duplicate, that nobody else closes while it is watched */
    uint64_t number; /* what the eventfd is kept under */
    struct event *event;
    struct relay *relay;
};

/* Of one link: its sources, and its destinations as of now. */
struct relay {
    struct server *server;
    struct link *link;
    size_t n_sources, n_destinations;
    struct source *sources;
    struct relay_destination *destinations;
};

static void pass(struct relay *relay, const struct source *source)
{
    struct vault *vault = relay->server->vault;
    struct ledger_slot *slot = NULL;
    uint64_t count = 0;
    int r;

    /* What is read is in a slot of the vault until it was passed on: read into memory alone it would be lost
     * with this process. */
    r = vault ? vault_drain_source(vault, source->number, source->fd, &count, &slot)
              : eventfd_drain(source->fd, &count);
    if (r < 0 || count == 0) {
        vault_drained(vault, slot);
        return;
    }
    if (relay_pass(relay->server->aio, count, relay->destinations, relay->n_destinations)) {
        /* The slot is void when that is on record: not from in here, the model may be in the middle of
         * something. */
        model_owed(relay->link);
    } else {
        crash_point("relay: passed on");
        vault_drained(vault, slot);
    }
    model_forwarded(relay->link, count);
}

static void on_source(evutil_socket_t fd, short what, void *userdata)
{
    struct source *source = userdata;
    struct server *server = source->relay->server;

    (void)fd;
    (void)what;
    pass(source->relay, source);
    if (model_is_due(server->model))
        server_sync(server);
}

static void clear(struct relay *relay)
{
    for (size_t i = 0; i < relay->n_sources; i++) {
        event_free(relay->sources[i].event);
        fd_close(relay->sources[i].fd);
    }
    free(relay->sources);
    free(relay->destinations);
    relay->sources = NULL;
    relay->destinations = NULL;
    relay->n_sources = relay->n_destinations = 0;
}

static bool watch(struct relay *relay, const struct eventfd *eventfd)
{
    struct source *source = &relay->sources[relay->n_sources];

    source->relay = relay;
    source->fd = fd_dup(eventfd->fd);
    source->number = eventfd->number;
    source->event = source->fd < 0
                        ? NULL
                        : event_new(relay->server->base, source->fd, EV_READ | EV_PERSIST, on_source, source);
    if (source->event && event_add(source->event, NULL) == 0) {
        relay->n_sources++;
        return true;
    }
    if (source->event)
        event_free(source->event);
    fd_close(source->fd);
    return false;
}

/* Whether an end's eventfd is watched already: producers that are no eventfd/ share one. */
static bool is_first(const struct link *link, size_t index)
{
    for (size_t i = 0; i < index; i++)
        if (link->ends[i]->producer && link->ends[i]->eventfd == link->ends[index]->eventfd)
            return false;
    return true;
}

static bool build(struct relay *relay)
{
    const struct link *link = relay->link;

    relay->sources = calloc(link->n_ends, sizeof(*relay->sources));
    relay->destinations = calloc(link->n_ends, sizeof(*relay->destinations));
    if (!relay->sources || !relay->destinations)
        return false;
    for (size_t i = 0; i < link->n_ends; i++) {
        struct end *end = link->ends[i];

        if (end->producer || end->retiring)
            continue;
        relay->destinations[relay->n_destinations++] = (struct relay_destination){
            .fd = end->eventfd ? end->eventfd->fd : -1,
            .counts = end->endpoint.kind == ENDPOINT_EVENTFD,
            .owed = &end->debt,
        };
    }
    for (size_t i = 0; i < link->n_ends; i++)
        if (link->ends[i]->producer && link->ends[i]->eventfd && is_first(link, i) &&
            !watch(relay, link->ends[i]->eventfd))
            return false;
    return true;
}

/* Says that not all of a link is relayed, and has it tried again. */
static void complain(struct server *server, struct link *link)
{
    const struct timeval interval = { .tv_usec = AGAIN };

    if (link->reason != short_of)
        log_error("link %s cannot be relayed in full: out of memory or descriptors", link->name);
    link->reason = short_of;
    (void)event_add(server->relay_again, &interval);
}

static void on_again(evutil_socket_t fd, short what, void *userdata)
{
    struct server *server = userdata;
    struct link *link = NULL;

    (void)fd;
    (void)what;
    while ((link = model_next_link(server->model, link ? link->name : "")))
        if (link->reason == short_of)
            relays_update(server, link, false);
}

int relays_new(struct server *server)
{
    server->relay_again = evtimer_new(server->base, on_again, server);
    return server->relay_again ? 0 : -ENOMEM;
}

void relays_update(struct server *server, struct link *link, bool last)
{
    struct relay *relay = link->relay;

    if (last) {
        if (!relay)
            return;
        /* When only this process ends, what is in a source is the next one's. */
        for (size_t i = 0; i < relay->n_sources && !server->stopping; i++)
            pass(relay, &relay->sources[i]);
        clear(relay);
        free(relay);
        link->relay = NULL;
        return;
    }
    if (!relay) {
        relay = link->relay = calloc(1, sizeof(*relay));
        if (!relay) {
            complain(server, link);
            return;
        }
        relay->server = server;
        relay->link = link;
    }
    clear(relay);
    if (!build(relay))
        complain(server, link);
    else if (link->reason == short_of)
        link->reason = NULL;
}
