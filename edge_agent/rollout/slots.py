"""What is on this disk, and what of it may run: the current bundle, the one before, the baseline."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from edge_agent.bundles import BundleStore, Memory
from edge_agent.errors import BundleRejected
from models.bundle.files import Bundle
from models.contract.base import ModelRef

log = logging.getLogger(__name__)


class Slots:
    """The bundles a device can fall back on. `check` is the Engine's."""

    def __init__(self, store: BundleStore, memory: Memory, baseline: Bundle, check: Callable[[Bundle], None]) -> None:
        self._store, self._memory, self.baseline, self._check = store, memory, baseline, check
        with contextlib.suppress(OSError):  # a full disk; it runs from memory
            if not store.has(baseline.sha256):
                store.save(baseline.data)
        current, shipped = memory.get("current"), memory.get("baseline")
        if current is None or (current == shipped != baseline.sha256):  # the first start, or one with a newer baseline
            memory.set(
                current=baseline.sha256,
                previous=current or baseline.sha256,
                verified=lambda known: sorted({*(known or []), baseline.sha256}),
            )
        if shipped != baseline.sha256:
            memory.set(baseline=baseline.sha256)

    def usable(self, sha256: str) -> Bundle:
        """Whole, fit for this device, and with its golden scores. Raises BundleRejected."""
        bundle = self.baseline if sha256 == self.baseline.sha256 else self._store.load(sha256)
        self._check(bundle)
        return bundle

    def may_run(self, sha256: str) -> bool:
        """Without having looked whether it can."""
        if sha256 in {*self._memory.get("barred", []), *self._memory.get("failed", [])}:
            return False
        with contextlib.suppress(BundleRejected):
            return bool(self._store.load(sha256).manifest.version >= self._memory.get("floor", 0))
        return True  # what is wrong with it is for `usable` to say

    def first_usable(self, blamed: str | None) -> tuple[Bundle, str]:
        """What to run after a start, and why it is not the current one; "": it is.

        Args:
            blamed: why the current one is not to be run although it could be.

        Raises:
            BundleRejected: not even the baseline.
        """
        problems: list[str] = []
        for slot in ("current", "previous", "baseline"):
            sha256 = self._memory.get(slot)
            if slot == "previous" and not self.may_run(sha256):
                continue
            try:
                if slot == "current" and blamed and sha256 != self.baseline.sha256:
                    raise BundleRejected(sha256[:12], blamed)
                return self.usable(sha256), "; ".join(problems)
            except BundleRejected as exc:
                problems.append(f"{slot}: {exc}")
        raise BundleRejected("every bundle on this device", "; ".join(problems))

    def way_back(self, left: ModelRef) -> tuple[Bundle | None, str]:
        """The bundle to go back to, and what was wrong with those that were tried. None: there is none."""
        problems: list[str] = []
        for sha256 in dict.fromkeys((self._memory.get("previous"), self.baseline.sha256)):
            if sha256 == left.sha256 or not (sha256 == self.baseline.sha256 or self.may_run(sha256)):
                continue
            try:
                return self.usable(sha256), "; ".join(problems)
            except BundleRejected as exc:
                log.error("bundle not usable", extra={"sha256": sha256, "reason": str(exc)})
                problems.append(str(exc))
        return None, "; ".join(problems)
