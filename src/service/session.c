/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The broker's side of an agent's socket: see session.h. */
#include "service/session.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/discard.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/reserve.h"
#include "base/table.h"
#include "service/vault.h"
#include "wire/fields.h"
#include "wire/socket.h"
#include "wire/varlink.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* What a call to an agent takes at the most: it goes out whole, in one sendmsg(). */
#define CALL_BYTES ((size_t)32 * 1024)

/* What each may have without its user's being charged for it. */
#define IN_FREE ((size_t)4096)

/* What may wait for one that does not read, before its news is dropped: it goes out whole as well. */
#define TELL_BYTES ((size_t)24 * 1024)

struct session {
    struct server *server;
    struct agent *agent; /* NULL: not bound yet */
    int fd, pidfd;
    struct peer owner; /* who is charged, and to blame, for what comes */
    size_t bytes;      /* that it is charged for */
    bool dry;          /* readable, yet nothing came */
    struct frame_in in;
    struct frame_out out;
    struct event *readable, *writable, *death, *timeout, *kick;
    enum op op;
    size_t n_items;      /* of the batch in flight; 0: none */
    int unsent;          /* the errno for which it is yet to be sent; 0: it was */
    bool asks_inventory; /* the call in flight is Inventory */
    int64_t token;       /* the last one's */
    bool strange;        /* what it sends may be the rest of an answer to an earlier evlinkd */
    struct item *socket_item, *pidfd_item; /* NULL: not kept */
    LIST_ENTRY(session) in_server;
};

/* With a vault, what is kept there is its to close. */
static void close_kept(struct session *session, int *fd, struct item **item)
{
    bool is_socket = fd == &session->fd;

    if (*item && session->server->vault) {
        /* Copies of it are in queues for a while. */
        if (is_socket)
            fd_discard_input(*fd);
        vault_drop(session->server->vault, *item);
    } else if (is_socket && !*item) {
        fd_discard_socket(*fd);
    } else {
        /* The next process has it too, or it is a pidfd: there is nothing to wait for. */
        fd_close(*fd);
    }
    *item = NULL;
    *fd = -1;
}

/*
 * Charges its owner for what comes from the agent. What goes out is not: a call, of which there is one, and
 * news are no more than CALL_BYTES and TELL_BYTES, and the agent itself is charged. -EDQUOT, -ENOMEM.
 */
static int charge(struct session *session, size_t bytes)
{
    int r;

    if (bytes <= IN_FREE)
        bytes = 0;
    if (bytes == session->bytes)
        return 0;
    r = model_recharge(session->server->model, &session->owner, QUOTA_BYTES, &session->bytes, bytes, NULL);
    return r > 0 ? -EDQUOT : r;
}

void session_close(struct session *session)
{
    struct culprit whose = discard_for(policy_culprit(&session->owner));
    struct event **events[] = { &session->readable, &session->writable, &session->timeout, &session->kick };

    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        if (*events[i])
            event_free(*events[i]);
        *events[i] = NULL;
    }
    frame_in_clear(&session->in);
    frame_out_clear(&session->out);
    close_kept(session, &session->fd, &session->socket_item);
    (void)charge(session, 0);
    (void)discard_for(whose);
}

/* The session may be freed when this returns. */
static void lose(struct session *session, const char *reason)
{
    log_info("agent %s is lost: %s", session->agent->name, reason);
    model_agent_lost(session->agent, reason);
}

/* Puts an item into the array, and its descriptors (borrowed) to the numbers. */
static void put_item(struct emit *emit, const struct batch_item *item, int *numbers, size_t *n)
{
    char endpoint[ENDPOINT_SIZE];

    emit_open(emit, NULL);
    emit_string(emit, "endpoint", endpoint_format(item->endpoint, endpoint));
    emit_int(emit, "fileDescriptorIndex", (int64_t)*n);
    numbers[(*n)++] = item->fd;
    if (item->eventfd_id >= 0)
        emit_int(emit, "eventfdId", item->eventfd_id);
    if (item->resample >= 0) {
        emit_int(emit, "resampleFileDescriptorIndex", (int64_t)*n);
        numbers[(*n)++] = item->resample;
    }
    emit_close(emit);
}

static int put_items(struct session *session, const struct batch_item *items, size_t n)
{
    int numbers[FRAME_MAX_FDS + 1], r;
    struct fdset fds = FDSET_EMPTY;
    size_t n_numbers = 0;
    struct emit emit;

    varlink_call_begin(
        &emit, &session->out, session->op == OP_PLUG ? "io.evlink.Agent.Plug" : "io.evlink.Agent.Unplug");
    emit_open_array(&emit, "items");
    for (size_t i = 0; i < n; i++)
        put_item(&emit, &items[i], numbers, &n_numbers);
    emit_close_array(&emit);
    r = fdset_dup(&fds, numbers, n_numbers);
    if (r < 0) {
        frame_out_cancel(&session->out, emit.begin);
        return r;
    }
    return varlink_call_end(&emit, 0, &fds);
}

/* Has another look taken at it a little later. */
static int retry_later(struct session *session)
{
    const struct timeval retry = { .tv_usec = 50000 };

    return event_add(session->kick, &retry) < 0 ? -ENOMEM : 0;
}

static int send_out(struct session *session)
{
    int r;

    server_sync(session->server);
    r = socket_send(session->fd, &session->out);

    if (socket_is_short(r))
        r = retry_later(session);
    else if (r == -EAGAIN)
        r = event_add(session->writable, NULL) < 0 ? -ENOMEM : 0;
    else if (r == 0)
        (void)event_del(session->writable);
    return r;
}

/* Nothing of the call went out, for want of descriptors or memory on this side: that is what its items failed
 * with. */
static void refuse_items(struct session *session, int error)
{
    int errors[FRAME_MAX_FDS];

    for (size_t i = 0; i < session->n_items; i++)
        errors[i] = error;
    log_warning("cannot ask agent %s: %s", session->agent->name, strerror(error));
    (void)event_del(session->timeout);
    session->n_items = 0;
    session->unsent = 0;
    model_agent_results(session->agent, errors);
}

static int put_inventory(struct session *session)
{
    struct emit emit;
    int r;

    varlink_call_begin(&emit, &session->out, "io.evlink.Agent.Inventory");
    emit_int(&emit, "token", ++session->token);
    r = varlink_call_end(&emit, 0, NULL);
    session->asks_inventory = r >= 0;
    return r;
}

static int start_timeout(struct session *session)
{
    const struct timeval timeout = {
        .tv_sec = session->server->agent_timeout / USEC_PER_SEC,
        .tv_usec = session->server->agent_timeout % USEC_PER_SEC,
    };

    return event_add(session->timeout, &timeout) < 0 ? -ENOMEM : 0;
}

/* Before the loop runs: it goes out from there. */
static int ask_inventory(struct session *session)
{
    int r = put_inventory(session);

    if (r >= 0)
        r = start_timeout(session);
    session_kick(session);
    return r;
}

/* Makes a call of the next batch, or asks what is plugged where that is in doubt, unless a call is in flight.
 */
static void next_call(struct session *session)
{
    struct batch_item items[FRAME_MAX_FDS];
    int r;

    if ((session->n_items > 0 && !session->unsent) || session->asks_inventory)
        return;
    session->n_items = session->unsent
                           ? model_agent_again(session->agent, items)
                           : model_agent_next(session->agent, items, FRAME_MAX_FDS, CALL_BYTES, &session->op);
    session->unsent = 0;
    if (session->n_items > 0)
        r = put_items(session, items, session->n_items);
    else if (model_agent_doubts(session->agent))
        r = put_inventory(session);
    else
        return;
    if (r == -EMFILE || r == -ENFILE || r == -ENOMEM) {
        /* A Plug fails for it. What is to be unplugged is not to stay: within the time-out it is tried again.
         */
        if (session->op == OP_PLUG && session->n_items > 0) {
            refuse_items(session, -r);
            return;
        }
        session->unsent = -r;
        r = event_pending(session->timeout, EV_TIMEOUT, NULL) ? 0 : start_timeout(session);
        if (r >= 0)
            r = retry_later(session);
    } else {
        if (r >= 0)
            r = start_timeout(session);
        if (r >= 0)
            r = send_out(session);
    }
    if (r < 0)
        lose(session, strerror(-r));
}

void session_tell(struct session *session, const struct end *end, const struct news *news)
{
    char endpoint[ENDPOINT_SIZE];
    struct emit emit;

    /* One that does not read hears no more news. */
    if (!session || session->fd < 0 || frame_out_pending(&session->out) > TELL_BYTES)
        return;
    varlink_call_begin(&emit, &session->out, "io.evlink.Agent.Notify");
    emit_string(&emit, "type", notice_name(news->notice));
    emit_string(&emit, "endpoint", endpoint_format(&end->endpoint, endpoint));
    emit_string(&emit, "link", news->link);
    emit_string(&emit, "reason", news->reason);
    if (varlink_call_end(&emit, VARLINK_ONEWAY, NULL) >= 0)
        session_kick(session);
}

struct result {
    const char *endpoint, *name;
    struct opt_int number;
};

/* Takes the answer apart: errors[i] for each item. -EPROTO where it is none to the call in flight. */
static int read_results(struct session *session, struct frame *frame, int *errors)
{
    static const struct field results_fields[] = {
        { "results", FIELD_OBJECTS, 0, FIELD_REQUIRED },
        FIELDS_END,
    };
    static const struct field result_fields[] = {
        { "endpoint", FIELD_STRING, offsetof(struct result, endpoint), FIELD_REQUIRED },
        { "errno", FIELD_INT, offsetof(struct result, number), 0 },
        { "errnoName", FIELD_STRING, offsetof(struct result, name), 0 },
        FIELDS_END,
    };
    const struct value *results = NULL, *value;
    struct varlink_answer answer;
    const char *bad;
    size_t i = 0;
    int r;

    if (session->n_items == 0 || session->unsent)
        return -EPROTO;
    r = varlink_answer_read(frame->text, frame->length, &answer);
    if (r < 0)
        return r;
    if (answer.error || answer.continues ||
        fields_read(answer.parameters, results_fields, FIELDS_LENIENT, &results, &bad) < 0 ||
        value_size(results) != session->n_items) {
        r = -EPROTO;
        results = NULL;
    }
    VALUE_FOREACH(value, results)
    {
        struct result result = { 0 };

        if (fields_read(value, result_fields, FIELDS_LENIENT, &result, &bad) < 0 ||
            (result.number.set && (result.number.value < 0 || result.number.value > 4095)) ||
            !model_agent_asked(session->agent, i, result.endpoint)) {
            r = -EPROTO;
            break;
        }
        errors[i++] = (int)result.number.value;
    }
    varlink_answer_clear(&answer);
    return r;
}

struct inventory {
    const struct value *plugged;
    struct opt_int token;
};

struct plugged_in {
    const char *endpoint;
    struct opt_int id;
};

/* Takes Inventory's answer apart: *ret_plugged is the caller's to free. What is no endpoint is no end of
 * ours. */
static int read_inventory(
    struct session *session, const struct value *parameters, struct plugged **ret_plugged, size_t *ret_n)
{
    static const struct field inventory_fields[] = {
        { "plugged", FIELD_OBJECTS, offsetof(struct inventory, plugged), FIELD_REQUIRED },
        { "token", FIELD_INT, offsetof(struct inventory, token), 0 },
        FIELDS_END,
    };
    static const struct field plugged_fields[] = {
        { "endpoint", FIELD_STRING, offsetof(struct plugged_in, endpoint), FIELD_REQUIRED },
        { "eventfdId", FIELD_INT, offsetof(struct plugged_in, id), 0 },
        FIELDS_END,
    };
    CLEANUP(freep) struct plugged *plugged = NULL;
    struct inventory inventory = { 0 };
    const struct value *value;
    const char *bad;
    size_t n = 0;

    if (fields_read(parameters, inventory_fields, FIELDS_LENIENT, &inventory, &bad) < 0 ||
        !inventory.token.set || inventory.token.value != session->token)
        return -EPROTO;
    plugged = calloc(value_size(inventory.plugged) + 1, sizeof(*plugged));
    if (!plugged)
        return -ENOMEM;
    VALUE_FOREACH(value, inventory.plugged)
    {
        struct plugged_in in = { 0 };

        if (fields_read(value, plugged_fields, FIELDS_LENIENT, &in, &bad) < 0)
            return -EPROTO;
        if (endpoint_parse(in.endpoint, &plugged[n].endpoint, &bad) < 0)
            continue;
        plugged[n++].eventfd_id = in.id.set ? in.id.value : -1;
    }
    *ret_plugged = TAKE(plugged);
    *ret_n = n;
    return 0;
}

static int take_inventory(struct session *session, struct frame *frame)
{
    CLEANUP(freep) struct plugged *plugged = NULL;
    struct varlink_answer answer;
    size_t n = 0;
    int r;

    r = varlink_answer_read(frame->text, frame->length, &answer);
    if (r < 0)
        return r;
    r = answer.error || answer.continues ? -EPROTO : read_inventory(session, answer.parameters, &plugged, &n);
    varlink_answer_clear(&answer);
    if (r < 0)
        return r;
    (void)event_del(session->timeout);
    session->asks_inventory = session->strange = false;
    session_kick(session);
    model_agent_inventory(session->agent, plugged, n);
    return 0;
}

static int take_results(struct session *session, struct frame *frame)
{
    int errors[FRAME_MAX_FDS], r;

    r = read_results(session, frame, errors);
    if (r < 0)
        return r;
    (void)event_del(session->timeout);
    session->n_items = 0;
    /* Kicked first: the model may forget the agent, and with it the session. */
    session_kick(session);
    model_agent_results(session->agent, errors);
    return 0;
}

/* One frame of the agent's. Returns whether it was passed over; if not, the session may be freed by now. */
static bool take_frame(struct session *session, struct frame *frame)
{
    int r = -EPROTO;

    (void)reserve_fill();
    fdset_clear(&frame->fds); /* none is expected, none is kept */
    /* After a restart, all but the answer to this start's Inventory was meant for another. */
    if (session->strange)
        return take_inventory(session, frame) < 0;
    /* One call, one answer: what stands behind it was not asked for. */
    if (frame_in_idle(&session->in))
        r = session->asks_inventory ? take_inventory(session, frame) : take_results(session, frame);
    if (r < 0)
        lose(session, r == -ENOMEM ? "out of memory" : "its answer makes no sense");
    return false;
}

/* Descriptors come from nobody who is honest; they are closed, while they can be. */
static int admit(void *userdata)
{
    struct session *session = userdata;
    struct culprit whose = policy_culprit(&session->owner);

    if (discard_is_stuck(&whose) || discard_is_behind(&whose) || !table_has_room())
        return -EDQUOT;
    table_open();
    return 0;
}

static int receive(struct session *session)
{
    int r = charge(session, frame_in_needs(&session->in));
    struct culprit whose;

    if (r < 0)
        return r;
    whose = discard_for(policy_culprit(&session->owner));
    r = socket_receive_if(session->fd, &session->in, admit, session);
    table_close();
    for (size_t i = 0; i < session->in.fds.n; i++)
        (void)table_is_last(session->in.fds.fds[i]);
    fdset_clear(&session->in.fds);
    (void)discard_for(whose);
    return r;
}

static void on_readable(evutil_socket_t fd, short what, void *userdata)
{
    struct session *session = userdata;
    struct server *server = session->server;
    struct frame frame;
    int r;

    (void)fd;
    (void)what;
    r = receive(session);
    if (socket_is_short(r)) {
        (void)event_del(session->readable);
        r = retry_later(session);
        if (r < 0)
            lose(session, strerror(-r));
    } else if (r == -EAGAIN && !session->dry) {
        session->dry = true;
    } else if (r <= 0) {
        lose(session, r == 0 ? "it closed its socket" : strerror(-r));
    } else {
        session->dry = false;
        while (frame_in_next(&session->in, &frame) > 0 && take_frame(session, &frame))
            ;
    }
    server_arm(server);
}

static void on_writable(evutil_socket_t fd, short what, void *userdata)
{
    struct session *session = userdata;
    struct server *server = session->server;
    int r;

    (void)fd;
    (void)what;
    r = send_out(session);
    if (r < 0)
        lose(session, strerror(-r));
    server_arm(server);
}

static void on_kick(evutil_socket_t fd, short what, void *userdata)
{
    struct session *session = userdata;
    struct server *server = session->server;
    int r;

    (void)fd;
    (void)what;
    r = event_add(session->readable, NULL) < 0 ? -ENOMEM : 0;
    if (r == 0 && frame_out_pending(&session->out) > 0)
        r = send_out(session);
    if (r < 0)
        lose(session, strerror(-r));
    else
        next_call(session);
    server_arm(server);
}

static void on_timeout(evutil_socket_t fd, short what, void *userdata)
{
    struct session *session = userdata;
    struct server *server = session->server;

    (void)fd;
    (void)what;
    if (session->unsent && session->n_items > 0) {
        refuse_items(session, session->unsent);
    } else {
        log_warning("agent %s does not answer", session->agent->name);
        model_agent_late(session->agent);
    }
    server_arm(server);
}

static void on_death(evutil_socket_t fd, short what, void *userdata)
{
    struct session *session = userdata;
    struct server *server = session->server;

    (void)fd;
    (void)what;
    if (session->fd >= 0)
        log_info("agent %s is lost: its process is dead", session->agent->name);
    (void)event_del(session->death);
    model_agent_dead(session->agent);
    server_arm(server);
}

/* fd, pidfd: consumed, -1 for none. */
static int make(
    struct server *server, const struct peer *peer, int fd, int pidfd, struct session **ret_session)
{
    struct session *session = calloc(1, sizeof(*session));

    if (!session) {
        fd_discard(fd);
        fd_close(pidfd);
        return -ENOMEM;
    }
    session->server = server;
    session->owner = policy_owner(peer);
    session->fd = fd;
    session->pidfd = pidfd;
    session->in.limit = FRAME_REPLY_MAX; /* an agent's inventory may be long */
    LIST_INSERT_HEAD(&server->sessions, session, in_server);
    if (fd >= 0) {
        socket_take_in_order(fd);
        session->readable = event_new(server->base, fd, EV_READ | EV_PERSIST, on_readable, session);
        session->writable = event_new(server->base, fd, EV_WRITE | EV_PERSIST, on_writable, session);
        session->timeout = evtimer_new(server->base, on_timeout, session);
        session->kick = event_new(server->base, -1, 0, on_kick, session);
    }
    if (pidfd >= 0)
        session->death = event_new(server->base, pidfd, EV_READ | EV_PERSIST, on_death, session);
    if ((fd >= 0 && (!session->readable || !session->writable || !session->timeout || !session->kick)) ||
        (pidfd >= 0 && !session->death) || (fd >= 0 && event_add(session->readable, NULL) < 0) ||
        (session->death && event_add(session->death, NULL) < 0)) {
        session_free(session);
        return -ENOMEM;
    }
    *ret_session = session;
    return 0;
}

int session_new(
    struct server *server, const struct peer *peer, int fd, int pidfd, struct session **ret_session)
{
    struct session *session;
    int r;

    r = make(server, peer, fd, pidfd, &session);
    if (r < 0)
        return r;
    if (server->vault)
        r = vault_keep_fd(server->vault, session->fd, &session->socket_item);
    if (r == 0 && server->vault && session->pidfd >= 0)
        r = vault_keep_fd(server->vault, session->pidfd, &session->pidfd_item);
    if (r < 0) {
        session_free(session);
        return r;
    }
    *ret_session = session;
    return 0;
}

int session_restore(
    struct server *server, struct agent *agent, int fd, struct item *socket, int pidfd, struct item *process)
{
    struct session *session;
    int r;

    r = make(server, &agent->owner, fd, pidfd, &session);
    if (r < 0)
        return r;
    session->socket_item = socket;
    session->pidfd_item = process;
    session->agent = agent;
    agent->session = session;
    if (fd < 0)
        return 0;
    /* No earlier process had this token. */
    session->token = clock_epoch();
    session->strange = session->asks_inventory = true;
    r = ask_inventory(session);
    if (r < 0)
        log_error("cannot ask agent %s what it has plugged: %s", agent->name, strerror(-r));
    return r;
}

void session_bind(struct session *session, struct agent *agent)
{
    session->agent = agent;
    agent->socket = session->socket_item ? item_number(session->socket_item) : 0;
    agent->pidfd = session->pidfd_item ? item_number(session->pidfd_item) : 0;
}

void session_free(struct session *session)
{
    if (!session)
        return;
    session_close(session);
    if (session->death)
        event_free(session->death);
    close_kept(session, &session->pidfd, &session->pidfd_item);
    LIST_REMOVE(session, in_server);
    policy_disown(&session->owner);
    free(session);
}

void session_kick(struct session *session)
{
    if (session && session->kick)
        event_active(session->kick, EV_TIMEOUT, 0);
}

void session_check(struct session *session)
{
    struct pollfd poll_fd = { .fd = session->fd, .events = 0 };

    if (session->fd >= 0 && poll(&poll_fd, 1, 0) > 0 && poll_fd.revents & (POLLHUP | POLLERR))
        lose(session, "it closed its socket");
}
