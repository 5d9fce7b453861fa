/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Supervises its own arguments, for tests: supervise-run [--FIELD=MICROSECONDS]... PROGRAM [ARGUMENT]... */
#include "base/cleanup.h"
#include "base/log.h"
#include "service/supervise.h"

#include <getopt.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    static const struct option fields[] = {
        { "watchdog", required_argument, NULL, 0 },
        { "patience", required_argument, NULL, 0 },
        { "brief", required_argument, NULL, 0 },
        { "steady", required_argument, NULL, 0 },
        { "pause-min", required_argument, NULL, 0 },
        { "pause-max", required_argument, NULL, 0 },
        { NULL, 0, NULL, 0 },
    };
    struct supervise_options options = { SUPERVISE_DEFAULTS };
    int64_t *const values[] = { &options.watchdog, &options.patience, &options.brief, &options.steady,
        &options.pause_min, &options.pause_max };
    int index, r;

    while ((r = getopt_long(argc, argv, "+", fields, &index)) == 0 && (size_t)index < ARRAY_SIZE(values))
        *values[index] = strtoll(optarg, NULL, 10);
    if (r != -1 || optind == argc) {
        fprintf(stderr, "Usage: supervise-run [--FIELD=MICROSECONDS]... PROGRAM [ARGUMENT]...\n");
        return 2;
    }
    log_init("supervise-run", LOG_LEVEL_DEBUG, NULL);
    options.argv = argv + optind;
    options.program = argv[optind];
    r = supervise_run(&options);
    return r < 0 ? 1 : r;
}
