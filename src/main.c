/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* evlinkd: arguments, and nothing else. */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "service/journal.h"
#include "service/server.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* EVLINK_DEFAULT_SOCKET of evlink.h: where clients look. */
#define DEFAULT_SOCKET "/run/evlinkd/io.evlink.Broker"
#define DEFAULT_TIMEOUT "5"

/* More would not be a time-out any more. */
#define TIMEOUT_MAX 3600.0

static void usage(FILE *to)
{
    fprintf(to, "Usage: evlinkd [OPTION]...\n"
                "Holds eventfds and brokers links between them, KVM, VFIO and vhost.\n"
                "\n"
                "  -s, --socket=PATH            listen at PATH (" DEFAULT_SOCKET ")\n"
                "  -t, --agent-timeout=SECONDS  how long an agent may take to answer (" DEFAULT_TIMEOUT ")\n"
                "  -d, --debug                  log every change\n"
                "  -h, --help                   print this and exit\n"
                "  -V, --version                print the version and exit\n"
                "\n"
                "It stays in the foreground, and stops on SIGTERM. See evlinkd(8).\n");
}

/* Seconds, with a fraction, as microseconds; 0: it is none. */
static int64_t parse_timeout(const char *text)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end || !(seconds >= 0.001 && seconds <= TIMEOUT_MAX))
        return 0;
    return (int64_t)(seconds * (double)USEC_PER_SEC);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "socket", required_argument, NULL, 's' },
        { "agent-timeout", required_argument, NULL, 't' },
        { "debug", no_argument, NULL, 'd' },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        { NULL, 0, NULL, 0 },
    };
    struct server_options server_options = {
        .path = DEFAULT_SOCKET,
        .agent_timeout = parse_timeout(DEFAULT_TIMEOUT),
    };
    enum log_level most = LOG_LEVEL_INFO;
    struct server *server;
    int c, r;

    fd_fill_standard();
    while ((c = getopt_long(argc, argv, "s:t:dhV", options, NULL)) != -1)
        switch (c) {
        case 's':
            server_options.path = optarg;
            break;
        case 't':
            server_options.agent_timeout = parse_timeout(optarg);
            if (server_options.agent_timeout == 0) {
                fprintf(stderr, "evlinkd: --agent-timeout=%s is not a number of seconds from 0.001 to 3600\n",
                    optarg);
                return 2;
            }
            break;
        case 'd':
            most = LOG_LEVEL_DEBUG;
            break;
        case 'h':
            usage(stdout);
            return 0;
        case 'V':
            printf("evlinkd %s\n", PACKAGE_VERSION);
            return 0;
        default:
            fprintf(stderr, "Try 'evlinkd --help'.\n");
            return 2;
        }
    if (optind < argc) {
        fprintf(stderr, "evlinkd: takes no argument such as %s\nTry 'evlinkd --help'.\n", argv[optind]);
        return 2;
    }
    journal_open("evlinkd", most);
    if (server_new(&server_options, &server) < 0)
        return 1;
    r = server_run(server);
    server_free(server);
    return r < 0 ? 1 : 0;
}
