/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Agents: attached, asked in batches, late, lost and detached. See model.h. */
#include "base/clock.h"
#include "model/private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int agent_compare(const struct agent *a, const struct agent *b)
{
    return strcmp(a->name, b->name);
}

static int offer_compare(const struct offer *a, const struct offer *b)
{
    return endpoint_compare(&a->endpoint, &b->endpoint);
}

RB_GENERATE(agent_tree, agent, by_name, agent_compare)
RB_GENERATE(offer_tree, offer, by_endpoint, offer_compare)

struct agent *model_find_agent(struct model *model, const char *name)
{
    struct agent key;

    strcpy(key.name, name);
    return RB_FIND(agent_tree, &model->agents, &key);
}

struct agent *model_subsystem_agent(struct model *model, const struct subsystem_name *subsystem)
{
    struct site *site = site_find(model, subsystem->subsystem, subsystem->name);

    return site ? site->agent : NULL;
}

struct agent *model_next_agent(struct model *model, const char *name)
{
    struct agent key, *agent;

    strcpy(key.name, name);
    agent = RB_NFIND(agent_tree, &model->agents, &key);
    return agent && strcmp(agent->name, name) == 0 ? RB_NEXT(agent_tree, &model->agents, agent) : agent;
}

/* Whether the agent takes an eventfd at this endpoint now. */
static bool serves(const struct agent *agent, const struct endpoint *endpoint)
{
    const struct offer *offer;
    struct offer key;

    if (agent->leaving)
        return false;
    endpoint_copy(&key.endpoint, endpoint);
    offer = RB_FIND(offer_tree, (struct offer_tree *)&agent->offers, &key);
    return endpoint_is_offered(endpoint) == (offer != NULL);
}

/* Whose an end is now: while an agent is taken over, what it has not let go. NULL: nobody's. */
struct agent *site_owner(const struct site *site, const struct endpoint *endpoint)
{
    if (site->agent && serves(site->agent, endpoint))
        return site->agent;
    return site->successor && serves(site->successor, endpoint) ? site->successor : NULL;
}

struct agent *end_owner(const struct end *end)
{
    return site_owner(end->site, &end->endpoint);
}

/* ---- Steps that wait, and steps under way
 * ------------------------------------------------------------------ */

static struct end_queue *queue_of(struct agent *agent, enum op op)
{
    return op == OP_PLUG ? &agent->plugs : &agent->unplugs;
}

/* Queues a step, or takes back what was queued. */
void agent_queue(struct end *end, enum op op)
{
    if (end->queued == op)
        return;
    if (end->queued != OP_NONE)
        TAILQ_REMOVE(queue_of(end->agent, end->queued), end, in_agent);
    end->queued = op;
    if (op == OP_NONE)
        return;
    TAILQ_INSERT_TAIL(queue_of(end->agent, op), end, in_agent);
    end->agent->model->hooks->agent_ready(end->agent->model->userdata, end->agent);
}

/* Which agent deals with an end; nothing of it is in flight. */
void end_set_agent(struct end *end, struct agent *agent)
{
    if (end->agent == agent)
        return;
    agent_queue(end, OP_NONE);
    if (end->agent)
        LIST_REMOVE(end, of_agent);
    end->agent = agent;
    if (agent)
        LIST_INSERT_HEAD(&agent->ends, end, of_agent);
}

/* What an item takes in a message, at most, beside the names in its endpoint. */
#define ITEM_BYTES 224

/* What an item says of an end. */
static struct batch_item item_of(const struct end *end)
{
    return (struct batch_item){
        .endpoint = &end->endpoint,
        .fd = end->eventfd->fd,
        .resample = endpoint_is_level(&end->endpoint) ? end->link->resample->fd : -1,
        .eventfd_id = eventfd_id(end->eventfd),
    };
}

size_t model_agent_next(
    struct agent *agent, struct batch_item *items, size_t most, size_t most_bytes, enum op *ret_op)
{
    enum op op = TAILQ_EMPTY(&agent->unplugs) ? OP_PLUG : OP_UNPLUG;
    struct end_queue *queue = queue_of(agent, op);
    struct end *end;
    size_t n = 0, bytes = 0, fds = 0;

    if (agent->flying != OP_NONE)
        return 0;
    while ((end = TAILQ_FIRST(queue))) {
        size_t size = ITEM_BYTES + endpoint_size(&end->endpoint);
        struct eventfd *eventfd = end->eventfd;
        uint64_t count = 0;

        bool level = endpoint_is_level(&end->endpoint);

        if (bytes + size > most_bytes || fds + 1 + level > most)
            break;
        bytes += size;
        fds += 1 + level;
        TAILQ_REMOVE(queue, end, in_agent);
        TAILQ_INSERT_TAIL(&agent->flight, end, in_agent);
        end->queued = OP_NONE;
        end->flying = true;
        end->state = op == OP_PLUG ? END_PLUGGING : END_UNPLUGGING;
        saved_due(agent->model, &end->link->saved);
        /*
         * KVM injects a count that is pending when it is given an irqfd once, and leaves it standing: read
         * it before, and owe it.
         */
        if (op == OP_PLUG && endpoint_is_irqfd(&end->endpoint) &&
            eventfd_drain_safely(end, eventfd, &count) >= 0 &&
            __builtin_add_overflow(end->debt, count, &end->debt))
            end->debt = EVENTFD_MAX;
        if (op == OP_PLUG)
            end->dirty = true;
        items[n++] = item_of(end);
    }
    if (n > 0)
        agent->flying = *ret_op = op;
    return n;
}

size_t model_agent_again(const struct agent *agent, struct batch_item *items)
{
    const struct end *end;
    size_t n = 0;

    TAILQ_FOREACH (end, &agent->flight, in_agent)
        items[n++] = item_of(end);
    return n;
}

bool model_agent_asked(const struct agent *agent, size_t i, const char *endpoint)
{
    char text[ENDPOINT_SIZE];
    struct end *end = TAILQ_FIRST(&agent->flight);

    while (end && i-- > 0)
        end = TAILQ_NEXT(end, in_agent);
    return end && strcmp(endpoint_format(&end->endpoint, text), endpoint) == 0;
}

/* What an end says no to may have been in the way of another of the link. */
static void came_clean(struct end *end)
{
    end->dirty = end->inherited = false;
    for (size_t i = 0; i < end->link->n_ends; i++)
        if (end->link->ends[i]->refused && end->link->ends[i]->error == EBUSY)
            end->link->ends[i]->refused = false;
}

/*
 * An INTx is masked from when it was raised until the EOI, and the consumer before this one may have gone
 * in between: it is unmasked, and raised again if its device still wants service.
 */
static void unmask_intx(struct model *model, const struct end *end)
{
    const struct link *link = end->link;

    if (end->producer || !end->endpoint.level)
        return;
    for (size_t i = 0; i < link->n_ends; i++)
        if (link->ends[i]->endpoint.kind == ENDPOINT_INTX) {
            (void)evaio_add(model->aio, link->resample->fd, 1);
            return;
        }
}

static void plug_result(struct model *model, struct end *end, int error, bool late)
{
    struct link *link = end->link;

    /* What was plugged late is unplugged again, and paid then. */
    if (error || !late)
        end_repay(model, end, error ? UINT64_MAX : 1);
    if (!error) {
        end->renewed = false;
        /* Late, its link may have been told that it failed: it is unplugged, and tried again from there. */
        end->state = late ? END_UNKNOWN : END_PLUGGED;
        if (!late)
            unmask_intx(model, end);
        return;
    }
    /* It was clean before, and in nobody's way. */
    end->dirty = end->inherited = false;
    end->state = END_UNPLUGGED;
    if (late)
        return;
    /* Somebody's old VM lives on somewhere, with this eventfd: where it is ours, the link goes on with
     * another. Of that one EBUSY cannot be true, nor is it worth a third. */
    if (error == EBUSY && link->acknowledged && end->eventfd->ours && !link->renew && !end->renewed &&
        endpoint_is_irqfd(&end->endpoint)) {
        end->renewed = true;
        link->renew = end->eventfd;
        return;
    }
    end->refused = true;
    end->error = error;
    end->why = NULL;
    if (end_may_recover(error) && link->acknowledged)
        retry_later(model, end);
}

void model_agent_results(struct agent *agent, const int *errors)
{
    struct model *model = agent->model;
    bool late = agent->late;
    struct end *end;
    size_t i = 0;

    agent->late = false;
    while ((end = TAILQ_FIRST(&agent->flight))) {
        TAILQ_REMOVE(&agent->flight, end, in_agent);
        end->flying = false;
        if (agent->flying == OP_PLUG) {
            plug_result(model, end, errors[i], late);
        } else if (errors[i] == 0) {
            came_clean(end);
            end_repay(model, end, UINT64_MAX);
            end->state = END_UNPLUGGED;
        } else {
            end->refused = true;
            end->error = errors[i];
            end->why = NULL;
            end->state = END_UNKNOWN;
            agent->doubted = true;
            if (end_may_recover(errors[i]))
                retry_later(model, end);
        }
        i++;
        link_touch(model, end->link);
    }
    agent->flying = OP_NONE;
    if (late)
        LIST_FOREACH (end, &agent->ends, of_agent)
            link_touch(model, end->link);
    model_settle(model);
}

bool model_agent_doubts(const struct agent *agent)
{
    return agent->doubted;
}

static int compare_plugged_endpoints(const void *a, const void *b)
{
    const struct plugged *left = a, *right = b;

    return endpoint_compare(&left->endpoint, &right->endpoint);
}

/* All ids that are not known are one. */
static int compare_plugged(const void *a, const void *b)
{
    const struct plugged *left = a, *right = b;
    int64_t left_id = left->eventfd_id < 0 ? -1 : left->eventfd_id;
    int64_t right_id = right->eventfd_id < 0 ? -1 : right->eventfd_id;
    int c = compare_plugged_endpoints(a, b);

    return c ? c : (left_id > right_id) - (left_id < right_id);
}

/* plugged: sorted. An id that is not known, on either side, may be any. */
static bool is_plugged(const struct end *end, const struct plugged *plugged, size_t n)
{
    struct plugged key = { .eventfd_id = eventfd_id(end->eventfd) };

    if (n == 0)
        return false;
    endpoint_copy(&key.endpoint, &end->endpoint);
    if (key.eventfd_id < 0)
        return bsearch(&key, plugged, n, sizeof(*plugged), compare_plugged_endpoints);
    if (bsearch(&key, plugged, n, sizeof(*plugged), compare_plugged))
        return true;
    key.eventfd_id = -1;
    return bsearch(&key, plugged, n, sizeof(*plugged), compare_plugged);
}

void model_agent_inventory(struct agent *agent, struct plugged *plugged, size_t n)
{
    bool late = agent->late;
    struct end *end;

    if (n > 0)
        qsort(plugged, n, sizeof(*plugged), compare_plugged);
    agent->late = agent->doubted = false;
    LIST_FOREACH (end, &agent->ends, of_agent) {
        if (late)
            link_touch(agent->model, end->link);
        if (!end->dirty || !end->refused || end->flying || is_plugged(end, plugged, n))
            continue;
        end->refused = false;
        came_clean(end);
        end->state = END_UNPLUGGED;
        link_touch(agent->model, end->link);
    }
    model_settle(agent->model);
}

void model_agent_late(struct agent *agent)
{
    struct end *end;

    agent->late = true;
    TAILQ_FOREACH (end, &agent->flight, in_agent)
        end->state = END_UNKNOWN;
    LIST_FOREACH (end, &agent->ends, of_agent)
        link_touch(agent->model, end->link);
    model_settle(agent->model);
}

/* ---- Coming and going
 * --------------------------------------------------------------------------------------- */

/* Whether this one may take over from that one. */
static bool may_take_over(const struct model *model, const struct site *site, const struct peer *peer)
{
    /* What comes back from records was attached before the other one left. */
    return !site->successor && (!site->agent->leaving || model->restoring) &&
           site->agent->owner.uid == peer->uid;
}

int model_may_attach(struct model *model, const struct peer *peer, const char *name,
    const struct subsystem_name *subsystems, size_t n, bool takeover, struct fault *fault)
{
    char text[ENDPOINT_SIZE];

    if (!name_is_valid(name))
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "name", 0);
    if (n == 0)
        return fault_set(fault, FAULT_INVALID, NULL, NULL, "subsystems", 0);
    for (size_t i = 0; i < n; i++) {
        if (subsystems[i].subsystem == SUBSYSTEM_NONE || !name_is_valid(subsystems[i].name))
            return fault_set(fault, FAULT_INVALID, NULL, NULL, "subsystems", 0);
        for (size_t k = 0; k < i; k++)
            if (subsystems[k].subsystem == subsystems[i].subsystem &&
                strcmp(subsystems[k].name, subsystems[i].name) == 0)
                return fault_set(fault, FAULT_INVALID, NULL, NULL, "subsystems", 0);
    }
    if (model_find_agent(model, name))
        return fault_set(fault, FAULT_NAME_TAKEN, name, NULL, NULL, 0);
    if (!policy_is_in_scope(peer, name))
        return fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(
            text, sizeof(text), "%s/%s", subsystem_name(subsystems[i].subsystem), subsystems[i].name);
        if (!policy_is_in_scope(peer, text))
            return fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
    }
    for (size_t i = 0; i < n; i++) {
        const struct site *site = site_find(model, subsystems[i].subsystem, subsystems[i].name);

        if (site && site->agent && !(takeover && may_take_over(model, site, peer)))
            return fault_set(fault, FAULT_SUBSYSTEM_TAKEN, subsystems[i].name,
                model_may(model, peer, RIGHT_LIST, site->agent->name, &site->agent->owner) ? site->agent->name
                                                                                           : NULL,
                subsystem_name(subsystems[i].subsystem), 0);
    }
    return 0;
}

static void agent_free(struct model *model, struct agent *agent)
{
    model_refund(model, &agent->owner, QUOTA_AGENTS, 1);
    policy_disown(&agent->owner);
    free(agent);
}

/* One that is in no tree and no site yet. */
int agent_new(struct model *model, const struct peer *peer, const char *name,
    const struct subsystem_name *subsystems, size_t n, struct agent **ret_agent, struct fault *fault)
{
    struct agent *agent;
    int r;

    r = model_charge(model, peer, QUOTA_AGENTS, 1, fault);
    if (r)
        return r;
    agent = calloc(1, sizeof(*agent) + n * sizeof(*subsystems));
    if (!agent) {
        model_refund(model, peer, QUOTA_AGENTS, 1);
        return -ENOMEM;
    }
    strcpy(agent->name, name);
    agent->owner = policy_owner(peer);
    agent->since = clock_epoch();
    agent->model = model;
    agent->n_subsystems = n;
    memcpy(agent->subsystems, subsystems, n * sizeof(*subsystems));
    TAILQ_INIT(&agent->plugs);
    TAILQ_INIT(&agent->unplugs);
    TAILQ_INIT(&agent->flight);
    TAILQ_INIT(&agent->jobs);
    LIST_INIT(&agent->ends);
    RB_INIT(&agent->offers);
    *ret_agent = agent;
    return 0;
}

int model_attach(struct model *model, const struct peer *peer, const char *name,
    const struct subsystem_name *subsystems, size_t n, bool takeover, bool watched, void *session,
    struct agent **ret_agent, struct fault *fault)
{
    struct agent *agent;
    struct site *site;
    int r;

    r = model_may_attach(model, peer, name, subsystems, n, takeover, fault);
    if (r)
        return r;
    r = agent_new(model, peer, name, subsystems, n, &agent, fault);
    if (r)
        return r;
    agent->watched = watched;
    agent->session = session;
    for (size_t i = 0; i < n; i++) {
        r = site_get(model, subsystems[i].subsystem, subsystems[i].name, &site);
        if (r < 0) {
            while (i-- > 0)
                site_put(model, site_find(model, subsystems[i].subsystem, subsystems[i].name));
            agent_free(model, agent);
            return r;
        }
    }
    saved_init(model, &agent->saved, SAVED_AGENT);
    RB_INSERT(agent_tree, &model->agents, agent);
    model->counts.agents++;
    model_tell(model, NOTICE_ATTACHED, name, NULL, NULL, &agent->owner);
    for (size_t i = 0; i < n; i++) {
        site = site_find(model, subsystems[i].subsystem, subsystems[i].name);
        if (site->agent)
            site->successor = agent;
        else
            site->agent = agent;
        site_adopt(model, site);
        site_touch(model, site);
    }
    *ret_agent = agent;
    model_settle(model);
    return 0;
}

/* ---- Offers
 * ------------------------------------------------------------------------------------------------- */

/* An agent that peer has that right to, by name. */
static int get_agent(struct model *model, const struct peer *peer, enum right right, const char *name,
    const char *parameter, struct agent **ret_agent, struct fault *fault)
{
    struct agent *agent;

    if (!name_is_valid(name))
        return fault_set(fault, FAULT_INVALID, NULL, NULL, parameter, 0);
    agent = model_find_agent(model, name);
    if (!agent)
        return fault_set(fault, FAULT_NO_SUCH_AGENT, name, NULL, NULL, 0);
    if (!model_may(model, peer, right, name, &agent->owner))
        return fault_set(fault, FAULT_PERMISSION, NULL, NULL, NULL, 0);
    if (agent->leaving)
        return fault_set(fault, FAULT_WRONG_STATE, name, NULL, "detaching", 0);
    *ret_agent = agent;
    return 0;
}

/* The agent's site that an endpoint belongs to; NULL: none of its subsystems has it. */
static struct site *site_of(const struct agent *agent, const struct endpoint *endpoint)
{
    struct site *site = site_find(agent->model, endpoint_subsystem(endpoint), endpoint_name(endpoint));

    return site && (site->agent == agent || site->successor == agent) ? site : NULL;
}

static void free_offers(struct offer **offers, size_t n)
{
    for (size_t i = 0; offers && i < n; i++)
        free(offers[i]);
    free(offers);
}

/* Parses endpoints that an agent says something of. fixed: such as need no offer are good as well. */
static int parse_endpoints(const struct agent *agent, const char *const *texts, size_t n, bool fixed,
    struct offer ***ret_offers, struct fault *fault)
{
    struct offer **offers = calloc(n + 1, sizeof(struct offer *));
    int r = offers ? 0 : -ENOMEM;
    const char *reason;

    for (size_t i = 0; i < n && r == 0; i++) {
        offers[i] = calloc(1, sizeof(**offers));
        if (!offers[i])
            r = -ENOMEM;
        else if (endpoint_parse(texts[i], &offers[i]->endpoint, &reason) < 0)
            r = fault_set(fault, FAULT_BAD_ENDPOINT, texts[i], NULL, reason, 0);
        else if (!site_of(agent, &offers[i]->endpoint))
            r = fault_set(fault, FAULT_BAD_ENDPOINT, texts[i], NULL, "is in no subsystem of this agent", 0);
        else if (!fixed && !endpoint_is_offered(&offers[i]->endpoint))
            r = fault_set(
                fault, FAULT_BAD_ENDPOINT, texts[i], NULL, "needs no offer: only dev/ endpoints do", 0);
    }
    if (r) {
        free_offers(offers, n);
        return r;
    }
    *ret_offers = offers;
    return 0;
}

/* Has every end at an endpoint looked at again. */
static void touch_ends(struct agent *agent, const struct endpoint *endpoint, const char *reason)
{
    struct site *site = site_of(agent, endpoint);
    struct end *end;

    RB_FOREACH (end, end_tree, &site->ends) {
        if (endpoint_compare(&end->endpoint, endpoint) != 0)
            continue;
        end->refused = false;
        if (reason)
            end_set_reason(end, reason);
        link_touch(agent->model, end->link);
    }
}

/* Their owner is charged for as many as there are, and more. */
static int charge_offers(struct agent *agent, size_t more, struct fault *fault)
{
    return model_recharge(
        agent->model, &agent->owner, QUOTA_OFFERS, &agent->n_charged, agent->n_offers + more, fault);
}

/* An endpoint is on offer from now on, or is not. offer: consumed. */
static void set_offer(struct agent *agent, struct offer *offer, bool withdrawn, const char *reason)
{
    struct offer *old = RB_FIND(offer_tree, &agent->offers, offer);
    bool offered = endpoint_is_offered(&offer->endpoint), changed;
    struct endpoint endpoint = offer->endpoint;
    char text[ENDPOINT_SIZE];

    /* On record is what differs from the rule: offers of dev/ endpoints, and fixed ones that were let go. */
    changed = offered != withdrawn ? !old : old != NULL;
    if (old && changed) {
        RB_REMOVE(offer_tree, &agent->offers, old);
        free(old);
    }
    if (changed && offered != withdrawn)
        RB_INSERT(offer_tree, &agent->offers, offer);
    else
        free(offer);
    if (!changed)
        return;
    saved_due(agent->model, &agent->saved);
    if (offered != withdrawn)
        agent->n_offers++;
    else
        agent->n_offers--;
    model_tell(agent->model, withdrawn ? NOTICE_WITHDRAWN : NOTICE_OFFERED, endpoint_format(&endpoint, text),
        NULL, reason, &agent->owner);
    touch_ends(agent, &endpoint, withdrawn ? reason ? reason : "withdrawn" : NULL);
}

int agent_restore_offer(struct agent *agent, const struct endpoint *endpoint)
{
    struct offer *offer = calloc(1, sizeof(*offer));

    if (!offer)
        return -ENOMEM;
    offer->endpoint = *endpoint;
    if (RB_INSERT(offer_tree, &agent->offers, offer))
        free(offer);
    else
        agent->n_offers++;
    return charge_offers(agent, 0, NULL);
}

/* The most that one agent may offer, or let go that needs no offer: lists and records tell an agent at once.
 */
#define OFFERS_MAX 4096

/* Charges what these add before it is there; what a call says twice counts twice until then. On failure they
 * are freed. */
static int expect_offers(
    struct agent *agent, struct offer **offers, size_t n, bool withdrawn, struct fault *fault)
{
    size_t more = 0;
    int r;

    for (size_t i = 0; i < n; i++)
        more += endpoint_is_offered(&offers[i]->endpoint) != withdrawn &&
                !RB_FIND(offer_tree, &agent->offers, offers[i]);
    r = more > 0 && agent->n_offers + more > OFFERS_MAX
            ? fault_set(fault, FAULT_QUOTA_EXCEEDED, NULL, NULL, "offers", OFFERS_MAX)
            : charge_offers(agent, more, fault);
    if (r)
        free_offers(offers, n);
    return r;
}

int model_offer(struct model *model, const struct peer *peer, const char *name, const char *const *endpoints,
    size_t n, struct fault *fault)
{
    struct agent *agent;
    struct offer **offers;
    int r;

    r = get_agent(model, peer, RIGHT_OFFER, name, "agent", &agent, fault);
    if (r == 0)
        r = parse_endpoints(agent, endpoints, n, false, &offers, fault);
    if (r == 0)
        r = expect_offers(agent, offers, n, false, fault);
    if (r)
        return r;
    for (size_t i = 0; i < n; i++)
        set_offer(agent, offers[i], false, NULL);
    free(offers);
    (void)charge_offers(agent, 0, NULL);
    model_settle(model);
    return 0;
}

const struct offer *model_next_offer(const struct agent *agent, const struct offer *last)
{
    struct offer_tree *offers = (struct offer_tree *)&agent->offers;
    struct offer *offer =
        last ? RB_NEXT(offer_tree, offers, (struct offer *)last) : RB_MIN(offer_tree, offers);

    while (offer && !endpoint_is_offered(&offer->endpoint))
        offer = RB_NEXT(offer_tree, offers, offer);
    return offer;
}

/* Has agents_go() look at it. */
void agent_going(struct agent *agent)
{
    if (!agent->going)
        LIST_INSERT_HEAD(&agent->model->going, agent, in_going);
    agent->going = true;
}

/* A call that waits until nothing is plugged that the agent has let go. */
static int wait_for_agent(struct agent *agent, job_done done, void *userdata, struct job **ret_job)
{
    struct job *job = job_new(JOB_AGENT, done, userdata);

    if (!job)
        return -ENOMEM;
    agent_going(agent);
    TAILQ_INSERT_TAIL(&agent->jobs, job, in_agent);
    *ret_job = job;
    return 0;
}

int model_withdraw(struct model *model, const struct peer *peer, const char *name,
    const char *const *endpoints, size_t n, const char *reason, job_done done, void *userdata,
    struct job **ret_job, struct fault *fault)
{
    struct agent *agent;
    struct offer **offers;
    int r;

    r = get_agent(model, peer, RIGHT_WITHDRAW, name, "agent", &agent, fault);
    if (r == 0)
        r = parse_endpoints(agent, endpoints, n, true, &offers, fault);
    if (r == 0)
        r = expect_offers(agent, offers, n, true, fault);
    if (r)
        return r;
    r = wait_for_agent(agent, done, userdata, ret_job);
    for (size_t i = 0; i < n; i++)
        if (r == 0)
            set_offer(agent, offers[i], true, reason);
        else
            free(offers[i]);
    free(offers);
    (void)charge_offers(agent, 0, NULL);
    if (r == 0)
        model_settle(model);
    return r;
}

/* ---- Going
 * --------------------------------------------------------------------------------------------------- */

/* Ends a link that lasts until an agent of one of its ends detaches, unless another has taken the end over.
 */
static void end_with_agent(struct model *model, struct end *end)
{
    if (end->link->life.lifetime == LIFETIME_AGENT && end->site && !end_owner(end))
        link_down(model, end->link, "the agent of one of its ends is gone");
}

static void lose_end(struct agent *agent, struct end *end, const char *reason)
{
    struct link *link = end->link;
    char endpoint[ENDPOINT_SIZE];

    agent_queue(end, OP_NONE);
    if (end->flying)
        TAILQ_REMOVE(&agent->flight, end, in_agent);
    /* That a successor was sent Unplug is all that can be done about what another process had. */
    if (end->flying && agent->flying == OP_UNPLUG)
        end->inherited = false;
    end->flying = false;
    end->refused = false;
    end->state = END_ABSENT;
    if (!end->announced)
        end_set_reason(end, reason);
    /* The lost one's process may have the eventfd by now. */
    end->renewed = end->renewed && !end->dirty;
    end_repay(agent->model, end, UINT64_MAX);
    if (link->goal == GOAL_UP && link->job && link->job->kind == JOB_CONNECT)
        job_fail(agent->model, link->job, FAULT_PLUG_FAILED, endpoint_format(&end->endpoint, endpoint), NULL,
            NULL, ECONNRESET);
    end_with_agent(agent->model, end);
    link_touch(agent->model, link);
    /* What may still be plugged binds the lost agent while there is somebody to tell that its process is
     * dead. */
    if (!end->dirty || !agent->watched)
        end_set_agent(end, NULL);
}

static void lose(struct agent *agent, const char *reason)
{
    struct model *model = agent->model;
    struct offer *offer;
    struct end *end, *next;
    struct job *job;

    if (agent->lost)
        return;
    saved_due(model, &agent->saved);
    agent->lost = true;
    agent->late = false;
    agent_going(agent);
    RB_REMOVE(agent_tree, &model->agents, agent);
    model->counts.agents--;
    for (size_t i = 0; i < agent->n_subsystems; i++) {
        struct site *site = site_find(model, agent->subsystems[i].subsystem, agent->subsystems[i].name);

        if (site->agent == agent) {
            site->agent = site->successor;
            site->successor = NULL;
            site_touch(model, site);
        } else if (site->successor == agent) {
            site->successor = NULL;
            site_touch(model, site);
        }
        site_put(model, site);
    }
    LIST_FOREACH_SAFE (end, &agent->ends, of_agent, next)
        lose_end(agent, end, reason);
    agent->flying = OP_NONE;
    while ((offer = RB_MIN(offer_tree, &agent->offers))) {
        RB_REMOVE(offer_tree, &agent->offers, offer);
        free(offer);
    }
    agent->n_offers = 0;
    (void)charge_offers(agent, 0, NULL);
    model_tell(model, NOTICE_DETACHED, agent->name, NULL, reason, &agent->owner);
    model->hooks->agent_lost(model->userdata, agent);
    while ((job = TAILQ_FIRST(&agent->jobs))) {
        TAILQ_REMOVE(&agent->jobs, job, in_agent);
        job_finish(model, job);
    }
}

void model_agent_lost(struct agent *agent, const char *reason)
{
    struct model *model = agent->model;

    lose(agent, reason);
    model_settle(model);
}

void model_agent_dead(struct agent *agent)
{
    struct model *model = agent->model;
    struct end *end;

    lose(agent, "its process is dead");
    while ((end = LIST_FIRST(&agent->ends))) {
        /* What its predecessor had plugged did not die with it. */
        if (!end->inherited)
            came_clean(end);
        end_set_agent(end, NULL);
        link_touch(model, end->link);
    }
    model_settle(model);
}

int model_detach(struct model *model, const struct peer *peer, const char *name, job_done done,
    void *userdata, struct job **ret_job, struct fault *fault)
{
    struct agent *agent;
    struct end *end;
    int r;

    r = get_agent(model, peer, RIGHT_DETACH, name, "name", &agent, fault);
    if (r == 0)
        r = wait_for_agent(agent, done, userdata, ret_job);
    if (r)
        return r;
    saved_due(model, &agent->saved);
    agent->leaving = true;
    LIST_FOREACH (end, &agent->ends, of_agent) {
        end_set_reason(end, "its agent detaches");
        end_with_agent(model, end);
        link_touch(model, end->link);
    }
    model_settle(model);
    return 0;
}

/* Whether something is plugged, and can be unplugged, that the agent has let go. */
static bool has_to_unplug(const struct agent *agent)
{
    const struct end *end;

    if (agent->late)
        return false;
    LIST_FOREACH (end, &agent->ends, of_agent)
        if (((end->dirty && !end->refused) || end->flying) && !serves(agent, &end->endpoint))
            return true;
    return false;
}

/*
 * Who waits for an agent is answered when what it has let go is unplugged, or will not be in time; agents
 * that are being detached are gone then; lost ones are freed when nothing of theirs can be plugged any more.
 */
void agents_go(struct model *model)
{
    struct agent *agent, *next;
    struct job *job;

    LIST_FOREACH_SAFE (agent, &model->going, in_going, next) {
        if (!agent->lost && has_to_unplug(agent))
            continue;
        if (agent->leaving)
            lose(agent, "detached");
        if (!agent->lost) {
            LIST_REMOVE(agent, in_going);
            agent->going = false;
            while ((job = TAILQ_FIRST(&agent->jobs))) {
                TAILQ_REMOVE(&agent->jobs, job, in_agent);
                job_finish(model, job);
            }
        } else if (LIST_EMPTY(&agent->ends)) {
            LIST_REMOVE(agent, in_going);
            saved_end(model, &agent->saved);
            model->hooks->agent_forgotten(model->userdata, agent);
            agent_free(model, agent);
        }
    }
}
