/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables from the contract's objects: see table.h. */
#include "ctl/table.h"
#include "base/cleanup.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

DEFINE_CLEANUP(struct libscols_table *, scols_unref_table)

/* How many columns a command can have. */
#define COLUMNS_MAX 32

struct selection {
    const struct table_column *columns[COLUMNS_MAX];
    size_t n;
};

char *table_string(const json_t *member)
{
    const char *text = json_string_value(member);

    return strdup(text && *text ? text : "-");
}

char *table_integer(const json_t *member)
{
    char *text;

    return asprintf(&text, "%" JSON_INTEGER_FORMAT, json_integer_value(member)) < 0 ? NULL : text;
}

char *table_boolean(const json_t *member)
{
    return strdup(json_is_true(member) ? "yes" : "no");
}

char *table_strings(const json_t *member)
{
    return table_join(member, table_string);
}

char *table_count(const json_t *member)
{
    char *text;

    return asprintf(&text, "%zu", json_array_size(member)) < 0 ? NULL : text;
}

char *table_time(const json_t *member)
{
    return text_time(json_integer_value(member));
}

char *table_user(const json_t *member)
{
    return text_user((uid_t)json_integer_value(member));
}

char *table_join(const json_t *array, char *(*text)(const json_t *element))
{
    CLEANUP(freep) char *joined = NULL;
    const json_t *element;
    size_t size = 0, index;
    FILE *stream;
    bool good = true;

    if (json_array_size(array) == 0)
        return strdup("-");
    stream = open_memstream(&joined, &size);
    if (!stream)
        return NULL;
    json_array_foreach ((json_t *)array, index, element) {
        CLEANUP(freep) char *one = text(element);

        good = good && one && fprintf(stream, "%s%s", index > 0 ? "," : "", one) >= 0;
    }
    if (fclose(stream) != 0 || !good)
        return NULL;
    return TAKE(joined);
}

char *table_labels(const json_t *member)
{
    CLEANUP(freep) char *joined = NULL;
    const char *key, *separator = "";
    const json_t *value;
    bool good = true;
    size_t size = 0;
    FILE *stream;

    if (json_object_size(member) == 0)
        return table_string(NULL);
    stream = open_memstream(&joined, &size);
    if (!stream)
        return NULL;
    json_object_foreach ((json_t *)member, key, value) {
        const char *text = json_string_value(value);

        good = good && fprintf(stream, "%s%s=%s", separator, key, text ? text : "") >= 0;
        separator = ",";
    }
    if (fclose(stream) != 0 || !good)
        return NULL;
    return TAKE(joined);
}

static const struct table_column *column_find(
    const struct table_column *columns, const char *name, size_t length)
{
    for (; columns->name; columns++)
        if (strlen(columns->name) == length && strncasecmp(columns->name, name, length) == 0)
            return columns;
    return NULL;
}

/* Adds the columns of a list with commas. */
static int add_columns(const struct ctl_args *args, const char *list, struct selection *selection)
{
    for (;;) {
        size_t length = strcspn(list, ",");
        const struct table_column *column = column_find(args->command->columns, list, length);

        if (!column)
            return ctl_usage(args, "--output: there is no column '%.*s'", (int)length, list);
        if (selection->n == COLUMNS_MAX)
            return ctl_usage(args, "--output: more than %d columns", COLUMNS_MAX);
        selection->columns[selection->n++] = column;
        if (list[length] == '\0')
            return CTL_OK;
        list += length + 1;
    }
}

/* What --output asks for. usual: a list with commas; NULL: the columns that are not extra. */
static int select_columns(const struct ctl_args *args, const char *usual, struct selection *selection)
{
    const char *output = ctl_option(args, "output");

    selection->n = 0;
    if (output && *output != '+')
        return add_columns(args, output, selection);
    if (usual) {
        int r = add_columns(args, usual, selection);

        if (r != CTL_OK)
            return r;
    } else {
        for (const struct table_column *c = args->command->columns; c->name; c++)
            if (!c->extra)
                selection->columns[selection->n++] = c;
    }
    return output ? add_columns(args, output + 1, selection) : CTL_OK;
}

int table_check(const struct ctl_args *args)
{
    struct selection selection;

    return select_columns(args, NULL, &selection);
}

/* The member that a path of at most two names leads to; NULL where it is absent or null. */
static const json_t *member_find(const json_t *object, const char *path)
{
    const char *dot = strchr(path, '.');
    const json_t *member;

    if (dot)
        object = json_object_getn(object, path, (size_t)(dot - path));
    member = json_object_get(object, dot ? dot + 1 : path);
    return json_is_null(member) ? NULL : member;
}

/* libsmartcols asks these two how to break a cell: how wide its widest line is, and where the next begins. */
static size_t item_size(const struct libscols_column *column, const char *data, void *userdata)
{
    size_t most = 0;

    (void)column;
    (void)userdata;
    while (data && *data) {
        size_t length = strcspn(data, ",");

        most = length > most ? length : most;
        data += length + (data[length] == ',');
    }
    return most;
}

static char *item_next(const struct libscols_column *column, char *data, void *userdata)
{
    char *comma = data ? strchr(data, ',') : NULL;

    (void)column;
    (void)userdata;
    if (!comma)
        return NULL;
    *comma = '\0';
    return comma + 1;
}

static bool add_column(
    struct libscols_table *table, const struct table_column *column, bool tree, bool terminal)
{
    struct libscols_column *added;
    int flags = 0;

    if (tree)
        flags = SCOLS_FL_TREE;
    else if (column->layout == TABLE_RIGHT)
        flags = SCOLS_FL_RIGHT;
    else if (column->layout != TABLE_LEFT && terminal)
        flags = SCOLS_FL_WRAP;
    added = scols_table_new_column(table, column->name, 0, flags);
    if (!added)
        return false;
    return column->layout != TABLE_ITEMS || !terminal ||
           scols_column_set_wrapfunc(added, item_size, item_next, NULL) == 0;
}

/* Adds a line for an object, below parent unless that is NULL. NULL: no memory. */
static struct libscols_line *add_line(struct libscols_table *table, const struct selection *selection,
    const json_t *object, struct libscols_line *parent)
{
    struct libscols_line *line = scols_table_new_line(table, parent);

    for (size_t i = 0; line && i < selection->n; i++) {
        const struct table_column *column = selection->columns[i];
        const json_t *member = member_find(object, column->member);
        CLEANUP(freep) char *text = member ? column->text(member) : strdup("-");
        CLEANUP(freep) char *escaped = text ? text_escape(text) : NULL;

        if (!escaped || scols_line_refer_data(line, i, escaped) < 0)
            return NULL;
        (void)TAKE(escaped); /* the line owns it */
    }
    return line;
}

static bool fill(struct libscols_table *table, const struct ctl_args *args, const struct selection *selection,
    json_t *objects, const char *branches)
{
    bool terminal = isatty(STDOUT_FILENO), planted = false;
    json_t *object, *branch;
    size_t index, below;

    for (size_t i = 0; i < selection->n; i++) {
        const struct table_column *column = selection->columns[i];
        bool tree = branches && !planted && column == args->command->columns;

        planted |= tree;
        if (!add_column(table, column, tree, terminal))
            return false;
    }
    json_array_foreach (objects, index, object) {
        struct libscols_line *line = add_line(table, selection, object, NULL);

        if (!line)
            return false;
        json_array_foreach (branches ? json_object_get(object, branches) : NULL, below, branch)
            if (!add_line(table, selection, branch, line))
                return false;
    }
    return true;
}

static int print(
    struct ctl *ctl, const struct ctl_args *args, json_t *objects, const char *branches, const char *usual)
{
    CLEANUP(scols_unref_tablep) struct libscols_table *table = NULL;
    struct selection selection;
    int r;

    r = select_columns(args, usual, &selection);
    if (r != CTL_OK)
        return r;
    table = scols_new_table();
    /* Cells are escaped already, by the rule that messages follow too. */
    if (!table || scols_table_enable_noencoding(table, true) < 0 ||
        scols_table_enable_noheadings(table, ctl->noheadings) < 0 ||
        !fill(table, args, &selection, objects, branches) || scols_print_table(table) < 0)
        return ctl_oom();
    return CTL_OK;
}

int table_print(struct ctl *ctl, const struct ctl_args *args, const char *member, json_t *objects)
{
    if (ctl->json)
        return ctl_print_json(json_pack("{s:O}", member, objects));
    return print(ctl, args, objects, NULL, NULL);
}

int table_print_tree(
    struct ctl *ctl, const struct ctl_args *args, json_t *objects, const char *branches, const char *usual)
{
    return print(ctl, args, objects, branches, usual);
}
