# SPDX-License-Identifier: GPL-2.0-or-later
"""Why the VMs differ: `colo-proxy divergences` shows the bytes of both, and writes them down."""

import base64
import json
import logging
import struct

from registry import Group, test
from support import URL, Env, check, wait_for
from test_reprotect import move

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.all import IP, TCP, Ether, RawPcapNgReader  # noqa: E402

group = Group(Env)


def divergences(env, *argv, host="primary"):
    """What the one that speaks keeps, when its secondary has answered for all of it."""
    def answered():
        done = env.pair.cli(host, "divergences", "--json", *argv)
        found = json.loads(done.stdout)["divergences"]
        return None if any(one["secondary_is"] == "waiting" for one in found) else found

    return wait_for(answered, 5, "the secondary answers")


def mismatch(env, path, host="primary"):
    """Asks until the answers differ, and nothing else does behind them: on a busy machine the SVM may
    be late. The newest one."""
    def differs():
        env.run("http", "-n", 1, target=URL + path)
        wait_for(lambda: not env.stats(host)["traffic"]["total"]["held_now"]["packets"], 15,
                 "nothing is held")
        found = divergences(env, host=host)
        return found[-1] if found and found[-1]["cause"] == "mismatch" else None

    return wait_for(differs, 30, f"{path} differs")


def payload(packet):
    """TCP's payload as scapy reads it, with its checksums, and the sequence number."""
    ip = Ether(base64.b64decode(packet["data"]))[IP]
    seen = ip[TCP].chksum
    del ip[TCP].chksum
    check(IP(bytes(ip))[TCP].chksum == seen, f"a wrong checksum: {packet['text']}")
    return bytes(ip[TCP].payload), ip[TCP].seq


@test("divergences", group)
def shown(env):
    """flow, offset and the bytes of both VMs, as JSON, as text, in status and as a capture"""
    one = mismatch(env, "/time")
    check(one["flow"].startswith("tcp ") and ":80 - " in one["flow"], f"not this one: {one}")
    check(one["secondary_is"] == "here" and one["offset"] == 0, f"evidence: {one}")
    (ours, seq), (theirs, their_seq) = (payload(one[side][0]) for side in ("primary", "secondary"))
    check(seq == their_seq == one["seq"], "the packets are not in the same numbers")
    first = next(i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b)
    check(b"realtime=" in ours[:first] and one["difference"] == {"at": first, "offset": first},
          f"the first difference is at {first}: {one['difference']}")
    check(divergences(env, "-n", 1)[0]["id"] == one["id"], "a newer one came in between")
    shows = env.pair.cli("primary", "divergences", "-n", "1").stdout
    check(f"first difference at offset {first}\n" in shows and " ^^ " in shows, shows)
    for command in ("status", "stats"):
        line = json.loads(env.pair.cli("primary", command, "--json").stdout)["last_divergence"]
        check(one["flow"] in line and f"stream offset {first}" in line, f"{command}: {line}")
        check("realtime" not in line, "payload for everybody")


def options(data):
    """{code: [value]} of a pcapng block's options."""
    found = {}
    while len(data) >= 4:
        code, size = struct.unpack_from("<HH", data)
        if code == 0:
            break
        found.setdefault(code, []).append(data[4:4 + size])
        data = data[4 + size + -size % 4:]
    return found


def read_pcapng(path):
    """[(interface name, ns, original length, bytes, comment)], by the format's description
    (draft-ietf-opsawg-pcapng): scapy knows neither names nor comments of one line."""
    data, at, names, packets = path.read_bytes(), 0, [], []
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        body = data[at + 8:at + size - 4]
        check(size % 4 == 0 and struct.unpack_from("<I", data, at + size - 4)[0] == size,
              f"a block of {size} bytes at {at}")
        if kind == 1:
            found = options(body[8:])
            check(found[9] == [b"\x09"], "not in nanoseconds")
            names.append(found[2][0].decode())
        elif kind == 6:
            interface, high, low, kept, original = struct.unpack_from("<5I", body)
            comment = options(body[20 + kept + -kept % 4:])[1][0].decode()
            packets.append((names[interface], high << 32 | low, original, body[20:20 + kept],
                            comment))
        at += size
    return packets


@test("divergences-pcapng", group)
def capture(env):
    """both sides' packets as a capture of two interfaces, with a comment each"""
    mismatch(env, "/random")
    found = divergences(env)
    path = env.lab.dir / "divergences.pcapng"
    env.pair.cli("primary", "divergences", "--pcapng", str(path))
    check(path.stat().st_mode & 0o77 == 0, "others can read it")
    read = read_pcapng(path)
    wanted = [(side, base64.b64decode(packet["data"]), one, packet, f"{n} of {len(one[side])}")
              for one in found for side in ("primary", "secondary")
              for n, packet in enumerate(one[side], 1)]
    check(len(read) == len(wanted) > 1, f"{len(read)} packets of {len(wanted)}")
    check([data for data, _meta in RawPcapNgReader(str(path))] ==
          [data for _name, _at, _original, data, _comment in read], "scapy reads others")
    for (name, at, original, data, comment), (side, whole, one, packet, which) in zip(read, wanted):
        check(data == whole and name == side and original == packet["length"] and
              at == packet["at_ns"], f"{name} {at} {original}, not {side} {packet}")
        check(comment.startswith(f"divergence {one['id']}, {one['cause']}, epoch {one['epoch']}: ")
              and one["flow"] in comment and f"; {side} VM, packet {which}" in comment, comment)


@test("divergences-late", group)
def late(env):
    """an SVM that says nothing: what it is waited for; timers and commands on request"""
    env.run("ping", "-n", 1, "--timeout", 60000)  # ARP, so that one packet is late and not two
    env.quiet()
    with env.stopped(env.qemu_pid("secondary")):
        env.run("ping", "-n", 1, "--timeout", 60000, "--max-lost", 0)
    # The VM may say more that is late on a busy machine.
    echo = [one for one in divergences(env) if one["flow"].startswith("echo ")]
    check(echo and echo[-1]["cause"] == "late", f"{divergences(env)}")
    check(len(echo[-1]["primary"]) == 1 and echo[-1]["difference"] is None, f"{echo[-1]}")
    env.checkpoint()
    check(not any(one["cause"] == "command" for one in divergences(env)),
          "a command is no divergence")
    last = [one for one in divergences(env, "--all") if one["cause"] == "command"][-1]
    check(not last["flow"] and last["secondary_is"] == "not asked", f"{last}")


@test("divergences-gone", secondary={"checkpoint": {"recent-output": 0}})
def gone(env):
    """a secondary that keeps nothing says so, and nothing waits for it"""
    one = mismatch(env, "/time")
    check(one["secondary_is"] == "gone" and not one["secondary"] and one["primary"], f"{one}")
    check("secondary has nothing of it" in env.pair.cli("primary", "divergences").stdout, "not said")


@test("divergences-after-move")
def after_move(env):
    """after a switch-over the survivor keeps them, and asks the side that it came from"""
    move(env, "primary")
    one = mismatch(env, "/random", host="secondary")
    check(one["secondary_is"] == "here" and one["difference"], f"{one}")
