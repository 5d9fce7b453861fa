#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that has the pid of a dead one is another process: nobody takes it for the agent's, and what is owed to the
agent's successor is not kept back since somebody has its number.

The processes here are children that make a connection and hand it to the test, which attaches an agent through it. So
evlinkd has a pid of theirs, and the agent is the test's own. Pids are chosen with clone3(2), which takes root."""
import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
import time
import unittest

import blackbox
import evlink
import keeper

SYS_CLONE3 = 435  # the same everywhere

GSI = "kvm/w/gsi/5"


def fork_as(pid):
    """fork() with the pid that the child is to have."""
    # Not CDLL, which lets go of the interpreter's lock: it would be held in the child for ever.
    libc = ctypes.PyDLL(None, use_errno=True)
    wanted = ctypes.c_int(pid)
    # struct clone_args: exit_signal is the fifth, set_tid and set_tid_size the ninth and the tenth.
    arguments = struct.pack("11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
    child = libc.syscall(SYS_CLONE3, ctypes.c_char_p(arguments), ctypes.c_size_t(len(arguments)))
    if child < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"no process with pid {pid}: {os.strerror(code)}")
    return child


class Process:
    """A child that connects to evlinkd, hands the connection over, and has nothing of ours from then on."""

    def __init__(self, path, pid=None, uid=0):
        ours, theirs = socket.socketpair()
        self.pid = os.fork() if pid is None else fork_as(pid)
        if self.pid == 0:
            try:
                os.setresuid(uid, uid, uid)
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.connect(path)
                socket.send_fds(theirs, [b"x"], [sock.fileno()])
                os.execvp("sleep", ["sleep", "1000"])
            finally:
                os._exit(1)
        theirs.close()
        with ours:
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
            ours.recv(1)  # until it has closed what it had of ours
        self.connection = evlink.Connection(socket.socket(fileno=fds[0]))

    def kill(self):
        """And reaps it: its pid is free."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.pid = None


def can_choose_pids():
    probe = os.fork()
    if probe == 0:
        os._exit(0)
    os.waitpid(probe, 0)
    try:
        child = fork_as(probe)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS, errno.EINVAL):
            return False
        raise
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0) == (probe, 0)


@unittest.skipUnless(can_choose_pids(), "pids cannot be chosen here: it takes root, and Linux 5.5")
class Case(blackbox.Case):
    def process(self, pid=None, uid=0):
        process = Process(self.broker.path, pid, uid)
        self.addCleanup(process.kill)
        self.addCleanup(process.connection.close)
        return process

    def attach_from(self, process, watched):
        """An agent that says to be of that process, by its pidfd too where it is to be watched."""
        more = {}
        if watched:
            more = {"fds": [self.own(os.pidfd_open(process.pid))], "pidfdFileDescriptorIndex": 0}
        agent = self.attach("p", {"w": None}, process.connection, **more)
        self.assertEqual(self.client.list("Agents")["p"]["owner"]["pid"], process.pid)
        return agent

    def linked(self, process, watched):
        """An agent of the process, with a link. Returns the agent and the link's eventfd."""
        agent = self.attach_from(process, watched)
        fd = self.eventfd()
        self.client.hold("x", fd)
        self.client.connect(["eventfd/x"], [GSI], name="l")
        self.assertEqual(self.link("l")["state"], "linked")
        return agent, fd

    def replace(self, process, uid=0):
        """Kills it, and has a stranger have its pid."""
        pid = process.pid
        process.kill()
        stranger = self.process(pid, uid)
        self.assertEqual(stranger.pid, pid)
        return stranger

    def assert_nobody(self, stranger, fd):
        """The link waits for an agent, has what it is signalled, and the stranger is not named."""
        self.wait_link("l", "waiting")
        self.assertEqual(self.client.list("Agents"), {})
        os.eventfd_write(fd, 2)
        self.assert_count(fd, 2)
        for command in (["show", "l"], ["agents"], ["links"]):
            shown = self.shown(*command)
            self.assertNotIn(str(stranger.pid), shown)
            self.assertNotIn("sleep", shown)

    def shown(self, *command):
        """The words that evlinkctl prints."""
        program = os.environ.get("EVLINKCTL") or os.path.join(os.environ.get("top_builddir", evlink.TOP), "evlinkctl")
        return subprocess.run(
            [program, "--socket", self.broker.path, *command],
            capture_output=True, text=True, timeout=evlink.PATIENCE, check=True,
        ).stdout.split()

    def assert_succeeds(self, stranger, watched, fd, expected):
        """The stranger may become the successor, as anybody may, and is told as such."""
        again = self.attach_from(stranger, watched)
        self.wait_link("l", "linked")
        self.assertEqual(again.log(), expected)
        self.wait_count(fd, 1)  # owed to the irqfd, which is none here
        self.assertEqual(self.link("l")["state"], "linked")
        self.client.call("Disconnect", {"name": "l"})
        self.client.call("Release", {"name": "x"})
        self.client.call("Detach", {"name": "p"})


class Running(Case):
    def stop(self):
        """evlinkd sees nothing of what happens until it goes on."""
        os.kill(self.broker.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.broker.pid, signal.SIGCONT)

    def test_watched(self):
        """The pidfd tells that its process is dead, though the number is in use and the socket is open."""
        process = self.process()
        agent, fd = self.linked(process, True)
        self.stop()
        stranger = self.replace(process)
        os.kill(self.broker.pid, signal.SIGCONT)
        agent.wait_end()
        self.assert_nobody(stranger, fd)
        # What had been plugged died with the process.
        self.assert_succeeds(stranger, True, fd, [("Plug", GSI)])

    def test_watched_successor(self):
        """Attached at once, before evlinkd knows: the old one's death is not the new one's."""
        process = self.process()
        agent, fd = self.linked(process, True)
        self.stop()
        stranger = self.replace(process)
        os.kill(self.broker.pid, signal.SIGCONT)
        agent.wait_end()
        again = self.attach_from(stranger, True)
        self.wait_link("l", "linked")
        self.assertEqual(again.log(), [("Plug", GSI)])
        os.kill(stranger.pid, 0)
        stranger.kill()
        again.wait_end()
        self.wait_link("l", "waiting")
        os.eventfd_write(fd, 1)

    def test_not_watched(self):
        """A socket that closed is all that is known: the process may live, and its plugs. The stranger does not
        vouch for it, nor does the successor that has its pid."""
        process = self.process()
        agent, fd = self.linked(process, False)
        self.stop()
        stranger = self.replace(process)
        agent.hang_up()
        os.kill(self.broker.pid, signal.SIGCONT)
        self.assert_nobody(stranger, fd)
        self.assert_succeeds(stranger, False, fd, [("Unplug", GSI), ("Plug", GSI)])

    def test_stranger_ends(self):
        """An agent's socket in other hands than those that attached it: neither that these are dead, nor that their pid
        is somebody's, nor that this one dies, means anything to the agent. What runs in it now is not told as what the
        agent runs in."""
        process = self.process()
        pid = process.pid
        agent, fd = self.linked(process, False)
        self.assertIn("sleep", self.shown("show", "l"))
        time.sleep(1.2)  # what is forgiven the clock
        stranger = self.replace(process)
        self.assertNotIn("sleep", self.shown("show", "l"))
        stranger.kill()
        self.assertEqual(self.client.call("Status")["agents"], 1)
        self.assertEqual(self.client.list("Agents")["p"]["owner"]["pid"], pid)
        self.assertEqual(self.link("l")["state"], "linked")
        self.client.call("Disconnect", {"name": "l"})
        self.assertEqual(agent.log(), [("Plug", GSI), ("Unplug", GSI)])
        self.assert_count(fd, 0)


    def test_another_user(self):
        """A connection, and an agent's socket, are those of who made them, in whosever hands: neither have they more
        rights with root, nor has somebody else a right to what was made there for having the pid."""
        process = self.process(uid=1001)
        pid, theirs = process.pid, process.connection
        agent = self.attach_from(process, False)
        theirs.hold("x", self.eventfd())
        self.client.hold("roots", self.eventfd())
        stranger = self.replace(process, uid=1002)
        # Ours, who are root, to call on, and the agent ours to serve.
        for connection, others, name in ((theirs, "roots", "y"), (stranger.connection, "x", "z")):
            self.assert_error("PermissionDenied", {}, connection.call, "Release", {"name": others})
            self.assert_error("PermissionDenied", {}, connection.call, "Claim", {"name": others})
            connection.hold(name, self.eventfd())
        self.assert_error("PermissionDenied", {}, stranger.connection.call, "Detach", {"name": "p"})
        ends = {"producers": ["eventfd/z"], "consumers": [GSI]}
        self.assert_error("PermissionDenied", {}, stranger.connection.call, "Connect", ends)
        theirs.connect(["eventfd/x"], [GSI], name="l")
        self.assertEqual(agent.log(), [("Plug", GSI)])
        made = {**self.client.list("Eventfds"), **self.client.list("Links"), **self.client.list("Agents")}
        owners = {name: (each["owner"]["uid"], each["owner"]["pid"]) for name, each in made.items()}
        mine, dead, living = (0, os.getpid()), (1001, pid), (1002, pid)
        self.assertEqual(
            owners, {"roots": mine, "x": dead, "y": dead, "l": dead, "p": dead, "z": living}
        )
        theirs.call("Detach", {"name": "p"})


class Restarted(keeper.Case, Case):
    def setUp(self):
        super().setUp()
        self.keep()

    def test_watched(self):
        """The same while evlinkd is killed: the pidfd is in the vault, and not the number."""
        process = self.process()
        agent, fd = self.linked(process, True)
        os.kill(self.broker.pid, signal.SIGSTOP)
        stranger = self.replace(process)
        self.client.close()
        self.broker.kill()
        self.client = self.connect()
        agent.wait_end()
        self.assert_nobody(stranger, fd)
        self.assert_succeeds(self.replace(stranger), True, fd, [("Plug", GSI)])


if __name__ == "__main__":
    blackbox.main()
