/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A parent that keeps what its child stores: see supervise.h. */
#include "service/supervise.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY 1027 /* since Linux 6.10 */
#endif

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */
#define STORE_MAX 64
#define STORED_NAME_MAX 255
#define MESSAGE_MAX 4096
#define MESSAGE_FDS_MAX 253 /* SCM_MAX_FD */

/* Messages in a turn: more than the socket's queue has, and an end to a stranger's flood. */
#define TURN 4096

#define ABORT_TIME USEC_PER_SEC
#define STOP_TIME (5 * USEC_PER_SEC)

/* A deadline that is seen so late was slept through: by the machine, or by a stopped process group. */
#define LATE USEC_PER_SEC

#define EXIT_EXEC 127

enum state {
    STATE_PAUSED, /* there is no child; at the deadline the next one is started */
    STATE_UP,     /* at the deadline the watchdog strikes */
    STATE_DYING,  /* was sent what ends it; at the deadline it gets SIGKILL */
    STATE_OVER,
};

struct supervisor {
    const struct supervise_options *options;
    struct {
        int fd; /* from FIRST_FD + STORE_MAX on: not where a child's are put */
        char name[STORED_NAME_MAX + 1];
    } store[STORE_MAX];
    size_t n_stored;
    int notify;
    int signals;
    char address[sizeof(struct sockaddr_un)]; /* of notify, as text */

    enum state state;
    int64_t deadline; /* on now()'s clock; -1: none */
    int64_t pause;    /* the next one */
    bool stopping;    /* we were told to */
    bool ever_ready;
    int status;        /* the last child's, as a shell has it */
    char last_end[64]; /* the same in words; empty: there was none yet */

    /* The present child */
    pid_t pid; /* 0: there is none */
    int64_t started;
    int64_t silence; /* how long it may be silent; 0: for ever */
    bool ready;
    bool struck;
};

/* Not clock_monotonic(): a child is silent while the machine sleeps. */
static int64_t now(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

/* ---- The store */

static bool same_file(int a, int b)
{
    int r = fcntl(a, F_DUPFD_QUERY, b);

    return r < 0 ? syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b) == 0 : r > 0;
}

/* fd: duplicated. */
static void store_add(struct supervisor *s, int fd, const char *name)
{
    int copy;

    for (size_t i = 0; i < s->n_stored; i++)
        if (strcmp(s->store[i].name, name) == 0 && same_file(s->store[i].fd, fd))
            return;
    if (s->n_stored == STORE_MAX) {
        log_error("cannot store a descriptor named %s, closed it: %d are stored", name, STORE_MAX);
        return;
    }
    copy = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FD + STORE_MAX);
    if (copy < 0) {
        log_error("cannot store a descriptor named %s, closed it: %s", name, strerror(errno));
        return;
    }
    s->store[s->n_stored].fd = copy;
    strcpy(s->store[s->n_stored++].name, name);
}

/* NULL: all. */
static void store_remove(struct supervisor *s, const char *name)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n_stored; i++)
        if (!name || strcmp(s->store[i].name, name) == 0)
            fd_close(s->store[i].fd);
        else
            s->store[n++] = s->store[i];
    s->n_stored = n;
}

/* Whether a socket listens at a path. */
static bool listens_at(int fd, char path[static sizeof(struct sockaddr_un)])
{
    struct sockaddr_un address = { .sun_family = AF_UNSPEC };
    socklen_t size = sizeof(address);
    int listens = 0;

    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0 || address.sun_family != AF_UNIX)
        return false;
    size = sizeof(listens);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || !listens)
        return false;
    (void)snprintf(path, sizeof(address), "%.*s", (int)sizeof(address.sun_path), address.sun_path);
    return path[0] != '\0';
}

/*
 * Removes the files of stored sockets that listen: when they are closed, nobody does any more. Whatever keeps
 * others from making a new socket in that place, as evlinkd's lock does, is stored as well, and so is held
 * still.
 */
static void store_unlink(const struct supervisor *s)
{
    char path[sizeof(struct sockaddr_un)];

    for (size_t i = 0; i < s->n_stored; i++)
        if (listens_at(s->store[i].fd, path))
            (void)unlink(path);
}

/* ---- The child's start and end */

static void __attribute__((format(printf, 2, 3))) put(const char *variable, const char *format, ...)
{
    char text[STORE_MAX * (STORED_NAME_MAX + 1)];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (setenv(variable, text, 1) < 0)
        _exit(EXIT_EXEC);
}

static void put_all(const struct supervisor *s)
{
    static const char *const others[] = { "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID",
        "WATCHDOG_USEC", "EVLINK_LAST_END" };
    const char *names;

    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        (void)unsetenv(others[i]);
    put("NOTIFY_SOCKET", "%s", s->address);
    if (s->last_end[0])
        put("EVLINK_LAST_END", "%s", s->last_end);
    if (s->silence > 0) {
        put("WATCHDOG_PID", "%d", (int)getpid());
        put("WATCHDOG_USEC", "%" PRIi64, s->silence);
    }
    if (s->n_stored > 0) {
        put("LISTEN_PID", "%d", (int)getpid());
        put("LISTEN_FDS", "%zu", s->n_stored);
    }
    for (size_t i = 0; i < s->n_stored; i++) {
        names = getenv("LISTEN_FDNAMES");
        put("LISTEN_FDNAMES", "%s%s%s", names ? names : "", names ? ":" : "", s->store[i].name);
    }
}

/*
 * In the new process. The log is not for it: the descriptors that are put in their places may replace the
 * log's own.
 */
static void __attribute__((noreturn)) become_child(const struct supervisor *s)
{
    int n = (int)s->n_stored;
    sigset_t none;

    (void)sigemptyset(&none);
    /* SIGHUP is as we got it: nohup(1) means the child as well. */
    for (int number = 1; number < NSIG; number++)
        if (number != SIGHUP)
            (void)signal(number, SIG_DFL);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    put_all(s);
    for (int i = 0; i < n; i++)
        if (dup2(s->store[i].fd, FIRST_FD + i) < 0)
            _exit(EXIT_EXEC);
    /* Ours are close-on-exec; whoever started us may have left others. */
    (void)close_range((unsigned)(FIRST_FD + n), UINT_MAX, 0);
    (void)execv(s->options->program, s->options->argv);
    (void)dprintf(STDERR_FILENO, "cannot execute %s: %s\n", s->options->program, strerror(errno));
    _exit(EXIT_EXEC);
}

/* The watchdog's time begins anew. */
static void mark_alive(struct supervisor *s)
{
    int64_t limit = s->silence;

    if (s->state != STATE_UP)
        return;
    if (!s->ready && limit < s->options->patience)
        limit = s->options->patience;
    s->deadline = s->silence > 0 ? now() + limit : -1;
}

/* Returns how long it waits. */
static int64_t start_later(struct supervisor *s, int64_t lived)
{
    int64_t pause = 0;

    if (lived >= s->options->steady)
        s->pause = s->options->pause_min;
    if (lived < s->options->brief && !s->ready) {
        pause = s->pause;
        s->pause = pause * 2 < s->options->pause_max ? pause * 2 : s->options->pause_max;
    }
    s->state = STATE_PAUSED;
    s->deadline = now() + pause;
    return pause;
}

static int start(struct supervisor *s)
{
    pid_t pid;

    s->silence = s->options->watchdog;
    s->ready = s->struck = false;
    pid = fork();
    if (pid == 0)
        become_child(s);
    if (pid < 0) {
        int r = -errno;

        log_error("cannot start %s: %s", s->options->argv[0], strerror(errno));
        (void)start_later(s, 0);
        return s->ever_ready ? 0 : r;
    }
    s->pid = pid;
    s->started = now();
    s->state = STATE_UP;
    mark_alive(s);
    log_info("started pid %d, stored descriptors: %zu", (int)pid, s->n_stored);
    return 0;
}

static void on_end(struct supervisor *s, int status)
{
    bool killed = WIFSIGNALED(status);
    int number = killed ? WTERMSIG(status) : WEXITSTATUS(status);
    const char *name = killed ? sigabbrev_np(number) : NULL;
    const char *why = s->struck ? " after the watchdog struck" : "";
    int64_t pause;

    s->status = killed ? 128 + number : number;
    if (name)
        (void)snprintf(s->last_end, sizeof(s->last_end), "SIG%s%s", name, why);
    else
        (void)snprintf(
            s->last_end, sizeof(s->last_end), "%s %d%s", killed ? "signal" : "exit status", number, why);
    s->deadline = -1;
    if (s->stopping || !s->ever_ready) {
        log_info("pid %d ended: %s%s", (int)s->pid, s->last_end, s->stopping ? "" : ": it was never ready");
        s->state = STATE_OVER;
    } else {
        pause = start_later(s, now() - s->started);
        log_warning("pid %d ended: %s: starting it again in %" PRIi64 " ms", (int)s->pid, s->last_end,
            pause / USEC_PER_MSEC);
    }
    s->pid = 0;
}

/* There is a child. A deadline that it has already stays. */
static void end_child(struct supervisor *s, int number, int64_t time)
{
    (void)kill(s->pid, number);
    if (s->state == STATE_UP)
        s->deadline = now() + time;
    s->state = STATE_DYING;
}

static void strike(struct supervisor *s, const char *why)
{
    if (s->state != STATE_UP)
        return;
    log_error("pid %d %s: aborting it", (int)s->pid, why);
    s->struck = true;
    end_child(s, SIGABRT, ABORT_TIME);
}

/* ---- What the child says */

/* The value of the first line KEY=VALUE, or NULL. key: with its "=". text: lines that end in NUL. */
static const char *find(const char *text, size_t size, const char *key)
{
    size_t length = strlen(key);

    for (const char *line = text; line < text + size; line += strlen(line) + 1)
        if (strncmp(line, key, length) == 0)
            return line + length;
    return NULL;
}

static bool has(const char *text, size_t size, const char *key, const char *wanted)
{
    const char *value = find(text, size, key);

    return value && strcmp(value, wanted) == 0;
}

static bool name_is_good(const char *name)
{
    for (const char *c = name; *c; c++)
        if (*c < 0x20 || *c > 0x7e || *c == ':')
            return false;
    return strlen(name) <= STORED_NAME_MAX;
}

/* fds: borrowed. Those that are not stored are closed after it: that is all there is to a barrier. */
static void obey(struct supervisor *s, const char *text, size_t size, const struct fdset *fds)
{
    const char *name = find(text, size, "FDNAME="), *silence = find(text, size, "WATCHDOG_USEC=");
    const char *said = find(text, size, "STATUS=");
    bool ready = has(text, size, "READY=", "1");
    char *end;

    if (has(text, size, "BARRIER=", "1"))
        return;
    if (name && !name_is_good(name)) {
        log_warning("ignoring a bad FDNAME=%s", name);
        name = NULL;
    }
    if (has(text, size, "FDSTOREREMOVE=", "1")) {
        if (name)
            store_remove(s, name);
    } else if (has(text, size, "FDSTORE=", "1"))
        for (size_t i = 0; i < fds->n; i++)
            store_add(s, fdset_get(fds, i), name ? name : "stored");
    if (said)
        log_debug("pid %d says: %s", (int)s->pid, said);
    if (silence) {
        intmax_t value = strtoimax(silence, &end, 10);

        if (end == silence || *end || value < 0 || value > INT64_MAX / 4)
            log_warning("ignoring WATCHDOG_USEC=%s: it is no time", silence);
        else
            s->silence = value;
    }
    s->ready |= ready;
    s->ever_ready |= ready;
    if (ready || silence || has(text, size, "WATCHDOG=", "1") || has(text, size, "STOPPING=", "1"))
        mark_alive(s);
    if (has(text, size, "WATCHDOG=", "trigger"))
        strike(s, "asked for the watchdog");
}

/* Returns whether there may be another message. */
static bool receive(struct supervisor *s)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(MESSAGE_FDS_MAX * sizeof(int))];
    } control;
    char text[MESSAGE_MAX + 1];
    struct iovec iov = { .iov_base = text, .iov_len = MESSAGE_MAX };
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    CLEANUP(fdset_clear) struct fdset fds = FDSET_EMPTY;
    struct ucred sender = { .pid = 0 };
    ssize_t n = recvmsg(s->notify, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int r = 0;

    if (n < 0)
        return errno == EINTR;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS)
            memcpy(&sender, CMSG_DATA(c), sizeof(sender));
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            r = fdset_adopt(&fds, (const int *)CMSG_DATA(c), (c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    }
    if (s->pid == 0 || sender.pid != s->pid) {
        log_debug("ignoring a message of pid %d: it is not the child", (int)sender.pid);
    } else if (r < 0 || message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        log_error("ignoring a message that is too long, or for whose descriptors there is no room");
    } else {
        text[n] = '\0';
        for (char *c = text; (c = strchr(c, '\n'));)
            *c++ = '\0';
        obey(s, text, (size_t)n, &fds);
    }
    return true;
}

static void receive_all(struct supervisor *s)
{
    for (int i = 0; i < TURN && receive(s); i++)
        ;
}

/* ---- The loop */

/* There are others than the child where this is a container's first process. */
static void reap(struct supervisor *s)
{
    siginfo_t info = { .si_pid = 0 };
    int status;

    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid > 0) {
        /* What it said last counts, and until it is reaped its number is nobody else's. */
        if (info.si_pid == s->pid)
            receive_all(s);
        if (waitpid(info.si_pid, &status, 0) == s->pid)
            on_end(s, status);
        info.si_pid = 0;
    }
}

/* All signals first: a child that a terminal's SIGINT ended as well is not started again. */
static void on_signals(struct supervisor *s)
{
    struct signalfd_siginfo info;

    while (read(s->signals, &info, sizeof(info)) == sizeof(info)) {
        int number = (int)info.ssi_signo;

        if (number == SIGTERM || number == SIGINT) {
            log_info("got SIG%s: stopping", sigabbrev_np(number));
            s->stopping = true;
            if (s->state == STATE_PAUSED)
                s->state = STATE_OVER;
            else
                end_child(s, number, STOP_TIME);
        } else if (number == SIGHUP && s->pid > 0) {
            (void)kill(s->pid, SIGHUP);
        }
    }
    reap(s);
}

static int on_deadline(struct supervisor *s)
{
    s->deadline = -1;
    switch (s->state) {
    case STATE_PAUSED:
        return start(s);
    case STATE_UP:
        strike(s, s->ready ? "gave no sign of life in time" : "was not ready in time");
        break;
    case STATE_DYING:
        log_error("pid %d is still there: killing it", (int)s->pid);
        (void)kill(s->pid, SIGKILL);
        break;
    case STATE_OVER:
        break;
    }
    return 0;
}

static int wait_and_act(struct supervisor *s)
{
    struct pollfd fds[] = { { .fd = s->signals, .events = POLLIN }, { .fd = s->notify, .events = POLLIN } };
    int64_t left = s->deadline - now(), woken;
    struct timespec timeout = { .tv_sec = 0 };

    if (left > 0)
        timeout = (struct timespec){ .tv_sec = left / USEC_PER_SEC, .tv_nsec = left % USEC_PER_SEC * 1000 };
    if (ppoll(fds, ARRAY_SIZE(fds), s->deadline < 0 ? NULL : &timeout, NULL) < 0 && errno != EINTR)
        return -errno;
    /* Once for both: what is stopped in between has not heard what came meanwhile. */
    woken = now();
    if (s->state == STATE_UP && s->deadline >= 0 && woken > s->deadline + LATE)
        mark_alive(s);
    receive_all(s);
    on_signals(s);
    return s->deadline >= 0 && woken >= s->deadline ? on_deadline(s) : 0;
}

static int prepare(struct supervisor *s)
{
    /* Raised by faults of our own, or a terminal's. */
    static const int not_taken[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT, SIGTSTP,
        SIGTTIN, SIGTTOU, SIGCONT };
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    socklen_t size = sizeof(address.sun_family);
    sigset_t taken;
    int on = 1;

    (void)sigfillset(&taken);
    for (size_t i = 0; i < ARRAY_SIZE(not_taken); i++)
        (void)sigdelset(&taken, not_taken[i]);
    /* Ignored, as it may have been inherited, there would be nobody to wait for. */
    (void)signal(SIGCHLD, SIG_DFL);
    if (sigprocmask(SIG_SETMASK, &taken, NULL) < 0)
        return -errno;
    s->signals = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    s->notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->signals < 0 || s->notify < 0 ||
        setsockopt(s->notify, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
        return -errno;
    /* Bound without a name, it gets one: a NUL and five digits. */
    if (bind(s->notify, (struct sockaddr *)&address, size) < 0)
        return -errno;
    size = sizeof(address);
    if (getsockname(s->notify, (struct sockaddr *)&address, &size) < 0)
        return -errno;
    memcpy(s->address, address.sun_path, size - sizeof(address.sun_family));
    s->address[0] = '@';
    return 0;
}

int supervise_run(const struct supervise_options *options)
{
    struct supervisor s = { .options = options, .notify = -1, .signals = -1, .pause = options->pause_min };
    int r = prepare(&s);

    if (r >= 0)
        r = start(&s);
    while (r >= 0 && s.state != STATE_OVER)
        r = wait_and_act(&s);
    if (r < 0)
        log_error("cannot supervise %s: %s", options->argv[0], strerror(-r));
    store_unlink(&s);
    store_remove(&s, NULL);
    fd_close(s.notify);
    fd_close(s.signals);
    return r < 0 ? r : s.status;
}
