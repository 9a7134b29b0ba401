# SPDX-License-Identifier: GPL-2.0-or-later
"""Split brain tried on purpose (R6): the replication link is cut and both hosts live. The fences
fail, hang or lie. By captures on the client's side at most one host speaks at any time."""

import os
import tempfile
import time
from pathlib import Path

from registry import Group, test
from support import Capture, Env, check, no_fence, wait_for

HANGS = {"failover": {"fence": "/bin/sleep 1000", "fence-timeout": 500, "fence-delay": 0}}


def watch(env):
    return {host: Capture(env, host) for host in ("primary", "secondary")}


def who_spoke(captures):
    """The hosts that spoke for the VM, in turns."""
    said = sorted((frame.at, host) for host, capture in captures.items()
                  for frame in capture.said())
    return [host for n, (_at, host) in enumerate(said) if n == 0 or said[n - 1][1] != host]


def load(env):
    return [env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10),
            env.load("rr", "-c", 2, "-i", 5).reached("requests", 10)]


def goes_on(loads):
    for one in loads:
        one.more("requests", 20).stop().result()


@test("split-undecided", primary=no_fence("/bin/false"), secondary=HANGS)
def undecided(env):
    """one fence fails, the other hangs: both silent, and one speaks when the link is back"""
    captures, loads = watch(env), load(env)
    env.lab.link_down("primary", "replication")
    env.wait_state("secondary", "stuck", 15)
    env.wait_state("primary", "stuck", 15)
    env.silence(pings=5).close()
    env.lab.link_up("primary", "replication")
    env.pair.wait_protected(30)
    goes_on(loads)
    check(who_spoke(captures) == ["primary"], "only the primary had the right")


def slow(path):
    """A fence that never answers, and says which process it is."""
    return {"failover": {"fence": f"/bin/sh -c 'echo $$ >{path}; exec sleep 1000'",
                         "fence-timeout": 60000, "fence-delay": 0}}


FENCE_PID = Path(tempfile.gettempdir()) / f"colo-e2e-fence-{os.getpid()}"


@test("split-late-fence", secondary=slow(FENCE_PID))
def late_fence(env):
    """the operator decides while the fence is still at it: it is ended, and switches nobody off"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    before = time.time_ns()
    env.lab.power_cut("primary")
    env.wait_state("secondary", "deciding", 15)
    wait_for(lambda: FENCE_PID.exists() and FENCE_PID.read_text().strip(), 15, "the fence runs")
    pid = int(FENCE_PID.read_text())
    FENCE_PID.unlink()
    env.pair.cli("secondary", "failover", "--force")
    env.taken_over(before)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 15, "the fence is ended")
    keep.more("requests", 20).stop().result()


@test("split-fence-lies", primary=no_fence("/bin/false"), secondary=no_fence("/bin/true"))
def fence_lies(env):
    """the secondary's fence lies, the primary lives and has lost its peer too: one speaks"""
    captures, loads = watch(env), load(env)
    before = time.time_ns()
    env.lab.link_down("primary", "replication")
    env.taken_over(before)
    env.wait_state("primary", "stuck", 15)
    check(env.daemon("primary").poll() is None and env.qemu_pid("primary"), "it was a lie")
    loads[0].more("requests", 20)
    env.lab.link_up("primary", "replication")
    env.protected_by("secondary")
    goes_on(loads)
    check(who_spoke(captures) == ["primary", "secondary"], "two speakers")


@test("split-lie-frozen", primary=no_fence("/bin/false"), secondary=no_fence("/bin/true"))
def lie_frozen(env):
    """the primary's daemon stands still, is declared dead by a fence that lies, and comes back"""
    captures, loads = watch(env), load(env)
    download = env.load("download", "-b", 30_000_000, "-r", 5_000_000).reached("bytes", 1_000_000)
    before = time.time_ns()
    with env.stopped(env.daemon("primary").pid):
        env.taken_over(before)
        for one in loads:
            one.more("requests", 20)
    env.protected_by("secondary")
    goes_on(loads)
    download.result()
    check(who_spoke(captures) == ["primary", "secondary"], "two speakers")


def arbiter(side):
    """An arbiter that says yes to who asks first, and kills nobody; @side alone reaches it."""
    def make():
        env = Env()
        reached = no_fence(f"/bin/mkdir {env.lab.dir}/arbiter")
        for host in ("primary", "secondary"):
            env.options[host] = reached if host == side else no_fence("/bin/false")
        return env

    return Group(make=make)


def one_side(env, side):
    other = "primary" if side == "secondary" else "secondary"
    captures, loads = watch(env), load(env)
    env.lab.link_down("primary", "replication")
    env.wait_state(side, "unprotected", 15)
    env.wait_state(other, "stuck", 15)
    for one in loads:
        one.more("requests", 20)
    check(env.daemon(other).poll() is None and env.qemu_pid(other), "both hosts live")
    env.lab.link_up("primary", "replication")
    env.protected_by(side)
    goes_on(loads)
    check(who_spoke(captures) == ["primary"] + ["secondary"] * (side == "secondary"),
          "two speakers")


for one in ("primary", "secondary"):
    @test(f"split-arbiter/{one}", arbiter(one), (one,))
    def asked(env, side):
        """an arbiter that one side alone reaches: that one speaks, the other is silent, both live"""
        one_side(env, side)
