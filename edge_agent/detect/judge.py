"""One model and one asset: what is normal there, how unusual a window is, and whether that is an alarm."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import statistics
import time
import zipfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import BundleRejected
from edge_agent.files import write_whole
from models import alarms, selfref
from models.bundle.files import BadBundle
from models.contract.events import Driver
from models.contract.features import vector_names
from models.contract.labels import Severity
from models.contract.release import Cause
from models.contract.signals import Signal, WindowSpec
from models.scoring import Scored, Scorer
from models.suppress import Pattern, Region, Space, region

log = logging.getLogger(__name__)

N_DRIVERS: Final = 5
FIT: Final = Cause.FIT


class Seen(NamedTuple):
    """What one judge makes of one window."""

    scored: Scored
    smooth: float  # the median of the last scores: what the alarm rule looks at
    over: bool  # smooth is at or over the threshold
    open: bool  # an episode is open
    latency_us: float
    suppressed: UUID | None = None  # it is over, but for this pattern


class Judge:
    """One model and one asset: reference, smoothing, hysteresis."""

    def __init__(
        self, asset: str, scorer: Scorer, signals: tuple[Signal, ...], spec: WindowSpec, folder: Path | None
    ) -> None:
        """Raises BundleRejected if the bundle does not fit the asset."""
        manifest = scorer.manifest
        names = [s.name for s in signals]
        if manifest.window is not None and manifest.window != spec:
            raise BundleRejected(manifest.name, f"trained on windows of {manifest.window}, this asset has {spec}", FIT)
        if manifest.signals is not None and not {s.name for s in manifest.signals} <= set(names):
            raise BundleRejected(manifest.name, f"it needs signals {', '.join(s.name for s in manifest.signals)}", FIT)
        try:
            self._positions = scorer.positions(vector_names(signals))
        except BadBundle as exc:
            raise BundleRejected(manifest.name, str(exc), FIT) from exc
        self.scorer, self.rule = scorer, manifest.alarm
        self._names = vector_names(signals)
        self._signal_of = np.array([names.index(name.rpartition(".")[0]) for name in self._names])
        self._recent: deque[float] = deque(maxlen=self.rule.smooth)
        self._over = self._under = 0
        self.open = False
        self.bad = 0  # windows in a row without a score that is a number
        self._selection = selfref.select(names, spec.rate_hz)
        self._overlap = max(1.0, spec.n_samples / spec.hop)
        self.mode = ""  # of the machine: each has a normal of its own, where that is learned here
        self._references: dict[str, selfref.Reference | None] = {}
        self._learned_in: dict[str, list[NDArray[np.float64]]] = {}
        self._to_learn = math.ceil(manifest.novelty.learn * self._overlap)
        self._folder = folder
        self._name = (asset, names, spec, scorer.bundle.sha256)
        self._references[""] = self._load_reference() if scorer.learns_on_device else None
        self._patterns: tuple[Pattern, ...] = ()
        self._space: Space | None = None
        self._regions: list[Region] = []
        self._left: deque[float] = deque(maxlen=self.rule.smooth)  # scores without what is suppressed

    @property
    def reference(self) -> selfref.Reference | None:
        """What is normal in the mode that the machine is in."""
        return self._references.get(self.mode)

    @property
    def _file(self) -> Path | None:
        """Where the normal of this mode is kept."""
        asset, names, spec, sha256 = self._name
        name = reference_name(asset, [*names, f"mode {self.mode}"] if self.mode else names, spec, sha256)
        return self._folder / f"{name}.npz" if self._folder else None

    @property
    def _learned(self) -> list[NDArray[np.float64]]:
        return self._learned_in.setdefault(self.mode, [])

    def enter(self, mode: str) -> None:
        """The windows that come are of this mode."""
        if mode == self.mode:
            return
        self.mode = mode
        if self.scorer.learns_on_device:
            if mode not in self._references:
                self._references[mode] = self._load_reference()
            self.suppress(self._patterns)

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
        self._to_learn = n_windows
        self._references.clear()
        self._learned_in.clear()
        self._recent.clear()
        self._left.clear()
        self._regions, self._space = [], None
        self._over = self._under = 0
        self.open = False

    def finish_learning(self) -> None:
        """Fix what is normal by the windows seen so far. Raises selfref.TooFew."""
        reference = self._beginning() if self.scorer.relative else self._own_normal()
        self._references[self.mode] = reference
        self._learned.clear()
        self.suppress(self._patterns)
        if self._file:
            whole = io.BytesIO()
            np.savez(whole, **reference._asdict())
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._file, whole.getvalue())
            except OSError as exc:  # the disk is full: this run knows what is normal, the next one learns it again
                log.error("what is normal is not on disk", extra={"reason": str(exc)})

    def _own_normal(self) -> selfref.Reference:
        return selfref.fit(np.array(self._learned), self._selection, self._overlap)

    def _beginning(self) -> selfref.Reference:
        """Where this asset's inputs were; how far apart they usually are, other machines have told."""
        spread = np.array([each.spread for each in self.scorer.manifest.usual or ()])
        inputs = np.array(self._learned)[:, self._positions]
        limit = -self.scorer.manifest.novelty.limit
        return selfref.Reference(np.median(inputs, axis=0), np.diag(1 / spread), limit)

    def see_ahead(self, vectors: NDArray[np.float64]) -> list[Scored | None]:
        """Scores of windows that came together, for `see`; None: it is still to be had."""
        if len(vectors) < 2 or self.learning:
            return [None] * len(vectors)
        with contextlib.suppress(Exception):  # as in _score; which of them it is shows when each is scored alone
            scored = self.scorer.score_all(self.inputs(vectors), self.reference)
            if len(scored) == len(vectors):
                return [*scored]
        return [None] * len(vectors)

    def see(self, vector: NDArray[np.float64], scored: Scored | None = None, out: Sequence[int] = ()) -> Seen:
        """Score one window, if that was not done ahead, and move the episode along. `out`: signals, by position, that
        say nothing now."""
        began = time.perf_counter()
        inputs = self.inputs(vector)
        if out:
            inputs, scored = self._without_signals(inputs, out), None
        scored = scored or self._score(inputs)
        self.bad = 0 if math.isfinite(scored.score) else self.bad + 1
        left, pattern = self._without_patterns(scored, inputs)
        self._recent.append(scored.score if math.isfinite(scored.score) else 0.0)
        self._left.append(left if math.isfinite(left) else 0.0)
        smooth, rest = statistics.median(self._recent), statistics.median(self._left)
        over = smooth >= self.rule.raise_at
        self._over = self._over + 1 if rest >= self.rule.raise_at else 0
        self._under = self._under + 1 if rest < self.rule.clear_at else 0
        if not self.open:
            self.open = self._over >= self.rule.raise_after
        elif self._under >= self.rule.clear_after:
            self.open = False
        suppressed = pattern if over and rest < self.rule.raise_at else None
        return Seen(scored, smooth, over, self.open, (time.perf_counter() - began) * 1e6, suppressed)

    def can_do_without(self, out: Sequence[int]) -> bool:
        """It can score a window without these signals: it knows what is usual of them, and is left with others."""
        known = self.reference is not None or bool(self.scorer.manifest.usual)
        return known and not self._of(out).all()

    def believed(self, seen: Seen) -> str | None:
        """The class that explains the window; None: the model believes in none."""
        name, shares = seen.scored.fault_class, seen.scored.probabilities
        return name if name in shares and shares[name] >= max(shares.values()) else None

    # -- what a person called a false alarm ---------------------------------------------------------------------

    def suppress(self, patterns: Sequence[Pattern]) -> list[UUID]:
        """These do not alarm from now on, and no others. Returns those that this model cannot tell from a fault."""
        self._patterns = tuple(patterns)
        self._regions, self._space = [], self._find_space()
        if self._space is not None:
            for pattern in self._patterns:
                inputs = [self.inputs(v) for v in pattern.vectors.astype(np.float64)]
                quiet = pattern.names == tuple(self._names) and region(
                    pattern, inputs, self._space, lambda x: self._score(x).score < self.rule.raise_at
                )
                if quiet:
                    self._regions.append(quiet)
        told_apart = {each.suppression_id for each in self._regions}
        return [pattern.suppression_id for pattern in self._patterns if pattern.suppression_id not in told_apart]

    def _without_patterns(self, scored: Scored, inputs: NDArray[np.float64]) -> tuple[float, UUID | None]:
        """The score that stays if the pattern that explains most is taken out; what would stop a machine stays."""
        best: tuple[float, UUID | None] = (scored.score, None)
        if self._space is None or not scored.score >= self.rule.clear_at:
            return best
        name = scored.fault_class if scored.probabilities else None
        if name and scored.probabilities[name] < max(scored.probabilities.values()):
            name = None
        if alarms.severity(min(1.0, scored.score), self.rule.raise_at, name, sudden=True) is Severity.STOP:
            return best
        for each in self._regions:
            left = self._score(each.without(inputs, self._space)).score
            if left < best[0]:
                best = left, each.suppression_id
        return best

    def _find_space(self) -> Space | None:
        usual = self.scorer.manifest.usual
        if self.reference is not None:
            return Space.of(self.reference.center, self.reference.whiten)
        if self.scorer.learns_on_device or not usual:
            return None
        spread = np.array([u.spread for u in usual])
        return Space(np.array([u.center for u in usual]), np.diag(1 / spread), np.diag(spread))

    def _of(self, signals: Sequence[int]) -> NDArray[np.bool_]:
        """Which entries of an input vector are of these signals."""
        return np.isin(self._signal_of[self._indexes], signals)

    @property
    def _indexes(self) -> NDArray[np.intp]:
        """Where the inputs stand in a whole vector."""
        own = self.reference is not None and not self.scorer.relative
        return self._selection.indexes if own else self._positions

    def _without_signals(self, inputs: NDArray[np.float64], out: Sequence[int]) -> NDArray[np.float64]:
        """The inputs of these signals as the others let expect them: so that they add nothing to the score."""
        left, inputs = self._of(out), inputs.copy()
        if self.reference is None:
            inputs[left] = np.array([u.center for u in self.scorer.manifest.usual or ()])[left]
            return inputs
        center, whiten = self.reference.center, self.reference.whiten
        rest = (inputs - center)[~left] @ whiten[~left]
        inputs[left] = center[left] + np.linalg.lstsq(whiten[left].T, -rest, rcond=None)[0]
        return inputs

    def inputs(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the model is given of float64[..., n_features]."""
        own = self.reference is not None and not self.scorer.relative
        return self._selection.apply(vector) if own else vector[..., self._positions]

    def _score(self, inputs: NDArray[np.float64]) -> Scored:
        try:
            return self.scorer.score(inputs, self.reference)
        except Exception:  # onnxruntime's errors have no common base; a model that fails must not take the agent down
            return Scored(math.nan, None, {})

    # -- drivers, and what is remembered ------------------------------------------------------------------------

    def drivers(self, vector: NDArray[np.float64], out: Sequence[int] = ()) -> tuple[Driver, ...]:
        """The features furthest from what is usual, in usual spreads; those of the signals `out` are none."""
        if self.reference is not None and self.scorer.relative:
            indexes = self._positions
            values, usual = vector[indexes], self.reference.center
            off = np.abs(values - usual) * np.diag(self.reference.whiten)
        elif self.reference is not None:
            indexes = self._selection.indexes
            values, usual = self._selection.apply(vector), self.reference.center
            norms = np.linalg.norm(self.reference.whiten, axis=1)
            off = np.abs(values - usual) * norms
            logarithm = self._selection.logarithm  # people read the value, not its logarithm
            values = np.where(logarithm, 10.0 ** np.where(logarithm, values, 0.0), values)
            usual = np.where(logarithm, 10.0 ** np.where(logarithm, usual, 0.0), usual)
        elif self.scorer.manifest.usual:
            indexes = self._positions
            values = vector[indexes]
            usual = np.array([u.center for u in self.scorer.manifest.usual])
            off = np.abs(values - usual) / np.array([u.spread for u in self.scorer.manifest.usual])
        else:
            return ()
        off = np.where(self._of(out), np.nan, off)
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


def reference_name(asset: str, signals: Sequence[str], spec: WindowSpec, sha256: str) -> str:
    return hashlib.sha256(repr((asset, tuple(signals), spec.model_dump(), sha256)).encode()).hexdigest()[:24]
