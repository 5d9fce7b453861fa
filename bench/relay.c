/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Relayed links: round trips, floods and fan-out, beside a process that reads one eventfd and writes others.
 */
#include "bench.h"

#include <sched.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define N_TRIPS 2000
#define N_FLOOD 100000
#define N_FAN 1000

struct side {
    struct bare_relay fds;
    pid_t pid;
};

static void make_fds(struct side *side, size_t n)
{
    side->fds.n = n;
    side->fds.source = eventfd(0, EFD_CLOEXEC);
    for (size_t i = 0; i < n; i++)
        side->fds.destinations[i] = eventfd(0, EFD_CLOEXEC);
    if (side->fds.source < 0 || side->fds.destinations[n - 1] < 0)
        die("no eventfd: %m");
}

static void close_fds(struct side *side)
{
    close(side->fds.source);
    for (size_t i = 0; i < side->fds.n; i++)
        close(side->fds.destinations[i]);
}

/* The CPUs that we may use. */
static cpu_set_t cpus;

/*
 * Puts a process on the first of them or the last: else it is the scheduler's choice between one CPU and two
 * that is measured. We are on the first.
 */
static void pin(pid_t pid, bool last)
{
    cpu_set_t one;
    int chosen = -1;

    for (int i = 0; i < CPU_SETSIZE && (chosen < 0 || last); i++)
        if (CPU_ISSET(i, &cpus))
            chosen = i;
    CPU_ZERO(&one);
    CPU_SET(chosen, &one);
    if (sched_setaffinity(pid, sizeof(one), &one) < 0)
        die("cannot choose a CPU: %m");
}

/* The same, linked by a broker. */
static void link_up(struct broker *broker, struct side *side, size_t n)
{
    char names[BARE_DESTINATIONS_MAX][32];
    const char *consumers[BARE_DESTINATIONS_MAX + 1] = { NULL }, *producers[] = { "eventfd/source", NULL };
    const struct evlink_link_spec spec = { .name = "relay", .producers = producers, .consumers = consumers };

    make_fds(side, n);
    side->pid = broker->pid;
    must(evlink_hold(broker->client, "source", side->fds.source, EVLINK_PERSISTENT, 0), "Hold",
        broker->client);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "eventfd/to%zu", i);
        must(evlink_hold(broker->client, names[i] + 8, side->fds.destinations[i], EVLINK_PERSISTENT, 0),
            "Hold", broker->client);
        consumers[i] = names[i];
    }
    must(evlink_connect(broker->client, &spec, NULL), "Connect", broker->client);
}

static void unlink_all(struct broker *broker, struct side *side)
{
    char name[32];

    must(evlink_disconnect(broker->client, "relay"), "Disconnect", broker->client);
    must(evlink_release(broker->client, "source"), "Release", broker->client);
    for (size_t i = 0; i < side->fds.n; i++) {
        (void)snprintf(name, sizeof(name), "to%zu", i);
        must(evlink_release(broker->client, name), "Release", broker->client);
    }
    close_fds(side);
}

/* Signals, and waits until each destination has it. */
static void trip(const struct side *side)
{
    uint64_t count = 1;

    if (write(side->fds.source, &count, sizeof(count)) < 0)
        die("cannot signal: %m");
    for (size_t i = 0; i < side->fds.n; i++)
        if (read(side->fds.destinations[i], &count, sizeof(count)) < 0 || count != 1)
            die("a signal did not come through");
}

static void time_trips(const struct side *side, struct series *all, struct series *late)
{
    struct series round = { 0 };

    for (int i = 0; i < N_TRIPS; i++) {
        double begun = now(), took;

        trip(side);
        took = (now() - begun) * 1e6;
        series_add(all, took);
        series_add(&round, took);
    }
    series_add(late, series_at(&round, 0.99));
    series_clear(&round);
}

/* CPU of the relay, in microseconds a signal, when signals come as fast as they can be written. */
static double flood(const struct side *side)
{
    double begun = cpu_of(side->pid);
    uint64_t one = 1, count, sum[2] = { 0, 0 };

    for (int i = 0; i < N_FLOOD; i++)
        if (write(side->fds.source, &one, sizeof(one)) < 0)
            die("cannot signal: %m");
    for (size_t i = 0; i < 2; i++)
        while (sum[i] < N_FLOOD) {
            if (read(side->fds.destinations[i], &count, sizeof(count)) < 0)
                die("cannot read: %m");
            sum[i] += count;
        }
    return (cpu_of(side->pid) - begun) / N_FLOOD * 1e6;
}

/* CPU of the relay, in microseconds a signal, when each is waited for. */
static double pace(const struct side *side)
{
    double begun = cpu_of(side->pid);

    for (int i = 0; i < N_FAN; i++)
        trip(side);
    return (cpu_of(side->pid) - begun) / N_FAN * 1e6;
}

static void one_to_two(struct broker *broker)
{
    struct row *near = row_new(
                   "relay, one to two, on one CPU: p50", "bare epoll relay", "us", RATIO_AT_MOST, 1.05),
               *middle = row_new("relay, one to two: round trip, p50", "the same", "us", RATIO_AT_MOST, 1.05),
               *late = row_new("relay, one to two: p99 of a round", "the same", "us", RATIO_AT_MOST, 1.2),
               *flooded = row_new("relay, flooded: CPU a signal", "the same", "us", RATIO_AT_MOST, 1.5);
    struct series ignored = { 0 };
    struct side ours, other;

    link_up(broker, &ours, 2);
    make_fds(&other, 2);
    other.pid = child_start(bare_relay, &other.fds);
    pin(other.pid, true);
    for (int i = 0; i < N_TRIPS; i++) {
        trip(&ours);
        trip(&other);
    }
    for (int i = 0; i < ROUNDS; i++) {
        time_trips(&ours, &middle->ours, &late->ours);
        time_trips(&other, &middle->other, &late->other);
    }
    pin(broker->pid, false);
    pin(other.pid, false);
    for (int i = 0; i < ROUNDS; i++) {
        time_trips(&ours, &near->ours, &ignored);
        time_trips(&other, &near->other, &ignored);
    }
    series_clear(&ignored);
    pin(broker->pid, true);
    pin(other.pid, true);
    for (int i = 0; i < ROUNDS; i++) {
        series_add(&flooded->ours, flood(&ours));
        series_add(&flooded->other, flood(&other));
    }
    child_stop(other.pid);
    close_fds(&other);
    unlink_all(broker, &ours);
}

static void fan_out(struct broker *broker, size_t n, struct row *row)
{
    struct side ours, other;

    link_up(broker, &ours, n);
    make_fds(&other, n);
    other.pid = child_start(bare_relay, &other.fds);
    pin(other.pid, true);
    (void)pace(&ours);
    (void)pace(&other);
    for (int i = 0; i < ROUNDS; i++) {
        series_add(&row->ours, pace(&ours));
        series_add(&row->other, pace(&other));
    }
    child_stop(other.pid);
    close_fds(&other);
    unlink_all(broker, &ours);
}

void bench_relay(void)
{
    struct row *of_16, *of_64, *linear;
    struct broker broker;

    broker_start(&broker);
    if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
        die("cannot tell our CPUs: %m");
    pin(broker.pid, true);
    pin(0, false);
    one_to_two(&broker);
    of_16 = row_new("fan-out of 16: CPU a signal", "bare epoll relay", "us", RATIO_AT_MOST, 1.3);
    of_64 = row_new("fan-out of 64: CPU a signal", "the same", "us", RATIO_AT_MOST, 1.3);
    linear = row_new("fan-out of 64: CPU a signal", "four times that of 16", "us", RATIO_AT_MOST, 1.05);
    fan_out(&broker, 16, of_16);
    fan_out(&broker, 64, of_64);
    for (size_t i = 0; i < of_64->ours.n; i++) {
        series_add(&linear->ours, of_64->ours.values[i]);
        series_add(&linear->other, 4 * of_16->ours.values[i]);
    }
    (void)sched_setaffinity(0, sizeof(cpus), &cpus);
    broker_stop(&broker);
}
