"""What a dataset is made from, and the datasets made: by their content's hash, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row, scalar_row, tuple_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True)
class SampleRow:
    """A window with its features; `probability` is the chance with which such a window was sent."""

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


@dataclass(frozen=True)
class EpisodeRow:
    """When an asset was in alarm."""

    event_id: UUID
    asset_id: str
    opened_at: datetime
    cleared_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True)
class LabelRow:
    """An accepted label."""

    label_id: UUID
    event_id: UUID | None
    asset_id: str
    start_at: datetime
    end_at: datetime
    verdict: str
    fault: str | None
    weight: float
    provenance: str
    decided_at: datetime


@dataclass(frozen=True)
class DatasetRow:
    """A dataset without its content."""

    sha256: str
    made_at: datetime
    model: str
    summary: dict[str, Any]
    label_ids: list[UUID]


def samples(conn: Connection[Any], limit: int) -> list[SampleRow]:
    """The newest windows, in the order of their time."""
    return (
        conn.cursor(row_factory=class_row(SampleRow))
        .execute(
            """
            SELECT * FROM (
                SELECT trace_id, asset_id, device_id, window_start, window_end, reason, probability, event_id, score,
                       model_version, feature_set, features
                FROM sample ORDER BY window_end DESC LIMIT %s
            ) newest ORDER BY window_end, trace_id, reason
            """,
            (limit,),
        )
        .fetchall()
    )


def episodes(conn: Connection[Any]) -> list[EpisodeRow]:
    return (
        conn.cursor(row_factory=class_row(EpisodeRow))
        .execute("SELECT event_id, asset_id, opened_at, cleared_at, updated_at FROM event ORDER BY opened_at, event_id")
        .fetchall()
    )


def accepted_labels(conn: Connection[Any]) -> list[LabelRow]:
    return (
        conn.cursor(row_factory=class_row(LabelRow))
        .execute(
            """
            SELECT label_id, event_id, asset_id, start_at, end_at, verdict, fault, weight, provenance, decided_at
            FROM label WHERE status = 'accepted' AND weight > 0 ORDER BY decided_at, label_id
            """
        )
        .fetchall()
    )


def asset_settings(conn: Connection[Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(device, asset, AssetHealth) of each device's newest heartbeat: how windows are cut there, and of what."""
    return (
        conn.cursor(row_factory=tuple_row)
        .execute(
            """
            SELECT d.device_id, a.key, a.value
            FROM device d, jsonb_each(coalesce(d.heartbeat -> 'assets', '{}'::jsonb)) AS a
            ORDER BY d.device_id, a.key
            """
        )
        .fetchall()
    )


def insert(conn: Connection[Any], row: DatasetRow, content: bytes) -> bool:
    """False: these rows are a dataset already."""
    cursor = conn.execute(
        """
        INSERT INTO dataset (sha256, made_at, model, summary, label_ids, content) VALUES (%s, %s, %s, %s, %s, %s)
        ON CONFLICT DO NOTHING
        """,
        (row.sha256, row.made_at, row.model, Jsonb(row.summary), row.label_ids, content),
    )
    return cursor.rowcount == 1


def get(conn: Connection[Any], sha256: str) -> DatasetRow | None:
    return (
        conn.cursor(row_factory=class_row(DatasetRow))
        .execute("SELECT sha256, made_at, model, summary, label_ids FROM dataset WHERE sha256 = %s", (sha256,))
        .fetchone()
    )


def listing(conn: Connection[Any]) -> list[DatasetRow]:
    """The newest first."""
    return (
        conn.cursor(row_factory=class_row(DatasetRow))
        .execute("SELECT sha256, made_at, model, summary, label_ids FROM dataset ORDER BY made_at DESC")
        .fetchall()
    )


def content(conn: Connection[Any], sha256: str) -> bytes | None:
    return (
        conn.cursor(row_factory=scalar_row)
        .execute("SELECT content FROM dataset WHERE sha256 = %s", (sha256,))
        .fetchone()
    )


def new_labels(conn: Connection[Any], model: str) -> int:
    """Accepted labels that are in no dataset of this model yet."""
    count: int | None = (
        conn.cursor(row_factory=scalar_row)
        .execute(
            """
            SELECT count(*) FROM label
            WHERE status = 'accepted' AND decided_at > coalesce(
                (SELECT max(r.started_at) FROM training_run r WHERE r.model = %(model)s AND r.dataset IS NOT NULL),
                '-infinity')
            """,
            {"model": model},
        )
        .fetchone()
    )
    return count or 0


def reference_samples(conn: Connection[Any]) -> int:
    count: int | None = (
        conn.cursor(row_factory=scalar_row).execute("SELECT count(*) FROM sample WHERE reason = 'reference'").fetchone()
    )
    return count or 0
