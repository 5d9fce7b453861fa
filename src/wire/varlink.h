/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Varlink's calls and replies: strict towards clients, exact towards them. What a method's parameters mean is
 * not for here (see fields.h for taking them apart).
 *
 * Each comes in two ways. Who serves many calls reads them as an array of values (varlink_*_read) and writes
 * the answers straight (varlink_*_begin, varlink_*_end): evlinkd, and libevlink's agents. Who makes one at a
 * time has jansson's objects (varlink_*_parse, varlink_*_write): libevlink's client, and the brokers and
 * agents of tests. The fuzz targets hold one way against the other.
 */
#ifndef WIRE_VARLINK_H
#define WIRE_VARLINK_H

#include "wire/emit.h"
#include "wire/frame.h"
#include "wire/value.h"

#include <jansson.h>
#include <stdbool.h>

struct varlink_call {
    json_t *root;       /* owned; the rest points into it */
    const char *method; /* fully qualified */
    json_t *parameters; /* an object; NULL for none */
    bool oneway, more, upgrade;
};

/* Takes a frame's text apart: -EBADMSG where it is no well-formed call, -ENOMEM. */
int varlink_call_parse(const char *text, size_t length, struct varlink_call *ret_call);
void varlink_call_clear(struct varlink_call *call);

/* The same, for who serves many: see value.h. */
struct varlink_request {
    struct values values;     /* owned; the rest points into them */
    const struct value *root; /* the whole; NULL: there is none */
    const char *method;
    const struct value *parameters;
    bool oneway, more, upgrade;
};

int varlink_request_read(const char *text, size_t length, struct varlink_request *ret_request);
void varlink_request_clear(struct varlink_request *request);

/* The same of a reply. */
struct varlink_answer {
    struct values values;           /* owned; the rest points into them */
    const char *error;              /* fully qualified; NULL for none */
    const struct value *parameters; /* NULL for none */
    bool continues;
};

int varlink_answer_read(const char *text, size_t length, struct varlink_answer *ret_answer);
void varlink_answer_clear(struct varlink_answer *answer);

struct varlink_reply {
    json_t *root;       /* owned; the rest points into it */
    const char *error;  /* fully qualified; NULL for none */
    json_t *parameters; /* an object; NULL for none */
    bool continues;
};

int varlink_reply_parse(const char *text, size_t length, struct varlink_reply *ret_reply);
void varlink_reply_clear(struct varlink_reply *reply);

enum varlink_flags {
    VARLINK_ONEWAY = 1 << 0,
    VARLINK_MORE = 1 << 1,
};

/*
 * Queue a call, a reply, an error. parameters: borrowed, NULL for none. fds: consumed, also on failure; NULL
 * for none. -EMSGSIZE where the frame would be too long for its receiver, -ENOMEM; nothing is queued then.
 */
int varlink_call_write(
    struct frame_out *out, const char *method, json_t *parameters, unsigned flags, struct fdset *fds);
int varlink_reply_write(struct frame_out *out, json_t *parameters, bool continues, struct fdset *fds);
int varlink_error_write(struct frame_out *out, const char *error, json_t *parameters);

/*
 * Write a call, a reply, or (error not NULL) an error, straight: what is emitted between begin and end are
 * its parameters. Where the end fails, nothing is queued, as above.
 */
void varlink_call_begin(struct emit *emit, struct frame_out *out, const char *method);
int varlink_call_end(struct emit *emit, unsigned flags, struct fdset *fds);
void varlink_reply_begin(struct emit *emit, struct frame_out *out, const char *error);
int varlink_reply_end(struct emit *emit, bool continues, struct fdset *fds);

#endif
