"""What a Rollout needs of the part that scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from models.bundle.files import Bundle
from models.contract.messages import Assignment, TrialReport


class Engine(Protocol):
    """What scores: the detector."""

    def check(self, bundle: Bundle) -> None:
        """Raises BundleRejected unless it loads, fits every asset and gives its golden scores."""

    def run(self, bundle: Bundle) -> None:
        """Score with this one alone from the next window on."""

    def running(self) -> frozenset[str]:
        """The hashes of what scores now: one, if all is well."""

    def bad_in_a_row(self) -> int:
        """How many of the last windows of an asset got no score that is a number; of the worst asset."""

    def try_out(self, bundle: Bundle) -> None:
        """Score with this one, beside the one that runs."""

    def end_trial(self) -> None:
        """Only the one that ran before scores again."""

    def trial(self) -> TrialReport | None:
        """What the trial has shown so far, with the share and score figures of both; None: no trial."""

    def shadow(self, bundle: Bundle, order: Assignment) -> None:
        """Score with this one as far as the order's share of the processor goes. Nothing it says is an alarm."""

    def end_shadow(self) -> None:
        """The last reports go out; no more of it."""

    def shadow_failure(self) -> str | None:
        """Why the shadow can not go on; None: it can."""


Examine = Callable[[Bundle, Callable[[], bool]], None]
"""Raises BundleRejected if a new bundle does harm in a process of its own. The second argument: is it to give up?"""
