/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One line a message, for the daemon and the programs; the library logs nothing. Control characters in a
 * message are replaced, so that no peer can forge lines or drive a terminal.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

/* The levels of syslog(3). */
enum log_level {
    LOG_LEVEL_ERROR = 3,
    LOG_LEVEL_WARNING = 4,
    LOG_LEVEL_NOTICE = 5,
    LOG_LEVEL_INFO = 6,
    LOG_LEVEL_DEBUG = 7,
};

/* Where lines go instead of stderr, and what is left out. line has no newline and is the sink's to read only.
 */
typedef void (*log_sink)(enum log_level level, const char *line);

void log_init(const char *program, enum log_level most, log_sink sink);

/* Whether messages of that level are not left out. */
int log_shows(enum log_level level);

/* errno is kept. */
void log_msg(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_msg(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_msg(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_msg(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_msg(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
