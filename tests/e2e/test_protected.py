# SPDX-License-Identifier: GPL-2.0-or-later
"""A protected VM at work, with each data path: protection begins under open connections, data is
whole, checkpoints come from every cause, and at the end the VM moves with all its connections."""

import json
import os
import time

from registry import Group, test
from support import (GUEST_IP, GUEST_MAC, MB, URL, URL6, Capture, Continuity, Env, check,
                     wait_for)

# What is open when the VM moves; each checks every byte. The first two end by themselves. There is
# one keep-alive loop in a VM at a time: the guest numbers the requests of all of them.
KINDS = [
    ("download", "-b", 12 * MB, "-r", 2 * MB),
    ("upload", "-b", 4 * MB, "-r", MB),
    ("rr", "-c", 2, "-i", 5),
    ("accept", "-c", 2, "-i", 5),
    ("http", "-c", 2, "-i", 10, "--close", "--allow-errors"),
]
KEEPALIVE = [("keepalive", "--check-log", "-i", 5)]


class Background:
    """One load of every kind, opened together; they go on until they are told to end."""

    def __init__(self, env, kinds):
        self.held = env.load("hold", "-c", 4, "--warm", "--until-eof").event("held")
        self.loads = [env.load(*kind) for kind in kinds]
        self.wait()

    def wait(self):
        for load in self.loads:
            load.goes_on(1)

    def finish(self):
        """Every one must have had right answers only, and on the connections that it opened."""
        for load in self.loads:
            if load.mode not in ("download", "upload"):
                load.stop()
        results = [load.result() for load in self.loads] + [self.held.use().result()]
        return [result for result in results if result["mode"] not in ("hold", "http")]


def make(datapath):
    return lambda: Env(datapath=datapath, ipv6=True,
                       # What is late is what the SVM does not say, and not a slow machine's.
                       both={"checkpoint": {"longest-epoch": 3000, "late-timeout": 1500,
                                            "late-timeout-max": 1500}},
                       primary={"replication": {"boot-wait": 1000}})


def start(env):
    """The VM runs unprotected first and has open connections; then the secondary joins."""
    env.pair.start("primary")
    env.wait_guest()
    env.before = Background(env, KINDS + KEEPALIVE)
    env.pair.start("secondary")


def register(datapath):
    group = Group(make(datapath), start)

    def on(name):
        def add(function):
            def run(env):
                if env.before and name != "protect":  # which was not chosen
                    env.pair.wait_protected(20)
                    env.before.finish()
                    env.before = None
                function(env)

            run.__doc__ = function.__doc__
            return test(f"{name}/{datapath}", group)(run)

        return add

    @on("protect")
    def protect(env):
        """connections opened before protection keep working"""
        env.pair.wait_protected(20)
        env.before.wait()
        before, env.before = env.before, None
        env.stall(*before.finish())
        status = env.status("primary")
        check(status["datapath"] == datapath, f"datapath {status['datapath']}")

    @on("commands")
    def commands(env):
        """status, stats, checkpoint, failover, check and version answer sensibly"""
        for host, state in (("primary", "protected"), ("secondary", "standby")):
            text = env.pair.cli(host, "status").stdout
            check(state in text and "vm0" in text, f"status of {host}: {text}")
            value = json.loads(env.pair.cli(host, "status", "--json").stdout)
            value = value[0] if isinstance(value, list) else value
            check(value["state"] == state and value["protected"] and value["peer_alive"],
                  f"status of {host}: {value}")
            check(value["role"] == host and os.path.exists(f"/proc/{value['qemu_pid']}"),
                  f"status of {host}: {value}")
            # How long the secondary is waited for: the primary's to know.
            check((value["late_wait_us"] > 0) == ("  lag  " in text) == (host == "primary"),
                  f"lag of {host}: {value}")
            check("checkpoints" in env.pair.cli(host, "stats").stdout, f"stats of {host}")
            json.loads(env.pair.cli(host, "stats", "--json").stdout)
        for argv, why in ((("checkpoint",), "primary"), (("failover",), "primary lives"),
                          (("failover", "--force"), "primary lives")):
            done = env.pair.cli("secondary", *argv, check=False)
            check(done.returncode == 1 and why in done.stderr,
                  f"{argv} on the secondary: {done.returncode} {done.stderr}")
        check(env.state("secondary") == "standby", "a refused failover changes nothing")
        check(env.state("primary") == "protected", "a refused failover changes nothing")

    @on("download")
    def download(env):
        """200 MB arrive whole, in superframes of which some go out in two"""
        before = env.stats()
        result = env.run("download", "-b", 200 * MB, seconds=90)
        after = env.stats()
        tcp = after["traffic"]["tcp"]
        check(tcp["released_match"]["bytes"] > 100 * MB,
              f"most is released by match, not by commit: {tcp}")
        packets, bytes_ = (tcp["held"][unit] - before["traffic"]["tcp"]["held"][unit]
                           for unit in ("packets", "bytes"))
        cut = after["comparison"]["frames_cut"] - before["comparison"]["frames_cut"]
        env.fact(f"{result['MBps']:.0f} MB/s; {packets} frames of {bytes_ // packets} bytes, "
                 f"{cut} of them in two")
        # The VMs' windows differ, so that one says only the beginning of what the other says.
        check(bytes_ / packets > 3000 and cut >= 20, "superframes are cut")

    @on("upload")
    def upload(env):
        """30 MB arrive whole at the VM"""
        env.fact(f"{env.run('upload', '-b', 30 * MB, seconds=90)['MBps']:.0f} MB/s")

    @on("requests")
    def requests(env):
        """1,000 equal answers on 4 connections need fewer than 5 checkpoints; a log stays right"""
        env.quiet()
        before = env.stats()["checkpoints"]["cause"]
        env.run("http", "-c", 4, "-n", 1000, target=URL + "/hello")
        causes = env.stats()["checkpoints"]["cause"]
        needless = sum(causes[c] - before[c] for c in ("mismatch", "late", "uncompared", "pressure"))
        env.fact(f"{needless} checkpoints")
        check(needless < 5, f"{needless} needless checkpoints: {before} {causes}")
        env.run("keepalive", "-n", 100, "--check-log", "--id", "requests")

    @on("datagrams")
    def datagrams(env):
        """UDP and ping are answered once each and compared"""
        before = env.stats()["traffic"]
        for mode in ("udp", "ping"):
            result = env.run(mode, "-n", 40, "-i", 5, "--timeout", 60000, "--max-lost", 0)
            check(result["duplicates"] == 0, f"{mode}: {result}")
        after = env.stats()["traffic"]
        for kind in ("udp", "icmp"):
            check(after[kind]["released_match"]["packets"] -
                  before[kind]["released_match"]["packets"] >= 30, f"{kind}: {after[kind]}")

    @on("arp")
    def arp(env):
        """a client that has forgotten the VM's address finds it"""
        before = env.stats()["traffic"]["arp"]["held"]["packets"]
        env.forget_neighbours()
        env.run("ping", "-n", 1, "--timeout", 60000, "--max-lost", 0)
        neighbour = env.lab.run("client", ["ip", "neigh", "show", GUEST_IP]).stdout
        check(GUEST_MAC in neighbour, f"neighbour: {neighbour}")
        check(env.stats()["traffic"]["arp"]["held"]["packets"] > before, "the answer was held")

    @on("vm-opens")
    def vm_opens(env):
        """connections that the VM opens carry data"""
        check(env.run("accept", "-c", 4, "-n", 100)["accepted"] == 4, "accepted")

    @on("checkpoint-command")
    def checkpoint_command(env):
        """a checkpoint on command, under load; the next epoch compares again"""
        load = env.load("rr", "-c", 2, "-i", 2).reached("requests", 10)
        commands_before = env.checkpoints("command")
        for _ in range(5):
            env.checkpoint()
            load.more("requests", 10)
        check(env.checkpoints("command") >= commands_before + 4, "counted by cause")
        env.quiet()
        # By the timer another checkpoint may come and release some of it.
        before = env.stats()["traffic"]["tcp"]["released_match"]["packets"]
        wait_for(lambda: env.stats()["traffic"]["tcp"]["released_match"]["packets"] >= before + 50,
                 15, "output is compared after a checkpoint")
        load.stop().result()

    @on("checkpoint-timer")
    def checkpoint_timer(env):
        """a checkpoint when the epoch is too old"""
        before = env.checkpoints("timer")
        wait_for(lambda: env.checkpoints("timer") > before, 10, "a checkpoint by the timer")

    @on("checkpoint-mismatch")
    def checkpoint_mismatch(env):
        """what the two VMs say differently is released by a commit"""
        before = env.checkpoints("mismatch")
        for path in ("/time", "/random"):
            env.run("http", "-n", 5, target=URL + path)
        check(env.checkpoints("mismatch") > before, f"causes: {env.stats()['checkpoints']}")
        check(env.stats()["traffic"]["tcp"]["mismatched"]["packets"] > 0, "counted")

    @on("checkpoint-late")
    def checkpoint_late(env):
        """an SVM that says nothing delays answers until a commit, and no longer"""
        env.quiet()
        before = env.checkpoints("late")
        with env.stopped(env.qemu_pid("secondary")):
            env.run("ping", "-n", 1, "--timeout", 60000, "--max-lost", 0)
            check(env.checkpoints("late") > before, f"causes: {env.stats()['checkpoints']}")
        env.quiet()

    @on("pieces")
    def pieces(env):
        """both VMs wait for the client to acknowledge what they cut differently (Nagle's
        algorithm): the SVM's part is asked for in two, and the PVM's frame cut in two, and
        neither is waited for until it is late"""
        for url in (URL, URL6):
            env.quiet()
            before = env.stats()
            env.run("http", "-n", 40, target=url + "/pieces/100")
            after = env.stats()
            cut, frames = (after["comparison"][key] - before["comparison"][key]
                           for key in ("ranges_cut", "frames_cut"))
            late = after["checkpoints"]["cause"]["late"] - before["checkpoints"]["cause"]["late"]
            env.fact(f"{url}: {cut} ranges and {frames} frames in two, {late} late")
            check(cut >= 5 and frames >= 5,
                  f"{cut} ranges, {frames} frames in two")
            check(late < cut / 2, f"{late} checkpoints for lateness, {cut} ranges in two")

    @on("move")
    def move(env):
        """the VM moves with connections of every kind, opened at every time"""
        captures = [Capture(env, host, both=True) for host in ("primary", "secondary")]
        early = Background(env, KINDS + KEEPALIVE)
        env.checkpoint()
        late = Background(env, KINDS)  # opened after the checkpoint: mapped numbers
        if datapath == "hold-tap":
            env.cut()
        else:
            before = time.time_ns()
            done = env.pair.cli("primary", "failover")
            env.fact(f"failover: {done.stdout.strip()}")
            env.taken_over(before)
            env.protected_by("secondary")
        env.stall(*early.finish(), *late.finish())
        env.answers()
        frames = sorted((f for c in captures for f in c.frames()), key=lambda f: f.at)
        continuity = Continuity().check(frames)
        env.fact(f"{continuity.packets} TCP packets of the VM in {len(continuity.flows)} "
                 "connections")
        check(continuity.packets > 1000, "nothing was captured")


for name in ("hold-tap", "nfqueue"):
    register(name)
