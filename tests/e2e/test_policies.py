# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies (docs/policies.md): each under every load and through a power cut, and changed while
the VM serves. What the client gets is right to the byte, whichever is in force."""

import json
import os
import socket
from pathlib import Path

from registry import test
from support import (GUEST_IP, GUEST_IP6, MB, PATIENT, UNHURRIED, URL, Capture, Continuity, check,
                     wait_for)


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


def cpu(env, host):
    """What the host's QEMU has used of a processor, s."""
    fields = Path(f"/proc/{env.qemu_pid(host)}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def through_a_cut(env, name):
    """every load; nothing is released by comparison; a power cut; no byte is lost or wrong"""
    capture = [Capture(env, host, both=True) for host in ("primary", "secondary")]
    # The first one ends the secondary's lineage 0.
    wait_for(lambda: env.checkpoints("policy") >= 1, 15, "the first checkpoint")
    wait_for(lambda: env.status("primary")["lineage"] >= 1, 15, "which the secondary has")
    before = released(env)
    used = [cpu(env, "primary"), cpu(env, "secondary")]
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
    used = [cpu(env, "primary") - used[0], cpu(env, "secondary") - used[1]]
    env.fact(f"processor time of the two QEMUs: {used[0]:.2f} s and {used[1]:.2f} s")
    check(used[1] <= used[0] / 10, "the secondary's VM stands still")
    kept = env.stats("secondary")["queues"]["kept_state"]
    check(0 < kept["high"] <= kept["limit"], f"{kept}")
    env.cut()
    takeover = env.status("secondary")["takeover"]
    check(takeover["loaded_bytes"] > 0 and takeover["load_ns"] > 0, f"{takeover}")
    env.fact(f"{takeover['loaded_bytes'] / 1e6:.1f} MB loaded in {takeover['load_ns'] / 1e6:.0f} ms")
    end_loads(env, loads)
    check(env.stats("secondary")["queues"]["kept_state"]["now"] == 0, "what was kept is given back")
    frames = sorted((f for c in capture for f in c.frames()), key=lambda f: f.at)
    Continuity().check(frames)


for one, keys in (("epoch", {"latency-target": 40}), ("on-output", {}), ("continuous", {"rest": 5})):
    test(f"policy-{one}", args=(one,), **policy(one, **keys))(through_a_cut)


def said_once(env, again):
    """a datagram's answer is committed, and the power is cut before the primary knows: it is said; without
    replay-limit it is not"""
    own = env.socket(socket.SOCK_DGRAM, socket.AF_INET6 if env.ipv6 else socket.AF_INET)
    own.connect((GUEST_IP6 if env.ipv6 else GUEST_IP, 7))

    def echo(words):
        own.send(words)
        return own.recv(100)

    def kept():
        return env.stats("secondary")["replay"]["kept"]["packets"]

    wait_for(lambda: env.checkpoints("policy") >= 1, 15, "the first checkpoint")
    check(echo(b"before") == b"before", "the VM answers")
    env.quiet()
    wait_for(lambda: env.stats("secondary")["queues"]["replay"]["now"] == 0, 15,
             "the secondary hears that it has left")
    env.tell_valve("stall-back-after 0")
    committed, before = env.status("secondary")["committed"], kept()
    own.send(b"asked once")
    wait_for(lambda: env.status("secondary")["committed"] > committed, 15, "a commit")
    held = env.stats()["traffic"]["udp"]["held_now"]["packets"]
    check(held == 1, f"the primary does not know of the commit and holds the answer: {held}")
    check(kept() - before == again, f"the secondary keeps it: {kept() - before}")
    env.cut()
    # What is said again comes first.
    check(own.recv(100) == b"asked once" if again else echo(b"after") == b"after",
          "the answer" if again else "without replay-limit it does not come")
    check(echo(b"then") == b"then", "once")
    said = env.status("secondary")["takeover"]["replayed"]
    replayed = env.stats("secondary")["replay"]["replayed"]["packets"]
    check(said == replayed == again, f"said again: {said}, {replayed}")
    if again:
        env.said("secondary", "said again of checkpoint [0-9]+: 1 frames")


for one, keys, how in (("on", {}, {}), ("off", {"replay-limit": 0}, {}),
                       ("nfqueue", {}, {"datapath": "nfqueue", "ipv6": True})):
    test(f"policy-replay/{one}", args=(one != "off",), valve=True, primary=PATIENT, **how,
         **policy("on-output", **UNHURRIED["checkpoint"], **keys))(said_once)


def in_force(env, name, compares, seconds=30):
    """The policy is in force: the epoch that runs is compared, or not."""
    def there():
        state = show(env)
        return state["in_force"] == name and state["compares"] == compares

    wait_for(there, seconds, f"{name} is in force, at {show(env)}")


@test("policy-change")
def change(env):
    """from each policy to another one while the VM serves; the secondary's VM stands still and runs again"""
    loads = begin_loads(env)
    for load in loads:
        load.more("bytes", 1)
    for name in ("epoch", "compare", "continuous", "on-output", "compare", "epoch"):
        state = show(env, "--set", name, "--latency-target", 50, "--rest", 10, "--max-pause", 30)
        check(state["name"] == name and state["latency_target_ms"] == 50 and
              state["rest_ms"] == 10 and state["max_pause_percent"] == 30, f"{state}")
        in_force(env, name, name == "compare")
        before = released(env)
        loads[0].more("requests", 20)
        if name == "compare":
            wait_for(lambda: released(env)["match"] > before["match"] + 20, 30, "releases by match")
        else:
            by_policy(env, 3)
        env.fact(f"{name}: {released(env)}")
    check(env.status("primary")["policy"]["name"] == "epoch", "status shows it")
    text = env.pair.cli("primary", "policy").stdout
    check("epoch" in text and "max-pause 30 %" in text, text)
    before = {key: show(env)[key] for key in
              ("name", "latency_target_ms", "rest_ms", "max_pause_percent")}
    for option, value, limits in (("--set", "remus", "continuous"),
                                  ("--max-pause", "0", "1 to 100"), ("--max-pause", "101", "1 to 100"),
                                  ("--latency-target", "4", "5 to 60000"),
                                  ("--latency-target", "60001", "5 to 60000"),
                                  ("--rest", "-1", "0 to 60000"), ("--rest", "60001", "0 to 60000")):
        done = env.pair.cli("primary", "policy", "--set", "compare", option, value, check=False)
        check(done.returncode == 1 and limits in done.stderr, f"{option} {value}: {done}")
    after = show(env)
    check(all(after[key] == before[key] for key in before), f"{before}, then {after}")
    env.cut()
    end_loads(env, loads)
    check(env.status("secondary")["policy"]["name"] == "compare", "the survivor's own is in force")


@test("policy-auto", **policy("auto"))
def auto(env):
    """answers that are alike: compared; every answer random: nothing is, while that lasts; a cut then"""
    capture = [Capture(env, host, both=True) for host in ("primary", "secondary")]
    keep = env.load("keepalive", "--check-log", "-i", 1).reached("requests", 50)
    check(show(env)["in_force"] == "compare" and not show(env)["why"], f"{show(env)}")
    differ = env.load("http", "-c", 4, target=URL + "/random").reached("requests", 20)
    in_force(env, "on-output", False, 60)
    state = show(env)
    check(state["name"] == "auto" and "ended by a difference" in state["why"], f"{state}")
    env.fact(state["why"])
    differ.more("requests", 100)
    differ.stop().report()
    env.cut()
    keep.more("requests", 20)
    env.stall(keep.stop().result())
    frames = sorted((f for c in capture for f in c.frames()), key=lambda f: f.at)
    Continuity().check(frames)


def writes(env, arg):
    env.run("http", "-n", 1, target=f"{URL}/dirty/{arg}")


def sampled(env, more=2, seconds=30):
    """So many samples more of what the VM writes to; the newest figures."""
    target = env.stats()["dirty"]["samples"] + more
    wait_for(lambda: env.stats()["dirty"]["samples"] >= target, seconds, "samples by QEMU")
    return env.stats()["dirty"]


def history(env):
    """The last checkpoints, each with its cause and what it had."""
    return json.loads(env.pair.cli("primary", "stats", "--json", "--checkpoints", "40").stdout)["history"]


@test("dirty-rate", both={"checkpoint": {"longest-epoch": 600000, "max-dirty": 24,
                                         "dirty-rate-interval": 400}})
def dirty_rate(env):
    """QEMU says how fast the VM writes: no checkpoint while it does not, some when it does; epochs begin right"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    idle = sampled(env, 3)
    check(env.checkpoints("dirty") == 0 and idle["refused"] == 0, f"an idle VM: {idle}")
    writes(env, "50?area=48")
    wait_for(lambda: env.checkpoints("dirty") >= 3, 40, "checkpoints because of what it writes to")
    last = [e for e in history(env) if e["cause"] == "dirty"]
    check(len(last) >= 3, f"{last}")
    sizes = [e["pages"] * 4096 / MB for e in last]
    env.fact("MB: " + ", ".join(f"{size:.0f}" for size in sizes))
    # Whatever it is on a busy machine, it is not all that can be.
    check(max(sizes) > 4, f"checkpoints of {sizes} MB")
    wait_for(lambda: env.stats()["dirty"]["rate"] > 4 * MB, 40, "a sample of more than 4 MB/s")
    env.fact(f"idle {idle['rate'] / 1e6:.0f} MB/s, then {env.stats()['dirty']['rate'] / 1e6:.0f} MB/s")
    check("the VM writes to much memory" in
          env.pair.cli("primary", "divergences", "--all").stdout, "the cause is told")
    writes(env, "1?area=1")
    env.checkpoint()
    wait_for(lambda: sampled(env, 1)["rate"] <= 4 * MB, 30, "a sample of what is left")
    before = env.checkpoints("dirty")
    sampled(env, 3)
    check(env.checkpoints("dirty") == before, "no further one")
    env.cut()
    keep.more("requests", 50)
    env.stall(keep.stop().result())
    env.answers()
