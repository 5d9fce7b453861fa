/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* NUL-terminated frames and the descriptors that ride with them: see frame.h. */
#include "wire/frame.h"
#include "base/reserve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SPACE_MIN ((size_t)4096)

/* Buffers that grew beyond this are given back when they are empty: an idle connection costs little. */
#define KEEP_MAX ((size_t)16384)

struct frame_mark {
    size_t begin, length; /* offsets into the buffer, the NUL included */
    struct fdset fds;
};

/* What a buffer of that size becomes, for so much to fit in. */
static size_t grown(size_t size, size_t needed)
{
    size_t larger = size > SPACE_MIN ? size : SPACE_MIN;

    if (needed <= size)
        return size;
    while (larger < needed)
        larger *= 2;
    return larger;
}

static int grow(char **buffer, size_t *size, size_t needed)
{
    size_t larger = grown(*size, needed);
    char *moved;

    if (larger == *size)
        return 0;
    moved = reserve_realloc(*buffer, larger);
    if (!moved)
        return -ENOMEM;
    *buffer = moved;
    *size = larger;
    return 0;
}

size_t frame_in_needs(const struct frame_in *in)
{
    return grown(in->size, in->end - in->start + 1);
}

static size_t limit_of(const struct frame_in *in)
{
    return in->limit ? in->limit : FRAME_MAX;
}

bool frame_in_is_too_long(const struct frame_in *in)
{
    return in->end - in->start > limit_of(in);
}

int frame_in_space(struct frame_in *in, char **ret_space, size_t *ret_length)
{
    size_t limit = limit_of(in);
    int r;

    if (in->start > 0 && in->start < in->end) {
        memmove(in->buffer, in->buffer + in->start, in->end - in->start);
        in->scanned -= in->start;
        in->end -= in->start;
        in->start = 0;
    }
    if (in->start == in->end)
        in->start = in->end = in->scanned = 0;
    if (in->end > limit)
        return -EMSGSIZE;
    /* One more than there is doubles the buffer as a long frame grows. */
    r = grow(&in->buffer, &in->size, in->end + 1);
    if (r < 0)
        return r;
    *ret_space = in->buffer + in->end;
    *ret_length = in->size - in->end;
    if (*ret_length > limit + 1 - in->end)
        *ret_length = limit + 1 - in->end;
    return 0;
}

int frame_in_fill(struct frame_in *in, size_t n, struct fdset *fds, int fds_lost)
{
    const char *bytes = in->buffer + in->end;

    if (fds->n > 0 || fds_lost) {
        const char *nul = memchr(bytes, '\0', n);

        if (in->start != in->end || (nul && nul + 1 != bytes + n)) {
            fdset_clear(fds);
            return -EPROTO;
        }
        fdset_clear(&in->fds);
        in->fds = fdset_take(fds);
        in->fds_lost = fds_lost;
    }
    in->end += n;
    return 0;
}

bool frame_in_idle(const struct frame_in *in)
{
    return in->start == in->end;
}

int frame_in_next(struct frame_in *in, struct frame *ret_frame)
{
    char *nul;

    nul = in->scanned < in->end ? memchr(in->buffer + in->scanned, '\0', in->end - in->scanned) : NULL;
    if (!nul) {
        in->scanned = in->end;
        if (in->start == in->end && in->size > KEEP_MAX)
            frame_in_clear(in);
        return 0;
    }
    *ret_frame = (struct frame){
        .text = in->buffer + in->start,
        .length = (size_t)(nul - in->buffer) - in->start,
        .fds = fdset_take(&in->fds),
        .fds_lost = in->fds_lost,
    };
    in->fds_lost = 0;
    in->start = in->scanned = (size_t)(nul - in->buffer) + 1;
    return 1;
}

void frame_in_clear(struct frame_in *in)
{
    fdset_clear(&in->fds);
    free(in->buffer);
    *in = (struct frame_in){ .limit = in->limit };
}

/* Moves what waits to the front. Offsets that callers have are relative to it. */
static void compact(struct frame_out *out)
{
    memmove(out->buffer, out->buffer + out->start, out->end - out->start);
    out->n_marks -= out->first_mark;
    if (out->n_marks > 0)
        memmove(out->marks, out->marks + out->first_mark, out->n_marks * sizeof(*out->marks));
    for (size_t i = 0; i < out->n_marks; i++)
        out->marks[i].begin -= out->start;
    out->end -= out->start;
    out->start = out->first_mark = 0;
}

char *frame_out_room(struct frame_out *out, size_t length)
{
    if (out->start > 0 && out->end + length > out->size)
        compact(out);
    return grow(&out->buffer, &out->size, out->end + length) < 0 ? NULL : out->buffer + out->end;
}

void frame_out_move(struct frame_out *out, char *buffer, size_t size)
{
    if (size <= out->size) {
        free(buffer);
        return;
    }
    if (out->end > 0)
        memcpy(buffer, out->buffer, out->end);
    free(out->buffer);
    out->buffer = buffer;
    out->size = size;
}

int frame_out_add(struct frame_out *out, const void *bytes, size_t length)
{
    char *room;

    /* There may be no buffer yet, which is no want of memory. */
    if (length == 0)
        return 0;
    room = frame_out_room(out, length);
    if (!room)
        return -ENOMEM;
    memcpy(room, bytes, length);
    out->end += length;
    return 0;
}

size_t frame_out_mark(const struct frame_out *out)
{
    return out->end - out->start;
}

int frame_out_finish(struct frame_out *out, size_t begin, struct fdset *fds)
{
    int r = frame_out_add(out, "", 1);

    if (r >= 0 && fds && fds->n > 0) {
        if (out->n_marks == out->marks_size && out->first_mark > 0)
            compact(out);
        if (out->n_marks == out->marks_size) {
            size_t larger = out->marks_size ? out->marks_size * 2 : 4;
            struct frame_mark *moved = reserve_realloc(out->marks, larger * sizeof(*moved));

            if (moved) {
                out->marks = moved;
                out->marks_size = larger;
            } else {
                r = -ENOMEM;
            }
        }
        if (r >= 0)
            out->marks[out->n_marks++] = (struct frame_mark){
                .begin = out->start + begin,
                .length = out->end - out->start - begin,
                .fds = fdset_take(fds),
            };
    }
    if (r < 0) {
        frame_out_cancel(out, begin);
        if (fds)
            fdset_clear(fds);
    }
    return r;
}

void frame_out_cancel(struct frame_out *out, size_t begin)
{
    out->end = out->start + begin;
}

size_t frame_out_peek(const struct frame_out *out, const char **ret_bytes, const struct fdset **ret_fds)
{
    static const struct fdset none;

    *ret_fds = &none;
    if (out->start == out->end) {
        *ret_bytes = ""; /* there may be no buffer */
        return 0;
    }
    *ret_bytes = out->buffer + out->start;
    if (out->first_mark < out->n_marks) {
        const struct frame_mark *mark = &out->marks[out->first_mark];

        if (out->start < mark->begin)
            return mark->begin - out->start;
        *ret_fds = &mark->fds;
        return mark->length;
    }
    return out->end - out->start;
}

void frame_out_sent(struct frame_out *out, size_t n)
{
    if (out->first_mark < out->n_marks && out->start == out->marks[out->first_mark].begin) {
        fdset_clear(&out->marks[out->first_mark].fds);
        /* What is left of the frame is plain bytes now. */
        out->first_mark++;
    }
    out->start += n;
    if (out->start == out->end) {
        if (out->size > KEEP_MAX && !out->keep)
            frame_out_clear(out);
        else
            out->start = out->end = out->first_mark = out->n_marks = 0;
    }
}

size_t frame_out_pending(const struct frame_out *out)
{
    return out->end - out->start;
}

void frame_out_clear(struct frame_out *out)
{
    for (size_t i = out->first_mark; i < out->n_marks; i++)
        fdset_clear(&out->marks[i].fds);
    free(out->marks);
    free(out->buffer);
    *out = (struct frame_out){ 0 };
}
