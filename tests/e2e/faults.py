#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every fault at every phase of the protocol, with real VMs: scripts/faults.

    scripts/faults                    all cells, two labs at a time
    scripts/faults sent               a phase
    scripts/faults '*:kill-*'         cells PHASE:FAULT by pattern
    scripts/faults --list
    scripts/faults --json

A cell brings a pair to a phase, injects one fault, waits until it has been felt, ends it, and does
what an operator's machines do by themselves: power comes back, daemons are started as at boot. What
must come then stands in EXPECTED, below, before anything runs. In each cell besides:

- at most one host speaks: captures on the client's side show no change of the speaker but the one
  of an expected takeover;
- connections that were open before the fault go on, and each byte on them is right, unless the VM
  itself was lost with both its copies; each request of the log is in the guest's log exactly once;
- the VM is protected again in the end, and answers new connections.

A phase is reached by events: bytes that a relay lets pass, a daemon that stands still at a function
(freeze.py), a QEMU that stands still, a fence that does not answer yet. Words: *serving* is the host that speaks when the
fault comes (in the phases of a takeover: the dead one), *other* its peer.
"""
import argparse
import contextlib
import fnmatch
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from freeze import Frozen  # noqa: E402
from pair import FENCE  # noqa: E402
import workers  # noqa: E402
from support import (HERE, MB, PATIENCE, URL, Capture, Env, Failed, LabError,  # noqa: E402
                     build_dir, check, keep_files, merge, no_fence, stands_still, wait_for)

OTHER = {"primary": "secondary", "secondary": "primary"}
HOSTS = tuple(OTHER)

# stays   the same host serves on; every connection goes on
# moves   the other host serves; every connection goes on
# either  one of these: the timing decides which process notices first
# lost    both copies of the VM are gone with the fault: it is booted anew
# lives   one of all these: the fault may or may not kill what it hits
# -       not there at this phase, or the same as another cell
EXPECTED = """
                      start  copy   protected captured sent   committed deciding loading handed-over recopy alone
kill-daemon-serving   lost   lost   moves     moves    moves  moves     -        -       moves       lost   -
kill-qemu-serving     lost   lost   moves     moves    moves  moves     -        -       moves       lost   -
kill-daemon-other     -      stays  stays     stays    stays  stays     lost     lost    lost        stays  -
kill-qemu-other       -      stays  stays     stays    stays  stays     lost     lost    stays       stays  -
power-serving         lost   lost   moves     moves    moves  moves     -        -       moves       lost   -
power-other           -      stays  stays     stays    stays  stays     lost     lost    lost        stays  -
stop-daemon-serving   stays  stays  moves     moves    moves  moves     -        -       moves       stays  -
stop-daemon-other     -      stays  stays     stays    stays  stays     moves    moves   -           stays  -
stop-qemu-serving     stays  stays  stays     stays    stays  stays     -        -       moves       stays  -
stop-qemu-other       -      stays  stays     stays    stays  -         moves    moves   moves       stays  -
return-serving        -      -      -         -        -      -         moves    moves   -           -      -
undecided-serving     -      -      stays     stays    stays  -         -        -       -           -      -
undecided-other       -      -      stays     -        stays  -         -        -       -           -      -
undecided-link        -      -      stays     -        stays  stays     -        -       -           -      -
link                  -      stays  moves     moves    moves  moves     moves    moves   moves       stays  -
link-flap             -      -      stays     -        stays  stays     -        -       moves       stays  -
lose-serving          -      stays  moves     moves    moves  moves     -        -       moves       stays  -
lose-other            -      stays  moves     moves    moves  moves     moves    moves   moves       stays  -
lan-serving           stays  stays  stays     -        stays  -         -        -       moves       stays  -
lan-other             -      -      stays     -        -      -         -        -       moves       -      -
disk-serving          stays  stays  stays     stays    stays  stays     -        -       moves       stays  -
disk-other            -      stays  stays     -        stays  -         -        moves   moves       stays  -
room-serving          stays  -      -         -        -      -         -        -       -           -      stays
memory-daemon-serving lives  lives  either    either   either either    -        -       moves       lives  -
memory-qemu-serving   lives  lives  either    either   either either    -        -       moves       lives  -
memory-daemon-other   -      stays  stays     -        stays  -         -        lives   -           -      -
memory-qemu-other     -      stays  stays     -        -      stays     -        lives   -           -      -
oom-daemon-serving    -      -      moves     -        moves  -         -        -       -           lost   -
oom-qemu-serving      -      -      moves     -        -      -         -        -       -           -      lost
oom-daemon-other      -      -      stays     -        -      -         -        -       -           -      -
oom-qemu-other        -      -      stays     -        -      -         -        -       -           -      -
"""
ALLOWED = {"stays": {"stays"}, "moves": {"moves"}, "lost": {"lost"}, "either": {"stays", "moves"},
           "lives": {"stays", "moves", "lost"}}
# What is run in CI: half a minute.
QUICK = ("recopy:kill-qemu-serving", "handed-over:kill-qemu-other")


def table():
    """{(phase, fault): expected}, the phases and the faults in order."""
    head, *rows = [line.split() for line in EXPECTED.strip().splitlines()]
    cells = {(phase, fault): want for fault, *wants in rows
             for phase, want in zip(head, wants, strict=True)}
    return cells, head, [row[0] for row in rows]


# --- phases -----------------------------------------------------------------------------------------


class Phase:
    """reach() returns at the phase; release() takes away what holds it there. `gone`: the serving
    host is dead by then."""

    serving = "primary"
    valve = False
    gone = False

    both = {}

    def options(self, _env):
        """Of the other host's configuration."""
        return {}

    def reach(self, cell):
        raise NotImplementedError

    def release(self, _cell):
        pass


class Start(Phase):
    """the guest boots; no secondary has been heard"""

    def reach(self, cell):
        cell.start("primary")
        wait_for(lambda: (cell.env.pair.status("primary") or {}).get("qemu_pid"), 20, "QEMU runs")


class Copy(Phase):
    """a part of the first copy is on the other host"""
    valve = True

    def reach(self, cell):
        env = cell.env
        cell.start("primary")
        env.wait_guest()
        env.answers()
        cell.begin_loads()
        env.tell_valve(f"stall-after {8 * MB}")
        cell.start("secondary")
        env.wait_stalled()

    def release(self, cell):
        cell.open_valve()


class Protected(Phase):
    """protected, with loads"""

    def reach(self, cell):
        cell.up()
        cell.begin_loads()


class Captured(Phase):
    """the VM stands still in a checkpoint, its state is about to be read"""
    # Until the fault comes the daemon stands still, which is not to be taken for its death.
    both = {"replication": {"heartbeat-loss": 20}}

    def reach(self, cell):
        cell.up()
        cell.begin_loads()
        cell.env.quiet()
        cell.frozen = Frozen(cell.daemon("primary"), "primary_vm_stopped")
        with contextlib.ExitStack() as stack:
            stack.enter_context(cell.frozen)
            cell.env.ask_checkpoint()
            cell.frozen.wait()
            stack.pop_all()

    def release(self, cell):
        cell.frozen.thaw()


class Sent(Phase):
    """a part of a checkpoint is on the other host"""
    valve = True

    def reach(self, cell):
        cell.up()
        cell.begin_loads()
        cell.env.quiet()
        cell.env.stall_in_checkpoint(16, 4)

    def release(self, cell):
        cell.open_valve()


def hold_qemu(cell, host):
    """Its QEMU stands still from here on."""
    cell.held_qemu = cell.env.qemu_pid(host)
    os.kill(cell.held_qemu, signal.SIGSTOP)
    wait_for(lambda: stands_still(cell.held_qemu), 10, "QEMU stops")


def let_qemu(cell):
    with contextlib.suppress(ProcessLookupError):
        os.kill(cell.held_qemu, signal.SIGCONT)


class Committed(Phase):
    """a checkpoint is whole on the other host, whose QEMU has not loaded it"""

    def reach(self, cell):
        env = cell.env
        cell.up()
        cell.begin_loads()
        env.quiet()
        hold_qemu(cell, "secondary")
        env.ask_checkpoint()

        def committed():
            status = env.status("primary")
            return status["committed"] > status["lineage"]

        wait_for(committed, 20, "a commit that is not loaded")

    def release(self, cell):
        let_qemu(cell)


class Deciding(Phase):
    """the serving host is dead, the fence has been asked and does not answer yet"""
    gone = True

    def options(self, env):
        self.fifo = f"/run/colo-lab/{env.lab.prefix}-fence"
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self.fifo)
        return {"failover": {
            "fence": f"{HERE}/held-fence {self.fifo} {FENCE} {env.lab.ns('primary')}",
            "fence-timeout": 60000}}

    def reach(self, cell):
        cell.up()
        cell.begin_loads()
        cell.env.lab.power_cut("primary")
        # A writer is let in when the fence reads.
        self.writer = wait_for(self.try_open, 15, "the fence is asked")
        check(cell.env.state("secondary") == "deciding", "deciding")

    def try_open(self):
        try:
            return os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    def release(self, _cell):
        with contextlib.suppress(BrokenPipeError):
            os.write(self.writer, b"\n")
        os.close(self.writer)
        os.unlink(self.fifo)


class Loading(Phase):
    """the serving host is dead and fenced; the other one has a whole checkpoint to load"""
    gone = True

    def reach(self, cell):
        Committed.reach(self, cell)
        cell.env.lab.power_cut("primary")
        wait_for(lambda: cell.env.state("secondary") == "taking-over", 15, "taking over")

    def release(self, cell):
        let_qemu(cell)


class HandedOver(Phase):
    """planned switch-over: the right has been given away, the other host does not speak yet"""

    def reach(self, cell):
        cell.up()
        cell.begin_loads()
        cell.env.quiet()
        cell.frozen = Frozen(cell.daemon("secondary"), "secondary_take_over")
        with contextlib.ExitStack() as stack:
            stack.enter_context(cell.frozen)
            cell.env.asked.append(subprocess.Popen(
                [str(build_dir() / "colo-proxy"), "failover", "--socket",
                 str(cell.env.pair.socket("primary"))], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            cell.frozen.wait()
            stack.pop_all()

    def release(self, cell):
        cell.frozen.thaw()


class Recopy(Phase):
    """after a takeover: a part of the copy is on the host that came back"""
    serving = "secondary"
    valve = True

    def reach(self, cell):
        env = cell.env
        cell.up()
        cell.begin_loads()
        before = time.time_ns()
        env.lab.power_cut("primary")
        env.taken_over(before)
        env.lab.power_on("primary")
        env.start_valve()
        env.tell_valve(f"stall-back-after {8 * MB}")
        cell.start("primary")
        env.wait_stalled()

    def release(self, cell):
        cell.open_valve()


class Alone(Phase):
    """after a takeover: the survivor serves, and its peer is not there yet"""
    serving = "secondary"

    def reach(self, cell):
        cell.up()
        cell.begin_loads()
        before = time.time_ns()
        cell.env.lab.power_cut("primary")
        cell.env.taken_over(before)
        cell.env.lab.power_on("primary")


PHASES = {"start": Start, "copy": Copy, "protected": Protected, "captured": Captured, "sent": Sent,
          "committed": Committed, "deciding": Deciding, "loading": Loading,
          "handed-over": HandedOver, "recopy": Recopy, "alone": Alone}


# --- faults -----------------------------------------------------------------------------------------


def dead(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] in "ZX"
    except FileNotFoundError:
        return True


def kill(cell, pid):
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: dead(pid), 10, f"process {pid} dies")


class Stop:
    """A process stands still until its host has been declared dead, and then goes on."""

    def __init__(self, what):
        self.what = what

    def __call__(self, cell, host):
        pid = cell.pid(self.what, host)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: stands_still(pid), 10, f"process {pid} stops")
        if not cell.holds(pid):
            cell.release()  # time goes on for the others
        if self.what == "daemon":
            cell.wait_declared_dead(host)
        elif cell.speaks() == host:
            cell.unanswered()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def power(cell, host):
    cell.env.lab.power_cut(host)
    cell.release()
    cell.wait_declared_dead(host)


def link(cell, _host):
    """Down until one host has declared the other dead, then up again."""
    cell.env.lab.link_down("primary", "replication")
    cell.release()
    cell.wait_declared_dead(None)
    cell.env.lab.link_up("primary", "replication")


def link_flap(cell, _host):
    cell.env.lab.link_down("primary", "replication")
    cell.env.lab.link_up("primary", "replication")


def lose(cell, host):
    """What the host says to its peer is lost, with the carrier on."""
    cell.env.lab.replication_lossy(host)
    cell.release()
    cell.wait_declared_dead(None)
    with contextlib.suppress(LabError):  # the entry goes when the power does
        cell.env.lab.replication_lossy(host, False)


def lan(cell, host):
    """The cable to the clients."""
    cell.release()
    cell.env.lab.link_down(host, "lan")
    if cell.speaks() == host:
        cell.unanswered()
    cell.env.lab.link_up(host, "lan")


def disk(cell, host):
    """The file system of log, serial log and state-dir is full; it stays so until the end."""
    cell.fill(host)


MARKER = "peer-may-speak"  # in state-dir: docs/two-hosts.md


def room(cell, host):
    """The file system of state-dir is full when protection is to begin, until it was tried."""
    env = cell.env
    if cell.starting:
        env.wait_guest()
    marker = cell.disks[host] / "state" / MARKER
    with contextlib.suppress(FileNotFoundError):
        marker.unlink()  # a survivor has had it
    cell.fill(host)
    cell.start(OTHER[host])
    env.said(host, "cannot write to state-dir", 30)
    check(env.state(host) != "protected" and not marker.exists(), "protected without its marker")
    for load in cell.loads[:2]:
        load.more("requests", 20)
    cell.free()
    wait_for(marker.exists, 60, "protection begins when there is room")


class MemoryGroup:
    """A control group of the memory controller, of either version, below this process's own."""

    LIMIT = 256 << 10

    def __init__(self, name):
        groups = dict(line.split(":", 2)[1:] for line in
                      Path("/proc/self/cgroup").read_text().split())
        unified = "memory" not in groups
        mount = Path("/sys/fs/cgroup" if unified else "/sys/fs/cgroup/memory")
        self.limit, self.events = ("memory.max", "memory.events") if unified else (
            "memory.limit_in_bytes", "memory.oom_control")
        self.path = mount / groups["" if unified else "memory"].strip("/") / name
        try:
            self.path.mkdir()
        except OSError as why:
            raise LabError(f"no control group for memory: {why}") from None

    def take(self, pid):
        """What the process has stays where it is counted; it gets hardly more."""
        (self.path / self.limit).write_text(str(self.LIMIT))
        (self.path / "cgroup.procs").write_text(str(pid))

    def kills(self):
        return int(re.search(r"^oom_kill (\d+)", (self.path / self.events).read_text(),
                             re.M).group(1))

    def remove(self):
        def gone():
            with contextlib.suppress(OSError):  # a process in it has not ended yet
                self.path.rmdir()
            return not self.path.exists()

        wait_for(gone, 10, "the control group goes")


class Oom:
    """The kernel's out-of-memory killer ends the process, which has no more memory in its group."""

    def __init__(self, what):
        self.what = what

    def __call__(self, cell, host):
        pid = cell.pid(self.what, host)
        group = MemoryGroup(f"colo-{cell.env.lab.prefix}")
        try:
            group.take(pid)
            cell.release()
            for mib in (32, 48, 64):
                if not dead(pid):
                    cell.env.load("http", "-n", 1, "--allow-errors", "--deadline", 10,
                                  target=f"{URL}/rewrite/{mib}").report()
            wait_for(lambda: dead(pid), 20, "the process is killed")
            check(group.kills(), "it was not the out-of-memory killer")
        finally:
            group.remove()
        if self.what == "daemon":
            cell.wait_declared_dead(host)


class Memory:
    """The process gets no more memory: its address space may not grow (RLIMIT_AS), and a checkpoint
    of 32 MiB comes; then there is memory again, if it lives."""

    def __init__(self, what):
        self.what = what

    def __call__(self, cell, host):
        pid = cell.pid(self.what, host)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        resource.prlimit(pid, resource.RLIMIT_AS,
                         (pages * resource.getpagesize(), resource.RLIM_INFINITY))
        cell.release()
        if cell.loads:
            with contextlib.suppress(Failed, LabError):
                cell.env.run("http", "-n", 1, "--allow-errors", "--deadline", 4,
                             target=f"{URL}/rewrite/32", seconds=10)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS,
                             (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def kill_daemon(cell, host):
    kill(cell, cell.pid("daemon", host))
    cell.release()
    cell.wait_declared_dead(host)


def kill_qemu(cell, host):
    pid = cell.pid("qemu", host)
    kill(cell, pid)
    cell.release()
    wait_for(lambda: (cell.env.pair.status(host) or {}).get("qemu_pid", pid) != pid, 20,
             "the daemon notices that its QEMU has died")


FAULTS = {
    "kill-daemon": kill_daemon, "kill-qemu": kill_qemu,
    "power": power, "stop-daemon": Stop("daemon"), "stop-qemu": Stop("qemu"),
    "undecided": Stop("daemon"), "return": None, "link": link, "link-flap": link_flap,
    "undecided-link": link, "lose": lose, "lan": lan, "disk": disk,
    "memory-daemon": Memory("daemon"), "memory-qemu": Memory("qemu"),
    "room": room, "oom-daemon": Oom("daemon"), "oom-qemu": Oom("qemu"),
}


# --- a cell -----------------------------------------------------------------------------------------


class Cell:
    """One phase and one fault, from the first process to the verdict."""

    def __init__(self, phase, fault):
        self.want = table()[0][phase, fault]
        self.name, self.fault_name = f"{phase}:{fault}", fault
        self.phase = PHASES[phase]()
        self.starting, self.handed = phase == "start", phase == "handed-over"
        self.copying = phase in ("copy", "recopy")
        self.fault, side = parse_fault(fault)
        self.host = OTHER[self.phase.serving] if side == "other" else self.phase.serving
        self.env = None
        self.released = self.was_up = False
        self.frozen = self.held_qemu = None
        self.disks, self.loads, self.pids, self.captures = {}, [], {}, {}
        self.result = {"phase": phase, "fault": fault, "expected": self.want, "outcome": None,
                       "ok": False}

    # --- set-up

    def shares(self):
        """Cells of which this is the same can have the same pair, one after the other."""
        if self.fault in (disk, room) or isinstance(self.fault, (Memory, Oom)) or self.starting or self.copying or \
                self.phase.gone or self.handed:
            return self.name
        return f"{self.phase.valve} {self.phase.both} {self.fault_name.startswith('undecided')}"

    def take(self, env):
        """The pair of the cell before, which is as at its beginning."""
        self.env, self.was_up = env, True

    def make(self):
        """The lab, not entered yet."""
        env = self.env = Env(valve=self.phase.valve)
        more = self.phase.options(env)
        both = merge(self.phase.both,
                     no_fence() if self.fault_name.startswith("undecided") else {})
        if self.fault in (disk, room):
            self.disks = {host: env.lab.dir / f"{host}-disk" for host in HOSTS}
        env.options.update(both=both, primary=self._disk_keys("primary"),
                           secondary=merge(more, self._disk_keys("secondary")))
        return env

    def _disk_keys(self, host):
        if host not in self.disks:
            return {}
        place = self.disks[host]
        return {"vm": {"serial-log": place / "serial.log"},
                "control": {"state-dir": place / "state"}}

    def mount(self):
        for place in self.disks.values():
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=256", "none", place],
                           check=True)
        if self.disks:  # where the guest's boot is looked for
            (self.env.pair.dir / "primary/serial.log").symlink_to(
                self.disks["primary"] / "serial.log")

    def unmount(self):
        for place in self.disks.values():
            subprocess.run(["umount", "-l", place], check=False)

    def fill(self, host):
        place = self.disks[host]
        with contextlib.suppress(OSError):
            for n in range(1000):
                (place / f"inode{n}").touch()
        with contextlib.suppress(OSError):
            with open(place / "inode0", "wb", buffering=0) as out:
                while True:
                    out.write(bytes(4096))
        room = os.statvfs(place)
        check(not room.f_bfree and not room.f_ffree, f"the disk is not full: {room}")

    def free(self):
        for place in self.disks.values():
            for name in place.glob("inode*"):
                name.unlink()

    def start(self, host):
        place = self.disks.get(host)
        log = place / "daemon.log" if self.fault is disk else None
        self.env.pair.start(host, log=log)

    def up(self):
        if self.was_up:
            return
        self.start("primary")
        self.env.wait_guest()
        self.start("secondary")
        self.env.pair.wait_protected(30)

    def begin_loads(self):
        env = self.env
        self.loads = [env.load("keepalive", "--check-log", "-i", 5), env.load("rr", "-c", 2, "-i", 5),
                      env.load("accept", "-c", 1, "-i", 10),
                      env.load("download", "-b", 4 * MB, "-r", MB),
                      env.load("upload", "-b", 2 * MB, "-r", MB // 2)]
        self.captures = {host: Capture(env, host) for host in HOSTS}
        for load in self.loads:
            load.more("bytes" if load in self.loads[3:] else "requests", 1)

    def note_pids(self):
        """By /proc: a daemon that stands still does not answer."""
        for host, daemon in self.env.pair.daemon.items():
            if daemon.poll() is None:
                children = Path(f"/proc/{daemon.pid}/task").glob("*/children")
                qemu = [int(pid) for task in children for pid in task.read_text().split()
                        if "-netdev" in command_line(pid)]
                self.pids[host] = {"daemon": daemon.pid, "qemu": qemu[0] if qemu else None}

    # --- what faults ask for

    def daemon(self, host):
        return self.env.daemon(host).pid

    def pid(self, what, host):
        check(self.pids[host][what], f"no {what} on {host}")
        return self.pids[host][what]

    def holds(self, pid):
        """The phase is held by this very process standing still."""
        return pid == self.held_qemu or (self.frozen and pid == self.frozen.pid)

    def release(self):
        if not self.released:
            self.released = True
            self.phase.release(self)

    def open_valve(self):
        if self.env.valve.poll() is None:
            self.env.tell_valve("open")

    def speaks(self):
        """The host that answers at this phase, or None."""
        return None if self.phase.gone or self.starting or self.handed else self.phase.serving

    def unanswered(self):
        wait_for(lambda: self.env.load("ping", "-n", 2, "-i", 20, "--timeout", 300)
                 .report()["lost"] == 2, 20, "nobody answers")

    def acts(self, host):
        """The host has drawn its conclusion from its peer's silence."""
        daemon = self.env.daemon(host)
        if daemon.poll() is not None or not responds(daemon.pid):
            return False
        state = self.env.pair.state(host)
        return state in ("stuck", "taking-over", "unprotected") or (
            self.copying and state == "waiting")

    def wait_declared_dead(self, host):
        """Somebody acts on the silence of @host, or of the link (None)."""
        if self.phase.gone or self.starting or (self.handed and host == "secondary"):
            return
        wait_for(lambda: any(self.acts(one) for one in HOSTS if one != host), 30,
                 "a peer is declared dead")

    # --- the run

    def inject(self):
        if self.fault:
            self.fault(self, self.host)
        else:  # the dead host comes back while the question is open
            self.env.lab.power_on(self.host)
            self.start(self.host)
            self.env.said(self.host, "link up", 15)
        self.release()

    def repair(self):
        """What comes back by itself: power, cables, daemons as at boot."""
        env = self.env
        for host, daemon in list(env.pair.daemon.items()):
            if daemon.poll() is None:
                continue
            env.lab.power_on(host)
            if host == "primary" and env.valve and env.valve.poll() is not None:
                with contextlib.suppress(LabError):  # a fence may still be at work
                    env.start_valve()
                if env.valve.poll() is not None:
                    continue
            self.start(host)

    def settled(self, status):
        for host in HOSTS:
            one, two = status.get(host), status.get(OTHER[host])
            if one and two and one["state"] == "protected" and two["state"] == "standby":
                return host
        return None

    def nobody_has_it(self, status):
        """Both hosts have lost the VM, or say that they have: for 2 s nothing changes."""
        idle = all(status.values()) and all(
            one["state"] in ("retired", "waiting", "joining") and not one["copy"]["total"] and
            (one["state"] == "retired" or not one["qemu_pid"]) for one in status.values())
        if not idle:
            self.idle_since = None
            return False
        self.idle_since = self.idle_since or time.monotonic()
        return time.monotonic() - self.idle_since > 2

    def settle(self):
        """Waits until the VM is protected again; the host that serves. When both hosts have lost
        the VM, the operator starts the daemon that boots it (docs/two-hosts.md), once."""
        env = self.env
        self.idle_since = None
        restarted = False
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.repair()
            status = {host: env.pair.status(host) for host in env.pair.daemon}
            serves = self.settled(status)
            if serves:
                return serves
            for host, one in status.items():  # what it asks the operator for
                if one and "start its daemon again" in one["message"]:
                    env.daemon(host).kill()
                    env.daemon(host).wait(PATIENCE)
            if not restarted and self.nobody_has_it(status):
                restarted = self.result["restarted"] = True
                env.daemon("primary").kill()
                env.daemon("primary").wait(PATIENCE)
            if self.starting and "secondary" not in status and status["primary"] and \
                    status["primary"]["qemu_pid"]:
                env.run("http", "-n", 1, "--allow-errors", "--deadline", 40, target=URL + "/hello")
                self.free()
                self.start("secondary")
            time.sleep(0.05)
        raise Failed("not protected again: " + ", ".join(
            f"{host} {one and one['state']}" for host, one in status.items()))

    def run(self, env):
        """In its lab."""
        self.mount()
        try:
            self.phase.reach(self)
            self.note_pids()
            if not self.captures:
                self.captures = {host: Capture(env, host) for host in HOSTS}
            began = time.monotonic()
            self.inject()
            if self.disks and self.loads:
                for load in self.loads[:2]:
                    load.more("requests", 20)
                self.free()
            serves = self.settle()
            self.result["protected_s"] = round(time.monotonic() - began, 1)
            broken = self.end_loads()
            self.serves_new()
            self.judge(serves, broken, speakers(self.captures))
        finally:
            self.unmount()

    def serves_new(self):
        """A new connection is served: at once by a VM that went on, in a while by one that boots."""
        if not self.vms_are_gone():
            self.env.answers(path="/log?append=after")
            return

        def served():
            result = self.env.load("http", "-n", 1, "--allow-errors", "--deadline", 3,
                                   target=URL + "/hello").report()
            return result["requests"] and not result["wrong"]

        wait_for(served, 90, "the VM that boots serves")

    def vms_are_gone(self):
        """Every QEMU that had the VM or a copy of it at the phase has ended."""
        return all(dead(pids["qemu"]) for pids in self.pids.values() if pids["qemu"])

    def end_loads(self):
        """Why connections broke: [] when all went on."""
        broken, gaps = [], []
        if self.vms_are_gone():
            for load in self.loads:
                load.process.kill()
            return ["the VM is gone"]
        for load in self.loads:
            try:
                if load not in self.loads[3:]:
                    load.more("requests", 10, 40).stop()
                gaps.append(load.result(90)["longest_gap_ms"])
            except (Failed, LabError) as why:
                broken.append(str(why))
                if load.process.poll() is None:
                    load.process.kill()
        if gaps and not broken:
            self.result["stall_ms"] = round(max(gaps))
        return broken

    def judge(self, serves, broken, spoke):
        start = self.phase.serving
        lost = self.vms_are_gone()
        outcome = "lost" if lost else "stays" if serves == start else "moves"
        self.result.update(outcome=outcome, serves=serves, speakers=spoke)
        check(lost or not broken, f"connections broke: {broken}")
        check(outcome in ALLOWED[self.want], f"{outcome}, expected {self.want}")
        check(spoke[-1:] == [serves], f"{serves} serves, but who spoke was {spoke}")
        before = ["primary", "secondary"] if start == "secondary" else ["primary"]
        if lost:  # whoever boots it speaks again
            check(len(spoke) <= len(before) + 2, f"two speakers: {spoke[:20]}")
        else:
            check(spoke == before + [serves] * (serves != start), f"two speakers: {spoke[:20]}")
        self.result["ok"] = True


def parse_fault(name):
    """(what to do, "serving" or "other" or None)"""
    stem, _, side = name.rpartition("-")
    return (FAULTS[name], None) if name in FAULTS else (FAULTS[stem], side)


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def responds(pid):
    try:
        return not stands_still(pid)
    except FileNotFoundError:
        return False


def speakers(captures):
    """Who spoke for the VM, in turns: by what came from each host into the clients' switch."""
    said = sorted((frame.at, host) for host, capture in captures.items()
                  for frame in capture.said())
    return [host for n, (_at, host) in enumerate(said) if n == 0 or said[n - 1][1] != host]


# --- all cells --------------------------------------------------------------------------------------


def keep_logs(cell, logs):
    kept = logs / cell.name.replace(":", "-")
    keep_files(cell.env.lab.dir, kept)


def run_cell(cell, logs):
    """Its result. In its lab."""
    began = time.monotonic()
    try:
        cell.run(cell.env)
    except (Failed, LabError) as why:
        cell.result["why"] = str(why)
    except Exception:  # a broken cell is a failed one
        cell.result["why"] = traceback.format_exc()
    if not cell.result["ok"]:
        keep_logs(cell, logs)
    cell.result["seconds"] = round(time.monotonic() - began, 1)
    return cell.result


def run_group(cells, logs):
    """Cells that share a pair, until one leaves it other than it was: their results."""
    cells = list(cells)
    try:
        while cells:
            with cells[0].make() as env:
                while cells:
                    cell = cells.pop(0)
                    if cell.env is not env:
                        cell.take(env)
                    result = run_cell(cell, logs)
                    yield result
                    if not result["ok"] or result["outcome"] != "stays":
                        break
    except Exception:
        for cell in [cell, *cells]:
            yield {**cell.result, "ok": False, "why": traceback.format_exc()}


def parts(cells, most):
    return [cells[at:at + most] for at in range(0, len(cells), most)]


def run_all(names, args):
    groups = {}
    for name in names:
        cell = Cell(*name.split(":"))
        groups.setdefault(cell.shares(), []).append(cell)
    done = []

    def take(one):
        done.append(one)
        say = f"{one['outcome']}" if one["ok"] else f"FAILED: {one.get('why')}"
        print(f"{len(done):3}/{len(names)} {one['phase']}:{one['fault']}  {say}  "
              f"({one.get('seconds', 0):.0f} s)", file=sys.stderr if args.json else sys.stdout,
              flush=True)

    workers.in_turns([part for group in groups.values() for part in parts(group, 8)], args.jobs,
                     lambda cells: run_group(cells, args.logs), take)
    return done


def as_table(done):
    """The results as a Markdown table."""
    _cells, phases, faults = table()
    found = {(one["phase"], one["fault"]): one for one in done}
    lines = ["| fault | " + " | ".join(phases) + " |", "| --- |" + " --- |" * len(phases)]
    for fault in faults:
        row = []
        for phase in phases:
            one = found.get((phase, fault))
            if not one:
                row.append("")
            elif not one["ok"]:
                row.append("**FAILED**")
            else:
                stall = f" {one['stall_ms'] / 1000:.1f}" if "stall_ms" in one else ""
                row.append(one["outcome"] + stall)
        if any(row):
            lines.append(f"| {fault} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def chosen(patterns):
    cells, phases, faults = table()
    names = [f"{phase}:{fault}" for fault in faults for phase in phases
             if cells[phase, fault] != "-"]
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            sys.exit(f"no cell {pattern}; --list shows them")
    return [name for name in names
            if not patterns or any(matches(name, pattern) for pattern in patterns)]


def matches(name, pattern):
    return name.split(":")[0] == pattern or fnmatch.fnmatch(name, pattern)


def main():
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="PHASE|PHASE:FAULT")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="labs at a time (2)")
    parser.add_argument("--prefix", default="flt", help="of the labs")
    parser.add_argument("--logs", type=Path, default=Path("/tmp/colo-faults"),
                        help="where logs of failed cells go")
    args = parser.parse_args()
    names = chosen(args.cells)
    if args.list:
        for name in names:
            print(f"{name:40} {table()[0][tuple(name.split(':'))]}")
        return 0
    if os.geteuid() != 0:
        sys.exit("faults: needs root, for network namespaces")
    args.logs.mkdir(parents=True, exist_ok=True)
    Env.prefix = args.prefix
    began = time.monotonic()
    done = run_all(names, args)
    failed = [f"{one['phase']}:{one['fault']}" for one in done if not one["ok"]]
    seconds = round(time.monotonic() - began)
    if args.json:
        print(json.dumps({"seconds": seconds, "passed": len(done) - len(failed),
                          "failed": failed, "cells": done}, indent=1))
    else:
        print(as_table(done))
        print(f"{seconds} s, {len(done) - len(failed)} passed, {len(failed)} failed"
              + "".join(f"\n  {name}" for name in failed))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
