"""A source's clock that was set back, and what only looks like it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.sensors import resampled
from edge_agent.sensors.channel import Channel
from edge_agent.sensors.resampled import Joiner
from models.setback import HELD_SAMPLES, Piece, SetBack

T = 1_772_000_000.0


def block(start: float, n: int = 10, rate: float = 10.0) -> NDArray[np.float64]:
    return start + np.arange(n) / rate


class Line:
    """Blocks as they come, with the time at which they do."""

    def __init__(self) -> None:
        self.watch, self.now, self.sets = SetBack(), 100.0, 0
        self.given: list[Piece] = []

    def take(self, times: NDArray[np.float64], after: float = 1.0) -> None:
        self.now += after
        pieces, set_back = self.watch.take(times, None, self.now)
        self.given += pieces
        self.sets += set_back


def starts(line: Line) -> list[float]:
    return [float(p.times[0]) - T for p in line.given]


def test_a_clock_set_back_is_told_and_no_block_is_lost() -> None:
    line = Line()
    for t in (0, 1, 2):
        line.take(block(T + t))
    for t in (-3600, -3599, -3598, -3597):
        line.take(block(T + t))
    assert line.sets == 1
    assert starts(line) == [0, 1, 2, -3600, -3599, -3598, -3597]


def test_long_blocks_of_a_clock_set_back_are_told_too() -> None:
    line = Line()
    for t in (0, 60, -3600, -3540, -3480):
        line.take(block(T + t, 600), after=60.0)
    assert line.sets == 1
    assert starts(line) == [0, 60, -3600, -3540, -3480]


def test_a_block_that_comes_twice_a_backlog_and_what_comes_out_of_order_are_late() -> None:
    line = Line()
    for t in (0, 1, 2, 1, 1, 1, 1, 3):  # the same again and again
        line.take(block(T + t))
    for t in range(-50, -20):  # a backlog, faster than it was measured
        line.take(block(T + t), after=0.01)
    for t in (5, -10, 6, -9, 7, -8, 8):  # old ones between new ones
        line.take(block(T + t))
    assert line.sets == 0
    assert len(line.given) == 8 + 30 + 7


def test_what_is_held_is_bounded() -> None:
    line = Line()
    line.take(block(T))
    for t in range(5):
        line.take(block(T - 1e6 + t, HELD_SAMPLES // 2, 1e6), after=0.1)
    assert len(line.given) >= 4


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1.0, 1.0, 1.0, -5.0, -3600.0, 7.0]), st.floats(0.0, 2.0)), max_size=40))
def test_every_block_is_given_on_once_or_held(steps: list[tuple[float, float]]) -> None:
    line, t = Line(), T
    for step, after in steps:
        t += step
        line.take(block(t), after)
    given = [id(p.times) for p in line.given]
    assert len(given) == len(set(given))
    assert len(given) + len(line.watch._held) == len(steps)


def test_signals_on_a_grid_go_on_when_their_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(resampled.time, "monotonic", lambda: now)
    joiner = Joiner([Channel(name="a"), Channel(name="b")], 1.0, 1.0)
    given: list[float] = []
    for t in (*range(10), *range(-3600, -3590)):
        now += 1.0
        for i in range(2):
            joiner.add(i, np.array([T + t]), np.array([float(t)]))
        given += [at - T for part in joiner.take() for at in part.times.tolist()]
    assert given == [*range(10), *range(-3600, -3590)]
    assert joiner.counts["clock_set_back"] == 1


def test_a_leap_of_our_own_clock_loses_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at a start without a battery, when the time is heard of: the sender's clock has not leapt."""
    joiner = Joiner([Channel(name="a"), Channel(name="b")], rate_hz=1.0, period_s=1.0)
    offset = 0.0
    monkeypatch.setattr(resampled.time, "time", lambda: 1_000_000.0 + time.monotonic() + offset)
    began, blocks = time.monotonic(), []
    for n in range(20):
        offset = 3600.0 if n >= 10 else 0.0
        monkeypatch.setattr(resampled.time, "monotonic", lambda n=n: began + n)
        for i in range(2):
            joiner.add(i, np.array([float(n)]), np.array([float(n)]))
        joiner.heard(float(n))
        joiner.alive(1.0)
        blocks += joiner.take()
    assert sum(block.times.size for block in blocks) >= 18
    assert not joiner.counts["samples_late"]
