/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who may. Pure functions of credentials: a uid uses and sees what it made or attached itself, root
 * everything.
 */
#ifndef MODEL_POLICY_H
#define MODEL_POLICY_H

#include <stdbool.h>
#include <sys/types.h>

/* A peer by its kernel credentials. */
struct peer {
    uid_t uid;
    gid_t gid;
    pid_t pid;
};

/* Whether peer may use and see what owner made. */
static inline bool policy_allows(const struct peer *peer, const struct peer *owner)
{
    return peer->uid == 0 || peer->uid == owner->uid;
}

/*
 * Whether an end that is meant for uid's agent, or uid's eventfd, may have what owner attached or holds:
 * nobody collects somebody else's eventfd by attaching under a VM's name first, nor rings into a VM that was
 * not there yet.
 */
static inline bool policy_collects(const struct peer *owner, uid_t uid)
{
    return owner->uid == uid;
}

#endif
