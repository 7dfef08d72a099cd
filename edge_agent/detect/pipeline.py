"""One asset from samples to messages: windows, features, scores, alarm episodes and what is sent of them."""

from __future__ import annotations

import math
import random
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from edge_agent.clock import SYSTEM, Clock
from edge_agent.config import Alarms, Asset
from edge_agent.detect.episodes import Episode, Episodes
from edge_agent.detect.judge import Judge, Seen, reference_name
from edge_agent.detect.modes import LEARNING, OFF, Modes
from edge_agent.detect.plot import NormalWindow
from edge_agent.detect.predictions import PredictionLog
from edge_agent.detect.sensors import FAMILY as SENSORS
from edge_agent.detect.sensors import Sensors
from edge_agent.detect.shadow import Shadow
from edge_agent.detect.trial import Pairs
from edge_agent.detect.wear import Wear
from edge_agent.errors import SourceFailed
from models import alarms
from models.alarms import NOVELTY, SUDDEN
from models.contract.alarms import Maintenance
from models.contract.events import AlarmEvent, Phase
from models.contract.features import FEATURE_SET
from models.contract.health import AssetHealth
from models.contract.ids import new_trace_id
from models.contract.messages import Body, Flag, SampledWindow
from models.contract.signals import Quality, Signal, WindowSpec
from models.features.extract import Extractor
from models.scoring import Scored, Scorer
from models.setback import Piece, SetBack
from models.suppress import Pattern
from models.windows import Window, Windower

UPDATE_EVERY_S: Final = 10.0  # an open episode is told again at most so often,
UPDATE_STEP: Final = 0.05  # and only when its score has risen by so much
CLOCK_OFF_S: Final = 300.0  # a machine's window this far ahead of our time has no right time; as the server sees it
AT_ONCE: Final = 16  # windows of one block whose scores are computed together
HARD_BAND: Final = 0.1  # a score this close to the threshold is a hard example


class Pipeline:
    """One asset from samples to messages. Not for several threads; the Detector holds its lock around it."""

    def __init__(
        self,
        asset: Asset,
        signals: tuple[Signal, ...],
        spec: WindowSpec,
        folder: Path | None,
        clock: Clock = SYSTEM,
        rules: Alarms | None = None,
    ) -> None:
        self._clock, rules = clock, rules or Alarms()
        self.asset, self.signals, self.spec, self._folder = asset, signals, spec, folder
        try:
            self._extract = Extractor(signals, spec.rate_hz)
        except ValueError as exc:
            raise SourceFailed(f"asset {asset.id}: {exc}") from exc
        self.names = self._extract.names
        self._windower = Windower(spec, len(signals))
        self._set_back, self._was_set_back = SetBack(), False
        self.wear = Wear(asset.id, [s.name for s in signals], spec, folder, clock)
        self._vectors = np.empty((AT_ONCE, len(self.names)))
        self._episodes = Episodes(rules.hold_s, rules.min_open_s)
        self._since_low = SUDDEN + 1  # windows since the score was far from an alarm
        self.maintenance: Maintenance | None = None  # it mutes
        self._patterns: tuple[Pattern, ...] = ()
        self.suppressed: Counter[UUID] = Counter()  # windows by suppression, since the agent's start
        self.suppressed_at: dict[UUID, float] = {}  # the last of them, epoch seconds of the samples
        self._normal = NormalWindow(signals, spec)
        self._sensors = Sensors(asset, signals, spec, folder, clock, rules)
        file = folder / f"{reference_name(asset.id, [repr(asset.mode)], spec, 'modes')}.json" if folder else None
        self._modes = Modes(asset.mode, signals, spec, file) if asset.mode else None
        self._dice = random.Random()  # noqa: S311 - picks windows to send, guards nothing
        self.current: Judge | None = None
        self.candidate: Judge | None = None
        self.shadow: Shadow | None = None
        self._logs: dict[str, PredictionLog] = {}
        self.windows = 0
        self.dropped: Counter[str] = Counter()
        self.flagged: Counter[str] = Counter()
        self.last_sample: float | None = None
        self.quiet: Literal["silent", "ended"] | None = None  # the source gives nothing, and whether that is a fault
        self.last: Seen | None = None
        self.latencies: deque[float] = deque(maxlen=1000)

    def judge(self, scorer: Scorer) -> Judge:
        """A judge for this asset. Raises BundleRejected."""
        self.wear.check(scorer)
        judge = Judge(self.asset.id, scorer, self.signals, self.spec, self._folder)
        judge.suppress(self._patterns)
        return judge

    def suppress(self, patterns: Sequence[Pattern]) -> list[UUID]:
        """These do not alarm from now on. Returns those that the model that runs cannot tell from a fault."""
        self._patterns = tuple(patterns)
        if self.candidate:
            self.candidate.suppress(self._patterns)
        return self.current.suppress(self._patterns) if self.current else []

    def feed(
        self,
        times: NDArray[np.float64],
        values: NDArray[np.float32],
        pairs: Pairs,
        quality: NDArray[np.uint8] | None = None,
        since: float | None = None,
    ) -> Iterator[Body]:
        """What is to be sent for a block: times float64[n] in epoch seconds, values float32[n_signals, n], quality
        uint8[n_signals, n] or all good."""
        if times.size:
            self.last_sample, self.quiet = float(times[-1]), None
        pieces, set_back = [Piece(times, (values, quality))], False
        if self.asset.source != "csv":
            pieces, set_back = self._set_back.take(times, (values, quality), self._clock.monotonic())
        if set_back:
            self.dropped["clock_set_back"] += 1
            self._was_set_back = True
            self._windower.reset()
        for piece in pieces:
            windows = self._windower.feed(piece.times, *piece.rest)
            while together := list(islice(windows, AT_ONCE)):
                yield from self._see_all(together, pairs, since or time.perf_counter())

    def resume(self, event: AlarmEvent) -> bool:
        """Go on with an episode that was open when the agent ended. False: it can not be told how it went on."""
        if event.family == SENSORS and event.sensors:
            self._sensors.resume(self._episode(event))
            return True
        if event.trial or self.current is None or (self.current.learning and not self._modes):
            return False
        episode = self._episode(event)
        episode.told_score, episode.told_at = event.score, self._clock.monotonic()
        self._episodes.open.append(episode)
        self.current.open = True
        return True

    def rest(self, event: AlarmEvent, cleared_at: datetime) -> None:
        """An episode that was over when the agent ended: it may reopen."""
        episode = self._episode(event)
        episode.cleared_at = cleared_at.timestamp()
        if event.family == SENSORS and event.sensors:
            self._sensors.resume(episode)
        else:
            self._episodes.resting.append(episode)

    def _episode(self, event: AlarmEvent) -> Episode:
        return Episode(
            event_id=event.event_id,
            trace=event.trace_id,
            opened_at=event.opened_at,
            family=event.family or NOVELTY,
            raised_at=event.window_end.timestamp(),
            repeats=event.repeats,
            severity=event.severity,
            muted=event.muted,
        )

    def shapes(self) -> Iterator[tuple[UUID, NDArray[np.float32]]]:
        """The windows of alarms, float32[n, n_features], where there are new ones since the last time."""
        for episode in (*self._episodes.open, *self._episodes.resting):
            if episode.new_vectors:
                episode.new_vectors = False
                yield episode.event_id, np.array(episode.vectors)

    def begin_recording(self) -> None:
        """A new recording begins: nothing in it is in a row with what was before. Where the settings say how much of
        each recording is known to be normal, that is learned from it anew."""
        self._windower.reset()
        self._episodes.part()
        self._sensors.begin_anew()
        self.wear.begin()
        rows = self.asset.csv.normal_rows if self.asset.csv else None
        if rows and self.current and self.current.scorer.learns_on_device:
            self.current.learn_anew(max(8, (rows - self.spec.n_samples) // self.spec.hop + 1))

    def _see_all(self, windows: Sequence[Window], pairs: Pairs, began: float) -> Iterator[Body]:
        """Windows that came together through features, scores and episodes, in their order."""
        assert self.current
        vectors = self._vectors[: len(windows)]
        for window, vector in zip(windows, vectors, strict=True):
            self._extract(window.values, vector)
        whole = [bool(np.isfinite(vector).all()) for vector in vectors]
        together = all(whole) and not (
            self.candidate or self._modes
        )  # a trial compares what each window takes either model
        scored = self.current.see_ahead(vectors) if together else [None] * len(windows)
        for each in zip(windows, vectors, whole, scored, strict=True):
            yield from self._see(*each, pairs, began)

    def _see(
        self,
        window: Window,
        vector: NDArray[np.float64],
        whole: bool,
        scored: Scored | None,
        pairs: Pairs,
        began: float,
    ) -> Iterator[Body]:
        """One window: is it to be believed, what does it say, what follows."""
        assert self.current
        muted = self.maintenance is not None
        if fault := self._sensors.unusable(window, whole):
            self.dropped[fault] += 1
            yield from self._sensors.tell(window, self.current, self._normal, muted)
            return
        if not whole:  # beyond what float32 holds
            self.dropped["not_finite_features"] += 1
            return
        mode = self._mode(window)
        if self._modes and self._modes.passes_over(mode):
            self.dropped[f"mode_{mode}"] += 1
            return
        for judge in (self.current, self.candidate):
            if judge:
                judge.enter(mode)
        self._sensors.look(window, vector, mode)
        yield from self._sensors.tell(window, self.current, self._normal, muted)
        out = self._sensors.out
        if out and not self.current.learning and not self.current.can_do_without(out):
            self.dropped["ill_sensors"] += 1
            return
        self.windows += 1
        flags = self._flags(window)
        if not out:
            self.wear.see(self.current.scorer, window, vector)
        if self.current.learning:
            if not flags & ~Flag.CLOCK:
                self.current.learn(vector)
                self._normal.keep(window, mode)
                self._sensors.keep(window, mode)
            return
        current = self.current.see(vector, scored, out)
        candidate = None
        if self.candidate and not self.candidate.learning and (not out or self.candidate.can_do_without(out)):
            candidate = self.candidate.see(vector, out=out)
        if self.candidate and self.candidate.learning and not (current.over or flags):
            self.candidate.learn(vector)
        if self.shadow and not out:
            self.shadow.offer(self.asset.id, vector, current, self.current)
        self.last = current
        if not (current.over or current.open or flags):
            self._normal.keep(window, mode)
            self._sensors.keep(window, mode)
        trace = new_trace_id()
        latency_us = (time.perf_counter() - began) * 1e6
        self.latencies.append(latency_us)
        yield from self._log(trace, window, self.current, current._replace(latency_us=latency_us), flags)
        if candidate and self.candidate:
            pairs.add(candidate, current)
            yield from self._log(trace, window, self.candidate, candidate, flags)
        trial = candidate is not None and candidate.open and not current.open
        judge, seen = (self.candidate, candidate) if trial else (self.current, current)
        assert judge is not None
        assert seen is not None
        if current.suppressed:
            self.suppressed[current.suppressed] += 1
            self.suppressed_at[current.suppressed] = window.end
        yield from self._move_episodes(trace, window, judge, seen, trial, vector)
        if not flags and (sample := self._sample(trace, window, current, vector)):
            yield sample

    def flush(self, force: bool = False) -> Iterator[Body]:
        """The prediction log, when it is due."""
        if force:
            self.wear.save()
        self._sensors.flush(force)
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
        if self._modes and self._modes.now == LEARNING:
            state = "learning"
        if self.quiet:
            state = self.quiet
        score = self.last.smooth if self.last else None
        return AssetHealth.model_validate(
            {
                "windows": self.windows,
                "dropped": dict(self.dropped) | {cause.value: n for cause, n in self._windower.dropped.items() if n},
                "flagged": dict(self.flagged),
                "last_sample_at": None if self.last_sample is None else _instant(self.last_sample),
                "state": state,
                "mode": self._modes.now if self._modes else "",
                "score": None if score is None else min(1.0, max(0.0, score)),
                "life": self.wear.left,
                "alarm": bool(self._episodes.open) or self._sensors.alarm,
                "sensors": self._sensors.ill,
                "criticality": self.asset.criticality,
                "maintenance_since": self.maintenance and self.maintenance.start,
                "maintenance_id": self.maintenance and self.maintenance.maintenance_id,
                "suppressed": self.suppressed.total(),
                "kind": self.asset.kind,
                "hall": self.asset.hall,
                "code": self.asset.code,
                "window": self.spec,
                "signals": self.signals,
            }
        )

    # -- inside -------------------------------------------------------------------------------------------------

    def _mode(self, window: Window) -> str:
        if self._modes is None:
            return ""
        mode, steady = self._modes.tell(window), self._modes.steady
        if mode == OFF and steady and self._sensors.runs(window, steady, self._modes.signal):
            return self._modes.stay()  # only the signal that tells the mode has gone: its sensor is ill
        return mode

    def _flags(self, window: Window) -> Flag:
        flags = Flag(0)
        if window.worst == Quality.UNCERTAIN:
            flags |= Flag.UNCERTAIN
        if self._sensors.out:
            flags |= Flag.SENSOR
        ahead = window.end - self._clock.time()
        if self.asset.source != "csv" and (ahead > CLOCK_OFF_S or (self._was_set_back and ahead < -CLOCK_OFF_S)):
            flags |= Flag.CLOCK
        self.flagged.update(flag.name.lower() for flag in flags if flag.name)
        return flags

    def _log(self, trace: UUID, window: Window, judge: Judge, seen: Seen, flags: Flag) -> Iterator[Body]:
        if not math.isfinite(seen.scored.score):
            self.dropped["score_not_a_number"] += 1
            return
        bundle = judge.scorer.bundle
        classes = bundle.manifest.classifier.classes if bundle.manifest.classifier else ()
        log = self._logs.get(bundle.sha256)
        if log is None:
            log = self._logs[bundle.sha256] = PredictionLog(self.asset.id, bundle.ref, classes, self._clock)
        log.add(trace, window, seen, flags, judge.mode)
        if log.due and (message := log.take()):
            yield message

    def _move_episodes(
        self, trace: UUID, window: Window, judge: Judge, seen: Seen, trial: bool, vector: NDArray[np.float64]
    ) -> Iterator[Body]:
        family = alarms.family(judge.believed(seen)) if seen.over else None
        length = judge.rule.raise_after * self.spec.hop / self.spec.rate_hz
        changed = self._episodes.move(window.end, seen.open, family, _instant(window.end - length), trace)
        episode = self._episodes.leading(family)
        if episode and seen.over and not seen.suppressed:
            episode.keep(vector)
            severity = alarms.severity(
                min(1.0, seen.smooth), judge.rule.raise_at, judge.believed(seen), sudden=self._since_low <= SUDDEN
            )
            risen = alarms.worse(episode.severity, severity) != episode.severity
            episode.severity = alarms.worse(episode.severity, severity)
            if episode not in (e for _, e in changed) and (risen or self._is_news(episode, seen)):
                changed.append((Phase.UPDATED, episode))
        self._since_low = 0 if seen.smooth < judge.rule.raise_at / 2 else self._since_low + 1
        for phase, each in changed:
            each.muted = self.maintenance is not None
            each.told_score, each.told_at = seen.smooth, self._clock.monotonic()
            yield self._alarm(phase, each, trace, window, judge, seen, trial, vector)

    def _is_news(self, episode: Episode, seen: Seen) -> bool:
        if episode.muted != (self.maintenance is not None):
            return True
        late = self._clock.monotonic() - episode.told_at > UPDATE_EVERY_S
        return late and seen.smooth > episode.told_score + UPDATE_STEP

    def _alarm(
        self,
        phase: Phase,
        episode: Episode,
        trace: UUID,
        window: Window,
        judge: Judge,
        seen: Seen,
        trial: bool,
        vector: NDArray[np.float64],
    ) -> AlarmEvent:
        out = self._sensors.out
        drivers = judge.drivers(vector, out)
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
            family=episode.family,
            severity=episode.severity,
            repeats=episode.repeats,
            muted=episode.muted,
            cleared_by="" if phase is not Phase.CLEARED else "verdict" if seen.suppressed else "signal",
            recorded=self.asset.source == "csv",
            plot=self._normal.against(window, drivers[0].feature.rpartition(".")[0] if drivers else "", judge.mode),
            mode=judge.mode,
            sensors=self._sensors.left_out,
            life=self.wear.left,
        )

    def _sample(self, trace: UUID, window: Window, seen: Seen, vector: NDArray[np.float64]) -> SampledWindow | None:
        """By chance any window, alarmed or not: no model shapes that sample. Else a hard one."""
        assert self.current
        share, reason = self.asset.sample_share, "reference"
        if self._dice.random() >= share:
            share, reason = (1 - share) * self.asset.hard_share, "hard"
            close = abs(seen.scored.score - self.current.rule.raise_at) < HARD_BAND
            if not (close or seen.suppressed) or self._dice.random() >= self.asset.hard_share:
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
                "suppressed_by": seen.suppressed,
                "muted": self.maintenance is not None,
                "probability": share,
                "score": min(1.0, max(0.0, seen.scored.score)),
                "mode": self.current.mode,
                "model": self.current.scorer.bundle.ref,
                "feature_set": FEATURE_SET,
                "features": dict(zip(self.names, map(float, vector), strict=True)),
                "recorded": self.asset.source == "csv",
            }
        )


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
