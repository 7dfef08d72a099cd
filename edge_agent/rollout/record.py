"""The step this device is at, on disk, and every step told to the server once."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from edge_agent.bundles import Memory
from edge_agent.clock import Clock
from models.contract.base import ModelRef
from models.contract.ids import new_trace_id
from models.contract.messages import Assignment, Body, RolloutStatus, TrialReport
from models.contract.release import Cause, Evidence, Step
from models.crash_points import crash_point

log = logging.getLogger(__name__)


class Record:
    """Writes each step down first, then tells it; what a cut left untold is told at the next start."""

    def __init__(self, memory: Memory, put: Callable[[list[Body]], object], clock: Clock) -> None:
        self._memory, self._put, self._clock = memory, put, clock
        self._untold = True

    @property
    def step(self) -> Step:
        return Step(self._memory.get("step", Step.ACTIVE))

    @property
    def assignment(self) -> Assignment | None:
        raw = self._memory.get("assignment")
        return Assignment.model_validate(raw) if raw else None

    def write(
        self,
        step: Step,
        reason: str = "",
        *,
        running: ModelRef,
        why: Cause | Evidence | None = None,
        report: TrialReport | None = None,
        release: ModelRef | None = None,
        **values: Any,
    ) -> None:
        """On disk first, then told, then done by whoever called."""
        raw = values.get("assignment") or self._memory.get("assignment")
        assignment = Assignment.model_validate(raw) if raw else None
        release = release or (assignment.model if assignment else running)
        local = values.get("local", self._memory.get("local", False))
        about = assignment if assignment and assignment.model == release and not local else None
        status = RolloutStatus(
            trace_id=new_trace_id(),
            made_at=self._clock.now(),
            assignment=about.sequence if about else 0,
            rollout=about.rollout if about else None,
            release=release,
            step=step,
            reason=reason[:500],
            running=running,
            report=report,
            evidence=Evidence(cause=why) if isinstance(why, Cause) else why,
        )
        said = status.model_dump(mode="json")
        self._memory.set(step=step, last=said, untold=said, **values)
        crash_point(f"rollout.{step}")
        log.info("rollout step", extra={"step": step.value, "reason": reason})
        self._untold = True
        with contextlib.suppress(OSError, sqlite3.Error):  # the step is taken; it is told with a later turn
            self.tell()

    def tell(self) -> None:
        """What is on disk and was not told yet."""
        if self._untold and (untold := self._memory.get("untold")):
            self._put([RolloutStatus.model_validate(untold)])
            self._memory.set(untold=None)
        self._untold = False
