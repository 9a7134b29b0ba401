#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps behind scripts/test.

A step is a function that gives back a Result: how many single tests passed, failed and were skipped.
A test program counts by what it says (TAP, unittest, or a last line "N passed, N failed"); a check
of a whole tool (a build, a linter) counts as one. A program that ends with an error without
having named a failed test counts as one failure, so that nothing is lost. Each command's output is
in COLO_BUILD/test-logs; the end of it is shown when it failed.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from children import TOO_LONG, Children, exit_on_signals

TOP = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("COLO_BUILD", TOP / "build")).resolve()
ASAN = BUILD.with_name(BUILD.name + "-asan")
FUZZ = BUILD.with_name(BUILD.name + "-fuzz")
LOGS = BUILD / "test-logs"
JOBS = max(1, os.cpu_count() or 1)
FUZZ_SECONDS = 5
LIMIT = 1800  # s, after which a command counts as hanging: far beyond what a busy machine takes
LONG = ("sim_compare", "sim_pair", "test_gate", "test_datapath")  # begun first: none is left alone


class Result:
    def __init__(self, passed=0, failed=0, skipped=0, words=""):
        self.passed, self.failed, self.skipped, self.words = passed, failed, skipped, words

    def __iadd__(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        return self


class Runner:
    """Commands, their logs, and what failed."""

    def __init__(self, args):
        self.args = args
        self.failures = []
        self.children = Children()
        self._lock = threading.Lock()

    def run(self, name, argv, seconds=LIMIT, env=None, cwd=TOP, patient=False):
        """Run a command to its end; (exit status, output). TOO_LONG: it was ended."""
        log = LOGS / f"{name}.log"
        with open(log, "wb") as out:
            status = self.children.run(argv, out, seconds, env, cwd, patient)
            if status == TOO_LONG:
                out.write(f"\nnot finished after {seconds} s: ended\n".encode())
        return status, log.read_text(errors="replace")

    def fail(self, name, output, lines=25):
        shown = failed_parts(output)
        what = "says" if shown else "ends with"
        text = "\n".join("    " + line for line in shown or output.rstrip().splitlines()[-lines:])
        with self._lock:
            self.failures.append(name)
            print(f"  FAILED {name}: {LOGS / name}.log {what}\n{text}", flush=True)

    def one(self, name, argv, **kw):
        """A command that counts as one test."""
        status, output = self.run(name, argv, **kw)
        if status:
            self.fail(name, output)
            return Result(failed=1)
        return Result(passed=1)

    def program(self, name, argv, **kw):
        """A test program that says itself what it did."""
        status, output = self.run(name, argv, **kw)
        result = count(output)
        if status and not result.failed:
            result.failed = 1
        if not status and result.passed + result.failed + result.skipped == 0:
            result.passed = 1
        if result.failed:
            self.fail(name, output)
        return result

    def all(self, function, items):
        """function(item) for each, as many at a time as there are processors; the sum."""
        total = Result()
        with ThreadPoolExecutor(JOBS) as pool:
            for result in pool.map(function, items):
                total += result
        return total


def failed_parts(output, lines=40):
    """The lines of a test program about each test that failed: from "not ok" to the next test."""
    shown, left = [], 0
    for line in output.splitlines():
        if line.startswith("not ok "):
            left = lines
        elif line.startswith("ok "):
            left = 0
        if left:
            shown.append(line)
            left -= 1
    return shown


def count(output):
    """Single tests in the output of a test program."""
    lines = output.splitlines()
    said = re.findall(r"^(?:\d+ s, )?(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\b", output, re.M)
    if said:
        return Result(*(int(number or 0) for number in said[-1]))
    ran = re.findall(r"^Ran (\d+) tests? in", output, re.M)  # unittest
    if ran:
        parts = dict(re.findall(r"(failures|errors|skipped|unexpected successes)=(\d+)",
                                lines[-1] if lines else ""))
        failed = sum(int(parts.get(key, 0)) for key in ("failures", "errors",
                                                        "unexpected successes"))
        skipped = int(parts.get("skipped", 0))
        return Result(max(0, int(ran[-1]) - failed - skipped), failed, skipped)
    result = Result()
    for line in lines:  # TAP
        said = re.match(r"(not )?ok \d+", line)
        if said and said[1]:
            result.failed += 1
        elif said and re.search(r"# *skip", line, re.I):
            result.skipped += 1
        elif said:
            result.passed += 1
    plan = re.search(r"^1\.\.(\d+)", output, re.M)
    if plan:  # a program that died in the middle
        result.failed += max(0, int(plan[1]) - result.passed - result.failed - result.skipped)
    return result


# --- steps ------------------------------------------------------------------------------------------


def build(run, name, preset, folder):
    if not (folder / "build.ninja").exists():
        status, output = run.run(f"{name}-configure", ["cmake", "--preset", preset, "-B", folder])
        if status:
            run.fail(f"{name}-configure", output)
            return Result(failed=1)
    return run.one(name, ["ninja", "-C", folder, "-k", "0", f"-j{JOBS}"])


def build_release(run):
    """gcc, as it is shipped"""
    return build(run, "build", "release", BUILD)


def build_asan(run):
    """gcc with AddressSanitizer and UndefinedBehaviorSanitizer"""
    return build(run, "build-asan", "asan", ASAN)


def build_fuzz(run):
    """clang with sanitizers and libFuzzer; clang's warnings of the tests are clang-tidy's"""
    return build(run, "build-fuzz", "fuzz", FUZZ)


def tracked(*patterns):
    # -c safe.directory: the checkout may be another user's, and tests run as root.
    argv = ["git", "-c", f"safe.directory={TOP}", "-C", str(TOP), "ls-files", "--", *patterns]
    return sorted(subprocess.run(argv, capture_output=True, text=True, check=True,
                                 stdin=subprocess.DEVNULL).stdout.split())


def check_format(run):
    """clang-format has nothing to change"""
    return run.one("format", ["clang-format", "--dry-run", "-Werror", *tracked("*.c", "*.h")])


def compiled():
    """The tracked sources that the build compiles."""
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    return sorted({os.path.relpath(c["file"], TOP) for c in commands} & set(tracked("*.c")))


def digest(paths, *more):
    sha = hashlib.sha256()
    for path in paths:
        sha.update(path.encode() + b"\0" + (TOP / path).read_bytes())
    for text in more:
        sha.update(text.encode())
    return sha.hexdigest()


def check_tidy(run):
    """clang-tidy, file by file; what has not changed since it passed is not done again"""
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True, text=True,
                             check=True).stdout
    headers = digest(tracked("*.h", ".clang-tidy", "CMakeLists.txt"), version)
    seen = BUILD / "tidy-passed"
    seen.mkdir(exist_ok=True)

    def tidy(source):
        mark = seen / digest([source], headers)
        if mark.exists():
            return Result(passed=1)
        name = "tidy-" + source.replace("/", "-")
        result = run.one(name, ["clang-tidy", "--quiet", "-p", BUILD, source], seconds=3600,
                         patient=True)
        if not result.failed:
            mark.touch()
        return result

    return run.all(tidy, compiled())


def check_cppcheck(run):
    """cppcheck"""
    return run.one("cppcheck", [
        "cppcheck", "--quiet", f"-j{JOBS}", "--library=gtk", "--inline-suppr",
        "--enable=warning,performance,portability", "--error-exitcode=1", "-I.",
        # GTest's assertions are never compiled out.
        "--suppress=assertWithSideEffect:tests/*", "--suppress=assignmentInAssert:tests/*",
        *compiled()])


def check_scripts(run):
    """shellcheck for the shell scripts, Python's compiler for the others"""
    shell, python = [], []
    for name in tracked("scripts/*", "tests/*", ".ci/*", "packaging/*"):
        with open(TOP / name, "rb") as file:
            first = file.readline()
        if re.match(rb"#!.*\b(ba)?sh\b", first) or name.endswith(".sh"):
            shell.append(name)
        elif re.match(rb"#!.*python", first) or name.endswith(".py"):
            python.append(name)
    # SC2187: busybox's shell is taken for dash; SC1007: "a= b=" is meant to be empty.
    result = run.one("shellcheck", ["shellcheck", "-x", "-P", TOP, "-S", "warning",
                                    "-e", "SC2187,SC1007", *shell])
    with tempfile.TemporaryDirectory() as cache:
        result += run.one("python", ["/usr/bin/python3", "-X", f"pycache_prefix={cache}", "-W",
                                     "error", "-m", "py_compile", *python])
    return result


def programs(folder):
    """The test programs of a build: [(name, argv)], as CTest knows them; those that take long first."""
    listed = subprocess.run(["ctest", "--test-dir", folder, "--show-only=json-v1"],
                            capture_output=True, text=True, check=True).stdout
    tests = [(test["name"], test["command"]) for test in json.loads(listed)["tests"]]
    return sorted(tests, key=lambda test: test[0] not in LONG)


def unit(run, label, folder):
    def one(test):
        name, argv = test
        env = {"ASAN_OPTIONS": "abort_on_error=0:detect_stack_use_after_return=1",
               "UBSAN_OPTIONS": "print_stacktrace=1", "COLO_BUILD": str(folder)}
        return run.program(f"{label}-{name}", argv, env=env)

    return run.all(one, programs(folder))


def unit_release(run):
    """unit tests, simulations, fuzz corpora"""
    return unit(run, "unit", BUILD)


def unit_asan(run):
    """the same under AddressSanitizer and UndefinedBehaviorSanitizer"""
    return unit(run, "asan", ASAN)


def mutants(run):
    """one line of the code broken at a time: a test notices each"""
    return run.program("mutants", [TOP / "scripts/mutants", *["--quick"] * run.args.quick],
                       env={"COLO_BUILD": str(BUILD)})


def model(run):
    """the takeover as a model, searched through; and broken, so that the search must fail"""
    return run.program("model", [sys.executable, TOP / "tests/model/check.py"])


def fuzz(run):
    """five seconds of libFuzzer for each target"""
    with tempfile.TemporaryDirectory() as work:
        def one(target):
            found = Path(work) / target.name
            found.mkdir()
            return run.one(target.name, [
                target, f"-max_total_time={FUZZ_SECONDS}", "-print_final_stats=1",
                f"-artifact_prefix={LOGS}/{target.name}-", found,
                TOP / "tests/fuzz/corpus" / target.name])

        targets = [path for path in sorted((FUZZ / "tests").glob("fuzz_*"))
                   if os.access(path, os.X_OK) and path.is_file()]
        return run.all(one, targets)


def install(run):
    """cmake --install, and the installed program starts"""
    with tempfile.TemporaryDirectory() as dest:
        result = run.one("install", ["cmake", "--install", BUILD, "--prefix", f"{dest}/usr"])
        if not result.failed:
            result += run.one("installed", [f"{dest}/usr/sbin/colo-proxy", "version"])
    return result


def pair(run):
    """both daemons under one seed: 20,000 schedules with faults, and that each kind was seen"""
    result = run.program("pair", [BUILD / "tests/sim_pair", "--seeds", "20000", "--jobs", JOBS,
                                  "--all-seen"])
    rate = re.search(r"^# (\d+ schedules in .* a second on a core)",
                     (LOGS / "pair.log").read_text(errors="replace"), re.M)
    result.words = rate[1] if rate else ""
    return result


def stacks(run):
    """the comparison engine between three real TCP stacks, 10,000 seeds"""
    return run.one("stacks", [BUILD / "tests/stacks"])


def laboratory(run):
    """the laboratory and the test guest"""
    return run.program("lab", [TOP / "tests/lab/test_lab.py"], env={"COLO_BUILD": str(BUILD)})


def cached(name):
    """What scripts/setup has made."""
    return Path(os.environ.get("COLO_CACHE", "/var/cache/colo-proxy")) / name


def qemu(run):
    """QEMU's COLO as qemu-glue drives it; a guest that changes its code, with and without the plugin"""
    smoke = [BUILD / "tests/qemu-smoke", "--qemu", cached("qemu/bin/qemu-system-x86_64")]
    plugin = ["--plugin", BUILD / "tcg-flush.so"]
    guest = ["--kernel", cached("guest/vmlinuz"), "--initrd", cached("guest/initrd.img"),
             "--append", cached("guest/cmdline").read_text().strip()]
    result = run.one("qemu-colo", [*smoke, *plugin, *guest])
    result += run.one("qemu-stale-code", [*smoke, *plugin, "--stale-code"])
    result += run.one("qemu-stale-code-seen", [*smoke, "--stale-code"])
    return result


def end_to_end(run):
    """real VMs: rules R1 to R8, power cuts, failures of links and programs"""
    # One laboratory more than there are processors: each waits for timers now and then.
    argv = [sys.executable, TOP / "tests/e2e/run.py", "--logs", LOGS / "e2e",
            "--prefix", f"c{os.getpid()}", "--jobs", JOBS + 1]
    return run.program("e2e", argv, seconds=2 * LIMIT, env={"COLO_BUILD": str(BUILD)})


def demo(run):
    """scripts/demo with both data paths"""
    result = Result()
    for datapath in ("hold-tap", "nfqueue"):
        result += run.one(f"demo-{datapath}", [TOP / "scripts/demo", "--quick", "--datapath",
                                               datapath], env={"COLO_BUILD": str(BUILD)})
    return result


# name, function, the builds that it needs, part of --quick
STEPS = (
    ("build", build_release, (), True),
    ("build-asan", build_asan, (), False),
    ("build-fuzz", build_fuzz, (), False),
    ("format", check_format, (), True),
    ("scripts", check_scripts, (), True),
    ("cppcheck", check_cppcheck, ("build",), True),
    ("tidy", check_tidy, ("build",), False),
    ("unit", unit_release, ("build",), True),
    ("unit-asan", unit_asan, ("build-asan",), False),
    ("mutants", mutants, ("build",), True),
    ("model", model, (), False),
    ("fuzz", fuzz, ("build-fuzz",), False),
    ("install", install, ("build",), True),
    ("pair", pair, ("build",), False),
    ("stacks", stacks, ("build",), True),
    ("lab", laboratory, ("build",), True),
    ("qemu", qemu, ("build",), True),
    ("e2e", end_to_end, ("build",), False),
    ("demo", demo, ("build",), True),
)


# Takes the processor time that the steps behind it leave: they wait for timers and guests.
BESIDE = "tidy"


def chosen(args):
    names = [name for name, *_ in STEPS]
    if args.only:
        for name in args.only:
            if name not in names:
                sys.stderr.write(f"test: no step {name!r}; there are {', '.join(names)}\n")
                sys.exit(2)
        needed = {need for name, _, needs, _ in STEPS if name in args.only for need in needs}
        return [step for step in STEPS if step[0] in needed or step[0] in args.only]
    return [step for step in STEPS if step[3] or not args.quick]


def run_step(run, name, function, needs, broken):
    """One step and its line; a build that fails is put into @broken."""
    began = time.monotonic()
    why = "its build failed" if broken & set(needs) else ""
    result = Result()
    if not why:
        try:
            result = function(run)
            if not result.passed + result.failed:
                why = "no test ran"
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            why = str(error) or repr(error)
    if why:
        result = Result(failed=1, words=why)
        run.failures.append(name)
    if result.failed and name.startswith("build"):
        broken.add(name)
    skipped = f", {result.skipped} skipped" if result.skipped else ""
    print(f"{name:<11} {'FAILED' if result.failed else 'ok':<7} "
          f"{time.monotonic() - began:6.1f} s  {result.passed} passed, {result.failed} failed"
          f"{skipped}{'  (' + result.words + ')' if result.words else ''}", flush=True)
    return result


def run_steps(run, steps):
    total, broken, beside = Result(), set(), None
    with ThreadPoolExecutor(1) as pool:
        try:
            for name, function, needs, _ in steps:
                if name == BESIDE:
                    beside = pool.submit(run_step, run, name, function, needs, broken)
                else:
                    total += run_step(run, name, function, needs, broken)
            if beside:
                total += beside.result()
        except BaseException:
            run.children.end_all()  # or the pool would wait for them
            raise
    return total


def main():
    parser = argparse.ArgumentParser(prog="scripts/test")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", metavar="STEP")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    steps = chosen(args)
    if args.list:
        for name, function, *_ in steps:
            print(f"{name:<11} {function.__doc__}")
        return 0

    exit_on_signals()
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    os.environ["COLO_BUILD"] = str(BUILD)
    run = Runner(args)
    began = time.monotonic()
    try:
        total = run_steps(run, steps)
    except SystemExit:
        run.children.end_all()
        print("interrupted")
        raise
    if run.failures:
        print("failed: " + ", ".join(run.failures))
    print(f"{time.monotonic() - began:.0f} s, logs in {LOGS}"
          + (f", {total.skipped} skipped" if total.skipped else ""))
    print(f"{total.passed} passed, {total.failed} failed")
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main())
