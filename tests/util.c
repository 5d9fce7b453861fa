/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the unit tests share: see util.h. */
#include "util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define CHILD_TIMEOUT_MS (60 * 1000)

/* More than any test has at a time. */
#define FDS_MAX 4096

/* What was open before the test. */
static bool open_before[FDS_MAX];
static size_t n_before;

/* Calls each(number, its name) for every open descriptor; returns how many they are. */
static size_t list_fds(void (*each)(int fd, const char *target))
{
    DIR *directory = opendir("/proc/self/fd");
    struct dirent *entry;
    size_t n = 0;

    if (!directory)
        fail_msg("/proc/self/fd: %s", strerror(errno));
    while ((entry = readdir(directory))) {
        int fd = atoi(entry->d_name);
        char target[128];
        ssize_t length;

        if (entry->d_name[0] == '.' || fd == dirfd(directory))
            continue;
        n++;
        if (!each)
            continue;
        length = readlinkat(dirfd(directory), entry->d_name, target, sizeof(target) - 1);
        target[length < 0 ? 0 : length] = '\0';
        each(fd, target);
    }
    (void)closedir(directory);
    return n;
}

static void remember(int fd, const char *target)
{
    (void)target;
    if (fd < FDS_MAX)
        open_before[fd] = true;
}

static void print_leaked(int fd, const char *target)
{
    if (fd < FDS_MAX && !open_before[fd])
        print_message("    left open: %d -> %s\n", fd, target);
}

size_t fds_count(void)
{
    return list_fds(NULL);
}

int fds_before(void **state)
{
    (void)state;
    memset(open_before, 0, sizeof(open_before));
    n_before = list_fds(remember);
    return 0;
}

int fds_after(void **state)
{
    size_t n = fds_count();

    (void)state;
    if (n != n_before)
        (void)list_fds(print_leaked);
    assert_int_equal(n, n_before);
    return 0;
}

int fd_make(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    if (fd < 0)
        fail_msg("memfd_create: %s", strerror(errno));
    return fd;
}

uint64_t fd_identity(int fd)
{
    struct stat status;

    if (fstat(fd, &status) < 0)
        fail_msg("fstat of %d: %s", fd, strerror(errno));
    return status.st_ino;
}

void in_child(void (*run)(void *userdata), void *userdata)
{
    int life[2], status, n;
    struct pollfd end;
    pid_t pid;

    (void)fflush(NULL);
    assert_int_equal(pipe2(life, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0) {
        (void)close(life[0]);
        run(userdata);
        _exit(0);
    }
    (void)close(life[1]);
    /* The writing end closes with the child. */
    end = (struct pollfd){ .fd = life[0], .events = POLLIN };
    do
        n = poll(&end, 1, CHILD_TIMEOUT_MS);
    while (n < 0 && errno == EINTR);
    (void)close(life[0]);
    assert_true(pid > 0);
    if (n != 1)
        (void)kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status))
        fail_msg("the child %s: signal %d", n == 1 ? "crashed" : "hung", WTERMSIG(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

void limit_fds(size_t n)
{
    struct rlimit limit;
    int fd = 0;

    /* There may be holes: the limit is the first free number behind n of them. */
    while (fcntl(fd, F_GETFD) >= 0 || n-- > 0)
        fd++;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = (rlim_t)fd;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

bool limits_are_faked(void)
{
    const char *preloaded = getenv("LD_PRELOAD");

    return preloaded && strstr(preloaded, "vgpreload");
}

uint64_t random_seed(void)
{
    const char *given = getenv("TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : 0;

    if (!given)
        assert_int_equal(getrandom(&seed, sizeof(seed), 0), sizeof(seed));
    print_message("    TEST_SEED=0x%" PRIx64 "\n", seed);
    return seed;
}

uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

size_t random_below(uint64_t *state, size_t limit)
{
    return (size_t)(random_next(state) % limit);
}
