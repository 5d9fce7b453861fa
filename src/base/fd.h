/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors and owned sets of them. A descriptor variable starts at -1 and a set at FDSET_EMPTY; what a set
 * owns is closed with it unless somebody stole it.
 */
#ifndef BASE_FD_H
#define BASE_FD_H

#include <stdbool.h>
#include <stddef.h>

/* Closes fd unless it is -1; errno is kept. Returns -1. */
int fd_close(int fd);

static inline void fd_closep(int *fd)
{
    *fd = fd_close(*fd);
}

#define TAKE_FD(variable)        \
    ({                           \
        int taken_ = (variable); \
        (variable) = -1;         \
        taken_;                  \
    })

/* A duplicate with close-on-exec, or -errno. fd: borrowed. */
int fd_dup(int fd);

/*
 * For programs, first thing: fills descriptors 0 to 2 where they are closed, so that nothing that is opened
 * later is taken for stdout. What stands in their place fails at use: output that goes nowhere is still an
 * error.
 */
void fd_fill_standard(void);

/* The descriptors of one message, in its order; a stolen place is -1. */
struct fdset {
    int *fds;
    size_t n;
    bool foreign; /* strangers sent them: see discard.h */
};

#define FDSET_EMPTY ((struct fdset){ .fds = NULL, .n = 0, .foreign = false })

/* Takes n descriptors over: consumed, also on failure (-ENOMEM). The set must be empty. */
int fdset_adopt(struct fdset *set, const int *fds, size_t n);

/* Adds duplicates of n borrowed descriptors: all or none. The set must be empty. -ENOMEM, -EMFILE, -EBADF. */
int fdset_dup(struct fdset *set, const int *fds, size_t n);

/* The descriptor at index: borrowed, -1 where there is none or it was stolen. */
int fdset_get(const struct fdset *set, size_t index);

/* The same, the caller's from now on. */
int fdset_steal(struct fdset *set, size_t index);

/* Moves the whole set out, leaving it empty. */
struct fdset fdset_take(struct fdset *set);

/* Closes what is left and empties the set. */
void fdset_clear(struct fdset *set);

#endif
