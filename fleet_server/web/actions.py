"""What the phone does about alarms and maintenance: docs/form-api.md."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from fleet_server.errors import NotFound, Refused
from fleet_server.feedback import actions
from fleet_server.store.pool import Pool
from fleet_server.web.deps import PoolOf, VisitorOf
from models.contract.codec import Unreadable
from models.form.actions import ActionTaken, FormAction, read_action

router = APIRouter()


@router.put("/form/actions/{action_id}")
async def put_action(action_id: UUID, request: Request, pool: PoolOf, visitor: VisitorOf) -> Response:
    """201: done; 200: it was done before; 404: no such alarm; 409: this id stands for something else."""
    person = visitor.who.person if visitor else ""
    try:
        done = read_action(await request.body())
        taken = await run_in_threadpool(_take, pool, action_id, done, person)
    except Unreadable as exc:
        return _refusal(422, "unreadable", str(exc), action_id)
    except NotFound as exc:
        return _refusal(404, "not_found", str(exc), action_id)
    except Refused as exc:
        return _refusal(409, "conflict", str(exc), action_id)
    said = ActionTaken(action_id=action_id, taken=taken, state="stored")
    return Response(said.model_dump_json(), 201 if taken == "new" else 200, media_type="application/json")


def _take(pool: Pool, action_id: UUID, done: FormAction, person: str) -> actions.Taken:
    with pool.connection() as conn:
        return actions.take(conn, action_id, done, person=person, at=datetime.now(UTC))


def _refusal(status: int, code: str, text: str, action_id: UUID) -> JSONResponse:
    """Names the id: a phone takes it for nobody else's answer."""
    return JSONResponse({"action_id": str(action_id), "error": {"code": code, "message": text}}, status)
