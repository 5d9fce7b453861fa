/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Closing what strangers sent: see discard.h. */
#include "base/discard.h"
#include "base/clock.h"
#include "base/eventfd.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

/* How long a child waits for more. While one lives, each system call of ours is a little slower. */
#define IDLE (INT64_C(100) * 1000)

/* A child that takes so long for one descriptor is stuck with it; after the first, others take what other
 * tenants send. */
#define STUCK (INT64_C(100) * 1000)
#define SLOW 200

/* A socket that lingers is not waited for longer: a signal ends that. Others wait for whoever answers them.
 */
#define LINGER 1000

#define CHILD_NICE 10

#define QUEUE_MAX 4096
#define BEHIND 1024

/* In a lane's `pid`: there is none, and one is being made. */
#define NO_CHILD 0
#define COMING (-1)

enum what {
    CLOSE,
    TAKE_MESSAGE, /* the first one out */
    TAKE_ALL,     /* all that is unread, and close */
};

struct request {
    int fd;
    enum what what;
    struct culprit whose;
};

/*
 * A child and what it has to do, in memory that it shares with us: the numbers only grow, but for their
 * wrapping around. What is taken and not done is in the child's hands.
 */
struct lane {
    atomic_int pid;
    atomic_uint sent, taken, done;
    _Atomic int64_t since; /* when it took that, or, before, when it was asked to */
    struct request queue[QUEUE_MAX];
};

/* Whose a lane is, while it has anything: a user's own, or its tenants'. */
struct side {
    uid_t uid;
    bool tenants;
};

static struct {
    struct lane *lanes; /* NULL: we close ourselves */
    struct side sides[DISCARDERS];
    bool busy; /* a lane may have something */
    struct evaio *aio;
    struct culprit whose; /* what comes is */
    int64_t left_open_at; /* second */
    pid_t pid;            /* ours */
} state = { .whose = { .uid = (uid_t)-1 } };

static void serve(const struct request *request)
{
    char bytes[4096];

    if (request->what == TAKE_MESSAGE)
        (void)recv(request->fd, bytes, 1, MSG_DONTWAIT);
    while (request->what == TAKE_ALL && recv(request->fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    if (request->what != TAKE_MESSAGE)
        (void)close(request->fd);
}

static void serve_next(struct lane *lane)
{
    unsigned number = atomic_load(&lane->taken);

    atomic_store(&lane->since, clock_read(CLOCK_MONOTONIC));
    /* Before it is closed: should we be killed meanwhile, its number may be another's by then. */
    atomic_store(&lane->taken, number + 1);
    serve(&lane->queue[number % QUEUE_MAX]);
    atomic_store(&lane->done, number + 1);
}

static void ignore(int number)
{
    (void)number;
}

/* Has a child interrupted again and again, or not any more. */
static void interrupt(bool on)
{
    const struct timeval interval = { .tv_usec = on ? LINGER : 0 };
    const struct itimerval timer = { .it_interval = interval, .it_value = interval };

    (void)setitimer(ITIMER_REAL, &timer, NULL);
}

/* One child. It has a copy of our memory, and our descriptors themselves. */
static _Noreturn void run(struct lane *lane)
{
    const struct timespec idle = { .tv_nsec = IDLE * 1000 };
    const struct sigaction action = { .sa_handler = ignore };
    const int self = (int)getpid();
    sigset_t none_blocked;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)prctl(PR_SET_NAME, "evlinkd-close");
    /* Whoever sends much to close is not to hold up others by that. */
    (void)setpriority(PRIO_PROCESS, 0, CHILD_NICE);
    if (getppid() != state.pid)
        _exit(0);
    for (int number = 1; number < NSIG; number++)
        (void)signal(number, SIG_DFL);
    (void)sigaction(SIGALRM, &action, NULL);
    (void)sigemptyset(&none_blocked);
    (void)sigprocmask(SIG_SETMASK, &none_blocked, NULL);
    for (;;) {
        unsigned done = atomic_load(&lane->done);
        int none = NO_CHILD;

        if (done != atomic_load(&lane->sent)) {
            interrupt(true);
            serve_next(lane);
            interrupt(false);
            continue;
        }
        if (syscall(SYS_futex, &lane->sent, FUTEX_WAIT, done, &idle, NULL, 0) == 0 || errno != ETIMEDOUT)
            continue;
        /* From here on nobody counts on this one; what came in between is still its, unless another is there.
         */
        atomic_store(&lane->pid, NO_CHILD);
        if (done == atomic_load(&lane->sent) || !atomic_compare_exchange_strong(&lane->pid, &none, self))
            _exit(0);
    }
}

/* Sees to it that the lane has a child. -errno. */
static int ensure_child(struct lane *lane)
{
    pid_t pid = atomic_load(&lane->pid);

    if (pid > 0 && kill(pid, 0) < 0 && errno == ESRCH) {
        /* Somebody killed it: the number of what it was closing is free. */
        atomic_store(&lane->done, atomic_load(&lane->taken));
        pid = NO_CHILD;
        atomic_store(&lane->pid, pid);
    }
    if (pid != NO_CHILD || !atomic_compare_exchange_strong(&lane->pid, &pid, COMING))
        return 0;
    /* As fork(2), but for the table. */
    pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        run(lane);
    atomic_store(&lane->pid, pid < 0 ? NO_CHILD : pid);
    return pid < 0 ? -errno : 0;
}

static unsigned pending(const struct lane *lane)
{
    return atomic_load(&lane->sent) - atomic_load(&lane->done);
}

/* Whether the lane's child has had the same thing in its hands for so long. */
static bool is_held_up(struct lane *lane, int64_t microseconds)
{
    if (atomic_load(&lane->taken) == atomic_load(&lane->done) ||
        clock_read(CLOCK_MONOTONIC) - atomic_load(&lane->since) <= microseconds)
        return false;
    /* If it still lives. */
    (void)ensure_child(lane);
    return atomic_load(&lane->taken) != atomic_load(&lane->done);
}

static bool is_same(const struct culprit *a, const struct culprit *b)
{
    return a->uid == b->uid && strcmp(a->tenant, b->tenant) == 0;
}

/* Whose it is that the lane's child has in its hands, or takes next. */
static const struct culprit *head(const struct lane *lane)
{
    return &lane->queue[atomic_load(&lane->done) % QUEUE_MAX].whose;
}

static struct side side_of(const struct culprit *whose)
{
    return (struct side){ .uid = whose->uid, .tenants = whose->tenant[0] };
}

static size_t most_of(struct side side)
{
    if (side.uid == DISCARD_OURS.uid)
        return DISCARDERS;
    return side.tenants ? DISCARDERS_OF_TENANTS : 1;
}

/*
 * The lane for what comes from that one: where its own is at the head, if it is a tenant; or one of its side
 * that gets on; else another, while its side may have more. NULL: nobody has room.
 */
static struct lane *choose(const struct culprit *whose)
{
    struct lane *unused = NULL, *best = NULL, *prompt = NULL;
    struct side side = side_of(whose);
    size_t n = 0;

    for (size_t i = 0; i < DISCARDERS; i++) {
        struct lane *lane = &state.lanes[i];
        bool fits = state.sides[i].uid == side.uid && state.sides[i].tenants == side.tenants;

        if (pending(lane) == 0) {
            unused = fits || !unused ? lane : unused;
        } else if (fits) {
            n++;
            if (side.tenants && is_same(head(lane), whose))
                return lane;
            if (clock_read(CLOCK_MONOTONIC) - atomic_load(&lane->since) <= SLOW)
                prompt = lane;
            else
                /* Somebody may have killed its child, and what waits behind would wait for ever. */
                (void)ensure_child(lane);
            if (!best || pending(lane) < pending(best))
                best = lane;
        }
    }
    if (prompt)
        return prompt;
    if (unused && n < most_of(side))
        return unused;
    for (size_t i = 0; i < DISCARDERS && !best; i++)
        if (pending(&state.lanes[i]) < BEHIND)
            best = &state.lanes[i];
    return best;
}

/* Whether nothing is left to do. */
static bool is_idle(void)
{
    for (size_t i = 0; state.busy && i < DISCARDERS; i++)
        if (pending(&state.lanes[i]) > 0)
            return false;
    state.busy = false;
    return true;
}

/* Nobody can close it now. The first one in a second is told: whoever sends them is not to fill the log. */
static void leave_open(void)
{
    int64_t second = clock_read(CLOCK_MONOTONIC) / USEC_PER_SEC;

    log_msg(second == state.left_open_at ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR,
        "descriptors that cannot be closed have piled up: another stays open");
    state.left_open_at = second;
}

static void ask(const struct request *request)
{
    struct lane *lane = state.lanes ? choose(&state.whose) : NULL;
    unsigned sent;
    int r;

    if (!state.lanes) {
        serve(request);
        return;
    }
    if (!lane || pending(lane) >= QUEUE_MAX) {
        leave_open();
        return;
    }
    if (pending(lane) == 0) {
        state.sides[lane - state.lanes] = side_of(&state.whose);
        atomic_store(&lane->since, clock_read(CLOCK_MONOTONIC));
    }
    state.busy = true;
    sent = atomic_load(&lane->sent);
    lane->queue[sent % QUEUE_MAX] = *request;
    lane->queue[sent % QUEUE_MAX].whose = state.whose;
    atomic_store(&lane->sent, sent + 1);
    (void)syscall(SYS_futex, &lane->sent, FUTEX_WAKE, 1, NULL, NULL, 0);
    r = ensure_child(lane);
    if (r == 0)
        return;
    /* Then it is our turn, with whatever waits. */
    log_warning("cannot have a descriptor closed by a child: %s: closing it here", strerror(-r));
    while (pending(lane) > 0)
        serve_next(lane);
}

void fd_discard(int fd)
{
    const struct request request = { .fd = fd };

    if (fd < 0)
        return;
    if (state.aio && evaio_is_eventfd(state.aio, fd) == 1)
        fd_close(fd);
    else
        ask(&request);
}

/*
 * Takes what is unread out of a socket that is shut down, up to the first message with descriptors: there is
 * nothing to wait for in that. A peek without room for descriptors tells of them. Whether that was all.
 */
static bool take_plain(int fd)
{
    int unread = 0;
    ssize_t n;

    do {
        char bytes[16 * 1024];
        struct iovec vector = { .iov_base = bytes, .iov_len = sizeof(bytes) };
        struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };

        n = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT);
        if (n > 0)
            n = message.msg_flags & MSG_CTRUNC ? 0 : recv(fd, bytes, (size_t)n, MSG_DONTWAIT);
    } while (n > 0);
    return ioctl(fd, FIONREAD, &unread) == 0 && unread == 0;
}

void fd_discard_socket(int fd)
{
    if (fd < 0)
        return;
    (void)shutdown(fd, SHUT_RDWR);
    if (take_plain(fd))
        fd_close(fd);
    else
        fd_discard(fd);
}

void fd_discard_input(int fd)
{
    struct request request = { .what = TAKE_ALL };

    (void)shutdown(fd, SHUT_RDWR);
    if (take_plain(fd))
        return;
    /* The child has one of its own: ours may be another's number by the time that it comes to it. */
    request.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (request.fd >= 0)
        ask(&request);
}

void fd_discard_message(int fd)
{
    const struct request request = { .fd = fd, .what = TAKE_MESSAGE };
    struct culprit whose = discard_for(DISCARD_OURS);

    ask(&request);
    (void)discard_for(whose);
}

struct culprit discard_for(struct culprit whose)
{
    struct culprit was = state.whose;

    state.whose = whose;
    return was;
}

bool discard_is_stuck(const struct culprit *whose)
{
    if (is_idle())
        return false;
    for (size_t i = 0; i < DISCARDERS; i++)
        /* In this order: what comes to the head meanwhile is not held up yet. */
        if (is_same(head(&state.lanes[i]), whose) && is_held_up(&state.lanes[i], STUCK))
            return true;
    return false;
}

bool discard_is_behind(const struct culprit *whose)
{
    struct lane *lane;

    if (is_idle())
        return false;
    lane = choose(whose);
    return !lane || pending(lane) > BEHIND;
}

int discard_start(struct evaio *aio)
{
    const char *preloaded = getenv("LD_PRELOAD");
    void *memory;

    /* valgrind ends a program that has such a child. */
    if (preloaded && strstr(preloaded, "/vgpreload_"))
        return 0;
    memory = mmap(
        NULL, sizeof(struct lane) * DISCARDERS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    state.pid = getpid();
    state.lanes = memory;
    state.aio = aio;
    (void)signal(SIGCHLD, SIG_IGN);
    return 0;
}

void discard_stop(void)
{
    state.aio = NULL;
}
