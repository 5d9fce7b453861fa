/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The methods on agents. */
#include "base/cleanup.h"
#include "base/discard.h"
#include "base/fd.h"
#include "service/method.h"
#include "service/session.h"
#include "service/show.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

/* The most subsystems of one agent. */
#define SUBSYSTEMS_MAX 256

struct attach_parameters {
    const char *name;
    const struct value *subsystems;
    struct opt_int index, pidfd_index;
    bool takeover;
};

static const struct field attach_fields[] = {
    { "name", FIELD_STRING, offsetof(struct attach_parameters, name), FIELD_REQUIRED },
    { "subsystems", FIELD_OBJECTS, offsetof(struct attach_parameters, subsystems), FIELD_REQUIRED },
    { "fileDescriptorIndex", FIELD_INT, offsetof(struct attach_parameters, index), 0 },
    { "pidfdFileDescriptorIndex", FIELD_INT, offsetof(struct attach_parameters, pidfd_index), 0 },
    { "takeover", FIELD_BOOL, offsetof(struct attach_parameters, takeover), 0 },
    FIELDS_END,
};

struct subsystem_parameters {
    const char *kind, *name;
};

/* 1, or 0 where it was answered. */
static int read_subsystems(
    struct connection *connection, const struct value *array, struct subsystem_name *subsystems)
{
    static const struct field fields[] = {
        { "kind", FIELD_STRING, offsetof(struct subsystem_parameters, kind), FIELD_REQUIRED },
        { "name", FIELD_STRING, offsetof(struct subsystem_parameters, name), FIELD_REQUIRED },
        FIELDS_END,
    };
    const struct value *item;
    const char *bad;

    VALUE_FOREACH(item, array)
    {
        struct subsystem_parameters p;

        if (fields_read(item, fields, FIELDS_STRICT, &p, &bad) < 0)
            return method_invalid(connection, bad);
        subsystems->subsystem = subsystem_from_name(p.kind);
        if (subsystems->subsystem == SUBSYSTEM_NONE || !name_is_valid(p.name))
            return method_invalid(connection, "subsystems");
        strcpy(subsystems++->name, p.name);
    }
    return 1;
}

/*
 * Why a socket that was handed in cannot be an agent's; NULL: it can. The other end has to be the caller's,
 * and not somebody's listening socket or this broker's own.
 */
static const char *complain(const struct connection *connection, int fd)
{
    struct sockaddr_un address;
    socklen_t length;
    struct ucred credentials;
    int value;

    length = sizeof(value);
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &length) < 0)
        return "it is no socket";
    if (value != AF_UNIX)
        return "it is no unix socket";
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length) < 0 || value != SOCK_STREAM)
        return "it is no stream socket";
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) < 0 || value)
        return "it listens";
    length = sizeof(address);
    if (getpeername(fd, (struct sockaddr *)&address, &length) < 0)
        return "it is not connected";
    if (length > sizeof(sa_family_t))
        return "its peer has a name: it is no end of a socket pair";
    length = sizeof(credentials);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0 ||
        credentials.uid != connection->peer.uid)
        return "it was made by another user";
    /*
     * Whoever has it too can have a page fault in a recvmsg() of its own, on memory that a FUSE server or
     * userfaultfd(2) is to bring, and with it the lock that every recvmsg() waits for, MSG_DONTWAIT or not.
     * A tenant has the credentials of who delegated, and sockets with those: its connection is one.
     */
    if (connection->delegation)
        return "nobody may hand one in through a delegated connection: leave it out, and one is made";
    if (connection->peer.uid != 0 && connection->peer.uid != geteuid())
        return "only root and evlinkd's own user may hand one in: leave it out, and one is made";
    return NULL;
}

/* 1 with the ends: *ret_theirs is -1 where the caller has its own already; 0 where it was answered; -errno.
 */
static int take_socket(
    struct connection *connection, const struct attach_parameters *p, int *ret_ours, int *ret_theirs)
{
    const int off = 0, normal = -1;
    const char *complaint;
    int pair[2];

    if (!p->index.set) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
            return -errno;
        *ret_ours = pair[0];
        *ret_theirs = pair[1];
        return 1;
    }
    if (method_steal_fd(connection, p->index.value, ret_ours) == 0)
        return 0;
    complaint = complain(connection, *ret_ours);
    if (complaint)
        return method_bad_descriptor(connection, p->index.value, complaint);
    (void)setsockopt(*ret_ours, SOL_SOCKET, SO_PASSCRED, &off, sizeof(off));
    (void)setsockopt(*ret_ours, SOL_SOCKET, SO_PEEK_OFF, &normal, sizeof(normal));
    return 1;
}

static int take_pidfd(struct connection *connection, const struct attach_parameters *p, int *ret_pidfd)
{
    siginfo_t info;

    if (!p->pidfd_index.set)
        return 1;
    if (method_steal_fd(connection, p->pidfd_index.value, ret_pidfd) == 0)
        return 0;
    /* A process that is not our child says ECHILD; what is no pidfd EINVAL or EBADF. */
    if (waitid(P_PIDFD, (id_t)*ret_pidfd, &info, WEXITED | WNOHANG | WNOWAIT) == 0 || errno == ECHILD)
        return 1;
    return method_bad_descriptor(connection, p->pidfd_index.value, "it is no pidfd");
}

/* Those who have a name or a subsystem that is asked for may have gone without our having noticed. */
static void check_holders(
    struct model *model, const char *name, const struct subsystem_name *subsystems, size_t n)
{
    struct agent *agent = name_is_valid(name) ? model_find_agent(model, name) : NULL;

    if (agent)
        session_check(agent->session);
    for (size_t i = 0; i < n; i++) {
        agent = model_subsystem_agent(model, &subsystems[i]);
        if (agent)
            session_check(agent->session);
    }
}

static int attach(struct connection *connection, const void *parameters)
{
    const struct attach_parameters *p = parameters;
    struct model *model = connection->server->model;
    size_t n = value_size(p->subsystems);
    CLEANUP(freep) struct subsystem_name *subsystems = NULL;
    CLEANUP(fd_discardp) int ours = -1, pidfd = -1;
    CLEANUP(fd_closep) int theirs = -1;
    struct session *session;
    struct fault fault;
    struct agent *agent;
    struct emit *emit;
    bool watched;
    int r;

    if (n == 0 || n > SUBSYSTEMS_MAX)
        return method_invalid(connection, "subsystems");
    subsystems = calloc(n, sizeof(*subsystems));
    if (!subsystems)
        return -ENOMEM;
    if (read_subsystems(connection, p->subsystems, subsystems) == 0)
        return 0;
    check_holders(model, p->name, subsystems, n);
    r = model_may_attach(model, &connection->peer, p->name, subsystems, n, p->takeover, &fault);
    if (r)
        return method_result(connection, r, &fault);
    r = take_pidfd(connection, p, &pidfd);
    if (r > 0)
        r = take_socket(connection, p, &ours, &theirs);
    if (r <= 0)
        return r;
    watched = pidfd >= 0;
    r = session_new(connection->server, &connection->peer, TAKE_FD(ours), TAKE_FD(pidfd), &session);
    if (r < 0)
        return r;
    r = model_attach(
        model, &connection->peer, p->name, subsystems, n, p->takeover, watched, session, &agent, &fault);
    if (r) {
        session_free(session);
        return method_result(connection, r, &fault);
    }
    session_bind(session, agent);
    emit = connection_begin(connection);
    show_agent(emit, "agent", agent);
    if (theirs >= 0)
        emit_int(emit, "fileDescriptorIndex", 0);
    connection_end_fd(connection, TAKE_FD(theirs));
    return 0;
}

static int detach(struct connection *connection, const void *parameters)
{
    const struct name_parameters *p = parameters;
    struct fault fault;
    struct job *job;
    int r;

    r = model_detach(
        connection->server->model, &connection->peer, p->name, method_job_done, connection, &job, &fault);
    return method_job(connection, r, job, &fault);
}

struct offer_parameters {
    const char *agent;
    const struct value *endpoints;
    const char *reason;
};

#define OFFER_FIELDS                                                                             \
    { "agent", FIELD_STRING, offsetof(struct offer_parameters, agent), FIELD_REQUIRED },         \
    {                                                                                            \
        "endpoints", FIELD_STRINGS, offsetof(struct offer_parameters, endpoints), FIELD_REQUIRED \
    }

static const struct field offer_fields[] = {
    OFFER_FIELDS,
    FIELDS_END,
};

static const struct field withdraw_fields[] = {
    OFFER_FIELDS,
    { "reason", FIELD_STRING, offsetof(struct offer_parameters, reason), 0 },
    FIELDS_END,
};

static int offer(struct connection *connection, const void *parameters)
{
    const struct offer_parameters *p = parameters;
    CLEANUP(freep) const char **endpoints = method_strings(p->endpoints);
    struct fault fault;
    int r;

    if (!endpoints)
        return -ENOMEM;
    r = model_offer(
        connection->server->model, &connection->peer, p->agent, endpoints, value_size(p->endpoints), &fault);
    if (r)
        return method_result(connection, r, &fault);
    connection_done(connection);
    return 0;
}

static int withdraw(struct connection *connection, const void *parameters)
{
    const struct offer_parameters *p = parameters;
    CLEANUP(freep) const char **endpoints = method_strings(p->endpoints);
    struct fault fault;
    struct job *job;
    int r;

    if (!endpoints)
        return -ENOMEM;
    if (p->reason && strlen(p->reason) > METHOD_REASON_MAX)
        return method_invalid(connection, "reason");
    r = model_withdraw(connection->server->model, &connection->peer, p->agent, endpoints,
        value_size(p->endpoints), p->reason, method_job_done, connection, &job, &fault);
    return method_job(connection, r, job, &fault);
}

const struct method agent_methods[] = {
    { "Attach", attach, attach_fields, false },
    { "Detach", detach, method_name_fields, false },
    { "Offer", offer, offer_fields, false },
    { "Withdraw", withdraw, withdraw_fields, false },
    { NULL, NULL, NULL, false },
};
