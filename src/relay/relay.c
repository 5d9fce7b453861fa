/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one data path: see relay.h. */
#include "relay/relay.h"

/* How many are signalled in one go. */
#define BATCH 64

static void owe(const struct relay_destination *destination, uint64_t count)
{
    if (__builtin_add_overflow(*destination->owed, count, destination->owed))
        *destination->owed = EVENTFD_MAX;
}

bool relay_pass(struct evaio *aio, uint64_t count, const struct relay_destination *destinations, size_t n)
{
    struct evaio_signal signals[BATCH];
    size_t queued = 0;
    bool owed = false;

    for (size_t i = 0; i < n; i++) {
        if (destinations[i].fd < 0) {
            owe(&destinations[i], count);
            owed = true;
            continue;
        }
        signals[queued++] = (struct evaio_signal){
            .fd = destinations[i].fd,
            .count = destinations[i].counts ? count : 1,
        };
        if (queued == BATCH) {
            evaio_signal(aio, signals, queued);
            queued = 0;
        }
    }
    if (queued > 0)
        evaio_signal(aio, signals, queued);
    return owed;
}
