/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What holds of a model whatever happened to it, for those targets that drive one. Aborts where it does not.
 */
#ifndef FUZZ_INVARIANTS_H
#define FUZZ_INVARIANTS_H

#include "model/model.h"

void check_model(struct model *model);

/* The same, where in addition every agent has answered all that it was asked. */
void check_model_at_rest(struct model *model);

#endif
