#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The supervisor of evlinkd --supervise: what it keeps for its child, and what it does when that dies or hangs.

Most tests have supervise-run supervise a child of their own, which does what it is told over a socket; what comes
and goes between the two is what systemd would see. Times are shortened by supervise-run's options.
"""
import array
import ast
import contextlib
import ctypes
import glob
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import blackbox
import evlink

# Says who it is, then evaluates what it is sent, with the descriptors that came along. Small, as it is started often.
CHILD = r"""
import array, os, sys, _signal
from _socket import *

def notify(text, fds=()):
    sock = socket(AF_UNIX, SOCK_DGRAM)
    address = "\0" + os.environ["NOTIFY_SOCKET"][1:]
    sock.sendmsg([text.encode()], [(SOL_SOCKET, SCM_RIGHTS, array.array("i", fds))] if fds else [], 0, address)
    sock.close()
    return ""

def barrier():
    mine, its = os.pipe()
    notify("BARRIER=1", [its])
    os.close(its)
    os.read(mine, 1)
    os.close(mine)
    return ""

def in_fork(function):
    pid = os.fork()
    if pid == 0:
        function()
        os._exit(0)
    os.waitpid(pid, 0)

def catch(number, status):
    _signal.signal(number, lambda *_: os._exit(status))

with open("/proc/self/status") as file:
    masks = {line[:6]: int(line.split()[1], 16) for line in file if line.startswith(("SigBlk", "SigIgn"))}
hello = {
    "pid": os.getpid(), "ppid": os.getppid(), "environment": dict(os.environ), "arguments": sys.argv,
    "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1], "masks": masks,
}
wire = socket(AF_UNIX, SOCK_SEQPACKET)
wire.connect(sys.argv[1])
wire.send(repr(hello).encode())
while True:
    text, rights, _, _ = wire.recvmsg(65536, 4096)
    fds = array.array("i")
    for _, _, data in rights:
        fds.frombytes(data)
    if not text:
        os._exit(0)
    back = []
    answer = eval(text)
    sent = [(SOL_SOCKET, SCM_RIGHTS, array.array("i", back))] if back else []
    wire.sendmsg([repr(answer).encode()], sent)
    for fd in fds:
        os.close(fd)
"""

MS = 1000
SECOND = 1000 * MS
SUBREAPER = 36  # of prctl(2)


def until_gone(pid):
    """Waits until a process that is nobody's to wait for is no more."""
    evlink.until(lambda: not os.path.exists(f"/proc/{pid}"), f"the end of {pid}")


class Child:
    """The supervised process, as seen from the test's end of the socket."""

    def __init__(self, wire):
        self.wire = wire
        self.wire.settimeout(evlink.PATIENCE)
        self.hello = ast.literal_eval(self.wire.recv(1 << 20).decode())
        self.pid = self.hello["pid"]
        self.environment = self.hello["environment"]

    def start(self, text, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.wire.sendmsg([text.encode()], rights)

    def finish(self):
        text, fds, _, _ = socket.recv_fds(self.wire, 1 << 20, evlink.MAX_FDS)
        self.back = fds
        return ast.literal_eval(text.decode())

    def do(self, text, fds=()):
        self.start(text, fds)
        return self.finish()

    def notify(self, text, fds=()):
        """Returns when the parent has read it."""
        self.do(f"notify({text!r}, fds) or barrier()", fds)

    def store(self, name, *fds):
        self.notify("FDSTORE=1\nFDPOLL=0" + (f"\nFDNAME={name}" if name is not None else ""), fds)

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    def names(self):
        """Of what was stored when it was started."""
        n = int(self.environment.get("LISTEN_FDS", 0))
        if n == 0:
            return []
        assert self.environment["LISTEN_PID"] == str(self.pid), self.environment
        assert self.hello["fds"] == list(range(3 + n)), self.hello
        names = self.environment["LISTEN_FDNAMES"].split(":")
        assert len(names) == n, self.environment
        return names

    def last_end(self):
        return self.environment.get("EVLINK_LAST_END")


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="evlinkd-test-")
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "wire")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(self.listener.close)
        self.listener.bind(self.path)
        self.listener.listen()
        self.errors = tempfile.TemporaryFile()
        self.addCleanup(self.errors.close)
        self.parent = None
        self.children = []
        self.addCleanup(self._discard)

    def _discard(self):
        """Nobody is left, and the sanitizers had nothing to say."""
        if self.parent and self.parent.poll() is None:
            self.parent.kill()
            self.parent.wait()
        for child in self.children:
            child.wire.close()  # it ends with that
        for sign in ("AddressSanitizer", "LeakSanitizer", "runtime error:"):
            self.assertNotIn(sign, self.said())

    def run_it(self, *program, environment=(), **options):
        """Starts supervise-run. Options: those of Popen, and microseconds for its own, such as watchdog."""
        build = os.environ.get("top_builddir", evlink.TOP)
        runner = os.environ.get("SUPERVISE_RUN") or os.path.join(build, "tests", "supervise-run")
        own = ("watchdog", "patience", "brief", "steady", "pause_min", "pause_max")
        given = [f"--{name.replace('_', '-')}={options.pop(name)}" for name in own if name in options]
        variables = dict(os.environ)
        for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM"):
            variables.pop(name, None)
        variables.update(environment)
        self.parent = subprocess.Popen(
            [runner, *given, *(program or (sys.executable, "-I", "-S", "-c", CHILD, self.path))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            env=variables,
            **options,
        )

    def next(self, timeout=evlink.PATIENCE):
        """The next child, once it is there."""
        self.listener.settimeout(timeout)
        try:
            wire, _ = self.listener.accept()
        except TimeoutError:
            self.fail("there is no new child:\n" + self.said())
        self.children.append(Child(wire))
        return self.children[-1]

    def ready(self, **options):
        """Starts supervise-run, and returns its first child when that is ready."""
        self.run_it(**options)
        child = self.next()
        child.notify("READY=1")
        return child

    def after(self, child, number=signal.SIGKILL):
        """Kills it, and returns the next one."""
        child.kill(number)
        return self.next()

    def said(self):
        return os.pread(self.errors.fileno(), 1 << 24, 0).decode(errors="replace")

    def wait(self, timeout=evlink.PATIENCE):
        try:
            return self.parent.wait(timeout)
        except subprocess.TimeoutExpired:
            self.fail("it does not end:\n" + self.said())

    def stop(self, child, number=signal.SIGTERM):
        child.do("catch(%d, 0)" % number)
        self.parent.send_signal(number)
        self.assertEqual(self.wait(), 0)
        self.assertFalse(os.path.exists(f"/proc/{child.pid}"))

    def own(self, fd):
        self.addCleanup(os.close, fd)
        return fd

    def eventfd(self, count=0):
        return self.own(os.eventfd(count, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def memfd(self, text):
        fd = self.own(os.memfd_create("test"))
        os.write(fd, text)
        return fd

    def take(self, child):
        """What the child got from the store, as descriptors of the test."""
        child.do(f"back.extend(range(3, {3 + len(child.names())}))")
        for fd in child.back:
            self.own(fd)
        return child.back

    def assert_closed(self, pipe, what=""):
        """Nobody has the other end of a pipe. pipe: closed."""
        poll = select.poll()
        poll.register(pipe, 0)
        self.assertTrue(poll.poll(evlink.PATIENCE * 1000), what)
        os.close(pipe)

    def fds(self):
        folder = f"/proc/{self.parent.pid}/fd"
        return {int(fd): os.readlink(os.path.join(folder, fd)) for fd in os.listdir(folder)}


class Store(Case):
    def test_kept(self):
        """In order, by name, and the files themselves."""
        child = self.ready()
        bell, text = self.eventfd(7), self.memfd(b"content")
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        child.store("bell", bell)
        child.store("text", text)
        child.store(None, theirs.fileno())
        child.store("a name, of " + "x" * 244, bell)
        theirs.close()
        for _ in range(3):
            child = self.after(child)
            self.assertEqual(child.names(), ["bell", "text", "stored", "a name, of " + "x" * 244])
            child.notify("READY=1")
        got = self.take(child)
        os.eventfd_write(bell, 1)
        self.assertEqual(os.eventfd_read(got[0]), 8)
        self.assertEqual(os.pread(got[1], 100, 0), b"content")
        os.write(got[2], b"through")
        self.assertEqual(ours.recv(100), b"through")
        os.eventfd_write(got[3], 3)
        self.assertEqual(os.eventfd_read(bell), 3)
        self.stop(child)

    def test_many(self):
        """64 in one message and in many, in order."""
        child = self.ready()
        child.store("all", *(self.eventfd(i + 1) for i in range(64)))
        child = self.after(child)
        self.assertEqual(child.names(), ["all"] * 64)
        self.assertEqual([os.eventfd_read(fd) for fd in self.take(child)], list(range(1, 65)))
        child.notify("FDSTOREREMOVE=1\nFDNAME=all")
        for i in range(64):
            child.store(f"n{i}", self.eventfd(i + 1))
        child = self.after(child)
        self.assertEqual(child.names(), [f"n{i}" for i in range(64)])
        self.assertEqual([os.eventfd_read(fd) for fd in self.take(child)], list(range(1, 65)))
        self.stop(child)

    def test_too_many(self):
        child = self.ready()
        before = self.fds()
        child.store("x", *(self.eventfd(i + 1) for i in range(60)))
        self.assertNotIn("cannot store", self.said())
        child.store("y", *(self.eventfd(i + 1) for i in range(10)))
        self.assertEqual(self.said().count("cannot store a descriptor named y"), 6)
        self.assertEqual(len(self.fds()), len(before) + 64)
        child.store("z", self.eventfd())
        self.assertIn("cannot store a descriptor named z", self.said())
        child = self.after(child)
        self.assertEqual(child.names(), ["x"] * 60 + ["y"] * 4)
        child.notify("FDSTOREREMOVE=1\nFDNAME=x")
        child.store("z", *(self.eventfd() for i in range(61)))
        child = self.after(child)
        self.assertEqual(child.names(), ["y"] * 4 + ["z"] * 60)
        child.notify("FDSTOREREMOVE=1\nFDNAME=y\nFDSTORE=1")
        child.notify("FDSTOREREMOVE=1\nFDNAME=z")
        # As many as a message can carry
        child.store("w", *([self.eventfd()] * 253))
        self.assertEqual(self.after(child).names(), ["w"])

    def test_few_descriptors(self):
        """Where the parent's own table is full, something is lost, and nothing else breaks."""
        child = self.ready()
        resource.prlimit(self.parent.pid, resource.RLIMIT_NOFILE, (72, 72))
        child.store("x", *(self.eventfd(i + 1) for i in range(10)))
        self.assertEqual(self.said().count("cannot store a descriptor named x"), 5)
        child.notify("FDSTORE=1", [self.eventfd()] * 70)
        self.assertIn("no room", self.said())
        child = self.after(child)
        self.assertEqual(child.names(), ["x"] * 5)
        self.assertEqual([os.eventfd_read(fd) for fd in self.take(child)], list(range(1, 6)))

    def test_removed(self):
        child = self.ready()
        before = self.fds()
        ours, theirs = os.pipe()
        child.store("a", self.eventfd(1), theirs)
        os.close(theirs)
        child.store("b", self.eventfd(2))
        child.store("a", self.eventfd(3))
        child.store("c", self.eventfd(4))
        child.notify("FDSTOREREMOVE=1")
        child.notify("FDSTOREREMOVE=1\nFDNAME=nothing")
        child.notify("FDSTOREREMOVE=0\nFDNAME=a")
        self.assertEqual(len(self.fds()), len(before) + 5)
        child.notify("FDNAME=a\nFDSTOREREMOVE=1")
        self.assert_closed(ours)
        child.store("d", self.eventfd(5))
        child = self.after(child)
        self.assertEqual(child.names(), ["b", "c", "d"])
        self.assertEqual([os.eventfd_read(fd) for fd in self.take(child)], [2, 4, 5])
        child.notify("FDSTOREREMOVE=1\nFDNAME=d")
        child.notify("FDSTOREREMOVE=1\nFDNAME=b")
        child.notify("FDSTOREREMOVE=1\nFDNAME=c")
        self.assertEqual(self.fds(), before)
        child = self.after(child)
        for variable in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
            self.assertNotIn(variable, child.environment)

    def test_bad_names(self):
        child = self.ready()
        for name in ("a:b", "a\tb", "\x7f", "\xe4", "x" * 256):
            child.store(name, self.eventfd())
        child.notify("FDSTOREREMOVE=1\nFDNAME=a:b")
        child.store("x" * 255, self.eventfd())
        self.assertEqual(self.after(child).names(), ["stored"] * 5 + ["x" * 255])

    def test_duplicates(self):
        child = self.ready()
        one, other = self.eventfd(1), self.eventfd(2)
        child.store("a", one, one, other, self.own(os.dup(one)))
        child.store("a", one)
        child.store("b", one)
        text = self.memfd(b"x")
        child.store("m", text)
        # The same inode is another file, with an offset of its own.
        child.store("m", self.own(os.open(f"/proc/self/fd/{text}", os.O_RDWR)))
        child = self.after(child)
        self.assertEqual(child.names(), ["a", "a", "b", "m", "m"])
        # What the child got is what is stored.
        child.do("notify('FDSTORE=1\\nFDNAME=a', [3]) or barrier()")
        child.do("notify('FDSTORE=1\\nFDNAME=m', [6, 7]) or barrier()")
        self.assertEqual(self.after(child).names(), ["a", "a", "b", "m", "m"])

    def test_last_words(self):
        """What it sends counts also where it is dead by the time that it is read."""
        child = self.ready(brief=0)
        for i in range(20):
            self.parent.send_signal(signal.SIGSTOP)
            child.start(f"notify('FDSTORE=1\\nFDNAME=n{i}', fds) or os._exit(1)", [self.eventfd()])
            child.wire.recv(1)
            self.parent.send_signal(signal.SIGCONT)
            child = self.next()
            self.assertEqual(child.names(), [f"n{j}" for j in range(i + 1)])

    def test_not_stored(self):
        """Descriptors of messages that do not store are closed."""
        child = self.ready()
        before = self.fds()
        for text in ("", "FDNAME=x", "FDSTORE=0", "FDSTORE=1\nBARRIER=1", "FDSTOREREMOVE=1\nFDSTORE=1", "READY=1"):
            ours, theirs = os.pipe()
            child.do(f"notify({text!r}, fds)", [theirs])
            os.close(theirs)
            self.assert_closed(ours, text)
        self.assertEqual(self.fds(), before)
        self.assertEqual(self.after(child).names(), [])

    def test_odd_messages(self):
        child = self.ready()
        for text in ("\n\n", "=", "MAINPID=1", "X=" + "y" * 4000, "STATUS=\x1b[1m%s%n", "\0\0", "FDNAME", "ERRNO=2"):
            child.notify(text)
        child.notify("X=" + "y" * 5000 + "\nFDSTORE=1", [self.eventfd()])
        child.notify("STATUS=x\n\nFDPOLL=1\nFDSTORE=1\nNONSENSE\nFDNAME=here\n", [self.eventfd()])
        self.assertIn("too long", self.said())
        self.assertEqual(self.after(child).names(), ["here"])


class Strangers(Case):
    def test_ignored(self):
        self.run_it(watchdog=0)
        child = self.next()
        before = self.fds()
        address = "\0" + child.environment["NOTIFY_SOCKET"][1:]
        self.assertRegex(child.environment["NOTIFY_SOCKET"], "^@")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            for text in (b"READY=1", b"FDSTORE=1\nFDNAME=x", b"BARRIER=1", b"WATCHDOG=trigger", b""):
                ours, theirs = os.pipe()
                socket.send_fds(sock, [text], [theirs])
                os.close(theirs)
                self.assert_closed(ours, text)
        # The child's children are strangers.
        child.do("in_fork(lambda: notify('READY=1') or notify('FDSTORE=1', [0]))")
        child.do("barrier()")
        self.assertEqual(self.fds(), before)
        child.store("mine", self.eventfd())
        # It was never ready.
        child.kill()
        self.assertEqual(self.wait(), 128 + signal.SIGKILL)

    def test_flood(self):
        """Who floods the socket slows it down, and no more."""
        child = self.ready(brief=0)
        over = threading.Event()

        def flood():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect("\0" + child.environment["NOTIFY_SOCKET"][1:])
                while not over.is_set():
                    with contextlib.suppress(OSError):
                        sock.send(b"FDSTORE=1\nFDNAME=x", socket.MSG_DONTWAIT)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            first = child
            for i in range(3):
                child.store(f"n{i}", self.eventfd())
                child = self.after(child)
                self.assertEqual(child.environment["NOTIFY_SOCKET"], first.environment["NOTIFY_SOCKET"])
                self.assertEqual(child.names(), [f"n{j}" for j in range(i + 1)])
            child.do("catch(15, 0)")
            self.parent.terminate()
            self.assertEqual(self.wait(), 0)
        finally:
            over.set()
            thread.join()


class Life(Case):
    def test_first(self):
        """What the first child gets, and what it does not."""
        left = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x", "EVLINK_LAST_END": "x", "OTHER": "y"}
        stray, _ = self.eventfd(), self.eventfd()
        os.set_inheritable(stray, True)
        child = self.ready(watchdog=3 * SECOND, environment=left, pass_fds=[stray])
        for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "EVLINK_LAST_END"):
            self.assertNotIn(name, child.environment)
        self.assertEqual(child.environment["OTHER"], "y")
        self.assertEqual(child.environment["WATCHDOG_PID"], str(child.pid))
        self.assertEqual(child.environment["WATCHDOG_USEC"], "3000000")
        self.assertEqual(child.hello["ppid"], self.parent.pid)
        self.assertEqual(child.hello["fds"], [0, 1, 2])
        self.assertEqual(child.hello["masks"]["SigBlk"], 0)
        self.stop(child)

    def test_signals_are_reset(self):
        def spoil():
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))

        child = self.ready(preexec_fn=spoil, restore_signals=False)
        # Python ignores two in the child, and glibc lets nobody touch its own: whoever spawned us ignores those.
        others = sum(1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ, 32, 33))
        ignored = child.hello["masks"]["SigIgn"] & ~others
        self.assertEqual((child.hello["masks"]["SigBlk"], ignored), (0, 0))
        self.stop(self.after(child))

    def test_first_fails(self):
        """A wrong option does not loop."""
        for text, status in (
            ("os._exit(3)", 3),
            ("os._exit(0)", 0),
            ("os.kill(os.getpid(), 9)", 128 + 9),
            ("notify('STATUS=x') or notify('READY=0') or os._exit(4)", 4),
        ):
            self.run_it()
            self.next().start(text)
            self.assertEqual(self.wait(), status)
        self.run_it("/nonexistent/program")
        self.assertEqual(self.wait(), 127)
        self.assertIn("/nonexistent/program", self.said())

    def test_first_is_ready_and_fails(self):
        """Ready is ready, also where it was read after the death only."""
        self.run_it()
        child = self.next()
        self.parent.send_signal(signal.SIGSTOP)
        child.start("notify('READY=1') or os._exit(1)")
        child.wire.recv(1)
        self.parent.send_signal(signal.SIGCONT)
        child = self.next()
        # From here on it does not give up on those that are not.
        for _ in range(3):
            child = self.after(child)
        self.stop(child)

    def test_last_end(self):
        child = self.ready(brief=0)
        self.assertIsNone(child.last_end())
        for text, wanted in (
            ("os._exit(1)", "exit status 1"),
            ("os._exit(0)", "exit status 0"),
            ("os._exit(255)", "exit status 255"),
            ("os.kill(os.getpid(), 9)", "SIGKILL"),
            ("os.kill(os.getpid(), 11)", "SIGSEGV"),
            ("os.kill(os.getpid(), 15)", "SIGTERM"),
            ("os.kill(os.getpid(), 40)", "signal 40"),
            ("notify('WATCHDOG=trigger') and 0", "SIGABRT after the watchdog struck"),
            ("catch(6, 7) or notify('WATCHDOG=trigger') and 0", "exit status 7 after the watchdog struck"),
            ("os.abort()", "SIGABRT"),
        ):
            child.start(text)
            child = self.next()
            self.assertEqual(child.last_end(), wanted)
            self.assertIn(f"ended: {wanted}: starting it again in 0 ms", self.said())

    def test_pauses(self):
        child = self.ready(brief=400 * MS, steady=800 * MS, pause_min=100 * MS, pause_max=300 * MS)
        # One that was ready is started again at once, and those after it are not ready.
        for _ in range(5):
            child = self.after(child)
        # It lived longer: no pause. And the next pause goes on where it was.
        time.sleep(0.5)
        child = self.after(child)
        child = self.after(child)
        # It lived long: the pauses begin anew.
        time.sleep(0.9)
        child = self.after(child)
        child = self.after(child)
        child = self.after(child)
        found = [int(ms) for ms in re.findall(r"again in (\d+) ms", self.said())]
        self.assertEqual(found, [0, 100, 200, 300, 300, 0, 300, 0, 100, 200])
        # And they are kept.
        began = time.monotonic()
        child = self.after(child)
        self.assertGreaterEqual(time.monotonic() - began, 0.3)

    def test_default_pauses(self):
        child = self.ready()
        began = time.monotonic()
        for _ in range(5):
            child = self.after(child)
        self.assertGreaterEqual(time.monotonic() - began, 1.5)
        self.assertEqual(re.findall(r"again in (\d+) ms", self.said()), ["0", "100", "200", "400", "800"])

    def test_nothing_grows(self):
        """200 deaths with something stored, and the parent is what it was."""
        child = self.ready(brief=0, watchdog=0)
        names = [f"n{i}" for i in range(20)]
        for name in names:
            child.store(name, self.eventfd())
        before = self.fds()
        memory = None
        for i in range(200):
            child = self.after(child)
            self.children.pop(0).wire.close()
            self.assertEqual(child.names(), names)
            if i == 100:  # with sanitizers it takes a while until it has what it wants
                memory = self.memory()
        self.assertEqual(self.fds(), before)
        self.assertLess(self.memory(), memory + 1024)
        self.assertEqual(len(glob.glob(f"/proc/{self.parent.pid}/task/*")), 1)

    def memory(self):
        with open(f"/proc/{self.parent.pid}/status", encoding="ascii") as file:
            return int(re.search(r"VmRSS:\s*(\d+)", file.read()).group(1))

    def test_orphans(self):
        """As a container's first process it is the parent of whoever has lost its own."""
        prctl = ctypes.CDLL(None).prctl
        child = self.ready(preexec_fn=lambda: prctl(SUBREAPER, 1, 0, 0, 0))
        orphan = child.do("os.fork() or (os.close(wire.fileno()), os.read(fds[0], 1), os._exit(0))[0]", [self._gate()])
        child = self.after(child)
        with open(f"/proc/{orphan}/stat", encoding="ascii") as file:
            self.assertEqual(int(file.read().split()[3]), self.parent.pid)
        os.close(self.gate)
        until_gone(orphan)
        child.store("x", self.eventfd())
        child = self.after(child)
        self.assertEqual(child.names(), ["x"])
        self.stop(child)

    def _gate(self):
        ours, self.gate = os.pipe()
        return self.own(ours)

    def test_parent_dies(self):
        """Then the child goes on, with nothing behind it."""
        child = self.ready()
        child.store("x", self.eventfd())
        self.parent.kill()
        self.parent.wait()
        self.assertNotEqual(child.do("os.getppid()"), self.parent.pid)
        with self.assertRaises(ConnectionRefusedError):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect("\0" + child.environment["NOTIFY_SOCKET"][1:])


class Stop(Case):
    def test_sockets(self):
        """What listens is removed, and nothing else."""
        child = self.ready()
        paths = [os.path.join(self.folder.name, name) for name in ("listens", "bound", "passed", "file")]
        listens, bound, passed = (socket.socket(socket.AF_UNIX) for _ in range(3))
        for sock, path in zip((listens, bound, passed), paths):
            self.addCleanup(sock.close)
            sock.bind(path)
        listens.listen()
        passed.listen()  # and is not stored
        file = self.own(os.open(paths[3], os.O_CREAT | os.O_RDWR))
        unnamed = self.own(socket.socketpair()[0].detach())
        abstract = socket.socket(socket.AF_UNIX)
        self.addCleanup(abstract.close)
        abstract.bind("")
        abstract.listen()
        for name, fd in zip("abcde", (listens.fileno(), bound.fileno(), file, unnamed, abstract.fileno())):
            child.store(name, fd)
        child.store("again", listens.fileno())
        self.stop(child)
        self.assertEqual([os.path.exists(path) for path in paths], [False, True, True, True])
        self.assertNotIn("cannot", self.said())

    def test_clean(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self.stop(self.ready(), number)
            self.assertIn(f"got {signal.Signals(number).name}: stopping", self.said())

    def test_status(self):
        child = self.ready()
        child.do("catch(15, 5)")
        self.parent.terminate()
        self.assertEqual(self.wait(), 5)
        self.ready()
        self.parent.terminate()
        self.assertEqual(self.wait(), 128 + signal.SIGTERM)

    def test_before_ready(self):
        self.run_it()
        child = self.next()
        self.stop(child)

    def test_deaf(self):
        """5 seconds, and no longer."""
        child = self.ready(watchdog=SECOND)
        child.do("_signal.signal(15, _signal.SIG_IGN) and 0")
        began = time.monotonic()
        self.parent.terminate()
        time.sleep(1)
        self.parent.terminate()
        self.assertEqual(self.wait(10), 128 + signal.SIGKILL)
        self.assertAlmostEqual(time.monotonic() - began, 5, delta=1)

    def test_in_a_pause(self):
        child = self.after(self.ready(pause_min=60 * SECOND, pause_max=60 * SECOND))
        child.start("os._exit(6)")
        evlink.until(lambda: "again in 60000 ms" in self.said(), "the pause")
        self.parent.terminate()
        self.assertEqual(self.wait(), 6)

    def test_together(self):
        """A terminal's ^C reaches both: whoever is first, the child is not started again."""
        for i in range(20):
            child = self.ready()
            child.do("catch(2, 0)")
            self.parent.send_signal(signal.SIGSTOP)
            pair = [child.pid, self.parent.pid]
            for pid in pair if i % 2 else reversed(pair):
                os.kill(pid, signal.SIGINT)
            self.parent.send_signal(signal.SIGCONT)
            self.assertEqual(self.wait(), 0)

    def test_others(self):
        child = self.ready(brief=0)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE, signal.SIGQUIT, 40):
            self.parent.send_signal(number)
        child.do("catch(1, 8)")
        self.parent.send_signal(signal.SIGHUP)
        child = self.next()
        self.assertEqual(child.last_end(), "exit status 8")
        self.stop(child)

    def test_nohup(self):
        child = self.ready(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        self.parent.send_signal(signal.SIGHUP)
        child.kill(signal.SIGHUP)
        child.do("barrier()")
        self.stop(child)


class Watchdog(Case):
    def test_silent(self):
        child = self.ready(watchdog=300 * MS, brief=0)
        child.store("x", self.eventfd())
        for _ in range(8):
            time.sleep(0.1)
            child.notify("WATCHDOG=1")
        began = time.monotonic()
        again = self.next()
        self.assertAlmostEqual(time.monotonic() - began, 0.3, delta=0.25)
        self.assertEqual(again.last_end(), "SIGABRT after the watchdog struck")
        self.assertEqual(again.names(), ["x"])
        self.assertIn(f"pid {child.pid} gave no sign of life in time: aborting it", self.said())
        # This one has not said READY=1, and so has patience's 30 seconds.
        time.sleep(0.6)
        again.do("barrier()")

    def test_stopped(self):
        """A stopped process does not hear SIGABRT."""
        child = self.ready(watchdog=300 * MS)
        began = time.monotonic()
        child.kill(signal.SIGSTOP)
        again = self.next()
        self.assertAlmostEqual(time.monotonic() - began, 1.3, delta=0.4)
        self.assertEqual(again.last_end(), "SIGKILL after the watchdog struck")
        self.assertIn(f"pid {child.pid} is still there: killing it", self.said())
        again.kill()
        self.assertEqual(self.next().last_end(), "SIGKILL")

    def test_never_ready(self):
        self.run_it(watchdog=100 * MS, patience=400 * MS)
        self.next().notify("STATUS=not yet")
        began = time.monotonic()
        self.assertEqual(self.wait(), 128 + signal.SIGABRT)
        self.assertAlmostEqual(time.monotonic() - began, 0.4, delta=0.3)
        self.assertIn("was not ready in time", self.said())

    def test_off(self):
        child = self.ready(watchdog=0, patience=100 * MS)
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            self.assertNotIn(name, child.environment)
        time.sleep(0.4)
        child.do("barrier()")
        # It can be had all the same.
        child.start("notify('WATCHDOG=trigger')")
        child = self.next()
        self.assertEqual(child.last_end(), "SIGABRT after the watchdog struck")
        child.notify("READY=1\nWATCHDOG_USEC=200000")
        child = self.next()
        self.assertEqual(child.last_end(), "SIGABRT after the watchdog struck")

    def test_changed(self):
        child = self.ready(watchdog=300 * MS)
        for bad in ("", "x", "-1", "1s", "99999999999999999999"):
            child.notify("WATCHDOG_USEC=" + bad)
        self.assertEqual(self.said().count("it is no time"), 5)
        child.notify("WATCHDOG_USEC=1000000")
        time.sleep(0.6)
        child.notify("WATCHDOG_USEC=0")
        time.sleep(1.2)
        child.do("barrier()")
        child.notify("WATCHDOG_USEC=5000000")
        # The next one begins with what the option says.
        child = self.after(child)
        self.assertEqual(child.environment["WATCHDOG_USEC"], "300000")

    def test_stopped_together(self):
        """^Z stops both, and so nobody is to blame."""
        child = self.ready(watchdog=300 * MS)
        for pid in (self.parent.pid, child.pid):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.6)
        for pid in (self.parent.pid, child.pid):
            os.kill(pid, signal.SIGCONT)
        child.notify("WATCHDOG=1")
        self.assertNotIn("aborting", self.said())


class Evlinkd(Case):
    """evlinkd --supervise itself."""

    def start(self, *options):
        broker = evlink.Broker(*options, folder=self.folder.name)
        self.addCleanup(broker.discard)
        return broker

    def child_of(self, broker):
        with open(f"/proc/{broker.pid}/task/{broker.pid}/children", encoding="ascii") as file:
            return int(file.read())

    def test_serves(self):
        broker = self.start("--superv", "--watchdog", "0", "-d", "--watchdog=0")
        child = self.child_of(broker)
        with open(f"/proc/{child}/cmdline", encoding="utf-8") as file:
            arguments = file.read().split("\0")[:-1]
        wanted = [broker.program(), *evlink.UNCONFIGURED, "--socket=" + broker.path, "--vault", "-d"]
        self.assertEqual(arguments, wanted)
        with open(f"/proc/{child}/comm", encoding="utf-8") as file:
            self.assertEqual(file.read(), "evlinkd\n")
        bell = self.eventfd()
        with broker.connect() as client:
            client.hold("bell", bell)
        for n in (1, 2):
            os.kill(self.child_of(broker), signal.SIGKILL)
            evlink.until(lambda: broker.said().count("back with ") == n, "the next one")
            with broker.connect() as client:
                client.call("Signal", {"name": "bell"})
            self.assertEqual(os.eventfd_read(bell), 1)
        broker.stop()

    def test_gives_signs_of_life(self):
        broker = self.start("--supervise", "--watchdog=0.5")
        child = self.child_of(broker)
        time.sleep(1.5)
        self.assertEqual(self.child_of(broker), child)
        os.kill(child, signal.SIGSTOP)
        evlink.until(lambda: "back with " in broker.said(), "the next one")
        self.assertIn("SIGKILL after the watchdog struck", broker.said())
        broker.stop()

    def test_socket_is_removed(self):
        """When it is stopped, and not when somebody else has it or may still get it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            broker = self.start("--supervise")
            path = broker.path
            before = os.stat(path).st_ino
            os.kill(self.child_of(broker), signal.SIGKILL)
            evlink.until(lambda: "back with " in broker.said(), "the next one")
            self.assertEqual(os.stat(path).st_ino, before)
            self.assertEqual(broker.end(number), 0)
            self.assertFalse(os.path.exists(path))
        # One that dies before it is ready has not bound it.
        first = self.start("--supervise")
        self.assertEqual(self.run_program("--supervise", "--socket=" + path).returncode, 1)
        first.connect().close()
        # A child whose parent is dead has it still, and the one who comes after that.
        child = self.child_of(first)
        first.process.kill()
        first.process.wait()
        first.connect().close()
        self.assertEqual(self.run_program("--supervise", "--socket=" + path).returncode, 1)
        os.kill(child, signal.SIGKILL)
        evlink.until(lambda: not os.path.exists(f"/proc/{child}"), "the child's end")
        self.start("--supervise").stop()
        self.assertFalse(os.path.exists(path))

    def test_cannot_start(self):
        first = self.start("--watchdog=0", "--supervise")
        second = self.run_program("--supervise", "--socket=" + first.path)
        self.assertEqual(second.returncode, 1)
        self.assertIn("another evlinkd", second.stderr)
        first.stop()

    def run_program(self, *arguments):
        return subprocess.run(
            [evlink.Broker.program(), *evlink.UNCONFIGURED, *arguments],
            capture_output=True,
            text=True,
            timeout=evlink.PATIENCE,
            check=False,
        )

    def test_arguments(self):
        for arguments in (
            ["--watchdog=1"],
            ["--supervise", "--watchdog"],
            ["--supervise", "--watchdog=x"],
            ["--supervise", "--watchdog=-1"],
            ["--supervise", "--watchdog="],
            ["--supervise", "--watchdog=1s"],
            ["--supervise=yes"],
            ["--supervise", "argument"],
            ["argument", "--supervise"],
            ["--supervise", "--nothing"],
            ["--supervise", "--agent-timeout=0"],
        ):
            answer = self.run_program(*arguments)
            self.assertEqual((answer.returncode, answer.stdout), (2, ""), arguments)
            self.assertTrue(answer.stderr)
        self.assertEqual(self.run_program("--supervise", "--version").returncode, 0)


if __name__ == "__main__":
    blackbox.main()
