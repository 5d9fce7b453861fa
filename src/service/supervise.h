/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What systemd does for evlinkd, for machines without it: a parent that serves the protocol of sd_notify(3)
 * to its child, keeps the descriptors that the child stores, starts it again with them when it dies, and
 * kills it where it gives no sign of life. What is stored, and whether it makes sense, is the child's
 * business.
 *
 * One child at a time; only what that child itself sends is obeyed. The child does not depend on its parent:
 * where the parent dies, it goes on with nothing behind it.
 */
#ifndef SERVICE_SUPERVISE_H
#define SERVICE_SUPERVISE_H

#include "base/clock.h"

/* All times are microseconds. */
struct supervise_options {
    const char *program; /* a path */
    char *const *argv;   /* what it is started with, from its name on */
    int64_t watchdog;    /* the longest that it may be silent; 0: for ever */
    int64_t patience;    /* and until READY=1, where that is longer */
    int64_t brief;       /* lived less, and was never ready: a pause before it is started again */
    int64_t steady;      /* lived this long: the next pause is the shortest again */
    int64_t pause_min;
    int64_t pause_max;
};

#define SUPERVISE_DEFAULTS                                                               \
    .watchdog = 10 * USEC_PER_SEC, .patience = 30 * USEC_PER_SEC, .brief = USEC_PER_SEC, \
    .steady = 10 * USEC_PER_SEC, .pause_min = 100 * USEC_PER_MSEC, .pause_max = 5 * USEC_PER_SEC

/*
 * Runs the program until it is told to stop by SIGTERM or SIGINT, or until the program ends without ever
 * having said READY=1. Returns the exit status to end with: the program's, or 128 and the number of the
 * signal that ended it. -errno where nothing could be run; what went wrong is logged.
 *
 * For a process with one thread, no children and nothing else to do: takes most signals, and leaves them
 * taken.
 */
int supervise_run(const struct supervise_options *options);

#endif
