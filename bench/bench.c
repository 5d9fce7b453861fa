/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The benchmarks: arguments, and the groups in turn. See HACKING.md. */
#include "bench.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static const struct {
    const char *name;
    void (*run)(void);
} groups[] = {
    { "hold", bench_hold },
    { "relay", bench_relay },
    { "guest", bench_guest },
    { "memory", bench_memory },
    { "idle", bench_idle },
    { "store", bench_store },
    { "systemd", bench_systemd },
};

#define N_GROUPS (sizeof(groups) / sizeof(groups[0]))

static bool is_chosen(const char *name, char **chosen)
{
    for (char **c = chosen; *c; c++)
        if (strcmp(*c, name) == 0)
            return true;
    return !*chosen;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "svg", required_argument, NULL, 's' },
        { NULL, 0, NULL, 0 },
    };
    const char *svg = NULL;
    struct rlimit limit;
    double begun = now();
    int c;

    while ((c = getopt_long(argc, argv, "s:", options, NULL)) != -1) {
        if (c != 's') {
            fprintf(stderr, "Usage: bench [--svg=FILE] [GROUP...]\nGroups:");
            for (size_t i = 0; i < N_GROUPS; i++)
                fprintf(stderr, " %s", groups[i].name);
            fprintf(stderr, "\n");
            return 2;
        }
        svg = optarg;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    for (size_t i = 0; i < N_GROUPS; i++)
        if (is_chosen(groups[i].name, argv + optind)) {
            fprintf(stderr, "bench: %s\n", groups[i].name);
            groups[i].run();
        }
    table_print();
    printf("\n%.0f seconds\n", now() - begun);
    if (svg && *svg)
        table_draw(svg);
    return 0;
}
