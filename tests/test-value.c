/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON as arrays of values (src/wire/value.c), and JSON written straight (src/wire/emit.c): each beside
 * jansson, which has to take, or to be given, the very same.
 */
#include "json.h"
#include "util.h"
#include "wire/emit.h"
#include "wire/value.h"
#include "wire/varlink.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- Reading ---- */

static void assert_same(const struct value *value, json_t *json)
{
    const struct value *item;
    size_t i = 0;

    switch (json_typeof(json)) {
    case JSON_OBJECT:
        assert_int_equal(value->type, VALUE_OBJECT);
        assert_int_equal(value_size(value), json_object_size(json));
        VALUE_FOREACH(item, value)
        {
            assert_non_null(json_object_get(json, item->key));
            assert_same(item, json_object_get(json, item->key));
        }
        break;
    case JSON_ARRAY:
        assert_int_equal(value->type, VALUE_ARRAY);
        assert_int_equal(value_size(value), json_array_size(json));
        VALUE_FOREACH(item, value)
        {
            assert_null(item->key);
            assert_same(item, json_array_get(json, i++));
        }
        break;
    case JSON_STRING:
        assert_int_equal(value->type, VALUE_STRING);
        assert_string_equal(value->string, json_string_value(json));
        break;
    case JSON_INTEGER:
        assert_int_equal(value->type, VALUE_INT);
        assert_true(value->integer == json_integer_value(json));
        break;
    case JSON_REAL:
        assert_int_equal(value->type, VALUE_REAL);
        break;
    case JSON_TRUE:
        assert_int_equal(value->type, VALUE_TRUE);
        break;
    case JSON_FALSE:
        assert_int_equal(value->type, VALUE_FALSE);
        break;
    case JSON_NULL:
        assert_int_equal(value->type, VALUE_NULL);
        break;
    }
}

static json_t *emitted(struct frame_out *out)
{
    const struct fdset *fds;
    const char *bytes;
    size_t n = frame_out_peek(out, &bytes, &fds);
    json_t *json = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, NULL);

    if (!json)
        fail_msg("no JSON: %.*s", (int)n, bytes);
    return json;
}

/* Reads text both ways, and writes what was read. Returns whether it was taken. */
static bool read_both(const char *text, size_t length)
{
    json_t *json = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL), *written;
    struct frame_out out = { 0 };
    struct emit emit = { .out = &out };
    struct values values;
    int r = values_read(text, length, &values);

    if (!json_is_object(json)) {
        if (r != -EBADMSG)
            fail_msg("taken, and jansson does not: %.*s", (int)length, text);
        json_decref(json);
        return false;
    }
    if (r != 0)
        fail_msg("not taken (%d), and jansson does: %.*s", r, (int)length, text);
    assert_int_equal(values.values[0].span, values.n);
    assert_same(values.values, json);
    emit_value(&emit, NULL, values.values);
    written = emitted(&out);
    if (!json_equal(written, json))
        fail_msg("written differently: %.*s", (int)length, text);
    json_decref(written);
    frame_out_clear(&out);
    values_clear(&values);
    json_decref(json);
    return true;
}

static const char *const good[] = {
    "{}",
    " \t\r\n{ \"a\" : [ ] , \"b\" : { } } \n",
    "{\"method\":\"io.evlink.Broker.Hold\",\"parameters\":{\"name\":\"h0\",\"fileDescriptorIndex\":0}}",
    "{\"a\":[1,-1,0,-0,9223372036854775807,-9223372036854775808,1.5,-0.0,1e3,1E+3,1e-3,0e0,1e308,1e-400]}",
    "{\"a\":[true,false,null,\"\",[[[]]],{\"\":{\"\":1}}]}",
    "{\"\\\"\\\\\\/\\b\\f\\n\\r\\t\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}",
    "{\"a\":\"\\u0001\\u007f\\u0080\\u07ff\\u0800\\uffff\\uFfFf\\ud800\\udc00\\udbff\\udfff\"}",
    "{\"\x7f\":"
    "\"\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"}",
    "{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,\"i\":1,\"j\":{\"a\":1,\"b\":[{\"a\":1}"
    "]}}",
};

static const char *const bad[] = {
    "",
    " ",
    "[]",
    "1",
    "\"a\"",
    "null",
    "{",
    "}",
    "{}{}",
    "{},",
    "{} x",
    "[{}]",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{,}",
    "{a:1}",
    "{1:1}",
    "{\"a\" 1}",
    "{\"a\":1 \"b\":1}",
    "{\"a\":[1,]}",
    "{\"a\":[,1]}",
    "{\"a\":[1 2]}",
    "{\"a\":[}",
    "{\"a\":{]}",
    "{\"a\":[}]",
    /* twice the same key, few and many, also where it is written in two ways */
    "{\"a\":1,\"a\":1}",
    "{\"a\":1,\"\\u0061\":1}",
    "{\"b\":{\"a\":1,\"a\":2}}",
    "{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,\"i\":1,\"j\":1,\"c\":1}",
    /* numbers */
    "{\"a\":01}",
    "{\"a\":-}",
    "{\"a\":+1}",
    "{\"a\":1.}",
    "{\"a\":.5}",
    "{\"a\":1e}",
    "{\"a\":1e+}",
    "{\"a\":-01}",
    "{\"a\":0x1}",
    "{\"a\":1e400}",
    "{\"a\":-1e400}",
    "{\"a\":9223372036854775808}",
    "{\"a\":-9223372036854775809}",
    "{\"a\":NaN}",
    "{\"a\":1a}",
    "{\"a\":00}",
    /* words */
    "{\"a\":tru}",
    "{\"a\":True}",
    "{\"a\":truex}",
    "{\"a\":nul}",
    "{\"a\":nulll}",
    /* strings */
    "{\"a\":\"}",
    "{\"a",
    "{\"a\":\"\\",
    "{\"a\":\"\\u",
    "{\"a\":\"\\u12\"}",
    "{\"a\":\"\\u123g\"}",
    "{\"a\":\"\\x\"}",
    "{\"a\":\"\n\"}",
    "{\"a\":\"\x1f\"}",
    "{\"a\":\"\\u0000\"}",
    "{\"\\u0000\":1}",
    "{\"a\":\"\\ud800\"}",
    "{\"a\":\"\\ud800x\"}",
    "{\"a\":\"\\ud800\\u0061\"}",
    "{\"a\":\"\\ud800\\ud800\"}",
    "{\"a\":\"\\udc00\"}",
    "{\"a\":'b'}",
    "{\"a\":\"\\U0061\"}",
    /* UTF-8: alone, cut, too long, surrogates, too large */
    "{\"a\":\"\x80\"}",
    "{\"a\":\"\xc3\"}",
    "{\"a\":\"\xc0\x80\"}",
    "{\"a\":\"\xc1\xbf\"}",
    "{\"a\":\"\xe0\x9f\xbf\"}",
    "{\"a\":\"\xed\xa0\x80\"}",
    "{\"a\":\"\xed\xbf\xbf\"}",
    "{\"a\":\"\xe2\x82\"}",
    "{\"a\":\"\xf0\x8f\xbf\xbf\"}",
    "{\"a\":\"\xf4\x90\x80\x80\"}",
    "{\"a\":\"\xf5\x80\x80\x80\"}",
    "{\"a\":\"\xff\"}",
    "{\"a\":\"\xf0\x90\x80\"}",
    "\xef\xbb\xbf{}",
    "{}\xc2\xa0",
};

static void test_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        if (!read_both(good[i], strlen(good[i])))
            fail_msg("neither takes %s", good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (read_both(bad[i], strlen(bad[i])))
            fail_msg("both take %s", bad[i]);
    /* a NUL is an end that comes too early, wherever it is */
    assert_false(read_both("{}\0", 3));
    assert_false(read_both("{\"a\0\":1}", 8));
    assert_false(read_both("{\"a\":\"\0\"}", 9));
}

/* What is good, changed at random: most of it is bad then, in all ways. */
static void test_changed(void **state)
{
    static const char pieces[] =
        "{}[]:,\"\\/u0123456789abcdefDC.eE+-tfn \t\n\x01\x80\xc2\xbf\xed\xf0\x90\xf4";
    unsigned seed = 1;
    size_t taken = 0;

    (void)state;
    for (int i = 0; i < 200000; i++) {
        const char *from = good[(size_t)rand_r(&seed) % (sizeof(good) / sizeof(good[0]))];
        size_t length = strlen(from);
        char text[512];

        memcpy(text, from, length);
        for (int changes = 1 + rand_r(&seed) % 3; changes > 0 && length > 0; changes--) {
            size_t place = (size_t)rand_r(&seed) % length, n = (size_t)rand_r(&seed) % (length - place + 1);

            switch (rand_r(&seed) % 4) {
            case 0: /* another byte */
            case 1:
                text[place] = pieces[(size_t)rand_r(&seed) % (sizeof(pieces) - 1)];
                break;
            case 2: /* some are missing */
                n = n < 4 ? n : 4;
                memmove(text + place, text + place + n, length - place - n);
                length -= n;
                break;
            case 3: /* some are there twice */
                if (length + n > sizeof(text))
                    break;
                memmove(text + place + n, text + place, length - place);
                length += n;
                break;
            }
        }
        taken += read_both(text, length);
    }
    /* else it is not worth much */
    assert_in_range(taken, 5000, 195000);
}

/* What differs from jansson. */
static void test_depth(void **state)
{
    char text[4 * VALUE_DEPTH_MAX];
    struct values values;

    (void)state;
    for (int depth = VALUE_DEPTH_MAX - 1; depth <= VALUE_DEPTH_MAX; depth++) {
        int n = snprintf(text, sizeof(text), "{\"a\":");

        memset(text + n, '[', (size_t)depth);
        memset(text + n + depth, ']', (size_t)depth);
        text[n + 2 * depth] = '}';
        assert_int_equal(
            values_read(text, (size_t)(n + 2 * depth + 1), &values), depth < VALUE_DEPTH_MAX ? 0 : -EBADMSG);
        if (depth < VALUE_DEPTH_MAX)
            values_clear(&values);
    }
}

static void test_get(void **state)
{
    static const char text[] = "{\"a\":{\"b\":1,\"c\":[2,3]},\"b\":\"x\"}";
    const struct value *item;
    struct values values;
    int64_t sum = 0;

    (void)state;
    assert_int_equal(values_read(text, strlen(text), &values), 0);
    assert_string_equal(value_get(values.values, "b")->string, "x");
    assert_null(value_get(values.values, "c"));
    VALUE_FOREACH(item, value_get(value_get(values.values, "a"), "c"))
    sum = 10 * sum + item->integer;
    assert_int_equal(sum, 23);
    VALUE_FOREACH(item, NULL)
    fail();
    assert_null(value_get(NULL, "a"));
    assert_int_equal(value_size(NULL), 0);
    values_clear(&values);
    values_clear(&values);
}

/* A call that stays open has its method and its flags still. */
static void test_shrink(void **state)
{
    static const char text[] = "{\"method\":\"a.B\",\"parameters\":{\"a\":[1,2,3]},\"oneway\":true}";
    struct varlink_request request;

    (void)state;
    assert_int_equal(varlink_request_read(text, sizeof(text) - 1, &request), 0);
    assert_int_equal(value_size(value_get(request.parameters, "a")), 3);
    varlink_request_shrink(&request);
    assert_int_equal(request.values.size, 1);
    assert_ptr_equal(request.root, request.values.values);
    assert_null(value_get(request.root, "method"));
    assert_null(request.parameters);
    assert_string_equal(request.method, "a.B");
    assert_true(request.oneway);
    varlink_request_clear(&request);
    assert_null(request.root);
}

/* ---- Writing ---- */

static void test_emit(void **state)
{
    struct frame_out out = { 0 };
    struct emit emit = { .out = &out };
    json_t *json, *wanted;

    (void)state;
    emit_open(&emit, NULL);
    emit_string(&emit, "string", "text");
    emit_string(&emit, "none", NULL);
    emit_int(&emit, "least", INT64_MIN);
    emit_int(&emit, "most", INT64_MAX);
    emit_int(&emit, "zero", 0);
    emit_open_array(&emit, "array");
    emit_string(&emit, NULL, NULL);
    emit_int(&emit, NULL, 1);
    emit_bool(&emit, NULL, true);
    emit_open(&emit, NULL);
    emit_close(&emit);
    emit_open_array(&emit, NULL);
    emit_close_array(&emit);
    emit_string(&emit, NULL, "last");
    emit_close_array(&emit);
    emit_bool(&emit, "\"\n", false);
    emit_close(&emit);
    assert_false(emit.failed);
    json = emitted(&out);
    wanted = json_pack("{s:s, s:I, s:I, s:i, s:[i, b, {}, [], s], s:b}", "string", "text", "least",
        (json_int_t)INT64_MIN, "most", (json_int_t)INT64_MAX, "zero", 0, "array", 1, 1, "last", "\"\n", 0);
    assert_true(json_equal(json, wanted));
    json_decref(wanted);
    json_decref(json);
    frame_out_clear(&out);
}

/* Whatever a string is, it is read as what it was. */
static void test_emit_strings(void **state)
{
    char all[256], text[64];
    unsigned seed = 1;

    (void)state;
    for (int c = 1; c < 128; c++)
        all[c - 1] = (char)c;
    all[127] = '\0';
    for (int i = 0; i < 20000; i++) {
        struct frame_out out = { 0 };
        struct emit emit = { .out = &out };
        const char *string = i == 0 ? all : text;
        json_t *json, *same;
        size_t n = (size_t)rand_r(&seed) % sizeof(text);

        for (size_t k = 0; k < n; k++)
            text[k] = "a\"\\\n\x1f\x7f\xc2\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xed\xff"[rand_r(&seed) % 18];
        text[n] = '\0';
        emit_open(&emit, NULL);
        emit_string(&emit, "s", string);
        emit_close(&emit);
        json = emitted(&out);
        same = json_string(string);
        /* What is no UTF-8 has become something that is. */
        if (same)
            assert_string_equal(json_string_value(json_object_get(json, "s")), string);
        else
            assert_non_null(strstr(json_string_value(json_object_get(json, "s")), "\xef\xbf\xbd"));
        json_decref(same);
        json_decref(json);
        frame_out_clear(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_read),
        TEST(test_changed),
        TEST(test_depth),
        TEST(test_get),
        TEST(test_shrink),
        TEST(test_emit),
        TEST(test_emit_strings),
    };

    return cmocka_run_group_tests_name("value", tests, NULL, NULL);
}
