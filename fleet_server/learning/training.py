"""Arrays to estimators: what is normal (novelty), and which fault it looks like (learning.classifiers).

Novelty. Fast data: a Gaussian mixture over standardised features, all components with one shape (operating modes differ
in place, not in noise), as many as the Bayesian information criterion pays for. Slow data: the distance of
models.selfref, learnt from all normal windows at once. The limit lies where a normal window of an asset that the model
has not seen falls below once in 1 / FALSE_ALARM windows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from fleet_server.errors import Refused
from fleet_server.learning import classifiers
from fleet_server.learning.dataset import Dataset, Floats, Mask
from models import selfref
from models.bundle.manifest import AlarmRule, Usual
from models.contract.labels import NORMAL

FALSE_ALARM: Final = 1 / 500  # normal windows over the limit, as stated to people; an alarm needs several in a row
MIN_NORMAL: Final = 30
MAX_COMPONENTS: Final = 5
RIDGE: Final = 0.05  # of a standardised feature's variance: directions that hardly vary are not to be trusted
SAME: Final = 0.995  # correlation from which on the second feature says nothing new
MACHINES_DIFFER: Final = 4.0  # variance between machines over variance on one: twice its spread
AT_MEDIAN: Final = 2.2  # the median normal window scores 1 / (1 + e^2.2) = 0.1


@dataclass(frozen=True)
class Distance:
    """The slow data's novelty: raw = -log(T2), so that limit and score are those of models.selfref."""

    reference: selfref.Reference

    def score_samples(self, vectors: Floats) -> Floats:
        raw: Floats = -np.log(selfref.statistic(vectors, self.reference) + 1e-12)
        return raw


@dataclass(frozen=True)
class Fitted:
    """Estimators with everything that a bundle says of them. `positions` of `inputs` in the dataset's vectors."""

    inputs: tuple[str, ...]
    positions: npt.NDArray[np.intp]
    novelty: Pipeline | Distance
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


def fit(data: Dataset) -> Fitted:
    """Train on the rows that are not held out. The same dataset gives the same models.

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
        positions, novelty, limit, scale, facts = _distance(data, normal)
    else:
        positions = _useful(data.vectors[normal])
        if not positions.size:
            raise Refused("no feature varies over the normal windows: is the sensor connected?")
        novelty, limit, scale, facts = _mixture(data, normal, positions, seed)
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


def _mixture(
    data: Dataset, normal: Mask, positions: npt.NDArray[np.intp], seed: int
) -> tuple[Pipeline, float, float, dict[str, Any]]:
    values = data.vectors[np.ix_(normal, positions)]
    most = max(1, min(MAX_COMPONENTS, len(values) // 30))
    candidates = [_mixture_of(n, values, seed) for n in range(1, most + 1)]
    bic = [model.steps[-1][1].bic(model.steps[0][1].transform(values)) for model in candidates]
    n_components = int(np.argmin(bic)) + 1
    unseen = np.concatenate(
        [
            _mixture_of(n_components, values[fit_on], seed).score_samples(values[judged])
            for fit_on, judged in _folds(data.assets[normal], data.times[normal])
        ]
    )
    limit = _low_quantile(unseen, FALSE_ALARM)
    scale = max((float(np.median(unseen)) - limit) / AT_MEDIAN, 0.5)
    return candidates[n_components - 1], limit, scale, {"novelty": "mixture", "components": n_components}


def _mixture_of(n_components: int, values: Floats, seed: int) -> Pipeline:
    model = Pipeline(
        [
            ("scale", StandardScaler()),
            ("mixture", GaussianMixture(n_components, covariance_type="tied", reg_covar=RIDGE, random_state=seed)),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the best so far does
        return model.fit(values)


def _distance(data: Dataset, normal: Mask) -> tuple[npt.NDArray[np.intp], Distance, float, float, dict[str, Any]]:
    selection = selfref.select([signal.name for signal in data.signals], data.window.rate_hz)
    order = np.flatnonzero(normal)[np.argsort(data.times[normal], kind="stable")]
    overlap = data.window.n_samples / data.window.hop
    try:
        reference = selfref.fit(data.vectors[order], selection, overlap)
    except selfref.TooFew as exc:
        raise Refused(str(exc)) from exc
    model = Distance(reference)
    positions = selection.indexes.astype(np.intp)
    return positions, model, -float(np.log(reference.limit)), 1.0, {"novelty": "distance"}


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


def _folds(assets: npt.NDArray[np.str_], times: Floats) -> Iterator[tuple[Mask, Mask]]:
    """(learn from, judge): by asset where there are at least three, by stretch of time where not."""
    names = np.unique(assets)
    if len(names) >= 3:
        part = np.searchsorted(names, assets) % 5
    else:
        rank = np.argsort(np.argsort(times, kind="stable"), kind="stable")
        part = rank * 5 // len(times)
    for fold in np.unique(part):
        yield part != fold, part == fold


def _low_quantile(values: Floats, share: float) -> float:
    """Empirical where there are enough values; else the lowest tenth's tail is taken to fall off exponentially."""
    if len(values) * share >= 5:
        return float(np.quantile(values, share))
    top = float(np.quantile(values, 0.1))
    tail = top - values[values < top]
    fall = float(np.median(tail)) / np.log(2) if tail.size else 0.0
    return top - fall * float(np.log(0.1 / share))


def _alarm(data: Dataset, slow: bool) -> AlarmRule:
    """Slow windows mostly overlap: neighbours err together, so the median of more of them is what counts."""
    if not slow:
        return AlarmRule()
    overlap = max(1, round(data.window.n_samples / data.window.hop))
    return AlarmRule(raise_after=1, clear_after=3, smooth=min(101, max(3, overlap // 2 * 2 + 1)))
