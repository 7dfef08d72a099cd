"""Blocks of samples to overlapping windows. A window never spans a gap, and no sample is lost without being counted.

What the source says of each sample goes with the windows: nothing bad is hidden between good samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.contract.signals import WindowSpec

Qualities = npt.NDArray[np.uint8]
# Copying the kept tail to the front of the buffer is paid once per this many new samples, not once per window.
_ROOM: Final = 4096
SLOW_HZ: Final = 10.0  # at most: a value per second or so, from which few samples make a window
SLOW_WINDOW: Final = 20  # samples, and each new sample completes a window
RATE_OFF: Final = 0.1  # a step this far from what the rate says is another rate
FAST_WINDOW: Final = 1024  # samples, half overlapping: for vibration


def default_window(rate_hz: float) -> WindowSpec:
    """The window for signals of this rate where neither settings nor bundle say one, in training and in scoring."""
    if rate_hz <= SLOW_HZ:
        return WindowSpec(rate_hz=rate_hz, n_samples=SLOW_WINDOW, hop=1)
    return WindowSpec(rate_hz=rate_hz, n_samples=FAST_WINDOW, hop=FAST_WINDOW // 2)


class Dropped(StrEnum):
    """Why a sample is in no window."""

    LATE = "late"  # its time is not after that of the sample before: a duplicate, or out of order
    NO_TIME = "no_time"  # its time is nan or infinite
    GAP = "gap"  # a gap came before its window was full
    BETWEEN = "between"  # a hop longer than a window steps over it


class Window(NamedTuple):
    """`n_samples` in a row."""

    start: float  # time of the first sample, epoch seconds
    end: float  # time of the last sample, epoch seconds
    values: npt.NDArray[np.float32]  # [n_signals, n_samples], C-contiguous, its own memory
    last: int  # index of the last sample among all samples ever fed, also the dropped ones, from 0
    quality: Qualities | None = None  # [n_signals], the worst of its samples'; None: all good
    step_s: float = 0.0  # from a sample to the next, usually: the median; 0: nobody looked

    @property
    def worst(self) -> int:
        return 0 if self.quality is None else int(self.quality.max())


class Windower:
    """Cuts one source's samples into windows.

    Two samples are in a row if their times are at most `max_gap_samples + 1.5` periods apart: that many may be missing,
    and half a period is for jitter. After a gap, the first window starts with the first sample after it.

    Attributes:
        dropped: samples that are in no window, by cause.
        fed: samples given so far.
    """

    def __init__(self, spec: WindowSpec, n_signals: int) -> None:
        self.spec = spec
        self.dropped: Counter[Dropped] = Counter()
        self.fed = 0
        self._max_step_s = (spec.max_gap_samples + 1.5) / spec.rate_hz
        capacity = spec.n_samples + _ROOM
        self._values = np.empty((n_signals, capacity), np.float32)
        self._quality: Qualities | None = None  # [n_signals, capacity], from the first sample on that is not good
        self._times = np.empty(capacity)
        self._indexes = np.empty(capacity, np.int64)
        self._start = 0  # buffer position of the next window's first sample; may lie beyond _end if hop > n_samples
        self._end = 0  # buffer position after the newest sample
        self._used = 0  # buffer position after the last sample that is in a window; may lie before 0
        self._newest = -np.inf  # time of the newest sample kept

    @property
    def pending(self) -> int:
        """Samples kept that are in no window yet."""
        return max(self._end - self._used, 0)

    def reset(self) -> None:
        """Start over after the newest sample, as after a gap; the next sample may have any time.

        For a source whose clock was set back: until then every sample of it is late.
        """
        self._break()
        self._newest = -np.inf

    def feed(
        self,
        times: npt.NDArray[np.float64] | float,
        values: npt.NDArray[np.float32],
        quality: Qualities | None = None,
    ) -> Iterator[Window]:
        """Take a block and give the windows that it completes, oldest first.

        The whole block is taken only when the iterator is exhausted.

        Args:
            times: float64[n], epoch seconds; or the time of the first sample, where the others follow at `rate_hz`.
            values: float32[n_signals, n]; nan is a value like any other here.
            quality: uint8[n_signals, n], of models.contract.signals.Quality; None: all good.

        Raises:
            ValueError: the shapes do not fit together.
        """
        n_signals, n = values.shape if values.ndim == 2 else (-1, 0)
        stamps = (
            np.asarray(times, np.float64)
            if np.ndim(times)
            else np.float64(times) + np.arange(n, dtype=np.float64) / self.spec.rate_hz
        )
        if quality is not None and quality.shape != values.shape:
            raise ValueError(f"want quality{list(values.shape)}, as the values have, got {list(quality.shape)}")
        if n_signals != self._values.shape[0] or stamps.shape != (n,):
            want = f"values[{self._values.shape[0]}, n] and times[n]"
            raise ValueError(f"want {want}, got values{list(values.shape)} and times{list(np.shape(times))}")
        return self._feed(stamps, values, quality)

    def _feed(
        self, times: npt.NDArray[np.float64], values: npt.NDArray[np.float32], quality: Qualities | None
    ) -> Iterator[Window]:
        first_index = self.fed
        self.fed += times.size
        if quality is not None and self._quality is None:
            self._quality = np.zeros(self._values.shape, np.uint8)
        if self._in_a_row(times):  # as nearly every block is
            self._newest = float(times[-1])
            yield from self._append(times, values, np.arange(first_index, self.fed), quality)
            return
        kept = self._in_order(times)
        if kept.size == 0:
            return
        stamps = times[kept]
        steps = np.diff(stamps, prepend=self._newest if np.isfinite(self._newest) else stamps[0])
        self._newest = float(stamps[-1])
        samples = values if kept.size == times.size else values[:, kept]
        marks = quality if quality is None or kept.size == times.size else quality[:, kept]
        bounds = [0, *np.flatnonzero(steps > self._max_step_s).tolist(), kept.size]
        for i, (begin, stop) in enumerate(pairwise(bounds)):
            if i:
                self._break()
            part = None if marks is None else marks[:, begin:stop]
            yield from self._append(stamps[begin:stop], samples[:, begin:stop], first_index + kept[begin:stop], part)

    def _in_a_row(self, times: npt.NDArray[np.float64]) -> bool:
        """All of them are kept, and none of them comes after a gap. Whatever is not a time makes it False."""
        if not times.size or not np.isfinite(times[0]):
            return False
        if np.isfinite(self._newest) and not 0 < times[0] - self._newest <= self._max_step_s:
            return False
        steps = times[1:] - times[:-1]
        return not steps.size or bool(steps.min() > 0 and steps.max() <= self._max_step_s)

    def _in_order(self, times: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        """Positions of the samples that are later than every one before them."""
        timed = np.where(np.isfinite(times), times, -np.inf)
        before = np.maximum.accumulate(np.concatenate(([self._newest], timed)))[:-1]
        good = timed > before
        kept = np.flatnonzero(good)
        if kept.size < times.size:
            no_time = int(np.count_nonzero(~np.isfinite(times)))
            self.dropped += Counter({Dropped.NO_TIME: no_time, Dropped.LATE: times.size - kept.size - no_time})
        return kept

    def _break(self) -> None:
        """What is in no window yet will never be in one."""
        between = max(min(self._start, self._end) - self._used, 0)
        self.dropped += Counter({Dropped.BETWEEN: between, Dropped.GAP: self.pending - between})
        self._start = self._end = self._used = 0

    def _append(
        self,
        times: npt.NDArray[np.float64],
        values: npt.NDArray[np.float32],
        indexes: npt.NDArray[np.intp],
        marks: Qualities | None,
    ) -> Iterator[Window]:
        """Samples in a row with those in the buffer."""
        done = 0
        while done < times.size:
            if self._end == self._times.size:
                self._make_room()
            n = min(times.size - done, self._times.size - self._end)
            into = slice(self._end, self._end + n)
            self._values[:, into] = values[:, done : done + n]
            self._times[into] = times[done : done + n]
            self._indexes[into] = indexes[done : done + n]
            if self._quality is not None:
                self._quality[:, into] = 0 if marks is None else marks[:, done : done + n]
            self._end += n
            done += n
            yield from self._full_windows()

    def _full_windows(self) -> Iterator[Window]:
        while (stop := self._start + self.spec.n_samples) <= self._end:
            begin = self._start
            if begin > self._used:
                self.dropped[Dropped.BETWEEN] += begin - self._used
            self._start += self.spec.hop
            self._used = stop
            yield Window(
                float(self._times[begin]),
                float(self._times[stop - 1]),
                self._values[:, begin:stop].copy(),
                int(self._indexes[stop - 1]),
                self._worst(begin, stop),
                self._step_s(begin, stop),
            )

    def _worst(self, begin: int, stop: int) -> Qualities | None:
        if self._quality is None:
            return None
        worst: Qualities = self._quality[:, begin:stop].max(axis=1)
        return worst if worst.any() else None

    def _step_s(self, begin: int, stop: int) -> float:
        """The mean step, where that is as it should be; else the median: a slow logger may skip one now and then."""
        mean = float(self._times[stop - 1] - self._times[begin]) / (self.spec.n_samples - 1)
        if abs(mean * self.spec.rate_hz - 1) <= RATE_OFF:
            return mean
        return float(np.median(np.diff(self._times[begin:stop])))

    def _make_room(self) -> None:
        """Move what the next window needs to the front."""
        shift = min(self._start, self._end)
        kept = self._end - shift
        for buffer in (self._values, self._times, self._indexes, self._quality):
            if buffer is None:
                continue
            buffer[..., :kept] = buffer[..., shift : self._end].copy()
        self._start -= shift
        self._used -= shift
        self._end = kept
