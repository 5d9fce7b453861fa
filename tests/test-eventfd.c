/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Eventfds that strangers share (src/base/eventfd.c): which descriptors are some, that nothing blocks
 * whatever a peer does, and that a counter is added to exactly or not at all. All of it with Linux AIO and
 * without.
 */
#include "base/eventfd.h"
#include "base/fd.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>

/* ---- With AIO and without ---- */

/* In a child: io_setup() fails as it does where others have taken all of fs.aio-max-nr. Nobody else is
 * troubled. */
static bool deny_aio(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

struct run {
    void (*test)(struct evaio *aio);
    bool deny;
};

static void run_one(void *userdata)
{
    const struct run *run = userdata;
    size_t before = fds_count();
    aio_context_t context = 0;
    struct evaio *aio;

    if (run->deny) {
        CHECK(deny_aio());
        CHECK(syscall(SYS_io_setup, 1, &context) < 0 && errno == EAGAIN);
    }
    CHECK(evaio_new(&aio) == 0);
    run->test(aio);
    CHECK(!evaio_free(aio));
    CHECK(fds_count() == before);
}

/* Runs it twice, each time in a child: it may hang there, and denying itself AIO is for good. */
static void with_and_without_aio(void (*test)(struct evaio *aio))
{
    for (int deny = 0; deny < 2; deny++) {
        struct run run = { .test = test, .deny = deny };

        in_child(run_one, &run);
    }
}

static uint64_t count_of(int fd)
{
    struct eventfd_info info;

    CHECK(eventfd_info(fd, &info) == 0);
    return info.count;
}

static void put(int fd, uint64_t count)
{
    CHECK(syscall(SYS_write, fd, &count, sizeof(count)) == sizeof(count));
}

static int make_blocking(int fd)
{
    return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
}

static double seconds(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- What it is ---- */

static void test_create(void **state)
{
    struct eventfd_info info;
    int fd = eventfd_create(false);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    assert_int_equal(eventfd_info(fd, &info), 0);
    assert_true(info.count == 0);
    assert_false(info.semaphore);
    fd_close(fd);
    fd = eventfd_create(true);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    assert_int_equal(eventfd_write(fd, 2), 0);
    {
        uint64_t one;

        assert_int_equal(read(fd, &one, sizeof(one)), sizeof(one));
        assert_true(one == 1);
    }
    fd_close(fd);
}

/* Whether this kernel's fdinfo has such a line. */
static bool fdinfo_has(int fd, const char *line)
{
    char path[64], text[1024];
    ssize_t n;
    int file;

    (void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    file = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(file >= 0);
    n = read(file, text, sizeof(text) - 1);
    fd_close(file);
    assert_true(n > 0);
    text[n] = '\0';
    return strstr(text, line);
}

static void test_info(void **state)
{
    static const uint64_t counts[] = { 0, 1, 10, 0xdeadbeef, INT64_MAX, UINT64_C(1) << 63, EVENTFD_MAX };
    int a = eventfd_create(false), b = eventfd_create(false), copy = fd_dup(a), sem = eventfd_create(true);
    struct eventfd_info info, other;

    (void)state;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        int fd = eventfd(0, EFD_CLOEXEC);

        assert_int_equal(eventfd_write(fd, counts[i]), 0);
        assert_int_equal(eventfd_info(fd, &info), 0);
        assert_true(info.count == counts[i]);
        /* looking does not change it */
        assert_int_equal(eventfd_info(fd, &info), 0);
        assert_true(info.count == counts[i]);
        fd_close(fd);
    }
    assert_int_equal(eventfd_info(a, &info), 0);
    if (fdinfo_has(a, "eventfd-id:")) {
        assert_true(info.id >= 0);
        assert_int_equal(eventfd_info(copy, &other), 0);
        assert_true(info.id == other.id);
        assert_int_equal(eventfd_info(b, &other), 0);
        assert_true(info.id != other.id);
    } else {
        assert_true(info.id == -1);
    }
    assert_int_equal(eventfd_info(sem, &info), 0);
    assert_int_equal(info.semaphore, fdinfo_has(sem, "eventfd-semaphore:"));
    fd_close(a);
    fd_close(b);
    fd_close(copy);
    fd_close(sem);
}

static void test_info_errors(void **state)
{
    struct eventfd_info info = { .id = 4711 };
    int file = fd_make(), pair[2], epoll = epoll_create1(EPOLL_CLOEXEC);

    (void)state;
    assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
    assert_int_equal(eventfd_info(file, &info), -ENOTTY);
    assert_int_equal(eventfd_info(pair[0], &info), -ENOTTY);
    assert_int_equal(eventfd_info(epoll, &info), -ENOTTY);
    fd_close(file);
    fd_close(pair[0]);
    fd_close(pair[1]);
    fd_close(epoll);
    assert_int_equal(eventfd_info(file, &info), -EBADF);
    assert_int_equal(eventfd_info(-1, &info), -EBADF);
    assert_int_equal(eventfd_info(INT_MAX, &info), -EBADF);
    assert_true(info.id == 4711);
}

/* Another process's. */
static void test_info_at(void **state)
{
    int fd = eventfd_create(false), folder, gate[2];
    struct eventfd_info info = { .count = 4711 }, own;
    char name[16], path[64];
    pid_t child;

    (void)state;
    assert_int_equal(pipe2(gate, O_CLOEXEC), 0);
    child = fork();
    if (child == 0) {
        char byte;

        fd_close(gate[1]);
        _exit(read(gate[0], &byte, 1) != 0);
    }
    assert_true(child > 0);
    assert_int_equal(eventfd_write(fd, 7), 0);
    assert_int_equal(eventfd_info(fd, &own), 0);
    fd_close(fd);

    (void)snprintf(path, sizeof(path), "/proc/%d/fdinfo", (int)child);
    folder = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    (void)snprintf(name, sizeof(name), "%d", fd);
    assert_int_equal(eventfd_info_at(folder, name, &info), 0);
    assert_true(info.id == own.id && info.count == 7);
    (void)snprintf(name, sizeof(name), "%d", gate[0]);
    assert_int_equal(eventfd_info_at(folder, name, &info), -ENOTTY);
    assert_int_equal(eventfd_info_at(folder, "1000000", &info), -ENOENT);
    assert_true(info.count == 7);
    fd_close(folder);
    fd_close(gate[0]);
    fd_close(gate[1]);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

/* ---- Which ones are eventfds ---- */

struct other {
    const char *what;
    int fd;
};

/* A file whose name is that of an eventfd, in a folder that is removed at once. */
static int spoofed_file(void)
{
    char folder[] = "/tmp/test-eventfd-XXXXXX";
    int directory, fd;

    CHECK(mkdtemp(folder));
    directory = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(directory >= 0);
    fd = openat(directory, "anon_inode:[eventfd]", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK(unlinkat(directory, "anon_inode:[eventfd]", 0) == 0);
    CHECK(rmdir(folder) == 0);
    fd_close(directory);
    return fd;
}

static void identify_eventfds(struct evaio *aio)
{
    for (int flags = 0; flags < 4; flags++) {
        int fd = eventfd(0, EFD_CLOEXEC | (flags & 1 ? EFD_SEMAPHORE : 0) | (flags & 2 ? EFD_NONBLOCK : 0));
        int copy = fd_dup(fd);

        CHECK(evaio_is_eventfd(aio, fd) == 1);
        CHECK(evaio_is_eventfd(aio, copy) == 1);
        CHECK(count_of(fd) == 0);
        put(fd, 7);
        CHECK(evaio_is_eventfd(aio, fd) == 1);
        CHECK(count_of(fd) == 7);
        put(fd, EVENTFD_MAX - 7);
        CHECK(evaio_is_eventfd(aio, fd) == 1);
        CHECK(count_of(fd) == EVENTFD_MAX);
        fd_close(fd);
        CHECK(evaio_is_eventfd(aio, fd) == -EBADF);
        CHECK(evaio_is_eventfd(aio, copy) == 1);
        fd_close(copy);
    }
}

static void identify_others(struct evaio *aio)
{
    int pipes[2], sockets[2], fd = eventfd_create(false);
    sigset_t signals;
    char path[64];

    CHECK(pipe2(pipes, O_CLOEXEC) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
    (void)sigemptyset(&signals);
    {
        struct other others[] = {
            { "pipe, to read", pipes[0] },
            { "pipe, to write", pipes[1] },
            { "unix socket", sockets[0] },
            { "its other end", sockets[1] },
            { "inet socket", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) },
            { "memfd", memfd_create("[eventfd]", MFD_CLOEXEC) },
            { "timerfd", timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC) },
            { "epoll", epoll_create1(EPOLL_CLOEXEC) },
            { "signalfd", signalfd(-1, &signals, SFD_CLOEXEC) },
            { "inotify", inotify_init1(IN_CLOEXEC) },
            { "pidfd", (int)syscall(SYS_pidfd_open, getpid(), 0) },
            { "regular file", open("/proc/self/exe", O_RDONLY | O_CLOEXEC) },
            { "file of an eventfd's name", spoofed_file() },
            { "directory", open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC) },
            { "/dev/zero", open("/dev/zero", O_RDWR | O_CLOEXEC) },
            { "/dev/null", open("/dev/null", O_RDWR | O_CLOEXEC) },
        };

        for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
            if (others[i].fd < 0) { /* valgrind knows no pidfds */
                CHECK(errno == ENOSYS || strcmp(others[i].what, "pidfd") == 0);
                continue;
            }
            if (evaio_is_eventfd(aio, others[i].fd) != 0) {
                fprintf(stderr, "%s: taken for an eventfd\n", others[i].what);
                _exit(1);
            }
            fd_close(others[i].fd);
        }
    }
    /* A place in the file system, not an eventfd, although its name is that of one: nothing can be done with
     * it. */
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    {
        int place = open(path, O_PATH | O_CLOEXEC);
        uint64_t count = 1;

        CHECK(place >= 0);
        CHECK(syscall(SYS_write, place, &count, sizeof(count)) < 0);
        CHECK(evaio_is_eventfd(aio, place) == 0);
        fd_close(place);
    }
    fd_close(fd);
    CHECK(evaio_is_eventfd(aio, fd) == -EBADF);
    CHECK(evaio_is_eventfd(aio, pipes[0]) == -EBADF);
    CHECK(evaio_is_eventfd(aio, -1) == -EBADF);
    CHECK(evaio_is_eventfd(aio, INT_MIN) == -EBADF);
    CHECK(evaio_is_eventfd(aio, INT_MAX) == -EBADF);
}

static void test_is_eventfd(void **state)
{
    (void)state;
    with_and_without_aio(identify_eventfds);
    with_and_without_aio(identify_others);
}

/* ---- Reading it empty ---- */

static void drain_without_blocking(void *userdata)
{
    static const uint64_t counts[] = { 1, 2, 100, UINT64_C(1) << 63, EVENTFD_MAX };

    (void)userdata;
    for (int blocking = 0; blocking < 2; blocking++) {
        int fd = eventfd_create(false);
        uint64_t count = 4711;

        if (blocking)
            CHECK(make_blocking(fd) == 0);
        CHECK(eventfd_drain(fd, &count) == 0);
        CHECK(count == 0);
        for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
            put(fd, counts[i]);
            CHECK(eventfd_drain(fd, &count) == 0);
            CHECK(count == counts[i]);
            CHECK(count_of(fd) == 0);
            CHECK(eventfd_drain(fd, &count) == 0);
            CHECK(count == 0);
        }
        CHECK(((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0) == blocking);
        fd_close(fd);
        count = 4711;
        CHECK(eventfd_drain(fd, &count) == -EBADF);
        CHECK(count == 4711);
    }
}

static void test_drain(void **state)
{
    (void)state;
    in_child(drain_without_blocking, NULL);
}

/* A semaphore gives one at a time: emptying it could take for ever. */
static void drain_semaphores(void *userdata)
{
    (void)userdata;
    for (int blocking = 0; blocking < 2; blocking++) {
        int fd = eventfd_create(true);
        uint64_t count = 4711;

        if (blocking)
            CHECK(make_blocking(fd) == 0);
        CHECK(eventfd_drain(fd, &count) == 0 && count == 0);
        put(fd, 3);
        for (uint64_t left = 3; left > 0; left--) {
            CHECK(count_of(fd) == left);
            CHECK(eventfd_drain(fd, &count) == 0 && count == 1);
        }
        CHECK(eventfd_drain(fd, &count) == 0 && count == 0);
        put(fd, EVENTFD_MAX);
        CHECK(eventfd_drain(fd, &count) == 0 && count == 1);
        CHECK(count_of(fd) == EVENTFD_MAX - 1);
        fd_close(fd);
    }
}

static void test_drain_semaphore(void **state)
{
    (void)state;
    in_child(drain_semaphores, NULL);
}

/* ---- Adding to it ---- */

static void add(struct evaio *aio)
{
    static const uint64_t counts[] = { 1, 2, 7, 8, 9, 100, UINT64_C(1) << 32, EVENTFD_MAX - 1, EVENTFD_MAX };

    for (int flags = 0; flags < 4; flags++)
        for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
            int fd =
                eventfd(0, EFD_CLOEXEC | (flags & 1 ? EFD_SEMAPHORE : 0) | (flags & 2 ? EFD_NONBLOCK : 0));
            struct pollfd readable = { .fd = fd, .events = POLLIN };

            CHECK(poll(&readable, 1, 0) == 0);
            CHECK(evaio_add(aio, fd, counts[i]) == 0);
            CHECK(count_of(fd) == counts[i]);
            CHECK(poll(&readable, 1, 0) == 1 && readable.revents == POLLIN);
            /* the flags are as they were */
            CHECK(((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0) == ((flags & 2) != 0));
            fd_close(fd);
        }
}

/* Up to the last one that fits, and not a single one more. */
static void add_to_the_full(struct evaio *aio)
{
    static const struct {
        uint64_t before, count;
        bool fits;
    } cases[] = {
        { EVENTFD_MAX - 1, 1, true },
        { EVENTFD_MAX, 1, false },
        { EVENTFD_MAX - 8, 8, true },
        { EVENTFD_MAX - 7, 8, false },
        { EVENTFD_MAX, 8, false },
        { EVENTFD_MAX - 9, 9, true },
        { EVENTFD_MAX - 8, 9, false },
        { 1, EVENTFD_MAX - 1, true },
        { 1, EVENTFD_MAX, false },
        { 2, EVENTFD_MAX - 1, false },
        { EVENTFD_MAX, EVENTFD_MAX, false },
        { 0, UINT64_MAX, false },
        { EVENTFD_MAX, UINT64_MAX, false },
    };

    for (int flags = 0; flags < 4; flags++)
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            int fd =
                eventfd(0, EFD_CLOEXEC | (flags & 1 ? EFD_SEMAPHORE : 0) | (flags & 2 ? EFD_NONBLOCK : 0));

            put(fd, cases[i].before);
            CHECK(evaio_add(aio, fd, cases[i].count) == (cases[i].fits ? 0 : -EAGAIN));
            CHECK(count_of(fd) == cases[i].before + (cases[i].fits ? cases[i].count : 0));
            fd_close(fd);
        }
}

static void add_to_no_eventfd(struct evaio *aio)
{
    static const uint64_t counts[] = { 1, 9 };
    int pipes[2], file = fd_make();
    char byte;

    CHECK(pipe2(pipes, O_CLOEXEC | O_NONBLOCK) == 0);
    for (size_t i = 0; i < 2; i++) {
        CHECK(evaio_add(aio, pipes[1], counts[i]) == -ENOTTY);
        CHECK(evaio_add(aio, file, counts[i]) == -ENOTTY);
    }
    /* nothing was written there */
    CHECK(read(pipes[0], &byte, 1) < 0 && errno == EAGAIN);
    CHECK(lseek(file, 0, SEEK_END) == 0);
    fd_close(pipes[0]);
    fd_close(pipes[1]);
    fd_close(file);
    for (size_t i = 0; i < 2; i++) {
        CHECK(evaio_add(aio, file, counts[i]) == -EBADF);
        CHECK(evaio_add(aio, -1, counts[i]) == -EBADF);
    }
}

/* Many, on whatever processor: the kernel keeps its requests by processor. */
static void add_often(struct evaio *aio)
{
    int fd = eventfd_create(false);
    uint64_t sum = 0;
    cpu_set_t allowed;

    CHECK(sched_getaffinity(0, sizeof(allowed), &allowed) == 0);
    for (int round = 0, cpu = 0; round < 200; round++, cpu = (cpu + 1) % CPU_SETSIZE) {
        cpu_set_t one;

        while (!CPU_ISSET(cpu, &allowed))
            cpu = (cpu + 1) % CPU_SETSIZE;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
        for (uint64_t count = 1; count <= 12; count++) {
            CHECK(evaio_add(aio, fd, count) == 0);
            sum += count;
        }
    }
    CHECK(count_of(fd) == sum);
    fd_close(fd);
}

static void test_add(void **state)
{
    (void)state;
    with_and_without_aio(add);
}

static void test_add_full(void **state)
{
    (void)state;
    with_and_without_aio(add_to_the_full);
}

static void test_add_no_eventfd(void **state)
{
    (void)state;
    with_and_without_aio(add_to_no_eventfd);
}

static void test_add_often(void **state)
{
    (void)state;
    with_and_without_aio(add_often);
}

/* Signals from inside the kernel go one further than write(2), and are as good as full. */
static void signal_past_the_maximum(void *userdata)
{
    aio_context_t context = 0;
    int fd = eventfd_create(false), zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    struct evaio *aio;
    uint64_t count;

    (void)userdata;
    CHECK(fd >= 0 && zero >= 0);
    if (syscall(SYS_io_setup, 4, &context) < 0) { /* all of it is taken: nothing to see here */
        CHECK(errno == EAGAIN);
        return;
    }
    CHECK(evaio_new(&aio) == 0);
    put(fd, EVENTFD_MAX);
    for (int i = 0; i < 2; i++) {
        struct io_event event;
        char byte;
        struct iocb request = {
            .aio_lio_opcode = IOCB_CMD_PREAD,
            .aio_fildes = (uint32_t)zero,
            .aio_buf = (uint64_t)(uintptr_t)&byte,
            .aio_nbytes = 1,
            .aio_flags = IOCB_FLAG_RESFD,
            .aio_resfd = (uint32_t)fd,
        };
        struct iocb *list[] = { &request };

        CHECK(syscall(SYS_io_submit, context, 1, list) == 1);
        CHECK(syscall(SYS_io_getevents, context, 1, 1, &event, NULL) == 1);
        CHECK(count_of(fd) == UINT64_MAX);
    }
    CHECK(evaio_is_eventfd(aio, fd) == 1);
    CHECK(evaio_add(aio, fd, 1) == -EAGAIN);
    CHECK(evaio_add(aio, fd, 9) == -EAGAIN);
    CHECK(evaio_add(aio, fd, EVENTFD_MAX) == -EAGAIN);
    CHECK(count_of(fd) == UINT64_MAX);
    CHECK(eventfd_drain(fd, &count) == 0);
    CHECK(count == UINT64_MAX);
    CHECK(count_of(fd) == 0);
    CHECK(evaio_add(aio, fd, 1) == 0);
    CHECK(count_of(fd) == 1);
    evaio_free(aio);
}

static void test_past_the_maximum(void **state)
{
    (void)state;
    in_child(signal_past_the_maximum, NULL);
}

/* ---- A hostile peer ---- */

/* What the peer does to this eventfd between anybody's look at it and the write. */
static int hostile_fd = -1;
static uint64_t hostile_count;

/*
 * eventfd.c's write(2) is this one, as the program's functions come before the C library's: so the peer
 * strikes at the worst moment, each time.
 */
ssize_t write(int fd, const void *bytes, size_t n)
{
    if (fd >= 0 && fd == hostile_fd) {
        hostile_fd = -1;
        CHECK(make_blocking(fd) == 0);
        put(fd, hostile_count);
    }
    return syscall(SYS_write, fd, bytes, n);
}

static void on_user_alarm(int number)
{
    (void)number;
}

static void write_to_what_was_just_filled(struct evaio *aio)
{
    static const struct {
        uint64_t theirs, ours;
    } cases[] = { { EVENTFD_MAX, 9 }, { EVENTFD_MAX - 8, 9 }, { 1, EVENTFD_MAX }, { EVENTFD_MAX, 1000000 } };
    const struct sigaction mine = { .sa_handler = on_user_alarm, .sa_flags = SA_RESTART };
    struct sigaction action;
    struct itimerval timer;

    CHECK(sigaction(SIGALRM, &mine, NULL) == 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = eventfd_create(false);
        double began = seconds();

        hostile_fd = fd;
        hostile_count = cases[i].theirs;
        CHECK(evaio_add(aio, fd, cases[i].ours) == -EAGAIN);
        /* It did strike, and what is there is the peer's alone. */
        CHECK(hostile_fd == -1);
        CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0);
        CHECK(count_of(fd) == cases[i].theirs);
        /* a millisecond, on a busy machine some more */
        CHECK(seconds() - began < 10);
        fd_close(fd);
    }
    /* One that only changes the flag, and leaves room: it is done. */
    {
        int fd = eventfd_create(false);

        hostile_fd = fd;
        hostile_count = EVENTFD_MAX - 9;
        CHECK(evaio_add(aio, fd, 9) == 0);
        CHECK(hostile_fd == -1);
        CHECK(count_of(fd) == EVENTFD_MAX);
        fd_close(fd);
    }
    /* The timer is stopped, and the signal's handler is as it was. */
    CHECK(getitimer(ITIMER_REAL, &timer) == 0);
    CHECK(timer.it_value.tv_sec == 0 && timer.it_value.tv_usec == 0);
    CHECK(timer.it_interval.tv_sec == 0 && timer.it_interval.tv_usec == 0);
    CHECK(sigaction(SIGALRM, NULL, &action) == 0);
    CHECK(action.sa_handler == on_user_alarm && action.sa_flags & SA_RESTART);
}

static void test_hostile_at_the_worst_moment(void **state)
{
    (void)state;
    with_and_without_aio(write_to_what_was_just_filled);
}

struct peer {
    int fd;
    atomic_bool stop;
};

/* Fills and empties it as fast as it can, and keeps O_NONBLOCK off. */
static void *fill_and_empty(void *userdata)
{
    struct peer *peer = userdata;
    sigset_t all;

    /* so that the timer's signal goes to the one who waits for it */
    (void)sigfillset(&all);
    CHECK(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
    while (!atomic_load(&peer->stop)) {
        const uint64_t full = EVENTFD_MAX;
        uint64_t count;

        (void)make_blocking(peer->fd);
        (void)eventfd_drain(peer->fd, &count);
        /* it may have been added to since: then this does not fit, and is not to block either */
        (void)fcntl(peer->fd, F_SETFL, fcntl(peer->fd, F_GETFL) | O_NONBLOCK);
        (void)syscall(SYS_write, peer->fd, &full, sizeof(full));
        (void)make_blocking(peer->fd);
    }
    return NULL;
}

static void add_against_a_hostile_peer(struct evaio *aio)
{
    static const uint64_t counts[] = { 1, 8, 9, EVENTFD_MAX };
    struct peer peer = { .fd = eventfd_create(false) };
    double end = seconds() + 0.3;
    pthread_t thread;
    int calls = 0;

    CHECK(pthread_create(&thread, NULL, fill_and_empty, &peer) == 0);
    while (seconds() < end) {
        double began = seconds();
        int r = evaio_add(aio, peer.fd, counts[calls++ % 4]);

        CHECK(r == 0 || r == -EAGAIN);
        CHECK(seconds() - began < 10);
        CHECK(evaio_is_eventfd(aio, peer.fd) == 1);
    }
    CHECK(calls > 10);
    atomic_store(&peer.stop, true);
    CHECK(pthread_join(thread, NULL) == 0);
    fd_close(peer.fd);
}

static void test_hostile_all_the_time(void **state)
{
    (void)state;
    with_and_without_aio(add_against_a_hostile_peer);
}

/* ---- The whole ---- */

static void test_new_and_free(void **state)
{
    struct evaio *aio = NULL;
    size_t before = fds_count();

    (void)state;
    assert_null(evaio_free(NULL));
    for (int i = 0; i < 20; i++) {
        assert_int_equal(evaio_new(&aio), 0);
        assert_non_null(aio);
        assert_null(evaio_free(aio));
        assert_int_equal(fds_count(), before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_create),
        TEST(test_info),
        TEST(test_info_errors),
        TEST(test_info_at),
        TEST(test_is_eventfd),
        TEST(test_drain),
        TEST(test_drain_semaphore),
        TEST(test_add),
        TEST(test_add_full),
        TEST(test_add_no_eventfd),
        TEST(test_add_often),
        TEST(test_past_the_maximum),
        TEST(test_hostile_at_the_worst_moment),
        TEST(test_hostile_all_the_time),
        TEST(test_new_and_free),
    };

    return cmocka_run_group_tests_name("eventfd", tests, NULL, NULL);
}
