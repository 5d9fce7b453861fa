/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Varlink's calls and replies as jansson's trees: see json.h. */
#include "json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Whether it is false, null, or not there; otherwise it is true, or makes the whole bad. */
static bool take_bool(json_t *json, bool *bad)
{
    *bad |= json && !json_is_boolean(json) && !json_is_null(json);
    return json_is_true(json);
}

static json_t *take_object(json_t *json, bool *bad)
{
    *bad |= json && !json_is_object(json) && !json_is_null(json);
    return json_is_object(json) ? json : NULL;
}

static const char *take_string(json_t *json, bool *bad)
{
    *bad |= json && !json_is_string(json) && !json_is_null(json);
    return json_string_value(json);
}

/* An object without other members than these. */
static json_t *load(const char *text, size_t length, const char *const *known)
{
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    size_t n = 0;

    for (; *known; known++)
        n += json_object_get(root, *known) != NULL;
    if (json_is_object(root) && json_object_size(root) == n)
        return root;
    json_decref(root);
    return NULL;
}

int json_call_parse(const char *text, size_t length, struct json_call *ret_call)
{
    static const char *const known[] = { "method", "parameters", "oneway", "more", "upgrade", NULL };
    json_t *root = load(text, length, known);
    bool bad = !root;
    struct json_call call = {
        .root = root,
        .method = take_string(json_object_get(root, "method"), &bad),
        .parameters = take_object(json_object_get(root, "parameters"), &bad),
        .oneway = take_bool(json_object_get(root, "oneway"), &bad),
        .more = take_bool(json_object_get(root, "more"), &bad),
        .upgrade = take_bool(json_object_get(root, "upgrade"), &bad),
    };

    if (bad || !call.method || call.oneway + call.more + call.upgrade > 1) {
        json_decref(root);
        return -EBADMSG;
    }
    *ret_call = call;
    return 0;
}

void json_call_clear(struct json_call *call)
{
    json_decref(call->root);
    *call = (struct json_call){ .root = NULL };
}

int json_reply_parse(const char *text, size_t length, struct json_reply *ret_reply)
{
    static const char *const known[] = { "parameters", "continues", "error", NULL };
    json_t *root = load(text, length, known);
    bool bad = !root;
    struct json_reply reply = {
        .root = root,
        .error = take_string(json_object_get(root, "error"), &bad),
        .parameters = take_object(json_object_get(root, "parameters"), &bad),
        .continues = take_bool(json_object_get(root, "continues"), &bad),
    };

    if (bad || (reply.error && reply.continues)) {
        json_decref(root);
        return -EBADMSG;
    }
    *ret_reply = reply;
    return 0;
}

void json_reply_clear(struct json_reply *reply)
{
    json_decref(reply->root);
    *reply = (struct json_reply){ .root = NULL };
}

/* root: consumed. */
static int write_object(struct frame_out *out, json_t *root, struct fdset *fds)
{
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    size_t begin = frame_out_mark(out);
    int r = -ENOMEM;

    if (text)
        r = frame_out_add(out, text, strlen(text));
    json_decref(root);
    free(text);
    if (r == 0)
        return frame_out_finish(out, begin, fds);
    if (fds)
        fdset_clear(fds);
    return r;
}

int json_call_write(
    struct frame_out *out, const char *method, json_t *parameters, unsigned flags, struct fdset *fds)
{
    json_t *root = json_pack("{s:s, s:O*}", "method", method, "parameters", parameters);

    if (flags & (VARLINK_ONEWAY | VARLINK_MORE))
        (void)json_object_set_new(root, flags & VARLINK_MORE ? "more" : "oneway", json_true());
    return write_object(out, root, fds);
}

int json_reply_write(struct frame_out *out, json_t *parameters, bool continues, struct fdset *fds)
{
    json_t *root = json_pack("{s:O*}", "parameters", parameters);

    if (continues)
        (void)json_object_set_new(root, "continues", json_true());
    return write_object(out, root, fds);
}

int json_error_write(struct frame_out *out, const char *error, json_t *parameters)
{
    return write_object(out, json_pack("{s:s, s:O*}", "error", error, "parameters", parameters), NULL);
}
