/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process's table of descriptors, whose last places are kept for those that come in messages: of those
 * the kernel drops what finds no place, and says nothing but that it did; and dropping can block as closing
 * can (see discard.h). Nothing else gets a place there: opening, accepting and duplicating fail with EMFILE
 * before.
 */
#ifndef BASE_TABLE_H
#define BASE_TABLE_H

#include <stdbool.h>

/* As many places are kept: two messages' worth; none in a table that is smaller than is fair. */
#define TABLE_KEPT 512
#define TABLE_FAIR 2048

/* Raises the limit to what we may have, less those. -errno; harmless. */
int table_start(void);

/* Whether there is room for a message's descriptors, in the last places at worst. Of a small table it is not
 * known. */
bool table_has_room(void);

/*
 * Opens the last places for messages. They are to be closed before a descriptor is made that stays, by which
 * time several messages may have been received: either is a system call, where it changes anything.
 */
void table_open(void);
void table_close(void);

/* Whether that descriptor got one of them: it cannot stay. */
bool table_is_last(int fd);

#endif
