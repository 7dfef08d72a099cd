"""What people do beside saying things: work orders from elsewhere, and the trend of their satisfaction."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import NAMESPACE_OID, UUID, uuid5

from fastapi import APIRouter, Depends, Header, HTTPException, Query
from pydantic import AwareDatetime, BaseModel, Field

from fleet_server.store import feedback as rows
from fleet_server.web.deps import Limit, PoolOf, SiteOf
from models.contract.base import AssetId, Text
from models.contract.people import Feedback
from models.form.sent import implicit

router = APIRouter()


class WorkOrder(BaseModel):
    """A step of a work order in the plant's maintenance system. The same step again changes nothing."""

    work_order_id: Annotated[Text, Field(min_length=1, max_length=80)]
    state: Literal["opened", "closed"]
    asset: AssetId
    at: AwareDatetime
    event_id: UUID | None = None
    parts: Annotated[list[Annotated[Text, Field(min_length=1, max_length=80)]], Field(max_length=20)] = []
    text: Annotated[Text, Field(max_length=400)] = ""
    by: Annotated[Text, Field(max_length=80)] = ""


def _has_the_key(site: SiteOf, authorization: Annotated[str, Header()] = "") -> None:
    """Of a program, where people sign in."""
    if site.sign_in is not None:
        token = site.config.form.work_orders_token()
        given = authorization.removeprefix("Bearer ")
        if not token or not secrets.compare_digest(token.encode(), given.encode()):
            raise HTTPException(401, "bring the token of form.work_orders_token_file: Authorization: Bearer ...")


@router.post("/work-orders", status_code=202, dependencies=[Depends(_has_the_key)])
def take_work_orders(orders: Annotated[list[WorkOrder], Field(max_length=100)], pool: PoolOf) -> dict[str, Any]:
    """Work orders opened or closed, and parts used: kept as implicit feedback, never a label by itself."""
    said = [each for order in orders for each in _said(order)]
    now = datetime.now(UTC)
    with pool.connection() as conn:
        new = sum(rows.insert(conn, each, via="work-orders", received_at=now) for each in said)
    return {"taken": len(said), "new": new}


@router.get("/feedback")
def list_feedback(
    pool: PoolOf, signal: str | None = None, asset: str | None = None, limit: Limit = 100
) -> dict[str, Any]:
    """What people did, the newest first."""
    with pool.connection() as conn:
        return {"feedback": rows.listing(conn, signal=signal, asset_id=asset, limit=limit)}


@router.get("/satisfaction")
def show_satisfaction(pool: PoolOf) -> dict[str, Any]:
    """By month, the oldest first; and the same by site."""
    with pool.connection() as conn:
        return {"months": rows.satisfaction(conn), "sites": rows.satisfaction(conn, by_site=True)}


@router.get("/voices")
def show_voices(pool: PoolOf, days: Annotated[int, Query(ge=1, le=400)] = 30) -> dict[str, Any]:
    """What was said lately, site by site, and what became of it."""
    with pool.connection() as conn:
        return {"days": days, "sites": rows.voices(conn, datetime.now(UTC) - timedelta(days=days))}


def _said(order: WorkOrder) -> list[Feedback]:
    key = f"work order {order.work_order_id} {order.state}"
    about = uuid5(NAMESPACE_OID, f"work order {order.work_order_id}")
    common: dict[str, Any] = {
        "asset": order.asset,
        "event_id": order.event_id,
        "about": about,
        "person": order.by,
        "made_at": order.at,
    }
    signal: Literal["work_order_opened", "work_order_closed"] = (
        "work_order_opened" if order.state == "opened" else "work_order_closed"
    )
    said = [implicit(signal, uuid5(NAMESPACE_OID, key), detail=order.text, **common)]
    said += [
        implicit("part_used", uuid5(NAMESPACE_OID, f"{key} part {part}"), detail=part, **common) for part in order.parts
    ]
    return said
