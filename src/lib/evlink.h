/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libevlink: the client of evlinkd, and the agent that lives in the process of a VMM.
 *
 * evlinkd holds eventfds for its clients and has them plugged into KVM, VFIO and vhost by the agent of the
 * process that owns the VM or the device, since KVM and vhost accept ioctls from that address space alone.
 * See evlinkd(8), evlink-endpoint(7) and io.evlink.Broker(7).
 *
 * Results. Every function that returns int returns 0, or a negative errno where something failed on this side
 * (-ECONNRESET: the broker is gone; -ETIMEDOUT; -ENOMEM; -EPROTO: the broker's answer made no sense), or a
 * positive EVLINK_E_* where the broker answered with an error. evlink_client_message() has the sentence about
 * a call on a client; what is called with an agent alone has none.
 * Outputs (ret_x) are untouched unless 0 is returned.
 *
 * Descriptors. Each descriptor parameter says borrowed (the caller goes on owning it, the call duplicates it
 * where it has to) or consumed. Descriptors that are handed out are close-on-exec and the caller's.
 *
 * Threads. There is no global state. A client may be used by one thread at a time; several threads may have a
 * client each. An agent's evlink_agent_stop(), evlink_agent_mask() and evlink_agent_unmask() may be called
 * from any thread at any time between evlink_agent_new() and evlink_agent_free(); see each function for the
 * rest.
 *
 * Signals. SIGPIPE is never raised. Calls that wait go on after EINTR.
 */
#ifndef EVLINK_H
#define EVLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where evlinkd listens unless told otherwise. evlink_client_open(NULL) tries $EVLINK_FD and $EVLINK_SOCKET
 * first. */
#define EVLINK_DEFAULT_SOCKET "/run/evlinkd/io.evlink.Broker"

/* The most descriptors that one message carries, and so the most names of evlink_hold_many() [SCM_MAX_FD]. */
#define EVLINK_HOLD_MANY_MAX 253

/* The most links of evlink_connect_many(). */
#define EVLINK_CONNECT_MANY_MAX 1024

/* The broker's answers. More may come: take one that you do not know as "refused". */
enum evlink_code {
    EVLINK_E_NAME_TAKEN = 1,
    EVLINK_E_NO_SUCH_EVENTFD,
    EVLINK_E_NO_SUCH_LINK,
    EVLINK_E_NO_SUCH_AGENT,
    EVLINK_E_NOT_AN_EVENTFD,
    EVLINK_E_BAD_DESCRIPTOR,
    EVLINK_E_IN_USE,
    EVLINK_E_SUBSYSTEM_TAKEN,
    EVLINK_E_BAD_ENDPOINT,
    EVLINK_E_ENDPOINT_BUSY,
    EVLINK_E_NOT_ATTACHED,
    EVLINK_E_PLUG_FAILED,
    EVLINK_E_AGENT_TIMEOUT,
    EVLINK_E_RESTARTED,
    EVLINK_E_WRONG_STATE,
    EVLINK_E_QUOTA_EXCEEDED,
    EVLINK_E_INVALID_PARAMETER,
    EVLINK_E_PERMISSION_DENIED,
    EVLINK_E_NOT_IMPLEMENTED, /* the broker is older than this library, or the method does not exist */
    EVLINK_E_OTHER,           /* an error that this library does not know */
};

/* How long what was made lasts. */
enum evlink_lifetime {
    EVLINK_PERSISTENT, /* until it is released or disconnected */
    EVLINK_CONNECTION, /* until the connection that made it closes */
    EVLINK_LEASE,      /* until it is not renewed in time */
    EVLINK_AGENT,      /* links only: until an agent of one of its ends detaches */
};

/* The version of the library, as "1.2.3". */
const char *evlink_version(void);

/* "EndpointBusy" for EVLINK_E_ENDPOINT_BUSY, strerrorname_np() for a negative errno. Never NULL. */
const char *evlink_code_name(int code);

/* ---- The client ---------------------------------------------------------------------------------------- */

struct evlink_client;

/*
 * Connects to the evlinkd that listens at path; NULL means $EVLINK_FD, $EVLINK_SOCKET, or else
 * EVLINK_DEFAULT_SOCKET. Fails with -ENOENT or -ECONNREFUSED where none listens, -EACCES where the socket may
 * not be used.
 *
 * EVLINK_FD is the number of a connected descriptor that this process has inherited, a delegated one (see
 * evlink_delegate()): the client gets a duplicate of it. What shares a connection, whichever process it is
 * in, has to take turns: one client at a time. Fails as evlink_client_open_fd(), with -EBADF where it is not
 * open.
 */
int evlink_client_open(const char *path, struct evlink_client **ret_client);

/*
 * The same on a connected unix stream socket, that of evlink_delegate() for one. fd: consumed, also on
 * failure: -ENOTSOCK, -EPROTOTYPE, -ENOTCONN.
 */
int evlink_client_open_fd(int fd, struct evlink_client **ret_client);

/*
 * Connects again to where evlink_client_open() did, when a call has failed with -ECONNRESET or -ENOTCONN: the
 * broker was restarted. A call that was under way took effect wholly or not at all, the lists tell; what was
 * made with EVLINK_CONNECTION has ended. Agents stay attached, they have sockets of their own. Fails as
 * evlink_client_open(), and then the old connection stays as it was; -EOPNOTSUPP for one of
 * evlink_client_open_fd(), -EDEADLK in a callback of one of its calls.
 */
int evlink_client_reconnect(struct evlink_client *client);

/*
 * Closes the connection: what was made with EVLINK_CONNECTION through it ends. Agents that were attached
 * through it stay attached. Takes NULL, returns NULL. Not from a callback of one of its calls.
 */
struct evlink_client *evlink_client_free(struct evlink_client *client);

/*
 * How long a call waits for the broker's answer, and within a list for each next one, in milliseconds; 0
 * means for ever, which is the default. After -ETIMEDOUT the connection is closed, since the late answer
 * would be taken for that of the next call: every later call fails with -ENOTCONN, and whether the call took
 * effect only the lists tell.
 */
void evlink_client_set_timeout(struct evlink_client *client, unsigned milliseconds);

/*
 * One sentence about the last call on this client that failed: what was wrong, with what, what to do. Owned
 * by the client, valid until its next call; never NULL. For people: programs go by the code.
 */
const char *evlink_client_message(const struct evlink_client *client);

/* ---- Holding eventfds ---------------------------------------------------------------------------------- */

/*
 * Has the broker hold fd, an eventfd, under name. From then on the caller may close its copy: the broker
 * keeps the file reference without which KVM would drop the irqfd. fd: borrowed. lease_seconds goes with
 * EVLINK_LEASE and is 0 otherwise.
 */
int evlink_hold(struct evlink_client *client, const char *name, int fd, enum evlink_lifetime lifetime,
    int64_t lease_seconds);

/* The same with an eventfd that the broker makes; take a duplicate with evlink_claim(). */
int evlink_hold_new(struct evlink_client *client, const char *name, bool semaphore,
    enum evlink_lifetime lifetime, int64_t lease_seconds);

/* Holds n eventfds, all or none: fds[i] under names[i]. n is at most EVLINK_HOLD_MANY_MAX. fds: borrowed. */
int evlink_hold_many(struct evlink_client *client, const char *const *names, const int *fds, size_t n,
    enum evlink_lifetime lifetime, int64_t lease_seconds);

/*
 * A duplicate of a held eventfd. *ret_fd is the caller's. It shares its open file description, and so
 * O_NONBLOCK, with everybody who holds this eventfd: set no flags on it.
 */
int evlink_claim(struct evlink_client *client, const char *name, int *ret_fd);

/* Drops the broker's reference; EVLINK_E_IN_USE while a link uses the eventfd. */
int evlink_release(struct evlink_client *client, const char *name);

/* Renews the lease of an eventfd, or of a link, to lease_seconds from now. */
int evlink_renew(struct evlink_client *client, const char *name, int64_t lease_seconds);
int evlink_renew_link(struct evlink_client *client, const char *link, int64_t lease_seconds);

/* Adds count to a held eventfd's counter, as its producer would. count is at least 1. */
int evlink_signal(struct evlink_client *client, const char *name, uint64_t count);

/* ---- Links --------------------------------------------------------------------------------------------- */

struct evlink_link_spec {
    const char *name;             /* NULL: the broker makes one up */
    const char *const *producers; /* endpoints, NULL-terminated; see evlink-endpoint(7) */
    const char *const *consumers; /* the same */
    const char *group;            /* NULL: none */
    const char *const *labels;    /* "KEY=VALUE", NULL-terminated; NULL: none */
    enum evlink_lifetime lifetime;
    int64_t lease_seconds;
    bool no_wait; /* EVLINK_E_NOT_ATTACHED where an end is absent, rather than a link that waits */
};

/*
 * Links producers to consumers. All ends that are there are plugged when this returns 0, or nothing is.
 * *ret_name (ret_name may be NULL) is the link's name, for the caller to free().
 *
 * Where an agent was attached through this client and nothing else serves it (neither evlink_agent_start()
 * nor evlink_agent_run() is at work), this call, as every call of the client, serves it while it waits: its
 * callbacks run in this thread. A callback that calls on the client in turn gets -EDEADLK.
 */
int evlink_connect(struct evlink_client *client, const struct evlink_link_spec *spec, char **ret_name);

/*
 * Up to EVLINK_CONNECT_MANY_MAX links, all or none. Lifetime and no_wait are the set's: they are taken from
 * specs[0]. Names that the broker made up are found with evlink_list_links().
 */
int evlink_connect_many(struct evlink_client *client, const struct evlink_link_spec *specs, size_t n);

/* Unplugs a link's producers, then its consumers, and forgets it; the same for all links of a group. */
int evlink_disconnect(struct evlink_client *client, const char *name);
int evlink_disconnect_group(struct evlink_client *client, const char *group);

/* ---- Delegation ---------------------------------------------------------------------------------------- */

/*
 * A connection for a tenant: *ret_fd, the caller's, is a connected socket through which only names that begin
 * with the scope and a dot can be made, and only these endpoints (NULL-terminated) used; see
 * io.evlink.Broker(7). For evlink_client_open_fd(), mostly of another process. The limits are negative where
 * there is none but the user's.
 */
int evlink_delegate(struct evlink_client *client, const char *scope, const char *const *endpoints,
    int64_t max_eventfds, int64_t max_links, int *ret_fd);

/*
 * Closes the connections that were delegated for the scope and for scopes within it. What was made through
 * them stays. EVLINK_E_INVALID_PARAMETER where there is none that the caller may revoke.
 */
int evlink_revoke(struct evlink_client *client, const char *scope);

/* ---- What there is ------------------------------------------------------------------------------------- */

struct evlink_eventfd_info {
    const char *name;
    int64_t eventfd_id; /* the kernel's, as in fdinfo; -1 where unknown */
    uint64_t pending;   /* the counter; 0 while an irqfd drains it */
    bool semaphore;
    uid_t uid; /* who made it */
    pid_t pid;
    const char *lifetime;
    int64_t lease_seconds;    /* 0 without a lease */
    const char *const *links; /* NULL-terminated */
    int64_t since;            /* microseconds since the epoch */
};

struct evlink_end_info {
    const char *endpoint;
    const char *state;  /* "plugged", ... see io.evlink.Broker(7) */
    const char *reason; /* NULL where there is none */
};

struct evlink_link_info {
    const char *name;
    const char *group; /* NULL: none */
    const char *state; /* "linked", ... */
    const char *reason;
    const struct evlink_end_info *producers;
    size_t n_producers;
    const struct evlink_end_info *consumers;
    size_t n_consumers;
    bool relayed;
    int64_t forwarded; /* signals that the relay moved; -1 where nothing is relayed */
    uid_t uid;
    pid_t pid;
    const char *lifetime;
    int64_t since;
};

struct evlink_agent_info {
    const char *name;
    uid_t uid;
    pid_t pid;
    const char *const *subsystems; /* "kvm/VM", NULL-terminated */
    const char *const *offered;
    int64_t since;
};

struct evlink_status {
    char version[32];
    int64_t started_at; /* microseconds since the epoch */
    bool durable;       /* what is acknowledged outlives the broker's process */
    uint64_t restored_eventfds, restored_links;
    uint64_t eventfds, links, agents, connections;
    uint64_t restored_agents;
    int64_t restored_in; /* microseconds that it took; 0 where there was nothing to come back */
    char
        last_end[64]; /* why the process before ended: "stopped", "killed", a signal; empty: there was none */
};

/*
 * Each calls back once for each object whose name matches the glob match (NULL: all), ordered by name. What
 * info points to lives until the callback returns. Anything but 0 from the callback ends the list and is
 * returned; the connection is closed then, since the rest of the stream is still under way. The callback
 * cannot call on the same client: -EDEADLK.
 */
int evlink_list_eventfds(struct evlink_client *client, const char *match,
    int (*callback)(void *userdata, const struct evlink_eventfd_info *info), void *userdata);
int evlink_list_links(struct evlink_client *client, const char *match, const char *group,
    int (*callback)(void *userdata, const struct evlink_link_info *info), void *userdata);
int evlink_list_agents(struct evlink_client *client, const char *match,
    int (*callback)(void *userdata, const struct evlink_agent_info *info), void *userdata);

int evlink_status(struct evlink_client *client, struct evlink_status *ret_status);

/*
 * Any method, for what has no function here: parameters is a JSON object, or NULL; fds (borrowed) travel with
 * the call. callback gets each reply's parameters as JSON, in order: one, or with more as many as come.
 * Descriptors in replies are closed. A broker's error is returned as above; its parameters reach callback
 * too, with error set to the error's full name. callback may be NULL; anything but 0 from it ends the call as
 * it ends a list, but for the broker's error. -EINVAL where parameters is no JSON object.
 */
int evlink_call(struct evlink_client *client, const char *method, const char *parameters, const int *fds,
    size_t n_fds, bool more, int (*callback)(void *userdata, const char *error, const char *parameters),
    void *userdata);

/* ---- The agent ----------------------------------------------------------------------------------------- */

/*
 * An agent executes what the broker decides, in the process that owns the VM: it plugs eventfds into
 * endpoints.
 *
 *     evlink_agent_new("vm1", 0, &agent);
 *     evlink_agent_add_kvm(agent, "vm1", vm_fd, NULL, NULL);
 *     evlink_agent_attach(agent, client);
 *     evlink_agent_start(agent);             a thread of its own
 * or  evlink_agent_fd(agent), evlink_agent_dispatch(agent)     the caller's loop
 * or  evlink_agent_run(agent)                the caller's thread, under the caller's seccomp filter
 */
struct evlink_agent;

enum evlink_agent_flags {
    /*
     * The agent keeps a duplicate of each plugged eventfd until Unplug. For VMMs that mask interrupts by
     * deassigning their irqfds (evlink_agent_mask()), and for guests that are to keep their interrupts when
     * the broker goes for good. Without it the agent holds no eventfd after plugging.
     */
    EVLINK_AGENT_KEEP = 1 << 0,
    /*
     * The VMs are another agent's, which hands over to this one (an upgrade): both are attached for a while,
     * and each endpoint moves as the old one withdraws it or detaches.
     */
    EVLINK_AGENT_TAKEOVER = 1 << 1,
};

enum evlink_plug_kind {
    EVLINK_PLUG_GSI,       /* kvm: number is the GSI */
    EVLINK_PLUG_PIO,       /* kvm: number is the port */
    EVLINK_PLUG_MMIO,      /* kvm: number is the guest-physical address */
    EVLINK_PLUG_IRQ,       /* kvm: interrupt number of device */
    EVLINK_PLUG_NOTIFY,    /* kvm: doorbell number of device */
    EVLINK_PLUG_INTX,      /* vfio */
    EVLINK_PLUG_MSI,       /* vfio: number is the vector */
    EVLINK_PLUG_MSIX,      /* vfio: number is the vector */
    EVLINK_PLUG_ERR,       /* vfio */
    EVLINK_PLUG_REQ,       /* vfio */
    EVLINK_PLUG_CALL,      /* vhost: number is the ring */
    EVLINK_PLUG_KICK,      /* vhost: number is the ring */
    EVLINK_PLUG_VRING_ERR, /* vhost: number is the ring */
};

/* One eventfd and the place where it goes. Everything that it points to lives until the callback returns. */
struct evlink_plug {
    const char *endpoint;  /* in canonical form */
    const char *subsystem; /* the VM's name, or that of a device of vfio or vhost */
    const char *device;    /* NULL unless kind is EVLINK_PLUG_IRQ or EVLINK_PLUG_NOTIFY */
    enum evlink_plug_kind kind;
    bool level;      /* a resample irqfd; or INTX, which resample_fd unmasks */
    bool datamatch;  /* PIO, MMIO: only writes of value */
    unsigned length; /* PIO, MMIO: 0 (any), 1, 2, 4, 8 bytes */
    uint64_t number;
    uint64_t value;
    int fd;          /* borrowed until the callback returns; dup it to keep it */
    int resample_fd; /* the same; -1 unless level */
};

/*
 * The VMM's own ways. Each may be NULL. They run in the thread that runs or dispatches the agent (with
 * evlink_agent_start(), the agent's), one at a time, with no lock held that evlink_agent_stop(),
 * evlink_agent_mask() or evlink_agent_unmask() needs. While one runs the agent serves nothing else: a call to
 * the broker that needs this agent would wait until the broker gives the agent up.
 */
struct evlink_agent_ops {
    /*
     * Plugs, unplugs: 0 or a negative errno, which the broker reports as its PlugFailed. Called with what
     * resolve() made of it. NULL: KVM_IRQFD or KVM_IOEVENTFD on the VM's descriptor, VFIO_DEVICE_SET_IRQS or
     * VHOST_SET_VRING_* on the device's. unplug must undo what an
     * earlier agent of this process plugged too, and return 0 where nothing is plugged. Install an
     * interrupt's route before its irqfd and remove it after: KVM drops signals to an unrouted GSI silently.
     */
    int (*plug)(void *userdata, const struct evlink_plug *plug);
    int (*unplug)(void *userdata, const struct evlink_plug *plug);
    /*
     * Turns an interrupt or a doorbell of a device into what KVM knows: sets kind, number and, for a
     * doorbell, length, datamatch and value. 0 or a negative errno. Not called for the other kinds. NULL:
     * such endpoints reach plug() as they are, or fail with EOPNOTSUPP where that is NULL too. What it said
     * at plug is remembered for unplug. It is asked again for the unplug of what this agent did not plug:
     * -ENOENT and -ENODEV mean that nothing is plugged there any more.
     */
    int (*resolve)(void *userdata, struct evlink_plug *plug);
    /* News of the far side of endpoint: type is "leaving", "left", ... reason may be NULL. */
    void (*notify)(
        void *userdata, const char *type, const char *endpoint, const char *link, const char *reason);
};

/* A new agent, not yet attached, with no subsystem. flags: enum evlink_agent_flags. -EINVAL: no name, no
 * flag.
 */
int evlink_agent_new(const char *name, unsigned flags, struct evlink_agent **ret_agent);

/*
 * Stops the agent's thread, closes its socket (the broker detaches it, and knows what was plugged) and the
 * eventfds that it kept. What is plugged stays in the VM: call evlink_detach() first to have it unplugged.
 * Takes NULL, returns NULL. Not from the agent's own callbacks, nor while another thread uses the agent.
 */
struct evlink_agent *evlink_agent_free(struct evlink_agent *agent);

/*
 * Makes the VM's endpoints plug into vm_fd: borrowed, and must stay open until the agent is freed. ops may be
 * NULL; it is copied. Only in the process that created the VM [KVM: EIO from any other, from here on];
 * -ENOTTY, -EINVAL or -EBADF where vm_fd is no VM. With both plug() and unplug() in ops vm_fd is not used,
 * and may be -1. Before evlink_agent_attach() (-EISCONN). -EINVAL: no name; -EEXIST: added already.
 */
int evlink_agent_add_kvm(struct evlink_agent *agent, const char *vm, int vm_fd,
    const struct evlink_agent_ops *ops, void *userdata);

/*
 * The same for a PCI device of VFIO: device_fd is what VFIO_GROUP_GET_DEVICE_FD returned, or a bound cdev.
 * Borrowed: the agent duplicates it nowhere, the broker never sees it. Any process that has it may do this.
 * INTx, MSI and MSI-X of a device exclude each other: plugging one while another is in use, by the VMM's own
 * hand too, is PlugFailed with EBUSY. -EOPNOTSUPP: no PCI device.
 */
int evlink_agent_add_vfio(struct evlink_agent *agent, const char *device, int device_fd,
    const struct evlink_agent_ops *ops, void *userdata);

/*
 * The same for a device of vhost: /dev/vhost-net, /dev/vhost-vsock, /dev/vhost-vdpa-N. Only in the process
 * that called VHOST_SET_OWNER, and plugged after that [vhost: EPERM].
 */
int evlink_agent_add_vhost(struct evlink_agent *agent, const char *device, int vhost_fd,
    const struct evlink_agent_ops *ops, void *userdata);

/*
 * Attaches the agent: the broker makes its socket pair and sends one end. client: borrowed for the call;
 * where the agent has no thread, the client's later calls serve it while they wait, until either is freed.
 * -EINVAL without a subsystem, -EISCONN when attached already. An agent whose socket the broker closed may be
 * attached again, and still knows what it has plugged.
 */
int evlink_agent_attach(struct evlink_agent *agent, struct evlink_client *client);

/*
 * Serves the broker in a thread of its own, with all signals blocked, until evlink_agent_stop() or until the
 * broker closed the socket. -ENOTCONN: not attached; -EBUSY: started or run already; -EDEADLK: from one of
 * its callbacks; -EAGAIN: no thread to be had.
 */
int evlink_agent_start(struct evlink_agent *agent);

/*
 * Serves the broker in the calling thread until evlink_agent_stop() (0) or until the broker closed the socket
 * (-ECONNRESET), or sent what makes no sense (-EPROTO). Other errors as in evlink_agent_start().
 *
 * For seccomp filters, these are the system calls that it makes:
 *
 * - epoll_wait (epoll_pwait where there is no epoll_wait): for the broker's socket
 * - epoll_ctl: when that is full, and when it has room again
 * - recvmsg, sendmsg: from it and to it
 * - read: of the eventfd by which evlink_agent_stop() wakes it
 * - close: of the eventfds that came, and of the socket at its end
 * - ioctl: KVM_IRQFD and KVM_IOEVENTFD on a VM, VFIO_DEVICE_SET_IRQS and VFIO_DEVICE_GET_IRQ_INFO on a device
 *   of VFIO, VHOST_SET_VRING_CALL, _KICK and _ERR on one of vhost; none where plug() and unplug() are given
 * - fcntl: F_DUPFD_CLOEXEC, with EVLINK_AGENT_KEEP only
 * - futex: when another thread masks, unmasks or serves the agent at the same moment
 * - brk, mmap, munmap, mremap, mprotect, madvise: malloc(3)'s; in a thread that never allocated before,
 *   glibc's may add sched_getaffinity: allocate something there before the filter is installed
 *
 * Where the broker does not say which eventfd it sends (eventfdId; evlinkd does where its kernel tells, which
 * is since Linux 5.2), also openat, read and close of /proc/self/fdinfo, and fcntl(F_GETFD): openat may fail,
 * with any errno. The VMM's callbacks come on top. A stop makes write and futex, in its caller's thread.
 */
int evlink_agent_run(struct evlink_agent *agent);

/*
 * Ends evlink_agent_run(), and the thread of evlink_agent_start(), for whose end it waits unless one of the
 * agent's own callbacks calls it. Returns 0, or what had ended the thread before (-ECONNRESET, ...). Where
 * neither is at work, the next evlink_agent_run() returns at once. Not for signal handlers.
 */
int evlink_agent_stop(struct evlink_agent *agent);

/*
 * For the caller's own loop: poll the descriptor (owned by the agent, and the same until it is freed) for
 * POLLIN and call dispatch when it is readable. Dispatch waits for nothing but a call of the client's in
 * another thread that serves the agent at this moment; it serves what has come and returns 0, -ECONNRESET
 * when the broker is gone, or another negative errno after which the agent is detached (but -EBUSY: it is
 * started or run, and -EDEADLK: from one of its callbacks). Both from one thread. -ENOTCONN: not attached.
 */
int evlink_agent_fd(struct evlink_agent *agent);
int evlink_agent_dispatch(struct evlink_agent *agent);

/*
 * Masks and unmasks an interrupt as VMMs do, by deassigning and assigning its irqfd, without telling the
 * broker, to whom the end stays plugged. What is signalled while masked is pending at unmask: none is lost,
 * and KVM injects it as one interrupt. Several links may share a GSI: all of them are masked, and one that is
 * plugged meanwhile as well. Unplug forgets the mask. Only with EVLINK_AGENT_KEEP, interrupts and ready-made
 * plugs, not where ops has plug() (-EOPNOTSUPP); endpoint is one that is plugged (-ENOENT), written as in its
 * link (-EINVAL: no endpoint). Masking what is masked is no error. From any thread, also from callbacks.
 */
int evlink_agent_mask(struct evlink_agent *agent, const char *endpoint);
int evlink_agent_unmask(struct evlink_agent *agent, const char *endpoint);

/*
 * Tells the broker that these dev/ endpoints (NULL-terminated, in full) of an agent can be plugged from now
 * on, and that they no longer can be, since the guest reset the device, say: what is plugged there is
 * unplugged when evlink_withdraw() returns, and the links wait. reason may be NULL.
 */
int evlink_offer(struct evlink_client *client, const char *agent, const char *const *endpoints);
int evlink_withdraw(
    struct evlink_client *client, const char *agent, const char *const *endpoints, const char *reason);

/* Has the broker unplug all that is plugged at an agent and forget the agent. */
int evlink_detach(struct evlink_client *client, const char *agent);

#ifdef __cplusplus
}
#endif

#endif
