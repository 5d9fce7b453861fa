/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ties an agent to the client that attached it: see tie.h. */
#include "lib/tie.h"
#include "lib/agent.h"

#include <pthread.h>
#include <stdlib.h>

struct evl_tie {
    pthread_mutex_t lock;
    unsigned references;
    struct evlink_agent *agent; /* NULL: cut */
};

struct evl_tie *evl_tie_new(struct evlink_agent *agent)
{
    struct evl_tie *tie = calloc(1, sizeof(*tie));

    if (!tie)
        return NULL;
    (void)pthread_mutex_init(&tie->lock, NULL); /* cannot fail with default attributes */
    tie->references = 1;
    tie->agent = agent;
    return tie;
}

struct evl_tie *evl_tie_ref(struct evl_tie *tie)
{
    (void)pthread_mutex_lock(&tie->lock);
    tie->references++;
    (void)pthread_mutex_unlock(&tie->lock);
    return tie;
}

struct evl_tie *evl_tie_unref(struct evl_tie *tie)
{
    unsigned left;

    if (!tie)
        return NULL;
    (void)pthread_mutex_lock(&tie->lock);
    left = --tie->references;
    (void)pthread_mutex_unlock(&tie->lock);
    if (left == 0) {
        (void)pthread_mutex_destroy(&tie->lock);
        free(tie);
    }
    return NULL;
}

void evl_tie_cut(struct evl_tie *tie)
{
    (void)pthread_mutex_lock(&tie->lock);
    tie->agent = NULL;
    (void)pthread_mutex_unlock(&tie->lock);
}

bool evl_tie_poll(struct evl_tie *tie, int *ret_fd)
{
    bool there;

    (void)pthread_mutex_lock(&tie->lock);
    there = tie->agent != NULL;
    *ret_fd = there ? evl_agent_unserved_fd(tie->agent) : -1;
    (void)pthread_mutex_unlock(&tie->lock);
    return there;
}

void evl_tie_serve(struct evl_tie *tie)
{
    /* The agent's callbacks run under this lock: who frees the agent meanwhile waits for them. */
    (void)pthread_mutex_lock(&tie->lock);
    if (tie->agent)
        evl_agent_serve_once(tie->agent);
    (void)pthread_mutex_unlock(&tie->lock);
}
