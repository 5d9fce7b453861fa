/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A reserve of memory: see reserve.h. It is given back to malloc() where that has nothing else to give. */
#include "base/reserve.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Enough for all but long answers, which have room of their own, and for what malloc() asks the kernel for at
 * once. */
#define RESERVE_SIZE ((size_t)256 * 1024)

static void *reserve;

int reserve_fill(void)
{
    if (!reserve)
        reserve = malloc(RESERVE_SIZE);
    return reserve ? 0 : -ENOMEM;
}

void *reserve_malloc(size_t size)
{
    return reserve_realloc(NULL, size);
}

void *reserve_realloc(void *p, size_t size)
{
    void *moved = realloc(p, size);

    if (!moved && reserve) {
        free(TAKE(reserve));
        moved = realloc(p, size);
    }
    return moved;
}

char *reserve_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = reserve_malloc(size);

    return copy ? memcpy(copy, text, size) : NULL;
}
