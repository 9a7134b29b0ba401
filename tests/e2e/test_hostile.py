# SPDX-License-Identifier: GPL-2.0-or-later
"""Those who mean harm: a client, the guest, and whoever reaches the replication port. Nothing
crashes, nothing of the VM leaks (R1), and the service of others goes on."""

import contextlib
import logging
import random
import socket
import struct

from registry import Group, test
from rogue import BULK, Rogue
from support import (GUEST_IP, GUEST_IP6, GUEST_MAC, PATIENT, Capture, Env, Failed, check, merge,
                     wait_for)

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.all import (ARP, ICMP, IP, TCP, UDP, Dot1Q, Ether, ICMPv6EchoRequest, IPv6,  # noqa: E402
                       IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, LLC, Raw, SNAP,
                       raw)

CLIENT_MAC = "02:00:00:00:66:01"
TARGET = ("10.78.0.2", 7400)


# --- frames -----------------------------------------------------------------------------------------


def good_frames():
    """What a client may send, and what it should not but is well-formed."""
    eth = Ether(src=CLIENT_MAC, dst=GUEST_MAC)
    ip, ip6 = IP(src="10.77.0.66", dst=GUEST_IP), IPv6(src="fd00:77::66", dst=GUEST_IP6)
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("WScale", 7)]
    sack = [("NOP", None), ("SAck", (1, 2, 5, 6)), ("Timestamp", (9, 9))]
    for flags in ("", "S", "SA", "F", "FA", "R", "RA", "P", "PA", "U", "FPU", "SF", "SR", "FSRPAU"):
        yield eth / ip / TCP(sport=7777, dport=80, flags=flags, options=options) / Raw(b"GET / ")
    yield eth / ip / TCP(sport=7778, dport=80, flags="PA", seq=5, ack=9, options=sack) / Raw(b"x")
    yield eth / ip / TCP(sport=7779, dport=80, flags="PAU", urgptr=65535) / Raw(b"urgent")
    yield eth / ip / TCP(sport=7780, dport=80, flags="S", options=[(34, b"12345678")]) / Raw(b"tfo")
    yield eth / ip6 / TCP(sport=7781, dport=80, flags="PA", options=sack) / Raw(b"six")
    yield eth / ip / UDP(sport=7782, dport=7) / Raw(b"echo")
    yield eth / ip6 / UDP(sport=7783, dport=7) / Raw(b"echo")
    yield eth / ip / UDP(sport=0, dport=0) / Raw(b"")
    yield eth / ip / ICMP() / Raw(b"ping")
    yield eth / ip / ICMP(type=3, code=4) / ip / TCP(sport=80, dport=7777)
    yield eth / ip6 / ICMPv6EchoRequest(data=b"ping")
    yield eth / ARP(psrc="10.77.0.66", pdst=GUEST_IP, hwsrc=CLIENT_MAC)
    yield eth / ARP(op=2, psrc=GUEST_IP, pdst=GUEST_IP, hwsrc=CLIENT_MAC)
    yield eth / IP(src=GUEST_IP, dst=GUEST_IP) / TCP(sport=80, dport=80, flags="S")
    yield eth / IP(src="255.255.255.255", dst=GUEST_IP) / UDP(sport=7, dport=7) / Raw(b"loop")
    yield eth / ip.copy() / Raw(b"")
    yield eth / IP(src="10.77.0.66", dst=GUEST_IP, proto=132) / Raw(b"sctp" * 8)
    yield eth / IP(src="10.77.0.66", dst=GUEST_IP, options=[b"\x83\x07\x04\x0a\x4d\x00\x01\x00"]) / \
        UDP(dport=7) / Raw(b"routed")
    yield eth / Dot1Q(vlan=9) / Dot1Q(vlan=10) / ip / TCP(dport=80, flags="S")
    yield eth / LLC() / SNAP() / Raw(b"snap")
    yield eth / IPv6(src="fd00:77::66", dst=GUEST_IP6) / IPv6ExtHdrHopByHop() / \
        IPv6ExtHdrRouting(addresses=["fd00:77::1"]) / TCP(dport=80, flags="S")
    for offset, more in ((0, 1), (1, 1), (1, 0), (8191, 0), (8191, 1), (0, 0), (2, 1)):
        yield eth / IP(src="10.77.0.66", dst=GUEST_IP, id=77, frag=offset,
                       flags="MF" * more, proto=17) / Raw(b"fragment" * 2)
        yield eth / ip6 / IPv6ExtHdrFragment(id=78, offset=offset, m=more, nh=6) / \
            Raw(b"fragment" * 2)


def malformed(rng):
    """The good ones as they are, cut off at each length, and with bytes changed: lengths, header
    lengths, options, checksums, protocols, versions."""
    for good in good_frames():
        whole = raw(good)
        yield whole
        for length in range(15, min(len(whole), 90), 3):
            yield whole[:length]
        for _ in range(25):
            bad = bytearray(whole)
            for _ in range(rng.choice((1, 1, 2, 4))):
                bad[rng.randrange(12, min(len(bad), 80))] = rng.choice(
                    (0, 1, 0x0f, 0x40, 0x7f, 0x80, 0xff, rng.randrange(256)))
            yield bytes(bad)
        yield whole + b"\0" * (1500 - len(whole))


def wire(env):
    sock = env.socket(socket.SOCK_RAW, socket.AF_PACKET)
    sock.bind(("br0", 0))
    return sock


def send(sock, frames):
    count = 0
    for one in frames:
        with contextlib.suppress(OSError):
            sock.send(one)
            count += 1
    return count


# --- a client, the guest ----------------------------------------------------------------------------

LIMITS = {"checkpoint": {"max-flows": 512}}
group = Group(make=lambda: Env(ipv6=True, both=merge(PATIENT, LIMITS)))


def daemons_live(env, pids):
    for host, pid in pids.items():
        check(env.daemon(host).poll() is None and env.daemon(host).pid == pid,
              f"the daemon of {host} died")
    check(env.state("primary") == "protected" and env.state("secondary") == "standby",
          "still protected")


def bounded(env):
    flows = env.stats()["queues"]["flows"]
    check(flows["high"] <= flows["limit"], f"flows: {flows}")
    return flows


@test("hostile-client", group)
def client(env):
    """every malformed packet there is, beside a client whose connections go on; none leaks (R1)"""
    pids = {host: env.daemon(host).pid for host in ("primary", "secondary")}
    loads = [env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10),
             env.load("rr", "-c", 2, "-i", 5).reached("requests", 10)]
    rng = random.Random(5)
    frames = list(malformed(rng))
    sock = wire(env)
    count = send(sock, frames)
    for load in loads:
        load.more("requests", 20)
    daemons_live(env, pids)
    # The same with nobody to say the same: not one answer gets out.
    env.quiet()
    with env.stopped(env.daemon("secondary").pid):
        capture = Capture(env, "primary")
        held = env.stats()["traffic"]["total"]["held_now"]["packets"]
        send(sock, frames[::7])
        wait_for(lambda: env.stats()["traffic"]["total"]["held_now"]["packets"] > held, 20,
                 "the VM answers some")
        leaked = capture.said()
        check(not leaked, f"{len(leaked)} frames get out: {leaked[:1]}")
    for load in loads:
        load.more("requests", 20).stop().result(90)
    flows = bounded(env)
    env.fact(f"{count} frames, at most {flows['high']} of {flows['limit']} flows")


@test("hostile-guest", group)
def guest(env):
    """more connections from and to the guest than there is room for, and floods of datagrams"""
    pids = {host: env.daemon(host).pid for host in ("primary", "secondary")}
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    opened = env.load("accept", "-c", 550, "-n", 1100)
    short = env.load("http", "-c", 16, "-n", 600, "--close")
    sock = wire(env)
    eth = Ether(src=CLIENT_MAC, dst=GUEST_MAC)
    flood = [raw(eth / IP(src="10.77.0.1", dst=GUEST_IP) / UDP(sport=1024 + n, dport=7) /
                 Raw(b"flood" * 40)) for n in range(3000)]
    send(sock, flood)
    for load in (opened, short):
        load.result(90)
    keep.more("requests", 20).stop().result(60)
    daemons_live(env, pids)
    flows = bounded(env)
    check(flows["high"] > flows["limit"] // 2, f"the table was not filled: {flows}")
    pressure = env.stats()["checkpoints"]["cause"]["pressure"]
    env.fact(f"at most {flows['high']} of {flows['limit']} flows, {pressure} checkpoints for room")


# --- the replication port ---------------------------------------------------------------------------


def attacks():
    """name, what is done in a session that is up."""
    def replay(peer):
        peer.send("HEARTBEAT", payload=bytes(40))
        peer.channels[0].sock.sendall(peer.channels[0].last)

    yield "a frame twice", replay
    yield "a heartbeat of the wrong length", lambda peer: peer.send("HEARTBEAT", payload=b"short")
    yield "a checkpoint of a future epoch", lambda peer: peer.send(
        "CKPT_BEGIN", 0x7fffffff, struct.pack(">QQ", 4096, 0), BULK)
    yield "a part of a checkpoint that never began", lambda peer: peer.send(
        "CKPT_DATA", 9, bytes(64), BULK)
    yield "a handover to a future epoch", lambda peer: peer.send(
        "HANDOVER", 0x7fffffff, bytes(8))
    yield "an epoch without a copy", lambda peer: peer.send("START", 0x7fffffff, bytes(8))
    yield "input from nowhere", lambda peer: peer.send("INPUT", 3, bytes(100))
    yield "another VM", lambda peer: peer.send("PROTECT", payload=struct.pack(">I", 1) + bytes(200))
    yield "half a PROTECT", lambda peer: peer.send("PROTECT", payload=bytes(7))
    yield "a secondary's words", lambda peer: peer.send("COMMITTED", 0x7fffffff)
    yield "an unknown type", lambda peer: peer.channels[0].send(200, 0, b"?", peer.session)
    yield "a frame of another session", lambda peer: peer.channels[0].send(
        16, 0, bytes(40), peer.session ^ 1)
    yield "a sequence number from the future", lambda peer: peer.send(
        "HEARTBEAT", payload=bytes(40), sequence=1 << 40)
    yield "a length without end", lambda peer: peer.channels[1].sock.sendall(
        struct.pack(">IBBBBIIQQ", 0x434f4c4b, 1, 20, 1, 0, 0, 0xffffffff, 3, 0))
    yield "noise", lambda peer: peer.channels[0].sock.sendall(bytes(range(256)) * 64)


def opened(env, **kw):
    """A rogue's session; the one before may take a moment to be over."""
    def there():
        peer = Rogue(env, TARGET, **kw)
        with contextlib.suppress(Failed, OSError):
            if peer.open():
                return peer
        peer.close()
        return None

    return wait_for(there, 10, "a session")


@test("hostile-peer", both={"replication": {"encryption": "none"}}, down=True)
def peer(env):
    """a peer with the key that replays, claims future epochs and sends noise; then one beside a session"""
    env.pair.start("secondary")
    wait_for(lambda: env.state("secondary"), 10, "the daemon answers")
    capture = Capture(env, "secondary")
    for name, attack in attacks():
        rogue = opened(env)
        attack(rogue)
        rogue.close()
        check(env.daemon("secondary").poll() is None, f"{name}: the daemon died")
        state = env.state("secondary")
        check(state in ("waiting", "joining"), f"{name}: {state}")
    env.pair.start("primary")
    env.wait_guest()
    env.pair.wait_protected(30)
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    epoch = env.status("secondary")["committed"]
    noise = [env.socket(host="primary") for _ in range(40)]
    for number, sock in enumerate(noise):  # more than may be in set-up
        sock.connect(TARGET)
        if number % 2:
            sock.sendall(random.Random(number).randbytes(5000))
    for rogue in (Rogue(env, TARGET), Rogue(env, TARGET, key=bytes(32)),
                  Rogue(env, TARGET, name=b"another")):
        with contextlib.suppress(Failed, OSError):
            check(not rogue.open(), "a second session")
        rogue.close()
    keep.more("requests", 20)
    check(env.state("primary") == "protected" and env.state("secondary") == "standby",
          "still protected")
    check(env.status("secondary")["committed"] >= epoch, "what was committed stays so")
    check(not capture.said(), "the secondary spoke")
    env.cut()
    keep.more("requests", 20).stop().result()
