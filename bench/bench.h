/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the groups of benchmarks share: series of figures and the table that they go into, private brokers,
 * bare counterparts in processes of their own, and pipelined calls.
 *
 * Whatever fails ends the program with a message: there are no error returns. A group measures its own row
 * and its counterpart in turn, a few rounds of each, so that what else the machine does falls on both.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

#include "lib/evlink.h"

/* Rounds of each side. */
#define ROUNDS 7

void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Dies where r, of a function of libevlink, is not 0. */
void must(int r, const char *what, struct evlink_client *client);

/* Seconds, of some clock that only goes forward. */
double now(void);

/* ---- Figures and the table ---- */

struct series {
    double *values;
    size_t n, size;
};

void series_add(struct series *series, double value);
double series_mean(const struct series *series);
double series_max(const struct series *series);
/* The value that so much of the series is not above, 0.5 for the median. Sorts it. */
double series_at(struct series *series, double part);
void series_clear(struct series *series);

enum goal {
    RATIO_AT_LEAST, /* of the medians, ours to the other */
    RATIO_AT_MOST,
    OURS_AT_MOST, /* the median itself */
    NO_GOAL,
};

struct row {
    const char *name, *beside, *unit;
    struct series ours, other;
    enum goal goal;
    double limit;
    bool failed; /* what note says is a reason to miss */
    char skipped[120];
    char note[120];
};

/* A new row at the end of the table, which has it. */
struct row *row_new(const char *name, const char *beside, const char *unit, enum goal goal, double limit);
void row_skip(struct row *row, const char *format, ...) __attribute__((format(printf, 2, 3)));
void row_note(struct row *row, const char *format, ...) __attribute__((format(printf, 2, 3)));

void table_print(void);
void table_draw(const char *path);

/* ---- Processes ---- */

/* A private evlinkd --supervise, as a user of its own where we are root. */
struct broker {
    pid_t parent, pid; /* the supervisor, and the broker */
    char folder[64];
    char path[96]; /* of its socket */
    struct evlink_client *client;
};

/* Starts one, and sees that it is durable. */
void broker_start(struct broker *broker);
void broker_stop(struct broker *broker);
/* Kills it, and returns when its successor has answered; broker->client is a new one. */
void broker_kill(struct broker *broker);

/* Runs work in a child that dies with us. */
pid_t child_start(void (*work)(void *userdata), void *userdata);
void child_stop(pid_t pid);

/* Seconds of CPU that a process has used. */
double cpu_of(pid_t pid);

/* A number of /proc/PID/FILE, behind "NAME:"; a sum of all that there are. */
double proc_number(pid_t pid, const char *file, const char *name);

/* ---- Pipelined calls ---- */

/* Messages to be sent, as they are. own_fds: each with the descriptors that are next, not all with the same.
 */
struct texts {
    char **text;
    size_t *length, n;
    bool own_fds;
};

/*
 * Hold, HoldMany (many > 0 names each) and Release of PREFIX0, PREFIX1, ... Without a descriptor Hold has the
 * broker make the eventfd.
 */
struct texts texts_hold(const char *prefix, size_t n, size_t many, bool with_fd);
struct texts texts_release(const char *prefix, size_t n);
/* The same byte n times. */
struct texts texts_bytes(char byte, size_t n);
struct texts texts_new(size_t n);
void texts_set(struct texts *texts, size_t i, const void *text, size_t length);
void texts_clear(struct texts *texts);

/* Sends one message, all of it. */
void send_text(int fd, const char *text, size_t length, const int *fds, size_t n_fds);

/*
 * Sends all texts through fd, n_fds descriptors with each, with at most window of them unanswered, and
 * returns the seconds until all were answered. reply: how long an answer is; 0: until its NUL. An answer of
 * evlinkd's must be no error.
 */
double pump(int fd, const struct texts *texts, const int *fds, size_t n_fds, size_t window, size_t reply);

/* A connected socket. */
int connect_to(const char *path);

/* ---- Bare counterparts ---- */

/* Keeps the descriptors that come, one byte back for each message; 'r' closes all. userdata: int *, the
 * socket */
void bare_store(void *userdata);

#define BARE_DESTINATIONS_MAX 64
struct bare_relay {
    int source;
    int destinations[BARE_DESTINATIONS_MAX];
    size_t n;
};

/* Reads the source and writes what it read to each destination. userdata: struct bare_relay * */
void bare_relay(void *userdata);

/* A table of so many eventfds, then sleep; a byte to the pipe when they are there. */
struct bare_table {
    size_t n;
    int ready; /* a pipe */
};
void bare_table(void *userdata);

/*
 * Plugs what comes with a message into the VM's GSI that the message is, and answers with a byte. Runs in a
 * thread of the VM's process. userdata: struct bare_agent *
 */
struct bare_agent {
    int socket, vm;
};
void *bare_agent(void *userdata);

/* The two ioctls on their own. */
void bare_irqfd(int vm, int fd, unsigned gsi, bool assign);
void bare_doorbell(int vm, int fd, unsigned port);

/* ---- The groups ---- */

void bench_hold(void);
void bench_relay(void);
void bench_guest(void);
void bench_memory(void);
void bench_idle(void);
void bench_store(void);
void bench_systemd(void);

#endif
