/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A private evlinkd for a test: see broker.h. */
#include "broker.h"
#include "lib/evlink.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NOBODY 65534

static void pause_ms(unsigned ms)
{
    (void)usleep(ms * 1000);
}

static bool listens(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

    assert_true(fd >= 0);
    strcpy(address.sun_path, path);
    r = connect(fd, (struct sockaddr *)&address, sizeof(address));
    close(fd);
    return r == 0;
}

void broker_start(struct broker *broker, const char *const *arguments)
{
    const char *program = getenv("EVLINKD"),
               *argv[16] = { program ? program : "./evlinkd", "--socket", broker->path,
                   /* Not the machine's, unless arguments name one. */
                   "--config=/dev/null" };
    int i;

    for (size_t n = 0; arguments && arguments[n]; n++)
        argv[4 + n] = arguments[n];
    strcpy(broker->folder, "/tmp/evlink-test-XXXXXX");
    assert_non_null(mkdtemp(broker->folder));
    (void)snprintf(broker->path, sizeof(broker->path), "%s/socket", broker->folder);
    if (geteuid() == 0)
        assert_int_equal(chown(broker->folder, NOBODY, NOBODY), 0);
    broker->pid = fork();
    assert_true(broker->pid >= 0);
    if (broker->pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (geteuid() == 0 &&
            (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0))
            _exit(126);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    for (i = 0; i < 1000 && !listens(broker->path); i++) {
        assert_int_equal(waitpid(broker->pid, NULL, WNOHANG), 0);
        pause_ms(5);
    }
    assert_true(i < 1000);
}

struct evlink_client *broker_open(const struct broker *broker)
{
    struct evlink_client *client;
    struct evlink_status status;

    assert_int_equal(evlink_client_open(broker->path, &client), 0);
    /* With the first answer it has accepted us and the probe before, with the second it has seen that one
     * leave. */
    for (int i = 0; i < 2; i++)
        assert_int_equal(evlink_status(client, &status), 0);
    return client;
}

static size_t count_now(const struct broker *broker)
{
    char path[64];
    size_t n = 0;
    DIR *folder;

    (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)broker->pid);
    folder = opendir(path);
    assert_non_null(folder);
    while (readdir(folder))
        n++;
    closedir(folder);
    return n;
}

void broker_assert_fds(const struct broker *broker, size_t n)
{
    /* What a killed process had is closed when the machine finds time for it. */
    for (int i = 0; i < 500 && broker_count_fds(broker) != n; i++)
        ;
    assert_int_equal(broker_count_fds(broker), n);
}

size_t broker_count_fds(const struct broker *broker)
{
    size_t last = count_now(broker), now;

    /* A connection that we closed is closed there a moment later. */
    for (int calm = 0; calm < 5; last = now) {
        pause_ms(5);
        now = count_now(broker);
        calm = now == last ? calm + 1 : 0;
    }
    return last;
}

void broker_stop(struct broker *broker)
{
    char lock[112];
    int status;

    assert_int_equal(kill(broker->pid, SIGTERM), 0);
    assert_int_equal(waitpid(broker->pid, &status, 0), broker->pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(access(broker->path, F_OK), -1);
    (void)snprintf(lock, sizeof(lock), "%s.lock", broker->path);
    (void)unlink(lock);
    assert_int_equal(rmdir(broker->folder), 0);
}
