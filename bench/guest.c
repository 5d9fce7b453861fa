/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Links of guests, beside the ioctls that a VMM makes by itself. */
#include "../examples/guest.h"
#include "bench.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define N_RINGS 200
#define N_PLUGS 50
#define N_VECTORS 512
#define N_MASKS 20

/* Ports and GSIs of the link by evlinkd, and of the one by hand; what is plugged only for a moment. */
#define PORT_OURS 0x510
#define PORT_OTHER 0x520
#define GSI_OURS 10
#define GSI_OTHER 11
#define GSI_PLUG 40
#define GSI_FIRST 100
#define GSI_MASK 30

struct guests {
    struct guest *a, *b;
    struct evlink_agent *agent;
};

static void start_guests(struct guests *guests, struct broker *broker)
{
    must(guest_new(0, &guests->a), "a guest", NULL);
    must(guest_new(0, &guests->b), "a guest", NULL);
    must(evlink_agent_new("bench", 0, &guests->agent), "an agent", NULL);
    must(evlink_agent_add_kvm(guests->agent, "a", guest_vm_fd(guests->a), NULL, NULL), "an agent", NULL);
    must(evlink_agent_add_kvm(guests->agent, "b", guest_vm_fd(guests->b), NULL, NULL), "an agent", NULL);
    must(evlink_agent_attach(guests->agent, broker->client), "Attach", broker->client);
    must(evlink_agent_start(guests->agent), "the agent's thread", NULL);
}

static void link_ends(struct broker *broker, const char *name, const char *producer, const char *consumer)
{
    const char *const producers[] = { producer, NULL }, *const consumers[] = { consumer, NULL };
    const struct evlink_link_spec spec = {
        .name = name, .producers = producers, .consumers = consumers, .no_wait = true
    };

    must(evlink_connect(broker->client, &spec, NULL), "Connect", broker->client);
}

/* evlinkd cleans up within a second, and then does nothing that it is not asked for. */
static void let_rest(void)
{
    (void)usleep(1500000);
}

/* ---- From guest to guest ---- */

static double ring(struct guests *guests, uint16_t port, unsigned gsi)
{
    uint64_t before = guest_interrupts(guests->b, gsi);
    double begun = now();

    for (unsigned i = 1; i <= N_RINGS; i++)
        if (guest_ring_pio(guests->a, port, 2, 1, 1) != 0 ||
            guest_wait(guests->b, gsi, before + i, 1000) != before + i)
            die("a guest did not hear the other");
    return (now() - begun) / N_RINGS * 1e6;
}

static void direct(struct guests *guests, struct broker *broker, struct row *row)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    double cpu;

    link_ends(broker, "direct", "kvm/a/pio/0x510/2", "kvm/b/gsi/10");
    bare_doorbell(guest_vm_fd(guests->a), fd, PORT_OTHER);
    bare_irqfd(guest_vm_fd(guests->b), fd, GSI_OTHER, true);
    let_rest();
    cpu = cpu_of(broker->pid);
    for (int i = 0; i < ROUNDS + 1; i++) {
        double ours = ring(guests, PORT_OURS, GSI_OURS), other = ring(guests, PORT_OTHER, GSI_OTHER);

        if (i > 0) {
            series_add(&row->ours, ours);
            series_add(&row->other, other);
        }
    }
    cpu = cpu_of(broker->pid) - cpu;
    row_note(row, "evlinkd used %.0f us of CPU; 5%% is noise", cpu * 1e6);
    row->failed = cpu > 0;
    bare_irqfd(guest_vm_fd(guests->b), fd, GSI_OTHER, false);
    close(fd);
    must(evlink_disconnect(broker->client, "direct"), "Disconnect", broker->client);
}

/* ---- One plug ---- */

/* As the broker calls: it says the eventfd-id, so that no agent has to look for it. */
#define PLUG_ITEM                                                                          \
    "\"parameters\":{\"items\":[{\"endpoint\":\"kvm/b/gsi/40\",\"fileDescriptorIndex\":0," \
    "\"eventfdId\":1}]}}"

static struct texts one_text(const char *text, size_t length)
{
    struct texts texts = texts_new(1);

    texts_set(&texts, 0, text, length);
    return texts;
}

static void pair_of_sockets(int pair[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        die("no socket pair: %m");
}

/* Answers Attach, whatever it says, with an agent's end of a pair of sockets. userdata: int *, the client's
 * socket; the broker's end of the pair takes its place. */
static void *attach_one(void *userdata)
{
    static const char reply[] = "{\"parameters\":{\"fileDescriptorIndex\":0}}";
    int *end = userdata, pair[2];
    char call[1024];

    if (recv(*end, call, sizeof(call), 0) <= 0)
        die("no Attach: %m");
    pair_of_sockets(pair);
    send_text(*end, reply, sizeof(reply), &pair[1], 1);
    close(*end);
    close(pair[1]);
    *end = pair[0];
    return NULL;
}

/* Attaches an agent whose broker we are: returns the broker's end. */
static int attach_to_us(struct evlink_agent *agent)
{
    struct evlink_client *client;
    pthread_t thread;
    int pair[2];

    pair_of_sockets(pair);
    if (pthread_create(&thread, NULL, attach_one, &pair[1]) != 0)
        die("no thread");
    must(evlink_client_open_fd(pair[0], &client), "a client", NULL);
    must(evlink_agent_attach(agent, client), "Attach", client);
    (void)pthread_join(thread, NULL);
    evlink_client_free(client);
    return pair[1];
}

/* The broker's call of the agent, up to the agent's answer. */
static void plug(struct guests *guests, struct row *row)
{
    struct texts call = one_text("{\"method\":\"io.evlink.Agent.Plug\"," PLUG_ITEM,
                     sizeof("{\"method\":\"io.evlink.Agent.Plug\"," PLUG_ITEM)),
                 undo = one_text("{\"method\":\"io.evlink.Agent.Unplug\"," PLUG_ITEM,
                     sizeof("{\"method\":\"io.evlink.Agent.Unplug\"," PLUG_ITEM)),
                 gsi = texts_bytes(GSI_PLUG, 1);
    int fds[2] = { eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC) }, pair[2], end;
    struct bare_agent bare = { .vm = guest_vm_fd(guests->b) };
    struct evlink_agent *agent;
    pthread_t thread;

    pair_of_sockets(pair);
    bare.socket = pair[1];
    if (pthread_create(&thread, NULL, bare_agent, &bare) != 0)
        die("no thread");
    must(evlink_agent_new("ours", 0, &agent), "an agent", NULL);
    must(evlink_agent_add_kvm(agent, "b", bare.vm, NULL, NULL), "an agent", NULL);
    end = attach_to_us(agent);
    must(evlink_agent_start(agent), "the agent's thread", NULL);
    for (int i = 0; i < N_PLUGS * ROUNDS; i++) {
        series_add(&row->ours, pump(end, &call, &fds[0], 1, 1, 0) * 1e6);
        (void)pump(end, &undo, &fds[0], 1, 1, 0);
        series_add(&row->other, pump(pair[0], &gsi, &fds[1], 1, 1, 1) * 1e6);
        bare_irqfd(bare.vm, fds[1], GSI_PLUG, false);
    }
    close(pair[0]);
    (void)pthread_join(thread, NULL);
    close(pair[1]);
    close(end);
    evlink_agent_free(agent);
    close(fds[0]);
    close(fds[1]);
    texts_clear(&call);
    texts_clear(&undo);
    texts_clear(&gsi);
}

/* All of a Connect: the client's call, the policy, the vault before and after, and the agent's Plug. */
static void connect_one(struct guests *guests, struct broker *broker, struct row *row)
{
    struct texts gsi = texts_bytes(GSI_PLUG, 1);
    int fds[2] = { eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC) }, pair[2];
    struct bare_agent agent = { .vm = guest_vm_fd(guests->b) };
    pthread_t thread;

    pair_of_sockets(pair);
    agent.socket = pair[1];
    if (pthread_create(&thread, NULL, bare_agent, &agent) != 0)
        die("no thread");
    must(evlink_hold(broker->client, "plug", fds[0], EVLINK_PERSISTENT, 0), "Hold", broker->client);
    for (int i = 0; i < N_PLUGS * ROUNDS; i++) {
        double begun = now();

        link_ends(broker, "plug", "eventfd/plug", "kvm/b/gsi/40");
        series_add(&row->ours, (now() - begun) * 1e6);
        must(evlink_disconnect(broker->client, "plug"), "Disconnect", broker->client);
        series_add(&row->other, pump(pair[0], &gsi, &fds[1], 1, 1, 1) * 1e6);
        bare_irqfd(agent.vm, fds[1], GSI_PLUG, false);
    }
    close(pair[0]);
    (void)pthread_join(thread, NULL);
    close(pair[1]);
    must(evlink_release(broker->client, "plug"), "Release", broker->client);
    close(fds[0]);
    close(fds[1]);
    texts_clear(&gsi);
}

/* ---- Many ---- */

struct vectors {
    int fds[N_VECTORS];
    char producers[N_VECTORS][32], consumers[N_VECTORS][32];
    const char *ends[2 * N_VECTORS][2];
    struct evlink_link_spec specs[N_VECTORS];
};

static void hold_vectors(struct vectors *vectors, struct broker *broker, const char *group)
{
    const char *names[N_VECTORS];

    for (size_t i = 0; i < N_VECTORS; i++) {
        vectors->fds[i] = eventfd(0, EFD_CLOEXEC);
        if (vectors->fds[i] < 0)
            die("no eventfd: %m");
        (void)snprintf(vectors->producers[i], 32, "eventfd/vector%zu", i);
        (void)snprintf(vectors->consumers[i], 32, "kvm/b/gsi/%zu", GSI_FIRST + i);
        names[i] = vectors->producers[i] + 8;
        vectors->ends[2 * i][0] = vectors->producers[i];
        vectors->ends[2 * i + 1][0] = vectors->consumers[i];
        vectors->specs[i] = (struct evlink_link_spec){
            .name = names[i],
            .group = group,
            .producers = vectors->ends[2 * i],
            .consumers = vectors->ends[2 * i + 1],
            .no_wait = true,
        };
    }
    for (size_t i = 0; i < N_VECTORS; i += N_VECTORS / 4)
        must(evlink_hold_many(
                 broker->client, names + i, vectors->fds + i, N_VECTORS / 4, EVLINK_PERSISTENT, 0),
            "HoldMany", broker->client);
}

static void many(struct guests *guests, struct broker *broker, struct row *linked, struct row *unlinked)
{
    struct vectors *vectors = calloc(1, sizeof(*vectors));
    int vm = guest_vm_fd(guests->b);

    if (!vectors)
        die("out of memory");
    hold_vectors(vectors, broker, "all");
    for (int i = 0; i < ROUNDS; i++) {
        double begun = now();

        must(evlink_connect_many(broker->client, vectors->specs, N_VECTORS), "ConnectMany", broker->client);
        series_add(&linked->ours, (now() - begun) * 1e3);
        begun = now();
        must(evlink_disconnect_group(broker->client, "all"), "Disconnect", broker->client);
        series_add(&unlinked->ours, (now() - begun) * 1e3);
        begun = now();
        for (unsigned k = 0; k < N_VECTORS; k++)
            bare_irqfd(vm, vectors->fds[k], GSI_FIRST + k, true);
        series_add(&linked->other, (now() - begun) * 1e3);
        begun = now();
        for (unsigned k = 0; k < N_VECTORS; k++)
            bare_irqfd(vm, vectors->fds[k], GSI_FIRST + k, false);
        series_add(&unlinked->other, (now() - begun) * 1e3);
    }
    for (size_t i = 0; i < N_VECTORS; i++) {
        must(evlink_release(broker->client, vectors->producers[i] + 8), "Release", broker->client);
        close(vectors->fds[i]);
    }
    free(vectors);
}

/* ---- Masks ---- */

static void mask(struct broker *broker, struct row *row)
{
    struct evlink_agent *agent;
    struct guest *guest;
    int fd = eventfd(0, EFD_CLOEXEC), vm;
    double cpu;

    must(guest_new(0, &guest), "a guest", NULL);
    vm = guest_vm_fd(guest);
    must(evlink_agent_new("keeper", EVLINK_AGENT_KEEP, &agent), "an agent", NULL);
    must(evlink_agent_add_kvm(agent, "k", vm, NULL, NULL), "an agent", NULL);
    must(evlink_agent_attach(agent, broker->client), "Attach", broker->client);
    must(evlink_agent_start(agent), "the agent's thread", NULL);
    must(evlink_hold_new(broker->client, "mask", false, EVLINK_PERSISTENT, 0), "Hold", broker->client);
    link_ends(broker, "mask", "eventfd/mask", "kvm/k/gsi/30");
    bare_irqfd(vm, fd, GSI_MASK + 1, true);
    let_rest();
    cpu = cpu_of(broker->pid);
    for (int i = 0; i < N_MASKS * ROUNDS; i++) {
        double begun = now();

        must(evlink_agent_mask(agent, "kvm/k/gsi/30"), "mask", NULL);
        must(evlink_agent_unmask(agent, "kvm/k/gsi/30"), "unmask", NULL);
        series_add(&row->ours, (now() - begun) * 1e6);
        begun = now();
        bare_irqfd(vm, fd, GSI_MASK + 1, false);
        bare_irqfd(vm, fd, GSI_MASK + 1, true);
        series_add(&row->other, (now() - begun) * 1e6);
    }
    cpu = cpu_of(broker->pid) - cpu;
    row_note(row, cpu > 0 ? "evlinkd was woken" : "evlinkd was not woken; 5%% is noise");
    row->failed = cpu > 0;
    must(evlink_disconnect(broker->client, "mask"), "Disconnect", broker->client);
    must(evlink_release(broker->client, "mask"), "Release", broker->client);
    evlink_agent_free(agent);
    guest_free(guest);
    close(fd);
}

void bench_guest(void)
{
    struct row *rows[] = {
        row_new("direct link, guest to guest", "the same wired by hand", "us", RATIO_AT_MOST, 1.05),
        row_new("plug through the agent", "ioctl behind a socket round trip", "us", RATIO_AT_MOST, 1.5),
        row_new("Connect to a GSI, all of it", "the same", "us", NO_GOAL, 0),
        row_new("512 vectors, ConnectMany", "ioctls in a loop", "ms", OURS_AT_MOST, 20),
        row_new("512 vectors, Disconnect of a group", "the same", "ms", RATIO_AT_MOST, 1.2),
        row_new("mask and unmask", "two ioctls", "us", RATIO_AT_MOST, 1.05),
    };
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    struct broker broker;
    struct guests guests;

    if (kvm < 0) {
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
            row_skip(rows[i], "cannot open /dev/kvm: %m");
        return;
    }
    close(kvm);
    broker_start(&broker);
    start_guests(&guests, &broker);
    direct(&guests, &broker, rows[0]);
    plug(&guests, rows[1]);
    connect_one(&guests, &broker, rows[2]);
    many(&guests, &broker, rows[3], rows[4]);
    mask(&broker, rows[5]);
    evlink_agent_free(guests.agent);
    guest_free(guests.a);
    guest_free(guests.b);
    broker_stop(&broker);
}
