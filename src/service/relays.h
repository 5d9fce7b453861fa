/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The loop's part in relayed links: it watches their sources and has the relay pass on what comes. */
#ifndef SERVICE_RELAYS_H
#define SERVICE_RELAYS_H

#include "service/server.h"

/* Makes the timer by which what could not be relayed is tried again. -ENOMEM */
int relays_new(struct server *server);

/*
 * The eventfds of a relayed link have changed: its sources are watched anew. last: the link is gone; what its
 * sources still have is passed on, and they are watched no more.
 */
void relays_update(struct server *server, struct link *link, bool last);

#endif
