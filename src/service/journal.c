/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where evlinkd's log goes: see journal.h. */
#include "service/journal.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

/* systemd says in $JOURNAL_STREAM which device and inode the stream is that it connected. */
static bool stderr_is_journal(void)
{
    const char *text = getenv("JOURNAL_STREAM");
    uint64_t device, inode;
    struct stat status;

    return text && sscanf(text, "%" SCNu64 ":%" SCNu64, &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

static void to_journal(enum log_level level, const char *line)
{
    (void)sd_journal_send("MESSAGE=%s", line, "PRIORITY=%i", (int)level, NULL);
}

void journal_news(const struct news *news)
{
    const char *name = notice_name(news->notice), *reason = news->reason ? news->reason : "";

    if (!log_shows(LOG_LEVEL_DEBUG))
        return;
    if (!stderr_is_journal()) {
        log_debug("%s: %s%s%s", news->subject, name, reason[0] ? ": " : "", reason);
        return;
    }
    /* Names and endpoints are of harmless characters; a reason is the journal's to keep apart. */
    (void)sd_journal_send("MESSAGE=%s: %s%s%s", news->subject, name, reason[0] ? ": " : "", reason,
        "PRIORITY=%i", (int)LOG_LEVEL_DEBUG, "EVLINK_NOTICE=%s", name, "EVLINK_SUBJECT=%s", news->subject,
        "EVLINK_LINK=%s", news->link ? news->link : "", "EVLINK_REASON=%s", reason, "EVLINK_UID=%u",
        (unsigned)news->owner->uid, NULL);
}

void journal_open(const char *program, enum log_level most)
{
    log_init(program, most, stderr_is_journal() ? to_journal : NULL);
}
