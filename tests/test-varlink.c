/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Varlink's calls and replies (src/wire/varlink.c): what is refused, what is the same, and exactly what is
 * written. No socket: texts in, frames out.
 */
#include "util.h"
#include "wire/interface.h"
#include "wire/varlink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static struct fdset make_set(size_t n)
{
    struct fdset set = FDSET_EMPTY;
    int fds[FRAME_MAX_FDS];

    for (size_t i = 0; i < n; i++)
        fds[i] = fd_make();
    assert_int_equal(fdset_adopt(&set, fds, n), 0);
    return set;
}

/* ---- Calls that come in ---- */

#define TEXT(text) text, sizeof(text) - 1

struct text {
    const char *bytes;
    size_t length;
};

/* Refused as calls and as replies. */
static const struct text malformed[] = {
    /* no JSON */
    { TEXT("") },
    { TEXT(" ") },
    { TEXT("method") },
    { TEXT("{") },
    { TEXT("}") },
    { TEXT("{]") },
    { TEXT("{method: \"a.b.C\"}") },
    { TEXT("{'method': 'a.b.C'}") },
    { TEXT("{\"method\": \"a.b.C\",}") },
    { TEXT("{\"method\": \"a.b.C\"") },
    { TEXT("{\"method\": \"a.b.C") },
    { TEXT("{\"method\": \"a.b.C\"}}") },
    { TEXT("{\"method\": \"a.b.C\"} x") },
    { TEXT("{\"method\": \"a.b.C\"}{\"method\": \"a.b.C\"}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {\"a\": 01}}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {\"a\": NaN}}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {\"a\": 9223372036854775808}}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {\"a\": 1e999}}") },
    { TEXT("{\"method\": \"a\n\"}") },
    { TEXT("\xef\xbb\xbf{\"method\": \"a.b.C\"}") },
    /* no object */
    { TEXT("null") },
    { TEXT("true") },
    { TEXT("1") },
    { TEXT("\"a.b.C\"") },
    { TEXT("[]") },
    { TEXT("[{\"method\": \"a.b.C\"}]") },
    /* a NUL, as it is and escaped, in a value and in a key */
    { TEXT("{\"method\": \"a.b.C\"}\0") },
    { TEXT("\0") },
    { TEXT("{\"method\": \"a.b\0.C\"}") },
    { TEXT("{\"method\": \"a.b\\u0000.C\"}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {\"a\": \"\\u0000\"}}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {\"a\\u0000\": 1}}") },
    /* no UTF-8: a lone byte, cut off, overlong, a surrogate, too large; and lone escaped surrogates */
    { TEXT("{\"method\": \"\x80\"}") },
    { TEXT("{\"method\": \"\xff\"}") },
    { TEXT("{\"method\": \"\xc3\"}") },
    { TEXT("{\"method\": \"\xc0\xaf\"}") },
    { TEXT("{\"method\": \"\xe0\x80\xaf\"}") },
    { TEXT("{\"method\": \"\xed\xa0\x80\"}") },
    { TEXT("{\"method\": \"\xf4\x90\x80\x80\"}") },
    { TEXT("{\"\xff\": \"a.b.C\"}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {\"\xff\": 1}}") },
    { TEXT("{\"method\": \"\\ud800\"}") },
    { TEXT("{\"method\": \"\\udc00\"}") },
};

static const struct text bad_calls[] = {
    /* no method */
    { TEXT("{}") },
    { TEXT("{\"parameters\": {}}") },
    { TEXT("{\"method\": null}") },
    { TEXT("{\"method\": 1}") },
    { TEXT("{\"method\": true}") },
    { TEXT("{\"method\": [\"a.b.C\"]}") },
    { TEXT("{\"method\": {}}") },
    { TEXT("{\"Method\": \"a.b.C\"}") },
    { TEXT("{\"error\": \"a.b.C\"}") },
    /* parameters */
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": []}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": [1]}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": \"\"}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": 0}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": false}") },
    /* flags */
    { TEXT("{\"method\": \"a.b.C\", \"oneway\": 1}") },
    { TEXT("{\"method\": \"a.b.C\", \"more\": \"true\"}") },
    { TEXT("{\"method\": \"a.b.C\", \"upgrade\": {}}") },
    { TEXT("{\"method\": \"a.b.C\", \"oneway\": true, \"more\": true}") },
    { TEXT("{\"method\": \"a.b.C\", \"oneway\": true, \"upgrade\": true}") },
    { TEXT("{\"method\": \"a.b.C\", \"more\": true, \"upgrade\": true}") },
    { TEXT("{\"method\": \"a.b.C\", \"more\": true, \"upgrade\": true, \"oneway\": true}") },
    /* unknown keys, whatever is in them */
    { TEXT("{\"method\": \"a.b.C\", \"unknown\": 1}") },
    { TEXT("{\"method\": \"a.b.C\", \"unknown\": null}") },
    { TEXT("{\"method\": \"a.b.C\", \"\": {}}") },
    { TEXT("{\"method\": \"a.b.C\", \"continues\": true}") },
    { TEXT("{\"method\": \"a.b.C\", \"Parameters\": {}}") },
    /* duplicate keys, at any depth, equal or not */
    { TEXT("{\"method\": \"a.b.C\", \"method\": \"a.b.C\"}") },
    { TEXT("{\"method\": \"a.b.C\", \"method\": \"a.b.D\"}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {}, \"parameters\": {}}") },
    { TEXT("{\"method\": \"a.b.C\", \"more\": true, \"more\": true}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {\"a\": 1, \"a\": 1}}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {\"a\": 1, \"\\u0061\": 1}}") },
    { TEXT("{\"method\": \"a.b.C\", \"parameters\": {\"a\": [{\"b\": null, \"b\": null}]}}") },
};

static void refuse_call(const struct text *text)
{
    struct varlink_request call = { .method = "untouched" };
    char *copy = malloc(text->length + 1);
    int r;

    assert_non_null(copy);
    memcpy(copy, text->bytes, text->length);
    copy[text->length] = '\0';
    r = varlink_request_read(copy, text->length, &call);
    if (r != -EBADMSG)
        fail_msg("%d for: %s", r, copy);
    assert_string_equal(call.method, "untouched");
    assert_null(call.root);
    free(copy);
}

static void test_malformed_calls(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++)
        refuse_call(&malformed[i]);
    for (size_t i = 0; i < sizeof(bad_calls) / sizeof(bad_calls[0]); i++)
        refuse_call(&bad_calls[i]);
}

/* A call with depth arrays or objects within one another. */
static char *nested(size_t depth, const char *open, const char *inner, char close)
{
    static const char head[] = "{\"method\":\"a.b.C\",\"parameters\":{\"a\":";
    size_t n = strlen(open);
    char *text = malloc(sizeof(head) + depth * (n + 1) + strlen(inner) + 2), *to;

    assert_non_null(text);
    to = stpcpy(text, head);
    for (size_t i = 0; i < depth; i++)
        to = stpcpy(to, open);
    to = stpcpy(to, inner);
    memset(to, close, depth);
    (void)stpcpy(to + depth, "}}");
    return text;
}

/* As deep as a frame can be: refused, and without an end to the stack. */
static void test_too_deep(void **state)
{
    static const struct {
        size_t depth;
        const char *open, *inner;
        char close;
        int result;
    } cases[] = {
        { VALUE_DEPTH_MAX - 2, "[", "", ']', 0 },
        { VALUE_DEPTH_MAX - 2, "{\"a\":", "1", '}', 0 },
        { VALUE_DEPTH_MAX - 1, "[", "", ']', -EBADMSG },
        { VALUE_DEPTH_MAX - 1, "{\"a\":", "1", '}', -EBADMSG },
        { 10000, "[", "", ']', -EBADMSG },
        { 10000, "{\"a\":", "1", '}', -EBADMSG },
        { FRAME_MAX / 2 - 100, "[", "", ']', -EBADMSG },
        { FRAME_MAX / 6 - 100, "{\"a\":", "1", '}', -EBADMSG },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *text = nested(cases[i].depth, cases[i].open, cases[i].inner, cases[i].close);
        struct varlink_request call = { 0 };

        assert_true(strlen(text) <= FRAME_MAX);
        assert_int_equal(varlink_request_read(text, strlen(text), &call), cases[i].result);
        varlink_request_clear(&call);
        free(text);
    }
}

static void test_calls(void **state)
{
    static const struct {
        const char *text;
        size_t n_parameters;
        bool oneway, more, upgrade;
    } cases[] = {
        /* absent, null and {} are the same */
        { "{\"method\":\"a.b.C\"}", 0, false, false, false },
        { "{\"method\":\"a.b.C\",\"parameters\":null}", 0, false, false, false },
        { "{\"method\":\"a.b.C\",\"parameters\":{}}", 0, false, false, false },
        { "{\"method\":\"a.b.C\",\"oneway\":null,\"more\":null,\"upgrade\":null}", 0, false, false, false },
        { "{\"method\":\"a.b.C\",\"oneway\":false,\"more\":false,\"upgrade\":false}", 0, false, false,
            false },
        /* one flag, others false or null beside it */
        { "{\"method\":\"a.b.C\",\"oneway\":true}", 0, true, false, false },
        { "{\"method\":\"a.b.C\",\"more\":true,\"oneway\":false}", 0, false, true, false },
        { "{\"upgrade\":true,\"more\":null,\"method\":\"a.b.C\"}", 0, false, false, true },
        { "{\"parameters\":{\"x\":1,\"y\":null},\"method\":\"a.b.C\"}", 2, false, false, false },
        { " { \"method\" : \"a.b.C\" , \"parameters\" : { \"x\" : [ ] } } \r\n", 1, false, false, false },
        { "{\"\\u006dethod\":\"a.b\\u002eC\",\"parameters\":{\"\xc3\xa4\":\"\\ud83d\\ude00\"}}", 1, false,
            false, false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct varlink_request call;

        assert_int_equal(varlink_request_read(cases[i].text, strlen(cases[i].text), &call), 0);
        assert_non_null(call.root);
        assert_string_equal(call.method, "a.b.C");
        /* NULL serves as the empty one */
        assert_int_equal(value_size(call.parameters), cases[i].n_parameters);
        assert_int_equal(call.oneway, cases[i].oneway);
        assert_int_equal(call.more, cases[i].more);
        assert_int_equal(call.upgrade, cases[i].upgrade);
        varlink_request_clear(&call);
        assert_null(call.root);
        assert_null(call.method);
        varlink_request_clear(&call);
    }
}

/* The text ends where the length says, whatever is behind it. */
static void test_length_counts(void **state)
{
    static const char text[] = "{\"method\":\"a.b.C\"}garbage";
    struct varlink_request call;

    (void)state;
    assert_int_equal(varlink_request_read(text, strlen(text) - strlen("garbage"), &call), 0);
    assert_string_equal(call.method, "a.b.C");
    varlink_request_clear(&call);
    assert_int_equal(varlink_request_read(text, strlen(text) - strlen("garbage") - 1, &call), -EBADMSG);
    assert_int_equal(varlink_request_read(text, strlen(text), &call), -EBADMSG);
}

/* ---- Replies that come in ---- */

static void test_replies(void **state)
{
    static const struct {
        const char *text, *error;
        size_t n_parameters;
        bool continues;
    } cases[] = {
        { "{}", NULL, 0, false },
        { "{\"parameters\":null}", NULL, 0, false },
        { "{\"parameters\":{}}", NULL, 0, false },
        { "{\"parameters\":{\"a\":1}}", NULL, 1, false },
        { "{\"parameters\":{\"a\":1},\"continues\":true}", NULL, 1, true },
        { "{\"parameters\":{\"a\":1},\"continues\":false,\"error\":null}", NULL, 1, false },
        { "{\"error\":\"a.b.C\"}", "a.b.C", 0, false },
        { "{\"error\":\"a.b.C\",\"parameters\":{\"a\":1},\"continues\":false}", "a.b.C", 1, false },
    };
    static const char *const bad[] = {
        "{\"parameters\":[]}",
        "{\"parameters\":1}",
        "{\"continues\":1}",
        "{\"continues\":\"true\"}",
        "{\"error\":1}",
        "{\"error\":{}}",
        "{\"error\":\"a.b.C\",\"continues\":true}",
        "{\"unknown\":1}",
        "{\"method\":\"a.b.C\"}",
        "{\"parameters\":{},\"parameters\":{}}",
        "{\"parameters\":{\"a\":1,\"a\":1}}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct varlink_answer reply;

        assert_int_equal(varlink_answer_read(cases[i].text, strlen(cases[i].text), &reply), 0);
        assert_int_equal(value_size(reply.parameters), cases[i].n_parameters);
        assert_int_equal(reply.continues, cases[i].continues);
        if (cases[i].error)
            assert_string_equal(reply.error, cases[i].error);
        else
            assert_null(reply.error);
        varlink_answer_clear(&reply);
        assert_null(reply.values.values);
        varlink_answer_clear(&reply);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct varlink_answer reply = { .error = "untouched" };

        assert_int_equal(varlink_answer_read(bad[i], strlen(bad[i]), &reply), -EBADMSG);
        assert_string_equal(reply.error, "untouched");
    }
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
        struct varlink_answer reply;

        assert_int_equal(varlink_answer_read(malformed[i].bytes, malformed[i].length, &reply), -EBADMSG);
    }
}

/* ---- What goes out ---- */

/* All that may go out next is this one frame. */
static void expect_frame(struct frame_out *out, const char *text, size_t n_fds)
{
    const struct fdset *fds;
    const char *bytes;

    assert_int_equal(frame_out_peek(out, &bytes, &fds), strlen(text) + 1);
    assert_string_equal(bytes, text);
    assert_int_equal(fds->n, n_fds);
    frame_out_sent(out, strlen(text) + 1);
}

/* Writers, each of a whole frame: parameters are the members of that object, NULL for none. */
static void put(struct emit *emit, const char *parameters)
{
    struct values values = { 0 };
    const struct value *member;

    if (parameters && values_read(parameters, strlen(parameters), &values) < 0)
        fail_msg("the test's own JSON is bad: %s", parameters);
    VALUE_FOREACH(member, values.values)
    emit_value(emit, member->key, member);
    values_clear(&values);
}

static int write_call(struct frame_out *out, const char *parameters, unsigned flags, struct fdset *fds)
{
    struct emit emit;

    varlink_call_begin(&emit, out, "a.b.C");
    put(&emit, parameters);
    return varlink_call_end(&emit, flags, fds);
}

static int write_reply(
    struct frame_out *out, const char *error, const char *parameters, bool continues, struct fdset *fds)
{
    struct emit emit;

    varlink_reply_begin(&emit, out, error);
    put(&emit, parameters);
    return varlink_reply_end(&emit, continues, fds);
}

static void test_write(void **state)
{
    static const char some[] = "{\"b\":[1,null,\"\xc3\xa4\",-1.5e+3],\"a\":{\"c\":true,\"d\":false}}";
    struct frame_out out = { 0 };
    struct fdset set = FDSET_EMPTY;
    char text[200];

    (void)state;
    /* calls */
    assert_int_equal(write_call(&out, NULL, 0, &set), 0);
    expect_frame(&out, "{\"method\":\"a.b.C\",\"parameters\":{}}", 0);
    assert_int_equal(write_call(&out, NULL, VARLINK_MORE, NULL), 0);
    expect_frame(&out, "{\"method\":\"a.b.C\",\"parameters\":{},\"more\":true}", 0);
    set = make_set(2);
    assert_int_equal(write_call(&out, some, VARLINK_ONEWAY, &set), 0);
    assert_int_equal(set.n, 0);
    (void)snprintf(text, sizeof(text), "{\"method\":\"a.b.C\",\"parameters\":%s,\"oneway\":true}", some);
    expect_frame(&out, text, 2);

    /* replies: these three keys and no other, none of them null or false */
    assert_int_equal(write_reply(&out, NULL, NULL, false, NULL), 0);
    expect_frame(&out, "{\"parameters\":{}}", 0);
    set = make_set(1);
    assert_int_equal(write_reply(&out, NULL, some, true, &set), 0);
    assert_int_equal(set.n, 0);
    (void)snprintf(text, sizeof(text), "{\"parameters\":%s,\"continues\":true}", some);
    expect_frame(&out, text, 1);
    assert_int_equal(write_reply(&out, "a.b.D", NULL, false, NULL), 0);
    expect_frame(&out, "{\"error\":\"a.b.D\",\"parameters\":{}}", 0);
    assert_int_equal(write_reply(&out, "a.b.D", some, false, NULL), 0);
    (void)snprintf(text, sizeof(text), "{\"error\":\"a.b.D\",\"parameters\":%s}", some);
    expect_frame(&out, text, 0);
    frame_out_clear(&out);
}

/* What one side writes the other one reads, control characters and quotes in strings included. */
static void test_write_and_read(void **state)
{
    struct frame_out out = { 0 };
    struct varlink_request call;
    const struct value *member;
    const struct fdset *fds;
    struct emit emit;
    const char *bytes;
    size_t n;
    int c = 1;

    (void)state;
    varlink_call_begin(&emit, &out, "a.b.C");
    for (int i = 1; i < 128; i++) {
        const char key[] = { (char)i, 'k', '\0' };

        emit_string(&emit, key, key);
    }
    emit_int(&emit, "least", INT64_MIN);
    emit_int(&emit, "most", INT64_MAX);
    assert_int_equal(varlink_call_end(&emit, VARLINK_MORE, NULL), 0);
    n = frame_out_peek(&out, &bytes, &fds);
    assert_int_equal(strlen(bytes), n - 1);
    assert_int_equal(varlink_request_read(bytes, n - 1, &call), 0);
    assert_true(call.more);
    assert_int_equal(value_size(call.parameters), 129);
    VALUE_FOREACH(member, call.parameters)
    {
        const char key[] = { (char)c++, 'k', '\0' };

        if (member->type == VALUE_STRING) {
            assert_string_equal(member->key, key);
            assert_string_equal(member->string, key);
        }
    }
    assert_true(value_get(call.parameters, "least")->integer == INT64_MIN);
    assert_true(value_get(call.parameters, "most")->integer == INT64_MAX);
    varlink_request_clear(&call);
    frame_out_clear(&out);
}

/* {"a":"xxx...": as long as makes the reply length bytes long. */
static char *long_parameters(size_t length)
{
    size_t n = length - strlen("{\"parameters\":{\"a\":\"\"}}");
    char *text = malloc(n + 9);

    assert_non_null(text);
    memcpy(text, "{\"a\":\"", 6);
    memset(text + 6, 'x', n);
    memcpy(text + 6 + n, "\"}", 3);
    return text;
}

/* The longest frame that is written is the longest that is read, by whoever says that it reads answers. */
static void test_longest(void **state)
{
    char *parameters = long_parameters(FRAME_REPLY_MAX);
    struct frame_in in = { .limit = FRAME_REPLY_MAX };
    struct fdset none = FDSET_EMPTY;
    struct frame_out out = { 0 };
    const struct fdset *fds;
    struct frame frame;
    const char *bytes;
    size_t n;

    (void)state;
    assert_int_equal(write_reply(&out, NULL, parameters, false, NULL), 0);
    assert_int_equal(frame_out_pending(&out), FRAME_REPLY_MAX + 1);
    while ((n = frame_out_peek(&out, &bytes, &fds)) > 0) {
        size_t length;
        char *space;

        assert_int_equal(frame_in_space(&in, &space, &length), 0);
        n = n < length ? n : length;
        memcpy(space, bytes, n);
        assert_int_equal(frame_in_fill(&in, n, &none, false), 0);
        frame_out_sent(&out, n);
    }
    assert_int_equal(frame_in_next(&in, &frame), 1);
    assert_int_equal(frame.length, FRAME_REPLY_MAX);
    frame_in_clear(&in);
    frame_out_clear(&out);
    free(parameters);
}

/* A byte more is nobody's frame: it is not queued, its descriptors are closed, the rest stays as it was. */
static void test_too_long(void **state)
{
    static const size_t lengths[] = { FRAME_REPLY_MAX + 1, FRAME_REPLY_MAX + 2, 2 * FRAME_REPLY_MAX };
    size_t before = fds_count();
    struct frame_out out = { 0 };
    struct fdset set = make_set(2);

    (void)state;
    assert_int_equal(write_reply(&out, NULL, NULL, true, NULL), 0);
    assert_int_equal(write_reply(&out, NULL, NULL, false, &set), 0);
    assert_int_equal(write_reply(&out, "a.b.D", NULL, false, NULL), 0);
    /* one is partly out */
    frame_out_sent(&out, 5);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        char *parameters = long_parameters(lengths[i]);
        size_t pending = frame_out_pending(&out);

        set = make_set(3);
        assert_int_equal(write_reply(&out, NULL, parameters, false, &set), -EMSGSIZE);
        assert_int_equal(set.n, 0);
        assert_null(set.fds);
        assert_int_equal(fds_count(), before + 2);
        assert_int_equal(frame_out_pending(&out), pending);
        set = make_set(3);
        assert_int_equal(write_call(&out, parameters, 0, &set), -EMSGSIZE);
        assert_int_equal(fds_count(), before + 2);
        assert_int_equal(write_reply(&out, "a.b.D", parameters, false, NULL), -EMSGSIZE);
        assert_int_equal(frame_out_pending(&out), pending);
        free(parameters);
    }
    set = make_set(1);
    assert_int_equal(write_reply(&out, "a.b.E", NULL, false, NULL), 0);
    assert_int_equal(write_reply(&out, NULL, NULL, false, &set), 0);
    expect_frame(&out, "ameters\":{},\"continues\":true}", 0);
    expect_frame(&out, "{\"parameters\":{}}", 2);
    {
        const struct fdset *fds;
        const char *bytes;
        static const char both[] =
            "{\"error\":\"a.b.D\",\"parameters\":{}}\0{\"error\":\"a.b.E\",\"parameters\":{}}";

        assert_int_equal(frame_out_peek(&out, &bytes, &fds), sizeof(both));
        assert_memory_equal(bytes, both, sizeof(both));
        frame_out_sent(&out, sizeof(both));
    }
    expect_frame(&out, "{\"parameters\":{}}", 1);
    assert_int_equal(frame_out_pending(&out), 0);
    frame_out_clear(&out);
}

/* ---- The interfaces' text ---- */

static void test_interfaces(void **state)
{
    static const char *const names[] = { "org.varlink.service", "io.evlink.Broker", "io.evlink.Agent" };

    (void)state;
    assert_int_equal(n_interfaces, 3);
    assert_string_equal(interfaces[0].name, names[0]);
    for (size_t i = 0; i < 3; i++) {
        const char *description = interface_description(names[i]);
        char line[64];

        assert_non_null(description);
        (void)snprintf(line, sizeof(line), "\ninterface %s\n", names[i]);
        assert_non_null(strstr(description, line));
        assert_int_equal(description[strlen(description) - 1], '\n');
        assert_null(strchr(description, '\r'));
    }
    assert_null(interface_description("io.evlink"));
    assert_null(interface_description("io.evlink.broker"));
    assert_null(interface_description(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_malformed_calls),
        TEST(test_too_deep),
        TEST(test_calls),
        TEST(test_length_counts),
        TEST(test_replies),
        TEST(test_write),
        TEST(test_write_and_read),
        TEST(test_longest),
        TEST(test_too_long),
        TEST(test_interfaces),
    };

    return cmocka_run_group_tests_name("varlink", tests, NULL, NULL);
}
