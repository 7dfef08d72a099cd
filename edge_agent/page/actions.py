"""What the phone does about alarms and maintenance, on the device: docs/form-api.md."""

from __future__ import annotations

from uuid import UUID

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_agent.alarms.desk import AlarmDesk
from edge_agent.annotate import Taken
from edge_agent.errors import AgentError
from edge_agent.page.answers import answer, error
from edge_agent.page.desk import Desk
from models.contract.codec import Unreadable
from models.form.actions import NOBODY, ActionTaken, FormAction, read_action
from models.form.gate import person_of, visitor_of


def routes(desk: Desk) -> list[Route]:
    async def put_action(request: Request) -> Response:
        action_id: UUID = request.path_params["action_id"]
        try:
            done = read_action(await request.body())
            if done.asset is not None and done.asset not in desk.health():
                return _refusal(422, "unknown_asset", f"{done.asset} is not watched by this device", action_id)
            visitor = visitor_of(request)
            person = visitor.who.person if visitor else ""
            taken = await run_in_threadpool(perform, desk.alarms, action_id, done, person)
        except Unreadable as exc:
            return _refusal(422, "unreadable", str(exc), action_id)
        except AgentError as exc:
            return _refusal(404, "not_found", str(exc), action_id)
        if taken == "conflict":
            return _refusal(409, "conflict", "this id stands for something else", action_id)
        said = ActionTaken(action_id=action_id, taken="new" if taken == "new" else "before", state="kept")
        return answer(said, 201 if taken == "new" else 200)

    def list_suppressions(request: Request) -> Response:
        rows = [row.said.model_dump(mode="json") for row in desk.alarms.suppressions()]
        return JSONResponse({"suppressions": rows})

    def lift(request: Request) -> Response:
        suppression_id: UUID = request.path_params["suppression_id"]
        if not desk.alarms.lift(suppression_id, person_of(request) or request.query_params.get("by") or NOBODY):
            return error(404, "not_found", "there is no such suppression, or it has ended")
        return JSONResponse({"suppression_id": str(suppression_id), "ended": "lifted"})

    def list_maintenance(request: Request) -> Response:
        rows = [each.model_dump(mode="json") for each in desk.alarms.maintenance(request.query_params.get("asset"))]
        return JSONResponse({"maintenance": rows})

    return [
        Route("/api/form/actions/{action_id:uuid}", put_action, methods=["PUT"]),
        Route("/api/suppressions", list_suppressions),
        Route("/api/suppressions/{suppression_id:uuid}", lift, methods=["DELETE"]),
        Route("/api/maintenance", list_maintenance),
    ]


def perform(alarms: AlarmDesk, action_id: UUID, done: FormAction, person: str = "") -> Taken:
    """Do it, once. Raises AgentError: there is no such alarm; Unreadable: it lacks what it needs."""
    actor = person or done.actor or NOBODY
    if done.action == "maintenance_start":
        assert done.asset
        known = alarms.window(done.maintenance_id)
        if known is not None:
            return "again"
        alarms.start_maintenance(done.asset, actor, maintenance_id=done.maintenance_id, reason=done.text[:500])
        return "new"
    if done.action == "maintenance_end":
        n = alarms.end_maintenance(actor, maintenance_id=done.maintenance_id, part_replaced=done.part_replaced)
        if not n and alarms.window(done.maintenance_id) is None:
            raise AgentError("there is no such maintenance here")
        return "new" if n else "again"
    return alarms.act(done.on_alarm(action_id, actor, done.asset or "unknown"))


def _refusal(status: int, code: str, text: str, action_id: UUID) -> JSONResponse:
    """Names the id: a phone takes it for nobody else's answer."""
    return JSONResponse({"action_id": str(action_id), "error": {"code": code, "message": text}}, status)
