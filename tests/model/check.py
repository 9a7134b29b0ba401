#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Search the model of the takeover, takeover.pml, through and through; docs/model.md.

    tests/model/check.py                 names, the model, and the model broken in each way that it knows
    tests/model/check.py --epochs 2      with more checkpoints in a protection: minutes, gigabytes
    tests/model/check.py --faults 2      that it is protected in the end, after more faults: the same
    tests/model/check.py --trail BREAK   the steps that lead a broken model to what is wrong
    tests/model/check.py --json

Two kinds of search: "sound" looks for an assertion that fails (with no limit to the faults), "live" for
a run that is not protected in the end although faults have ended. BREAK_* must fail the first one,
MUTE_* the second one.

Needs spin and gcc. Each run has a folder of its own, removed afterwards."""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
MODEL = Path(__file__).resolve().parent / "takeover.pml"
MEGABYTES = 2500  # of one search; the stack of the search is in it
SECONDS = 1200
BROKEN_FAULTS = 4  # in which each BREAK_* is found
MUTE_FAULTS = 2    # and each MUTE_*
LIVE = "-DLIVENESS"
DEEP = "-DBREAK_UNMARK_WHEN_YIELDED"  # 40 steps at least: not breadth first


class Failed(Exception):
    """What is wrong, in a sentence."""


# --- the names ---------------------------------------------------------------------------------


def enum(header, prefix):
    return set(re.findall(rf"\b({prefix}\w+)\b", (TOP / header).read_text()))


def code_symbols(text):
    """{symbol: line} of the comments "code: a b c: words"."""
    symbols = {}
    for match in re.finditer(r"code:\s*([a-z0-9_\s]+?)\s*(?::|\*/|\n \*/)", text):
        for symbol in match[1].split():
            symbols[symbol] = text.count("\n", 0, match.start()) + 1
    return symbols


def check_symbols():
    """every symbol that the model stands for is a function of the code"""
    text = MODEL.read_text()
    sources = "\n".join(path.read_text() for folder in ("colo-proxy", "kvm")
                        for path in sorted((TOP / folder).rglob("*.c")))
    symbols = code_symbols(text)
    gone = [f"{symbol} (line {line})" for symbol, line in symbols.items()
            if not re.search(rf"^(?!\s).*\b{symbol}\(", sources, re.M)]
    if gone:
        raise Failed("not in the code: " + ", ".join(sorted(gone)))
    bare = [match[1] for match in re.finditer(r"^inline (\w+)", text, re.M)
            if not re.search(r"(code:|model only)[^{}]*\Z", text[:match.start()][-400:])]
    if bare:
        raise Failed("no \"code:\" and no \"model only\" before " + ", ".join(bare))
    return f"{len(symbols)} symbols"


def check_messages():
    """every message, state and event of the code is in the model, or is left out with a reason"""
    text = MODEL.read_text()
    said = set(re.findall(r"\b(?:MSG|ROLE)_\w+", text))
    states = enum("colo-proxy/core/role.h", "ROLE_") - {"ROLE_STATE_COUNT", "ROLE_EV_COUNT"}
    known = states | enum("colo-proxy/link/messages.h", "MSG_")
    left_out = {name for name in known - said if not name.endswith("_END")}
    if left_out:
        raise Failed("not in the model: " + ", ".join(sorted(left_out)))
    if said - known:
        raise Failed("not in the code: " + ", ".join(sorted(said - known)))
    return f"{len(known)} names"


# --- the searches ------------------------------------------------------------------------------


def run(argv, folder, seconds=SECONDS):
    child = subprocess.Popen([str(arg) for arg in argv], cwd=folder, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             start_new_session=True)
    try:
        output, _ = child.communicate(timeout=seconds)
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    return child.returncode, output


def search(defines, folder):
    """The verifier's output; takeover.pml.trail is in the folder when something is wrong."""
    (folder / MODEL.name).write_text(MODEL.read_text())
    status, output = run(["spin", *defines, "-a", MODEL.name], folder)
    if status or "Error" in output:
        raise Failed(f"spin: {output.strip()}")
    if LIVE in defines:
        mute = any(define.startswith("-DMUTE_") for define in defines)
        how, arguments = ["-O0" if mute else "-O1"], ["-a", "-E"]  # gcc takes longer than pan
    elif any(define.startswith("-DBREAK_") and define != DEEP for define in defines):
        how, arguments = ["-O0", "-DBFS", "-DSAFETY"], []  # breadth first: it is near
    else:
        how, arguments = ["-O2", "-DSAFETY"], []
    status, output = run(["gcc", *how, "-w", "-DNOREDUCE", f"-DMEMLIM={MEGABYTES}", "-o", "pan",
                          "pan.c"], folder)
    if status:
        raise Failed(f"gcc: {output.strip()}")
    try:
        return run(["./pan", *arguments, "-m1000000"], folder)[1]
    except subprocess.TimeoutExpired:
        raise Failed(f"not through after {SECONDS} s") from None


def number(pattern, output):
    found = re.search(pattern, output)
    return int(float(found[1])) if found else 0


def figures(output):
    return {"states": number(r"([\d.e+]+) states, stored", output),
            "transitions": number(r"([\d.e+]+) transitions", output),
            "depth": number(r"depth reached (\d+)", output),
            "megabytes": number(r"([\d.]+)\s+total actual memory", output)}


def wrong(output):
    """What the search has found, or None."""
    failed = re.search(r"pan:1: (?:assertion violated\s+)?(.*) \(at depth", output)
    return failed[1] if failed else None


def search_sound(defines, folder):
    """the model as the code is: nothing is wrong in any state, or in any run"""
    output = search(defines, folder)
    if wrong(output):
        raise Failed(f"{wrong(output)}\n{trail(defines, folder)}")
    if "Search not completed" in output or "errors: 0" not in output:
        raise Failed("the search was not complete:\n" + output[-600:])
    dead = re.findall(r"takeover.pml:(\d+), state \d+, \"(?!-end-)(.*)\"", output)
    if dead and len(defines) == 1:  # the others leave out what does not matter to them
        raise Failed("never reached: " + ", ".join(f"line {line} {what}" for line, what in dead))
    return figures(output)


def search_broken(defines, folder):
    """the model is broken, and the search sees it: as an assertion, or as a run that does not end well"""
    output = search(defines, folder)
    if not wrong(output):
        raise Failed("nothing is wrong: the model does not see it")
    if (LIVE in defines) != (wrong(output) == "acceptance cycle"):
        raise Failed(f"fails by another thing: {wrong(output)}")
    return {**figures(output), "wrong": wrong(output)}


def trail(defines, folder):
    output = run(["spin", *defines, "-t", MODEL.name], folder)[1]
    steps = [line.strip() for line in output.splitlines()
             if re.match(r"\s*([01]|link|no more faults)(: |$)|.*text of failed|.*START OF", line)]
    return "\n".join("    " + step for step in steps[-80:])


def broken_defines(broken):
    if broken.startswith("BREAK_"):
        return ["-DMAX_EPOCH=1", f"-DFAULTS={BROKEN_FAULTS}", f"-D{broken}"]
    lies = ["-DFENCE_LIES"] if "TERM" in broken else []
    return ["-DMAX_EPOCH=1", LIVE, f"-DFAULTS={MUTE_FAULTS}", *lies, f"-D{broken}"]


def shortest(broken):
    with tempfile.TemporaryDirectory(prefix="colo-model-") as place:
        search(broken_defines(broken), Path(place))
        return trail(broken_defines(broken), Path(place))


def tasks(epochs, faults):
    """[(name, words, function(folder))]: what takes longest first."""
    live = ["-DMAX_EPOCH=1", LIVE, f"-DFAULTS={faults}"]
    ends = f"{faults} fault(s)"
    yield ("sound", f"{epochs} checkpoint(s)",
           lambda folder: search_sound([f"-DMAX_EPOCH={epochs}"], folder))
    yield "live", ends, lambda folder: search_sound(live, folder)
    for words, define in (("fences that lie", "-DFENCE_LIES"),
                          ("an arbiter for host 0 alone", "-DREACHES=0"),
                          ("an arbiter for host 1 alone", "-DREACHES=1")):
        yield ("live", f"{ends}, {words}",
               lambda folder, define=define: search_sound([*live, define], folder))
    for broken in sorted(set(re.findall(r"\b(?:BREAK|MUTE)_\w+", MODEL.read_text()))):
        yield (broken, "",
               lambda folder, broken=broken: search_broken(broken_defines(broken), folder))
    yield "symbols", "", lambda _folder: {"said": check_symbols()}
    yield "messages", "", lambda _folder: {"said": check_messages()}


def one(task):
    name, words, function = task
    began = time.monotonic()
    result = {"name": name, "words": words, "error": None}
    with tempfile.TemporaryDirectory(prefix="colo-model-") as place:
        try:
            result.update(function(Path(place)))
        except Failed as why:
            result["error"] = str(why)
    result["seconds"] = round(time.monotonic() - began, 1)
    return result


def show(index, result):
    name = f"{result['name']} {result['words']}".strip()
    if result["error"]:
        print(f"not ok {index} {name}: {result['error']}", flush=True)
        return
    said = result.get("said") or f"{result['states']} states, {result['seconds']} s"
    if "wrong" in result:
        said += f", fails as it must: {result['wrong'][:60]}"
    elif "depth" in result:
        said += f", {result['transitions']} transitions, depth {result['depth']}, " \
                f"{result['megabytes']} MB"
    print(f"ok {index} {name}: {said}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1, help="checkpoints in a protection (1)")
    parser.add_argument("--faults", type=int, default=1,
                        help="of a run that must be protected in the end (1)")
    parser.add_argument("--trail", metavar="BREAK")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if args.trail:
        print(shortest(args.trail))
        return 0
    results = []
    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        for index, result in enumerate(pool.map(one, tasks(args.epochs, args.faults)), 1):
            results.append(result)
            if not args.json:
                show(index, result)
    failed = sum(bool(result["error"]) for result in results)
    if args.json:
        print(json.dumps(results, indent=1))
    else:
        print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
