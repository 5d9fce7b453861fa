/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls of Hold in a row: see row.h. */
#include "service/row.h"
#include "base/crash.h"
#include "base/log.h"
#include "service/method.h"
#include "service/vault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct row *row_new(struct server *server)
{
    struct row *row = calloc(1, sizeof(*row));

    if (row)
        row->server = server;
    return row;
}

void row_open(struct row *row)
{
    if (row->n == HOLD_MOST)
        row_settle(row);
    row->open = true;
}

void row_add(struct row *row, struct connection *connection, struct held *held)
{
    if (row->n == 0) {
        row->connection = connection;
        row->begin = frame_out_mark(&connection->out);
    }
    row->calls[row->n].held = held;
    row->calls[row->n++].oneway = connection->call.oneway;
}

void row_close(struct row *row)
{
    row->open = false;
}

/* None of them was. */
static void undo(struct row *row, struct connection *connection, size_t n, int error)
{
    int r = 0;

    log_error("cannot make %zu eventfds safe: %s", n, strerror(-error));
    frame_out_cancel(&connection->out, row->begin);
    for (size_t i = 0; i < n; i++) {
        model_unhold(row->server->model, row->calls[i].held);
        if (!row->calls[i].oneway && r == 0)
            r = error == -ENOMEM ? error : method_write_full(&connection->out);
    }
    if (r < 0)
        connection->failed = true;
}

void row_settle(struct row *row)
{
    struct connection *connection = row->connection;
    size_t n = row->n;
    int r;

    if (n == 0)
        return;
    row->n = 0;
    row->connection = NULL;
    crash_point("row: before its eventfds are safe");
    r = row->server->vault ? vault_flush(row->server->vault) : 0;
    if (r < 0)
        undo(row, connection, n, r);
}
