"""A challenger scored beside the model that runs, as far as its share of the processor goes. It raises nothing.

The windows are picked by the clock alone: one is scored when the processor time spent so far, over all assets, is under
`cpu_share` of the time gone by. What is in a window never decides, so the pairs are a fair sample. One window's scoring
at most is spent ahead, and a quiet hour saves up no more than a minute's share.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.clock import Clock
from edge_agent.detect.judge import Judge, Seen
from models.contract.base import ModelRef
from models.contract.ids import new_trace_id
from models.contract.messages import Assignment, ShadowReport
from models.paired import Paired

WAITING: Final = 64  # windows between two turns; more are not scored, and counted as seen
SAVED_S: Final = 60.0


class _Asset:
    """Since the report before."""

    def __init__(self, now: float) -> None:
        self.since, self.windows, self.cpu_s, self.pairs = now, 0, 0.0, Paired()


class Shadow:
    """One challenger, all assets. Not for several threads; the Detector holds its lock around it."""

    def __init__(self, order: Assignment, judges: Mapping[str, Judge], clock: Clock) -> None:
        self.order, self._judges, self._clock = order, judges, clock
        self._waiting: deque[tuple[str, str, NDArray[np.float64], Seen, Judge]] = deque(maxlen=WAITING)
        now = clock.monotonic()
        self._assets = {asset: _Asset(now) for asset in judges}
        self._credit_s, self._credited_at = 0.0, now
        self.failure: str | None = None

    def offer(self, asset: str, vector: NDArray[np.float64], seen: Seen, champion: Judge) -> None:
        """A window that the champion scored. Cheap: what it costs is spent in `work`, when the window is dealt with."""
        self._assets[asset].windows += 1
        self._waiting.append((asset, champion.mode, vector.copy(), seen, champion))

    def work(self) -> None:
        """Score what the share allows; the rest is passed over."""
        while self._waiting and self.failure is None:
            asset, mode, vector, seen, champion = self._waiting.popleft()
            if not self._may_spend():
                continue
            began = time.thread_time()
            try:
                self._score(asset, mode, vector, seen, champion)
            except Exception as exc:  # whatever it is: the champion must not suffer from it
                self.failure = f"it does not score: {exc}"[:300]
            spent = time.thread_time() - began
            self._assets[asset].cpu_s += spent
            self._credit_s -= spent
        self._waiting.clear()

    def reports(self, champions: Mapping[str, ModelRef], force: bool = False) -> Iterator[ShadowReport]:
        """What is due, by asset; and counting begins anew."""
        now, order = self._clock.monotonic(), self.order
        for asset, seen in self._assets.items():
            if not seen.windows or (now - seen.since < order.shadow.report_s and not force):
                continue
            self._assets[asset] = _Asset(now)
            yield ShadowReport(
                trace_id=new_trace_id(),
                made_at=self._clock.now(),
                assignment=order.sequence,
                rollout=order.rollout,
                asset=asset,
                champion=champions[asset],
                challenger=order.model,
                windows=seen.windows,
                scores=seen.pairs.take(),
                cpu_s=seen.cpu_s,
                wall_s=now - seen.since,
                cpu_share_cap=order.shadow.cpu_share,
            )

    def _score(self, asset: str, mode: str, vector: NDArray[np.float64], seen: Seen, champion: Judge) -> None:
        judge = self._judges[asset]
        judge.enter(mode)
        if judge.learning:
            if not seen.over:
                judge.learn(vector)
            return
        ours, theirs = judge.see(vector).scored.score, seen.scored.score
        # Over, window by window: smoothing and hysteresis mean nothing on a sample.
        self._assets[asset].pairs.add(ours, theirs, ours >= judge.rule.raise_at, theirs >= champion.rule.raise_at)

    def _may_spend(self) -> bool:
        now, share = self._clock.monotonic(), self.order.shadow.cpu_share
        self._credit_s = min(self._credit_s + share * (now - self._credited_at), share * SAVED_S)
        self._credited_at = now
        return self._credit_s > 0
