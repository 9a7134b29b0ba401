#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes unit/data/packets.txt: frames built by scapy and what scapy says is in them.

scapy is the independent reader that colo-proxy/core/packet.c is checked against. Each line is one
frame: a name and key=value words, separated by blanks. test_packet.c reads the file, which is
committed, so the test itself does not need scapy.

    packet_oracle.py > data/packets.txt

  start=eth|ip  hex=FRAME  class=tcp|udp|icmp|arp|other  why=WORDS_WITH_UNDERSCORES (other)
  src dst (dotted) plen (payload length) payload (hex)
  tcp: sport dport seq ack flags window urg mss wscale sackok tfo ts=VAL,ECR sack=L-R,L-R
       dseq dts: mapping deltas; out=FRAME in=FRAME setack=FRAME: after packet_map_out,
       packet_map_in, packet_set_ack(dseq), checksums computed by scapy
  udp: sport dport     icmp: type code id     arp: op spa tpa sha tha
"""
import logging
import random
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.all import (ARP, ICMP, IP, TCP, UDP, Dot1Q, Ether, IPv6, LLC, Raw, STP,  # noqa: E402
                       conf, raw)

conf.verb = 0
SEED = 20240607
MASK = 0xFFFFFFFF
MACS = {"src": "52:54:00:12:34:56", "dst": "52:54:00:ab:cd:ef"}
rng = random.Random(SEED)


def rand32():
    """Mostly random, often near the wrap."""
    pick = rng.randrange(4)
    if pick == 0:
        return (rng.randrange(16) - 8) & MASK
    if pick == 1:
        return (0x80000000 + rng.randrange(16) - 8) & MASK
    return rng.getrandbits(32)


def rand_ip():
    return ".".join(str(rng.randrange(1, 255)) for _ in range(4))


def tcp_options():
    """A list for scapy, at most 40 bytes, with NOPs anywhere so that fields stand at odd offsets."""
    parts = []
    if rng.random() < 0.8:
        parts.append((10, ("Timestamp", (rand32(), rand32()))))
    if rng.random() < 0.5:
        edges = [rand32() for _ in range(2 * rng.randrange(1, 4))]
        parts.append((2 + 4 * len(edges), ("SAck", tuple(edges))))
    if rng.random() < 0.3:
        parts.append((4, ("MSS", rng.getrandbits(16) | 1)))
    if rng.random() < 0.3:
        parts.append((3, ("WScale", rng.randrange(15))))
    if rng.random() < 0.3:
        parts.append((2, ("SAckOK", b"")))
    if rng.random() < 0.1:
        parts.append((2, (34, b"")))
    if rng.random() < 0.2:
        parts.append((6, (76, b"abcd")))
    rng.shuffle(parts)
    out, size = [], 0
    for length, option in parts:
        nops = rng.randrange(3)
        if size + nops + length > 40:
            continue
        out += [("NOP", None)] * nops + [option]
        size += nops + length
    return out


def rebuilt(packet, change):
    """The frame with the TCP header changed by change(tcp) and scapy's own checksums."""
    copy = packet.__class__(raw(packet))
    tail = copy.getlayer("Padding")
    padding = raw(tail) if tail else b""
    if tail:
        tail.underlayer.remove_payload()
    change(copy[TCP])
    del copy[TCP].chksum
    return raw(copy) + padding


def tcp_words(packet):
    tcp = packet[TCP]
    dseq, dts = rand32(), rand32()
    has_ack = "A" in tcp.flags

    def map_options(out):
        def one(name, value):
            if name == "Timestamp" and out:
                return (name, ((value[0] + dts) & MASK, value[1]))
            if name == "Timestamp" and has_ack and value[1]:
                return (name, (value[0], (value[1] - dts) & MASK))
            if name == "SAck" and not out and has_ack:
                return (name, tuple((edge - dseq) & MASK for edge in value))
            return (name, value)
        return [one(*option) for option in tcp.options]

    def change_out(t):
        t.seq = (t.seq + dseq) & MASK
        t.options = map_options(True)

    def change_in(t):
        if has_ack:
            t.ack = (t.ack - dseq) & MASK
            t.options = map_options(False)

    def set_ack(t):
        if has_ack:
            t.ack = dseq

    words = {
        "class": "tcp", "sport": tcp.sport, "dport": tcp.dport, "seq": tcp.seq, "ack": tcp.ack,
        "flags": int(tcp.flags), "window": tcp.window, "urg": tcp.urgptr, "dseq": dseq, "dts": dts,
        "out": rebuilt(packet, change_out).hex(), "in": rebuilt(packet, change_in).hex(),
        "setack": rebuilt(packet, set_ack).hex(),
    }
    for name, value in tcp.options:
        if name == "Timestamp":
            words["ts"] = "%u,%u" % value
        elif name == "SAck":
            words["sack"] = ",".join("%u-%u" % value[i:i + 2] for i in range(0, len(value), 2))
        elif name == "MSS":
            words["mss"] = value
        elif name == "WScale":
            words["wscale"] = value
        elif name == "SAckOK":
            words["sackok"] = 1
        elif name in (34, "TFO"):
            words["tfo"] = 1
    return words


def emit(name, packet, why=None, trailer=b""):
    """One line; the expectations are read back from the bytes by scapy."""
    at_ip = isinstance(packet, (IP, IPv6))
    data = raw(packet) + trailer
    parsed = packet.__class__(data)
    words = {"start": "ip" if at_ip else "eth", "hex": data.hex()}
    if why:
        words.update({"class": "other", "why": why.replace(" ", "_")})
    elif ARP in parsed:
        arp = parsed[ARP]
        words.update({"class": "arp", "op": arp.op, "spa": arp.psrc, "tpa": arp.pdst,
                      "sha": arp.hwsrc.replace(":", ""), "tha": arp.hwdst.replace(":", "")})
    else:
        ip = parsed[IP]
        words.update({"src": ip.src, "dst": ip.dst})
        layer = parsed[TCP] if TCP in parsed else parsed[UDP] if UDP in parsed else parsed[ICMP]
        start = (0 if at_ip else 14) + ip.ihl * 4 + \
            (layer.dataofs * 4 if TCP in parsed else 8)
        payload = data[start:(0 if at_ip else 14) + ip.len]
        words.update({"plen": len(payload), "payload": payload.hex()})
        if TCP in parsed:
            words.update(tcp_words(parsed))
        elif UDP in parsed:
            words.update({"class": "udp", "sport": layer.sport, "dport": layer.dport})
        else:
            words.update({"class": "icmp", "type": layer.type, "code": layer.code,
                          "id": layer.id if layer.type in (0, 8) else 0})
    print(name, " ".join("%s=%s" % item for item in words.items()))


def ip_layer(**more):
    options = rng.choice([[], [], [], b"\x94\x04\x00\x00", b"\x01" * 8])
    return IP(src=rand_ip(), dst=rand_ip(), id=rng.getrandbits(16), options=options,
              flags=rng.choice([0, "DF"]), **more)


def payload():
    return rng.randbytes(rng.choice([0, 0, 1, 2, 5, 17, 64, 101]))


def random_tcp(number):
    flags = rng.choice(["S", "SA", "A", "A", "PA", "FA", "FPA", "R", "RA", "SEC", "UA"])
    packet = ip_layer() / TCP(
        sport=rng.getrandbits(16), dport=rng.getrandbits(16), seq=rand32(), ack=rand32(),
        flags=flags, window=rng.getrandbits(16), urgptr=7 if "U" in flags else 0,
        options=tcp_options())
    data = payload()
    if data:
        packet = packet / Raw(data)
    if rng.random() < 0.2:
        emit("tcp-%u" % number, IP(raw(packet)))
        return
    packet = Ether(**MACS) / packet
    # What a NIC does to a short frame; sometimes with bytes that are not zero.
    short = max(0, 60 - len(raw(packet)))
    emit("tcp-%u" % number, packet, trailer=rng.choice([b"\0", b"\xaa"]) * short)


def tcp(**more):
    return Ether(**MACS) / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=80, dport=1234, **more)


def others():
    """Every reason for PACKET_OTHER that a frame with an EtherType can have."""
    ether = Ether(**MACS)
    ip = IP(src="10.0.0.1", dst="10.0.0.2")
    emit("vlan", ether / Dot1Q(vlan=5) / ip / UDP() / b"x", "VLAN tag")
    emit("qinq", Ether(type=0x88A8, **MACS) / Dot1Q(vlan=5) / Dot1Q(vlan=6) / ip / UDP() / b"x",
         "VLAN tag")
    emit("ipv6", ether / IPv6() / TCP(), "IPv6")
    emit("ipv6-ip", IPv6() / TCP(), "IPv6")
    emit("lldp", Ether(type=0x88CC, **MACS) / Raw(b"\x02\x07"), "unknown EtherType")
    emit("stp", Ether(type=38, **MACS) / LLC() / STP(), "802.3 length field")
    emit("frag-first", ether / IP(src="1.2.3.4", dst="4.3.2.1", flags="MF") / UDP() / b"abcdefgh",
         "IPv4 fragment")
    emit("frag-later", ether / IP(src="1.2.3.4", dst="4.3.2.1", frag=3, proto=6) / Raw(b"z" * 40),
         "IPv4 fragment")
    emit("sctp", ether / IP(src="1.2.3.4", dst="4.3.2.1", proto=132) / Raw(b"z" * 40),
         "unknown IP protocol")
    emit("big-tcp", ether / IP(src="1.2.3.4", dst="4.3.2.1", len=0) / TCP() / b"x",
         "IPv4 total length 0")
    emit("ip-long", ether / IP(src="1.2.3.4", dst="4.3.2.1", len=200) / TCP() / b"x",
         "bad IPv4 header")
    emit("ip-short", ether / IP(src="1.2.3.4", dst="4.3.2.1", len=19) / TCP() / b"x",
         "bad IPv4 header")
    emit("ip-ihl", ether / IP(src="1.2.3.4", dst="4.3.2.1", ihl=4) / TCP() / b"x",
         "bad IPv4 header")
    emit("ip-version", ether / IP(src="1.2.3.4", dst="4.3.2.1", version=5) / TCP() / b"x",
         "bad IPv4 header")
    emit("tcp-short", ether / IP(src="1.2.3.4", dst="4.3.2.1", proto=6) / Raw(b"z" * 19),
         "bad TCP header")
    emit("tcp-off-low", tcp(dataofs=4), "bad TCP header")
    emit("tcp-off-high", tcp(dataofs=6), "bad TCP header")
    emit("tcp-md5", tcp(options=[(19, b"m" * 16)]), "TCP MD5 or AO option")
    emit("tcp-ao", tcp(options=[(29, b"a" * 14)]), "TCP MD5 or AO option")
    emit("tcp-two-ts", tcp(options=[("Timestamp", (1, 2)), ("Timestamp", (3, 4))]),
         "bad TCP options")
    emit("tcp-ts-len", tcp(options=[(8, b"1234567")]), "bad TCP options")
    emit("tcp-sack-len", tcp(options=[(5, b"1234")]), "bad TCP options")
    emit("tcp-opt-overrun", tcp(dataofs=6) / Raw(b"\x08\x0a\x00\x00"), "bad TCP options")
    emit("tcp-opt-zero", tcp(dataofs=6) / Raw(b"\x4c\x00\x00\x00"), "bad TCP options")
    emit("tcp-opt-cut", tcp(dataofs=6) / Raw(b"\x01\x01\x01\x08"), "bad TCP options")
    emit("udp-short", ether / IP(src="1.2.3.4", dst="4.3.2.1", proto=17) / Raw(b"z" * 7),
         "bad UDP length")
    emit("udp-surplus", ether / ip / UDP(len=9) / b"xy", "bad UDP length")
    emit("udp-overrun", ether / ip / UDP(len=11) / b"xy", "bad UDP length")
    emit("icmp-short", ether / IP(src="1.2.3.4", dst="4.3.2.1", proto=1) / Raw(b"z" * 7),
         "short ICMP message")
    emit("arp-rarp-type", ether / ARP(ptype=0x86DD), "ARP not for IPv4 over Ethernet")
    emit("arp-hwlen", ether / ARP(hwlen=8), "ARP not for IPv4 over Ethernet")


def main():
    print("# Made by packet_oracle.py with scapy; do not edit. Seed %u." % SEED)
    for number in range(160):
        random_tcp(number)
    for number in range(20):
        packet = ip_layer() / UDP(sport=rng.getrandbits(16), dport=rng.getrandbits(16))
        packet = packet / Raw(payload() or b"u")
        emit("udp-%u" % number, Ether(**MACS) / packet, trailer=b"\x55" * rng.randrange(8))
    emit("udp-empty", Ether(**MACS) / ip_layer() / UDP(sport=1, dport=2), trailer=b"\0" * 18)
    for number in range(12):
        packet = ip_layer() / ICMP(type=rng.choice([0, 8]), id=rng.getrandbits(16), seq=number)
        emit("echo-%u" % number, Ether(**MACS) / packet / Raw(payload() or b"e"))
    emit("unreachable", Ether(**MACS) / ip_layer() / ICMP(type=3, code=4) / ip_layer() / UDP())
    for op in (1, 2):
        emit("arp-%u" % op, Ether(**MACS) / ARP(op=op, psrc=rand_ip(), pdst=rand_ip(),
                                                hwsrc=MACS["src"], hwdst=MACS["dst"]),
             trailer=b"\x77" * 18)
    others()


if __name__ == "__main__":
    sys.exit(main())
