/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames over a unix stream socket: the system calls around frame.h. Never blocks, whatever the socket's
 * flags, which its other owners may change at any moment.
 */
#ifndef WIRE_SOCKET_H
#define WIRE_SOCKET_H

#include "wire/frame.h"

#include <sys/socket.h>

/* Room for what the socket's other owners may have the kernel add: credentials, a label, a pidfd. */
#define SOCKET_CONTROL_EXTRA 512

/* Room for the control data of one message. */
union socket_control {
    char space[CMSG_SPACE(FRAME_MAX_FDS * sizeof(int)) + SOCKET_CONTROL_EXTRA];
    struct cmsghdr align;
};

/*
 * Has out-of-band data come in its place, as any other does. Otherwise the kernel passes it over: the socket
 * is readable, yet nothing comes, and whoever receives what is behind it closes its descriptors by that.
 */
void socket_take_in_order(int fd);

/* The descriptors in a received message, in order. A pidfd that nobody asked for is closed. -ENOMEM. */
int socket_adopt(struct msghdr *message, struct fdset *set);

/* Puts descriptors (borrowed, maybe none) into a message that is to be sent. control: lives as long. */
void socket_attach(struct msghdr *message, const struct fdset *fds, union socket_control *control);

/*
 * Receives what has come, in such pieces that each descriptor is attributed to its own frame. Call it only
 * when frame_in_next() has nothing more. Returns 1 when something came, 0 at the end of the stream, -EAGAIN,
 * -EMSGSIZE (frame too long), -EPROTO (descriptors in the middle of a frame), -ENOMEM or another -errno of
 * recvmsg().
 */
int socket_receive(int fd, struct frame_in *in);

/*
 * The same; where descriptors may be in what comes next, admit is asked first: what it says below 0 is
 * returned, and everything stays where it is.
 */
int socket_receive_if(int fd, struct frame_in *in, int (*admit)(void *userdata), void *userdata);

/* Sends until all is out (0) or the socket is full (-EAGAIN). -EPIPE, -ECONNRESET, ... */
int socket_send(int fd, struct frame_out *out);

/*
 * Whether only the means were short at the time: memory, or others' descriptors fill what this user may have
 * under way. Nothing of what is at hand has come in or gone out, and the socket does not tell when it can.
 */
bool socket_is_short(int r);

#endif
