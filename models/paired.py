"""Two models on the same windows: how their scores differ, kept so that any number of windows takes the same room.

Scores lie in [0, 1], so equal bins know every value to half a bin, and adding two histograms loses nothing: devices
send them, the server adds them up. For values without bounds a quantile sketch would be needed; here it would only be
less exact (docs/decisions).

Both distances are between the two empirical distributions F and G of the scores. Kolmogorov-Smirnov: sup |F - G|
(Hodges 1958, Ark. Mat. 3). Wasserstein-1: the area between F and G (Vallender 1974, Theory Probab. Appl. 18), in units
of score, and never less than the difference of the means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from models.contract.release import BINS, DIFFERENCE_BINS, PairedScores

Counts = npt.NDArray[np.int64]


class Paired:
    """Takes pairs of scores one by one; what it holds can be sent, and added to another's."""

    def __init__(self) -> None:
        self.n = self.not_finite = self.both = self.only_challenger = self.only_champion = 0
        self._challenger, self._champion = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        self._difference = np.zeros(DIFFERENCE_BINS, np.int64)
        self._sum = self._squares = 0.0

    def add(self, challenger: float, champion: float, challenger_over: bool, champion_over: bool) -> None:
        """One window. A score that is no number is counted as that and as nothing else."""
        if not (math.isfinite(challenger) and math.isfinite(champion)):
            self.not_finite += 1
            return
        difference = challenger - champion
        self.n += 1
        self.both += challenger_over and champion_over
        self.only_challenger += challenger_over and not champion_over
        self.only_champion += champion_over and not challenger_over
        self._challenger[_bin(challenger, BINS)] += 1
        self._champion[_bin(champion, BINS)] += 1
        self._difference[_bin((difference + 1) / 2, DIFFERENCE_BINS)] += 1
        self._sum += difference
        self._squares += difference * difference

    def take(self) -> PairedScores:
        """What was added so far."""
        return PairedScores(
            n=self.n,
            not_finite=self.not_finite,
            both_over=self.both,
            only_challenger_over=self.only_challenger,
            only_champion_over=self.only_champion,
            challenger=tuple(self._challenger.tolist()),
            champion=tuple(self._champion.tolist()),
            difference=tuple(self._difference.tolist()),
            sum_difference=self._sum,
            sum_squares=self._squares,
        )


def merged(parts: Iterable[PairedScores]) -> PairedScores:
    """All of them as one, exactly."""
    fields: dict[str, npt.NDArray[np.float64]] = {}
    for part in parts:
        for name, value in part.model_dump().items():
            fields[name] = fields.get(name, 0) + np.asarray(value)
    return PairedScores.model_validate({name: value.tolist() for name, value in fields.items()})


def mean_difference(scores: PairedScores) -> float:
    """Challenger less champion; 0 without any window."""
    return scores.sum_difference / scores.n if scores.n else 0.0


def difference_quantiles(scores: PairedScores, shares: Iterable[float]) -> list[float]:
    """Of challenger less champion, each to half a bin; 0 without any window."""
    if not scores.n:
        return [0.0 for _ in shares]
    upto = np.cumsum(scores.difference)
    found = [int(np.searchsorted(upto, max(1, math.ceil(share * scores.n)))) for share in shares]
    return [(k + 0.5) / DIFFERENCE_BINS * 2 - 1 for k in found]


def wasserstein(scores: PairedScores) -> float:
    """Area between the two distribution functions, in units of score: 0 the same, 1 as far apart as can be."""
    return float(np.abs(_gap(scores)).sum() / BINS)


def ks(scores: PairedScores) -> float:
    """Largest vertical distance of the two distribution functions."""
    return float(np.abs(_gap(scores)).max())


def _gap(scores: PairedScores) -> npt.NDArray[np.float64]:
    n = max(scores.n, 1)
    return np.cumsum(np.array(scores.challenger) - np.array(scores.champion)) / n


def _bin(value: float, bins: int) -> int:
    return min(bins - 1, max(0, int(value * bins)))
