/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one data path: from the eventfds that a relayed link's producers signal to those of its consumers.
 *
 * What it keeps true: what is read from a source is passed on to every destination before this returns, by
 * ways of signalling that nobody who shares an eventfd can block. It knows no links and has no events of its
 * own.
 */
#ifndef RELAY_RELAY_H
#define RELAY_RELAY_H

#include "base/eventfd.h"

struct relay_destination {
    int fd;      /* borrowed; -1: away, what it would have got is owed to it */
    bool counts; /* it gets the count; else it is raised once */
    uint64_t *owed;
};

/*
 * Reads source (borrowed) empty, and signals the destinations. Returns how many signals were moved, 0 for
 * none, or -errno where the source cannot be read.
 */
int64_t relay_pass(struct evaio *aio, int source, const struct relay_destination *destinations, size_t n);

#endif
