"""The sensors of one asset: which windows can not be scored, which channels are ill, and what is told of it.

A channel with a fault is left out of the score from the first window on. An alarm of the family "sensor" tells it after
CONFIRM windows that share no sample and half a window at most without it between them (zeros now and then may be
further apart); it is over after WELL windows without. There is one such alarm on an asset, whatever its channels have.
"""

from __future__ import annotations

import io
import logging
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.clock import Clock
from edge_agent.config import Alarms, Asset
from edge_agent.detect.episodes import Episode, Episodes
from edge_agent.detect.judge import Judge, reference_name
from edge_agent.detect.plot import NormalWindow
from edge_agent.files import write_whole
from models.contract.events import AlarmEvent, FaultOfSensor, IllSensor, Phase, SensorFault
from models.contract.features import FEATURE_SET
from models.contract.ids import new_trace_id
from models.contract.labels import FaultKind, Severity
from models.contract.messages import Body
from models.contract.signals import Quality, Signal, WindowSpec
from models.sensor_check import Ill, SensorCheck
from models.windows import RATE_OFF, Window

log = logging.getLogger(__name__)

CONFIRM: Final = 2
WELL: Final = 3
PATIENCE: Final = {FaultOfSensor.DROPOUTS: 6.0}  # windows without it before it is told; else half of one
WRITE_S: Final = 600.0
FAMILY: Final = "sensor"
_DETAIL: Final = {
    FaultOfSensor.BAD_QUALITY: "its source says that it is bad; ",
    FaultOfSensor.SAMPLE_RATE: "samples come faster or slower than rate_hz says; ",
}


@dataclass
class _Channel:
    ill: Ill
    since: float  # start of the first window that showed it, epoch seconds
    first: int  # index of that window's last sample
    seen: int  # the same of the last one
    told: bool = False


class Channels:
    """Which are ill, and of which people know."""

    def __init__(self, n_samples: int) -> None:
        self._n = n_samples
        self._ill: dict[int, _Channel] = {}

    @property
    def out(self) -> tuple[int, ...]:
        """Those that are left out of the score now."""
        return tuple(sorted(self._ill))

    @property
    def all(self) -> list[tuple[Ill, float]]:
        """With the time since when, in order of the signals."""
        return [(c.ill, c.since) for _, c in sorted(self._ill.items())]

    @property
    def told(self) -> list[tuple[Ill, float]]:
        """Those that people know of."""
        return [(c.ill, c.since) for _, c in sorted(self._ill.items()) if c.told]

    def move(self, window: Window, found: list[Ill]) -> list[Ill]:
        """One window, and what is to be told anew because of it."""
        news = []
        for ill in found:
            channel = self._ill.get(ill.signal)
            if channel is None:
                channel = self._ill[ill.signal] = _Channel(ill, window.start, window.last, window.last)
            if channel.told and channel.ill.fault != ill.fault:
                news.append(ill)
            channel.ill, channel.seen = ill, window.last
            if not channel.told and window.last - channel.first >= CONFIRM * self._n:
                channel.told = True
                news.append(ill)
        for signal, channel in list(self._ill.items()):
            patience = WELL if channel.told else PATIENCE.get(channel.ill.fault, 0.5)
            if window.last - channel.seen > patience * self._n:
                del self._ill[signal]
        return news


class Sensors:
    """One asset's. Not for several threads; the Detector holds its lock around the pipeline."""

    def __init__(
        self,
        asset: Asset,
        signals: tuple[Signal, ...],
        spec: WindowSpec,
        folder: Path | None,
        clock: Clock,
        rules: Alarms,
    ) -> None:
        self._asset, self._signals, self._spec, self._clock = asset, signals, spec, clock
        self._check, self._channels = SensorCheck(signals, spec), Channels(spec.n_samples)
        self._episodes = Episodes(rules.hold_s, rules.min_open_s)
        self._unusable: tuple[int | None, FaultOfSensor] | None = None
        self._bounded = [i for i, s in enumerate(signals) if s.low is not None or s.high is not None]
        self._muted = self._new = False
        self._found: list[Ill] = []
        name = reference_name(asset.id, [f"{s.name} {s.unit}" for s in signals], spec, "sensors")
        self._file = folder / f"{name}.npz" if folder else None
        self._written_at = clock.monotonic()
        self._load()

    @property
    def out(self) -> tuple[int, ...]:
        """Positions of the channels whose values say nothing now."""
        return self._channels.out

    @property
    def ill(self) -> tuple[IllSensor, ...]:
        """What people know of."""
        return tuple(self._describe(ill, since) for ill, since in self._channels.told)

    @property
    def left_out(self) -> tuple[IllSensor, ...]:
        """All whose values say nothing now, also where nobody has been told yet."""
        return tuple(self._describe(ill, since) for ill, since in self._channels.all)

    @property
    def alarm(self) -> bool:
        return bool(self._episodes.open)

    def resume(self, episode: Episode) -> None:
        """An alarm that was open when the agent ended; one that is over may reopen."""
        (self._episodes.open if episode.cleared_at is None else self._episodes.resting).append(episode)

    # -- windows ------------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """What comes is of another recording."""
        self._check.forget()
        self._channels = Channels(self._spec.n_samples)
        self._unusable = None
        self._episodes.part()

    def unusable(self, window: Window, whole: bool) -> FaultOfSensor | None:
        """Why a window can not be scored; told by the next `tell`. `whole`: every feature, and so every sample, is a
        number."""
        before, self._unusable = self._unusable, self._why(window, whole)
        if self._unusable is None:
            return None
        self._new = self._unusable != before  # one fault, one message
        return self._unusable[1]

    def look(self, window: Window, vector: NDArray[np.float64], mode: str = "") -> None:
        """A window that can be scored, with its features, all finite."""
        self._found = self._check.look(window, vector, mode)

    def keep(self, window: Window, mode: str = "") -> None:
        """Nothing was wrong with the window that was looked at last, neither here nor with the machine."""
        if not self.out:
            self._check.keep(window, mode)

    def runs(self, window: Window, mode: str, but: int) -> bool:
        """The other channels move as they do in this mode."""
        return self._check.moves_as_in(window, mode, but)

    def tell(self, window: Window, judge: Judge, normal: NormalWindow, muted: bool) -> Iterator[Body]:
        """What is to be sent because of this window."""
        if self._muted and not muted:
            self._check.forget()  # somebody was at the machine: what it shows now is usual
        self._muted = muted
        found = self._found
        if self._unusable:
            signal, fault = self._unusable
            found = [] if signal is None else [Ill(signal, fault, math.nan, math.nan)]
            if self._new:
                yield self._message(
                    signal, fault, window.start, _DETAIL.get(fault, "") + "windows with it are not scored"
                )
        self._found = []
        news = self._channels.move(window, found)
        for ill in news:
            if not self._unusable:
                yield self._message(ill.signal, ill.fault, window.start, "left out of the score")
        told = self._channels.told
        opened = _instant(min((since for _, since in told), default=window.start))
        trace = new_trace_id()
        changed = self._episodes.move(window.end, bool(told), FAMILY, opened, trace)
        if news and not changed:
            changed = [(Phase.UPDATED, episode) for episode in self._episodes.open]
        for phase, episode in changed:
            episode.muted = muted
            yield self._alarm(phase, episode, window, judge, normal)

    def flush(self, force: bool = False) -> None:
        """What is usual to the disk, now and then, so that a restart does not take an ill sensor for a healthy one."""
        now = self._clock.monotonic()
        if self._file is None or (now - self._written_at < WRITE_S and not force):
            return
        if not (state := self._check.state()):
            return
        self._written_at, whole = now, io.BytesIO()
        np.savez(whole, **{f"mode {mode}": rows for mode, rows in state.items()})  # type: ignore[arg-type]
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, whole.getvalue())
        except OSError as exc:  # the next start learns it again
            log.warning("what is usual of the sensors is not on disk", extra={"reason": str(exc)})

    # -- inside -------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        if self._file is None or not self._file.exists():
            return
        try:
            with np.load(self._file) as stored:
                self._check.restore({name.removeprefix("mode "): stored[name] for name in stored.files})
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            pass  # learned again

    def _why(self, window: Window, whole: bool) -> tuple[int | None, FaultOfSensor] | None:
        """And of which signal; None: of all."""
        if window.quality is not None and window.worst >= Quality.BAD:
            return int(window.quality.argmax()), FaultOfSensor.BAD_QUALITY
        if window.step_s and abs(window.step_s * self._spec.rate_hz - 1) > RATE_OFF:
            return None, FaultOfSensor.SAMPLE_RATE
        if not whole and not (finite := np.isfinite(window.values).all(axis=1)).all():
            return int(np.argmin(finite)), FaultOfSensor.NOT_A_NUMBER
        for i in self._bounded:
            samples, low, high = window.values[i], self._signals[i].low, self._signals[i].high
            if (low is not None and samples.min() < low) or (high is not None and samples.max() > high):
                return i, FaultOfSensor.OUT_OF_RANGE
        return None

    def _describe(self, ill: Ill, since: float) -> IllSensor:
        signal = self._signals[ill.signal]
        return IllSensor(
            signal=signal.name,
            fault=ill.fault,
            since=_instant(since),
            value=ill.value if math.isfinite(ill.value) else None,
            usual=ill.usual if math.isfinite(ill.usual) else None,
            unit=signal.unit,
            looks_like=ill.looks_like,
        )

    def _message(self, signal: int | None, fault: FaultOfSensor, since: float, detail: str) -> SensorFault:
        return SensorFault(
            trace_id=new_trace_id(),
            made_at=self._clock.now(),
            asset=self._asset.id,
            signal=None if signal is None else self._signals[signal].name,
            fault=fault,
            since=_instant(since),
            detail=detail,
        )

    def _alarm(self, phase: Phase, episode: Episode, window: Window, judge: Judge, normal: NormalWindow) -> AlarmEvent:
        ill = self.ill
        drawn = ill[0].signal if ill else None
        return AlarmEvent(
            trace_id=episode.trace,
            made_at=self._clock.now(),
            event_id=episode.event_id,
            phase=phase,
            asset=self._asset.id,
            window_start=_instant(window.start),
            window_end=_instant(window.end),
            opened_at=min(episode.opened_at, _instant(window.end)),
            score=judge.rule.raise_at,
            threshold=judge.rule.raise_at,
            fault_class=FaultKind.SENSOR.value,
            model=judge.scorer.bundle.ref,
            feature_set=FEATURE_SET,
            features={},
            family=FAMILY,
            severity=Severity.MINOR,
            repeats=episode.repeats,
            muted=episode.muted,
            cleared_by="signal" if phase is Phase.CLEARED else "",
            recorded=self._asset.source == "csv",
            plot=normal.against(window, drawn, judge.mode) if drawn and np.isfinite(window.values).all() else None,
            sensors=ill,
        )


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
