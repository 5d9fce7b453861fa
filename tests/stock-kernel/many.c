/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * HELD eventfds, which is more than the machines that build have descriptors for: what each costs, and how
 * long evlinkd is away when it is killed. Nothing but evlinkd and its vault has any of them.
 */
#include "rig.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES 100
#define MOST_BYTES 768

/* The one at i * (HELD / SAMPLES) has a count of i + 1. */
static int64_t sample_ids[SAMPLES];

static double now(void)
{
    struct timespec time;

    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* A line "KEY: N ..." of a file of /proc, -1 where there is none. */
static int64_t read_key(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    int64_t value = -1;
    char line[256];

    while (file && value < 0 && fgets(line, sizeof(line), file))
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
            (void)sscanf(line + strlen(key) + 1, "%" SCNi64, &value);
    if (file)
        fclose(file);
    return value;
}

static int64_t eventfd_id(int fd)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    return read_key(path, "eventfd-id");
}

/* In KiB. */
struct memory {
    int64_t free, slab, resident, anonymous;
};

static struct memory measure(const struct rig *rig)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)evlinkd_pid(rig->supervisor));
    return (struct memory){
        .free = read_key("/proc/meminfo", "MemFree"),
        .slab = read_key("/proc/meminfo", "Slab"),
        .resident = read_key(path, "VmRSS"),
        .anonymous = read_key(path, "RssAnon"),
    };
}

/* Bytes for each that is held, from KiB in all. */
static int each(int64_t before, int64_t after)
{
    return (int)((after - before) * 1024 / HELD);
}

static void check_memory(const struct memory *before, const struct memory *after)
{
    int resident = each(before->resident, after->resident), slab = each(before->slab, after->slab);

    check(resident > 0 && resident <= MOST_BYTES && slab > 0 && slab <= MOST_BYTES,
        "each takes at most %d bytes of evlinkd and %d of the kernel: VmRSS %d (RssAnon %d), Slab %d, "
        "MemFree %d",
        MOST_BYTES, MOST_BYTES, resident, each(before->anonymous, after->anonymous), slab,
        each(after->free, before->free));
}

/* As many as go into one message. */
static int hold_some(struct evlink_client *client, unsigned first, size_t n)
{
    char texts[EVLINK_HOLD_MANY_MAX][16];
    const char *names[EVLINK_HOLD_MANY_MAX] = { NULL };
    int fds[EVLINK_HOLD_MANY_MAX] = { -1 }, r;

    for (unsigned i = 0; i < n; i++) {
        unsigned at = first + i, sample = at / (HELD / SAMPLES);
        bool is_sample = at % (HELD / SAMPLES) == 0;

        (void)snprintf(texts[i], sizeof(texts[i]), "many.%u", at);
        names[i] = texts[i];
        fds[i] = eventfd(is_sample ? sample + 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK);
        need(fds[i] >= 0, "an eventfd");
        if (is_sample)
            sample_ids[sample] = eventfd_id(fds[i]);
    }
    r = evlink_hold_many(client, names, fds, n, EVLINK_PERSISTENT, 0);
    for (size_t i = 0; i < n; i++)
        close(fds[i]);
    return r;
}

static unsigned count_samples(struct evlink_client *client)
{
    unsigned good = 0;

    for (unsigned i = 0; i < SAMPLES; i++) {
        uint64_t count = 0;
        char name[16];
        int fd;

        (void)snprintf(name, sizeof(name), "many.%u", i * (HELD / SAMPLES));
        if (evlink_claim(client, name, &fd) != 0)
            continue;
        good += eventfd_id(fd) == sample_ids[i] && read(fd, &count, sizeof(count)) == sizeof(count) &&
                count == i + 1;
        close(fd);
    }
    return good;
}

void check_many(struct rig *rig)
{
    struct memory before = measure(rig), after;
    struct evlink_status status = { .eventfds = 0 };
    double began = now(), took;
    int r = 0;

    for (unsigned i = 0; i < HELD && r == 0; i += EVLINK_HOLD_MANY_MAX)
        r = hold_some(rig->client, i, HELD - i < EVLINK_HOLD_MANY_MAX ? HELD - i : EVLINK_HOLD_MANY_MAX);
    took = now() - began;
    after = measure(rig);
    if (r == 0)
        r = evlink_status(rig->client, &status);
    if (!check(r == 0 && status.eventfds == HELD && status.durable,
            "%d eventfds are held, durably, in %.1f s: %s", HELD, took,
            r == 0 ? "all" : evlink_client_message(rig->client)))
        return;
    check_memory(&before, &after);

    began = now();
    kill_evlinkd(rig->supervisor);
    revive_evlinkd(rig->supervisor);
    rig->client = evlink_client_free(rig->client);
    rig->client = open_client();
    r = evlink_status(rig->client, &status);
    took = now() - began;
    check(r == 0 && status.restored_eventfds == HELD && status.eventfds == HELD,
        "evlinkd is killed, and answers again with all of them in %.1f s: %" PRIu64, took,
        status.restored_eventfds);
    printf("# of these, %.1f s were its own work\n", (double)status.restored_in / 1e6);
    r = (int)count_samples(rig->client);
    check(r == SAMPLES, "the same eventfds, with their counts: %d of %d that were looked at", r, SAMPLES);
}
