# SPDX-License-Identifier: GPL-2.0-or-later
"""The operator's rules by flow: compared, released by commit only, or let out unprotected."""

from registry import Group, test
from support import GUEST_IP, GUEST_MAC, PATIENT, Env, check, merge

RULES = {"flows": {"rule-10": "bypass icmp", "rule-20": "commit udp vm-port 7"},
         "checkpoint": {"longest-epoch": 60000}}
group = Group(lambda: Env(both=merge(PATIENT, RULES)))


@test("flows-bypass", group)
def bypass(env):
    """what a rule bypasses leaves with the secondary frozen, and nothing else does; status warns"""
    check("bypass" in env.status("primary")["warning"], f"no warning: {env.status('primary')}")
    env.said("primary", "rule-10: bypass icmp")
    env.run("ping", "-n", 3, "-i", 10)
    env.quiet()
    before = env.stats()["traffic"]["icmp"]["released_bypass"]["packets"]
    with env.stopped(env.daemon("secondary").pid):
        env.lab.ip("client", f"neigh replace {GUEST_IP} lladdr {GUEST_MAC} dev br0 nud reachable")
        echo = env.load("udp", "-n", 3, "-i", 10, "--timeout", 300)
        asked = env.run("ping", "-n", 10, "-i", 20, "--timeout", 60000)
        check(asked["lost"] == 0, f"{asked['lost']} of 10 pings are not answered")
        check(echo.report()["lost"] == 3, "UDP gets out, too")
        icmp = env.stats()["traffic"]["icmp"]
        check(icmp["released_bypass"]["packets"] >= before + 10 and
              icmp["held_now"]["packets"] == 0, f"ICMP: {icmp}")
    env.lab.ip("client", f"neigh del {GUEST_IP} dev br0")
    env.answers()


@test("flows-commit", group)
def commit(env):
    """what a rule holds for commit asks for a checkpoint, leaves by it and never by match"""
    before = env.checkpoints("uncompared")
    env.run("udp", "-n", 5, "-i", 10, "--timeout", 60000, "--max-lost", 0)
    udp = env.stats()["traffic"]["udp"]
    check(udp["released_match"]["packets"] == 0, f"by match: {udp}")
    check(udp["released_commit"]["packets"] >= 5, f"by commit: {udp}")
    check(env.checkpoints("uncompared") > before, "nothing has asked for a checkpoint")


@test("flows-compare", group)
def compare(env):
    """what no rule fits is compared, and leaves by match; nothing of it bypasses"""
    before = env.stats()["traffic"]["tcp"]["released_match"]["packets"]
    env.run("http", "-n", 20)
    tcp = env.stats()["traffic"]["tcp"]
    check(tcp["released_match"]["packets"] >= before + 20, f"TCP: {tcp}")
    check(tcp["released_bypass"]["packets"] == 0, f"TCP: {tcp}")
