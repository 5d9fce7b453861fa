/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptors in the queues of socket pairs: see shelf.h. */
#include "service/shelf.h"
#include "base/clock.h"
#include "base/crash.h"
#include "base/discard.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/numbers.h"
#include "wire/socket.h"

#include <bsd/sys/queue.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* SCM_MAX_FD */
#define MESSAGE_MOST FRAME_MAX_FDS

/* A number takes up to 10 bytes. */
#define MESSAGE_BYTES ((size_t)10 * MESSAGE_MOST)

/* From so many on they go among the old ones at once. */
#define BATCH_LEAST 100

/* When the young ones are moved: by messages, as the kernel counts bytes, and by descriptors. */
#define YOUNG_MESSAGES 100
#define YOUNG_FDS 1000

/* The agents' queue is made shorter from here on. */
#define AGENTS_MESSAGES 250

/* Messages that one turn of cleaning takes out. */
#define CLEAN_MOST 4

/* Descriptors that are left for everything else. */
#define RESERVED 300

/* How long what was dropped may stay. */
#define CLEAN_AFTER (400 * USEC_PER_MSEC)

struct item {
    uint64_t number;
    bool risky;              /* whoever closes its descriptor may have to wait */
    int fd;                  /* borrowed; the shelf's, once it is dropped */
    struct message *message; /* its latest copy */
    SLIST_ENTRY(item) in_dropped;
};

struct message {
    TAILQ_ENTRY(message) in_queue;
    struct queue *queue;
    unsigned n, live;
    struct item *items[]; /* NULL: dropped, or in a later message */
};

struct queue {
    const char *name;
    int in, out;
    bool recovered; /* its messages are known */
    size_t n_messages, n_fds, n_spotted;
    TAILQ_HEAD(, message) messages;
};

enum { YOUNG, AGENTS, OLD };

struct shelf {
    uint64_t next;
    size_t live, in_flight, most, room;
    size_t n_queues, old; /* old: the one that was last put to */
    SLIST_HEAD(, item) dropped;
    bool truncated;                   /* the table of descriptors was full when it was looked through */
    bool dirty;                       /* something was dropped since the last time that all was clean */
    struct item *later[MESSAGE_MOST]; /* that wait for shelf_flush() */
    size_t n_later;
    struct queue queues[OLD + SHELF_OLD_MAX];
};

static const char *const names[OLD + SHELF_OLD_MAX] = { "young", "agents", "old1", "old2", "old3", "old4" };

/* ---- Messages -------------------------------------------------------------------------------------------
 */

/* Numbers as the differences between them, 7 bits a byte, the lowest bit for the sign. */
static size_t put_numbers(unsigned char *bytes, struct item *const *items, size_t n)
{
    uint64_t last = 0;
    size_t length = 0;

    for (size_t i = 0; i < n; i++) {
        int64_t difference = (int64_t)(items[i]->number - last);
        uint64_t rest = ((uint64_t)difference << 1) ^ (uint64_t)(difference >> 63);

        for (; rest > 0x7f; rest >>= 7)
            bytes[length++] = (unsigned char)(rest | 0x80);
        bytes[length++] = (unsigned char)rest;
        last = items[i]->number;
    }
    return length;
}

static size_t get_numbers(const unsigned char *bytes, size_t length, uint64_t *numbers, size_t most)
{
    uint64_t last = 0;
    size_t n = 0;

    for (size_t at = 0; at < length && n < most; n++) {
        uint64_t value = 0;
        unsigned shift = 0;

        do {
            value |= shift < 64 ? (uint64_t)(bytes[at] & 0x7f) << shift : 0;
            shift += 7;
        } while (bytes[at++] & 0x80 && at < length);
        last += (value >> 1) ^ -(value & 1);
        numbers[n] = last;
    }
    return n;
}

static ssize_t send_fds(int fd, const void *bytes, size_t length, const struct fdset *fds)
{
    union socket_control control;
    struct iovec vector = { .iov_base = (void *)bytes, .iov_len = length };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
    ssize_t r;

    socket_attach(&message, fds, &control);
    do
        r = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

/* Takes the message at a queue's head out: nothing of it is wanted. */
static void pop(struct shelf *shelf, struct queue *queue)
{
    struct message *message = TAILQ_FIRST(&queue->messages);
    char byte;
    ssize_t n = 0;

    crash_point("shelf: before a message is taken out");
    if (queue == &shelf->queues[AGENTS])
        fd_discard_message(queue->out);
    else
        do
            n = recv(queue->out, &byte, 1, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
    if (n < 0)
        log_error("the vault's queue %s has lost a message: %s", queue->name, strerror(errno));
    TAILQ_REMOVE(&queue->messages, message, in_queue);
    queue->n_messages--;
    queue->n_fds -= message->n;
    queue->n_spotted -= message->live < message->n;
    shelf->in_flight -= message->n;
    free(message);
    crash_point("shelf: after a message was taken out");
}

static void pop_dead(struct shelf *shelf, struct queue *queue)
{
    struct message *message;

    while ((message = TAILQ_FIRST(&queue->messages)) && message->live == 0)
        pop(shelf, queue);
}

/* The item's latest copy is not in that message any more. */
static void take_out(struct item *item)
{
    struct message *message = item->message;
    size_t i = 0;

    if (!message)
        return;
    while (message->items[i] != item)
        i++;
    message->items[i] = NULL;
    if (message->live-- == message->n)
        message->queue->n_spotted++;
    item->message = NULL;
}

static struct message *message_new(struct queue *queue, size_t n)
{
    struct message *message = malloc(sizeof(*message) + n * sizeof(struct item *));

    if (message) {
        message->queue = queue;
        message->n = (unsigned)n;
        message->live = 0;
    }
    return message;
}

static void append(struct shelf *shelf, struct queue *queue, struct message *message)
{
    TAILQ_INSERT_TAIL(&queue->messages, message, in_queue);
    queue->n_messages++;
    queue->n_fds += message->n;
    queue->n_spotted += message->live < message->n;
    shelf->in_flight += message->n;
}

/* Sends items, of which there may be copies already, to the tail of one queue. -EAGAIN: it is full. */
static int send_to(struct shelf *shelf, struct queue *queue, struct item *const *items, size_t n)
{
    unsigned char bytes[MESSAGE_BYTES];
    struct message *message = message_new(queue, n);
    int fds[MESSAGE_MOST];
    ssize_t r;

    if (!message)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        fds[i] = items[i]->fd;
    crash_point("shelf: before a message is sent");
    r = send_fds(queue->in, bytes, put_numbers(bytes, items, n), &(const struct fdset){ .fds = fds, .n = n });
    if (r < 0) {
        free(message);
        return (int)r;
    }
    crash_point("shelf: after a message was sent");
    for (size_t i = 0; i < n; i++) {
        take_out(items[i]);
        items[i]->message = message;
        message->items[i] = items[i];
    }
    message->live = (unsigned)n;
    append(shelf, queue, message);
    return 0;
}

static int send_to_old(struct shelf *shelf, struct item *const *items, size_t n)
{
    size_t n_old = shelf->n_queues - OLD;
    int r = -EAGAIN;

    for (size_t i = 0; i < n_old && r == -EAGAIN; i++) {
        r = send_to(shelf, &shelf->queues[OLD + shelf->old], items, n);
        if (r == -EAGAIN)
            shelf->old = (shelf->old + 1) % n_old;
    }
    return r == -EAGAIN ? -ENOBUFS : r;
}

/*
 * Copies what is live in the messages at a queue's head, as much as goes into one message, to where it
 * belongs when it is old, and takes those messages out. Returns how many, or -errno.
 */
static int move_head(struct shelf *shelf, struct queue *queue)
{
    struct item *items[MESSAGE_MOST];
    struct message *message;
    size_t n = 0;
    int taken = 0, r;

    TAILQ_FOREACH (message, &queue->messages, in_queue) {
        if (n + message->live > MESSAGE_MOST)
            break;
        for (size_t i = 0; i < message->n; i++)
            if (message->items[i])
                items[n++] = message->items[i];
        taken++;
    }
    if (n > 0) {
        r = queue == &shelf->queues[AGENTS] ? send_to(shelf, queue, items, n) : send_to_old(shelf, items, n);
        if (r < 0)
            return r;
    }
    pop_dead(shelf, queue);
    return taken;
}

/* Moves the first n messages of a queue, or what there is of them. */
static int move(struct shelf *shelf, struct queue *queue, size_t n)
{
    int r;

    while (n > 0 && !TAILQ_EMPTY(&queue->messages)) {
        r = move_head(shelf, queue);
        if (r < 0)
            return r;
        n -= (size_t)r < n ? (size_t)r : n;
    }
    return 0;
}

/* ---- In and out ------------------------------------------------------------------------------------------
 */

static void item_close(const struct item *item)
{
    struct culprit whose;

    if (!item->risky) {
        fd_close(item->fd);
        return;
    }
    /* What was unread in it waits by itself, if it has to: see fd_discard_input(). */
    whose = discard_for(DISCARD_OURS);
    fd_discard(item->fd);
    (void)discard_for(whose);
}

uint64_t item_number(const struct item *item)
{
    return item->number;
}

static int put(struct shelf *shelf, enum shelf_class class, struct item *const *items, size_t n)
{
    struct queue *young = &shelf->queues[YOUNG], *agents = &shelf->queues[AGENTS];
    int r;

    if (class == SHELF_AGENTS) {
        r = agents->n_messages >= AGENTS_MESSAGES ? move(shelf, agents, agents->n_messages) : 0;
        r = r < 0 ? r : send_to(shelf, agents, items, n);
        return r == -EAGAIN ? -ENOBUFS : r;
    }
    if (n >= BATCH_LEAST)
        return send_to_old(shelf, items, n);
    r = young->n_messages >= YOUNG_MESSAGES || young->n_fds + n > YOUNG_FDS ? -EAGAIN
                                                                            : send_to(shelf, young, items, n);
    if (r == -EAGAIN) {
        r = move(shelf, young, young->n_messages);
        r = r < 0 ? r : send_to(shelf, young, items, n);
    }
    return r == -EAGAIN ? -ENOBUFS : r;
}

static int put_or_make_room(struct shelf *shelf, enum shelf_class class, struct item *const *items, size_t n)
{
    int r = put(shelf, class, items, n);

    if (r != -ETOOMANYREFS && r != -ENOBUFS)
        return r;
    /* What nobody wants any more is in the way, maybe. */
    for (size_t i = 0; i < shelf->n_queues; i++)
        (void)move(shelf, &shelf->queues[i], shelf->queues[i].n_messages);
    return put(shelf, class, items, n);
}

static struct item *item_new(struct shelf *shelf, enum shelf_class class, int fd)
{
    struct item *item = malloc(sizeof(*item));

    if (item)
        *item = (struct item){ .number = shelf->next++, .risky = class == SHELF_AGENTS, .fd = fd };
    return item;
}

/* Whether the next process will have room for n more, and for what it needs besides. */
static bool has_room(const struct shelf *shelf, size_t n)
{
    return shelf->live + n <= shelf->room;
}

int shelf_put(struct shelf *shelf, enum shelf_class class, const int *fds, size_t n, struct item **ret_items)
{
    struct item *items[MESSAGE_MOST] = { NULL };
    int r = -ENOMEM;
    size_t i;

    if (!has_room(shelf, n))
        return -EMFILE;
    for (i = 0; i < n; i++) {
        items[i] = item_new(shelf, class, fds[i]);
        if (!items[i])
            goto fail;
    }
    r = put_or_make_room(shelf, class, items, n);
    if (r < 0)
        goto fail;
    memcpy(ret_items, items, n * sizeof(struct item *));
    shelf->live += n;
    return 0;

fail:
    while (i-- > 0)
        free(items[i]);
    return r;
}

int shelf_put_later(struct shelf *shelf, int fd, struct item **ret_item)
{
    struct item *item;

    if (!has_room(shelf, 1))
        return -EMFILE;
    if (shelf->n_later == MESSAGE_MOST)
        return -ENOBUFS;
    item = item_new(shelf, SHELF_EVENTFDS, fd);
    if (!item)
        return -ENOMEM;
    shelf->later[shelf->n_later++] = item;
    shelf->live++;
    *ret_item = item;
    return 0;
}

int shelf_flush(struct shelf *shelf)
{
    size_t n = shelf->n_later;

    shelf->n_later = 0;
    return n > 0 ? put_or_make_room(shelf, SHELF_EVENTFDS, shelf->later, n) : 0;
}

void shelf_drop(struct shelf *shelf, struct item *item)
{
    if (!item)
        return;
    for (size_t i = 0; i < shelf->n_later; i++)
        if (shelf->later[i] == item)
            shelf->later[i--] = shelf->later[--shelf->n_later];
    shelf->live--;
    SLIST_INSERT_HEAD(&shelf->dropped, item, in_dropped);
}

/* More than this is not to be under way: there is a limit, and it is for what is held. */
static bool is_crowded(const struct shelf *shelf)
{
    return shelf->in_flight > 2 * shelf->live + 1000 || shelf->in_flight > shelf->most;
}

static int64_t next_cleaning(struct shelf *shelf, int64_t after)
{
    size_t spotted = 0;

    for (size_t i = 0; i < shelf->n_queues; i++)
        spotted += shelf->queues[i].n_spotted;
    shelf->dirty = spotted > 0;
    return shelf->dirty ? after : -1;
}

int64_t shelf_settle(struct shelf *shelf)
{
    bool was_dirty = shelf->dirty;
    struct item *item;

    if (SLIST_EMPTY(&shelf->dropped))
        return -1;
    while ((item = SLIST_FIRST(&shelf->dropped))) {
        SLIST_REMOVE_HEAD(&shelf->dropped, in_dropped);
        take_out(item);
        item_close(item);
        free(item);
    }
    for (size_t i = 0; i < shelf->n_queues; i++)
        pop_dead(shelf, &shelf->queues[i]);
    if (is_crowded(shelf))
        return shelf_clean(shelf);
    /* The timer runs already, where it was dirty. */
    return was_dirty ? -1 : next_cleaning(shelf, CLEAN_AFTER);
}

int64_t shelf_clean(struct shelf *shelf)
{
    for (size_t i = 0; i < shelf->n_queues; i++) {
        struct queue *queue = &shelf->queues[i];

        if (queue->n_spotted > 0 && move(shelf, queue, CLEAN_MOST) < 0)
            return next_cleaning(shelf, CLEAN_AFTER);
    }
    return next_cleaning(shelf, is_crowded(shelf) ? 0 : USEC_PER_MSEC);
}

/* ---- Coming back ------------------------------------------------------------------------------------------
 */

struct recovery {
    const uint64_t *numbers;
    size_t n;
    struct item **items;
    int *fds;
};

/* What came of one message: descriptors that are wanted and new are kept, all others closed. */
static int recover_message(struct shelf *shelf, struct queue *queue, const struct recovery *recovery,
    const uint64_t *numbers, size_t n_numbers, const int *fds, size_t n_fds)
{
    struct message *message = message_new(queue, n_numbers);
    bool whole = true;

    for (size_t i = 0; i < n_numbers; i++) {
        const uint64_t *found = numbers_find(recovery->numbers, recovery->n, numbers[i]);
        size_t k = found ? (size_t)(found - recovery->numbers) : 0;
        struct item *item = NULL;

        if (numbers[i] >= shelf->next)
            shelf->next = numbers[i] + 1;
        if (message)
            message->items[i] = NULL;
        if (message && found && !recovery->items[k] && i < n_fds) {
            item = malloc(sizeof(*item));
            whole &= item != NULL;
        }
        if (!item) {
            fd_discard(i < n_fds ? fds[i] : -1);
            continue;
        }
        *item = (struct item){
            .number = numbers[i],
            .risky = queue == &shelf->queues[AGENTS],
            .fd = fds[i],
            .message = message,
        };
        message->items[i] = item;
        message->live++;
        recovery->items[k] = item;
        recovery->fds[k] = fds[i];
        shelf->live++;
    }
    for (size_t i = n_numbers; i < n_fds; i++)
        fd_close(fds[i]);
    if (!message)
        return -ENOMEM;
    append(shelf, queue, message);
    return whole ? 0 : -ENOMEM;
}

/* The next message that was not peeked at yet: 1, 0 where there is none. */
static int peek(
    struct queue *queue, unsigned char *bytes, size_t *length, int *fds, size_t *n, bool *truncated)
{
    union {
        char space[CMSG_SPACE(MESSAGE_MOST * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec vector = { .iov_base = bytes, .iov_len = MESSAGE_BYTES };
    struct msghdr message = {
        .msg_iov = &vector,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof(control.space),
    };
    struct cmsghdr *header;
    ssize_t r;

    do
        r = recvmsg(queue->out, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (r < 0 && errno == EINTR);
    if (r <= 0)
        return r == 0 || errno == EAGAIN ? 0 : -errno;
    *length = (size_t)r;
    *n = 0;
    for (header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            *n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(header), *n * sizeof(int));
        }
    *truncated |= (message.msg_flags & MSG_CTRUNC) != 0;
    return 1;
}

static int recover_queue(struct shelf *shelf, struct queue *queue, const struct recovery *recovery)
{
    unsigned char bytes[MESSAGE_BYTES];
    uint64_t numbers[MESSAGE_MOST];
    int fds[MESSAGE_MOST], offset = 0, r;
    size_t length = 0, n = 0;

    if (setsockopt(queue->out, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0)
        return -errno;
    while ((r = peek(queue, bytes, &length, fds, &n, &shelf->truncated)) > 0) {
        r = recover_message(
            shelf, queue, recovery, numbers, get_numbers(bytes, length, numbers, MESSAGE_MOST), fds, n);
        if (r < 0)
            break;
        crash_point("shelf: after a message was looked at");
    }
    offset = -1;
    if (setsockopt(queue->out, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0 && r == 0)
        r = -errno;
    return r;
}

int shelf_recover(
    struct shelf *shelf, const uint64_t *numbers, size_t n, struct item **ret_items, int *ret_fds)
{
    const struct recovery recovery = { .numbers = numbers, .n = n, .items = ret_items, .fds = ret_fds };
    int r = 0;

    for (size_t i = 0; i < n; i++) {
        ret_items[i] = NULL;
        ret_fds[i] = -1;
        if (numbers[i] >= shelf->next)
            shelf->next = numbers[i] + 1;
    }
    /* The latest copies first: what is young was copied among the old, not the other way round. */
    for (size_t i = shelf->n_queues; i-- > 0 && r == 0;)
        r = recover_queue(shelf, &shelf->queues[i], &recovery);
    /* Copies that are not needed may be missing; nothing was taken, and a larger table may have them all. */
    for (size_t i = 0; i < n && r == 0 && shelf->truncated; i++)
        if (!ret_items[i])
            r = -EMFILE;
    for (size_t i = 0; i < shelf->n_queues && r == 0; i++)
        pop_dead(shelf, &shelf->queues[i]);
    return r;
}

/* ---- Beginning and end ------------------------------------------------------------------------------------
 */

static struct shelf *make(size_t n_old)
{
    struct shelf *shelf = calloc(1, sizeof(*shelf));
    struct rlimit limit;

    if (!shelf)
        return NULL;
    shelf->next = 1;
    shelf->n_queues = OLD + n_old;
    shelf->most =
        getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > 2000 ? (size_t)limit.rlim_cur - 1000 : 1000;
    shelf->room = shelf->most + 1000 - RESERVED;
    for (size_t i = 0; i < shelf->n_queues; i++) {
        shelf->queues[i].name = names[i];
        shelf->queues[i].in = shelf->queues[i].out = -1;
        TAILQ_INIT(&shelf->queues[i].messages);
    }
    return shelf;
}

int shelf_new(size_t n_old, struct shelf **ret_shelf)
{
    struct shelf *shelf = make(n_old);
    const int most = 1 << 30; /* the kernel takes as much of it as it allows */

    for (size_t i = 0; shelf && i < shelf->n_queues; i++) {
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
            int r = -errno;

            shelf_free(shelf);
            return r;
        }
        shelf->queues[i].in = pair[0];
        shelf->queues[i].out = pair[1];
        (void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &most, sizeof(most));
    }
    *ret_shelf = shelf;
    return shelf ? 0 : -ENOMEM;
}

int shelf_open(const int *ends, size_t n_old, struct shelf **ret_shelf)
{
    struct shelf *shelf = make(n_old);
    bool whole = true;

    for (size_t i = 0; i < SHELF_ENDS(n_old); i++) {
        whole &= ends[i] >= 0;
        if (!shelf)
            fd_close(ends[i]);
        else if (i % 2)
            shelf->queues[i / 2].out = ends[i];
        else
            shelf->queues[i / 2].in = ends[i];
    }
    if (!shelf || !whole) {
        shelf_free(shelf);
        return shelf ? -EBADF : -ENOMEM;
    }
    *ret_shelf = shelf;
    return 0;
}

struct shelf *shelf_free(struct shelf *shelf)
{
    struct message *message;
    struct item *item;

    if (!shelf)
        return NULL;
    while ((item = SLIST_FIRST(&shelf->dropped))) {
        SLIST_REMOVE_HEAD(&shelf->dropped, in_dropped);
        take_out(item);
        item_close(item);
        free(item);
    }
    for (size_t i = 0; i < shelf->n_queues; i++) {
        struct queue *queue = &shelf->queues[i];

        while ((message = TAILQ_FIRST(&queue->messages))) {
            TAILQ_REMOVE(&queue->messages, message, in_queue);
            for (size_t k = 0; k < message->n; k++)
                free(message->items[k]);
            free(message);
        }
        fd_close(queue->in);
        fd_close(queue->out);
    }
    free(shelf);
    return NULL;
}

int shelf_end(const struct shelf *shelf, size_t i, char name[static 16])
{
    if (i >= 2 * shelf->n_queues)
        return -1;
    (void)snprintf(name, 16, "%s-%s", names[i / 2], i % 2 ? "out" : "in");
    return i % 2 ? shelf->queues[i / 2].out : shelf->queues[i / 2].in;
}
