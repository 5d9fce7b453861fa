/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Scopes: delegated corners of the broker, by their names, and what is given to those who come through one.
 * Pure functions. A scope is nothing but a name: what is in it are the names that begin with it and a dot,
 * and so are the scopes within it.
 */
#ifndef MODEL_SCOPE_H
#define MODEL_SCOPE_H

#include "endpoint/endpoint.h"

#include <stdbool.h>
#include <stddef.h>

/* The longest name of one: names that the broker makes up in it ("SCOPE.link-N") have to fit as well. */
#define SCOPE_LENGTH_MAX (NAME_LENGTH_MAX - 26)

/* The most endpoints that are given to one: each is looked at for each that is used. */
#define SCOPE_ENDPOINTS_MAX 256

/* Whether text is a name for a scope. NULL is none. */
bool scope_is_valid(const char *text);

/* Whether a name is in a scope; "": no scope, which has every name. */
bool scope_has(const char *scope, const char *name);

/* Whether a scope is another, or within it. */
bool scope_is_within(const char *scope, const char *outer);

/*
 * The scopes that a scope is in, itself included, from the outermost on: each call puts the next into level,
 * which begins as "". Returns whether there was one.
 */
bool scope_next_level(const char *scope, char level[static NAME_SIZE]);

/* How much one scope may have, with all that is within it: SIZE_MAX where it was not said. */
struct scope_limit {
    char scope[NAME_SIZE];
    size_t eventfds, links;
};

/* What was delegated. Never changed once it is made. */
struct grant {
    char **endpoints; /* entries in canonical form, NULL-terminated */
    size_t n_endpoints;
    struct scope_limit *limits;
    size_t n_limits; /* its own, and those of the scopes that it was delegated from */
};

/*
 * An entry: an endpoint, or what stands before a slash in one, down to a subsystem (kvm/VM). Brings it into
 * its canonical form; *ret_sample is the endpoint, or one below it. -EINVAL with *ret_reason, as
 * endpoint_parse().
 */
int grant_parse(const char *text, char entry[static ENDPOINT_SIZE], struct endpoint *ret_sample,
    bool *ret_whole, const char **ret_reason);

/* Of nothing, without limits. -ENOMEM. */
int grant_new(struct grant **ret_grant);
struct grant *grant_free(struct grant *grant);

/* Adds an entry in canonical form, or a limit: copied. -ENOMEM. */
int grant_add(struct grant *grant, const char *entry);
int grant_limit(struct grant *grant, const struct scope_limit *limit);

/* Whether an endpoint, or an entry, in canonical form is an entry of the grant's or below one at a slash. */
bool grant_covers(const struct grant *grant, const char *endpoint);

#endif
