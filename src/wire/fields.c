/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A JSON object into a C struct by a table: see fields.h. */
#include "wire/fields.h"

#include <errno.h>
#include <string.h>

static bool has_only(const struct value *whole, enum value_type type, enum value_type of)
{
    const struct value *item;

    if (whole->type != type)
        return false;
    VALUE_FOREACH(item, whole)
    if (item->type != of)
        return false;
    return true;
}

static bool read_field(const struct value *value, const struct field *field, void *out)
{
    void *place = (char *)out + field->offset;
    bool is_bool = value->type == VALUE_TRUE || value->type == VALUE_FALSE, fits = false;

    switch (field->type) {
    case FIELD_STRING:
        if (value->type == VALUE_STRING)
            *(const char **)place = value->string;
        return value->type == VALUE_STRING;
    case FIELD_INT:
        if (value->type == VALUE_INT)
            *(struct opt_int *)place = (struct opt_int){ .set = true, .value = value->integer };
        return value->type == VALUE_INT;
    case FIELD_BOOL:
        if (is_bool)
            *(bool *)place = value->type == VALUE_TRUE;
        return is_bool;
    case FIELD_OPT_BOOL:
        if (is_bool)
            *(struct opt_bool *)place = (struct opt_bool){ .set = true, .value = value->type == VALUE_TRUE };
        return is_bool;
    case FIELD_OBJECT:
        fits = value->type == VALUE_OBJECT;
        break;
    case FIELD_STRINGS:
        fits = has_only(value, VALUE_ARRAY, VALUE_STRING);
        break;
    case FIELD_OBJECTS:
        fits = has_only(value, VALUE_ARRAY, VALUE_OBJECT);
        break;
    case FIELD_DICT:
        fits = has_only(value, VALUE_OBJECT, VALUE_STRING);
        break;
    }
    if (fits)
        *(const struct value **)place = value;
    return fits;
}

int fields_read(const struct value *object, const struct field *fields, enum fields_mode mode, void *out,
    const char **ret_bad)
{
    const struct value *value;
    size_t known = 0;

    for (const struct field *field = fields; field->name; field++) {
        value = value_get(object, field->name);
        if (value)
            known++;
        if (!value || value->type == VALUE_NULL ? field->flags & FIELD_REQUIRED
                                                : !read_field(value, field, out)) {
            *ret_bad = field->name;
            return -EINVAL;
        }
    }
    if (mode == FIELDS_LENIENT || value_size(object) == known)
        return 0;
    VALUE_FOREACH(value, object)
    {
        const struct field *field = fields;

        while (field->name && strcmp(field->name, value->key) != 0)
            field++;
        if (!field->name) {
            *ret_bad = value->key;
            return -EINVAL;
        }
    }
    return 0;
}
