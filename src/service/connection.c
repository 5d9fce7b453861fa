/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A client's connection: see connection.h. */
#include "service/connection.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/discard.h"
#include "base/fd.h"
#include "base/label.h"
#include "base/log.h"
#include "base/table.h"
#include "model/delegation.h"
#include "service/config.h"
#include "service/line.h"
#include "service/method.h"
#include "service/monitor.h"
#include "service/row.h"
#include "service/vault.h"
#include "wire/socket.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* While more than this waits to be sent, nothing is read and no stream goes on. */
#define OUT_HIGH ((size_t)256 * 1024)

/* What each connection may have without being charged for it: enough for all but large calls. */
#define IN_FREE ((size_t)4096)
#define OUT_FREE ((size_t)16384)
#define CALL_FREE ((size_t)16384)

/* What may wait to be sent though its user has too much already: an answer of the usual size, beside those.
 */
#define OUT_MOST (4 * OUT_FREE)

/*
 * Whoever asks for little is served as soon as it asks, for PROMPT microseconds. Those that have more to do,
 * and those whose turns take that long as a rule, wait in a queue, from which they are served for TURN each,
 * and BUSY_TURNS before it is looked who else asks.
 */
#define PROMPT 50
#define TURN 200
#define BUSY_TURNS 1000

/* Answers with a descriptor that one connection may leave unread: all users' share one limit of the kernel's.
 * One is everybody's, the others are charged for.
 */
#define UNREAD_MAX 8

/* What is said in a second of clients that are closed. */
#define COMPLAINTS_MAX 10

/* How often it is looked whether they were read, in microseconds: at first, and at last. */
#define PAUSE_FIRST 1000
#define PAUSE_LAST 50000

static int charge(
    struct connection *connection, enum quota quota, size_t *charged, size_t n, struct fault *fault)
{
    return n == *charged
               ? 0
               : model_recharge(connection->server->model, &connection->peer, quota, charged, n, fault);
}

static void end_call(struct connection *connection)
{
    varlink_request_clear(&connection->call);
    (void)charge(connection, QUOTA_BYTES, &connection->bytes_call, 0, NULL);
    fdset_clear(&connection->fds);
    connection->fds_lost = false;
    connection->job = NULL;
    connection->stream = NULL;
    frame_out_clear(&connection->draft);
    free(TAKE(connection->room));
    if (connection->monitor)
        monitor_free(connection->monitor);
    connection->monitor = NULL;
}

/* Clients that go away are no news, and those that misbehave not more than so often: they are not to fill the
 * log. */
static enum log_level level_of(struct server *server, int r)
{
    int64_t second = clock_read(CLOCK_MONOTONIC) / USEC_PER_SEC;

    if (r == -EPIPE || r == -ECONNRESET)
        return LOG_LEVEL_DEBUG;
    if (server->complained_at != second)
        server->complaints = 0;
    server->complained_at = second;
    return server->complaints++ < COMPLAINTS_MAX ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG;
}

static void fail(struct connection *connection, const char *what, int r)
{
    if (!connection->failed)
        log_msg(level_of(connection->server, r), "closing the connection of pid %d, uid %u: %s: %s",
            (int)connection->peer.pid, (unsigned)connection->peer.uid, what, strerror(-r));
    connection->failed = true;
}

/* What else an answer takes while it is written: each string has room for the worst before it is looked at.
 */
#define ROOM_MORE ((size_t)64 * 1024)

int connection_expect(struct connection *connection, size_t most)
{
    /* For short ones the reserve will do. */
    if (most <= OUT_MOST)
        return 0;
    most = most < FRAME_REPLY_MAX ? most : FRAME_REPLY_MAX;
    connection->room_size = connection->out.end + most + ROOM_MORE;
    connection->room = malloc(connection->room_size);
    return connection->room ? 0 : -ENOMEM;
}

struct emit *connection_begin(struct connection *connection)
{
    return connection_begin_error(connection, NULL);
}

struct emit *connection_begin_error(struct connection *connection, const char *error)
{
    struct row *row = connection->server->row;

    /* What is behind the answers of a row would be lost with them. */
    if (row->connection == connection && !row->open)
        row_settle(row);
    if (connection->room)
        frame_out_move(&connection->out, TAKE(connection->room), connection->room_size);
    varlink_reply_begin(&connection->emit, &connection->out, error);
    return &connection->emit;
}

static void put_reply(struct connection *connection, bool continues, int fd)
{
    struct fdset fds = FDSET_EMPTY;
    int r = 0;

    if (connection->call.oneway) {
        frame_out_cancel(&connection->out, connection->emit.begin);
        fd_close(fd);
        return;
    }
    if (fd >= 0) {
        connection->n_unread++;
        r = fdset_adopt(&fds, &fd, 1);
        connection->emit.failed |= r < 0;
    }
    r = varlink_reply_end(&connection->emit, continues, &fds);
    if (r < 0)
        fail(connection, "cannot make a reply", r);
}

void connection_end_fd(struct connection *connection, int fd)
{
    put_reply(connection, false, fd);
    end_call(connection);
}

void connection_end(struct connection *connection)
{
    connection_end_fd(connection, -1);
}

void connection_end_notice(struct connection *connection)
{
    put_reply(connection, true, -1);
}

void connection_done(struct connection *connection)
{
    (void)connection_begin(connection);
    connection_end(connection);
}

/* The draft, if there is one, is to be sent. */
static void put_draft(struct connection *connection, bool continues)
{
    const struct fdset *fds;
    const char *bytes;
    size_t length;
    int r;

    if (frame_out_pending(&connection->draft) == 0)
        return;
    r = varlink_reply_end(&connection->emit, continues, NULL);
    if (r == 0) {
        length = frame_out_peek(&connection->draft, &bytes, &fds);
        r = frame_out_add(&connection->out, bytes, length);
        frame_out_sent(&connection->draft, length);
    }
    if (r < 0)
        fail(connection, "cannot make a reply", r);
}

struct emit *connection_begin_next(struct connection *connection)
{
    put_draft(connection, true);
    varlink_reply_begin(&connection->emit, &connection->draft, NULL);
    return &connection->emit;
}

void connection_end_stream(struct connection *connection)
{
    if (frame_out_pending(&connection->draft) == 0)
        (void)connection_begin_next(connection);
    put_draft(connection, false);
    end_call(connection);
}

/* The next frame, if all of it is there. *ret_interrupted: it was another process's to answer. */
static bool next_frame(struct connection *connection, struct frame *ret_frame, bool *ret_interrupted)
{
    *ret_interrupted = false;
    return (connection->line ? line_next(connection->line, ret_frame, ret_interrupted)
                             : frame_in_next(&connection->in, ret_frame)) > 0;
}

/* One frame: a call. */
static void take_frame(struct connection *connection, struct frame *frame, bool interrupted)
{
    int r;

    connection->fds = fdset_take(&frame->fds);
    connection->fds_lost = frame->fds_lost;
    r = varlink_request_read(frame->text, frame->length, &connection->call);
    if (r < 0) {
        fail(connection, "a malformed call", r);
        return;
    }
    if (interrupted) {
        (void)connection_begin_error(connection, "io.evlink.Broker.Restarted");
        connection_end(connection);
    }
}

/* Tells what there is too much of, and closes the connection. */
static void refuse(struct connection *connection, const struct fault *fault)
{
    log_debug("refused pid %d, uid %u: there are %" PRIi64 " %s", (int)connection->peer.pid,
        (unsigned)connection->peer.uid, fault->number, fault->reason);
    if (method_fault(connection, fault) == 0)
        (void)socket_send(connection->fd, &connection->out);
    connection->failed = true;
}

/* ---- What it is charged for */

static size_t chargeable_input(size_t size)
{
    return size > IN_FREE ? size : 0;
}

/*
 * What the open call takes, of its own: its values, of which a frame of [0,0,... has one for each two bytes,
 * are up to 32 times as long as its frame was, which may be gone by then.
 */
static size_t chargeable_call(const struct connection *connection)
{
    size_t n = varlink_request_size(&connection->call);

    return n > CALL_FREE ? n : 0;
}

/* False where it was answered. */
static bool charge_call(struct connection *connection)
{
    struct fault fault;
    int r = charge(connection, QUOTA_BYTES, &connection->bytes_call, chargeable_call(connection), &fault);

    if (r > 0)
        (void)method_fault(connection, &fault);
    else if (r < 0)
        fail(connection, "cannot charge a call", r);
    return r == 0;
}

/* Refunds what it does not have any more. */
static void settle(struct connection *connection)
{
    size_t input = chargeable_input(connection->in.size);
    size_t fds = connection->fds.n + (connection->line ? line_n_fds(connection->line) : connection->in.fds.n);

    if (input < connection->bytes_in)
        (void)charge(connection, QUOTA_BYTES, &connection->bytes_in, input, NULL);
    if (chargeable_call(connection) < connection->bytes_call)
        (void)charge(connection, QUOTA_BYTES, &connection->bytes_call, chargeable_call(connection), NULL);
    if (connection->line && line_bytes(connection->line) < connection->bytes_line)
        (void)charge(connection, QUOTA_BYTES, &connection->bytes_line, line_bytes(connection->line), NULL);
    if (frame_out_pending(&connection->out) == 0 && connection->bytes_out > 0) {
        connection->window = OUT_FREE;
        (void)charge(connection, QUOTA_BYTES, &connection->bytes_out, 0, NULL);
    }
    if (fds < connection->fds_in)
        (void)charge(connection, QUOTA_DESCRIPTORS, &connection->fds_in, fds, NULL);
}

static bool is_full(const struct connection *connection)
{
    return frame_out_pending(&connection->out) > connection->window;
}

/* Whether more may wait to be sent. Where its user has too much already, what there is has to be read first.
 */
static bool widen(struct connection *connection)
{
    size_t window = connection->window;

    while (window < frame_out_pending(&connection->out))
        window *= 2;
    if (window > OUT_HIGH || charge(connection, QUOTA_BYTES, &connection->bytes_out, window, NULL))
        return false;
    connection->window = window;
    return true;
}

/*
 * One answer may be much longer than what may wait: of what has to stay of it all is charged, or it cannot.
 */
static void charge_rest(struct connection *connection)
{
    size_t n = frame_out_pending(&connection->out);
    int r;

    /* What is on its way out of a line is there twice. */
    if (connection->line && n > 0) {
        size_t bytes = line_bytes(connection->line);

        r = bytes > connection->bytes_line
                ? charge(connection, QUOTA_BYTES, &connection->bytes_line, bytes, NULL)
                : 0;
        if (r && n > OUT_MOST)
            fail(connection, "too much of its user's waits to be read", r < 0 ? r : -EDQUOT);
    }
    if (n <= OUT_MOST || n <= connection->bytes_out || widen(connection))
        return;
    r = charge(connection, QUOTA_BYTES, &connection->bytes_out, n, NULL);
    if (r)
        fail(connection, "too much of its user's waits to be read", r < 0 ? r : -EDQUOT);
}

static void pause_for(struct connection *connection, int64_t microseconds)
{
    const struct timeval interval = { .tv_usec = (suseconds_t)microseconds };

    if (event_add(connection->again, &interval) < 0)
        fail(connection, "cannot set its timer", -ENOMEM);
}

/*
 * Whether the next call may be served, as far as the descriptors of earlier answers go: those that nobody
 * reads are taken from what all have under way.
 */
static bool may_serve(struct connection *connection)
{
    size_t n = (size_t)connection->n_unread;
    int unread = 0;

    if (n == 0 || (n < UNREAD_MAX && n <= connection->fds_out))
        return true;
    if (n < UNREAD_MAX && charge(connection, QUOTA_DESCRIPTORS, &connection->fds_out, n, NULL) == 0)
        return true;
    if (frame_out_pending(&connection->out) > 0 ||
        (ioctl(connection->fd, SIOCOUTQ, &unread) == 0 && unread > 0))
        return false;
    connection->n_unread = 0;
    connection->pause = PAUSE_FIRST;
    (void)charge(connection, QUOTA_DESCRIPTORS, &connection->fds_out, 0, NULL);
    return true;
}

/* Looks again after a moment whether it may go on: nothing tells. */
static void wait_a_moment(struct connection *connection)
{
    connection->waits = true;
    pause_for(connection, connection->pause);
    connection->pause = 2 * connection->pause < PAUSE_LAST ? 2 * connection->pause : PAUSE_LAST;
}

/* Serves what has come in, as far as that goes now: false where its turn is over. */
static bool serve(struct connection *connection, int64_t until)
{
    struct frame frame;
    bool interrupted;

    while (!connection->failed && !connection->server->recovering) {
        if (is_full(connection) && !widen(connection))
            return true;
        if (connection->stream) {
            connection->stream(connection);
        } else {
            if (connection->call.root)
                return true;
            if ((connection->line || !frame_in_idle(&connection->in)) && !may_serve(connection)) {
                wait_a_moment(connection);
                return true;
            }
            if (!next_frame(connection, &frame, &interrupted))
                return true;
            take_frame(connection, &frame, interrupted);
            if (!connection->failed && connection->call.root && charge_call(connection))
                method_call(connection);
        }
        /* Time is no matter to one that has nothing more to do. */
        if ((connection->stream || !frame_in_idle(&connection->in)) && clock_read(CLOCK_MONOTONIC) > until)
            return false;
    }
    return true;
}

/* ---- What comes in */

/* What receive() asks for, and is told if it is not had. */
struct admission {
    struct connection *connection;
    struct fault fault;
};

/*
 * What n is that is too much. A line's client cannot come again, and is not sent away: it stays until there
 * is room, unless there never will be.
 */
static int over(const struct connection *connection, size_t n, const struct fault *fault)
{
    return connection->line && (int64_t)n <= fault->number ? -EBUSY : -EDQUOT;
}

/*
 * Before descriptors are taken: whether their user may have more, and there is room for them. The last places
 * stay open until something else is done than receiving Holds.
 */
static int admit(void *userdata)
{
    struct admission *admission = userdata;
    struct connection *connection = admission->connection;
    struct culprit whose = policy_culprit(&connection->peer);
    int r;

    if (discard_is_stuck(&whose)) {
        (void)fault_set(&admission->fault, FAULT_QUOTA_EXCEEDED, NULL, NULL,
            whose.tenant[0] ? "descriptors of one scope that cannot be closed"
                            : "descriptors of one user that cannot be closed",
            0);
        return -EDQUOT;
    }
    if (discard_is_behind(&whose) || !table_has_room())
        return -EBUSY;
    r = charge(connection, QUOTA_DESCRIPTORS, &connection->fds_in, connection->fds.n + FRAME_MAX_FDS,
        &admission->fault);
    if (r)
        return r < 0 ? r : over(connection, connection->fds.n + FRAME_MAX_FDS, &admission->fault);
    table_open();
    return 0;
}

/* As socket_receive(). What is too much for its user, -EDQUOT with the fault, or comes too fast, -EBUSY,
 * stays. */
static int receive(struct connection *connection, struct fault *fault)
{
    struct admission admission = { .connection = connection };
    struct frame_in *in = &connection->in;
    size_t *charged = connection->line ? &connection->bytes_line : &connection->bytes_in;
    size_t bytes = connection->line ? line_needs(connection->line) : chargeable_input(frame_in_needs(in));
    int r = 0;

    /* What a subscriber sends is never taken, and nothing else is looked for behind it. */
    if (connection->line && line_is_busy(connection->line))
        return 0;
    if (bytes > *charged)
        r = charge(connection, QUOTA_BYTES, charged, bytes, &admission.fault);
    if (r == 0) {
        r = connection->line ? line_receive(connection->line, connection->fd, admit, &admission)
                             : socket_receive_if(connection->fd, in, admit, &admission);
    } else if (r > 0) {
        r = over(connection, bytes, &admission.fault);
    }
    if (r == -EDQUOT)
        *fault = admission.fault;
    /* The last places are only lent. */
    for (size_t i = 0; r > 0 && i < in->fds.n; i++)
        if (table_is_last(in->fds.fds[i]))
            in->fds_lost = -EMFILE;
    if (in->fds_lost)
        fdset_clear(&in->fds);
    return r;
}

/* Whether the client has to read first: a line takes one call at a time. */
static bool is_answering(const struct connection *connection)
{
    return connection->line && line_is_busy(connection->line) && !connection->call.root;
}

/* Waits for what can happen next; a connection that nothing can happen to any more is closed. */
static void watch(struct connection *connection)
{
    bool sending = frame_out_pending(&connection->out) > 0;
    /* Of a subscriber we have to know when it hangs up. */
    bool reading = (connection->finished ? connection->monitor != NULL
                                         : !connection->call.root || connection->monitor) &&
                   !is_full(connection) && !is_answering(connection) && !connection->waits &&
                   !connection->server->recovering;
    int r = 0;

    if (connection->finished && !connection->call.root && !sending) {
        connection->failed = true;
        return;
    }
    /* Who has more to do gets a turn anyway. */
    r |= reading && !connection->busy ? event_add(connection->readable, NULL)
                                      : event_del(connection->readable);
    r |= sending && !connection->stalled && !connection->busy ? event_add(connection->writable, NULL)
                                                              : event_del(connection->writable);
    if (r < 0)
        fail(connection, "cannot watch its socket", -ENOMEM);
}

static void on_event(evutil_socket_t fd, short what, void *userdata);

/* Has the loop tell of what changes at the socket, once each: its end is there to be read for good. */
static void watch_changes(struct connection *connection)
{
    struct event *readable, *writable;

    readable = event_new(
        connection->server->base, connection->fd, EV_READ | EV_ET | EV_PERSIST, on_event, connection);
    writable = event_new(
        connection->server->base, connection->fd, EV_WRITE | EV_ET | EV_PERSIST, on_event, connection);
    /* Both or none: libevent wants them alike. */
    event_free(connection->readable);
    event_free(connection->writable);
    connection->readable = readable;
    connection->writable = writable;
    if (!readable || !writable)
        fail(connection, "cannot watch its socket", -ENOMEM);
}

/* The client sends no more. A subscriber that only shut its side down still listens: who hung up does not. */
static void hang_up(struct connection *connection)
{
    struct pollfd poll_fd = { .fd = connection->fd };

    if (connection->monitor && poll(&poll_fd, 1, 0) > 0 && poll_fd.revents & POLLHUP)
        connection->failed = true;
    else if (connection->monitor && !connection->finished)
        watch_changes(connection);
    connection->finished = true;
}

static int send_out(struct connection *connection)
{
    int r;

    if (!connection->line)
        return socket_send(connection->fd, &connection->out);
    r = line_send(connection->line, connection->fd, &connection->out, !connection->call.root);
    if (r == 0 && is_answering(connection))
        line_end_call(connection->line);
    return r;
}

/* Has it wait for its next turn. By a timer: what a callback makes active comes before others' sockets. */
static void queue(struct connection *connection)
{
    const struct timeval now = { 0 };
    struct server *server = connection->server;

    if (!connection->busy)
        TAILQ_INSERT_TAIL(&server->busy, connection, in_busy);
    connection->busy = true;
    if (!event_pending(server->busy_turn, EV_TIMEOUT, NULL) && event_add(server->busy_turn, &now) < 0)
        fail(connection, "cannot set a timer", -ENOMEM);
}

static void unqueue(struct connection *connection)
{
    if (connection->busy)
        TAILQ_REMOVE(&connection->server->busy, connection, in_busy);
    connection->busy = false;
}

/* Whether there is something that no event will tell of again, or that one would at once. */
static bool has_input(const struct connection *connection)
{
    int unread = 0;

    return (connection->line ? line_is_too_long(connection->line) : frame_in_is_too_long(&connection->in)) ||
           ioctl(connection->fd, SIOCINQ, &unread) < 0 || unread > 0;
}

/* Serves and receives until there is nothing to do or somebody else's turn. */
static void take_turn(struct connection *connection, int64_t until)
{
    struct server *server = connection->server;
    struct fault fault;
    int r;

    for (bool first = true; !connection->failed; first = false) {
        if (!serve(connection, until)) {
            queue(connection);
            return;
        }
        if (connection->failed || connection->finished || connection->waits || is_full(connection) ||
            is_answering(connection) || server->recovering || (connection->call.root && !connection->monitor))
            return;
        /* What is received has to wait for nobody: it would take up room meanwhile. */
        if (!first && clock_read(CLOCK_MONOTONIC) > until) {
            if (has_input(connection))
                queue(connection);
            return;
        }
        r = receive(connection, &fault);
        if (r == -EAGAIN)
            return;
        if (r == 0)
            hang_up(connection);
        else if (r == -EDQUOT)
            refuse(connection, &fault);
        else if (r == -EBUSY)
            wait_a_moment(connection);
        else if (r < 0)
            fail(connection, "cannot receive", r);
    }
}

/* Serves, receives and sends. Frees what has failed. */
static void advance(struct connection *connection, int64_t most)
{
    struct server *server = connection->server;
    struct culprit whose = discard_for(policy_culprit(&connection->peer));
    int64_t begin = clock_read(CLOCK_THREAD_CPUTIME_ID), cost;
    int r;

    unqueue(connection);
    connection->waits = false;
    if (connection->finished && connection->monitor)
        hang_up(connection);
    take_turn(connection, clock_read(CLOCK_MONOTONIC) + most);
    table_close();
    row_settle(server->row);
    if (!connection->failed || frame_out_pending(&connection->out) > 0) {
        bool was_full = is_full(connection);

        server_sync(server);
        r = send_out(connection);
        connection->stalled = socket_is_short(r);
        if (connection->stalled && !connection->failed)
            pause_for(connection, PAUSE_LAST);
        else if (r < 0 && r != -EAGAIN && !connection->failed)
            fail(connection, "cannot send", r);
        charge_rest(connection);
        /* Calls that have been read already make no event. */
        if (was_full && !is_full(connection))
            connection_resume(connection);
        if (r == 0 && connection->monitor)
            monitor_drained(connection->monitor);
    }
    settle(connection);
    /* Not what other programs take of the processor meanwhile; and one long turn is not a rule. */
    cost = clock_read(CLOCK_THREAD_CPUTIME_ID) - begin;
    connection->cost += ((cost < TURN ? cost : TURN) - connection->cost) / 8;
    if (!connection->failed)
        watch(connection);
    if (connection->failed)
        connection_free(connection);
    (void)discard_for(whose);
    server_arm(server);
}

static void on_event(evutil_socket_t fd, short what, void *userdata)
{
    struct connection *connection = userdata;

    (void)fd;
    (void)what;
    if (connection->cost > PROMPT && !connection->busy) {
        (void)event_del(connection->readable);
        (void)event_del(connection->writable);
        queue(connection);
    }
    if (!connection->busy || connection->failed)
        advance(connection, PROMPT);
}

void connection_busy_turn(evutil_socket_t fd, short what, void *userdata)
{
    struct server *server = userdata;
    const struct timeval now = { 0 };
    int64_t until = clock_read(CLOCK_MONOTONIC) + BUSY_TURNS;

    (void)fd;
    (void)what;
    while (!TAILQ_EMPTY(&server->busy)) {
        if (clock_read(CLOCK_MONOTONIC) > until) {
            (void)event_add(server->busy_turn, &now);
            return;
        }
        advance(TAILQ_FIRST(&server->busy), TURN);
    }
}

bool connection_has_room(struct connection *connection, size_t most)
{
    return frame_out_pending(&connection->out) <= most && (!is_full(connection) || widen(connection));
}

void connection_resume(struct connection *connection)
{
    /* Through the loop: whoever answered is in the middle of something. */
    event_active(connection->again, EV_TIMEOUT, 0);
}

/* The peer's supplementary groups, as they were when it connected. */
static int read_groups(int fd, struct groups **ret_groups)
{
    struct groups *groups = NULL, *more;
    socklen_t length = 0;
    int r;

    do {
        more = realloc(groups, sizeof(*groups) + length);
        if (!more) {
            free(groups);
            return -ENOMEM;
        }
        groups = more;
        r = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups->gids, &length);
    } while (r < 0 && errno == ERANGE);
    if (r < 0) {
        free(groups);
        return -errno;
    }
    groups->n = length / sizeof(gid_t);
    *ret_groups = groups;
    return 0;
}

/* Charges a connection to its user. */
static int charge_connection(struct connection *connection, struct fault *fault)
{
    int r = model_charge(connection->server->model, &connection->peer, QUOTA_CONNECTIONS, 1, fault);

    connection->charged = r == 0;
    return r;
}

/* fd: consumed, also on failure. NULL: out of memory. */
static struct connection *make(struct server *server, int fd)
{
    struct connection *connection = calloc(1, sizeof(*connection));

    if (!connection) {
        fd_close(fd);
        return NULL;
    }
    if (fd >= 0)
        socket_take_in_order(fd);
    connection->server = server;
    connection->fd = fd;
    connection->pause = PAUSE_FIRST;
    connection->window = OUT_FREE;
    LIST_INSERT_HEAD(&server->connections, connection, in_server);
    server->n_connections++;
    return connection;
}

/* From now on it is served. */
static int begin(struct connection *connection)
{
    struct event_base *base = connection->server->base;

    connection->readable = event_new(base, connection->fd, EV_READ | EV_PERSIST, on_event, connection);
    connection->writable = event_new(base, connection->fd, EV_WRITE | EV_PERSIST, on_event, connection);
    connection->again = event_new(base, -1, 0, on_event, connection);
    if (!connection->readable || !connection->writable || !connection->again ||
        event_add(connection->readable, NULL) < 0)
        return -ENOMEM;
    return 0;
}

/* Who is at the other end, by the kernel. */
static int identify(struct connection *connection)
{
    CLEANUP(freep) char *label = NULL;
    struct ucred credentials;
    socklen_t length = sizeof(credentials);
    int r;

    if (getsockopt(connection->fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
        return -errno;
    r = read_groups(connection->fd, &connection->groups);
    if (r < 0)
        return r;
    connection->peer = (struct peer){ .uid = credentials.uid,
        .gid = credentials.gid,
        .pid = credentials.pid,
        .standing = &connection->standing };
    connection->standing.groups = connection->groups;
    r = label_read(connection->fd, &label);
    return r < 0 ? r : origin_new("", label, &connection->standing.origin);
}

int connection_new(struct server *server, int fd)
{
    struct connection *connection = make(server, fd);
    const int off = 0;
    struct fault fault;
    int r;

    if (!connection)
        return -ENOMEM;
    r = identify(connection);
    if (r == 0)
        r = charge_connection(connection, &fault);
    if (r > 0) {
        refuse(connection, &fault);
        r = 0;
    }
    /* A listening socket may have it on: credentials in the control data are not asked for. */
    (void)setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &off, sizeof(off));
#ifdef SO_PASSPIDFD
    (void)setsockopt(fd, SOL_SOCKET, SO_PASSPIDFD, &off, sizeof(off));
#endif
    if (connection->charged)
        r = begin(connection);
    if (!connection->charged || r < 0)
        connection_free(connection);
    return r;
}

/* Has it outlive this process. */
static int keep(struct connection *connection)
{
    struct vault *vault = connection->server->vault;
    int r;

    r = line_new(&connection->line);
    if (r == 0)
        r = vault_keep_fd(vault, connection->fd, &connection->socket_item);
    if (r == 0)
        r = vault_keep_fd(vault, line_fd(connection->line), &connection->line_item);
    if (r == 0)
        model_delegated(
            connection->delegation, item_number(connection->socket_item), item_number(connection->line_item));
    return r;
}

int connection_delegate(struct server *server, int fd, struct delegation *delegation, struct fault *fault)
{
    struct connection *connection = make(server, fd);
    int r;

    if (!connection) {
        delegation_free(delegation);
        return -ENOMEM;
    }
    connection->delegation = delegation;
    connection->peer = delegation->peer;
    r = charge_connection(connection, fault);
    if (r == 0 && server->vault)
        r = keep(connection);
    if (r == 0)
        r = begin(connection);
    if (r)
        connection_free(connection);
    return r;
}

int connection_restore(struct server *server, int fd, struct item *socket_item, int memory,
    struct item *line_item, struct delegation *delegation)
{
    struct connection *connection = make(server, fd);
    int r = fd >= 0 && memory >= 0 ? 0 : -ENOENT;

    if (!connection)
        return -ENOMEM;
    connection->socket_item = socket_item;
    connection->line_item = line_item;
    connection->peer = delegation->peer;
    if (r == 0)
        r = line_open(memory, &connection->out, &connection->line);
    if (r == 0)
        r = model_charge(server->model, &connection->peer, QUOTA_CONNECTIONS, 1, NULL);
    if (r == 0) {
        connection->charged = true;
        r = begin(connection);
    }
    if (r < 0) {
        connection_free(connection);
        return r;
    }
    connection->delegation = delegation;
    /* There may be a call already, or half an answer to send. */
    connection_resume(connection);
    return 0;
}

/* What is kept is the vault's to close: the next process's, where this one stops. */
static void close_kept(struct connection *connection)
{
    struct vault *vault = connection->server->vault;
    int memory = connection->line ? line_fd(connection->line) : -1;

    line_free(connection->line);
    /* Copies of it are in queues for a while. */
    if (vault)
        fd_discard_input(connection->fd);
    if (vault && connection->socket_item)
        vault_drop(vault, connection->socket_item);
    else
        fd_close(connection->fd);
    if (vault && connection->line_item)
        vault_drop(vault, connection->line_item);
    else
        fd_close(memory);
}

struct connection *connection_free(struct connection *connection)
{
    struct server *server = connection->server;
    struct culprit whose = discard_for(policy_culprit(&connection->peer));

    unqueue(connection);
    if (connection->job)
        job_forsake(connection->job);
    if (connection->readable)
        event_free(connection->readable);
    if (connection->writable)
        event_free(connection->writable);
    if (connection->again)
        event_free(connection->again);
    end_call(connection);
    frame_in_clear(&connection->in);
    frame_out_clear(&connection->out);
    if (connection->line || connection->socket_item || connection->line_item)
        close_kept(connection);
    else
        fd_discard_socket(connection->fd);
    LIST_REMOVE(connection, in_server);
    server->n_connections--;
    model_cut(server->model, &connection->lifeline);
    (void)charge(connection, QUOTA_BYTES, &connection->bytes_in, 0, NULL);
    (void)charge(connection, QUOTA_BYTES, &connection->bytes_out, 0, NULL);
    (void)charge(connection, QUOTA_BYTES, &connection->bytes_line, 0, NULL);
    (void)charge(connection, QUOTA_DESCRIPTORS, &connection->fds_in, 0, NULL);
    (void)charge(connection, QUOTA_DESCRIPTORS, &connection->fds_out, 0, NULL);
    if (connection->charged)
        model_refund(server->model, &connection->peer, QUOTA_CONNECTIONS, 1);
    delegation_free(connection->delegation);
    origin_unref(connection->standing.origin);
    (void)discard_for(whose);
    free(connection->groups);
    free(connection);
    return NULL;
}
