/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Varlink's calls and replies as JSON objects: see varlink.h. */
#include "wire/varlink.h"
#include "base/cleanup.h"
#include "wire/fields.h"

#include <errno.h>
#include <string.h>

/* Parses one frame into an object whose members are these. */
static int parse(const char *text, size_t length, const struct field *fields, void *out, json_t **ret_root)
{
    json_auto_t *root = NULL;
    const char *bad;

    /* Jansson often takes want of memory for bad syntax; malloc() says what it is. */
    errno = 0;
    root = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    if (!root)
        return errno == ENOMEM ? -ENOMEM : -EBADMSG;
    if (!json_is_object(root) || fields_decode(root, fields, FIELDS_STRICT, out, &bad) < 0)
        return -EBADMSG;
    *ret_root = TAKE(root);
    return 0;
}

int varlink_call_parse(const char *text, size_t length, struct varlink_call *ret_call)
{
    static const struct field fields[] = {
        { "method", FIELD_STRING, offsetof(struct varlink_call, method), FIELD_REQUIRED },
        { "parameters", FIELD_OBJECT, offsetof(struct varlink_call, parameters), 0 },
        { "oneway", FIELD_BOOL, offsetof(struct varlink_call, oneway), 0 },
        { "more", FIELD_BOOL, offsetof(struct varlink_call, more), 0 },
        { "upgrade", FIELD_BOOL, offsetof(struct varlink_call, upgrade), 0 },
        FIELDS_END,
    };
    struct varlink_call call = { 0 };
    int r;

    r = parse(text, length, fields, &call, &call.root);
    if (r < 0)
        return r;
    if (call.oneway + call.more + call.upgrade > 1) {
        json_decref(call.root);
        return -EBADMSG;
    }
    *ret_call = call;
    return 0;
}

void varlink_call_clear(struct varlink_call *call)
{
    json_decref(call->root);
    *call = (struct varlink_call){ 0 };
}

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

void varlink_request_clear(struct varlink_request *request)
{
    values_clear(&request->values);
    *request = (struct varlink_request){ .root = NULL };
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

int varlink_reply_parse(const char *text, size_t length, struct varlink_reply *ret_reply)
{
    static const struct field fields[] = {
        { "parameters", FIELD_OBJECT, offsetof(struct varlink_reply, parameters), 0 },
        { "continues", FIELD_BOOL, offsetof(struct varlink_reply, continues), 0 },
        { "error", FIELD_STRING, offsetof(struct varlink_reply, error), 0 },
        FIELDS_END,
    };
    struct varlink_reply reply = { 0 };
    int r;

    r = parse(text, length, fields, &reply, &reply.root);
    if (r < 0)
        return r;
    if (reply.error && reply.continues) {
        json_decref(reply.root);
        return -EBADMSG;
    }
    *ret_reply = reply;
    return 0;
}

void varlink_reply_clear(struct varlink_reply *reply)
{
    json_decref(reply->root);
    *reply = (struct varlink_reply){ 0 };
}

static int dump(const char *bytes, size_t length, void *userdata)
{
    return frame_out_add(userdata, bytes, length);
}

/* root: consumed; NULL where it could not be made. */
static int write_object(struct frame_out *out, json_t *root, struct fdset *fds)
{
    size_t begin = frame_out_mark(out);
    int r = -ENOMEM;

    if (root && json_dump_callback(root, dump, out, JSON_COMPACT) == 0)
        r = frame_out_mark(out) - begin > FRAME_REPLY_MAX ? -EMSGSIZE : 0;
    json_decref(root);
    if (r < 0) {
        frame_out_cancel(out, begin);
        if (fds)
            fdset_clear(fds);
        return r;
    }
    return frame_out_finish(out, begin, fds);
}

int varlink_call_write(
    struct frame_out *out, const char *method, json_t *parameters, unsigned flags, struct fdset *fds)
{
    json_t *root = json_pack("{s:s, s:O*}", "method", method, "parameters", parameters);

    if (root && flags & (VARLINK_ONEWAY | VARLINK_MORE) &&
        json_object_set_new(root, flags & VARLINK_MORE ? "more" : "oneway", json_true()) < 0) {
        json_decref(root);
        root = NULL;
    }
    return write_object(out, root, fds);
}

int varlink_reply_write(struct frame_out *out, json_t *parameters, bool continues, struct fdset *fds)
{
    json_t *root = json_pack("{s:O*}", "parameters", parameters);

    if (root && continues && json_object_set_new(root, "continues", json_true()) < 0) {
        json_decref(root);
        root = NULL;
    }
    return write_object(out, root, fds);
}

int varlink_error_write(struct frame_out *out, const char *error, json_t *parameters)
{
    return write_object(out, json_pack("{s:s, s:O*}", "error", error, "parameters", parameters), NULL);
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
