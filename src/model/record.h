/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The model's objects as records, for whoever keeps them past this process's death, and back. A record is an
 * object's whole state, in base/pack.h's fields. Which objects may have changed since they were recorded is
 * known here; when that is written down is the keeper's business: before anybody outside can have seen it.
 *
 * What comes back goes through the state machine as everything does: ends that an agent was asked about when
 * the process died are in doubt, and unplugged first; a Connect that was not answered is undone, a Disconnect
 * finished.
 */
#ifndef MODEL_RECORD_H
#define MODEL_RECORD_H

#include "base/pack.h"
#include "model/delegation.h"
#include "model/model.h"

/* The next object whose record may be out of date, which it is taken not to be from now on. NULL: none. */
struct saved *model_next_due(struct model *model);

/* Whether there is one. */
bool model_is_due(const struct model *model);

/* Adds an object's record. */
void model_record(const struct saved *saved, struct packer *packer);

/* Tells every number of a kept descriptor that a record refers to. -EBADMSG. */
int record_numbers(enum saved_kind kind, const unsigned char *bytes, size_t length,
    void (*each)(void *userdata, uint64_t number), void *userdata);

/* A count was added to a link's ends' debts from outside. */
void model_owed(struct link *link);

/* What comes back. */
struct restore {
    struct model *model;
    void *userdata;
    const uint64_t *numbers; /* of all kept descriptors: borrowed, ascending */
    size_t n_numbers;
    /* The eventfd that was kept under numbers[i]: its descriptor, the model's from now on, and its item. -1:
     * it is lost. */
    int (*eventfd)(void *userdata, size_t i, void **ret_item);
    /* An agent is back; its session is to be set. 0, or -errno where its socket is lost. */
    int (*agent)(void *userdata, struct agent *agent);
    /* A delegation is back: consumed, if this returns 0. -errno: its connection is lost. */
    int (*delegation)(void *userdata, struct delegation *delegation);

    /* Its own from here on; zeroed. */
    struct lifeline lifeline;  /* of connections that were there */
    struct eventfd **eventfds; /* beside numbers */
    struct agent **agents, **lost;
    struct origin *origin; /* of the last owner */
    size_t n_agents, n_lost;
    size_t held, links;
};

/* Of a model that is empty: from here to model_restored(), records come back, held eventfds first, then
 * agents, then links, each in the order of their numbers, links a second time with gone true: of such that
 * are gone but for an end; and then delegations. */
int model_restore(struct restore *restore);
int model_restore_record(struct restore *restore, enum saved_kind kind, uint64_t number,
    const unsigned char *bytes, size_t length, bool gone);

/* A count that was under way: to an end's debt, or (place RESTORE_BACK, number an eventfd's) back to its
 * counter. */
#define RESTORE_BACK UINT64_MAX
void model_restore_count(struct restore *restore, uint64_t number, uint64_t place, uint64_t count);

/* What happens from here on happens to this process only: what is owed to counters stays on record. NULL:
 * nothing. */
void model_stop(struct model *model);

/* Whether something that was under way when the process before died is not finished or undone yet. */
bool model_is_recovering(const struct model *model);

/* The place of an end in its link, for the same. */
uint64_t end_place_number(const struct end *end);

/* All is back: what was bound to connections ends, and everything gets to where it is wanted. */
void model_restored(struct restore *restore);

/* In its place, where what came back cannot all be had: the model is good for model_free() alone. */
void model_restore_failed(struct restore *restore);

#endif
