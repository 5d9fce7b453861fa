/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* help, and --help: made from what the commands say of themselves, so nothing can be missing. */
#include "base/cleanup.h"
#include "ctl/ctl.h"
#include "ctl/table.h"

#include <stdio.h>
#include <string.h>

/* Where the second column begins. */
#define SECOND 32

/* One line of two columns, or two lines where the first is too wide. */
static void print_row(const char *left, const char *right)
{
    int width = (int)strlen(left);

    if (width < SECOND - 3)
        printf("  %s%*s%s\n", left, SECOND - 2 - width, "", right);
    else
        printf("  %s\n%*s%s\n", left, SECOND, "", right);
}

static void print_options(const struct ctl_option *options)
{
    for (; options->name; options++) {
        char left[96], letter[8] = "    ";

        if (options->letter)
            (void)snprintf(letter, sizeof(letter), "-%c, ", options->letter);
        (void)snprintf(left, sizeof(left), "%s--%s%s%s", letter, options->name, options->argument ? " " : "",
            options->argument ? options->argument : "");
        print_row(left, options->help);
    }
}

static void print_all(void)
{
    puts("Usage: evlinkctl [OPTIONS] COMMAND [ARGUMENTS]\n");
    puts("Asks evlinkd, which holds eventfds and links KVM, VFIO and vhost by them.\n");
    puts("Commands:");
    for (size_t i = 0; ctl_commands[i]; i++) {
        char left[192];

        (void)snprintf(left, sizeof(left), "%s %s", ctl_commands[i]->name, ctl_commands[i]->arguments);
        print_row(left, ctl_commands[i]->help);
    }
    puts("\nOptions:");
    print_options(ctl_common_options);
    puts("\n'evlinkctl COMMAND --help' tells the options of a command; see also evlinkctl(1).");
}

void ctl_help(const struct ctl_command *command)
{
    if (!command) {
        print_all();
        return;
    }
    printf("Usage: evlinkctl [OPTIONS] %s%s%s\n\n%s.\n", command->name, *command->arguments ? " " : "",
        command->arguments, command->help);
    if (command->more)
        printf("\n%s", command->more);
    if (command->options) {
        puts("\nOptions:");
        print_options(command->options);
    }
    puts("\nOptions of every command:");
    print_options(ctl_common_options);
    if (command->columns) {
        puts("\nColumns (those with a * only where they are asked for):");
        for (const struct table_column *c = command->columns; c->name; c++) {
            char left[64];

            (void)snprintf(left, sizeof(left), "%s%s", c->name, c->extra ? " *" : "");
            print_row(left, c->help);
        }
    }
    puts("\nSee also evlinkctl(1).");
}

static int run(struct ctl *ctl, const struct ctl_args *args)
{
    const struct ctl_command *command = NULL;

    (void)ctl;
    if (args->n_names > 0) {
        command = ctl_command_find(args->names[0]);
        if (!command)
            return ctl_usage(args, "there is no command '%s'", args->names[0]);
    }
    ctl_help(command);
    return CTL_OK;
}

const struct ctl_command command_help = {
    .name = "help",
    .arguments = "[COMMAND]",
    .help = "Explain evlinkctl, or one of its commands",
    .max = 1,
    .run = run,
};
