/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The benchmark of stores under a systemd: started in one by tests/test-systemd --run, as root, and nowhere
 * else, since it starts and kills services. evlinkd is as its units have it; beside it is a service of a few
 * lines, by the same unit, which keeps its descriptors in systemd's own store: this program too, with the
 * argument store or store-many.
 *
 * A line for each figure: a name (see systemd.c) and milliseconds.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define N_STORED 8000
#define MANY 200
#define WINDOW 32
#define ROUNDS_OF_OURS 3

/* SCM_MAX_FD: as many as go with one message */
#define MOST 253

#define OURS "/run/evlinkd/io.evlink.Broker"
#define UNIT "/run/systemd/system/bench-store@.service"
#define NEWS "/run/bench-store"

/* ---- The service that keeps its descriptors in systemd's store ---- */

static void make_fds(int *fds)
{
    for (size_t i = 0; i < N_STORED; i++)
        if ((fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
            die("no eventfd: %m");
}

static void store(const int *fds, unsigned many)
{
    char state[64];

    for (unsigned i = 0, n; i < N_STORED; i += n) {
        n = i + many < N_STORED ? many : N_STORED - i;
        /* As evlinkd stores its own: systemd need not look whether they are at an end. */
        (void)snprintf(state, sizeof(state), "FDSTORE=1\nFDPOLL=0\nFDNAME=h%u", i);
        if (sd_pid_notify_with_fds(0, 0, state, fds + i, n) <= 0)
            die("cannot notify systemd: %m");
    }
    /* Until it has them all */
    if (sd_notify_barrier(0, UINT64_MAX) <= 0)
        die("systemd does not answer: %m");
}

static void tell(double value)
{
    int news = open(NEWS, O_WRONLY | O_CLOEXEC);

    if (news < 0 || write(news, &value, sizeof(value)) != sizeof(value))
        die("cannot write to %s: %m", NEWS);
    close(news);
}

/* Stores and tells in how much time; the next one tells when it has them all back. */
static int serve(bool many)
{
    static int fds[N_STORED];
    int n = sd_listen_fds(0);
    double begun = now();

    if (n == N_STORED) {
        tell(begun);
        (void)sd_notify(0, "READY=1");
    } else if (n == 0) {
        make_fds(fds);
        (void)sd_notify(0, "READY=1");
        begun = now();
        store(fds, many ? MOST : 1);
        tell(now() - begun);
    } else {
        die("%d of %d descriptors came back", n, N_STORED);
    }
    (void)pause();
    return 0;
}

/* ---- What measures ---- */

static void run(const char *command)
{
    if (system(command) != 0)
        die("failed: %s", command);
}

static pid_t main_pid(const char *unit)
{
    char command[128];
    FILE *output;
    int pid = 0;

    (void)snprintf(command, sizeof(command), "systemctl show --value --property=MainPID %s", unit);
    output = popen(command, "re");
    if (!output || fscanf(output, "%d", &pid) != 1 || pclose(output) != 0 || pid <= 1)
        die("there is no main process of %s", unit);
    return pid;
}

static void tell_figure(const char *name, double seconds)
{
    printf("%s %.3f\n", name, seconds * 1e3);
    (void)fflush(stdout);
}

static void measure_ours(const int *fds)
{
    struct texts hold = texts_hold("h", N_STORED, 0, true),
                 hold_many = texts_hold("m", N_STORED / MANY, MANY, true),
                 release = texts_release("h", N_STORED);
    struct evlink_client *client;
    struct evlink_status status;
    double begun;
    pid_t pid;
    int fd;

    hold.own_fds = hold_many.own_fds = true;
    /* It keeps what it has past a restart. */
    run("systemctl --quiet stop evlinkd.service && systemctl start evlinkd.service");
    fd = connect_to(OURS);
    if (fd < 0)
        die("cannot connect to %s: %m", OURS);
    tell_figure("hold", pump(fd, &hold, fds, 1, WINDOW, 0));
    (void)pump(fd, &release, NULL, 0, WINDOW, 0);
    tell_figure("hold-many", pump(fd, &hold_many, fds, MANY, 4, 0));
    close(fd);
    pid = main_pid("evlinkd.service");
    begun = now();
    if (kill(pid, SIGKILL) < 0)
        die("cannot kill evlinkd: %m");
    /* systemd listens meanwhile. */
    must(evlink_client_open(OURS, &client), "connecting", NULL);
    must(evlink_status(client, &status), "Status", client);
    tell_figure("restored", now() - begun);
    tell_figure("restore", (double)status.restored_in / 1e6);
    if (!status.durable || status.restored_eventfds != N_STORED)
        die("%d were held, and %d came back", N_STORED, (int)status.restored_eventfds);
    evlink_client_free(client);
    texts_clear(&hold);
    texts_clear(&hold_many);
    texts_clear(&release);
}

/* What the service tells next. */
static double hear(void)
{
    int news = open(NEWS, O_RDONLY | O_CLOEXEC);
    double value;

    if (news < 0 || read(news, &value, sizeof(value)) != sizeof(value))
        die("the service does not tell: %m");
    close(news);
    return value;
}

static void measure_other(const char *how)
{
    char unit[64], command[128];
    double begun;
    pid_t pid;

    (void)snprintf(unit, sizeof(unit), "bench-store@%s.service", how);
    (void)snprintf(command, sizeof(command), "systemctl start %s", unit);
    run(command);
    tell_figure(how, hear());
    pid = main_pid(unit);
    begun = now();
    if (kill(pid, SIGKILL) < 0)
        die("cannot kill %s: %m", unit);
    tell_figure("back", hear() - begun);
    (void)snprintf(command, sizeof(command), "systemctl stop %s", unit);
    run(command);
}

/* evlinkd's unit with this program and a larger store. systemd is too busy with that for watchdogs. */
static void write_unit(void)
{
    FILE *file;

    run("cp /usr/lib/systemd/system/evlinkd.service " UNIT " && mkdir " UNIT ".d");
    file = fopen(UNIT ".d/bench.conf", "we");
    if (!file ||
        fputs("[Service]\nExecStart=\nExecStart=/test/program %i\nExecReload=\nFileDescriptorStoreMax=8192\n"
              "WatchdogSec=0\nTimeoutStartSec=infinity\n",
            file) < 0 ||
        fclose(file) != 0)
        die("cannot write %s.d/bench.conf: %m", UNIT);
    run("systemctl daemon-reload");
}

int main(int argc, char **argv)
{
    static int fds[N_STORED];
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (argc == 2)
        return serve(strcmp(argv[1], "store-many") == 0);
    make_fds(fds);
    for (int i = 0; i < ROUNDS_OF_OURS; i++)
        measure_ours(fds);
    write_unit();
    (void)umask(0);
    if (mkfifo(NEWS, 0666) < 0)
        die("cannot make %s: %m", NEWS);
    measure_other("store-many");
    measure_other("store");
    return 0;
}
