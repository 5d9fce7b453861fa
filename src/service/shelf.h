/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors that outlive this process: copies of them wait in the queues of socket pairs, whose ends
 * somebody else keeps as well (the service manager's descriptor store).
 *
 * A message in a queue is the numbers of up to 253 items and their descriptors. It leaves only at its queue's
 * head, and only when no item's latest copy is in it: whenever this process dies, each item that was put and
 * not dropped is in some queue. Numbers are never used twice. There are three kinds of queues: `young` for
 * what comes one at a time, `old` for batches, `agents` for sockets and pidfds, apart, since taking one of
 * those out of a queue may take its time.
 *
 * [KERNEL: a queue takes so many bytes, some 500 messages; a message 253 descriptors; what is under way
 * counts against the sender's soft RLIMIT_NOFILE, unless it is root.]
 */
#ifndef SERVICE_SHELF_H
#define SERVICE_SHELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shelf;

/* A descriptor on the shelf. */
struct item;

enum shelf_class {
    SHELF_EVENTFDS,
    SHELF_AGENTS,
};

/* The ends of queues: so many, for n_old pairs of old ones. */
#define SHELF_ENDS(n_old) (2 * ((n_old) + 2))
#define SHELF_OLD_MAX 4

/* New, empty queues. -errno. */
int shelf_new(size_t n_old, struct shelf **ret_shelf);

/* The queues that these are the ends of, in shelf_end()'s order: consumed, also on failure. -EBADF where one
 * is missing. */
int shelf_open(const int *ends, size_t n_old, struct shelf **ret_shelf);

struct shelf *shelf_free(struct shelf *shelf);

/* The i-th end, borrowed, and what it is called. -1 behind the last. */
int shelf_end(const struct shelf *shelf, size_t i, char name[static 16]);

/*
 * Puts n descriptors on the shelf, all or none: borrowed, they have to stay open until they are dropped. They
 * are safe when this returns 0. -ETOOMANYREFS, -ENOBUFS where there is no room, -ENOMEM.
 */
int shelf_put(struct shelf *shelf, enum shelf_class class, const int *fds, size_t n, struct item **ret_items);

/*
 * The same of one eventfd, which is safe only once shelf_flush() has returned 0: all since the last time go
 * there in one message. Where it fails, none of them is there, and they are to be dropped.
 */
int shelf_put_later(struct shelf *shelf, int fd, struct item **ret_item);
int shelf_flush(struct shelf *shelf);

uint64_t item_number(const struct item *item);

/*
 * The item is not wanted any more. Its descriptor, which is the shelf's now, is closed by the next
 * shelf_settle(), and its copies go from then on, within a second.
 */
void shelf_drop(struct shelf *shelf, struct item *item);

/* Nothing refers to dropped items any more, also in what is on record. Returns the microseconds until
 * shelf_clean() wants to be called, -1: it need not. */
int64_t shelf_settle(struct shelf *shelf);

/* Moves some of what is live out of the way of what is not. Returns as shelf_settle(). */
int64_t shelf_clean(struct shelf *shelf);

/*
 * Looks through the queues, of which nothing is taken, for these numbers: ascending, no two the same.
 * ret_items[i] is what was found of numbers[i], with a descriptor in ret_fds[i] that is the caller's, or NULL
 * and -1. -errno. To be called once, before anything else is done with a shelf that was opened.
 */
int shelf_recover(
    struct shelf *shelf, const uint64_t *numbers, size_t n, struct item **ret_items, int *ret_fds);

#endif
