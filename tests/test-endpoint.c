/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The grammar of names and endpoints (src/endpoint): what is taken, how it is shown, what is refused and why,
 * which endpoints are equal and which collide.
 */
#include "endpoint/endpoint.h"
#include "util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define N63 "a23456789012345678901234567890123456789012345678901234567890123"

/* Parses what must be right. */
static struct endpoint parse(const char *text)
{
    struct endpoint endpoint;
    const char *reason = NULL;

    if (endpoint_parse(text, &endpoint, &reason) != 0)
        fail_msg("%s: %s", text, reason);
    return endpoint;
}

static void assert_same(const struct endpoint *a, const struct endpoint *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->level, b->level);
    assert_int_equal(a->datamatch, b->datamatch);
    assert_int_equal(a->length, b->length);
    assert_true(a->number == b->number);
    assert_true(a->value == b->value);
    assert_string_equal(endpoint_name(a), endpoint_name(b));
    assert_string_equal(endpoint_device(a), endpoint_device(b));
}

/* ---- Names ---- */

static void test_names(void **state)
{
    static const char *const good[] = { "a", "Z", "0", "a.b", "a_b", "a-b", "9.", "a--", "0000.01.00.0",
        N63 };
    static const struct {
        const char *name, *complaint;
    } bad[] = {
        { "", "is empty" },
        { ".a", "does not begin with a letter or a digit" },
        { "-a", "does not begin with a letter or a digit" },
        { "_", "does not begin with a letter or a digit" },
        { " a", "does not begin with a letter or a digit" },
        { "\xc3\xa4", "does not begin with a letter or a digit" },
        { "a b", "has a character other than letters, digits, '_', '.' and '-'" },
        { "a/b", "has a character other than letters, digits, '_', '.' and '-'" },
        { "a:", "has a character other than letters, digits, '_', '.' and '-'" },
        { "a\n", "has a character other than letters, digits, '_', '.' and '-'" },
        { "a\xc3\xa4", "has a character other than letters, digits, '_', '.' and '-'" },
        { N63 "4", "is longer than 63 characters" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        assert_true(name_is_valid(good[i]));
        assert_null(name_complaint(good[i]));
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_false(name_is_valid(bad[i].name));
        assert_string_equal(name_complaint(bad[i].name), bad[i].complaint);
    }
    assert_false(name_is_valid(NULL));

    /* every byte, at the beginning and behind it */
    for (int c = 1; c < 256; c++) {
        const char name[] = { (char)c, (char)c, '\0' }, behind[] = { 'a', (char)c, '\0' };
        bool alnum = c < 128 && strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", c);

        assert_int_equal(name_is_valid(name), alnum);
        assert_int_equal(name_is_valid(behind), alnum || strchr("_.-", c));
    }
}

static void test_subsystems(void **state)
{
    (void)state;
    assert_null(subsystem_name(SUBSYSTEM_NONE));
    assert_string_equal(subsystem_name(SUBSYSTEM_KVM), "kvm");
    assert_string_equal(subsystem_name(SUBSYSTEM_VFIO), "vfio");
    assert_string_equal(subsystem_name(SUBSYSTEM_VHOST), "vhost");
    assert_int_equal(subsystem_from_name("kvm"), SUBSYSTEM_KVM);
    assert_int_equal(subsystem_from_name("vfio"), SUBSYSTEM_VFIO);
    assert_int_equal(subsystem_from_name("vhost"), SUBSYSTEM_VHOST);
    assert_int_equal(subsystem_from_name("eventfd"), SUBSYSTEM_NONE);
    assert_int_equal(subsystem_from_name("KVM"), SUBSYSTEM_NONE);
    assert_int_equal(subsystem_from_name(""), SUBSYSTEM_NONE);
}

/* ---- What is right ---- */

enum { PRODUCER = 1, CONSUMER = 2, IRQFD = 4, OFFERED = 8 };

/* Each form, its canonical form where that is another, what it is for, and what it is parsed to. */
static const struct {
    const char *text, *canonical;
    enum subsystem subsystem;
    unsigned what;
    struct endpoint endpoint;
} right[] = {
    { "eventfd/a", NULL, SUBSYSTEM_NONE, PRODUCER | CONSUMER, { .kind = ENDPOINT_EVENTFD, .names = "a" } },
    { "eventfd/eoi", NULL, SUBSYSTEM_NONE, PRODUCER | CONSUMER,
        { .kind = ENDPOINT_EVENTFD, .names = "eoi" } },
    { "eventfd/" N63, NULL, SUBSYSTEM_NONE, PRODUCER | CONSUMER, { .kind = ENDPOINT_EVENTFD, .names = N63 } },
    { "eventfd/a/eoi", NULL, SUBSYSTEM_NONE, 0, { .kind = ENDPOINT_EOI, .names = "a" } },

    { "kvm/vm/gsi/0", NULL, SUBSYSTEM_KVM, CONSUMER | IRQFD, { .kind = ENDPOINT_GSI, .names = "vm" } },
    { "kvm/vm/gsi/4095", NULL, SUBSYSTEM_KVM, CONSUMER | IRQFD,
        { .kind = ENDPOINT_GSI, .names = "vm", .number = 4095 } },
    { "kvm/vm/gsi/0xfFf", "kvm/vm/gsi/4095", SUBSYSTEM_KVM, CONSUMER | IRQFD,
        { .kind = ENDPOINT_GSI, .names = "vm", .number = 4095 } },
    { "kvm/vm/gsi/010", "kvm/vm/gsi/10", SUBSYSTEM_KVM, CONSUMER | IRQFD,
        { .kind = ENDPOINT_GSI, .names = "vm", .number = 10 } },
    { "kvm/vm/gsi/5/level", NULL, SUBSYSTEM_KVM, CONSUMER | IRQFD,
        { .kind = ENDPOINT_GSI, .names = "vm", .number = 5, .level = true } },
    { "kvm/gsi/gsi/5", NULL, SUBSYSTEM_KVM, CONSUMER | IRQFD,
        { .kind = ENDPOINT_GSI, .names = "gsi", .number = 5 } },
    { "kvm/dev/gsi/5", NULL, SUBSYSTEM_KVM, CONSUMER | IRQFD,
        { .kind = ENDPOINT_GSI, .names = "dev", .number = 5 } },

    { "kvm/vm/pio/0", "kvm/vm/pio/0x0", SUBSYSTEM_KVM, PRODUCER, { .kind = ENDPOINT_PIO, .names = "vm" } },
    { "kvm/vm/pio/65535", "kvm/vm/pio/0xffff", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_PIO, .names = "vm", .number = 65535 } },
    { "kvm/vm/pio/0xCF8", "kvm/vm/pio/0xcf8", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_PIO, .names = "vm", .number = 0xcf8 } },
    { "kvm/vm/pio/0x10/0", "kvm/vm/pio/0x10", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_PIO, .names = "vm", .number = 16 } },
    { "kvm/vm/pio/0x10/0x0", "kvm/vm/pio/0x10", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_PIO, .names = "vm", .number = 16 } },
    { "kvm/vm/pio/0x10/1", NULL, SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_PIO, .names = "vm", .number = 16, .length = 1 } },
    { "kvm/vm/pio/0x10/2=0", "kvm/vm/pio/0x10/2=0x0", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_PIO, .names = "vm", .number = 16, .length = 2, .datamatch = true } },
    { "kvm/vm/pio/0x10/1=255", "kvm/vm/pio/0x10/1=0xff", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_PIO, .names = "vm", .number = 16, .length = 1, .datamatch = true, .value = 255 } },

    { "kvm/vm/mmio/0", "kvm/vm/mmio/0x0", SUBSYSTEM_KVM, PRODUCER, { .kind = ENDPOINT_MMIO, .names = "vm" } },
    { "kvm/vm/mmio/0xFEe00000/4=0xAb", "kvm/vm/mmio/0xfee00000/4=0xab", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_MMIO,
            .names = "vm",
            .number = 0xfee00000,
            .length = 4,
            .datamatch = true,
            .value = 0xab } },
    { "kvm/vm/mmio/18446744073709551615/8=18446744073709551615",
        "kvm/vm/mmio/0xffffffffffffffff/8=0xffffffffffffffff", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_MMIO,
            .names = "vm",
            .number = UINT64_MAX,
            .length = 8,
            .datamatch = true,
            .value = UINT64_MAX } },
    { "kvm/vm/mmio/0x00000000000000000001/0x8", "kvm/vm/mmio/0x1/8", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_MMIO, .names = "vm", .number = 1, .length = 8 } },
    { "kvm/vm/mmio/0x1000/2=65535", "kvm/vm/mmio/0x1000/2=0xffff", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_MMIO,
            .names = "vm",
            .number = 4096,
            .length = 2,
            .datamatch = true,
            .value = 65535 } },
    { "kvm/vm/mmio/0x1000/4=4294967295", "kvm/vm/mmio/0x1000/4=0xffffffff", SUBSYSTEM_KVM, PRODUCER,
        { .kind = ENDPOINT_MMIO,
            .names = "vm",
            .number = 4096,
            .length = 4,
            .datamatch = true,
            .value = UINT32_MAX } },

    { "kvm/vm/dev/d/irq/0", NULL, SUBSYSTEM_KVM, CONSUMER | IRQFD | OFFERED,
        { .kind = ENDPOINT_IRQ,
            .names = "vm"
                     "\0"
                     "d" } },
    { "kvm/vm/dev/d/irq/0xffff/level", "kvm/vm/dev/d/irq/65535/level", SUBSYSTEM_KVM,
        CONSUMER | IRQFD | OFFERED,
        { .kind = ENDPOINT_IRQ,
            .names = "vm"
                     "\0"
                     "d",
            .number = 65535,
            .level = true } },
    { "kvm/dev/dev/irq/irq/1", NULL, SUBSYSTEM_KVM, CONSUMER | IRQFD | OFFERED,
        { .kind = ENDPOINT_IRQ,
            .names = "dev"
                     "\0"
                     "irq",
            .number = 1 } },
    { "kvm/vm/dev/d/notify/0x10", "kvm/vm/dev/d/notify/16", SUBSYSTEM_KVM, PRODUCER | OFFERED,
        { .kind = ENDPOINT_NOTIFY,
            .names = "vm"
                     "\0"
                     "d",
            .number = 16 } },
    { "kvm/" N63 "/dev/" N63 "/notify/65535", NULL, SUBSYSTEM_KVM, PRODUCER | OFFERED,
        { .kind = ENDPOINT_NOTIFY, .names = N63 "\0" N63, .number = 65535 } },

    { "vfio/0000.01.00.0/intx", NULL, SUBSYSTEM_VFIO, PRODUCER,
        { .kind = ENDPOINT_INTX, .names = "0000.01.00.0" } },
    { "vfio/d/msi/0", NULL, SUBSYSTEM_VFIO, PRODUCER, { .kind = ENDPOINT_MSI, .names = "d" } },
    { "vfio/d/msi/0xFFFF", "vfio/d/msi/65535", SUBSYSTEM_VFIO, PRODUCER,
        { .kind = ENDPOINT_MSI, .names = "d", .number = 65535 } },
    { "vfio/d/msix/2047", NULL, SUBSYSTEM_VFIO, PRODUCER,
        { .kind = ENDPOINT_MSIX, .names = "d", .number = 2047 } },
    { "vfio/d/err", NULL, SUBSYSTEM_VFIO, PRODUCER, { .kind = ENDPOINT_ERR, .names = "d" } },
    { "vfio/d/req", NULL, SUBSYSTEM_VFIO, PRODUCER, { .kind = ENDPOINT_REQ, .names = "d" } },

    { "vhost/d/vring/0/call", NULL, SUBSYSTEM_VHOST, PRODUCER, { .kind = ENDPOINT_CALL, .names = "d" } },
    { "vhost/d/vring/0x1/kick", "vhost/d/vring/1/kick", SUBSYSTEM_VHOST, CONSUMER,
        { .kind = ENDPOINT_KICK, .names = "d", .number = 1 } },
    { "vhost/d/vring/65535/err", NULL, SUBSYSTEM_VHOST, PRODUCER,
        { .kind = ENDPOINT_VRING_ERR, .names = "d", .number = 65535 } },
    { "vhost/vring/vring/7/kick", NULL, SUBSYSTEM_VHOST, CONSUMER,
        { .kind = ENDPOINT_KICK, .names = "vring", .number = 7 } },
};

static void test_right(void **state)
{
    unsigned kinds = 0;

    (void)state;
    for (size_t i = 0; i < COUNT(right); i++) {
        struct endpoint endpoint = parse(right[i].text), again;
        const char *canonical = right[i].canonical ? right[i].canonical : right[i].text;
        char text[ENDPOINT_SIZE];

        assert_same(&endpoint, &right[i].endpoint);
        assert_ptr_equal(endpoint_format(&endpoint, text), text);
        assert_string_equal(text, canonical);
        again = parse(text);
        assert_int_equal(endpoint_compare(&endpoint, &again), 0);

        assert_int_equal(endpoint_subsystem(&endpoint), right[i].subsystem);
        assert_int_equal(endpoint_is_producer(&endpoint), (right[i].what & PRODUCER) != 0);
        assert_int_equal(endpoint_is_consumer(&endpoint), (right[i].what & CONSUMER) != 0);
        assert_int_equal(endpoint_is_irqfd(&endpoint), (right[i].what & IRQFD) != 0);
        assert_int_equal(endpoint_is_offered(&endpoint), (right[i].what & OFFERED) != 0);
        kinds |= 1u << endpoint.kind;
    }
    /* no kind was left out */
    assert_int_equal(kinds, (1u << (ENDPOINT_VRING_ERR + 1)) - 1);
}

/* ---- What is wrong ---- */

static void test_wrong(void **state)
{
    static const struct {
        const char *text, *reason; /* a part of the reason */
    } wrong[] = {
        { "", "begins with" },
        { "/", "begins with" },
        { "a", "begins with" },
        { "/eventfd/a", "begins with" },
        { "Eventfd/a", "begins with" },
        { "KVM/vm/gsi/1", "begins with" },
        { " eventfd/a", "begins with" },
        { "eventfds/a", "begins with" },
        { "event/a", "begins with" },
        { "eventfd:a", "begins with" },
        { "eventfd", "begins with" },
        { "kvm", "begins with none of eventfd/, kvm/" },
        /* names */
        { "eventfd/", "name behind its first slash" },
        { "eventfd//eoi", "name" },
        { "eventfd/.a", "name" },
        { "eventfd/a b", "name" },
        { "eventfd/a\n", "name" },
        { "eventfd/" N63 "4", "name" },
        { "kvm//gsi/1", "name" },
        { "kvm/-/gsi/1", "name" },
        { "vfio/0000:01:00.0/intx", "name" },
        { "vhost/", "name" },
        { "kvm/vm/dev", "device name" },
        { "kvm/vm/dev/", "device name" },
        { "kvm/vm/dev//irq/1", "device name" },
        { "kvm/vm/dev/a:b/irq/1", "device name" },
        { "kvm/vm/dev/" N63 "4/irq/1", "device name" },
        /* words */
        { "eventfd/a/", "/eoi" },
        { "eventfd/a/eo", "/eoi" },
        { "eventfd/a/EOI", "/eoi" },
        { "eventfd/a/eoi/", "more behind" },
        { "eventfd/a/eoi/1", "more behind" },
        { "kvm/vm", "gsi/N" },
        { "kvm/vm/", "gsi/N" },
        { "kvm/vm/irq/1", "gsi/N" },
        { "kvm/vm/notify/1", "gsi/N" },
        { "kvm/vm/Gsi/1", "gsi/N" },
        { "kvm/vm/eoi", "gsi/N" },
        { "kvm/vm/dev/d", "irq/N" },
        { "kvm/vm/dev/d/", "irq/N" },
        { "kvm/vm/dev/d/gsi/1", "irq/N" },
        { "kvm/vm/dev/d/pio/1", "irq/N" },
        { "vfio/d", "intx" },
        { "vfio/d/", "intx" },
        { "vfio/d/gsi/1", "intx" },
        { "vfio/d/call", "intx" },
        { "vfio/d/dev/e/irq/1", "intx" },
        { "vfio/d/vring/1/err", "intx" },
        { "vhost/d", "vring/N" },
        { "vhost/d/err", "vring/N" },
        { "vhost/d/call", "vring/N" },
        { "vhost/d/vring", "number up to 65535 behind vring/" },
        { "vhost/d/vring/", "number up to 65535 behind vring/" },
        { "vhost/d/vring/call", "number up to 65535 behind vring/" },
        { "vhost/d/vring/65536/call", "number up to 65535 behind vring/" },
        { "vhost/d/vring/-1/call", "number up to 65535 behind vring/" },
        { "vhost/d/vring/1", "vring/N" },
        { "vhost/d/vring/1/", "vring/N" },
        { "vhost/d/vring/1/intx", "vring/N" },
        /* numbers */
        { "kvm/vm/gsi", "4095" },
        { "kvm/vm/gsi/", "4095" },
        { "kvm/vm/gsi//level", "4095" },
        { "kvm/vm/gsi/level", "4095" },
        { "kvm/vm/gsi/4096", "4095" },
        { "kvm/vm/gsi/0x1000", "4095" },
        { "kvm/vm/gsi/18446744073709551617", "4095" },
        { "kvm/vm/gsi/0x10000000000000001", "4095" },
        { "kvm/vm/gsi/-1", "4095" },
        { "kvm/vm/gsi/+1", "4095" },
        { "kvm/vm/gsi/ 1", "4095" },
        { "kvm/vm/gsi/1 ", "4095" },
        { "kvm/vm/gsi/1.0", "4095" },
        { "kvm/vm/gsi/1e1", "4095" },
        { "kvm/vm/gsi/f", "4095" },
        { "kvm/vm/gsi/0x", "4095" },
        { "kvm/vm/gsi/0X1", "4095" },
        { "kvm/vm/gsi/x1", "4095" },
        { "kvm/vm/gsi/0xg", "4095" },
        { "kvm/vm/gsi/0x0x1", "4095" },
        { "kvm/vm/gsi/1_000", "4095" },
        { "kvm/vm/gsi/\xd9\xa1", "4095" },
        { "kvm/vm/dev/d/irq", "65535" },
        { "kvm/vm/dev/d/irq/", "65535" },
        { "kvm/vm/dev/d/irq/65536", "65535" },
        { "kvm/vm/dev/d/notify/65536", "65535" },
        { "vfio/d/msi", "65535" },
        { "vfio/d/msi/", "65535" },
        { "vfio/d/msi/65536", "65535" },
        { "vfio/d/msix/0x10000", "65535" },
        { "kvm/vm/pio", "0xffff" },
        { "kvm/vm/pio/", "0xffff" },
        { "kvm/vm/pio/0x10000", "0xffff" },
        { "kvm/vm/pio/65536", "0xffff" },
        { "kvm/vm/mmio", "64-bit" },
        { "kvm/vm/mmio/", "64-bit" },
        { "kvm/vm/mmio/18446744073709551616", "64-bit" },
        { "kvm/vm/mmio/0x10000000000000000", "64-bit" },
        { "kvm/vm/mmio/99999999999999999999999999", "64-bit" },
        /* level */
        { "kvm/vm/gsi/1/", "/level" },
        { "kvm/vm/gsi/1/edge", "/level" },
        { "kvm/vm/gsi/1/Level", "/level" },
        { "kvm/vm/gsi/1/levels", "/level" },
        { "kvm/vm/gsi/1/2", "/level" },
        { "kvm/vm/gsi/1/level/", "more behind" },
        { "kvm/vm/gsi/1/level/level", "more behind" },
        { "kvm/vm/dev/d/irq/1/edge", "/level" },
        { "kvm/vm/dev/d/notify/1/level", "more behind" },
        { "kvm/vm/dev/d/notify/1/", "more behind" },
        { "vfio/d/msi/1/level", "more behind" },
        { "vfio/d/msix/1/", "more behind" },
        { "vfio/d/intx/", "more behind" },
        { "vfio/d/intx/0", "more behind" },
        { "vfio/d/err/0", "more behind" },
        { "vfio/d/req/level", "more behind" },
        { "vhost/d/vring/1/call/", "more behind" },
        { "vhost/d/vring/1/kick/1", "more behind" },
        { "vhost/d/vring/1/err/1", "more behind" },
        /* LEN and VALUE */
        { "kvm/vm/pio/1/", "LEN" },
        { "kvm/vm/pio/1/3", "LEN" },
        { "kvm/vm/pio/1/5", "LEN" },
        { "kvm/vm/pio/1/6", "LEN" },
        { "kvm/vm/pio/1/7", "LEN" },
        { "kvm/vm/pio/1/9", "LEN" },
        { "kvm/vm/pio/1/16", "LEN" },
        { "kvm/vm/pio/1/18446744073709551617", "LEN" },
        { "kvm/vm/pio/1/level", "LEN" },
        { "kvm/vm/pio/1/=1", "LEN" },
        { "kvm/vm/pio/1/0=1", "VALUE" },
        { "kvm/vm/pio/1/0=0", "VALUE" },
        { "kvm/vm/pio/1/1=", "VALUE" },
        { "kvm/vm/pio/1/1=256", "VALUE" },
        { "kvm/vm/pio/1/1=0x100", "VALUE" },
        { "kvm/vm/pio/1/1=-1", "VALUE" },
        { "kvm/vm/pio/1/1=1=1", "VALUE" },
        { "kvm/vm/pio/1/2=65536", "VALUE" },
        { "kvm/vm/mmio/1/4=4294967296", "VALUE" },
        { "kvm/vm/mmio/1/8=18446744073709551616", "VALUE" },
        { "kvm/vm/mmio/1/8=0x10000000000000000", "VALUE" },
        { "kvm/vm/mmio/1/1=1/", "more behind" },
        { "kvm/vm/mmio/1/1/2", "more behind" },
        { "kvm/vm/mmio/1/1=1/level", "more behind" },
        { "kvm/vm/mmio/1=1", "64-bit" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(wrong); i++) {
        struct endpoint endpoint = { .kind = ENDPOINT_KICK, .number = 4711 };
        const char *reason = NULL;

        if (endpoint_parse(wrong[i].text, &endpoint, &reason) != -EINVAL)
            fail_msg("it takes %s", wrong[i].text);
        assert_non_null(reason);
        assert_true(strlen(reason) > 0);
        if (!strstr(reason, wrong[i].reason))
            fail_msg("%s: %s", wrong[i].text, reason);
        /* what was there is untouched */
        assert_int_equal(endpoint.kind, ENDPOINT_KICK);
        assert_int_equal(endpoint.number, 4711);
    }
}

/* Too long for any endpoint, whatever it says; the last that is not too long is looked at. */
static void test_too_long(void **state)
{
    struct endpoint endpoint;
    const char *reason = NULL;
    char text[100000];

    (void)state;
    memset(text, '0', sizeof(text));
    memcpy(text, "kvm/vm/gsi/", strlen("kvm/vm/gsi/"));
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(endpoint_parse(text, &endpoint, &reason), -EINVAL);
    assert_string_equal(reason, "is too long");
    text[ENDPOINT_SIZE] = '\0';
    assert_int_equal(endpoint_parse(text, &endpoint, &reason), -EINVAL);
    assert_string_equal(reason, "is too long");
    text[ENDPOINT_SIZE - 1] = '\0';
    assert_int_equal(endpoint_parse(text, &endpoint, &reason), 0);
    assert_int_equal(endpoint.number, 0);
}

/* Right ones with a byte taken out, put in or changed: whatever comes of it, it is said, or shown as it is.
 */
static void test_mutated(void **state)
{
    uint64_t seed = random_seed();
    size_t taken = 0, refused = 0;

    (void)state;
    for (int i = 0; i < 100000; i++) {
        char text[ENDPOINT_SIZE + 2], canonical[ENDPOINT_SIZE], again[ENDPOINT_SIZE];
        struct endpoint endpoint;
        const char *reason = NULL;
        size_t length, at;

        (void)snprintf(text, sizeof(text), "%s", right[random_below(&seed, COUNT(right))].text);
        length = strlen(text);
        at = random_below(&seed, length);
        switch (random_below(&seed, 3)) {
        case 0:
            memmove(text + at, text + at + 1, length - at);
            break;
        case 1:
            memmove(text + at + 1, text + at, length - at + 1);
            break;
        default:
            text[at] = "/0x=9a.l"[random_below(&seed, 8)];
            if (random_below(&seed, 2))
                text[at] = (char)random_next(&seed);
        }
        if (endpoint_parse(text, &endpoint, &reason) == 0) {
            taken++;
            endpoint = parse(endpoint_format(&endpoint, canonical));
            assert_string_equal(endpoint_format(&endpoint, again), canonical);
        } else {
            refused++;
            assert_non_null(reason);
            assert_true(strlen(reason) > 0);
        }
    }
    assert_true(taken > 1000);
    assert_true(refused > 1000);
}

/* ---- Random ones ---- */

static void random_name(uint64_t *seed, size_t most, char *name)
{
    static const char characters[] = "_.-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    size_t length = 1 + random_below(seed, most);

    for (size_t i = 0; i < length; i++)
        name[i] = i == 0 ? characters[3 + random_below(seed, 62)] : characters[random_below(seed, 65)];
    name[length] = '\0';
}

/* Numbers up to most, small and large ones. */
static uint64_t random_number(uint64_t *seed, uint64_t most)
{
    uint64_t number = random_next(seed) >> random_below(seed, 64);

    if (random_below(seed, 20) == 0)
        return most;
    return most == UINT64_MAX ? number : number % (most + 1);
}

/* Any endpoint; with few, one out of not many. */
static struct endpoint random_endpoint(uint64_t *seed, bool few)
{
    struct endpoint endpoint = { .kind = (enum endpoint_kind)random_below(seed, ENDPOINT_VRING_ERR + 1) };
    uint64_t most = 65535;
    char *device;

    random_name(seed, few ? 1 : 63, endpoint.names);
    if (few)
        endpoint.names[0] = "ab"[random_below(seed, 2)];
    switch (endpoint.kind) {
    case ENDPOINT_EVENTFD:
    case ENDPOINT_EOI:
    case ENDPOINT_INTX:
    case ENDPOINT_ERR:
    case ENDPOINT_REQ:
        most = 0;
        break;
    case ENDPOINT_GSI:
        most = 4095;
        endpoint.level = random_below(seed, 2);
        break;
    case ENDPOINT_IRQ:
        endpoint.level = random_below(seed, 2);
        __attribute__((fallthrough));
    case ENDPOINT_NOTIFY:
        device = endpoint.names + strlen(endpoint.names) + 1;
        random_name(seed, few ? 1 : 63, device);
        if (few)
            device[0] = "ab"[random_below(seed, 2)];
        break;
    case ENDPOINT_MMIO:
        most = UINT64_MAX;
        __attribute__((fallthrough));
    case ENDPOINT_PIO:
        endpoint.length = (unsigned)(1 << random_below(seed, 5)) & 0xf;
        endpoint.datamatch = endpoint.length > 0 && random_below(seed, 2);
        if (endpoint.datamatch)
            endpoint.value =
                few ? random_below(seed, 2) : random_number(seed, UINT64_MAX >> (64 - 8 * endpoint.length));
        break;
    default:
        break;
    }
    if (few)
        most = most > 1 ? 1 : most;
    endpoint.number = random_number(seed, most);
    return endpoint;
}

static void test_round_trip(void **state)
{
    uint64_t seed = random_seed();

    (void)state;
    for (int i = 0; i < 100000; i++) {
        struct endpoint endpoint = random_endpoint(&seed, false), parsed;
        char text[ENDPOINT_SIZE];

        parsed = parse(endpoint_format(&endpoint, text));
        assert_same(&parsed, &endpoint);
        assert_int_equal(endpoint_compare(&parsed, &endpoint), 0);
    }
}

static int sign(int number)
{
    return (number > 0) - (number < 0);
}

static int by_endpoint(const void *a, const void *b)
{
    return endpoint_compare(a, b);
}

/* A total order, in which those are equal, and only those, that are written the same. */
static void test_compare(void **state)
{
    enum { N = 600 };
    struct endpoint *endpoints = calloc(N, sizeof(*endpoints));
    char(*texts)[ENDPOINT_SIZE] = calloc(N, sizeof(*texts));
    uint64_t seed = random_seed();
    size_t equal = 0;

    (void)state;
    assert_non_null(endpoints);
    assert_non_null(texts);
    for (size_t i = 0; i < N; i++)
        endpoints[i] = random_endpoint(&seed, i < N / 2);
    qsort(endpoints, N, sizeof(*endpoints), by_endpoint);
    for (size_t i = 0; i < N; i++)
        (void)endpoint_format(&endpoints[i], texts[i]);
    /* Sorted by it, each one is against each other as their places say: it is transitive. */
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < N; k++) {
            int c = endpoint_compare(&endpoints[i], &endpoints[k]);

            assert_int_equal(c == 0, strcmp(texts[i], texts[k]) == 0);
            assert_int_equal(sign(c), -sign(endpoint_compare(&endpoints[k], &endpoints[i])));
            if (i < k)
                assert_true(c <= 0);
            equal += c == 0;
        }
    assert_true(equal > N); /* some others than with themselves */
    free(texts);
    free(endpoints);
}

/* Whatever differs, they are different. */
static void test_compare_fields(void **state)
{
    static const char *const different[] = {
        "eventfd/a",
        "eventfd/b",
        "eventfd/a/eoi",
        "kvm/a/gsi/1",
        "kvm/a/gsi/1/level",
        "kvm/a/gsi/2",
        "kvm/b/gsi/1",
        "kvm/a/pio/1",
        "kvm/a/pio/1/1",
        "kvm/a/pio/1/2",
        "kvm/a/pio/1/1=0",
        "kvm/a/pio/1/1=1",
        "kvm/a/mmio/1",
        "kvm/a/dev/a/irq/1",
        "kvm/a/dev/a/irq/1/level",
        "kvm/a/dev/b/irq/1",
        "kvm/a/dev/a/notify/1",
        "vfio/a/intx",
        "vfio/a/msi/1",
        "vfio/a/msix/1",
        "vfio/a/err",
        "vfio/a/req",
        "vhost/a/vring/1/call",
        "vhost/a/vring/2/call",
        "vhost/a/vring/1/kick",
        "vhost/a/vring/1/err",
    };

    (void)state;
    for (size_t i = 0; i < COUNT(different); i++)
        for (size_t k = 0; k < COUNT(different); k++) {
            struct endpoint a = parse(different[i]), b = parse(different[k]);

            assert_int_equal(endpoint_compare(&a, &b) == 0, i == k);
        }
}

/* ---- The longest ---- */

/* Every kind with all that it can have at its longest: it fits, and nothing is written behind the buffer. */
static void test_longest(void **state)
{
    size_t longest = 0;

    (void)state;
    for (int kind = ENDPOINT_EVENTFD; kind <= ENDPOINT_VRING_ERR; kind++) {
        struct endpoint endpoint = { .kind = (enum endpoint_kind)kind, .names = N63 }, parsed;
        struct {
            char text[ENDPOINT_SIZE], guard[64];
        } buffer;

        memset(&buffer, 'x', sizeof(buffer));
        if (kind == ENDPOINT_IRQ || kind == ENDPOINT_NOTIFY)
            (void)snprintf(endpoint.names + sizeof(N63), sizeof(endpoint.names) - sizeof(N63), "%s", N63);
        endpoint.level = kind == ENDPOINT_GSI || kind == ENDPOINT_IRQ;
        if (kind == ENDPOINT_PIO || kind == ENDPOINT_MMIO) {
            endpoint.length = 8;
            endpoint.datamatch = true;
            endpoint.value = UINT64_MAX;
            endpoint.number = kind == ENDPOINT_PIO ? 0xffff : UINT64_MAX;
        } else if (kind == ENDPOINT_GSI) {
            endpoint.number = 4095;
        } else if (kind != ENDPOINT_EVENTFD && kind != ENDPOINT_EOI && kind != ENDPOINT_INTX &&
                   kind != ENDPOINT_ERR && kind != ENDPOINT_REQ) {
            endpoint.number = 65535;
        }
        (void)endpoint_format(&endpoint, buffer.text);
        assert_non_null(memchr(buffer.text, '\0', ENDPOINT_SIZE));
        for (size_t i = 0; i < sizeof(buffer.guard); i++)
            assert_int_equal(buffer.guard[i], 'x');
        longest = strlen(buffer.text) > longest ? strlen(buffer.text) : longest;
        /* nothing was cut off */
        parsed = parse(buffer.text);
        assert_same(&parsed, &endpoint);
    }
    assert_int_equal(longest, strlen("kvm//dev//irq/65535/level") + 2 * NAME_LENGTH_MAX);
    assert_true(longest < ENDPOINT_SIZE);
}

/* ---- Collisions ---- */

static void test_collisions(void **state)
{
    static const struct {
        const char *a, *b;
        bool collide;
    } cases[] = {
        { "eventfd/a", "eventfd/a", true },
        { "eventfd/a", "eventfd/b", false },
        { "eventfd/a", "eventfd/a/eoi", false },
        /* one GSI may have several links, but only as edge or only as level */
        { "kvm/a/gsi/1", "kvm/a/gsi/1", false },
        { "kvm/a/gsi/1/level", "kvm/a/gsi/1/level", false },
        { "kvm/a/gsi/1", "kvm/a/gsi/1/level", true },
        { "kvm/a/gsi/1", "kvm/a/gsi/2/level", false },
        { "kvm/a/gsi/1", "kvm/b/gsi/1/level", false },
        /* a device's interrupt has one */
        { "kvm/a/dev/d/irq/1", "kvm/a/dev/d/irq/1", true },
        { "kvm/a/dev/d/irq/1", "kvm/a/dev/d/irq/1/level", true },
        { "kvm/a/dev/d/irq/1", "kvm/a/dev/d/irq/2", false },
        { "kvm/a/dev/d/irq/1", "kvm/a/dev/e/irq/1", false },
        { "kvm/a/dev/d/irq/1", "kvm/b/dev/d/irq/1", false },
        { "kvm/a/dev/d/irq/1", "kvm/a/dev/d/notify/1", false },
        { "kvm/a/dev/d/irq/1", "kvm/a/gsi/1", false },
        { "kvm/a/dev/d/notify/1", "kvm/a/dev/d/notify/1", true },
        { "kvm/a/dev/d/notify/1", "kvm/a/dev/d/notify/2", false },
        /* doorbells: any length against each */
        { "kvm/a/pio/1", "kvm/a/pio/1", true },
        { "kvm/a/pio/1", "kvm/a/pio/1/1", true },
        { "kvm/a/pio/1", "kvm/a/pio/1/8=1", true },
        { "kvm/a/pio/1", "kvm/a/pio/2", false },
        { "kvm/a/pio/1", "kvm/b/pio/1", false },
        { "kvm/a/pio/1", "kvm/a/mmio/1", false },
        /* another length is another doorbell */
        { "kvm/a/mmio/1/1", "kvm/a/mmio/1/2", false },
        { "kvm/a/mmio/1/1=1", "kvm/a/mmio/1/2=1", false },
        { "kvm/a/mmio/1/4", "kvm/a/mmio/1/8=1", false },
        /* the same: a wildcard, or the same value */
        { "kvm/a/mmio/1/4", "kvm/a/mmio/1/4", true },
        { "kvm/a/mmio/1/4", "kvm/a/mmio/1/4=0", true },
        { "kvm/a/mmio/1/4=1", "kvm/a/mmio/1/4=1", true },
        { "kvm/a/mmio/1/4=0", "kvm/a/mmio/1/4=1", false },
        { "kvm/a/mmio/1/4=1", "kvm/a/mmio/2/4=1", false },
        { "kvm/a/mmio/1/4=1", "kvm/b/mmio/1/4=1", false },
        /* the rest: equal ones */
        { "vfio/a/intx", "vfio/a/intx", true },
        { "vfio/a/intx", "vfio/b/intx", false },
        { "vfio/a/msi/1", "vfio/a/msi/1", true },
        { "vfio/a/msi/1", "vfio/a/msi/2", false },
        { "vfio/a/msi/1", "vfio/a/msix/1", false },
        { "vfio/a/err", "vfio/a/err", true },
        { "vfio/a/err", "vfio/a/req", false },
        { "vhost/a/vring/1/call", "vhost/a/vring/1/call", true },
        { "vhost/a/vring/1/call", "vhost/a/vring/2/call", false },
        { "vhost/a/vring/1/call", "vhost/a/vring/1/kick", false },
        { "vhost/a/vring/1/err", "vhost/a/vring/1/err", true },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct endpoint a = parse(cases[i].a), b = parse(cases[i].b);

        if (endpoint_collides(&a, &b) != cases[i].collide || endpoint_collides(&b, &a) != cases[i].collide)
            fail_msg("%s and %s %s", cases[i].a, cases[i].b, cases[i].collide ? "collide" : "do not collide");
    }
}

/* It does not matter which one was there first, and but for GSIs an endpoint collides with itself. */
static void test_collisions_random(void **state)
{
    uint64_t seed = random_seed();
    size_t collisions = 0;

    (void)state;
    for (int i = 0; i < 100000; i++) {
        struct endpoint a = random_endpoint(&seed, true), b = random_endpoint(&seed, true);

        assert_int_equal(endpoint_collides(&a, &b), endpoint_collides(&b, &a));
        assert_int_equal(endpoint_collides(&a, &a), a.kind != ENDPOINT_GSI);
        if (endpoint_collides(&a, &b)) {
            collisions++;
            assert_int_equal(a.kind, b.kind);
            assert_string_equal(endpoint_name(&a), endpoint_name(&b));
        }
    }
    assert_true(collisions > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_names),
        TEST(test_subsystems),
        TEST(test_right),
        TEST(test_wrong),
        TEST(test_too_long),
        TEST(test_mutated),
        TEST(test_round_trip),
        TEST(test_compare),
        TEST(test_compare_fields),
        TEST(test_longest),
        TEST(test_collisions),
        TEST(test_collisions_random),
    };

    return cmocka_run_group_tests_name("endpoint", tests, NULL, NULL);
}
