/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Failures of memory and of system calls, where a test wants them. A program that is linked with this and
 * with --wrap (inject_LDFLAGS in Makefile.am) is what it is without, but for what the file says that
 * EVLINK_INJECT names: struct control, which the test writes through a mapping of its own. libevent allocates
 * by what is wrapped here too.
 *
 * Memory fails in two ways: one allocation alone, or, as where a limit is reached, that one and all that
 * follow, but for as much as was freed since. A system call fails with the errno that is asked for where it
 * can fail with it at all, or moves only half of what it could.
 */
#include "inject.h"
#include "base/cleanup.h"

#include <errno.h>
#include <event2/event.h>
#include <execinfo.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Where the program is loaded. */
extern const char __ehdr_start;

static struct control *control;
static pid_t owner; /* children that share the table of descriptors are left alone */
static atomic_long allocated;

/* Whether this point is the one. */
static bool is_due(const char *name)
{
    void *frames[INJECT_FRAMES + 2];
    int n;

    if (--control->countdown != 0)
        return false;
    control->fired++;
    (void)snprintf(control->name, sizeof(control->name), "%s", name);
    n = backtrace(frames, INJECT_FRAMES + 2);
    for (int i = 2; i < n; i++)
        control->frames[i - 2] = (uint64_t)((const char *)frames[i] - &__ehdr_start);
    return true;
}

static bool is_on(int want)
{
    return control && control->want == want && getpid() == owner;
}

/* ---- Memory
 * ---------------------------------------------------------------------------------------------------
 */

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_reallocarray(void *p, size_t n, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t n);
void __real_free(void *p);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t n);
void __wrap_free(void *p);
__attribute__((format(printf, 2, 3))) int __wrap_asprintf(char **ret_text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int __wrap___asprintf_chk(char **ret_text, int flag, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Whether there is no memory for that. */
static bool is_out(const char *name, size_t size)
{
    bool out = false;

    if (is_on(WANT_MEMORY)) {
        out = is_due(name);
    } else if (is_on(WANT_FULL)) {
        if (is_due(name))
            control->available = 0;
        if (control->fired) {
            out = control->available < (int64_t)size;
            control->available -= out ? 0 : (int64_t)size;
        }
    }
    if (out)
        errno = ENOMEM;
    return out;
}

/* What is new, and there. */
static void *count(void *p)
{
    if (p)
        (void)atomic_fetch_add(&allocated, 1);
    return p;
}

long inject_allocated(void)
{
    return atomic_load(&allocated);
}

void *__wrap_malloc(size_t size)
{
    return is_out("malloc", size) ? NULL : count(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return is_out("calloc", n * size) ? NULL : count(__real_calloc(n, size));
}

void *__wrap_realloc(void *p, size_t size)
{
    if (is_out("realloc", size))
        return NULL;
    return p ? __real_realloc(p, size) : count(__real_malloc(size));
}

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
    if (is_out("reallocarray", n * size))
        return NULL;
    return p ? __real_reallocarray(p, n, size) : count(__real_calloc(n, size));
}

char *__wrap_strdup(const char *text)
{
    return is_out("strdup", strlen(text) + 1) ? NULL : count(__real_strdup(text));
}

char *__wrap_strndup(const char *text, size_t n)
{
    return is_out("strndup", n + 1) ? NULL : count(__real_strndup(text, n));
}

void __wrap_free(void *p)
{
    if (p)
        (void)atomic_fetch_sub(&allocated, 1);
    if (p && is_on(WANT_FULL) && control->fired)
        control->available += (int64_t)malloc_usable_size(p);
    __real_free(p);
}

__attribute__((format(printf, 2, 0))) static int print_new(
    char **ret_text, const char *format, va_list arguments)
{
    int n;

    *ret_text = NULL;
    n = is_out("asprintf", 0) ? -1 : vasprintf(ret_text, format, arguments);
    (void)count(*ret_text);
    return n;
}

__attribute__((format(printf, 2, 3))) int __wrap_asprintf(char **ret_text, const char *format, ...)
{
    va_list arguments;
    int n;

    va_start(arguments, format);
    n = print_new(ret_text, format, arguments);
    va_end(arguments);
    return n;
}

int __wrap___asprintf_chk(char **ret_text, int flag, const char *format, ...)
{
    va_list arguments;
    int n;

    (void)flag;
    va_start(arguments, format);
    n = print_new(ret_text, format, arguments);
    va_end(arguments);
    return n;
}

/* ---- System calls
 * ---------------------------------------------------------------------------------------------
 */

/* What fails of what. */
#define TABLE (1u << 0)  /* EMFILE, ENFILE: makes a descriptor */
#define MEMORY (1u << 1) /* ENOMEM, ENOBUFS */
#define WAITS (1u << 2)  /* EINTR */
#define ROOM (1u << 3)   /* EAGAIN: it could go at once, had the kernel the means */

static bool fails(const char *name, unsigned with)
{
    unsigned kind;

    if (!is_on(WANT_ERRNO))
        return false;
    switch (control->number) {
    case EMFILE:
    case ENFILE:
        kind = TABLE;
        break;
    case EINTR:
        kind = WAITS;
        break;
    case EAGAIN:
        kind = ROOM;
        break;
    default:
        kind = MEMORY;
        break;
    }
    if (!(with & kind) || !is_due(name))
        return false;
    errno = control->number;
    return true;
}

/* A wrapped call: TYPE NAME(PARAMETERS), called with ARGUMENTS, that fails WITH those. */
#define WRAP(type, name, parameters, arguments, with)                   \
    type __real_##name parameters;                                      \
    type __wrap_##name parameters;                                      \
    type __wrap_##name parameters                                       \
    {                                                                   \
        return fails(#name, with) ? (type)-1 : __real_##name arguments; \
    }

WRAP(int, accept4, (int fd, struct sockaddr *address, socklen_t *length, int flags),
    (fd, address, length, flags), TABLE | MEMORY | WAITS | ROOM)
WRAP(int, eventfd, (unsigned count, int flags), (count, flags), TABLE | MEMORY)
WRAP(int, fallocate, (int fd, int mode, off_t offset, off_t length), (fd, mode, offset, length),
    MEMORY | WAITS)
WRAP(int, ftruncate, (int fd, off_t length), (fd, length), WAITS)
WRAP(int, memfd_create, (const char *name, unsigned flags), (name, flags), TABLE | MEMORY)
WRAP(int, pipe2, (int *fds, int flags), (fds, flags), TABLE)
WRAP(int, poll, (struct pollfd * fds, nfds_t n, int timeout), (fds, n, timeout), MEMORY | WAITS)
WRAP(int, socket, (int domain, int type, int protocol), (domain, type, protocol), TABLE | MEMORY)
WRAP(int, socketpair, (int domain, int type, int protocol, int *fds), (domain, type, protocol, fds),
    TABLE | MEMORY)
WRAP(ssize_t, preadv2, (int fd, const struct iovec *vectors, int n, off_t offset, int flags),
    (fd, vectors, n, offset, flags), MEMORY | WAITS)
WRAP(ssize_t, recv, (int fd, void *buffer, size_t length, int flags), (fd, buffer, length, flags),
    MEMORY | WAITS)
WRAP(ssize_t, readlinkat, (int folder, const char *path, char *buffer, size_t size),
    (folder, path, buffer, size), MEMORY)
WRAP(int, setsockopt, (int fd, int level, int option, const void *value, socklen_t length),
    (fd, level, option, value, length), MEMORY)

void *__real_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap___open_2(const char *path, int flags);
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
ssize_t __real_read(int fd, void *buffer, size_t length);
ssize_t __wrap_read(int fd, void *buffer, size_t length);
ssize_t __real_write(int fd, const void *buffer, size_t length);
ssize_t __wrap_write(int fd, const void *buffer, size_t length);
ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return fails("mmap", MEMORY) ? MAP_FAILED : __real_mmap(address, length, protection, flags, fd, offset);
}

int __wrap_fcntl(int fd, int command, ...)
{
    va_list arguments;
    long argument;

    va_start(arguments, command);
    argument = va_arg(arguments, long); /* where there is none, it is not looked at */
    va_end(arguments);
    return fails("fcntl", command == F_DUPFD_CLOEXEC ? TABLE : 0) ? -1 : __real_fcntl(fd, command, argument);
}

int __wrap_open(const char *path, int flags, ...)
{
    va_list arguments;
    int mode;

    va_start(arguments, flags);
    mode = va_arg(arguments, int);
    va_end(arguments);
    return fails("open", TABLE | MEMORY | WAITS) ? -1 : __real_open(path, flags, mode);
}

int __wrap___open_2(const char *path, int flags)
{
    return __wrap_open(path, flags, 0);
}

/* There are six arguments, whoever passed fewer. */
__attribute__((no_sanitize("address"))) long __wrap_syscall(long number, ...)
{
    unsigned with = 0;
    va_list arguments;
    long a[6];

    va_start(arguments, number);
    for (size_t i = 0; i < ARRAY_SIZE(a); i++)
        a[i] = va_arg(arguments, long); /* those that are not there are not looked at */
    va_end(arguments);
    if (number == SYS_io_setup || number == SYS_clone)
        with = MEMORY | ROOM;
    else if (number == SYS_io_submit)
        with = ROOM;
    else if (number == SYS_io_getevents)
        with = WAITS;
    return fails("syscall", with) ? -1 : __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* Whether fd is such that half of it may go, and this is the point for that. */
static bool is_short(const char *name, int fd, size_t length)
{
    socklen_t size = sizeof(int);
    int type;

    return is_on(WANT_SHORT) && length > 1 && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
           type == SOCK_STREAM && is_due(name);
}

ssize_t __wrap_read(int fd, void *buffer, size_t length)
{
    return fails("read", MEMORY | WAITS) ? -1 : __real_read(fd, buffer, length);
}

ssize_t __wrap_write(int fd, const void *buffer, size_t length)
{
    return fails("write", MEMORY | WAITS) ? -1 : __real_write(fd, buffer, length);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
    ssize_t n;

    if (fails("recvmsg", MEMORY | WAITS | (flags & MSG_PEEK ? 0 : ROOM)))
        return -1;
    n = message->msg_iovlen == 1 && is_short("recvmsg", fd, message->msg_iov->iov_len) ? 1 : 0;
    if (n > 0) {
        struct iovec half = *message->msg_iov, *whole = message->msg_iov;

        half.iov_len = (half.iov_len + 1) / 2 < 16 ? (half.iov_len + 1) / 2 : 16;
        message->msg_iov = &half;
        n = __real_recvmsg(fd, message, flags);
        message->msg_iov = whole;
        return n;
    }
    return __real_recvmsg(fd, message, flags);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    if (fails("sendmsg", MEMORY | WAITS | ROOM))
        return -1;
    if (message->msg_iovlen == 1 && is_short("sendmsg", fd, message->msg_iov->iov_len)) {
        struct iovec half = { message->msg_iov->iov_base, message->msg_iov->iov_len / 2 };
        struct msghdr first = *message;

        first.msg_iov = &half;
        return __real_sendmsg(fd, &first, flags);
    }
    return __real_sendmsg(fd, message, flags);
}

/* ---- Beginning
 * ------------------------------------------------------------------------------------------------
 */

void inject_by(struct control *by)
{
    void *frames[1];

    (void)backtrace(frames, 1); /* the first time it loads a library */
    owner = getpid();
    control = by;
}

static void __attribute__((constructor)) begin(void)
{
    const char *path = getenv("EVLINK_INJECT");
    void *memory;
    int fd;

    event_set_mem_functions(__wrap_malloc, __wrap_realloc, __wrap_free);
    fd = path ? __real_open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    memory = __real_mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    (void)close(fd);
    if (memory == MAP_FAILED)
        return;
    inject_by(memory);
}
