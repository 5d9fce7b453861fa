/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was acknowledged by a server, and has to be there when another one comes up from what it kept: held
 * eventfds, links, agents, delegated connections. In the words of the contract, so that it does not hang on
 * what is on record.
 */
#ifndef FUZZ_KEPT_H
#define FUZZ_KEPT_H

#include "service/server.h"

#include <jansson.h>

/*
 * An object, its members objects of the server: how each is, or true where that is being changed, or null
 * where it may be gone by the next look.
 */
json_t *kept(struct server *server);

/* Aborts where something is there after that was not before, or the other way round, or is another now. Both
 * consumed. */
void check_kept(json_t *before, json_t *after);

/* The same, as it has to be on record; and aborts where the ledger behind this descriptor says something
 * else. expected: consumed. */
json_t *records(struct server *server);
void check_records(json_t *expected, int ledger);

#endif
