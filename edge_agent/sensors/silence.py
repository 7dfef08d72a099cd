"""When a source that says nothing is silent: after three of its periods."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Final

from edge_agent.sensors.channel import PERIODS

LEAST_S: Final = 3.0  # whatever the period: a line that comes back within it is no event
UNKNOWN_S: Final = 10.0  # until the period is known


class Silence:
    """One source. Times are monotonic seconds.

    The period is what the source promises, else the usual one: the median time between what came.
    """

    def __init__(self, now: float, period_s: float | None, after_s: float | None = None) -> None:
        """`after_s`: as configured, instead of three periods."""
        self._heard, self._period_s, self._after_s = now, period_s, after_s
        self._between: deque[float] = deque(maxlen=32)
        self.silent = False

    @property
    def limit_s(self) -> float:
        if self._after_s is not None:
            return self._after_s
        period_s = self._period_s
        if period_s is None:
            if len(self._between) < 4:
                return UNKNOWN_S
            period_s = statistics.median(self._between)
        return max(LEAST_S, PERIODS * period_s)

    def heard(self, now: float) -> None:
        if not self.silent:
            self._between.append(now - self._heard)
        self._heard, self.silent = now, False

    def stood_still(self, seconds: float) -> None:
        """We did not look for so long: the source is not to blame."""
        self._heard += seconds

    def lasts_s(self, now: float) -> float:
        return now - self._heard

    def falls(self, now: float) -> bool:
        """True once, when the silence has become too long."""
        if self.silent or now - self._heard <= self.limit_s:
            return False
        self.silent = True
        return True
