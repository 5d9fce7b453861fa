/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store of 8,000 descriptors: filling it, and having it back after SIGKILL; beside s6-fdholderd. */
#include "bench.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_STORED 8000
#define MANY 200
#define WINDOW 32
#define STORE_ROUNDS 3

static int fds[MANY];

static void ours(struct row *one, struct row *many, struct row *back)
{
    struct texts hold = texts_hold("h", N_STORED, 0, true),
                 hold_many = texts_hold("m", N_STORED / MANY, MANY, true),
                 release = texts_release("h", N_STORED);
    struct evlink_status status;
    struct broker broker;
    double begun;
    int client;

    broker_start(&broker);
    client = connect_to(broker.path);
    series_add(&one->ours, pump(client, &hold, fds, 1, WINDOW, 0) * 1e3);
    (void)pump(client, &release, NULL, 0, WINDOW, 0);
    series_add(&many->ours, pump(client, &hold_many, fds, MANY, 4, 0) * 1e3);
    close(client);
    begun = now();
    broker_kill(&broker);
    series_add(&back->ours, (now() - begun) * 1e3);
    must(evlink_status(broker.client, &status), "Status", broker.client);
    if (status.restored_eventfds != N_STORED)
        die("%d were held, and %d came back", N_STORED, (int)status.restored_eventfds);
    row_note(back, "%.1f ms of it the restore; the other loses all", (double)status.restored_in / 1e3);
    broker_stop(&broker);
    texts_clear(&hold);
    texts_clear(&hold_many);
    texts_clear(&release);
}

/* ---- s6-fdholderd ---- */

static void write_file(const char *folder, const char *name, const char *text)
{
    char path[256];
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "we");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0)
        die("cannot write %s: %m", path);
}

static void make_folder(const char *folder, const char *name)
{
    char path[256];

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    if (mkdir(path, 0700) < 0)
        die("cannot make %s: %m", path);
}

static pid_t run_s6(const char *folder)
{
    char path[160], user[64], name[160], most[16];
    pid_t pid;

    make_folder(folder, "rules");
    make_folder(folder, "rules/uid");
    (void)snprintf(user, sizeof(user), "rules/uid/%u", (unsigned)geteuid());
    make_folder(folder, user);
    (void)snprintf(name, sizeof(name), "%s/allow", user);
    write_file(folder, name, "");
    (void)snprintf(name, sizeof(name), "%s/env", user);
    make_folder(folder, name);
    (void)snprintf(name, sizeof(name), "%s/env/S6_FDHOLDER_STORE_REGEX", user);
    write_file(folder, name, "^.*");
    pid = fork();
    if (pid < 0)
        die("cannot fork: %m");
    if (pid > 0)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    (void)snprintf(path, sizeof(path), "%s/socket", folder);
    (void)snprintf(name, sizeof(name), "%s/rules", folder);
    (void)snprintf(most, sizeof(most), "%d", N_STORED + 100);
    execlp("s6-ipcserver-socketbinder", "s6-ipcserver-socketbinder", "--", path, "s6-fdholderd", "-x", most,
        "-i", name, (char *)NULL);
    _exit(127);
}

/* Stores by its protocol: a length, how many descriptors, 'S', until when (TAI), a name. */
static struct texts texts_s6(void)
{
    struct texts texts = texts_new(N_STORED);
    const uint64_t until = (UINT64_C(1) << 62) + (uint64_t)time(NULL) + 100000;

    for (size_t i = 0; i < N_STORED; i++) {
        unsigned char text[64] = { 0 };
        int length = snprintf((char *)text + 20, 32, "h%zu", i);

        text[3] = (unsigned char)(14 + length + 1);
        text[5] = 1;
        text[6] = 'S';
        for (int k = 0; k < 8; k++)
            text[7 + k] = (unsigned char)(until >> (56 - 8 * k));
        text[19] = (unsigned char)length;
        texts_set(&texts, i, text, (size_t)(20 + length + 1));
    }
    return texts;
}

static void other(struct row *one, struct row *many)
{
    char folder[] = "/tmp/evlinkd-bench-XXXXXX", path[64], command[80];
    struct texts texts = texts_s6();
    int client = -1;
    double took;
    pid_t pid;

    if (!mkdtemp(folder))
        die("cannot make a folder: %m");
    pid = run_s6(folder);
    (void)snprintf(path, sizeof(path), "%s/socket", folder);
    for (int i = 0; i < 1000 && client < 0; i++) {
        (void)usleep(5000);
        client = connect_to(path);
    }
    if (client < 0)
        die("s6-fdholderd did not start");
    took = pump(client, &texts, fds, 1, WINDOW, 7) * 1e3;
    series_add(&one->other, took);
    series_add(&many->other, took);
    close(client);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    (void)snprintf(command, sizeof(command), "rm -r %s", folder);
    if (system(command) != 0)
        die("cannot remove %s", folder);
    texts_clear(&texts);
}

void bench_store(void)
{
    struct row *one = row_new("store of 8,000, Hold each", "s6-fdholderd", "ms", RATIO_AT_MOST, 1),
               *many = row_new("store of 8,000, HoldMany of 200", "the same", "ms", RATIO_AT_MOST, 1),
               *back = row_new("8,000 back after SIGKILL", "", "ms", NO_GOAL, 0);
    bool installed = system("command -v s6-fdholderd s6-ipcserver-socketbinder >/dev/null") == 0;

    for (size_t i = 0; i < MANY; i++)
        if ((fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
            die("no eventfd: %m");
    for (int i = 0; i < STORE_ROUNDS; i++) {
        ours(one, many, back);
        if (installed)
            other(one, many);
    }
    if (!installed) {
        one->goal = many->goal = NO_GOAL;
        row_note(one, "s6-fdholderd is not installed");
        row_note(many, "s6-fdholderd is not installed");
    }
    for (size_t i = 0; i < MANY; i++)
        close(fds[i]);
}
