/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Crash points: places between two steps of which the second must not be taken for done when only the first
 * was. In evlinkd they are nothing at all. tests/evlinkd-crash is the same program with them: a number in the
 * file that EVLINK_CRASH_FILE names is counted down at each that is reached, and at the last one the process
 * kills itself with SIGKILL, and adds the place's name to the file of EVLINK_CRASH_LOG. So a test can try
 * every one.
 */
#ifndef BASE_CRASH_H
#define BASE_CRASH_H

#ifdef EVLINK_CRASH_POINTS
void crash_point(const char *where);
#else
#define crash_point(where) ((void)0)
#endif

#endif
