"""The version below which nothing is sent or taken any more. It only rises."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import scalar_row


def current(conn: Connection[Any]) -> int:
    """1: it was never raised."""
    found: int = (
        conn.cursor(row_factory=scalar_row).execute("SELECT coalesce(max(floor), 1) FROM release_floor").fetchone() or 1
    )
    return found


def insert(conn: Connection[Any], floor: int, at: datetime, reason: str) -> None:
    conn.execute("INSERT INTO release_floor (floor, raised_at, reason) VALUES (%s, %s, %s)", (floor, at, reason))
