/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptors from, and for, the service manager: see passed.h. */
#include "service/passed.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

struct passed {
    size_t n;
    char **names;
};

/* How long the service manager may take. */
#define BARRIER_WAIT (10 * USEC_PER_SEC)

static int fd_of(size_t i)
{
    return SD_LISTEN_FDS_START + (int)i;
}

int passed_new(struct passed **ret_passed)
{
    struct passed *passed = calloc(1, sizeof(*passed));
    int n;

    if (!passed)
        return -ENOMEM;
    n = sd_listen_fds_with_names(1, &passed->names);
    if (n < 0) {
        free(passed);
        return n;
    }
    passed->n = (size_t)n;
    *ret_passed = passed;
    return 0;
}

struct passed *passed_free(struct passed *passed)
{
    if (!passed)
        return NULL;
    for (size_t i = 0; i < passed->n; i++) {
        if (passed->names[i])
            fd_close(fd_of(i));
        free(passed->names[i]);
    }
    free(passed->names);
    free(passed);
    return NULL;
}

static int take(struct passed *passed, size_t i)
{
    free(passed->names[i]);
    passed->names[i] = NULL;
    return fd_of(i);
}

int passed_take(struct passed *passed, const char *name)
{
    for (size_t i = 0; i < passed->n; i++)
        if (passed->names[i] && strcmp(passed->names[i], name) == 0)
            return take(passed, i);
    return -1;
}

int passed_take_listener(struct passed *passed)
{
    for (size_t i = 0; i < passed->n; i++)
        if (passed->names[i] && sd_is_socket_unix(fd_of(i), SOCK_STREAM, 1, NULL, 0) > 0)
            return take(passed, i);
    return -1;
}

static int notify(const char *state, const int *fds, unsigned n)
{
    int r = sd_pid_notify_with_fds(0, 0, state, fds, n);

    return r < 0 ? r : r == 0 ? -ENOTCONN : 0;
}

int passed_store(const char *name, int fd)
{
    CLEANUP(freep) char *state = NULL;

    /* Nobody but us is to say when it is of no use any more [KERNEL: the store drops what hangs up]. */
    if (asprintf(&state, "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name) < 0) {
        state = NULL;
        return -ENOMEM;
    }
    return notify(state, &fd, 1);
}

int passed_unstore(const char *name)
{
    CLEANUP(freep) char *state = NULL;

    if (asprintf(&state, "FDSTOREREMOVE=1\nFDNAME=%s", name) < 0) {
        state = NULL;
        return -ENOMEM;
    }
    return notify(state, NULL, 0);
}

int passed_barrier(void)
{
    int r = sd_notify_barrier(0, BARRIER_WAIT);

    return r < 0 ? r : r == 0 ? -ENOTCONN : 0;
}
