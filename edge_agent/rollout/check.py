"""Everything that is looked at before a release may score: none of it is trusted for having been signed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edge_agent.bundles import BundleStore, Memory
from edge_agent.errors import BundleRejected
from edge_agent.rollout.engine import Engine, Examine
from models.bundle.files import Bundle
from models.contract.messages import Assignment
from models.contract.release import Cause

MAX_CHECKS: Final = 2  # begun and not ended: a release whose check takes the agent down must not do so for ever


class Checker:
    """Looks at a release that is on the disk."""

    def __init__(self, store: BundleStore, memory: Memory, engine: Engine, examine: Examine) -> None:
        self._store, self._memory, self._engine, self._examine = store, memory, engine, examine

    def look(self, assignment: Assignment, give_up: Callable[[], bool]) -> tuple[Bundle, bool]:
        """The bundle, and whether it was verified on this device before.

        Raises:
            BundleRejected: whatever is wrong with it; "the check was broken off" if `give_up` said so.
        """
        model, checks = assignment.model, self._memory.get("checks", 0)
        if checks >= MAX_CHECKS:
            raise BundleRejected(
                model.name, f"the agent ended {checks} times while it checked this release", Cause.KILLED
            )
        if model.sha256 in self._memory.get("failed", []):
            raise BundleRejected(model.name, "it was denied at the device", Cause.DENIED)
        self._memory.set(checks=checks + 1)
        bundle = self._store.load(model.sha256)
        if bundle.ref != model:
            raise BundleRejected(model.name, "it is not the version it was approved as")
        verified = bundle.sha256 in self._memory.get("verified", [])
        if not verified:
            try:
                self._examine(bundle, give_up)
            except OSError:  # no process to be had now: that says nothing of the release
                self._memory.set(checks=checks)
                raise
        self._engine.check(bundle)
        return bundle, verified
