# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies (docs/policies.md): each under every load and through a power cut, and changed while
the VM serves. What the client gets is right to the byte, whichever is in force."""

import json

from registry import test
from support import MB, Capture, Continuity, check, wait_for


def policy(name, **keys):
    return {"both": {"checkpoint": {"policy": name, **keys}}}


def released(env):
    total = env.stats()["traffic"]["total"]
    return {how: total[f"released_{how}"]["packets"] for how in ("match", "commit")}


def show(env, *argv):
    return json.loads(env.pair.cli("primary", "policy", "--json", *argv).stdout)


def by_policy(env, more=10, seconds=30):
    """So many checkpoints more that the policy itself has asked for."""
    target = env.checkpoints("policy") + more
    wait_for(lambda: env.checkpoints("policy") >= target, seconds, "checkpoints of the policy")


def begin_loads(env):
    return [env.load("keepalive", "--check-log", "-i", 1), env.load("rr", "-c", 2, "-i", 1),
            env.load("http", "-c", 2, "--close"),
            env.load("download", "-b", 16 * MB, "-r", 4 * MB),
            env.load("upload", "-b", 6 * MB, "-r", 2 * MB)]


def end_loads(env, loads):
    for load in loads[:3]:
        load.more("requests", 10)
        load.stop()
    return env.stall(*[load.result() for load in loads])


def through_a_cut(env, name):
    """every load; nothing is released by comparison; a power cut; no byte is lost or wrong"""
    capture = [Capture(env, host, both=True) for host in ("primary", "secondary")]
    # The first one ends the secondary's lineage 0.
    wait_for(lambda: env.checkpoints("policy") >= 1, 15, "the first checkpoint")
    before = released(env)
    loads = begin_loads(env)
    for load in loads:
        load.more("bytes", 1)
    loads[0].more("requests", 20)
    by_policy(env)
    after = released(env)
    check(after["match"] == before["match"], f"released by comparison: {before}, {after}")
    check(after["commit"] > before["commit"] + 40, f"released by commit: {before}, {after}")
    state = show(env)
    check(state["name"] == state["in_force"] == name and not state["compares"], f"{state}")
    env.fact(f"pause {state['pause_us'] / 1000:.1f} ms, commit {state['commit_us'] / 1000:.1f} ms, "
             f"epoch {state['epoch_us'] / 1000:.1f} ms")
    env.cut()
    end_loads(env, loads)
    frames = sorted((f for c in capture for f in c.frames()), key=lambda f: f.at)
    Continuity().check(frames)


for one, keys in (("epoch", {"latency-target": 40}), ("on-output", {}), ("continuous", {"rest": 5})):
    test(f"policy-{one}", args=(one,), **policy(one, **keys))(through_a_cut)
