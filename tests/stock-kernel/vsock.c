/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings of vhost-vsock. */
#include "rig.h"
#include "rings.h"

#include <errno.h>
#include <limits.h>
#include <linux/vhost.h>
#include <linux/virtio_vsock.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define GUEST_CID 3

static struct rings *rings;

static int set_running(struct rig *rig, int on)
{
    return ioctl(rig->vhost, VHOST_VSOCK_SET_RUNNING, &on) < 0 ? -errno : 0;
}

static int vsock_start(struct rig *rig)
{
    uint64_t cid = GUEST_CID;
    int r;

    r = rings_new(rig->vhost, &rings);
    if (r == 0 && ioctl(rig->vhost, VHOST_VSOCK_SET_GUEST_CID, &cid) < 0)
        r = -errno;
    return r == 0 ? set_running(rig, 1) : r;
}

/*
 * The host connects to the guest, whose driver refuses: the request comes by the receiving ring's call, the
 * refusal goes by the sending ring's kick, which the guest rings, and is done with by its call.
 */
struct exchanges {
    uint16_t port;
    unsigned patience_ms;
    unsigned rx, tx, refused, exits;
};

static void exchange(struct rig *rig, struct exchanges *tally)
{
    struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = GUEST_CID, .svm_port = 1234 };
    uint64_t rx = guest_interrupts(rig->guest, RX_GSI), tx = guest_interrupts(rig->guest, TX_GSI);
    int sock = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0, exits;
    const struct virtio_vsock_hdr *request = (const void *)rings->buffer[RING_RX];
    struct virtio_vsock_hdr refusal;
    struct pollfd poll_fd = { .fd = sock, .events = POLLOUT };
    socklen_t length = sizeof(error);

    need(sock >= 0, "a vsock");
    rings_put(rings, RING_RX, sizeof(rings->buffer[RING_RX]));
    (void)connect(sock, (struct sockaddr *)&address, sizeof(address));
    tally->rx += (unsigned)(guest_wait(rig->guest, RX_GSI, rx + 1, tally->patience_ms) - rx);
    refusal = (struct virtio_vsock_hdr){
        .src_cid = GUEST_CID,
        .dst_cid = VMADDR_CID_HOST,
        .src_port = 1234,
        .dst_port = request->src_port,
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = VIRTIO_VSOCK_OP_RST,
    };
    memcpy(rings->buffer[RING_TX], &refusal, sizeof(refusal));
    rings_put(rings, RING_TX, sizeof(refusal));
    exits = guest_ring_pio(rig->guest, tally->port, 2, 1, 1);
    tally->exits += exits == 0 ? 0 : 1;
    tally->tx += (unsigned)(guest_wait(rig->guest, TX_GSI, tx + 1, tally->patience_ms) - tx);
    if (poll(&poll_fd, 1, ARRIVAL_MS) == 1 && getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &length) == 0)
        tally->refused += error == ECONNRESET || error == ECONNREFUSED;
    close(sock);
}

void check_vsock(struct rig *rig)
{
    struct exchanges tally = { .port = KICK_PORT, .patience_ms = ARRIVAL_MS };

    for (unsigned i = 0; i < TIMES && tally.tx == i; i++)
        exchange(rig, &tally);
    check(tally.rx == TIMES, "receiving ring's call to KVM irqfd: packets %d, arrived %u", TIMES, tally.rx);
    check(tally.refused == TIMES && tally.exits == 0,
        "KVM ioeventfd to sending ring's kick: rung %d, packets through %u", TIMES, tally.refused);
    check(tally.tx == TIMES, "sending ring's call to KVM irqfd: packets %d, arrived %u", TIMES, tally.tx);
}

/* A kick is the exception: vhost keeps its file, and whatever is plugged at the other end goes on. */
static void check_vsock_by_hand(struct rig *rig)
{
    struct exchanges kept = { .port = HAND_PORT, .patience_ms = ARRIVAL_MS };
    struct exchanges closed = { .port = HAND_PORT, .patience_ms = SILENCE_MS };
    struct vhost_vring_file kick = { .index = RING_TX, .fd = plug_doorbell(rig, 1) };
    int rx = plug_ring(rig, rig->vhost, VHOST_SET_VRING_CALL, RING_RX, RX_GSI);
    int tx = plug_ring(rig, rig->vhost, VHOST_SET_VRING_CALL, RING_TX, TX_GSI);

    need(ioctl(rig->vhost, VHOST_SET_VRING_KICK, &kick) == 0, "a kick by hand");
    silence();
    exchange(rig, &kept);
    check(kept.rx == 1 && kept.tx == 1 && kept.refused == 1 && kept.exits == 0,
        "by hand, both rings' calls and a kick, the eventfds kept: packets through %u, arrived %u and %u",
        kept.refused, kept.rx, kept.tx);
    close(rx);
    close(tx);
    close(kick.fd);
    silence();
    exchange(rig, &closed);
    check(closed.rx == 0 && closed.tx == 0,
        "by hand, the eventfds closed, nobody holds those of the calls: arrived %u and %u", closed.rx,
        closed.tx);
    check(closed.refused == 1 && closed.exits == 0,
        "by hand, the kick closed, vhost itself holds it: packets through %u", closed.refused);
}

static int keep_pending(void *userdata, const char *error, const char *parameters)
{
    const char *pending = error || !parameters ? NULL : strstr(parameters, "\"pending\":");

    if (pending)
        *(unsigned long *)userdata = strtoul(pending + strlen("\"pending\":"), NULL, 10);
    return 0;
}

/* What the counter of a direct link's eventfd shows. */
static unsigned long link_pending(struct evlink_client *client, const char *name)
{
    unsigned long pending = ULONG_MAX;
    char parameters[128];

    (void)snprintf(parameters, sizeof(parameters), "{\"match\":\"%s\",\"details\":true}", name);
    (void)evlink_call(
        client, "io.evlink.Broker.ListLinks", parameters, NULL, 0, true, keep_pending, &pending);
    return pending;
}

void check_vhost(struct rig *rig)
{
    struct evlink_client *client = rig->client;
    struct vhost_vring_file file = { .fd = -1 };
    const char *message;
    unsigned long pending;
    pid_t pid;
    int r, status = 0;

    if (rig->vhost < 0) {
        skip("vhost-vsock", "there is no such device");
        return;
    }
    pid = fork();
    if (pid == 0)
        _exit(ioctl(rig->vhost, VHOST_SET_VRING_CALL, &file) < 0 && errno == EPERM ? 0 : 1);
    check(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0,
        "VHOST_SET_VRING_CALL from another process is EPERM");
    r = link_up(client, "stolen", "vhost/stolen/vring/0/call", "kvm/b/gsi/9");
    message = evlink_client_message(client);
    check(r == EVLINK_E_PLUG_FAILED && strstr(message, "EPERM") && strstr(message, "VHOST_SET_OWNER"),
        "an agent in another process cannot plug, and it says why");

    r = vsock_start(rig);
    if (!check(r == 0, "vhost-vsock runs: %s", strerror(-r)))
        return;
    check_vsock_by_hand(rig);
    need(set_running(rig, 0) == 0, "vhost-vsock stops");
    check(link_up(client, "rx", "vhost/vsock/vring/0/call", "kvm/a/gsi/32") == 0 &&
              link_up(client, "tx", "vhost/vsock/vring/1/call", "kvm/a/gsi/33") == 0 &&
              link_up(client, "kick", "kvm/a/pio/0x540/2=1", "vhost/vsock/vring/1/kick") == 0 &&
              link_up(client, "err", "vhost/vsock/vring/1/err", "kvm/a/gsi/34") == 0,
        "the rings' call, kick and err are linked to guest a");
    r = link_up(client, "none", "vhost/vsock/vring/2/call", "kvm/a/gsi/9");
    check(r == EVLINK_E_PLUG_FAILED && strstr(evlink_client_message(client), "no such ring"),
        "a ring that the device has not is refused");
    need(set_running(rig, 1) == 0, "vhost-vsock runs again");
    silence();
    check_vsock(rig);
    pending = link_pending(client, "kick");
    check(pending == TIMES, "vhost does not read the kick's counter: rung %d, pending %lu", TIMES, pending);
    pending = link_pending(client, "rx");
    check(pending == 0, "KVM empties that of the call: pending %lu", pending);
}

/* Returns how many arrived. */
static unsigned kick_broken(struct rig *rig, unsigned patience_ms)
{
    uint64_t before = guest_interrupts(rig->guest, ERR_GSI);

    (void)guest_ring_pio(rig->guest, KICK_PORT, 2, 1, 1);
    return (unsigned)(guest_wait(rig->guest, ERR_GSI, before + 1, patience_ms) - before);
}

void check_vhost_end(struct rig *rig)
{
    struct evlink_client *client = rig->client;
    uint64_t before;
    unsigned n;
    int fd;

    if (rig->vhost < 0)
        return;
    check(evlink_disconnect(client, "tx") == 0, "the sending ring's call is unlinked");
    silence();
    before = guest_interrupts(rig->guest, TX_GSI);
    rings_put(rings, RING_RX, sizeof(rings->buffer[RING_RX]));
    rings_put(rings, RING_TX, sizeof(struct virtio_vsock_hdr));
    (void)guest_ring_pio(rig->guest, KICK_PORT, 2, 1, 1);
    silence();
    check(guest_interrupts(rig->guest, TX_GSI) == before && rings_used(rings, RING_TX),
        "it is silent after that, though the packet was sent");

    /* An entry that the ring has not. It stays there, and is told of at each kick. */
    rings_put(rings, RING_TX, sizeof(struct virtio_vsock_hdr));
    rings->ring[RING_TX].avail.ring[(rings->ring[RING_TX].avail.idx - 1) % RING_SIZE] = RING_SIZE;
    n = kick_broken(rig, ARRIVAL_MS);
    check(n >= 1, "the ring's err to KVM irqfd, for a broken ring: arrived %u", n);
    check(evlink_disconnect(client, "err") == 0, "it is unlinked");
    fd = plug_ring(rig, rig->vhost, VHOST_SET_VRING_ERR, RING_TX, ERR_GSI);
    n = kick_broken(rig, ARRIVAL_MS);
    check(n >= 1, "by hand, the ring's err to irqfd, the eventfd kept: arrived %u", n);
    close(fd);
    silence();
    n = kick_broken(rig, SILENCE_MS);
    check(n == 0, "by hand, the eventfd closed, nobody holds it: arrived %u", n);

    check(evlink_disconnect(client, "kick") == 0, "the kick is unlinked");
    check(guest_ring_pio(rig->guest, KICK_PORT, 2, 1, 1) == 1, "the doorbell exits to the VMM after that");
    (void)evlink_disconnect(client, "rx");
}
