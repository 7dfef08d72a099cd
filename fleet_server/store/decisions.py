"""Every decision, yes and no, with its inputs and reason. Written in the transaction of what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True)
class DecisionRow:
    """`kind` is validation, consensus, clock, trigger, gate, approval, rollout, rollback or command."""

    decision_id: int
    at: datetime
    kind: str
    subject: str
    outcome: str
    reason: str
    inputs: dict[str, Any]


def record(conn: Connection[Any], kind: str, subject: str, outcome: str, reason: str, inputs: dict[str, Any]) -> None:
    conn.execute(
        "INSERT INTO decision (kind, subject, outcome, reason, inputs) VALUES (%s, %s, %s, %s, %s)",
        (kind, subject, outcome, reason, Jsonb(inputs)),
    )


def listing(conn: Connection[Any], kind: str | None = None, limit: int = 100) -> list[DecisionRow]:
    """The newest first."""
    return (
        conn.cursor(row_factory=class_row(DecisionRow))
        .execute(
            """
            SELECT decision_id, at, kind, subject, outcome, reason, inputs FROM decision
            WHERE %(kind)s::text IS NULL OR kind = %(kind)s ORDER BY decision_id DESC LIMIT %(limit)s
            """,
            {"kind": kind, "limit": limit},
        )
        .fetchall()
    )
