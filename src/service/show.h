/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What there is, as the contract's types in JSON. Each returns a new reference; NULL where memory is out. */
#ifndef SERVICE_SHOW_H
#define SERVICE_SHOW_H

#include "model/model.h"

#include <jansson.h>
#include <stdbool.h>

/* For peer's eyes. detail: also what has to be asked of the kernel. */
json_t *show_eventfd(const struct peer *peer, const struct held *held, bool detail);
json_t *show_link(const struct link *link);
/* With the details of its ends that only ListLinks has, where it is asked for them: for peer's eyes. */
json_t *show_link_details(const struct peer *peer, const struct link *link);
json_t *show_spec(const struct link *link);
/* NAME/eoi of a held eventfd's level link; NULL also where there is none. */
json_t *show_eoi(const struct peer *peer, const struct held *held, bool detail);
json_t *show_agent(const struct agent *agent);

#endif
