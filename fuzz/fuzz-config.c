/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The configuration. The first byte says how it is found: f, a file and its drop-ins; d, in two folders; l,
 * with a folder of drop-ins that cannot be read; x and a byte in front of one of these: of what can fail
 * (fail.h), the so-many-th does. The rest is files with a record separator (0x1e) between them, the main one
 * first; "!dir", "!fifo", "!null" and "!lost" are what is in a file's place and is none.
 *
 * What is invalid is complained about and is no configuration. What is valid keeps to the limits, and its
 * settings, written to one file, are the same configuration again.
 */
#include "fail.h"
#include "fuzz.h"
#include "service/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEPARATOR '\x1e'
#define FILES_MAX 6

static char top[64], paths[FILES_MAX][128];

static void remove_files(void)
{
    for (size_t i = 0; i < FILES_MAX; i++) {
        if (paths[i][0] && unlink(paths[i]) < 0)
            (void)rmdir(paths[i]);
        paths[i][0] = '\0';
    }
}

static void remove_folders(void)
{
    static const char *const folders[] = { "/a/evlinkd.conf.d", "/b/evlinkd.conf.d", "/a", "/b", "" };
    char path[128];

    remove_files();
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        (void)snprintf(path, sizeof(path), "%s%s", top, folders[i]);
        (void)rmdir(path);
    }
}

static void make_folder(const char *name)
{
    char path[128];

    (void)snprintf(path, sizeof(path), "%s%s", top, name);
    MUST(mkdir(path, 0700) == 0);
}

static void prepare(void)
{
    if (top[0])
        return;
    strcpy(top, access("/dev/shm", W_OK) == 0 ? "/dev/shm/evlink-fuzz-XXXXXX" : "/tmp/evlink-fuzz-XXXXXX");
    MUST(mkdtemp(top));
    make_folder("/a");
    make_folder("/b");
    make_folder("/a/evlinkd.conf.d");
    make_folder("/b/evlinkd.conf.d");
    (void)atexit(remove_folders);
    fuzz_quiet();
}

/* A link to itself in the place of the second folder of drop-ins. */
static void loop_folder(bool loop)
{
    char path[128];

    (void)snprintf(path, sizeof(path), "%s/b/evlinkd.conf.d", top);
    if (loop)
        MUST(rmdir(path) == 0 && symlink("evlinkd.conf.d", path) == 0);
    else
        MUST(unlink(path) == 0 && mkdir(path, 0700) == 0);
}

static void write_file(const char *path, const char *text, size_t length)
{
    int fd;

    if (strcmp(text, "!dir") == 0) {
        MUST(mkdir(path, 0700) == 0);
    } else if (strcmp(text, "!fifo") == 0) {
        MUST(mkfifo(path, 0600) == 0);
    } else if (strcmp(text, "!null") == 0) {
        MUST(symlink("/dev/null", path) == 0);
    } else if (strcmp(text, "!lost") == 0) {
        MUST(symlink("/dev/shm/evlink-fuzz-nothing", path) == 0);
    } else {
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        MUST(fd >= 0 && write(fd, text, length) == (ssize_t)length);
        MUST(close(fd) == 0);
    }
}

static void check_ends(char **ends, bool producers)
{
    char text[ENDPOINT_SIZE];
    struct endpoint endpoint;
    const char *reason;

    MUST(ends && ends[0]);
    for (; *ends; ends++) {
        MUST(endpoint_parse(*ends, &endpoint, &reason) == 0);
        MUST(strcmp(endpoint_format(&endpoint, text), *ends) == 0);
        MUST(producers ? endpoint_is_producer(&endpoint) : endpoint_is_consumer(&endpoint));
    }
}

static void check(const struct config *config)
{
    const struct peer stranger = { .uid = 4711, .gid = 4711 };

    MUST(config->socket_mode <= 0777);
    MUST(config->agent_timeout >= 1000 && config->agent_timeout <= INT64_C(3600000000));
    MUST(config->limits.in_all[QUOTA_CONNECTIONS] <= INT32_MAX);
    for (size_t i = 0; i < N_QUOTAS; i++)
        MUST(config->limits.of_user[i] <= INT32_MAX);
    for (size_t i = 0; i < config->n_links; i++) {
        const struct config_link *link = &config->links[i];

        MUST(name_is_valid(link->name) && link->mark != 0);
        MUST(!link->group || name_is_valid(link->group));
        check_ends(link->producers, true);
        check_ends(link->consumers, false);
    }
    for (size_t i = 0; i < config->policy.n_rules; i++) {
        const struct rule *rule = &config->policy.rules[i];

        MUST(rule->rights && (rule->everybody || rule->n_uids > 0 || rule->n_gids > 0));
        MUST(rule->names || rule->endpoints);
    }
    for (enum right right = 0; right < N_RIGHTS; right++) {
        bool may = policy_may(&config->policy, &stranger, right, "name", 1) ||
                   policy_may(&config->policy, &stranger, right, "kvm/vm/gsi/1", 1);

        MUST(!may || config->policy.n_rules > 0);
    }
}

/* The same settings in one file say the same. */
static void check_again(const struct config *config)
{
    const struct config *again;
    struct config *loaded;
    char path[128], *text;
    size_t length;
    FILE *file;

    /* inih has a limit for lines, and continuations are joined here. */
    for (size_t i = 0; i < config->n_settings; i++)
        if (strlen(config->settings[i].value) > 150)
            return;
    file = open_memstream(&text, &length);
    MUST(file);
    for (size_t i = 0; i < config->n_settings; i++)
        MUST(fprintf(file, "[%s]\n%s=%s\n", config->settings[i].section, config->settings[i].key,
                 config->settings[i].value) > 0);
    MUST(fclose(file) == 0);
    (void)snprintf(path, sizeof(path), "%s/again.conf", top);
    write_file(path, text, length);
    MUST(config_load(config_folders, path, &loaded) == 0);
    (void)unlink(path);
    again = loaded;
    MUST(again->n_settings == config->n_settings);
    for (size_t i = 0; i < config->n_settings; i++) {
        MUST(strcmp(again->settings[i].section, config->settings[i].section) == 0);
        MUST(strcmp(again->settings[i].key, config->settings[i].key) == 0);
        MUST(strcmp(again->settings[i].value, config->settings[i].value) == 0);
    }
    MUST(again->n_links == config->n_links && again->policy.n_rules == config->policy.n_rules);
    for (size_t i = 0; i < config->n_links; i++)
        MUST(again->links[i].mark == config->links[i].mark);
    config_free(loaded);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = { data, data + size };
    char a[80], b[80], file[96];
    const char *folders[] = { a, b, NULL };
    struct config *config = NULL;
    bool in_folders, looped, failed;
    size_t before;
    unsigned mode;
    int r;

    prepare();
    before = fuzz_count_fds();
    (void)snprintf(a, sizeof(a), "%s/a", top);
    (void)snprintf(b, sizeof(b), "%s/b", top);
    (void)snprintf(file, sizeof(file), "%s/a/evlinkd.conf", top);
    mode = input_byte(&input);
    fail_at(mode == 'x' ? input_byte(&input) : 0);
    if (mode == 'x')
        mode = input_byte(&input);
    looped = mode == 'l';
    in_folders = mode == 'd' || looped;
    for (size_t i = 0; i < FILES_MAX && input_left(&input) > 0; i++) {
        const char *folder = in_folders && !looped && i % 2 ? b : a;
        size_t length;
        char *text = input_text(&input, SEPARATOR, &length);

        if (i == 0)
            (void)snprintf(paths[i], sizeof(paths[i]), "%s/evlinkd.conf", folder);
        else
            /* Of four drop-ins in two folders, two hide others. */
            (void)snprintf(
                paths[i], sizeof(paths[i]), "%s/evlinkd.conf.d/%zu.conf", folder, mode == 'd' ? i / 2 : i);
        if (i > 0 || length > 0 || !in_folders)
            write_file(paths[i], text, length);
        free(text);
    }
    fuzz_errors = 0;
    if (looped)
        loop_folder(true);
    fail_begin();
    r = config_load(folders, in_folders ? NULL : file, &config);
    failed = fail_end();
    if (looped)
        loop_folder(false);
    MUST(r == 0 || (r < 0 && fuzz_errors > 0));
    MUST(r < 0 || !failed);
    MUST(r < 0 || !looped);
    if (r == 0) {
        MUST(fuzz_errors == 0);
        check(config);
        check_again(config);
    }
    config_free(config);
    remove_files();
    MUST(fuzz_count_fds() == before);
    return 0;
}
