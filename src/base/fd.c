/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors and owned sets of them: see fd.h. This is the one place that closes what came from elsewhere.
 */
#include "base/fd.h"
#include "base/discard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fd_close(int fd)
{
    if (fd >= 0) {
        int saved = errno;

        /* Linux frees the number whatever close() says, EINTR included. */
        (void)close(fd);
        errno = saved;
    }
    return -1;
}

int fd_dup(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    return copy < 0 ? -errno : copy;
}

void fd_fill_standard(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

int fdset_adopt(struct fdset *set, const int *fds, size_t n)
{
    if (n == 0)
        return 0;
    set->fds = malloc(n * sizeof(*fds));
    if (!set->fds) {
        for (size_t i = 0; i < n; i++)
            fd_close(fds[i]);
        return -ENOMEM;
    }
    memcpy(set->fds, fds, n * sizeof(*fds));
    set->n = n;
    return 0;
}

int fdset_dup(struct fdset *set, const int *fds, size_t n)
{
    if (n == 0)
        return 0;
    set->fds = malloc(n * sizeof(*fds));
    if (!set->fds)
        return -ENOMEM;
    for (set->n = 0; set->n < n; set->n++) {
        int copy = fd_dup(fds[set->n]);

        if (copy < 0) {
            fdset_clear(set);
            return copy;
        }
        set->fds[set->n] = copy;
    }
    return 0;
}

int fdset_get(const struct fdset *set, size_t index)
{
    return index < set->n ? set->fds[index] : -1;
}

int fdset_steal(struct fdset *set, size_t index)
{
    int fd = fdset_get(set, index);

    if (fd >= 0)
        set->fds[index] = -1;
    return fd;
}

struct fdset fdset_take(struct fdset *set)
{
    struct fdset taken = *set;

    *set = FDSET_EMPTY;
    return taken;
}

void fdset_clear(struct fdset *set)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->foreign)
            fd_discard(set->fds[i]);
        else
            fd_close(set->fds[i]);
    free(set->fds);
    *set = FDSET_EMPTY;
}
