"""Which samples of a signal are news: on change with a dead band, on period, or both. What is held back is not missing:
the one before it goes on to hold (`models/grid.py`)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from models.features._jit import kernel, types

_FLOATS = types.Array(types.float64, 1, "A", readonly=True)
_MARKS = types.Array(types.uint8, 1, "A", readonly=True)


class Reporter:
    """One signal's policy. A sample is news if its quality changed, or it is the first, or

    - with `on_change`: its value is further than `dead_band` from the last news;
    - with `period_s`: so long has passed since the last news.
    """

    def __init__(self, on_change: bool, dead_band: float, period_s: float | None) -> None:
        self._on_change, self._dead_band = on_change, dead_band
        self._period_s = math.inf if period_s is None else period_s
        self._last = np.array([-math.inf, math.nan, 255.0])  # time, value, quality
        self.held_back = 0

    def news(
        self, times: npt.NDArray[np.float64], values: npt.NDArray[np.float64], quality: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.bool_]:
        """bool[n]: pass these on."""
        chosen = np.zeros(times.size, np.bool_)
        _choose(times, values, quality, self._on_change, self._dead_band, self._period_s, self._last, chosen)
        self.held_back += int(chosen.size - np.count_nonzero(chosen))
        return chosen

    def forget(self) -> None:
        """The next sample is news."""
        self._last[2] = 255.0


@kernel(
    types.void(
        _FLOATS, _FLOATS, _MARKS, types.boolean, types.float64, types.float64, types.float64[::1], types.boolean[::1]
    )
)
def _choose(
    times: Any, values: Any, quality: Any, on_change: bool, dead_band: float, period_s: float, last: Any, chosen: Any
) -> None:
    for i in range(times.size):
        news = quality[i] != last[2]
        if on_change:  # also true where one of them is nan and the other is not
            difference = abs(values[i] - last[1])
            news |= difference > dead_band or (np.isnan(values[i]) != np.isnan(last[1]))
        if times[i] - last[0] >= period_s:
            news = True
        if news:
            last[0], last[1], last[2] = times[i], values[i], quality[i]
            chosen[i] = True
