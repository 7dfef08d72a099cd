"""A source's clock that was set back, told from blocks that come twice, out of order, or as a backlog.

Whole blocks that are all older than what was there before are held. They are the clock's doing if at least BLOCKS of
them run on in order, over LEAST_S, no faster than time itself, with nothing newer between: then time begins anew with
the first of them, and none is lost. Otherwise they are given on as what they are: late.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

BLOCKS: Final = 3
LEAST_S: Final = 2.0
FASTER: Final = 2.0  # a backlog comes faster than it was measured
HELD_SAMPLES: Final = 2**20  # of late blocks, at most


class Piece(NamedTuple):
    """A block's times, float64[n] in epoch seconds, and whatever goes with them."""

    times: npt.NDArray[np.float64]
    rest: Any


class SetBack:
    """Of one source, or of one signal where each has times of its own. Pure: it is told the time."""

    def __init__(self) -> None:
        self._held: list[Piece] = []
        self._newest = self._newest_held = -np.inf
        self._began = (0.0, 0.0)  # the end of the first block held, and when it came

    def take(self, times: npt.NDArray[np.float64], rest: Any, now: float) -> tuple[list[Piece], bool]:
        """A block as it comes, `now` in monotonic seconds.

        Returns:
            The blocks to go on with, and whether the clock was set back before the first of them.
        """
        piece = Piece(times, rest)
        finite = times[np.isfinite(times)]
        if not finite.size:
            return [piece], False
        newest = float(finite.max())
        if newest >= self._newest:  # of two at one time the later may count
            self._newest = newest
            return [*self._let_go(), piece], False
        if newest <= self._newest_held:
            return [piece], False
        if not self._held:
            self._began = newest, now
        self._held.append(piece)
        self._newest_held = newest
        lasted, took = newest - self._began[0], now - self._began[1]
        if lasted > FASTER * took + LEAST_S or sum(p.times.size for p in self._held) > HELD_SAMPLES:
            return self._let_go(), False
        if len(self._held) < BLOCKS or lasted < LEAST_S or lasted > FASTER * took:
            return [], False
        return self.begin_anew(), True

    def begin_anew(self) -> list[Piece]:
        """What was held is the newest there is. Also where another signal of the same source has told."""
        self._newest = self._newest_held
        return self._let_go()

    def _let_go(self) -> list[Piece]:
        held, self._held, self._newest_held = self._held, [], -np.inf
        return held
