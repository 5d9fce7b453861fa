/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * evlink-demo: an example VMM. The first part, up to "What the demo shows", is what a VMM needs to have its
 * interrupts and doorbells linked by evlinkd; copy from there. The rest rings doorbells and counts.
 *
 * Every ring is a real guest writing to a port, every arrival a real guest's interrupt handler (guest.h).
 * Without /dev/kvm it says so and shows what is left: an eventfd that evlinkd holds.
 *
 * It keeps true: it exits with 0 only if every line of its table came out as expected, and what it made at
 * the broker goes when it ends, however it ends. It is not a test of the broker: that is what tests/ is for.
 */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <evlink.h>

#include "guest.h"

/* ---- The VMM ------------------------------------------------------------------------------------------- */

struct vmm {
    const char *name; /* of the VM, as in kvm/NAME/gsi/5 */
    struct guest *guest;
    struct evlink_client *client;
    struct evlink_agent *agent;
};

/* Says what failed, in the broker's own words where it was the broker that said no. */
static int complain(const struct evlink_client *client, const char *what, int r)
{
    if (client)
        fprintf(
            stderr, "evlink-demo: %s: %s (%s)\n", what, evlink_client_message(client), evlink_code_name(r));
    else
        fprintf(stderr, "evlink-demo: %s: %s\n", what, strerror(-r));
    return r;
}

/*
 * All it takes at start: a connection to the broker, and an agent that plugs eventfds into this VM. KVM takes
 * a VM's ioctls only from the process that created it, so the agent has to live here; it has a thread of its
 * own.
 */
static int vmm_attach(struct vmm *vmm, const char *socket_path)
{
    int r;

    r = evlink_client_open(socket_path, &vmm->client);
    if (r != 0)
        return complain(NULL, "cannot reach evlinkd", r);
    r = evlink_agent_new(vmm->name, 0, &vmm->agent);
    if (r == 0)
        r = evlink_agent_add_kvm(vmm->agent, vmm->name, guest_vm_fd(vmm->guest), NULL, NULL);
    if (r != 0)
        return complain(NULL, "cannot make an agent", r);
    r = evlink_agent_attach(vmm->agent, vmm->client);
    if (r != 0)
        return complain(vmm->client, "cannot attach the agent", r);
    r = evlink_agent_start(vmm->agent);
    if (r != 0)
        return complain(NULL, "cannot start the agent", r);
    return 0;
}

/*
 * One doorbell to one interrupt, plugged at both ends when this returns. The eventfd is the broker's: this
 * process neither makes one nor keeps one. It ends with this process's agent; links that are to survive the
 * VMM's own restart are EVLINK_PERSISTENT.
 */
static int vmm_link(struct vmm *vmm, const char *doorbell, const char *interrupt)
{
    const char *const producers[] = { doorbell, NULL };
    const char *const consumers[] = { interrupt, NULL };
    struct evlink_link_spec spec = {
        .producers = producers,
        .consumers = consumers,
        .lifetime = EVLINK_AGENT,
        .no_wait = true,
    };
    int r;

    r = evlink_connect(vmm->client, &spec, NULL);
    return r == 0 ? 0 : complain(vmm->client, interrupt, r);
}

/*
 * At the end: the broker unplugs the VM's ends first, so the VM is still there. With the agent go the links
 * that it has an end of (EVLINK_AGENT above).
 */
static void vmm_detach(struct vmm *vmm)
{
    if (vmm->client && vmm->agent)
        evlink_detach(vmm->client, vmm->name);
    vmm->client = evlink_client_free(vmm->client);
    vmm->agent = evlink_agent_free(vmm->agent);
}

static int vmm_start(struct vmm *vmm, const char *name, const char *socket_path)
{
    int r;

    *vmm = (struct vmm){ .name = name };
    r = guest_new(0, &vmm->guest);
    if (r < 0)
        return complain(NULL, "cannot start a guest", r);
    return vmm_attach(vmm, socket_path);
}

static void vmm_stop(struct vmm *vmm)
{
    vmm_detach(vmm);
    vmm->guest = guest_free(vmm->guest);
}

/* ---- What the demo shows ------------------------------------------------------------------------------- */

#define RINGS 100
#define ARRIVAL_MS 200 /* an interrupt that has not come by then does not come */
#define SILENCE_MS 100 /* long enough for what must not happen */

/* Where the interrupts of a ring are counted: waits for the count-th, and returns how many there are. */
struct counter {
    uint64_t (*wait)(void *userdata, uint64_t count);
    void *userdata;
};

struct tally {
    int rung;
    int exited; /* doorbell writes that nobody swallowed and the VMM saw */
    int arrived;
};

/* Rings one at a time, since edges coalesce, and waits for each to arrive. */
static struct tally ring(struct guest *guest, uint16_t port, struct counter counter)
{
    struct tally tally = { 0 };
    uint64_t before = counter.wait(counter.userdata, 0);
    uint64_t now = before;

    for (; tally.rung < RINGS; tally.rung++) {
        int r = guest_ring_pio(guest, port, 1, 0, 1);

        if (r < 0) {
            complain(NULL, "the guest cannot ring", r);
            break;
        }
        tally.exited += r;
        now = counter.wait(counter.userdata, now + 1);
    }
    tally.arrived = (int)(now - before);
    return tally;
}

/* A guest of this process, and the GSI whose interrupts count. */
struct local {
    struct guest *guest;
    unsigned gsi;
};

static uint64_t wait_local(void *userdata, uint64_t count)
{
    const struct local *local = userdata;

    return guest_wait(local->guest, local->gsi, count, ARRIVAL_MS);
}

static struct tally ring_local(struct guest *guest, uint16_t port, unsigned gsi)
{
    struct local local = { guest, gsi };

    return ring(guest, port, (struct counter){ wait_local, &local });
}

/* Rings without waiting for each, for interrupts that must not come. */
static struct tally ring_deaf(struct guest *guest, uint16_t port, unsigned gsi)
{
    uint64_t before = guest_interrupts(guest, gsi);
    int exited = guest_ring_pio(guest, port, 1, 0, RINGS);

    if (exited < 0) {
        complain(NULL, "the guest cannot ring", exited);
        return (struct tally){ 0 };
    }
    return (struct tally){
        .rung = RINGS,
        .exited = exited,
        .arrived = (int)(guest_wait(guest, gsi, before + 1, SILENCE_MS) - before),
    };
}

static void print_header(void)
{
    printf("%-58s %5s %8s %9s\n", "path", "rung", "arrived", "expected");
}

/* One line of the table and what it means. True if it is as expected. */
static bool print_line(const char *path, struct tally tally, int expected, bool rest, const char *meaning)
{
    bool ok = tally.rung == RINGS && tally.arrived == expected && tally.exited == 0 && rest;

    printf("\n%-58s %5d %8d %9d  %s\n", path, tally.rung, tally.arrived, expected, ok ? "ok" : "WRONG");
    printf("    %s\n", meaning);
    if (tally.exited != 0)
        printf("    %d of the writes exited to the VMM, where none should have.\n", tally.exited);
    fflush(stdout);
    return ok;
}

static void sleep_ms(long milliseconds)
{
    struct timespec time = { .tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000 };

    while (nanosleep(&time, &time) < 0 && errno == EINTR)
        ;
}

/* Links, and waits until KVM would have dropped the irqfd if nobody kept its eventfd. */
static int link_and_wait(struct vmm *vmm, const char *doorbell, const char *interrupt)
{
    int r = vmm_link(vmm, doorbell, interrupt);

    if (r == 0)
        sleep_ms(SILENCE_MS);
    return r;
}

/* How many eventfds this process has open. */
static int count_eventfds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    int ret = 0;

    if (!dir)
        return -1;
    while ((entry = readdir(dir))) {
        char target[32];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

        if (n < 0)
            continue;
        target[n] = '\0';
        if (strcmp(target, "anon_inode:[eventfd]") == 0)
            ret++;
    }
    closedir(dir);
    return ret;
}

/* ---- a. Without a broker ------------------------------------------------------------------------------- */

/* Doorbell 0x510 to GSI 5 on one eventfd, as every VMM does it. */
static int plug_by_hand(int vm_fd, int fd)
{
    struct kvm_ioeventfd doorbell = { .addr = 0x510, .len = 1, .fd = fd, .flags = KVM_IOEVENTFD_FLAG_PIO };
    struct kvm_irqfd interrupt = { .fd = (uint32_t)fd, .gsi = 5 };

    if (ioctl(vm_fd, KVM_IRQFD, &interrupt) < 0 || ioctl(vm_fd, KVM_IOEVENTFD, &doorbell) < 0)
        return -errno;
    return 0;
}

/*
 * KVM takes a closed eventfd's irqfd down in a work queue. Every deassign waits for that queue, one that
 * matches nothing too, and tells more than any sleep.
 */
static int wait_for_teardown(int vm_fd)
{
    struct kvm_irqfd nothing = { .gsi = 5, .flags = KVM_IRQFD_FLAG_DEASSIGN };
    int fd, r;

    fd = eventfd(0, EFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    nothing.fd = (uint32_t)fd;
    r = ioctl(vm_fd, KVM_IRQFD, &nothing) < 0 ? -errno : 0;
    close(fd);
    return r;
}

static bool show_by_hand(void)
{
    struct guest *guest = NULL;
    int fd = -1, r;
    bool ok = false;

    r = guest_new(0, &guest);
    if (r < 0) {
        complain(NULL, "cannot start a guest", r);
        return false;
    }
    fd = eventfd(0, EFD_CLOEXEC);
    r = fd < 0 ? -errno : plug_by_hand(guest_vm_fd(guest), fd);
    if (r < 0) {
        complain(NULL, "cannot plug by hand", r);
    } else {
        ok = print_line("by hand, the eventfd kept open", ring_local(guest, 0x510, 5), RINGS, true,
            "The VMM keeps a descriptor that it has no use for, and all is well.");
        close(fd);
        fd = -1;
        ok &= wait_for_teardown(guest_vm_fd(guest)) == 0;
        ok &= print_line("by hand, the eventfd closed", ring_deaf(guest, 0x510, 5), 0, true,
            "With the last file KVM dropped the irqfd. The doorbell is still swallowed: no exit, no error, "
            "no "
            "interrupt.");
    }
    if (fd >= 0)
        close(fd);
    guest_free(guest);
    return ok;
}

/* ---- b. Linked by evlinkd ------------------------------------------------------------------------------ */

static bool show_linked(struct vmm *vmm)
{
    int eventfds = count_eventfds();
    char doorbell[96], interrupt[96];
    struct tally tally;
    bool ok;

    snprintf(doorbell, sizeof(doorbell), "kvm/%s/pio/0x510", vmm->name);
    snprintf(interrupt, sizeof(interrupt), "kvm/%s/gsi/5", vmm->name);
    if (link_and_wait(vmm, doorbell, interrupt) != 0)
        return false;
    tally = ring_local(vmm->guest, 0x510, 5);
    ok = print_line("evlinkd, doorbell to GSI 5 (PIC)", tally, RINGS, count_eventfds() == eventfds,
        "The same link, and this process holds no eventfd of it: evlinkd has the file reference.");

    /* An MSI: the route first, then the irqfd, since KVM drops signals to a GSI without a route. */
    if (guest_route_msi(vmm->guest, 24, 0x40) != 0)
        return false;
    snprintf(doorbell, sizeof(doorbell), "kvm/%s/pio/0x520", vmm->name);
    snprintf(interrupt, sizeof(interrupt), "kvm/%s/gsi/24", vmm->name);
    if (link_and_wait(vmm, doorbell, interrupt) != 0)
        return false;
    tally = ring_local(vmm->guest, 0x520, 24);
    ok &= print_line("evlinkd, doorbell to GSI 24 (MSI)", tally, RINGS, count_eventfds() == eventfds,
        "The same with an interrupt that the VMM routes as a message.");
    if (count_eventfds() != eventfds)
        printf("    But this process has %d eventfds open, and had %d.\n", count_eventfds(), eventfds);
    return ok;
}

/* ---- c. From one process's guest to another's ---------------------------------------------------------- */

/* The VMM in the child. It answers each count that it is asked to wait for with the count that it has. */
static int run_other(const char *name, const char *socket_path, int sock)
{
    struct vmm vmm;
    uint64_t count = 0;
    int r;

    r = vmm_start(&vmm, name, socket_path);
    while (r == 0 && recv(sock, &count, sizeof(count), 0) == sizeof(count)) {
        count = guest_wait(vmm.guest, 5, count, ARRIVAL_MS);
        if (send(sock, &count, sizeof(count), MSG_NOSIGNAL) != sizeof(count))
            break;
    }
    vmm_stop(&vmm);
    return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

struct other {
    pid_t pid;
    int sock;
    bool lost;
};

/* A count that does not come is no count: what arrived is then told by the earlier ones. */
static uint64_t wait_other(void *userdata, uint64_t count)
{
    struct other *other = userdata;
    uint64_t have;

    if (send(other->sock, &count, sizeof(count), MSG_NOSIGNAL) != sizeof(count) ||
        recv(other->sock, &have, sizeof(have), 0) != sizeof(have)) {
        other->lost = true;
        return count == 0 ? 0 : count - 1;
    }
    return have;
}

/* Forks the other VMM. Before this process has threads, and before it has a VM, which a fork could not use.
 */
static int fork_other(struct other *other, const char *name, const char *socket_path)
{
    int pair[2], r;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    other->pid = fork();
    if (other->pid < 0) {
        r = -errno;
        close(pair[0]);
        close(pair[1]);
        return r;
    }
    if (other->pid == 0) {
        close(pair[0]);
        exit(run_other(name, socket_path, pair[1]));
    }
    close(pair[1]);
    other->sock = pair[0];
    return 0;
}

/* How often a process went to sleep: once for each time that something woke it. -1 where nobody tells. */
static int64_t count_sleeps(pid_t pid)
{
    char path[64], line[128];
    int64_t ret = -1;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    file = fopen(path, "re");
    if (!file)
        return -1;
    while (fgets(line, sizeof(line), file))
        if (sscanf(line, "voluntary_ctxt_switches: %" SCNd64, &ret) == 1)
            break;
    fclose(file);
    return ret;
}

/* Whether this is the process that answers: it then wakes up for our calls. */
static bool answers(pid_t pid, struct evlink_client *client)
{
    const int calls = 10;
    struct evlink_status status;
    int64_t before = count_sleeps(pid);

    for (int i = 0; i < calls; i++) {
        if (evlink_status(client, &status) != 0)
            return false;
        sleep_ms(1); /* for it to go back to sleep */
    }
    return before >= 0 && count_sleeps(pid) >= before + calls / 2;
}

/*
 * The broker's process: whoever listens at the socket, or a child of theirs where that is a service manager
 * or a supervisor. 0 where it cannot be told.
 */
static pid_t find_broker(struct evlink_client *client, const char *socket_path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct ucred peer = { 0 };
    socklen_t length = sizeof(peer);
    char children[64];
    FILE *file;
    int fd, child, r;
    pid_t ret = 0;

    if (strlen(socket_path) >= sizeof(address.sun_path))
        return 0;
    strcpy(address.sun_path, socket_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    r = connect(fd, (struct sockaddr *)&address, sizeof(address));
    if (r == 0)
        r = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
    close(fd);
    if (r < 0 || peer.pid <= 0)
        return 0;
    if (answers(peer.pid, client))
        return peer.pid;

    snprintf(children, sizeof(children), "/proc/%d/task/%d/children", (int)peer.pid, (int)peer.pid);
    file = fopen(children, "re");
    if (!file)
        return 0;
    while (ret == 0 && fscanf(file, "%d", &child) == 1)
        if (answers(child, client))
            ret = child;
    fclose(file);
    return ret;
}

static bool show_two(struct vmm *vmm, struct other *other, const char *other_name, const char *socket_path)
{
    pid_t broker = find_broker(vmm->client, socket_path);
    char doorbell[96], interrupt[96], meaning[256];
    struct tally tally;
    int64_t woken = -1;
    bool quiet = true;

    wait_other(other, 0); /* it answers once it is attached */
    if (other->lost) {
        fprintf(stderr, "evlink-demo: the other VMM did not start\n");
        return false;
    }
    snprintf(doorbell, sizeof(doorbell), "kvm/%s/pio/0x530", vmm->name);
    snprintf(interrupt, sizeof(interrupt), "kvm/%s/gsi/5", other_name);
    if (link_and_wait(vmm, doorbell, interrupt) != 0)
        return false;

    if (broker != 0)
        woken = count_sleeps(broker);
    tally = ring(vmm->guest, 0x530, (struct counter){ wait_other, other });
    if (woken >= 0) {
        woken = count_sleeps(broker) - woken;
        quiet = woken < RINGS / 10; /* a timer of its own may tick, but it cannot have copied the signals */
        snprintf(meaning, sizeof(meaning),
            "Two processes, and none in the path: no exit in the first, and evlinkd (pid %d) woke up %" PRId64
            " times in %d rings.",
            (int)broker, woken, tally.rung);
    } else {
        snprintf(meaning, sizeof(meaning),
            "Two processes, and no exit in the first. (What evlinkd did meanwhile cannot be seen from "
            "here.)");
    }
    return print_line("evlinkd, from this process's guest to another process's", tally, RINGS,
        quiet && !other->lost, meaning);
}

/* ---- d. Held ------------------------------------------------------------------------------------------- */

static int hold_and_claim(
    struct evlink_client *client, const char *name, uint64_t signals, uint64_t *ret_count)
{
    int fd, r;

    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return complain(NULL, "eventfd", -errno);
    r = evlink_hold(client, name, fd, EVLINK_CONNECTION, 0);
    if (r != 0)
        complain(client, "cannot have an eventfd held", r);
    else if (eventfd_write(fd, signals) < 0)
        r = complain(NULL, "cannot signal", -errno);
    close(fd);
    if (r != 0)
        return r;

    r = evlink_claim(client, name, &fd);
    if (r != 0)
        return complain(client, "cannot claim", r);
    if (eventfd_read(fd, ret_count) < 0)
        *ret_count = 0;
    close(fd);
    return 0;
}

static bool show_held(struct evlink_client *client, const char *name)
{
    struct tally tally = { .rung = RINGS };
    uint64_t count = 0;
    int r;

    r = hold_and_claim(client, name, RINGS, &count);
    tally.arrived = (int)count;
    return print_line("evlinkd, an eventfd held, closed here and claimed again", tally, RINGS, r == 0,
        "Signalled before our copy was closed; the claimed one has the whole count.");
}

/* ---- e. evlinkd is killed meanwhile -------------------------------------------------------------------- */

/* The first child of a process; 0: it has none just now. */
static pid_t child_of(pid_t pid)
{
    char path[64];
    int child = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
    file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%d", &child) != 1)
        child = 0;
    fclose(file);
    return child;
}

/* Kills the supervisor's evlinkd, and waits until another one answers. Our connection ended with the old one.
 */
static bool kill_broker(pid_t supervisor, struct evlink_client *client, struct evlink_status *ret_status)
{
    pid_t broker = child_of(supervisor);
    int r = -ESRCH;

    if (broker == 0 || kill(broker, SIGKILL) < 0)
        return false;
    while (child_of(supervisor) == broker)
        sleep_ms(1);
    r = evlink_client_reconnect(client);
    if (r == 0)
        r = evlink_status(client, ret_status);
    if (r != 0)
        complain(client, "evlinkd is not back", r);
    return r == 0;
}

/* The link of show_linked(), with evlinkd killed after every tenth ring. */
static bool show_killed(struct vmm *vmm, pid_t supervisor)
{
    struct tally tally = { 0 };
    struct evlink_status status = { 0 };
    char meaning[256];
    uint64_t before = guest_interrupts(vmm->guest, 5);
    int kills = 0, exited;

    for (; tally.rung < RINGS; tally.rung++) {
        if (tally.rung % 10 == 5 && kill_broker(supervisor, vmm->client, &status))
            kills++;
        exited = guest_ring_pio(vmm->guest, 0x510, 1, 1, 1);
        tally.exited += exited;
        if (exited < 0 || guest_wait(vmm->guest, 5, before + (uint64_t)tally.rung + 1, SILENCE_MS * 10) == 0)
            break;
    }
    tally.arrived = (int)(guest_interrupts(vmm->guest, 5) - before);
    snprintf(meaning, sizeof(meaning),
        "SIGKILL %d times while the guest rang; the last time %" PRIu64 " links came back in %.1f ms.", kills,
        status.restored_links, (double)status.restored_in / 1000);
    return print_line("evlinkd, killed again and again", tally, RINGS, kills == RINGS / 10, meaning);
}

/* ---- The demo ------------------------------------------------------------------------------------------ */

static bool show_guests(const char *socket_path, pid_t supervisor)
{
    char name[32], other_name[32];
    struct other other = { .sock = -1 };
    struct vmm vmm;
    bool ok;
    int r, status = 0;

    snprintf(name, sizeof(name), "demo-%d-a", (int)getpid());
    snprintf(other_name, sizeof(other_name), "demo-%d-b", (int)getpid());
    r = fork_other(&other, other_name, socket_path);
    if (r < 0) {
        complain(NULL, "cannot fork", r);
        return false;
    }

    ok = show_by_hand();
    if (vmm_start(&vmm, name, socket_path) == 0) {
        ok &= show_linked(&vmm);
        ok &= show_two(&vmm, &other, other_name, socket_path);
        if (supervisor > 0)
            ok &= show_killed(&vmm, supervisor);
    } else {
        ok = false;
    }
    vmm_stop(&vmm);

    close(other.sock); /* which ends it */
    while (waitpid(other.pid, &status, 0) < 0 && errno == EINTR)
        ;
    return ok && status == 0;
}

static void usage(FILE *file)
{
    fputs(
        "Usage: evlink-demo [--socket PATH]\n"
        "Shows what evlinkd does for a VMM, with real guests where there is a /dev/kvm.\n"
        "\n"
        "  --socket PATH      where evlinkd listens; else $EVLINK_SOCKET, else " EVLINK_DEFAULT_SOCKET "\n"
        "  --supervisor PID   of evlinkd --supervise: show what becomes of links when its evlinkd is killed\n"
        "  --help             this text\n"
        "  --version          the version of libevlink\n",
        file);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "socket", required_argument, NULL, 's' },
        { "supervisor", required_argument, NULL, 'p' },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'v' },
        { 0 },
    };
    pid_t supervisor = 0;
    const char *socket_path = getenv("EVLINK_SOCKET");
    struct evlink_client *client = NULL;
    char held_name[32];
    bool ok = true;
    int option, r;

    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        switch (option) {
        case 's':
            socket_path = optarg;
            break;
        case 'p':
            supervisor = (pid_t)strtol(optarg, NULL, 10);
            break;
        case 'h':
            usage(stdout);
            return EXIT_SUCCESS;
        case 'v':
            printf("evlink-demo %s\n", evlink_version());
            return EXIT_SUCCESS;
        default:
            usage(stderr);
            return EXIT_FAILURE;
        }
    }
    if (optind < argc) {
        usage(stderr);
        return EXIT_FAILURE;
    }
    if (!socket_path || !*socket_path)
        socket_path = EVLINK_DEFAULT_SOCKET;

    r = evlink_client_open(socket_path, &client);
    if (r != 0) {
        complain(NULL, socket_path, r);
        return EXIT_FAILURE;
    }
    if (access("/dev/kvm", R_OK | W_OK) == 0) {
        print_header();
        fflush(stdout);
        ok = show_guests(socket_path, supervisor);
    } else {
        printf("No guests: /dev/kvm: %s.\n\n", strerror(errno));
        print_header();
    }
    snprintf(held_name, sizeof(held_name), "demo-%d", (int)getpid());
    if (supervisor > 0)
        (void)evlink_client_reconnect(client);
    ok &= show_held(client, held_name);
    evlink_client_free(client);
    printf("\n%s\n", ok ? "All as expected." : "NOT as expected.");
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
