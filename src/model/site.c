/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where ends are: subsystems, and the far sides of held eventfds. See struct site in model.h. */
#include "model/private.h"

#include <errno.h>
#include <string.h>

static int site_compare(const struct site *a, const struct site *b)
{
    if (a->subsystem != b->subsystem)
        return a->subsystem < b->subsystem ? -1 : 1;
    return strcmp(a->name, b->name);
}

RB_GENERATE(site_tree, site, by_name, site_compare)

struct site *site_find(struct model *model, enum subsystem subsystem, const char *name)
{
    struct site key = { .subsystem = subsystem };

    strcpy(key.name, name);
    return RB_FIND(site_tree, &model->sites, &key);
}

/* Finds it, or makes it with what is there now. -ENOMEM. */
int site_get(struct model *model, enum subsystem subsystem, const char *name, struct site **ret_site)
{
    struct site *site = site_find(model, subsystem, name);

    if (!site) {
        site = calloc(1, sizeof(*site));
        if (!site)
            return -ENOMEM;
        site->subsystem = subsystem;
        strcpy(site->name, name);
        RB_INIT(&site->ends);
        if (subsystem == SUBSYSTEM_NONE && (site->held = held_find(model, name)))
            site->held->site = site;
        RB_INSERT(site_tree, &model->sites, site);
    }
    *ret_site = site;
    return 0;
}

/* Frees it if nothing is there any more. */
void site_put(struct model *model, struct site *site)
{
    if (site->agent || site->successor || !RB_EMPTY(&site->ends))
        return;
    if (site->held)
        site->held->site = NULL;
    RB_REMOVE(site_tree, &model->sites, site);
    free(site);
}
