from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract.signals import WindowSpec
from models.windows import Dropped, Window, Windower

RATE = 10.0


def spec(n: int = 4, hop: int = 2, max_gap: int = 0) -> WindowSpec:
    return WindowSpec(rate_hz=RATE, n_samples=n, hop=hop, max_gap_samples=max_gap)


def samples(times: np.ndarray) -> np.ndarray:
    """Two signals that tell the sample: its position, and its time."""
    return np.array([np.arange(len(times)), times], np.float32)


def feed_in_blocks(windower: Windower, times: np.ndarray, values: np.ndarray, cuts: list[int]) -> list[Window]:
    found: list[Window] = []
    bounds = sorted({0, len(times), *(cut % (len(times) + 1) for cut in cuts)})
    for a, b in pairwise(bounds):
        found += windower.feed(times[a:b], values[:, a:b])
    return found


steps = st.lists(
    st.one_of(st.just(1.0), st.just(1.0), st.sampled_from([0.0, -3.0, 2.0, 3.0, 8.0, 0.8, 1.2, np.nan])), max_size=120
)


@settings(max_examples=300, deadline=None)
@given(steps, st.integers(4, 12), st.integers(1, 20), st.integers(0, 3), st.lists(st.integers(0, 200), max_size=8))
def test_windows_of_any_stream(sizes: list[float], n: int, hop: int, max_gap: int, cuts: list[int]) -> None:
    bad = np.isnan(np.array(sizes, float))
    times = 1000 + np.cumsum(np.where(bad, 1.0, sizes)) / RATE
    times[bad] = np.nan
    values = samples(times)
    windower = Windower(spec(n, hop, max_gap), 2)
    found = feed_in_blocks(windower, times, values, cuts)

    positions = [window.values[0].astype(int) for window in found]
    for window, rows in zip(found, positions, strict=True):
        assert window.values.shape == (2, n)
        assert window.values.flags.c_contiguous
        assert window.values.flags.owndata
        assert window.last == rows[-1]
        assert (window.start, window.end) == (times[rows[0]], times[rows[-1]])
        gaps = np.diff(times[rows])
        assert (gaps > 0).all()
        assert (gaps <= (max_gap + 1.5) / RATE + 1e-9).all()
    lasts = [window.last for window in found]
    assert lasts == sorted(set(lasts))
    if hop >= n:
        every = np.concatenate(positions) if positions else np.empty(0)
        assert len(every) == len(set(every))
    in_windows = len(set(np.concatenate(positions).tolist())) if positions else 0
    assert windower.fed == len(sizes) == in_windows + windower.dropped.total() + windower.pending
    assert windower.dropped[Dropped.NO_TIME] == bad.sum()

    marks = np.random.default_rng(n * hop).choice(3, (2, len(sizes)), p=[0.9, 0.05, 0.05]).astype(np.uint8)
    marked = list(Windower(spec(n, hop, max_gap), 2).feed(times, values, marks))
    for window, rows in zip(marked, positions, strict=True):  # what was said of a sample goes where the sample goes
        worst = marks[:, rows].max(axis=1)
        assert (window.quality is None) == (not worst.any())
        assert window.quality is None or window.quality.tolist() == worst.tolist()

    whole = Windower(spec(n, hop, max_gap), 2)
    again = list(whole.feed(times, values))
    assert [w.last for w in again] == lasts  # how the stream came in blocks does not matter
    assert whole.dropped == windower.dropped


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 50), st.integers(1, 80), st.integers(4000, 14000))
def test_nothing_is_missing_from_a_stream_without_gaps(n: int, hop: int, total: int) -> None:
    times = np.arange(total) / RATE
    found = list(Windower(spec(n, hop), 2).feed(0.0, samples(times)))
    assert [window.last for window in found] == list(range(n - 1, total, hop))
    for window in found[:: max(len(found) // 20, 1)]:
        np.testing.assert_array_equal(window.values[0], np.arange(window.last - n + 1, window.last + 1))


def test_a_gap_ends_a_window_and_the_rest_is_counted() -> None:
    times = np.array([0, 1, 2, 3, 4, 20, 21, 22, 23]) / RATE
    windower = Windower(spec(4, 4), 2)
    found = list(windower.feed(times, samples(times)))
    assert [window.last for window in found] == [3, 8]
    assert windower.dropped == {Dropped.GAP: 1}


def test_a_slow_logger_may_skip() -> None:
    times = np.array([0, 1, 2, 6, 7, 8]) / RATE
    assert [w.last for w in Windower(spec(6, 1, max_gap=3), 2).feed(times, samples(times))] == [5]
    assert list(Windower(spec(6, 1, max_gap=2), 2).feed(times, samples(times))) == []


def test_a_block_that_comes_twice_is_dropped() -> None:
    times = np.arange(8) / RATE
    windower = Windower(spec(4, 4), 2)
    assert len(list(windower.feed(times, samples(times)))) == 2
    assert list(windower.feed(times, samples(times))) == []
    assert windower.dropped == {Dropped.LATE: 8}


def test_after_a_reset_time_may_start_anywhere() -> None:
    windower = Windower(spec(4, 4), 2)
    times = np.arange(6) / RATE
    assert len(list(windower.feed(1000 + times, samples(times)))) == 1
    windower.reset()
    found = list(windower.feed(times, samples(times)))
    assert [window.start for window in found] == [0.0]
    assert windower.dropped == {Dropped.GAP: 2}


def test_quality_begins_and_ends_with_its_samples_across_blocks() -> None:
    windower = Windower(spec(4, 4), 2)
    found = []
    for i in range(2000):  # more than fits into the buffer at once
        times = (8 * i + np.arange(8)) / RATE
        marks = np.zeros((2, 8), np.uint8)
        marks[1, 5] = 2
        found += windower.feed(times, samples(times), marks if i % 3 == 1 else None)
    assert [None if w.quality is None else w.quality.tolist() for w in found[:6]] == [None] * 3 + [[0, 2], None, None]
    assert [i for i, w in enumerate(found) if w.quality is not None] == list(range(3, 4000, 6))


def test_a_step_tells_another_rate_from_a_slow_logger_that_skips() -> None:
    skips = np.array([0, 1, 2, 3, 5, 6, 8, 9]) / RATE
    (window,) = Windower(spec(8, 8, max_gap=3), 2).feed(skips, samples(skips))
    assert window.step_s == pytest.approx(1 / RATE)
    for pace in (0.5, 2.0):
        times = pace * np.arange(8) / RATE
        (window,) = Windower(spec(8, 8, max_gap=3), 2).feed(times, samples(times))
        assert window.step_s == pytest.approx(pace / RATE)


def test_shapes_that_do_not_fit_are_refused() -> None:
    windower = Windower(spec(), 2)
    for times, values in ((np.arange(3.0), np.zeros((2, 4))), (np.arange(4.0), np.zeros((3, 4))), (0.0, np.zeros(4))):
        with pytest.raises(ValueError, match="want"):
            windower.feed(times, values.astype(np.float32))
    with pytest.raises(ValueError, match="want quality"):
        windower.feed(np.arange(4.0), np.zeros((2, 4), np.float32), np.zeros((2, 3), np.uint8))
    assert windower.fed == 0
