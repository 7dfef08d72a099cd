"""Remaining useful life: an asset's steps of wear to what a regression takes, the same in training and on the device.

1. A step is the mean of `every` windows: of slow signals the newest samples, of fast ones the levels of their bands and
   the shape of signal and spectrum.
2. Each channel of it is scaled by its mean and spread in the operating condition of that step. The condition is the
   nearest of the centres that training found among the channels that say how the machine is run.
3. The inputs are the means over the last MEANS steps, the rises over the last SLOPES steps (least squares, times their
   length), and the number of steps so far up to MAX_AGE.

The interval is conformal (learning.lives), in bands of the estimate: close to the end it is narrow.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.bundle.manifest import Life
from models.contract.features import NAMES
from models.contract.signals import WindowSpec
from models.selfref import SLOW_HZ

Floats = npt.NDArray[np.float64]

MEANS: Final = (5, 10, 20, 40)
SLOPES: Final = (15, 30, 60)
DEPTH: Final = max(MEANS + SLOPES)  # steps that are looked at
MAX_AGE: Final = 250  # steps: beyond, age says nothing that the lives trained on could have taught
FEWEST: Final = 5  # steps, below which there is no rise
_FAST: Final = ("band_1", "band_2", "band_3", "band_4", "band_5", "centroid", "spread", "entropy", "kurtosis")


class Estimate(NamedTuple):
    """In the unit of the bundle. `high` is infinite where all that is known is that it lies beyond the cap."""

    value: float
    low: float
    high: float


class Steps:
    """What a step of these signals is made of."""

    def __init__(self, signals: Sequence[str], spec: WindowSpec) -> None:
        self.of_features = spec.rate_hz > SLOW_HZ
        self._newest = min(spec.hop, spec.n_samples)
        if not self.of_features:
            self.names = tuple(signals)
        else:
            entries = [(s, NAMES.index(name)) for s in range(len(signals)) for name in _FAST]
            self._entries = np.array([s * len(NAMES) + f for s, f in entries])
            self.names = tuple(f"{signals[s]}.{NAMES[f]}" for s, f in entries)

    def of(self, samples: npt.NDArray[np.float32], vector: Floats | None) -> Floats:
        """float64[len(names)] of one window's float32[n_signals, n_samples] and its features (of slow ones: none)."""
        if not self.of_features:
            return np.asarray(samples[:, -self._newest :].mean(axis=1, dtype=np.float64))
        assert vector is not None
        return np.asarray(vector[self._entries])


class History:
    """The last steps of one asset."""

    def __init__(self, width: int, every: int) -> None:
        self.every, self.age = every, 0  # age in whole steps
        self._kept = np.zeros((0, width))
        self._sum, self._n = np.zeros(width), 0

    @property
    def recent(self) -> Floats:
        """float64[up to DEPTH, width], oldest first."""
        return self._kept

    def push(self, values: Floats) -> bool:
        """One more window. True: it completes a step."""
        self._sum, self._n = self._sum + values, self._n + 1
        if self._n < self.every:
            return False
        self._kept = np.vstack([self._kept[-(DEPTH - 1) :], self._sum / self._n])
        self._sum, self._n, self.age = np.zeros_like(self._sum), 0, self.age + 1
        return True

    def dump(self) -> bytes:
        whole = io.BytesIO()
        np.savez(whole, kept=self._kept, age=self.age, every=self.every)
        return whole.getvalue()

    def load(self, stored: bytes) -> bool:
        """Go on where `dump` was. False: it is of another kind, and nothing is changed."""
        with np.load(io.BytesIO(stored), allow_pickle=False) as archive:
            kept, age, every = np.asarray(archive["kept"]), int(archive["age"]), int(archive["every"])
        if every != self.every or kept.ndim != 2 or kept.shape[1] != self._sum.size or len(kept) != min(age, DEPTH):
            return False
        self._kept, self.age = kept.astype(np.float64), age
        return True


def inputs(history: History, names: Sequence[str], life: Life) -> Floats:
    """float64[n_inputs] for the bundle's regression. Raises ValueError: the steps lack a channel."""
    return compose(scaled(history.recent, names, life), history.age)


def scaled(steps: Floats, names: Sequence[str], life: Life) -> Floats:
    """float64[n, len(names)] to float64[k, len(life.channels)], each in the condition of its step. Steps in which the
    machine was run as in no condition trained on are passed over."""
    where = [list(names).index(name) for name in life.channels]
    means, spreads = np.array(life.means), np.array(life.spreads)
    condition = np.zeros(len(steps), np.intp)
    known = np.ones(len(steps), np.bool_)
    if life.conditions:
        settings = steps[:, [list(names).index(name) for name in life.conditions]] / np.array(life.condition_scales)
        away = np.linalg.norm(settings[:, None, :] - np.array(life.centers)[None], axis=2)
        condition = away.argmin(axis=1)
        known = away.min(axis=1) <= life.reach
    values: Floats = (steps[:, where] - means[condition]) / spreads[condition]
    return values[known]


def compose(recent: Floats, age: int) -> Floats:
    """The inputs after `age` steps, of which the last float64[k, m] are given, scaled; nan if none is."""
    recent = recent[-DEPTH:]
    if not len(recent):
        return np.full(recent.shape[1] * (len(MEANS) + len(SLOPES)) + 1, np.nan)
    told = _weights(len(recent)) @ recent
    return np.append(told.ravel(), float(min(age, MAX_AGE)))


def estimate(value: float, life: Life) -> Estimate:
    """The interval of the band that the estimate lies in."""
    value = min(max(value, 0.0), life.cap)
    band = min(int(np.searchsorted(np.array(life.bands), value, side="right")), len(life.below) - 1)
    low, high = value - life.below[band], value + life.above[band]
    return Estimate(value, max(0.0, low), math.inf if high >= life.cap else high)


def n_inputs(life: Life) -> int:
    return len(life.channels) * (len(MEANS) + len(SLOPES)) + 1


@cache
def _weights(n: int) -> Floats:
    """float64[len(MEANS) + len(SLOPES), n]: means and rises over as many of the last n steps as there are."""
    rows = []
    for length in MEANS:
        row = np.zeros(n)
        row[-min(length, n) :] = 1 / min(length, n)
        rows.append(row)
    for length in SLOPES:
        row, k = np.zeros(n), min(length, n)
        if k >= FEWEST:
            t = np.arange(k) - (k - 1) / 2
            row[-k:] = t / (t @ t) * length
        rows.append(row)
    return np.array(rows)
