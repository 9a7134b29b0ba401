# SPDX-License-Identifier: GPL-2.0-or-later
"""Real servers in the VM: each answers through the pair, and again after a power cut. The VM is in a
VLAN besides; on the way frames get larger, and every connection begins with a SYN cookie."""

import socket
import subprocess
import sys

from registry import Group, test
from service_client import SERVICES, program, services_dir
from support import GUEST_IP, GUEST_IP6, HERE, MB, Capture, Env, Failed, check, wait_for

CLIENT = HERE.parents[1] / "scripts/lib/service_client.py"
# With the one connection that lives through the cut.
KEPT = ("ssh-kept", "redis", "http-kept")
EACH = ("http-close", "tls", "dns", "ssh")
ONE_AT_A_TIME = ("iperf3-up", "iperf3-down")  # its server is busy with one
VLAN = 5
GUEST_VLAN, CLIENT_VLAN = f"10.77.{VLAN}.10", f"10.77.{VLAN}.1"
ADDRESSES = (GUEST_IP, GUEST_IP6, GUEST_VLAN)
JUMBO = 9000
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2


def make():
    return Env(both={"vm": {"initrd": services_dir() / "initrd.img",
                            "append": (services_dir() / "cmdline").read_text().strip()}},
               ipv6=True)


def start(env):
    """A network of jumbo frames; the guest still sends short ones."""
    for host, links in (("client", ("to-primary", "to-secondary", "br0")),
                        ("primary", ("lan0", "br0")), ("secondary", ("lan0", "br0"))):
        env.lab.ip(host, *[f"link set {link} mtu {JUMBO}" for link in links])
    env.up(120)
    tag_frames(env)
    join_vlan(env)


def tag_frames(env):
    """The client is in the VLAN, by what the switch does with frames to it."""
    code = env.lab.dir / "vlan_tag.o"
    subprocess.run(["clang", "-O2", "-target", "bpf", "-I/usr/include/x86_64-linux-gnu", "-c",
                    HERE / "vlan_tag.c", "-o", code], check=True, timeout=60)
    for port in ("to-primary", "to-secondary"):
        env.lab.run("client", ["tc", "qdisc", "add", "dev", port, "clsact"])
        for way, section in (("egress", "push"), ("ingress", "pop")):
            env.lab.run("client", ["tc", "filter", "add", "dev", port, way, "bpf",
                                   "direct-action", "object-file", code, "section", section])
    env.lab.ip("client", f"addr add {CLIENT_VLAN}/24 dev br0")


def join_vlan(env):
    shell(env, "for m in llc stp garp mrp 8021q; do insmod /services/modules/$m.ko; done && "
               f"ip link add link eth0 name vlan type vlan id {VLAN} && ip link set vlan up && "
               f"ip addr add {GUEST_VLAN}/24 dev vlan")


group = Group(make, start)


class Client:
    """One service's client, which asks when it is told to."""

    def __init__(self, env, service, address):
        check(service in SERVICES, f"no service {service}")
        self.name = f"{service} at {address}"
        self.process = env.lab.spawn(
            "client", [sys.executable, CLIENT, service, address, "--steps"],
            name=f"client-{service}", stdin=subprocess.PIPE)
        self.process.wait_line("^open$", 60)

    def begin(self):
        """One request; the answer is waited for by end()."""
        self.seen = len(self.process.lines)
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self

    def end(self, seconds=60):
        line = self.process.wait_line(".", seconds, self.seen).string
        check(line == "ok", f"{self.name}: {line}")


def ask_all(clients):
    for one in [client.begin() for client in clients]:
        one.end()


def ask_each(env):
    """New connections to every service."""
    ask_all([Client(env, service, address) for service in EACH for address in ADDRESSES])
    for service in ONE_AT_A_TIME:
        for address in (GUEST_IP, GUEST_IP6):
            ask_all([Client(env, service, address)])


def shell(env, command):
    """A command in the guest; both VMs run it."""
    return env.lab.run("client", [program("dbclient"), "-y", "-y", "-T", "-i",
                                  services_dir() / "client-key", f"root@{GUEST_IP}",
                                  command]).stdout


def cookies(env):
    """SYN cookies that came back with a right acknowledgement."""
    names, values = [line.split() for line in shell(env, "cat /proc/net/netstat").splitlines()
                     if line.startswith("TcpExt:")]
    return int(values[names.index("SyncookiesRecv")])


@test("services-answers", group)
def answers(env):
    """HTTP, TLS, DNS, SSH and iperf3 over IPv4, IPv6 and in a VLAN; by match, and tags are kept"""
    capture = Capture(env, "primary")
    ask_each(env)
    tags = [frame for frame in capture.said() if frame.ethertype == 0x8100]
    check(len(tags) > 20, f"{len(tags)} frames with a tag left the primary")
    stats = env.stats()
    check(stats["traffic"]["tcp"]["released_match"]["packets"] > 0, "nothing left by match")
    check("lag_us" in stats["comparison"], "the lag of the SVM is not shown")
    check("the secondary's lag is" in env.pair.cli("primary", "stats").stdout, "nor in words")
    env.fact("checkpoints: " + ", ".join(
        f"{cause} {count}" for cause, count in stats["checkpoints"]["cause"].items() if count))


@test("services-jumbo", group)
def jumbo(env):
    """frames of 9,000 bytes in both directions: a datagram that must not be cut, both loads"""
    shell(env, f"ip link set eth0 mtu {JUMBO}")
    echo = env.socket(socket.SOCK_DGRAM)
    echo.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
    text = bytes(range(256)) * 35
    echo.settimeout(1)
    for _ in range(20):
        echo.sendto(text, (GUEST_IP, 7))
        try:
            check(echo.recv(65536) == text, "another answer to a large datagram")
            break
        except TimeoutError:
            pass
    else:
        raise Failed(f"no answer to a datagram of {len(text)} bytes")
    mss = env.connect().getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    check(mss > JUMBO - 100, f"segments of {mss} bytes only")
    env.run("download", "-b", 20 * MB)
    env.run("upload", "-b", 20 * MB)


def is_announced(frames):
    """Of the address ARP five times, some of it the guest's own, and RARP more often."""
    address = socket.inet_aton(GUEST_VLAN)
    said = [frame.data for frame in frames if frame.from_vm]
    rarps = sum(data[16:18] == b"\x80\x35" for data in said)
    arps = sum(data[16:18] == b"\x08\x06" and data[32:36] == data[42:46] == address
               for data in said)
    return arps >= 5 and rarps > 5


@test("services-cut", group)
def cut(env):
    """a power cut: kept HTTP, SSH and redis connections and a download go on, all answer again.
    Frames are large, and each connection has begun with a SYN cookie. The survivor is announced
    in the VLAN, too"""
    shell(env, "echo 2 >/proc/sys/net/ipv4/tcp_syncookies")
    before = cookies(env)
    kept = [Client(env, service, address) for service in KEPT for address in ADDRESSES]
    for _ in range(3):
        ask_all(kept)
    check(cookies(env) >= before + len(kept), "the connections began without cookies")
    download = env.load("download", "-b", 60 * MB).reached("bytes", 10 * MB)
    asked = [client.begin() for client in kept]
    capture = Capture(env, "secondary", only="vlan and (arp or rarp)")
    env.cut()
    for client in asked:
        client.end()
    env.stall(download.result())
    for _ in range(3):
        ask_all(kept)
    ask_each(env)
    wait_for(lambda: is_announced(capture.so_far()), 10,
             f"in VLAN {VLAN} ARP five times and RARP more often")
