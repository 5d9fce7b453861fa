/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one data path: from the eventfds that a relayed link's producers signal to those of its consumers.
 *
 * What it keeps true: a count is passed on to every destination before this returns, by ways of signalling
 * that nobody who shares an eventfd can block. It knows no links and has no events of its own.
 */
#ifndef RELAY_RELAY_H
#define RELAY_RELAY_H

#include "base/eventfd.h"

struct relay_destination {
    int fd;      /* borrowed; -1: away, what it would have got is owed to it */
    bool counts; /* it gets the count; else it is raised once */
    uint64_t *owed;
};

/* Passes a count that was read from a source on to all destinations. Returns whether any of it is owed now.
 */
bool relay_pass(struct evaio *aio, uint64_t count, const struct relay_destination *destinations, size_t n);

#endif
