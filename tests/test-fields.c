/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON objects into C structs by a table (src/wire/fields.c): which member is bad, and what is left alone. */
#include "util.h"
#include "wire/fields.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct record {
    const char *string;
    struct opt_int number;
    bool flag;
    struct opt_bool perhaps;
    const struct value *object, *strings, *objects, *dict;
};

static const struct field all_fields[] = {
    { "string", FIELD_STRING, offsetof(struct record, string), 0 },
    { "int", FIELD_INT, offsetof(struct record, number), 0 },
    { "bool", FIELD_BOOL, offsetof(struct record, flag), 0 },
    { "optBool", FIELD_OPT_BOOL, offsetof(struct record, perhaps), 0 },
    { "object", FIELD_OBJECT, offsetof(struct record, object), 0 },
    { "strings", FIELD_STRINGS, offsetof(struct record, strings), 0 },
    { "objects", FIELD_OBJECTS, offsetof(struct record, objects), 0 },
    { "dict", FIELD_DICT, offsetof(struct record, dict), 0 },
    FIELDS_END,
};

static const struct field required_fields[] = {
    { "first", FIELD_STRING, offsetof(struct record, string), FIELD_REQUIRED },
    { "second", FIELD_INT, offsetof(struct record, number), FIELD_REQUIRED },
    FIELDS_END,
};

/* NULL: no object at all, which is the empty one. */
static int read_text(const char *text, const struct field *fields, enum fields_mode mode,
    struct values *ret_values, struct record *record, const char **ret_bad)
{
    *ret_values = (struct values){ .values = NULL };
    if (text && values_read(text, strlen(text), ret_values) < 0)
        fail_msg("the test's own JSON is bad: %s", text);
    return fields_read(ret_values->values, fields, mode, record, ret_bad);
}

static void test_all_types(void **state)
{
    static const char text[] =
        "{\"string\": \"text\", \"int\": -9223372036854775808, \"bool\": true, \"optBool\": false,"
        "\"object\": {\"a\": 1}, \"strings\": [\"a\", \"b\"], \"objects\": [{}, {\"b\": []}],"
        "\"dict\": {\"key\": \"value\"}}";
    struct record record = { 0 };
    const char *bad = "untouched";
    struct values values;

    (void)state;
    assert_int_equal(read_text(text, all_fields, FIELDS_STRICT, &values, &record, &bad), 0);
    assert_string_equal(bad, "untouched");
    assert_string_equal(record.string, "text");
    assert_true(record.number.set);
    assert_true(record.number.value == INT64_MIN);
    assert_true(record.flag);
    assert_true(record.perhaps.set);
    assert_false(record.perhaps.value);
    assert_int_equal(value_size(record.object), 1);
    assert_int_equal(value_size(record.strings), 2);
    assert_int_equal(value_size(record.objects), 2);
    assert_string_equal(value_string(value_get(record.dict, "key")), "value");
    values_clear(&values);

    /* empty containers are fine */
    assert_int_equal(read_text("{\"strings\": [], \"objects\": [], \"dict\": {}, \"object\": {}}", all_fields,
                         FIELDS_STRICT, &values, &record, &bad),
        0);
    assert_int_equal(value_size(record.strings), 0);
    assert_int_equal(value_size(record.dict), 0);
    values_clear(&values);
}

/* Absent or null, an optional one leaves what was there. */
static void test_defaults(void **state)
{
    static const char *const objects[] = {
        "{}",
        "{\"string\": null, \"int\": null, \"bool\": null, \"optBool\": null, \"object\": null,"
        "\"strings\": null, \"objects\": null, \"dict\": null}",
        NULL, /* no object at all */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(objects) / sizeof(objects[0]); i++) {
        static const struct value object = { .type = VALUE_OBJECT }, *const mine = &object;
        struct record record = { "mine", { true, 7 }, true, { true, true }, mine, mine, mine, mine };
        const char *bad = NULL;
        struct values values;

        assert_int_equal(read_text(objects[i], all_fields, FIELDS_STRICT, &values, &record, &bad), 0);
        assert_null(bad);
        assert_string_equal(record.string, "mine");
        assert_true(record.number.set);
        assert_int_equal(record.number.value, 7);
        assert_true(record.flag);
        assert_true(record.perhaps.set && record.perhaps.value);
        assert_ptr_equal(record.object, mine);
        assert_ptr_equal(record.strings, mine);
        assert_ptr_equal(record.objects, mine);
        assert_ptr_equal(record.dict, mine);
        values_clear(&values);
    }
}

/* Every type against every value that it does not take. */
static void test_wrong_types(void **state)
{
    static const struct {
        const char *name;
        const char *wrong[8];
    } cases[] = {
        { "string", { "1", "1.5", "true", "[]", "{}", "[\"a\"]" } },
        { "int", { "\"1\"", "1.0", "1e3", "true", "[]", "{}" } },
        { "bool", { "0", "1", "\"true\"", "[]", "{}", "0.5" } },
        { "optBool", { "0", "1", "\"true\"", "[]", "{}", "0.5" } },
        { "object", { "0", "\"a\"", "true", "[]", "[{}]", "1.5" } },
        { "strings",
            { "0", "\"a\"", "{}", "[1]", "[\"a\", null]", "[[\"a\"]]", "[\"a\", {}]", "{\"a\": \"b\"}" } },
        { "objects", { "0", "\"a\"", "{}", "[1]", "[{}, null]", "[[{}]]", "[{}, \"a\"]", "{\"a\": {}}" } },
        { "dict",
            { "0", "\"a\"", "[]", "{\"a\": 1}", "{\"a\": \"b\", \"c\": null}", "{\"a\": {}}", "[\"a\"]" } },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (size_t k = 0; k < 8 && cases[i].wrong[k]; k++) {
            struct record record = { 0 };
            struct values values;
            const char *bad;
            char text[64];

            (void)snprintf(text, sizeof(text), "{\"%s\": %s}", cases[i].name, cases[i].wrong[k]);
            for (int mode = FIELDS_STRICT; mode <= FIELDS_LENIENT; mode++) {
                bad = NULL;
                assert_int_equal(
                    read_text(text, all_fields, (enum fields_mode)mode, &values, &record, &bad), -EINVAL);
                assert_non_null(bad);
                assert_string_equal(bad, cases[i].name);
                values_clear(&values);
            }
        }
}

static void test_required(void **state)
{
    static const struct {
        const char *json, *bad;
    } cases[] = {
        { "{}", "first" },
        { "{\"second\": 1}", "first" },
        { "{\"first\": null, \"second\": 1}", "first" },
        { "{\"first\": \"a\"}", "second" },
        { "{\"first\": \"a\", \"second\": null}", "second" },
        /* the first in the table's order, and before what is unknown */
        { "{\"third\": 1, \"second\": \"a\"}", "first" },
        { "{\"third\": 1, \"second\": \"a\", \"first\": \"a\"}", "second" },
        { "{\"third\": 1, \"second\": 2, \"first\": \"a\"}", "third" },
        { NULL, "first" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct record record = { 0 };
        const char *bad = NULL;
        struct values values;

        assert_int_equal(
            read_text(cases[i].json, required_fields, FIELDS_STRICT, &values, &record, &bad), -EINVAL);
        assert_non_null(bad);
        assert_string_equal(bad, cases[i].bad);
        values_clear(&values);
    }
}

static void test_unknown(void **state)
{
    static const char *const objects[] = {
        "{\"first\": \"a\", \"second\": 1, \"unknown\": 1}",
        "{\"unknown\": null, \"first\": \"a\", \"second\": 1}",
        "{\"first\": \"a\", \"unknown\": {}, \"second\": 1}",
    };
    static const struct {
        const char *json, *bad;
    } near[] = {
        /* names are what they are: no prefixes, no other case */
        { "{\"first\": \"a\", \"second\": 1, \"First\": \"a\"}", "First" },
        { "{\"first\": \"a\", \"second\": 1, \"firs\": \"a\"}", "firs" },
    };
    struct record record = { 0 };
    struct values values;
    const char *bad;

    (void)state;
    for (size_t i = 0; i < sizeof(objects) / sizeof(objects[0]); i++) {
        bad = NULL;
        assert_int_equal(
            read_text(objects[i], required_fields, FIELDS_STRICT, &values, &record, &bad), -EINVAL);
        assert_non_null(bad);
        assert_string_equal(bad, "unknown");
        values_clear(&values);
        bad = NULL;
        assert_int_equal(read_text(objects[i], required_fields, FIELDS_LENIENT, &values, &record, &bad), 0);
        assert_null(bad);
        assert_string_equal(record.string, "a");
        assert_int_equal(record.number.value, 1);
        values_clear(&values);
    }
    for (size_t i = 0; i < sizeof(near) / sizeof(near[0]); i++) {
        assert_int_equal(
            read_text(near[i].json, required_fields, FIELDS_STRICT, &values, &record, &bad), -EINVAL);
        assert_string_equal(bad, near[i].bad);
        values_clear(&values);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_all_types),
        TEST(test_defaults),
        TEST(test_wrong_types),
        TEST(test_required),
        TEST(test_unknown),
    };

    return cmocka_run_group_tests_name("fields", tests, NULL, NULL);
}
