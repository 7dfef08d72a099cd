"""What a person sees of an alarm: the window against an earlier, normal one of the same channel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.contract.events import Plot
from models.contract.signals import Signal, WindowSpec
from models.windows import Window

POINTS: Final = 120
KEEP_S: Final = 60.0  # a normal window stands for so long: the newest one may hold the fault's beginning already


class NormalWindow:
    """Remembers one window on which nothing was wrong."""

    def __init__(self, signals: Sequence[Signal], spec: WindowSpec) -> None:
        self._signals, self._spec = signals, spec
        self._kept: dict[str, tuple[NDArray[np.float32], float]] = {}  # by mode, with the time

    def keep(self, window: Window, mode: str = "") -> None:
        """Costs a look at the clock, but for one window a minute."""
        if mode not in self._kept or time.monotonic() - self._kept[mode][1] > KEEP_S:
            self._kept[mode] = window.values, time.monotonic()

    def against(self, window: Window, driving: str, mode: str = "") -> Plot:
        """The channel that drove the alarm most, and how it was in the same mode."""
        normal = self._kept.get(mode)
        names = [signal.name for signal in self._signals]
        i = names.index(driving) if driving in names else 0
        return Plot(
            signal=names[i],
            unit=self._signals[i].unit,
            seconds=self._spec.n_samples / self._spec.rate_hz,
            values=thin(window.values[i]),
            normal=() if normal is None else thin(normal[0][i]),
        )


def thin(samples: NDArray[np.float32], points: int = POINTS) -> tuple[float, ...]:
    """At most `points` numbers of four digits: all of them, or the smallest and largest of equal stretches, in the
    order in which they came. Peaks stay, which is what a person looks for."""
    if samples.size <= points:
        kept = samples
    else:
        pairs = []
        for part in np.array_split(samples, points // 2):
            low, high = int(np.argmin(part)), int(np.argmax(part))
            pairs += [part[min(low, high)], part[max(low, high)]]
        kept = np.array(pairs)
    return tuple(float(f"{value:.4g}") for value in kept)
