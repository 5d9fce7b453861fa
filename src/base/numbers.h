/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arrays of numbers in ascending order, no two the same. */
#ifndef BASE_NUMBERS_H
#define BASE_NUMBERS_H

#include <stdint.h>
#include <stdlib.h>

/* For qsort(3) and bsearch(3). */
static inline int numbers_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Where a number is; NULL: it is not there. Of no numbers there may be no array. */
static inline const uint64_t *numbers_find(const uint64_t *numbers, size_t n, uint64_t number)
{
    return n > 0 ? bsearch(&number, numbers, n, sizeof(number), numbers_compare) : NULL;
}

#endif
