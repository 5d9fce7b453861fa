/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The methods that evlinkd serves, as a table: name, parameters, handler. A handler gets its parameters
 * decoded and answers through connection.h, at once or when its job is done.
 */
#ifndef SERVICE_METHOD_H
#define SERVICE_METHOD_H

#include "service/connection.h"
#include "wire/fields.h"

struct method {
    const char *name; /* without its interface */
    /* 0: the call was answered or will be; -errno: it cannot be, which closes the connection. */
    int (*handler)(struct connection *connection, const void *parameters);
    const struct field *fields; /* NULL: no parameters */
    bool stream;                /* answers only with `more` */
};

/* Ends with a row without a name. */
extern const struct method held_methods[];
extern const struct method link_methods[];
extern const struct method agent_methods[];
extern const struct method list_methods[];
extern const struct method monitor_methods[];
extern const struct method delegate_methods[];
extern const struct method config_methods[];
extern const struct method service_methods[]; /* org.varlink.service */

/* Whether a glob (NULL: none) is short enough to be tried on each name. */
#define METHOD_MATCH_MAX 256
bool method_match_is_valid(const char *match);

/* The longest reason that a caller may give, in bytes. */
#define METHOD_REASON_MAX 256

/* What decoded parameters take at the most. */
#define PARAMETERS_SIZE 256

/* The handler of Hold: what other handlers are called for comes when a row (row.h) is settled. */
int method_hold(struct connection *connection, const void *parameters);

/* Serves the connection's open call. */
void method_call(struct connection *connection);

/* Answers with org.varlink.service.InvalidParameter(parameter). Returns 0, as all of these, for handlers. */
int method_invalid(struct connection *connection, const char *parameter);

/* Answers with the Varlink error that a fault of the model means. */
int method_fault(struct connection *connection, const struct fault *fault);

/* The same of a full table of descriptors, or what may be under way, for a call that is not open: 0, -errno.
 */
int method_write_full(struct frame_out *out);

/* What a call on the model that returned r means: r < 0 is passed on, r > 0 answered with the fault. */
int method_result(struct connection *connection, int r, const struct fault *fault);

/*
 * For calls that wait for agents: what the model's call returned, and a callback that answers {} or the
 * fault. Other callbacks end with method_job_ended().
 */
int method_job(struct connection *connection, int r, struct job *job, const struct fault *fault);
void method_job_done(void *userdata, int r, const struct fault *fault, struct link *const *links, size_t n);
void method_job_ended(struct connection *connection);

/* Of methods whose only parameter is a name. */
struct name_parameters {
    const char *name;
};
extern const struct field method_name_fields[];

/* The strings of an array, for the caller to free; they live as long as the array. NULL: out of memory. */
const char **method_strings(const struct value *array);

/* The parts that several methods take. life: leaseSeconds goes with lease, and only with it. */
struct life_parameters {
    const char *lifetime;
    struct opt_int lease;
};
/* 1, or 0 where it was answered. */
int method_life(struct connection *connection, const struct life_parameters *parameters, bool of_link,
    struct life_request *ret_life);

/*
 * The descriptor at index: 1 with *ret_fd, stolen from the call; or 0 where the call was answered with
 * BadDescriptor. The other answers for descriptors: what is no eventfd, or none at all, and what is not what
 * it should be.
 */
int method_steal_fd(struct connection *connection, int64_t index, int *ret_fd);
int method_not_an_eventfd(struct connection *connection, int64_t index);
int method_bad_descriptor(struct connection *connection, int64_t index, const char *reason);

#endif
