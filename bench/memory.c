/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is held costs memory, the broker's and the kernel's. And what evlinkd does when there is nothing to
 * do. */
#include "bench.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define N_HELD 8000
#define N_LINKS 4000
#define LINKS_AT_ONCE 1000
#define MEMORY_ROUNDS 3
#define WINDOW 32
#define IDLE_SECONDS 2

/* Memory that was given back is so after a moment. */
#define SETTLE 300000

/* ---- The memory controller ---- */

/* Reads the figure of the control group that we are in, in bytes. False: there is none. */
static bool kernel_memory(double *ret_bytes)
{
    char line[512], path[600];
    FILE *file = fopen("/proc/self/cgroup", "re");
    bool found = false;

    while (file && !found && fgets(line, sizeof(line), file)) {
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        FILE *figures;

        if (!group)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        if (strcmp(controllers, ":memory") == 0) {
            (void)snprintf(path, sizeof(path), "/sys/fs/cgroup/memory%s/memory.kmem.usage_in_bytes", group);
            figures = fopen(path, "re");
            found = figures && fscanf(figures, "%lf", ret_bytes) == 1;
        } else if (strcmp(controllers, ":") == 0) {
            (void)snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.stat", group);
            figures = fopen(path, "re");
            while (figures && !found && fgets(line, sizeof(line), figures))
                found = sscanf(line, "kernel %lf", ret_bytes) == 1;
        } else {
            continue;
        }
        if (figures)
            (void)fclose(figures);
    }
    if (file)
        (void)fclose(file);
    return found;
}

static double kernel_bytes(void)
{
    double bytes = 0;

    (void)usleep(SETTLE);
    (void)kernel_memory(&bytes);
    return bytes;
}

/* ---- What is held, and linked ---- */

static void hold_all(struct broker *broker)
{
    struct texts texts = texts_hold("h", N_HELD, 0, false);
    int client = connect_to(broker->path);

    (void)pump(client, &texts, NULL, 0, WINDOW, 0);
    close(client);
    texts_clear(&texts);
}

/* Links that wait for a VM, each of a held eventfd: to evlinkd they are as large as those that are plugged.
 */
static void link_all(struct broker *broker)
{
    static char producers[LINKS_AT_ONCE][32], consumers[LINKS_AT_ONCE][32];
    static const char *ends[2 * LINKS_AT_ONCE][2];
    static struct evlink_link_spec specs[LINKS_AT_ONCE];

    for (size_t i = 0; i < N_LINKS; i += LINKS_AT_ONCE) {
        for (size_t k = 0; k < LINKS_AT_ONCE; k++) {
            (void)snprintf(producers[k], 32, "eventfd/h%zu", i + k);
            (void)snprintf(consumers[k], 32, "kvm/vm/gsi/%zu", i + k);
            ends[2 * k][0] = producers[k];
            ends[2 * k + 1][0] = consumers[k];
            specs[k] = (struct evlink_link_spec){ .producers = ends[2 * k], .consumers = ends[2 * k + 1] };
        }
        must(evlink_connect_many(broker->client, specs, LINKS_AT_ONCE), "ConnectMany", broker->client);
    }
}

struct rows {
    struct row *held, *links, *kernel, *kernel_links;
};

static void ours(struct rows *rows)
{
    struct broker broker;
    double kernel, user, shared, more;

    broker_start(&broker);
    kernel = kernel_bytes();
    user = proc_number(broker.pid, "status", "RssAnon");
    shared = proc_number(broker.pid, "status", "RssShmem");
    hold_all(&broker);
    series_add(&rows->held->ours, (proc_number(broker.pid, "status", "RssAnon") - user) * 1024 / N_HELD);
    row_note(rows->held, "and %.0f of the vault's log",
        (proc_number(broker.pid, "status", "RssShmem") - shared) * 1024 / N_HELD);
    /* Two seconds: the vault may have to clean up. */
    (void)sleep(1);
    more = kernel_bytes();
    series_add(&rows->kernel->ours, (more - kernel) / N_HELD);
    user = proc_number(broker.pid, "status", "RssAnon");
    shared = proc_number(broker.pid, "status", "RssShmem");
    link_all(&broker);
    series_add(&rows->links->ours, (proc_number(broker.pid, "status", "RssAnon") - user) * 1024 / N_LINKS);
    row_note(rows->links, "and %.0f of the vault's log",
        (proc_number(broker.pid, "status", "RssShmem") - shared) * 1024 / N_LINKS);
    series_add(&rows->kernel_links->ours, (kernel_bytes() - more) / N_LINKS);
    broker_stop(&broker);
}

static void bare(struct rows *rows)
{
    struct bare_table table = { .n = N_HELD };
    int ready[2];
    double before;
    pid_t pid;
    char byte;

    if (pipe(ready) < 0)
        die("no pipe: %m");
    table.ready = ready[1];
    before = kernel_bytes();
    pid = child_start(bare_table, &table);
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1)
        die("the bare table failed");
    series_add(&rows->kernel->other, (kernel_bytes() - before) / N_HELD);
    close(ready[0]);
    child_stop(pid);
}

void bench_memory(void)
{
    struct rows rows = {
        row_new("user memory, a held eventfd", "", "byte", OURS_AT_MOST, 300),
        row_new("user memory, a link", "", "byte", OURS_AT_MOST, 1024),
        row_new("kernel memory, a held eventfd", "bare table of eventfds", "byte", RATIO_AT_MOST, 1.3),
        row_new("kernel memory, a link of it", "", "byte", NO_GOAL, 0),
    };
    double bytes;

    for (int i = 0; i < MEMORY_ROUNDS; i++) {
        ours(&rows);
        bare(&rows);
    }
    if (!kernel_memory(&bytes)) {
        row_skip(rows.kernel, "no memory controller counts the kernel's memory for us");
        row_skip(rows.kernel_links, "no memory controller counts the kernel's memory for us");
    }
}

void bench_idle(void)
{
    struct row *wakeups = row_new(
                   "idle, no watchdog: wakeups", "of evlinkd and its supervisor", "1/s", OURS_AT_MOST, 0),
               *resident = row_new("idle: resident", "evlinkd", "MiB", OURS_AT_MOST, 5);
    struct broker broker;
    double before;

    broker_start(&broker);
    (void)sleep(1);
    before = proc_number(broker.pid, "status", "voluntary_ctxt_switches") +
             proc_number(broker.parent, "status", "voluntary_ctxt_switches");
    (void)sleep(IDLE_SECONDS);
    series_add(&wakeups->ours, (proc_number(broker.pid, "status", "voluntary_ctxt_switches") +
                                   proc_number(broker.parent, "status", "voluntary_ctxt_switches") - before) /
                                   IDLE_SECONDS);
    series_add(&resident->ours, proc_number(broker.pid, "status", "VmRSS") / 1024);
    row_note(resident, "%.1f of it its own; the supervisor has %.1f",
        proc_number(broker.pid, "smaps_rollup", "Private_Dirty") / 1024,
        proc_number(broker.parent, "status", "VmRSS") / 1024);
    broker_stop(&broker);
}
