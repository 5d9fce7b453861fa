/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where evlinkd's log goes: to the journal, where stderr is connected to it, else to stderr. */
#ifndef SERVICE_JOURNAL_H
#define SERVICE_JOURNAL_H

#include "base/log.h"
#include "model/model.h"

void journal_open(const char *program, enum log_level most);

/*
 * A change, at debug level: in the journal with the fields EVLINK_NOTICE, EVLINK_SUBJECT, EVLINK_LINK,
 * EVLINK_REASON and EVLINK_UID (its owner's).
 */
void journal_news(const struct news *news);

#endif
