/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Varlink's calls and replies: strict towards clients, exact towards them. What a method's parameters mean is
 * not for here (see fields.h for taking them apart). They are read as an array of values, and written
 * straight behind what waits to be sent.
 */
#ifndef WIRE_VARLINK_H
#define WIRE_VARLINK_H

#include "wire/emit.h"
#include "wire/frame.h"
#include "wire/value.h"

#include <stdbool.h>

struct varlink_request {
    struct values values;     /* owned; the rest points into them */
    const struct value *root; /* the whole; NULL: there is none */
    const char *method;
    const struct value *parameters;
    bool oneway, more, upgrade;
};

/* Takes a frame's text apart: -EBADMSG where it is no well-formed call, -ENOMEM. */
int varlink_request_read(const char *text, size_t length, struct varlink_request *ret_request);
void varlink_request_clear(struct varlink_request *request);

/* How much memory it takes. */
size_t varlink_request_size(const struct varlink_request *request);

/* Its parameters have been read, and it stays open: it has none from here on, and takes up less. */
void varlink_request_shrink(struct varlink_request *request);

/* The same of a reply. */
struct varlink_answer {
    struct values values;           /* owned; the rest points into them */
    const char *error;              /* fully qualified; NULL for none */
    const struct value *parameters; /* NULL for none */
    bool continues;
};

int varlink_answer_read(const char *text, size_t length, struct varlink_answer *ret_answer);
void varlink_answer_clear(struct varlink_answer *answer);

enum varlink_flags {
    VARLINK_ONEWAY = 1 << 0,
    VARLINK_MORE = 1 << 1,
};

/*
 * Write a call, a reply, or (error not NULL) an error: what is emitted between begin and end are its
 * parameters. fds: consumed, also on failure; NULL for none. -EMSGSIZE where the frame would be too long for
 * its receiver, -ENOMEM; nothing is queued then.
 */
void varlink_call_begin(struct emit *emit, struct frame_out *out, const char *method);
int varlink_call_end(struct emit *emit, unsigned flags, struct fdset *fds);
void varlink_reply_begin(struct emit *emit, struct frame_out *out, const char *error);
int varlink_reply_end(struct emit *emit, bool continues, struct fdset *fds);

#endif
