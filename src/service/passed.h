/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors that the service manager passed at the start (sd_listen_fds(3)): a listening socket, and what
 * an earlier evlinkd had put into its descriptor store. The service manager is systemd, or evlinkd
 * --supervise.
 */
#ifndef SERVICE_PASSED_H
#define SERVICE_PASSED_H

#include <stdbool.h>
#include <stddef.h>

struct passed;

/* Takes them over, close-on-exec. -errno. */
int passed_new(struct passed **ret_passed);

/* What nobody has taken is closed. */
struct passed *passed_free(struct passed *passed);

/* The one of that name, the caller's from now on; -1: there is none. */
int passed_take(struct passed *passed, const char *name);

/* The first listening unix socket, whatever its name, the caller's from now on; -1: there is none. */
int passed_take_listener(struct passed *passed);

/* Puts a descriptor (borrowed) into the store, or takes all of a name out. Takes effect in its own time.
 * -errno; -ENOTCONN: there is no service manager. */
int passed_store(const char *name, int fd);
int passed_unstore(const char *name);

/* Returns when all that was stored or taken out before is. -errno. */
int passed_barrier(void);

#endif
