# SPDX-License-Identifier: GPL-2.0-or-later
"""Real servers in the VM: each answers through the pair, and again after a power cut."""

import subprocess
import sys

from registry import Group, test
from service_client import SERVICES, services_dir
from support import GUEST_IP, GUEST_IP6, HERE, Env, check

CLIENT = HERE.parents[1] / "scripts/lib/service_client.py"
# With the one connection that lives through the cut.
KEPT = ("ssh-kept", "redis", "http-kept")
EACH = ("http-close", "tls", "dns", "ssh")
ONE_AT_A_TIME = ("iperf3-up", "iperf3-down")  # its server is busy with one
FAMILIES = (GUEST_IP, GUEST_IP6)


def vm():
    return {"vm": {"initrd": services_dir() / "initrd.img",
                   "append": (services_dir() / "cmdline").read_text().strip()}}


group = Group(lambda: Env(both=vm(), ipv6=True))


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
    ask_all([Client(env, service, address) for service in EACH for address in FAMILIES])
    for service in ONE_AT_A_TIME:
        for address in FAMILIES:
            ask_all([Client(env, service, address)])


@test("services-cut", group)
def services_cut(env):
    """HTTP, TLS, DNS, SSH, redis and iperf3 over IPv4 and IPv6, before and after a power cut;
    kept connections go on"""
    kept = [Client(env, service, address) for service in KEPT for address in FAMILIES]
    ask_each(env)
    for _ in range(3):
        ask_all(kept)
    by_match = env.stats()["traffic"]["tcp"]["released_match"]["packets"]
    check(by_match > 0, "nothing was released by match")
    causes = env.stats()["checkpoints"]["cause"]
    env.fact("checkpoints: " + ", ".join(f"{cause} {count}" for cause, count in causes.items()
                                         if count))
    asked = [client.begin() for client in kept]
    env.cut()
    for client in asked:
        client.end()
    for _ in range(3):
        ask_all(kept)
    ask_each(env)
