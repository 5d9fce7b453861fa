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
    struct site key = { .subsystem = subsystem, .name = name };

    return RB_FIND(site_tree, &model->sites, &key);
}

/* Finds it, or makes it with what is there now. -ENOMEM. */
int site_get(struct model *model, enum subsystem subsystem, const char *name, struct site **ret_site)
{
    struct site *site = site_find(model, subsystem, name);

    if (!site) {
        size_t size = strlen(name) + 1;

        site = calloc(1, sizeof(*site) + size);
        if (!site)
            return -ENOMEM;
        site->subsystem = subsystem;
        site->name = memcpy(site + 1, name, size);
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

/*
 * Ends that are meant for others' agents and eventfds may have what has come, where a rule lets its owner,
 * and lets the link's owner connect to it. From then on they are meant for that user, as those are that were
 * connected while it was there.
 */
void site_adopt(struct model *model, struct site *site)
{
    const struct peer *owner = site->held ? &site->held->owner : site->agent ? &site->agent->owner : NULL;
    char text[ENDPOINT_SIZE];
    struct end *end;

    if (!owner)
        return;
    RB_FOREACH (end, end_tree, &site->ends) {
        uid_t before = end->uid;

        if (before == owner->uid || end->dirty || end->retiring || link_is_gone(end->link) ||
            (end_is_eventfd(end) && end->eventfd))
            continue;
        endpoint_format(&end->endpoint, text);
        if (!policy_may(model->policy, owner, RIGHT_ATTACH, text, before) ||
            !policy_may(model->policy, &end->link->owner, RIGHT_CONNECT, text, owner->uid))
            continue;
        end->uid = owner->uid;
        if (end_next_collision(end, NULL)) {
            end->uid = before;
            continue;
        }
        saved_due(model, &end->link->saved);
        link_touch(model, end->link);
    }
}
