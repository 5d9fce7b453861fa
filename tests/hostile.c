/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hostile clients, and one that behaves: hostile SOCKET CONNECTIONS MILLISECONDS. Each kind of hostility gets
 * an equal share of the connections and a process and, where we are root, a user of its own; meanwhile a
 * client calls Status, once a millisecond, and measures how long the answers take. Prints those times, and
 * what each kind got.
 */
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_USER 60000 /* who is each kind's own */
#define LISTER (FIRST_USER + 2)
#define FDS 253 /* SCM_MAX_FD */
#define EVENTFDS 1000
#define SAMPLES 100000
#define HALF ((size_t)200 * 1024)

static struct sockaddr_un address = { .sun_family = AF_UNIX };

/* What a kind got, in memory that we all see. */
struct tally {
    unsigned long connected, sent, answers, errors, closed, refused;
};

struct client {
    int fd;
    unsigned long n;     /* calls so far */
    size_t begun;        /* bytes of the present call that went out */
    bool in_error, idle; /* idle: it has done its worst */
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int dial(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        die("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        die("connect");
    return fd;
}

/* Sends bytes, with n descriptors; what went out, or -1. */
static ssize_t put(int fd, const char *bytes, size_t length, const int *fds, size_t n)
{
    union {
        char space[CMSG_SPACE(FDS * sizeof(int))];
        struct cmsghdr align;
    } control = { 0 };
    struct iovec vector = { .iov_base = (char *)bytes, .iov_len = length };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };

    if (n > 0) {
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(n * sizeof(int));
        control.align = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n * sizeof(int))
        };
        memcpy(CMSG_DATA(&control.align), fds, n * sizeof(int));
    }
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* ---- The kinds: what one connection does next, now that it may write */

static int eventfds[FDS];

/* A call of which there is never an end, with descriptors. */
static bool half(struct client *client, struct tally *tally)
{
    static char text[HALF];
    ssize_t n;

    memset(text, 'x', sizeof(text));
    memcpy(text, "{\"method\":\"", strlen("{\"method\":\""));
    n = put(client->fd, text + client->begun, HALF - client->begun, eventfds, client->begun == 0 ? FDS : 0);
    if (n < 0)
        return false;
    client->begun += (size_t)n;
    client->idle = client->begun == HALF;
    tally->sent += client->idle;
    return true;
}

static bool holds(struct client *client, struct tally *tally)
{
    char text[200];
    int length = snprintf(text, sizeof(text),
        "{\"method\":\"io.evlink.Broker.Hold\",\"parameters\":{\"name\":\"h%d-%lu\",\"fileDescriptorIndex\":%"
        "d}}",
        client->fd, client->n % 100, FDS - 1);

    if (put(client->fd, text, (size_t)length + 1, eventfds, FDS) < 0)
        return false;
    client->n++;
    tally->sent++;
    return true;
}

static bool lists(struct client *client, struct tally *tally)
{
    static const char text[] = "{\"method\":\"io.evlink.Broker.ListEventfds\",\"more\":true}";

    if (put(client->fd, text, sizeof(text), NULL, 0) < 0)
        return false;
    tally->sent++;
    return true;
}

static bool subscriptions(struct client *client, struct tally *tally)
{
    static const char text[] = "{\"method\":\"io.evlink.Broker.Monitor\",\"more\":true}";

    if (put(client->fd, text, sizeof(text), NULL, 0) < 0)
        return false;
    tally->sent++;
    client->idle = true;
    return true;
}

static bool churn(struct client *client, struct tally *tally)
{
    static const char text[] = "{\"method\":\"io.evlink.Broker.Status\"}";

    (void)put(client->fd, text, sizeof(text), NULL, 0);
    fd_close(client->fd);
    client->fd = dial();
    tally->connected++;
    tally->sent++;
    return false;
}

static const struct kind {
    const char *name;
    bool (*go_on)(struct client *client, struct tally *tally); /* false: no more now */
    bool reads;
} kinds[] = {
    { "half frames with 253 descriptors", half, false },
    { "pipelined Holds with 253 descriptors", holds, true },
    { "lists of everything", lists, true },
    { "subscriptions that nobody reads", subscriptions, false },
    { "connect and close", churn, false },
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* ---- A process for each */

/* Reads what is there and counts answers and errors in it; false at the end of the connection. */
static bool hear(struct client *client, struct tally *tally)
{
    static char text[1 << 16];
    ssize_t n = recv(client->fd, text, sizeof(text) - 1, MSG_DONTWAIT);

    if (n <= 0)
        return n < 0 && errno == EAGAIN;
    for (char *at = text, *end; at < text + n; at = end + 1) {
        end = memchr(at, '\0', (size_t)(text + n - at));
        if (!client->in_error)
            client->in_error = strncmp(at, "{\"error\"", 8) == 0;
        if (!end)
            break;
        tally->answers += !client->in_error;
        tally->errors += client->in_error;
        client->in_error = false;
    }
    return true;
}

/* Until somebody kills us. */
static void __attribute__((noreturn)) be(const struct kind *kind, uid_t uid, size_t n, struct tally *tally)
{
    struct client *clients = calloc(n, sizeof(*clients));
    struct pollfd *poll_fds = calloc(n, sizeof(*poll_fds));

    if (geteuid() == 0 && (setgid(uid) < 0 || setuid(uid) < 0))
        die("setuid");
    /* What they take of the processor is not what is measured. */
    (void)setpriority(PRIO_PROCESS, 0, 19);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* which that takes back */
    if (!clients || !poll_fds)
        die("calloc");
    for (size_t i = 0; i < FDS; i++)
        eventfds[i] = eventfd(0, EFD_CLOEXEC);
    for (size_t i = 0; i < n; i++) {
        clients[i].fd = dial();
        tally->connected++;
    }
    for (;;) {
        for (size_t i = 0; i < n; i++) {
            poll_fds[i].fd = clients[i].fd;
            poll_fds[i].events = (short)((clients[i].idle ? 0 : POLLOUT) | (kind->reads ? POLLIN : 0));
        }
        if (poll(poll_fds, n, -1) < 0)
            die("poll");
        for (size_t i = 0; i < n; i++) {
            bool open = true;

            if (poll_fds[i].revents & POLLIN)
                open = hear(&clients[i], tally);
            else if (poll_fds[i].revents & (POLLHUP | POLLERR))
                /* What it was told, before it was closed. */
                open = hear(&clients[i], tally) && hear(&clients[i], tally) && false;
            if (open && !clients[i].idle && poll_fds[i].revents & POLLOUT) {
                for (int k = 0; k < 8 && !clients[i].idle && kind->go_on(&clients[i], tally); k++)
                    ;
                open = errno != EPIPE && errno != ECONNRESET;
                tally->refused += errno == ETOOMANYREFS;
                if (errno == ETOOMANYREFS)
                    (void)usleep(1000);
                errno = 0;
            }
            if (!open) {
                tally->closed++;
                fd_close(clients[i].fd);
                clients[i] = (struct client){ .fd = dial() };
                tally->connected++;
            }
        }
    }
}

/* ---- The one that behaves */

/* Calls, and waits for the end of the last answer. */
static void call(int fd, const char *text, size_t length, const int *fds, size_t n)
{
    char answer[4096];
    ssize_t got;

    if (put(fd, text, length, fds, n) != (ssize_t)length)
        die("send");
    do {
        got = recv(fd, answer, sizeof(answer), 0);
        if (got <= 0) {
            fprintf(stderr, "the client that behaves was closed\n");
            exit(1);
        }
    } while (answer[got - 1] != '\0');
    if (strncmp(answer, "{\"error\"", 8) == 0) {
        fprintf(stderr, "the client that behaves was told %.*s\n", (int)got, answer);
        exit(1);
    }
}

static int compare(const void *a, const void *b)
{
    const int64_t *one = a, *other = b;

    return (*one > *other) - (*one < *other);
}

/* How long a process has waited for a processor so far, in microseconds; 0 where the kernel does not tell. */
static int64_t waited(int schedstat)
{
    char text[100];
    ssize_t n = pread(schedstat, text, sizeof(text) - 1, 0);
    int64_t delay;

    text[n > 0 ? n : 0] = '\0';
    return sscanf(text, "%*d %" SCNd64, &delay) == 1 ? delay / 1000 : 0;
}

/* What other programs on the machine take of the processors is not what is measured, either. */
static int64_t waited_both(int broker, int self)
{
    return waited(broker) + waited(self);
}

static int open_schedstat(pid_t pid)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)pid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static void tell(const char *what, int64_t *times, size_t n)
{
    qsort(times, n, sizeof(*times), compare);
    printf("%s: %zu calls, median %" PRIi64 " us, 99th percentile %" PRIi64 " us, most %" PRIi64 " us\n",
        what, n, times[n / 2], times[n * 99 / 100], times[n - 1]);
}

static void behave(const char *what, int64_t duration)
{
    static const char text[] = "{\"method\":\"io.evlink.Broker.Status\"}";
    static int64_t times[SAMPLES], net[SAMPLES];
    char title[100];
    int64_t begin = clock_read(CLOCK_MONOTONIC);
    struct ucred peer;
    socklen_t length = sizeof(peer);
    int fd = dial(), broker, self = open_schedstat(getpid());
    size_t n = 0;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
        die("SO_PEERCRED");
    broker = open_schedstat(peer.pid);
    call(fd, text, sizeof(text), NULL, 0);
    for (int64_t now; n < SAMPLES && (now = clock_read(CLOCK_MONOTONIC)) - begin < duration; n++) {
        int64_t before = waited_both(broker, self);

        now = clock_read(CLOCK_MONOTONIC);
        call(fd, text, sizeof(text), NULL, 0);
        times[n] = clock_read(CLOCK_MONOTONIC) - now;
        net[n] = times[n] - (waited_both(broker, self) - before);
        (void)usleep(1000);
    }
    fd_close(fd);
    fd_close(broker);
    fd_close(self);
    tell(what, times, n);
    (void)snprintf(title, sizeof(title), "%s, but for others' programs", what);
    tell(title, net, n);
}

/* What there is to be listed. */
static void fill(void)
{
    pid_t pid = fork();
    int status, fd;

    if (pid < 0)
        die("fork");
    if (pid > 0) {
        if (waitpid(pid, &status, 0) < 0 || status != 0)
            exit(1);
        return;
    }
    /* Whose lists are of everything. */
    if (geteuid() == 0 && (setgid(LISTER) < 0 || setuid(LISTER) < 0))
        die("setuid");
    fd = dial();
    for (int i = 0; i < EVENTFDS; i++) {
        char text[100];
        int length = snprintf(text, sizeof(text),
            "{\"method\":\"io.evlink.Broker.Hold\",\"parameters\":{\"name\":\"filler-%d\"}}", i);

        call(fd, text, (size_t)length + 1, NULL, 0);
    }
    exit(0);
}

int main(int argc, char **argv)
{
    struct rlimit limit;
    struct tally *tallies;
    pid_t pids[N_KINDS];
    size_t n;
    int64_t duration;

    if (argc != 4 || strlen(argv[1]) >= sizeof(address.sun_path)) {
        fprintf(stderr, "Usage: hostile SOCKET CONNECTIONS MILLISECONDS\n");
        return 2;
    }
    strcpy(address.sun_path, argv[1]);
    n = strtoul(argv[2], NULL, 10) / N_KINDS;
    duration = strtoll(argv[3], NULL, 10) * 1000;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    tallies =
        mmap(NULL, N_KINDS * sizeof(*tallies), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tallies == MAP_FAILED)
        die("mmap");
    fill();
    behave("alone", duration / 4);
    (void)fflush(stdout);
    for (size_t i = 0; i < N_KINDS; i++) {
        pids[i] = fork();
        if (pids[i] < 0)
            die("fork");
        if (pids[i] == 0)
            be(&kinds[i], FIRST_USER + (uid_t)i, n, &tallies[i]);
    }
    (void)usleep(300000);
    behave("among them", duration);
    for (size_t i = 0; i < N_KINDS; i++) {
        int status;

        if (waitpid(pids[i], &status, WNOHANG) != 0) {
            fprintf(stderr, "%s: ended before its time\n", kinds[i].name);
            return 1;
        }
    }
    for (size_t i = 0; i < N_KINDS; i++) {
        const struct tally *tally = &tallies[i];

        (void)kill(pids[i], SIGKILL);
        (void)waitpid(pids[i], NULL, 0);
        printf("%s: %lu connections, %lu calls, %lu answers, %lu errors, %lu closed, %lu not sent\n",
            kinds[i].name, tally->connected, tally->sent, tally->answers, tally->errors, tally->closed,
            tally->refused);
    }
    return 0;
}
