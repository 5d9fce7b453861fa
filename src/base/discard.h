/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Closing what strangers sent. close(2) can block: on a TCP socket with SO_LINGER whose peer does not read,
 * on a file whose FUSE server does not answer, for as long as somebody likes; so can the close of a unix
 * socket with such a thing in its queue. Here a child that shares the table of descriptors (CLONE_FILES) does
 * it, and ends when it has had nothing to do for a moment. A signal ends its waiting for a socket that
 * lingers; for others there is none. Eventfds, whose close cannot block, are closed at once.
 *
 * Who sent it is to blame for what a child is stuck with: a user, or one of its tenants, as which counts what
 * came through a scope of the user's, or a scope within that: who delegates to itself is to blame still. Each
 * has one child at most, so that it waits behind what it sent itself, and each user has DISCARDERS_OF_TENANTS
 * for its tenants, however many they are, beside its own: no user takes all children, and no tenant holds up
 * who delegated to it. Where tenants are stuck with all of these, what others of the user's send waits behind
 * that, and stays open meanwhile; they are not to blame for it, and go on sending, until too much waits.
 *
 * Only for a process that has called discard_start(); others close as ever. Not for several threads.
 */
#ifndef BASE_DISCARD_H
#define BASE_DISCARD_H

#include <stdbool.h>
#include <sys/types.h>

struct evaio;

#define DISCARDERS 32
#define DISCARDERS_OF_TENANTS 3

/* Who is to blame. */
struct culprit {
    uid_t uid;
    char tenant[64]; /* "": the user itself */
};

/* Of nobody: what is ours to close. As many children as there are may be its. */
#define DISCARD_OURS ((struct culprit){ .uid = (uid_t)-1 })

/*
 * From now on others close. SIGCHLD is ignored from here on: a process that has other children cannot use
 * this. aio (borrowed) tells eventfds; -errno.
 */
int discard_start(struct evaio *aio);

/* Before that one is freed: what comes now is closed here. */
void discard_stop(void);

/* Who sent the descriptors that are discarded from now on. Returns who was that before. */
struct culprit discard_for(struct culprit whose);

/* Closes fd, whatever it is, without waiting for it: its number is free when that is done. -1: nothing. */
void fd_discard(int fd);

static inline void fd_discardp(int *fd)
{
    fd_discard(*fd);
    *fd = -1;
}

/*
 * Closes a unix socket that strangers send to, after shutting it down: they hear of its end now, whenever it
 * can be closed. That is at once, unless descriptors are unread in it. -1: nothing.
 */
void fd_discard_socket(int fd);

/*
 * Shuts a unix socket down, takes all that is unread out of it, and closes the descriptors in it, in the same
 * way: whoever closes the last copy of it has nothing to wait for. fd: borrowed.
 */
void fd_discard_input(int fd);

/* Takes the first message out of a socket's queue, and closes the descriptors in it, in the same way. */
void fd_discard_message(int fd);

/* Whether a child is stuck with what that one sent. */
bool discard_is_stuck(const struct culprit *whose);

/* Whether so much is to be closed still before what that one sends that more should wait. */
bool discard_is_behind(const struct culprit *whose);

#endif
