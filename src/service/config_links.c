/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The configuration's links: see config_links.h. */
#include "service/config_links.h"
#include "base/log.h"
#include "service/config.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* In seconds: how soon a link that could not be made is tried again, if nothing happens that helps. */
#define RELINK_FIRST 1
#define RELINK_LAST 32

static size_t count(char **strings)
{
    size_t n = 0;

    while (strings[n])
        n++;
    return n;
}

static const struct config_link *find(const struct config *config, const char *name)
{
    for (size_t i = 0; i < config->n_links; i++)
        if (strcmp(config->links[i].name, name) == 0)
            return &config->links[i];
    return NULL;
}

/* What is in the configuration no more, or says something else there, goes. */
static void take_down(struct server *server)
{
    const struct peer root = { .pid = getpid() };
    char name[NAME_SIZE] = "";
    struct link *link;

    while ((link = model_next_link(server->model, name))) {
        const struct config_link *configured = find(server->config, link->name);
        struct fault fault;
        struct job *job;
        int r;

        strcpy(name, link->name);
        if (link->configured == 0 || (configured && configured->mark == link->configured))
            continue;
        r = model_disconnect(server->model, &root, name, NULL, NULL, NULL, &job, &fault);
        if (r < 0)
            log_error(
                "cannot disconnect the link %s, which is not configured so any more: %s", name, strerror(-r));
    }
}

static int make(struct server *server, const struct config_link *link, struct fault *fault)
{
    const struct peer owner = { .uid = link->owner, .gid = link->owner_gid, .pid = getpid() };
    const struct link_request request = {
        .name = link->name,
        .group = link->group,
        .producers = (const char *const *)link->producers,
        .n_producers = count(link->producers),
        .consumers = (const char *const *)link->consumers,
        .n_consumers = count(link->consumers),
    };

    return model_establish(server->model, &owner, &request, link->mark, fault);
}

static void complain(const struct config_link *link, int r, const struct fault *fault)
{
    const char *why = r < 0                       ? strerror(-r)
                      : r == FAULT_NAME_TAKEN     ? "another link has its name"
                      : r == FAULT_ENDPOINT_BUSY  ? "another link has this end"
                      : r == FAULT_PERMISSION     ? "its user has no right to one of its ends"
                      : r == FAULT_QUOTA_EXCEEDED ? "its user has as much as it may"
                      : fault->reason             ? fault->reason
                                                  : "it cannot be";

    log_warning("cannot make the configured link %s: %s%s%s", link->name, r > 0 ? fault->subject : "",
        r > 0 && fault->subject[0] ? ": " : "", why);
}

static void apply(struct server *server, bool again)
{
    struct fault fault = { 0 };

    take_down(server);
    server->links_missing = false;
    for (size_t i = 0; i < server->config->n_links; i++) {
        const struct config_link *configured = &server->config->links[i];
        const struct link *link = model_find_link(server->model, configured->name);
        int r;

        if (link && link->configured == configured->mark && link->goal != GOAL_DOWN)
            continue;
        /* One that is on its way is made again when it has gone. */
        if (link && (link->configured || link->goal == GOAL_DOWN)) {
            server->links_missing = true;
            continue;
        }
        r = make(server, configured, &fault);
        if (r == 0)
            continue;
        server->links_missing = true;
        if (!again)
            complain(configured, r, &fault);
    }
}

/* Not everything that can be in the way says when it has gone. */
static void wait_if_missing(struct server *server)
{
    const struct timeval interval = { .tv_sec = server->relink_after };

    if (server->links_missing)
        (void)event_add(server->relink, &interval);
    else
        (void)event_del(server->relink);
}

void config_links_apply(struct server *server)
{
    server->relink_after = RELINK_FIRST;
    apply(server, false);
    wait_if_missing(server);
}

static void on_relink(evutil_socket_t fd, short what, void *userdata)
{
    struct server *server = userdata;

    (void)fd;
    (void)what;
    apply(server, true);
    server->relink_after = server->relink_after < RELINK_LAST / 2 ? 2 * server->relink_after : RELINK_LAST;
    wait_if_missing(server);
    server_arm(server);
}

void config_links_news(struct server *server, const struct news *news)
{
    /* Through the loop: whoever tells is in the middle of something. */
    if (server->links_missing && (news->notice == NOTICE_DISCONNECTED || news->notice == NOTICE_LEFT ||
                                     news->notice == NOTICE_RELEASED || news->notice == NOTICE_EXPIRED ||
                                     news->notice == NOTICE_DETACHED || news->notice == NOTICE_MOVED))
        event_active(server->relink, EV_TIMEOUT, 0);
}

int config_links_new(struct server *server)
{
    server->relink = evtimer_new(server->base, on_relink, server);
    return server->relink ? 0 : -ENOMEM;
}
