"""Runs to failure to a degradation alarm: a machine is compared with its own beginning, by a limit that others set.

1. Of a feature, a machine's rise is how far it has moved from the median of its first `learn` windows, in one
   direction, on the channel on which it has moved most; the median of the last SMOOTH windows.
2. The limit is what one machine in 1 / `false_alarm` exceeds in the first half of its life: the greatest rise of each
   machine in that half, taken to be Gumbel distributed (extreme values), by moments, widened for how few machines
   there are.
3. Which feature and direction: leaving out one machine after the other, the one that alarms on most machines in the
   second half of their lives and not in the first; among these, the one with the widest margin: the machine whose rise
   at the end is least, in limits.

Features are those of models.selfref for fast signals and slow ones; what scales with a machine is taken as logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import helper
from pydantic import Field

from fleet_server.config import Settings
from fleet_server.errors import Refused
from models import selfref
from models.bundle.manifest import AlarmRule, Novelty, Usual
from models.contract.signals import Signal, WindowSpec
from models.features.extract import Extractor
from models.recordings import Recording
from models.windows import Windower

Floats = npt.NDArray[np.float64]

FEWEST: Final = 3  # machines
SMOOTH: Final = 7  # windows
CLEAR: Final = 0.5  # of the limit: wear does not heal, and what falls so far was none
AT_START: Final = 2.2  # a machine that is as it was scores 1 / (1 + e^2.2) = 0.1
TINY: Final = 1e-12


class DegradationSettings(Settings):
    """`[degradation]` of the file."""

    learn: Annotated[int, Field(ge=8, le=10_000)] = 60  # windows of each machine's beginning
    false_alarm: Annotated[float, Field(gt=0, le=0.2)] = 0.01  # machines that alarm in the first half of their lives


class Life(NamedTuple):
    """One machine's windows from its beginning to its failure: float64[n, n_features]."""

    asset: str
    vectors: Floats


class Sign(NamedTuple):
    """A feature of every channel, and where it goes with wear."""

    name: str
    positions: tuple[int, ...]
    logarithm: bool
    direction: float  # 1: up


@dataclass(frozen=True)
class FittedDegradation:
    """What a bundle says of it."""

    sign: Sign
    limit: float  # on the rise
    scale: float
    usual: tuple[Usual, ...]
    learn: int
    facts: dict[str, Any]

    @property
    def novelty(self) -> Novelty:
        return Novelty(calibration="relative", limit=-self.limit, scale=self.scale, learn=self.learn)

    @property
    def alarm(self) -> AlarmRule:
        """Once, while it lasts."""
        clear_at = 1 / (1 + math.exp((1 - CLEAR) * self.limit / self.scale))
        return AlarmRule(raise_at=0.5, clear_at=clear_at, raise_after=1, clear_after=self.learn, smooth=SMOOTH)

    def raw(self, inputs: Floats, center: Floats) -> Floats:
        """Larger is more as it was: minus the rise of the channel that rose most. float64[..., n] in any rows."""
        return -np.asarray((self.sign.direction * (_level(inputs, self.sign) - _level(center, self.sign))).max(axis=-1))


def vectors_of(recording: Recording, window: WindowSpec) -> Floats:
    """The features of every window that has them all."""
    windower, extract = Windower(window, len(recording.signals)), Extractor(recording.signals, window.rate_hz)
    vectors = [extract(cut.values) for cut in windower.feed(recording.times, recording.values)]
    return np.array([vector for vector in vectors if np.isfinite(vector).all()])


def fit(
    lives: Sequence[Life], signals: Sequence[Signal], window: WindowSpec, said: DegradationSettings
) -> FittedDegradation:
    """Train on these machines.

    Raises:
        Refused: too few of them, too short ones, or nothing in them tells of the end and not of the beginning.
    """
    long = [life for life in lives if len(life.vectors) >= 2 * (said.learn + SMOOTH)]
    if len(long) < FEWEST:
        raise Refused(
            f"{len(long)} runs to failure of {2 * (said.learn + SMOOTH)} windows or more, {FEWEST} are needed;"
            " learn is how many windows show the beginning"
        )
    signs = _signs([signal.name for signal in signals], window)
    judged = [(_judge([_rise(life.vectors, sign, said.learn) for life in long], said), sign) for sign in signs]
    verdict, sign = max(judged, key=lambda each: each[0])
    if 2 * verdict.right <= len(long):
        best = f"{sign.name} does on {verdict.right} of {len(long)}"
        raise Refused(f"no feature tells the end of these machines from their beginning: the best, {best}")
    rises = [_rise(life.vectors, sign, said.learn) for life in long]
    limit = _limit(rises, said.false_alarm)
    healthy = np.concatenate([_first_half(rise) for rise in rises])
    scale = max(limit - float(np.median(healthy)), TINY) / AT_START
    early = [life.vectors[: said.learn][:, sign.positions] for life in long]
    center = np.median(np.vstack(early), axis=0)
    spread = np.sqrt(np.mean([each.var(axis=0) for each in early], axis=0))  # on one machine
    spread = np.maximum(spread, 1e-6 * np.abs(center) + TINY)
    facts = {
        "novelty": "rise against the machine's own beginning",
        "feature": f"{sign.name} {'rises' if sign.direction > 0 else 'falls'}",
        "limit": round(limit, 4),
        "limit_by": f"Gumbel of {len(long)} machines' greatest rises in their first halves",
        "false_alarm": said.false_alarm,
        "left_out_one_by_one": {"machines": len(long), **verdict._asdict()},
        "greatest_rise_in_first_half": {
            life.asset: round(float(_first_half(r).max()), 4) for life, r in zip(long, rises, strict=True)
        },
        "rise_at_the_end": {life.asset: round(float(r[-1]), 4) for life, r in zip(long, rises, strict=True)},
    }
    usual = tuple(Usual(center=float(c), spread=float(s)) for c, s in zip(center, spread, strict=True))
    return FittedDegradation(sign, limit, scale, usual, said.learn, facts)


def _signs(names: Sequence[str], window: WindowSpec) -> Iterator[Sign]:
    selection = selfref.select(names, window.rate_hz)
    each = len(selection.indexes) // len(names)
    for k in range(each):
        positions = tuple(int(i) for i in selection.indexes[k::each])
        feature = selfref.feature_at(positions[0])
        for direction in (1.0, -1.0):
            yield Sign(feature, positions, bool(selection.logarithm[k]), direction)


def _level(values: Floats, sign: Sign) -> Floats:
    return np.log10(np.maximum(values, TINY)) if sign.logarithm else values


def _rise(vectors: Floats, sign: Sign, learn: int) -> Floats:
    """float64[n - learn] after the beginning, smoothed as on a device."""
    levels = _level(vectors[:, sign.positions], sign)
    moved = (sign.direction * (levels - np.median(levels[:learn], axis=0))).max(axis=1)[learn:]
    padded = np.concatenate([np.full(SMOOTH - 1, np.nan), moved])
    return np.asarray(np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, SMOOTH), axis=1))


def _first_half(rise: Floats) -> Floats:
    """Of what follows the beginning: a little more than the first half of the life."""
    return rise[: (len(rise) + 1) // 2]


def _limit(rises: Sequence[Floats], false_alarm: float) -> float:
    greatest = np.array([_first_half(rise).max() for rise in rises])
    spread = greatest.std(ddof=1) * math.sqrt(1 + 1 / len(greatest)) * math.sqrt(6) / math.pi
    return max(TINY, float(greatest.mean() + spread * (-math.log(-math.log(1 - false_alarm)) - np.euler_gamma)))


class Verdict(NamedTuple):
    """In the order of importance."""

    right: int  # machines on which the limit that the others set is exceeded when it should be, and not before
    margin: float  # the least rise at an end over its limit
    lead: float  # median, in windows


def _judge(rises: Sequence[Floats], said: DegradationSettings) -> Verdict:
    right, margins, leads = 0, [], []
    for k, rise in enumerate(rises):
        limit = _limit([other for i, other in enumerate(rises) if i != k], said.false_alarm)
        over = np.flatnonzero(rise > limit)
        in_time = bool(over.size and over[0] >= len(_first_half(rise)))
        right += in_time
        margins.append(float(rise[-1]) / limit)
        leads.append(len(rise) - 1 - int(over[0]) if in_time else 0)
    return Verdict(right, min(margins), float(np.median(leads)))


def nodes(fitted: FittedDegradation) -> tuple[list[Any], dict[str, npt.NDArray[Any]]]:
    """Operators and constants of `raw`, from features [1, n] and center [n]."""
    made, ends = [], []
    for name in ("features", "center"):
        end = name
        if fitted.sign.logarithm:
            made += [
                helper.make_node("Max", [name, "tiny"], [f"{name}_above"]),
                helper.make_node("Log", [f"{name}_above"], [f"{name}_ln"]),
                helper.make_node("Mul", [f"{name}_ln", "per_decade"], [f"{name}_level"]),
            ]
            end = f"{name}_level"
        ends.append(end)
    made += [
        helper.make_node("Sub", ends, ["moved"]),
        helper.make_node("Mul", ["moved", "direction"], ["rises"]),
        helper.make_node("ReduceMax", ["rises"], ["rise"], axes=[1], keepdims=0),
        helper.make_node("Neg", ["rise"], ["raw"]),
    ]
    constants = {"direction": np.array([fitted.sign.direction], np.float32)}
    if fitted.sign.logarithm:
        constants |= {"tiny": np.array([TINY], np.float32), "per_decade": np.array([1 / math.log(10)], np.float32)}
    return made, constants
