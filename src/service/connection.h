/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client's connection: frames in, one call at a time, replies out in order. While a call is open (it waits
 * for agents, or its list is being streamed) the next one waits in the socket.
 */
#ifndef SERVICE_CONNECTION_H
#define SERVICE_CONNECTION_H

#include "service/server.h"
#include "wire/frame.h"
#include "wire/varlink.h"

struct connection {
    struct server *server;
    int fd;
    struct peer peer;
    struct groups *groups;    /* that peer points to */
    struct lifeline lifeline; /* what ends with it */
    struct frame_in in;
    struct frame_out out;
    struct event *readable, *writable, *again;
    bool charged;  /* to its user */
    bool finished; /* the client sends no more */
    bool failed;   /* to be closed when the callback unwinds */
    bool stalled;  /* its descriptors cannot be sent now, nor does anything tell when */
    bool deferred; /* the open call is not served yet: too many descriptors were not read */
    int n_unread;  /* answers with a descriptor since all had been read */
    int64_t pause; /* microseconds until it is looked again whether they were read */
    /* The open call, if call.root is set. */
    struct varlink_call call;
    struct fdset fds; /* that came with it: a handler steals what it keeps */
    bool fds_lost;
    struct job *job;                               /* that it waits for; NULL: none */
    void (*stream)(struct connection *connection); /* goes on with a list; its last reply ends the call */
    char cursor[NAME_SIZE];                        /* the stream's last name */
    json_t *reply; /* the stream's next reply, maybe its last; NULL: none yet */
    const char *match, *group;
    struct monitor *monitor; /* the call is a subscription; NULL: it is not */
    LIST_ENTRY(connection) in_server;
};

/* fd: consumed, also on failure. One that is too many is turned away, which is no failure. */
int connection_new(struct server *server, int fd);
struct connection *connection_free(struct connection *connection);

/*
 * Answer the open call: with parameters (consumed; NULL: none could be made, which closes the connection),
 * with a descriptor (consumed), with one of several replies, with an error. All but connection_stream_reply()
 * end the call. A oneway call is answered with silence.
 */
void connection_reply(struct connection *connection, json_t *parameters);
void connection_reply_fd(struct connection *connection, json_t *parameters, int fd);
void connection_stream_reply(struct connection *connection, json_t *parameters);
void connection_error(struct connection *connection, const char *error, json_t *parameters);

/* After an answer that did not come from the connection's own callback: sends it, and goes on reading. */
void connection_resume(struct connection *connection);

#endif
