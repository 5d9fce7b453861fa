/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the configuration says, for root. */
#include "base/clock.h"
#include "service/config.h"
#include "service/method.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* One setting as it is in force: the command line's count more than the files'. */
static json_t *show_setting(const struct server *server, const struct setting *setting)
{
    const struct config_place *place = &setting->place;
    char value[32];

    if (server->options.agent_timeout && strcmp(setting->key, "AgentTimeout") == 0) {
        (void)snprintf(
            value, sizeof(value), "%g", (double)server->options.agent_timeout / (double)USEC_PER_SEC);
        return json_pack("{s:s, s:s, s:s}", "section", setting->section, "key", setting->key, "value", value);
    }
    if (!place->file)
        return json_pack(
            "{s:s, s:s, s:s}", "section", setting->section, "key", setting->key, "value", setting->value);
    return json_pack("{s:s, s:s, s:s, s:s, s:i}", "section", setting->section, "key", setting->key, "value",
        setting->value, "file", place->file, "line", place->line);
}

static int get_config(struct connection *connection, const void *parameters)
{
    const struct server *server = connection->server;
    struct fault fault;
    json_t *settings;

    (void)parameters;
    if (connection->peer.uid != 0)
        return method_result(connection, fault_set(&fault, FAULT_PERMISSION, NULL, NULL, NULL, 0), &fault);
    settings = json_array();
    for (size_t i = 0; i < server->config->n_settings; i++)
        if (json_array_append_new(settings, show_setting(server, &server->config->settings[i])) < 0) {
            json_decref(settings);
            return -ENOMEM;
        }
    connection_reply(connection, json_pack("{s:o}", "settings", settings));
    return 0;
}

const struct method config_methods[] = {
    { "GetConfig", get_config, NULL, false },
    { NULL, NULL, NULL, false },
};
