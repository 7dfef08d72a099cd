"""Paired scores: exact sums, distances that agree with the textbook's on the raw values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from models.contract.release import BINS, PairedScores
from models.paired import Paired, difference_quantiles, ks, mean_difference, merged, wasserstein

SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60)


def held(pairs: list[tuple[float, float]]) -> PairedScores:
    paired = Paired()
    for challenger, champion in pairs:
        paired.add(challenger, champion, challenger >= 0.5, champion >= 0.5)
    return paired.take()


@given(SCORES)
def test_distances_are_those_of_the_raw_scores_to_a_bin(pairs: list[tuple[float, float]]) -> None:
    challenger, champion = map(np.array, zip(*pairs, strict=True))
    scores = held(pairs)
    assert wasserstein(scores) == pytest.approx(stats.wasserstein_distance(challenger, champion), abs=1 / BINS)
    whole_bins = [np.minimum((x * BINS).astype(int), BINS - 1) for x in (challenger, champion)]
    assert ks(scores) == pytest.approx(stats.ks_2samp(*whole_bins).statistic)
    assert mean_difference(scores) == pytest.approx(float(np.mean(challenger - champion)), abs=1e-9)
    median = difference_quantiles(scores, [0.5])[0]
    ordered = np.sort(challenger - champion)
    assert median == pytest.approx(ordered[math.ceil(0.5 * len(ordered)) - 1], abs=1 / 128 + 1e-9)


@given(SCORES, SCORES)
def test_adding_two_is_the_same_as_having_seen_both(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> None:
    both, whole = merged([held(a), held(b)]), held(a + b)
    assert both.sum_difference == pytest.approx(whole.sum_difference)
    assert both.sum_squares == pytest.approx(whole.sum_squares)
    rest = {"sum_difference", "sum_squares"}
    assert both.model_dump(exclude=rest) == whole.model_dump(exclude=rest)


def test_what_is_no_number_is_counted_as_that_alone() -> None:
    paired = Paired()
    for challenger, champion in ((math.nan, 0.5), (0.5, math.inf), (0.2, 0.2)):
        paired.add(challenger, champion, False, True)
    scores = paired.take()
    assert (scores.n, scores.not_finite, scores.only_champion_over, sum(scores.challenger)) == (1, 2, 1, 1)
    assert merged([]) == PairedScores()
