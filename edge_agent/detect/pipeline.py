"""One asset from samples to messages: windows, features, scores, alarm episodes and what is sent of them."""

from __future__ import annotations

import math
import random
import time
from collections import Counter, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from edge_agent.clock import SYSTEM, Clock
from edge_agent.config import Asset
from edge_agent.detect.judge import Judge, Seen
from edge_agent.detect.plot import NormalWindow
from edge_agent.detect.predictions import PredictionLog
from edge_agent.detect.shadow import Shadow
from edge_agent.detect.trial import Pairs
from models.contract.features import FEATURE_SET, vector_names
from models.contract.ids import new_trace_id
from models.contract.messages import (
    AlarmEvent,
    AssetHealth,
    Body,
    FaultOfSensor,
    Phase,
    SampledWindow,
    SensorFault,
)
from models.contract.signals import Signal, WindowSpec
from models.features.extract import extract
from models.scoring import Scorer
from models.windows import Window, Windower

UPDATE_EVERY_S: Final = 10.0  # an open episode is told again at most so often,
UPDATE_STEP: Final = 0.05  # and only when its score has risen by so much
HARD_BAND: Final = 0.1  # a score this close to the threshold is a hard example


class _Episode:
    """An open alarm."""

    def __init__(self, event_id: UUID, trace: UUID, opened_at: datetime) -> None:
        self.event_id, self.trace, self.opened_at = event_id, trace, opened_at
        self.told_score = 0.0
        self.told_at = 0.0


class Pipeline:
    """One asset from samples to messages. Not for several threads; the Detector holds its lock around it."""

    def __init__(
        self,
        asset: Asset,
        signals: tuple[Signal, ...],
        spec: WindowSpec,
        folder: Path | None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._clock = clock
        self.asset, self.signals, self.spec, self._folder = asset, signals, spec, folder
        self.names = vector_names(s.name for s in signals)
        self._windower = Windower(spec, len(signals))
        self._vector = np.empty(len(self.names))
        self._episode: _Episode | None = None
        self._bad_signal: tuple[str, FaultOfSensor] | None = None
        self._normal = NormalWindow(signals, spec)
        self._dice = random.Random()  # noqa: S311 - picks windows to send, guards nothing
        self.current: Judge | None = None
        self.candidate: Judge | None = None
        self.shadow: Shadow | None = None
        self._logs: dict[str, PredictionLog] = {}
        self.windows = 0
        self.dropped: Counter[str] = Counter()
        self.last_sample: float | None = None
        self.quiet: Literal["silent", "ended"] | None = None  # the source gives nothing, and whether that is a fault
        self.last: Seen | None = None
        self.latencies: deque[float] = deque(maxlen=1000)

    def judge(self, scorer: Scorer) -> Judge:
        """A judge for this asset. Raises BundleRejected."""
        return Judge(self.asset.id, scorer, self.signals, self.spec, self._folder)

    def feed(self, times: NDArray[np.float64], values: NDArray[np.float32], pairs: Pairs) -> Iterator[Body]:
        """What is to be sent for a block: times float64[n] in epoch seconds, values float32[n_signals, n]."""
        if times.size:
            self.last_sample, self.quiet = float(times[-1]), None
        for window in self._windower.feed(times, values):
            yield from self.see(window, pairs)

    def resume(self, event: AlarmEvent) -> bool:
        """Go on with an episode that was open when the agent ended. False: it can not be told how it went on."""
        if self._episode or event.trial or self.current is None or self.current.learning:
            return False
        self._episode = _Episode(event.event_id, event.trace_id, event.opened_at)
        self._episode.told_score, self._episode.told_at = event.score, self._clock.monotonic()
        self.current.open = True
        return True

    def begin_recording(self) -> None:
        """A new recording begins: nothing in it is in a row with what was before. Where the settings say how much of
        each recording is known to be normal, that is learned from it anew."""
        self._windower.reset()
        rows = self.asset.csv.normal_rows if self.asset.csv else None
        if rows and self.current and self.current.scorer.learns_on_device:
            self.current.learn_anew(max(8, (rows - self.spec.n_samples) // self.spec.hop + 1))

    def see(self, window: Window, pairs: Pairs) -> Iterator[Body]:
        """One window through features, scores and episode."""
        began = time.perf_counter()
        if fault := self._sensor_fault(window):
            self.dropped[fault[1]] += 1
            if fault != self._bad_signal:  # one fault, one message
                yield self._sensor_message(fault, window)
            self._bad_signal = fault
            return
        self._bad_signal = None
        assert self.current
        vector = extract(window.values, self._vector)
        if not np.isfinite(vector).all():  # beyond what float32 holds
            self.dropped["not_finite_features"] += 1
            return
        self.windows += 1
        if self.current.learning:
            self.current.learn(vector)
            self._normal.keep(window)
            return
        current = self.current.see(vector)
        candidate = self.candidate.see(vector) if self.candidate and not self.candidate.learning else None
        if self.candidate and self.candidate.learning and not current.over:
            self.candidate.learn(vector)
        if self.shadow:
            self.shadow.offer(self.asset.id, vector, current, self.current)
        self.last = current
        if not (current.over or current.open):
            self._normal.keep(window)
        trace = new_trace_id()
        latency_us = (time.perf_counter() - began) * 1e6
        self.latencies.append(latency_us)
        yield from self._log(trace, window, self.current, current._replace(latency_us=latency_us))
        if candidate and self.candidate:
            pairs.add(candidate, current)
            yield from self._log(trace, window, self.candidate, candidate)
        trial = candidate is not None and candidate.open and not current.open
        judge, seen = (self.candidate, candidate) if trial else (self.current, current)
        assert judge is not None
        assert seen is not None
        yield from self._move_episode(trace, window, judge, seen, trial, vector)
        if sample := self._sample(trace, window, current, vector):
            yield sample

    def flush(self, force: bool = False) -> Iterator[Body]:
        """The prediction log, when it is due."""
        for sha256, each in list(self._logs.items()):
            if (force or each.due) and (message := each.take()):
                yield message
            used = {j.scorer.bundle.sha256 for j in (self.current, self.candidate) if j}
            if sha256 not in used:
                del self._logs[sha256]

    def health(self) -> AssetHealth:
        state = "waiting" if self.last_sample is None else "learning"
        if self.current and not self.current.learning and self.last_sample is not None:
            state = "scoring"
        if self.quiet:
            state = self.quiet
        score = self.last.smooth if self.last else None
        return AssetHealth.model_validate(
            {
                "windows": self.windows,
                "dropped": dict(self.dropped) | {cause.value: n for cause, n in self._windower.dropped.items() if n},
                "last_sample_at": None if self.last_sample is None else _instant(self.last_sample),
                "state": state,
                "score": None if score is None else min(1.0, max(0.0, score)),
                "alarm": self._episode is not None,
                "kind": self.asset.kind,
                "hall": self.asset.hall,
                "code": self.asset.code,
                "window": self.spec,
                "signals": self.signals,
            }
        )

    # -- inside -------------------------------------------------------------------------------------------------

    def _sensor_fault(self, window: Window) -> tuple[str, FaultOfSensor] | None:
        finite = np.isfinite(window.values).all(axis=1)
        if not finite.all():
            return self.signals[int(np.argmin(finite))].name, FaultOfSensor.NOT_A_NUMBER
        for signal, samples in zip(self.signals, window.values, strict=True):
            low, high = signal.low, signal.high
            if (low is not None and samples.min() < low) or (high is not None and samples.max() > high):
                return signal.name, FaultOfSensor.OUT_OF_RANGE
        return None

    def _sensor_message(self, fault: tuple[str, FaultOfSensor], window: Window) -> SensorFault:
        return SensorFault(
            trace_id=new_trace_id(),
            made_at=self._clock.now(),
            asset=self.asset.id,
            signal=fault[0],
            fault=fault[1],
            since=_instant(window.start),
            detail="windows with it are not scored",
        )

    def _log(self, trace: UUID, window: Window, judge: Judge, seen: Seen) -> Iterator[Body]:
        if not math.isfinite(seen.scored.score):
            self.dropped["score_not_a_number"] += 1
            return
        bundle = judge.scorer.bundle
        classes = bundle.manifest.classifier.classes if bundle.manifest.classifier else ()
        log = self._logs.setdefault(bundle.sha256, PredictionLog(self.asset.id, bundle.ref, classes, self._clock))
        log.add(trace, window, seen)
        if log.due and (message := log.take()):
            yield message

    def _move_episode(
        self, trace: UUID, window: Window, judge: Judge, seen: Seen, trial: bool, vector: NDArray[np.float64]
    ) -> Iterator[Body]:
        episode, now = self._episode, self._clock.monotonic()
        if seen.open and episode is None:
            length = judge.rule.raise_after * self.spec.hop / self.spec.rate_hz
            episode = self._episode = _Episode(new_trace_id(), trace, _instant(window.end - length))
            yield self._alarm(Phase.RAISED, episode, trace, window, judge, seen, trial, vector)
        elif episode and not seen.open:
            self._episode = None
            yield self._alarm(Phase.CLEARED, episode, trace, window, judge, seen, trial, vector)
            return
        elif episode and seen.smooth > episode.told_score + UPDATE_STEP and now - episode.told_at > UPDATE_EVERY_S:
            yield self._alarm(Phase.UPDATED, episode, trace, window, judge, seen, trial, vector)
        else:
            return
        episode.told_score, episode.told_at = seen.smooth, now

    def _alarm(
        self,
        phase: Phase,
        episode: _Episode,
        trace: UUID,
        window: Window,
        judge: Judge,
        seen: Seen,
        trial: bool,
        vector: NDArray[np.float64],
    ) -> AlarmEvent:
        drivers = judge.drivers(vector)
        return AlarmEvent(
            trace_id=trace,
            made_at=self._clock.now(),
            event_id=episode.event_id,
            phase=phase,
            asset=self.asset.id,
            window_start=_instant(window.start),
            window_end=_instant(window.end),
            opened_at=min(episode.opened_at, _instant(window.end)),
            score=min(1.0, seen.smooth),
            threshold=judge.rule.raise_at,
            fault_class=seen.scored.fault_class,
            probabilities={name: min(1.0, max(0.0, p)) for name, p in seen.scored.probabilities.items()},
            model=judge.scorer.bundle.ref,
            feature_set=FEATURE_SET,
            features=dict(zip(self.names, map(float, vector), strict=True)),
            drivers=drivers,
            trial=trial,
            recorded=self.asset.source == "csv",
            plot=self._normal.against(window, drivers),
        )

    def _sample(self, trace: UUID, window: Window, seen: Seen, vector: NDArray[np.float64]) -> SampledWindow | None:
        """By chance any window, alarmed or not: no model shapes that sample. Else a hard one."""
        assert self.current
        share, reason = self.asset.sample_share, "reference"
        if self._dice.random() >= share:
            share, reason = (1 - share) * self.asset.hard_share, "hard"
            close = abs(seen.scored.score - self.current.rule.raise_at) < HARD_BAND
            if not close or self._dice.random() >= self.asset.hard_share:
                return None
        if not math.isfinite(seen.scored.score):
            return None
        return SampledWindow.model_validate(
            {
                "trace_id": trace,
                "made_at": self._clock.now(),
                "asset": self.asset.id,
                "window_start": _instant(window.start),
                "window_end": _instant(window.end),
                "reason": reason,
                "probability": share,
                "score": min(1.0, max(0.0, seen.scored.score)),
                "model": self.current.scorer.bundle.ref,
                "feature_set": FEATURE_SET,
                "features": dict(zip(self.names, map(float, vector), strict=True)),
                "recorded": self.asset.source == "csv",
            }
        )


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
