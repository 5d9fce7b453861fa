/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one grammar for names and endpoint strings (evlink-endpoint(7)): parse, print, compare. Daemon, library
 * and command line use this one. What a link may be made of is for src/model.
 */
#ifndef ENDPOINT_ENDPOINT_H
#define ENDPOINT_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The longest name, and room for one with its NUL. */
#define NAME_LENGTH_MAX 63
#define NAME_SIZE (NAME_LENGTH_MAX + 1)

/* Room for any endpoint in canonical form, with its NUL. */
#define ENDPOINT_SIZE 192

/* Whether text is a name: [A-Za-z0-9][A-Za-z0-9_.-]{0,62}. NULL is none. */
bool name_is_valid(const char *text);

/* Why it is none, as half a sentence: "is empty", "has a character ...". */
const char *name_complaint(const char *text);

enum subsystem {
    SUBSYSTEM_NONE, /* an eventfd: some process on its far side */
    SUBSYSTEM_KVM,
    SUBSYSTEM_VFIO,
    SUBSYSTEM_VHOST,
};

/* "kvm" for SUBSYSTEM_KVM; NULL for SUBSYSTEM_NONE. */
const char *subsystem_name(enum subsystem subsystem);

/* The reverse; SUBSYSTEM_NONE for anything else. */
enum subsystem subsystem_from_name(const char *name);

enum endpoint_kind {
    ENDPOINT_EVENTFD,
    ENDPOINT_EOI,
    ENDPOINT_GSI,
    ENDPOINT_PIO,
    ENDPOINT_MMIO,
    ENDPOINT_IRQ,
    ENDPOINT_NOTIFY,
    ENDPOINT_INTX,
    ENDPOINT_MSI,
    ENDPOINT_MSIX,
    ENDPOINT_ERR,
    ENDPOINT_REQ,
    ENDPOINT_CALL,
    ENDPOINT_KICK,
    ENDPOINT_VRING_ERR,
};

struct endpoint {
    enum endpoint_kind kind : 8;
    bool level : 1;      /* GSI, IRQ */
    bool datamatch : 1;  /* PIO, MMIO: value counts */
    unsigned length : 8; /* PIO, MMIO: 0 (any), 1, 2, 4, 8 */
    uint64_t number;     /* N or ADDR; 0 where there is none */
    uint64_t value;      /* 0 unless datamatch */
    /* NAME, VM, or the DEVICE of vfio and vhost; behind its NUL the VM's DEVICE for IRQ and NOTIFY, else
     * nothing. */
    char names[2 * NAME_SIZE];
};

static inline const char *endpoint_name(const struct endpoint *endpoint)
{
    return endpoint->names;
}

static inline const char *endpoint_device(const struct endpoint *endpoint)
{
    return endpoint->names + strlen(endpoint->names) + 1;
}

/* The bytes of it that are in use, the first ones: it may be kept in so many, and then be read, but not be
 * assigned. */
size_t endpoint_size(const struct endpoint *endpoint);

/* Copies those. */
void endpoint_copy(struct endpoint *to, const struct endpoint *from);

/* 0, or -EINVAL with *ret_reason half a sentence on what is wrong with the text: static. */
int endpoint_parse(const char *text, struct endpoint *ret_endpoint, const char **ret_reason);

/* The canonical form, which is equal exactly where endpoints are. Returns buffer. */
char *endpoint_format(const struct endpoint *endpoint, char buffer[static ENDPOINT_SIZE]);

/* <0, 0, >0: a total order; 0 for equal ones. */
int endpoint_compare(const struct endpoint *a, const struct endpoint *b);

enum subsystem endpoint_subsystem(const struct endpoint *endpoint);
bool endpoint_is_producer(const struct endpoint *endpoint);
bool endpoint_is_consumer(const struct endpoint *endpoint);

/* An end that is an irqfd in KVM. */
bool endpoint_is_irqfd(const struct endpoint *endpoint);

/* An end that is level-triggered: an interrupt at /level, and INTx of VFIO, which the EOI unmasks. */
bool endpoint_is_level(const struct endpoint *endpoint);

/* Whether an agent has to offer it before it can be plugged. */
bool endpoint_is_offered(const struct endpoint *endpoint);

/*
 * Whether the kernel, or the rule of one link an endpoint, lets not both be plugged at once: equal ones, but
 * for GSIs, which several links may share; one GSI as edge and as level; doorbells on one address of one VM
 * where either takes any length, or both take the same and not two different values [KVM: EEXIST].
 */
bool endpoint_collides(const struct endpoint *a, const struct endpoint *b);

#endif
