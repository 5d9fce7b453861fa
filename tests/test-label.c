/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* label_read(), against a kernel that has labels, or none: the test's own getsockopt(). */
#include "base/cleanup.h"
#include "base/label.h"
#include "util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct {
    const char *said;
    size_t length;
    int error;          /* instead */
    const char *wanted; /* NULL: it fails */
} table[] = {
    { "system_u:system_r:svirt_t:s0:c1,c2", 35, 0, "system_u:system_r:svirt_t:s0:c1,c2" }, /* with its NUL */
    { "unconfined", 10, 0, "unconfined" },
    { "libvirt-1 (enforce)\n", 20, 0, "libvirt-1 (enforce)" },
    { "_", 1, 0, "_" },
    { "", 0, 0, "" },
    { "\0\0", 2, 0, "" },
    { "a\0b", 3, 0, "" },
    { "a\nb", 3, 0, "" },
    { "caf\xc3\xa9", 5, 0, "" },
    { NULL, 0, ENOPROTOOPT, "" },
    { NULL, 0, EINVAL, NULL },
};
static size_t row;
static char long_label[6000];
static size_t long_length;

int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *length);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *length);

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
    const char *said = long_length > 0 ? long_label : table[row].said;
    size_t n = long_length > 0 ? long_length : table[row].length;

    if (level != SOL_SOCKET || name != SO_PEERSEC)
        return __real_getsockopt(fd, level, name, value, length);
    if (!said) {
        errno = table[row].error;
        return -1;
    }
    if (n > *length) {
        *length = (socklen_t)n;
        errno = ERANGE;
        return -1;
    }
    memcpy(value, said, n);
    *length = (socklen_t)n;
    return 0;
}

static void test_table(void **state)
{
    (void)state;
    for (row = 0; row < ARRAY_SIZE(table); row++) {
        CLEANUP(freep) char *label = NULL;
        int r = label_read(-1, &label);

        if (r != (table[row].wanted ? 0 : -table[row].error))
            fail_msg("row %zu: %d", row, r);
        if (table[row].wanted)
            assert_string_equal(label, table[row].wanted);
        else
            assert_null(label);
    }
}

static void test_long(void **state)
{
    static const size_t lengths[] = { 255, 256, 257, 4096, 4097, 6000 };

    (void)state;
    memset(long_label, 'x', sizeof(long_label));
    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        CLEANUP(freep) char *label = NULL;

        long_length = lengths[i];
        assert_int_equal(label_read(-1, &label), 0);
        assert_int_equal(strlen(label), lengths[i] <= 4096 ? lengths[i] : 0);
    }
    long_length = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_long),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
