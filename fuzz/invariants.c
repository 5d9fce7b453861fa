/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What holds of a model whatever happened to it: see invariants.h. */
#include "invariants.h"
#include "base/utf8.h"
#include "fuzz.h"
#include "model/private.h"

#include <string.h>

/* Whether a link is waited for or used through an eventfd, so many times. */
static unsigned references_of(struct model *model, const struct eventfd *eventfd)
{
    unsigned n = 0;
    struct held *held;
    struct link *link;

    RB_FOREACH (held, held_tree, &model->held)
        n += held->eventfd == eventfd;
    RB_FOREACH (link, link_tree, &model->links) {
        n += (link->eventfd == eventfd) + (link->resample == eventfd);
        for (size_t i = 0; i < link->n_ends; i++)
            n += link->ends[i]->eventfd == eventfd;
    }
    return n;
}

static void check_eventfd(struct model *model, const struct eventfd *eventfd)
{
    MUST(eventfd->model == model && eventfd->fd >= 0);
    /* Links without a name, and what is about to be renewed, have references too. */
    MUST(eventfd->references >= references_of(model, eventfd));
}

static void check_end(struct model *model, const struct link *link, const struct end *end)
{
    MUST(end->link == link && end->state <= END_UNKNOWN);
    MUST(!end_complaint(&end->endpoint, end->producer));
    MUST(!end->dirty || end->eventfd);
    MUST(end->state != END_PLUGGED || (end->eventfd && (end->dirty || end_is_eventfd(end))));
    MUST(!end->flying || (end->agent && end->agent->flying != OP_NONE && !end->agent->lost));
    MUST(end->queued == OP_NONE || (end->agent && !end->agent->lost));
    MUST(!end->flying || end->queued == OP_NONE);
    MUST(!end->announced || end->joined || link->goal == GOAL_DOWN || end->retiring || end->site);
    if (end->eventfd)
        check_eventfd(model, end->eventfd);
}

static void check_link(struct model *model, const struct link *link)
{
    MUST(link->named && name_is_valid(link->name) && link->n_ends > 0 && link->state <= LINK_FAILED);
    MUST(!link->group || name_is_valid(link->group));
    for (char **label = link->labels; label && *label; label++)
        MUST(utf8_is_text(*label));
    MUST(!link->resample || link->resample != link->eventfd);
    MUST(!link->from == !link->to);
    for (size_t i = 0; i < link->n_ends; i++)
        check_end(model, link, link->ends[i]);
    if (link->eventfd)
        check_eventfd(model, link->eventfd);
    if (link->resample)
        check_eventfd(model, link->resample);
}

/* What is in nobody's way: it goes, or is about to. */
static bool is_going(const struct end *end)
{
    return !end->link->named || end->retiring || end_gives_way(end) || end == end->link->from;
}

/* Of one user's, any endpoint but a GSI carries one link, and a GSI is edge or level. */
static void check_site(const struct site *site)
{
    struct end *end, *other;
    bool any = false;

    MUST(!site->agent || !site->agent->lost);
    MUST(!site->successor || site->agent);
    RB_FOREACH (end, end_tree, (struct end_tree *)&site->ends) {
        MUST(end->site == site && endpoint_subsystem(&end->endpoint) == site->subsystem);
        MUST(strcmp(endpoint_name(&end->endpoint), site->name) == 0);
        any = true;
        if (is_going(end))
            continue;
        for (other = RB_NEXT(end_tree, &site->ends, end); other;
             other = RB_NEXT(end_tree, &site->ends, other))
            MUST(is_going(other) || other->link == end->link || other->uid != end->uid ||
                 !endpoint_collides(&end->endpoint, &other->endpoint));
    }
    MUST(any || site->agent || site->held);
}

static void check_agent(const struct agent *agent)
{
    struct end *end;
    size_t n = 0;

    MUST(name_is_valid(agent->name) && agent->n_subsystems > 0);
    MUST((agent->flying == OP_NONE) == TAILQ_EMPTY(&agent->flight));
    MUST(!agent->lost || agent->flying == OP_NONE);
    TAILQ_FOREACH (end, &agent->flight, in_agent) {
        MUST(end->flying && end->agent == agent);
        n++;
    }
    MUST(n <= 253);
    TAILQ_FOREACH (end, &agent->plugs, in_agent)
        MUST(end->queued == OP_PLUG && end->agent == agent);
    TAILQ_FOREACH (end, &agent->unplugs, in_agent)
        MUST(end->queued == OP_UNPLUG && end->agent == agent);
    LIST_FOREACH (end, &agent->ends, of_agent)
        MUST(end->agent == agent);
}

void check_model(struct model *model)
{
    struct model_counts counts = model_count(model), n = { 0 };
    struct held *held;
    struct link *link;
    struct agent *agent;
    struct site *site;

    MUST(TAILQ_EMPTY(&model->touched));
    RB_FOREACH (held, held_tree, &model->held) {
        MUST(name_is_valid(held->name) && (!held->site || held->site->held == held));
        check_eventfd(model, held->eventfd);
        n.eventfds++;
    }
    RB_FOREACH (link, link_tree, &model->links) {
        check_link(model, link);
        n.links += link->acknowledged;
    }
    RB_FOREACH (agent, agent_tree, &model->agents) {
        check_agent(agent);
        MUST(!agent->lost);
        n.agents++;
    }
    LIST_FOREACH (agent, &model->going, in_going)
        check_agent(agent);
    RB_FOREACH (site, site_tree, &model->sites)
        check_site(site);
    MUST(counts.eventfds == n.eventfds && counts.links == n.links && counts.agents == n.agents);
}

void check_model_at_rest(struct model *model)
{
    struct agent *agent;
    struct link *link;

    check_model(model);
    RB_FOREACH (agent, agent_tree, &model->agents) {
        if (agent->late)
            return;
        MUST(agent->flying == OP_NONE && TAILQ_EMPTY(&agent->plugs) && TAILQ_EMPTY(&agent->unplugs));
    }
    RB_FOREACH (link, link_tree, &model->links) {
        bool absent = false, refused = false, unknown = false, parked = link->goal == GOAL_PARKED;

        /* What is down or moves waits for an end that somebody else's process may still have. */
        if (link->goal == GOAL_DOWN || link->from || link->renew)
            continue;
        for (size_t i = 0; i < link->n_ends; i++) {
            const struct end *end = link->ends[i];

            if (end->retiring) {
                MUST(end->dirty);
                continue;
            }
            refused |= end->refused;
            unknown |= end->state == END_UNKNOWN;
            absent |= end->state == END_ABSENT;
            parked &= end->producer || !end->dirty;
            MUST(end->state != END_PLUGGING && end->state != END_UNPLUGGING);
        }
        MUST(link->state == (refused || unknown ? LINK_FAILED
                                : parked        ? LINK_PARKED
                                : absent        ? LINK_WAITING
                                                : LINK_LINKED) ||
             refused || unknown);
    }
}
