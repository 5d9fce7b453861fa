#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Agents and links with real virtual machines: interrupts arrive, and what fails leaves nothing in the kernel."""
import errno
import os

import blackbox
import evlink


def plugs(agent, method="Plug"):
    return [endpoint for what, endpoint in agent.log() if what == method]


@blackbox.needs_kvm
class Kvm(blackbox.Case):
    def setUp(self):
        super().setUp()
        self.machine = self.vm()
        self.agent = self.attach("agent", {"vm": self.machine})

    def failed(self, endpoint, number, method, parameters):
        """PlugFailed, and nothing is left in the broker and in the agent."""
        told = {"endpoint": endpoint, "errno": number, "errnoName": errno.errorcode[number]}
        self.refused("PlugFailed", told, method, parameters)
        self.assertEqual(self.agent.plugged, {})

    def test_eventfd_to_gsi(self):
        fd = self.eventfd()
        self.client.hold("a", fd)
        link = self.client.connect(["eventfd/a"], ["kvm/vm/gsi/5"])
        self.assertEqual((link["state"], link["relayed"]), ("linked", False))
        self.assertNotIn("forwarded", link)
        self.assertEqual(link["producers"], [{"endpoint": "eventfd/a", "state": "plugged"}])
        self.assertEqual(link["consumers"], [{"endpoint": "kvm/vm/gsi/5", "state": "plugged"}])
        self.assertEqual(self.client.list("Eventfds")["a"]["links"], [link["name"]])
        self.assertFalse(self.machine.interrupted(5))
        for count in (1, 100):
            os.eventfd_write(fd, count)
            self.assert_interrupt(self.machine, 5)
            self.assert_count(fd, 0)
        for count in (1, 8, 9, 1000):
            self.client.call("Signal", {"name": "a", "count": count})
            self.assert_interrupt(self.machine, 5)
        # the link's own reference is enough
        self.client.call("Disconnect", {"name": link["name"]})
        self.machine.interrupted(5)  # the 8 may have been more than one interrupt
        os.eventfd_write(fd, 3)
        self.assert_count(fd, 3)
        self.assertFalse(self.machine.interrupted(5))
        self.assertEqual(self.client.list("Links"), {})
        self.assertEqual(self.client.list("Eventfds")["a"]["links"], [])

    def test_nobody_else_has_the_eventfd(self):
        """The broker's reference is what keeps the irqfd alive."""
        self.client.hold("a")
        self.client.connect(["eventfd/a"], ["kvm/vm/gsi/5"])
        self.client.call("Signal", {"name": "a"})
        self.assert_interrupt(self.machine, 5)
        self.client.connect(["kvm/vm/pio/0x510"], ["kvm/vm/gsi/6"])
        self.assertTrue(self.machine.ring("pio", 0x510))
        self.assert_interrupt(self.machine, 6)

    def test_pio_to_gsi(self):
        link = self.client.connect(["kvm/vm/pio/0x510/2=7"], ["kvm/vm/gsi/7"], name="bell")
        self.assertEqual(link["producers"][0]["endpoint"], "kvm/vm/pio/0x510/2=0x7")
        self.assertEqual(self.agent.log(), [("Plug", "kvm/vm/gsi/7"), ("Plug", "kvm/vm/pio/0x510/2=0x7")])
        self.assertFalse(self.machine.ring("pio", 0x510, 8, 2))
        self.assertFalse(self.machine.ring("pio", 0x510, 7, 4))
        self.assertFalse(self.machine.interrupted(7))
        self.assertTrue(self.machine.ring("pio", 0x510, 7, 2))
        self.assert_interrupt(self.machine, 7)
        self.client.call("Disconnect", {"name": "bell"})
        self.assertFalse(self.machine.ring("pio", 0x510, 7, 2))
        self.assertEqual(self.agent.plugged, {})
        # producers are unplugged before consumers
        self.assertEqual(plugs(self.agent, "Unplug"), ["kvm/vm/pio/0x510/2=0x7", "kvm/vm/gsi/7"])

    def test_mmio(self):
        self.client.connect(["kvm/vm/mmio/0x1000/4=0x12345678", "kvm/vm/mmio/0x2000"], ["kvm/vm/gsi/4"])
        self.assertFalse(self.machine.ring("mmio", 0x1000, 0x12345679))
        self.assertFalse(self.machine.interrupted(4))
        self.assertTrue(self.machine.ring("mmio", 0x1000, 0x12345678))
        self.assert_interrupt(self.machine, 4)
        for length in (1, 2, 4):
            self.assertTrue(self.machine.ring("mmio", 0x2000, 99, length))
            self.assert_interrupt(self.machine, 4)

    def test_several_producers(self):
        """All of them in front of one consumer, a process included, share one eventfd."""
        fd = self.eventfd()
        self.client.hold("a", fd)
        producers = ["eventfd/a", "kvm/vm/pio/1", "kvm/vm/pio/2/1=5", "kvm/vm/mmio/0x3000/1"]
        link = self.client.connect(producers, ["kvm/vm/gsi/3"], name="l")
        self.assertFalse(link["relayed"])
        self.assertEqual(len({number for _, number in self.agent.plugged}), 1)
        for ring in (("pio", 1), ("pio", 2, 5, 1), ("mmio", 0x3000, 0, 1)):
            self.assertTrue(self.machine.ring(*ring))
            self.assert_interrupt(self.machine, 3)
        os.eventfd_write(fd, 1)
        self.assert_interrupt(self.machine, 3)
        self.assertEqual(plugs(self.agent)[0], "kvm/vm/gsi/3")
        self.client.call("Disconnect", {"name": "l"})
        self.assertEqual(plugs(self.agent, "Unplug")[-1], "kvm/vm/gsi/3")
        self.assertEqual(self.agent.plugged, {})

    def test_pio_to_eventfd(self):
        fd = self.eventfd()
        self.client.hold("bell", fd)
        self.client.connect(["kvm/vm/pio/0x20f"], ["eventfd/bell"])
        for i in range(3):
            self.assertTrue(self.machine.ring("pio", 0x20F))
            self.assert_count(fd, i + 1)

    def test_one_vm_to_another(self):
        other = self.vm()
        self.attach("other", {"other": other})
        self.client.connect(["kvm/vm/pio/1"], ["kvm/other/gsi/5"])
        self.assertTrue(self.machine.ring("pio", 1))
        self.assert_interrupt(other, 5)
        self.assertFalse(self.machine.interrupted(5))

    def test_shared_gsi(self):
        for i in range(3):
            self.client.connect([f"kvm/vm/pio/{i}"], ["kvm/vm/gsi/5"], name=f"l{i}")
        for i in range(3):
            self.assertTrue(self.machine.ring("pio", i))
            self.assert_interrupt(self.machine, 5)
            self.client.call("Disconnect", {"name": f"l{i}"})

    def test_attach_handed_in(self):
        """The caller's socket, and a pidfd."""
        for parameters in ({}, {"pidfdFileDescriptorIndex": 1}):
            ours, theirs = self.pair()
            fds = [theirs.fileno()] + ([self.own(os.pidfd_open(os.getpid()))] if parameters else [])
            machine = self.vm()
            parameters.update(name="given", subsystems=[{"kind": "kvm", "name": "given"}], fileDescriptorIndex=0)
            answer = self.client.call("Attach", parameters, fds)
            self.assertNotIn("fileDescriptorIndex", answer)
            self.assertEqual(self.client.got, [])
            agent = evlink.Agent(ours, {"given": machine})
            self.addCleanup(agent.hang_up)
            self.client.connect(["kvm/given/pio/1"], ["kvm/given/gsi/5"], name="l")
            self.assertTrue(machine.ring("pio", 1))
            self.assert_interrupt(machine, 5)
            self.client.call("Disconnect", {"name": "l"})
            self.client.call("Detach", {"name": "given"})
            theirs.close()
            agent.wait_end()

    def test_attach_answer(self):
        subsystems = [{"kind": "kvm", "name": "w"}, {"kind": "vfio", "name": "0000.01.00.0"}]
        parameters = {"name": "x", "subsystems": subsystems}
        answer = self.client.call("Attach", parameters)["agent"]
        agent = evlink.Agent(self.sock_of_last_answer(), {})
        self.addCleanup(agent.hang_up)
        self.assertEqual((answer["name"], answer["offered"]), ("x", []))
        self.assertCountEqual(answer["subsystems"], subsystems)
        self.assertEqual(self.client.list("Agents")["x"], answer)
        self.assertEqual(list(self.client.list("Agents", match="[a-m]*")), ["agent"])

    def sock_of_last_answer(self):
        return evlink.socket.socket(fileno=self.client.take())

    # ---- The kernel says no

    def test_no_irqchip(self):
        bare = self.vm(irqchip=False)
        self.attach("bare", {"bare": bare})
        ends = {"producers": ["kvm/vm/pio/1"], "consumers": ["kvm/bare/gsi/5"]}
        self.failed("kvm/bare/gsi/5", errno.EINVAL, "Connect", ends)

    def test_eventfd_is_bound_elsewhere(self):
        fd = self.eventfd()
        self.client.hold("a", fd)
        self.machine.irqfd(fd, 9)
        ends = {"producers": ["eventfd/a"], "consumers": ["kvm/vm/gsi/5"]}
        self.failed("kvm/vm/gsi/5", errno.EBUSY, "Connect", ends)
        self.machine.irqfd(fd, 9, evlink.IRQFD_DEASSIGN)
        self.client.connect(["eventfd/a"], ["kvm/vm/gsi/5"])

    def test_all_or_nothing(self):
        """One of three ends is refused: the others are plugged no more."""
        blocker = self.eventfd()
        self.machine.ioeventfd(blocker, "pio", 0x20)
        ends = [f"kvm/vm/pio/{port}" for port in ("0x10", "0x20", "0x30")]
        for producers in (ends, ends[::-1], ends[1:], ends[:2]):
            fd = self.eventfd()
            self.client.hold("a", fd)
            producers = producers + ["eventfd/a"]
            self.failed(
                "kvm/vm/pio/0x20",
                errno.EEXIST,
                "Connect",
                {"name": "l", "producers": producers, "consumers": ["kvm/vm/gsi/5"]},
            )
            self.client.call("Release", {"name": "a"})
            self.assert_fds(2)
            # The kernel would say EBUSY and EEXIST if they were.
            self.machine.irqfd(fd, 5)
            self.machine.irqfd(fd, 5, evlink.IRQFD_DEASSIGN)
            for port in (0x10, 0x30):
                self.machine.ioeventfd(fd, "pio", port)
                self.machine.ioeventfd(fd, "pio", port, flags=evlink.IOEVENTFD_DEASSIGN)
        # and once it would work, it does
        self.machine.ioeventfd(blocker, "pio", 0x20, flags=evlink.IOEVENTFD_DEASSIGN)
        self.client.connect(ends, ["kvm/vm/gsi/5"], name="l")

    def test_many_all_or_nothing(self):
        """ConnectMany with one bad link makes none."""
        blocker = self.eventfd()
        self.machine.ioeventfd(blocker, "pio", 50)
        links = [{"producers": [f"kvm/vm/pio/{i}"], "consumers": [f"kvm/vm/gsi/{i}"]} for i in range(100)]
        self.failed("kvm/vm/pio/0x32", errno.EEXIST, "ConnectMany", {"links": links})
        self.assert_fds(2)
        for i in range(100):
            if i != 50:
                self.machine.ioeventfd(blocker, "pio", i)
                self.machine.ioeventfd(blocker, "pio", i, flags=evlink.IOEVENTFD_DEASSIGN)
        self.machine.ioeventfd(blocker, "pio", 50, flags=evlink.IOEVENTFD_DEASSIGN)
        self.assertEqual(len(self.client.call("ConnectMany", {"links": links})["links"]), 100)

    def test_failed_while_waiting(self):
        """What is refused when it would have been linked says so, and is tried again when something changes."""
        bare = self.vm(irqchip=False)
        self.client.connect(["kvm/vm/pio/1"], ["kvm/later/gsi/5"], name="l")
        self.attach("bare", {"later": bare})
        link = self.wait_link("l", "failed")
        (consumer,) = link["consumers"]
        self.assertEqual(consumer["state"], "unplugged")
        self.assertIn("EINVAL", consumer["reason"])
        self.client.call("Detach", {"name": "bare"})
        self.wait_link("l", "waiting")
        good = self.vm()
        self.attach("good", {"later": good})
        self.wait_link("l", "linked")
        self.assertTrue(self.machine.ring("pio", 1))
        self.assert_interrupt(good, 5)

    # ---- Many

    def test_hundreds(self):
        """300 links in a few calls, none with more than 253 descriptors or more than 32 KiB."""
        n = 300
        links = [
            {
                "name": f"q{i}",
                "group": "nic" if i < 200 else "disk",
                "producers": [f"kvm/vm/pio/{i}"],
                "consumers": [f"kvm/vm/gsi/{24 + i}"],
            }
            for i in range(n)
        ]
        answer = self.client.call("ConnectMany", {"links": links})["links"]
        self.assertEqual([link["name"] for link in answer], [f"q{i}" for i in range(n)])
        self.assertEqual({link["state"] for link in answer}, {"linked"})
        self.assertEqual(len(self.agent.plugged), 2 * n)
        self.assertLessEqual(len(self.agent.requests), 8)
        self.assert_fds(2 + n)
        self.assertEqual(len(self.client.list("Links", group="nic")), 200)
        self.assertEqual(len(self.client.list("Links", group="nic", match="q1?")), 10)
        self.client.call("Disconnect", {"group": "nic"})
        self.assertEqual(len(self.agent.plugged), 200)
        self.assertEqual(len(self.client.list("Links")), 100)
        self.assert_fds(2 + 100)
        self.client.call("Detach", {"name": "agent"})
        self.assertEqual(self.agent.plugged, {})
        for request in self.agent.requests:
            self.assertLessEqual(request.n_fds, evlink.MAX_FDS)
            self.assertLessEqual(request.size, 32 * 1024)
        self.check_order(n)

    def check_order(self, n):
        """Of each link: consumers are plugged first, and producers unplugged first."""
        at = {}
        for i, what in enumerate(self.agent.log()):
            at[what] = i
        for i in range(n):
            pio, gsi = f"kvm/vm/pio/{i:#x}", f"kvm/vm/gsi/{24 + i}"
            self.assertLess(at["Plug", gsi], at["Plug", pio])
            self.assertLess(at["Unplug", pio], at["Unplug", gsi])

    def test_long_names(self):
        """The limit of 32 KiB holds for long names, too."""
        name = "v" * 63
        agent = self.attach("long", {name: None})
        links = [
            {
                "producers": [f"kvm/{name}/mmio/{2**64 - 1 - i}/8={2**64 - 1}"],
                "consumers": [f"kvm/{name}/gsi/{i}"],
            }
            for i in range(250)
        ]
        self.client.call("ConnectMany", {"links": links})
        self.assertEqual(len(agent.plugged), 500)
        for request in agent.requests:
            self.assertLessEqual(request.size, 32 * 1024)

    def test_disconnect_and_connect(self):
        """Again and again, nothing gets in the next one's way."""
        self.client.hold("a")
        for i in range(30):
            self.client.connect(["eventfd/a", "kvm/vm/pio/9"], ["kvm/vm/gsi/5"], name="l", group="g")
            self.client.call("Disconnect", {"group": "g"} if i % 2 else {"name": "l"})
        self.assertEqual(self.agent.plugged, {})

    def test_same_request_pipelined(self):
        self.client.hold("a")
        for _ in range(20):
            self.client.start("Connect", {"name": "l", "producers": ["eventfd/a"], "consumers": ["kvm/vm/gsi/5"]})
            self.client.start("Disconnect", {"name": "l"})
        while self.client.pending:
            self.client.finish()

    # ---- What is pending

    def test_pending_before(self):
        """What was there before the link is one interrupt, and the counter is drained."""
        fd = self.eventfd(3)
        self.client.hold("a", fd)
        self.client.connect(["eventfd/a"], ["kvm/vm/gsi/5"])
        self.assert_interrupt(self.machine, 5)
        self.wait_count(fd, 0)
        self.assertFalse(self.machine.interrupted(5))

    def test_nothing_pending_before(self):
        fd = self.eventfd(0)
        self.client.hold("a", fd)
        self.client.connect(["eventfd/a"], ["kvm/vm/gsi/5"])
        self.client.call("Status")
        self.assertFalse(self.machine.interrupted(5))
        os.eventfd_write(fd, 1)
        self.assert_interrupt(self.machine, 5)

    def test_pending_and_refused(self):
        """Where the plug fails the counter is what it was, also a large one."""
        for count in (1, 3, 100, 2**64 - 2):
            fd = self.eventfd(0)
            os.eventfd_write(fd, count)
            self.client.hold("a", fd)
            self.agent.refuse["kvm/vm/gsi/5"] = errno.EINVAL
            with self.assertRaises(evlink.Error):
                self.client.connect(["eventfd/a"], ["kvm/vm/gsi/5"])
            self.assert_count(fd, count)
            self.client.call("Release", {"name": "a"})

    def test_pending_while_waiting(self):
        """Signals accumulate while the consumer is away, and arrive when it is there."""
        fd = self.eventfd(0)
        self.client.hold("a", fd)
        self.client.connect(["eventfd/a", "kvm/vm/pio/1"], ["kvm/later/gsi/5"], name="l")
        self.wait_link("l", "waiting")
        evlink.until(lambda: self.ends("l")["kvm/vm/pio/0x1"] == "plugged")
        os.eventfd_write(fd, 2)
        self.assertTrue(self.machine.ring("pio", 1))
        self.assert_count(fd, 3)
        self.assertEqual(self.client.list("Eventfds")["a"]["pending"], 3)
        later = self.vm()
        self.attach("later", {"later": later})
        self.wait_link("l", "linked")
        self.assert_interrupt(later, 5)
        self.wait_count(fd, 0)

    def test_pending_on_disconnect(self):
        """After it is unplugged, signals stay in the counter for who comes next."""
        fd = self.eventfd(0)
        self.client.hold("a", fd)
        for _ in range(3):
            self.client.connect(["eventfd/a"], ["kvm/vm/gsi/5"], name="l")
            self.client.call("Disconnect", {"name": "l"})
            self.assertFalse(self.machine.interrupted(5))
            os.eventfd_write(fd, 4)
            self.assert_count(fd, 4)
            self.client.connect(["eventfd/a"], ["kvm/vm/gsi/6"], name="l")
            self.assert_interrupt(self.machine, 6)
            self.client.call("Disconnect", {"name": "l"})

    # ---- Waiting

    def test_connect_before_attach(self):
        fd = self.eventfd()
        self.client.hold("a", fd)
        link = self.client.connect(["eventfd/a"], ["kvm/later/gsi/5"], name="l")
        self.assertEqual(link["state"], "waiting")
        self.assertEqual(link["consumers"], [{"endpoint": "kvm/later/gsi/5", "state": "absent"}])
        later = self.vm()
        agent = self.attach("later", {"later": later})
        self.wait_link("l", "linked")
        os.eventfd_write(fd, 1)
        self.assert_interrupt(later, 5)
        self.assertEqual(agent.log(), [("Plug", "kvm/later/gsi/5")])

    def test_connect_before_hold(self):
        self.assertEqual(self.client.connect(["eventfd/a"], ["kvm/vm/gsi/5"], name="l")["state"], "waiting")
        fd = self.eventfd(2)
        self.client.hold("a", fd)
        self.wait_link("l", "linked")
        self.assert_interrupt(self.machine, 5)
        self.wait_count(fd, 0)

    def test_detach(self):
        """Detach unplugs all of it, producers first; the link waits, and is linked again after the next Attach."""
        self.client.hold("a")
        self.client.connect(["eventfd/a", "kvm/vm/pio/1"], ["kvm/vm/gsi/5"], name="l")
        self.assertEqual(self.client.call("Detach", {"name": "agent"}), {})
        self.assertEqual(self.agent.plugged, {})
        self.assertEqual(plugs(self.agent, "Unplug"), ["kvm/vm/pio/0x1", "kvm/vm/gsi/5"])
        self.agent.wait_end()
        self.assertEqual(self.link("l")["state"], "waiting")
        self.assertEqual(set(self.ends("l").values()), {"plugged", "absent"})
        self.client.call("Signal", {"name": "a"})
        again = self.attach("agent", {"vm": self.machine})
        self.wait_link("l", "linked")
        self.assert_interrupt(self.machine, 5)
        self.assertEqual(again.log(), [("Plug", "kvm/vm/gsi/5"), ("Plug", "kvm/vm/pio/0x1")])

    def test_socket_closes_and_comes_back(self):
        """The same process attaches anew, its VM still has everything plugged: that is unplugged first."""
        fd = self.eventfd()
        self.client.hold("a", fd)
        self.client.connect(["eventfd/a", "kvm/vm/pio/1"], ["kvm/vm/gsi/5"], name="l")
        self.agent.hang_up()
        self.wait_link("l", "waiting")
        # Nobody told KVM anything: it goes on.
        os.eventfd_write(fd, 1)
        self.assert_interrupt(self.machine, 5)
        again = self.attach("agent", {"vm": self.machine})
        self.wait_link("l", "linked")
        self.assertEqual(
            again.log(),
            [
                ("Unplug", "kvm/vm/pio/0x1"),
                ("Unplug", "kvm/vm/gsi/5"),
                ("Plug", "kvm/vm/gsi/5"),
                ("Plug", "kvm/vm/pio/0x1"),
            ],
        )
        self.assertEqual(len({number for request in again.requests for number in request.ids}), 1)
        os.eventfd_write(fd, 1)
        self.assert_interrupt(self.machine, 5)
        self.assertTrue(self.machine.ring("pio", 1))
        self.assert_interrupt(self.machine, 5)

    def test_attach_right_after_the_socket_closed(self):
        """The broker looks whether the one that has the name is still there."""
        for _ in range(20):
            self.agent.hang_up()
            self.agent = self.attach("agent", {"vm": self.machine})

    def test_link_goes_while_the_agent_is_away(self):
        """What a lost agent had plugged is unplugged by its successor, though the link is gone."""
        self.client.connect(["kvm/vm/pio/1"], ["kvm/vm/gsi/5"], name="l")
        self.agent.hang_up()
        self.wait_link("l", "waiting")
        self.client.call("Disconnect", {"name": "l"})
        again = self.attach("agent", {"vm": self.machine})
        # The kernel still has the ioeventfd: without Unplug this is EEXIST.
        self.client.connect(["kvm/vm/pio/1"], ["kvm/vm/gsi/5"], name="l")
        self.assertTrue(self.machine.ring("pio", 1))
        self.assert_interrupt(self.machine, 5)
        again.hang_up()


class Waiting(blackbox.Case):
    """What needs no kernel."""

    def test_canonical(self):
        """Endpoints are shown as the contract prints them."""
        table = {
            "kvm/v/pio/1296/4=1": "kvm/v/pio/0x510/4=0x1",
            "kvm/v/pio/0xABC/0": "kvm/v/pio/0xabc",
            "kvm/v/pio/0/0x2=0xfF": "kvm/v/pio/0x0/2=0xff",
            "kvm/v/mmio/4096": "kvm/v/mmio/0x1000",
            f"kvm/v/mmio/{2**64 - 1}/8={2**64 - 1}": "kvm/v/mmio/0xffffffffffffffff/8=0xffffffffffffffff",
            "kvm/v/mmio/0x00FF/1=0": "kvm/v/mmio/0xff/1=0x0",
            "eventfd/A.b-c_D": "eventfd/A.b-c_D",
        }
        agent = self.attach("a", {"v": None})
        self.client.hold("A.b-c_D")
        link = self.client.connect(list(table), ["kvm/v/gsi/0xFFf"], name="l")
        self.assertEqual([end["endpoint"] for end in link["producers"]], list(table.values()))
        self.assertEqual(link["consumers"][0]["endpoint"], "kvm/v/gsi/4095")
        self.assertEqual({endpoint for endpoint, _ in agent.plugged}, set(self.ends("l")) - {"eventfd/A.b-c_D"})

    def test_link(self):
        """What was given is shown, what was not is left out."""
        labels = {"": "", "a b": "c", "é": "\u20ac", 'quo"te': "\\"}
        lease = {"lifetime": "lease", "leaseSeconds": 99}
        link = self.client.connect(
            ["kvm/v/pio/1"], ["kvm/v/gsi/1"], name="l", group="g", labels=labels, **lease
        )
        self.assertEqual((link["group"], link["labels"], link["lifetime"]), ("g", labels, "lease"))
        self.assertEqual(self.link("l"), link)
        plain = self.client.connect(["kvm/v/pio/2"], ["kvm/v/gsi/2"])
        for key in ("group", "labels", "reason", "forwarded"):
            self.assertNotIn(key, plain)
        self.assertEqual(plain["lifetime"], "persistent")

    def test_labels_are_limited(self):
        """In number and in bytes: many short ones take more memory than their bytes."""
        ends = {"producers": ["kvm/v/pio/1"], "consumers": ["kvm/v/gsi/1"]}
        many = {str(i): "" for i in range(257)}
        self.refused("QuotaExceeded", {"what": "labels in one link", "limit": 256}, "Connect", dict(ends, labels=many))
        del many["256"]
        long = dict(many, long="")
        del long["255"]
        long["long"] = "x" * (8192 - sum(map(len, long)))
        self.refused("QuotaExceeded", {"what": "bytes of labels in one link", "limit": 8192}, "Connect",
                     dict(ends, labels=dict(long, long=long["long"] + "x")))
        for labels in (many, long):
            self.assertEqual(self.client.connect(**ends, name="l", labels=labels)["labels"], labels)
            self.client.call("Disconnect", {"name": "l"})

    def test_made_up_names(self):
        """link-N, whatever is taken."""
        ends = iter(range(1000))

        def connect(**more):
            return self.client.connect([f"kvm/v/pio/{next(ends)}"], ["kvm/v/gsi/1"], **more)["name"]

        first = connect()
        self.assertRegex(first, r"^link-\d+$")
        taken = [f"link-{int(first[5:]) + i}" for i in range(1, 4)]
        for name in taken:
            connect(name=name)
        second = connect()
        self.assertRegex(second, r"^link-\d+$")
        self.assertNotIn(second, taken + [first])
        links = [{"producers": [f"kvm/v/pio/{next(ends)}"], "consumers": ["kvm/v/gsi/1"]} for _ in range(10)]
        links[4]["name"] = f"link-{int(second[5:]) + 2}"
        names = [link["name"] for link in self.client.call("ConnectMany", {"links": links})["links"]]
        self.assertEqual(len(set(names)), 10)

    def test_1024_links(self):
        """As many as the contract says, in one call."""
        links = [{"producers": [f"kvm/v/pio/{i}"], "consumers": [f"kvm/v/gsi/{i}"]} for i in range(1024)]
        answer = self.client.call("ConnectMany", {"links": links})["links"]
        self.assertEqual(len(answer), 1024)
        self.assertEqual(len(self.client.list("Links")), 1024)
        links.append({"producers": ["kvm/v/pio/2000"], "consumers": ["kvm/v/gsi/1"]})
        self.refused("InvalidParameter", {"parameter": "links"}, "ConnectMany", {"links": links})

    def test_large_link(self):
        """A link that would not fit in an answer is refused, or is answered: it is not made in silence."""
        many = {"producers": [f"kvm/v/mmio/{i}/1=1" for i in range(8000)], "consumers": ["kvm/v/gsi/1"]}
        labels = {"producers": ["kvm/v/pio/1"], "consumers": ["kvm/v/gsi/1"], "labels": {"a": "x" * 261900}}
        for parameters in (many, labels):
            other = self.connect()
            try:
                other.call("Connect", dict(parameters, name="l"))
            except (evlink.Error, EOFError):
                self.assertEqual(self.client.call("Status")["links"], 0)
            else:
                self.assertEqual(list(self.client.list("Links")), ["l"])
                self.client.call("Disconnect", {"name": "l"})

    def test_lifetime_agent(self):
        """It ends when an agent of one of its ends detaches, or is lost."""
        for how in ("Detach", "lost"):
            agent = self.attach("a", {"v": None})
            self.attach("b", {"w": None})
            self.client.connect(["kvm/v/pio/1"], ["kvm/w/gsi/1"], name="l", lifetime="agent")
            if how == "Detach":
                self.client.call("Detach", {"name": "a"})
            else:
                agent.hang_up()
            evlink.until(lambda: self.client.list("Links") == {}, f"the end of the link ({how})")
            self.client.call("Detach", {"name": "b"})

    def test_held_by_two_names(self):
        """An eventfd that another link has, under another name, makes a link fail, until the other is gone."""
        fd = self.eventfd()
        self.attach("a", {"v": None})
        self.client.hold("a", fd)
        self.client.connect(["eventfd/a"], ["kvm/v/gsi/1"], name="first")
        self.client.connect(["eventfd/b"], ["kvm/v/gsi/2"], name="second")
        self.client.hold("b", fd)
        link = self.wait_link("second", "failed")
        self.assertTrue(link["producers"][0]["reason"])
        self.client.call("Disconnect", {"name": "first"})
        self.wait_link("second", "linked")

    def test_semaphore_comes_late(self):
        """A semaphore that is held under the name that a link to an irqfd waits for."""
        self.attach("a", {"v": None})
        self.client.connect(["eventfd/s"], ["kvm/v/gsi/1"], name="l")
        self.client.hold("s", semaphore=True)
        if not self.client.list("Eventfds")["s"].get("semaphore"):
            self.skipTest("this kernel does not tell semaphores")
        link = self.wait_link("l", "failed")
        self.assertTrue(link["producers"][0]["reason"])

    def test_disconnect_waiting(self):
        self.client.hold("a")
        for group in (None, "g"):
            more = {"group": group} if group else {}
            self.client.connect(["eventfd/a"], ["kvm/v/gsi/1"], name="l", **more)
            self.client.call("Disconnect", more or {"name": "l"})
            self.assertEqual(self.client.list("Links"), {})
        self.client.call("Release", {"name": "a"})

    def test_group(self):
        """By group: those of the group and no other, whatever their names."""
        for i in range(10):
            self.client.connect([f"kvm/v/pio/{i}"], ["kvm/v/gsi/1"], name=f"l{i}", group="ab"[i % 2])
        self.client.connect(["kvm/v/pio/20"], ["kvm/v/gsi/1"], name="a")
        self.client.call("Disconnect", {"group": "a"})
        self.assertEqual(sorted(self.client.list("Links")), ["a", "l1", "l3", "l5", "l7", "l9"])
        self.refused("NoSuchLink", {"name": "a"}, "Disconnect", {"group": "a"})

    def test_list_links(self):
        for i in range(300):
            self.client.connect([f"kvm/v{i}/pio/1"], ["kvm/v/gsi/1"], name=f"l{i:03}", group=f"g{i % 3}")
        self.assertEqual(len(self.client.list("Links")), 300)
        self.assertEqual(len(self.client.list("Links", group="g1")), 100)
        self.assertEqual(len(self.client.list("Links", match="l29?")), 10)
        self.assertEqual(len(self.client.list("Links", match="l29?", group="g0")), 3)
        self.assertEqual(self.client.list("Links", group="g"), {})
        self.assertEqual(self.client.list("Links", group="g?"), {})  # a glob is on names alone

    def test_list_details(self):
        """What is plugged at each end, and by whom, where that is asked for."""
        held = self.eventfd(3)
        self.client.hold("e", held)
        self.client.hold("lvl")
        self.attach("a", {"v": None})
        self.client.connect(["eventfd/e"], ["kvm/w/gsi/1"], name="direct")
        self.client.connect(["eventfd/lvl"], ["kvm/v/gsi/2/level"], name="level")
        self.client.connect(["kvm/v/pio/1"], ["kvm/v/gsi/3", "kvm/v/gsi/4", "eventfd/none"], name="relayed")
        plain = self.client.list("Links")
        for details in ({}, {"details": False}):
            self.assertEqual(self.client.list("Links", **details), plain)
        links = self.client.list("Links", details=True)
        seen = {}
        for name, link in links.items():
            for end in link["producers"] + link["consumers"]:
                for kind in ("eventfdId", "resampleEventfdId"):
                    if kind in end:
                        seen.setdefault(name, {}).setdefault(kind, []).append(end.pop(kind))
                agent = end.pop("agent", None)
                self.assertEqual(agent, "a" if end["endpoint"].startswith("kvm/v/") else None)
                self.assertEqual(end.pop("pending", None) is None, end["endpoint"] == "eventfd/none")
                self.assertEqual(end.pop("semaphore", None) is None, end["endpoint"] == "eventfd/none")
                self.assertEqual(end.pop("resamplePending", None), 0 if name == "level" else None)
        self.assertEqual(links, plain)
        self.assertEqual(seen["direct"], {"eventfdId": [evlink.fdinfo(held)[1]] * 2})
        ids = {name: eventfd["eventfdId"] for name, eventfd in self.client.list("Eventfds").items()}
        self.assertEqual(
            seen["level"], {"eventfdId": [ids["lvl"]] * 2, "resampleEventfdId": [ids["lvl/eoi"]] * 2}
        )
        self.assertEqual(len(set(seen["relayed"]["eventfdId"])), 3)
        self.assertEqual(list(seen["relayed"]), ["eventfdId"])
        end = self.client.list("Links", match="direct", details=True)["direct"]["consumers"][0]
        self.assertEqual((end["pending"], end["semaphore"]), (3, False))
        self.refused(
            "InvalidParameter", {"parameter": "details"}, "ListLinks", {"details": 1}, more=True
        )


if __name__ == "__main__":
    blackbox.main()
