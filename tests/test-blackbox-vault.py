#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What outlives evlinkd: killed between any two steps of a change or of the vault's own work, it comes back with what
was acknowledged, and what was not is there wholly or not at all."""
import array
import contextlib
import json
import os
import resource
import signal
import socket
import struct
import tempfile
import time

import blackbox
import evlink
import keeper


def settled(client, agents):
    """What there is, by name: and what the agents' kernels have plugged."""
    eventfds = client.list("Eventfds")
    links = client.list("Links")
    return (
        tuple(sorted(eventfds)),
        tuple(sorted(
            (name, link["state"], link.get("group"), tuple(sorted(
                (end["endpoint"], end["state"]) for end in link["producers"] + link["consumers"])))
            for name, link in links.items())),
        tuple(sorted((name, tuple(sorted(agent["offered"]))) for name, agent in client.list("Agents").items())),
        tuple(sorted(endpoint for agent in agents for endpoint, _ in list(agent.plugged))),
    )


class Hog:
    """A process of a user's that has as many descriptors under way as it may."""

    def __init__(self, uid, nofile):
        ready, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setuid(uid)
                resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
                fds = array.array("i", [told] * 253)
                pairs = []
                with contextlib.suppress(OSError):  # ETOOMANYREFS
                    while True:
                        pairs.append(socket.socketpair())
                        pairs[-1][0].setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            while True:
                                pairs[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
                os.write(told, b"x")
                signal.pause()
            finally:
                os._exit(1)
        os.close(told)
        os.read(ready, 1)
        os.close(ready)

    def stop(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class VaultCase(keeper.Case):
    def setUp(self):
        super().setUp()
        self.agents = []

    def attach(self, name, vms, connection=None, **parameters):
        agent = super().attach(name, vms, connection, **parameters)
        self.agents.append(agent)
        return agent

    def settled(self):
        return settled(self.client, self.agents)


class Survive(VaultCase):
    def test_status(self):
        self.keep()
        status = self.client.call("Status")
        self.assertTrue(status["durable"])
        self.assertNotIn("lastEnd", status)
        self.client.hold("e", self.eventfd(5))
        self.kill()
        status = self.client.call("Status")
        self.assertEqual((status["restoredEventfds"], status["restoredLinks"]), (1, 0))
        self.assertEqual(status["restoredAgents"], 0)
        self.assertEqual(status["lastEnd"], "killed")
        self.assertLess(status["restoreMicroseconds"], 1_000_000)
        self.broker.kill(15)
        self.reconnect()
        self.assertEqual(self.client.call("Status")["lastEnd"], "stopped")
        self.broker.kill(6)
        self.reconnect()
        self.assertEqual(self.client.call("Status")["lastEnd"], "ABRT")

    def test_store_is_small(self):
        self.keep()
        for i in range(600):
            self.client.hold(f"e{i}")
        for i in range(0, 600, 3):
            self.client.call("Release", {"name": f"e{i}"})
        self.kill()
        self.assertEqual(len(self.client.list("Eventfds")), 400)
        self.assertLessEqual(len(self.broker.stored), 16)

    @blackbox.unittest.skipUnless(os.geteuid() == 0, "another user is needed, whose limits count: run it as root")
    def test_cannot_be_safe(self):
        """Pipelined Holds that cannot be made safe are refused, and were not; what is called between them is served."""
        uid = 1_000_000 + os.getpid()
        self.keep(uid=uid, nofile=2000)
        fds = [self.eventfd(i) for i in range(8)]
        self.client.hold("before", fds[0])
        hog = Hog(uid, 4000)
        try:
            for i, fd in enumerate(fds):
                if i == 5:
                    self.client.start("Status")
                self.client.start("Hold", {"name": f"e{i}", "fileDescriptorIndex": 0}, [fd])
            for i in range(len(fds)):
                if i == 5:
                    self.assertEqual(self.client.finish()[0]["eventfds"], 1)
                self.assert_error("QuotaExceeded", {"what": "descriptors", "limit": 2000}, self.client.finish)
            self.assertEqual(list(self.client.list("Eventfds")), ["before"])
        finally:
            hog.stop()
        self.assertEqual(self.broker.deaths, [])
        for i, fd in enumerate(fds):
            self.client.start("Hold", {"name": f"e{i}", "fileDescriptorIndex": 0}, [fd])
        for _ in fds:
            self.client.finish()
        self.kill()
        self.assertEqual({name: each["pending"] for name, each in self.client.list("Eventfds").items()},
                         {"before": 0, **{f"e{i}": i for i in range(8)}})

    def test_counts(self):
        """Held eventfds are the same, with their counts, owners, times and lifetimes."""
        self.keep()
        fds = [self.eventfd(i) for i in range(300)]
        self.client.call("HoldMany", {"names": [f"m{i}" for i in range(250)]}, fds[:250])
        for i, fd in enumerate(fds[250:], 250):
            self.client.hold(f"m{i}", fd, **({"lifetime": "lease", "leaseSeconds": 60} if i % 2 else {}))
        before = self.client.list("Eventfds")
        ids = {f"m{i}": evlink.fdinfo(fd)[1] for i, fd in enumerate(fds)}
        for _ in range(3):
            self.kill()
            now = self.client.list("Eventfds")
            self.assertEqual(now, before)
            self.assertEqual({name: each["eventfdId"] for name, each in now.items()}, ids)
        for i in (0, 7, 299):
            self.assertEqual(now[f"m{i}"]["pending"], i)
            self.assert_count(self.own(self.client.claim(f"m{i}")), i)

    def test_connections_end(self):
        """What was held for a connection's life is released: connections end with the broker."""
        self.keep()
        self.client.hold("stays", self.eventfd())
        self.client.hold("goes", self.eventfd(), lifetime="connection")
        self.client.connect(["kvm/v/pio/0x10"], ["kvm/v/gsi/5"], name="l", lifetime="connection")
        self.kill()
        self.assertEqual(sorted(self.client.list("Eventfds")), ["stays"])
        self.assertEqual(self.client.list("Links"), {})

    def test_leases_run_on(self):
        self.keep()
        self.client.hold("e", self.eventfd(), lifetime="lease", leaseSeconds=1)
        begin = time.monotonic()
        self.kill()
        evlink.until(lambda: not self.client.list("Eventfds"))
        self.assertGreater(time.monotonic() - begin, 0.5)
        self.assertLess(time.monotonic() - begin, 5)

    def test_agents_notice_nothing(self):
        self.keep()
        agent = self.attach("a", {"v": None})
        self.client.connect(["kvm/v/pio/0x10"], ["kvm/v/gsi/5"], name="l", group="g", labels={"a": "b"})
        before = self.client.list("Links")
        requests = len(agent.log())
        for _ in range(3):
            self.kill()
            self.wait_link("l", "linked")
            self.assertEqual(self.client.list("Links"), before)
        evlink.until(lambda: [r.method for r in agent.requests].count("Inventory") == 3)
        self.assertEqual(len(agent.log()), requests)
        self.client.call("Disconnect", {"name": "l"})
        self.assertEqual(agent.plugged, {})

    def test_answer_after_death(self):
        """An agent answers a call of a broker that is dead: its successor does not take it for an answer to it."""
        self.keep()
        agent = self.attach("a", {"v": None})
        agent.gate.clear()
        self.client.start("Connect", {"producers": ["kvm/v/pio/0x10"], "consumers": ["kvm/v/gsi/5"]})
        agent.wait_for(1)
        self.broker.kill()
        agent.gate.set()
        self.reconnect()
        # Calls wait until the one that was not answered is undone.
        self.assertEqual(self.client.list("Links"), {})
        self.assertEqual(agent.plugged, {})
        self.client.connect(["kvm/v/pio/0x10"], ["kvm/v/gsi/5"], name="l")
        self.assertEqual(len(agent.plugged), 2)

    def test_agent_gone_meanwhile(self):
        """An agent that closes its socket while there is no broker is lost to the next one."""
        self.keep()
        agent = self.attach("a", {"v": None})
        self.client.connect(["kvm/v/pio/0x10"], ["kvm/v/gsi/5"], name="l")
        os.kill(self.broker.pid, 19)
        agent.hang_up()
        self.agents.remove(agent)
        self.kill()
        self.wait_link("l", "waiting")
        self.assertEqual(self.client.list("Agents"), {})

    def test_agent_goes_in_recovery(self):
        """Calls wait until an agent has told what it has plugged, and no longer than it is there."""
        self.keep()
        agent = self.attach("a", {"v": None})
        agent.gate.clear()
        self.client.start("Connect", {"producers": ["kvm/v/pio/0x10"], "consumers": ["kvm/v/gsi/5"]})
        agent.wait_for(1)
        self.kill()
        self.client.start("Status")
        time.sleep(0.2)
        agent.hang_up()
        self.agents.remove(agent)
        self.assertEqual(self.client.finish()[0]["agents"], 0)

    def test_agent_goes_while_nobody_calls(self):
        """Its socket is given back, and its loss on record, though nothing else happens."""
        self.keep()
        self.client.call("Status")
        before = len(self.broker.fds())
        agent = self.attach("a", {"v": None})
        self.assertGreater(len(self.broker.fds()), before)
        agent.hang_up()
        self.agents.remove(agent)
        evlink.until(lambda: len(self.broker.fds()) == before, "its socket to be closed")
        self.kill()
        self.assertEqual(self.client.call("Status")["restoredAgents"], 0)

    def test_damaged(self):
        """A record that cannot be read is lost, and nothing else."""
        self.keep()
        for i in range(20):
            self.client.hold(f"damage-{i}", self.eventfd(i))
        log = dict(self.broker.stored)["vault-log"]
        data = os.pread(log, 1 << 16, 16384)
        at = data.index(b"damage-7")
        os.kill(self.broker.pid, 19)
        os.pwrite(log, b"DAMAGE-7", 16384 + at)
        self.kill()
        self.assertEqual(
            set(self.client.list("Eventfds")), {f"damage-{i}" for i in range(20)} - {"damage-7"}
        )
        self.assertIn("the vault is damaged", self.broker.said())
        # What is left is as good as any.
        self.client.hold("damage-7", self.eventfd(70))
        self.kill()
        self.assertEqual(self.client.list("Eventfds")["damage-7"]["pending"], 70)

    def test_compaction(self):
        """Many changes to little state: the log is made short again and again."""
        self.keep()
        for i in range(50):
            self.client.hold(f"stay-{i}", self.eventfd(i))
        for i in range(6000):
            self.client.start("Hold", {"name": f"go-{i}"})
            self.client.start("Release", {"name": f"go-{i}"})
            if i % 20 == 19:
                for _ in range(40):
                    self.client.finish()
            if i % 1500 == 699:
                self.kill()
        found = self.client.list("Eventfds")
        self.assertEqual({name: each["pending"] for name, each in found.items()},
                         {f"stay-{i}": i for i in range(50)})
        log = dict(self.broker.stored)["vault-log"]
        self.assertLess(os.fstat(log).st_blocks * 512, 2 << 20)

    def test_released_is_gone(self):
        """What is released is in no table and comes back in none."""
        self.keep()
        self.client.call("Status")
        before = len(self.broker.fds())
        fds = [self.eventfd() for _ in range(64)]
        self.client.call("HoldMany", {"names": [f"m{i}" for i in range(64)]}, fds)
        for i in range(63):
            self.client.call("Release", {"name": f"m{i}"})
        self.assertEqual(len(self.broker.fds()), before + 1)
        self.kill()
        self.assertEqual(sorted(self.client.list("Eventfds")), ["m63"])

    def test_pending_on_record(self):
        """What is owed to an end outlives the broker: a consumer that is parked, and its VMM gone."""
        self.keep()
        agent = self.attach("a", {"v": None})
        fd = self.eventfd()
        self.client.hold("e", fd)
        self.client.connect(["eventfd/e"], ["kvm/v/gsi/5"], name="l")
        self.client.call("Park", {"name": "l"})
        os.eventfd_write(fd, 3)
        agent.answer = lambda request, data: None if request.method == "Plug" else data
        self.client.start("Resume", {"name": "l"})
        evlink.until(lambda: [r.method for r in agent.requests if r.endpoints] == ["Plug", "Unplug", "Plug"])
        self.assert_count(fd, 0)
        self.broker.kill()
        agent.answer = lambda request, data: data
        self.reconnect()
        # The Resume was not answered: it is undone, and the count is where it was, or one at least.
        self.wait_link("l", "parked")
        self.wait_count(fd, 3)


HEADER_SIZE = 16384
HALF_SIZE = 256 << 20
QUEUES = ("young", "agents", "old1", "old2")

# A line on which nothing has been said, of version 1: src/service/line.c.
LINE_SIZE = (1 + 65 + 1025) * 4096
LINE_BEGIN = b"evlinkl\0" + struct.pack("Q", 1)


def read_ledger(log):
    """What of a ledger is worth keeping: its header, and its half in use."""
    header = os.pread(log, HEADER_SIZE, 0)
    active, *tails = struct.unpack_from("QQQ", header, 16)
    return header, os.pread(log, tails[active], HEADER_SIZE + active * HALF_SIZE)


def peek_numbers(queue):
    """{number: what it is} of the descriptors in a queue, of messages of one each."""
    found = {}
    peeker = socket.socket(fileno=os.dup(queue))
    peeker.setsockopt(socket.SOL_SOCKET, 42, 0)  # SO_PEEK_OFF
    while True:
        try:
            data, ancillary, _, _ = peeker.recvmsg(
                4096, socket.CMSG_SPACE(253 * 4), socket.MSG_PEEK | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            break
        fds = array.array("i", ancillary[0][2])
        number = shift = 0
        for byte in data:
            number |= (byte & 0x7F) << shift
            shift += 7
        found[number >> 1] = os.readlink(f"/proc/self/fd/{fds[0]}").split(":")[0]
        evlink.close_all(fds)
    peeker.setsockopt(socket.SOL_SOCKET, 42, -1)
    peeker.close()
    return found


def pack_number(number):
    number <<= 1
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(data + bytes([number]))


class Samples(VaultCase):
    """Vaults that earlier versions wrote are read. EVLINK_MAKE_SAMPLE=NAME adds one, of this version."""

    SAMPLES = os.path.join(evlink.TESTS, "vault-samples")

    def fill(self):
        """Something of every kind."""
        for i in range(5):
            self.client.hold(f"e{i}", self.eventfd(i), **({"lifetime": "lease", "leaseSeconds": 10 ** 8} if i == 4 else {}))
        self.attach("a", {"v": None, "w": None})
        self.client.call("Offer", {"agent": "a", "endpoints": ["kvm/v/dev/disk.0/irq/3"]})
        self.client.connect(["kvm/v/pio/0x10/4=0x1"], ["kvm/w/gsi/5"], name="direct", group="g", labels={"key": "value"})
        self.client.connect(["eventfd/e1"], ["kvm/w/gsi/6/level"], name="level")
        self.client.connect(["eventfd/e2"], ["kvm/w/gsi/7", "eventfd/e3"], name="relayed")
        self.client.connect(["kvm/v/mmio/0xfee00000"], ["kvm/v/dev/disk.0/irq/3"], name="parked")
        self.client.connect(["kvm/v/pio/0x20"], ["kvm/nobody/gsi/1"], name="waiting", lifetime="agent")
        self.client.call("Park", {"name": "parked"})
        self.client.call("Delegate", {"scope": "web", "endpoints": ["kvm/v", "eventfd/e0"], "maxEventfds": 2})
        tenant = evlink.Connection(socket.socket(fileno=self.client.take()))
        self.addCleanup(tenant.close)
        tenant.hold("web.e", self.eventfd())
        tenant.connect(["eventfd/web.e"], ["kvm/v/gsi/9"], name="web.l", group="web.g")

    def what_there_is(self):
        """Without what changes from one kernel to the next."""
        lists = {what: self.client.list(what) for what in ("Eventfds", "Links", "Agents")}
        for each in lists["Eventfds"].values():
            each.pop("eventfdId")
            each.pop("pending")
        for each in lists["Links"].values():
            each.pop("forwarded", None)
        return lists

    def make_one(self, name):
        self.keep()
        self.fill()
        stored = dict(self.broker.stored)
        header, half = read_ledger(stored["vault-log"])
        numbers = {}
        for queue in QUEUES:
            numbers.update(peek_numbers(stored[f"vault-{queue}-out"]))
        os.makedirs(self.SAMPLES, exist_ok=True)
        path = os.path.join(self.SAMPLES, name)
        with open(path + ".ledger", "wb") as file:
            file.write(header.rstrip(b"\0").ljust(512, b"\0") + half)
        with open(path + ".json", "w", encoding="ascii") as file:
            json.dump({"half": len(half), "numbers": numbers, "lists": self.what_there_is()}, file, indent=1)
            file.write("\n")

    def restore(self, path):
        with open(path + ".json", encoding="ascii") as file:
            sample = json.load(file)
        with open(path + ".ledger", "rb") as file:
            data = file.read()
        header, half = data[: -sample["half"]], data[-sample["half"] :]
        active = struct.unpack_from("Q", header, 16)[0]
        log = os.memfd_create("sample")
        os.ftruncate(log, HEADER_SIZE + 2 * HALF_SIZE)
        os.pwrite(log, header, 0)
        os.pwrite(log, half, HEADER_SIZE + active * HALF_SIZE)
        stored = [("vault-log", log)]
        queues = {}
        for queue in QUEUES:
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            queues[queue] = one
            stored += [(f"vault-{queue}-in", os.dup(one.fileno())), (f"vault-{queue}-out", os.dup(other.fileno()))]
            self.addCleanup(one.close)
            other.close()
        self.tenants = []
        for number, what in sample["numbers"].items():
            if what == "/memfd":
                fd = os.memfd_create("sample")
                os.ftruncate(fd, LINE_SIZE)
                os.pwrite(fd, LINE_BEGIN, 0)
            elif what != "socket":
                fd = os.eventfd(0)
            else:
                ours, theirs = socket.socketpair()
                fd = ours.detach()
                # A delegated connection's is followed by its line.
                if sample["numbers"].get(str(int(number) + 1)) == "/memfd":
                    self.tenants.append(evlink.Connection(theirs))
                    self.addCleanup(self.tenants[-1].close)
                else:
                    agent = evlink.Agent(theirs, {"v": None, "w": None})
                    self.addCleanup(agent.hang_up)
            queue = queues["young" if what == "anon_inode" else "agents"]
            socket.send_fds(queue, [pack_number(int(number))], [fd])
            os.close(fd)
        self.keep(stored=stored)
        self.assertEqual(self.what_there_is(), sample["lists"], path)

    def test_samples(self):
        if os.environ.get("EVLINK_MAKE_SAMPLE"):
            self.make_one(os.environ["EVLINK_MAKE_SAMPLE"])
            return
        names = sorted(name[:-5] for name in os.listdir(self.SAMPLES) if name.endswith(".json"))
        self.assertGreater(len(names), 0)
        for name in names:
            with self.subTest(name):
                self.restore(os.path.join(self.SAMPLES, name))
                for tenant in self.tenants:
                    self.assertEqual(set(tenant.list("Links")), {"web.l"})
                    tenant.call("Disconnect", {"name": "web.l"})
                    tenant.hold("web.f")
                    self.assert_error("QuotaExceeded", {"limit": 2}, tenant.hold, "web.g")
                    with self.assertRaises(evlink.Error):
                        tenant.connect(["eventfd/web.f"], ["kvm/w/gsi/9"])
                # And it can be gone on with.
                self.client.call("Disconnect", {"name": "relayed"})
                self.client.call("Resume", {"name": "parked"})
                self.kill()
                self.assertEqual(sorted(self.client.list("Links")), ["direct", "level", "parked", "waiting"])


class CrashPoints(keeper.CrashCase, VaultCase):
    """Every change, with a SIGKILL at every crash point of it."""

    def wait_one_of(self, states, what):
        found = []

        def is_one():
            found[:] = [self.settled()]
            return found[0] in states

        try:
            evlink.until(is_one)
        except TimeoutError:
            self.fail(f"{what}: {found[0]} is none of {states}:\n{self.broker.said()[-3000:]}")
        return found[0]

    def every_point(self, what, do, undo):
        """Does it, killed at the first point, the second, ... until it gets through."""
        before = self.settled()
        do()
        after = self.settled()
        self.assertNotEqual(before, after, what)
        undo()
        self.wait_one_of([before], what)
        for n in self.crash_points():
            self.set_point(n)
            try:
                do()
                done = True
            except (EOFError, ConnectionError):
                done = False
            self.crashed()
            # What was answered took effect; what was not did wholly or not at all.
            state = self.wait_one_of([after] if done else [before, after], f"{what}, killed at point {n}")
            if state == after:
                undo()
                self.wait_one_of([before], f"{what}, undone after point {n}")
        return n - 1

    def call(self, method, **parameters):
        return lambda: self.client.call(method, parameters)

    def test_every_change(self):
        fds = {name: self.eventfd() for name in ("e", "f", "g")}
        for name, fd in fds.items():
            self.client.hold(name, fd)
        self.attach("a", {"v": None, "x": None})
        self.attach("b", {"w": None})
        self.client.call("Offer", {"agent": "b", "endpoints": ["kvm/w/dev/d/irq/0"]})
        many = [self.eventfd() for _ in range(40)]
        names = [f"m{i}" for i in range(40)]

        def release_many():
            for name in names:
                self.client.call("Release", {"name": name})

        def connect(name, producers, consumers, **more):
            return self.call("Connect", name=name, producers=producers, consumers=consumers, **more)

        def connect_many():
            self.client.call("ConnectMany", {"links": [
                {"name": f"s{i}", "producers": [f"kvm/v/pio/{i}"], "consumers": [f"kvm/w/gsi/{i}"], "group": "set"}
                for i in range(1, 9)]})

        tried = 0

        def every(what, do, undo):
            nonlocal tried
            tried += self.every_point(what, do, undo)

        direct = connect("l", ["kvm/v/pio/0x10"], ["kvm/w/gsi/5"])
        drop = self.call("Disconnect", name="l")
        every("Hold", lambda: self.client.hold("h", fds["e"]), self.call("Release", name="h"))
        every("HoldMany", lambda: self.client.call("HoldMany", {"names": names}, many), release_many)
        every("Connect", direct, drop)
        every("Connect, level", connect("l", ["eventfd/e"], ["kvm/w/gsi/6/level"]), drop)
        every("Connect, relayed", connect("l", ["eventfd/e"], ["kvm/w/gsi/6", "kvm/v/gsi/7", "eventfd/f"]), drop)
        every("Connect, waiting", connect("l", ["kvm/v/pio/0x10"], ["kvm/nobody/gsi/5"]), drop)
        every("ConnectMany", connect_many, self.call("Disconnect", group="set"))
        direct()
        every("Park", self.call("Park", name="l"), self.call("Resume", name="l"))
        every("Move", self.call("Move", **{"name": "l", "from": "kvm/w/gsi/5", "to": "kvm/v/gsi/9"}),
              self.call("Move", **{"name": "l", "from": "kvm/v/gsi/9", "to": "kvm/w/gsi/5"}))
        every("Disconnect", drop, direct)
        every("Leave", self.call("Leave", endpoint="kvm/w/gsi/5"), direct)
        self.client.call("Park", {"name": "l"})
        every("Resume", self.call("Resume", name="l"), self.call("Park", name="l"))
        drop()
        every("Release", self.call("Release", name="g"), lambda: self.client.hold("g", fds["g"]))
        connect("l", ["eventfd/e"], ["kvm/w/dev/d/irq/0"])()
        offer = {"agent": "b", "endpoints": ["kvm/w/dev/d/irq/0"]}

        def offer_again():
            self.client.call("Offer", offer)
            self.wait_link("l", "linked")

        every("Withdraw", self.call("Withdraw", **offer), offer_again)
        drop()
        connect_many()
        every("Disconnect of a group", self.call("Disconnect", group="set"), connect_many)
        self.client.call("Disconnect", {"group": "set"})
        for fd in fds.values():
            self.assert_count(fd, 0)
        print(f"# killed at {tried} crash points of changes")

    def test_row(self):
        """Pipelined Holds, which are made safe together: what is there afterwards are the first so many of them, no fewer
        than were answered, each with its own eventfd."""
        calls = [(f"r{i}", self.eventfd(i + 1)) for i in range(6)]
        self.client.hold("before", self.eventfd(100))
        for n in self.crash_points():
            self.set_point(n)
            answered = 0
            try:
                for name, fd in calls:
                    self.client.start("Hold", {"name": name, "fileDescriptorIndex": 0}, [fd])
                for _ in calls:
                    self.client.finish()
                    answered += 1
            except (EOFError, ConnectionError):
                pass
            last = not self.crashed()
            held = self.client.list("Eventfds")
            counts = {"before": 100, **{f"r{i}": i + 1 for i in range(len(held) - 1)}}
            self.assertEqual({name: each["pending"] for name, each in held.items()}, counts, f"point {n}")
            self.assertGreater(len(held), answered, f"point {n}")
            self.assertLessEqual(last, answered == len(calls), f"point {n}")
            for name in list(held)[1:]:
                self.client.call("Release", {"name": name})
        self.assertIn("row: before its eventfds are safe", self.reached())

    def test_every_step_of_recovery(self):
        """Killed while it comes back, too."""
        for i in range(60):
            self.client.hold(f"e{i}", self.eventfd(i))
        self.client.call("HoldMany", {"names": [f"m{i}" for i in range(50)]}, [self.eventfd() for _ in range(50)])
        self.attach("a", {"v": None, "w": None})
        for i in range(1, 6):
            self.client.connect([f"kvm/v/pio/{i}"], [f"kvm/w/gsi/{i}"], name=f"l{i}")
        before = self.settled()
        counts = {name: each["pending"] for name, each in self.client.list("Eventfds").items()}
        for n in self.crash_points(least=5):
            self.set_point(n)
            self.broker.kill()
            self.reconnect()
            with contextlib.suppress(EOFError, ConnectionError):
                self.client.call("Status")
            self.crashed(deaths=2)
            self.wait_one_of([before], f"recovery, killed at point {n}")
            self.assertEqual(
                {name: each["pending"] for name, each in self.client.list("Eventfds").items()}, counts
            )
        print(f"# killed at {n - 1} crash points of recovery")

    def test_every_step_of_cleaning(self):
        """Killed while what is live is moved out of the way of what is not."""
        fds = [self.eventfd(i) for i in range(120)]
        for i, fd in enumerate(fds):
            self.client.hold(f"e{i}", fd)
        for n in self.crash_points(least=3):
            self.client.hold(f"x{n}")
            self.client.hold(f"y{n}")
            self.client.call("Release", {"name": f"x{n}"})
            self.set_point(n)
            # The timer, unless it died before.
            time.sleep(0.5)
            self.crashed()
            found = self.client.list("Eventfds")
            self.assertEqual({found[f"e{i}"]["pending"] for i in range(120)}, set(range(120)))
            self.client.call("Release", {"name": f"y{n}"})
        print(f"# killed at {n - 1} crash points of cleaning")


if __name__ == "__main__":
    blackbox.main()
