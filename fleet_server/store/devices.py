"""Devices, their assets, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb

from models.contract.base import ModelRef
from models.contract.health import Heartbeat
from models.contract.messages import Session, Step


@dataclass(frozen=True)
class DeviceRow:
    """`waiting` counts the records in its outbox when it last said so; None: it never did."""

    device_id: str
    first_seen: datetime
    last_seen: datetime
    epoch: str | None
    model_name: str | None
    model_version: int | None
    model_sha256: str | None
    step: str | None
    assignment: int
    heartbeat: dict[str, Any] | None
    assets: list[str]
    waiting: int | None
    offline_at: datetime | None  # its connection ended, and nothing has come since
    offline_reason: str | None


def touch(conn: Connection[Any], device_ids: Sequence[str], at: datetime) -> None:
    """Something came from these. Sorted, so that two servers do not wait for each other crosswise."""
    conn.execute(
        """
        INSERT INTO device (device_id, first_seen, last_seen)
        SELECT device_id, %(at)s, %(at)s FROM unnest(%(devices)s::text[]) AS device_id
        ON CONFLICT (device_id) DO UPDATE SET last_seen = greatest(device.last_seen, excluded.last_seen)
        """,
        {"devices": sorted(device_ids), "at": at},
    )


def set_session(conn: Connection[Any], said: Session, at: datetime) -> None:
    """Its connection began or ended. An end counts until anything comes."""
    if said.state == "birth":
        touch(conn, [said.device], at)
    conn.execute(
        "UPDATE device SET offline_at = %s, offline_reason = %s WHERE device_id = %s",
        (None, None, said.device) if said.state == "birth" else (at, said.reason, said.device),
    )


def touch_assets(conn: Connection[Any], assets: Mapping[str, str], at: datetime) -> list[str]:
    """Asset to the device that spoke of it; those that are new."""
    names = sorted(assets)
    rows = conn.execute(
        """
        INSERT INTO asset (asset_id, device_id, first_seen, last_seen)
        SELECT asset_id, device_id, %(at)s, %(at)s
        FROM unnest(%(assets)s::text[], %(devices)s::text[]) AS said (asset_id, device_id)
        ON CONFLICT (asset_id) DO UPDATE SET device_id = excluded.device_id,
            last_seen = greatest(asset.last_seen, excluded.last_seen)
        RETURNING asset_id, xmax = 0
        """,
        {"assets": names, "devices": [assets[name] for name in names], "at": at},
    ).fetchall()
    return [asset for asset, is_new in rows if is_new]


def log_heartbeat(conn: Connection[Any], device_id: str, beat: Heartbeat, at: datetime) -> None:
    conn.execute(
        "INSERT INTO heartbeat (at, device_id, body) VALUES (%s, %s, %s)",
        (at, device_id, Jsonb(beat.model_dump(mode="json"))),
    )


def set_outbox(
    conn: Connection[Any], device_id: str, epoch: str, seq: int, counts: dict[str, Any], at: datetime
) -> bool | None:
    """Keep the newest count of an outbox. True: the first of this epoch; None: an older heartbeat, nothing changed."""
    first: bool | None = (
        conn.cursor(row_factory=scalar_row)
        .execute(
            """
            INSERT INTO outbox_count (device_id, epoch, seq, at, counts) VALUES (%s, %s, %s, %s, %s)
            ON CONFLICT (device_id, epoch) DO UPDATE SET seq = excluded.seq, at = excluded.at, counts = excluded.counts
            WHERE excluded.seq > outbox_count.seq
            RETURNING xmax = 0
            """,
            (device_id, epoch, seq, at, Jsonb(counts)),
        )
        .fetchone()
    )
    return first


def set_epoch(conn: Connection[Any], device_id: str, epoch: str) -> None:
    """The device has a new outbox: what it says counts from the start again."""
    conn.execute(
        """
        UPDATE device SET epoch = %(epoch)s, health_seq = 0
        WHERE device_id = %(device)s AND epoch IS DISTINCT FROM %(epoch)s
        """,
        {"device": device_id, "epoch": epoch},
    )


def set_running(
    conn: Connection[Any], device_id: str, epoch: str, seq: int, running: ModelRef, step: Step, assignment: int
) -> bool:
    """What runs there now. False: something newer, or another outbox, has spoken already."""
    cursor = conn.execute(
        """
        UPDATE device SET model_name = %(name)s, model_version = %(version)s, model_sha256 = %(sha256)s, step =
            %(step)s, assignment = %(assignment)s, health_seq = %(seq)s
        WHERE device_id = %(device)s AND health_seq < %(seq)s AND epoch = %(epoch)s
        """,
        {
            "device": device_id,
            "epoch": epoch,
            "seq": seq,
            "name": running.name,
            "version": running.version,
            "sha256": running.sha256,
            "step": step.value,
            "assignment": assignment,
        },
    )
    return cursor.rowcount == 1


def set_heartbeat(conn: Connection[Any], device_id: str, epoch: str, beat: Heartbeat) -> None:
    """The newest heartbeat, whole."""
    conn.execute(
        "UPDATE device SET boot = %s, heartbeat = %s WHERE device_id = %s AND epoch = %s",
        (beat.boot, Jsonb(beat.model_dump(mode="json")), device_id, epoch),
    )


def listing(conn: Connection[Any], device_id: str | None = None) -> list[DeviceRow]:
    """All, or one, by name."""
    return (
        conn.cursor(row_factory=class_row(DeviceRow))
        .execute(
            """
            SELECT d.device_id, d.first_seen, d.last_seen, d.epoch, d.model_name, d.model_version, d.model_sha256,
                   d.step, d.assignment, d.heartbeat,
                   ARRAY(SELECT a.asset_id FROM asset a WHERE a.device_id = d.device_id ORDER BY a.asset_id) AS assets,
                   (SELECT coalesce(sum(upper - lower + 1), 0)::bigint
                    FROM jsonb_each(d.heartbeat -> 'outbox') AS stream,
                         jsonb_array_elements(stream.value -> 'waiting') AS range,
                         LATERAL (SELECT (range ->> 0)::bigint AS lower, (range ->> 1)::bigint AS upper) AS bounds
                    HAVING d.heartbeat IS NOT NULL
                   ) AS waiting,
                   CASE WHEN d.offline_at >= d.last_seen THEN d.offline_at END AS offline_at,
                   CASE WHEN d.offline_at >= d.last_seen THEN d.offline_reason END AS offline_reason
            FROM device d WHERE %(device)s::text IS NULL OR d.device_id = %(device)s ORDER BY d.device_id
            """,
            {"device": device_id},
        )
        .fetchall()
    )


def first_seen(conn: Connection[Any], device_id: str) -> datetime | None:
    return (
        conn.cursor(row_factory=scalar_row)
        .execute("SELECT first_seen FROM device WHERE device_id = %s", (device_id,))
        .fetchone()
    )


def of_asset(conn: Connection[Any], asset_id: str) -> str | None:
    """The device that speaks of it; None: nobody does."""
    found: str | None = (
        conn.cursor(row_factory=scalar_row)
        .execute("SELECT device_id FROM asset WHERE asset_id = %s", (asset_id,))
        .fetchone()
    )
    return found


def asset_exists(conn: Connection[Any], asset_id: str) -> bool:
    return conn.execute("SELECT FROM asset WHERE asset_id = %s", (asset_id,)).fetchone() is not None
