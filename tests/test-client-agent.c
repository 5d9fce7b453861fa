/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libevlink against a broker of a few lines: a thread on the other end of the client's socket, which answers
 * what the test tells it to, attaches agents and calls them as evlinkd does. The agents' ioctls are real
 * ones, on a VM of this process with a guest in it.
 *
 * Each test leaves as many descriptors as it found.
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/eventfd.h"
#include "base/fd.h"
#include "examples/guest.h"
#include "json.h"
#include "lib/evlink.h"
#include "wire/socket.h"
#include "wire/varlink.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>

#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef __has_feature
#define __has_feature(feature) 0 /* clang has it, gcc has macros */
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || \
    __has_feature(thread_sanitizer)
#define SANITIZED true
#else
#define SANITIZED false
#endif

/* Longer than anything here takes. */
#define PATIENCE_MS 10000

/* For threads and children, from which cmocka's asserts cannot jump. */
#define CHECK(condition)                                                                              \
    do {                                                                                              \
        if (!(condition)) {                                                                           \
            fprintf(stderr, "%s:%d: failed: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
            abort();                                                                                  \
        }                                                                                             \
    } while (0)

/* ---- One end of a socket --------------------------------------------------------------------------------
 */

struct peer {
    int fd;
    bool patient; /* waits for what comes as long as it takes */
    struct frame_in in;
    struct frame_out out;
};

static void peer_clear(struct peer *peer)
{
    peer->fd = fd_close(peer->fd);
    frame_in_clear(&peer->in);
    frame_out_clear(&peer->out);
}

static void peer_flush(struct peer *peer)
{
    int r;

    while ((r = socket_send(peer->fd, &peer->out)) == -EAGAIN)
        CHECK(poll(&(struct pollfd){ .fd = peer->fd, .events = POLLOUT }, 1, PATIENCE_MS) == 1);
    CHECK(r == 0 || r == -EPIPE || r == -ECONNRESET);
}

/* The next frame: false at the end of the stream. */
static bool peer_next(struct peer *peer, struct frame *ret_frame)
{
    while (frame_in_next(&peer->in, ret_frame) == 0) {
        int r = socket_receive(peer->fd, &peer->in);

        if (r == 0 || r == -ECONNRESET)
            return false;
        CHECK(r == 1 || r == -EAGAIN);
        if (r == -EAGAIN)
            CHECK(poll(&(struct pollfd){ .fd = peer->fd, .events = POLLIN }, 1,
                      peer->patient ? -1 : PATIENCE_MS) == 1);
    }
    return true;
}

/* parameters: consumed. fds: borrowed. */
static void peer_queue(
    struct peer *peer, const char *method, json_t *parameters, unsigned flags, const int *fds, size_t n)
{
    struct fdset set = FDSET_EMPTY;

    CHECK(parameters);
    CHECK(fdset_dup(&set, fds, n) == 0);
    CHECK(json_call_write(&peer->out, method, parameters, flags, &set) == 0);
    json_decref(parameters);
}

static struct json_reply peer_reply(struct peer *peer)
{
    struct json_reply reply;
    struct frame frame;

    CHECK(peer_next(peer, &frame));
    CHECK(frame.fds.n == 0);
    CHECK(json_reply_parse(frame.text, frame.length, &reply) == 0);
    return reply;
}

/* ---- The broker -----------------------------------------------------------------------------------------
 */

struct broker {
    struct peer peer;
    pthread_t thread;
    /* What the next call is answered with, one reply an element: {error, parameters, continues}. */
    json_t *script;
    int script_fd; /* goes with the first of them; -1 */
    char last_method[64];
    json_t *last_parameters;
    size_t last_fds;
    bool silent;        /* answers nothing */
    struct peer agent;  /* the broker's end of the last agent's socket; -1 */
    int sndbuf;         /* for it */
    json_t *plug_items; /* on Connect: what to plug before the answer, with these */
    int plug_fd;
    json_t *plug_reply;
};

static void broker_attach(struct broker *broker)
{
    struct fdset fds = FDSET_EMPTY;
    json_auto_t *parameters = json_pack("{s:{s:s}, s:i}", "agent", "name", "x", "fileDescriptorIndex", 0);
    int pair[2];

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    if (broker->sndbuf)
        CHECK(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &broker->sndbuf, sizeof(int)) == 0);
    peer_clear(&broker->agent);
    broker->agent.fd = pair[0];
    broker->agent.in.limit = FRAME_REPLY_MAX;
    CHECK(fdset_adopt(&fds, &pair[1], 1) == 0);
    CHECK(json_reply_write(&broker->peer.out, parameters, false, &fds) == 0);
}

static void broker_script(struct broker *broker)
{
    struct fdset fds = FDSET_EMPTY;
    json_t *step;
    size_t i;

    if (broker->script_fd >= 0)
        CHECK(fdset_dup(&fds, &broker->script_fd, 1) == 0);
    json_array_foreach (broker->script, i, step) {
        const char *error = json_string_value(json_object_get(step, "error"));
        json_t *parameters = json_object_get(step, "parameters");

        if (error)
            CHECK(json_error_write(&broker->peer.out, error, parameters) == 0);
        else
            CHECK(json_reply_write(&broker->peer.out, parameters,
                      json_is_true(json_object_get(step, "continues")), &fds) == 0);
    }
}

static void *broker_main(void *data)
{
    struct broker *broker = data;
    struct frame frame;

    while (peer_next(&broker->peer, &frame)) {
        struct json_call call;

        CHECK(json_call_parse(frame.text, frame.length, &call) == 0);
        (void)snprintf(broker->last_method, sizeof(broker->last_method), "%s", call.method);
        json_decref(broker->last_parameters);
        broker->last_parameters = json_incref(call.parameters);
        broker->last_fds = frame.fds.n;
        if (broker->plug_items && strcmp(call.method, "io.evlink.Broker.Connect") == 0) {
            struct json_reply reply;

            peer_queue(&broker->agent, "io.evlink.Agent.Plug",
                json_pack("{s:O}", "items", broker->plug_items), 0, &broker->plug_fd, 1);
            peer_flush(&broker->agent);
            reply = peer_reply(&broker->agent);
            broker->plug_reply = json_incref(reply.parameters);
            json_reply_clear(&reply);
        }
        if (broker->silent)
            ;
        else if (strcmp(call.method, "io.evlink.Broker.Attach") == 0 && !broker->script)
            broker_attach(broker);
        else if (broker->script)
            broker_script(broker);
        else
            CHECK(json_reply_write(&broker->peer.out, NULL, false, NULL) == 0);
        peer_flush(&broker->peer);
        json_call_clear(&call);
        fdset_clear(&frame.fds);
    }
    peer_clear(&broker->peer);
    return NULL;
}

/* ---- Each test's surroundings ---------------------------------------------------------------------------
 */

struct fixture {
    size_t n_fds;
    struct broker broker;
    int raw; /* the broker's end of the client's socket, for tests that meddle with it */
    struct evlink_client *client;
    struct evlink_agent *agent;
    struct guest *guest;
};

static size_t count_fds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    size_t n = 0;

    assert_non_null(folder);
    while (readdir(folder))
        n++;
    (void)closedir(folder);
    return n;
}

static void broker_start(struct fixture *f)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    f->broker = (struct broker){
        .peer = { .fd = pair[0], .patient = true },
        .agent.fd = -1,
        .script_fd = -1,
        .plug_fd = -1,
    };
    f->raw = pair[0];
    assert_int_equal(pthread_create(&f->broker.thread, NULL, broker_main, &f->broker), 0);
    assert_int_equal(evlink_client_open_fd(pair[1], &f->client), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->n_fds = count_fds();
    broker_start(f);
    *state = f;
    return 0;
}

static void broker_stop(struct fixture *f)
{
    f->client = evlink_client_free(f->client);
    (void)pthread_join(f->broker.thread, NULL);
    peer_clear(&f->broker.agent);
    json_decref(f->broker.script);
    json_decref(f->broker.last_parameters);
    json_decref(f->broker.plug_items);
    json_decref(f->broker.plug_reply);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    size_t left;

    f->agent = evlink_agent_free(f->agent);
    broker_stop(f);
    f->guest = guest_free(f->guest);
    left = count_fds();
    if (left != f->n_fds)
        fprintf(stderr, "%zu descriptors before, %zu after\n", f->n_fds, left);
    left -= f->n_fds;
    free(f);
    return left == 0 ? 0 : -1;
}

/* Makes the guest, or skips the test where there is no KVM. */
static int need_guest(struct fixture *f, unsigned flags)
{
    int r = guest_new(flags, &f->guest);

    if (r == -ENOENT || r == -EACCES) {
        print_message("SKIP: no /dev/kvm: %s\n", strerror(-r));
        skip();
    }
    assert_int_equal(r, 0);
    return guest_vm_fd(f->guest);
}

/* What the broker answers next: a JSON array with ' for ". */
static void script(struct fixture *f, const char *text)
{
    CLEANUP(freep) char *json = strdup(text);
    json_error_t error;

    assert_non_null(json);
    for (char *c = json; *c; c++)
        if (*c == '\'')
            *c = '"';
    json_decref(f->broker.script);
    f->broker.script = json_loads(json, 0, &error);
    if (!f->broker.script)
        fail_msg("%s: %s", text, error.text);
}

/* An agent "vmm" with the VM "vm1", attached. */
static void attach(
    struct fixture *f, unsigned flags, int vm_fd, const struct evlink_agent_ops *ops, void *userdata)
{
    assert_int_equal(evlink_agent_new("vmm", flags, &f->agent), 0);
    assert_int_equal(evlink_agent_add_kvm(f->agent, "vm1", vm_fd, ops, userdata), 0);
    assert_int_equal(evlink_agent_attach(f->agent, f->client), 0);
}

/* How many descriptors there are when the broker's thread has closed what it answered with. */
static size_t count_fds_settled(struct fixture *f)
{
    assert_int_equal(evlink_release(f->client, "a"), 0);
    return count_fds();
}

static int new_eventfd(void)
{
    int fd = eventfd_create(false);

    assert_true(fd >= 0);
    return fd;
}

static void signal_eventfd(int fd, uint64_t count)
{
    assert_int_equal(write(fd, &count, sizeof(count)), sizeof(count));
}

static uint64_t pending(int fd)
{
    struct eventfd_info info;

    assert_int_equal(eventfd_info(fd, &info), 0);
    return info.count;
}

static int64_t id_of(int fd)
{
    struct eventfd_info info;

    assert_int_equal(eventfd_info(fd, &info), 0);
    return info.id;
}

/* Queues Plug or Unplug of one item, without its eventfdId. resample_fd may be -1. */
static void queue_item(struct fixture *f, const char *method, const char *endpoint, int fd, int resample_fd)
{
    int fds[] = { fd, resample_fd };
    json_t *item = json_pack("{s:s, s:i}", "endpoint", endpoint, "fileDescriptorIndex", 0);

    if (resample_fd >= 0)
        json_object_set_new(item, "resampleFileDescriptorIndex", json_integer(1));
    peer_queue(
        &f->broker.agent, method, json_pack("{s:[o]}", "items", item), 0, fds, resample_fd >= 0 ? 2 : 1);
    peer_flush(&f->broker.agent);
}

/* The agent is not served by itself: what it gets is served here. */
static void dispatch(struct fixture *f)
{
    struct pollfd polled = { .fd = evlink_agent_fd(f->agent), .events = POLLIN };

    assert_int_equal(poll(&polled, 1, PATIENCE_MS), 1);
    assert_int_equal(evlink_agent_dispatch(f->agent), 0);
}

/* Takes the reply to one item: its errno's name, "" for success. Static. */
static const char *take_result(struct fixture *f, const char *endpoint)
{
    static char name[32];
    struct json_reply reply = peer_reply(&f->broker.agent);
    json_t *results = json_object_get(reply.parameters, "results");
    json_t *result = json_array_get(results, 0);
    const char *errno_name = json_string_value(json_object_get(result, "errnoName"));

    assert_null(reply.error);
    assert_false(reply.continues);
    assert_int_equal(json_array_size(results), 1);
    assert_string_equal(json_string_value(json_object_get(result, "endpoint")), endpoint);
    assert_int_equal(!errno_name, !json_object_get(result, "errno"));
    (void)snprintf(name, sizeof(name), "%s", errno_name ? errno_name : "");
    json_reply_clear(&reply);
    return name;
}

static const char *plug_level(struct fixture *f, const char *endpoint, int fd, int resample_fd)
{
    queue_item(f, "io.evlink.Agent.Plug", endpoint, fd, resample_fd);
    dispatch(f);
    return take_result(f, endpoint);
}

static const char *plug(struct fixture *f, const char *endpoint, int fd)
{
    return plug_level(f, endpoint, fd, -1);
}

static const char *unplug(struct fixture *f, const char *endpoint, int fd)
{
    queue_item(f, "io.evlink.Agent.Unplug", endpoint, fd, -1);
    dispatch(f);
    return take_result(f, endpoint);
}

/* The agent's inventory, as JSON with sorted keys. */
static void assert_inventory(struct fixture *f, const char *expected_format, ...)
    __attribute__((format(printf, 2, 3)));

static void assert_inventory(struct fixture *f, const char *expected_format, ...)
{
    struct json_reply reply;
    CLEANUP(freep) char *expected = NULL;
    CLEANUP(freep) char *text = NULL;
    va_list arguments;

    va_start(arguments, expected_format);
    assert_true(vasprintf(&expected, expected_format, arguments) >= 0);
    va_end(arguments);
    peer_queue(&f->broker.agent, "io.evlink.Agent.Inventory", json_pack("{s:i}", "token", 7), 0, NULL, 0);
    peer_flush(&f->broker.agent);
    dispatch(f);
    reply = peer_reply(&f->broker.agent);
    assert_int_equal(json_integer_value(json_object_get(reply.parameters, "token")), 7);
    text = json_dumps(json_object_get(reply.parameters, "plugged"), JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(text, expected);
    json_reply_clear(&reply);
}

#define ENTRY "{\"endpoint\":\"%s\",\"eventfdId\":%" PRId64 "}"

/* ---- The client -----------------------------------------------------------------------------------------
 */

static void assert_message(struct fixture *f, const char *word)
{
    if (!strstr(evlink_client_message(f->client), word))
        fail_msg("no '%s' in: %s", word, evlink_client_message(f->client));
}

static void test_errors(void **state)
{
    static const struct {
        const char *reply;
        int code;
        const char *name, *words[3];
    } cases[] = {
        { "'io.evlink.Broker.NameTaken', 'parameters': {'name': 'n1'}", EVLINK_E_NAME_TAKEN, "NameTaken",
            { "n1" } },
        { "'io.evlink.Broker.NoSuchEventfd', 'parameters': {'name': 'n1'}", EVLINK_E_NO_SUCH_EVENTFD,
            "NoSuchEventfd", { "n1" } },
        { "'io.evlink.Broker.NoSuchLink', 'parameters': {'name': 'n1'}", EVLINK_E_NO_SUCH_LINK, "NoSuchLink",
            { "n1" } },
        { "'io.evlink.Broker.NoSuchAgent', 'parameters': {'name': 'n1'}", EVLINK_E_NO_SUCH_AGENT,
            "NoSuchAgent", { "n1" } },
        { "'io.evlink.Broker.NotAnEventfd', 'parameters': {'fileDescriptorIndex': 3}",
            EVLINK_E_NOT_AN_EVENTFD, "NotAnEventfd", { "descriptor 3" } },
        { "'io.evlink.Broker.BadDescriptor', 'parameters': {'fileDescriptorIndex': 3, 'reason': 'is a pipe'}",
            EVLINK_E_BAD_DESCRIPTOR, "BadDescriptor", { "descriptor 3", "is a pipe" } },
        { "'io.evlink.Broker.InUse', 'parameters': {'name': 'n1', 'links': ['l1', 'l2']}", EVLINK_E_IN_USE,
            "InUse", { "n1", "by l1, l2:", "evlink_disconnect()" } },
        { "'io.evlink.Broker.InUse', 'parameters': {'name': 'n1', 'links': []}", EVLINK_E_IN_USE, "InUse",
            { "in use: " } },
        { "'io.evlink.Broker.SubsystemTaken', 'parameters': {'kind': 'kvm', 'name': 'vm1', 'agent': 'a1'}",
            EVLINK_E_SUBSYSTEM_TAKEN, "SubsystemTaken", { "kvm/vm1", "a1" } },
        { "'io.evlink.Broker.BadEndpoint', 'parameters': {'endpoint': 'e/x', 'reason': 'no such thing'}",
            EVLINK_E_BAD_ENDPOINT, "BadEndpoint", { "e/x", "no such thing" } },
        { "'io.evlink.Broker.EndpointBusy', 'parameters': {'endpoint': 'kvm/v/gsi/1', 'link': 'l1'}",
            EVLINK_E_ENDPOINT_BUSY, "EndpointBusy", { "kvm/v/gsi/1", "link 'l1'", "evlink_disconnect()" } },
        { "'io.evlink.Broker.EndpointBusy', 'parameters': {'endpoint': 'kvm/v/gsi/1'}",
            EVLINK_E_ENDPOINT_BUSY, "EndpointBusy", { "in use, or" } },
        { "'io.evlink.Broker.NotAttached', 'parameters': {'endpoint': 'kvm/v/gsi/1'}", EVLINK_E_NOT_ATTACHED,
            "NotAttached", { "kvm/v/gsi/1" } },
        { "'io.evlink.Broker.PlugFailed', 'parameters': {'endpoint': 'kvm/v/gsi/1', 'errno': 16, "
          "'errnoName': "
          "'EBUSY'}",
            EVLINK_E_PLUG_FAILED, "PlugFailed", { "kvm/v/gsi/1", "EBUSY", "bound to an interrupt" } },
        { "'io.evlink.Broker.PlugFailed', 'parameters': {'endpoint': 'kvm/v/gsi/1', 'errno': 16, "
          "'errnoName': 'EBUSY', 'holder': 'kvm/w/gsi/2'}",
            EVLINK_E_PLUG_FAILED, "PlugFailed", { "kvm/v/gsi/1", "into 'kvm/w/gsi/2' still" } },
        { "'io.evlink.Broker.PlugFailed', 'parameters': {'endpoint': 'kvm/v/gsi/1/level', 'errno': 22, "
          "'errnoName': 'EINVAL'}",
            EVLINK_E_PLUG_FAILED, "PlugFailed", { "irqchip" } },
        { "'io.evlink.Broker.PlugFailed', 'parameters': {'endpoint': 'kvm/v/pio/1', 'errno': 22, "
          "'errnoName': "
          "'EINVAL'}",
            EVLINK_E_PLUG_FAILED, "PlugFailed", { "no such address" } },
        { "'io.evlink.Broker.PlugFailed', 'parameters': {'endpoint': 'kvm/v/pio/1', 'errno': 17, "
          "'errnoName': "
          "'EEXIST'}",
            EVLINK_E_PLUG_FAILED, "PlugFailed", { "another ioeventfd" } },
        { "'io.evlink.Broker.PlugFailed', 'parameters': {'endpoint': 'vfio/d/intx', 'errno': 16, "
          "'errnoName': 'EBUSY'}",
            EVLINK_E_PLUG_FAILED, "PlugFailed",
            { "vfio/d/intx", "EBUSY", "another of INTx, MSI and MSI-X" } },
        { "'io.evlink.Broker.PlugFailed', 'parameters': {'endpoint': 'vhost/d/vring/0/call', 'errno': 1, "
          "'errnoName': 'EPERM'}",
            EVLINK_E_PLUG_FAILED, "PlugFailed", { "VHOST_SET_OWNER" } },
        { "'io.evlink.Broker.PlugFailed', 'parameters': {'endpoint': 'kvm/v/pio/1', 'errno': 5, 'errnoName': "
          "'EIO'}",
            EVLINK_E_PLUG_FAILED, "PlugFailed", { "process that created the VM" } },
        { "'io.evlink.Broker.PlugFailed', 'parameters': {'endpoint': 'kvm/v/pio/1', 'errno': 99, "
          "'errnoName': "
          "'EADDRNOTAVAIL'}",
            EVLINK_E_PLUG_FAILED, "PlugFailed", { "EADDRNOTAVAIL", "answered" } },
        { "'io.evlink.Broker.AgentTimeout', 'parameters': {'agent': 'a1', 'endpoint': 'kvm/v/gsi/1'}",
            EVLINK_E_AGENT_TIMEOUT, "AgentTimeout", { "a1", "kvm/v/gsi/1" } },
        { "'io.evlink.Broker.Restarted'", EVLINK_E_RESTARTED, "Restarted", { "restarted" } },
        { "'io.evlink.Broker.WrongState', 'parameters': {'name': 'l1', 'state': 'parked'}",
            EVLINK_E_WRONG_STATE, "WrongState", { "l1", "parked" } },
        { "'io.evlink.Broker.QuotaExceeded', 'parameters': {'what': 'links', 'limit': 12}",
            EVLINK_E_QUOTA_EXCEEDED, "QuotaExceeded", { "more links", "12" } },
        { "'org.varlink.service.InvalidParameter', 'parameters': {'parameter': 'p1'}",
            EVLINK_E_INVALID_PARAMETER, "InvalidParameter", { "p1" } },
        { "'org.varlink.service.InvalidParameter', 'parameters': {'parameter': 'count'}",
            EVLINK_E_INVALID_PARAMETER, "InvalidParameter", { "'count'", "whole number from 1" } },
        { "'org.varlink.service.InvalidParameter', 'parameters': {'parameter': 'name'}",
            EVLINK_E_INVALID_PARAMETER, "InvalidParameter", { "'name'", "has to be a name" } },
        { "'org.varlink.service.InvalidParameter'", EVLINK_E_INVALID_PARAMETER, "InvalidParameter",
            { "?", "missing" } },
        { "'org.varlink.service.PermissionDenied'", EVLINK_E_PERMISSION_DENIED, "PermissionDenied",
            { "no right to 'x'" } },
        { "'org.varlink.service.MethodNotFound', 'parameters': {'method': 'm1'}", EVLINK_E_NOT_IMPLEMENTED,
            "NotImplemented", { "m1" } },
        { "'org.varlink.service.MethodNotImplemented', 'parameters': {'method': 'm1'}",
            EVLINK_E_NOT_IMPLEMENTED, "NotImplemented", { "m1" } },
        { "'org.varlink.service.InterfaceNotFound', 'parameters': {'interface': 'i1'}",
            EVLINK_E_NOT_IMPLEMENTED, "NotImplemented", { "i1" } },
        { "'com.example.New', 'parameters': {'a': 1}", EVLINK_E_OTHER, "Other", { "com.example.New" } },
        /* Nothing that an error lacks, or has too much of, does harm. */
        { "'io.evlink.Broker.PlugFailed'", EVLINK_E_PLUG_FAILED, "PlugFailed", { "?" } },
        { "'io.evlink.Broker.NameTaken', 'parameters': {'name': 'a\\nb\\u001b'}", EVLINK_E_NAME_TAKEN,
            "NameTaken", { "a?b?" } },
    };
    const struct evlink_link_spec ring = {
        .name = "ring",
        .producers = (const char *const[]){ "kvm/a/pio/1", NULL },
        .consumers = (const char *const[]){ "eventfd/b", "eventfd/c", NULL },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[512];

        (void)snprintf(text, sizeof(text), "[{'error': %s}]", cases[i].reply);
        script(f, text);
        assert_int_equal(evlink_signal(f->client, "x", 1), cases[i].code);
        assert_string_equal(evlink_code_name(cases[i].code), cases[i].name);
        for (size_t j = 0; j < ARRAY_SIZE(cases[i].words) && cases[i].words[j]; j++)
            assert_message(f, cases[i].words[j]);
    }
    script(f, "[{'error': 'org.varlink.service.PermissionDenied'}]");
    assert_int_equal(evlink_connect(f->client, &ring, NULL), EVLINK_E_PERMISSION_DENIED);
    assert_message(f, "one of 'ring', 'kvm/a/pio/1', 'eventfd/b', 'eventfd/c'");
    script(f, "[{'error': 'io.evlink.Broker.NoSuchLink', 'parameters': {'name': 'g'}}]");
    assert_int_equal(evlink_disconnect_group(f->client, "g"), EVLINK_E_NO_SUCH_LINK);
    assert_message(f, "no group 'g'");
    assert_string_equal(evlink_code_name(-EBUSY), "EBUSY");
    assert_string_equal(evlink_code_name(0), "Success");
    assert_non_null(evlink_code_name(12345));
    assert_non_null(evlink_code_name(-12345));
    assert_non_null(evlink_version());
}

/* What was sent says more, however long it was. */
static void test_refused_many(void **state)
{
    const char *const ends[] = { "eventfd/a", NULL };
    struct evlink_link_spec specs[400];
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(specs); i++)
        specs[i] = (struct evlink_link_spec){ .name = "l", .producers = ends, .consumers = ends };
    specs[399].name = "no name";
    script(f, "[{'error': 'org.varlink.service.InvalidParameter', 'parameters': {'parameter': 'name'}}]");
    assert_int_equal(evlink_connect_many(f->client, specs, ARRAY_SIZE(specs)), EVLINK_E_INVALID_PARAMETER);
    assert_message(f, "'no name' is no name");
    script(f, "[{'error': 'org.varlink.service.PermissionDenied'}]");
    assert_int_equal(evlink_connect_many(f->client, specs, ARRAY_SIZE(specs)), EVLINK_E_PERMISSION_DENIED);
    assert_message(f, "one of 'l', 'eventfd/a', 'eventfd/a', 'l', 'eventfd/a', 'eventfd/a' and 1194 more: ");
}

/* Whatever it was. */
static void test_refused_oddities(void **state)
{
    static const struct {
        const char *method, *sent, *words;
    } cases[] = {
        { "ConnectMany", "{\"links\": [[1], \"a b\", null, {\"name\": [5, \"c d\"]}]}", "'c d' is no name" },
        { "ConnectMany", "{\"links\": {\"name\": \"c d\"}}", "'name' has to be a name" },
        { "Renew", "{\"name\": 5}", "'name' has to be a name" },
        { "Renew", "{\"name\": \"a\", \"link\": \"b\"}", "a name, or a link, and not both" },
        { "Park", "{}", "a name, or a group, and not both" },
        { "Renew", NULL, "a name, or a link, and not both" },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char method[64];

        (void)snprintf(method, sizeof(method), "io.evlink.Broker.%s", cases[i].method);
        script(f, "[{'error': 'org.varlink.service.InvalidParameter', 'parameters': {'parameter': 'name'}}]");
        assert_int_equal(evlink_call(f->client, method, cases[i].sent, NULL, 0, false, NULL, NULL),
            EVLINK_E_INVALID_PARAMETER);
        assert_message(f, cases[i].words);
    }
}

static void assert_sent(struct fixture *f, const char *method, const char *parameters)
{
    CLEANUP(freep) char *text = json_dumps(f->broker.last_parameters, JSON_COMPACT | JSON_SORT_KEYS);

    assert_string_equal(f->broker.last_method + strlen("io.evlink.Broker."), method);
    for (char *c = text; *c; c++)
        if (*c == '"')
            *c = '\'';
    assert_string_equal(text, parameters);
}

static void test_verbs(void **state)
{
    struct fixture *f = *state;
    const char *const from[] = { "eventfd/a", NULL }, *const to[] = { "eventfd/b", "eventfd/c", NULL };
    const char *const labels[] = { "k=no", "kk=x", "k=v=w", NULL }, *const bad_labels[] = { "k", NULL };
    const struct evlink_link_spec specs[] = {
        { .producers = from, .consumers = to, .no_wait = true, .lifetime = EVLINK_LEASE, .lease_seconds = 5 },
        { .name = "l2", .producers = to, .consumers = from, .group = "g", .labels = labels },
    };
    int fds[] = { new_eventfd(), new_eventfd() }, claimed = -1;
    const char *const names[] = { "a", "b" };
    char *name = NULL;

    assert_int_equal(evlink_hold(f->client, "a", fds[0], EVLINK_PERSISTENT, 0), 0);
    assert_sent(f, "Hold", "{'fileDescriptorIndex':0,'lifetime':'persistent','name':'a'}");
    assert_int_equal(f->broker.last_fds, 1);
    assert_int_equal(evlink_hold(f->client, "a", 12345, EVLINK_PERSISTENT, 0), -EBADF);
    assert_message(f, "12345");
    assert_int_equal(evlink_hold_new(f->client, "a", true, EVLINK_LEASE, 9), 0);
    assert_sent(f, "Hold", "{'leaseSeconds':9,'lifetime':'lease','name':'a','semaphore':true}");
    assert_int_equal(evlink_hold_new(f->client, "a\xff", true, EVLINK_LEASE, 9), -EINVAL);
    assert_message(f, "UTF-8");
    assert_int_equal(evlink_hold_new(f->client, NULL, true, EVLINK_LEASE, 9), -EINVAL);
    assert_int_equal(evlink_hold_new(f->client, "a", true, (enum evlink_lifetime)77, 9), -EINVAL);
    assert_int_equal(evlink_hold_many(f->client, names, fds, 2, EVLINK_CONNECTION, 0), 0);
    assert_sent(f, "HoldMany", "{'lifetime':'connection','names':['a','b']}");
    assert_int_equal(f->broker.last_fds, 2);
    assert_int_equal(evlink_hold_many(f->client, names, fds, 254, EVLINK_CONNECTION, 0), -EINVAL);
    assert_int_equal(evlink_hold_many(f->client, names, fds, 0, EVLINK_CONNECTION, 0), -EINVAL);
    assert_int_equal(evlink_release(f->client, "a"), 0);
    assert_sent(f, "Release", "{'name':'a'}");
    assert_int_equal(evlink_renew(f->client, "a", 3), 0);
    assert_sent(f, "Renew", "{'leaseSeconds':3,'name':'a'}");
    assert_int_equal(evlink_renew_link(f->client, "a", 3), 0);
    assert_sent(f, "Renew", "{'leaseSeconds':3,'link':'a'}");
    assert_int_equal(evlink_signal(f->client, "a", 3), 0);
    assert_sent(f, "Signal", "{'count':3,'name':'a'}");
    assert_int_equal(evlink_signal(f->client, "a", UINT64_MAX), -EINVAL);
    assert_int_equal(evlink_disconnect(f->client, "a"), 0);
    assert_sent(f, "Disconnect", "{'name':'a'}");
    assert_int_equal(evlink_disconnect_group(f->client, "a"), 0);
    assert_sent(f, "Disconnect", "{'group':'a'}");
    assert_int_equal(evlink_detach(f->client, "a"), 0);
    assert_sent(f, "Detach", "{'name':'a'}");
    assert_int_equal(evlink_offer(f->client, "a", to), 0);
    assert_sent(f, "Offer", "{'agent':'a','endpoints':['eventfd/b','eventfd/c']}");
    assert_int_equal(evlink_withdraw(f->client, "a", from, "why"), 0);
    assert_sent(f, "Withdraw", "{'agent':'a','endpoints':['eventfd/a'],'reason':'why'}");
    assert_int_equal(evlink_connect_many(f->client, specs, 2), 0);
    assert_sent(f, "ConnectMany",
        "{'leaseSeconds':5,'lifetime':'lease','links':[{'consumers':['eventfd/b','eventfd/"
        "c'],'producers':['eventfd/"
        "a']},{'consumers':['eventfd/"
        "a'],'group':'g','labels':{'k':'v=w','kk':'x'},'name':'l2','producers':['eventfd/"
        "b','eventfd/c']}],'wait':false}");
    assert_int_equal(
        evlink_connect(f->client,
            &(struct evlink_link_spec){ .producers = from, .consumers = to, .labels = bad_labels }, NULL),
        -EINVAL);
    assert_message(f, "'k'");
    assert_int_equal(
        evlink_connect(f->client, &(struct evlink_link_spec){ .producers = from }, NULL), -EINVAL);
    script(f, "[{'parameters': {'link': {'name': 'link-1'}}}]");
    assert_int_equal(evlink_connect(f->client, &specs[1], &name), 0);
    assert_string_equal(name, "link-1");
    free(name);
    script(f, "[{'parameters': {'fileDescriptorIndex': 0}}]");
    f->broker.script_fd = fds[0];
    assert_int_equal(evlink_claim(f->client, "a", &claimed), 0);
    assert_int_equal(id_of(claimed), id_of(fds[0]));
    assert_true(fcntl(claimed, F_GETFD) & FD_CLOEXEC);
    fd_close(claimed);
    assert_int_equal(evlink_delegate(f->client, "s", to, -1, 5, &claimed), 0);
    assert_sent(f, "Delegate", "{'endpoints':['eventfd/b','eventfd/c'],'maxLinks':5,'scope':'s'}");
    fd_close(claimed);
    script(f, "[{}]");
    assert_int_equal(evlink_revoke(f->client, "s"), 0);
    assert_sent(f, "Revoke", "{'scope':'s'}");
    script(f, "[{'parameters': {'fileDescriptorIndex': 0}}]");
    /* The answer lacks what it promises. */
    f->broker.script_fd = -1;
    assert_int_equal(evlink_claim(f->client, "a", &claimed), -EPROTO);
    assert_int_equal(evlink_release(f->client, "a"), -ENOTCONN);
    assert_message(f, "descriptor");
    assert_int_equal(evlink_release(f->client, "a"), -ENOTCONN);
    assert_message(f, "descriptor");
    fd_close(fds[0]);
    fd_close(fds[1]);
}

static void test_time_out(void **state)
{
    struct fixture *f = *state;
    int64_t began = clock_read(CLOCK_MONOTONIC), took;

    f->broker.silent = true;
    evlink_client_set_timeout(f->client, 100);
    assert_int_equal(evlink_release(f->client, "a"), -ETIMEDOUT);
    took = clock_read(CLOCK_MONOTONIC) - began;
    assert_in_range(took, 100 * USEC_PER_MSEC, 5 * USEC_PER_SEC);
    assert_message(f, "100 ms");
    assert_int_equal(evlink_release(f->client, "a"), -ENOTCONN);
    assert_message(f, "100 ms");
}

static void test_nonsense(void **state)
{
    struct fixture *f = *state;

    script(f, "[{'continues': true}]");
    assert_int_equal(evlink_release(f->client, "a"), -EPROTO);
    broker_stop(f);
    broker_start(f);
    script(f, "[{}, {}]");
    assert_int_equal(evlink_release(f->client, "a"), 0);
    assert_int_equal(evlink_release(f->client, "a"), -EPROTO);
    broker_stop(f);
    broker_start(f);
    assert_int_equal(write(f->raw, "{]", 3), 3);
    assert_int_equal(evlink_release(f->client, "a"), -EPROTO);
    broker_stop(f);
    broker_start(f);
    assert_int_equal(shutdown(f->raw, SHUT_RDWR), 0);
    assert_int_equal(evlink_release(f->client, "a"), -ECONNRESET);
}

static void test_open(void **state)
{
    static const char *const wrong[] = { "99999", "x", "-1", " 1", "1x", "99999999999999999999" };
    struct evlink_client *client;
    int pair[2], inherited[2];
    char path[200], number[16];

    (void)state;
    memset(path, 'a', sizeof(path));
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(evlink_client_open("/nonexistent/socket", &client), -ENOENT);
    assert_int_equal(evlink_client_open(path, &client), -ENAMETOOLONG);
    assert_int_equal(setenv("EVLINK_SOCKET", "/dev/null", 1), 0);
    assert_int_equal(evlink_client_open(NULL, &client), -ECONNREFUSED);
    /* What was inherited comes before that, and is left as it is. */
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, inherited), 0);
    (void)snprintf(number, sizeof(number), "%d", inherited[0]);
    assert_int_equal(setenv("EVLINK_FD", number, 1), 0);
    assert_int_equal(evlink_client_open(NULL, &client), 0);
    assert_int_equal(evlink_client_reconnect(client), -EOPNOTSUPP);
    evlink_client_free(client);
    assert_int_equal(send(inherited[1], "x", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(evlink_client_open("/dev/null", &client), -ECONNREFUSED);
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        assert_int_equal(setenv("EVLINK_FD", wrong[i], 1), 0);
        assert_int_equal(evlink_client_open(NULL, &client), -EBADF);
    }
    assert_int_equal(setenv("EVLINK_FD", "", 1), 0);
    assert_int_equal(evlink_client_open(NULL, &client), -ECONNREFUSED);
    assert_int_equal(unsetenv("EVLINK_FD"), 0);
    fd_close(inherited[0]);
    fd_close(inherited[1]);
    assert_int_equal(unsetenv("EVLINK_SOCKET"), 0);
    assert_int_equal(evlink_client_open_fd(-1, &client), -EBADF);
    assert_int_equal(evlink_client_open_fd(new_eventfd(), &client), -ENOTSOCK);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(evlink_client_open_fd(pair[0], &client), -EPROTOTYPE);
    fd_close(pair[1]);
    assert_int_equal(evlink_client_open_fd(socket(AF_UNIX, SOCK_STREAM, 0), &client), -ENOTCONN);
}

static int on_eventfd(void *userdata, const struct evlink_eventfd_info *info)
{
    size_t *n = userdata;

    assert_string_equal(info->name, *n ? "b" : "a");
    assert_int_equal(info->eventfd_id, *n ? -1 : 5);
    assert_int_equal(info->pending, *n ? 0 : 3);
    assert_int_equal(info->uid, 1000);
    assert_int_equal(info->pid, 77);
    assert_string_equal(info->links[0], "l1");
    assert_null(info->links[1]);
    return ++*n == 3 ? -ECANCELED : 0;
}

static int on_link(void *userdata, const struct evlink_link_info *info)
{
    ++*(size_t *)userdata;
    assert_string_equal(info->name, "l");
    assert_null(info->group);
    assert_int_equal(info->n_producers, 1);
    assert_string_equal(info->producers[0].endpoint, "eventfd/a");
    assert_null(info->producers[0].reason);
    assert_int_equal(info->n_consumers, 2);
    assert_string_equal(info->consumers[1].state, "failed");
    assert_string_equal(info->consumers[1].reason, "EBUSY");
    assert_true(info->relayed);
    assert_int_equal(info->forwarded, -1);
    return 0;
}

static int on_agent(void *userdata, const struct evlink_agent_info *info)
{
    ++*(size_t *)userdata;
    assert_string_equal(info->subsystems[0], "kvm/vm1");
    assert_string_equal(info->subsystems[1], "vfio/d");
    assert_null(info->subsystems[2]);
    assert_null(info->offered[0]);
    return 0;
}

struct call_back {
    struct fixture *f;
    size_t n;
    char error[64], text[256];
};

static int on_reply(void *userdata, const char *error, const char *parameters)
{
    struct call_back *c = userdata;

    c->n++;
    (void)snprintf(c->error, sizeof(c->error), "%s", error ? error : "");
    (void)snprintf(c->text, sizeof(c->text), "%s", parameters);
    /* Out of a callback nothing can be called. */
    assert_int_equal(evlink_release(c->f->client, "a"), -EDEADLK);
    return 0;
}

#define EVENTFD_REST \
    "'owner': {'uid': 1000, 'gid': 1, 'pid': 77}, 'lifetime': 'lease', 'links': ['l1'], 'since': 12"

static void test_lists(void **state)
{
    struct fixture *f = *state;
    struct call_back seen = { .f = f };
    struct evlink_status status;
    size_t n = 0;
    char *text;

    script(f,
        "[{'parameters': {'eventfd': {'name': 'a', 'eventfdId': 5, 'pending': 3, " EVENTFD_REST
        "}}, 'continues': true}, {'parameters': {'eventfd': {'name': 'b', 'new': [{}], " EVENTFD_REST "}}}]");
    assert_int_equal(evlink_list_eventfds(f->client, "a*", on_eventfd, &n), 0);
    assert_int_equal(n, 2);
    assert_sent(f, "ListEventfds", "{'match':'a*'}");
    n = 0;
    script(f,
        "[{'parameters': {'link': {'name': 'l', 'state': 'linked', 'producers': [{'endpoint': 'eventfd/a', "
        "'state': 'plugged'}], 'consumers': [{'endpoint': 'eventfd/b', 'state': 'plugged'}, {'endpoint': "
        "'eventfd/c', 'state': 'failed', 'reason': 'EBUSY'}], 'relayed': true, 'owner': {'uid': 1, 'gid': 1, "
        "'pid': 1}, 'lifetime': 'agent', 'since': 1}}}]");
    assert_int_equal(evlink_list_links(f->client, NULL, "g", on_link, &n), 0);
    assert_int_equal(n, 1);
    assert_sent(f, "ListLinks", "{'group':'g'}");
    script(f,
        "[{'parameters': {'agent': {'name': 'x', 'owner': {'uid': 1, 'gid': 1, 'pid': 1}, 'subsystems': "
        "[{'kind': 'kvm', 'name': 'vm1'}, {'kind': 'vfio', 'name': 'd'}], 'offered': [], 'since': 1}}}]");
    assert_int_equal(evlink_list_agents(f->client, NULL, on_agent, &n), 0);
    assert_int_equal(n, 2);
    script(f, "[{'parameters': {}}]");
    assert_int_equal(evlink_list_agents(f->client, NULL, on_agent, &n), 0);
    assert_int_equal(n, 2);
    script(f, "[{'parameters': {'version': '1.2', 'startedAt': 5, 'durable': true, 'restoredEventfds': 1, "
              "'restoredLinks': 2, 'eventfds': 3, 'links': 4, 'agents': 5, 'connections': 6}}]");
    assert_int_equal(evlink_status(f->client, &status), 0);
    assert_string_equal(status.version, "1.2");
    assert_true(status.durable);
    assert_int_equal(status.connections, 6);
    assert_string_equal(status.last_end, "");
    script(f, "[{'parameters': {'version': '1.2', 'startedAt': 5, 'durable': true, 'restoredEventfds': 1, "
              "'restoredLinks': 2, 'restoredAgents': 7, 'restoreMicroseconds': 8, 'lastEnd': 'killed', "
              "'eventfds': 3, 'links': 4, 'agents': 5, 'connections': 6}}]");
    assert_int_equal(evlink_status(f->client, &status), 0);
    assert_int_equal(status.restored_agents, 7);
    assert_int_equal(status.restored_in, 8);
    assert_string_equal(status.last_end, "killed");

    script(f, "[{'parameters': {'a': 1}, 'continues': true}, {'parameters': {'b': 2}}]");
    assert_int_equal(evlink_call(f->client, "x.y.Z", "{\"p\":[]}", NULL, 0, true, on_reply, &seen), 0);
    assert_int_equal(seen.n, 2);
    assert_string_equal(seen.text, "{\"b\":2}");
    script(f, "[{'error': 'io.evlink.Broker.NameTaken', 'parameters': {'name': 'n'}}]");
    assert_int_equal(
        evlink_call(f->client, "x.y.Z", NULL, NULL, 0, true, on_reply, &seen), EVLINK_E_NAME_TAKEN);
    assert_string_equal(seen.error, "io.evlink.Broker.NameTaken");
    assert_string_equal(seen.text, "{\"name\":\"n\"}");
    assert_int_equal(evlink_call(f->client, "x.y.Z", NULL, NULL, 0, true, NULL, NULL), EVLINK_E_NAME_TAKEN);
    assert_int_equal(evlink_call(f->client, "x.y.Z", "[]", NULL, 0, true, NULL, NULL), -EINVAL);
    assert_int_equal(evlink_call(f->client, "x.y.Z", "{", NULL, 0, true, NULL, NULL), -EINVAL);

    /* Longer than the broker takes. */
    text = calloc(1, FRAME_MAX + 1);
    assert_non_null(text);
    memset(text, 'a', FRAME_MAX);
    assert_int_equal(evlink_release(f->client, text), -EMSGSIZE);
    free(text);

    /* The third ends the list. */
    n = 2;
    script(f, "[{'parameters': {'eventfd': {'name': 'b', " EVENTFD_REST "}}, 'continues': true}, {}]");
    assert_int_equal(evlink_list_eventfds(f->client, NULL, on_eventfd, &n), -ECANCELED);
    assert_int_equal(evlink_release(f->client, "a"), -ENOTCONN);
    broker_stop(f);
    broker_start(f);
    script(f, "[{'parameters': {'eventfd': {'name': 'b'}}}]");
    assert_int_equal(evlink_list_eventfds(f->client, NULL, on_eventfd, &n), -EPROTO);
}

/* ---- The agent: plugs -----------------------------------------------------------------------------------
 */

static void test_interrupts(void **state)
{
    struct fixture *f = *state;
    int vm = need_guest(f, 0), fd = new_eventfd(), other = new_eventfd();
    size_t n;

    attach(f, 0, vm, NULL, NULL);
    assert_sent(f, "Attach",
        "{'name':'vmm','pidfdFileDescriptorIndex':0,'subsystems':[{'kind':'kvm','name':'vm1'}]}");
    assert_int_equal(f->broker.last_fds, 1);
    n = count_fds_settled(f);
    assert_string_equal(plug(f, "kvm/vm1/gsi/5", fd), "");
    /* The agent keeps nothing. */
    assert_int_equal(count_fds(), n);
    signal_eventfd(fd, 1);
    assert_int_equal(guest_wait(f->guest, 5, 1, PATIENCE_MS), 1);
    assert_int_equal(pending(fd), 0);
    assert_inventory(f, "[" ENTRY "]", "kvm/vm1/gsi/5", id_of(fd));

    /* One eventfd, one irqfd. */
    assert_string_equal(plug(f, "kvm/vm1/gsi/6", fd), "EBUSY");
    assert_string_equal(plug(f, "kvm/vm1/gsi/5", other), "");
    assert_inventory(f, "[" ENTRY "," ENTRY "]", "kvm/vm1/gsi/5", id_of(fd), "kvm/vm1/gsi/5", id_of(other));
    signal_eventfd(other, 1);
    assert_int_equal(guest_wait(f->guest, 5, 2, PATIENCE_MS), 2);
    assert_string_equal(unplug(f, "kvm/vm1/gsi/5", fd), "");
    assert_inventory(f, "[" ENTRY "]", "kvm/vm1/gsi/5", id_of(other));
    signal_eventfd(fd, 1);
    assert_int_equal(pending(fd), 1);
    assert_string_equal(unplug(f, "kvm/vm1/gsi/5", other), "");
    assert_string_equal(unplug(f, "kvm/vm1/gsi/5", other), "");
    assert_inventory(f, "[]");

    /* What an agent before this one plugged. */
    assert_int_equal(ioctl(vm, KVM_IRQFD, &(struct kvm_irqfd){ .fd = (unsigned)other, .gsi = 9 }), 0);
    assert_string_equal(unplug(f, "kvm/vm1/gsi/9", other), "");
    signal_eventfd(other, 1);
    assert_int_equal(pending(other), 1);

    /* Signals that were pending at Plug are injected, as one, and stay. */
    assert_string_equal(plug(f, "kvm/vm1/gsi/5", fd), "");
    assert_int_equal(guest_wait(f->guest, 5, 3, PATIENCE_MS), 3);
    assert_int_equal(pending(fd), 1);
    fd_close(fd);
    fd_close(other);
}

static void test_level(void **state)
{
    struct fixture *f = *state;
    int vm = need_guest(f, 0), fd = new_eventfd(), resample = new_eventfd();
    int64_t until;

    attach(f, 0, vm, NULL, NULL);
    assert_int_equal(guest_set_level(f->guest, 5, true), 0);
    assert_string_equal(plug(f, "kvm/vm1/gsi/5/level", fd), "EINVAL");
    assert_string_equal(plug_level(f, "kvm/vm1/gsi/5", fd, resample), "EINVAL");
    assert_string_equal(plug_level(f, "kvm/vm1/gsi/5/level", fd, resample), "");
    signal_eventfd(fd, 1);
    assert_int_equal(guest_wait(f->guest, 5, 1, PATIENCE_MS), 1);
    until = clock_read(CLOCK_MONOTONIC) + PATIENCE_MS * USEC_PER_MSEC;
    while (pending(resample) == 0 && clock_read(CLOCK_MONOTONIC) < until)
        ;
    assert_int_equal(pending(resample), 1);
    assert_inventory(f, "[" ENTRY "]", "kvm/vm1/gsi/5/level", id_of(fd));
    assert_string_equal(unplug(f, "kvm/vm1/gsi/5/level", fd), "");
    signal_eventfd(fd, 1);
    assert_int_equal(pending(fd), 1);
    assert_inventory(f, "[]");
    fd_close(fd);
    fd_close(resample);
}

static void test_no_irqchip(void **state)
{
    struct fixture *f = *state;
    int vm = need_guest(f, GUEST_NO_IRQCHIP), fd = new_eventfd();

    attach(f, 0, vm, NULL, NULL);
    assert_string_equal(plug(f, "kvm/vm1/gsi/5", fd), "EINVAL");
    assert_inventory(f, "[]");
    fd_close(fd);
}

static void test_doorbells(void **state)
{
    struct fixture *f = *state;
    int vm = need_guest(f, 0), fd = new_eventfd(), other = new_eventfd();

    attach(f, 0, vm, NULL, NULL);
    assert_string_equal(plug(f, "kvm/vm1/pio/0x600/2=0x1", fd), "");
    assert_int_equal(guest_ring_pio(f->guest, 0x600, 2, 1, 3), 0);
    assert_int_equal(pending(fd), 3);
    assert_int_equal(guest_ring_pio(f->guest, 0x600, 2, 2, 1), 1);
    assert_string_equal(plug(f, "kvm/vm1/pio/0x600/2=0x2", other), "");
    assert_int_equal(guest_ring_pio(f->guest, 0x600, 2, 2, 1), 0);
    assert_int_equal(pending(other), 1);
    assert_string_equal(plug(f, "kvm/vm1/pio/0x600", other), "EEXIST");
    assert_string_equal(plug(f, "kvm/vm1/pio/0x600/2", other), "EEXIST");
    assert_string_equal(plug(f, "kvm/vm1/pio/0x602", fd), "");
    assert_int_equal(guest_ring_pio(f->guest, 0x602, 1, 2, 1), 0);
    assert_int_equal(pending(fd), 4);
    assert_string_equal(plug(f, "kvm/vm1/mmio/0x20000/4", fd), "");
    assert_string_equal(plug(f, "kvm/vm1/mmio/0x20000/8=0x1122334455667788", fd), "");
    assert_int_equal(guest_ring_mmio(f->guest, 0x20000, 4, 9, 1), 0);
    assert_int_equal(pending(fd), 5);
    assert_string_equal(unplug(f, "kvm/vm1/pio/0x600/2=0x1", fd), "");
    assert_int_equal(guest_ring_pio(f->guest, 0x600, 2, 1, 1), 1);
    assert_string_equal(unplug(f, "kvm/vm1/pio/0x600/2=0x1", fd), "");
    assert_string_equal(unplug(f, "kvm/vm1/pio/0x602", fd), "");
    assert_string_equal(unplug(f, "kvm/vm1/mmio/0x20000/4", fd), "");
    assert_int_equal(guest_ring_mmio(f->guest, 0x20000, 4, 9, 1), 1);
    assert_string_equal(unplug(f, "kvm/vm1/mmio/0x20000/8=0x1122334455667788", fd), "");
    assert_inventory(f, "[" ENTRY "]", "kvm/vm1/pio/0x600/2=0x2", id_of(other));
    fd_close(fd);
    fd_close(other);
}

/* Results of a whole batch: the errno's names, separated by blanks, "-" for success. Static. */
static const char *take_results(struct fixture *f)
{
    static char names[256];
    struct json_reply reply = peer_reply(&f->broker.agent);
    json_t *result;
    size_t i;

    names[0] = '\0';
    json_array_foreach (json_object_get(reply.parameters, "results"), i, result) {
        const char *name = json_string_value(json_object_get(result, "errnoName"));

        (void)snprintf(
            names + strlen(names), sizeof(names) - strlen(names), "%s%s", i ? " " : "", name ? name : "-");
    }
    json_reply_clear(&reply);
    return names;
}

static json_t *item(const char *endpoint, int index, int64_t id)
{
    return json_pack("{s:s, s:i, s:I, s:s}", "endpoint", endpoint, "fileDescriptorIndex", index, "eventfdId",
        (json_int_t)id, "tomorrow", "x");
}

static void test_batches(void **state)
{
    struct fixture *f = *state;
    int vm = need_guest(f, 0), fds[3], n, lowest;
    struct rlimit limit, small;

    for (n = 0; n < 3; n++)
        fds[n] = new_eventfd();
    attach(f, 0, vm, NULL, NULL);
    peer_queue(&f->broker.agent, "io.evlink.Agent.Plug",
        json_pack("{s:[o, o, o, o, o, o, o, o, o]}", "items", item("kvm/vm1/gsi/5", 0, 1),
            item("kvm/vm1/gsi/6", 0, 1), item("kvm/vm2/gsi/5", 0, 1), item("vfio/d/intx", 0, 1),
            item("kvm/vm1/gsi/99999", 0, 1), item("kvm/vm1/gsi/9", 3, 1), item("kvm/vm1/gsi/9", -1, 1),
            item("kvm/vm1/dev/d/irq/1", 1, 1), item("kvm/vm1/gsi/10", 2, 3)),
        0, fds, 3);
    peer_flush(&f->broker.agent);
    dispatch(f);
    assert_string_equal(take_results(f), "- EBUSY ENODEV ENODEV EINVAL EBADF EBADF EOPNOTSUPP -");
    assert_inventory(f, "[" ENTRY "," ENTRY "]", "kvm/vm1/gsi/5", INT64_C(1), "kvm/vm1/gsi/10", INT64_C(3));
    /* The kernel's identity counts, not what the number is. */
    peer_queue(&f->broker.agent, "io.evlink.Agent.Unplug",
        json_pack("{s:[o, o]}", "items", item("kvm/vm1/gsi/5", 0, 1), item("kvm/vm1/gsi/10", 1, 3)), 0,
        fds + 0, 3);
    peer_flush(&f->broker.agent);
    dispatch(f);
    assert_string_equal(take_results(f), "- -");
    assert_inventory(f, "[]");

    /* Two of three descriptors do not fit into this process any more. */
    peer_queue(&f->broker.agent, "io.evlink.Agent.Plug",
        json_pack("{s:[o, o, o]}", "items", item("kvm/vm1/gsi/5", 0, 1), item("kvm/vm1/gsi/6", 1, 2),
            item("kvm/vm1/gsi/9", 2, 3)),
        0, fds, 3);
    peer_flush(&f->broker.agent);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    lowest = dup(0);
    assert_true(lowest >= 0);
    fd_close(lowest);
    small = limit;
    small.rlim_cur = (rlim_t)lowest + 1;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
    dispatch(f);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_string_equal(take_results(f), "- EMFILE EMFILE");
    for (n = 0; n < 3; n++)
        fd_close(fds[n]);
}

/* ---- The agent: callbacks -------------------------------------------------------------------------------
 */

struct vmm {
    struct fixture *f;
    char log[1024];
    int plug_result, resolve_result;
    bool silent;
};

static void record(struct vmm *vmm, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void record(struct vmm *vmm, const char *format, ...)
{
    size_t length = strlen(vmm->log);
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(vmm->log + length, sizeof(vmm->log) - length, format, arguments);
    va_end(arguments);
}

static void assert_log(struct vmm *vmm, const char *expected)
{
    assert_string_equal(vmm->log, expected);
    vmm->log[0] = '\0';
}

static void record_plug(struct vmm *vmm, const char *what, const struct evlink_plug *plug)
{
    record(vmm, "%s %s %s/%s %d l%d d%d/%u n%" PRIu64 " v%" PRIu64 " %s%s;", what, plug->endpoint,
        plug->subsystem, plug->device ? plug->device : "-", (int)plug->kind, plug->level, plug->datamatch,
        plug->length, plug->number, plug->value, fcntl(plug->fd, F_GETFD) >= 0 ? "fd" : "none",
        plug->resample_fd >= 0 ? "+resample" : "");
}

static int vmm_plug(void *userdata, const struct evlink_plug *plug)
{
    struct vmm *vmm = userdata;

    record_plug(vmm, "plug", plug);
    return vmm->plug_result;
}

static int vmm_unplug(void *userdata, const struct evlink_plug *plug)
{
    struct vmm *vmm = userdata;

    record_plug(vmm, "unplug", plug);
    return vmm->plug_result;
}

static int vmm_resolve(void *userdata, struct evlink_plug *plug)
{
    struct vmm *vmm = userdata;

    record_plug(vmm, "resolve", plug);
    if (plug->kind == EVLINK_PLUG_IRQ) {
        plug->kind = EVLINK_PLUG_GSI;
        plug->number += 5;
    } else {
        plug->kind = EVLINK_PLUG_PIO;
        plug->number += 0x600;
        plug->length = 2;
        plug->datamatch = true;
        plug->value = 7;
    }
    return vmm->resolve_result;
}

static void vmm_notify(
    void *userdata, const char *type, const char *endpoint, const char *link, const char *reason)
{
    record(userdata, "%s %s %s %s;", type, endpoint, link, reason ? reason : "-");
}

static void test_callbacks(void **state)
{
    const struct evlink_agent_ops ops = { .plug = vmm_plug, .unplug = vmm_unplug, .notify = vmm_notify };
    struct fixture *f = *state;
    struct vmm vmm = { .f = f };
    int fd = new_eventfd(), resample = new_eventfd();

    attach(f, 0, -1, &ops, &vmm);
    assert_string_equal(plug(f, "kvm/vm1/gsi/5", fd), "");
    assert_log(&vmm, "plug kvm/vm1/gsi/5 vm1/- 0 l0 d0/0 n5 v0 fd;");
    assert_string_equal(plug(f, "kvm/vm1/mmio/0x10/4=0x2", fd), "");
    assert_log(&vmm, "plug kvm/vm1/mmio/0x10/4=0x2 vm1/- 2 l0 d1/4 n16 v2 fd;");
    assert_string_equal(plug_level(f, "kvm/vm1/dev/net0/irq/1/level", fd, resample), "");
    assert_log(&vmm, "plug kvm/vm1/dev/net0/irq/1/level vm1/net0 3 l1 d0/0 n1 v0 fd+resample;");
    assert_string_equal(plug(f, "kvm/vm1/dev/net0/notify/1", fd), "");
    assert_log(&vmm, "plug kvm/vm1/dev/net0/notify/1 vm1/net0 4 l0 d0/0 n1 v0 fd;");
    assert_string_equal(unplug(f, "kvm/vm1/dev/net0/notify/1", fd), "");
    assert_log(&vmm, "unplug kvm/vm1/dev/net0/notify/1 vm1/net0 4 l0 d0/0 n1 v0 fd;");
    vmm.plug_result = -EPERM;
    assert_string_equal(plug(f, "kvm/vm1/gsi/6", fd), "EPERM");
    assert_string_equal(unplug(f, "kvm/vm1/gsi/5", fd), "EPERM");
    vmm.plug_result = 1;
    assert_string_equal(plug(f, "kvm/vm1/gsi/6", fd), "EINVAL");
    vmm.plug_result = 0;
    /* An unplug that failed leaves it in the table. */
    assert_inventory(f, "[" ENTRY "," ENTRY "," ENTRY "]", "kvm/vm1/gsi/5", id_of(fd),
        "kvm/vm1/mmio/0x10/4=0x2", id_of(fd), "kvm/vm1/dev/net0/irq/1/level", id_of(fd));
    assert_int_equal(evlink_agent_mask(f->agent, "kvm/vm1/gsi/5"), -EOPNOTSUPP);

    vmm.log[0] = '\0';
    peer_queue(&f->broker.agent, "io.evlink.Agent.Notify",
        json_pack(
            "{s:s, s:s, s:s, s:s}", "type", "left", "endpoint", "kvm/vm1/gsi/5", "link", "l", "reason", "r"),
        VARLINK_ONEWAY, NULL, 0);
    peer_queue(&f->broker.agent, "io.evlink.Agent.Notify",
        json_pack("{s:s, s:s, s:s}", "type", "left", "endpoint", "kvm/vm2/gsi/5", "link", "l"),
        VARLINK_ONEWAY, NULL, 0);
    peer_queue(&f->broker.agent, "io.evlink.Agent.Notify",
        json_pack("{s:s, s:s, s:s}", "type", "new", "endpoint", "kvm/vm1/gsi/5", "link", "l"), VARLINK_ONEWAY,
        NULL, 0);
    peer_flush(&f->broker.agent);
    assert_inventory(f, "[" ENTRY "," ENTRY "," ENTRY "]", "kvm/vm1/gsi/5", id_of(fd),
        "kvm/vm1/mmio/0x10/4=0x2", id_of(fd), "kvm/vm1/dev/net0/irq/1/level", id_of(fd));
    assert_log(&vmm, "left kvm/vm1/gsi/5 l r;new kvm/vm1/gsi/5 l -;");
    fd_close(fd);
    fd_close(resample);
}

static void test_resolve(void **state)
{
    const struct evlink_agent_ops ops = { .resolve = vmm_resolve };
    struct fixture *f = *state;
    struct vmm vmm = { .f = f };
    int vm = need_guest(f, 0), fd = new_eventfd(), other = new_eventfd();

    attach(f, 0, vm, &ops, &vmm);
    assert_string_equal(plug(f, "kvm/vm1/dev/net0/irq/0", fd), "");
    assert_log(&vmm, "resolve kvm/vm1/dev/net0/irq/0 vm1/net0 3 l0 d0/0 n0 v0 fd;");
    signal_eventfd(fd, 1);
    assert_int_equal(guest_wait(f->guest, 5, 1, PATIENCE_MS), 1);
    assert_string_equal(plug(f, "kvm/vm1/dev/net0/notify/2", other), "");
    assert_int_equal(guest_ring_pio(f->guest, 0x602, 2, 7, 1), 0);
    assert_int_equal(pending(other), 1);
    vmm.log[0] = '\0';
    /* Not asked again for what is in the table, whatever became of it. */
    vmm.resolve_result = -EIO;
    assert_string_equal(unplug(f, "kvm/vm1/dev/net0/notify/2", other), "");
    assert_log(&vmm, "");
    assert_int_equal(guest_ring_pio(f->guest, 0x602, 2, 7, 1), 1);
    assert_string_equal(unplug(f, "kvm/vm1/dev/net0/irq/0", fd), "");
    assert_log(&vmm, "");
    signal_eventfd(fd, 1);
    assert_int_equal(pending(fd), 1);
    /* Asked for what an agent before this one plugged. */
    assert_string_equal(unplug(f, "kvm/vm1/dev/net0/irq/0", fd), "EIO");
    vmm.resolve_result = -ENODEV;
    assert_string_equal(unplug(f, "kvm/vm1/dev/net0/irq/0", fd), "");
    assert_string_equal(plug(f, "kvm/vm1/dev/net0/irq/0", fd), "ENODEV");
    vmm.resolve_result = 0;
    assert_int_equal(ioctl(vm, KVM_IRQFD, &(struct kvm_irqfd){ .fd = (unsigned)other, .gsi = 9 }), 0);
    assert_string_equal(unplug(f, "kvm/vm1/dev/net0/irq/4", other), "");
    signal_eventfd(other, 1);
    assert_int_equal(pending(other), 1); /* a deassign has read the counter empty before */
    assert_inventory(f, "[]");
    fd_close(fd);
    fd_close(other);
}

/* ---- The agent: masks -----------------------------------------------------------------------------------
 */

static void test_mask(void **state)
{
    struct fixture *f = *state;
    int vm = need_guest(f, 0), fd = new_eventfd(), second = new_eventfd(), third = new_eventfd();
    size_t n;

    attach(f, EVLINK_AGENT_KEEP, vm, NULL, NULL);
    assert_int_equal(evlink_agent_mask(f->agent, "kvm/vm1/gsi/5"), -ENOENT);
    assert_int_equal(evlink_agent_mask(f->agent, "kvm/vm1/gsi"), -EINVAL);
    n = count_fds_settled(f);
    assert_string_equal(plug(f, "kvm/vm1/gsi/5", fd), "");
    assert_int_equal(count_fds(), n + 1);
    assert_string_equal(plug(f, "kvm/vm1/pio/0x600", second), "");
    assert_int_equal(evlink_agent_mask(f->agent, "kvm/vm1/pio/0x600"), -EOPNOTSUPP);
    assert_string_equal(unplug(f, "kvm/vm1/pio/0x600", second), "");
    signal_eventfd(fd, 1);
    assert_int_equal(guest_wait(f->guest, 5, 1, PATIENCE_MS), 1);
    assert_int_equal(evlink_agent_unmask(f->agent, "kvm/vm1/gsi/5"), 0);
    assert_int_equal(evlink_agent_mask(f->agent, "kvm/vm1/gsi/5"), 0);
    assert_int_equal(evlink_agent_mask(f->agent, "kvm/vm1/gsi/0x5"), 0);
    signal_eventfd(fd, 2);
    assert_int_equal(pending(fd), 2);
    assert_inventory(f, "[" ENTRY "]", "kvm/vm1/gsi/5", id_of(fd));
    assert_int_equal(guest_interrupts(f->guest, 5), 1);
    /* Injected once, left standing, and drained by the next signal. */
    assert_int_equal(evlink_agent_unmask(f->agent, "kvm/vm1/gsi/5"), 0);
    assert_int_equal(guest_wait(f->guest, 5, 2, PATIENCE_MS), 2);
    assert_int_equal(pending(fd), 2);
    signal_eventfd(fd, 1);
    assert_int_equal(guest_wait(f->guest, 5, 3, PATIENCE_MS), 3);
    assert_int_equal(pending(fd), 0);

    /* A shared GSI is masked as one, and what is plugged meanwhile with it. */
    assert_string_equal(plug(f, "kvm/vm1/gsi/5", second), "");
    assert_int_equal(evlink_agent_mask(f->agent, "kvm/vm1/gsi/5"), 0);
    assert_string_equal(plug(f, "kvm/vm1/gsi/5", third), "");
    assert_string_equal(plug(f, "kvm/vm1/gsi/5", third), "EBUSY");
    signal_eventfd(fd, 1);
    signal_eventfd(second, 1);
    signal_eventfd(third, 1);
    assert_int_equal(pending(fd) + pending(second) + pending(third), 3);
    assert_int_equal(guest_interrupts(f->guest, 5), 3);
    assert_string_equal(unplug(f, "kvm/vm1/gsi/5", second), "");
    assert_int_equal(evlink_agent_unmask(f->agent, "kvm/vm1/gsi/5"), 0);
    assert_int_equal(pending(second), 1);
    assert_true(guest_wait(f->guest, 5, 4, PATIENCE_MS) >= 4);
    signal_eventfd(fd, 1);
    signal_eventfd(third, 1);
    assert_int_equal(pending(fd) + pending(third), 0);

    /* Unplug of what is masked leaves nothing behind. */
    assert_int_equal(evlink_agent_mask(f->agent, "kvm/vm1/gsi/5"), 0);
    assert_string_equal(unplug(f, "kvm/vm1/gsi/5", fd), "");
    assert_string_equal(unplug(f, "kvm/vm1/gsi/5", third), "");
    assert_int_equal(count_fds(), n);
    assert_int_equal(evlink_agent_unmask(f->agent, "kvm/vm1/gsi/5"), -ENOENT);
    signal_eventfd(fd, 1);
    assert_int_equal(pending(fd), 1);
    assert_inventory(f, "[]");
    /* And the next one is not masked. */
    assert_string_equal(plug(f, "kvm/vm1/gsi/5", second), "");
    signal_eventfd(second, 1);
    assert_int_equal(pending(second), 0);
    fd_close(fd);
    fd_close(second);
    fd_close(third);
}

/* ---- The agent: who serves it ---------------------------------------------------------------------------
 */

static void test_arguments(void **state)
{
    struct fixture *f = *state;
    int vm = need_guest(f, GUEST_NO_IRQCHIP), fd = new_eventfd();
    struct evlink_agent *agent;
    pid_t child;
    int status;

    assert_int_equal(evlink_agent_new("no/name", 0, &agent), -EINVAL);
    assert_int_equal(evlink_agent_new("a", 1u << 30, &agent), -EINVAL);
    assert_int_equal(evlink_agent_new("vmm", EVLINK_AGENT_TAKEOVER, &agent), 0);
    assert_int_equal(evlink_agent_attach(agent, f->client), -EINVAL);
    assert_message(f, "evlink_agent_add_kvm");
    assert_int_equal(evlink_agent_add_kvm(agent, "a/b", vm, NULL, NULL), -EINVAL);
    assert_int_equal(evlink_agent_add_kvm(agent, "vm1", fd, NULL, NULL), -ENOTTY);
    assert_int_equal(evlink_agent_add_kvm(agent, "vm1", -1, NULL, NULL), -EBADF);
    child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(evlink_agent_add_kvm(agent, "vm1", vm, NULL, NULL) == -EIO ? 0 : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(evlink_agent_add_kvm(agent, "vm1", vm, NULL, NULL), 0);
    assert_int_equal(evlink_agent_add_kvm(agent, "vm1", vm, NULL, NULL), -EEXIST);
    assert_int_equal(evlink_agent_dispatch(agent), -ENOTCONN);
    assert_int_equal(evlink_agent_start(agent), -ENOTCONN);
    assert_int_equal(evlink_agent_run(agent), -ENOTCONN);
    assert_int_equal(evlink_agent_attach(agent, f->client), 0);
    assert_sent(f, "Attach",
        "{'name':'vmm','pidfdFileDescriptorIndex':0,'subsystems':[{'kind':'kvm','name':'vm1'}],'takeover':"
        "true}");
    assert_int_equal(evlink_agent_attach(agent, f->client), -EISCONN);
    assert_int_equal(evlink_agent_add_kvm(agent, "vm2", vm, NULL, NULL), -EISCONN);
    assert_null(evlink_agent_free(agent));
    assert_null(evlink_agent_free(NULL));
    assert_null(evlink_client_free(NULL));
    fd_close(fd);
}

/* Calls the agent and wants no less than a good answer, from somebody who serves it. */
static void assert_serves(struct fixture *f)
{
    struct json_reply reply;

    peer_queue(&f->broker.agent, "io.evlink.Agent.Inventory", json_object(), 0, NULL, 0);
    peer_flush(&f->broker.agent);
    reply = peer_reply(&f->broker.agent);
    assert_null(reply.error);
    assert_non_null(json_object_get(reply.parameters, "plugged"));
    assert_null(json_object_get(reply.parameters, "token"));
    json_reply_clear(&reply);
}

static int vmm_stop(void *userdata, const struct evlink_plug *plug)
{
    struct vmm *vmm = userdata;

    (void)plug;
    assert_int_equal(evlink_agent_stop(vmm->f->agent), 0);
    assert_int_equal(evlink_agent_dispatch(vmm->f->agent), -EDEADLK);
    assert_int_equal(evlink_agent_run(vmm->f->agent), -EDEADLK);
    assert_int_equal(evlink_agent_start(vmm->f->agent), -EDEADLK);
    return 0;
}

static void test_thread(void **state)
{
    const struct evlink_agent_ops ops = { .plug = vmm_stop, .unplug = vmm_unplug };
    struct fixture *f = *state;
    struct vmm vmm = { .f = f };
    int fd = new_eventfd();
    sigset_t before, after;

    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &before), 0);
    attach(f, 0, -1, &ops, &vmm);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(evlink_agent_start(f->agent), 0);
        assert_int_equal(evlink_agent_start(f->agent), -EBUSY);
        assert_int_equal(evlink_agent_run(f->agent), -EBUSY);
        assert_int_equal(evlink_agent_dispatch(f->agent), -EBUSY);
        assert_serves(f);
        assert_int_equal(evlink_agent_stop(f->agent), 0);
        assert_int_equal(evlink_agent_stop(f->agent), 0);
    }
    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
    assert_int_equal(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
    /* A callback stops it; its answer goes out first. */
    assert_int_equal(evlink_agent_start(f->agent), 0);
    queue_item(f, "io.evlink.Agent.Plug", "kvm/vm1/gsi/5", fd, -1);
    assert_string_equal(take_result(f, "kvm/vm1/gsi/5"), "");
    assert_int_equal(evlink_agent_stop(f->agent), 0);
    /* The broker goes, and another attaches the same agent, which has its table still. */
    assert_int_equal(evlink_agent_start(f->agent), 0);
    assert_int_equal(shutdown(f->broker.agent.fd, SHUT_RDWR), 0);
    while (evlink_agent_attach(f->agent, f->client) == -EISCONN)
        ;
    assert_int_equal(evlink_agent_stop(f->agent), -ECONNRESET);
    assert_inventory(f, "[" ENTRY "]", "kvm/vm1/gsi/5", id_of(fd));
    fd_close(fd);
}

static void *run_main(void *data)
{
    return (void *)(intptr_t)evlink_agent_run(data);
}

static void test_run(void **state)
{
    const struct evlink_agent_ops ops = { .plug = vmm_plug, .unplug = vmm_unplug };
    struct fixture *f = *state;
    struct vmm vmm = { .f = f };
    pthread_t thread;
    void *result;

    attach(f, 0, -1, &ops, &vmm);
    assert_int_equal(pthread_create(&thread, NULL, run_main, f->agent), 0);
    assert_serves(f);
    assert_int_equal(evlink_agent_stop(f->agent), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_int_equal((intptr_t)result, 0);
    /* A stop that came too early is not lost. */
    assert_int_equal(evlink_agent_stop(f->agent), 0);
    assert_int_equal(evlink_agent_run(f->agent), 0);
    assert_int_equal(pthread_create(&thread, NULL, run_main, f->agent), 0);
    assert_serves(f);
    assert_int_equal(shutdown(f->broker.agent.fd, SHUT_RDWR), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_int_equal((intptr_t)result, -ECONNRESET);
    assert_int_equal(evlink_agent_run(f->agent), -ENOTCONN);
}

static int vmm_call(void *userdata, const struct evlink_plug *plug)
{
    struct vmm *vmm = userdata;

    record_plug(vmm, "plug", plug);
    if (!vmm->silent)
        record(vmm, "%d;", evlink_release(vmm->f->client, "a"));
    return 0;
}

static void test_dispatch_in_call(void **state)
{
    static const char *const from[] = { "eventfd/a", NULL }, *const to[] = { "kvm/vm1/gsi/5", NULL };
    const struct evlink_link_spec spec = { .producers = from, .consumers = to };
    const struct evlink_agent_ops ops = { .plug = vmm_call, .unplug = vmm_unplug };
    struct fixture *f = *state;
    struct vmm vmm = { .f = f };
    char expected[128];

    attach(f, 0, -1, &ops, &vmm);
    (void)snprintf(expected, sizeof(expected), "plug kvm/vm1/gsi/5 vm1/- 0 l0 d0/0 n5 v0 fd;%d;", -EDEADLK);
    f->broker.plug_fd = new_eventfd();
    f->broker.plug_items = json_pack("[o]", item("kvm/vm1/gsi/5", 0, 1));
    assert_int_equal(evlink_connect(f->client, &spec, NULL), 0);
    assert_log(&vmm, expected);
    assert_int_equal(json_array_size(json_object_get(f->broker.plug_reply, "results")), 1);
    json_decref(f->broker.plug_reply);
    /* The same while it is served elsewhere. */
    vmm.silent = true;
    assert_int_equal(evlink_agent_start(f->agent), 0);
    assert_int_equal(evlink_connect(f->client, &spec, NULL), 0);
    assert_int_equal(evlink_agent_stop(f->agent), 0);
    vmm.silent = false;
    vmm.log[0] = '\0';
    /* And out of a dispatch: the call is made, its agent left alone. */
    queue_item(f, "io.evlink.Agent.Plug", "kvm/vm1/gsi/5", f->broker.plug_fd, -1);
    dispatch(f);
    assert_string_equal(take_result(f, "kvm/vm1/gsi/5"), "");
    assert_log(&vmm, "plug kvm/vm1/gsi/5 vm1/- 0 l0 d0/0 n5 v0 fd;0;");

    /* The session that ends during a call is told to the owner's dispatch. */
    assert_int_equal(shutdown(f->broker.agent.fd, SHUT_RDWR), 0);
    f->broker.silent = true;
    evlink_client_set_timeout(f->client, 50);
    assert_int_equal(evlink_release(f->client, "a"), -ETIMEDOUT);
    assert_int_equal(poll(&(struct pollfd){ .fd = evlink_agent_fd(f->agent), .events = POLLIN }, 1, 0), 1);
    assert_int_equal(evlink_agent_dispatch(f->agent), -ECONNRESET);
    assert_int_equal(poll(&(struct pollfd){ .fd = evlink_agent_fd(f->agent), .events = POLLIN }, 1, 0), 0);
    assert_int_equal(evlink_agent_dispatch(f->agent), -ENOTCONN);
    fd_close(f->broker.plug_fd);
}

static void test_either_first(void **state)
{
    struct json_reply reply;
    const struct evlink_agent_ops ops = { .plug = vmm_plug, .unplug = vmm_unplug };
    struct fixture *f = *state;
    struct vmm vmm = { .f = f };

    /* The agent first: the client's next call does without. */
    attach(f, 0, -1, &ops, &vmm);
    f->agent = evlink_agent_free(f->agent);
    assert_int_equal(evlink_release(f->client, "a"), 0);
    /* The client first: the agent stays attached. */
    attach(f, 0, -1, &ops, &vmm);
    f->client = evlink_client_free(f->client);
    peer_queue(&f->broker.agent, "io.evlink.Agent.Inventory", json_object(), 0, NULL, 0);
    peer_flush(&f->broker.agent);
    dispatch(f);
    reply = peer_reply(&f->broker.agent);
    json_reply_clear(&reply);
}

static void *free_elsewhere(void *data)
{
    struct evlink_agent *agent = data;

    CHECK(evlink_agent_start(agent) == 0);
    CHECK(evlink_agent_stop(agent) == 0);
    evlink_agent_free(agent);
    return NULL;
}

static void test_freed_elsewhere(void **state)
{
    const struct evlink_agent_ops ops = { .plug = vmm_plug, .unplug = vmm_unplug };
    struct fixture *f = *state;
    struct vmm vmm = { .f = f };

    for (int i = 0; i < 50; i++) {
        pthread_t thread;

        attach(f, 0, -1, &ops, &vmm);
        peer_queue(&f->broker.agent, "io.evlink.Agent.Inventory", json_object(), 0, NULL, 0);
        peer_flush(&f->broker.agent);
        assert_int_equal(pthread_create(&thread, NULL, free_elsewhere, f->agent), 0);
        f->agent = NULL;
        for (int j = 0; j < 10; j++)
            assert_int_equal(evlink_release(f->client, "a"), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
}

/* ---- The agent: the wire --------------------------------------------------------------------------------
 */

static void assert_refused(struct fixture *f, const char *method, json_t *parameters, const char *error,
    const char *key, const char *value)
{
    struct json_reply reply;

    peer_queue(&f->broker.agent, method, parameters, 0, NULL, 0);
    peer_flush(&f->broker.agent);
    dispatch(f);
    reply = peer_reply(&f->broker.agent);
    assert_string_equal(reply.error, error);
    assert_string_equal(json_string_value(json_object_get(reply.parameters, key)), value);
    json_reply_clear(&reply);
}

static void test_bad_calls(void **state)
{
    static const char invalid[] = "org.varlink.service.InvalidParameter";
    const struct evlink_agent_ops ops = { .plug = vmm_plug, .unplug = vmm_unplug };
    struct fixture *f = *state;
    struct vmm vmm = { .f = f };
    size_t n;
    int fd = new_eventfd();

    attach(f, 0, -1, &ops, &vmm);
    assert_refused(f, "io.evlink.Agent.New", json_object(), "org.varlink.service.MethodNotFound", "method",
        "io.evlink.Agent.New");
    assert_refused(f, "io.evlink.Agent.Plug", json_object(), invalid, "parameter", "items");
    assert_refused(f, "io.evlink.Agent.Plug", json_pack("{s:i}", "items", 1), invalid, "parameter", "items");
    assert_refused(
        f, "io.evlink.Agent.Plug", json_pack("{s:[], s:i}", "items", "x", 1), invalid, "parameter", "x");
    assert_refused(f, "io.evlink.Agent.Plug",
        json_pack("{s:[o, {s:s}]}", "items", item("kvm/vm1/gsi/5", 0, 1), "endpoint", "kvm/vm1/gsi/5"),
        invalid, "parameter", "fileDescriptorIndex");
    assert_refused(
        f, "io.evlink.Agent.Inventory", json_pack("{s:s}", "token", "x"), invalid, "parameter", "token");
    assert_refused(
        f, "io.evlink.Agent.Notify", json_pack("{s:s}", "type", "x"), invalid, "parameter", "endpoint");
    /* Nothing of that reached the VMM. */
    assert_log(&vmm, "");

    /* Oneway gets no answer, and its descriptors do not stay. */
    n = count_fds_settled(f);
    peer_queue(&f->broker.agent, "io.evlink.Agent.Plug",
        json_pack("{s:[o]}", "items", item("kvm/vm1/gsi/5", 0, 1)), VARLINK_ONEWAY, &fd, 1);
    peer_queue(&f->broker.agent, "io.evlink.Agent.New", json_object(), VARLINK_ONEWAY, &fd, 1);
    peer_queue(&f->broker.agent, "io.evlink.Agent.Unplug",
        json_pack("{s:[o]}", "items", item("kvm/vm1/gsi/5", 0, 1)), VARLINK_ONEWAY, &fd, 1);
    peer_flush(&f->broker.agent);
    assert_inventory(f, "[]");
    assert_int_equal(count_fds(), n);

    assert_int_equal(send(f->broker.agent.fd, "{\"method\":1}", 13, 0), 13);
    assert_int_equal(poll(&(struct pollfd){ .fd = evlink_agent_fd(f->agent), .events = POLLIN }, 1, 0), 1);
    assert_int_equal(evlink_agent_dispatch(f->agent), -EPROTO);
    assert_int_equal(evlink_agent_dispatch(f->agent), -ENOTCONN);
    fd_close(fd);
}

static void test_much(void **state)
{
    const struct evlink_agent_ops ops = { .plug = vmm_plug, .unplug = vmm_unplug };
    struct fixture *f = *state;
    struct vmm vmm = { .f = f };
    struct pollfd polled;
    struct json_reply reply;
    int fd = new_eventfd();
    size_t seen = 0;

    f->broker.sndbuf = 4096;
    attach(f, 0, -1, &ops, &vmm);
    polled = (struct pollfd){ .fd = evlink_agent_fd(f->agent), .events = POLLIN };
    for (int i = 0; i < 4; i++) {
        json_t *items = json_array();

        for (int j = 0; j < 1000; j++) {
            char endpoint[128];

            (void)snprintf(endpoint, sizeof(endpoint),
                "kvm/vm1/dev/a-device-with-a-name-of-a-good-deal-of-length-0000.01.00.0/irq/%d",
                i * 1000 + j);
            json_array_append_new(items, item(endpoint, 0, j));
        }
        peer_queue(&f->broker.agent, "io.evlink.Agent.Plug", json_pack("{s:o}", "items", items), 0, &fd, 1);
        /* Answers that nobody reads yet: the agent stops taking up calls, and is not woken for nothing. */
        while (socket_send(f->broker.agent.fd, &f->broker.agent.out) == -EAGAIN && poll(&polled, 1, 0) == 1)
            assert_int_equal(evlink_agent_dispatch(f->agent), 0);
        for (bool more = true; more;) {
            struct frame frame;

            if (frame_in_next(&f->broker.agent.in, &frame) > 0) {
                more = false;
                continue;
            }
            (void)socket_send(f->broker.agent.fd, &f->broker.agent.out);
            (void)socket_receive(f->broker.agent.fd, &f->broker.agent.in);
            assert_int_equal(evlink_agent_dispatch(f->agent), 0);
        }
    }
    for (int i = 0; i < 40; i++)
        peer_queue(&f->broker.agent, "io.evlink.Agent.Inventory", json_object(), 0, NULL, 0);
    (void)socket_send(f->broker.agent.fd, &f->broker.agent.out);
    while (poll(&polled, 1, 0) == 1)
        assert_int_equal(evlink_agent_dispatch(f->agent), 0);
    assert_int_equal(evlink_agent_start(f->agent), 0);
    peer_flush(&f->broker.agent);
    for (int i = 0; i < 40; i++) {
        reply = peer_reply(&f->broker.agent);
        seen += json_array_size(json_object_get(reply.parameters, "plugged"));
        json_reply_clear(&reply);
    }
    assert_int_equal(seen, 40 * 4000);
    fd_close(fd);
}

/* ---- The agent under a seccomp filter -------------------------------------------------------------------
 */

/* What evlink.h says above evlink_agent_run(), but for openat: the broker here sends each eventfdId. */
static const int allowed[] = {
#ifdef SYS_epoll_wait
    SYS_epoll_wait,
#endif
    SYS_epoll_pwait,
    SYS_epoll_ctl,
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_read,
    SYS_close,
    SYS_ioctl,
    SYS_fcntl,
    SYS_futex,
    SYS_brk,
    SYS_mmap,
    SYS_munmap,
    SYS_mremap,
    SYS_mprotect,
    SYS_madvise,
};

static struct shared {
    atomic_int violation; /* the system call's number */
    atomic_int result;    /* evlink_agent_run()'s; 1 before it returned */
} * shared;

static void on_violation(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    atomic_store(&shared->violation, info->si_syscall);
    for (;;)
        ; /* nothing else is allowed here */
}

static void install_filter(void)
{
    struct sock_filter code[ARRAY_SIZE(allowed) + 3];
    struct sock_fprog program = { .len = ARRAY_SIZE(code), .filter = code };
    size_t n = 0;

    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
        code[n++] = (struct sock_filter)BPF_JUMP(
            BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i], (unsigned char)(ARRAY_SIZE(allowed) - i), 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* Masks and unmasks all the time, so that the confined agent has to wait for a lock. */
static void *confined_masker(void *data)
{
    struct fixture *f = data;

    while (atomic_load(&shared->result) == 1) {
        (void)evlink_agent_mask(f->agent, "kvm/vm1/gsi/5");
        (void)evlink_agent_unmask(f->agent, "kvm/vm1/gsi/5");
        (void)sched_yield();
    }
    return NULL;
}

#define CONFINED_ITEMS 250

static void confined_items(struct fixture *f, const char *method, const int *fds)
{
    struct json_reply reply;
    json_t *items = json_array(), *result;
    size_t i;

    for (int j = 0; j < CONFINED_ITEMS; j++) {
        char endpoint[64];

        (void)snprintf(endpoint, sizeof(endpoint), j % 2 ? "kvm/vm1/gsi/%d" : "kvm/vm1/pio/%d/2=5", j);
        json_array_append_new(items, item(endpoint, j, j));
    }
    peer_queue(&f->broker.agent, method, json_pack("{s:o}", "items", items), 0, fds, CONFINED_ITEMS);
    peer_flush(&f->broker.agent);
    reply = peer_reply(&f->broker.agent);
    json_array_foreach (json_object_get(reply.parameters, "results"), i, result)
        CHECK(!json_object_get(result, "errno"));
    CHECK(i == CONFINED_ITEMS);
    json_reply_clear(&reply);
}

/* The broker of the confined agent: in steady state, with everything that there is. Ends the process. */
static void *confined_broker(void *data)
{
    struct fixture *f = data;
    int fds[CONFINED_ITEMS];

    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        CHECK((fds[i] = eventfd_create(false)) >= 0);
    for (int round = 0; round < 10; round++) {
        confined_items(f, "io.evlink.Agent.Plug", fds);
        peer_queue(&f->broker.agent, "io.evlink.Agent.Notify",
            json_pack("{s:s, s:s, s:s}", "type", "left", "endpoint", "kvm/vm1/gsi/5", "link", "l"),
            VARLINK_ONEWAY, NULL, 0);
        /* More answers than the socket takes. */
        for (int i = 0; i < 50; i++)
            peer_queue(&f->broker.agent, "io.evlink.Agent.Inventory", json_object(), 0, NULL, 0);
        peer_flush(&f->broker.agent);
        (void)poll(NULL, 0, 10);
        for (int i = 0; i < 50; i++) {
            struct json_reply reply = peer_reply(&f->broker.agent);

            json_reply_clear(&reply);
        }
        confined_items(f, "io.evlink.Agent.Unplug", fds);
    }
    CHECK(evlink_agent_stop(f->agent) == 0);
    for (int i = 0; i < PATIENCE_MS && atomic_load(&shared->result) == 1; i++)
        (void)poll(NULL, 0, 1);
    CHECK(atomic_load(&shared->result) == 0);
    _exit(0);
}

/* Nothing but evlink_agent_run() is confined: what comes before and after makes no difference to it. */
static void *confined_run(void *data)
{
    struct fixture *f = data;

    install_filter();
    atomic_store(&shared->result, evlink_agent_run(f->agent));
    while (true)
        ;
    return NULL;
}

static void confined_child(bool in_thread)
{
    const struct sigaction action = { .sa_sigaction = on_violation, .sa_flags = SA_SIGINFO };
    struct fixture *f = calloc(1, sizeof(*f));
    pthread_t broker, masker, runner;

    /* cmocka's asserts cannot jump out of this process. */
    (void)setenv("CMOCKA_TEST_ABORT", "1", 1);
    CHECK(sigaction(SIGSYS, &action, NULL) == 0);
    CHECK(guest_new(0, &f->guest) == 0);
    broker_start(f);
    f->broker.sndbuf = 4096;
    attach(f, EVLINK_AGENT_KEEP, guest_vm_fd(f->guest), NULL, NULL);
    CHECK(pthread_create(&broker, NULL, confined_broker, f) == 0);
    CHECK(pthread_create(&masker, NULL, confined_masker, f) == 0);
    if (!in_thread)
        (void)confined_run(f);
    CHECK(pthread_create(&runner, NULL, confined_run, f) == 0);
    (void)pthread_join(runner, NULL);
}

static void test_seccomp(void **state)
{
    struct fixture *f = *state;

    if (SANITIZED) {
        print_message("SKIP: sanitizers make system calls of their own\n");
        skip();
    }
    (void)need_guest(f, 0);
    f->guest = guest_free(f->guest);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    for (int in_thread = 0; in_thread < 2; in_thread++) {
        pid_t child;
        int status;

        atomic_store(&shared->violation, -1);
        atomic_store(&shared->result, 1);
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            confined_child(in_thread);
            _exit(2);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        if (atomic_load(&shared->violation) >= 0)
            fail_msg("evlink_agent_run() made system call %d", atomic_load(&shared->violation));
        assert_int_equal(status, 0);
    }
    (void)munmap(shared, sizeof(*shared));
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_errors),
        TEST(test_refused_many),
        TEST(test_refused_oddities),
        TEST(test_verbs),
        TEST(test_time_out),
        TEST(test_nonsense),
        TEST(test_open),
        TEST(test_lists),
        TEST(test_interrupts),
        TEST(test_level),
        TEST(test_no_irqchip),
        TEST(test_doorbells),
        TEST(test_batches),
        TEST(test_callbacks),
        TEST(test_resolve),
        TEST(test_mask),
        TEST(test_arguments),
        TEST(test_thread),
        TEST(test_run),
        TEST(test_dispatch_in_call),
        TEST(test_either_first),
        TEST(test_freed_elsewhere),
        TEST(test_bad_calls),
        TEST(test_much),
        TEST(test_seccomp),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
