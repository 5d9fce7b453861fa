/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The model's objects as records, and back: see record.h. */
#include "model/record.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/numbers.h"
#include "base/utf8.h"
#include "model/private.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Once used, a tag keeps its meaning: see base/pack.h. */
enum {
    TAG_NAME = 1,
    TAG_UID = 2,
    TAG_GID = 3,
    TAG_PID = 4,
    TAG_SINCE = 5,
    TAG_LIFETIME = 6,
    TAG_LEASE = 7,
    TAG_DEADLINE = 8,
    TAG_EVENTFD = 9, /* held: its number; link: the link's own */
    /* agents */
    TAG_SOCKET = 20,
    TAG_PIDFD = 21,
    TAG_WATCHED = 22,
    TAG_LOST = 23,
    TAG_LEAVING = 24,
    TAG_SUBSYSTEM = 25, /* KIND/NAME, one each */
    TAG_OFFER = 26,     /* an endpoint, one each */
    /* links */
    TAG_GROUP = 40,
    TAG_LABEL = 41, /* keys and values, in turn */
    TAG_GOAL = 42,
    TAG_STATE = 43,
    TAG_RELAYED = 44,
    TAG_ACKNOWLEDGED = 45,
    TAG_NAMED = 46,
    TAG_RESUMING = 47,
    TAG_FORWARDED = 48,
    TAG_RESAMPLE = 49,
    TAG_RENEW = 50,
    TAG_END = 51,  /* fields of its own, one each */
    TAG_OURS = 52, /* an eventfd that the broker made */
    TAG_CONFIGURED = 58,
    /* ends */
    TAG_ENDPOINT = 60,
    TAG_PRODUCER = 61,
    TAG_END_EVENTFD = 62,
    TAG_PLUGGED = 63, /* for sure: nothing was under way */
    TAG_DIRTY = 64,
    TAG_INHERITED = 65,
    TAG_RETIRING = 66,
    TAG_JOINED = 67,
    TAG_ANNOUNCED = 68,
    TAG_REASON = 69,
    TAG_END_UID = 70,
    TAG_DEBT = 71,
    TAG_AGENT = 72,
    TAG_MOVE_TO = 73, /* where a Move that is not over goes */
    /* owners; texts, which older readers pass over from here on */
    TAG_SCOPE = 74,
    TAG_SECLABEL = 75,
    /* delegations */
    TAG_LINE = 76,
    TAG_MEMBER = 77,        /* of a group, and 1 added, one each */
    TAG_GRANTED = 78,       /* an entry, one each */
    TAG_LIMIT = 79,         /* fields of its own, one each */
    TAG_MOST_EVENTFDS = 80, /* these two with 1 added */
    TAG_MOST_LINKS = 81,
};

/* ---- What is due
 * ------------------------------------------------------------------------------------------- */

void saved_init(struct model *model, struct saved *saved, enum saved_kind kind)
{
    *saved = (struct saved){ .kind = kind, .number = ++model->next_number };
    saved_due(model, saved);
}

/* Harmless for what has no number yet. */
void saved_due(struct model *model, struct saved *saved)
{
    if (saved->due || saved->number == 0 || !model->hooks->keep)
        return;
    saved->due = true;
    TAILQ_INSERT_TAIL(&model->due, saved, in_due);
}

void saved_end(struct model *model, struct saved *saved)
{
    if (saved->due)
        TAILQ_REMOVE(&model->due, saved, in_due);
    saved->due = false;
    if (saved->recorded)
        model->hooks->ended(model->userdata, saved->kind, saved->number);
}

bool model_is_due(const struct model *model)
{
    return !TAILQ_EMPTY(&model->due);
}

struct saved *model_next_due(struct model *model)
{
    struct saved *saved = TAILQ_FIRST(&model->due);

    if (saved) {
        TAILQ_REMOVE(&model->due, saved, in_due);
        saved->due = false;
        saved->recorded = true;
    }
    return saved;
}

void model_owed(struct link *link)
{
    struct end *end = link->n_ends > 0 ? link->ends[0] : NULL;
    struct eventfd *eventfd = end ? end->eventfd : NULL;

    for (size_t i = 0; i < link->n_ends && !eventfd; i++)
        eventfd = link->ends[i]->eventfd;
    if (eventfd)
        saved_due(eventfd->model, &link->saved);
}

uint64_t end_place_number(const struct end *end)
{
    uint64_t place = 0;

    while (end->link->ends[place] != end)
        place++;
    return place;
}

/* ---- To records
 * --------------------------------------------------------------------------------------------- */

static uint64_t number_of(const struct eventfd *eventfd)
{
    return eventfd ? eventfd->number : 0;
}

static void record_life(
    struct packer *packer, const struct peer *owner, const struct life *life, int64_t since)
{
    pack_number(packer, TAG_UID, owner->uid);
    pack_number(packer, TAG_GID, owner->gid);
    pack_number(packer, TAG_PID, (uint64_t)owner->pid);
    pack_number(packer, TAG_SINCE, (uint64_t)since);
    pack_text(packer, TAG_SCOPE, peer_scope(owner)[0] ? peer_scope(owner) : NULL);
    pack_text(packer, TAG_SECLABEL, peer_label(owner)[0] ? peer_label(owner) : NULL);
    if (!life)
        return;
    pack_number(packer, TAG_LIFETIME, life->lifetime);
    pack_number(packer, TAG_LEASE, life->term ? (uint64_t)life->term->lease : 0);
    pack_number(packer, TAG_DEADLINE, life->term ? (uint64_t)life->term->deadline : 0);
}

static void record_held(const struct held *held, struct packer *packer)
{
    pack_text(packer, TAG_NAME, held->name);
    record_life(packer, &held->owner, &held->life, held->since);
    pack_number(packer, TAG_EVENTFD, number_of(held->eventfd));
}

static void record_agent(const struct agent *agent, struct packer *packer)
{
    char text[ENDPOINT_SIZE];
    struct offer *offer;

    pack_text(packer, TAG_NAME, agent->name);
    record_life(packer, &agent->owner, NULL, agent->since);
    pack_number(packer, TAG_SOCKET, agent->socket);
    pack_number(packer, TAG_PIDFD, agent->pidfd);
    pack_number(packer, TAG_WATCHED, agent->watched);
    pack_number(packer, TAG_LOST, agent->lost);
    pack_number(packer, TAG_LEAVING, agent->leaving);
    for (size_t i = 0; i < agent->n_subsystems; i++) {
        const char *kind = subsystem_name(agent->subsystems[i].subsystem);
        size_t begin = pack_begin(packer, TAG_SUBSYSTEM);

        (void)pack_bytes(packer, kind, strlen(kind));
        (void)pack_bytes(packer, "/", 1);
        (void)pack_bytes(packer, agent->subsystems[i].name, strlen(agent->subsystems[i].name));
        pack_end(packer, begin);
    }
    RB_FOREACH (offer, offer_tree, (struct offer_tree *)&agent->offers)
        pack_text(packer, TAG_OFFER, endpoint_format(&offer->endpoint, text));
}

static void record_end(const struct end *end, struct packer *packer)
{
    char text[ENDPOINT_SIZE];
    size_t begin = pack_begin(packer, TAG_END);

    pack_text(packer, TAG_ENDPOINT, endpoint_format(&end->endpoint, text));
    pack_number(packer, TAG_PRODUCER, end->producer);
    pack_number(packer, TAG_END_EVENTFD, number_of(end->eventfd));
    pack_number(packer, TAG_OURS, end->eventfd && end->eventfd->ours);
    pack_number(packer, TAG_PLUGGED, end->state == END_PLUGGED && end->dirty && !end->flying);
    pack_number(packer, TAG_DIRTY, end->dirty);
    pack_number(packer, TAG_INHERITED, end->inherited);
    pack_number(packer, TAG_RETIRING, end->retiring);
    pack_number(packer, TAG_JOINED, end->joined);
    pack_number(packer, TAG_ANNOUNCED, end->announced);
    pack_text(packer, TAG_REASON, end->reason);
    pack_number(packer, TAG_END_UID, end->uid);
    pack_number(packer, TAG_DEBT, end->debt);
    pack_number(packer, TAG_AGENT, end->dirty && end->agent ? end->agent->saved.number : 0);
    pack_number(packer, TAG_MOVE_TO, end == end->link->to);
    pack_end(packer, begin);
}

static void record_link(const struct link *link, struct packer *packer)
{
    pack_text(packer, TAG_NAME, link->name);
    record_life(packer, &link->owner, &link->life, link->since);
    pack_number(packer, TAG_EVENTFD, number_of(link->eventfd));
    pack_number(packer, TAG_OURS, link->eventfd && link->eventfd->ours);
    pack_text(packer, TAG_GROUP, link->group);
    for (char **label = link->labels; label && *label; label++)
        pack_text(packer, TAG_LABEL, *label);
    pack_number(packer, TAG_GOAL, link->goal);
    pack_number(packer, TAG_STATE, link->state);
    pack_number(packer, TAG_RELAYED, link->relayed);
    pack_number(packer, TAG_ACKNOWLEDGED, link->acknowledged);
    pack_number(packer, TAG_NAMED, link->named);
    pack_number(packer, TAG_RESUMING, link->job && link->job->kind == JOB_RESUME);
    pack_number(packer, TAG_FORWARDED, link->forwarded);
    pack_number(packer, TAG_RESAMPLE, number_of(link->resample));
    pack_number(packer, TAG_RENEW, number_of(link->renew));
    pack_number(packer, TAG_CONFIGURED, link->configured);
    for (size_t i = 0; i < link->n_ends; i++)
        record_end(link->ends[i], packer);
}

static void record_delegation(const struct delegation *delegation, struct packer *packer)
{
    const struct groups *groups = delegation->groups;
    const struct grant *grant = delegation->grant;

    pack_text(packer, TAG_NAME, peer_scope(&delegation->peer));
    record_life(packer, &delegation->peer, NULL, delegation->since);
    pack_number(packer, TAG_SOCKET, delegation->socket);
    pack_number(packer, TAG_LINE, delegation->line);
    for (size_t i = 0; groups && i < groups->n; i++)
        pack_number(packer, TAG_MEMBER, (uint64_t)groups->gids[i] + 1);
    for (char **entry = grant->endpoints; *entry; entry++)
        pack_text(packer, TAG_GRANTED, *entry);
    for (size_t i = 0; i < grant->n_limits; i++) {
        size_t begin = pack_begin(packer, TAG_LIMIT);

        pack_text(packer, TAG_NAME, grant->limits[i].scope);
        pack_number(packer, TAG_MOST_EVENTFDS, grant->limits[i].eventfds + 1);
        pack_number(packer, TAG_MOST_LINKS, grant->limits[i].links + 1);
        pack_end(packer, begin);
    }
}

void model_record(const struct saved *saved, struct packer *packer)
{
    switch (saved->kind) {
    case SAVED_HELD:
        record_held((const struct held *)saved, packer);
        break;
    case SAVED_AGENT:
        record_agent((const struct agent *)saved, packer);
        break;
    case SAVED_LINK:
        record_link((const struct link *)saved, packer);
        break;
    case SAVED_DELEGATION:
        record_delegation((const struct delegation *)saved, packer);
        break;
    }
}

_Static_assert(offsetof(struct held, saved) == 0 && offsetof(struct agent, saved) == 0 &&
                   offsetof(struct link, saved) == 0 && offsetof(struct delegation, saved) == 0,
    "what is saved begins with it");

/* ---- From records
 * ------------------------------------------------------------------------------------------- */

static int number_fields(
    struct unpacker unpacker, bool in_end, void (*each)(void *userdata, uint64_t number), void *userdata)
{
    struct unpacked field;
    uint64_t number;
    int r;

    while ((r = unpack_next(&unpacker, &field)) > 0) {
        if (!in_end && field.tag == TAG_END) {
            r = number_fields(
                (struct unpacker){ field.bytes, field.bytes + field.length }, true, each, userdata);
            if (r < 0)
                return r;
        } else if (in_end ? field.tag == TAG_END_EVENTFD
                          : field.tag == TAG_EVENTFD || field.tag == TAG_RESAMPLE || field.tag == TAG_RENEW ||
                                field.tag == TAG_SOCKET || field.tag == TAG_PIDFD || field.tag == TAG_LINE) {
            r = unpacked_number(&field, &number);
            if (r < 0)
                return r;
            each(userdata, number);
        }
    }
    return r;
}

int record_numbers(enum saved_kind kind, const unsigned char *bytes, size_t length,
    void (*each)(void *userdata, uint64_t number), void *userdata)
{
    (void)kind;
    return number_fields((struct unpacker){ bytes, bytes + length }, false, each, userdata);
}

/* What all kinds of records begin with, and, of the others, what the kinds have one of. */
struct common {
    char name[NAME_SIZE];
    char scope[NAME_SIZE], label[LABEL_SIZE];
    struct peer owner; /* its origin is the restore's */
    enum lifetime lifetime;
    struct term term;
    int64_t since;
    uint64_t eventfd;
    uint64_t numbers[TAG_MOVE_TO + 1]; /* by tag */
};

static bool is_text(unsigned char tag)
{
    return tag == TAG_NAME || tag == TAG_SUBSYSTEM || tag == TAG_OFFER || tag == TAG_GROUP ||
           tag == TAG_LABEL || tag == TAG_ENDPOINT || tag == TAG_REASON;
}

/* An origin for an owner. Most records have that of the record before. */
static int find_origin(struct restore *restore, const char *scope, const char *label)
{
    struct origin *origin = restore->origin;
    int r;

    if (origin ? strcmp(origin->scope, scope) == 0 && strcmp(origin->label, label) == 0
               : !scope[0] && !label[0])
        return 0;
    r = origin_new(scope, label, &origin);
    if (r < 0)
        return r;
    origin_unref(restore->origin);
    restore->origin = origin;
    return 0;
}

/* Reads the fields that are numbers, the name, and who owns it. */
static int read_common(
    struct restore *restore, const unsigned char *bytes, size_t length, struct common *common)
{
    struct unpacker unpacker = { bytes, bytes + length };
    struct unpacked field;
    int r;

    memset(common, 0, sizeof(*common));
    while ((r = unpack_next(&unpacker, &field)) > 0) {
        if (field.tag == TAG_NAME)
            r = unpacked_text(&field, common->name, sizeof(common->name));
        else if (field.tag == TAG_SCOPE)
            r = unpacked_text(&field, common->scope, sizeof(common->scope));
        else if (field.tag == TAG_SECLABEL)
            r = unpacked_text(&field, common->label, sizeof(common->label));
        else if (!is_text(field.tag) && field.tag != TAG_END && field.tag < TAG_MOVE_TO + 1)
            r = unpacked_number(&field, &common->numbers[field.tag]);
        if (r < 0)
            return r;
    }
    if (r == 0)
        r = find_origin(restore, common->scope, common->label);
    if (r < 0)
        return r;
    common->owner = (struct peer){
        .standing = restore->origin ? &restore->origin->standing : NULL,
        .uid = (uid_t)common->numbers[TAG_UID],
        .gid = (gid_t)common->numbers[TAG_GID],
        .pid = (pid_t)common->numbers[TAG_PID],
    };
    common->since = (int64_t)common->numbers[TAG_SINCE];
    common->lifetime = (enum lifetime)common->numbers[TAG_LIFETIME];
    common->term.lease = (int64_t)common->numbers[TAG_LEASE];
    common->term.deadline = (int64_t)common->numbers[TAG_DEADLINE];
    if (common->scope[0] && !scope_is_valid(common->scope))
        return -EBADMSG;
    return name_is_valid(common->name) && common->lifetime <= LIFETIME_AGENT ? 0 : -EBADMSG;
}

/* The eventfd of that number, a reference for the caller: *ret_eventfd is NULL for 0. -ENOENT: it is lost. */
static int get_eventfd(struct restore *restore, uint64_t number, bool ours, struct eventfd **ret_eventfd)
{
    const uint64_t *found = numbers_find(restore->numbers, restore->n_numbers, number);
    struct eventfd *eventfd, **place;
    void *item;
    int fd;

    *ret_eventfd = NULL;
    if (number == 0)
        return 0;
    if (!found)
        return -ENOENT;
    place = &restore->eventfds[found - restore->numbers];
    if (!*place) {
        fd = restore->eventfd(restore->userdata, (size_t)(found - restore->numbers), &item);
        if (fd < 0)
            return -ENOENT;
        eventfd = eventfd_take(restore->model, fd);
        if (!eventfd)
            return -ENOMEM; /* the process ends for it */
        eventfd->number = number;
        eventfd->item = item;
        *place = eventfd;
    }
    (*place)->ours |= ours;
    *ret_eventfd = eventfd_ref(*place);
    return 0;
}

static void restore_saved(struct restore *restore, struct saved *saved, enum saved_kind kind, uint64_t number)
{
    *saved = (struct saved){ .kind = kind, .number = number, .recorded = true };
    if (restore->model->next_number < number)
        restore->model->next_number = number;
}

static int restore_held(struct restore *restore, uint64_t number, const unsigned char *bytes, size_t length)
{
    struct model *model = restore->model;
    struct common common;
    struct held *held;
    int r;

    r = read_common(restore, bytes, length, &common);
    if (r < 0)
        return r;
    if (held_find(model, common.name))
        return -EEXIST;
    held = held_new(common.name, common.lifetime);
    if (!held)
        return -ENOMEM;
    r = get_eventfd(restore, common.numbers[TAG_EVENTFD], false, &held->eventfd);
    if (r == 0 && !held->eventfd)
        r = -EBADMSG;
    if (r == 0)
        r = model_charge(model, &common.owner, QUOTA_EVENTFDS, 1, NULL);
    if (r < 0) {
        eventfd_unref(held->eventfd);
        held_free(held);
        return r;
    }
    held->owner = policy_owner(&common.owner);
    held->since = common.since;
    restore_saved(restore, &held->saved, SAVED_HELD, number);
    life_restore(model, &held->life, &common.term, &restore->lifeline);
    RB_INSERT(held_tree, &model->held, held);
    model->counts.eventfds++;
    restore->held++;
    return 0;
}

/* ---- Agents
 * --------------------------------------------------------------------------------------------------- */

static int read_subsystem(const struct unpacked *field, struct subsystem_name *subsystem)
{
    char text[NAME_SIZE + 16], *slash;
    int r = unpacked_text(field, text, sizeof(text));

    if (r < 0)
        return r;
    slash = strchr(text, '/');
    if (!slash || !name_is_valid(slash + 1))
        return -EBADMSG;
    *slash = '\0';
    subsystem->subsystem = subsystem_from_name(text);
    if (subsystem->subsystem == SUBSYSTEM_NONE)
        return -EBADMSG;
    strcpy(subsystem->name, slash + 1);
    return 0;
}

/* Its subsystems, the caller's to free. */
static int read_subsystems(
    const unsigned char *bytes, size_t length, struct subsystem_name **ret_subsystems, size_t *ret_n)
{
    struct unpacker unpacker = { bytes, bytes + length };
    struct subsystem_name *subsystems = calloc(length / 3 + 1, sizeof(*subsystems));
    struct unpacked field;
    size_t n = 0;
    int r;

    if (!subsystems)
        return -ENOMEM;
    while ((r = unpack_next(&unpacker, &field)) > 0) {
        if (field.tag == TAG_SUBSYSTEM)
            r = read_subsystem(&field, &subsystems[n++]);
        if (r < 0)
            break;
    }
    if (r == 0 && n == 0)
        r = -EBADMSG;
    if (r < 0) {
        free(subsystems);
        return r;
    }
    *ret_subsystems = subsystems;
    *ret_n = n;
    return 0;
}

/* agent: NULL: only to see whether they can be read. */
static int read_offers(struct agent *agent, const unsigned char *bytes, size_t length)
{
    struct unpacker unpacker = { bytes, bytes + length };
    struct endpoint endpoint;
    struct unpacked field;
    char text[ENDPOINT_SIZE];
    const char *reason;
    int r;

    while ((r = unpack_next(&unpacker, &field)) > 0) {
        if (field.tag != TAG_OFFER)
            continue;
        r = unpacked_text(&field, text, sizeof(text));
        if (r < 0)
            return r;
        if (endpoint_parse(text, &endpoint, &reason) < 0)
            return -EBADMSG;
        if (agent && agent_restore_offer(agent, &endpoint) < 0)
            return -ENOMEM;
    }
    return r;
}

static int add_agent(struct agent ***agents, size_t *n, struct agent *agent)
{
    struct agent **more = *n % 16 ? *agents : reallocarray(*agents, *n + 16, sizeof(struct agent *));

    if (!more)
        return -ENOMEM;
    *agents = more;
    more[(*n)++] = agent;
    return 0;
}

static int restore_agent(struct restore *restore, uint64_t number, const unsigned char *bytes, size_t length)
{
    struct model *model = restore->model;
    CLEANUP(freep) struct subsystem_name *subsystems = NULL;
    struct fault fault = { 0 };
    struct common common;
    struct agent *agent;
    size_t n = 0;
    int r;

    r = read_common(restore, bytes, length, &common);
    if (r == 0)
        r = read_offers(NULL, bytes, length);
    if (r == 0)
        r = read_subsystems(bytes, length, &subsystems, &n);
    if (r < 0)
        return r;
    /* One that is lost is only still there for what it had plugged. */
    if (common.numbers[TAG_LOST])
        r = agent_new(model, &common.owner, common.name, subsystems, n, &agent, &fault);
    else
        r = model_attach(model, &common.owner, common.name, subsystems, n, true, common.numbers[TAG_WATCHED],
            NULL, &agent, &fault);
    if (r)
        return r < 0 ? r : -EEXIST;
    if (agent->saved.due)
        TAILQ_REMOVE(&model->due, &agent->saved, in_due);
    restore_saved(restore, &agent->saved, SAVED_AGENT, number);
    agent->since = common.since;
    agent->socket = common.numbers[TAG_SOCKET];
    agent->pidfd = common.numbers[TAG_PIDFD];
    agent->lost = common.numbers[TAG_LOST];
    agent->leaving = common.numbers[TAG_LEAVING];
    agent->watched = common.numbers[TAG_WATCHED];
    if (agent->lost || agent->leaving)
        agent_going(agent);
    r = agent->lost ? 0 : read_offers(agent, bytes, length);
    if (r == 0)
        r = add_agent(&restore->agents, &restore->n_agents, agent);
    /* What cannot be served, or watched, is lost as soon as its ends are known. */
    if (r == 0 && restore->agent(restore->userdata, agent) < 0)
        r = add_agent(&restore->lost, &restore->n_lost, agent);
    return r;
}

static struct agent *find_agent(const struct restore *restore, uint64_t number)
{
    for (size_t i = 0; i < restore->n_agents; i++)
        if (restore->agents[i]->saved.number == number)
            return restore->agents[i];
    return NULL;
}

/* ---- Links
 * ---------------------------------------------------------------------------------------------------- */

/* Joins an eventfd to its link, unless another one that is in use has it. */
static int join(struct link *link, struct eventfd *eventfd)
{
    int r;

    if (!eventfd || (eventfd->identity && eventfd->identity->link == link))
        return 0;
    r = eventfd_know(eventfd);
    if (r < 0)
        return r;
    if (!eventfd_user(eventfd->model, eventfd))
        eventfd_join(eventfd->model, eventfd, link);
    else if (link->named)
        return -EEXIST;
    return 0;
}

static int place(struct model *model, struct end *end)
{
    struct end *other = NULL;
    int r;

    if (end_is_eventfd(end) && !end->link->named)
        return 0;
    r = site_get(model, endpoint_subsystem(&end->endpoint), endpoint_name(&end->endpoint), &end->site);
    if (r < 0)
        return r;
    RB_INSERT(end_tree, &end->site->ends, end);
    while ((other = end_next_collision(end, other)))
        if (end->link->named && other->link->named && other->link != end->link)
            return -EEXIST;
    return 0;
}

static int restore_end(struct restore *restore, struct link *link, const struct unpacked *from)
{
    struct unpacker unpacker = { from->bytes, from->bytes + from->length };
    uint64_t numbers[TAG_MOVE_TO + 1] = { 0 };
    char text[ENDPOINT_SIZE] = "", reason[512] = "";
    struct endpoint endpoint;
    struct unpacked field;
    const char *complaint;
    struct end *end;
    int r;

    while ((r = unpack_next(&unpacker, &field)) > 0) {
        if (field.tag == TAG_ENDPOINT)
            r = unpacked_text(&field, text, sizeof(text));
        else if (field.tag == TAG_REASON)
            r = unpacked_text(&field, reason, sizeof(reason));
        else if (field.tag <= TAG_MOVE_TO)
            r = unpacked_number(&field, &numbers[field.tag]);
        if (r < 0)
            return r;
    }
    if (r < 0 || endpoint_parse(text, &endpoint, &complaint) < 0 ||
        end_complaint(&endpoint, numbers[TAG_PRODUCER]))
        return -EBADMSG;
    end = end_new(link, &endpoint, numbers[TAG_PRODUCER], (uid_t)numbers[TAG_END_UID]);
    if (!end)
        return -ENOMEM;
    /* Only agents plug. */
    if (numbers[TAG_DIRTY] && end_is_eventfd(end))
        return -EBADMSG;
    r = get_eventfd(restore, numbers[TAG_END_EVENTFD], numbers[TAG_OURS], &end->eventfd);
    if (r == 0)
        r = join(link, end->eventfd);
    if (r == 0)
        r = place(restore->model, end);
    if (r < 0)
        return r;
    end->inherited = numbers[TAG_INHERITED];
    /* A Move that was not answered did not happen. */
    end->retiring = numbers[TAG_RETIRING] || numbers[TAG_MOVE_TO];
    end->joined = numbers[TAG_JOINED];
    end->announced = numbers[TAG_ANNOUNCED];
    end->debt = numbers[TAG_DEBT];
    end_set_reason(end, reason[0] ? reason : NULL);
    if (!numbers[TAG_DIRTY] || !end->eventfd)
        return 0;
    end->dirty = true;
    end->state = numbers[TAG_PLUGGED] ? END_PLUGGED : END_UNKNOWN;
    end_set_agent(end, find_agent(restore, numbers[TAG_AGENT]));
    return 0;
}

static int read_strings(struct link *link, const unsigned char *bytes, size_t length)
{
    struct unpacker unpacker = { bytes, bytes + length };
    struct unpacked field;
    size_t n = 0;
    int r;

    while ((r = unpack_next(&unpacker, &field)) > 0) {
        char *text;

        if (field.tag != TAG_GROUP && field.tag != TAG_LABEL)
            continue;
        text = strndup((const char *)field.bytes, field.length);
        if (!text)
            return -ENOMEM;
        /* JSON could not show it. */
        if (!utf8_is_text(text)) {
            free(text);
            return -EBADMSG;
        }
        if (field.tag == TAG_GROUP) {
            free(link->group);
            link->group = text;
            if (!name_is_valid(text))
                return -EBADMSG;
        } else {
            char **labels = reallocarray(link->labels, n + 3, sizeof(char *));

            if (!labels) {
                free(text);
                return -ENOMEM;
            }
            link->labels = labels;
            labels[n++] = text;
            labels[n] = labels[n + 1] = NULL;
        }
    }
    return r;
}

static int read_ends(struct restore *restore, struct link *link, const unsigned char *bytes, size_t length)
{
    struct unpacker unpacker = { bytes, bytes + length };
    struct unpacked field;
    int r;

    while ((r = unpack_next(&unpacker, &field)) > 0) {
        if (field.tag == TAG_END)
            r = restore_end(restore, link, &field);
        if (r < 0)
            return r;
    }
    return r < 0 ? r : link->n_ends > 0 || !link->named ? 0 : -EBADMSG;
}

/* Whether none of its ends stays. */
static bool is_left(const struct link *link)
{
    for (size_t i = 0; i < link->n_ends; i++)
        if (!link->ends[i]->retiring)
            return false;
    return true;
}

/* Level ends are plugged with two eventfds, and KVM wants them to be two. */
static bool lacks_resample(const struct link *link)
{
    bool level = false;

    for (size_t i = 0; i < link->n_ends; i++)
        level |= endpoint_is_level(&link->ends[i]->endpoint);
    return link->resample ? link->resample == link->eventfd : level;
}

static int restore_link(
    struct restore *restore, uint64_t number, const unsigned char *bytes, size_t length, bool gone)
{
    struct model *model = restore->model;
    struct common common;
    struct link *link;
    int r;

    r = read_common(restore, bytes, length, &common);
    if (r < 0)
        return r;
    if (gone == (common.numbers[TAG_NAMED] != 0))
        return 0; /* another time */
    if (common.numbers[TAG_GOAL] > GOAL_DOWN || common.numbers[TAG_STATE] > LINK_FAILED)
        return -EBADMSG;
    if (!gone && link_find(model, common.name))
        return -EEXIST;
    link = calloc(1, sizeof(*link));
    if (!link)
        return -ENOMEM;
    link->name = strdup(common.name);
    link->owner = policy_owner(&common.owner);
    link->since = common.since;
    link->goal = (enum link_goal)common.numbers[TAG_GOAL];
    link->state = (enum link_state)common.numbers[TAG_STATE];
    link->relayed = common.numbers[TAG_RELAYED];
    link->acknowledged = common.numbers[TAG_ACKNOWLEDGED];
    link->forwarded = common.numbers[TAG_FORWARDED];
    link->named = !gone;
    link->configured = common.numbers[TAG_CONFIGURED];
    /* What was not answered did not happen. */
    if (!link->acknowledged)
        link->goal = GOAL_DOWN;
    else if (common.numbers[TAG_RESUMING] && link->goal == GOAL_UP)
        link->goal = GOAL_PARKED;
    r = link->name ? read_strings(link, bytes, length) : -ENOMEM;
    if (r == 0)
        r = life_init(&link->life, gone ? LIFETIME_PERSISTENT : common.lifetime, true);
    if (r == 0)
        r = get_eventfd(restore, common.numbers[TAG_EVENTFD], common.numbers[TAG_OURS], &link->eventfd);
    if (r == 0)
        r = join(link, link->eventfd);
    if (r == 0)
        r = get_eventfd(restore, common.numbers[TAG_RESAMPLE], true, &link->resample);
    if (r == 0)
        r = join(link, link->resample);
    if (r == 0)
        r = read_ends(restore, link, bytes, length);
    if (r == 0 && lacks_resample(link))
        r = -EBADMSG;
    if (r == 0)
        r = link_charge(model, &link->owner, link, NULL);
    if (r < 0) {
        link_free(model, link);
        return r;
    }
    if (is_left(link))
        link->goal = GOAL_DOWN;
    if (link->eventfd && common.numbers[TAG_RENEW] == link->eventfd->number)
        link->renew = link->eventfd;
    for (size_t i = 0; i < link->n_ends; i++)
        if (link->ends[i]->eventfd && link->ends[i]->eventfd->number == common.numbers[TAG_RENEW])
            link->renew = link->ends[i]->eventfd;
    restore_saved(restore, &link->saved, SAVED_LINK, number);
    if (link->named) {
        RB_INSERT(link_tree, &model->links, link);
        life_restore(model, &link->life, &common.term, &restore->lifeline);
    }
    if (link->named && link->acknowledged) {
        model->counts.links++;
        restore->links++;
    }
    /* One that is to be undone was never there. */
    if (link->named && link->relayed && link->acknowledged)
        model->hooks->relay(model->userdata, link, false);
    link_touch(model, link);
    return 0;
}

/* Whether something about the link was under way: an end is in doubt, or is to be unplugged. */
static bool is_begun(const struct link *link)
{
    bool begun = link->goal == GOAL_DOWN;

    for (size_t i = 0; i < link->n_ends; i++) {
        const struct end *end = link->ends[i];

        begun |= end->retiring;
        begun |= end->dirty && end->agent && end->site && end_owner(end) != end->agent;
        begun |= end->dirty && (end->state != END_PLUGGED || (link->goal == GOAL_PARKED && !end->producer));
    }
    return begun;
}

/* ---- Delegations
 * ---------------------------------------------------------------------------------------------- */

static int read_limit(const struct unpacked *from, struct grant *grant)
{
    struct unpacker unpacker = { from->bytes, from->bytes + from->length };
    struct scope_limit limit = { .scope = "" };
    uint64_t eventfds = 0, links = 0;
    struct unpacked field;
    int r;

    while ((r = unpack_next(&unpacker, &field)) > 0) {
        if (field.tag == TAG_NAME)
            r = unpacked_text(&field, limit.scope, sizeof(limit.scope));
        else if (field.tag == TAG_MOST_EVENTFDS)
            r = unpacked_number(&field, &eventfds);
        else if (field.tag == TAG_MOST_LINKS)
            r = unpacked_number(&field, &links);
        if (r < 0)
            return r;
    }
    if (r < 0)
        return r;
    /* What was left out was one less than 0: there is no limit. */
    limit.eventfds = (size_t)(eventfds - 1);
    limit.links = (size_t)(links - 1);
    return grant_limit(grant, &limit);
}

static int add_member(struct delegation *delegation, uint64_t gid)
{
    size_t n = delegation->groups ? delegation->groups->n : 0;
    struct groups *more = realloc(delegation->groups, sizeof(*more) + (n + 1) * sizeof(gid_t));

    if (!more)
        return -ENOMEM;
    more->n = n + 1;
    more->gids[n] = (gid_t)gid;
    delegation->groups = more;
    return 0;
}

static int read_delegation(struct delegation *delegation, const unsigned char *bytes, size_t length)
{
    struct unpacker unpacker = { bytes, bytes + length };
    char entry[ENDPOINT_SIZE];
    struct unpacked field;
    uint64_t number;
    int r;

    while ((r = unpack_next(&unpacker, &field)) > 0) {
        if (field.tag == TAG_GRANTED) {
            r = unpacked_text(&field, entry, sizeof(entry));
            r = r < 0 ? r : grant_add(delegation->grant, entry);
        } else if (field.tag == TAG_LIMIT) {
            r = read_limit(&field, delegation->grant);
        } else if (field.tag == TAG_MEMBER) {
            r = unpacked_number(&field, &number);
            r = r < 0 ? r : add_member(delegation, number - 1);
        } else if (field.tag == TAG_LINE) {
            r = unpacked_number(&field, &delegation->line);
        }
        if (r < 0)
            return r;
    }
    return r;
}

static int restore_delegation(
    struct restore *restore, uint64_t number, const unsigned char *bytes, size_t length)
{
    struct delegation *delegation;
    struct common common;
    int r;

    r = read_common(restore, bytes, length, &common);
    if (r < 0)
        return r;
    if (!common.scope[0])
        return -EBADMSG;
    delegation = calloc(1, sizeof(*delegation));
    if (!delegation)
        return -ENOMEM;
    delegation->model = restore->model;
    delegation->peer = common.owner;
    delegation->since = common.since;
    delegation->socket = common.numbers[TAG_SOCKET];
    r = grant_new(&delegation->grant);
    if (r == 0)
        r = read_delegation(delegation, bytes, length);
    delegation_stand(delegation, origin_ref(restore->origin));
    if (r == 0)
        r = restore->delegation(restore->userdata, delegation);
    if (r < 0) {
        delegation_free(delegation);
        return r;
    }
    restore_saved(restore, &delegation->saved, SAVED_DELEGATION, number);
    return 0;
}

/* ---- All of it
 * -------------------------------------------------------------------------------------------------- */

int model_restore(struct restore *restore)
{
    restore->eventfds = calloc(restore->n_numbers + 1, sizeof(struct eventfd *));
    restore->model->restoring = true;
    return restore->eventfds ? 0 : -ENOMEM;
}

int model_restore_record(struct restore *restore, enum saved_kind kind, uint64_t number,
    const unsigned char *bytes, size_t length, bool gone)
{
    switch (kind) {
    case SAVED_HELD:
        return restore_held(restore, number, bytes, length);
    case SAVED_AGENT:
        return restore_agent(restore, number, bytes, length);
    case SAVED_LINK:
        return restore_link(restore, number, bytes, length, gone);
    case SAVED_DELEGATION:
        return restore_delegation(restore, number, bytes, length);
    }
    return -EBADMSG;
}

void model_stop(struct model *model)
{
    if (model)
        model->stopping = true;
}

bool model_is_recovering(const struct model *model)
{
    return model->n_recovering > 0;
}

void model_restore_count(struct restore *restore, uint64_t number, uint64_t place, uint64_t count)
{
    struct model *model = restore->model;
    struct eventfd *eventfd;
    struct link *link;

    if (place == RESTORE_BACK) {
        if (get_eventfd(restore, number, false, &eventfd) < 0 || !eventfd)
            return;
        (void)evaio_add(model->aio, eventfd->fd, count);
        eventfd_unref(eventfd);
        return;
    }
    RB_FOREACH (link, link_tree, &model->links) {
        struct end *end = link->saved.number == number && place < link->n_ends ? link->ends[place] : NULL;

        /* What nothing can be plugged with is nobody's debt. */
        if (end && !end->dirty && end->eventfd)
            (void)evaio_add(model->aio, end->eventfd->fd, count);
        else if (end && __builtin_add_overflow(end->debt, count, &end->debt))
            end->debt = EVENTFD_MAX;
    }
}

/* What it had for itself. */
static void clear(struct restore *restore)
{
    for (size_t i = 0; restore->eventfds && i < restore->n_numbers; i++)
        eventfd_unref(restore->eventfds[i]);
    free(restore->eventfds);
    free(restore->lost);
    free(restore->agents);
    restore->origin = origin_unref(restore->origin);
}

void model_restore_failed(struct restore *restore)
{
    clear(restore);
}

void model_restored(struct restore *restore)
{
    struct model *model = restore->model;
    struct link *link;

    model->restoring = false;
    for (size_t i = 0; i < restore->n_lost; i++)
        if (restore->lost[i]->lost)
            model_agent_dead(restore->lost[i]);
        else
            model_agent_lost(restore->lost[i], "its socket is lost");
    clear(restore);
    model_cut(model, &restore->lifeline);
    RB_FOREACH (link, link_tree, &model->links)
        link_touch(model, link);
    model_settle(model);
    RB_FOREACH (link, link_tree, &model->links) {
        link->recovering = link->busy && is_begun(link);
        model->n_recovering += link->recovering;
    }
}
