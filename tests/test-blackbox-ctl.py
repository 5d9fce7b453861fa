#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""evlinkctl against a broker: what is done with links and agents, the tree, the graph, and what the monitor tells."""
import json
import os
import re
import select
import signal
import subprocess

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
