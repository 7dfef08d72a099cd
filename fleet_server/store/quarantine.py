"""What could not be read or believed as a message, with the reason; within a budget, the oldest goes first, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import Connection
from psycopg.rows import class_row

KEPT_BYTES: Final = 64 * 1024  # of each payload
MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class Aside:
    """One message to put aside; who sent it as far as that is known."""

    topic: str
    payload: bytes
    reason: str
    device: str | None = None
    epoch: str | None = None
    stream: str | None = None
    seq: int | None = None


@dataclass(frozen=True)
class QuarantineRow:
    """`head` is the start of the payload, made readable."""

    quarantine_id: int
    received_at: datetime
    topic: str
    device_id: str | None
    epoch: str | None
    stream: str | None
    seq: int | None
    reason: str
    n_bytes: int
    head: str


def insert(conn: Connection[Any], messages: Sequence[Aside], at: datetime) -> None:
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO quarantine (received_at, topic, device_id, epoch, stream, seq, reason, n_bytes, payload)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    at,
                    each.topic,
                    each.device,
                    each.epoch,
                    each.stream,
                    each.seq,
                    each.reason,
                    len(each.payload),
                    each.payload[:KEPT_BYTES],
                )
                for each in messages
            ],
        )


def rotate(conn: Connection[Any], max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> int:
    """Delete the oldest beyond the budget; how many."""
    return conn.execute(
        """
        DELETE FROM quarantine WHERE quarantine_id IN (
            SELECT quarantine_id FROM (
                SELECT quarantine_id, row_number() OVER newest AS n,
                       sum(least(n_bytes, %(kept)s)) OVER newest AS bytes
                FROM quarantine WINDOW newest AS (ORDER BY quarantine_id DESC)
            ) aged WHERE n > %(rows)s OR bytes > %(bytes)s
        )
        """,
        {"kept": KEPT_BYTES, "rows": max_rows, "bytes": max_bytes},
    ).rowcount


def listing(conn: Connection[Any], limit: int = 100) -> list[QuarantineRow]:
    """The newest first."""
    return (
        conn.cursor(row_factory=class_row(QuarantineRow))
        .execute(
            """
            SELECT quarantine_id, received_at, topic, device_id, epoch, stream, seq, reason, n_bytes,
                   encode(substring(payload FROM 1 FOR 300), 'escape') AS head
            FROM quarantine ORDER BY quarantine_id DESC LIMIT %s
            """,
            (limit,),
        )
        .fetchall()
    )


def count(conn: Connection[Any]) -> int:
    row = conn.execute("SELECT count(*) FROM quarantine").fetchone()
    return int(row[0]) if row else 0
