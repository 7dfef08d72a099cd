"""What is worth asking, and who was asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row, scalar_row


@dataclass(frozen=True)
class CandidateRow:
    """An alarm, how many people judged it, how many different opinions they have, and whether this person did."""

    event_id: UUID
    asset_id: str
    start_at: datetime
    end_at: datetime
    score: float
    threshold: float
    label_status: str | None
    people: int
    opinions: int
    mine: bool


@dataclass(frozen=True)
class ReferenceRow:
    """A window picked at random."""

    trace_id: UUID
    asset_id: str
    window_start: datetime
    window_end: datetime


def candidates(
    conn: Connection[Any], *, since: datetime, person: str | None, device: str | None, limit: int
) -> list[CandidateRow]:
    """Alarms of late without an accepted label; the newest first."""
    return (
        conn.cursor(row_factory=class_row(CandidateRow))
        .execute(
            """
            SELECT e.event_id, e.asset_id, e.opened_at AS start_at, coalesce(e.cleared_at, e.updated_at) AS end_at,
                   e.score, e.threshold, l.status AS label_status,
                   count(DISTINCT a.annotator) FILTER (WHERE a.status = 'accepted') AS people,
                   count(DISTINCT (a.verdict, a.fault)) FILTER (WHERE a.status = 'accepted' AND a.verdict <> 'unsure')
                       AS opinions,
                   coalesce(bool_or(a.annotator = %(person)s), false) AS mine
            FROM event e LEFT JOIN label l ON l.subject_id = e.event_id
            LEFT JOIN annotation a ON a.event_id = e.event_id
            WHERE e.raised_at > %(since)s AND l.status IS DISTINCT FROM 'accepted'
              AND (%(device)s::text IS NULL OR e.device_id = %(device)s)
            GROUP BY e.event_id, l.status ORDER BY e.raised_at DESC, e.event_id LIMIT %(limit)s
            """,
            {"since": since, "person": person, "device": device, "limit": limit},
        )
        .fetchall()
    )


def reference(conn: Connection[Any], *, since: datetime, device: str | None) -> ReferenceRow | None:
    """One of the windows that were sent at random since then, by chance, and the same one for everybody."""
    return (
        conn.cursor(row_factory=class_row(ReferenceRow))
        .execute(
            """
            SELECT trace_id, asset_id, window_start, window_end FROM sample
            WHERE reason = 'reference' AND window_end > %(since)s
              AND (%(device)s::text IS NULL OR device_id = %(device)s)
            ORDER BY md5(trace_id::text) LIMIT 1
            """,
            {"since": since, "device": device},
        )
        .fetchone()
    )


def accepted_by_asset(conn: Connection[Any]) -> dict[str, int]:
    """How many accepted labels each asset has."""
    rows = conn.execute("SELECT asset_id, count(*) FROM label WHERE status = 'accepted' GROUP BY asset_id").fetchall()
    return dict(rows)


def settled(conn: Connection[Any], question_ids: list[UUID], person: str | None) -> set[UUID]:
    """Of these, the ones that somebody has answered, or this person has declined."""
    return set(
        conn.cursor(row_factory=scalar_row)
        .execute(
            """
            SELECT (body ->> 'answers')::uuid FROM annotation
            WHERE (body ->> 'answers')::uuid = ANY (%(ids)s) AND (%(person)s::text IS NULL OR annotator = %(person)s)
            UNION SELECT about FROM feedback WHERE signal = 'question_declined' AND about = ANY (%(ids)s)
              AND (%(person)s::text IS NULL OR person = %(person)s)
            """,
            {"ids": question_ids, "person": person},
        )
        .fetchall()
    )


def day_of(conn: Connection[Any], person: str | None, since: datetime) -> tuple[int, int]:
    """(questions that were answered or declined, annotations made) since then, by one person or by all."""
    row = conn.execute(
        """
        SELECT (SELECT count(*) FROM annotation WHERE received_at > %(since)s AND body ->> 'answers' IS NOT NULL
                AND (%(person)s::text IS NULL OR annotator = %(person)s))
             + (SELECT count(*) FROM feedback WHERE signal = 'question_declined' AND received_at > %(since)s
                AND (%(person)s::text IS NULL OR person = %(person)s)),
               (SELECT count(*) FROM annotation WHERE received_at > %(since)s
                AND (%(person)s::text IS NULL OR annotator = %(person)s))
        """,
        {"since": since, "person": person},
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])
