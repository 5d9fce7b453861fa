/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What ties an agent to the client that attached it: while a call of the client waits, it serves the agent,
 * since the broker may answer the call only when the agent has. Either may be freed first, from different
 * threads, so neither points at the other: both hold this, and the agent takes itself out of it.
 */
#ifndef LIB_TIE_H
#define LIB_TIE_H

#include <stdbool.h>

struct evlink_agent;

struct evl_tie;

/* A tie with one reference, the agent's. NULL: out of memory. */
struct evl_tie *evl_tie_new(struct evlink_agent *agent);

struct evl_tie *evl_tie_ref(struct evl_tie *tie);
struct evl_tie *evl_tie_unref(struct evl_tie *tie);

/*
 * The agent's end is no more, or attached through another client. Waits until a client that serves it at this
 * moment is done.
 */
void evl_tie_cut(struct evl_tie *tie);

/*
 * Whether the agent is still there; *ret_fd is what to poll for POLLIN, -1 where it is served by somebody
 * else now. It may be closed while it is polled: evl_tie_serve() looks again.
 */
bool evl_tie_poll(struct evl_tie *tie, int *ret_fd);

/* Serves the agent if nobody else does. */
void evl_tie_serve(struct evl_tie *tie);

#endif
