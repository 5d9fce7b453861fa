/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON text as an array of values: see value.h. */
#include "wire/value.h"
#include "base/reserve.h"
#include "base/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Up to so many keys are compared with each other, more are sorted. */
#define COMPARE_MAX 8

struct reader {
    char *at; /* in the copy, which ends with a NUL and has none before */
    unsigned depth;
    struct values *values;
};

static void skip_space(struct reader *reader)
{
    while (*reader->at == ' ' || *reader->at == '\t' || *reader->at == '\n' || *reader->at == '\r')
        reader->at++;
}

/* Whether that comes next, behind white space; if so, it is passed. */
static bool take(struct reader *reader, char c)
{
    skip_space(reader);
    if (*reader->at != c)
        return false;
    reader->at++;
    return true;
}

/* ---- Strings --------------------------------------------------------------------------------------------
 */

/* Four hexadecimal digits; -1 where they are not. */
static int32_t read_hex(const char *digits)
{
    int32_t number = 0;

    for (int i = 0; i < 4; i++) {
        char c = digits[i];

        if (c >= '0' && c <= '9')
            number = number * 16 + c - '0';
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            number = number * 16 + (c | 0x20) - 'a' + 10;
        else
            return -1;
    }
    return number;
}

/* What \u at from stands for, in UTF-8 at to, which is not behind it. */
static int read_unicode(char **from, char **to)
{
    static const unsigned char lead[] = { 0, 0xc0, 0xe0, 0xf0 };
    unsigned char *out = (unsigned char *)*to;
    int32_t number = read_hex(*from + 2), low;
    int more;

    *from += 6;
    if (number <= 0)
        return -EBADMSG;
    if (number >= 0xd800 && number <= 0xdfff) {
        low = number < 0xdc00 && (*from)[0] == '\\' && (*from)[1] == 'u' ? read_hex(*from + 2) : -1;
        if (low < 0xdc00 || low > 0xdfff)
            return -EBADMSG;
        *from += 6;
        number = 0x10000 + ((number - 0xd800) << 10) + (low - 0xdc00);
    }
    more = number < 0x80 ? 0 : number < 0x800 ? 1 : number < 0x10000 ? 2 : 3;
    *out++ = (unsigned char)(lead[more] | number >> (6 * more));
    while (more-- > 0)
        *out++ = (unsigned char)(0x80 | (number >> (6 * more) & 0x3f));
    *to = (char *)out;
    return 0;
}

static int read_escape(char **from, char **to)
{
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    char letter = (*from)[1];
    const char *found = letter ? strchr(letters, letter) : NULL;

    if (letter == 'u')
        return read_unicode(from, to);
    if (!found)
        return -EBADMSG;
    *(*to)++ = meant[found - letters];
    *from += 2;
    return 0;
}

/* Whether it stands for itself, alone. */
static bool is_plain(char c)
{
    return c >= 0x20 && (unsigned char)c < 0x80 && c != '"' && c != '\\';
}

/* Reads a string, and ends it with a NUL, which is where its closing quote was or before that. */
static int read_string(struct reader *reader, const char **ret_string)
{
    char *from = reader->at, *to;
    int r;

    if (*from++ != '"')
        return -EBADMSG;
    *ret_string = to = from;
    for (;;) {
        size_t n;

        /* The most of most strings. */
        while (is_plain(*from))
            *to++ = *from++;
        if (*from == '"')
            break;
        if (*from == '\\') {
            r = read_escape(&from, &to);
            if (r < 0)
                return r;
            continue;
        }
        n = (unsigned char)*from < 0x20 ? 0 : utf8_length(from);
        if (n == 0)
            return -EBADMSG;
        while (n-- > 0)
            *to++ = *from++;
    }
    *to = '\0';
    reader->at = from + 1;
    return 0;
}

/* ---- Numbers and words ----------------------------------------------------------------------------------
 */

static bool skip_digits(struct reader *reader)
{
    const char *begin = reader->at;

    while (*reader->at >= '0' && *reader->at <= '9')
        reader->at++;
    return reader->at > begin;
}

static int read_number(struct reader *reader, struct value *value)
{
    const char *begin = reader->at;
    bool is_real = false;

    reader->at += *reader->at == '-';
    if (*reader->at == '0')
        reader->at++;
    else if (!skip_digits(reader))
        return -EBADMSG;
    if (*reader->at == '.') {
        is_real = true;
        reader->at++;
        if (!skip_digits(reader))
            return -EBADMSG;
    }
    if (*reader->at == 'e' || *reader->at == 'E') {
        is_real = true;
        reader->at++;
        reader->at += *reader->at == '+' || *reader->at == '-';
        if (!skip_digits(reader))
            return -EBADMSG;
    }
    /* Both read as far as we did, or less in another locale's numbers. */
    errno = 0;
    if (is_real) {
        value->type = VALUE_REAL;
        value->string = begin;
        return isinf(strtod(begin, NULL)) ? -EBADMSG : 0;
    }
    value->type = VALUE_INT;
    value->integer = strtoll(begin, NULL, 10);
    return errno == ERANGE ? -EBADMSG : 0;
}

static int read_word(struct reader *reader, struct value *value)
{
    static const struct {
        const char *text;
        enum value_type type;
    } words[] = { { "true", VALUE_TRUE }, { "false", VALUE_FALSE }, { "null", VALUE_NULL } };

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strncmp(reader->at, words[i].text, strlen(words[i].text)) == 0) {
            reader->at += strlen(words[i].text);
            value->type = words[i].type;
            return 0;
        }
    return -EBADMSG;
}

/* ---- Arrays and objects ---------------------------------------------------------------------------------
 */

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Whether no two members have the same key: 0, -EBADMSG, -ENOMEM. */
static int check_keys(const struct value *object)
{
    const struct value *member, *other;
    const char **keys;
    size_t n = 0;
    int r = 0;

    if (object->n <= COMPARE_MAX) {
        VALUE_FOREACH(member, object)
        for (other = object + 1; other < member; other += other->span)
            if (strcmp(other->key, member->key) == 0)
                return -EBADMSG;
        return 0;
    }
    keys = malloc(object->n * sizeof(*keys));
    if (!keys)
        return -ENOMEM;
    VALUE_FOREACH(member, object)
    keys[n++] = member->key;
    qsort(keys, n, sizeof(*keys), compare_keys);
    for (size_t i = 1; i < n && r == 0; i++)
        r = strcmp(keys[i - 1], keys[i]) == 0 ? -EBADMSG : 0;
    free(keys);
    return r;
}

static int read_value(struct reader *reader, const char *key);

/* What is between the brackets, of the value at place. */
static int read_inside(struct reader *reader, size_t place, bool is_object)
{
    const char *key = NULL;
    uint32_t n = 0;
    int r;

    if (++reader->depth > VALUE_DEPTH_MAX)
        return -EBADMSG;
    reader->at++;
    if (!take(reader, is_object ? '}' : ']')) {
        do {
            skip_space(reader);
            if (is_object) {
                r = read_string(reader, &key);
                if (r < 0)
                    return r;
                if (!take(reader, ':'))
                    return -EBADMSG;
            }
            r = read_value(reader, key);
            if (r < 0)
                return r;
            n++;
        } while (take(reader, ','));
        if (!take(reader, is_object ? '}' : ']'))
            return -EBADMSG;
    }
    reader->depth--;
    reader->values->values[place].n = n;
    reader->values->values[place].span = (uint32_t)(reader->values->n - place);
    return is_object ? check_keys(&reader->values->values[place]) : 0;
}

static int read_value(struct reader *reader, const char *key)
{
    struct values *values = reader->values;
    size_t place = values->n;
    struct value *value;

    if (place == values->size) {
        size_t size = 2 * values->size + 16;

        value = reserve_realloc(values->values, size * sizeof(*value));
        if (!value)
            return -ENOMEM;
        values->values = value;
        values->size = size;
    }
    value = &values->values[values->n++];
    *value = (struct value){ .span = 1, .key = key };
    skip_space(reader);
    switch (*reader->at) {
    case '{':
        value->type = VALUE_OBJECT;
        return read_inside(reader, place, true);
    case '[':
        value->type = VALUE_ARRAY;
        return read_inside(reader, place, false);
    case '"':
        value->type = VALUE_STRING;
        return read_string(reader, &value->string);
    case '-':
    case '0' ... '9':
        return read_number(reader, value);
    default:
        return read_word(reader, value);
    }
}

int values_read(const char *text, size_t length, struct values *ret_values)
{
    struct values values = { .text = reserve_malloc(length + 1), .length = length + 1 };
    struct reader reader = { .at = values.text, .values = &values };
    int r;

    if (!values.text)
        return -ENOMEM;
    memcpy(values.text, text, length);
    values.text[length] = '\0';
    r = read_value(&reader, NULL);
    skip_space(&reader);
    /* A NUL in the middle is an end that comes too early. */
    if (r == 0 && (reader.at != values.text + length || values.values[0].type != VALUE_OBJECT))
        r = -EBADMSG;
    if (r < 0) {
        values_clear(&values);
        return r;
    }
    *ret_values = values;
    return 0;
}

void values_clear(struct values *values)
{
    free(values->values);
    free(values->text);
    *values = (struct values){ .values = NULL };
}

void values_shrink(struct values *values)
{
    struct value *first = realloc(values->values, sizeof(*first));

    if (first) {
        values->values = first;
        values->size = 1;
    }
    values->n = values->values->span = 1;
    values->values->n = 0;
}

const struct value *value_get(const struct value *object, const char *key)
{
    const struct value *member;

    VALUE_FOREACH(member, object)
    if (strcmp(member->key, key) == 0)
        return member;
    return NULL;
}
