# SPDX-License-Identifier: GPL-2.0-or-later
"""Several labs at a time: processes that take one group of tests after the other."""

import multiprocessing
import queue
import signal

from children import LIBC, PR_SET_PDEATHSIG, exit_on_signals
from support import Env


def work(number, groups, next_group, results, do):
    """A process of its own, whose labs have a prefix of their own."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    Env.prefix += chr(ord("a") + number)
    while True:
        with next_group.get_lock():
            index = next_group.value
            next_group.value += 1
        if index >= len(groups):
            return
        for result in do(groups[index]):
            results.put((False, result))
        results.put((True, None))


def in_turns(groups, jobs, do, take):
    """do(group), a generator, in one of @jobs processes; what it gives is taken here, as it comes."""
    fork = multiprocessing.get_context("fork")
    next_group, results = fork.Value("i", 0), fork.Queue()
    workers = [fork.Process(target=work, args=(n, groups, next_group, results, do))
               for n in range(jobs)]
    exit_on_signals()
    for worker in workers:
        worker.start()
    left = len(groups)
    try:
        while left:
            living = any(worker.is_alive() for worker in workers)
            try:
                over, result = results.get(timeout=1)
            except queue.Empty:
                if not living:  # what it had put before would have come
                    raise SystemExit("a process of the tests died") from None
                continue
            if over:
                left -= 1
            else:
                take(result)
    finally:
        for worker in workers:
            worker.terminate()  # a lab that is up is taken down
        for worker in workers:
            worker.join(60)
