"""`python -m tests.bench [ONLY] [--write]` measures every figure, or those whose name contains ONLY; 1 if one is below
its floor or could not be measured.

A module `bench_*.py` beside this one takes part by having FIGURES. Each module runs in a process of its own: neither
its threads nor its end trouble the others. The results also go to build/bench.jsonl, and with --write into the table of
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import tests.bench
from tests.bench import page
from tests.bench.figure import Bench

RESULTS: Final = Path("build/bench.jsonl")
LONGEST_S: Final = 420  # of one module; several minutes only if something hangs
MARK: Final = "figure: "  # before a result on a child's output; the rest is for people


def modules() -> list[str]:
    names = sorted(module.name for module in pkgutil.iter_modules(tests.bench.__path__))
    return [name for name in names if name.startswith("bench_")]


def figures(module: str, only: str) -> list[Bench]:
    found: list[Bench] = importlib.import_module(f"tests.bench.{module}").FIGURES
    return [figure for figure in found if only in figure.name]


def takes_part(module: str, only: str) -> bool:
    try:
        return bool(figures(module, only))
    except Exception:  # it does not even load: its child says so, and the others are measured
        return True


def measure(module: str, only: str) -> None:
    """In the child: a line for each figure."""
    for figure in figures(module, only):
        line: dict[str, Any] = figure.facts() | {"value": None, "ratio": None, "ok": False, "problem": ""}
        if figure.needs and figure.needs not in os.environ:
            line |= {"ok": True, "problem": f"{figure.needs} is not set"}
        else:
            try:
                value, ratio = figure.run()
                line |= {"value": value, "ratio": ratio, "ok": figure.ok(ratio)}
            except Exception as exc:  # whatever it is: the others are measured all the same
                traceback.print_exc()
                line["problem"] = f"{type(exc).__name__}: {exc}".splitlines()[0][:200]
        print(MARK + json.dumps(line), flush=True)


def results(module: str, only: str) -> Iterator[dict[str, Any]]:
    """What a child measured; if it did not come to its end, that as well."""
    argv = [sys.executable, "-m", "tests.bench", only, "--module", module]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        watch = threading.Timer(LONGEST_S, os.killpg, (child.pid, signal.SIGKILL))
        watch.start()
        assert child.stdout
        for text in child.stdout:
            if text.startswith(MARK):
                yield json.loads(text.removeprefix(MARK))
            else:
                print(text, end="", flush=True)
        child.wait()
        watch.cancel()
    if child.returncode:
        ended = f"ended with {child.returncode}" if child.returncode > 0 else f"took over {LONGEST_S} s"
        yield {"figure": module, "ok": False, "problem": ended}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="figures whose name contains this")
    parser.add_argument("--write", action="store_true", help="also into docs/benchmarks.md")
    parser.add_argument("--module", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.module:
        measure(args.module, args.only)
        return 0
    chosen = [module for module in modules() if takes_part(module, args.only)]
    if not chosen:
        print(f"no figure is called {args.only}", file=sys.stderr)
        return 2
    RESULTS.parent.mkdir(exist_ok=True)
    found = []
    print(f"{'figure':28} {'value':>12} {'ratio':>8} {'floor':>8} {'goal':>8}        peer")
    with RESULTS.open("w") as file:
        for module in chosen:
            for line in results(module, args.only):
                found.append(line)
                file.write(json.dumps(line) + "\n")
                print(row(line), flush=True)
    if args.write:
        page.write(found)
    return 0 if all(line["ok"] for line in found) else 1


def row(line: dict[str, Any]) -> str:
    if line["problem"]:
        return f"{line['figure']:28} {'left out' if line['ok'] else 'FAILED'}: {line['problem']}"
    sign = ">=" if line["better"] == "higher" else "<="
    return (
        f"{line['figure']:28} {line['value']:9.4g} {line['unit']:>2} {line['ratio']:8.3g} {sign}{line['floor']:6g}"
        f" {sign}{line['goal']:6g}  {'ok ' if line['ok'] else 'LOW'}   {line['peer']}"
    )


if __name__ == "__main__":
    sys.exit(main())
