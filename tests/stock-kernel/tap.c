/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the rig saw, in TAP. */
#include "rig.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned n_checks, n_failed, n_skipped;

__attribute__((format(printf, 2, 3))) bool check(bool ok, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    printf("%sok %u - ", ok ? "" : "not ", ++n_checks);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
    fflush(stdout);
    n_failed += !ok;
    return ok;
}

void skip(const char *what, const char *why)
{
    printf("ok %u - %s # SKIP %s\n", ++n_checks, what, why);
    fflush(stdout);
    n_skipped++;
}

void need(bool ok, const char *what)
{
    if (ok)
        return;
    check(false, "%s: %s", what, strerror(errno));
    printf("Bail out!\n");
    exit(finish());
}

int finish(void)
{
    printf("1..%u\n%u passed, %u failed, %u skipped\n", n_checks, n_checks - n_failed - n_skipped, n_failed,
        n_skipped);
    fflush(stdout);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

void silence(void)
{
    (void)usleep(SILENCE_MS * 1000);
}

uint64_t count_host(void)
{
    uint64_t sum = 0, n;
    char line[256];
    FILE *file = fopen("/proc/interrupts", "re");

    while (file && fgets(line, sizeof(line), file))
        if (strstr(line, "vfio-") && sscanf(line, " %*u: %" SCNu64, &n) == 1)
            sum += n;
    if (file)
        fclose(file);
    return sum;
}

struct count count_begin(void)
{
    return (struct count){ .host = count_host() };
}

void count_one(struct count *count, uint64_t n)
{
    count->raised++;
    count->arrived += n > 0;
    count->more += n > 1 ? (unsigned)n - 1 : 0;
}

bool check_count(const struct count *count, const char *what)
{
    uint64_t host = count_host() - count->host;
    bool ok = count->arrived == count->raised && (count->more == 0 || count->raised + count->more <= host);

    if (count->more > 0)
        printf("# %u came twice, and the host's kernel had %" PRIu64 "\n", count->more, host);
    return check(ok, "%s: raised %u, arrived %u", what, count->raised, count->arrived);
}
