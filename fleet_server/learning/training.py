"""Arrays to estimators: what is normal (learning.novelties), and which fault it looks like (learning.classifiers)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fleet_server.errors import Refused
from fleet_server.learning import classifiers, novelties
from fleet_server.learning.dataset import Dataset, Floats
from fleet_server.learning.novelties import Distance as Distance
from fleet_server.learning.novelties import Model
from models import selfref
from models.bundle.manifest import AlarmRule, Usual
from models.contract.labels import NORMAL

MIN_NORMAL: Final = 30
SAME: Final = 0.995  # correlation from which on the second feature says nothing new
MACHINES_DIFFER: Final = 4.0  # variance between machines over variance on one: twice its spread


@dataclass(frozen=True)
class Fitted:
    """Estimators with everything that a bundle says of them. `positions` of `inputs` in the dataset's vectors."""

    inputs: tuple[str, ...]
    positions: npt.NDArray[np.intp]
    novelty: Model
    limit: float
    scale: float
    classifier: Any | None
    classes: tuple[str, ...]
    usual: tuple[Usual, ...]
    alarm: AlarmRule
    facts: dict[str, Any] = field(default_factory=dict)

    def raw(self, vectors: Floats) -> Floats:
        """Larger is more normal. The rounding to float32 is what the device does too."""
        return np.asarray(self.novelty.score_samples(self._given(vectors)), dtype=np.float64)

    def probabilities(self, vectors: Floats) -> Floats | None:
        if self.classifier is None:
            return None
        return np.asarray(self.classifier.predict_proba(self._given(vectors)), dtype=np.float64)

    def _given(self, vectors: Floats) -> Floats:
        given: Floats = vectors[:, self.positions].astype(np.float32).astype(np.float64)
        return given


def fit(data: Dataset, wanted: novelties.KindName | None = None) -> Fitted:
    """Train on the rows that are not held out. The same dataset gives the same models.

    Args:
        wanted: a kind of novelty; None: by validation.

    Raises:
        Refused: too few normal windows, or no feature that varies.
    """
    train = ~data.holdout
    normal = train & (data.classes == NORMAL)
    if int(normal.sum()) < MIN_NORMAL:
        raise Refused(f"{int(normal.sum())} normal windows to learn from, at least {MIN_NORMAL} are needed")
    slow = data.window.rate_hz <= selfref.SLOW_HZ
    seed = data.seed % 2**31
    if slow:
        selection = selfref.select([signal.name for signal in data.signals], data.window.rate_hz)
        positions = selection.indexes.astype(np.intp)
    else:
        positions = _useful(data.vectors[normal])
        if not positions.size:
            raise Refused("no feature varies over the normal windows: is the sensor connected?")
    novelty, limit, scale, facts = novelties.fit(data, train, positions, seed, wanted)
    classifier, classes, more = classifiers.fit(data, train, positions, seed)
    values = data.vectors[np.ix_(normal, positions)]
    center = np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(values - center), axis=0)
    spread = np.maximum(spread, np.maximum(0.1 * values.std(axis=0), 1e-6 * np.maximum(np.abs(center), 1e-3)))
    return Fitted(
        inputs=tuple(data.names[i] for i in positions),
        positions=positions,
        novelty=novelty,
        limit=limit,
        scale=scale,
        classifier=classifier,
        classes=classes,
        usual=tuple(Usual(center=float(c), spread=float(s)) for c, s in zip(center, spread, strict=True)),
        alarm=_alarm(data, slow),
        facts={"normal_windows": int(normal.sum()), "inputs": int(positions.size), **facts, **more},
    )


def _useful(values: Floats) -> npt.NDArray[np.intp]:
    """Positions of what varies enough for float32, and is not another one said again."""
    spread = values.std(axis=0)
    # Largest against smallest middle spread: a feature that is constant but for one window is not a measure.
    middle = np.quantile(values, 0.9, axis=0) - np.quantile(values, 0.1, axis=0)
    enough = np.flatnonzero((middle > 1e-5 * np.maximum(np.abs(values).mean(axis=0), 1e-6)) & (spread < 1e6))
    kept: list[int] = []
    scaled = (values[:, enough] - values[:, enough].mean(axis=0)) / np.maximum(spread[enough], 1e-12)
    alike = np.abs(scaled.T @ scaled) / len(values)
    for i in range(enough.size):
        if not kept or alike[i, kept].max() < SAME:
            kept.append(i)
    return enough[np.array(kept, dtype=np.intp)]


def machines_differ(data: Dataset) -> bool:
    """True if most signals' levels lie further apart between machines than they move on one machine. One limit for all
    would then be so wide that it sees little, and what is normal is better learned on each machine."""
    normal = data.classes == NORMAL
    machines = np.unique(data.assets[normal])
    if len(machines) < 2 or len(data.faults) or data.window.rate_hz > selfref.SLOW_HZ:
        return False
    levels = [i for i, name in enumerate(data.names) if name.endswith(".mean")]
    groups = [data.vectors[np.ix_(normal & (data.assets == machine), levels)] for machine in machines]
    between = np.var([np.median(group, axis=0) for group in groups], axis=0)
    within = np.median([group.var(axis=0) for group in groups], axis=0)
    return bool(np.median(between / np.maximum(within, 1e-300)) > MACHINES_DIFFER)


def halves(data: Dataset, machine: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions of one machine's normal windows in the order of time: the first half, and the second."""
    rows = np.flatnonzero((data.classes == NORMAL) & (data.assets == machine))
    ordered = rows[np.argsort(data.times[rows], kind="stable")]
    return ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]


def self_reference(data: Dataset, rows: npt.NDArray[np.intp]) -> tuple[selfref.Selection, selfref.Reference, AlarmRule]:
    """What these windows of one machine teach, as a device will learn it. Raises Refused: too few."""
    selection = selfref.select([signal.name for signal in data.signals], data.window.rate_hz)
    try:
        reference = selfref.fit(data.vectors[rows], selection, data.window.n_samples / data.window.hop)
    except selfref.TooFew as exc:
        raise Refused(str(exc)) from exc
    return selection, reference, AlarmRule(raise_after=1, clear_after=3, smooth=5)


def _alarm(data: Dataset, slow: bool) -> AlarmRule:
    """Slow windows mostly overlap: neighbours err together, so the median of more of them is what counts."""
    if not slow:
        return AlarmRule()
    overlap = max(1, round(data.window.n_samples / data.window.hop))
    return AlarmRule(raise_after=1, clear_after=3, smooth=min(101, max(3, overlap // 2 * 2 + 1)))
