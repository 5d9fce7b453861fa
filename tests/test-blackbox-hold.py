#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Held eventfds: created and handed in, claimed, signalled, leased, listed and released."""
import os
import time

import blackbox
import evlink

COUNTER_MAX = 2**64 - 2


class Hold(blackbox.Case):
    def test_created(self):
        before = time.time_ns() // 1000
        eventfd = self.client.hold("a")
        self.assertEqual(
            {key: eventfd[key] for key in ("name", "lifetime", "links")},
            {"name": "a", "lifetime": "persistent", "links": []},
        )
        self.assertNotIn("leaseSeconds", eventfd)
        for key in ("eventfdId", "pending", "semaphore"):
            self.assertNotIn(key, eventfd)  # in ListEventfds only
        self.assertTrue(before <= eventfd["since"] <= time.time_ns() // 1000)
        fd = self.own(self.client.claim("a"))
        self.assertEqual(os.readlink(f"/proc/self/fd/{fd}"), "anon_inode:[eventfd]")
        self.assertFalse(os.get_inheritable(fd))
        self.assert_count(fd, 0)
        self.assert_fds(2)

    def test_given(self):
        """What is handed in is what is claimed, and its counter is shared and not touched."""
        fd = self.eventfd(5)
        self.client.hold("a", fd)
        self.assert_fds(2)
        self.assert_count(fd, 5)
        claimed = self.own(self.client.claim("a"))
        self.assertEqual(evlink.fdinfo(claimed), evlink.fdinfo(fd))
        os.eventfd_write(claimed, 2)
        self.assertEqual(os.eventfd_read(fd), 7)
        self.client.call("Signal", {"name": "a", "count": 3})
        self.assert_count(fd, 3)
        self.assertEqual(self.client.list("Eventfds")["a"]["pending"], 3)
        self.assert_fds(2)

    def test_claim(self):
        self.client.hold("a")
        fds = [self.own(self.client.claim("a")) for _ in range(5)]
        os.eventfd_write(fds[0], 9)
        self.assertEqual([evlink.fdinfo(fd)[0] for fd in fds], [9] * 5)
        self.assertEqual(len({evlink.fdinfo(fd)[1] for fd in fds}), 1)
        answer = self.client.call("Claim", {"name": "a"})
        self.assertEqual(answer["eventfd"]["name"], "a")
        self.assert_fds(2)

    def test_same_under_two_names(self):
        fd = self.eventfd()
        self.client.hold("a", fd)
        self.client.hold("b", fd)
        found = self.client.list("Eventfds")
        self.assertEqual(found["a"]["eventfdId"], found["b"]["eventfdId"])
        self.client.call("Release", {"name": "a"})
        self.client.call("Signal", {"name": "b"})
        self.assert_count(fd, 1)

    def test_release(self):
        """The name is free at once, the descriptor too."""
        for _ in range(3):
            fd = self.eventfd()
            self.client.hold("a", fd)
            self.assertEqual(self.client.call("Release", {"name": "a"}), {})
            self.assert_fds(1)
            self.assertEqual(self.client.list("Eventfds"), {})
            self.refused("NoSuchEventfd", {"name": "a"}, "Release", {"name": "a"})

    def test_hold_many(self):
        """All or none."""
        fds = [self.eventfd(i) for i in range(5)]
        self.client.call("HoldMany", {"names": list("abcde"), "lifetime": "lease", "leaseSeconds": 1000}, fds)
        found = self.client.list("Eventfds")
        self.assertEqual([found[name]["pending"] for name in "abcde"], list(range(5)))
        self.assertEqual({found[name]["leaseSeconds"] for name in "abcde"}, {1000})
        self.assert_fds(6)
        self.refused("NameTaken", {"name": "e"}, "HoldMany", {"names": list("vwxye")}, fds)
        self.assert_fds(6)

    def test_list(self):
        """What the kernel says about it, as in fdinfo; names sorted and each once."""
        semaphore = self.eventfd(4, os.EFD_SEMAPHORE)
        plain = self.eventfd(6)
        self.client.hold("s", semaphore)
        self.client.hold("p", plain)
        self.client.hold("c", semaphore=True)
        self.client.hold("d", semaphore=False)
        found = self.client.list("Eventfds")
        self.assertEqual(list(found), ["c", "d", "p", "s"])
        for name, fd in (("s", semaphore), ("p", plain)):
            count, number, is_semaphore = evlink.fdinfo(fd)
            self.assertEqual((found[name]["pending"], found[name].get("eventfdId")), (count, number))
            self.assertEqual(bool(found[name].get("semaphore")), bool(is_semaphore))
        for name in ("c", "d"):
            fd = self.own(self.client.claim(name))
            self.assertEqual(found[name].get("eventfdId"), evlink.fdinfo(fd)[1])
            os.eventfd_write(fd, 5)
            self.assertEqual(os.eventfd_read(fd), 1 if name == "c" else 5)

    def test_semaphore(self):
        semaphore, plain = self.eventfd(0, os.EFD_SEMAPHORE), self.eventfd()
        self.client.hold("s", semaphore, semaphore=True)
        self.client.hold("p", plain, semaphore=False)
        self.client.call("Signal", {"name": "s", "count": 3})
        self.assertEqual([os.eventfd_read(semaphore) for _ in range(3)], [1, 1, 1])

    def test_match(self):
        for name in ("a", "ab", "abc", "b.a", "B", "x-1", "x-2", "x_1"):
            self.client.hold(name)
        for match, names in (
            ("*", ["B", "a", "ab", "abc", "b.a", "x-1", "x-2", "x_1"]),
            ("a", ["a"]),
            ("a*", ["a", "ab", "abc"]),
            ("a?", ["ab"]),
            ("?", ["B", "a"]),
            ("x[-_]1", ["x-1", "x_1"]),
            ("[!a-z]*", ["B"]),
            ("*.*", ["b.a"]),
            ("", []),
            ("A", []),
            ("[", []),
            ("é*", []),
            ("\\a", ["a"]),
        ):
            self.assertEqual(list(self.client.list("Eventfds", match=match)), names, match)

    def test_thousands(self):
        """A list of 2,000, and its matches."""
        for first in range(0, 2000, 250):
            fds = [os.eventfd(0) for _ in range(250)]
            names = [f"vm{(first + i) % 10}.q{first + i:04}" for i in range(250)]
            self.client.call("HoldMany", {"names": names}, fds)
            evlink.close_all(fds)
        found = list(self.client.list("Eventfds"))
        self.assertEqual(len(found), 2000)
        self.assertEqual(found, sorted(found))
        self.assertEqual(len(self.client.list("Eventfds", match="vm3.*")), 200)
        self.assertEqual(list(self.client.list("Eventfds", match="*.q1999")), ["vm9.q1999"])
        self.assertEqual(self.client.list("Eventfds", match="*.q2000"), {})
        # others are served while a long list goes out
        self.client.start("ListEventfds", more=True)
        other = self.connect()
        for _ in range(10):
            self.assertEqual(other.call("Status")["eventfds"], 2000)
        while self.client.pending:
            self.client.finish()

    def test_list_while_it_changes(self):
        """What was there all the time is listed, once, whatever comes and goes meanwhile."""
        for i in range(600):
            self.client.hold(f"e{i:03}")
        other = self.connect()
        names = []
        other.start("ListEventfds", more=True)
        for i in range(0, 600, 2):
            self.client.call("Release", {"name": f"e{i:03}"})
        while other.pending:
            names.append(other.finish()[0]["eventfd"]["name"])
        self.assertEqual(names, sorted(set(names)))
        self.assertLessEqual({f"e{i:03}" for i in range(1, 600, 2)}, set(names))


class Signal(blackbox.Case):
    def test_counts(self):
        fd = self.eventfd()
        self.client.hold("a", fd)
        total = 0
        for count in (1, 2, 7, 8, 9, 10, 255, 2**31, 2**32 + 1, 2**53 + 1, 2**62):
            self.client.call("Signal", {"name": "a", "count": count})
            total += count
            self.assert_count(fd, total)
        self.client.call("Signal", {"name": "a"})
        self.assertEqual(os.eventfd_read(fd), total + 1)

    def test_full(self):
        """A counter takes what fits, and nothing of what does not."""
        fd = self.eventfd()
        self.client.hold("a", fd)
        os.eventfd_write(fd, COUNTER_MAX - 9)
        for count in (10, 11, 1000, 2**63 - 1):
            self.assert_error("QuotaExceeded", {"what": "counter"}, self.signal, count)
            self.assert_count(fd, COUNTER_MAX - 9)
        self.signal(9)
        self.assert_count(fd, COUNTER_MAX)
        for count in (1, 8, 9, 2**63 - 1):
            self.assert_error("QuotaExceeded", {"what": "counter"}, self.signal, count)
            self.assert_count(fd, COUNTER_MAX)
        self.assertEqual(self.client.list("Eventfds")["a"]["pending"], 2**63 - 1)  # JSON's integers end there
        os.eventfd_read(fd)
        self.signal(1)
        self.assert_count(fd, 1)

    def signal(self, count):
        return self.client.call("Signal", {"name": "a", "count": count})

    def test_largest(self):
        fd = self.eventfd()
        self.client.hold("a", fd)
        self.signal(2**63 - 1)
        self.signal(2**63 - 1)
        self.assert_count(fd, COUNTER_MAX)

    def test_blocking_eventfd(self):
        """One that blocks, and is full, holds up nobody."""
        fd = self.eventfd(0)
        os.set_blocking(fd, True)
        self.client.hold("a", fd)
        os.eventfd_write(fd, COUNTER_MAX)
        for count in (1, 9):
            began = time.monotonic()
            self.assert_error("QuotaExceeded", {"what": "counter"}, self.signal, count)
            self.assertLess(time.monotonic() - began, 1)

    def test_waiting_reader(self):
        fd = self.eventfd(0)
        os.set_blocking(fd, True)
        self.client.hold("a", fd)
        for count in (1, 8, 9):
            self.client.call("Signal", {"name": "a", "count": count}, oneway=True)
            read = 0
            while read < count:  # it may come in parts
                read += os.eventfd_read(fd)
            self.assertEqual(read, count)


class Lifetime(blackbox.Case):
    def test_connection(self):
        other = self.connect()
        other.hold("a", lifetime="connection")
        other.hold("stays")
        other.hold("b", self.eventfd(), lifetime="connection")
        other.call("HoldMany", {"names": ["c", "d"], "lifetime": "connection"}, [self.eventfd(), self.eventfd()])
        self.assertEqual(self.client.list("Eventfds")["a"]["lifetime"], "connection")
        other.call("Release", {"name": "c"})
        self.assert_fds(6)
        other.close()
        evlink.until(lambda: list(self.client.list("Eventfds")) == ["stays"])
        self.assert_fds(2)

    def test_connection_of_a_link(self):
        other = self.connect()
        other.hold("a")
        other.connect(["eventfd/a"], ["kvm/v/gsi/1"], name="l", lifetime="connection")
        other.connect(["kvm/v/pio/1"], ["kvm/v/gsi/1"], name="stays")
        other.close()
        evlink.until(lambda: list(self.client.list("Links")) == ["stays"])
        self.client.call("Release", {"name": "a"})

    def test_connection_of_an_eventfd_that_is_linked(self):
        """It leaves its link, which has lost its last producer."""
        agent = self.attach("agent", {"v": None})
        other = self.connect()
        other.hold("a", lifetime="connection")
        self.client.connect(["eventfd/a"], ["kvm/v/gsi/1"], name="l")
        other.close()
        evlink.until(lambda: not self.client.list("Links"))
        self.assertEqual(agent.log(), [("Plug", "kvm/v/gsi/1"), ("Unplug", "kvm/v/gsi/1")])
        self.assertEqual(agent.plugged, {})
        self.client.hold("a")

    def test_lease(self):
        """Not before its time, and soon after it; renewed, from then on."""
        began = time.monotonic()
        self.client.hold("short", lifetime="lease", leaseSeconds=1)
        self.client.call("HoldMany", {"names": ["m"], "lifetime": "lease", "leaseSeconds": 1}, [self.eventfd()])
        self.client.hold("renewed", lifetime="lease", leaseSeconds=1)
        self.client.hold("long", lifetime="lease", leaseSeconds=2**63 - 1)
        self.client.hold("base")
        lease = {"lifetime": "lease", "leaseSeconds": 1}
        self.client.connect(["eventfd/base"], ["kvm/v/gsi/1"], name="short", **lease)
        self.client.connect(["kvm/v/pio/1"], ["kvm/v/gsi/1"], name="renewed", **lease)
        # an eventfd in a link
        self.client.hold("inside", **lease)
        self.client.connect(["eventfd/inside"], ["kvm/v/gsi/1"], name="around")
        agent = self.attach("agent", {"v": None})
        agent.wait_for(1)
        self.assertEqual(self.client.call("Renew", {"name": "renewed", "leaseSeconds": 1000}), {})
        self.assertEqual(self.client.call("Renew", {"link": "renewed", "leaseSeconds": 1000}), {})
        self.assertEqual(self.client.list("Eventfds")["renewed"]["leaseSeconds"], 1000)
        self.assertEqual(self.client.list("Eventfds")["short"]["leaseSeconds"], 1)
        last = began
        while True:
            links, names = set(self.client.list("Links")), set(self.client.list("Eventfds"))
            if "short" not in names and "short" not in links and "around" not in links:
                break
            last = time.monotonic()
            self.assertLess(last, began + 3)
            time.sleep(0.02)
        self.assertGreaterEqual(time.monotonic() - began, 1)
        self.assertLess(time.monotonic() - began, 1.5)
        self.assertEqual(names, {"renewed", "long", "base"})
        self.assertEqual(links, {"renewed"})
        evlink.until(lambda: len(agent.plugged) == 2)  # those of the link that was renewed
        self.client.hold("short")
        # a renewal may shorten it, too
        self.client.call("Renew", {"name": "long", "leaseSeconds": 1})
        self.client.hold("never", lifetime="lease", leaseSeconds=1)
        self.client.call("Release", {"name": "never"})
        evlink.until(lambda: "long" not in self.client.list("Eventfds"))


if __name__ == "__main__":
    blackbox.main()
