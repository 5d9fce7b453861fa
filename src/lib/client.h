/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection to the broker and the call that is under way on it. One call at a time; what answers it is the
 * next frame that comes in, so a connection that has lost count is closed. What the methods mean is for
 * verbs.c, list.c and agent.c.
 */
#ifndef LIB_CLIENT_H
#define LIB_CLIENT_H

#include "lib/evlink.h"
#include "lib/tie.h"
#include "wire/fields.h"
#include "wire/varlink.h"

#include <poll.h>

#define BROKER(method) "io.evlink.Broker." method

struct evlink_client {
    int fd;         /* -1 when the connection is of no more use */
    char path[108]; /* where it is connected to; empty: it was made elsewhere */
    struct frame_in in;
    unsigned timeout;      /* milliseconds; 0: none */
    int64_t deadline;      /* of the answer that is waited for, monotonic; 0: none */
    bool busy;             /* a call is under way: callbacks that come back here are refused */
    struct evl_tie **ties; /* the agents that were attached through this client */
    size_t n_ties;
    struct pollfd *polls; /* room for the connection and for each tie */
    char message[1024];
};

/* ---- Parameters ---- */

/* A call in the making; the first thing that went wrong is kept until it is to go out. */
struct evl_params {
    struct frame_out out;
    struct emit emit; /* the parameters; its failure is found at the end */
    int error;        /* -ENOMEM, -EINVAL */
    char where[24];   /* what a complaint begins with; empty: the whole call */
    char why[160];
};

/* method: borrowed only here. What is put into params from now on are the call's parameters. */
void evl_params_begin(struct evl_params *params, const char *method);
void evl_params_clear(struct evl_params *params);

void evl_params_fail(struct evl_params *params, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* NULL is -EINVAL here, and left out in the next. */
void evl_params_string(struct evl_params *params, const char *key, const char *value);
void evl_params_optional(struct evl_params *params, const char *key, const char *value);
void evl_params_int(struct evl_params *params, const char *key, int64_t value);
void evl_params_bool(struct evl_params *params, const char *key, bool value);
void evl_params_lifetime(struct evl_params *params, enum evlink_lifetime lifetime, int64_t lease_seconds);
/* A NULL-terminated array of strings. */
void evl_params_strings(struct evl_params *params, const char *key, const char *const *values);
/* The same of "KEY=VALUE", as an object; NULL is left out. */
void evl_params_labels(struct evl_params *params, const char *key, const char *const *values);

/* ---- Calls ---- */

struct evl_answer {
    struct varlink_answer reply;
    struct fdset fds;
    int fds_lost; /* -EMFILE, -ENOMEM: not all of them could be delivered; 0 */
};

void evl_answer_clear(struct evl_answer *answer);

/* Sets the message; returns r. */
int evl_client_say(struct evlink_client *client, int r, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same, and closes the connection. */
int evl_client_close(struct evlink_client *client, int r, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The answer lacks what: -EPROTO, and the connection is closed. */
int evl_client_nonsense(struct evlink_client *client, const char *what);

/* One call, from here to evl_client_end(). -EDEADLK out of a callback of this client's call, -ENOTCONN. */
int evl_client_begin(struct evlink_client *client);
void evl_client_end(struct evlink_client *client);

/*
 * Sends the call, or says what was wrong with its parameters. flags: enum varlink_flags. fds: consumed, NULL
 * for none.
 */
int evl_client_send(
    struct evlink_client *client, struct evl_params *params, unsigned flags, struct fdset *fds);

/* Waits for the next reply, serving this client's agents. An error in it is the caller's to look at. */
int evl_client_next(struct evlink_client *client, struct evl_answer *ret_answer);

/*
 * All of it, for methods with one reply. params: consumed. fds: consumed, NULL for none. Errors are mapped.
 * ret_answer may be NULL.
 */
int evl_client_call(struct evlink_client *client, struct evl_params *params, struct fdset *fds,
    struct evl_answer *ret_answer);

/* Duplicates of the caller's descriptors, to be sent with a call; -EBADF and so on, with the message. */
int evl_client_dup(struct evlink_client *client, const int *fds, size_t n, struct fdset *ret_fds);

/* Takes the descriptor at index out of the answer: -EPROTO, -EMFILE. */
int evl_client_steal(
    struct evlink_client *client, struct evl_answer *answer, struct opt_int index, int *ret_fd);

/* Has the waits of this client serve the agent. tie: the client takes a reference. -ENOMEM. */
int evl_client_add_tie(struct evlink_client *client, struct evl_tie *tie);

/* ---- Errors: errors.c, refusal.c ---- */

/* What an error reply to the call that was made of params means: EVLINK_E_*, with the message. */
int evl_client_error(struct evlink_client *client, const struct evl_params *params, const char *error,
    const struct value *parameters);

/* The same of those that say more with what was sent. 0: it is none of them. */
int evl_client_refused(struct evlink_client *client, const struct evl_params *params, const char *error,
    const struct value *parameters);

#endif
