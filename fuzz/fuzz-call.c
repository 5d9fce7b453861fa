/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls to a live server in this process: clients of several users on socket pairs, tenants on delegated
 * connections, agents that answer, one step of the loop after another; and servers after it, which come up
 * from what it kept in a vault. The input is steps, up to a NUL each, which also ends the frame that it may
 * be:
 *
 *  - V: as the first step: there is a vault
 *  - 0 1 2 3 [DESCRIPTORS]{CALL}: the client sends a call; the descriptors are letters, below
 *  - 4 to 9 [DESCRIPTORS]{CALL}: the same of a tenant, who is there once a client has called Delegate
 *  - x C, w C, r C: client C closes, sends no more, begins or stops to read
 *  - m A: agent A answers by hand from now on, or by itself again
 *  - a A[ERRNO]: it answers what it has been asked, all with this errno
 *  - j A{REPLY}: it answers with this
 *  - X A: it closes its socket
 *  - S A: what is plugged at it signals
 *  - l A, k A: time is up for the A-th agent of the model; its process dies
 *  - t: what is next to run out runs out
 *  - E: somebody signals the shared eventfd
 *  - P: the rules of the configuration count no more, or again
 *  - C: the configured links are looked at again
 *  - R: the server ends, and, where there is a vault, another one goes on
 *
 * The descriptors of a call:
 *
 *  - e: a new eventfd; s: a semaphore; E: the same eventfd each time; n: /dev/null
 *  - p: an end of a socket pair, whose other end is an agent's
 *  - d: a pidfd of this process; D: one of a dead one
 *  - b: none, but 16 KiB of blanks in front of the call
 *  - _: none, and the NUL is left away
 *
 * A '+' in front of a step has the loop wait for the next one. What must hold: the model's invariants; what
 * is a tenant's is in its scope; each answer is one to a call, in good form; an agent is asked for nothing
 * that its kernel would refuse; what was acknowledged is there in the next server, as it was, and nothing
 * else is; in the end all calls are answered, and when all are gone nothing is left.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "fuzz.h"
#include "invariants.h"
#include "kept.h"
#include "model/private.h"
#include "model/record.h"
#include "service/config.h"
#include "service/config_links.h"
#include "service/connection.h"
#include "service/passed.h"
#include "tests/json.h"
#include "wire/fields.h"
#include "wire/socket.h"
#include "wire/varlink.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_USERS 4 /* clients that connect by themselves: the others are tenants */
#define N_CLIENTS 10
#define N_AGENTS 6
#define STORED_MAX 16
#define BLANKS_MAX ((size_t)272 * 1024) /* more than a frame may have */
#define PLUGS_MAX 64
#define STEPS_MAX 64

/* Whoever a client is, the kernel would say that it is this one. */
static const uid_t uids[N_USERS] = { 0, 1000, 1000, 1001 };
static const char *const labels[N_USERS] = { NULL, NULL, NULL, "u:fuzz:s0" };

struct client {
    int fd; /* -1: not connected */
    uid_t uid;
    bool deaf;
    bool half; /* of a call it has sent some: what there is too much of is told before the rest */
    struct frame_in in;
    size_t calls, finals;
};

struct agent_end {
    int fd; /* -1: there is none */
    bool by_hand, honest;
    bool orphaned; /* who has asked for the items is gone */
    struct frame_in in;
    json_t *items; /* that it was asked for and has not answered; NULL: none */
    bool plugs;    /* that is Plug */
    bool inventory;
    struct fdset fds; /* that came with it */
    json_int_t token;
    struct {
        char endpoint[ENDPOINT_SIZE];
        json_int_t id;
        int fd;
    } plugged[PLUGS_MAX];
    size_t n_plugged;
};

static struct {
    struct server *server;
    struct client clients[N_CLIENTS];
    struct agent_end agents[N_AGENTS];
    int shared, dead;
    int listener; /* nobody connects to it */
    char config[32];
    struct evaio *aio;
    uid_t uid;         /* of who is being served */
    const char *label; /* NULL: none */
    bool vault, ruled;
    /* What the service manager would keep. */
    struct {
        char name[32];
        int fd;
    } stored[STORED_MAX];
    size_t n_stored;
} world;

/* ---- What the kernel would say ---- */

int __real_getsockopt(int fd, int level, int option, void *value, socklen_t *length);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *length);
int __wrap_discard_start(struct evaio *aio);
int __real_evaio_new(struct evaio **ret_aio);
int __wrap_evaio_new(struct evaio **ret_aio);
struct evaio *__wrap_evaio_free(struct evaio *aio);
void __real__exit(int status) __attribute__((noreturn));
void __wrap__exit(int status) __attribute__((noreturn));
int __real_connection_delegate(
    struct server *server, int fd, struct delegation *delegation, struct fault *fault);
int __wrap_connection_delegate(
    struct server *server, int fd, struct delegation *delegation, struct fault *fault);

int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
    int r = __real_getsockopt(fd, level, option, value, length);

    if (level == SOL_SOCKET && option == SO_PEERSEC && world.label) {
        *length = (socklen_t)strlen(world.label);
        memcpy(value, world.label, *length);
        return 0;
    }
    if (r == 0 && level == SOL_SOCKET && option == SO_PEERCRED) {
        struct ucred *credentials = value;

        credentials->uid = world.uid;
        credentials->gid = world.uid;
        credentials->pid = 1;
    } else if (r == 0 && level == SOL_SOCKET && option == SO_PEERGROUPS) {
        *length = 0;
    }
    return r;
}

/* What is closed is closed here and now: a child would do it some time. */
int __wrap_discard_start(struct evaio *aio)
{
    (void)aio;
    return 0;
}

/* One for all servers: the kernel takes its time to end one. */
int __wrap_evaio_new(struct evaio **ret_aio)
{
    *ret_aio = world.aio;
    return 0;
}

struct evaio *__wrap_evaio_free(struct evaio *aio)
{
    (void)aio;
    return NULL;
}

/* A server that cannot record a change ends the process, and leaves it to the next one: not here. */
void __wrap__exit(int status)
{
    MUST(status == 0);
    __real__exit(status);
}

/* Has long answers go out in parts, of 4 KiB or so. What agents are told goes out whole. */
static void make_narrow(int fd)
{
    const int size = 4096;

    MUST(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0);
}

int __wrap_connection_delegate(
    struct server *server, int fd, struct delegation *delegation, struct fault *fault)
{
    make_narrow(fd);
    return __real_connection_delegate(server, fd, delegation, fault);
}

/* ---- What the service manager would keep ---- */

int __wrap_passed_take(struct passed *passed, const char *name);
int __wrap_passed_store(const char *name, int fd);
int __wrap_passed_unstore(const char *name);
int __wrap_passed_barrier(void);

int __wrap_passed_take(struct passed *passed, const char *name)
{
    (void)passed;
    if (strcmp(name, "evlinkd-listener") == 0 || strcmp(name, "evlinkd-lock") == 0)
        return fd_dup(world.listener);
    for (size_t i = 0; i < world.n_stored; i++)
        if (strcmp(world.stored[i].name, name) == 0)
            return fd_dup(world.stored[i].fd);
    return -1;
}

int __wrap_passed_store(const char *name, int fd)
{
    MUST(world.n_stored < STORED_MAX && strlen(name) < sizeof(world.stored[0].name));
    strcpy(world.stored[world.n_stored].name, name);
    world.stored[world.n_stored++].fd = fd_dup(fd);
    return 0;
}

int __wrap_passed_unstore(const char *name)
{
    (void)name;
    MUST(world.n_stored == 0);
    return 0;
}

int __wrap_passed_barrier(void)
{
    return 0;
}

/* ---- The server ---- */

static const char configuration[] = "[Broker]\n"
                                    "AgentTimeout=3600\n"
                                    "MaxConnections=9\n"
                                    "MaxConnectionsPerUser=8\n"
                                    "MaxEventfds=20\n"
                                    "MaxEventfdsPerUser=12\n"
                                    "MaxLinks=16\n"
                                    "MaxLinksPerUser=10\n"
                                    "MaxAgents=5\n"
                                    "MaxAgentsPerUser=4\n"
                                    "MaxSubscribers=3\n"
                                    "MaxSubscribersPerUser=2\n"
                                    "MaxBytes=150000\n"
                                    "MaxBytesPerUser=100000\n"
                                    "MaxDescriptors=258\n"
                                    "MaxDescriptorsPerUser=256\n"
                                    "[Allow shared]\n"
                                    "User=1000 1001\n"
                                    "Verbs=*\n"
                                    "Names=shared*\n"
                                    "Endpoints=eventfd/shared* kvm/shared*\n"
                                    "[Allow see]\n"
                                    "User=1001\n"
                                    "Verbs=list attach\n"
                                    "Names=*\n"
                                    "Endpoints=kvm/vm*\n"
                                    "[Allow labelled]\n"
                                    "Label=*:fuzz:*\n"
                                    "Verbs=claim signal connect offer\n"
                                    "Names=labelled*\n"
                                    "Endpoints=eventfd/labelled* vfio/*\n"
                                    "[Link configured]\n"
                                    "Producers=eventfd/configured\n"
                                    "Consumers=kvm/vm1/gsi/9\n";

/* What all servers share: it costs too much to be had for each input. */
static void make_world(void)
{
    int fd = memfd_create("fuzz-config", MFD_CLOEXEC);
    const struct sockaddr anywhere = { .sa_family = AF_UNIX };
    const ssize_t length = sizeof(configuration) - 1;
    pid_t pid;

    fuzz_quiet();
    MUST(fd >= 0 && write(fd, configuration, (size_t)length) == length);
    (void)snprintf(world.config, sizeof(world.config), "/proc/self/fd/%d", fd);
    MUST(__real_evaio_new(&world.aio) == 0);
    world.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(world.listener >= 0 && bind(world.listener, &anywhere, sizeof(anywhere.sa_family)) == 0 &&
         listen(world.listener, 1) == 0);
    world.shared = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pid = fork();
    MUST(pid >= 0 && world.shared >= 0);
    if (pid == 0)
        _exit(0);
    world.dead = (int)syscall(SYS_pidfd_open, pid, 0);
    MUST(world.dead >= 0 && waitpid(pid, NULL, 0) == pid);
    for (size_t i = 0; i < N_CLIENTS; i++)
        world.clients[i].fd = -1;
    for (size_t i = 0; i < N_AGENTS; i++)
        world.agents[i].fd = -1;
}

static void new_server(void)
{
    const struct server_options options = { .config = world.config, .vault = world.vault };
    static const int signals[] = { SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
    struct sigaction actions[sizeof(signals) / sizeof(signals[0])];

    /* They are libFuzzer's, and stay so. */
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        MUST(sigaction(signals[i], NULL, &actions[i]) == 0);
    MUST(server_new(&options, &world.server) == 0);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        MUST(sigaction(signals[i], &actions[i], NULL) == 0);
    for (size_t i = 0; i < sizeof(world.server->signals) / sizeof(world.server->signals[0]); i++)
        (void)event_del(world.server->signals[i]);
    world.ruled = true;
}

/* As server_run() does. */
static void begin_service(void)
{
    world.server->recovering = model_is_recovering(world.server->model);
    if (!world.server->recovering)
        config_links_apply(world.server);
    server_arm(world.server);
}

/* ---- Clients ---- */

static void close_client(struct client *client)
{
    client->fd = fd_close(client->fd);
    frame_in_clear(&client->in);
    *client = (struct client){ .fd = -1 };
}

static void open_client(size_t i)
{
    int pair[2];

    if (world.clients[i].fd >= 0 || i >= N_USERS)
        return;
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    world.clients[i] = (struct client){ .fd = pair[0], .uid = uids[i], .in.limit = FRAME_REPLY_MAX };
    make_narrow(pair[1]);
    world.uid = uids[i];
    world.label = labels[i];
    MUST(connection_new(world.server, pair[1]) == 0);
    world.label = NULL;
}

static void add_tenant(int fd, uid_t uid)
{
    for (size_t i = N_USERS; i < N_CLIENTS; i++)
        if (world.clients[i].fd < 0) {
            world.clients[i] = (struct client){ .fd = fd, .uid = uid, .in.limit = FRAME_REPLY_MAX };
            return;
        }
    fd_close(fd);
}

static void add_agent(int fd)
{
    for (size_t i = 0; i < N_AGENTS; i++)
        if (world.agents[i].fd < 0) {
            world.agents[i] = (struct agent_end){ .fd = fd, .honest = true, .in.limit = FRAME_REPLY_MAX };
            return;
        }
    fd_close(fd);
}

static int make_descriptor(char letter)
{
    int pair[2];

    switch (letter) {
    case 'e':
    case 's':
        return eventfd(0, EFD_CLOEXEC | (letter == 's' ? EFD_SEMAPHORE : 0));
    case 'E':
        return fd_dup(world.shared);
    case 'p':
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        add_agent(pair[1]);
        return pair[0];
    case 'd':
        return (int)syscall(SYS_pidfd_open, getpid(), 0);
    case 'D':
        return fd_dup(world.dead);
    default:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    }
}

static void client_sends(size_t i, char *text, size_t length)
{
    struct client *client = &world.clients[i];
    struct iovec parts[2] = { 0 };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
    union socket_control control;
    struct fdset fds = FDSET_EMPTY;
    static char blanks[BLANKS_MAX];
    int numbers[8];
    size_t n = 0;
    bool whole = true;

    open_client(i);
    if (client->fd < 0)
        return;
    world.uid = client->uid;
    memset(blanks, ' ', sizeof(blanks));
    for (; *text && strchr("eEspndDb_", *text); text++, length--) {
        if (*text == '_')
            whole = false;
        else if (*text == 'b')
            parts[0].iov_len += parts[0].iov_len < BLANKS_MAX ? 16 * 1024 : 0;
        else if (n < 8)
            numbers[n++] = make_descriptor(*text);
    }
    for (size_t k = 0; k < n; k++)
        MUST(numbers[k] >= 0);
    MUST(fdset_adopt(&fds, numbers, n) == 0);
    client->half = !whole;
    client->calls += whole;
    parts[0].iov_base = blanks;
    parts[1] = (struct iovec){ .iov_base = text, .iov_len = length + whole };
    socket_attach(&message, &fds, &control);
    /* What the server does not read, or has closed, does not arrive. */
    (void)sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    fdset_clear(&fds);
}

/* Of Attach it is the agent's end, of Delegate the tenant's, of Claim an eventfd. */
static void take_fd(const struct client *client, const struct json_reply *reply, int fd)
{
    struct stat status;

    MUST(fstat(fd, &status) == 0);
    if (json_object_get(reply->parameters, "agent"))
        add_agent(fd);
    else if (S_ISSOCK(status.st_mode))
        add_tenant(fd, client->uid);
    else
        fd_close(fd);
}

static void take_reply(struct client *client, struct frame *frame)
{
    struct json_reply reply;
    json_t *index;

    MUST(json_reply_parse(frame->text, frame->length, &reply) == 0);
    MUST(!reply.error || (frame->fds.n == 0 && strchr(reply.error, '.')));
    client->finals += !reply.continues;
    MUST(client->finals <= client->calls + client->half);
    index = json_object_get(reply.parameters, "fileDescriptorIndex");
    MUST(frame->fds_lost || (index && !reply.error ? frame->fds.n == 1 : frame->fds.n == 0));
    if (frame->fds.n == 1)
        take_fd(client, &reply, fdset_steal(&frame->fds, 0));
    json_reply_clear(&reply);
}

/* Whether there was anything. */
static bool read_client(struct client *client)
{
    struct frame frame;
    bool any = false;
    int r = -EAGAIN;

    while (client->fd >= 0 && !client->deaf && (r = socket_receive(client->fd, &client->in)) > 0) {
        any = true;
        while (frame_in_next(&client->in, &frame) > 0) {
            take_reply(client, &frame);
            fdset_clear(&frame.fds);
        }
    }
    if (client->fd >= 0 && r != -EAGAIN) {
        close_client(client);
        any = true;
    }
    return any;
}

/* ---- Agents ---- */

static void forget_items(struct agent_end *agent)
{
    json_decref(agent->items);
    agent->items = NULL;
    agent->orphaned = false;
    fdset_clear(&agent->fds);
}

static void close_agent(struct agent_end *agent)
{
    forget_items(agent);
    for (size_t i = 0; i < agent->n_plugged; i++)
        fd_close(agent->plugged[i].fd);
    frame_in_clear(&agent->in);
    fd_close(agent->fd);
    *agent = (struct agent_end){ .fd = -1 };
}

static void send_reply(struct agent_end *agent, json_t *parameters)
{
    struct frame_out out = { 0 };

    MUST(parameters && json_reply_write(&out, parameters, false, NULL) == 0);
    (void)socket_send(agent->fd, &out);
    frame_out_clear(&out);
    json_decref(parameters);
}

static size_t find_plug(const struct agent_end *agent, const char *endpoint, json_int_t id)
{
    size_t i = 0;

    while (i < agent->n_plugged &&
           (strcmp(agent->plugged[i].endpoint, endpoint) != 0 || agent->plugged[i].id != id))
        i++;
    return i;
}

/* The kernel's part. What an agent whose answers were all true is told to plug, its kernel takes. */
static int plug(struct agent_end *agent, const char *endpoint, json_int_t id, int fd)
{
    struct endpoint this, other;
    const char *reason;

    MUST(endpoint_parse(endpoint, &this, &reason) == 0 && fd >= 0);
    for (size_t i = 0; i < agent->n_plugged && agent->honest; i++) {
        MUST(endpoint_parse(agent->plugged[i].endpoint, &other, &reason) == 0);
        MUST(!endpoint_collides(&this, &other));
        MUST(endpoint_compare(&this, &other) != 0 || agent->plugged[i].id != id);
    }
    if (agent->n_plugged == PLUGS_MAX)
        return ENOSPC;
    strcpy(agent->plugged[agent->n_plugged].endpoint, endpoint);
    agent->plugged[agent->n_plugged].id = id;
    agent->plugged[agent->n_plugged++].fd = fd_dup(fd);
    return 0;
}

static void unplug(struct agent_end *agent, const char *endpoint, json_int_t id)
{
    size_t i = find_plug(agent, endpoint, id);

    if (i == agent->n_plugged)
        return;
    fd_close(agent->plugged[i].fd);
    agent->plugged[i] = agent->plugged[--agent->n_plugged];
}

static void answer_items(struct agent_end *agent, int error)
{
    json_t *results = json_array(), *item;
    size_t i;

    json_array_foreach (agent->items, i, item) {
        const char *endpoint = json_string_value(json_object_get(item, "endpoint"));
        json_int_t id = json_integer_value(json_object_get(item, "eventfdId"));
        json_int_t index = json_integer_value(json_object_get(item, "fileDescriptorIndex"));
        int r = error;

        if (r == 0 && agent->plugs)
            r = plug(agent, endpoint, id, fdset_get(&agent->fds, (size_t)index));
        else if (r == 0)
            unplug(agent, endpoint, id);
        MUST(json_array_append_new(
                 results, r ? json_pack("{s:s, s:i, s:s}", "endpoint", endpoint, "errno", r, "errnoName", "E")
                            : json_pack("{s:s}", "endpoint", endpoint)) == 0);
    }
    forget_items(agent);
    send_reply(agent, json_pack("{s:o}", "results", results));
}

static void answer_inventory(struct agent_end *agent)
{
    json_t *plugged = json_array();

    for (size_t i = 0; i < agent->n_plugged; i++)
        MUST(json_array_append_new(plugged, json_pack("{s:s, s:I}", "endpoint", agent->plugged[i].endpoint,
                                                "eventfdId", agent->plugged[i].id)) == 0);
    agent->inventory = false;
    send_reply(agent, json_pack("{s:o, s:I}", "plugged", plugged, "token", agent->token));
}

/* In order: what one server has asked for, and has not heard of, comes before what the next one asks. */
static void answer(struct agent_end *agent, int error)
{
    if (agent->items)
        answer_items(agent, error);
    if (agent->inventory)
        answer_inventory(agent);
}

static void take_items(struct agent_end *agent, struct frame *frame, json_t *items)
{
    size_t expected = 0, i;
    json_t *item;

    /* One call at a time. */
    MUST(!agent->items && !agent->inventory);
    json_array_foreach (items, i, item) {
        struct endpoint endpoint;
        const char *reason;

        MUST(endpoint_parse(json_string_value(json_object_get(item, "endpoint")), &endpoint, &reason) == 0);
        MUST(json_integer_value(json_object_get(item, "fileDescriptorIndex")) == (json_int_t)expected++);
        if (json_object_get(item, "resampleFileDescriptorIndex"))
            expected++;
        MUST(endpoint_is_level(&endpoint) == !!json_object_get(item, "resampleFileDescriptorIndex"));
    }
    MUST(json_array_size(items) > 0 && frame->fds.n == expected);
    agent->items = json_incref(items);
    agent->fds = fdset_take(&frame->fds);
}

static void take_call(struct agent_end *agent, struct frame *frame)
{
    struct json_call call;
    json_t *items;

    MUST(json_call_parse(frame->text, frame->length, &call) == 0);
    items = json_object_get(call.parameters, "items");
    agent->plugs = strcmp(call.method, "io.evlink.Agent.Plug") == 0;
    if (agent->plugs || strcmp(call.method, "io.evlink.Agent.Unplug") == 0) {
        take_items(agent, frame, items);
    } else if (strcmp(call.method, "io.evlink.Agent.Inventory") == 0) {
        MUST((!agent->items || agent->orphaned) && !agent->inventory && frame->fds.n == 0);
        agent->inventory = true;
        agent->token = json_integer_value(json_object_get(call.parameters, "token"));
    } else {
        MUST(strcmp(call.method, "io.evlink.Agent.Notify") == 0 && call.oneway && frame->fds.n == 0);
    }
    json_call_clear(&call);
}

static bool run_agent(struct agent_end *agent)
{
    struct frame frame;
    bool any = false;
    int r = -EAGAIN;

    while (agent->fd >= 0 && (r = socket_receive(agent->fd, &agent->in)) > 0) {
        any = true;
        while (frame_in_next(&agent->in, &frame) > 0) {
            take_call(agent, &frame);
            fdset_clear(&frame.fds);
        }
    }
    if (agent->fd >= 0 && r != -EAGAIN) {
        close_agent(agent);
        return true;
    }
    if (agent->fd >= 0 && !agent->by_hand && (agent->items || agent->inventory)) {
        answer(agent, 0);
        any = true;
    }
    return any;
}

/* ---- Steps ---- */

/* What came through a scope has a name in it, and so has all that comes of it. */
static void check_scopes(struct model *model)
{
    struct agent *agent;
    struct held *held;
    struct link *link;

    RB_FOREACH (held, held_tree, &model->held)
        MUST(scope_has(peer_scope(&held->owner), held->name));
    RB_FOREACH (agent, agent_tree, &model->agents)
        MUST(scope_has(peer_scope(&agent->owner), agent->name));
    RB_FOREACH (link, link_tree, &model->links) {
        MUST(scope_has(peer_scope(&link->owner), link->name));
        MUST(!link->group || scope_has(peer_scope(&link->owner), link->group));
    }
}

/* What is charged is what there is. */
static void check_charges(const struct server *server)
{
    const struct model *model = server->model;
    struct connection *connection;
    size_t bytes = 0, descriptors = 0, offers = 0;
    struct agent *agent;

    LIST_FOREACH (connection, &server->connections, in_server) {
        bytes +=
            connection->bytes_in + connection->bytes_out + connection->bytes_line + connection->bytes_call;
        descriptors += connection->fds_in + connection->fds_out;
    }
    RB_FOREACH (agent, agent_tree, (struct agent_tree *)&model->agents)
        offers += agent->n_charged;
    MUST(model->used[QUOTA_CONNECTIONS] == server->n_connections);
    MUST(model->used[QUOTA_OFFERS] == offers);
    MUST(model->used[QUOTA_EVENTFDS] == model->counts.eventfds);
    MUST(model->used[QUOTA_BYTES] == bytes && model->used[QUOTA_DESCRIPTORS] == descriptors);
}

/* Runs the loop until nothing happens any more. */
static void settle(void)
{
    struct event_base *base = world.server->base;
    struct connection *connection;

    for (int quiet = 0; quiet < 3; quiet++) {
        /* Their pause is over. */
        LIST_FOREACH (connection, &world.server->connections, in_server)
            if (connection->waits)
                connection_resume(connection);
        MUST(event_base_loop(base, EVLOOP_NONBLOCK) >= 0);
        for (size_t i = 0; i < N_AGENTS; i++)
            if (run_agent(&world.agents[i]))
                quiet = 0;
        for (size_t i = 0; i < N_CLIENTS; i++)
            if (read_client(&world.clients[i]))
                quiet = 0;
        if (event_base_get_num_events(base, EVENT_BASE_COUNT_ACTIVE) > 0)
            quiet = 0;
    }
    check_model(world.server->model);
    check_scopes(world.server->model);
    check_charges(world.server);
    MUST(!world.vault || !model_is_due(world.server->model));
}

static struct agent *model_agent(unsigned i)
{
    struct agent *agent = RB_MIN(agent_tree, &world.server->model->agents);

    while (agent && i-- > 0)
        agent = RB_NEXT(agent_tree, &world.server->model->agents, agent);
    return agent;
}

static void signal_plugs(const struct agent_end *agent)
{
    const uint64_t one = 1;

    for (size_t i = 0; i < agent->n_plugged; i++)
        MUST(write(agent->plugged[i].fd, &one, sizeof(one)) >= 0 || errno == EAGAIN);
}

static void step_client(char verb, struct client *client)
{
    if (client->fd < 0)
        return;
    if (verb == 'x')
        close_client(client);
    else if (verb == 'w')
        (void)shutdown(client->fd, SHUT_WR);
    else
        client->deaf = !client->deaf;
}

static void step_agent(char verb, struct agent_end *agent, const char *text, size_t length)
{
    struct frame_out out = { 0 };
    int error = atoi(text);

    if (agent->fd < 0)
        return;
    switch (verb) {
    case 'm':
        agent->by_hand = !agent->by_hand;
        break;
    case 'a':
        answer(agent, error >= 0 && error < 4096 ? error : 0);
        break;
    case 'j':
        /* From now on nobody knows what it has plugged. */
        agent->honest = agent->inventory = false;
        forget_items(agent);
        MUST(frame_out_add(&out, text, length) == 0 && frame_out_finish(&out, 0, NULL) == 0);
        (void)socket_send(agent->fd, &out);
        frame_out_clear(&out);
        break;
    case 'X':
        close_agent(agent);
        break;
    case 'S':
        signal_plugs(agent);
        break;
    }
}

/* Whoever has connected is to connect again; tenants and agents notice nothing. */
static void restart(void)
{
    json_t *before, *expected;

    if (!world.vault)
        return;
    before = kept(world.server);
    expected = records(world.server);
    server_free(world.server);
    MUST(strcmp(world.stored[0].name, "vault-log") == 0);
    check_records(expected, world.stored[0].fd);
    for (size_t i = 0; i < N_USERS; i++)
        close_client(&world.clients[i]);
    for (size_t i = 0; i < N_AGENTS; i++) {
        world.agents[i].orphaned = world.agents[i].items;
        world.agents[i].inventory = false;
    }
    new_server();
    check_kept(before, kept(world.server));
    check_model(world.server->model);
    begin_service();
}

static void step_model(char verb, struct agent *agent)
{
    struct model *model = world.server->model;
    const uint64_t one = 1;

    switch (verb) {
    case 'l':
        if (agent && agent->flying != OP_NONE && !agent->late)
            model_agent_late(agent);
        break;
    case 'k':
        if (agent)
            model_agent_dead(agent);
        break;
    case 't':
        if (model_deadline(model) >= 0)
            model_expire(model, model_deadline(model));
        break;
    case 'E':
        MUST(write(world.shared, &one, sizeof(one)) >= 0 || errno == EAGAIN);
        break;
    case 'P':
        world.ruled = !world.ruled;
        model_set_policy(model, world.ruled ? &world.server->config->policy : NULL);
        break;
    case 'C':
        config_links_apply(world.server);
        break;
    }
    server_arm(world.server);
}

static void step(char *text, size_t length)
{
    char verb = text[0];
    unsigned which = length > 1 && text[1] >= '0' && text[1] <= '9' ? (unsigned)(text[1] - '0') : 0;

    if (verb >= '0' && verb < '0' + N_CLIENTS) {
        client_sends((size_t)(verb - '0'), text + 1, length - 1);
    } else if (verb && strchr("xwr", verb)) {
        step_client(verb, &world.clients[which % N_CLIENTS]);
    } else if (verb && strchr("majXS", verb)) {
        step_agent(
            verb, &world.agents[which % N_AGENTS], length > 2 ? text + 2 : "", length > 2 ? length - 2 : 0);
    } else if (verb == 'R') {
        restart();
    } else {
        step_model(verb, model_agent(which));
    }
}

/* ---- The end ---- */

/* Whether a call of the connection's has to wait for something. */
static bool is_open_ended(const struct connection *connection)
{
    return connection->monitor || connection->waits;
}

/* When every agent has answered, so has the server. */
static void check_answered(void)
{
    struct connection *connection;
    struct agent *agent;

    for (size_t i = 0; i < N_AGENTS; i++)
        world.agents[i].by_hand = false;
    for (size_t i = 0; i < N_CLIENTS; i++)
        world.clients[i].deaf = false;
    settle();
    /* One that answered by hand, and answered nothing to the last call, will not. */
    for (unsigned i = 0; (agent = model_agent(i)); i++)
        if (agent->flying != OP_NONE || agent->late || agent->doubted)
            return;
    for (size_t i = 0; i < N_AGENTS; i++)
        if (world.agents[i].fd >= 0 && !world.agents[i].honest)
            return;
    MUST(!world.server->recovering);
    check_model_at_rest(world.server->model);
    LIST_FOREACH (connection, &world.server->connections, in_server)
        MUST(!connection->call.root || is_open_ended(connection));
}

/* All are gone. What has outlived them is what held eventfds and links are charged for. */
static void check_nothing_left(const struct server *server)
{
    const struct model *model = server->model;

    MUST(LIST_EMPTY(&server->connections) && server->n_connections == 0 && LIST_EMPTY(&server->monitors));
    for (size_t i = 0; i < N_QUOTAS; i++)
        MUST(model->used[i] == 0 || i == QUOTA_EVENTFDS || i == QUOTA_LINKS);
}

static void end(void)
{
    struct agent *agent, *next;
    uint64_t count;

    check_answered();
    restart();
    for (size_t i = 0; i < N_CLIENTS; i++)
        close_client(&world.clients[i]);
    for (size_t i = 0; i < N_AGENTS; i++)
        close_agent(&world.agents[i]);
    settle();
    /* Of lost ones nothing is known until their processes are dead. */
    LIST_FOREACH_SAFE (agent, &world.server->model->going, in_going, next)
        model_agent_dead(agent);
    server_arm(world.server);
    settle();
    check_nothing_left(world.server);
    world.server = server_free(world.server);
    while (world.n_stored > 0)
        fd_close(world.stored[--world.n_stored].fd);
    MUST(read(world.shared, &count, sizeof(count)) >= 0 || errno == EAGAIN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = { data, data + size };
    size_t before;

    if (!world.aio)
        make_world();
    before = fuzz_count_fds();
    world.vault = size > 1 && data[0] == 'V' && data[1] == '\0';
    new_server();
    begin_service();
    for (int i = 0; i < STEPS_MAX && input_left(&input) > 0; i++) {
        size_t length;
        char *text = input_text(&input, '\0', &length);
        bool wait = text[0] == '+';

        if (length > wait)
            step(text + wait, length - wait);
        if (!wait)
            settle();
        free(text);
    }
    end();
    MUST(fuzz_count_fds() == before);
    return 0;
}
