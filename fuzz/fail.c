/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What can fail fails on demand: see fail.h. The linker has calls of these come here. */
#include "fail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static unsigned left; /* calls up to the one that fails, with it; 0: none does */
static bool counting, paused, failed;

void fail_at(unsigned n)
{
    left = n;
    failed = counting = false;
}

void fail_begin(void)
{
    counting = true;
    failed = false;
}

bool fail_end(void)
{
    counting = false;
    return failed;
}

void fail_pause(bool pause)
{
    paused = pause;
}

static bool fails(void)
{
    if (!counting || paused || left == 0 || --left > 0)
        return false;
    errno = ENOMEM;
    return failed = true;
}

/* WRAP(what it returns, where it fails, its name, its parameters, and how it passes them on) */
#define WRAP(type, failure, name, parameters, arguments)      \
    type __real_##name parameters;                            \
    type __wrap_##name parameters;                            \
    type __wrap_##name parameters                             \
    {                                                         \
        return fails() ? (failure) : __real_##name arguments; \
    }

WRAP(void *, NULL, malloc, (size_t size), (size))
WRAP(void *, NULL, calloc, (size_t n, size_t size), (n, size))
WRAP(void *, NULL, realloc, (void *memory, size_t size), (memory, size))
WRAP(void *, NULL, reallocarray, (void *memory, size_t n, size_t size), (memory, n, size))
WRAP(char *, NULL, strdup, (const char *text), (text))
WRAP(char *, NULL, strndup, (const char *text, size_t n), (text, n))
WRAP(ssize_t, -1, getline, (char **line, size_t *size, FILE *file), (line, size, file))
WRAP(FILE *, NULL, fdopen, (int fd, const char *mode), (fd, mode))
WRAP(int, -1, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP(int, -1, ftruncate, (int fd, off_t length), (fd, length))
WRAP(int, -1, fallocate, (int fd, int mode, off_t at, off_t length), (fd, mode, at, length))
WRAP(void *, MAP_FAILED, mmap, (void *at, size_t n, int protection, int flags, int fd, off_t place),
    (at, n, protection, flags, fd, place))

int __wrap_asprintf(char **ret_text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Not where the compiler makes another function of it (_FORTIFY_SOURCE). */
int __wrap_asprintf(char **ret_text, const char *format, ...)
{
    va_list arguments;
    int r;

    if (fails())
        return -1;
    va_start(arguments, format);
    r = vasprintf(ret_text, format, arguments);
    va_end(arguments);
    return r;
}
