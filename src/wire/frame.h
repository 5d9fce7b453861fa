/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NUL-terminated frames and the descriptors that ride with them. No I/O: bytes and descriptors go in and
 * frames come out, or the other way round, so that daemon, library, tests and fuzzers share this.
 *
 * What it keeps true: a descriptor belongs to the one frame whose first bytes it came with; nothing that came
 * in is leaked, whatever is left half read.
 */
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include "base/fd.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * The longest frame that is taken without being told otherwise, without its NUL, and the longest that is
 * made: the answer to a call of the one length fits in the other.
 */
#define FRAME_MAX ((size_t)256 * 1024)
#define FRAME_REPLY_MAX ((size_t)4 * 1024 * 1024)

/* The kernel's SCM_MAX_FD. */
#define FRAME_MAX_FDS 253

/* Frames that come in. Zeroed is empty, and takes up to FRAME_MAX. */
struct frame_in {
    size_t limit; /* 0: FRAME_MAX */
    char *buffer;
    size_t size;       /* allocated */
    size_t start, end; /* what is not taken yet */
    size_t scanned;    /* no NUL between start and here */
    struct fdset fds;  /* those of the frame that starts at start */
    int fds_lost;      /* why some of them could not be delivered; 0 */
};

struct frame {
    char *text; /* NUL-terminated, inside the frame_in: valid until its next call */
    size_t length;
    struct fdset fds; /* the taker's */
    int fds_lost;     /* -EMFILE, -ENOMEM: some of them could not be delivered; 0 */
};

/* Where the next bytes may be put, at least one: *ret_space. -EMSGSIZE for a frame that is too long, -ENOMEM.
 */
int frame_in_space(struct frame_in *in, char **ret_space, size_t *ret_length);

/* The size that the buffer has after that. */
size_t frame_in_needs(const struct frame_in *in);

/*
 * n bytes were put there, and these descriptors came with the first of them, but for those that were lost
 * (-errno: why; 0: none): the set is consumed. -EPROTO,
 * with the set closed, where the bytes do not begin a frame or hold more than one: descriptors would be
 * attributed by guess.
 */
int frame_in_fill(struct frame_in *in, size_t n, struct fdset *fds, int fds_lost);

/* Whether more is there of a frame than it may have: frame_in_space() says so. */
bool frame_in_is_too_long(const struct frame_in *in);

/* Whether no frame is half there. */
bool frame_in_idle(const struct frame_in *in);

/* Takes the next whole frame: 1, or 0 where there is none yet. */
int frame_in_next(struct frame_in *in, struct frame *ret_frame);

void frame_in_clear(struct frame_in *in);

/* Frames that go out. Zeroed is empty. */
struct frame_mark;

struct frame_out {
    char *buffer;
    size_t size;
    size_t start, end;
    struct frame_mark *marks; /* the frames that carry descriptors, in order */
    size_t first_mark, n_marks, marks_size;
    bool keep; /* what went out stays in buffer, to be read, until something is added */
};

/* Adds length bytes, to be made a frame by frame_out_finish(), or to be dropped by frame_out_cancel().
 * -ENOMEM. */
int frame_out_add(struct frame_out *out, const void *bytes, size_t length);

/* Room for length bytes behind those that are there; who writes some of them moves out->end. NULL: no memory.
 */
char *frame_out_room(struct frame_out *out, size_t length);

/* Puts what is there into that buffer, of so many bytes, if it is larger: consumed. */
void frame_out_move(struct frame_out *out, char *buffer, size_t size);

/* The bytes since `begin` (an earlier frame_out_mark()) are a frame, with these descriptors: consumed.
 * -ENOMEM. */
int frame_out_finish(struct frame_out *out, size_t begin, struct fdset *fds);

size_t frame_out_mark(const struct frame_out *out);
void frame_out_cancel(struct frame_out *out, size_t begin);

/*
 * What may go out in one sendmsg(): bytes, and the descriptors (borrowed; fds->n is 0 for none) that must go
 * with the first of them. A frame that carries descriptors is never sent with another. Returns the length, 0
 * for nothing.
 */
size_t frame_out_peek(const struct frame_out *out, const char **ret_bytes, const struct fdset **ret_fds);

/* n of those bytes went out, and the descriptors with them: these are closed. */
void frame_out_sent(struct frame_out *out, size_t n);

/* How many bytes wait, and in how many frames with descriptors. */
size_t frame_out_pending(const struct frame_out *out);

void frame_out_clear(struct frame_out *out);

#endif
