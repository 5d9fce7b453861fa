/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The configuration's files: which they are, in which order they count, and what their lines say. What that
 * means is config.c's.
 */
#ifndef SERVICE_CONFIG_FILES_H
#define SERVICE_CONFIG_FILES_H

/* The folders of this installation, the one that counts most first, up to NULL. */
extern const char *const config_folders[];

/*
 * The files to be read, first to last, up to NULL: *ret_paths is the caller's, for config_files_free().
 * Without a file that is the first evlinkd.conf of the folders and then the *.conf in their evlinkd.conf.d,
 * by name; a name that is in several folders counts in the first of them. With a file it is that one, and the
 * *.conf in FILE.d. 0, -ENOMEM, or -errno of a folder that cannot be read, after a message.
 */
int config_files(const char *const *folders, const char *file, char ***ret_paths);
char **config_files_free(char **paths);

/* Where something is said. */
struct config_place {
    const char *file; /* NULL: nowhere, it is the default */
    int line;
};

struct config_sink {
    /* [TITLE]; what follows is in it. */
    void (*section)(void *userdata, const struct config_place *place, const char *title);
    /* KEY=VALUE: trimmed, lines of continuation joined by a space. Before any section is a complaint. */
    void (*setting)(void *userdata, const struct config_place *place, const char *key, const char *value);
    void (*complaint)(void *userdata, const struct config_place *place, const char *what);
};

/* Reads a file. 0, or -ENOMEM. */
int config_file_read(const char *path, const struct config_sink *sink, void *userdata);

#endif
