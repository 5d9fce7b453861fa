/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The answers that say no. Calls on the model return 0, a negative errno that is fatal for the call
 * (-ENOMEM), or one of these, with what it is about in a struct fault; src/service maps them to Varlink
 * errors in one table.
 */
#ifndef MODEL_FAULT_H
#define MODEL_FAULT_H

#include "endpoint/endpoint.h"

enum fault_code {
    FAULT_NAME_TAKEN = 1, /* subject: name */
    FAULT_NO_SUCH_EVENTFD,
    FAULT_NO_SUCH_LINK,
    FAULT_NO_SUCH_AGENT,
    FAULT_IN_USE,          /* subject: eventfd; other: its link */
    FAULT_SUBSYSTEM_TAKEN, /* subject: name; reason: kind; other: agent */
    FAULT_BAD_ENDPOINT,    /* subject: endpoint as given; reason */
    FAULT_ENDPOINT_BUSY,   /* subject: endpoint; other: link, empty where it may not be told */
    FAULT_NOT_ATTACHED,    /* subject: endpoint */
    FAULT_PLUG_FAILED,     /* subject: endpoint; number: errno; other: the endpoint that has its eventfd */
    FAULT_AGENT_TIMEOUT,   /* subject: endpoint; other: agent */
    FAULT_WRONG_STATE,     /* subject: name; reason: its state */
    FAULT_QUOTA_EXCEEDED,  /* reason: what; number: the limit */
    FAULT_INVALID,         /* reason: the parameter's name */
    FAULT_PERMISSION,
};

struct fault {
    enum fault_code code;
    char subject[ENDPOINT_SIZE];
    char other[ENDPOINT_SIZE];
    const char *reason; /* static */
    int64_t number;
};

void fault_fill(struct fault *fault, enum fault_code code, const char *subject, const char *other,
    const char *reason, int64_t number);

/* Fills *fault in and returns its code. subject, other and reason may be NULL; what is too long is cut. */
static inline int fault_set(struct fault *fault, enum fault_code code, const char *subject, const char *other,
    const char *reason, int64_t number)
{
    fault_fill(fault, code, subject, other, reason, number);
    return (int)code; /* to be seen: it is never 0 */
}

#endif
