"""Programs broken on purpose, so that each fault test is seen to fail: `python -m tests.faults.broken NAME edge_agent`.

A break is a patch of the running program, made from outside; nothing in the product can switch it on.
"""

from __future__ import annotations

import runpy
import sqlite3
import sys
from collections.abc import Callable
from typing import Any, Final

VARIABLE: Final = "PDM_BROKEN"


BREAKS: Final[dict[str, tuple[Callable[[], None], str]]] = {}  # by name: the break, and the test that must see it


def breaks(test: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """That test must fail with this break."""

    def register(patch: Callable[[], None]) -> Callable[[], None]:
        BREAKS[patch.__name__] = (patch, test)
        return patch

    return register


def apply(name: str) -> None:
    BREAKS[name][0]()


@breaks("tests/system/test_power.py::test_a_power_cut_under_load_loses_nothing_confirmed")
def normal_sync() -> None:
    """SQLite's own default for WAL: a commit is not synced."""
    real = sqlite3.connect

    class Careless(sqlite3.Connection):
        def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
            if "synchronous" in statement.lower():
                statement = "PRAGMA synchronous=NORMAL"
            return super().execute(statement, *args)

    sqlite3.connect = lambda *args, **kw: real(*args, **{"factory": Careless, **kw})  # type: ignore[assignment]


if __name__ == "__main__":
    apply(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
