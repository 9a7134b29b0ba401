#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark behind scripts/bench: what protection costs, side by side in one run.

One round runs every variant once, each in a lab of its own, one after the other, since two idle
pairs of VMs on one machine would disturb what is measured; every second round goes backwards. A
figure is compared with the unprotected VM's of the same round; what is shown of a variant is the
median of these ratios with the smallest and the largest.

Nothing waits for ever: every load has a deadline of its own and a second one here. A load that
failed or did not end counts with the rate that it had up to then, and is marked.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import lab as lab_module  # noqa: E402
from lab import Lab, LabError, build_dir, wait_for  # noqa: E402
from lib.pair import LINK_PORT, Pair  # noqa: E402
from lib.bench_plot import plot  # noqa: E402

GUEST = lab_module.GUEST_IP
SECOND_GUEST, SECOND_MAC = "10.77.0.11", "52:54:00:77:00:0b"
RELAY_PORT, STOCK_PORT = 7401, 9000
PREFIX = "colobench"
IDLE_CHECKPOINTS = 20

# name, what the table says
VARIANTS = {
    "alone": "unprotected",
    "alone-batch": "SCHED_BATCH",
    "two": "2 unprotected",
    "stock-tcp": "QEMU's COLO, TCP",
    "stock-unix": "the same, unix",
    "hold-tap": "colo-proxy",
    "nfqueue": "the same, nfqueue",
    "epoch": "policy epoch",
    "on-output": "on-output",
    "continuous": "continuous",
    "auto": "auto",
}
# One VM without protection: as anyone runs QEMU, and in the scheduling class that the daemon gives it.
UNPROTECTED = ("alone", "alone-batch", "two")
# colo-proxy with hold-tap and another policy (docs/policies.md): only when asked for.
POLICIES = ("epoch", "on-output", "continuous", "auto")
DEFAULT = [name for name in VARIANTS if name not in POLICIES]
WITH_POLICIES = ("alone", "stock-tcp", "stock-unix", "hold-tap", *POLICIES)
LATENCY_TARGET_MS = 30  # the default
RANDOM = "http, every answer random, 4"
OURS = ("hold-tap", "nfqueue")
STOCK = ("stock-tcp", "stock-unix")
VERDICT = {True: "met", False: "MISSED", None: ""}


class Loads:
    """The loads of one variant: name -> (arguments of colo-load, unit, how to read the figure)."""

    def __init__(self, quick, policies):
        seconds = 1 if quick else 2
        bulk = 40_000_000 if quick else 100_000_000
        self.quick = quick
        self.all = {}
        for n in (1, 4, 16):
            self._add(f"http, new connections, {n}", "req/s", "rps", "http",
                      "http://{ip}:8080/", "--close", "--allow-errors", "-c", n, "-d", seconds,
                      "--deadline", seconds + 6)
        for n in (1, 4, 16):
            self._add(f"http, kept connections, {n}", "req/s", "rps", "http",
                      "http://{ip}/hello", "--allow-errors", "-c", n, "-d", seconds,
                      "--deadline", seconds + 6)
        if policies:
            self._add(RANDOM, "req/s", "rps", "http", "http://{ip}/random", "--close",
                      "--allow-errors", "-c", 4, "-d", seconds + 1, "--deadline", seconds + 7)
        self._add("download", "MB/s", "MBps", "download", "http://{ip}/", "-b", bulk,
                  "--deadline", 15)
        self._add("upload", "MB/s", "MBps", "upload", "http://{ip}/", "-b", bulk,
                  "--deadline", 15)
        self._add("ping", "ms", "p50", "ping", "{ip}", "-i", 10, "-n", 50 if quick else 100,
                  "--deadline", 8)
        self._add("TCP round trips", "1/s", "rps", "rr", "{ip}", "-d", seconds,
                  "--deadline", seconds + 6)

    def _add(self, name, unit, read, *argv):
        self.all[name] = (unit, read, [str(arg) for arg in argv])


class Progress:
    """What a benchmark says while it runs: to standard error when its results go to standard output."""

    def __init__(self, args):
        self.args = args
        self.started = time.monotonic()
        self.notes = []
        self.out = sys.stderr if getattr(args, "json", False) else sys.stdout

    def say(self, text):
        print(f"[{time.monotonic() - self.started:6.1f}s] {text}", file=self.out, flush=True)

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)
            self.say(f"note: {text}")


def some(text, known, parser):
    """The words of an option that takes some of the known ones."""
    names = text.split(",")
    for name in names:
        if name not in known:
            parser.error(f"{name}: not one of {','.join(known)}")
    return names


class Bench(Progress):
    def __init__(self, args):
        super().__init__(args)
        self.loads = Loads(args.quick, any(name in POLICIES for name in args.variants))
        self.names = [name for name in VARIANTS if name in args.variants]
        self.rounds = []   # [{variant: {load: result}}]
        self.extra = {}

    def left(self):
        return self.args.budget - (time.monotonic() - self.started)

    # --- one load -------------------------------------------------------------------------------

    def spawn(self, lab, name, ip=GUEST):
        argv = [arg.format(ip=ip) for arg in self.loads.all[name][2]]
        return self.spawn_argv(lab, argv)

    @staticmethod
    def spawn_argv(lab, argv):
        return lab.spawn("client", [build_dir() / "tests/colo-load", *argv, "--json"],
                         name="colo-load")

    @staticmethod
    def reap(child, seconds):
        """The load's own report, or what became of it."""
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(5)
            return {"ok": False, "error": f"the load did not end within {seconds} s"}
        child.end_log()
        for line in reversed(child.lines):
            if line.startswith("{"):
                return json.loads(line)
        return {"ok": False, "error": " ".join(child.lines[-2:]) or f"status {child.returncode}"}

    def figure(self, name, report):
        """{value, and what else there is to say} of a report."""
        read = self.loads.all[name][1]
        result = {"ok": bool(report.get("ok")), "errors": report.get("errors", 0),
                  "longest_gap_ms": report.get("longest_gap_ms"), "value": None}
        if read == "p50":
            value = report.get("latency_ms", {}).get("p50")
        else:
            value = report.get(read)
        if value:
            result["value"] = value
        if report.get("latency_ms"):
            result["p99_ms"] = report["latency_ms"].get("p99")
        if report.get("error"):
            result["error"] = report["error"][:200]
        if report.get("lost"):
            result["lost"] = report["lost"]
        return result

    def run(self, lab, name):
        return self.figure(name, self.reap(self.spawn(lab, name), 40))

    # --- variants -------------------------------------------------------------------------------

    def pair(self, lab, variant, delay_ms=0, checkpoint=None, vm=None, flows=None):
        """The two daemons of a variant, not started. With @delay_ms the link between the daemons
        (stock: also that between the two QEMUs) goes through a relay that is so slow one way.
        @checkpoint, @vm, @flows: keys of these sections besides."""
        address = lab_module.REPLICATION_IP
        both = {"checkpoint": dict(checkpoint or {}), "network": {}, "vm": dict(vm or {}),
                "flows": dict(flows or {})}
        primary = {"replication": {}}
        secondary = {"replication": {}}
        if variant not in OURS + POLICIES + ("alone-batch",):
            both["vm"]["scheduling"] = "inherit"
        if variant in UNPROTECTED:
            both["checkpoint"]["comparator"] = "none"
        elif variant in STOCK:
            both["checkpoint"].update({
                "comparator": "qemu", "qemu-base-port": STOCK_PORT,
                "migration-transport": variant.removeprefix("stock-"),
                "migration-path": Path(lab.dir) / "migration.sock",
            })
            primary["replication"]["listen"] = f"{address['primary']}:{LINK_PORT}"
            secondary["replication"]["peer"] = f"{address['primary']}:{LINK_PORT}"
        elif variant in POLICIES:
            both["checkpoint"]["policy"] = variant
        else:
            both["network"]["datapath"] = variant
        if delay_ms:
            primary["replication"]["peer"] = f"{address['primary']}:{RELAY_PORT}"
            lab.delay_relay("primary", f"{address['primary']}:{RELAY_PORT}",
                            f"{address['secondary']}:{LINK_PORT}", delay_ms)
            if variant in STOCK:
                lab.delay_relay("primary", f"{address['primary']}:{STOCK_PORT}",
                                f"{address['secondary']}:{STOCK_PORT}", delay_ms)
        return Pair(lab, both, primary, secondary)

    def bring_up(self, lab, variant, delay_ms=0, warm=True):
        pair = self.pair(lab, variant, delay_ms)
        pair.start("primary")
        pair.wait_guest(60)
        if variant == "two":
            lab.boot_guest("secondary", mac=SECOND_MAC, append=f"colo.ip={SECOND_GUEST}/24")
        if variant not in UNPROTECTED:
            pair.start("secondary")
            pair.wait_protected(30)
        if warm:
            self.warm_up(lab)
        return pair

    def warm_up(self, lab):
        # The first copy of everything that runs in the guest is translated code.
        for argv in (["http", f"http://{GUEST}:8080/", "--close", "--allow-errors", "-c", "2", "-d",
                      "0.4", "--deadline", "5"],
                     ["http", f"http://{GUEST}/hello", "--allow-errors", "-c", "2", "-d", "0.3",
                      "--deadline", "5"]):
            self.reap(self.spawn_argv(lab, argv), 20)

    @staticmethod
    def checkpoints(pair):
        return pair.stats()["checkpoints"]

    def idle_pause(self, pair, variant):
        """Checkpoints of a guest that does nothing, asked for one by one."""
        before = self.checkpoints(pair)
        for _ in range(IDLE_CHECKPOINTS):
            total = self.checkpoints(pair)["total"]
            pair.checkpoint()
            wait_for(lambda: self.checkpoints(pair)["total"] > total, 5,
                     f"{variant}: a checkpoint that was asked for")
        after = self.checkpoints(pair)
        return {"asked": IDLE_CHECKPOINTS, "taken": after["total"] - before["total"],
                "pause_us": after["pause_us"], "commit_us": after["commit_us"]}

    def run_load(self, lab, pair, variant, name):
        before = self.checkpoints(pair) if variant not in UNPROTECTED else None
        if variant == "two":
            children = [self.spawn(lab, name), self.spawn(lab, name, SECOND_GUEST)]
            results = [self.figure(name, self.reap(child, 40)) for child in children]
            result = results[0]
            values = [r["value"] for r in results if r["value"]]
            result["value"] = statistics.mean(values) if values else None
            result["ok"] = all(r["ok"] for r in results)
            return result
        result = self.run(lab, name)
        if before:
            after = self.checkpoints(pair)
            result["checkpoints"] = after["total"] - before["total"]
            result["causes"] = {cause: count - before["cause"][cause]
                                for cause, count in after["cause"].items()
                                if count > before["cause"][cause]}
        return result

    def one(self, variant, number):
        """All loads on one variant; {load: result}."""
        results = {}
        with Lab(PREFIX) as lab:
            try:
                pair = self.bring_up(lab, variant)
            except LabError as error:
                self.note(f"{variant}, round {number}: did not come up: {str(error)[:300]}")
                return results
            for name in self.loads.all:
                try:
                    results[name] = self.run_load(lab, pair, variant, name)
                except (LabError, subprocess.TimeoutExpired, OSError) as error:
                    results[name] = {"ok": False, "value": None, "error": str(error)[:200]}
                result = results[name]
                if not result["ok"]:
                    self.note(f"{variant}, round {number}, {name}: "
                              f"{result.get('error', 'failed')}")
            if variant not in UNPROTECTED:
                self.look_back(pair, variant, number, results)
        return results

    def look_back(self, pair, variant, number, results):
        try:
            results["_stats"] = pair.stats()
            state = pair.state("primary")
        except (LabError, subprocess.TimeoutExpired) as error:
            state = f"silent ({error})"
        if state != "protected":
            self.note(f"{variant}, round {number}: at the end the primary is {state}")

    def all_rounds(self):
        longest = 0  # a round without the unprotected VM has no ratios: it is not begun
        for number in range(1, self.args.rounds + 1):
            order = self.names if number % 2 else self.names[::-1]
            whole = time.monotonic()
            if number > 1 and self.left() < longest:
                self.note(f"out of time: {number - 1} rounds instead of {self.args.rounds}")
                return
            self.rounds.append({})
            for variant in order:
                if self.left() < 60 and number > 1:
                    self.note(f"out of time: round {number} is not complete")
                    return
                began = time.monotonic()
                results = self.one(variant, number)
                self.rounds[-1][variant] = results
                short = results.get("http, new connections, 4", {}).get("value")
                bulk = results.get("download", {}).get("value")
                self.say(f"round {number}/{self.args.rounds}: {VARIANTS[variant]}: "
                         f"{short or 0:.0f} req/s with 4 new connections, download "
                         f"{bulk or 0:.0f} MB/s ({time.monotonic() - began:.0f} s)")
            longest = max(longest, time.monotonic() - whole)

    # --- single measurements --------------------------------------------------------------------

    def needless(self, lab, pair, path, requests):
        """Requests on 4 connections at a time, each one new, to @path."""
        before = self.checkpoints(pair)
        report = self.reap(self.spawn_argv(
            lab, ["http", f"http://{GUEST}{path}", "--close", "--allow-errors", "-c", "4", "-n",
                  str(requests), "--deadline", "30"]), 60)
        after = self.checkpoints(pair)
        causes = {cause: count - before["cause"][cause]
                  for cause, count in after["cause"].items() if count > before["cause"][cause]}
        wanted = sum(causes.get(cause, 0) for cause in ("timer", "command", "initial", "dirty"))
        return {"requests": report.get("requests", 0), "ok": report.get("ok"),
                "error": report.get("error"), "seconds": report.get("seconds"),
                "checkpoints": after["total"] - before["total"], "causes": causes,
                "needless": after["total"] - before["total"] - wanted}

    def quiet(self, variant, delay_ms):
        """Pauses of an idle guest, and needless checkpoints (without a delay)."""
        found = {}
        with Lab(PREFIX) as lab:
            try:
                pair = self.bring_up(lab, variant, delay_ms, warm=False)
                time.sleep(1)  # the guest is at rest; nothing to wait for
                found["idle"] = self.idle_pause(pair, variant)
                if not delay_ms:
                    found["needless"] = self.needless(lab, pair, "/hello", 1000)
                    # Not quite identical: its Date changes once a second.
                    found["httpd"] = self.needless(lab, pair, ":8080/",
                                                   200 if self.args.quick else 1000)
            except (LabError, subprocess.TimeoutExpired, OSError) as error:
                found["error"] = str(error)[:300]
                self.note(f"{variant}, pauses{f', {delay_ms} ms delay' if delay_ms else ''}: "
                          f"{found['error']}")
        return found

    def cut(self, number):
        """A power cut under a request loop and a download; what the client saw."""
        with Lab(PREFIX) as lab:
            pair = self.bring_up(lab, "hold-tap")
            children = {
                "keepalive": self.spawn_argv(lab, ["keepalive", f"http://{GUEST}", "-d", "4",
                                                   "-i", "2", "--check-log", "--deadline", "20"]),
                "download": self.spawn_argv(lab, ["download", f"http://{GUEST}/", "-b", "60000000",
                                                  "-r", "20000000", "--deadline", "20"]),
            }
            time.sleep(random.Random(number).uniform(0.8, 1.8))  # the moment is part of the test
            lab.power_cut("primary")
            reports = {name: self.reap(child, 40) for name, child in children.items()}
            takeover = (pair.status("secondary") or {}).get("takeover", {})
        gaps = {name: report.get("longest_gap_ms") for name, report in reports.items()}
        return {"ok": all(report.get("ok") for report in reports.values()),
                "stall_ms": max(gap or 0 for gap in gaps.values()), "gaps": gaps,
                "takeover": takeover,
                "errors": [report["error"] for report in reports.values() if report.get("error")]}

    def singles(self):
        quiet = self.extra["quiet"] = {}
        for variant in self.names:
            if variant in UNPROTECTED or self.left() < 40:
                continue
            quiet[variant] = self.quiet(variant, 0)
            self.say(f"{VARIANTS[variant]}: {describe_quiet(quiet[variant])}")
        delayed = self.extra["delayed"] = {}
        for variant in ("stock-tcp", "hold-tap"):
            if variant in self.names and self.left() > 30:
                delayed[variant] = self.quiet(variant, 100)
                self.say(f"{VARIANTS[variant]}, 100 ms delay on the replication link: "
                         f"{describe_quiet(delayed[variant])}")
        cuts = self.extra["cuts"] = []
        for number in range(self.args.cuts if "hold-tap" in self.names else 0):
            if self.left() < 20:
                self.note(f"out of time: {number} power cuts instead of {self.args.cuts}")
                break
            try:
                cuts.append(self.cut(number))
            except (LabError, subprocess.TimeoutExpired, OSError) as error:
                cuts.append({"ok": False, "stall_ms": None, "errors": [str(error)[:300]]})
            self.say(f"power cut {number + 1}/{self.args.cuts}: "
                     + (f"stall {cuts[-1]['stall_ms']:.0f} ms" if cuts[-1]["stall_ms"] else "")
                     + ("" if cuts[-1]["ok"] else f" FAILED {'; '.join(cuts[-1]['errors'])}"))

    # --- evaluation -----------------------------------------------------------------------------

    def ratios(self, variant, name, base="alone"):
        """Of each round, to the base's figure in the same round; 1 is as good, less is worse."""
        inverse = self.loads.all[name][1] == "p50"
        out = []
        for results in self.rounds:
            mine = results.get(variant, {}).get(name, {}).get("value")
            other = results.get(base, {}).get(name, {}).get("value")
            if other and name in results.get(variant, {}):
                out.append(0.0 if not mine else other / mine if inverse else mine / other)
        return out

    def failures(self, variant, name):
        return sum(1 for results in self.rounds
                   if name in results.get(variant, {}) and not results[variant][name]["ok"])

    def table(self):
        """{load: {variant: {min, median, max, failed}}} and the base's median figure."""
        out = {}
        for name, (unit, _, _) in self.loads.all.items():
            base = [r["alone"][name]["value"] for r in self.rounds
                    if r.get("alone", {}).get(name, {}).get("value")]
            row = out[name] = {"unit": unit, "base": statistics.median(base) if base else None,
                               "variants": {}}
            for variant in self.names:
                ratios = self.ratios(variant, name)
                if variant != "alone" and ratios:
                    row["variants"][variant] = {
                        "min": min(ratios), "median": statistics.median(ratios),
                        "max": max(ratios), "failed": self.failures(variant, name)}
        return out

    def policy_targets(self, out):
        """What is asked of the policies, when they were measured."""
        if RANDOM not in self.loads.all:
            return
        ratios = self.ratios("epoch", "http, new connections, 4")
        if ratios:
            median = statistics.median(ratios)
            out.append(("http, new connections, 4, of unprotected (policy epoch)", ">= 50%",
                        f"{median:.0%} ({min(ratios):.0%} to {max(ratios):.0%})", median >= 0.5))
        p99 = [results["epoch"][name]["p99_ms"] for results in self.rounds
               for name in ("http, new connections, 4",)
               if results.get("epoch", {}).get(name, {}).get("p99_ms")]
        if p99:
            limit = 3 * LATENCY_TARGET_MS
            out.append((f"p99 of the same, latency-target {LATENCY_TARGET_MS} ms", f"< {limit} ms",
                        f"{statistics.median(p99):.0f} ms", statistics.median(p99) < limit))
        ratios = self.ratios("auto", RANDOM, base="stock-tcp")
        if ratios:
            median = statistics.median(ratios)
            out.append((f"{RANDOM}, of QEMU's COLO (auto)", ">= 3 times",
                        f"{median:.1f} times ({min(ratios):.1f} to {max(ratios):.1f})",
                        median >= 3))

    def targets(self):
        """[(what, target, measured, met or None)]"""
        out = []
        http = "http, new connections, 4"

        def ratio(variant, name, least):
            ratios = self.ratios(variant, name)
            if ratios:
                median = statistics.median(ratios)
                out.append((f"{name}, of unprotected ({variant})", f">= {least:.0%}",
                            f"{median:.0%} ({min(ratios):.0%} to {max(ratios):.0%})",
                            median >= least))
            ratios = self.ratios(variant, name, base="alone-batch")
            if ratios:
                out.append((f"the same, unprotected in SCHED_BATCH as well ({variant})", "",
                            f"{statistics.median(ratios):.0%} ({min(ratios):.0%} to "
                            f"{max(ratios):.0%})", None))

        for variant in OURS:
            ratio(variant, http, 0.6)
            times = self.ratios(variant, http, base="stock-tcp")
            if times:
                median = statistics.median(times)
                out.append((f"{http}, of QEMU's COLO ({variant})", ">= 4 times",
                            f"{median:.1f} times ({min(times):.1f} to {max(times):.1f})",
                            median >= 4))
            ratio(variant, "download", 0.6)
        self.policy_targets(out)
        for variant, found in self.extra.get("quiet", {}).items():
            if variant in OURS and "idle" in found:
                pause = found["idle"]["pause_us"]["p50"] / 1000
                out.append((f"pause of a near-idle guest, median ({variant})", "<= 5 ms",
                            f"{pause:.1f} ms", pause <= 5))
            if variant in OURS and "needless" in found:
                needless = found["needless"]
                enough = needless["requests"] >= 1000
                out.append((f"needless checkpoints, {needless['requests']} identical answers "
                            f"({variant})", "< 5", f"{needless['needless']}",
                            needless["needless"] < 5 and enough))
        found = self.extra.get("delayed", {}).get("hold-tap", {})
        if "idle" in found:
            pause = found["idle"]["pause_us"]["p50"] / 1000
            out.append(("the same pause, replication link 100 ms slower (hold-tap)", "<= 5 ms",
                        f"{pause:.1f} ms", pause <= 5))
        cuts = self.extra.get("cuts", [])
        stalls = [cut["stall_ms"] for cut in cuts if cut["stall_ms"]]
        if cuts:
            whole = sum(1 for cut in cuts if cut["ok"])
            median = statistics.median(stalls) if stalls else float("inf")
            out.append(("stall at a power cut, median", "< 1000 ms", f"{median:.0f} ms",
                        median < 1000))
            out.append(("power cuts with nothing lost or corrupted", "all",
                        f"{whole} of {len(cuts)}", whole == len(cuts)))
        return out

    # --- output ---------------------------------------------------------------------------------

    def print_table(self):
        shown = [variant for variant in self.names if variant != "alone"]
        print("\nRatio to the unprotected VM in the same round: median (smallest-largest) of "
              f"{len(self.rounds)} rounds. 1.00 is as good; less is worse.\n")
        print(f"{'load':<28}{'unprotected':>15}" + "".join(f"{VARIANTS[v]:>20}" for v in shown))
        for name, row in self.table().items():
            base = f"{row['base']:.4g} {row['unit']}" if row["base"] else "-"
            cells = []
            for variant in shown:
                cell = row["variants"].get(variant)
                text = "-" if not cell else \
                    f"{cell['median']:.2f} ({cell['min']:.2f}-{cell['max']:.2f})" \
                    + ("!" if cell["failed"] else " ")
                cells.append(f"{text:>20}")
            print(f"{name:<28}{base:>15}" + "".join(cells))
        print("\n! in some round it failed or did not end in time; what it had done counts "
              "(see the notes)")

    def print_checkpoints(self):
        print("\nCheckpoints in each load, of all rounds: number; and the pause over all loads\n")
        shown = [v for v in self.names if v not in UNPROTECTED]
        print(f"{'load':<28}" + "".join(f"{VARIANTS[v]:>20}" for v in shown))
        for name in self.loads.all:
            print(f"{name:<28}" + "".join(
                f"{'/'.join(str(r[v][name]['checkpoints']) if r.get(v, {}).get(name, {}).get('checkpoints') is not None else '-' for r in self.rounds):>20}"
                for v in shown))
        cells = []
        for variant in shown:
            stats = [r[variant]["_stats"]["checkpoints"]["pause_us"] for r in self.rounds
                     if "_stats" in r.get(variant, {})]
            cells.append("-" if not stats else
                         f"{statistics.median(s['p50'] for s in stats) / 1000:.1f} / "
                         f"{max(s['max'] for s in stats) / 1000:.1f} ms")
        print(f"{'pause, median / longest':<28}" + "".join(f"{cell:>20}" for cell in cells))

    def print_singles(self):
        if not self.extra:
            return
        print("\nPauses of a near-idle guest; checkpoints of 1,000 identical answers on 4 new "
              "connections at a\ntime, and of as many of busybox httpd, whose Date changes once a "
              "second\n")
        for kind, text in (("quiet", ""), ("delayed", ", replication link 100 ms slower")):
            for variant, found in self.extra.get(kind, {}).items():
                print(f"  {VARIANTS[variant] + text:<52}{describe_quiet(found)}")
        cuts = self.extra.get("cuts", [])
        stalls = sorted(cut["stall_ms"] for cut in cuts if cut["stall_ms"])
        if stalls:
            print(f"\nPower cuts: {len(cuts)}, stall {stalls[0]:.0f} / "
                  f"{statistics.median(stalls):.0f} / {stalls[-1]:.0f} ms "
                  "(shortest / median / longest)")

    def print_targets(self):
        print(f"\n{'target':<62}{'asked':>12}{'measured':>26}")
        for what, target, measured, met in self.targets():
            print(f"{what:<62}{target:>12}{measured:>26}  {VERDICT[met]}")
        for text in self.notes:
            print(f"note: {text}")

    def machine(self):
        model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                      if line.startswith("model name")), "unknown")
        version = subprocess.run([str(build_dir() / "colo-proxy"), "version"],
                                 capture_output=True, text=True, timeout=10)
        return {"cpus": os.cpu_count(), "cpu": model, "kernel": os.uname().release,
                "load_at_start": self.load_at_start, "version": version.stdout.strip(),
                "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.date))}

    def plan(self):
        """What is going to be done, in one line; "": nothing to say."""
        return (f"{self.args.rounds} rounds of {len(self.names)} variants, "
                f"{len(self.loads.all)} loads each; {self.args.cuts} power cuts")

    def work(self):
        if "singles" in self.args.parts:
            self.singles()
        if "rounds" in self.args.parts:
            self.all_rounds()

    def go(self):
        """Measures, and writes what there is, however that ends."""
        self.date = time.time()
        self.load_at_start = os.getloadavg()[0]
        if self.load_at_start > 0.5:
            self.note(f"the machine has a load of {self.load_at_start:.1f} already: figures will "
                      "vary")
        if self.plan():
            self.say(self.plan())
        complete = False
        try:
            self.work()
            complete = True
        finally:
            if not complete:
                self.note("the run was interrupted")
            self.write()

    def write(self):
        out = Path(self.args.out).resolve()
        out.mkdir(parents=True, exist_ok=True)
        if self.rounds:
            self.print_table()
            self.print_checkpoints()
        self.print_singles()
        self.print_targets()
        data = {"machine": self.machine(), "quick": self.args.quick, "rounds": self.rounds,
                "extra": self.extra, "table": self.table(), "notes": self.notes,
                "targets": [dict(zip(("what", "target", "measured", "met"), row))
                            for row in self.targets()]}
        (out / "bench.json").write_text(json.dumps(data, indent=1) + "\n")
        (out / "bench.svg").write_text(plot(data, VARIANTS))
        print(f"\n{out}/bench.json and bench.svg written after "
              f"{time.monotonic() - self.started:.0f} s")


def describe_quiet(found):
    if "error" in found:
        return found["error"][:100]
    pause = found["idle"]["pause_us"]
    text = f"pause {pause['p50'] / 1000:.1f} ms median, {pause['max'] / 1000:.1f} longest"
    for kind, server in (("needless", ""), ("httpd", " of httpd")):
        needless = found.get(kind)
        if not needless:
            continue
        causes = ", ".join(f"{cause} {count}" for cause, count in needless["causes"].items())
        text += (f"; {needless['requests']} requests{server}: {needless['checkpoints']} checkpoints"
                 f"{f' ({causes})' if causes else ''} in {needless['seconds'] or 0:.0f} s"
                 + ("" if needless["ok"] else f", FAILED: {needless['error']}"))
    return text


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures the VM unprotected, two of them at once, QEMU's own COLO over TCP "
                    "and over a unix socket, and colo-proxy with both data paths, in turns.",
        epilog="COLO_CACHE (/var/cache/colo-proxy) and COLO_BUILD (build) may name other folders.")
    parser.add_argument("--rounds", type=int, help="rounds over all variants (3; --quick: 1)")
    parser.add_argument("--quick", action="store_true", help="shorter loads, for a first look")
    parser.add_argument("--cuts", type=int, help="power cuts (5; --quick: 1)")
    parser.add_argument("--variants", default=",".join(DEFAULT),
                        help=f"some of {','.join(VARIANTS)} (without the policies)")
    parser.add_argument("--policies", action="store_true",
                        help=f"the same as --variants {','.join(WITH_POLICIES)}")
    parser.add_argument("--parts",
                        help="some of rounds,singles (pauses, needless checkpoints, power cuts); "
                        "both, with --policies rounds alone")
    parser.add_argument("--budget", type=int, help="seconds; what does not fit is left out "
                        "and named (840; --quick: 220)")
    parser.add_argument("--out", default=str(lab_module.TOP / "out/bench"),
                        help="where the results go (out/bench)")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.cuts = args.cuts if args.cuts is not None else 1 if args.quick else 5
    args.budget = args.budget or (220 if args.quick else 840)
    args.variants = (list(WITH_POLICIES) if args.policies
                     else some(args.variants, VARIANTS, parser))
    args.parts = (args.parts or ("rounds" if args.policies else "rounds,singles")).split(",")
    if args.rounds < 1:
        parser.error("at least one round")
    Bench(args).go()


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"bench: {error}")
