/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What outlives this process: the model's objects, as records in a ledger, and the descriptors that they
 * refer to, on a shelf. Whoever acknowledges a change, or acts on one, calls vault_sync() first. The next
 * process's vault_open() brings all of it back.
 */
#ifndef SERVICE_VAULT_H
#define SERVICE_VAULT_H

#include "service/ledger.h"
#include "service/passed.h"
#include "service/server.h"
#include "service/shelf.h"

struct vault;

/* What came back. */
struct vault_report {
    struct ledger_life last; /* of the process before */
    size_t eventfds, links, agents;
    int64_t took; /* microseconds */
};

/*
 * Opens what was passed on, or makes a new one and puts it into the service manager's descriptor store. The
 * server's model must be empty, its hooks ready. server->vault is set before anything comes back. What went
 * wrong is logged. -errno.
 */
int vault_open(struct server *server, struct passed *passed);

/* Nothing is recorded any more. stopped: on purpose. */
struct vault *vault_free(struct vault *vault, bool stopped);

/* Puts all changes since the last time on record, as one. -errno: it cannot be; then nothing may be told. */
int vault_sync(struct vault *vault);

const struct vault_report *vault_report(const struct vault *vault);

/* The model's hooks of the same names. */
int vault_keep(struct vault *vault, struct eventfd **eventfds, size_t n);
/* The same of one, which is safe only once vault_flush() has returned 0; where it fails, it is to be unkept.
 */
int vault_keep_later(struct vault *vault, struct eventfd *eventfd);
int vault_flush(struct vault *vault);
void vault_unkeep(struct vault *vault, struct eventfd *eventfd);
void vault_ended(struct vault *vault, enum saved_kind kind, uint64_t number);
int vault_drain(struct vault *vault, const struct end *end, struct eventfd *eventfd, uint64_t *ret_count);

/* Keeps an agent's socket or pidfd, or what a delegated connection has; fd: stays the caller's until
 * vault_drop(). */
int vault_keep_fd(struct vault *vault, int fd, struct item **ret_item);

/* The item is not needed any more: its descriptor is consumed. */
void vault_drop(struct vault *vault, struct item *item);

/* Reads a relay's source empty: what was read counts as being in the source until vault_drained(). */
int vault_drain_source(
    struct vault *vault, uint64_t number, int fd, uint64_t *ret_count, struct ledger_slot **ret_slot);
void vault_drained(struct vault *vault, struct ledger_slot *slot);

#endif
