/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The broker's side of an agent's socket: takes batches from the model, makes io.evlink.Agent's calls of
 * them, one at a time, and tells the model what came of it. Watches the socket and the process for their
 * ends.
 */
#ifndef SERVICE_SESSION_H
#define SERVICE_SESSION_H

#include "service/server.h"

struct session;
struct item;

/* fd, pidfd (-1: none): consumed, also on failure. peer: whose it is. The caller attaches an agent to it, or
 * frees it. */
int session_new(
    struct server *server, const struct peer *peer, int fd, int pidfd, struct session **ret_session);

/*
 * The session of an agent that is back after a restart. fd, pidfd (-1: none; consumed) and what they are kept
 * as. What the agent sends is passed over until it has told its inventory. -ENOMEM.
 */
int session_restore(
    struct server *server, struct agent *agent, int fd, struct item *socket, int pidfd, struct item *process);

/* Tells it which agent it serves. */
void session_bind(struct session *session, struct agent *agent);

/* The agent is lost: only its process is still watched. Harmless when repeated. */
void session_close(struct session *session);

/* Only for one without an agent, and by the model's hook agent_forgotten(). */
void session_free(struct session *session);

/* The agent has a batch: taken as soon as the loop comes to it. */
void session_kick(struct session *session);

/* Tells the agent of the far side of its end, oneway. */
void session_tell(struct session *session, const struct end *end, const struct news *news);

/* Looks whether the socket has been closed meanwhile: then the agent is lost, and gone when this returns. */
void session_check(struct session *session);

#endif
