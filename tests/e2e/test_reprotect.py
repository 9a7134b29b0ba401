# SPDX-License-Identifier: GPL-2.0-or-later
"""A survivor is protected again by itself, and taken over from again (R6, R7)."""

import contextlib
import json
import time

from registry import test
from support import (GUEST_IP6, MB, PATIENT, Capture, Continuity, build_dir, check, no_fence,
                     wait_for)

OTHER = {"primary": "secondary", "secondary": "primary"}


def cut(env, host):
    """Power cut of the host that speaks. Returns when the other one does."""
    before = time.time_ns()
    env.lab.power_cut(host)
    env.taken_over(before, host=OTHER[host])


def come_back(env, host):
    """It has power again, and its daemon is started as at boot."""
    env.lab.power_on(host)
    env.pair.start(host)


def cut_and_return(env, host):
    cut(env, host)
    come_back(env, host)
    env.protected_by(OTHER[host])


def move(env, host):
    """Planned switch-over away from the host, which is the other one's secondary afterwards."""
    before = time.time_ns()
    env.pair.cli(host, "failover")
    env.taken_over(before, host=OTHER[host])
    env.protected_by(OTHER[host])


def captures(env):
    return [Capture(env, host, both=True) for host in ("primary", "secondary")]


def is_continuous(env, running, least):
    frames = sorted((f for c in running for f in c.frames()), key=lambda f: f.at)
    seen = Continuity().check(frames)
    env.fact(f"{seen.packets} TCP packets of the VM in {len(seen.flows)} connections")
    check(seen.packets > least, "nothing was captured")


@test("reprotect-keepalive")
def keepalive(env):
    """power cut; the host comes back and its daemon joins the survivor; a cut of that one, too"""
    held = env.load("hold", "-c", 2, "--warm", "--until-eof").event("held")
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    cut_and_return(env, "primary")
    keep.more("requests", 20)
    matched = env.stats("secondary")["traffic"]["tcp"]["released_match"]["packets"]
    keep.more("requests", 20)
    check(env.stats("secondary")["traffic"]["tcp"]["released_match"]["packets"] > matched,
          "the survivor's output is compared")
    cut_and_return(env, "secondary")
    keep.more("requests", 20)
    env.stall(keep.stop().result())
    held.use().result()
    env.answers()


@test("reprotect-download")
def download(env):
    """streams in both directions through a cut, the return and a second cut, and each packet fits"""
    running = captures(env)
    loads = [env.load("download", "-b", 40 * MB, "-r", 5 * MB),
             env.load("upload", "-b", 20 * MB, "-r", 5 * MB // 2),
             env.load("rr", "-c", 2, "-i", 2)]
    for load in loads:
        load.more("bytes", 1000)
    cut_and_return(env, "primary")
    later = env.load("download", "-b", 12 * MB, "-r", 4 * MB)  # known to the survivor as it is
    for load in (*loads, later):
        load.goes_on(1000)
    env.pair.cli("secondary", "checkpoint")  # the mapping of the first ones goes with it
    cut(env, "secondary")
    loads[2].more("requests", 50)
    loads[2].stop()
    env.stall(*[load.result() for load in (*loads, later)])
    is_continuous(env, running, 1000)


@test("reprotect-ipv6", ipv6=True)
def ipv6(env):
    """IPv6 connections live through two takeovers, too"""
    target = f"http://[{GUEST_IP6}]"
    load = env.load("download", "-b", 30 * MB, "-r", 4 * MB, target=target)
    keep = env.load("keepalive", "-i", 5, target=target).reached("requests", 10)
    load.reached("bytes", MB)
    cut_and_return(env, "primary")
    keep.more("requests", 20)
    load.goes_on(MB)
    cut(env, "secondary")
    keep.more("requests", 20)
    env.stall(keep.stop().result(), load.result())


@test("reprotect-failover", both=PATIENT)
def failover(env):
    """planned switch-over, and back (fail-back): no daemon is started, never two speakers"""
    running = {host: Capture(env, host) for host in OTHER}
    keep = env.load("keepalive", "--check-log", "-i", 2).reached("requests", 10)
    spoke = {}
    for host in ("primary", "secondary"):
        move(env, host)
        spoke[host] = time.time()
        keep.more("requests", 20)
    env.stall(keep.stop().result())
    said = {host: [frame.at for frame in capture.said()] for host, capture in running.items()}
    between = [at for at in said["primary"] if at < spoke["primary"]]
    check(between and max(between) < min(said["secondary"]), "two speakers at the first move")
    back = [at for at in said["primary"] if at > spoke["primary"]]
    check(back and max(said["secondary"]) < min(back), "two speakers at the way back")


def copied(watch):
    """How far the copy was in each report of `status --watch`."""
    text, at, seen = "\n".join(watch.lines), 0, []
    with contextlib.suppress(ValueError):  # the last one is not whole yet
        while "{" in text[at:]:
            value, at = json.JSONDecoder().raw_decode(text, text.index("{", at))
            if value["state"] == "joining" and value["copy"]["total"]:
                seen.append(value["copy"]["done"] / value["copy"]["total"])
    return seen


@test("reprotect-progress", valve=True, both={"replication": {"link-buffer": 1}})
def progress(env):
    """the copy to the returned host shows how far it is, to `status` and to `status --watch`"""
    watch = env.lab.spawn("secondary", [build_dir() / "colo-proxy", "status", "--json", "--watch",
                                        "--socket", env.pair.socket("secondary")],
                          name="watch")
    before = time.time_ns()
    env.tell_valve(f"stall-back-after {2 * MB}")
    env.pair.cli("primary", "failover")
    env.taken_over(before)
    env.wait_stalled()
    wait_for(lambda: len(copied(watch)) >= 2, 15, "two reports")
    part = copied(watch)[-1]
    copy = env.status("secondary")["copy"]
    check(part <= copy["done"] / copy["total"] < 1, f"a part: {part}, {copy}")
    env.tell_valve("open")
    env.protected_by("secondary")
    watch.stop()
    watch.end_log()
    seen = copied(watch)
    check(seen == sorted(seen), f"progress: {seen}")
    env.fact(f"{len(seen)} reports: " + " ".join(f"{100 * part:.0f}%" for part in seen))


@test("reprotect-dies-again", valve=True)
def dies_again(env):
    """the host that came back dies in the middle of its copy: the survivor goes on, and again"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    cut(env, "primary")
    keep.more("requests", 10)
    env.lab.power_on("primary")
    env.start_valve()
    env.tell_valve(f"stall-back-after {8 * MB}")
    env.pair.start("primary")
    env.wait_stalled()
    env.daemon("primary").kill()
    env.wait_state("secondary", "unprotected", 20)
    keep.more("requests", 10)
    env.tell_valve("open")
    env.pair.start("primary")
    env.protected_by("secondary")
    keep.more("requests", 10)
    cut(env, "secondary")
    keep.more("requests", 10)
    env.stall(keep.stop().result())


@test("reprotect-split", both=no_fence())
def split(env):
    """sides have changed and the link fails: both silent, and protected again when it is back"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    move(env, "primary")
    keep.more("requests", 10)
    env.lab.link_down("primary", "replication")
    for host in OTHER:
        env.wait_state(host, "stuck", 10)
    env.silence().close()
    env.lab.link_up("primary", "replication")
    env.protected_by("secondary")
    keep.more("requests", 20)
    keep.stop().result()


@test("reprotect-two-speakers", both=no_fence("/bin/true"))
def two_speakers(env):
    """fences that lie let both speak; when they hear each other the newer takeover's side goes on"""
    env.lab.link_down("primary", "replication")
    for host in OTHER:
        wait_for(lambda h=host: env.state(h) == "unprotected", 15, f"{host} speaks")
    env.lab.link_up("primary", "replication")
    env.protected_by("secondary")
    capture = Capture(env, "primary")
    env.forget_neighbours()
    env.answers()
    check(not capture.said(), "the one that gave way speaks")


def ten_takeovers(env, away):
    """@away(host, n) ends the n-th time in which the host speaks. The connections live through all."""
    running = captures(env)
    loads = [env.load("keepalive", "--check-log", "-i", 10, "--deadline", 200),
             env.load("rr", "-c", 3, "-i", 5, "--deadline", 200),
             env.load("download", "-b", 300 * MB, "-r", MB, "--deadline", 400),
             env.load("upload", "-b", 300 * MB, "-r", MB, "--deadline", 400)]
    held = [env.load("hold", "-c", 2, "--warm", "--until-eof", "--deadline", 200).event("held")]
    host = "primary"
    for n in range(10):
        for load in loads:
            load.more("bytes", 1000)
        away(host, n)
        host = OTHER[host]
        held.append(env.load("hold", "-c", 1, "--warm", "--until-eof",
                             "--deadline", 200).event("held"))
        env.facts = env.facts[-1:]
    for load in loads:
        load.more("bytes", 1000)
    env.facts = []
    streams = [load.end() for load in loads[2:]]
    results = [load.stop().result() for load in loads[:2]]
    for load in held:
        load.use().result()
    env.fact(f"streams of {streams[0] / MB:.0f} and {streams[1] / MB:.0f} MB")
    env.stall(*results)
    is_continuous(env, running, 1000)
    env.answers()


@test("reprotect-ten-cuts")
def ten_cuts(env):
    """ten power cuts back and forth with the same connections open: no byte wrong, none broken"""
    ten_takeovers(env, lambda host, n: cut_and_return(env, host))


@test("reprotect-ten-moves")
def ten_moves(env):
    """ten planned switch-overs back and forth, some right after a checkpoint, the same"""
    def away(host, n):
        if n % 2:
            env.pair.cli(host, "checkpoint")
        move(env, host)

    ten_takeovers(env, away)
