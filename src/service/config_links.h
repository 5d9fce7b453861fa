/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The configuration's links: made where they are missing, made anew where they were changed, taken down where
 * they are not in it any more. Others are not touched. A link is known for the configuration's by its mark,
 * which goes with it from process to process and changes with what is configured, not with what became of it.
 */
#ifndef SERVICE_CONFIG_LINKS_H
#define SERVICE_CONFIG_LINKS_H

#include "service/server.h"

/* Makes the event that it needs; the server frees it. -ENOMEM. */
int config_links_new(struct server *server);

/* To be called when there is another configuration. What cannot be made yet is told, and tried again later.
 */
void config_links_apply(struct server *server);

/* To be called with all news: whether something has gone that may have been in the way of a link. */
void config_links_news(struct server *server, const struct news *news);

#endif
