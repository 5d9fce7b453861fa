/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the vault has on record. The first byte says what the rest is:
 *
 *   l   a ledger, as a process may have left it, and changes to it
 *   f   the same, and the half in use has room for 64 bytes more
 *   n   changes to a new one
 *   m   records, out of which a model comes back
 *   x   a byte: of what can fail in a ledger (fail.h), the so-many-th does; and one of these
 *
 * All are made of pieces: a byte of flags (below), one of number, two of length, the bytes. A ledger has
 * flags of its own in front, and a byte of how many of the pieces are in it already; the others are changes.
 *
 * Whatever is read, what is written then is what the next process reads: load(save(x)) is x. A commit that
 * fails has changed nothing.
 */
#include "base/fd.h"
#include "base/numbers.h"
#include "fail.h"
#include "fuzz.h"
#include "invariants.h"
#include "model/private.h"
#include "model/record.h"
#include "service/ledger.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RECORDS_MAX 64
#define AGENTS_MAX 8

/* Of a piece. */
enum {
    PIECE_KIND = 3,    /* as in enum saved_kind, 0: 4 */
    PIECE_GONE = 4,    /* the end of an object */
    PIECE_RAW = 8,     /* in a ledger: bytes that are no record */
    PIECE_WRONG = 16,  /* in a ledger: its check is wrong */
    PIECE_COMMIT = 32, /* a change: commit then */
    PIECE_SLOT = 64,   /* a change: a slot for its number, with so many signals as the first byte says */
    PIECE_STORM = 128, /* a change: many commits of it, with bytes that change */
};

struct piece {
    unsigned flags, kind;
    uint64_t number;
    const uint8_t *bytes;
    size_t length;
};

static struct piece take_piece(struct input *input)
{
    struct piece piece = { .flags = input_byte(input) };

    piece.kind = piece.flags & PIECE_KIND ? piece.flags & PIECE_KIND : SAVED_DELEGATION;
    piece.number = input_byte(input);
    piece.length = input_byte(input);
    piece.length |= (size_t)input_byte(input) << 8;
    piece.bytes = input_bytes(input, &piece.length);
    return piece;
}

/* ---- Records, as they should be ---- */

struct record {
    unsigned kind;
    uint64_t number;
    unsigned char *bytes; /* NULL: it is gone */
    size_t length;
};

/* Ordered by kind and number. */
struct store {
    struct record records[RECORDS_MAX];
    size_t n;
};

static int compare_records(const void *a, const void *b)
{
    const struct record *left = a, *right = b;

    if (left->kind != right->kind)
        return left->kind < right->kind ? -1 : 1;
    return (left->number > right->number) - (left->number < right->number);
}

static struct record *store_find(struct store *store, unsigned kind, uint64_t number)
{
    for (size_t i = 0; i < store->n; i++)
        if (store->records[i].kind == kind && store->records[i].number == number)
            return &store->records[i];
    return NULL;
}

static void store_delete(struct store *store, unsigned kind, uint64_t number)
{
    struct record *record = store_find(store, kind, number);

    if (!record)
        return;
    free(record->bytes);
    memmove(record, record + 1, (size_t)(store->records + --store->n - record) * sizeof(*record));
}

/* bytes: copied. */
static void store_put(
    struct store *store, unsigned kind, uint64_t number, const unsigned char *bytes, size_t length)
{
    store_delete(store, kind, number);
    if (store->n == RECORDS_MAX)
        return;
    store->records[store->n] =
        (struct record){ .kind = kind, .number = number, .bytes = malloc(length + 1), .length = length };
    MUST(store->records[store->n].bytes);
    if (length > 0)
        memcpy(store->records[store->n].bytes, bytes, length);
    store->n++;
    qsort(store->records, store->n, sizeof(struct record), compare_records);
}

static void store_clear(struct store *store)
{
    while (store->n > 0)
        free(store->records[--store->n].bytes);
}

static void store_copy(const struct store *from, struct store *to)
{
    for (size_t i = 0; i < from->n; i++)
        store_put(to, from->records[i].kind, from->records[i].number, from->records[i].bytes,
            from->records[i].length);
}

static bool store_equal(const struct store *a, const struct store *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (compare_records(&a->records[i], &b->records[i]) != 0 ||
            a->records[i].length != b->records[i].length ||
            memcmp(a->records[i].bytes, b->records[i].bytes, a->records[i].length) != 0)
            return false;
    return true;
}

/* ---- A ledger ---- */

/* As ledger.c has it in its file, whose layout is fixed. */
#define HEADER_SIZE 16384
#define HALF_SIZE ((uint64_t)256 * 1024 * 1024)
#define FILE_SIZE (HEADER_SIZE + 2 * HALF_SIZE)
#define SLOTS_AT 512

struct header_in_file {
    char magic[8];
    uint32_t version, complete;
    uint64_t active, tail[2];
    int64_t started_at;
    uint64_t starts;
    int32_t ended, padding;
};

struct record_in_file {
    uint32_t length, check, kind, gone;
    uint64_t number;
};

/* Of an image. */
enum {
    IMAGE_SECOND = 1,     /* the second half is in use */
    IMAGE_INCOMPLETE = 2, /* it was never completed */
    IMAGE_STRANGE = 4,    /* a byte of version follows */
    IMAGE_LONG = 8,       /* its tail is a little behind its records */
    IMAGE_SLOTS = 16,     /* slots, of which some count */
    IMAGE_CUT = 32,       /* the file is too short */
    IMAGE_MAGIC = 64,     /* its magic number is wrong */
    IMAGE_TAIL = 128,     /* its tail, or the half in use, cannot be */
};

static uint32_t check_of(const uint8_t *bytes, size_t n)
{
    uint32_t check = 2166136261u;

    for (size_t i = 0; i < n; i++)
        check = (check ^ bytes[i]) * 16777619u;
    return check;
}

static void write_at(int fd, uint64_t place, const void *bytes, size_t n)
{
    MUST(n == 0 || pwrite(fd, bytes, n, (off_t)place) == (ssize_t)n);
}

/* Returns its length. */
static uint64_t write_record(int fd, uint64_t place, const struct piece *piece)
{
    struct record_in_file head = {
        .length = (uint32_t)(sizeof(head) + piece->length),
        .kind = piece->kind,
        .gone = (piece->flags & PIECE_GONE) != 0,
        .number = piece->number,
    };
    uint8_t *bytes;

    if (piece->flags & PIECE_RAW) {
        write_at(fd, place, piece->bytes, piece->length);
        return (piece->length + 7) & ~UINT64_C(7);
    }
    bytes = malloc(head.length);
    MUST(bytes);
    memcpy(bytes, &head, sizeof(head));
    memcpy(bytes + sizeof(head), piece->bytes, piece->length);
    head.check = check_of(bytes + 8, head.length - 8) + ((piece->flags & PIECE_WRONG) != 0);
    memcpy(bytes + 4, &head.check, 4);
    write_at(fd, place, bytes, head.length);
    free(bytes);
    return (head.length + UINT64_C(7)) & ~UINT64_C(7);
}

/* Puts an image into a file. *store: what is in it; returns whether that can be said. */
static bool write_image(int fd, struct input *input, unsigned flags, bool full, struct store *store)
{
    unsigned half = flags & IMAGE_SECOND, n = 0;
    uint64_t place = HEADER_SIZE + half * HALF_SIZE, begin = place;
    struct header_in_file header = { .magic = "evlinkv", .version = 1, .complete = 1, .active = half };
    bool sane = true;

    header.complete = !(flags & IMAGE_INCOMPLETE);
    if (flags & IMAGE_STRANGE)
        header.version = input_byte(input);
    if (flags & IMAGE_MAGIC)
        header.magic[input_byte(input) % 8] ^= 1;
    for (n = input_byte(input) % RECORDS_MAX; n > 0 && input_left(input) > 0; n--) {
        struct piece piece = take_piece(input);

        place += write_record(fd, place, &piece);
        if (piece.flags & (PIECE_RAW | PIECE_WRONG))
            sane = false;
        else if (piece.flags & PIECE_GONE)
            store_delete(store, piece.kind, piece.number);
        else
            store_put(store, piece.kind, piece.number, piece.bytes, piece.length);
    }
    header.tail[half] = full ? HALF_SIZE - 64 : place - begin + (flags & IMAGE_LONG ? 64 : 0);
    header.started_at = 1;
    header.starts = 1;
    if (flags & IMAGE_SLOTS) {
        uint64_t stamp = (header.tail[half] << 1 | half) + 1;
        struct ledger_slot slots[] = { { stamp, 0, 1, 0, 5 }, { stamp - 1, 0, 2, 0, 5 },
            { stamp, 0, 3, 0, 0 }, { stamp, 0, 4, UINT64_MAX, 6 } };

        write_at(fd, SLOTS_AT, slots, sizeof(slots));
    }
    if (flags & IMAGE_TAIL && input_byte(input) % 2)
        header.active = 2;
    else if (flags & IMAGE_TAIL)
        header.tail[half] = HALF_SIZE + 1;
    write_at(fd, 0, &header, sizeof(header));
    return sane;
}

static void add_each(
    void *userdata, unsigned kind, uint64_t number, const unsigned char *bytes, size_t length)
{
    store_put(userdata, kind, number, bytes, length);
}

static void check_ledger(const struct ledger *ledger, const struct store *expected)
{
    struct store found = { .n = 0 };

    ledger_each(ledger, add_each, &found);
    MUST(store_equal(&found, expected));
    MUST(!ledger_is_crowded(ledger));
    store_clear(&found);
}

static void count_slot(void *userdata, const struct ledger_slot *slot)
{
    *(uint64_t *)userdata += slot->count;
}

/* As many calls can fail as there are, and one does (fail.h): it returns -ENOMEM then, and all is as it was.
 */
static int open_ledger(int fd, struct ledger **ret_ledger)
{
    int copy = fd_dup(fd), r;

    MUST(copy >= 0);
    fail_begin();
    r = ledger_open(fd, ret_ledger);
    if (fail_end() && r < 0) {
        MUST(r == -ENOMEM);
        return ledger_open(copy, ret_ledger);
    }
    fd_close(copy);
    return r;
}

/* The ledger of the next process. pending: what is in slots. */
static struct ledger *reopen(struct ledger *ledger, const struct store *store, uint64_t pending)
{
    uint64_t found = 0;
    int fd = fd_dup(ledger_fd(ledger));

    MUST(fd >= 0);
    ledger_free(ledger);
    MUST(open_ledger(fd, &ledger) == 0);
    check_ledger(ledger, store);
    ledger_each_slot(ledger, count_slot, &found);
    MUST(found == pending);
    ledger_forget_slots(ledger);
    return ledger;
}

/* bytes: NULL for the end of the object. Returns whether it is staged; if not, nothing can be committed. */
static bool stage(struct ledger *ledger, const struct piece *piece, const void *bytes, size_t length)
{
    int r;

    fail_begin();
    r = bytes ? ledger_put(ledger, piece->kind, piece->number, bytes, length)
              : ledger_delete(ledger, piece->kind, piece->number);
    if (!fail_end()) {
        MUST(r == 0);
        return true;
    }
    MUST(r == -ENOMEM && ledger_commit(ledger) == -ENOMEM);
    return false;
}

/* committed: what is on record if this fails. */
static void commit(struct ledger *ledger, const struct store *committed)
{
    int r;

    fail_begin();
    r = ledger_commit(ledger);
    if (fail_end() && r < 0) {
        MUST(r == -ENOMEM);
        check_ledger(ledger, committed);
        r = ledger_commit(ledger);
    }
    MUST(r == 0);
}

/* Many commits, so that what is live moves to the other half. Returns false where one could not be staged. */
static bool storm(struct ledger *ledger, struct store *store, const struct piece *piece)
{
    unsigned char bytes[2048] = { 0 };
    size_t length = sizeof(bytes) - piece->length % 8;

    for (unsigned i = 0; i < 200; i++) {
        memcpy(bytes, piece->bytes, piece->length < 64 ? piece->length : 64);
        memcpy(bytes + 64, &i, sizeof(i));
        if (!stage(ledger, piece, bytes, length))
            return false;
        commit(ledger, store);
        store_put(store, piece->kind, piece->number, bytes, length);
    }
    check_ledger(ledger, store);
    return true;
}

/* ledger: consumed. */
static void change_ledger(struct ledger *ledger, struct input *input, struct store *committed)
{
    struct store staged = { .n = 0 }, touched = { .n = 0 };
    uint64_t pending = 0;

    store_copy(committed, &staged);
    while (input_left(input) > 0) {
        struct piece piece = take_piece(input);
        bool known = store_find(&staged, piece.kind, piece.number) != NULL, good = true;

        /* An object is staged once before a commit. */
        if (!store_find(&touched, piece.kind, piece.number) && (known || staged.n < RECORDS_MAX) &&
            touched.n < RECORDS_MAX) {
            store_put(&touched, piece.kind, piece.number, NULL, 0);
            if (piece.flags & PIECE_GONE)
                store_delete(&staged, piece.kind, piece.number);
            else
                store_put(&staged, piece.kind, piece.number, piece.bytes, piece.length);
            good = stage(ledger, &piece, piece.flags & PIECE_GONE ? NULL : piece.bytes, piece.length);
        }
        if (good && piece.flags & PIECE_SLOT) {
            struct ledger_slot *slot = ledger_slot(ledger, 0, piece.number, 0);

            MUST(!slot || slot->count == 0);
            if (slot) {
                slot->count = piece.length > 0 ? piece.bytes[0] : 0;
                if (piece.length % 2)
                    ledger_slot_done(ledger, slot);
                else
                    pending += slot->count;
            }
        }
        check_ledger(ledger, committed);
        if (good && !(piece.flags & (PIECE_COMMIT | PIECE_STORM | PIECE_RAW)))
            continue;
        if (good && piece.flags & (PIECE_COMMIT | PIECE_STORM)) {
            bool any = touched.n > 0;

            commit(ledger, committed);
            store_clear(committed);
            store_copy(&staged, committed);
            check_ledger(ledger, committed);
            pending = 0;
            if (piece.flags & PIECE_STORM && any)
                good = storm(ledger, committed, &piece);
        }
        /* What cannot be staged ends the process. */
        if (!good || piece.flags & PIECE_RAW) {
            ledger = reopen(ledger, committed, pending);
            pending = 0;
        }
        store_clear(&touched);
        store_clear(&staged);
        store_copy(committed, &staged);
    }
    ledger = reopen(ledger, committed, pending);
    ledger_free(ledger);
    store_clear(&staged);
    store_clear(&touched);
}

static void fuzz_ledger(struct input *input, bool full)
{
    unsigned flags = input_byte(input);
    struct store expected = { .n = 0 };
    struct ledger *ledger = NULL;
    bool sane;
    int fd, r;

    fd = memfd_create("fuzz", MFD_CLOEXEC);
    MUST(fd >= 0 && ftruncate(fd, (off_t)(FILE_SIZE - (flags & IMAGE_CUT ? 1 : 0))) == 0);
    sane = write_image(fd, input, flags, full, &expected);
    r = open_ledger(fd, &ledger);
    MUST(r == 0 || r == -ENODATA || r == -EBADMSG);
    MUST(r != -ENODATA || flags & IMAGE_INCOMPLETE);
    if (flags & (IMAGE_CUT | IMAGE_MAGIC | IMAGE_TAIL))
        MUST(r < 0);
    else if (!(flags & (IMAGE_INCOMPLETE | IMAGE_STRANGE)))
        MUST(r == 0);
    if (r == 0) {
        struct ledger_life life = ledger_last_life(ledger);
        uint64_t slots = 0;

        MUST(life.starts == 1 && life.started_at == 1);
        ledger_each_slot(ledger, count_slot, &slots);
        MUST(slots == (flags & IMAGE_SLOTS ? 11 : 0));
        ledger_forget_slots(ledger);
        if (!sane || flags & IMAGE_LONG) {
            store_clear(&expected);
            ledger_each(ledger, add_each, &expected);
        }
        check_ledger(ledger, &expected);
        change_ledger(TAKE(ledger), input, &expected);
    }
    ledger_free(ledger);
    store_clear(&expected);
}

static void fuzz_new_ledger(struct input *input)
{
    static const unsigned char byte;
    struct store empty = { .n = 0 };
    struct ledger *ledger;
    int r;

    fail_begin();
    r = ledger_new(&ledger);
    if (fail_end()) {
        MUST(r == -ENOMEM);
        r = ledger_new(&ledger);
    }
    MUST(r == 0);
    ledger_life(ledger)->starts = 1;
    ledger_complete(ledger);
    MUST(ledger_put(ledger, 1, 1, &byte, (size_t)INT_MAX + 1) == -ENOSPC);
    change_ledger(ledger, input, &empty);
    store_clear(&empty);
}

/* ---- A model ---- */

struct world {
    struct model *model;
    struct store *store; /* NULL: nobody keeps anything any more */
    struct packer packer;
    uint64_t numbers[RECORDS_MAX * 4];
    size_t n_numbers;
    uint64_t next;
    struct delegation *delegations[RECORDS_MAX];
    size_t n_delegations;
};

static struct evaio *aio;

static void on_agent(void *userdata, struct agent *agent)
{
    (void)userdata;
    (void)agent;
}

static void on_news(void *userdata, const struct news *news)
{
    (void)userdata;
    MUST(news->subject && news->owner && notice_name(news->notice));
}

static void on_tell(void *userdata, struct agent *agent, const struct end *end, const struct news *news)
{
    (void)userdata;
    (void)news;
    MUST(!agent->lost && end->agent == agent);
}

static void on_relay(void *userdata, struct link *link, bool last)
{
    (void)userdata;
    (void)last;
    MUST(link->relayed);
}

static int on_keep(void *userdata, struct eventfd **eventfds, size_t n)
{
    struct world *world = userdata;

    for (size_t i = 0; i < n; i++) {
        /* See give_eventfd(). */
        if (++world->next % 16 >= 14)
            world->next += 2;
        eventfds[i]->number = world->next;
        eventfds[i]->item = world;
    }
    return 0;
}

static void on_unkeep(void *userdata, struct eventfd *eventfd)
{
    (void)userdata;
    fd_close(eventfd->fd);
}

static void on_ended(void *userdata, enum saved_kind kind, uint64_t number)
{
    struct world *world = userdata;

    if (world->store)
        store_delete(world->store, kind, number);
}

static int on_drain(void *userdata, const struct end *end, struct eventfd *eventfd, uint64_t *ret_count)
{
    (void)userdata;
    (void)end;
    return eventfd_drain(eventfd->fd, ret_count);
}

static const struct model_hooks hooks = {
    .agent_ready = on_agent,
    .agent_lost = on_agent,
    .agent_forgotten = on_agent,
    .news = on_news,
    .tell = on_tell,
    .relay = on_relay,
    .keep = on_keep,
    .unkeep = on_unkeep,
    .ended = on_ended,
    .drain = on_drain,
};

static void add_number(void *userdata, uint64_t number)
{
    struct world *world = userdata;

    if (world->n_numbers < sizeof(world->numbers) / sizeof(world->numbers[0]))
        world->numbers[world->n_numbers++] = number;
}

static void sort_numbers(struct world *world)
{
    size_t n = 0;

    qsort(world->numbers, world->n_numbers, sizeof(uint64_t), numbers_compare);
    for (size_t i = 0; i < world->n_numbers; i++)
        if (n == 0 || world->numbers[i] != world->numbers[n - 1])
            world->numbers[n++] = world->numbers[i];
    world->n_numbers = n;
    world->next = n > 0 ? world->numbers[n - 1] : 0;
}

/* Some numbers are those of semaphores, and some of eventfds that are lost. */
static int give_eventfd(void *userdata, size_t i, void **ret_item)
{
    struct world *world = userdata;

    *ret_item = world;
    return world->numbers[i] % 16 == 15 ? -1 : eventfd_create(world->numbers[i] % 16 == 14);
}

static int give_agent(void *userdata, struct agent *agent)
{
    (void)userdata;
    return (agent->lost ? agent->pidfd : agent->socket) % 16 == 15 ? -ENOENT : 0;
}

static int give_delegation(void *userdata, struct delegation *delegation)
{
    struct world *world = userdata;

    MUST(delegation->grant && peer_scope(&delegation->peer)[0]);
    if (delegation->socket % 16 == 15)
        return -ENOENT;
    world->delegations[world->n_delegations++] = delegation;
    return 0;
}

static void sync_records(struct world *world)
{
    struct saved *saved;

    while ((saved = model_next_due(world->model))) {
        world->packer.length = 0;
        model_record(saved, &world->packer);
        MUST(!world->packer.failed);
        store_put(world->store, saved->kind, saved->number, world->packer.bytes, world->packer.length);
    }
    MUST(!model_is_due(world->model));
}

/* As if all had changed: what is saved then does not hang on what happened to be written anew. */
static void save_all(struct world *world)
{
    struct model *model = world->model;
    struct held *held;
    struct agent *agent;
    struct link *link;

    RB_FOREACH (held, held_tree, &model->held)
        saved_due(model, &held->saved);
    RB_FOREACH (agent, agent_tree, &model->agents)
        saved_due(model, &agent->saved);
    RB_FOREACH (link, link_tree, &model->links) {
        saved_due(model, &link->saved);
        model_owed(link);
        for (size_t i = 0; i < link->n_ends; i++)
            MUST(end_place_number(link->ends[i]) == i);
    }
    for (size_t i = 0; i < world->n_delegations; i++)
        saved_due(model, &world->delegations[i]->saved);
    sync_records(world);
}

static void restore_kind(struct world *world, struct restore *restore, unsigned kind, bool gone, bool strict)
{
    struct store all = { .n = 0 };

    store_copy(world->store, &all);
    for (size_t i = 0; i < all.n; i++) {
        const struct record *record = &all.records[i];
        int r;

        if (record->kind != kind)
            continue;
        r = model_restore_record(
            restore, (enum saved_kind)kind, record->number, record->bytes, record->length, gone);
        if (r < 0 && strict)
            fprintf(
                stderr, "record %u %" PRIu64 ", which was saved: %s\n", kind, record->number, strerror(-r));
        MUST(r == 0 || (!strict && r != -ENOMEM));
        if (r < 0)
            store_delete(world->store, kind, record->number);
    }
    store_clear(&all);
}

/* What comes back of a store, which is then what is there. strict: it was saved, and has to come back as it
 * is. */
static void world_open(struct world *world, struct store *store, bool strict, unsigned counts)
{
    struct restore restore = {
        .eventfd = give_eventfd, .agent = give_agent, .delegation = give_delegation, .userdata = world
    };

    *world = (struct world){ .store = store };
    if (!aio)
        MUST(evaio_new(&aio) == 0);
    MUST(model_new(&hooks, world, aio, &world->model) == 0);
    for (size_t i = 0; i < store->n; i++) {
        int r = record_numbers(
            store->records[i].kind, store->records[i].bytes, store->records[i].length, add_number, world);

        /* Others are not read for what only links have. */
        MUST(r == 0 || (r == -EBADMSG && (!strict || store->records[i].kind != SAVED_LINK)));
    }
    sort_numbers(world);
    restore.model = world->model;
    restore.numbers = world->numbers;
    restore.n_numbers = world->n_numbers;
    MUST(model_restore(&restore) == 0);
    restore_kind(world, &restore, SAVED_HELD, false, strict);
    restore_kind(world, &restore, SAVED_AGENT, false, strict);
    restore_kind(world, &restore, SAVED_LINK, false, strict);
    restore_kind(world, &restore, SAVED_LINK, true, strict);
    restore_kind(world, &restore, SAVED_DELEGATION, false, strict);
    for (unsigned i = 0; i < counts % 8; i++) {
        model_restore_count(&restore, i, RESTORE_BACK, 1 + i);
        model_restore_count(&restore, i, i % 3, counts >= 128 ? UINT64_MAX - i : i);
    }
    MUST(model_restore_record(&restore, (enum saved_kind)7, 1, NULL, 0, false) == -EBADMSG);
    model_restored(&restore);
    save_all(world);
    check_model(world->model);
}

static void world_close(struct world *world)
{
    world->store = NULL;
    for (size_t i = 0; i < world->n_delegations; i++)
        delegation_free(world->delegations[i]);
    model_stop(world->model);
    model_free(world->model);
    packer_clear(&world->packer);
}

/* Agents tell what they have plugged, which is nothing or all of it, and do as they are told. */
static void run_agents(struct world *world, bool all)
{
    bool more = true;

    for (struct agent *agent = RB_MIN(agent_tree, &world->model->agents); agent;
         agent = RB_NEXT(agent_tree, &world->model->agents, agent)) {
        struct plugged plugged[RECORDS_MAX];
        struct end *end;
        size_t n = 0;

        LIST_FOREACH (end, &agent->ends, of_agent)
            if (all && end->dirty && n < RECORDS_MAX) {
                endpoint_copy(&plugged[n].endpoint, &end->endpoint);
                plugged[n++].eventfd_id = eventfd_id(end->eventfd);
            }
        model_agent_inventory(agent, plugged, n);
    }
    for (unsigned turns = 0; more; turns++) {
        struct agent *agent, *next;

        MUST(turns < 1000);
        more = false;
        for (agent = RB_MIN(agent_tree, &world->model->agents); agent; agent = next) {
            struct batch_item items[16];
            const int errors[16] = { 0 };
            enum op op;

            next = RB_NEXT(agent_tree, &world->model->agents, agent);
            if (model_agent_next(agent, items, 16, 32768, &op) == 0)
                continue;
            sync_records(world);
            model_agent_results(agent, errors);
            check_model(world->model);
            more = true;
            break;
        }
    }
    check_model_at_rest(world->model);
    MUST(!model_is_recovering(world->model));
}

static void fuzz_model(struct input *input)
{
    struct store store = { .n = 0 }, before = { .n = 0 };
    unsigned flags = input_byte(input);
    struct world world;

    while (input_left(input) > 0 && store.n < RECORDS_MAX) {
        struct piece piece = take_piece(input);

        store_put(&store, piece.kind, piece.number, piece.bytes, piece.length);
    }
    world_open(&world, &store, false, flags);
    world_close(&world);
    store_copy(&store, &before);
    for (int i = 0; i < 2; i++) {
        world_open(&world, &store, true, 0);
        MUST(store_equal(&store, &before));
        run_agents(&world, i > 0);
        sync_records(&world);
        world_close(&world);
        store_clear(&before);
        store_copy(&store, &before);
    }
    world_open(&world, &store, true, 0);
    MUST(store_equal(&store, &before));
    world_close(&world);
    store_clear(&store);
    store_clear(&before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = { data, data + size };
    unsigned mode = input_byte(&input);
    size_t before;

    fuzz_quiet();
    if (!aio)
        MUST(evaio_new(&aio) == 0);
    before = fuzz_count_fds();
    fail_at(mode == 'x' ? input_byte(&input) : 0);
    if (mode == 'x')
        mode = input_byte(&input);
    switch (mode) {
    case 'l':
    case 'f':
        fuzz_ledger(&input, mode == 'f');
        break;
    case 'n':
        fuzz_new_ledger(&input);
        break;
    case 'm':
        fuzz_model(&input);
        break;
    default:
        break;
    }
    MUST(fuzz_count_fds() == before);
    return 0;
}
