"""What devices say is wrong with their own way to the server."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from models.contract.messages import DeviceFault


def note(conn: Connection[Any], device_id: str, body: DeviceFault, at: datetime) -> None:
    """Open one, or close what is open. By the time it was received: a device's clock may be anything."""
    if body.cleared:
        conn.execute(
            "UPDATE device_fault SET cleared_at = %s WHERE device_id = %s AND fault = %s AND cleared_at IS NULL",
            (at, device_id, body.fault),
        )
        return
    conn.execute(
        """
        INSERT INTO device_fault (device_id, fault, since, detail)
        SELECT %(device)s, %(fault)s, %(at)s, %(detail)s
        WHERE NOT EXISTS (
            SELECT FROM device_fault WHERE device_id = %(device)s AND fault = %(fault)s AND cleared_at IS NULL
        )
        ON CONFLICT DO NOTHING
        """,
        {"device": device_id, "fault": body.fault, "at": at, "detail": body.detail},
    )


def listing(conn: Connection[Any], limit: int = 100) -> list[dict[str, Any]]:
    """The newest first."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            "SELECT device_id, fault, since, detail, cleared_at FROM device_fault ORDER BY since DESC LIMIT %s",
            (limit,),
        )
        .fetchall()
    )
