/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON written straight: see emit.h. */
#include "wire/emit.h"
#include "base/utf8.h"

#include <string.h>

/* What a character takes at the most: \u001f. */
#define CHARACTER_MOST 6

static char *room(struct emit *emit, size_t n)
{
    char *at = emit->failed ? NULL : frame_out_room(emit->out, n);

    emit->failed |= !at;
    return at;
}

static void wrote(struct emit *emit, const char *end)
{
    emit->out->end = (size_t)(end - emit->out->buffer);
}

static char *put_bytes(char *to, const char *bytes, size_t n)
{
    memcpy(to, bytes, n);
    return to + n;
}

/* The one at *text, which is not written as it is. */
static char *put_odd(char *to, const char **text)
{
    static const char hex[] = "0123456789abcdef", names[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *name = strchr(names, **text);
    size_t n = utf8_length(*text);

    if ((unsigned char)**text >= 0x80) {
        to = n > 0 ? put_bytes(to, *text, n) : put_bytes(to, "\xef\xbf\xbd", 3);
        *text += n > 0 ? n : 1;
        return to;
    }
    *to++ = '\\';
    if (name) {
        *to++ = letters[name - names];
    } else {
        to = put_bytes(to, "u00", 3);
        *to++ = hex[**text >> 4];
        *to++ = hex[**text & 0xf];
    }
    ++*text;
    return to;
}

static char *put_string(char *to, const char *text)
{
    *to++ = '"';
    while (*text) {
        if (*text >= 0x20 && (unsigned char)*text < 0x80 && *text != '"' && *text != '\\')
            *to++ = *text++;
        else
            to = put_odd(to, &text);
    }
    *to++ = '"';
    return to;
}

size_t emit_most(const char *text)
{
    return CHARACTER_MOST * strlen(text) + 3;
}

/* Begins a member or an item of up to so many bytes. NULL: out of memory. */
static char *begin(struct emit *emit, const char *key, size_t most)
{
    char *to = room(emit, 1 + (key ? CHARACTER_MOST * strlen(key) + 3 : 0) + most);

    if (!to)
        return NULL;
    if (emit->comma)
        *to++ = ',';
    emit->comma = true;
    if (key) {
        to = put_string(to, key);
        *to++ = ':';
    }
    return to;
}

void emit_string(struct emit *emit, const char *key, const char *value)
{
    char *to = value ? begin(emit, key, CHARACTER_MOST * strlen(value) + 2) : NULL;

    if (to)
        wrote(emit, put_string(to, value));
}

void emit_int(struct emit *emit, const char *key, int64_t value)
{
    char digits[20], *first = digits + sizeof(digits), *to = begin(emit, key, 1 + sizeof(digits));
    uint64_t rest = value < 0 ? -(uint64_t)value : (uint64_t)value;

    if (!to)
        return;
    do
        *--first = (char)('0' + rest % 10);
    while ((rest /= 10) > 0);
    if (value < 0)
        *to++ = '-';
    wrote(emit, put_bytes(to, first, (size_t)(digits + sizeof(digits) - first)));
}

void emit_bool(struct emit *emit, const char *key, bool value)
{
    char *to = begin(emit, key, 5);

    if (to)
        wrote(emit, value ? put_bytes(to, "true", 4) : put_bytes(to, "false", 5));
}

static void open_with(struct emit *emit, const char *key, char bracket)
{
    char *to = begin(emit, key, 1);

    if (!to)
        return;
    *to++ = bracket;
    wrote(emit, to);
    emit->comma = false;
}

static void close_with(struct emit *emit, char bracket)
{
    char *to = room(emit, 1);

    if (!to)
        return;
    *to++ = bracket;
    wrote(emit, to);
    emit->comma = true;
}

void emit_open(struct emit *emit, const char *key)
{
    open_with(emit, key, '{');
}

void emit_close(struct emit *emit)
{
    close_with(emit, '}');
}

void emit_open_array(struct emit *emit, const char *key)
{
    open_with(emit, key, '[');
}

void emit_close_array(struct emit *emit)
{
    close_with(emit, ']');
}

/* What is JSON already. */
static void emit_raw(struct emit *emit, const char *key, const char *text, size_t n)
{
    char *to = begin(emit, key, n);

    if (to)
        wrote(emit, put_bytes(to, text, n));
}

void emit_value(struct emit *emit, const char *key, const struct value *value)
{
    const struct value *item;
    bool is_object = value->type == VALUE_OBJECT;

    switch (value->type) {
    case VALUE_NULL:
        emit_raw(emit, key, "null", 4);
        break;
    case VALUE_FALSE:
    case VALUE_TRUE:
        emit_bool(emit, key, value->type == VALUE_TRUE);
        break;
    case VALUE_INT:
        emit_int(emit, key, value->integer);
        break;
    case VALUE_REAL:
        emit_raw(emit, key, value->string, strspn(value->string, "+-.0123456789Ee"));
        break;
    case VALUE_STRING:
        emit_string(emit, key, value->string);
        break;
    case VALUE_ARRAY:
    case VALUE_OBJECT:
        open_with(emit, key, is_object ? '{' : '[');
        VALUE_FOREACH(item, value)
        emit_value(emit, item->key, item);
        close_with(emit, is_object ? '}' : ']');
        break;
    }
}
