"""What is normal: several kinds of novelty model, and the limit that a stated share of normal windows falls below.

- mixture: a Gaussian mixture over standardised features, all components with one shape (operating modes differ in
  place, not in noise), as many as the Bayesian information criterion pays for. Fast data.
- distance: that of models.selfref, learnt from all normal windows at once. Slow data.
- masked channel (self-supervised): each channel's features are predicted from those of the other channels, by a ridge
  regression whose strength leave-one-out errors choose; the distance is that of what could not be predicted. It hears a
  channel that no longer fits the others, however ordinary it is by itself.
- forest: an isolation forest of 100 trees.

The first kind for the data's rate is taken, unless faults are known among the windows to learn from: then the one that
hears most of them, at its limit, on machines that it has not learned from. No kind learns from a fault.

The limit is conformal where there are enough windows: the score of rank (n + 1) FALSE_ALARM among windows left out of
the fold, by machine. With fewer it is an extreme-value one: excesses over the lowest tenth are taken to be exponential.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from fleet_server.errors import Refused
from fleet_server.learning.dataset import Dataset, Floats, Mask
from models import selfref
from models.contract.labels import NORMAL

Rows = npt.NDArray[np.intp]
KindName = Literal["mixture", "distance", "masked channel", "forest"]

FALSE_ALARM: Final = 1 / 500  # normal windows over the limit, as stated to people; an alarm needs several in a row
MAX_COMPONENTS: Final = 5
RIDGE: Final = 0.05  # of a standardised feature's variance: directions that hardly vary are not to be trusted
STRENGTHS: Final = (0.1, 1.0, 10.0, 100.0, 1000.0)  # of the masked channel's regression
TREES: Final = 100
AT_MEDIAN: Final = 2.2  # the median normal window scores 1 / (1 + e^2.2) = 0.1
ENOUGH: Final = 5  # windows that should fall below the limit, from which on their rank is it
BETTER: Final = 0.02  # of the faults, by which another kind must hear more than the first
FEWEST_FAULTS: Final = 8  # windows


@dataclass(frozen=True)
class Distance:
    """raw = -log(T2), so that limit and score are those of models.selfref."""

    reference: selfref.Reference

    def score_samples(self, vectors: Floats) -> Floats:
        raw: Floats = -np.log(selfref.statistic(vectors, self.reference) + 1e-12)
        return raw


Model: TypeAlias = Pipeline | Distance | IsolationForest


class Novelty(NamedTuple):
    """A model over data.vectors[:, positions], its limit and scale, and what is to be said of it."""

    model: Model
    limit: float
    scale: float
    facts: dict[str, Any]


def fit(data: Dataset, train: Mask, positions: Rows, seed: int, wanted: KindName | None = None) -> Novelty:
    """The kind that is `wanted`, or that hears most.

    Raises:
        Refused: too few windows, or a kind that these signals do not allow.
    """
    normal = np.flatnonzero(train & (data.classes == NORMAL))
    kinds = _kinds(data, normal, positions, seed)
    if wanted is not None and wanted not in kinds:
        raise Refused(f"novelty {wanted!r} is not for these signals and this rate; {', '.join(kinds)} are")
    names = [wanted] if wanted else list(kinds)
    faults = np.flatnonzero(train & (data.classes != NORMAL))
    heard: dict[str, float] = {}
    if len(names) > 1 and len(faults) >= FEWEST_FAULTS:
        with contextlib.suppress(Refused):  # a part of the windows is too few for the first kind: it is not judged
            heard = {name: _heard(data, kinds[name], normal, faults, positions) for name in names}
            best = max(names, key=lambda name: heard[name])
            names = [best if heard[best] > heard[names[0]] + BETTER else names[0]]
    kind = names[0]
    model = kinds[kind](normal)
    facts: dict[str, Any] = {"novelty": kind} | ({"faults_heard_in_validation": heard} if heard else {})
    if isinstance(model, Pipeline):
        facts["components"] = model.steps[-1][1].n_components
    if kind == "distance":
        assert isinstance(model, Distance)
        return Novelty(model, -float(np.log(model.reference.limit)), 1.0, facts | {"limit_by": "Hotelling's F"})
    unseen = np.concatenate([raw for raw, _ in _unseen(data, kinds[kind], normal, positions)])
    limit, how = _low_quantile(unseen, FALSE_ALARM)
    least = 0.5 if kind == "mixture" else 1e-3
    scale = max((float(np.median(unseen)) - limit) / AT_MEDIAN, least)
    return Novelty(model, limit, scale, facts | {"limit_by": how, "false_alarm": FALSE_ALARM})


def _kinds(data: Dataset, normal: Rows, positions: Rows, seed: int) -> dict[str, Callable[[Rows], Model]]:
    """Each learns from rows of the dataset. The first is taken where nothing speaks for another."""
    channels = np.array([data.names[i].rpartition(".")[0] for i in positions])

    def values(rows: Rows) -> Floats:
        return data.vectors[np.ix_(rows, positions)].astype(np.float32).astype(np.float64)

    kinds: dict[str, Callable[[Rows], Model]] = {}
    if data.window.rate_hz <= selfref.SLOW_HZ:
        kinds["distance"] = lambda rows: _distance(data, rows)
    else:
        n = _components(values(normal), seed)
        kinds["mixture"] = lambda rows: _mixture(n, values(rows), seed)
    if len(np.unique(channels)) > 1:
        kinds["masked channel"] = lambda rows: _masked(values(rows), channels)
    kinds["forest"] = lambda rows: IsolationForest(n_estimators=TREES, random_state=seed).fit(values(rows))
    return kinds


def _components(values: Floats, seed: int) -> int:
    most = max(1, min(MAX_COMPONENTS, len(values) // 30))
    candidates = [_mixture(n, values, seed) for n in range(1, most + 1)]
    return int(np.argmin([m.steps[-1][1].bic(m.steps[0][1].transform(values)) for m in candidates])) + 1


def _mixture(n_components: int, values: Floats, seed: int) -> Pipeline:
    mixture = GaussianMixture(n_components, covariance_type="tied", reg_covar=RIDGE, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the best so far does
        return Pipeline([("scale", StandardScaler()), ("mixture", mixture)]).fit(values)


def _distance(data: Dataset, rows: Rows) -> Distance:
    selection = selfref.select([signal.name for signal in data.signals], data.window.rate_hz)
    order = rows[np.argsort(data.times[rows], kind="stable")]
    try:
        return Distance(selfref.fit(data.vectors[order], selection, data.window.n_samples / data.window.hop))
    except selfref.TooFew as exc:
        raise Refused(str(exc)) from exc


def _masked(values: Floats, channels: npt.NDArray[np.str_]) -> Distance:
    """T2 of what the other channels do not say of each: linear, so it is one matrix."""
    center, scale = values.mean(axis=0), values.std(axis=0)
    scale = np.maximum(scale, 1e-6 * np.abs(center) + 1e-12)
    z = (values - center) / scale
    whiten = np.zeros((z.shape[1], z.shape[1]))
    for channel in np.unique(channels):
        own, others = np.flatnonzero(channels == channel), np.flatnonzero(channels != channel)
        model = RidgeCV(STRENGTHS, fit_intercept=False).fit(z[:, others], z[:, own])
        says = np.atleast_2d(model.coef_).reshape(len(own), len(others)).T  # [others, own]
        left = z[:, own] - z[:, others] @ says
        variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(left, rowvar=False, bias=True)))
        root = directions / np.sqrt(np.maximum(variances, 0.0) + RIDGE)
        whiten[np.ix_(own, own)] = root
        whiten[np.ix_(others, own)] = -says @ root
    return Distance(selfref.Reference(center, whiten / scale[:, None], 1.0))


def _unseen(
    data: Dataset, learn: Callable[[Rows], Model], normal: Rows, positions: Rows
) -> Iterator[tuple[Floats, Model]]:
    """Scores of normal windows by a model that has not seen their machine, and that model."""
    for fit_on, judged in _folds(data.assets[normal], data.times[normal]):
        model = learn(normal[fit_on])
        yield np.asarray(model.score_samples(data.vectors[np.ix_(normal[judged], positions)])), model


def _heard(data: Dataset, learn: Callable[[Rows], Model], normal: Rows, faults: Rows, positions: Rows) -> float:
    """Share of fault windows below the limit, by models that have not learned from their machine; mean over faults."""
    kept: list[Floats] = []
    raw = np.full(len(faults), np.nan)
    for (_, judged), (unseen, model) in zip(
        _folds(data.assets[normal], data.times[normal]), _unseen(data, learn, normal, positions), strict=True
    ):
        kept.append(unseen)
        here = np.isin(data.assets[faults], data.assets[normal[judged]]) | np.isnan(raw)
        if here.any():
            raw[here] = model.score_samples(data.vectors[np.ix_(faults[here], positions)])
    limit, _ = _low_quantile(np.concatenate(kept), FALSE_ALARM)
    below = raw < limit
    classes = data.classes[faults]
    return round(float(np.mean([below[classes == name].mean() for name in np.unique(classes)])), 4)


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


def _low_quantile(values: Floats, share: float) -> tuple[float, str]:
    """The value that a new one falls below with that probability, and how that is known."""
    if len(values) * share >= ENOUGH:
        rank = int((len(values) + 1) * share)
        return float(np.partition(values, rank - 1)[rank - 1]), f"conformal, {len(values)} windows left out by machine"
    top = float(np.quantile(values, 0.1))
    tail = top - values[values < top]
    fall = float(np.median(tail)) / np.log(2) if tail.size else 0.0
    return top - fall * float(np.log(0.1 / share)), f"extreme value, tail of {tail.size} windows left out by machine"
