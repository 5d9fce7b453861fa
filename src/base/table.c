/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of descriptors: see table.h. */
#include "base/table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/resource.h>

static struct {
    struct rlimit limit; /* with the last places closed */
    int first;           /* of them */
    bool used;           /* one was seen in use */
    bool open;
} table = { .first = INT32_MAX };

int table_start(void)
{
    struct rlimit limit;
    rlim_t kept;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    if (limit.rlim_max > INT32_MAX)
        limit.rlim_max = INT32_MAX;
    kept = limit.rlim_max < TABLE_FAIR ? 0 : TABLE_KEPT;
    limit.rlim_cur = limit.rlim_max - kept;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    table.limit = limit;
    table.first = (int)limit.rlim_cur;
    return 0;
}

bool table_has_room(void)
{
    int size = (int)table.limit.rlim_max, n = 0;

    if (!table.used)
        return true;
    for (int fd = table.first; fd < size; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    table.used = n > 0;
    return n <= (size - table.first) / 2;
}

static void set_open(bool open)
{
    struct rlimit limit = table.limit;

    if (open == table.open || limit.rlim_max == 0)
        return;
    if (open)
        limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
        table.open = open;
}

void table_open(void)
{
    set_open(true);
}

void table_close(void)
{
    set_open(false);
}

bool table_is_last(int fd)
{
    bool last = fd >= table.first;

    table.used |= last;
    return last;
}
