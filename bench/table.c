/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Series of figures, the table of them, and the chart: see bench.h. */
#include "bench.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ROWS_MAX 64

static struct row rows[ROWS_MAX];
static size_t n_rows;

void series_add(struct series *series, double value)
{
    if (series->n == series->size) {
        series->size = 2 * series->size + 64;
        series->values = reallocarray(series->values, series->size, sizeof(double));
        if (!series->values)
            die("out of memory");
    }
    series->values[series->n++] = value;
}

double series_mean(const struct series *series)
{
    double sum = 0;

    for (size_t i = 0; i < series->n; i++)
        sum += series->values[i];
    return sum / (double)series->n;
}

double series_max(const struct series *series)
{
    double most = series->values[0];

    for (size_t i = 1; i < series->n; i++)
        most = series->values[i] > most ? series->values[i] : most;
    return most;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double series_at(struct series *series, double part)
{
    if (series->n == 0)
        die("a series of nothing");
    qsort(series->values, series->n, sizeof(double), compare);
    return series->values[(size_t)(part * (double)(series->n - 1))];
}

void series_clear(struct series *series)
{
    free(series->values);
    *series = (struct series){ 0 };
}

struct row *row_new(const char *name, const char *beside, const char *unit, enum goal goal, double limit)
{
    struct row *row = &rows[n_rows++];

    if (n_rows > ROWS_MAX)
        die("too many rows");
    *row = (struct row){ .name = name, .beside = beside, .unit = unit, .goal = goal, .limit = limit };
    return row;
}

void row_skip(struct row *row, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(row->skipped, sizeof(row->skipped), format, arguments);
    va_end(arguments);
}

void row_note(struct row *row, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(row->note, sizeof(row->note), format, arguments);
    va_end(arguments);
}

static double ratio_of(struct row *row)
{
    return series_at(&row->ours, 0.5) / series_at(&row->other, 0.5);
}

static bool is_reached(struct row *row)
{
    switch (row->goal) {
    case RATIO_AT_LEAST:
        return !row->failed && ratio_of(row) >= row->limit;
    case RATIO_AT_MOST:
        return !row->failed && ratio_of(row) <= row->limit;
    case OURS_AT_MOST:
        return !row->failed && series_at(&row->ours, 0.5) <= row->limit;
    case NO_GOAL:
        break;
    }
    return !row->failed;
}

/* Some four digits. */
static const char *figure(char text[static 16], double value)
{
    (void)snprintf(text, 16, value >= 1000 ? "%.0f" : value >= 100 ? "%.1f" : "%.2f", value);
    return text;
}

static void print_series(struct series *series)
{
    char median[16], mean[16], most[16];

    if (series->n == 0)
        printf(" %9s %9s %9s", "", "", "");
    else
        printf(" %9s %9s %9s", figure(median, series_at(series, 0.5)), figure(mean, series_mean(series)),
            figure(most, series_max(series)));
}

static void print_row(struct row *row)
{
    static const char *const signs[] = {
        [RATIO_AT_LEAST] = ">= %sx",
        [RATIO_AT_MOST] = "<= %sx",
        [OURS_AT_MOST] = "<= %s",
        [NO_GOAL] = "%.0s",
    };
    char limit[16], wanted[32];

    printf("%-36s %-6s", row->name, row->unit);
    if (row->skipped[0]) {
        printf(" SKIP: %s\n", row->skipped);
        return;
    }
    print_series(&row->ours);
    print_series(&row->other);
    if (row->other.n > 0)
        printf(" %7.2f", ratio_of(row));
    else
        printf(" %7s", "");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    (void)snprintf(wanted, sizeof(wanted), signs[row->goal], figure(limit, row->limit));
#pragma GCC diagnostic pop
    printf(" %9s %-7s  %s", wanted, is_reached(row) ? row->goal == NO_GOAL ? "" : "reached" : "missed",
        row->beside);
    if (row->note[0])
        printf("%s%s", row->beside[0] ? "; " : "", row->note);
    printf("\n");
}

void table_print(void)
{
    printf(
        "%-36s %-6s %29s %29s\n", "", "", "--------- evlinkd -----------", "----------- bare ------------");
    printf("%-36s %-6s %9s %9s %9s %9s %9s %9s %7s %9s %-7s  %s\n", "", "unit", "median", "mean", "max",
        "median", "mean", "max", "ratio", "wanted", "", "beside");
    for (size_t i = 0; i < n_rows; i++)
        print_row(&rows[i]);
}

/* ---- The chart ---- */

#define BAR_LEFT 300
#define BAR_UNIT 150 /* what is as much as the other is this long */
#define BAR_MOST 4.0
#define LINE 24

static void draw_row(FILE *file, struct row *row, unsigned y)
{
    double ratio = ratio_of(row), shown = ratio < BAR_MOST ? ratio : BAR_MOST;
    bool limited = (row->goal == RATIO_AT_LEAST || row->goal == RATIO_AT_MOST) && row->limit < BAR_MOST;
    /* Behind the mark where that stands in the figure's way. */
    bool behind = limited && row->limit > shown - 0.05 && row->limit < shown + 0.4;

    fprintf(file, "<text x=\"%d\" y=\"%u\" text-anchor=\"end\">%s</text>\n", BAR_LEFT - 8, y + 13, row->name);
    fprintf(file, "<rect x=\"%d\" y=\"%u\" width=\"%.1f\" height=\"16\" fill=\"%s\"/>\n", BAR_LEFT, y,
        shown * BAR_UNIT, is_reached(row) ? "#4a7fb5" : "#c8553d");
    if (limited)
        fprintf(file, "<rect x=\"%.1f\" y=\"%u\" width=\"2\" height=\"22\" fill=\"#222\"/>\n",
            BAR_LEFT + row->limit * BAR_UNIT - 1, y - 3);
    fprintf(file, "<text x=\"%.1f\" y=\"%u\">%.2f%s</text>\n",
        BAR_LEFT + (behind ? row->limit : shown) * BAR_UNIT + 6, y + 13, ratio,
        shown < ratio ? " (cut)" : "");
}

void table_draw(const char *path)
{
    FILE *file = fopen(path, "we");
    unsigned y = 60;
    size_t n = 0;

    if (!file)
        die("cannot write %s: %m", path);
    for (size_t i = 0; i < n_rows; i++)
        n += rows[i].other.n > 0;
    fprintf(file,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%zu\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
        BAR_LEFT + (int)(BAR_MOST * BAR_UNIT) + 90, y + n * LINE + 10);
    fprintf(file,
        "<text x=\"10\" y=\"20\" font-size=\"15\">evlinkd, as a multiple of its bare counterpart</text>\n"
        "<text x=\"10\" y=\"38\">Medians. The black mark is what is wanted: at least for rates, at most for "
        "all else; red misses it.</text>\n");
    fprintf(file, "<line x1=\"%d\" y1=\"50\" x2=\"%d\" y2=\"%zu\" stroke=\"#999\" stroke-dasharray=\"3\"/>\n",
        BAR_LEFT + BAR_UNIT, BAR_LEFT + BAR_UNIT, y + n * LINE);
    for (size_t i = 0; i < n_rows; i++)
        if (rows[i].other.n > 0) {
            draw_row(file, &rows[i], y);
            y += LINE;
        }
    fprintf(file, "</svg>\n");
    if (fclose(file) != 0)
        die("cannot write %s: %m", path);
}
