/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The configuration's files: see config_files.h. */
#include "service/config_files.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const config_folders[] = {
    EVLINKD_SYSCONFDIR "/evlinkd",
    EVLINKD_RUNSTATEDIR "/evlinkd",
    EVLINKD_PREFIX "/lib/evlinkd",
    NULL,
};

#define MAIN_FILE "evlinkd.conf"
#define SUFFIX ".conf"

/* ---- Which files
 * -------------------------------------------------------------------------------------------- */

struct paths {
    char **paths;
    size_t n;
};

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* Adds a path, consumed; NULL is out of memory. */
static int add(struct paths *paths, char *path)
{
    char **more = path ? reallocarray(paths->paths, paths->n + 2, sizeof(char *)) : NULL;

    if (!more) {
        free(path);
        return -ENOMEM;
    }
    paths->paths = more;
    more[paths->n++] = path;
    more[paths->n] = NULL;
    return 0;
}

static char *join(const char *folder, const char *name)
{
    char *path;

    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static bool is_hidden(const struct paths *paths, const char *name)
{
    for (size_t i = 0; i < paths->n; i++)
        if (strcmp(base_of(paths->paths[i]), name) == 0)
            return true;
    return false;
}

/* Adds the drop-ins of a folder but for those that are there already: folders come most important first. */
static int add_folder(struct paths *paths, const char *folder)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    int r = 0;

    if (!dir && (errno == ENOENT || errno == ENOTDIR))
        return 0;
    if (!dir) {
        r = -errno;
        log_error("cannot read the folder %s: %s", folder, strerror(errno));
        return r;
    }
    while (r == 0 && (entry = readdir(dir))) {
        size_t length = strlen(entry->d_name);

        if (entry->d_name[0] == '.' || length <= strlen(SUFFIX) ||
            strcmp(entry->d_name + length - strlen(SUFFIX), SUFFIX) != 0 || is_hidden(paths, entry->d_name))
            continue;
        r = add(paths, join(folder, entry->d_name));
    }
    closedir(dir);
    return r;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(base_of(*(char *const *)a), base_of(*(char *const *)b));
}

static int add_main(struct paths *paths, const char *const *folders)
{
    for (; *folders; folders++) {
        char *path = join(*folders, MAIN_FILE);

        /* One that is there and cannot be read is told when it is read. */
        if (!path || access(path, F_OK) == 0 || errno != ENOENT)
            return add(paths, path);
        free(path);
    }
    return 0;
}

int config_files(const char *const *folders, const char *file, char ***ret_paths)
{
    struct paths paths = { .paths = calloc(1, sizeof(char *)) }, drop_ins = { 0 };
    CLEANUP(freep) char *folder = NULL;
    int r = paths.paths ? 0 : -ENOMEM;

    if (r == 0 && file) {
        r = add(&paths, strdup(file));
        if (r == 0 && asprintf(&folder, "%s.d", paths.paths[0]) < 0) {
            folder = NULL;
            r = -ENOMEM;
        }
        if (r == 0)
            r = add_folder(&drop_ins, folder);
    } else if (r == 0) {
        r = add_main(&paths, folders);
        for (; r == 0 && *folders; folders++) {
            free(folder);
            folder = join(*folders, MAIN_FILE ".d");
            r = folder ? add_folder(&drop_ins, folder) : -ENOMEM;
        }
    }
    if (drop_ins.n > 0)
        qsort(drop_ins.paths, drop_ins.n, sizeof(char *), by_name);
    for (size_t i = 0; i < drop_ins.n; i++)
        if (r == 0)
            r = add(&paths, drop_ins.paths[i]);
        else
            free(drop_ins.paths[i]);
    free(drop_ins.paths);
    if (r < 0) {
        config_files_free(paths.paths);
        return r;
    }
    *ret_paths = paths.paths;
    return 0;
}

char **config_files_free(char **paths)
{
    for (char **path = paths; path && *path; path++)
        free(*path);
    free(paths);
    return NULL;
}

/* ---- What is in them
 * ---------------------------------------------------------------------------------------- */

/*
 * inih splits lines up for us. It tells no numbers of lines, cuts what is too long for it, and calls again
 * for a line of continuation: so each line is seen here first.
 */
struct reading {
    const struct config_sink *sink;
    void *userdata;
    FILE *file;
    char *line; /* getline()'s */
    size_t size;
    struct config_place place;
    bool indented, in_section;
    /* What was said last, told when it is known that no continuation follows. */
    char *key, *value;
    int key_line;
    int error;
};

static void complain(struct reading *reading, const char *what)
{
    reading->sink->complaint(reading->userdata, &reading->place, what);
}

/* Tells what was said last. */
static void flush(struct reading *reading)
{
    const struct config_place place = { reading->place.file, reading->key_line };

    if (reading->key && reading->in_section)
        reading->sink->setting(reading->userdata, &place, reading->key, reading->value);
    else if (reading->key)
        reading->sink->complaint(reading->userdata, &place, "a setting before the first [section]");
    free(reading->key);
    free(reading->value);
    reading->key = reading->value = NULL;
}

static void see_section(struct reading *reading, const char *line)
{
    const char *end = strchr(line, ']');
    CLEANUP(freep) char *title = NULL;

    if (!end)
        return; /* inih complains */
    flush(reading);
    title = strndup(line + 1, (size_t)(end - line - 1));
    if (!title)
        reading->error = -ENOMEM;
    else
        reading->sink->section(reading->userdata, &reading->place, title);
    reading->in_section = true;
}

/* What is wrong with the characters of a line; NULL: nothing. */
static const char *line_complaint(const char *line, size_t length, size_t most)
{
    if (strlen(line) < length)
        return "the line has a NUL in it";
    if (length >= most)
        return "the line is too long: go on in lines that begin with a space";
    if (line[strspn(line, " \t")] == '#' || line[strspn(line, " \t")] == ';')
        return NULL;
    for (; *line; line++)
        if ((unsigned char)*line >= 0x7f || ((unsigned char)*line < ' ' && !isspace((unsigned char)*line)))
            return "the line has a character that is not printable ASCII";
    return NULL;
}

/* inih's fgets(). What cannot be passed on is an empty line. */
static char *next_line(char *buffer, int size, void *userdata)
{
    struct reading *reading = userdata;
    ssize_t length = getline(&reading->line, &reading->size, reading->file);
    const char *complaint;

    if (length < 0) {
        if (!feof(reading->file))
            complain(reading, strerror(errno));
        return NULL;
    }
    reading->place.line++;
    complaint = line_complaint(reading->line, (size_t)length, (size_t)size - 1);
    if (complaint)
        complain(reading, complaint);
    strcpy(buffer, complaint ? "\n" : reading->line);
    reading->indented = buffer[0] == ' ' || buffer[0] == '\t';
    if (buffer[strspn(buffer, " \t")] == '[' && !(reading->indented && reading->key))
        see_section(reading, buffer + strspn(buffer, " \t"));
    return buffer;
}

/* How long a line of continuation is without its comment, which inih leaves in it. */
static size_t without_comment(const char *text)
{
    size_t length = strlen(text);

    for (size_t i = 0; i < length; i++)
        if (text[i] == ';' && (i == 0 || isspace((unsigned char)text[i - 1])))
            length = i;
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        length--;
    return length;
}

static int on_setting(void *userdata, const char *section, const char *key, const char *value)
{
    struct reading *reading = userdata;
    char *joined;

    (void)section; /* cut where it is long */
    if (reading->indented && reading->key && strcmp(reading->key, key) == 0) {
        if (asprintf(&joined, "%s%s%.*s", reading->value, reading->value[0] ? " " : "",
                (int)without_comment(value), value) < 0) {
            reading->error = -ENOMEM;
            return 1;
        }
        free(reading->value);
        reading->value = joined;
        return 1;
    }
    flush(reading);
    reading->key = strdup(key);
    reading->value = strdup(value);
    reading->key_line = reading->place.line;
    if (!reading->key || !reading->value) {
        free(reading->key);
        free(reading->value);
        reading->key = reading->value = NULL;
        reading->error = -ENOMEM;
    }
    return 1;
}

/* A FIFO or a device that never answers would hold up the loop. */
static int open_file(const char *path, FILE **ret_file)
{
    CLEANUP(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat status, null;
    FILE *file;

    if (fd < 0 || fstat(fd, &status) < 0)
        return -errno;
    /* A link to /dev/null hides what has its name elsewhere. */
    if (S_ISDIR(status.st_mode))
        return -EISDIR;
    if (!S_ISREG(status.st_mode) && (stat("/dev/null", &null) < 0 || null.st_rdev != status.st_rdev))
        return -EINVAL;
    file = fdopen(fd, "r");
    if (!file)
        return -errno;
    fd = -1;
    *ret_file = file;
    return 0;
}

int config_file_read(const char *path, const struct config_sink *sink, void *userdata)
{
    struct reading reading = { .sink = sink, .userdata = userdata, .place = { .file = path } };
    int r;

    r = open_file(path, &reading.file);
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        complain(&reading, r == -EINVAL ? "it is no regular file" : strerror(-r));
        return 0;
    }
    r = ini_parse_stream(next_line, &reading, on_setting, &reading);
    flush(&reading);
    if (r > 0) {
        reading.place.line = r;
        complain(&reading, "the line is neither [SECTION] nor KEY=VALUE");
    }
    free(reading.line);
    (void)fclose(reading.file);
    return r < 0 ? -ENOMEM : reading.error;
}
