/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames and the descriptors that ride with them, in both directions, and the sets that own descriptors:
 * src/wire/frame.c and src/base/fd.c without any socket.
 */
#include "base/fd.h"
#include "util.h"
#include "wire/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* What frame.c keeps of an empty buffer. */
#define KEPT_MAX 16384

/* Tests of failing allocations ask for more than there is: that is to give NULL here, too. */
const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

/* A set of n new descriptors; identities may be NULL. */
static struct fdset make_set(size_t n, uint64_t *identities)
{
    struct fdset set = FDSET_EMPTY;
    int fds[FRAME_MAX_FDS];

    for (size_t i = 0; i < n; i++) {
        fds[i] = fd_make();
        if (identities)
            identities[i] = fd_identity(fds[i]);
    }
    assert_int_equal(fdset_adopt(&set, fds, n), 0);
    return set;
}

/* Puts n bytes in, in one piece, and these descriptors with the first of them. */
static int put(struct frame_in *in, const char *bytes, size_t n, struct fdset *fds, bool fds_lost)
{
    struct fdset none = FDSET_EMPTY;
    size_t length;
    char *space;
    int r;

    r = frame_in_space(in, &space, &length);
    if (r < 0)
        return r;
    assert_true(length >= n);
    memcpy(space, bytes, n);
    return frame_in_fill(in, n, fds ? fds : &none, fds_lost);
}

/* The same, in as many pieces as the space comes in. */
static int put_all(struct frame_in *in, const char *bytes, size_t n)
{
    while (n > 0) {
        struct fdset none = FDSET_EMPTY;
        size_t length;
        char *space;
        int r;

        r = frame_in_space(in, &space, &length);
        if (r < 0)
            return r;
        assert_true(length > 0);
        length = length < n ? length : n;
        memcpy(space, bytes, length);
        r = frame_in_fill(in, length, &none, false);
        if (r < 0)
            return r;
        bytes += length;
        n -= length;
    }
    return 0;
}

/* The next frame is this text with these descriptors. */
static void expect(struct frame_in *in, const char *text, size_t n_fds, const uint64_t *identities)
{
    struct frame frame;

    assert_int_equal(frame_in_next(in, &frame), 1);
    assert_int_equal(frame.length, strlen(text));
    assert_string_equal(frame.text, text);
    assert_false(frame.fds_lost);
    assert_int_equal(frame.fds.n, n_fds);
    for (size_t i = 0; i < n_fds; i++)
        assert_int_equal(fd_identity(frame.fds.fds[i]), identities[i]);
    fdset_clear(&frame.fds);
}

static void expect_none(struct frame_in *in)
{
    struct frame frame;

    assert_int_equal(frame_in_next(in, &frame), 0);
}

/* ---- Coming in ---- */

static void test_in_whole(void **state)
{
    struct frame_in in = { 0 };

    (void)state;
    assert_true(frame_in_idle(&in));
    expect_none(&in);
    assert_int_equal(put(&in, "one", 4, NULL, false), 0);
    assert_false(frame_in_idle(&in));
    expect(&in, "one", 0, NULL);
    assert_true(frame_in_idle(&in));
    expect_none(&in);
    assert_int_equal(put(&in, "two", 4, NULL, false), 0);
    expect(&in, "two", 0, NULL);
    expect_none(&in);
    frame_in_clear(&in);
    assert_null(in.buffer);
    frame_in_clear(&in);
}

static void test_in_partial(void **state)
{
    static const char text[] = "byte by byte";
    struct frame_in in = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof(text); i++) {
        expect_none(&in);
        assert_int_equal(frame_in_idle(&in), i == 0);
        assert_int_equal(put(&in, text + i, 1, NULL, false), 0);
    }
    expect(&in, text, 0, NULL);
    expect_none(&in);
    assert_true(frame_in_idle(&in));
    frame_in_clear(&in);
}

static void test_in_multiple(void **state)
{
    static const char bytes[] = "one\0two\0\0four\0fi";
    struct frame_in in = { 0 };

    (void)state;
    assert_int_equal(put(&in, bytes, sizeof(bytes) - 1, NULL, false), 0);
    expect(&in, "one", 0, NULL);
    expect(&in, "two", 0, NULL);
    expect(&in, "", 0, NULL);
    expect(&in, "four", 0, NULL);
    expect_none(&in);
    assert_false(frame_in_idle(&in));
    /* What is left moves to the front, and nothing that was looked through gets lost. */
    assert_int_equal(put(&in, "ve\0six", 7, NULL, false), 0);
    assert_int_equal(in.start, 0);
    expect(&in, "five", 0, NULL);
    expect(&in, "six", 0, NULL);
    expect_none(&in);
    frame_in_clear(&in);
}

/* Several frames stay there while more comes in: they are not taken at once. */
static void test_in_untaken(void **state)
{
    struct frame_in in = { 0 };

    (void)state;
    assert_int_equal(put(&in, "one\0two", 8, NULL, false), 0);
    expect(&in, "one", 0, NULL);
    assert_int_equal(put(&in, "three", 6, NULL, false), 0);
    expect(&in, "two", 0, NULL);
    expect(&in, "three", 0, NULL);
    expect_none(&in);
    frame_in_clear(&in);
}

static void test_in_fds(void **state)
{
    struct frame_in in = { 0 };
    uint64_t identities[3];
    struct fdset set;

    (void)state;
    assert_int_equal(put(&in, "plain", 6, NULL, false), 0);
    expect(&in, "plain", 0, NULL);
    expect_none(&in);

    set = make_set(3, identities);
    assert_int_equal(put(&in, "three", 6, &set, false), 0);
    assert_int_equal(set.n, 0);
    assert_null(set.fds);
    expect(&in, "three", 3, identities);
    expect_none(&in);

    /* They come with the first piece, and belong to that frame alone, whatever comes with its end. */
    set = make_set(2, identities);
    assert_int_equal(put(&in, "t", 1, &set, false), 0);
    expect_none(&in);
    assert_int_equal(put(&in, "w", 1, NULL, false), 0);
    expect_none(&in);
    assert_int_equal(put(&in, "o\0none\0ha", 9, NULL, false), 0);
    expect(&in, "two", 2, identities);
    expect(&in, "none", 0, NULL);
    expect_none(&in);
    assert_int_equal(put(&in, "lf", 3, NULL, false), 0);
    expect(&in, "half", 0, NULL);
    expect_none(&in);

    /* One each. */
    for (int i = 0; i < 3; i++) {
        set = make_set(1, identities);
        assert_int_equal(put(&in, "one", 4, &set, false), 0);
        expect(&in, "one", 1, identities);
        expect_none(&in);
    }
    frame_in_clear(&in);
}

/* Where a descriptor's frame is not certain, it is nobody's. */
static void test_in_fds_refused(void **state)
{
    size_t before = fds_count();
    struct frame_in in = { 0 };
    struct fdset set;

    (void)state;
    /* in the middle of a frame */
    assert_int_equal(put(&in, "ha", 2, NULL, false), 0);
    expect_none(&in);
    set = make_set(2, NULL);
    assert_int_equal(put(&in, "lf", 3, &set, false), -EPROTO);
    assert_int_equal(set.n, 0);
    assert_int_equal(fds_count(), before);
    frame_in_clear(&in);

    /* in the middle of a frame that has some already: those go with the rest */
    set = make_set(1, NULL);
    assert_int_equal(put(&in, "ha", 2, &set, false), 0);
    set = make_set(1, NULL);
    assert_int_equal(put(&in, "lf", 3, &set, false), -EPROTO);
    assert_int_equal(fds_count(), before + 1);
    frame_in_clear(&in);
    assert_int_equal(fds_count(), before);

    /* with more than one frame, or with one and a beginning */
    set = make_set(1, NULL);
    assert_int_equal(put(&in, "one\0two", 8, &set, false), -EPROTO);
    assert_int_equal(fds_count(), before);
    set = make_set(1, NULL);
    assert_int_equal(put(&in, "one\0t", 5, &set, false), -EPROTO);
    assert_int_equal(fds_count(), before);

    /* lost ones cannot be attributed either */
    assert_int_equal(put(&in, "one\0t", 5, NULL, true), -EPROTO);
    assert_int_equal(put(&in, "ha", 2, NULL, false), 0);
    assert_int_equal(put(&in, "lf", 3, NULL, true), -EPROTO);
    frame_in_clear(&in);
    assert_int_equal(fds_count(), before);
}

static void test_in_fds_lost(void **state)
{
    struct frame_in in = { 0 };
    struct frame frame;
    struct fdset set;

    (void)state;
    /* all of them */
    assert_int_equal(put(&in, "lost", 5, NULL, true), 0);
    assert_int_equal(frame_in_next(&in, &frame), 1);
    assert_true(frame.fds_lost);
    assert_int_equal(frame.fds.n, 0);
    /* some of them, and the frame in two pieces */
    set = make_set(2, NULL);
    assert_int_equal(put(&in, "lo", 2, &set, true), 0);
    assert_int_equal(put(&in, "st\0next", 8, NULL, false), 0);
    assert_int_equal(frame_in_next(&in, &frame), 1);
    assert_string_equal(frame.text, "lost");
    assert_true(frame.fds_lost);
    assert_int_equal(frame.fds.n, 2);
    fdset_clear(&frame.fds);
    /* the next one has nothing to do with it */
    expect(&in, "next", 0, NULL);
    frame_in_clear(&in);
}

static void test_in_clear_closes(void **state)
{
    size_t before = fds_count();
    struct frame_in in = { 0 };
    struct fdset set = make_set(3, NULL);

    (void)state;
    assert_int_equal(put(&in, "whole, not taken", 17, &set, false), 0);
    assert_int_equal(fds_count(), before + 3);
    frame_in_clear(&in);
    assert_int_equal(fds_count(), before);
    set = make_set(3, NULL);
    assert_int_equal(put(&in, "half", 4, &set, false), 0);
    expect_none(&in);
    frame_in_clear(&in);
    assert_int_equal(fds_count(), before);
}

static void test_in_too_long(void **state)
{
    char *text = malloc(FRAME_MAX + 2);
    struct frame_in in = { 0 };
    struct fdset set;
    struct frame frame;

    (void)state;
    assert_non_null(text);
    memset(text, 'x', FRAME_MAX + 2);

    /* the longest that there may be, and one behind it */
    text[FRAME_MAX] = '\0';
    assert_int_equal(put_all(&in, text, FRAME_MAX + 1), 0);
    assert_int_equal(frame_in_next(&in, &frame), 1);
    assert_int_equal(frame.length, FRAME_MAX);
    assert_memory_equal(frame.text, text, FRAME_MAX + 1);
    expect_none(&in);
    assert_int_equal(put(&in, "short", 6, NULL, false), 0);
    expect(&in, "short", 0, NULL);

    /* one byte too many, behind another frame */
    text[FRAME_MAX] = 'x';
    assert_int_equal(put(&in, "short", 6, NULL, false), 0);
    assert_int_equal(put_all(&in, text, FRAME_MAX - 10), 0);
    expect(&in, "short", 0, NULL);
    expect_none(&in);
    assert_int_equal(put_all(&in, text, 11), 0);
    expect_none(&in);
    assert_int_equal(put(&in, "x", 1, NULL, false), -EMSGSIZE);
    assert_int_equal(put(&in, "x", 1, NULL, false), -EMSGSIZE);
    frame_in_clear(&in);

    /* no more space is given than such a frame may take */
    set = make_set(1, NULL);
    assert_int_equal(put(&in, text, 1, &set, false), 0);
    assert_int_equal(put_all(&in, text, FRAME_MAX), 0);
    expect_none(&in);
    assert_int_equal(put(&in, "", 1, NULL, false), -EMSGSIZE);
    frame_in_clear(&in);
    free(text);
}

/* Who expects longer frames says so once: it holds also when the buffer has been given back. */
static void test_in_limit(void **state)
{
    static const size_t limits[] = { 100, FRAME_MAX + 1, FRAME_REPLY_MAX };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct frame_in in = { .limit = limits[i] };
        char *text = malloc(limits[i] + 1);
        struct frame frame;

        assert_non_null(text);
        memset(text, 'x', limits[i] + 1);
        for (int round = 0; round < 3; round++) {
            text[limits[i]] = '\0';
            assert_int_equal(put_all(&in, text, limits[i] + 1), 0);
            assert_int_equal(frame_in_next(&in, &frame), 1);
            assert_int_equal(frame.length, limits[i]);
            expect_none(&in);
            text[limits[i]] = 'x';
            assert_int_equal(put_all(&in, text, limits[i] + 1), 0);
            expect_none(&in);
            assert_int_equal(put(&in, "x", 1, NULL, false), -EMSGSIZE);
            frame_in_clear(&in);
        }
        free(text);
    }
}

static void test_in_gives_memory_back(void **state)
{
    char *text = malloc(4 * KEPT_MAX);
    struct frame_in in = { 0 };
    struct frame frame;

    (void)state;
    assert_non_null(text);
    memset(text, 'x', 4 * KEPT_MAX);
    text[4 * KEPT_MAX - 1] = '\0';
    assert_int_equal(put_all(&in, text, 4 * KEPT_MAX), 0);
    assert_int_equal(frame_in_next(&in, &frame), 1);
    /* not yet: the frame's text is in there */
    assert_true(in.size >= 4 * KEPT_MAX);
    expect_none(&in);
    assert_int_equal(in.size, 0);
    assert_int_equal(put(&in, "short", 6, NULL, false), 0);
    expect(&in, "short", 0, NULL);
    expect_none(&in);
    assert_in_range(in.size, 6, KEPT_MAX);
    frame_in_clear(&in);
    free(text);
}

/* Frames of random length, with random descriptors, in random pieces. */
static void test_in_random(void **state)
{
    uint64_t seed = random_seed();
    struct frame_in in = { 0 };
    int taken = 0, made = 0;

    (void)state;
    while (made < 2000) {
        size_t length = random_below(&seed, random_below(&seed, 20) ? 100 : 20000);
        size_t n_fds = random_below(&seed, 4), done = 0;
        uint64_t identities[3];
        struct fdset set = make_set(n_fds, identities);
        char *text = malloc(length + 1);
        struct frame frame;

        assert_non_null(text);
        for (size_t i = 0; i < length; i++)
            text[i] = (char)('a' + random_below(&seed, 26));
        text[length] = '\0';
        made++;
        while (done <= length) {
            size_t piece = 1 + random_below(&seed, length + 1 - done), space_length;
            char *space;

            expect_none(&in);
            assert_int_equal(frame_in_space(&in, &space, &space_length), 0);
            piece = piece < space_length ? piece : space_length;
            memcpy(space, text + done, piece);
            assert_int_equal(frame_in_fill(&in, piece, &set, false), 0);
            done += piece;
        }
        assert_int_equal(frame_in_next(&in, &frame), 1);
        taken++;
        assert_int_equal(frame.length, length);
        assert_memory_equal(frame.text, text, length + 1);
        assert_int_equal(frame.fds.n, n_fds);
        for (size_t i = 0; i < n_fds; i++)
            assert_int_equal(fd_identity(frame.fds.fds[i]), identities[i]);
        fdset_clear(&frame.fds);
        free(text);
    }
    assert_int_equal(taken, made);
    expect_none(&in);
    frame_in_clear(&in);
}

/* ---- Going out ---- */

/* Queues one frame. fds: consumed; NULL for none. */
static int queue(struct frame_out *out, const char *text, struct fdset *fds)
{
    size_t begin = frame_out_mark(out);

    assert_int_equal(frame_out_add(out, text, strlen(text)), 0);
    return frame_out_finish(out, begin, fds);
}

static void queue_fds(struct frame_out *out, const char *text, size_t n, uint64_t *identities)
{
    struct fdset set = make_set(n, identities);

    assert_int_equal(queue(out, text, &set), 0);
    assert_int_equal(set.n, 0);
    assert_null(set.fds);
}

/* What may go out next is exactly these bytes with these descriptors. */
static void expect_out(
    const struct frame_out *out, const char *bytes, size_t n, size_t n_fds, const uint64_t *identities)
{
    const struct fdset *fds;
    const char *found;

    assert_int_equal(frame_out_peek(out, &found, &fds), n);
    assert_memory_equal(found, bytes, n);
    assert_int_equal(fds->n, n_fds);
    for (size_t i = 0; i < n_fds; i++)
        assert_int_equal(fd_identity(fds->fds[i]), identities[i]);
}

static void expect_out_empty(const struct frame_out *out)
{
    const struct fdset *fds;
    const char *found;

    assert_int_equal(frame_out_peek(out, &found, &fds), 0);
    assert_int_equal(fds->n, 0);
    assert_int_equal(frame_out_pending(out), 0);
}

static void test_out_plain(void **state)
{
    struct frame_out out = { 0 };
    struct fdset empty = FDSET_EMPTY;

    (void)state;
    expect_out_empty(&out);
    assert_int_equal(queue(&out, "one", NULL), 0);
    assert_int_equal(queue(&out, "", NULL), 0);
    assert_int_equal(queue(&out, "two", &empty), 0);
    assert_int_equal(frame_out_pending(&out), 9);
    /* plain ones go out together, and in pieces as the socket takes them */
    expect_out(&out, "one\0\0two", 9, 0, NULL);
    frame_out_sent(&out, 2);
    expect_out(&out, "e\0\0two", 7, 0, NULL);
    assert_int_equal(queue(&out, "three", NULL), 0);
    frame_out_sent(&out, 7);
    expect_out(&out, "three", 6, 0, NULL);
    frame_out_sent(&out, 6);
    expect_out_empty(&out);
    frame_out_clear(&out);
    expect_out_empty(&out);
}

static void test_out_fds(void **state)
{
    struct frame_out out = { 0 };
    size_t before = fds_count();
    uint64_t first[2], second[1];

    (void)state;
    assert_int_equal(queue(&out, "plain", NULL), 0);
    queue_fds(&out, "two", 2, first);
    queue_fds(&out, "one", 1, second);
    assert_int_equal(queue(&out, "plain", NULL), 0);
    assert_int_equal(fds_count(), before + 3);

    /* never together with another frame, before it or behind it */
    expect_out(&out, "plain", 6, 0, NULL);
    frame_out_sent(&out, 6);
    expect_out(&out, "two", 4, 2, first);
    frame_out_sent(&out, 4);
    assert_int_equal(fds_count(), before + 1);
    expect_out(&out, "one", 4, 1, second);
    frame_out_sent(&out, 4);
    assert_int_equal(fds_count(), before);
    expect_out(&out, "plain", 6, 0, NULL);
    frame_out_sent(&out, 6);
    expect_out_empty(&out);
    frame_out_clear(&out);
}

/* The descriptors go with the first byte, and what is left of the frame is plain. */
static void test_out_partial(void **state)
{
    struct frame_out out = { 0 };
    size_t before = fds_count();
    uint64_t first[2], second[1];

    (void)state;
    assert_int_equal(queue(&out, "plain", NULL), 0);
    queue_fds(&out, "first", 2, first);
    assert_int_equal(queue(&out, "mid", NULL), 0);
    queue_fds(&out, "second", 1, second);
    frame_out_sent(&out, 3);
    expect_out(&out, "in", 3, 0, NULL);
    frame_out_sent(&out, 3);
    expect_out(&out, "first", 6, 2, first);
    frame_out_sent(&out, 1);
    assert_int_equal(fds_count(), before + 1);
    expect_out(&out, "irst\0mid", 9, 0, NULL);
    frame_out_sent(&out, 6);
    expect_out(&out, "id", 3, 0, NULL);
    frame_out_sent(&out, 3);
    expect_out(&out, "second", 7, 1, second);
    frame_out_sent(&out, 7);
    expect_out_empty(&out);
    frame_out_clear(&out);
}

/* Partly drained and full: what waits moves to the front, and the marks with it. */
static void test_out_compacts(void **state)
{
    struct frame_out out = { 0 };
    char text[1000], *long_text, *rest;
    uint64_t first[1], second[2], third[1];
    size_t size;

    (void)state;
    memset(text, 'x', sizeof(text));
    text[999] = '\0';
    assert_int_equal(queue(&out, text, NULL), 0);
    queue_fds(&out, "first", 1, first);
    assert_int_equal(queue(&out, text, NULL), 0);
    queue_fds(&out, "second", 2, second);
    size = out.size;
    assert_true(frame_out_pending(&out) < size);
    /* the plain one is out, and a part of the first one with descriptors */
    frame_out_sent(&out, 1000);
    expect_out(&out, "first", 6, 1, first);
    frame_out_sent(&out, 2);
    assert_int_equal(out.start, 1002);
    /* more than is free behind the rest, less than is free altogether */
    long_text = calloc(1, size - 2000);
    assert_non_null(long_text);
    memset(long_text, 'y', size - 2001);
    assert_int_equal(queue(&out, long_text, NULL), 0);
    assert_int_equal(out.start, 0);
    assert_int_equal(out.size, size);
    queue_fds(&out, "third", 1, third);

    rest = malloc(4 + 1000);
    assert_non_null(rest);
    memcpy(rest, "rst", 4);
    memcpy(rest + 4, text, 1000);
    expect_out(&out, rest, 4 + 1000, 0, NULL);
    frame_out_sent(&out, 4 + 1000);
    expect_out(&out, "second", 7, 2, second);
    frame_out_sent(&out, 7);
    expect_out(&out, long_text, strlen(long_text) + 1, 0, NULL);
    frame_out_sent(&out, strlen(long_text) + 1);
    expect_out(&out, "third", 6, 1, third);
    frame_out_sent(&out, 6);
    expect_out_empty(&out);
    free(long_text);
    free(rest);
    frame_out_clear(&out);
}

/* More marks than there is room for, with the first ones gone and without. */
/* A larger buffer, at whatever point, changes nothing; room in it needs no memory. */
static void test_out_move(void **state)
{
    struct frame_out out = { 0 };
    const size_t size = 3 * 4096;
    uint64_t numbers[1];
    char *buffer;

    (void)state;
    frame_out_move(&out, calloc(1, 64), 64);
    assert_int_equal(out.size, 64);
    assert_int_equal(queue(&out, "plain", NULL), 0);
    queue_fds(&out, "fds", 1, numbers);
    frame_out_sent(&out, 2);
    buffer = malloc(size);
    assert_non_null(buffer);
    frame_out_move(&out, buffer, size);
    assert_ptr_equal(out.buffer, buffer);
    frame_out_move(&out, malloc(size), size); /* no larger */
    assert_ptr_equal(out.buffer, buffer);
    assert_ptr_equal(frame_out_room(&out, size - 64), buffer + out.end);
    assert_ptr_equal(out.buffer, buffer);
    expect_out(&out, "ain", 4, 0, NULL);
    frame_out_sent(&out, 4);
    expect_out(&out, "fds", 4, 1, numbers);
    frame_out_sent(&out, 4);
    expect_out_empty(&out);
    frame_out_clear(&out);
}

static void test_out_many_marks(void **state)
{
    struct frame_out out = { 0 };
    uint64_t identities[40];
    size_t sent = 0, queued = 0, size;

    (void)state;
    while (queued < 4)
        queue_fds(&out, "ab", 1, &identities[queued++]);
    size = out.marks_size;
    /* one goes, one comes: no more room is needed for that */
    for (; queued < 20; queued++, sent++) {
        expect_out(&out, "ab", 3, 1, &identities[sent]);
        frame_out_sent(&out, 3);
        queue_fds(&out, "ab", 1, &identities[queued]);
        assert_int_equal(out.marks_size, size);
    }
    while (queued < 40)
        queue_fds(&out, "ab", 1, &identities[queued++]);
    assert_true(out.marks_size > size);
    for (; sent < queued; sent++) {
        expect_out(&out, "ab", 3, 1, &identities[sent]);
        frame_out_sent(&out, 3);
    }
    expect_out_empty(&out);
    frame_out_clear(&out);
}

static void test_out_cancel(void **state)
{
    struct frame_out out = { 0 };
    uint64_t identity;
    size_t begin;

    (void)state;
    begin = frame_out_mark(&out);
    assert_int_equal(frame_out_add(&out, "nothing", 7), 0);
    frame_out_cancel(&out, begin);
    expect_out_empty(&out);
    queue_fds(&out, "one", 1, &identity);
    assert_int_equal(queue(&out, "two", NULL), 0);
    expect_out(&out, "one", 4, 1, &identity);
    frame_out_sent(&out, 1);
    begin = frame_out_mark(&out);
    /* long enough for the rest to be moved to the front, and for a larger buffer */
    for (int i = 0; i < 2000; i++)
        assert_int_equal(frame_out_add(&out, "nothing", 7), 0);
    frame_out_cancel(&out, begin);
    assert_int_equal(frame_out_pending(&out), 7);
    assert_int_equal(queue(&out, "three", NULL), 0);
    expect_out(&out, "ne\0two\0three", 13, 0, NULL);
    frame_out_clear(&out);
}

static void test_out_clear_closes(void **state)
{
    struct frame_out out = { 0 };
    size_t before = fds_count();

    (void)state;
    for (int i = 0; i < 10; i++)
        queue_fds(&out, "frame", 3, NULL);
    frame_out_sent(&out, 2);
    assert_int_equal(fds_count(), before + 27);
    frame_out_clear(&out);
    assert_int_equal(fds_count(), before);
    expect_out_empty(&out);
}

static void test_out_gives_memory_back(void **state)
{
    char *text = malloc(2 * KEPT_MAX);
    struct frame_out out = { 0 };

    (void)state;
    assert_non_null(text);
    memset(text, 'x', 2 * KEPT_MAX);
    text[2 * KEPT_MAX - 1] = '\0';
    queue_fds(&out, text, 1, NULL);
    assert_true(out.size >= 2 * KEPT_MAX);
    frame_out_sent(&out, 5);
    frame_out_sent(&out, 2 * KEPT_MAX - 5);
    assert_int_equal(out.size, 0);
    assert_null(out.buffer);
    assert_null(out.marks);
    assert_int_equal(queue(&out, "short", NULL), 0);
    frame_out_sent(&out, 6);
    assert_in_range(out.size, 6, KEPT_MAX);
    frame_out_clear(&out);
    /* unless it is to be read */
    out.keep = true;
    queue_fds(&out, text, 1, NULL);
    frame_out_sent(&out, 2 * KEPT_MAX);
    assert_string_equal(out.buffer, text);
    expect_out_empty(&out);
    frame_out_clear(&out);
    assert_null(out.buffer);
    free(text);
}

struct wanted {
    char text[600];
    size_t length, n_fds;
    uint64_t identities[3];
};

/* A queue beside one that is simply an array: frames queued, cancelled and sent in random pieces. */
static void test_out_random(void **state)
{
    enum { FRAMES = 3000 };
    struct wanted *wanted = calloc(FRAMES, sizeof(*wanted));
    uint64_t seed = random_seed();
    struct frame_out out = { 0 };
    size_t queued = 0, first = 0, offset = 0, pending = 0;

    (void)state;
    assert_non_null(wanted);
    while (first < FRAMES) {
        size_t choice = random_below(&seed, 8);

        assert_int_equal(frame_out_pending(&out), pending);
        if (choice == 0) {
            size_t begin = frame_out_mark(&out);

            for (size_t i = random_below(&seed, 4); i > 0; i--)
                assert_int_equal(
                    frame_out_add(&out, wanted[0].text, random_below(&seed, sizeof(wanted[0].text))), 0);
            frame_out_cancel(&out, begin);
        } else if (choice < 4 && queued < FRAMES) {
            struct wanted *frame = &wanted[queued++];
            size_t begin = frame_out_mark(&out);
            struct fdset set;

            frame->length = random_below(&seed, sizeof(frame->text) - 1);
            for (size_t i = 0; i < frame->length; i++)
                frame->text[i] = (char)('a' + random_below(&seed, 26));
            frame->n_fds = random_below(&seed, 2) ? random_below(&seed, 4) : 0;
            set = make_set(frame->n_fds, frame->identities);
            for (size_t i = 0; i < frame->length;) {
                size_t piece = 1 + random_below(&seed, frame->length - i);

                assert_int_equal(frame_out_add(&out, frame->text + i, piece), 0);
                i += piece;
            }
            assert_int_equal(frame_out_finish(&out, begin, &set), 0);
            pending += frame->length + 1;
        } else if (pending > 0) {
            const struct fdset *fds;
            const char *bytes;
            size_t n = frame_out_peek(&out, &bytes, &fds);

            assert_in_range(n, 1, pending);
            if (offset == 0) {
                assert_int_equal(fds->n, wanted[first].n_fds);
                for (size_t i = 0; i < fds->n; i++)
                    assert_int_equal(fd_identity(fds->fds[i]), wanted[first].identities[i]);
            } else {
                assert_int_equal(fds->n, 0);
            }
            if (fds->n > 0)
                assert_int_equal(n, wanted[first].length + 1);
            n = 1 + random_below(&seed, n);
            pending -= n;
            for (size_t i = 0; i < n; i++) {
                /* only where one begins that goes out with others */
                assert_true(i == 0 || offset > 0 || wanted[first].n_fds == 0);
                assert_int_equal(bytes[i], wanted[first].text[offset]);
                if (offset++ == wanted[first].length) {
                    offset = 0;
                    first++;
                }
            }
            frame_out_sent(&out, n);
        }
    }
    expect_out_empty(&out);
    frame_out_clear(&out);
    free(wanted);
}

/* No memory: what was queued before stays as it was. */
static void test_out_no_memory(void **state)
{
    struct frame_out out = { 0 };
    uint64_t identity;
    size_t begin;

    (void)state;
    assert_int_equal(frame_out_add(&out, "", (size_t)1 << 50), -ENOMEM);
    expect_out_empty(&out);
    queue_fds(&out, "one", 1, &identity);
    assert_int_equal(queue(&out, "two", NULL), 0);
    expect_out(&out, "one", 4, 1, &identity);
    frame_out_sent(&out, 2);
    queue_fds(&out, "three", 1, &identity);
    begin = frame_out_mark(&out);
    assert_int_equal(frame_out_add(&out, "begun", 5), 0);
    assert_int_equal(frame_out_add(&out, "", (size_t)1 << 50), -ENOMEM);
    frame_out_cancel(&out, begin);
    expect_out(&out, "e\0two", 6, 0, NULL);
    frame_out_sent(&out, 6);
    expect_out(&out, "three", 6, 1, &identity);
    frame_out_clear(&out);
}

/* No memory for the NUL: the descriptors are closed, and the frame is gone. */
static void finish_without_memory(void *userdata)
{
    const size_t size = (size_t)32 << 20;
    struct frame_out out = { 0 };
    struct fdset set = FDSET_EMPTY;
    struct rlimit limit;
    char *bytes;
    int fd;

    (void)userdata;
    fd = fd_dup(0);
    CHECK(fd >= 0);
    CHECK(fdset_adopt(&set, &fd, 1) == 0);
    bytes = calloc(1, size);
    CHECK(bytes);
    CHECK(frame_out_add(&out, "x", 2) == 0);
    CHECK(frame_out_add(&out, bytes, size - 2) == 0);
    /* it is full: a byte more wants twice the size */
    CHECK(out.size == size && out.end == size);
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    CHECK(setrlimit(RLIMIT_AS, &(struct rlimit){ 0, limit.rlim_max }) == 0);
    CHECK(frame_out_finish(&out, 2, &set) == -ENOMEM);
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    CHECK(set.n == 0 && !set.fds);
    CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
    CHECK(frame_out_pending(&out) == 2);
    CHECK(out.n_marks == 0);
    frame_out_clear(&out);
    free(bytes);
}

static void test_out_finish_no_memory(void **state)
{
    (void)state;
    in_child(finish_without_memory, NULL);
}

/* ---- Sets of descriptors ---- */

static void test_fd(void **state)
{
    int fd = fd_make(), copy, taken;

    (void)state;
    copy = fd_dup(fd);
    assert_true(copy >= 3);
    assert_int_equal(fd_identity(copy), fd_identity(fd));
    assert_int_equal(fcntl(copy, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    errno = ENOTDIR;
    assert_int_equal(fd_close(copy), -1);
    assert_int_equal(fd_close(-1), -1);
    assert_int_equal(errno, ENOTDIR);
    assert_int_equal(fd_dup(copy), -EBADF);
    assert_int_equal(fd_dup(-1), -EBADF);
    taken = TAKE_FD(fd);
    assert_int_equal(fd, -1);
    fd_closep(&taken);
    assert_int_equal(taken, -1);
}

/* What was closed of 0 to 2 is filled with what fails at use; what was open stays what it was. */
static void fill_standard(void *userdata)
{
    (void)userdata;
    for (unsigned closed = 0; closed < 8; closed++) {
        int saved[3], other = fd_make();
        bool failed = false;

        for (int fd = 0; fd < 3; fd++) {
            saved[fd] = fd_dup(fd);
            CHECK(saved[fd] >= 0);
        }
        for (int fd = 0; fd < 3; fd++) {
            (void)dup2(other, fd);
            if (closed & 1u << fd)
                (void)close(fd);
        }
        fd_fill_standard();
        /* Words have to wait: there may be no stderr. */
        for (int fd = 0; fd < 3; fd++) {
            char byte = 'x';

            if (fcntl(fd, F_GETFD) != 0)
                failed = true;
            else if (closed & 1u << fd)
                failed |= (fd == 0 ? read(fd, &byte, 1) : write(fd, &byte, 1)) != -1 || errno != EBADF;
            else
                failed |= fd_identity(fd) != fd_identity(other);
        }
        for (int fd = 0; fd < 3; fd++) {
            (void)dup2(saved[fd], fd);
            fd_close(saved[fd]);
        }
        fd_close(other);
        CHECK(!failed);
    }
}

static void test_fd_fill_standard(void **state)
{
    (void)state;
    in_child(fill_standard, NULL);
}

static void test_fdset(void **state)
{
    size_t before = fds_count();
    uint64_t identities[3];
    struct fdset set = make_set(3, identities), moved;
    int fd;

    (void)state;
    assert_int_equal(fd_identity(fdset_get(&set, 0)), identities[0]);
    assert_int_equal(fd_identity(fdset_get(&set, 2)), identities[2]);
    assert_int_equal(fdset_get(&set, 3), -1);
    assert_int_equal(fdset_get(&set, SIZE_MAX), -1);
    fd = fdset_steal(&set, 1);
    assert_int_equal(fd_identity(fd), identities[1]);
    assert_int_equal(fdset_get(&set, 1), -1);
    assert_int_equal(fdset_steal(&set, 1), -1);
    assert_int_equal(fdset_steal(&set, 3), -1);
    moved = fdset_take(&set);
    assert_int_equal(set.n, 0);
    assert_null(set.fds);
    assert_int_equal(moved.n, 3);
    fdset_clear(&set);
    assert_int_equal(fds_count(), before + 3);
    fdset_clear(&moved);
    assert_int_equal(moved.n, 0);
    /* the stolen one is not the set's any more */
    assert_int_equal(fds_count(), before + 1);
    fd_close(fd);
    assert_int_equal(fdset_adopt(&set, NULL, 0), 0);
    assert_int_equal(fdset_dup(&set, NULL, 0), 0);
    assert_int_equal(set.n, 0);
}

static void test_fdset_dup(void **state)
{
    size_t before = fds_count();
    int fds[3] = { fd_make(), fd_make(), -1 };
    struct fdset set = FDSET_EMPTY;

    (void)state;
    assert_int_equal(fdset_dup(&set, fds, 2), 0);
    assert_int_equal(fds_count(), before + 4);
    for (size_t i = 0; i < 2; i++) {
        assert_int_not_equal(fdset_get(&set, i), fds[i]);
        assert_int_equal(fd_identity(fdset_get(&set, i)), fd_identity(fds[i]));
    }
    fdset_clear(&set);
    /* all or none */
    assert_int_equal(fdset_dup(&set, fds, 3), -EBADF);
    assert_int_equal(set.n, 0);
    assert_null(set.fds);
    assert_int_equal(fds_count(), before + 2);
    assert_int_equal(fdset_dup(&set, fds, (size_t)1 << 50), -ENOMEM);
    assert_int_equal(set.n, 0);
    fd_close(fds[0]);
    fd_close(fds[1]);
}

static void dup_in_a_full_table(void *userdata)
{
    const int fds[] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    size_t before = fds_count();
    struct fdset set = FDSET_EMPTY;

    (void)userdata;
    limit_fds(4);
    CHECK(fdset_dup(&set, fds, 8) == -EMFILE);
    CHECK(set.n == 0 && !set.fds);
    CHECK(fds_count() == before);
    CHECK(fdset_dup(&set, fds, 2) == 0);
    fdset_clear(&set);
    CHECK(fds_count() == before);
}

static void test_fdset_dup_full_table(void **state)
{
    (void)state;
    in_child(dup_in_a_full_table, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_in_whole),
        TEST(test_in_partial),
        TEST(test_in_multiple),
        TEST(test_in_untaken),
        TEST(test_in_fds),
        TEST(test_in_fds_refused),
        TEST(test_in_fds_lost),
        TEST(test_in_clear_closes),
        TEST(test_in_too_long),
        TEST(test_in_limit),
        TEST(test_in_gives_memory_back),
        TEST(test_in_random),
        TEST(test_out_plain),
        TEST(test_out_fds),
        TEST(test_out_partial),
        TEST(test_out_compacts),
        TEST(test_out_move),
        TEST(test_out_many_marks),
        TEST(test_out_cancel),
        TEST(test_out_clear_closes),
        TEST(test_out_gives_memory_back),
        TEST(test_out_random),
        TEST(test_out_no_memory),
        TEST(test_out_finish_no_memory),
        TEST(test_fd),
        TEST(test_fd_fill_standard),
        TEST(test_fdset),
        TEST(test_fdset_dup),
        TEST(test_fdset_dup_full_table),
    };

    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
