/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records that outlive this process: a log in a memfd that somebody else keeps a descriptor of as well. A
 * record is an object's whole state, under its kind and number; the last one counts.
 *
 * Changes are staged, and take effect all at once, with one aligned store of eight bytes: ledger_commit().
 * What was committed is there for the next process whatever happens to this one. The memfd has two halves;
 * when much of the one in use is superseded, what is live moves over to the other, a little with each commit,
 * so that none costs more than another.
 */
#ifndef SERVICE_LEDGER_H
#define SERVICE_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ledger;

/* A new one, empty and incomplete. -errno. */
int ledger_new(struct ledger **ret_ledger);

/*
 * The one in this memfd: consumed, also on failure. -ENODATA: it was never completed; -EBADMSG: it is none,
 * or of a version that is not known. Records that cannot be read are logged and left out.
 */
int ledger_open(int fd, struct ledger **ret_ledger);

struct ledger *ledger_free(struct ledger *ledger);

/* Borrowed. */
int ledger_fd(const struct ledger *ledger);

/* All that belongs to it is in safe keeping: from now on it may be opened. */
void ledger_complete(struct ledger *ledger);

/* Stage a record, and the end of one: of each object once before a commit. What is on record already is not
 * written again. -ENOMEM. */
int ledger_put(
    struct ledger *ledger, unsigned kind, uint64_t number, const unsigned char *bytes, size_t length);
int ledger_delete(struct ledger *ledger, unsigned kind, uint64_t number);

/* What is staged takes effect; slots that were taken before are free again. -ENOMEM, with nothing changed. */
int ledger_commit(struct ledger *ledger);

/* The committed records, in the order of their numbers. bytes: valid until the next change. */
void ledger_each(const struct ledger *ledger,
    void (*each)(void *userdata, unsigned kind, uint64_t number, const unsigned char *bytes, size_t length),
    void *userdata);

/*
 * A slot is memory that outlives this process at once: for counters, which are gone from where they are read
 * when they are read, and must not be lost in between. What is in a slot counts until the next commit, and
 * not after.
 */
struct ledger_slot {
    uint64_t stamp;
    uint64_t kind, number, place; /* the user's */
    uint64_t count;
};

/* A slot for what is about to be read into its count, which is 0. NULL: all are taken, commit first. */
struct ledger_slot *ledger_slot(struct ledger *ledger, uint64_t kind, uint64_t number, uint64_t place);

/* It does not count any more. */
void ledger_slot_done(struct ledger *ledger, struct ledger_slot *slot);

/* The slots of the process before that count: as of ledger_open(). */
void ledger_each_slot(const struct ledger *ledger,
    void (*each)(void *userdata, const struct ledger_slot *slot), void *userdata);

/* What those of the process before stood for is done. */
void ledger_forget_slots(struct ledger *ledger);

/* Whether there is so much on record that no more should be. */
bool ledger_is_crowded(const struct ledger *ledger);

/* What is told of each process to the next one. */
struct ledger_life {
    int64_t started_at; /* since the epoch */
    uint64_t starts;    /* which one this is, counted from 1 */
    int32_t ended; /* 0: it was running still; LEDGER_STOPPED, or the number of the signal that it ended by */
};
#define LEDGER_STOPPED (-1)

/* This process's own, to be written; of the one before as of ledger_open(), zero where this is the first. */
struct ledger_life *ledger_life(struct ledger *ledger);
struct ledger_life ledger_last_life(const struct ledger *ledger);

#endif
