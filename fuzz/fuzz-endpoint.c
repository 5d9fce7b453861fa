/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Endpoint strings. The input is three lines. What is an endpoint is printed in canonical form, which reads
 * as the same again; all of them are in one order, in which equals are those that print the same.
 */
#include "endpoint/endpoint.h"
#include "fuzz.h"

#include <errno.h>
#include <string.h>

#define N 3

static void check_one(const struct endpoint *endpoint, char text[static ENDPOINT_SIZE])
{
    char again[ENDPOINT_SIZE];
    struct endpoint copy;
    const char *reason;

    endpoint_format(endpoint, text);
    MUST(endpoint_parse(text, &copy, &reason) == 0);
    MUST(endpoint_compare(endpoint, &copy) == 0);
    MUST(strcmp(endpoint_format(&copy, again), text) == 0);
    MUST(name_is_valid(endpoint_name(endpoint)));
    MUST(endpoint_is_offered(endpoint) == name_is_valid(endpoint_device(endpoint)));
    MUST(endpoint->datamatch || endpoint->value == 0);
    MUST(!endpoint->level || endpoint_is_irqfd(endpoint));
    MUST(endpoint_is_producer(endpoint) || endpoint_is_consumer(endpoint) || endpoint->kind == ENDPOINT_EOI);
    MUST(endpoint->kind == ENDPOINT_GSI || endpoint_collides(endpoint, &copy));
    MUST(!endpoint_is_level(endpoint) || !endpoint_is_offered(endpoint) || endpoint_is_consumer(endpoint));
    if (endpoint_subsystem(endpoint) != SUBSYSTEM_NONE)
        MUST(subsystem_from_name(subsystem_name(endpoint_subsystem(endpoint))) ==
             endpoint_subsystem(endpoint));
}

static int sign(int number)
{
    return (number > 0) - (number < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = { data, data + size };
    struct endpoint endpoints[N];
    char texts[N][ENDPOINT_SIZE];
    size_t n = 0;

    for (size_t i = 0; i < N; i++) {
        char *line = input_text(&input, '\n', NULL);
        const char *reason = NULL;
        int r = endpoint_parse(line, &endpoints[n], &reason);

        MUST(r == 0 || (r == -EINVAL && reason && reason[0]));
        MUST(name_is_valid(line) == !name_complaint(line));
        MUST(!name_is_valid(line) || strlen(line) <= NAME_LENGTH_MAX);
        if (r == 0)
            check_one(&endpoints[n], texts[n]);
        n += r == 0;
        free(line);
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            int order = sign(endpoint_compare(&endpoints[i], &endpoints[j]));

            MUST((order == 0) == (strcmp(texts[i], texts[j]) == 0));
            MUST(order == -sign(endpoint_compare(&endpoints[j], &endpoints[i])));
            MUST(endpoint_collides(&endpoints[i], &endpoints[j]) ==
                 endpoint_collides(&endpoints[j], &endpoints[i]));
            for (size_t k = 0; k < n && order < 0; k++)
                MUST(endpoint_compare(&endpoints[j], &endpoints[k]) >= 0 ||
                     endpoint_compare(&endpoints[i], &endpoints[k]) < 0);
        }
    return 0;
}
