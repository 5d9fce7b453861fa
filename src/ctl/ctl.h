/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What evlinkctl's commands share. A command is a file, cmd-NAME.c, that defines a struct ctl_command, and a
 * row in CTL_COMMANDS; its help and the parsing of its options follow from what it says of itself there.
 *
 * Kept true by all: a command prints its results on stdout, one JSON document with --json, and everything
 * else on stderr; nothing that came from the broker reaches a terminal with control characters in it; and the
 * exit status says who is to blame (enum ctl_exit).
 *
 * Not for: what a name or an endpoint may look like. The broker judges that, in one place.
 */
#ifndef CTL_CTL_H
#define CTL_CTL_H

#include "lib/evlink.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ctl_exit {
    CTL_OK = 0,
    CTL_FAILED = 1,      /* the broker refused, or something here went wrong */
    CTL_USAGE = 2,       /* the command line makes no sense */
    CTL_UNREACHABLE = 3, /* nobody listens, or no answer came */
    CTL_NOT_RUN = 126,   /* a COMMAND that was found and cannot be run, as env(1) has it */
    CTL_NOT_FOUND = 127, /* a COMMAND that was not found */
};

/* Every command, in the order of the help. Each defines command_NAME. */
#define CTL_COMMANDS(row)                                                                                    \
    row(status) row(list) row(links) row(show) row(graph) row(agents) row(monitor) row(hold) row(claim)      \
        row(signal) row(renew) row(release) row(link) row(unlink) row(park) row(resume) row(move) row(leave) \
            row(export) row(offer) row(withdraw) row(delegate) row(revoke) row(config) row(version)          \
                row(help)

/* What the options of every command say, and the connection. */
struct ctl {
    const char *socket;
    int64_t timeout; /* seconds; 0: for ever */
    bool json;
    bool noheadings;
    struct evlink_client *client; /* NULL until ctl_open() */
};

struct ctl_option {
    const char *name;     /* the long form */
    char letter;          /* the short form; 0: none */
    const char *argument; /* as in the help; NULL: it takes none */
    const char *help;
};

#define CTL_OPTIONS_END     \
    {                       \
        NULL, 0, NULL, NULL \
    }

struct ctl_args;
struct table_column;

struct ctl_command {
    const char *name;
    const char *arguments;              /* as in the help; "" where there are none */
    const char *help;                   /* one line */
    const char *more;                   /* more lines for its own help, each with its newline; NULL: none */
    const struct ctl_option *options;   /* up to CTL_OPTIONS_END; NULL: none of its own */
    const struct table_column *columns; /* what -o chooses from; NULL: it prints no table */
    size_t min, max;                    /* how many arguments it takes */
    bool takes_command;                 /* COMMAND [ARGUMENT...] may follow after -- */
    /* Returns an exit status, after its message. */
    int (*run)(struct ctl *ctl, const struct ctl_args *args);
};

#define CTL_DECLARE(name) extern const struct ctl_command command_##name;
CTL_COMMANDS(CTL_DECLARE)
#undef CTL_DECLARE

/* One option as it was given: of command, or of all commands. */
struct ctl_given {
    const struct ctl_option *option;
    const char *value; /* NULL where it takes none */
};

/* A command line taken apart. All strings are argv's. */
struct ctl_args {
    const struct ctl_command *command; /* NULL: none was named */
    char **names;                      /* the arguments that are no options, NULL-terminated */
    size_t n_names;
    char **exec; /* COMMAND and its arguments, NULL-terminated; NULL: none was given */
    struct ctl_given *given;
    size_t n_given;
};

/*
 * Takes argv apart and applies what is for every command to ctl. Returns true where args->command is to be
 * run. Otherwise the line is dealt with (--help, --version, a usage error) and *ret_status is how to exit.
 * args: to be cleared with ctl_args_clear() either way.
 */
bool ctl_args_parse(struct ctl *ctl, int argc, char **argv, struct ctl_args *args, int *ret_status);
void ctl_args_clear(struct ctl_args *args);

/* The last value of an option that takes one, NULL where it was not given. */
const char *ctl_option(const struct ctl_args *args, const char *name);

/* Whether an option was given. */
bool ctl_flag(const struct ctl_args *args, const char *name);

/* How often an option was given, and its index-th value: for those that add up. */
size_t ctl_option_count(const struct ctl_args *args, const char *name);
const char *ctl_option_at(const struct ctl_args *args, const char *name, size_t index);

/*
 * --lifetime and --lease, which several commands have. *ret_seconds is 0 without a lease; *ret_lifetime is
 * NULL where nothing was said, and one of allowed (NULL-terminated) otherwise. CTL_OK or CTL_USAGE.
 */
int ctl_lifetime(
    const struct ctl_args *args, const char *const *allowed, const char **ret_lifetime, int64_t *ret_seconds);

/* An option whose value is a number of seconds of at least 1; it must have been given. CTL_OK or CTL_USAGE.
 */
int ctl_seconds(const struct ctl_args *args, const char *name, int64_t *ret_seconds);

/* The options of every command. */
extern const struct ctl_option ctl_common_options[];

/* Prints the help of one command, or with NULL of all. */
void ctl_help(const struct ctl_command *command);

/* Every command, up to NULL. */
extern const struct ctl_command *const ctl_commands[];

/* The command of that name, or NULL. */
const struct ctl_command *ctl_command_find(const char *name);

/* "evlinkctl: ", the message with control characters escaped, and a newline, on stderr. */
void ctl_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, and where to find help. Returns CTL_USAGE. */
int ctl_usage(const struct ctl_args *args, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Tells where to find help. Returns CTL_USAGE. */
int ctl_hint(const struct ctl_args *args);

/* Says that there is no memory. Returns CTL_FAILED. */
int ctl_oom(void);

/* ---- The broker ---- */

#define CTL_METHOD(name) "io.evlink.Broker." name

/* Connects unless that was done. CTL_OK or CTL_UNREACHABLE. */
int ctl_open(struct ctl *ctl);

/* Closes the connection. */
void ctl_close(struct ctl *ctl);

/* What a result of libevlink's means: 0 is CTL_OK, anything else is told on stderr. */
int ctl_result(struct ctl *ctl, int r);

/*
 * Calls a method. parameters: consumed; NULL means that there was no memory for them. fds: borrowed. On
 * CTL_OK *ret_reply is the reply's parameters, a new reference.
 */
int ctl_call(struct ctl *ctl, const char *method, json_t *parameters, const int *fds, size_t n_fds,
    json_t **ret_reply);

/* Calls a method that answers one object a reply, each the member of that name, and appends them to objects.
 */
int ctl_list(struct ctl *ctl, const char *method, json_t *parameters, const char *member, json_t *objects);

/*
 * Calls function for each of the arguments, going on after a refusal. With --json an empty object tells that
 * it is done.
 */
int ctl_each(struct ctl *ctl, const struct ctl_args *args,
    int (*function)(struct evlink_client *client, const char *name));

/*
 * Calls method, which answers with links, for the links that are named, going on after a refusal, or for
 * those of --group. With --json the links are printed.
 */
int ctl_each_link(struct ctl *ctl, const struct ctl_args *args, const char *method);

/* Prints a document, consumed; NULL means that there was no memory for it. */
int ctl_print_json(json_t *document);

/* The same on one line: for what comes bit by bit. */
int ctl_print_json_line(json_t *document);

/* ---- Commands that run commands ---- */

/* Becomes command. Returns only where that fails: CTL_NOT_RUN or CTL_NOT_FOUND, after the message. */
int run_exec(char *const *command);

/* Runs command and waits. Returns its exit status, 128 and the signal's number where one ended it. */
int run_wait(char *const *command);

#endif
