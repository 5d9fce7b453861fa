/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A main() for fuzz targets where libFuzzer is not there: runs the target on each file, and on each file of
 * each folder, that it is given. Arguments that begin with '-', libFuzzer's options, are passed over.
 */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

static void fail(const char *path)
{
    fprintf(stderr, "%s: %s\n", path, strerror(errno));
    exit(2);
}

static void run(const char *path)
{
    FILE *file = fopen(path, "re");
    struct stat status;
    uint8_t *bytes;
    size_t size;

    if (!file || fstat(fileno(file), &status) < 0)
        fail(path);
    size = (size_t)status.st_size;
    /* No more than there is, so that a sanitizer sees who reads beyond it. */
    bytes = malloc(size > 0 ? size : 1);
    if (!bytes || fread(bytes, 1, size, file) != size)
        fail(path);
    (void)fclose(file);
    /* As libFuzzer says it: of a crash, the last line tells which input it was. */
    fprintf(stderr, "Running: %s\n", path);
    (void)LLVMFuzzerTestOneInput(bytes, size);
    free(bytes);
}

static size_t run_all(const char *path)
{
    struct dirent **entries;
    size_t done = 0;
    int n = scandir(path, &entries, NULL, alphasort);

    if (n < 0 && errno == ENOTDIR) {
        run(path);
        return 1;
    }
    if (n < 0)
        fail(path);
    for (int i = 0; i < n; i++) {
        char inside[4096];

        if (entries[i]->d_name[0] != '.') {
            (void)snprintf(inside, sizeof(inside), "%s/%s", path, entries[i]->d_name);
            done += run_all(inside);
        }
        free(entries[i]);
    }
    free(entries);
    return done;
}

int main(int argc, char **argv)
{
    size_t done = 0;

    (void)LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++)
        if (argv[i][0] != '-')
            done += run_all(argv[i]);
    printf("%zu inputs\n", done);
    if (done > 0)
        return 0;
    fprintf(stderr, "usage: %s FILE|FOLDER...\n", argv[0]);
    return 2;
}
