"""Signals that come each at its own times, onto one grid of instants: what a window is made of.

The rules:

1. An instant is given when no sample up to it is to come any more: every signal has brought a later one, or the source
   has said so (`advance`). It is given once.
2. A sample counts for the instants after it only as long as its signal's `valid_s`; after that the signal is missing
   there (nan). What a report policy holds back is valid without end.
3. Nothing is carried over a hole, that is where for `hole_s` no signal brought anything and the source did not say that
   it is alive, nor over `cut`: there are no instants in it, and windows begin anew behind it.
4. A bad sample is nan from its own time until the next one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.contract.signals import Quality

Times = npt.NDArray[np.float64]
Qualities = npt.NDArray[np.uint8]
MAX_AT_ONCE: Final = 2**18  # instants


class Method(StrEnum):
    """How a signal's samples make its value at an instant."""

    HOLD = "hold"  # the last one at or before it
    LINEAR = "linear"  # on the line between the ones around it
    MEAN = "mean"  # of those since the instant before; the last one where there are none


class Line(NamedTuple):
    """How one signal goes onto the grid."""

    method: Method = Method.HOLD
    valid_s: float = math.inf


class Gridded(NamedTuple):
    """Instants in a row, or with holes between them."""

    times: Times  # [n], epoch seconds, multiples of the grid's step
    values: npt.NDArray[np.float32]  # [n_signals, n]
    quality: Qualities  # [n_signals, n]


class _Samples:
    """One signal's samples that may still matter, in order of time."""

    def __init__(self) -> None:
        self.times, self.values, self.quality = np.empty(0), np.empty(0), np.empty(0, np.uint8)
        self.known_to = -math.inf  # no sample up to here is to come

    @property
    def newest(self) -> float:
        return float(self.times[-1]) if self.times.size else -math.inf

    def add(self, times: Times, values: Times, quality: Qualities) -> None:
        self.times = np.concatenate((self.times, times))
        self.values = np.concatenate((self.values, values))
        self.quality = np.concatenate((self.quality, quality))
        self.known_to = max(self.known_to, self.newest)

    def forget_before(self, instant: float) -> None:
        """All but the last one up to the instant, and what comes after it."""
        keep = max(0, int(np.searchsorted(self.times, instant, "right")) - 1)
        self.times, self.values, self.quality = self.times[keep:], self.values[keep:], self.quality[keep:]


class Grid:
    """Joins signals. Pure: it has no clock, and is told the time.

    Attributes:
        dropped: samples that came too late for an instant, or count for none, by cause: late (earlier than the one
            before, or an instant after it has been given), no_time.
    """

    def __init__(self, rate_hz: float, lines: Sequence[Line], hole_s: float | None = None) -> None:
        """`hole_s`: default, the longest finite `valid_s`, at least three steps."""
        self.rate_hz, self._lines = rate_hz, tuple(lines)
        finite = [line.valid_s for line in lines if math.isfinite(line.valid_s)]
        self._hole_s = hole_s or max(3 / rate_hz, *finite, 0.0)
        self.dropped: Counter[str] = Counter()
        self._done = -math.inf  # number of the last instant that was given or passed over
        self._begin()

    def _begin(self) -> None:
        self._samples = [_Samples() for _ in self._lines]
        self._marks = np.empty(0)  # when anything came, or the source said that it is alive
        self._told = -math.inf
        self._first = math.inf

    def add(self, signal: int, times: Times, values: npt.ArrayLike, quality: Qualities | None = None) -> int:
        """Samples of one signal: times float64[n] in epoch seconds, values[n], quality uint8[n] or all good.

        Returns:
            How many were taken.
        """
        numbers = np.asarray(values, np.float64)
        marks = np.zeros(times.size, np.uint8) if quality is None else quality
        held = self._samples[signal]
        timed = np.where(np.isfinite(times), times, -np.inf)
        before = np.maximum.accumulate(np.concatenate(([held.newest], timed)))[:-1]
        # Of two at one time, as a clock in milliseconds has them, the later holds.
        good = np.isfinite(timed) & (timed >= before)
        if not good.all():
            no_time = int(np.count_nonzero(~np.isfinite(times)))
            self.dropped += Counter({"no_time": no_time, "late": int(np.count_nonzero(~good)) - no_time})
            times, numbers, marks = times[good], numbers[good], marks[good]
        if not times.size:
            return 0
        self.dropped += Counter({"late": int(np.count_nonzero(times * self.rate_hz <= self._done))})
        held.add(times, np.where(marks >= Quality.BAD, np.nan, numbers), marks)
        self._mark(times)
        return int(times.size)

    def advance(self, until: float) -> None:
        """The source is alive, and nothing of it up to `until`, in epoch seconds, is to come any more."""
        if until > self._told:
            self._told = until
            if self._marks.size:
                self._mark(np.array([until]))

    def pass_over(self, signal: int, until: float) -> None:
        """Samples of this signal up to `until` were held back: the one before them goes on to hold."""
        held = self._samples[signal]
        if until > held.known_to:
            held.known_to = until
            self._mark(np.array([until]))

    def cut(self, *, anew: bool = False) -> None:
        """The line was lost: what was held holds no longer. Take first what is there. `anew`: times may run back."""
        self._begin()
        if anew:
            self._done = -math.inf

    def take(self) -> Gridded | None:
        """The instants that are complete; None: none. Call again until None."""
        until = max(self._told, min(samples.known_to for samples in self._samples))
        while self._marks.size and math.isfinite(until) and self._complete(until):
            instants = self._instants(until)
            if not instants.size:
                break
            given = self._at(instants / self.rate_hz)
            self._done = float(instants[-1])
            there = ~(np.isnan(given.values) & (given.quality < Quality.BAD)).all(axis=0)
            if there.all():
                return given
            if there.any():  # where nothing is valid, there is nothing
                return Gridded(given.times[there], given.values[:, there].copy(), given.quality[:, there].copy())
        return None

    # -- inside -------------------------------------------------------------------------------------------------

    def _mark(self, times: Times) -> None:
        self._first = min(self._first, float(times[0]))
        marks = np.concatenate((self._marks, times))
        self._marks = marks if not self._marks.size or times[0] >= self._marks[-1] else np.sort(marks)

    def _complete(self, until: float) -> bool:
        """At first every signal is waited for, as long as a hole may be."""
        return until - self._first >= self._hole_s or all(samples.times.size for samples in self._samples)

    def _instants(self, until: float) -> Times:
        """Numbers of the instants after the last one given, up to `until`, without those in holes."""
        first_seen = max((float(s.times[0]) for s in self._samples if s.times.size), default=math.inf)
        begin = self._done + 1 if math.isfinite(self._done) else math.ceil(min(first_seen, until) * self.rate_hz)
        edges = self._marks[self._marks <= until]
        holes = np.flatnonzero(np.diff(edges) > self._hole_s)
        pieces, room = [], MAX_AT_ONCE
        starts = np.concatenate((edges[:1], edges[holes + 1]))
        ends = np.concatenate((edges[holes], edges[-1:])) if edges.size else edges
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            low = max(begin, math.ceil(start * self.rate_hz))
            high = min(math.floor(end * self.rate_hz), low + room - 1)
            if high >= low:
                pieces.append(np.arange(low, high + 1, dtype=np.float64))
                room -= pieces[-1].size
            if room <= 0:
                break
        return np.concatenate(pieces) if pieces else np.empty(0)

    def _at(self, times: Times) -> Gridded:
        columns = [self._column(line, samples, times) for line, samples in zip(self._lines, self._samples, strict=True)]
        for samples in self._samples:
            samples.forget_before(float(times[-1]))
        self._marks = self._marks[max(0, int(np.searchsorted(self._marks, times[-1], "right")) - 1) :]
        values = np.array([column for column, _ in columns], np.float32)
        return Gridded(times, values, np.array([marks for _, marks in columns], np.uint8))

    def _column(self, line: Line, samples: _Samples, times: Times) -> tuple[Times, Qualities]:
        """float64[n] and uint8[n] of one signal at the instants."""
        n = samples.times.size
        if not n:
            return np.full(times.size, np.nan), np.zeros(times.size, np.uint8)
        last = np.searchsorted(samples.times, times, "right") - 1
        there = (last >= 0) & (times - samples.times[last] <= line.valid_s)
        values, quality = samples.values[last], samples.quality[last]
        if line.method is Method.LINEAR:
            after = np.minimum(last + 1, n - 1)
            span = samples.times[after] - samples.times[last]
            exact = samples.times[last] == times
            share = np.divide(times - samples.times[last], span, out=np.zeros(times.size), where=span > 0)
            between = values + share * (samples.values[after] - values)
            values = np.where(exact, values, between)
            quality = np.where(exact, quality, np.maximum(quality, samples.quality[after]))
            there &= exact | ((span > 0) & (span <= line.valid_s))
        elif line.method is Method.MEAN:
            first = np.searchsorted(samples.times, times - 1 / self.rate_hz, "right")
            count = last + 1 - first
            missing = np.isnan(samples.values)
            mean = _sums(np.where(missing, 0, samples.values), first, last) / np.maximum(count, 1)
            mean = np.where(_sums(missing, first, last) > 0, np.nan, mean)
            values = np.where(count > 0, mean, values)
            for mark in (Quality.UNCERTAIN, Quality.BAD):
                quality = np.where(_sums(samples.quality == mark, first, last) > 0, np.maximum(quality, mark), quality)
        return np.where(there, values, np.nan), np.where(there, quality, 0).astype(np.uint8)


def _sums(values: npt.NDArray[Any], first: npt.NDArray[np.intp], last: npt.NDArray[np.intp]) -> Times:
    """Of values[first..last], of each pair."""
    running = np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
    return np.asarray(running[last + 1] - running[np.minimum(first, last + 1)], np.float64)
