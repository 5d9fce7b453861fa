/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON text as an array of values, in the order in which they stand there: for who reads much of it. An
 * array's items and an object's members come right behind it. Strings are decoded where they stand in a copy
 * of the text, so that a text takes two pieces of memory, however much is in it.
 *
 * As strict as jansson is with JSON_REJECT_DUPLICATES, and about the same things: UTF-8, no key twice, no
 * \u0000, integers in int64, real numbers in double. Two things differ: the text is an object, and no deeper
 * than VALUE_DEPTH_MAX.
 */
#ifndef WIRE_VALUE_H
#define WIRE_VALUE_H

#include <stddef.h>
#include <stdint.h>

#define VALUE_DEPTH_MAX 32

enum value_type {
    VALUE_NULL,
    VALUE_FALSE,
    VALUE_TRUE,
    VALUE_INT,
    VALUE_REAL, /* its text begins at string, and ends where no number goes on */
    VALUE_STRING,
    VALUE_ARRAY,
    VALUE_OBJECT,
};

struct value {
    enum value_type type;
    uint32_t n;      /* items or members */
    uint32_t span;   /* values that it takes, with all that is in it: the next one is behind these */
    const char *key; /* of an object's member; NULL: it is none */
    union {
        int64_t integer;
        const char *string;
    };
};

struct values {
    struct value *values; /* the first one is the whole; NULL: there is none */
    size_t n, size;
    char *text;
    size_t length;
};

/* Reads length bytes of text: -EBADMSG, -ENOMEM. */
int values_read(const char *text, size_t length, struct values *ret_values);
void values_clear(struct values *values);

/* How much memory they take. */
static inline size_t values_bytes(const struct values *values)
{
    return values->size * sizeof(struct value) + values->length;
}

/* Of all values only the first one stays, as an object without members; and the strings. */
void values_shrink(struct values *values);

/* The member of that key; NULL where there is none. object: NULL is the empty one. */
const struct value *value_get(const struct value *object, const char *key);

/* A string's text; NULL where it is none, or NULL. */
static inline const char *value_string(const struct value *value)
{
    return value && value->type == VALUE_STRING ? value->string : NULL;
}

/* How many items or members; NULL has none. */
static inline size_t value_size(const struct value *value)
{
    return value ? value->n : 0;
}

/* Goes through an array or an object; NULL is empty. */
#define VALUE_FOREACH(item, whole) \
    for (size_t left_ = ((item) = (whole)) ? ((item)++)->n : 0; left_ > 0; left_--, (item) += (item)->span)

#endif
