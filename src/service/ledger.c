/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records in a memfd: see ledger.h.
 *
 * Layout, in this machine's byte order: a header, then two halves of HALF_SIZE each, of which only as much is
 * backed by memory as is written. A half is records, one behind the other. Which half is in use, and up to
 * where, is in the header. Whoever changes any of this raises LEDGER_VERSION, reads the older ones still, and
 * adds a sample (tests/vault-samples).
 */
#include "service/ledger.h"
#include "base/cleanup.h"
#include "base/crash.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/pack.h"
#include "base/reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LEDGER_VERSION 1
#define HALF_SIZE ((uint64_t)256 * 1024 * 1024)
#define N_SLOTS 256

struct header {
    char magic[8];
    uint32_t version;
    uint32_t complete;
    uint64_t active;
    uint64_t tail[2];
    struct ledger_life life;
    unsigned char reserved[512 - 64];
    struct ledger_slot slots[N_SLOTS];
};

static const char magic[8] = "evlinkv";

/* The header's, in the file. */
#define HEADER_SIZE ((uint64_t)16384)
_Static_assert(sizeof(struct header) <= HEADER_SIZE, "the header has grown");
_Static_assert(offsetof(struct header, slots) == 512, "the header's layout is fixed");

#define FILE_SIZE (HEADER_SIZE + 2 * HALF_SIZE)

/* The buffer of what is staged is kept up to this. */
#define STAGED_KEEP ((size_t)64 * 1024)

/* Holes begin and end at a multiple of this, if not of more. */
#define PAGE ((uint64_t)4096)

/* Memory is taken in such pieces. */
#define PIECE ((uint64_t)128 * 1024)

struct record {
    uint32_t length; /* with this head, without what makes it a multiple of 8 */
    uint32_t check;  /* of all that follows */
    uint32_t kind;
    uint32_t gone; /* 1: the object is no more */
    uint64_t number;
    unsigned char bytes[];
};

/* Where the latest record of an object is. There is one for each object: small. */
struct entry {
    uint64_t number;
    uint32_t kind : 8;
    uint32_t move : 24; /* the one since whose beginning place[] is good for both halves */
    uint32_t length;    /* of the record; 0: the object is gone */
    uint32_t place[2];  /* in each half, in units of 8 bytes; that in use is always good */
};
_Static_assert(HALF_SIZE / 8 <= UINT32_MAX, "a place has to fit");

#define KINDS 256
#define MOVES (UINT32_C(1) << 24)

struct ledger {
    int fd;
    struct header *header;
    unsigned char *halves[2];
    uint64_t backed[2];
    uint64_t tail; /* of the half in use, as committed */
    uint64_t live; /* bytes of the records that count */
    unsigned active;
    /* While what is live moves to the other half: how far that is, and up to which entry. */
    bool moving;
    uint32_t move; /* which one this is, never 0 */
    uint64_t other_tail;
    uint32_t moved_kind;
    uint64_t moved_number;
    /* In the order of numbers, in which nearly all of them come. Those of objects that are gone are left
     * where they are until they are many. */
    struct entry *entries;
    size_t n_entries, n_gone, entries_size;
    struct packer staged; /* records as they will stand */
    size_t n_staged;
    size_t n_slots; /* those below may be taken */
    struct ledger_life last;
    size_t n_old_slots;
    struct ledger_slot old_slots[N_SLOTS];
};

static uint64_t round_up(uint64_t length)
{
    return (length + 7) & ~UINT64_C(7);
}

/* FNV-1a */
static uint32_t check_of(const struct record *record)
{
    const unsigned char *bytes = (const unsigned char *)&record->kind;
    size_t n = record->length - offsetof(struct record, kind);
    uint32_t check = 2166136261u;

    for (size_t i = 0; i < n; i++)
        check = (check ^ bytes[i]) * 16777619u;
    return check;
}

static struct record *record_at(const struct ledger *ledger, unsigned half, uint64_t place)
{
    return (struct record *)(ledger->halves[half] + place);
}

/* ---- Entries ----------------------------------------------------------------------------------------------
 */

static int entry_compare(const struct entry *entry, uint64_t number, unsigned kind)
{
    if (entry->number != number)
        return entry->number < number ? -1 : 1;
    return (entry->kind > kind) - (entry->kind < kind);
}

/* The first entry that is not before. */
static size_t lower_bound(const struct ledger *ledger, uint64_t number, unsigned kind)
{
    size_t low = 0, high = ledger->n_entries;

    if (high > 0 && entry_compare(&ledger->entries[high - 1], number, kind) < 0)
        return high;
    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (entry_compare(&ledger->entries[middle], number, kind) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The entry of an object that is not gone; NULL: there is none. */
static struct entry *find(const struct ledger *ledger, unsigned kind, uint64_t number)
{
    size_t i = lower_bound(ledger, number, kind);

    return i < ledger->n_entries && entry_compare(&ledger->entries[i], number, kind) == 0 &&
                   ledger->entries[i].length > 0
               ? &ledger->entries[i]
               : NULL;
}

static uint64_t place_in(const struct entry *entry, unsigned half)
{
    return (uint64_t)entry->place[half] * 8;
}

/* Room for n more. */
static int reserve(struct ledger *ledger, size_t n)
{
    size_t size = ledger->n_entries + n;
    struct entry *entries;

    if (size <= ledger->entries_size)
        return 0;
    size += size / 2;
    entries = reserve_realloc(ledger->entries, size * sizeof(*entries));
    if (!entries)
        return -ENOMEM;
    ledger->entries = entries;
    ledger->entries_size = size;
    return 0;
}

/* Forgets those that are gone, when half of them are. */
static void tidy(struct ledger *ledger)
{
    size_t n = 0;

    if (2 * ledger->n_gone <= ledger->n_entries)
        return;
    for (size_t i = 0; i < ledger->n_entries; i++)
        if (ledger->entries[i].length > 0)
            ledger->entries[n++] = ledger->entries[i];
    ledger->n_entries = n;
    ledger->n_gone = 0;
}

/* Notes that an object's latest record stands there. There is room for its entry: see reserve(). */
static void enter(struct ledger *ledger, unsigned half, uint64_t place)
{
    const struct record *record = record_at(ledger, half, place);
    size_t i = lower_bound(ledger, record->number, record->kind);
    struct entry *entry = &ledger->entries[i];
    bool known = i < ledger->n_entries && entry_compare(entry, record->number, record->kind) == 0;

    if (!known && record->gone)
        return;
    if (!known) {
        memmove(entry + 1, entry, (ledger->n_entries - i) * sizeof(*entry));
        *entry = (struct entry){ .number = record->number, .kind = (unsigned char)record->kind };
        ledger->n_entries++;
        ledger->n_gone++;
    }
    ledger->n_gone -= entry->length == 0;
    ledger->live -= round_up(entry->length);
    entry->length = record->gone ? 0 : record->length;
    ledger->n_gone += entry->length == 0;
    ledger->live += round_up(entry->length);
    entry->place[half] = (uint32_t)(place / 8);
    if (half != ledger->active)
        entry->move = ledger->move % MOVES;
}

/* Whether a record stands there, and is what it was. */
static bool is_good(const struct record *record, uint64_t left)
{
    return left >= sizeof(*record) && record->length >= sizeof(*record) && round_up(record->length) <= left &&
           record->kind < KINDS && record->check == check_of(record);
}

/* From here on, the next place of the half in use that has memory: reading a hole would fill it. */
static uint64_t skip_hole(const struct ledger *ledger, uint64_t place)
{
    const off_t half = (off_t)(HEADER_SIZE + ledger->active * HALF_SIZE);
    off_t data = lseek(ledger->fd, half + (off_t)place, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? ledger->tail : place;
    return (uint64_t)(data - half) < ledger->tail ? (uint64_t)(data - half) : ledger->tail;
}

/* Reads the half in use from its beginning. What is damaged is passed over, up to the next that is not. */
static int replay(struct ledger *ledger)
{
    uint64_t place = 0, lost = 0;
    int r = 0;

    while (place < ledger->tail && r == 0) {
        const struct record *record = record_at(ledger, ledger->active, place);
        uint64_t next = lost > 0 && place % PAGE == 0 ? skip_hole(ledger, place) : place;

        if (next > place) {
            lost += next - place;
            place = next;
            continue;
        }
        if (is_good(record, ledger->tail - place)) {
            r = reserve(ledger, 1);
            if (r == 0)
                enter(ledger, ledger->active, place);
            place += round_up(record->length);
            continue;
        }
        lost += 8;
        place += 8;
    }
    if (lost > 0)
        log_error("the vault is damaged: %" PRIu64
                  " bytes of its records cannot be read, and what they were of is "
                  "lost, or as it was before",
            lost);
    tidy(ledger);
    return r;
}

/* ---- Room -------------------------------------------------------------------------------------------------
 */

/* An unbacked page is SIGBUS. */
static int back(struct ledger *ledger, unsigned half, uint64_t up_to)
{
    uint64_t backed = ledger->backed[half], length;

    if (up_to <= backed)
        return 0;
    length = (up_to - backed + PIECE - 1) / PIECE * PIECE;
    if (backed + length > HALF_SIZE)
        return -ENOSPC;
    if (fallocate(ledger->fd, 0, (off_t)(HEADER_SIZE + half * HALF_SIZE + backed), (off_t)length) < 0)
        return -errno;
    ledger->backed[half] += length;
    return 0;
}

/* Gives back what a half has beyond so much. */
static void shrink(struct ledger *ledger, unsigned half, uint64_t to)
{
    uint64_t keep = (to + PIECE - 1) / PIECE * PIECE;

    if (ledger->backed[half] <= keep)
        return;
    (void)fallocate(ledger->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        (off_t)(HEADER_SIZE + half * HALF_SIZE + keep), (off_t)(ledger->backed[half] - keep));
    ledger->backed[half] = keep;
}

/* ---- From one half to the other
 * ------------------------------------------------------------------------------ */

/* Copies a record to the other half's tail. */
static int copy_over(struct ledger *ledger, const struct record *record)
{
    unsigned other = !ledger->active;
    uint64_t length = round_up(record->length);
    int r = back(ledger, other, ledger->other_tail + length);

    if (r < 0)
        return r;
    memcpy(ledger->halves[other] + ledger->other_tail, record, record->length);
    ledger->other_tail += length;
    return 0;
}

/* Moves some bytes' worth of what is live. Returns whether all is there now, or -errno. */
static int move_some(struct ledger *ledger, uint64_t bytes)
{
    size_t i = lower_bound(ledger, ledger->moved_number, ledger->moved_kind);
    unsigned other = !ledger->active;
    bool any = false;
    int r;

    for (; i < ledger->n_entries; i++) {
        struct entry *entry = &ledger->entries[i];
        uint64_t length = round_up(entry->length);

        ledger->moved_kind = entry->kind;
        ledger->moved_number = entry->number;
        /* What was written since the move began is there already. */
        if (length == 0 || entry->move == ledger->move)
            continue;
        if (bytes < length && any)
            return 0;
        any = true;
        r = copy_over(ledger, record_at(ledger, ledger->active, place_in(entry, ledger->active)));
        if (r < 0)
            return r;
        entry->place[other] = (uint32_t)((ledger->other_tail - length) / 8);
        entry->move = ledger->move;
        bytes -= length < bytes ? length : bytes;
    }
    return 1;
}

/* The other half has all that is committed, and is the one in use from now on. */
static void flip(struct ledger *ledger)
{
    unsigned old = ledger->active;

    crash_point("ledger: before the halves change");
    ledger->header->tail[!old] = ledger->other_tail;
    __atomic_store_n(&ledger->header->active, !old, __ATOMIC_RELEASE);
    crash_point("ledger: after the halves have changed");
    ledger->active = !old;
    ledger->tail = ledger->other_tail;
    ledger->moving = false;
    shrink(ledger, old, 0);
}

static void begin_move(struct ledger *ledger)
{
    if (ledger->moving)
        return;
    ledger->moving = true;
    ledger->move = ledger->move % (MOVES - 1) + 1;
    ledger->other_tail = 0;
    ledger->moved_kind = 0;
    ledger->moved_number = 0;
}

/* After a commit of so many bytes: moves a little of what is live, where it is time for that. */
static int move_on(struct ledger *ledger, uint64_t committed)
{
    int r;

    if (!ledger->moving && ledger->tail < 2 * ledger->live + PIECE)
        return 0;
    begin_move(ledger);
    r = move_some(ledger, 2 * committed + 4096);
    if (r > 0)
        flip(ledger);
    return r < 0 ? r : 0;
}

/* ---- Changes
 * ------------------------------------------------------------------------------------------------ */

static int stage(struct ledger *ledger, unsigned kind, uint64_t number, bool gone, const unsigned char *bytes,
    size_t length)
{
    static const unsigned char zeros[8];
    struct record record = {
        .length = (uint32_t)(sizeof(record) + length),
        .kind = kind,
        .gone = gone,
        .number = number,
    };
    size_t begin = ledger->staged.length;
    struct record *staged;

    (void)pack_bytes(&ledger->staged, &record, sizeof(record));
    (void)pack_bytes(&ledger->staged, bytes, length);
    (void)pack_bytes(&ledger->staged, zeros, round_up(record.length) - record.length);
    if (ledger->staged.failed)
        return -ENOMEM;
    staged = (struct record *)(ledger->staged.bytes + begin);
    staged->check = check_of(staged);
    ledger->n_staged++;
    return 0;
}

int ledger_put(
    struct ledger *ledger, unsigned kind, uint64_t number, const unsigned char *bytes, size_t length)
{
    const struct entry *entry = find(ledger, kind, number);

    if (length > INT_MAX)
        return -ENOSPC;
    if (entry && entry->length == sizeof(struct record) + length &&
        memcmp(record_at(ledger, ledger->active, place_in(entry, ledger->active))->bytes, bytes, length) == 0)
        return 0;
    return stage(ledger, kind, number, false, bytes, length);
}

int ledger_delete(struct ledger *ledger, unsigned kind, uint64_t number)
{
    return stage(ledger, kind, number, true, NULL, 0);
}

/* Enters what was appended at a place of a half. */
static void enter_all(struct ledger *ledger, unsigned half, uint64_t place, uint64_t end)
{
    for (; place < end; place += round_up(record_at(ledger, half, place)->length))
        enter(ledger, half, place);
}

/* What they were for is on record. */
static void free_slots(struct ledger *ledger)
{
    while (ledger->n_slots > 0)
        ledger->header->slots[--ledger->n_slots].stamp = 0;
}

/* Appends what is staged to a half, from its tail on. What is behind a tail counts for nothing yet. */
static int append_staged(struct ledger *ledger, unsigned half, uint64_t tail)
{
    int r = back(ledger, half, tail + ledger->staged.length);

    if (r == 0)
        memcpy(ledger->halves[half] + tail, ledger->staged.bytes, ledger->staged.length);
    return r;
}

/* The half in use is full: everything goes to the other one at once, with what is staged; the change is the
 * commit. */
static int commit_to_other(struct ledger *ledger)
{
    uint64_t from;
    int r;

    begin_move(ledger);
    r = move_some(ledger, UINT64_MAX);
    if (r < 0)
        return r;
    from = ledger->other_tail;
    r = append_staged(ledger, !ledger->active, from);
    if (r < 0)
        return r;
    ledger->other_tail += ledger->staged.length;
    flip(ledger);
    enter_all(ledger, ledger->active, from, ledger->tail);
    return 0;
}

static int commit_here(struct ledger *ledger)
{
    uint64_t staged = ledger->staged.length, from = ledger->tail, other_from = ledger->other_tail;
    int r;

    r = append_staged(ledger, ledger->active, from);
    if (r == 0 && ledger->moving)
        r = append_staged(ledger, !ledger->active, other_from);
    if (r < 0)
        return r;
    crash_point("ledger: before a commit");
    ledger->tail += staged;
    __atomic_store_n(&ledger->header->tail[ledger->active], ledger->tail, __ATOMIC_RELEASE);
    crash_point("ledger: after a commit");
    enter_all(ledger, ledger->active, from, ledger->tail);
    if (ledger->moving) {
        ledger->other_tail += staged;
        enter_all(ledger, !ledger->active, other_from, ledger->other_tail);
    }
    return 0;
}

int ledger_commit(struct ledger *ledger)
{
    uint64_t staged = ledger->staged.length;
    int r;

    if (ledger->staged.failed)
        return -ENOMEM;
    if (staged > 0) {
        r = reserve(ledger, ledger->n_staged);
        if (r == 0)
            r = ledger->tail + staged > HALF_SIZE ? commit_to_other(ledger) : commit_here(ledger);
        if (r < 0)
            return r;
        tidy(ledger);
    }
    ledger->staged.length = 0;
    ledger->n_staged = 0;
    if (ledger->staged.size > STAGED_KEEP)
        packer_clear(&ledger->staged);
    free_slots(ledger);
    /* What is committed stands: a move that gets no memory begins anew another time. */
    if (staged > 0 && move_on(ledger, staged) < 0)
        ledger->moving = false;
    return 0;
}

void ledger_forget_slots(struct ledger *ledger)
{
    for (size_t i = ledger->n_slots; i < N_SLOTS; i++)
        ledger->header->slots[i].stamp = 0;
}

bool ledger_is_crowded(const struct ledger *ledger)
{
    return ledger->live > HALF_SIZE / 3;
}

void ledger_each(const struct ledger *ledger,
    void (*each)(void *userdata, unsigned kind, uint64_t number, const unsigned char *bytes, size_t length),
    void *userdata)
{
    for (size_t i = 0; i < ledger->n_entries; i++) {
        const struct entry *entry = &ledger->entries[i];

        if (entry->length > 0)
            each(userdata, entry->kind, entry->number,
                record_at(ledger, ledger->active, place_in(entry, ledger->active))->bytes,
                entry->length - sizeof(struct record));
    }
}

/* ---- Slots
 * -------------------------------------------------------------------------------------------------- */

/* Changes with each commit, at the instant that it takes effect. Never 0. */
static uint64_t stamp_of(const struct ledger *ledger)
{
    return (ledger->tail << 1 | ledger->active) + 1;
}

struct ledger_slot *ledger_slot(struct ledger *ledger, uint64_t kind, uint64_t number, uint64_t place)
{
    struct ledger_slot *slot = &ledger->header->slots[ledger->n_slots];

    if (ledger->n_slots == N_SLOTS)
        return NULL;
    ledger->n_slots++;
    *slot = (struct ledger_slot){ .kind = kind, .number = number, .place = place };
    __atomic_store_n(&slot->stamp, stamp_of(ledger), __ATOMIC_RELEASE);
    crash_point("ledger: a slot is taken");
    return slot;
}

void ledger_slot_done(struct ledger *ledger, struct ledger_slot *slot)
{
    __atomic_store_n(&slot->stamp, 0, __ATOMIC_RELEASE);
    if (slot == &ledger->header->slots[ledger->n_slots - 1])
        ledger->n_slots--;
}

void ledger_each_slot(
    const struct ledger *ledger, void (*each)(void *userdata, const struct ledger_slot *slot), void *userdata)
{
    for (size_t i = 0; i < ledger->n_old_slots; i++)
        each(userdata, &ledger->old_slots[i]);
}

/* ---- Beginning and end
 * -------------------------------------------------------------------------------------- */

static int map(int fd, struct ledger **ret_ledger)
{
    struct ledger *ledger = calloc(1, sizeof(*ledger));
    unsigned char *bytes;

    if (!ledger) {
        fd_close(fd);
        return -ENOMEM;
    }
    ledger->fd = fd;
    bytes = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (bytes == MAP_FAILED) {
        int r = -errno;

        ledger_free(ledger);
        return r;
    }
    ledger->header = (struct header *)bytes;
    ledger->halves[0] = bytes + HEADER_SIZE;
    ledger->halves[1] = ledger->halves[0] + HALF_SIZE;
    /* A count that is read into a slot must not meet a page that is not there. */
    (void)mlock(ledger->header, HEADER_SIZE);
    *ret_ledger = ledger;
    return 0;
}

int ledger_new(struct ledger **ret_ledger)
{
    int fd = memfd_create("evlinkd-vault", MFD_CLOEXEC), r;
    struct ledger *ledger;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)FILE_SIZE) < 0 || fallocate(fd, 0, 0, (off_t)HEADER_SIZE) < 0) {
        r = -errno;
        fd_close(fd);
        return r;
    }
    r = map(fd, &ledger);
    if (r < 0)
        return r;
    memcpy(ledger->header->magic, magic, sizeof(magic));
    ledger->header->version = LEDGER_VERSION;
    *ret_ledger = ledger;
    return 0;
}

/* Takes the header for what it is worth. */
static int look_at(struct ledger *ledger)
{
    const struct header *header = ledger->header;

    if (memcmp(header->magic, magic, sizeof(magic)) != 0)
        return -EBADMSG;
    if (header->version == 0 || header->version > LEDGER_VERSION) {
        log_error("the vault is of version %u, and this evlinkd knows those up to %u", header->version,
            LEDGER_VERSION);
        return -EBADMSG;
    }
    if (!header->complete)
        return -ENODATA;
    if (header->active > 1 || header->tail[header->active] > HALF_SIZE)
        return -EBADMSG;
    ledger->active = (unsigned)header->active;
    ledger->tail = header->tail[ledger->active];
    ledger->last = header->life;
    for (size_t i = 0; i < N_SLOTS; i++)
        if (header->slots[i].stamp == stamp_of(ledger) && header->slots[i].count > 0)
            ledger->old_slots[ledger->n_old_slots++] = header->slots[i];
    return 0;
}

int ledger_open(int fd, struct ledger **ret_ledger)
{
    struct ledger *ledger;
    off_t size = lseek(fd, 0, SEEK_END);
    int r;

    if (size != (off_t)FILE_SIZE) {
        fd_close(fd);
        return -EBADMSG;
    }
    r = map(fd, &ledger);
    if (r < 0)
        return r;
    r = look_at(ledger);
    if (r == 0) {
        ledger->backed[ledger->active] = (ledger->tail + PIECE - 1) / PIECE * PIECE;
        /* What a move had left in the other one counts for nothing. */
        (void)fallocate(ledger->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
            (off_t)(HEADER_SIZE + !ledger->active * HALF_SIZE), (off_t)HALF_SIZE);
        r = replay(ledger);
    }
    if (r < 0) {
        ledger_free(ledger);
        return r;
    }
    *ret_ledger = ledger;
    return 0;
}

struct ledger *ledger_free(struct ledger *ledger)
{
    if (!ledger)
        return NULL;
    free(ledger->entries);
    packer_clear(&ledger->staged);
    if (ledger->header)
        (void)munmap(ledger->header, FILE_SIZE);
    fd_close(ledger->fd);
    free(ledger);
    return NULL;
}

int ledger_fd(const struct ledger *ledger)
{
    return ledger->fd;
}

void ledger_complete(struct ledger *ledger)
{
    __atomic_store_n(&ledger->header->complete, 1, __ATOMIC_RELEASE);
}

struct ledger_life *ledger_life(struct ledger *ledger)
{
    return &ledger->header->life;
}

struct ledger_life ledger_last_life(const struct ledger *ledger)
{
    return ledger->last;
}
