#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Scopes: what a delegated connection owns, sees and uses, and what it does not, whatever its uid."""
import os
import socket
import tempfile
import threading

import blackbox
import evlink

DENIED = ("PermissionDenied", {})


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


if __name__ == "__main__":
    blackbox.main()
