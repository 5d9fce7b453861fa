/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the fuzz targets share: see fuzz.h. */
#include "fuzz.h"

#include <fcntl.h>
#include <string.h>

/* More than any target has at a time. */
#define FDS_MAX 512

size_t fuzz_errors;

char *input_text(struct input *input, char until, size_t *ret_length)
{
    size_t length = 0, left = input_left(input);
    char *text;

    while (length < left && input->at[length] != (uint8_t)until)
        length++;
    text = malloc(length + 1);
    MUST(text);
    memcpy(text, input->at, length);
    text[length] = '\0';
    input->at += length < left ? length + 1 : length;
    if (ret_length)
        *ret_length = length;
    return text;
}

const uint8_t *input_bytes(struct input *input, size_t *n)
{
    const uint8_t *bytes = input->at;

    if (*n > input_left(input))
        *n = input_left(input);
    input->at += *n;
    return bytes;
}

static void on_line(enum log_level level, const char *line)
{
    fuzz_errors += level == LOG_LEVEL_ERROR;
    if (getenv("FUZZ_LOG"))
        fprintf(stderr, "%s\n", line);
}

void fuzz_quiet(void)
{
    log_init("fuzz", LOG_LEVEL_DEBUG, on_line);
}

size_t fuzz_count_fds(void)
{
    size_t n = 0;

    for (int fd = 0; fd < FDS_MAX; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}
