/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls to a live server in this process: clients of several users on socket pairs, agents that answer, one
 * step of the loop after another. The input is steps, up to a NUL each, which also ends the frame that it may
 * be:
 *
 *   0 1 2 3 [DESCRIPTORS]{CALL}   the client sends a call; the descriptors are letters:
 *                                  e a new eventfd, s a semaphore, E the same eventfd each time, n /dev/null,
 *                                  p an end of a socket pair, whose other end is an agent's, d a pidfd of
 * this process, D one of a dead one; _ leaves the NUL away x C, w C, r C                  client C closes,
 * sends no more, begins or stops to read m A, a A[ERRNO], j A{REPLY}    agent A answers by hand from now on,
 * or by itself again; answers what it has been asked, all with this errno; answers with this X A agent A
 * closes its socket l A, k A                       time is up for the A-th agent of the model; its process
 * dies t                              what is next to run out runs out S A                            what is
 * plugged at agent A signals E                              somebody signals the shared eventfd P the rules
 * of the configuration count no more, or again C                              the configuration is read again
 *
 * A '+' in front of a step has the loop wait for the next one. What must hold: the model's invariants; each
 * answer is one to a call, in good form; an agent is asked for nothing that its kernel would refuse; in the
 * end all calls are answered, and when all are gone nothing is left.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "fuzz.h"
#include "invariants.h"
#include "model/private.h"
#include "service/config.h"
#include "service/config_links.h"
#include "service/connection.h"
#include "tests/json.h"
#include "wire/fields.h"
#include "wire/socket.h"
#include "wire/varlink.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_CLIENTS 4
#define N_AGENTS 6
#define PLUGS_MAX 64
#define STEPS_MAX 64

/* Whoever a client is, the kernel would say that it is this one. */
static const uid_t uids[N_CLIENTS] = { 0, 1000, 1000, 1001 };

struct client {
    int fd; /* -1: not connected */
    bool deaf;
    struct frame_in in;
    size_t calls, finals;
};

struct agent_end {
    int fd; /* -1: there is none */
    bool by_hand, honest;
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
    uid_t uid; /* of who is being served */
    bool ruled;
} world;

/* ---- What the kernel would say ---- */

int __real_getsockopt(int fd, int level, int option, void *value, socklen_t *length);
int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *length);
int __wrap_discard_start(struct evaio *aio);

int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
    int r = __real_getsockopt(fd, level, option, value, length);

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

/* ---- The server ---- */

static const char configuration[] = "[Broker]\n"
                                    "AgentTimeout=3600\n"
                                    "MaxEventfdsPerUser=12\n"
                                    "MaxLinksPerUser=10\n"
                                    "MaxAgentsPerUser=4\n"
                                    "MaxSubscribersPerUser=2\n"
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
                                    "[Link configured]\n"
                                    "Producers=eventfd/configured\n"
                                    "Consumers=kvm/vm1/gsi/9\n";

static void start_server(void)
{
    char folder[] = "/tmp/evlink-fuzz-XXXXXX", config[64], path[64], lock[80];
    struct server_options options = { .path = path, .config = config };
    pid_t pid;
    FILE *file;

    fuzz_quiet();
    MUST(mkdtemp(folder));
    (void)snprintf(config, sizeof(config), "%s/config", folder);
    (void)snprintf(path, sizeof(path), "%s/socket", folder);
    (void)snprintf(lock, sizeof(lock), "%s/socket.lock", folder);
    file = fopen(config, "we");
    MUST(file && fputs(configuration, file) >= 0 && fclose(file) == 0);
    MUST(server_new(&options, &world.server) == 0);
    MUST(unlink(config) == 0 && unlink(path) == 0 && unlink(lock) == 0 && rmdir(folder) == 0);
    /* They are libFuzzer's. */
    for (size_t i = 0; i < sizeof(world.server->signals) / sizeof(world.server->signals[0]); i++)
        (void)event_del(world.server->signals[i]);
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

/* A model as new, in the same server: what the process has costs too much to be had for each input. */
static void renew_model(void)
{
    struct server *server = world.server;
    const struct model_hooks *hooks = server->model->hooks;

    model_free(server->model);
    MUST(LIST_EMPTY(&server->sessions));
    MUST(model_new(hooks, server, server->aio, &server->model) == 0);
    model_set_limits(server->model, &server->config->limits);
    model_set_policy(server->model, &server->config->policy);
    world.ruled = true;
    server->armed = -1;
    (void)event_del(server->timer);
    (void)event_del(server->relink);
    server->links_missing = false;
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

    if (world.clients[i].fd >= 0)
        return;
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    world.clients[i] = (struct client){ .fd = pair[0], .in.limit = FRAME_REPLY_MAX };
    MUST(connection_new(world.server, pair[1]) == 0);
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
    struct frame_out out = { 0 };
    struct fdset fds = FDSET_EMPTY;
    int numbers[8];
    size_t n = 0;
    bool whole = true;

    open_client(i);
    for (; *text && strchr("eEspndD_", *text); text++, length--) {
        if (*text == '_')
            whole = false;
        else if (n < 8)
            numbers[n++] = make_descriptor(*text);
    }
    for (size_t k = 0; k < n; k++)
        MUST(numbers[k] >= 0);
    MUST(fdset_adopt(&fds, numbers, n) == 0);
    if (length + 1 > FRAME_MAX)
        length = 0;
    MUST(frame_out_add(&out, text, length) == 0);
    if (whole) {
        MUST(frame_out_finish(&out, 0, &fds) == 0);
        client->calls++;
    }
    /* What the server does not read, or has closed, does not arrive. */
    (void)socket_send(client->fd, &out);
    frame_out_clear(&out);
    fdset_clear(&fds);
}

static void take_reply(struct client *client, struct frame *frame)
{
    struct json_reply reply;
    json_t *index;

    MUST(json_reply_parse(frame->text, frame->length, &reply) == 0);
    MUST(!reply.error || (frame->fds.n == 0 && strchr(reply.error, '.')));
    client->finals += !reply.continues;
    MUST(client->finals <= client->calls);
    index = json_object_get(reply.parameters, "fileDescriptorIndex");
    MUST(frame->fds_lost || (index && !reply.error ? frame->fds.n == 1 : frame->fds.n == 0));
    /* Of Attach it is the agent's end, of Claim an eventfd. */
    if (frame->fds.n == 1 && json_object_get(reply.parameters, "agent"))
        add_agent(fdset_steal(&frame->fds, 0));
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
    agent->inventory = false;
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

static void answer(struct agent_end *agent, int error)
{
    if (agent->items)
        answer_items(agent, error);
    else if (agent->inventory)
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
        MUST(!agent->items && !agent->inventory && frame->fds.n == 0);
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
        agent->honest = false;
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
        world.uid = uids[verb - '0'];
        client_sends((size_t)(verb - '0'), text + 1, length - 1);
    } else if (verb && strchr("xwr", verb)) {
        step_client(verb, &world.clients[which % N_CLIENTS]);
    } else if (verb && strchr("majXS", verb)) {
        step_agent(
            verb, &world.agents[which % N_AGENTS], length > 2 ? text + 2 : "", length > 2 ? length - 2 : 0);
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
    check_model_at_rest(world.server->model);
    LIST_FOREACH (connection, &world.server->connections, in_server)
        MUST(!connection->call.root || is_open_ended(connection));
}

static void end(void)
{
    struct server *server = world.server;
    uint64_t count;

    check_answered();
    for (size_t i = 0; i < N_CLIENTS; i++)
        close_client(&world.clients[i]);
    for (size_t i = 0; i < N_AGENTS; i++)
        close_agent(&world.agents[i]);
    settle();
    MUST(LIST_EMPTY(&server->connections) && server->n_connections == 0 && LIST_EMPTY(&server->monitors));
    renew_model();
    MUST(read(world.shared, &count, sizeof(count)) >= 0 || errno == EAGAIN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = { data, data + size };
    size_t before;

    if (!world.server)
        start_server();
    before = fuzz_count_fds();
    config_links_apply(world.server);
    server_arm(world.server);
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
