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

    def run(self, argv, out, seconds, env=None, cwd=None):
        """Run a command to its end, its output going to the file `out`: exit status, or TOO_LONG."""
        child = subprocess.Popen(
            [str(arg) for arg in argv], stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, cwd=cwd, env={**os.environ, **(env or {})},
            start_new_session=True,
            preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM))
        with self._lock:
            self._running.add(child)
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            return TOO_LONG
        finally:
            end(child)
            with self._lock:
                self._running.discard(child)

    def end_all(self):
        with self._lock:
            running = list(self._running)
        for child in running:
            end(child)


def end(child):
    """SIGTERM first: a laboratory takes its namespaces down with it."""
    for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def exit_on_signals():
    """An interrupted script leaves by SystemExit, and cleans up on its way."""

    def leave(number, _frame):
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
