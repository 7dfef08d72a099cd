"""A release on its way to run here. The rules:

1. An offer counts only with a signed assignment for this device, of a higher sequence than any before, and a signed
   approval of the very same bytes. No version below the floor, none that is barred, none that failed here before.
2. Each step is on disk before it is taken, and told to the server through the outbox, with its cause in numbers.
3. Nothing runs before its hash, its operators, its fit to this device and its golden scores were checked; the scores of
   a new one first in a process of its own, with limits.
4. A challenger in shadow is scored as far as its share of the processor goes, and raises nothing.
5. A release runs on trial beside the one it replaces, on the same windows. Any limit crossed: back at once, from disk.
6. A restart during the trial goes back: only the old model is known to be good. Killed twice in it: denied here.
7. Only a release that was verified here before may come back without a trial.
8. What does not load at a start gives way to the one before it, and that to the baseline: a device is never without.
9. Many switches or falls in a short time: what is verified stays, and the next release waits.
10. A step that takes too long is given up. Where going back fails, that is said and nothing is made up.
"""

from __future__ import annotations

import enum
from typing import Final

from models.contract.release import Step


class Event(enum.Enum):
    """What can happen to a release on its way."""

    ACCEPTED = enum.auto()  # both signatures hold and no rule forbids it
    HELD = enum.auto()  # the same, and there were too many switches before it
    FETCHED = enum.auto()  # its bytes are here, and are the approved ones
    VERIFIED = enum.auto()  # it loads, fits and gives its golden scores
    CHALLENGES = enum.auto()  # the same, and it is to run in shadow
    KNOWN_GOOD = enum.auto()  # the same, and it was verified on this device before
    REFUSED = enum.auto()
    HEALTHY = enum.auto()  # the trial, or the time in shadow, is over and no limit was crossed
    WORSE = enum.auto()  # a limit was crossed
    LATE = enum.auto()  # the step took too long
    STRANDED = enum.auto()  # a way back that can not be gone, away from what must not run
    SUPERSEDED = enum.auto()  # a newer assignment, or somebody at the device, wants something else
    RESTARTED = enum.auto()


STEPS: Final = {
    (Step.OFFERED, Event.ACCEPTED): Step.FETCHING,
    (Step.OFFERED, Event.HELD): Step.OFFERED,
    (Step.OFFERED, Event.REFUSED): Step.REJECTED,
    (Step.OFFERED, Event.SUPERSEDED): Step.REJECTED,
    (Step.FETCHING, Event.FETCHED): Step.CHECKING,
    (Step.FETCHING, Event.REFUSED): Step.REJECTED,
    (Step.FETCHING, Event.LATE): Step.REJECTED,
    (Step.FETCHING, Event.SUPERSEDED): Step.REJECTED,
    (Step.FETCHING, Event.RESTARTED): Step.FETCHING,  # the pieces that came are on disk
    (Step.CHECKING, Event.VERIFIED): Step.TRIAL,
    (Step.CHECKING, Event.CHALLENGES): Step.SHADOW,
    (Step.CHECKING, Event.KNOWN_GOOD): Step.ACTIVE,
    (Step.CHECKING, Event.REFUSED): Step.REJECTED,
    (Step.CHECKING, Event.STRANDED): Step.INCONSISTENT,
    (Step.CHECKING, Event.RESTARTED): Step.CHECKING,
    (Step.SHADOW, Event.HEALTHY): Step.SHADOWED,
    (Step.SHADOW, Event.SUPERSEDED): Step.SHADOWED,
    (Step.SHADOW, Event.WORSE): Step.REJECTED,
    (Step.SHADOW, Event.RESTARTED): Step.SHADOW,  # it decides nothing, so it may go on
    (Step.TRIAL, Event.HEALTHY): Step.ACTIVE,
    (Step.TRIAL, Event.WORSE): Step.ROLLED_BACK,
    (Step.TRIAL, Event.LATE): Step.ROLLED_BACK,
    (Step.TRIAL, Event.SUPERSEDED): Step.ROLLED_BACK,
    (Step.TRIAL, Event.RESTARTED): Step.ROLLED_BACK,
}
