/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames over a real socket pair (src/wire/socket.c): which frame each descriptor is attributed to, however
 * the kernel cuts and merges what was sent; and that nothing that was lost on the way is leaked or mistaken.
 */
#include "util.h"
#include "wire/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76 /* Linux 6.5 */
#endif

/* Two ends, each with what is queued for it and what it has received. */
struct pair {
    int ours, theirs;
    struct frame_in in;   /* on ours */
    struct frame_out out; /* for theirs to send */
};

static void open_pair(struct pair *pair)
{
    int fds[2];

    *pair = (struct pair){ 0 };
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    pair->ours = fds[0];
    pair->theirs = fds[1];
}

static void close_pair(struct pair *pair)
{
    frame_in_clear(&pair->in);
    frame_out_clear(&pair->out);
    fd_close(pair->ours);
    fd_close(pair->theirs);
}

/* Sends bytes as they are, in one sendmsg(), with n_fds new descriptors. */
static void send_raw(int fd, const char *bytes, size_t n, size_t n_fds, uint64_t *identities)
{
    union {
        char space[CMSG_SPACE(FRAME_MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } control = { .space = { 0 } };
    struct iovec vector = { .iov_base = (char *)bytes, .iov_len = n };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
    int fds[FRAME_MAX_FDS];

    for (size_t i = 0; i < n_fds; i++) {
        fds[i] = fd_make();
        identities[i] = fd_identity(fds[i]);
    }
    if (n_fds > 0) {
        struct cmsghdr *header;

        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(header), fds, n_fds * sizeof(int));
    }
    assert_int_equal(sendmsg(fd, &message, MSG_NOSIGNAL), n);
    for (size_t i = 0; i < n_fds; i++)
        fd_close(fds[i]);
}

/* Queues one frame with n new descriptors, or with none. */
static void queue(struct frame_out *out, const char *text, size_t n_fds, uint64_t *identities)
{
    size_t begin = frame_out_mark(out);
    struct fdset set = FDSET_EMPTY;
    int fds[FRAME_MAX_FDS];

    for (size_t i = 0; i < n_fds; i++) {
        fds[i] = fd_make();
        identities[i] = fd_identity(fds[i]);
    }
    assert_int_equal(fdset_adopt(&set, fds, n_fds), 0);
    assert_int_equal(frame_out_add(out, text, strlen(text)), 0);
    assert_int_equal(frame_out_finish(out, begin, &set), 0);
}

/* The next frame, received as a user of socket.h would; what socket_receive() says where that is not 1. */
static int next(struct pair *pair, struct frame *ret_frame)
{
    while (frame_in_next(&pair->in, ret_frame) == 0) {
        int r = socket_receive(pair->ours, &pair->in);

        if (r != 1)
            return r;
    }
    return 1;
}

static void expect(struct pair *pair, const char *text, size_t n_fds, const uint64_t *identities)
{
    struct frame frame;

    assert_int_equal(next(pair, &frame), 1);
    assert_string_equal(frame.text, text);
    assert_int_equal(frame.length, strlen(text));
    assert_false(frame.fds_lost);
    assert_int_equal(frame.fds.n, n_fds);
    for (size_t i = 0; i < n_fds; i++) {
        assert_int_equal(fd_identity(frame.fds.fds[i]), identities[i]);
        assert_int_equal(fcntl(frame.fds.fds[i], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    }
    fdset_clear(&frame.fds);
}

static void expect_result(struct pair *pair, int result)
{
    struct frame frame;

    assert_int_equal(next(pair, &frame), result);
}

/* ---- Attribution ---- */

static void test_plain(void **state)
{
    struct pair pair;

    (void)state;
    open_pair(&pair);
    expect_result(&pair, -EAGAIN);
    assert_int_equal(socket_send(pair.theirs, &pair.out), 0);
    queue(&pair.out, "one", 0, NULL);
    queue(&pair.out, "", 0, NULL);
    queue(&pair.out, "three", 0, NULL);
    assert_int_equal(socket_send(pair.theirs, &pair.out), 0);
    assert_int_equal(frame_out_pending(&pair.out), 0);
    expect(&pair, "one", 0, NULL);
    expect(&pair, "", 0, NULL);
    expect(&pair, "three", 0, NULL);
    expect_result(&pair, -EAGAIN);
    assert_true(frame_in_idle(&pair.in));
    close_pair(&pair);
}

/* The kernel gives a plain message and a following one with descriptors out in one recvmsg(). */
static void test_merged(void **state)
{
    uint64_t identities[2];
    struct pair pair;

    (void)state;
    open_pair(&pair);
    send_raw(pair.theirs, "plain", 6, 0, NULL);
    send_raw(pair.theirs, "fds", 4, 2, identities);
    expect(&pair, "plain", 0, NULL);
    expect(&pair, "fds", 2, identities);
    expect_result(&pair, -EAGAIN);

    /* several plain ones in front, and one behind */
    send_raw(pair.theirs, "one\0two", 8, 0, NULL);
    send_raw(pair.theirs, "three", 6, 0, NULL);
    send_raw(pair.theirs, "fds", 4, 1, identities);
    send_raw(pair.theirs, "five", 5, 0, NULL);
    expect(&pair, "one", 0, NULL);
    expect(&pair, "two", 0, NULL);
    expect(&pair, "three", 0, NULL);
    expect(&pair, "fds", 1, identities);
    expect(&pair, "five", 0, NULL);
    expect_result(&pair, -EAGAIN);

    /* the end of a frame, and one with descriptors */
    send_raw(pair.theirs, "be", 2, 0, NULL);
    expect_result(&pair, -EAGAIN);
    send_raw(pair.theirs, "gun", 4, 0, NULL);
    send_raw(pair.theirs, "fds", 4, 1, identities);
    expect(&pair, "begun", 0, NULL);
    expect(&pair, "fds", 1, identities);
    expect_result(&pair, -EAGAIN);
    close_pair(&pair);
}

static void test_pipelined(void **state)
{
    enum { FRAMES = 20 };
    uint64_t identities[FRAMES];
    struct pair pair;
    char text[32];

    (void)state;
    open_pair(&pair);
    for (unsigned i = 0; i < FRAMES; i++) {
        (void)snprintf(text, sizeof(text), "frame %u", i);
        queue(&pair.out, text, 1, &identities[i]);
    }
    assert_int_equal(socket_send(pair.theirs, &pair.out), 0);
    for (unsigned i = 0; i < FRAMES; i++) {
        (void)snprintf(text, sizeof(text), "frame %u", i);
        expect(&pair, text, 1, &identities[i]);
    }
    expect_result(&pair, -EAGAIN);
    close_pair(&pair);
}

/* A frame whose first segment has descriptors and no NUL: a peek never sees past that, so it is consumed. */
static void test_first_segment_without_nul(void **state)
{
    uint64_t first[2], second[1];
    struct pair pair;

    (void)state;
    open_pair(&pair);
    send_raw(pair.theirs, "be", 2, 2, first);
    send_raw(pair.theirs, "gun", 4, 0, NULL);
    send_raw(pair.theirs, "plain", 6, 0, NULL);
    send_raw(pair.theirs, "fds", 4, 1, second);
    expect(&pair, "begun", 2, first);
    expect(&pair, "plain", 0, NULL);
    expect(&pair, "fds", 1, second);
    send_raw(pair.theirs, "be", 2, 2, first);
    expect_result(&pair, -EAGAIN);
    send_raw(pair.theirs, "gun", 4, 0, NULL);
    expect(&pair, "begun", 2, first);
    expect_result(&pair, -EAGAIN);
    close_pair(&pair);
}

/* Descriptors with anything but the first byte of a frame are an error, and closed, where that can be told.
 */
static void test_in_the_middle(void **state)
{
    size_t before = fds_count();
    uint64_t identities[3];
    struct pair pair;

    (void)state;
    open_pair(&pair);
    send_raw(pair.theirs, "be", 2, 0, NULL);
    expect_result(&pair, -EAGAIN);
    send_raw(pair.theirs, "gun", 4, 3, identities);
    expect_result(&pair, -EPROTO);
    assert_int_equal(fds_count(), before + 2);
    close_pair(&pair);

    /* Merged by the kernel nobody can tell: then they are that frame's, and never those of one beside it. */
    open_pair(&pair);
    send_raw(pair.theirs, "plain\0be", 8, 0, NULL);
    send_raw(pair.theirs, "gun\0plain", 10, 3, identities);
    expect(&pair, "plain", 0, NULL);
    expect(&pair, "begun", 3, identities);
    expect(&pair, "plain", 0, NULL);
    close_pair(&pair);

    /* the frame has some of its own */
    open_pair(&pair);
    send_raw(pair.theirs, "be", 2, 1, identities);
    send_raw(pair.theirs, "gun", 4, 3, identities);
    expect_result(&pair, -EPROTO);
    close_pair(&pair);
    assert_int_equal(fds_count(), before);

    /* A segment with two frames: the descriptors came with the first one's first byte, so they are its own.
     */
    open_pair(&pair);
    send_raw(pair.theirs, "one\0two", 8, 1, identities);
    expect(&pair, "one", 1, identities);
    expect(&pair, "two", 0, NULL);
    expect_result(&pair, -EAGAIN);
    close_pair(&pair);
}

static void test_253_descriptors(void **state)
{
    uint64_t identities[FRAME_MAX_FDS];
    struct pair pair;

    (void)state;
    open_pair(&pair);
    queue(&pair.out, "plain", 0, NULL);
    queue(&pair.out, "many", FRAME_MAX_FDS, identities);
    queue(&pair.out, "plain", 0, NULL);
    assert_int_equal(socket_send(pair.theirs, &pair.out), 0);
    expect(&pair, "plain", 0, NULL);
    expect(&pair, "many", FRAME_MAX_FDS, identities);
    expect(&pair, "plain", 0, NULL);
    expect_result(&pair, -EAGAIN);
    close_pair(&pair);
}

/* ---- What the socket's other owners may have switched on ---- */

/* Frames with none, one and all descriptors, behind one another. */
static void exchange(struct pair *pair)
{
    uint64_t few[2], many[FRAME_MAX_FDS];

    send_raw(pair->theirs, "plain\0plain", 12, 0, NULL);
    queue(&pair->out, "few", 2, few);
    queue(&pair->out, "plain", 0, NULL);
    queue(&pair->out, "many", FRAME_MAX_FDS, many);
    assert_int_equal(socket_send(pair->theirs, &pair->out), 0);
    send_raw(pair->theirs, "en", 2, 0, NULL);
    send_raw(pair->theirs, "d", 2, 0, NULL);
    expect(pair, "plain", 0, NULL);
    expect(pair, "plain", 0, NULL);
    expect(pair, "few", 2, few);
    expect(pair, "plain", 0, NULL);
    expect(pair, "many", FRAME_MAX_FDS, many);
    expect(pair, "end", 0, NULL);
    expect_result(pair, -EAGAIN);
}

static void test_passcred(void **state)
{
    const int on = 1;
    struct pair pair;

    (void)state;
    open_pair(&pair);
    assert_int_equal(setsockopt(pair.ours, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
    exchange(&pair);
    /* also while something is half there */
    send_raw(pair.theirs, "be", 2, 0, NULL);
    expect_result(&pair, -EAGAIN);
    send_raw(pair.theirs, "gun", 4, 0, NULL);
    expect(&pair, "begun", 0, NULL);
    expect_result(&pair, -EAGAIN);
    close_pair(&pair);
}

/* The kernel makes a pidfd for each message then: it is nobody's, and closed. */
static void test_passpidfd(void **state)
{
    const int on = 1;
    size_t before;
    struct pair pair;

    (void)state;
    open_pair(&pair);
    if (setsockopt(pair.ours, SOL_SOCKET, SO_PASSPIDFD, &on, sizeof(on)) < 0) {
        assert_int_equal(errno, ENOPROTOOPT); /* before Linux 6.5 */
        close_pair(&pair);
        return;
    }
    before = fds_count();
    exchange(&pair);
    assert_int_equal(fds_count(), before);
    assert_int_equal(setsockopt(pair.ours, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
    (void)setsockopt(pair.ours, SOL_SOCKET, SO_PASSSEC, &on, sizeof(on));
    exchange(&pair);
    assert_int_equal(fds_count(), before);
    close_pair(&pair);
}

/* ---- Lost descriptors ---- */

struct lossy {
    struct pair *pair;
    size_t sent, room;
};

static void receive_in_a_full_table(void *userdata)
{
    struct lossy *lossy = userdata;
    struct pair *pair = lossy->pair;
    size_t got = lossy->room < lossy->sent ? lossy->room : lossy->sent;
    struct frame frame;

    limit_fds(lossy->room);
    CHECK(next(pair, &frame) == 1);
    CHECK(strcmp(frame.text, "plain") == 0);
    CHECK(!frame.fds_lost);
    CHECK(frame.fds.n == 0);
    CHECK(next(pair, &frame) == 1);
    CHECK(strcmp(frame.text, "fds") == 0);
    CHECK(frame.fds_lost == (lossy->room < lossy->sent ? -EMFILE : 0));
    CHECK(frame.fds.n == got);
    fdset_clear(&frame.fds);
    /* what follows has nothing to do with it */
    CHECK(next(pair, &frame) == 1);
    CHECK(strcmp(frame.text, "plain") == 0);
    CHECK(!frame.fds_lost);
    CHECK(next(pair, &frame) == -EAGAIN);
    /* and there is as much room as before */
    for (size_t i = 0; i < lossy->room; i++)
        CHECK(fd_dup(0) >= 0);
    CHECK(fd_dup(0) == -EMFILE);
    frame_in_clear(&pair->in);
}

static void test_full_table(void **state)
{
    static const struct {
        size_t sent, room;
    } cases[] = { { 3, 0 }, { 1, 0 }, { 3, 1 }, { 3, 2 }, { 3, 3 }, { FRAME_MAX_FDS, 100 }, { 3, 5 } };

    (void)state;
    if (limits_are_faked()) {
        print_message("SKIP: valgrind keeps RLIMIT_NOFILE to itself\n");
        skip();
    }
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t identities[FRAME_MAX_FDS];
        struct lossy lossy = { .sent = cases[i].sent, .room = cases[i].room };
        struct pair pair;

        open_pair(&pair);
        lossy.pair = &pair;
        queue(&pair.out, "plain", 0, NULL);
        queue(&pair.out, "fds", cases[i].sent, identities);
        queue(&pair.out, "plain", 0, NULL);
        assert_int_equal(socket_send(pair.theirs, &pair.out), 0);
        in_child(receive_in_a_full_table, &lossy);
        close_pair(&pair);
    }
}

/* An unprivileged user may have only so many under way: what does not go out stays queued, descriptors and
 * all. */
static void send_too_many(void *userdata)
{
    const struct rlimit limit = { 64, 64 };
    const uid_t user = 0x40000000 + (uid_t)getpid(); /* it is counted by user, so of our own */
    uint64_t identities[20], others[20];
    struct frame frame;
    struct pair pair;
    size_t sent = 0, pending, fds;
    int r = 0;

    (void)userdata;
    if (geteuid() == 0) {
        CHECK(setgroups(0, NULL) == 0);
        CHECK(setresgid(user, user, user) == 0);
        CHECK(setresuid(user, user, user) == 0);
    }
    open_pair(&pair);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    while (sent < 20) {
        fds = fds_count();
        queue(&pair.out, "fds", 20, sent ? others : identities);
        pending = frame_out_pending(&pair.out);
        r = socket_send(pair.theirs, &pair.out);
        if (r < 0)
            break;
        CHECK(fds_count() == fds);
        sent++;
    }
    CHECK(r == -ETOOMANYREFS);
    CHECK(sent >= 3);
    CHECK(frame_out_pending(&pair.out) == pending);
    CHECK(fds_count() == fds + 20);
    CHECK(next(&pair, &frame) == 1);
    CHECK(frame.fds.n == 20 && !frame.fds_lost);
    CHECK(fd_identity(frame.fds.fds[19]) == identities[19]);
    fdset_clear(&frame.fds);
    CHECK(socket_send(pair.theirs, &pair.out) == 0);
    CHECK(fds_count() == fds);
    for (size_t i = 0; i < sent; i++) {
        CHECK(next(&pair, &frame) == 1);
        CHECK(frame.fds.n == 20 && !frame.fds_lost);
        if (i == sent - 1)
            CHECK(fd_identity(frame.fds.fds[0]) == others[0]);
        fdset_clear(&frame.fds);
    }
    CHECK(next(&pair, &frame) == -EAGAIN);
    close_pair(&pair);
}

static void test_too_many_under_way(void **state)
{
    (void)state;
    if (limits_are_faked()) {
        print_message("SKIP: valgrind keeps RLIMIT_NOFILE to itself\n");
        skip();
    }
    in_child(send_too_many, NULL);
}

/* ---- Pieces ---- */

#define LONG ((size_t)200 * 1024)

static char *long_text(size_t length)
{
    char *text = malloc(length + 1);

    assert_non_null(text);
    for (size_t i = 0; i < length; i++)
        text[i] = (char)('a' + i % 23);
    text[length] = '\0';
    return text;
}

/* More than the socket takes: it goes out as there is room, and its descriptors with the first piece alone.
 */
static void test_long_frame(void **state)
{
    const int size = 8 * 1024;
    char *text = long_text(LONG);
    uint64_t first[3], second[1];
    struct frame frame;
    struct pair pair;
    int full = 0, r;

    (void)state;
    open_pair(&pair);
    assert_int_equal(setsockopt(pair.theirs, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    queue(&pair.out, "plain", 0, NULL);
    queue(&pair.out, text, 3, first);
    queue(&pair.out, "last", 1, second);
    while ((r = socket_send(pair.theirs, &pair.out)) < 0) {
        assert_int_equal(r, -EAGAIN);
        full++;
        if (frame_in_next(&pair.in, &frame) == 1)
            assert_string_equal(frame.text, "plain");
        assert_int_equal(socket_receive(pair.ours, &pair.in), 1);
    }
    assert_true(full > 5);
    expect(&pair, text, 3, first);
    expect(&pair, "last", 1, second);
    expect_result(&pair, -EAGAIN);
    free(text);
    close_pair(&pair);
}

/* The longest frame passes, one that is longer does not, and the reader notices before it has all of it. */
static void test_too_long(void **state)
{
    char *text = long_text(FRAME_MAX + 1);
    uint64_t identity;
    struct frame frame;
    struct pair pair;
    int r;

    (void)state;
    open_pair(&pair);
    queue(&pair.out, text + 1, 1, &identity);
    queue(&pair.out, text, 1, &identity);
    for (int taken = 0;;) {
        r = socket_send(pair.theirs, &pair.out);
        assert_true(r == 0 || r == -EAGAIN);
        r = next(&pair, &frame);
        if (r == -EAGAIN)
            continue;
        if (r == -EMSGSIZE) {
            assert_int_equal(taken, 1);
            break;
        }
        assert_int_equal(r, 1);
        assert_int_equal(taken++, 0);
        assert_int_equal(frame.length, FRAME_MAX);
        assert_int_equal(frame.fds.n, 1);
        fdset_clear(&frame.fds);
    }
    free(text);
    close_pair(&pair);
}

struct sender {
    int fd;
    const char *bytes;
    size_t n;
};

/* A byte at a time, some of them with a pause. */
static void *dribble(void *userdata)
{
    const struct sender *sender = userdata;

    for (size_t i = 0; i < sender->n; i++) {
        if (send(sender->fd, sender->bytes + i, 1, MSG_NOSIGNAL) != 1)
            return NULL;
        if (i % 16 == 0)
            (void)usleep(1000);
    }
    return userdata;
}

/* The receiver is faster than the sender: it never has a whole frame at once, and never waits. */
static void test_slow_sender(void **state)
{
    static const char bytes[] = "a frame that comes byte by byte\0\0another one, which does the same";
    struct sender sender = { .bytes = bytes, .n = sizeof(bytes) };
    static const char *const frames[] = { bytes, "", "another one, which does the same" };
    void *result = NULL;
    pthread_t thread;
    struct pair pair;
    int empty = 0;

    (void)state;
    open_pair(&pair);
    sender.fd = pair.theirs;
    assert_int_equal(pthread_create(&thread, NULL, dribble, &sender), 0);
    for (size_t i = 0; i < 3; i++) {
        struct pollfd readable = { .fd = pair.ours, .events = POLLIN };
        struct frame frame;
        int r;

        while ((r = next(&pair, &frame)) == -EAGAIN) {
            empty++;
            assert_int_equal(poll(&readable, 1, 10000), 1);
        }
        assert_int_equal(r, 1);
        assert_string_equal(frame.text, frames[i]);
        assert_int_equal(frame.fds.n, 0);
    }
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, &sender);
    assert_true(empty > 0);
    expect_result(&pair, -EAGAIN);
    close_pair(&pair);
}

/* The receiver is slower: what does not fit waits in order, with its descriptors. */
static void test_slow_receiver(void **state)
{
    enum { FRAMES = 400 };
    uint64_t *identities = calloc(FRAMES, sizeof(*identities));
    size_t before = fds_count();
    struct pair pair;
    char text[600];

    (void)state;
    assert_non_null(identities);
    open_pair(&pair);
    for (int i = 0; i < FRAMES; i++) {
        (void)snprintf(text, sizeof(text), "%0*d", i % 500 + 1, i);
        queue(&pair.out, text, i % 3 == 0, &identities[i]);
        (void)socket_send(pair.theirs, &pair.out);
    }
    assert_int_equal(socket_send(pair.theirs, &pair.out), -EAGAIN);
    assert_true(frame_out_pending(&pair.out) > 0);
    assert_true(fds_count() > before + 2);
    for (int i = 0; i < FRAMES; i++) {
        int r;

        (void)snprintf(text, sizeof(text), "%0*d", i % 500 + 1, i);
        expect(&pair, text, i % 3 == 0, &identities[i]);
        r = socket_send(pair.theirs, &pair.out);
        assert_true(r == 0 || r == -EAGAIN);
    }
    assert_int_equal(frame_out_pending(&pair.out), 0);
    assert_int_equal(fds_count(), before + 2);
    expect_result(&pair, -EAGAIN);
    free(identities);
    close_pair(&pair);
}

/* ---- Ends ---- */

static void test_end(void **state)
{
    uint64_t identities[2];
    struct pair pair;

    (void)state;
    open_pair(&pair);
    send_raw(pair.theirs, "plain", 6, 0, NULL);
    send_raw(pair.theirs, "fds", 4, 2, identities);
    pair.theirs = fd_close(pair.theirs);
    /* what was sent comes first */
    expect(&pair, "plain", 0, NULL);
    expect(&pair, "fds", 2, identities);
    expect_result(&pair, 0);
    expect_result(&pair, 0);
    assert_true(frame_in_idle(&pair.in));
    /* no SIGPIPE */
    queue(&pair.out, "into the void", 1, identities);
    assert_int_equal(socket_send(pair.ours, &pair.out), -EPIPE);
    close_pair(&pair);

    /* in the middle of a frame: its descriptors go with it */
    open_pair(&pair);
    send_raw(pair.theirs, "be", 2, 2, identities);
    pair.theirs = fd_close(pair.theirs);
    expect_result(&pair, 0);
    assert_false(frame_in_idle(&pair.in));
    close_pair(&pair);

    /* the other end had something unread */
    open_pair(&pair);
    send_raw(pair.ours, "unread", 7, 1, identities);
    send_raw(pair.theirs, "answer", 7, 1, identities);
    pair.theirs = fd_close(pair.theirs);
    expect(&pair, "answer", 1, identities);
    expect_result(&pair, -ECONNRESET);
    expect_result(&pair, 0);
    close_pair(&pair);
}

/* After SHUT_WR the answer still goes out. */
static void test_half_close(void **state)
{
    struct frame_in answers = { 0 };
    uint64_t identity;
    struct frame frame;
    struct pair pair;

    (void)state;
    open_pair(&pair);
    send_raw(pair.theirs, "call", 5, 1, &identity);
    assert_int_equal(shutdown(pair.theirs, SHUT_WR), 0);
    expect(&pair, "call", 1, &identity);
    expect_result(&pair, 0);
    queue(&pair.out, "answer", 1, &identity);
    assert_int_equal(socket_send(pair.ours, &pair.out), 0);
    assert_int_equal(socket_receive(pair.theirs, &answers), 1);
    assert_int_equal(frame_in_next(&answers, &frame), 1);
    assert_string_equal(frame.text, "answer");
    assert_int_equal(frame.fds.n, 1);
    assert_int_equal(fd_identity(frame.fds.fds[0]), identity);
    fdset_clear(&frame.fds);
    frame_in_clear(&answers);
    close_pair(&pair);
}

static void test_errors(void **state)
{
    struct frame_out out = { 0 };
    struct frame_in in = { 0 };
    uint64_t identity;
    int fd = fd_make();

    (void)state;
    queue(&out, "frame", 1, &identity);
    assert_int_equal(socket_receive(fd, &in), -ENOTSOCK);
    assert_int_equal(socket_send(fd, &out), -ENOTSOCK);
    assert_int_equal(frame_out_pending(&out), 6);
    fd_close(fd);
    assert_int_equal(socket_receive(fd, &in), -EBADF);
    assert_int_equal(socket_send(fd, &out), -EBADF);
    frame_out_clear(&out);
    frame_in_clear(&in);
}

/* Neither call waits, although nobody ever said O_NONBLOCK; the parent waits for the child no longer than a
 * minute. */
static void use_a_blocking_socket(void *userdata)
{
    char *text = long_text(LONG);
    struct pair pair;

    (void)userdata;
    open_pair(&pair);
    CHECK((fcntl(pair.ours, F_GETFL) & O_NONBLOCK) == 0);
    CHECK(socket_receive(pair.ours, &pair.in) == -EAGAIN);
    for (int i = 0; i < 10; i++)
        queue(&pair.out, text, 0, NULL);
    CHECK(socket_send(pair.theirs, &pair.out) == -EAGAIN);
    CHECK(frame_out_pending(&pair.out) > 0);
    free(text);
    close_pair(&pair);
}

static void test_never_blocks(void **state)
{
    (void)state;
    in_child(use_a_blocking_socket, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_plain),
        TEST(test_merged),
        TEST(test_pipelined),
        TEST(test_first_segment_without_nul),
        TEST(test_in_the_middle),
        TEST(test_253_descriptors),
        TEST(test_passcred),
        TEST(test_passpidfd),
        TEST(test_full_table),
        TEST(test_too_many_under_way),
        TEST(test_long_frame),
        TEST(test_too_long),
        TEST(test_slow_sender),
        TEST(test_slow_receiver),
        TEST(test_end),
        TEST(test_half_close),
        TEST(test_errors),
        TEST(test_never_blocks),
    };

    return cmocka_run_group_tests_name("socket", tests, NULL, NULL);
}
