"""What is posted to somebody, until it was taken."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True)
class NoticeRow:
    notice_id: UUID
    url: str
    body: dict[str, Any]
    made_at: datetime
    tries: int
    tried_at: datetime | None
    failure: str
    done: bool


def put(conn: Connection[Any], notice_id: UUID, url: str, body: dict[str, Any], at: datetime) -> None:
    conn.execute(
        "INSERT INTO notice (notice_id, url, body, made_at) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (notice_id, url, Jsonb(body), at),
    )


def due(conn: Connection[Any], at: datetime, wait: timedelta) -> NoticeRow | None:
    """The oldest to post now, locked."""
    return (
        conn.cursor(row_factory=class_row(NoticeRow))
        .execute(
            """
            SELECT notice_id, url, body, made_at, tries, tried_at, failure, done FROM notice
            WHERE NOT done AND (tried_at IS NULL OR tried_at + %(wait)s * least(2 ^ (tries - 1), 200) <= %(at)s)
            ORDER BY made_at, notice_id LIMIT 1 FOR UPDATE SKIP LOCKED
            """,
            {"at": at, "wait": wait},
        )
        .fetchone()
    )


def tried(conn: Connection[Any], notice_id: UUID, at: datetime, failure: str, *, given_up: bool) -> None:
    """It was posted, or not; one that was, or is given up, is done."""
    conn.execute(
        "UPDATE notice SET tries = tries + 1, tried_at = %s, failure = %s, done = %s WHERE notice_id = %s",
        (at, failure[:500], given_up or not failure, notice_id),
    )
