#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""End-to-end tests with real VMs; docs/testing.md says what each one shows.

    tests/e2e/run.py                       all
    tests/e2e/run.py NAME...               those whose name starts with one of these
    tests/e2e/run.py --jobs 2              two labs at a time
    tests/e2e/run.py --list
    tests/e2e/run.py --cuts 50 --seed 7    power cuts at random moments instead

Needs root, scripts/setup, and a build ($COLO_BUILD, or build/)."""
import argparse
import contextlib
import io
import os
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import support  # noqa: E402
from support import Env, Failed, LabError, Skipped, keep_files  # noqa: E402
import workers  # noqa: E402
from registry import TESTS  # noqa: E402
import test_cuts  # noqa: E402
import test_divergences  # noqa: E402,F401
import test_encoding  # noqa: E402,F401
import test_faults  # noqa: E402,F401
import test_fence  # noqa: E402,F401
import test_flows  # noqa: E402,F401
import test_hostile  # noqa: E402,F401
import test_kvm  # noqa: E402,F401
import test_life  # noqa: E402,F401
import test_policies  # noqa: E402,F401
import test_protected  # noqa: E402,F401
import test_release  # noqa: E402,F401
import test_reprotect  # noqa: E402,F401
import test_return  # noqa: E402,F401
import test_services  # noqa: E402,F401
import test_split  # noqa: E402,F401
import test_stock  # noqa: E402,F401

TAIL = 25


class Runner:
    def __init__(self, logs):
        self.logs = logs
        self.passed, self.failed, self.skipped = 0, [], 0

    def keep_logs(self, name, env):
        """The lab's logs under the test's name, and the ends of the daemons' ones to read now."""
        if not env.lab.dir.exists():
            return
        kept = self.logs / name.replace("/", "-")
        keep_files(env.lab.dir, kept)
        print(f"  logs: {kept}")
        for host, daemon in env.pair.daemon.items():
            lines = [line for line in env.log(host).splitlines()]
            print(f"  --- the end of the log of {host}" +
                  (f", which ended with {daemon.returncode}" if daemon.poll() is not None else ""))
            print("".join(f"  {line}\n" for line in lines[-TAIL:]), end="")

    def one(self, test, env):
        """Returns whether it passed."""
        started = time.monotonic()
        env.facts = []
        try:
            test.function(env, *test.args)
        except Skipped as why:
            print(f"ok {test.name} # SKIP {why}", flush=True)
            self.skipped += 1
            return True
        except (Failed, LabError) as why:
            return self.not_ok(test.name, env, str(why))
        except Exception:  # a broken test is a failed test
            return self.not_ok(test.name, env, traceback.format_exc())
        print(f"ok {test.name} ({time.monotonic() - started:.1f} s)", flush=True)
        if env.facts:
            print("  " + "; ".join(env.facts), flush=True)
        self.passed += 1
        return True

    def not_ok(self, name, env, why):
        print(f"not ok {name}: {why}")
        self.keep_logs(name, env)
        sys.stdout.flush()
        self.failed.append(name)
        return False

    def group(self, group, tests):
        """The tests of a group share a pair until one fails: what follows gets a new one."""
        tests = list(tests)
        while tests:
            env = group.make()
            env.__enter__()
            try:
                try:
                    group.start(env)
                except (Failed, LabError) as why:
                    for test in tests[1:]:
                        print(f"not ok {test.name}: no set-up, see {tests[0].name}")
                        self.failed.append(test.name)
                    self.not_ok(tests[0].name, env, f"set-up: {why}")
                    return
                while tests:
                    if not self.one(tests.pop(0), env):
                        break
            finally:
                env.__exit__()

    def summary(self):
        print(f"{self.passed} passed, {len(self.failed)} failed"
              + (f", {self.skipped} skipped" if self.skipped else "")
              + "".join(f"\n  {name}" for name in self.failed))
        return 1 if self.failed else 0


# --- several labs at a time -------------------------------------------------------------------------


def in_turns(runner, groups, jobs):
    """All groups, @jobs of them at a time; what one prints is printed when it is over."""
    def do(item):
        runner.passed, runner.failed, runner.skipped = 0, [], 0
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try:
                runner.group(*item)
            except Exception:
                print(f"not ok {item[1][0].name}: {traceback.format_exc()}")
                runner.failed.append(item[1][0].name)
        yield runner.passed, runner.failed, runner.skipped, out.getvalue()

    def take(result):
        passed, failed, skipped, text = result
        runner.passed += passed
        runner.failed += failed
        runner.skipped += skipped
        print(text, end="", flush=True)

    workers.in_turns(groups, jobs, do, take)


def chosen(names):
    tests = [test for test in TESTS
             if not names or any(test.name.startswith(name) for name in names)]
    for name in names:
        if not any(test.name.startswith(name) for test in TESTS):
            sys.exit(f"no test {name}; --list shows them")
    return tests


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--cuts", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logs", default="/tmp/colo-e2e", help="where logs of failed tests go")
    parser.add_argument("--prefix", default="e2e", help="of the labs")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="labs at a time")
    args = parser.parse_args()
    if args.list:
        for test in TESTS:
            print(f"{test.name:34} {test.about}")
        return 0
    if os.geteuid() != 0:
        sys.exit("e2e: needs root, for network namespaces")
    Env.prefix = args.prefix
    logs = Path(args.logs)
    logs.mkdir(parents=True, exist_ok=True)
    runner = Runner(logs)
    if args.cuts:
        return test_cuts.random_cuts(runner, args.cuts, args.seed)
    started = time.monotonic()
    groups = {}
    for test in chosen(args.names):
        groups.setdefault(test.group, []).append(test)
    if args.jobs > 1:
        in_turns(runner, list(groups.items()), args.jobs)
    else:
        for group, tests in groups.items():
            runner.group(group, tests)
    print(f"{time.monotonic() - started:.0f} s, ", end="")
    return runner.summary()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
