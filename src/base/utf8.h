/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* UTF-8 as JSON wants it: shortest form, no surrogates, nothing beyond U+10FFFF. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* How many bytes the character takes that text, of at least one byte and ended by a NUL, begins with; 0: it
 * is none. */
static inline size_t utf8_length(const char *text)
{
    const unsigned char *bytes = (const unsigned char *)text;
    unsigned char least = 0x80, most = 0xbf; /* the second byte */
    size_t n = 2;

    if (bytes[0] < 0x80)
        return 1;
    if (bytes[0] < 0xc2 || bytes[0] > 0xf4)
        return 0;
    if (bytes[0] >= 0xe0)
        n = bytes[0] < 0xf0 ? 3 : 4;
    if (bytes[0] == 0xe0)
        least = 0xa0;
    else if (bytes[0] == 0xed)
        most = 0x9f;
    else if (bytes[0] == 0xf0)
        least = 0x90;
    else if (bytes[0] == 0xf4)
        most = 0x8f;
    if (bytes[1] < least || bytes[1] > most)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

static inline bool utf8_is_text(const char *text)
{
    size_t n = 1;

    for (; *text && n > 0; text += n)
        n = utf8_length(text);
    return n > 0;
}

#endif
