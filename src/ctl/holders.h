/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which processes hold eventfds, as far as /proc shows that to whoever asks. Never all of it: processes of
 * others are closed to it, and neither the kernel's own references (irqfds, VFIO, vhost, io_uring) nor
 * descriptors on their way in a socket are any process's.
 */
#ifndef CTL_HOLDERS_H
#define CTL_HOLDERS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* How many processes were looked into, and how many that may have descriptors could not be. */
struct holders_tally {
    size_t seen, hidden;
};

/*
 * eventfds: {eventfd-id in decimal: object}. Appends to the array `holders` of each object {pid, comm, fds}
 * for each process that has the eventfd. 0, or -errno: /proc cannot be read, or there is no memory.
 */
int holders_find(json_t *eventfds, struct holders_tally *ret_tally);

/*
 * The command of the process that had this pid at a time, microseconds since the epoch: a new string. NULL
 * where there is none, where the process that has the pid now began later, or no memory.
 */
json_t *holders_command(pid_t pid, int64_t since);

#endif
