"""Maintenance windows, and patterns that do not alarm."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from models.alarms import newer
from models.contract.alarms import Maintenance, Suppression


def put(conn: Connection[Any], word: Maintenance, *, via: str, received_at: datetime) -> bool:
    """Keep a word on a window, if it is the one that counts. False: it changes nothing."""
    conn.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('maintenance ' || %s::text, 0))", (word.maintenance_id,)
    )
    known = get(conn, word.maintenance_id)
    if known is not None and (known == word or newer(known, word) is known):
        return False
    conn.execute(
        """
        INSERT INTO maintenance
            (maintenance_id, asset_id, start_at, end_at, fenced_until, cancelled, via, received_at, body)
        VALUES (%(id)s, %(asset)s, %(start)s, %(end)s, %(fenced)s, %(cancelled)s, %(via)s, %(received)s, %(body)s)
        ON CONFLICT (maintenance_id) DO UPDATE SET asset_id = excluded.asset_id, start_at = excluded.start_at,
            end_at = excluded.end_at, fenced_until = excluded.fenced_until, cancelled = excluded.cancelled,
            via = excluded.via, received_at = excluded.received_at, body = excluded.body
        """,
        {
            "id": word.maintenance_id,
            "asset": word.asset,
            "start": word.start,
            "end": word.end,
            "fenced": word.end and word.end + timedelta(seconds=word.settle_s),
            "cancelled": word.cancelled,
            "via": via,
            "received": received_at,
            "body": Jsonb(word.model_dump(mode="json")),
        },
    )
    return True


def get(conn: Connection[Any], maintenance_id: UUID) -> Maintenance | None:
    row = conn.execute("SELECT body FROM maintenance WHERE maintenance_id = %s", (maintenance_id,)).fetchone()
    return Maintenance.model_validate(row[0]) if row else None


def listing(
    conn: Connection[Any], asset_id: str | None = None, *, now_or_later: datetime | None = None, limit: int = 100
) -> list[Maintenance]:
    """The latest start first; cancelled ones are not among them. `now_or_later`: those that are not over then."""
    rows = conn.execute(
        """
        SELECT body FROM maintenance
        WHERE NOT cancelled AND (%(asset)s::text IS NULL OR asset_id = %(asset)s)
          AND (%(at)s::timestamptz IS NULL OR fenced_until IS NULL OR fenced_until > %(at)s)
        ORDER BY start_at DESC, maintenance_id LIMIT %(limit)s
        """,
        {"asset": asset_id, "at": now_or_later, "limit": limit},
    ).fetchall()
    return [Maintenance.model_validate(body) for (body,) in rows]


@dataclass(frozen=True)
class Repair:
    """Maintenance of a machine that alarmed. `before`, `after`: the shares of alarms among as many windows."""

    maintenance_id: UUID
    asset_id: str
    event_id: UUID
    before: float
    after: float


def repairs(conn: Connection[Any], *, since: datetime, until: datetime, windows: int, ill: float) -> list[Repair]:
    """What settled in this time and has so many windows on either side, at least the share `ill` of those before in
    alarm; once judged, it is not among them."""
    cursor = conn.cursor(row_factory=class_row(Repair))
    return cursor.execute(
        """
        SELECT m.maintenance_id, m.asset_id, e.event_id, b.share AS before, a.share AS after
        FROM maintenance m
        CROSS JOIN LATERAL (
            SELECT event_id FROM event
            WHERE asset_id = m.asset_id AND family <> 'sensor' AND opened_at < m.start_at
              AND (cleared_at IS NULL OR cleared_at > m.start_at - interval '7 days')
            ORDER BY opened_at DESC LIMIT 1
        ) e
        CROSS JOIN LATERAL (
            SELECT count(*) AS n, avg(alarm::int)::float AS share FROM (
                SELECT alarm FROM prediction
                WHERE asset_id = m.asset_id AND window_end BETWEEN m.start_at - interval '7 days' AND m.start_at
                ORDER BY window_end DESC LIMIT %(windows)s
            ) windows
        ) b
        CROSS JOIN LATERAL (
            SELECT count(*) AS n, avg(alarm::int)::float AS share FROM (
                SELECT alarm FROM prediction
                WHERE asset_id = m.asset_id AND window_end > m.fenced_until AND window_start >= m.fenced_until
                ORDER BY window_end LIMIT %(windows)s
            ) windows
        ) a
        WHERE NOT m.cancelled AND m.fenced_until BETWEEN %(since)s AND %(until)s
          AND b.n = %(windows)s AND a.n = %(windows)s AND b.share >= %(ill)s
          AND NOT EXISTS (
              SELECT FROM feedback
              WHERE signal IN ('repair_helped', 'repair_did_not_help') AND about = m.maintenance_id
          )
        """,
        {"since": since, "until": until, "windows": windows, "ill": ill},
    ).fetchall()


@dataclass(frozen=True)
class SuppressionRow:
    """A pattern that does not alarm; `ended` empty: until then."""

    suppression_id: UUID
    device_id: str
    asset_id: str
    event_id: UUID
    annotation_id: UUID
    annotator: str
    since: datetime
    until: datetime
    ended: str
    ended_by: str
    windows: int
    drivers: list[str]
    received_at: datetime


def put_suppression(conn: Connection[Any], device_id: str, said: Suppression, received_at: datetime) -> bool:
    """Ended stays ended, and counts only rise. False: this id is another device's."""
    cursor = conn.execute(
        """
        INSERT INTO suppression AS old (suppression_id, device_id, asset_id, event_id, annotation_id, annotator, since,
                                        until, ended, ended_by, windows, drivers, received_at)
        VALUES (%(id)s, %(device)s, %(asset)s, %(event)s, %(annotation)s, %(annotator)s, %(since)s,
                %(until)s, %(ended)s, %(ended_by)s, %(windows)s, %(drivers)s, %(received)s)
        ON CONFLICT (suppression_id) DO UPDATE SET
            (ended, ended_by) = ROW(
                CASE WHEN old.ended = '' THEN excluded.ended ELSE old.ended END,
                CASE WHEN old.ended = '' THEN excluded.ended_by ELSE old.ended_by END),
            windows = greatest(old.windows, excluded.windows),
            received_at = excluded.received_at
        WHERE old.device_id = excluded.device_id
        """,
        {
            "id": said.suppression_id,
            "device": device_id,
            "asset": said.asset,
            "event": said.event_id,
            "annotation": said.annotation_id,
            "annotator": said.annotator,
            "since": said.since,
            "until": said.until,
            "ended": said.ended,
            "ended_by": said.ended_by,
            "windows": said.windows,
            "drivers": list(said.drivers),
            "received": received_at,
        },
    )
    return cursor.rowcount == 1


def suppressions(
    conn: Connection[Any],
    *,
    asset_id: str | None = None,
    suppression_id: UUID | None = None,
    holding_at: datetime | None = None,
    limit: int = 100,
) -> list[SuppressionRow]:
    """The newest first. `holding_at`: those that hold then."""
    return (
        conn.cursor(row_factory=class_row(SuppressionRow))
        .execute(
            """
            SELECT * FROM suppression
            WHERE (%(asset)s::text IS NULL OR asset_id = %(asset)s)
              AND (%(id)s::uuid IS NULL OR suppression_id = %(id)s)
              AND (%(at)s::timestamptz IS NULL OR (ended = '' AND until > %(at)s))
            ORDER BY since DESC, suppression_id LIMIT %(limit)s
            """,
            {"asset": asset_id, "id": suppression_id, "at": holding_at, "limit": limit},
        )
        .fetchall()
    )
