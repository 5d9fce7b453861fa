/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which files are read, in which order, and what they mean. What is invalid: test-blackbox-config.py. */
#include "base/cleanup.h"
#include "base/log.h"
#include "service/config.h"
#include "util.h"

#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>

static char top[64];
static char etc[96], run[96], lib[96];
static const char *const folders[] = { etc, run, lib, NULL };

/* What was logged. */
static char said[4096];

static void on_line(enum log_level level, const char *line)
{
    (void)level;
    (void)strncat(said, line, sizeof(said) - strlen(said) - 2);
    (void)strcat(said, "\n");
}

static void put(const char *folder, const char *name, const char *text)
{
    char path[256];
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state)
{
    char drop_ins[128];

    strcpy(top, "/tmp/evlinkd-config-XXXXXX");
    if (!mkdtemp(top))
        return -1;
    for (size_t i = 0; folders[i]; i++) {
        (void)snprintf((char *)folders[i], sizeof(etc), "%s/%zu", top, i);
        (void)snprintf(drop_ins, sizeof(drop_ins), "%s/evlinkd.conf.d", folders[i]);
        if (mkdir(folders[i], 0700) < 0 || mkdir(drop_ins, 0700) < 0)
            return -1;
    }
    log_init("test", LOG_LEVEL_INFO, on_line);
    said[0] = '\0';
    return fds_before(state);
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    return remove(path);
}

static int tear_down(void **state)
{
    return fds_after(state) < 0 || nftw(top, remove_one, 8, FTW_DEPTH | FTW_PHYS) < 0 ? -1 : 0;
}

static struct config *load(const char *file)
{
    struct config *config = NULL;

    if (config_load(folders, file, &config) < 0)
        fail_msg("%s", said);
    return config;
}

/* "FILE:LINE" of a setting, the file without the folder of all; "": it is not there. */
static const char *from(const struct config *config, const char *section, const char *key)
{
    static char text[256];

    text[0] = '\0';
    for (size_t i = 0; i < config->n_settings; i++) {
        const struct setting *setting = &config->settings[i];

        if (strcmp(setting->section, section) == 0 && strcmp(setting->key, key) == 0)
            (void)snprintf(text, sizeof(text), "%s:%d",
                setting->place.file ? setting->place.file + strlen(top) + 1 : "default", setting->place.line);
    }
    return text;
}

static void test_nothing(void **state)
{
    struct config *config = load(NULL);

    (void)state;
    assert_null(config->files[0]);
    assert_int_equal(config->socket_mode, 0666);
    assert_int_equal(config->socket_group, (gid_t)-1);
    assert_int_equal(config->agent_timeout, 5000000);
    assert_int_equal(config->n_links, 0);
    assert_int_equal(config->policy.n_rules, 0);
    assert_string_equal(from(config, "Broker", "AgentTimeout"), "default:0");
    config_free(config);
    assert_string_equal(said, "");
}

static void test_main_file(void **state)
{
    struct config *config;

    (void)state;
    put(lib, "evlinkd.conf", "[Broker]\nAgentTimeout=3\nMaxConnections=3\n");
    config = load(NULL);
    assert_int_equal(config->agent_timeout, 3000000);
    config_free(config);
    put(run, "evlinkd.conf", "[Broker]\nAgentTimeout=2\n");
    config = load(NULL);
    assert_int_equal(config->agent_timeout, 2000000);
    config_free(config);
    put(etc, "evlinkd.conf", "[Broker]\n\n# here\nAgentTimeout=1\n");
    config = load(NULL);
    assert_int_equal(config->agent_timeout, 1000000);
    assert_string_equal(from(config, "Broker", "AgentTimeout"), "0/evlinkd.conf:4");
    /* One main file is read, not all of them. */
    assert_string_equal(from(config, "Broker", "MaxConnections"), "default:0");
    config_free(config);
}

static void test_drop_ins(void **state)
{
    struct config *config;
    char path[160];

    (void)state;
    put(etc, "evlinkd.conf", "[Broker]\nAgentTimeout=1\nMaxLinksPerUser=1\n");
    put(lib, "evlinkd.conf.d/50-b.conf", "[Broker]\nAgentTimeout=50\nMaxConnections=50\n");
    put(run, "evlinkd.conf.d/40-a.conf", "[Broker]\nAgentTimeout=40\nMaxConnections=40\n");
    put(etc, "evlinkd.conf.d/30-c.conf", "[Broker]\nAgentTimeout=30\n");
    put(etc, "evlinkd.conf.d/99-not", "[Nonsense]\n");
    put(etc, "evlinkd.conf.d/.99.conf", "[Nonsense]\n");
    put(etc, "evlinkd.conf.d/.conf", "[Nonsense]\n");
    config = load(NULL);
    assert_int_equal(config->agent_timeout, 50000000);
    assert_string_equal(from(config, "Broker", "AgentTimeout"), "2/evlinkd.conf.d/50-b.conf:2");
    assert_int_equal(config->limits.of_user[QUOTA_LINKS], 1);
    assert_string_equal(config->files[1] + strlen(top), "/0/evlinkd.conf.d/30-c.conf");
    assert_string_equal(config->files[2] + strlen(top), "/1/evlinkd.conf.d/40-a.conf");
    assert_null(config->files[4]);
    config_free(config);
    /* The same name hides. */
    put(run, "evlinkd.conf.d/50-b.conf", "[Broker]\nAgentTimeout=51\n");
    config = load(NULL);
    assert_int_equal(config->agent_timeout, 51000000);
    assert_int_equal(config->limits.in_all[QUOTA_CONNECTIONS], 40);
    config_free(config);
    (void)snprintf(path, sizeof(path), "%s/evlinkd.conf.d/50-b.conf", etc);
    assert_int_equal(symlink("/dev/null", path), 0);
    config = load(NULL);
    assert_int_equal(config->agent_timeout, 40000000);
    config_free(config);
    /* Nothing said is the default again. */
    put(etc, "evlinkd.conf.d/60.conf", "[Broker]\nMaxConnections=\n");
    config = load(NULL);
    assert_int_equal(config->limits.in_all[QUOTA_CONNECTIONS], 16384);
    assert_string_equal(from(config, "Broker", "MaxConnections"), "default:0");
    config_free(config);
}

static void test_one_file(void **state)
{
    struct config *config;
    char path[160], folder[176];

    (void)state;
    put(etc, "evlinkd.conf", "[Broker]\nAgentTimeout=1\n");
    put(etc, "evlinkd.conf.d/1.conf", "[Broker]\nMaxConnections=1\n");
    put(top, "mine", "[Broker]\nAgentTimeout=2\n");
    (void)snprintf(path, sizeof(path), "%s/mine", top);
    config = load(path);
    assert_int_equal(config->agent_timeout, 2000000);
    assert_int_equal(config->limits.in_all[QUOTA_CONNECTIONS], 16384);
    config_free(config);
    (void)snprintf(folder, sizeof(folder), "%s.d", path);
    assert_int_equal(mkdir(folder, 0700), 0);
    put(folder, "x.conf", "[Broker]\nAgentTimeout=3\n");
    config = load(path);
    assert_int_equal(config->agent_timeout, 3000000);
    config_free(config);
}

static void test_rules(void **state)
{
    const struct rule *rule;
    struct config *config;

    (void)state;
    put(etc, "evlinkd.conf",
        "[Allow one]\nUser=root 17\nGroup=18\nVerbs=claim\n  signal\n\tlist ; all\nNames=a* b\n"
        "[Allow two]\nUser=*\nVerbs=*\nEndpoints=kvm/x/*\n"
        "[Allow one]\nGroup=19 20\n"
        "[Allow three]\nLabel=*:svirt_t:*  libvirt-*?(enforce)\nVerbs=list\nNames=x\n");
    put(etc, "evlinkd.conf.d/1.conf", "[Allow one]\nNames=\nEndpoints=*\n");
    config = load(NULL);
    assert_int_equal(config->policy.n_rules, 3);
    rule = &config->policy.rules[0];
    assert_false(rule->everybody);
    assert_int_equal(rule->n_uids, 2);
    assert_int_equal(rule->uids[0], 0);
    assert_int_equal(rule->uids[1], 17);
    assert_int_equal(rule->n_gids, 2);
    assert_int_equal(rule->gids[1], 20);
    assert_int_equal(rule->rights, 1u << RIGHT_CLAIM | 1u << RIGHT_SIGNAL | 1u << RIGHT_LIST);
    assert_null(rule->names);
    assert_string_equal(rule->endpoints[0], "*");
    assert_null(rule->endpoints[1]);
    rule = &config->policy.rules[1];
    assert_true(rule->everybody);
    assert_true(rule->rights >> RIGHT_WITHDRAW & 1);
    assert_null(rule->labels);
    rule = &config->policy.rules[2];
    assert_false(rule->everybody);
    assert_string_equal(rule->labels[0], "*:svirt_t:*");
    assert_string_equal(rule->labels[1], "libvirt-*?(enforce)");
    assert_null(rule->labels[2]);
    assert_string_equal(from(config, "Allow one", "Verbs"), "0/evlinkd.conf:4");
    assert_string_equal(from(config, "Allow one", "Group"), "0/evlinkd.conf:13");
    config_free(config);
}

static void test_links(void **state)
{
    const struct config_link *link;
    struct config *config;

    (void)state;
    put(etc, "evlinkd.conf",
        "[Link ring]\nProducers=kvm/a/pio/1296/2=1\nConsumers=kvm/b/gsi/0xa eventfd/x\nGroup=g\nUser=12\n"
        "[Link 0123456789012345678901234567890123456789012345678901234567890.-]\n"
        "Producers=eventfd/a\nConsumers=eventfd/b\n");
    config = load(NULL);
    assert_int_equal(config->n_links, 2);
    link = &config->links[0];
    assert_string_equal(link->name, "ring");
    assert_string_equal(link->group, "g");
    assert_int_equal(link->owner, 12);
    assert_string_equal(link->producers[0], "kvm/a/pio/0x510/2=0x1");
    assert_null(link->producers[1]);
    assert_string_equal(link->consumers[0], "kvm/b/gsi/10");
    assert_string_equal(link->consumers[1], "eventfd/x");
    link = &config->links[1];
    assert_int_equal(strlen(link->name), 63);
    assert_int_equal(link->owner, 0);
    assert_null(link->group);
    config_free(config);
}

/* What others wrote does not drive a terminal, nor does it make lines: C0, DEL and, in UTF-8, C1. */
static void test_plain_lines(void **state)
{
    (void)state;
    log_error("a\x1b[m\nb\x7f\xc2\x9b\x31\xc2\x80\xc2\x9f\xc2\xa0\xc3\xa9");
    assert_non_null(strstr(said, "a?[m?b???1????\xc2\xa0\xc3\xa9"));
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_nothing),
        CASE(test_main_file),
        CASE(test_drop_ins),
        CASE(test_one_file),
        CASE(test_rules),
        CASE(test_links),
        CASE(test_plain_lines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
