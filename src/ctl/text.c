/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text for people: see text.h. */
#include "ctl/text.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <wchar.h>
#include <wctype.h>

/* Whether a character may reach a terminal. Direction marks can make one name look like another. */
static bool is_plain(wchar_t c)
{
    return iswprint((wint_t)c) && !(c >= 0x80 && c < 0xa0) && c != 0x200e && c != 0x200f &&
           !(c >= 0x2028 && c <= 0x202e) && !(c >= 0x2066 && c <= 0x2069);
}

char *text_escape(const char *text)
{
    size_t left = strlen(text);
    mbstate_t state = { 0 };
    char *escaped, *to;

    escaped = to = malloc(4 * left + 1);
    if (!escaped)
        return NULL;
    while (left > 0) {
        wchar_t c;
        size_t n = mbrtowc(&c, text, left, &state);

        if (n > left || n == 0) { /* no character in this locale, or a cut off one */
            memset(&state, 0, sizeof(state));
            n = 1;
            c = (unsigned char)*text < 0x80 ? (wchar_t)*text : L'\0';
        }
        if (is_plain(c))
            to = mempcpy(to, text, n);
        else
            for (size_t i = 0; i < n; i++)
                to += sprintf(to, "\\x%02x", (unsigned char)text[i]);
        text += n;
        left -= n;
    }
    *to = '\0';
    return escaped;
}

static bool broken_down(int64_t usec, struct tm *ret_time)
{
    time_t seconds = (time_t)(usec / USEC_PER_SEC);

    return usec >= 0 && localtime_r(&seconds, ret_time);
}

char *text_time(int64_t usec)
{
    char text[64];
    struct tm time;

    if (!broken_down(usec, &time) || strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &time) == 0)
        return strdup("?");
    return strdup(text);
}

/* "5min", "1h 3min", "2 days": the two units that matter. */
static void span(int64_t usec, char *buffer, size_t size)
{
    static const struct {
        int64_t seconds;     /* of one unit */
        const char *unit[2]; /* one, several */
        int64_t next;        /* the unit that comes with it, in seconds; 0: none */
        const char *next_unit[2];
        int64_t alone; /* from this many units on it stands alone */
    } units[] = {
        { 31557600, { " year", " years" }, 2629800, { " month", " months" }, INT64_MAX },
        { 2629800, { " month", " months" }, 86400, { " day", " days" }, INT64_MAX },
        { 604800, { " week", " weeks" }, 86400, { " day", " days" }, INT64_MAX },
        { 86400, { " day", " days" }, 3600, { "h", "h" }, 2 },
        { 3600, { "h", "h" }, 60, { "min", "min" }, 6 },
        { 60, { "min", "min" }, 1, { "s", "s" }, 5 },
        { 1, { "s", "s" }, 0, { "", "" }, 0 },
    };
    int64_t seconds = usec / USEC_PER_SEC;

    for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
        int64_t n = seconds / units[i].seconds;
        int64_t rest = units[i].next > 0 ? seconds % units[i].seconds / units[i].next : 0;

        if (n == 0)
            continue;
        if (rest == 0 || n >= units[i].alone)
            (void)snprintf(buffer, size, "%" PRId64 "%s", n, units[i].unit[n > 1]);
        else
            (void)snprintf(buffer, size, "%" PRId64 "%s %" PRId64 "%s", n, units[i].unit[n > 1], rest,
                units[i].next_unit[rest > 1]);
        return;
    }
    (void)snprintf(buffer, size, "%" PRId64 "ms", usec / USEC_PER_MSEC);
}

char *text_time_long(int64_t usec)
{
    char date[96], distance[64];
    int64_t passed = clock_epoch() - usec;
    struct tm time;
    char *text;

    if (!broken_down(usec, &time) || strftime(date, sizeof(date), "%a %Y-%m-%d %H:%M:%S %Z", &time) == 0)
        return strdup("?");
    span(passed < 0 ? -passed : passed, distance, sizeof(distance));
    return asprintf(&text, "%s; %s %s", date, distance, passed < 0 ? "left" : "ago") < 0 ? NULL : text;
}

char *text_user(uid_t uid)
{
    /* Thousands of rows have few owners, and each question may go to a directory server. */
    static struct {
        bool valid;
        uid_t uid;
        char name[64];
    } last;

    if (!last.valid || last.uid != uid) {
        const struct passwd *user = getpwuid(uid);

        last.valid = true;
        last.uid = uid;
        if (user && strlen(user->pw_name) < sizeof(last.name))
            strcpy(last.name, user->pw_name);
        else
            (void)snprintf(last.name, sizeof(last.name), "%ju", (uintmax_t)uid);
    }
    return strdup(last.name);
}

bool text_number(const char *text, int64_t min, int64_t max, int64_t *ret_number)
{
    intmax_t number;
    char *end;

    if (text[0] == '\0' || strspn(text, "0123456789") != strlen(text))
        return false;
    errno = 0;
    number = strtoimax(text, &end, 10);
    if (errno != 0 || *end != '\0' || number < min || number > max)
        return false;
    *ret_number = number;
    return true;
}
