"""`make faults`: every test that docs/faults.md names, at full length, and one table of what was measured.

docs/faults.md is the list: a row that is not there is not run, and `--write` puts the figures into its last column.
With `--broken` each break of tests/faults/broken.py is built in, one after the other, and its test has to fail.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults import broken
from tests.faults.figures import Figure, found, table

DOCUMENT = Path("docs/faults.md")
RESULTS = Path("build/faults.jsonl")
_TEST = re.compile(r"`(tests/[\w/]+\.py::\w+(?:::\w+)?)`")
_UNTESTED = "not run"
WIDTH = max(map(len, broken.BREAKS))


class Row(NamedTuple):
    """One line of the document: row | fault | what must hold | proven by | last measured."""

    number: int  # of the line
    row: str
    fault: str
    expected: str
    tests: tuple[str, ...]


def rows(text: str) -> list[Row]:
    found = []
    for number, line in enumerate(text.splitlines()):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and re.fullmatch(r"[A-Z]\d+|soak", cells[0]):
            found.append(Row(number, cells[0], cells[1], cells[2], tuple(_TEST.findall(cells[3]))))
    return found


class Collector:
    """A pytest plugin: what became of each test, and the figures that it noted."""

    def __init__(self) -> None:
        self.outcomes: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self.figures: dict[str, list[Figure]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.split("[")[0]
        self.seconds[name] = self.seconds.get(name, 0) + report.duration
        if report.when == "call" or report.outcome != "passed":
            self.outcomes.setdefault(name, []).append(report.outcome)
            self.figures.setdefault(name, []).extend(found([report]))

    def verdict(self, row: Row) -> str:
        outcomes = [outcome for test in row.tests for outcome in self.outcomes.get(test, [_UNTESTED])]
        if "failed" in outcomes:
            return "FAILED"
        figures = [f.measured for test in row.tests for f in self.figures.get(test, []) if f.row == row.row]
        passed, skipped = outcomes.count("passed"), len(outcomes) - outcomes.count("passed")
        said = "; ".join(figures) or (f"holds in {passed} test{'s' * (passed > 1)}" if passed else "not measured")
        return f"{said}; {skipped} left out here" if skipped and passed else said


def run_all(chosen: Sequence[Row], more: Sequence[str]) -> Collector:
    """Each test once, whatever number of rows it proves."""
    collector = Collector()
    tests = list(dict.fromkeys(test for row in chosen for test in row.tests))
    pytest.main(["-m", "", "-q", *more, *tests], plugins=[collector])
    return collector


def write(text: str, verdicts: Iterable[tuple[Row, str]]) -> str:
    lines = text.splitlines()
    for row, verdict in verdicts:
        if verdict not in ("FAILED", "not measured"):
            cells = lines[row.number].strip("|").split("|")
            lines[row.number] = "|" + "|".join([*cells[:4], f" {verdict} "]) + "|"
    return "\n".join(lines) + "\n"


def faults(args: argparse.Namespace) -> int:
    text = DOCUMENT.read_text()
    chosen = [row for row in rows(text) if not args.only or row.row in args.only.split(",")]
    if not chosen:
        print(f"{DOCUMENT} has no row {args.only}", file=sys.stderr)
        return 2
    os.environ.setdefault("FAULTS", "full")
    for name, value in (("FAULTS_N", args.number), ("FAULTS_SEED", args.seed)):
        if value is not None:
            os.environ[name] = str(value)
    began = time.monotonic()
    collector = run_all(chosen, args.pytest)
    verdicts = [(row, collector.verdict(row)) for row in chosen]
    print(f"\n{len(chosen)} rows in {(time.monotonic() - began) / 60:.1f} min")
    print("\n".join(table(Figure(row.row, row.fault, row.expected, verdict) for row, verdict in verdicts)))
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w") as file:
        for row, verdict in verdicts:
            entry: dict[str, Any] = {"row": row.row, "fault": row.fault, "tests": row.tests, "measured": verdict}
            file.write(json.dumps(entry) + "\n")
    if args.write:
        DOCUMENT.write_text(write(text, verdicts))
    return any(verdict == "FAILED" for _, verdict in verdicts)


def mutants(args: argparse.Namespace) -> int:
    """Each break makes its tests fail, and for its own reason: a test may also fail on a machine that is busy."""
    survived = 0
    print(f"{'built in':{WIDTH}} {'the test':9} seconds")
    for name, broke in broken.BREAKS.items():
        for test in broke.tests:
            if args.only and args.only not in name and args.only not in test:
                continue
            began = time.monotonic()
            said, why = seen(name, test, args.pytest)
            survived += said != "fails"
            print(f"{name:{WIDTH}} {said:9} {time.monotonic() - began:7.1f}  {test}", flush=True)
            print(f"{'':{WIDTH}} {why}", flush=True)
    return survived > 0


def seen(name: str, test: str, more: Sequence[str] = ()) -> tuple[str, str]:
    """What became of the test with that break built in - "fails", as it should - and why. In its short form, if it has
    one."""
    for which in ("not slow", "slow"):
        argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", which, "-x", "-q", *more, test]
        env = {**os.environ, broken.VARIABLE: name}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode != pytest.ExitCode.NO_TESTS_COLLECTED:
            break
    errors = re.findall(r"^E +(.*)", done.stdout, re.MULTILINE)
    if done.returncode == pytest.ExitCode.TESTS_FAILED and errors:
        because = re.compile(broken.BREAKS[name].because)
        found = [line for line in errors if because.search(line)]
        return ("fails", found[0][:150]) if found else ("UNCLEAR", f"not for {because.pattern!r}: {errors[0][:500]}")
    passed = done.returncode == pytest.ExitCode.OK
    return ("PASSES" if passed else f"ENDED {done.returncode}"), (done.stdout + done.stderr)[-3000:]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", help="rows, such as A1,C3; with --broken a part of a break's or a test's name")
    parser.add_argument("--number", type=int, help="of kills, cuts and so on, instead of the full one")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {DOCUMENT}")
    args, args.pytest = parser.parse_known_args()
    return mutants(args) if args.broken else faults(args)


if __name__ == "__main__":
    sys.exit(main())
