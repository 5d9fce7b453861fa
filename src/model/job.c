/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls that wait for agents: see struct job. A set of links takes effect, or fails, as one. */
#include "base/reserve.h"
#include "model/private.h"

struct job *job_new(enum job_kind kind, job_done done, void *userdata)
{
    struct job *job = calloc(1, sizeof(*job));

    if (job) {
        job->kind = kind;
        job->done = done;
        job->userdata = userdata;
        TAILQ_INIT(&job->links);
    }
    return job;
}

/* The link is to be touched by the caller. */
void job_add(struct job *job, struct link *link)
{
    link->job = job;
    TAILQ_INSERT_TAIL(&job->links, link, in_job);
    job->n_links++;
    if (link->busy)
        job->n_busy++;
}

/* Takes a link out of the set that it is in; the job goes on without it. */
void job_remove(struct model *model, struct link *link)
{
    struct job *job = link->job;

    TAILQ_REMOVE(&job->links, link, in_job);
    job->n_links--;
    link->job = NULL;
    if (link->busy && --job->n_busy == 0)
        job_finish(model, job);
}

/* The first thing that went wrong is told. A set that cannot be connected is taken down. */
void job_fail(struct model *model, struct job *job, enum fault_code code, const char *subject,
    const char *other, const char *reason, int64_t number)
{
    struct link *link;

    if (job->fault.code)
        return;
    (void)fault_set(&job->fault, code, subject, other, reason, number);
    if (job->kind != JOB_CONNECT && job->kind != JOB_RESUME)
        return;
    TAILQ_FOREACH (link, &job->links, in_job) {
        link->goal = job->kind == JOB_CONNECT ? GOAL_DOWN : GOAL_PARKED;
        link_touch(model, link);
    }
}

/* A link's Connect is done: others may know of it. */
static void acknowledge(struct model *model, struct link *link)
{
    static const enum notice notices[] = {
        [LINK_WAITING] = NOTICE_WAITING,
        [LINK_LINKED] = NOTICE_LINKED,
        [LINK_PARKED] = NOTICE_PARKED,
        [LINK_FAILED] = NOTICE_FAILED,
    };

    link->acknowledged = true;
    model->counts.links++;
    if (link->relayed)
        model->hooks->relay(model->userdata, link, false);
    model_tell_link(model, notices[link->state], link, NULL);
    link_touch(model, link);
}

/* All that had to be asked was answered, or will not be in time. */
void job_finish(struct model *model, struct job *job)
{
    bool tells_links = !job->fault.code && (job->kind == JOB_CONNECT || job->kind == JOB_PARK ||
                                               job->kind == JOB_RESUME || job->kind == JOB_MOVE);
    struct link *link,
        **links = tells_links ? reserve_malloc((job->n_links + 1) * sizeof(struct link *)) : NULL;
    size_t n = 0;

    while ((link = TAILQ_FIRST(&job->links))) {
        TAILQ_REMOVE(&job->links, link, in_job);
        link->job = NULL;
        saved_due(model, &link->saved);
        if (link->goal == GOAL_DOWN) {
            link_dispose(model, link);
            continue;
        }
        if (!link->acknowledged)
            acknowledge(model, link);
        if (links)
            links[n++] = link;
    }
    if (job->done)
        job->done(job->userdata, (int)job->fault.code, &job->fault, links, n);
    free(links);
    free(job);
}

void job_forsake(struct job *job)
{
    job->done = NULL;
}
