/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A network device of guest a's: vhost-net on a tap. What the guest sends goes out of the tap when it rings,
 * what comes into the tap interrupts it.
 */
#include "rig.h"
#include "rings.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/vhost.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define TAP "rig0"
#define OUR_TYPE 0x88b5 /* for local experiments */
#define HEADER sizeof(struct virtio_net_hdr)

struct frame {
    struct ether_header header;
    uint32_t number;
    unsigned char padding[64];
};

static struct rings *rings;
static int tap = -1;
static int host = -1; /* a packet socket: the host's end of the tap */

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        (void)!write(fd, text, strlen(text));
        close(fd);
    }
}

static int make_tap(void)
{
    struct ifreq request = { .ifr_name = TAP, .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    struct timeval patience = { .tv_sec = ARRIVAL_MS / 1000 };
    struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(OUR_TYPE) };

    tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (tap < 0 || ioctl(tap, TUNSETIFF, &request) < 0)
        return -errno;
    /* No packets but ours. */
    write_file("/proc/sys/net/ipv6/conf/" TAP "/disable_ipv6", "1");
    host = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    request.ifr_flags = IFF_UP | IFF_NOARP;
    if (host < 0 || ioctl(host, SIOCSIFFLAGS, &request) < 0 || ioctl(host, SIOCGIFINDEX, &request) < 0)
        return -errno;
    address.sll_ifindex = request.ifr_ifindex;
    return bind(host, (struct sockaddr *)&address, sizeof(address)) < 0 ||
                   setsockopt(host, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0
               ? -errno
               : 0;
}

static int set_backend(struct rig *rig, int fd)
{
    for (unsigned i = 0; i < 2; i++) {
        struct vhost_vring_file file = { .index = i, .fd = fd };

        if (ioctl(rig->vhost_net, VHOST_NET_SET_BACKEND, &file) < 0)
            return -errno;
    }
    return 0;
}

static int start(struct rig *rig)
{
    uint64_t features = 0; /* frames have a virtio_net_hdr in front, and that is all */
    int r;

    r = make_tap();
    if (r == 0 && ioctl(rig->vhost_net, VHOST_SET_FEATURES, &features) < 0)
        r = -errno;
    if (r == 0)
        r = rings_new(rig->vhost_net, &rings);
    return r == 0 ? set_backend(rig, tap) : r;
}

static struct frame make_frame(uint32_t number)
{
    struct frame frame = { .header = { .ether_dhost = { 2, 0, 0, 0, 0, 1 },
                               .ether_shost = { 2, 0, 0, 0, 0, 2 },
                               .ether_type = htons(OUR_TYPE) },
        .number = number };

    return frame;
}

/* The guest sends a frame. Whether the host got it. */
static bool send_out(struct rig *rig, uint32_t number)
{
    struct frame frame = make_frame(number), got = { .number = ~number };

    memset(rings->buffer[RING_TX], 0, HEADER);
    memcpy(rings->buffer[RING_TX] + HEADER, &frame, sizeof(frame));
    rings_put(rings, RING_TX, HEADER + sizeof(frame));
    if (guest_ring_pio(rig->guest, NET_KICK_PORT, 2, RING_TX, 1) != 0)
        return false;
    return recv(host, &got, sizeof(got), 0) == sizeof(got) && memcmp(&got, &frame, sizeof(frame)) == 0;
}

/* The host sends one, for which the guest has made room. Whether it is there after a while. */
static bool send_in(struct rig *rig, uint32_t number)
{
    struct frame frame = make_frame(number);

    memset(rings->buffer[RING_RX], 0, sizeof(rings->buffer[RING_RX]));
    rings_put(rings, RING_RX, sizeof(rings->buffer[RING_RX]));
    if (guest_ring_pio(rig->guest, NET_KICK_PORT, 2, RING_RX, 1) != 0 ||
        send(host, &frame, sizeof(frame), 0) != sizeof(frame))
        return false;
    for (int i = 0; i < ARRIVAL_MS && !rings_used(rings, RING_RX); i++)
        (void)usleep(1000);
    return memcmp(rings->buffer[RING_RX] + HEADER, &frame, sizeof(frame)) == 0;
}

static void check_net_by_hand(struct rig *rig)
{
    uint64_t before = guest_interrupts(rig->guest, NET_RX_GSI);
    unsigned n;
    bool there;

    close(plug_ring(rig, rig->vhost_net, VHOST_SET_VRING_CALL, RING_RX, NET_RX_GSI));
    silence();
    there = send_in(rig, 0);
    silence();
    n = (unsigned)(guest_interrupts(rig->guest, NET_RX_GSI) - before);
    check(there && n == 0, "by hand, the eventfd closed, nobody holds it: a packet came, arrived %u", n);
}

static void check_packets(struct rig *rig)
{
    uint64_t rx = guest_interrupts(rig->guest, NET_RX_GSI), tx = guest_interrupts(rig->guest, NET_TX_GSI);
    unsigned sent = 0, sent_told = 0, received = 0, received_told = 0;

    for (unsigned i = 0; i < TIMES && sent_told == i && received_told == i; i++) {
        sent += send_out(rig, i);
        sent_told += guest_wait(rig->guest, NET_TX_GSI, tx + i + 1, ARRIVAL_MS) == tx + i + 1;
        received += send_in(rig, i);
        received_told += guest_wait(rig->guest, NET_RX_GSI, rx + i + 1, ARRIVAL_MS) == rx + i + 1;
    }
    check(sent == TIMES, "guest's doorbell to vhost-net's kick: rung %d, packets out of the tap %u", TIMES,
        sent);
    check(sent_told == TIMES, "vhost-net's sending call to KVM irqfd: packets %d, arrived %u", TIMES,
        sent_told);
    check(received_told == TIMES && received == TIMES,
        "vhost-net's receiving call to KVM irqfd: packets into the tap %d, arrived %u", TIMES, received_told);
}

void check_net(struct rig *rig)
{
    struct evlink_client *client = rig->client;
    uint64_t before;
    bool there;
    int r;

    r = rig->vhost_net < 0 ? -ENODEV : start(rig);
    if (r < 0) {
        skip("vhost-net", strerror(-r));
        return;
    }
    check(link_up(client, "net-rx-kick", "kvm/a/pio/0x550/2=0", "vhost/net/vring/0/kick") == 0 &&
              link_up(client, "net-tx-kick", "kvm/a/pio/0x550/2=1", "vhost/net/vring/1/kick") == 0,
        "two doorbells of guest a are linked to vhost-net");
    check_net_by_hand(rig);
    check(link_up(client, "net-rx", "vhost/net/vring/0/call", "kvm/a/gsi/37") == 0 &&
              link_up(client, "net-tx", "vhost/net/vring/1/call", "kvm/a/gsi/38") == 0,
        "its calls are linked to guest a");
    silence();
    check_packets(rig);

    check(evlink_disconnect(client, "net-rx") == 0, "the receiving call is unlinked");
    silence();
    before = guest_interrupts(rig->guest, NET_RX_GSI);
    there = send_in(rig, TIMES);
    silence();
    check(there && guest_interrupts(rig->guest, NET_RX_GSI) == before,
        "it is silent after that, though a packet came");
    check(evlink_disconnect(client, "net-tx") == 0 && evlink_disconnect(client, "net-tx-kick") == 0 &&
              evlink_disconnect(client, "net-rx-kick") == 0,
        "the others are unlinked");
    there = send_out(rig, TIMES);
    silence();
    check(!there && guest_ring_pio(rig->guest, NET_KICK_PORT, 2, RING_TX, 1) == 1 &&
              recv(host, &before, sizeof(before), MSG_DONTWAIT) < 0,
        "the doorbell exits to the VMM after that, and no packet goes out");
    (void)set_backend(rig, -1);
    close(tap);
    close(host);
}
