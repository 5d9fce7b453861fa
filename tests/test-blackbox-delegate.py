#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scopes: what a delegated connection owns, sees and uses, and what it does not, whatever its uid; and that it outlives
the broker, whose calls that were under way are answered with Restarted.

EVLINK_TEST_KILLS: how often the storm kills it (400). EVLINK_TEST_SEED: of what is random there."""
import contextlib
import fcntl
import json
import os
import random
import signal
import socket
import struct
import tempfile
import termios
import threading
import time

import blackbox
import evlink
import keeper

DENIED = ("PermissionDenied", {})
KILLS = int(os.environ.get("EVLINK_TEST_KILLS", "400"))
SEED = int(os.environ.get("EVLINK_TEST_SEED", "1"))


class DelegateCase(blackbox.Case):
    def delegate(self, scope, endpoints=(), connection=None, **more):
        """The connection that a tenant gets."""
        connection = connection or self.client
        connection.call("Delegate", dict(more, scope=scope, endpoints=list(endpoints)))
        tenant = evlink.Connection(socket.socket(fileno=connection.take()))
        self.addCleanup(tenant.close)
        return tenant

    def denied(self, tenant, method, parameters, fds=()):
        self.refused(*DENIED, method, parameters, fds, connection=tenant)

    def names(self, connection):
        return {name for what in ("Eventfds", "Links", "Agents") for name in connection.list(what)}


class Scopes(DelegateCase):
    def test_names(self):
        web = self.delegate("web")
        fd = self.eventfd(3)
        found = web.hold("web.bell", fd)
        owner = {"uid": os.geteuid(), "gid": os.getegid(), "pid": os.getpid(), "scope": "web"}
        self.assertEqual({key: found["owner"].get(key) for key in owner}, owner)
        web.call("HoldMany", {"names": ["web.a", "web.b"]}, [self.eventfd(), self.eventfd()])
        web.call("Signal", {"name": "web.bell", "count": 2})
        self.assert_count(self.own(web.claim("web.bell")), 5)
        web.call("Release", {"name": "web.b"})
        self.assertEqual(self.names(web), {"web.bell", "web.a"})
        # Who delegated owns it as well.
        self.assertEqual(self.names(self.client), {"web.bell", "web.a"})
        self.client.call("Signal", {"name": "web.bell"})
        for name in ("bell", "webbell", "web", "web-bell", "db.bell"):
            self.denied(web, "Hold", {"name": name})
            self.denied(web, "HoldMany", {"names": ["web.x", name]}, [self.eventfd(), self.eventfd()])
        self.refused("InvalidParameter", {"parameter": "name"}, "Hold", {"name": "web/x"}, connection=web)

    def test_strangers(self):
        """Of what is another's it learns that the name is taken, and no more."""
        web, db = self.delegate("web", ["kvm/v"]), self.delegate("db", ["kvm/w"])
        fd = self.eventfd()
        self.client.hold("bell", fd)
        db.hold("db.bell")
        db.connect(["kvm/w/pio/0x10"], ["kvm/w/gsi/5"], name="db.l", group="db.g")
        self.attach("db.vm", {"w": None}, db)
        self.wait_link("db.l", "linked")
        self.client.connect(["kvm/v/pio/0x10"], ["kvm/v/gsi/5"], name="l", group="g")
        for what in ("Eventfds", "Links", "Agents"):
            self.assertEqual(web.list(what), {})
            self.assertEqual(web.list(what, match="*"), {})
        self.assertEqual(web.stream("Export"), [{}])
        for name in ("bell", "db.bell"):
            self.refused("NameTaken", {"name": name}, "Hold", {"name": name}, connection=web)
            for method in ("Claim", "Release", "Signal"):
                self.denied(web, method, {"name": name})
            self.denied(web, "Claim", {"name": name + "/eoi"})
            self.denied(web, "Connect", {"producers": [f"eventfd/{name}"], "consumers": ["kvm/v/gsi/6"]})
        for name in ("l", "db.l"):
            for method in ("Disconnect", "Park", "Resume"):
                self.denied(web, method, {"name": name})
            self.denied(web, "Move", {"name": name, "from": "kvm/v/gsi/5", "to": "kvm/v/gsi/6"})
        for method in ("Disconnect", "Park", "Resume"):
            for group in ("g", "db.g"):
                self.refused("NoSuchLink", {"name": group}, method, {"group": group}, connection=web)
        self.denied(web, "Detach", {"name": "db.vm"})
        self.denied(web, "Offer", {"agent": "db.vm", "endpoints": ["kvm/w/dev/d/irq/0"]})
        self.denied(web, "Withdraw", {"agent": "db.vm", "endpoints": ["kvm/w/gsi/5"]})
        self.denied(web, "Leave", {"endpoint": "kvm/w/gsi/5"})
        self.denied(web, "GetConfig", {})
        self.denied(web, "Attach", {"name": "web.vm", "subsystems": [{"kind": "kvm", "name": "w"}]})
        # The link that has it is not told: it is not in the scope.
        self.client.call("Leave", {"endpoint": "kvm/v/pio/0x10"})
        self.client.connect(["eventfd/bell"], ["kvm/v/gsi/7"], name="rings")
        other = self.delegate("web", ["eventfd/bell", "kvm/v"])
        error = self.refused("EndpointBusy", {"endpoint": "eventfd/bell"}, "Connect",
                             {"producers": ["eventfd/bell"], "consumers": ["kvm/v/gsi/8"]}, connection=other)
        self.assertNotIn("link", error.parameters)
        # One name of another uid's that begins as the scope does is another's still.
        if os.geteuid() == 0:
            mine = self.delegate("mine", connection=self.connect_as(1000))
            self.client.hold("mine.x")
            self.assertEqual(self.names(mine), set())
            self.denied(mine, "Claim", {"name": "mine.x"})
            self.refused("NameTaken", {"name": "mine.x"}, "Hold", {"name": "mine.x"}, connection=mine)

    def test_endpoints(self):
        web = self.delegate("web", ["kvm/vm1", "vhost/net0/vring/0", "eventfd/bell", "kvm/vm2/gsi/0x5"])
        link = web.connect(["kvm/vm1/pio/0x10"], ["kvm/vm1/gsi/5/level"], group="web.g")
        self.assertRegex(link["name"], r"^web\.link-\d+$")
        self.assertEqual(link["owner"]["scope"], "web")
        for producers, consumers in (
            (["eventfd/web.a"], ["kvm/vm1/dev/disk/irq/3"]),
            (["eventfd/bell"], ["vhost/net0/vring/0/kick"]),
            (["kvm/vm1/mmio/0x1000/4=0x1"], ["kvm/vm2/gsi/5"]),
        ):
            web.connect(producers, consumers, name="web.l")
            self.assertEqual(set(web.list("Links", match="web.l")), {"web.l"})
            web.call("Disconnect", {"name": "web.l"})
        for producer, consumer in (
            ("kvm/vm10/pio/0x10", "kvm/vm1/gsi/5"),
            ("kvm/vm1/pio/0x10", "kvm/vm10/gsi/5"),
            ("kvm/vm1/pio/0x10", "kvm/vm2/gsi/6"),
            ("kvm/vm1/pio/0x10", "vhost/net0/vring/1/kick"),
            ("vhost/net0/vring/1/call", "kvm/vm1/gsi/5"),
            ("eventfd/bell2", "kvm/vm1/gsi/6"),
            ("eventfd/web", "kvm/vm1/gsi/6"),
            ("vfio/vm1/err", "kvm/vm1/gsi/6"),
        ):
            self.denied(web, "Connect", {"producers": [producer], "consumers": [consumer]})
        self.denied(web, "Connect", {"name": "l", "producers": ["kvm/vm1/pio/0x20"], "consumers": ["kvm/vm1/gsi/6"]})
        self.denied(web, "Connect", {"producers": ["kvm/vm1/pio/0x20"], "consumers": ["kvm/vm1/gsi/6"], "group": "g"})
        self.denied(web, "ConnectMany", {"links": [
            {"producers": ["kvm/vm1/pio/0x20"], "consumers": ["kvm/vm1/gsi/6"]},
            {"producers": ["kvm/vm1/pio/0x24"], "consumers": ["kvm/vm3/gsi/6"]}]})
        self.denied(web, "Move", {"name": link["name"], "from": "kvm/vm1/pio/0x10", "to": "kvm/vm10/pio/0x10"})
        web.call("Move", {"name": link["name"], "from": "kvm/vm1/pio/0x10", "to": "kvm/vm1/pio/0x20"})
        self.assertEqual([each["link"]["group"] for each in web.stream("Export")], ["web.g"])
        web.call("Disconnect", {"group": "web.g"})
        # An endpoint of another's eventfd is for linking, not for claiming.
        self.client.hold("bell")
        web.connect(["eventfd/bell"], ["kvm/vm1/gsi/9"], name="web.l")
        self.denied(web, "Claim", {"name": "bell"})
        web.call("Leave", {"endpoint": "eventfd/bell"})
        self.assertEqual(web.list("Links"), {})

    def test_attach(self):
        web = self.delegate("web", ["kvm/vm1", "kvm/vm2/gsi", "vfio/d"])
        agent = self.attach("web.vm1", {"vm1": None}, web)
        self.assertEqual(web.list("Agents")["web.vm1"]["owner"]["scope"], "web")
        web.connect(["kvm/vm1/pio/0x10"], ["kvm/vm1/gsi/5"], name="web.l")
        self.wait_link("web.l", "linked")
        web.call("Offer", {"agent": "web.vm1", "endpoints": ["kvm/vm1/dev/d/irq/0"]})
        subsystem = {"kind": "kvm", "name": "vm1"}
        self.denied(web, "Attach", {"name": "vm3", "subsystems": [subsystem]})
        for kind, name in (("kvm", "vm2"), ("kvm", "vm10"), ("vhost", "d")):
            self.denied(web, "Attach", {"name": "web.x", "subsystems": [subsystem, {"kind": kind, "name": name}]})
        self.refused("SubsystemTaken", {"kind": "kvm", "name": "vm1", "agent": "web.vm1"}, "Attach",
                     {"name": "web.x", "subsystems": [subsystem]}, connection=web)
        # Another's agent has no name here.
        self.attach("outside", {"vm2": None})
        other = self.delegate("other", ["kvm/vm2", "kvm/vm1"])
        self.refused("SubsystemTaken", {"name": "vm2", "agent": ""}, "Attach",
                     {"name": "other.x", "subsystems": [{"kind": "kvm", "name": "vm2"}]}, connection=other)
        web.call("Detach", {"name": "web.vm1"})
        agent.join()
        # It has sockets that were made by who delegated, and could stop the broker with a page fault in a recvmsg().
        parameters = {"name": "web.vm1", "subsystems": [subsystem], "fileDescriptorIndex": 0}
        for sock in (web.sock, agent.frames.sock, self.pair()[0]):
            error = self.refused("BadDescriptor", {"fileDescriptorIndex": 0}, "Attach", parameters, [sock.fileno()],
                                 connection=web)
            self.assertIn("delegated", error.parameters["reason"])

    def test_monitor(self):
        web, watcher = self.delegate("web", ["kvm/vm1"]), self.delegate("web", ["kvm/vm1"])
        watcher.start("Monitor", more=True)
        self.assertEqual(watcher.finish(), ({}, True))
        self.client.hold("bell")
        self.client.hold("web.bell")
        db = self.delegate("db", ["kvm/vm1", "kvm/vm2"])
        db.hold("db.bell")
        self.attach("outside", {"vm1": None, "vm2": None})
        db.connect(["kvm/vm2/pio/0x10"], ["kvm/vm1/gsi/5"], name="db.l")
        db.call("Leave", {"endpoint": "kvm/vm2/pio/0x10"})
        web.connect(["kvm/vm1/pio/0x10"], ["kvm/vm1/gsi/5"], name="web.l")
        told = []
        while ("linked", "web.l", "web.l") not in told:
            notice = watcher.finish()[0]["notice"]
            told.append((notice["type"], notice["subject"], notice.get("link")))
        # Its endpoints' news, without the names of those that are not its own.
        self.assertEqual(told[0], ("held", "web.bell", None))
        self.assertTrue(all(subject.startswith(("web.", "kvm/vm1/")) for _, subject, _ in told), told)
        self.assertTrue(all(link in (None, "web.l") for _, _, link in told), told)
        self.assertIn(("left", "kvm/vm1/gsi/5", None), told)

    def test_quotas(self):
        web = self.delegate("web", ["kvm/v"], maxEventfds=3, maxLinks=2)
        fds = [self.eventfd() for _ in range(4)]
        names = [f"web.{i}" for i in range(4)]
        limit = {"what": "eventfds of one scope", "limit": 3}
        self.refused("QuotaExceeded", limit, "HoldMany", {"names": names}, fds, connection=web)
        web.call("HoldMany", {"names": names[:3]}, fds[:3])
        self.refused("QuotaExceeded", limit, "Hold", {"name": "web.3"}, connection=web)
        # Whichever of the scope's connections, or of those within it, made it.
        again = self.delegate("web", maxEventfds=4)
        again.hold("web.3")
        self.refused("QuotaExceeded", {"limit": 4}, "Hold", {"name": "web.4"}, connection=again)
        free = self.delegate("web")
        inner = self.delegate("web.in", connection=free)
        inner.hold("web.in.4")
        web.call("Release", {"name": "web.0"})
        web.call("Release", {"name": "web.1"})
        self.refused("QuotaExceeded", limit, "Hold", {"name": "web.5"}, connection=web)
        web.call("Release", {"name": "web.2"})
        web.hold("web.5")
        # Nobody gets more by delegating to itself.
        tricked = self.delegate("web.more", connection=web, maxEventfds=1000)
        self.refused("QuotaExceeded", limit, "Hold", {"name": "web.more.x"}, connection=tricked)
        # Another scope's, and those of who delegated, do not count.
        self.delegate("we").hold("we.x")
        self.client.hold("web.outside")
        limit = {"what": "links of one scope", "limit": 2}
        ends = {"producers": ["kvm/v/pio/0x10"], "consumers": ["kvm/v/gsi/5", "kvm/v/gsi/6"]}
        web.call("Connect", ends)
        self.refused("QuotaExceeded", limit, "Connect",
                     {"producers": ["kvm/v/pio/0x20"], "consumers": ["kvm/v/gsi/7"]}, connection=web)
        self.refused("QuotaExceeded", {"limit": 0}, "Hold", {"name": "none.x"},
                     connection=self.delegate("none", maxEventfds=0))

    def test_nested(self):
        web = self.delegate("web", ["kvm/vm1", "eventfd/bell"])
        inner = self.delegate("web.in", ["kvm/vm1/gsi", "eventfd/web.out", "eventfd/bell"], web)
        inner.hold("web.in.x")
        web.hold("web.out")
        inner.connect(["eventfd/web.out"], ["kvm/vm1/gsi/5"], name="web.in.l")
        self.assertEqual(self.names(inner), {"web.in.x", "web.in.l"})
        self.assertEqual(self.names(web), {"web.in.x", "web.in.l", "web.out"})
        self.assertEqual(web.list("Links")["web.in.l"]["owner"]["scope"], "web.in")
        for name in ("web.x", "web.in", "x"):
            self.denied(inner, "Hold", {"name": name})
        self.denied(inner, "Connect", {"producers": ["kvm/vm1/pio/0x10"], "consumers": ["kvm/vm1/gsi/6"]})
        for scope in ("web", "in", "db.in", "web2"):
            self.denied(web, "Delegate", {"scope": scope, "endpoints": []})
        for endpoint in ("kvm/vm10", "kvm/vm2/gsi/5", "eventfd/gong", "vfio/d"):
            self.denied(web, "Delegate", {"scope": "web.x", "endpoints": ["kvm/vm1/gsi/5", endpoint]})

    def test_bad(self):
        def bad(name, told, **parameters):
            self.refused(name, told, "Delegate", dict({"scope": "s", "endpoints": []}, **parameters))

        for scope in ("", "a/b", ".a", "x" * 38):
            bad("InvalidParameter", {"parameter": "scope"}, scope=scope)
            self.refused("InvalidParameter", {"parameter": "scope"}, "Revoke", {"scope": scope})
        bad("InvalidParameter", {"parameter": "maxEventfds"}, maxEventfds=-1)
        bad("InvalidParameter", {"parameter": "maxLinks"}, maxLinks=-1)
        bad("InvalidParameter", {"parameter": "maxlinks"}, maxlinks=1)
        for endpoint in ("", "kvm", "kvm/", "kvm/v/", "kvm/v/gsi/x", "eventfd/*", "usb/d", "x" * 200):
            error = self.assert_error("BadEndpoint", {}, self.client.call, "Delegate",
                                      {"scope": "s", "endpoints": ["kvm/v", endpoint]})
            self.assertTrue(endpoint.startswith(error.parameters["endpoint"]))
        bad("QuotaExceeded", {"what": "endpoints of one scope", "limit": 256}, endpoints=["kvm/v"] * 257)
        long = self.delegate("x" * 37, ["kvm/v"])
        link = long.connect(["kvm/v/pio/0x10"], ["kvm/v/gsi/5"])
        self.assertTrue(link["name"].startswith("x" * 37 + ".link-"))
        long.connect(["kvm/v/pio/0x14"], ["kvm/v/gsi/6"], name="x" * 37 + "." + "y" * 25)

    @blackbox.needs_root
    def test_rights(self):
        """Nobody gives what is not its own."""
        alice, bob = self.connect_as(1000), self.connect_as(1001)
        self.attach("vm", {"v": None}, alice)
        alice.hold("bell")
        for endpoint in ("kvm/v", "kvm/v/gsi", "kvm/v/gsi/5", "eventfd/bell"):
            self.denied(bob, "Delegate", {"scope": "s", "endpoints": ["kvm/w", endpoint]})
        tenant = self.delegate("s", ["kvm/v", "eventfd/bell", "kvm/w"], alice)
        tenant.connect(["eventfd/bell"], ["kvm/v/gsi/5"], name="s.l")
        self.assertEqual(alice.list("Links")["s.l"]["owner"]["uid"], 1000)
        # What was nobody's when it was given may be somebody's later.
        self.attach("other", {"w": None}, bob)
        self.denied(tenant, "Connect", {"producers": ["kvm/w/pio/0x10"], "consumers": ["kvm/v/gsi/6"]})
        # Root may give all, and its tenant has no more than that.
        rooted = self.delegate("r", ["kvm/v"])
        rooted.connect(["kvm/v/pio/0x10"], ["kvm/v/gsi/9"])
        self.denied(rooted, "Connect", {"producers": ["kvm/w/pio/0x10"], "consumers": ["kvm/v/gsi/6"]})
        self.denied(rooted, "Claim", {"name": "bell"})
        for connection, name in ((alice, "vm"), (bob, "other")):
            connection.call("Detach", {"name": name})

    def test_revoke(self):
        web = [self.delegate("web", ["kvm/v"]) for _ in range(3)]
        inner = self.delegate("web.in", connection=web[1])
        db = self.delegate("db")
        web[0].hold("web.stays")
        web[0].hold("web.goes", lifetime="connection")
        web[2].start("Monitor", more=True)
        web[2].finish()
        self.denied(web[0], "Revoke", {"scope": "web"})
        self.denied(web[0], "Revoke", {"scope": "db"})
        self.refused("InvalidParameter", {"parameter": "scope"}, "Revoke", {"scope": "web.no"}, connection=web[0])
        web[0].call("Revoke", {"scope": "web.in"})
        self.assertTrue(inner.at_end())
        # Its connection is gone, what it was before is not.
        inner = self.delegate("web.in", connection=web[1])
        self.client.call("Revoke", {"scope": "web"})
        for tenant in (web[0], web[1], inner):
            self.assertTrue(tenant.at_end())
        self.assertEqual(self.names(self.client), {"web.stays"})
        db.hold("db.x")
        for scope in ("web", "web.in", "none", "d"):
            self.refused("InvalidParameter", {"parameter": "scope"}, "Revoke", {"scope": scope})
        # And it can be delegated anew.
        self.assertEqual(self.names(self.delegate("web")), {"web.stays"})

    @blackbox.needs_root
    def test_revoke_others(self):
        mine, theirs = self.delegate("web", connection=self.connect_as(1000)), self.delegate("web")
        bob = self.connect_as(1001)
        self.refused("InvalidParameter", {"parameter": "scope"}, "Revoke", {"scope": "web"}, connection=bob)
        self.connect_as(1000).call("Revoke", {"scope": "web"})
        self.assertTrue(mine.at_end())
        self.delegate("web", connection=self.connect_as(1000))
        self.assertEqual(self.names(theirs), set())
        self.client.call("Revoke", {"scope": "web"})
        self.assertTrue(theirs.at_end())

    def test_revoke_under_way(self):
        """A call that waits for an agent when its connection is closed goes on."""
        web = self.delegate("web", ["kvm/v"])
        agent = self.attach("vm", {"v": None})
        agent.gate.clear()
        web.start("Connect", {"name": "web.l", "producers": ["kvm/v/pio/0x10"], "consumers": ["kvm/v/gsi/5"]})
        agent.wait_for(1)
        self.client.call("Revoke", {"scope": "web"})
        self.assertTrue(web.at_end())
        agent.gate.set()
        evlink.until(lambda: "web.l" in self.client.list("Links"))
        self.wait_link("web.l", "linked")

    def test_close(self):
        """A tenant that hangs up is gone."""
        web = self.delegate("web")
        web.hold("web.x", lifetime="connection")
        web.close()
        evlink.until(lambda: not self.client.list("Eventfds"))
        self.refused("InvalidParameter", {"parameter": "scope"}, "Revoke", {"scope": "web"})

    def test_shared(self):
        """Tenants are kept apart, however they go about it at once."""
        tenants = [self.delegate(f"t{i}", [f"kvm/v{i}"]) for i in range(8)]
        failed = []

        def work(i):
            try:
                for k in range(50):
                    tenants[i].hold(f"t{i}.e{k}")
                    tenants[i].connect([f"eventfd/t{i}.e{k}"], [f"kvm/v{i}/gsi/{k}"])
                assert all(name.startswith(f"t{i}.") for name in self.names(tenants[i]))
                assert len(self.names(tenants[i])) == 100
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])
        self.assertEqual(len(self.names(self.client)), 800)


class Limits(DelegateCase):
    """[Allow] rules, and what a user may have, with scopes."""

    @classmethod
    def setUpClass(cls):
        cls.config = tempfile.NamedTemporaryFile("w", suffix=".conf")
        cls.config.write(
            "[Broker]\nMaxEventfdsPerUser=4\nMaxConnectionsPerUser=6\n"
            "[Allow vm]\nUser=1000\nVerbs=connect\nEndpoints=kvm/open/*\n"
            "[Allow some]\nUser=1000\nVerbs=connect\nEndpoints=kvm/some/gsi/5\n"
            "[Allow all]\nUser=1000\nVerbs=*\nNames=*\n"
        )
        cls.config.flush()
        cls.options = ("--config=" + cls.config.name,)
        super().setUpClass()

    @blackbox.needs_root
    def test_rules(self):
        alice = self.connect_as(1000)
        self.attach("vm", {"open": None, "some": None, "closed": None})
        self.client.hold("bell")
        self.client.hold("s.mine")
        # Who may use it may give it.
        tenant = self.delegate("s", ["kvm/open", "kvm/some/gsi/5"], alice)
        for endpoint in ("kvm/closed", "kvm/some", "kvm/some/gsi/6"):
            self.denied(alice, "Delegate", {"scope": "s", "endpoints": [endpoint]})
        tenant.connect(["kvm/open/pio/0x10"], ["kvm/some/gsi/5"], name="s.l")
        # A rule counts in a scope, and widens none.
        alice.call("Signal", {"name": "bell"})
        self.denied(tenant, "Signal", {"name": "bell"})
        tenant.call("Signal", {"name": "s.mine"})
        self.assertEqual(set(tenant.list("Eventfds")), {"s.mine"})

    @blackbox.needs_root
    def test_user(self):
        """The user's own limits stand beside the scope's, and so does that of connections."""
        alice = self.connect_as(1000)
        tenant = self.delegate("s", [], alice, maxEventfds=3)
        alice.hold("a")
        alice.hold("b")
        tenant.hold("s.a")
        tenant.hold("s.b")
        self.refused("QuotaExceeded", {"what": "eventfds of one user"}, "Hold", {"name": "s.c"}, connection=tenant)
        alice.call("Release", {"name": "a"})
        tenant.hold("s.c")
        alice.call("Release", {"name": "b"})
        self.refused("QuotaExceeded", {"what": "eventfds of one scope"}, "Hold", {"name": "s.d"}, connection=tenant)
        for i in range(4):
            self.delegate(f"more{i}", connection=alice)
        self.refused("QuotaExceeded", {"what": "connections of one user", "limit": 6}, "Delegate",
                     {"scope": "more", "endpoints": []}, connection=alice)


class KeptCase(keeper.Case, DelegateCase):
    """With a broker that is started again whenever it dies."""

    def keep_configured(self, text):
        config = tempfile.NamedTemporaryFile("w", suffix=".conf")
        self.addCleanup(config.close)
        config.write(text)
        config.flush()
        self.keep("--config=" + config.name)

    def keep_with(self, **limits):
        self.keep_configured("[Broker]\n" + "".join(f"{key}={value}\n" for key, value in limits.items()))

    def kill_next(self):
        """Kills the one that runs now, or is started now, and leaves the client without a connection."""
        evlink.until(lambda: os.path.exists(f"/proc/{self.broker.pid}"), "the next evlinkd")
        self.broker.kill()

    def freeze(self):
        """Stops the broker: what is sent from now on waits for the next one, after kill()."""
        os.kill(self.broker.pid, signal.SIGSTOP)

    def restarted(self, tenant):
        self.assert_error("Restarted", {}, tenant.finish)

    def unread(self, tenant):
        """How much waits to be read, when no more comes."""
        last = -1
        while True:
            now = struct.unpack("i", fcntl.ioctl(tenant.sock, termios.FIONREAD, bytes(4)))[0]
            if now == last and now > 0:
                return now
            last = now
            time.sleep(0.05)

    def await_answer(self, tenant):
        """The open call is answered, and its answer waits to be read."""
        self.unread(tenant)


class Survive(KeptCase):
    def test_survives(self):
        self.keep()
        web = self.delegate("web", ["kvm/v"], maxEventfds=3)
        before = web.hold("web.a", self.eventfd(7))
        for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGABRT):
            self.kill(number)
            found = web.list("Eventfds")
            self.assertEqual({name: each["owner"] for name, each in found.items()}, {"web.a": before["owner"]})
        # It is confined as it was, and limited.
        with self.assertRaises(evlink.Error):
            web.hold("b")
        with self.assertRaises(evlink.Error):
            web.connect(["kvm/w/pio/0x10"], ["kvm/v/gsi/5"])
        web.connect(["kvm/v/pio/0x10"], ["kvm/v/gsi/5"], name="web.l")
        self.assert_count(self.own(web.claim("web.a")), 7)
        web.hold("web.b")
        web.hold("web.c")
        self.assert_error("QuotaExceeded", {"limit": 3}, web.hold, "web.d")
        # What it made before counts, and is charged to the scope, for the next one too.
        self.assert_error("QuotaExceeded", {"limit": 2}, self.delegate("web", maxEventfds=2).hold, "web.d")
        inner = self.delegate("web.in", ["kvm/v/gsi"], web, maxLinks=1)
        self.kill()
        self.assert_error("QuotaExceeded", {"limit": 3}, inner.hold, "web.in.d")
        inner.connect(["eventfd/web.in.x"], ["kvm/v/gsi/7"])
        self.assert_error("QuotaExceeded", {"limit": 1}, inner.connect, ["eventfd/web.in.y"], ["kvm/v/gsi/8"])
        self.client.call("Revoke", {"scope": "web.in"})
        # At once, though copies of the socket are in queues still.
        inner.sock.settimeout(0)
        self.assertTrue(inner.at_end())
        # What is revoked stays so.
        self.kill()
        web.call("Release", {"name": "web.c"})
        self.assert_error("InvalidParameter", {}, self.client.call, "Revoke", {"scope": "web.in"})
        self.client.call("Revoke", {"scope": "web"})
        self.assertTrue(web.at_end())
        self.assertEqual(sorted(self.client.list("Eventfds")), ["web.a", "web.b"])

    def test_agent(self):
        self.keep()
        web = self.delegate("web", ["kvm/v"])
        self.attach("web.vm", {"v": None}, web)
        web.connect(["kvm/v/pio/0x10"], ["kvm/v/gsi/5"], name="web.l")
        self.kill()
        self.assertEqual(web.list("Agents")["web.vm"]["owner"]["scope"], "web")
        web.call("Offer", {"agent": "web.vm", "endpoints": ["kvm/v/dev/d/irq/0"]})
        self.wait_link("web.l", "linked")
        web.call("Disconnect", {"name": "web.l"})
        self.assertRegex(web.connect(["kvm/v/pio/0x10"], ["kvm/v/gsi/5"])["name"], r"^web\.link-")

    def test_lifetime(self):
        """What lasts as long as a connection ends with the broker, though the connection goes on."""
        self.keep()
        web = self.delegate("web", ["kvm/v"])
        web.hold("web.goes", lifetime="connection")
        web.hold("web.stays")
        self.kill()
        self.assertEqual(set(web.list("Eventfds")), {"web.stays"})
        web.hold("web.goes", lifetime="connection")
        web.close()
        evlink.until(lambda: set(self.client.list("Eventfds")) == {"web.stays"})

    def test_closed_meanwhile(self):
        self.keep()
        web, db = self.delegate("web"), self.delegate("db")
        before = len(self.broker.fds())
        self.freeze()
        web.close()
        self.kill()
        db.call("Status")
        evlink.until(lambda: len(self.broker.fds()) <= before - 2)
        self.assert_error("InvalidParameter", {}, self.client.call, "Revoke", {"scope": "web"})
        self.client.call("Revoke", {"scope": "db"})

    def test_sent_meanwhile(self):
        """Calls that nobody had begun to take are served as if nothing had happened, with their descriptors."""
        self.keep()
        web = self.delegate("web")
        self.freeze()
        fd = self.eventfd(3)
        web.start("Hold", {"name": "web.a", "fileDescriptorIndex": 0}, [fd])
        web.start("Hold", {"name": "web.oneway"}, oneway=True)
        web.start("Claim", {"name": "web.a"})
        web.start("ListEventfds", more=True)
        self.kill()
        self.assertEqual(web.finish()[0]["eventfd"]["name"], "web.a")
        web.finish()
        self.assertEqual(evlink.fdinfo(self.own(web.take()))[1], evlink.fdinfo(fd)[1])
        self.assertEqual(web.finish()[0]["eventfd"]["name"], "web.a")
        self.assertEqual(web.finish()[0]["eventfd"]["name"], "web.oneway")

    def test_under_way(self):
        """A call that waits for an agent is answered with Restarted, those behind it are served."""
        self.keep()
        web = self.delegate("web", ["kvm/v"])
        agent = self.attach("vm", {"v": None})
        for n in range(3):
            agent.gate.clear()
            web.start("Connect", {"name": "web.l", "producers": ["kvm/v/pio/0x10"], "consumers": ["kvm/v/gsi/5"]},
                      oneway=n == 1)
            web.start("Hold", {"name": f"web.{n}"})
            evlink.until(lambda: agent.requests and agent.requests[-1].method == "Plug")
            self.broker.kill()
            agent.requests.clear()
            agent.gate.set()
            if n != 1:
                self.restarted(web)
            web.finish()
            self.assertEqual(web.list("Links"), {})
            agent.requests.clear()
        self.assertEqual(set(web.list("Eventfds")), {"web.0", "web.1", "web.2"})
        self.reconnect()

    def test_monitor(self):
        self.keep()
        web = self.delegate("web")
        web.start("Monitor", more=True)
        web.finish()
        self.client.hold("web.x")
        self.assertEqual(web.finish()[0]["notice"]["subject"], "web.x")
        self.kill()
        self.restarted(web)
        web.start("Monitor", more=True)
        self.assertEqual(web.finish(), ({}, True))
        self.client.hold("web.y")
        self.assertEqual(web.finish()[0]["notice"]["subject"], "web.y")

    def test_monitor_hangs_up(self):
        """A subscriber that hangs up is gone, also with a call behind its subscription, which spins nothing."""
        self.keep()
        for more in (0, 3):
            web = self.delegate("web")
            web.start("Monitor", more=True)
            web.finish()
            for _ in range(more):
                web.start("Status")
            self.client.hold("web.x")
            self.assertEqual(web.finish()[0]["notice"]["type"], "held")
            self.assert_idle()
            web.close()
            self.client.call("Release", {"name": "web.x"})
            evlink.until(lambda: self.client.call("Status")["connections"] == 1)

    def ticks(self):
        """How long the broker has run."""
        with open(f"/proc/{self.broker.pid}/stat", encoding="ascii") as file:
            return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))

    def assert_idle(self):
        before = self.ticks()
        time.sleep(0.3)
        self.assertLess(self.ticks() - before, 10)

    def many_links(self, web):
        return {"links": [
            {"name": f"web.{'l' * 40}{i}", "producers": [f"kvm/v/pio/{i}"], "consumers": [f"kvm/v/gsi/{i}"]}
            for i in range(1000)
        ]}

    def test_half_an_answer(self):
        """What the socket had no room for follows after the restart, and nothing else does."""
        self.keep()
        web = self.delegate("web", ["kvm/v"])
        web.start("ConnectMany", self.many_links(web))
        web.start("Status")
        unread = self.unread(web)
        self.assert_idle()
        self.kill()
        links, _ = web.finish()
        self.assertEqual(len(links["links"]), 1000)
        self.assertGreater(len(json.dumps(links, separators=(",", ":"))), unread)
        self.assertEqual(web.finish()[0]["links"], 1000)
        # Of a stream one frame is whole, and Restarted is the last.
        web.start("Export", more=True)
        web.start("Status")
        seen = set()
        self.unread(web)
        self.kill()
        try:
            while True:
                seen.add(web.finish()[0]["link"]["name"])
        except evlink.Error as error:
            self.assertEqual(error.name, "Restarted")
        self.assertTrue(seen < {link["name"] for link in links["links"]})
        self.assertGreater(len(seen), 100)
        self.assertEqual(web.finish()[0]["links"], 1000)

    def test_half_an_answer_twice(self):
        self.keep()
        web = self.delegate("web", ["kvm/v"])
        web.start("ConnectMany", self.many_links(web))
        web.start("Status")
        for _ in range(3):
            self.unread(web)
            self.kill()
        # A client that reads a little now and then.
        data = bytearray()
        while data.count(0) < 2:
            data += web.sock.recv(50_000)
            if len(data) % 3 == 0:
                self.kill_next()
        answers = [json.loads(each) for each in bytes(data).split(b"\0")[:-1]]
        self.assertEqual(len(answers[0]["parameters"]["links"]), 1000)
        if "error" not in answers[1]:
            self.assertEqual(answers[1]["parameters"]["links"], 1000)
        self.reconnect()

    def test_half_a_call(self):
        """A call of which a part was taken is answered with Restarted when the rest has come; a oneway one is not."""
        self.keep()
        web = self.delegate("web")
        for n, oneway in enumerate((False, True)):
            call = {"method": "io.evlink.Broker.Hold", "parameters": {"name": f"web.{n}"}}
            if oneway:
                call["oneway"] = True
            data = json.dumps(call).encode() + b" " * 200_000 + b"\0"
            web.sock.sendall(data[:100])
            self.drained(web)
            self.kill()
            web.sock.sendall(data[100:-1])
            self.drained(web)
            self.kill()
            web.sock.sendall(data[-1:])
            if not oneway:
                web.expect("io.evlink.Broker.Hold")
                self.restarted(web)
            self.assertEqual(web.list("Eventfds"), {})
        # What cannot be a call closes the connection, also after a restart.
        web.sock.sendall(b"{")
        self.drained(web)
        self.kill()
        web.sock.sendall(b"]\0")
        self.assertTrue(web.at_end())

    def drained(self, tenant):
        """The broker has taken all that was sent."""
        SIOCOUTQ = termios.TIOCOUTQ
        evlink.until(lambda: fcntl.ioctl(tenant.sock, SIOCOUTQ, bytes(4)) == bytes(4))

    def test_long_call(self):
        self.keep()
        web = self.delegate("web")
        web.sock.sendall(b'{"method":"io.evlink.Broker.Status"}' + b" " * (256 * 1024 - 36) + b"\0")
        web.expect("io.evlink.Broker.Status")
        web.finish()
        web.sock.settimeout(evlink.PATIENCE)
        try:
            web.sock.sendall(b" " * (256 * 1024 + 1))
        except ConnectionError:
            pass
        self.assertTrue(web.at_end())

    def test_descriptors(self):
        """Each comes with its own call, however the calls are cut."""
        self.keep()
        web = self.delegate("web")
        fds = [self.eventfd(i) for i in range(8)]
        for i, fd in enumerate(fds):
            data = json.dumps({"method": "io.evlink.Broker.Hold",
                               "parameters": {"name": f"web.{i}", "fileDescriptorIndex": 0}}).encode() + b"\0"
            web.sock.sendall(json.dumps({"method": "io.evlink.Broker.Status"}).encode() + b"\0")
            socket.send_fds(web.sock, [data[:20]], [fd])
            web.sock.sendall(data[20:])
            web.expect("io.evlink.Broker.Status")
            web.expect("io.evlink.Broker.Hold")
        for _ in fds:
            web.finish()
            web.finish()
        self.assertEqual([web.list("Eventfds")[f"web.{i}"]["pending"] for i in range(8)], list(range(8)))
        # In the middle of a frame they are nobody's.
        web.sock.sendall(b'{"method":')
        self.drained(web)
        socket.send_fds(web.sock, [b'"io.evlink.Broker.Status"}\0'], [fds[0]])
        self.assertTrue(web.at_end())

    def test_never_room(self):
        """What no waiting would make room for is told, and not waited for."""
        self.keep_with(MaxDescriptorsPerUser=100)
        web = self.delegate("web")
        self.assert_error("QuotaExceeded", {"limit": 100}, web.hold, "web.x", self.eventfd())
        self.assertTrue(web.at_end())

    def test_descriptors_of_half_a_call(self):
        """They count as long as they are there, through whichever connection; what would be too much waits."""
        self.keep_with(MaxDescriptorsPerUser=1200)
        tenants = [self.delegate(scope) for scope in ("a", "b", "c", "d", "e", "f")]
        fds = [self.eventfd() for _ in range(253)]
        before = len(self.broker.fds())
        for tenant in tenants:
            socket.send_fds(tenant.sock, [b'{"method":'], fds)
            self.assertEqual(self.client.call("Status")["eventfds"], 0)
        evlink.until(lambda: len(self.broker.fds()) == before + 4 * 253)
        time.sleep(0.2)
        self.assertEqual(len(self.broker.fds()), before + 4 * 253)
        # Who comes to the end has them no more, and the next one's come in.
        for tenant in tenants:
            tenant.send(b'"io.evlink.Broker.Status"}\0')
            tenant.expect("io.evlink.Broker.Status")
        for tenant in tenants:
            tenant.finish()
        evlink.until(lambda: len(self.broker.fds()) == before)

    def taken(self):
        """The memory of lines."""
        return sum(os.stat(f"/proc/{self.broker.pid}/fd/{fd}").st_blocks * 512
                   for fd, what in self.broker.fds().items() if "evlinkd-line" in what)

    def test_bytes_of_half_a_call(self):
        """They count as they come, through whichever connection, after a restart too; what would be too much waits."""
        limit, free, n = 500_000, 36 * 1024, 12
        self.keep_with(MaxBytesPerUser=limit)
        tenants = [self.delegate(f"s{i}") for i in range(n)]
        begin, end = b'{"method":"io.evlink.Broker.Status"', b"}\0"
        for tenant in tenants:
            tenant.sock.sendall(begin + b" " * 60_000)
        for kill in (False, True):
            if kill:
                self.kill()
            self.client.call("Status")
            time.sleep(0.3)
            self.assertGreater(self.taken(), limit / 2)
            self.assertLessEqual(self.taken(), limit + n * free)
            self.client.call("Status")
        # Who comes to the end has them no more, and the next one's come in.
        for tenant in tenants:
            tenant.send(end)
            tenant.expect("io.evlink.Broker.Status")
        for tenant in tenants:
            with contextlib.suppress(evlink.Error):  # Restarted
                tenant.finish()
            tenant.call("Status")
        self.assertLessEqual(self.taken(), n * free)

    def test_bytes_of_an_answer(self):
        """What waits in memory that outlives the broker counts beside what waits in its own."""
        self.keep_with(MaxBytesPerUser=2_200_000)
        lazy, other = self.delegate("web", ["kvm/v"]), self.delegate("db", ["kvm/w"])
        before = self.client.call("Status")["connections"]
        lazy.start("ConnectMany", self.many_links(lazy))
        evlink.until(lambda: self.client.call("Status")["connections"] == before - 1, "the end of who does not read")
        self.assertIn("too much of its user's waits to be read", self.broker.said())
        other.call("Status")
        for link in self.client.list("Links"):
            self.client.call("Disconnect", {"name": link})

    def test_bytes_of_an_agent(self):
        """What comes from a tenant's agent is the tenant's."""
        self.keep_with(MaxBytesPerUser=400_000)
        web = self.delegate("web", ["kvm/v"])
        mine, its = self.attach("w", {"w": None}), self.attach("web.v", {"v": None}, web)
        for agent in (mine, its):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(9):
                    agent.frames.sock.sendall(b" " * 10_000)
        evlink.until(lambda: set(self.client.list("Agents")) == {"w"}, "the end of the tenant's")
        time.sleep(0.1)
        self.assertEqual(set(self.client.list("Agents")), {"w"})

    def test_offers(self):
        """What came back counts as before."""
        self.keep_with(MaxOffersPerUser=12)
        web = self.delegate("web", ["kvm/v"])
        agent = self.attach("web.v", {"v": None}, web)
        web.call("Offer", {"agent": "web.v", "endpoints": [f"kvm/v/dev/d/irq/{i}" for i in range(2)]})
        web.call("Withdraw", {"agent": "web.v", "endpoints": ["kvm/v/gsi/5"]})
        for kill in (False, True):
            if kill:
                self.kill()
            for method, endpoint in (("Offer", "kvm/v/dev/d/irq/2"), ("Withdraw", "kvm/v/gsi/6")):
                self.refused("QuotaExceeded", {"what": "offers of one scope", "limit": 3}, method,
                             {"agent": "web.v", "endpoints": [endpoint]}, connection=web)
        agent.hang_up()
        evlink.until(lambda: not self.client.list("Agents"))
        self.attach("web.v", {"v": None}, web)
        web.call("Offer", {"agent": "web.v", "endpoints": [f"kvm/v/dev/d/irq/{i}" for i in range(3)]})

    def test_shares(self):
        """No tenant takes all that the user may have: who delegated and other tenants still get theirs."""
        self.keep_with(MaxConnectionsPerUser=40, MaxSubscribersPerUser=8, MaxAgentsPerUser=4)
        web = self.delegate("web", ["kvm/v", "kvm/w"])
        inner = [self.delegate("web.in.most", connection=web) for _ in range(9)]
        limit = {"what": "connections of one scope", "limit": 10}
        for connection in (self.client, web, inner[0]):
            scope = "web.in.most.x" if connection is inner[0] else "web.more"
            self.refused("QuotaExceeded", limit, "Delegate", {"scope": scope, "endpoints": []},
                         connection=connection)
        # What came back counts.
        self.kill()
        self.refused("QuotaExceeded", limit, "Delegate", {"scope": "web.more", "endpoints": []})
        db = self.delegate("db", ["kvm/w"])
        for connection in inner[:2]:
            connection.start("Monitor", more=True)
            connection.finish()
        self.refused("QuotaExceeded", {"what": "subscribers of one scope", "limit": 2}, "Monitor", {}, connection=web,
                     more=True)
        self.attach("web.v", {"v": None}, web)
        self.refused("QuotaExceeded", {"what": "agents of one scope", "limit": 1}, "Attach",
                     {"name": "web.w", "subsystems": [{"kind": "kvm", "name": "w"}]}, connection=web)
        self.attach("db.w", {"w": None}, db)
        for connection in (db, self.connect()):
            connection.start("Monitor", more=True)
            connection.finish()
        # Who goes makes room.
        before = self.client.call("Status")["connections"]
        inner.pop().close()
        evlink.until(lambda: self.client.call("Status")["connections"] == before - 1)
        self.delegate("web.more", connection=web)

    @blackbox.needs_root
    def test_in_all(self):
        """What there may be in all holds for root's tenants, if not for root."""
        self.keep_with(MaxEventfds=2)
        web = self.delegate("web")
        web.hold("web.a")
        self.client.hold("a")
        self.refused("QuotaExceeded", {"what": "eventfds", "limit": 2}, "Hold", {"name": "web.b"}, connection=web)
        self.client.hold("b")

    def test_memory(self):
        """What a long answer took is given back, and a connection that is closed takes none."""
        self.keep()

        web = self.delegate("web", ["kvm/v"])
        for kill in (False, True):
            web.start("ConnectMany", self.many_links(web))
            self.unread(web)
            self.assertGreater(self.taken(), 300_000)
            if kill:
                self.kill()
            web.finish()
            web.call("Status")
            self.assertLess(self.taken(), 40_000)
            for link in web.list("Links"):
                web.call("Disconnect", {"name": link})
        fds = len(self.broker.fds())
        for i in range(20):
            self.delegate(f"s{i}").close()
        evlink.until(lambda: len(self.broker.fds()) == fds)

    @blackbox.needs_root
    def test_peer(self):
        """Who delegated is remembered with all of its groups."""
        self.keep_configured("[Allow vm]\nGroup=4242\nVerbs=connect\nEndpoints=kvm/v/*\n")
        self.attach("vm", {"v": None})
        member = evlink.connect_as(self.broker.path, 1000, groups=[7, 4242, 0])
        self.addCleanup(member.close)
        tenant = self.delegate("s", ["kvm/v"], member)
        for n in range(3):
            owner = tenant.connect([f"kvm/v/pio/{n}"], ["kvm/v/gsi/5"])["owner"]
            self.assertEqual((owner["uid"], owner["gid"], owner["pid"] > 0, owner["scope"]), (1000, 1000, True, "s"))
            self.kill()


class CrashPoints(keeper.CrashCase, KeptCase):
    def test_calls(self):
        """A tenant's calls, pipelined, killed at each point: one answer each, and what they say is so."""
        fd = self.eventfd()
        web = self.delegate("web", ["kvm/v"])
        self.attach("vm", {"v": None})
        for n in self.crash_points(least=40):
            self.set_point(n)
            calls = [
                ("Hold", {"name": "web.a", "fileDescriptorIndex": 0}, [fd], {}),
                ("Hold", {"name": "web.b"}, [], {"oneway": True}),
                ("Claim", {"name": "web.a"}, [], {}),
                ("Connect", {"name": "web.l", "producers": ["kvm/v/pio/1"], "consumers": ["kvm/v/gsi/5"]}, [], {}),
                ("ListEventfds", {}, [], {"more": True}),
                ("Disconnect", {"name": "web.l"}, [], {}),
                ("Release", {"name": "web.a"}, [], {}),
            ]
            for method, parameters, fds, flags in calls:
                web.start(method, parameters, fds, **flags)
            answers = {}
            for method, parameters, _, flags in calls:
                if flags.get("oneway"):
                    continue
                try:
                    while web.finish()[1]:
                        pass
                    answers[method] = None
                except evlink.Error as error:
                    answers[method] = error.name
            evlink.close_all(web.got)
            web.got = []
            crashed = self.crashed()
            what = f"killed at point {n}: {answers}"
            interrupted = [method for method, error in answers.items() if error == "Restarted"]
            self.assertLessEqual(len(interrupted), crashed, what)
            later = set(answers.values()) - {None, "Restarted"}
            self.assertLessEqual(later, {"NoSuchEventfd", "NoSuchLink"} if interrupted else set(), what)
            # The lists tell.
            found = set(web.list("Eventfds"))
            self.assertTrue(found <= {"web.a", "web.b"}, what)
            self.assertLessEqual("web.a" in found, answers["Release"] == "Restarted", what)
            self.assertLessEqual("web.l" in web.list("Links"), answers["Disconnect"] == "Restarted", what)
            for name in web.list("Links"):
                web.call("Disconnect", {"name": name})
            for name in found:
                web.call("Release", {"name": name})
        print(f"# killed at {n - 1} crash points of a tenant's calls")
        self.assertLessEqual(
            {"line: before a call is taken", "line: after a call was taken", "line: before an answer is sent",
             "line: after an answer was sent", "line: a call is forgotten"}, self.reached())

    def test_delegate(self):
        """Delegate and Revoke: a scope is there or not, and what is revoked stays so."""
        tried = 0
        for method, parameters in (("Delegate", {"scope": "web", "endpoints": ["kvm/v"], "maxLinks": 3}),
                                   ("Revoke", {"scope": "web"})):
            for n in self.crash_points():
                tenant = self.delegate("web", ["kvm/v"]) if method == "Revoke" else None
                self.set_point(n)
                try:
                    self.client.call(method, parameters)
                    done = True
                except (EOFError, ConnectionError):
                    done = False
                if done and method == "Delegate":
                    tenant = evlink.Connection(socket.socket(fileno=self.client.take()))
                self.crashed()
                if done and method == "Revoke":
                    self.assertTrue(tenant.at_end())
                elif done:
                    tenant.hold("web.x")
                    tenant.call("Release", {"name": "web.x"})
                if tenant:
                    tenant.close()
                # What nobody has an end of does not stay.
                evlink.until(lambda: self.client.call("Status")["connections"] == 1)
                self.assert_error("InvalidParameter", {}, self.client.call, "Revoke", {"scope": "web"})
            tried += n - 1
        print(f"# killed at {tried} crash points of Delegate and Revoke")
        self.assertGreater(tried, 8)


class Storm(KeptCase):
    """Tenants that send what they like, in whatever pieces, while the broker is killed at any moment."""

    def work(self, tenant, scope, seed, stop, failed):
        chance = random.Random(seed)
        held, unsure, restarts, n = set(), set(), 0, 0
        try:
            while not stop.is_set():
                calls = []
                for _ in range(chance.randrange(1, 12)):
                    n += 1
                    name = f"{scope}.{n}"
                    calls.append(chance.choice([
                        ("Hold", {"name": name}, {}),
                        ("Hold", {"name": name}, {"oneway": True}),
                        ("HoldMany", {"names": [name]}, {}),
                        ("ListEventfds", {}, {"more": True}),
                        ("Status", {}, {}),
                        ("ConnectMany", {"links": [
                            {"producers": [f"kvm/{scope}/pio/{i}"], "consumers": [f"kvm/{scope}/gsi/{i}"],
                             "group": f"{scope}.g"} for i in range(chance.randrange(1, 200))]}, {}),
                        ("Disconnect", {"group": f"{scope}.g"}, {}),
                    ] + [("Claim", {"name": each}, {}) for each in list(held)[:1]]
                      + [("Release", {"name": each}, {}) for each in list(held)[:1]]))
                data = bytearray()
                for method, parameters, flags in calls:
                    if method == "HoldMany":
                        tenant.sock.sendall(data)
                        data.clear()
                        tenant.start(method, parameters, [self.fd])
                        continue
                    data += json.dumps(dict(flags, method="io.evlink.Broker." + method, parameters=parameters)).encode()
                    data += b" " * chance.choice([0, 0, 0, 30_000]) + b"\0"
                    if not flags.get("oneway"):
                        tenant.expect("io.evlink.Broker." + method)
                cut = chance.randrange(len(data) + 1)
                # Two threads: neither side waits for the other.
                sender = threading.Thread(target=lambda: [tenant.sock.sendall(data[:cut]), time.sleep(
                    chance.choice([0, 0.002])), tenant.sock.sendall(data[cut:])])
                sender.start()
                for method, parameters, flags in calls:
                    name = parameters.get("name") or (parameters.get("names") or [None])[0]
                    if flags.get("oneway"):
                        unsure.add(name)
                        continue
                    error = None
                    try:
                        while tenant.finish()[1]:
                            pass
                    except evlink.Error as caught:
                        error = caught.name
                    restarts += error == "Restarted"
                    self.restarted |= error == "Restarted"
                    if method in ("Hold", "HoldMany"):
                        if error not in (None, "Restarted"):
                            raise AssertionError(f"{method} {name}: {error}")
                        (unsure if error else held).add(name)
                    elif method == "Release":
                        held.discard(name)
                        if error == "Restarted":
                            unsure.add(name)
                        elif error not in (None, "NoSuchEventfd"):
                            raise AssertionError(f"Release {name}: {error}")
                    elif error not in (None, "Restarted", "NoSuchLink", "NoSuchEventfd", "EndpointBusy"):
                        raise AssertionError(f"{method}: {error}")
                    evlink.close_all(tenant.got)
                    tenant.got = []
                sender.join()
            self.results[scope] = held, unsure, restarts, n
        except BaseException as error:
            failed.append(error)
            stop.set()

    def test_storm(self):
        # Root's descriptors that are under way are not counted by the kernel.
        self.keep(uid=blackbox.NOBODY if os.geteuid() == 0 else None, nofile=2000)
        self.fd = self.eventfd()
        self.results, self.restarted = {}, False
        tenants = {f"t{i}": self.delegate(f"t{i}", [f"kvm/t{i}"]) for i in range(4)}
        stop, failed = threading.Event(), []
        threads = [threading.Thread(target=self.work, args=(tenant, scope, f"{SEED} {scope}", stop, failed))
                   for scope, tenant in tenants.items()]
        for thread in threads:
            thread.start()
        chance = random.Random(SEED)
        kills = 0
        # A few kills on a busy machine may all come between two calls.
        while (kills < KILLS // 4 or not self.restarted and kills < 10 * KILLS) and not stop.is_set():
            time.sleep(chance.random() * chance.choice([0.01, 0.05]))
            self.kill_next()
            kills += 1
        stop.set()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        self.reconnect()
        restarts = calls = 0
        for scope, (held, unsure, restarted, n) in self.results.items():
            found = set(tenants[scope].list("Eventfds"))
            self.assertLessEqual(held, found)
            self.assertLessEqual(found, held | unsure)
            # One call at a time is under way.
            self.assertLessEqual(restarted, kills)
            restarts += restarted
            calls += n
        self.assertGreater(restarts, 0)
        print(f"# {kills} kills, {calls} calls, {restarts} of them answered with Restarted")


if __name__ == "__main__":
    blackbox.main()
