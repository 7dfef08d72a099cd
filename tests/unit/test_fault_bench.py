"""The fault bench itself: its list, its arithmetic, and breaks that still fit the code which they break."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import __main__ as bench
from tests.faults import broken
from tests.faults.ledger import Line, slope

ROOT = Path(__file__).parents[2]


def test_an_account_of_numbers_finds_what_counts_would_hide() -> None:
    """Five produced, three stored, two waiting: but one is in both, and one in neither."""
    line = Line(5, frozenset({1, 2, 3}), frozenset({3, 4}))
    assert line.missing == {5}
    assert Line(5, frozenset({1, 2, 3}), frozenset({4}), {"age": frozenset({5})}).missing == set()
    assert Line(2, frozenset({1, 2, 3}), frozenset()).invented == {3}


def test_the_slope_is_that_of_a_line() -> None:
    assert slope((x, 3.0 * x + 7) for x in range(10)) == pytest.approx(3)


def test_the_document_is_read_and_its_last_column_written() -> None:
    table = ["| row | fault | holds | by | last |", "|---|", "| A1 | kill | all | `tests/a.py::test_b` | |"]
    text = "\n".join(table) + "\n"
    (row,) = bench.rows(text)
    assert (row.row, row.tests) == ("A1", ("tests/a.py::test_b",))
    assert bench.rows(bench.write(text, [(row, "0 of 9")]))[0] == row
    assert "| 0 of 9 |" in bench.write(text, [(row, "0 of 9")])


def test_each_break_still_fits_and_its_tests_exist() -> None:
    for name, broke in broken.BREAKS.items():
        for test in broke.tests:
            path, function = test.split("::")
            assert re.search(rf"^def {function}\b", (ROOT / path).read_text(), re.MULTILINE), f"{name}: {test}"
    # What a break patches must be there: in one process, for only the names matter here.
    code = "import unittest.mock\nfrom tests.faults import broken\nfor name in broken.BREAKS: broken.apply(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_break_makes_its_test_fail_and_for_its_own_reason() -> None:
    """The quickest of all; `make faults BROKEN=1` does so with each."""
    assert bench.seen("no_jitter", *broken.BREAKS["no_jitter"].tests)[0] == "fails"
