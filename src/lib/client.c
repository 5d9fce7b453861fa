/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection to the broker and the call that is under way on it: see client.h. */
#include "lib/client.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "wire/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int client_new(int fd, struct evlink_client **ret_client)
{
    struct evlink_client *client = calloc(1, sizeof(*client));

    if (client)
        client->polls = calloc(1, sizeof(*client->polls));
    if (!client || !client->polls) {
        free(client);
        return -ENOMEM;
    }
    client->fd = fd;
    client->in.limit = FRAME_REPLY_MAX;
    *ret_client = client;
    return 0;
}

/* A socket that is connected to the broker at path, or -errno. */
static int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd, r;

    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* What a unix socket waits for here is room in the backlog: interrupted, it has done nothing yet. */
    do
        r = connect(fd, (struct sockaddr *)&address, sizeof(address));
    while (r < 0 && errno == EINTR);
    if (r == 0)
        return fd;
    r = -errno;
    fd_close(fd);
    return r;
}

/* The connection that whoever started this program has handed down: a duplicate, it stays as it is. */
static int open_inherited(const char *number, struct evlink_client **ret_client)
{
    char *end;
    unsigned long fd;
    int copy;

    errno = 0;
    fd = strtoul(number, &end, 10);
    if (*number < '0' || *number > '9' || *end || errno || fd > INT_MAX)
        return -EBADF;
    copy = fcntl((int)fd, F_DUPFD_CLOEXEC, 3);
    return copy < 0 ? -errno : evlink_client_open_fd(copy, ret_client);
}

int evlink_client_open(const char *path, struct evlink_client **ret_client)
{
    const char *inherited = path ? NULL : secure_getenv("EVLINK_FD");
    CLEANUP(fd_closep) int fd = -1;
    int r;

    if (inherited && *inherited)
        return open_inherited(inherited, ret_client);
    if (!path)
        path = secure_getenv("EVLINK_SOCKET");
    if (!path || !*path)
        path = EVLINK_DEFAULT_SOCKET;
    if (strlen(path) >= sizeof((*ret_client)->path))
        return -ENAMETOOLONG;
    fd = connect_to(path);
    if (fd < 0)
        return fd;
    r = client_new(fd, ret_client);
    if (r < 0)
        return r;
    strcpy((*ret_client)->path, path);
    (void)TAKE_FD(fd);
    return 0;
}

int evlink_client_open_fd(int fd, struct evlink_client **ret_client)
{
    CLEANUP(fd_closep) int owned = fd;
    struct sockaddr_un peer;
    socklen_t length = sizeof(int);
    int domain, type, r;

    if (getsockopt(owned, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0 ||
        getsockopt(owned, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
        return -errno;
    if (domain != AF_UNIX || type != SOCK_STREAM)
        return -EPROTOTYPE;
    length = sizeof(peer);
    if (getpeername(owned, (struct sockaddr *)&peer, &length) < 0)
        return -errno;
    (void)fcntl(owned, F_SETFD, FD_CLOEXEC);
    r = client_new(owned, ret_client);
    if (r == 0)
        (void)TAKE_FD(owned);
    return r;
}

/* Ends the connection, keeping the client for its message. */
static void disconnect(struct evlink_client *client)
{
    client->fd = fd_close(client->fd);
    frame_in_clear(&client->in);
}

int evlink_client_reconnect(struct evlink_client *client)
{
    int fd;

    if (client->busy)
        return evl_client_say(client, -EDEADLK,
            "the connection cannot be opened anew by a callback of a call that is under way on it");
    if (!client->path[0])
        return evl_client_say(
            client, -EOPNOTSUPP, "this connection was made elsewhere: only who made it can make another");
    fd = connect_to(client->path);
    if (fd < 0)
        return evl_client_say(client, fd, "cannot connect to evlinkd at %s: %s", client->path, strerror(-fd));
    disconnect(client);
    client->fd = fd;
    return 0;
}

struct evlink_client *evlink_client_free(struct evlink_client *client)
{
    if (!client)
        return NULL;
    disconnect(client);
    for (size_t i = 0; i < client->n_ties; i++)
        evl_tie_unref(client->ties[i]);
    free(client->ties);
    free(client->polls);
    free(client);
    return NULL;
}

void evlink_client_set_timeout(struct evlink_client *client, unsigned milliseconds)
{
    client->timeout = milliseconds;
}

const char *evlink_client_message(const struct evlink_client *client)
{
    return client->message[0] ? client->message : "nothing has failed on this connection";
}

static int say(struct evlink_client *client, int r, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));

static int say(struct evlink_client *client, int r, const char *format, va_list arguments)
{
    (void)vsnprintf(client->message, sizeof(client->message), format, arguments);
    /* Parts of it may have come from other processes: no line breaks, nothing that drives a terminal. */
    for (char *c = client->message; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return r;
}

int evl_client_say(struct evlink_client *client, int r, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    r = say(client, r, format, arguments);
    va_end(arguments);
    return r;
}

int evl_client_close(struct evlink_client *client, int r, const char *format, ...)
{
    va_list arguments;

    /* Whoever shares the connection would take for its own answer what was ours. */
    (void)shutdown(client->fd, SHUT_RDWR);
    disconnect(client);
    va_start(arguments, format);
    r = say(client, r, format, arguments);
    va_end(arguments);
    return r;
}

int evl_client_nonsense(struct evlink_client *client, const char *what)
{
    return evl_client_close(client, -EPROTO,
        "the broker's answer made no sense: %s; is it evlinkd that listens there, and of which version?",
        what);
}

int evl_client_add_tie(struct evlink_client *client, struct evl_tie *tie)
{
    size_t n = client->n_ties + 1;
    struct evl_tie **ties = reallocarray(client->ties, n, sizeof(struct evl_tie *));
    struct pollfd *polls;

    if (ties)
        client->ties = ties;
    polls = reallocarray(client->polls, n + 1, sizeof(*polls));
    if (polls)
        client->polls = polls;
    if (!ties || !polls)
        return -ENOMEM;
    client->ties[client->n_ties++] = evl_tie_ref(tie);
    return 0;
}

/* Fills in what to poll beside the connection, and forgets the ties that were cut. */
static void look_at_ties(struct evlink_client *client)
{
    size_t n = 0;

    for (size_t i = 0; i < client->n_ties; i++) {
        struct evl_tie *tie = client->ties[i];
        int fd;

        if (!evl_tie_poll(tie, &fd)) {
            evl_tie_unref(tie);
            continue;
        }
        client->ties[n++] = tie;
        client->polls[n] = (struct pollfd){ .fd = fd, .events = POLLIN };
    }
    client->n_ties = n;
}

/* How long poll(2) may wait; 0 when the time is up. */
static int milliseconds_left(const struct evlink_client *client)
{
    int64_t left;

    if (client->deadline == 0)
        return -1;
    left = client->deadline - clock_read(CLOCK_MONOTONIC);
    if (left <= 0)
        return 0;
    left = (left + USEC_PER_MSEC - 1) / USEC_PER_MSEC;
    return left < INT_MAX ? (int)left : INT_MAX;
}

/*
 * Waits until the connection is ready for events. The broker may answer only when an agent of this client
 * has: those that nobody else serves are served here.
 */
static int wait_for(struct evlink_client *client, short events)
{
    for (;;) {
        int left = milliseconds_left(client), n;

        look_at_ties(client);
        client->polls[0] = (struct pollfd){ .fd = client->fd, .events = events };
        n = poll(client->polls, client->n_ties + 1, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        /* Not n == 0: agents that have much to do must not put the end of the wait off. */
        if (left == 0 && !client->polls[0].revents)
            return -ETIMEDOUT;
        for (size_t i = 0; i < client->n_ties; i++)
            if (client->polls[i + 1].revents)
                evl_tie_serve(client->ties[i]);
        if (client->polls[0].revents)
            return 0;
    }
}

/* The connection failed in the middle of a call: nothing that comes later could be told apart. */
static int lost(struct evlink_client *client, int r)
{
    switch (r) {
    case -ETIMEDOUT:
        return evl_client_close(client, r,
            "the broker did not answer within %u ms and the connection was closed: whether the call took "
            "effect, the lists tell on a new one",
            client->timeout);
    case -ENOMEM:
        return evl_client_close(client, r,
            "there was no memory for the broker's answer and the connection was closed: whether the call "
            "took "
            "effect, the lists tell on a new one");
    case -EPIPE:
    case -ECONNRESET:
        return evl_client_close(client, -ECONNRESET,
            "the broker closed the connection: it was stopped or restarted, or would not have what it was "
            "sent (its log says); open a new connection");
    case -EPROTO:
    case -EMSGSIZE:
    case -EBADMSG:
        return evl_client_nonsense(
            client, r == -EMSGSIZE ? "a message is longer than 4 MiB" : "it is no Varlink");
    default:
        return evl_client_close(
            client, r, "the connection to the broker failed and was closed: %s", strerror(-r));
    }
}

int evl_client_begin(struct evlink_client *client)
{
    if (client->busy)
        return evl_client_say(client, -EDEADLK,
            "a callback called on the client whose call it serves: use another client, or call later");
    if (client->fd < 0) {
        /* Why it was closed is the better half of the message, where it is still there. */
        if (strncmp(client->message, "not connected", 13) != 0) {
            char before[sizeof(client->message)];

            memcpy(before, client->message, sizeof(before));
            return evl_client_say(client, -ENOTCONN,
                "not connected any more, open a new connection; it was closed since %s", before);
        }
        return -ENOTCONN;
    }
    client->busy = true;
    return 0;
}

void evl_client_end(struct evlink_client *client)
{
    client->busy = false;
}

static void set_deadline(struct evlink_client *client)
{
    client->deadline = client->timeout ? clock_read(CLOCK_MONOTONIC) + client->timeout * USEC_PER_MSEC : 0;
}

int evl_client_send(
    struct evlink_client *client, struct evl_params *params, unsigned flags, struct fdset *fds)
{
    size_t length;
    int r;

    r = params->error < 0 ? evl_client_say(client, params->error, "%s", params->why) : 0;
    if (r == 0 && !frame_in_idle(&client->in))
        r = evl_client_nonsense(client, "it sent more than was asked for");
    if (r < 0) {
        if (fds)
            fdset_clear(fds);
        return r;
    }
    r = varlink_call_end(&params->emit, flags, fds);
    length = frame_out_pending(&params->out);
    if (r == -EMSGSIZE || (r == 0 && length - 1 > FRAME_MAX))
        return evl_client_say(client, -EMSGSIZE, "the call is longer than 256 KiB: split it into several");
    if (r < 0)
        return evl_client_say(client, r, "the call could not be made: %s", strerror(-r));
    set_deadline(client);
    while ((r = socket_send(client->fd, &params->out)) < 0) {
        if (r == -EAGAIN)
            r = wait_for(client, POLLOUT);
        else if (r != -EPIPE && r != -ECONNRESET && frame_out_pending(&params->out) == length) {
            /* Nothing went out: the connection is as good as before. */
            if (r == -ETOOMANYREFS)
                return evl_client_say(client, r,
                    "this user has too many descriptors under way in sockets: raise RLIMIT_NOFILE, or send "
                    "fewer at once");
            return evl_client_say(client, r, "the call could not be sent: %s", strerror(-r));
        }
        if (r < 0)
            return lost(client, r);
    }
    return 0;
}

int evl_client_next(struct evlink_client *client, struct evl_answer *ret_answer)
{
    struct evl_answer answer = { 0 };
    struct frame frame;
    int r;

    set_deadline(client);
    while (frame_in_next(&client->in, &frame) == 0) {
        r = socket_receive(client->fd, &client->in);
        if (r == -EAGAIN) {
            r = wait_for(client, POLLIN);
            r = r < 0 ? r : 1;
        }
        if (r <= 0)
            return lost(client, r == 0 ? -ECONNRESET : r);
    }
    answer.fds = fdset_take(&frame.fds);
    answer.fds_lost = frame.fds_lost;
    r = varlink_answer_read(frame.text, frame.length, &answer.reply);
    if (r < 0) {
        fdset_clear(&answer.fds);
        return lost(client, r);
    }
    *ret_answer = answer;
    return 0;
}

void evl_answer_clear(struct evl_answer *answer)
{
    varlink_answer_clear(&answer->reply);
    fdset_clear(&answer->fds);
}

static int call(
    struct evlink_client *client, struct evl_params *params, struct fdset *fds, struct evl_answer *ret_answer)
{
    CLEANUP(evl_answer_clear) struct evl_answer answer = { 0 };
    int r;

    r = evl_client_send(client, params, 0, fds);
    if (r == 0)
        r = evl_client_next(client, &answer);
    if (r < 0)
        return r;
    if (answer.reply.error)
        return evl_client_error(client, params, answer.reply.error, answer.reply.parameters);
    if (answer.reply.continues)
        return evl_client_nonsense(client, "it announced more where one reply was asked for");
    if (ret_answer) {
        *ret_answer = answer;
        answer = (struct evl_answer){ 0 };
    }
    return 0;
}

int evl_client_call(
    struct evlink_client *client, struct evl_params *params, struct fdset *fds, struct evl_answer *ret_answer)
{
    int r;

    r = evl_client_begin(client);
    if (r == 0) {
        r = call(client, params, fds, ret_answer);
        evl_client_end(client);
    } else if (fds) {
        fdset_clear(fds);
    }
    evl_params_clear(params);
    return r;
}

int evl_client_dup(struct evlink_client *client, const int *fds, size_t n, struct fdset *ret_fds)
{
    int r = fdset_dup(ret_fds, fds, n);

    if (r == -EBADF && n == 1)
        return evl_client_say(client, r, "descriptor %d is not open", fds[0]);
    if (r == -EBADF)
        return evl_client_say(client, r, "one of the %zu descriptors is not open", n);
    if (r == -EMFILE)
        return evl_client_say(
            client, r, "this process has no descriptor free to send one: raise its RLIMIT_NOFILE");
    if (r < 0)
        return evl_client_say(client, r, "the descriptors could not be duplicated: %s", strerror(-r));
    return 0;
}

int evl_client_steal(
    struct evlink_client *client, struct evl_answer *answer, struct opt_int index, int *ret_fd)
{
    int fd = -1;

    if (index.set && index.value >= 0)
        fd = fdset_steal(&answer->fds, (size_t)index.value);
    if (fd < 0 && answer->fds_lost == -ENOMEM)
        return evl_client_say(
            client, -ENOMEM, "the broker sent a descriptor, but there was no memory to take it");
    if (fd < 0 && answer->fds_lost)
        return evl_client_say(client, -EMFILE,
            "the broker sent a descriptor, but this process has none free to take it: raise its "
            "RLIMIT_NOFILE");
    if (fd < 0)
        return evl_client_nonsense(client, "it lacks its descriptor");
    *ret_fd = fd;
    return 0;
}
