/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What can be done with an eventfd that strangers share: whoever holds it may clear O_NONBLOCK, saturate its
 * counter and read it empty at any moment, so that neither read(2) nor write(2) may be trusted not to block.
 * Nothing here does.
 */
#ifndef BASE_EVENTFD_H
#define BASE_EVENTFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The largest count that write(2) takes a counter to; signals from inside the kernel go one further. */
#define EVENTFD_MAX (UINT64_MAX - 1)

/* A new eventfd: close-on-exec, non-blocking. -errno. */
int eventfd_create(bool semaphore);

struct eventfd_info {
    int64_t id; /* since Linux 5.2; -1 where the kernel does not say; a negative one tells nothing */
    uint64_t count;
    bool semaphore; /* since Linux 6.5; false where the kernel does not say */
};

/* Reads /proc/self/fdinfo, 3 us. -ENOTTY where fd is no eventfd, or -errno. */
int eventfd_info(int fd, struct eventfd_info *ret_info);

/* The same of any process's descriptor: path is one in some /proc/PID/fdinfo, relative to dir. */
int eventfd_info_at(int dir, const char *path, struct eventfd_info *ret_info);

/*
 * Reads the counter empty without blocking: *ret_count is what it was, 0 included. preadv2(RWF_NOWAIT) does
 * not block whatever the shared O_NONBLOCK says [Linux 5.8]. Of a semaphore it takes 1 at most, as all that
 * could be there would take for ever. The kernel writes to *ret_count itself, so that it may be memory that
 * outlives the process. -errno.
 */
int eventfd_drain(int fd, uint64_t *ret_count);

/*
 * Linux AIO, for the two things that it does without side effects and without blocking: telling eventfds
 * from other descriptors, and adding to a counter from inside the kernel. Any user may have taken all of
 * fs.aio-max-nr: then slower ways serve.
 */
struct evaio;

/* -ENOMEM; a kernel without AIO to give is no failure. */
int evaio_new(struct evaio **ret_aio);
struct evaio *evaio_free(struct evaio *aio);

/* Whether fd is an eventfd; its counter is not touched. -EBADF where it is not open. */
int evaio_is_eventfd(struct evaio *aio, int fd);

/* One eventfd to signal: by how much. */
struct evaio_signal {
    int fd;
    uint64_t count;
};

/*
 * Signals n eventfds, in as few system calls as it takes. A counter that would overflow is left full; nobody
 * is in the way of the others. The process must leave SIGALRM and ITIMER_REAL to this.
 */
void evaio_signal(struct evaio *aio, const struct evaio_signal *signals, size_t n);

/*
 * Adds count, at least 1, to the counter. -EAGAIN where it does not fit, with nothing added. The process must
 * leave SIGALRM and ITIMER_REAL to this.
 */
int evaio_add(struct evaio *aio, int fd, uint64_t count);

#endif
