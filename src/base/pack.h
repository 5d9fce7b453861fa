/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records of tagged fields, for state that outlives this process: written by one version and read by another.
 * A reader passes over tags that it does not know, and takes a field that is not there for zero. A tag, once
 * used, keeps its meaning and its type for ever.
 *
 * A field is a byte of tag, a length (7 bits a byte, the lowest first, the top bit says that more follow) and
 * so many bytes: a number without its leading zero bytes, lowest first; a text; or fields again.
 */
#ifndef BASE_PACK_H
#define BASE_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed is empty. Where memory is out it fails, and stays so. */
struct packer {
    unsigned char *bytes;
    size_t length, size;
    bool failed;
};

void packer_clear(struct packer *packer);

/* The field is left out where the number is 0, or the text NULL. */
void pack_number(struct packer *packer, unsigned char tag, uint64_t number);
void pack_text(struct packer *packer, unsigned char tag, const char *text);

/* What is packed between these two is the field's value: pass on what the first returned. */
size_t pack_begin(struct packer *packer, unsigned char tag);
void pack_end(struct packer *packer, size_t begin);

/* Bytes as they are, in no field. Returns where they are; NULL: out of memory. */
void *pack_bytes(struct packer *packer, const void *bytes, size_t n);

/* What is left to read. */
struct unpacker {
    const unsigned char *at, *end;
};

struct unpacked {
    unsigned char tag;
    const unsigned char *bytes; /* inside what is read */
    size_t length;
};

/* The next field: 1, 0 at the end, or -EBADMSG where what is there is none. */
int unpack_next(struct unpacker *unpacker, struct unpacked *ret_field);

/* The field as a number. -EBADMSG where it is longer than one. */
int unpacked_number(const struct unpacked *field, uint64_t *ret_number);

/* The field as a text, cut where it does not fit: -EBADMSG then, or where there is a NUL in it. */
int unpacked_text(const struct unpacked *field, char *buffer, size_t size);

#endif
