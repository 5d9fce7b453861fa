/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Errors that tell little by themselves: InvalidParameter, which parameter it was and no more, and
 * PermissionDenied, nothing; NoSuchLink, what was looked for, be it the name of a link or not. What was sent
 * says the rest: with which name or endpoint, and what had to be there instead. Where there is no memory to
 * read it, they tell as little as they do.
 */
#include "base/cleanup.h"
#include "endpoint/endpoint.h"
#include "lib/client.h"

#include <stdio.h>
#include <string.h>

#define NAME_RULE "has 1 to 63 of the characters A-Z a-z 0-9 _ . - and begins with a letter or a digit"

/* How much of a name or an endpoint a message shows, and how many of them. */
#define SHOWN_MAX 100
#define LISTED_MAX 6

static const struct rule {
    const char *parameter, *rule;
} rules[] = {
    { "name", "a name: it " NAME_RULE },
    { "link", "a name: it " NAME_RULE },
    { "agent", "a name: it " NAME_RULE },
    { "group", "a name: it " NAME_RULE },
    { "scope", "a name of up to 37 characters: it " NAME_RULE },
    { "names", "a list of 1 to 253 names, and the call has a descriptor for each" },
    { "links", "a list of 1 to 1024 links" },
    { "producers", "a list of at least one endpoint" },
    { "consumers", "a list of at least one endpoint" },
    { "endpoints", "a list of endpoints" },
    { "labels", "an object of up to 256 texts" },
    { "subsystems", "a list of kinds (kvm, vfio, vhost) and names: at least one, none of them twice" },
    { "lifetime", "persistent, connection or lease, or, of a link, agent" },
    { "leaseSeconds", "a whole number from 1, beside the lifetime lease and no other" },
    { "count", "a whole number from 1" },
    { "maxEventfds", "a whole number from 0" },
    { "maxLinks", "a whole number from 0" },
    { "semaphore", "true or false, and what the descriptor is that comes with it" },
    { "match", "a pattern of up to 256 bytes" },
    { "reason", "a text of up to 256 bytes" },
    { "types", "a list of up to 256 types" },
};

/* The rule for a parameter, NULL where there is none. */
static const char *rule_of(const char *parameter)
{
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
        if (strcmp(rules[i].parameter, parameter) == 0)
            return rules[i].rule;
    return NULL;
}

/* Whether a parameter is one name, or several. */
static bool is_name(const char *parameter)
{
    const char *rule = rule_of(parameter);

    return strcmp(parameter, "names") == 0 || strcmp(parameter, "subsystems") == 0 ||
           (rule && strncmp(rule, "a name", 6) == 0);
}

/* The member of that key if it is a list; NULL is empty. */
static const struct value *get_list(const struct value *object, const char *key)
{
    const struct value *value = value_get(object, key);

    return value && value->type == VALUE_ARRAY ? value : NULL;
}

/* A text that is no name, in what was sent as that parameter. NULL: none is there. */
static const char *find_bad_name(const struct value *sent, const char *parameter)
{
    static const char *const lists[] = { "links", "subsystems" };
    const char *text = value_string(value_get(sent, parameter));
    const struct value *item;

    if (text && !name_is_valid(text))
        return text;
    VALUE_FOREACH(item, get_list(sent, parameter))
    if (value_string(item) && !name_is_valid(item->string))
        return item->string;
    /* What is wrong with one of several is told as if it were the only one. */
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        VALUE_FOREACH(item, get_list(sent, lists[i]))
        {
            text = item->type == VALUE_OBJECT
                       ? find_bad_name(item, strcmp(parameter, lists[i]) == 0 ? "name" : parameter)
                       : NULL;
            if (text)
                return text;
        }
    return NULL;
}

/* How much of a text a message shows: no half character at its end. */
static int shown(const char *text)
{
    size_t length = strnlen(text, SHOWN_MAX);

    while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80)
        length--;
    return (int)length;
}

/* Whether a call takes a name or what stands for several, and was given neither or both. */
static bool is_not_one(const char *method, const struct value *sent)
{
    static const struct {
        const char *method, *other;
    } choices[] = {
        { BROKER("Renew"), "link" },
        { BROKER("Disconnect"), "group" },
        { BROKER("Park"), "group" },
        { BROKER("Resume"), "group" },
    };

    for (size_t i = 0; i < ARRAY_SIZE(choices); i++)
        if (strcmp(method, choices[i].method) == 0)
            return !value_get(sent, "name") == !value_get(sent, choices[i].other);
    return false;
}

static int invalid(
    struct evlink_client *client, const char *method, const struct value *sent, const char *parameter)
{
    const char *name = is_name(parameter) ? find_bad_name(sent, parameter) : NULL, *rule = rule_of(parameter);
    const char *value = value_string(value_get(sent, parameter));
    const char *link = value_string(value_get(sent, "link"));
    const bool is_renewal = strcmp(method, BROKER("Renew")) == 0;
    const int code = EVLINK_E_INVALID_PARAMETER;

    if (name)
        return evl_client_say(client, code, "'%.*s' is no name: one " NAME_RULE, shown(name), name);
    if (strcmp(parameter, "name") == 0 && is_not_one(method, sent))
        return evl_client_say(
            client, code, "the call takes a name, or a %s, and not both", is_renewal ? "link" : "group");
    if (is_renewal && strcmp(parameter, "name") == 0 && (link || value))
        return evl_client_say(client, code,
            "the %s '%.100s' was made without a lease, so none can be renewed: it lasts as it is",
            link ? "link" : "eventfd", link ? link : value);
    if (strcmp(method, BROKER("Revoke")) == 0 && value)
        return evl_client_say(client, code,
            "there is no delegated connection of the scope '%.100s' that this user may close", value);
    if (*method && rule)
        return evl_client_say(client, code, "the parameter '%s' has to be %s", parameter, rule);
    return evl_client_say(client, code,
        "the parameter '%.100s' is unknown to the broker, missing, or of a type or value that will not do",
        parameter);
}

struct listed {
    char text[LISTED_MAX * (SHOWN_MAX + 4) + 1];
    size_t length, n;
};

/* Appends a text between quotes; past LISTED_MAX, counts it. */
static void list(struct listed *listed, const char *text)
{
    if (listed->n++ < LISTED_MAX)
        listed->length +=
            (size_t)snprintf(listed->text + listed->length, sizeof(listed->text) - listed->length, "%s'%.*s'",
                listed->length > 0 ? ", " : "", shown(text), text);
}

/* The names and endpoints that were sent. */
static void list_all(struct listed *listed, const struct value *sent)
{
    static const char *const keys[] = { "name", "names", "link", "group", "scope", "agent", "endpoint",
        "from", "to", "producers", "consumers", "endpoints" };
    const struct value *item;

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const char *text = value_string(value_get(sent, keys[i]));

        if (text)
            list(listed, text);
        VALUE_FOREACH(item, get_list(sent, keys[i]))
        if (value_string(item))
            list(listed, item->string);
    }
    VALUE_FOREACH(item, get_list(sent, "links"))
    if (item->type == VALUE_OBJECT)
        list_all(listed, item);
}

static int denied(struct evlink_client *client, const char *method, const struct value *sent)
{
    struct listed listed = { .n = 0 };
    char more[32] = "";

    if (strcmp(method, BROKER("GetConfig")) == 0)
        return evl_client_say(
            client, EVLINK_E_PERMISSION_DENIED, "the configuration is shown to root alone: ask as root");
    list_all(&listed, sent);
    if (listed.n > LISTED_MAX)
        (void)snprintf(more, sizeof(more), " and %zu more", listed.n - LISTED_MAX);
    return evl_client_say(client, EVLINK_E_PERMISSION_DENIED,
        "this user has no right to %s%s%s: names and endpoints are for the user who made or attached them, "
        "and root; through a delegated connection, those of its scope alone",
        listed.n > 1 ? "one of " : "", listed.n > 0 ? listed.text : "that", more);
}

static int no_link(struct evlink_client *client, const struct value *sent, const char *name)
{
    if (value_get(sent, "endpoint"))
        return evl_client_say(client, EVLINK_E_NO_SUCH_LINK,
            "the endpoint '%.100s' is in no link: see the list of links", name);
    return evl_client_say(client, EVLINK_E_NO_SUCH_LINK,
        "there is no %s '%.100s', or nothing of that name that this user may use: see the list of links",
        value_get(sent, "group") ? "group" : "link", name);
}

int evl_client_refused(struct evlink_client *client, const struct evl_params *params, const char *error,
    const struct value *parameters)
{
    const bool is_invalid = strcmp(error, "org.varlink.service.InvalidParameter") == 0;
    const bool is_denied = strcmp(error, "org.varlink.service.PermissionDenied") == 0;
    const char *parameter = value_string(value_get(parameters, "parameter"));
    const char *name = value_string(value_get(parameters, "name"));
    CLEANUP(varlink_request_clear) struct varlink_request sent = { .method = "" };

    if (!is_invalid && !is_denied && strcmp(error, BROKER("NoSuchLink")) != 0)
        return 0;
    (void)varlink_request_read(params->out.buffer, strlen(params->out.buffer), &sent);
    if (is_invalid)
        return invalid(client, sent.method, sent.parameters, parameter ? parameter : "?");
    if (is_denied)
        return denied(client, sent.method, sent.parameters);
    return no_link(client, sent.parameters, name ? name : "?");
}
