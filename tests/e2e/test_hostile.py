# SPDX-License-Identifier: GPL-2.0-or-later
"""Those who mean harm: a client, the guest, and whoever reaches the replication port. Nothing
crashes, nothing of the VM leaks (R1), and the service of others goes on."""

import contextlib
import json
import logging
import random
import socket
import struct
import threading
import time

from registry import Group, test
from rogue import BULK, Rogue
from support import (GUEST_IP, GUEST_IP6, GUEST_MAC, PATIENCE, PATIENT, UNHURRIED, Capture, Env,
                     Failed, Frame, check, merge, no_fence, wait_for)

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


def wire(env, protocol=0):
    sock = env.socket(socket.SOCK_RAW, socket.AF_PACKET)
    sock.bind(("br0", protocol))
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


def syn_of(frame):
    """The connection that a SYN of the VM's opens, or None."""
    opens = frame.tcp and frame.flags & Frame.SYN
    return (frame.sport, frame.dport, frame.seq) if opens else None


def held_now(env):
    return env.stats()["traffic"]["total"]["held_now"]["packets"]


def bounded(env):
    flows = env.stats()["queues"]["flows"]
    check(flows["high"] <= flows["limit"], f"flows: {flows}")
    return flows


@test("hostile-client", group)
def client(env):
    """every malformed packet there is, beside a client whose connections go on; none leaks (R1)"""
    pids = {host: env.daemon(host).pid for host in ("primary", "secondary")}
    before = Capture(env, "primary")
    loads = [env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10),
             env.load("rr", "-c", 2, "-i", 5).reached("requests", 10)]
    rng = random.Random(5)
    frames = list(malformed(rng))
    sock = wire(env)
    count = send(sock, frames)
    for load in loads:
        load.more("requests", 20)
    daemons_live(env, pids)
    # The same with nobody to say the same: not one answer gets out, but that a SYN-ACK which nobody
    # acknowledges is repeated, as both VMs have said it.
    env.quiet()
    opened_before = {syn_of(frame) for frame in before.said()} - {None}
    with env.stopped(env.daemon("secondary").pid):
        env.all_wait(3)
        capture = Capture(env, "primary")
        held = held_now(env)
        send(sock, frames[::7])
        wait_for(lambda: held_now(env) > held, 20,
                 "the VM answers some")
        leaked = [frame for frame in capture.said() if syn_of(frame) not in opened_before]
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


# --- a guest that goes past its own TCP -------------------------------------------------------------

NOBODYS_MAC = "02:00:00:00:66:02"
NOBODY = "10.77.0.66"  # no host has it
FRAMES_PORT = 9


class Sender:
    """The guest sends what it is told, as frames (tests/guest/guestd.c, port 9)."""

    BOTH, UNMARKED, MARKED, FLOOD = range(4)

    def __init__(self, env):
        self.env, self.sock = env, env.connect(FRAMES_PORT)

    def records(self, records):
        """Each is answered when it was sent: by both VMs, or the answer would not be out."""
        self.sock.sendall(b"".join(struct.pack(">BH", kind, len(data)) + data
                                   for kind, data in records))
        answers = b""
        while len(answers) < len(records):
            more = self.sock.recv(65536)
            check(more, "the guest takes no record")
            answers += more

    def flood(self, count, every, first, second):
        self.records([(self.FLOOD, struct.pack(">IHH", count, every, len(first)) + first + second)])


def mark_secondary(env, mark=b"S"):
    """A datagram that only the SVM is given: from here on it is another one, until a checkpoint."""
    sock = env.socket(socket.SOCK_RAW, socket.AF_PACKET, "secondary")
    sock.bind(("vm0", 0))
    frame = Ether(src=CLIENT_MAC, dst=GUEST_MAC) / IP(src="10.77.0.1", dst=GUEST_IP) / \
        UDP(sport=9, dport=FRAMES_PORT) / Raw(mark)
    sock.send(raw(frame))


class Stream:
    """A connection that the guest makes up, with other numbers in each VM. By stream offset: what
    the PVM says, in which frames, and what the SVM says."""

    PVM_ISS, SVM_ISS = 0xfffffff0, 1000  # the PVM's wraps

    def __init__(self, port):
        self.port = port
        self.bytes = bytes((port * 7 + n * 13 + n // 251) % 256 for n in range(4000))

    def frame(self, iss, offset, data, flags="PA", **ip):
        return Ether(src=GUEST_MAC, dst=NOBODYS_MAC) / IP(src=GUEST_IP, dst=NOBODY, **ip) / \
            TCP(sport=self.port, dport=4000, flags=flags, ack=1,
                seq=(iss + offset + (flags != "S")) & 0xffffffff) / Raw(data)

    def primary(self, offset, data, flags="PA", **ip):
        return Sender.UNMARKED, raw(self.frame(self.PVM_ISS, offset, data, flags, **ip))

    def secondary(self, offset, data, flags="PA"):
        return Sender.MARKED, raw(self.frame(self.SVM_ISS, offset, data, flags))

    def good(self, offset, size):
        return self.bytes[offset:offset + size]

    def bad(self, size):
        return b"\xee" * size

    def syn(self):
        return [self.primary(0, b"", "S"), self.secondary(0, b"", "S")]

    def honest(self, offset, size):
        data = self.good(offset, size)
        return [self.primary(offset, data), self.secondary(offset, data)]


def changed(record, change):
    frame = Ether(record[1])
    change(frame)
    return record[0], raw(frame)


def wrong_checksum(frame):
    frame[TCP].chksum ^= 0x5555


def equal_looking():
    """name, what a connection's VMs say beyond its first 100 bytes: only what the SVM says, too, may
    get out. Which bytes those are the capture is asked, frame by frame."""
    def case(name, make):
        made.append((name, make))

    made = []
    case("other bytes where some were said", lambda s: [s.primary(0, s.bad(100))])
    case("a part of them", lambda s: [s.primary(30, s.bad(20))])
    case("overlapping, new in part", lambda s: [
        s.primary(50, s.bad(50) + s.good(100, 50)), s.secondary(100, s.good(100, 50))])
    case("the right bytes where no client takes them: a checksum", lambda s: [
        changed(s.primary(100, s.good(100, 50)), wrong_checksum), s.primary(100, s.bad(50)),
        s.secondary(100, s.good(100, 50))])
    case("the right bytes where no client takes them: TTL", lambda s: [
        s.primary(100, s.good(100, 50), ttl=1), s.secondary(100, s.good(100, 50)),
        s.primary(100, s.bad(50))])
    case("two that overlap", lambda s: [
        s.primary(100, s.good(100, 60)), s.primary(130, s.bad(30) + s.good(160, 30)),
        s.secondary(100, s.good(100, 90))])
    case("beyond the window", lambda s: [s.primary(1 << 30, s.bad(50))])
    case("half the numbers before", lambda s: [s.primary(-(1 << 31) + 9, s.bad(50))])
    case("2^32 further", lambda s: [s.primary((1 << 32) + 10, s.bad(50))])
    case("the other VM's numbers", lambda s: [
        (Sender.UNMARKED, raw(s.frame(s.SVM_ISS, 0, s.bad(50))))])
    case("the other VM's SYN", lambda s: [
        (Sender.UNMARKED, raw(s.frame(s.SVM_ISS, 0, b"", "S"))),
        (Sender.UNMARKED, raw(s.frame(s.SVM_ISS, 0, s.bad(50))))])
    case("an end where the stream goes on", lambda s: [
        s.primary(50, b"", "FA"), s.primary(0, s.good(0, 50), "FA"), *s.honest(100, 50)])
    case("a reset that the SVM does not say", lambda s: [s.primary(100, b"", "RA")])
    case("an acknowledgement of what only the PVM has", lambda s: [
        changed(s.primary(100, b""), lambda f: (setattr(f[TCP], "ack", 999),
                                                delattr(f[TCP], "chksum")))])
    case("in fragments that overlap", lambda s: [
        (Sender.UNMARKED, raw(Ether(src=GUEST_MAC, dst=NOBODYS_MAC) / IP(
            src=GUEST_IP, dst=NOBODY, id=s.port, proto=6, frag=at, flags=more) / Raw(data)))
        for at, more, data in (
            (0, "MF", raw(s.frame(s.PVM_ISS, 100, s.good(100, 60))[TCP])[:40]),
            (2, "MF", s.bad(24)), (5, 0, s.bad(40)))])
    case("a copy in a VLAN", lambda s: [
        (Sender.UNMARKED, raw(Ether(src=GUEST_MAC, dst=NOBODYS_MAC) / Dot1Q(vlan=7) /
                              s.frame(s.PVM_ISS, 0, s.bad(100))[IP]))])
    case("in another address's name", lambda s: [
        changed(s.primary(100, s.bad(50)), lambda f: (
            setattr(f[IP], "src", "10.77.0.99"), setattr(f, "src", CLIENT_MAC),
            delattr(f[IP], "chksum"), delattr(f[TCP], "chksum")))])
    case("with urgent data", lambda s: [
        changed(s.primary(100, s.bad(50)), lambda f: (
            setattr(f[TCP], "flags", "PAU"), setattr(f[TCP], "urgptr", 50),
            delattr(f[TCP], "chksum")))])
    return made


def leaks(stream, name, frames):
    """Frames of the connection, or in its clothes, that the SVM has not said: by offset and byte."""
    for frame in frames:
        packet = Ether(frame.data)
        if not packet.haslayer(TCP):
            if packet.haslayer(IP) and packet[IP].id == stream.port:
                yield f"{name}: a fragment"
            continue
        if packet[TCP].sport != stream.port:
            continue
        data = bytes(packet[TCP].payload)[:max(0, packet[IP].len - 20 - packet[TCP].dataofs * 4)]
        offset = (packet[TCP].seq - stream.PVM_ISS - 1) & 0xffffffff
        if "S" in packet[TCP].flags:
            same = packet[TCP].seq == stream.PVM_ISS
        else:
            same = data == stream.bytes[offset:offset + len(data)] and packet[TCP].ack == 1 and \
                not packet[TCP].flags & 0x25  # FIN, RST, URG
        if not same or packet.haslayer(Dot1Q):
            yield f"{name}: {packet.summary()}, offset {offset}"


@test("hostile-equal", both=merge(PATIENT, UNHURRIED))
def equal(env):
    """the PVM says what the SVM does not, built to look the same: only a checkpoint lets it out"""
    cases = [(name, make, Stream(10000 + n)) for n, (name, make) in enumerate(equal_looking())]
    pids = {host: env.daemon(host).pid for host in ("primary", "secondary")}
    sender = Sender(env)
    env.checkpoint()
    epoch = env.status("primary")["epoch"]
    mark_secondary(env)
    capture, later = Capture(env, "primary", whole=True), Capture(env, "primary", whole=True)
    probe = Stream(9999)  # behind all of them, and honest
    streams = [stream for _name, _make, stream in cases] + [probe]
    sender.records([record for stream in streams for record in stream.syn()])
    wait_for(lambda: not held_now(env), 10, "both have opened the same")
    for _name, _make, stream in cases:
        sender.records(stream.honest(0, 100))
    # The last one is what no VM is asked for: it asks for a checkpoint at once.
    for _name, make, stream in cases[:-1]:
        sender.records(make(stream))
    sender.records(probe.honest(0, 100))
    held = held_now(env)
    check(held >= len(cases) - 2, f"{held} frames held for {len(cases)} cases")
    check(env.status("primary")["epoch"] == epoch, "a checkpoint came in between")
    frames = capture.frames()
    found = [leak for name, _make, stream in cases for leak in leaks(stream, name, frames)]
    check(not found, f"{len(found)} leaks: {found[:5]}")
    for stream in streams:
        check(any(frame.tcp and frame.sport == stream.port and frame.length == 100
                  for frame in frames), f"the honest bytes of {stream.port} are not out")
    # A checkpoint lets it out: the survivor would have said it, too.
    _name, make, stream = cases[-1]
    sender.records(make(stream))
    wait_for(lambda: not held_now(env), 20, "nothing is held")
    check(env.status("primary")["epoch"] > epoch, "a checkpoint")
    frames = later.frames()
    let = {name for name, _make, stream in cases for _ in leaks(stream, name, frames)}
    check(len(let) >= len(cases) - 1, f"never said: {sorted({c[0] for c in cases} - let)}")
    daemons_live(env, pids)
    env.answers()
    env.fact(f"{len(cases)} cases, {held} frames held until the checkpoint")


class Handshakes:
    """A client host that answers each SYN to an address of nobody's, and remembers nothing but that
    it has seen the ports."""

    def __init__(self, env):
        self.sock = wire(env, 3)  # ETH_P_ALL: it listens, too
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 128 << 20)
        self.sock.settimeout(0.2)
        self.mac = json.loads(env.lab.run("client", ["ip", "-j", "link", "show", "br0"]).stdout
                              )[0]["address"]
        self.seen, self.finished = set(), set()
        self.over = False
        answer = Ether(src=self.mac, dst=GUEST_MAC) / IP(src=NOBODY, dst=FLOOD_IP) / \
            TCP(flags="SA", seq=0, sport=1, dport=1)
        self.answer = bytearray(raw(answer))
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over:
            with contextlib.suppress(TimeoutError, OSError):
                self.take(self.sock.recv(2048))

    def take(self, data):
        if data[6:12] == CLIENT_MAC_BYTES or len(data) < 54 or data[12:14] != b"\x08\0" or \
                data[26:34] != FLOOD_ADDRESSES:
            return
        ports, flags = data[34:38], data[47]
        if flags & Frame.SYN:
            if ports not in self.seen and len(self.seen) % 10 == 0:
                self.say(ports, struct.unpack_from(">I", data, 38)[0])
            self.seen.add(ports)
        elif flags & Frame.ACK:
            self.finished.add(ports)

    def say(self, ports, seq):
        """SYN-ACK; the checksum is right by leaving it to nobody: the address is not the guest's own."""
        self.answer[34:38] = ports[2:4] + ports[0:2]
        self.answer[42:46] = struct.pack(">I", (seq + 1) & 0xffffffff)
        with contextlib.suppress(OSError):
            self.sock.send(self.answer)

    def seen_most(self):
        """A commit lets out thousands at once, of which the switch's kernel may drop some."""
        return len(self.seen) >= FLOOD * 0.99 and len(self.finished) >= FLOOD // 10 * 0.99

    def __str__(self):
        return f"{len(self.seen)} SYNs of {FLOOD}, {len(self.finished)} handshakes"

    def stop(self):
        self.over = True
        self.thread.join(PATIENCE)


FLOOD_IP = "10.77.0.11"  # the guest's, but not its kernel's, which would reset what it does not know
FLOOD_ADDRESSES = socket.inet_aton(FLOOD_IP) + socket.inet_aton(NOBODY)
CLIENT_MAC_BYTES = bytes.fromhex(CLIENT_MAC.replace(":", ""))
FLOOD = 100_000
SO_RCVBUFFORCE = 33


def flood_frames(client, dport):
    both = [Ether(src=GUEST_MAC, dst=client.mac) / IP(src=FLOOD_IP, dst=NOBODY) / tcp
            for tcp in (TCP(dport=dport, flags="S", seq=7), TCP(dport=dport, flags="A", seq=8,
                                                                ack=1))]
    return [raw(frame) for frame in both]


@test("hostile-flood", both=PATIENT)
def flood(env):
    """100,000 connections of the guest's at once, every tenth with its handshake, at the default limits"""
    pids = {host: env.daemon(host).pid for host in ("primary", "secondary")}
    loads = [env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10),
             env.load("rr", "-c", 2, "-i", 5).reached("requests", 10)]
    client, sender = Handshakes(env), Sender(env)
    said = env.stats()["traffic"]["tcp"]["held"]["packets"]
    began = time.monotonic()
    sender.flood(FLOOD, 10, *flood_frames(client, 5000))
    wait_for(client.seen_most, 120, client)
    wait_for(lambda: env.stats()["traffic"]["tcp"]["held"]["packets"] > said + FLOOD, 60,
             "the gate has had all of them")
    seconds = time.monotonic() - began
    flows = bounded(env)
    check(flows["limit"] == 65536 and flows["high"] == flows["limit"], f"not filled: {flows}")
    for load in loads:
        load.more("requests", 20)
    # With nobody to say the same not one gets out.
    env.quiet()
    with env.stopped(env.daemon("secondary").pid):
        env.all_wait(3)
        held = held_now(env)
        capture = Capture(env, "primary")
        sender.sock.sendall(struct.pack(">BH", Sender.FLOOD, 8 + 108) + struct.pack(
            ">IHH", 2000, 10, 54) + b"".join(flood_frames(client, 5100)))
        wait_for(lambda: held_now(env) > held + 1000, 30,
                 "the guest floods")
        leaked = capture.said()
        check(not leaked, f"{len(leaked)} frames get out: {leaked[:1]}")
    for load in loads:
        load.more("requests", 20).stop().result(90)
    client.stop()
    daemons_live(env, pids)
    stats = env.stats()
    env.fact(f"{FLOOD} connections in {seconds:.1f} s, at most {flows['high']} of {flows['limit']} "
             f"flows, {stats['checkpoints']['cause']['pressure']} checkpoints for room")


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


TAMPER = ("repeat", "swap", "drop", "flip", "shorten", "old")


@test("hostile-middle", valve="records", both=no_fence())
def middle(env):
    """a man in the middle repeats, reorders, drops and changes TLS records: the session ends, no more"""
    pids = {host: env.daemon(host).pid for host in ("primary", "secondary")}
    captures = {host: Capture(env, host) for host in ("primary", "secondary")}
    loads = [env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10),
             env.load("rr", "-c", 2, "-i", 5).reached("requests", 10)]
    for what in TAMPER:
        session = env.qemu_pid("secondary")
        env.tell_valve(f"tamper {what}")
        env.valve.wait_line("^tampered$", 15, env.valve_mark)
        wait_for(lambda: env.status("secondary")["qemu_pid"] != session, 30,
                 f"{what}: the session ends")
        env.pair.wait_protected(30)
        for load in loads:
            load.more("requests", 20)
    for load in loads:
        load.stop().result()
    daemons_live(env, pids)
    said = {host: capture.said() for host, capture in captures.items()}
    check(said["primary"] and not said["secondary"], "the secondary spoke")


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
