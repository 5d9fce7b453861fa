/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Closing what strangers sent. close(2) can block: on a TCP socket with SO_LINGER whose peer does not read,
 * on a file whose FUSE server does not answer, for as long as somebody likes; so can the close of a unix
 * socket with such a thing in its queue. Here a child that shares the table of descriptors (CLONE_FILES) does
 * it, as many as there are that are stuck, up to DISCARDERS; a child that has had nothing to do for a moment
 * ends. What all of them are stuck with, and waits behind that, stays open.
 *
 * Only for a process that has called discard_start(); others close as ever. Not for several threads.
 */
#ifndef BASE_DISCARD_H
#define BASE_DISCARD_H

#include <stdbool.h>

#define DISCARDERS 16

/* From now on others close. SIGCHLD is ignored from here on: a process that has other children cannot use
 * this. -errno. */
int discard_start(void);

/* Closes fd, whatever it is, without waiting for it: its number is free when that is done. -1: nothing. */
void fd_discard(int fd);

static inline void fd_discardp(int *fd)
{
    fd_discard(*fd);
    *fd = -1;
}

/* Takes the first message out of a socket's queue, and closes the descriptors in it, in the same way. */
void fd_discard_message(int fd);

/* Whether everything is closed that was to be. */
bool discard_is_idle(void);

#endif
