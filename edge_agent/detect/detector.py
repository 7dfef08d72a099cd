"""All assets of the device and the models they are scored with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from edge_agent.clock import SYSTEM, Clock
from edge_agent.detect.pipeline import Pipeline
from edge_agent.detect.shadow import Shadow
from edge_agent.detect.trial import Pairs
from edge_agent.errors import BundleRejected
from edge_agent.state import agent_version
from models.bundle.files import BadBundle, Bundle
from models.bundle.manifest import new_enough
from models.contract.alarms import Maintenance
from models.contract.health import AssetHealth
from models.contract.messages import Assignment, Body, TrialReport
from models.contract.release import Cause
from models.features.extract import warm_up
from models.scoring import Scorer
from models.suppress import Pattern


class Detector:
    """All assets of the device, and the models they are scored with. The Engine of a Rollout."""

    def __init__(
        self, pipelines: Sequence[Pipeline], put: Callable[[list[Body]], object], clock: Clock = SYSTEM
    ) -> None:
        self.pipelines = {p.asset.id: p for p in pipelines}
        self._put, self._clock = put, clock
        self._shadow: Shadow | None = None
        self._lock = threading.RLock()  # a model is changed between two windows, never within one
        self._pairs = Pairs()
        for p in pipelines:
            warm_up(len(p.signals), p.spec.n_samples)

    def feed(
        self,
        asset: str,
        times: NDArray[np.float64],
        values: NDArray[np.float32],
        quality: NDArray[np.uint8] | None = None,
        since: float | None = None,
    ) -> None:
        """A block of samples; what comes of it is on its way to the outbox when this returns. `since`: when it came, by
        `time.perf_counter`; now, if left out."""
        with self._lock:
            bodies = list(self.pipelines[asset].feed(times, values, self._pairs, quality, since))
        if bodies:
            self._put(bodies)
        if self._shadow:  # after what matters is safe
            with self._lock:
                if self._shadow:
                    self._shadow.work()

    def suppress(self, asset: str, patterns: Sequence[Pattern]) -> list[UUID]:
        """These do not alarm on this asset, and no others. Returns those that its model cannot tell from a fault."""
        with self._lock:
            return self.pipelines[asset].suppress(patterns)

    def mute(self, asset: str, window: Maintenance | None) -> None:
        """Alarms of this asset are told to nobody and marked; None: they are told again."""
        with self._lock:
            self.pipelines[asset].maintenance = window

    def shapes(self) -> list[tuple[str, UUID, NDArray[np.float32]]]:
        """Asset, alarm and its windows, where there are new ones since the last time."""
        with self._lock:
            return [(p.asset.id, *shape) for p in self.pipelines.values() for shape in p.shapes()]

    def suppressed(self) -> dict[UUID, tuple[int, float]]:
        """Windows of each suppression since the start, and when the last one was."""
        with self._lock:
            return {i: (n, p.suppressed_at[i]) for p in self.pipelines.values() for i, n in p.suppressed.items()}

    def begin_recording(self, asset: str) -> None:
        """The next block of this asset is the first of another recording."""
        with self._lock:
            self.pipelines[asset].begin_recording()

    def flush(self, force: bool = False) -> None:
        """Send the prediction logs that are due."""
        with self._lock:
            bodies = [body for p in self.pipelines.values() for body in p.flush(force)]
            if self._shadow:
                champions = {a: p.current.scorer.bundle.ref for a, p in self.pipelines.items() if p.current}
                bodies += self._shadow.reports(champions, force)
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
        title, wanted = f"{bundle.manifest.name} {bundle.manifest.version}", bundle.manifest.min_agent
        if not new_enough(agent_version(), wanted):
            raise BundleRejected(title, f"it needs agent {wanted}, this is {agent_version()}", Cause.FIT)
        try:
            scorer = Scorer(bundle)
        except BadBundle as exc:
            raise BundleRejected(title, str(exc), Cause.FIT) from exc
        try:
            scorer.check_canary()
        except BadBundle as exc:
            raise BundleRejected(title, str(exc), Cause.CANARY) from exc
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

    def running(self) -> frozenset[str]:
        """The hashes of what scores now: one, if all is well."""
        with self._lock:
            return frozenset(p.current.scorer.bundle.sha256 for p in self.pipelines.values() if p.current)

    def bad_in_a_row(self) -> int:
        with self._lock:
            return max((p.current.bad for p in self.pipelines.values() if p.current), default=0)

    def try_out(self, bundle: Bundle) -> None:
        scorer = Scorer(bundle)
        judges = {asset: p.judge(scorer) for asset, p in self.pipelines.items()}
        with self._lock:
            self._pairs = Pairs()
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

    def shadow(self, bundle: Bundle, order: Assignment) -> None:
        scorer = Scorer(bundle)
        shadow = Shadow(order, {asset: p.judge(scorer) for asset, p in self.pipelines.items()}, self._clock)
        self._set_shadow(shadow)

    def end_shadow(self) -> None:
        self.flush(force=True)
        self._set_shadow(None)

    def shadow_failure(self) -> str | None:
        with self._lock:
            return self._shadow.failure if self._shadow else None

    def _set_shadow(self, shadow: Shadow | None) -> None:
        with self._lock:
            self._shadow = shadow
            for p in self.pipelines.values():
                p.shadow = shadow
