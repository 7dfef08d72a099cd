"""What a person sees of an alarm: the window against an earlier, normal one of the same channel."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.contract.messages import Plot
from models.contract.signals import Signal, WindowSpec
from models.windows import Window

POINTS: Final = 120
KEEP_S: Final = 60.0  # a normal window stands for so long: the newest one may hold the fault's beginning already


class NormalWindow:
    """Remembers one window on which nothing was wrong."""

    def __init__(self, signals: Sequence[Signal], spec: WindowSpec) -> None:
        self._signals, self._spec = signals, spec
        self._values: NDArray[np.float32] | None = None
        self._kept_at = -math.inf

    def keep(self, window: Window) -> None:
        """Costs a look at the clock, but for one window a minute."""
        if time.monotonic() - self._kept_at > KEEP_S:
            self._values, self._kept_at = window.values, time.monotonic()

    def against(self, window: Window, driving: str) -> Plot:
        """The channel that drove the alarm most."""
        names = [signal.name for signal in self._signals]
        i = names.index(driving) if driving in names else 0
        return Plot(
            signal=names[i],
            unit=self._signals[i].unit,
            seconds=self._spec.n_samples / self._spec.rate_hz,
            values=thin(window.values[i]),
            normal=() if self._values is None else thin(self._values[i]),
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
