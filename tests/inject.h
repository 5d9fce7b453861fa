/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What tests/inject.c is told, and tells. */
#ifndef TESTS_INJECT_H
#define TESTS_INJECT_H

#include <stdint.h>

enum {
    WANT_NOTHING,
    WANT_MEMORY, /* one allocation fails */
    WANT_FULL,   /* and all that follow, beyond what is freed */
    WANT_ERRNO,  /* one system call fails with number */
    WANT_SHORT,  /* one moves half */
};

#define INJECT_FRAMES 12

/* As tests/test-blackbox-inject.py has it. */
struct control {
    int32_t want, number;
    int32_t countdown; /* how many points from now; it goes on below 0 */
    int32_t fired;
    int64_t available; /* WANT_FULL: bytes that were freed */
    char name[32];     /* of what failed */
    uint64_t frames[INJECT_FRAMES];
};

/* In the program itself, rather than by the file that EVLINK_INJECT names. */
void inject_by(struct control *control);

/* How many pieces of memory the program has, in what is wrapped. */
long inject_allocated(void);

#endif
