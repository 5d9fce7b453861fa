/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * evlinkd as a whole: one event loop, a listening socket, connections, agents' sessions, and the model that
 * they work on. Nothing in it blocks: callbacks read, advance and return.
 */
#ifndef SERVICE_SERVER_H
#define SERVICE_SERVER_H

#include "base/eventfd.h"
#include "model/model.h"

#include <bsd/sys/queue.h>
#include <event2/event.h>
#include <stdint.h>

struct server_options {
    const char *path;      /* of the socket */
    const char *config;    /* the file of the configuration; NULL: where this installation has it */
    int64_t agent_timeout; /* microseconds; 0: as it is configured */
    bool vault;            /* what is acknowledged is to outlive this process */
};

struct server {
    struct event_base *base;
    struct evaio *aio;
    struct model *model;
    struct config *config;
    struct vault *vault; /* NULL: nothing outlives this process */
    bool stopping;       /* what ends from here on ends for this process only */
    bool recovering;     /* calls wait until what was begun before the start is finished or undone */
    LIST_HEAD(, connection) connections;
    TAILQ_HEAD(busy_connections, connection) busy; /* have more to do than their turn was for */
    struct event *busy_turn;
    int64_t complained_at; /* about clients, in seconds */
    unsigned complaints;   /* in that one */
    LIST_HEAD(, session) sessions;
    LIST_HEAD(, monitor) monitors;
    size_t n_connections;
    struct row *row;    /* Holds that are not safe yet: see connection.h */
    int64_t started_at; /* since the epoch */
    struct server_options options;
    int64_t agent_timeout; /* microseconds */
    bool links_missing;    /* of the configuration's */
    int relink_after;      /* seconds, until they are tried again */
    struct event *relink;
    struct event *relay_again; /* for links that could not be relayed */
    int64_t armed;             /* the deadline that the timer stands at; -1: none */
    struct event *timer;
    struct event *accept;
    struct event *accept_again; /* where the descriptor table was full */
    struct event *watchdog;     /* NULL: nobody waits for a sign of life */
    struct event *signals[3];
    int listener;
    int lock;
    char *path; /* of the listener that was bound here; NULL: it was passed */
};

/*
 * Reads the configuration, and serves the listening socket that the service manager passed, or takes the lock
 * PATH.lock, replaces a dead server's socket and listens. -EADDRINUSE where another server has the lock; what
 * went wrong is logged. The strings of the options are borrowed.
 */
int server_new(const struct server_options *options, struct server **ret_server);

/* Serves until SIGTERM or SIGINT. */
int server_run(struct server *server);

struct server *server_free(struct server *server);

/*
 * Puts what has changed on record. Before anything goes out that tells of it: what cannot be recorded ends
 * the process, and the next one goes on from what was.
 */
void server_sync(struct server *server);

/* To be called when a callback that may have changed anything is done. */
void server_arm(struct server *server);

#endif
