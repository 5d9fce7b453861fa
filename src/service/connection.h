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
    struct standing standing;      /* that peer points to, unless it is the delegation's */
    struct groups *groups;         /* that this points to */
    struct delegation *delegation; /* NULL: the client has connected by itself */
    struct line *line; /* of a delegated one that outlives this process: in its place; else NULL */
    struct item *socket_item, *line_item; /* what it is kept as */
    struct lifeline lifeline;             /* what ends with it */
    struct frame_in in;
    struct frame_out out;
    struct event *readable, *writable, *again;
    bool charged;  /* to its user */
    bool finished; /* the client sends no more */
    bool failed;   /* to be closed when the callback unwinds */
    bool stalled;  /* its descriptors cannot be sent now, nor does anything tell when */
    bool waits;    /* the next call is not taken yet: too many descriptors were not read */
    int64_t cost;  /* of its turns, in microseconds: their average, roughly */
    bool busy;     /* in the server's list of those that do */
    int n_unread;  /* answers with a descriptor since all had been read */
    int64_t pause; /* microseconds until it is looked again whether they were read */
    size_t window; /* bytes that may wait to be sent, before it is to go on */
    /* What it is charged for, beyond what each connection may have. */
    size_t bytes_in, bytes_out, bytes_line, bytes_call, fds_in, fds_out;
    /* The open call, if call.root is set. */
    struct varlink_request call;
    struct fdset fds; /* that came with it: a handler steals what it keeps */
    bool fds_lost;
    struct job *job;                               /* that it waits for; NULL: none */
    void (*stream)(struct connection *connection); /* goes on with a list; its last reply ends the call */
    char cursor[NAME_SIZE];                        /* the stream's last name */
    char *room;                                    /* for its answer, where that may be long; NULL: none */
    size_t room_size;
    struct emit emit;       /* the reply that is being written */
    struct frame_out draft; /* the stream's next reply, maybe its last; empty: none yet */
    const char *match, *group;
    struct monitor *monitor; /* the call is a subscription; NULL: it is not */
    LIST_ENTRY(connection) in_server;
    TAILQ_ENTRY(connection) in_busy;
};

/* fd: consumed, also on failure. One that is too many is turned away, which is no failure. */
int connection_new(struct server *server, int fd);

/* The same on an end of a pair that the other end of is for who comes through this delegation: both consumed,
 * also on failure. FAULT_QUOTA_EXCEEDED, -errno. */
int connection_delegate(struct server *server, int fd, struct delegation *delegation, struct fault *fault);

/*
 * A delegated one that is back after a restart: its socket and its line's memory (consumed; -1: lost) and
 * what they are kept as. delegation: consumed, if this returns 0. -errno.
 */
int connection_restore(struct server *server, int fd, struct item *socket_item, int memory,
    struct item *line_item, struct delegation *delegation);

struct connection *connection_free(struct connection *connection);

/*
 * Before a call changes anything: has room ready for its answer, of so many bytes at the most. Then it is not
 * for want of memory that what was done cannot be told. -ENOMEM.
 */
int connection_expect(struct connection *connection, size_t most);

/*
 * Answer the open call: what is emitted (wire/emit.h) between a begin and its end are the parameters of a
 * reply, or of an error. All ends but connection_end_notice() end the call; fd: consumed. A oneway call is
 * answered with silence.
 */
struct emit *connection_begin(struct connection *connection);
struct emit *connection_begin_error(struct connection *connection, const char *error);
void connection_end(struct connection *connection);
void connection_end_fd(struct connection *connection, int fd);
void connection_end_notice(struct connection *connection);

/* An answer without parameters. */
void connection_done(struct connection *connection);

/*
 * The replies of a stream: each goes out when the next one begins, or none is left, since the last one has to
 * say so. It ends when the next begins.
 */
struct emit *connection_begin_next(struct connection *connection);
void connection_end_stream(struct connection *connection);

/* An event's callback, of the server: has those go on for a moment who had more to do than their turn was
 * for. */
void connection_busy_turn(evutil_socket_t fd, short what, void *userdata);

/* Whether more may wait to be sent than does, which has to be `most` bytes or less. */
bool connection_has_room(struct connection *connection, size_t most);

/* After an answer that did not come from the connection's own callback: sends it, and goes on reading. */
void connection_resume(struct connection *connection);

#endif
