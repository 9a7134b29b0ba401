# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware alone: under KVM one that waits for nothing is protected and taken over, with both kinds of
tracking; iPXE downloads through the pair."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from lab import CLIENT_IP
from registry import test
from support import (GUEST_IP, GUEST_MAC, HERE, MB, PATIENCE, LabError, Skipped, check, threads,
                     wait_for)

FIRMWARE = {"accel": "kvm", "kernel": None, "initrd": None, "append": None, "memory": 64}


def vcpu_ns(pid):
    """Processor time of the virtual CPUs, in the guest's code and for it."""
    return sum(int((task / "schedstat").read_text().split()[0])
               for task, name in threads(pid) if name.startswith("CPU "))


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
        env.daemon("primary").end_log()
        check("KVM does not run guests here" in env.log("primary"), "the daemon ended")
        raise Skipped("KVM runs no guests here")
    wait_for(lambda: env.status("primary")["qemu_pid"] > 1, 20, "QEMU runs")
    pid = env.qemu_pid("primary")
    try:
        wait_for(lambda: at_rest(pid), PATIENCE, "the firmware comes to rest")
    except LabError:  # it is not protected yet: KVM and QEMU alone
        raise Skipped("this KVM does not bring firmware to rest within two minutes") from None
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


# --- iPXE: real TCP ---------------------------------------------------------------------------------

# The ROM in place of "none"; SeaBIOS and iPXE write on the serial port.
NETBOOT = {"kernel": None, "initrd": None, "append": None, "memory": 128,
           "extra-args": "-machine graphics=off -option-rom pxe-virtio.rom"}
PACED = 8 * MB
PART = MB
SCRIPT = """#!ipxe
kernel http://{ip}/sum.elf || goto failed
module http://{ip}/paced || goto failed
boot || goto failed
:failed
imgfetch http://{ip}/failed/${{errno}}
"""


def checksum(data):
    """What netboot_sum.S makes of the bytes."""
    total = 0
    for byte in data:
        total = ((total << 1 | total >> 31) + byte) & 0xffffffff
    return total


def network(env):
    """What there is to boot from; the server, which lets nothing of the paced file out yet."""
    folder = Path(env.lab.dir) / "netboot"
    folder.mkdir()
    data = random.Random(1).randbytes(PACED)
    (folder / "paced").write_bytes(data)
    (folder / "boot.ipxe").write_text(SCRIPT.format(ip=CLIENT_IP))
    for argv in (["as", "--32", "-o", folder / "sum.o", HERE / "netboot_sum.S"],
                 ["ld", "-m", "elf_i386", "-Ttext", "0x200000", "-o", folder / "sum.elf",
                  folder / "sum.o"]):
        subprocess.run(argv, check=True, timeout=30)
    server = env.lab.spawn("client", [sys.executable, HERE / "netboot.py", "br0", CLIENT_IP, GUEST_IP,
                                      GUEST_MAC, folder], name="netboot", stdin=subprocess.PIPE)
    server.wait_line("^listening$", 20)
    return server, f"SUM {PACED:08x} {checksum(data):08x}"


def allow(server, bytes_):
    server.stdin.write(b"%d\n" % bytes_)
    server.stdin.flush()


def netboot(env):
    """iPXE downloads 8 MB by HTTP: protected in the middle, checkpoints, a power cut, every byte right"""
    server, right = network(env)
    env.pair.start("primary")
    server.wait_line("^get /paced$", 90)
    allow(server, PART)
    env.pair.start("secondary")
    env.pair.wait_protected(60)
    for part in range(2, 6):
        allow(server, PART * part)
        env.checkpoint()
        server.wait_line(f"^acked {PART * part}$", 60)
    allow(server, PACED - PART)
    env.cut()
    allow(server, PACED)
    server.wait_line("^sent /paced", 60)
    serial = env.pair.dir / "secondary" / "serial.log"
    wait_for(lambda: right in serial.read_text(errors="replace"), 60, f"the guest says {right}")
    gets = [line for line in server.lines if line.startswith("get ")]
    check(gets.count("get /paced") == 1, f"asked for once: {gets}")
    env.fact(f"{env.status('secondary')['takeover']['lineage']} checkpoints; {right}")


test("netboot-tcg", down=True, both={"vm": {**NETBOOT, "accel": "tcg"}})(netboot)
def netboot_kvm(env):
    """the same under KVM"""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise Skipped("no /dev/kvm here")
    flags = Path("/proc/cpuinfo").read_text().split("\nflags", 1)[-1].split("\n", 1)[0].split()
    if "vmx" not in flags and "svm" not in flags:
        raise Skipped("KVM without hardware virtualization: iPXE does not come to its download")
    netboot(env)


test("netboot-kvm", down=True, both={"vm": {**NETBOOT, "accel": "kvm"}})(netboot_kvm)
