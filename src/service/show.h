/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What there is, as the contract's types in JSON: each emits one object, under key. */
#ifndef SERVICE_SHOW_H
#define SERVICE_SHOW_H

#include "model/model.h"
#include "wire/emit.h"

#include <stdbool.h>

/* For peer's eyes. detail: also what has to be asked of the kernel. */
void show_eventfd(
    struct emit *emit, const char *key, const struct peer *peer, const struct held *held, bool detail);
/* eyes: also the details of its ends that only ListLinks has, where it is asked for them; NULL: without. */
void show_link(struct emit *emit, const char *key, const struct link *link, const struct peer *eyes);
/* The most that this takes of a link of so many ends and labels (key, value, ...; n_labels pairs). */
size_t show_link_most(const struct peer *owner, size_t n_ends, const char *const *labels, size_t n_labels);
void show_spec(struct emit *emit, const char *key, const struct link *link);
/* NAME/eoi of a held eventfd's level link, where there is one. */
bool show_has_eoi(const struct peer *peer, const struct held *held);
void show_eoi(
    struct emit *emit, const char *key, const struct peer *peer, const struct held *held, bool detail);
void show_agent(struct emit *emit, const char *key, const struct agent *agent);

#endif
