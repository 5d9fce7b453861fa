/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libevlink under a hostile broker: an agent and the client that attached it, in this process, which is also
 * the broker, the kernel that the agent plugs into, and the VMM. The first byte says what the agent is (bit
 * 0: EVLINK_AGENT_KEEP; bit 1: its client has a timeout); the rest is steps, up to a NUL each:
 *
 *   < [DESCRIPTORS]{CALL}     the broker calls the agent
 *
 *   = [DESCRIPTORS]{REPLY}    the broker has answered the client's next call already
 *
 *   ~ [DESCRIPTORS]{REPLY}    it answers when the client waits for it
 *
 *   ? C TEXT                  the client calls, by a letter: see call(); with this text
 *
 *   x                         the broker closes the agent's socket; and it is attached again
 *
 *   r KIND NUMBER             what the VMM's resolve() says from now on
 *
 *   e ERRNO                   what kernel and VMM say to the next plug or unplug
 *
 *   m ENDPOINT, u ENDPOINT    the VMM masks, unmasks
 *
 *   ! N                       of what can fail in the library (fail.h), the Nth does
 *
 *   f                         this process has no descriptor free when the next call comes
 *
 * Descriptors are letters: e a new eventfd, s a semaphore, E the same eventfd each time, n /dev/null, a the
 * agent's end of a new socket pair; _ leaves away the NUL that ends the frame. A '+' in front of a call has
 * the agent not look at it yet.
 *
 * What must hold: each call that makes sense is answered, once and in order, the others end the session; no
 * descriptor is left open; what the agent says that it has plugged is what the kernel and the VMM have; a
 * client's call returns a result that there is, with a message, and what it hands out is good.
 */
#include "base/cleanup.h"
#include "base/eventfd.h"
#include "base/fd.h"
#include "endpoint/endpoint.h"
#include "fail.h"
#include "fuzz.h"
#include "lib/evlink.h"
#include "tests/json.h"
#include "wire/fields.h"
#include "wire/socket.h"
#include "wire/varlink.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STEPS_MAX 64
#define PLUGS_MAX 512
#define VECTORS 32
#define RINGS 4

/* What is plugged into the VM: an irqfd, or an ioeventfd. */
struct kvm_plug {
    bool irqfd;
    int64_t id;
    uint64_t at, value;
    unsigned length, flags;
};

static struct {
    struct evlink_client *client;
    struct evlink_agent *agent;
    int client_end, agent_end; /* the broker's; -1: closed */
    int next_end;              /* the other one of a socket pair that is on its way; -1: none */
    bool keep, timeout;
    bool in_call, called_since; /* the client's calls serve the agent too */
    struct frame_in called;     /* what the client has sent */
    struct frame_out late;      /* answers that wait */
    struct frame_out calls;     /* to the agent, not looked at yet; without descriptors */
    bool torn;                  /* what was sent is not whole frames, or what came of it is not known */
    size_t kept;                /* descriptors that the agent has of what it plugged */
    int64_t clock;              /* nanoseconds that have passed in poll() */
    int shared;
    bool no_room;

    enum evlink_plug_kind resolved;
    uint64_t number;
    int refuses; /* errno; 0: it does not */

    /* The kernel's, and the VMM's. */
    int vm, vfio, vhost;
    struct kvm_plug kvm[PLUGS_MAX];
    size_t n_kvm;
    bool enabled[VFIO_PCI_NUM_IRQS];
    bool triggers[VFIO_PCI_NUM_IRQS][VECTORS];
    bool rings[RINGS][3];
    size_t n_own;
    bool lied;   /* the broker said what is not so: nothing hangs together any more */
    bool masked; /* something was */
} world;

/* ---- The kernel ---- */

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);
int __real_poll(struct pollfd *polls, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *polls, nfds_t n, int timeout);
int __real_clock_gettime(clockid_t clock, struct timespec *time);
int __wrap_clock_gettime(clockid_t clock, struct timespec *time);

static int refuse(void)
{
    int r = -world.refuses;

    world.refuses = 0;
    return r;
}

/* -1 for what is no eventfd. */
static int64_t id_of(int fd)
{
    struct eventfd_info info;

    return fd >= 0 && eventfd_info(fd, &info) == 0 ? info.id : -1;
}

static int kvm_change(const struct kvm_plug *plug, bool assign)
{
    size_t i = 0;

    if (plug->id < 0)
        return -EINVAL;
    for (; i < world.n_kvm; i++) {
        const struct kvm_plug *other = &world.kvm[i];

        if (other->irqfd == plug->irqfd && other->id == plug->id &&
            (plug->irqfd ? assign || other->at == plug->at : memcmp(other, plug, sizeof(*plug)) == 0))
            break;
    }
    if (assign && i < world.n_kvm)
        return plug->irqfd ? -EBUSY : -EEXIST;
    if (assign) {
        MUST(i < PLUGS_MAX);
        world.kvm[world.n_kvm++] = *plug;
    } else if (i < world.n_kvm) {
        world.kvm[i] = world.kvm[--world.n_kvm];
    } else if (!plug->irqfd) {
        return -ENOENT;
    }
    return 0;
}

static int kvm_irqfd(const struct kvm_irqfd *irqfd)
{
    struct kvm_plug plug;

    memset(&plug, 0, sizeof(plug));
    plug.irqfd = true;
    plug.id = id_of((int)irqfd->fd);
    plug.at = irqfd->gsi;
    if (irqfd->flags & KVM_IRQFD_FLAG_RESAMPLE && id_of((int)irqfd->resamplefd) < 0)
        return -EINVAL;
    return kvm_change(&plug, !(irqfd->flags & KVM_IRQFD_FLAG_DEASSIGN));
}

static int kvm_ioeventfd(const struct kvm_ioeventfd *ioeventfd)
{
    struct kvm_plug plug;

    memset(&plug, 0, sizeof(plug));
    plug.id = id_of(ioeventfd->fd);
    plug.at = ioeventfd->addr;
    plug.length = ioeventfd->len;
    plug.value = ioeventfd->datamatch;
    plug.flags = ioeventfd->flags & ~(unsigned)KVM_IOEVENTFD_FLAG_DEASSIGN;
    return kvm_change(&plug, !(ioeventfd->flags & KVM_IOEVENTFD_FLAG_DEASSIGN));
}

static unsigned vectors_of(unsigned index)
{
    static const unsigned counts[VFIO_PCI_NUM_IRQS] = { 1, 4, VECTORS, 1, 1 };

    return index < VFIO_PCI_NUM_IRQS ? counts[index] : 0;
}

static int vfio_set_irqs(const struct vfio_irq_set *set)
{
    const int32_t *fds = (const int32_t *)set->data;
    bool *triggers;

    if (set->start + set->count > vectors_of(set->index))
        return -EINVAL;
    triggers = world.triggers[set->index];
    if (set->flags & VFIO_IRQ_SET_DATA_BOOL)
        return world.enabled[set->index] ? 0 : -EINVAL;
    if (set->flags & VFIO_IRQ_SET_ACTION_UNMASK)
        return id_of(fds[0]) < 0 ? -EINVAL : refuse();
    if (set->count == 0) {
        memset(triggers, 0, sizeof(world.triggers[0]));
        world.enabled[set->index] = false;
        return 0;
    }
    for (unsigned i = 0; i <= VFIO_PCI_MSIX_IRQ_INDEX && set->index <= VFIO_PCI_MSIX_IRQ_INDEX; i++)
        if (i != set->index && world.enabled[i])
            return -EINVAL;
    for (unsigned i = 0; i < set->count; i++)
        if (fds[i] != -1 && id_of(fds[i]) < 0) {
            memset(triggers + set->start, 0, set->count * sizeof(bool));
            return -EINVAL;
        }
    /* Taken away one by one, they are taken away; else none of them is set. */
    if (world.refuses && (set->count > 1 || fds[0] != -1)) {
        memset(triggers + set->start, 0, set->count * sizeof(bool));
        return refuse();
    }
    world.enabled[set->index] = true;
    for (unsigned i = 0; i < set->count; i++)
        triggers[set->start + i] = fds[i] != -1;
    return 0;
}

static int vfio(unsigned long request, void *argument)
{
    struct vfio_device_info *device = argument;
    struct vfio_irq_info *irqs = argument;

    switch (request) {
    case VFIO_DEVICE_GET_INFO:
        device->flags = VFIO_DEVICE_FLAGS_PCI;
        return 0;
    case VFIO_DEVICE_GET_IRQ_INFO:
        irqs->count = vectors_of(irqs->index);
        irqs->flags = VFIO_IRQ_INFO_EVENTFD;
        return 0;
    default:
        return vfio_set_irqs(argument);
    }
}

static int vhost(unsigned long request, void *argument)
{
    const struct vhost_vring_file *file = argument;

    if (request == VHOST_GET_FEATURES)
        return 0;
    if (file->index >= RINGS)
        return -ENOBUFS;
    if (file->fd != -1 && id_of(file->fd) < 0)
        return -EINVAL;
    if (world.refuses)
        return refuse();
    world.rings[file->index][request == VHOST_SET_VRING_CALL   ? 0
                             : request == VHOST_SET_VRING_KICK ? 1
                                                               : 2] = file->fd != -1;
    return 0;
}

int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
    int r;

    if (fd == world.vm)
        r = request == KVM_CHECK_EXTENSION ? 1
            : world.refuses                ? refuse()
            : request == KVM_IRQFD         ? kvm_irqfd(argument)
                                           : kvm_ioeventfd(argument);
    else if (fd == world.vfio)
        r = vfio(request, argument);
    else if (fd == world.vhost)
        r = vhost(request, argument);
    else
        return __real_ioctl(fd, request, argument);
    if (r >= 0)
        return r;
    errno = -r;
    return -1;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *time)
{
    int r = __real_clock_gettime(clock, time);

    time->tv_sec += world.clock / 1000000000;
    return r;
}

static void take_calls(void);

/* The client waits: for nothing that does not come at once, since the broker is here. */
int __wrap_poll(struct pollfd *polls, nfds_t n, int timeout)
{
    int r = __real_poll(polls, n, 0);

    if (r != 0 || timeout == 0)
        return r;
    take_calls();
    if (frame_out_pending(&world.late) > 0)
        (void)socket_send(world.client_end, &world.late);
    r = __real_poll(polls, n, 0);
    if (r == 0 && timeout > 0)
        world.clock += INT64_C(3600000000000);
    else if (r == 0)
        (void)shutdown(world.client_end, SHUT_WR);
    return r > 0 || timeout > 0 ? r : __real_poll(polls, n, 0);
}

/* ---- The VMM ---- */

/* Nothing of the library waits for itself. */
static void on_callback(void)
{
    MUST(evlink_agent_dispatch(world.agent) == -EDEADLK);
    if (world.in_call)
        MUST(evlink_release(world.client, "a") == -EDEADLK);
}

static int on_plug(void *userdata, const struct evlink_plug *plug)
{
    int r = refuse();

    (void)userdata;
    on_callback();
    MUST(strcmp(plug->subsystem, "own") == 0 && plug->fd >= 0 && plug->level == (plug->resample_fd >= 0));
    world.n_own += r == 0;
    return r;
}

static int on_unplug(void *userdata, const struct evlink_plug *plug)
{
    int r = refuse();

    (void)userdata;
    on_callback();
    MUST(strcmp(plug->subsystem, "own") == 0 && plug->fd >= 0);
    world.n_own -= r == 0 && world.n_own > 0;
    return r;
}

static int on_resolve(void *userdata, struct evlink_plug *plug)
{
    (void)userdata;
    on_callback();
    MUST(plug->device && (plug->kind == EVLINK_PLUG_IRQ || plug->kind == EVLINK_PLUG_NOTIFY));
    plug->kind = world.resolved;
    plug->number = world.number;
    plug->length = 2;
    return refuse();
}

static void on_notify(
    void *userdata, const char *type, const char *endpoint, const char *link, const char *reason)
{
    (void)userdata;
    on_callback();
    MUST(type && endpoint && link);
    (void)reason;
}

/* ---- The broker ---- */

static int make_fd(char letter)
{
    int pair[2];

    switch (letter) {
    case 'e':
        return eventfd(0, EFD_CLOEXEC);
    case 's':
        return eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    case 'E':
        return fd_dup(world.shared);
    case 'n':
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    case 'a':
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
        fd_close(world.next_end);
        world.next_end = pair[0];
        return pair[1];
    default:
        return -1;
    }
}

/* A frame out of a step, behind what is in out already. Returns whether it is whole. */
static bool make_frame(struct frame_out *out, const char *text, struct fdset *ret_fds)
{
    const char *json = strchr(text, '{');
    size_t begin = frame_out_mark(out), n = 0;
    int fds[8];
    bool whole = true;

    if (!json)
        json = text + strlen(text);
    for (; text < json; text++) {
        int fd = n < ARRAY_SIZE(fds) ? make_fd(*text) : -1;

        if (fd >= 0)
            fds[n++] = fd;
        whole &= *text != '_';
    }
    MUST(fdset_adopt(ret_fds, fds, n) == 0);
    MUST(frame_out_add(out, json, strlen(json)) == 0);
    if (whole)
        MUST(frame_out_finish(out, begin, ret_fds) == 0);
    else
        fdset_clear(ret_fds);
    return whole;
}

static void answer(struct frame_out *out, const char *text)
{
    struct fdset fds = FDSET_EMPTY;

    (void)make_frame(out, text, &fds);
    if (out != &world.late)
        (void)socket_send(world.client_end, out);
}

/* What the client has called is a call. */
static void take_calls(void)
{
    struct frame frame;

    fail_pause(true);
    while (socket_receive(world.client_end, &world.called) > 0)
        while (frame_in_next(&world.called, &frame) > 0) {
            struct json_call call;

            MUST(json_call_parse(frame.text, frame.length, &call) == 0);
            json_call_clear(&call);
            fdset_clear(&frame.fds);
        }
    fail_pause(false);
}

static void close_client(void)
{
    world.client = evlink_client_free(world.client);
    world.client_end = fd_close(world.client_end);
    frame_out_clear(&world.late);
    frame_in_clear(&world.called);
}

/* A new connection, where the one there was is of no more use. */
static void open_client(void)
{
    int pair[2];

    if (world.client)
        close_client();
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    world.client_end = pair[0];
    MUST(evlink_client_open_fd(pair[1], &world.client) == 0);
    if (world.timeout)
        evlink_client_set_timeout(world.client, 1000);
}

static void attach(void)
{
    struct frame_out out = { 0 };

    open_client();
    answer(&out, "a{\"parameters\":{\"fileDescriptorIndex\":0}}");
    frame_out_clear(&out);
    MUST(evlink_agent_attach(world.agent, world.client) == 0);
    take_calls();
    fd_close(world.agent_end);
    world.agent_end = TAKE_FD(world.next_end);
    frame_out_clear(&world.calls);
    world.torn = false;
}

/* ---- What the agent makes of it ---- */

static size_t count_kernel(enum subsystem kind)
{
    size_t n = 0;

    if (kind == SUBSYSTEM_KVM)
        return world.n_kvm;
    for (size_t i = 0; kind == SUBSYSTEM_VFIO && i < VFIO_PCI_NUM_IRQS; i++)
        for (size_t k = 0; k < VECTORS; k++)
            n += world.triggers[i][k];
    for (size_t i = 0; kind == SUBSYSTEM_VHOST && i < RINGS; i++)
        for (size_t k = 0; k < 3; k++)
            n += world.rings[i][k];
    return n;
}

/* An Inventory; NULL where the agent is not there. */
static json_t *inventory(void)
{
    static const char call[] = "{\"method\":\"io.evlink.Agent.Inventory\",\"parameters\":{\"token\":7}}";
    struct frame_in in = { .limit = FRAME_REPLY_MAX };
    struct json_reply reply;
    struct frame frame;
    json_t *plugged;

    MUST(send(world.agent_end, call, sizeof(call), MSG_NOSIGNAL) == (ssize_t)sizeof(call));
    MUST(evlink_agent_dispatch(world.agent) == 0);
    while (frame_in_next(&in, &frame) == 0)
        MUST(socket_receive(world.agent_end, &in) > 0);
    MUST(json_reply_parse(frame.text, frame.length, &reply) == 0 && !reply.error);
    MUST(json_integer_value(json_object_get(reply.parameters, "token")) == 7);
    plugged = json_incref(json_object_get(reply.parameters, "plugged"));
    MUST(json_is_array(plugged));
    json_reply_clear(&reply);
    frame_in_clear(&in);
    return plugged;
}

/* How many descriptors the agent keeps for what it has plugged; it is what is plugged. */
static size_t check_plugged(void)
{
    size_t found[SUBSYSTEM_VHOST + 1] = { 0 }, own = 0, kept = 0, i;
    json_t *plugged = inventory(), *item;

    json_array_foreach (plugged, i, item) {
        struct endpoint endpoint;
        const char *reason;

        MUST(endpoint_parse(json_string_value(json_object_get(item, "endpoint")), &endpoint, &reason) == 0);
        MUST(json_is_integer(json_object_get(item, "eventfdId")));
        if (strcmp(endpoint_name(&endpoint), "own") == 0)
            own++;
        else
            found[endpoint_subsystem(&endpoint)]++;
        kept += endpoint_is_level(&endpoint) ? 2 : 1;
    }
    json_decref(plugged);
    if (!world.lied) {
        MUST(own == world.n_own);
        for (enum subsystem kind = SUBSYSTEM_KVM; kind <= SUBSYSTEM_VHOST; kind++)
            MUST(found[kind] == count_kernel(kind) || (world.masked && kind == SUBSYSTEM_KVM));
    }
    return world.keep ? kept : 0;
}

/* Whether what an honest broker would not say is in a call: another eventfd than the one that it sends, or an
 * Unplug of what is not plugged. */
static bool is_lie(const struct json_call *call, const struct fdset *fds, bool settled)
{
    json_t *items = json_object_get(call->parameters, "items"), *plugged = NULL, *item, *other;
    bool lie = false, unplug = strcmp(call->method, "io.evlink.Agent.Unplug") == 0;
    size_t i, k;

    json_array_foreach (items, i, item) {
        json_t *id = json_object_get(item, "eventfdId"), *endpoint = json_object_get(item, "endpoint");
        json_int_t index = json_integer_value(json_object_get(item, "fileDescriptorIndex"));
        int64_t real = index >= 0 ? id_of(fdset_get(fds, (size_t)index)) : -1;
        bool found = false;

        lie |= id && json_integer_value(id) != real;
        if (!unplug)
            continue;
        if (!settled)
            return true;
        if (!plugged)
            plugged = inventory();
        json_array_foreach (plugged, k, other)
            found |= json_equal(json_object_get(other, "endpoint"), endpoint) &&
                     json_integer_value(json_object_get(other, "eventfdId")) == real;
        lie |= !found;
    }
    json_decref(plugged);
    return lie;
}

/* The answer to a call: what it should be. */
static void check_reply(const struct frame *frame, const struct json_call *call)
{
    struct json_reply reply;
    json_t *items, *item, *results;
    size_t i;

    MUST(json_reply_parse(frame->text, frame->length, &reply) == 0 && !reply.continues);
    items = json_object_get(call->parameters, "items");
    results = json_object_get(reply.parameters, "results");
    if (results) {
        MUST(!reply.error && json_array_size(results) == json_array_size(items));
        json_array_foreach (results, i, item) {
            json_t *number = json_object_get(item, "errno");

            MUST(json_equal(
                json_object_get(item, "endpoint"), json_object_get(json_array_get(items, i), "endpoint")));
            MUST(!number || (json_integer_value(number) > 0 && json_integer_value(number) <= 4095));
            MUST(!number == !json_object_get(item, "errnoName"));
        }
    }
    json_reply_clear(&reply);
}

/* The answers to what the agent was asked. Returns whether it makes sense. */
static bool take_replies(bool all)
{
    struct frame_in in = { .limit = FRAME_REPLY_MAX };
    const struct fdset *none;
    const char *at;
    size_t left = frame_out_peek(&world.calls, &at, &none);
    struct frame frame;
    bool sane = true;

    while (left > 0 && sane) {
        size_t length = strlen(at);
        struct varlink_request request;
        struct json_call call;

        sane = varlink_request_read(at, length, &request) == 0;
        if (sane && all && !request.oneway) {
            while (frame_in_next(&in, &frame) == 0)
                MUST(socket_receive(world.agent_end, &in) > 0);
            MUST(json_call_parse(at, length, &call) == 0);
            check_reply(&frame, &call);
            json_call_clear(&call);
        }
        if (sane)
            varlink_request_clear(&request);
        at += length + 1;
        left -= length + 1;
    }
    MUST(
        !all || (sane && frame_in_next(&in, &frame) == 0 && socket_receive(world.agent_end, &in) == -EAGAIN));
    frame_in_clear(&in);
    return sane;
}

/* The agent looks at what has come. failed: something in the library did already. */
static void dispatch(bool failed)
{
    size_t before = fuzz_count_fds(), kept;
    struct rlimit room, none;
    bool sane;
    int r;

    MUST(getrlimit(RLIMIT_NOFILE, &room) == 0);
    none = (struct rlimit){ .rlim_cur = 3, .rlim_max = room.rlim_max };
    if (world.no_room)
        MUST(setrlimit(RLIMIT_NOFILE, &none) == 0);
    fail_begin();
    r = evlink_agent_dispatch(world.agent);
    failed |= fail_end();
    MUST(setrlimit(RLIMIT_NOFILE, &room) == 0);
    world.no_room = false;
    sane = take_replies(r == 0 && !world.torn);
    frame_out_clear(&world.calls);
    MUST(r < 0 || world.agent_end >= 0);
    if (!world.torn && !failed)
        MUST(r == (sane ? 0 : -EPROTO) || (world.agent_end < 0 && r == -ECONNRESET));
    if (r < 0)
        attach();
    if (world.torn)
        return;
    kept = check_plugged();
    if (r == 0 && !world.called_since)
        MUST(fuzz_count_fds() + world.kept == before + kept);
    world.kept = kept;
    world.called_since = false;
}

/* The agent's session ends, and another one begins. */
static void hang_up(void)
{
    world.agent_end = fd_close(world.agent_end);
    dispatch(false);
}

static void call_agent(const char *text, bool later)
{
    bool first = frame_out_pending(&world.calls) == 0;
    struct frame_out out = { 0 };
    struct fdset fds = FDSET_EMPTY;
    struct json_call call;
    const char *bytes;
    const struct fdset *sent;

    if (!make_frame(&out, text, &fds))
        world.torn = true;
    if (frame_out_peek(&out, &bytes, &sent) > 0 && !world.torn) {
        size_t length = strlen(bytes);

        if (json_call_parse(bytes, length, &call) == 0) {
            world.lied |= is_lie(&call, sent, first);
            json_call_clear(&call);
        }
        MUST(frame_out_add(&world.calls, bytes, length) == 0);
        MUST(frame_out_finish(&world.calls, frame_out_mark(&world.calls) - length, NULL) == 0);
    }
    world.next_end = fd_close(world.next_end);
    (void)socket_send(world.agent_end, &out);
    frame_out_clear(&out);
    if (!later)
        dispatch(false);
}

/* ---- The client ---- */

static void see(const char *text)
{
    MUST(!text || strlen(text) < FRAME_REPLY_MAX);
}

static void see_all(const char *const *texts)
{
    for (; *texts; texts++)
        see(*texts);
}

/* A list's reader ends it where its userdata says so. */
static int on_eventfd(void *userdata, const struct evlink_eventfd_info *info)
{
    MUST(info->name && info->lifetime);
    see(info->name);
    see_all(info->links);
    return *(const int *)userdata;
}

static int on_link(void *userdata, const struct evlink_link_info *info)
{
    MUST(info->name && info->state && info->lifetime);
    see(info->group);
    see(info->reason);
    for (size_t i = 0; i < info->n_producers + info->n_consumers; i++) {
        const struct evlink_end_info *end =
            i < info->n_producers ? &info->producers[i] : &info->consumers[i - info->n_producers];

        MUST(end->endpoint && end->state);
        see(end->reason);
    }
    return *(const int *)userdata;
}

static int on_agent(void *userdata, const struct evlink_agent_info *info)
{
    MUST(info->name);
    see_all(info->subsystems);
    see_all(info->offered);
    return *(const int *)userdata;
}

static int on_reply(void *userdata, const char *error, const char *parameters)
{
    see(error);
    MUST(parameters[0] == '{');
    return *(const int *)userdata;
}

static int connect_two(const char *text, char **ret_name)
{
    const char *const producers[] = { text, NULL }, *const labels[] = { "a=b", text, NULL };
    const struct evlink_link_spec specs[] = {
        { .name = text, .producers = producers, .consumers = producers, .labels = labels },
        { .producers = producers, .consumers = labels, .lifetime = EVLINK_LEASE, .lease_seconds = 1 },
    };

    if (ret_name)
        return evlink_connect(world.client, &specs[1], ret_name);
    return evlink_connect_many(world.client, specs, ARRAY_SIZE(specs));
}

static int call(char letter, const char *text)
{
    const char *const texts[] = { text, "a", NULL };
    const int fds[] = { world.shared, world.shared };
    int stop = *text == '!' ? 7 : 0, fd = -1, r;
    struct evlink_client *client = world.client;
    struct evlink_status status;
    char *name = NULL;

    switch (letter) {
    case 'h':
        return evlink_hold(client, text, world.shared, EVLINK_LEASE, 3);
    case 'H':
        return evlink_hold_many(client, texts, fds, ARRAY_SIZE(fds), EVLINK_CONNECTION, 0);
    case 'k':
    case 'd':
        r = letter == 'k' ? evlink_claim(client, text, &fd)
                          : evlink_delegate(client, text, texts, 3, -1, &fd);
        MUST((r == 0) == (fd >= 0));
        fd_close(fd);
        return r;
    case 'c':
        r = connect_two(text, &name);
        MUST((r == 0) == (name != NULL));
        see(name);
        free(name);
        return r;
    case 'C':
        return connect_two(text, NULL);
    case 'e':
        return evlink_list_eventfds(client, text, on_eventfd, &stop);
    case 'l':
        return evlink_list_links(client, text, "g", on_link, &stop);
    case 'L':
        return evlink_list_agents(client, NULL, on_agent, &stop);
    case 's':
        r = evlink_status(client, &status);
        MUST(r != 0 || (strlen(status.version) < 32 && strlen(status.last_end) < 64));
        return r;
    case 'o':
    case 'm':
        return evlink_call(client, "a.B", *text ? text : NULL, fds, 2, letter == 'm', on_reply, &stop);
    case 'w':
        return evlink_withdraw(client, "a", texts, text);
    case 'g':
        return evlink_signal(client, text, 1);
    case 'n':
        return evlink_renew_link(client, text, 1);
    default:
        return evlink_detach(client, text);
    }
}

static void check_result(int r)
{
    const char *message = evlink_client_message(world.client);

    MUST(r > -4096 && r <= EVLINK_E_OTHER && strlen(evlink_code_name(r)) > 0);
    MUST(strlen(message) > 0 && strlen(message) < 1024);
    for (; *message; message++)
        MUST((unsigned char)*message >= 0x20 && *message != 0x7f);
}

static void call_broker(const char *text)
{
    char letter = *text ? *text++ : 'x';
    bool failed;
    int r;

    world.in_call = world.called_since = true;
    fail_begin();
    r = call(letter, *text == ' ' ? text + 1 : text);
    failed = fail_end();
    world.in_call = false;
    check_result(r);
    take_calls();
    if (r == -ENOTCONN)
        open_client();
    dispatch(failed);
}

/* With the answers that are there. */
static void attach_anyhow(void)
{
    int r;

    world.agent_end = fd_close(world.agent_end);
    MUST(evlink_agent_dispatch(world.agent) < 0);
    fail_begin();
    r = evlink_agent_attach(world.agent, world.client);
    (void)fail_end();
    check_result(r);
    world.next_end = fd_close(world.next_end);
    /* Nobody is at the other end, if there is one. */
    MUST(evlink_agent_dispatch(world.agent) < 0);
    attach();
}

/* ---- Steps ---- */

static void mask(const char *endpoint, bool on)
{
    int r = on ? evlink_agent_mask(world.agent, endpoint) : evlink_agent_unmask(world.agent, endpoint);

    MUST(r <= 0 && (world.keep || r == -EOPNOTSUPP));
    world.masked |= r == 0;
}

static void step(const char *text)
{
    bool later = *text == '+';
    unsigned kind = 0, number = 0;

    text += later;
    switch (*text) {
    case '<':
        call_agent(text + 1, later);
        break;
    case '=': {
        struct frame_out out = { 0 };

        answer(&out, text + 1);
        frame_out_clear(&out);
        break;
    }
    case '~':
        answer(&world.late, text + 1);
        break;
    case '?':
        if (text[1] == 't')
            attach_anyhow();
        else
            call_broker(text + 1);
        break;
    case 'x':
        hang_up();
        break;
    case 'r':
        (void)sscanf(text + 1, "%u %u", &kind, &number);
        world.resolved = (enum evlink_plug_kind)(kind % (EVLINK_PLUG_VRING_ERR + 1));
        world.number = number % 7 == 6 ? UINT64_C(1) << 32 : number;
        break;
    case 'e':
        (void)sscanf(text + 1, "%u", &number);
        world.refuses = (int)(number % 4096);
        break;
    case 'm':
    case 'u':
        mask(text + 1, *text == 'm');
        break;
    case '!':
        (void)sscanf(text + 1, "%u", &number);
        fail_at(number);
        break;
    case 'f':
        world.no_room = true;
        break;
    default:
        break;
    }
}

static void add_subsystems(void)
{
    static const struct evlink_agent_ops some = { .resolve = on_resolve, .notify = on_notify },
                                         all = { on_plug, on_unplug, on_resolve, on_notify };

    MUST(evlink_agent_add_kvm(world.agent, "vm", world.vm, &some, NULL) == 0);
    MUST(evlink_agent_add_kvm(world.agent, "own", -1, &all, NULL) == 0);
    MUST(evlink_agent_add_vfio(world.agent, "dev", world.vfio, NULL, NULL) == 0);
    MUST(evlink_agent_add_vhost(world.agent, "net", world.vhost, NULL, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = { data, data + size };
    size_t before = fuzz_count_fds();
    unsigned flags = input_byte(&input);

    fuzz_quiet();
    fail_at(0);
    memset(&world, 0, sizeof(world));
    world.called.limit = FRAME_REPLY_MAX;
    world.client_end = world.agent_end = world.next_end = -1;
    world.keep = flags & 1;
    world.timeout = flags & 2;
    world.shared = eventfd(0, EFD_CLOEXEC);
    world.vm = fd_dup(world.shared);
    world.vfio = fd_dup(world.shared);
    world.vhost = fd_dup(world.shared);
    MUST(evlink_agent_new("agent", world.keep ? EVLINK_AGENT_KEEP : 0, &world.agent) == 0);
    add_subsystems();
    attach();
    for (int i = 0; i < STEPS_MAX && input_left(&input) > 0; i++) {
        char *text = input_text(&input, '\0', NULL);

        step(text);
        free(text);
    }
    hang_up();
    world.agent = evlink_agent_free(world.agent);
    close_client();
    fd_close(world.agent_end);
    fd_close(world.next_end);
    fd_close(world.shared);
    fd_close(world.vm);
    fd_close(world.vfio);
    fd_close(world.vhost);
    MUST(fuzz_count_fds() == before);
    return 0;
}
