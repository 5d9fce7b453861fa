/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The broker's state and its state machine: held eventfds, links and their ends, agents and their subsystems.
 * Plain C: no JSON, no sockets, no ioctls. What has to happen elsewhere is asked for: an agent's session
 * takes batches of plugs and unplugs with model_agent_next() and tells what came of them; news goes up
 * through hooks.
 *
 * What it keeps true, always, in any order of calls:
 *  - a link's consumers are plugged before its producers, and its producers unplugged before its consumers;
 *  - an eventfd's reference is dropped only when nothing can be plugged with it any more: where an agent does
 * not answer or was lost, the end stays `dirty`, and the link, though out of sight, lives on as long;
 *  - what fails or is refused leaves nothing behind, and nothing else changed;
 *  - nobody waits for an agent that has not answered in time.
 *
 * Callbacks may be called before the function that caused them returns; they must not call the model, but for
 * reading.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "base/eventfd.h"
#include "endpoint/endpoint.h"
#include "model/fault.h"
#include "model/policy.h"

#include <bsd/sys/queue.h>
#include <bsd/sys/tree.h>
#include <stdbool.h>
#include <stdint.h>

struct model;
struct job;
struct packer;

/* ---- What there is. Read by everybody, changed by src/model alone. ----------------------------------------
 */

enum saved_kind {
    SAVED_HELD = 1,
    SAVED_AGENT = 2,
    SAVED_LINK = 3,
    SAVED_DELEGATION = 4,
};

/* What is on record about an object, if somebody keeps records: see record.h. */
struct saved {
    uint64_t number; /* of all objects of the model, in the order in which they were made */
    enum saved_kind kind;
    bool due;      /* it may differ from what is on record */
    bool recorded; /* it is on record, or was */
    TAILQ_ENTRY(saved) in_due;
};

enum lifetime {
    LIFETIME_PERSISTENT,
    LIFETIME_CONNECTION,
    LIFETIME_LEASE,
    LIFETIME_AGENT, /* links only */
};

/* How long a held eventfd or a link lasts: part of both. */
struct life {
    enum lifetime lifetime;
    bool is_link;
    struct term *term; /* NULL unless it ends with a connection or has a lease */
};

/* An object of lifetime connection is in its connection's lifeline, one with a lease in the model's tree of
 * deadlines. */
struct term {
    struct life *life;
    int64_t lease;    /* seconds; 0 without */
    int64_t deadline; /* clock_monotonic() */
    union {
        RB_ENTRY(term) by_deadline;
        LIST_ENTRY(term) in_lifeline;
    };
};

/* What ends with a connection. Zeroed is empty. */
struct lifeline {
    LIST_HEAD(, term) terms;
};

/* An eventfd that the broker has a reference to: held, or a link's own, or both. Reference-counted. */
struct eventfd {
    int fd;
    unsigned references : 31;
    bool ours : 1;   /* made by the broker: it can be replaced */
    uint64_t number; /* what it is kept under, 0: it is not kept */
    void *item;      /* the hooks' receiver's own, where it is kept */
    struct model *model;
    struct identity *identity; /* NULL: it was not asked for */
};

/* What the kernel knows an eventfd by, and which link has it: of those that a link names, not of all that are
 * held. */
struct identity {
    int64_t id; /* -1 where the kernel does not say */
    bool semaphore;
    struct link *link;
    RB_ENTRY(identity) by_id;
};

struct held {
    struct saved saved;
    const char *name; /* behind it */
    struct eventfd *eventfd;
    struct peer owner;
    struct life life;
    int64_t since;
    struct site *site; /* NULL unless a link names it */
    RB_ENTRY(held) by_name;
};

/* The eventfd-id; -1: unknown. */
static inline int64_t eventfd_id(const struct eventfd *eventfd)
{
    return eventfd->identity ? eventfd->identity->id : -1;
}

/* Where ends are: a subsystem, or, with SUBSYSTEM_NONE, the far side of a held eventfd. Exists while it has
 * any. */
struct site {
    enum subsystem subsystem;
    const char *name; /* behind it */
    struct agent *agent;
    struct agent *successor; /* takes over what the agent lets go; NULL: none */
    struct held *held;
    RB_HEAD(end_tree, end) ends;
    RB_ENTRY(site) by_name;
};

enum end_state {
    END_ABSENT,
    END_UNPLUGGED,
    END_PLUGGING,
    END_PLUGGED,
    END_UNPLUGGING,
    END_UNKNOWN,
};

enum op {
    OP_NONE,
    OP_PLUG,
    OP_UNPLUG,
};

struct end {
    struct link *link;
    struct site *site;       /* NULL: left, by a link that is gone */
    struct eventfd *eventfd; /* what is, or is to be, plugged; NULL while the held one is absent */
    bool producer : 1;
    enum end_state state : 8;
    enum op queued : 8;  /* waits in its agent's queue for this */
    bool flying : 1;     /* its agent was asked and has not answered */
    bool dirty : 1;      /* may be plugged in its owner's kernel */
    bool inherited : 1;  /* dirty for what a lost agent had plugged, in a process that may live on */
    bool refused : 1;    /* the owner's kernel said no: tried again when something changes */
    bool retiring : 1;   /* leaves for good */
    bool retried : 1;    /* tried again after a while: in the model's list of stuck ends */
    bool renewed : 1;    /* its eventfd was replaced for EBUSY, and no plug of it has worked since */
    bool contends : 1;   /* its eventfd was in another link: in the same list */
    bool joined : 1;     /* was there, in a link that others know of: its leaving is to be told */
    bool announced : 1;  /* `leaving` was told, `left` was not */
    int error;           /* errno of what was refused */
    uid_t uid;           /* an agent of this uid may have it */
    const char *why;     /* what was refused by us, static; NULL: by the owner's kernel */
    char *reason;        /* why it leaves; NULL: none was given */
    uint64_t debt;       /* what was read from the counter before the plug and is owed to it */
    struct agent *agent; /* the one that it is, or would be, plugged at; NULL: none */
    RB_ENTRY(end) by_endpoint;
    TAILQ_ENTRY(end) in_agent; /* its queue, or what flies */
    LIST_ENTRY(end) of_agent;
    LIST_ENTRY(end) in_stuck;
    struct endpoint endpoint; /* only as much of it as is in use */
};

enum link_state {
    LINK_WAITING,
    LINK_LINKED,
    LINK_PARKED,
    LINK_FAILED,
};

enum link_goal {
    GOAL_UP,
    GOAL_PARKED, /* consumers are to be unplugged */
    GOAL_DOWN,
};

struct link {
    struct saved saved;
    char *name;    /* NULL: not yet */
    char *group;   /* NULL: none */
    char **labels; /* key, value, ..., NULL; NULL: none */
    struct peer owner;
    struct life life;
    int64_t since;
    enum link_goal goal : 8;
    enum link_state state : 8;
    bool relayed : 1;
    bool acknowledged : 1; /* its Connect was answered: it is listed */
    bool named : 1;        /* it is in the tree of names; else it only waits for its dirty ends */
    bool busy : 1;         /* a step of it is due, queued or flies */
    bool touched : 1;      /* it is in the model's list of those to be stepped */
    bool recovering : 1;   /* back from a record, with something begun that is to be finished or undone */
    unsigned charged;      /* how often it counts for its owner's quota */
    uint64_t configured;   /* the configuration's mark; 0: it is not from there */
    struct eventfd *renew; /* to be replaced by a fresh one: ends that have it are unplugged; NULL: none */
    uint64_t forwarded;    /* signals that the relay moved */
    struct eventfd
        *eventfd; /* direct: everybody's; relayed: of the producers that are no eventfd/; or NULL */
    struct eventfd *resample; /* level: where the end of interrupt comes out; else NULL */
    void *relay;              /* the hooks' receiver's own */
    const char *reason;       /* static: why it works less than its state says; NULL */
    struct job *job;
    struct end *from, *to; /* of a Move under way: both are among the ends */
    size_t n_ends;
    struct end **ends;
    RB_ENTRY(link) by_name;
    TAILQ_ENTRY(link) in_job;
    TAILQ_ENTRY(link) in_touched;
};

struct subsystem_name {
    enum subsystem subsystem;
    char name[NAME_SIZE];
};

/* A dev/ endpoint that an agent offers, or a fixed one that it let go to the one that takes over. */
struct offer {
    struct endpoint endpoint;
    RB_ENTRY(offer) by_endpoint;
};

struct agent {
    struct saved saved;
    char name[NAME_SIZE];
    struct peer owner;
    int64_t since;
    bool leaving;           /* being detached: nothing is plugged any more */
    bool late;              /* has not answered in time */
    bool lost;              /* its socket is gone; kept only for its dirty ends, until its process is dead */
    bool doubted;           /* an unplug failed since the last inventory */
    bool watched;           /* there is a pidfd that will tell when the process is dead */
    uint64_t socket, pidfd; /* what these are kept under, 0: they are not */
    void *session;
    struct model *model;
    RB_HEAD(offer_tree, offer) offers;
    size_t n_offers;        /* all of those */
    size_t n_charged;       /* as much of them is charged */
    TAILQ_HEAD(, job) jobs; /* Detach and Withdraw, until nothing is plugged that is let go */
    TAILQ_HEAD(end_queue, end) plugs, unplugs; /* to be asked for */
    struct end_queue flight;                   /* asked for */
    enum op flying;
    LIST_HEAD(, end) ends; /* every end whose agent this is */
    RB_ENTRY(agent) by_name;
    LIST_ENTRY(agent) in_going;
    bool going; /* it is in that list */
    size_t n_subsystems;
    struct subsystem_name subsystems[];
};

struct model_counts {
    size_t eventfds, links, agents;
};

/* ---- News ------------------------------------------------------------------------------------------------
 */

enum notice {
    NOTICE_HELD,
    NOTICE_CLAIMED,
    NOTICE_RELEASED,
    NOTICE_EXPIRED,
    NOTICE_ATTACHED,
    NOTICE_DETACHED,
    NOTICE_OFFERED,
    NOTICE_WITHDRAWN,
    NOTICE_LINKED,
    NOTICE_WAITING,
    NOTICE_PARKED,
    NOTICE_MOVED,
    NOTICE_LEAVING,
    NOTICE_LEFT,
    NOTICE_FAILED,
    NOTICE_DISCONNECTED,
};
#define N_NOTICES (NOTICE_DISCONNECTED + 1)

/* What a notice is about: who may see it is whoever may use that. */
struct news {
    enum notice notice;
    const char *subject; /* a name or an endpoint */
    const char *link;    /* NULL: none */
    const char *reason;  /* NULL: none */
    const struct peer *owner;
};

struct model_hooks {
    /* An agent has a batch to take. Called often: only note it. */
    void (*agent_ready)(void *userdata, struct agent *agent);
    /* It is attached no more, whoever ended that: its socket is of no use. */
    void (*agent_lost)(void *userdata, struct agent *agent);
    /* Nothing of it is plugged any more that anybody could know: it is freed when this returns. */
    void (*agent_forgotten)(void *userdata, struct agent *agent);
    /* Every change. */
    void (*news)(void *userdata, const struct news *news);
    /* What an agent is to be told of the far side of an end of its own. */
    void (*tell)(void *userdata, struct agent *agent, const struct end *end, const struct news *news);
    /* The eventfds of a relayed link have changed; last: it is gone, what is still in its sources is to be
     * passed on. */
    void (*relay)(void *userdata, struct link *link, bool last);
    /*
     * Somebody keeps what there is, and copies of all eventfds; NULL, all four: nobody does. keep: makes n
     * eventfds (each with its fd) safe, all or none, and gives each a number and an item: 0 or -errno.
     * unkeep: the eventfd is not needed any more, its descriptor is consumed. ended: so is what was on record
     * of an object. drain: reads an eventfd's counter empty as eventfd_drain() does; should this process die
     * before the next records are made, what was read is, for the next one, an end's debt, or (end NULL) back
     * in the counter.
     */
    int (*keep)(void *userdata, struct eventfd **eventfds, size_t n);
    void (*unkeep)(void *userdata, struct eventfd *eventfd);
    void (*ended)(void *userdata, enum saved_kind kind, uint64_t number);
    int (*drain)(void *userdata, const struct end *end, struct eventfd *eventfd, uint64_t *ret_count);
};

/* aio: borrowed, must outlive the model. -ENOMEM. */
int model_new(const struct model_hooks *hooks, void *userdata, struct evaio *aio, struct model **ret_model);

/* Drops everything, unplugging nothing: for the end of the process. */
struct model *model_free(struct model *model);

/*
 * What is charged to its owner before it is made, and refunded when the last of it is gone. A link counts
 * once for each of its consumers.
 */
enum quota {
    QUOTA_CONNECTIONS,
    QUOTA_EVENTFDS,
    QUOTA_LINKS,
    QUOTA_AGENTS,
    QUOTA_OFFERS, /* of agents, and what they let go that needs no offer */
    QUOTA_SUBSCRIBERS,
    QUOTA_BYTES,       /* of messages that are under way */
    QUOTA_DESCRIPTORS, /* the same */
};
#define N_QUOTAS (QUOTA_DESCRIPTORS + 1)

/* Root, too, has a user's limits; those in all are not for it: where all is full, somebody has to get in. */
struct limits {
    size_t of_user[N_QUOTAS]; /* by enum quota */
    size_t in_all[N_QUOTAS];
};

/* What there is beyond them stays. Without a call there are none. */
void model_set_limits(struct model *model, const struct limits *limits);

/*
 * Charges n to a peer's user, and eventfds and links to each of the scopes that it is in as well: 0,
 * FAULT_QUOTA_EXCEEDED, -ENOMEM. Of what the model does not make itself; peer, n: as charged. fault: NULL
 * where nobody is told.
 */
int model_charge(
    struct model *model, const struct peer *peer, enum quota quota, size_t n, struct fault *fault);
void model_refund(struct model *model, const struct peer *peer, enum quota quota, size_t n);

/* From what is charged, *charged, to n: what there is less of is refunded, and nothing changes on failure. */
int model_recharge(struct model *model, const struct peer *peer, enum quota quota, size_t *charged, size_t n,
    struct fault *fault);

/*
 * Sets the rules. policy: borrowed, until the next call; NULL: none. Links that wait get what they may have
 * from now on; what is linked already stays.
 */
void model_set_policy(struct model *model, const struct policy *policy);

/* policy_may() by these rules. */
bool model_may(const struct model *model, const struct peer *peer, enum right right,
    const char *name_or_endpoint, const struct peer *owner);

struct model_counts model_count(const struct model *model);

const char *notice_name(enum notice notice);
const char *lifetime_name(enum lifetime lifetime);
const char *end_state_name(enum end_state state);
const char *link_state_name(const struct link *link);

/* Why an end is not plugged as it should be; false: there is nothing to say. Cut where it is too long. */
bool model_end_reason(const struct end *end, char *buffer, size_t size);

/* The same of a link: its first such end, and why. */
bool model_link_reason(const struct link *link, char *buffer, size_t size);

/* ---- Time -------------------------------------------------------------------------------------------------
 */

/* When model_expire() is due, as of clock_monotonic(); -1: never. */
int64_t model_deadline(const struct model *model);

/* Ends what has not been renewed by now, and tries again what another VM had. */
void model_expire(struct model *model, int64_t now);

/* A connection is gone: what was bound to it ends. */
void model_cut(struct model *model, struct lifeline *lifeline);

/* ---- Held eventfds ----------------------------------------------------------------------------------------
 */

struct life_request {
    enum lifetime lifetime;
    int64_t lease;             /* seconds, with LIFETIME_LEASE */
    struct lifeline *lifeline; /* with LIFETIME_CONNECTION */
};

/* The most that one call holds. */
#define HOLD_MOST 253

/*
 * Holds fds[i], verified eventfds, under names[i], n of them, all or none. fds: each is stolen (set to -1) if
 * 0 is returned, otherwise none is. ret_held: the first of them, or NULL.
 */
int model_hold(struct model *model, const struct peer *peer, const char *const *names, int *fds, size_t n,
    const struct life_request *life, struct held **ret_held, struct fault *fault);

/* Undoes model_hold() of one, of which nothing came yet. */
void model_unhold(struct model *model, struct held *held);

/* Whether a link waits for an eventfd of that name, a valid one. */
bool model_is_awaited(struct model *model, const char *name);

/* Whether peer could hold names[0..n-1]: what model_hold() would say before it looks at descriptors. */
int model_may_hold(
    struct model *model, const struct peer *peer, const char *const *names, size_t n, struct fault *fault);

/*
 * What Claim hands out: a held eventfd, or, for NAME/eoi, where the end of interrupt of NAME's level link
 * comes out. *ret_held is NAME's in both cases.
 */
int model_claim(struct model *model, const struct peer *peer, const char *name, struct held **ret_held,
    struct eventfd **ret_eventfd, struct fault *fault);

/* The link that has a held eventfd, as far as peer may know it; NULL: none. */
const struct link *model_held_link(const struct peer *peer, const struct held *held);

int model_release(struct model *model, const struct peer *peer, const char *name, struct fault *fault);
int model_renew(
    struct model *model, const struct peer *peer, const char *name, int64_t lease, struct fault *fault);
int model_renew_link(
    struct model *model, const struct peer *peer, const char *name, int64_t lease, struct fault *fault);
int model_signal(
    struct model *model, const struct peer *peer, const char *name, int64_t count, struct fault *fault);

/* The first one whose name is greater; NULL after the last. "" begins. Whether peer may see it is not looked
 * at. */
struct held *model_next_held(struct model *model, const char *name);

/* ---- Links ------------------------------------------------------------------------------------------------
 */

struct link_request {
    const char *name; /* NULL: made up */
    const char *group;
    const char *const *producers;
    size_t n_producers;
    const char *const *consumers;
    size_t n_consumers;
    const char *const *labels; /* key, value, ... */
    size_t n_labels;           /* pairs */
};

/*
 * What became of a call that had to ask agents. r: 0 or a fault's code, with the fault. links: those of
 * Connect, n of them, NULL for others.
 */
typedef void (*job_done)(
    void *userdata, int r, const struct fault *fault, struct link *const *links, size_t n);

/*
 * Connects n links, all or none. Returns as all calls here; if it returns 0, done is called, once, with what
 * came of it: maybe before this returns. *ret_job is NULL then, or valid until that call.
 */
int model_connect(struct model *model, const struct peer *peer, const struct link_request *requests, size_t n,
    bool wait, const struct life_request *life, job_done done, void *userdata, struct job **ret_job,
    struct fault *fault);

/*
 * Makes a link that stands whatever becomes of its ends: it waits for those that are not there, and has
 * failed where one refuses. mark: see struct link.
 */
int model_establish(struct model *model, const struct peer *owner, const struct link_request *request,
    uint64_t mark, struct fault *fault);

/* A link's name or a group, exactly one of them, for each of these. Park and Resume tell the links. */
int model_disconnect(struct model *model, const struct peer *peer, const char *name, const char *group,
    job_done done, void *userdata, struct job **ret_job, struct fault *fault);

int model_park(struct model *model, const struct peer *peer, const char *name, const char *group,
    job_done done, void *userdata, struct job **ret_job, struct fault *fault);
int model_resume(struct model *model, const struct peer *peer, const char *name, const char *group,
    job_done done, void *userdata, struct job **ret_job, struct fault *fault);

/* Moves an end; on failure the old one is plugged again. Tells the link. */
int model_move(struct model *model, const struct peer *peer, const char *name, const char *from,
    const char *to, job_done done, void *userdata, struct job **ret_job, struct fault *fault);

/* An end leaves its links for good. reason: NULL: none. */
int model_leave(struct model *model, const struct peer *peer, const char *endpoint, const char *reason,
    job_done done, void *userdata, struct job **ret_job, struct fault *fault);

/* The relay moved so many signals. */
void model_forwarded(struct link *link, uint64_t count);

/* Whoever waits for a job is gone: done is not called any more. What was begun goes on. */
void job_forsake(struct job *job);

/* The link of that name; NULL: none. Its Connect may not be answered yet. */
struct link *model_find_link(struct model *model, const char *name);

/* As model_next_held(), only those whose Connect was answered. */
struct link *model_next_link(struct model *model, const char *name);

/* Those of a group, whoever's they are: the one behind last; NULL: the first, and NULL: no more. */
struct link *model_next_member(struct model *model, const char *group, const struct link *last);

/* ---- Agents -----------------------------------------------------------------------------------------------
 */

struct agent *model_find_agent(struct model *model, const char *name);

/* The agent that has a subsystem; NULL: none. */
struct agent *model_subsystem_agent(struct model *model, const struct subsystem_name *subsystem);

/*
 * Attaches an agent. Links that waited for its subsystems have steps ready when this returns. session: what
 * the hooks' receiver knows it by; watched: the session will tell when the process is dead.
 */
int model_attach(struct model *model, const struct peer *peer, const char *name,
    const struct subsystem_name *subsystems, size_t n, bool takeover, bool watched, void *session,
    struct agent **ret_agent, struct fault *fault);

/* What model_attach() would say. */
int model_may_attach(struct model *model, const struct peer *peer, const char *name,
    const struct subsystem_name *subsystems, size_t n, bool takeover, struct fault *fault);

/* Unplugs all that is plugged at the agent; done is called when the agent is gone. */
int model_detach(struct model *model, const struct peer *peer, const char *name, job_done done,
    void *userdata, struct job **ret_job, struct fault *fault);

/* What an agent offers, in order: the one behind last; NULL: the first, and NULL: no more. */
const struct offer *model_next_offer(const struct agent *agent, const struct offer *last);

/* dev/ endpoints can be plugged between these two. Withdraw is done when they are unplugged. */
int model_offer(struct model *model, const struct peer *peer, const char *agent, const char *const *endpoints,
    size_t n, struct fault *fault);
int model_withdraw(struct model *model, const struct peer *peer, const char *agent,
    const char *const *endpoints, size_t n, const char *reason, job_done done, void *userdata,
    struct job **ret_job, struct fault *fault);

/* One item of a batch. endpoint and fd: borrowed, valid until the results are told. */
struct batch_item {
    const struct endpoint *endpoint;
    int fd;
    int resample; /* -1 unless the endpoint is level */
    int64_t eventfd_id;
};

/*
 * Takes the next batch, if there is one, for an agent that has nothing in flight: of at most `most`
 * descriptors, which fit in most_bytes of JSON. Returns how many; 0: nothing to do. One call with *ret_op is
 * to be made of it.
 */
size_t model_agent_next(
    struct agent *agent, struct batch_item *items, size_t most, size_t most_bytes, enum op *ret_op);

/* The batch in flight once more, for a call that could not be made of it yet. Returns how many. */
size_t model_agent_again(const struct agent *agent, struct batch_item *items);

/* Whether the i-th item of the batch in flight is this endpoint, in canonical form. */
bool model_agent_asked(const struct agent *agent, size_t i, const char *endpoint);

/* What became of the batch in flight: errors[i] is 0 or an errno, in the batch's order. Also when it comes
 * late. */
void model_agent_results(struct agent *agent, const int *errors);

/*
 * Whether an unplug failed, so that only the agent's inventory tells what is plugged. Asked for when nothing
 * is in flight and there is no batch to take.
 */
bool model_agent_doubts(const struct agent *agent);

/* One thing that an agent says is plugged. eventfd_id: -1 where it does not know. */
struct plugged {
    struct endpoint endpoint;
    int64_t eventfd_id;
};

/* What an agent says is plugged: all of it. Ends in doubt that are not among it are clean. plugged: gets
 * sorted. */
void model_agent_inventory(struct agent *agent, struct plugged *plugged, size_t n);

/* The batch in flight, or the inventory that was asked for, was not answered in time. */
void model_agent_late(struct agent *agent);

/*
 * The agent's socket is gone without Detach. Its session hears agent_forgotten() when it is freed: at once,
 * or, where it is watched, when none of its ends can be plugged any more.
 */
void model_agent_lost(struct agent *agent, const char *reason);

/* The process of an agent is dead, and with it all that was plugged there. Implies model_agent_lost(). */
void model_agent_dead(struct agent *agent);

struct agent *model_next_agent(struct model *model, const char *name);

#endif
