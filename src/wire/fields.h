/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Takes a JSON object apart into a C struct by a table, so that no handler looks at JSON types: absent and
 * null members leave what the struct had, everything else has the type that the table says, or the first bad
 * member is named.
 */
#ifndef WIRE_FIELDS_H
#define WIRE_FIELDS_H

#include "wire/value.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An int that may be left out. */
struct opt_int {
    bool set;
    int64_t value;
};

/* A bool that may be left out. */
struct opt_bool {
    bool set;
    bool value;
};

enum field_type {
    FIELD_STRING,   /* const char *, lives as long as the object */
    FIELD_INT,      /* struct opt_int */
    FIELD_BOOL,     /* bool */
    FIELD_OPT_BOOL, /* struct opt_bool */
    /* const struct value *, borrowed from the object */
    FIELD_OBJECT,
    FIELD_STRINGS, /* an array of strings */
    FIELD_OBJECTS, /* an array of objects */
    FIELD_DICT,    /* an object of strings */
};

enum field_flags {
    FIELD_REQUIRED = 1 << 0,
};

struct field {
    const char *name;
    enum field_type type;
    size_t offset;
    unsigned flags;
};

#define FIELDS_END               \
    {                            \
        NULL, FIELD_STRING, 0, 0 \
    }

enum fields_mode {
    FIELDS_STRICT,  /* what a client sends: unknown members are bad */
    FIELDS_LENIENT, /* what a newer peer answers: unknown members are passed over */
};

/*
 * object: borrowed, NULL is the empty one. Returns 0, or -EINVAL with *ret_bad the name of the member that is
 * missing, unknown or of another type: borrowed from the table or from the object.
 */
int fields_read(const struct value *object, const struct field *fields, enum fields_mode mode, void *out,
    const char **ret_bad);

#endif
