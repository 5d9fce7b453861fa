#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Agents that die, are slow, are silent or talk nonsense: nobody else is held up, and nothing is left behind.

Their virtual machines are None: such an agent remembers what is plugged, as a kernel would. So it is known whether
what the broker believes and what an agent was told is the same."""
import contextlib
import errno
import json
import os
import random
import socket
import subprocess
import threading
import time

import blackbox
import evlink

PIO, GSI = "kvm/v/pio/0x1", "kvm/v/gsi/1"
ENDS = {"producers": [PIO], "consumers": [GSI]}


class Case(blackbox.Case):
    def in_background(self, method, parameters):
        """A call on a connection of its own. Returns a function that waits for its result, or raises its error."""
        connection = self.connect()
        result = []

        def run():
            try:
                result.append((connection.call(method, parameters), None))
            except BaseException as error:  # pylint: disable=broad-except
                result.append((None, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def finish():
            thread.join(evlink.PATIENCE + 1)
            value, error = result[0]
            connection.close()
            if error:
                raise error
            return value

        return finish

    def nothing_linked(self):
        status = self.client.call("Status")
        self.assertEqual((status["links"], self.client.list("Links")), (0, {}))

    def agents(self):
        return list(self.client.list("Agents"))

    def wait_gone(self, name="a"):
        evlink.until(lambda: name not in self.agents(), f"the end of agent {name}")


class Dying(Case):
    def setUp(self):
        super().setUp()
        self.agent = self.attach("a", {"v": None})

    def test_during_plug(self):
        """PlugFailed ECONNRESET, and nothing is left."""
        fd = self.eventfd(3)
        self.client.hold("x", fd)
        for ends in (ENDS, {"producers": ["eventfd/x", PIO], "consumers": [GSI]}):
            self.agent.gate.clear()
            finish = self.in_background("Connect", dict(ends, name="l"))
            evlink.until(lambda: any(request.method == "Plug" for request in self.agent.requests))
            self.assertEqual(self.client.list("Links"), {})
            self.agent.hang_up()
            told = {"endpoint": GSI, "errno": errno.ECONNRESET, "errnoName": "ECONNRESET"}
            self.assert_error("PlugFailed", told, finish)
            self.nothing_linked()
            self.assertEqual(self.agents(), [])
            self.succeed("v")
            self.assert_fds(2)
            self.agent = self.attach("a", {"v": None})
            self.client.connect(ends["producers"], ends["consumers"], name="l")
            self.client.call("Disconnect", {"name": "l"})
        self.client.call("Release", {"name": "x"})

    def test_pending_is_put_back(self):
        fd = self.eventfd(1000)
        self.client.hold("x", fd)
        self.agent.gate.clear()
        finish = self.in_background("Connect", {"producers": ["eventfd/x"], "consumers": [GSI]})
        self.agent.wait_for(1)
        self.agent.hang_up()
        self.assert_error("PlugFailed", {}, finish)
        self.assert_count(fd, 1000)

    def test_during_a_large_plug(self):
        """300 links on two agents, one of which dies in the middle."""
        other = self.attach("b", {"w": None})
        links = [{"producers": [f"kvm/w/pio/{i}"], "consumers": [f"kvm/v/gsi/{i}"]} for i in range(300)]
        self.agent.answer = lambda request, data: data if len(self.agent.requests) < 2 else self.agent.gate.clear()
        finish = self.in_background("ConnectMany", {"links": links})
        self.agent.wait_for(2)
        self.agent.hang_up()
        self.assert_error("PlugFailed", {"errno": errno.ECONNRESET}, finish)
        self.nothing_linked()
        self.assertEqual(other.plugged, {})
        self.succeed("v")
        self.assert_fds(2)

    def test_during_unplug(self):
        """Disconnect does not fail for that."""
        self.client.connect([PIO], [GSI], name="l")
        self.agent.gate.clear()
        finish = self.in_background("Disconnect", {"name": "l"})
        self.agent.wait_for(3)
        self.agent.hang_up()
        self.assertEqual(finish(), {})
        self.nothing_linked()
        self.succeed("v")
        self.assert_fds(1)

    def test_during_detach(self):
        self.client.connect([PIO], [GSI], name="l")
        self.agent.gate.clear()
        finish = self.in_background("Detach", {"name": "a"})
        self.agent.wait_for(3)
        self.refused("WrongState", {"name": "a"}, "Detach", {"name": "a"})
        self.agent.hang_up()
        self.assertEqual(finish(), {})
        self.assertEqual(self.link("l")["state"], "waiting")

    def test_half_close(self):
        self.agent.frames.sock.shutdown(socket.SHUT_WR)
        self.wait_gone()
        self.agent.wait_end()

    def test_other_end_stays(self):
        """A link whose consumer is gone waits, its producer stays plugged, and nobody else is bothered."""
        other = self.attach("b", {"w": None})
        self.client.connect(["kvm/w/pio/1"], [GSI], name="l")
        self.agent.hang_up()
        self.wait_link("l", "waiting")
        self.assertEqual(self.ends("l"), {"kvm/w/pio/0x1": "plugged", GSI: "absent"})
        again = self.attach("a", {"v": None})
        self.wait_link("l", "linked")
        self.assertEqual(other.log(), [("Plug", "kvm/w/pio/0x1")])
        self.assertEqual(again.log(), [("Unplug", GSI), ("Plug", GSI)])
        self.assertEqual(again.requests[0].ids, again.requests[1].ids)

    def test_client_leaves_during_plug(self):
        """Whoever called is gone: the link is made, or not, but all of it."""
        for lifetime in ("persistent", "connection"):
            self.agent.gate.clear()
            n = len(self.agent.requests)
            with self.broker.connect() as other:
                other.start("Connect", dict(ENDS, name="l", lifetime=lifetime))
                self.agent.wait_for(n + 1)
            self.agent.gate.set()
            if lifetime == "connection":
                evlink.until(lambda: self.agent.plugged == {} and self.client.call("Status")["links"] == 0)
                self.assert_fds(2)
                continue
            evlink.until(lambda: self.client.list("Links"))
            self.assertEqual(len(self.agent.plugged), 2)
            self.client.call("Disconnect", {"name": "l"})
            self.assertEqual(self.agent.plugged, {})

    def test_oneway_connect_then_close(self):
        with self.broker.connect() as other:
            other.call("Connect", dict(ENDS, name="l"), oneway=True)
            other.call("Hold", {"name": "after"}, oneway=True)
        evlink.until(lambda: self.client.call("Status")["eventfds"] == 1)
        self.assertEqual(self.link("l")["state"], "linked")

    def test_leases_run_out_during_plug(self):
        """What a Connect waits for is taken away: no link, and nothing plugged."""
        self.client.hold("x", lifetime="lease", leaseSeconds=1)
        self.agent.gate.clear()
        ends = {"producers": ["eventfd/x", PIO], "consumers": [GSI]}
        finish = self.in_background("Connect", ends)
        self.agent.wait_for(1)
        evlink.until(lambda: self.client.list("Eventfds") == {})
        self.agent.gate.set()
        with self.assertRaises(evlink.Error):
            finish()
        self.nothing_linked()
        self.assertEqual(self.agent.plugged, {})

    def test_pidfd(self):
        """The process of the pidfd is dead: the agent is detached, whoever has its socket."""
        child = subprocess.Popen(["sleep", "1000"])
        pidfd = os.pidfd_open(child.pid)
        self.own(pidfd)
        agent = self.attach("p", {"w": None}, fds=[pidfd], pidfdFileDescriptorIndex=0)
        self.client.connect([PIO], ["kvm/w/gsi/1"], name="l")
        self.assert_fds(5)
        child.kill()
        child.wait()
        agent.wait_end()
        self.wait_gone("p")
        self.assertEqual(self.link("l")["state"], "waiting")
        # Its kernel has forgotten everything: nothing is to be unplugged.
        again = self.attach("p", {"w": None})
        self.wait_link("l", "linked")
        self.assertEqual(again.log(), [("Plug", "kvm/w/gsi/1")])
        # one that was dead from the beginning
        last = self.attach("q", {"x": None}, fds=[pidfd], pidfdFileDescriptorIndex=0)
        last.wait_end()
        self.wait_gone("q")

    def test_socket_closes_with_pidfd(self):
        """The socket of a living process closes: it has everything plugged still. Then it dies after all."""
        for dies in (False, True):
            child = subprocess.Popen(["sleep", "1000"])
            pidfd = self.own(os.pidfd_open(child.pid))
            agent = self.attach("p", {"w": None}, fds=[pidfd], pidfdFileDescriptorIndex=0)
            self.client.connect([PIO], ["kvm/w/gsi/1"], name="l")
            agent.hang_up()
            self.wait_link("l", "waiting")
            if dies:
                child.kill()
                child.wait()
                self.client.call("Status")
            with self.broker.connect() as other:
                again = self.attach("p", {"w": None}, other)
            self.wait_link("l", "linked")
            self.assertEqual(again.log(), [("Unplug", "kvm/w/gsi/1")] * (not dies) + [("Plug", "kvm/w/gsi/1")])
            self.client.call("Disconnect", {"name": "l"})
            self.client.call("Detach", {"name": "p"})
            child.kill()
            child.wait()
        evlink.until(lambda: list(self.agents()) == ["a"])
        self.assert_fds(2)

    def test_detached_with_pidfd(self):
        child = subprocess.Popen(["sleep", "1000"])
        pidfd = self.own(os.pidfd_open(child.pid))
        agent = self.attach("p", {"w": None}, fds=[pidfd], pidfdFileDescriptorIndex=0)
        self.client.connect(["kvm/w/pio/1"], ["kvm/w/gsi/1"], name="l")
        self.client.call("Detach", {"name": "p"})
        agent.wait_end()
        self.assertEqual(agent.plugged, {})
        child.kill()
        child.wait()
        self.assert_fds(3)  # the connection, the other agent's socket, the link's eventfd

    def test_killed(self):
        """KILL of an agent's process: its links wait, and are linked again with the next one."""
        for pidfd in (False, True):
            process = evlink.AgentProcess(self.broker.path, "p", "w", pidfd)
            self.addCleanup(process.kill)
            fd = self.eventfd()
            self.client.hold("x", fd)
            self.client.connect(["eventfd/x"], ["kvm/w/gsi/5"], name="l")
            self.assertEqual(self.link("l")["state"], "linked")
            process.kill()
            self.wait_link("l", "waiting")
            os.eventfd_write(fd, 2)
            self.assert_count(fd, 2)
            self.client.call("Status")
            with self.broker.connect() as other:
                again = self.attach("p", {"w": None}, other)
            self.wait_link("l", "linked")
            expected = [("Plug", "kvm/w/gsi/5")]
            self.assertEqual(again.log(), expected if pidfd else [("Unplug", "kvm/w/gsi/5")] + expected)
            self.wait_count(fd, 1)  # owed to the irqfd, which is none here
            self.client.call("Disconnect", {"name": "l"})
            self.client.call("Release", {"name": "x"})
            self.client.call("Detach", {"name": "p"})

    def test_killed_during_plug(self):
        for pidfd in (False, True):
            process = evlink.AgentProcess(self.broker.path, "p", "w", pidfd)
            self.addCleanup(process.kill)
            process.silence()
            finish = self.in_background("Connect", {"producers": [PIO], "consumers": ["kvm/w/gsi/5"]})
            process.wait_asked()
            process.kill()
            self.assert_error("PlugFailed", {"endpoint": "kvm/w/gsi/5", "errno": errno.ECONNRESET}, finish)
            self.nothing_linked()
            self.assertEqual(self.agents(), ["a"])
            # So that the next one is asked for nothing but the Plug.
            self.succeed("w")


class Talking(Case):
    def setUp(self):
        super().setUp()
        self.agent = self.attach("a", {"v": None})

    def connect_fails(self):
        with self.assertRaises(evlink.Error) as caught:
            self.client.connect([PIO], [GSI], name="l")
        self.assertEqual(caught.exception.name, "PlugFailed")
        self.assertEqual(caught.exception.parameters["errno"], errno.ECONNRESET)
        self.agent.wait_end()
        self.wait_gone()
        self.nothing_linked()

    def test_nonsense(self):
        """An answer that is none closes the agent, and fails what was asked."""
        good = {"endpoint": GSI}
        answers = [
            b"x",
            b"",
            b"[]",
            b"{}",
            b"null",
            {"results": []},
            {"results": [good, good]},
            {"results": None},
            {"results": {}},
            {"results": [None]},
            {"results": [GSI]},
            {"results": [{}]},
            {"results": [{"endpoint": PIO}]},
            {"results": [{"endpoint": "kvm/v/gsi/0x1"}]},
            {"results": [{"endpoint": GSI, "errno": "EINVAL"}]},
            {"results": [{"endpoint": GSI, "errno": -22}]},
            {"results": [{"endpoint": GSI, "errno": 2**40}]},
            {"results": [{"endpoint": GSI, "errno": 1.5}]},
            {"results": [{"endpoint": GSI, "errnoName": 22, "errno": 22}]},
            {"result": [good]},
            b'{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"x"}}',
            b'{"parameters":{"results":[{"endpoint":"kvm/v/gsi/1"}]},"continues":true}',
            b'{"parameters":{"results":[{"endpoint":"kvm/v/gsi/1"}]},"error":"a.b"}',
            b'{"parameters":{"results":[{"endpoint":"kvm/v/gsi/1"}]},"other":1}',
            b'{"parameters":{"results":[{"endpoint":"kvm/v/gsi/1"}]}',
            b'{"method":"io.evlink.Broker.Status"}',
            b"\xff\xfe",
            b"[" * 100000,
        ]
        for data in answers:
            if isinstance(data, dict):
                data = json.dumps({"parameters": data}).encode()
            with self.subTest(data=data[:100]):
                self.agent.answer = lambda request, real, data=data: data + b"\0"
                self.connect_fails()
            self.agent.hang_up()
            self.succeed("v")
            self.agent = self.attach("a", {"v": None})
        self.assert_fds(2)

    def test_endless(self):
        """An answer without an end."""
        self.agent.answer = lambda request, data: b" " * (16 << 20)
        self.connect_fails()

    def test_unasked(self):
        """An answer to nothing."""
        self.agent.frames.send(b'{"parameters":{"results":[]}}\0')
        self.agent.wait_end()
        self.wait_gone()

    def test_twice(self):
        """Two answers to one question: the second is an answer to nothing, and not to the next question."""
        self.agent.answer = lambda request, data: data * 2
        self.client.hold("x")
        with contextlib.suppress(evlink.Error):
            self.client.connect(["eventfd/x"], [GSI], name="l")
        self.agent.wait_end()
        self.wait_gone()

    def test_twice_with_the_rest_later(self):
        """The beginning of a second answer, its end after the next question: it is not the answer to that."""
        self.client.connect([PIO], [GSI], name="l")
        answer = b'{"parameters":{"results":[{"endpoint":"kvm/v/pio/0x1"}]}}\0'
        self.agent.frames.send(answer[:10])
        self.agent.answer = lambda request, data: answer[10:] + data
        with contextlib.suppress(evlink.Error):
            self.client.call("Disconnect", {"name": "l"})
        self.agent.wait_end()
        self.wait_gone()

    def test_descriptors(self):
        """Those that come with an answer are closed."""
        def answer(request, data):
            self.agent.frames.send(data, [self.eventfd(), self.eventfd()])

        self.agent.answer = answer
        with contextlib.suppress(evlink.Error):
            self.client.connect([PIO], [GSI], name="l")
            self.client.call("Disconnect", {"name": "l"})
        self.assert_fds(1 + len(self.agents()))

    def test_in_pieces(self):
        def answer(request, data):
            for i in range(len(data)):
                self.agent.frames.send(data[i : i + 1])

        self.agent.answer = answer
        self.client.connect([PIO], [GSI], name="l")
        self.client.call("Disconnect", {"name": "l"})
        self.assertEqual(self.agents(), ["a"])

    def test_more_than_asked(self):
        """Fields that this version does not know are for later ones."""
        self.agent.answer = lambda request, data: json.dumps(
            {
                "parameters": {
                    "results": [{"endpoint": endpoint, "new": {"x": 1}} for endpoint in request.endpoints],
                    "newer": [],
                }
            },
            indent=1,
        ).encode() + b"\0"
        self.client.connect([PIO], [GSI], name="l")
        self.client.call("Disconnect", {"name": "l"})

    def test_errno(self):
        """Any errno, with its name or without."""
        for number, name in ((1, "EPERM"), (errno.ENOSPC, "ENOSPC"), (4000, None), (133, "EHWPOISON")):
            result = {"endpoint": GSI, "errno": number}
            data = json.dumps({"parameters": {"results": [result]}}).encode() + b"\0"
            self.agent.answer = lambda request, real, data=data: data
            told = {"endpoint": GSI, "errno": number}
            error = self.refused("PlugFailed", told, "Connect", ENDS)
            if name:
                self.assertEqual(error.parameters["errnoName"], name)
            self.agent.plugged.clear()
            # and as the reason of one that waits
            self.client.connect(["eventfd/x"], [GSI], name="l")
            self.client.hold("x")
            link = self.wait_link("l", "failed")
            self.assertNotIn("(null)", link["consumers"][0]["reason"])
            self.client.call("Disconnect", {"name": "l"})
            self.client.call("Release", {"name": "x"})
            self.agent.plugged.clear()

    def test_unplug_refused(self):
        """An end that cannot be unplugged is unknown: its endpoint is not used again until the agent is gone."""
        self.client.connect([PIO], [GSI], name="l")
        self.agent.refuse[PIO] = errno.EIO
        self.assertEqual(self.client.call("Disconnect", {"name": "l"}), {})
        self.nothing_linked()
        self.refused("EndpointBusy", {"endpoint": PIO, "link": None}, "Connect", ENDS)
        self.client.call("Detach", {"name": "a"})
        self.agent.wait_end()
        self.assertEqual([endpoint for endpoint, _ in self.agent.plugged], [PIO])
        self.assertEqual(self.agents(), [])
        self.agent = self.attach("a", {"v": None})
        self.client.connect([PIO], [GSI], name="l")

    def test_inventory_tells(self):
        """After an Unplug that failed, what the agent says is not plugged is free again."""
        self.client.connect([PIO], [GSI], name="l")
        self.agent.refuse[PIO] = errno.EIO
        self.agent.plugged.clear()
        self.assertEqual(self.client.call("Disconnect", {"name": "l"}), {})
        evlink.until(lambda: any(request.method == "Inventory" for request in self.agent.requests))
        del self.agent.refuse[PIO]
        evlink.until(lambda: not self._is_busy())
        self.client.call("Disconnect", {"name": "again"})

    def _is_busy(self):
        try:
            self.client.connect([PIO], [GSI], name="again")
        except evlink.Error as error:
            self.assertEqual(error.name, "EndpointBusy")
            return True
        return False

    def test_others_end_fails(self):
        """What was plugged at one agent is unplugged when the other one's kernel says no."""
        other = self.attach("b", {"w": None})
        other.refuse["kvm/w/pio/0x1"] = errno.EEXIST
        told = {"endpoint": "kvm/w/pio/0x1", "errno": errno.EEXIST}
        self.refused("PlugFailed", told, "Connect", {"producers": [PIO, "kvm/w/pio/1"], "consumers": [GSI]})
        self.assertEqual(self.agent.plugged, {})
        self.assertEqual(self.agent.log()[0], ("Plug", GSI))
        self.assertEqual(self.agent.log()[-1], ("Unplug", GSI))

    def test_order_across_agents(self):
        """Producers wait for consumers when plugged, consumers for producers when unplugged."""
        other = self.attach("b", {"w": None})
        other.gate.clear()
        finish = self.in_background("Connect", {"name": "l", "producers": [PIO], "consumers": ["kvm/w/gsi/1"]})
        other.wait_for(1)
        self.client.call("Status")
        self.assertEqual(self.agent.log(), [])
        other.gate.set()
        finish()
        self.assertEqual(self.agent.log(), [("Plug", PIO)])
        self.agent.gate.clear()
        finish = self.in_background("Disconnect", {"name": "l"})
        self.agent.wait_for(2)
        self.client.call("Status")
        self.assertEqual(other.log(), [("Plug", "kvm/w/gsi/1")])
        self.refused("WrongState", {"name": "l"}, "Disconnect", {"name": "l"})
        self.agent.gate.set()
        finish()
        self.assertEqual(other.log()[1:], [("Unplug", "kvm/w/gsi/1")])

    def test_name_is_taken_while_connecting(self):
        """A link that is being made has its name and its endpoints, and is not listed."""
        self.agent.gate.clear()
        self.client.hold("x")
        finish = self.in_background("Connect", {"name": "l", "producers": ["eventfd/x", PIO], "consumers": [GSI]})
        self.agent.wait_for(1)
        self.assertEqual(self.client.list("Links"), {})
        self.refused("NameTaken", {"name": "l"}, "Connect", dict(ENDS, name="l"))
        self.refused("EndpointBusy", {"endpoint": PIO, "link": None}, "Connect", ENDS)
        self.refused("NoSuchLink", {"name": "l"}, "Disconnect", {"name": "l"})
        self.refused("InUse", {"name": "x"}, "Release", {"name": "x"})
        self.agent.gate.set()
        self.assertEqual(finish()["link"]["name"], "l")

    def test_peek_offset(self):
        """A socket that was handed in is shared: who makes it readable, and yet empty, is detached."""
        ours, theirs = self.pair()
        parameters = {"name": "b", "subsystems": [{"kind": "kvm", "name": "w"}], "fileDescriptorIndex": 0}
        self.client.call("Attach", parameters, [theirs.fileno()])
        theirs.setsockopt(socket.SOL_SOCKET, 42, 1000)  # SO_PEEK_OFF
        ours.send(b"x")
        self.wait_gone("b")

    def test_blocking_socket(self):
        """Nor does it help to make it block."""
        ours, theirs = self.pair()
        parameters = {"name": "b", "subsystems": [{"kind": "kvm", "name": "w"}], "fileDescriptorIndex": 0}
        self.client.call("Attach", parameters, [theirs.fileno()])
        theirs.setblocking(True)
        ours.send(b"{")
        for _ in range(3):
            self.client.call("Status")
        ours.send(b"\0")
        self.wait_gone("b")


class Silent(Case):
    options = ("--agent-timeout=0.3",)
    LIMIT = 0.3

    def setUp(self):
        super().setUp()
        self.agent = self.attach("a", {"v": None})

    def time_out(self, producers=(PIO,), consumers=(GSI,), **more):
        """A Connect that times out."""
        self.agent.gate.clear()
        began = time.monotonic()
        ends = {"producers": list(producers), "consumers": list(consumers)}
        n = len(self.agent.requests)
        error = self.assert_error("AgentTimeout", {"agent": "a"}, self.client.call, "Connect", dict(ends, **more))
        self.assertGreaterEqual(time.monotonic() - began, self.LIMIT)
        self.assertLess(time.monotonic() - began, self.LIMIT + 0.5)
        # It names one that the agent was asked for.
        self.assertIn(error.parameters["endpoint"], self.agent.requests[n].endpoints)

    def catch_up(self, n_plugged=0):
        """The agent answers at last: the broker cleans up."""
        self.agent.gate.set()
        evlink.until(lambda: len(self.agent.plugged) == n_plugged)

    def test_plug(self):
        """AgentTimeout; the late answer is cleaned up after, and then all is well."""
        self.time_out(name="l")
        self.nothing_linked()
        self.assertEqual(self.agents(), ["a"])
        self.agent.gate.set()
        self.agent.wait_for(2)
        self.assertEqual(self.agent.log(), [("Plug", GSI), ("Unplug", GSI)])
        self.assertEqual(self.agent.requests[0].ids, self.agent.requests[1].ids)
        evlink.until(lambda: self.agent.plugged == {})
        self.assert_fds(2)
        self.client.connect([PIO], [GSI], name="l")
        self.assertEqual(len(self.agent.plugged), 2)

    def test_plug_refused_late(self):
        self.agent.refuse[GSI] = errno.EINVAL
        self.time_out()
        del self.agent.refuse[GSI]
        self.catch_up()
        evlink.until(lambda: len(self.broker.fds()) == len(self.fds_before) + 2)
        self.client.connect([PIO], [GSI])

    def test_meanwhile(self):
        """Nobody else waits; what is asked of a silent agent fails at once."""
        other = self.attach("b", {"w": None})
        self.agent.gate.clear()
        finish = self.in_background("Connect", ENDS)
        self.agent.wait_for(1)
        began = time.monotonic()
        self.client.connect(["kvm/w/pio/1"], ["kvm/w/gsi/1"], name="l")
        self.client.call("Disconnect", {"name": "l"})
        self.assertLess(time.monotonic() - began, self.LIMIT)
        self.assert_error("AgentTimeout", {"agent": "a", "endpoint": GSI}, finish)
        for ends in (["kvm/v/pio/2"], ["kvm/w/gsi/1"]), (["kvm/w/pio/1"], ["kvm/v/gsi/2"]):
            began = time.monotonic()
            self.assert_error("AgentTimeout", {"agent": "a"}, self.client.connect, *ends)
            self.assertLess(time.monotonic() - began, self.LIMIT / 2)
        self.assertEqual(len(self.agent.requests), 1)
        evlink.until(lambda: other.plugged == {})
        self.nothing_linked()
        self.catch_up()

    def test_queued_behind(self):
        """What waits behind a call that is not answered times out with it."""
        self.agent.gate.clear()
        first = self.in_background("Connect", ENDS)
        self.agent.wait_for(1)
        second = self.in_background("Connect", {"producers": ["kvm/v/pio/2"], "consumers": ["kvm/v/gsi/2"]})
        self.assert_error("AgentTimeout", {"agent": "a", "endpoint": GSI}, first)
        self.assert_error("AgentTimeout", {"agent": "a"}, second)
        self.catch_up()
        self.assertNotIn(("Plug", "kvm/v/gsi/2"), self.agent.log())

    def test_eventfd_is_kept(self):
        """The eventfd may still be plugged: no other link gets it, nor the endpoint, until the agent tells."""
        other = self.attach("b", {"w": None})
        fd = self.eventfd()
        self.client.hold("x", fd)
        self.time_out(["eventfd/x", PIO])
        ends = {"producers": ["eventfd/x"], "consumers": ["kvm/w/gsi/1"]}
        self.refused("EndpointBusy", {"endpoint": "eventfd/x", "link": None}, "Connect", ends)
        self.client.hold("y", fd)
        ends["producers"] = ["eventfd/y"]
        self.refused("EndpointBusy", {"endpoint": "eventfd/y", "link": None}, "Connect", ends)
        self.assertEqual(other.requests, [])
        self.client.call("Release", {"name": "y"})
        self.catch_up()
        self.agent.wait_for(2)

        def connects():
            with contextlib.suppress(evlink.Error):
                return self.client.connect(["eventfd/x"], ["kvm/w/gsi/1"])

        evlink.until(connects)

    def test_released_meanwhile(self):
        """The name of an eventfd whose Connect failed is its owner's to release; the descriptor is kept."""
        self.client.hold("x")
        self.time_out(["eventfd/x"])
        self.client.call("Release", {"name": "x"})
        self.assert_fds(3)
        self.client.hold("x")
        self.catch_up()
        self.assert_fds(3)

    def test_pending(self):
        """What was drained before a plug that timed out is not lost."""
        fd = self.eventfd(7)
        self.client.hold("x", fd)
        self.agent.refuse[GSI] = errno.EINVAL
        self.time_out(["eventfd/x"])
        self.agent.gate.set()
        self.wait_count(fd, 7)

    def test_unplug(self):
        """Disconnect does not fail, and does not wait longer than the limit."""
        self.client.connect([PIO], [GSI], name="l", group="g")
        self.agent.gate.clear()
        began = time.monotonic()
        self.assertEqual(self.client.call("Disconnect", {"name": "l"}), {})
        self.assertLess(time.monotonic() - began, self.LIMIT + 0.5)
        self.nothing_linked()
        self.refused("EndpointBusy", {"endpoint": PIO}, "Connect", ENDS)
        self.catch_up()

        def connects():
            with contextlib.suppress(evlink.Error):
                return self.client.connect([PIO], [GSI], name="l")

        evlink.until(connects)
        self.assertEqual(len(self.agent.plugged), 2)

    def test_other_agents_end_is_unplugged(self):
        """A silent producer does not keep the consumer's agent from unplugging."""
        other = self.attach("b", {"w": None})
        self.client.connect([PIO], ["kvm/w/gsi/1"], name="l")
        self.agent.gate.clear()
        self.client.call("Disconnect", {"name": "l"})
        self.assertEqual(other.plugged, {})
        self.catch_up()

    def test_linked_meanwhile(self):
        """What was linked before stays so."""
        self.client.connect(["kvm/v/pio/9"], ["kvm/v/gsi/9"], name="before")
        self.time_out()
        self.assertEqual(self.link("before")["state"], "linked")
        self.catch_up(2)
        self.assertEqual(self.link("before")["state"], "linked")

    def test_waiting(self):
        """A link that waits, and whose agent does not answer: it fails, and is tried again."""
        self.client.connect(["eventfd/x"], [GSI], name="l")
        self.agent.gate.clear()
        self.client.hold("x")
        link = self.wait_link("l", "failed")
        self.assertEqual(link["consumers"][0]["state"], "unknown")
        self.assertIn("a", link["consumers"][0]["reason"])
        self.agent.gate.set()
        self.wait_link("l", "linked")
        self.assertEqual(self.agent.log(), [("Plug", GSI), ("Unplug", GSI), ("Plug", GSI)])
        self.assertEqual(len(self.agent.plugged), 1)

    def test_detach(self):
        self.client.connect([PIO], [GSI], name="l")
        self.agent.gate.clear()
        began = time.monotonic()
        self.assertEqual(self.client.call("Detach", {"name": "a"}), {})
        self.assertLess(time.monotonic() - began, self.LIMIT + 0.5)
        self.assertEqual(self.agents(), [])
        self.assertEqual(self.link("l")["state"], "waiting")
        again = self.attach("a", {"v": None})
        self.wait_link("l", "linked")
        self.assertEqual(again.log()[0][0], "Unplug")
        # One that is silent already is detached at once.
        again.gate.clear()
        self.assert_error("AgentTimeout", {}, self.client.connect, ["kvm/v/pio/2"], [GSI])
        began = time.monotonic()
        self.client.call("Detach", {"name": "a"})
        self.assertLess(time.monotonic() - began, self.LIMIT / 2)

    def test_dies_at_last(self):
        """A silent agent dies: what it may have plugged is its successor's to unplug, before anything else."""
        for pidfd in (False, True):
            if pidfd:
                child = subprocess.Popen(["sleep", "1000"])
                fds = [self.own(os.pidfd_open(child.pid))]
                self.agent = self.attach("a", {"v": None}, fds=fds, pidfdFileDescriptorIndex=0)
            self.time_out()
            self.agent.hang_up()
            again = self.attach("a", {"v": None})
            evlink.until(lambda: again.log() == [("Unplug", GSI)])
            self.client.connect([PIO], [GSI], name="l")
            self.client.call("Disconnect", {"name": "l"})
            self.client.call("Detach", {"name": "a"})
            if pidfd:
                child.kill()
                child.wait()
        self.assert_fds(1)

    def test_slow_but_in_time(self):
        self.agent.answer = lambda request, data: time.sleep(self.LIMIT / 3) or data
        self.client.connect([PIO], [GSI], name="l")
        self.client.call("Disconnect", {"name": "l"})
        self.assertEqual(self.agent.plugged, {})

    def test_does_not_read(self):
        """Its socket is full: as silent as any."""
        self.client.call("Attach", {"name": "b", "subsystems": [{"kind": "kvm", "name": "w"}]})
        deaf = socket.socket(fileno=self.client.take())
        self.addCleanup(deaf.close)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        links = [{"producers": [f"kvm/w/pio/{i}"], "consumers": [f"kvm/w/gsi/{i}"]} for i in range(1000)]
        self.assert_error("AgentTimeout", {"agent": "b"}, self.client.call, "ConnectMany", {"links": links})
        self.nothing_linked()
        self.client.call("Detach", {"name": "b"})
        deaf.close()
        self.succeed("w")
        self.assert_fds(2)

    def test_late_nonsense(self):
        self.agent.answer = lambda request, data: b"{}\0"
        self.time_out()
        self.agent.gate.set()
        self.agent.wait_end()
        self.wait_gone()
        self.succeed("v")
        self.assert_fds(1)


class Random(Case):
    """Whatever happens in whatever order, what the broker believes is what the agents know in the end."""

    options = ("--agent-timeout=0.03",)

    def run_seed(self, seed):
        chance = random.Random(seed)
        agents = {}

        def attach(name):
            connection = self.connect()
            agents[name] = evlink.Agent.attach(connection, name, {name: None})
            connection.close()

        def step():
            what = chance.random()
            name, other = chance.choice("pqr"), chance.choice("pqr")
            if what < 0.08 and name in agents:
                agents.pop(name).hang_up()
            elif what < 0.13 and name in agents:
                self.client.call("Detach", {"name": name})
                agents.pop(name).hang_up()
            elif what < 0.3 and name not in agents:
                attach(name)
            elif what < 0.36 and name in agents:
                agents[name].gate.clear()
            elif what < 0.42:
                for agent in agents.values():
                    agent.gate.set()
            elif what < 0.46 and name in agents:
                refused = ("Plug", f"kvm/{name}/gsi/{chance.randrange(4)}")
                agents[name].refuse = chance.choice([{}, {refused: errno.EINVAL}])
            elif what < 0.5:
                self.client.hold(f"e{chance.randrange(3)}")
            elif what < 0.54:
                self.client.call("Release", {"name": f"e{chance.randrange(3)}"})
            elif what < 0.78:
                producers = [f"kvm/{other}/pio/{chance.randrange(4):#x}"]
                if chance.random() < 0.4:
                    producers.append(f"eventfd/e{chance.randrange(3)}")
                consumers = [f"kvm/{name}/gsi/{chance.randrange(4)}"]
                self.client.connect(producers, consumers, name=f"l{chance.randrange(6)}", group="g")
            elif what < 0.98:
                self.client.call("Disconnect", {"name": f"l{chance.randrange(6)}"})
            else:
                self.client.call("Disconnect", {"group": "g"})

        for _ in range(150):
            with contextlib.suppress(evlink.Error):
                step()
        # Everybody comes back, and answers.
        for name in "pqr":
            if name in agents:
                agents[name].refuse = {}
                agents[name].gate.set()
            else:
                attach(name)
        for i in range(3):
            with contextlib.suppress(evlink.Error):
                self.client.hold(f"e{i}")

        def known():
            """What the broker says is plugged, and what the agents know."""
            ends = set()
            for link in self.client.list("Links").values():
                for end in link["producers"] + link["consumers"]:
                    if end["state"] == "plugged" and end["endpoint"].startswith("kvm/"):
                        ends.add(end["endpoint"])
            return ends, {endpoint for agent in agents.values() for endpoint, _ in agent.plugged}

        try:
            evlink.until(lambda: known()[0] == known()[1])
        except TimeoutError:
            self.assertEqual(*known())
        for name in self.client.list("Links"):
            self.client.call("Disconnect", {"name": name})
        for name in self.client.list("Eventfds"):
            self.client.call("Release", {"name": name})
        for agent in agents.values():
            evlink.until(lambda agent=agent: agent.plugged == {}, f"the end of {agent.plugged}")
        self.assert_fds(1 + len(agents))
        for name, agent in agents.items():
            self.client.call("Detach", {"name": name})
            agent.hang_up()

    def test_random(self):
        for seed in range(int(os.environ.get("EVLINK_SEEDS", "6"))):
            try:
                self.run_seed(seed)
            except BaseException:
                print(f"# seed {seed}")
                raise


if __name__ == "__main__":
    blackbox.main()
