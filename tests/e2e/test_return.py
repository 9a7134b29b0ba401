# SPDX-License-Identifier: GPL-2.0-or-later
"""A primary that comes back after its power was cut (R4, R6)."""

import time

from registry import test
from support import check, no_fence, wait_for

MARKER = "peer-may-speak"


def start_again(env):
    """The primary's host has power again, and its daemon is started as at boot."""
    env.lab.power_on("primary")
    env.pair.start("primary")
    wait_for(lambda: env.state("primary"), 10, "the daemon answers")


def no_vm(env):
    return env.status("primary")["qemu_pid"] == 0


@test("return-cut-off")
def cut_off(env):
    """it does not boot a second VM while it cannot hear its peer; then it is that one's secondary"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    env.cut()
    env.lab.link_down("secondary", "replication")
    start_again(env)
    env.said("primary", "waiting for the secondary, which may speak")
    check(no_vm(env), "a second VM runs")
    check("--force" in env.status("primary")["message"], "the status says what to do")
    check((env.pair.dir / "primary-state" / MARKER).exists(), "the marker is gone")
    env.lab.link_up("secondary", "replication")
    env.protected_by("secondary")
    keep.more("requests", 20)
    keep.stop().result()


@test("return-given")
def given(env):
    """who got the VM by a switch-over remembers that its peer, who has it too, may get it back"""
    env.pair.cli("primary", "failover")
    env.protected_by("secondary")
    before = time.time_ns()
    env.pair.cli("secondary", "failover")
    env.taken_over(before, host="primary")
    env.lab.power_cut("secondary")  # before there is a copy again
    check((env.pair.dir / "primary-state" / MARKER).exists(), "the marker is gone")
    env.lab.power_cut("primary")
    start_again(env)
    env.said("primary", "waiting for the secondary, which may speak")
    check(no_vm(env), "a VM was booted, and the operator may have given the other one back")


@test("return-to-stuck", both=no_fence())
def to_stuck(env):
    """a stuck secondary takes over when the primary is heard to have no VM"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    env.lab.power_cut("primary")
    env.wait_state("secondary", "stuck", 10)
    start_again(env)
    env.protected_by("secondary")
    keep.more("requests", 20)
    keep.stop().result()


@test("return-first-start", down=True)
def first_start(env):
    """without a secondary ever having had a copy, a primary boots its VM alone"""
    env.pair.start("primary")
    env.wait_guest()
    env.answers()
    check(not (env.pair.dir / "primary-state" / MARKER).exists(), "a marker without a copy")


@test("return-marker-unreadable", down=True)
def marker_unreadable(env):
    """where it cannot see whether the secondary had a copy, a primary does not boot its VM"""
    marker = env.pair.dir / "primary-state" / MARKER
    marker.parent.mkdir()
    marker.symlink_to(MARKER)
    env.pair.start("primary")
    env.said("primary", "waiting for the secondary, which may speak")
    env.said("primary", "Too many levels of symbolic links")
    check(no_vm(env), "a VM was booted, and the secondary may have had a copy")
