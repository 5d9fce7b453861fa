/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The two clocks, in microseconds: what users see is since the epoch, what is waited for is monotonic. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define USEC_PER_SEC INT64_C(1000000)
#define USEC_PER_MSEC INT64_C(1000)

static inline int64_t clock_read(clockid_t id)
{
    struct timespec now;

    (void)clock_gettime(id, &now); /* cannot fail for the two below */
    return (int64_t)now.tv_sec * USEC_PER_SEC + now.tv_nsec / 1000;
}

static inline int64_t clock_epoch(void)
{
    return clock_read(CLOCK_REALTIME);
}

/* CLOCK_BOOTTIME: a lease runs on while the machine sleeps. */
static inline int64_t clock_monotonic(void)
{
    return clock_read(CLOCK_BOOTTIME);
}

#endif
