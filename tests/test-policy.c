/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* policy_may(), as a table: who, what, whose, and whether; and scopes. */
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
        const struct standing standing = { .groups = &u.groups };
        struct peer peer = { .uid = table[i].uid, .gid = table[i].gid };
        bool may, may_without;

        u.groups.gids[0] = 70;
        u.groups.gids[1] = 71;
        u.groups.gids[2] = table[i].group;
        if (table[i].group)
            peer.standing = &standing;
        may = policy_may(&policy, &peer, table[i].right, table[i].what, table[i].owner);
        may_without = policy_may(NULL, &peer, table[i].right, table[i].what, table[i].owner);
        if (may != table[i].may || may_without != table[i].may_without)
            fail_msg(
                "row %zu, %s %s: %d and %d", i, right_name(table[i].right), table[i].what, may, may_without);
    }
}

static char *svirt[] = { (char *)"*:svirt_t:*", (char *)"libvirt-*?(enforce)", NULL };
static struct rule labelled_rules[] = {
    { .uids = alice, .n_uids = 1, .labels = svirt, .rights = BIT(RIGHT_CLAIM), .names = bells },
    { .labels = svirt, .rights = BIT(RIGHT_SIGNAL), .names = bells },
    { .everybody = true, .labels = all, .rights = BIT(RIGHT_PARK), .names = bells },
};
static const struct policy labelled_policy = { labelled_rules, ARRAY_SIZE(labelled_rules) };

static const struct {
    uid_t uid;
    const char *label;
    enum right right;
    bool may; /* with gong, of 8's */
} labelled[] = {
    { 1000, "system_u:system_r:svirt_t:s0", RIGHT_CLAIM, true },
    { 1000, "libvirt-1 (enforce)", RIGHT_CLAIM, true },
    { 1000, "libvirt-1 (complain)", RIGHT_CLAIM, false },
    { 1000, "unconfined", RIGHT_CLAIM, false },
    { 1000, "", RIGHT_CLAIM, false },
    { 1001, "system_u:system_r:svirt_t:s0", RIGHT_CLAIM, false },
    { 1001, "system_u:system_r:svirt_t:s0", RIGHT_SIGNAL, true },
    { 1001, "unconfined", RIGHT_SIGNAL, false },
    { 1001, "unconfined", RIGHT_PARK, true },
    { 1001, "", RIGHT_PARK, false },
    { 8, "", RIGHT_CLAIM, true },
    { 0, "", RIGHT_CLAIM, true },
};

static void test_labels(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(labelled); i++) {
        struct standing standing = { .groups = NULL };
        struct peer peer = { .uid = labelled[i].uid, .standing = &standing }, owner;

        assert_int_equal(origin_new("", labelled[i].label, &standing.origin), 0);
        owner = policy_owner(&peer);
        policy_disown(&peer);
        /* An owner has its label still. */
        if (policy_may(&labelled_policy, &owner, labelled[i].right, "gong", 8) != labelled[i].may)
            fail_msg("row %zu: %s", i, labelled[i].label);
        policy_disown(&owner);
    }
}

static const struct {
    const char *scope; /* of who asks, with those entries */
    uid_t uid;
    enum right right;
    const char *what;
    uid_t owner;
    bool may, may_as_owner; /* ... of what it made through the scope */
} scoped[] = {
    /* names */
    { "web", 7, RIGHT_CLAIM, "web.x", 7, true, true },
    { "web", 7, RIGHT_CLAIM, "web.x.y", 7, true, true },
    { "web", 7, RIGHT_CLAIM, "web.x/eoi", 7, true, true },
    { "web", 7, RIGHT_CLAIM, "web", 7, false, false },
    { "web", 7, RIGHT_LIST, "webx", 7, false, false },
    { "web", 7, RIGHT_LIST, "web-x", 7, false, false },
    { "web", 7, RIGHT_LIST, "x", 7, false, false },
    { "web", 7, RIGHT_LIST, "db.x", 7, false, false },
    { "web.a", 7, RIGHT_LIST, "web.a.x", 7, true, true },
    { "web.a", 7, RIGHT_LIST, "web.x", 7, false, false },
    { "web.a", 7, RIGHT_LIST, "web.a", 7, false, false },
    /* no more than the uid could without it */
    { "web", 7, RIGHT_LIST, "web.x", 8, false, false },
    { "web", 7, RIGHT_CONNECT, "kvm/vm1/gsi/5", 8, false, false },
    /* root's scope as well */
    { "web", 0, RIGHT_CLAIM, "web.x", 7, true, true },
    { "web", 0, RIGHT_CLAIM, "x", 7, false, false },
    { "web", 0, RIGHT_CLAIM, "x", 0, false, false },
    { "web", 0, RIGHT_CONNECT, "kvm/vm1/gsi/5", 7, true, true },
    { "web", 0, RIGHT_CONNECT, "kvm/vm2/gsi/5", 7, false, true },
    /* endpoints: at a slash */
    { "web", 7, RIGHT_CONNECT, "kvm/vm1/gsi/5", 7, true, true },
    { "web", 7, RIGHT_CONNECT, "kvm/vm1/gsi/5/level", 7, true, true },
    { "web", 7, RIGHT_ATTACH, "kvm/vm1", 7, true, true },
    { "web", 7, RIGHT_CONNECT, "kvm/vm10/gsi/5", 7, false, true },
    { "web", 7, RIGHT_CONNECT, "kvm/vm", 7, false, true },
    { "web", 7, RIGHT_CONNECT, "vfio/vm1/err", 7, false, true },
    { "web", 7, RIGHT_CONNECT, "vhost/net0/vring/0/kick", 7, true, true },
    { "web", 7, RIGHT_CONNECT, "vhost/net0/vring/1/kick", 7, false, true },
    { "web", 7, RIGHT_ATTACH, "vhost/net0", 7, false, true },
    /* held eventfds: its own, and one by its endpoint alone */
    { "web", 7, RIGHT_CONNECT, "eventfd/web.x", 7, true, true },
    { "web", 7, RIGHT_CONNECT, "eventfd/webx", 7, false, true },
    { "web", 7, RIGHT_CONNECT, "eventfd/bell", 7, true, true },
    { "web", 7, RIGHT_CONNECT, "eventfd/bell2", 7, false, true },
    { "web", 7, RIGHT_CLAIM, "bell", 7, false, false },
    /* rules do not widen a scope, and count in it */
    { "web", 1000, RIGHT_CLAIM, "bell-1", 8, false, false },
    { "web", 1000, RIGHT_CLAIM, "gong", 8, false, false },
    { "bell-a", 1000, RIGHT_CLAIM, "bell-a.x", 8, true, true },
    { "web", 7, RIGHT_LIST, "public", 8, false, false },
};

/* *ret_grant: the caller's to free. */
static struct peer come_through(
    const char *scope, uid_t uid, struct grant **ret_grant, struct standing *standing)
{
    static const char *const entries[] = { "kvm/vm1", "vhost/net0/vring/0", "eventfd/bell" };
    struct peer peer = { .uid = uid, .gid = uid, .standing = standing };

    assert_int_equal(origin_new(scope, "", &standing->origin), 0);
    assert_int_equal(grant_new(ret_grant), 0);
    for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
        assert_int_equal(grant_add(*ret_grant, entries[i]), 0);
    standing->grant = *ret_grant;
    return peer;
}

static void test_scoped(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(scoped); i++) {
        struct standing standing = { .groups = NULL };
        struct grant *grant;
        struct peer peer = come_through(scoped[i].scope, scoped[i].uid, &grant, &standing),
                    owner = policy_owner(&peer);
        bool may = policy_may(&policy, &peer, scoped[i].right, scoped[i].what, scoped[i].owner);
        bool may_as_owner = policy_may(&policy, &owner, scoped[i].right, scoped[i].what, scoped[i].owner);

        if (may != scoped[i].may || may_as_owner != scoped[i].may_as_owner)
            fail_msg(
                "row %zu, %s through %s: %d and %d", i, scoped[i].what, scoped[i].scope, may, may_as_owner);
        policy_disown(&owner);
        policy_disown(&peer);
        grant_free(grant);
    }
}

static const struct {
    const char *by; /* the scope of who revokes; "": none */
    uid_t uid;
    const char *revoked, *scope; /* of a connection of 7's */
    bool may;
} revoked[] = {
    { "", 7, "web", "web", true },
    { "", 7, "web", "web.a", true },
    { "", 7, "web.a", "web", false },
    { "", 7, "web", "webx", false },
    { "", 7, "web", "", false },
    { "", 0, "web", "web", true },
    { "", 8, "web", "web", false },
    { "web", 7, "web", "web", false },
    { "web", 7, "web.a", "web.a", true },
    { "web", 7, "web.a", "web.a.b", true },
    { "web", 7, "db", "db", false },
    { "web", 0, "db", "db", false },
    { "web", 0, "web.a", "web.a", true },
};

static void test_revoke(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(revoked); i++) {
        struct standing standings[2] = { { .groups = NULL }, { .groups = NULL } };
        struct grant *grants[2];
        struct peer peer = come_through(revoked[i].by, revoked[i].uid, &grants[0], &standings[0]);
        struct peer other = come_through(revoked[i].scope, 7, &grants[1], &standings[1]);

        if (policy_may_revoke(&peer, revoked[i].revoked, &other) != revoked[i].may)
            fail_msg("row %zu: %s", i, revoked[i].revoked);
        policy_disown(&peer);
        policy_disown(&other);
        grant_free(grants[0]);
        grant_free(grants[1]);
    }
}

static const struct {
    const char *text, *entry; /* NULL: it is none */
    bool whole;
} entries[] = {
    { "kvm/vm1", "kvm/vm1", false },
    { "kvm/vm1/gsi", "kvm/vm1/gsi", false },
    { "kvm/vm1/gsi/0x10", "kvm/vm1/gsi/16", true },
    { "kvm/vm1/gsi/5/level", "kvm/vm1/gsi/5/level", true },
    { "kvm/vm1/pio", "kvm/vm1/pio", false },
    { "kvm/vm1/pio/16/0", "kvm/vm1/pio/0x10", true },
    { "kvm/vm1/mmio", "kvm/vm1/mmio", false },
    { "kvm/vm1/dev", "kvm/vm1/dev", false },
    { "kvm/vm1/dev/disk.0", "kvm/vm1/dev/disk.0", false },
    { "kvm/vm1/dev/disk.0/irq", "kvm/vm1/dev/disk.0/irq", false },
    { "kvm/vm1/dev/disk.0/notify", "kvm/vm1/dev/disk.0/notify", false },
    { "kvm/vm1/dev/disk.0/notify/3", "kvm/vm1/dev/disk.0/notify/3", true },
    { "vfio/0000.01.00.0", "vfio/0000.01.00.0", false },
    { "vfio/d/msix", "vfio/d/msix", false },
    { "vfio/d/intx", "vfio/d/intx", true },
    { "vhost/d", "vhost/d", false },
    { "vhost/d/vring", "vhost/d/vring", false },
    { "vhost/d/vring/1", "vhost/d/vring/1", false },
    { "eventfd/bell", "eventfd/bell", true },
    { "", NULL, false },
    { "kvm", NULL, false },
    { "eventfd", NULL, false },
    { "bell", NULL, false },
    { "kvm/", NULL, false },
    { "kvm/vm1/", NULL, false },
    { "kvm/*", NULL, false },
    { "kvm/vm1/gsi/", NULL, false },
    { "kvm/vm1/gsi/5000", NULL, false },
    { "kvm/vm1/irq", NULL, false },
    { "vfio/d/vring", NULL, false },
    { "eventfd/web.*", NULL, false },
};

static void test_entries(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
        char entry[ENDPOINT_SIZE] = "";
        struct endpoint sample;
        const char *reason = NULL;
        bool whole = false;
        int r = grant_parse(entries[i].text, entry, &sample, &whole, &reason);

        if ((r == 0) != (entries[i].entry != NULL) || (r < 0 && !reason))
            fail_msg("%s: %d, %s", entries[i].text, r, reason);
        if (r == 0 && (strcmp(entry, entries[i].entry) != 0 || whole != entries[i].whole))
            fail_msg("%s: %s, %d", entries[i].text, entry, whole);
    }
}

static void test_levels(void **state)
{
    char level[NAME_SIZE] = "";

    (void)state;
    assert_false(scope_next_level("", level));
    assert_true(scope_next_level("a.b..c", level));
    assert_string_equal(level, "a");
    assert_true(scope_next_level("a.b..c", level));
    assert_string_equal(level, "a.b");
    assert_true(scope_next_level("a.b..c", level));
    assert_string_equal(level, "a.b.");
    assert_true(scope_next_level("a.b..c", level));
    assert_string_equal(level, "a.b..c");
    assert_false(scope_next_level("a.b..c", level));
    assert_true(scope_is_valid("a23456789012345678901234567890123456x"));
    assert_false(scope_is_valid("a23456789012345678901234567890123456xy"));
    assert_false(scope_is_valid("a/b"));
}

static void test_owner(void **state)
{
    struct groups groups = { .n = 0 };
    struct standing standing = { .groups = &groups };
    struct grant *grant;
    struct peer peer = come_through("s", 1, &grant, &standing), owner;

    (void)state;
    peer.gid = 2;
    peer.pid = 3;
    owner = policy_owner(&peer);
    policy_disown(&peer);
    grant_free(grant);
    assert_null(peer_grant(&owner));
    assert_string_equal(peer_scope(&owner), "s");
    assert_string_equal(peer_label(&owner), "");
    assert_int_equal(owner.uid, 1);
    assert_int_equal(owner.gid, 2);
    assert_int_equal(owner.pid, 3);
    assert_null(peer_groups(&owner));
    policy_disown(&owner);
    assert_string_equal(peer_scope(&owner), "");
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
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_scoped),
        cmocka_unit_test(test_revoke),
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_owner),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
