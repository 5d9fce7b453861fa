/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The text of the interfaces, compiled in from the .varlink files beside this one, so that what
 * org.varlink.service.GetInterfaceDescription answers is what was built. Nothing here reads their meaning.
 */
#ifndef WIRE_INTERFACE_H
#define WIRE_INTERFACE_H

#include <stddef.h>

struct interface {
    const char *name;        /* as in "io.evlink.Broker" */
    const char *description; /* the file's text, comments and all */
};

/* Made by build-aux/embed.awk; org.varlink.service comes first. */
extern const struct interface interfaces[];
extern const size_t n_interfaces;

/* The text of one interface, NULL where name is none of them. */
const char *interface_description(const char *name);

#endif
