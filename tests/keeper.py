# SPDX-License-Identifier: LGPL-2.1-or-later
"""A service manager for tests: starts evlinkd --vault, keeps what it stores, and starts it again with that as soon as
it is dead. Serves as much of sd_notify(3) as evlinkd asks for."""
import array
import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import tempfile
import threading
import unittest

import blackbox
import evlink


class Keeper:
    """options: evlinkd's; uid: who it runs as; nofile: its limit of descriptors; environment: more of it; stored: what
    an earlier one had stored, [(name, descriptor)], consumed; wrapper: a command that it is run by."""

    def __init__(self, *options, program=None, uid=None, nofile=None, environment=None, stored=(), wrapper=()):
        self.folder = tempfile.mkdtemp(prefix="evlinkd-test-")
        os.chmod(self.folder, 0o755)
        if uid is not None:
            os.chown(self.folder, uid, uid)
        self.path = os.path.join(self.folder, "socket")
        self.command = [*wrapper, program or evlink.Broker.program(), *evlink.UNCONFIGURED]
        self.command += ["--vault", "--socket=" + self.path, *options]
        self.uid = uid
        self.nofile = nofile
        self.stored = list(stored)  # (name, descriptor)
        self.deaths = []  # wait statuses
        self.restart = True
        self.ready = threading.Event()
        self.errors = open(os.path.join(self.folder, "log"), "w+b")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind("")  # a name of the kernel's choice
        self.environment = dict(os.environ, NOTIFY_SOCKET="@" + self.notify.getsockname()[1:].decode())
        self.environment.update(environment or {})
        self.environment.pop("JOURNAL_STREAM", None)
        self.changed = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()
        self._start()
        self.waiter = threading.Thread(target=self._wait, daemon=True)
        self.waiter.start()
        if not self.ready.wait(evlink.PATIENCE):
            raise TimeoutError(f"evlinkd does not get ready: {self.said()}")

    def _listen(self):
        """What the daemon says."""
        while True:
            try:
                data, ancillary, _, _ = self.notify.recvmsg(4096, socket.CMSG_SPACE(253 * 4))
            except OSError:
                return
            fds = array.array("i")
            for _, _, content in ancillary:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            lines = data.decode().split("\n")
            said = dict(line.split("=", 1) for line in lines if "=" in line)
            if said.get("FDSTORE") == "1":
                self.stored += [(said["FDNAME"], fd) for fd in fds]
                continue
            if said.get("FDSTOREREMOVE") == "1":
                for name, fd in [each for each in self.stored if each[0] == said["FDNAME"]]:
                    os.close(fd)
                    self.stored.remove((name, fd))
            if said.get("READY") == "1":
                self.ready.set()
            evlink.close_all(fds)

    def _start(self):
        # What is to be 3, 4, ... is first moved out of the way of that.
        fds = [os.dup(fd) for _, fd in self.stored]
        os.lseek(self.errors.fileno(), 0, os.SEEK_END)
        environment = dict(self.environment)
        if fds:
            environment.update(
                LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=":".join(name for name, _ in self.stored)
            )
        pid = os.fork()
        if pid == 0:
            try:
                errors = os.dup2(self.errors.fileno(), 2000)
                high = [os.dup2(fd, 1000 + i) for i, fd in enumerate(fds)]
                os.closerange(3, 1000)
                for i, fd in enumerate(high):
                    os.dup2(fd, 3 + i)
                    os.close(fd)
                os.dup2(errors, 2)
                os.close(errors)
                environment["LISTEN_PID"] = str(os.getpid())
                if self.nofile:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (self.nofile, self.nofile))
                if self.uid is not None:
                    os.setgroups([])
                    os.setgid(self.uid)
                    os.setuid(self.uid)
                os.execve(self.command[0], self.command, environment)
            finally:
                os._exit(127)
        evlink.close_all(fds)
        self.pid = pid

    def _wait(self):
        while True:
            _, status = os.waitpid(self.pid, 0)
            self.deaths.append(status)
            with self.changed:
                self.changed.notify_all()
            if not self.restart:
                return
            if len(self.deaths) > 100 and self.deaths[-100:].count(256) == 100:
                return  # it does not start
            self.ready.clear()
            self._start()

    def kill(self, number=signal.SIGKILL):
        """Kills it and waits until that is done."""
        n = len(self.deaths)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        self.wait_deaths(n + 1)

    def wait_deaths(self, n):
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.deaths) >= n, evlink.PATIENCE):
                raise TimeoutError(f"evlinkd has died {len(self.deaths)} times, not {n}: {self.said()}")

    def connect(self, timeout=evlink.PATIENCE):
        return evlink.Connection(self.path, timeout)

    def said(self):
        return os.pread(self.errors.fileno(), 1 << 24, 0).decode(errors="replace")

    def fds(self):
        """{number: what it is} of the daemon's descriptors."""
        return evlink.fds_of(self.pid)

    def stop(self):
        """Ends it for good."""
        self.restart = False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        self.waiter.join(evlink.PATIENCE)
        if self.waiter.is_alive():
            os.kill(self.pid, signal.SIGKILL)
            self.waiter.join()
        self.notify.shutdown(socket.SHUT_RDWR)
        self.notify.close()
        evlink.close_all(fd for _, fd in self.stored)
        self.stored = []
        said = self.said()
        self.errors.close()
        shutil.rmtree(self.folder)
        for sign in ("AddressSanitizer", "LeakSanitizer", "runtime error:"):
            if sign in said:
                raise RuntimeError(f"evlinkd said:\n{said}")
        return said


class Supervised:
    """The same with evlinkd --supervise as the service manager."""

    def __init__(self, *options, program=None, uid=None, nofile=None):
        def become():
            resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)

        self.folder = tempfile.mkdtemp(prefix="evlinkd-test-")
        if uid is not None:
            os.chown(self.folder, uid, uid)
        self.broker = evlink.Broker("--supervise", *options, program=program, folder=self.folder, preexec_fn=become)
        self.path = self.broker.path
        self.deaths = []
        self.pid = self._child()

    def _child(self):
        with open(f"/proc/{self.broker.pid}/task/{self.broker.pid}/children", encoding="ascii") as file:
            pids = [int(pid) for pid in file.read().split()]
        return pids[0] if pids else None

    def kill(self, number=signal.SIGKILL):
        old = self.pid
        os.kill(old, number)
        evlink.until(lambda: self._child() not in (None, old), "the next child")
        self.pid = self._child()
        self.deaths.append(number)

    @property
    def stored(self):
        """What is in the store, as far as the log says."""
        counts = re.findall(r"started pid \d+, stored descriptors: (\d+)", self.said())
        return [None] * int(counts[-1])

    def connect(self, timeout=evlink.PATIENCE):
        return self.broker.connect(timeout)

    def said(self):
        return self.broker.said()

    def stop(self):
        self.broker.end()
        shutil.rmtree(self.folder, ignore_errors=True)


class Case(blackbox.Case):
    """A test case whose broker is started again whenever it dies."""

    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass

    def setUp(self):
        self.client = None

    def keep(self, *options, **more):
        self.broker = Keeper(*options, **more)
        self.addCleanup(self.broker.stop)
        self.reconnect()

    def reconnect(self):
        if self.client:
            self.client.close()
        self.client = self.connect()

    def kill(self, number=signal.SIGKILL):
        self.broker.kill(number)
        self.reconnect()


@unittest.skipUnless(os.environ.get("EVLINKD_CRASH"), "there is no evlinkd with crash points: run make check")
class CrashCase(Case):
    """The same with an evlinkd that is killed at one crash point after the other:

    for n in self.crash_points():
        self.set_point(n)
        ...  # what is to be killed at the n-th
        self.crashed()
    """

    def setUp(self):
        super().setUp()
        self.point = tempfile.NamedTemporaryFile(mode="w+", suffix=".point")
        self.addCleanup(self.point.close)
        self.log = tempfile.NamedTemporaryFile(mode="r", suffix=".reached")
        self.addCleanup(self.log.close)
        self.keep(
            program=os.environ["EVLINKD_CRASH"],
            environment={"EVLINK_CRASH_FILE": self.point.name, "EVLINK_CRASH_LOG": self.log.name},
        )

    def set_point(self, n):
        self.n_deaths = len(self.broker.deaths)
        with open(self.point.name, "w", encoding="ascii") as file:
            file.write(str(n) if n else "")

    def crash_points(self, least=1):
        """1, 2, ... up to the first that is not reached, and that is more than least."""
        n = 0
        self.is_over = False
        while not self.is_over:
            n += 1
            self.assertLess(n, 1000, "there is no end to it")
            yield n
        self.assertGreater(n, least)

    def crashed(self, deaths=1):
        """What was to be killed is done, or has failed. Whether it was killed: then the next broker is there."""
        self.is_over = os.path.getsize(self.point.name) > 0
        if not self.is_over:
            self.broker.wait_deaths(self.n_deaths + deaths)
            self.reconnect()
        self.set_point(0)
        return not self.is_over

    def reached(self):
        """Where it was killed."""
        with open(self.log.name, encoding="ascii") as file:
            return set(file.read().split("\n"))
