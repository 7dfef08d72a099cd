"""Alarms, and what people said of them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from fleet_server.errors import NotFound
from fleet_server.feedback import intake
from fleet_server.store import annotations as spoken
from fleet_server.store import events, labels, telemetry
from fleet_server.store.pool import Pool
from fleet_server.web.deps import Limit, PoolOf
from models.contract.codec import Unreadable, load
from models.contract.messages import Annotation

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


@router.put("/annotations/{annotation_id}")
async def put_annotation(annotation_id: UUID, request: Request, response: Response, pool: PoolOf) -> dict[str, Any]:
    """201: stored now; 200: it was here, word for word; 409: this id stands for other words; 422: not an annotation.

    What a rule speaks against is stored all the same, and `status` and `reason` say so.
    """
    said = load(Annotation, await request.body())
    if said.annotation_id != annotation_id:
        raise Unreadable(f"annotation_id: {said.annotation_id} is not the one in the address")
    is_new, view = await run_in_threadpool(take, pool, said)
    response.status_code = 201 if is_new else 200
    return view


@router.get("/labels")
def list_labels(pool: PoolOf, status: str | None = None, limit: Limit = 100) -> dict[str, Any]:
    """What validation made of annotations; the newest decision first."""
    with pool.connection() as conn:
        return {"labels": labels.listing(conn, status, limit)}


@router.get("/sensor-faults")
def list_sensor_faults(pool: PoolOf, limit: Limit = 50) -> dict[str, Any]:
    with pool.connection() as conn:
        return {"sensor_faults": telemetry.sensor_faults(conn, limit)}


def take(pool: Pool, said: Annotation) -> tuple[bool, dict[str, Any]]:
    """Store an annotation made here, committed when this returns; whether it is new, and what became of it.

    Raises:
        Refused: this id stands for other words.
    """
    with pool.connection() as conn:
        is_new = intake.receive(conn, said, via="server", received_at=datetime.now(UTC))
        row = spoken.get(conn, said.annotation_id)
    assert row is not None, "it was stored just now"
    return is_new, {
        "annotation_id": row.annotation_id,
        "taken": "new" if is_new else "before",
        "status": row.status,
        "reason": row.reason,
    }
