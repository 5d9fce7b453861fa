/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Closing what strangers sent: see discard.h. */
#include "base/discard.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How long a child waits for more, in milliseconds. While one lives, each system call of ours is a little
 * slower. */
#define IDLE_MS 100

struct request {
    int fd;
    int message; /* 1: take the first one out; 0: close */
};

/* What the children share with us. */
struct shared {
    struct child {
        atomic_int pid; /* 0: there is none */
    } children[DISCARDERS];
    atomic_uint done; /* requests */
};

static struct {
    struct shared *shared; /* NULL: we close ourselves */
    int in, out;           /* of the pipe with requests */
    unsigned sent;
    pid_t pid; /* ours */
} state = { .in = -1, .out = -1 };

static void serve(const struct request *request)
{
    char byte;

    if (request->message)
        (void)recv(request->fd, &byte, 1, MSG_DONTWAIT);
    else
        (void)close(request->fd);
}

/* One child. It has a copy of our memory, and our descriptors themselves. */
static _Noreturn void run(struct child *child)
{
    struct pollfd poll_fd = { .fd = state.out, .events = POLLIN };
    struct request request;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)prctl(PR_SET_NAME, "evlinkd-close");
    if (getppid() != state.pid)
        _exit(0);
    for (int number = 1; number < NSIG; number++)
        (void)signal(number, SIG_DFL);
    for (;;) {
        if (poll(&poll_fd, 1, IDLE_MS) == 0) {
            /* From here on nobody counts on this one; what came in between is still done. */
            atomic_store(&child->pid, 0);
            if (poll(&poll_fd, 1, 0) == 0)
                _exit(0);
        }
        if (read(state.out, &request, sizeof(request)) == sizeof(request)) {
            serve(&request);
            atomic_fetch_add(&state.shared->done, 1);
        }
    }
}

/* Whether there is a child in this place. One that somebody killed has left it. */
static bool is_alive(struct child *child)
{
    pid_t pid = atomic_load(&child->pid);

    if (pid > 0 && kill(pid, 0) < 0 && errno == ESRCH)
        atomic_store(&child->pid, pid = 0);
    return pid > 0;
}

/* Sees to it that there are as many children as requests: each may be stuck with one. -errno where there is
 * none. */
static int ensure_children(void)
{
    unsigned wanted = state.sent - atomic_load(&state.shared->done), alive = 0;
    int r = 0;

    for (size_t i = 0; i < DISCARDERS; i++)
        alive += is_alive(&state.shared->children[i]);
    for (size_t i = 0; i < DISCARDERS && alive < wanted && r == 0; i++) {
        struct child *child = &state.shared->children[i];
        pid_t pid;

        if (atomic_load(&child->pid) > 0)
            continue;
        /* As fork(2), but for the table. */
        pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
        if (pid == 0)
            run(child);
        if (pid < 0) {
            r = -errno;
            break;
        }
        atomic_store(&child->pid, pid);
        alive++;
    }
    return alive > 0 ? 0 : r;
}

static void ask(const struct request *request)
{
    struct request next;
    int r;

    if (!state.shared) {
        serve(request);
        return;
    }
    if (write(state.in, request, sizeof(*request)) != sizeof(*request)) {
        log_error("descriptors that cannot be closed have piled up: another stays open");
        return;
    }
    state.sent++;
    r = ensure_children();
    if (r == 0)
        return;
    /* Then it is our turn, with whatever waits. */
    log_warning("cannot have a descriptor closed by a child: %s: closing it here", strerror(-r));
    while (read(state.out, &next, sizeof(next)) == sizeof(next)) {
        serve(&next);
        atomic_fetch_add(&state.shared->done, 1);
    }
}

void fd_discard(int fd)
{
    const struct request request = { .fd = fd };

    if (fd >= 0)
        ask(&request);
}

void fd_discard_message(int fd)
{
    const struct request request = { .fd = fd, .message = 1 };

    ask(&request);
}

bool discard_is_idle(void)
{
    return !state.shared || atomic_load(&state.shared->done) == state.sent;
}

int discard_start(void)
{
    const char *preloaded = getenv("LD_PRELOAD");
    int pipe_fds[2];
    void *memory;

    /* valgrind ends a program that has such a child. */
    if (preloaded && strstr(preloaded, "/vgpreload_"))
        return 0;
    if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    memory = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        int r = -errno;

        fd_close(pipe_fds[0]);
        fd_close(pipe_fds[1]);
        return r;
    }
    state.out = pipe_fds[0];
    state.in = pipe_fds[1];
    state.pid = getpid();
    state.shared = memory;
    (void)signal(SIGCHLD, SIG_IGN);
    return 0;
}
