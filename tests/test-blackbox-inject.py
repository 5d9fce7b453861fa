#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory and system calls fail, one point after the other, in everything that evlinkd does: each call then either
succeeds all the same, or ends with an error or a closed connection and has changed nothing, and works afterwards.

Runs tests/evlinkd-inject (see tests/inject.c). Tries every point of each thing that evlinkd does with
EVLINK_TEST_LONG=1, else a sample. EVLINK_TEST_INJECT='Connect Move' tries these alone.
"""
import collections
import contextlib
import errno
import mmap
import os
import signal
import struct
import subprocess
import tempfile
import threading
import time

import blackbox
import evlink
import keeper

LONG = bool(os.environ.get("EVLINK_TEST_LONG"))
ONLY = os.environ.get("EVLINK_TEST_INJECT", "").split()

# Points of each kind of failure that are tried of one thing, spread over all of them.
SAMPLE = 6

NOTHING, MEMORY, FULL, ERRNO, SHORT = range(5)
WANTS = {
    "memory": (MEMORY, 0),
    "memory is full": (FULL, 0),
    "EMFILE": (ERRNO, errno.EMFILE),
    "ENFILE": (ERRNO, errno.ENFILE),
    "ENOMEM": (ERRNO, errno.ENOMEM),
    "ENOBUFS": (ERRNO, errno.ENOBUFS),
    "EINTR": (ERRNO, errno.EINTR),
    "EAGAIN": (ERRNO, errno.EAGAIN),
    "short": (SHORT, 0),
}

PIO, GSI = "kvm/v/pio/0x%x", "kvm/v/gsi/%d"

# The answer that tells these is longer than evlinkd's reserve of memory.
MANY = [{"name": f"m{i}", "group": "m", "producers": ["kvm/away/pio/0x%x" % i], "consumers": ["kvm/away/gsi/%d" % i],
         "labels": {"l": "x" * 100}} for i in range(700)]


CONFIGURATION = b"""
[Allow people]
User=nobody
Verbs=claim connect
Names=p.*
[Link configured]
Producers=kvm/absent/pio/0x60
Consumers=kvm/absent/gsi/8
Group=c
"""


class Control:
    """struct control of tests/inject.c, in a file that evlinkd maps as well."""

    LAYOUT = struct.Struct("iiiiq32s12Q")

    def __init__(self):
        self.file = tempfile.NamedTemporaryFile(prefix="evlinkd-test-")
        self.file.truncate(mmap.PAGESIZE)
        self.page = mmap.mmap(self.file.fileno(), mmap.PAGESIZE)

    def arm(self, kind, n):
        want, number = WANTS[kind]
        self.page[: self.LAYOUT.size] = self.LAYOUT.pack(NOTHING, 0, 0, 0, 0, b"", *[0] * 12)
        self.page[: 16] = struct.pack("iiii", want, number, n, 0)

    def relieve(self):
        """There is memory again."""
        struct.pack_into("i", self.page, 0, NOTHING)

    def disarm(self):
        """(points that were passed, whether one of them failed, what that was)"""
        fields = self.LAYOUT.unpack_from(self.page)
        struct.pack_into("i", self.page, 0, NOTHING)
        return fields[2], fields[3] > 0, (fields[5].rstrip(b"\0").decode(), fields[6:])


def place_of(what):
    """Where a point is, for people."""
    name, frames = what
    lines = subprocess.run(
        ["addr2line", "-fse", os.environ["EVLINKD_INJECT"], *(hex(frame - 1) for frame in frames if frame)],
        capture_output=True, text=True, check=False,
    ).stdout.split("\n")
    stack = [f"{function}:{line.rpartition(':')[2]}" for function, line in zip(lines[::2], lines[1::2])
             if function != "??"]
    return " < ".join([name, *stack[:7]])


class Thing:
    """What evlinkd has to do.

    name: begins with the method's, where it is one; do: called with a connection; undo: brings back what was before;
    prepare: called with the test case, when a broker is new; event: it is no call that can fail, and goes on after
    do() returns; kinds: the failures that are tried; changes: it does not leave everything as it was; last: as many
    points at the end are tried alone."""

    def __init__(self, name, do, undo=None, event=False, kinds=tuple(WANTS), changes=True,
                 prepare=None, last=None):
        self.name, self.do, self.undo, self.event, self.kinds = name, do, undo, event, kinds
        self.changes, self.prepare, self.last = changes, prepare, last


class Inject(blackbox.Case):
    @classmethod
    def setUpClass(cls):
        cls.control = Control()
        cls.configuration = tempfile.NamedTemporaryFile(prefix="evlinkd-test-")
        cls.configuration.write(CONFIGURATION)
        cls.configuration.flush()
        os.environ["EVLINK_INJECT"] = cls.control.file.name

    @classmethod
    def tearDownClass(cls):
        del os.environ["EVLINK_INJECT"]

    def setUp(self):
        self.agents = {}
        self.other = self.tenant = None
        self.last = None
        self.broken = collections.OrderedDict()
        self.counts = collections.Counter()
        self.fd = self.eventfd(3)
        self.build()

    def build(self):
        """A broker with something of everything."""
        program = os.environ["EVLINKD_INJECT"]
        self.broker = keeper.Keeper("--config=" + self.configuration.name, program=program)
        self.client = self.broker.connect()
        for name, vm in (("a", "v"), ("b", "w")):
            self.join(self.client, name, vm)
        self.client.call("Offer", {"agent": "a", "endpoints": ["kvm/v/dev/nic/irq/1"]})
        self.client.hold("e", self.fd)
        self.client.hold("free", self.eventfd())
        self.client.hold("lease", lifetime="lease", leaseSeconds=10000)
        self.client.connect([PIO % 16, PIO % 17], [GSI % 5], name="direct", group="g", labels={"k": "v"})
        self.client.connect([PIO % 18], [GSI % 4], name="other", group="g")
        self.client.connect(["eventfd/e"], [GSI % 6, "kvm/w/gsi/6"], name="relayed", group="r")
        self.client.connect([PIO % 19], ["kvm/absent/gsi/1"], name="waits")
        self.settle(None)
        self.fds = self.count_fds()

    def tear_down(self):
        self.client.close()
        for agent in self.agents.values():
            agent.hang_up()
        self.agents.clear()
        self.close_tenant()
        if self.other:
            self.part_from_other(None)
        self.broker.stop()

    def join(self, connection, name, vm, **more):
        self.agents[name] = evlink.Agent.attach(connection, name, {vm: None}, **more)
        evlink.Agent.attached.clear()

    def part(self, name):
        self.client.call("Detach", {"name": name})
        self.agents.pop(name).hang_up()

    # ---- What is there

    def count_fds(self):
        return len(os.listdir(f"/proc/{self.broker.pid}/fd"))

    def look(self):
        """All that lists and counts say, but for what is another each time."""

        def plain(value):
            if isinstance(value, dict):
                return {key: plain(each) for key, each in value.items()
                        if key not in ("since", "eventfdId", "owner", "forwarded")
                        and not (key == "reason" and value["state"] in ("absent", "waiting"))}
            return [plain(each) for each in value] if isinstance(value, list) else value

        status, *lists = self.state(self.client)
        counts = {key: status[key] for key in ("eventfds", "links", "agents")}
        plugged = {name: sorted(endpoint for endpoint, _ in list(agent.plugged))
                   for name, agent in self.agents.items() if name in lists[2]}
        return counts, plain(lists), plugged

    def look_again(self):
        """The same, also of a broker that has come back meanwhile."""
        for _ in range(5):
            with contextlib.suppress(EOFError, ConnectionError, BrokenPipeError):
                return self.look()
            self.client.close()
            self.client = self.broker.connect()
        raise RuntimeError(f"evlinkd does not stay: {self.broker.said()[-2000:]}")

    def settle(self, wanted, feared=None):
        """Waits until it is as wanted, and returns how it is. None: as soon as nothing changes any more."""
        begin = time.monotonic()
        last = None
        while True:
            now = self.look_again()
            patience = 0.1 if now == feared else 3
            if now == (last if wanted is None else wanted) or time.monotonic() > begin + patience:
                return now
            last = now
            time.sleep(0.005)

    def settle_fds(self):
        deadline = time.monotonic() + 3
        while (n := self.count_fds()) != self.fds and time.monotonic() < deadline:
            time.sleep(0.002)
        return n

    # ---- What is done

    def hold(self, name):
        return lambda client: client.hold(name, self.fd)

    def call(self, method, _fds=(), **parameters):
        return lambda client: client.call(method, parameters, _fds)

    def both(self, *steps):
        def run(client):
            for step in steps:
                step(client)
        return run

    def stream(self, method, **parameters):
        return lambda client: client.stream(method, parameters)

    def hang_up_agent(self, _):
        self.agents.pop("c").hang_up()

    def reload(self, _):
        before = len(self.broker.said())
        os.kill(self.broker.pid, signal.SIGHUP)
        evlink.until(lambda: "the configuration " in self.broker.said()[before:] or
                     "ending" in self.broker.said()[before:], "the reload")

    def restart(self, _):
        self.broker.kill()
        self.look_again()

    def delegate(self, client):
        client.call("Delegate", {"scope": "tenant", "endpoints": ["kvm/v"]})
        self.close_tenant()
        self.tenant = client.take()

    def revoke(self, client):
        client.call("Revoke", {"scope": "tenant"})
        self.close_tenant()

    def close_tenant(self):
        if self.tenant is not None:
            os.close(self.tenant)
        self.tenant = None

    def park(self):
        self.client.connect([PIO % 48], [GSI % 11], name="p1", group="p")
        self.client.connect([PIO % 49], [GSI % 12], name="p2", group="p")
        self.client.call("Park", {"group": "p"})

    def wait_for_many(self):
        self.client.call("ConnectMany", {"links": MANY})

    def subscribe(self):
        self.other = self.broker.connect()
        self.other.start("Monitor", {}, more=True)
        self.client.call("Status")

    def live_on(self, _=None):
        """A connection that things end with."""
        self.other = self.broker.connect()
        self.other.hold("o", lifetime="connection")
        self.other.connect([PIO % 50], ["eventfd/o"], name="o", lifetime="connection")

    def part_from_other(self, _):
        self.other.close()
        self.other = None

    def things(self):
        release = lambda *names: self.both(*(self.call("Release", name=name) for name in names))
        down = lambda *names: self.both(*(self.call("Disconnect", name=name) for name in names))
        spec = {"producers": [PIO % 32], "consumers": [GSI % 7]}
        move = lambda old, new: self.call("Move", **{"name": "direct", "from": GSI % old, "to": GSI % new})
        return [
            Thing("Hold", self.hold("n"), release("n")),
            Thing("Hold of a new one", self.call("Hold", name="n"), release("n")),
            Thing("HoldMany", self.call("HoldMany", [self.fd, self.fd, self.fd], names=["m1", "m2", "m3"]),
                  release("m1", "m2", "m3")),
            Thing("Claim", self.call("Claim", name="e"), changes=False),
            Thing("Renew", self.call("Renew", name="lease", leaseSeconds=20000),
                  self.call("Renew", name="lease", leaseSeconds=10000)),
            Thing("Release", release("free"), self.both(self.hold("free"))),
            Thing("Signal", self.call("Signal", name="free", count=3), lambda client: os.read(client.claim("free"), 8)),
            Thing("Signal of many", self.call("Signal", name="free", count=300),
                  lambda client: os.read(client.claim("free"), 8)),
            Thing("Attach", lambda client: self.join(client, "c", "x"), lambda _: self.part("c")),
            Thing("Detach", lambda client: client.call("Detach", {"name": "b"}),
                  lambda client: (self.agents.pop("b").hang_up(), self.join(client, "b", "w"), self.settle(None))),
            Thing("Offer", self.call("Offer", agent="a", endpoints=["kvm/v/dev/nic/irq/2"]),
                  self.call("Withdraw", agent="a", endpoints=["kvm/v/dev/nic/irq/2"])),
            Thing("Withdraw", self.call("Withdraw", agent="a", endpoints=["kvm/v/dev/nic/irq/1"]),
                  self.call("Offer", agent="a", endpoints=["kvm/v/dev/nic/irq/1"])),
            Thing("Connect", self.call("Connect", name="l", **spec), down("l")),
            Thing("Connect of a level link", self.call("Connect", name="l", producers=["eventfd/free"],
                  consumers=[GSI % 9 + "/level"]), down("l")),
            Thing("Connect of a relayed link", self.call("Connect", name="l", producers=[PIO % 33, "eventfd/free"],
                  consumers=[GSI % 7, "kvm/w/gsi/7"], labels={"a": "b"}, group="h"), down("l")),
            Thing("Connect of what is absent", self.call("Connect", name="l", producers=["kvm/absent/pio/0x20"],
                  consumers=[GSI % 7]), down("l")),
            Thing("ConnectMany", self.call("ConnectMany", links=[dict(spec, name="l"), {
                  "name": "m", "producers": [PIO % 34], "consumers": ["kvm/w/gsi/7"]}]), down("l", "m")),
            Thing("ConnectMany of many", self.call("ConnectMany", links=MANY),
                  self.call("Disconnect", group="m"), kinds=("memory", "memory is full"), last=30),
            Thing("Park of many", self.call("Park", group="m"), self.call("Resume", group="m"),
                  prepare=Inject.wait_for_many, kinds=("memory", "memory is full"), last=30),
            Thing("Disconnect", down("other"),
                  self.call("Connect", name="other", producers=[PIO % 18], consumers=[GSI % 4], group="g")),
            Thing("Disconnect of a relayed link", self.call("Disconnect", group="r"),
                  self.call("Connect", name="relayed", producers=["eventfd/e"],
                            consumers=[GSI % 6, "kvm/w/gsi/6"], group="r")),
            Thing("Park", self.call("Park", group="g"), self.call("Resume", group="g")),
            Thing("Resume", self.call("Resume", group="p"), self.call("Park", group="p"), prepare=Inject.park),
            Thing("Move", move(5, 8), move(8, 5)),
            Thing("Leave", self.call("Leave", endpoint=PIO % 18, reason="why not"),
                  self.call("Connect", name="other", producers=[PIO % 18], consumers=[GSI % 4], group="g")),
            Thing("Delegate", self.delegate, self.revoke, changes=False),
            Thing("Revoke", self.revoke, self.delegate, changes=False, prepare=lambda test: test.delegate(test.client)),
            Thing("Export", self.stream("Export"), changes=False),
            Thing("ListEventfds", self.stream("ListEventfds"), changes=False),
            Thing("ListLinks", self.stream("ListLinks"), changes=False),
            Thing("ListAgents", self.stream("ListAgents"), changes=False),
            Thing("Status", self.call("Status"), changes=False),
            Thing("GetConfig", self.call("GetConfig"), changes=False),
            Thing("GetInfo", self.call("org.varlink.service.GetInfo"), changes=False),
            Thing("GetInterfaceDescription",
                  self.call("org.varlink.service.GetInterfaceDescription", interface="io.evlink.Agent"),
                  changes=False),
            Thing("what waits", lambda client: self.join(client, "c", "absent"), lambda _: self.part("c")),
            Thing("an agent's end", self.hang_up_agent, event=True, undo=lambda client: self.join(client, "c", "absent"),
                  prepare=lambda self: self.join(self.client, "c", "absent")),
            Thing("a connection's end", self.part_from_other, self.live_on, event=True, prepare=Inject.live_on),
            # A subscriber is closed where nothing can be received from it.
            Thing("news", self.hold("n"), release("n"), prepare=Inject.subscribe,
                  kinds=("memory", "memory is full", "short")),
            Thing("reload", self.reload, changes=False),
            Thing("recovery", self.restart, changes=False, kinds=tuple(set(WANTS) - {"memory is full"})),
        ]

    # ---- Trying it

    def try_point(self, thing, kind, n, before, after):
        """Returns whether point n was reached."""
        died = len(self.broker.deaths)
        caller = self.broker.connect()
        self.control.arm(kind, n)
        relief = threading.Timer(0.5, self.control.relieve)
        relief.start()
        told = "success"
        try:
            thing.do(caller)
        except evlink.Error as error:
            told = error.name.rpartition(".")[2]
        except (EOFError, ConnectionError, BrokenPipeError):
            told = "closed"
        if thing.event:
            time.sleep(0.02)
        relief.cancel()
        _, fired, what = self.control.disarm()
        caller.close()
        wanted = after if told == "success" else before
        now = self.settle(wanted, after if told != "success" else None)
        bad = [status for status in self.broker.deaths[died:] if status not in (signal.SIGKILL, 1 << 8)]
        died = len(self.broker.deaths) > died
        if fired:
            self.counts[thing.name, "points"] += 1
            self.counts[thing.name, "ended" if died else "refused" if told != "success" else "served"] += 1
        problem = None
        if not fired and told != "success":
            problem = f"{told} where nothing failed"
        elif now != wanted and now == after:
            problem = f"{told}, and it took effect"
        elif now != wanted:
            problem = f"{told}, and there is something else: {difference(wanted, now)}"
        elif told == "success":
            thing.undo(self.client) if thing.undo else None
            now = self.settle(before)
            if now != before:
                problem = f"{told}, and cannot be undone: {difference(before, now)}"
        else:
            with self.broker.connect() as again:
                thing.do(again)
            now = self.settle(after)
            if now == after and thing.undo:
                thing.undo(self.client)
                now = self.settle(before)
            if now != (before if thing.undo else after):
                problem = f"{told}, and it does not work afterwards: {difference(before, now)}"
        if bad:
            problem = f"evlinkd ended with {bad}"
        if not problem and (left := self.settle_fds()) != self.fds:
            problem = f"{told}, and {left - self.fds} descriptors more{' after a restart' if died else ''}"
        if problem:
            self.broken.setdefault((thing.name, kind, problem, place_of(what)), []).append(n)
            self.rebuild(thing)
        return fired

    def rebuild(self, thing):
        try:
            self.tear_down()
        except Exception as error:  # leaks too
            self.broken.setdefault((self.last, "", f"at the end: {error}", ""), []).append(0)
        self.last = thing.name
        self.build()
        if thing.prepare:
            thing.prepare(self)
            self.settle(None)
            self.fds = self.count_fds()

    def try_thing(self, thing):
        self.rebuild(thing)
        before = self.settle(None)
        with self.broker.connect() as caller:
            thing.do(caller)
        after = self.settle(None)
        if thing.changes:
            self.assertNotEqual(before, after, thing.name)
        if thing.undo:
            thing.undo(self.client)
        self.assertEqual(self.settle(before), before, thing.name)
        for kind in thing.kinds:
            for n in self.points(thing, kind, after):
                try:
                    reached = self.try_point(thing, kind, n, before, after)
                except Exception as error:
                    _, _, what = self.control.disarm()
                    self.broken.setdefault((thing.name, kind, f"{error!r}", place_of(what)), []).append(n)
                    self.rebuild(thing)
                    continue
                if not reached and LONG:
                    break

    def points(self, thing, kind, after):
        """Which points to try: what an untroubled call passes, and a few more."""
        with self.broker.connect() as caller:
            self.control.arm(kind, 1 << 30)
            thing.do(caller)
            if thing.event:
                time.sleep(0.02)
        left, _, _ = self.control.disarm()
        self.settle(after)
        if thing.undo:
            thing.undo(self.client)
        self.settle(None)
        n = (1 << 30) - left
        if thing.last:
            return range(max(1, n - thing.last), n + 1, 1 if LONG else 1 + thing.last // SAMPLE)
        if LONG:
            return range(1, 10 * n + 10)
        return sorted({1 + i * n // SAMPLE for i in range(SAMPLE) if n})

    def test_all_methods(self):
        """None is left out: Monitor is in "news"."""
        names = {thing.name.split(" ")[0] for thing in self.things()} | {"Monitor"}
        for method in evlink.INTERFACES["io.evlink.Broker"].methods:
            if method not in names:
                self.assert_error("MethodNotImplemented", {}, self.client.call, method)

    def test_points(self):
        for thing in self.things():
            if ONLY and not any(thing.name.startswith(name) for name in ONLY):
                continue
            began = time.monotonic()
            self.try_thing(thing)
            counts = ", ".join(f"{self.counts[thing.name, key]} {key}" for key in
                               ("points", "served", "refused", "ended"))
            print(f"# {thing.name}: {counts}; {time.monotonic() - began:.1f} s", flush=True)
        self.rebuild(thing)
        for (name, kind, problem, place), points in self.broken.items():
            print(f"# BROKEN {name}, {kind}, points {points}: {problem}\n#     {place}")
        total = {key: sum(n for (_, each), n in self.counts.items() if each == key)
                 for key in ("points", "served", "refused", "ended")}
        print(f"# in all: {total}")
        self.assertEqual(len(self.broken), 0)

    def _see_that_nothing_is_left(self):
        pass

    def tearDown(self):
        with contextlib.suppress(Exception):
            self.tear_down()


def difference(wanted, found, where=""):
    """What is found instead of what is wanted, in a few words."""
    if isinstance(wanted, (list, tuple)) and isinstance(found, type(wanted)) and len(wanted) == len(found):
        wanted, found = dict(enumerate(wanted)), dict(enumerate(found))
    if isinstance(wanted, dict) and isinstance(found, dict):
        return " ".join(filter(None, (difference(wanted.get(key), found.get(key), f"{where}/{key}")
                                      for key in {**wanted, **found})))
    return "" if wanted == found else f"{where}: {found} for {wanted}"


if __name__ == "__main__":
    blackbox.main()
