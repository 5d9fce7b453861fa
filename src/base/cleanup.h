/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cleanup attributes: what a scope owns goes with it, unless it is taken out. Not for anything with a name:
 * those modules bring a free function of their own and use it here.
 */
#ifndef BASE_CLEANUP_H
#define BASE_CLEANUP_H

#include <stdlib.h>

#define CLEANUP(function) __attribute__((cleanup(function)))

/* Defines NAMEp(), for CLEANUP(NAMEp), from a free function that takes NULL. */
#define DEFINE_CLEANUP(type, function)      \
    static inline void function##p(type *p) \
    {                                       \
        if (*p)                             \
            function(*p);                   \
    }

static inline void freep(void *p)
{
    free(*(void **)p);
}

/* Hands on what a CLEANUP variable owns. */
#define TAKE(variable)                            \
    ({                                            \
        __typeof__(variable) taken_ = (variable); \
        (variable) = NULL;                        \
        taken_;                                   \
    })

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

#endif
