/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libevlink without memory: each allocation of each of its functions fails, one after the other, alone or
 * with all that follow, against a real evlinkd, and with a real VM where there is /dev/kvm. The function then
 * says so or does without. Nothing is left allocated, open, held or plugged, and the same client and the same
 * agent go on: at once where nothing had been sent, connected anew where it was the answer that there was no
 * memory for.
 *
 * What fails is decided in tests/inject.c; the broker has all the memory that it wants.
 */
#include "broker.h"
#include "examples/guest.h"
#include "inject.h"
#include "lib/evlink.h"
#include "util.h"

#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#define PORT 0x510

static struct broker broker;
static struct control control;
static struct guest *guest; /* NULL: there is no /dev/kvm for us */
static int held;

static const char *const producers[] = { "kvm/v/pio/0x510/4", NULL };
static const char *const consumers[] = { "kvm/v/gsi/5", NULL };
static const char *const devices[] = { "kvm/v/dev/nic/irq/1", "kvm/v/dev/nic/irq/2", NULL };
static const char *const labels[] = { "os=guest", "owner=me", NULL };
static const char *const names[] = { "m1", "m2" };

/* ---- Calls of a client ----------------------------------------------------------------------------------
 */

static int hold(struct evlink_client *client)
{
    return evlink_hold(client, "n", held, EVLINK_PERSISTENT, 0);
}

static int hold_new(struct evlink_client *client)
{
    return evlink_hold_new(client, "n", true, EVLINK_PERSISTENT, 0);
}

static int hold_many(struct evlink_client *client)
{
    return evlink_hold_many(client, names, (int[]){ held, held }, 2, EVLINK_PERSISTENT, 0);
}

/* An error that is told in words. */
static int hold_again(struct evlink_client *client)
{
    int r = evlink_hold(client, "there", held, EVLINK_PERSISTENT, 0);

    return r == EVLINK_E_NAME_TAKEN ? 0 : r;
}

static int short_errors;

/* Errors that tell more with what was sent: without memory to read it, they are the same ones, and short. */
static int refused(struct evlink_client *client)
{
    int r = evlink_renew(client, "there", 90);

    if (r == EVLINK_E_INVALID_PARAMETER) {
        short_errors += control.fired != 0;
        assert_non_null(strstr(evlink_client_message(client),
            control.fired ? "the parameter 'name'" : "the eventfd 'there' was made without a lease"));
        r = evlink_disconnect(client, "nothing");
    }
    if (r == EVLINK_E_NO_SUCH_LINK) {
        assert_non_null(strstr(evlink_client_message(client), "no link 'nothing'"));
        r = evlink_call(client, "io.evlink.Broker.ListLinks", "{\"match\": 1}", NULL, 0, true, NULL, NULL);
    }
    return r == EVLINK_E_INVALID_PARAMETER ? 0 : r;
}

static int claim(struct evlink_client *client)
{
    int fd = -1, r = evlink_claim(client, "there", &fd);

    assert_int_equal(r == 0, fd >= 0);
    return r == 0 ? close(fd) : r;
}

static int renew_and_release(struct evlink_client *client)
{
    int r = evlink_hold_new(client, "n", false, EVLINK_LEASE, 60);

    if (r == 0)
        r = evlink_renew(client, "n", 90);
    return r == 0 ? evlink_release(client, "n") : r;
}

static int give_signal(struct evlink_client *client)
{
    return evlink_signal(client, "there", 2);
}

/* A link that waits. */
static int link_up(struct evlink_client *client)
{
    const struct evlink_link_spec spec = {
        .name = "l", .producers = producers, .consumers = consumers, .group = "g", .labels = labels
    };
    char *name = NULL;
    int r = evlink_connect(client, &spec, &name);

    assert_int_equal(r == 0, name != NULL);
    free(name);
    return r;
}

static int link_many(struct evlink_client *client)
{
    const char *const others[] = { "kvm/v/gsi/6", NULL }, *const pair[] = { "kvm/v/mmio/0xd0000", NULL };
    const struct evlink_link_spec specs[] = {
        { .name = "l", .producers = producers, .consumers = consumers, .group = "g", .labels = labels },
        { .producers = pair, .consumers = others, .group = "g" },
    };
    int r = evlink_connect_many(client, specs, 2);

    return r == 0 ? evlink_disconnect_group(client, "g") : r;
}

static int delegate(struct evlink_client *client)
{
    struct evlink_client *tenant = NULL;
    int fd = -1, r = evlink_delegate(client, "s", devices, 1, 1, &fd);

    assert_int_equal(r == 0, fd >= 0);
    if (r == 0)
        r = evlink_client_open_fd(fd, &tenant);
    if (r == 0)
        r = evlink_hold(tenant, "s.n", held, EVLINK_CONNECTION, 0);
    if (r == 0)
        r = evlink_revoke(client, "s");
    evlink_client_free(tenant);
    return r;
}

static int take_eventfd(void *userdata, const struct evlink_eventfd_info *info)
{
    assert_string_equal(info->name, "there");
    ++*(int *)userdata;
    return 0;
}

static int list_eventfds(struct evlink_client *client)
{
    int n = 0, r = evlink_list_eventfds(client, "th*", take_eventfd, &n);

    assert_true(r != 0 || n == 1);
    return r;
}

static int take_link(void *userdata, const struct evlink_link_info *info)
{
    assert_string_equal(info->name, "standing");
    assert_int_equal(info->n_consumers, 2);
    ++*(int *)userdata;
    return 0;
}

static int list_links(struct evlink_client *client)
{
    int n = 0, r = evlink_list_links(client, "standing", NULL, take_link, &n);

    assert_true(r != 0 || n == 1);
    return r;
}

static int take_agent(void *userdata, const struct evlink_agent_info *info)
{
    assert_string_equal(info->name, "standing");
    assert_string_equal(info->subsystems[0], "kvm/standing");
    assert_string_equal(info->subsystems[1], "vhost/standing");
    assert_null(info->subsystems[2]);
    assert_int_equal(info->pid, getpid());
    ++*(int *)userdata;
    return 0;
}

static int list_agents(struct evlink_client *client)
{
    int n = 0, r = evlink_list_agents(client, "standing", take_agent, &n);

    assert_true(r != 0 || n == 1);
    return r;
}

static int status(struct evlink_client *client)
{
    struct evlink_status told;

    return evlink_status(client, &told);
}

static int reconnect(struct evlink_client *client)
{
    int r = evlink_client_reconnect(client);

    return r == 0 ? status(client) : r;
}

static int take_text(void *userdata, const char *error, const char *parameters)
{
    *(size_t *)userdata += error ? 0 : strlen(parameters);
    return 0;
}

/* Any method: with a descriptor, a stream, an answer longer than any buffer was. */
static int call(struct evlink_client *client)
{
    size_t length = 0;
    int r;

    r = evlink_call(client, "io.evlink.Broker.Hold", "{\"name\": \"n\", \"fileDescriptorIndex\": 0}", &held,
        1, false, take_text, &length);
    if (r == 0)
        r = evlink_call(client, "io.evlink.Broker.ListEventfds", NULL, NULL, 0, true, take_text, &length);
    if (r == 0)
        r = evlink_call(client, "org.varlink.service.GetInterfaceDescription",
            "{\"interface\": \"io.evlink.Broker\"}", NULL, 0, false, take_text, &length);
    assert_true(r != 0 || length > 10000);
    return r;
}

/* ---- Agents ---------------------------------------------------------------------------------------------
 */

/*
 * What is plugged of a VM that is nobody's but the test's. As that of a VM that agents of one process have
 * one after the other, it may be unplugged twice.
 */
struct vm {
    bool plugged[2]; /* the doorbell, the interrupt */
};

static int set_plugged(void *userdata, const struct evlink_plug *plug, bool plugged)
{
    struct vm *vm = userdata;

    vm->plugged[plug->kind == EVLINK_PLUG_GSI] = plugged;
    return 0;
}

static int plug(void *userdata, const struct evlink_plug *plug)
{
    assert_true(plug->fd >= 0);
    return set_plugged(userdata, plug, true);
}

static int unplug(void *userdata, const struct evlink_plug *plug)
{
    return set_plugged(userdata, plug, false);
}

static const struct evlink_agent_ops own = { .plug = plug, .unplug = unplug };

/* What an agent goes through, from nothing to nothing. It is in *ret_agent, however far it came. */
static int serve(struct evlink_client *client, bool is_threaded, unsigned flags, int vm_fd,
    const struct evlink_agent_ops *ops, void *userdata, struct evlink_agent **ret_agent)
{
    int r;

    r = evlink_agent_new("a", flags, ret_agent);
    if (r == 0)
        r = evlink_agent_add_kvm(*ret_agent, "v", vm_fd, ops, userdata);
    if (r == 0)
        r = evlink_agent_attach(*ret_agent, client);
    if (r == 0 && is_threaded)
        r = evlink_agent_start(*ret_agent);
    if (r == 0 && ops)
        r = evlink_offer(client, "a", devices);
    if (r == 0)
        r = link_up(client);
    if (r == 0 && ops)
        r = evlink_withdraw(client, "a", devices, "enough");
    if (r == 0)
        r = evlink_disconnect(client, "l");
    if (r == 0)
        r = evlink_detach(client, "a");
    return r;
}

static int serve_own(struct evlink_client *client, bool is_threaded)
{
    static struct vm vm;
    struct evlink_agent *agent = NULL;
    int r = serve(client, is_threaded, 0, -1, &own, &vm, &agent);

    evlink_agent_free(agent);
    /* An Unplug that failed is the next agent's. */
    assert_true(r != 0 || control.fired || !(vm.plugged[0] || vm.plugged[1]));
    return r;
}

static int serve_by_client(struct evlink_client *client)
{
    return serve_own(client, false);
}

static int serve_by_thread(struct evlink_client *client)
{
    return serve_own(client, true);
}

/* Whether the guest's doorbell is free: by hand it can be taken, and given back. */
static bool is_vm_clean(void)
{
    int fd = eventfd(0, EFD_CLOEXEC), r;
    struct kvm_ioeventfd doorbell = { .fd = fd, .addr = PORT, .len = 4, .flags = KVM_IOEVENTFD_FLAG_PIO };

    assert_true(fd >= 0);
    r = ioctl(guest_vm_fd(guest), KVM_IOEVENTFD, &doorbell);
    doorbell.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    if (r == 0)
        assert_int_equal(ioctl(guest_vm_fd(guest), KVM_IOEVENTFD, &doorbell), 0);
    (void)close(fd);
    return r == 0;
}

/*
 * The agent leaves, where it is still there. What it could not unplug is unplugged when it comes again: until
 * then the endpoint is not to be had.
 */
static void leave(struct evlink_agent *agent, struct evlink_client *client)
{
    struct pollfd poll_fd = { .fd = evlink_agent_fd(agent), .events = POLLIN };

    (void)evlink_agent_start(agent);
    (void)evlink_detach(client, "a");
    (void)evlink_agent_stop(agent);
    while (evlink_agent_dispatch(agent) == 0)
        assert_int_equal(poll(&poll_fd, 1, 10000), 1);
}

/*
 * A real VM. Where its agent failed, that very agent goes on, attached again: it plugs and unplugs, and
 * leaves nothing behind, with what it plugged before.
 */
static int serve_vm(struct evlink_client *client)
{
    struct evlink_agent *agent = NULL;
    struct evlink_client *other = NULL;
    int r = serve(client, true, EVLINK_AGENT_KEEP, guest_vm_fd(guest), NULL, NULL, &agent);

    if (control.fired && agent) {
        control.want = WANT_NOTHING;
        assert_int_equal(evlink_client_open(broker.path, &other), 0);
        leave(agent, other);
        (void)evlink_agent_add_kvm(agent, "v", guest_vm_fd(guest), NULL, NULL);
        assert_int_equal(evlink_agent_attach(agent, other), 0);
        assert_int_equal(evlink_agent_start(agent), 0);
        (void)evlink_disconnect(other, "l");
        assert_int_equal(link_up(other), 0);
        assert_int_equal(guest_ring_pio(guest, PORT, 4, 1, 1), 0); /* and does not exit */
        assert_int_equal(evlink_disconnect(other, "l"), 0);
        assert_int_equal(evlink_detach(other, "a"), 0);
        evlink_client_free(other);
    }
    evlink_agent_free(agent);
    if (agent)
        assert_true(is_vm_clean());
    return r;
}

/* ---- Trying it ------------------------------------------------------------------------------------------
 */

static const struct run {
    const char *name;
    int (*call)(struct evlink_client *client);
    const char *made; /* the eventfd that it holds; NULL */
    bool is_agents;   /* and so may fail as what its agent's end did to the broker */
} runs[] = {
    { "evlink_hold", hold, "n", false },
    { "evlink_hold_new", hold_new, "n", false },
    { "evlink_hold_many", hold_many, "m1", false },
    { "an error", hold_again, NULL, false },
    { "errors that tell what was sent", refused, NULL, false },
    { "evlink_claim", claim, NULL, false },
    { "evlink_renew, evlink_release", renew_and_release, NULL, false },
    { "evlink_signal", give_signal, NULL, false },
    { "evlink_connect", link_up, NULL, false },
    { "evlink_connect_many, evlink_disconnect_group", link_many, NULL, false },
    { "evlink_delegate, evlink_client_open_fd, evlink_revoke", delegate, NULL, false },
    { "evlink_client_reconnect", reconnect, NULL, false },
    { "evlink_list_eventfds", list_eventfds, NULL, false },
    { "evlink_list_links", list_links, NULL, false },
    { "evlink_list_agents", list_agents, NULL, false },
    { "evlink_status", status, NULL, false },
    { "evlink_call", call, NULL, false },
    { "an agent that its client serves", serve_by_client, NULL, true },
    { "an agent with a thread", serve_by_thread, NULL, true },
    { "an agent of a real VM", serve_vm, NULL, true },
};

static void clean_up(struct evlink_client *client)
{
    (void)evlink_disconnect_group(client, "g");
    (void)evlink_revoke(client, "s");
    (void)evlink_release(client, "n");
    for (size_t i = 0; i < 2; i++)
        (void)evlink_release(client, names[i]);
}

static bool is_allowed(const struct run *run, int r)
{
    return r == 0 || r == -ENOMEM ||
           (run->is_agents && (r == EVLINK_E_PLUG_FAILED || r == EVLINK_E_NO_SUCH_AGENT));
}

/* With a client of its own, and memory failing at this point. Returns whether there was such a point. */
static bool try(const struct run *run, int want, int point, int *ret_result)
{
    struct evlink_client *client = NULL;
    long allocated = inject_allocated();
    size_t fds = fds_count();
    bool alive = true;
    char failed[sizeof(control.name)];
    int r, again;

    control = (struct control){ .want = want, .countdown = point };
    r = evlink_client_open(broker.path, &client);
    if (r == 0)
        r = run->call(client);
    control.want = WANT_NOTHING;
    if (control.fired ? !is_allowed(run, r) : r != 0)
        fail_msg("%s, point %d (%s): %d, %s", run->name, point, control.name, r, evlink_code_name(r));
    *ret_result = r;
    if (!control.fired)
        point = 0;
    strcpy(failed, control.name);
    control = (struct control){ .want = WANT_NOTHING };
    if (!client) {
        assert_int_equal(r, -ENOMEM);
    } else {
        if (r == -ENOMEM && !run->is_agents && run->call != delegate)
            assert_non_null(strstr(evlink_client_message(client), "memory"));
        if (status(client) != 0) {
            assert_int_equal(r, -ENOMEM);
            assert_int_equal(status(client), -ENOTCONN);
            assert_int_equal(evlink_client_reconnect(client), 0);
            alive = false;
        }
        /* Nothing had been sent. */
        if (r == -ENOMEM && alive && run->made)
            assert_int_equal(evlink_release(client, run->made), EVLINK_E_NO_SUCH_EVENTFD);
        clean_up(client);
        again = run->call(client);
        if (again != 0)
            fail_msg("%s, after point %d (%s): %d, %s", run->name, point, failed, again,
                evlink_client_message(client));
        clean_up(client);
        evlink_client_free(client);
    }
    assert_int_equal(fds_count(), fds);
    assert_int_equal(inject_allocated(), allocated);
    return point > 0;
}

static void test_runs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        int points = 0, failed = 0, r;

        if (runs[i].call == serve_vm && !guest)
            continue;
        for (int want = WANT_MEMORY; want <= WANT_FULL; want++)
            for (int point = 1; try(&runs[i], want, point, &r); point++) {
                points++;
                failed += r != 0;
            }
        print_message("# %s: %d points, %d failed\n", runs[i].name, points, failed);
        /* The connection, the call, its answer. */
        assert_true(points >= 6 && failed >= 6);
    }
    /* The text and its values, alone and with all that follow. */
    assert_int_equal(short_errors, 4);
}

/* ---- What stands all the while --------------------------------------------------------------------------
 */

static struct evlink_client *owner;
static struct evlink_agent *standing;
static size_t fds;

static int set_up(void **state)
{
    static struct vm vm;
    const char *const from[] = { "eventfd/there", NULL };
    const char *const to[] = { "kvm/standing/gsi/1", "kvm/standing/gsi/2", NULL };
    const struct evlink_link_spec spec = { .name = "standing", .producers = from, .consumers = to };

    (void)state;
    broker_start(&broker, NULL);
    held = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(held >= 0);
    if (guest_new(0, &guest) < 0)
        print_message("# no /dev/kvm: without a real VM\n");
    assert_int_equal(evlink_client_open(broker.path, &owner), 0);
    assert_int_equal(evlink_hold_new(owner, "there", false, EVLINK_PERSISTENT, 0), 0);
    assert_int_equal(evlink_agent_new("standing", 0, &standing), 0);
    assert_int_equal(evlink_agent_add_kvm(standing, "standing", -1, &own, &vm), 0);
    assert_int_equal(evlink_agent_add_vhost(standing, "standing", -1, &own, &vm), 0);
    assert_int_equal(evlink_agent_attach(standing, owner), 0);
    assert_int_equal(evlink_connect(owner, &spec, NULL), 0);
    assert_true(vm.plugged[1]);
    fds = broker_count_fds(&broker);
    inject_by(&control);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    broker_assert_fds(&broker, fds);
    evlink_agent_free(standing);
    evlink_client_free(owner);
    guest_free(guest);
    (void)close(held);
    broker_stop(&broker);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs),
    };

    return cmocka_run_group_tests_name("inject", tests, set_up, tear_down);
}
