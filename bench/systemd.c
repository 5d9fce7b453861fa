/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A store of 8,000 descriptors beside systemd's own, both under a systemd that tests/test-systemd boots: see
 * inside-systemd.c, which does all that is in there and prints a name and a figure a line.
 */
#include "bench.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

/* The figures by their names. */
struct figure {
    const char *name;
    struct series *series;
};

static void take(const char *line, const struct figure *figures, size_t n)
{
    char name[32];
    double value;

    if (sscanf(line, "%31s %lf", name, &value) == 2)
        for (size_t i = 0; i < n; i++)
            if (strcmp(figures[i].name, name) == 0) {
                series_add(figures[i].series, value);
                return;
            }
    /* Why it fails */
    fprintf(stderr, "bench: %s", line);
}

void bench_systemd(void)
{
    struct row *rows[] = {
        row_new("8,000 under systemd, Hold each", "systemd's store, one a message", "ms", RATIO_AT_MOST, 1),
        row_new("8,000 there, HoldMany of 200", "the same, 253 a message", "ms", RATIO_AT_MOST, 1),
        row_new("8,000 back there after SIGKILL", "the same, by LISTEN_FDS", "ms", RATIO_AT_MOST, 1),
    };
    struct series restore = { 0 };
    const struct figure figures[] = {
        { "hold", &rows[0]->ours },
        { "store", &rows[0]->other },
        { "hold-many", &rows[1]->ours },
        { "store-many", &rows[1]->other },
        { "restored", &rows[2]->ours },
        { "restore", &restore },
        { "back", &rows[2]->other },
    };
    const char *source = getenv("top_srcdir"), *build = getenv("top_builddir");
    char command[1024], line[256], why[80] = "see above";
    FILE *output;
    int status;

    if (!source || !build) {
        strcpy(why, "run it by make bench");
        status = 77;
    } else {
        (void)snprintf(command, sizeof(command),
            "'%s/tests/test-systemd' --run '%s/bench/inside-systemd' 2>&1", source, build);
        output = popen(command, "re");
        if (!output)
            die("cannot run %s: %m", command);
        while (fgets(line, sizeof(line), output))
            if (sscanf(line, "SKIP: %79[^\n]", why) != 1)
                take(line, figures, sizeof(figures) / sizeof(figures[0]));
        status = pclose(output);
        status = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    }
    if (status != 0 && status != 77)
        die("%s failed", command);
    for (size_t i = 0; status == 77 && i < sizeof(rows) / sizeof(rows[0]); i++)
        row_skip(rows[i], "%s", i ? "the same" : why);
    if (status == 0)
        row_note(
            rows[2], "100 ms of both are RestartSec=, %.0f ms of ours the restore", series_at(&restore, 0.5));
    series_clear(&restore);
}
