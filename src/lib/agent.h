/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the waits of a client need of its agents: see tie.h. */
#ifndef LIB_AGENT_H
#define LIB_AGENT_H

#include "lib/evlink.h"

/* What to poll to serve the agent; -1 where it is detached, or served elsewhere. From any thread. */
int evl_agent_unserved_fd(struct evlink_agent *agent);

/* Serves what has come, unless somebody else does. */
void evl_agent_serve_once(struct evlink_agent *agent);

#endif
