/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The frames of a delegated connection: see line.h.
 *
 * Layout of the memfd, in this machine's byte order: a page with how far each direction is, then the call,
 * then the frame on its way out. Whoever changes it raises LINE_VERSION, and reads older ones still.
 */
#include "service/line.h"
#include "base/cleanup.h"
#include "base/crash.h"
#include "base/fd.h"
#include "base/table.h"
#include "wire/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define LINE_VERSION 1

/* How much went through: base, and what the system call that is told of in message has made of it. */
struct progress {
    uint64_t base;
    uint64_t length; /* of the frame that goes out */
    uint64_t last;   /* 1: it is the call's last answer */
    struct mmsghdr message;
};

/* Of the two the current one counts; the other is filled in first, and the change is one store. */
struct direction {
    uint64_t current;
    struct progress progress[2];
};

struct page {
    char magic[8];
    uint64_t version;
    struct direction in, out;
};

static const char magic[8] = "evlinkl";

#define PAGE ((size_t)4096)
#define IN_SIZE (FRAME_MAX + PAGE)
#define OUT_SIZE (FRAME_REPLY_MAX + PAGE)
#define SIZE (PAGE + IN_SIZE + OUT_SIZE)
_Static_assert(sizeof(struct page) <= PAGE, "the page has grown");

/* Memory is taken in such pieces, of which each direction may keep one; the rest is given back after a call.
 */
#define PIECE ((size_t)16 * 1024)

struct line {
    int fd;
    struct page *page;
    char *in, *out;
    size_t in_backed, out_backed;
    struct fdset fds; /* that came with the call */
    bool fds_lost;
    bool taken;
    bool interrupted;
};

static struct progress *now(struct direction *direction)
{
    return &direction->progress[direction->current & 1];
}

static size_t done(struct direction *direction)
{
    const struct progress *progress = now(direction);

    return progress->base + progress->message.msg_len;
}

/* The next progress is this. Nothing has gone through of it yet. */
static void change(struct direction *direction, size_t base, size_t length, bool last)
{
    uint64_t next = !direction->current;

    direction->progress[next] = (struct progress){ .base = base, .length = length, .last = last };
    __atomic_store_n(&direction->current, next, __ATOMIC_RELEASE);
}

/* ---- Memory -----------------------------------------------------------------------------------------------
 */

/* How much is backed of an area once so much of it is. */
static size_t grown(size_t backed, size_t up_to)
{
    return up_to <= backed ? backed : backed + (up_to - backed + PIECE - 1) / PIECE * PIECE;
}

/* An unbacked page is SIGBUS where memory is out. */
static int back(struct line *line, const char *area, size_t *backed, size_t up_to)
{
    size_t more = grown(*backed, up_to) - *backed;

    int r;

    if (more == 0)
        return 0;
    do
        r = fallocate(line->fd, 0, area - (char *)line->page + (off_t)*backed, (off_t)more);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -errno;
    *backed += more;
    return 0;
}

/* Of an area of so many bytes only what is used stays. */
static void trim(struct line *line, const char *area, size_t size, size_t *backed, size_t used)
{
    *backed = (used + PAGE - 1) / PAGE * PAGE;
    (void)fallocate(line->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        area - (char *)line->page + (off_t)*backed, (off_t)(size - *backed));
}

static void shrink(struct line *line, const char *area, size_t *backed)
{
    if (*backed > PIECE)
        trim(line, area, *backed, backed, 0);
}

static size_t beyond_piece(size_t backed)
{
    return backed > PIECE ? backed : 0;
}

size_t line_bytes(const struct line *line)
{
    return beyond_piece(line->in_backed) + beyond_piece(line->out_backed);
}

/* How much is looked at in one receive, behind what has come. */
static size_t room_behind(size_t begin)
{
    size_t room = FRAME_MAX + 1 - begin;

    return room < PIECE ? room : PIECE;
}

size_t line_needs(const struct line *line)
{
    size_t begin = done(&line->page->in);

    return begin > FRAME_MAX ? line_bytes(line)
                             : beyond_piece(grown(line->in_backed, begin + room_behind(begin))) +
                                   beyond_piece(line->out_backed);
}

/* ---- In and out -------------------------------------------------------------------------------------------
 */

bool line_is_busy(const struct line *line)
{
    return line->taken;
}

size_t line_n_fds(const struct line *line)
{
    return line->fds.n;
}

/*
 * How much of what has come belongs to the call: up to its NUL. 0: the end of the stream; -errno.
 * *ret_has_fds: it is a peek without room for them that tells (see wire/socket.c).
 */
static ssize_t look(struct line *line, int socket, char *space, size_t room, bool *ret_has_fds)
{
    struct iovec vector = { .iov_base = space, .iov_len = room };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
    const char *nul;
    ssize_t n;
    int r;

    r = back(line, line->in, &line->in_backed, (size_t)(space - line->in) + room);
    if (r < 0)
        return r;
    do
        n = recvmsg(socket, &message, MSG_PEEK | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n < 0 ? -errno : 0;
    *ret_has_fds = message.msg_flags & MSG_CTRUNC;
    nul = memchr(space, '\0', (size_t)n);
    return nul ? nul + 1 - space : n;
}

bool line_is_too_long(const struct line *line)
{
    return !line->taken && done(&line->page->in) > FRAME_MAX;
}

int line_receive(struct line *line, int socket, int (*admit)(void *userdata), void *userdata)
{
    struct direction *in = &line->page->in;
    size_t begin = done(in);
    char *space = line->in + begin;
    struct fdset fds = FDSET_EMPTY;
    union socket_control control;
    struct mmsghdr *message;
    struct iovec vector;
    bool has_fds = false;
    ssize_t n;
    int r;

    if (line->taken)
        return -EBUSY;
    if (begin > FRAME_MAX)
        return -EMSGSIZE;
    n = look(line, socket, space, room_behind(begin), &has_fds);
    r = n > 0 && has_fds ? admit(userdata) : 0;
    if (n <= 0 || r < 0)
        return r < 0 ? r : (int)n;
    vector = (struct iovec){ .iov_base = space, .iov_len = (size_t)n };
    change(in, begin, 0, false);
    message = &now(in)->message;
    message->msg_hdr = (struct msghdr){
        .msg_iov = &vector,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof(control.space),
    };
    crash_point("line: before a call is taken");
    do
        r = recvmmsg(socket, message, 1, MSG_DONTWAIT | MSG_CMSG_CLOEXEC, NULL);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -errno;
    crash_point("line: after a call was taken");
    r = socket_adopt(&message->msg_hdr, &fds);
    if (r == 0 && begin > 0 && (fds.n > 0 || message->msg_hdr.msg_flags & MSG_CTRUNC))
        r = -EPROTO; /* in the middle of a frame */
    if (r < 0) {
        fdset_clear(&fds);
        return r;
    }
    if (begin == 0) {
        line->fds = fdset_take(&fds);
        line->fds_lost = message->msg_hdr.msg_flags & MSG_CTRUNC;
        /* The last places are only lent. */
        for (size_t i = 0; i < line->fds.n; i++)
            line->fds_lost |= table_is_last(line->fds.fds[i]);
        if (line->fds_lost)
            fdset_clear(&line->fds);
    }
    return message->msg_len > 0;
}

int line_next(struct line *line, struct frame *ret_frame, bool *ret_interrupted)
{
    size_t n = done(&line->page->in);

    if (line->taken || n == 0 || line->in[n - 1] != '\0')
        return 0;
    *ret_frame = (struct frame){
        .text = line->in,
        .length = n - 1,
        .fds = fdset_take(&line->fds),
        .fds_lost = line->fds_lost,
    };
    *ret_interrupted = line->interrupted;
    line->taken = true;
    return 1;
}

/* Makes the first frame of out the one that is on its way, unless it is. */
static int begin_frame(struct line *line, const struct frame_out *out, const char *bytes, bool ended)
{
    struct direction *direction = &line->page->out;
    struct progress *progress = now(direction);
    size_t n = done(direction);
    int r;

    if (n < progress->length) {
        change(direction, n, progress->length, progress->last);
        return 0;
    }
    n = strlen(bytes) + 1;
    r = back(line, line->out, &line->out_backed, n);
    if (r < 0)
        return r;
    memcpy(line->out, bytes, n);
    change(direction, 0, n, ended && n == frame_out_pending(out));
    return 0;
}

int line_send(struct line *line, int socket, struct frame_out *out, bool ended)
{
    struct direction *direction = &line->page->out;
    union socket_control control;
    const struct fdset *fds;
    const char *bytes;
    int r;

    while (frame_out_peek(out, &bytes, &fds) > 0) {
        struct iovec vector;
        struct progress *progress;

        r = begin_frame(line, out, bytes, ended);
        if (r < 0)
            return r;
        progress = now(direction);
        vector = (struct iovec){ .iov_base = (char *)bytes, .iov_len = progress->length - progress->base };
        progress->message.msg_hdr = (struct msghdr){ .msg_iov = &vector, .msg_iovlen = 1 };
        socket_attach(&progress->message.msg_hdr, fds, &control);
        crash_point("line: before an answer is sent");
        do
            r = sendmmsg(socket, &progress->message, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (r < 0 && errno == EINTR);
        if (r < 0)
            return -errno;
        crash_point("line: after an answer was sent");
        frame_out_sent(out, progress->message.msg_len);
    }
    return 0;
}

void line_end_call(struct line *line)
{
    change(&line->page->in, 0, 0, false);
    crash_point("line: a call is forgotten");
    change(&line->page->out, 0, 0, false);
    line->taken = line->interrupted = false;
    fdset_clear(&line->fds);
    shrink(line, line->in, &line->in_backed);
    shrink(line, line->out, &line->out_backed);
}

/* ---- Beginning and end ------------------------------------------------------------------------------------
 */

static int map(int fd, struct line **ret_line)
{
    struct line *line = calloc(1, sizeof(*line));
    char *bytes;

    if (!line)
        return -ENOMEM;
    bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (bytes == MAP_FAILED) {
        free(line);
        return -errno;
    }
    line->fd = fd;
    line->page = (struct page *)bytes;
    line->in = bytes + PAGE;
    line->out = bytes + PAGE + IN_SIZE;
    /* The kernel's notes must not meet a page that is not there. */
    (void)mlock(line->page, PAGE);
    *ret_line = line;
    return 0;
}

int line_new(struct line **ret_line)
{
    CLEANUP(fd_closep) int fd = memfd_create("evlinkd-line", MFD_CLOEXEC);
    int r;

    if (fd < 0 || ftruncate(fd, (off_t)SIZE) < 0 || fallocate(fd, 0, 0, (off_t)PAGE) < 0)
        return -errno;
    r = map(fd, ret_line);
    if (r < 0)
        return r;
    (void)TAKE_FD(fd);
    memcpy((*ret_line)->page->magic, magic, sizeof(magic));
    (*ret_line)->page->version = LINE_VERSION;
    return 0;
}

/* Goes on from where the process before was, whatever that was. */
static int recover(struct line *line, struct frame_out *out)
{
    struct direction *direction = &line->page->out;
    const struct progress *progress = now(direction);
    size_t received = done(&line->page->in), sent = done(direction), begin = frame_out_mark(out);
    bool half = sent > 0 && sent<progress->length, answered = sent> 0 && progress->last;
    int r;

    if (received > FRAME_MAX + 1 || progress->length > FRAME_REPLY_MAX + 1 || sent > progress->length)
        return -EBADMSG;
    if (received == 0 || (answered && !half)) {
        line->in_backed = IN_SIZE;
        line->out_backed = OUT_SIZE;
        line_end_call(line);
        return 0;
    }
    trim(line, line->in, IN_SIZE, &line->in_backed, received);
    trim(line, line->out, OUT_SIZE, &line->out_backed, progress->length);
    line->taken = answered;
    line->interrupted = !answered;
    if (!half) {
        /* Nothing of it is out: it was not to be. */
        change(direction, 0, 0, false);
        return 0;
    }
    r = frame_out_add(out, line->out + sent, progress->length - sent - 1);
    return r < 0 ? r : frame_out_finish(out, begin, NULL);
}

int line_open(int fd, struct frame_out *out, struct line **ret_line)
{
    struct line *line;
    int r;

    if (lseek(fd, 0, SEEK_END) != (off_t)SIZE)
        return -EBADMSG;
    r = map(fd, &line);
    if (r < 0)
        return r;
    r = memcmp(line->page->magic, magic, sizeof(magic)) == 0 && line->page->version == LINE_VERSION
            ? recover(line, out)
            : -EBADMSG;
    if (r < 0) {
        line_free(line);
        return r;
    }
    *ret_line = line;
    return 0;
}

struct line *line_free(struct line *line)
{
    if (!line)
        return NULL;
    fdset_clear(&line->fds);
    (void)munmap(line->page, SIZE);
    free(line);
    return NULL;
}

int line_fd(const struct line *line)
{
    return line->fd;
}
