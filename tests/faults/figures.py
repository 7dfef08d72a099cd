"""How large a fault run is, and what it has measured: `make faults` prints it, the default run does the short form."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pytest

from tests.faults import broken

PROPERTY = "fault"
FULL_S = 7200  # for one test


class Figure(NamedTuple):
    """One line of the table."""

    row: str
    injected: str
    expected: str
    measured: str


class Measured(Protocol):
    """The fixture: notes one figure."""

    def __call__(self, row: str, injected: str, expected: str, measured: str) -> None: ...


@dataclass(frozen=True)
class Scale:
    """FAULTS=full is the nightly's size; FAULTS_N sets every number, FAULTS_SEED other dice."""

    full: bool
    number: int | None
    seed: int

    def times(self, short: int, full: int) -> int:
        return self.number or (full if self.full else short)

    def dice(self, name: str = "") -> random.Random:
        return random.Random(f"{self.seed}{name}")


@pytest.fixture(scope="session")
def scale() -> Scale:
    env = os.environ
    number = int(env["FAULTS_N"]) if env.get("FAULTS_N") else None
    return Scale(env.get("FAULTS") == "full", number, int(env.get("FAULTS_SEED") or 5))


@pytest.fixture
def measured(record_property: object) -> Measured:
    def note(row: str, injected: str, expected: str, measured: str) -> None:
        record_property(PROPERTY, json.dumps([row, injected, expected, measured]))  # type: ignore[operator]

    return note


def found(reports: Iterable[object]) -> Iterator[Figure]:
    """The figures that tests have noted."""
    for report in reports:
        for name, text in getattr(report, "user_properties", ()):
            if name == PROPERTY:
                yield Figure(*json.loads(text))


def table(figures: Iterable[Figure]) -> list[str]:
    rows = [Figure("row", "injected", "expected", "measured"), *sorted(figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:{widths[2]}}  {d}" for a, b, c, d in rows]


def pytest_configure(config: pytest.Config) -> None:
    """A fault that is built in on purpose is built into the tests' own process too."""
    broken.apply()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """At full length a test may take its time: its mark would count more than the command's --timeout."""
    if os.environ.get("FAULTS") == "full":
        for item in items:
            item.add_marker(pytest.mark.timeout(FULL_S), append=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
    if figures := list(found(r for r in reports if getattr(r, "when", "") == "call")):
        terminalreporter.section("faults")
        for line in table(figures):
            terminalreporter.write_line(line)
