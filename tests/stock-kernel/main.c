/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Links between real kernel subsystems: a guest's doorbells and interrupts, INTx and MSI of QEMU's edu
 * device, MSI-X of its e1000e, err and req, rings of vhost-vsock and vhost-net; and what becomes of them when
 * evlinkd is killed, or the VMM is replaced. Runs as root in the emulated machine of
 * tests/check-stock-kernel, with evlinkd as another user beside it, supervised and durable, and says in TAP
 * what it saw.
 *
 * Two VMMs: this process has guest a and the devices; a child has guest b, and a descriptor of our vhost
 * device, with which it can do nothing. Edges coalesce: one is raised at a time, and waited for. What must
 * not come is given SILENCE_MS, since the kernel takes plugs down a while after the last close.
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void check_end(struct rig *rig)
{
    struct evlink_status status = { .links = 99 };

    check(link_up(rig->client, "last", "vfio/edu/msi/0", "kvm/a/gsi/24") == 0, "MSI is linked after INTx");
    check_edu(rig, EDU_GSI, "edu MSI once more");
    (void)evlink_status(rig->client, &status);
    check(status.links == 1 && status.eventfds == 0, "nothing else is left in evlinkd: %d links, %d eventfds",
        (int)status.links, (int)status.eventfds);
    check_many(rig);
    check_edu(rig, EDU_GSI, "edu MSI after that");
    check_death(rig);
}

/* In a process of its own, with the device to itself. */
static void check_example(const char *address)
{
    const char *program = getenv("PASSTHROUGH");
    int status = -1;
    pid_t pid;

    if (!program) {
        skip("the example of passthrough", "it is not here");
        return;
    }
    evlink_client_free(open_client()); /* evlinkd is there */
    pid = fork();
    if (pid == 0) {
        (void)execl(program, program, address, SOCKET, (char *)NULL);
        _exit(127);
    }
    (void)waitpid(pid, &status, 0);
    check(status == 0, "the example passes MSI and INTx of the device through");
}

static void set_up(struct rig *rig, const char *edu)
{
    int pair[2], r;

    /* Before the fork: it is this mm that owns it. */
    rig->vhost = open("/dev/vhost-vsock", O_RDWR | O_CLOEXEC);
    rig->vhost_net = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);
    need((rig->vhost < 0 || ioctl(rig->vhost, VHOST_SET_OWNER) == 0) &&
             (rig->vhost_net < 0 || ioctl(rig->vhost_net, VHOST_SET_OWNER) == 0),
        "VHOST_SET_OWNER");
    need(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "a socket pair");
    rig->supervisor = start_evlinkd();
    rig->other_pid = fork();
    need(rig->other_pid >= 0, "fork");
    if (rig->other_pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        exit(run_other(pair[1], rig->vhost));
    }
    close(pair[1]);
    rig->other = pair[0];

    r = guest_new(0, &rig->guest);
    errno = -r;
    need(r == 0, "guest a");
    for (unsigned gsi = EDU_GSI; gsi <= LAST_GSI; gsi++)
        need(guest_route_msi(rig->guest, gsi, 0x40 + gsi - EDU_GSI) == 0, "a route");
    need(guest_set_level(rig->guest, INTX_GSI, true) == 0 &&
             guest_set_level(rig->guest, OTHER_INTX_GSI, true) == 0,
        "level interrupts");
    check_example(edu);
    r = device_open(edu, &rig->edu);
    errno = -r;
    need(r == 0, "the edu device");
    guest_on_interrupt(rig->guest, on_interrupt, rig);
    rig->client = open_client();
}

static void set_up_agent(struct rig *rig)
{
    int r;

    rig->agent = make_agent("a", rig->guest);
    r = evlink_agent_add_vfio(rig->agent, "edu", device_fd(rig->edu), NULL, NULL);
    if (r == 0 && rig->vhost >= 0)
        r = evlink_agent_add_vhost(rig->agent, "vsock", rig->vhost, NULL, NULL);
    if (r == 0 && rig->vhost_net >= 0)
        r = evlink_agent_add_vhost(rig->agent, "net", rig->vhost_net, NULL, NULL);
    if (r == 0)
        r = evlink_agent_attach(rig->agent, rig->client);
    if (r == 0)
        r = evlink_agent_start(rig->agent);
    check(r == 0, "one agent for a guest, a device of VFIO and two of vhost");
    check(nic_open(rig) || !rig->nic_address, "and one for another device of VFIO");
}

int main(int argc, char **argv)
{
    static struct rig rig;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (argc < 2 || argc > 5) {
        fprintf(stderr, "Usage: %s EDU-ADDRESS [E1000E-ADDRESS [FAULTY-ADDRESS MONITOR]]\n", argv[0]);
        return EXIT_FAILURE;
    }
    rig.nic_address = argc > 2 ? argv[2] : NULL;
    rig.faulty_address = argc > 4 ? argv[3] : NULL;
    rig.monitor = argc > 4 ? argv[4] : NULL;
    set_up(&rig, argv[1]);
    check_by_hand(&rig);
    check(evlink_agent_new("x", 0, &rig.agent) == 0 &&
              evlink_agent_add_vfio(rig.agent, "x", fd, NULL, NULL) == -ENOTTY &&
              evlink_agent_add_vfio(rig.agent, "x", rig.vhost, NULL, NULL) < 0 &&
              evlink_agent_add_vhost(rig.agent, "x", device_fd(rig.edu), NULL, NULL) < 0,
        "what is no device of VFIO or vhost is not taken for one");
    rig.agent = evlink_agent_free(rig.agent);
    close(fd);
    set_up_agent(&rig);
    check_guests(&rig);
    check_msi(&rig);
    check_intx(&rig);
    check_lives(&rig);
    check_waiting(&rig);
    check_nic(&rig);
    check_vhost(&rig);
    check_restart(&rig);
    check_vhost_end(&rig);
    check_net(&rig);
    check_takeover(&rig);
    check_errors(&rig);
    check_request(&rig);
    check_end(&rig);
    evlink_agent_free(rig.agent);
    evlink_agent_free(rig.nic_agent);
    evlink_client_free(rig.client);
    guest_free(rig.guest);
    device_free(rig.edu);
    device_free(rig.nic);
    (void)kill(rig.other_pid, SIGKILL);
    return finish();
}
