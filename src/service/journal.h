/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where evlinkd's log goes: to the journal, where stderr is connected to it, else to stderr. */
#ifndef SERVICE_JOURNAL_H
#define SERVICE_JOURNAL_H

#include "base/log.h"

void journal_open(const char *program, enum log_level most);

#endif
