/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From a call to its handler, and from what the model says to the contract's errors: see method.h. */
#include "service/method.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/reserve.h"
#include "base/table.h"
#include "service/row.h"
#include "wire/interface.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define BROKER "io.evlink.Broker"
#define SERVICE "org.varlink.service"

/* ---- Errors
 * ------------------------------------------------------------------------------------------------- */

/* A parameter of an error, and what of a fault it tells. */
enum told {
    TOLD_SUBJECT = 1,
    TOLD_OTHER,
    TOLD_OTHER_OR_EMPTY, /* it is no optional one */
    TOLD_OTHERS,         /* as the only one of an array */
    TOLD_REASON,
    TOLD_NUMBER,
    TOLD_ERRNO_NAME,
};

static const struct error {
    const char *name;
    struct {
        const char *key;
        enum told told;
    } parameters[5];
} errors[] = {
    [FAULT_NAME_TAKEN] = { BROKER ".NameTaken", { { "name", TOLD_SUBJECT } } },
    [FAULT_NO_SUCH_EVENTFD] = { BROKER ".NoSuchEventfd", { { "name", TOLD_SUBJECT } } },
    [FAULT_NO_SUCH_LINK] = { BROKER ".NoSuchLink", { { "name", TOLD_SUBJECT } } },
    [FAULT_NO_SUCH_AGENT] = { BROKER ".NoSuchAgent", { { "name", TOLD_SUBJECT } } },
    [FAULT_IN_USE] = { BROKER ".InUse", { { "name", TOLD_SUBJECT }, { "links", TOLD_OTHERS } } },
    [FAULT_SUBSYSTEM_TAKEN] = { BROKER ".SubsystemTaken",
        { { "kind", TOLD_REASON }, { "name", TOLD_SUBJECT }, { "agent", TOLD_OTHER_OR_EMPTY } } },
    [FAULT_BAD_ENDPOINT] = { BROKER ".BadEndpoint",
        { { "endpoint", TOLD_SUBJECT }, { "reason", TOLD_REASON } } },
    [FAULT_ENDPOINT_BUSY] = { BROKER ".EndpointBusy",
        { { "endpoint", TOLD_SUBJECT }, { "link", TOLD_OTHER } } },
    [FAULT_NOT_ATTACHED] = { BROKER ".NotAttached", { { "endpoint", TOLD_SUBJECT } } },
    [FAULT_PLUG_FAILED] = { BROKER ".PlugFailed",
        { { "endpoint", TOLD_SUBJECT }, { "errno", TOLD_NUMBER }, { "errnoName", TOLD_ERRNO_NAME },
            { "holder", TOLD_OTHER } } },
    [FAULT_AGENT_TIMEOUT] = { BROKER ".AgentTimeout",
        { { "agent", TOLD_OTHER_OR_EMPTY }, { "endpoint", TOLD_SUBJECT } } },
    [FAULT_WRONG_STATE] = { BROKER ".WrongState", { { "name", TOLD_SUBJECT }, { "state", TOLD_REASON } } },
    [FAULT_QUOTA_EXCEEDED] = { BROKER ".QuotaExceeded",
        { { "what", TOLD_REASON }, { "limit", TOLD_NUMBER } } },
    [FAULT_INVALID] = { SERVICE ".InvalidParameter", { { "parameter", TOLD_REASON } } },
    [FAULT_PERMISSION] = { SERVICE ".PermissionDenied", { { NULL, 0 } } },
};

static void tell(struct emit *emit, const char *key, const struct fault *fault, enum told told)
{
    const char *name;

    switch (told) {
    case TOLD_SUBJECT:
        emit_string(emit, key, fault->subject);
        break;
    case TOLD_OTHER:
        /* An optional one that is not to be told is left out. */
        emit_string(emit, key, fault->other[0] ? fault->other : NULL);
        break;
    case TOLD_OTHER_OR_EMPTY:
        emit_string(emit, key, fault->other);
        break;
    case TOLD_OTHERS:
        emit_open_array(emit, key);
        emit_string(emit, NULL, fault->other[0] ? fault->other : NULL);
        emit_close_array(emit);
        break;
    case TOLD_REASON:
        emit_string(emit, key, fault->reason);
        break;
    case TOLD_NUMBER:
        emit_int(emit, key, fault->number);
        break;
    case TOLD_ERRNO_NAME:
        name = strerrorname_np((int)fault->number);
        emit_string(emit, key, name ? name : "unknown");
        break;
    }
}

static void tell_all(struct emit *emit, const struct fault *fault)
{
    const struct error *error = &errors[fault->code];

    for (size_t i = 0; i < ARRAY_SIZE(error->parameters) && error->parameters[i].key; i++)
        tell(emit, error->parameters[i].key, fault, error->parameters[i].told);
}

int method_fault(struct connection *connection, const struct fault *fault)
{
    tell_all(connection_begin_error(connection, errors[fault->code].name), fault);
    connection_end(connection);
    return 0;
}

int method_result(struct connection *connection, int r, const struct fault *fault)
{
    return r > 0 ? method_fault(connection, fault) : r;
}

int method_job(struct connection *connection, int r, struct job *job, const struct fault *fault)
{
    if (r)
        return method_result(connection, r, fault);
    /* The job may be done, and the call answered, before the model's call returned. */
    if (connection->call.root) {
        connection->job = job;
        varlink_request_shrink(&connection->call);
    }
    return 0;
}

void method_job_ended(struct connection *connection)
{
    connection->job = NULL;
    connection_resume(connection);
}

void method_job_done(void *userdata, int r, const struct fault *fault, struct link *const *links, size_t n)
{
    struct connection *connection = userdata;

    (void)links;
    (void)n;
    if (method_result(connection, r, fault) < 0)
        connection->failed = true;
    else if (r == 0)
        connection_done(connection);
    method_job_ended(connection);
}

/* Answers with an error that has one parameter. */
static int refuse(struct connection *connection, const char *error, const char *key, const char *value)
{
    emit_string(connection_begin_error(connection, error), key, value);
    connection_end(connection);
    return 0;
}

int method_invalid(struct connection *connection, const char *parameter)
{
    return refuse(connection, SERVICE ".InvalidParameter", "parameter", parameter);
}

int method_bad_descriptor(struct connection *connection, int64_t index, const char *reason)
{
    struct emit *emit = connection_begin_error(connection, BROKER ".BadDescriptor");

    emit_int(emit, "fileDescriptorIndex", index);
    emit_string(emit, "reason", reason);
    connection_end(connection);
    return 0;
}

/* ---- What several methods take
 * ------------------------------------------------------------------------------ */

const struct field method_name_fields[] = {
    { "name", FIELD_STRING, offsetof(struct name_parameters, name), FIELD_REQUIRED },
    FIELDS_END,
};

bool method_match_is_valid(const char *match)
{
    return !match || strlen(match) <= METHOD_MATCH_MAX;
}

int method_life(struct connection *connection, const struct life_parameters *parameters, bool of_link,
    struct life_request *ret_life)
{
    struct life_request life = { .lifetime = LIFETIME_PERSISTENT, .lifeline = &connection->lifeline };
    enum lifetime last = of_link ? LIFETIME_AGENT : LIFETIME_LEASE;

    if (parameters->lifetime) {
        while (strcmp(lifetime_name(life.lifetime), parameters->lifetime) != 0)
            if (++life.lifetime > last)
                return method_invalid(connection, "lifetime");
    }
    if ((life.lifetime == LIFETIME_LEASE) != parameters->lease.set ||
        (parameters->lease.set && parameters->lease.value < 1))
        return method_invalid(connection, "leaseSeconds");
    life.lease = parameters->lease.value;
    *ret_life = life;
    return 1;
}

/* The table of descriptors is full: what the kernel could not deliver is gone, what was asked for cannot be.
 */
static struct fault full_fault(void)
{
    struct fault fault = { .code = FAULT_QUOTA_EXCEEDED, .reason = "descriptors" };
    struct rlimit limit;

    table_close();
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        fault.number = (int64_t)limit.rlim_cur;
    return fault;
}

static int full_table(struct connection *connection)
{
    struct fault fault = full_fault();

    return method_fault(connection, &fault);
}

int method_write_full(struct frame_out *out)
{
    struct fault fault = full_fault();
    struct emit emit;

    varlink_reply_begin(&emit, out, errors[fault.code].name);
    tell_all(&emit, &fault);
    return varlink_reply_end(&emit, false, NULL);
}

int method_not_an_eventfd(struct connection *connection, int64_t index)
{
    if (connection->fds_lost)
        return full_table(connection);
    emit_int(connection_begin_error(connection, BROKER ".NotAnEventfd"), "fileDescriptorIndex", index);
    connection_end(connection);
    return 0;
}

int method_steal_fd(struct connection *connection, int64_t index, int *ret_fd)
{
    int fd = index < 0 ? -1 : fdset_steal(&connection->fds, (size_t)index);

    if (fd < 0 && connection->fds_lost)
        return full_table(connection);
    if (fd < 0)
        return method_bad_descriptor(connection, index, "the message did not carry it");
    *ret_fd = fd;
    return 1;
}

const char **method_strings(const struct value *array)
{
    const char **strings = calloc(value_size(array) + 1, sizeof(*strings)), **to = strings;
    const struct value *item;

    if (strings)
        VALUE_FOREACH(item, array)
    *to++ = item->string;
    return strings;
}

/* ---- org.varlink.service
 * -------------------------------------------------------------------------------------- */

static int get_info(struct connection *connection, const void *parameters)
{
    struct emit *emit = connection_begin(connection);

    (void)parameters;
    emit_string(emit, "vendor", "evlink");
    emit_string(emit, "product", "evlinkd");
    emit_string(emit, "version", PACKAGE_VERSION);
    emit_string(emit, "url", PACKAGE_URL);
    emit_open_array(emit, "interfaces");
    for (size_t i = 0; i < n_interfaces; i++)
        emit_string(emit, NULL, interfaces[i].name);
    emit_close_array(emit);
    connection_end(connection);
    return 0;
}

struct description_parameters {
    const char *interface;
};

static const struct field description_fields[] = {
    { "interface", FIELD_STRING, offsetof(struct description_parameters, interface), FIELD_REQUIRED },
    FIELDS_END,
};

static int no_interface(struct connection *connection, const char *interface)
{
    return refuse(connection, SERVICE ".InterfaceNotFound", "interface", interface);
}

static int get_description(struct connection *connection, const void *parameters)
{
    const struct description_parameters *p = parameters;
    const char *description = interface_description(p->interface);

    if (!description)
        return no_interface(connection, p->interface);
    emit_string(connection_begin(connection), "description", description);
    connection_end(connection);
    return 0;
}

const struct method service_methods[] = {
    { "GetInfo", get_info, NULL, false },
    { "GetInterfaceDescription", get_description, description_fields, false },
    { NULL, NULL, NULL, false },
};

/* ---- From a call to its handler
 * ------------------------------------------------------------------------------- */

static const struct method *find(const char *interface, const char *name)
{
    static const struct method *const broker[] = { held_methods, link_methods, agent_methods, list_methods,
        monitor_methods, delegate_methods, config_methods, NULL };
    static const struct method *const service[] = { service_methods, NULL };
    const struct method *const *tables = strcmp(interface, BROKER) == 0 ? broker : service;

    if (tables == service && strcmp(interface, SERVICE) != 0)
        return NULL;
    for (; *tables; tables++)
        for (const struct method *method = *tables; method->name; method++)
            if (strcmp(method->name, name) == 0)
                return method;
    return NULL;
}

/* A method that is in the interface's text, but not in a table: it is another's to serve, as
 * io.evlink.Agent's are. */
static bool is_described(const char *description, const char *name)
{
    CLEANUP(freep) char *line = NULL;

    if (asprintf(&line, "\nmethod %s(", name) < 0)
        line = NULL;
    return line && strstr(description, line);
}

static int no_method(struct connection *connection, const char *interface, const char *name)
{
    const char *description = interface_description(interface);

    if (!description)
        return no_interface(connection, interface);
    return refuse(connection,
        is_described(description, name) ? SERVICE ".MethodNotImplemented" : SERVICE ".MethodNotFound",
        "method", connection->call.method);
}

static int call(struct connection *connection)
{
    static const struct field nothing[] = { FIELDS_END };
    union {
        char space[PARAMETERS_SIZE];
        max_align_t align;
    } parameters;
    CLEANUP(freep) char *interface = strdup(connection->call.method);
    const struct method *method;
    const char *bad;
    char *name;
    int r;

    if (!interface)
        return -ENOMEM;
    name = strrchr(interface, '.');
    if (!name)
        return no_interface(connection, interface);
    *name++ = '\0';
    method = find(interface, name);
    if (!method || connection->call.upgrade)
        return no_method(connection, interface, name);
    memset(&parameters, 0, sizeof(parameters));
    if (fields_read(connection->call.parameters, method->fields ? method->fields : nothing, FIELDS_STRICT,
            &parameters, &bad) < 0)
        return method_invalid(connection, bad);
    if (method->stream && !connection->call.more) {
        (void)connection_begin_error(connection, SERVICE ".ExpectedMore");
        connection_end(connection);
        return 0;
    }
    if (method->handler != method_hold) {
        table_close();
        row_settle(connection->server->row);
    }
    r = method->handler(connection, &parameters);
    /* While the call waits, it takes up no more than it has to. */
    fdset_clear(&connection->fds);
    return r;
}

void method_call(struct connection *connection)
{
    /* What it changes is going to be told. */
    int r = reserve_fill();

    if (r >= 0)
        r = call(connection);
    if (r >= 0)
        return;
    log_error("cannot serve %s: %s", connection->call.method, strerror(-r));
    if ((r == -EMFILE || r == -ENFILE || r == -ENOBUFS || r == -ETOOMANYREFS) && connection->call.root)
        r = full_table(connection);
    if (r < 0)
        connection->failed = true;
}
