/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Text for people: what the broker says made safe for a terminal, times and users by name, and numbers read
 * from the command line. Functions that return char * return memory of the caller's, NULL where there is
 * none.
 */
#ifndef CTL_TEXT_H
#define CTL_TEXT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * A copy in which everything that could drive a terminal is written as \xNN: the control characters, C1's
 * too, marks that turn the direction of writing, and bytes that are no text in the locale.
 */
char *text_escape(const char *text);

/* "2026-11-21 02:33:11": local time. usec is since the epoch. */
char *text_time(int64_t usec);

/* "Sat 2026-11-21 02:33:11 UTC; 5min ago", as systemctl has it. */
char *text_time_long(int64_t usec);

/* The user's name, the number where there is none. */
char *text_user(uid_t uid);

/* A whole decimal number from min to max. False where text is anything else. */
bool text_number(const char *text, int64_t min, int64_t max, int64_t *ret_number);

#endif
