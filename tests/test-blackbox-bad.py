#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bad input: each has an error of its own from the contract, and leaves everything as it was. Who may not, and
which of two errors is told."""
import array
import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import time

import blackbox
import evlink
from blackbox import NOBODY

BAD_NAMES = [
    "",
    " ",
    "x" * 64,
    "x" * 10000,
    "a/b",
    "/a",
    "a/",
    ".a",
    "-a",
    "_a",
    "a b",
    "a\n",
    "a\tb",
    "a\x7f",
    "a\x1b[m",
    "a*",
    "é",
    "aé",
    "\u0661",  # a digit elsewhere
    "a\u200b",
    "\U0001f41f",
]
GOOD_NAMES = ["a", "0", "A.b_c-D", "x" * 63, "a..", "0000.01.00.0"]

NOT_INTEGERS = ["1", 1.5, 1.0, True, [], {}]
NOT_STRINGS = [1, True, [], {}, ["a"]]


def io_uring():
    """Its descriptor, or None where there is none to be had, or none to be sent (since Linux 6.7)."""
    params = ctypes.create_string_buffer(120)
    fd = ctypes.CDLL(None, use_errno=True).syscall(425, 2, params)
    if fd < 0:
        return None
    a, b = socket.socketpair()
    with a, b:
        try:
            socket.send_fds(a, [b"x"], [fd])
        except OSError:
            os.close(fd)
            return None
    return fd


class Bad(blackbox.Case):
    def setUp(self):
        super().setUp()
        self.client.hold("taken")
        self.client.hold("linked")
        self.client.connect(["eventfd/linked"], ["kvm/nowhere/gsi/5"], name="waits", group="group")

    def invalid(self, parameter, method, parameters, fds=(), **more):
        self.refused("InvalidParameter", {"parameter": parameter}, method, parameters, fds, **more)

    # ---- Descriptors

    def not_eventfds(self):
        read, write = os.pipe()
        ours, theirs = self.pair()
        found = {
            "pipe": self.own(read),
            "pipe's end": self.own(write),
            "socket": ours.fileno(),
            "other socket": theirs.fileno(),
            "memfd": self.own(os.memfd_create("x")),
            "pidfd": self.own(os.pidfd_open(os.getpid())),
            "file": self.own(os.open("/dev/zero", os.O_RDONLY)),
            "folder": self.own(os.open("/", os.O_RDONLY)),
            "path": self.own(os.open("/dev/zero", os.O_PATH)),
        }
        epoll = select.epoll()
        self.addCleanup(epoll.close)
        found["epoll"] = epoll.fileno()
        ring = io_uring()
        if ring is not None:
            found["io_uring"] = self.own(ring)
        return found

    def test_not_an_eventfd(self):
        told = {"fileDescriptorIndex": 0}
        for what, fd in self.not_eventfds().items():
            with self.subTest(what=what):
                self.refused("NotAnEventfd", told, "Hold", {"name": "x", "fileDescriptorIndex": 0}, [fd])
                self.refused("NotAnEventfd", told, "HoldMany", {"names": ["x"]}, [fd])
                good = self.eventfd(3)
                told_1 = {"fileDescriptorIndex": 1}
                self.refused(
                    "NotAnEventfd", told_1, "HoldMany", {"names": ["x", "y", "z"]}, [good, fd, good]
                )
                self.assert_count(good, 3)
        self.assert_fds(3)

    def test_no_descriptor(self):
        indexes = [0, 1, 252, 253, 254, 2**31, 2**32, 2**63 - 1, -1, -2, -(2**31), -(2**63)]
        for index in indexes:
            told, parameters = {"fileDescriptorIndex": index}, {"name": "x", "fileDescriptorIndex": index}
            self.refused("NotAnEventfd", told, "Hold", parameters)
            if index != 0:
                self.refused("NotAnEventfd", told, "Hold", parameters, [self.eventfd()])
        for n in range(3):
            fds = [self.eventfd() for _ in range(n)]
            self.refused("NotAnEventfd", {"fileDescriptorIndex": n}, "HoldMany", {"names": ["x", "y", "z"]}, fds)

    def test_integers_beyond_int64(self):
        """They are none of the dialect's: an error or the end."""
        for text in (b"18446744073709551615", b"9223372036854775808", b"1e400", b"-9223372036854775809"):
            other = self.connect()
            other.send(
                b'{"method":"io.evlink.Broker.Signal","parameters":{"name":"taken","count":' + text + b"}}\0"
            )
            other.expect("Signal")
            with self.assertRaises((evlink.Error, EOFError)):
                other.finish()
        self.assertEqual(self.client.list("Eventfds")["taken"]["pending"], 0)

    def test_attach_descriptors(self):
        parameters = {"name": "x", "subsystems": [{"kind": "kvm", "name": "v"}]}

        def bad(fd, key="fileDescriptorIndex", index=0):
            fds = [] if fd is None else [fd]
            error = self.refused(
                "BadDescriptor", {"fileDescriptorIndex": index}, "Attach", dict(parameters, **{key: index}), fds
            )
            self.assertTrue(error.parameters["reason"])

        kinds = self.not_eventfds()
        for what, fd in kinds.items():
            if what not in ("socket", "other socket"):
                bad(fd)
            if what != "pidfd":
                bad(fd, "pidfdFileDescriptorIndex")
        for index in (0, 1, -1, 2**40):
            bad(None, index=index)
            bad(None, "pidfdFileDescriptorIndex", index)
        bad(self.eventfd())
        for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            a, b = socket.socketpair(socket.AF_UNIX, kind)
            self.addCleanup(a.close)
            self.addCleanup(b.close)
            bad(a.fileno())
        for family in (socket.AF_INET, socket.AF_UNIX):
            fresh = socket.socket(family)
            self.addCleanup(fresh.close)
            bad(fresh.fileno())
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind("")
        listening.listen()
        bad(listening.fileno())
        # a connection to a server, such as to the broker itself
        other = self.connect()
        bad(other.sock.fileno())
        # one descriptor for both
        ours, _ = self.pair()
        with self.assertRaises(evlink.Error):
            self.client.call(
                "Attach", dict(parameters, fileDescriptorIndex=0, pidfdFileDescriptorIndex=0), [ours.fileno()]
            )
        self.assert_fds(4)

    # ---- Names and parameters

    def test_names(self):
        for name in BAD_NAMES:
            self.invalid("name", "Hold", {"name": name})
            self.invalid("name", "Hold", {"name": name, "fileDescriptorIndex": 0}, [self.eventfd()])
            self.invalid("names", "HoldMany", {"names": [name]}, [self.eventfd()])
            self.invalid("names", "HoldMany", {"names": ["x", name]}, [self.eventfd()] * 2)
            for method in ("Claim", "Release", "Signal", "Detach", "Disconnect"):
                self.invalid("name", method, {"name": name})
            self.invalid("group", "Disconnect", {"group": name})
            self.invalid("name", "Renew", {"name": name, "leaseSeconds": 1})
            self.invalid("link", "Renew", {"link": name, "leaseSeconds": 1})
            self.invalid("name", "Attach", {"name": name, "subsystems": [{"kind": "kvm", "name": "v"}]})
            ends = {"producers": ["eventfd/x"], "consumers": ["kvm/v/gsi/1"]}
            self.invalid("name", "Connect", dict(ends, name=name))
            self.invalid("group", "Connect", dict(ends, group=name))
            for kind in ("kvm", "vfio", "vhost"):
                parameters = {"name": "x", "subsystems": [{"kind": kind, "name": name}]}
                with self.assertRaises(evlink.Error) as caught:
                    self.client.call("Attach", parameters)
                self.assertEqual(caught.exception.name, "InvalidParameter")

    def test_good_names(self):
        for name in GOOD_NAMES:
            self.client.hold(name)
            self.client.connect([f"eventfd/{name}"], [f"kvm/{name}/gsi/1"], name=name, group=name)
            agent = self.attach(name, {name: None})
            evlink.until(lambda: self.link(name)["state"] == "linked")
            self.client.call("Disconnect", {"group": name})
            self.client.call("Detach", {"name": name})
            agent.wait_end()
            self.client.call("Release", {"name": name})

    def test_namespaces(self):
        """Eventfds, links, agents and groups do not get into each other's way."""
        self.client.hold("x")
        self.client.connect(["eventfd/x"], ["kvm/x/gsi/1"], name="x", group="x")
        self.attach("x", {"x": None})
        self.wait_link("x", "linked")

    def test_name_taken(self):
        told = {"name": "taken"}
        self.refused("NameTaken", told, "Hold", {"name": "taken"})
        self.refused("NameTaken", told, "HoldMany", {"names": ["x", "taken"]}, [self.eventfd()] * 2)
        self.refused("NameTaken", {"name": "x"}, "HoldMany", {"names": ["x", "y", "x"]}, [self.eventfd()] * 3)
        ends = {"producers": ["eventfd/x"], "consumers": ["kvm/v/gsi/1"]}
        self.refused("NameTaken", {"name": "waits"}, "Connect", dict(ends, name="waits"))
        other = {"producers": ["eventfd/y"], "consumers": ["kvm/v/gsi/2"]}
        for names in (("x", "waits"), ("waits", "x")):
            links = [dict(ends, name=names[0]), dict(other, name=names[1])]
            self.refused("NameTaken", {"name": "waits"}, "ConnectMany", {"links": links})
        links = [dict(ends, name="x"), dict(other, name="x")]
        self.refused("NameTaken", {"name": "x"}, "ConnectMany", {"links": links})

    def test_agent_taken(self):
        self.attach("agent", {"v": None, "w": None})
        kvm = [{"kind": "kvm", "name": "v"}]
        self.refused("NameTaken", {"name": "agent"}, "Attach", {"name": "agent", "subsystems": kvm})
        vfio = [{"kind": "vfio", "name": "v"}]
        self.refused("NameTaken", {"name": "agent"}, "Attach", {"name": "agent", "subsystems": vfio})
        told = {"kind": "kvm", "name": "v", "agent": "agent"}
        self.refused("SubsystemTaken", told, "Attach", {"name": "other", "subsystems": kvm})
        subsystems = [{"kind": "kvm", "name": "free"}, {"kind": "kvm", "name": "v"}]
        self.refused("SubsystemTaken", told, "Attach", {"name": "other", "subsystems": subsystems})
        # the kind is part of it
        self.attach("other", {}, subsystems=vfio)

    def test_subsystems(self):
        def bad(subsystems):
            with self.assertRaises(evlink.Error) as caught:
                self.client.call("Attach", {"name": "x", "subsystems": subsystems})
            self.assertEqual(caught.exception.name, "InvalidParameter")
            return caught.exception.parameters["parameter"]

        before = self.state()
        for subsystems in (
            [],
            {},
            "kvm",
            None,
            ["kvm/v"],
            [{"kind": "KVM", "name": "v"}],
            [{"kind": "eventfd", "name": "v"}],
            [{"kind": "", "name": "v"}],
            [{"kind": "kvm", "name": "v"}, {"kind": "kvm", "name": "v"}],
        ):
            self.assertEqual(bad(subsystems), "subsystems")
        for subsystems in ([{}], [{"kind": "kvm"}], [{"name": "v"}], [{"kind": "kvm", "name": "v", "x": 1}]):
            bad(subsystems)
        self.assertEqual(self.state(), before)

    def test_unknown_parameters(self):
        calls = {
            "Hold": {"name": "x"},
            "HoldMany": {"names": ["x"]},
            "Claim": {"name": "taken"},
            "Renew": {"name": "taken", "leaseSeconds": 1},
            "Release": {"name": "taken"},
            "Signal": {"name": "taken"},
            "Attach": {"name": "x", "subsystems": [{"kind": "kvm", "name": "v"}]},
            "Detach": {"name": "x"},
            "Connect": {"producers": ["eventfd/taken"], "consumers": ["kvm/v/gsi/1"]},
            "ConnectMany": {"links": []},
            "Disconnect": {"name": "waits"},
            "ListEventfds": {},
            "ListLinks": {},
            "ListAgents": {},
            "Status": {},
            "org.varlink.service.GetInfo": {},
            "org.varlink.service.GetInterfaceDescription": {"interface": "io.evlink.Broker"},
        }
        for method, parameters in calls.items():
            for key in ("other", "", "é", "Name", "x" * 300):
                for value in (1, None):
                    flags = {"more": True} if method.startswith("List") else {}
                    self.invalid(key, method, dict(parameters, **{key: value}), **flags)
        link = {"producers": ["eventfd/taken"], "consumers": ["kvm/v/gsi/1"], "other": 1}
        self.invalid("other", "ConnectMany", {"links": [link]})

    def test_types(self):
        def each(parameter, values, method, **rest):
            for value in values:
                self.invalid(parameter, method, dict(rest, **{parameter: value}))

        for method in ("Hold", "Claim", "Release", "Signal", "Detach", "Disconnect"):
            each("name", NOT_STRINGS, method)
        for method in ("Hold", "Claim", "Release", "Signal", "Detach"):
            self.invalid("name", method, {})
        each("fileDescriptorIndex", NOT_INTEGERS, "Hold", name="x")
        each("semaphore", [0, "true", [], 1.0], "Hold", name="x")
        each("lifetime", NOT_STRINGS, "Hold", name="x")
        each("leaseSeconds", NOT_INTEGERS, "Hold", name="x", lifetime="lease")
        each("count", NOT_INTEGERS, "Signal", name="taken")
        each("names", [1, "x", {}, [1], ["x", None], [["x"]]], "HoldMany")
        each("producers", [1, "eventfd/x", {}, [1], [None]], "Connect", consumers=["kvm/v/gsi/1"])
        each("consumers", [1, "kvm/v/gsi/1", {}, [{}]], "Connect", producers=["eventfd/x"])
        ends = {"producers": ["eventfd/x"], "consumers": ["kvm/v/gsi/1"]}
        each("labels", [1, "x", [], {"a": 1}, {"a": None}, {"a": ["b"]}], "Connect", **ends)
        each("wait", [0, "true", []], "Connect", **ends)
        each("group", NOT_STRINGS, "Connect", **ends)
        each("links", [1, {}, "x", [1], ["x"], [[]]], "ConnectMany")
        each("takeover", [1, "x"], "Attach", name="x", subsystems=[{"kind": "kvm", "name": "v"}])
        each("pidfdFileDescriptorIndex", NOT_INTEGERS, "Attach", name="x", subsystems=[])
        each("interface", NOT_STRINGS, "org.varlink.service.GetInterfaceDescription")
        for what in ("Eventfds", "Links", "Agents"):
            for value in NOT_STRINGS:
                self.invalid("match", "List" + what, {"match": value}, more=True)

    def test_long_match(self):
        for method in ("ListEventfds", "ListLinks", "ListAgents", "Export", "Monitor"):
            for long in ("x" * 257, "é" * 129, "*a" * 100000):
                self.invalid("match", method, {"match": long}, more=True)
        for what in ("Eventfds", "Links", "Agents"):
            self.assertEqual(self.client.list(what, match="?" * 256), {})
        for method in ("ListLinks", "Export"):
            self.invalid("group", method, {"group": "x" * 257}, more=True)
        self.invalid("types", "Monitor", {"types": ["x"] * 257}, more=True)

    def test_lifetimes(self):
        ends = {"producers": ["eventfd/taken"], "consumers": ["kvm/v/gsi/1"]}
        hold_many = {"names": ["x"]}
        fds = [self.eventfd()]
        for method, parameters in (("Hold", {"name": "x"}), ("HoldMany", hold_many), ("Connect", ends)):
            for bad in ("", "x", "Lease", "lease ", "persistent\n", "for ever", "é"):
                self.invalid("lifetime", method, dict(parameters, lifetime=bad), fds)
            self.invalid("leaseSeconds", method, dict(parameters, leaseSeconds=1), fds)
            for lifetime in ("persistent", "connection"):
                self.invalid("leaseSeconds", method, dict(parameters, lifetime=lifetime, leaseSeconds=1), fds)
            self.invalid("leaseSeconds", method, dict(parameters, lifetime="lease"), fds)
            for seconds in (0, -1, -(2**63)):
                self.invalid("leaseSeconds", method, dict(parameters, lifetime="lease", leaseSeconds=seconds), fds)
        self.invalid("lifetime", "Hold", {"name": "x", "lifetime": "agent"})
        self.invalid("lifetime", "HoldMany", dict(hold_many, lifetime="agent"), fds)
        self.invalid("leaseSeconds", "Connect", dict(ends, lifetime="agent", leaseSeconds=1))

    def test_renew(self):
        self.invalid("name", "Renew", {"name": "taken", "leaseSeconds": 1})
        self.invalid("name", "Renew", {"link": "waits", "leaseSeconds": 1})
        self.invalid("leaseSeconds", "Renew", {"name": "taken"})
        self.invalid("name", "Renew", {"leaseSeconds": 1})
        self.invalid("name", "Renew", {"name": "taken", "link": "waits", "leaseSeconds": 1})
        self.refused("NoSuchEventfd", {"name": "x"}, "Renew", {"name": "x", "leaseSeconds": 1})
        self.refused("NoSuchLink", {"name": "x"}, "Renew", {"link": "x", "leaseSeconds": 1})
        self.client.hold("leased", lifetime="lease", leaseSeconds=1000)
        for seconds in (0, -1, -(2**63)):
            self.invalid("leaseSeconds", "Renew", {"name": "leased", "leaseSeconds": seconds})

    def test_counts(self):
        for count in (0, -1, -(2**63)):
            self.invalid("count", "Signal", {"name": "taken", "count": count})

    def test_semaphore(self):
        plain, semaphore = self.eventfd(), self.eventfd(0, os.EFD_SEMAPHORE)
        if evlink.fdinfo(plain)[2] is None:
            self.skipTest("this kernel does not tell semaphores")
        for fd, said in ((plain, True), (semaphore, False)):
            self.invalid("semaphore", "Hold", {"name": "x", "fileDescriptorIndex": 0, "semaphore": said}, [fd])

    def test_nothing_of_that_name(self):
        for method in ("Claim", "Release", "Signal"):
            for name in ("x", "taken.", "Taken", "waits", "group"):
                self.refused("NoSuchEventfd", {"name": name}, method, {"name": name})
        self.refused("NoSuchAgent", {"name": "taken"}, "Detach", {"name": "taken"})
        for name in ("taken", "group", "x"):
            self.refused("NoSuchLink", {"name": name}, "Disconnect", {"name": name})
        for group in ("waits", "Group", "x"):
            self.refused("NoSuchLink", {"name": group}, "Disconnect", {"group": group})
        self.invalid("name", "Disconnect", {"name": "waits", "group": "group"})
        self.invalid("name", "Disconnect", {})

    def test_in_use(self):
        told = {"name": "linked", "links": ["waits"]}
        self.refused("InUse", told, "Release", {"name": "linked"})
        self.attach("a", {"nowhere": None})
        self.wait_link("waits", "linked")
        self.refused("InUse", told, "Release", {"name": "linked"})

    def test_hold_many(self):
        fd = self.eventfd()
        self.invalid("names", "HoldMany", {})
        self.invalid("names", "HoldMany", {"names": []})
        self.invalid("names", "HoldMany", {"names": [f"e{i}" for i in range(254)]}, [fd] * 253)
        # the names pair with the descriptors
        self.invalid("names", "HoldMany", {"names": ["x"]}, [fd, fd])

    # ---- Endpoints

    MALFORMED = """
        x eventfd eventfd/ eventfd// eventfd/-x eventfd/.x eventfd/_x eventfd/a/b eventfd/a/ /eventfd/a eventfd//a
        Eventfd/a eventfd/a/EOI eventfd/a/eoi eventfd/a/eoi/x eventfd/a* eventfds/a
        kvm kvm/ kvm/v kvm/v/ kvm//gsi/1 kvm/v/gsi kvm/v/gsi/ kvm/v/gsi/4096 kvm/v/gsi/-1 kvm/v/gsi/+1
        kvm/v/gsi/1x kvm/v/gsi/0x kvm/v/gsi/x kvm/v/gsi/1/edge kvm/v/gsi/1/level/x kvm/v/gsi/1/ kvm/v/gsi/0x1000
        kvm/v/gsi/99999999999999999999999999 kvm/v/gsi/18446744073709551617 kvm/v/GSI/1 kvm/v/irq/1 kvm/v/gsi/1.0
        kvm/v/pio/0x10000 kvm/v/pio/65536 kvm/v/pio/1/3 kvm/v/pio/1/16 kvm/v/pio/1/-1 kvm/v/pio/1/ kvm/v/pio/1/4/
        kvm/v/pio/1/0=1 kvm/v/pio/1/=1 kvm/v/pio/1/1= kvm/v/pio/1/1=256 kvm/v/pio/1/2=0x10000 kvm/v/pio/1/1=1=1
        kvm/v/pio/1/4=0x100000000 kvm/v/pio/1/4=-1 kvm/v/pio/1=1 kvm/v/pio/1/4=1/2 kvm/v/pio/level
        kvm/v/mmio/0x10000000000000000 kvm/v/mmio/1/8=0x10000000000000000 kvm/v/mmio/1/8=18446744073709551616
        kvm/v/mmio kvm/v/mmio/ kvm/v/mmio/g kvm/v/dev kvm/v/dev/ kvm/v/dev/d kvm/v/dev/d/irq kvm/v/dev//irq/1
        kvm/v/dev/d/irq/65536 kvm/v/dev/d/irq/1/edge kvm/v/dev/d/notify kvm/v/dev/d/notify/65536
        kvm/v/dev/d/notify/1/level kvm/v/dev/d/gsi/1 kvm/v/dev/-d/irq/1
        vfio vfio/d vfio/d/msi vfio/d/msi/ vfio/d/msi/65536 vfio/d/intx/1 vfio/d/err/1 vfio/d/msi/1/level
        vfio/0000:01:00.0/intx vhost vhost/d vhost/d/vring vhost/d/vring/1 vhost/d/vring/x/call
        vhost/d/vring/65536/call vhost/d/vring/1/call/1 vhost/d/kick vhost/d/call
        """.split()
    MALFORMED += ["", " ", "eventfd/a ", " eventfd/a", "eventfd/a\n", "eventfd/é", "kvm/v/gsi/ 1", "kvm/v/gsi/1 "]
    MALFORMED += ["kvm/v/gsi/\u0661", "kvm/v\n/gsi/1", "eventfd/" + "x" * 64, "kvm/" + "x" * 64 + "/gsi/1"]

    def bad_endpoint(self, endpoint, producers, consumers):
        error = self.refused(
            "BadEndpoint", {"endpoint": endpoint}, "Connect", {"producers": producers, "consumers": consumers}
        )
        self.assertTrue(error.parameters["reason"])

    def test_malformed_endpoints(self):
        for endpoint in self.MALFORMED:
            with self.subTest(endpoint=endpoint):
                self.bad_endpoint(endpoint, [endpoint], ["kvm/v/gsi/1"])
                self.bad_endpoint(endpoint, ["eventfd/taken"], [endpoint])
                self.bad_endpoint(endpoint, ["kvm/v/pio/1", endpoint], ["kvm/v/gsi/1"])

    def test_long_endpoints(self):
        """However long, and wherever it is cut: it is told as it was given, or as much of it as is told."""
        for n in (100, 200, 255, 256, 257, 300, 5000):
            for letter in ("x", "é", "\u20ac"):
                for shift in range(3):
                    endpoint = "eventfd/" + "x" * shift + letter * n
                    before = self.state()
                    error = self.assert_error("BadEndpoint", {}, self.client.connect, [endpoint], ["kvm/v/gsi/1"])
                    self.assertTrue(endpoint.startswith(error.parameters["endpoint"]))
                    self.assertEqual(self.state(), before)

    def test_roles(self):
        for endpoint in ("kvm/v/gsi/1", "kvm/v/dev/d/irq/1", "kvm/v/gsi/1/level", "vhost/d/vring/0/kick"):
            self.bad_endpoint(endpoint, [endpoint], ["kvm/v/gsi/2"])
        for endpoint in ("kvm/v/pio/1", "kvm/v/mmio/1/4=1", "kvm/v/dev/d/notify/1", "vfio/d/intx", "vfio/d/msi/1"):
            self.bad_endpoint(endpoint, ["eventfd/taken"], [endpoint])
        for endpoint in ("vhost/d/vring/0/call", "vhost/d/vring/0/err", "vfio/d/err"):
            self.bad_endpoint(endpoint, ["eventfd/taken"], [endpoint])

    def test_no_ends(self):
        self.invalid("producers", "Connect", {"producers": [], "consumers": ["kvm/v/gsi/1"]})
        self.invalid("consumers", "Connect", {"producers": ["eventfd/taken"], "consumers": []})
        self.invalid("producers", "Connect", {"consumers": ["kvm/v/gsi/1"]})
        self.invalid("consumers", "Connect", {"producers": ["eventfd/taken"]})
        self.invalid("links", "ConnectMany", {"links": []})
        self.invalid("links", "ConnectMany", {})

    def test_collisions_within_one_call(self):
        gsi = ["kvm/v/gsi/1"]
        for a, b in (
            ("kvm/v/pio/1", "kvm/v/pio/1"),
            ("kvm/v/pio/1", "kvm/v/pio/0x1/0"),
            ("kvm/v/pio/1", "kvm/v/pio/1/4=1"),
            ("kvm/v/pio/1/4", "kvm/v/pio/1/4=1"),
            ("kvm/v/pio/1/4=1", "kvm/v/pio/0x01/4=0x1"),
            ("kvm/v/mmio/0xffffffffffffffff/8=1", "kvm/v/mmio/18446744073709551615"),
        ):
            for producers in ([a, b], [b, a]):
                with self.assertRaises(evlink.Error) as caught:
                    self.client.connect(producers, gsi)
                self.assertEqual(caught.exception.name, "BadEndpoint")
                links = [{"producers": [p], "consumers": [f"kvm/v/gsi/{i}"]} for i, p in enumerate(producers)]
                self.assert_error("BadEndpoint", {}, self.client.call, "ConnectMany", {"links": links})
        self.assertEqual(list(self.client.list("Links")), ["waits"])
        # and these do not collide
        producers = """
            kvm/v/pio/1/4=1 kvm/v/pio/1/4=2 kvm/v/pio/1/2=1 kvm/v/pio/1/1 kvm/v/mmio/1/4=1 kvm/w/pio/1/4=1
            kvm/v/pio/2
            """.split()
        self.client.connect(producers, gsi)

    def test_busy(self):
        self.client.connect(["kvm/v/pio/1", "kvm/v/mmio/4096/4=1"], ["kvm/v/gsi/1"], name="first")
        for endpoint in ("kvm/v/pio/0x1", "kvm/v/pio/0x1/2", "kvm/v/mmio/0x1000", "kvm/v/mmio/0x1000/4=0x1"):
            told = {"endpoint": endpoint, "link": "first"}
            ends = {"producers": [endpoint], "consumers": ["kvm/v/gsi/2"]}
            self.refused("EndpointBusy", told, "Connect", ends)
            links = [{"producers": ["eventfd/taken"], "consumers": ["kvm/v/gsi/3"]}, ends]
            self.refused("EndpointBusy", told, "ConnectMany", {"links": links})
        told = {"endpoint": "eventfd/linked", "link": "waits"}
        ends = {"producers": ["eventfd/linked"], "consumers": ["kvm/v/gsi/2"]}
        self.refused("EndpointBusy", told, "Connect", ends)
        ends = {"producers": ["kvm/v/pio/9"], "consumers": ["eventfd/linked"]}
        self.refused("EndpointBusy", told, "Connect", ends)
        # the same eventfd under another name
        fd = self.own(self.client.claim("linked"))
        self.client.hold("alias", fd)
        told = {"endpoint": "eventfd/alias", "link": "waits"}
        self.refused("EndpointBusy", told, "Connect", {"producers": ["eventfd/alias"], "consumers": ["kvm/v/gsi/2"]})
        # a GSI may be shared
        self.client.connect(["kvm/v/pio/2"], ["kvm/v/gsi/1"])

    def test_semaphore_to_irqfd(self):
        self.client.hold("s", semaphore=True)
        if not self.client.list("Eventfds")["s"].get("semaphore"):
            self.skipTest("this kernel does not tell semaphores")
        self.bad_endpoint("eventfd/s", ["eventfd/s"], ["kvm/v/gsi/1"])
        agent = self.attach("a", {"v": None})
        self.bad_endpoint("eventfd/s", ["eventfd/s"], ["kvm/v/gsi/1"])
        self.assertEqual(agent.requests, [])
        self.client.connect(["kvm/v/pio/1"], ["eventfd/s"])

    def test_not_attached(self):
        attached = self.attach("a", {"v": None})
        for producers, consumers, absent in (
            (["eventfd/x"], ["kvm/v/gsi/1"], "eventfd/x"),
            (["eventfd/taken"], ["kvm/w/gsi/1"], "kvm/w/gsi/1"),
            (["kvm/v/pio/1", "kvm/w/pio/0x1/4=1"], ["kvm/v/gsi/1"], "kvm/w/pio/0x1/4=0x1"),
        ):
            ends = {"producers": producers, "consumers": consumers}
            self.refused("NotAttached", {"endpoint": absent}, "Connect", dict(ends, wait=False))
            links = [{"producers": ["kvm/v/pio/7"], "consumers": ["kvm/v/gsi/7"]}, ends]
            self.refused("NotAttached", {"endpoint": absent}, "ConnectMany", {"links": links, "wait": False})
        self.assertEqual(attached.requests, [])

    # ---- Which error

    def test_order(self):
        """The first error in RULES.md's order is told."""
        nobody = self.connect_as(NOBODY) if os.geteuid() == 0 else None
        pipe, other_end = os.pipe()
        self.own(pipe)
        self.own(other_end)
        self.attach("a", {"v": None}).refuse["kvm/v/gsi/9"] = 5
        self.client.connect(["eventfd/taken"], ["kvm/v/gsi/1"], name="first")
        taken, bad = ["eventfd/taken"], ["eventfd/a/b"]
        kvm, absent, plug = ["kvm/v/gsi/2"], ["kvm/w/gsi/1"], ["kvm/v/gsi/9"]
        subsystems = [{"kind": "kvm", "name": "v"}]
        name = {"name": "taken"}
        table = [
            # method before parameters
            ("MethodNotFound", "Nothing", {"name": 5}, []),
            ("MethodNotImplemented", "io.evlink.Agent.Plug", {"name": 5}, []),
            # parameters before names
            ("InvalidParameter", "Hold", {"name": "taken", "semaphore": 5}, []),
            ("InvalidParameter", "Hold", {"name": "taken", "other": 5}, []),
            ("InvalidParameter", "Hold", {"name": "taken", "lifetime": "x"}, []),
            ("InvalidParameter", "Hold", {"name": "taken", "leaseSeconds": 1}, []),
            ("InvalidParameter", "Claim", {"name": "nothing", "other": 1}, []),
            ("InvalidParameter", "Renew", {"name": "nothing", "leaseSeconds": 0}, []),
            ("InvalidParameter", "Connect", dict(name="waits", producers=taken, consumers=kvm, lifetime="x"), []),
            ("InvalidParameter", "Connect", dict(name="waits", producers=[], consumers=kvm), []),
            ("InvalidParameter", "Attach", dict(name="a", subsystems=subsystems, takeover=1), []),
            ("InvalidParameter", "Attach", dict(name="a", subsystems=[]), []),
            # names before descriptors
            ("NameTaken", "Hold", dict(name, fileDescriptorIndex=0), [pipe]),
            ("NameTaken", "Hold", dict(name, fileDescriptorIndex=9), []),
            ("InvalidParameter", "Hold", {"name": "a/b", "fileDescriptorIndex": 0}, [pipe]),
            ("NameTaken", "HoldMany", {"names": ["x", "taken"]}, [pipe, pipe]),
            ("NameTaken", "HoldMany", {"names": ["x", "x"]}, [pipe, pipe]),
            ("NameTaken", "HoldMany", {"names": ["x", "x"]}, []),
            ("NameTaken", "Attach", dict(name="a", subsystems=subsystems, fileDescriptorIndex=0), [pipe]),
            # names before endpoints
            ("NameTaken", "Connect", dict(name="waits", producers=bad, consumers=kvm), []),
            ("NameTaken", "Connect", dict(name="waits", producers=taken, consumers=kvm), []),
            ("NameTaken", "Connect", dict(name="waits", producers=["kvm/w/pio/1"], consumers=kvm, wait=False), []),
            # endpoints before what is not attached
            ("BadEndpoint", "Connect", dict(producers=["kvm/w/pio/1"], consumers=bad, wait=False), []),
            ("BadEndpoint", "Connect", dict(producers=bad, consumers=absent, wait=False), []),
            # endpoints before busy ones
            ("BadEndpoint", "Connect", dict(producers=taken, consumers=bad), []),
            # not attached before busy
            ("NotAttached", "Connect", dict(producers=taken, consumers=absent, wait=False), []),
            # busy before what the kernel would say
            ("EndpointBusy", "Connect", dict(producers=taken, consumers=plug), []),
            ("BadEndpoint", "Connect", dict(producers=bad, consumers=plug), []),
            ("PlugFailed", "Connect", dict(producers=["kvm/v/pio/1"], consumers=plug), []),
            # across the links of one call
            (
                "NameTaken",
                "ConnectMany",
                {
                    "links": [
                        {"producers": bad, "consumers": kvm},
                        {"name": "waits", "producers": ["kvm/v/pio/1"], "consumers": kvm},
                    ]
                },
                [],
            ),
            (
                "BadEndpoint",
                "ConnectMany",
                {
                    "links": [
                        {"producers": taken, "consumers": kvm},
                        {"producers": ["kvm/v/pio/1"], "consumers": bad},
                    ]
                },
                [],
            ),
        ]
        for error, method, parameters, fds in table:
            with self.subTest(method=method, parameters=parameters, error=error):
                self.refused(error, {}, method, parameters, fds)
        if nobody is None:
            return
        many = {"links": [dict(producers=bad, consumers=kvm), dict(producers=taken, consumers=kvm)]}
        for error, method, parameters in (
            ("InvalidParameter", "Release", {"name": "taken", "other": 1}),
            ("NoSuchEventfd", "Release", {"name": "nothing"}),
            ("PermissionDenied", "Release", {"name": "linked"}),
            ("NameTaken", "Connect", dict(name="waits", producers=taken, consumers=kvm)),
            ("PermissionDenied", "Connect", dict(producers=taken, consumers=bad)),
            ("PermissionDenied", "Connect", dict(producers=bad, consumers=kvm)),
            ("PermissionDenied", "Connect", dict(producers=taken, consumers=["kvm/w/gsi/1"], wait=False)),
            ("PermissionDenied", "Connect", dict(producers=["kvm/w/pio/1"], consumers=["eventfd/linked"])),
            ("PermissionDenied", "ConnectMany", many),
        ):
            with self.subTest(method=method, parameters=parameters, error=error):
                self.refused(error, {}, method, parameters, connection=nobody)


class Permissions(blackbox.Case):
    @blackbox.needs_root
    def test_others(self):
        """Another user sees nothing of root's, and may do nothing to it; names are everybody's."""
        self.client.hold("secret")
        self.client.hold("idle", lifetime="lease", leaseSeconds=1000)
        lease = {"lifetime": "lease", "leaseSeconds": 99}
        self.client.connect(["eventfd/secret"], ["kvm/v/gsi/1"], name="link", group="g", **lease)
        self.attach("agent", {"v": None})
        self.wait_link("link", "linked")
        nobody = self.connect_as(NOBODY)
        for what in ("Eventfds", "Links", "Agents"):
            self.assertEqual(nobody.list(what), {})
            self.assertEqual(nobody.list(what, match="*"), {})
        self.assertEqual(nobody.list("Links", group="g"), {})

        def refused(name, method, parameters, told=None, fds=()):
            self.refused(name, told or {}, method, parameters, fds, connection=nobody)

        for method in ("Claim", "Release", "Signal"):
            refused("PermissionDenied", method, {"name": "secret"})
            refused("PermissionDenied", method, {"name": "idle"})
        refused("PermissionDenied", "Signal", {"name": "idle", "count": 2})
        refused("PermissionDenied", "Renew", {"name": "idle", "leaseSeconds": 9})
        refused("PermissionDenied", "Renew", {"link": "link", "leaseSeconds": 9})
        refused("PermissionDenied", "Disconnect", {"name": "link"})
        refused("PermissionDenied", "Detach", {"name": "agent"})
        refused("NoSuchLink", "Disconnect", {"group": "g"}, {"name": "g"})
        refused("NameTaken", "Hold", {"name": "secret"}, {"name": "secret"})
        refused("NameTaken", "HoldMany", {"names": ["x", "idle"]}, {"name": "idle"}, [self.eventfd()] * 2)
        ends = {"producers": ["eventfd/x"], "consumers": ["kvm/w/gsi/1"]}
        refused("NameTaken", "Connect", dict(ends, name="link"), {"name": "link"})
        refused("NameTaken", "Attach", {"name": "agent", "subsystems": [{"kind": "kvm", "name": "w"}]})
        for producers, consumers in (
            (["eventfd/idle"], ["kvm/w/gsi/1"]),
            (["kvm/w/pio/1"], ["eventfd/idle"]),
            (["eventfd/x"], ["kvm/v/gsi/2"]),
            (["kvm/v/pio/1"], ["eventfd/x"]),
            (["kvm/w/pio/1", "kvm/v/pio/1"], ["eventfd/x"]),
        ):
            refused("PermissionDenied", "Connect", {"producers": producers, "consumers": consumers})
        links = [ends, {"producers": ["eventfd/y"], "consumers": ["kvm/v/gsi/1"]}]
        refused("PermissionDenied", "ConnectMany", {"links": links})

    @blackbox.needs_root
    def test_subsystem_taken_by_another(self):
        self.attach("agent", {"v": None})
        nobody = self.connect_as(NOBODY)
        parameters = {"name": "mine", "subsystems": [{"kind": "kvm", "name": "v"}]}
        self.refused("SubsystemTaken", {"kind": "kvm", "name": "v"}, "Attach", parameters, connection=nobody)

    @blackbox.needs_root
    def test_root_sees_all(self):
        nobody = self.connect_as(NOBODY)
        peer = {"uid": NOBODY, "gid": NOBODY}
        mine = nobody.hold("mine")
        self.assertEqual({key: mine["owner"][key] for key in peer}, peer)
        agent = self.attach("theirs", {"w": None}, nobody)
        nobody.connect(["eventfd/mine"], ["kvm/w/gsi/1"], name="link", group="g")
        for what, name in (("Eventfds", "mine"), ("Links", "link"), ("Agents", "theirs")):
            found = self.client.list(what)[name]
            self.assertEqual({key: found["owner"][key] for key in peer}, peer)
            self.assertEqual(nobody.list(what)[name], found)
        self.client.call("Signal", {"name": "mine"})
        self.own(self.client.claim("mine"))
        self.client.call("Disconnect", {"name": "link"})
        self.client.call("Detach", {"name": "theirs"})
        agent.wait_end()
        self.client.call("Release", {"name": "mine"})

    @blackbox.needs_root
    def test_pid(self):
        self.assertEqual(self.client.hold("x")["owner"], {"uid": 0, "gid": os.getegid(), "pid": os.getpid()})

    @blackbox.needs_root
    def test_busy_does_not_tell_the_link(self):
        """Whose endpoint is in a link that the caller may not know hears that, and not the link's name."""
        nobody = self.connect_as(NOBODY)
        nobody.hold("mine")
        self.client.connect(["eventfd/mine"], ["kvm/v/gsi/1"], name="secret")
        error = self.refused(
            "EndpointBusy",
            {"endpoint": "eventfd/mine"},
            "Connect",
            {"producers": ["eventfd/mine"], "consumers": ["kvm/w/gsi/1"]},
            connection=nobody,
        )
        self.assertNotIn("link", error.parameters)
        error = self.refused("InUse", {"name": "mine"}, "Release", {"name": "mine"}, connection=nobody)
        self.assertNotIn("secret", error.parameters["links"])
        self.assertNotIn("secret", nobody.list("Eventfds")["mine"]["links"])

    @blackbox.needs_root
    def test_nobody_collects_an_eventfd(self):
        """A link that waits for a VM is not given to whoever attaches under that name first."""
        self.client.hold("secret")
        self.client.connect(["eventfd/secret"], ["kvm/v/gsi/1"], name="link")
        nobody = self.connect_as(NOBODY)
        thief = self.attach("thief", {"v": None}, nobody)
        self.client.call("Status")
        nobody.call("Detach", {"name": "thief"})
        thief.wait_end()
        self.assertEqual(thief.requests, [])
        self.assertEqual(self.link("link")["state"], "waiting")
        honest = self.attach("honest", {"v": None})
        self.wait_link("link", "linked")
        self.assertEqual(honest.log(), [("Plug", "kvm/v/gsi/1")])

    @blackbox.needs_root
    def test_nobody_gets_into_a_waiting_link(self):
        """A link that waits for a held eventfd is not given whatever somebody else holds under that name."""
        self.client.connect(["eventfd/x"], ["kvm/v/gsi/1"], name="link")
        agent = self.attach("agent", {"v": None})
        nobody = self.connect_as(NOBODY)
        nobody.hold("x", self.eventfd())
        self.client.call("Status")
        self.assertEqual(self.link("link")["state"], "waiting")
        self.assertEqual(agent.log(), [])

    @blackbox.needs_root
    def test_a_waiting_link_gets_nothing_of_others(self):
        """Nor does somebody else's waiting link get an eventfd that is held later, to plug it at home."""
        nobody = self.connect_as(NOBODY)
        nobody.connect(["eventfd/secret"], ["kvm/theirs/gsi/1"], name="trap")
        agent = self.attach("theirs", {"theirs": None}, nobody)
        self.client.hold("secret")
        self.client.call("Status")
        self.assertEqual(self.link("trap")["state"], "waiting")
        self.assertEqual(agent.log(), [])

    @blackbox.needs_root
    def test_socket_of_another(self):
        """A socket that another user made is nobody's to hand in."""
        nobody = self.connect_as(NOBODY)
        ours, _ = self.pair()
        parameters = {"name": "x", "subsystems": [{"kind": "kvm", "name": "v"}], "fileDescriptorIndex": 0}
        self.refused("BadDescriptor", {}, "Attach", parameters, [ours.fileno()], connection=nobody)


class Lingering(blackbox.Case):
    """A descriptor whose close() blocks for as long as its sender likes holds up nobody."""

    LINGER = 2

    def lingering(self):
        """A TCP socket that is full, and lingers."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
        self.addCleanup(other.close)
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                one.send(bytes(65536))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, self.LINGER))
        return one

    def assert_lively(self):
        for _ in range(20):
            begin = time.monotonic()
            self.client.call("Status")
            self.assertLess(time.monotonic() - begin, 0.5)
            time.sleep(0.02)

    def tearDown(self):
        try:
            evlink.until(lambda: len(self.broker.fds()) <= len(self.fds_before) + 1)
        except TimeoutError:
            self.fail(f"open still: {self.broker.fds()}, before: {self.fds_before}")

    def test_as_an_eventfd(self):
        victim = self.lingering()
        self.client.start("Hold", {"name": "e", "fileDescriptorIndex": 0}, [victim.fileno()])
        victim.close()
        with self.assertRaises(evlink.Error):
            self.client.finish()
        self.assert_lively()

    def test_many(self):
        """More than one child is stuck; whose it is may send no more once that is known."""
        victims = [self.lingering() for _ in range(6)]
        with self.connect() as other, contextlib.suppress(EOFError, ConnectionError):
            for i, victim in enumerate(victims):
                other.start("Hold", {"name": f"e{i}", "fileDescriptorIndex": 0}, [victim.fileno()])
                victim.close()
                with self.assertRaises(evlink.Error):
                    other.finish()
        for victim in victims:
            victim.close()
        self.assert_lively()

    def test_half_a_frame(self):
        other = self.connect()
        victim = self.lingering()
        other.send(b'{"method":', [victim.fileno()])
        victim.close()
        time.sleep(0.05)
        other.close()
        self.assert_lively()

    def out_of_band(self, sock, fds=()):
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sock.sendmsg([b"x"], control, socket.MSG_OOB)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self.skipTest("unix sockets have no out-of-band data here")
            raise

    def test_out_of_band(self):
        """In urgent data, which the kernel would drop, and close what is in it, where one receives what is behind."""
        self.client.call("Delegate", {"scope": "web", "endpoints": []})
        tenant = socket.socket(fileno=self.client.take())
        self.client.call("Attach", {"name": "a", "subsystems": [{"kind": "kvm", "name": "v"}]})
        agent = socket.socket(fileno=self.client.take())
        for sock in (self.connect().sock, tenant, agent):
            with sock, self.lingering() as victim:
                os.kill(self.broker.pid, signal.SIGSTOP)
                try:
                    self.out_of_band(sock, [victim.fileno()])
                    sock.send(b"{")
                finally:
                    os.kill(self.broker.pid, signal.SIGCONT)
                victim.close()
                self.assert_lively()
        evlink.until(lambda: not self.client.list("Agents"))

    def test_urgent(self):
        """Data that nobody is going to take keep nobody busy."""
        with self.connect() as other:
            self.out_of_band(other.sock)
            begin = self.processor_time()
            time.sleep(0.5)
            self.assertLess(self.processor_time() - begin, 0.25)

    def processor_time(self):
        with open(f"/proc/{self.broker.pid}/stat", encoding="ascii") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def test_in_a_queue(self):
        """In a connection whose next call waits: it is closed with the descriptor unread in it."""
        agent = self.attach("a", {"v": None})
        agent.gate.clear()
        other = self.connect()
        other.start("Connect", {"producers": ["kvm/v/pio/1"], "consumers": ["kvm/v/gsi/5"]})
        agent.wait_for(1)
        victim = self.lingering()
        other.send(evlink.encode("Status"), [victim.fileno()])
        victim.close()
        other.close()
        time.sleep(0.05)
        agent.gate.set()
        self.assert_lively()
        for name in self.client.list("Links"):
            self.client.call("Disconnect", {"name": name})
        self.client.call("Detach", {"name": "a"})

    def test_in_an_agents_queue(self):
        ours, theirs = self.pair()
        self.client.call(
            "Attach",
            {"name": "a", "subsystems": [{"kind": "kvm", "name": "v"}], "fileDescriptorIndex": 0},
            [theirs.fileno()],
        )
        theirs.close()
        victim = self.lingering()
        # Half a frame, so that the broker has it; and another that it may not have read.
        evlink.Frames(ours, 5).send(b"{", [victim.fileno()])
        evlink.Frames(ours, 5).send(b"}", [victim.fileno()])
        victim.close()
        ours.close()
        self.assert_lively()
        self.assertEqual(self.client.list("Agents"), {})


if __name__ == "__main__":
    blackbox.main()
