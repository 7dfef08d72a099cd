"""What became of annotations, as far as to the model that learned from them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row, scalar_row


@dataclass(frozen=True)
class OutcomeRow:
    """The model is the newest that has run somewhere, else the newest candidate that learned from it."""

    annotation_id: UUID
    body: dict[str, Any]
    status: str
    reason: str
    model_name: str | None
    model_version: int | None
    released: bool | None


def newest(
    conn: Connection[Any],
    limit: int,
    *,
    annotator: str | None = None,
    via: str | None = None,
    before: datetime | None = None,
) -> list[OutcomeRow]:
    """Of everybody, of one person, of what came by one device, written before a time; the newest first."""
    return (
        conn.cursor(row_factory=class_row(OutcomeRow))
        .execute(
            """
            SELECT a.annotation_id, a.body, a.status, a.reason, m.name AS model_name, m.version AS model_version,
                   m.released
            FROM annotation a LEFT JOIN LATERAL (
                SELECT b.name, b.version, EXISTS (
                    SELECT FROM assignment s WHERE s.sha256 = b.sha256 AND s.step = 'active') AS released
                FROM label l JOIN dataset d ON d.label_ids @> ARRAY[l.label_id] JOIN bundle b ON b.dataset = d.sha256
                WHERE l.annotations @> ARRAY[a.annotation_id] AND a.status = 'accepted'
                  AND b.state NOT IN ('refused', 'barred')
                ORDER BY released DESC, b.version DESC LIMIT 1
            ) m ON true
            WHERE (%(annotator)s::text IS NULL OR a.annotator = %(annotator)s)
              AND (%(via)s::text IS NULL OR a.via = %(via)s)
              AND (%(before)s::timestamptz IS NULL OR a.written_at < %(before)s)
            ORDER BY a.written_at DESC, a.annotation_id LIMIT %(limit)s
            """,
            {"annotator": annotator, "via": via, "before": before, "limit": limit},
        )
        .fetchall()
    )


def devices_with_news(conn: Connection[Any], since: datetime) -> list[str]:
    """Devices that were heard of since then, or of whose machines something was said or decided."""
    return (
        conn.cursor(row_factory=scalar_row)
        .execute(
            """
            SELECT device_id FROM device WHERE last_seen > %(since)s
            UNION SELECT via FROM annotation WHERE received_at > %(since)s
            UNION SELECT device_id FROM asset WHERE asset_id IN (
                SELECT asset_id FROM annotation WHERE received_at > %(since)s
                UNION SELECT asset_id FROM label WHERE decided_at > %(since)s
                UNION SELECT asset_id FROM feedback WHERE received_at > %(since)s)
            """,
            {"since": since},
        )
        .fetchall()
    )


def devices_heard_of(conn: Connection[Any], since: datetime) -> list[str]:
    """All that have said something since then, by name."""
    return (
        conn.cursor(row_factory=scalar_row)
        .execute("SELECT device_id FROM device WHERE last_seen > %s ORDER BY device_id", (since,))
        .fetchall()
    )
