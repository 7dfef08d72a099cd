"""The summary and the devices."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter

from fleet_server.errors import NotFound
from fleet_server.store import devices, events, summary
from fleet_server.store.devices import DeviceRow
from fleet_server.web.deps import PoolOf

router = APIRouter()
SILENT_AFTER: Final = timedelta(minutes=1)


@router.get("/summary")
def show_summary(pool: PoolOf) -> dict[str, Any]:
    """Counts along the loop."""
    with pool.connection() as conn:
        return summary.summary(conn)


@router.get("/devices")
def list_devices(pool: PoolOf) -> dict[str, Any]:
    with pool.connection() as conn:
        return {"devices": [view(row) for row in devices.listing(conn)]}


@router.get("/devices/{device_id}")
def show_device(device_id: str, pool: PoolOf) -> dict[str, Any]:
    """One device, with its last heartbeat and alarms."""
    with pool.connection() as conn:
        found = devices.listing(conn, device_id)
        if not found:
            raise NotFound(f"there is no device {device_id}")
        recent = events.listing(conn, device_id=device_id, limit=20)
        return view(found[0]) | {"heartbeat": found[0].heartbeat, "events": recent}


def state(row: DeviceRow, now: datetime) -> str:
    """`offline` (its connection ended) and `silent` (three heartbeats are missing) are states of their own: nothing is
    known of what it does."""
    if row.offline_at is not None:
        return "offline"
    every_s = (row.heartbeat or {}).get("every_s") or 0.0
    if now - row.last_seen > max(SILENT_AFTER, timedelta(seconds=3 * every_s)):
        return "silent"
    if row.heartbeat is None:
        return "new"
    if any(asset.get("alarm") for asset in row.heartbeat.get("assets", {}).values()):
        return "alarm"
    if row.step == "inconsistent":
        return "inconsistent"
    return "trial" if row.step in ("fetching", "checking", "trial") else "ok"


def view(row: DeviceRow) -> dict[str, Any]:
    """Without the heartbeat, which is long."""
    shown = asdict(row)
    del shown["heartbeat"]
    return shown | {"state": state(row, datetime.now(UTC))}
