"""Commands to devices: what is open, what was answered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb

from models.contract.messages import CommandResult


@dataclass(frozen=True)
class CommandRow:
    """`outcome` None: open. With an outcome and no `answered_at` it was closed here, without a word from the device."""

    command_id: UUID
    device_id: str
    sequence: int
    kind: str
    latest: str | None
    body: dict[str, Any]
    issued_by: str
    issued_at: datetime
    deadline: datetime
    sends: int
    sent_at: datetime | None
    outcome: str | None
    reason: str
    answered_at: datetime | None


def insert(
    conn: Connection[Any],
    command_id: UUID,
    device_id: str,
    body: dict[str, Any],
    latest: str | None,
    issued_by: str,
    issued_at: datetime,
    deadline: datetime,
) -> int:
    """A new command; its sequence."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('command ' || %s, 0))", (device_id,))
    sequence: int | None = (
        conn.cursor(row_factory=scalar_row)
        .execute(
            """
            INSERT INTO command
                (command_id, device_id, sequence, kind, latest, body, issued_by, issued_at, deadline)
            SELECT %(id)s, %(device)s, greatest(coalesce(max(sequence), 0) + 1, %(now_ms)s), %(body)s::jsonb ->> 'kind',
                   %(latest)s, %(body)s, %(by)s, %(at)s, %(deadline)s
            FROM command WHERE device_id = %(device)s
            RETURNING sequence
            """,
            {
                "id": command_id,
                "device": device_id,
                "body": Jsonb(body),
                "latest": latest,
                "by": issued_by,
                "at": issued_at,
                "now_ms": int(issued_at.timestamp() * 1000),
                "deadline": deadline,
            },
        )
        .fetchone()
    )
    assert sequence is not None
    return sequence


def supersede(conn: Connection[Any], device_id: str, latest: str, sequence: int) -> None:
    """Close what is open about the same state and older."""
    conn.execute(
        """
        UPDATE command SET outcome = 'superseded', reason = 'a newer one was given'
        WHERE device_id = %s AND latest = %s AND sequence < %s AND outcome IS NULL
        """,
        (device_id, latest, sequence),
    )


def newest_of(conn: Connection[Any], device_id: str, latest: str) -> CommandRow | None:
    """The last one about this state."""
    return (
        conn.cursor(row_factory=class_row(CommandRow))
        .execute(
            "SELECT * FROM command WHERE device_id = %s AND latest = %s ORDER BY sequence DESC LIMIT 1",
            (device_id, latest),
        )
        .fetchone()
    )


def expire(conn: Connection[Any], at: datetime) -> int:
    """Close what nobody answered in time. A device that did it and says so later still has the last word."""
    return conn.execute(
        """
        UPDATE command SET outcome = 'expired', reason = 'no answer by the deadline'
        WHERE outcome IS NULL AND deadline < %s
        """,
        (at,),
    ).rowcount


def due(conn: Connection[Any], at: datetime, wait: timedelta, limit: int, *, everything: bool) -> list[CommandRow]:
    """Open commands to send now, locked: never sent, or sent and unanswered though the device was heard of since then,
    later and later. `everything`: all that is open, for the broker may have forgotten what it kept."""
    return (
        conn.cursor(row_factory=class_row(CommandRow))
        .execute(
            """
            SELECT c.* FROM command c LEFT JOIN device d USING (device_id)
            WHERE c.outcome IS NULL AND c.deadline >= %(at)s AND (
                c.sent_at IS NULL
                OR (%(everything)s AND c.sent_at < %(at)s)
                OR (d.last_seen > c.sent_at
                    AND c.sent_at + %(wait)s * least(2 ^ (c.sends - 1), 1000) < %(at)s)
            )
            ORDER BY c.device_id, c.sequence LIMIT %(limit)s FOR UPDATE OF c SKIP LOCKED
            """,
            {"at": at, "wait": wait, "limit": limit, "everything": everything},
        )
        .fetchall()
    )


def set_sent(conn: Connection[Any], command_ids: list[UUID], at: datetime) -> None:
    conn.execute(
        "UPDATE command SET sent_at = %s, sends = sends + 1 WHERE command_id = ANY(%s)",
        (at, command_ids),
    )


def answer(conn: Connection[Any], device_id: str, result: CommandResult, at: datetime) -> bool:
    """What the device says came of it; its first word counts. False: there is no such command for this device."""
    cursor = conn.execute(
        """
        UPDATE command SET
            outcome = CASE WHEN answered_at IS NULL THEN %(outcome)s ELSE outcome END,
            reason = CASE WHEN answered_at IS NULL THEN %(reason)s ELSE reason END,
            answered_at = coalesce(answered_at, %(at)s)
        WHERE command_id = %(id)s AND device_id = %(device)s
        """,
        {
            "id": result.command_id,
            "device": device_id,
            "outcome": result.outcome.value,
            "reason": result.reason,
            "at": at,
        },
    )
    return cursor.rowcount == 1


def listing(conn: Connection[Any], device_id: str | None = None, limit: int = 100) -> list[CommandRow]:
    """The newest first."""
    return (
        conn.cursor(row_factory=class_row(CommandRow))
        .execute(
            """
            SELECT * FROM command WHERE %(device)s::text IS NULL OR device_id = %(device)s
            ORDER BY issued_at DESC, sequence DESC LIMIT %(limit)s
            """,
            {"device": device_id, "limit": limit},
        )
        .fetchall()
    )


def get(conn: Connection[Any], command_id: UUID) -> CommandRow | None:
    return (
        conn.cursor(row_factory=class_row(CommandRow))
        .execute("SELECT * FROM command WHERE command_id = %s", (command_id,))
        .fetchone()
    )
