# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may speak (R4, R6): the secondary takes over when it has the right to, and else is silent;
at no time do two hosts speak."""

import time

from registry import test
from support import (FENCE_NONE, MB, Capture, check, no_fence)

STUCK = "failover --force"


def stuck_until_forced(env):
    """The primary is dead and the secondary may not speak; then the operator decides."""
    held = env.load("hold", "-c", 2, "--warm", "--until-eof").event("held")
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    env.lab.power_cut("primary")
    env.wait_state("secondary", "stuck", 10)
    check(STUCK in env.status("secondary")["message"], "the status says what to do")
    knock = env.silence()
    done = env.pair.cli("secondary", "failover", check=False)
    check(done.returncode == 1 and "--force" in done.stderr, f"failover without force: {done}")
    check(env.state("secondary") == "stuck", "still silent")
    before = time.time_ns()
    env.pair.cli("secondary", "failover", "--force")
    env.taken_over(before)
    keep.more("requests", 20)
    keep.stop().result()
    held.use().result()
    knock.close()
    env.answers()


@test("fence-not-set", both=no_fence())
def not_set(env):
    """without a fence: silence until `failover --force`"""
    stuck_until_forced(env)


@test("fence-fails", both=no_fence("/bin/sh -c 'echo fence for $COLO_PEER >&2; exit 1'"), down=True)
def fails(env):
    """a fence that fails, also where SIGCHLD was ignored: silence until `failover --force`"""
    env.pair.under = ["sh", "-c", 'trap "" CHLD; exec "$@"', "sh"]
    env.up()
    stuck_until_forced(env)
    env.said("secondary", "^fence for 10.78.0.1$")
    env.said("secondary", "fence: no: exit status 1")


@test("fence-hangs", both=no_fence("/bin/sleep 1000", **{"fence-timeout": 500}))
def hangs(env):
    """a fence that hangs: silence until `failover --force`"""
    stuck_until_forced(env)
    env.said("secondary", "no answer within fence-timeout")


@test("fence-none", both=FENCE_NONE)
def none(env):
    """fence = none: takes over on lost heartbeats alone"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    env.cut()
    keep.more("requests", 20)
    env.stall(keep.stop().result())


@test("takeover-without-bridge", both=FENCE_NONE)
def without_bridge(env):
    """the bridge is gone when the secondary takes over: silent until it is there, then by itself"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    env.lab.ip("secondary", "link set br0 down", "link set br0 name away", "link set away up")
    before = time.time_ns()
    env.lab.power_cut("primary")
    env.said("secondary", "the takeover failed: .*No such device; it is tried again")
    check(env.state("secondary") == "taking-over", "it takes over")
    check("No such device" in env.status("secondary")["message"], "the status says what is wrong")
    forced = env.pair.cli("secondary", "failover", "--force", check=False)
    check("takes over already" in forced.stderr, f"failover --force: {forced}")
    env.lab.ip("secondary", "link set away down", "link set away name br0", "link set br0 up")
    env.taken_over(before)
    keep.more("requests", 20)
    env.stall(keep.stop().result())
    check(env.log("secondary").count("the takeover failed") == 1, "it is logged once")


@test("fence-no-failover", both={"failover": {"auto-failover": False}})
def not_automatic(env):
    """auto-failover = false: silence until the operator says so"""
    stuck_until_forced(env)


@test("fence-kills")
def kills(env):
    """the replication link fails, both live: the fence ends the primary before the secondary speaks"""
    captures = {host: Capture(env, host) for host in ("primary", "secondary")}
    loads = [env.load("rr", "-c", 2, "-i", 2), env.load("keepalive", "--check-log", "-i", 2),
             env.load("download", "-b", 20 * MB, "-r", 4 * MB)]
    for load in loads:
        load.more("bytes", 1000)
    before = time.time_ns()
    env.lab.link_down("primary", "replication")
    env.taken_over(before)
    check(not env.lab.pids("primary"), "processes of the primary are left")
    for load in loads[:2]:
        load.more("requests", 50)
        load.stop()
    env.stall(*[load.result() for load in loads])
    said = {host: capture.said() for host, capture in captures.items()}
    check(said["primary"] and said["secondary"], "both have spoken")
    last, first = said["primary"][-1].at, said["secondary"][0].at
    check(last < first, f"two speakers: the primary spoke {(last - first) * 1000:.1f} ms after the "
                        "secondary had begun")
    env.fact(f"{(first - last) * 1000:.0f} ms between the last word of the primary and the first "
             "of the secondary")


@test("fence-link-heals", both=no_fence())
def heals(env):
    """the replication link fails and nobody may decide: both silent, and protected when it is back"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    env.lab.link_down("primary", "replication")
    env.wait_state("secondary", "stuck", 10)
    env.wait_state("primary", "stuck", 10)
    env.silence().close()
    env.lab.link_up("primary", "replication")
    env.wait_state("primary", "protected", 30)
    keep.more("requests", 20)
    keep.stop().result()
    env.cut_forced()


@test("fence-primary-frozen", both=no_fence())
def frozen(env):
    """the primary's daemon stands still and comes back: one speaker, and nothing is lost"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    with env.stopped(env.daemon("primary").pid):
        env.wait_state("secondary", "stuck", 10)
        env.silence().close()
    env.wait_state("primary", "protected", 30)
    keep.more("requests", 20)
    keep.stop().result()
