/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent's end of its socket: see session.h. */
#include "lib/session.h"
#include "base/cleanup.h"
#include "wire/fields.h"
#include "wire/socket.h"
#include "wire/varlink.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

int evl_session_open(struct evl_session *session, int epoll, int fd, uint32_t tag)
{
    struct epoll_event event = { .events = EPOLLIN, .data.u32 = tag };

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        int r = -errno;

        fd_close(fd);
        return r;
    }
    *session = (struct evl_session){ .fd = fd, .epoll = epoll, .tag = tag, .armed = EPOLLIN };
    return 0;
}

void evl_session_close(struct evl_session *session)
{
    if (session->fd < 0)
        return;
    /* A forked child may have the socket as well, and then close() alone would leave it in the set. */
    (void)epoll_ctl(session->epoll, EPOLL_CTL_DEL, session->fd, NULL);
    session->fd = fd_close(session->fd);
    frame_in_clear(&session->in);
    frame_out_clear(&session->out);
}

/* Has epoll report the socket for these events. */
static int arm(struct evl_session *session, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.u32 = session->tag };

    if (session->armed == events)
        return 0;
    if (epoll_ctl(session->epoll, EPOLL_CTL_MOD, session->fd, &event) < 0)
        return -errno;
    session->armed = events;
    return 0;
}

struct request {
    struct evl_session *session;
    struct evl_plugs *plugs;
    struct varlink_request call;
    struct frame frame;
    struct emit reply;
};

/* The reply, or an error: what is emitted in between are its parameters. One to a oneway call is dropped. */
static struct emit *begin(struct request *request, const char *error)
{
    varlink_reply_begin(&request->reply, &request->session->out, error);
    return &request->reply;
}

static int end(struct request *request)
{
    if (!request->call.oneway)
        return varlink_reply_end(&request->reply, false, NULL);
    frame_out_cancel(request->reply.out, request->reply.begin);
    return 0;
}

static int refuse(struct request *request, const char *error, const char *key, const char *value)
{
    emit_string(begin(request, error), key, value);
    return end(request);
}

static int refuse_parameter(struct request *request, const char *name)
{
    return refuse(request, "org.varlink.service.InvalidParameter", "parameter", name);
}

/* ---- Plug and Unplug ---- */

struct item_in {
    const char *endpoint;
    struct opt_int index, resample_index, eventfd_id;
};

/* Newer brokers may say more of an item: what an agent does not know it passes over. */
static const struct field item_fields[] = {
    { "endpoint", FIELD_STRING, offsetof(struct item_in, endpoint), FIELD_REQUIRED },
    { "fileDescriptorIndex", FIELD_INT, offsetof(struct item_in, index), FIELD_REQUIRED },
    { "resampleFileDescriptorIndex", FIELD_INT, offsetof(struct item_in, resample_index), 0 },
    { "eventfdId", FIELD_INT, offsetof(struct item_in, eventfd_id), 0 },
    FIELDS_END,
};

/* The descriptor at index: borrowed. -EMFILE, -ENOMEM where it was lost on its way, -EBADF. */
static int find_fd(const struct frame *frame, int64_t index)
{
    int fd = index >= 0 ? fdset_get(&frame->fds, (size_t)index) : -1;

    if (fd >= 0)
        return fd;
    return index >= 0 && frame->fds_lost ? frame->fds_lost : -EBADF;
}

typedef void (*items_function)(struct evl_plugs *plugs, const struct evl_item *items, size_t n, int *errors);

static struct evl_item make_item(const struct frame *frame, const struct item_in *in)
{
    struct evl_item item = {
        .endpoint = in->endpoint,
        .eventfd_id = in->eventfd_id.set ? in->eventfd_id.value : -1,
        .fd = find_fd(frame, in->index.value),
        .resample_fd = -1,
    };

    if (item.fd >= 0 && in->resample_index.set) {
        item.resample_fd = find_fd(frame, in->resample_index.value);
        if (item.resample_fd < 0)
            item.fd = item.resample_fd;
    }
    return item;
}

static void put_result(struct emit *emit, const char *endpoint, int r)
{
    emit_open(emit, NULL);
    emit_string(emit, "endpoint", endpoint);
    if (r < 0) {
        const char *name = strerrorname_np(-r);

        emit_int(emit, "errno", -r);
        emit_string(emit, "errnoName", name ? name : "?");
    }
    emit_close(emit);
}

static int on_items(struct request *request, items_function function)
{
    static const struct field fields[] = {
        { "items", FIELD_OBJECTS, 0, FIELD_REQUIRED },
        FIELDS_END,
    };
    CLEANUP(freep) struct evl_item *items = NULL;
    CLEANUP(freep) int *errors = NULL;
    const struct value *array = NULL, *value;
    struct emit *emit;
    const char *bad;
    size_t i = 0, n;

    if (fields_read(request->call.parameters, fields, FIELDS_STRICT, &array, &bad) < 0)
        return refuse_parameter(request, bad);
    n = value_size(array);
    items = calloc(n + 1, sizeof(*items));
    errors = calloc(n + 1, sizeof(*errors));
    if (!items || !errors)
        return -ENOMEM;
    /* All are looked at before any is plugged: a call that is refused has done nothing. */
    VALUE_FOREACH(value, array)
    {
        struct item_in in = { .endpoint = NULL };

        if (fields_read(value, item_fields, FIELDS_LENIENT, &in, &bad) < 0)
            return refuse_parameter(request, bad);
        items[i++] = make_item(&request->frame, &in);
    }
    function(request->plugs, items, n, errors);
    emit = begin(request, NULL);
    emit_open_array(emit, "results");
    for (i = 0; i < n; i++)
        put_result(emit, items[i].endpoint, errors[i]);
    emit_close_array(emit);
    return end(request);
}

static int on_plug(struct request *request)
{
    return on_items(request, evl_plugs_plug);
}

static int on_unplug(struct request *request)
{
    return on_items(request, evl_plugs_unplug);
}

/* ---- Inventory ---- */

static int on_inventory(struct request *request)
{
    static const struct field fields[] = {
        { "token", FIELD_INT, 0, 0 },
        FIELDS_END,
    };
    struct opt_int token = { 0 };
    const char *bad, *endpoint;
    struct emit *emit;
    int64_t id;

    if (fields_read(request->call.parameters, fields, FIELDS_STRICT, &token, &bad) < 0)
        return refuse_parameter(request, bad);
    emit = begin(request, NULL);
    emit_open_array(emit, "plugged");
    for (size_t i = 0; evl_plugs_at(request->plugs, i, &endpoint, &id); i++) {
        emit_open(emit, NULL);
        emit_string(emit, "endpoint", endpoint);
        emit_int(emit, "eventfdId", id);
        emit_close(emit);
    }
    emit_close_array(emit);
    if (token.set)
        emit_int(emit, "token", token.value);
    return end(request);
}

/* ---- Notify ---- */

struct notify_in {
    const char *type, *endpoint, *link, *reason;
};

static int on_notify(struct request *request)
{
    static const struct field fields[] = {
        { "type", FIELD_STRING, offsetof(struct notify_in, type), FIELD_REQUIRED },
        { "endpoint", FIELD_STRING, offsetof(struct notify_in, endpoint), FIELD_REQUIRED },
        { "link", FIELD_STRING, offsetof(struct notify_in, link), FIELD_REQUIRED },
        { "reason", FIELD_STRING, offsetof(struct notify_in, reason), 0 },
        FIELDS_END,
    };
    struct notify_in in = { .type = NULL };
    const char *bad;

    if (fields_read(request->call.parameters, fields, FIELDS_STRICT, &in, &bad) < 0)
        return refuse_parameter(request, bad);
    evl_plugs_notify(request->plugs, in.type, in.endpoint, in.link, in.reason);
    (void)begin(request, NULL);
    return end(request);
}

/* ---- All of them ---- */

static const struct method {
    const char *name;
    int (*handle)(struct request *request);
} methods[] = {
    { "io.evlink.Agent.Plug", on_plug },
    { "io.evlink.Agent.Unplug", on_unplug },
    { "io.evlink.Agent.Inventory", on_inventory },
    { "io.evlink.Agent.Notify", on_notify },
};

static int dispatch(struct request *request)
{
    for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
        if (strcmp(methods[i].name, request->call.method) == 0)
            return methods[i].handle(request);
    return refuse(request, "org.varlink.service.MethodNotFound", "method", request->call.method);
}

/* frame: its descriptors are consumed. */
static int handle_frame(struct evl_session *session, struct evl_plugs *plugs, struct frame *frame)
{
    struct request request = { .session = session, .plugs = plugs, .frame = *frame };
    int r;

    r = varlink_request_read(frame->text, frame->length, &request.call);
    if (r == 0) {
        r = dispatch(&request);
        varlink_request_clear(&request.call);
    }
    fdset_clear(&request.frame.fds);
    /* The broker's call, or what it makes of the answer, is longer than any broker sends. */
    return r == -EBADMSG || r == -EMSGSIZE ? -EPROTO : r;
}

int evl_session_process(struct evl_session *session, struct evl_plugs *plugs, const atomic_bool *stop)
{
    bool served = false;

    for (;;) {
        struct frame frame;
        int r;

        r = socket_send(session->fd, &session->out);
        if (r == -EAGAIN)
            return arm(session, EPOLLOUT);
        if (r < 0)
            return r == -EPIPE ? -ECONNRESET : r;
        if (frame_in_next(&session->in, &frame) > 0) {
            r = handle_frame(session, plugs, &frame);
            if (r < 0)
                return r;
            served = true;
            continue;
        }
        r = arm(session, EPOLLIN);
        /* Not before: epoll would not report what is here already. */
        if (r < 0 || (stop && atomic_load(stop)))
            return r;
        /* Our own loop hears of more, if there is any: mostly there is not, and no need to look. */
        if (stop && served)
            return 0;
        r = socket_receive(session->fd, &session->in);
        if (r == -EAGAIN)
            return 0;
        if (r == -EMSGSIZE)
            return -EPROTO;
        if (r <= 0)
            return r == 0 ? -ECONNRESET : r;
    }
}
