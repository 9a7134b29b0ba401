#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Break the code by one line at a time, and see that a test notices.

    scripts/mutants                  every mutant that a unit test or the simulation can notice
    scripts/mutants --quick          one or two for each rule and file, about half a minute
    scripts/mutants --e2e            those that only real VMs can notice (root, minutes)
    scripts/mutants NAME...          those whose name begins so
    scripts/mutants --list | --json

The mutants are in tests/mutants/*.toml. The tree is not touched: the mutated file is compiled in a
temporary folder, with the command of the build, and the test is linked again with that object in
front of the library that has the sound one. A mutant that lives is a missing test; one whose text is
not in the code exactly once has to be written anew. Either makes the exit status 1.
"""
import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from children import TOO_LONG, Children, exit_on_signals

TOP = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("COLO_BUILD", TOP / "build")).resolve()
TABLES = TOP / "tests" / "mutants"
FIELDS = {"name", "rule", "breaks", "file", "old", "new", "tests", "quick"}
SIM = "sim_compare"
PAIR = "sim_pair"
SEEDS = 2000
LEAST_SECONDS = 12  # a test that takes ten times as long as without the mutant hangs, but not before
E2E_SECONDS = 600  # one that fails may have waited for what does not come, twice
LIMIT = 900  # s: for what does not hang


class Broken(Exception):
    """The mutant cannot be tried."""


def load():
    """[mutant]: the tables' entries, checked."""
    mutants = []
    for path in sorted(TABLES.glob("*.toml")):
        for mutant in tomllib.loads(path.read_text())["mutant"]:
            unknown = set(mutant) - FIELDS
            missing = FIELDS - {"quick"} - set(mutant)
            if unknown or missing:
                sys.exit(f"mutants: {path.name}, {mutant.get('name')}: fields "
                         f"{', '.join(sorted(unknown | missing))} unknown or missing")
            mutants.append({"quick": False, **mutant})
    names = [mutant["name"] for mutant in mutants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        sys.exit(f"mutants: two are named {', '.join(twice)}")
    return mutants


def is_e2e(mutant):
    return mutant["tests"][0].startswith("e2e:")


def place(mutant):
    """(source, its text): the only file of the pattern that has the text, once."""
    if mutant["old"] == mutant["new"]:
        raise Broken("it changes nothing")
    found = [(path, text.count(mutant["old"]), text)
             for path in sorted(TOP.glob(mutant["file"])) for text in [path.read_text()]]
    times = sum(count for _, count, _ in found)
    if times != 1:
        raise Broken(f"its text is in {mutant['file']} {times} times, and must be once")
    return next((str(path.relative_to(TOP)), text) for path, count, text in found if count)


class Commands:
    """How the build compiles a file and links a program."""

    def __init__(self):
        entries = json.loads((BUILD / "compile_commands.json").read_text())
        self._compile = {entry["file"]: shlex.split(entry["command"]) for entry in entries}
        self._link = {}
        self._lock = threading.Lock()

    def compile(self, name, source, to):
        argv = self._compile.get(str(TOP / name))
        if not argv:
            raise Broken(f"the build does not compile {name}")
        argv = [word for word in argv if not word.startswith("-W")] + ["-w"]
        argv[argv.index("-o") + 1] = str(to)
        argv[argv.index("-c") + 1] = str(source)
        return argv

    def link(self, target, name, with_object, to):
        """The program `target` with the object in the place of that of the source `name`."""
        with self._lock:
            if target not in self._link:
                said = subprocess.run(["ninja", "-C", BUILD, "-t", "commands", target],
                                      capture_output=True, text=True, check=True,
                                      stdin=subprocess.DEVNULL).stdout.strip().splitlines()
                self._link[target] = [word for word in shlex.split(said[-1])
                                      if word not in (":", "&&")]
        argv = list(self._link[target])
        argv[argv.index("-o") + 1] = str(to)
        own = [i for i, word in enumerate(argv) if word.endswith(f".dir/{name}.o")]
        if own:  # the program's own, not a library's
            argv[own[0]] = str(with_object)
        else:
            first = next(i for i, word in enumerate(argv) if word.endswith(".a"))
            argv.insert(first, str(with_object))
        return argv


class Run:
    """The mutants of one call: processes, temporary folder, results."""

    def __init__(self, args, folder):
        self.args, self.folder = args, Path(folder)
        self.commands = Commands()
        self.sound = {}  # test: seconds without any mutant
        self.children = Children()

    def call(self, argv, seconds, env=None, cwd=TOP):
        """(exit status, output)."""
        with tempfile.TemporaryFile(dir=self.folder) as out:
            status = self.children.run(argv, out, seconds, env, cwd)
            out.seek(0)
            return status, out.read().decode(errors="replace")

    # --- one test ---

    def test(self, name, program, seconds, seeds=None):
        env = {"COLO_BUILD": str(BUILD), "SIM_SEEDS": str(seeds or self.args.seeds),
               "SIM_SHRINK": "0"}
        return self.call([program, "--tap"], seconds, env)

    def try_sound(self, name):
        began = time.monotonic()
        status, output = self.test(name, BUILD / "tests" / name, LIMIT)
        if status:
            raise Broken(f"{name} fails without any mutant:\n{tail(output)}")
        self.sound[name] = time.monotonic() - began

    def first_seed(self, program, output, seconds):
        """The simulation's first seed that fails: said, or found by doubling and halving."""
        said = re.search(r"SIM_SEED=(\d+)", output)
        if said:
            return int(said[1])
        low, high = 0, 1
        while high < self.args.seeds and not self.test(SIM, program, seconds, high)[0]:
            low, high = high, high * 2
        high = min(high, self.args.seeds)
        while high - low > 1:
            middle = (low + high) // 2
            if self.test(SIM, program, seconds, middle)[0]:
                high = middle
            else:
                low = middle
        return high

    # --- one mutant ---

    def mutate(self, mutant, folder):
        """(the mutated source's name, its object)."""
        name, text = place(mutant)
        source, target = folder / Path(name).name, folder / "mutant.o"
        source.write_text(text.replace(mutant["old"], mutant["new"]))
        status, output = self.call(self.commands.compile(name, source, target), LIMIT, cwd=BUILD)
        if status:
            raise Broken(f"it does not compile:\n{tail(output)}")
        return name, target

    def link(self, mutated, target, program):
        status, output = self.call(
            self.commands.link(target, *mutated, program), LIMIT, cwd=BUILD)
        if status:
            raise Broken(f"{target} cannot be linked with it:\n{tail(output)}")

    def one(self, mutant):
        """The row of the table; row["caught"] is None for one that lives."""
        began = time.monotonic()
        row = {"name": mutant["name"], "rule": mutant["rule"], "breaks": mutant["breaks"],
               "caught": None, "seeds": None, "error": None}
        with tempfile.TemporaryDirectory(dir=self.folder) as where:
            folder = Path(where)
            try:
                mutated = self.mutate(mutant, folder)
                if is_e2e(mutant):
                    self.end_to_end(mutant, mutated, folder, row)
                else:
                    self.programs(mutant, mutated, folder, row)
            except Broken as why:
                row["error"] = str(why)
        row["seconds"] = round(time.monotonic() - began, 1)
        return row

    def programs(self, mutant, mutated, folder, row):
        for name in mutant["tests"]:
            program = folder / name
            self.link(mutated, f"tests/{name}", program)
            seconds = max(LEAST_SECONDS, 10 * self.sound[name])
            status, output = self.test(name, program, seconds)
            if not status:
                continue
            row["caught"] = f"{name}: {why_failed(status, output)}"
            if name == SIM or (name == PAIR and "SIM_SEED=" in output):
                row["caught"] = name
                row["seeds"] = self.first_seed(program, output, seconds)
            return

    def end_to_end(self, mutant, mutated, folder, row):
        """A build folder that is the real one but for the daemon."""
        build = folder / "build"
        build.mkdir()
        for entry in BUILD.iterdir():
            if entry.name != "colo-proxy":
                (build / entry.name).symlink_to(entry)
        self.link(mutated, "colo-proxy", build / "colo-proxy")
        names = [name.removeprefix("e2e:") for name in mutant["tests"]]
        status, output = self.call(
            [sys.executable, TOP / "tests/e2e/run.py", "--prefix", f"m{os.getpid()}",
             "--logs", folder / "logs", *names],
            E2E_SECONDS * len(names), {"COLO_BUILD": str(build)})
        failed = re.findall(r"^not ok ([^:\n]+)", output, re.M)
        if failed:
            row["caught"] = "e2e: " + ", ".join(failed)
        elif status:
            raise Broken(f"the tests did not run:\n{tail(output)}")


def tail(output, lines=15):
    return "\n".join("    " + line for line in output.rstrip().splitlines()[-lines:])


def why_failed(status, output):
    """The test function, or the place in the code, that an assertion names."""
    if status == TOO_LONG:
        return "hangs"
    said = re.search(r"ERROR:[^\s:]*?([^/\s:]+\.[ch]):\d+:(\w+):", output)
    if said:
        return said[2]
    said = re.search(r"(\w+\.c):\d+: (\w+): Assertion", output)
    if said:
        return f"assertion in {said[2]}()"
    said = re.search(r"^not ok \d+ (\S+)", output, re.M)
    if said:
        return said[1]
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def show(row):
    if row["error"]:
        verdict = f"NOT TRIED: {row['error']}"
    elif row["caught"] is None:
        verdict = "LIVES"
    else:
        verdict = row["caught"] + (f", {row['seeds']} seeds" if row["seeds"] else "")
    print(f"{row['rule']:<5} {row['name']:<36} {row['seconds']:5.1f} s  {verdict}", flush=True)


def build(targets):
    done = subprocess.run(["ninja", "-C", BUILD, *targets], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"mutants: the build fails without any mutant:\n{tail(done.stdout)}")


def run_all(args, mutants):
    e2e = bool(mutants) and is_e2e(mutants[0])
    tests = sorted({test for mutant in mutants for test in mutant["tests"]})
    build([f"tests/{test}" for test in tests] if not e2e
          else ["colo-proxy", "tcg-flush", "colo-load", "delay-relay"])
    with tempfile.TemporaryDirectory(prefix="colo-mutants-") as folder:
        run = Run(args, folder)
        try:
            with ThreadPoolExecutor(1 if e2e else args.jobs) as pool:
                if not e2e:
                    list(pool.map(run.try_sound, tests))
                rows = []
                for row in pool.map(run.one, mutants):
                    rows.append(row)
                    if not args.json:
                        show(row)
                return rows
        except Broken as why:
            sys.exit(f"mutants: {why}")
        finally:
            run.children.end_all()


def chosen(args, mutants):
    kind = [mutant for mutant in mutants if is_e2e(mutant) == args.e2e]
    if args.quick:
        kind = [mutant for mutant in kind if mutant["quick"]]
    if args.names:
        kind = [mutant for mutant in kind if mutant["name"].startswith(tuple(args.names))]
    return kind


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/mutants", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--e2e", action="store_true")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"of the simulation ({SEEDS})")
    parser.add_argument("--jobs", type=int, default=max(1, os.cpu_count() or 1))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    mutants = chosen(args, load())
    if not mutants:
        sys.exit("mutants: there is none of that name; see --list, and --e2e")
    if args.list:
        for mutant in mutants:
            print(f"{mutant['rule']:<5} {mutant['name']:<36} {mutant['breaks']}")
        return 0

    exit_on_signals()
    began = time.monotonic()
    rows = run_all(args, mutants)
    caught = sum(row["caught"] is not None for row in rows)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"{time.monotonic() - began:.0f} s, {caught} passed, {len(rows) - caught} failed")
    return 0 if caught == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
