"""Alarms, and what people said of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from fastapi import APIRouter

from fleet_server.errors import NotFound
from fleet_server.store import annotations as spoken
from fleet_server.store import device_faults, events, labels, telemetry
from fleet_server.web.deps import Limit, PoolOf

router = APIRouter()


@router.get("/events")
def list_events(
    pool: PoolOf,
    asset: str | None = None,
    device: str | None = None,
    open_only: bool = False,
    unlabelled_only: bool = False,
    limit: Limit = 50,
) -> dict[str, Any]:
    """The newest first."""
    with pool.connection() as conn:
        found = events.listing(
            conn,
            asset_id=asset,
            device_id=device,
            open_only=open_only,
            unlabelled_only=unlabelled_only,
            limit=limit,
        )
        return {"events": found}


@router.get("/events/{event_id}")
def show_event(event_id: UUID, pool: PoolOf) -> dict[str, Any]:
    """One alarm with its drivers, what was said of it, and its label."""
    with pool.connection() as conn:
        row = events.get(conn, event_id)
        if row is None:
            raise NotFound(f"there is no event {event_id}")
        said, label = spoken.of_subject(conn, event_id), labels.get(conn, event_id)
        return asdict(row) | {"body": events.body(conn, event_id), "said": said, "label": label}


@router.get("/annotations")
def list_annotations(pool: PoolOf, limit: Limit = 100) -> dict[str, Any]:
    with pool.connection() as conn:
        return {"annotations": spoken.listing(conn, limit)}


@router.get("/labels")
def list_labels(pool: PoolOf, status: str | None = None, limit: Limit = 100) -> dict[str, Any]:
    """What validation made of annotations; the newest decision first."""
    with pool.connection() as conn:
        return {"labels": labels.listing(conn, status, limit)}


@router.get("/device-faults")
def list_device_faults(pool: PoolOf, limit: Limit = 50) -> dict[str, Any]:
    """What devices say is wrong with their own way to the server."""
    with pool.connection() as conn:
        return {"device_faults": device_faults.listing(conn, limit)}


@router.get("/sensor-faults")
def list_sensor_faults(pool: PoolOf, limit: Limit = 50) -> dict[str, Any]:
    with pool.connection() as conn:
        return {"sensor_faults": telemetry.sensor_faults(conn, limit)}
