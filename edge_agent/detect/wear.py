"""What is left of one asset's life, as the model that runs tells it after each step; it outlives a restart."""

from __future__ import annotations

import hashlib
import logging
import math
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.clock import Clock
from edge_agent.errors import BundleRejected
from edge_agent.files import write_whole
from models.bundle.files import BadBundle
from models.contract.events import RemainingLife
from models.contract.release import Cause
from models.contract.signals import WindowSpec
from models.life import History, Steps
from models.scoring import Scorer
from models.windows import Window

log = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 300.0  # a restart forgets no more steps than that


class Wear:
    """The steps of one asset, whichever model looks at them. Not for several threads."""

    def __init__(self, asset: str, signals: Sequence[str], spec: WindowSpec, folder: Path | None, clock: Clock) -> None:
        self._steps, self._clock = Steps(signals, spec), clock
        said = repr((asset, self._steps.names, spec.model_dump()))
        self._file = folder / f"{hashlib.sha256(said.encode()).hexdigest()[:24]}.life.npz" if folder else None
        self._history: History | None = None
        self._saved_at, self._unsaved = clock.monotonic(), False
        self.left: RemainingLife | None = None

    def check(self, scorer: Scorer) -> None:
        """Raises BundleRejected: the model tells of a life, and this asset lacks a channel for it."""
        try:
            scorer.fits_life(self._steps)
        except BadBundle as exc:
            raise BundleRejected(scorer.manifest.name, str(exc), Cause.FIT) from exc

    def see(self, scorer: Scorer, window: Window, vector: NDArray[np.float64]) -> None:
        """One more window, with the features of it."""
        spec = scorer.manifest.life
        if spec is None:
            self._history = self.left = None
            return
        if self._history is None or self._history.every != spec.every:
            self._history = self._remembered(spec.every)
        if not self._history.push(self._steps.of(window.values, vector)):
            return
        self._unsaved = True
        told = scorer.life(self._history, self._steps)
        self.left = told and RemainingLife(
            unit=spec.unit,
            estimate=told.value,
            low=told.low,
            high=told.high if math.isfinite(told.high) else None,
            cap=spec.cap,
            coverage=spec.coverage,
            at=datetime.fromtimestamp(window.end, UTC),
            steps=self._history.age,
        )
        if self._clock.monotonic() - self._saved_at > SAVE_EVERY_S:
            self.save()

    def begin(self) -> None:
        """Another life: nothing before counts."""
        if self._history is not None:
            self._history = History(len(self._steps.names), self._history.every)
        self.left = None

    def save(self) -> None:
        """What was seen since the last time, to disk."""
        self._saved_at = self._clock.monotonic()
        if self._file is None or self._history is None or not self._unsaved:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, self._history.dump())
            self._unsaved = False
        except OSError as exc:  # the disk is full: this run goes on, the next one knows less
            log.error("the steps of a life are not on disk", extra={"reason": str(exc)})

    def _remembered(self, every: int) -> History:
        history = History(len(self._steps.names), every)
        if self._file is not None and self._file.exists():
            try:
                known = history.load(self._file.read_bytes())
            except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
                known = False
            if not known:
                log.warning("an asset's life is counted from now on", extra={"reason": "its file is of another kind"})
        return history
