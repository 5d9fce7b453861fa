/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Records of tagged fields: see pack.h. */
#include "base/pack.h"
#include "base/reserve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void packer_clear(struct packer *packer)
{
    free(packer->bytes);
    *packer = (struct packer){ .bytes = NULL };
}

void *pack_bytes(struct packer *packer, const void *bytes, size_t n)
{
    unsigned char *place;

    if (packer->length + n > packer->size && !packer->failed) {
        size_t size = 2 * (packer->length + n) + 256;
        unsigned char *larger = reserve_realloc(packer->bytes, size);

        if (larger) {
            packer->bytes = larger;
            packer->size = size;
        } else {
            packer->failed = true;
        }
    }
    if (packer->failed)
        return NULL;
    place = packer->bytes + packer->length;
    if (n > 0)
        memcpy(place, bytes, n);
    packer->length += n;
    return place;
}

static void pack_field(struct packer *packer, unsigned char tag, const void *bytes, size_t n)
{
    unsigned char head[1 + 10] = { tag };
    size_t length = 1;

    for (size_t rest = n; length == 1 || rest > 0; rest >>= 7)
        head[length++] = (unsigned char)((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    (void)pack_bytes(packer, head, length);
    (void)pack_bytes(packer, bytes, n);
}

void pack_number(struct packer *packer, unsigned char tag, uint64_t number)
{
    unsigned char field[2 + 8] = { tag };
    unsigned char n = 0;

    for (; number > 0; number >>= 8)
        field[2 + n++] = (unsigned char)number;
    field[1] = n;
    if (n > 0)
        (void)pack_bytes(packer, field, 2 + (size_t)n);
}

void pack_text(struct packer *packer, unsigned char tag, const char *text)
{
    if (text)
        pack_field(packer, tag, text, strlen(text));
}

/* The length of what is nested takes four bytes, whatever it is. */
#define NESTED_LENGTH 4

size_t pack_begin(struct packer *packer, unsigned char tag)
{
    static const unsigned char unknown[NESTED_LENGTH];

    (void)pack_bytes(packer, &tag, 1);
    (void)pack_bytes(packer, unknown, sizeof(unknown));
    return packer->length;
}

void pack_end(struct packer *packer, size_t begin)
{
    size_t length = packer->length - begin;

    if (packer->failed)
        return;
    if (length >> (7 * NESTED_LENGTH)) {
        packer->failed = true;
        return;
    }
    for (size_t i = 0; i < NESTED_LENGTH; i++, length >>= 7)
        packer->bytes[begin - NESTED_LENGTH + i] =
            (unsigned char)((length & 0x7f) | (i < NESTED_LENGTH - 1 ? 0x80 : 0));
}

int unpack_next(struct unpacker *unpacker, struct unpacked *ret_field)
{
    const unsigned char *at = unpacker->at, *end = unpacker->end;
    struct unpacked field = { .length = 0 };
    unsigned shift = 0;

    if (at == end)
        return 0;
    field.tag = *at++;
    do {
        if (at == end || shift > 28)
            return -EBADMSG;
        field.length |= (size_t)(*at & 0x7f) << shift;
        shift += 7;
    } while (*at++ & 0x80);
    if (field.length > (size_t)(end - at))
        return -EBADMSG;
    field.bytes = at;
    unpacker->at = at + field.length;
    *ret_field = field;
    return 1;
}

int unpacked_number(const struct unpacked *field, uint64_t *ret_number)
{
    uint64_t number = 0;

    if (field->length > sizeof(number))
        return -EBADMSG;
    for (size_t i = 0; i < field->length; i++)
        number |= (uint64_t)field->bytes[i] << (8 * i);
    *ret_number = number;
    return 0;
}

int unpacked_text(const struct unpacked *field, char *buffer, size_t size)
{
    if (field->length >= size || memchr(field->bytes, '\0', field->length))
        return -EBADMSG;
    memcpy(buffer, field->bytes, field->length);
    buffer[field->length] = '\0';
    return 0;
}
