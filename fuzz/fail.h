/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What can fail fails on demand: allocations, and the system calls that fail.c lists.
 * Programs are linked with $(fail_ldflags) for it.
 */
#ifndef FUZZ_FAIL_H
#define FUZZ_FAIL_H

#include <stdbool.h>

/* The nth call that can fail, between fail_begin() and fail_end(), does so once, with ENOMEM; 0: none does.
 */
void fail_at(unsigned n);

void fail_begin(void);

/* Returns whether it did since fail_begin(). */
bool fail_end(void);

/* In between: what is called from here on is the target's own, and does not fail; or may again. */
void fail_pause(bool pause);

#endif
