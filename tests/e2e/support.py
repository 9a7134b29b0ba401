# SPDX-License-Identifier: GPL-2.0-or-later
"""What the end-to-end tests share: a protected VM, loads on it, captures of what it says."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
sys.path.insert(0, str(TOP / "scripts"))
sys.path.insert(0, str(TOP / "scripts/lib"))
import lab as lab_module  # noqa: E402
from lab import (GUEST_IP, GUEST_IP6, GUEST_MAC, PATIENCE, LabError,  # noqa: E402,F401
                 build_dir, wait_for)
from pair import LINK_PORT, Pair  # noqa: E402

URL = f"http://{GUEST_IP}"
URL6 = f"http://[{GUEST_IP6}]"
MB = 1000000
MS = 1000000  # ns
VALVE_PORT = LINK_PORT + 1


class Failed(Exception):
    """A check of a test did not hold; the text says which."""


class Skipped(Exception):
    """This machine lacks what the test needs; the text says what."""


def check(condition, text):
    if not condition:
        raise Failed(text)


# --- loads ------------------------------------------------------------------------------------------


class Load:
    """colo-load on the client, in the background; it checks every byte that it gets."""

    def __init__(self, env, mode, *argv, target=None):
        if target is None:
            target = (GUEST_IP if mode in ("rr", "udp", "ping") else
                      URL + "/hello" if mode in ("hold", "http") else URL)
        endless = mode not in ("download", "upload", "hold") and "-n" not in argv
        argv += ("-d", 600) if endless else ()  # until stop()
        argv += ("--deadline", 2 * PATIENCE) if "--deadline" not in argv else ()
        self.mode = mode
        self.seen = 0
        self.last = {"bytes": 0, "requests": 0}
        self.events = set()
        self.process = env.lab.spawn(
            "client", [build_dir() / "tests/colo-load", mode, target, *argv, "--json",
                       "--progress", 20], name=f"load-{mode}",
            stdin=subprocess.PIPE if "--until-eof" in argv else subprocess.DEVNULL)

    def poll(self):
        """Takes in what it has printed; returns the last progress line."""
        lines = self.process.lines
        while self.seen < len(lines):
            line = lines[self.seen]
            self.seen += 1
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if value.get("event") == "progress":
                    self.last = value
                elif "event" in value:
                    self.events.add(value["event"])
        return self.last

    def reached(self, what, amount, seconds=30):
        """Waits until "bytes" or "requests" are at least so many."""
        def there():
            ended = self.process.poll() is not None
            if self.poll()[what] >= amount:
                return True
            if ended:
                self.process.end_log()
                self.poll()
                raise Failed(f"{self.mode} ended before {amount} {what}: {self.tail()}")
            return False

        wait_for(there, seconds, f"{self.mode}: {amount} {what}, at {self.last}")
        return self

    def more(self, what, amount, seconds=30):
        """Waits for so much progress from now on."""
        return self.reached(what, self.poll()[what] + amount, seconds)

    def goes_on(self, bytes_):
        """So many bytes from now on, or the end: on a busy machine a stream whose rate is limited
        may be through before what was done meanwhile. What it says is result()'s to check."""
        goal = self.poll()["bytes"] + bytes_
        wait_for(lambda: self.process.poll() is not None or self.poll()["bytes"] >= goal, 30,
                 f"{self.mode}: {bytes_} bytes more")

    def event(self, name, seconds=30):
        def there():
            ended = self.process.poll() is not None
            self.poll()
            check(name in self.events or not ended, f"{self.mode} ended: {self.tail()}")
            return name in self.events

        wait_for(there, seconds, f"{self.mode}: {name}")
        return self

    def tail(self):
        return " | ".join(self.process.lines[-3:])[-600:]

    def stop(self):
        """It asks nothing new and ends when what is under way is answered."""
        self.process.terminate()
        return self

    def end(self):
        """Ends a stream in its middle; a wrong byte would have ended it before. Its bytes until then."""
        check(self.process.poll() is None, f"{self.mode} ended: {self.tail()}")
        self.process.kill()
        self.process.wait()
        return self.poll()["bytes"]

    def use(self):
        """hold: use the connections now."""
        self.process.stdin.close()
        return self

    def report(self, seconds=60):
        """Waits for the end; the result, whether good or bad."""
        wait_for(lambda: self.process.poll() is not None, seconds, f"{self.mode} ends")
        self.process.end_log()
        for line in reversed(self.process.lines):
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if "ok" in value:
                    return value
        raise Failed(f"{self.mode} ended without a result: {self.tail()}")

    def result(self, seconds=60):
        """Waits for the end; the result, which must be good."""
        value = self.report(seconds)
        check(value["ok"] and value["wrong"] == 0, f"{self.mode}: {value.get('error')}: {value}")
        return value


# --- captures ---------------------------------------------------------------------------------------


class Frame:
    """One captured frame; TCP is taken apart."""

    __slots__ = ("at", "data", "ethertype", "from_vm", "tcp", "sport", "dport", "seq", "ack",
                 "flags", "length", "tsval", "sack", "proto")

    FIN, SYN, RST, ACK = 1, 2, 4, 16

    def __init__(self, at, data):
        self.at, self.data = at, data
        self.ethertype = struct.unpack_from("!H", data, 12)[0]
        self.from_vm = data[6:12] == MAC_BYTES
        self.tcp, self.tsval, self.sack, self.proto = False, None, [], None
        if self.ethertype == 0x0800 and len(data) >= 34:
            head = (data[14] & 15) * 4
            self.proto = data[23]
            self._tcp(14 + head, struct.unpack_from("!H", data, 16)[0] - head)
        elif self.ethertype == 0x86dd and len(data) >= 54:
            self.proto = data[20]
            self._tcp(54, struct.unpack_from("!H", data, 18)[0])

    def _tcp(self, tcp, size):
        if self.proto != 6 or len(self.data) < tcp + 20:
            return
        self.tcp = True
        self.sport, self.dport, self.seq, self.ack, off, self.flags = struct.unpack_from(
            "!HHIIBB", self.data, tcp)
        self.length = size - (off >> 4) * 4
        self._options(tcp + 20, tcp + (off >> 4) * 4)

    def _options(self, at, end):
        while at + 1 < min(end, len(self.data)):
            kind = self.data[at]
            if kind == 0:
                return
            if kind == 1:
                at += 1
                continue
            size = self.data[at + 1]
            if size < 2 or at + size > len(self.data):
                return
            if kind == 8:
                self.tsval = struct.unpack_from("!I", self.data, at + 2)[0]
            elif kind == 5:
                self.sack = [struct.unpack_from("!II", self.data, at + 2 + 8 * i)
                             for i in range((size - 2) // 8)]
            at += size

    def end(self):
        return (self.seq + self.length + bool(self.flags & self.SYN) +
                bool(self.flags & self.FIN)) & 0xffffffff

    def __repr__(self):
        return f"{self.at:.6f} {self.data[:60].hex()}"


MAC_BYTES = bytes.fromhex(GUEST_MAC.replace(":", ""))


def read_pcap(path):
    raw = Path(path).read_bytes()
    check(len(raw) >= 24, f"no capture in {path}")
    magic = struct.unpack_from("<I", raw)[0]
    check(magic in (0xa1b2c3d4, 0xa1b23c4d), f"{path} is no capture")
    unit = 1e-6 if magic == 0xa1b2c3d4 else 1e-9
    at, frames = 24, []
    while at + 16 <= len(raw):
        sec, frac, size, _whole = struct.unpack_from("<IIII", raw, at)
        if at + 16 + size > len(raw):
            break
        frames.append(Frame(sec + frac * unit, raw[at + 16:at + 16 + size]))
        at += 16 + size
    return frames


class Capture:
    """What comes from one host into the switch, and with @both also what the switch sends there.
    @whole: all of each frame. @only: a filter of tcpdump's. Times are those of time.time()."""

    def __init__(self, env, host, both=False, whole=False, only=""):
        self.path = env.lab.dir / f"{host}-{env.next_number()}.pcap"
        self.process = env.lab.spawn(
            "client", ["tcpdump", "-i", f"to-{host}", "-n", "-U", "--immediate-mode",
                       "-B", 16384, "-s", 0 if whole else 160, "-Q",
                       "inout" if both else "in", "-w", self.path, *only.split()],
            name=f"tcpdump-{host}")
        self.process.wait_line("listening on", 10)

    def so_far(self):
        """Frames that have been written down."""
        return read_pcap(self.path)

    def frames(self):
        """Ends it. All frames, in order."""
        # Told to end, tcpdump leaves unread what it has been given; it sleeps when that is nothing.
        wait_for(lambda: state_of(Path(f"/proc/{self.process.pid}")) in (None, "S"), 10,
                 "the capture has read all")
        self.process.stop()
        self.process.end_log()
        lost = [line for line in self.process.lines if "dropped by kernel" in line]
        check(not lost or lost[0].startswith("0 "), f"the capture is not whole: {lost}")
        return read_pcap(self.path)

    def said(self):
        """Ends it. The frames of the VM, those that came from this host."""
        return [frame for frame in self.frames() if frame.from_vm]


def ahead(a, b):
    """How far sequence number a is ahead of b."""
    return ((a - b + 0x80000000) & 0xffffffff) - 0x80000000


class Continuity:
    """R7 as the client sees it: the VM's side of each TCP connection stays in the window, takes no
    acknowledgement or timestamp back, says no RST, and names in SACK blocks and acknowledgements
    only what the client has sent. (That no byte is wrong or missing is the loads' to check.)"""

    WINDOW = 16 << 20

    def __init__(self):
        self.flows = {}
        self.packets = 0

    def check(self, frames):
        for frame in frames:
            if not frame.tcp:
                continue
            if frame.from_vm:
                self._vm(frame)
            else:
                self._client(frame)
        return self

    def _flow(self, key, fresh):
        if fresh or key not in self.flows:
            self.flows[key] = {"end": None, "ack": None, "ts": None, "client": None,
                               "fin": None, "closed": False}
        return self.flows[key]

    def _client(self, frame):
        key = (frame.dport, frame.sport)
        flow = self._flow(key, frame.flags & Frame.SYN and not frame.flags & Frame.ACK and
                          self.flows.get(key, {}).get("client") not in (None, frame.end()))
        if flow["client"] is None or ahead(frame.end(), flow["client"]) > 0:
            flow["client"] = frame.end()
        if flow["fin"] is not None and frame.flags & Frame.ACK:
            flow["closed"] |= ahead(frame.ack, flow["fin"]) >= 0

    def _vm(self, frame):
        key = (frame.sport, frame.dport)
        fresh = frame.flags & Frame.SYN and not frame.flags & Frame.ACK and \
            self.flows.get(key, {}).get("end") not in (None, frame.end())
        flow = self._flow(key, fresh)
        self.packets += 1
        where = f"VM port {key[0]}, client port {key[1]}, at {frame.at:.6f}"
        if frame.flags & Frame.RST and flow["closed"]:
            return  # its FIN went out twice and was acknowledged twice: RFC 9293 section 3.10.7.1
        check(not frame.flags & Frame.RST, f"the VM resets a connection: {where}")
        if frame.flags & Frame.FIN:
            flow["fin"] = frame.end()
        if flow["end"] is not None:
            step = ahead(frame.seq, flow["end"])
            # What was held when the primary died is lost like a packet on the way, and sent again.
            check(-self.WINDOW < step < self.WINDOW,
                  f"a sequence number {step} bytes from the last: {where}")
        if flow["end"] is None or ahead(frame.end(), flow["end"]) > 0:
            flow["end"] = frame.end()
        if frame.flags & Frame.ACK:
            if flow["ack"] is not None:
                step = ahead(frame.ack, flow["ack"])
                check(step >= 0, f"an acknowledgement goes back by {-step}: {where}")
            if flow["client"] is not None:
                step = ahead(frame.ack, flow["client"])
                check(step <= 0, f"{step} bytes acknowledged that were never sent: {where}")
            flow["ack"] = frame.ack
        if frame.tsval is not None:
            if flow["ts"] is not None:
                step = ahead(frame.tsval, flow["ts"])
                check(step >= 0, f"a timestamp goes back by {-step}: {where}")
            flow["ts"] = frame.tsval
        for low, high in frame.sack:
            check(flow["client"] is None or (ahead(high, flow["client"]) <= 0 and
                                             ahead(high, low) > 0),
                  f"SACK of bytes that were never sent: {where}")


# --- the protected VM -------------------------------------------------------------------------------


def merge(*overrides):
    out = {}
    for override in overrides:
        for section, keys in (override or {}).items():
            out.setdefault(section, {}).update(keys)
    return out


# The peer's silence is not noticed for as long as a test lasts.
PATIENT = {"replication": {"heartbeat-loss": 1000}}
# No checkpoint comes by itself, nor because the secondary's VM is slow.
UNHURRIED = {"checkpoint": {"late-timeout": 60000, "late-timeout-max": 60000,
                            "longest-epoch": 600000}}
FENCE_NONE = {"failover": {"fence": "none"}}


def no_fence(argv=None, **keys):
    return {"failover": {"fence": argv, **keys}}


def threads(pid):
    """(folder in /proc, name) of each thread; others begin and end meanwhile."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield task, (task / "comm").read_text().strip()


def state_of(task):
    """A process's or thread's state by its folder in /proc, or None when it has ended."""
    try:
        return (task / "stat").read_text().rsplit(") ", 1)[1][0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def stands_still(pid):
    """Every thread of the process is stopped; FileNotFoundError when there is no such process."""
    states = {state_of(task) for task in Path(f"/proc/{pid}/task").iterdir()}
    return states - {None} == {"T"}


def keep_files(folder, kept):
    """A copy of a lab's folder, without what only lives there: sockets."""
    def others(where, names):
        return [name for name in names
                if stat.S_ISSOCK((Path(where) / name).lstat().st_mode)]

    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept, symlinks=True, ignore=others)


class Env:
    """A lab with a pair of daemons. `with Env(...) as env:` starts no daemon yet; env.up() does."""

    number = 0
    prefix = "e2e"

    def __init__(self, both=None, primary=None, secondary=None, ipv6=False, valve=False,
                 datapath=None):
        Env.number += 1
        self.options = dict(both=both, primary=primary, secondary=secondary)
        self.ipv6, self.valve_wanted, self.datapath = ipv6, valve, datapath
        self.lab = lab_module.Lab(f"{Env.prefix}{Env.number}", ipv6=ipv6)
        self.valve = None
        self.valve_mark = 0
        self.count = 0
        self.sockets = []
        self.loads = []
        self.before = None  # loads that a group's set-up has begun
        self.asked = []
        self.facts = []

    def next_number(self):
        self.count += 1
        return self.count

    def __enter__(self):
        self.lab.__enter__()
        try:
            self._pair()
        except BaseException:
            self.lab.close()
            raise
        return self

    def __exit__(self, *exc):
        for sock in self.sockets:
            sock.close()
        for child in self.asked:
            child.kill()
            child.wait()
        self.lab.close()

    def _pair(self):
        both = merge({"control": {"log-level": "debug"}}, self.options["both"])
        if self.datapath:
            both = merge(both, {"network": {"datapath": self.datapath}})
        if self.ipv6:
            cmdline = both.get("vm", {}).get("append") or \
                (lab_module.cache_dir() / "guest/cmdline").read_text().strip()
            both = merge(both, {"vm": {"append": f"{cmdline} colo.ip6={GUEST_IP6}/64"}})
        primary = self.options["primary"]
        if self.valve_wanted:
            primary = merge(primary, {"replication": {
                "peer": f"{lab_module.REPLICATION_IP['primary']}:{VALVE_PORT}"}})
            self.start_valve()
        self.pair = Pair(self.lab, both, primary, self.options["secondary"])

    def start_valve(self):
        """A new one, also after the old one went with its host."""
        near = f"{lab_module.REPLICATION_IP['primary']}:{VALVE_PORT}"
        self.valve = self.lab.spawn(
            "primary", [sys.executable, HERE / "valve.py", near,
                        f"{lab_module.REPLICATION_IP['secondary']}:{LINK_PORT}",
                        *(["records"] if self.valve_wanted == "records" else [])],
            name="valve", stdin=subprocess.PIPE)
        self.valve.wait_line("listening", 10)

    # --- daemons --------------------------------------------------------------------------------

    def up(self, seconds=40):
        """The guest boots, then it is protected: two VMs that boot would take twice the time."""
        self.pair.start("primary")
        self.wait_guest(seconds)
        self.pair.start("secondary")
        self.pair.wait_protected(seconds)
        return self

    def wait_guest(self, seconds=40):
        serial = self.pair.dir / "primary" / "serial.log"

        def ready():
            for host, daemon in self.pair.daemon.items():
                check(daemon.poll() is None, f"the daemon of {host} ended while the guest boots")
            return serial.exists() and b"GUEST READY" in serial.read_bytes()

        wait_for(ready, seconds, "the guest boots")

    def daemon(self, host):
        return self.pair.daemon[host]

    def state(self, host):
        return self.pair.state(host)

    def wait_state(self, host, state, seconds=15):
        self.pair.wait_state(host, state, seconds)

    def status(self, host):
        status = self.pair.status(host)
        check(status is not None, f"the daemon of {host} does not answer")
        return status

    def stats(self, host="primary"):
        return self.pair.stats(host)

    def checkpoints(self, cause=None):
        counts = self.stats()["checkpoints"]
        return counts["cause"][cause] if cause else counts["total"]

    def wait_checkpoints(self, total, seconds=15):
        wait_for(lambda: self.checkpoints() >= total, seconds, f"{total} checkpoints")

    def checkpoint(self, seconds=15):
        """A checkpoint on command, committed and loaded when this returns."""
        self.quiet(seconds)
        before = self.status("primary")["epoch"]
        self.pair.checkpoint()
        wait_for(lambda: self.status("primary")["lineage"] > before, seconds, "a checkpoint")

    def ask_checkpoint(self):
        """Asks for a checkpoint and does not wait for it."""
        self.asked.append(subprocess.Popen(
            [str(build_dir() / "colo-proxy"), "checkpoint", "--socket",
             str(self.pair.socket("primary"))], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def settled(self):
        """Waits until the VM has said nothing that is not compared: no checkpoint comes for it."""
        wait_for(lambda: not self.stats()["traffic"]["total"]["held_now"]["packets"], 15,
                 "nothing is held")

    def all_wait(self, loads):
        """The secondary stands still: waits until each of so many loads' connections waits for an
        answer that is held. What the SVM had said before the PVM is out by then."""
        wait_for(lambda: self.stats()["traffic"]["tcp"]["held_now"]["packets"] >= loads, 20,
                 f"the answers of {loads} connections are held")

    def quiet(self, seconds=15):
        """Waits until no checkpoint is on its way."""
        def is_quiet():
            status = self.status("primary")
            return status["lineage"] == status["epoch"]

        wait_for(is_quiet, seconds, "the last checkpoint is loaded")

    def log(self, host):
        return self.daemon(host).log.read_text(errors="replace")

    def said(self, host, pattern, seconds=15):
        """Waits for a line of the daemon's log, which may come after what the daemon answers."""
        return self.daemon(host).wait_line(pattern, seconds)

    def tell_valve(self, command):
        """A command for the valve; returns when it is done."""
        self.valve_mark = len(self.valve.lines)
        self.valve.stdin.write(command.encode() + b"\n")
        self.valve.stdin.flush()
        self.valve.wait_line(f"^{command.split()[0]}$", 15, self.valve_mark)

    def wait_stalled(self, seconds=20):
        """One connection of the link has used up what `stall-after` left it (or -back-after)."""
        self.valve.wait_line("^stalled$", seconds, self.valve_mark)

    def rewrite(self, mib):
        """The guest has rewritten so much memory: if no checkpoint comes first, the next is as large."""
        self.run("http", "-n", 1, target=f"{URL}/rewrite/{mib}")

    def stall_in_checkpoint(self, mib, after):
        """A checkpoint of @mib, by itself or asked for, of which @after have crossed the link, and no more."""
        self.tell_valve(f"stall-after {after * MB}")
        rewrite = self.load("http", "-n", 1, "--allow-errors", target=f"{URL}/rewrite/{mib}")
        asked = []

        def stalled():
            if rewrite.process.poll() is not None and not asked:
                asked.append(self.ask_checkpoint())
            return "stalled" in self.valve.lines[self.valve_mark:]

        wait_for(stalled, 30, "a part of a checkpoint is on its way")

    def qemu_pid(self, host):
        pid = self.status(host)["qemu_pid"]
        check(pid > 1, f"no QEMU on {host}")
        return pid

    @contextlib.contextmanager
    def stopped(self, pid):
        """A process stands still meanwhile."""
        os.kill(pid, signal.SIGSTOP)
        try:
            # A thread that is in the kernel ends what it does there first.
            wait_for(lambda: stands_still(pid), 10, f"process {pid} stops")
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # --- the client -----------------------------------------------------------------------------

    def load(self, mode, *argv, target=None):
        load = Load(self, mode, *argv, target=target)
        self.loads.append(load)
        return load

    def run(self, mode, *argv, target=None, seconds=60):
        """A load from beginning to end; its result."""
        return self.load(mode, *argv, target=target).result(seconds)

    def answers(self, seconds=30, path="/hello"):
        """The VM answers a new connection."""
        return self.run("http", "-n", 1, target=URL + path, seconds=seconds)

    def socket(self, kind=socket.SOCK_STREAM, family=socket.AF_INET, host="client", proto=0):
        """A socket of a host, in this process."""
        libc = ctypes.CDLL(None, use_errno=True)
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.lab.ns(host)}", os.O_RDONLY)
        try:
            if libc.setns(there, 0):
                raise OSError(ctypes.get_errno(), "setns")
            sock = socket.socket(family, kind, proto)
        finally:
            if libc.setns(here, 0):
                os._exit(3)  # nothing that follows would be where it should be
            os.close(here)
            os.close(there)
        self.sockets.append(sock)
        sock.settimeout(PATIENCE)
        return sock

    def forget_neighbours(self):
        self.lab.run("client", ["ip", "neigh", "flush", "dev", "br0"])

    def connect(self, port=80):
        sock = self.socket()
        sock.connect((GUEST_IP, port))
        return sock

    def silence(self, pings=10):
        """The VM is asked and nothing of it is heard: ping, UDP, a new connection, ARP."""
        captures = [Capture(self, host) for host in ("primary", "secondary")]
        self.forget_neighbours()
        self.socket(socket.SOCK_DGRAM).sendto(b"who has", (GUEST_IP, 7))  # an ARP request goes out
        self.lab.ip("client", f"neigh replace {GUEST_IP} lladdr {GUEST_MAC} dev br0 nud reachable")
        knock = self.socket()
        knock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            knock.connect((GUEST_IP, 80))
        self.load("udp", "-n", 2, "-i", 20, "--timeout", 300).report()
        asked = self.load("ping", "-n", pings, "-i", 20, "--timeout", 300).report()
        check(asked["lost"] == pings, f"the VM answers {pings - asked['lost']} of {pings} pings")
        for capture in captures:
            frames = capture.frames()
            heard = [frame for frame in frames if frame.from_vm]
            check(not heard, f"{len(heard)} frames of the VM in {capture.path.name}, "
                             f"the first: {heard and heard[0]}")
        return knock

    # --- what happens ---------------------------------------------------------------------------

    def cut(self):
        """Cuts the primary's power. Returns when the secondary speaks."""
        before = time.time_ns()
        self.lab.power_cut("primary")
        self.taken_over(before)

    def cut_forced(self):
        """The same without a fence: the operator decides."""
        self.lab.power_cut("primary")
        self.wait_state("secondary", "stuck")
        before = time.time_ns()
        self.pair.cli("secondary", "failover", "--force")
        self.taken_over(before)

    def protected_by(self, host, seconds=30):
        """The host speaks, the other one stands by."""
        self.wait_state(host, "protected", seconds)
        self.wait_state("primary" if host == "secondary" else "secondary", "standby", 10)

    def taken_over(self, before, seconds=15, host="secondary"):
        """Waits until the host has taken over; notes how long it took."""
        wait_for(lambda: self.has_taken_over(host, before), seconds, f"{host}: taken over")
        takeover = self.status(host)["takeover"]
        check(takeover["live_ns"] >= takeover["fenced_ns"] >= takeover["detected_ns"] > 0,
              f"takeover times {takeover}")
        check(takeover["live_ns"] >= before, f"the takeover was before its cause: {takeover}")
        self.fact(f"detected after {(takeover['detected_ns'] - before) / MS:.0f} ms, "
                  f"fenced {(takeover['fenced_ns'] - before) / MS:.0f} ms, "
                  f"live {(takeover['live_ns'] - before) / MS:.0f} ms, "
                  f"lineage {takeover['lineage']}")

    def has_taken_over(self, host, since):
        """Protected again, it may be by now."""
        status = self.pair.status(host)
        return (status and status["role"] == "primary" and
                status["takeover"]["live_ns"] >= since)

    def fact(self, text):
        self.facts.append(text)

    def stall(self, *results):
        """Notes the longest gap that the clients saw; returns it in ms."""
        worst = max(result["longest_gap_ms"] for result in results)
        self.fact(f"stall {worst:.0f} ms")
        return worst
