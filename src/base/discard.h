/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Closing what strangers sent. close(2) can block: on a TCP socket with SO_LINGER whose peer does not read,
 * on a file whose FUSE server does not answer, for as long as somebody likes; so can the close of a unix
 * socket with such a thing in its queue. Here a child that shares the table of descriptors (CLONE_FILES) does
 * it, and ends when it has had nothing to do for a moment. Eventfds, whose close cannot block, are closed at
 * once.
 *
 * Each user has children of its own, a few, so that nobody waits behind what another one sent. What all of
 * them are stuck with, and waits behind that, stays open.
 *
 * Only for a process that has called discard_start(); others close as ever. Not for several threads.
 */
#ifndef BASE_DISCARD_H
#define BASE_DISCARD_H

#include <stdbool.h>
#include <sys/types.h>

struct evaio;

#define DISCARDERS 32
#define DISCARDERS_OF_USER 4

/* Of nobody: what is ours to close. As many children as there are may be its. */
#define DISCARD_OURS ((uid_t)-1)

/*
 * From now on others close. SIGCHLD is ignored from here on: a process that has other children cannot use
 * this. aio (borrowed) tells eventfds; -errno.
 */
int discard_start(struct evaio *aio);

/* Before that one is freed: what comes now is closed here. */
void discard_stop(void);

/* Whose descriptors those are that are discarded from now on. Returns whose they were. */
uid_t discard_for(uid_t uid);

/* Closes fd, whatever it is, without waiting for it: its number is free when that is done. -1: nothing. */
void fd_discard(int fd);

static inline void fd_discardp(int *fd)
{
    fd_discard(*fd);
    *fd = -1;
}

/* Takes the first message out of a socket's queue, and closes the descriptors in it, in the same way. */
void fd_discard_message(int fd);

/* Whether a child is stuck with what that user sent. */
bool discard_is_stuck(uid_t uid);

/* Whether so much of that user's is to be closed still that more should wait. */
bool discard_is_behind(uid_t uid);

#endif
