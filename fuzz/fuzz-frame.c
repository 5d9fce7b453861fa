/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames with descriptors, and the calls and replies in them. The first byte says what the rest is:
 *
 *   i   segments that come in, by hand: a byte of how many descriptors (the low three bits; bit 3: some were
 *       lost; bit 4: take frames only after the next one), two of length, the bytes
 *
 *   s   the same through a socket pair and socket_receive()
 *
 *   o   frames that go out: a byte of how many descriptors, one of how much of it is sent before the next one
 *       (bit 7: it is cancelled), the bytes up to a NUL
 *
 *   c   one frame: a call, a reply
 *
 *   b   a byte: a reply of so many times 32 KiB
 *
 *   x   a byte and one frame: of what can fail in reading and in writing it (fail.h), the so-many-th does
 *
 * Whatever comes in, in whatever pieces: the frames are what stood between the NULs, and have those
 * descriptors that came with their first byte. What fails for want of memory says so, and has added nothing.
 */
#include "base/fd.h"
#include "fail.h"
#include "fuzz.h"
#include "tests/json.h"
#include "wire/emit.h"
#include "wire/fields.h"
#include "wire/frame.h"
#include "wire/socket.h"
#include "wire/value.h"
#include "wire/varlink.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file of its own for each descriptor that is sent, told apart by its size. */
static int numbered(unsigned number)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    MUST(fd >= 0 && ftruncate(fd, number) == 0);
    return fd;
}

static unsigned number_of(int fd)
{
    struct stat status;

    MUST(fstat(fd, &status) == 0);
    return (unsigned)status.st_size;
}

/* ---- What a frame says ---- */

/* What was read of a call, written again, says the same to jansson. */
static void check_call(const struct varlink_request *request, const struct json_call *call)
{
    struct frame_out out = { 0 };
    const struct fdset *fds;
    const struct value *member;
    struct json_call again;
    struct emit emit;
    const char *bytes;
    size_t n;

    MUST(strcmp(request->method, call->method) == 0 && !request->parameters == !call->parameters);
    MUST(request->oneway == call->oneway && request->more == call->more && request->upgrade == call->upgrade);
    varlink_call_begin(&emit, &out, request->method);
    VALUE_FOREACH(member, request->parameters)
    emit_value(&emit, member->key, member);
    MUST(varlink_call_end(
             &emit, (request->oneway ? VARLINK_ONEWAY : 0) | (request->more ? VARLINK_MORE : 0), NULL) == 0);
    n = frame_out_peek(&out, &bytes, &fds);
    MUST(n == frame_out_pending(&out) && fds->n == 0 && strlen(bytes) == n - 1);
    MUST(json_call_parse(bytes, n - 1, &again) == 0);
    MUST(strcmp(again.method, call->method) == 0 && again.oneway == call->oneway && again.more == call->more);
    MUST(call->parameters ? json_equal(call->parameters, again.parameters)
                          : json_object_size(again.parameters) == 0);
    json_call_clear(&again);
    frame_out_clear(&out);
}

/* The same of a reply. */
static void check_reply(const struct varlink_answer *answer, const struct json_reply *reply)
{
    struct frame_out out = { 0 };
    const struct fdset *fds;
    const struct value *member;
    struct json_reply again;
    struct emit emit;
    const char *bytes;
    size_t n;

    MUST(!answer->error == !reply->error && answer->continues == reply->continues &&
         !answer->parameters == !reply->parameters);
    MUST(!reply->error || (strcmp(reply->error, answer->error) == 0 && !reply->continues));
    varlink_reply_begin(&emit, &out, answer->error);
    VALUE_FOREACH(member, answer->parameters)
    emit_value(&emit, member->key, member);
    MUST(varlink_reply_end(&emit, answer->continues, NULL) == 0);
    n = frame_out_peek(&out, &bytes, &fds);
    MUST(json_reply_parse(bytes, n - 1, &again) == 0);
    MUST(reply->error ? strcmp(again.error, reply->error) == 0 : !again.error);
    MUST(again.continues == reply->continues);
    MUST(reply->parameters ? json_equal(reply->parameters, again.parameters)
                           : json_object_size(again.parameters) == 0);
    json_reply_clear(&again);
    frame_out_clear(&out);
}

/* ---- The other reader of JSON, which has to take the same ---- */

static size_t depth_of(json_t *json)
{
    size_t most = 0, depth, i;
    const char *key;
    json_t *item;

    json_object_foreach (json, key, item)
        most = (depth = depth_of(item)) > most ? depth : most;
    json_array_foreach (json, i, item)
        most = (depth = depth_of(item)) > most ? depth : most;
    return most + 1;
}

static void check_same(const struct value *value, json_t *json)
{
    static const enum value_type types[] = {
        [JSON_OBJECT] = VALUE_OBJECT,
        [JSON_ARRAY] = VALUE_ARRAY,
        [JSON_STRING] = VALUE_STRING,
        [JSON_INTEGER] = VALUE_INT,
        [JSON_REAL] = VALUE_REAL,
        [JSON_TRUE] = VALUE_TRUE,
        [JSON_FALSE] = VALUE_FALSE,
        [JSON_NULL] = VALUE_NULL,
    };
    const struct value *item;
    size_t i = 0;

    MUST(value->type == types[json_typeof(json)]);
    if (json_is_object(json) || json_is_array(json))
        MUST(value_size(value) == (json_is_object(json) ? json_object_size(json) : json_array_size(json)));
    if (json_is_object(json) || json_is_array(json)) {
        VALUE_FOREACH(item, value)
        {
            json_t *other = item->key ? json_object_get(json, item->key) : json_array_get(json, i++);

            MUST(other && !item->key == json_is_array(json));
            MUST(!item->key || value_get(value, item->key) == item);
            check_same(item, other);
        }
    }
    MUST(!json_is_string(json) || strcmp(value->string, json_string_value(json)) == 0);
    MUST(!json_is_integer(json) || value->integer == json_integer_value(json));
}

struct all_fields {
    const char *string;
    struct opt_int integer;
    bool boolean;
    struct opt_bool maybe;
    void *object, *strings, *objects, *dict;
};

/* A table of all types there are finds them, or complains about one that is there, or has to be. */
static void check_fields(const struct value *value, json_t *json)
{
    static const struct field fields[] = {
        { "s", FIELD_STRING, offsetof(struct all_fields, string), FIELD_REQUIRED },
        { "i", FIELD_INT, offsetof(struct all_fields, integer), 0 },
        { "b", FIELD_BOOL, offsetof(struct all_fields, boolean), 0 },
        { "m", FIELD_OPT_BOOL, offsetof(struct all_fields, maybe), 0 },
        { "o", FIELD_OBJECT, offsetof(struct all_fields, object), 0 },
        { "S", FIELD_STRINGS, offsetof(struct all_fields, strings), 0 },
        { "O", FIELD_OBJECTS, offsetof(struct all_fields, objects), 0 },
        { "d", FIELD_DICT, offsetof(struct all_fields, dict), 0 },
        FIELDS_END,
    };
    struct all_fields all = { 0 };
    const char *bad = NULL;
    int r = fields_read(value, fields, FIELDS_STRICT, &all, &bad);

    if (r < 0) {
        MUST(r == -EINVAL && (json_object_get(json, bad) || strcmp(bad, "s") == 0));
        return;
    }
    MUST(!bad && strcmp(all.string, json_string_value(json_object_get(json, "s"))) == 0);
    MUST(all.integer.set == json_is_integer(json_object_get(json, "i")));
    MUST(all.integer.value == json_integer_value(json_object_get(json, "i")));
    MUST(all.boolean == json_is_true(json_object_get(json, "b")));
    MUST(all.maybe.set == json_is_boolean(json_object_get(json, "m")));
    MUST(!all.object == !json_is_object(json_object_get(json, "o")));
    MUST(!all.strings == !json_is_array(json_object_get(json, "S")));
    MUST(!all.objects == !json_is_array(json_object_get(json, "O")));
    MUST(!all.dict == !json_is_object(json_object_get(json, "d")));
    MUST(fields_read(value, fields, FIELDS_LENIENT, &all, &bad) == 0);
}

static void check_values(const char *text, size_t length)
{
    json_t *json = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    bool good = json_is_object(json) && depth_of(json) <= VALUE_DEPTH_MAX;
    struct varlink_request request;
    struct varlink_answer answer;
    struct json_reply reply;
    struct json_call call;
    struct values values;
    int r = values_read(text, length, &values);

    MUST(r == 0 || r == -EBADMSG);
    MUST(json_is_object(json) || r < 0);
    MUST(!good || r == 0);
    if (r == 0) {
        MUST(values.values[0].span == values.n);
        check_same(values.values, json);
        check_fields(values.values, json);
        values_clear(&values);
    }
    json_decref(json);
    r = varlink_answer_read(text, length, &answer);
    MUST(r == 0 || r == -EBADMSG);
    if (json_reply_parse(text, length, &reply) == 0) {
        MUST(r == 0 || !good);
        if (r == 0)
            check_reply(&answer, &reply);
        json_reply_clear(&reply);
    } else {
        MUST(r < 0);
    }
    if (r == 0)
        varlink_answer_clear(&answer);
    r = varlink_request_read(text, length, &request);
    MUST(r == 0 || r == -EBADMSG);
    if (json_call_parse(text, length, &call) < 0) {
        MUST(r < 0);
        return;
    }
    MUST(r == 0 || !good);
    if (r == 0) {
        check_call(&request, &call);
        varlink_request_clear(&request);
    }
    json_call_clear(&call);
}

/* ---- Without memory ---- */

/* What is read: all of it, or -ENOMEM. */
static void fail_reading(const char *text, size_t length, unsigned n)
{
    struct varlink_request request;
    struct values values;
    bool failed;
    int r;

    fail_at(n);
    fail_begin();
    r = varlink_request_read(text, length, &request);
    failed = fail_end();
    if (r == 0)
        varlink_request_clear(&request);
    MUST(!failed || r == -ENOMEM);
    fail_at(n);
    fail_begin();
    r = values_read(text, length, &values);
    failed = fail_end();
    if (r == 0)
        values_clear(&values);
    MUST(!failed || r == -ENOMEM);
}

/* What is written, behind a frame that waits: all of it, or nothing. */
static void fail_writing(const char *text, const struct value *parameters, unsigned n, bool is_call)
{
    struct frame_out out = { 0 };
    struct fdset fds = FDSET_EMPTY;
    const int number = numbered(0);
    struct emit emit;
    size_t before;
    bool failed;
    int r;

    MUST(fdset_adopt(&fds, &number, 1) == 0);
    MUST(frame_out_add(&out, "waits", 5) == 0 && frame_out_finish(&out, 0, NULL) == 0);
    before = frame_out_pending(&out);
    fail_at(n);
    fail_begin();
    if (is_call)
        varlink_call_begin(&emit, &out, "a.B");
    else
        varlink_reply_begin(&emit, &out, NULL);
    if (parameters)
        emit_value(&emit, "parameters", parameters);
    /* More than its buffer has room for. */
    for (unsigned i = 0; i < 64; i++)
        emit_string(&emit, "text", text);
    r = is_call ? varlink_call_end(&emit, VARLINK_MORE, &fds) : varlink_reply_end(&emit, true, &fds);
    failed = fail_end();
    MUST(r == (failed ? -ENOMEM : 0) && fds.n == 0);
    MUST((frame_out_pending(&out) > before) == !failed);
    frame_out_clear(&out);
}

static void fuzz_failing(struct input *input)
{
    unsigned n = input_byte(input);
    struct values values = { 0 };
    size_t length;
    char *text = input_text(input, '\0', &length);

    fail_reading(text, length, n);
    fail_at(0);
    (void)values_read(text, length, &values);
    fail_writing(text, values.values, n, true);
    fail_writing(text, values.values, n, false);
    values_clear(&values);
    free(text);
}

/* ---- What comes in ---- */

/* What has been put in, and what is expected to come out of it. */
struct stream {
    struct frame_in in;
    char *bytes;
    size_t length;
    size_t taken; /* of the bytes, as frames */
    struct {
        size_t at; /* of its first byte among the bytes */
        unsigned first, n;
        bool lost;
    } segments[64];
    size_t n_segments;
    unsigned next_number;
};

static void check_fds(struct stream *stream, const struct frame *frame)
{
    for (size_t i = 0; i < stream->n_segments; i++) {
        if (stream->segments[i].at != stream->taken)
            continue;
        MUST(frame->fds.n == stream->segments[i].n && frame->fds_lost == stream->segments[i].lost);
        for (size_t k = 0; k < frame->fds.n; k++)
            MUST(number_of(fdset_get(&frame->fds, k)) == stream->segments[i].first + k);
        return;
    }
    MUST(frame->fds.n == 0 && !frame->fds_lost);
}

static void take_frames(struct stream *stream)
{
    struct frame frame;

    while (frame_in_next(&stream->in, &frame) > 0) {
        MUST(stream->taken + frame.length < stream->length);
        MUST(memcmp(frame.text, stream->bytes + stream->taken, frame.length) == 0);
        MUST(strlen(frame.text) == frame.length && !stream->bytes[stream->taken + frame.length]);
        check_fds(stream, &frame);
        check_values(frame.text, frame.length);
        fdset_clear(&frame.fds);
        stream->taken += frame.length + 1;
    }
}

/* All that was put in has come in. */
static void check_taken(const struct stream *stream)
{
    MUST(!memchr(stream->bytes + stream->taken, '\0', stream->length - stream->taken));
    MUST(frame_in_idle(&stream->in) == (stream->taken == stream->length));
}

/* Notes that a segment with descriptors begins here. */
static void note(struct stream *stream, unsigned n, bool lost)
{
    MUST(stream->n_segments < 64);
    stream->segments[stream->n_segments].at = stream->length;
    stream->segments[stream->n_segments].first = stream->next_number;
    stream->segments[stream->n_segments].n = n;
    stream->segments[stream->n_segments++].lost = lost;
}

static void fuzz_in(struct input *input)
{
    struct stream stream = { .bytes = malloc(input_left(input) + 1) };

    MUST(stream.bytes);
    stream.in.limit = input_byte(input) * 4;
    while (input_left(input) > 3 && stream.n_segments < 64) {
        unsigned head = input_byte(input), n_fds = head & 7;
        size_t want = input_byte(input), room, n;
        bool lost = head & 8, idle = frame_in_idle(&stream.in);
        struct fdset fds = FDSET_EMPTY;
        const uint8_t *from;
        char *space, *nul;
        int numbers[8], r;

        want |= (size_t)input_byte(input) << 8;
        r = frame_in_space(&stream.in, &space, &room);
        MUST(r == 0 || r == -EMSGSIZE);
        if (r < 0)
            break;
        MUST(room > 0);
        n = want < room ? want : room;
        from = input_bytes(input, &n);
        if (n == 0)
            break;
        memcpy(space, from, n);
        nul = memchr(space, '\0', n);
        for (unsigned i = 0; i < n_fds; i++)
            numbers[i] = numbered(stream.next_number + i);
        MUST(fdset_adopt(&fds, numbers, n_fds) == 0);
        if (n_fds > 0 || lost)
            note(&stream, n_fds, lost);
        r = frame_in_fill(&stream.in, n, &fds, lost);
        MUST(fds.n == 0);
        if ((n_fds > 0 || lost) && (!idle || (nul && nul != space + n - 1))) {
            MUST(r == -EPROTO);
            break;
        }
        MUST(r == 0);
        memcpy(stream.bytes + stream.length, from, n);
        stream.length += n;
        stream.next_number += n_fds;
        if (head & 16)
            continue;
        take_frames(&stream);
        check_taken(&stream);
    }
    frame_in_clear(&stream.in);
    free(stream.bytes);
}

static int receive_all(struct stream *stream, int fd)
{
    int r;

    while ((r = socket_receive(fd, &stream->in)) > 0)
        take_frames(stream);
    check_taken(stream);
    return r;
}

/* Through the kernel, where segments without descriptors merge with what is in front of them. */
static void fuzz_socket(struct input *input)
{
    struct stream stream = { .bytes = malloc(input_left(input) + 1) };
    bool within = false; /* a frame has begun */
    int pair[2];

    MUST(stream.bytes && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    while (input_left(input) > 2 && stream.n_segments < 63) {
        unsigned head = input_byte(input), n_fds = head & 7;
        size_t n = input_byte(input) + 1;
        const uint8_t *from = input_bytes(input, &n);
        struct frame_out out = { 0 };
        struct fdset fds = FDSET_EMPTY;
        const uint8_t *nul = memchr(from, '\0', n);
        int numbers[8];

        /* Descriptors go with one whole frame: what else does is for fuzz_in(). */
        if (within || !nul || nul != from + n - 1)
            n_fds = 0;
        for (unsigned i = 0; i < n_fds; i++)
            numbers[i] = numbered(stream.next_number + i);
        MUST(fdset_adopt(&fds, numbers, n_fds) == 0);
        if (n_fds > 0) {
            note(&stream, n_fds, false);
            /* The NUL is its to add. */
            MUST(frame_out_add(&out, from, n - 1) == 0 && frame_out_finish(&out, 0, &fds) == 0);
        } else {
            MUST(frame_out_add(&out, from, n) == 0);
        }
        MUST(socket_send(pair[0], &out) == 0 && frame_out_pending(&out) == 0);
        frame_out_clear(&out);
        memcpy(stream.bytes + stream.length, from, n);
        stream.length += n;
        stream.next_number += n_fds;
        within = from[n - 1] != '\0';
        if (head & 16)
            continue;
        MUST(receive_all(&stream, pair[1]) == -EAGAIN);
    }
    (void)shutdown(pair[0], SHUT_WR);
    MUST(receive_all(&stream, pair[1]) == 0);
    frame_in_clear(&stream.in);
    fd_close(pair[0]);
    fd_close(pair[1]);
    free(stream.bytes);
}

/* ---- What goes out ---- */

struct sink {
    struct frame_in in; /* what was sent, put together again */
    char *bytes;        /* what should have been */
    size_t length, taken;
    struct {
        size_t at;
        unsigned first, n;
    } frames[256];
    size_t n_frames, next_frame;
};

static void sink_take(struct sink *sink, struct frame_out *out, size_t most)
{
    const struct fdset *fds;
    struct frame frame;
    const char *bytes;
    size_t n = frame_out_peek(out, &bytes, &fds), room;
    struct fdset copy = FDSET_EMPTY;
    char *space;

    MUST((n == 0) == (frame_out_pending(out) == 0));
    n = n < most ? n : most;
    if (n == 0)
        return;
    MUST(frame_in_space(&sink->in, &space, &room) == 0);
    n = n < room ? n : room;
    memcpy(space, bytes, n);
    if (fds->n > 0)
        MUST(fdset_dup(&copy, fds->fds, fds->n) == 0);
    MUST(frame_in_fill(&sink->in, n, &copy, false) == 0);
    frame_out_sent(out, n);
    while (frame_in_next(&sink->in, &frame) > 0) {
        unsigned n_fds = 0, first = 0;

        MUST(memcmp(frame.text, sink->bytes + sink->taken, frame.length + 1) == 0);
        MUST(sink->next_frame < sink->n_frames && sink->frames[sink->next_frame].at == sink->taken);
        n_fds = sink->frames[sink->next_frame].n;
        first = sink->frames[sink->next_frame++].first;
        MUST(frame.fds.n == n_fds);
        for (unsigned i = 0; i < n_fds; i++)
            MUST(number_of(fdset_get(&frame.fds, i)) == first + i);
        fdset_clear(&frame.fds);
        sink->taken += frame.length + 1;
    }
}

static void fuzz_out(struct input *input)
{
    struct sink sink = { .bytes = malloc(input_left(input) + 1) };
    struct frame_out out = { 0 };
    unsigned next_number = 0;

    MUST(sink.bytes);
    while (input_left(input) > 2 && sink.n_frames < 256) {
        unsigned n_fds = input_byte(input) & 7, send = input_byte(input);
        struct fdset fds = FDSET_EMPTY;
        size_t length, begin = frame_out_mark(&out), half;
        char *text = input_text(input, '\0', &length);
        int numbers[8];

        half = length / 2;
        MUST(frame_out_add(&out, text, half) == 0 && frame_out_add(&out, text + half, length - half) == 0);
        if (send & 128) {
            frame_out_cancel(&out, begin);
        } else {
            for (unsigned i = 0; i < n_fds; i++)
                numbers[i] = numbered(next_number + i);
            MUST(fdset_adopt(&fds, numbers, n_fds) == 0);
            memcpy(sink.bytes + sink.length, text, length + 1);
            sink.frames[sink.n_frames].at = sink.length;
            sink.frames[sink.n_frames].first = next_number;
            sink.frames[sink.n_frames++].n = n_fds;
            sink.length += length + 1;
            next_number += n_fds;
            MUST(frame_out_finish(&out, begin, &fds) == 0 && fds.n == 0);
        }
        free(text);
        sink_take(&sink, &out, send & 127);
    }
    /* Half of the inputs leave unsent what is there at the end. */
    while (next_number % 2 == 0 && frame_out_pending(&out) > 0)
        sink_take(&sink, &out, SIZE_MAX);
    frame_out_clear(&out);
    frame_in_clear(&sink.in);
    free(sink.bytes);
}

/* Too long for whoever is to read it, it is not begun. */
static void fuzz_big(struct input *input)
{
    size_t length = input_byte(input) * (size_t)32768;
    struct frame_out out = { 0 };
    struct fdset fds = FDSET_EMPTY;
    const int number = numbered(0);
    struct emit emit;
    char *text = malloc(length + 1);
    int r;

    MUST(text && fdset_adopt(&fds, &number, 1) == 0);
    memset(text, 'x', length);
    text[length] = '\0';
    varlink_reply_begin(&emit, &out, NULL);
    emit_string(&emit, "text", text);
    free(text);
    r = varlink_reply_end(&emit, true, &fds);
    MUST(r == (length < FRAME_REPLY_MAX ? 0 : -EMSGSIZE) && fds.n == 0);
    MUST((r == 0) == (frame_out_pending(&out) > 0));
    frame_out_clear(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = { data, data + size };
    size_t before = fuzz_count_fds(), length;
    char *text;

    switch (input_byte(&input)) {
    case 'i':
        fuzz_in(&input);
        break;
    case 's':
        fuzz_socket(&input);
        break;
    case 'o':
        fuzz_out(&input);
        break;
    case 'c':
        text = input_text(&input, '\0', &length);
        check_values(text, length);
        free(text);
        break;
    case 'b':
        fuzz_big(&input);
        break;
    case 'x':
        fuzz_failing(&input);
        break;
    default:
        break;
    }
    MUST(fuzz_count_fds() == before);
    return 0;
}
