"""Rules for annotations. Everything is kept; the rules say what may vote.

Rejected, for good: it contradicts itself (1-4), or the same person has said it already (5) or said something else since
(6). Held, until more is known: it is about something unknown, from the future, or the sensors speak against it (7-11).

1. It ends before it starts.                       6. Changed their mind: a later vote, or one that names this one.
2. A fault without its kind.                       7. No such event here (yet).
3. A kind of fault without a fault.                8. The event is another machine's.
4. A stretch longer than MAX_STRETCH.              9. No such asset here (yet).
5. Said already: same person, same verdict.       10. It speaks of a time that had not come when it was received.
11. A fault on a machine that was not measured then, though it was before and after: it was off, or is another one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from fleet_server.store.annotations import AnnotationRow
from models.contract.labels import Verdict

MAX_STRETCH: Final = timedelta(days=31)
AHEAD: Final = timedelta(minutes=5)  # so far may an honest clock be off
NOT_MEASURED: Final = "the machine was off then: no window was measured"


class Status(enum.StrEnum):
    ACCEPTED = "accepted"
    HELD = "held"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Outcome:
    """What became of one annotation, and why; an accepted one needs no reason."""

    status: Status
    reason: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known of the subject. `event_asset`: whose event it is, None: no such event; `measured`: False where
    there are windows before and after the stretch, and none in it."""

    event_asset: str | None
    asset_known: bool
    measured: bool = True


def check(said: AnnotationRow, facts: Facts) -> Outcome:
    """One annotation by itself."""
    if wrong := _contradiction(said):
        return Outcome(Status.REJECTED, wrong)
    if said.superseded_by is not None:
        return Outcome(Status.REJECTED, f"superseded by {said.superseded_by}")
    if said.event_id is not None and facts.event_asset is None:
        return Outcome(Status.HELD, f"no such event here yet: {said.event_id}")
    if facts.event_asset not in (None, said.asset_id):
        return Outcome(Status.HELD, f"the event is of {facts.event_asset}, not of {said.asset_id}")
    if not facts.asset_known:
        return Outcome(Status.HELD, f"no such asset here yet: {said.asset_id}")
    latest = max(said.start_at, said.end_at)
    if latest > said.received_at + AHEAD:
        ahead_s = (latest - said.received_at).total_seconds()
        return Outcome(Status.HELD, f"speaks of a time {ahead_s:.0f} s after it was received")
    if said.verdict == Verdict.FAULT and not facts.measured:
        return Outcome(Status.HELD, NOT_MEASURED)
    return Outcome(Status.ACCEPTED)


def judge(subject: Sequence[AnnotationRow], facts: Facts) -> dict[UUID, Outcome]:
    """All annotations of one subject together: a person has one vote, the last one written. The order in which they
    arrived plays no part."""
    outcomes: dict[UUID, Outcome] = {}
    votes: dict[str, AnnotationRow] = {}
    for said in sorted(subject, key=lambda row: (row.written_at, row.received_at, row.annotation_id)):
        outcome = check(said, facts)
        if outcome.status is Status.ACCEPTED:
            before = votes.get(said.annotator)
            if before is not None and _words(before) == _words(said):
                outcome = Outcome(Status.REJECTED, f"duplicate of {before.annotation_id}")
            else:
                if before is not None:
                    outcomes[before.annotation_id] = Outcome(Status.REJECTED, f"superseded by {said.annotation_id}")
                votes[said.annotator] = said
        outcomes[said.annotation_id] = outcome
    return outcomes


def _words(said: AnnotationRow) -> tuple[object, ...]:
    return said.verdict, said.fault, said.learn


def _contradiction(said: AnnotationRow) -> str | None:
    if said.end_at < said.start_at:
        return "it ends before it starts"
    if said.verdict == Verdict.FAULT and said.fault is None:
        return "a fault needs its kind"
    if said.verdict != Verdict.FAULT and said.fault is not None:
        return f"{said.verdict} has no kind of fault"
    if said.end_at - said.start_at > MAX_STRETCH:
        return f"longer than {MAX_STRETCH.days} days"
    return None
