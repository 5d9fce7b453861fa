/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The security label of who is at the other end of a unix socket, where the kernel gives processes labels. */
#ifndef BASE_LABEL_H
#define BASE_LABEL_H

/*
 * *ret_label, the caller's to free: "" where there is none, or one that has other characters than printable
 * ASCII, which is nobody's. -errno.
 */
int label_read(int fd, char **ret_label);

#endif
