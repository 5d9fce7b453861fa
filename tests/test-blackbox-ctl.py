#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""evlinkctl against a broker: what is done with links and agents, the tree, the graph, and what the monitor tells."""
import json
import os
import re
import select
import signal
import subprocess
import sys

import blackbox
import evlink

PATIENCE = 20
# One statement of dot's: a node or an edge, with attributes in brackets.
STRING = r'"(?:[^"\\]|\\.)*"'
ATTRIBUTES = rf"(?: \[\w+=(?:{STRING}|\w+)(?:, \w+=(?:{STRING}|\w+))*\])?"
STATEMENT = re.compile(
    rf"(?:digraph \w+ \{{|subgraph {STRING} \{{|\}}|\w+=(?:{STRING}|\w+);|node{ATTRIBUTES};"
    rf"|{STRING}(?: -> {STRING})?{ATTRIBUTES};)"
)


def program():
    build = os.environ.get("top_builddir", evlink.TOP)
    return os.environ.get("EVLINKCTL") or os.path.join(build, "evlinkctl")


class Monitor:
    """A running `evlinkctl monitor --json`, whose subscription stands."""

    def __init__(self, case, *arguments):
        self.case = case
        self.process = subprocess.Popen(
            [program(), "monitor", *arguments],
            env=case.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        case.addCleanup(self.close)

    def line(self):
        return self.process.stdout.readline()

    def sync(self):
        """Waits until it is subscribed, where it says nothing about that itself."""
        for n in range(1000):
            self.case.client.hold(f"sync{n}")
            self.case.client.call("Release", {"name": f"sync{n}"})
            if select.select([self.process.stdout], [], [], 0.02)[0]:
                return
        self.case.fail("the monitor tells nothing")

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


class Ctl(blackbox.Case):
    def environment(self):
        return dict(os.environ, EVLINK_SOCKET=self.broker.path, LC_ALL="C.UTF-8", TZ="UTC")

    def ctl(self, *arguments, status=0, given=None):
        """What it prints; on stderr unless it succeeds."""
        answer = subprocess.run(
            [program(), *arguments],
            env=self.environment(),
            input=given or "",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.assertEqual(answer.returncode, status, answer.stderr)
        self.assertEqual(answer.stdout if status else answer.stderr, "")
        return answer.stderr if status else answer.stdout

    def some(self):
        """An agent, and links of each kind."""
        self.attach("a1", {"vm1": None})
        self.ctl("hold", "bell", "x", "y", "z", "lvl", "lone", "p1", "p2")
        self.ctl("link", "--name", "ring", "eventfd/bell", "kvm/vm1/gsi/5", "--group", "g", "--label", "k=v")
        self.ctl("link", "--name", "level", "eventfd/lvl", "kvm/vm1/gsi/9/level")
        self.ctl("link", "--name", "rel", "eventfd/x", "eventfd/y,eventfd/z,kvm/vm1/gsi/6")
        self.ctl("link", "--name", "many", "eventfd/p1,kvm/vm1/pio/0x510/2", "eventfd/p2,kvm/vm2/gsi/3")

    def test_offer_and_withdraw(self):
        ends = ["kvm/vm1/dev/net0/notify/1", "kvm/vm1/dev/net0/irq/1"]
        self.attach("a1", {"vm1": None})
        self.ctl("link", "--name", "dev", *ends)
        self.assertEqual(self.link("dev")["state"], "waiting")
        self.assertEqual(self.ctl("offer", "a1", *ends), "")
        self.wait_link("dev", "linked")
        self.assertEqual(sorted(self.client.list("Agents")["a1"]["offered"]), sorted(ends))
        self.assertEqual(json.loads(self.ctl("withdraw", "--json", "--reason", "reset", "a1", ends[1])), {})
        self.assertEqual(self.ends("dev"), {ends[0]: "plugged", ends[1]: "absent"})
        self.assertIn("nobody", self.ctl("offer", "nobody", ends[0], status=1))
        self.ctl("offer", "a1", status=2)

    def test_what_is_invalid(self):
        """A parameter that the broker does not take is told with its value, and with what it has to be."""
        self.ctl("hold", "bell")
        self.ctl("link", "--name", "ring", "eventfd/bell", "kvm/vm1/gsi/5")
        long = "x" * 64
        for arguments, wanted in (
            (("renew", "--lease", "5", "bell"), "the eventfd 'bell' was made without a lease"),
            (("renew", "--lease", "5", "--link", "ring"), "the link 'ring' was made without a lease"),
            (("renew", "--lease", "5", "--link", "-ring"), "'-ring' is no name: one has 1 to 63 of"),
            (("hold", "a b"), "'a b' is no name"),
            (("hold", ""), "'' is no name"),
            (("hold", "x" * 900), f"'{'x' * 100}' is no name: one has 1 to 63 of"),
            (("hold", "x" * 99 + "\u20ac"), f"'{'x' * 99}' is no name"),
            (("release", long), f"'{long}' is no name"),
            (("link", "--name", "a/b", "eventfd/bell", "kvm/vm1/gsi/6"), "'a/b' is no name"),
            (("link", "--group", "*", "eventfd/bell", "kvm/vm1/gsi/6"), "'*' is no name"),
            (("unlink", "--group", "*"), "'*' is no name"),
            (("park", "eventfd/bell"), "'eventfd/bell' is no name"),
            (("offer", "a,b", "kvm/vm1/dev/d/irq/1"), "'a,b' is no name"),
            (("delegate", "a b", "--", "true"), "'a b' is no name"),
            (("delegate", "x" * 38, "--", "true"), "'scope' has to be a name of up to 37 characters"),
            (("revoke", "web"), "no delegated connection of the scope 'web'"),
            (("list", "x" * 257), "'match' has to be a pattern of up to 256 bytes"),
            (("leave", "--reason", "x" * 257, "eventfd/bell"), "'reason' has to be a text of up to 256 bytes"),
        ):
            self.assertIn(wanted, self.ctl(*arguments, status=1), arguments)
        for line, wanted in (
            ({"name": "ok", "producers": ["eventfd/bell"], "consumers": ["kvm/v/gsi/1"], "group": "g g"}, "'g g' is no"),
            ({"name": 5, "producers": ["eventfd/bell"], "consumers": ["kvm/v/gsi/1"]}, "'name' has to be a name"),
            ({"producers": [], "consumers": ["kvm/v/gsi/1"]}, "'producers' has to be a list of at least one"),
            ({"producers": ["eventfd/bell"], "consumer": "kvm/v/gsi/1"}, "'consumers' has to be a list of at least one"),
            ({"producers": ["eventfd/bell"], "consumers": ["kvm/v/gsi/1"], "x": 1}, "'x' is unknown to the broker"),
        ):
            self.assertIn(wanted, self.ctl("link", "--file", "-", given=json.dumps(line), status=1))
        for arguments, wanted in (
            (("release", "bell"), "in use by ring: end the link with evlinkctl unlink first"),
            (("link", "eventfd/bell", "kvm/vm1/gsi/5"), "end that link with evlinkctl unlink first"),
        ):
            self.assertIn(wanted, self.ctl(*arguments, status=1))
        self.assertIn("no group 'none'", self.ctl("unlink", "--group", "none", status=1))
        self.assertIn("no link 'none'", self.ctl("unlink", "none", status=1))
        self.assertIn("endpoint 'kvm/v/gsi/1' is in no link", self.ctl("leave", "kvm/v/gsi/1", status=1))

    def test_what_it_refuses(self):
        self.assertIn("no link in it", self.ctl("link", "--file", "-", given="\n", status=1))
        for command in ("hold", "link"):
            wanted = f"--lifetime: there is no 'ever' for {command}: see LIFETIME"
            self.assertIn(wanted, self.ctl(command, "--lifetime", "ever", "x", "y", status=2))
        self.assertIn("up to 107 bytes", self.ctl("list", "--socket", "x" * 108, status=3))
        for option in ("-x", "--nothing"):
            self.assertTrue(self.ctl(option, "list", status=2).startswith("evlinkctl: "))

    def test_park_and_resume(self):
        self.some()
        self.assertEqual(self.ctl("park", "ring", "rel"), "")
        self.assertEqual([self.link(name)["state"] for name in ("ring", "rel")], ["parked", "parked"])
        self.ctl("signal", "bell", "3")
        self.assertIn("parked", self.ctl("park", "ring", status=1))
        links = json.loads(self.ctl("resume", "--json", "ring", "rel"))["links"]
        self.assertEqual([(link["name"], link["state"]) for link in links], [("ring", "linked"), ("rel", "linked")])
        self.ctl("park", "-g", "g")
        self.assertEqual([self.link(name)["state"] for name in ("ring", "rel")], ["parked", "linked"])
        self.assertEqual(json.loads(self.ctl("park", "-g", "g", "--json")), {"links": []})
        self.ctl("resume", "--group", "g")
        # One that is refused does not keep the next from it.
        self.ctl("park", "none", "ring", status=1)
        self.assertEqual(self.link("ring")["state"], "parked")
        for command in ("park", "resume"):
            self.ctl(command, status=2)
            self.ctl(command, "ring", "--group", "g", status=2)

    def test_move_and_leave(self):
        self.some()
        self.assertEqual(self.ctl("move", "ring", "kvm/vm1/gsi/5", "kvm/vm1/gsi/0x7"), "")
        self.assertEqual(self.ends("ring"), {"eventfd/bell": "plugged", "kvm/vm1/gsi/7": "plugged"})
        moved = json.loads(self.ctl("move", "--json", "ring", "kvm/vm1/gsi/7", "kvm/vm3/gsi/7"))["link"]
        self.assertEqual((moved["name"], moved["state"]), ("ring", "waiting"))
        self.assertIn("do not move", self.ctl("move", "ring", "eventfd/bell", "eventfd/lone", status=1))
        self.ctl("move", "ring", "kvm/vm3/gsi/7", status=2)
        self.assertEqual(self.ctl("leave", "eventfd/y", "--reason", "tired"), "")
        self.assertNotIn("eventfd/y", self.ends("rel"))
        self.assertIn("eventfd/y", self.ctl("leave", "eventfd/y", status=1))
        self.ctl("leave", "kvm/vm1/gsi/9/level")
        self.assertNotIn("level", self.client.list("Links"))

    def test_export(self):
        """What is exported is what link takes back."""
        self.some()
        lines = self.ctl("export")
        self.assertEqual([json.loads(line)["name"] for line in lines.splitlines()], ["level", "many", "rel", "ring"])
        document = json.loads(self.ctl("export", "--json", "--group", "g"))
        self.assertEqual(
            document["links"],
            [
                {
                    "name": "ring",
                    "producers": ["eventfd/bell"],
                    "consumers": ["kvm/vm1/gsi/5"],
                    "group": "g",
                    "labels": {"k": "v"},
                }
            ],
        )
        self.assertEqual(self.ctl("export", "r?l").count("\n"), 1)
        self.assertEqual(self.ctl("export", "none*"), "")
        self.ctl("unlink", "level", "many", "rel", "ring")
        self.assertEqual(self.ctl("link", "--file", "-", given=lines), "level\nmany\nrel\nring\n")
        self.assertEqual(self.ctl("export"), lines)

    def test_tree(self):
        self.some()
        tree = self.ctl("links", "--noheadings", "r*").splitlines()
        self.assertEqual(
            [line.split() for line in tree],
            [
                ["rel", "relayed", "linked", "-"],
                ["├─eventfd/x", "producer", "plugged", "-"],
                ["├─eventfd/y", "consumer", "plugged", "-"],
                ["├─eventfd/z", "consumer", "plugged", "-"],
                ["└─kvm/vm1/gsi/6", "consumer", "plugged", "-"],
                ["ring", "direct", "linked", "-"],
                ["├─eventfd/bell", "producer", "plugged", "-"],
                ["└─kvm/vm1/gsi/5", "consumer", "plugged", "-"],
            ],
        )
        self.assertEqual(self.ctl("links", "many").split("\n")[0].split(), ["NAME", "KIND", "STATE", "REASON"])
        chosen = self.ctl("links", "-n", "-o", "state,labels", "ring").split()
        self.assertEqual(chosen, ["linked", "k=v", "plugged", "-", "plugged", "-"])
        self.assertEqual(self.ctl("links", "-l", "-n", "-o", "name").split(), ["level", "many", "rel", "ring"])
        listed = self.ctl("links", "--list", "-n", "rel").split()
        self.assertEqual(listed[:5], ["rel", "linked", "eventfd/x", "eventfd/y,eventfd/z,kvm/vm1/gsi/6", "yes"])
        for link in json.loads(self.ctl("links", "--json"))["links"]:
            self.assertEqual(link, self.link(link["name"]))

    def shown(self, *names):
        """What show says of links, for people: for each the block above its tree, and {node: its row}."""
        text = self.ctl("show", *names)
        *parts, last = re.split(r"(?m)^$\n", text)
        self.assertRegex(last, r"^Holders are those of \d+ processes; \d+ more may not be looked into")
        found = []
        for block, tree in zip(parts[::2], parts[1::2]):
            name, *lines = block.splitlines()
            heading, *rows = [line.split() for line in tree.splitlines()]
            rows = [dict(zip(heading, [re.sub("^[├└]─", "", row[0]), *row[1:]])) for row in rows]
            found.append((name, dict(line.strip().split(": ", 1) for line in lines), rows))
        self.assertEqual(len(found), len(parts) // 2)
        return found

    def test_show(self):
        self.some()
        self.ctl("signal", "x", "3")
        claimed = self.own(self.client.claim("bell"))
        again = self.own(os.dup(claimed))
        (name, block, rows), (_, relayed, copies) = self.shown("ring", "rel")
        number = str(evlink.fdinfo(claimed)[1])
        self.assertEqual(name, "ring")
        wanted = {"State": "linked", "Lifetime": "persistent", "Group": "g", "Labels": "k=v"}
        self.assertEqual({key: block[key] for key in wanted}, wanted)
        self.assertTrue(block["Path"].startswith("direct"))
        self.assertTrue(block["Counted by"].startswith("nobody"))
        self.assertEqual(
            [list(row.values())[:6] for row in rows[:3]],
            [
                ["eventfd-id:" + number, "eventfd", "-", "0", "bell", "-"],
                ["eventfd/bell", "producer", "plugged", "-", "-", "-"],
                ["kvm/vm1/gsi/5", "consumer", "plugged", "-", "-", "a1"],
            ],
        )
        # The agent is in this process, which holds the eventfd twice, and so does evlinkd, once.
        self.assertEqual(rows[2]["PID"], str(os.getpid()))
        with open("/proc/self/comm", encoding="utf-8") as file:
            self.assertEqual(rows[2]["COMMAND"], file.read().strip())
        fds = ",".join(str(fd) for fd in sorted((claimed, again)))
        holders = {(row["PID"], row["EVENTFD"]) for row in rows[3:] if row["ROLE"] == "holder"}
        self.assertIn((str(os.getpid()), "fd:" + fds), holders)
        self.assertEqual(len(holders), len(rows) - 3)
        self.assertIn(str(self.broker.pid), {row["PID"] for row in rows[3:]})
        self.assertTrue(relayed["Path"].startswith("relayed"))
        self.assertEqual(relayed["Counted by"], "evlinkd, which has copied 3 so far")
        eventfds = [(row["NAMES"], row["PENDING"]) for row in copies if row["ROLE"] == "eventfd"]
        self.assertEqual(eventfds, [("x", "0"), ("y", "3"), ("z", "3"), ("-", "1")])
        # What waits.
        ((_, block, rows),) = self.shown("many")
        self.assertEqual((block["State"], block.get("Reason")), ("waiting", None))
        self.assertEqual([row["STATE"] for row in rows if row["EVENTFD"] == "kvm/vm2/gsi/3"], ["absent"])
        self.ctl("hold", "w")
        self.ctl("link", "--name", "wait", "eventfd/w", "kvm/vm2/gsi/4")
        self.ctl("link", "--name", "none", "eventfd/not", "kvm/vm1/gsi/4")
        self.ctl("park", "ring")
        wanted = {"wait": "what is pending", "none": "nobody yet", "ring": "what is pending"}
        for name, block, _ in self.shown(*wanted):
            self.assertTrue(block["Counted by"].startswith(wanted[name]), block)

    def test_show_failed(self):
        """Why a link does not work, of which a semaphore is a case."""
        self.attach("a1", {"vm1": None})
        self.ctl("link", "--name", "ring", "eventfd/sem", "kvm/vm1/gsi/5")
        ((_, _, rows),) = self.shown("ring")
        self.assertEqual(rows[0]["EVENTFD"], "eventfd-id:unknown")
        self.ctl("hold", "--semaphore", "sem")
        if not self.client.list("Eventfds")["sem"].get("semaphore"):
            self.skipTest("this kernel does not tell semaphores")
        reason = self.wait_link("ring", "failed")["reason"]
        ((_, block, _),) = self.shown("ring")
        self.assertEqual((block["State"], block["Reason"]), ("failed", reason))
        tree = self.ctl("show", "-n", "-o", "EVENTFD,REASON", "ring")
        self.assertRegex(tree, "(?m)^├─eventfd/sem .*semaphore")

    def test_show_level(self):
        """Two eventfds: the way of the signals, and the way back."""
        self.some()
        ((_, block, rows),) = self.shown("level")
        self.assertIn("end-of-interrupt", block["Path"])
        self.assertEqual(
            [(row["EVENTFD"].split(":")[0], row["ROLE"], row["NAMES"]) for row in rows if row["ROLE"] != "holder"],
            [
                ("eventfd-id", "eventfd", "lvl"),
                ("eventfd/lvl", "producer", "-"),
                ("kvm/vm1/gsi/9/level", "consumer", "-"),
                ("eventfd-id", "eventfd", "lvl/eoi"),
                ("kvm/vm1/gsi/9/level", "eoi-producer", "-"),
                ("eventfd/lvl/eoi", "eoi-consumer", "-"),
            ],
        )
        ids = [row["EVENTFD"] for row in rows if row["ROLE"] == "eventfd"]
        claimed = [self.own(self.client.claim(name)) for name in ("lvl", "lvl/eoi")]
        self.assertEqual(ids, [f"eventfd-id:{evlink.fdinfo(fd)[1]}" for fd in claimed])

    def test_show_counting(self):
        """Whoever can count the signals of a direct link."""
        self.attach("a1", {"vm1": None}, subsystems=[{"kind": "kvm", "name": "vm1"}, {"kind": "vfio", "name": "d"}])
        self.ctl("hold", "in")
        self.ctl("link", "--name", "read", "kvm/vm1/pio/1", "eventfd/in")
        self.ctl("link", "--name", "posted", "vfio/d/msi/0", "kvm/vm1/gsi/1")
        self.ctl("link", "--name", "kick", "kvm/vm1/pio/2", "vhost/v/vring/0/kick")
        words = [(name, block["Counted by"]) for name, block, _ in self.shown("read", "posted", "kick")]
        for (name, said), wanted in zip(words, ("whoever reads it", "nobody.*posted", "what is pending")):
            self.assertRegex(said, wanted, name)
        self.ctl("hold", "--semaphore", "sem")
        self.ctl("link", "--name", "taken", "kvm/vm1/pio/3", "eventfd/sem")
        if self.client.list("Eventfds")["sem"]["semaphore"]:
            ((_, block, rows),) = self.shown("taken")
            self.assertIn("semaphore", block["Counted by"])
            self.assertEqual((rows[0]["ROLE"], rows[0]["NAMES"]), ("semaphore", "sem"))
        self.ctl("unlink", "read", "posted", "kick", "taken")

    def test_show_json(self):
        self.some()
        text = self.ctl("show", "--json", "r*", "level")
        self.assertTrue(text.isascii())
        document = json.loads(text)
        self.assertEqual([link["name"] for link in document["links"]], ["rel", "ring", "level"])
        for link in document["links"]:
            self.assertEqual(link, self.client.list("Links", match=link["name"], details=True)[link["name"]])
        ids = {
            end[key]
            for link in document["links"]
            for end in link["producers"] + link["consumers"]
            for key in ("eventfdId", "resampleEventfdId")
            if key in end
        }
        self.assertEqual({eventfd["eventfdId"] for eventfd in document["eventfds"]}, ids)
        self.assertEqual(len(ids), 7)
        names = [name for eventfd in document["eventfds"] for name in eventfd["names"]]
        self.assertEqual(sorted(names), ["bell", "lvl", "lvl/eoi", "x", "y", "z"])
        for eventfd in document["eventfds"]:
            self.assertIn(self.broker.pid, [holder["pid"] for holder in eventfd["holders"]])
            for holder in eventfd["holders"]:
                self.assertEqual(sorted(holder), ["comm", "fds", "pid"])
        self.assertEqual([agent["owner"]["pid"] for agent in document["agents"]], [os.getpid()])
        self.assertGreater(document["processes"]["seen"], 0)

    def test_show_holders(self):
        """Other processes that have an eventfd, whatever they are called."""
        self.ctl("hold", "bell")
        self.ctl("link", "--name", "ring", "eventfd/bell", "kvm/vm1/gsi/5")
        fd = self.own(self.client.claim("bell"))
        rename = "import sys; open('/proc/self/comm', 'wb').write(b'\\xe9\\x1b[1m'); print(flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", rename], pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            (eventfd,) = json.loads(self.ctl("show", "--json", "ring"))["eventfds"]
            ((_, _, rows),) = self.shown("ring")
            process.stdin.close()
        holders = {holder["pid"]: holder for holder in eventfd["holders"]}
        self.assertEqual(holders[process.pid], {"pid": process.pid, "comm": "?\x1b[1m", "fds": [fd]})
        self.assertEqual(holders[os.getpid()]["fds"], [fd])
        (row,) = [row for row in rows if row["PID"] == str(process.pid)]
        self.assertEqual((row["ROLE"], row["COMMAND"]), ("holder", r"?\x1b[1m"))
        (eventfd,) = json.loads(self.ctl("show", "--json", "ring"))["eventfds"]
        self.assertNotIn(process.pid, [holder["pid"] for holder in eventfd["holders"]])

    def test_show_nothing(self):
        """What is not there keeps nothing else from being shown."""
        self.some()
        self.assertIn("no link 'none'", self.ctl("show", "none", status=1))
        self.ctl("show", status=2)
        self.ctl("show", "-o", "NONE", "ring", status=2)
        answer = subprocess.run(
            [program(), "show", "none", "ring"], env=self.environment(), capture_output=True, text=True, check=False
        )
        self.assertEqual((answer.returncode, answer.stdout.split("\n")[0]), (1, "ring"))
        self.assertIn("no link 'none'", answer.stderr)

    @blackbox.needs_root
    def test_show_as_another_user(self):
        """Others' processes are counted, and others' links and agents not told."""
        self.some()
        other = self.connect_as(blackbox.NOBODY)
        other.hold("own")
        other.connect(["eventfd/own"], ["kvm/vm9/gsi/12"], name="mine")
        held = self.own(self.client.claim("own"))
        try:
            answers = [
                subprocess.run(
                    [program(), "show", "--json", name],
                    env=self.environment(),
                    capture_output=True,
                    text=True,
                    check=False,
                    user=blackbox.NOBODY,
                    group=blackbox.NOBODY,
                    extra_groups=[],
                )
                for name in ("mine", "ring")
            ]
        except PermissionError:
            self.skipTest("another user may not run what was built here")
        self.assertEqual(answers[1].returncode, 1)
        self.assertIn("no link 'ring'", answers[1].stderr)
        document = json.loads(answers[0].stdout)
        self.assertGreaterEqual(document["processes"]["hidden"], 2)  # this one, and evlinkd
        (eventfd,) = document["eventfds"]
        self.assertEqual(eventfd["eventfdId"], evlink.fdinfo(held)[1])
        self.assertEqual((eventfd["names"], eventfd["holders"]), (["own"], []))
        self.assertEqual(document["agents"], [])

    def test_graph(self):
        self.some()
        graph = self.ctl("graph")
        for line in graph.splitlines():
            self.assertTrue(STATEMENT.fullmatch(line.strip()), line)
        self.assertEqual(graph.count("{"), graph.count("}"))
        for cluster in ("eventfd", "kvm/vm1", "kvm/vm2"):
            self.assertIn(f'subgraph "cluster_{cluster}" {{', graph)
        for node in ("eventfd/lone", "eventfd/lvl/eoi", "kvm/vm1/pio/0x510/2", "kvm/vm2/gsi/3"):
            self.assertRegex(graph, rf'(?m)^ {{8}}"{node}" \[label=')
        for edge, label in (
            ('"eventfd/bell" -> "kvm/vm1/gsi/5"', r"ring\nlinked"),
            ('"eventfd/x" -> "eventfd/z"', r"rel\nlinked"),
            ('"kvm/vm1/gsi/9/level" -> "eventfd/lvl/eoi"', r"level\nlinked"),
            ('"eventfd/p1" -> "link: many"', r"many\nwaiting"),
            ('"link: many" -> "kvm/vm2/gsi/3"', r"many\nwaiting"),
        ):
            self.assertIn(f'{edge} [label="{label}"', graph)
        self.assertIn("agent a1", graph)
        part = self.ctl("graph", "ring")
        self.assertIn("eventfd/bell", part)
        self.assertNotIn("eventfd/lone", part)
        self.assertEqual(part, self.ctl("graph", "--group", "g"))
        self.assertEqual(sorted(json.loads(self.ctl("graph", "--json"))), ["agents", "eventfds", "links"])

    def test_delegate(self):
        self.ctl("hold", "bell")
        script = f"""
            "{program()}" hold web.bell &&
            "{program()}" link --name web.l eventfd/web.bell kvm/vm1/gsi/5 &&
            "{program()}" list -n -o NAME &&
            ! "{program()}" hold x && ! "{program()}" link eventfd/web.bell kvm/vm2/gsi/5 &&
            "{program()}" delegate web.in kvm/vm1/gsi -- "{program()}" hold web.in.x && exit 7"""
        answer = subprocess.run(
            [program(), "delegate", "--max-eventfds", "2", "web", "kvm/vm1", "--", "sh", "-c", script],
            env=self.environment(), capture_output=True, text=True, timeout=PATIENCE, check=False,
        )
        self.assertEqual((answer.returncode, answer.stdout), (7, "web.l\nweb.bell\n"), answer.stderr)
        self.assertEqual(answer.stderr.count("delegated"), 2, answer.stderr)
        self.assertEqual(self.client.list("Links")["web.l"]["owner"]["scope"], "web")
        self.assertRegex(self.ctl("list", "-o", "NAME,SCOPE"), r"web\.bell +web\nweb\.in\.x +web\.in\n")
        self.assertIn("eventfds of one scope", self.ctl(
            "delegate", "web", "--max-eventfds=2", "--", program(), "hold", "web.y", status=1))
        # Whoever names a socket gets that.
        self.ctl("delegate", "web", "--", program(), "--socket", self.broker.path, "hold", "y")
        with subprocess.Popen(
            [program(), "delegate", "web", "--", "sh", "-c", f'read x; exec "{program()}" list'],
            env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:
            evlink.until(lambda: self.client.call("Status")["connections"] == 2)
            self.assertEqual(self.ctl("revoke", "web"), "")
            _, err = process.communicate("go\n", timeout=PATIENCE)
        self.assertEqual(process.returncode, 3, err)
        self.assertIn("no delegated connection of the scope 'web'", self.ctl("revoke", "web", status=1))
        self.ctl("delegate", "web", "kvm/vm1", status=2)
        self.ctl("delegate", "--max-links=-1", "web", "--", "true", status=2)
        self.ctl("delegate", "web", "kvm", "--", "true", status=1)
        self.ctl("revoke", status=2)
        for number in ("99", "x", "0"):
            answer = subprocess.run(
                [program(), "list"], env=dict(self.environment(), EVLINK_FD=number), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=PATIENCE, check=False,
            )
            self.assertEqual(answer.returncode, 3, answer.stderr)
            self.assertIn("EVLINK_FD is " + number, answer.stderr)

    def test_monitor(self):
        """The headings say that it is subscribed; each line is there at once."""
        monitor = Monitor(self)
        self.assertEqual(monitor.line().split(), ["TIME", "TYPE", "SUBJECT", "LINK", "REASON"])
        self.some()
        wanted = [["attached", "a1", "-", "-"]]
        wanted += [["held", name, "-", "-"] for name in "bell x y z lvl lone p1 p2".split()]
        wanted += [["linked", "ring", "ring", "-"]]
        self.assertEqual([monitor.line().split()[2:] for _ in wanted], wanted)
        for number in (signal.SIGINT, signal.SIGTERM):
            another = Monitor(self)
            another.line()
            self.assertEqual(another.end(number), (0, "", ""))

    def test_monitor_filters(self):
        """By type and pattern, as JSON; what could drive a terminal comes as text."""
        self.some()
        monitor = Monitor(self, "--json", "--timeout", "1", "-t", "held", "--type", "withdrawn", "sync*")
        lines = Monitor(self, "-n", "-t", "left", "r*")
        monitor.sync()
        notice = json.loads(monitor.line())
        self.assertEqual(notice["type"], "held")
        self.assertTrue(notice["subject"].startswith("sync"))
        # It does not time out.
        with self.assertRaises(subprocess.TimeoutExpired):
            monitor.process.wait(1.5)
        status, out, err = monitor.end()
        self.assertEqual((status, err), (0, ""))
        self.assertLessEqual({json.loads(line)["type"] for line in out.splitlines()}, {"held"})
        self.ctl("leave", "eventfd/y", "--reason", "a\x1b[1mb\n")
        self.assertEqual(lines.line().split()[2:], ["left", "eventfd/y", "rel", r"a\x1b[1mb\x0a"])

    def test_monitor_types(self):
        """Those of the interface, and no others: one that evlinkd does not know would never be told."""
        with open(os.path.join(evlink.TOP, "src/wire/io.evlink.Broker.varlink"), encoding="utf-8") as file:
            text = re.search(r"# type: ([a-z,\s#]*)\ntype Notice", file.read()).group(1)
        types = re.findall("[a-z]+", text)
        self.assertIn("lost", types)
        arguments = [argument for name in types for argument in ("--type", name)]
        self.assertIn("cannot be reached", self.ctl("monitor", "--socket", "/none", *arguments, status=3))
        for bad in ("nonsense", "", "hel", "held,", "held, claimed", "lost.", "\n"):
            said = self.ctl("monitor", "--type", "held", "--type", bad, status=2)
            self.assertEqual(re.findall("[a-z]+", said.split("Types:")[1].split(".")[0]), types)

    def test_monitor_without_broker(self):
        broker = evlink.Broker()
        self.addCleanup(broker.discard)
        environment = dict(self.environment(), EVLINK_SOCKET=broker.path)
        with subprocess.Popen(
            [program(), "monitor"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            process.stdout.readline()
            broker.process.kill()
            out, err = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, out), (3, ""))
        self.assertRegex(err, r"^evlinkctl: \d{4}-.*: evlinkd has gone")

    def test_monitor_into_nothing(self):
        """What cannot be written is an error, and ends it."""
        with open("/dev/full", "w", encoding="ascii") as full:
            answer = subprocess.run(
                [program(), "monitor"], env=self.environment(), stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE
            )
        self.assertEqual(answer.returncode, 1)
        self.assertIn(b"cannot write", answer.stderr)


if __name__ == "__main__":
    blackbox.main()
