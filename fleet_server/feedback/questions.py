"""What people are asked. The rules:

1. Only where an answer tells something: people disagree, or are not sure (a second opinion, blind); the score is close
   to the threshold; the group of machines has few labels; one window a day at random, or the loop sees only what it
   flags itself.
2. Nobody is asked what they have judged already, or have declined; and nothing that somebody else has answered, but for
   second opinions.
3. At most ASKED_A_DAY a person and day, and none to who has said TIRED things that day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import NAMESPACE_OID, UUID, uuid5

from fleet_server.store import questions as rows
from fleet_server.store.pool import Connection
from fleet_server.store.questions import CandidateRow
from models.contract.health import AssetHealth
from models.contract.people import Question
from models.form.api import ASKED_A_DAY, TIRED

RECENT: Final = timedelta(days=14)
DAY: Final = timedelta(days=1)
CLOSE: Final = 0.1  # score to threshold
THIN: Final = 5  # accepted labels of a kind of machine
LOOKED_AT: Final = 500  # alarms
Kind = Literal["second_opinion", "uncertain", "thin_group", "disagreement", "random"]
RANK: Final[Sequence[Kind]] = ("disagreement", "second_opinion", "uncertain", "thin_group", "random")


def open_for(
    conn: Connection,
    health: Mapping[str, AssetHealth],
    now: datetime,
    *,
    person: str | None = None,
    device: str | None = None,
) -> list[Question]:
    """What to ask this person (None: whoever it is) about these machines, the most informative first."""
    asked, said = rows.day_of(conn, person, now - DAY) if device is None else (0, 0)
    if said >= TIRED or asked >= ASKED_A_DAY:
        return []
    by_asset = rows.accepted_by_asset(conn)
    labels: Counter[str] = Counter()
    for asset, n in by_asset.items():
        if asset in health:
            labels[health[asset].kind] += n
    found = [
        _about(row, kind)
        for row in rows.candidates(conn, since=now - RECENT, person=person, device=device, limit=LOOKED_AT)
        if row.asset_id in health and not row.mine and (kind := _why(row, labels[health[row.asset_id].kind]))
    ]
    found += [each for each in _random(conn, now, device) if each.asset in health]
    ids = [each.question_id for each in found]
    by_anybody, by_them = rows.settled(conn, ids, None), rows.settled(conn, ids, person) if person else set()
    found = [each for each in found if each.question_id not in (by_them if each.blind else by_anybody)]
    found.sort(key=lambda each: RANK.index(each.kind))  # stable: the newest first within a kind
    return found[: ASKED_A_DAY - asked]


def _why(row: CandidateRow, labels: int) -> Kind | None:
    if row.people:
        return "disagreement" if row.opinions > 1 else "second_opinion" if row.label_status == "held" else None
    if abs(row.score - row.threshold) < CLOSE:
        return "uncertain"
    return "thin_group" if labels < THIN else None


def _about(row: CandidateRow, kind: Kind) -> Question:
    return Question(
        question_id=_id(row.event_id, kind),
        kind=kind,
        asset=row.asset_id,
        event_id=row.event_id,
        start=row.start_at,
        end=max(row.start_at, row.end_at),
        blind=kind in ("disagreement", "second_opinion"),
        expires_at=row.start_at + RECENT,
    )


def _random(conn: Connection, now: datetime, device: str | None) -> Iterator[Question]:
    row = rows.reference(conn, since=now - DAY, device=device)
    if row:
        yield Question(
            question_id=_id(row.trace_id, "random"),
            kind="random",
            asset=row.asset_id,
            start=row.window_start,
            end=row.window_end,
            expires_at=row.window_end + DAY,
        )


def _id(subject: UUID, kind: Kind) -> UUID:
    return uuid5(NAMESPACE_OID, f"question {subject} {kind}")
