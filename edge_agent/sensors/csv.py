"""Recorded files as a source: delimited text, NumPy archives and Parquet, at any speed."""

from __future__ import annotations

import glob
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from edge_agent.errors import SourceFailed
from edge_agent.sensors.base import Block, SourceSettings
from edge_agent.settings import Broker, FilePath
from models.recordings import (
    PARQUET,
    BadRecording,
    Recording,
    RecordingOptions,
    iter_csv_blocks,
    iter_parquet_blocks,
    read_npz,
)

AT_A_TIME_S = 0.25  # how much recorded time is given at once when replaying at a speed


class CsvSource(SourceSettings):
    """Recorded files, in the order of their names, read as `RecordingOptions` says. `speed` 0: as fast as it goes."""

    path: FilePath  # a file, or a pattern such as data/*.csv
    speed: Annotated[float, Field(ge=0)] = 0.0
    recording: RecordingOptions = RecordingOptions()
    normal_rows: Annotated[int, Field(ge=0)] | None = None  # at the start of each file; for `evaluate`

    def open(self, asset: str, fleet: Broker | None) -> CsvReplay:
        return CsvReplay(self)


class CsvReplay:
    """The files of a pattern, in the order of their names. All must have the same signals."""

    ends = True
    period_s = None

    def __init__(self, settings: CsvSource) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self.dropped = self.unreadable = 0
        self.counts: Counter[str] = Counter()
        self.paths = [Path(p) for p in sorted(glob.glob(str(settings.path), recursive=True), key=_natural)]
        if not self.paths:
            raise SourceFailed(f"no file is named {settings.path}")
        first = next(self._read(self.paths[0]))
        self.signals, self.rate_hz = first.signals, first.rate_hz

    def blocks(self) -> Iterator[Block | None]:
        for path in self.paths:
            began, first = time.monotonic(), math.nan
            name: str | None = path.name
            for block in chain.from_iterable(map(self._cut, self._read(path))):
                if self._stop.is_set():
                    return
                if self._settings.speed:
                    first = block.times[0] if math.isnan(first) else first
                    due = began + (block.times[-1] - first) / self._settings.speed
                    self._stop.wait(max(0.0, due - time.monotonic()))
                yield block._replace(begins=name)
                name = None

    def recording(self, path: Path) -> Recording:
        """One file, whole. Raises SourceFailed."""
        parts = list(self._read(path))
        labels = [p.label for p in parts if p.label is not None]
        return Recording(
            parts[0].signals,
            np.concatenate([p.times for p in parts]),
            np.concatenate([p.values for p in parts], axis=1),
            np.concatenate(labels) if labels else None,
            parts[0].rate_hz,
        )

    def stop(self) -> None:
        self._stop.set()

    def _read(self, path: Path) -> Iterator[Recording]:
        options = self._settings.recording
        try:
            if path.suffix == ".npz":
                with path.open("rb") as file:
                    parts: Iterator[Recording] = iter([read_npz(file, options)])
                    yield from self._same_signals(path, parts)
            elif path.suffix in PARQUET:
                with path.open("rb") as file:
                    yield from self._same_signals(path, iter_parquet_blocks(file, options))
            else:
                with path.open(encoding="utf-8", errors="strict", newline="") as text:
                    yield from self._same_signals(path, iter_csv_blocks(text, options))
        except (OSError, UnicodeDecodeError, BadRecording) as exc:
            raise SourceFailed(f"{path}: {exc}") from exc

    def _same_signals(self, path: Path, parts: Iterator[Recording]) -> Iterator[Recording]:
        for part in parts:
            names = [s.name for s in part.signals]
            wanted = [s.name for s in getattr(self, "signals", part.signals)]
            if names != wanted:
                raise SourceFailed(f"{path} has the signals {', '.join(names)}, the first file has {', '.join(wanted)}")
            yield part

    def _cut(self, part: Recording) -> Iterator[Block]:
        """A part of a file in blocks as long as the pace needs."""
        n = part.times.size
        step = max(1, int(part.rate_hz * AT_A_TIME_S * self._settings.speed)) if self._settings.speed else n
        for i in range(0, n, step):
            rows = slice(i, i + step)
            label = None if part.label is None else part.label[rows]
            yield Block(part.times[rows], np.ascontiguousarray(part.values[:, rows]), label)


def _natural(path: str) -> list[tuple[int, str]]:
    """2.csv before 10.csv."""
    return [(int(run), "") if run.isdigit() else (0, run) for run in re.split(r"(\d+)", path)]
