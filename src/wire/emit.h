/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON written straight behind what a connection has to send: nothing is built first. What comes between an
 * opening call and its closing one are members, which have keys, or items, whose key is NULL.
 *
 * Where memory is out nothing more is written, and emit->failed says so: it is looked at once, at the end.
 */
#ifndef WIRE_EMIT_H
#define WIRE_EMIT_H

#include "wire/frame.h"
#include "wire/value.h"

#include <stdbool.h>
#include <stdint.h>

struct emit {
    struct frame_out *out;
    size_t begin; /* of what is being written: frame_out_mark() */
    bool comma;   /* belongs in front of what comes next */
    bool failed;
};

/* Keys and strings: UTF-8. What is not shows as U+FFFD. value: NULL leaves the member out. */
void emit_string(struct emit *emit, const char *key, const char *value);
void emit_int(struct emit *emit, const char *key, int64_t value);
void emit_bool(struct emit *emit, const char *key, bool value);

/* Any value, with all that is in it. */
void emit_value(struct emit *emit, const char *key, const struct value *value);

void emit_open(struct emit *emit, const char *key); /* { */
void emit_close(struct emit *emit);
void emit_open_array(struct emit *emit, const char *key);
void emit_close_array(struct emit *emit);

/* The most that a string takes, with its quotes and what is before or behind it. */
size_t emit_most(const char *text);

#endif
