# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM: firmware that waits for nothing is protected and taken over, with both kinds of tracking."""

import os
import time
from pathlib import Path

from registry import test
from support import LabError, Skipped, check, wait_for

FIRMWARE = {"accel": "kvm", "kernel": None, "initrd": None, "append": None, "memory": 64}


def vcpu_ns(pid):
    """Processor time of the virtual CPUs, in the guest's code and for it."""
    return sum(int((task / "schedstat").read_text().split()[0])
               for task in Path(f"/proc/{pid}/task").iterdir()
               if (task / "comm").read_text().startswith("CPU "))


def at_rest(pid):
    before, began = vcpu_ns(pid), time.monotonic_ns()
    time.sleep(0.3)  # how much in how long is what is asked
    return (vcpu_ns(pid) - before) * 20 < time.monotonic_ns() - began


def firmware(env, entries):
    """SeaBIOS has found nothing to boot; protected, twelve checkpoints, then a power cut"""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise Skipped("no /dev/kvm here")
    env.pair.start("primary")
    wait_for(lambda: env.pair.status("primary") or env.daemon("primary").poll() is not None, 20,
             "the daemon answers")
    if env.daemon("primary").poll() is not None:
        check("KVM does not run guests here" in env.log("primary"), "the daemon ended")
        raise Skipped("KVM runs no guests here")
    wait_for(lambda: env.status("primary")["qemu_pid"] > 1, 20, "QEMU runs")
    pid = env.qemu_pid("primary")
    try:
        wait_for(lambda: at_rest(pid), 60, "the firmware comes to rest")
    except LabError:  # it is not protected yet: KVM and QEMU alone
        raise Skipped("this KVM does not bring firmware to rest within a minute") from None
    check(env.status("primary")["accel"] == "kvm", "KVM is used")
    asked = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    size = [int(word.rsplit(b"=", 1)[1]) for word in asked if b"dirty-ring-size=" in word]
    check(bool(size) == bool(entries), f"a dirty ring of {size}, asked for: {entries}")
    env.pair.start("secondary")
    env.pair.wait_protected(60)
    for _ in range(12):
        env.checkpoint()
    taken = env.stats()["checkpoints"]
    check(taken["cause"]["command"] == 12, f"checkpoints: {taken['cause']}")
    env.fact(f"{taken['pages']['total']} pages in {taken['total']} checkpoints"
             + (f", ring of {size[0]}" if size else ""))
    env.cut()
    check(env.status("secondary")["accel"] == "kvm", "the survivor runs under KVM")


test("kvm-log", args=(0,), down=True, both={"vm": {**FIRMWARE, "dirty-tracking": "log"}})(firmware)
test("kvm-ring", args=(1,), down=True,
     both={"vm": {**FIRMWARE, "dirty-tracking": "ring"}})(firmware)
