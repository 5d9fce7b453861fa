/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One line a message: see log.h. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static struct {
    const char *program;
    enum log_level most;
    log_sink sink;
} state = { .program = "evlink", .most = LOG_LEVEL_INFO };

void log_init(const char *program, enum log_level most, log_sink sink)
{
    state.program = program;
    state.most = most;
    state.sink = sink;
}

int log_shows(enum log_level level)
{
    return level <= state.most;
}

void log_msg(enum log_level level, const char *format, ...)
{
    int saved = errno;
    char line[1024];
    va_list arguments;

    if (level > state.most)
        return;
    va_start(arguments, format);
    (void)vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    /* In UTF-8, too, a terminal may take U+0080 to U+009f for control characters: they are 0xc2 and that. */
    for (unsigned char *c = (unsigned char *)line; *c; c++)
        if (*c < 0x20 || *c == 0x7f)
            *c = '?';
        else if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
            c[0] = c[1] = '?';
    if (state.sink)
        state.sink(level, line);
    else
        fprintf(stderr, "%s: %s\n", state.program, line);
    errno = saved;
}
