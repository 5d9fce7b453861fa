/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The main job on the real thing: guests on /dev/kvm that count their interrupts, a private evlinkd of
 * another user, and libevlink's agents. What KVM does when nobody holds is the negative control.
 */
#include "../examples/guest.h"
#include "broker.h"
#include "lib/evlink.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define DOORBELL 0x510
#define SECOND 0xd0000

/* How long an interrupt that must come may take on a loaded machine. */
#define SOON_MS 10000

struct fixture {
    struct broker broker;
    struct evlink_client *client;
    size_t fds;
};

/* A guest with its agent, in this process. */
struct vmm {
    struct guest *guest;
    struct evlink_agent *agent;
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

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));

    *state = fixture;
    broker_start(&fixture->broker, NULL);
    fixture->client = broker_open(&fixture->broker);
    fixture->fds = broker_count_fds(&fixture->broker);
    return 0;
}

/* Whatever a test did: the daemon has the descriptors that it had. */
static int teardown(void **state)
{
    struct fixture *fixture = *state;

    broker_assert_fds(&fixture->broker, fixture->fds);
    evlink_client_free(fixture->client);
    broker_stop(&fixture->broker);
    free(fixture);
    return 0;
}

static void vmm_open(struct fixture *fixture, struct vmm *vmm, const char *name, unsigned flags)
{
    assert_int_equal(guest_new(0, &vmm->guest), 0);
    assert_int_equal(evlink_agent_new(name, flags, &vmm->agent), 0);
    assert_int_equal(evlink_agent_add_kvm(vmm->agent, name, guest_vm_fd(vmm->guest), NULL, NULL), 0);
    assert_int_equal(evlink_agent_attach(vmm->agent, fixture->client), 0);
    assert_int_equal(evlink_agent_start(vmm->agent), 0);
}

static void vmm_close(struct fixture *fixture, struct vmm *vmm, const char *name)
{
    assert_int_equal(evlink_detach(fixture->client, name), 0);
    evlink_agent_free(vmm->agent);
    guest_free(vmm->guest);
}

static int link_up(struct fixture *fixture, const char *name, const char *producer, const char *consumer)
{
    const char *producers[] = { producer, NULL }, *consumers[] = { consumer, NULL };
    const struct evlink_link_spec spec = {
        .name = name,
        .producers = producers,
        .consumers = consumers,
        .no_wait = true,
    };

    return evlink_connect(fixture->client, &spec, NULL);
}

/* Rings one by one, and counts what arrives. */
static unsigned ring(struct guest *from, struct guest *to, unsigned gsi, unsigned count)
{
    uint64_t before = guest_interrupts(to, gsi), i;

    for (i = 0; i < count; i++) {
        assert_int_equal(guest_ring_pio(from, DOORBELL, 4, 1, 1), 0); /* and none exits */
        if (guest_wait(to, gsi, before + i + 1, SOON_MS) != before + i + 1)
            break;
    }
    return (unsigned)(guest_interrupts(to, gsi) - before);
}

/* Deassigning, even what is not there, flushes KVM's queue of shutdowns [KERNEL.md 10]. */
static void wait_for_teardown(struct guest *guest)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = 1, .flags = KVM_IRQFD_FLAG_DEASSIGN };

    assert_int_equal(ioctl(guest_vm_fd(guest), KVM_IRQFD, &irqfd), 0);
    close(fd);
}

/* The control: a link by hand, and nobody holds. */
static void test_nobody_holds(void **state)
{
    struct guest *guest;
    int fd = eventfd(0, EFD_CLOEXEC);
    struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = 5 };
    struct kvm_ioeventfd doorbell = { .fd = fd, .addr = DOORBELL, .len = 4, .flags = KVM_IOEVENTFD_FLAG_PIO };

    (void)state;
    if (!have_kvm())
        skip();
    assert_int_equal(guest_new(0, &guest), 0);
    assert_int_equal(ioctl(guest_vm_fd(guest), KVM_IRQFD, &irqfd), 0);
    assert_int_equal(ioctl(guest_vm_fd(guest), KVM_IOEVENTFD, &doorbell), 0);
    assert_int_equal(ring(guest, guest, 5, 10), 10);
    close(fd);
    wait_for_teardown(guest);
    assert_int_equal(guest_ring_pio(guest, DOORBELL, 4, 1, 100), 0);
    wait_for_teardown(guest);
    assert_int_equal(guest_interrupts(guest, 5), 10);
    guest_free(guest);
}

static void test_pic_and_msi(void **state)
{
    struct fixture *fixture = *state;
    struct vmm vmm;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &vmm, "vm1", 0);
    assert_int_equal(guest_route_msi(vmm.guest, 24, 0x40), 0);
    for (int way = 0; way < 2; way++) {
        assert_int_equal(
            link_up(fixture, "l", "kvm/vm1/pio/0x510/4", way ? "kvm/vm1/gsi/24" : "kvm/vm1/gsi/5"), 0);
        wait_for_teardown(vmm.guest);
        assert_int_equal(ring(vmm.guest, vmm.guest, way ? 24 : 5, 100), 100);
        assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
        /* The doorbell exits again, and nothing arrives. */
        assert_int_equal(guest_ring_pio(vmm.guest, DOORBELL, 4, 1, 3), 3);
        assert_int_equal(guest_interrupts(vmm.guest, way ? 24 : 5), 100);
    }
    vmm_close(fixture, &vmm, "vm1");
}

static void test_two_vms(void **state)
{
    struct fixture *fixture = *state;
    struct vmm a, b;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &a, "a", 0);
    vmm_open(fixture, &b, "b", 0);
    assert_int_equal(link_up(fixture, "there", "kvm/a/pio/0x510/4=1", "kvm/b/gsi/5"), 0);
    assert_int_equal(link_up(fixture, "back", "kvm/b/pio/0x510/4=1", "kvm/a/gsi/6"), 0);
    wait_for_teardown(a.guest);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(ring(a.guest, b.guest, 5, 1), 1);
        assert_int_equal(ring(b.guest, a.guest, 6, 1), 1);
    }
    assert_int_equal(guest_ring_pio(a.guest, DOORBELL, 4, 2, 1), 1); /* another value is not for us */
    assert_int_equal(guest_interrupts(a.guest, 5) + guest_interrupts(b.guest, 6), 0);
    assert_int_equal(evlink_disconnect(fixture->client, "there"), 0);
    assert_int_equal(evlink_disconnect(fixture->client, "back"), 0);
    vmm_close(fixture, &a, "a");
    vmm_close(fixture, &b, "b");
}

static void expect_one(struct vmm *vmm, uint64_t *n)
{
    ++*n;
    assert_int_equal(guest_wait(vmm->guest, 5, *n, SOON_MS), *n);
}

static void test_several_producers(void **state)
{
    const char *producers[] = { "eventfd/e", "kvm/vm/pio/0x510/4", "kvm/vm/mmio/0xd0000", NULL };
    const char *consumers[] = { "kvm/vm/gsi/5", NULL };
    const struct evlink_link_spec spec = { .name = "l", .producers = producers, .consumers = consumers };
    struct fixture *fixture = *state;
    struct vmm vmm;
    uint64_t n = 0;
    int fd;

    if (!have_kvm())
        skip();
    assert_int_equal(evlink_hold_new(fixture->client, "e", false, EVLINK_PERSISTENT, 0), 0);
    vmm_open(fixture, &vmm, "vm", 0);
    assert_int_equal(evlink_connect(fixture->client, &spec, NULL), 0);
    assert_int_equal(evlink_claim(fixture->client, "e", &fd), 0);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(eventfd_write(fd, 1), 0);
        expect_one(&vmm, &n);
        assert_int_equal(guest_ring_pio(vmm.guest, DOORBELL, 4, 7, 1), 0);
        expect_one(&vmm, &n);
        assert_int_equal(guest_ring_mmio(vmm.guest, SECOND, 2, 7, 1), 0);
        expect_one(&vmm, &n);
        assert_int_equal(evlink_signal(fixture->client, "e", 1), 0);
        expect_one(&vmm, &n);
    }
    close(fd);
    assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
    assert_int_equal(evlink_release(fixture->client, "e"), 0);
    vmm_close(fixture, &vmm, "vm");
}

/* What was signalled before there was a consumer arrives when there is one, once. */
static void test_pending(void **state)
{
    struct fixture *fixture = *state;
    struct vmm vmm;

    if (!have_kvm())
        skip();
    assert_int_equal(evlink_hold_new(fixture->client, "e", false, EVLINK_PERSISTENT, 0), 0);
    assert_int_equal(evlink_signal(fixture->client, "e", 3), 0);
    vmm_open(fixture, &vmm, "vm", 0);
    assert_int_equal(link_up(fixture, "l", "eventfd/e", "kvm/vm/gsi/5"), 0);
    assert_int_equal(guest_wait(vmm.guest, 5, 1, SOON_MS), 1);
    assert_int_equal(evlink_signal(fixture->client, "e", 1), 0);
    assert_int_equal(guest_wait(vmm.guest, 5, 2, SOON_MS), 2);
    assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
    assert_int_equal(evlink_release(fixture->client, "e"), 0);
    vmm_close(fixture, &vmm, "vm");
}

struct masker {
    struct evlink_agent *agent;
    atomic_bool stop;
    unsigned long turns;
};

static void *mask_and_unmask(void *userdata)
{
    struct masker *masker = userdata;

    for (; !atomic_load(&masker->stop); masker->turns++) {
        if (evlink_agent_mask(masker->agent, "kvm/vm/gsi/5") < 0)
            return masker; /* failed */
        if (evlink_agent_unmask(masker->agent, "kvm/vm/gsi/5") < 0)
            return masker;
    }
    return NULL;
}

/* A VMM masks by deassigning as fast as it can: each signal still makes its interrupt. */
static void test_masking(void **state)
{
    struct fixture *fixture = *state;
    struct masker masker = { 0 };
    pthread_t thread;
    struct vmm vmm;
    void *failure;
    int fd;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &vmm, "vm", EVLINK_AGENT_KEEP);
    assert_int_equal(evlink_hold_new(fixture->client, "e", false, EVLINK_PERSISTENT, 0), 0);
    assert_int_equal(link_up(fixture, "l", "eventfd/e", "kvm/vm/gsi/5"), 0);
    assert_int_equal(evlink_claim(fixture->client, "e", &fd), 0);
    masker.agent = vmm.agent;
    assert_int_equal(pthread_create(&thread, NULL, mask_and_unmask, &masker), 0);
    for (int i = 0; i < 2000; i++) {
        uint64_t before = guest_interrupts(vmm.guest, 5);

        /* What came late for the signal before may be counted for this one: then the next look tells. */
        assert_int_equal(eventfd_write(fd, 1), 0);
        assert_true(guest_wait(vmm.guest, 5, before + 1, SOON_MS) > before);
    }
    atomic_store(&masker.stop, true);
    assert_int_equal(pthread_join(thread, &failure), 0);
    assert_null(failure);
    assert_true(guest_interrupts(vmm.guest, 5) >= 2000);
    printf("# 2000 signals, %lu masks, %lu interrupts\n", masker.turns,
        (unsigned long)guest_interrupts(vmm.guest, 5));
    close(fd);
    assert_int_equal(evlink_disconnect(fixture->client, "l"), 0);
    assert_int_equal(evlink_release(fixture->client, "e"), 0);
    vmm_close(fixture, &vmm, "vm");
}

/* A VMM in a process of its own, that lives until it is killed. Tells through the pipe when it is attached.
 */
static pid_t spawn_vmm(struct fixture *fixture, const char *name)
{
    int ends[2];
    char byte;
    pid_t pid;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct fixture own = *fixture;
        struct vmm vmm;

        if (evlink_client_open(fixture->broker.path, &own.client) < 0)
            _exit(1);
        vmm_open(&own, &vmm, name, 0);
        if (write(ends[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    return pid;
}

static char link_state[32];

static int see_link(void *userdata, const struct evlink_link_info *info)
{
    (void)userdata;
    (void)snprintf(link_state, sizeof(link_state), "%s", info->state);
    return 0;
}

static void wait_for_state(struct fixture *fixture, const char *link, const char *state)
{
    for (int i = 0; i < 1000; i++) {
        link_state[0] = '\0';
        assert_int_equal(evlink_list_links(fixture->client, link, NULL, see_link, NULL), 0);
        if (strcmp(link_state, state) == 0)
            return;
        (void)usleep(5000);
    }
    assert_string_equal(link_state, state);
}

/* VMMs are killed and come back; the link waits for them, and nothing is left in their successors' way. */
static void test_killed(void **state)
{
    struct fixture *fixture = *state;
    struct vmm here;
    pid_t there;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &here, "here", 0);
    there = spawn_vmm(fixture, "there");
    assert_int_equal(link_up(fixture, "in", "kvm/there/pio/0x510", "kvm/here/gsi/5"), 0);
    assert_int_equal(link_up(fixture, "out", "kvm/here/pio/0x510/4", "kvm/there/gsi/5"), 0);
    for (int i = 0; i < 5; i++) {
        wait_for_state(fixture, "out", "linked");
        assert_int_equal(guest_ring_pio(here.guest, DOORBELL, 4, 1, 10), 0);
        assert_int_equal(kill(there, SIGKILL), 0);
        assert_int_equal(waitpid(there, NULL, 0), there);
        wait_for_state(fixture, "in", "waiting");
        wait_for_state(fixture, "out", "waiting");
        /* Doorbells still do not exit: signals accumulate. */
        assert_int_equal(guest_ring_pio(here.guest, DOORBELL, 4, 1, 10), 0);
        there = spawn_vmm(fixture, "there");
    }
    wait_for_state(fixture, "in", "linked");
    assert_int_equal(kill(there, SIGKILL), 0);
    assert_int_equal(waitpid(there, NULL, 0), there);
    assert_int_equal(evlink_disconnect(fixture->client, "in"), 0);
    assert_int_equal(evlink_disconnect(fixture->client, "out"), 0);
    vmm_close(fixture, &here, "here");
}

/* A guest's worth of links, made and taken down as one. */
static void test_many(void **state)
{
    enum { N = 256 };
    static char names[N][2][40];
    const char *producers[N][2], *consumers[N][2];
    static struct evlink_link_spec specs[N];
    struct fixture *fixture = *state;
    struct evlink_status status;
    struct vmm vmm;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &vmm, "vm", 0);
    for (unsigned i = 0; i < N; i++) {
        (void)snprintf(names[i][0], sizeof(names[i][0]), "kvm/vm/mmio/0x%x/4", SECOND + 4 * i);
        (void)snprintf(names[i][1], sizeof(names[i][1]), "kvm/vm/gsi/%u", 24 + i);
        producers[i][0] = names[i][0];
        consumers[i][0] = names[i][1];
        producers[i][1] = consumers[i][1] = NULL;
        specs[i] =
            (struct evlink_link_spec){ .producers = producers[i], .consumers = consumers[i], .group = "g" };
    }
    for (unsigned vector = 0x30; vector < 0xf0; vector++)
        assert_int_equal(guest_route_msi(vmm.guest, 24 + vector - 0x30, vector), 0);
    assert_int_equal(evlink_connect_many(fixture->client, specs, N), 0);
    assert_int_equal(evlink_status(fixture->client, &status), 0);
    assert_int_equal(status.links, N);
    for (unsigned vector = 0x30; vector < 0xf0; vector++) {
        assert_int_equal(guest_ring_mmio(vmm.guest, SECOND + 4 * (vector - 0x30), 4, 1, 1), 0);
        assert_int_equal(guest_wait(vmm.guest, 24 + vector - 0x30, 1, SOON_MS), 1);
    }
    assert_int_equal(evlink_disconnect_group(fixture->client, "g"), 0);
    assert_int_equal(evlink_status(fixture->client, &status), 0);
    assert_int_equal(status.links, 0);
    /* One that the kernel refuses takes all with it: KVM has it, by another hand. */
    {
        int fd = eventfd(0, EFD_CLOEXEC);
        struct kvm_ioeventfd taken = { .fd = fd, .addr = SECOND + 4 * 200, .len = 4 };

        assert_int_equal(ioctl(guest_vm_fd(vmm.guest), KVM_IOEVENTFD, &taken), 0);
        assert_int_equal(evlink_connect_many(fixture->client, specs, N), EVLINK_E_PLUG_FAILED);
        assert_non_null(strstr(evlink_client_message(fixture->client), "EEXIST"));
        assert_int_equal(evlink_status(fixture->client, &status), 0);
        assert_int_equal(status.links, 0);
        assert_int_equal(guest_ring_mmio(vmm.guest, SECOND, 4, 1, 1), 1); /* unplugged */
        close(fd);
    }
    vmm_close(fixture, &vmm, "vm");
}

/* The broker is gone for good: what nobody else has goes silent, what its agent keeps does not [evlinkd(8)].
 */
static void test_gone_for_good(void **state)
{
    struct fixture *fixture = *state;
    struct vmm forgets, keeps;

    if (!have_kvm())
        skip();
    vmm_open(fixture, &forgets, "forgets", 0);
    vmm_open(fixture, &keeps, "keeps", EVLINK_AGENT_KEEP);
    assert_int_equal(link_up(fixture, "l", "kvm/forgets/pio/0x510/4", "kvm/forgets/gsi/5"), 0);
    assert_int_equal(link_up(fixture, "k", "kvm/keeps/pio/0x510/4", "kvm/keeps/gsi/5"), 0);
    assert_int_equal(ring(forgets.guest, forgets.guest, 5, 10), 10);
    assert_int_equal(ring(keeps.guest, keeps.guest, 5, 10), 10);
    broker_stop(&fixture->broker);
    wait_for_teardown(forgets.guest);
    wait_for_teardown(keeps.guest);
    /* The doorbell is taken as ever, and nothing comes of it. */
    assert_int_equal(guest_ring_pio(forgets.guest, DOORBELL, 4, 1, 100), 0);
    wait_for_teardown(forgets.guest);
    assert_int_equal(guest_interrupts(forgets.guest, 5), 10);
    assert_int_equal(ring(keeps.guest, keeps.guest, 5, 100), 100);
    assert_true(evlink_client_reconnect(fixture->client) < 0);
    evlink_agent_free(forgets.agent);
    guest_free(forgets.guest);
    evlink_agent_free(keeps.agent);
    guest_free(keeps.guest);
    /* The next one knows nothing of all that. */
    broker_start(&fixture->broker, NULL);
    evlink_client_free(fixture->client);
    fixture->client = broker_open(&fixture->broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_holds),
        cmocka_unit_test_setup_teardown(test_pic_and_msi, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_vms, setup, teardown),
        cmocka_unit_test_setup_teardown(test_several_producers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pending, setup, teardown),
        cmocka_unit_test_setup_teardown(test_masking, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone_for_good, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
