/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command line: evlinkctl [OPTIONS] COMMAND [OPTIONS] [ARGUMENTS] [-- COMMAND...]. Both getopt_long()'s
 * tables and the help are made from the same rows, so that an option cannot be without its help.
 */
#include "base/cleanup.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

#include <assert.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

/* What evlink_client_set_timeout() can take. */
#define TIMEOUT_MAX (UINT32_MAX / 1000)

const struct ctl_option ctl_common_options[] = {
    { "socket", 0, "PATH", "where evlinkd listens" },
    { "timeout", 0, "SECONDS", "how long to wait for an answer; 0: for ever (25)" },
    { "json", 'J', NULL, "print JSON, as the interface has it" },
    { "noheadings", 'n', NULL, "leave the headings of tables out" },
    { "no-legend", 0, NULL, "the same" },
    { "help", 'h', NULL, "print this help" },
    { "version", 'V', NULL, "print the version of evlinkctl" },
    CTL_OPTIONS_END,
};

static const struct ctl_option no_options[] = { CTL_OPTIONS_END };

static size_t options_count(const struct ctl_option *options)
{
    size_t n = 0;

    while (options[n].name)
        n++;
    return n;
}

/* getopt_long()'s view of the options of all commands and of one. */
struct parser {
    const struct ctl_option **rows;
    size_t n;
    struct option *longs;
    char *shorts;
};

static void parser_clear(struct parser *parser)
{
    free(parser->rows);
    free(parser->longs);
    free(parser->shorts);
}

/* mode: '+' stops at the first argument that is no option, '-' hands out arguments as they come. */
static bool parser_init(struct parser *parser, const struct ctl_option *options, char mode)
{
    size_t n_common = options_count(ctl_common_options), n = n_common + options_count(options);
    char *letter;

    parser->rows = calloc(n, sizeof(*parser->rows));
    parser->longs = calloc(n + 1, sizeof(*parser->longs));
    parser->shorts = calloc(2 * n + 2, 1);
    if (!parser->rows || !parser->longs || !parser->shorts)
        return false;
    letter = parser->shorts;
    *letter++ = mode;
    for (parser->n = 0; parser->n < n; parser->n++) {
        size_t i = parser->n;
        const struct ctl_option *row = i < n_common ? &ctl_common_options[i] : &options[i - n_common];

        parser->rows[i] = row;
        parser->longs[i] = (struct option){ row->name, row->argument ? required_argument : no_argument, NULL,
            0x100 + (int)i };
        if (row->letter) {
            *letter++ = row->letter;
            if (row->argument)
                *letter++ = ':';
        }
    }
    return true;
}

/* The option that getopt_long() means, NULL for none. */
static const struct ctl_option *parser_row(const struct parser *parser, int result)
{
    if (result >= 0x100 && (size_t)result - 0x100 < parser->n)
        return parser->rows[result - 0x100];
    for (size_t i = 0; i < parser->n; i++)
        if (parser->rows[i]->letter != 0 && parser->rows[i]->letter == result)
            return parser->rows[i];
    return NULL;
}

/* Takes one option in. -1, or how to exit. */
static int take_option(
    struct ctl *ctl, struct ctl_args *args, const struct ctl_option *option, const char *value)
{
    if (option < ctl_common_options || option >= ctl_common_options + ARRAY_SIZE(ctl_common_options))
        args->given[args->n_given++] = (struct ctl_given){ option, value };
    else if (strcmp(option->name, "help") == 0)
        return ctl_help(args->command), CTL_OK;
    else if (strcmp(option->name, "version") == 0)
        return printf("evlinkctl %s\n", PACKAGE_VERSION), CTL_OK;
    else if (strcmp(option->name, "socket") == 0)
        ctl->socket = value;
    else if (strcmp(option->name, "json") == 0)
        ctl->json = true;
    else if (strcmp(option->name, "timeout") != 0)
        ctl->noheadings = true;
    else if (!text_number(value, 0, TIMEOUT_MAX, &ctl->timeout))
        return ctl_usage(args, "--timeout: '%s' is no whole number of seconds", value);
    return -1;
}

/* Runs getopt_long() over argv. -1, or how to exit. */
static int take_all(
    struct ctl *ctl, int argc, char **argv, const struct parser *parser, struct ctl_args *args)
{
    optind = 0; /* glibc: begin anew */
    for (;;) {
        int result = getopt_long(argc, argv, parser->shorts, parser->longs, NULL), r;
        const struct ctl_option *option;

        if (result == -1)
            return -1;
        if (result == '?')
            return ctl_hint(args); /* getopt_long() has said what is wrong */
        if (result == 1) {
            args->names[args->n_names++] = optarg;
            continue;
        }
        option = parser_row(parser, result);
        assert(option);
        r = take_option(ctl, args, option, optarg);
        if (r >= 0)
            return r;
    }
}

/* Whether text can be in JSON, which is all that the broker understands. */
static bool is_utf8(const char *text)
{
    json_auto_t *string = json_string(text);

    return string != NULL;
}

/* Checks what came against what the command takes. -1, or how to exit. */
static int check(const struct ctl_args *args)
{
    const struct ctl_command *command = args->command;

    if (args->n_names < command->min)
        return ctl_usage(args, "%s: an argument is missing: %s", command->name, command->arguments);
    if (args->n_names > command->max)
        return ctl_usage(args, "%s: '%s' is an argument too many", command->name, args->names[command->max]);
    for (size_t i = 0; i < args->n_names; i++)
        if (!is_utf8(args->names[i]))
            return ctl_usage(args, "%s: '%s' is no UTF-8 text", command->name, args->names[i]);
    for (size_t i = 0; i < args->n_given; i++)
        /* The name of a file may be anything, and stays here. */
        if (args->given[i].value && strcmp(args->given[i].option->name, "file") != 0 &&
            !is_utf8(args->given[i].value))
            return ctl_usage(
                args, "--%s: '%s' is no UTF-8 text", args->given[i].option->name, args->given[i].value);
    return -1;
}

bool ctl_args_parse(struct ctl *ctl, int argc, char **argv, struct ctl_args *args, int *ret_status)
{
    CLEANUP(parser_clear) struct parser common = { 0 };
    CLEANUP(parser_clear) struct parser own = { 0 };
    const struct ctl_command *command;
    static char name[] = "evlinkctl", title[64];
    int r;

    *args = (struct ctl_args){ .names = calloc((size_t)argc + 1, sizeof(char *)),
        .given = calloc((size_t)argc + 1, sizeof(struct ctl_given)) };
    if (!args->names || !args->given || !parser_init(&common, no_options, '+')) {
        *ret_status = ctl_oom();
        return false;
    }

    argv[0] = name; /* for what getopt_long() says */
    r = take_all(ctl, argc, argv, &common, args);
    if (r < 0 && optind >= argc)
        r = ctl_usage(args, "which command?");
    if (r >= 0) {
        *ret_status = r;
        return false;
    }

    argc -= optind;
    argv += optind;
    command = ctl_command_find(argv[0]);
    if (!command) {
        *ret_status = ctl_usage(args, "there is no command '%s'", argv[0]);
        return false;
    }
    args->command = command;
    (void)snprintf(title, sizeof(title), "evlinkctl: %s", command->name);
    argv[0] = title;
    if (!parser_init(&own, command->options ? command->options : no_options, '-')) {
        *ret_status = ctl_oom();
        return false;
    }
    r = take_all(ctl, argc, argv, &own, args);
    if (r < 0 && command->takes_command && strcmp(argv[optind - 1], "--") == 0) {
        if (optind == argc)
            r = ctl_usage(args, "%s: there is no COMMAND after --", command->name);
        args->exec = argv + optind;
    } else {
        while (optind < argc)
            args->names[args->n_names++] = argv[optind++];
    }
    if (r < 0)
        r = check(args);
    if (r >= 0)
        *ret_status = r;
    return r < 0;
}

void ctl_args_clear(struct ctl_args *args)
{
    free(args->names);
    free(args->given);
    *args = (struct ctl_args){ 0 };
}

/* Whether a command has that option: what it asks for and does not list would never be found. */
static bool is_listed(const struct ctl_args *args, const char *name)
{
    for (const struct ctl_option *o = args->command->options; o && o->name; o++)
        if (strcmp(o->name, name) == 0)
            return true;
    return false;
}

const char *ctl_option_at(const struct ctl_args *args, const char *name, size_t index)
{
    assert(is_listed(args, name));
    for (size_t i = 0; i < args->n_given; i++)
        if (strcmp(args->given[i].option->name, name) == 0 && index-- == 0)
            return args->given[i].value;
    return NULL;
}

size_t ctl_option_count(const struct ctl_args *args, const char *name)
{
    size_t n = 0;

    assert(is_listed(args, name));
    for (size_t i = 0; i < args->n_given; i++)
        n += strcmp(args->given[i].option->name, name) == 0;
    return n;
}

const char *ctl_option(const struct ctl_args *args, const char *name)
{
    size_t n = ctl_option_count(args, name);

    return n > 0 ? ctl_option_at(args, name, n - 1) : NULL;
}

bool ctl_flag(const struct ctl_args *args, const char *name)
{
    return ctl_option_count(args, name) > 0;
}

int ctl_seconds(const struct ctl_args *args, const char *name, int64_t *ret_seconds)
{
    const char *value = ctl_option(args, name);

    if (!value)
        return ctl_usage(args, "%s: say with --%s how many seconds", args->command->name, name);
    if (!text_number(value, 1, INT64_MAX, ret_seconds))
        return ctl_usage(args, "--%s: '%s' is no whole number of seconds from 1", name, value);
    return CTL_OK;
}

int ctl_lifetime(
    const struct ctl_args *args, const char *const *allowed, const char **ret_lifetime, int64_t *ret_seconds)
{
    const char *lifetime = ctl_option(args, "lifetime");
    bool leased = lifetime && strcmp(lifetime, "lease") == 0;

    if (lifetime) {
        while (*allowed && strcmp(*allowed, lifetime) != 0)
            allowed++;
        if (!*allowed)
            return ctl_usage(args, "--lifetime: there is no '%s' for %s: see LIFETIME in its help", lifetime,
                args->command->name);
        if (!leased && ctl_flag(args, "lease"))
            return ctl_usage(args, "--lease goes with --lifetime lease");
    }
    *ret_seconds = 0;
    if (leased || ctl_flag(args, "lease")) {
        int r = ctl_seconds(args, "lease", ret_seconds);

        if (r != CTL_OK)
            return r;
        lifetime = "lease";
    }
    *ret_lifetime = lifetime;
    return CTL_OK;
}
