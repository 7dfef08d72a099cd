"""Alarm episodes. Phases may come late, twice and in any order: the row is the same in the end, because each column is
made by a rule in which order plays no part."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from models.contract.events import AlarmEvent, Phase


@dataclass(frozen=True)
class EventRow:
    """An episode; `label` is what validation made of it, if anything yet."""

    event_id: UUID
    trace_id: UUID
    device_id: str
    asset_id: str
    opened_at: datetime
    raised_at: datetime
    updated_at: datetime
    cleared_at: datetime | None
    score: float
    threshold: float
    fault_class: str | None
    model_name: str
    model_version: int
    model_sha256: str
    trial: bool
    family: str
    severity: str | None
    repeats: int
    muted: bool
    received_at: datetime
    annotations: int
    label_status: str | None
    label_verdict: str | None
    label_fault: str | None


@dataclass(frozen=True)
class RecentRow:
    """An episode with the phase that describes it, whole."""

    event_id: UUID
    device_id: str
    asset_id: str
    updated_at: datetime
    cleared_at: datetime | None
    score: float
    body: dict[str, Any]
    annotations: int


def merge(conn: Connection[Any], device_id: str, event: AlarmEvent, doubt: str | None) -> bool:
    """Bring in one phase. The first window raised it, the highest score describes it, the end is the clearing phase's.

    Returns:
        False: this id belongs to another device's or asset's event, and nothing was changed.
    """
    body = event.model_dump(mode="json") | ({"clock_doubt": doubt} if doubt else {})
    cursor = conn.execute(
        """
        INSERT INTO event AS old (event_id, trace_id, device_id, asset_id, opened_at, raised_at, updated_at, cleared_at,
                                  score, threshold, fault_class, model_name, model_version, model_sha256, trial, body,
                                  family, severity, repeats, cleared_repeat, last_cleared_at, newest)
        VALUES (%(event)s, %(trace)s, %(device)s, %(asset)s, %(opened)s, %(end)s, %(end)s, %(cleared)s, %(score)s,
                %(threshold)s, %(fault)s, %(name)s, %(version)s, %(sha256)s, %(trial)s, %(body)s,
                %(family)s, %(severity)s, %(repeats)s, %(cleared_repeat)s, %(cleared)s, %(newest)s)
        ON CONFLICT (event_id) DO UPDATE SET
            (trace_id, raised_at) = ROW(
                CASE WHEN excluded.raised_at < old.raised_at THEN excluded.trace_id ELSE old.trace_id END,
                least(old.raised_at, excluded.raised_at)),
            opened_at = least(old.opened_at, excluded.opened_at),
            updated_at = greatest(old.updated_at, excluded.updated_at),
            repeats = greatest(old.repeats, excluded.repeats),
            (cleared_repeat, last_cleared_at, cleared_at) = (
                SELECT last.cleared_repeat, last.at,
                       CASE WHEN last.cleared_repeat >= greatest(old.repeats, excluded.repeats) THEN last.at END
                FROM (VALUES (old.cleared_repeat, old.last_cleared_at),
                             (excluded.cleared_repeat, excluded.last_cleared_at)) AS last (cleared_repeat, at)
                ORDER BY last.cleared_repeat DESC, last.at LIMIT 1),
            severity = (ARRAY['minor', 'major', 'stop'])[greatest(
                array_position(ARRAY['minor', 'major', 'stop'], old.severity),
                array_position(ARRAY['minor', 'major', 'stop'], excluded.severity))],
            (family, newest) = (
                SELECT last.family, last.newest
                FROM (VALUES (old.family, old.newest, old.repeats, old.updated_at),
                             (excluded.family, excluded.newest, excluded.repeats, excluded.updated_at)
                ) AS last (family, newest, repeats, at)
                ORDER BY coalesce((last.newest ->> 'repeats')::int, last.repeats) DESC,
                         coalesce((last.newest ->> 'window_end')::timestamptz, last.at) DESC,
                         last.newest ->> 'phase', last.family LIMIT 1),
            (score, threshold, fault_class, model_name, model_version, model_sha256, trial, body) = (
                SELECT best.score, best.threshold, best.fault_class, best.model_name, best.model_version,
                       best.model_sha256, best.trial, best.body
                FROM (
                    VALUES (old.score, old.threshold, old.fault_class, old.model_name, old.model_version,
                            old.model_sha256, old.trial, old.body),
                           (excluded.score, excluded.threshold, excluded.fault_class, excluded.model_name,
                            excluded.model_version, excluded.model_sha256, excluded.trial, excluded.body)
                ) AS best (score, threshold, fault_class, model_name, model_version, model_sha256, trial, body)
                ORDER BY best.score DESC, (best.body ->> 'window_end')::timestamptz LIMIT 1
            )
        WHERE old.device_id = excluded.device_id AND old.asset_id = excluded.asset_id
        """,
        {
            "event": event.event_id,
            "trace": event.trace_id,
            "device": device_id,
            "asset": event.asset,
            "opened": event.opened_at,
            "end": event.window_end,
            "cleared": event.window_end if event.phase is Phase.CLEARED else None,
            "score": event.score,
            "threshold": event.threshold,
            "fault": event.fault_class,
            "name": event.model.name,
            "version": event.model.version,
            "sha256": event.model.sha256,
            "trial": event.trial,
            "body": Jsonb(body),
            "family": event.family,
            "severity": event.severity and event.severity.value,
            "repeats": event.repeats,
            "cleared_repeat": event.repeats if event.phase is Phase.CLEARED else 0,
            "newest": Jsonb({name: body[name] for name in ("phase", "repeats", "window_end", "muted", "cleared_by")}),
        },
    )
    return cursor.rowcount == 1


_ROWS: Final = """
    SELECT e.event_id, e.trace_id, e.device_id, e.asset_id, e.opened_at, e.raised_at, e.updated_at,
           e.cleared_at, e.score, e.threshold, e.fault_class, e.model_name, e.model_version, e.model_sha256,
           e.trial, e.family, e.severity, e.repeats,
           coalesce((e.newest ->> 'muted')::boolean, false) AS muted, e.received_at,
           (SELECT count(*) FROM annotation a WHERE a.event_id = e.event_id) AS annotations,
           l.status AS label_status, l.verdict AS label_verdict, l.fault AS label_fault
    FROM event e LEFT JOIN label l ON l.subject_id = e.event_id
"""  # of EventRow


def listing(
    conn: Connection[Any],
    *,
    asset_id: str | None = None,
    device_id: str | None = None,
    open_only: bool = False,
    unlabelled_only: bool = False,
    limit: int = 50,
) -> list[EventRow]:
    """The newest first."""
    return (
        conn.cursor(row_factory=class_row(EventRow))
        .execute(
            _ROWS
            + """
            WHERE (%(asset)s::text IS NULL OR e.asset_id = %(asset)s)
              AND (%(device)s::text IS NULL OR e.device_id = %(device)s)
              AND NOT (%(open)s AND e.cleared_at IS NOT NULL)
              AND NOT (%(unlabelled)s AND l.status IS NOT DISTINCT FROM 'accepted')
            ORDER BY e.raised_at DESC, e.event_id LIMIT %(limit)s
            """,
            {
                "asset": asset_id,
                "device": device_id,
                "open": open_only,
                "unlabelled": unlabelled_only,
                "limit": limit,
            },
        )
        .fetchall()
    )


def to_do(conn: Connection[Any], *, since: datetime, asset_id: str | None = None, limit: int) -> list[EventRow]:
    """Open ones, and those raised since then that are not judged yet; the open ones first, then the newest."""
    return (
        conn.cursor(row_factory=class_row(EventRow))
        .execute(
            _ROWS
            + """
            WHERE (%(asset)s::text IS NULL OR e.asset_id = %(asset)s)
              AND (e.cleared_at IS NULL OR (e.raised_at > %(since)s AND l.status IS DISTINCT FROM 'accepted'))
            ORDER BY e.cleared_at IS NOT NULL, e.raised_at DESC, e.event_id LIMIT %(limit)s
            """,
            {"asset": asset_id, "since": since, "limit": limit},
        )
        .fetchall()
    )


def recent(conn: Connection[Any], *, since: datetime, limit: int, person: str | None = None) -> list[RecentRow]:
    """Open ones, and those raised since then; the open ones first, then the newest. With a person, `annotations` counts
    theirs."""
    return (
        conn.cursor(row_factory=class_row(RecentRow))
        .execute(
            """
            SELECT e.event_id, e.device_id, e.asset_id, e.updated_at, e.cleared_at, e.score, e.body,
                   (SELECT count(*) FROM annotation a WHERE a.event_id = e.event_id
                    AND (%(person)s::text IS NULL OR a.annotator = %(person)s)) AS annotations
            FROM event e WHERE e.cleared_at IS NULL OR e.raised_at > %(since)s
            ORDER BY e.cleared_at IS NOT NULL, e.raised_at DESC, e.event_id LIMIT %(limit)s
            """,
            {"since": since, "limit": limit, "person": person},
        )
        .fetchall()
    )


def get(conn: Connection[Any], event_id: UUID) -> EventRow | None:
    return (
        conn.cursor(row_factory=class_row(EventRow))
        .execute(
            """
            SELECT e.event_id, e.trace_id, e.device_id, e.asset_id, e.opened_at, e.raised_at, e.updated_at,
                   e.cleared_at, e.score, e.threshold, e.fault_class, e.model_name, e.model_version, e.model_sha256,
                   e.trial, e.family, e.severity, e.repeats,
                   coalesce((e.newest ->> 'muted')::boolean, false) AS muted, e.received_at,
                   (SELECT count(*) FROM annotation a WHERE a.event_id = e.event_id) AS annotations,
                   l.status AS label_status, l.verdict AS label_verdict, l.fault AS label_fault
            FROM event e LEFT JOIN label l ON l.subject_id = e.event_id WHERE e.event_id = %s
            """,
            (event_id,),
        )
        .fetchone()
    )


def body(conn: Connection[Any], event_id: UUID) -> dict[str, Any]:
    """The phase with the highest score, whole. Empty if there is no such event."""
    row = conn.execute("SELECT body FROM event WHERE event_id = %s", (event_id,)).fetchone()
    return dict(row[0]) if row else {}
