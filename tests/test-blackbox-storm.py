#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A storm: evlinkd, as an ordinary user with 16,000 eventfds of 20,000 descriptors, is killed in the middle of one
change after the other, while a guest rings another's doorbell without pause and a VMM dies now and then. Nothing
that was acknowledged is lost, no count changes, no interrupt is lost, no plug is left behind.

EVLINK_TEST_KILLS: how often (400). EVLINK_TEST_SEED: of what is random."""
import json
import os
import random
import signal
import threading
import time

import blackbox
import evlink
import keeper

KILLS = int(os.environ.get("EVLINK_TEST_KILLS", "400"))
SEED = int(os.environ.get("EVLINK_TEST_SEED", "1"))
HELD = 16000
NOFILE = 20000


class Ringer(threading.Thread):
    """A guest that rings another's doorbell, one ring after the other has arrived. What the two threads here look at
    is in one PIC each, as looking changes it."""

    def __init__(self, one, other):
        super().__init__(daemon=True)
        self.one, self.other = one, other
        self.rings = 0
        self.longest = 0.0
        self.failure = None
        self.stop = threading.Event()

    def run(self):
        while not self.stop.is_set() and not self.failure:
            begin = time.monotonic()
            if not self.one.ring("pio", 0x10):
                self.failure = "the doorbell was not plugged"
                return
            while not self.other.interrupted(5):
                if time.monotonic() - begin > 5:
                    self.failure = f"interrupt {self.rings + 1} was lost"
                    return
            self.rings += 1
            self.longest = max(self.longest, time.monotonic() - begin)
            time.sleep(0.0002)


class Relay(threading.Thread):
    """Signals a relayed link's source, and waits for its interrupt each time: the broker may have to come back first."""

    def __init__(self, source, vm):
        super().__init__(daemon=True)
        self.source, self.vm = source, vm
        self.signals = 0
        self.failure = None
        self.stop = threading.Event()

    def run(self):
        while not self.stop.is_set():
            self.vm.interrupted(10)
            os.eventfd_write(self.source, 1)
            self.signals += 1
            begin = time.monotonic()
            while not self.vm.interrupted(10):
                if time.monotonic() - begin > 15:
                    self.failure = f"signal {self.signals} was not passed on"
                    return
                time.sleep(0.001)


class Storm(keeper.Case):
    def setUp(self):
        self.random = random.Random(SEED)
        self.held = {}  # name -> count, of those that come and go
        self.links = {}  # name -> what list_links() says of it
        self.hits = {}
        self.durations = {}  # of calls that nobody disturbs
        self.calls = 0

    def keep(self, manager):
        """A broker as another user, where this is root: one that nobody else is, as what is under way counts by user."""
        uid = 1_000_000 + os.getpid() if os.geteuid() == 0 else None
        self.broker = manager("--agent-timeout=10", uid=uid, nofile=NOFILE)
        self.addCleanup(self.broker.stop)
        self.client = self.connect()

    def reconnect(self):
        self.client.close()
        self.client = self.connect()

    # ---- What there is

    def list_links(self):
        found = {}
        for name, link in self.client.list("Links").items():
            if name in ("ring", "relay", "dying"):
                continue
            found[name] = (
                link["state"],
                tuple(end["endpoint"] for end in link["producers"]),
                tuple(end["endpoint"] for end in link["consumers"]),
            )
        return found

    def list_held(self):
        return {name: each["pending"] for name, each in self.client.list("Eventfds", match="x-*").items()}

    def plugged(self):
        return sorted(endpoint for endpoint, _ in list(self.agent.plugged))

    def expected_plugs(self, links):
        plugs = []
        for state, producers, consumers in links.values():
            plugs += [e for e in producers if e.startswith("kvm/n/")]
            if state == "linked":
                plugs += [e for e in consumers if e.startswith("kvm/n/")]
        return sorted(plugs)

    # ---- What is done: each answers with the call, and what it changes

    def a_hold(self):
        name = f"x-{self.random.randrange(1 << 30)}"
        count = self.random.randrange(10)
        fd = os.eventfd(count)
        self.fd_to_close = fd
        return ("Hold", {"name": name, "fileDescriptorIndex": 0}, [fd]), lambda held, _: held.update({name: count})

    def a_hold_many(self):
        names = [f"x-{self.random.randrange(1 << 30)}" for _ in range(5)]
        fds = [os.eventfd(3)] * 5
        self.fd_to_close = fds[0]
        return ("HoldMany", {"names": names}, fds), lambda held, _: held.update({name: 3 for name in names})

    def a_release(self):
        if not self.held:
            return None
        name = self.random.choice(sorted(self.held))
        return ("Release", {"name": name}, []), lambda held, _: held.pop(name)

    def free(self, kind, most):
        """An endpoint that no link has."""
        used = {e.removesuffix("/level") for _, ps, cs in self.links.values() for e in ps + cs}
        while True:
            endpoint = kind.format(self.random.randrange(1, most))
            if endpoint not in used:
                return endpoint

    def connect_to(self, consumers, producers=None):
        if len(self.links) > 40:
            return None
        name = f"l-{self.random.randrange(1 << 30)}"
        producers = producers or [self.free("kvm/n/pio/0x{:x}", 0x4000)]
        parameters = {"name": name, "producers": producers, "consumers": consumers}
        after = ("linked", tuple(producers), tuple(consumers))
        return ("Connect", parameters, []), lambda _, links: links.update({name: after})

    def a_connect(self):
        return self.connect_to([self.free("kvm/n/gsi/{}", 2000)])

    def a_connect_level(self):
        return self.connect_to([self.free("kvm/n/gsi/{}", 4000) + "/level"])

    def a_connect_relayed(self):
        first, second = self.free("kvm/n/gsi/{}", 1000), self.free("kvm/n/gsi/{}", 3000)
        return self.connect_to([first, second] if first != second else [first])

    def change(self, method, state, more, change):
        names = [name for name, link in self.links.items() if link[0] == state]
        if not names:
            return None
        name = self.random.choice(sorted(names))
        return (method, more(name), []), lambda _, links: change(links, name)

    def a_park(self):
        def change(links, name):
            links[name] = ("parked", *links[name][1:])

        return self.change("Park", "linked", lambda name: {"name": name}, change)

    def a_resume(self):
        def change(links, name):
            links[name] = ("linked", *links[name][1:])

        return self.change("Resume", "parked", lambda name: {"name": name}, change)

    def a_move(self):
        to = self.free("kvm/n/pio/0x{:x}", 0x4000)

        def change(links, name):
            links[name] = (links[name][0], (to,), links[name][2])

        return self.change(
            "Move", "linked", lambda name: {"name": name, "from": self.links[name][1][0], "to": to}, change
        )

    def a_disconnect(self):
        return self.change("Disconnect", "linked", lambda name: {"name": name}, lambda links, name: links.pop(name))

    def a_leave(self):
        return self.change(
            "Leave", "linked", lambda name: {"endpoint": self.links[name][1][0]}, lambda links, name: links.pop(name)
        )

    def a_connect_many(self):
        if len(self.links) > 40:
            return None
        specs, after = [], {}
        for _ in range(6):
            name = f"l-{self.random.randrange(1 << 30)}"
            producer, consumer = self.free("kvm/n/pio/0x{:x}", 0x4000), self.free("kvm/n/gsi/{}", 2000)
            if any(producer in spec["producers"] or consumer in spec["consumers"] for spec in specs):
                continue
            specs.append({"name": name, "producers": [producer], "consumers": [consumer]})
            after[name] = ("linked", (producer,), (consumer,))
        return ("ConnectMany", {"links": specs}, []), lambda _, links: links.update(after)

    OPERATIONS = (
        a_hold, a_hold_many, a_release, a_connect, a_connect_level, a_connect_relayed, a_park, a_resume, a_move,
        a_disconnect, a_leave, a_connect_many,
    )

    def one_change(self, operation, kill):
        self.fd_to_close = -1
        made = operation(self)
        if made is None:
            return False
        (method, parameters, fds), change = made
        held, links = dict(self.held), dict(self.links)
        change(held, links)
        begin = time.perf_counter()
        try:
            self.client.start(method, parameters, fds)
            if kill:
                # From before it is read until after it is answered.
                until = begin + self.random.random() * 1.2 * self.durations.get(operation, 0.0005)
                while time.perf_counter() < until:
                    pass
                self.broker.kill()
                self.kills += 1
            self.client.finish()
            answered = True
        except (EOFError, ConnectionError):
            self.assertTrue(kill, "the broker closed the connection by itself")
            answered = False
        finally:
            if self.fd_to_close >= 0:
                os.close(self.fd_to_close)
        self.calls += 1
        if kill:
            self.reconnect()
            self.check(answered, operation.__name__, held, links)
        else:
            # What it takes, roughly.
            took = time.perf_counter() - begin
            self.durations[operation] = 0.8 * self.durations.get(operation, took) + 0.2 * took
            self.held, self.links = held, links
        return not answered

    def check(self, answered, what, held, links):
        """Those before, if it was not answered, or those after."""
        choices = [(held, links)] if answered else [(held, links), (self.held, self.links)]
        found = []

        def is_right():
            found[:] = [self.list_held(), self.list_links()]
            return any(found == [h, l] and self.plugged() == self.expected_plugs(l) for h, l in choices)

        try:
            evlink.until(is_right)
        except TimeoutError:
            self.fail(
                f"{what}, answered {answered}: found {json.dumps(found)}, plugged {self.plugged()}, "
                f"wanted {json.dumps(choices)}: {self.broker.said()[-2000:]}"
            )
        self.held, self.links = found

    def hold_base(self):
        """Sixteen thousand, of a few counts."""
        fds = [os.eventfd(i) for i in range(250)]
        for first in range(0, HELD, 250):
            self.client.call("HoldMany", {"names": [f"base-{first + i}" for i in range(250)]}, fds)
        evlink.close_all(fds)

    @blackbox.needs_kvm
    def test_storm(self):
        self.keep(keeper.Keeper)
        self.storm(KILLS)

    @blackbox.needs_kvm
    def test_supervised(self):
        self.keep(keeper.Supervised)
        self.storm(max(KILLS // 4, 10))

    def storm(self, kills):
        one, other = self.vm(), self.vm()
        self.hold_base()
        # Rings go on in processes' own threads; what changes without end is at an agent whose kernel is a table.
        self.attach("ring", {"one": one, "other": other})
        self.agent = self.attach("n", {"n": None})
        self.client.connect(["kvm/one/pio/0x10"], ["kvm/other/gsi/5"], name="ring")
        source, sink = self.eventfd(), self.eventfd()
        self.client.hold("source", source)
        self.client.hold("sink", sink)
        self.client.connect(["eventfd/source"], ["kvm/other/gsi/10", "eventfd/sink"], name="relay")
        self.client.connect(["kvm/one/pio/0x20"], ["kvm/d/gsi/7"], name="dying")
        vmm = evlink.AgentProcess(self.broker.path, "d", "d", True)
        deaths = 0
        ringer, relay = Ringer(one, other), Relay(source, other)
        ringer.start()
        relay.start()
        self.kills = 0
        self.hits = {operation: 0 for operation in self.OPERATIONS}
        try:
            while self.kills < kills or min(self.hits.values()) < kills // 20:
                # Some changes in peace, then one that is hit: of the kind that was hit the least.
                for _ in range(self.random.randrange(6)):
                    self.one_change(self.random.choice(self.OPERATIONS), False)
                operation = min(self.OPERATIONS, key=lambda each: (self.hits[each], self.random.random()))
                self.hits[operation] += self.one_change(operation, True)
                self.assertLess(self.kills, 6 * kills + 100, f"some changes are never hit: {self.hits}")
                if self.kills % 23 == 22:
                    vmm.kill()
                    deaths += 1
                    evlink.until(lambda: self.client.list("Links", match="dying")["dying"]["state"] == "waiting")
                    vmm = evlink.AgentProcess(self.broker.path, "d", "d", True)
                    self.wait_link("dying", "linked")
                self.assertIsNone(ringer.failure)
                self.assertIsNone(relay.failure)
        finally:
            ringer.stop.set()
            relay.stop.set()
            ringer.join()
            relay.join()
            vmm.kill()
        self.assertIsNone(ringer.failure)
        self.assertIsNone(relay.failure)
        self.assertGreater(ringer.rings, 10 * kills)
        found = self.client.list("Eventfds", match="base-*")
        self.assertEqual({name: each["pending"] for name, each in found.items()},
                         {f"base-{i}": i % 250 for i in range(HELD)})
        self.assertEqual(len(self.broker.deaths), self.kills)
        self.assertEqual(set(self.broker.deaths), {signal.SIGKILL})
        self.assertLessEqual(len(self.broker.stored), 16)
        # Each signal at least once, and with each death once more at the most.
        count = evlink.fdinfo(sink)[0]
        self.assertGreaterEqual(count, relay.signals)
        self.assertLessEqual(count, relay.signals + self.kills)
        hits = ", ".join(f"{each.__name__[2:]} {n}" for each, n in self.hits.items())
        print(
            f"# seed {SEED}: {self.kills} kills with {HELD} eventfds held, in the middle of {hits}; {self.calls} changes; "
            f"{ringer.rings} rings and as many interrupts, the slowest after {ringer.longest * 1000:.0f} ms; "
            f"{relay.signals} signals relayed, {count} counted; a VMM died {deaths} times"
        )


if __name__ == "__main__":
    blackbox.main()
