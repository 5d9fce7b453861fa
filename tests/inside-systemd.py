#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""evlinkd as a service of systemd, as its units have it. Runs inside the systemd that tests/test-systemd boots, as
root, and nowhere else: it kills, stops and replaces the evlinkd of the machine that it is on.

Each test begins with a service that was stopped and started, and so holds nothing, and ends with one that was not
restarted more often than the test wanted."""
import contextlib
import glob
import importlib
import json
import math
import os
import pwd
import re
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unittest

import blackbox
import evlink

storm = importlib.import_module("test-blackbox-storm")

UNIT = "evlinkd.service"
SOCKET = "evlinkd.socket"
PATH = "/run/evlinkd/io.evlink.Broker"
PROGRAM = "/usr/sbin/evlinkd"

WATCHDOG_SECONDS = 2  # what test-systemd sets it to
STORED_AT_MOST = 16
CHILD_NICE = 10  # src/base/discard.c
SATURATED = 2**64 - 2
TENANT = 4321

# Longer than evlink.PATIENCE: a restart is in between.
PATIENCE = 15.0


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def systemctl(*arguments):
    return run("systemctl", *arguments)


def show(name, unit=UNIT):
    return systemctl("show", "--value", "--property=" + name, unit).strip()


def main_pid():
    return int(show("MainPID"))


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come")
        time.sleep(0.005)


def status_of(pid):
    """/proc/PID/status as a dictionary."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return {key: value.strip() for key, value in (line.split(":", 1) for line in file)}


def limit_of(pid, name):
    """(soft, hard) of /proc/PID/limits."""
    with open(f"/proc/{pid}/limits", encoding="ascii") as file:
        limits = re.search(rf"^{name}\s+(\w+)\s+(\w+)", file.read(), re.MULTILINE).groups()
    return tuple(math.inf if limit == "unlimited" else int(limit) for limit in limits)


def nice_values(name):
    """Those of all processes of this name."""
    found = set()
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(path, encoding="ascii") as file:
            comm, rest = file.read().split("(", 1)[1].rsplit(")", 1)
            if comm == name:
                found.add(int(rest.split()[16]))  # field 19 of proc(5)
    return found


def journal(*arguments):
    return [json.loads(line) for line in run("journalctl", "-o", "json", *arguments).splitlines()]


class Case(unittest.TestCase):
    maxDiff = None

    def run(self, result=None):
        bad = len(result.bad)
        self.began = time.time()
        super().run(result)
        if len(result.bad) > bad:
            for line in self.said().splitlines()[-40:]:
                print("# journal: " + line)

    def said(self):
        """What the service, and systemd about it, has written to the journal in this test."""
        run("journalctl", "--sync")
        return run("journalctl", "-u", UNIT, "-u", SOCKET, "-o", "short-monotonic", f"--since=@{self.began:.6f}")

    def setUp(self):
        if show("ActiveState") != "inactive":
            systemctl("stop", UNIT)
        systemctl("start", UNIT)
        self.assertEqual(show("NRestarts"), "0")
        self.restarts = 0
        self.held = {}  # name -> our copy
        self.links = {}
        self.addCleanup(self._see_that_it_lived)
        self.client = self.connect()
        status = self.client.call("Status")
        self.assertEqual([status[key] for key in ("eventfds", "links", "agents")], [0, 0, 0])

    def connect(self):
        connection = evlink.Connection(PATH, PATIENCE)
        self.addCleanup(connection.close)
        return connection

    def eventfd(self, count=0, flags=0):
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | flags)
        self.addCleanup(os.close, fd)
        if count:
            os.eventfd_write(fd, count)
        return fd

    # ---- What is held

    def hold(self, name, *arguments):
        fd = self.eventfd(*arguments)
        self.client.hold(name, fd)
        self.held[name] = fd

    def hold_all_kinds(self):
        self.hold("empty")
        self.hold("counted", 7)
        self.hold("semaphore", 3, os.EFD_SEMAPHORE)
        # poll says EPOLLERR or nothing of it, whichever systemd would take for its end
        self.hold("saturated", SATURATED)
        self.client.hold("made")
        self.client.call("Signal", {"name": "made", "count": 5})
        self.held["made"] = self.client.claim("made")
        self.addCleanup(os.close, self.held["made"])
        self.assert_held()

    def assert_held(self):
        """The service holds what it should: these names, these eventfds, and what we see in our copies."""
        with evlink.Connection(PATH, PATIENCE) as client:
            told = client.list("Eventfds")
        keys = ("pending", "eventfdId", "semaphore")
        found = {name: tuple(each.get(key) for key in keys) for name, each in told.items()}
        wanted = {name: evlink.fdinfo(fd) for name, fd in self.held.items()}
        # a counter of more than an int64 is told as the greatest of those
        wanted = {name: (min(count, 2**63 - 1), *rest) for name, (count, *rest) in wanted.items()}
        self.assertEqual(found, wanted)

    # ---- Restarts

    def reconnect(self):
        """A connection to a service that has been started anew, once it answers."""
        self.client.close()
        self.client = self.connect()
        return self.client.call("Status")

    def assert_restored(self):
        status = self.reconnect()
        self.assertTrue(status["durable"])
        self.assertEqual(status["restoredEventfds"], len(self.held))
        self.assertEqual(status["restoredLinks"], len(self.links))
        self.assert_held()

    def kill(self, number=signal.SIGKILL):
        """Ends the main process; systemd starts another one."""
        pid = main_pid()
        self.assertGreater(pid, 1)
        os.kill(pid, number)
        self.restarts += 1
        until(lambda: main_pid() not in (0, pid) and show("ActiveState") == "active", "a restart")

    def restart(self):
        systemctl("restart", UNIT)
        self.restarts = 0  # systemd counts its own alone

    def _see_that_it_lived(self):
        self.assertEqual(show("ActiveState", SOCKET), "active")
        self.assertEqual((show("ActiveState"), show("Result")), ("active", "success"))
        self.assertEqual(int(show("NRestarts")), self.restarts)
        # The bits of the journal that tell of a system call that the filter does not let through
        said = self.said()
        for sign in ("status=31/SYS", "AddressSanitizer", "runtime error:"):
            self.assertNotIn(sign, said)


class Units(Case):
    def test_activation(self):
        """The first connection starts it."""
        systemctl("stop", UNIT)
        self.assertEqual(show("ActiveState"), "inactive")
        self.assertEqual((show("ActiveState", SOCKET), show("SubState", SOCKET)), ("active", "listening"))
        self.reconnect()
        self.assertEqual(show("ActiveState"), "active")
        self.hold_all_kinds()

    def test_many_activations(self):
        """However often it is started: the socket stays."""
        for _ in range(25):
            systemctl("stop", UNIT)
            self.reconnect()

    def test_socket(self):
        """All may connect, and only root may put something else there. It stays when the service stops."""
        for path, mode in ((PATH, stat.S_IFSOCK | 0o666), (os.path.dirname(PATH), stat.S_IFDIR | 0o755)):
            status = os.lstat(path)
            self.assertEqual((oct(status.st_mode), status.st_uid, status.st_gid), (oct(mode), 0, 0), path)
        inode = os.lstat(PATH).st_ino
        systemctl("restart", UNIT)
        systemctl("stop", UNIT)
        self.assertEqual(os.lstat(PATH).st_ino, inode)
        self.reconnect()

    def test_privileges(self):
        user = pwd.getpwnam("evlinkd")
        status = status_of(main_pid())
        self.assertNotEqual(user.pw_uid, 0)
        self.assertEqual(status["Uid"].split(), [str(user.pw_uid)] * 4)
        self.assertEqual(status["Gid"].split(), [str(user.pw_gid)] * 4)
        self.assertEqual(status["Groups"], str(user.pw_gid))
        for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(status[which], 16), 0, which)
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))

    def test_exposure(self):
        said = run("systemd-analyze", "security", "--offline=no", "--no-pager", UNIT)
        exposure = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", said).group(1))
        print(f"# exposure {exposure}")
        self.assertLessEqual(exposure, 0.5)

    def test_sandbox(self):
        pid = main_pid()
        for space in ("net", "mnt", "ipc", "uts"):
            self.assertNotEqual(os.readlink(f"/proc/{pid}/ns/{space}"), os.readlink(f"/proc/self/ns/{space}"), space)
        # or peers would have other pids and uids than they have
        for space in ("user", "pid"):
            self.assertEqual(os.readlink(f"/proc/{pid}/ns/{space}"), os.readlink(f"/proc/self/ns/{space}"), space)
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as file:
            mounts = {line.split()[4]: line.split()[5].split(",") for line in file}
        self.assertIn("ro", mounts["/"])
        devices = os.listdir(f"/proc/{pid}/root/dev")
        self.assertIn("zero", devices)
        self.assertNotIn("kvm", devices)

    def test_limits(self):
        pid = main_pid()
        # as much as systemd itself may give, where that is less than the unit says
        files = min(1048576, resource.getrlimit(resource.RLIMIT_NOFILE)[1], limit_of(1, "Max open files")[1])
        print(f"# at most {files} descriptors")
        # the last 512 are lent to what is received
        self.assertEqual(limit_of(pid, "Max open files"), (files - 512, files))
        # a page for each delegated connection, and four of the vault
        settings = {setting["key"]: setting["value"] for setting in self.client.call("GetConfig")["settings"]}
        locked = 4096 * (int(settings["MaxConnections"]) + 4)
        locked = min(locked, limit_of(1, "Max locked memory")[1])
        print(f"# at most {limit_of(pid, 'Max locked memory')[0]} bytes locked, wanted {locked}")
        self.assertGreaterEqual(limit_of(pid, "Max locked memory")[0], locked)

    def test_peers(self):
        """Clients are who they are, not nobody, and see what is theirs."""
        theirs = evlink.connect_as(PATH, TENANT)
        self.addCleanup(theirs.close)
        theirs.hold("theirs")
        self.client.hold("ours")
        listed = self.client.list("Eventfds")
        self.assertEqual((listed["theirs"]["owner"]["uid"], listed["theirs"]["owner"]["gid"]), (TENANT, TENANT))
        self.assertEqual((listed["ours"]["owner"]["uid"], listed["ours"]["owner"]["pid"]), (0, os.getpid()))
        self.assertEqual(list(theirs.list("Eventfds")), ["theirs"])

    def test_work(self):
        """All that it does gets through the filter of system calls: which kills it here where one does not."""
        pid = main_pid()
        self.hold_all_kinds()
        for name in ("from", "one", "two"):
            self.hold(name)
        link = self.client.connect(["eventfd/from"], ["eventfd/one", "eventfd/two"], name="fan-out")
        self.assertEqual((link["state"], link["relayed"]), ("linked", True))
        total = 0
        for count in (1, 8, 9, 1000):
            os.eventfd_write(self.held["from"], count)
            self.client.call("Signal", {"name": "from", "count": count})
            total += 2 * count
            until(
                lambda: [evlink.fdinfo(self.held[name])[0] for name in ("one", "two")] == [total] * 2,
                f"a count of {total} at both ends",
            )
        # An end that is full: written to under the interval timer
        self.assertEqual(os.eventfd_read(self.held["one"]), total)
        os.eventfd_write(self.held["one"], SATURATED)
        os.eventfd_write(self.held["from"], 100)
        until(lambda: evlink.fdinfo(self.held["two"])[0] == total + 100, "a count beside a full end")
        # Descriptors that are closed by somebody else than the loop
        read, write = os.pipe()
        ours, theirs = socket.socketpair()
        others = [read, write, theirs.fileno(), os.memfd_create("x"), os.pidfd_open(os.getpid())]
        for fd in others:
            with self.assertRaises(evlink.Error) as caught:
                self.client.hold("x", fd)
            self.assertEqual(caught.exception.name, "NotAnEventfd")
        theirs.close()
        for fd in (write, *others[3:]):
            os.close(fd)
        # They are closed over there too,
        for fd, name in ((read, "the pipe"), (ours.fileno(), "the socket")):
            events = select.poll()
            events.register(fd, 0)
            self.assertEqual(events.poll(1000 * PATIENCE), [(fd, select.POLLHUP)], name)
        ours.close()
        os.close(read)

        # and by children that let others go first. Each is gone when it has had nothing to do for a moment.
        def one_that_closes():
            with tempfile.TemporaryFile() as file, contextlib.suppress(evlink.Error):
                self.client.hold("x", file.fileno())
            return nice_values("evlinkd-close") == {CHILD_NICE}

        until(one_that_closes, "a child with a nice value of its own")
        agent = evlink.Agent.attach(self.client, "agent", {"vm": None})
        self.addCleanup(agent.hang_up)
        direct = self.client.connect(["kvm/vm/pio/0x510"], ["kvm/vm/gsi/5"], name="direct")
        self.assertEqual(direct["state"], "linked")
        for name in ("fan-out", "direct"):
            self.client.call("Disconnect", {"name": name})
        self.assertEqual(main_pid(), pid)

    def test_reload(self):
        pid = main_pid()
        self.hold_all_kinds()
        for _ in range(3):
            systemctl("reload", UNIT)
            until(lambda: show("SubState") == "running", "the end of the reload")
            self.assert_held()
        self.assertEqual(main_pid(), pid)

    def test_journal(self):
        """Messages go to the journal with their priorities, and not through a pipe."""
        systemctl("restart", UNIT)
        self.reconnect()
        pid = str(main_pid())
        run("journalctl", "--sync")
        found = journal("_PID=" + pid, "_SYSTEMD_UNIT=" + UNIT)
        self.assertTrue(found)
        for entry in found:
            self.assertEqual(entry["_TRANSPORT"], "journal")
            self.assertEqual(entry["SYSLOG_IDENTIFIER"], "evlinkd")
            self.assertEqual(entry["_UID"], str(pwd.getpwnam("evlinkd").pw_uid))
            self.assertIn(entry["PRIORITY"], "01234567")
            self.assertNotIn("evlinkd: ", entry["MESSAGE"])


class Durable(Case):
    """What is held outlives the process that holds it."""

    def test_sigkill(self):
        self.hold_all_kinds()
        self.kill()
        self.assert_restored()

    def test_delegated(self):
        """A delegated connection goes on as agents' sockets do."""
        self.client.call("Delegate", {"scope": "web", "endpoints": ["kvm/v"]})
        tenant = evlink.Connection(socket.socket(fileno=self.client.take()))
        self.addCleanup(tenant.close)
        tenant.hold("web.a")
        for name in ("web.b", "web.c"):
            self.kill()
            tenant.hold(name)
        self.assertEqual(set(tenant.list("Eventfds")), {"web.a", "web.b", "web.c"})
        self.reconnect()
        for name in ("web.a", "web.b", "web.c"):
            self.client.call("Release", {"name": name})

    def test_status_text(self):
        """What `systemctl status` shows."""
        self.hold_all_kinds()
        self.kill()
        self.assert_restored()
        print(f"# {show('StatusText')!r}")
        self.assertTrue(show("StatusText"))

    def test_signals_meanwhile(self):
        """Eventfds work while nobody is there, and clients that come then are served afterwards."""
        self.hold("a", 1)
        pid = main_pid()
        os.kill(pid, signal.SIGKILL)
        self.restarts += 1
        os.eventfd_write(self.held["a"], 41)
        self.assert_restored()
        self.assertEqual(self.client.list("Eventfds")["a"]["pending"], 42)
        until(lambda: show("ActiveState") == "active", "the service")

    def test_nobody_else_has_it(self):
        """The vault's reference is the only one."""
        self.client.hold("a")
        self.client.call("Signal", {"name": "a", "count": 23})
        before = self.client.list("Eventfds")
        self.kill()
        self.reconnect()
        self.assertEqual(self.client.list("Eventfds"), before)

    def test_store_is_small(self):
        """A few descriptors, whatever is held: systemd compares each new one with all that it has."""
        stored = int(show("NFileDescriptorStore"))
        print(f"# {stored} descriptors are stored")
        self.assertGreater(stored, 0)
        self.assertLessEqual(stored, STORED_AT_MOST)
        for i in range(300):
            self.hold(f"e{i}")
        self.kill()
        self.assert_restored()
        self.assertEqual(int(show("NFileDescriptorStore")), stored)

    def test_released_stays_released(self):
        self.hold_all_kinds()
        self.client.call("Release", {"name": "counted"})
        del self.held["counted"]
        self.kill()
        self.assert_restored()

    def test_restart(self):
        self.hold_all_kinds()
        for _ in range(3):
            self.restart()
            self.assert_restored()

    def test_sigterm(self):
        """Only systemd's stop is one."""
        self.hold_all_kinds()
        self.kill(signal.SIGTERM)
        self.assert_restored()

    def test_socket_restart(self):
        """It restarts the service with it, as an upgrade of the package may."""
        self.hold_all_kinds()
        systemctl("restart", SOCKET)
        self.restarts = 0
        self.assert_restored()
        systemctl("restart", SOCKET, UNIT)
        self.assert_restored()

    def test_daemon_reload(self):
        pid = main_pid()
        self.hold_all_kinds()
        systemctl("daemon-reload")
        self.assertEqual(main_pid(), pid)
        self.assert_held()
        self.kill()
        self.assert_restored()

    def test_daemon_reexec(self):
        pid = main_pid()
        self.hold_all_kinds()
        systemctl("daemon-reexec")
        self.assertEqual(main_pid(), pid)
        self.assert_held()
        self.kill()
        self.assert_restored()

    def test_watchdog(self):
        """One that hangs is replaced, and one that does not hang is not."""
        self.hold_all_kinds()
        pid = main_pid()
        time.sleep(1.2 * WATCHDOG_SECONDS)
        self.assertEqual(main_pid(), pid)
        os.kill(pid, signal.SIGSTOP)
        self.restarts += 1
        until(lambda: show("NRestarts") == "1", "the watchdog")
        self.assert_restored()
        self.assertIn("Watchdog timeout", self.said())

    def test_thirty_kills(self):
        """At any moment, while it starts as well: systemd never gives up."""
        self.hold_all_kinds()
        for i in range(30):
            until(main_pid, "a main process")
            pid = main_pid()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            until(lambda: main_pid() != pid, "the end")
            if i % 3 == 0:
                self.reconnect()
                self.hold(f"e{i}", i)
        self.restarts = 30
        until(lambda: show("ActiveState") == "active", "the service")
        self.assert_restored()

    def test_stop_loses(self):
        """That is how to clear it on purpose."""
        self.hold_all_kinds()
        began = time.monotonic()
        systemctl("stop", UNIT)
        self.assertLess(time.monotonic() - began, 2)
        self.assertEqual((show("Result"), show("ExecMainStatus")), ("success", "0"))
        self.assertEqual(show("NFileDescriptorStore"), "0")
        systemctl("start", UNIT)
        self.held.clear()
        self.assert_restored()
        self.hold_all_kinds()
        self.kill()
        self.assert_restored()

    def test_upgrade(self):
        """Another build at the same path, while state is held."""
        new = PROGRAM + ".new"
        shutil.copy2(PROGRAM, PROGRAM + ".old")
        self.addCleanup(os.rename, PROGRAM + ".old", PROGRAM)
        shutil.copy2(PROGRAM, new)
        if shutil.which("strip"):
            run("strip", new)
        else:
            with open(new, "ab") as file:
                file.write(b"\0")
        self.hold_all_kinds()
        os.rename(new, PROGRAM)
        self.restart()
        self.assert_restored()
        self.assertTrue(os.path.samefile(f"/proc/{main_pid()}/exe", PROGRAM))
        self.hold("more")
        # and back
        os.rename(PROGRAM + ".old", PROGRAM)
        shutil.copy2(PROGRAM, PROGRAM + ".old")
        self.kill()
        self.assert_restored()

    def test_links(self):
        """Links come back as they were, and their agents do not notice."""
        self.hold_all_kinds()
        self.hold("one")
        agent = evlink.Agent.attach(self.client, "agent", {"vm": None})
        self.addCleanup(agent.hang_up)
        self.client.connect(["kvm/vm/pio/0x510"], ["kvm/vm/gsi/5"], name="direct")
        self.client.connect(["eventfd/empty"], ["eventfd/one", "kvm/vm/gsi/6"], name="relayed")
        self.client.connect(["eventfd/made"], ["kvm/nowhere/gsi/5"], name="waits", group="group")
        self.links = self.client.list("Links")
        self.assertEqual(
            {name: link["state"] for name, link in self.links.items()},
            {"direct": "linked", "relayed": "linked", "waits": "waiting"},
        )
        plugged = dict(agent.plugged)
        for how in (self.kill, self.restart, self.kill):
            how()
            self.reconnect()
            until(lambda: self.client.list("Links") == self.links, f"the links as they were: {self.links}")
            self.assert_restored()
            self.assertEqual(agent.plugged, plugged)
            os.eventfd_write(self.held["empty"], 2)
            until(lambda: evlink.fdinfo(self.held["empty"])[0] == 0, "the relay")
        until(lambda: evlink.fdinfo(self.held["one"])[0] >= 6, "what was relayed")
        self.client.call("Disconnect", {"name": "direct"})
        self.assertEqual(len(agent.plugged), len(plugged) - 2)

    def test_four_thousand(self):
        """Under 2 s, as a user without privileges, whom the kernel counts descriptors in sockets against."""
        names = [f"e{i:04}" for i in range(4000)]
        for start in range(0, len(names), 250):
            part = names[start : start + 250]
            fds = [self.eventfd(i % 10) for i in range(len(part))]
            self.client.call("HoldMany", {"names": part}, fds)
            self.held.update(zip(part, fds))
        for how in (self.restart, self.kill):
            began = time.monotonic()
            how()
            status = self.reconnect()
            took = time.monotonic() - began
            print(f"# 4000 eventfds, {how.__name__}: {took:.2f} s")
            self.assertEqual(status["restoredEventfds"], 4000)
            self.assertLess(took, 2)
            self.assert_restored()


class Service:
    """The service, as test-blackbox-storm.py wants its broker."""

    path = PATH

    def __init__(self, *_, **__):
        self.began = time.time()
        self.deaths = []
        self.pid = main_pid()

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)
        self.deaths.append(number)
        until(lambda: main_pid() not in (0, self.pid), "a restart")
        self.pid = main_pid()

    @property
    def stored(self):
        return [None] * int(show("NFileDescriptorStore"))

    def connect(self):
        return evlink.Connection(PATH, PATIENCE)

    def said(self):
        return run("journalctl", "-u", UNIT, f"--since=@{self.began:.6f}")

    def stop(self):
        systemctl("stop", UNIT)


class Storm(storm.Storm):
    """The storm of test-blackbox-storm.py, with the installed units."""

    test_supervised = None

    @blackbox.needs_kvm
    def test_storm(self):
        systemctl("stop", UNIT)
        systemctl("start", UNIT)
        self.keep(Service)
        self.storm(60)


if __name__ == "__main__":
    if os.path.basename(os.readlink("/proc/1/exe")) != "systemd" or not os.path.exists("/test/installed"):
        print("SKIP: only for the systemd of tests/test-systemd")
        sys.exit(77)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    blackbox.main()
