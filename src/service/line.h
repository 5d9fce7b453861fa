/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A line: the frames of a delegated connection, which goes on when this process has died. What the next one
 * has to know of them is in a memfd that it gets with the socket. Between a system call and a note of what it
 * did a process can be killed; so it is the kernel that takes the notes: recvmmsg(2) and sendmmsg(2) write
 * how many bytes went through into memory of the caller's before they return, and that memory is the memfd's.
 *
 * What it keeps true, whenever the process dies:
 *  1. One call at most has left the socket and is not done with. What was taken of it is in the memfd, byte
 *     for byte; what follows it is in the socket.
 *  2. One frame at most is on its way out. All of it is in the memfd before its first byte goes out.
 *  3. From the first byte of its last answer on a call is answered: the rest is sent by whoever comes next.
 *     Before that it is not: the next process ends the frame that was on its way, forgets those behind it,
 *     and answers Restarted, or, where the call is oneway, nothing.
 *  4. The next call is taken when all of that is out. The call is forgotten first, then its last answer.
 *
 * So a client gets whole frames, one last answer for each call, in order; and calls that no process had
 * begun to take are served as if nothing had happened. Descriptors that came with a call die with the
 * process, as the call does; those of an answer go out with its first byte.
 */
#ifndef SERVICE_LINE_H
#define SERVICE_LINE_H

#include "wire/frame.h"

#include <stdbool.h>

struct line;

/* With a memfd that is the caller's to close: line_fd(). -errno. */
int line_new(struct line **ret_line);

/*
 * The one in this memfd (borrowed), of a process that has died. -EBADMSG where it is none, -errno. What is
 * left of a frame that was on its way goes into out, which is empty.
 */
int line_open(int fd, struct frame_out *out, struct line **ret_line);

struct line *line_free(struct line *line);

int line_fd(const struct line *line);

/* How many descriptors it has of a call that has come in part. */
size_t line_n_fds(const struct line *line);

/* How much memory it takes beside a few pages, now and after the next line_receive(). */
size_t line_bytes(const struct line *line);
size_t line_needs(const struct line *line);

/* Whether a call was taken by line_next() and not ended: nothing is received then. */
bool line_is_busy(const struct line *line);

/* As socket_receive_if(), of one call. */
int line_receive(struct line *line, int socket, int (*admit)(void *userdata), void *userdata);

/* Whether more is there of a call than it may have: line_receive() says so. */
bool line_is_too_long(const struct line *line);

/* The call, if it is whole: 1. *ret_interrupted: a process that has died had begun to take it. */
int line_next(struct line *line, struct frame *ret_frame, bool *ret_interrupted);

/* As socket_send(). ended: the last frame of out is the last answer to the call. */
int line_send(struct line *line, int socket, struct frame_out *out, bool ended);

/* All answers to the call are out: the next one may be taken. */
void line_end_call(struct line *line);

#endif
