/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Subscriptions to notices: Monitor's calls, which stay open. Each subscriber gets what it may see and asked
 * for, as far as its queue goes; what it was too slow for is counted, and told as soon as there is room
 * again.
 */
#ifndef SERVICE_MONITOR_H
#define SERVICE_MONITOR_H

#include "service/connection.h"

struct monitor;

/* Tells all subscribers. */
void monitor_news(struct server *server, const struct news *news);

/* The subscriber's queue has room again. */
void monitor_drained(struct monitor *monitor);

/* The connection is closed. */
void monitor_free(struct monitor *monitor);

#endif
