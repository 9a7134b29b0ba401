# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts. Whatever the moment, every byte that the client gets is right, every connection goes
on, and each request of the log is there exactly once (R3, R4, R5, R7)."""

import contextlib
import random
import socket
import statistics
import time

from registry import TESTS, Group, test
from support import (GUEST_IP, GUEST_IP6, MB, PATIENCE, UNHURRIED, URL6, Capture, Continuity,
                     Env, check, wait_for)

VALVE = {"valve": True}
HELLO = b"GET /hello HTTP/1.1\r\nHost: vm\r\n\r\n"
ANSWER = b"hello from the guest\n"


def receive(sock, end):
    """Everything that comes until @end is at the end of it."""
    text = b""
    while not text.endswith(end):
        more = sock.recv(65536)
        check(more, f"the connection ended after {text[-80:]!r}")
        text += more
    return text


def ask(sock):
    sock.sendall(HELLO)
    return receive(sock, ANSWER)


def after(env):
    """The VM is all right on its new host."""
    env.answers()
    env.run("keepalive", "-n", 20, "--check-log", "--id", "after")


@test("cut-idle")
def cut_idle(env):
    """nothing is under way; idle connections and the VM are there afterwards"""
    held = env.load("hold", "-c", 8, "--warm", "--until-eof").event("held")
    own = env.connect()
    ask(own)
    env.cut()
    held.use().result()
    check(ANSWER in ask(own), "an idle connection")
    after(env)


@test("cut-download")
def cut_download(env):
    """in the middle of a download"""
    load = env.load("download", "-b", 60 * MB).reached("bytes", 20 * MB)
    env.cut()
    env.stall(load.result())
    after(env)


@test("cut-upload")
def cut_upload(env):
    """in the middle of an upload"""
    load = env.load("upload", "-b", 16 * MB, "-r", 8 * MB).reached("bytes", 4 * MB)
    env.cut()
    env.stall(load.result())
    after(env)


@test("cut-requests")
def cut_requests(env):
    """between a request and its answer, which the secondary's VM gives"""
    own = env.connect()
    ask(own)
    load = env.load("keepalive", "--check-log", "-i", 0).reached("requests", 20)
    with env.stopped(env.qemu_pid("primary")):  # the answer cannot be out before the cut
        own.sendall(HELLO)
        env.cut()
    receive(own, ANSWER)
    load.more("requests", 50)
    env.stall(load.stop().result())


@test("cut-short-connections")
def cut_short(env):
    """many connections that are opened and closed all the time"""
    load = env.load("http", "-c", 8, "--close").reached("requests", 50)
    env.cut()
    load.more("requests", 100)
    env.stall(load.stop().result())
    after(env)


@test("cut-vm-opened")
def cut_vm_opened(env):
    """connections that the VM opened, before and after the last checkpoint"""
    early = env.load("accept", "-c", 4, "-i", 5).reached("requests", 20)
    env.checkpoint()
    late = env.load("accept", "-c", 4, "-i", 5).reached("requests", 20)
    env.cut()
    early.more("requests", 50)
    late.more("requests", 50)
    env.stall(early.stop().result(), late.stop().result())


@test("cut-datagrams")
def cut_datagrams(env):
    """UDP and ping go on, only what was under way is lost, and only what is replayed comes twice"""
    loads = [env.load(mode, "-i", 10, "--timeout", 300) for mode in ("udp", "ping")]
    for load in loads:
        load.reached("requests", 20)
    env.cut()
    twice = 0
    for load in loads:
        load.more("requests", 50)
        twice += load.stop().result()["duplicates"]
    replayed = env.status("secondary")["takeover"]["replayed"]
    check(twice <= replayed, f"{twice} answers came twice, {replayed} were replayed")


@test("cut-handshake")
def cut_handshake(env):
    """a connection that is being opened: SYN sent, nothing heard"""
    own = env.socket()
    own.setblocking(False)
    with env.stopped(env.qemu_pid("primary")):
        with contextlib.suppress(BlockingIOError):
            own.connect((GUEST_IP, 80))
        env.cut()
    own.settimeout(PATIENCE)
    ask(own)
    after(env)


@test("cut-handshake-held", both=UNHURRIED)
def cut_handshake_held(env):
    """a connection whose SYN-ACK is held: the client learns of another one's number"""
    env.answers()  # the client knows the VM's address
    env.settled()
    own = env.socket()
    own.setblocking(False)
    with env.stopped(env.qemu_pid("secondary")):
        with contextlib.suppress(BlockingIOError):
            own.connect((GUEST_IP, 80))
        wait_for(lambda: env.stats()["traffic"]["tcp"]["held_now"]["packets"], 5,
                 "a SYN-ACK is held")
        before = time.time_ns()
        env.lab.power_cut("primary")
    env.taken_over(before)
    own.settimeout(PATIENCE)
    ask(own)
    after(env)


@test("cut-fin")
def cut_fin(env):
    """FIN in flight, from either side"""
    ours = [env.connect() for _ in range(4)]
    theirs = [env.connect() for _ in range(4)]
    for sock in ours + theirs:
        ask(sock)
    with env.stopped(env.qemu_pid("primary")):
        for sock in ours:
            sock.sendall(HELLO)
            sock.shutdown(socket.SHUT_WR)
        for sock in theirs:
            sock.sendall(HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        env.cut()
    for sock in ours + theirs:
        receive(sock, ANSWER)
        check(sock.recv(100) == b"", "the VM's FIN follows")
    after(env)


@test("cut-half-checkpoint", **VALVE)
def cut_half_checkpoint(env):
    """half of a checkpoint has been sent: it is as if it never was (R3)"""
    keep = env.load("keepalive", "--check-log", "-i", 2).reached("requests", 10)
    down = env.load("download", "-b", 20 * MB, "-r", 5 * MB).reached("bytes", MB)
    env.quiet()
    committed = env.status("secondary")["committed"]
    env.stall_in_checkpoint(16, 4)
    env.cut()
    env.said("secondary", "came half and is dropped")
    lineage = env.status("secondary")["takeover"]["lineage"]
    check(lineage >= committed, f"lineage {lineage} after {committed} was committed")
    keep.more("requests", 50)
    env.stall(keep.stop().result(), down.result())
    after(env)


@test("cut-committed-not-loaded", both=UNHURRIED)
def cut_committed(env):
    """a checkpoint is committed, the SVM has not loaded it: it does so before it speaks (R4)"""
    keep = env.load("keepalive", "--check-log", "-i", 0).reached("requests", 10)
    env.quiet()
    with env.stopped(env.qemu_pid("secondary")):
        # An answer waits; the SVM will not say the same; the commit lets it out.
        wait_for(lambda: env.stats()["traffic"]["tcp"]["held_now"]["packets"], 10, "held output")
        answered = keep.poll()["requests"]
        epoch = env.status("primary")["epoch"]
        env.ask_checkpoint()
        wait_for(lambda: env.status("primary")["committed"] > epoch, 10, "a commit")
        keep.reached("requests", answered + 1)
        before = time.time_ns()
        env.lab.power_cut("primary")
        env.said("secondary", "info: taking-over")
    env.taken_over(before)
    lineage = env.status("secondary")["takeover"]["lineage"]
    check(lineage > epoch, f"lineage {lineage}; C({epoch + 1}) was committed")
    keep.more("requests", 50)
    env.stall(keep.stop().result())


@test("cut-after-checkpoint")
def cut_after_checkpoint(env):
    """right after a checkpoint, with every load"""
    loads = [env.load("keepalive", "--check-log", "-i", 0), env.load("rr", "-c", 4),
             env.load("upload", "-b", 16 * MB, "-r", 4 * MB)]
    for load in loads:
        load.more("bytes", 1)
    env.checkpoint()
    env.cut()
    for load in loads[:2]:
        load.more("requests", 50)
        load.stop()
    env.stall(*[load.result() for load in loads])


@test("cut-lagging", **VALVE)
def cut_lagging(env):
    """the SVM's clock is behind the PVM's by the seconds that a large checkpoint was on its way"""
    capture = [Capture(env, host, both=True) for host in ("primary", "secondary")]
    old = env.load("rr", "-c", 2, "-i", 2).reached("requests", 10)
    env.rewrite(16)
    env.tell_valve(f"rate {3 * MB}")
    started = time.monotonic()
    env.checkpoint(30)
    env.fact(f"a checkpoint of {time.monotonic() - started:.1f} s")
    new = env.load("rr", "-c", 2, "-i", 2)
    for load in (old, new):
        load.more("requests", 20)
    env.cut()
    for load in (old, new):
        load.more("requests", 20)
        load.stop().result()
    frames = sorted((f for c in capture for f in c.frames()), key=lambda f: f.at)
    Continuity().check(frames)


def announced_ipv6(frames):
    """Neighbour advertisements of the VM's address to all nodes, with the override flag."""
    address = socket.inet_pton(socket.AF_INET6, GUEST_IP6)
    return [f for f in frames if f.proto == 58 and f.from_vm and f.data[54] == 136 and
            f.data[58] & 0x20 and f.data[62:78] == address and f.data[38] == 0xff]


def ipv6(env):
    """IPv6: compared like IPv4, and every connection goes on after a power cut"""
    address = f"[{GUEST_IP6}]"
    capture = {host: Capture(env, host, both=True) for host in ("primary", "secondary")}
    env.run("http", "-n", 1, target=URL6 + "/hello")
    env.quiet()
    before = env.stats()
    env.run("http", "-n", 300, "-c", 2, target=URL6 + "/hello")
    after_ = env.stats()
    matched, committed = (after_["traffic"]["tcp"][kind]["packets"] -
                          before["traffic"]["tcp"][kind]["packets"]
                          for kind in ("released_match", "released_commit"))
    differed = after_["checkpoints"]["cause"]["mismatch"] - \
        before["checkpoints"]["cause"]["mismatch"]
    env.fact(f"{matched} packets by match, {committed} by commit, {differed} mismatches")
    check(matched >= 300 and matched > 4 * committed, "IPv6 is released by match")
    whole = [env.load("download", "-b", 8 * MB, target=URL6),
             env.load("upload", "-b", 2 * MB, target=URL6)]
    old = [env.load("accept", "-c", 2, "-i", 5, target=URL6),
           env.load("keepalive", "--check-log", "-i", 1, target=URL6),
           env.load("udp", "-i", 10, "--timeout", 300, target=address)]
    for load in whole:
        load.result()
    for load in old:
        load.reached("requests", 10)
    env.checkpoint()
    # Their numbers are those of the VM that dies, and need mapping afterwards.
    new = [env.load("rr", "-c", 4, "-i", 2, target=address)]
    new[0].reached("requests", 40)
    env.cut()
    for load in old + new:
        load.more("requests", 20)
        load.stop()
    env.stall(*[load.result() for load in old + new if load.mode != "udp"])
    check("needs its numbers mapped" not in env.log("secondary"), "connections are mapped")
    frames = {host: capture[host].frames() for host in capture}
    flow = Continuity().check(sorted(frames["primary"] + frames["secondary"],
                                     key=lambda frame: frame.at))
    check(flow.packets > 500, f"{flow.packets} TCP packets in the captures")
    check(announced_ipv6(frames["secondary"]), "the IPv6 address is announced where the survivor is")
    env.run("http", "-n", 5, target=URL6 + "/hello")


for datapath in ("hold-tap", "nfqueue"):
    test(f"cut-ipv6/{datapath}", datapath=datapath, ipv6=True)(ipv6)


def random_moment(env, rng):
    """One cut at a random moment under all loads; returns the longest stall in ms."""
    capture = [Capture(env, host, both=True) for host in ("primary", "secondary")]
    loads = [env.load("download", "-b", 30 * MB, "-r", 6 * MB),
             env.load("upload", "-b", 8 * MB, "-r", 2 * MB),
             env.load("keepalive", "--check-log", "-i", 1),
             env.load("rr", "-c", 2, "-i", 1),
             env.load("accept", "-c", 2, "-i", 5),
             env.load("http", "-c", 2, "--close")]
    for load in loads:
        load.more("bytes", 1)
    # The moment is one of the client's progress: so much, and then so many microseconds.
    loads[2].more("requests", rng.randrange(1, 100))
    until = time.monotonic() + rng.random() * 0.02
    if rng.random() < 0.5:
        env.ask_checkpoint()
    while time.monotonic() < until:
        pass
    env.cut()
    for load in loads[2:]:
        load.more("requests", 10)
        load.stop()
    results = [load.result() for load in loads]
    frames = sorted((f for c in capture for f in c.frames()), key=lambda f: f.at)
    Continuity().check(frames)
    return env.stall(*results[:4])


@test("cut-random")
def cut_random(env):
    """a random moment under every load; sequence numbers, timestamps and SACK never go back"""
    random_moment(env, random.Random(time.time_ns()))


def random_cuts(runner, count, seed):
    """--cuts: so many, each on a new pair; prints the median stall."""
    rng = random.Random(seed)
    stalls = []

    def go(env, number):
        stalls.append(random_moment(env, random.Random(number)))

    for i in range(count):
        number = rng.getrandbits(32)
        test(f"cut-{i + 1}/seed-{seed}", args=(number,))(go)
        one = TESTS.pop()
        runner.group(Group(make=Env, start=lambda env: env.up()), [one])
    if stalls:
        print(f"stall: median {statistics.median(stalls):.0f} ms, max {max(stalls):.0f} ms, "
              f"{len(stalls)} cuts")
    return runner.summary()
