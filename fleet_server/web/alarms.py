"""The work list, what is done about alarms, maintenance windows, and patterns that do not alarm."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, Field

from fleet_server.alarms import desk
from fleet_server.alarms.work_list import Case, work_list
from fleet_server.errors import NotFound
from fleet_server.feedback import actions
from fleet_server.store import events, maintenance
from fleet_server.web.deps import Limit, PersonOf, PoolOf
from models.contract.alarms import Maintenance
from models.contract.base import AssetId, Text
from models.contract.ids import new_trace_id
from models.form.actions import NOBODY

router = APIRouter()


@router.get("/work-list")
def show_work_list(
    pool: PoolOf, asset: str | None = None, assigned_to: str | None = None, limit: Limit = 100
) -> dict[str, Any]:
    """Cases that need somebody, the neediest first, each with its reasons in points."""
    with pool.connection() as conn:
        cases = work_list(conn, datetime.now(UTC), asset=asset, assigned_to=assigned_to, limit=limit)
    return {"cases": [case_view(case) for case in cases]}


def case_view(case: Case) -> dict[str, Any]:
    return asdict(case) | {"state": case.state.model_dump(mode="json", exclude={"actions"})}


@router.get("/alarms/{event_id}")
def show_alarm(event_id: UUID, pool: PoolOf) -> dict[str, Any]:
    """One alarm: its life, and everything that was done about it, in order."""
    with pool.connection() as conn:
        event = events.get(conn, event_id)
        if event is None:
            raise NotFound(f"there is no alarm {event_id}")
        state = desk.states(conn, [event])[event_id]
    return {"alarm": event, "state": state.model_dump(mode="json")}


@router.get("/maintenance")
def list_maintenance(pool: PoolOf, asset: str | None = None, past: bool = False, limit: Limit = 100) -> dict[str, Any]:
    """Windows that run or are planned, settling included; `past`: those that are over, too."""
    since = None if past else datetime.now(UTC)
    with pool.connection() as conn:
        found = maintenance.listing(conn, asset, now_or_later=since, limit=limit)
    return {"maintenance": [each.model_dump(mode="json") for each in found]}


class Planned(BaseModel):
    """A maintenance window as it shall be; one without an end runs until somebody ends it."""

    asset: AssetId
    start: AwareDatetime
    end: AwareDatetime | None = None
    by: Annotated[Text, Field(max_length=80)] = ""
    reason: Annotated[Text, Field(max_length=500)] = ""
    part_replaced: Annotated[Text, Field(max_length=80)] = ""
    settle_s: Annotated[float, Field(ge=0, le=7 * 86400)] = 600.0
    cancelled: bool = False


@router.put("/maintenance/{maintenance_id}")
def put_maintenance(maintenance_id: UUID, body: Planned, pool: PoolOf, person: PersonOf) -> dict[str, Any]:
    """Plan, change, end or cancel one. The same again changes nothing."""
    word = Maintenance(
        trace_id=new_trace_id(),
        made_at=datetime.now(UTC),
        maintenance_id=maintenance_id,
        actor=person or body.by or NOBODY,
        place="server",
        **body.model_dump(exclude={"by"}),
    )
    with pool.connection() as conn:
        taken = actions.plan(conn, word, word.made_at)
    return {"maintenance_id": maintenance_id, "taken": taken}


@router.get("/suppressions")
def list_suppressions(pool: PoolOf, asset: str | None = None, past: bool = False, limit: Limit = 100) -> dict[str, Any]:
    """Patterns that do not alarm because somebody called them false, and how many windows that was."""
    with pool.connection() as conn:
        holding = None if past else datetime.now(UTC)
        return {"suppressions": maintenance.suppressions(conn, asset_id=asset, holding_at=holding, limit=limit)}


@router.delete("/suppressions/{suppression_id}", status_code=202)
def lift(suppression_id: UUID, pool: PoolOf, person: PersonOf, by: str = "") -> dict[str, Any]:
    """Tell the device to alarm again."""
    with pool.connection() as conn:
        return {"command_id": desk.lift(conn, suppression_id, person or by or NOBODY)}
