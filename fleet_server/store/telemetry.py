"""The prediction log and the windows whose features are kept."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from models.contract.events import SensorFault


class Prediction(NamedTuple):
    """One scored window, in the order of the COPY below."""

    window_end: datetime
    asset_id: str
    trace_id: UUID
    device_id: str
    window_start: datetime
    model_version: int
    model_sha256: bytes
    score: float
    alarm: bool
    fault_class: str | None
    latency_us: float | None
    flags: int = 0  # of models.contract.messages.Flag
    mode: str | None = None


class Sample(NamedTuple):
    """One window with its features, in the order of the INSERT below."""

    trace_id: UUID
    asset_id: str
    device_id: str
    window_start: datetime
    window_end: datetime
    reason: str
    probability: float
    event_id: UUID | None
    score: float
    model_version: int
    feature_set: str
    features: dict[str, float]


def copy_predictions(conn: Connection[Any], rows: Iterable[Prediction]) -> None:
    """No unique index and no check for duplicates: the ledger has let only new messages through."""
    with (
        conn.cursor() as cursor,
        cursor.copy(
            """
            COPY prediction (window_end, asset_id, trace_id, device_id, window_start, model_version, model_sha256,
                             score, alarm, fault_class, latency_us, flags, mode)
            FROM STDIN (FORMAT binary)
            """
        ) as copy,
    ):
        copy.set_types(
            [
                *("timestamptz", "text", "uuid", "text", "timestamptz", "int4", "bytea", "float4", "bool", "text"),
                *("float4", "int2", "text"),
            ]
        )
        for row in rows:
            copy.write_row(row)


def insert_samples(conn: Connection[Any], rows: Iterable[Sample]) -> None:
    """A window can be sampled for two reasons, but once for each."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO sample (trace_id, asset_id, device_id, window_start, window_end, reason, probability, event_id,
                                score, model_version, feature_set, features)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            ON CONFLICT (trace_id, reason) DO NOTHING
            """,
            [(*row[:-1], Jsonb(row.features)) for row in rows],
        )


def insert_sensor_fault(conn: Connection[Any], device_id: str, fault: SensorFault) -> None:
    conn.execute(
        """
        INSERT INTO sensor_fault (trace_id, device_id, asset_id, signal, fault, since, detail)
        VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (trace_id) DO NOTHING
        """,
        (fault.trace_id, device_id, fault.asset, fault.signal, fault.fault.value, fault.since, fault.detail),
    )


def sensor_faults(conn: Connection[Any], limit: int = 50) -> list[dict[str, Any]]:
    """The newest first."""
    return (
        conn.cursor(row_factory=dict_row)
        .execute(
            """
            SELECT trace_id, device_id, asset_id, signal, fault, since, detail
            FROM sensor_fault ORDER BY since DESC LIMIT %s
            """,
            (limit,),
        )
        .fetchall()
    )


def was_measured(conn: Connection[Any], asset_id: str, start: datetime, end: datetime) -> bool:
    """False: windows of this asset were scored before and after this stretch, and none in it."""
    row = conn.execute(
        """
        SELECT EXISTS (SELECT FROM prediction WHERE asset_id = %(asset)s AND window_end > %(start)s
                       AND window_start < %(end)s)
            OR NOT EXISTS (SELECT FROM prediction WHERE asset_id = %(asset)s AND window_end <= %(start)s)
            OR NOT EXISTS (SELECT FROM prediction WHERE asset_id = %(asset)s AND window_end > %(start)s
                           AND window_start >= %(end)s)
        """,
        {"asset": asset_id, "start": start, "end": end},
    ).fetchone()
    assert row is not None
    return bool(row[0])
