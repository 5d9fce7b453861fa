#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""evlinkd as a process: its start and end, its socket, and what it does when descriptors run out."""
import contextlib
import ctypes
import errno
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time
import unittest

import blackbox
import evlink


def deny_io_setup():
    """From here on io_setup() fails with EAGAIN, as where all of fs.aio-max-nr is taken."""
    program = struct.pack("HBBI", 0x20, 0, 0, 0)  # load the system call's number
    program += struct.pack("HBBI", 0x15, 0, 1, 206)  # unless it is io_setup(), skip one
    program += struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | errno.EAGAIN)
    program += struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    code = ctypes.create_string_buffer(program)
    descriptor = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_char_p(descriptor), 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp")


class Process(unittest.TestCase):
    """Each test has brokers of its own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="evlinkd-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.path = os.path.join(self.folder, "socket")

    def start(self, *options, **more):
        broker = evlink.Broker(*options, folder=self.folder, **more)
        self.addCleanup(broker.discard)
        return broker

    def run_program(self, *arguments):
        return subprocess.run(
            [evlink.Broker.program(), *evlink.UNCONFIGURED, *arguments],
            capture_output=True,
            text=True,
            timeout=evlink.PATIENCE,
            check=False,
        )

    @blackbox.needs_root
    def test_descriptors_under_way(self):
        """Descriptors that clients do not read are few each, and all of them are not others' end."""
        os.chown(self.folder, 1001, 1001)

        def become_somebody():
            os.setgroups([])
            os.setresgid(1001, 1001, 1001)
            os.setresuid(1001, 1001, 1001)
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

        broker = self.start(preexec_fn=become_somebody)
        client = broker.connect()
        self.addCleanup(client.close)
        client.hold("e")
        lazy = []
        for _ in range(14):
            lazy.append(broker.connect())
            self.addCleanup(lazy[-1].close)
            for _ in range(20):
                lazy[-1].start("Claim", {"name": "e"})
            if len(lazy) == 1:
                # One of them is no matter: 8 of its calls are answered.
                time.sleep(0.1)
                for _ in range(200):
                    os.close(client.claim("e"))
        # The kernel takes no more than 100 of one user: what is over waits.
        time.sleep(0.1)
        client.start("Claim", {"name": "e"})
        client.sock.settimeout(0.3)
        self.assertRaises(TimeoutError, client.finish)
        client.sock.settimeout(evlink.PATIENCE)
        for other in lazy[:2]:
            other.close()
        client.finish()
        os.close(client.take())
        # Who reads gets all, in order.
        for _ in range(20):
            lazy[2].finish()
            os.close(lazy[2].take())
        broker.stop()

    def test_start_and_stop(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            broker = self.start()
            self.assertTrue(stat.S_ISSOCK(os.stat(self.path).st_mode))
            with broker.connect() as client:
                status = client.call("Status")
                self.assertTrue(abs(status["startedAt"] - time.time_ns() // 1000) < 60 * 10**6)
            self.assertEqual(broker.threads(), 1)
            self.assertEqual(broker.end(number), 0)
            self.assertFalse(os.path.exists(self.path))

    def test_stop_in_the_middle(self):
        """Whatever is open, it ends at once and with nothing lost to the sanitizers."""
        broker = self.start()
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(broker.connect())
            for i in range(100):
                client.hold(f"e{i}", lifetime=("persistent", "connection")[i % 2])
            client.hold("l", lifetime="lease", leaseSeconds=100)
            agent = evlink.Agent.attach(client, "a", {"v": None})
            child = subprocess.Popen(["sleep", "1000"])
            stack.callback(child.wait)
            stack.callback(child.kill)
            pidfd = os.pidfd_open(child.pid)
            stack.callback(os.close, pidfd)
            lost = evlink.Agent.attach(client, "b", {"w": None}, fds=[pidfd], pidfdFileDescriptorIndex=0)
            client.connect(["eventfd/e0", "kvm/w/pio/1"], ["kvm/v/gsi/1"], labels={"a": "b"}, group="g")
            client.connect(["eventfd/e1", "kvm/v/pio/1"], ["kvm/w/gsi/1"])
            client.connect(["eventfd/nothing"], ["kvm/x/gsi/1"], lifetime="lease", leaseSeconds=9)
            lost.hang_up()
            agent.gate.clear()
            n = len(agent.requests)
            waiting = stack.enter_context(broker.connect())
            waiting.start("Connect", {"producers": ["kvm/v/pio/2"], "consumers": ["kvm/v/gsi/2"]})
            agent.wait_for(n + 1)
            waiting.start("Status")
            half = stack.enter_context(broker.connect())
            half.send(b'{"method":', [pidfd])
            stream = stack.enter_context(broker.connect())
            stream.start("ListEventfds", more=True)
            began = time.monotonic()
            self.assertEqual(broker.end(), 0)
            self.assertLess(time.monotonic() - began, 3)
            agent.hang_up()

    def test_nothing_is_left_on_disk(self):
        broker = self.start()
        broker.stop()
        self.assertLessEqual(set(os.listdir(self.folder)), {"socket.lock"})

    def test_second(self):
        """Two on one socket: the second says so and leaves, and the first goes on."""
        broker = self.start()
        second = self.run_program("--socket=" + self.path)
        self.assertEqual(second.returncode, 1)
        self.assertEqual(second.stdout, "")
        self.assertIn(self.path, second.stderr)
        self.assertIn("another evlinkd", second.stderr)
        with broker.connect() as client:
            client.call("Status")
        broker.stop()
        self.start().stop()

    def test_killed(self):
        """A socket that a dead one left is replaced."""
        broker = self.start()
        broker.end(signal.SIGKILL)
        self.assertTrue(os.path.exists(self.path))
        with self.assertRaises(ConnectionRefusedError):
            evlink.Connection(self.path)
        again = self.start()
        with again.connect() as client:
            client.call("Status")
        again.stop()

    def test_stale_socket_of_somebody(self):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(self.path)
        self.start().stop()

    def test_not_a_socket(self):
        """What is no socket is not removed."""
        target = os.path.join(self.folder, "target")
        for make in (os.mkdir, lambda path: open(path, "w").close(), lambda path: os.symlink(target, path)):
            make(self.path)
            second = self.run_program("--socket=" + self.path)
            self.assertEqual(second.returncode, 1)
            self.assertIn(self.path, second.stderr)
            self.assertTrue(os.path.lexists(self.path))
            self.assertFalse(os.path.exists(target))
            (os.rmdir if os.path.isdir(self.path) else os.unlink)(self.path)

    def test_no_folder(self):
        for path in ("/nonexistent/folder/socket", "/proc/socket", "x" * 200, ""):
            second = self.run_program("--socket=" + path)
            self.assertEqual(second.returncode, 1, path)
            self.assertTrue(second.stderr.startswith("evlinkd: "), second.stderr)

    def test_arguments(self):
        for arguments in (
            ["--nothing"],
            ["-x"],
            ["argument"],
            ["--agent-timeout=0"],
            ["--agent-timeout=x"],
            ["--agent-timeout="],
            ["--agent-timeout=-1"],
            ["--agent-timeout=nan"],
            ["--agent-timeout=inf"],
            ["--agent-timeout=1s"],
            ["--socket"],
        ):
            answer = self.run_program(*arguments)
            self.assertEqual((answer.returncode, answer.stdout), (2, ""), arguments)
            self.assertTrue(answer.stderr)
        answer = self.run_program("--version")
        self.assertEqual(answer.returncode, 0)
        self.assertRegex(answer.stdout, r"^evlinkd \d")
        answer = self.run_program("--help")
        self.assertEqual(answer.returncode, 0)
        self.assertIn("--socket", answer.stdout)

    def test_everybody_may_connect(self):
        if os.geteuid() != 0:
            self.skipTest("only root can be another user as well")
        broker = self.start()
        with evlink.connect_as(self.path, blackbox.NOBODY) as nobody:
            self.assertEqual(nobody.hold("x")["owner"]["uid"], blackbox.NOBODY)
        broker.stop()

    def test_out_of_descriptors(self):
        """Where its table is full, calls that need more are refused, nothing breaks, and later all is well."""
        broker = self.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(broker.connect())
            agent = evlink.Agent.attach(client, "a", {"v": None})
            client.connect(["kvm/v/pio/1"], ["kvm/v/gsi/1"], name="before")
            # One that was linked before, so that its fdinfo is known already.
            client.hold("known")
            client.connect(["eventfd/known"], ["kvm/v/gsi/2"], name="more")
            client.call("Disconnect", {"name": "more"})
            held = 0
            with self.assertRaises(evlink.Error) as caught:
                for held in range(100):
                    client.hold(f"e{held}")
            self.assertEqual(caught.exception.name, "QuotaExceeded", caught.exception)
            self.assertGreater(held, 20)
            before = client.call("Status")

            def refused(method, parameters, fds=()):
                with self.assertRaises(evlink.Error) as caught:
                    client.call(method, parameters, fds)
                self.assertEqual(caught.exception.name, "QuotaExceeded", caught.exception)
                self.assertEqual(client.call("Status"), before)

            mine = os.eventfd(0)
            stack.callback(os.close, mine)
            refused("Hold", {"name": "x"})
            refused("Hold", {"name": "x", "fileDescriptorIndex": 0}, [mine])
            refused("HoldMany", {"names": ["x", "y"]}, [mine, mine])
            refused("Claim", {"name": "e0"})
            refused("Connect", {"producers": ["kvm/w/pio/1"], "consumers": ["kvm/w/gsi/1"]})
            refused("Attach", {"name": "b", "subsystems": [{"kind": "kvm", "name": "w"}]})
            # A new connection waits, and costs no time meanwhile.
            late = stack.enter_context(broker.connect())
            late.start("Status")
            client.call("Status")
            # The agent is not to blame: it is still there, and its link stands.
            with contextlib.suppress(evlink.Error):
                client.connect(["eventfd/known"], ["kvm/v/gsi/2"], name="more")
            self.assertEqual(list(client.list("Agents")), ["a"])
            self.assertEqual(client.list("Links")["before"]["state"], "linked")
            if "more" in client.list("Links"):
                client.call("Disconnect", {"name": "more"})
            for i in range(2, held):
                client.call("Release", {"name": f"e{i}"})
            late.finish()
            client.hold("x", mine)
            os.close(client.claim("x"))
            client.connect(["eventfd/x"], ["kvm/v/gsi/2"], name="more")
            client.call("Disconnect", {"name": "more"})
            client.call("Disconnect", {"name": "before"})
            self.assertEqual(agent.plugged, {})
            agent.hang_up()
        broker.stop()

    @unittest.skipUnless(os.uname().machine == "x86_64", "the number of io_setup() is x86-64's")
    def test_no_aio(self):
        """Where somebody took all of fs.aio-max-nr: slower ways, the same answers."""
        broker = self.start(preexec_fn=deny_io_setup)
        with broker.connect() as client:
            for what in (os.memfd_create("x"), os.open("/dev/zero", os.O_RDONLY), os.pidfd_open(os.getpid())):
                with self.assertRaises(evlink.Error) as caught:
                    client.hold("x", what)
                self.assertEqual(caught.exception.name, "NotAnEventfd")
                os.close(what)
            fd = os.eventfd(2)
            client.hold("x", fd)
            for count in (1, 8, 9):
                client.call("Signal", {"name": "x", "count": count})
            self.assertEqual(os.eventfd_read(fd), 20)
            os.eventfd_write(fd, 2**64 - 2)
            for count in (1, 9):
                with self.assertRaises(evlink.Error) as caught:
                    client.call("Signal", {"name": "x", "count": count})
                self.assertEqual(caught.exception.name, "QuotaExceeded")
            os.close(fd)
        broker.stop()


if __name__ == "__main__":
    blackbox.main()
