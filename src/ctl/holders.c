/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which processes hold eventfds: see holders.h. */
#include "ctl/holders.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/eventfd.h"
#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

DEFINE_CLEANUP(DIR *, closedir)

/* How far the clock may have been led to the right time while something was there. */
#define CLOCK_SLACK USEC_PER_SEC

#define EVENTFD_NAME "anon_inode:[eventfd]"

/* PF_KTHREAD among the flags in /proc/PID/stat. */
#define FLAG_KERNEL_THREAD 0x00200000u

/* Reads a small file: text, cut where it is too long. False: it cannot be read. */
static bool read_text(int dir, const char *path, char *text, size_t size)
{
    CLEANUP(fd_closep) int file = openat(dir, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : read(file, text, size - 1);

    if (n < 0)
        return false;
    text[n] = '\0';
    return true;
}

static json_t *command_of(int process)
{
    char text[64];
    json_t *command;

    if (!read_text(process, "comm", text, sizeof(text)))
        return NULL;
    text[strcspn(text, "\n")] = '\0';
    command = json_string(text);
    if (command)
        return command;
    for (char *c = text; *c; c++) /* it is no UTF-8 */
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    return json_string(text);
}

/* Whether a process began after that time, as far as the clock was not set since. */
static bool began_after(int process, int64_t since)
{
    char text[512];
    const char *at = read_text(process, "stat", text, sizeof(text)) ? strrchr(text, ')') : NULL;
    int64_t began;

    /* starttime is the 22nd field, in ticks since the machine started; the command, in (), is the second. */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return false;
    began = (int64_t)strtoull(at, NULL, 10) * USEC_PER_SEC / sysconf(_SC_CLK_TCK);
    return clock_epoch() - clock_monotonic() + began > since + CLOCK_SLACK;
}

json_t *holders_command(pid_t pid, int64_t since)
{
    CLEANUP(fd_closep) int process = -1;
    char path[32];

    (void)snprintf(path, sizeof(path), "/proc/%jd", (intmax_t)pid);
    process = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return process < 0 || began_after(process, since) ? NULL : command_of(process);
}

/* Whether a process that we may not look into can have descriptors: dead ones and the kernel's have none. */
static bool has_descriptors(int process)
{
    char text[512], state;
    const char *rest;
    unsigned flags;

    if (!read_text(process, "stat", text, sizeof(text)))
        return false; /* it is gone */
    rest = strrchr(text, ')');
    if (!rest || sscanf(rest, ") %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
        return true;
    return !strchr("ZX", state) && !(flags & FLAG_KERNEL_THREAD);
}

/* Notes that a process has an eventfd as fd. It is the last of its holders, if it is one already. */
static int add_holder(json_t *eventfd, int process, pid_t pid, int fd)
{
    json_t *holders = json_object_get(eventfd, "holders");
    json_t *last = json_array_get(holders, json_array_size(holders) - 1);

    if (json_integer_value(json_object_get(last, "pid")) != pid) {
        last = json_pack("{s:I, s:o*, s:[]}", "pid", (json_int_t)pid, "comm", command_of(process), "fds");
        if (json_array_append_new(holders, last) < 0)
            return -ENOMEM;
    }
    return json_array_append_new(json_object_get(last, "fds"), json_integer(fd)) < 0 ? -ENOMEM : 0;
}

/*
 * One descriptor: 1, or 0 where it may not be looked at. fds, fdinfo: the folders of these names. -ENOMEM.
 */
static int look_at(json_t *eventfds, int process, pid_t pid, int fds, int fdinfo, const char *name)
{
    char target[sizeof(EVENTFD_NAME)], key[32];
    struct eventfd_info info;
    json_t *eventfd;
    ssize_t n;
    int r;

    /* Most are something else, which this tells at less cost. */
    n = readlinkat(fds, name, target, sizeof(target));
    if (n < 0)
        return errno != EACCES && errno != EPERM;
    if (n != (ssize_t)strlen(EVENTFD_NAME) || memcmp(target, EVENTFD_NAME, (size_t)n) != 0)
        return 1;
    r = eventfd_info_at(fdinfo, name, &info);
    if (r < 0)
        return r != -EACCES && r != -EPERM;
    if (info.id < 0)
        return 1;
    (void)snprintf(key, sizeof(key), "%" PRId64, info.id);
    eventfd = json_object_get(eventfds, key);
    r = eventfd ? add_holder(eventfd, process, pid, atoi(name)) : 0;
    return r < 0 ? r : 1;
}

/* All descriptors of a process, which is a folder of /proc's: what it stands for does not change. */
static int look_into(json_t *eventfds, int process, pid_t pid, struct holders_tally *tally)
{
    CLEANUP(fd_closep) int fds = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CLEANUP(fd_closep) int fdinfo = -1;
    CLEANUP(closedirp) DIR *folder = NULL;
    const struct dirent *entry;
    bool hidden = false;

    if (fds < 0) {
        tally->hidden += (errno == EACCES || errno == EPERM) && has_descriptors(process);
        return 0;
    }
    folder = fdopendir(fds);
    if (!folder)
        return -errno;
    (void)TAKE_FD(fds);
    fdinfo = openat(process, "fdinfo", O_PATH | O_DIRECTORY | O_CLOEXEC);
    while ((entry = readdir(folder))) {
        int r = 1;

        if (entry->d_name[0] != '.')
            r = look_at(eventfds, process, pid, dirfd(folder), fdinfo, entry->d_name);
        if (r < 0)
            return r;
        hidden |= r == 0;
    }
    tally->hidden += hidden;
    tally->seen += !hidden;
    return 0;
}

int holders_find(json_t *eventfds, struct holders_tally *ret_tally)
{
    CLEANUP(closedirp) DIR *proc = opendir("/proc");
    struct holders_tally tally = { 0 };
    const struct dirent *entry;

    if (!proc)
        return -errno;
    while ((entry = readdir(proc))) {
        CLEANUP(fd_closep) int process = -1;
        int r;

        if (strspn(entry->d_name, "0123456789") != strlen(entry->d_name))
            continue;
        process = openat(dirfd(proc), entry->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        r = process < 0 ? 0 : look_into(eventfds, process, (pid_t)atoi(entry->d_name), &tally);
        if (r < 0)
            return r;
    }
    *ret_tally = tally;
    return 0;
}
