/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the broker's errors mean, in codes and in sentences: what was wrong, with what, and what to do about
 * it. The sentences are for people who have no more than them, in a log, say; programs go by the code.
 */
#include "base/cleanup.h"
#include "endpoint/endpoint.h"
#include "lib/client.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define NAME(code, name) [code] = #name

static const char *const names[] = {
    NAME(EVLINK_E_NAME_TAKEN, NameTaken),
    NAME(EVLINK_E_NO_SUCH_EVENTFD, NoSuchEventfd),
    NAME(EVLINK_E_NO_SUCH_LINK, NoSuchLink),
    NAME(EVLINK_E_NO_SUCH_AGENT, NoSuchAgent),
    NAME(EVLINK_E_NOT_AN_EVENTFD, NotAnEventfd),
    NAME(EVLINK_E_BAD_DESCRIPTOR, BadDescriptor),
    NAME(EVLINK_E_IN_USE, InUse),
    NAME(EVLINK_E_SUBSYSTEM_TAKEN, SubsystemTaken),
    NAME(EVLINK_E_BAD_ENDPOINT, BadEndpoint),
    NAME(EVLINK_E_ENDPOINT_BUSY, EndpointBusy),
    NAME(EVLINK_E_NOT_ATTACHED, NotAttached),
    NAME(EVLINK_E_PLUG_FAILED, PlugFailed),
    NAME(EVLINK_E_AGENT_TIMEOUT, AgentTimeout),
    NAME(EVLINK_E_RESTARTED, Restarted),
    NAME(EVLINK_E_WRONG_STATE, WrongState),
    NAME(EVLINK_E_QUOTA_EXCEEDED, QuotaExceeded),
    NAME(EVLINK_E_INVALID_PARAMETER, InvalidParameter),
    NAME(EVLINK_E_PERMISSION_DENIED, PermissionDenied),
    NAME(EVLINK_E_NOT_IMPLEMENTED, NotImplemented),
    NAME(EVLINK_E_OTHER, Other),
};

const char *evlink_code_name(int code)
{
    const char *name = NULL;

    if (code > 0)
        name = (size_t)code < ARRAY_SIZE(names) ? names[code] : "Other";
    else if (code == 0)
        name = "Success";
    else if (code >= -4095)
        name = strerrorname_np(-code);
    return name ? name : "unknown";
}

/*
 * In a sentence, {key} stands for that parameter of the error, and what is in brackets is left out where a
 * parameter in it is absent. {why} is what plug_failed() says. Errors that are in refusal.c are not here.
 */
static const struct answer {
    const char *error;
    enum evlink_code code;
    const char *sentence;
} answers[] = {
    { "io.evlink.Broker.NameTaken", EVLINK_E_NAME_TAKEN,
        "the name '{name}' is taken: choose another, or end what has it first" },
    { "io.evlink.Broker.NoSuchEventfd", EVLINK_E_NO_SUCH_EVENTFD,
        "no eventfd is held under the name '{name}': hold one first, or look for its name in the list of "
        "eventfds" },
    { "io.evlink.Broker.NoSuchAgent", EVLINK_E_NO_SUCH_AGENT,
        "there is no agent '{name}': its process has not attached it, or it is gone again" },
    { "io.evlink.Broker.NotAnEventfd", EVLINK_E_NOT_AN_EVENTFD,
        "descriptor {fileDescriptorIndex} of the call is no eventfd, or did not arrive: send what eventfd(2) "
        "returned" },
    { "io.evlink.Broker.BadDescriptor", EVLINK_E_BAD_DESCRIPTOR,
        "descriptor {fileDescriptorIndex} of the call is not what it has to be: {reason}" },
    { "io.evlink.Broker.InUse", EVLINK_E_IN_USE,
        "the eventfd '{name}' is in use[ by {links}]: end the link with evlink_disconnect() first" },
    { "io.evlink.Broker.SubsystemTaken", EVLINK_E_SUBSYSTEM_TAKEN,
        "the subsystem {kind}/{name} belongs to the agent '{agent}' already: detach that one, choose another "
        "name for the VM, or attach with takeover where this is its successor" },
    { "io.evlink.Broker.BadEndpoint", EVLINK_E_BAD_ENDPOINT,
        "the endpoint '{endpoint}' will not do here: {reason}; see evlink-endpoint(7)" },
    { "io.evlink.Broker.EndpointBusy", EVLINK_E_ENDPOINT_BUSY,
        "the endpoint '{endpoint}' is in use[ by the link '{link}'], or would collide with one that is: "
        "end that link with evlink_disconnect() first" },
    { "io.evlink.Broker.NotAttached", EVLINK_E_NOT_ATTACHED,
        "the end '{endpoint}' is not there: attach the agent that has it (and have it offer its devices), "
        "hold the eventfd, or let the link wait" },
    { "io.evlink.Broker.PlugFailed", EVLINK_E_PLUG_FAILED,
        "plugging into '{endpoint}' failed with {errnoName}: {why}[; it may be plugged into '{holder}' "
        "still]" },
    { "io.evlink.Broker.AgentTimeout", EVLINK_E_AGENT_TIMEOUT,
        "the agent '{agent}', asked to plug or unplug '{endpoint}', did not answer in time: its process is "
        "stopped, or does not serve its agent; the broker cleans up when it answers, then try again" },
    { "io.evlink.Broker.Restarted", EVLINK_E_RESTARTED,
        "the broker restarted before it answered: the lists tell whether the call took effect" },
    { "io.evlink.Broker.WrongState", EVLINK_E_WRONG_STATE,
        "'{name}' is {state}, and the call does not go with that" },
    { "io.evlink.Broker.QuotaExceeded", EVLINK_E_QUOTA_EXCEEDED,
        "no room for more {what}[, the limit is {limit}]: give some back first" },
    { "org.varlink.service.MethodNotFound", EVLINK_E_NOT_IMPLEMENTED,
        "the broker knows no method '{method}': it is older than this program, or the name is wrong" },
    { "org.varlink.service.MethodNotImplemented", EVLINK_E_NOT_IMPLEMENTED,
        "the broker does not implement '{method}'" },
    { "org.varlink.service.InterfaceNotFound", EVLINK_E_NOT_IMPLEMENTED,
        "there is no interface '{interface}' here: it is not evlinkd that listens, or it is older than this "
        "program" },
    { "org.varlink.service.ExpectedMore", EVLINK_E_INVALID_PARAMETER,
        "the method answers with a stream and has to be called with more" },
};

static const struct reason {
    const char *errno_name;
    enum { ANY, IRQFD, IOEVENTFD, VFIO, VHOST } end;
    const char *sentence;
} reasons[] = {
    { "EBUSY", IRQFD,
        "the eventfd is bound to an interrupt already, in this VM or in another: by the VMM's own hand, or "
        "by "
        "an earlier VMM that still lives; have it deassigned there, or use a fresh eventfd" },
    { "EINVAL", IRQFD,
        "the VM has no in-kernel irqchip (a level interrupt needs a full one, a split one will not do), or "
        "the descriptor is no eventfd" },
    { "EINVAL", IOEVENTFD, "KVM takes no such address and length, or the descriptor is no eventfd" },
    { "EEXIST", IOEVENTFD,
        "another ioeventfd is on that address with a length or value that collides: the VMM's own, or an "
        "earlier one that was never unplugged" },
    { "ENOSPC", IOEVENTFD, "the VM's bus takes no more ioeventfds" },
    { "EBUSY", VFIO,
        "the device uses another of INTx, MSI and MSI-X, or has an eventfd there already, by the VMM's own "
        "hand, say: it has one of the three at a time, so unlink the others, or have the VMM disable them, "
        "first" },
    { "ENOENT", VFIO, "the device has no such interrupt" },
    { "ENOSPC", VFIO,
        "there is no room for that vector, on the host or beside those that are in use: unlink the device's "
        "others and link them all anew, or use fewer" },
    { "EINVAL", VFIO,
        "VFIO takes no such interrupt now: the device is suspended, or being reset or removed" },
    { "ENOBUFS", VHOST, "the vhost device has no such ring" },
    { "EBUSY", VHOST, "the ring has an eventfd there already" },
    { "EPERM", VHOST,
        "the agent does not live in the process that called VHOST_SET_OWNER, nobody has called it yet, or "
        "that "
        "process's sandbox forbids the ioctl" },
    { "EIO", ANY,
        "the agent does not live in the process that created the VM, and KVM takes a VM's ioctls from no "
        "other" },
    { "EPERM", ANY,
        "the agent does not live in the process that owns the device, or that process's sandbox forbids the "
        "ioctl" },
    { "ENOTTY", ANY, "what the agent was given as the descriptor of the VM or the device is none" },
    { "ENODEV", ANY, "the agent has no such subsystem, or its VMM no such device" },
    { "ENOENT", ANY, "the agent's VMM knows no such interrupt or doorbell" },
    { "EOPNOTSUPP", ANY,
        "the agent's VMM gave evlink_agent_add_kvm() neither plug() nor a resolve() that would turn it into "
        "a GSI or an address" },
    { "EMFILE", ANY, "the agent's process has no descriptor free: raise its RLIMIT_NOFILE" },
    { "ENFILE", ANY, "the system has no open file free" },
    { "EBADF", ANY, "the eventfd did not reach the agent" },
    { "ENOMEM", ANY, "the agent's process, or the kernel, is out of memory" },
    { "ECONNRESET", ANY, "the agent went away while it was asked: its process died or closed it" },
    { "ECANCELED", ANY, "another end of the link failed first" },
    { NULL, ANY, "that is what the kernel, or the agent's VMM, answered" },
};

/* Why a plug failed: what is known of this errno at this kind of endpoint. */
static const char *plug_failed(const struct value *parameters)
{
    const char *text = value_string(value_get(parameters, "endpoint"));
    const char *name = value_string(value_get(parameters, "errnoName")), *complaint;
    const struct reason *reason = reasons;
    struct endpoint endpoint;
    int end = ANY;

    if (text && endpoint_parse(text, &endpoint, &complaint) == 0)
        switch (endpoint_subsystem(&endpoint)) {
        case SUBSYSTEM_KVM:
            end = endpoint_is_irqfd(&endpoint) ? IRQFD : IOEVENTFD;
            break;
        case SUBSYSTEM_VFIO:
            end = VFIO;
            break;
        case SUBSYSTEM_VHOST:
            end = VHOST;
            break;
        case SUBSYSTEM_NONE:
            break;
        }
    while (reason->errno_name && (!name || strcmp(reason->errno_name, name) != 0 ||
                                     (reason->end != ANY && (int)reason->end != end)))
        reason++;
    return reason->sentence;
}

struct text {
    char bytes[900];
    size_t length;
};

static void add(struct text *text, const char *bytes, size_t n)
{
    size_t room = sizeof(text->bytes) - 1 - text->length;

    n = n < room ? n : room;
    memcpy(text->bytes + text->length, bytes, n);
    text->length += n;
    text->bytes[text->length] = '\0';
}

/* A parameter as people write it; false where there is none. */
static bool add_value(struct text *text, const struct value *value)
{
    const struct value *item;
    char number[32];
    bool first = true;

    if (!value)
        return false;
    switch (value->type) {
    case VALUE_INT:
        (void)snprintf(number, sizeof(number), "%" PRId64, value->integer);
        add(text, number, strlen(number));
        return true;
    case VALUE_STRING:
        add(text, value->string, strlen(value->string));
        return true;
    case VALUE_ARRAY:
        VALUE_FOREACH(item, value)
        {
            if (!first)
                add(text, ", ", 2);
            (void)add_value(text, item);
            first = false;
        }
        return !first;
    default:
        return false;
    }
}

/* Puts the parameters into a sentence, up to end. False where one was absent. */
static bool expand(struct text *text, const char *sentence, const char *end, const struct value *parameters)
{
    bool whole = true;

    while (sentence < end) {
        const char *close;

        if (*sentence == '[') {
            size_t before = text->length;

            close = strchr(sentence, ']');
            if (!expand(text, sentence + 1, close, parameters)) {
                text->length = before;
                text->bytes[before] = '\0';
            }
            sentence = close + 1;
        } else if (*sentence == '{') {
            char key[32];

            close = strchr(sentence, '}');
            (void)snprintf(key, sizeof(key), "%.*s", (int)(close - sentence - 1), sentence + 1);
            if (strcmp(key, "why") == 0)
                add(text, plug_failed(parameters), strlen(plug_failed(parameters)));
            else if (!add_value(text, value_get(parameters, key))) {
                add(text, "?", 1);
                whole = false;
            }
            sentence = close + 1;
        } else {
            add(text, sentence++, 1);
        }
    }
    return whole;
}

int evl_client_error(struct evlink_client *client, const struct evl_params *params, const char *error,
    const struct value *parameters)
{
    struct text text = { .length = 0 };
    int r = evl_client_refused(client, params, error, parameters);

    if (r)
        return r;
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        const struct answer *answer = &answers[i];

        if (strcmp(answer->error, error) != 0)
            continue;
        (void)expand(&text, answer->sentence, answer->sentence + strlen(answer->sentence), parameters);
        return evl_client_say(client, (int)answer->code, "%s", text.bytes);
    }
    return evl_client_say(client, EVLINK_E_OTHER,
        "the broker answered with the error %.200s, which this library does not know", error);
}
