/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls of Hold that come one behind the other on a connection: their eventfds are made safe together, by one
 * message on the vault's shelf, before anything else is served, and before anything of it goes out. Their
 * answers wait behind what the connection has to send. Where the eventfds cannot be made safe, the answers
 * become errors, and nothing of these calls was.
 */
#ifndef SERVICE_ROW_H
#define SERVICE_ROW_H

#include "service/connection.h"

struct row {
    struct server *server;
    struct connection *connection; /* whose calls these are; NULL: there are none */
    bool open;                     /* what the model has to keep is for one of them */
    size_t begin;                  /* of the first answer: frame_out_mark() */
    size_t n;
    struct {
        struct held *held;
        bool oneway;
    } calls[HOLD_MOST];
};

struct row *row_new(struct server *server);

/* Between these the model is called for one more of them, added, and answered. */
void row_open(struct row *row);
void row_add(struct row *row, struct connection *connection, struct held *held);
void row_close(struct row *row);

/* Makes them safe, or makes errors of their answers. */
void row_settle(struct row *row);

#endif
