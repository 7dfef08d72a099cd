"""What validation made of the annotations of one event, or of one free stretch of time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row


@dataclass(frozen=True)
class LabelRow:
    """`subject_id` is the event, or the annotation where there is none; `status` is accepted or held."""

    label_id: UUID
    subject_id: UUID
    event_id: UUID | None
    trace_id: UUID
    asset_id: str
    start_at: datetime
    end_at: datetime
    verdict: str
    fault: str | None
    weight: float
    provenance: str
    annotations: list[UUID]
    status: str
    reason: str
    decided_at: datetime


def put(conn: Connection[Any], row: LabelRow) -> None:
    """One label a subject. It keeps its id, and its time of decision unless the decision is another one."""
    conn.execute(
        """
        INSERT INTO label AS old (label_id, subject_id, event_id, trace_id, asset_id, start_at, end_at, verdict, fault,
                                  weight, provenance, annotations, status, reason, decided_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (subject_id) DO UPDATE SET
            trace_id = excluded.trace_id, start_at = excluded.start_at, end_at = excluded.end_at,
            verdict = excluded.verdict, fault = excluded.fault, weight = excluded.weight,
            provenance = excluded.provenance, annotations = excluded.annotations, status = excluded.status,
            reason = excluded.reason,
            decided_at = CASE WHEN (old.verdict, old.fault, old.weight, old.status)
                IS DISTINCT FROM (excluded.verdict, excluded.fault, excluded.weight, excluded.status)
                THEN excluded.decided_at ELSE old.decided_at END
        """,
        (
            row.label_id,
            row.subject_id,
            row.event_id,
            row.trace_id,
            row.asset_id,
            row.start_at,
            row.end_at,
            row.verdict,
            row.fault,
            row.weight,
            row.provenance,
            row.annotations,
            row.status,
            row.reason,
            row.decided_at,
        ),
    )


def get(conn: Connection[Any], subject_id: UUID) -> LabelRow | None:
    return (
        conn.cursor(row_factory=class_row(LabelRow))
        .execute(
            """
            SELECT label_id, subject_id, event_id, trace_id, asset_id, start_at, end_at, verdict, fault, weight,
                   provenance, annotations, status, reason, decided_at
            FROM label WHERE subject_id = %s
            """,
            (subject_id,),
        )
        .fetchone()
    )


def listing(conn: Connection[Any], status: str | None = None, limit: int = 100) -> list[LabelRow]:
    """The newest decision first."""
    return (
        conn.cursor(row_factory=class_row(LabelRow))
        .execute(
            """
            SELECT label_id, subject_id, event_id, trace_id, asset_id, start_at, end_at, verdict, fault, weight,
                   provenance, annotations, status, reason, decided_at
            FROM label WHERE %(status)s::text IS NULL OR status = %(status)s
            ORDER BY decided_at DESC, label_id LIMIT %(limit)s
            """,
            {"status": status, "limit": limit},
        )
        .fetchall()
    )
