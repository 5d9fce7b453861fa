/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Eventfds that strangers share: see eventfd.h. */
#include "base/eventfd.h"
#include "base/cleanup.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

/* Counts up to this go by AIO, a submission for each unit; the kernel adds exactly 1 a completion. */
#define AIO_ADD_MAX 8

/* What is in flight at once, at the most. */
#define AIO_RING 64

/* A flag that no file knows: eventfds, which have no use for it, say EOPNOTSUPP first, anything else EINVAL.
 */
#define RWF_UNKNOWN 0x40000000

struct evaio {
    aio_context_t context; /* 0: none to be had */
    int zero;              /* /dev/zero, which the reads are of */
    int proc;              /* /proc/self/fd, where there is no AIO */
};

int eventfd_create(bool semaphore)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (semaphore ? EFD_SEMAPHORE : 0));

    return fd < 0 ? -errno : fd;
}

int eventfd_info_at(int dir, const char *path, struct eventfd_info *ret_info)
{
    CLEANUP(fd_closep) int file = -1;
    struct eventfd_info info = { .id = -1 };
    char text[1024], *line, *save = NULL;
    bool seen = false;
    ssize_t n;

    file = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -errno;
    n = read(file, text, sizeof(text) - 1);
    if (n < 0)
        return -errno;
    text[n] = '\0';
    for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        int semaphore;

        if (sscanf(line, "eventfd-count: %" SCNx64, &info.count) == 1)
            seen = true;
        else if (sscanf(line, "eventfd-semaphore: %d", &semaphore) == 1)
            info.semaphore = semaphore;
        else
            (void)sscanf(line, "eventfd-id: %" SCNd64, &info.id);
    }
    if (!seen)
        return -ENOTTY;
    *ret_info = info;
    return 0;
}

int eventfd_info(int fd, struct eventfd_info *ret_info)
{
    char path[64];
    int r;

    (void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    r = eventfd_info_at(AT_FDCWD, path, ret_info);
    return r == -ENOENT && fcntl(fd, F_GETFD) < 0 ? -EBADF : r;
}

int eventfd_drain(int fd, uint64_t *ret_count)
{
    struct iovec vector = { .iov_base = ret_count, .iov_len = sizeof(*ret_count) };

    /* Offset -1 means the file's own position, which is what an eventfd has. */
    if (preadv2(fd, &vector, 1, -1, RWF_NOWAIT) < 0) {
        if (errno != EAGAIN)
            return -errno;
        *ret_count = 0;
    }
    return 0;
}

int evaio_new(struct evaio **ret_aio)
{
    struct evaio *aio = calloc(1, sizeof(*aio));

    if (!aio)
        return -ENOMEM;
    aio->zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    aio->proc = aio->zero < 0 ? -1 : open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (aio->proc < 0) {
        int r = -errno;

        evaio_free(aio);
        return r;
    }
    if (syscall(SYS_io_setup, AIO_RING, &aio->context) < 0)
        aio->context = 0;
    *ret_aio = aio;
    return 0;
}

struct evaio *evaio_free(struct evaio *aio)
{
    if (!aio)
        return NULL;
    if (aio->context)
        (void)syscall(SYS_io_destroy, aio->context);
    fd_close(aio->zero);
    fd_close(aio->proc);
    free(aio);
    return NULL;
}

/* A read of no bytes, which is complete at once, and whose completion signals fd. */
static struct iocb aio_read(struct evaio *aio, int fd)
{
    return (struct iocb){
        .aio_lio_opcode = IOCB_CMD_PREAD,
        .aio_fildes = (uint32_t)aio->zero,
        .aio_flags = IOCB_FLAG_RESFD,
        .aio_resfd = (uint32_t)fd,
    };
}

static int is_eventfd_by_name(struct evaio *aio, int fd)
{
    int flags = fcntl(fd, F_GETFL);
    char name[16], target[32];
    ssize_t n;

    if (flags < 0)
        return -errno;
    /* An eventfd's place, which opening /proc/self/fd/N gives: it has the name, and is none. */
    if (flags & O_PATH)
        return 0;
    (void)snprintf(name, sizeof(name), "%d", fd);
    n = readlinkat(aio->proc, name, target, sizeof(target));
    if (n < 0)
        return errno == ENOENT ? -EBADF : -errno;
    /* Paths begin with a slash: no file can be named like this. */
    return (size_t)n == strlen("anon_inode:[eventfd]") &&
           memcmp(target, "anon_inode:[eventfd]", (size_t)n) == 0;
}

int evaio_is_eventfd(struct evaio *aio, int fd)
{
    struct iocb probe = aio_read(aio, fd), *list[] = { &probe };

    if (fd < 0)
        return -EBADF;
    if (!aio->context)
        return is_eventfd_by_name(aio, fd);
    /* The kernel looks at aio_resfd before it looks at the flags, and submits nothing either way. */
    probe.aio_rw_flags = RWF_UNKNOWN;
    if (syscall(SYS_io_submit, aio->context, 1, list) >= 0)
        return -EIO;
    if (errno == EOPNOTSUPP)
        return 1;
    /* EBADF is also said of what was opened with O_PATH. */
    return errno == EINVAL ? 0 : is_eventfd_by_name(aio, fd);
}

/* Submits reads, and waits for their completion: they are complete when io_submit() returns. */
static int run_reads(struct evaio *aio, struct iocb **list, long n)
{
    struct io_event events[AIO_RING];
    long submitted, reaped = 0;

    submitted = syscall(SYS_io_submit, aio->context, n, list);
    if (submitted < 0)
        return -errno;
    while (reaped < submitted) {
        long got = syscall(SYS_io_getevents, aio->context, 1, submitted - reaped, events, NULL);

        if (got < 0 && errno != EINTR)
            return -errno;
        if (got > 0)
            reaped += got;
    }
    return submitted == n ? 0 : -EIO;
}

static int add_by_aio(struct evaio *aio, int fd, uint64_t count)
{
    struct iocb reads[AIO_ADD_MAX], *list[AIO_ADD_MAX];

    for (uint64_t i = 0; i < count; i++) {
        reads[i] = aio_read(aio, fd);
        list[i] = &reads[i];
    }
    return run_reads(aio, list, (long)count);
}

static void on_alarm(int number)
{
    (void)number; /* to end a write with EINTR, nothing else */
}

/*
 * Whoever shares the eventfd can fill it between any look at it and the write, after clearing O_NONBLOCK: so
 * the write is begun with an interval timer running, and what then blocks ends with EINTR within a
 * millisecond.
 */
static int add_by_write(int fd, uint64_t count)
{
    const struct sigaction action = { .sa_handler = on_alarm }; /* no SA_RESTART */
    const struct itimerval tick = { .it_interval.tv_usec = 1000, .it_value.tv_usec = 1000 }, stop = { 0 };
    struct sigaction old;
    ssize_t n;
    int r;

    if (sigaction(SIGALRM, &action, &old) < 0 || setitimer(ITIMER_REAL, &tick, NULL) < 0)
        return -errno;
    n = write(fd, &count, sizeof(count));
    r = n < 0 ? -errno : 0;
    (void)setitimer(ITIMER_REAL, &stop, NULL);
    (void)sigaction(SIGALRM, &old, NULL);
    return r == -EINTR ? -EAGAIN : r;
}

int evaio_add(struct evaio *aio, int fd, uint64_t count)
{
    struct eventfd_info info;
    int r;

    if (count > EVENTFD_MAX)
        return -EAGAIN;
    /* In-kernel signals clamp where the counter is full: look first. */
    r = eventfd_info(fd, &info);
    if (r < 0)
        return r;
    if (info.count > EVENTFD_MAX - count)
        return -EAGAIN;
    if (aio->context && count <= AIO_ADD_MAX)
        return add_by_aio(aio, fd, count);
    return add_by_write(fd, count);
}

/* Adds what fits. */
static void add_clamped(struct evaio *aio, int fd, uint64_t count)
{
    struct eventfd_info info;

    if (aio->context && count <= AIO_ADD_MAX) {
        (void)add_by_aio(aio, fd, count);
        return;
    }
    /* Others who add meanwhile can be in the way of a write, not often. */
    for (int i = 0; i < 3; i++) {
        if (eventfd_info(fd, &info) < 0 || info.count >= EVENTFD_MAX)
            return;
        if (add_by_write(fd, count < EVENTFD_MAX - info.count ? count : EVENTFD_MAX - info.count) != -EAGAIN)
            return;
    }
}

void evaio_signal(struct evaio *aio, const struct evaio_signal *signals, size_t n)
{
    struct iocb reads[AIO_RING], *list[AIO_RING];
    size_t queued = 0;

    for (size_t i = 0; i < n; i++) {
        if (!aio->context || signals[i].count > AIO_ADD_MAX) {
            add_clamped(aio, signals[i].fd, signals[i].count);
            continue;
        }
        if (queued + signals[i].count > AIO_RING) {
            (void)run_reads(aio, list, (long)queued);
            queued = 0;
        }
        for (uint64_t k = 0; k < signals[i].count; k++, queued++) {
            reads[queued] = aio_read(aio, signals[i].fd);
            list[queued] = &reads[queued];
        }
    }
    if (queued > 0)
        (void)run_reads(aio, list, (long)queued);
}
