#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wire: frames, order, flags, limits and descriptors, as VARLINK.md has them."""
import contextlib
import json
import os
import socket
import time
import unittest

import blackbox
import evlink

FRAME_MAX = 256 * 1024
STATUS = evlink.encode("Status")


class Service(blackbox.Case):
    def test_info(self):
        info = self.client.call("org.varlink.service.GetInfo")
        self.assertEqual(sorted(info["interfaces"]), sorted(evlink.INTERFACES))
        self.assertEqual(info["version"], self.client.call("Status")["version"])

    def test_descriptions(self):
        for name in evlink.INTERFACES:
            answer = self.client.call("org.varlink.service.GetInterfaceDescription", {"interface": name})
            path = os.path.join(evlink.TOP, "src", "wire", name + ".varlink")
            with open(path, encoding="utf-8", newline="") as file:
                self.assertEqual(answer["description"], file.read())

    def test_errors(self):
        describe = "org.varlink.service.GetInterfaceDescription"
        for name in ("io.evlink", "io.evlink.broker", "", "x" * 1000, "é"):
            self.refused("InterfaceNotFound", {"interface": name}, describe, {"interface": name})
        for method in ("io.evlink.Nothing.Hold", "a.b", "io.evlink.broker.Hold"):
            interface = method.rpartition(".")[0]
            self.refused("InterfaceNotFound", {"interface": interface}, method)
        for method in ("hold", "Holds", "", "Hold(", "Lifetime", "NameTaken"):
            self.refused("MethodNotFound", {"method": "io.evlink.Broker." + method}, "io.evlink.Broker." + method)
        self.refused("MethodNotFound", {}, "org.varlink.service.Nothing")
        for method in evlink.AGENT.methods:
            method = "io.evlink.Agent." + method
            self.refused("MethodNotImplemented", {"method": method}, method)
        # without an interface
        for method in ("Hold", ""):
            self.client.send(json.dumps({"method": method}).encode() + b"\0")
            self.client.expect("io.evlink.Broker.Hold")
            with self.assertRaises(evlink.Error):
                self.client.finish()


class Frames(blackbox.Case):
    def cpu(self):
        """Seconds that the broker has run so far."""
        with open(f"/proc/{self.broker.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_pipelined(self):
        """1000 calls in one write are answered in order."""
        calls = [("Hold", {"name": f"e{i // 4}"}) for i in range(1000)]
        calls[1::4] = [("Claim", {"name": f"e{i}"}) for i in range(250)]
        calls[2::4] = [("Signal", {"name": f"nothing-{i}"}) for i in range(250)]
        calls[3::4] = [("Release", {"name": f"e{i}"}) for i in range(250)]
        data = b"".join(evlink.encode(*call) for call in calls)
        self.client.sock.settimeout(None)
        self.client.send(data)
        self.client.expect(*(method for method, _ in calls))
        self.client.sock.settimeout(evlink.PATIENCE)
        for i, (method, parameters) in enumerate(calls):
            if method == "Signal":
                self.assert_error("NoSuchEventfd", parameters, self.client.finish)
            else:
                reply, continues = self.client.finish()
                self.assertFalse(continues)
                if "eventfd" in reply:
                    self.assertEqual(reply["eventfd"]["name"], f"e{i // 4}")
                self.assertEqual(len(self.client.got), method == "Claim")

    def test_byte_by_byte(self):
        data = evlink.encode("Hold", {"name": "slow"}) + STATUS
        for i in range(len(data)):
            self.client.send(data[i : i + 1])
        self.client.expect("Hold", "Status")
        self.assertEqual(self.client.finish()[0]["eventfd"]["name"], "slow")
        self.assertEqual(self.client.finish()[0]["eventfds"], 1)

    def test_compact(self):
        """Replies are compact JSON with nothing but the three keys, and a NUL."""
        self.client.send(STATUS + evlink.encode("Nothing") + evlink.encode("ListAgents", None, more=True))
        for _ in range(3):
            frame, _ = self.client.receive()
            text = json.dumps(json.loads(frame), separators=(",", ":"), ensure_ascii=False)
            self.assertEqual(frame.decode(), text)

    def test_no_parameters(self):
        """Absent, null and {} parameters are the same, and so are null and absent ones within."""
        for parameters in ({}, {"parameters": None}, {"parameters": {}}):
            data = json.dumps(dict(parameters, method="io.evlink.Broker.Status")).encode() + b"\0"
            self.client.send(data)
            self.client.expect("Status")
            self.client.finish()
            self.client.send(data.replace(b"Status", b"Release"))
            self.client.expect("Release")
            self.assert_error("InvalidParameter", {"parameter": "name"}, self.client.finish)
        nulls = ("fileDescriptorIndex", "semaphore", "lifetime", "leaseSeconds")
        self.client.hold("n", **dict.fromkeys(nulls))
        self.refused("InvalidParameter", {"parameter": "name"}, "Hold", {"name": None})

    def test_white_space(self):
        self.client.send(b' \n{ "parameters" : { } ,\t"method" : "io.evlink.Broker.Status" }\r\n\0')
        self.client.expect("Status")
        self.client.finish()

    def test_flags_false(self):
        self.client.call("Status", more=False, oneway=False, upgrade=False)
        self.client.call("Status", more=None, oneway=None, upgrade=None)

    def test_oneway(self):
        """No reply, not even an error; the next call's reply is the next one."""
        self.client.call("Hold", {"name": "one"}, oneway=True)
        self.client.call("Hold", {"name": "one"}, oneway=True)
        self.client.call("Claim", {"name": "one"}, oneway=True)
        self.client.call("Nothing", oneway=True)
        self.client.call("a.b.Nothing", oneway=True)
        self.client.call("Hold", {"name": 5}, oneway=True)
        self.client.call("Hold", {"name": "two", "fileDescriptorIndex": 0}, oneway=True)
        self.client.call("ListEventfds", {}, oneway=True)
        self.client.call("Connect", {"producers": ["eventfd/one"], "consumers": ["kvm/v/gsi/1"]}, oneway=True)
        self.client.call("Disconnect", {"name": "nothing"}, oneway=True)
        status = self.client.call("Status")
        self.assertEqual((status["eventfds"], status["links"]), (1, 1))

    def test_oneway_then_close(self):
        for i in range(20):
            with self.broker.connect() as other:
                data = b"".join(
                    evlink.encode("Hold", {"name": f"x{i}-{k}"}, oneway=True) for k in range(50)
                )
                other.send(data)
        evlink.until(lambda: self.client.call("Status")["eventfds"] == 1000)

    def test_oneway_with_descriptor_then_close(self):
        fd = self.eventfd(7)
        with self.broker.connect() as other:
            other.call("Hold", {"name": "one", "fileDescriptorIndex": 0}, [fd], oneway=True)
        evlink.until(lambda: self.client.call("Status")["eventfds"] == 1)
        self.assertEqual(os.eventfd_read(self.own(self.client.claim("one"))), 7)

    def test_half_close(self):
        """After SHUT_WR the replies come, and then the end."""
        self.client.hold("a")
        other = self.connect()
        other.send(STATUS * 100 + evlink.encode("ListEventfds", None, more=True))
        other.sock.shutdown(socket.SHUT_WR)
        other.expect(*["Status"] * 100, "ListEventfds")
        for _ in range(100):
            other.finish()
        reply, continues = other.finish()
        self.assertEqual((reply["eventfd"]["name"], continues), ("a", False))
        self.assertTrue(other.at_end())

    def test_half_close_of_nothing(self):
        for data in (b"", b'{"method":"io.evlink.Broker.Sta'):
            other = self.connect()
            other.send(data)
            other.sock.shutdown(socket.SHUT_WR)
            self.assertTrue(other.at_end())

    def test_more(self):
        for what in ("Eventfds", "Links", "Agents"):
            self.assertEqual(self.client.stream("List" + what), [{}])
            self.refused("ExpectedMore", {}, "List" + what)
            self.refused("ExpectedMore", {}, "List" + what, more=False)
        self.client.hold("a")
        self.client.hold("b")
        self.client.start("ListEventfds", more=True)
        found = [self.client.finish(), self.client.finish()]
        self.assertEqual([continues for _, continues in found], [True, False])
        # one that answers once does so with `more`, too
        self.assertEqual(len(self.client.stream("Status")), 1)
        with self.assertRaises(evlink.Error):
            self.client.stream("Release", {"name": "nothing"})

    def test_more_pipelined(self):
        """The next call waits for the end of a stream."""
        for i in range(100):
            self.client.hold(f"e{i:03}")
        self.client.start("ListEventfds", more=True)
        self.client.start("Release", {"name": "e099"})
        self.client.start("ListEventfds", {"match": "e09?"}, more=True)
        found = []
        while len(self.client.pending) == 3:
            found.append(self.client.finish()[0]["eventfd"]["name"])
        self.assertEqual(found, [f"e{i:03}" for i in range(100)])
        self.client.finish()
        found = []
        while self.client.pending:
            found.append(self.client.finish()[0]["eventfd"]["name"])
        self.assertEqual(found, [f"e{i:03}" for i in range(90, 99)])

    def test_upgrade(self):
        self.refused("MethodNotImplemented", {}, "Status", upgrade=True)

    def test_malformed(self):
        """No reply, the connection closes; what came before is answered, what comes after is not looked at."""
        bad = [
            b"",
            b" ",
            b"x",
            b"{",
            b"{}",
            b"[]",
            b"null",
            b"1",
            b'"io.evlink.Broker.Status"',
            b'{"method":"io.evlink.Broker.Status"',
            b'{"method":"io.evlink.Broker.Status"}}',
            b'{"method":"io.evlink.Broker.Status"}{"method":"io.evlink.Broker.Status"}',
            b'{"method":"io.evlink.Broker.Status",}',
            b"{'method':'io.evlink.Broker.Status'}",
            b'{"Method":"io.evlink.Broker.Status"}',
            b'{"method":null}',
            b'{"method":1}',
            b'{"method":["io.evlink.Broker.Status"]}',
            b'{"method":"io.evlink.Broker.Status","parameters":[]}',
            b'{"method":"io.evlink.Broker.Status","parameters":""}',
            b'{"method":"io.evlink.Broker.Status","parameters":0}',
            b'{"method":"io.evlink.Broker.Status","parameters":false}',
            b'{"method":"io.evlink.Broker.Status","more":1}',
            b'{"method":"io.evlink.Broker.Status","oneway":"true"}',
            b'{"method":"io.evlink.Broker.Status","more":true,"oneway":true}',
            b'{"method":"io.evlink.Broker.Status","more":true,"upgrade":true}',
            b'{"method":"io.evlink.Broker.Status","oneway":true,"upgrade":true}',
            b'{"method":"io.evlink.Broker.Status","other":1}',
            b'{"method":"io.evlink.Broker.Status","error":"x"}',
            b'{"method":"io.evlink.Broker.Status","continues":false}',
            b'{"method":"io.evlink.Broker.Status","method":"io.evlink.Broker.Status"}',
            b'{"method":"io.evlink.Broker.Hold","parameters":{"name":"a","name":"b"}}',
            b'{"method":"io.evlink.Broker.Hold","parameters":{"name":"\xff"}}',
            b'{"method":"io.evlink.Broker.Hold","parameters":{"name":"\xed\xa0\x80"}}',
            b'{"method":"io.evlink.Broker.Hold","parameters":{"name":"\\ud800"}}',
            b'{"method":"io.evlink.Broker.Hold","parameters":{"name":"a\nb"}}',
            b'{"method":"io.evlink.Broker.Signal","parameters":{"name":"a","count":01}}',
            b'{"method":"io.evlink.Broker.Signal","parameters":{"name":"a","count":NaN}}',
            b'\xef\xbb\xbf{"method":"io.evlink.Broker.Status"}',
            b"[" * 200000,
            b'{"a":' * 50000,
            b'{"method":"io.evlink.Broker.Status","parameters":{"a":' + b"[" * 31 + b"]" * 31 + b"}}",
            b'{"method":"io.evlink.Broker.Status","parameters":{"a":' + b"[" * 100000 + b"]" * 100000 + b"}}",
        ]
        before = self.state()
        for data in bad:
            other = self.connect()
            after = evlink.encode("Hold", {"name": "after"})
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                other.send(STATUS + data + b"\0" + after)
            other.expect("Status")
            with self.subTest(data=data[:80]):
                other.finish()
                self.assertTrue(other.at_end(), data[:80])
                self.assertEqual(self.state(), before, data[:80])
            other.close()

    def test_deepest(self):
        """32 levels are none too many."""
        self.client.send(b'{"method":"io.evlink.Broker.Status","parameters":{"a":' + b"[" * 30 + b"]" * 30 + b"}}\0")
        self.client.expect("Status")
        self.assert_error("InvalidParameter", {"parameter": "a"}, self.client.finish)

    def test_malformed_with_descriptors(self):
        for data in (b"x\0", b'{"method":1}\0', b"\0"):
            with self.broker.connect() as other:
                other.send(data, [self.eventfd(), self.eventfd()])
                self.assertTrue(other.at_end())
        # and the end before the frame's
        with self.broker.connect() as other:
            other.send(b'{"method":', [self.eventfd()])
        self.assert_fds(1)

    def test_length(self):
        """Frames of 256 KiB are served, longer ones are not, and close the connection at once."""
        space = FRAME_MAX - len(STATUS) + 1
        self.client.send(STATUS[:-1] + b" " * space + b"\0")
        self.client.expect("Status")
        self.client.finish()
        # everybody else is served while long ones come in
        other = self.connect()
        other.send(STATUS[:-1] + b" " * (space - 10))
        self.client.call("Status")
        other.send(b" " * 10 + b"\0")
        other.expect("Status")
        other.finish()
        for data in (STATUS[:-1] + b" " * (space + 1) + b"\0", b"x" * (2 * FRAME_MAX), b" " * (FRAME_MAX + 1)):
            other = self.connect()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                other.send(data)
            self.assertTrue(other.at_end())

    def test_long_parameters(self):
        """What is told in errors may be long, and in any language."""
        for n in (1000, 100000, FRAME_MAX - 200):
            for letter in ("x", "é", "\u20ac", "\U0001f41f", '"'):
                text = letter * (n // max(len(letter.encode()), 2))
                self.refused("InvalidParameter", {"parameter": text}, "Status", {text: 1})
                self.refused("MethodNotFound", {"method": "io.evlink.Broker." + text}, "io.evlink.Broker." + text)

    def test_long_answer(self):
        """Where an error would not fit in a frame, there is an error all the same, or the end: no stall."""
        for n in range(FRAME_MAX - 100, FRAME_MAX - 40, 7):
            with self.broker.connect() as other:
                other.send(evlink.encode("Status", {"x" * n: 1})[: FRAME_MAX + 1])
                with contextlib.suppress(EOFError, evlink.Error, ConnectionResetError):
                    other.expect("Status")
                    other.finish()
        self.client.call("Status")

    def test_slow_reader(self):
        """Who does not read is not read from, holds up nobody, and gets it all in the end."""
        n = 200
        describe = evlink.encode(
            "org.varlink.service.GetInterfaceDescription", {"interface": "io.evlink.Broker"}
        )
        for _ in range(20):
            other = self.connect()
            other.sock.setblocking(False)
            data = memoryview(describe * n)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < len(data):
                    sent += other.sock.send(data[sent:])
            for _ in range(20):
                self.client.call("Status")
            other.sock.settimeout(evlink.PATIENCE)
            whole = sent // len(describe)
            for _ in range(whole):
                other.expect("org.varlink.service.GetInterfaceDescription")
                other.finish()
            self.assertGreater(whole, 100)
            other.close()

    def test_half_closed_subscriber(self):
        """After SHUT_WR a subscriber still listens, costs nothing, and is gone when it closes."""
        others = []
        for early in (False, True) * 10:
            other = self.connect()
            others.append(other)
            other.start("Monitor", {"types": ["held", "released"]}, more=True)
            if early:
                other.sock.shutdown(socket.SHUT_WR)
            self.assertEqual(other.finish(), ({}, True))
            if not early:
                other.sock.shutdown(socket.SHUT_WR)
        self.client.call("Status")
        before = self.cpu()
        time.sleep(0.5)
        self.assertLess(self.cpu() - before, 0.1)
        for _ in range(2):
            self.client.hold("e")
            self.client.call("Release", {"name": "e"})
            for other in others:
                for what in ("held", "released"):
                    notice, continues = other.finish()
                    self.assertEqual((notice["notice"]["type"], continues), (what, True))
        # What one of them is too slow for is told when it reads again.
        slow = others.pop()
        for other in others:
            other.close()
        self.assert_fds(2)
        calls = evlink.encode("Hold", {"name": "e" * 60}) + evlink.encode("Release", {"name": "e" * 60})
        for _ in range(40):
            self.client.send(calls * 100)
            self.client.expect(*["Hold", "Release"] * 100)
            for _ in range(200):
                self.client.finish()
        types = []
        while "lost" not in types:
            types.append(slow.finish()[0]["notice"]["type"])
        self.assertGreater(len(types), 1000)
        slow.close()
        self.assert_fds(1)

    def test_client_leaves_with_unread_replies(self):
        for _ in range(20):
            with self.broker.connect() as other:
                other.send(STATUS * 500)
        self.client.call("Status")

    def test_many_connections(self):
        before = self.client.call("Status")["connections"]
        others = [self.connect() for _ in range(200)]
        for other in others:
            other.call("Status")
        self.assertEqual(self.client.call("Status")["connections"], before + 200)
        self.assert_fds(201)
        for other in others:
            other.close()
        evlink.until(lambda: self.client.call("Status")["connections"] == before)


class Descriptors(blackbox.Case):
    def numbered(self, n):
        """n eventfds that tell which they are by their counters."""
        return [self.eventfd(i + 1) for i in range(n)]

    def claimed_count(self, name):
        return os.eventfd_read(self.own(self.client.claim(name)))

    def test_merged(self):
        """Pipelined calls, some with a descriptor: each gets its own, however the kernel merges them."""
        fds = self.numbered(40)
        for i, fd in enumerate(fds):
            if i % 3 == 0:
                self.client.send(evlink.encode("Hold", {"name": f"own-{i}"}))
                self.client.expect("Hold")
            if i % 5 == 0:
                self.client.send(STATUS * 3)
                self.client.expect(*["Status"] * 3)
            self.client.start("Hold", {"name": f"e{i}", "fileDescriptorIndex": 0}, [fd])
        while self.client.pending:
            self.client.finish()
        for i in range(40):
            self.assertEqual(self.claimed_count(f"e{i}"), i + 1)

    def test_in_a_row(self):
        """However many come with descriptors before an answer is read: the last one is answered too."""
        for n in (1, 15, 16, 17, 31, 32, 33, 48, 64, 65, 128):
            fds = self.numbered(n)
            for i, fd in enumerate(fds):
                self.client.start("Hold", {"name": f"e{i}", "fileDescriptorIndex": 0}, [fd])
            for i in range(n):
                self.assertEqual(self.client.finish()[0]["eventfd"]["name"], f"e{i}")
            for i in range(n):
                self.assertEqual(self.claimed_count(f"e{i}"), i + 1)
                self.client.call("Release", {"name": f"e{i}"})

    def test_not_the_previous_call(self):
        """A descriptor is not lent to the calls around it."""
        fd = self.eventfd(1)
        without = evlink.encode("Hold", {"name": "a", "fileDescriptorIndex": 0})
        for plain, carrier in ((without, STATUS), (without + STATUS, STATUS), (STATUS, STATUS + without)):
            other = self.connect()
            other.send(plain)
            other.send(carrier, [fd])
            for frame in (plain + carrier).split(b"\0")[:-1]:
                if b"Hold" in frame:
                    other.expect("Hold")
                    try:
                        self.assert_error("NotAnEventfd", {"fileDescriptorIndex": 0}, other.finish)
                    except EOFError:
                        break  # two frames with one descriptor: it may not guess whose it is
                else:
                    other.expect("Status")
                    with contextlib.suppress(EOFError):
                        other.finish()
            other.close()
        self.assertEqual(self.client.call("Status")["eventfds"], 0)
        self.assert_fds(1)

    def test_split_frame(self):
        """The descriptor comes with the first byte, the rest later."""
        data = evlink.encode("Hold", {"name": "a", "fileDescriptorIndex": 0})
        for at in (1, len(data) // 2, len(data) - 1):
            self.client.send(STATUS)
            self.client.send(data[:at], [self.eventfd(at)])
            time.sleep(0.01)
            self.client.send(data[at:] + STATUS)
            self.client.expect("Status", "Hold", "Status")
            for _ in range(3):
                self.client.finish()
            self.assertEqual(self.claimed_count("a"), at)
            self.client.call("Release", {"name": "a"})

    def test_not_with_the_first_byte(self):
        """A descriptor in the middle of a frame is nobody's. It costs its sender the connection, or nothing."""
        data = evlink.encode("Hold", {"name": "a", "fileDescriptorIndex": 0})
        for wait in (0, 0.02):
            other = self.connect()
            other.send(data[:20])
            time.sleep(wait)
            with contextlib.suppress(BrokenPipeError):
                other.send(data[20:], [self.eventfd()])
                other.expect("Hold")
            with contextlib.suppress(EOFError, evlink.Error, ConnectionResetError):
                other.finish()
                other.call("Release", {"name": "a"})
            other.close()
        self.assertEqual(self.client.call("Status")["eventfds"], 0)
        self.assert_fds(1)

    def test_unwanted(self):
        """Descriptors that a call does not want are closed."""
        fds = self.numbered(3)
        self.client.call("Status", None, fds)
        self.assert_fds(1)
        self.client.call("Hold", {"name": "a"}, fds)
        self.assertEqual(evlink.fdinfo(self.own(self.client.claim("a")))[0], 0)
        self.assert_fds(2)
        self.client.call("Hold", {"name": "b", "fileDescriptorIndex": 1}, fds)
        self.assertEqual(self.claimed_count("b"), 2)
        self.assert_fds(3)
        self.client.call("Status", None, fds, oneway=True)
        with self.assertRaises(evlink.Error):
            self.client.call("Nothing", None, fds)
        self.assertEqual(len(self.client.stream("ListEventfds")), 2)
        self.assert_fds(3)

    def test_253(self):
        fds = self.numbered(evlink.MAX_FDS)
        self.client.call("Status", None, fds)
        self.assert_fds(1)
        self.client.call("Hold", {"name": "last", "fileDescriptorIndex": 252}, fds)
        self.assertEqual(self.claimed_count("last"), 253)
        self.assert_fds(2)
        for _ in range(3):
            self.client.start("Status", None, fds)
        for _ in range(3):
            self.client.finish()
        self.assert_fds(2)

    def test_hold_many_253(self):
        fds = self.numbered(evlink.MAX_FDS)
        names = [f"e{i}" for i in range(evlink.MAX_FDS)]
        self.assertEqual(self.client.call("HoldMany", {"names": names}, fds), {})
        self.assert_fds(1 + evlink.MAX_FDS)
        for i in (0, 1, 100, 252):
            self.assertEqual(self.claimed_count(names[i]), i + 1)
        self.assertEqual(len(self.client.list("Eventfds")), evlink.MAX_FDS)

    def test_left_in_the_socket(self):
        """Descriptors whose message is never read are gone with the connection."""
        with self.broker.connect() as other:
            # A call that waits keeps the next one in the socket.
            agent = self.attach("a", {"v": None})
            agent.gate.clear()
            other.start("Connect", {"name": "l", "producers": ["kvm/v/pio/1"], "consumers": ["kvm/v/gsi/1"]})
            agent.wait_for(1)
            other.start("Status", None, self.numbered(3))
        agent.gate.set()
        evlink.until(lambda: self.client.list("Links"))
        self.assert_fds(3)  # the connection, the agent's socket, and the link's eventfd


if __name__ == "__main__":
    blackbox.main()
