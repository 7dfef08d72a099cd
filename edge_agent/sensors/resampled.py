"""Signals on one grid: for sources whose signals come each at its own times, and for irregular ones where asked."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.sensors.base import Block, LiveSource, Source
from edge_agent.sensors.channel import PERIODS, Channel, Report, Resample
from models.contract.signals import Signal
from models.grid import Grid
from models.setback import SetBack

if TYPE_CHECKING:
    from models.report import Reporter

LIVE_HOLE_S: Final = 5.0  # at least: a busy machine may not look for so long, and nothing was missed


class Joiner:
    """Channels with their report policies, and the grid that joins them."""

    def __init__(
        self,
        channels: Sequence[Channel],
        rate_hz: float,
        period_s: float,
        hole_s: float | None = None,
        counts: Counter[str] | None = None,
    ) -> None:
        self.counts = Counter() if counts is None else counts
        self._reporters = [_reporter(channel.report) for channel in channels]
        self._set_backs = [SetBack() for _ in channels]  # all signals of a source go by one clock
        self._before: list[Block] = []  # complete when the clock was set back
        lines = [channel.line(period_s) for channel in channels]
        self._grid = Grid(rate_hz, lines, hole_s)
        self._behind: deque[float] = deque(maxlen=64)  # a clock that does not leap, less the sender's, and the way here

    def add(
        self, i: int, times: NDArray[np.float64], values: NDArray[np.float64], quality: NDArray[np.uint8] | None = None
    ) -> None:
        """Samples of channel `i`."""
        pieces, set_back = self._set_backs[i].take(times, (values, quality), time.monotonic())
        if set_back:
            self.counts["clock_set_back"] += 1
            self._before = list(self.cut(anew=True))
        for piece in pieces:
            self._add(i, piece.times, *piece.rest)
        for j, other in enumerate(self._set_backs if set_back else ()):
            for piece in other.begin_anew() if j != i else ():
                self._add(j, piece.times, *piece.rest)

    def _add(
        self, i: int, times: NDArray[np.float64], values: NDArray[np.float64], quality: NDArray[np.uint8] | None
    ) -> None:
        if reporter := self._reporters[i]:
            marks = np.zeros(times.size, np.uint8) if quality is None else quality
            news = reporter.news(times, values, marks)
            self._grid.add(i, times[news], values[news], marks[news])
            self._grid.pass_over(i, float(times.max(initial=-np.inf)))
        else:
            self._grid.add(i, times, values, quality)

    def add_block(self, block: Block) -> None:
        """Samples of all channels."""
        for i, row in enumerate(block.values):
            self.add(i, block.times, row.astype(np.float64), None if block.quality is None else block.quality[i])

    def heard(self, stamp: float) -> None:
        """Something with this time of its sender's has come just now."""
        self._behind.append(time.monotonic() - stamp)

    def alive(self, wait_s: float) -> None:
        """The source is there and has nothing new: what is older than `wait_s`, by its own clock, is complete."""
        if self._behind:
            self._grid.advance(time.monotonic() - min(self._behind) - wait_s)

    def cut(self, *, anew: bool = False) -> Iterator[Block]:
        """What is complete; then nothing is held any more. `anew`: times may run back."""
        yield from self.take()
        self._grid.cut(anew=anew)
        self._behind.clear()
        for reporter in filter(None, self._reporters):
            reporter.forget()

    def take(self) -> Iterator[Block]:
        before, self._before = self._before, []
        yield from before
        while given := self._grid.take():
            yield Block(given.times, given.values, quality=given.quality if given.quality.any() else None)
        for cause, n in self._grid.dropped.items():
            self.counts[f"samples_{cause}"] = n
        if held_back := sum(reporter.held_back for reporter in self._reporters if reporter):
            self.counts["held_back"] = held_back


def _reporter(report: Report) -> Reporter | None:
    """None: every sample is news."""
    if not report.filters:
        return None
    from models.report import Reporter  # loads the compiled kernels

    return Reporter("change" in report.on, report.dead_band, report.period_s)


class JoinedSource(LiveSource):
    """A source whose signals come each at its own times.

    `wait_s`: how late a sample may come, where the source tells nothing of a signal that does not change; None: it
    brings all of them each time.
    """

    def __init__(
        self, asset: str, channels: Sequence[Channel], rate_hz: float, period_s: float, wait_s: float | None = None
    ) -> None:
        super().__init__(asset, tuple(channel.signal for channel in channels), rate_hz)
        self.period_s: float | None = period_s
        self._wait_s = wait_s
        hole_s = max(LIVE_HOLE_S, PERIODS * period_s)
        self.joiner = Joiner(channels, rate_hz, period_s, hole_s, self.counts)

    def idle(self) -> Iterator[Block]:
        if self.connected and self._wait_s is not None:
            self.joiner.alive(self._wait_s)
            yield from self.joiner.take()

    def cut(self) -> Iterator[Block]:
        yield from self.joiner.cut()


def joiner(signals: Sequence[Signal], rate_hz: float, settings: Resample, reports: Sequence[Report] = ()) -> Joiner:
    """For signals that come together, at about that rate."""
    reports = reports or [Report()] * len(signals)
    channels = [
        Channel(name=signal.name, report=report, method=settings.method)
        for signal, report in zip(signals, reports, strict=True)
    ]
    return Joiner(channels, settings.rate_hz, settings.period_s or max(1 / rate_hz, 1 / settings.rate_hz))


class Resampled:
    """A source of blocks, put onto a grid."""

    def __init__(self, source: Source, settings: Resample, reports: Sequence[Report] = ()) -> None:
        self._source = source
        self.signals, self.rate_hz, self.ends = source.signals, settings.rate_hz, source.ends
        self.period_s = source.period_s
        self._joiner = joiner(source.signals, source.rate_hz, settings, reports)

    @property
    def dropped(self) -> int:
        return self._source.dropped

    @property
    def unreadable(self) -> int:
        return self._source.unreadable

    @property
    def counts(self) -> Counter[str]:
        return self._source.counts + self._joiner.counts

    def stop(self) -> None:
        self._source.stop()

    def blocks(self) -> Iterator[Block | None]:
        begins: str | None = None
        for block in self._source.blocks():
            if block is None:
                yield None
                continue
            if block.begins:
                yield from self._joiner.cut(anew=True)
                begins = block.begins
            if block.late:
                yield block
                continue
            self._joiner.add_block(block)
            for joined in self._joiner.take():
                yield joined._replace(begins=begins)
                begins = None
