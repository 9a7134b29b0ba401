#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark behind scripts/bench checkpoint: what a checkpoint costs, beside QEMU's own COLO.

One round has each variant with each link in a lab of its own, one after the other; every second
round goes backwards. In a lab the guest is idle, dirties memory, then serves; of each state the
same is measured: a while without checkpoints asked for (what else costs processor and link), a
while with one every PERIOD, then what a client gets while the variant takes them when it wants.

Pauses are QEMU's events STOP and RESUME in all variants. QEMU's COLO holds its VM until the other
one has loaded, so that its pause is its commit. Bytes are those of the replication network's
device, processor time is that of both daemons and both QEMUs without their vCPUs, each less what
the while without checkpoints took.
"""
import argparse
import contextlib
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import lab as lab_module  # noqa: E402
from lab import Lab, LabError, build_dir, wait_for  # noqa: E402
from lib.bench import GUEST, VERDICT, Bench, some  # noqa: E402
from lib.bench_checkpoint_plot import plot  # noqa: E402

PREFIX = "colockpt"
PERIOD = 0.25
HISTORY = 256

# name: what the table says, the variant of scripts/bench that it is made of, [checkpoint] besides
VARIANTS = {
    "alone": ("unprotected", "alone", {}),
    "stock": ("QEMU's COLO", "stock-tcp", {}),
    "ours": ("colo-proxy", "hold-tap", {}),
    "epoch": ("epoch, 25 ms", "hold-tap", {"policy": "epoch", "latency-target": 25}),
    "auto": ("auto", "hold-tap", {"policy": "auto"}),
}
# name: what the table says, /dirty of the guest's service, seconds until all of its area was written
GUESTS = {
    "idle": ("idle", "0", 0),
    "dirty10": ("10 MB/s dirty", "10?area=16", 2),
    "dirty50": ("50 MB/s dirty", "50?area=32", 1),
    "random10": ("10 MB/s of random bytes", "10?area=16&full=1", 2),
    "serving": ("serves HTTP, 4 connections", "0", 0),
}
# name: what the table says, ms of delay each way, rate for tc
LINKS = {
    "direct": ("as it is", 0, None),
    "1ms": ("1 ms each way", 1, None),
    "10ms": ("10 ms each way", 10, None),
    "50ms": ("50 ms each way", 50, None),
    "1gbit": ("1 Gbit/s", 0, "1gbit"),
    "100mbit": ("100 Mbit/s", 0, "100mbit"),
}
ON_OTHER_LINKS = ("idle", "dirty10", "serving")
HTTP = ("http", f"http://{GUEST}:8080/", "--close", "--allow-errors", "-c", "4")
RANDOM = ("http", f"http://{GUEST}/random", "--close", "--allow-errors", "-c", "4")


def percentile(values, share):
    """The nearest-rank percentile; None of nothing."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * share) - 1, 0)] if ordered else None


class Control:
    """The daemon's control socket, kept open: no program is started for each request."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(path))
        self.file = self.sock.makefile("rwb")

    def call(self, command, **arguments):
        line = {"command": command, "arguments": arguments}
        self.file.write(json.dumps(line).encode() + b"\n")
        self.file.flush()
        reply = json.loads(self.file.readline())
        if not reply.get("ok"):
            raise LabError(f"{command}: {reply.get('error')}")
        return reply["result"]

    def stats(self, checkpoints=0):
        return self.call("stats", checkpoints=checkpoints)

    def close(self):
        self.file.close()
        self.sock.close()


def cpu_seconds(pids):
    """Processor time of all threads of some processes but vCPUs', to the nanosecond (schedstat)."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has ended
                if not (task / "comm").read_text().startswith("CPU "):
                    total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


class Meter:
    """Processor time, link bytes and wall time from here on."""

    def __init__(self, bench, lab, pids):
        self.bench, self.lab, self.pids = bench, lab, pids
        self.cpu, self.bytes, self.at = cpu_seconds(pids), self.device(), time.monotonic()
        self.since = time.time_ns()

    def device(self):
        shown = self.lab.run("primary", ["ip", "-s", "-j", "link", "show", "dev", "repl0"])
        counted = json.loads(shown.stdout)[0]["stats64"]
        return counted["tx"]["bytes"] + counted["rx"]["bytes"]

    def read(self):
        """Per second."""
        seconds = time.monotonic() - self.at
        return {"seconds": seconds, "cpu": (cpu_seconds(self.pids) - self.cpu) / seconds,
                "bytes": (self.device() - self.bytes) / seconds}


class CheckpointBench(Bench):
    def __init__(self, args):
        super().__init__(args)
        self.names = [name for name in VARIANTS if name in args.variants]
        self.rounds = []  # [{link: {variant: {guest: {...}}}}]
        self.longest = {}  # {link: seconds of its longest lab}
        short = args.quick
        self.rest, self.asked, self.free = (1, 2, 1) if short else (2, 4, 2)
        self.bulk = 20_000_000 if short else 60_000_000

    # --- one lab --------------------------------------------------------------------------------

    def pair(self, lab, variant, delay_ms=0):
        base, extra = VARIANTS[variant][1:]
        return super().pair(lab, base, delay_ms, extra)

    def start(self, lab, variant, link):
        _, delay, rate = LINKS[link]
        pair = self.pair(lab, variant, delay)
        pair.start("primary")
        pair.wait_guest(60)
        if variant != "alone":
            pair.start("secondary")
            pair.wait_protected(40)
        self.warm_up(lab)
        if rate:
            lab.shape_replication(rate)
        return pair

    @staticmethod
    def pids(pair, variant):
        hosts = ("primary",) if variant == "alone" else ("primary", "secondary")
        return [pair.daemon[host].pid for host in hosts] + \
            [pair.status(host)["qemu_pid"] for host in hosts]

    def set_guest(self, lab, guest):
        path = f"/dirty/{GUESTS[guest][1]}"
        self.reap(self.spawn_argv(lab, ["http", f"http://{GUEST}{path}", "-n", "1",
                                        "--deadline", "10"]), 20)

    def load(self, lab, *argv):
        report = self.reap(self.spawn_argv(lab, [*argv, "--deadline", "20"]), 40)
        latency = report.get("latency_ms") or {}
        return {"ok": bool(report.get("ok")), "error": (report.get("error") or "")[:200],
                "rps": report.get("rps"), "MBps": report.get("MBps"), "p50": latency.get("p50"),
                "p99": latency.get("p99"), "gap": report.get("longest_gap_ms")}

    @staticmethod
    def ask(control):
        """One more checkpoint; returns when it is committed (QEMU's COLO: done)."""
        total = control.stats()["checkpoints"]["total"]
        control.call("checkpoint")
        wait_for(lambda: control.stats()["checkpoints"]["total"] > total, 20, "a checkpoint")

    def ask_for(self, control, seconds, load=None):
        """One each PERIOD, for so long or until the load ends."""
        end = time.monotonic() + seconds
        slot = time.monotonic()
        while load.poll() is None if load else time.monotonic() < end:
            self.ask(control)
            slot = max(slot + PERIOD, time.monotonic())
            time.sleep(slot - time.monotonic() if slot > time.monotonic() else 0)

    @staticmethod
    def taken(control, since):
        """The checkpoints since then that are over: QEMU's RESUME has come."""
        return [entry for entry in control.stats(HISTORY)["history"]
                if entry["when_ns"] >= since and entry["pause_us"]]

    def measure(self, lab, control, pids, guest, loaded):
        """Figures of checkpoints with the guest in this state; @loaded: under HTTP."""
        meter = Meter(self, lab, pids)
        if not loaded:
            time.sleep(self.rest)  # nothing to wait for: this is what is measured
        idle, quiet = meter.read(), self.taken(control, meter.since)
        load = None
        meter = Meter(self, lab, pids)
        if loaded:
            load = self.spawn_argv(lab, [*HTTP, "-d", str(self.asked), "--deadline", "20"])
        self.ask_for(control, self.asked, load)
        busy, found = meter.read(), self.taken(control, meter.since)
        result = {"checkpoints": len(found),
                  "pauses": [entry["pause_us"] for entry in found],
                  "commits": [entry["commit_us"] for entry in found if entry["commit_us"]],
                  "history": found}
        if load:
            report = self.reap(load, 40)
            result["http"] = {"rps": report.get("rps"), **{
                key: (report.get("latency_ms") or {}).get(key) for key in ("p50", "p99")}}
        else:
            # What the quiet while had by itself counts, too; of a policy that takes them all the
            # time nothing can be told.
            more = len(found) - len(quiet) * busy["seconds"] / idle["seconds"]
            if more >= len(found) / 2:
                for key in ("cpu", "bytes"):
                    result[key] = (busy[key] - idle[key]) * busy["seconds"] / more
        return result

    def one(self, variant, link, number):
        """{guest: figures} of one lab."""
        results = {}
        guests = [name for name in GUESTS if name in self.args.guests and
                  (link == "direct" or name in ON_OTHER_LINKS)]
        with Lab(PREFIX) as lab:
            control = None
            try:
                pair = self.start(lab, variant, link)
                pids = self.pids(pair, variant)
                control = Control(pair.socket("primary"))
                for guest in guests:
                    results[guest] = self.state(lab, control, pids, variant, link, guest)
            except (LabError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                self.note(f"{variant}, link {LINKS[link][0]}, round {number}: "
                          f"{str(error)[:300]}")
            finally:
                if control:
                    control.close()
        return results

    def state(self, lab, control, pids, variant, link, guest):
        self.set_guest(lab, guest)
        serving = guest == "serving"
        result = {}
        if variant != "alone":
            # What came before is copied; caches have what they can have.
            self.ask_for(control, GUESTS[guest][2] + 2 * PERIOD)
            result = self.measure(lab, control, pids, guest, serving)
        if link == "direct":
            before = control.stats()["checkpoints"]["total"]
            result["free"] = self.load(lab, *HTTP, "-d", str(self.free))
            result["free_checkpoints"] = control.stats()["checkpoints"]["total"] - before
            result["bulk"] = self.load(lab, "download", f"http://{GUEST}/", "-b", str(self.bulk))
            if serving:
                result["random"] = self.load(lab, *RANDOM, "-d", str(self.free))
        return result

    # --- rounds ---------------------------------------------------------------------------------

    def labs(self):
        """(link, variant) in the order of a round: what time runs out for is a slow link."""
        out = []
        for link in self.args.links:
            for variant in self.names:
                if link == "direct" or variant in ("stock", "ours"):
                    out.append((link, variant))
        return out

    def backwards(self):
        """Every second round: the variants the other way round, the links as they are."""
        out = []
        for link in self.args.links:
            out += [lab for lab in self.labs()[::-1] if lab[0] == link]
        return out

    def all_rounds(self):
        for number in range(1, self.args.rounds + 1):
            self.rounds.append({link: {} for link in self.args.links})
            order = self.labs() if number % 2 else self.backwards()
            for link, variant in order:
                if self.left() < self.longest.get(link, 0):
                    self.note(f"out of time: round {number} ends before {VARIANTS[variant][0]}, "
                              f"link {LINKS[link][0]}")
                    return
                began = time.monotonic()
                results = self.one(variant, link, number)
                self.rounds[-1][link][variant] = results
                self.longest[link] = max(self.longest.get(link, 0), time.monotonic() - began)
                self.say(f"round {number}/{self.args.rounds}: {VARIANTS[variant][0]}, link "
                         f"{LINKS[link][0]}: {self.short(results)} "
                         f"({time.monotonic() - began:.0f} s)")

    @staticmethod
    def short(results):
        out = []
        for guest, found in results.items():
            if found.get("pauses"):
                out.append(f"{guest} {percentile(found['pauses'], 0.5) / 1000:.1f} ms")
            elif "free" in found:
                out.append(f"{guest} {found['free']['rps'] or 0:.0f} req/s")
        return "pause " + ", ".join(out) if out else "nothing"

    # --- evaluation -----------------------------------------------------------------------------

    def each(self, link, variant, guest, read):
        """The figure of each round that has it."""
        out = []
        for results in self.rounds:
            found = results.get(link, {}).get(variant, {}).get(guest)
            value = read(found) if found else None
            if value is not None:
                out.append(value)
        return out

    def ratios(self, link, over, under, guest, read):
        """over/under in the same round."""
        out = []
        for results in self.rounds:
            pair = [results.get(link, {}).get(name, {}).get(guest) for name in (over, under)]
            values = [read(found) if found else None for found in pair]
            if values[0] is not None and values[1]:
                out.append(values[0] / values[1])
        return out

    FIGURES = {
        # name: (unit, decimals, how to read it)
        "pause p50": ("ms", 1, lambda f: scaled(percentile(f.get("pauses", []), 0.5), 1000)),
        "pause p99": ("ms", 1, lambda f: scaled(percentile(f.get("pauses", []), 0.99), 1000)),
        "commit p50": ("ms", 1, lambda f: scaled(percentile(f.get("commits", []), 0.5), 1000)),
        "commit p99": ("ms", 1, lambda f: scaled(percentile(f.get("commits", []), 0.99), 1000)),
        "link": ("KB", 0, lambda f: scaled(f.get("bytes"), 1000)),
        "CPU": ("ms", 1, lambda f: scaled(f.get("cpu"), 0.001)),
    }
    SERVICE = {
        "http": ("req/s", 0, lambda f: f.get("free", {}).get("rps")),
        "http p50": ("ms", 1, lambda f: f.get("free", {}).get("p50")),
        "http p99": ("ms", 1, lambda f: f.get("free", {}).get("p99")),
        "download": ("MB/s", 0, lambda f: f.get("bulk", {}).get("MBps")),
        "its longest gap": ("ms", 0, lambda f: f.get("bulk", {}).get("gap")),
    }

    def rows(self, figures):
        """[{link, guest, figure, unit, variants: {name: {median, min, max}}, ratio}]"""
        out = []
        for link in self.args.links:
            for guest in GUESTS:
                for name, (unit, decimals, read) in figures.items():
                    row = {"link": link, "guest": guest, "figure": name, "unit": unit,
                           "decimals": decimals, "variants": {}, "ratio": None}
                    for variant in self.names:
                        values = self.each(link, variant, guest, read)
                        if values:
                            row["variants"][variant] = spread(values)
                    ratios = self.ratios(link, "stock", "ours", guest, read)
                    if ratios:
                        row["ratio"] = spread(ratios)
                    if row["variants"]:
                        out.append(row)
        return out

    def targets(self):
        """[(what, stock's, to reach, measured, met or None)]"""
        out = []
        for name, limit in (("pause p50", 4), ("pause p99", 10)):
            read = self.FIGURES[name][2]
            stock = self.each("direct", "stock", "serving", read)
            ours = self.each("direct", "ours", "serving", read)
            if ours:
                out.append((f"{name}, HTTP load on a 256 MB guest", shown(stock, 1, " ms"),
                            f"<= {limit} ms", shown(ours, 1, " ms"),
                            statistics.median(ours) <= limit))
        out += self.delay_targets()
        for guest in ("idle", "dirty10", "dirty50", "random10"):
            read = self.FIGURES["link"][2]
            ratios = self.ratios("direct", "ours", "stock", guest, read)
            if ratios:
                # Random bytes have nothing to leave out: shown, and no target.
                asked = guest != "random10"
                out.append((f"bytes on the link by checkpoint, {GUESTS[guest][0]}",
                            shown(self.each("direct", "stock", guest, read), 0, " KB"),
                            "<= 0.25 of it" if asked else "", shown(ratios, 3),
                            statistics.median(ratios) <= 0.25 if asked else None))
        return out + self.policy_targets()

    def delay_targets(self):
        read = self.FIGURES["pause p50"][2]
        out = []
        for guest in ON_OTHER_LINKS:
            near, far = (self.each(link, "ours", guest, read) for link in ("direct", "50ms"))
            stock = self.ratios_of_links("stock", guest, read)
            ours = self.ratios_of_links("ours", guest, read)
            if not ours:
                continue
            # Within noise: what the rounds show of the one lies among what they show of the other,
            # or the medians are within 20 % or 0.5 ms.
            same = min(far) <= max(near) or statistics.median(ours) <= 1.2 or \
                statistics.median(far) - statistics.median(near) <= 0.5
            out.append((f"pause p50 with 50 ms each way by that without, {GUESTS[guest][0]}",
                        shown(stock, 1, " times"), "1 within noise", shown(ours, 2, " times"),
                        same))
        return out

    def ratios_of_links(self, variant, guest, read):
        out = []
        for results in self.rounds:
            values = [results.get(link, {}).get(variant, {}).get(guest)
                      for link in ("50ms", "direct")]
            values = [read(found) if found else None for found in values]
            if values[0] is not None and values[1]:
                out.append(values[0] / values[1])
        return out

    def policy_targets(self):
        out = []
        read = self.SERVICE["http"][2]
        shares = self.ratios("direct", "epoch", "alone", "serving", read)
        if shares:
            p99 = self.each("direct", "epoch", "serving", self.SERVICE["http p99"][2])
            out.append(("epoch at 25 ms: HTTP of unprotected, 4 connections", "no such mode",
                        ">= 0.5", shown(shares, 2), statistics.median(shares) >= 0.5))
            out.append(("epoch at 25 ms: p99 latency", "no such mode", "< 75 ms",
                        shown(p99, 0, " ms"), bool(p99) and statistics.median(p99) < 75))
        ratios = self.ratios("direct", "auto", "stock", "serving",
                             lambda f: f.get("random", {}).get("rps"))
        if ratios:
            out.append(("every response random, auto by QEMU's COLO", "1", ">= 3",
                        shown(ratios, 1, " times"), statistics.median(ratios) >= 3))
        return out

    # --- output ---------------------------------------------------------------------------------

    def print_rows(self, rows, title):
        names = [name for name in self.names if any(name in row["variants"] for row in rows)]
        print(f"\n{title}: median (smallest-largest) of {len(self.rounds)} rounds\n")
        print(f"{'link, guest':<44}{'':<16}"
              + "".join(f"{VARIANTS[name][0]:>24}" for name in names)
              + f"{'QEMU by ours':>22}")
        before = None
        for row in rows:
            where = f"{LINKS[row['link']][0]}, {GUESTS[row['guest']][0]}"
            cells = "".join(f"{cell(row['variants'].get(name), row['decimals']):>24}"
                            for name in names)
            print(f"{where if where != before else '':<44}"
                  f"{row['figure'] + ', ' + row['unit']:<16}"
                  f"{cells}{cell(row['ratio'], 2):>22}")
            before = where

    def print_targets(self):
        print(f"\n{'what':<62}{'QEMU stock':>22}{'to reach':>16}{'measured':>28}")
        for what, stock, target, measured, met in self.targets():
            print(f"{what:<62}{stock:>22}{target:>16}{measured:>28}  {VERDICT[met]}")
        for text in self.notes:
            print(f"note: {text}")

    def plan(self):
        return (f"{self.args.rounds} rounds of {len(self.labs())} labs, a checkpoint every "
                f"{PERIOD * 1000:.0f} ms")

    def work(self):
        self.all_rounds()

    def write(self):
        out = Path(self.args.out).resolve()
        out.mkdir(parents=True, exist_ok=True)
        costs, service = self.rows(self.FIGURES), self.rows(self.SERVICE)
        if costs:
            self.print_rows(costs, "A checkpoint every 250 ms")
        if service:
            self.print_rows(service, "What a client gets, with checkpoints as they come")
        self.print_targets()
        data = {"machine": self.machine(), "quick": self.args.quick, "rounds": self.rounds,
                "costs": costs, "service": service, "notes": self.notes,
                "targets": [dict(zip(("what", "stock", "target", "measured", "met"), row))
                            for row in self.targets()]}
        (out / "checkpoint.json").write_text(json.dumps(data, indent=1) + "\n")
        (out / "checkpoint.svg").write_text(plot(data, VARIANTS, GUESTS, LINKS))
        print(f"\n{out}/checkpoint.json and checkpoint.svg written after "
              f"{time.monotonic() - self.started:.0f} s")


class Profile(CheckpointBench):
    """Where the pause goes: checkpoints after so much memory was rewritten, step by step."""

    MACHINES = ((256, 1), (256, 2), (1024, 1), (1024, 2))  # MB, vCPUs
    REWRITTEN = (0, 1, 10, 50, 100)  # MB
    STEPS = ("stop", "flush", "save", "copy", "reading", "resume", "pause")
    TIMES = 12
    REWRITE_MAX = 64  # MB, of the guest's /rewrite

    def machine_of(self, memory, smp):
        """{MB rewritten: the checkpoints}"""
        found = {}
        with Lab(PREFIX) as lab:
            pair = Bench.pair(self, lab, "hold-tap", vm={"memory": memory, "smp": smp})
            pair.start("primary")
            pair.wait_guest(90)
            pair.start("secondary")
            pair.wait_protected(60)
            control = Control(pair.socket("primary"))
            for size in self.REWRITTEN:
                found[size] = self.checkpoints_of(lab, control, size)
            control.close()
        return found

    def checkpoints_of(self, lab, control, size):
        dirty = f"http://{GUEST}/dirty/"
        large = size > self.REWRITE_MAX
        if large:  # what it takes in one request is less: one word in each page, all the time
            self.load(lab, "http", f"{dirty}{size * 8}?area={size}", "-n", "1")
        self.ask_for(control, PERIOD)
        since = time.time_ns()
        for _ in range(self.TIMES):
            if large:
                time.sleep(PERIOD)  # twice through the area; nothing to wait for
            elif size:
                self.load(lab, "http", f"http://{GUEST}/rewrite/{size}", "-n", "1")
            self.ask(control)
        found = self.taken(control, since)[-self.TIMES:]
        if large:
            self.load(lab, "http", f"{dirty}0", "-n", "1")
        return found

    def go(self):
        self.date = time.time()
        self.load_at_start = os.getloadavg()[0]
        data = {"machine": self.machine(), "profile": []}
        print(f"\n{'guest':<16}{'rewritten':>10}{'pages':>8}"
              + "".join(f"{step:>16}" for step in self.STEPS))
        for memory, smp in self.MACHINES:
            for size, found in self.machine_of(memory, smp).items():
                row = {"memory": memory, "smp": smp, "rewritten": size, "checkpoints": found}
                data["profile"].append(row)
                cells = []
                for step in self.STEPS:
                    values = [entry[f"{step}_us"] / 1000 for entry in found]
                    cells.append(f"{min(values):.2f} / {statistics.median(values):.2f}"
                                 if values else "-")
                pages = statistics.median(entry["pages"] for entry in found) if found else 0
                print(f"{f'{memory} MB, {smp} vCPU':<16}{f'{size} MB':>10}{pages:>8.0f}"
                      + "".join(f"{text:>16}" for text in cells), flush=True)
        print(f"\nms, shortest / median of {self.TIMES}; load at the start {self.load_at_start:.1f}")
        out = Path(self.args.out).resolve()
        out.mkdir(parents=True, exist_ok=True)
        (out / "profile.json").write_text(json.dumps(data, indent=1) + "\n")
        print(f"{out}/profile.json written after {time.monotonic() - self.started:.0f} s")


def scaled(value, unit):
    return None if value is None else value / unit


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values),
            "rounds": len(values)}


def cell(found, decimals):
    if not found:
        return "-"
    median, low, high = (f"{found[key]:.{decimals}f}" for key in ("median", "min", "max"))
    return median if low == high else f"{median} ({low}-{high})"


def shown(values, decimals, unit=""):
    return cell(spread(values), decimals) + unit if values else "-"


def policies():
    """Whether this build has policies: its example configuration names them."""
    done = subprocess.run([str(build_dir() / "colo-proxy"), "check", "--example"],
                          capture_output=True, text=True, timeout=10)
    return "policy" in [line.lstrip("#").split("=")[0].strip() for line in done.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench checkpoint",
        description="Measures what a checkpoint costs beside QEMU's own COLO: pause, commit, bytes "
                    "and processor time, and what clients get meanwhile.",
        epilog="COLO_CACHE (/var/cache/colo-proxy) and COLO_BUILD (build) may name other folders.")
    parser.add_argument("--rounds", type=int, help="(3; --quick: 1)")
    parser.add_argument("--quick", action="store_true",
                        help="one short round over three links: to see that it works")
    parser.add_argument("--profile", action="store_true",
                        help="instead: where colo-proxy's pause goes, step by step, by memory "
                        "rewritten, guest's memory and vCPUs")
    parser.add_argument("--variants", default=",".join(VARIANTS),
                        help=f"some of {','.join(VARIANTS)}")
    parser.add_argument("--guests", default=",".join(GUESTS), help=f"some of {','.join(GUESTS)}")
    parser.add_argument("--links", help=f"some of {','.join(LINKS)}")
    parser.add_argument("--budget", type=int, help="seconds; what does not fit is left out and "
                        "named (1140; --quick: 240)")
    parser.add_argument("--out", default=str(lab_module.TOP / "out/bench"),
                        help="where the results go (out/bench)")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.budget = args.budget or (240 if args.quick else 1140)
    args.links = some(args.links or ("direct,50ms,100mbit" if args.quick else ",".join(LINKS)),
                      LINKS, parser)
    args.guests = some(args.guests, GUESTS, parser)
    args.variants = some(args.variants, VARIANTS, parser)
    if not policies():
        args.variants = [name for name in args.variants if "policy" not in VARIANTS[name][2]]
    if args.rounds < 1 or not args.variants:
        parser.error("at least one round of one variant")
    (Profile if args.profile else CheckpointBench)(args).go()


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"bench: {error}")
