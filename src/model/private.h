/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of src/model share among themselves. */
#ifndef MODEL_PRIVATE_H
#define MODEL_PRIVATE_H

#include "base/cleanup.h"
#include "model/model.h"

RB_HEAD(held_tree, held);
RB_HEAD(link_tree, link);
RB_HEAD(agent_tree, agent);
RB_HEAD(site_tree, site);
RB_HEAD(identity_tree, identity);
RB_HEAD(term_tree, term);
RB_HEAD(user_tree, user);

RB_PROTOTYPE(held_tree, held, by_name, held_compare)
RB_PROTOTYPE(link_tree, link, by_name, link_compare)
RB_PROTOTYPE(agent_tree, agent, by_name, agent_compare)
RB_PROTOTYPE(site_tree, site, by_name, site_compare)
RB_PROTOTYPE(identity_tree, identity, by_id, identity_compare)
RB_PROTOTYPE(offer_tree, offer, by_endpoint, offer_compare)
RB_PROTOTYPE(term_tree, term, by_deadline, term_compare)
RB_PROTOTYPE(user_tree, user, by_uid, user_compare)
RB_PROTOTYPE(end_tree, end, by_endpoint, end_compare)

struct model {
    bool restoring;       /* nothing is settled yet */
    bool stopping;        /* see model_stop() */
    size_t n_recovering;  /* links */
    uint64_t next_number; /* of the next object on record */
    TAILQ_HEAD(, saved) due;
    const struct model_hooks *hooks;
    void *userdata;
    struct evaio *aio;
    const struct policy *policy; /* NULL: none */
    struct held_tree held;
    struct link_tree links;
    struct agent_tree agents;
    struct site_tree sites;
    struct identity_tree linked; /* of those that a link has and whose id is known */
    struct term_tree deadlines;
    struct user_tree users; /* who have anything */
    struct limits limits;
    size_t used[N_QUOTAS]; /* by all */
    /*
     * Ends whose eventfd is in another link, and ends that KVM said EBUSY to: the VM that has the eventfd may
     * be dying, and nothing tells when it is dead.
     */
    LIST_HEAD(, end) stuck;
    size_t n_retried;
    int64_t retry_at, retry_after;
    TAILQ_HEAD(, link) touched; /* to be stepped by model_settle() */
    LIST_HEAD(, agent) going;   /* agents that are leaving or lost */
    struct model_counts counts;
    uint64_t next_link; /* for names that are made up */
};

void model_tell(struct model *model, enum notice notice, const char *subject, const char *link,
    const char *reason, const struct peer *owner);
#define model_tell_link(model, notice, link, reason) \
    model_tell(model, notice, (link)->name, (link)->name, reason, &(link)->owner)

/*
 * Steps the touched links until none is left. Every public call that touches one ends with this; nothing else
 * frees a link or an agent, so that pointers to them are good until then.
 */
void model_settle(struct model *model);

/* record.c */
void saved_init(struct model *model, struct saved *saved, enum saved_kind kind);
void saved_due(struct model *model, struct saved *saved);
void saved_end(struct model *model, struct saved *saved);

/* life.c */
int life_init(struct life *life, enum lifetime lifetime, bool is_link);
void life_begin(struct model *model, struct life *life, const struct life_request *request);
void life_restore(struct model *model, struct life *life, const struct term *term, struct lifeline *lifeline);
void life_renew(struct model *model, struct life *life, int64_t lease);
/* Whether what a plug failed with may pass by itself: a VM that dies, descriptors or memory that come back.
 */
bool end_may_recover(int error);
void retry_later(struct model *model, struct end *end);
void life_end(struct model *model, struct life *life);
void life_drop(struct life *life);

/* held.c */
struct eventfd *eventfd_take(struct model *model, int fd); /* fd: consumed, unless NULL is returned */
int eventfd_keep(struct model *model, struct eventfd **eventfds, size_t n);
int eventfd_drain_safely(const struct end *end, struct eventfd *eventfd, uint64_t *ret_count);
struct eventfd *eventfd_ref(struct eventfd *eventfd);
struct eventfd *eventfd_unref(struct eventfd *eventfd);
int eventfd_know(struct eventfd *eventfd);
struct held *held_new(const char *name, enum lifetime lifetime);
void held_free(struct held *held);
struct held *held_find(struct model *model, const char *name);
void held_drop(struct model *model, struct held *held, enum notice why);

/* site.c */
int site_get(struct model *model, enum subsystem subsystem, const char *name, struct site **ret_site);
struct site *site_find(struct model *model, enum subsystem subsystem, const char *name);
void site_put(struct model *model, struct site *site);
void site_adopt(struct model *model, struct site *site);

/* link.c */
struct link *link_find(struct model *model, const char *name);
void link_down(struct model *model, struct link *link, const char *reason);
void link_dispose(struct model *model, struct link *link);
void link_free(struct model *model, struct link *link);
int link_charge(struct model *model, const struct peer *peer, struct link *link, struct fault *fault);
bool link_is_gone(const struct link *link);
struct link *eventfd_user(struct model *model, const struct eventfd *eventfd);
void eventfd_join(struct model *model, struct eventfd *eventfd, struct link *link);
void eventfd_leave(struct model *model, struct link *link, struct eventfd *eventfd);
const char *eventfd_unfit(const struct eventfd *eventfd, const struct end *end);
int eventfd_make(struct model *model, struct eventfd **ret_eventfd);
int link_make_eventfd(struct model *model, struct link *link, struct end *end);
void end_set_eventfd(struct end *end, struct eventfd *eventfd);
void end_set_stuck(struct model *model, struct end *end, bool contends, bool retried);
void end_set_reason(struct end *end, const char *reason);
struct end *end_new(struct link *link, const struct endpoint *endpoint, bool producer, uid_t uid);
void end_remove(struct model *model, struct end *end);
bool end_is_eventfd(const struct end *end);
void end_touch_collisions(struct model *model, struct end *end);
struct end *end_next_collision(const struct end *end, struct end *last);
const char *end_complaint(const struct endpoint *endpoint, bool producer);

/* step.c */
void link_touch(struct model *model, struct link *link);
void site_touch(struct model *model, struct site *site);
bool end_gives_way(const struct end *end);
void end_retire(struct model *model, struct end *end, const char *reason);
void end_repay(struct model *model, struct end *end, uint64_t most);

/* job.c */
enum job_kind {
    JOB_CONNECT,
    JOB_DISCONNECT,
    JOB_PARK,
    JOB_RESUME,
    JOB_MOVE,
    JOB_LEAVE,
    JOB_AGENT, /* Detach and Withdraw */
};

/* A call that waits for agents. */
struct job {
    enum job_kind kind;
    TAILQ_HEAD(, link) links; /* none where it is an agent's */
    size_t n_links, n_busy;
    struct fault fault; /* code 0: none */
    job_done done;      /* NULL: forsaken */
    void *userdata;
    TAILQ_ENTRY(job) in_agent;
};

struct job *job_new(enum job_kind kind, job_done done, void *userdata);
void job_add(struct job *job, struct link *link);
void job_remove(struct model *model, struct link *link);
void job_fail(struct model *model, struct job *job, enum fault_code code, const char *subject,
    const char *other, const char *reason, int64_t number);
void job_finish(struct model *model, struct job *job);

/* agent.c */
int agent_new(struct model *model, const struct peer *peer, const char *name,
    const struct subsystem_name *subsystems, size_t n, struct agent **ret_agent, struct fault *fault);
void agent_going(struct agent *agent);
int agent_restore_offer(struct agent *agent, const struct endpoint *endpoint);
struct agent *site_owner(const struct site *site, const struct endpoint *endpoint);
struct agent *end_owner(const struct end *end);
void agent_queue(struct end *end, enum op op);
void agents_go(struct model *model);
void end_set_agent(struct end *end, struct agent *agent);

#endif
