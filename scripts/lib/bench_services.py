#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark behind scripts/bench services: real servers, and what makes their copies differ.

One lab for each variant has the guest with services (tests/guest/services). Each service is asked
over IPv4 and IPv6; before each, a checkpoint is asked for, so that both VMs begin as one, and those
that come until the last answer are counted by their cause. A variant that is no longer protected gets
a new lab for what is left.

Then the remedies: a lab for each, with the services that it is meant for, over IPv4.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import lab as lab_module  # noqa: E402
from lab import GUEST_IP, GUEST_IP6, Lab, LabError, wait_for  # noqa: E402
from lib.bench import Bench, some  # noqa: E402
from lib.service_client import SERVICES, Iperf, services_dir  # noqa: E402

PREFIX = "colosvc"
CLIENT = Path(__file__).resolve().parent / "service_client.py"
VARIANTS = {"ours": ("colo-proxy", "hold-tap"), "stock": ("QEMU's COLO", "stock-tcp")}
FAMILIES = {"IPv4": GUEST_IP, "IPv6": GUEST_IP6}
CAUSES = ("mismatch", "late", "uncompared", "timer", "pressure")
OTHER_LABS = 2  # for a variant, after its first

# name: what the table says, requests, with --quick
TABLE = {
    "http-kept": ("HTTP, kept connection", 1000, 100),
    "http-close": ("HTTP, a connection each", 500, 60),
    "tls-kept": ("TLS, kept connection", 1000, 60),
    "tls": ("TLS, a handshake each", 100, 10),
    "dns": ("DNS over UDP", 1000, 100),
    "ssh-kept": ("SSH, commands in a session", 1000, 50),
    "ssh": ("SSH, a session each", 20, 4),
    "redis": ("redis: SET, GET, INCR", 1000, 100),
    "iperf3-up": ("iperf3 to the VM", 3, 1),
    "iperf3-down": ("iperf3 from the VM", 3, 1),
}

# What is asked for as remedies only, and whose number of requests it has.
OTHERS = {"openssh": "ssh", "iperf3-down-same": "iperf3-down", "iperf3-down-paced": "iperf3-down"}
# name: what was done, keys of [vm] (append: added to the kernel's command line), of [checkpoint], of
# [flows], the services that it is tried with
SEED = "-object rng-random,id=seed0,filename={seed} -device virtio-rng-pci,rng=seed0"
REMEDIES = {
    "none": ("as it is", {}, {}, {},
             ("http-kept", "http-close", "tls-kept", "tls", "ssh-kept", "ssh", "iperf3-down")),
    "date": ("a Date that stands still", {"append": "svc.date=fixed"}, {}, {},
             ("http-kept", "http-close", "tls-kept", "tls")),
    "date-tickets": ("that, and no session tickets",
                     {"append": "svc.date=fixed svc.tickets=off"}, {}, {}, ("tls-kept", "tls")),
    "seed": ("virtio-rng from one file", {"append": "svc.rng", "extra-args": SEED}, {}, {},
             ("tls", "ssh")),
    "rdrand": ("-cpu max: RDRAND", {"cpu": "max"}, {}, {}, ("tls", "ssh")),
    "no-rdrand": ("-cpu max without RDRAND", {"cpu": "max,-rdrand,-rdseed"}, {}, {},
                  ("tls", "ssh")),
    "distrust": ("-cpu max, random.trust_cpu=off",
                 {"cpu": "max", "append": "random.trust_cpu=off"}, {}, {}, ("tls", "ssh")),
    "clocksource": ("clocksource=acpi_pm", {"append": "clocksource=acpi_pm"}, {}, {},
                    ("http-kept", "http-close", "tls")),
    "rtc": ("-rtc clock=vm", {"extra-args": "-rtc base=utc,clock=vm"}, {}, {},
            ("http-kept", "http-close", "tls")),
    "same-bytes": ("iperf3 --repeating-payload", {}, {}, {}, ("iperf3-down-same",)),
    "paced": ("that, and --bitrate 40M", {}, {}, {}, ("iperf3-down-paced",)),
    "openssh": ("OpenSSH instead of dropbear", {}, {}, {}, ("openssh",)),
    "commit": ("rules: commit SSH and TLS", {}, {},
               {"rule-10": "commit tcp vm-port 22", "rule-20": "commit tcp vm-port 443"},
               ("tls", "ssh", "http-kept")),
    "auto": ("policy auto", {}, {"policy": "auto"}, {}, ("tls", "ssh-kept", "ssh")),
    "on-output": ("policy on-output", {}, {"policy": "on-output"}, {}, ("tls", "ssh-kept", "ssh")),
}


def services_vm(lab, vm=None):
    """[vm] of the guest with services; @vm: more keys, its append behind the guest's own."""
    vm = dict(vm or {})
    append = (services_dir() / "cmdline").read_text().strip() + f" colo.ip6={GUEST_IP6}/64"
    vm["append"] = f"{append} {vm.get('append', '')}".strip()
    vm["initrd"] = services_dir() / "initrd.img"
    if "extra-args" in vm and "{seed}" in vm["extra-args"]:
        seed = Path(lab.dir) / "seed"
        seed.write_bytes(os.urandom(1 << 20))
        vm["extra-args"] = vm["extra-args"].format(seed=seed)
    return vm


class ServicesBench(Bench):
    def __init__(self, args):
        super().__init__(args)
        self.names = args.variants
        self.results = {}   # variant: family: service: figures
        self.remedies = {}  # remedy: service: figures

    # --- one lab --------------------------------------------------------------------------------

    def up(self, lab, variant, vm=None, checkpoint=None, flows=None):
        pair = self.pair(lab, VARIANTS[variant][1], checkpoint=checkpoint,
                         vm=services_vm(lab, vm), flows=flows)
        pair.start("primary")
        pair.wait_guest(120)
        pair.start("secondary")
        pair.wait_protected(60)
        return pair

    def client(self, lab, service, address, requests, seconds):
        return lab.spawn("client", [sys.executable, CLIENT, service, address, "-n", requests,
                                    "--deadline", seconds], name=f"client-{service}")

    def warm_up(self, lab):
        """The first copy of everything that runs in the guest is translated code."""
        for service in ("http-close", "tls", "dns", "ssh", "redis"):
            self.reap(self.client(lab, service, GUEST_IP, 2, 6), 10)

    def equal(self, pair):
        """Both VMs are one. A checkpoint that does not come is no reason to stop."""
        before = self.checkpoints(pair)["cause"]["command"]
        pair.checkpoint()
        try:
            wait_for(lambda: self.checkpoints(pair)["cause"]["command"] > before, 6, "")
        except LabError:
            self.note("a checkpoint that was asked for did not come within 6 s")

    def ask(self, lab, pair, service, address):
        """So many requests; {requests, seconds, causes, ...}"""
        requests = TABLE[OTHERS.get(service, service)][2 if self.args.quick else 1]
        bulk = service.startswith("iperf3")  # counted by megabytes
        self.equal(pair)
        before, newest = self.checkpoints(pair), self.newest(pair)
        report = self.reap(self.client(lab, service, address, requests, self.args.patience),
                           self.args.patience + 30)
        after = self.checkpoints(pair)
        causes = {cause: count - before["cause"][cause] for cause, count in after["cause"].items()
                  if count > before["cause"][cause]}
        amount = report.get("requests", 0)
        unit = "MB" if bulk else "requests"
        amount *= Iperf.megabytes if bulk else 1
        return {"ok": bool(report.get("ok")), "error": report.get("error"), "asked": requests,
                "done": amount, "unit": unit, "seconds": report.get("seconds"),
                "slowest_ms": report.get("slowest_ms"), "causes": causes,
                "checkpoints": after["total"] - before["total"],
                "per_1000": {cause: count * 1000 / amount for cause, count in causes.items()}
                if amount else None,
                "divergences": self.divergences(pair, newest)}

    @staticmethod
    def newest(pair):
        done = pair.cli("primary", "divergences", "-n", 1, "--json", check=False)
        found = json.loads(done.stdout)["divergences"] if not done.returncode else []
        return found[-1]["id"] if found else -1

    @staticmethod
    def divergences(pair, after):
        """What there is to see of those since then, without the packets; none of QEMU's COLO."""
        done = pair.cli("primary", "divergences", "--json", check=False)
        if done.returncode:
            return []
        keys = ("cause", "what", "flow", "offset", "difference", "bytes")
        return [{key: one[key] for key in keys}
                for one in json.loads(done.stdout)["divergences"] if one["id"] > after][:8]

    # --- the table ------------------------------------------------------------------------------

    def variant(self, name):
        """All services of one variant, in as many labs as it takes."""
        todo = [(family, service) for family in self.args.families
                for service in self.args.services]
        results = self.results.setdefault(name, {family: {} for family in self.args.families})
        for _ in range(1 + OTHER_LABS):
            if not todo:
                return
            with Lab(PREFIX, ipv6=True) as lab:
                try:
                    pair = self.up(lab, name)
                    self.warm_up(lab)
                    while todo and self.left() > 20:
                        family, service = todo[0]
                        found = self.ask(lab, pair, service, FAMILIES[family])
                        results[family][service] = found
                        todo.pop(0)
                        self.tell(VARIANTS[name][0], service, found, family)
                        if pair.state("primary") != "protected":
                            found["error"] = (f"{found['error'] or ''} the pair is "
                                              f"{pair.state('primary')} afterwards").strip()
                            raise LabError(found["error"])
                except (LabError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                    self.note(f"{VARIANTS[name][0]}: {str(error)[:300]}")
            if self.left() <= 20:
                self.note(f"out of time: {VARIANTS[name][0]} without {len(todo)} of the services")
                return

    def tell(self, who, service, found, family=""):
        causes = ", ".join(f"{cause} {count}" for cause, count in found["causes"].items())
        self.say(f"{who}: {service}{' ' + family if family else ''}: {found['done']} "
                 f"{found['unit']} in {found['seconds'] or 0:.1f} s, checkpoints: "
                 f"{causes or 'none'}" + ("" if found["ok"] else f"; FAILED: {found['error']}"))

    # --- remedies -------------------------------------------------------------------------------

    def remedy(self, name):
        about, vm, checkpoint, flows, services = REMEDIES[name]
        results = self.remedies.setdefault(name, {})
        with Lab(PREFIX, ipv6=True) as lab:
            try:
                pair = self.up(lab, "ours", vm, checkpoint, flows)
                self.warm_up(lab)
                for service in services:
                    results[service] = self.ask(lab, pair, service, GUEST_IP)
                    self.tell(about, service, results[service])
            except (LabError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                self.note(f"{about}: {str(error)[:300]}")

    # --- output ---------------------------------------------------------------------------------

    HEAD = f"{'per 1,000':>24}" + "".join(f"{cause:>12}" for cause in CAUSES) + f"{'all':>8}"

    @staticmethod
    def cells(found):
        """done, seconds, per 1,000 by cause, of all causes"""
        text = f"{found['done']:>8} {found['unit']:<8}{found['seconds'] or 0:>6.1f} s"
        per = found["per_1000"]
        if per is None:
            return text + "".join(f"{'-':>12}" for _ in CAUSES) + f"{'-':>8}"
        other = sum(per.values())
        return text + "".join(f"{per.get(cause, 0):>12.1f}" for cause in CAUSES) + f"{other:>8.1f}"

    def print_table(self):
        print(f"\nCheckpoints per 1,000 requests (iperf3: MB) by cause\n\n{'service':<28}"
              f"{'':<6}{'':<14}{self.HEAD}")
        for service in self.args.services:
            shown = TABLE[service][0]
            for family in self.args.families:
                for name in self.names:
                    found = self.results.get(name, {}).get(family, {}).get(service)
                    cells = self.cells(found) if found else f"{'-':>24}"
                    why = "" if not found or found["ok"] else f"  FAILED: {found['error'][:60]}"
                    if found and name == "stock" and family == "IPv6":
                        why = f"  passes uncompared{why}"
                    print(f"{shown:<28}{family:<6}{VARIANTS[name][0]:<14}{cells}{why}")
                    shown = ""

    def print_remedies(self):
        print(f"\nRemedies, IPv4\n\n{'remedy':<32}{'service':<18}{self.HEAD}{'slowest':>12}")
        for name, results in self.remedies.items():
            shown = REMEDIES[name][0]
            for service, found in results.items():
                why = "" if found["ok"] else f"  FAILED: {found['error'][:60]}"
                print(f"{shown:<32}{service:<18}{self.cells(found)}"
                      f"{found['slowest_ms'] or 0:>9.0f} ms{why}")
                shown = ""

    def plan(self):
        return ""

    def work(self):
        if "table" in self.args.parts:
            for name in self.names:
                self.variant(name)
        if "remedies" in self.args.parts:
            for name in self.args.remedies:
                if self.left() < 30:
                    self.note(f"out of time: without the remedy {name}")
                    continue
                self.remedy(name)

    def write(self):
        out = Path(self.args.out).resolve()
        out.mkdir(parents=True, exist_ok=True)
        data = {"machine": self.machine(), "quick": self.args.quick, "services": self.results,
                "remedies": self.remedies, "notes": self.notes}
        (out / "services.json").write_text(json.dumps(data, indent=1) + "\n")
        if self.args.json:
            print(json.dumps(data))
            return
        if self.results:
            self.print_table()
        if self.remedies:
            self.print_remedies()
        for text in self.notes:
            print(f"note: {text}")
        print(f"\n{out}/services.json written after {time.monotonic() - self.started:.0f} s")


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench services",
        description="Asks real servers in a protected VM, and counts checkpoints per 1,000 requests "
                    "by cause, colo-proxy's and those of QEMU's own COLO; then the same with what "
                    "an operator can do against them.",
        epilog="COLO_CACHE (/var/cache/colo-proxy) and COLO_BUILD (build) may name other folders.")
    parser.add_argument("--quick", action="store_true",
                        help="fewer requests, and no remedies: does it work?")
    parser.add_argument("--json", action="store_true",
                        help="the results as JSON; what goes on is said on standard error")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--services", default=",".join(TABLE), help=f"some of {','.join(TABLE)}")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--remedies", default=",".join(REMEDIES),
                        help=f"some of {','.join(REMEDIES)}")
    parser.add_argument("--parts", help="some of table,remedies (both; --quick: table)")
    parser.add_argument("--budget", type=int, help="seconds; what does not fit is left out and "
                        "named (640; --quick: 160)")
    parser.add_argument("--out", default=str(lab_module.TOP / "out/bench"),
                        help="where the results go (out/bench)")
    args = parser.parse_args()
    args.budget = args.budget or (160 if args.quick else 640)
    args.patience = 5 if args.quick else 15
    args.variants = some(args.variants, VARIANTS, parser)
    args.services = some(args.services, TABLE, parser)
    args.families = some(args.families, FAMILIES, parser)
    args.remedies = some(args.remedies, REMEDIES, parser)
    args.parts = some(args.parts or ("table" if args.quick else "table,remedies"),
                      ("table", "remedies"), parser)
    ServicesBench(args).go()


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"bench: {error}")
