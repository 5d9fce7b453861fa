/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pipelined calls: see bench.h. */
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define FDS_MAX 253

struct texts texts_new(size_t n)
{
    struct texts texts = { .text = calloc(n, sizeof(char *)), .length = calloc(n, sizeof(size_t)), .n = n };

    if (!texts.text || !texts.length)
        die("out of memory");
    return texts;
}

void texts_set(struct texts *texts, size_t i, const void *text, size_t length)
{
    texts->text[i] = malloc(length);
    if (!texts->text[i])
        die("out of memory");
    memcpy(texts->text[i], text, length);
    texts->length[i] = length;
}

void texts_clear(struct texts *texts)
{
    for (size_t i = 0; i < texts->n; i++)
        free(texts->text[i]);
    free(texts->text);
    free(texts->length);
}

struct texts texts_hold(const char *prefix, size_t n, size_t many, bool with_fd)
{
    struct texts texts = texts_new(n);
    char text[8192];

    for (size_t i = 0; i < n; i++) {
        int length;

        if (many == 0) {
            length = snprintf(text, sizeof(text),
                "{\"method\":\"io.evlink.Broker.Hold\",\"parameters\":{\"name\":\"%s%zu\"%s}}", prefix, i,
                with_fd ? ",\"fileDescriptorIndex\":0" : "");
        } else {
            length = snprintf(
                text, sizeof(text), "{\"method\":\"io.evlink.Broker.HoldMany\",\"parameters\":{\"names\":[");
            for (size_t k = 0; k < many; k++)
                length += snprintf(text + length, sizeof(text) - (size_t)length, "%s\"%s%zu\"", k ? "," : "",
                    prefix, i * many + k);
            length += snprintf(text + length, sizeof(text) - (size_t)length, "]}}");
        }
        texts_set(&texts, i, text, (size_t)length + 1);
    }
    return texts;
}

struct texts texts_release(const char *prefix, size_t n)
{
    struct texts texts = texts_new(n);
    char text[256];

    for (size_t i = 0; i < n; i++) {
        int length = snprintf(text, sizeof(text),
            "{\"method\":\"io.evlink.Broker.Release\",\"parameters\":{\"name\":\"%s%zu\"}}", prefix, i);

        texts_set(&texts, i, text, (size_t)length + 1);
    }
    return texts;
}

struct texts texts_bytes(char byte, size_t n)
{
    struct texts texts = texts_new(n);

    for (size_t i = 0; i < n; i++)
        texts_set(&texts, i, &byte, 1);
    return texts;
}

void send_text(int fd, const char *text, size_t length, const int *fds, size_t n_fds)
{
    union {
        char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec vector = { .iov_base = (void *)text, .iov_len = length };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
    ssize_t n;

    if (n_fds > 0) {
        struct cmsghdr *header;

        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(header), fds, n_fds * sizeof(int));
    }
    do
        n = sendmsg(fd, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n != (ssize_t)length)
        die("cannot send: %s", n < 0 ? strerror(errno) : "not all of it");
}

/* Receives once, and returns how many answers ended. *at: how much of an answer came before. */
static size_t receive(int fd, size_t reply, size_t *at)
{
    static const char error[] = "{\"error\"";
    char buffer[65536];
    size_t ended = 0;
    ssize_t n;

    do
        n = recv(fd, buffer, sizeof(buffer), 0);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        die("cannot receive: %s", n < 0 ? strerror(errno) : "closed");
    if (reply > 0) {
        ended = (*at + (size_t)n) / reply;
        *at = (*at + (size_t)n) % reply;
        return ended;
    }
    for (char *c = buffer, *end = buffer + n; c < end;) {
        char *nul = memchr(c, '\0', (size_t)(end - c));

        if (*at == 0 && (size_t)(end - c) >= sizeof(error) && memcmp(c, error, sizeof(error) - 1) == 0)
            die("evlinkd says %.*s", (int)(end - c), c);
        ended += nul != NULL;
        *at = nul ? 0 : 1;
        c = nul ? nul + 1 : end;
    }
    return ended;
}

double pump(int fd, const struct texts *texts, const int *fds, size_t n_fds, size_t window, size_t reply)
{
    double begun = now();
    size_t sent = 0, answered = 0, at = 0;

    while (answered < texts->n) {
        while (sent < texts->n && sent - answered < window) {
            send_text(
                fd, texts->text[sent], texts->length[sent], fds + (texts->own_fds ? sent * n_fds : 0), n_fds);
            sent++;
        }
        answered += receive(fd, reply, &at);
    }
    return now() - begun;
}
