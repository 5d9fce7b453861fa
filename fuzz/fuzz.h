/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the fuzz targets share. Each target is one file with LLVMFuzzerTestOneInput(), which takes any bytes,
 * and aborts where something that must hold does not. With --enable-fuzzers libFuzzer makes up the bytes;
 * without it, replay.c reads them from files.
 *
 * What it keeps true: what an input does depends on the input alone, and it leaves no descriptor behind.
 */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include "base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* libFuzzer's names. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                             \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                \
        }                                                                           \
    } while (0)

/* What is left of an input. At its end it goes on as zeros. */
struct input {
    const uint8_t *at, *end;
};

static inline size_t input_left(const struct input *input)
{
    return (size_t)(input->end - input->at);
}

static inline unsigned input_byte(struct input *input)
{
    return input->at < input->end ? *input->at++ : 0;
}

/* Up to and without the next of these bytes, or all that is left. Copied, with a NUL behind it: to be freed.
 */
char *input_text(struct input *input, char until, size_t *ret_length);

/* At most n bytes, in place. */
const uint8_t *input_bytes(struct input *input, size_t *n);

/* Has messages made, and thrown away; with FUZZ_LOG in the environment, shown. */
void fuzz_quiet(void);
extern size_t fuzz_errors; /* messages of level error so far */

/* How many descriptors are open. */
size_t fuzz_count_fds(void);

#endif
