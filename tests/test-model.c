/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The model's state machine, driven directly: scripted orders first, then random ones. Agents' kernels are
 * sets of plugs in the test, which complain about what a real one, or a guest, would suffer from: a plug on
 * top of a plug, a producer that rings with no consumer behind it, an eventfd whose reference was dropped
 * while plugged. What a real kernel does with it is for the tests with guests.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "model/private.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Kernels: a VM, and, N_VMS further, the VM in another process that takes over from it. */
#define N_VMS 3
#define N_KERNELS (2 * N_VMS)
#define MAX_PLUGS 64

static const struct peer root = { .pid = 1 }, alice = { .uid = 1000, .gid = 1000, .pid = 2 },
                         bob = { .uid = 1001, .gid = 1001, .pid = 3 };

/* A VM: what is plugged into it outlives its agent, not its process. */
struct vm {
    struct agent *agent; /* NULL: none attached */
    bool watched;
    bool forgotten; /* lost, and another process has been told to unplug its plugs */
    struct {
        struct endpoint endpoint;
        int64_t id;
    } plugs[MAX_PLUGS];
    size_t n_plugs;
    struct batch_item items[16];
    size_t n_items; /* asked for, not answered yet */
    enum op op;
    int fail; /* the next plug says this */
};

struct world {
    struct evaio *aio;
    struct model *model;
    struct vm vms[N_KERNELS];
    size_t notices[N_NOTICES], told[N_NOTICES];
    struct {
        char end[ENDPOINT_SIZE], link[NAME_SIZE];
    } leaving[MAX_PLUGS]; /* who was announced and has not left */
    size_t n_leaving, relays;
    size_t forgotten;
};

/* Of each end and link: `leaving` comes before `left`, and each as often as the other. */
static void watch_end(struct world *world, const struct news *news)
{
    size_t i = 0;

    if (news->notice == NOTICE_LEAVING) {
        assert_true(world->n_leaving < MAX_PLUGS);
        (void)snprintf(world->leaving[world->n_leaving].end, ENDPOINT_SIZE, "%s", news->subject);
        (void)snprintf(world->leaving[world->n_leaving++].link, NAME_SIZE, "%s", news->link);
    } else if (news->notice == NOTICE_LEFT) {
        while (i < world->n_leaving && (strcmp(world->leaving[i].end, news->subject) != 0 ||
                                           strcmp(world->leaving[i].link, news->link) != 0))
            i++;
        assert_true(i < world->n_leaving);
        world->leaving[i] = world->leaving[--world->n_leaving];
    }
}

static void on_ready(void *userdata, struct agent *agent)
{
    (void)userdata;
    assert_false(agent->lost);
}

static void on_forgotten(void *userdata, struct agent *agent)
{
    struct world *world = userdata;

    assert_true(agent->lost);
    world->forgotten++;
}

static void on_lost(void *userdata, struct agent *agent)
{
    struct world *world = userdata;

    for (size_t i = 0; i < N_KERNELS; i++) {
        struct vm *vm = &world->vms[i];

        if (vm->agent != agent)
            continue;
        vm->agent = NULL;
        vm->n_items = 0;
        vm->forgotten |= world->vms[(i + N_VMS) % N_KERNELS].agent != NULL;
    }
}

static void on_news(void *userdata, const struct news *news)
{
    struct world *world = userdata;

    assert_non_null(news->subject);
    assert_non_null(news->owner);
    world->notices[news->notice]++;
    watch_end(world, news);
}

static void on_tell(void *userdata, struct agent *agent, const struct end *end, const struct news *news)
{
    struct world *world = userdata;

    assert_false(agent->lost);
    assert_ptr_equal(end->agent, agent);
    assert_non_null(news->link);
    world->told[news->notice]++;
}

static void on_relay(void *userdata, struct link *link, bool last)
{
    struct world *world = userdata;

    assert_true(link->relayed);
    world->relays += last ? 0 : 1;
}

static const struct model_hooks hooks = {
    .agent_ready = on_ready,
    .agent_lost = on_lost,
    .agent_forgotten = on_forgotten,
    .news = on_news,
    .tell = on_tell,
    .relay = on_relay,
};

static size_t count_fds(void)
{
    size_t n = 0;

    for (int fd = 0; fd < 4096; fd++)
        n += dup2(fd, fd) == fd;
    return n;
}

static size_t fds_before;

static void world_open(struct world *world)
{
    memset(world, 0, sizeof(*world));
    fds_before = count_fds();
    assert_int_equal(evaio_new(&world->aio), 0);
    assert_int_equal(model_new(&hooks, world, world->aio, &world->model), 0);
}

static void world_close(struct world *world)
{
    model_free(world->model);
    evaio_free(world->aio);
    assert_int_equal(count_fds(), fds_before);
}

/* ---- VMs
 * ----------------------------------------------------------------------------------------------------- */

static size_t find_plug(const struct vm *vm, const struct endpoint *endpoint, int64_t id)
{
    size_t i = 0;

    while (
        i < vm->n_plugs && (vm->plugs[i].id != id || endpoint_compare(&vm->plugs[i].endpoint, endpoint) != 0))
        i++;
    return i;
}

/* The end that the model has for a plug: of two, where one moved to where another had been, the dirty one. */
static struct end *find_end(struct model *model, const struct endpoint *endpoint, int64_t id)
{
    struct site *site = site_find(model, endpoint_subsystem(endpoint), endpoint_name(endpoint));
    struct end *end, *found = NULL;

    if (site)
        RB_FOREACH (end, end_tree, &site->ends)
            if (endpoint_compare(&end->endpoint, endpoint) == 0 && end->eventfd &&
                eventfd_id(end->eventfd) == id && (!found || end->dirty))
                found = end;
    return found;
}

static bool is_plugged_somewhere(struct world *world, const struct end *end)
{
    for (size_t i = 0; i < N_KERNELS; i++)
        if (find_plug(&world->vms[i], &end->endpoint, eventfd_id(end->eventfd)) < world->vms[i].n_plugs)
            return true;
    return false;
}

/*
 * Nothing that is plugged anywhere has lost its reference, or is believed not to be plugged. Without a pidfd,
 * what a lost agent had plugged is forgotten with its link: then KVM hears POLLHUP, and drops it.
 */
static void check_references(struct world *world)
{
    for (size_t i = 0; i < N_KERNELS; i++) {
        struct vm *vm = &world->vms[i];

        for (size_t k = 0; k < vm->n_plugs; k++) {
            const struct end *end = find_end(world->model, &vm->plugs[k].endpoint, vm->plugs[k].id);

            if (!end || !end->dirty) {
                assert_true(vm->forgotten);
                vm->plugs[k--] = vm->plugs[--vm->n_plugs];
            }
        }
    }
}

static void plug(struct world *world, struct vm *vm, const struct batch_item *item)
{
    struct end *end = find_end(world->model, item->endpoint, item->eventfd_id);

    assert_non_null(end);
    assert_true(vm->n_plugs < MAX_PLUGS);
    /* Neither the same twice, nor, for all but GSIs, two on one endpoint. */
    for (size_t i = 0; i < vm->n_plugs; i++) {
        assert_false(endpoint_collides(&vm->plugs[i].endpoint, item->endpoint));
        assert_false(vm->plugs[i].id == item->eventfd_id &&
                     endpoint_compare(&vm->plugs[i].endpoint, item->endpoint) == 0);
    }
    endpoint_copy(&vm->plugs[vm->n_plugs].endpoint, item->endpoint);
    vm->plugs[vm->n_plugs++].id = item->eventfd_id;
}

static void unplug(struct world *world, struct vm *vm, const struct batch_item *item)
{
    struct end *end = find_end(world->model, item->endpoint, item->eventfd_id);
    size_t k = find_plug(vm, item->endpoint, item->eventfd_id);

    assert_non_null(end);
    if (k < vm->n_plugs)
        vm->plugs[k] = vm->plugs[--vm->n_plugs];
}

/* The order of things, when an agent is asked. */
/* Whether an end's owner could be asked, and is expected to do as it is told. */
static bool is_willing(const struct end *end)
{
    return end->agent && !end->agent->lost && !end->agent->late && !end->refused;
}

/* Whether nothing but the order of things keeps an end from being plugged. */
static bool is_settled(const struct end *end)
{
    const struct link *link = end->link;

    return link->goal == GOAL_UP && !link->renew && !link->from && !end->retiring && end->eventfd &&
           end_owner(end) == end->agent;
}

static void check_order(struct world *world, const struct end *end, enum op op)
{
    for (size_t i = 0; i < end->link->n_ends; i++) {
        const struct end *other = end->link->ends[i];

        if (other->producer == end->producer || !is_willing(other))
            continue;
        /* A producer comes last: the consumers that are there, and to stay, are plugged. */
        if (op == OP_PLUG && end->producer && is_settled(other))
            assert_int_equal(other->state, END_PLUGGED);
        /* A consumer of a link that is taken down goes last: nobody rings any more. */
        if (op == OP_UNPLUG && !end->producer && end->link->goal == GOAL_DOWN && other->dirty)
            assert_false(is_plugged_somewhere(world, other)); /* of what is clean, check_references() knows */
    }
}

/* The agent takes a batch; the answer is another step. */
static bool vm_take(struct world *world, struct vm *vm)
{
    if (!vm->agent || vm->n_items > 0)
        return false;
    vm->n_items = model_agent_next(vm->agent, vm->items, 16, 32768, &vm->op);
    for (size_t i = 0; i < vm->n_items; i++)
        check_order(world, find_end(world->model, vm->items[i].endpoint, vm->items[i].eventfd_id), vm->op);
    return vm->n_items > 0;
}

static bool vm_answer(struct world *world, struct vm *vm)
{
    int errors[16] = { 0 };

    if (!vm->agent || vm->n_items == 0)
        return false;
    for (size_t i = 0; i < vm->n_items; i++) {
        if (vm->op == OP_UNPLUG)
            unplug(world, vm, &vm->items[i]);
        else if (vm->fail)
            errors[i] = vm->fail;
        else
            plug(world, vm, &vm->items[i]);
    }
    if (vm->op == OP_PLUG)
        vm->fail = 0;
    vm->n_items = 0;
    model_agent_results(vm->agent, errors);
    check_references(world);
    return true;
}

/* Attaches a kernel's agent; takes over where there is one already. FAULT_SUBSYSTEM_TAKEN where there are
 * two. */
static int vm_try_attach(struct world *world, size_t i, const struct peer *peer, bool watched)
{
    struct vm *vm = &world->vms[i], *other = &world->vms[(i + N_VMS) % N_KERNELS];
    struct subsystem_name subsystems[] = { { SUBSYSTEM_KVM, "" }, { SUBSYSTEM_VFIO, "" },
        { SUBSYSTEM_VHOST, "" } };
    struct fault fault;
    char name[16];

    (void)snprintf(name, sizeof(name), "a%zu", i);
    for (size_t k = 0; k < 3; k++)
        (void)snprintf(subsystems[k].name, sizeof(subsystems[k].name), "vm%zu", i % N_VMS);
    vm->watched = watched;
    other->forgotten |= !other->agent;
    return model_attach(world->model, peer, name, subsystems, 3, true, watched, vm, &vm->agent, &fault);
}

static void vm_attach(struct world *world, size_t i, const struct peer *peer, bool watched)
{
    assert_int_equal(vm_try_attach(world, i, peer, watched), 0);
}

/* Its socket closes; the VM lives on. */
static void vm_lose(struct world *world, size_t i)
{
    struct vm *vm = &world->vms[i];
    struct agent *agent = vm->agent;

    model_agent_lost(agent, "test");
    check_references(world);
}

/* Its process dies, and all that was plugged with it. */
static void vm_die(struct world *world, size_t i)
{
    struct vm *vm = &world->vms[i];
    struct agent *agent = vm->agent;

    vm->agent = NULL;
    vm->n_items = vm->n_plugs = 0;
    vm->forgotten = false;
    model_agent_dead(agent);
    check_references(world);
}

/* Agents take and answer until there is nothing more to do. */
static void run(struct world *world)
{
    bool more = true;

    while (more) {
        more = false;
        for (size_t i = 0; i < N_KERNELS; i++) {
            more |= vm_take(world, &world->vms[i]);
            more |= vm_answer(world, &world->vms[i]);
        }
    }
}

/* ---- Calls
 * ---------------------------------------------------------------------------------------------------- */

struct outcome {
    bool done;
    int r;
    struct fault fault;
    char name[NAME_SIZE];
    struct job *job;
};

static void on_done(void *userdata, int r, const struct fault *fault, struct link *const *links, size_t n)
{
    struct outcome *outcome = userdata;

    assert_false(outcome->done);
    outcome->done = true;
    outcome->r = r;
    outcome->fault = *fault;
    if (n > 0)
        strcpy(outcome->name, links[0]->name);
}

static const struct life_request persistent = { .lifetime = LIFETIME_PERSISTENT };
static const struct life_request leased = { .lifetime = LIFETIME_LEASE, .lease = 10 };

static void connect_as(struct world *world, const struct peer *peer, const char *name, const char *producer,
    const char *consumer, struct outcome *outcome)
{
    const struct link_request request = {
        .name = name,
        .producers = &producer,
        .n_producers = 1,
        .consumers = &consumer,
        .n_consumers = 1,
    };
    int r;

    memset(outcome, 0, sizeof(*outcome));
    r = model_connect(
        world->model, peer, &request, 1, true, &persistent, on_done, outcome, &outcome->job, &outcome->fault);
    if (r) {
        assert_false(outcome->done);
        outcome->done = true;
        outcome->r = r;
    }
}

static void disconnect(struct world *world, const char *name, struct outcome *outcome)
{
    memset(outcome, 0, sizeof(*outcome));
    outcome->r =
        model_disconnect(world->model, &root, name, NULL, on_done, outcome, &outcome->job, &outcome->fault);
    if (outcome->r)
        outcome->done = true;
}

static int hold(
    struct world *world, const struct peer *peer, const char *name, const struct life_request *life)
{
    struct fault fault;
    int fd = eventfd_create(false), r;

    r = model_hold(world->model, peer, &name, &fd, 1, life, NULL, &fault);
    fd_close(fd);
    return r;
}

static int release(struct world *world, const char *name)
{
    struct fault fault;

    return model_release(world->model, &root, name, &fault);
}

static struct link *get(struct world *world, const char *name)
{
    struct link *link = link_find(world->model, name);

    assert_non_null(link);
    return link;
}

/* ---- Scripted orders
 * ------------------------------------------------------------------------------------------- */

static void test_order(void **state)
{
    struct world world;
    struct outcome outcome;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "l", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &outcome);
    assert_false(outcome.done);
    assert_null(model_next_link(world.model, "")); /* not before it is answered */
    assert_false(vm_take(&world, &world.vms[0]));  /* the consumer first */
    assert_true(vm_take(&world, &world.vms[1]));
    assert_true(vm_answer(&world, &world.vms[1]));
    assert_false(outcome.done);
    assert_true(vm_take(&world, &world.vms[0]));
    assert_true(vm_answer(&world, &world.vms[0]));
    assert_true(outcome.done);
    assert_int_equal(outcome.r, 0);
    assert_string_equal(outcome.name, "l");
    assert_int_equal(get(&world, "l")->state, LINK_LINKED);

    disconnect(&world, "l", &outcome);
    assert_false(vm_take(&world, &world.vms[1])); /* the producer first */
    assert_true(vm_take(&world, &world.vms[0]));
    assert_true(vm_answer(&world, &world.vms[0]));
    assert_false(outcome.done);
    assert_true(vm_take(&world, &world.vms[1]));
    assert_true(vm_answer(&world, &world.vms[1]));
    assert_true(outcome.done);
    assert_null(link_find(world.model, "l"));
    assert_int_equal(world.vms[0].n_plugs + world.vms[1].n_plugs, 0);
    assert_int_equal(world.notices[NOTICE_LINKED], 1);
    assert_int_equal(world.notices[NOTICE_DISCONNECTED], 1);
    world_close(&world);
}

static void test_refused(void **state)
{
    struct world world;
    struct outcome outcome;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    world.vms[0].fail = EEXIST;
    connect_as(&world, &root, "l", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &outcome);
    run(&world);
    assert_true(outcome.done);
    assert_int_equal(outcome.r, FAULT_PLUG_FAILED);
    assert_int_equal(outcome.fault.number, EEXIST);
    assert_string_equal(outcome.fault.subject, "kvm/vm0/pio/0x510");
    assert_int_equal(world.vms[1].n_plugs, 0); /* undone */
    assert_null(link_find(world.model, "l"));
    assert_true(TAILQ_EMPTY(&world.model->touched) && RB_EMPTY(&world.model->linked));
    /* and nothing in the way of another try */
    connect_as(&world, &root, "l", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &outcome);
    run(&world);
    assert_int_equal(outcome.r, 0);
    world_close(&world);
}

static void test_waiting(void **state)
{
    struct world world;
    struct outcome outcome;

    (void)state;
    world_open(&world);
    connect_as(&world, &root, "l", "eventfd/e", "kvm/vm1/gsi/5", &outcome);
    assert_true(outcome.done);
    assert_int_equal(outcome.r, 0);
    assert_int_equal(get(&world, "l")->state, LINK_WAITING);
    vm_attach(&world, 1, &root, true);
    assert_false(vm_take(&world, &world.vms[1])); /* what to plug is not there yet */
    assert_int_equal(hold(&world, &root, "e", &persistent), 0);
    run(&world);
    assert_int_equal(get(&world, "l")->state, LINK_LINKED);
    assert_int_equal(release(&world, "e"), FAULT_IN_USE);
    vm_die(&world, 1);
    assert_int_equal(get(&world, "l")->state, LINK_WAITING);
    vm_attach(&world, 1, &root, true);
    run(&world);
    assert_int_equal(get(&world, "l")->state, LINK_LINKED);
    assert_int_equal(world.vms[1].n_plugs, 1);
    disconnect(&world, "l", &outcome);
    run(&world);
    assert_true(outcome.done);
    assert_int_equal(release(&world, "e"), 0);
    world_close(&world);
}

static void test_late(void **state)
{
    struct world world;
    struct outcome outcome, second;

    (void)state;
    world_open(&world);
    vm_attach(&world, 1, &root, true);
    assert_int_equal(hold(&world, &root, "e", &persistent), 0);
    connect_as(&world, &root, "l", "eventfd/e", "kvm/vm1/gsi/5", &outcome);
    assert_true(vm_take(&world, &world.vms[1]));
    model_agent_late(world.vms[1].agent);
    assert_true(outcome.done);
    assert_int_equal(outcome.r, FAULT_AGENT_TIMEOUT);
    assert_string_equal(outcome.fault.other, "a1");
    assert_null(link_find(world.model, "l"));
    /* The eventfd may get plugged yet: it is of no use to others. */
    connect_as(&world, &root, "m", "eventfd/e", "kvm/vm0/gsi/5", &second);
    assert_int_equal(second.r, FAULT_ENDPOINT_BUSY);
    /* and the silent agent of no use for new links, which fail at once. */
    connect_as(&world, &root, "m", "kvm/vm1/pio/1", "kvm/vm1/gsi/6", &second);
    assert_true(second.done);
    assert_int_equal(second.r, FAULT_AGENT_TIMEOUT);
    /* It wakes, plugs, and is told to undo it. */
    assert_true(vm_answer(&world, &world.vms[1]));
    assert_int_equal(world.vms[1].n_plugs, 1);
    run(&world);
    assert_int_equal(world.vms[1].n_plugs, 0);
    connect_as(&world, &root, "l", "eventfd/e", "kvm/vm1/gsi/5", &outcome);
    run(&world);
    assert_int_equal(outcome.r, 0);
    assert_true(outcome.done);
    assert_int_equal(world.vms[1].n_plugs, 1);
    world_close(&world);
}

static void test_lost(void **state)
{
    struct world world;
    struct outcome outcome;

    (void)state;
    world_open(&world);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "l", "kvm/vm1/pio/1", "kvm/vm1/gsi/5", &outcome);
    assert_true(vm_take(&world, &world.vms[1]));
    /* The socket closes while a plug is under way: it may have been done. */
    plug(&world, &world.vms[1], &world.vms[1].items[0]);
    vm_lose(&world, 1);
    assert_true(outcome.done);
    assert_int_equal(outcome.r, FAULT_PLUG_FAILED);
    assert_int_equal(outcome.fault.number, ECONNRESET);
    assert_int_equal(world.forgotten, 0); /* the process lives, watched */
    /* Its successor is told to unplug what it may have. */
    vm_attach(&world, 1, &root, true);
    assert_int_equal(world.forgotten, 1);
    run(&world);
    assert_int_equal(world.vms[1].n_plugs, 0);
    world_close(&world);
}

static void test_detach(void **state)
{
    struct world world;
    struct outcome outcome, detached = { 0 };
    struct fault fault;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "l", "kvm/vm0/pio/1", "kvm/vm1/gsi/5", &outcome);
    run(&world);
    assert_int_equal(model_detach(world.model, &root, "a1", on_done, &detached, &detached.job, &fault), 0);
    assert_false(detached.done);
    run(&world);
    assert_true(detached.done);
    assert_null(world.vms[1].agent);
    assert_int_equal(world.vms[1].n_plugs, 0);
    assert_int_equal(world.vms[0].n_plugs, 1); /* what is there stays plugged: signals accumulate */
    assert_int_equal(get(&world, "l")->state, LINK_WAITING);
    world_close(&world);
}

static void test_owners(void **state)
{
    struct world world;
    struct outcome outcome;

    (void)state;
    world_open(&world);
    assert_int_equal(hold(&world, &alice, "e", &persistent), 0);
    connect_as(&world, &bob, "l", "eventfd/e", "kvm/vm1/gsi/5", &outcome);
    assert_int_equal(outcome.r, FAULT_PERMISSION);
    connect_as(&world, &alice, "l", "eventfd/e", "kvm/vm1/gsi/5", &outcome);
    assert_int_equal(outcome.r, 0);
    /* Bob attaches under the name that Alice's link waits for, and gets nothing. */
    vm_attach(&world, 1, &bob, true);
    run(&world);
    assert_int_equal(world.vms[1].n_plugs, 0);
    assert_int_equal(get(&world, "l")->state, LINK_WAITING);
    vm_die(&world, 1);
    vm_attach(&world, 1, &alice, true);
    run(&world);
    assert_int_equal(get(&world, "l")->state, LINK_LINKED);
    world_close(&world);
}

static void test_lifetimes(void **state)
{
    struct world world;
    struct outcome outcome, second;
    struct lifeline lifeline = { 0 };
    const struct life_request connection = { .lifetime = LIFETIME_CONNECTION, .lifeline = &lifeline };
    const struct life_request lease = { .lifetime = LIFETIME_LEASE, .lease = 10 };
    struct fault fault;

    (void)state;
    world_open(&world);
    vm_attach(&world, 1, &root, true);
    assert_int_equal(hold(&world, &root, "c", &connection), 0);
    assert_int_equal(hold(&world, &root, "l", &lease), 0);
    connect_as(&world, &root, "x", "eventfd/c", "kvm/vm1/gsi/5", &outcome);
    connect_as(&world, &root, "y", "eventfd/l", "kvm/vm1/gsi/6", &second);
    run(&world);
    assert_int_equal(world.vms[1].n_plugs, 2);
    model_cut(world.model, &lifeline);
    run(&world);
    assert_int_equal(world.vms[1].n_plugs, 1);
    assert_null(link_find(world.model, "x"));
    assert_true(model_deadline(world.model) > clock_monotonic() + 9 * USEC_PER_SEC);
    assert_int_equal(model_renew(world.model, &root, "l", 1000, &fault), 0);
    model_expire(world.model, clock_monotonic() + 20 * USEC_PER_SEC);
    assert_non_null(held_find(world.model, "l"));
    model_expire(world.model, clock_monotonic() + 1001 * USEC_PER_SEC);
    run(&world);
    assert_null(held_find(world.model, "l"));
    assert_null(link_find(world.model, "y"));
    assert_int_equal(world.vms[1].n_plugs, 0);
    assert_int_equal(model_deadline(world.model), -1);
    assert_int_equal(world.notices[NOTICE_EXPIRED], 1);
    world_close(&world);
}

static void test_pending(void **state)
{
    struct world world;
    struct outcome outcome;
    struct fault fault;
    struct held *held;
    const char *const name = "e";
    uint64_t count;
    int fd;

    (void)state;
    world_open(&world);
    fd = eventfd_create(false);
    assert_true(fd >= 0);
    vm_attach(&world, 1, &root, true);
    assert_int_equal(model_hold(world.model, &root, &name, &fd, 1, &persistent, &held, &fault), 0);
    assert_string_equal(held->name, name);
    assert_int_equal(model_signal(world.model, &root, "e", 3, &fault), 0);
    /* A plug that fails gives back all that was pending, ... */
    world.vms[1].fail = EINVAL;
    connect_as(&world, &root, "l", "eventfd/e", "kvm/vm1/gsi/5", &outcome);
    assert_true(vm_take(&world, &world.vms[1]));
    assert_int_equal(eventfd_drain(held->eventfd->fd, &count), 0);
    assert_int_equal(count, 0); /* read before the agent is asked */
    run(&world);
    assert_int_equal(outcome.r, FAULT_PLUG_FAILED);
    assert_int_equal(eventfd_drain(held->eventfd->fd, &count), 0);
    assert_int_equal(count, 3);
    /* ... one that works one signal for all. */
    assert_int_equal(model_signal(world.model, &root, "e", 3, &fault), 0);
    connect_as(&world, &root, "l", "eventfd/e", "kvm/vm1/gsi/5", &outcome);
    run(&world);
    assert_int_equal(outcome.r, 0);
    assert_int_equal(eventfd_drain(held->eventfd->fd, &count), 0);
    assert_int_equal(count, 1);
    disconnect(&world, "l", &outcome);
    run(&world);
    /* Where it does not fit any more, the counter is left full. */
    assert_int_equal(model_signal(world.model, &root, "e", INT64_MAX, &fault), 0);
    world.vms[1].fail = EINVAL;
    connect_as(&world, &root, "l", "eventfd/e", "kvm/vm1/gsi/5", &outcome);
    assert_true(vm_take(&world, &world.vms[1]));
    for (int i = 0; i < 2; i++)
        assert_int_equal(model_signal(world.model, &root, "e", INT64_MAX - 1, &fault), 0);
    run(&world);
    assert_int_equal(outcome.r, FAULT_PLUG_FAILED);
    assert_int_equal(eventfd_drain(held->eventfd->fd, &count), 0);
    assert_true(count == EVENTFD_MAX);
    world_close(&world);
}

/* A set of links is made as one, or not at all. */
/* ---- Devices ---- */

static uint64_t take_count(int fd)
{
    uint64_t count = 0;

    assert_true(eventfd_drain(fd, &count) >= 0);
    return count;
}

/* The producer's side of a level link gets the resample eventfd as well, for its unmask. */
static void test_intx(void **state)
{
    struct world world;
    struct outcome outcome;
    struct link *link;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "l", "vfio/vm0/intx", "kvm/vm1/gsi/5/level", &outcome);
    assert_false(vm_take(&world, &world.vms[0]));
    assert_true(vm_take(&world, &world.vms[1]));
    link = get(&world, "l");
    assert_int_equal(world.vms[1].items[0].fd, link->eventfd->fd);
    assert_int_equal(world.vms[1].items[0].resample, link->resample->fd);
    assert_true(vm_answer(&world, &world.vms[1]));
    /* Whatever its line was at: it is told to look again. */
    assert_int_equal(take_count(link->resample->fd), 1);
    assert_true(vm_take(&world, &world.vms[0]));
    assert_int_equal(world.vms[0].items[0].fd, link->eventfd->fd);
    assert_int_equal(world.vms[0].items[0].resample, link->resample->fd);
    assert_true(vm_answer(&world, &world.vms[0]));
    assert_true(outcome.done);
    assert_int_equal(outcome.r, 0);
    assert_int_equal(take_count(link->resample->fd), 0);

    /* The guest goes between interrupt and EOI, and another comes. */
    vm_die(&world, 1);
    run(&world);
    assert_int_equal(get(&world, "l")->state, LINK_WAITING);
    assert_int_equal(take_count(link->resample->fd), 0);
    vm_attach(&world, 1, &root, true);
    run(&world);
    assert_int_equal(get(&world, "l")->state, LINK_LINKED);
    assert_int_equal(take_count(link->resample->fd), 1);

    /* Away with it: the same where the line was left by Move, and the trigger stays what it is. */
    assert_int_equal(model_move(world.model, &root, "l", "vfio/vm0/intx", "vfio/vm0/msi/0", on_done, &outcome,
                         &outcome.job, &outcome.fault),
        FAULT_BAD_ENDPOINT);
    assert_int_equal(model_move(world.model, &root, "l", "kvm/vm1/gsi/5/level", "kvm/vm1/gsi/5", on_done,
                         &outcome, &outcome.job, &outcome.fault),
        FAULT_BAD_ENDPOINT);
    memset(&outcome, 0, sizeof(outcome));
    assert_int_equal(model_move(world.model, &root, "l", "kvm/vm1/gsi/5/level", "kvm/vm0/gsi/6/level",
                         on_done, &outcome, &outcome.job, &outcome.fault),
        0);
    run(&world);
    assert_true(outcome.done);
    assert_int_equal(outcome.r, 0);
    assert_int_equal(take_count(link->resample->fd), 1);
    memset(&outcome, 0, sizeof(outcome));
    assert_int_equal(model_move(world.model, &root, "l", "vfio/vm0/intx", "vfio/vm1/intx", on_done, &outcome,
                         &outcome.job, &outcome.fault),
        0);
    run(&world);
    assert_int_equal(outcome.r, 0);
    disconnect(&world, "l", &outcome);
    run(&world);
    assert_int_equal(outcome.r, 0);
    assert_int_equal(world.vms[0].n_plugs, 0);
    assert_int_equal(world.vms[1].n_plugs, 0);
    world_close(&world);
}

static void test_devices_refused(void **state)
{
    static const struct {
        const char *producer, *consumer;
    } bad[] = {
        { "vfio/vm0/intx", "kvm/vm0/gsi/5" },
        { "vfio/vm0/intx", "kvm/vm0/dev/d/irq/5" },
        { "vfio/vm0/intx", "eventfd/e" },
        { "vfio/vm0/intx", "vhost/vm0/vring/0/kick" },
        { "vhost/vm0/vring/0/kick", "kvm/vm0/gsi/5" },
        { "kvm/vm0/pio/1", "vhost/vm0/vring/0/call" },
        { "kvm/vm0/pio/1", "vfio/vm0/msi/1" },
    };
    const char *const intx = "vfio/vm0/intx", *const both[] = { "kvm/vm0/gsi/5/level",
        "kvm/vm0/gsi/6/level" };
    const struct link_request relayed = {
        .producers = &intx, .n_producers = 1, .consumers = both, .n_consumers = 2
    };
    struct world world;
    struct outcome outcome;

    (void)state;
    world_open(&world);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        connect_as(&world, &root, "l", bad[i].producer, bad[i].consumer, &outcome);
        assert_int_equal(outcome.r, FAULT_BAD_ENDPOINT);
        assert_non_null(outcome.fault.reason);
    }
    assert_int_equal(model_connect(world.model, &root, &relayed, 1, true, &persistent, on_done, &outcome,
                         &outcome.job, &outcome.fault),
        FAULT_BAD_ENDPOINT);
    world_close(&world);
}

/* A doorbell to a ring's kick, its call to an interrupt; only what is in front of an irqfd is read before. */
static void test_vring(void **state)
{
    struct world world;
    struct outcome outcome;
    struct fault fault;
    const char *const name = "e";
    int fd;

    (void)state;
    world_open(&world);
    fd = eventfd_create(false);
    assert_true(fd >= 0);
    vm_attach(&world, 0, &root, true);
    assert_int_equal(model_hold(world.model, &root, &name, &fd, 1, &persistent, NULL, &fault), 0);
    assert_int_equal(model_signal(world.model, &root, "e", 3, &fault), 0);
    connect_as(&world, &root, "kick", "eventfd/e", "vhost/vm0/vring/0/kick", &outcome);
    run(&world);
    assert_int_equal(outcome.r, 0);
    assert_int_equal(take_count(get(&world, "kick")->eventfd->fd), 3);
    connect_as(&world, &root, "call", "vhost/vm0/vring/0/call", "kvm/vm0/gsi/5", &outcome);
    run(&world);
    assert_int_equal(outcome.r, 0);
    connect_as(&world, &root, "again", "vhost/vm0/vring/0/call", "kvm/vm0/gsi/6", &outcome);
    assert_int_equal(outcome.r, FAULT_ENDPOINT_BUSY);
    connect_as(&world, &root, "err", "vhost/vm0/vring/0/err", "kvm/vm0/gsi/6", &outcome);
    run(&world);
    assert_int_equal(outcome.r, 0);
    assert_int_equal(world.vms[0].n_plugs, 5);
    world_close(&world);
}

static void test_set(void **state)
{
    const char *producers[] = { "kvm/vm1/pio/1", "kvm/vm1/pio/2", "kvm/vm1/pio/3" };
    const char *consumers[] = { "kvm/vm1/gsi/1", "kvm/vm1/gsi/2", "kvm/vm1/gsi/3" };
    struct link_request requests[3];
    struct world world;
    struct outcome outcome = { 0 };

    (void)state;
    world_open(&world);
    vm_attach(&world, 1, &root, true);
    for (size_t i = 0; i < 3; i++)
        requests[i] = (struct link_request){ .group = "g",
            .producers = &producers[i],
            .n_producers = 1,
            .consumers = &consumers[i],
            .n_consumers = 1 };
    for (int failing = 1; failing >= 0; failing--) {
        outcome.done = false;
        world.vms[1].fail = failing ? EBUSY : 0;
        assert_int_equal(model_connect(world.model, &root, requests, 3, true, &persistent, on_done, &outcome,
                             &outcome.job, &outcome.fault),
            0);
        run(&world);
        assert_true(outcome.done);
        assert_int_equal(outcome.r, failing ? FAULT_PLUG_FAILED : 0);
        assert_int_equal(model_count(world.model).links, failing ? 0 : 3);
        assert_int_equal(world.vms[1].n_plugs, failing ? 0 : 6);
    }
    /* What collides within the call, and with what is there. */
    requests[0].name = "again";
    assert_int_equal(model_connect(world.model, &root, requests, 1, true, &persistent, on_done, &outcome,
                         &outcome.job, &outcome.fault),
        FAULT_ENDPOINT_BUSY);
    memset(&outcome, 0, sizeof(outcome));
    assert_int_equal(
        model_disconnect(world.model, &root, NULL, "g", on_done, &outcome, &outcome.job, &outcome.fault), 0);
    run(&world);
    assert_true(outcome.done);
    assert_int_equal(world.vms[1].n_plugs, 0);
    requests[1] = requests[0];
    requests[1].name = "twice";
    assert_int_equal(model_connect(world.model, &root, requests, 2, true, &persistent, on_done, &outcome,
                         &outcome.job, &outcome.fault),
        FAULT_BAD_ENDPOINT);
    assert_null(link_find(world.model, "again"));
    world_close(&world);
}

/* ---- Random orders
 * --------------------------------------------------------------------------------------------- */

#define N_LINKS 6

static uint64_t random_state;

static unsigned pick(unsigned n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 33) % n);
}

/* What is signalled by, or signals, a held eventfd or a VM: fixed or on offer. */
static void random_endpoint(char text[static ENDPOINT_SIZE], bool producer)
{
    static const char *const signals[] = { "intx", "msi/0", "msi/1", "err" };

    switch (pick(10)) {
    case 0:
    case 1:
        (void)snprintf(text, ENDPOINT_SIZE, "eventfd/e%u", pick(3));
        break;
    case 3:
        if (producer)
            (void)snprintf(text, ENDPOINT_SIZE, "vfio/vm%u/%s", pick(N_VMS), signals[pick(4)]);
        else
            (void)snprintf(text, ENDPOINT_SIZE, "kvm/vm%u/gsi/%u/level", pick(N_VMS), pick(3));
        break;
    case 4:
        (void)snprintf(
            text, ENDPOINT_SIZE, "vhost/vm%u/vring/%u/%s", pick(N_VMS), pick(3), producer ? "call" : "kick");
        break;
    case 2:
        (void)snprintf(
            text, ENDPOINT_SIZE, "kvm/vm%u/dev/d/%s/%u", pick(N_VMS), producer ? "notify" : "irq", pick(3));
        break;
    default:
        (void)snprintf(text, ENDPOINT_SIZE, "kvm/vm%u/%s/%u%s", pick(N_VMS), producer ? "pio" : "gsi",
            pick(3), !producer && pick(12) == 0 ? "/level" : "");
        break;
    }
}

static void random_connect(struct world *world, const char *name, struct outcome *outcome)
{
    char texts[4][ENDPOINT_SIZE];
    const char *producers[] = { texts[0], texts[1] }, *consumers[] = { texts[2], texts[3] };
    const struct life_request agents = { .lifetime = LIFETIME_AGENT };
    const struct link_request request = {
        .name = name,
        .group = pick(2) ? "g" : NULL,
        .producers = producers,
        .n_producers = 1 + (pick(4) == 0),
        .consumers = consumers,
        .n_consumers = 1 + (pick(4) == 0),
    };
    int r;

    for (size_t i = 0; i < 4; i++)
        random_endpoint(texts[i], i < 2);
    memset(outcome, 0, sizeof(*outcome));
    r = model_connect(world->model, &root, &request, 1, pick(4) > 0, pick(8) ? &persistent : &agents, on_done,
        outcome, &outcome->job, &outcome->fault);
    if (r) {
        assert_true(r > 0);
        outcome->done = true;
    }
}

/* Park, Resume, Move, Leave, Disconnect: what the model says no to is as good. */
static void random_verb(struct world *world, const char *name, struct outcome *outcome)
{
    struct link *found = link_find(world->model, name), *link = found && found->n_ends > 0 ? found : NULL;
    char from[ENDPOINT_SIZE], to[ENDPOINT_SIZE];
    struct job **job = &outcome->job;
    struct fault *fault = &outcome->fault;
    int r = 0;

    memset(outcome, 0, sizeof(*outcome));
    if (link)
        endpoint_format(&link->ends[pick((unsigned)link->n_ends)]->endpoint, from);
    switch (pick(link ? 6 : 1)) {
    case 0:
        r = pick(8) ? model_disconnect(world->model, &root, name, NULL, on_done, outcome, job, fault)
                    : model_disconnect(world->model, &root, NULL, "g", on_done, outcome, job, fault);
        break;
    case 1:
        r = model_park(world->model, &root, name, NULL, on_done, outcome, job, fault);
        break;
    case 2:
        r = model_resume(world->model, &root, name, NULL, on_done, outcome, job, fault);
        break;
    case 3:
    case 4:
        random_endpoint(to, strstr(from, "pio") || strstr(from, "notify"));
        r = model_move(world->model, &root, name, from, to, on_done, outcome, job, fault);
        break;
    case 5:
        r = model_leave(world->model, &root, from, "test", on_done, outcome, job, fault);
        break;
    }
    if (r) {
        assert_true(r > 0);
        assert_false(outcome->done);
        outcome->done = true;
    }
}

static void random_offer(struct world *world, struct vm *vm)
{
    char text[ENDPOINT_SIZE];
    const char *list = text;
    struct fault fault;
    struct job *job;

    do
        random_endpoint(text, pick(2));
    while (text[0] == 'e');
    if (pick(2))
        (void)model_offer(world->model, &root, vm->agent->name, &list, 1, &fault);
    else
        (void)model_withdraw(world->model, &root, vm->agent->name, &list, 1, NULL, NULL, NULL, &job, &fault);
}

static void random_step(struct world *world, struct outcome *outcomes)
{
    size_t i = pick(N_KERNELS), l = pick(N_LINKS);
    bool idle = outcomes[l].done || !outcomes[l].job;
    struct vm *vm = &world->vms[i];
    struct fault fault;
    struct job *job;
    char name[16];

    (void)snprintf(name, sizeof(name), "l%zu", l);
    switch (pick(18)) {
    case 0:
    case 1:
        if (vm->agent && pick(8) == 0)
            vm->fail = EBUSY;
        if (idle)
            random_connect(world, name, &outcomes[l]);
        break;
    case 2:
    case 3:
        if (idle)
            random_verb(world, name, &outcomes[l]);
        break;
    case 4:
    case 5:
        if (!vm->agent)
            (void)vm_try_attach(world, i, &root, pick(4) > 0);
        break;
    case 6:
        if (vm->agent && pick(6) == 0)
            vm_die(world, i);
        break;
    case 7:
        if (vm->agent && pick(6) == 0)
            vm_lose(world, i);
        break;
    case 8:
        if (vm->agent && vm->n_items > 0 && !vm->agent->late && pick(2))
            model_agent_late(vm->agent);
        break;
    case 9:
        (void)snprintf(name, sizeof(name), "e%u", pick(3));
        if (!held_find(world->model, name))
            assert_int_equal(hold(world, &root, name, pick(2) ? &persistent : &leased), 0);
        else if (pick(4))
            (void)release(world, name);
        else
            model_expire(world->model, INT64_MAX);
        break;
    case 10:
        if (vm->agent && !vm->agent->leaving && pick(6) == 0)
            assert_int_equal(model_detach(world->model, &root, vm->agent->name, NULL, NULL, &job, &fault), 0);
        break;
    case 11:
        if (vm->agent)
            random_offer(world, vm);
        break;
    default:
        if (vm->n_items == 0)
            (void)vm_take(world, vm);
        else
            (void)vm_answer(world, vm);
        break;
    }
    check_references(world);
}

/* When all have answered, every link is where who is there puts it. */
static void check_rest(struct world *world, const struct outcome *outcomes)
{
    size_t expected[N_KERNELS] = { 0 };
    struct link *link;

    for (size_t l = 0; l < N_LINKS; l++)
        assert_true(outcomes[l].done || !outcomes[l].job);
    RB_FOREACH (link, link_tree, &world->model->links) {
        bool absent = false, refused = false, parked = link->goal == GOAL_PARKED;

        assert_int_not_equal(link->goal, GOAL_DOWN);
        assert_null(link->job);
        assert_null(link->from);
        for (size_t i = 0; i < link->n_ends; i++) {
            const struct end *end = link->ends[i];

            /* One that has left for good is kept only for what may be plugged there. */
            if (end->retiring) {
                assert_true(end->dirty);
                continue;
            }
            refused |= end->refused;
            absent |= end->state == END_ABSENT;
            parked &= end->producer || !end->dirty;
            assert_true(end->state == END_ABSENT || end->state == END_PLUGGED || end->refused ||
                        !end->eventfd || link->renew || (link->goal == GOAL_PARKED && !end->producer));
            for (size_t k = 0; k < N_KERNELS && end->agent; k++)
                expected[k] += world->vms[k].agent == end->agent && end->state == END_PLUGGED;
        }
        if (!link->renew)
            assert_int_equal(link->state, refused  ? LINK_FAILED
                                          : parked ? LINK_PARKED
                                          : absent ? LINK_WAITING
                                                   : LINK_LINKED);
    }
    for (size_t i = 0; i < N_KERNELS; i++)
        if (world->vms[i].agent)
            assert_int_equal(world->vms[i].n_plugs, expected[i]);
}

static void test_random(void **state)
{
    const char *text = getenv("EVLINK_TEST_STEPS"), *seed_text = getenv("EVLINK_TEST_SEED");
    long steps = text ? strtol(text, NULL, 10) : 400000;
    long first = seed_text ? strtol(seed_text, NULL, 10) : 1, last = seed_text ? first : 20;

    (void)state;
    for (long seed = first; seed <= last; seed++) {
        struct outcome outcomes[N_LINKS] = { 0 };
        struct world world;

        printf("# seed %ld, %ld steps\n", seed, steps);
        random_state = (uint64_t)seed * UINT64_C(0x9e3779b97f4a7c15);
        world_open(&world);
        for (long step = 0; step < steps; step++) {
            random_step(&world, outcomes);
            if (step % 500 == 499) {
                run(&world);
                check_rest(&world, outcomes);
            }
        }
        world_close(&world);
    }
}

/* ---- What the protocol's model for spin found
 * ---------------------------------------------------------------- */

static void offer(struct world *world, const char *agent, const char *endpoint)
{
    struct fault fault = { 0 };

    assert_int_equal(model_offer(world->model, &root, agent, &endpoint, 1, &fault), 0);
}

/* What is offered again before it is unplugged has left all the same, and comes back. */
static void test_offer_again(void **state)
{
    const char *endpoint = "kvm/vm0/dev/d/notify/0";
    struct outcome connected, withdrawn = { 0 };
    struct fault fault = { 0 };
    struct world world;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    offer(&world, "a0", endpoint);
    connect_as(&world, &root, "l", endpoint, "kvm/vm1/gsi/5", &connected);
    run(&world);
    assert_true(connected.done && connected.r == 0);
    assert_int_equal(model_withdraw(world.model, &root, "a0", &endpoint, 1, NULL, on_done, &withdrawn,
                         &withdrawn.job, &fault),
        0);
    assert_int_equal(world.notices[NOTICE_LEAVING], 1);
    offer(&world, "a0", endpoint);
    run(&world);
    assert_true(withdrawn.done);
    assert_int_equal(world.notices[NOTICE_LEAVING], 1);
    assert_int_equal(world.notices[NOTICE_LEFT], 1);
    assert_int_equal(get(&world, "l")->state, LINK_LINKED);
    world_close(&world);
}

/* Who was to take over is lost while the old one detaches: what nobody has any more leaves. */
static void test_successor_lost(void **state)
{
    struct outcome connected, detached = { 0 };
    struct fault fault = { 0 };
    struct world world;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "l", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &connected);
    run(&world);
    vm_attach(&world, 1 + N_VMS, &root, true);
    assert_int_equal(model_detach(world.model, &root, "a1", on_done, &detached, &detached.job, &fault), 0);
    assert_int_equal(world.notices[NOTICE_LEAVING], 0);
    vm_lose(&world, 1 + N_VMS);
    assert_int_equal(world.notices[NOTICE_LEAVING], 1);
    run(&world);
    assert_true(detached.done);
    assert_int_equal(world.notices[NOTICE_LEFT], 1);
    world_close(&world);
}

/* What a lost agent had plugged does not die with its successor's process. */
static void test_inherited(void **state)
{
    struct outcome connected;
    struct agent *agent;
    struct world world;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "l", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &connected);
    run(&world);
    model_agent_lost(world.vms[0].agent, "its socket was closed");
    vm_attach(&world, N_VMS, &root, true);
    agent = world.vms[N_VMS].agent;
    model_agent_dead(agent);
    assert_true(get(&world, "l")->ends[0]->dirty);
    assert_int_equal(world.vms[0].n_plugs, 1);
    /* The old process again: told to unplug first. */
    vm_attach(&world, 0, &root, true);
    assert_true(vm_take(&world, &world.vms[0]));
    assert_int_equal(world.vms[0].op, OP_UNPLUG);
    vm_answer(&world, &world.vms[0]);
    run(&world);
    assert_int_equal(get(&world, "l")->state, LINK_LINKED);
    world_close(&world);
}

/* What a link that is gone left behind comes clean while another end of that link does not. */
static void test_out_of_the_way(void **state)
{
    struct outcome connected, disconnected;
    struct world world;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "l", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &connected);
    run(&world);
    vm_lose(&world, 0);
    vm_lose(&world, 1);
    disconnect(&world, "l", &disconnected);
    assert_true(disconnected.done);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "m", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &connected);
    run(&world);
    assert_true(connected.done);
    assert_int_equal(connected.r, 0);
    assert_int_equal(get(&world, "m")->state, LINK_WAITING);
    vm_attach(&world, 0, &root, true);
    run(&world);
    assert_int_equal(get(&world, "m")->state, LINK_LINKED);
    world_close(&world);
}

/* What it left behind cannot be unplugged: who waits for that is told so. */
static void test_in_the_way(void **state)
{
    struct outcome connected, disconnected;
    struct world world;
    struct vm *vm = &world.vms[0];
    const int eio = EIO;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "l", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &connected);
    run(&world);
    vm_lose(&world, 0);
    disconnect(&world, "l", &disconnected);
    run(&world);
    vm_attach(&world, 0, &root, true);
    connect_as(&world, &root, "m", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &connected);
    assert_true(vm_take(&world, &world.vms[1])); /* its consumer is plugged meanwhile */
    assert_true(vm_answer(&world, &world.vms[1]));
    assert_false(connected.done);
    assert_true(vm_take(&world, vm));
    assert_int_equal(vm->op, OP_UNPLUG);
    vm->n_items = 0;
    model_agent_results(vm->agent, &eio);
    run(&world);
    assert_true(connected.done);
    assert_int_equal(connected.r, FAULT_ENDPOINT_BUSY);
    assert_null(link_find(world.model, "m"));
    world_close(&world);
}

/* EBUSY says who has the eventfd: what a link that is gone left in a VM whose agent was lost. */
static void test_holder(void **state)
{
    struct outcome connected, disconnected;
    struct world world;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    assert_int_equal(hold(&world, &root, "e", &persistent), 0);
    connect_as(&world, &root, "l", "eventfd/e", "kvm/vm0/gsi/5", &connected);
    run(&world);
    model_agent_lost(world.vms[0].agent, "its socket was closed");
    disconnect(&world, "l", &disconnected);
    assert_true(disconnected.done);
    world.vms[1].fail = EBUSY;
    connect_as(&world, &root, "m", "eventfd/e", "kvm/vm1/gsi/6", &connected);
    run(&world);
    assert_true(connected.done);
    assert_int_equal(connected.r, FAULT_PLUG_FAILED);
    assert_int_equal(connected.fault.number, EBUSY);
    assert_string_equal(connected.fault.other, "kvm/vm0/gsi/5");
    world_close(&world);
}

/* Leave of what is busy with something else says with what. */
static void test_leave_busy(void **state)
{
    struct outcome connected, parked = { 0 }, left = { 0 };
    struct fault fault = { 0 };
    struct world world;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "l", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &connected);
    run(&world);
    assert_int_equal(model_park(world.model, &root, "l", NULL, on_done, &parked, &parked.job, &fault), 0);
    assert_int_equal(
        model_leave(world.model, &root, "kvm/vm1/gsi/5", NULL, on_done, &left, &left.job, &fault),
        FAULT_WRONG_STATE);
    assert_string_equal(fault.subject, "l");
    assert_string_equal(fault.reason, "parking");
    run(&world);
    assert_true(parked.done);
    world_close(&world);
}

/* ---- What must not go on for ever, or be passed over
 * ---------------------------------------------------------- */

/* Answers until there is nothing to do, with every plug failing. Returns how many there were. */
static size_t run_refusing(struct world *world, struct vm *vm, int error)
{
    size_t n = 0;

    while (n < 20) {
        if (!vm_take(world, vm))
            return n;
        vm->fail = error;
        n += vm->op == OP_PLUG;
        vm_answer(world, vm);
    }
    return n;
}

static void resume(struct world *world, const char *name, struct outcome *outcome)
{
    memset(outcome, 0, sizeof(*outcome));
    assert_int_equal(
        model_resume(world->model, &root, name, NULL, on_done, outcome, &outcome->job, &outcome->fault), 0);
}

static void park(struct world *world, const char *name, struct outcome *outcome)
{
    memset(outcome, 0, sizeof(*outcome));
    assert_int_equal(
        model_park(world->model, &root, name, NULL, on_done, outcome, &outcome->job, &outcome->fault), 0);
}

/* EBUSY of an eventfd that was made just now: the link's is replaced once, not for ever. */
static void test_busy_for_ever(void **state)
{
    struct outcome outcome;
    struct world world;
    int64_t id;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &root, true);
    vm_attach(&world, 1, &root, true);
    connect_as(&world, &root, "l", "kvm/vm0/pio/0x510", "kvm/vm1/gsi/5", &outcome);
    run(&world);
    for (int i = 0; i < 2; i++) {
        id = eventfd_id(get(&world, "l")->eventfd);
        park(&world, "l", &outcome);
        run(&world);
        resume(&world, "l", &outcome);
        assert_int_equal(run_refusing(&world, &world.vms[1], EBUSY), 1);
        run(&world); /* the producer is unplugged, and the eventfd replaced */
        assert_int_not_equal(eventfd_id(get(&world, "l")->eventfd), id);
        assert_true(outcome.done);
        assert_int_equal(outcome.r, 0);
    }
    /* Without an answer that makes sense in between, it is refused. */
    park(&world, "l", &outcome);
    run(&world);
    resume(&world, "l", &outcome);
    for (int i = 0; i < 5; i++) {
        assert_true(run_refusing(&world, &world.vms[1], EBUSY) <= 1);
        vm_take(&world, &world.vms[0]);
        vm_answer(&world, &world.vms[0]);
    }
    assert_true(outcome.done);
    assert_int_equal(outcome.r, FAULT_PLUG_FAILED);
    assert_int_equal(outcome.fault.number, EBUSY);
    assert_int_equal(get(&world, "l")->goal, GOAL_PARKED);
    assert_int_equal(get(&world, "l")->state, LINK_FAILED);
    assert_int_not_equal(model_deadline(world.model), -1);
    world_close(&world);
}

/* Several that are refused do not have each other tried again. */
static void test_busy_together(void **state)
{
    const char *producer = "kvm/vm1/pio/1", *consumers[] = { "kvm/vm1/gsi/1", "kvm/vm1/gsi/2" };
    const struct link_request request = {
        .name = "l",
        .producers = &producer,
        .n_producers = 1,
        .consumers = consumers,
        .n_consumers = 2,
    };
    struct outcome outcome = { 0 };
    struct world world;

    (void)state;
    world_open(&world);
    assert_int_equal(model_connect(world.model, &root, &request, 1, true, &persistent, on_done, &outcome,
                         &outcome.job, &outcome.fault),
        0);
    assert_true(outcome.done);
    vm_attach(&world, 1, &root, true);
    assert_true(run_refusing(&world, &world.vms[1], EBUSY) < 10);
    assert_int_equal(get(&world, "l")->state, LINK_FAILED);
    world_close(&world);
}

/* A relay would take 1 of a semaphore each time that it wakes. */
static void test_semaphore(void **state)
{
    const char *const name = "a";
    struct outcome outcome;
    struct fault fault = { 0 };
    struct eventfd_info info;
    struct world world;
    int fd;

    (void)state;
    world_open(&world);
    fd = eventfd_create(true);
    assert_int_equal(eventfd_info(fd, &info), 0);
    if (!info.semaphore) {
        fd_close(fd);
        world_close(&world);
        skip(); /* this kernel does not tell */
    }
    assert_int_equal(hold(&world, &root, "z", &persistent), 0);
    connect_as(&world, &root, "late", "eventfd/a", "eventfd/z", &outcome);
    assert_true(outcome.done && outcome.r == 0);
    assert_int_equal(model_hold(world.model, &root, &name, &fd, 1, &persistent, NULL, &fault), 0);
    assert_int_equal(get(&world, "late")->state, LINK_FAILED);
    assert_null(get(&world, "late")->ends[0]->eventfd);
    disconnect(&world, "late", &outcome);
    connect_as(&world, &root, "l", "eventfd/a", "eventfd/z", &outcome);
    assert_int_equal(outcome.r, FAULT_BAD_ENDPOINT);
    assert_string_equal(outcome.fault.subject, "eventfd/a");
    /* As a consumer it is as good as any. */
    connect_as(&world, &root, "l", "eventfd/z", "eventfd/a", &outcome);
    assert_int_equal(outcome.r, 0);
    assert_int_equal(get(&world, "l")->state, LINK_LINKED);
    world_close(&world);
}

static void move(
    struct world *world, const char *name, const char *from, const char *to, struct outcome *outcome)
{
    memset(outcome, 0, sizeof(*outcome));
    outcome->r =
        model_move(world->model, &root, name, from, to, on_done, outcome, &outcome->job, &outcome->fault);
    outcome->done |= outcome->r != 0;
}

/* An end that is absent waits for the link owner's agent, whoever moved it there. */
static void test_move_by_another(void **state)
{
    struct outcome outcome;
    struct world world;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &alice, true);
    connect_as(&world, &alice, "l", "kvm/vm0/pio/0x510", "kvm/vm0/gsi/5", &outcome);
    run(&world);
    assert_int_equal(outcome.r, 0);
    move(&world, "l", "kvm/vm0/gsi/5", "kvm/vm1/gsi/5", &outcome);
    run(&world);
    assert_true(outcome.done && outcome.r == 0);
    assert_int_equal(get(&world, "l")->state, LINK_WAITING);
    vm_attach(&world, 1, &root, true);
    run(&world);
    assert_int_equal(world.vms[1].n_plugs, 0);
    vm_die(&world, 1);
    vm_attach(&world, 1, &alice, true);
    run(&world);
    assert_int_equal(get(&world, "l")->state, LINK_LINKED);
    /* What is there has an owner. */
    vm_attach(&world, 2, &root, true);
    move(&world, "l", "kvm/vm1/gsi/5", "kvm/vm2/gsi/5", &outcome);
    run(&world);
    assert_true(outcome.done && outcome.r == 0);
    assert_int_equal(get(&world, "l")->state, LINK_LINKED);
    world_close(&world);
}

/* What an inventory has is found, whatever it has besides. */
static void test_inventory(void **state)
{
    static const struct {
        int gsi;
        bool same, known; /* the id that the agent tells */
        bool plugged;
    } cases[] = {
        { 5, true, true, true },
        { 5, true, false, true },
        { 5, false, true, false },
        { 6, true, true, false },
        { 6, true, false, false },
    };
    struct plugged plugged[64];
    struct outcome outcome;
    struct world world;
    struct vm *vm = &world.vms[1];
    const char *reason;
    char text[ENDPOINT_SIZE];
    const int eio = EIO;
    int64_t id;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        world_open(&world);
        vm_attach(&world, 1, &root, true);
        connect_as(&world, &root, "l", "eventfd/e", "kvm/vm1/gsi/5", &outcome);
        assert_int_equal(hold(&world, &root, "e", &persistent), 0);
        run(&world);
        id = eventfd_id(get(&world, "l")->eventfd);
        disconnect(&world, "l", &outcome);
        assert_true(vm_take(&world, vm));
        vm->n_items = 0;
        model_agent_results(vm->agent, &eio);
        assert_true(model_agent_doubts(vm->agent));
        for (size_t k = 0; k < 64; k++) {
            (void)snprintf(text, sizeof(text), "kvm/vm1/gsi/%zu", k < 63 ? 100 - k : (size_t)cases[i].gsi);
            assert_int_equal(endpoint_parse(text, &plugged[k].endpoint, &reason), 0);
            plugged[k].eventfd_id = k % 2 ? -1 : (int64_t)k;
        }
        plugged[63].eventfd_id = !cases[i].known ? -1 : cases[i].same ? id : id + 1;
        vm->n_plugs = 0;
        model_agent_inventory(vm->agent, plugged, 64);
        run(&world);
        /* What is plugged still is kept; without it, nothing is. */
        assert_int_equal(!RB_EMPTY(&site_find(world.model, SUBSYSTEM_KVM, "vm1")->ends), cases[i].plugged);
        world_close(&world);
    }
}

/* An Unplug that had no memory is tried again after a while; one that cannot be had is not. */
static void test_unplug_again(void **state)
{
    static const int errors[] = { ENOMEM, EMFILE, EIO };
    struct outcome outcome;
    struct world world;
    struct vm *vm = &world.vms[1];
    const struct site *site;

    (void)state;
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        world_open(&world);
        vm_attach(&world, 1, &root, true);
        assert_int_equal(hold(&world, &root, "e", &persistent), 0);
        connect_as(&world, &root, "l", "eventfd/e", "kvm/vm1/gsi/5", &outcome);
        run(&world);
        site = site_find(world.model, SUBSYSTEM_KVM, "vm1");
        disconnect(&world, "l", &outcome);
        for (int tries = 0; tries < 3; tries++) {
            if (!vm_take(&world, vm))
                break;
            vm->n_items = 0;
            model_agent_results(vm->agent, &errors[i]);
            assert_true(outcome.done && outcome.r == 0);
            assert_false(RB_EMPTY(&site->ends));
            assert_false(vm_take(&world, vm));
            model_expire(world.model, clock_monotonic() + 10 * USEC_PER_SEC);
        }
        run(&world);
        assert_int_equal(RB_EMPTY(&site->ends), errors[i] != EIO);
        assert_int_equal(world.vms[1].n_plugs == 0, errors[i] != EIO);
        assert_int_equal(model_deadline(world.model), -1);
        world_close(&world);
    }
}

/* Disconnect of a group waits for no other call, as that of a name does not. */
static void test_disconnect_busy(void **state)
{
    const char *producers[] = { "kvm/vm1/pio/1", "kvm/vm1/pio/2" };
    const char *consumers[] = { "kvm/vm1/gsi/1", "kvm/vm1/gsi/2" };
    const char *const names[] = { "l1", "l2" };
    struct link_request requests[2];
    struct outcome outcome, disconnected;
    struct world world;

    (void)state;
    for (size_t i = 0; i < 2; i++)
        requests[i] = (struct link_request){ .name = names[i],
            .group = "g",
            .producers = &producers[i],
            .n_producers = 1,
            .consumers = &consumers[i],
            .n_consumers = 1 };
    for (int verb = 0; verb < 3; verb++) {
        memset(&outcome, 0, sizeof(outcome));
        memset(&disconnected, 0, sizeof(disconnected));
        world_open(&world);
        vm_attach(&world, 0, &root, true);
        vm_attach(&world, 1, &root, true);
        assert_int_equal(model_connect(world.model, &root, requests, 2, true, &persistent, on_done, &outcome,
                             &outcome.job, &outcome.fault),
            0);
        run(&world);
        assert_true(outcome.done && outcome.r == 0);
        memset(&outcome, 0, sizeof(outcome));
        if (verb == 0)
            park(&world, "l1", &outcome);
        else if (verb == 1)
            move(&world, "l1", "kvm/vm1/gsi/1", "kvm/vm0/gsi/1", &outcome);
        else
            assert_int_equal(
                model_park(world.model, &root, NULL, "g", on_done, &outcome, &outcome.job, &outcome.fault),
                0);
        assert_false(outcome.done);
        assert_int_equal(model_disconnect(world.model, &root, NULL, "g", on_done, &disconnected,
                             &disconnected.job, &disconnected.fault),
            0);
        assert_true(outcome.done);
        assert_int_equal(outcome.r, FAULT_WRONG_STATE);
        assert_string_equal(outcome.fault.subject, "l1");
        run(&world);
        assert_true(disconnected.done);
        assert_int_equal(disconnected.r, 0);
        assert_int_equal(model_count(world.model).links, 0);
        assert_int_equal(world.vms[0].n_plugs + world.vms[1].n_plugs, 0);
        world_close(&world);
    }
}

/* One GSI twice in one link: both ends leave. */
static void test_leave_twice(void **state)
{
    const char *producer = "kvm/vm1/pio/1";
    const char *consumers[] = { "kvm/vm1/gsi/7", "kvm/vm1/gsi/7", "kvm/vm1/gsi/8" };
    const struct link_request request = {
        .name = "l",
        .producers = &producer,
        .n_producers = 1,
        .consumers = consumers,
        .n_consumers = 3,
    };
    struct outcome outcome = { 0 };
    struct world world;

    (void)state;
    world_open(&world);
    vm_attach(&world, 1, &root, true);
    assert_int_equal(model_connect(world.model, &root, &request, 1, true, &persistent, on_done, &outcome,
                         &outcome.job, &outcome.fault),
        0);
    run(&world);
    assert_true(outcome.done && outcome.r == 0);
    assert_int_equal(world.vms[1].n_plugs, 4);
    memset(&outcome, 0, sizeof(outcome));
    assert_int_equal(model_leave(world.model, &root, "kvm/vm1/gsi/7", NULL, on_done, &outcome, &outcome.job,
                         &outcome.fault),
        0);
    run(&world);
    assert_true(outcome.done && outcome.r == 0);
    assert_int_equal(get(&world, "l")->n_ends, 2);
    assert_int_equal(world.vms[1].n_plugs, 2);
    world_close(&world);
}

/* Who had a level link's consumer keeps neither eventfd where another user gets it. */
static void test_move_level(void **state)
{
    struct outcome outcome;
    struct world world;
    struct link *link;
    int64_t id, resample;

    (void)state;
    world_open(&world);
    vm_attach(&world, 0, &alice, true);
    vm_attach(&world, 1, &bob, true);
    vm_attach(&world, 2, &root, true);
    connect_as(&world, &root, "l", "kvm/vm2/pio/0x10", "kvm/vm0/gsi/5/level", &outcome);
    run(&world);
    assert_int_equal(outcome.r, 0);
    link = get(&world, "l");
    id = eventfd_id(link->eventfd);
    resample = eventfd_id(link->resample);
    move(&world, "l", "kvm/vm0/gsi/5/level", "kvm/vm1/gsi/5/level", &outcome);
    assert_int_equal(eventfd_id(link->resample), resample); /* while it is plugged */
    run(&world);
    assert_true(outcome.done && outcome.r == 0);
    assert_int_equal(link->state, LINK_LINKED);
    assert_int_not_equal(eventfd_id(link->eventfd), id);
    assert_int_not_equal(eventfd_id(link->resample), resample);
    assert_ptr_equal(link->resample->identity->link, link);
    /* What may have been claimed as e/eoi cannot be replaced. */
    assert_int_equal(hold(&world, &root, "e", &persistent), 0);
    connect_as(&world, &root, "m", "eventfd/e", "kvm/vm0/gsi/6/level", &outcome);
    run(&world);
    assert_int_equal(outcome.r, 0);
    move(&world, "m", "kvm/vm0/gsi/6/level", "kvm/vm1/gsi/6/level", &outcome);
    assert_int_equal(outcome.r, FAULT_BAD_ENDPOINT);
    assert_string_equal(outcome.fault.subject, "kvm/vm1/gsi/6/level");
    assert_int_equal(get(&world, "m")->n_ends, 2);
    assert_null(get(&world, "m")->from);
    move(&world, "m", "kvm/vm0/gsi/6/level", "kvm/vm0/gsi/7/level", &outcome);
    run(&world);
    assert_true(outcome.done && outcome.r == 0);
    world_close(&world);
}

/* What an agent offers has to fit in a reply. */
static void test_offers(void **state)
{
    char texts[300][ENDPOINT_SIZE];
    const char *list[300], *fixed = "kvm/vm1/gsi/5";
    struct fault fault = { 0 };
    struct world world;
    struct job *job;
    size_t n = 0;
    int r = 0;

    (void)state;
    world_open(&world);
    vm_attach(&world, 1, &root, true);
    while (r == 0) {
        for (size_t i = 0; i < 300; i++) {
            (void)snprintf(texts[i], sizeof(texts[i]), "kvm/vm1/dev/d/irq/%zu", n + i);
            list[i] = texts[i];
        }
        r = model_offer(world.model, &root, "a1", list, 300, &fault);
        n += r ? 0 : 300;
    }
    assert_int_equal(r, FAULT_QUOTA_EXCEEDED);
    assert_string_equal(fault.reason, "offers");
    assert_int_equal(fault.number, 4096);
    assert_int_equal(n, 3900);
    assert_int_equal(world.notices[NOTICE_OFFERED], n);
    assert_int_equal(model_offer(world.model, &root, "a1", list, 196, &fault), 0);
    assert_int_equal(model_offer(world.model, &root, "a1", list, 196, &fault), 0); /* again */
    assert_int_equal(model_offer(world.model, &root, "a1", list + 196, 1, &fault), r);
    assert_int_equal(model_withdraw(world.model, &root, "a1", list, 1, NULL, NULL, NULL, &job, &fault), 0);
    assert_int_equal(model_offer(world.model, &root, "a1", list + 196, 1, &fault), 0);
    /* And what it lets go that needs none, in its record. */
    assert_int_equal(model_withdraw(world.model, &root, "a1", &fixed, 1, NULL, NULL, NULL, &job, &fault), r);
    assert_string_equal(fault.reason, "offers");
    assert_int_equal(
        model_withdraw(world.model, &root, "a1", list + 1, 1, NULL, NULL, NULL, &job, &fault), 0);
    assert_int_equal(model_withdraw(world.model, &root, "a1", &fixed, 1, NULL, NULL, NULL, &job, &fault), 0);
    assert_int_equal(model_offer(world.model, &root, "a1", list + 1, 1, &fault), r);
    world_close(&world);
}

/* So have the links that Park and Resume answer with. */
static void test_large_group(void **state)
{
    struct link_request requests[205];
    char producers[205][ENDPOINT_SIZE];
    const char *list[205], *consumer = "kvm/vm1/gsi/1";
    struct outcome outcome;
    struct world world;
    struct link *link;
    size_t n = 0;

    (void)state;
    world_open(&world);
    for (int call = 0; call < 5; call++) {
        for (size_t i = 0; i < 205; i++) {
            (void)snprintf(producers[i], sizeof(producers[i]), "kvm/vm1/pio/%zu", n++);
            list[i] = producers[i];
            requests[i] = (struct link_request){
                .group = "g",
                .producers = &list[i],
                .n_producers = 1,
                .consumers = &consumer,
                .n_consumers = 1,
            };
        }
        memset(&outcome, 0, sizeof(outcome));
        assert_int_equal(model_connect(world.model, &root, requests, 205, true, &persistent, on_done,
                             &outcome, &outcome.job, &outcome.fault),
            0);
        assert_true(outcome.done && outcome.r == 0);
    }
    memset(&outcome, 0, sizeof(outcome));
    assert_int_equal(
        model_park(world.model, &root, NULL, "g", on_done, &outcome, &outcome.job, &outcome.fault),
        FAULT_QUOTA_EXCEEDED);
    assert_string_equal(outcome.fault.reason, "links in one call");
    assert_false(outcome.done);
    RB_FOREACH (link, link_tree, &world.model->links) {
        assert_int_equal(link->goal, GOAL_UP);
        assert_null(link->job);
    }
    /* Those that are parked do not count. */
    park(&world, "link-7", &outcome);
    assert_true(outcome.done);
    memset(&outcome, 0, sizeof(outcome));
    assert_int_equal(
        model_park(world.model, &root, NULL, "g", on_done, &outcome, &outcome.job, &outcome.fault), 0);
    assert_true(outcome.done && outcome.r == 0);
    memset(&outcome, 0, sizeof(outcome));
    assert_int_equal(
        model_resume(world.model, &root, NULL, "g", on_done, &outcome, &outcome.job, &outcome.fault),
        FAULT_QUOTA_EXCEEDED);
    assert_int_equal(
        model_disconnect(world.model, &root, NULL, "g", on_done, &outcome, &outcome.job, &outcome.fault), 0);
    assert_true(outcome.done);
    assert_int_equal(model_count(world.model).links, 0);
    world_close(&world);
}

/* A GSI is shared by links of one trigger, and each user's are apart. */
static void test_shared_gsi(void **state)
{
    static const char *const triggers[] = { "kvm/vm1/gsi/0", "kvm/vm1/gsi/0/level" };
    char producer[ENDPOINT_SIZE];
    struct outcome outcome;
    struct world world;
    struct site *site;
    struct end *end;

    (void)state;
    for (size_t level = 0; level < 2; level++) {
        world_open(&world);
        for (int i = 0; i < 5; i++) {
            (void)snprintf(producer, sizeof(producer), "kvm/vm0/pio/%d", i);
            connect_as(&world, &alice, NULL, producer, triggers[level], &outcome);
            assert_int_equal(outcome.r, 0);
            connect_as(&world, &bob, NULL, producer, triggers[!level], &outcome);
            assert_int_equal(outcome.r, 0);
        }
        /* Neighbours that are no matter. */
        connect_as(&world, &alice, NULL, "kvm/vm1/pio/0", "kvm/vm1/gsi/1", &outcome);
        connect_as(&world, &alice, NULL, "kvm/vm1/pio/1", "kvm/vm1/dev/d/irq/0", &outcome);
        assert_int_equal(outcome.r, 0);
        site = site_find(world.model, SUBSYSTEM_KVM, "vm1");
        RB_FOREACH (end, end_tree, &site->ends)
            assert_null(end_next_collision(end, NULL));
        connect_as(&world, &alice, "x", "kvm/vm0/pio/9", triggers[!level], &outcome);
        assert_int_equal(outcome.r, FAULT_ENDPOINT_BUSY);
        connect_as(&world, &bob, "x", "kvm/vm0/pio/9", triggers[level], &outcome);
        assert_int_equal(outcome.r, FAULT_ENDPOINT_BUSY);
        connect_as(&world, &root, "x", "kvm/vm0/pio/9", triggers[level], &outcome);
        assert_int_equal(outcome.r, 0);
        disconnect(&world, "x", &outcome);
        world_close(&world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_offer_again),
        cmocka_unit_test(test_successor_lost),
        cmocka_unit_test(test_inherited),
        cmocka_unit_test(test_out_of_the_way),
        cmocka_unit_test(test_in_the_way),
        cmocka_unit_test(test_leave_busy),
        cmocka_unit_test(test_holder),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_waiting),
        cmocka_unit_test(test_late),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_detach),
        cmocka_unit_test(test_owners),
        cmocka_unit_test(test_lifetimes),
        cmocka_unit_test(test_pending),
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_busy_for_ever),
        cmocka_unit_test(test_busy_together),
        cmocka_unit_test(test_semaphore),
        cmocka_unit_test(test_move_by_another),
        cmocka_unit_test(test_inventory),
        cmocka_unit_test(test_unplug_again),
        cmocka_unit_test(test_disconnect_busy),
        cmocka_unit_test(test_leave_twice),
        cmocka_unit_test(test_move_level),
        cmocka_unit_test(test_offers),
        cmocka_unit_test(test_large_group),
        cmocka_unit_test(test_shared_gsi),
        cmocka_unit_test(test_intx),
        cmocka_unit_test(test_devices_refused),
        cmocka_unit_test(test_vring),
        cmocka_unit_test(test_random),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
