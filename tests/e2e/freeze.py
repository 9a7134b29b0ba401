# SPDX-License-Identifier: GPL-2.0-or-later
"""Stops a daemon at the beginning of a chosen function of its data thread, so that a moment of a few
microseconds lasts as long as a test needs it. A breakpoint by ptrace(2); x86-64, with symbols."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

from support import PATIENCE, LabError, stands_still, threads, wait_for

CONT, GETREGS, SETREGS, DETACH, SEIZE, INTERRUPT = 7, 12, 13, 17, 0x4206, 0x4207
WALL = 0x40000000
RIP = 16

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request, tid, addr=0, data=0):
    result = libc.ptrace(request, tid, addr, data)
    if result < 0:
        raise LabError(f"ptrace {request:#x}: {os.strerror(ctypes.get_errno())}")
    return result


def data_thread(pid):
    for task, name in threads(pid):
        if name == "colo-data":
            return int(task.name)
    raise LabError(f"process {pid} has no data thread")


def next_stop(tid, deadline):
    while True:
        got, status = os.waitpid(tid, WALL | os.WNOHANG)
        if got:
            if not os.WIFSTOPPED(status):
                raise LabError("the traced thread ended")
            return status >> 8
        if time.monotonic() > deadline:
            raise LabError("the traced thread does not come to the moment that was waited for")
        time.sleep(0.00005)


def address_of(pid, function):
    """Where a function of the program is in the process, by nm(1) and proc(5)."""
    program = os.readlink(f"/proc/{pid}/exe")
    symbols = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    offsets = [int(line.split()[0], 16) for line in symbols.splitlines()
               if line.endswith(f" T {function}")]
    if len(offsets) != 1:
        raise LabError(f"{program} has no function {function}, or no symbols")
    first = Path(f"/proc/{pid}/maps").read_text().splitlines()[0]
    return offsets[0] + int(first.split("-")[0], 16)


class Frozen:
    """with Frozen(pid, function) as f: bring it about; f.wait(). The thread runs on to the beginning
    of a function that no other thread calls; the process stands still, by SIGSTOP, from then on,
    until thaw() or the end."""

    def __init__(self, pid, function):
        self.pid, self.tid = pid, data_thread(pid)
        self.address = address_of(pid, function)
        self.byte = None

    def __enter__(self):
        ptrace(SEIZE, self.tid)
        self._interrupt()
        self.byte = self._poke(b"\xcc")
        ptrace(CONT, self.tid)
        return self

    def _interrupt(self):
        ptrace(INTERRUPT, self.tid)
        next_stop(self.tid, time.monotonic() + PATIENCE)

    def _poke(self, byte):
        """Returns what was there."""
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as mem:
            mem.seek(self.address)
            old = mem.read(1)
            mem.seek(self.address)
            mem.write(byte)
        return old

    def wait(self):
        if next_stop(self.tid, time.monotonic() + PATIENCE) & 0xff != signal.SIGTRAP:
            raise LabError("the traced thread stops for another reason")
        self._poke(self.byte)
        self.byte = None
        regs = (ctypes.c_ulonglong * 27)()  # struct user_regs_struct
        ptrace(GETREGS, self.tid, 0, ctypes.addressof(regs))
        if regs[RIP] != self.address + 1:
            raise LabError("the traced thread stops at another place")
        regs[RIP] = self.address
        ptrace(SETREGS, self.tid, 0, ctypes.addressof(regs))
        os.kill(self.pid, signal.SIGSTOP)
        ptrace(DETACH, self.tid)
        wait_for(lambda: stands_still(self.pid), 10, f"process {self.pid} stops")

    def thaw(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def __exit__(self, *exc):
        with contextlib.suppress(LabError, OSError):  # it may be detached, or dead
            self._interrupt()
            if self.byte:
                self._poke(self.byte)
            ptrace(DETACH, self.tid)
        self.thaw()
