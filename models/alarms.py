"""The life of an alarm, as agent and server both tell it. No I/O and no clock.

1. An alarm is active or cleared (its phases say so) and acknowledged or not (its actions say so), apart.
2. The actions make the same state in whatever order they come and however often: they are sorted by tick, which is one
   more than the highest that was known where it was done, then by the clock, then by id.
3. An acknowledgement, a snooze and a dismissal hold for the severity that was seen: an alarm that has become worse
   since is open to everybody again.
4. Of two things that exclude each other and were done without knowing of each other (the same tick), the later counts,
   and the conflict is shown.

Families: the taxonomy's faults that one defect turns into each other are one; a class that the taxonomy does not know
is its own; what no class explains is "novelty".

Severity is counted in points. The class: 2 where it ends in a standstill, 1 where it wears other parts down, else 0.
The size: by the odds of the score over those of the threshold, 1 from 9 times on, 2 from 99. The rise: 1 if it came
from under half the threshold within SUDDEN windows. 0 or 1 is minor, 5 is stop, between them major; what has no class
is never more than major, for nobody can say what would break.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final
from uuid import UUID

from pydantic import AwareDatetime

from models.contract.alarms import Act, AlarmAction, Maintenance, Place
from models.contract.base import Message
from models.contract.labels import FaultKind, Severity

NOVELTY: Final = "novelty"
FAMILY: Final[dict[str, str]] = {
    FaultKind.BEARING: "bearing",
    FaultKind.LUBRICATION: "bearing",
    FaultKind.GEAR: "bearing",
    FaultKind.IMBALANCE: "rotor",
    FaultKind.MISALIGNMENT: "rotor",
    FaultKind.LOOSENESS: "rotor",
    FaultKind.CAVITATION: "flow",
    FaultKind.LEAK: "flow",
    FaultKind.VALVE: "flow",
    FaultKind.ELECTRICAL: "electrical",
    FaultKind.SENSOR: "sensor",
}
SUDDEN: Final = 5  # windows
_STANDSTILL: Final = {FaultKind.BEARING, FaultKind.GEAR, FaultKind.ELECTRICAL}
_WEARS: Final = {FaultKind.LUBRICATION, FaultKind.LOOSENESS, FaultKind.CAVITATION, FaultKind.LEAK}
RANK: Final = {Severity.MINOR: 0, Severity.MAJOR: 1, Severity.STOP: 2}


def family(fault_class: str | None) -> str:
    """The family of a class that the model believes in; None: it believes in none."""
    return NOVELTY if fault_class is None else FAMILY.get(fault_class, fault_class)[:40]


def severity(score: float, threshold: float, fault_class: str | None, *, sudden: bool) -> Severity:
    """By the rule above."""
    points = 2 if fault_class in _STANDSTILL else 1 if fault_class in _WEARS else 0
    odds = score * (1 - threshold)
    even = (1 - score) * threshold
    points += 2 if odds >= 99 * even else 1 if odds >= 9 * even else 0
    points += sudden
    if points >= 5 and fault_class is not None:
        return Severity.STOP
    return Severity.MAJOR if points >= 2 else Severity.MINOR


def worse(a: Severity | None, b: Severity | None) -> Severity | None:
    """The higher of both."""
    return max((each for each in (a, b) if each is not None), key=RANK.__getitem__, default=None)


class Done(Message):
    """Who did it, when by their clock, and where."""

    by: str
    at: AwareDatetime
    place: Place


class AlarmState(Message):
    """What the actions on one alarm come to, for the severity that it has now."""

    acknowledged: Done | None = None  # the first that holds, wherever it was given
    acknowledged_at_machine: Done | None = None
    acknowledged_at_server: Done | None = None
    dismissed: Done | None = None
    snoozed_until: AwareDatetime | None = None  # may be over
    assigned_to: str | None = None
    level: int = 0  # of escalation
    comments: int = 0
    recovered: Done | None = None
    conflicts: tuple[str, ...] = ()
    actions: tuple[AlarmAction, ...] = ()  # in the order that counts

    def quiet(self, now: datetime) -> bool:
        """Nobody needs to be told again."""
        snoozed = self.snoozed_until is not None and now < self.snoozed_until
        return bool(self.acknowledged or self.dismissed) or snoozed


def order(action: AlarmAction) -> tuple[int, datetime, UUID]:
    return action.tick, action.made_at, action.action_id


def next_tick(known: Iterable[AlarmAction | Maintenance]) -> int:
    """For what is done in knowledge of these."""
    return 1 + max((each.tick for each in known), default=0)


def better(a: AlarmAction, b: AlarmAction) -> AlarmAction:
    """Which record of one action counts, where it was taken both on the agent and on the server."""
    return min(a, b, key=lambda each: (each.digest(), each.tick, each.place, str(each.severity), str(each.trace_id)))


def newer(a: Maintenance, b: Maintenance) -> Maintenance:
    """Which word on one maintenance window counts."""
    return max(a, b, key=lambda each: (each.tick, each.made_at, each.digest(), str(each.trace_id)))


def state(actions: Iterable[AlarmAction], now_severity: Severity | None = None) -> AlarmState:
    """Fold the actions on one alarm, in any order, with any of them twice."""
    conflicts: set[str] = set()
    by_id: dict[UUID, AlarmAction] = {}
    for action in actions:
        known = by_id.get(action.action_id)
        if known is not None and known.digest() != action.digest():
            conflicts.add("one id, two actions")
        by_id[action.action_id] = better(known, action) if known else action
    ordered = sorted(by_id.values(), key=order)
    of: dict[Act, list[AlarmAction]] = defaultdict(list)
    for action in ordered:
        of[action.action].append(action)

    def first(kind: Act, place: Place | None = None) -> Done | None:
        for each in of[kind]:
            if place in (None, each.place) and _holds(each, now_severity):
                return Done(by=each.actor, at=each.made_at, place=each.place)
        return None

    snooze = next((each for each in reversed(of[Act.SNOOZE]) if _holds(each, now_severity)), None)
    if any(a.tick == b.tick and a.until != b.until for a, b in _pairs(of[Act.SNOOZE])):
        conflicts.add("snoozed twice at once")
    if any(a.tick == b.tick and a.to != b.to for a, b in _pairs(of[Act.ASSIGN])):
        conflicts.add("assigned twice at once")
    return AlarmState(
        acknowledged=first(Act.ACKNOWLEDGE),
        acknowledged_at_machine=first(Act.ACKNOWLEDGE, "machine"),
        acknowledged_at_server=first(Act.ACKNOWLEDGE, "server"),
        dismissed=first(Act.DISMISS),
        snoozed_until=snooze.until if snooze else None,
        assigned_to=(of[Act.ASSIGN][-1].to or None) if of[Act.ASSIGN] else None,
        level=max((each.level for each in of[Act.ESCALATE]), default=0),
        comments=len(of[Act.COMMENT]),
        recovered=first(Act.RECOVERED),
        conflicts=tuple(sorted(conflicts)),
        actions=tuple(ordered),
    )


def mutes(windows: Iterable[Maintenance], at: datetime) -> Maintenance | None:
    """The maintenance window that mutes an asset then, settling included; the one that began first."""
    running = [each for each in windows if fences(each, at, at)]
    return min(running, key=lambda each: (each.start, each.maintenance_id), default=None)


def fences(window: Maintenance, start: datetime, end: datetime) -> bool:
    """True: this stretch touches the window or the time of settling after it."""
    if window.cancelled or end < window.start:
        return False
    return window.end is None or start < window.end + timedelta(seconds=window.settle_s)


def _holds(action: AlarmAction, now_severity: Severity | None) -> bool:
    return action.severity is None or now_severity is None or RANK[now_severity] <= RANK[action.severity]


def _pairs(actions: Sequence[AlarmAction]) -> Iterable[tuple[AlarmAction, AlarmAction]]:
    """Neighbours in order; those of the same tick stand together."""
    return pairwise(actions)
