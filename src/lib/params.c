/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A call in the making: see client.h. What is wrong with a value is told here only where JSON cannot say it;
 * all else is the broker's to judge.
 */
#include "base/cleanup.h"
#include "base/utf8.h"
#include "lib/client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void evl_params_begin(struct evl_params *params, const char *method)
{
    *params = (struct evl_params){ .out.keep = true };
    if (!method)
        evl_params_fail(params, -EINVAL, "method is missing");
    varlink_call_begin(&params->emit, &params->out, method);
}

void evl_params_clear(struct evl_params *params)
{
    frame_out_clear(&params->out);
}

void evl_params_fail(struct evl_params *params, int error, const char *format, ...)
{
    va_list arguments;
    size_t n;

    if (params->error < 0)
        return;
    params->error = error;
    (void)strcpy(params->why, params->where);
    n = strlen(params->why);
    va_start(arguments, format);
    (void)vsnprintf(params->why + n, sizeof(params->why) - n, format, arguments);
    va_end(arguments);
}

/* key: what the complaint is about; as_key: what it is written under, NULL for an item. */
static void put_string(struct evl_params *params, const char *key, const char *as_key, const char *value)
{
    if (utf8_is_text(value))
        emit_string(&params->emit, as_key, value);
    else
        evl_params_fail(params, -EINVAL, "%s is not UTF-8", key);
}

void evl_params_string(struct evl_params *params, const char *key, const char *value)
{
    if (value)
        put_string(params, key, key, value);
    else
        evl_params_fail(params, -EINVAL, "%s is missing", key);
}

void evl_params_optional(struct evl_params *params, const char *key, const char *value)
{
    if (value)
        put_string(params, key, key, value);
}

void evl_params_int(struct evl_params *params, const char *key, int64_t value)
{
    emit_int(&params->emit, key, value);
}

void evl_params_bool(struct evl_params *params, const char *key, bool value)
{
    emit_bool(&params->emit, key, value);
}

void evl_params_lifetime(struct evl_params *params, enum evlink_lifetime lifetime, int64_t lease_seconds)
{
    static const char *const names[] = {
        [EVLINK_PERSISTENT] = "persistent",
        [EVLINK_CONNECTION] = "connection",
        [EVLINK_LEASE] = "lease",
        [EVLINK_AGENT] = "agent",
    };

    if ((size_t)lifetime >= ARRAY_SIZE(names)) {
        evl_params_fail(params, -EINVAL, "there is no lifetime %d", (int)lifetime);
        return;
    }
    evl_params_string(params, "lifetime", names[lifetime]);
    /* 0 with a lease, and anything without one, is the broker's to refuse. */
    if (lifetime == EVLINK_LEASE || lease_seconds != 0)
        evl_params_int(params, "leaseSeconds", lease_seconds);
}

void evl_params_strings(struct evl_params *params, const char *key, const char *const *values)
{
    if (!values) {
        evl_params_fail(params, -EINVAL, "%s is missing", key);
        return;
    }
    emit_open_array(&params->emit, key);
    for (; *values; values++)
        put_string(params, key, NULL, *values);
    emit_close_array(&params->emit);
}

/* Whether one of the labels behind the first has its key, n bytes of it. */
static bool comes_again(const char *const *labels, size_t n)
{
    const char *key = *labels;

    while (*++labels)
        if (strncmp(*labels, key, n + 1) == 0)
            return true;
    return false;
}

void evl_params_labels(struct evl_params *params, const char *key, const char *const *values)
{
    if (!values)
        return;
    emit_open(&params->emit, key);
    for (; *values; values++) {
        const char *equals = strchr(*values, '=');
        CLEANUP(freep) char *name = NULL;

        if (!equals) {
            evl_params_fail(params, -EINVAL, "the label '%.60s' is not KEY=VALUE", *values);
            return;
        }
        /* The last one of a key counts. */
        if (comes_again(values, (size_t)(equals - *values)))
            continue;
        name = strndup(*values, (size_t)(equals - *values));
        if (!name) {
            evl_params_fail(params, -ENOMEM, "out of memory");
            return;
        }
        if (!utf8_is_text(name))
            evl_params_fail(params, -EINVAL, "the key of the label '%.60s' is not UTF-8", *values);
        put_string(params, key, name, equals + 1);
    }
    emit_close(&params->emit);
}
