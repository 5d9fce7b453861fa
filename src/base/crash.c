/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Crash points: see crash.h. */
#include "base/crash.h"

#ifdef EVLINK_CRASH_POINTS

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Counts the number in the file down by one. Returns whether that was the last: then, and not before, the
 * file is empty. */
static bool is_its_turn(const char *path)
{
    FILE *file = fopen(path, "r+e");
    long n = 0;

    if (!file)
        return false;
    if (fscanf(file, "%ld", &n) == 1 && n == 1) {
        (void)!ftruncate(fileno(file), 0);
    } else if (n > 1) {
        rewind(file);
        (void)fprintf(file, "%-8ld", n - 1);
    }
    (void)fclose(file);
    return n == 1;
}

void crash_point(const char *where)
{
    const char *counter = getenv("EVLINK_CRASH_FILE"), *log = getenv("EVLINK_CRASH_LOG");
    FILE *file;

    if (!counter || !is_its_turn(counter))
        return;
    file = log ? fopen(log, "ae") : NULL;
    if (file) {
        (void)fprintf(file, "%s\n", where);
        (void)fclose(file);
    }
    (void)kill(getpid(), SIGKILL);
}

#else
typedef int crash_point_is_nothing; /* ISO C has no empty files */
#endif
