/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the unit tests share: every test of TEST() fails where it leaves more or fewer descriptors open than
 * there were, what may hang or changes its process runs in a child, and random tests can be repeated.
 */
#ifndef TESTS_UTIL_H
#define TESTS_UTIL_H

/* cmocka.h wants these four in front of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

/* One row of a group: the test, between two counts of the open descriptors. */
#define TEST(function) cmocka_unit_test_setup_teardown(function, fds_before, fds_after)

int fds_before(void **state);
int fds_after(void **state);

/* How many descriptors this process has open. */
size_t fds_count(void);

/* A descriptor of a new file, and what tells its duplicates from those of other files. */
int fd_make(void);
uint64_t fd_identity(int fd);

/*
 * Calls run(userdata) in a child, and fails the test unless that returns within a minute; then the child is
 * killed. cmocka's assertions belong to the parent: in the child it is CHECK().
 */
void in_child(void (*run)(void *userdata), void *userdata);

#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            fprintf(stderr, "%s:%d: in a child: not so: %s\n", __FILE__, __LINE__, #condition); \
            _exit(1);                                                                           \
        }                                                                                       \
    } while (0)

/* In a child: its table of descriptors has room for n more from now on. */
void limit_fds(size_t n);

/* Whether this runs under valgrind, which keeps RLIMIT_NOFILE to itself: the kernel never hears of it. */
bool limits_are_faked(void);

/* The seed of a random test: $TEST_SEED, or a new one. It is printed. */
uint64_t random_seed(void);

/* The next of 2^64 numbers (splitmix64), and one below limit, which is not 0. */
uint64_t random_next(uint64_t *state);
size_t random_below(uint64_t *state, size_t limit);

#endif
