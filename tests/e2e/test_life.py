# SPDX-License-Identifier: GPL-2.0-or-later
"""What dies and what comes back: the secondary, either QEMU, the first copy, the guest itself."""

import os
import signal
import threading
import time

from registry import test
from support import MB, PATIENCE, PATIENT, UNHURRIED, URL, Capture, check, wait_for


@test("secondary-dies")
def secondary_dies(env):
    """the primary goes on unprotected and says so; a new secondary joins; then a power cut"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    held = env.load("hold", "-c", 2, "--warm", "--until-eof").event("held")
    env.lab.power_cut("secondary")
    env.wait_state("primary", "unprotected", 10)
    keep.more("requests", 10)
    status = env.status("primary")
    check(not status["protected"] and not status["peer_alive"], f"status: {status}")
    check("unprotected" in status["message"], f"message: {status['message']}")
    env.lab.power_on("secondary")
    env.pair.start("secondary")
    env.pair.wait_protected(30)
    keep.more("requests", 10)
    released = env.stats()["traffic"]["tcp"]["released_match"]["packets"]
    keep.more("requests", 20)
    check(env.stats()["traffic"]["tcp"]["released_match"]["packets"] > released,
          "compared again")
    env.cut()
    keep.more("requests", 20)
    env.stall(keep.stop().result())
    held.use().result()


@test("secondary-dies-in-switch-over", valve=True, both=UNHURRIED)
def secondary_dies_in_switch_over(env):
    """it dies with half of the last checkpoint: the VM speaks on, and moves only when asked again"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    env.quiet()
    env.rewrite(16)
    env.tell_valve(f"stall-after {4 * MB}")
    asked = []
    switch = threading.Thread(
        target=lambda: asked.append(env.pair.cli("primary", "failover", check=False)))
    switch.start()
    env.wait_stalled()
    env.lab.power_cut("secondary")
    env.wait_state("primary", "unprotected", 10)
    switch.join(PATIENCE)
    check(asked and asked[0].returncode == 1, f"failover says that it failed: {asked}")
    keep.more("requests", 20)
    env.tell_valve("open")
    env.lab.power_on("secondary")
    env.pair.start("secondary")
    env.pair.wait_protected(30)
    env.checkpoint()
    keep.more("requests", 20)
    check(env.state("primary") == "protected", "the next checkpoint hands nothing over")
    keep.stop().result()


@test("secondary-stops", both=PATIENT)
def secondary_stops(env):
    """`stop` on the secondary ends protection at once; `stop` on the primary ends the VM"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    env.pair.cli("secondary", "stop")
    env.daemon("secondary").wait(PATIENCE)
    env.wait_state("primary", "unprotected", 5)
    keep.more("requests", 10)
    env.stall(keep.stop().result())
    env.pair.start("secondary")
    env.pair.wait_protected(30)
    pid = env.qemu_pid("primary")
    env.pair.cli("primary", "stop")
    env.daemon("primary").wait(PATIENCE)
    check(not os.path.exists(f"/proc/{pid}"), "QEMU ends with its daemon")
    env.wait_state("secondary", "waiting", 10)
    env.silence(pings=5).close()


@test("pvm-dies")
def pvm_dies(env):
    """the PVM's QEMU is killed: the secondary takes over without a fence, and is protected again"""
    loads = [env.load("keepalive", "--check-log", "-i", 1), env.load("rr", "-c", 2, "-i", 1),
             env.load("download", "-b", 12 * MB, "-r", 4 * MB)]
    for load in loads:
        load.more("bytes", 1)
    captures = {host: Capture(env, host) for host in ("primary", "secondary")}
    before = time.time_ns()
    os.kill(env.qemu_pid("primary"), signal.SIGKILL)
    env.taken_over(before)
    env.protected_by("secondary")
    for load in loads[:2]:
        load.more("requests", 20)
        load.stop()
    env.stall(*[load.result() for load in loads])
    said = {host: capture.said() for host, capture in captures.items()}
    check(said["secondary"], "the secondary speaks")
    check(not said["primary"] or said["primary"][-1].at < said["secondary"][0].at, "two speakers")


@test("svm-dies")
def svm_dies(env):
    """the SVM's QEMU is killed: the VM goes on, and is protected again by itself"""
    keep = env.load("keepalive", "--check-log", "-i", 2).reached("requests", 10)
    old = env.qemu_pid("secondary")
    os.kill(old, signal.SIGKILL)
    env.said("primary", "the secondary has no copy", 10)
    keep.more("requests", 10)
    wait_for(lambda: env.status("secondary")["qemu_pid"] not in (0, old), 30, "a new QEMU")
    env.pair.wait_protected(30)
    keep.more("requests", 10)
    env.cut()
    keep.more("requests", 10)
    env.stall(keep.stop().result())


def half_a_copy(env):
    """The VM runs unprotected, and a third of its first copy is on the secondary."""
    env.pair.start("primary")
    env.wait_guest()
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    env.tell_valve(f"stall-after {8 * MB}")
    env.pair.start("secondary")
    env.wait_stalled()
    check(env.state("primary") == "joining" and env.state("secondary") == "joining", "half-way")
    keep.more("requests", 5)
    return keep


@test("copy-secondary-killed", down=True, valve=True, both=PATIENT)
def copy_secondary_killed(env):
    """the secondary's daemon dies during the first copy: the VM does not notice; a new one joins"""
    keep = half_a_copy(env)
    env.daemon("secondary").kill()
    env.wait_state("primary", "unprotected", 20)
    keep.more("requests", 10)
    env.tell_valve("open")
    env.pair.start("secondary")
    env.pair.wait_protected(30)
    keep.more("requests", 10)
    env.stall(keep.stop().result())


@test("copy-primary-cut", down=True, valve=True)
def copy_primary_cut(env):
    """power cut during the first copy: there is nothing to take over, the secondary is silent"""
    half_a_copy(env)
    env.lab.power_cut("primary")
    env.wait_state("secondary", "waiting", 20)
    env.silence(pings=5).close()
    done = env.pair.cli("secondary", "failover", "--force", check=False)
    check(done.returncode == 1, f"failover --force: {done}")
    check(env.state("secondary") == "waiting", "no takeover")


@test("guest-reboot")
def guest_reboot(env):
    """the guest reboots while protected; then a power cut: the survivor runs the new kernel's code"""
    env.checkpoint()
    serial = env.pair.dir / "primary" / "serial.log"
    ready = serial.read_bytes().count(b"GUEST READY")
    env.load("http", "-n", 1, "--allow-errors", "--deadline", 3, target=URL + "/reboot")
    wait_for(lambda: serial.read_bytes().count(b"GUEST READY") > ready, 60, "the guest is back")
    keep = env.load("keepalive", "--check-log", "-i", 2).reached("requests", 10)
    env.cut()
    keep.more("requests", 20)
    env.stall(keep.stop().result())
    env.run("download", "-b", 8 * MB)
    env.answers()


@test("second-primary")
def second_primary(env):
    """a primary that comes back does not boot the VM a second time, and is the secondary (R6)"""
    keep = env.load("keepalive", "--check-log", "-i", 5).reached("requests", 10)
    env.cut()
    keep.more("requests", 10)
    env.lab.power_on("primary")
    capture = Capture(env, "primary")
    env.pair.start("primary")
    env.protected_by("secondary")
    keep.more("requests", 20)
    keep.stop().result()
    check(not capture.said(), "the primary that came back speaks")
