/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an agent plugs into devices of VFIO and vhost, against a kernel of the test's own: ioctl() is wrapped,
 * and what it does is what drivers/vfio/pci and drivers/vhost do, before Linux 6.5 and since. The real ones
 * are for tests/check-stock-kernel.
 */
#include "base/cleanup.h"
#include "lib/plugs.h"
#include "lib/vfio.h"
#include "lib/vhost.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#define VECTORS 32
#define RINGS 2
#define NONE (-1)

/* One device of each. A trigger is the eventfd's number plus 1, 0 for none. */
static struct kernel {
    int vfio_fd, vhost_fd;
    bool resizes; /* Linux 6.5: MSI-X grows */
    bool not_pci;
    unsigned host_room; /* vectors that the host has; 0: enough */
    int bad_fd;         /* EINVAL: a trigger that is refused; 0: none */
    int type;           /* of VFIO_PCI_*_IRQ_INDEX, NONE */
    unsigned n_vectors; /* that it was enabled with */
    int triggers[VECTORS], unmask;
    int single[VFIO_PCI_NUM_IRQS]; /* err, req */
    unsigned n_calls;              /* SET_IRQS that set eventfds */
    unsigned n_disabled;
    int owner_error;
    int rings[RINGS][3];
} kernel;

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);

static unsigned count_of(unsigned index)
{
    static const unsigned counts[VFIO_PCI_NUM_IRQS] = { 1, 4, VECTORS, 1, 1 };

    return index < VFIO_PCI_NUM_IRQS ? counts[index] : 0;
}

static void disable(void)
{
    memset(kernel.triggers, 0, sizeof(kernel.triggers));
    kernel.unmask = 0;
    kernel.type = NONE;
    kernel.n_disabled++;
}

static int set_one(unsigned vector, int fd)
{
    if (fd >= 0 && kernel.bad_fd == fd)
        return -EINVAL;
    kernel.triggers[vector] = fd >= 0 ? fd + 1 : 0;
    return 0;
}

static int set_block(unsigned start, unsigned count, const int32_t *fds)
{
    if (!kernel.resizes && start + count > kernel.n_vectors)
        return -EINVAL;
    for (unsigned i = 0; i < count; i++)
        if (set_one(start + i, fds[i]) < 0) {
            for (unsigned k = 0; k <= i; k++)
                kernel.triggers[start + k] = 0;
            return -EINVAL;
        }
    return 0;
}

static int set_msi(const struct vfio_irq_set *set)
{
    const int32_t *fds = (const int32_t *)set->data;
    int type = (int)set->index, r;

    if (kernel.type == type && set->count == 0 && set->flags & VFIO_IRQ_SET_DATA_NONE) {
        disable();
        return 0;
    }
    if (kernel.type != type && kernel.type != NONE)
        return -EINVAL;
    if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) {
        if (kernel.type == type)
            return set_block(set->start, set->count, fds);
        if (kernel.host_room && set->start + set->count > kernel.host_room)
            return (int)kernel.host_room;
        kernel.type = type;
        kernel.n_vectors = set->start + set->count;
        r = set_block(set->start, set->count, fds);
        if (r < 0)
            disable();
        return r;
    }
    if (kernel.type != type || (!kernel.resizes && set->start + set->count > kernel.n_vectors))
        return -EINVAL;
    assert_int_equal(set->data[0], 0); /* nobody is to be interrupted by a question */
    return 0;
}

static int set_intx(const struct vfio_irq_set *set)
{
    const int32_t *fds = (const int32_t *)set->data;
    int *place = &kernel.triggers[0];

    if (set->flags & VFIO_IRQ_SET_ACTION_UNMASK) {
        if (kernel.type != VFIO_PCI_INTX_IRQ_INDEX)
            return -EINVAL;
        if (kernel.unmask)
            return -EBUSY;
        if (kernel.bad_fd == fds[0])
            return -EINVAL;
        kernel.unmask = fds[0] + 1;
        return 0;
    }
    if (kernel.type == VFIO_PCI_INTX_IRQ_INDEX && set->count == 0) {
        disable();
        return 0;
    }
    if ((kernel.type != VFIO_PCI_INTX_IRQ_INDEX && kernel.type != NONE) || set->count != 1)
        return -EINVAL;
    if (set->flags & VFIO_IRQ_SET_DATA_BOOL)
        return kernel.type == NONE ? -EINVAL : 0;
    kernel.type = VFIO_PCI_INTX_IRQ_INDEX;
    *place = fds[0] + 1;
    return 0;
}

static int set_irqs(const struct vfio_irq_set *set)
{
    if (set->start + set->count > count_of(set->index))
        return -EINVAL;
    kernel.n_calls += (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) != 0;
    switch (set->index) {
    case VFIO_PCI_INTX_IRQ_INDEX:
        return set_intx(set);
    case VFIO_PCI_MSI_IRQ_INDEX:
    case VFIO_PCI_MSIX_IRQ_INDEX:
        return set_msi(set);
    default:
        kernel.single[set->index] = *(const int32_t *)set->data + 1;
        return 0;
    }
}

static int get_irq_info(struct vfio_irq_info *info)
{
    if (info->index >= VFIO_PCI_NUM_IRQS)
        return -EINVAL;
    info->count = count_of(info->index);
    info->flags = VFIO_IRQ_INFO_EVENTFD;
    if (info->index != VFIO_PCI_MSIX_IRQ_INDEX || !kernel.resizes)
        info->flags |= VFIO_IRQ_INFO_NORESIZE;
    return 0;
}

static int set_ring(const struct vhost_vring_file *file, int which)
{
    if (kernel.owner_error)
        return -kernel.owner_error;
    if (file->index >= RINGS)
        return -ENOBUFS;
    kernel.rings[file->index][which] = file->fd + 1;
    return 0;
}

static int answer(int r)
{
    if (r >= 0)
        return r;
    errno = -r;
    return -1;
}

int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
    struct vfio_device_info *info = argument;

    if (fd == kernel.vfio_fd)
        switch (request) {
        case VFIO_DEVICE_GET_INFO:
            info->flags = kernel.not_pci ? VFIO_DEVICE_FLAGS_PLATFORM : VFIO_DEVICE_FLAGS_PCI;
            return 0;
        case VFIO_DEVICE_GET_IRQ_INFO:
            return answer(get_irq_info(argument));
        case VFIO_DEVICE_SET_IRQS:
            return answer(set_irqs(argument));
        default:
            return answer(-ENOTTY);
        }
    if (fd == kernel.vhost_fd)
        switch (request) {
        case VHOST_GET_FEATURES:
            return 0;
        case VHOST_SET_VRING_CALL:
            return answer(set_ring(argument, 0));
        case VHOST_SET_VRING_KICK:
            return answer(set_ring(argument, 1));
        case VHOST_SET_VRING_ERR:
            return answer(set_ring(argument, 2));
        default:
            return answer(-ENOTTY);
        }
    return __real_ioctl(fd, request, argument);
}

/* ---- An agent's plugs, without the agent ---- */

struct fixture {
    struct evl_plugs plugs;
    int fds[8], null;
};

static struct fixture fixture;

static void begin_as(bool resizes, bool keep)
{
    fixture.null = open("/dev/null", O_RDWR | O_CLOEXEC);
    kernel = (struct kernel){ .vfio_fd = fixture.null, .resizes = resizes, .type = NONE };
    kernel.vhost_fd = fcntl(fixture.null, F_DUPFD_CLOEXEC, 0);
    for (size_t i = 0; i < ARRAY_SIZE(fixture.fds); i++)
        fixture.fds[i] = eventfd(0, EFD_CLOEXEC);
    evl_plugs_init(&fixture.plugs, keep);
    assert_int_equal(evl_plugs_add(&fixture.plugs, SUBSYSTEM_VFIO, "d", kernel.vfio_fd, NULL, NULL), 0);
    assert_int_equal(evl_plugs_add(&fixture.plugs, SUBSYSTEM_VHOST, "d", kernel.vhost_fd, NULL, NULL), 0);
}

static void begin(bool resizes)
{
    begin_as(resizes, false);
}

static void end(void)
{
    evl_plugs_clear(&fixture.plugs);
    for (size_t i = 0; i < ARRAY_SIZE(fixture.fds); i++)
        close(fixture.fds[i]);
    close(kernel.vhost_fd);
    close(fixture.null);
}

static struct evl_item item(const char *endpoint, size_t which)
{
    return (struct evl_item){
        .endpoint = endpoint,
        .eventfd_id = (int64_t)which,
        .fd = fixture.fds[which],
        .resample_fd = strstr(endpoint, "/intx") ? fixture.fds[7] : -1,
    };
}

static int plug(const char *endpoint, size_t which)
{
    struct evl_item one = item(endpoint, which);
    int error;

    evl_plugs_plug(&fixture.plugs, &one, 1, &error);
    return error;
}

static int unplug(const char *endpoint, size_t which)
{
    struct evl_item one = item(endpoint, which);
    int error;

    evl_plugs_unplug(&fixture.plugs, &one, 1, &error);
    return error;
}

static bool is_set(int trigger, size_t which)
{
    return trigger == fixture.fds[which] + 1;
}

static size_t count_plugs(void)
{
    const char *endpoint;
    int64_t id;
    size_t n = 0;

    while (evl_plugs_at(&fixture.plugs, n, &endpoint, &id))
        n++;
    return n;
}

/* Four vectors of one batch. */
static void plug_four(int *errors)
{
    const struct evl_item items[] = { item("vfio/d/msix/4", 0), item("vfio/d/msix/5", 1),
        item("vfio/d/msix/6", 2), item("vfio/d/msix/7", 3) };

    evl_plugs_plug(&fixture.plugs, items, 4, errors);
}

/* ---- VFIO ---- */

static void test_add(void **state)
{
    int file = fd_make();

    (void)state;
    begin(true);
    assert_int_equal(evl_plugs_add(&fixture.plugs, SUBSYSTEM_VFIO, "d", kernel.vfio_fd, NULL, NULL), -EEXIST);
    assert_int_equal(evl_plugs_add(&fixture.plugs, SUBSYSTEM_VFIO, "e", -1, NULL, NULL), -EBADF);
    assert_int_equal(evl_plugs_add(&fixture.plugs, SUBSYSTEM_VFIO, "e", file, NULL, NULL), -ENOTTY);
    assert_int_equal(
        evl_plugs_add(&fixture.plugs, SUBSYSTEM_VFIO, "0:1", kernel.vfio_fd, NULL, NULL), -EINVAL);
    assert_int_equal(evl_plugs_add(&fixture.plugs, SUBSYSTEM_VHOST, "e", -1, NULL, NULL), -EBADF);
    assert_int_equal(evl_plugs_add(&fixture.plugs, SUBSYSTEM_VHOST, "e", file, NULL, NULL), -ENOTTY);
    kernel.not_pci = true;
    assert_int_equal(
        evl_plugs_add(&fixture.plugs, SUBSYSTEM_VFIO, "e", kernel.vfio_fd, NULL, NULL), -EOPNOTSUPP);
    close(file);
    end();
}

/* Both before Linux 6.5 and since: neighbours in one call, one at a time, and none taken by another. */
static void check_vectors(bool resizes)
{
    int errors[4];

    begin(resizes);
    plug_four(errors);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(errors[i], 0);
        assert_true(is_set(kernel.triggers[4 + i], i));
    }
    /* One that makes room, and one for all four. */
    assert_int_equal(kernel.n_calls, 2);
    assert_int_equal(kernel.n_vectors, resizes ? 8 : VECTORS);
    assert_int_equal(plug("vfio/d/msix/31", 4), 0);
    assert_int_equal(plug("vfio/d/msix/0", 5), 0);
    assert_int_equal(kernel.n_calls, 4);
    assert_int_equal(plug("vfio/d/msix/0", 6), -EBUSY);
    assert_int_equal(plug("vfio/d/msix/32", 6), -ENOENT);
    assert_true(is_set(kernel.triggers[0], 5));
    assert_int_equal(count_plugs(), 6);
    /* Of what was not plugged there nothing is taken away. */
    assert_int_equal(unplug("vfio/d/msix/0", 6), 0);
    assert_true(is_set(kernel.triggers[0], 5));
    assert_int_equal(unplug("vfio/d/msix/5", 1), 0);
    assert_int_equal(kernel.triggers[5], 0);
    assert_true(is_set(kernel.triggers[4], 0));
    assert_true(is_set(kernel.triggers[6], 2));
    assert_int_equal(plug("vfio/d/msix/5", 1), 0);
    assert_true(is_set(kernel.triggers[5], 1));
    assert_int_equal(kernel.n_disabled, 0);
    end();
}

static void test_vectors(void **state)
{
    (void)state;
    check_vectors(true);
    check_vectors(false);
}

/* One of four is refused: the others are plugged, and so is what was. */
static void check_one_fails(bool resizes, size_t bad)
{
    int errors[4];

    begin(resizes);
    assert_int_equal(plug("vfio/d/msix/1", 6), 0);
    kernel.bad_fd = fixture.fds[bad];
    plug_four(errors);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(errors[i], i == bad ? -EINVAL : 0);
        assert_true(i == bad ? kernel.triggers[4 + i] == 0 : is_set(kernel.triggers[4 + i], i));
    }
    assert_true(is_set(kernel.triggers[1], 6));
    assert_int_equal(count_plugs(), 4);
    assert_int_equal(kernel.n_disabled, 0);
    end();
}

static void test_one_fails(void **state)
{
    (void)state;
    for (size_t bad = 0; bad < 4; bad++) {
        check_one_fails(true, bad);
        check_one_fails(false, bad);
    }
}

/* The host has fewer than the device. */
static void test_host_is_full(void **state)
{
    int errors[4];

    (void)state;
    begin(false);
    kernel.host_room = 6;
    plug_four(errors);
    /* Room was made for 6, as many as there are: two of the four. */
    assert_int_equal(errors[0], 0);
    assert_int_equal(errors[1], 0);
    assert_int_equal(errors[2], -ENOSPC);
    assert_int_equal(errors[3], -ENOSPC);
    assert_true(is_set(kernel.triggers[4], 0));
    assert_true(is_set(kernel.triggers[5], 1));
    assert_int_equal(count_plugs(), 2);
    end();
}

/* INTx, MSI and MSI-X exclude each other, as long as one is in use. */
static void test_exclusive(void **state)
{
    static const char *const kinds[] = { "vfio/d/intx", "vfio/d/msi/1", "vfio/d/msix/1" };

    (void)state;
    for (int resizes = 0; resizes < 2; resizes++)
        for (size_t i = 0; i < 3; i++)
            for (size_t k = 0; k < 3; k++) {
                if (i == k)
                    continue;
                begin(resizes);
                assert_int_equal(plug(kinds[i], 0), 0);
                assert_int_equal(plug(kinds[k], 1), -EBUSY);
                assert_int_equal(kernel.type, i);
                assert_true(is_set(kernel.triggers[i > 0], 0));
                assert_int_equal(unplug(kinds[k], 1), 0);
                assert_true(is_set(kernel.triggers[i > 0], 0));
                assert_int_equal(unplug(kinds[i], 0), 0);
                assert_int_equal(kernel.triggers[i > 0], 0);
                assert_int_equal(plug(kinds[k], 1), 0);
                assert_int_equal(kernel.type, k);
                assert_true(is_set(kernel.triggers[k > 0], 1));
                end();
            }
}

/* What the VMM has enabled by its own hand is not touched. */
static void test_of_the_vmm(void **state)
{
    (void)state;
    begin(true);
    kernel.type = VFIO_PCI_MSI_IRQ_INDEX;
    kernel.n_vectors = 1;
    kernel.triggers[0] = 77;
    assert_int_equal(plug("vfio/d/intx", 0), -EBUSY);
    assert_int_equal(plug("vfio/d/msix/0", 0), -EBUSY);
    assert_int_equal(kernel.triggers[0], 77);
    disable();
    kernel.type = VFIO_PCI_INTX_IRQ_INDEX;
    kernel.triggers[0] = 77;
    assert_int_equal(plug("vfio/d/intx", 0), -EBUSY);
    assert_int_equal(plug("vfio/d/msi/0", 0), -EBUSY);
    assert_int_equal(kernel.triggers[0], 77);
    end();
}

/* An agent is told to unplug what one before it plugged, and does not enable what is not. */
static void test_inherited(void **state)
{
    (void)state;
    begin(false);
    assert_int_equal(unplug("vfio/d/msix/3", 0), 0);
    assert_int_equal(unplug("vfio/d/msi/3", 0), 0);
    assert_int_equal(unplug("vfio/d/intx", 0), 0);
    assert_int_equal(kernel.type, NONE);
    kernel.type = VFIO_PCI_MSIX_IRQ_INDEX;
    kernel.n_vectors = 8;
    kernel.triggers[3] = fixture.fds[0] + 1;
    kernel.triggers[4] = 77;
    assert_int_equal(unplug("vfio/d/msix/3", 0), 0);
    assert_int_equal(kernel.triggers[3], 0);
    assert_int_equal(unplug("vfio/d/msix/9", 0), 0);
    assert_int_equal(kernel.triggers[4], 77);
    assert_int_equal(plug("vfio/d/msix/3", 0), 0);
    assert_int_equal(plug("vfio/d/msix/9", 0), -ENOSPC);
    assert_int_equal(kernel.triggers[4], 77);
    end();
}

static void test_intx(void **state)
{
    struct evl_item edge;
    int error;

    (void)state;
    begin(true);
    assert_int_equal(plug("vfio/d/intx", 0), 0);
    assert_true(is_set(kernel.triggers[0], 0));
    assert_true(is_set(kernel.unmask, 7));
    assert_int_equal(plug("vfio/d/intx", 1), -EBUSY);
    assert_int_equal(unplug("vfio/d/intx", 0), 0);
    assert_int_equal(kernel.type, NONE);
    /* Without what unmasks it, it is no INTx; and half a plug is none. */
    edge = item("vfio/d/intx", 0);
    edge.resample_fd = -1;
    evl_plugs_plug(&fixture.plugs, &edge, 1, &error);
    assert_int_equal(error, -EINVAL);
    kernel.bad_fd = fixture.fds[7];
    assert_int_equal(plug("vfio/d/intx", 0), -EINVAL);
    assert_int_equal(kernel.type, NONE);
    assert_int_equal(count_plugs(), 0);
    end();
}

static void test_single(void **state)
{
    (void)state;
    begin(true);
    assert_int_equal(plug("vfio/d/intx", 0), 0);
    assert_int_equal(plug("vfio/d/err", 1), 0);
    assert_int_equal(plug("vfio/d/req", 2), 0);
    assert_true(is_set(kernel.single[VFIO_PCI_ERR_IRQ_INDEX], 1));
    assert_true(is_set(kernel.single[VFIO_PCI_REQ_IRQ_INDEX], 2));
    assert_int_equal(plug("vfio/d/err", 3), -EBUSY);
    assert_int_equal(unplug("vfio/d/err", 1), 0);
    assert_int_equal(kernel.single[VFIO_PCI_ERR_IRQ_INDEX], 0);
    assert_true(is_set(kernel.single[VFIO_PCI_REQ_IRQ_INDEX], 2));
    end();
}

/* What did not come, and what nobody has, keeps nobody else from being plugged. */
static void test_mixed_batch(void **state)
{
    int errors[7];

    (void)state;
    begin_as(true, true);
    {
        struct evl_item items[] = { item("vfio/d/msix/0", 0), item("vfio/d/msix/1", 1),
            item("vfio/x/msix/2", 2), item("vhost/d/vring/1/call", 2), item("vfio/d/msix/3", 3),
            item("vfio/d/msix/4", 4), item("vfio/d/msix/5", 5) };

        items[5].fd = -EMFILE;
        evl_plugs_plug(&fixture.plugs, items, ARRAY_SIZE(items), errors);
    }
    assert_int_equal(errors[0], 0);
    assert_int_equal(errors[1], 0);
    assert_int_equal(errors[2], -ENODEV);
    assert_int_equal(errors[3], 0);
    assert_int_equal(errors[4], 0);
    assert_int_equal(errors[5], -EMFILE);
    assert_int_equal(errors[6], 0);
    assert_int_equal(count_plugs(), 5);
    assert_true(is_set(kernel.triggers[5], 5));
    end();
}

/* ---- vhost ---- */

static void test_vhost(void **state)
{
    (void)state;
    begin(true);
    assert_int_equal(plug("vhost/d/vring/0/call", 0), 0);
    assert_int_equal(plug("vhost/d/vring/1/kick", 1), 0);
    assert_int_equal(plug("vhost/d/vring/1/err", 2), 0);
    assert_true(is_set(kernel.rings[0][0], 0));
    assert_true(is_set(kernel.rings[1][1], 1));
    assert_true(is_set(kernel.rings[1][2], 2));
    assert_int_equal(plug("vhost/d/vring/0/call", 3), -EBUSY);
    assert_int_equal(plug("vhost/d/vring/2/call", 3), -ENOBUFS);
    assert_int_equal(unplug("vhost/d/vring/0/call", 3), 0);
    assert_true(is_set(kernel.rings[0][0], 0));
    assert_int_equal(unplug("vhost/d/vring/0/call", 0), 0);
    assert_int_equal(kernel.rings[0][0], 0);
    assert_int_equal(unplug("vhost/d/vring/0/call", 0), 0);
    kernel.owner_error = EPERM;
    assert_int_equal(plug("vhost/d/vring/0/call", 0), -EPERM);
    assert_int_equal(unplug("vhost/d/vring/1/kick", 1), -EPERM);
    assert_int_equal(count_plugs(), 2);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_add),
        TEST(test_vectors),
        TEST(test_one_fails),
        TEST(test_host_is_full),
        TEST(test_exclusive),
        TEST(test_of_the_vmm),
        TEST(test_inherited),
        TEST(test_intx),
        TEST(test_single),
        TEST(test_mixed_batch),
        TEST(test_vhost),
    };

    return cmocka_run_group_tests_name("vfio", tests, NULL, NULL);
}
