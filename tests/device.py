"""One device's rollout with an engine that a test speaks for, and the server's side of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from edge_agent.bundles import Memory
from edge_agent.clock import Clock
from edge_agent.errors import BundleRejected
from edge_agent.rollout.machine import Rollout
from models.bundle.files import Bundle
from models.bundle.signing import PublicKeys, SigningKey
from models.contract.messages import Assignment, Body, Chunk, RolloutStatus, Step, TrialReport
from models.contract.release import Cause
from models.scoring import Scorer
from tests.builders import DEVICE, Fleet, a_bundle

OLD, NEW, NEWER = a_bundle(1), a_bundle(2, limit=0.6), a_bundle(3, limit=0.7)


class FakeEngine:
    """Scores nothing; a test says what the trial has shown."""

    def __init__(self, bad: frozenset[str] = frozenset()) -> None:
        self.bad = bad
        self.runs: Bundle | None = None
        self.tries: Bundle | None = None
        self.shadows: Bundle | None = None
        self.bad_windows = 0
        self.failure: str | None = None
        self.shown = report(0)
        self.order: Assignment | None = None  # of the shadow

    def check(self, bundle: Bundle) -> None:
        if bundle.sha256 in self.bad:
            raise BundleRejected(bundle.manifest.name, "canary window 0", Cause.CANARY)
        Scorer(bundle).check_canary()

    def run(self, bundle: Bundle) -> None:
        self.runs, self.tries = bundle, None

    def try_out(self, bundle: Bundle) -> None:
        self.tries, self.shown = bundle, report(0)

    def end_trial(self) -> None:
        self.tries = None

    def trial(self) -> TrialReport | None:
        return self.shown if self.tries else None

    def running(self) -> frozenset[str]:
        return frozenset({self.runs.sha256} if self.runs else ())

    def bad_in_a_row(self) -> int:
        return self.bad_windows

    def shadow(self, bundle: Bundle, order: Assignment) -> None:
        self.shadows, self.order = bundle, order

    def end_shadow(self) -> None:
        self.shadows = None

    def shadow_failure(self) -> str | None:
        return self.failure


def report(windows: int, **changes: Any) -> TrialReport:
    fields: dict[str, Any] = {
        "windows": windows,
        "candidate_alarm_share": 0.05,
        "previous_alarm_share": 0.05,
        "non_finite": 0,
        "candidate_latency_us": 100.0,
        "previous_latency_us": 100.0,
    }
    return TrialReport.model_validate(fields | changes)


class Device:
    """One device and the server's side of it. `restart` is a power cut: only the disk is left."""

    def __init__(self, folder: Path, fleet: Fleet, *approvers: SigningKey) -> None:
        """All of the approvers must have signed."""
        self.folder, self.fleet = folder, fleet
        keys = [key.public for key in approvers or [fleet.approver]]
        self.approvers = PublicKeys(keys, threshold=len(keys))
        self.said: list[RolloutStatus] = []
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.bad: frozenset[str] = frozenset()
        self.now = 1000.0
        self.clock = Clock(monotonic=lambda: self.now)
        self.restart()

    def restart(self) -> None:
        self.engine = FakeEngine(self.bad)
        self.rollout = Rollout(
            DEVICE,
            self.folder,
            self.approvers,
            PublicKeys([self.fleet.server.public]),
            self.engine,
            self._put,
            lambda sha256, indexes: self.asked.append((sha256, indexes)),
            self.clock,
        )
        self.rollout.start_up(OLD)

    def wait(self, seconds: float) -> None:
        """Time goes by, and the rollout has its turn."""
        self.now += seconds
        self.rollout.turn()

    def _put(self, bodies: list[Body]) -> None:
        self.said += [body for body in bodies if isinstance(body, RolloutStatus)]

    @property
    def memory(self) -> Memory:
        return self.rollout.memory

    @property
    def step(self) -> Step:
        return self.rollout.step

    def offer(self, bundle: Bundle, **changes: Any) -> None:
        self.rollout.turn(self.fleet.offer(bundle, **changes))

    def send(self, bundle: Bundle, indexes: Any = None) -> None:
        every = chunks(bundle)
        for i in range(len(every)) if indexes is None else indexes:
            self.rollout.turn(every[i])
        self.rollout.turn()

    def to_trial(self, bundle: Bundle, **changes: Any) -> None:
        self.offer(bundle, **changes)
        if self.step is Step.FETCHING:
            self.send(bundle)
        assert self.step is Step.TRIAL

    def verify(self, bundle: Bundle) -> None:
        self.to_trial(bundle)
        self.engine.shown = report(16)
        self.rollout.turn()
        assert self.step is Step.ACTIVE


def chunks(bundle: Bundle, size: int = 1024) -> list[Chunk]:
    parts = [bundle.data[i : i + size] for i in range(0, len(bundle.data), size)]
    return [
        Chunk(sha256=bundle.sha256, index=i, count=len(parts), data=base64.b64encode(part))
        for i, part in enumerate(parts)
    ]
