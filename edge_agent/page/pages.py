"""Pages that need no script: what the agent sees now, and a form that posts itself."""

from __future__ import annotations

from datetime import datetime, timedelta
from urllib.parse import parse_qsl
from uuid import UUID

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from edge_agent.page.answers import error
from edge_agent.page.desk import Desk
from edge_agent.page.overview import overview, says
from models import form
from models.form import machine_labels, speech
from models.form.machine_labels import Machine

MAX_FORM = 64 * 1024  # bytes


def routes(desk: Desk) -> list[Route]:
    agent, journal, health = desk.agent, desk.journal, desk.health

    def front(request: Request) -> Response:
        return HTMLResponse(form.document(agent.device, "edge agent", overview(agent, journal, health()), live="/now"))

    def now(request: Request) -> Response:
        return HTMLResponse(overview(agent, journal, health()))

    def show_form(request: Request) -> Response:
        event_id = request.path_params.get("event_id")
        subject = _subject(desk, event_id, request.query_params.get("asset"))
        if subject is None:
            return error(404, "not_found", "there is no such alarm or asset here")
        return HTMLResponse(form.form_page(subject, action="/annotate"))

    async def take_form(request: Request) -> Response:
        raw = await request.body()
        fields = dict(parse_qsl(raw[:MAX_FORM].decode(errors="replace"), keep_blank_values=True))
        try:
            annotation = form.read_form(fields, desk.now())
            if annotation.asset not in health():
                raise ValueError("This asset is not watched by this device.")
            if desk.alarms.annotate(annotation) == "conflict":
                raise ValueError("This was saved already, with other words. Open the alarm again to correct it.")
        except ValueError as exc:
            subject = _subject_of(fields)
            if subject is None:
                return error(422, "bad_form", str(exc))
            return HTMLResponse(form.form_page(subject, "/annotate", str(exc), fields), status_code=422)
        return HTMLResponse(form.saved_page(annotation, sent=False, back="/"))

    def labels(request: Request) -> Response:
        machines = [Machine(name, each.kind, each.hall, each.code) for name, each in health().items()]
        lang = speech.language(request.query_params.get("lang") or request.headers.get("accept-language"))
        return HTMLResponse(machine_labels.page(machines, str(request.base_url), lang))

    shown = [Route("/", front), Route("/now", now), Route("/labels", labels)]
    if desk.sign_in:  # a form without script can not say who fills it in
        return shown
    return [
        *shown,
        Route("/annotate", show_form, methods=["GET"]),
        Route("/annotate", take_form, methods=["POST"]),
        Route("/annotate/{event_id:uuid}", show_form, methods=["GET"]),
    ]


def _subject(desk: Desk, event_id: UUID | None, asset: str | None) -> form.Subject | None:
    assets = desk.health()
    if event_id:
        episode = desk.journal.episode(event_id)
        if episode is None:
            return None
        event, end = episode.event, episode.end
        if episode.open and (health := assets.get(event.asset)) and health.last_sample_at:
            end = max(end, health.last_sample_at)
        return form.Subject(event.asset, event.opened_at, end, event.event_id, event.trace_id, says(episode))
    if asset in assets:
        end = assets[asset].last_sample_at or desk.now()
        return form.Subject(asset, end - timedelta(minutes=10), end, says="No alarm was raised.")
    return None


def _subject_of(fields: dict[str, str]) -> form.Subject | None:
    try:
        start, end = (datetime.fromisoformat(fields[name]) for name in ("start", "end"))
        event, trace = (UUID(fields[name]) if fields.get(name) else None for name in ("event_id", "trace_id"))
        return form.Subject(fields["asset"], start, end, event, trace)
    except (KeyError, ValueError, ValidationError):
        return None
