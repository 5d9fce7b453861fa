/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* policy_may(), as a table: who, what, whose, and whether. */
#include "base/cleanup.h"
#include "model/policy.h"
#include "util.h"

#include <stdio.h>
#include <string.h>

#define BIT(right) (1u << (right))

static uid_t alice[] = { 1000 }, two[] = { 1001, 1002 };
static gid_t vmm[] = { 50, 60 };
static char *bells[] = { (char *)"bell-*", (char *)"gong", NULL };
static char *web[] = { (char *)"kvm/web/*", (char *)"eventfd/bell-[0-9]", NULL };
static char *all[] = { (char *)"*", NULL };

static struct rule rules[] = {
    { .uids = alice, .n_uids = 1, .rights = BIT(RIGHT_CLAIM) | BIT(RIGHT_SIGNAL), .names = bells },
    { .gids = vmm, .n_gids = 2, .rights = BIT(RIGHT_CONNECT), .endpoints = web },
    { .everybody = true, .rights = BIT(RIGHT_LIST), .names = (char *[]){ (char *)"public", NULL } },
    { .uids = two, .n_uids = 2, .gids = vmm, .n_gids = 1, .rights = BIT(RIGHT_PARK), .names = all },
    { .uids = alice, .n_uids = 1, .rights = 0, .names = all, .endpoints = all },
    { .rights = ~0u, .names = all, .endpoints = all },
};
static const struct policy policy = { rules, ARRAY_SIZE(rules) };

static const struct {
    uid_t uid;
    gid_t gid;
    gid_t group; /* a supplementary one; 0: none */
    enum right right;
    const char *what;
    uid_t owner;
    bool may, may_without; /* ... any rule */
} table[] = {
    /* root, and one's own */
    { 0, 0, 0, RIGHT_CLAIM, "x", 7, true, true },
    { 0, 0, 0, RIGHT_CONNECT, "kvm/x/gsi/1", 7, true, true },
    { 7, 7, 0, RIGHT_RELEASE, "x", 7, true, true },
    { 7, 7, 0, RIGHT_ATTACH, "kvm/x/gsi/1", 7, true, true },
    /* strangers */
    { 7, 7, 0, RIGHT_LIST, "x", 8, false, false },
    { 7, 7, 0, RIGHT_LIST, "x", 0, false, false },
    { 7, 0, 0, RIGHT_CLAIM, "bell-1", 8, false, false }, /* root's group is no root */
    { 7, 8, 8, RIGHT_CLAIM, "bell-1", 8, false, false },
    /* a user's rule */
    { 1000, 7, 0, RIGHT_CLAIM, "bell-1", 8, true, false },
    { 1000, 7, 0, RIGHT_CLAIM, "bell-1", 0, true, false },
    { 1000, 7, 0, RIGHT_SIGNAL, "gong", 8, true, false },
    { 1000, 7, 0, RIGHT_LIST, "gong", 8, true, false }, /* which any right brings */
    { 1000, 7, 0, RIGHT_RELEASE, "gong", 8, false, false },
    { 1000, 7, 0, RIGHT_CLAIM, "bell", 8, false, false },
    { 1000, 7, 0, RIGHT_CLAIM, "gong2", 8, false, false },
    { 1000, 7, 0, RIGHT_LIST, "else", 8, false, false },
    { 1000, 7, 0, RIGHT_CLAIM, "", 8, false, false },
    { 1001, 7, 0, RIGHT_CLAIM, "bell-1", 8, false, false },
    { 7, 1000, 0, RIGHT_CLAIM, "bell-1", 8, false, false }, /* a gid is no uid */
    /* Names= are no Endpoints=, nor the other way round */
    { 1000, 7, 0, RIGHT_CLAIM, "bell-/x", 8, false, false },
    { 1000, 7, 0, RIGHT_CONNECT, "eventfd/bell-1", 8, false, false },
    { 1001, 7, 0, RIGHT_PARK, "a/b", 8, false, false },
    /* a group's: the primary one and the others */
    { 7, 50, 0, RIGHT_CONNECT, "kvm/web/gsi/10", 8, true, false },
    { 7, 60, 0, RIGHT_CONNECT, "kvm/web/gsi/10/level", 8, true, false },
    { 7, 7, 60, RIGHT_CONNECT, "eventfd/bell-1", 8, true, false },
    { 7, 7, 60, RIGHT_CONNECT, "eventfd/bell-x", 8, false, false },
    { 7, 7, 60, RIGHT_CONNECT, "kvm/web2/gsi/10", 8, false, false },
    { 7, 7, 60, RIGHT_ATTACH, "kvm/web/gsi/10", 8, false, false },
    { 7, 7, 60, RIGHT_LIST, "kvm/web/gsi/10", 8, true, false },
    { 7, 7, 61, RIGHT_CONNECT, "kvm/web/gsi/10", 8, false, false },
    /* everybody's */
    { 7, 7, 0, RIGHT_LIST, "public", 8, true, false },
    { 7, 7, 0, RIGHT_CLAIM, "public", 8, false, false },
    /* users or groups, either will do */
    { 1002, 7, 0, RIGHT_PARK, "x", 8, true, false },
    { 7, 7, 50, RIGHT_PARK, "x", 8, true, false },
    { 7, 7, 60, RIGHT_PARK, "x", 8, false, false },
};

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        union {
            struct groups groups;
            char space[sizeof(struct groups) + 3 * sizeof(gid_t)];
        } u = { .groups.n = 3 };
        struct peer peer = { .uid = table[i].uid, .gid = table[i].gid };
        bool may, may_without;

        u.groups.gids[0] = 70;
        u.groups.gids[1] = 71;
        u.groups.gids[2] = table[i].group;
        if (table[i].group)
            peer.groups = &u.groups;
        may = policy_may(&policy, &peer, table[i].right, table[i].what, table[i].owner);
        may_without = policy_may(NULL, &peer, table[i].right, table[i].what, table[i].owner);
        if (may != table[i].may || may_without != table[i].may_without)
            fail_msg(
                "row %zu, %s %s: %d and %d", i, right_name(table[i].right), table[i].what, may, may_without);
    }
}

static void test_owner(void **state)
{
    struct groups groups = { .n = 0 };
    struct peer peer = { .uid = 1, .gid = 2, .pid = 3, .groups = &groups }, owner = policy_owner(&peer);

    (void)state;
    assert_int_equal(owner.uid, 1);
    assert_int_equal(owner.gid, 2);
    assert_int_equal(owner.pid, 3);
    assert_null(owner.groups);
}

static void test_names(void **state)
{
    (void)state;
    for (enum right right = 0; right < N_RIGHTS; right++)
        for (enum right other = 0; other < right; other++)
            assert_string_not_equal(right_name(right), right_name(other));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_owner),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
