/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Varlink's calls and replies as jansson's trees: what the project's own readers and writers are held
 * against, and what the brokers and agents of tests speak. As strict as src/wire/varlink.h.
 */
#ifndef TESTS_JSON_H
#define TESTS_JSON_H

#include "wire/varlink.h"

#include <jansson.h>
#include <stdbool.h>

struct json_call {
    json_t *root;       /* owned; the rest points into it */
    const char *method; /* fully qualified */
    json_t *parameters; /* an object; NULL for none */
    bool oneway, more, upgrade;
};

/* Takes a frame's text apart: -EBADMSG where it is no well-formed call. */
int json_call_parse(const char *text, size_t length, struct json_call *ret_call);
void json_call_clear(struct json_call *call);

struct json_reply {
    json_t *root;       /* owned; the rest points into it */
    const char *error;  /* fully qualified; NULL for none */
    json_t *parameters; /* an object; NULL for none */
    bool continues;
};

int json_reply_parse(const char *text, size_t length, struct json_reply *ret_reply);
void json_reply_clear(struct json_reply *reply);

/*
 * Queue a call, a reply, an error. parameters: borrowed, NULL for none. fds: consumed, also on failure; NULL
 * for none. -ENOMEM; nothing is queued then.
 */
int json_call_write(
    struct frame_out *out, const char *method, json_t *parameters, unsigned flags, struct fdset *fds);
int json_reply_write(struct frame_out *out, json_t *parameters, bool continues, struct fdset *fds);
int json_error_write(struct frame_out *out, const char *error, json_t *parameters);

#endif
