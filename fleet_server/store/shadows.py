"""What challengers showed in shadow."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from models.contract.messages import ShadowReport


def insert(conn: Connection[Any], device_id: str, report: ShadowReport, at: datetime) -> None:
    conn.execute(
        """
        INSERT INTO shadow_report (device_id, trace_id, at, assignment, rollout_id, asset_id, champion_sha256,
                                   challenger_sha256, windows, scores, cpu_s, wall_s, cpu_share_cap)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT DO NOTHING
        """,
        (
            device_id,
            report.trace_id,
            at,
            report.assignment,
            report.rollout,
            report.asset,
            report.champion.sha256,
            report.challenger.sha256,
            report.windows,
            Jsonb(report.scores.model_dump(mode="json")),
            report.cpu_s,
            report.wall_s,
            report.cpu_share_cap,
        ),
    )


def of_rollout(conn: Connection[Any], rollout_id: str) -> list[dict[str, Any]]:
    """Every report, the oldest first."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT device_id, asset_id, champion_sha256, challenger_sha256, windows, scores, cpu_s, wall_s,
                   cpu_share_cap
            FROM shadow_report WHERE rollout_id = %s ORDER BY at, trace_id
            """,
            (rollout_id,),
        )
        .fetchall()
    )
