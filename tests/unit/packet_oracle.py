#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes unit/data/packets.txt: frames built by scapy and what scapy says is in them.

scapy is the independent reader that colo-proxy/core/packet.c is checked against. Each line is one
frame: a name and key=value words, separated by blanks. test_packet.c reads the file, which is
committed, so the test itself does not need scapy.

    packet_oracle.py > data/packets.txt

  start=eth|ip  hex=FRAME  class=tcp|udp|icmp|arp|whole|membership|other
  why=WORDS_WITH_UNDERSCORES (other)
  row=NAME of the protocol's row in the table of protocols.c, with underscores
  tags=VID or VID.VID (VLAN tags)
  src dst plen (payload length) payload (hex)
  exempt=WORDS: TCP that is parsed, but not compared
  tcp: sport dport seq ack flags window urg mss wscale sackok tfo ts=VAL,ECR sack=L-R,L-R
       dseq dts: mapping deltas; out=FRAME in=FRAME setack=FRAME: after packet_map_out,
       packet_map_in, packet_set_ack(dseq), checksums computed by scapy
  udp: sport dport     icmp: type code id     arp: op spa tpa sha tha
  membership: words=GROUP=MEANING;...: I, E, A or B and sources with commas, of each record of the
       group with + between
"""
import logging
import random
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.all import (ARP, BOOTP, DHCP, ICMP, IP, LLC, SNAP, STP, TCP, UDP,  # noqa: E402
                       DHCP6_Solicit, Dot1Q, Ether, HBHOptUnknown, ICMPv6DestUnreach,
                       ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6MLDMultAddrRec, ICMPv6MLDone,
                       ICMPv6MLQuery, ICMPv6MLReport, ICMPv6MLReport2, ICMPv6ND_NA, ICMPv6ND_NS,
                       ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6, IPv6ExtHdrDestOpt,
                       IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, Jumbo, HAO, PadN,
                       Raw, RouterAlert, bind_bottom_up, conf, raw)
from scapy.contrib.igmp import IGMP  # noqa: E402
from scapy.contrib.igmpv3 import IGMPv3, IGMPv3gr, IGMPv3mr  # noqa: E402
from scapy.contrib.lldp import (LLDPDU, LLDPDUChassisID, LLDPDUEndOfLLDPDU,  # noqa: E402
                                LLDPDUPortID, LLDPDUTimeToLive)

conf.verb = 0
bind_bottom_up(Ether, Dot1Q, type=0x9100)
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


def rand_ip6():
    return ":".join("%x" % rng.getrandbits(16) for _ in range(8))


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


def exempt(tcp, payload):
    """Which TCP is parsed but not compared."""
    if any(name in (34, "TFO") for name, _value in tcp.options):
        return "TCP_Fast_Open"
    if "S" in tcp.flags and payload:
        return "data_in_a_SYN"
    return "urgent_data" if "U" in tcp.flags else None


def membership(report):
    """What a report says of each group, in its order; None when it is no report."""
    records = []
    if isinstance(report, IGMPv3):  # which is an IGMP, too
        records = [(r.maddr, "?IEIEAB"[r.rtype], r.srcaddrs) for r in report[IGMPv3mr].records]
    elif isinstance(report, IGMP):
        records = [(report.gaddr, "I" if report.type == 0x17 else "E", [])]
    elif isinstance(report, (ICMPv6MLReport, ICMPv6MLDone)):
        records = [(report.mladdr, "I" if report.type == 132 else "E", [])]
    elif isinstance(report, ICMPv6MLReport2):
        record = report.records[0] if report.records else None
        while isinstance(record, ICMPv6MLDMultAddrRec):  # read one inside of another
            records.append((record.dst, "?IEIEAB"[record.rtype], record.sources))
            record = record.payload
    groups = []
    for group, meaning, sources in records:
        meaning += ",".join(sources)
        if groups and groups[-1][0] == group:
            groups[-1][1] += "+" + meaning
        else:
            groups.append([group, meaning])
    return ";".join("%s=%s" % tuple(group) for group in groups) or None


def ip_words(packet, data, trailer):
    """What scapy says of TCP, UDP, ICMP, ICMPv6 and IGMP; @data: without padding."""
    network = packet[IPv6] if IPv6 in packet else packet[IP]
    words = {"src": network.src, "dst": network.dst}
    inner = network.payload
    while type(inner).__name__.startswith("IPv6ExtHdr"):
        inner = inner.payload
    start = len(data) - len(raw(inner))
    head = inner.dataofs * 4 if isinstance(inner, TCP) else 0 if isinstance(inner, IGMP) else 8
    payload = data[start + head:]
    words.update({"plen": len(payload), "payload": payload.hex()})
    if isinstance(inner, TCP):
        words.update(tcp_words(packet.__class__(data + trailer)))
        words.update({"row": "TCP"})
        if exempt(inner, payload):
            words["exempt"] = exempt(inner, payload)
    elif isinstance(inner, UDP):
        words.update({"class": "udp", "sport": inner.sport, "dport": inner.dport, "row": "UDP"})
    elif isinstance(inner, IGMP) and inner.type == 0x11:
        words.update({"class": "whole", "row": "IGMP"})
    elif membership(inner):
        words.update({"class": "membership", "words": membership(inner)})
    elif isinstance(inner, ICMP):
        words.update({"class": "icmp", "type": inner.type, "code": inner.code, "row": "ICMP",
                      "id": inner.id if inner.type in (0, 8) else 0})
    else:
        words.update({"class": "icmp", "type": inner.type, "row": "ICMPv6",
                      "code": getattr(inner, "code", 0),
                      "id": inner.id if inner.type in (128, 129) else 0})
    return words


def emit(name, packet, why=None, trailer=b"", row=None):
    """One line; the expectations are read back from the bytes by scapy. @row: where the table has
    one that says more than the layers do."""
    at_ip = isinstance(packet, (IP, IPv6))
    data = raw(packet)
    parsed = packet.__class__(data)
    words = {"start": "ip" if at_ip else "eth", "hex": (data + trailer).hex()}
    tags = []
    tag = packet.getlayer(Dot1Q)
    while tag and not why:
        tags.append(str(tag.vlan))
        tag = tag.payload if isinstance(tag.payload, Dot1Q) else None
    if tags:
        words["tags"] = ".".join(tags)
    if why:
        words.update({"class": "other", "why": why.replace(" ", "_")})
    elif ARP in parsed:
        arp = parsed[ARP]
        words.update({"class": "arp", "op": arp.op, "spa": arp.psrc, "tpa": arp.pdst, "row": "ARP",
                      "sha": arp.hwsrc.replace(":", ""), "tha": arp.hwdst.replace(":", "")})
    elif IP in parsed or IPv6 in parsed:
        words.update(ip_words(parsed, data, trailer))
    else:
        body = data[14 + 4 * len(tags):]
        words.update({"class": "whole", "plen": len(body), "payload": body.hex()})
    if row:
        words["row"] = row.replace(" ", "_")
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


def ip6_layer(**more):
    """IPv6, mostly with extension headers that do not matter."""
    packet = IPv6(src=rand_ip6(), dst=rand_ip6(), hlim=rng.randrange(1, 256), **more)
    if rng.random() < 0.4:
        packet = packet / IPv6ExtHdrHopByHop(options=[RouterAlert(value=0)])
    if rng.random() < 0.2:
        packet = packet / IPv6ExtHdrRouting(type=0, segleft=0, addresses=[rand_ip6()])
    if rng.random() < 0.4:
        packet = packet / IPv6ExtHdrDestOpt(options=[PadN(optdata=rng.randbytes(4))])
    if rng.random() < 0.2:  # all of a packet (RFC 6946)
        packet = packet / IPv6ExtHdrFragment(id=rng.getrandbits(32))
    return packet


def tagged():
    """Ethernet with no tag, one, or two."""
    pick = rng.randrange(4)
    vid = rng.randrange(4096)
    if pick == 0:
        return Ether(**MACS)
    if pick == 1:
        return Ether(**MACS) / Dot1Q(vlan=vid, prio=rng.randrange(8))
    if pick == 2:
        return Ether(type=0x88A8, **MACS) / Dot1Q(vlan=vid) / Dot1Q(vlan=rng.randrange(4096))
    return Ether(type=0x9100, **MACS) / Dot1Q(vlan=vid) / Dot1Q(vlan=rng.randrange(4096))


def random_tcp_wide(number):
    """IPv6, and both in VLANs."""
    flags = rng.choice(["S", "SA", "A", "A", "PA", "FA", "FPA", "R", "RA", "SEC", "UA"])
    six = rng.random() < 0.7
    layer = ip6_layer() if six else ip_layer()
    packet = layer / TCP(
        sport=rng.getrandbits(16), dport=rng.getrandbits(16), seq=rand32(), ack=rand32(),
        flags=flags, window=rng.getrandbits(16), urgptr=7 if "U" in flags else 0,
        options=tcp_options())
    data = payload()
    if data:
        packet = packet / Raw(data)
    if six and rng.random() < 0.2:
        emit("tcpw-%u" % number, IPv6(raw(packet)))
        return
    packet = tagged() / packet
    emit("tcpw-%u" % number, packet, trailer=b"\xaa" * rng.randrange(8))


def rows():
    """A frame for each row of the table that the random ones do not reach, and some more."""
    ether = Ether(**MACS)
    for number in range(20):
        packet = tagged() / ip6_layer() / UDP(sport=rng.getrandbits(14) + 1024,
                                              dport=rng.getrandbits(14) + 1024)
        emit("udp6-%u" % number, packet / Raw(payload() or b"u"), trailer=b"\x55" * 3)
    for number in range(8):
        kind = ICMPv6EchoRequest if number % 2 else ICMPv6EchoReply
        emit("echo6-%u" % number, tagged() / ip6_layer() /
             kind(id=rng.getrandbits(16), seq=number, data=payload()))
    emit("unreachable6", ether / ip6_layer() / ICMPv6DestUnreach(code=4) / ip6_layer() / UDP())
    emit("dhcp", ether / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) /
         BOOTP(chaddr=b"\x52\x54\0\0\0\1", xid=1) / DHCP(options=[("message-type", "discover"),
                                                               "end"]), row="DHCPv4")
    emit("dhcp6", ether / IPv6(src="fe80::1", dst="ff02::1:2") / UDP(sport=546, dport=547) /
         DHCP6_Solicit(trid=7), row="DHCPv6")
    emit("ns", ether / IPv6(src="fe80::1", dst="ff02::1:ff00:2") / ICMPv6ND_NS(tgt="fe80::2") /
         ICMPv6NDOptSrcLLAddr(lladdr=MACS["src"]), row="NDP")
    emit("na", ether / IPv6(src="fe80::1", dst="ff02::1") / ICMPv6ND_NA(tgt="fe80::1"), row="NDP")
    emit("rs", ether / IPv6(src="fe80::1", dst="ff02::2") / ICMPv6ND_RS(), row="NDP")
    emit("lldp", Ether(src=MACS["src"], dst="01:80:c2:00:00:0e", type=0x88CC) / LLDPDU() /
         LLDPDUChassisID(subtype=4, id=MACS["src"]) / LLDPDUPortID(subtype=7, id=b"eth0") /
         LLDPDUTimeToLive(ttl=120) / LLDPDUEndOfLLDPDU(), row="LLDP")
    bpdu = raw(LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP())
    emit("stp", Ether(src=MACS["src"], dst="01:80:c2:00:00:00", type=len(bpdu)) / Raw(bpdu),
         trailer=b"\0" * 8, row="STP")
    emit("stp-long", Ether(dst="01:80:c2:00:00:00", type=len(bpdu) + 9) / Raw(bpdu),
         "802.3 length field", trailer=b"\0" * 8, row="STP")
    snap = raw(LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0xC, code=0x2000) / Raw(b"cdp"))
    emit("snap", Ether(type=len(snap), **MACS) / Raw(snap), "802.3 length field",
         row="other 802.3")


def igmp(number, to, report, **more):
    alert = {"options": b"\x94\x04\0\0", "ttl": 1}
    alert.update(more)
    return Ether(**MACS) / IP(src="10.0.0.%u" % number, dst=to, **alert) / report


def mld(to, report, **more):
    hops = {"hlim": 1}
    hops.update(more)
    return (Ether(**MACS) / IPv6(src="fe80::1", dst=to, **hops) /
            IPv6ExtHdrHopByHop(nh=58, options=[RouterAlert(value=0)]) / report)


def records4(*records):
    return IGMPv3(type=0x22) / IGMPv3mr(
        records=[IGMPv3gr(rtype=rtype, maddr=group, srcaddrs=sources)
                 for rtype, group, sources in records])


def records6(*records):
    return ICMPv6MLReport2(records=[ICMPv6MLDMultAddrRec(rtype=rtype, dst=group, sources=sources)
                                    for rtype, group, sources in records])


def reports():
    """Queries and reports of every version, and reports that say more than their words."""
    group = "224.0.0.251"
    emit("igmp-query", igmp(1, "224.0.0.1", IGMP(type=0x11, mrcode=100)))
    emit("igmp1", igmp(1, group, IGMP(type=0x12, mrcode=0, gaddr=group)), row="IGMP report")
    emit("igmp2", igmp(1, group, IGMP(type=0x16, mrcode=0, gaddr=group)), row="IGMP report")
    emit("igmp2-leave", igmp(1, "224.0.0.2", IGMP(type=0x17, mrcode=0, gaddr=group)),
         row="IGMP report")
    for rtype in range(1, 7):
        emit("igmp3-%u" % rtype, igmp(2, "224.0.0.22", records4(
            (rtype, group, []), (rtype, "232.1.1.%u" % rtype, ["10.0.0.9", "10.0.0.8"]))),
            row="IGMP report")
        emit("mld2-%u" % rtype, mld("ff02::16", records6(
            (rtype, "ff02::fb", []), (rtype, "ff3e::%u" % rtype, ["fd00::9", "fd00::8"]))),
            row="MLD report")
    emit("igmp3-changes", igmp(2, "224.0.0.22", records4(
        (6, "232.1.1.1", ["10.0.0.9"]), (5, "232.1.1.1", ["10.0.0.8"]), (4, group, []))))
    emit("mld2-changes", mld("ff02::16", records6(
        (4, "ff02::fb", []), (6, "ff3e::1", ["fd00::9"]), (5, "ff3e::1", ["fd00::8"]))))
    emit("mld-query", mld("ff02::1", ICMPv6MLQuery()), row="MLD query")
    emit("mld1", mld("ff02::fb", ICMPv6MLReport(mladdr="ff02::fb")), row="MLD report")
    emit("mld1-done", mld("ff02::2", ICMPv6MLDone(mladdr="ff02::fb")), row="MLD report")

    why = "unclear membership report"
    one = (4, group, [])
    four, six = {"why": why, "row": "IGMP report"}, {"why": why, "row": "MLD report"}
    emit("igmp-checksum", igmp(1, group, IGMP(type=0x16, mrcode=0, gaddr=group, chksum=1)), **four)
    emit("igmp-hops", igmp(1, group, IGMP(type=0x16, mrcode=0, gaddr=group), ttl=2), **four)
    emit("igmp-elsewhere", igmp(1, "224.0.0.9", IGMP(type=0x16, mrcode=0, gaddr=group)), **four)
    emit("igmp-no-group", igmp(1, "10.0.0.9", IGMP(type=0x16, mrcode=0, gaddr="10.0.0.9")), **four)
    emit("igmp-tail", igmp(1, group, IGMP(type=0x16, mrcode=0, gaddr=group, chksum=0x0804) /
                           b"\1\0"), **four)
    emit("igmp-reserved", igmp(1, group, IGMP(type=0x16, mrcode=3, gaddr=group)), **four)
    emit("igmp3-none", igmp(1, "224.0.0.22", records4()), **four)
    emit("igmp3-cut", igmp(1, "224.0.0.22", IGMPv3(type=0x22) / IGMPv3mr(
        numgrp=2, records=records4(one)[IGMPv3mr].records)), **four)
    emit("igmp3-behind", igmp(1, "224.0.0.22", IGMPv3(type=0x22) / IGMPv3mr(
        numgrp=1, records=records4(one, one)[IGMPv3mr].records)), **four)
    emit("igmp3-type", igmp(1, "224.0.0.22", records4((7, group, []))), **four)
    emit("igmp3-sources", igmp(1, "224.0.0.22", IGMPv3(type=0x22) / IGMPv3mr(
        records=[IGMPv3gr(rtype=1, numsrc=9, maddr=group, srcaddrs=["10.0.0.9"])])), **four)
    emit("igmp3-many", igmp(1, "224.0.0.22", records4(
        *[(4, "239.0.%u.1" % i, []) for i in range(256)])), **four)
    emit("mld-aux", mld("ff02::16", ICMPv6MLReport2(records=[ICMPv6MLDMultAddrRec(
        dst="ff02::fb", auxdata=b"abcd", auxdata_len=1)])), **six)
    emit("mld-hops", mld("ff02::16", records6((4, "ff02::fb", [])), hlim=255), **six)
    emit("mld-delay", mld("ff02::fb", ICMPv6MLReport(mladdr="ff02::fb", mrd=5)), **six)
    emit("mld-short", mld("ff02::fb", Raw(bytes([131, 0, 0x7f, 0x38]) + bytes(4) + b"\xff\2")),
         **six)


def others():
    """Every reason for PACKET_OTHER that a frame with an EtherType can have."""
    ether = Ether(**MACS)
    ip = IP(src="10.0.0.1", dst="10.0.0.2")
    emit("vlan-three", Ether(type=0x88A8, **MACS) / Dot1Q(vlan=5, type=0x8100) /
         Dot1Q(vlan=6, type=0x8100) / Dot1Q(vlan=7) / ip / UDP() / b"x", "more than two VLAN tags", row="802.1Q tag")
    emit("vlan-cut", Ether(type=0x8100, **MACS) / Raw(b"\0\5\x08"), "more than two VLAN tags",
         row="802.1Q tag")
    emit("qinq-four", Ether(type=0x9100, **MACS) / Dot1Q(vlan=5, type=0x9100) /
         Dot1Q(vlan=6, type=0x9100) / Raw(b"\0\7\x08\0" * 9), "more than two VLAN tags",
         row="QinQ before 802.1ad")
    emit("svlan-three", Ether(type=0x88A8, **MACS) / Dot1Q(vlan=5, type=0x88A8) /
         Dot1Q(vlan=6, type=0x88A8) / Raw(b"\0\7\x08\0" * 9), "more than two VLAN tags",
         row="802.1ad tag")
    emit("ethertype", Ether(type=0x88B5, **MACS) / Raw(b"experiment"), "unknown EtherType",
         row="other EtherTypes")
    emit("vlan-ethertype", Ether(**MACS) / Dot1Q(vlan=5, type=0x8863) / Raw(b"pppoe"),
         "unknown EtherType", row="other EtherTypes")
    emit("frag-first", ether / IP(src="1.2.3.4", dst="4.3.2.1", flags="MF") / UDP() / b"abcdefgh",
         "IP fragment", row="IPv4")
    emit("frag-later", ether / IP(src="1.2.3.4", dst="4.3.2.1", frag=3, proto=6) / Raw(b"z" * 40),
         "IP fragment", row="IPv4")
    six = IPv6(src="fd00::1", dst="fd00::2")
    emit("frag6-first", ether / six / IPv6ExtHdrFragment(nh=17, m=1) / Raw(b"z" * 40),
         "IP fragment", row="IPv6")
    emit("frag6-later", ether / six / IPv6ExtHdrDestOpt() /
         IPv6ExtHdrFragment(nh=17, offset=5) / Raw(b"z" * 3), "IP fragment", row="IPv6")
    emit("routing6", ether / six / IPv6ExtHdrRouting(segleft=1, addresses=["fd00::3"]) / TCP(),
         "IPv6 routing or home address", row="IPv6")
    emit("home6", ether / six / IPv6ExtHdrDestOpt(options=[HAO(hoa="fd00::3")]) / TCP(),
         "IPv6 routing or home address", row="IPv6")
    emit("jumbogram6", ether / IPv6(src="fd00::1", dst="fd00::2", plen=0) /
         IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70000)]) / TCP(), "IP length 0", row="IPv6")
    emit("option6-overrun", ether / six / IPv6ExtHdrDestOpt(
        options=[HBHOptUnknown(otype=5, optlen=9, optdata=b"1234")]) / TCP(), "bad IP header",
        row="IPv6")
    emit("extension6-overrun", ether / six / IPv6ExtHdrDestOpt(len=40) / TCP(), "bad IP header",
         row="IPv6")
    emit("ip6-long", ether / IPv6(src="fd00::1", dst="fd00::2", plen=200) / TCP() / b"x",
         "bad IP header", row="IPv6")
    emit("ip6-version", Ether(type=0x86DD, **MACS) / IP(src="1.2.3.4", dst="4.3.2.1") / TCP() /
         Raw(b"z" * 40), "bad IP header", row="IPv6")
    emit("ip6-none", ether / IPv6(src="fd00::1", dst="fd00::2", nh=59), "unknown IP protocol",
         row="other IP protocols")
    emit("icmp-in-6", ether / IPv6(src="fd00::1", dst="fd00::2", nh=1) / Raw(b"z" * 16),
         "unknown IP protocol", row="other IP protocols")
    emit("icmp6-in-4", ether / IP(src="1.2.3.4", dst="4.3.2.1", proto=58) / Raw(b"z" * 16),
         "unknown IP protocol", row="other IP protocols")
    emit("icmp6-short", ether / IPv6(src="fd00::1", dst="fd00::2", nh=58) / Raw(b"z" * 7),
         "short ICMP message", row="ICMPv6")
    emit("tcp6-short", ether / IPv6(src="fd00::1", dst="fd00::2", nh=6) / Raw(b"z" * 19),
         "bad TCP header", row="TCP")
    emit("udp6-jumbo", ether / six / UDP(len=0) / b"xy", "bad UDP length", row="UDP")
    emit("esp", ether / IP(src="1.2.3.4", dst="4.3.2.1", proto=50) / Raw(b"z" * 40),
         "unknown IP protocol", row="ESP, AH")
    emit("ah6", ether / IPv6(src="fd00::1", dst="fd00::2", nh=51) / Raw(b"z" * 40),
         "unknown IP protocol", row="ESP, AH")
    emit("gre", ether / IP(src="1.2.3.4", dst="4.3.2.1", proto=47) / Raw(b"z" * 40),
         "unknown IP protocol", row="other IP protocols")
    emit("sctp", ether / IP(src="1.2.3.4", dst="4.3.2.1", proto=132) / Raw(b"z" * 40),
         "unknown IP protocol", row="SCTP")
    emit("big-tcp", ether / IP(src="1.2.3.4", dst="4.3.2.1", len=0) / TCP() / b"x",
         "IP length 0")
    emit("ip-long", ether / IP(src="1.2.3.4", dst="4.3.2.1", len=200) / TCP() / b"x",
         "bad IP header")
    emit("ip-short", ether / IP(src="1.2.3.4", dst="4.3.2.1", len=19) / TCP() / b"x",
         "bad IP header")
    emit("ip-ihl", ether / IP(src="1.2.3.4", dst="4.3.2.1", ihl=4) / TCP() / b"x",
         "bad IP header")
    emit("ip-version", ether / IP(src="1.2.3.4", dst="4.3.2.1", version=5) / TCP() / b"x",
         "bad IP header")
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
    for number in range(80):
        random_tcp_wide(number)
    rows()
    reports()
    others()


if __name__ == "__main__":
    sys.exit(main())
