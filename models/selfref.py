"""A self-calibrated reference: what is normal, learnt from an asset's own first windows, without labels.

1. Features are chosen by the rate. Slow data (a value per second or so) tell their state by level and unrest, so mean
   and standard deviation; fast data (vibration, current) by the logarithms of what scales with the machine's size and
   speed, and by the shape of signal and spectrum.
2. A slow signal that wanders between windows more than it moves inside one (a temperature that follows the weather, a
   tank's level) is left out: its first minutes do not show how far it goes.
3. The others are scaled, trimmed of the least usual windows, and decorrelated with a ridge: Hotelling's T2.
4. The limit on T2 is that of a new window from the same normal distribution, at a stated false-alarm rate, corrected by
   how far the calibration windows themselves depart from that distribution.

The score is T2 / (T2 + limit): 0.5 at the limit, toward 1 beyond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.contract.features import NAMES

Floats = npt.NDArray[np.float64]

SLOW_HZ: Final = 10.0  # at most: few samples per window, and a spectrum says nothing
FALSE_ALARM: Final = 0.005  # per window that shares no sample with another, if normal windows are normally distributed
RIDGE: Final = 0.1  # added to every feature's variance of 1: directions that hardly vary are not to be trusted
TRIM: Final = 0.1  # share of calibration windows that may be anomalous
WANDERING: Final = 0.5  # variance inside a window over variance between windows: below, a signal is left out
UNREST: Final = 0.3  # weight of a slow signal's standard deviation: from few samples it is known only roughly
_TINY: Final = 1e-12
_IN_SAMPLE: Final = 0.95  # the quantile at which calibration windows and theory are compared; 1 - it may be anomalous
_SLOW: Final = ("mean", "std")
_FAST: Final = (
    "std",
    "kurtosis",
    "crest_factor",
    "band_1",
    "band_2",
    "band_3",
    "band_4",
    "band_5",
    "centroid",
    "spread",
    "entropy",
)
_LOGARITHMIC: Final = frozenset({"std", "kurtosis", "crest_factor"})  # of the fast ones; the bands are so already


class TooFew(ValueError):
    """There are not enough usable windows to tell what is normal."""


class Selection(NamedTuple):
    """Which entries of a feature vector are looked at, and how."""

    indexes: npt.NDArray[np.int64]  # [m], positions in the whole vector
    logarithm: npt.NDArray[np.bool_]  # [m], taken of this one
    weights: Floats  # [m], relative to a scale of one standard deviation
    slow: bool  # indexes come in pairs: mean and std of a signal

    def apply(self, vectors: Floats) -> Floats:
        """float64[..., n_features] to float64[..., m]."""
        chosen = np.array(vectors[..., self.indexes], np.float64)
        chosen[..., self.logarithm] = np.log10(np.maximum(chosen[..., self.logarithm], _TINY))
        return chosen


class Reference(NamedTuple):
    """What is normal. `whiten` has a row of zeros for an entry that is left out."""

    center: Floats  # [m]
    whiten: Floats  # [m, m]
    limit: float  # on T2


def select(signals: Sequence[str], rate_hz: float) -> Selection:
    """What to look at in the vectors of these signals, as models.contract.features orders them."""
    slow = rate_hz <= SLOW_HZ
    wanted = _SLOW if slow else _FAST
    position = {name: i for i, name in enumerate(NAMES)}
    indexes = [s * len(NAMES) + position[name] for s in range(len(signals)) for name in wanted]
    logarithm = [not slow and name in _LOGARITHMIC for name in wanted] * len(signals)
    weights = [UNREST if slow and name == "std" else 1.0 for name in wanted] * len(signals)
    return Selection(np.array(indexes, np.int64), np.array(logarithm, np.bool_), np.array(weights), slow)


def feature_at(position: int) -> str:
    """The feature's name, whatever the signal."""
    return NAMES[position % len(NAMES)]


def fit(vectors: Floats, selection: Selection, overlap: float = 1.0, false_alarm: float = FALSE_ALARM) -> Reference:
    """Learn what is normal.

    Args:
        vectors: float64[n_windows, n_features], whole vectors in the order of time. Those with a nan are passed over.
        overlap: n_samples / hop. As many windows in a row count as one, for they show nearly the same.
        false_alarm: the share of independent normal windows that may exceed the limit.

    Raises:
        TooFew: under 8 independent windows.
    """
    chosen = selection.apply(vectors)
    chosen = chosen[np.isfinite(chosen).all(axis=1)]
    n = (len(chosen) - 1) / max(overlap, 1.0) + 1
    if len(chosen) < 8 or n < 8:
        raise TooFew(f"{len(chosen)} windows, worth {n:.1f} that do not overlap; 8 are needed")
    weights = selection.weights * (_steady(chosen) if selection.slow else 1.0)

    kept = np.ones(len(chosen), np.bool_)
    for _ in range(5):
        center = chosen[kept].mean(axis=0)
        # A feature that never moved gets a scale from its size, so that a last digit is no event.
        scale = np.maximum(chosen[kept].std(axis=0), 1e-3 * np.abs(center) + _TINY)
        scaled = (chosen - center) / scale * weights
        root, k = _root_of_precision(scaled[kept], n * (1 - TRIM))
        t2 = np.sum((scaled @ root) ** 2, axis=1)
        kept = t2 <= np.quantile(t2, 1 - TRIM)
    seen = float(np.quantile(t2, _IN_SAMPLE))
    limit = seen * _new_window(1 - false_alarm, k, n) / _seen_window(_IN_SAMPLE, k, n)
    return Reference(center, (weights / scale)[:, None] * root, max(limit, _TINY))


def statistic(vector: Floats, reference: Reference) -> Floats:
    """T2 = |(x - center) @ whiten|^2, for float64[..., m] as Selection.apply gives them."""
    t2: Floats = np.sum(((vector - reference.center) @ reference.whiten) ** 2, axis=-1)
    return t2


def score(vector: Floats, reference: Reference) -> Floats:
    """In [0, 1], 0.5 at the limit. nan for a vector with a nan."""
    t2 = statistic(vector, reference)
    return t2 / (t2 + reference.limit)


def _steady(chosen: Floats) -> Floats:
    """[m] of 1 and 0: 0 for mean and std of a signal that wanders. If all do, the steadier half stays."""
    means, stds = chosen[:, 0::2], chosen[:, 1::2]
    inside = np.median(stds, axis=0) ** 2
    between = (1.4826 * np.median(np.abs(means - np.median(means, axis=0)), axis=0)) ** 2
    ratio = np.where(between > 0, inside / np.maximum(between, 1e-300), np.inf)
    steady = ratio >= min(WANDERING, float(np.median(ratio)))
    return np.repeat(steady, 2).astype(np.float64)


def _root_of_precision(scaled: Floats, n: float) -> tuple[Floats, float]:
    """R with R @ R.T the inverse of covariance + ridge, and how many directions that leaves in effect.

    The ridge grows until these are a third of the independent windows at most: more cannot be learnt from them.
    """
    variances, directions = np.linalg.eigh(np.atleast_2d(np.cov(scaled, rowvar=False, bias=True)))
    variances = np.maximum(variances, 0.0)
    ridge = RIDGE
    while (k := float(np.sum(variances / (variances + ridge)))) > n / 3:
        ridge *= 1.25
    return directions / np.sqrt(variances + ridge), max(k, 1.0)


def _new_window(p: float, k: float, n: float) -> float:
    """The p-quantile of T2 for a new window, mean and covariance being those of n others (Hotelling's F)."""
    b = _beta_quantile(p, k / 2, (n - k) / 2)
    return (n * n - 1) / n * b / (1 - b)


def _seen_window(p: float, k: float, n: float) -> float:
    """The same for one of the n windows themselves (Tracy, Young, Mason 1992)."""
    return (n - 1) ** 2 / n * _beta_quantile(p, k / 2, max(n - k - 1, 1.0) / 2)


def _beta_quantile(p: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_cdf(middle, a, b) < p else (low, middle)
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22), evaluated from the end."""
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror image does not
        return 1 - _beta_cdf(1 - x, b, a)
    if x <= 0:
        return 0.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    fraction = 1.0
    for m in range(200, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        fraction = 1 + odd / (1 + even / fraction)
    return front / fraction
