/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The security label of a peer: see label.h. */
#include "base/label.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

/* More than any module of the kernel's makes. */
#define LABEL_MAX 4096

/* Cuts off what modules end it with, a NUL or a line's end. Whether what is left can be told. */
static bool trim(char *label, size_t length)
{
    while (length > 0 && (label[length - 1] == '\0' || label[length - 1] == '\n'))
        length--;
    label[length] = '\0';
    for (size_t i = 0; i < length; i++)
        if (label[i] < ' ' || label[i] > '~')
            return false;
    return true;
}

int label_read(int fd, char **ret_label)
{
    CLEANUP(freep) char *label = NULL;
    socklen_t length = 256;

    for (;;) {
        char *more = realloc(label, length + 1);

        if (!more)
            return -ENOMEM;
        label = more;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERSEC, label, &length) == 0)
            break;
        /* [KERNEL: ENOPROTOOPT where no module has labels; ERANGE says how long it is.] */
        if (errno != ERANGE && errno != ENOPROTOOPT)
            return -errno;
        if (errno == ENOPROTOOPT || length > LABEL_MAX) {
            length = 0;
            break;
        }
    }
    if (!trim(label, length))
        label[0] = '\0';
    *ret_label = TAKE(label);
    return 0;
}
