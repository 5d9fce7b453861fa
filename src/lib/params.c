/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A call's parameters in the making: see client.h. What is wrong with a value is told here only where JSON
 * cannot say it; all else is the broker's to judge.
 */
#include "base/cleanup.h"
#include "lib/client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void evl_params_fail(struct evl_params *params, int error, const char *format, ...)
{
    va_list arguments;

    if (params->error < 0)
        return;
    params->error = error;
    va_start(arguments, format);
    (void)vsnprintf(params->why, sizeof(params->why), format, arguments);
    va_end(arguments);
}

void evl_params_json(struct evl_params *params, const char *key, json_t *value)
{
    if (!params->json)
        params->json = json_object();
    if (json_object_set_new(params->json, key, value) < 0)
        evl_params_fail(params, -ENOMEM, "out of memory");
}

/* A JSON string; on failure NULL, and the params say why. */
static json_t *string(struct evl_params *params, const char *key, const char *value)
{
    json_t *json;

    /* Jansson says no more than that it did not work; malloc() does. */
    errno = 0;
    json = json_string(value);
    if (!json && errno == ENOMEM)
        evl_params_fail(params, -ENOMEM, "out of memory");
    else if (!json)
        evl_params_fail(params, -EINVAL, "%s is not UTF-8", key);
    return json;
}

void evl_params_string(struct evl_params *params, const char *key, const char *value)
{
    json_t *json;

    if (!value) {
        evl_params_fail(params, -EINVAL, "%s is missing", key);
        return;
    }
    json = string(params, key, value);
    if (json)
        evl_params_json(params, key, json);
}

void evl_params_optional(struct evl_params *params, const char *key, const char *value)
{
    if (value)
        evl_params_string(params, key, value);
}

void evl_params_int(struct evl_params *params, const char *key, int64_t value)
{
    evl_params_json(params, key, json_integer(value));
}

void evl_params_bool(struct evl_params *params, const char *key, bool value)
{
    evl_params_json(params, key, json_boolean(value));
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
    json_auto_t *array = json_array();

    if (!values) {
        evl_params_fail(params, -EINVAL, "%s is missing", key);
        return;
    }
    for (; *values; values++) {
        json_t *json = string(params, key, *values);

        if (!json)
            return;
        if (json_array_append_new(array, json) < 0)
            evl_params_fail(params, -ENOMEM, "out of memory");
    }
    evl_params_json(params, key, TAKE(array));
}

void evl_params_labels(struct evl_params *params, const char *key, const char *const *values)
{
    json_auto_t *object = NULL;

    if (!values)
        return;
    object = json_object();
    for (; *values; values++) {
        const char *equals = strchr(*values, '=');
        CLEANUP(freep) char *name = NULL;
        json_t *json;

        if (!equals) {
            evl_params_fail(params, -EINVAL, "the label '%.60s' is not KEY=VALUE", *values);
            return;
        }
        name = strndup(*values, (size_t)(equals - *values));
        if (!name) {
            evl_params_fail(params, -ENOMEM, "out of memory");
            return;
        }
        json = string(params, key, equals + 1);
        if (!json)
            return;
        errno = 0;
        if (json_object_set_new(object, name, json) < 0) {
            if (!object || errno == ENOMEM)
                evl_params_fail(params, -ENOMEM, "out of memory");
            else
                evl_params_fail(params, -EINVAL, "the key of the label '%.60s' is not UTF-8", *values);
            return;
        }
    }
    evl_params_json(params, key, TAKE(object));
}
