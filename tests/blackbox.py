# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the black-box tests share: a test case that has a broker and sees to it that nothing is left behind, and a
runner that prints TAP.

Each test begins and ends with a broker that holds, links and knows nothing, and with the same descriptors open in
it; whatever a test leaves in lists is taken down by the broker's own methods first.
"""
import contextlib
import os
import socket
import sys
import time
import traceback
import unittest

import evlink

NOBODY = 65534

needs_root = unittest.skipUnless(os.geteuid() == 0, "only root can be another user as well")
needs_kvm = unittest.skipUnless(evlink.has_kvm(), "no access to /dev/kvm")


class Case(unittest.TestCase):
    options = ()  # evlinkd's
    broker = None
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.broker = evlink.Broker(*cls.options)

    @classmethod
    def tearDownClass(cls):
        cls.broker.stop()

    def setUp(self):
        self.fds_before = self.broker.fds()
        self.addCleanup(self._see_that_nothing_is_left)
        self.client = self.connect()

    def connect(self):
        connection = self.broker.connect()
        self.addCleanup(connection.close)
        return connection

    def connect_as(self, uid):
        connection = evlink.connect_as(self.broker.path, uid)
        self.addCleanup(connection.close)
        return connection

    def eventfd(self, count=0, flags=0):
        fd = os.eventfd(count, os.EFD_CLOEXEC | os.EFD_NONBLOCK | flags)
        self.addCleanup(os.close, fd)
        return fd

    def own(self, fd):
        """A descriptor that is to be closed when the test ends."""
        self.addCleanup(os.close, fd)
        return fd

    def vm(self, **parameters):
        vm = evlink.Vm(**parameters)
        self.addCleanup(vm.close)
        return vm

    def attach(self, name, vms, connection=None, **parameters):
        agent = evlink.Agent.attach(connection or self.client, name, vms, **parameters)
        self.addCleanup(agent.hang_up)
        return agent

    def pair(self):
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        return ours, theirs

    # ---- What is there

    def state(self, connection=None):
        """All that lists and Status say."""
        connection = connection or self.client
        status = connection.call("Status")
        for key in ("connections", "startedAt"):
            del status[key]
        return status, *(connection.list(what) for what in ("Eventfds", "Links", "Agents"))

    def link(self, name):
        return self.client.list("Links", match=name)[name]

    def wait_link(self, name, state):
        """Waits until a link is in that state."""
        found = []

        def has():
            found[:] = [self.link(name)]
            return found[0]["state"] == state

        try:
            evlink.until(has)
        except TimeoutError:
            self.fail(f"the link is not {state}: {found[0]}")
        return found[0]

    def ends(self, name):
        """{endpoint: state} of a link."""
        link = self.link(name)
        return {end["endpoint"]: end["state"] for end in link["producers"] + link["consumers"]}

    # ---- What is wanted

    def assert_error(self, name, parameters, function, *arguments, **more):
        """parameters: those of the error that matter."""
        with self.assertRaises(evlink.Error) as caught:
            function(*arguments, **more)
        self.assertEqual(caught.exception.name, name, caught.exception)
        told = {key: caught.exception.parameters.get(key) for key in parameters}
        self.assertEqual(told, parameters, caught.exception)
        return caught.exception

    def refused(self, name, told, method, parameters=None, fds=(), connection=None, **flags):
        """A call is answered with that error, and changes nothing."""
        connection = connection or self.client
        before = self.state()
        error = self.assert_error(name, told, connection.call, method, parameters, fds, **flags)
        self.assertEqual(self.state(), before)
        return error

    def assert_count(self, fd, count):
        self.assertEqual(evlink.fdinfo(fd)[0], count)

    def wait_count(self, fd, count):
        evlink.until(lambda: evlink.fdinfo(fd)[0] == count, f"a counter of {count}")

    def assert_interrupt(self, vm, gsi):
        evlink.until(lambda: vm.interrupted(gsi), f"interrupt {gsi}")

    def assert_fds(self, n, what=""):
        """The daemon has so many descriptors more than when the test began, its connections included."""
        found = {}

        def is_so():
            found.clear()
            found.update(self.broker.fds())
            return len(found) == len(self.fds_before) + n

        try:
            evlink.until(is_so)
        except TimeoutError:
            self.fail(f"{len(found) - len(self.fds_before)} descriptors more instead of {n} {what}: {found}")

    def succeed(self, *vms, connection=None):
        """Attaches, and detaches, agents that succeed lost ones, and unplug whatever those had plugged."""
        connection = connection or self.client
        for vm in vms:
            agent = evlink.Agent.attach(connection, "successor", {vm: None})
            connection.call("Detach", {"name": "successor"})
            agent.join()

    # ---- The end

    def _sweep(self):
        with self.broker.connect() as connection:
            for name in connection.list("Agents"):
                with contextlib.suppress(evlink.Error):
                    connection.call("Detach", {"name": name})
            for name in connection.list("Links"):
                with contextlib.suppress(evlink.Error):
                    connection.call("Disconnect", {"name": name})
            for name in connection.list("Eventfds"):
                connection.call("Release", {"name": name})
            # What agents had plugged that were lost is remembered until a successor was told to unplug it.
            self.succeed(*sorted(evlink.Agent.attached), connection=connection)
            evlink.Agent.attached.clear()
            status, *lists = self.state(connection)
            self.assertEqual(lists, [{}, {}, {}])
            self.assertEqual([status[key] for key in ("eventfds", "links", "agents")], [0, 0, 0])

    def _see_that_nothing_is_left(self):
        try:
            self._sweep()
            self.assert_fds(0, "at the end")
            self.assertEqual(self.broker.threads(), 1)
        except BaseException:
            # The next test shall have a fair chance.
            broker, type(self).broker = self.broker, evlink.Broker(*self.options)
            broker.end()
            raise


class Result(unittest.TestResult):
    """Prints a line for each test, as the Test Anything Protocol has it."""

    def __init__(self):
        super().__init__()
        self.n = self.n_failed = self.n_skipped = 0
        self.bad = set()

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()
        self.open = True

    def _line(self, word, test, note=""):
        self.n += 1
        print(f"{word} {self.n} - {name_of(test)}{note}", flush=True)
        self.open = False

    def _bad(self, test, error):
        shown = traceback.TracebackException(*error)
        while len(shown.stack) > 1 and "/unittest/" in shown.stack[0].filename:
            del shown.stack[0]
        while len(shown.stack) > 1 and "/unittest/" in shown.stack[-1].filename:
            del shown.stack[-1]
        text = "".join(shown.format()).rstrip()
        print("\n".join("# " + line for line in text.split("\n")))
        if test not in self.bad:
            self.bad.add(test)
            self.n_failed += 1
            self._line("not ok", test)
            print(f"[  FAILED  ] {name_of(test)}", flush=True)

    def addSuccess(self, test):
        if test not in self.bad:
            self._line("ok", test, f" # {time.monotonic() - self.began:.2f} s")

    def addFailure(self, test, err):
        self._bad(test, err)

    def addError(self, test, err):
        self._bad(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            print(f"# {subtest}")
            self._bad(test, err)

    def addSkip(self, test, reason):
        self.n_skipped += 1
        self._line("ok", test, f" # SKIP {reason}")
        print(f"# SKIP: {name_of(test)}: {reason}")


def name_of(test):
    return test.id().replace("__main__.", "")


def main():
    """Runs the tests of the program that calls it, or those whose names are given."""
    loader = unittest.TestLoader()
    if sys.argv[1:]:
        suite = loader.loadTestsFromNames(sys.argv[1:], sys.modules["__main__"])
    else:
        suite = loader.loadTestsFromModule(sys.modules["__main__"])
    program = evlink.Broker.program()
    if not os.access(program, os.X_OK):
        print(f"Bail out! there is no {program}: build it, or set EVLINKD")
        sys.exit(99)
    result = Result()
    suite.run(result)
    print(f"1..{result.n}")
    passed = result.n - result.n_failed - result.n_skipped
    print(f"{passed} passed, {result.n_failed} failed, {result.n_skipped} skipped")
    if result.n_failed:
        sys.exit(1)
    sys.exit(77 if result.n_skipped == result.n else 0)
