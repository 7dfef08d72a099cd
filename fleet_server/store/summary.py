"""The figures of the overview, in one statement so that they belong together."""

from __future__ import annotations

from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row


def summary(conn: Connection[Any]) -> dict[str, Any]:
    """Counts along the loop. `rejected` under labels are annotations that took no part in any label."""
    row = (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT now() AS at,
                (SELECT coalesce(max(n), 0) FROM counter WHERE name = 'windows') AS windows,
                (SELECT count(*) FROM event) AS alarms,
                (SELECT count(*) FROM event WHERE cleared_at IS NULL) AS alarms_open,
                (SELECT count(*) FROM sensor_fault) AS sensor_faults,
                (SELECT count(*) FROM annotation) AS annotations,
                (SELECT count(*) FROM attachment) AS attachments,
                (SELECT coalesce(max(n), 0) FROM counter WHERE name = 'attachments_dropped') AS attachments_dropped,
                (SELECT count(*) FROM quarantine) AS quarantined,
                (SELECT coalesce(max(n), 0) FROM counter WHERE name = 'quarantine_rotated') AS quarantine_rotated,
                (SELECT coalesce(max(n), 0) FROM counter WHERE name = 'shed') AS shed,
                (SELECT count(*) FROM sample WHERE reason = 'reference') AS reference_windows,
                (SELECT coalesce(jsonb_object_agg(status, n), '{}') FROM (
                    SELECT status, count(*) AS n FROM label GROUP BY status
                    UNION ALL SELECT 'rejected', count(*) FROM annotation WHERE status = 'rejected'
                ) AS l) AS labels,
                (SELECT coalesce(jsonb_object_agg(state, n), '{}') FROM (
                    SELECT state, count(*) AS n FROM training_run GROUP BY state
                ) AS r) AS runs,
                (SELECT coalesce(jsonb_object_agg(state, n), '{}') FROM (
                    SELECT state, count(*) AS n FROM rollout GROUP BY state
                ) AS r) AS rollouts,
                (SELECT coalesce(jsonb_object_agg(model_version, n), '{}') FROM (
                    SELECT model_version, count(*) AS n FROM device WHERE model_version IS NOT NULL GROUP BY
                model_version ) AS v) AS versions,
                (SELECT count(*) FROM device) AS devices
            """
        )
        .fetchone()
    )
    assert row is not None
    return row
