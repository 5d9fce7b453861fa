/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What outlives this process: see vault.h. */
#include "service/vault.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/crash.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/numbers.h"
#include "model/record.h"
#include "service/connection.h"
#include "service/session.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* With room for more than so many descriptors, more pairs of sockets hold them. */
#define MANY_FDS 40000

struct vault {
    struct server *server;
    struct ledger *ledger;
    struct shelf *shelf;
    struct packer packer;
    struct event *cleaning;
    bool broken; /* something could not be staged */
    bool is_new; /* to be put into the store */
    struct vault_report report;
};

/* Where a signal that ends the process leaves its number. */
static struct ledger_life *life;

/* ---- What is recorded -------------------------------------------------------------------------------------
 */

static void clean_later(struct vault *vault, int64_t wait)
{
    const struct timeval interval = { .tv_sec = wait / USEC_PER_SEC, .tv_usec = wait % USEC_PER_SEC };

    if (wait >= 0 && event_add(vault->cleaning, &interval) < 0)
        log_warning("cannot set the vault's timer: what was released is kept for longer");
}

static void on_cleaning(evutil_socket_t fd, short what, void *userdata)
{
    struct vault *vault = userdata;

    (void)fd;
    (void)what;
    clean_later(vault, shelf_clean(vault->shelf));
}

int vault_flush(struct vault *vault)
{
    return shelf_flush(vault->shelf);
}

int vault_sync(struct vault *vault)
{
    struct model *model = vault->server->model;
    struct saved *saved;
    int r;

    /* What a record refers to comes first. */
    r = vault_flush(vault);
    if (r < 0)
        return r;
    while ((saved = model_next_due(model))) {
        vault->packer.length = 0;
        model_record(saved, &vault->packer);
        if (vault->packer.failed)
            return -ENOMEM;
        r = ledger_put(vault->ledger, saved->kind, saved->number, vault->packer.bytes, vault->packer.length);
        if (r < 0)
            return r;
    }
    r = vault->broken ? -ENOMEM : ledger_commit(vault->ledger);
    if (r < 0)
        return r;
    clean_later(vault, shelf_settle(vault->shelf));
    return 0;
}

void vault_ended(struct vault *vault, enum saved_kind kind, uint64_t number)
{
    vault->broken |= ledger_delete(vault->ledger, kind, number) < 0;
}

static void give(struct eventfd *eventfd, struct item *item)
{
    eventfd->item = item;
    eventfd->number = item_number(item);
}

int vault_keep(struct vault *vault, struct eventfd **eventfds, size_t n)
{
    struct item *items[HOLD_MOST];
    int fds[HOLD_MOST] = { -1 }, r;

    if (ledger_is_crowded(vault->ledger))
        return -ENOBUFS;
    for (size_t i = 0; i < n; i++)
        fds[i] = eventfds[i]->fd;
    r = shelf_put(vault->shelf, SHELF_EVENTFDS, fds, n, items);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++)
        give(eventfds[i], items[i]);
    return 0;
}

int vault_keep_later(struct vault *vault, struct eventfd *eventfd)
{
    struct item *item;
    int r;

    if (ledger_is_crowded(vault->ledger))
        return -ENOBUFS;
    r = shelf_put_later(vault->shelf, eventfd->fd, &item);
    if (r == 0)
        give(eventfd, item);
    return r;
}

void vault_unkeep(struct vault *vault, struct eventfd *eventfd)
{
    vault_drop(vault, eventfd->item);
}

int vault_keep_fd(struct vault *vault, int fd, struct item **ret_item)
{
    return shelf_put(vault->shelf, SHELF_AGENTS, &fd, 1, ret_item);
}

void vault_drop(struct vault *vault, struct item *item)
{
    shelf_drop(vault->shelf, item);
}

/* ---- Counts that are under way
 * ------------------------------------------------------------------------------ */

int vault_drain(struct vault *vault, const struct end *end, struct eventfd *eventfd, uint64_t *ret_count)
{
    struct ledger_slot *slot =
        end ? ledger_slot(vault->ledger, 0, end->link->saved.number, end_place_number(end))
            : ledger_slot(vault->ledger, 0, eventfd->number, RESTORE_BACK);
    int r;

    r = eventfd_drain(eventfd->fd, slot ? &slot->count : ret_count);
    if (slot)
        *ret_count = slot->count;
    crash_point("vault: a counter was read");
    return r;
}

int vault_drain_source(
    struct vault *vault, uint64_t number, int fd, uint64_t *ret_count, struct ledger_slot **ret_slot)
{
    struct ledger_slot *slot = ledger_slot(vault->ledger, 0, number, RESTORE_BACK);
    int r;

    r = eventfd_drain(fd, slot ? &slot->count : ret_count);
    if (slot)
        *ret_count = slot->count;
    *ret_slot = slot;
    crash_point("vault: a relay's source was read");
    return r;
}

void vault_drained(struct vault *vault, struct ledger_slot *slot)
{
    if (slot)
        ledger_slot_done(vault->ledger, slot);
}

/* ---- Coming back
 * ---------------------------------------------------------------------------------------------- */

/* A record of the ledger. */
struct piece {
    enum saved_kind kind;
    uint64_t number;
    const unsigned char *bytes;
    size_t length;
};

struct recovery {
    struct vault *vault;
    struct piece *pieces;
    size_t n_pieces, pieces_size;
    uint64_t *numbers;
    size_t n_numbers, numbers_size;
    struct item **items;
    int *fds;
    struct restore restore;
    bool failed; /* memory is out */
};

static bool grow(void *array, size_t n, size_t *size, size_t each)
{
    void *more = n < *size ? *(void **)array : reallocarray(*(void **)array, 2 * n + 256, each);

    if (!more)
        return false;
    *(void **)array = more;
    *size = n < *size ? *size : 2 * n + 256;
    return true;
}

static void add_number(void *userdata, uint64_t number)
{
    struct recovery *recovery = userdata;

    if (grow(&recovery->numbers, recovery->n_numbers, &recovery->numbers_size, sizeof(uint64_t)))
        recovery->numbers[recovery->n_numbers++] = number;
    else
        recovery->failed = true;
}

static void add_piece(
    void *userdata, unsigned kind, uint64_t number, const unsigned char *bytes, size_t length)
{
    struct recovery *recovery = userdata;

    if (!grow(&recovery->pieces, recovery->n_pieces, &recovery->pieces_size, sizeof(struct piece))) {
        recovery->failed = true;
        return;
    }
    recovery->pieces[recovery->n_pieces++] =
        (struct piece){ .kind = kind, .number = number, .bytes = bytes, .length = length };
    /* What cannot be read is told when it is its turn. */
    (void)record_numbers(kind, bytes, length, add_number, recovery);
}

static void sort_numbers(struct recovery *recovery)
{
    size_t n = 0;

    if (recovery->n_numbers > 0)
        qsort(recovery->numbers, recovery->n_numbers, sizeof(uint64_t), numbers_compare);
    for (size_t i = 0; i < recovery->n_numbers; i++)
        if (n == 0 || recovery->numbers[i] != recovery->numbers[n - 1])
            recovery->numbers[n++] = recovery->numbers[i];
    recovery->n_numbers = n;
}

/* Takes what was found under numbers[i]. */
static int take(struct recovery *recovery, size_t i, struct item **ret_item)
{
    int fd = recovery->fds[i];

    *ret_item = recovery->items[i];
    recovery->items[i] = NULL;
    recovery->fds[i] = -1;
    return fd;
}

static int give_eventfd(void *userdata, size_t i, void **ret_item)
{
    struct recovery *recovery = userdata;
    struct item *item;
    int fd, is = 1;

    fd = take(recovery, i, &item);
    if (fd >= 0)
        is = evaio_is_eventfd(recovery->vault->server->aio, fd);
    if (is < 0)
        recovery->failed = true; /* who knows? */
    if (is == 0) {
        log_error("what the vault has as eventfd %" PRIu64 " is none", recovery->numbers[i]);
        shelf_drop(recovery->vault->shelf, item);
        fd = -1;
    }
    *ret_item = item;
    return fd;
}

static int find_fd(struct recovery *recovery, uint64_t number, struct item **ret_item)
{
    const uint64_t *found = number == 0 ? NULL : numbers_find(recovery->numbers, recovery->n_numbers, number);

    *ret_item = NULL;
    return found ? take(recovery, (size_t)(found - recovery->numbers), ret_item) : -1;
}

static int give_agent(void *userdata, struct agent *agent)
{
    struct recovery *recovery = userdata;
    struct item *socket, *pidfd;
    int fd = find_fd(recovery, agent->socket, &socket), process = find_fd(recovery, agent->pidfd, &pidfd);
    bool whole = agent->lost ? process >= 0 : fd >= 0;

    if (!agent->lost)
        recovery->vault->report.agents++;
    if (!whole)
        log_error("the socket of agent %s is lost, and it is with it", agent->name);
    if (session_restore(recovery->vault->server, agent, fd, socket, process, pidfd) < 0) {
        recovery->failed = true;
        return -ENOMEM;
    }
    return whole ? 0 : -ENOENT;
}

static int give_delegation(void *userdata, struct delegation *delegation)
{
    struct recovery *recovery = userdata;
    struct item *socket, *memory;
    int fd = find_fd(recovery, delegation->socket, &socket),
        line = find_fd(recovery, delegation->line, &memory);
    int r;

    r = connection_restore(recovery->vault->server, fd, socket, line, memory, delegation);
    if (r == -ENOMEM)
        recovery->failed = true;
    return r;
}

static void give_count(void *userdata, const struct ledger_slot *slot)
{
    struct recovery *recovery = userdata;

    model_restore_count(&recovery->restore, slot->number, slot->place, slot->count);
}

static void restore_pieces(struct recovery *recovery, enum saved_kind kind, bool gone)
{
    static const char *const what[] = {
        [SAVED_HELD] = "held eventfd",
        [SAVED_AGENT] = "agent",
        [SAVED_LINK] = "link",
        [SAVED_DELEGATION] = "delegated connection",
    };
    int r;

    for (size_t i = 0; i < recovery->n_pieces && !recovery->failed; i++) {
        const struct piece *piece = &recovery->pieces[i];

        if (piece->kind != kind)
            continue;
        r = model_restore_record(&recovery->restore, kind, piece->number, piece->bytes, piece->length, gone);
        /* Where only means are short the next process has it, maybe: nothing is lost for that. */
        if (r < 0 && r != -EBADMSG && r != -ENOENT && r != -EEXIST) {
            log_error("record %" PRIu64 " of the vault, a %s, cannot be restored now: %s", piece->number,
                what[kind], strerror(-r));
            recovery->failed = true;
        }
        if (r >= 0 || recovery->failed)
            continue;
        log_error("record %" PRIu64 " of the vault, a %s, cannot be used, and is lost: %s", piece->number,
            what[kind], r == -ENOENT ? "its descriptor is not there" : strerror(-r));
        vault_ended(recovery->vault, kind, piece->number);
    }
}

static int restore(struct vault *vault)
{
    struct recovery recovery = {
        .vault = vault,
        .restore = { .model = vault->server->model,
            .eventfd = give_eventfd,
            .agent = give_agent,
            .delegation = give_delegation },
    };
    int r = -ENOMEM;

    recovery.restore.userdata = &recovery;
    ledger_each(vault->ledger, add_piece, &recovery);
    sort_numbers(&recovery);
    recovery.items = calloc(recovery.n_numbers + 1, sizeof(struct item *));
    recovery.fds = calloc(recovery.n_numbers + 1, sizeof(int));
    if (recovery.failed || !recovery.items || !recovery.fds)
        goto end;
    r = shelf_recover(vault->shelf, recovery.numbers, recovery.n_numbers, recovery.items, recovery.fds);
    if (r < 0) {
        log_error("the vault's descriptors cannot be read: %s", strerror(-r));
        goto end;
    }
    recovery.restore.numbers = recovery.numbers;
    recovery.restore.n_numbers = recovery.n_numbers;
    r = model_restore(&recovery.restore);
    if (r < 0)
        goto end;
    restore_pieces(&recovery, SAVED_HELD, false);
    restore_pieces(&recovery, SAVED_AGENT, false);
    restore_pieces(&recovery, SAVED_LINK, false);
    restore_pieces(&recovery, SAVED_LINK, true);
    restore_pieces(&recovery, SAVED_DELEGATION, false);
    if (recovery.failed) {
        model_restore_failed(&recovery.restore);
        r = -ENOMEM;
        goto end;
    }
    ledger_each_slot(vault->ledger, give_count, &recovery);
    crash_point("vault: all is back");
    model_restored(&recovery.restore);
    for (size_t i = 0; i < recovery.n_numbers; i++)
        shelf_drop(vault->shelf, recovery.items[i]);
    vault->report.eventfds = recovery.restore.held;
    vault->report.links = recovery.restore.links;
    r = vault_sync(vault);
    if (r == 0)
        ledger_forget_slots(vault->ledger);

end:
    free(recovery.pieces);
    free(recovery.numbers);
    free(recovery.items);
    free(recovery.fds);
    return r;
}

/* ---- Beginning and end
 * ------------------------------------------------------------------------------------------ */

#define LEDGER_NAME "vault-log"

static void end_name(const struct shelf *shelf, size_t i, char name[static 32])
{
    char end[16];

    (void)shelf_end(shelf, i, end);
    (void)snprintf(name, 32, "vault-%s", end);
}

static size_t n_old(void)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > MANY_FDS ? SHELF_OLD_MAX : 2;
}

/* Puts a new vault into the store; it may be opened from when all of it is there. */
static int store(struct vault *vault)
{
    char name[32], end[16];
    int r, fd;

    r = passed_store(LEDGER_NAME, ledger_fd(vault->ledger));
    for (size_t i = 0; r == 0 && (fd = shelf_end(vault->shelf, i, end)) >= 0; i++) {
        end_name(vault->shelf, i, name);
        r = passed_store(name, fd);
        crash_point("vault: a descriptor was stored");
    }
    if (r == 0)
        r = passed_barrier();
    crash_point("vault: all is stored");
    if (r == 0)
        ledger_complete(vault->ledger);
    else
        log_error("cannot put the vault into the service manager's descriptor store: %s",
            r == -ENOTCONN ? "there is no NOTIFY_SOCKET; run evlinkd as a service, or with --supervise"
                           : strerror(-r));
    return r;
}

static int make(struct vault *vault)
{
    int r;

    vault->is_new = true;
    r = ledger_new(&vault->ledger);
    if (r == 0)
        r = shelf_new(n_old(), &vault->shelf);
    if (r < 0)
        log_error("cannot make the vault: %s", strerror(-r));
    return r < 0 ? r : store(vault);
}

/* What an evlinkd that died early had stored of a vault that never was one. */
static void unstore(struct passed *passed)
{
    static const char *const ends[] = { "log", "young-in", "young-out", "agents-in", "agents-out", "old1-in",
        "old1-out", "old2-in", "old2-out", "old3-in", "old3-out", "old4-in", "old4-out" };
    char name[32];

    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        int fd;

        (void)snprintf(name, sizeof(name), "vault-%s", ends[i]);
        while ((fd = passed_take(passed, name)) >= 0)
            fd_close(fd);
        (void)passed_unstore(name);
    }
}

/* The shelf beside a ledger: as many old pairs as there are. */
static int open_shelf(struct vault *vault, struct passed *passed)
{
    static const char *const queues[] = { "young", "agents", "old1", "old2", "old3", "old4" };
    int ends[2 * ARRAY_SIZE(queues)];
    size_t pairs = 0;
    char name[32];

    for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
        (void)snprintf(name, sizeof(name), "vault-%s-%s", queues[i / 2], i % 2 ? "out" : "in");
        ends[i] = passed_take(passed, name);
        if (ends[i] >= 0)
            pairs = i / 2 + 1;
    }
    if (pairs < 3)
        pairs = 3;
    return shelf_open(ends, pairs - 2, &vault->shelf);
}

static int open_passed(struct vault *vault, struct passed *passed, int fd)
{
    int r;

    r = ledger_open(fd, &vault->ledger);
    if (r == -ENODATA) {
        log_notice("a vault was begun and never completed: beginning afresh");
        unstore(passed);
        return make(vault);
    }
    if (r < 0) {
        log_error(
            "the vault cannot be read: %s. To begin afresh, and lose what it holds, stop the service and "
            "start it again",
            strerror(-r));
        return r;
    }
    r = open_shelf(vault, passed);
    if (r < 0) {
        log_error("a part of the vault is missing from the descriptor store: %s", strerror(-r));
        return r;
    }
    vault->report.last = ledger_last_life(vault->ledger);
    return restore(vault);
}

/* The next process is to know what this one died of. */
static void on_fatal(int number)
{
    if (life)
        life->ended = number;
    (void)raise(number); /* SA_RESETHAND */
}

static void begin_life(struct vault *vault)
{
    static const int fatal[] = { SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
    const struct sigaction action = { .sa_handler = on_fatal, .sa_flags = (int)SA_RESETHAND };

    life = ledger_life(vault->ledger);
    life->started_at = vault->server->started_at;
    life->starts++;
    life->ended = 0;
    for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
        (void)sigaction(fatal[i], &action, NULL);
}

int vault_open(struct server *server, struct passed *passed)
{
    int64_t begin = clock_monotonic();
    struct vault *vault = calloc(1, sizeof(*vault));
    int fd, r;

    if (!vault)
        return -ENOMEM;
    vault->server = server;
    server->vault = vault;
    vault->cleaning = evtimer_new(server->base, on_cleaning, vault);
    if (!vault->cleaning)
        return -ENOMEM;
    fd = passed_take(passed, LEDGER_NAME);
    if (fd >= 0) {
        r = open_passed(vault, passed, fd);
    } else {
        unstore(passed);
        r = make(vault);
    }
    if (r < 0)
        return r;
    begin_life(vault);
    vault->report.took = clock_monotonic() - begin;
    return 0;
}

struct vault *vault_free(struct vault *vault, bool stopped)
{
    if (!vault)
        return NULL;
    if (life && stopped)
        life->ended = LEDGER_STOPPED;
    life = NULL;
    if (vault->cleaning)
        event_free(vault->cleaning);
    shelf_free(vault->shelf);
    ledger_free(vault->ledger);
    packer_clear(&vault->packer);
    free(vault);
    return NULL;
}

const struct vault_report *vault_report(const struct vault *vault)
{
    return &vault->report;
}
