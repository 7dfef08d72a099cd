"""What people said, kept as they said it, whatever became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from models.contract.messages import Annotation


@dataclass(frozen=True)
class AnnotationRow:
    """`status` is new, accepted, held or rejected; `written_at` is the annotator's clock, `received_at` ours."""

    annotation_id: UUID
    trace_id: UUID
    event_id: UUID | None
    asset_id: str
    start_at: datetime
    end_at: datetime
    verdict: str
    fault: str | None
    severity: str | None
    note: str
    annotator: str
    provenance: str
    via: str
    written_at: datetime
    received_at: datetime
    digest: str
    status: str
    reason: str
    superseded_by: UUID | None = None  # a later one by the same person, which names this one
    learn: bool = True  # False: "do not learn from this": kept and counted, it has no vote in a label
    clock_off_s: float | None = None  # the phone's clock minus the host's that took it; None: it was not said


_ROWS: Final = sql.SQL(
    """
    SELECT annotation_id, trace_id, event_id, asset_id, start_at, end_at, verdict, fault, severity, note, annotator,
           provenance, via, written_at, received_at, digest, status, reason,
           (SELECT n.annotation_id FROM annotation n
            WHERE n.body ->> 'supersedes' = a.annotation_id::text AND n.annotator = a.annotator
            ORDER BY n.annotation_id LIMIT 1) AS superseded_by,
           coalesce((body ->> 'learn')::boolean, true) AS learn,
           round(extract(epoch FROM (body ->> 'sent_at')::timestamptz
                                    - coalesce((body ->> 'taken_at')::timestamptz, received_at)), 1)::float
               AS clock_off_s
    FROM annotation a
    """
)


def lock_subject(conn: Connection[Any], subject_id: UUID) -> None:
    """One at a time decides about an event: until the end of the transaction."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('subject ' || %s::text, 0))", (subject_id,))


def insert(conn: Connection[Any], said: Annotation, *, via: str, received_at: datetime, digest: str) -> bool:
    """False: this id is there already."""
    cursor = conn.execute(
        """
        INSERT INTO annotation (annotation_id, trace_id, event_id, asset_id, start_at, end_at, verdict, fault, severity,
                                note, annotator, provenance, via, written_at, received_at, digest, body)
        VALUES (%(id)s, %(trace)s, %(event)s, %(asset)s, %(start)s, %(end)s, %(verdict)s, %(fault)s, %(severity)s,
                %(note)s, %(annotator)s, %(provenance)s, %(via)s, %(written)s, %(received)s, %(digest)s, %(body)s)
        ON CONFLICT (annotation_id) DO NOTHING
        """,
        {
            "id": said.annotation_id,
            "trace": said.trace_id,
            "event": said.event_id,
            "asset": said.asset,
            "start": said.start,
            "end": said.end,
            "verdict": said.verdict.value,
            "fault": said.fault and said.fault.value,
            "severity": said.severity and said.severity.value,
            "note": said.note,
            "annotator": said.annotator,
            "provenance": said.provenance.value,
            "via": via,
            "written": said.made_at,
            "received": received_at,
            "digest": digest,
            "body": Jsonb(said.model_dump(mode="json")),
        },
    )
    return cursor.rowcount == 1


def get(conn: Connection[Any], annotation_id: UUID) -> AnnotationRow | None:
    return (
        conn.cursor(row_factory=class_row(AnnotationRow))
        .execute(
            _ROWS + sql.SQL("WHERE annotation_id = %s"),
            (annotation_id,),
        )
        .fetchone()
    )


def of_subject(conn: Connection[Any], subject_id: UUID) -> list[AnnotationRow]:
    """All about one event, or the one annotation that stands for itself; in the order they were written."""
    return (
        conn.cursor(row_factory=class_row(AnnotationRow))
        .execute(
            _ROWS
            + sql.SQL(
                """
                WHERE event_id = %(subject)s OR (annotation_id = %(subject)s AND event_id IS NULL)
                ORDER BY written_at, received_at, annotation_id
                """
            ),
            {"subject": subject_id},
        )
        .fetchall()
    )


def same_stretch(
    conn: Connection[Any], asset_id: str, annotator: str, start: datetime, end: datetime
) -> list[AnnotationRow]:
    """What this person said of exactly this stretch of time, without an event; in the order it was written."""
    return (
        conn.cursor(row_factory=class_row(AnnotationRow))
        .execute(
            _ROWS
            + sql.SQL(
                """
                WHERE event_id IS NULL AND asset_id = %s AND annotator = %s AND start_at = %s AND end_at = %s
                ORDER BY written_at, received_at, annotation_id
                """
            ),
            (asset_id, annotator, start, end),
        )
        .fetchall()
    )


def waiting_for_asset(conn: Connection[Any], asset_id: str) -> list[UUID]:
    """Subjects that were held because nobody had heard of this asset yet."""
    return [
        row[0]
        for row in conn.execute(
            """
            SELECT DISTINCT coalesce(event_id, annotation_id) FROM annotation
            WHERE asset_id = %s AND status = 'held' AND reason LIKE 'no such asset%%'
            """,
            (asset_id,),
        ).fetchall()
    ]


def held_but_measured(conn: Connection[Any], reason: str) -> list[UUID]:
    """Subjects that were held for this reason, of which windows have come since."""
    return [
        row[0]
        for row in conn.execute(
            """
            SELECT DISTINCT coalesce(event_id, annotation_id) FROM annotation a
            WHERE status = 'held' AND reason = %s
              AND EXISTS (SELECT FROM prediction p WHERE p.asset_id = a.asset_id AND p.window_end > a.start_at
                          AND p.window_start < a.end_at)
            """,
            (reason,),
        ).fetchall()
    ]


def listing(conn: Connection[Any], limit: int = 100) -> list[AnnotationRow]:
    """The newest first, as they were received."""
    return (
        conn.cursor(row_factory=class_row(AnnotationRow))
        .execute(
            _ROWS + sql.SQL("ORDER BY received_at DESC, annotation_id LIMIT %s"),
            (limit,),
        )
        .fetchall()
    )


def set_status(conn: Connection[Any], annotation_id: UUID, status: str, reason: str) -> None:
    conn.execute(
        "UPDATE annotation SET status = %s, reason = %s WHERE annotation_id = %s", (status, reason, annotation_id)
    )
