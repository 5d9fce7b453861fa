/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the rig share: main.c says what it is.
 */
#ifndef TESTS_RIG_H
#define TESTS_RIG_H

#include "../../examples/device.h"
#include "../../examples/guest.h"
#include "lib/evlink.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define NOBODY 65534
#define FOLDER "/run/rig"
#define SOCKET FOLDER "/socket"

/* What is held in evlinkd, and the descriptors that it may have for it. */
#define HELD 200000
#define EVLINKD_FDS 450000

#define TIMES 50
#define ARRIVAL_MS 2000
#define SILENCE_MS 150

/* Guest a's. GSIs from 24 on are MSIs, with vectors from 0x40 on. */
#define INTX_GSI 5
#define OTHER_INTX_GSI 10
#define HAND_GSI 6
#define EDU_GSI 24
#define NIC_GSI 25 /* and the next ones, one for each vector */
#define NIC_VECTORS 5
#define RX_GSI 32
#define TX_GSI 33
#define ERR_GSI 34
#define AER_GSI 35
#define REQUEST_GSI 36
#define NET_RX_GSI 37
#define NET_TX_GSI 38
#define LAST_GSI NET_TX_GSI
#define KICK_PORT 0x540
#define HAND_PORT 0x560     /* what is plugged there stays: to unplug it takes the eventfd */
#define NET_KICK_PORT 0x550 /* takes the number of the ring */

struct rig {
    pid_t supervisor, other_pid;
    int other;
    struct guest *guest;
    struct device *edu, *nic; /* NULL: there is none */
    int vhost, vhost_net;     /* -1: there is none */
    struct evlink_client *client;
    struct evlink_agent *agent, *nic_agent;
    const char *nic_address, *faulty_address;
    const char *monitor; /* a serial line to the emulator's monitor */
    unsigned deaf;       /* how many interrupts on edu's INTx the guest's handler does not serve, still */
    atomic_int stuck;    /* the handler of one such is to wait (1), or waits (2), for 0 */
};

/* ---- What was seen (tap.c) ---- */

__attribute__((format(printf, 2, 3))) bool check(bool ok, const char *format, ...);
void skip(const char *what, const char *why);

/* What everything after it would fail with. */
void need(bool ok, const char *what);

/* The plan and the counts. Returns what to exit with. */
int finish(void);

void silence(void);

/*
 * What was raised one at a time, and what came of it. Each has to arrive. Some arrive twice, since the
 * emulated machine delivers an edge twice at times: no more than the host's own kernel has counted.
 */
struct count {
    unsigned raised, arrived, more;
    uint64_t host;
};

/* How many interrupts of VFIO's the host has had, while their handlers stay the same. */
uint64_t count_host(void);

struct count count_begin(void);
void count_one(struct count *count, uint64_t n);
bool check_count(const struct count *count, const char *what);

/* ---- evlinkd, and what is asked of it (broker.c) ---- */

/* Starts evlinkd --supervise, as another user, with EVLINKD_FDS. Returns the supervisor's pid. */
pid_t start_evlinkd(void);

/* The evlinkd that it supervises; 0: there is none at this moment. */
pid_t evlinkd_pid(pid_t supervisor);

/* Kills evlinkd, and lets its supervisor start it again when the second one is called. */
void kill_evlinkd(pid_t supervisor);
void revive_evlinkd(pid_t supervisor);

/* Kills its supervisor as well, and waits until that is gone, and with it what it kept. */
void end_supervisor(pid_t supervisor);

struct evlink_client *open_client(void);
int link_up(struct evlink_client *client, const char *name, const char *producer, const char *consumer);
__attribute__((format(printf, 3, 4))) int call(
    struct evlink_client *client, const char *method, const char *format, ...);

/* The state of a link, "" where there is none. */
const char *state_of(struct evlink_client *client, const char *name);
bool comes_to(struct evlink_client *client, const char *name, const char *state);

/* How many eventfds this process has. */
int count_eventfds(void);

/* An agent that has a guest by the same name. */
struct evlink_agent *make_agent(const char *name, struct guest *guest);

/* ---- Guests (guests.c) ---- */

/* The VMM with guest b, in a child: serves what ask_other() asks for. */
int run_other(int sock, int vhost_fd);

/* Guest b's interrupts on a GSI, once there are so many, or after a while. */
uint64_t ask_other(int sock, unsigned gsi, uint64_t count);

/*
 * That VMM becomes an upgraded one: gets our devices by SCM_RIGHTS, and attaches an agent "new" that takes
 * over kvm/vmm, which is guest b to it, vfio/vmm-edu and vfio/vmm-nic. What its evlink_ calls returned.
 */
int start_successor(struct rig *rig);
void end_successor(struct rig *rig);

/* Its link is there: rings it TIMES times, and waits for each. */
void check_doorbell(struct rig *rig);

void check_guests(struct rig *rig);

/* ---- Plugged as every VMM does it (by-hand.c) ---- */

/* VFIO_DEVICE_SET_IRQS; KVM_IRQFD of guest a. */
int set_irqs(int fd, unsigned index, unsigned action, unsigned count, int32_t eventfd);
int irqfd(struct rig *rig, unsigned gsi, int fd, int resample_fd);

/*
 * These return the eventfd, for the caller to keep or to close. The first vector of an index
 * (VFIO_PCI_*_IRQ_INDEX) leads to an interrupt of guest a, and so does a ring (request:
 * VHOST_SET_VRING_CALL or _ERR). A doorbell is that value written to HAND_PORT.
 */
int plug_device(struct rig *rig, struct device *device, unsigned index, unsigned gsi);
int plug_ring(struct rig *rig, int vhost, unsigned long request, unsigned ring, unsigned gsi);
int plug_doorbell(struct rig *rig, uint64_t value);

/* ---- edu (edu.c) ---- */

/* The driver in guest a. */
void on_interrupt(void *userdata, unsigned gsi);

/* Raises it TIMES times and waits for each, until one does not come. */
void check_edu(struct rig *rig, unsigned gsi, const char *what);

/* Raises it once, leaves it raised, and returns how many arrived. */
unsigned raise_deaf(struct rig *rig, unsigned gsi);
void calm_edu(struct rig *rig);
void edu_raise(struct device *edu);
void edu_acknowledge(struct device *edu);

void check_by_hand(struct rig *rig);
void check_msi(struct rig *rig);
void check_intx(struct rig *rig);
void check_lives(struct rig *rig);
void check_waiting(struct rig *rig);

/* ---- e1000e (nic.c) ---- */

/* Links vector N to NIC_GSI + N of guest a, as "nicN". */
int nic_link(struct rig *rig, unsigned vector);

/* Raises a vector. */
void nic_trigger(struct rig *rig, unsigned vector);

/* The same, and waits for it if it is expected. Returns how many arrived. */
unsigned nic_raise(struct rig *rig, unsigned vector, bool expected);

/* Opens it, and attaches an agent "nic" of its own, for it can go. False: there is none. */
bool nic_open(struct rig *rig);
void nic_close(struct rig *rig);

void check_nic(struct rig *rig);

/* ---- vhost-vsock (vsock.c) ---- */

/* The rings' links are there: sends packets both ways. */
void check_vsock(struct rig *rig);

/* Leaves "rx", "tx", "kick" and "err" linked, for check_vhost_end(). */
void check_vhost(struct rig *rig);
void check_vhost_end(struct rig *rig);

/* ---- vhost-net (net.c) ---- */

void check_net(struct rig *rig);

/* ---- What happens to links ---- */

void check_restart(struct rig *rig);

/* Nothing is left of evlinkd after that. edu's MSI is linked. */
void check_death(struct rig *rig);
void check_takeover(struct rig *rig);
void check_errors(struct rig *rig);
void check_request(struct rig *rig);
void check_many(struct rig *rig);

#endif
