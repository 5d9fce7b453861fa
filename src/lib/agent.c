/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's life: made, attached, served by one thread at a time (a thread of its own, the caller's in
 * evlink_agent_run(), the caller's loop, or a client's call that waits), stopped and freed. What it does when
 * it is served is in session.c and plugs.c.
 *
 * What it keeps true: whoever serves has the mutex `serving`; whoever polls has one descriptor, an epoll
 * instance with the socket and with an eventfd that wakes.
 */
#include "lib/agent.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "endpoint/endpoint.h"
#include "lib/client.h"
#include "lib/session.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    TAG_WAKE,
    TAG_SOCKET,
};

struct evlink_agent {
    char name[NAME_SIZE];
    unsigned flags;
    struct evl_plugs plugs;

    int epoll;
    int wake; /* an eventfd: look at stop and ended again */

    /* Under serving. */
    pthread_mutex_t serving;
    struct evl_session session;
    int ended; /* why the session ended while nobody was told; 0 */

    atomic_bool attached;
    atomic_bool running; /* evlink_agent_run() or the thread; from their beginning to their end */
    atomic_bool stop;
    atomic_uintptr_t server; /* the thread that serves, 0 for none: to know our own callbacks */

    /* The thread. */
    pthread_mutex_t control;
    pthread_cond_t joined;
    bool has_thread, joining;
    pthread_t thread;
    int result;

    struct evl_tie *tie;
};

/* ---- Made and freed ---- */

int evlink_agent_new(const char *name, unsigned flags, struct evlink_agent **ret_agent)
{
    struct epoll_event event = { .events = EPOLLIN, .data.u32 = TAG_WAKE };
    struct evlink_agent *agent;

    if (!name_is_valid(name) || flags & ~(unsigned)(EVLINK_AGENT_KEEP | EVLINK_AGENT_TAKEOVER))
        return -EINVAL;
    agent = calloc(1, sizeof(*agent));
    if (!agent)
        return -ENOMEM;
    strcpy(agent->name, name);
    agent->flags = flags;
    agent->session.fd = -1;
    evl_plugs_init(&agent->plugs, flags & EVLINK_AGENT_KEEP);
    /* None of these can fail with default attributes. */
    (void)pthread_mutex_init(&agent->serving, NULL);
    (void)pthread_mutex_init(&agent->control, NULL);
    (void)pthread_cond_init(&agent->joined, NULL);
    agent->epoll = epoll_create1(EPOLL_CLOEXEC);
    agent->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (agent->epoll < 0 || agent->wake < 0 ||
        epoll_ctl(agent->epoll, EPOLL_CTL_ADD, agent->wake, &event) < 0) {
        int r = -errno;

        evlink_agent_free(agent);
        return r;
    }
    *ret_agent = agent;
    return 0;
}

struct evlink_agent *evlink_agent_free(struct evlink_agent *agent)
{
    if (!agent)
        return NULL;
    /* First of all: a client must not take up what the thread lets go. */
    if (agent->tie)
        evl_tie_cut(agent->tie);
    evl_tie_unref(agent->tie);
    (void)evlink_agent_stop(agent);
    evl_session_close(&agent->session);
    evl_plugs_clear(&agent->plugs);
    fd_close(agent->epoll);
    fd_close(agent->wake);
    (void)pthread_cond_destroy(&agent->joined);
    (void)pthread_mutex_destroy(&agent->control);
    (void)pthread_mutex_destroy(&agent->serving);
    free(agent);
    return NULL;
}

static int add(struct evlink_agent *agent, enum subsystem kind, const char *name, int fd,
    const struct evlink_agent_ops *ops, void *userdata)
{
    if (atomic_load(&agent->attached))
        return -EISCONN;
    return evl_plugs_add(&agent->plugs, kind, name, fd, ops, userdata);
}

int evlink_agent_add_kvm(
    struct evlink_agent *agent, const char *vm, int vm_fd, const struct evlink_agent_ops *ops, void *userdata)
{
    return add(agent, SUBSYSTEM_KVM, vm, vm_fd, ops, userdata);
}

int evlink_agent_add_vfio(struct evlink_agent *agent, const char *device, int device_fd,
    const struct evlink_agent_ops *ops, void *userdata)
{
    return add(agent, SUBSYSTEM_VFIO, device, device_fd, ops, userdata);
}

int evlink_agent_add_vhost(struct evlink_agent *agent, const char *device, int vhost_fd,
    const struct evlink_agent_ops *ops, void *userdata)
{
    return add(agent, SUBSYSTEM_VHOST, device, vhost_fd, ops, userdata);
}

/* ---- Attached ---- */

static void add_subsystems(struct emit *emit, const struct evl_plugs *plugs)
{
    enum subsystem kind;
    const char *name;

    emit_open_array(emit, "subsystems");
    for (size_t i = 0; (name = evl_plugs_subsystem(plugs, i, &kind)); i++) {
        emit_open(emit, NULL);
        emit_string(emit, "kind", subsystem_name(kind));
        emit_string(emit, "name", name);
        emit_close(emit);
    }
    emit_close_array(emit);
}

static bool served_by_us(struct evlink_agent *agent)
{
    return atomic_load(&agent->server) == (uintptr_t)pthread_self();
}

static void begin_serving(struct evlink_agent *agent)
{
    (void)pthread_mutex_lock(&agent->serving);
    atomic_store(&agent->server, (uintptr_t)pthread_self());
}

static void end_serving(struct evlink_agent *agent)
{
    atomic_store(&agent->server, 0);
    (void)pthread_mutex_unlock(&agent->serving);
}

/* Asks the broker for the agent's end of a socket pair that the broker makes. */
static int ask(struct evlink_agent *agent, struct evlink_client *client, int *ret_fd)
{
    static const struct field fields[] = {
        { "fileDescriptorIndex", FIELD_INT, 0, FIELD_REQUIRED },
        FIELDS_END,
    };
    CLEANUP(evl_answer_clear) struct evl_answer answer = { 0 };
    struct evl_params params;
    struct fdset fds = FDSET_EMPTY;
    struct opt_int index = { 0 };
    const char *bad;
    int pidfd, r;

    evl_params_begin(&params, BROKER("Attach"));
    evl_params_string(&params, "name", agent->name);
    add_subsystems(&params.emit, &agent->plugs);
    if (agent->flags & EVLINK_AGENT_TAKEOVER)
        evl_params_bool(&params, "takeover", true);
    /* Linux 5.3. Without it, the broker knows of our end when the socket closes. */
    pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (pidfd >= 0) {
        if (fdset_adopt(&fds, &pidfd, 1) < 0)
            evl_params_fail(&params, -ENOMEM, "out of memory");
        evl_params_int(&params, "pidfdFileDescriptorIndex", 0);
    }
    r = evl_client_call(client, &params, &fds, &answer);
    if (r != 0)
        return r;
    if (fields_read(answer.reply.parameters, fields, FIELDS_LENIENT, &index, &bad) < 0)
        return evl_client_nonsense(client, bad);
    return evl_client_steal(client, &answer, index, ret_fd);
}

int evlink_agent_attach(struct evlink_agent *agent, struct evlink_client *client)
{
    int fd, r;

    if (agent->plugs.n_subsystems == 0)
        return evl_client_say(client, -EINVAL,
            "the agent '%s' has nothing to plug into: evlink_agent_add_kvm(), _vfio() or _vhost() comes "
            "first",
            agent->name);
    if (atomic_load(&agent->attached))
        return evl_client_say(client, -EISCONN, "the agent '%s' is attached already", agent->name);
    /* Whose calls are to serve it; the client of an earlier session forgets it. */
    if (agent->tie) {
        evl_tie_cut(agent->tie);
        agent->tie = evl_tie_unref(agent->tie);
    }
    r = ask(agent, client, &fd);
    if (r != 0)
        return r;
    agent->tie = evl_tie_new(agent);
    r = agent->tie ? evl_client_add_tie(client, agent->tie) : -ENOMEM;
    if (r == 0) {
        begin_serving(agent);
        r = evl_session_open(&agent->session, agent->epoll, TAKE_FD(fd), TAG_SOCKET);
        if (r == 0) {
            agent->ended = 0;
            atomic_store(&agent->stop, false);
            atomic_store(&agent->attached, true);
        }
        end_serving(agent);
    }
    /* The broker takes the closed socket for what it is. */
    fd_close(fd);
    return r < 0 ? evl_client_say(client, r, "the agent '%s' was attached, but cannot be served: %s",
                       agent->name, strerror(-r))
                 : 0;
}

/* ---- Served ---- */

static void wake_up(struct evlink_agent *agent)
{
    const uint64_t one = 1;

    /* Nobody else has this eventfd, and a full one is as good. */
    (void)!write(agent->wake, &one, sizeof(one));
}

static void clear_wake(struct evlink_agent *agent)
{
    uint64_t count;

    (void)!read(agent->wake, &count, sizeof(count));
}

/* Serves what has come. A session that fails is over: plugs stay plugged, and in the table. */
static int process(struct evlink_agent *agent, const atomic_bool *stop)
{
    int r;

    r = evl_session_process(&agent->session, &agent->plugs, stop);
    if (r < 0) {
        evl_session_close(&agent->session);
        atomic_store(&agent->attached, false);
    }
    return r;
}

static int loop(struct evlink_agent *agent)
{
    struct epoll_event events[2];
    int n, r;

    for (;;) {
        r = process(agent, &agent->stop);
        if (r < 0 || atomic_load(&agent->stop))
            return r;
        n = epoll_wait(agent->epoll, events, (int)ARRAY_SIZE(events), -1);
        if (n < 0 && errno != EINTR)
            return -errno;
        for (int i = 0; i < n; i++)
            if (events[i].data.u32 == TAG_WAKE)
                clear_wake(agent);
    }
}

/* running is set, by us. */
static int run(struct evlink_agent *agent)
{
    int r;

    begin_serving(agent);
    if (agent->session.fd >= 0)
        r = loop(agent);
    else
        r = agent->ended < 0 ? agent->ended : -ENOTCONN;
    agent->ended = 0;
    end_serving(agent);
    atomic_store(&agent->running, false);
    return r;
}

int evlink_agent_run(struct evlink_agent *agent)
{
    int r;

    if (served_by_us(agent))
        return -EDEADLK;
    if (atomic_exchange(&agent->running, true))
        return -EBUSY;
    r = run(agent);
    atomic_store(&agent->stop, false);
    return r;
}

static void *thread_main(void *data)
{
    struct evlink_agent *agent = data;

    agent->result = run(agent);
    return NULL;
}

/* Waits for the thread's end. control is held, and is not while it waits. */
static int join(struct evlink_agent *agent)
{
    int r;

    while (agent->joining)
        (void)pthread_cond_wait(&agent->joined, &agent->control);
    if (!agent->has_thread)
        return 0;
    agent->joining = true;
    (void)pthread_mutex_unlock(&agent->control);
    (void)pthread_join(agent->thread, NULL);
    (void)pthread_mutex_lock(&agent->control);
    r = agent->result;
    agent->joining = agent->has_thread = false;
    atomic_store(&agent->stop, false);
    (void)pthread_cond_broadcast(&agent->joined);
    return r;
}

static int create_thread(struct evlink_agent *agent)
{
    sigset_t all, before;
    int r;

    /* Signals are for the program's threads; a thread is born with its maker's mask. */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    r = -pthread_create(&agent->thread, NULL, thread_main, agent);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r;
}

int evlink_agent_start(struct evlink_agent *agent)
{
    int r = 0;

    if (served_by_us(agent))
        return -EDEADLK;
    (void)pthread_mutex_lock(&agent->control);
    if (!atomic_load(&agent->attached))
        r = -ENOTCONN;
    else if (atomic_exchange(&agent->running, true))
        r = -EBUSY;
    if (r == 0) {
        (void)join(agent); /* one that ended by itself, with the session before */
        atomic_store(&agent->stop, false);
        r = create_thread(agent);
        agent->has_thread = r == 0;
        if (r < 0)
            atomic_store(&agent->running, false);
    }
    (void)pthread_mutex_unlock(&agent->control);
    return r;
}

int evlink_agent_stop(struct evlink_agent *agent)
{
    int r = 0;

    atomic_store(&agent->stop, true);
    wake_up(agent);
    /* A callback cannot wait for its own return. */
    if (served_by_us(agent))
        return 0;
    (void)pthread_mutex_lock(&agent->control);
    r = join(agent);
    (void)pthread_mutex_unlock(&agent->control);
    return r;
}

int evlink_agent_fd(struct evlink_agent *agent)
{
    return agent->epoll;
}

int evlink_agent_dispatch(struct evlink_agent *agent)
{
    int r;

    if (served_by_us(agent))
        return -EDEADLK;
    if (atomic_load(&agent->running))
        return -EBUSY;
    begin_serving(agent);
    clear_wake(agent);
    if (agent->session.fd >= 0)
        r = process(agent, NULL);
    else
        r = agent->ended < 0 ? agent->ended : -ENOTCONN;
    if (r < 0)
        agent->ended = 0;
    end_serving(agent);
    return r;
}

int evl_agent_unserved_fd(struct evlink_agent *agent)
{
    if (!atomic_load(&agent->attached) || atomic_load(&agent->running) || served_by_us(agent))
        return -1;
    return agent->epoll;
}

void evl_agent_serve_once(struct evlink_agent *agent)
{
    int r;

    if (evl_agent_unserved_fd(agent) < 0 || pthread_mutex_trylock(&agent->serving) != 0)
        return;
    atomic_store(&agent->server, (uintptr_t)pthread_self());
    clear_wake(agent);
    r = agent->session.fd >= 0 ? process(agent, NULL) : 0;
    if (r < 0) {
        /* It is the owner's dispatch that has to hear of it. */
        agent->ended = r;
        wake_up(agent);
    }
    end_serving(agent);
}

/* ---- Masked ---- */

int evlink_agent_mask(struct evlink_agent *agent, const char *endpoint)
{
    return evl_plugs_mask(&agent->plugs, endpoint, true);
}

int evlink_agent_unmask(struct evlink_agent *agent, const char *endpoint)
{
    return evl_plugs_mask(&agent->plugs, endpoint, false);
}
