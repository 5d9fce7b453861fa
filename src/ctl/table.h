/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tables as lsblk(8) prints them, from the contract's objects: each column says which member it shows and
 * how. libsmartcols lays them out; what could drive a terminal is escaped. A value that is absent is a "-",
 * so that a script may count on the number of words in a line.
 */
#ifndef CTL_TABLE_H
#define CTL_TABLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

struct ctl;
struct ctl_args;

/* How a cell is laid out. On what is no terminal, each is one line. */
enum table_layout {
    TABLE_LEFT,
    TABLE_RIGHT, /* numbers */
    TABLE_ITEMS, /* what stands between commas, each on a line of its own */
};

struct table_column {
    const char *name;
    const char *member; /* of the object; "owner.uid" for one in one */
    /* What a cell says about the member, which is not NULL: the caller's, NULL where there is no memory. */
    char *(*text)(const json_t *member);
    enum table_layout layout;
    bool extra; /* only where -o asks for it */
    const char *help;
};

#define TABLE_COLUMNS_END                         \
    {                                             \
        NULL, NULL, NULL, TABLE_LEFT, false, NULL \
    }

/* The option that goes with a table. */
#define TABLE_OPTION_OUTPUT                                                                 \
    {                                                                                       \
        "output", 'o', "COLUMNS", "print these columns, separated by commas; +COLUMNS adds" \
    }

/*
 * Prints objects, an array, with --json as {member: objects}, else as a table of the columns that --output
 * says. Returns an exit status.
 */
int table_print(struct ctl *ctl, const struct ctl_args *args, const char *member, json_t *objects);

/*
 * The same as a tree in the command's first column: below each object those that its member branches, an
 * array, has. usual: the columns unless --output says otherwise, separated by commas. No JSON.
 */
int table_print_tree(
    struct ctl *ctl, const struct ctl_args *args, json_t *objects, const char *branches, const char *usual);

/* Whether --output makes sense: to be asked before the broker is. CTL_OK or CTL_USAGE. */
int table_check(const struct ctl_args *args);

/* How cells say it. */
char *table_string(const json_t *member);  /* as it is */
char *table_integer(const json_t *member); /* in decimal */
char *table_boolean(const json_t *member); /* yes, no */
char *table_strings(const json_t *member); /* an array's, separated by commas */
char *table_count(const json_t *member);   /* how many an array has */
char *table_labels(const json_t *member);  /* an object's: key=value, separated by commas */
char *table_time(const json_t *member);
char *table_user(const json_t *member);

/* Joins what text() says about each element of an array, by commas; "-" for an empty one. */
char *table_join(const json_t *array, char *(*text)(const json_t *element));

/* The columns of an owner that only -o asks for. */
#define TABLE_COLUMNS_PEER                                                                             \
    { "UID", "owner.uid", table_integer, TABLE_RIGHT, true, "user id of who made it" },                \
        { "GID", "owner.gid", table_integer, TABLE_RIGHT, true, "group id of who made it" },           \
        { "PID", "owner.pid", table_integer, TABLE_RIGHT, true, "process id of who made it" },         \
        { "SCOPE", "owner.scope", table_string, TABLE_LEFT, true, "delegated scope it came through" }, \
    {                                                                                                  \
        "SECLABEL", "owner.label", table_string, TABLE_LEFT, true, "security label of who made it"     \
    }

#endif
