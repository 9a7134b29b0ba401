#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts and a client network on one machine, made of network namespaces.

    PREFIX-client      bridge br0, 10.77.0.1/24: the switch of the client network and a client on it
    PREFIX-primary     bridge br0 with uplink lan0 to that switch; repl0 10.78.0.1/24
    PREFIX-secondary   bridge br0 with uplink lan0 to that switch; repl0 10.78.0.2/24

lan0 of the two hosts ends in the client's br0 as to-primary and to-secondary. repl0 of the one is
wired to repl0 of the other. All other names are per namespace, so several labs live side by side.

Nothing outlives its owner: what is spawned dies with it, the namespaces go at the end of the `with`
block, on an exception, SIGINT, SIGTERM and SIGHUP, and what an owner that was killed left behind is
removed by the next lab that starts. The owner holds a lock on its run directory; that, not a pid,
tells whether it lives. `lab.py up` makes a lab that stays until `lab.py down`.

Python's standard library only. docs/lab.md has examples.
"""
import argparse
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
RUN = Path("/run/colo-lab")
HOSTS = ("client", "primary", "secondary")
CLIENT_IP = "10.77.0.1"
GUEST_IP = "10.77.0.10"
GUEST_MAC = "52:54:00:77:00:0a"
REPLICATION_IP = {"primary": "10.78.0.1", "secondary": "10.78.0.2"}
CLIENT_IP6 = "fd00:77::1"
GUEST_IP6 = "fd00:77::a"
DEAD_MAC = "02:00:00:00:de:ad"  # nobody's: frames to it are dropped by whoever gets them
PATIENCE = 120  # s: what comes at all has come by then, however busy the machine is


class LabError(Exception):
    """The lab could not do what was asked; the text says what and why."""


def cache_dir():
    return Path(os.environ.get("COLO_CACHE", "/var/cache/colo-proxy")).resolve()


def build_dir():
    return Path(os.environ.get("COLO_BUILD", TOP / "build")).resolve()


def wait_for(predicate, seconds, what="condition"):
    """Wait until predicate() is true and return its value; LabError when it has not come.

    @seconds is what an idle machine would take at most: no less than PATIENCE is waited, so that
    no test fails because its machine is busy. It looks again after 1 ms at first and after 20 ms
    at most."""
    seconds = max(seconds, PATIENCE)
    deadline = time.monotonic() + seconds
    pause = 0.001
    while True:
        value = predicate()
        if value:
            return value
        left = deadline - time.monotonic()
        if left <= 0:
            raise LabError(f"{what}: not within {seconds} s")
        time.sleep(min(pause, left))
        pause = min(pause * 2, 0.02)


def write_config(path, sections):
    """Write {section: {key: value}} as a GKeyFile. Values: str, int, float, bool, or a list of them.

    The file appears whole or not at all, readable by its owner only: it may hold secrets."""
    escapes = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}

    def text(value):
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (list, tuple)):
            return "".join(text(v).replace(";", "\\;") + ";" for v in value)
        out = "".join(escapes.get(c, c) for c in str(value))
        return "\\s" + out[1:] if out.startswith(" ") else out

    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key}={text(value)}" for key, value in keys.items() if value is not None]
        lines.append("")
    path = Path(path)
    new = path.with_name(path.name + ".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write("\n".join(lines))
    os.replace(new, path)
    return path


def guest_argv(tap="tap0", mac=GUEST_MAC, memory=256, smp=1, machine="pc", accel="tcg",
               append="", extra=()):
    """QEMU's command line for the test guest on a tap that exists; console on stdout."""
    cache = cache_dir()
    cmdline = (cache / "guest/cmdline").read_text().strip()
    return [
        str(cache / "qemu/bin/qemu-system-x86_64"),
        "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", machine, "-accel", accel, "-cpu", "qemu64" if accel == "tcg" else "host",
        "-smp", str(smp), "-m", str(memory),
        "-kernel", str(cache / "guest/vmlinuz"), "-initrd", str(cache / "guest/initrd.img"),
        "-append", f"{cmdline} {append}".strip(),
        "-serial", "stdio",
        "-netdev", f"tap,id=net0,ifname={tap},script=no,downscript=no,vhost=off",
        "-device", f"virtio-net-pci,id=nic0,netdev=net0,mac={mac},romfile=",
        *extra,
    ]


class Process(subprocess.Popen):
    """A child in one host. Its output goes to a log file, line by line, and can be waited for."""

    def __init__(self, host, argv, log, **kw):
        self.host = host
        self.log = Path(log)
        self.lines = []
        self._news = threading.Condition()
        self._ended = False
        kw.setdefault("stdin", subprocess.DEVNULL)
        super().__init__(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         start_new_session=True, **kw)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with open(self.log, "ab", buffering=0) as log:
            for raw in self.stdout:
                log.write(raw)
                with self._news:
                    self.lines.append(raw.decode(errors="replace").rstrip("\r\n"))
                    self._news.notify_all()
        self.stdout.close()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_line(self, pattern, seconds, start=0):
        """Wait for a line of output, from number @start on, that @pattern is found in; return the
        match. LabError when it has not come (as with wait_for()), and when the output ends without
        it."""
        seconds = max(seconds, PATIENCE)
        regex = re.compile(pattern)
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                for line in self.lines[start:]:
                    start += 1
                    match = regex.search(line)
                    if match:
                        return match
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "ended without" if self._ended else f"not within {seconds} s:"
                    tail = "\n  ".join(self.lines[-10:])
                    raise LabError(f"{self.log.stem}: {why} "
                                   f"/{pattern}/; log {self.log}, its end:\n  {tail}")
                self._news.wait(left)

    def end_log(self):
        """Wait for the last of the output; the processes that could write it are gone."""
        self._reader.join(PATIENCE)

    def stop(self, seconds=PATIENCE):
        """SIGTERM, and SIGKILL after @seconds; returns the exit status."""
        if self.poll() is None:
            self.terminate()
            try:
                self.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.wait()


class Lab:
    """The lab; use it as a context manager. One thread, the main one, should make and end it."""

    def __init__(self, prefix="colo", ipv6=False, keep=False, keep_logs=False):
        """@ipv6: addresses of that family too; without it the hosts send no IPv6 at all.
        @keep: `with` leaves the lab standing. @keep_logs: the run directory stays at the end."""
        if not re.fullmatch(r"[a-z][a-z0-9]{0,11}", prefix):
            raise LabError(f"prefix {prefix!r}: up to 12 lower-case letters and digits, please")
        self.prefix = prefix
        self.ipv6 = ipv6
        self.keep = keep
        self.keep_logs = keep_logs
        self.dir = RUN / prefix
        self._lock = None
        self._children = []
        self._signals = {}
        self._count = 0

    # --- life -----------------------------------------------------------------------------------

    def __enter__(self):
        if os.geteuid() != 0:
            raise LabError("needs root, for network namespaces")
        self._catch_signals()
        try:
            remove_dead()
            self._take()
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc):
        if self.keep and exc[0] is None:
            (self.dir / "keep").touch()
            self._restore_signals()
            self._lock.close()
        else:
            self.close()

    def close(self):
        """Kill what runs in the lab, remove it. May be called twice."""
        for number in self._signals:
            signal.signal(number, signal.SIG_IGN)
        try:
            if self._lock:
                for child in self._children:
                    with contextlib.suppress(ProcessLookupError):
                        child.kill()
                for child in self._children:
                    child.wait(PATIENCE)
                remove_namespaces(self.prefix)
                for child in self._children:
                    child.end_log()
                if not self.keep_logs:
                    shutil.rmtree(self.dir, ignore_errors=True)
                lock_path(self.prefix).unlink(missing_ok=True)
                self._lock.close()
                self._lock = None
        finally:
            self._restore_signals()

    def _take(self):
        with one_at_a_time():
            self._lock = take_lock(self.prefix)
        if not self._lock:
            raise LabError(f"lab {self.prefix} is in use; choose another prefix")
        if (self.dir / "keep").exists():
            self._lock.close()
            self._lock = None
            raise LabError(f"lab {self.prefix} is up; scripts/lab.py down {self.prefix} removes it")
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)

    def _catch_signals(self):
        def leave(number, _frame):
            raise SystemExit(128 + number)

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._signals[number] = signal.signal(number, leave)

    def _restore_signals(self):
        for number, old in self._signals.items():
            signal.signal(number, old)
        self._signals = {}

    def _build(self):
        ns = {host: self.ns(host) for host in HOSTS}
        ip_batch(None, [f"netns add {name}" for name in ns.values()])
        # The kernel is up to a second late with the carrier of a link whose index is that of its
        # other end, as it takes it for one without another end: so all indexes differ.
        ip_batch(None, [
            f"link add lan0 index 11 netns {ns['primary']} type veth "
            f"peer name to-primary index 12 netns {ns['client']}",
            f"link add lan0 index 21 netns {ns['secondary']} type veth "
            f"peer name to-secondary index 22 netns {ns['client']}",
            f"link add repl0 index 31 netns {ns['primary']} type veth "
            f"peer name repl0 index 32 netns {ns['secondary']}"])
        if not self.ipv6:
            for host in HOSTS:
                self.sysctl(host, "net.ipv6.conf.all.disable_ipv6", 1)
                self.sysctl(host, "net.ipv6.conf.default.disable_ipv6", 1)
        for host in HOSTS:
            ports = ["lan0"] if host != "client" else ["to-primary", "to-secondary"]
            lines = ["link set lo up",
                     "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0"]
            for port in ports:
                lines += [f"link set {port} master br0 up"]
            if host == "client":
                lines += [f"addr add {CLIENT_IP}/24 dev br0"]
                lines += [f"addr add {CLIENT_IP6}/64 dev br0 nodad"] if self.ipv6 else []
            else:
                lines += [f"addr add {REPLICATION_IP[host]}/24 dev repl0", "link set repl0 up"]
            ip_batch(ns[host], lines + ["link set br0 up"])
        for host in HOSTS:
            wait_for(lambda: not links_without_carrier(ns[host]), 5, f"links of {host} up")

    # --- processes ------------------------------------------------------------------------------

    def ns(self, host):
        """The name of the host's namespace."""
        if host not in HOSTS:
            raise LabError(f"no host {host!r}; there are {', '.join(HOSTS)}")
        return f"{self.prefix}-{host}"

    def argv(self, host, argv):
        return ["ip", "netns", "exec", self.ns(host), *map(str, argv)]

    def spawn(self, host, argv, name=None, **kw):
        """Start a program on a host; it is killed at the end of the lab, and when this process (to
        be exact: the thread that called) dies. Its pid is the program's own. Output: see Process."""
        self._count += 1
        log = self.dir / f"{host}-{self._count:02}-{name or Path(str(argv[0])).name}.log"
        child = Process(host, ["setpriv", "--pdeathsig", "KILL", *self.argv(host, argv)], log, **kw)
        self._children.append(child)
        return child

    def run(self, host, argv, timeout=PATIENCE, check=True, **kw):
        """Run a program on a host to its end; returns CompletedProcess with text output."""
        kw.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(self.argv(host, argv), capture_output=True, text=True,
                              timeout=timeout, **kw)
        if check and done.returncode:
            raise LabError(f"{' '.join(map(str, argv))} on {host}: exit {done.returncode}: "
                           f"{(done.stderr or done.stdout).strip()}")
        return done

    def pids(self, host):
        """All processes of a host, also those that were not started through here."""
        return netns_pids(self.ns(host))

    def sysctl(self, host, name, value):
        self.run(host, ["sh", "-c", f"echo {value} >/proc/sys/{name.replace('.', '/')}"])

    # --- network --------------------------------------------------------------------------------

    def ip(self, host, *lines):
        """Commands of ip(8), in one batch."""
        ip_batch(self.ns(host), lines)

    def add_tap(self, host, name="tap0", bridge="br0", options=""):
        """A tap with vnet headers, up, in the bridge."""
        self.ip(host, f"tuntap add dev {name} mode tap vnet_hdr {options}",
                f"link set {name} {f'master {bridge}' if bridge else ''} up")
        return name

    def link_down(self, host, link):
        """Pull a cable of a host: @link "lan" or "replication". Both ends lose the carrier."""
        self.ip(host, f"link set {link_device(link)} down")

    def link_up(self, host, link):
        """Plug it in again. An address of repl0 and the bridge port are as before."""
        self.ip(host, f"link set {link_device(link)} up")

    def replication_lossy(self, host, lost=True):
        """Lose all that @host sends on the replication link from now on, with the carrier on, as
        when a switch further away fails; @lost False ends it. One direction; call it for both."""
        peer = REPLICATION_IP["secondary" if host == "primary" else "primary"]
        if lost:
            self.ip(host, f"neigh replace {peer} lladdr {DEAD_MAC} dev repl0 nud permanent")
        else:
            self.ip(host, f"neigh del {peer} dev repl0")

    def shape_replication(self, rate):
        """The replication link takes so much from now on, each way: "100mbit", as tc(8) has it."""
        for host in REPLICATION_IP:
            self.run(host, ["tc", "qdisc", "replace", "dev", "repl0", "root", "tbf", "rate", rate,
                            "burst", "256kb", "latency", "50ms"])

    def power_cut(self, host):
        """The links of a host down in one batch, then all its processes killed.

        Nothing is said on the wire when it returns. power_on() gives the links back. The host's
        taps are left alone: its processes may make and remove some until they are dead."""
        # A child that was just spawned may still be on its way into the namespace.
        children = [child for child in self._children if child.host == host]
        pids = self.pids(host) + [child.pid for child in children if child.poll() is None]
        self.ip(host, "link set lan0 down", "link set repl0 down", "link set br0 down")
        kill_pids(pids)
        # What was forked meanwhile.
        kill_namespace(self.ns(host))
        for child in children:
            child.wait(PATIENCE)

    def power_on(self, host):
        """The links of a host up again after a power cut. Taps stay as they were."""
        self.ip(host, "link set lo up", "link set br0 up", "link set lan0 up", "link set repl0 up")

    def delay_relay(self, host, listen, target, ms):
        """TCP relay on a host (the kernel here may have no netem): what comes in on "IP:PORT"
        @listen goes to @target @ms later, in either direction. Returns when it listens."""
        relay = build_dir() / "tests/delay-relay"
        child = self.spawn(host, [relay, listen, target, ms], name="delay-relay")
        child.wait_line("listening", 5)
        return child

    def capture(self, host, ifname, path):
        """tcpdump to a file until stop(); returns when it captures."""
        child = self.spawn(host, ["tcpdump", "-i", ifname, "-n", "-U", "--immediate-mode",
                                  "-w", path], name=f"tcpdump-{ifname}")
        child.wait_line("listening on", 10)
        return child

    def boot_guest(self, host="primary", tap="tap0", seconds=60, **kw):
        """The test guest, unprotected, on a new tap in the host's bridge; returns when it is up."""
        self.add_tap(host, tap)
        child = self.spawn(host, guest_argv(tap=tap, **kw), name="qemu")
        child.wait_line("GUEST READY", seconds)
        return child


# --- what works without a Lab object ----------------------------------------------------------------


def link_device(link):
    try:
        return {"lan": "lan0", "replication": "repl0"}[link]
    except KeyError:
        raise LabError(f"no link {link!r}; there are lan and replication") from None


def ip_batch(ns, lines):
    done = subprocess.run(["ip", *(["-n", ns] if ns else []), "-batch", "-"],
                          input="\n".join(lines) + "\n", capture_output=True, text=True,
                          timeout=PATIENCE)
    if done.returncode:
        raise LabError(f"ip {'-n ' + ns if ns else ''}: {done.stderr.strip()}, of: "
                       + "; ".join(lines))


def links_without_carrier(ns):
    """Links that are set up but not running yet: what is sent on them is dropped."""
    done = subprocess.run(["ip", "-n", ns, "-o", "link"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines()
            if ",UP" in line and ("NO-CARRIER" in line or "state DOWN" in line
                                  or "qdisc noop " in line)]


def netns_pids(ns):
    """Processes whose network namespace is @ns; [] when there is no such namespace."""
    try:
        want = os.stat(f"/run/netns/{ns}").st_ino
    except FileNotFoundError:
        return []
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{entry}/ns/net").st_ino == want:
                    pids.append(int(entry))
    return pids


def kill_pids(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_namespace(ns):
    """Kill until nothing is left in the namespace."""
    def gone():
        pids = netns_pids(ns)
        kill_pids(pids)
        return not pids

    wait_for(gone, 10, f"processes of {ns} do not die")


def remove_namespaces(prefix):
    for host in HOSTS:
        ns = f"{prefix}-{host}"
        if Path("/run/netns", ns).exists():
            kill_namespace(ns)
            subprocess.run(["ip", "netns", "del", ns], check=True, timeout=PATIENCE)


@contextlib.contextmanager
def one_at_a_time():
    """Held by who takes a lab's lock, so that nobody takes a lab that begins for one whose owner is
    dead, and the lock of a dead one has one taker."""
    RUN.mkdir(parents=True, exist_ok=True)
    folder = os.open(RUN, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def lock_path(prefix):
    return RUN / f"{prefix}.lock"


def take_lock(prefix):
    """The lock of a lab as an open file with the owner's pid in it, or None when its owner lives.
    For who is one_at_a_time()."""
    while True:
        lock = open(lock_path(prefix), "a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last owner may have removed the file that was opened here.
            if os.fstat(lock.fileno()).st_ino == os.stat(lock_path(prefix)).st_ino:
                break
        except BlockingIOError:
            lock.close()
            return None
        except FileNotFoundError:
            pass
        lock.close()
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def remove_lab(prefix, kept):
    """Remove a lab without a living owner; one that was made to stay only when @kept. For who is
    one_at_a_time()."""
    lock = take_lock(prefix)
    if not lock:
        return False
    with lock:
        if (RUN / prefix / "keep").exists() and not kept:
            return False
        remove_namespaces(prefix)
        shutil.rmtree(RUN / prefix, ignore_errors=True)
        lock_path(prefix).unlink(missing_ok=True)
    return True


def remove_dead():
    """Remove what owners that died without a chance to clean up have left."""
    with one_at_a_time():
        for path in RUN.glob("*.lock"):
            remove_lab(path.stem, kept=False)


# --- command line -----------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description="two hosts and a client network in namespaces")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("up", "make a lab that stays"), ("down", "remove it"),
                       ("guest", "a lab with an unprotected test guest, until interrupted"),
                       ("exec", "run a command in a host of a lab")):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("prefix", nargs="?" if name != "exec" else None, default="colo")
        if name == "exec":
            sub.add_argument("host", choices=HOSTS)
            sub.add_argument("argv", nargs=argparse.REMAINDER)
    args = parser.parse_args()

    if args.command == "up":
        with Lab(args.prefix, keep=True):
            print(" ".join(f"{args.prefix}-{host}" for host in HOSTS))
    elif args.command == "down":
        with one_at_a_time():
            removed = remove_lab(args.prefix, kept=True)
        if not removed:
            raise LabError(f"lab {args.prefix} is in use by a running program")
    elif args.command == "guest":
        with Lab(args.prefix) as lab:
            guest = lab.boot_guest()
            print(f"guest at {GUEST_IP}; scripts/lab.py exec {args.prefix} client "
                  f"curl http://{GUEST_IP}/hello", flush=True)
            guest.wait()
    else:
        argv = Lab(args.prefix).argv(args.host, args.argv or ["bash"])
        os.execvp(argv[0], argv)


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"lab.py: {error}")
