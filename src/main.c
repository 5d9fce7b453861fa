/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* evlinkd: arguments, and nothing else. */
#include "base/cleanup.h"
#include "base/fd.h"
#include "service/config.h"
#include "service/journal.h"
#include "service/server.h"
#include "service/supervise.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

/* EVLINK_DEFAULT_SOCKET of evlink.h: where clients look. */
#define DEFAULT_SOCKET "/run/evlinkd/io.evlink.Broker"

static void usage(FILE *to)
{
    fprintf(to,
        "Usage: evlinkd [OPTION]...\n"
        "Holds eventfds and brokers links between them, KVM, VFIO and vhost.\n"
        "\n"
        "  -s, --socket=PATH            listen at PATH (" DEFAULT_SOCKET ")\n"
        "  -t, --agent-timeout=SECONDS  how long an agent may take to answer, instead of AgentTimeout=\n"
        "  -c, --config=FILE            read FILE and FILE.d/*.conf alone: see evlinkd.conf(5)\n"
        "      --check-config           say what is wrong with the configuration, and exit\n"
        "      --vault                  survive: keep all state in the service manager's descriptor store\n"
        "      --supervise              run another evlinkd, and start it again when it dies\n"
        "      --watchdog=SECONDS       how long that one may be silent; 0: for ever (10)\n"
        "  -d, --debug                  log every change\n"
        "  -h, --help                   print this and exit\n"
        "  -V, --version                print the version and exit\n"
        "\n"
        "It stays in the foreground, and stops on SIGTERM. See evlinkd(8).\n");
}

/* Reads the configuration and says whether it is good. */
static int check_config(const char *file)
{
    struct config *config;

    if (config_load(config_folders, file, &config) < 0) {
        fprintf(stderr, "The configuration is invalid.\n");
        return 1;
    }
    for (char **path = config->files; *path; path++)
        printf("%s\n", *path);
    if (config->files[0]) {
        puts("The configuration is valid.");
    } else {
        printf("There is no configuration in ");
        for (const char *const *folder = config_folders; *folder; folder++)
            printf("%s%s", *folder, folder[1] ? ", " : ": everything has its default.\n");
    }
    config_free(config);
    return 0;
}

/* Takes the option that getopt_long() has just read out of the arguments of a supervised evlinkd. */
static void take_option(char **argv)
{
    argv[optind - 1 - (optarg && optarg == argv[optind - 1])] = NULL;
    argv[optind - 1] = NULL;
}

/* Returns what is left of argc arguments, without those that are NULL. */
static char **squeeze(int argc, char **argv)
{
    int n = 0;

    for (int i = 0; i < argc; i++)
        if (argv[i])
            argv[n++] = argv[i];
    argv[n] = NULL;
    return argv;
}

int main(int argc, char **argv)
{
    enum { OPTION_SUPERVISE = 256, OPTION_WATCHDOG, OPTION_VAULT, OPTION_CHECK_CONFIG };
    static const struct option options[] = {
        { "socket", required_argument, NULL, 's' },
        { "agent-timeout", required_argument, NULL, 't' },
        { "config", required_argument, NULL, 'c' },
        { "check-config", no_argument, NULL, OPTION_CHECK_CONFIG },
        { "vault", no_argument, NULL, OPTION_VAULT },
        { "supervise", no_argument, NULL, OPTION_SUPERVISE },
        { "watchdog", required_argument, NULL, OPTION_WATCHDOG },
        { "debug", no_argument, NULL, 'd' },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        { NULL, 0, NULL, 0 },
    };
    struct server_options server_options = {
        .path = DEFAULT_SOCKET,
    };
    struct supervise_options supervise_options = { .program = "/proc/self/exe", SUPERVISE_DEFAULTS };
    char vault[] = "--vault";
    bool supervise = false, watchdog = false, check = false;
    enum log_level most = LOG_LEVEL_INFO;
    struct server *server;
    int c, r;

    fd_fill_standard();
    while ((c = getopt_long(argc, argv, "s:t:c:dhV", options, NULL)) != -1)
        switch (c) {
        case 's':
            server_options.path = optarg;
            break;
        case 't':
            server_options.agent_timeout = config_seconds(optarg);
            if (server_options.agent_timeout == 0) {
                fprintf(stderr, "evlinkd: --agent-timeout=%s is not a number of seconds from 0.001 to 3600\n",
                    optarg);
                return 2;
            }
            break;
        case 'c':
            server_options.config = optarg;
            break;
        case OPTION_CHECK_CONFIG:
            check = true;
            break;
        case OPTION_VAULT:
            server_options.vault = true;
            break;
        case OPTION_SUPERVISE:
            supervise = true;
            argv[optind - 1] = vault; /* which is what the other one runs with */
            break;
        case OPTION_WATCHDOG:
            watchdog = true;
            supervise_options.watchdog = config_seconds(optarg);
            if (supervise_options.watchdog == 0 && strcmp(optarg, "0") != 0) {
                fprintf(stderr,
                    "evlinkd: --watchdog=%s is not 0 and no number of seconds from 0.001 to 3600\n", optarg);
                return 2;
            }
            take_option(argv);
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
    if (watchdog && !supervise) {
        fprintf(stderr, "evlinkd: --watchdog goes with --supervise only\nTry 'evlinkd --help'.\n");
        return 2;
    }
    journal_open("evlinkd", most);
    if (check)
        return check_config(server_options.config);
    if (supervise) {
        supervise_options.argv = squeeze(argc, argv);
        r = supervise_run(&supervise_options);
        return r < 0 ? 1 : r;
    }
    /* Run through /proc/self/exe, it would be called exe. */
    (void)prctl(PR_SET_NAME, program_invocation_short_name);
    if (server_new(&server_options, &server) < 0)
        return 1;
    r = server_run(server);
    server_free(server);
    return r < 0 ? 1 : 0;
}
