"""The prediction log: every scored window, packed in columns."""

from __future__ import annotations

import math
from typing import Final
from uuid import UUID

import numpy as np

from edge_agent.clock import Clock
from edge_agent.detect.judge import Seen
from models.contract.base import ModelRef
from models.contract.messages import Column, Flag, ScoredWindows
from models.windows import Window

LOG_WINDOWS: Final = 256  # the log is sent when so many windows are in it,
LOG_SECONDS: Final = 2.0  # or when the first of them is so old


class PredictionLog:
    """The prediction log of one asset and model, in columns."""

    def __init__(self, asset: str, model: ModelRef, classes: tuple[str, ...], clock: Clock) -> None:
        self._clock = clock
        self.asset, self.model, self.classes = asset, model, classes
        self._rows: list[tuple[UUID, float, float, float, bool, int, float, int, str]] = []
        self._since = math.inf

    def add(self, trace: UUID, window: Window, seen: Seen, flags: Flag, mode: str = "") -> None:
        fault = self.classes.index(seen.scored.fault_class) if seen.over and seen.scored.fault_class else 255
        score, took = seen.scored.score, seen.latency_us
        self._rows.append((trace, window.start, window.end, score, seen.over, fault, took, flags, mode))
        self._since = min(self._since, self._clock.monotonic())

    @property
    def due(self) -> bool:
        return len(self._rows) >= LOG_WINDOWS or self._clock.monotonic() - self._since > LOG_SECONDS

    def take(self) -> ScoredWindows | None:
        """The message, and an empty log."""
        rows, self._rows, self._since = self._rows, [], math.inf
        if not rows:
            return None
        traces, starts, ends, scores, over, faults, latencies, flags, in_modes = zip(*rows, strict=True)
        modes = tuple(sorted({mode for mode in in_modes if mode}))
        number = {mode: i for i, mode in enumerate(modes)}
        return ScoredWindows(
            trace_id=traces[-1],
            made_at=self._clock.now(),
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
            modes=modes,
            mode=Column.of("u1", bytes(number.get(mode, 255) for mode in in_modes)) if modes else None,
            flags=Column.of("u1", np.array(flags, "u1").tobytes()) if any(flags) else None,
        )
