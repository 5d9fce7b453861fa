/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Varlink's calls and replies as JSON objects: see varlink.h. */
#include "wire/varlink.h"
#include "base/cleanup.h"
#include "wire/fields.h"

#include <errno.h>
#include <string.h>

int varlink_request_read(const char *text, size_t length, struct varlink_request *ret_request)
{
    static const struct field fields[] = {
        { "method", FIELD_STRING, offsetof(struct varlink_request, method), FIELD_REQUIRED },
        { "parameters", FIELD_OBJECT, offsetof(struct varlink_request, parameters), 0 },
        { "oneway", FIELD_BOOL, offsetof(struct varlink_request, oneway), 0 },
        { "more", FIELD_BOOL, offsetof(struct varlink_request, more), 0 },
        { "upgrade", FIELD_BOOL, offsetof(struct varlink_request, upgrade), 0 },
        FIELDS_END,
    };
    struct varlink_request request = { .method = NULL };
    const char *bad;
    int r;

    r = values_read(text, length, &request.values);
    if (r < 0)
        return r;
    request.root = request.values.values;
    if (fields_read(request.root, fields, FIELDS_STRICT, &request, &bad) < 0 ||
        request.oneway + request.more + request.upgrade > 1) {
        values_clear(&request.values);
        return -EBADMSG;
    }
    *ret_request = request;
    return 0;
}

size_t varlink_request_size(const struct varlink_request *request)
{
    return values_bytes(&request->values);
}

void varlink_request_clear(struct varlink_request *request)
{
    values_clear(&request->values);
    *request = (struct varlink_request){ .root = NULL };
}

void varlink_request_shrink(struct varlink_request *request)
{
    values_shrink(&request->values);
    request->root = request->values.values;
    request->parameters = NULL;
}

int varlink_answer_read(const char *text, size_t length, struct varlink_answer *ret_answer)
{
    static const struct field fields[] = {
        { "parameters", FIELD_OBJECT, offsetof(struct varlink_answer, parameters), 0 },
        { "continues", FIELD_BOOL, offsetof(struct varlink_answer, continues), 0 },
        { "error", FIELD_STRING, offsetof(struct varlink_answer, error), 0 },
        FIELDS_END,
    };
    struct varlink_answer answer = { .error = NULL };
    const char *bad;
    int r;

    r = values_read(text, length, &answer.values);
    if (r < 0)
        return r;
    if (fields_read(answer.values.values, fields, FIELDS_STRICT, &answer, &bad) < 0 ||
        (answer.error && answer.continues)) {
        values_clear(&answer.values);
        return -EBADMSG;
    }
    *ret_answer = answer;
    return 0;
}

void varlink_answer_clear(struct varlink_answer *answer)
{
    values_clear(&answer->values);
    *answer = (struct varlink_answer){ .error = NULL };
}

/* Opens the whole and its parameters. value: NULL: without that member. */
static void begin(struct emit *emit, struct frame_out *out, const char *key, const char *value)
{
    *emit = (struct emit){ .out = out, .begin = frame_out_mark(out) };
    emit_open(emit, NULL);
    emit_string(emit, key, value);
    emit_open(emit, "parameters");
}

void varlink_reply_begin(struct emit *emit, struct frame_out *out, const char *error)
{
    begin(emit, out, "error", error);
}

void varlink_call_begin(struct emit *emit, struct frame_out *out, const char *method)
{
    begin(emit, out, "method", method);
}

/* Closes the whole and makes a frame of it. */
static int end(struct emit *emit, struct fdset *fds)
{
    int r = 0;

    emit_close(emit);
    if (emit->failed)
        r = -ENOMEM;
    else if (frame_out_mark(emit->out) - emit->begin > FRAME_REPLY_MAX)
        r = -EMSGSIZE;
    if (r == 0)
        return frame_out_finish(emit->out, emit->begin, fds);
    frame_out_cancel(emit->out, emit->begin);
    if (fds)
        fdset_clear(fds);
    return r;
}

int varlink_call_end(struct emit *emit, unsigned flags, struct fdset *fds)
{
    emit_close(emit);
    if (flags & (VARLINK_ONEWAY | VARLINK_MORE))
        emit_bool(emit, flags & VARLINK_MORE ? "more" : "oneway", true);
    return end(emit, fds);
}

int varlink_reply_end(struct emit *emit, bool continues, struct fdset *fds)
{
    emit_close(emit);
    if (continues)
        emit_bool(emit, "continues", true);
    return end(emit, fds);
}
