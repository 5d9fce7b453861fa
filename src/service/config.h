/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The configuration: evlinkd.conf and its drop-ins, as evlinkd.conf(5) says. It is read as a whole and never
 * changed: what is invalid anywhere is no configuration, and a reload makes another one.
 */
#ifndef SERVICE_CONFIG_H
#define SERVICE_CONFIG_H

#include "model/model.h"
#include "service/config_files.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One assignment that counts, as it was written. */
struct setting {
    char *section, *key, *value;
    struct config_place place;
};

/* One [Link]. */
struct config_link {
    char *name;
    char **producers, **consumers; /* endpoints in canonical form, NULL-terminated */
    char *group;                   /* NULL: none */
    uid_t owner;
    gid_t owner_gid; /* its primary group; (gid_t)-1: it has none */
    uint64_t mark;   /* of what this says, never 0 */
};

struct config {
    unsigned socket_mode;
    gid_t socket_group;    /* (gid_t)-1: whatever it has */
    int64_t agent_timeout; /* microseconds */
    struct limits limits;
    struct policy policy;
    struct config_link *links;
    size_t n_links;
    /* Of [Broker] every key, of the others those that are set. Ordered by section. */
    struct setting *settings;
    size_t n_settings;
    char **files; /* that were read, up to NULL */
};

/* See config_files(). 0; -EINVAL: it is invalid, each fault is logged by file and line; -ENOMEM. */
int config_load(const char *const *folders, const char *file, struct config **ret_config);
struct config *config_free(struct config *config);

/* Seconds, 0.001 to 3600 with a fraction, as microseconds; 0: it is none. */
int64_t config_seconds(const char *text);

#endif
