# SPDX-License-Identifier: LGPL-2.1-or-later
"""A foreign client and a foreign agent: written from the .varlink files alone, with nothing but Python's standard
library, to see that others can. Used by the black-box tests.

    Interface    an interface description, parsed; says what is wrong with parameters
    Connection   a client: calls, streams, pipelining, raw bytes, descriptors
    Vm           a virtual machine of /dev/kvm's, by ioctls
    Agent        serves io.evlink.Agent in a thread, and misbehaves if asked to
    Broker       a private evlinkd in a folder of its own

All replies are checked against the interface descriptions, and all calls that an agent gets.

Run as a program it is an agent in a process of its own: evlink.py SOCKET AGENT VM [pidfd]. It prints a line when
it is attached, and lives until its standard input ends.
"""
import array
import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

TESTS = os.path.dirname(os.path.abspath(__file__))
TOP = os.environ.get("top_srcdir", os.path.dirname(TESTS))

# How long anything may take that should be immediate. Nothing waits this long unless something is broken.
PATIENCE = 20.0  # seconds, on a machine that does other things as well

MAX_FDS = 253

# evlinkd's options without which the machine's configuration would be in force.
UNCONFIGURED = ("--config=/dev/null",)


# ---- Varlink ---------------------------------------------------------------------------------------------------


class Interface:
    """An interface description. complaint() says what is wrong with a value."""

    TOKEN = re.compile(r"\s*(?:#[^\n]*\n\s*)*(->|\[string\]|\[\]|[A-Za-z][A-Za-z0-9_.]*|[():,?]|$)")

    def __init__(self, text):
        self.types, self.methods, self.errors = {}, {}, {}
        self.tokens, position = [], 0
        while position < len(text):
            match = self.TOKEN.match(text, position)
            if not match:
                raise ValueError(f"no token at {text[position:position + 20]!r}")
            position = match.end()
            if match.group(1):
                self.tokens.append(match.group(1))
        self._expect("interface")
        self.name = self._next()
        while self.tokens:
            what, name = self._next(), self._next()
            if what == "method":
                given = self._type()
                self._expect("->")
                self.methods[name] = (given, self._type())
            else:
                {"type": self.types, "error": self.errors}[what][name] = self._type()

    @classmethod
    def load(cls, name):
        with open(os.path.join(TOP, "src", "wire", name + ".varlink"), encoding="utf-8") as file:
            return cls(file.read())

    def _next(self):
        return self.tokens.pop(0)

    def _expect(self, token):
        found = self._next()
        if found != token:
            raise ValueError(f"{found!r} instead of {token!r}")

    def _type(self):
        token = self._next()
        if token in ("?", "[]", "[string]"):
            return token, self._type()
        if token != "(":
            return "name", token
        fields, values = {}, []
        while self.tokens[0] != ")":
            name = self._next()
            if self.tokens[0] == ":":
                self._next()
                fields[name] = self._type()
            else:
                values.append(name)
            if self.tokens[0] == ",":
                self._next()
        self._next()
        return ("enum", values) if values else ("struct", fields)

    def complaint(self, kind, value, where=""):
        """What is wrong with a JSON value of that type; None: nothing."""
        what, inner = kind
        if what == "?":
            return f"{where} is null: leave it out" if value is None else self.complaint(inner, value, where)
        if what == "name":
            simple = {"bool": bool, "int": int, "string": str, "float": (int, float), "object": dict}.get(inner)
            if simple is None:
                return self.complaint(self.types[inner], value, where)
            if not isinstance(value, simple) or (isinstance(value, bool) and inner != "bool"):
                return f"{where} is not of type {inner}: {value!r}"
            if inner == "int" and not -(2**63) <= value < 2**63:
                return f"{where} is no int64: {value}"
            return None
        if what == "enum":
            return None if value in inner else f"{where} is none of {inner}: {value!r}"
        if not isinstance(value, list if what == "[]" else dict):
            return f"{where} is not of type {what}: {value!r}"
        if what == "[]":
            parts = [(inner, item, f"{where}[{i}]") for i, item in enumerate(value)]
        elif what == "[string]":
            parts = [(inner, item, f"{where}[{key}]") for key, item in value.items()]
        else:
            unknown = [key for key in value if key not in inner]
            missing = [key for key, field in inner.items() if field[0] != "?" and key not in value]
            if unknown or missing:
                return f"{where} has unknown {unknown}, lacks {missing}"
            parts = [(inner[key], item, f"{where}.{key}") for key, item in value.items()]
        return next(filter(None, (self.complaint(*part) for part in parts)), None)


INTERFACES = {
    name: Interface.load(name) for name in ("io.evlink.Broker", "io.evlink.Agent", "org.varlink.service")
}
AGENT = INTERFACES["io.evlink.Agent"]


class Error(Exception):
    """A Varlink error. name: without the interface."""

    def __init__(self, name, parameters):
        super().__init__(f"{name} {json.dumps(parameters)}")
        self.full_name = name
        self.name = name.rpartition(".")[2]
        self.parameters = parameters


class Malformed(Exception):
    """What came is not what the interface description says."""


def full_method(method):
    return method if "." in method else "io.evlink.Broker." + method


def encode(method, parameters=None, **flags):
    """A call's frame. Flags and parameters are sent as they are given, null included."""
    message = {"method": full_method(method)}
    if parameters is not None:
        message["parameters"] = parameters
    message.update(flags)
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\0"


def close_all(fds):
    for fd in fds:
        os.close(fd)


class Frames:
    """NUL-terminated frames and their descriptors on a stream socket."""

    def __init__(self, sock, timeout=PATIENCE):
        self.sock = sock
        self.sock.settimeout(timeout)
        self.buffer = bytearray()
        self.fds = []

    def send(self, data, fds=()):
        """All of data; the descriptors with its first byte."""
        sent = 0
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            sent = self.sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        if sent < len(data):
            self.sock.sendall(memoryview(data)[sent:], socket.MSG_NOSIGNAL)

    def receive(self):
        """The next frame and its descriptors; (None, []) at the end."""
        while True:
            end = self.buffer.find(b"\0")
            if end >= 0:
                frame, fds = bytes(self.buffer[:end]), self.fds
                del self.buffer[: end + 1]
                self.fds = []
                return frame, fds
            # A peek without room for descriptors says MSG_CTRUNC if it met some: then take one frame only.
            seen, _, flags, _ = self.sock.recvmsg(65536, 0, socket.MSG_PEEK)
            length = len(seen)
            if flags & socket.MSG_CTRUNC and b"\0" in seen:
                length = seen.index(b"\0") + 1
            data, control, flags, _ = self.sock.recvmsg(
                max(length, 1), socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, content in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self.fds += array.array("i", content[: len(content) & ~3])
            if flags & socket.MSG_CTRUNC:
                raise Malformed("descriptors were lost")
            if not data:
                if self.buffer:
                    raise Malformed(f"the end within a frame: {bytes(self.buffer[:80])!r}")
                return None, []
            self.buffer += data

    def close(self):
        close_all(self.fds)
        self.fds = []
        self.sock.close()


class Connection(Frames):
    """A client. Calls that are answered with an error raise it."""

    def __init__(self, path_or_socket, timeout=PATIENCE):
        sock = path_or_socket
        if isinstance(sock, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(path_or_socket)
            except OSError:
                sock.close()
                raise
        super().__init__(sock, timeout)
        self.pending = []  # methods whose replies are awaited
        self.got = []  # the descriptors of the last reply

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def start(self, method, parameters=None, fds=(), **flags):
        """Sends a call without waiting for its reply."""
        self.send(encode(method, parameters, **flags), fds)
        if not flags.get("oneway"):
            self.pending.append(full_method(method))

    def expect(self, *methods):
        """After raw bytes: which calls they were."""
        self.pending += [full_method(method) for method in methods]

    def finish(self):
        """The next reply: its parameters, and whether more follow."""
        frame, fds = self.receive()
        if frame is None:
            raise EOFError("the broker closed the connection")
        close_all(self.got)
        self.got = fds
        method = self.pending[0]
        message = json.loads(frame)
        check_reply(method, message)
        continues = message.get("continues", False)
        if not continues:
            self.pending.pop(0)
        if "error" in message:
            if fds:
                raise Malformed("descriptors with an error")
            raise Error(message["error"], message.get("parameters", {}))
        parameters = message.get("parameters", {})
        index = parameters.get("fileDescriptorIndex")
        if len(fds) != (0 if index is None else 1) or (index is not None and index != 0):
            raise Malformed(f"{len(fds)} descriptors, index {index}")
        return parameters, continues

    def call(self, method, parameters=None, fds=(), **flags):
        self.start(method, parameters, fds, **flags)
        if flags.get("oneway"):
            return None
        parameters, continues = self.finish()
        if continues:
            raise Malformed("one reply was expected, and more follow")
        return parameters

    def take(self):
        """The descriptor that came with the last reply: the caller's."""
        return self.got.pop()

    def stream(self, method, parameters=None):
        """All replies to a call with `more`."""
        self.start(method, parameters, more=True)
        found = []
        while True:
            reply, continues = self.finish()
            found.append(reply)
            if not continues:
                return found

    def list(self, what, **parameters):
        """What ListEventfds, ListLinks or ListAgents finds, by name."""
        key = {"Eventfds": "eventfd", "Links": "link", "Agents": "agent"}[what]
        replies = self.stream("List" + what, parameters)
        if any(key not in reply for reply in replies[:-1]) or (len(replies) > 1 and not replies[-1]):
            raise Malformed("an empty reply in a list that has others")
        found = {reply[key]["name"]: reply[key] for reply in replies if key in reply}
        if sum(key in reply for reply in replies) != len(found):
            raise Malformed("a name twice in one list")
        return found

    def hold(self, name, fd=None, **more):
        if fd is None:
            return self.call("Hold", dict(more, name=name))["eventfd"]
        return self.call("Hold", dict(more, name=name, fileDescriptorIndex=0), [fd])["eventfd"]

    def claim(self, name):
        self.call("Claim", {"name": name})
        return self.take()

    def connect(self, producers, consumers, **more):
        return self.call("Connect", dict(more, producers=producers, consumers=consumers))["link"]

    def at_end(self):
        """Whether the broker has closed the connection, with nothing sent before."""
        try:
            return self.receive() == (None, [])
        except ConnectionResetError:
            return True

    def close(self):
        close_all(self.got)
        self.got = []
        super().close()


def check_reply(method, message):
    """A reply against the interface descriptions."""
    if not set(message) <= {"parameters", "continues", "error"} or None in message.values():
        raise Malformed(f"reply {message}")
    interface, _, name = method.rpartition(".")
    parameters = message.get("parameters", {})
    if "error" in message:
        interface, _, name = message["error"].rpartition(".")
        kind = INTERFACES[interface].errors[name]
        if "continues" in message:
            raise Malformed(f"an error that continues: {message}")
    else:
        kind = INTERFACES[interface].methods[name][1]
    complaint = INTERFACES[interface].complaint(kind, parameters, name)
    if complaint:
        raise Malformed(complaint)


def connect_as(path, uid, gid=None, groups=()):
    """A connection whose peer credentials are another user's: a child makes it and hands it over."""
    gid = uid if gid is None else gid
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(path)
            socket.send_fds(theirs, [b"x"], [sock.fileno()])
            status = 0
        os._exit(status)
    theirs.close()
    with ours:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if os.waitpid(child, 0)[1] != 0:
        raise OSError(f"no connection as uid {uid}")
    return Connection(socket.socket(fileno=fds[0]))


def fdinfo(fd):
    """(count, id, semaphore) of an eventfd; id and semaphore are None where the kernel does not tell."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    semaphore = fields.get("eventfd-semaphore")
    number = fields.get("eventfd-id")
    return (
        int(fields["eventfd-count"], 16),
        None if number is None else int(number),
        None if semaphore is None else bool(int(semaphore)),
    )


def fds_of(pid):
    """{number: what it is} of a process's descriptors."""
    found = {}
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found[int(number)] = os.readlink(os.path.join(folder, number))
    return found


def until(condition, what="what was waited for"):
    """Polls until a condition is true, and returns what it gave."""
    deadline = time.monotonic() + PATIENCE
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come")
        time.sleep(0.002)


# ---- KVM -------------------------------------------------------------------------------------------------------

KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_CREATE_IRQCHIP = 0xAE60
KVM_GET_IRQCHIP = 0xC208AE62
KVM_SET_IRQCHIP = 0x8208AE63
KVM_IRQFD = 0x4020AE76
KVM_IOEVENTFD = 0x4040AE79
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_EXIT_IO = 2
KVM_EXIT_MMIO = 6

IRQFD_DEASSIGN = 1 << 0
IOEVENTFD_DATAMATCH = 1 << 0
IOEVENTFD_PIO = 1 << 1
IOEVENTFD_DEASSIGN = 1 << 2

# The guest's memory is the last 64 KiB below 4 GiB, where a processor's code segment is when it is reset.
GUEST_BASE = 0xFFFF0000
GUEST_SIZE = 0x10000
DONE_PORT = 0x80


def has_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


class Vm:
    """A virtual machine with the PC's interrupt controllers, and a processor as soon as ring() needs one.

    An interrupt that has arrived is a bit in a PIC's IRR: no guest is there to take it."""

    def __init__(self, irqchip=True):
        with open("/dev/kvm", "r+b", buffering=0) as kvm:
            self.fd = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
            self.run_size = fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
        self.vcpu = -1
        self.run = self.memory = None
        if irqchip:
            fcntl.ioctl(self.fd, KVM_CREATE_IRQCHIP, 0)

    def close(self):
        if self.fd < 0:
            return
        if self.vcpu >= 0:
            self.run.close()
            os.close(self.vcpu)
        os.close(self.fd)
        if self.memory is not None:
            self.memory.close()
        self.fd = -1

    def irqfd(self, fd, gsi, flags=0):
        fcntl.ioctl(self.fd, KVM_IRQFD, struct.pack("IIII16x", fd, gsi, flags, 0))

    def ioeventfd(self, fd, bus, address, length=0, value=None, flags=0):
        flags |= (IOEVENTFD_PIO if bus == "pio" else 0) | (0 if value is None else IOEVENTFD_DATAMATCH)
        fcntl.ioctl(
            self.fd, KVM_IOEVENTFD, struct.pack("QQIiI36x", value or 0, address, length, fd, flags)
        )

    def plug(self, endpoint, fd):
        """endpoint: in canonical form, behind the VM's name. Raises OSError."""
        self._do(endpoint, fd, 0, 0)

    def unplug(self, endpoint, fd):
        try:
            self._do(endpoint, fd, IRQFD_DEASSIGN, IOEVENTFD_DEASSIGN)
        except FileNotFoundError:
            pass  # what is not plugged is no error

    def _do(self, endpoint, fd, irqfd_flags, ioeventfd_flags):
        word, number, *rest = endpoint.split("/")
        if word == "gsi":
            self.irqfd(fd, int(number), irqfd_flags)
            return
        length, _, value = (rest[0] if rest else "0").partition("=")
        value = int(value, 16) if value else None
        self.ioeventfd(fd, word, int(number, 16), int(length), value, ioeventfd_flags)

    def _pic(self, number, clear=0):
        state = bytearray(struct.pack("II512x", number, 0))
        fcntl.ioctl(self.fd, KVM_GET_IRQCHIP, state)
        last, now = state[8], state[9]
        if clear:
            state[8], state[9] = last & ~clear, now & ~clear
            fcntl.ioctl(self.fd, KVM_SET_IRQCHIP, bytes(state))
        return now

    def interrupted(self, gsi):
        """Whether the interrupt (below 16) has arrived since this last said so."""
        number, bit = gsi >> 3, 1 << (gsi & 7)
        if not self._pic(number) & bit:
            return False
        self._pic(number, bit)
        return True

    def _make_vcpu(self):
        self.vcpu = fcntl.ioctl(self.fd, KVM_CREATE_VCPU, 0)
        self.memory = mmap.mmap(-1, GUEST_SIZE)
        view = ctypes.c_char.from_buffer(self.memory)
        address = ctypes.addressof(view)
        del view
        region = struct.pack("IIQQQ", 0, 0, GUEST_BASE, GUEST_SIZE, address)
        fcntl.ioctl(self.fd, KVM_SET_USER_MEMORY_REGION, region)
        self.run = mmap.mmap(self.vcpu, self.run_size)

    def _enter(self, immediate_exit):
        self.run[1] = immediate_exit
        try:
            fcntl.ioctl(self.vcpu, KVM_RUN, 0)
        except InterruptedError:
            return None
        return struct.unpack_from("I", self.run, 8)[0]

    def ring(self, bus, address, value=0, length=4):
        """The guest writes. Whether an ioeventfd took it: else it is a write that the VMM would see."""
        if self.vcpu < 0:
            self._make_vcpu()
        if bus == "pio":
            code = {1: b"\xee", 2: b"\xef", 4: b"\x66\xef"}[length]
        else:
            code = {1: b"\xa2", 2: b"\xa3", 4: b"\x66\xa3"}[length] + struct.pack("<H", address)
        code += b"\xe6" + bytes([DONE_PORT]) + b"\xf4"  # out DONE_PORT, al; hlt
        self.memory[: len(code)] = code
        # rax, rbx, rcx, rdx, ..., rip, rflags
        fcntl.ioctl(self.vcpu, KVM_SET_REGS, struct.pack("18Q", value, 0, 0, address, *[0] * 13, 2))
        reason = self._enter(0)
        self._enter(1)  # completes the instruction that made it exit
        port = struct.unpack_from("H", self.run, 34)[0]
        if reason == KVM_EXIT_IO and port == DONE_PORT:
            return True
        if reason == (KVM_EXIT_IO if bus == "pio" else KVM_EXIT_MMIO):
            return False
        raise OSError(f"the guest exited with {reason}")


# ---- An agent --------------------------------------------------------------------------------------------------


class Request:
    """One call that an agent got."""

    def __init__(self, method, parameters, size, fds):
        self.method = method.rpartition(".")[2]
        self.parameters = parameters
        self.size = size
        self.n_fds = len(fds)
        items = parameters.get("items", [])
        self.endpoints = [item["endpoint"] for item in items]
        self.ids = [fdinfo(fds[item["fileDescriptorIndex"]])[1] for item in items]


class Agent(threading.Thread):
    """Serves io.evlink.Agent on a socket until that is closed.

    vms: {name: Vm}; a VM that is None plugs everything and remembers it, as a kernel would. To misbehave:
        gate      an Event: each call waits until it is set
        refuse    {endpoint: errno}, or {(method, endpoint): errno}, to answer without an ioctl
        answer    called with the request and the reply's bytes: what it returns is sent instead, or, if it is
                  None, nothing at all
    """

    attached = set()  # the VMs that ever were

    def __init__(self, sock, vms):
        super().__init__(daemon=True)
        self.frames = Frames(sock, None)
        self.vms = vms
        self.requests = []
        self.plugged = {}  # (endpoint, eventfd-id) -> how often
        self.gate = threading.Event()
        self.gate.set()
        self.refuse = {}
        self.answer = lambda request, data: data
        self.failure = None  # what went wrong in here
        self.changed = threading.Condition()
        self.ended = False
        self.start()

    @classmethod
    def attach(cls, connection, name, vms, subsystems=None, fds=(), sock=None, **parameters):
        """Attaches one: on the socket given (the broker gets its peer in fds), or on one that the broker makes."""
        if subsystems is None:
            subsystems = [{"kind": "kvm", "name": vm} for vm in vms]
        parameters.update(name=name, subsystems=subsystems)
        connection.call("Attach", parameters, fds)
        cls.attached.update(each["name"] for each in subsystems if each["kind"] == "kvm")
        if sock is None:
            sock = socket.socket(fileno=connection.take())
        return cls(sock, vms)

    def run(self):
        try:
            while self._serve():
                pass
        except (ConnectionError, BrokenPipeError):
            pass
        except BaseException as error:  # pylint: disable=broad-except
            self.failure = error
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _serve(self):
        frame, fds = self.frames.receive()
        if frame is None:
            return False
        try:
            message = json.loads(frame)
            interface, _, name = message["method"].rpartition(".")
            parameters = message.get("parameters", {})
            kind = AGENT.methods[name][0] if interface == "io.evlink.Agent" else ("struct", {})
            complaint = AGENT.complaint(kind, parameters, name)
            if complaint:
                raise Malformed(complaint)
            request = Request(message["method"], parameters, len(frame), fds)
            with self.changed:
                self.requests.append(request)
                self.changed.notify_all()
            self.gate.wait()
            reply = self._execute(request, fds)
        finally:
            close_all(fds)
        if message.get("oneway"):
            return True
        data = self.answer(request, json.dumps({"parameters": reply}, separators=(",", ":")).encode() + b"\0")
        if data is not None:
            self.frames.send(data)
        return True

    def _execute(self, request, fds):
        if request.method == "Inventory":
            held = [{"endpoint": endpoint, "eventfdId": number} for endpoint, number in self.plugged]
            token = request.parameters.get("token")
            return dict({"plugged": held}, **({} if token is None else {"token": token}))
        results = []
        for item, number in zip(request.parameters.get("items", []), request.ids):
            if item.get("eventfdId", number) != number:
                raise Malformed(f"eventfdId is {item['eventfdId']}, fdinfo says {number}")
            code = self._run(request.method, item["endpoint"], fds[item["fileDescriptorIndex"]], number)
            results.append({"endpoint": item["endpoint"]})
            if code:
                results[-1].update(errno=code, errnoName=errno.errorcode.get(code, "E?"))
        return {"results": results}

    def _run(self, method, endpoint, fd, number):
        for refused in (endpoint, (method, endpoint)):
            if refused in self.refuse:
                return self.refuse[refused]
        vm = self.vms.get(endpoint.split("/")[1])
        key = (endpoint, number)
        try:
            if vm is not None:
                (vm.plug if method == "Plug" else vm.unplug)(endpoint.split("/", 2)[2], fd)
            elif method == "Plug" and key in self.plugged:
                return errno.EBUSY
        except OSError as error:
            return error.errno
        if method == "Plug":
            self.plugged[key] = True
        else:
            self.plugged.pop(key, None)
        return 0

    def wait_for(self, n):
        """Waits until n calls have come in, and returns them."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.requests) >= n or self.ended, PATIENCE)
            if len(self.requests) < n:
                raise TimeoutError(f"{len(self.requests)} calls to the agent, waited for {n}") from self.failure
            return self.requests[:n]

    def wait_end(self):
        """Waits until the broker has closed the socket."""
        self.join(PATIENCE)
        if self.is_alive():
            raise TimeoutError("the broker did not close the agent's socket")

    def log(self):
        """[(method, endpoint)] so far."""
        return [(request.method, endpoint) for request in self.requests for endpoint in request.endpoints]

    def hang_up(self):
        """Closes the socket as a dying process does, in whatever state."""
        with contextlib.suppress(OSError):
            self.frames.sock.shutdown(socket.SHUT_RDWR)
        self.gate.set()
        self.join(PATIENCE)
        self.frames.close()
        if self.is_alive() or self.failure:
            raise RuntimeError("the agent failed") from self.failure


class AgentProcess:
    """An agent in a process of its own, to be killed."""

    def __init__(self, path, name, vm, pidfd=False):
        command = [sys.executable, os.path.join(TESTS, "evlink.py"), path, name, vm]
        self.process = subprocess.Popen(
            command + (["pidfd"] if pidfd else []), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            self._expect("attached")
        except RuntimeError:
            self.kill()
            raise

    def _expect(self, word):
        line = self.process.stdout.readline()
        if line != word.encode() + b"\n":
            raise RuntimeError(f"the agent's process said {line} instead of {word}")

    def silence(self):
        """From now on it answers nothing."""
        self.process.stdin.write(b"silence\n")
        self.process.stdin.flush()
        self._expect("silent")

    def wait_asked(self):
        """Until one that is silent has been asked for something."""
        self._expect("asked")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


# ---- The broker ------------------------------------------------------------------------------------------------


class Broker:
    """A private evlinkd, and a folder for it that everybody may look into."""

    def __init__(self, *options, program=None, folder=None, wait=True, **popen):
        self.folder = folder or tempfile.mkdtemp(prefix="evlinkd-test-")
        self.own_folder = folder is None
        os.chmod(self.folder, 0o755)
        self.path = os.path.join(self.folder, "socket")
        environment = dict(os.environ)
        for variable in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM"):
            environment.pop(variable, None)
        environment.setdefault("ASAN_OPTIONS", "detect_leaks=1:detect_stack_use_after_return=1")
        environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        # A file, so that it never waits for somebody to read it.
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [program or self.program(), *UNCONFIGURED, "--socket=" + self.path, *options],
            stdin=subprocess.DEVNULL,
            stderr=self.errors,
            env=environment,
            **popen,
        )
        self.pid = self.process.pid
        if wait:
            try:
                until(self._is_ready, "evlinkd")
            except BaseException:
                self.discard()
                raise

    @staticmethod
    def program():
        build = os.environ.get("top_builddir", TOP)
        return os.environ.get("EVLINKD") or os.path.join(build, "evlinkd")

    @staticmethod
    def is_sanitized():
        """Whether it was built with AddressSanitizer, and so takes its time."""
        with open(Broker.program(), "rb") as file:
            return b"__asan_init" in file.read()

    def _is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"evlinkd ended with {self.process.returncode}: {self.said()}")
        return "listening at " in self.said()

    def connect(self, timeout=PATIENCE):
        return Connection(self.path, timeout)

    def said(self):
        """All that it has written to its standard error."""
        return os.pread(self.errors.fileno(), 1 << 24, 0).decode(errors="replace")

    def fds(self):
        """{number: what it is} of the daemon's descriptors."""
        return fds_of(self.pid)

    def threads(self):
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            return int(re.search(r"^Threads:\s*(\d+)", file.read(), re.MULTILINE).group(1))

    def end(self, number=signal.SIGTERM):
        """Stops it. Returns its exit status; raises where the sanitizers had something to say."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        try:
            status = self.process.wait(PATIENCE)
            said = self.said()
        finally:
            self.discard()
        for sign in ("AddressSanitizer", "LeakSanitizer", "runtime error:"):
            if sign in said:
                raise RuntimeError(f"evlinkd ended with {status} and said:\n{said}")
        return status

    def stop(self):
        """Stops it, and wants that to be clean."""
        status = self.end()
        if status != 0:
            raise RuntimeError(f"evlinkd ended with {status}")

    def discard(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.errors.close()
        if self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    path, name, vm, *rest = sys.argv[1:]
    connection = Connection(path)
    parameters, fds = {}, []
    if rest:
        parameters, fds = {"pidfdFileDescriptorIndex": 0}, [os.pidfd_open(os.getpid())]
    agent = Agent.attach(connection, name, {vm: Vm() if has_kvm() else None}, fds=fds, **parameters)
    close_all(fds)
    print("attached", flush=True)
    for _ in sys.stdin:
        agent.gate.clear()
        n = len(agent.requests)
        print("silent", flush=True)
        agent.wait_for(n + 1)
        print("asked", flush=True)


if __name__ == "__main__":
    main()
