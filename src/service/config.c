/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The configuration: see config.h. */
#include "service/config.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

/* More would not be a time-out any more. */
#define TIMEOUT_MAX 3600.0

/* The longest answer of the databases of users and groups: a group may have many members. */
#define NSS_MAX ((size_t)1024 * 1024)

int64_t config_seconds(const char *text)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end || !(seconds >= 0.001 && seconds <= TIMEOUT_MAX))
        return 0;
    return (int64_t)(seconds * (double)USEC_PER_SEC);
}

/* ---- Values
 * -------------------------------------------------------------------------------------------------
 *
 * Each function reads a value into the place of its key: 0; -ENOMEM; -EINVAL with half a sentence on what is
 * wrong.
 */

#define WHAT_SIZE 512

static int wrong(char what[static WHAT_SIZE], const char *text, const char *complaint)
{
    (void)snprintf(what, WHAT_SIZE, "%s %s", text, complaint);
    return -EINVAL;
}

/* The next word of a list, cut out of it; NULL: there is none. */
static char *next_word(char **list)
{
    char *word;

    do
        word = strsep(list, " \t\r\n\f\v");
    while (word && !word[0]);
    return word;
}

static int add_string(char ***strings, size_t n, const char *string)
{
    char **more = reallocarray(*strings, n + 2, sizeof(char *));

    if (!more)
        return -ENOMEM;
    *strings = more;
    more[n] = strdup(string);
    more[n + 1] = NULL;
    return more[n] ? 0 : -ENOMEM;
}

static char **strings_free(char **strings)
{
    for (char **string = strings; string && *string; string++)
        free(*string);
    free(strings);
    return NULL;
}

/* A number of digits alone, up to most. */
static bool read_number(const char *text, int base, uint64_t most, uint64_t *ret_number)
{
    char *end;

    if (!text[0] || text[strspn(text, base == 8 ? "01234567" : "0123456789")])
        return false;
    errno = 0;
    *ret_number = strtoull(text, &end, base);
    return errno == 0 && *ret_number <= most;
}

/* Looks a user up, or a group: 0, -ENOENT, -errno. */
static int look_up(const char *name, bool group, uint32_t *ret_id)
{
    struct passwd passwd, *found_passwd = NULL;
    struct group entry, *found_group = NULL;
    int r = ERANGE;

    for (size_t size = 4096; r == ERANGE && size <= NSS_MAX; size *= 4) {
        CLEANUP(freep) char *buffer = malloc(size);

        if (!buffer)
            return -ENOMEM;
        if (group)
            r = getgrnam_r(name, &entry, buffer, size, &found_group);
        else
            r = getpwnam_r(name, &passwd, buffer, size, &found_passwd);
    }
    if (found_group)
        *ret_id = found_group->gr_gid;
    else if (found_passwd)
        *ret_id = found_passwd->pw_uid;
    else
        return r == ENOMEM ? -ENOMEM : -ENOENT;
    return 0;
}

static gid_t primary_group(uid_t uid)
{
    struct passwd passwd, *found = NULL;
    CLEANUP(freep) char *buffer = malloc(NSS_MAX);

    return buffer && getpwuid_r(uid, &passwd, buffer, NSS_MAX, &found) == 0 && found ? found->pw_gid
                                                                                     : (gid_t)-1;
}

static int read_id(const char *text, bool group, uint32_t *ret_id, char what[static WHAT_SIZE])
{
    uint64_t number;
    int r;

    /* The last one stands for none. */
    if (read_number(text, 10, UINT32_MAX - 1, &number)) {
        *ret_id = (uint32_t)number;
        return 0;
    }
    r = look_up(text, group, ret_id);
    return r == -ENOENT ? wrong(what, text, group ? "is no group" : "is no user") : r;
}

static int read_mode(char *value, void *place, char what[static WHAT_SIZE])
{
    uint64_t mode;

    if (!read_number(value, 8, 0777, &mode))
        return wrong(what, value, "is no octal mode up to 0777");
    *(unsigned *)place = (unsigned)mode;
    return 0;
}

static int read_group(char *value, void *place, char what[static WHAT_SIZE])
{
    *(gid_t *)place = (gid_t)-1;
    return value[0] ? read_id(value, true, place, what) : 0;
}

static int read_user(char *value, void *place, char what[static WHAT_SIZE])
{
    return read_id(value, false, place, what);
}

static int read_seconds(char *value, void *place, char what[static WHAT_SIZE])
{
    int64_t time = config_seconds(value);

    if (time == 0)
        return wrong(what, value, "is not a number of seconds from 0.001 to 3600");
    *(int64_t *)place = time;
    return 0;
}

static int read_limit(char *value, void *place, char what[static WHAT_SIZE])
{
    uint64_t limit;

    if (!read_number(value, 10, INT32_MAX, &limit))
        return wrong(what, value, "is no number from 0 to 2147483647");
    *(size_t *)place = (size_t)limit;
    return 0;
}

static int read_ids(char *value, bool group, uint32_t **ids, size_t *n, char what[static WHAT_SIZE])
{
    char *word;
    int r;

    while ((word = next_word(&value))) {
        uint32_t *more = reallocarray(*ids, *n + 1, sizeof(**ids));

        if (!more)
            return -ENOMEM;
        *ids = more;
        r = read_id(word, group, &more[*n], what);
        if (r < 0)
            return r;
        ++*n;
    }
    return 0;
}

_Static_assert(sizeof(uid_t) == sizeof(uint32_t) && sizeof(gid_t) == sizeof(uint32_t), "ids are 32 bits");

static int read_rule_users(char *value, void *place, char what[static WHAT_SIZE])
{
    struct rule *rule = place;

    if (strcmp(value, "*") == 0) {
        rule->everybody = true;
        return 0;
    }
    return read_ids(value, false, &rule->uids, &rule->n_uids, what);
}

static int read_rule_groups(char *value, void *place, char what[static WHAT_SIZE])
{
    struct rule *rule = place;

    return read_ids(value, true, &rule->gids, &rule->n_gids, what);
}

static int read_verbs(char *value, void *place, char what[static WHAT_SIZE])
{
    unsigned *rights = place;
    enum right right;
    char *word;

    while ((word = next_word(&value))) {
        if (strcmp(word, "*") == 0) {
            *rights = ~0u;
            continue;
        }
        for (right = 0; right < N_RIGHTS && strcmp(word, right_name(right)) != 0; right++)
            ;
        if (right == N_RIGHTS)
            return wrong(what, word, "is no verb");
        *rights |= 1u << right;
    }
    return 0;
}

static int read_globs(char *value, char ***globs, bool endpoints, char what[static WHAT_SIZE])
{
    size_t n = 0;
    char *word;

    while ((word = next_word(&value))) {
        if (!endpoints && strchr(word, '/'))
            return wrong(what, word, "has a slash, which no name has: is it for Endpoints=?");
        if (endpoints && !strpbrk(word, "/*?["))
            return wrong(what, word, "has no slash, which every endpoint has: is it for Names=?");
        if (add_string(globs, n++, word) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int read_labels(char *value, void *place, char what[static WHAT_SIZE])
{
    char ***labels = place;
    size_t n = 0;
    char *word;

    (void)what;
    while ((word = next_word(&value)))
        if (add_string(labels, n++, word) < 0)
            return -ENOMEM;
    return 0;
}

static int read_names(char *value, void *place, char what[static WHAT_SIZE])
{
    return read_globs(value, place, false, what);
}

static int read_endpoint_globs(char *value, void *place, char what[static WHAT_SIZE])
{
    return read_globs(value, place, true, what);
}

static int read_ends(char *value, char ***ends, bool producers, char what[static WHAT_SIZE])
{
    char text[ENDPOINT_SIZE], *word;
    struct endpoint endpoint;
    const char *reason;
    size_t n = 0;

    while ((word = next_word(&value))) {
        if (endpoint_parse(word, &endpoint, &reason) < 0)
            return wrong(what, word, reason);
        if (!(producers ? endpoint_is_producer : endpoint_is_consumer)(&endpoint))
            return wrong(what, word, producers ? "is no producer" : "is no consumer");
        if (add_string(ends, n++, endpoint_format(&endpoint, text)) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int read_producers(char *value, void *place, char what[static WHAT_SIZE])
{
    return read_ends(value, place, true, what);
}

static int read_consumers(char *value, void *place, char what[static WHAT_SIZE])
{
    return read_ends(value, place, false, what);
}

static int read_link_group(char *value, void *place, char what[static WHAT_SIZE])
{
    char **name = place;

    if (!name_is_valid(value))
        return wrong(what, value, "is no name");
    *name = strdup(value);
    return *name ? 0 : -ENOMEM;
}

/* ---- Sections and keys
 * --------------------------------------------------------------------------------------
 */

struct key {
    const char *name;
    int (*read)(char *value, void *place, char what[static WHAT_SIZE]);
    size_t offset;        /* of its place in the section's object */
    const char *fallback; /* [Broker]: its value where nobody says another */
};

#define LIMIT(name, place, fallback)                                      \
    {                                                                     \
        name, read_limit, offsetof(struct config, limits.place), fallback \
    }

/* In all, and for each user. */
#define LIMITS(name, quota, in_all_fallback, of_user_fallback) \
    LIMIT(name, in_all[quota], in_all_fallback), LIMIT(name "PerUser", of_user[quota], of_user_fallback)

static const struct key broker_keys[] = {
    { "SocketMode", read_mode, offsetof(struct config, socket_mode), "0666" },
    { "SocketGroup", read_group, offsetof(struct config, socket_group), "" },
    { "AgentTimeout", read_seconds, offsetof(struct config, agent_timeout), "5" },
    LIMITS("MaxConnections", QUOTA_CONNECTIONS, "16384", "4096"),
    LIMITS("MaxEventfds", QUOTA_EVENTFDS, "1048576", "262144"),
    LIMITS("MaxLinks", QUOTA_LINKS, "1048576", "262144"),
    LIMITS("MaxAgents", QUOTA_AGENTS, "16384", "4096"),
    LIMITS("MaxOffers", QUOTA_OFFERS, "1048576", "262144"),
    LIMITS("MaxSubscribers", QUOTA_SUBSCRIBERS, "1024", "256"),
    LIMITS("MaxBytes", QUOTA_BYTES, "536870912", "67108864"),
    LIMITS("MaxDescriptors", QUOTA_DESCRIPTORS, "16384", "4096"),
    { NULL, NULL, 0, NULL },
};

static const struct key allow_keys[] = {
    { "User", read_rule_users, 0, NULL },
    { "Group", read_rule_groups, 0, NULL },
    { "Label", read_labels, offsetof(struct rule, labels), NULL },
    { "Verbs", read_verbs, offsetof(struct rule, rights), NULL },
    { "Names", read_names, offsetof(struct rule, names), NULL },
    { "Endpoints", read_endpoint_globs, offsetof(struct rule, endpoints), NULL },
    { NULL, NULL, 0, NULL },
};

static const struct key link_keys[] = {
    { "Producers", read_producers, offsetof(struct config_link, producers), NULL },
    { "Consumers", read_consumers, offsetof(struct config_link, consumers), NULL },
    { "Group", read_link_group, offsetof(struct config_link, group), NULL },
    { "User", read_user, offsetof(struct config_link, owner), NULL },
    { NULL, NULL, 0, NULL },
};

/* What a section is read into. */
union object {
    struct config broker;
    struct rule rule;
    struct config_link link;
};

static void clear_broker(void *object)
{
    (void)object; /* its values are numbers */
}

static void clear_rule(void *object)
{
    struct rule *rule = object;

    free(rule->uids);
    free(rule->gids);
    strings_free(rule->labels);
    strings_free(rule->names);
    strings_free(rule->endpoints);
}

static void clear_link(void *object)
{
    struct config_link *link = object;

    free(link->name);
    strings_free(link->producers);
    strings_free(link->consumers);
    free(link->group);
}

static const struct kind {
    const char *name;
    bool named; /* [KIND NAME] */
    const struct key *keys;
    void (*clear)(void *object);
} kinds[] = {
    { "Broker", false, broker_keys, clear_broker },
    { "Allow", true, allow_keys, clear_rule },
    { "Link", true, link_keys, clear_link },
};

/* What is read of a file, and of all of them. */
struct loading {
    struct config *config;
    struct section {
        char *title;
        const char *name; /* in the title; NULL: it has none */
        const struct kind *kind;
        struct config_place place; /* where it begins first */
    } * sections;
    size_t n_sections;
    size_t current; /* the section that what comes next is in; n_sections: one that is to be passed over */
    bool invalid, no_memory;
};

static void complain(struct loading *loading, const struct config_place *place, const char *what)
{
    loading->invalid = true;
    if (place->line > 0)
        log_error("%s:%d: %s", place->file, place->line, what);
    else
        log_error("%s: %s", place->file, what);
}

static void on_complaint(void *userdata, const struct config_place *place, const char *what)
{
    complain(userdata, place, what);
}

static const struct kind *find_kind(const char *title, const char **ret_name)
{
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        size_t length = strlen(kinds[i].name);

        if (strncmp(title, kinds[i].name, length) != 0)
            continue;
        *ret_name = kinds[i].named && title[length] == ' ' ? title + length + 1 : NULL;
        if (kinds[i].named ? *ret_name != NULL : !title[length])
            return &kinds[i];
    }
    return NULL;
}

static void on_section(void *userdata, const struct config_place *place, const char *title)
{
    struct loading *loading = userdata;
    char what[WHAT_SIZE];
    const char *name;
    const struct kind *kind = find_kind(title, &name);
    struct section *more;

    for (size_t i = 0; i < loading->n_sections; i++)
        if (strcmp(loading->sections[i].title, title) == 0) {
            loading->current = i;
            return;
        }
    loading->current = SIZE_MAX;
    if (!kind || (name && !name_is_valid(name))) {
        (void)snprintf(what, sizeof(what),
            kind ? "[%.200s] has no valid name" : "[%.200s] is no [Broker], [Allow NAME] or [Link NAME]",
            title);
        complain(loading, place, what);
        return;
    }
    more = reallocarray(loading->sections, loading->n_sections + 1, sizeof(*more));
    if (more)
        loading->sections = more;
    title = more ? strdup(title) : NULL;
    if (!title) {
        loading->no_memory = true;
        return;
    }
    more[loading->n_sections] = (struct section){
        .title = (char *)title, .name = name ? strchr(title, ' ') + 1 : NULL, .kind = kind, .place = *place
    };
    loading->current = loading->n_sections++;
}

static const struct key *find_key(const struct kind *kind, const char *name)
{
    for (const struct key *key = kind->keys; key->name; key++)
        if (strcmp(key->name, name) == 0)
            return key;
    return NULL;
}

static struct setting *find_setting(const struct config *config, const char *section, const char *key)
{
    for (size_t i = 0; i < config->n_settings; i++)
        if (strcmp(config->settings[i].section, section) == 0 && strcmp(config->settings[i].key, key) == 0)
            return &config->settings[i];
    return NULL;
}

static int add_setting(struct config *config, const char *section, const char *key, const char *value,
    const struct config_place *place)
{
    struct setting setting = { strdup(section), strdup(key), strdup(value), *place };
    struct setting *more = setting.section && setting.key && setting.value
                               ? reallocarray(config->settings, config->n_settings + 1, sizeof(*more))
                               : NULL;

    if (!more) {
        free(setting.section);
        free(setting.key);
        free(setting.value);
        return -ENOMEM;
    }
    config->settings = more;
    more[config->n_settings++] = setting;
    return 0;
}

static void free_settings(struct config *config)
{
    for (size_t i = 0; i < config->n_settings; i++) {
        free(config->settings[i].section);
        free(config->settings[i].key);
        free(config->settings[i].value);
    }
    free(config->settings);
}

/* Reads a value into its place. */
static void read_value(struct loading *loading, const struct key *key, const char *value,
    const struct config_place *place, void *object)
{
    CLEANUP(freep) char *copy = strdup(value);
    char what[WHAT_SIZE], line[WHAT_SIZE + 64];
    int r = copy ? key->read(copy, (char *)object + key->offset, what) : -ENOMEM;

    if (r == -EINVAL) {
        (void)snprintf(line, sizeof(line), "%s: %s", key->name, what);
        complain(loading, place, line);
    } else if (r < 0) {
        loading->no_memory = true;
    }
}

/* An empty value is as if the key had not been given. Each is judged, also where a later one counts. */
static void on_setting(void *userdata, const struct config_place *place, const char *name, const char *value)
{
    struct loading *loading = userdata;
    const struct section *section;
    const struct key *key;
    struct setting *setting;
    union object scratch = { 0 };
    char what[WHAT_SIZE];

    if (loading->current >= loading->n_sections)
        return;
    section = &loading->sections[loading->current];
    key = find_key(section->kind, name);
    if (!key) {
        (void)snprintf(what, sizeof(what), "%.200s= is no key of [%.200s]", name, section->title);
        complain(loading, place, what);
        return;
    }
    if (value[0]) {
        read_value(loading, key, value, place, &scratch);
        section->kind->clear(&scratch);
    }
    setting = find_setting(loading->config, section->title, name);
    if (setting) {
        char *copy = strdup(value);

        loading->no_memory |= !copy;
        if (copy) {
            free(setting->value);
            setting->value = copy;
        }
        setting->place = *place;
    } else if (add_setting(loading->config, section->title, name, value, place) < 0) {
        loading->no_memory = true;
    }
}

/* ---- All of it
 * ------------------------------------------------------------------------------------------------ */

static void need(struct loading *loading, const struct section *section, bool is_there, const char *what)
{
    char line[WHAT_SIZE];

    if (is_there)
        return;
    (void)snprintf(line, sizeof(line), "[%s] has no %s", section->title, what);
    complain(loading, &section->place, line);
}

/* Fills in the object of a section, and lists its settings. */
static void take_section(
    struct loading *loading, const struct section *section, void *object, struct config *from)
{
    for (const struct key *key = section->kind->keys; key->name; key++) {
        const struct setting *setting = find_setting(from, section->title, key->name);
        const struct config_place nowhere = { 0 };
        const struct config_place *place = &nowhere;
        const char *value = key->fallback;

        if (setting && setting->value[0]) {
            value = setting->value;
            place = &setting->place;
        }
        if (!value)
            continue;
        read_value(loading, key, value, place, object);
        if (add_setting(loading->config, section->title, key->name, value, place) < 0)
            loading->no_memory = true;
    }
}

static void take_rule(struct loading *loading, const struct section *section, struct config *from)
{
    struct policy *policy = &loading->config->policy;
    struct rule *rule = &policy->rules[policy->n_rules++];

    take_section(loading, section, rule, from);
    need(loading, section, rule->everybody || rule->n_uids > 0 || rule->n_gids > 0 || rule->labels,
        "User=, no Group= and no Label=");
    need(loading, section, rule->rights != 0, "Verbs=");
    need(loading, section, rule->names || rule->endpoints, "Names= and no Endpoints=");
}

/* FNV-1a */
static uint64_t add_mark(uint64_t mark, const void *data, size_t length)
{
    const unsigned char *bytes = data;

    for (size_t i = 0; i < length; i++)
        mark = (mark ^ bytes[i]) * UINT64_C(0x100000001b3);
    return mark;
}

static uint64_t mark_of(const struct config_link *link)
{
    char **const lists[] = { link->producers, link->consumers, (char *[]){ link->group, NULL } };
    uint64_t mark = add_mark(UINT64_C(0xcbf29ce484222325), &link->owner, sizeof(link->owner));

    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        for (char **string = lists[i]; string && *string; string++)
            mark = add_mark(mark, *string, strlen(*string) + 1);
        mark = add_mark(mark, "", 1);
    }
    return mark ? mark : 1;
}

static void take_link(struct loading *loading, const struct section *section, struct config *from)
{
    struct config_link *link = &loading->config->links[loading->config->n_links++];

    link->name = strdup(section->name);
    loading->no_memory |= !link->name;
    take_section(loading, section, link, from);
    need(loading, section, link->producers, "Producers=");
    need(loading, section, link->consumers, "Consumers=");
    link->owner_gid = primary_group(link->owner);
    link->mark = mark_of(link);
}

/* From what the files say to what it means. */
static void take_all(struct loading *loading)
{
    static char title[] = "Broker";
    const struct section broker = { .title = title, .kind = &kinds[0] };
    struct config said = *loading->config, *config = loading->config;

    config->settings = NULL;
    config->n_settings = 0;
    config->policy.rules = calloc(loading->n_sections + 1, sizeof(*config->policy.rules));
    config->links = calloc(loading->n_sections + 1, sizeof(*config->links));
    if (config->policy.rules && config->links) {
        take_section(loading, &broker, config, &said);
        for (size_t i = 0; i < loading->n_sections; i++)
            if (loading->sections[i].kind->keys == allow_keys)
                take_rule(loading, &loading->sections[i], &said);
        for (size_t i = 0; i < loading->n_sections; i++)
            if (loading->sections[i].kind->keys == link_keys)
                take_link(loading, &loading->sections[i], &said);
    } else {
        loading->no_memory = true;
    }
    free_settings(&said);
}

int config_load(const char *const *folders, const char *file, struct config **ret_config)
{
    static const struct config_sink sink = { on_section, on_setting, on_complaint };
    struct config *config = calloc(1, sizeof(*config));
    struct loading loading = { .config = config };
    int r;

    if (!config) {
        log_error("cannot read the configuration: %s", strerror(ENOMEM));
        return -ENOMEM;
    }
    r = config_files(folders, file, &config->files);
    for (char **path = config->files; r == 0 && *path; path++) {
        loading.current = SIZE_MAX;
        r = config_file_read(*path, &sink, &loading);
    }
    if (r == 0 && !loading.invalid && !loading.no_memory)
        take_all(&loading);
    for (size_t i = 0; i < loading.n_sections; i++)
        free(loading.sections[i].title);
    free(loading.sections);
    if (loading.no_memory)
        r = -ENOMEM;
    else if (r == 0 && loading.invalid)
        r = -EINVAL;
    if (r < 0) {
        if (r == -ENOMEM)
            log_error("cannot read the configuration: %s", strerror(ENOMEM));
        config_free(config);
        return r;
    }
    *ret_config = config;
    return 0;
}

struct config *config_free(struct config *config)
{
    if (!config)
        return NULL;
    for (size_t i = 0; i < config->policy.n_rules; i++)
        clear_rule(&config->policy.rules[i]);
    free(config->policy.rules);
    for (size_t i = 0; i < config->n_links; i++)
        clear_link(&config->links[i]);
    free(config->links);
    free_settings(config);
    config_files_free(config->files);
    free(config);
    return NULL;
}
