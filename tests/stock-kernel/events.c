/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What VFIO tells beside interrupts: err, an error that PCI Express has reported, and req, that somebody
 * wants the device back.
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* ---- err ---- */

#define NON_FATAL "COMP_TIME"
#define FATAL "DLP"

/* Whether the emulator's monitor, which speaks QMP, says that to a command. */
static bool ask_monitor(int fd, const char *command, const char *wanted)
{
    struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
    char answer[1024] = "";
    size_t n = 0;

    (void)tcflush(fd, TCIFLUSH);
    if (dprintf(fd, "%s\n", command) < 0)
        return false;
    while (n < sizeof(answer) - 1 && !strstr(answer, wanted) && poll(&poll_fd, 1, ARRIVAL_MS) == 1) {
        ssize_t r = read(fd, answer + n, sizeof(answer) - 1 - n);

        n += r > 0 ? (size_t)r : 0;
        answer[n] = '\0';
    }
    if (!strstr(answer, wanted))
        printf("# the monitor says: %s\n", answer);
    return strstr(answer, wanted) != NULL;
}

static int open_monitor(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    struct termios line;

    need(fd >= 0 && tcgetattr(fd, &line) == 0, path);
    cfmakeraw(&line);
    /* Until here the line has echoed the monitor's greeting to it, some of it: what is no JSON ends that. */
    need(tcsetattr(fd, TCSANOW, &line) == 0 && ask_monitor(fd, "\1", "JSON parse error") &&
             ask_monitor(fd, "{\"execute\": \"qmp_capabilities\"}", "\"return\": {}"),
        path);
    return fd;
}

/* Has the device report an error, and returns how many arrived. */
static unsigned inject(struct rig *rig, int monitor, const char *error, bool expected)
{
    uint64_t before = guest_interrupts(rig->guest, AER_GSI);
    char command[160];

    (void)snprintf(command, sizeof(command),
        "{\"execute\": \"human-monitor-command\", \"arguments\": {\"command-line\": "
        "\"pcie_aer_inject_error faulty %s\"}}",
        error);
    need(ask_monitor(monitor, command, "OK id: faulty"), "an error");
    if (expected)
        (void)guest_wait(rig->guest, AER_GSI, before + 1, ARRIVAL_MS);
    silence();
    return (unsigned)(guest_interrupts(rig->guest, AER_GSI) - before);
}

static void check_errors_by_hand(struct rig *rig, struct device *device, int monitor)
{
    int fd = plug_device(rig, device, VFIO_PCI_ERR_IRQ_INDEX, AER_GSI);
    unsigned n;

    n = inject(rig, monitor, NON_FATAL, true);
    check(n == 1, "by hand, a device's err to irqfd, the eventfd kept: arrived %u", n);
    close(fd);
    silence();
    n = inject(rig, monitor, NON_FATAL, false);
    check(n == 0, "by hand, the eventfd closed, nobody holds it: arrived %u", n);
    need(set_irqs(device_fd(device), VFIO_PCI_ERR_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, 1, -1) == 0,
        "err off");
}

static struct device *open_faulty(const struct rig *rig)
{
    struct device *device = NULL;
    int r = device_open(rig->faulty_address, &device);

    errno = -r;
    need(r == 0, "the device that can report errors");
    return device;
}

static struct evlink_agent *attach_faulty(struct rig *rig, const struct device *device)
{
    struct evlink_agent *agent = NULL;
    int r;

    r = evlink_agent_new("faulty", 0, &agent);
    if (r == 0)
        r = evlink_agent_add_vfio(agent, "faulty", device_fd(device), NULL, NULL);
    if (r == 0)
        r = evlink_agent_attach(agent, rig->client);
    if (r == 0)
        r = evlink_agent_start(agent);
    errno = -r;
    need(r == 0, "an agent for the device that can report errors");
    return agent;
}

static int link_errors(struct rig *rig)
{
    return link_up(rig->client, "aer", "vfio/faulty/err", "kvm/a/gsi/35");
}

void check_errors(struct rig *rig)
{
    struct evlink_agent *agent;
    struct device *device;
    unsigned n, arrived = 0;
    int monitor;

    if (!rig->faulty_address) {
        skip("errors of PCI Express", "there is no device that can report any");
        return;
    }
    device = open_faulty(rig);
    monitor = open_monitor(rig->monitor);
    check_errors_by_hand(rig, device, monitor);
    agent = attach_faulty(rig, device);
    check(link_errors(rig) == 0, "the device's err is linked to a KVM irqfd");
    for (int i = 0; i < 3; i++)
        arrived += inject(rig, monitor, NON_FATAL, true);
    check(arrived == 3, "errors of PCI Express: raised 3, arrived %u", arrived);
    check(evlink_disconnect(rig->client, "aer") == 0, "it is unlinked");
    n = inject(rig, monitor, NON_FATAL, false);
    check(n == 0, "it is silent after that: arrived %u", n);

    /* The kernel resets what is below the root port, in a second: nothing tells when. */
    check(link_errors(rig) == 0, "it is linked once more");
    n = inject(rig, monitor, FATAL, true);
    check(n == 1, "a fatal error: arrived %u", n);
    (void)usleep(ARRIVAL_MS * 1000);
    n = inject(rig, monitor, NON_FATAL, false);
    check(n == 0, "the device was reset, and reports none: arrived %u", n);
    (void)evlink_detach(rig->client, "faulty");
    evlink_agent_free(agent);
    check(comes_to(rig->client, "aer", "waiting"), "its VMM closes the device, and the link waits");
    device_free(device);
    device = open_faulty(rig);
    agent = attach_faulty(rig, device);
    check(comes_to(rig->client, "aer", "linked"), "it opens it anew, and the link is plugged");
    n = inject(rig, monitor, NON_FATAL, true);
    check(n == 1, "an error after that: arrived %u", n);
    check(evlink_disconnect(rig->client, "aer") == 0, "it is unlinked for good");
    (void)evlink_detach(rig->client, "faulty");
    evlink_agent_free(agent);
    device_free(device);
    close(monitor);
}

/* ---- req ---- */

/* Another process takes the device from vfio-pci, which waits until we let go of it. */
static pid_t unbind(const struct rig *rig)
{
    char command[128];
    pid_t pid;

    (void)snprintf(
        command, sizeof(command), "echo %s >/sys/bus/pci/drivers/vfio-pci/unbind", rig->nic_address);
    pid = fork();
    if (pid == 0) {
        /* Our descriptors and mappings of the device go with this. */
        (void)execl("/bin/busybox", "busybox", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    need(pid > 0, "fork");
    return pid;
}

/* We let go: the device goes to whoever wanted it, and comes back. */
static void let_go(struct rig *rig, pid_t pid)
{
    int status = -1;
    FILE *file;

    check(waitpid(pid, &status, WNOHANG) == 0, "it waits until the VMM lets go of the device");
    nic_close(rig);
    check(waitpid(pid, &status, 0) == pid && status == 0, "and gets it");
    file = fopen("/sys/bus/pci/drivers/vfio-pci/bind", "we");
    need(file && fputs(rig->nic_address, file) >= 0 && fclose(file) == 0 && nic_open(rig),
        "the device is back");
}

void check_request(struct rig *rig)
{
    const char *const producers[] = { "vfio/nic/req", NULL };
    const char *const consumers[] = { "eventfd/request", "kvm/a/gsi/36", NULL };
    const struct evlink_link_spec spec = {
        .name = "request", .producers = producers, .consumers = consumers
    };
    uint64_t before = guest_interrupts(rig->guest, REQUEST_GSI), count = 0, now;
    struct pollfd poll_fd = { .fd = -1, .events = POLLIN };
    pid_t pid;

    if (!rig->nic) {
        skip("requests for a device of VFIO", "there is no e1000e");
        return;
    }
    close(plug_device(rig, rig->nic, VFIO_PCI_REQ_IRQ_INDEX, REQUEST_GSI));
    silence();
    pid = unbind(rig);
    silence();
    now = guest_interrupts(rig->guest, REQUEST_GSI);
    check(now == before, "by hand, a request for a device, nobody holds the eventfd: arrived %d",
        (int)(now - before));
    let_go(rig, pid);

    check(evlink_hold_new(rig->client, "request", false, EVLINK_PERSISTENT, 0) == 0 &&
              evlink_claim(rig->client, "request", &poll_fd.fd) == 0 &&
              evlink_connect(rig->client, &spec, NULL) == 0,
        "the device's req is linked to a process and to a KVM irqfd");
    pid = unbind(rig);
    now = guest_wait(rig->guest, REQUEST_GSI, before + 1, ARRIVAL_MS);
    if (poll(&poll_fd, 1, ARRIVAL_MS) == 1)
        (void)!read(poll_fd.fd, &count, sizeof(count));
    check(now == before + 1 && count == 1, "a request for the device: the irqfd had %d, the process %d",
        (int)(now - before), (int)count);
    check(evlink_disconnect(rig->client, "request") == 0 && evlink_release(rig->client, "request") == 0,
        "it is unlinked");
    close(poll_fd.fd);
    let_go(rig, pid);
    check(
        nic_link(rig, 0) == 0 && nic_raise(rig, 0, true) >= 1 && evlink_disconnect(rig->client, "nic0") == 0,
        "the device is as good as new");
}
