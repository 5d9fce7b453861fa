/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Holding: one at a time, many at a time, and beside many that are held. Lists beside others' calls. */
#include "bench.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define WINDOW 32
#define MANY 200
#define MANY_WINDOW 4
#define N_HOLD 2000
#define N_MANY 10
#define N_FEW 1000
#define N_HELD 15000
#define LISTS 4

/* Seconds from one Status to the next. */
#define PACE 0.005

static int fds[MANY];

/* ---- Beside the bare loop ---- */

static void beside_bare(struct broker *broker, struct row *row, size_t n, size_t many, size_t window)
{
    struct texts hold = texts_hold("h", n, many, true), release = texts_release("h", many ? n * many : n),
                 bytes = texts_bytes('h', n), end = texts_bytes('r', 1);
    size_t n_fds = many ? many : 1;
    int client = connect_to(broker->path), pair[2];
    pid_t bare;

    if (client < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        die("no sockets: %m");
    bare = child_start(bare_store, &pair[1]);
    for (int i = 0; i < ROUNDS + 1; i++) {
        double ours = (double)(n * n_fds) / pump(client, &hold, fds, n_fds, window, 0) / 1000, other;

        (void)pump(client, &release, NULL, 0, WINDOW, 0);
        other = (double)(n * n_fds) / pump(pair[0], &bytes, fds, n_fds, window, 1) / 1000;
        (void)pump(pair[0], &end, NULL, 0, 1, 1);
        /* The first round warms up. */
        if (i > 0) {
            series_add(&row->ours, ours);
            series_add(&row->other, other);
        }
    }
    child_stop(bare);
    close(pair[0]);
    close(pair[1]);
    close(client);
    texts_clear(&hold);
    texts_clear(&release);
    texts_clear(&bytes);
    texts_clear(&end);
}

/* ---- Beside many that are held ---- */

static void fill(int client, size_t n)
{
    struct texts texts = texts_hold("held", n / MANY, MANY, true);

    (void)pump(client, &texts, fds, MANY, MANY_WINDOW, 0);
    texts_clear(&texts);
}

struct lister {
    struct evlink_client *client;
    struct series took;
    size_t seen;
    volatile bool over;
};

static int on_listed(void *userdata, const struct evlink_eventfd_info *info)
{
    struct lister *lister = userdata;

    (void)info;
    lister->seen++;
    return 0;
}

static void *list(void *userdata)
{
    struct lister *lister = userdata;

    for (int i = 0; i < LISTS; i++) {
        double begun = now();

        must(evlink_list_eventfds(lister->client, NULL, on_listed, lister), "ListEventfds", lister->client);
        series_add(&lister->took, (now() - begun) * 1e3);
    }
    lister->over = true;
    return NULL;
}

/*
 * Calls at a steady pace until it is over, n at the least. A call that comes late counts from when it was
 * due: who waits for an answer does not see how long others would have waited.
 */
static void call_status(struct broker *broker, struct series *took, size_t n, const volatile bool *over)
{
    struct evlink_status status;
    double due = now(), begun;

    for (size_t i = 0; i < n || !*over; i++) {
        begun = now();
        if (begun < due) {
            (void)usleep((useconds_t)((due - begun) * 1e6));
            begun = now();
        } else {
            begun = due;
        }
        must(evlink_status(broker->client, &status), "Status", broker->client);
        series_add(took, (now() - begun) * 1e3);
        due += PACE;
    }
}

static void list_beside_status(struct broker *broker, struct row *row)
{
    struct lister lister = { .over = true };
    struct series took = { 0 }, quiet = { 0 };
    pthread_t thread;

    must(evlink_client_open(broker->path, &lister.client), "connecting", NULL);
    call_status(broker, &quiet, 200, &lister.over);
    lister.over = false;
    if (pthread_create(&thread, NULL, list, &lister) != 0)
        die("no thread");
    call_status(broker, &took, 0, &lister.over);
    (void)pthread_join(thread, NULL);
    if (lister.seen < (size_t)LISTS * N_HELD)
        die("the list is not whole");
    /* One figure: that 99 of 100 calls are below. */
    series_add(&row->ours, series_at(&took, 0.99));
    series_add(&row->other, series_at(&quiet, 0.99));
    row_note(row, "p50 %.2f, max %.2f, of %zu calls; a list takes %.0f ms", series_at(&took, 0.5),
        series_max(&took), took.n, series_at(&lister.took, 0.5));
    evlink_client_free(lister.client);
    series_clear(&lister.took);
    series_clear(&took);
    series_clear(&quiet);
}

static void beside_many(struct broker *few, struct row *row, struct row *listing)
{
    struct texts hold = texts_hold("m", N_FEW, 0, true), release = texts_release("m", N_FEW);
    struct broker many;
    int clients[2];

    broker_start(&many);
    clients[0] = connect_to(few->path);
    clients[1] = connect_to(many.path);
    fill(clients[0], N_FEW);
    fill(clients[1], N_HELD);
    /* More of them: the vault cleans up in some and not in others. */
    for (int i = 0; i < 3 * ROUNDS + 1; i++)
        for (int which = 0; which < 2; which++) {
            double rate = N_FEW / pump(clients[which], &hold, fds, 1, WINDOW, 0) / 1000;

            (void)pump(clients[which], &release, NULL, 0, WINDOW, 0);
            if (i > 0)
                series_add(which ? &row->ours : &row->other, rate);
        }
    list_beside_status(&many, listing);
    close(clients[0]);
    close(clients[1]);
    broker_stop(&many);
    texts_clear(&hold);
    texts_clear(&release);
}

void bench_hold(void)
{
    struct row *one = row_new("Hold, 32 in flight", "bare SCM_RIGHTS store loop", "k/s", RATIO_AT_LEAST, 0.5),
               *many = row_new(
                   "HoldMany of 200", "the same, 200 a message; eventfds", "k/s", RATIO_AT_LEAST, 0.6),
               *held = row_new("Hold at 15,000 held", "at 1,000 held", "k/s", RATIO_AT_LEAST, 0.9),
               *listing = row_new("Status while 15,000 are listed, p99", "the same while nothing is listed",
                   "ms", OURS_AT_MOST, 2);
    struct broker broker;
    struct rlimit limit;

    for (size_t i = 0; i < MANY; i++)
        if ((fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
            die("no eventfd: %m");
    broker_start(&broker);
    beside_bare(&broker, one, N_HOLD, 0, WINDOW);
    beside_bare(&broker, many, N_MANY, MANY, MANY_WINDOW);
    if (geteuid() != 0) {
        row_skip(held, "takes two brokers, each with a user of its own: run it as root");
        row_skip(listing, "the same");
    } else if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max < N_HELD + 4000) {
        row_skip(held, "RLIMIT_NOFILE is below %d", N_HELD + 4000);
        row_skip(listing, "RLIMIT_NOFILE is below %d", N_HELD + 4000);
    } else {
        beside_many(&broker, held, listing);
    }
    broker_stop(&broker);
    for (size_t i = 0; i < MANY; i++)
        close(fds[i]);
}
