"""Windows to features, scores, alarm episodes and what is sent of them.

One Pipeline an asset. Each model in use has a Judge for it: the bundle that runs, and during a trial the candidate, on
the same windows. An episode is open while either of them says so; one that only the candidate sees is marked `trial`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import random
import statistics
import threading
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from edge_agent.bundles import write_whole
from edge_agent.config import Asset
from edge_agent.errors import BundleRejected
from models import selfref
from models.bundle.files import BadBundle, Bundle
from models.contract.base import ModelRef
from models.contract.features import FEATURE_SET, vector_names
from models.contract.ids import new_trace_id
from models.contract.messages import (
    AlarmEvent,
    AssetHealth,
    Body,
    Column,
    Driver,
    FaultOfSensor,
    Phase,
    SampledWindow,
    ScoredWindows,
    SensorFault,
    TrialReport,
)
from models.contract.signals import Signal, WindowSpec
from models.features.extract import extract, warm_up
from models.scoring import Scored, Scorer
from models.windows import Window, Windower

UPDATE_EVERY_S: Final = 10.0  # an open episode is told again at most so often,
UPDATE_STEP: Final = 0.05  # and only when its score has risen by so much
LOG_WINDOWS: Final = 256  # the prediction log is sent when so many windows are in it,
LOG_SECONDS: Final = 2.0  # or when the first of them is so old
HARD_BAND: Final = 0.1  # a score this close to the threshold is a hard example
N_DRIVERS: Final = 5


class Seen(NamedTuple):
    """What one judge makes of one window."""

    scored: Scored
    smooth: float  # the median of the last scores: what the alarm rule looks at
    over: bool  # smooth is at or over the threshold
    open: bool  # an episode is open
    latency_us: float


class Judge:
    """One model and one asset: reference, smoothing, hysteresis."""

    def __init__(
        self, asset: str, scorer: Scorer, signals: tuple[Signal, ...], spec: WindowSpec, folder: Path | None
    ) -> None:
        """Raises BundleRejected if the bundle does not fit the asset."""
        manifest = scorer.manifest
        names = [s.name for s in signals]
        if manifest.window is not None and manifest.window != spec:
            raise BundleRejected(manifest.name, f"trained on windows of {manifest.window}, this asset has {spec}")
        if manifest.signals is not None and not {s.name for s in manifest.signals} <= set(names):
            raise BundleRejected(manifest.name, f"it needs signals {', '.join(s.name for s in manifest.signals)}")
        try:
            self._positions = scorer.positions(vector_names(names))
        except BadBundle as exc:
            raise BundleRejected(manifest.name, str(exc)) from exc
        self.scorer, self.rule = scorer, manifest.alarm
        self._names = vector_names(names)
        self._recent: deque[float] = deque(maxlen=self.rule.smooth)
        self._over = self._under = 0
        self.open = False
        self._selection = selfref.select(names, spec.rate_hz)
        self._overlap = max(1.0, spec.n_samples / spec.hop)
        self._learned: list[NDArray[np.float64]] = []
        self._to_learn = math.ceil(manifest.novelty.learn * self._overlap)
        self._file = folder / f"{_reference_name(asset, names, spec, scorer.bundle.sha256)}.npz" if folder else None
        self.reference = self._load_reference() if scorer.learns_on_device else None

    @property
    def learning(self) -> bool:
        return self.scorer.learns_on_device and self.reference is None

    def learn(self, vector: NDArray[np.float64]) -> None:
        """One more window of what is normal; enough of them, and learning is over."""
        self.gather(vector)
        if len(self._learned) >= self._to_learn:
            with contextlib.suppress(selfref.TooFew):  # the settings asked for fewer than it takes: go on learning
                self.finish_learning()

    def gather(self, vector: NDArray[np.float64]) -> None:
        """One more window of what is normal."""
        self._learned.append(vector.copy())

    def learn_anew(self, n_windows: int) -> None:
        """Forget what is normal, and learn it from the next `n_windows`."""
        self.reference, self._to_learn = None, n_windows
        self._learned.clear()
        self._recent.clear()
        self._over = self._under = 0
        self.open = False

    def finish_learning(self) -> None:
        """Fix what is normal by the windows seen so far. Raises selfref.TooFew."""
        self.reference = selfref.fit(np.array(self._learned), self._selection, self._overlap)
        self._learned.clear()
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(".tmp.npz")
            np.savez(temporary, **self.reference._asdict())
            write_whole(self._file, temporary.read_bytes())
            temporary.unlink()

    def see(self, vector: NDArray[np.float64]) -> Seen:
        """Score one window and move the episode along."""
        began = time.perf_counter()
        inputs = self._selection.apply(vector) if self.reference is not None else vector[self._positions]
        scored = self.scorer.score(inputs, self.reference)
        self._recent.append(scored.score if math.isfinite(scored.score) else 0.0)
        smooth = statistics.median(self._recent) if len(self._recent) > 1 else self._recent[0]
        over = smooth >= self.rule.raise_at
        self._over = self._over + 1 if over else 0
        self._under = self._under + 1 if smooth < self.rule.clear_at else 0
        if not self.open:
            self.open = self._over >= self.rule.raise_after
        elif self._under >= self.rule.clear_after:
            self.open = False
        return Seen(scored, smooth, over, self.open, (time.perf_counter() - began) * 1e6)

    def drivers(self, vector: NDArray[np.float64]) -> tuple[Driver, ...]:
        """The features furthest from what is usual, in usual spreads."""
        if self.reference is not None:
            indexes = self._selection.indexes
            values, usual = self._selection.apply(vector), self.reference.center
            norms = np.linalg.norm(self.reference.whiten, axis=1)
            off = np.abs(values - usual) * norms
        elif self.scorer.manifest.usual:
            indexes = self._positions
            values = vector[indexes]
            usual = np.array([u.center for u in self.scorer.manifest.usual])
            off = np.abs(values - usual) / np.array([u.spread for u in self.scorer.manifest.usual])
        else:
            return ()
        top = [i for i in np.argsort(-off)[:N_DRIVERS] if math.isfinite(off[i]) and off[i] > 0]
        return tuple(
            Driver(
                feature=self._names[indexes[i]], value=float(values[i]), usual=float(usual[i]), deviation=float(off[i])
            )
            for i in top
        )

    def _load_reference(self) -> selfref.Reference | None:
        if self._file is None or not self._file.exists():
            return None
        try:
            with np.load(self._file) as stored:
                return selfref.Reference(stored["center"], stored["whiten"], float(stored["limit"]))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None  # an unreadable one is learned again


class _Pairs:
    """What a trial has shown: both models on the same windows, over all assets."""

    def __init__(self) -> None:
        self.n = self.non_finite = self.candidate_over = self.previous_over = 0
        self.quiet_shifts: list[float] = []  # on windows that did not alarm the previous model
        self.scores: set[float] = set()  # of the candidate: the least and the largest
        self.latencies: tuple[list[float], list[float]] = ([], [])

    def add(self, candidate: Seen, previous: Seen) -> None:
        self.n += 1
        if not math.isfinite(candidate.scored.score):
            self.non_finite += 1
            return
        self.candidate_over += candidate.over
        self.previous_over += previous.over
        if not previous.over:
            self.quiet_shifts.append(candidate.scored.score - previous.scored.score)
        scores = self.scores | {candidate.scored.score}
        self.scores = {min(scores), max(scores)}
        self.latencies[0].append(candidate.latency_us)
        self.latencies[1].append(previous.latency_us)

    def report(self) -> TrialReport:
        n = max(self.n, 1)
        return TrialReport(
            windows=self.n,
            candidate_alarm_share=self.candidate_over / n,
            previous_alarm_share=self.previous_over / n,
            non_finite=self.non_finite,
            candidate_latency_us=statistics.median(self.latencies[0] or [0.0]),
            previous_latency_us=statistics.median(self.latencies[1] or [0.0]),
            candidate_spread=max(self.scores) - min(self.scores) if self.scores else None,
        )


class _Log:
    """The prediction log of one asset and model, in columns."""

    def __init__(self, asset: str, model: ModelRef, classes: tuple[str, ...]) -> None:
        self.asset, self.model, self.classes = asset, model, classes
        self._rows: list[tuple[UUID, float, float, float, bool, int, float]] = []
        self._since = math.inf

    def add(self, trace: UUID, window: Window, seen: Seen) -> None:
        fault = self.classes.index(seen.scored.fault_class) if seen.over and seen.scored.fault_class else 255
        self._rows.append((trace, window.start, window.end, seen.scored.score, seen.over, fault, seen.latency_us))
        self._since = min(self._since, time.monotonic())

    @property
    def due(self) -> bool:
        return len(self._rows) >= LOG_WINDOWS or time.monotonic() - self._since > LOG_SECONDS

    def take(self) -> ScoredWindows | None:
        """The message, and an empty log."""
        rows, self._rows, self._since = self._rows, [], math.inf
        if not rows:
            return None
        traces, starts, ends, scores, over, faults, latencies = zip(*rows, strict=True)
        return ScoredWindows(
            trace_id=traces[-1],
            made_at=datetime.now(UTC),
            asset=self.asset,
            model=self.model,
            n=len(rows),
            trace=Column.of("uuid", b"".join(t.bytes for t in traces)),
            start_us=Column.of("i8", (np.array(starts) * 1e6).round().astype("<i8").tobytes()),
            end_us=Column.of("i8", (np.array(ends) * 1e6).round().astype("<i8").tobytes()),
            score=Column.of("f4", np.array(scores, "<f4").tobytes()),
            alarm=Column.of("u1", np.array(over, "u1").tobytes()),
            fault_class=Column.of("u1", np.array(faults, "u1").tobytes()),
            latency_us=Column.of("f4", np.array(latencies, "<f4").tobytes()),
            classes=self.classes,
        )


class _Episode:
    """An open alarm."""

    def __init__(self, event_id: UUID, trace: UUID, opened_at: datetime) -> None:
        self.event_id, self.trace, self.opened_at = event_id, trace, opened_at
        self.told_score = 0.0
        self.told_at = 0.0


class Pipeline:
    """One asset from samples to messages. Not for several threads; the Detector holds its lock around it."""

    def __init__(self, asset: Asset, signals: tuple[Signal, ...], spec: WindowSpec, folder: Path | None) -> None:
        self.asset, self.signals, self.spec, self._folder = asset, signals, spec, folder
        self.names = vector_names(s.name for s in signals)
        self._windower = Windower(spec, len(signals))
        self._vector = np.empty(len(self.names))
        self._episode: _Episode | None = None
        self._bad_signal: tuple[str, FaultOfSensor] | None = None
        self._dice = random.Random()  # noqa: S311 - picks windows to send, guards nothing
        self.current: Judge | None = None
        self.candidate: Judge | None = None
        self._logs: dict[str, _Log] = {}
        self.windows = 0
        self.dropped: Counter[str] = Counter()
        self.last_sample: float | None = None
        self.quiet: Literal["silent", "ended"] | None = None  # the source gives nothing, and whether that is a fault
        self.last: Seen | None = None
        self.latencies: deque[float] = deque(maxlen=1000)

    def judge(self, scorer: Scorer) -> Judge:
        """A judge for this asset. Raises BundleRejected."""
        return Judge(self.asset.id, scorer, self.signals, self.spec, self._folder)

    def feed(self, times: NDArray[np.float64], values: NDArray[np.float32], pairs: _Pairs) -> Iterator[Body]:
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
        self._episode.told_score, self._episode.told_at = event.score, time.monotonic()
        self.current.open = True
        return True

    def begin_recording(self) -> None:
        """A new recording begins: nothing in it is in a row with what was before. Where the settings say how much of
        each recording is known to be normal, that is learned from it anew."""
        self._windower.reset()
        rows = self.asset.csv.normal_rows if self.asset.csv else None
        if rows and self.current and self.current.scorer.learns_on_device:
            self.current.learn_anew(max(8, (rows - self.spec.n_samples) // self.spec.hop + 1))

    def see(self, window: Window, pairs: _Pairs) -> Iterator[Body]:
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
            return
        current = self.current.see(vector)
        candidate = self.candidate.see(vector) if self.candidate and not self.candidate.learning else None
        self.last = current
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
            made_at=datetime.now(UTC),
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
        log = self._logs.setdefault(bundle.sha256, _Log(self.asset.id, bundle.ref, classes))
        log.add(trace, window, seen)
        if log.due and (message := log.take()):
            yield message

    def _move_episode(
        self, trace: UUID, window: Window, judge: Judge, seen: Seen, trial: bool, vector: NDArray[np.float64]
    ) -> Iterator[Body]:
        episode, now = self._episode, time.monotonic()
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
        return AlarmEvent(
            trace_id=trace,
            made_at=datetime.now(UTC),
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
            drivers=judge.drivers(vector),
            trial=trial,
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
                "made_at": datetime.now(UTC),
                "asset": self.asset.id,
                "window_start": _instant(window.start),
                "window_end": _instant(window.end),
                "reason": reason,
                "probability": share,
                "score": min(1.0, max(0.0, seen.scored.score)),
                "model": self.current.scorer.bundle.ref,
                "feature_set": FEATURE_SET,
                "features": dict(zip(self.names, map(float, vector), strict=True)),
            }
        )


class Detector:
    """All assets of the device, and the models they are scored with. The Engine of a Rollout."""

    def __init__(self, pipelines: Sequence[Pipeline], put: Callable[[list[Body]], object]) -> None:
        self.pipelines = {p.asset.id: p for p in pipelines}
        self._put = put
        self._lock = threading.RLock()  # a model is changed between two windows, never within one
        self._pairs = _Pairs()
        for p in pipelines:
            warm_up(len(p.signals), p.spec.n_samples)

    def feed(self, asset: str, times: NDArray[np.float64], values: NDArray[np.float32]) -> None:
        """A block of samples; what comes of it is in the outbox when this returns."""
        with self._lock:
            bodies = list(self.pipelines[asset].feed(times, values, self._pairs))
        if bodies:
            self._put(bodies)

    def begin_recording(self, asset: str) -> None:
        """The next block of this asset is the first of another recording."""
        with self._lock:
            self.pipelines[asset].begin_recording()

    def flush(self, force: bool = False) -> None:
        """Send the prediction logs that are due."""
        with self._lock:
            bodies = [body for p in self.pipelines.values() for body in p.flush(force)]
        if bodies:
            self._put(bodies)

    def health(self) -> dict[str, AssetHealth]:
        with self._lock:
            return {asset: p.health() for asset, p in self.pipelines.items()}

    def latencies(self) -> tuple[float, float] | None:
        """Median and 99th percentile, in microseconds, of the last windows: complete to decision."""
        with self._lock:
            all_us = [us for p in self.pipelines.values() for us in p.latencies]
        if not all_us:
            return None
        return float(np.percentile(all_us, 50)), float(np.percentile(all_us, 99))

    # -- the Engine of a Rollout --------------------------------------------------------------------------------

    def check(self, bundle: Bundle) -> None:
        """Raises BundleRejected unless it loads, fits every asset and gives its golden scores."""
        try:
            scorer = Scorer(bundle)
            scorer.check_canary()
        except BadBundle as exc:
            raise BundleRejected(f"{bundle.manifest.name} {bundle.manifest.version}", str(exc)) from exc
        for pipeline in self.pipelines.values():
            pipeline.judge(scorer)

    def run(self, bundle: Bundle) -> None:
        scorer = Scorer(bundle)
        judges = {asset: p.judge(scorer) for asset, p in self.pipelines.items()}
        with self._lock:
            for asset, p in self.pipelines.items():
                promoted = p.candidate if p.candidate and p.candidate.scorer.bundle.sha256 == bundle.sha256 else None
                if (
                    p.current and p.current.open
                ):  # an open alarm goes on; the new model ends it by the rule, or does not
                    judges[asset].open = True
                p.current, p.candidate = promoted or judges[asset], None
        self.flush(force=True)

    def try_out(self, bundle: Bundle) -> None:
        scorer = Scorer(bundle)
        judges = {asset: p.judge(scorer) for asset, p in self.pipelines.items()}
        with self._lock:
            self._pairs = _Pairs()
            for asset, p in self.pipelines.items():
                p.candidate = judges[asset]

    def end_trial(self) -> None:
        with self._lock:
            for p in self.pipelines.values():
                p.candidate = None
        self.flush(force=True)

    def trial(self) -> TrialReport | None:
        with self._lock:
            on_trial = any(p.candidate for p in self.pipelines.values())
            return self._pairs.report() if on_trial else None

    def mean_shift(self) -> float:
        with self._lock:
            return statistics.fmean(self._pairs.quiet_shifts or [0.0])


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _reference_name(asset: str, signals: Sequence[str], spec: WindowSpec, sha256: str) -> str:
    return hashlib.sha256(repr((asset, tuple(signals), spec.model_dump(), sha256)).encode()).hexdigest()[:24]
