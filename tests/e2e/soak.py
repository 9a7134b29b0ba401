#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Hours of mixed load with a takeover each minute, and what it leaves behind: scripts/soak.

Every minute the QEMU of the host that serves is killed: the other one takes over, and the first is
its secondary again, so both daemons live through the whole run. Loads run from the beginning to the
end on the same connections, others open and close connections all the time. Every byte is checked,
and the log in the guest has each request exactly once.

What is "flat": samples are taken when protection is back after each takeover. The first ones, up to
the second time that each host serves, are the base; a daemon's memory, descriptors and threads at
the end may be above the highest of the base by no more than the margins below, the queues are empty
and the flows of ended connections are gone when the loads have stopped.
"""
import argparse
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from support import MB, Capture, Env, Failed, LabError, check, wait_for  # noqa: E402
from test_reprotect import OTHER  # noqa: E402

BASE = 4  # takeovers after which everything has been used once
# What the last checkpoints took of the buffer stays resident, up to 64 MiB, and comes and goes.
RSS_MARGIN_KB = 80 << 10
FD_MARGIN = 2
FLOWS_LEFT = 64
FOREVER = 10 ** 9


def process(pid):
    fields = dict(line.split(":", 1) for line in
                  Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return {"rss_kb": int(fields["VmRSS"].split()[0]), "threads": int(fields["Threads"]),
            "fds": len(os.listdir(f"/proc/{pid}/fd"))}


def sample(env, started):
    """Both daemons and QEMUs now."""
    out = {"at_s": round(time.monotonic() - started, 1)}
    for host in OTHER:
        status, stats = env.status(host), env.stats(host)
        out[host] = {
            "role": status["role"], "daemon": process(env.daemon(host).pid),
            "qemu_rss_kb": process(env.qemu_pid(host))["rss_kb"],
            "queues": {name: queue["now"] for name, queue in stats["queues"].items()},
            "kernel_drops": stats["kernel_drops"]}
    return out


class Loads:
    def __init__(self, env, seconds):
        deadline = ("--deadline", int(seconds) + 600)
        many = ("-n", FOREVER, *deadline)
        self.kept = [env.load("keepalive", "--check-log", "-i", 20, *many),
                     env.load("rr", "-c", 4, "-i", 5, *many),
                     env.load("accept", "-c", 2, "-i", 20, *many)]
        self.streams = [env.load("download", "-b", 10 ** 12, "-r", 2 * MB, *deadline),
                        env.load("upload", "-b", 10 ** 12, "-r", MB, *deadline)]
        self.short = [env.load("http", "-c", 2, "--close", "-i", 20, *many)]
        self.datagrams = [env.load(mode, "-i", 50, "--timeout", 1000, *many)
                          for mode in ("udp", "ping")]
        self.all = self.kept + self.streams + self.short + self.datagrams

    def go_on(self):
        for load in self.all:
            load.more("bytes" if load in self.streams else "requests", 1, 60)

    def end(self):
        """All of them to their end; what they have done."""
        done = {}
        for load in self.streams:  # no end of theirs comes: what has come is right
            done[load.mode] = {"bytes": load.end(), "wrong": 0}
        for load in self.kept + self.short + self.datagrams:
            result = load.stop().result(120)
            done[load.mode] = {key: result[key] for key in
                               ("requests", "wrong", "longest_gap_ms", "lost", "duplicates")
                               if key in result}
        return done


def takeover(env, host, loads):
    """The QEMU of the host dies; returns when the other one is protected by it."""
    before = time.time_ns()
    os.kill(env.qemu_pid(host), signal.SIGKILL)
    env.taken_over(before, 30, OTHER[host])
    env.protected_by(OTHER[host], 60)
    loads.go_on()


def speaker_changes(captures):
    """How often the speaker changes in what the client's switch hears."""
    said = sorted((frame.at, host) for host, capture in captures.items()
                  for frame in capture.said())
    return sum(1 for one, next_ in zip(said, said[1:]) if one[1] != next_[1])


def flat(samples):
    """Complaints about the last samples against the base ones; []: flat."""
    base, last = samples[:BASE], samples[BASE:]
    wrong = []
    for host in OTHER:
        for what, margin in (("rss_kb", RSS_MARGIN_KB), ("fds", FD_MARGIN), ("threads", 1)):
            before = max(one[host]["daemon"][what] for one in base)
            after = max(one[host]["daemon"][what] for one in last[-2:])
            if after > before + margin:
                wrong.append(f"{host}: {what} {before} -> {after}")
    return wrong


def quiet_queues(env, serving):
    """Nothing is held and nothing waits, on either side."""
    def empty():
        for host in OTHER:
            queues = env.stats(host)["queues"]
            if any(queues[name]["now"] for name in ("packets", "bytes", "link_bytes")):
                return False
        return True

    env.pair.cli(serving, "checkpoint")
    wait_for(empty, 60, "the queues are empty")


def soak(env, minutes, every, say):
    started = time.monotonic()
    env.up()
    loads = Loads(env, minutes * 60)
    loads.go_on()
    serving, samples = "primary", []
    pids = {host: env.daemon(host).pid for host in OTHER}
    while True:
        due = started + every * (len(samples) + 1)
        if due > started + minutes * 60 and len(samples) > BASE + 1:
            break
        # The minute is the load's, not a wait for anything.
        while time.monotonic() < due:
            loads.kept[0].more("requests", 10, 60)
        captures = {host: Capture(env, host) for host in OTHER}
        takeover(env, serving, loads)
        serving = OTHER[serving]
        changes = speaker_changes(captures)
        # None: the one that died had said nothing since the captures began.
        check(changes <= 1, f"takeover {len(samples) + 1}: the speaker changed {changes} times")
        samples.append(sample(env, started))
        one = samples[-1]
        say(f"{one['at_s']:7.1f} s  takeover {len(samples):3} -> {serving:9}  " + "  ".join(
            f"{host}: {one[host]['daemon']['rss_kb'] / 1024:6.1f} MB, "
            f"{one[host]['daemon']['fds']} fds, {one[host]['queues']['flows']} flows"
            for host in OTHER))
    done = loads.end()
    env.answers()
    quiet_queues(env, serving)
    samples.append(sample(env, started))
    for host in OTHER:
        check(env.daemon(host).pid == pids[host] and env.daemon(host).poll() is None,
              f"the daemon of {host} died")
    wrong = flat(samples)
    return {"seconds": round(time.monotonic() - started), "takeovers": len(samples) - 1,
            "every_s": every, "loads": done, "samples": samples, "not_flat": wrong,
            "ok": not wrong}


def main():
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", nargs="?", type=float, default=60, metavar="MINUTES")
    parser.add_argument("--every", type=float, default=60, metavar="SECONDS",
                        help="between two takeovers (60)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--logs", default="/tmp/colo-soak", help="where those of a failure go")
    parser.add_argument("--prefix", default="soak", help="of the lab")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("soak: needs root, for network namespaces")
    Env.prefix = args.prefix

    def say(text):
        print(text, file=sys.stderr if args.json else sys.stdout, flush=True)

    try:
        with Env(both={"control": {"log-level": "info"}}) as env:
            try:
                report = soak(env, args.minutes, args.every, say)
            except (Failed, LabError):
                shutil.rmtree(args.logs, ignore_errors=True)
                shutil.copytree(env.lab.dir, args.logs, ignore=shutil.ignore_patterns("*.sock"))
                raise
    except (Failed, LabError) as why:
        report = {"ok": False, "error": str(why)}
    if args.json:
        print(json.dumps(report, indent=1))
        return 0 if report["ok"] else 1
    if "error" in report:
        print(f"FAILED: {report['error']}")
        return 1
    for name, done in report["loads"].items():
        print(f"{name:10} " + ", ".join(f"{key} {value}" for key, value in done.items()))
    print(f"{report['takeovers']} takeovers in {report['seconds']} s: "
          + ("flat" if report["ok"] else "NOT FLAT: " + "; ".join(report["not_flat"])))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
