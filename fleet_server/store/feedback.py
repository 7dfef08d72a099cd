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


def satisfaction(conn: Connection[Any]) -> list[dict[str, Any]]:
    """By month, the oldest first: how many were asked and answered, their mean of 1 to 5, and the share of 4 and 5."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT to_char(date_trunc('month', made_at), 'YYYY-MM') AS month, count(*) AS asked,
                   count(value) AS answered, round(avg(value)::numeric, 2)::float AS mean,
                   round((count(*) FILTER (WHERE value >= 4))::numeric / nullif(count(value), 0), 2)::float
                       AS satisfied
            FROM feedback WHERE signal = 'satisfaction' GROUP BY 1 ORDER BY 1
            """
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
