"""What a benchmark is: one number, as a ratio to a peer measured in the same run, so that it holds anywhere."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Bench:
    """One figure. `run` gives (value in `unit`, ratio to the peer); floor and goal are of the ratio."""

    name: str
    peer: str
    unit: str
    floor: float
    goal: float
    better: Literal["higher", "lower"]
    run: Callable[[], tuple[float, float]]
    needs: str = ""  # a variable of the environment, without which it is left out

    def facts(self) -> dict[str, Any]:
        """All but how it is measured."""
        facts = asdict(self) | {"figure": self.name}
        return {name: facts[name] for name in ("figure", "unit", "peer", "floor", "goal", "better")}

    def ok(self, ratio: float) -> bool:
        """False below the floor (above it, where lower is better)."""
        return ratio >= self.floor if self.better == "higher" else ratio <= self.floor


def best_us(call: Callable[[], object], seconds: float = 0.4) -> float:
    """Microseconds per call, the least of several runs: noise only ever adds."""
    timer = timeit.Timer(call)
    number, took = timer.autorange()
    number = max(int(number * 0.02 / took), 1)
    repeats = max(int(seconds / 0.02), 3)
    return min(timer.repeat(repeats, number)) / number * 1e6
