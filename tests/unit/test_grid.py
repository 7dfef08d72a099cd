"""Signals that come each at its own times, on one grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contract.signals import Quality
from models.grid import Grid, Gridded, Line, Method

T = 1_772_000_000.0


def everything(grid: Grid) -> Gridded:
    parts = []
    while part := grid.take():
        parts.append(part)
    if not parts:
        return Gridded(np.empty(0), np.empty((2, 0), np.float32), np.empty((2, 0), np.uint8))
    return Gridded(*(np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)))


def add(grid: Grid, signal: int, *pairs: tuple[float, float], quality: int = 0) -> None:
    times, values = zip(*pairs, strict=True)
    grid.add(signal, T + np.array(times, float), np.array(values, float), np.full(len(times), quality, np.uint8))


def test_each_way_onto_the_grid() -> None:
    grid = Grid(1.0, [Line(Method.HOLD, 3), Line(Method.LINEAR, 3), Line(Method.MEAN, 3)])
    for signal in range(3):
        add(grid, signal, (0, 0), (0.5, 10), (1.5, 30), (2.0, 50), (3.5, 80))
    given = everything(grid)
    assert given.times.tolist() == [T, T + 1, T + 2, T + 3]
    assert given.values[0].tolist() == [0, 10, 50, 50]
    assert given.values[1].tolist() == [0, 20, 50, 70]
    assert given.values[2].tolist() == [0, 10, 40, 50]  # none in (2, 3]: the last one


def test_a_value_holds_as_long_as_it_is_valid_and_without_end_on_change() -> None:
    grid = Grid(1.0, [Line(valid_s=2), Line(valid_s=math.inf)], hole_s=100)
    add(grid, 0, (0, 1))
    add(grid, 1, (0, 7))
    grid.advance(T + 5)
    given = everything(grid)
    assert given.values[0, :3].tolist() == [1, 1, 1]
    assert np.isnan(given.values[0, 3:]).all()
    assert given.values[1].tolist() == [7] * 6


def test_a_bad_sample_is_bridged_by_no_way_onto_the_grid() -> None:
    for method in Method:
        grid = Grid(1.0, [Line(method, 10)])
        add(grid, 0, (0, 1))
        add(grid, 0, (0.9, 5), quality=Quality.BAD)
        add(grid, 0, (2, 3), (3, 4))
        given = everything(grid)
        assert np.isnan(given.values[0]).tolist() == [False, True, False, False], method
        assert given.quality[0].tolist() == [0, 2, 0, 0], method


def test_doubt_goes_along_with_the_number() -> None:
    grid = Grid(1.0, [Line(valid_s=10)])
    add(grid, 0, (0, 1))
    add(grid, 0, (1, 2), quality=Quality.UNCERTAIN)
    add(grid, 0, (3, 3))
    given = everything(grid)
    assert given.values[0].tolist() == [1, 2, 2, 3]
    assert given.quality[0].tolist() == [0, 1, 1, 0]


def test_nothing_is_carried_over_a_hole_or_a_cut() -> None:
    grid = Grid(1.0, [Line(valid_s=math.inf)], hole_s=3)
    add(grid, 0, (0, 1), (1, 1))
    add(grid, 0, (600, 2))  # we, or the line, stood still for ten minutes
    assert (everything(grid).times - T).tolist() == [0, 1, 600]
    grid.cut()
    grid.advance(T + 700)
    assert everything(grid).times.size == 0
    add(grid, 0, (700, 5))
    assert (everything(grid).times - T).tolist() == [700]


def test_what_is_held_back_is_not_missing_and_holds_nobody_up() -> None:
    grid = Grid(1.0, [Line(valid_s=math.inf), Line(valid_s=3)])
    add(grid, 0, (0, 7))
    add(grid, 1, *((float(i), float(i)) for i in range(6)))
    grid.pass_over(0, T + 5)
    assert everything(grid).values[0].tolist() == [7] * 6


def test_late_samples_are_counted_and_the_newest_still_holds() -> None:
    grid = Grid(1.0, [Line(valid_s=10), Line(valid_s=10)], hole_s=20)
    add(grid, 0, (0, 1))
    add(grid, 1, (0, 1))
    grid.advance(T + 5)
    assert everything(grid).times.size == 6
    add(grid, 0, (3, 9), (2, 8))  # too late for the instants up to 5; the second also out of order
    add(grid, 0, (math.nan, 8))
    grid.advance(T + 6)
    assert everything(grid).values[0].tolist() == [9]
    assert grid.dropped == {"late": 2, "no_time": 1}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_grid_does_not_depend_on_how_samples_are_cut_into_blocks(data: st.DataObject) -> None:
    """And every instant comes once, in order, with the value that a slow look back finds."""
    n = data.draw(st.integers(2, 60))
    steps = data.draw(st.lists(st.sampled_from([0.1, 0.4, 1.0, 2.5, 7.0]), min_size=n, max_size=n))
    times = np.round(T + np.cumsum(steps), 3)
    values = np.arange(n, dtype=float)
    whole, pieces = (Grid(1.0, [Line(valid_s=3), Line(Method.LINEAR, 3)], hole_s=5) for _ in range(2))
    for signal in range(2):
        whole.add(signal, times, values)
    expected = everything(whole)
    cuts = sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=6))})
    parts = []
    for a, b in itertools.pairwise(cuts):
        for signal in range(2):
            pieces.add(signal, times[a:b], values[a:b])
        parts.append(everything(pieces))
    got_times = np.concatenate([p.times for p in parts])
    got = np.concatenate([p.values for p in parts], axis=1)
    assert got_times.tolist() == expected.times.tolist()
    assert np.array_equal(got, expected.values, equal_nan=True)
    assert (np.diff(got_times) > 0).all()
    for instant, value in zip(got_times, got[0], strict=True):
        before = np.flatnonzero(times <= instant)
        held = before.size and instant - times[before[-1]] <= 3
        assert value == values[before[-1]] if held else math.isnan(value)


def test_it_keeps_up_with_fast_signals() -> None:
    """25.6 kHz and a slow one beside it, far faster than it comes."""
    rate = 25_600.0
    grid = Grid(rate, [Line(valid_s=1), Line(valid_s=10)])
    n = 2560
    given = 0
    for block in range(40):
        times = T + (block * n + np.arange(n)) / rate
        grid.add(0, times, np.sin(times))
        grid.add(1, times[:1], np.array([20.0]))
        grid.pass_over(1, float(times[-1]))
        while part := grid.take():
            given += part.times.size
    assert given == pytest.approx(40 * n, abs=2)
