"""Sensor faults told from machine faults: what a channel does now against its own recent past.

A sensor's fault has marks that no machine makes. The rules, all against the windows of the past on which nothing was
wrong (REMEMBERED at most, none sharing a sample with another; under LEAST of them nothing is said):

1. stuck: equal samples in a row, STILL times as many as ever before; or the unrest falls to NEARLY_STILL of the lowest
   ever, in this channel alone, or, where there is no other, away from the level around which it used to swing.
2. saturated: more samples than ever are exactly the window's largest value, or its smallest. A slow signal must be at
   an end of its configured range besides.
3. dropouts: samples of zero in a channel that has no such zeros.
4. unit: level and unrest are those of the past times the factor between two units of the quantity, within a few per
   cent, and the shape of signal and spectrum is as before.
5. swapped: two channels have left their past, and each shows the other's.
6. offset: the level has jumped, from one sample to the next, while the unrest is as before and no other channel has
   moved. A signal that swings around zero (vibration) need not have company for it.
7. noise: white noise has come on top, in this channel alone: its unrest is that of samples that know nothing of each
   other, and greater than ever.

What several channels show at the same time is the machine's or the process's doing, except for 1 to 5. A fault of a
kind that needs company can not be told on an asset with one channel: rules 6 (but for vibration) and 7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.contract.events import FaultOfSensor
from models.contract.features import NAMES
from models.contract.signals import Signal, WindowSpec
from models.features.extract import N_FEATURES
from models.features.stillness import N_COLUMNS, stillness
from models.selfref import SLOW_HZ
from models.units import MixUp, mix_ups
from models.windows import Window

Floats = npt.NDArray[np.float64]

REMEMBERED: Final = 240  # windows
LEAST: Final = 20  # windows
STILL: Final = 5.0  # times the longest run ever
STILL_SAMPLES: Final = 16  # at least
NEARLY_STILL: Final = 0.03
CLIPPED: Final = 0.01  # share of samples, beyond STILL / 2 times the largest ever
DROPPED: Final = 0.002
SHAPE: Final = 0.25  # relative difference of kurtosis, and twice that of centroid and entropy, that is the same shape
FACTOR_OFF: Final = (0.04, 0.15)  # how far from a unit's factor: at least and at most; in between, what is usual
JUMP: Final = 8.0  # in spreads of the level from window to window
STIRRED: Final = 4.0  # spreads of its unrest: a channel so far off keeps another one company
NOISE: Final = 3.0  # times the greatest unrest ever
_SHAPE_OF: Final = [NAMES.index(name) for name in ("mean", "std", "kurtosis", "centroid", "entropy")]
MEAN, STD, KURTOSIS, CENTROID, ENTROPY, DIFF, STEP, RUN, TAIL, CLIP, DROP = range(11)  # columns of a row
_N: Final = 11
_SHAPE: Final = [KURTOSIS, CENTROID, ENTROPY]


class Ill(NamedTuple):
    """What is wrong with one channel."""

    signal: int
    fault: FaultOfSensor
    value: float  # what shows it, in the signal's unit
    usual: float
    looks_like: str = ""  # the unit in which the values seem to be, or the other channel


class _Past(NamedTuple):
    """What the rows of the past come to; each [c, _N] or [c]."""

    usual: Floats  # medians
    spread: Floats  # robust standard deviations
    low: Floats
    high: Floats
    level: Floats  # [c], the median of the last means
    jump: Floats  # [c], a change of the level beyond it is none of the usual ones
    floor: Floats  # [c, _N], a row between floor and ceiling is nothing to look at closer
    ceiling: Floats


class SensorCheck:
    """One asset's channels. Not for several threads."""

    def __init__(self, signals: Sequence[Signal], spec: WindowSpec) -> None:
        self._signals, self._spec = tuple(signals), spec
        self._slow = spec.rate_hz <= SLOW_HZ
        self._mix_ups = [tuple(mix_ups(signal.unit)) for signal in signals]
        self._rows: dict[str, deque[Floats]] = {}
        self._pasts: dict[str, _Past] = {}
        self._fresh = 0  # rows since the past was summed up
        self._kept_to = self._last = -1
        self._end = 0.0
        n = len(self._signals)
        self._row, self._motion = np.empty((n, _N)), np.empty((n, N_COLUMNS))
        self._far, self._flat = np.zeros(n, np.bool_), np.zeros(n)
        self._jumped = np.zeros(n)  # the largest step lately, of slow signals
        self._jumped_at = np.full(n, -1)

    # -- windows ------------------------------------------------------------------------------------------------

    def look(self, window: Window, vector: Floats, mode: str = "") -> list[Ill]:
        """What is wrong with its channels. `vector`: its features, all finite. `mode`: each has a past of its own."""
        row = self._measure(window, vector)
        past = self._pasts.get(mode)
        if past is None or ((row >= past.floor).all() and (row <= past.ceiling).all()):
            return []
        found = {ill.signal: ill for ill in self._alone(row, past, window)}
        for ill in (*self._still(row, past, window), *self._units(row, past), *self._swapped(row, past, found)):
            found[ill.signal] = ill
        return sorted(found.values())

    def moves_as_in(self, window: Window, mode: str, but: int) -> bool:
        """A channel besides this one is at least half as restless as it ever was in that mode."""
        past = self._pasts.get(mode)
        if past is None:
            return False
        still = window.values.std(axis=1) < 0.5 * past.low[:, STD]
        return not np.delete(still | (past.low[:, STD] <= 0), but).all()

    def keep(self, window: Window, mode: str = "") -> None:
        """Nothing is wrong with the window that was looked at last: it is of the past from now on."""
        n = self._spec.n_samples
        if window.last - self._kept_to < n:
            return
        self._kept_to = window.last
        rows = self._rows.setdefault(mode, deque(maxlen=REMEMBERED))
        rows.append(self._row.copy())
        self._fresh += 1
        if len(rows) >= LEAST and (mode not in self._pasts or self._fresh >= min(16, len(rows) // 8)):
            self._fresh = 0
            self._pasts[mode] = self._sum_up(np.array(rows))

    def forget(self) -> None:
        """What was usual is so no longer: somebody was at the machine."""
        self._rows.clear()
        self._pasts.clear()

    def state(self) -> dict[str, Floats]:
        """The rows of each mode, for the next start."""
        return {mode: np.array(rows) for mode, rows in self._rows.items() if len(rows) >= LEAST}

    def restore(self, state: dict[str, Floats]) -> None:
        """What `state` gave, of the same signals and windows; anything else is passed over."""
        for mode, rows in state.items():
            if rows.ndim == 3 and rows.shape[1:] == self._row.shape and len(rows) >= LEAST and np.isfinite(rows).all():
                self._rows[mode] = deque(rows, maxlen=REMEMBERED)
                self._pasts[mode] = self._sum_up(rows)

    # -- inside -------------------------------------------------------------------------------------------------

    def _measure(self, window: Window, vector: Floats) -> Floats:
        stillness(window.values, self._far, self._slow, self._motion)
        row, n = self._row, self._spec.n_samples
        row[:, :5] = vector[: len(self._signals) * N_FEATURES].reshape(-1, N_FEATURES)[:, _SHAPE_OF]
        row[:, DIFF:] = self._motion
        new = window.last - self._last
        if not 0 < new <= n or self._last < 0:  # not in a row with the one before
            self._flat[:] = 0
            new = 0
        whole = row[:, TAIL] >= n
        self._flat = np.where(whole, np.maximum(self._flat + new, n), row[:, TAIL])
        row[:, RUN] = np.maximum(row[:, RUN], self._flat)
        self._last = window.last
        if self._slow:
            recent = window.last - self._jumped_at < 3 * n
            larger = (row[:, STEP] >= self._jumped) | ~recent
            self._jumped_at = np.where(larger, window.last, self._jumped_at)
            self._jumped = np.where(larger, row[:, STEP], self._jumped)
        return row

    def _sum_up(self, rows: Floats) -> _Past:
        """[n, c, _N] to what is usual."""
        usual, low, high = np.median(rows, axis=0), rows.min(axis=0), rows.max(axis=0)
        spread = 1.4826 * np.median(np.abs(rows - usual), axis=0)
        between = np.abs(np.diff(rows[:, :, MEAN], axis=0))
        jump = np.maximum(JUMP * 1.4826 * np.median(between, axis=0), 2 * between.max(axis=0))
        level = np.median(rows[-5:, :, MEAN], axis=0)
        self._far = np.abs(usual[:, MEAN]) > 6 * np.maximum(usual[:, STD], spread[:, MEAN])
        floor, ceiling = np.full(usual.shape, -np.inf), np.full(usual.shape, np.inf)
        floor[:, MEAN], ceiling[:, MEAN] = level - jump, level + jump
        floor[:, STD] = np.minimum(0.6 * usual[:, STD], low[:, STD])
        ceiling[:, STD] = np.maximum(1.6 * usual[:, STD], high[:, STD])
        ceiling[:, DIFF] = np.maximum(1.6 * usual[:, DIFF], high[:, DIFF])
        if self._slow:
            ceiling[:, STEP] = 2 * high[:, STEP]
        # Where equal samples are usual, because the values are coarse, a calm process makes many of them.
        coarse = high[:, RUN] > 2
        ceiling[:, RUN] = np.maximum(STILL * (1 + coarse) * high[:, RUN], STILL_SAMPLES * (1 + 3 * coarse))
        ceiling[:, CLIP] = CLIPPED + STILL / 2 * high[:, CLIP]
        ceiling[:, DROP] = DROPPED + STILL / 2 * high[:, DROP]
        return _Past(usual, spread, low, high, level, jump, floor, ceiling)

    def _still(self, row: Floats, past: _Past, window: Window) -> list[Ill]:
        """Stuck, saturated, dropouts."""
        found = []
        moves = past.high[:, STD] > 0
        alive = (row[:, STD] > 0.5 * past.low[:, STD]) & moves
        for i in np.flatnonzero(moves).tolist():
            value, usual = float(row[i, MEAN]), float(past.usual[i, MEAN])
            quiet = bool((row[i, [STD, DIFF]] < NEARLY_STILL * past.low[i, [STD, DIFF]]).all())
            company = np.delete(alive, i)
            off_center = abs(value - usual) > 0.1 * past.usual[i, STD]
            if row[i, RUN] > past.ceiling[i, RUN] or (quiet and (company.any() if company.size else off_center)):
                fault = FaultOfSensor.SATURATED if self._at_end(window, i) else FaultOfSensor.STUCK
                found.append(Ill(i, fault, value, usual))
            elif row[i, CLIP] > past.ceiling[i, CLIP] and (not self._slow or self._at_end(window, i)):
                found.append(Ill(i, FaultOfSensor.SATURATED, float(row[i, CLIP]), float(past.usual[i, CLIP])))
            elif row[i, DROP] > past.ceiling[i, DROP]:
                found.append(Ill(i, FaultOfSensor.DROPOUTS, float(row[i, DROP]), float(past.usual[i, DROP])))
        return found

    def _at_end(self, window: Window, i: int) -> bool:
        """It reaches an end of its believable range."""
        signal, x = self._signals[i], window.values[i]
        near = 1e-3 * abs((signal.high or 0.0) - (signal.low or 0.0))
        low, high = float(x.min()), float(x.max())
        return (signal.low is not None and low <= signal.low + near) or (
            signal.high is not None and high >= signal.high - near
        )

    def _units(self, row: Floats, past: _Past) -> list[Ill]:
        found = []
        for i, ways in enumerate(self._mix_ups):
            usual, std = past.usual[i], past.usual[i, STD]
            if std <= 0:
                continue
            for way in ways:
                if self._is(way, row[i], past, i):
                    found.append(Ill(i, FaultOfSensor.UNIT, float(row[i, MEAN]), float(usual[MEAN]), way.unit))
                    break
        return found

    def _is(self, way: MixUp, row: Floats, past: _Past, i: int) -> bool:
        usual, spread = past.usual[i], past.spread[i]
        meant = (row[MEAN] - way.offset) / way.scale  # as it would be in the unit that is meant
        # The level must have left its past, and be back in it when taken for the other unit.
        back = abs(meant - past.level[i]) <= past.jump[i] + 0.02 * abs(past.level[i])
        levels = bool(self._far[i]) and abs(row[MEAN] - past.level[i]) > past.jump[i]
        least, most = FACTOR_OFF if not self._slow else (0.3, 0.5)
        for column in (STD, DIFF):
            off = min(max(least, 4 * spread[column] / max(usual[column], 1e-300)), most)
            if abs(row[column] / (way.scale * max(usual[column], 1e-300)) - 1) > off:
                return False
        if self._slow or abs(way.scale - 1) < 0.5:  # the unrest of a few samples, or a little more of it, tells nothing
            return bool(back and (levels or max(way.scale, 1 / way.scale) > 5))
        off = np.abs(row[_SHAPE] - usual[_SHAPE])
        same = off <= np.maximum([SHAPE * usual[KURTOSIS], SHAPE / 4, SHAPE / 4], 4 * spread[_SHAPE])
        return bool(same.all() and back)

    def _swapped(self, row: Floats, past: _Past, found: dict[int, Ill]) -> list[Ill]:
        swapped = []
        ratio = row[:, STD] / np.maximum(past.usual[:, STD], 1e-300)
        left = (np.abs(row[:, MEAN] - past.level) > past.jump) | (ratio < 0.4) | (ratio > 2.5)
        gone = np.flatnonzero(left).tolist()
        for i in gone:
            for j in (other for other in gone if other > i):
                if self._shows(row[i], past, j) and self._shows(row[j], past, i):
                    for a, b in ((i, j), (j, i)):
                        value, usual = float(row[a, MEAN]), float(past.usual[a, MEAN])
                        swapped.append(Ill(a, FaultOfSensor.SWAPPED, value, usual, self._signals[b].name))
        return swapped

    def _shows(self, row: Floats, past: _Past, j: int) -> bool:
        """A row of another channel that would be nothing unusual in channel j."""
        level = abs(row[MEAN] - past.level[j]) <= past.jump[j]
        ratios = row[[STD, DIFF]] / np.maximum(past.usual[j, [STD, DIFF]], 1e-300)
        return bool(level and (ratios > 0.6).all() and (ratios < 1.6).all())

    def _alone(self, row: Floats, past: _Past, window: Window) -> list[Ill]:
        """Offset and noise."""
        jump = np.maximum(past.jump, 0.0 if self._slow else 0.25 * past.usual[:, STD])
        moved = np.abs(row[:, MEAN] - past.level) > jump
        std, diff = (row[:, k] / np.maximum(past.usual[:, k], 1e-300) for k in (STD, DIFF))
        upset = (row[:, STD] > 1.3 * past.high[:, STD]) | (row[:, DIFF] > 1.3 * past.high[:, DIFF])
        upset |= (row[:, STD] < 0.7 * past.low[:, STD]) & (not self._slow)
        stepped = self._jumped > 2 * past.high[:, STEP] if self._slow else np.zeros_like(moved)
        off = np.abs(row - past.usual)[:, [STD, DIFF]]
        stirred = ((off > STIRRED * past.spread[:, [STD, DIFF]]) & (off > 0.1 * past.usual[:, [STD, DIFF]])).any(axis=1)
        found = []
        for i in np.flatnonzero(moved | upset | stepped).tolist():
            others = np.delete(moved | upset | stepped | stirred, i)
            alone = bool(others.size) and not others.any()
            swings = not self._slow and abs(past.usual[i, MEAN]) < past.usual[i, STD]
            as_before = 0.5 < std[i] < 2.0 and 0.6 < diff[i] < 1.6
            value, usual = float(row[i, MEAN]), float(past.level[i])
            # One step made all of it; of a fast signal nobody can say: its steps are its swing.
            at_once = not self._slow or 0.9 <= self._jumped[i] / max(abs(value - usual), 1e-300) <= 1.1
            elsewhere = moved[i] and as_before and (swings or (alone and at_once))
            if elsewhere or (self._slow and alone and stepped[i] and self._within(window, i)):
                found.append(Ill(i, FaultOfSensor.OFFSET, value, usual))
            elif alone and row[i, DIFF] > NOISE * past.high[i, DIFF] and self._white(row[i], past.usual[i]):
                found.append(Ill(i, FaultOfSensor.NOISE, float(row[i, DIFF]), float(past.usual[i, DIFF])))
        return found

    def _within(self, window: Window, i: int) -> bool:
        """The step is in this window, and one step is all there is."""
        steps = np.sort(np.abs(np.diff(window.values[i].astype(np.float64))))
        return bool(steps[-1] >= 0.9 * self._jumped[i] and steps[-2] < 0.3 * steps[-1])

    def _white(self, row: Floats, usual: Floats) -> bool:
        added = row[STD] ** 2 - usual[STD] ** 2
        ratio = (row[DIFF] ** 2 - usual[DIFF] ** 2) / max(added, 1e-300)  # 2, and of few samples roughly so
        return bool(added > 0 and abs(ratio - 2) <= (1.2 if self._slow else 0.4) and row[KURTOSIS] < 6)
