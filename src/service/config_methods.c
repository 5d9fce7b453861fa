/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the configuration says, for root. */
#include "base/clock.h"
#include "service/config.h"
#include "service/method.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* One setting as it is in force: the command line's count more than the files'. */
static void show_setting(struct emit *emit, const struct server *server, const struct setting *setting)
{
    bool overridden = server->options.agent_timeout && strcmp(setting->key, "AgentTimeout") == 0;
    const struct config_place *place = &setting->place;
    char timeout[32];

    (void)snprintf(
        timeout, sizeof(timeout), "%g", (double)server->options.agent_timeout / (double)USEC_PER_SEC);
    emit_open(emit, NULL);
    emit_string(emit, "section", setting->section);
    emit_string(emit, "key", setting->key);
    emit_string(emit, "value", overridden ? timeout : setting->value);
    if (!overridden && place->file) {
        emit_string(emit, "file", place->file);
        emit_int(emit, "line", place->line);
    }
    emit_close(emit);
}

static int get_config(struct connection *connection, const void *parameters)
{
    const struct server *server = connection->server;
    struct fault fault;
    struct emit *emit;

    (void)parameters;
    if (connection->peer.uid != 0 || connection->delegation)
        return method_result(connection, fault_set(&fault, FAULT_PERMISSION, NULL, NULL, NULL, 0), &fault);
    emit = connection_begin(connection);
    emit_open_array(emit, "settings");
    for (size_t i = 0; i < server->config->n_settings; i++)
        show_setting(emit, server, &server->config->settings[i]);
    emit_close_array(emit);
    connection_end(connection);
    return 0;
}

const struct method config_methods[] = {
    { "GetConfig", get_config, NULL, false },
    { NULL, NULL, NULL, false },
};
