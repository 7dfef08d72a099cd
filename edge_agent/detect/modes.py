"""What the machine is doing: off, starting up, changing its load, or running at one. By rule, or by bands learned here.

The rules:

1. One signal tells it, by its mean or its unrest (standard deviation) over each half of a window. Below `off_below` the
   machine is off; `bands` are the edges between loads. An edge counts as crossed 2 % beyond it.
2. "start_up": from off until `start_up_s` after. "change": the halves lie in different bands, or the load has changed
   within `settle_s`. In these and in "off" nothing is scored, unless the settings ask for it.
3. With `learn`, the edges are found from the first so many windows ("learning"): values in groups apart from each other
   by more than twice what they scatter, and a tenth of the range. The lowest group is off if it is under a tenth of the
   highest.
4. Time is counted in samples: a clock that is set back makes no start-up of a running machine.
"""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import ModeRule
from edge_agent.errors import SourceFailed
from edge_agent.files import write_whole
from models.contract.signals import Signal, WindowSpec
from models.windows import Window

log = logging.getLogger(__name__)

OFF: Final = "off"
START_UP: Final = "start_up"
CHANGE: Final = "change"
LEARNING: Final = "learning"
STICKY: Final = 0.02
MOST_BANDS: Final = 5
APART: Final = 2.0  # spreads between two groups
GAP: Final = 0.1  # of the whole range, at least
SHARE: Final = 0.05  # of the windows: fewer are no group
AT_REST: Final = 0.05  # of the usual range: a window whose halves differ by more is between two modes
IDLE: Final = 0.1  # of the highest group: below, it is off


class Modes:
    """One asset's. Not for several threads."""

    def __init__(self, rule: ModeRule, signals: tuple[Signal, ...], spec: WindowSpec, file: Path | None) -> None:
        """Raises SourceFailed: there is no such signal."""
        names = [signal.name for signal in signals]
        if rule.signal not in names:
            raise SourceFailed(f"mode.signal is {rule.signal}; the source has {', '.join(names)}")
        self._rule, self._spec, self._file = rule, spec, file
        self.signal = names.index(rule.signal)
        self._off, self._edges = rule.off_below, None if rule.learn else np.array(rule.bands, np.float64)
        self._values: list[float] = []
        self.now = ""  # of the last window
        self.steady = ""  # the last one that is scored
        self._end: str | None = None  # where the last window's second half was
        self._started = self._changed = -(2**62)  # index of the sample
        self._load()

    def passes_over(self, mode: str) -> bool:
        """Windows in it are not scored."""
        return mode in (OFF, START_UP, CHANGE, LEARNING) and mode not in self._rule.score

    def tell(self, window: Window) -> str:
        """The mode of this window, which follows the one before."""
        x = window.values[self.signal]
        halves = [float(half.mean() if self._rule.by == "mean" else half.std()) for half in np.array_split(x, 2)]
        if self._edges is None:
            self._learn(halves)
            self.now = LEARNING
            return self.now
        before, first = self._end, self._place(halves[0])
        self._end = first
        self._end = last = self._place(halves[1])
        if last != OFF and OFF in (first, before):
            self._started = window.last
        if last != OFF and before not in (None, OFF, last):
            self._changed = window.last
        begin, rate = window.last - self._spec.n_samples + 1, self._spec.rate_hz
        if last == OFF:
            self.now = OFF if first == OFF else CHANGE
        elif first == OFF or begin < self._started + self._rule.start_up_s * rate:
            self.now = START_UP
        elif first != last or (self._rule.settle_s and begin < self._changed + self._rule.settle_s * rate):
            self.now = CHANGE
        else:
            self.now = self.steady = last
        return self.now

    def stay(self) -> str:
        """What told of the last window was wrong: the machine goes on as before."""
        self.now = self._end = self.steady
        return self.now

    # -- inside -------------------------------------------------------------------------------------------------

    def _place(self, value: float) -> str:
        assert self._edges is not None
        edges = self._edges if self._off is None else np.concatenate(([self._off], self._edges))
        at = int(np.searchsorted(edges, value, "right"))
        names = ([OFF] if self._off is not None else []) + [f"load_{i + 1}" for i in range(len(self._edges) + 1)]
        if self._end in names and abs(at - (was := names.index(self._end))) == 1:
            edge = edges[min(at, was)]
            if abs(value - edge) <= STICKY * abs(edge):
                at = was
        return names[at]

    def _learn(self, halves: list[float]) -> None:
        self._values += halves
        if len(self._values) < 2 * self._rule.learn:
            return
        pairs = np.array(self._values).reshape(-1, 2)
        at_rest = np.abs(pairs[:, 1] - pairs[:, 0]) <= AT_REST * np.subtract(*np.quantile(pairs, (0.9, 0.1)))
        groups = groups_of(pairs[at_rest].mean(axis=1))
        edges = [(a[-1] + b[0]) / 2 for a, b in pairwise(groups)]
        if self._off is None and len(groups) > 1 and abs(groups[0].mean()) < IDLE * abs(groups[-1].mean()):
            self._off, edges = float(edges[0]), edges[1:]
        self._edges = np.array([edge for edge in edges if self._off is None or edge > self._off], np.float64)
        self._values.clear()
        log.info("modes learned", extra={"off_below": self._off, "bands": self._edges.tolist()})
        if self._file:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._file, json.dumps({"off": self._off, "bands": self._edges.tolist()}).encode())
            except OSError as exc:  # the next start learns them again
                log.warning("the learned modes are not on disk", extra={"reason": str(exc)})

    def _load(self) -> None:
        if self._edges is not None or self._file is None or not self._file.exists():
            return
        try:
            known = json.loads(self._file.read_bytes())
            self._off = None if known["off"] is None else float(known["off"])
            self._edges = np.array(sorted(map(float, known["bands"])), np.float64)
        except (OSError, ValueError, TypeError, KeyError):
            pass  # learned again


def groups_of(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Values that lie together, from the lowest group to the highest, each sorted; a few strays between are left out.

    As many groups as can be, up to MOST_BANDS: cut at the widest gaps, as long as each gap is wider than APART times
    the scatter of the groups on both sides and GAP of the whole range, and each group has its share.
    """
    ordered = np.sort(values[np.isfinite(values)])
    least = max(3, int(SHARE * ordered.size))
    if not ordered.size:
        return []
    best, least_gap = [ordered], GAP * float(ordered[-1] - ordered[0])
    for n in range(2, MOST_BANDS + 1):
        cuts = _cuts(ordered, n, least)
        parts = np.split(ordered, cuts) if cuts is not None else []
        spread = [1.4826 * float(np.median(np.abs(part - np.median(part)))) for part in parts]
        apart = [
            float(np.quantile(b, 0.02) - np.quantile(a, 0.98)) > max(APART * max(spread[i : i + 2]), least_gap)
            for i, (a, b) in enumerate(pairwise(parts))
        ]
        if parts and all(apart):
            best = parts
    return best


def _cuts(ordered: NDArray[np.float64], n: int, least: int) -> NDArray[np.intp] | None:
    """Where n groups of at least so many values have the least sum of squares about their means: exactly, by dynamic
    programming (Wang and Song, Ckmeans.1d.dp, The R Journal 3/2 (2011) 29). None: there are too few."""
    size = ordered.size
    if size < n * least:
        return None
    total = np.concatenate(([0.0], np.cumsum(ordered - ordered.mean())))
    square = np.concatenate(([0.0], np.cumsum((ordered - ordered.mean()) ** 2)))
    best = np.full((n + 1, size + 1), np.inf)
    where = np.zeros((n + 1, size + 1), np.intp)
    best[0, 0] = 0.0
    for k in range(1, n + 1):
        for end in range(k * least, size + 1):
            starts = np.arange((k - 1) * least, end - least + 1)
            within = square[end] - square[starts] - (total[end] - total[starts]) ** 2 / (end - starts)
            costs = best[k - 1, starts] + within
            where[k, end] = starts[int(np.argmin(costs))]
            best[k, end] = costs.min()
    cuts, end = [], size
    for k in range(n, 1, -1):
        end = int(where[k, end])
        cuts.append(end)
    return np.array(cuts[::-1], np.intp)
