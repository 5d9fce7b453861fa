/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's end of its socket: a Varlink server of io.evlink.Agent with the broker as its one client.
 *
 * What it keeps true: calls are answered in order; a call is taken up only when the answer to the one before
 * has gone out, so that no broker makes answers pile up; every descriptor that comes in is closed when its
 * call is done. It never blocks: what it waits for, the epoll instance has.
 */
#ifndef LIB_SESSION_H
#define LIB_SESSION_H

#include "lib/plugs.h"
#include "wire/frame.h"

#include <stdatomic.h>
#include <stdint.h>

struct evl_session {
    int fd;         /* -1: none */
    int epoll;      /* borrowed */
    uint32_t tag;   /* what epoll reports fd with */
    uint32_t armed; /* the events that fd is in epoll with */
    struct frame_in in;
    struct frame_out out;
};

/* fd: consumed, also on failure. tag: what epoll reports with it. -errno. */
int evl_session_open(struct evl_session *session, int epoll, int fd, uint32_t tag);
void evl_session_close(struct evl_session *session);

/*
 * Serves all that has come and arms epoll for what is missing. Returns 0; -ECONNRESET when the broker has
 * closed, -EPROTO when it sent what makes no sense, -ENOMEM or another -errno: then close the session. stop:
 * NULL, or of a loop that waits on epoll after each return: then it returns between two calls where *stop
 * turns true, and more may have come where it served something.
 */
int evl_session_process(struct evl_session *session, struct evl_plugs *plugs, const atomic_bool *stop);

#endif
