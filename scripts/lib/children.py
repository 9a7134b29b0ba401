# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that are run one beside the other, and end with whoever started them."""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
TOO_LONG = 124  # the status of a command that was ended for it, as timeout(1) has it


class Children:
    """Those that run. Each has a session of its own: all that it starts can be ended with it."""

    def __init__(self):
        self._running = set()
        self._lock = threading.Lock()
        self._over = False

    def run(self, argv, out, seconds, env=None, cwd=None, patient=False):
        """Run a command to its end, its output going to the file `out`: exit status, or TOO_LONG.
        @patient: it gets the processor time that nobody else wants. After end_all() it is left by
        SystemExit."""
        def prepare():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if patient:
                yield_to_all()

        with self._lock:
            if self._over:
                raise SystemExit("ended")
            child = subprocess.Popen(
                [str(arg) for arg in argv], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, cwd=cwd, env={**os.environ, **(env or {})},
                start_new_session=True, preexec_fn=prepare)
            self._running.add(child)
        try:
            status = child.wait(seconds)
        except subprocess.TimeoutExpired:
            status = TOO_LONG
        finally:
            end(child)
            with self._lock:
                self._running.discard(child)
        if self._over:
            raise SystemExit("ended")
        return status

    def end_all(self):
        """Ends those that run, and none is started after it."""
        with self._lock:
            self._over = True
            running = list(self._running)
        for child in running:
            end(child)


def end(child):
    """SIGTERM first: a laboratory takes its namespaces down with it."""
    if child.poll() is None:
        with contextlib.suppress(OSError):
            hurry(child.pid)
    for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def yield_to_all():
    """This process, whose session is its own, runs when no other would (sched(7): SCHED_IDLE counts
    within the session's autogroup only, so that is made the least, too)."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    os.nice(19)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as group:
        group.write("19")


def hurry(pid):
    """It runs as others do again: what gets no processor time does not end either."""
    os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
    with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as group:
        group.write("0")


def exit_on_signals():
    """An interrupted script leaves by SystemExit, and cleans up on its way."""

    def leave(number, _frame):
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
