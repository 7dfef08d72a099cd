"""Reads a source on a thread of its own, as the agent does."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import numpy as np

from edge_agent.sensors import Block, Source


class Reading:
    """Everything that a source gave so far; a context manager."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.blocks: list[Block] = []
        self.failed: BaseException | None = None
        self._go_on = threading.Event()
        self._go_on.set()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._go_on.set()
        self.source.stop()
        self._thread.join(10)

    def pause(self) -> None:
        """Take nothing more, as a detector that is busy."""
        self._go_on.clear()

    def resume(self) -> None:
        self._go_on.set()

    @property
    def times(self) -> list[float]:
        return [t for block in list(self.blocks) for t in block.times.tolist()]

    @property
    def values(self) -> np.ndarray:
        """float32[n_signals, n]"""
        blocks = list(self.blocks)
        empty = np.empty((len(self.source.signals), 0), np.float32)
        return np.concatenate([empty, *(b.values for b in blocks)], axis=1)

    def row(self, name: str) -> list[float]:
        """All values of one signal."""
        names = [s.name for s in self.source.signals]
        return [float(v) for v in self.values[names.index(name)]]

    def quality(self, name: str) -> list[int]:
        position = [s.name for s in self.source.signals].index(name)
        return [
            int(q)
            for b in list(self.blocks)
            for q in (np.zeros(b.times.size, np.uint8) if b.quality is None else b.quality[position])
        ]

    def _read(self) -> None:
        try:
            for block in self.source.blocks():
                if block is not None:
                    self.blocks.append(block)
                self._go_on.wait()
        except BaseException as exc:
            self.failed = exc
