/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A reserve of memory, for telling what was done: a call that cannot have memory for its change fails and has
 * changed nothing, but a change that was made is to be answered. So nothing is begun without the reserve, and
 * what answers are made of may use it up.
 *
 * Not for threads: a program that never fills it may have some, as libevlink's do.
 */
#ifndef BASE_RESERVE_H
#define BASE_RESERVE_H

#include <stddef.h>

/* Sees to it that there is one. -ENOMEM */
int reserve_fill(void);

/* As malloc(), realloc() and strdup(). */
void *reserve_malloc(size_t size);
void *reserve_realloc(void *p, size_t size);
char *reserve_strdup(const char *text);

#endif
