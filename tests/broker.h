/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A private evlinkd for a test: started as another user where that can be, as it runs in production, in a
 * folder of its own, and stopped with a look at what it leaves behind.
 */
#ifndef TESTS_BROKER_H
#define TESTS_BROKER_H

#include <stddef.h>
#include <sys/types.h>

struct evlink_client;

struct broker {
    pid_t pid;
    char folder[64];
    char path[96]; /* of its socket */
};

/* Starts $EVLINKD with more arguments (NULL-terminated, NULL: none), and waits until it listens. Asserts. */
void broker_start(struct broker *broker, const char *const *arguments);

/* A connection to it that it has accepted, and nothing before that one is left to be. Asserts. */
struct evlink_client *broker_open(const struct broker *broker);

/* How many descriptors it has, once that has stayed the same for a moment. */
size_t broker_count_fds(const struct broker *broker);

/* Asserts that it has n, or soon has. */
void broker_assert_fds(const struct broker *broker, size_t n);

/* Stops it with SIGTERM, and asserts that it ended cleanly. */
void broker_stop(struct broker *broker);

#endif
