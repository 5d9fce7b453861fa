/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Links between real kernel subsystems: a guest's doorbells and interrupts, INTx and MSI of QEMU's edu
 * device, MSI-X of its e1000e, rings of vhost-vsock. Runs as root in the emulated machine of
 * tests/check-stock-kernel, with evlinkd as another user beside it, and says in TAP what it saw.
 *
 * Two VMMs: this process has guest a and the devices; a child has guest b, and a descriptor of our vhost
 * device, with which it can do nothing. Edges coalesce: one is raised at a time, and waited for. What must
 * not come is given SILENCE_MS, since the kernel takes plugs down a while after the last close.
 */
#include "../examples/device.h"
#include "../examples/guest.h"
#include "lib/evlink.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_vsock.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534
#define FOLDER "/run/rig"
#define SOCKET FOLDER "/socket"

#define TIMES 50
#define ARRIVAL_MS 2000
#define SILENCE_MS 150

/* Guest a's. GSIs from 24 on are MSIs, with vectors from 0x40 on. */
#define INTX_GSI 5
#define OTHER_INTX_GSI 10
#define EDU_GSI 24
#define NIC_GSI 25 /* and the next ones, one for each vector */
#define NIC_VECTORS 5
#define RX_GSI 32
#define TX_GSI 33
#define ERR_GSI 34
#define LAST_GSI ERR_GSI
#define KICK_PORT 0x540

/* ---- TAP ---- */

static unsigned n_checks, n_failed, n_skipped;

__attribute__((format(printf, 2, 3))) static bool check(bool ok, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    printf("%sok %u - ", ok ? "" : "not ", ++n_checks);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
    fflush(stdout);
    n_failed += !ok;
    return ok;
}

static void skip(const char *what, const char *why)
{
    printf("ok %u - %s # SKIP %s\n", ++n_checks, what, why);
    fflush(stdout);
    n_skipped++;
}

/* What everything after it would fail with. */
static void need(bool ok, const char *what)
{
    if (ok)
        return;
    check(false, "%s: %s", what, strerror(errno));
    printf("Bail out!\n%u passed, %u failed, %u skipped\n", n_checks - n_failed - n_skipped, n_failed,
        n_skipped);
    fflush(stdout);
    exit(EXIT_FAILURE);
}

static void silence(void)
{
    (void)usleep(SILENCE_MS * 1000);
}

/*
 * What was raised one at a time, and what came of it. Each has to arrive. Some arrive twice, since the
 * emulated machine delivers an edge twice at times: no more than the host's own kernel has counted.
 */
struct count {
    unsigned raised, arrived, more;
    uint64_t host;
};

/* How many interrupts of VFIO's the host has had, while their handlers stay the same. */
static uint64_t count_host(void)
{
    uint64_t sum = 0, n;
    char line[256];
    FILE *file = fopen("/proc/interrupts", "re");

    while (file && fgets(line, sizeof(line), file))
        if (strstr(line, "vfio-") && sscanf(line, " %*u: %" SCNu64, &n) == 1)
            sum += n;
    if (file)
        fclose(file);
    return sum;
}

static struct count count_begin(void)
{
    return (struct count){ .host = count_host() };
}

static void count_one(struct count *count, uint64_t n)
{
    count->raised++;
    count->arrived += n > 0;
    count->more += n > 1 ? (unsigned)n - 1 : 0;
}

static bool check_count(const struct count *count, const char *what)
{
    uint64_t host = count_host() - count->host;
    bool ok = count->arrived == count->raised && (count->more == 0 || count->raised + count->more <= host);

    if (count->more > 0)
        printf("# %u came twice, and the host's kernel had %" PRIu64 "\n", count->more, host);
    return check(ok, "%s: raised %u, arrived %u", what, count->raised, count->arrived);
}

/* ---- evlinkd ---- */

static pid_t start_evlinkd(void)
{
    const char *program = getenv("EVLINKD");
    pid_t pid;

    need(program && mkdir(FOLDER, 0755) == 0 && chown(FOLDER, NOBODY, NOBODY) == 0, FOLDER);
    pid = fork();
    need(pid >= 0, "fork");
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0)
            (void)execl(program, program, "--socket", SOCKET, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static struct evlink_client *open_client(void)
{
    struct evlink_client *client = NULL;
    int r = -ENOENT;

    for (int i = 0; i < 200 && r != 0; i++) {
        r = evlink_client_open(SOCKET, &client);
        if (r != 0)
            (void)usleep(20000);
    }
    errno = -r;
    need(r == 0, "evlinkd listens");
    return client;
}

static int link_up(struct evlink_client *client, const char *name, const char *producer, const char *consumer)
{
    const char *const producers[] = { producer, NULL }, *const consumers[] = { consumer, NULL };
    const struct evlink_link_spec spec = { .name = name, .producers = producers, .consumers = consumers };
    int r = evlink_connect(client, &spec, NULL);

    if (r != 0)
        printf("# %s: %s\n", name, evlink_client_message(client));
    return r;
}

__attribute__((format(printf, 3, 4))) static int call(
    struct evlink_client *client, const char *method, const char *format, ...)
{
    char name[64], parameters[256];
    va_list arguments;
    int r;

    va_start(arguments, format);
    (void)vsnprintf(parameters, sizeof(parameters), format, arguments);
    va_end(arguments);
    (void)snprintf(name, sizeof(name), "io.evlink.Broker.%s", method);
    r = evlink_call(client, name, parameters, NULL, 0, false, NULL, NULL);
    if (r != 0)
        printf("# %s %s: %s\n", method, parameters, evlink_client_message(client));
    return r;
}

static int keep_state(void *userdata, const struct evlink_link_info *info)
{
    (void)snprintf(userdata, 32, "%s", info->state);
    return 0;
}

/* The state of a link, "" where there is none. */
static const char *state_of(struct evlink_client *client, const char *name)
{
    static char state[32];

    state[0] = '\0';
    (void)evlink_list_links(client, name, NULL, keep_state, state);
    return state;
}

static bool comes_to(struct evlink_client *client, const char *name, const char *state)
{
    for (int i = 0; i < 200; i++) {
        if (strcmp(state_of(client, name), state) == 0)
            return true;
        (void)usleep(10000);
    }
    return false;
}

/* How many eventfds this process has. */
static int count_eventfds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    struct dirent *entry;
    int n = 0;

    while (folder && (entry = readdir(folder))) {
        char target[32] = "";

        (void)!readlinkat(dirfd(folder), entry->d_name, target, sizeof(target) - 1);
        n += strcmp(target, "anon_inode:[eventfd]") == 0;
    }
    if (folder)
        closedir(folder);
    return n;
}

/* ---- The VMM with guest b, in a child ---- */

struct order {
    unsigned gsi;
    uint64_t count;
};

static struct evlink_agent *make_agent(const char *name, struct guest *guest)
{
    struct evlink_agent *agent = NULL;
    int r;

    r = evlink_agent_new(name, 0, &agent);
    if (r == 0)
        r = evlink_agent_add_kvm(agent, name, guest_vm_fd(guest), NULL, NULL);
    errno = -r;
    need(r == 0, "an agent");
    return agent;
}

/* Answers each order with the count that it waited for. */
static int run_other(int sock, int vhost_fd)
{
    struct evlink_client *client = open_client();
    struct evlink_agent *agent;
    struct guest *guest;
    struct order order;

    need(guest_new(0, &guest) == 0, "guest b");
    agent = make_agent("b", guest);
    /* Our mm is not the owner's: the ioctls that tell are those that plug. */
    need(evlink_agent_add_vhost(agent, "stolen", vhost_fd, NULL, NULL) == 0, "vhost/stolen");
    need(evlink_agent_attach(agent, client) == 0 && evlink_agent_start(agent) == 0, "agent b");
    while (recv(sock, &order, sizeof(order), 0) == sizeof(order)) {
        order.count = guest_wait(guest, order.gsi, order.count, ARRIVAL_MS);
        if (send(sock, &order, sizeof(order), MSG_NOSIGNAL) != sizeof(order))
            break;
    }
    _exit(0);
}

static uint64_t ask_other(int sock, unsigned gsi, uint64_t count)
{
    struct order order = { gsi, count };

    need(send(sock, &order, sizeof(order), MSG_NOSIGNAL) == sizeof(order) &&
             recv(sock, &order, sizeof(order), 0) == sizeof(order),
        "the other VMM answers");
    return order.count;
}

/* ---- All that there is ---- */

struct rig {
    pid_t evlinkd, other_pid;
    int other;
    struct guest *guest;
    struct device *edu, *nic; /* NULL: there is none */
    int vhost;
    struct evlink_client *client;
    struct evlink_agent *agent;
    unsigned deaf;    /* how many interrupts on edu's INTx the guest's handler does not serve, still */
    atomic_int stuck; /* the handler of one such is to wait (1), or waits (2), for 0 */
};

/* ---- edu ---- */

#define EDU_STATUS 0x24
#define EDU_RAISE 0x60
#define EDU_ACKNOWLEDGE 0x64

static void on_interrupt(void *userdata, unsigned gsi)
{
    struct rig *rig = userdata;

    if (gsi != INTX_GSI && gsi != OTHER_INTX_GSI)
        return;
    if (atomic_load(&rig->stuck)) {
        atomic_store(&rig->stuck, 2);
        while (atomic_load(&rig->stuck))
            (void)usleep(1000);
    } else if (rig->deaf > 0)
        rig->deaf--;
    else
        device_write(rig->edu, EDU_ACKNOWLEDGE, ~0u);
}

/* Raises it TIMES times and waits for each. */
static void check_edu(struct rig *rig, unsigned gsi, const char *what)
{
    struct count count = count_begin();
    uint64_t last = guest_interrupts(rig->guest, gsi), now;

    for (unsigned i = 0; i < TIMES; i++, last = now) {
        device_write(rig->edu, EDU_RAISE, 1);
        now = guest_wait(rig->guest, gsi, last + 1, ARRIVAL_MS);
        device_write(rig->edu, EDU_ACKNOWLEDGE, ~0u);
        count_one(&count, now - last);
    }
    (void)check_count(&count, what);
}

/* Raises it once, leaves it raised, and returns how many arrived. */
static unsigned raise_deaf(struct rig *rig, unsigned gsi)
{
    uint64_t before = guest_interrupts(rig->guest, gsi);

    device_write(rig->edu, EDU_RAISE, 1);
    silence();
    return (unsigned)(guest_interrupts(rig->guest, gsi) - before);
}

static void calm_edu(struct rig *rig)
{
    device_write(rig->edu, EDU_ACKNOWLEDGE, ~0u);
}

static int set_irqs(int fd, unsigned index, unsigned action, unsigned count, int32_t eventfd)
{
    union {
        struct vfio_irq_set set;
        unsigned char bytes[sizeof(struct vfio_irq_set) + sizeof(eventfd)];
    } irqs = { .set = { .argsz = sizeof(irqs),
                   .flags = action | (count ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE),
                   .index = index,
                   .count = count } };

    memcpy(irqs.bytes + offsetof(struct vfio_irq_set, data), &eventfd, sizeof(eventfd));
    return ioctl(fd, VFIO_DEVICE_SET_IRQS, &irqs);
}

static int irqfd(struct rig *rig, unsigned gsi, int fd, int resample_fd)
{
    struct kvm_irqfd irqfd = {
        .fd = (unsigned)fd,
        .gsi = gsi,
        .flags = resample_fd >= 0 ? KVM_IRQFD_FLAG_RESAMPLE : 0,
        .resamplefd = resample_fd >= 0 ? (unsigned)resample_fd : 0,
    };

    return ioctl(guest_vm_fd(rig->guest), KVM_IRQFD, &irqfd);
}

/* As every VMM does it: well while it keeps the eventfds, silent when it does not. */
static void check_by_hand(struct rig *rig)
{
    int fd = eventfd(0, EFD_CLOEXEC), resample = eventfd(0, EFD_CLOEXEC), vfio = device_fd(rig->edu);
    unsigned n;

    need(irqfd(rig, EDU_GSI, fd, -1) == 0 &&
             set_irqs(vfio, VFIO_PCI_MSI_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, 1, fd) == 0,
        "MSI by hand");
    check_edu(rig, EDU_GSI, "by hand, MSI to irqfd, the eventfd kept");
    close(fd);
    silence();
    n = raise_deaf(rig, EDU_GSI);
    check(n == 0, "by hand, the eventfd closed, nobody holds it: arrived %u", n);
    calm_edu(rig);
    need(set_irqs(vfio, VFIO_PCI_MSI_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, 0, -1) == 0, "MSI off");

    fd = eventfd(0, EFD_CLOEXEC);
    need(irqfd(rig, INTX_GSI, fd, resample) == 0 &&
             set_irqs(vfio, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, 1, fd) == 0 &&
             set_irqs(vfio, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK, 1, resample) == 0,
        "INTx by hand");
    check_edu(rig, INTX_GSI, "by hand, INTx to level irqfd, both eventfds kept");
    close(fd);
    close(resample);
    silence();
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0, "by hand, both eventfds closed, nobody holds them: arrived %u", n);
    calm_edu(rig);
    need(set_irqs(vfio, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER, 0, -1) == 0, "INTx off");
}

static void check_msi(struct rig *rig)
{
    int eventfds = count_eventfds(), r;
    const char *message;
    unsigned n;

    r = link_up(rig->client, "msi", "vfio/edu/msi/0", "kvm/a/gsi/24");
    check(r == 0, "edu MSI is linked to a KVM irqfd");
    silence();
    check_edu(rig, EDU_GSI, "edu MSI to KVM irqfd");
    check(count_eventfds() == eventfds, "the VMM keeps no eventfd of it");

    r = link_up(rig->client, "intx", "vfio/edu/intx", "kvm/a/gsi/5/level");
    message = evlink_client_message(rig->client);
    check(r == EVLINK_E_PLUG_FAILED && strstr(message, "EBUSY") &&
              strstr(message, "another of INTx, MSI and MSI-X"),
        "INTx is refused while MSI is in use, and it says why");
    r = link_up(rig->client, "msi9", "vfio/edu/msi/9", "kvm/a/gsi/25");
    check(r == EVLINK_E_PLUG_FAILED && strstr(evlink_client_message(rig->client), "no such interrupt"),
        "a vector that the device has not is refused");
    check_edu(rig, EDU_GSI, "MSI is as it was after both");

    check(evlink_disconnect(rig->client, "msi") == 0, "MSI is unlinked");
    silence();
    n = raise_deaf(rig, EDU_GSI);
    check(n == 0, "MSI is silent after that: arrived %u", n);
    calm_edu(rig);
}

static void check_intx(struct rig *rig)
{
    int eventfds = count_eventfds(), r;
    uint64_t before;
    unsigned n;

    r = link_up(rig->client, "intx", "vfio/edu/intx", "kvm/a/gsi/5");
    check(r == EVLINK_E_BAD_ENDPOINT, "INTx to an edge-triggered interrupt is refused");
    r = link_up(rig->client, "intx", "vfio/edu/intx", "kvm/a/gsi/5/level");
    check(r == 0, "edu INTx is linked to a KVM level irqfd, after MSI");
    silence();
    check_edu(rig, INTX_GSI, "edu INTx to KVM level irqfd, unmasked by the EOI");
    check(count_eventfds() == eventfds, "the VMM keeps neither of both eventfds");

    /* The driver serves it the fourth time only: each EOI before brings it back. */
    before = guest_interrupts(rig->guest, INTX_GSI);
    rig->deaf = 3;
    device_write(rig->edu, EDU_RAISE, 1);
    n = (unsigned)(guest_wait(rig->guest, INTX_GSI, before + 4, ARRIVAL_MS) - before);
    silence();
    check(n == 4 && guest_interrupts(rig->guest, INTX_GSI) == before + 4,
        "raised once and served at the fourth EOI: arrived %" PRIu64,
        guest_interrupts(rig->guest, INTX_GSI) - before);
    check(device_read(rig->edu, EDU_STATUS) == 0, "and the device is at rest then");
}

/* INTx is linked, and stays so but for the end. */
static void check_lives(struct rig *rig)
{
    struct evlink_client *client = rig->client;
    uint64_t before;
    unsigned n;

    check(call(client, "Park", "{\"name\": \"intx\"}") == 0 && comes_to(client, "intx", "parked"),
        "INTx parks");
    before = guest_interrupts(rig->guest, INTX_GSI);
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0, "parked: raised 1, arrived %u", n);
    check(call(client, "Resume", "{\"name\": \"intx\"}") == 0, "INTx resumes");
    /* It is unmasked as well, which may bring it a second time before the guest has served it. */
    n = (unsigned)(guest_wait(rig->guest, INTX_GSI, before + 1, ARRIVAL_MS) - before);
    check(n == 1 || n == 2, "resumed: what was raised meanwhile arrived, times %u", n);
    silence();
    check_edu(rig, INTX_GSI, "after that");

    check(call(client, "Move",
              "{\"name\": \"intx\", \"from\": \"kvm/a/gsi/5/level\", \"to\": \"kvm/a/gsi/10/level\"}") == 0,
        "INTx moves to GSI 10");
    silence();
    before = guest_interrupts(rig->guest, INTX_GSI);
    check_edu(rig, OTHER_INTX_GSI, "moved");
    check(guest_interrupts(rig->guest, INTX_GSI) == before, "and none at GSI 5");

    /* The handler leaves it raised once, and the end moves between the EOI and whatever comes of it. */
    before = guest_interrupts(rig->guest, INTX_GSI);
    check(call(client, "Park", "{\"name\": \"intx\"}") == 0, "INTx parks again");
    device_write(rig->edu, EDU_RAISE, 1);
    check(call(client, "Move",
              "{\"name\": \"intx\", \"from\": \"kvm/a/gsi/10/level\", \"to\": \"kvm/a/gsi/5/level\"}") == 0 &&
              call(client, "Resume", "{\"name\": \"intx\"}") == 0,
        "it moves back while parked and raised, and resumes");
    n = (unsigned)(guest_wait(rig->guest, INTX_GSI, before + 1, ARRIVAL_MS) - before);
    check(n >= 1, "what was raised arrived at GSI 5: %u", n);

    check(call(client, "Leave", "{\"endpoint\": \"kvm/a/gsi/5/level\"}") == 0, "the guest leaves");
    check(strcmp(state_of(client, "intx"), "") == 0, "and the link is gone");
    silence();
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0, "left: raised 1, arrived %u", n);
    calm_edu(rig);
}

/* Guest a once more, by another name, for a while. */
static struct evlink_agent *come_late(struct rig *rig)
{
    struct evlink_agent *agent = make_agent("late", rig->guest);
    int r;

    r = evlink_agent_attach(agent, rig->client);
    if (r == 0)
        r = evlink_agent_start(agent);
    check(r == 0 && comes_to(rig->client, "early", "linked"), "its agent comes, and the link is plugged");
    return agent;
}

static void check_waiting(struct rig *rig)
{
    struct evlink_client *client = rig->client;
    struct evlink_agent *agent;
    uint64_t before;
    unsigned n;

    /* The consumer is not there yet; the device is, and raises. */
    before = guest_interrupts(rig->guest, INTX_GSI);
    check(link_up(client, "early", "vfio/edu/intx", "kvm/late/gsi/5/level") == 0 &&
              comes_to(client, "early", "waiting"),
        "INTx to a guest that is not there yet: the link waits");
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0, "waiting: raised 1, arrived %u", n);
    agent = come_late(rig);
    n = (unsigned)(guest_wait(rig->guest, INTX_GSI, before + 1, ARRIVAL_MS) - before);
    check(n >= 1, "what was raised before arrived: %u", n);
    check_edu(rig, INTX_GSI, "after that");

    /* It goes before its handler has served the device: there is no EOI, and INTx stays masked. */
    atomic_store(&rig->stuck, 1);
    device_write(rig->edu, EDU_RAISE, 1);
    for (int i = 0; i < ARRIVAL_MS && atomic_load(&rig->stuck) != 2; i++)
        (void)usleep(1000);
    before = guest_interrupts(rig->guest, INTX_GSI) + 1;
    check(atomic_load(&rig->stuck) == 2 && evlink_detach(client, "late") == 0 &&
              comes_to(client, "early", "waiting"),
        "the guest's agent detaches before the EOI, and the link waits");
    evlink_agent_free(agent);
    atomic_store(&rig->stuck, 0);
    silence();
    check(
        guest_interrupts(rig->guest, INTX_GSI) == before, "it is silent, though the device is raised still");
    agent = come_late(rig);
    n = (unsigned)(guest_wait(rig->guest, INTX_GSI, before + 1, ARRIVAL_MS) - before);
    check(n >= 1, "it is unmasked then, and arrived: %u", n);
    check_edu(rig, INTX_GSI, "after that");
    check(evlink_detach(client, "late") == 0 && evlink_disconnect(client, "early") == 0,
        "it goes for good, and the link as well");
    evlink_agent_free(agent);
    n = raise_deaf(rig, INTX_GSI);
    check(n == 0, "gone: raised 1, arrived %u", n);
    calm_edu(rig);
}

/* ---- e1000e ---- */

#define NIC_CTRL_EXT 0x18
#define NIC_ICS 0xc8
#define NIC_IMS 0xd0
#define NIC_IMC 0xd8
#define NIC_EIAC 0xdc
#define NIC_IVAR 0xe4
#define NIC_CAUSE(vector) (1u << (20 + (vector)))

static void nic_start(struct rig *rig)
{
    /* Each cause its own vector, and each vector takes its cause back. */
    device_write(rig->nic, NIC_IMC, ~0u);
    device_write(rig->nic, NIC_IVAR, 0x8u | 0x9u << 4 | 0xau << 8 | 0xbu << 12 | 0xcu << 16);
    device_write(rig->nic, NIC_EIAC, 0x1fu << 20);
}

/* Raises a vector, and waits for it if it is expected. Returns how many arrived. */
static unsigned nic_raise(struct rig *rig, unsigned vector, bool expected)
{
    unsigned gsi = NIC_GSI + vector;
    uint64_t before = guest_interrupts(rig->guest, gsi);

    device_write(rig->nic, NIC_IMS, NIC_CAUSE(vector));
    device_write(rig->nic, NIC_ICS, NIC_CAUSE(vector));
    if (expected)
        return (unsigned)(guest_wait(rig->guest, gsi, before + 1, ARRIVAL_MS) - before);
    silence();
    return (unsigned)(guest_interrupts(rig->guest, gsi) - before);
}

static int nic_link(struct rig *rig, unsigned vector)
{
    char name[16], producer[32], consumer[32];

    (void)snprintf(name, sizeof(name), "nic%u", vector);
    (void)snprintf(producer, sizeof(producer), "vfio/nic/msix/%u", vector);
    (void)snprintf(consumer, sizeof(consumer), "kvm/a/gsi/%u", NIC_GSI + vector);
    return link_up(rig->client, name, producer, consumer);
}

static int nic_link_all(struct rig *rig)
{
    char texts[NIC_VECTORS][3][32];
    const char *ends[NIC_VECTORS][2][2];
    struct evlink_link_spec specs[NIC_VECTORS];

    memset(specs, 0, sizeof(specs));
    for (unsigned i = 0; i < NIC_VECTORS; i++) {
        (void)snprintf(texts[i][0], sizeof(texts[i][0]), "nic%u", i);
        (void)snprintf(texts[i][1], sizeof(texts[i][1]), "vfio/nic/msix/%u", i);
        (void)snprintf(texts[i][2], sizeof(texts[i][2]), "kvm/a/gsi/%u", NIC_GSI + i);
        for (int k = 0; k < 2; k++) {
            ends[i][k][0] = texts[i][1 + k];
            ends[i][k][1] = NULL;
        }
        specs[i].name = texts[i][0];
        specs[i].group = "nic";
        specs[i].producers = ends[i][0];
        specs[i].consumers = ends[i][1];
    }
    return evlink_connect_many(rig->client, specs, NIC_VECTORS);
}

static void check_nic(struct rig *rig)
{
    struct count count = count_begin();
    char name[16];

    if (!rig->nic) {
        skip("e1000e MSI-X", "there is no such device");
        return;
    }
    nic_start(rig);
    /* One more at a time; those before go on. */
    for (unsigned vector = 0; vector < NIC_VECTORS; vector++) {
        check(nic_link(rig, vector) == 0, "e1000e MSI-X vector %u is linked", vector);
        for (unsigned i = 0; i <= vector; i++)
            count_one(&count, nic_raise(rig, i, true));
    }
    (void)check_count(&count, "vectors added one at a time");
    /* And one less. */
    count = count_begin();
    for (unsigned vector = 0; vector < NIC_VECTORS; vector++) {
        unsigned n;

        (void)snprintf(name, sizeof(name), "nic%u", vector);
        (void)evlink_disconnect(rig->client, name);
        silence();
        n = nic_raise(rig, vector, false);
        check(n == 0, "vector %u is unlinked: raised 1, arrived %u", vector, n);
        for (unsigned i = vector + 1; i < NIC_VECTORS; i++)
            count_one(&count, nic_raise(rig, i, true));
    }
    count.more = 0; /* the counts of those that were taken are gone with them */
    (void)check_count(&count, "vectors taken one at a time, the others");

    check(nic_link_all(rig) == 0, "all %d vectors in one call", NIC_VECTORS);
    count = count_begin();
    for (unsigned i = 0; i < TIMES; i++)
        count_one(&count, nic_raise(rig, i % NIC_VECTORS, true));
    (void)check_count(&count, "e1000e MSI-X to KVM irqfds");
    check(evlink_disconnect_group(rig->client, "nic") == 0, "and all are unlinked in one");
}

/* ---- vhost-vsock ---- */

#define GUEST_CID 3
#define RING_SIZE 8

/* What a driver in guest a would have in its memory; here it is ours, at the same addresses. */
struct rings {
    struct {
        struct vring_desc desc[RING_SIZE];
        struct {
            uint16_t flags, idx, ring[RING_SIZE];
        } avail __attribute__((aligned(64)));
        struct {
            uint16_t flags, idx;
            struct vring_used_elem ring[RING_SIZE];
        } used __attribute__((aligned(64)));
    } ring[2] __attribute__((aligned(4096)));
    unsigned char rx[4096];
    struct virtio_vsock_hdr tx;
};

static struct rings *rings;

static int vsock_start(struct rig *rig)
{
    struct vhost_memory_region region = { .memory_size = sizeof(*rings) };
    union {
        struct vhost_memory memory;
        unsigned char bytes[sizeof(struct vhost_memory) + sizeof(region)];
    } table = { .memory = { .nregions = 1 } };
    uint64_t cid = GUEST_CID;
    int on = 1;

    rings = mmap(NULL, sizeof(*rings), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (rings == MAP_FAILED)
        return -errno;
    region.guest_phys_addr = region.userspace_addr = (uintptr_t)rings;
    memcpy(table.bytes + offsetof(struct vhost_memory, regions), &region, sizeof(region));
    if (ioctl(rig->vhost, VHOST_SET_MEM_TABLE, &table) < 0 ||
        ioctl(rig->vhost, VHOST_VSOCK_SET_GUEST_CID, &cid) < 0)
        return -errno;
    for (unsigned i = 0; i < 2; i++) {
        struct vhost_vring_state size = { i, RING_SIZE }, base = { i, 0 };
        struct vhost_vring_addr address = {
            .index = i,
            .desc_user_addr = (uintptr_t)rings->ring[i].desc,
            .avail_user_addr = (uintptr_t)&rings->ring[i].avail,
            .used_user_addr = (uintptr_t)&rings->ring[i].used,
        };

        if (ioctl(rig->vhost, VHOST_SET_VRING_NUM, &size) < 0 ||
            ioctl(rig->vhost, VHOST_SET_VRING_BASE, &base) < 0 ||
            ioctl(rig->vhost, VHOST_SET_VRING_ADDR, &address) < 0)
            return -errno;
    }
    return ioctl(rig->vhost, VHOST_VSOCK_SET_RUNNING, &on) < 0 ? -errno : 0;
}

static void put_in_ring(unsigned ring, void *buffer, uint32_t length, uint16_t flags)
{
    rings->ring[ring].desc[0] =
        (struct vring_desc){ .addr = (uintptr_t)buffer, .len = length, .flags = flags };
    rings->ring[ring].avail.ring[rings->ring[ring].avail.idx % RING_SIZE] = 0;
    __atomic_store_n(&rings->ring[ring].avail.idx, rings->ring[ring].avail.idx + 1, __ATOMIC_RELEASE);
}

/*
 * The host connects to the guest, whose driver refuses: the request comes by the receiving ring's call, the
 * refusal goes by the sending ring's kick, which the guest rings, and is done with by its call.
 */
struct exchanges {
    unsigned rx, tx, refused, exits;
};

static void exchange(struct rig *rig, struct exchanges *tally)
{
    struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = GUEST_CID, .svm_port = 1234 };
    uint64_t rx = guest_interrupts(rig->guest, RX_GSI), tx = guest_interrupts(rig->guest, TX_GSI);
    int sock = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0, exits;
    const struct virtio_vsock_hdr *request = (const void *)rings->rx;
    struct pollfd poll_fd = { .fd = sock, .events = POLLOUT };
    socklen_t length = sizeof(error);

    need(sock >= 0, "a vsock");
    put_in_ring(0, rings->rx, sizeof(rings->rx), VRING_DESC_F_WRITE);
    (void)connect(sock, (struct sockaddr *)&address, sizeof(address));
    tally->rx += (unsigned)(guest_wait(rig->guest, RX_GSI, rx + 1, ARRIVAL_MS) - rx);
    rings->tx = (struct virtio_vsock_hdr){
        .src_cid = GUEST_CID,
        .dst_cid = VMADDR_CID_HOST,
        .src_port = 1234,
        .dst_port = request->src_port,
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = VIRTIO_VSOCK_OP_RST,
    };
    put_in_ring(1, &rings->tx, sizeof(rings->tx), 0);
    exits = guest_ring_pio(rig->guest, KICK_PORT, 2, 1, 1);
    tally->exits += exits == 0 ? 0 : 1;
    tally->tx += (unsigned)(guest_wait(rig->guest, TX_GSI, tx + 1, ARRIVAL_MS) - tx);
    if (poll(&poll_fd, 1, ARRIVAL_MS) == 1 && getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &length) == 0)
        tally->refused += error == ECONNRESET || error == ECONNREFUSED;
    close(sock);
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

static void check_vhost(struct rig *rig)
{
    struct evlink_client *client = rig->client;
    struct vhost_vring_file file = { .fd = -1 };
    struct exchanges tally = { 0 };
    const char *message;
    unsigned long pending;
    uint64_t before;
    pid_t pid;
    int r, status = 0;
    unsigned n;

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

    check(link_up(client, "rx", "vhost/vsock/vring/0/call", "kvm/a/gsi/32") == 0 &&
              link_up(client, "tx", "vhost/vsock/vring/1/call", "kvm/a/gsi/33") == 0 &&
              link_up(client, "kick", "kvm/a/pio/0x540/2=1", "vhost/vsock/vring/1/kick") == 0 &&
              link_up(client, "err", "vhost/vsock/vring/1/err", "kvm/a/gsi/34") == 0,
        "the rings' call, kick and err are linked to guest a");
    r = link_up(client, "none", "vhost/vsock/vring/2/call", "kvm/a/gsi/9");
    check(r == EVLINK_E_PLUG_FAILED && strstr(evlink_client_message(client), "no such ring"),
        "a ring that the device has not is refused");
    r = vsock_start(rig);
    if (!check(r == 0, "vhost-vsock runs: %s", strerror(-r)))
        return;
    silence();
    for (int i = 0; i < TIMES; i++)
        exchange(rig, &tally);
    check(tally.rx == TIMES, "receiving ring's call to KVM irqfd: packets %d, arrived %u", TIMES, tally.rx);
    check(tally.refused == TIMES && tally.exits == 0,
        "KVM ioeventfd to sending ring's kick: rung %d, packets through %u", TIMES, tally.refused);
    check(tally.tx == TIMES, "sending ring's call to KVM irqfd: packets %d, arrived %u", TIMES, tally.tx);

    pending = link_pending(client, "kick");
    check(pending == TIMES, "vhost does not read the kick's counter: rung %d, pending %lu", TIMES, pending);
    pending = link_pending(client, "rx");
    check(pending == 0, "KVM empties that of the call: pending %lu", pending);

    check(evlink_disconnect(client, "tx") == 0, "the sending ring's call is unlinked");
    silence();
    memset(&tally, 0, sizeof(tally));
    before = guest_interrupts(rig->guest, TX_GSI);
    put_in_ring(0, rings->rx, sizeof(rings->rx), VRING_DESC_F_WRITE);
    put_in_ring(1, &rings->tx, sizeof(rings->tx), 0);
    (void)guest_ring_pio(rig->guest, KICK_PORT, 2, 1, 1);
    silence();
    check(
        guest_interrupts(rig->guest, TX_GSI) == before && rings->ring[1].used.idx == rings->ring[1].avail.idx,
        "it is silent after that, though the packet was sent");

    /* More than the ring has. */
    before = guest_interrupts(rig->guest, ERR_GSI);
    rings->ring[1].avail.idx += 100;
    (void)guest_ring_pio(rig->guest, KICK_PORT, 2, 1, 1);
    n = (unsigned)(guest_wait(rig->guest, ERR_GSI, before + 1, ARRIVAL_MS) - before);
    check(n >= 1, "the ring's err to KVM irqfd, for a broken ring: arrived %u", n);

    check(evlink_disconnect(client, "kick") == 0, "the kick is unlinked");
    check(guest_ring_pio(rig->guest, KICK_PORT, 2, 1, 1) == 1, "the doorbell exits to the VMM after that");
    (void)evlink_disconnect(client, "rx");
    (void)evlink_disconnect(client, "err");
}

/* ---- Guest to guest ---- */

static void check_guests(struct rig *rig)
{
    uint64_t before = ask_other(rig->other, 6, 0), now = before;
    int exits = 0;

    check(link_up(rig->client, "guests", "kvm/a/pio/0x530/2=3", "kvm/b/gsi/6") == 0,
        "a doorbell of guest a is linked to an interrupt of guest b, in another process");
    silence();
    for (int i = 0; i < TIMES; i++) {
        exits += guest_ring_pio(rig->guest, 0x530, 2, 3, 1) != 0;
        now = ask_other(rig->other, 6, now + 1);
    }
    check(now - before == TIMES && exits == 0, "guest a to guest b: rung %d, arrived %u, exits to the VMM %d",
        TIMES, (unsigned)(now - before), exits);
    check(evlink_disconnect(rig->client, "guests") == 0, "it is unlinked");
    check(guest_ring_pio(rig->guest, 0x530, 2, 3, 1) == 1, "the doorbell exits to the VMM after that");
}

/* ---- The end ---- */

static void check_end(struct rig *rig)
{
    struct evlink_status status = { .links = 99 };
    unsigned n;

    check(link_up(rig->client, "last", "vfio/edu/msi/0", "kvm/a/gsi/24") == 0, "MSI is linked after INTx");
    check_edu(rig, EDU_GSI, "edu MSI once more");
    (void)evlink_status(rig->client, &status);
    check(status.links == 1 && status.eventfds == 0, "nothing else is left in evlinkd: %d links, %d eventfds",
        (int)status.links, (int)status.eventfds);
    need(kill(rig->evlinkd, SIGKILL) == 0 && waitpid(rig->evlinkd, NULL, 0) == rig->evlinkd, "its end");
    silence();
    n = raise_deaf(rig, EDU_GSI);
    check(n == 0, "evlinkd is killed, nobody holds: arrived %u", n);
    calm_edu(rig);
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

static void set_up(struct rig *rig, const char *edu, const char *nic)
{
    int pair[2], r;

    /* Before the fork: it is this mm that owns it. */
    rig->vhost = open("/dev/vhost-vsock", O_RDWR | O_CLOEXEC);
    need(rig->vhost < 0 || ioctl(rig->vhost, VHOST_SET_OWNER) == 0, "VHOST_SET_OWNER");
    need(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "a socket pair");
    rig->evlinkd = start_evlinkd();
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
    if (nic && device_open(nic, &rig->nic) < 0)
        rig->nic = NULL;
    rig->client = open_client();
}

static void set_up_agent(struct rig *rig)
{
    int r;

    rig->agent = make_agent("a", rig->guest);
    r = evlink_agent_add_vfio(rig->agent, "edu", device_fd(rig->edu), NULL, NULL);
    if (r == 0 && rig->nic)
        r = evlink_agent_add_vfio(rig->agent, "nic", device_fd(rig->nic), NULL, NULL);
    if (r == 0 && rig->vhost >= 0)
        r = evlink_agent_add_vhost(rig->agent, "vsock", rig->vhost, NULL, NULL);
    if (r == 0)
        r = evlink_agent_attach(rig->agent, rig->client);
    if (r == 0)
        r = evlink_agent_start(rig->agent);
    check(r == 0, "one agent for a guest, two devices of VFIO and one of vhost");
}

int main(int argc, char **argv)
{
    static struct rig rig;
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (argc < 2 || argc > 3) {
        fprintf(stderr, "Usage: %s EDU-ADDRESS [E1000E-ADDRESS]\n", argv[0]);
        return EXIT_FAILURE;
    }
    set_up(&rig, argv[1], argc > 2 ? argv[2] : NULL);
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
    check_end(&rig);
    evlink_agent_free(rig.agent);
    evlink_client_free(rig.client);
    guest_free(rig.guest);
    device_free(rig.edu);
    device_free(rig.nic);
    (void)kill(rig.other_pid, SIGKILL);
    printf("1..%u\n%u passed, %u failed, %u skipped\n", n_checks, n_checks - n_failed - n_skipped, n_failed,
        n_skipped);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
