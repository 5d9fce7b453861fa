/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Scopes: see scope.h. */
#include "model/scope.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool scope_is_valid(const char *text)
{
    return name_is_valid(text) && strlen(text) <= SCOPE_LENGTH_MAX;
}

bool scope_has(const char *scope, const char *name)
{
    size_t length = strlen(scope);

    return length == 0 || (strncmp(name, scope, length) == 0 && name[length] == '.');
}

bool scope_is_within(const char *scope, const char *outer)
{
    return strcmp(scope, outer) == 0 || scope_has(outer, scope);
}

bool scope_next_level(const char *scope, char level[static NAME_SIZE])
{
    size_t length = strlen(level);
    const char *dot;

    if (!scope[length])
        return false;
    dot = strchr(scope + length + 1, '.');
    length = dot ? (size_t)(dot - scope) : strlen(scope);
    memcpy(level, scope, length);
    level[length] = '\0';
    return true;
}

/* What makes an endpoint of an entry, each in canonical form itself. */
static const char *const rests[] = { "", "/gsi/0", "/dev/x/irq/0", "/0", "/0x0", "/x/irq/0", "/irq/0", "/err",
    "/vring/0/call", "/0/call", "/call" };

int grant_parse(const char *text, char entry[static ENDPOINT_SIZE], struct endpoint *ret_sample,
    bool *ret_whole, const char **ret_reason)
{
    char sample[2 * ENDPOINT_SIZE], canonical[ENDPOINT_SIZE];
    const char *slash = strchr(text, '/'), *first = NULL;
    struct endpoint endpoint;

    *ret_reason = "is no endpoint, nor the beginning of one that names a subsystem";
    if (!slash || strlen(text) >= ENDPOINT_SIZE)
        return -EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(rests); i++) {
        const char *reason = NULL;
        size_t length;

        (void)snprintf(sample, sizeof(sample), "%s%s", text, rests[i]);
        if (endpoint_parse(sample, &endpoint, &reason) < 0) {
            first = first ? first : reason;
            continue;
        }
        endpoint_format(&endpoint, canonical);
        length = strlen(canonical) - strlen(rests[i]);
        if (strcmp(canonical + length, rests[i]) != 0)
            continue; /* it reads otherwise than it was meant */
        memcpy(entry, canonical, length);
        entry[length] = '\0';
        *ret_sample = endpoint;
        *ret_whole = i == 0;
        return 0;
    }
    *ret_reason = first;
    return -EINVAL;
}

int grant_new(struct grant **ret_grant)
{
    struct grant *grant = calloc(1, sizeof(*grant));

    if (grant)
        grant->endpoints = calloc(1, sizeof(char *));
    if (!grant || !grant->endpoints) {
        grant_free(grant);
        return -ENOMEM;
    }
    *ret_grant = grant;
    return 0;
}

int grant_add(struct grant *grant, const char *entry)
{
    size_t n = grant->n_endpoints;
    char **more = reallocarray(grant->endpoints, n + 2, sizeof(char *));

    if (!more)
        return -ENOMEM;
    grant->endpoints = more;
    more[n] = strdup(entry);
    if (!more[n])
        return -ENOMEM;
    more[n + 1] = NULL;
    grant->n_endpoints++;
    return 0;
}

struct grant *grant_free(struct grant *grant)
{
    if (!grant)
        return NULL;
    for (char **entry = grant->endpoints; entry && *entry; entry++)
        free(*entry);
    free(grant->endpoints);
    free(grant->limits);
    free(grant);
    return NULL;
}

int grant_limit(struct grant *grant, const struct scope_limit *limit)
{
    struct scope_limit *more = reallocarray(grant->limits, grant->n_limits + 1, sizeof(*more));

    if (!more)
        return -ENOMEM;
    grant->limits = more;
    more[grant->n_limits++] = *limit;
    return 0;
}

bool grant_covers(const struct grant *grant, const char *endpoint)
{
    for (char **entry = grant->endpoints; *entry; entry++) {
        size_t length = strlen(*entry);

        if (strncmp(endpoint, *entry, length) == 0 && (!endpoint[length] || endpoint[length] == '/'))
            return true;
    }
    return false;
}
