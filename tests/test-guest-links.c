/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Links of every kind between real guests: level ones, relayed ones, offers, Park, Move, Leave, takeovers,
 * notices, and every order of departures. Two and three guests at once, some in processes of their own, that
 * are killed and stopped. Whatever happens, the daemon has the descriptors afterwards that it had before.
 */
#include "../examples/guest.h"
#include "broker.h"
#include "lib/evlink.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define DOORBELL 0x510
#define UNUSED_PORT 0x700
#define BAR 0xd0000

/* A counter that is full. */
#define FULL UINT64_C(0xfffffffffffffffe)

/* How long what must come may take on a loaded machine. */
#define SOON_MS 10000

/* What an agent of a fixture with a short time-out is given. */
#define AGENT_TIMEOUT_MS 300
#define AGENT_TIMEOUT "--agent-timeout=0.3"

struct fixture {
    struct broker broker;
    struct evlink_client *client;
    size_t fds;
};

static bool have_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        printf("SKIP: cannot open /dev/kvm: %s\n", strerror(errno));
        return false;
    }
    close(fd);
    return true;
}

static int setup_with(void **state, const char *const *arguments)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));

    *state = fixture;
    broker_start(&fixture->broker, arguments);
    fixture->client = broker_open(&fixture->broker);
    fixture->fds = broker_count_fds(&fixture->broker);
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, NULL);
}

static int setup_impatient(void **state)
{
    const char *arguments[] = { AGENT_TIMEOUT, NULL };

    return setup_with(state, arguments);
}

/* Nothing is held, linked or attached. */
static void assert_nothing(struct fixture *fixture)
{
    struct evlink_status status;

    assert_int_equal(evlink_status(fixture->client, &status), 0);
    assert_int_equal(status.links, 0);
    assert_int_equal(status.eventfds, 0);
    assert_int_equal(status.agents, 0);
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    assert_nothing(fixture);
    broker_assert_fds(&fixture->broker, fixture->fds);
    evlink_client_free(fixture->client);
    broker_stop(&fixture->broker);
    free(fixture);
    return 0;
}

/* ---- Waiting ---- */

static int64_t now_ms(void)
{
    struct timespec time;

    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Looks until condition is true, for SOON_MS at the most. */
#define wait_until(condition)                                  \
    do {                                                       \
        int64_t deadline = now_ms() + SOON_MS;                 \
                                                               \
        while (!(condition)) {                                 \
            if (now_ms() > deadline)                           \
                fail_msg("this did not come: %s", #condition); \
            (void)usleep(1000);                                \
        }                                                      \
    } while (0)

/* Deassigning, even what is not there, flushes KVM's queue of shutdowns [KERNEL.md 10]. */
static void wait_for_teardown(struct guest *guest)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = 1, .flags = KVM_IRQFD_FLAG_DEASSIGN };

    assert_int_equal(ioctl(guest_vm_fd(guest), KVM_IRQFD, &irqfd), 0);
    close(fd);
}

/* When the guest has carried out an order, it has taken every interrupt that was there before. */
static void wait_for_guest(struct guest *guest)
{
    wait_for_teardown(guest);
    assert_int_equal(guest_ring_pio(guest, UNUSED_PORT, 1, 0, 1), 1);
}

/* What has been added to an eventfd that a process reads, once there is anything. */
static uint64_t take(int fd)
{
    struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
    uint64_t count;

    assert_int_equal(poll(&poll_fd, 1, SOON_MS), 1);
    assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
    return count;
}

static void assert_empty(int fd)
{
    struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

    assert_int_equal(poll(&poll_fd, 1, 0), 0);
}

/* ---- The broker's methods without a function in libevlink ---- */

static int put_answer(void *userdata, const char *error, const char *parameters)
{
    json_t *answers = userdata, *answer = json_loads(parameters, 0, NULL);

    (void)error;
    if (answer && answers)
        (void)json_array_append(answers, answer);
    json_decref(answer);
    return 0;
}

/* parameters: consumed. The replies' parameters are in *ret_answers, if that is not NULL. */
static int call(struct evlink_client *client, const char *method, json_t *parameters, json_t **ret_answers)
{
    json_t *answers = json_array();
    char name[64], *text = json_dumps(parameters, 0);
    bool more = strncmp(method, "List", 4) == 0 || strcmp(method, "Export") == 0;
    int r;

    assert_non_null(text);
    (void)snprintf(name, sizeof(name), "io.evlink.Broker.%s", method);
    r = evlink_call(client, name, text, NULL, 0, more, put_answer, answers);
    free(text);
    json_decref(parameters);
    if (ret_answers)
        *ret_answers = answers;
    else
        json_decref(answers);
    return r;
}

static int move(struct fixture *fixture, const char *link, const char *from, const char *to)
{
    return call(
        fixture->client, "Move", json_pack("{s:s, s:s, s:s}", "name", link, "from", from, "to", to), NULL);
}

static int leave(struct fixture *fixture, const char *endpoint, const char *reason)
{
    return call(
        fixture->client, "Leave", json_pack("{s:s, s:s*}", "endpoint", endpoint, "reason", reason), NULL);
}

static int verb(struct fixture *fixture, const char *method, const char *key, const char *value)
{
    return call(fixture->client, method, json_pack("{s:s}", key, value), NULL);
}

/* The link as ListLinks has it: for the caller to release; NULL: there is none. */
static json_t *show(struct fixture *fixture, const char *link)
{
    json_t *answers, *shown;

    assert_int_equal(call(fixture->client, "ListLinks", json_pack("{s:s}", "match", link), &answers), 0);
    shown = json_incref(json_object_get(json_array_get(answers, 0), "link"));
    json_decref(answers);
    return shown;
}

static bool is_state(struct fixture *fixture, const char *link, const char *state)
{
    json_t *shown = show(fixture, link);
    const char *is = json_string_value(json_object_get(shown, "state"));
    bool same = state ? is && strcmp(is, state) == 0 : !is;

    json_decref(shown);
    return same;
}

#define assert_state(fixture, link, state) assert_true(is_state(fixture, link, state))
#define wait_for_state(fixture, link, state) wait_until(is_state(fixture, link, state))

/* What ListLinks says of an end, under key; "": nothing. The result is good until the next call. */
static const char *end_says(struct fixture *fixture, const char *link, const char *endpoint, const char *key)
{
    static char text[160];
    json_t *shown = show(fixture, link);

    text[0] = '\0';
    for (int i = 0; i < 2; i++) {
        json_t *ends = json_object_get(shown, i ? "producers" : "consumers"), *end;
        size_t k;

        json_array_foreach (ends, k, end) {
            const char *said = json_string_value(json_object_get(end, key));

            if (said && strcmp(json_string_value(json_object_get(end, "endpoint")), endpoint) == 0)
                (void)snprintf(text, sizeof(text), "%s", said);
        }
    }
    json_decref(shown);
    return text;
}

static int64_t forwarded(struct fixture *fixture, const char *link)
{
    json_t *shown = show(fixture, link);
    int64_t count = json_integer_value(json_object_get(shown, "forwarded"));

    assert_true(json_is_true(json_object_get(shown, "relayed")));
    json_decref(shown);
    return count;
}

static int64_t pending(struct fixture *fixture, const char *name)
{
    json_t *answers;
    int64_t count;

    assert_int_equal(call(fixture->client, "ListEventfds", json_pack("{s:s}", "match", name), &answers), 0);
    count = json_integer_value(
        json_object_get(json_object_get(json_array_get(answers, 0), "eventfd"), "pending"));
    json_decref(answers);
    return count;
}

/* Producers and consumers are separated by spaces. */
static int connect_with(struct evlink_client *client, const char *name, const char *producers,
    const char *consumers, bool no_wait, enum evlink_lifetime lifetime)
{
    char texts[2][256];
    const char *ends[2][8] = { { NULL } };
    struct evlink_link_spec spec = {
        .name = name,
        .producers = ends[0],
        .consumers = ends[1],
        .no_wait = no_wait,
        .lifetime = lifetime,
    };

    for (int i = 0; i < 2; i++) {
        char *save = NULL, *end;
        size_t n = 0;

        (void)snprintf(texts[i], sizeof(texts[i]), "%s", i ? consumers : producers);
        for (end = strtok_r(texts[i], " ", &save); end; end = strtok_r(NULL, " ", &save))
            ends[i][n++] = end;
    }
    return evlink_connect(client, &spec, NULL);
}

static int link_up(struct fixture *fixture, const char *name, const char *producers, const char *consumers)
{
    return connect_with(fixture->client, name, producers, consumers, true, EVLINK_PERSISTENT);
}

static int link_later(struct fixture *fixture, const char *name, const char *producers, const char *consumers)
{
    return connect_with(fixture->client, name, producers, consumers, false, EVLINK_PERSISTENT);
}

static void hold(struct fixture *fixture, const char *name, int *ret_fd)
{
    assert_int_equal(evlink_hold_new(fixture->client, name, false, EVLINK_PERSISTENT, 0), 0);
    assert_int_equal(evlink_claim(fixture->client, name, ret_fd), 0);
}

static void unhold(struct fixture *fixture, const char *name, int fd)
{
    close(fd);
    assert_int_equal(evlink_release(fixture->client, name), 0);
}

/* ---- Guests in this process ---- */

/* What an agent was told. */
struct told {
    char type[16], endpoint[64], link[32], reason[64];
};

struct vmm {
    const char *agent_name, *vm_name;
    struct guest *guest;
    struct evlink_agent *agent;
    pthread_mutex_t lock;
    struct told told[256];
    size_t n_told;
    /* The device nic: where its BAR is, and the GSI of its interrupt. */
    uint32_t bar;
    unsigned gsi;
    int resolve_error;
    atomic_uint resolved;
};

static void on_notify(
    void *userdata, const char *type, const char *endpoint, const char *link, const char *reason)
{
    struct vmm *vmm = userdata;

    (void)pthread_mutex_lock(&vmm->lock);
    if (vmm->n_told < sizeof(vmm->told) / sizeof(vmm->told[0])) {
        struct told *told = &vmm->told[vmm->n_told++];

        (void)snprintf(told->type, sizeof(told->type), "%s", type);
        (void)snprintf(told->endpoint, sizeof(told->endpoint), "%s", endpoint);
        (void)snprintf(told->link, sizeof(told->link), "%s", link);
        (void)snprintf(told->reason, sizeof(told->reason), "%s", reason ? reason : "");
    }
    (void)pthread_mutex_unlock(&vmm->lock);
}

/* The device's doorbell N is at 4 N of its BAR; its interrupt N is an MSI that is routed now. */
static int on_resolve(void *userdata, struct evlink_plug *plug)
{
    struct vmm *vmm = userdata;

    vmm->resolved++;
    if (vmm->resolve_error)
        return vmm->resolve_error;
    if (strcmp(plug->device, "nic") != 0)
        return -ENODEV;
    if (plug->kind == EVLINK_PLUG_NOTIFY) {
        plug->kind = EVLINK_PLUG_MMIO;
        plug->number = vmm->bar + 4 * plug->number;
        plug->length = 4;
        return 0;
    }
    plug->kind = EVLINK_PLUG_GSI;
    plug->number += vmm->gsi;
    return guest_route_msi(
        vmm->guest, (unsigned)plug->number, GUEST_VECTOR_FIRST + (unsigned)plug->number - 24);
}

/* A new agent for a guest. -E or EVLINK_E. */
static int vmm_attach(struct evlink_client *client, struct vmm *vmm, unsigned flags)
{
    const struct evlink_agent_ops ops = { .resolve = on_resolve, .notify = on_notify };
    int r;

    vmm->agent = evlink_agent_free(vmm->agent);
    r = evlink_agent_new(vmm->agent_name, flags, &vmm->agent);
    if (r == 0)
        r = evlink_agent_add_kvm(vmm->agent, vmm->vm_name, guest_vm_fd(vmm->guest), &ops, vmm);
    if (r == 0)
        r = evlink_agent_attach(vmm->agent, client);
    return r ? r : evlink_agent_start(vmm->agent);
}

/* A guest, and an agent that may have another name. */
static int vmm_try(struct evlink_client *client, struct vmm *vmm, const char *agent, const char *name,
    unsigned guest_flags, unsigned agent_flags)
{
    int r;

    *vmm = (struct vmm){
        .agent_name = agent,
        .vm_name = name,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .bar = BAR,
        .gsi = 24,
    };
    r = guest_new(guest_flags, &vmm->guest);
    return r ? r : vmm_attach(client, vmm, agent_flags);
}

static void vmm_open(struct fixture *fixture, struct vmm *vmm, const char *name)
{
    assert_int_equal(vmm_try(fixture->client, vmm, name, name, 0, 0), 0);
}

/* Without Detach: what it leaves plugged is the broker's to remember. */
static void vmm_drop(struct vmm *vmm)
{
    evlink_agent_free(vmm->agent);
    guest_free(vmm->guest);
}

static void vmm_close(struct fixture *fixture, struct vmm *vmm)
{
    assert_int_equal(evlink_detach(fixture->client, vmm->agent_name), 0);
    vmm_drop(vmm);
}

/* How often an agent was told this; reason: NULL for any. */
static unsigned told(
    struct vmm *vmm, const char *type, const char *endpoint, const char *link, const char *reason)
{
    unsigned n = 0;

    (void)pthread_mutex_lock(&vmm->lock);
    for (size_t i = 0; i < vmm->n_told; i++)
        n += (!type || strcmp(vmm->told[i].type, type) == 0) &&
             (!endpoint || strcmp(vmm->told[i].endpoint, endpoint) == 0) &&
             strcmp(vmm->told[i].link, link) == 0 && (!reason || strcmp(vmm->told[i].reason, reason) == 0);
    (void)pthread_mutex_unlock(&vmm->lock);
    return n;
}

static void forget(struct vmm *vmm)
{
    (void)pthread_mutex_lock(&vmm->lock);
    vmm->n_told = 0;
    (void)pthread_mutex_unlock(&vmm->lock);
}

/* An agent serves its socket in order: when it has plugged and unplugged, it has heard all that was told
 * before. */
static void wait_for_agent(struct fixture *fixture, struct vmm *vmm)
{
    char producer[64], consumer[64];

    (void)snprintf(producer, sizeof(producer), "kvm/%s/pio/0x7f0/4", vmm->vm_name);
    (void)snprintf(consumer, sizeof(consumer), "kvm/%s/gsi/15", vmm->vm_name);
    assert_int_equal(link_up(fixture, "barrier", producer, consumer), 0);
    assert_int_equal(evlink_disconnect(fixture->client, "barrier"), 0);
    assert_int_equal(link_up(fixture, "barrier", producer, consumer), 0);
    assert_int_equal(evlink_disconnect(fixture->client, "barrier"), 0);
}

/* ---- Guests in processes of their own ---- */

struct remote {
    pid_t pid;
    int fd;
};

struct order {
    char what; /* r: ring, i: how many interrupts, w: wait for as many, a: attach again */
    unsigned gsi;
    uint64_t count;
};

static void remote_main(const char *path, int fd, const char *agent, const char *name, unsigned flags)
{
    struct evlink_client *client;
    struct order order;
    struct vmm vmm;
    uint64_t answer = 0;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* None of the guests that were there before is kept alive from here. */
    CHECK(fd <= 3 || syscall(SYS_close_range, 3, fd - 1, 0) == 0);
    CHECK(syscall(SYS_close_range, fd + 1, ~0U, 0) == 0);
    CHECK(evlink_client_open(path, &client) == 0);
    CHECK(vmm_try(client, &vmm, agent, name, 0, flags) == 0);
    for (;;) {
        CHECK(write(fd, &answer, sizeof(answer)) == sizeof(answer));
        if (read(fd, &order, sizeof(order)) != sizeof(order))
            _exit(0);
        switch (order.what) {
        case 'r':
            answer = (uint64_t)guest_ring_pio(vmm.guest, DOORBELL, 4, 1, (unsigned)order.count);
            break;
        case 'i':
            answer = guest_interrupts(vmm.guest, order.gsi);
            break;
        case 'a':
            answer = (uint64_t)vmm_attach(client, &vmm, 0);
            break;
        default:
            answer = guest_wait(vmm.guest, order.gsi, order.count, SOON_MS);
        }
    }
}

static uint64_t remote_answer(const struct remote *remote)
{
    struct pollfd poll_fd = { .fd = remote->fd, .events = POLLIN };
    uint64_t answer;

    assert_int_equal(poll(&poll_fd, 1, 2 * SOON_MS), 1);
    assert_int_equal(read(remote->fd, &answer, sizeof(answer)), sizeof(answer));
    return answer;
}

static uint64_t remote_ask(const struct remote *remote, char what, unsigned gsi, uint64_t count)
{
    struct order order;

    memset(&order, 0, sizeof(order));
    order.what = what;
    order.gsi = gsi;
    order.count = count;
    assert_int_equal(write(remote->fd, &order, sizeof(order)), sizeof(order));
    return remote_answer(remote);
}

static void remote_begin(
    struct fixture *fixture, struct remote *remote, const char *agent, const char *name, unsigned flags)
{
    int ends[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    remote->pid = fork();
    assert_true(remote->pid >= 0);
    if (remote->pid == 0)
        remote_main(fixture->broker.path, ends[1], agent, name, flags);
    close(ends[1]);
    remote->fd = ends[0];
}

static void remote_open(
    struct fixture *fixture, struct remote *remote, const char *agent, const char *name, unsigned flags)
{
    remote_begin(fixture, remote, agent, name, flags);
    assert_int_equal(remote_answer(remote), 0);
}

static void remote_kill(struct remote *remote)
{
    if (remote->pid <= 0)
        return;
    assert_int_equal(kill(remote->pid, SIGKILL), 0);
    assert_int_equal(waitpid(remote->pid, NULL, 0), remote->pid);
    close(remote->fd);
    remote->pid = 0;
}

static void stop_process(pid_t pid)
{
    int status;

    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
}

/* ---- Level ---- */

static void test_level(void **state)
{
    struct fixture *fixture = *state;
    int e, e2, eoi, eoi2, fd;
    struct vmm vmm;
    uint64_t n = 0;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &vmm, "b");
    assert_int_equal(guest_set_level(vmm.guest, 5, true), 0);
    hold(fixture, "e", &e);
    hold(fixture, "e2", &e2);
    assert_int_equal(evlink_claim(fixture->client, "e/eoi", &fd), EVLINK_E_NO_SUCH_EVENTFD);
    assert_int_equal(link_up(fixture, "l", "eventfd/e", "kvm/b/gsi/5/level"), 0);
    assert_int_equal(evlink_claim(fixture->client, "e/eoi", &eoi), 0);
    for (; n < 100; n++) {
        assert_empty(eoi);
        assert_int_equal(eventfd_write(e, 1), 0);
        assert_int_equal(guest_wait(vmm.guest, 5, n + 1, SOON_MS), n + 1);
        /* The count is seen after the end of interrupt. */
        assert_int_equal(take(eoi), 1);
        wait_for_guest(vmm.guest);
        assert_int_equal(guest_interrupts(vmm.guest, 5), n + 1);
    }

    /* What does not go together. */
    assert_int_equal(link_up(fixture, "x", "eventfd/e2", "kvm/b/gsi/5"), EVLINK_E_ENDPOINT_BUSY);
    assert_int_equal(link_up(fixture, "edge", "eventfd/e2", "kvm/b/gsi/6"), 0);
    assert_int_equal(link_up(fixture, "x", "kvm/b/pio/0x510/4", "kvm/b/gsi/6/level"), EVLINK_E_ENDPOINT_BUSY);
    assert_int_equal(evlink_disconnect(fixture->client, "edge"), 0);
    assert_int_equal(
        link_up(fixture, "x", "eventfd/e2", "kvm/b/gsi/6/level kvm/b/gsi/7"), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(
        link_up(fixture, "x", "eventfd/e2 kvm/b/pio/0x510/4", "kvm/b/gsi/6/level"), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(link_up(fixture, "x", "eventfd/e/eoi", "kvm/b/gsi/7"), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(link_up(fixture, "x", "kvm/b/pio/0x510/4", "eventfd/e/eoi"), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(evlink_release(fixture->client, "e"), EVLINK_E_IN_USE);
    assert_int_equal(evlink_release(fixture->client, "e/eoi"), EVLINK_E_INVALID_PARAMETER);
    /* Under whatever name: what comes out at an end of interrupt is no trigger, of that GSI least of all. */
    assert_int_equal(evlink_hold(fixture->client, "alias", eoi, EVLINK_PERSISTENT, 0), 0);
    assert_int_equal(link_up(fixture, "x", "eventfd/alias", "kvm/b/gsi/5/level"), EVLINK_E_ENDPOINT_BUSY);
    assert_int_equal(link_up(fixture, "x", "eventfd/alias", "kvm/b/gsi/7"), EVLINK_E_ENDPOINT_BUSY);
    assert_int_equal(evlink_release(fixture->client, "alias"), 0);
    assert_int_equal(guest_interrupts(vmm.guest, 5), n);

    /* Two on one line: both hear of each end of interrupt. */
    assert_int_equal(link_up(fixture, "l2", "eventfd/e2", "kvm/b/gsi/5/level"), 0);
    assert_int_equal(evlink_claim(fixture->client, "e2/eoi", &eoi2), 0);
    for (int i = 0; i < 10; i++, n++) {
        assert_int_equal(eventfd_write(i % 2 ? e : e2, 1), 0);
        assert_int_equal(guest_wait(vmm.guest, 5, n + 1, SOON_MS), n + 1);
        assert_int_equal(take(eoi), 1);
        assert_int_equal(take(eoi2), 1);
    }
    close(eoi2);
    assert_int_equal(evlink_disconnect(fixture->client, "l2"), 0);
    assert_int_equal(evlink_claim(fixture->client, "e2/eoi", &fd), EVLINK_E_NO_SUCH_EVENTFD);

    /* Parked, and resumed. */
    assert_int_equal(verb(fixture, "Park", "name", "l"), 0);
    assert_int_equal(eventfd_write(e, 4), 0);
    wait_for_guest(vmm.guest);
    assert_int_equal(guest_interrupts(vmm.guest, 5), n);
    assert_int_equal(verb(fixture, "Resume", "name", "l"), 0);
    n++;
    assert_int_equal(guest_wait(vmm.guest, 5, n, SOON_MS), n);
    assert_int_equal(take(eoi), 1);
    wait_for_guest(vmm.guest);
    assert_int_equal(guest_interrupts(vmm.guest, 5), n);
    assert_empty(eoi);
    assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
    close(eoi);

    /* A doorbell asserts a line as well: both eventfds are the broker's. */
    assert_int_equal(link_up(fixture, "bell", "kvm/b/pio/0x510/4", "kvm/b/gsi/5/level"), 0);
    for (int i = 0; i < 20; i++, n++) {
        assert_int_equal(guest_ring_pio(vmm.guest, DOORBELL, 4, 1, 1), 0);
        assert_int_equal(guest_wait(vmm.guest, 5, n + 1, SOON_MS), n + 1);
    }
    wait_for_guest(vmm.guest);
    assert_int_equal(guest_interrupts(vmm.guest, 5), n);
    assert_int_equal(evlink_disconnect(fixture->client, "bell"), 0);
    unhold(fixture, "e", e);
    unhold(fixture, "e2", e2);
    vmm_close(fixture, &vmm);
}

/* Without PICs in the kernel there is no resampling: its no is the answer, and nothing is left. */
static void test_level_refused(void **state)
{
    struct fixture *fixture = *state;
    struct vmm vmm;
    int e, fd;

    if (!have_kvm())
        skip();
    assert_int_equal(vmm_try(fixture->client, &vmm, "b", "b", GUEST_SPLIT_IRQCHIP, 0), 0);
    hold(fixture, "e", &e);
    assert_int_equal(eventfd_write(e, 3), 0);
    assert_int_equal(link_up(fixture, "l", "eventfd/e", "kvm/b/gsi/5/level"), EVLINK_E_PLUG_FAILED);
    assert_non_null(strstr(evlink_client_message(fixture->client), "EINVAL"));
    assert_int_equal(evlink_claim(fixture->client, "e/eoi", &fd), EVLINK_E_NO_SUCH_EVENTFD);
    assert_int_equal(take(e), 3);
    unhold(fixture, "e", e);
    vmm_close(fixture, &vmm);
}

/* ---- Relayed ---- */

struct hostile {
    int fd;
    atomic_bool stop;
    unsigned long turns;
};

/* Has the eventfd block whoever writes to it, now and then not. */
static void *saturate(void *userdata)
{
    struct hostile *hostile = userdata;
    uint64_t count;

    for (; !atomic_load(&hostile->stop); hostile->turns++) {
        struct pollfd poll_fd = { .fd = hostile->fd, .events = POLLIN | POLLOUT };

        /* The relay's 1 may come in between: only what has room is written, so that this cannot block. */
        count = FULL - 1;
        (void)fcntl(hostile->fd, F_SETFL, O_NONBLOCK);
        (void)!write(hostile->fd, &count, sizeof(count));
        count = 1;
        (void)!write(hostile->fd, &count, sizeof(count));
        (void)fcntl(hostile->fd, F_SETFL, 0);
        if (poll(&poll_fd, 1, 0) > 0 && poll_fd.revents & POLLIN)
            (void)!read(hostile->fd, &count, sizeof(count));
    }
    (void)fcntl(hostile->fd, F_SETFL, O_NONBLOCK);
    return NULL;
}

/* So many rings while the broker stands still, so that it finds them all at once. */
static void ring_at_once(struct fixture *fixture, struct guest *guest, unsigned count)
{
    stop_process(fixture->broker.pid);
    assert_int_equal(guest_ring_pio(guest, DOORBELL, 4, 1, count), 0);
    assert_int_equal(kill(fixture->broker.pid, SIGCONT), 0);
}

static void test_fan_out(void **state)
{
    static const unsigned at_once[] = { 5, 8, 9, 100, 300 };
    struct fixture *fixture = *state;
    struct hostile hostile = { 0 };
    struct evlink_client *other;
    uint64_t b_before, c_before, rings = 0, counted = 0, full = FULL;
    struct vmm a, b, c;
    pthread_t thread;
    int64_t began;
    int x;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &a, "a");
    vmm_open(fixture, &b, "b");
    vmm_open(fixture, &c, "c");
    hold(fixture, "x", &x);
    assert_int_equal(link_up(fixture, "l", "kvm/a/pio/0x510/4", "kvm/b/gsi/5 kvm/c/gsi/6 eventfd/x"), 0);
    for (; rings < 200; rings++) {
        b_before = guest_interrupts(b.guest, 5);
        c_before = guest_interrupts(c.guest, 6);
        assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 0);
        counted += take(x);
        assert_true(guest_wait(b.guest, 5, b_before + 1, SOON_MS) > b_before);
        assert_true(guest_wait(c.guest, 6, c_before + 1, SOON_MS) > c_before);
        assert_empty(x);
    }
    assert_int_equal(counted, 200);
    printf("# 200 rings: %" PRIu64 " counted, %" PRIu64 " and %" PRIu64 " interrupts\n", counted,
        guest_interrupts(b.guest, 5), guest_interrupts(c.guest, 6));
    /* Counts are kept, whichever way they are added. */
    for (size_t i = 0; i < sizeof(at_once) / sizeof(at_once[0]); i++) {
        b_before = guest_interrupts(b.guest, 5);
        c_before = guest_interrupts(c.guest, 6);
        ring_at_once(fixture, a.guest, at_once[i]);
        rings += at_once[i];
        /* In one piece or in several: a reader may come in between. */
        for (counted = 0; counted < at_once[i];)
            counted += take(x);
        assert_int_equal(counted, at_once[i]);
        assert_true(guest_wait(b.guest, 5, b_before + 1, SOON_MS) > b_before);
        assert_true(guest_wait(c.guest, 6, c_before + 1, SOON_MS) > c_before);
    }
    assert_int_equal(forwarded(fixture, "l"), rings);

    /* A client that shares x fills it, and has whoever writes to it block: its own loss. */
    assert_int_equal(evlink_client_open(fixture->broker.path, &other), 0);
    assert_int_equal(evlink_claim(other, "x", &hostile.fd), 0);
    assert_int_equal(fcntl(hostile.fd, F_SETFL, 0), 0);
    assert_int_equal(write(hostile.fd, &full, sizeof(full)), sizeof(full));
    began = now_ms();
    for (int i = 0; i < 200; i++) {
        b_before = guest_interrupts(b.guest, 5);
        c_before = guest_interrupts(c.guest, 6);
        if (i % 10 == 9) {
            ring_at_once(fixture, a.guest, 20);
            rings += 19;
        } else {
            assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 0);
        }
        rings++;
        assert_true(guest_wait(b.guest, 5, b_before + 1, SOON_MS) > b_before);
        assert_true(guest_wait(c.guest, 6, c_before + 1, SOON_MS) > c_before);
    }
    assert_non_null(strstr(end_says(fixture, "l", "eventfd/x", "reason"), "full"));
    assert_string_equal(end_says(fixture, "l", "kvm/b/gsi/5", "reason"), "");
    assert_string_equal(end_says(fixture, "l", "kvm/c/gsi/6", "reason"), "");
    assert_state(fixture, "l", "linked");
    assert_int_equal(forwarded(fixture, "l"), rings);
    /* In-kernel signals reach 2^64 - 1 [KERNEL.md 25]. */
    assert_true(take(hostile.fd) >= FULL);

    /* And one that fills it again and again, between any look and any write. */
    assert_int_equal(pthread_create(&thread, NULL, saturate, &hostile), 0);
    for (int i = 0; i < 100; i++) {
        b_before = guest_interrupts(b.guest, 5);
        ring_at_once(fixture, a.guest, 20);
        rings += 20;
        assert_true(guest_wait(b.guest, 5, b_before + 1, SOON_MS) > b_before);
    }
    assert_int_equal(forwarded(fixture, "l"), rings);
    printf("# %" PRIu64 " rings in all, %" PRId64 " ms of them against a hostile client (%lu turns)\n", rings,
        now_ms() - began, hostile.turns);
    atomic_store(&hostile.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    (void)!read(hostile.fd, &full, sizeof(full));
    close(hostile.fd);
    evlink_client_free(other);
    /* It has gone, and x is as good as before. */
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 0);
    assert_int_equal(take(x), 1);
    assert_string_equal(end_says(fixture, "l", "eventfd/x", "reason"), "");
    assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 1);
    unhold(fixture, "x", x);
    vmm_close(fixture, &a);
    vmm_close(fixture, &b);
    vmm_close(fixture, &c);
}

static void test_two_eventfds(void **state)
{
    struct fixture *fixture = *state;
    uint64_t n = 0, sent = 0;
    int e[2], alias;
    struct vmm vmm;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &vmm, "b");
    hold(fixture, "e", &e[0]);
    hold(fixture, "f", &e[1]);
    /* The same one twice is not two. */
    assert_int_equal(evlink_hold(fixture->client, "alias", e[0], EVLINK_PERSISTENT, 0), 0);
    assert_int_equal(link_up(fixture, "l", "eventfd/e eventfd/alias", "kvm/b/gsi/5"), EVLINK_E_ENDPOINT_BUSY);
    assert_int_equal(evlink_release(fixture->client, "alias"), 0);

    assert_int_equal(link_up(fixture, "l", "eventfd/e eventfd/f", "kvm/b/gsi/5"), 0);
    for (int i = 0; i < 100; i++) {
        unsigned count = i % 10 ? 1 : 1000;

        assert_int_equal(eventfd_write(e[i % 2], count), 0);
        sent += count;
        n++;
        assert_int_equal(guest_wait(vmm.guest, 5, n, SOON_MS), n);
    }
    wait_for_guest(vmm.guest);
    assert_int_equal(guest_interrupts(vmm.guest, 5), n);
    assert_int_equal(forwarded(fixture, "l"), sent);
    assert_int_equal(evlink_hold(fixture->client, "alias", e[1], EVLINK_PERSISTENT, 0), 0);
    assert_int_equal(link_up(fixture, "x", "eventfd/alias", "kvm/b/gsi/6"), EVLINK_E_ENDPOINT_BUSY);
    assert_int_equal(evlink_claim(fixture->client, "alias", &alias), 0);
    unhold(fixture, "alias", alias);
    /* One of the two leaves: the other goes on. */
    assert_int_equal(leave(fixture, "eventfd/e", NULL), 0);
    unhold(fixture, "e", e[0]);
    assert_int_equal(eventfd_write(e[1], 1), 0);
    n++;
    assert_int_equal(guest_wait(vmm.guest, 5, n, SOON_MS), n);
    assert_int_equal(leave(fixture, "eventfd/f", NULL), 0);
    assert_state(fixture, "l", NULL);
    unhold(fixture, "f", e[1]);
    vmm_close(fixture, &vmm);
}

/* ---- Offers ---- */

static void test_offers(void **state)
{
    const char *notify[] = { "kvm/a/dev/nic/notify/0", NULL }, *irq[] = { "kvm/b/dev/nic/irq/0", NULL },
               *other[] = { "kvm/b/dev/other/irq/0", NULL }, *fixed[] = { "kvm/b/gsi/5", NULL };
    struct fixture *fixture = *state;
    struct vmm a, b;
    uint64_t n = 0;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &a, "a");
    vmm_open(fixture, &b, "b");
    assert_int_equal(link_up(fixture, "l", notify[0], irq[0]), EVLINK_E_NOT_ATTACHED);
    assert_int_equal(link_later(fixture, "l", notify[0], irq[0]), 0);
    assert_state(fixture, "l", "waiting");
    assert_int_equal(evlink_offer(fixture->client, "a", irq), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(evlink_offer(fixture->client, "b", fixed), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(guest_ring_mmio(a.guest, BAR, 4, 1, 1), 1);

    for (int round = 0; round < 10; round++) {
        a.bar = BAR + 0x1000 * (uint32_t)round; /* the guest moves it about */
        b.gsi = 24 + (unsigned)round;
        n = 0;
        assert_int_equal(evlink_offer(fixture->client, "a", notify), 0);
        wait_until(strcmp(end_says(fixture, "l", notify[0], "state"), "plugged") == 0);
        assert_state(fixture, "l", "waiting");
        /* What is rung for nobody is not lost. */
        assert_int_equal(guest_ring_mmio(a.guest, a.bar, 4, 1, 3), 0);
        assert_int_equal(evlink_offer(fixture->client, "b", irq), 0);
        n++;
        assert_int_equal(guest_wait(b.guest, b.gsi, n, SOON_MS), n);
        wait_for_state(fixture, "l", "linked");
        for (int i = 0; i < 10; i++) {
            assert_int_equal(guest_ring_mmio(a.guest, a.bar, 4, 1, 1), 0);
            n++;
            assert_int_equal(guest_wait(b.guest, b.gsi, n, SOON_MS), n);
        }
        /* It returns when they are unplugged. */
        if (round % 2) {
            assert_int_equal(evlink_withdraw(fixture->client, "b", irq, "reset"), 0);
            assert_string_equal(end_says(fixture, "l", irq[0], "state"), "absent");
            assert_state(fixture, "l", "waiting");
            assert_int_equal(guest_ring_mmio(a.guest, a.bar, 4, 1, 1), 0);
            wait_for_guest(b.guest);
            assert_int_equal(guest_interrupts(b.guest, b.gsi), n);
            /* The device's interrupt is somewhere else now, and gets what was rung meanwhile. */
            b.gsi = 100 + (unsigned)round;
            assert_int_equal(evlink_offer(fixture->client, "b", irq), 0);
            assert_int_equal(guest_wait(b.guest, b.gsi, 1, SOON_MS), 1);
            wait_for_state(fixture, "l", "linked");
        }
        assert_int_equal(evlink_withdraw(fixture->client, "a", notify, NULL), 0);
        assert_int_equal(guest_ring_mmio(a.guest, a.bar, 4, 1, 1), 1);
        assert_int_equal(evlink_withdraw(fixture->client, "b", irq, NULL), 0);
        assert_state(fixture, "l", "waiting");
        assert_int_equal(evlink_withdraw(fixture->client, "b", irq, NULL), 0);
        (void)guest_route_msi(b.guest, 24 + (unsigned)round, 0);
        (void)guest_route_msi(b.guest, 100 + (unsigned)round, 0);
    }

    /* A VMM that cannot resolve what it offers: the link says so, and works after the next offer. */
    b.resolve_error = -ENXIO;
    b.gsi = 50;
    assert_int_equal(evlink_offer(fixture->client, "a", notify), 0);
    assert_int_equal(evlink_offer(fixture->client, "b", irq), 0);
    wait_for_state(fixture, "l", "failed");
    assert_non_null(strstr(end_says(fixture, "l", irq[0], "reason"), "ENXIO"));
    assert_int_equal(guest_ring_mmio(a.guest, a.bar, 4, 1, 5), 0);
    b.resolve_error = 0;
    assert_int_equal(evlink_withdraw(fixture->client, "b", irq, NULL), 0);
    assert_int_equal(evlink_offer(fixture->client, "b", irq), 0);
    wait_for_state(fixture, "l", "linked");
    assert_int_equal(guest_wait(b.guest, 50, 1, SOON_MS), 1);
    /* Its device went away between offer and plug. */
    assert_int_equal(evlink_offer(fixture->client, "b", other), 0);
    assert_int_equal(link_up(fixture, "x", "kvm/a/pio/0x510", other[0]), EVLINK_E_PLUG_FAILED);
    assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
    vmm_close(fixture, &a);
    vmm_close(fixture, &b);
}

/* ---- Park and Resume ---- */

static void test_park(void **state)
{
    struct fixture *fixture = *state;
    json_t *answers;
    struct vmm a, b;
    uint64_t n = 0, m = 0;
    int e;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &a, "a");
    vmm_open(fixture, &b, "b");
    hold(fixture, "e", &e);
    /* A direct one of a doorbell, one of a held eventfd, and a relayed one. */
    assert_int_equal(link_up(fixture, "bell", "kvm/a/pio/0x510/4", "kvm/b/gsi/5"), 0);
    assert_int_equal(link_up(fixture, "held", "eventfd/e", "kvm/b/gsi/6"), 0);
    assert_int_equal(link_up(fixture, "both", "kvm/a/pio/0x520/4", "kvm/b/gsi/9 kvm/a/gsi/9"), 0);
    for (int round = 0; round < 10; round++) {
        assert_int_equal(verb(fixture, "Park", "name", "bell"), 0);
        assert_int_equal(verb(fixture, "Park", "name", "held"), 0);
        assert_int_equal(verb(fixture, "Park", "name", "both"), 0);
        assert_state(fixture, "bell", "parked");
        assert_int_equal(verb(fixture, "Park", "name", "bell"), EVLINK_E_WRONG_STATE);
        for (int i = 0; i < 10; i++) {
            assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 0);
            assert_int_equal(guest_ring_pio(a.guest, 0x520, 4, 1, 1), 0);
            assert_int_equal(eventfd_write(e, 1), 0);
        }
        assert_int_equal(pending(fixture, "e"), 10);
        wait_for_guest(a.guest);
        wait_for_guest(b.guest);
        assert_int_equal(guest_interrupts(b.guest, 5), n);
        assert_int_equal(guest_interrupts(b.guest, 6), n);
        assert_int_equal(guest_interrupts(b.guest, 9), m);
        assert_int_equal(guest_interrupts(a.guest, 9), m);
        assert_int_equal(verb(fixture, "Resume", "name", "bell"), 0);
        assert_int_equal(verb(fixture, "Resume", "name", "held"), 0);
        assert_int_equal(verb(fixture, "Resume", "name", "both"), 0);
        assert_state(fixture, "bell", "linked");
        assert_int_equal(verb(fixture, "Resume", "name", "bell"), EVLINK_E_WRONG_STATE);
        n++;
        m++;
        assert_int_equal(guest_wait(b.guest, 5, n, SOON_MS), n);
        assert_int_equal(guest_wait(b.guest, 6, n, SOON_MS), n);
        assert_int_equal(guest_wait(b.guest, 9, m, SOON_MS), m);
        assert_int_equal(guest_wait(a.guest, 9, m, SOON_MS), m);
        /* And goes on one by one, with nothing left over. */
        for (int i = 0; i < 3; i++) {
            n++;
            m++;
            assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 0);
            assert_int_equal(guest_ring_pio(a.guest, 0x520, 4, 1, 1), 0);
            assert_int_equal(eventfd_write(e, 1), 0);
            assert_int_equal(guest_wait(b.guest, 5, n, SOON_MS), n);
            assert_int_equal(guest_wait(b.guest, 6, n, SOON_MS), n);
            assert_int_equal(guest_wait(b.guest, 9, m, SOON_MS), m);
            assert_int_equal(guest_wait(a.guest, 9, m, SOON_MS), m);
        }
    }
    /* The agent of a parked link goes and comes back: it stays parked. */
    assert_int_equal(verb(fixture, "Park", "name", "bell"), 0);
    assert_int_equal(evlink_detach(fixture->client, "b"), 0);
    assert_state(fixture, "bell", "parked");
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 10), 0);
    assert_int_equal(vmm_attach(fixture->client, &b, 0), 0);
    assert_state(fixture, "bell", "parked");
    wait_for_state(fixture, "held", "linked");
    wait_for_guest(b.guest);
    assert_int_equal(guest_interrupts(b.guest, 5), n);
    assert_int_equal(call(fixture->client, "Resume", json_pack("{s:s}", "name", "bell"), &answers), 0);
    assert_int_equal(json_array_size(json_object_get(json_array_get(answers, 0), "links")), 1);
    json_decref(answers);
    n++;
    assert_int_equal(guest_wait(b.guest, 5, n, SOON_MS), n);
    assert_int_equal(evlink_disconnect(fixture->client, "bell"), 0);
    assert_int_equal(evlink_disconnect(fixture->client, "held"), 0);
    assert_int_equal(evlink_disconnect(fixture->client, "both"), 0);
    unhold(fixture, "e", e);
    vmm_close(fixture, &a);
    vmm_close(fixture, &b);
}

/* ---- Move ---- */

/* Rings without pause: each ring is followed by an interrupt in one of the guests. */
struct ringer {
    struct guest *from, *to[2];
    unsigned gsi[2];
    atomic_bool stop;
    uint64_t rings;
    const char *failure;
};

/* In a thread: cmocka's assertions belong to the one that made it. */
static void *fail_with(const char **ret_failure, const char *failure)
{
    *ret_failure = failure;
    return NULL;
}

static uint64_t ringer_count(const struct ringer *ringer)
{
    return guest_interrupts(ringer->to[0], ringer->gsi[0]) + guest_interrupts(ringer->to[1], ringer->gsi[1]);
}

static void *ring_on(void *userdata)
{
    struct ringer *ringer = userdata;

    while (!atomic_load(&ringer->stop)) {
        uint64_t before = ringer_count(ringer);
        int64_t deadline = now_ms() + SOON_MS;

        if (guest_ring_pio(ringer->from, DOORBELL, 4, 1, 1) != 0)
            return fail_with(&ringer->failure, "a ring has exited");
        ringer->rings++;
        while (ringer_count(ringer) == before)
            if (now_ms() > deadline)
                return fail_with(&ringer->failure, "a ring was lost");
    }
    return NULL;
}

static void ringer_start(struct ringer *ringer, pthread_t *ret_thread)
{
    atomic_store(&ringer->stop, false);
    ringer->rings = 0;
    assert_int_equal(pthread_create(ret_thread, NULL, ring_on, ringer), 0);
}

static void ringer_stop(struct ringer *ringer, pthread_t thread)
{
    atomic_store(&ringer->stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    if (ringer->failure)
        fail_msg("%s after %" PRIu64 " rings", ringer->failure, ringer->rings);
}

static void test_move(void **state)
{
    static const char *const at[] = { "kvm/b/gsi/5", "kvm/c/gsi/6" };
    struct fixture *fixture = *state;
    struct vmm a, b, c, none;
    struct ringer ringer = { 0 };
    pthread_t thread;
    uint64_t n;
    int e;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &a, "a");
    vmm_open(fixture, &b, "b");
    vmm_open(fixture, &c, "c");
    assert_int_equal(vmm_try(fixture->client, &none, "none", "none", GUEST_NO_IRQCHIP, 0), 0);
    hold(fixture, "e", &e);
    ringer = (struct ringer){ .from = a.guest, .to = { b.guest, c.guest }, .gsi = { 5, 6 } };

    assert_int_equal(link_up(fixture, "l", "kvm/a/pio/0x510/4", at[0]), 0);
    ringer_start(&ringer, &thread);
    for (int i = 0; i < 200; i++)
        assert_int_equal(move(fixture, "l", at[i % 2], at[(i + 1) % 2]), 0);
    ringer_stop(&ringer, thread);
    printf("# 200 moves, %" PRIu64 " rings, %" PRIu64 " interrupts in b, %" PRIu64 " in c\n", ringer.rings,
        guest_interrupts(b.guest, 5), guest_interrupts(c.guest, 6));

    /* The kernel of the new end says no, and the old one goes on. */
    ringer_start(&ringer, &thread);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(move(fixture, "l", at[0], "kvm/none/gsi/5"), EVLINK_E_PLUG_FAILED);
        assert_non_null(strstr(evlink_client_message(fixture->client), "EINVAL"));
        assert_state(fixture, "l", "linked");
    }
    ringer_stop(&ringer, thread);
    assert_string_equal(end_says(fixture, "l", at[0], "state"), "plugged");
    assert_string_equal(end_says(fixture, "l", "kvm/none/gsi/5", "state"), "");

    /* What does not move, and what it does not move to. */
    assert_int_equal(link_up(fixture, "held", "eventfd/e", "kvm/b/gsi/7"), 0);
    assert_int_equal(move(fixture, "held", "eventfd/e", "kvm/a/pio/0x530"), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(move(fixture, "held", "kvm/b/gsi/7", "eventfd/f"), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(move(fixture, "held", "kvm/b/gsi/7", "kvm/a/pio/0x530"), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(move(fixture, "held", "kvm/b/gsi/7", "kvm/b/gsi/8/level"), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(move(fixture, "held", "kvm/b/gsi/8", "kvm/b/gsi/9"), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(move(fixture, "nothing", "kvm/b/gsi/8", "kvm/b/gsi/9"), EVLINK_E_NO_SUCH_LINK);
    assert_int_equal(evlink_disconnect(fixture->client, "held"), 0);

    /* The producer moves too: within its bus address, where old and new collide, and elsewhere. */
    n = guest_interrupts(b.guest, 5);
    assert_int_equal(move(fixture, "l", "kvm/a/pio/0x510/4", "kvm/a/pio/0x510/4=1"), 0);
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 2, 1), 1);
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 0);
    assert_int_equal(guest_wait(b.guest, 5, n + 1, SOON_MS), n + 1);
    assert_int_equal(move(fixture, "l", "kvm/a/pio/0x510/4=1", "kvm/c/pio/0x510"), 0);
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 1);
    assert_int_equal(guest_ring_pio(c.guest, DOORBELL, 4, 1, 1), 0);
    assert_int_equal(guest_wait(b.guest, 5, n + 2, SOON_MS), n + 2);
    assert_int_equal(move(fixture, "l", "kvm/c/pio/0x510", "kvm/a/pio/0x510/4"), 0);

    /* To where nobody is: it waits, and what is rung is there for whoever comes. */
    vmm_close(fixture, &c);
    assert_int_equal(move(fixture, "l", at[0], at[1]), 0);
    assert_state(fixture, "l", "waiting");
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 10), 0);
    wait_for_guest(b.guest);
    assert_int_equal(guest_interrupts(b.guest, 5), n + 2);
    vmm_open(fixture, &c, "c");
    wait_for_state(fixture, "l", "linked");
    assert_int_equal(guest_wait(c.guest, 6, 1, SOON_MS), 1);
    /* And from there, when it has gone again. */
    vmm_close(fixture, &c);
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 10), 0);
    assert_int_equal(move(fixture, "l", at[1], at[0]), 0);
    assert_state(fixture, "l", "linked");
    assert_int_equal(guest_wait(b.guest, 5, n + 3, SOON_MS), n + 3);

    /* A parked one moves, and stays parked. */
    vmm_open(fixture, &c, "c");
    assert_int_equal(verb(fixture, "Park", "name", "l"), 0);
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 10), 0);
    assert_int_equal(move(fixture, "l", at[0], at[1]), 0);
    assert_state(fixture, "l", "parked");
    wait_for_guest(b.guest);
    wait_for_guest(c.guest);
    assert_int_equal(guest_interrupts(b.guest, 5) + guest_interrupts(c.guest, 6), n + 3);
    assert_int_equal(verb(fixture, "Resume", "name", "l"), 0);
    assert_int_equal(guest_wait(c.guest, 6, 1, SOON_MS), 1);

    /* One of a relayed link's consumers. */
    assert_int_equal(link_up(fixture, "wide", "kvm/a/pio/0x520/4", "kvm/b/gsi/9 kvm/c/gsi/9 eventfd/e"), 0);
    for (int i = 0; i < 20; i++) {
        const char *from = i % 2 ? "kvm/c/gsi/10" : "kvm/b/gsi/9",
                   *to = i % 2 ? "kvm/b/gsi/9" : "kvm/c/gsi/10";
        struct guest *guest = i % 2 ? b.guest : c.guest;
        unsigned gsi = i % 2 ? 9 : 10;

        n = guest_interrupts(guest, gsi);
        assert_int_equal(guest_ring_pio(a.guest, 0x520, 4, 1, 1), 0);
        assert_int_equal(take(e), 1);
        assert_int_equal(guest_wait(c.guest, 9, 2 * (uint64_t)i + 1, SOON_MS), 2 * (uint64_t)i + 1);
        assert_int_equal(move(fixture, "wide", from, to), 0);
        assert_int_equal(guest_ring_pio(a.guest, 0x520, 4, 1, 1), 0);
        assert_true(guest_wait(guest, gsi, n + 1, SOON_MS) > n);
        assert_int_equal(take(e), 1);
        assert_int_equal(guest_wait(c.guest, 9, 2 * (uint64_t)i + 2, SOON_MS), 2 * (uint64_t)i + 2);
    }
    assert_int_equal(move(fixture, "wide", "kvm/b/gsi/9", "kvm/none/gsi/9"), EVLINK_E_PLUG_FAILED);
    assert_state(fixture, "wide", "linked");

    /* Ends leave, and with the last consumer the link. */
    assert_int_equal(leave(fixture, "kvm/none/gsi/9", NULL), EVLINK_E_NO_SUCH_LINK);
    assert_int_equal(leave(fixture, "kvm/c/gsi/9", "done"), 0);
    assert_int_equal(guest_ring_pio(a.guest, 0x520, 4, 1, 1), 0);
    assert_int_equal(take(e), 1);
    wait_for_guest(c.guest);
    assert_int_equal(guest_interrupts(c.guest, 9), 40);
    assert_int_equal(leave(fixture, "kvm/b/gsi/9", NULL), 0);
    assert_state(fixture, "wide", "linked");
    assert_int_equal(leave(fixture, "eventfd/e", NULL), 0);
    assert_state(fixture, "wide", NULL);
    assert_int_equal(guest_ring_pio(a.guest, 0x520, 4, 1, 1), 1);
    assert_int_equal(leave(fixture, "kvm/a/pio/0x510/4", NULL), 0);
    assert_state(fixture, "l", NULL);
    assert_int_equal(leave(fixture, "kvm/a/pio/0x510/4", NULL), EVLINK_E_NO_SUCH_LINK);
    unhold(fixture, "e", e);
    vmm_close(fixture, &a);
    vmm_close(fixture, &b);
    vmm_close(fixture, &c);
    vmm_close(fixture, &none);
}

/* ---- Notices ---- */

/* What an agent has heard of a link since it was asked last, all counted. */
static void assert_told(struct fixture *fixture, struct vmm *vmm, const char *link, unsigned leaving,
    unsigned left, unsigned linked, unsigned waiting, unsigned parked)
{
    wait_for_agent(fixture, vmm);
    assert_int_equal(told(vmm, "leaving", NULL, link, NULL), leaving);
    assert_int_equal(told(vmm, "left", NULL, link, NULL), left);
    assert_int_equal(told(vmm, "linked", NULL, link, NULL), linked);
    assert_int_equal(told(vmm, "waiting", NULL, link, NULL), waiting);
    assert_int_equal(told(vmm, "parked", NULL, link, NULL), parked);
    assert_int_equal(told(vmm, NULL, NULL, link, NULL), leaving + left + linked + waiting + parked);
    forget(vmm);
}

/* The first thing that a VMM was told of a link: what comes late of another one is not looked at. */
static const char *first_told(struct vmm *vmm, const char *link)
{
    size_t i = 0;

    while (i < vmm->n_told && strcmp(vmm->told[i].link, link) != 0)
        i++;
    assert_true(i < vmm->n_told);
    return vmm->told[i].type;
}

static void test_notices(void **state)
{
    struct fixture *fixture = *state;
    struct vmm a, b, c;
    struct remote d;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &a, "a");
    vmm_open(fixture, &b, "b");
    vmm_open(fixture, &c, "c");
    remote_open(fixture, &d, "d", "d", 0);
    assert_int_equal(link_up(fixture, "l", "kvm/a/pio/0x510/4", "kvm/b/gsi/5 kvm/c/gsi/5 kvm/d/gsi/5"), 0);
    assert_told(fixture, &a, "l", 0, 0, 0, 0, 0);
    assert_told(fixture, &b, "l", 0, 0, 0, 0, 0);

    /* One leaves: the others hear of it, each for its own end, and it does not. */
    assert_int_equal(leave(fixture, "kvm/c/gsi/5", "migrates"), 0);
    wait_for_agent(fixture, &a);
    wait_for_agent(fixture, &b);
    assert_int_equal(told(&a, "leaving", "kvm/a/pio/0x510/4", "l", "migrates"), 1);
    assert_int_equal(told(&a, "left", "kvm/a/pio/0x510/4", "l", "migrates"), 1);
    assert_int_equal(told(&b, "leaving", "kvm/b/gsi/5", "l", "migrates"), 1);
    assert_int_equal(told(&b, "left", "kvm/b/gsi/5", "l", "migrates"), 1);
    assert_string_equal(first_told(&a, "l"), "leaving");
    assert_told(fixture, &a, "l", 1, 1, 0, 0, 0);
    assert_told(fixture, &b, "l", 1, 1, 0, 0, 0);
    assert_told(fixture, &c, "l", 0, 0, 0, 0, 0);
    /* Who has left for good leaves no more. */
    vmm_close(fixture, &c);
    assert_told(fixture, &a, "l", 0, 0, 0, 0, 0);

    assert_int_equal(verb(fixture, "Park", "name", "l"), 0);
    assert_told(fixture, &a, "l", 0, 0, 0, 0, 1);
    assert_told(fixture, &b, "l", 0, 0, 0, 0, 1);
    assert_int_equal(verb(fixture, "Resume", "name", "l"), 0);
    assert_told(fixture, &a, "l", 0, 0, 1, 0, 0);
    assert_told(fixture, &b, "l", 0, 0, 1, 0, 0);

    /* One detaches, and comes back. */
    vmm_close(fixture, &b);
    assert_told(fixture, &a, "l", 1, 1, 0, 1, 0);
    vmm_open(fixture, &b, "b");
    wait_for_state(fixture, "l", "linked");
    assert_told(fixture, &a, "l", 0, 0, 1, 0, 0);
    assert_told(fixture, &b, "l", 0, 0, 1, 0, 0);
    /* One is killed. */
    remote_kill(&d);
    wait_for_state(fixture, "l", "waiting");
    assert_told(fixture, &a, "l", 1, 1, 0, 1, 0);
    assert_told(fixture, &b, "l", 1, 1, 0, 1, 0);
    /* A second one goes: the link waits already. */
    vmm_close(fixture, &b);
    assert_told(fixture, &a, "l", 1, 1, 0, 0, 0);
    /* Who is away already does not leave when the link is taken down. */
    assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
    assert_told(fixture, &a, "l", 0, 0, 0, 0, 0);

    /* A link that is taken down: each hears of the other. */
    vmm_open(fixture, &b, "b");
    assert_int_equal(link_up(fixture, "m", "kvm/a/pio/0x510/4", "kvm/b/gsi/5"), 0);
    assert_int_equal(evlink_disconnect(fixture->client, "m"), 0);
    assert_told(fixture, &a, "m", 1, 1, 0, 0, 0);
    assert_told(fixture, &b, "m", 1, 1, 0, 0, 0);
    /* One that never was is no news. */
    assert_int_equal(link_up(fixture, "m", "kvm/a/pio/0x510/4 kvm/a/pio/0x511/4", "kvm/b/gsi/5 kvm/d/gsi/5"),
        EVLINK_E_NOT_ATTACHED);
    assert_told(fixture, &a, "m", 0, 0, 0, 0, 0);
    assert_told(fixture, &b, "m", 0, 0, 0, 0, 0);
    vmm_close(fixture, &a);
    vmm_close(fixture, &b);
}

/* Somebody who listens, in a thread. */
struct listener {
    struct evlink_client *client;
    const char *parameters;
    pthread_t thread;
    pthread_mutex_t lock, gate;
    json_t *notices;
    bool subscribed;
    int64_t n, lost;
};

/* A notice whose subject is `end` ends it. */
static int on_notice(void *userdata, const char *error, const char *parameters)
{
    struct listener *listener = userdata;
    json_t *answer = json_loads(parameters, 0, NULL), *notice = json_object_get(answer, "notice");
    const char *subject = json_string_value(json_object_get(notice, "subject"));
    const char *type = json_string_value(json_object_get(notice, "type"));
    bool last = error || (subject && strcmp(subject, "end") == 0);

    (void)pthread_mutex_lock(&listener->lock);
    if (!notice)
        listener->subscribed = true;
    else if (strcmp(type, "lost") == 0)
        listener->lost += json_integer_value(json_object_get(notice, "count"));
    else if (!last && listener->n++ < 100)
        (void)json_array_append(listener->notices, notice);
    (void)pthread_mutex_unlock(&listener->lock);
    json_decref(answer);
    (void)pthread_mutex_lock(&listener->gate);
    (void)pthread_mutex_unlock(&listener->gate);
    return last;
}

static void *listen_on(void *userdata)
{
    struct listener *listener = userdata;

    (void)evlink_call(listener->client, "io.evlink.Broker.Monitor", listener->parameters, NULL, 0, true,
        on_notice, listener);
    return NULL;
}

static int64_t read_listener(struct listener *listener, int64_t *field)
{
    int64_t value;

    (void)pthread_mutex_lock(&listener->lock);
    value = *field;
    (void)pthread_mutex_unlock(&listener->lock);
    return value;
}

static bool is_subscribed(struct listener *listener)
{
    bool is;

    (void)pthread_mutex_lock(&listener->lock);
    is = listener->subscribed;
    (void)pthread_mutex_unlock(&listener->lock);
    return is;
}

static void listener_start(struct fixture *fixture, struct listener *listener, const char *parameters)
{
    *listener = (struct listener){
        .parameters = parameters,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .gate = PTHREAD_MUTEX_INITIALIZER,
        .notices = json_array(),
    };
    assert_int_equal(evlink_client_open(fixture->broker.path, &listener->client), 0);
    assert_int_equal(pthread_create(&listener->thread, NULL, listen_on, listener), 0);
    wait_until(is_subscribed(listener));
}

static void listener_end(struct listener *listener)
{
    assert_int_equal(pthread_join(listener->thread, NULL), 0);
    evlink_client_free(listener->client);
    json_decref(listener->notices);
}

/* What it has heard: "type subject link reason;" for each, without what is not there. */
static void assert_heard(struct listener *listener, const char *expected)
{
    char text[4096] = "";
    json_t *notice;
    size_t i;

    assert_int_equal(pthread_join(listener->thread, NULL), 0);
    json_array_foreach (listener->notices, i, notice) {
        static const char *const keys[] = { "type", "subject", "link", "reason" };

        assert_true(json_integer_value(json_object_get(notice, "at")) > 0);
        for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++) {
            const char *value = json_string_value(json_object_get(notice, keys[k]));

            if (value)
                (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", k ? " " : "", value);
        }
        (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), ";");
    }
    assert_string_equal(text, expected);
    evlink_client_free(listener->client);
    json_decref(listener->notices);
}

static void test_monitor(void **state)
{
    const char *irq[] = { "kvm/b/dev/nic/irq/0", NULL };
    struct listener all, some, mine, types;
    struct fixture *fixture = *state;
    struct vmm a, b;
    int fd;

    if (!have_kvm())
        skip();
    listener_start(fixture, &all, "{}");
    listener_start(fixture, &some, "{\"types\":[\"held\",\"linked\",\"waiting\",\"unheard-of\"]}");
    listener_start(fixture, &mine, "{\"match\":\"[le]*\"}");
    listener_start(fixture, &types, "{\"types\":[\"held\",\"moved\",\"parked\"],\"match\":\"[le]*\"}");
    vmm_open(fixture, &a, "a");
    assert_int_equal(link_later(fixture, "l", "kvm/a/pio/0x510/4", irq[0]), 0);
    vmm_open(fixture, &b, "b");
    assert_int_equal(evlink_offer(fixture->client, "b", irq), 0);
    wait_for_state(fixture, "l", "linked");
    assert_int_equal(verb(fixture, "Park", "name", "l"), 0);
    assert_int_equal(verb(fixture, "Resume", "name", "l"), 0);
    assert_int_equal(move(fixture, "l", irq[0], "kvm/b/gsi/5"), 0);
    assert_int_equal(evlink_withdraw(fixture->client, "b", irq, "reset"), 0);
    assert_int_equal(leave(fixture, "kvm/b/gsi/5", "done"), 0);
    hold(fixture, "xyz", &fd);
    unhold(fixture, "xyz", fd);
    vmm_close(fixture, &b);
    vmm_close(fixture, &a);
    hold(fixture, "end", &fd);
    assert_heard(&all,
        "attached a;waiting l l;attached b;offered kvm/b/dev/nic/irq/0;linked l l;parked l l;linked l l;"
        "moved l l;withdrawn kvm/b/dev/nic/irq/0 reset;"
        "leaving kvm/b/gsi/5 l done;leaving kvm/a/pio/0x510/4 l done;"
        "left kvm/a/pio/0x510/4 l done;left kvm/b/gsi/5 l done;disconnected l l;"
        "held xyz;claimed xyz;released xyz;detached b detached;detached a detached;");
    assert_heard(&some, "waiting l l;linked l l;linked l l;held xyz;");
    assert_heard(&mine, "waiting l l;linked l l;parked l l;linked l l;moved l l;"
                        "leaving kvm/b/gsi/5 l done;leaving kvm/a/pio/0x510/4 l done;"
                        "left kvm/a/pio/0x510/4 l done;left kvm/b/gsi/5 l done;disconnected l l;");
    assert_heard(&types, "parked l l;moved l l;");
    unhold(fixture, "end", fd);
}

/* A subscriber that does not read is not waited for, and told how much it has missed. */
static void test_lost_notices(void **state)
{
    enum { N = 250, ROUNDS = 40 };
    static char names[N][16];
    const char *list[N];
    struct fixture *fixture = *state;
    struct listener slow;
    int fds[N], end;

    for (int i = 0; i < N; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "n%d", i);
        list[i] = names[i];
        fds[i] = eventfd(0, EFD_CLOEXEC);
    }
    listener_start(fixture, &slow, "{}");
    (void)pthread_mutex_lock(&slow.gate);
    for (int i = 0; i < ROUNDS; i++) {
        struct evlink_client *other;
        struct evlink_status status;

        assert_int_equal(evlink_client_open(fixture->broker.path, &other), 0);
        assert_int_equal(evlink_hold_many(other, list, fds, N, EVLINK_CONNECTION, 0), 0);
        evlink_client_free(other);
        do
            assert_int_equal(evlink_status(fixture->client, &status), 0);
        while (status.eventfds > 0);
    }
    (void)pthread_mutex_unlock(&slow.gate);
    wait_until(read_listener(&slow, &slow.lost) > 0);
    assert_int_equal(read_listener(&slow, &slow.n) + read_listener(&slow, &slow.lost), 2 * N * ROUNDS);
    printf("# of %d notices, a subscriber that did not read got %" PRId64 " and missed %" PRId64 "\n",
        2 * N * ROUNDS, slow.n, slow.lost);
    hold(fixture, "end", &end);
    listener_end(&slow);
    unhold(fixture, "end", end);
    for (int i = 0; i < N; i++)
        close(fds[i]);
}

/* ---- Takeover ---- */

/* Signals without pause: each is followed by an interrupt in the old process or in the new one. */
struct signaller {
    int fd;
    unsigned gsi;
    struct remote *remotes[2];
    atomic_bool stop;
    uint64_t signals;
    const char *failure;
};

static void *signal_on(void *userdata)
{
    struct signaller *signaller = userdata;
    uint64_t before = 0, now;

    for (int i = 0; i < 2; i++)
        before += remote_ask(signaller->remotes[i], 'i', signaller->gsi, 0);
    for (; !atomic_load(&signaller->stop); signaller->signals++, before = now) {
        int64_t deadline = now_ms() + SOON_MS;

        if (eventfd_write(signaller->fd, 1) < 0)
            return fail_with(&signaller->failure, "a signal failed");
        do {
            now = 0;
            for (int i = 0; i < 2; i++)
                now += remote_ask(signaller->remotes[i], 'i', signaller->gsi, 0);
            if (now_ms() > deadline)
                return fail_with(&signaller->failure, "a signal was lost");
        } while (now == before);
    }
    return NULL;
}

static void test_takeover(void **state)
{
    const char *fixed[] = { "kvm/v/gsi/5", NULL }, *bell[] = { "kvm/v/pio/0x510/4", NULL },
               *irq[] = { "kvm/v/dev/nic/irq/0", NULL };
    struct fixture *fixture = *state;
    struct signaller signaller = { .gsi = 5 };
    struct remote old, new;
    struct vmm here, third;
    pthread_t thread;
    uint64_t n;
    int e, f, d;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &here, "here");
    hold(fixture, "e", &e);
    hold(fixture, "f", &f);
    hold(fixture, "d", &d);
    /* The old one lets its endpoints go one by one, detaches, or is killed. */
    for (int round = 0; round < 3; round++) {
        remote_open(fixture, &old, "old", "v", 0);
        assert_int_equal(evlink_offer(fixture->client, "old", irq), 0);
        assert_int_equal(link_up(fixture, "e", "eventfd/e", "kvm/v/gsi/5"), 0);
        assert_int_equal(link_up(fixture, "f", "eventfd/f", "kvm/v/gsi/6"), 0);
        assert_int_equal(link_up(fixture, "d", "eventfd/d", irq[0]), 0);
        assert_int_equal(link_up(fixture, "bell", bell[0], "kvm/here/gsi/5"), 0);
        assert_int_equal(remote_ask(&old, 'r', 0, 1), 0);

        assert_int_equal(vmm_try(fixture->client, &third, "third", "v", 0, 0), EVLINK_E_SUBSYSTEM_TAKEN);
        vmm_drop(&third);
        remote_open(fixture, &new, "new", "v", EVLINK_AGENT_TAKEOVER);
        assert_int_equal(vmm_try(fixture->client, &third, "third", "v", 0, EVLINK_AGENT_TAKEOVER),
            EVLINK_E_SUBSYSTEM_TAKEN);
        vmm_drop(&third);
        assert_state(fixture, "e", "linked");
        /* Everything is the old one's as yet. */
        assert_int_equal(eventfd_write(f, 1), 0);
        assert_int_equal(remote_ask(&old, 'w', 6, 1), 1);
        assert_int_equal(eventfd_write(d, 1), 0);
        assert_int_equal(remote_ask(&old, 'w', 24, 1), 1);
        assert_int_equal(remote_ask(&new, 'i', 6, 0), 0);

        signaller.fd = e;
        signaller.remotes[0] = &old;
        signaller.remotes[1] = &new;
        atomic_store(&signaller.stop, false);
        if (round < 2)
            assert_int_equal(pthread_create(&thread, NULL, signal_on, &signaller), 0);
        if (round == 0) {
            assert_int_equal(evlink_withdraw(fixture->client, "old", fixed, NULL), 0);
            wait_for_state(fixture, "e", "linked");
            /* The device is not offered by the new one: it waits, and its signals with it. */
            assert_int_equal(evlink_withdraw(fixture->client, "old", irq, NULL), 0);
            assert_state(fixture, "d", "waiting");
            assert_int_equal(eventfd_write(d, 2), 0);
            assert_int_equal(evlink_offer(fixture->client, "new", irq), 0);
            wait_for_state(fixture, "d", "linked");
            assert_int_equal(evlink_withdraw(fixture->client, "old", bell, NULL), 0);
            wait_for_state(fixture, "bell", "linked");
        } else {
            assert_int_equal(evlink_offer(fixture->client, "new", irq), 0);
        }
        if (round < 2) {
            assert_int_equal(evlink_detach(fixture->client, "old"), 0);
        } else {
            /* None is lost that comes while nobody is there. */
            assert_int_equal(kill(old.pid, SIGSTOP), 0);
            assert_int_equal(kill(old.pid, SIGKILL), 0);
            assert_int_equal(waitpid(old.pid, NULL, 0), old.pid);
            old.pid = 0;
            close(old.fd);
            assert_int_equal(eventfd_write(e, 1), 0);
        }
        wait_for_state(fixture, "e", "linked");
        wait_for_state(fixture, "f", "linked");
        wait_for_state(fixture, "d", "linked");
        wait_for_state(fixture, "bell", "linked");
        if (round < 2) {
            n = remote_ask(&new, 'i', 24, 0);
            atomic_store(&signaller.stop, true);
            assert_int_equal(pthread_join(thread, NULL), 0);
            if (signaller.failure)
                fail_msg("%s after %" PRIu64, signaller.failure, signaller.signals);
        }
        n = remote_ask(&new, 'i', 6, 0);
        assert_int_equal(eventfd_write(f, 1), 0);
        assert_int_equal(remote_ask(&new, 'w', 6, n + 1), n + 1);
        n = remote_ask(&new, 'i', 24, 0);
        assert_int_equal(n, round == 0);
        assert_int_equal(eventfd_write(d, 1), 0);
        assert_int_equal(remote_ask(&new, 'w', 24, n + 1), n + 1);
        n = guest_interrupts(here.guest, 5);
        if (old.pid)
            assert_int_equal(remote_ask(&old, 'r', 0, 1), 1); /* unplugged there */
        assert_int_equal(remote_ask(&new, 'r', 0, 1), 0);
        assert_int_equal(guest_wait(here.guest, 5, n + 1, SOON_MS), n + 1);
        remote_kill(&old);
        /* Nobody waits for the old one's death. */
        assert_int_equal(evlink_disconnect(fixture->client, "e"), 0);
        assert_int_equal(evlink_disconnect(fixture->client, "f"), 0);
        assert_int_equal(evlink_disconnect(fixture->client, "d"), 0);
        assert_int_equal(evlink_disconnect(fixture->client, "bell"), 0);
        assert_int_equal(evlink_detach(fixture->client, "new"), 0);
        remote_kill(&new);
        if (round < 2)
            printf("# %" PRIu64 " signals during the takeover\n", signaller.signals);
        signaller.signals = 0;
    }
    unhold(fixture, "e", e);
    unhold(fixture, "f", f);
    unhold(fixture, "d", d);
    vmm_close(fixture, &here);
}

/* ---- Departures ---- */

struct departures {
    struct fixture *fixture;
    struct remote p, q; /* the producer's process, and the consumer's */
    bool p_attached, q_attached;
    struct vmm *observer;
    struct evlink_client *other; /* what ends with its connection */
    unsigned n;
};

static void close_connection(struct departures *d)
{
    d->other = evlink_client_free(d->other);
}

static void assert_done_or(int r, int otherwise)
{
    if (r != otherwise)
        assert_int_equal(r, 0);
}

static void disconnect(struct departures *d)
{
    assert_done_or(evlink_disconnect(d->fixture->client, "l"), EVLINK_E_NO_SUCH_LINK);
}

static void leave_producer(struct departures *d)
{
    assert_done_or(leave(d->fixture, "kvm/p/pio/0x510/4", "leaves"), EVLINK_E_NO_SUCH_LINK);
}

static void leave_consumer(struct departures *d)
{
    assert_done_or(leave(d->fixture, "kvm/q/gsi/5", NULL), EVLINK_E_NO_SUCH_LINK);
}

static void detach_producer(struct departures *d)
{
    assert_done_or(evlink_detach(d->fixture->client, "p"), EVLINK_E_NO_SUCH_AGENT);
    d->p_attached = false;
}

static void detach_consumer(struct departures *d)
{
    assert_done_or(evlink_detach(d->fixture->client, "q"), EVLINK_E_NO_SUCH_AGENT);
    d->q_attached = false;
}

static void kill_producer(struct departures *d)
{
    remote_kill(&d->p);
    d->p_attached = false;
}

static void kill_consumer(struct departures *d)
{
    remote_kill(&d->q);
    d->q_attached = false;
}

#define N_DEPARTURES 4

/* Which four, of what kind of link, and how many ends the observer hears leaving. */
static const struct scene {
    const char *consumers;
    bool connection; /* the link is the connection's */
    bool held;       /* eventfd/x is */
    unsigned leaving;
    void (*departures[N_DEPARTURES])(struct departures *d);
} scenes[] = {
    { "kvm/q/gsi/5", true, false, 0, { close_connection, leave_consumer, detach_producer, kill_consumer } },
    { "kvm/q/gsi/5", false, false, 0, { disconnect, leave_producer, detach_consumer, kill_producer } },
    { "kvm/q/gsi/5 kvm/o/gsi/5", false, false, 2,
        { disconnect, leave_consumer, kill_producer, detach_consumer } },
    { "kvm/q/gsi/5 kvm/o/gsi/5 eventfd/x", false, true, 3,
        { close_connection, disconnect, kill_producer, kill_consumer } },
};

/* Both processes are there, attached, and the link works: whatever was there before is not in its way. */
static void set_scene(struct departures *d, const struct scene *scene)
{
    struct fixture *fixture = d->fixture;
    bool p_is_new = !d->p.pid, q_is_new = !d->q.pid;
    uint64_t before;

    if (p_is_new)
        remote_begin(fixture, &d->p, "p", "p", 0);
    if (q_is_new)
        remote_begin(fixture, &d->q, "q", "q", 0);
    if (p_is_new)
        assert_int_equal(remote_answer(&d->p), 0);
    if (q_is_new)
        assert_int_equal(remote_answer(&d->q), 0);
    if (!p_is_new && !d->p_attached)
        assert_int_equal(remote_ask(&d->p, 'a', 0, 0), 0);
    if (!q_is_new && !d->q_attached)
        assert_int_equal(remote_ask(&d->q, 'a', 0, 0), 0);
    d->p_attached = d->q_attached = true;
    assert_int_equal(evlink_client_open(fixture->broker.path, &d->other), 0);
    if (scene->held)
        assert_int_equal(evlink_hold_new(d->other, "x", false, EVLINK_CONNECTION, 0), 0);
    assert_int_equal(connect_with(scene->connection ? d->other : fixture->client, "l", "kvm/p/pio/0x510/4",
                         scene->consumers, true, scene->connection ? EVLINK_CONNECTION : EVLINK_PERSISTENT),
        0);
    before = remote_ask(&d->q, 'i', 5, 0);
    assert_int_equal(remote_ask(&d->p, 'r', 0, 1), 0);
    assert_int_equal(remote_ask(&d->q, 'w', 5, before + 1), before + 1);
}

static void depart(struct departures *d, const struct scene *scene, const unsigned *order)
{
    struct fixture *fixture = d->fixture;
    struct evlink_status status;

    set_scene(d, scene);
    for (int i = 0; i < N_DEPARTURES; i++)
        scene->departures[order[i]](d);
    d->other = evlink_client_free(d->other);
    /* The loop may not have come to what has died yet. */
    do
        assert_int_equal(evlink_status(fixture->client, &status), 0);
    while (
        status.links > 0 || status.eventfds > 0 || status.agents > (size_t)1 + d->p_attached + d->q_attached);
    assert_state(fixture, "l", NULL);
    if (d->p.pid)
        assert_int_equal(remote_ask(&d->p, 'r', 0, 1), 1); /* nothing is plugged */
    wait_for_agent(fixture, d->observer);
    if (scene->leaving) {
        assert_int_equal(told(d->observer, "leaving", "kvm/o/gsi/5", "l", NULL), scene->leaving);
        assert_int_equal(told(d->observer, "left", "kvm/o/gsi/5", "l", NULL), scene->leaving);
    }
    forget(d->observer);
    detach_producer(d);
    detach_consumer(d);
    /* The observer's socket and pidfd, and the connections of the processes that live. */
    wait_until(
        broker_count_fds(&fixture->broker) == fixture->fds + 2 + (d->p.pid ? 1 : 0) + (d->q.pid ? 1 : 0));
    d->n++;
}

static void permute(struct departures *d, const struct scene *scene, unsigned *order, unsigned n)
{
    if (n == N_DEPARTURES) {
        depart(d, scene, order);
        return;
    }
    for (unsigned i = 0; i < N_DEPARTURES; i++) {
        bool used = false;

        for (unsigned k = 0; k < n; k++)
            used |= order[k] == i;
        order[n] = i;
        if (!used)
            permute(d, scene, order, n + 1);
    }
}

static void test_departures(void **state)
{
    struct fixture *fixture = *state;
    struct departures d = { .fixture = fixture };
    unsigned order[N_DEPARTURES];
    struct vmm observer;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &observer, "o");
    d.observer = &observer;
    for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++)
        permute(&d, &scenes[i], order, 0);
    printf("# %u orders of departure\n", d.n);
    remote_kill(&d.p);
    remote_kill(&d.q);
    vmm_close(fixture, &observer);
}

/* ---- Agents that stand still ---- */

struct caller {
    struct evlink_client *client;
    const char *what;
    int r;
    int64_t took;
    atomic_bool done;
    pthread_t thread;
};

static void *call_slowly(void *userdata)
{
    struct caller *caller = userdata;
    int64_t began = now_ms();

    if (strcmp(caller->what, "connect") == 0)
        caller->r = connect_with(
            caller->client, "slow", "eventfd/e kvm/a/pio/0x520/4", "kvm/s/gsi/5", true, EVLINK_PERSISTENT);
    else
        caller->r = evlink_disconnect(caller->client, "slow");
    caller->took = now_ms() - began;
    atomic_store(&caller->done, true);
    return NULL;
}

static void caller_start(struct caller *caller, const char *what)
{
    caller->what = what;
    atomic_store(&caller->done, false);
    assert_int_equal(pthread_create(&caller->thread, NULL, call_slowly, caller), 0);
}

static int caller_end(struct caller *caller)
{
    assert_int_equal(pthread_join(caller->thread, NULL), 0);
    assert_true(caller->took >= AGENT_TIMEOUT_MS - 50);
    return caller->r;
}

/* The others are served while somebody waits. Returns the longest that they waited, in ms. */
static int64_t serve_others(struct fixture *fixture, struct vmm *a, struct vmm *b, struct caller *caller)
{
    int64_t longest = 0;
    uint64_t n;

    while (!atomic_load(&caller->done)) {
        int64_t began = now_ms();

        assert_int_equal(link_up(fixture, "other", "kvm/a/pio/0x510/4", "kvm/b/gsi/5"), 0);
        n = guest_interrupts(b->guest, 5);
        assert_int_equal(guest_ring_pio(a->guest, DOORBELL, 4, 1, 1), 0);
        assert_int_equal(guest_wait(b->guest, 5, n + 1, SOON_MS), n + 1);
        assert_int_equal(evlink_disconnect(fixture->client, "other"), 0);
        if (now_ms() - began > longest)
            longest = now_ms() - began;
    }
    return longest;
}

static void test_stopped(void **state)
{
    struct fixture *fixture = *state;
    struct caller caller = { 0 };
    struct remote stopped;
    int64_t longest[2], best[2] = { INT64_MAX, INT64_MAX };
    struct vmm a, b;
    uint64_t n = 0;
    int e;

    if (!have_kvm())
        skip();
    /* First: a fork of a program with threads may find a lock of the sanitizers' taken for ever. */
    remote_open(fixture, &stopped, "s", "s", 0);
    vmm_open(fixture, &a, "a");
    vmm_open(fixture, &b, "b");
    hold(fixture, "e", &e);
    assert_int_equal(evlink_client_open(fixture->broker.path, &caller.client), 0);
    for (int round = 0; round < 3; round++) {
        /* Connect fails, leaves nothing behind but what cannot be known, and that is undone. */
        assert_int_equal(eventfd_write(e, 3), 0);
        stop_process(stopped.pid);
        caller_start(&caller, "connect");
        longest[0] = serve_others(fixture, &a, &b, &caller);
        assert_int_equal(caller_end(&caller), EVLINK_E_AGENT_TIMEOUT);
        assert_non_null(strstr(evlink_client_message(caller.client), "'s'"));
        assert_state(fixture, "slow", NULL);
        assert_int_equal(guest_ring_pio(a.guest, 0x520, 4, 1, 1), 1);
        assert_int_equal(link_up(fixture, "x", "eventfd/e", "kvm/b/gsi/6"), EVLINK_E_ENDPOINT_BUSY);
        assert_int_equal(link_up(fixture, "x", "kvm/a/pio/0x520/4", "kvm/s/gsi/6"), EVLINK_E_AGENT_TIMEOUT);
        assert_int_equal(kill(stopped.pid, SIGCONT), 0);
        /* Until it has caught up, e is not to be had. */
        wait_until(link_up(fixture, "x", "eventfd/e", "kvm/b/gsi/6") == 0);
        assert_int_equal(guest_wait(b.guest, 6, (uint64_t)round + 1, SOON_MS), (uint64_t)round + 1);
        assert_int_equal(evlink_disconnect(fixture->client, "x"), 0);
        n = remote_ask(&stopped, 'i', 5, 0);
        assert_int_equal(eventfd_write(e, 5), 0);
        assert_int_equal(remote_ask(&stopped, 'i', 5, 0), n);
        assert_int_equal(take(e), 5);

        /* Disconnect does not fail for it. */
        wait_until(link_up(fixture, "slow", "eventfd/e kvm/a/pio/0x520/4", "kvm/s/gsi/5") == 0);
        assert_int_equal(guest_ring_pio(a.guest, 0x520, 4, 1, 1), 0);
        assert_int_equal(remote_ask(&stopped, 'w', 5, n + 1), n + 1);
        stop_process(stopped.pid);
        caller_start(&caller, "disconnect");
        longest[1] = serve_others(fixture, &a, &b, &caller);
        assert_int_equal(caller_end(&caller), 0);
        assert_state(fixture, "slow", NULL);
        assert_int_equal(guest_ring_pio(a.guest, 0x520, 4, 1, 1), 1);
        assert_int_equal(link_up(fixture, "x", "eventfd/e", "kvm/b/gsi/6"), EVLINK_E_ENDPOINT_BUSY);
        assert_int_equal(kill(stopped.pid, SIGCONT), 0);
        wait_until(link_up(fixture, "slow", "eventfd/e kvm/a/pio/0x520/4", "kvm/s/gsi/5") == 0);
        assert_int_equal(eventfd_write(e, 1), 0);
        assert_int_equal(remote_ask(&stopped, 'w', 5, n + 2), n + 2);
        assert_int_equal(evlink_disconnect(fixture->client, "slow"), 0);
        printf("# stopped in Connect and in Disconnect: others waited %" PRId64 " and %" PRId64
               " ms at most\n",
            longest[0], longest[1]);
        for (size_t i = 0; i < 2; i++)
            best[i] = longest[i] < best[i] ? longest[i] : best[i];
    }
    /* Whoever waits for the broker does each time; on a busy machine others may now and then. */
    assert_true(best[0] < AGENT_TIMEOUT_MS && best[1] < AGENT_TIMEOUT_MS);

    /* A link that is there fails while its end cannot be had, and comes back by itself. */
    assert_int_equal(link_up(fixture, "slow", "eventfd/e", "kvm/s/gsi/5"), 0);
    stop_process(stopped.pid);
    assert_int_equal(verb(fixture, "Park", "name", "slow"), 0);
    assert_int_equal(verb(fixture, "Resume", "name", "slow"), EVLINK_E_AGENT_TIMEOUT);
    assert_int_equal(kill(stopped.pid, SIGCONT), 0);
    wait_until(is_state(fixture, "slow", "parked") && verb(fixture, "Resume", "name", "slow") == 0);
    n = remote_ask(&stopped, 'i', 5, 0);
    assert_int_equal(eventfd_write(e, 1), 0);
    assert_int_equal(remote_ask(&stopped, 'w', 5, n + 1), n + 1);
    assert_int_equal(evlink_disconnect(fixture->client, "slow"), 0);
    evlink_client_free(caller.client);
    unhold(fixture, "e", e);
    assert_int_equal(evlink_detach(fixture->client, "s"), 0);
    remote_kill(&stopped);
    vmm_close(fixture, &a);
    vmm_close(fixture, &b);
}

/* Stopped, and killed before it goes on: nothing is left of it. */
static void test_stopped_and_killed(void **state)
{
    struct fixture *fixture = *state;
    struct remote stopped;
    struct vmm a;
    int e;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &a, "a");
    hold(fixture, "e", &e);
    for (int round = 0; round < 3; round++) {
        remote_open(fixture, &stopped, "s", "s", 0);
        if (round == 1)
            assert_int_equal(link_up(fixture, "l", "eventfd/e", "kvm/s/gsi/5"), 0);
        stop_process(stopped.pid);
        if (round == 0)
            assert_int_equal(link_up(fixture, "l", "eventfd/e", "kvm/s/gsi/5"), EVLINK_E_AGENT_TIMEOUT);
        else if (round == 1)
            assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
        else
            assert_int_equal(evlink_detach(fixture->client, "s"), 0);
        remote_kill(&stopped);
        wait_until(link_up(fixture, "l", "eventfd/e", "kvm/a/gsi/5") == 0);
        assert_int_equal(eventfd_write(e, 1), 0);
        assert_int_equal(guest_wait(a.guest, 5, (uint64_t)round + 1, SOON_MS), (uint64_t)round + 1);
        assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
        wait_until(broker_count_fds(&fixture->broker) == fixture->fds + 3);
    }
    unhold(fixture, "e", e);
    vmm_close(fixture, &a);
}

/* The kernel's no is the answer's errno, and all that was plugged before it is unplugged. */
static void test_kernel_says_no(void **state)
{
    struct fixture *fixture = *state;
    struct kvm_ioeventfd bell = { .addr = 0x520, .len = 4, .flags = KVM_IOEVENTFD_FLAG_PIO };
    struct kvm_irqfd irqfd = { .gsi = 9 };
    struct vmm a, b, none;
    int e, fd;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &a, "a");
    vmm_open(fixture, &b, "b");
    assert_int_equal(vmm_try(fixture->client, &none, "none", "none", GUEST_NO_IRQCHIP, 0), 0);
    hold(fixture, "e", &e);
    fd = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(link_up(fixture, "l", "kvm/a/pio/0x510/4", "kvm/b/gsi/5 kvm/none/gsi/5 eventfd/e"),
        EVLINK_E_PLUG_FAILED);
    assert_non_null(strstr(evlink_client_message(fixture->client), "EINVAL"));
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 1);
    bell.fd = fd;
    assert_int_equal(ioctl(guest_vm_fd(a.guest), KVM_IOEVENTFD, &bell), 0);
    assert_int_equal(
        link_up(fixture, "l", "kvm/a/pio/0x510/4 kvm/a/pio/0x520", "kvm/b/gsi/5"), EVLINK_E_PLUG_FAILED);
    assert_non_null(strstr(evlink_client_message(fixture->client), "EEXIST"));
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 1);
    /* By somebody else's hand it is bound already: the pending count stays what it was. */
    irqfd.fd = (uint32_t)e;
    assert_int_equal(ioctl(guest_vm_fd(b.guest), KVM_IRQFD, &irqfd), 0);
    assert_int_equal(link_up(fixture, "l", "eventfd/e", "kvm/b/gsi/5"), EVLINK_E_PLUG_FAILED);
    assert_non_null(strstr(evlink_client_message(fixture->client), "EBUSY"));
    irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
    assert_int_equal(ioctl(guest_vm_fd(b.guest), KVM_IRQFD, &irqfd), 0);
    assert_int_equal(link_up(fixture, "l", "eventfd/e", "kvm/b/gsi/5"), 0);
    assert_int_equal(eventfd_write(e, 1), 0);
    assert_int_equal(guest_wait(b.guest, 5, 1, SOON_MS), 1);
    assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
    close(fd);
    unhold(fixture, "e", e);
    vmm_close(fixture, &a);
    vmm_close(fixture, &b);
    vmm_close(fixture, &none);
}

/* ---- Export ---- */

/* What a method with a stream of links answers, as one array; for links without what a new one has anew. */
static json_t *list(struct fixture *fixture, const char *method, json_t *parameters)
{
    json_t *answers, *links = json_array(), *answer;
    size_t i;

    assert_int_equal(call(fixture->client, method, parameters, &answers), 0);
    json_array_foreach (answers, i, answer) {
        json_t *link = json_object_get(answer, "link");

        if (!link)
            continue;
        (void)json_object_del(link, "since");
        (void)json_object_del(link, "forwarded");
        (void)json_array_append(links, link);
    }
    json_decref(answers);
    return links;
}

static void test_export(void **state)
{
    const char *two[] = { "eventfd/e", "kvm/a/pio/0x530/4=0x1", NULL }, *one[] = { "kvm/b/gsi/9", NULL };
    const char *labels[] = { "guest=b", "empty=", "odd=a=b", NULL };
    const struct evlink_link_spec labelled = {
        .name = "labelled", .producers = two, .consumers = one, .group = "g", .labels = labels
    };
    struct fixture *fixture = *state;
    json_t *specs, *links, *again, *part;
    struct vmm a, b;
    int e, f;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &a, "a");
    vmm_open(fixture, &b, "b");
    assert_int_equal(guest_set_level(b.guest, 5, true), 0);
    hold(fixture, "e", &e);
    hold(fixture, "f", &f);
    assert_int_equal(evlink_connect(fixture->client, &labelled, NULL), 0);
    assert_int_equal(link_up(fixture, "level", "kvm/a/pio/0x520/4", "kvm/b/gsi/5/level"), 0);
    assert_int_equal(link_up(fixture, "wide", "kvm/a/pio/0x510/4", "kvm/b/gsi/6 kvm/a/gsi/6 eventfd/f"), 0);
    assert_int_equal(
        link_later(fixture, NULL, "kvm/a/dev/nic/notify/0", "kvm/nobody/mmio/0x10"), EVLINK_E_BAD_ENDPOINT);
    assert_int_equal(link_later(fixture, NULL, "kvm/a/dev/nic/notify/0", "kvm/nobody/dev/nic/irq/1"), 0);
    /* An end that has left is not there any more. */
    assert_int_equal(leave(fixture, "kvm/a/gsi/6", NULL), 0);

    specs = list(fixture, "Export", json_object());
    links = list(fixture, "ListLinks", json_object());
    assert_int_equal(json_array_size(specs), 4);
    part = list(fixture, "Export", json_pack("{s:s}", "group", "g"));
    assert_int_equal(json_array_size(part), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(part, 0), "name")), "labelled");
    json_decref(part);
    part = list(fixture, "Export", json_pack("{s:s}", "match", "[lw]*e*"));
    assert_int_equal(json_array_size(part), 3);
    json_decref(part);
    for (size_t i = 0; i < json_array_size(specs); i++)
        assert_int_equal(evlink_disconnect(fixture->client,
                             json_string_value(json_object_get(json_array_get(specs, i), "name"))),
            0);
    again = list(fixture, "Export", json_object());
    assert_int_equal(json_array_size(again), 0);
    json_decref(again);

    assert_int_equal(call(fixture->client, "ConnectMany", json_pack("{s:O}", "links", specs), NULL), 0);
    again = list(fixture, "Export", json_object());
    assert_true(json_equal(again, specs));
    json_decref(again);
    again = list(fixture, "ListLinks", json_object());
    assert_true(json_equal(again, links));
    json_decref(again);
    json_decref(links);
    /* And they work. */
    assert_int_equal(guest_ring_pio(a.guest, 0x530, 4, 1, 1), 0);
    assert_int_equal(guest_wait(b.guest, 9, 1, SOON_MS), 1);
    assert_int_equal(guest_ring_pio(a.guest, 0x520, 4, 1, 1), 0);
    assert_int_equal(guest_wait(b.guest, 5, 1, SOON_MS), 1);
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 1, 1), 0);
    assert_int_equal(take(f), 1);
    assert_int_equal(guest_wait(b.guest, 6, 1, SOON_MS), 1);
    for (size_t i = 0; i < json_array_size(specs); i++)
        assert_int_equal(evlink_disconnect(fixture->client,
                             json_string_value(json_object_get(json_array_get(specs, i), "name"))),
            0);
    json_decref(specs);
    unhold(fixture, "e", e);
    unhold(fixture, "f", f);
    vmm_close(fixture, &a);
    vmm_close(fixture, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_level, setup, teardown),
        cmocka_unit_test_setup_teardown(test_level_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fan_out, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_eventfds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_offers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_park, setup, teardown),
        cmocka_unit_test_setup_teardown(test_move, setup, teardown),
        cmocka_unit_test_setup_teardown(test_notices, setup, teardown),
        cmocka_unit_test_setup_teardown(test_monitor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_notices, setup, teardown),
        cmocka_unit_test_setup_teardown(test_takeover, setup, teardown),
        cmocka_unit_test_setup_teardown(test_departures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stopped, setup_impatient, teardown),
        cmocka_unit_test_setup_teardown(test_stopped_and_killed, setup_impatient, teardown),
        cmocka_unit_test_setup_teardown(test_kernel_says_no, setup, teardown),
        cmocka_unit_test_setup_teardown(test_export, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
