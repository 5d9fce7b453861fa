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
    struct frame_out out;
    unsigned timeout;      /* milliseconds; 0: none */
    int64_t deadline;      /* of the answer that is waited for, monotonic; 0: none */
    bool busy;             /* a call is under way: callbacks that come back here are refused */
    struct evl_tie **ties; /* the agents that were attached through this client */
    size_t n_ties;
    struct pollfd *polls; /* room for the connection and for each tie */
    char message[1024];
};

/* ---- Parameters ---- */

/* An object in the making; the first thing that went wrong is kept until the call. Zeroed is empty. */
struct evl_params {
    json_t *json;
    int error; /* -ENOMEM, -EINVAL */
    char why[128];
};

void evl_params_fail(struct evl_params *params, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* value: consumed; NULL is out of memory. */
void evl_params_json(struct evl_params *params, const char *key, json_t *value);
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
    struct varlink_reply reply;
    struct fdset fds;
    bool fds_lost; /* the kernel could not deliver them all: this process is out of descriptors */
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

/* Sends the call. flags: enum varlink_flags. parameters: borrowed. fds: consumed, NULL for none. */
int evl_client_send(
    struct evlink_client *client, const char *method, json_t *parameters, unsigned flags, struct fdset *fds);

/* Waits for the next reply, serving this client's agents. An error in it is the caller's to look at. */
int evl_client_next(struct evlink_client *client, struct evl_answer *ret_answer);

/*
 * All of it, for methods with one reply. params: consumed. fds: consumed, NULL for none. Errors are mapped.
 * ret_answer may be NULL.
 */
int evl_client_call(struct evlink_client *client, const char *method, struct evl_params *params,
    struct fdset *fds, struct evl_answer *ret_answer);

/* Duplicates of the caller's descriptors, to be sent with a call; -EBADF and so on, with the message. */
int evl_client_dup(struct evlink_client *client, const int *fds, size_t n, struct fdset *ret_fds);

/* Takes the descriptor at index out of the answer: -EPROTO, -EMFILE. */
int evl_client_steal(
    struct evlink_client *client, struct evl_answer *answer, struct opt_int index, int *ret_fd);

/* Has the waits of this client serve the agent. tie: the client takes a reference. -ENOMEM. */
int evl_client_add_tie(struct evlink_client *client, struct evl_tie *tie);

/* ---- Errors: errors.c ---- */

/* What an error reply means: EVLINK_E_*, with the message. */
int evl_client_error(struct evlink_client *client, const char *error, json_t *parameters);

#endif
