# SPDX-License-Identifier: GPL-2.0-or-later
"""R1 and R8: nothing of the VM leaves the primary that the secondary is not good for, whatever
fails and whatever is full."""

import fcntl
import socket
import struct
import time

from registry import Group, test
from support import (GUEST_IP, GUEST_IP6, MB, PATIENCE, PATIENT, UNHURRIED, URL, Capture,
                     Continuity, Env, check, merge, wait_for)

SIX = f"[{GUEST_IP6}]"


QUERIES = 8


def querier(env):
    """What asks the VM for its groups (MLDv2 general query, RFC 3810 section 5.1), in the client."""
    sock = env.socket(socket.SOCK_RAW, socket.AF_INET6, proto=socket.IPPROTO_ICMPV6)
    ifreq = struct.pack("16si", b"br0", 0).ljust(40, b"\0")
    index = struct.unpack_from("i", fcntl.ioctl(sock, 0x8933, ifreq), 16)[0]  # SIOCGIFINDEX
    alert = bytes([0, 0, 5, 2, 0, 0, 1, 0])  # hop-by-hop options: router alert, padding
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, alert)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
    query = struct.pack(">BBHHH16sBBH", 130, 0, 0, 1000, 0, bytes(16), 2, 125, 0)
    return lambda: sock.sendto(query, ("ff02::1", 0, 0, index))


def register(datapath):
    # What is compared is waited for, however slow the SVM is.
    group = Group(lambda: Env(datapath=datapath, ipv6=True, both=merge(PATIENT, UNHURRIED)))

    def on(name):
        return test(f"{name}/{datapath}", group)

    @on("r1-ipv6")
    def ipv6(env):
        """IPv6 is compared: datagrams match, and nothing of them is released by a commit"""
        # A checkpoint that another flow asked for (a neighbour's probe) releases by commit what
        # is held at that moment: a run without any says what comparing does.
        for _ in range(5):
            before = env.stats()
            env.run("udp", "-n", 50, "--timeout", 60000, "--max-lost", 0, target=SIX)
            after = env.stats()
            if after["checkpoints"]["total"] == before["checkpoints"]["total"]:
                break
        else:
            check(False, f"a checkpoint in each of five runs: {after['checkpoints']}")
        was, now = (stats["traffic"]["udp"] for stats in (before, after))
        matched, committed = (now[how]["packets"] - was[how]["packets"]
                              for how in ("released_match", "released_commit"))
        check(matched >= 50 and not committed, f"by match {matched}, by commit {committed}: {now}")

    @on("r1-fragments")
    def fragments(env):
        """fragments, IPv4 and IPv6: released when the whole datagram matches, and not before"""
        socks = [(env.socket(socket.SOCK_DGRAM), GUEST_IP),
                 (env.socket(socket.SOCK_DGRAM, socket.AF_INET6), GUEST_IP6)]
        env.answers()
        env.quiet()
        before = env.stats()
        for number in range(20):
            for sock, address in socks:
                sock.sendto(bytes([number]) * 4000, (address, 7))
                check(sock.recv(5000) == bytes([number]) * 4000, f"the answer of {address}")
        after = env.stats()
        matched = after["traffic"]["other"]["released_match"]["packets"] - \
            before["traffic"]["other"]["released_match"]["packets"]
        env.fact(f"{matched} fragments by match")
        check(matched >= 100, f"{matched} of 120 fragments by match")
        with env.stopped(env.daemon("secondary").pid):
            capture = Capture(env, "primary")
            held = env.stats()["traffic"]["other"]["held_now"]["packets"]
            for sock, address in socks:
                sock.sendto(bytes([99]) * 4000, (address, 7))
            wait_for(lambda: env.stats()["traffic"]["other"]["held_now"]["packets"] >= held + 6,
                     10, "six fragments are held")
            check(not capture.said(), "fragments get out")
        for sock, _address in socks:
            check(sock.recv(5000) == bytes([99]) * 4000, "the answer that was held")

    @on("r2-membership")
    def membership(env):
        """MLD: each VM answers a querier when it likes, and says all again when it was loaded; what it
        says of its groups is the same, so no checkpoint is late for it"""
        ask = querier(env)
        before = env.stats()

        def left(how, stats):
            return stats["traffic"]["other"][how]["packets"] - \
                before["traffic"]["other"][how]["packets"]

        def out():
            stats = env.stats()
            return left("released_match", stats) + left("released_commit", stats)

        for number in range(QUERIES):
            if number == QUERIES // 2:
                env.checkpoint()
            ask()
            wait_for(lambda count=number + 1: out() >= count, 10, f"{number + 1} reports")
        after = env.stats()
        late = after["checkpoints"]["cause"]["late"] - before["checkpoints"]["cause"]["late"]
        matched = left("released_match", after)
        env.fact(f"{matched} reports by match, {late} late checkpoints")
        check(matched >= QUERIES - 2 and late <= 1, f"{matched} by match, {late} late")

    @on("r1-secondary-frozen")
    def secondary_frozen(env):
        """with the secondary's daemon stopped nothing gets out: TCP, UDP, ICMP, ARP, IPv6"""
        keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
        env.quiet()
        before = env.stats()["traffic"]
        with env.stopped(env.daemon("secondary").pid):
            env.all_wait(1)
            captures = Capture(env, "primary")
            six = env.load("udp", "-n", 5, "-i", 20, "--timeout", 300, target=SIX)
            knock = env.silence()
            check(six.report()["lost"] == 5, "IPv6 gets out")
            check(not captures.said(), "frames of the VM get out")
            # The VM did speak: it is all held.
            held = env.stats()["traffic"]
            for kind in ("tcp", "udp", "icmp", "arp"):
                check(held[kind]["held_now"]["packets"] > 0 and
                      held[kind]["held"]["packets"] > before[kind]["held"]["packets"],
                      f"{kind} is held: {held[kind]}")
        keep.more("requests", 20)
        keep.stop().result()
        wait_for(lambda: knock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 and
                 connected(knock), 20, "the connection that was held opens")
        env.answers()

    @on("r1-primary-frozen")
    def primary_frozen(env):
        """with the primary's daemon stopped its VM runs, and nothing gets out"""
        keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
        with env.stopped(env.daemon("primary").pid):
            env.silence().close()
        keep.more("requests", 10)
        keep.stop().result()

    @on("r1-primary-killed")
    def primary_killed(env):
        """after the primary's daemon was killed nothing gets out, and its VM is gone"""
        loads = [env.load("rr", "-c", 2).reached("requests", 10),
                 env.load("download", "-b", 4000 * MB).reached("bytes", MB)]
        capture = Capture(env, "primary")
        pid = env.qemu_pid("primary")
        loads[0].more("requests", 10)
        env.daemon("primary").kill()
        env.daemon("primary").wait(PATIENCE)
        killed = time.time()
        env.silence(pings=5).close()
        late = [frame for frame in capture.said() if frame.at > killed]
        check(not late, f"{len(late)} frames after the daemon's death: {late[:1]}")
        wait_for(lambda: not alive(pid), 5, "QEMU dies with its daemon")


def connected(sock):
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(") ", 1)[1][0] not in "ZX"
    except FileNotFoundError:
        return False


for name in ("hold-tap", "nfqueue"):
    register(name)


BATCH = 64  # frames that are read from the hold at a time
HOLD_QUEUE = 10000  # frames that wait in the hold when a checkpoint is cut


def within_limits(env):
    """The queues never grew beyond their limits, and what was on its way when they were reached:
    all that the hold has when a checkpoint is cut belongs to the epoch that ends."""
    queues = env.stats()["queues"]
    for name, beyond in (("packets", HOLD_QUEUE), ("bytes", 32 << 20), ("flows", 0),
                         ("input_bytes", 0)):
        queue = queues[name]
        check(queue["high"] <= queue["limit"] + beyond, f"{name}: {queue}")
    env.fact(", ".join(f"{name} {queues[name]['high']}/{queues[name]['limit']}"
                       for name in ("packets", "bytes", "flows")))


SMALL = {"checkpoint": {"max-held-bytes": 1, "max-held-packets": 64, "max-flows": 16,
                        "max-input-log": 1},
         "replication": {"heartbeat-loss": 1000, "link-buffer": 1}}


@test("r8-small-limits", both=SMALL)
def small_limits(env):
    """limits a download, an upload and many connections run into: all whole, all within them"""
    loads = [env.load("download", "-b", 20 * MB), env.load("upload", "-b", 4 * MB),
             env.load("http", "-c", 30, "-n", 300, "--close"),
             env.load("udp", "-c", 4, "-n", 100)]
    for load in loads:
        load.result(90)
    stats = env.stats()
    within_limits(env)
    check(stats["kernel_drops"] == 0, f"{stats['kernel_drops']} frames lost in the kernel")
    check(stats["checkpoints"]["cause"]["pressure"] > 0, f"asked for: {stats['checkpoints']}")


@test("r8-stalled-link", valve=True, both=merge(PATIENT, {"checkpoint": {"max-held-bytes": 1}}))
def stalled_link(env):
    """a link that stands still holds everything; when it flows again nothing is lost"""
    loads = [env.load("keepalive", "--check-log", "-i", 2), env.load("rr", "-c", 4, "-i", 2),
             env.load("http", "-c", 16, target=URL + "/bytes/400000"),
             env.load("download", "-b", 30 * MB),
             env.load("upload", "-b", 4 * MB, "-r", MB)]
    for load in loads:
        load.more("bytes", 1)
    loads[2].more("requests", 100)
    env.tell_valve("rate 0")
    # What the SVM has said, and what it has been sent, is compared; then it is over.
    wait_for(lambda: env.load("ping", "-n", 3, "-i", 20, "--timeout", 500).report()["lost"] == 3,
             20, "the link stands still")
    env.silence().close()
    check(env.stats()["queues"]["packets"]["now"] > 0, "held")
    check(env.state("primary") == "protected", "still protected")
    within_limits(env)
    env.tell_valve("open")
    for load in loads[:3]:
        load.more("requests", 20)
        load.stop()
    for load in loads:
        load.result()


def full(queue):
    return queue if queue["now"] >= queue["limit"] else None


@test("r8-full-gate", valve=True, both=merge(PATIENT, SMALL))
def full_gate(env):
    """answers that no congestion window limits, with nothing released: the VM waits at the limit"""
    env.run("ping", "-n", 3)  # the client knows the VM's address
    env.tell_valve("rate 0")
    check(env.load("ping", "-n", 1500, "-i", 1, "--timeout", 500).report()["sent"] == 1500,
          "pings")
    packets = wait_for(lambda: full(env.stats()["queues"]["packets"]), 10, "the gate is full")
    check(packets["now"] < packets["limit"] + 4 * BATCH, f"{packets}")
    env.fact(f"{packets['now']} held, limit {packets['limit']}")
    env.tell_valve("open")
    env.run("keepalive", "-n", 20, "--check-log")


@test("r8-slow-link", valve=True, both=merge(PATIENT, {"checkpoint": {"max-held-bytes": 1},
                                                         "replication": {"link-buffer": 1,
                                                                         "heartbeat-loss": 1000}}))
def slow_link(env):
    """a link of 2 MB/s slows the VM's clients, and loses nothing"""
    env.checkpoint()  # what booting has dirtied is sent before
    capture = Capture(env, "primary", both=True)
    env.tell_valve(f"rate {2 * MB}")
    loads = [env.load("keepalive", "--check-log", "-i", 2),
             env.load("download", "-b", 3 * MB), env.load("upload", "-b", 2 * MB)]
    for load in loads:
        load.more("bytes", 1)
    env.ask_checkpoint()
    loads[0].more("requests", 5)
    results = [load.result(90) for load in loads[1:]]
    loads[0].stop().result()
    env.fact(", ".join(f"{result['mode']} {result['MBps']:.1f} MB/s" for result in results))
    Continuity().check(capture.frames())
    check(env.stats()["kernel_drops"] == 0, "frames lost in the kernel")


# Late is what the SVM does not say, and not what a busy machine's says late.
@test("r5-input", both={"checkpoint": {"late-timeout": 5000, "late-timeout-max": 5000,
                                       "longest-epoch": 600000}})
def input_order(env):
    """input that comes while a checkpoint is taken and loaded reaches both VMs, once, in order"""
    env.answers()
    loads = [env.load("udp", "-i", 2, "--timeout", 60000) for _ in range(4)]
    loads.append(env.load("keepalive", "--check-log", "-i", 1))
    for load in loads:
        load.reached("requests", 10)
    env.quiet()
    before = env.stats()
    for _ in range(40):
        env.checkpoint()
        # What was asked meanwhile is answered: an SVM that has not heard it says nothing.
        for load in loads:
            load.more("requests", 1)
        check(env.checkpoints("late") == before["checkpoints"]["cause"]["late"],
              "the SVM has missed input")
    for load in loads:
        load.stop()
    results = [load.result() for load in loads]
    after = env.stats()
    causes = {cause: after["checkpoints"]["cause"][cause] - before["checkpoints"]["cause"][cause]
              for cause in ("mismatch", "late", "pressure")}
    env.fact(f"40 checkpoints, {sum(result['requests'] for result in results[:4])} datagrams, {causes}")
    for result in results[:4]:
        check(result["lost"] == 0 and result["duplicates"] == 0, f"{result}")
    # A datagram that the SVM has missed or heard twice makes it say something else.
    check(after["traffic"]["udp"]["mismatched"]["packets"] ==
          before["traffic"]["udp"]["mismatched"]["packets"], f"{after['traffic']['udp']}")
    check(causes["mismatch"] == causes["late"] == 0, f"the VMs differ: {causes}")


@test("r5-upload", both={"checkpoint": {"longest-epoch": 100, "late-timeout": 100}})
def upload_under_checkpoints(env):
    """an upload and a request log under a checkpoint every 100 ms, then a power cut: exactly once"""
    keep = env.load("keepalive", "--check-log", "-i", 0).reached("requests", 10)
    load = env.load("upload", "-b", 24 * MB, "-r", 6 * MB).reached("bytes", 12 * MB, 60)
    env.wait_checkpoints(11)
    total = env.checkpoints()
    keep.more("requests", 10)
    env.cut()
    keep.more("requests", 20)
    env.stall(load.result(), keep.stop().result())
    env.fact(f"{total} checkpoints")


def client_tcp(env):
    """What the client's TCP has counted since its network began (proc_net_snmp, netstat)."""
    text = env.lab.run("client", ["cat", "/proc/net/snmp", "/proc/net/netstat"]).stdout
    lines = [line.split() for line in text.splitlines()]
    counts = {}
    for names, values in zip(lines[::2], lines[1::2]):
        counts.update(zip(names[1:], map(int, values[1:])))
    return counts


def retransmitted(env, size):
    """An upload: (segments sent again that the VM lacked, recoveries from loss or reordering, segments
    sent again), and whether the client's timer ran out, as it does whoever is talked to on a machine
    that stands still for 200 ms.

    A segment that the VM had already is answered by a DSACK (RFC 2883). Those are left out; but the
    one of a segment that a timer sent again at the end may come when nobody counts it. A segment
    that was lost, or was overtaken by others, has the client recover before its timer."""
    before = client_tcp(env)
    env.run("upload", "-b", size, seconds=90)
    after = client_tcp(env)
    new = {name: after[name] - before[name] for name in after}
    return ((max(new["RetransSegs"] - new["TCPDSACKRecvSegs"], 0),
             new["TCPFastRetrans"] + new["TCPSackRecovery"], new["RetransSegs"]),
            new["TCPTimeouts"] > 0)


@test("r5-retransmissions", both={"checkpoint": {"longest-epoch": 100, "late-timeout": 100}},
      down=True)
def retransmissions(env):
    """an upload under a checkpoint every 100 ms loses and reorders nothing that it did not before"""
    env.pair.start("primary")
    env.wait_guest()
    (lacked, recovered, _), _ = retransmitted(env, 24 * MB)
    env.pair.start("secondary")
    env.pair.wait_protected(30)
    checkpoints, uploads, timers = 0, 0, 0
    sums = [0, 0, 0]
    while checkpoints < 20:
        check(uploads + timers < 30, f"{checkpoints} checkpoints in {uploads} uploads; in {timers} "
                                     "the client's timer ran out")
        before = env.checkpoints()
        counts, timer = retransmitted(env, 48 * MB)
        check(counts[1] <= recovered, f"{counts[1]} recoveries; unprotected: {recovered}")
        if timer:
            timers += 1
            continue
        uploads += 1
        checkpoints += env.checkpoints() - before
        sums = [a + b for a, b in zip(sums, counts)]
    env.fact(f"{checkpoints} checkpoints in {uploads * 48} MB: {sums[2]} segments "
             f"sent again, {sums[0]} of them lacked, {sums[1]} recoveries; unprotected {lacked} and "
             f"{recovered} in 24 MB; the timer ran out in {timers} more uploads")
    check(sums[0] <= lacked, f"{sums[0]} segments were lost; unprotected: {lacked}")
    check(sums[1] <= recovered,
          f"{sums[1]} recoveries from loss or reordering; unprotected: {recovered}")
