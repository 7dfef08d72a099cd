"""What people did, or think of the system."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row, dict_row

from models.contract.people import Feedback


@dataclass(frozen=True)
class FeedbackRow:
    """`made_at` is the sender's clock, `received_at` ours."""

    feedback_id: UUID
    signal: str
    asset_id: str | None
    event_id: UUID | None
    person: str
    value: float | None
    detail: str
    about: UUID | None
    provenance: str
    via: str
    made_at: datetime
    received_at: datetime


def insert(conn: Connection[Any], said: Feedback, *, via: str, received_at: datetime) -> bool:
    """False: it is here already."""
    cursor = conn.execute(
        """
        INSERT INTO feedback (feedback_id, signal, asset_id, event_id, person, value, detail, about, provenance, via,
                              made_at, received_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
        """,
        (
            said.feedback_id,
            said.signal,
            said.asset,
            said.event_id,
            said.person,
            said.value,
            said.detail,
            said.about,
            said.provenance.value,
            via,
            said.made_at,
            received_at,
        ),
    )
    return cursor.rowcount == 1


def is_here(conn: Connection[Any], feedback_id: UUID) -> bool:
    return conn.execute("SELECT FROM feedback WHERE feedback_id = %s", (feedback_id,)).fetchone() is not None


def satisfaction(conn: Connection[Any], *, by_site: bool = False) -> list[dict[str, Any]]:
    """By month, the oldest first, and by site: how many were asked and answered, their mean of 1 to 5, and the share of
    4 and 5. A site is the first part of a device's name; whoever answers on the server belongs to the machine that they
    spoke of last."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            WITH answer AS (
                SELECT f.value,
                    -- a phone's clock may be years off
                    to_char(greatest(least(f.made_at, f.received_at), f.received_at - interval '31 days'), 'YYYY-MM')
                        AS month,
                    CASE WHEN %(by_site)s THEN coalesce(
                        CASE WHEN f.via <> 'server' THEN split_part(f.via, '.', 1) END,
                        (SELECT split_part(s.device_id, '.', 1) FROM annotation a JOIN asset s USING (asset_id)
                         WHERE a.annotator = f.person ORDER BY a.received_at DESC LIMIT 1), '') END AS site
                FROM feedback f WHERE f.signal = 'satisfaction')
            SELECT month, site, count(*) AS asked,
                   count(value) AS answered, round(avg(value)::numeric, 2)::float AS mean,
                   round((count(*) FILTER (WHERE value >= 4))::numeric / nullif(count(value), 0), 2)::float
                       AS satisfied
            FROM answer GROUP BY month, site ORDER BY month, site
            """,
            {"by_site": by_site},
        )
        .fetchall()
    )


def voices(conn: Connection[Any], since: datetime) -> list[dict[str, Any]]:
    """By site: annotations since then, by how many people, what became of them, questions that were declined, and the
    median of minutes from an alarm to the first word about it."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT split_part(s.device_id, '.', 1) AS site, count(*) AS said, count(DISTINCT annotator) AS people,
                   count(*) FILTER (WHERE status = 'accepted') AS accepted,
                   count(*) FILTER (WHERE status = 'held') AS held,
                   count(*) FILTER (WHERE status = 'rejected') AS rejected,
                   count(*) FILTER (WHERE a.body ->> 'answers' IS NOT NULL) AS answers,
                   round((percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM a.received_at - e.raised_at))
                          / 60)::numeric, 1)::float AS minutes
            FROM annotation a LEFT JOIN asset s USING (asset_id) LEFT JOIN event e ON e.event_id = a.event_id
            WHERE a.received_at > %s GROUP BY 1 ORDER BY 1
            """,
            (since,),
        )
        .fetchall()
    )


def listing(
    conn: Connection[Any], *, signal: str | None = None, asset_id: str | None = None, limit: int = 100
) -> list[FeedbackRow]:
    """The newest first."""
    return (
        conn.cursor(row_factory=class_row(FeedbackRow))
        .execute(
            """
            SELECT feedback_id, signal, asset_id, event_id, person, value, detail, about, provenance, via, made_at,
                   received_at
            FROM feedback
            WHERE (%(signal)s::text IS NULL OR signal = %(signal)s)
              AND (%(asset)s::text IS NULL OR asset_id = %(asset)s)
            ORDER BY received_at DESC, feedback_id LIMIT %(limit)s
            """,
            {"signal": signal, "asset": asset_id, "limit": limit},
        )
        .fetchall()
    )
