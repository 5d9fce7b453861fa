/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who may. Pure functions of credentials and the configuration's rules: a uid uses and sees what it made or
 * attached itself, root everything, others what a rule lets them. Of that, who comes through a scope uses and
 * sees what is in the scope, and nothing else: whatever it is, and whatever a rule says.
 */
#ifndef MODEL_POLICY_H
#define MODEL_POLICY_H

#include "base/discard.h"
#include "model/scope.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct groups {
    size_t n;
    gid_t gids[];
};

/* Room for any security label: more than the kernel has. */
#define LABEL_SIZE 4097

/* What a peer is beside its credentials. */
struct standing {
    const struct groups *groups; /* the supplementary ones; NULL: none */
    const struct grant *grant;   /* with a scope: what was delegated; NULL: this is an owner's */
    struct origin *origin;       /* NULL: neither scope nor label */
};

/* What tells a peer from others of its uid. Reference-counted, never changed. */
struct origin {
    struct standing standing; /* an owner's */
    unsigned references;
    char scope[NAME_SIZE]; /* that it came through; "": none */
    char label[];          /* its security label; "": none */
};

/* NULL for what has neither. -ENOMEM. */
int origin_new(const char *scope, const char *label, struct origin **ret_origin);
struct origin *origin_ref(struct origin *origin);   /* NULL: NULL */
struct origin *origin_unref(struct origin *origin); /* the same; returns NULL */

/*
 * A peer by its kernel credentials. Copied freely: its standing is borrowed from the connection and lives as
 * long. Who owns something has one without groups and grant: see policy_owner().
 */
struct peer {
    uid_t uid;
    gid_t gid;
    pid_t pid;
    const struct standing *standing; /* NULL: nothing beside these */
};

static inline struct origin *peer_origin(const struct peer *peer)
{
    return peer->standing ? peer->standing->origin : NULL;
}

static inline const struct grant *peer_grant(const struct peer *peer)
{
    return peer->standing ? peer->standing->grant : NULL;
}

static inline const struct groups *peer_groups(const struct peer *peer)
{
    return peer->standing ? peer->standing->groups : NULL;
}

static inline const char *peer_scope(const struct peer *peer)
{
    return peer_origin(peer) ? peer_origin(peer)->scope : "";
}

static inline const char *peer_label(const struct peer *peer)
{
    return peer_origin(peer) ? peer_origin(peer)->label : "";
}

/* Who is to blame for what a peer sent. */
struct culprit policy_culprit(const struct peer *peer);

/* What one may be allowed to do with what is another's, named as the methods are. */
enum right {
    RIGHT_LIST, /* to see it; whoever has another right to it has this one */
    RIGHT_CLAIM,
    RIGHT_RENEW,
    RIGHT_RELEASE,
    RIGHT_SIGNAL,
    RIGHT_CONNECT, /* to have the endpoint in a link */
    RIGHT_DISCONNECT,
    RIGHT_PARK,
    RIGHT_RESUME,
    RIGHT_MOVE,
    RIGHT_LEAVE,
    RIGHT_ATTACH, /* to be what another's link waits for at the endpoint */
    RIGHT_DETACH,
    RIGHT_OFFER,
    RIGHT_WITHDRAW,
};
#define N_RIGHTS (RIGHT_WITHDRAW + 1)

/* The configuration's word for it. */
const char *right_name(enum right right);

/*
 * One [Allow]: those whom it names may do that with what its globs match. It names everybody, or those of its
 * uids and gids; with labels, of all those the ones whose label matches.
 */
struct rule {
    bool everybody;
    uid_t *uids;
    size_t n_uids;
    gid_t *gids;
    size_t n_gids;
    char **labels;   /* globs, NULL-terminated; NULL: whatever the label is */
    unsigned rights; /* bits, 1 << enum right */
    char **names;    /* globs, NULL-terminated; NULL: none */
    char **endpoints;
};

struct policy {
    struct rule *rules;
    size_t n_rules;
};

/*
 * Whether peer may do that with what owner has under a name (of an eventfd, a link, an agent) or an endpoint
 * in canonical form, which is told by its slash. policy: NULL: without rules.
 */
bool policy_may(const struct policy *policy, const struct peer *peer, enum right right,
    const char *name_or_endpoint, uid_t owner);

/*
 * Whether a peer's scope has that: a name that is in it, what is one of those endpoints, or an endpoint that
 * was delegated. True for all where the peer has no scope. An owner's endpoints were judged when it named
 * them.
 */
bool policy_is_in_scope(const struct peer *peer, const char *name_or_endpoint);

/*
 * Whether peer may revoke a scope as far as one of its connections goes: who owns it, root, or who came
 * through a scope that it is within. delegated: who comes through that connection.
 */
bool policy_may_revoke(const struct peer *peer, const char *scope, const struct peer *delegated);

/* A peer as the owner of what it makes, which outlives its connection: to be ended by policy_disown(). */
struct peer policy_owner(const struct peer *peer);
void policy_disown(struct peer *owner);

/*
 * Whether an end that is meant for uid's agent, or uid's eventfd, may have what owner attached or holds:
 * nobody collects somebody else's eventfd by attaching under a VM's name first, nor rings into a VM that was
 * not there yet. Rules change what it is meant for: see site_adopt().
 */
static inline bool policy_collects(const struct peer *owner, uid_t uid)
{
    return owner->uid == uid;
}

#endif
