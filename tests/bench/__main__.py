"""`python -m tests.bench [ONLY]` measures every figure, or those whose name contains ONLY, and fails below a floor.

A module `bench_*.py` beside this one takes part by having FIGURES. The results also go to build/bench.jsonl.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path

import tests.bench
from tests.bench.figure import Bench

RESULTS = Path("build/bench.jsonl")


def figures() -> list[Bench]:
    names = sorted(module.name for module in pkgutil.iter_modules(tests.bench.__path__))
    modules = [importlib.import_module(f"tests.bench.{name}") for name in names if name.startswith("bench_")]
    return [figure for module in modules for figure in module.FIGURES]


def main(only: str = "") -> int:
    """Print a table, write RESULTS. 1 if a figure is below its floor, 2 if there is none of that name."""
    chosen = [figure for figure in figures() if only in figure.name]
    if not chosen:
        print(f"no figure is called {only}", file=sys.stderr)
        return 2
    RESULTS.parent.mkdir(exist_ok=True)
    below = 0
    print(f"{'figure':28} {'value':>12} {'ratio':>8} {'floor':>8} {'goal':>8}        peer")
    with RESULTS.open("w") as results:
        for figure in chosen:
            if figure.needs and figure.needs not in os.environ:
                print(f"{figure.name:28} left out: {figure.needs} is not set")
                continue
            value, ratio = figure.run()
            ok = figure.ok(ratio)
            below += not ok
            sign = ">=" if figure.better == "higher" else "<="
            print(
                f"{figure.name:28} {value:9.4g} {figure.unit:>2} {ratio:8.3g} {sign}{figure.floor:6g}"
                f" {sign}{figure.goal:6g}  {'ok ' if ok else 'LOW'}   {figure.peer}",
                flush=True,
            )
            line = {
                "figure": figure.name,
                "value": value,
                "unit": figure.unit,
                "peer": figure.peer,
                "ratio": ratio,
                "floor": figure.floor,
                "goal": figure.goal,
                "ok": ok,
            }
            results.write(json.dumps(line) + "\n")
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
