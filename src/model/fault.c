/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The answers that say no: see fault.h. */
#include "model/fault.h"

#include <string.h>

/* Copies text, cut where it is too long, but not in the middle of a character of UTF-8. */
static void copy(char *to, size_t size, const char *text)
{
    size_t length = strnlen(text, size - 1);

    if (text[length])
        while (length > 0 && (text[length] & 0xc0) == 0x80)
            length--;
    memcpy(to, text, length);
    to[length] = '\0';
}

void fault_fill(struct fault *fault, enum fault_code code, const char *subject, const char *other,
    const char *reason, int64_t number)
{
    fault->code = code;
    copy(fault->subject, sizeof(fault->subject), subject ? subject : "");
    copy(fault->other, sizeof(fault->other), other ? other : "");
    fault->reason = reason;
    fault->number = number;
}
