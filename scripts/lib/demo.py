#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The demonstration behind scripts/demo: a client that does not notice its primary dying.

Everything that is printed as a result was measured by the client's programs (colo-load), by the two
daemons (`colo-proxy stats` and `status`), or by this program's clock. All of them use one machine's
CLOCK_REALTIME, so their times can be set side by side.
"""
import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import lab as lab_module  # noqa: E402
from lab import Lab, LabError, build_dir, wait_for  # noqa: E402
from lib.pair import Pair  # noqa: E402

PREFIX = "colodemo"
MB = 1000 * 1000
URL = f"http://{lab_module.GUEST_IP}"
DEADLINE = 180  # seconds that a load may take, the power cut included


class Screen:
    """Lines with the seconds since the script began; colour on a terminal only."""

    def __init__(self):
        self.started = int(os.environ.get("COLO_STARTED", time.time_ns()))
        self.colour = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" \
            and "NO_COLOR" not in os.environ
        self._lock = threading.Lock()

    def paint(self, code, text):
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def line(self, text=""):
        with self._lock:
            print(text, flush=True)

    def say(self, text):
        self.line(f"[{(time.time_ns() - self.started) / 1e9:5.1f}s] {text}")

    def title(self, text):
        self.line()
        self.line(self.paint("1", text))

    def verdict(self, good, text):
        word = self.paint("1;32", "ok    ") if good else self.paint("1;31", "FAILED")
        self.line(f"  {word} {text}")


class Load:
    """A colo-load on the client's host, its progress, and its result."""

    def __init__(self, lab, title, *argv):
        self.title = title
        self.child = lab.spawn("client", [build_dir() / "tests/colo-load", *argv, "--json",
                                          "--progress", "100"], name=f"load-{argv[0]}")
        self._read = 0
        self.last = {"bytes": 0, "requests": 0}

    def progress(self):
        """The newest progress line; zeros before the first."""
        lines = self.child.lines
        while self._read < len(lines):
            line = lines[self._read]
            self._read += 1
            if line.startswith('{"event"'):
                self.last = json.loads(line)
        return self.last

    def result(self, seconds):
        """Wait for the end; the final report, with `exit` and, when it has none, `error`."""
        try:
            status = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            return {"ok": False, "error": f"not finished within {seconds:.0f} s", "bytes":
                    self.progress()["bytes"], "requests": self.progress()["requests"]}
        self.child.end_log()
        for line in reversed(self.child.lines):
            if line.startswith('{"mode"'):
                report = json.loads(line)
                report["exit"] = status
                if status and "error" not in report:
                    report["error"] = f"exit status {status}"
                return report
        return {"ok": False, "error": f"exit status {status}: "
                + " ".join(self.child.lines[-3:]), "bytes": 0, "requests": 0}


class Watch:
    """`colo-proxy stats --watch`, shown line by line as it comes."""

    def __init__(self, lab, pair, host, screen):
        self.screen = screen
        # On the client's host, as a person would watch from elsewhere: a power cut spares it.
        self.child = lab.spawn("client", [build_dir() / "colo-proxy", "stats", "--watch",
                                          "--socket", pair.socket(host)], name="stats")
        self._shown = 0

    def show(self):
        lines = self.child.lines
        while self._shown < len(lines):
            self.screen.line("    " + lines[self._shown])
            self._shown += 1

    def stop(self):
        self.child.stop()
        self.child.end_log()


def ms(ns):
    return f"{ns / 1e6:.0f} ms"


def us(value):
    return f"{value} us" if value < 1000 else f"{value / 1000:.1f} ms"


def mbytes(value):
    return f"{value / MB:.0f} MB"


class Demo:
    def __init__(self, args, screen):
        self.args = args
        self.screen = screen
        self.bad = []
        self.loads = {}
        quick = args.quick
        self.down, self.down_rate = (200 * MB, 25 * MB) if quick else (400 * MB, 25 * MB)
        self.up, self.up_rate = (16 * MB, 2 * MB) if quick else (100 * MB, 6 * MB)
        self.cut_after = self.down / 2

    def check(self, good, text):
        self.screen.verdict(good, text)
        if not good:
            self.bad.append(text)

    # --- steps ----------------------------------------------------------------------------------

    def start_primary(self, lab):
        self.screen.title("A VM on the primary, not protected yet")
        self.pair = Pair(lab, {"network": {"datapath": self.args.datapath},
                               # So that a short demonstration has some checkpoints to show.
                               "checkpoint": {"longest-epoch": 2000}},
                         # Nobody else can have the VM: do not look for a secondary for long.
                         primary={"replication": {"boot-wait": 1000}})
        self.pair.start("primary")
        self.screen.say(f"primary:   colo-proxy start --config {self.pair.config['primary']}")
        self.pair.wait_state("primary", "unprotected", 30)
        self.pair.wait_guest(60)
        self.screen.say(f"the VM is up at {lab_module.GUEST_IP} under "
                        f"QEMU {self.pair.status('primary')['qemu_version']}")
        self.loads["old"] = Load(
            lab, "keep-alive requests, opened before protection", "keepalive", URL, "--interval",
            "20", "--id", "old", "--check-log", "--duration", str(DEADLINE), "--deadline",
            str(DEADLINE + 60))
        wait_for(lambda: self.loads["old"].progress()["requests"] > 0, 20, "the first request")
        self.screen.say("client:    a connection is open; it will stay open to the end")

    def start_secondary(self):
        self.screen.title("Protection begins")
        self.pair.start("secondary")
        began = time.monotonic()
        self.screen.say(f"secondary: colo-proxy start --config {self.pair.config['secondary']}")
        self.pair.wait_protected(60)
        self.screen.say(f"protected, {time.monotonic() - began:.1f} s after the secondary's start")

    def start_loads(self, lab):
        self.screen.title("Clients at work")
        end = ["--deadline", str(DEADLINE)]
        self.loads["down"] = Load(lab, "download", "download", URL, "--bytes", str(self.down),
                                  "--rate", str(self.down_rate), *end)
        self.loads["up"] = Load(lab, "upload", "upload", URL, "--bytes", str(self.up), "--rate",
                                str(self.up_rate), *end)
        self.loads["new"] = Load(lab, "echo loop, opened under protection", "rr",
                                 lab_module.GUEST_IP, "--interval", "20", "--duration",
                                 str(DEADLINE), "--deadline", str(DEADLINE + 60))
        self.screen.say(f"download of {mbytes(self.down)} at up to {mbytes(self.down_rate)}/s, "
                        f"upload of {mbytes(self.up)} at up to {mbytes(self.up_rate)}/s, "
                        "and a loop of small echoes")
        self.screen.say("primary:   colo-proxy stats --watch")

    def watch_until_the_middle(self, lab):
        watch = Watch(lab, self.pair, "primary", self.screen)

        def middle():
            watch.show()
            for load in self.loads.values():
                if load.child.poll() is not None:
                    raise LabError(f"{load.title}: ended before the power cut: "
                                   + str(load.result(1).get("error")))
            return self.loads["down"].progress()["bytes"] >= self.cut_after

        wait_for(middle, DEADLINE, "the middle of the download")
        # The primary's last words, for the summary.
        self.stats = self.pair.stats()
        return watch

    def power_cut(self, lab):
        self.before = {name: dict(load.progress()) for name, load in self.loads.items()}
        self.cut_ns = time.time_ns()
        lab.power_cut("primary")
        self.screen.line()
        self.screen.say(self.screen.paint("1;31", "POWER CUT of the primary")
                        + f": {mbytes(self.before['down']['bytes'])} downloaded, "
                        f"{mbytes(self.before['up']['bytes'])} uploaded")

    def wait_takeover(self):
        self.pair.wait_state("secondary", "unprotected", 30)
        self.status = self.pair.status("secondary")
        self.screen.say("the secondary has taken over by itself: "
                        + self.status["last_event"])

    def finish_loads(self):
        self.results = {}
        for name in ("down", "up"):
            self.results[name] = self.loads[name].result(DEADLINE + 10)
            self.screen.say(f"{self.loads[name].title} finished")
        for name in ("old", "new"):
            self.loads[name].child.terminate()
        for name in ("old", "new"):
            self.results[name] = self.loads[name].result(60)
        self.after = self.pair.stats("secondary")

    # --- what came of it ------------------------------------------------------------------------

    def report_timeline(self):
        fact = self.status["takeover"]
        self.screen.title("Timeline, from the power cut on")
        rows = [("last heartbeat of the primary", fact["last_heard_ns"]),
                ("the secondary notices the loss", fact["detected_ns"]),
                ("the fence has proven the primary off", fact["fenced_ns"]),
                ("the VM speaks from the secondary", fact["live_ns"])]
        for name, result in self.results.items():
            if "longest_gap_ms" in result:
                end = result["longest_gap_at_ns"] + int(result["longest_gap_ms"] * 1e6)
                if result["longest_gap_at_ns"] < fact["live_ns"] and end > fact["detected_ns"]:
                    rows.append((f"{self.loads[name].title} goes on", end))
        for text, at in sorted(rows, key=lambda row: row[1]):
            self.screen.line(f"  {(at - self.cut_ns) / 1e6:+9.1f} ms  {text}")

    def report_clients(self):
        self.screen.title("What the clients saw")
        for name, result in self.results.items():
            title = self.loads[name].title
            if not result.get("ok") or result.get("exit"):
                self.check(False, f"{title}: {result.get('error', 'failed')}")
                continue
            stall = f"longest stall {result['longest_gap_ms']:.0f} ms"
            if name == "down":
                text = (f"{result['bytes']} bytes, each compared with the stream expected, "
                        f"{result['wrong']} wrong, {stall}")
            elif name == "up":
                text = f"{result['bytes']} bytes, the VM's checksum is the client's, {stall}"
            elif name == "old":
                text = (f"{result['requests']} requests on one connection, each answered and "
                        f"carried out exactly once, {stall}")
            else:
                text = f"{result['requests']} round trips on one connection, {stall}"
            self.check(not result["wrong"] and not result["errors"], f"{title}: {text}")
        self.check(self.results["down"]["bytes"] == self.down
                   and self.before["down"]["bytes"] < self.down,
                   "the download began before the power cut and ended after it")

    def report_takeover(self):
        fact = self.status["takeover"]
        self.screen.title("Takeover")
        self.screen.line(f"  loss noticed        {ms(fact['detected_ns'] - self.cut_ns)} "
                         "after the power cut")
        self.screen.line(f"  fence               {ms(fact['fenced_ns'] - fact['detected_ns'])}")
        self.screen.line(f"  VM speaking again   {ms(fact['live_ns'] - self.cut_ns)} "
                         f"after the power cut, from checkpoint {fact['lineage']}")
        self.check(0 < fact["detected_ns"] <= fact["fenced_ns"] <= fact["live_ns"],
                   "noticed, then fenced, then spoke")

    def report_protection(self):
        stats = self.stats
        points, total = stats["checkpoints"], stats["traffic"]["total"]
        self.screen.title("Protection, until the power cut")
        causes = ", ".join(f"{name} {n}" for name, n in points["cause"].items() if n)
        self.screen.line(f"  checkpoints         {points['total']}: {causes or 'none'}")
        if points["pause_us"]["count"]:
            self.screen.line(f"  pause               median {us(points['pause_us']['p50'])}, "
                             f"longest {us(points['pause_us']['max'])}")
        self.screen.line(f"  paused              {points['paused_permille'] / 10:.1f} % of the time")
        self.screen.line(f"  output held         {total['held']['packets']} packets, "
                         f"{mbytes(total['held']['bytes'])}; median {us(total['hold_us']['p50'])}, "
                         f"longest {us(total['hold_us']['max'])}")
        self.screen.line(f"  released            {total['released_match']['packets']} because the "
                         f"secondary said the same, {total['released_commit']['packets']} by a "
                         "later checkpoint")
        self.screen.line(f"  compared            {total['mismatched']['packets']} packets differed, "
                         f"the secondary was late with {total['late']['packets']}")
        self.check(total["released_match"]["packets"] > 0, "output was released by comparison")

    def run(self, lab):
        self.start_primary(lab)
        self.start_secondary()
        self.start_loads(lab)
        watch = self.watch_until_the_middle(lab)
        self.power_cut(lab)
        watch.show()
        self.wait_takeover()
        self.finish_loads()
        watch.stop()
        self.report_timeline()
        self.report_clients()
        self.report_takeover()
        self.report_protection()


def show_logs(lab, pair, screen):
    """After a failure: what the daemons said last."""
    for host, child in (pair.daemon if pair else {}).items():
        screen.title(f"The end of {host}'s log")
        screen.line(child.log.read_text(errors="replace")[-3000:].rstrip())


def left_behind():
    """What of this demonstration is still on the machine."""
    names = [name for name in os.listdir("/run/netns") if name.startswith(PREFIX + "-")] \
        if os.path.isdir("/run/netns") else []
    names += [str(path) for path in lab_module.RUN.glob(PREFIX + "*")]
    # The daemons' and the VMs' command lines name the run directory.
    run = str(lab_module.RUN / PREFIX).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if run in path.read_bytes():
                names.append(f"process {path.parent.name}")
    return names


def keep(lab, demo, screen):
    screen.title("--keep: the survivor runs on")
    screen.line(f"  scripts/lab.py exec {PREFIX} client curl {URL}/hello")
    screen.line(f"  {build_dir() / 'colo-proxy'} status --socket {demo.pair.socket('secondary')}")
    screen.line(f"  logs are in {lab.dir}")
    screen.line("  Ctrl-C ends it")
    demo.pair.daemon["secondary"].wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--datapath", choices=("hold-tap", "nfqueue"), default="hold-tap")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    screen = Screen()
    demo = Demo(args, screen)
    demo.pair = None

    screen.title("Three hosts: client, primary, secondary")
    try:
        with Lab(PREFIX) as lab:
            screen.say(f"network namespaces {', '.join(lab.ns(h) for h in lab_module.HOSTS)}; "
                       "a bridge on each host, and a replication link between the two")
            try:
                demo.run(lab)
            except LabError as error:
                screen.line()
                demo.check(False, str(error))
            if demo.bad:
                show_logs(lab, demo.pair, screen)
            elif args.keep:
                try:
                    keep(lab, demo, screen)
                except SystemExit:
                    pass
    except LabError as error:
        demo.check(False, str(error))
    except SystemExit as signalled:  # Ctrl-C; the lab has been removed
        screen.line()
        screen.say("interrupted; left behind: " + (", ".join(left_behind()) or "nothing"))
        return signalled.code
    screen.title("Afterwards")
    left = left_behind()
    demo.check(not left, "nothing left behind" + (f": but {', '.join(left)}" if left else ""))
    screen.line()
    screen.say(screen.paint("1;31", "FAILED") if demo.bad else screen.paint("1;32", "all well"))
    return 1 if demo.bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # `| head`; the lab has been removed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
