/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* evlinkd as a whole: see server.h. */
#include "service/server.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/discard.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/reserve.h"
#include "base/table.h"
#include "model/record.h"
#include "service/config.h"
#include "service/config_links.h"
#include "service/connection.h"
#include "service/journal.h"
#include "service/monitor.h"
#include "service/relays.h"
#include "service/row.h"
#include "service/session.h"
#include "service/vault.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

/* How long accepting rests where no descriptor is to be had; how many are accepted in a turn. */
#define ACCEPT_PAUSE 100000
#define ACCEPT_MAX 16

/* From so many bytes on memory is mapped for itself, and goes back when it is freed. */
#define MMAP_THRESHOLD (64 * 1024)

static void on_agent_ready(void *userdata, struct agent *agent)
{
    (void)userdata;
    session_kick(agent->session);
}

static void on_agent_lost(void *userdata, struct agent *agent)
{
    (void)userdata;
    if (agent->session)
        session_close(agent->session);
}

static void on_agent_forgotten(void *userdata, struct agent *agent)
{
    (void)userdata;
    session_free(agent->session);
}

static void on_news(void *userdata, const struct news *news)
{
    journal_news(news);
    config_links_news(userdata, news);
    monitor_news(userdata, news);
}

static void on_tell(void *userdata, struct agent *agent, const struct end *end, const struct news *news)
{
    (void)userdata;
    session_tell(agent->session, end, news);
}

static void on_relay(void *userdata, struct link *link, bool last)
{
    relays_update(userdata, link, last);
}

static int on_keep(void *userdata, struct eventfd **eventfds, size_t n)
{
    struct server *server = userdata;

    if (!server->vault)
        return 0;
    return n == 1 && server->row->open ? vault_keep_later(server->vault, eventfds[0])
                                       : vault_keep(server->vault, eventfds, n);
}

static void on_unkeep(void *userdata, struct eventfd *eventfd)
{
    struct server *server = userdata;

    if (server->vault)
        vault_unkeep(server->vault, eventfd);
    else
        fd_close(eventfd->fd);
}

static void on_ended(void *userdata, enum saved_kind kind, uint64_t number)
{
    struct server *server = userdata;

    if (server->vault)
        vault_ended(server->vault, kind, number);
}

static int on_drain(void *userdata, const struct end *end, struct eventfd *eventfd, uint64_t *ret_count)
{
    struct server *server = userdata;

    return server->vault ? vault_drain(server->vault, end, eventfd, ret_count)
                         : eventfd_drain(eventfd->fd, ret_count);
}

static const struct model_hooks hooks = {
    .agent_ready = on_agent_ready,
    .agent_lost = on_agent_lost,
    .agent_forgotten = on_agent_forgotten,
    .news = on_news,
    .tell = on_tell,
    .relay = on_relay,
    .keep = on_keep,
    .unkeep = on_unkeep,
    .ended = on_ended,
    .drain = on_drain,
};

static void on_timer(evutil_socket_t fd, short what, void *userdata)
{
    struct server *server = userdata;

    (void)fd;
    (void)what;
    server->armed = -1;
    model_expire(server->model, clock_monotonic());
    server_arm(server);
}

void server_sync(struct server *server)
{
    int r;

    row_settle(server->row);
    r = server->vault ? vault_sync(server->vault) : 0;
    if (r == 0)
        return;
    /* Nothing of it was told to anybody: for the next process it did not happen. */
    log_error("cannot record a change: %s: ending, to go on from what is on record", strerror(-r));
    _exit(EXIT_FAILURE);
}

/* Those who have waited are served. */
static void end_recovery(struct server *server)
{
    struct connection *connection;

    server->recovering = false;
    /* Before clients can take their names. */
    config_links_apply(server);
    server_sync(server);
    LIST_FOREACH (connection, &server->connections, in_server)
        connection_resume(connection);
}

void server_arm(struct server *server)
{
    struct timeval interval;
    int64_t deadline, wait;

    server_sync(server);
    if (server->recovering && !model_is_recovering(server->model))
        end_recovery(server);
    deadline = model_deadline(server->model);
    if (deadline == server->armed)
        return;
    server->armed = deadline;
    if (deadline < 0) {
        (void)event_del(server->timer);
        return;
    }
    wait = deadline - clock_monotonic();
    /* The two clocks may differ: looked at again a little later rather than in a hurry. */
    wait = wait > 0 ? wait + USEC_PER_MSEC : 0;
    interval = (struct timeval){ .tv_sec = wait / USEC_PER_SEC, .tv_usec = wait % USEC_PER_SEC };
    if (event_add(server->timer, &interval) < 0) {
        log_error("cannot set the timer of leases: they run out later than they should");
        server->armed = -1;
    }
}

/* What the configuration says, and the command line says better. */
static void apply_config(struct server *server)
{
    server->agent_timeout =
        server->options.agent_timeout ? server->options.agent_timeout : server->config->agent_timeout;
    model_set_limits(server->model, &server->config->limits);
    model_set_policy(server->model, &server->config->policy);
}

/* Who may connect to the socket that was bound here. -errno, after a message. */
static int apply_socket(const struct server *server)
{
    const struct config *config = server->config;
    int r;

    if (!server->path)
        return 0;
    if ((config->socket_group == (gid_t)-1 || chown(server->path, (uid_t)-1, config->socket_group) == 0) &&
        chmod(server->path, config->socket_mode) == 0)
        return 0;
    r = -errno;
    log_error("cannot set the group and the mode of %s: %s", server->path, strerror(errno));
    return r;
}

/* All or nothing: with a configuration that is invalid, the one that is there stays. */
static void reload(struct server *server)
{
    struct config *config, *old;

    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIi64, clock_read(CLOCK_MONOTONIC));
    if (config_load(config_folders, server->options.config, &config) < 0) {
        log_error("the configuration is invalid: the one from before stays");
    } else {
        old = server->config;
        server->config = config;
        apply_config(server);
        (void)apply_socket(server);
        if (!server->recovering)
            config_links_apply(server);
        config_free(old);
        log_info("the configuration was read again");
    }
    (void)sd_notify(0, "READY=1");
    server_arm(server);
}

static void on_signal(evutil_socket_t number, short what, void *userdata)
{
    struct server *server = userdata;

    (void)what;
    if (number == SIGHUP) {
        reload(server);
        return;
    }
    log_info("got SIG%s: stopping", sigabbrev_np((int)number));
    (void)event_base_loopbreak(server->base);
}

static void on_watchdog(evutil_socket_t fd, short what, void *userdata)
{
    (void)fd;
    (void)what;
    (void)userdata;
    (void)sd_notify(0, "WATCHDOG=1");
}

static void on_accept_again(evutil_socket_t fd, short what, void *userdata)
{
    struct server *server = userdata;

    (void)fd;
    (void)what;
    (void)event_add(server->accept, NULL);
}

static void on_accept(evutil_socket_t listener, short what, void *userdata)
{
    const struct timeval pause = { .tv_usec = ACCEPT_PAUSE };
    struct server *server = userdata;

    (void)what;
    /* A few: somebody who does nothing but connect is not to be in front of others who do. */
    for (int i = 0; i < ACCEPT_MAX; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), r;

        if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
            return;
        if (fd < 0) {
            log_warning("cannot accept a connection: %s: trying again in 0.1 s", strerror(errno));
            (void)event_del(server->accept);
            (void)event_add(server->accept_again, &pause);
            return;
        }
        r = connection_new(server, fd);
        if (r < 0)
            log_warning("cannot serve a connection, closed it: %s", strerror(-r));
    }
}

static int take_lock(struct server *server)
{
    CLEANUP(freep) char *path = NULL;

    if (asprintf(&path, "%s.lock", server->path) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    server->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (server->lock < 0) {
        int r = -errno;

        log_error("cannot open the lock %s: %s", path, strerror(errno));
        return r;
    }
    if (flock(server->lock, LOCK_EX | LOCK_NB) < 0) {
        int r = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;

        if (r == -EADDRINUSE)
            log_error("another evlinkd serves %s: it has the lock %s", server->path, path);
        else
            log_error("cannot lock %s: %s", path, strerror(errno));
        return r;
    }
    return 0;
}

/* Binds server->path. */
static int bind_listener(struct server *server)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct stat status;
    int r;

    if (strlen(server->path) >= sizeof(address.sun_path)) {
        log_error(
            "the socket's path is longer than %zu bytes: %s", sizeof(address.sun_path) - 1, server->path);
        return -ENAMETOOLONG;
    }
    if (!server->path[0]) {
        log_error("the socket's path is empty");
        return -EINVAL;
    }
    strcpy(address.sun_path, server->path);
    r = take_lock(server);
    if (r < 0)
        return r;
    /* With the lock, a socket that is there is a dead server's. Anything else is not ours to remove. */
    if (lstat(server->path, &status) == 0) {
        if (!S_ISSOCK(status.st_mode)) {
            log_error("%s is there and is no socket: move it away, or give another --socket", server->path);
            return -EEXIST;
        }
        (void)unlink(server->path);
    }
    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->listener < 0 || bind(server->listener, (struct sockaddr *)&address, sizeof(address)) < 0) {
        r = -errno;
        log_error("cannot listen at %s: %s", server->path, strerror(errno));
        return r;
    }
    /* Until it listens, nobody can connect. */
    r = apply_socket(server);
    if (r == 0 && listen(server->listener, SOMAXCONN) < 0) {
        r = -errno;
        log_error("cannot listen at %s: %s", server->path, strerror(errno));
    }
    return r;
}

#define LISTENER_NAME "evlinkd-listener"
#define LOCK_NAME "evlinkd-lock"

/*
 * What an earlier evlinkd had bound and stored, what the service manager has bound, or a socket of our own,
 * which is stored where there is a vault: clients that come between two processes wait in its queue.
 */
static int listen_at(struct server *server, struct passed *passed, const struct server_options *options)
{
    int r;

    server->lock = passed_take(passed, LOCK_NAME);
    server->listener = passed_take(passed, LISTENER_NAME);
    if (server->listener < 0)
        server->listener = passed_take_listener(passed);
    if (server->listener >= 0)
        return evutil_make_socket_nonblocking(server->listener) < 0 ? -EIO : 0;
    server->path = strdup(options->path);
    if (!server->path)
        return -ENOMEM;
    r = bind_listener(server);
    if (r < 0 || !options->vault)
        return r;
    r = passed_store(LOCK_NAME, server->lock);
    if (r == 0)
        r = passed_store(LISTENER_NAME, server->listener);
    if (r < 0)
        log_error("cannot put the socket into the service manager's descriptor store: %s",
            r == -ENOTCONN ? "there is none; run evlinkd as a service, or with --supervise" : strerror(-r));
    return r;
}

static int make_events(struct server *server)
{
    static const int numbers[ARRAY_SIZE(server->signals)] = { SIGTERM, SIGINT, SIGHUP };
    struct timeval interval;
    uint64_t watchdog;

    server->timer = evtimer_new(server->base, on_timer, server);
    server->accept_again = evtimer_new(server->base, on_accept_again, server);
    server->busy_turn = evtimer_new(server->base, connection_busy_turn, server);
    server->accept = event_new(server->base, server->listener, EV_READ | EV_PERSIST, on_accept, server);
    if (config_links_new(server) < 0 || relays_new(server) < 0 || !server->timer || !server->accept_again ||
        !server->accept || !server->busy_turn || event_add(server->accept, NULL) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        server->signals[i] = evsignal_new(server->base, numbers[i], on_signal, server);
        if (!server->signals[i] || event_add(server->signals[i], NULL) < 0)
            return -ENOMEM;
    }
    if (sd_watchdog_enabled(0, &watchdog) <= 0)
        return 0;
    /* Twice within what the service manager waits. */
    interval.tv_sec = (time_t)(watchdog / 2 / USEC_PER_SEC);
    interval.tv_usec = (suseconds_t)(watchdog / 2 % USEC_PER_SEC);
    server->watchdog = event_new(server->base, -1, EV_PERSIST, on_watchdog, server);
    return server->watchdog && event_add(server->watchdog, &interval) == 0 ? 0 : -ENOMEM;
}

static int start(struct server *server, struct passed *passed, const struct server_options *options)
{
    int r;

    r = listen_at(server, passed, options);
    if (r < 0)
        return r;
    server->base = event_base_new();
    /* Without memory for epoll it would do with less than connections need. */
    if (!server->base || !(event_base_get_features(server->base) & EV_FEATURE_ET))
        return -ENOMEM;
    r = evaio_new(&server->aio);
    if (r < 0)
        return r;
    r = discard_start(server->aio);
    if (r < 0)
        return r;
    r = model_new(&hooks, server, server->aio, &server->model);
    if (r < 0)
        return r;
    r = make_events(server);
    if (r < 0)
        return r;
    apply_config(server);
    r = options->vault ? vault_open(server, passed) : 0;
    if (r >= 0)
        apply_config(server); /* to what came back as well */
    return r;
}

int server_new(const struct server_options *options, struct server **ret_server)
{
    struct server *server = calloc(1, sizeof(*server));
    struct passed *passed = NULL;
    int r;

    if (!server)
        return -ENOMEM;
    server->listener = server->lock = -1;
    server->armed = -1;
    TAILQ_INIT(&server->busy);
    server->options = *options;
    server->started_at = clock_epoch();
    r = table_start();
    if (r < 0)
        log_warning("cannot raise the limit of open files: %s", strerror(-r));
    /* What a large call takes is given back when it is done: left to itself the C library learns to keep it.
     */
    (void)mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD);
    (void)signal(SIGPIPE, SIG_IGN);
    server->row = row_new(server);
    r = server->row ? config_load(config_folders, options->config, &server->config) : -ENOMEM;
    if (r >= 0)
        r = passed_new(&passed);
    if (r >= 0)
        r = start(server, passed, options);
    passed_free(passed);
    if (r < 0) {
        server_free(server);
        return r;
    }
    *ret_server = server;
    return 0;
}

static void tell_ready(const struct server *server)
{
    const struct vault_report *report = server->vault ? vault_report(server->vault) : NULL;

    if (report && report->last.starts > 0)
        log_info("back with %zu eventfds, %zu links and %zu agents, in %" PRIi64 " us", report->eventfds,
            report->links, report->agents, report->took);
    if (server->path)
        log_info("listening at %s", server->path);
    if (report)
        (void)sd_notifyf(0,
            "READY=1\nSTATUS=%zu eventfds, %zu links and %zu agents came back in %" PRIi64 " us",
            report->eventfds, report->links, report->agents, report->took);
    else
        (void)sd_notify(0, "READY=1\nSTATUS=Serving; nothing is kept past this process");
}

int server_run(struct server *server)
{
    server->recovering = model_is_recovering(server->model);
    if (!server->recovering)
        config_links_apply(server);
    server_arm(server);
    tell_ready(server);
    if (event_base_dispatch(server->base) < 0)
        return -EIO;
    (void)sd_notify(0, "STOPPING=1");
    return 0;
}

static void free_events(struct server *server)
{
    struct event *events[] = { server->timer, server->accept, server->accept_again, server->busy_turn,
        server->watchdog, server->relink, server->relay_again, server->signals[0], server->signals[1],
        server->signals[2] };

    for (size_t i = 0; i < ARRAY_SIZE(events); i++)
        if (events[i])
            event_free(events[i]);
}

struct server *server_free(struct server *server)
{
    struct connection *connection;
    bool kept = server && server->vault;

    if (!server)
        return NULL;
    if (server->vault) {
        server->stopping = true;
        model_stop(server->model);
        server->vault = vault_free(server->vault, true);
    }
    while ((connection = LIST_FIRST(&server->connections)))
        connection_free(connection);
    model_free(server->model); /* and with it the sessions */
    free_events(server);
    if (server->base)
        event_base_free(server->base);
    discard_stop();
    evaio_free(server->aio);
    if (server->listener >= 0 && server->path && !kept)
        (void)unlink(server->path);
    fd_close(server->listener);
    fd_close(server->lock);
    free(server->path);
    config_free(server->config);
    free(server->row);
    free(server);
    return NULL;
}
