#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark behind scripts/bench compare: the comparison engine beside QEMU's colo-compare.

Four contenders get the same packets (tests/tools/compare_load.h), one after the other, each alone
on the last processor while the feeder has the first:

  core     the gate, the shadow and the digests' codec in one process, called, without any I/O
  served   the same behind QEMU's sockets: be32 length, frame; p and s in, o out
  qemu     colo-compare of a QEMU that has nothing else (-machine none)
  sockets  QEMU's filter-redirector in its place: p goes to o and s to nothing, uncompared

One round runs every case with every contender; every second round goes backwards. A ratio is taken
between contenders of the same round and case; shown are the median, the smallest and the largest.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import lab as lab_module  # noqa: E402
from lab import LabError, build_dir, cache_dir, wait_for  # noqa: E402
from lib.bench import Progress  # noqa: E402
from lib.bench_compare_plot import plot  # noqa: E402

CONTENDERS = {
    "core": "colo-proxy, core",
    "served": "colo-proxy, sockets",
    "qemu": "QEMU's colo-compare",
    "sockets": "QEMU's sockets alone",
}
FLOWS = (1, 1000, 16000, 1000000)  # 16000: about what QEMU's table holds
PAYLOADS = (64, 1448)
TARGET_RATIO, TARGET_P99_NS = 10, 20000
QEMU_TABLE = 16384   # connections that colo-compare knows at most; then it forgets all
MEMORY_FLOWS = 16000


class Contender:
    """A comparator in a process of its own, in a folder with its sockets."""

    def __init__(self, name, cpu):
        self.folder = tempfile.TemporaryDirectory(prefix="colo-compare-")
        self.dir = self.folder.name
        argv, sockets = self.command(name)
        self.log = open(Path(self.dir) / "log", "w+", encoding="utf-8")
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log,
                                      stderr=subprocess.STDOUT,
                                      preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))
        try:
            wait_for(lambda: self.child.poll() is not None or
                     all((Path(self.dir) / name).exists() for name in sockets), 20,
                     f"the sockets of {name}")
            if self.child.poll() is not None:
                raise LabError(f"{name} ended at once: {self.said()}")
        except LabError:
            self.close()
            raise

    def command(self, name):
        if name == "served":
            return [build_dir() / "tests/compare-feed", "serve", self.dir], "pso"
        def socket(letter):
            return ["-chardev", f"socket,id={letter},path={self.dir}/{letter},server=on,wait=off"]
        argv = [cache_dir() / "qemu/bin/qemu-system-x86_64", "-machine", "none", "-nodefaults",
                "-display", "none", *socket("p"), *socket("s"), *socket("o")]
        if name == "qemu":
            return [*argv, *socket("n"), "-object", "iothread,id=io0", "-object",
                    "colo-compare,id=c0,primary_in=p,secondary_in=s,outdev=o,notify_dev=n,"
                    "iothread=io0"], "pson"
        # Two filters on each side of a hub: what the first one reads the second one takes.
        return [*argv, "-chardev", "null,id=z", "-netdev", "user,id=n0", "-netdev",
                "hubport,id=h0,hubid=0,netdev=n0",
                "-object", "filter-redirector,id=f0,netdev=n0,queue=tx,indev=p",
                "-object", "filter-redirector,id=f1,netdev=n0,queue=tx,outdev=o",
                "-object", "filter-redirector,id=f2,netdev=h0,queue=tx,indev=s",
                "-object", "filter-redirector,id=f3,netdev=h0,queue=tx,outdev=z"], "pso"

    def said(self):
        self.log.flush()
        self.log.seek(0)
        return " ".join(self.log.read().split())[-300:]

    def memory(self):
        """Resident bytes."""
        for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self.log.close()
        self.folder.cleanup()


class Bench(Progress):
    def __init__(self, args):
        super().__init__(args)
        self.cpus = sorted(os.sched_getaffinity(0))
        self.rounds = []  # [{case: {contender: result}}]
        self.qemu_memory = None
        self.cases = [(flows, payload, different) for flows in args.flows
                      for payload in PAYLOADS for different in (False, True)]

    # --- measuring ------------------------------------------------------------------------------

    def tool(self, argv, cpu, seconds=120):
        """Runs one of the tools on @cpu and reads the line of JSON that it says."""
        done = subprocess.run([str(arg) for arg in argv], capture_output=True, text=True,
                              timeout=seconds, check=False,
                              preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))
        if done.returncode != 0:
            raise LabError(f"{Path(argv[0]).name}: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout)

    def load(self, case, number):
        flows, payload, different = case
        return ["--flows", flows, "--payload", payload, "--seed", self.args.seed + number,
                *(["--different"] if different else [])]

    def core(self, case, number):
        packets = self.args.packets * 2
        return self.tool([build_dir() / "tests/compare-bench", *self.load(case, number),
                          "--packets", packets, "--latency-packets", self.args.packets // 10],
                         self.cpus[-1])

    def behind_sockets(self, name, case, number):
        contender = Contender(name, self.cpus[-1])
        try:
            return self.tool([build_dir() / "tests/compare-feed", "feed", contender.dir,
                              *self.load(case, number), "--packets", self.args.packets,
                              "--latency-packets", self.args.packets // 50,
                              "--pid", contender.child.pid], self.cpus[0])
        except LabError as error:
            raise LabError(f"{error} ({name}: {contender.said()})") from error
        finally:
            contender.close()

    def one(self, name, case, number):
        try:
            result = self.core(case, number) if name == "core" else \
                self.behind_sockets(name, case, number)
        except (LabError, subprocess.TimeoutExpired) as error:
            self.note(f"{CONTENDERS[name]}, {case_name(case)}, round {number}: "
                      f"{str(error)[:300]}")
            return None
        return result

    def all_rounds(self):
        for number in range(1, self.args.rounds + 1):
            self.rounds.append({})
            cases = self.cases if number % 2 else self.cases[::-1]
            names = list(CONTENDERS) if number % 2 else list(CONTENDERS)[::-1]
            for case in cases:
                found = {name: self.one(name, case, number) for name in names}
                self.rounds[-1][case] = found
                self.say(f"round {number}/{self.args.rounds}, {case_name(case)}: " + ", ".join(
                    f"{name} {found[name]['pps'] / 1000:.0f} k/s" for name in CONTENDERS
                    if found[name]))

    def memory(self):
        """What a connection takes in QEMU: many connections against as many packets of one."""
        sizes = {}
        for flows in (1, MEMORY_FLOWS):
            contender = Contender("qemu", self.cpus[-1])
            try:
                self.tool([build_dir() / "tests/compare-feed", "feed", contender.dir, "--flows",
                           flows, "--packets", 2 * MEMORY_FLOWS, "--latency-packets", 0],
                          self.cpus[0])
                sizes[flows] = contender.memory()
            finally:
                contender.close()
        self.qemu_memory = (sizes[MEMORY_FLOWS] - sizes[1]) / MEMORY_FLOWS

    # --- tables ---------------------------------------------------------------------------------

    def values(self, case, name, *path):
        """One figure of a contender in each round."""
        out = []
        for found in self.rounds:
            value = found.get(case, {}).get(name)
            for key in path:
                value = value[key] if value else None
            out.append(value)
        return out

    def median(self, case, name, *path):
        known = [value for value in self.values(case, name, *path) if value is not None]
        return statistics.median(known) if known else None

    def ratios(self, case, name, to, path=("pps",), to_path=("pps",), inverse=False):
        """{median, min, max} of name's figure by to's."""
        out = [b / a if inverse else a / b
               for a, b in zip(self.values(case, name, *path), self.values(case, to, *to_path))
               if a and b]
        if not out:
            return None
        return {"median": statistics.median(out), "min": min(out), "max": max(out)}

    def table(self):
        rows = []
        for case in self.cases:
            row = {"flows": case[0], "payload": case[1], "different": case[2],
                   "core_by_qemu": self.ratios(case, "core", "qemu"),
                   "served_by_qemu": self.ratios(case, "served", "qemu"),
                   "qemu_user_by_core": self.ratios(case, "core", "qemu", ("total_ns",),
                                                    ("user_ns",), inverse=True)}
            for name in CONTENDERS:
                row[name] = {"pps": self.median(case, name, "pps"),
                             "p99_ns": self.median(case, name, "latency_ns", "p99")}
                if name != "core":
                    for key in ("user_ns", "kernel_ns", "lost", "checkpoints"):
                        row[name][key] = self.median(case, name, key)
            for key in ("gate_ns", "shadow_ns", "codec_ns", "total_ns", "gate_bytes_per_flow",
                        "shadow_bytes_per_flow"):
                row["core"][key] = self.median(case, "core", key)
            row["core"]["loaded_p99_ns"] = self.median(case, "core", "loaded_latency_ns", "p99")
            row["core"]["floor_p99_ns"] = self.median(case, "core", "loaded_floor_ns", "p99")
            rows.append(row)
        return rows

    def targets(self, rows):
        out = []
        for row in rows:
            ratio, p99 = row["core_by_qemu"], row["core"]["p99_ns"]
            name = case_name((row["flows"], row["payload"], row["different"]))
            out.append((f"packets a second by QEMU's, {name}", f">= {TARGET_RATIO}",
                        spread(ratio), bool(ratio) and ratio["median"] >= TARGET_RATIO))
            out.append((f"p99 to the verdict, {name}", f"< {TARGET_P99_NS // 1000} us",
                        f"{p99 / 1000:.2f} us" if p99 else "-",
                        bool(p99) and p99 < TARGET_P99_NS))
        return out

    def print_rates(self, rows):
        print(f"\nPackets of the PVM's compared a second, thousands; median of "
              f"{len(self.rounds)} rounds. Ratios: median (smallest-largest)\n")
        print(f"{'':<31}{'core':>8}{'sockets':>9}{'QEMU':>7}{'QEMU, sockets':>15}"
              f"{'core by QEMU':>22}{'behind sockets by QEMU':>26}")
        for row in rows:
            cells = [row[name]["pps"] for name in CONTENDERS]
            print(f"{row_name(row):<31}" + "".join(
                f"{f'{value / 1000:.0f}' if value else '-':>{width}}"
                for value, width in zip(cells, (8, 9, 7, 15)))
                + f"{spread(row['core_by_qemu']):>22}{spread(row['served_by_qemu']):>26}")

    def print_costs(self, rows):
        print("\nNanoseconds a packet on one processor. QEMU and its sockets alone: in the program "
              "+ in the kernel\n")
        print(f"{'':<31}{'gate':>7}{'shadow':>8}{'codec':>7}{'sum':>7}{'QEMU':>15}"
              f"{'sockets alone':>16}{'QEMU without kernel by sum':>30}")
        for row in rows:
            core = row["core"]
            print(f"{row_name(row):<31}{ns(core['gate_ns']):>7}{ns(core['shadow_ns']):>8}"
                  f"{ns(core['codec_ns']):>7}{ns(core['total_ns']):>7}"
                  f"{both(row['qemu']):>15}{both(row['sockets']):>16}"
                  f"{spread(row['qemu_user_by_core']):>30}")

    def print_latencies(self, rows):
        print("\nFrom the second arrival to the verdict, 99th percentile, microseconds. Sockets: "
              "both wake-ups are in it\n")
        print(f"{'':<31}{'core':>9}{'core, 100 k/s':>15}{'floor':>9}{'sockets':>10}{'QEMU':>9}"
              f"{'QEMU, sockets':>16}{'lost by QEMU':>15}{'checkpoints':>13}")
        for row in rows:
            core = row["core"]
            print(f"{row_name(row):<31}{us(core['p99_ns']):>9}{us(core['loaded_p99_ns']):>15}"
                  f"{us(core['floor_p99_ns']):>9}"
                  f"{us(row['served']['p99_ns']):>10}{us(row['qemu']['p99_ns']):>9}"
                  f"{us(row['sockets']['p99_ns']):>16}{count(row['qemu']['lost']):>15}"
                  f"{count(row['qemu']['checkpoints']):>13}")

    def print_memory(self, rows):
        row = max(rows, key=lambda row: row["flows"])
        print(f"\nMemory of a connection: gate {count(row['core']['gate_bytes_per_flow'])} + "
              f"shadow {count(row['core']['shadow_bytes_per_flow'])} bytes, tables included, "
              f"with {row['flows']} of them; QEMU's {count(self.qemu_memory)} bytes with "
              f"{MEMORY_FLOWS} (above {QEMU_TABLE} it forgets them all)")

    def print_targets(self, targets):
        print(f"\n{'target':<66}{'asked':>10}{'measured':>22}")
        for what, asked, measured, met in targets:
            print(f"{what:<66}{asked:>10}{measured:>22}  {'met' if met else 'MISSED'}")
        for text in self.notes:
            print(f"note: {text}")

    # --- the whole ------------------------------------------------------------------------------

    def go(self):
        if os.getloadavg()[0] > 0.5:
            self.note(f"the machine has a load of {os.getloadavg()[0]:.1f} already: figures will "
                      "vary")
        if len(self.cpus) < 2:
            self.note("one processor only: the feeder takes its part of what is measured behind "
                      "sockets")
        self.say(f"{self.args.rounds} rounds of {len(self.cases)} cases, "
                 f"{len(CONTENDERS)} contenders each")
        self.memory()
        self.all_rounds()
        rows = self.table()
        targets = self.targets(rows)
        data = {"machine": machine(), "rounds": [
            [{"flows": case[0], "payload": case[1], "different": case[2], **found}
             for case, found in number.items()] for number in self.rounds],
            "table": rows, "qemu_bytes_per_flow": self.qemu_memory, "notes": self.notes,
            "targets": [dict(zip(("what", "target", "measured", "met"), t)) for t in targets]}
        out = Path(self.args.out).resolve()
        out.mkdir(parents=True, exist_ok=True)
        (out / "compare.json").write_text(json.dumps(data, indent=1) + "\n")
        (out / "compare.svg").write_text(plot(data))
        if self.args.json:
            print(json.dumps(data))
            return
        self.print_rates(rows)
        self.print_costs(rows)
        self.print_latencies(rows)
        self.print_memory(rows)
        self.print_targets(targets)
        print(f"\n{out}/compare.json and compare.svg written after "
              f"{time.monotonic() - self.started:.0f} s")


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), "unknown")
    qemu = subprocess.run([str(cache_dir() / "qemu/bin/qemu-system-x86_64"), "--version"],
                          capture_output=True, text=True, timeout=10, check=False)
    return {"cpus": os.cpu_count(), "cpu": model, "kernel": os.uname().release,
            "qemu": qemu.stdout.split("\n", 1)[0],
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def case_name(case):
    flows, payload, different = case
    return (f"{flows} flow{'s' if flows > 1 else ''}, {payload} bytes, "
            f"{'cut differently' if different else 'cut alike'}")


def row_name(row):
    return f"{row['flows']:>7} x {row['payload']:>4}, " \
           f"{'cut differently' if row['different'] else 'cut alike'}"


def spread(ratio):
    if not ratio:
        return "-"
    return f"{ratio['median']:.1f} ({ratio['min']:.1f}-{ratio['max']:.1f})"


def ns(value):
    return "-" if value is None else f"{value:.0f}"


def us(value):
    return "-" if not value else f"{value / 1000:.2f}"


def count(value):
    return "-" if value is None else f"{value:.0f}"


def both(figures):
    if figures["user_ns"] is None:
        return "-"
    return f"{figures['user_ns']:.0f} + {figures['kernel_ns']:.0f}"


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench compare",
        description="Measures the comparison engine beside QEMU's colo-compare with the same "
                    "packets: packets a second and nanoseconds a packet on one processor, time to "
                    "the verdict, memory of a connection.",
        epilog="COLO_CACHE (/var/cache/colo-proxy) and COLO_BUILD (build) may name other folders.")
    parser.add_argument("--rounds", type=int, help="rounds over all cases (3; --quick: 1)")
    parser.add_argument("--quick", action="store_true", help="fewer packets, for a first look")
    parser.add_argument("--flows", default=",".join(str(n) for n in FLOWS),
                        help="numbers of connections (1,1000,16000,1000000)")
    parser.add_argument("--packets", type=int,
                        help="packets behind sockets; the core gets twice as many "
                             "(100000; --quick: 50000)")
    parser.add_argument("--seed", type=int, default=1, help="of the load's first round (1)")
    parser.add_argument("--json", action="store_true",
                        help="everything as JSON on standard output, progress on standard error")
    parser.add_argument("--out", default=str(lab_module.TOP / "out/bench"),
                        help="where the results go (out/bench)")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.packets = args.packets or (50000 if args.quick else 100000)
    try:
        args.flows = [int(n) for n in args.flows.split(",")]
    except ValueError:
        parser.error(f"--flows {args.flows}: not numbers")
    if args.rounds < 1 or args.packets < 1000 or min(args.flows) < 1 or max(args.flows) > 1 << 20:
        parser.error("rounds from 1, packets from 1000, flows from 1 to 1048576")
    Bench(args).go()


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"bench compare: {error}")
