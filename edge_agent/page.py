"""The agent's own pages: what it sees now, and the technician's form. Works on the plant's network, with no server."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any, Protocol
from urllib.parse import parse_qsl
from uuid import UUID

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from edge_agent.annotate import Episode, Journal
from edge_agent.errors import AgentError
from models import form
from models.contract.base import Stream
from models.contract.codec import Unreadable, load
from models.contract.messages import Annotation, AssetHealth

log = logging.getLogger(__name__)
MAX_FORM = 64 * 1024  # bytes


class Shown(Protocol):
    """What the pages ask of the agent."""

    device: str

    def status(self) -> dict[str, Any]:
        """Model, step, connection, waiting rows and assets, ready for JSON."""


def make_app(agent: Shown, journal: Journal, health: Callable[[], dict[str, AssetHealth]]) -> Starlette:
    """The pages of one agent."""

    def overview(request: Request) -> Response:
        return HTMLResponse(form.document(agent.device, "edge agent", _overview(agent, journal, health()), live="/now"))

    def now(request: Request) -> Response:
        return HTMLResponse(_overview(agent, journal, health()))

    def show_form(request: Request) -> Response:
        event_id = request.path_params.get("event_id")
        subject = _subject(journal, event_id, request.query_params.get("asset"), health())
        if subject is None:
            return JSONResponse(_error("not_found", "there is no such alarm or asset here"), 404)
        return HTMLResponse(form.form_page(subject, action="/annotate"))

    async def take_form(request: Request) -> Response:
        raw = await request.body()
        fields = dict(parse_qsl(raw[:MAX_FORM].decode(errors="replace"), keep_blank_values=True))
        try:
            annotation = form.read_form(fields)
            if annotation.asset not in health():
                raise ValueError("This asset is not watched by this device.")
            if journal.take(annotation) == "conflict":
                raise ValueError("This was saved already, with other words. Open the alarm again to correct it.")
        except ValueError as exc:
            subject = _subject_of(fields)
            if subject is None:
                return JSONResponse(_error("bad_form", str(exc)), 422)
            return HTMLResponse(form.form_page(subject, "/annotate", str(exc), fields), status_code=422)
        return HTMLResponse(form.saved_page(annotation, sent=False, back="/"))

    async def put_annotation(request: Request) -> Response:
        """The same for programs: 201 taken, 200 taken before, 409 the same id with other words."""
        try:
            annotation = load(Annotation, await request.body())
        except Unreadable as exc:
            return JSONResponse(_error("bad_annotation", str(exc)), 422)
        if str(annotation.annotation_id) != request.path_params["annotation_id"]:
            return JSONResponse(_error("bad_annotation", "the id in the address and in the body differ"), 422)
        if annotation.asset not in health():
            return JSONResponse(_error("unknown_asset", f"{annotation.asset} is not watched by this device"), 422)
        taken = journal.take(annotation)
        if taken == "conflict":
            return JSONResponse(_error("conflict", "this id was used for other words"), 409)
        code = 201 if taken == "new" else 200
        return JSONResponse({"annotation_id": str(annotation.annotation_id), "taken": taken}, code)

    def api_status(request: Request) -> Response:
        return JSONResponse(agent.status())

    def api_events(request: Request) -> Response:
        rows = [e.event.model_dump(mode="json") | {"open": e.open, "highest": e.score} for e in journal.episodes()]
        return JSONResponse({"events": rows})

    return Starlette(
        routes=[
            Route("/", overview),
            Route("/now", now),
            Route("/annotate", show_form, methods=["GET"]),
            Route("/annotate", take_form, methods=["POST"]),
            Route("/annotate/{event_id:uuid}", show_form, methods=["GET"]),
            Route("/api/status", api_status),
            Route("/api/events", api_events),
            Route("/api/annotations/{annotation_id}", put_annotation, methods=["PUT"]),
            Mount("/static", StaticFiles(directory=form.STATIC)),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=_guard)],
    )


class PageServer:
    """uvicorn in a thread of the agent's."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        """Listens from here on. A port that is taken is no reason not to watch machines: then it is a free one.

        Raises:
            AgentError: this host is none of the device's.
        """
        try:
            self._socket = socket.create_server((host, port))
        except OSError as taken:
            try:
                self._socket = socket.create_server((host, 0))
            except OSError as exc:
                raise AgentError(f"the page can not listen on {host}: {exc.strerror}") from exc
            log.warning("page on another port", extra={"wanted": port, "reason": taken.strerror})
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))

    def loop(self) -> None:
        """Until `stop`."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        self._server.should_exit = True


async def _guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
    if request.method not in ("GET", "HEAD") and form.cross_site(request.headers):
        return JSONResponse(_error("cross_site", "this request came from another site's page"), 403)
    response = await call_next(request)
    response.headers.update(form.HEADERS)
    return response


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _subject(
    journal: Journal, event_id: UUID | None, asset: str | None, assets: dict[str, AssetHealth]
) -> form.Subject | None:
    if event_id:
        episode = journal.episode(event_id)
        if episode is None:
            return None
        event, end = episode.event, episode.end
        if episode.open and (health := assets.get(event.asset)) and health.last_sample_at:
            end = max(end, health.last_sample_at)
        return form.Subject(event.asset, event.opened_at, end, event.event_id, event.trace_id, _says(episode))
    if asset in assets:
        end = assets[asset].last_sample_at or datetime.now(UTC)
        return form.Subject(asset, end - timedelta(minutes=10), end, says="No alarm was raised.")
    return None


def _subject_of(fields: dict[str, str]) -> form.Subject | None:
    try:
        start, end = (datetime.fromisoformat(fields[name]) for name in ("start", "end"))
        event, trace = (UUID(fields[name]) if fields.get(name) else None for name in ("event_id", "trace_id"))
        return form.Subject(fields["asset"], start, end, event, trace)
    except (KeyError, ValueError, ValidationError):
        return None


def _says(episode: Episode) -> str:
    event = episode.event
    drivers = ", ".join(f"{d.feature} {d.deviation:.0f} usual spreads off" for d in event.drivers[:2])
    kind = f", looks like {event.fault_class}" if event.fault_class else ""
    return f"Score {episode.score:.2f} (alarm from {event.threshold:.2f}){kind}. {drivers}"


def _overview(agent: Shown, journal: Journal, assets: dict[str, AssetHealth]) -> str:
    s = agent.status()
    waiting = sum(s["waiting"].values())
    people = s["waiting"].get(Stream.ANNOTATION, 0)
    link = {True: "connected", False: "not connected", None: "no broker configured"}[s["connected"]]
    stations = [
        (
            "Windows scored",
            sum(a.windows for a in assets.values()),
            f"model {s['model']['name']} {s['model']['version']}",
        ),
        ("Open alarms", sum(a.alarm for a in assets.values()), f"of {len(assets)} machines"),
        ("Annotations taken", journal.annotated(), f"{people} wait for the server"),
        ("Waiting to be stored", waiting, link),
    ]
    tiles = "".join(
        f'<li><span class="name">{name}</span><strong>{n:,}</strong><span class="more">{escape(more)}</span></li>'
        for name, n, more in stations
    )
    return f"""<ul class="stations">{tiles}</ul>
<h2>Machines</h2><div class="cards">{"".join(_card(name, a) for name, a in assets.items())}</div>
<h2>Alarms</h2>{_alarms(journal)}"""


_CHIPS = {
    "learning": ("wait", "learning what is normal"),
    "waiting": ("", "no samples yet"),
    "scoring": ("good", "normal"),
}


def _card(name: str, asset: AssetHealth) -> str:
    chips = {
        "learning": ("wait", "learning what is normal"),
        "waiting": ("", "no samples yet"),
        "scoring": ("good", "normal"),
    }
    kind, word = ("bad", "alarm") if asset.alarm else chips.get(asset.state, ("", asset.state))
    score = asset.score if asset.score is not None else 0.0
    dropped = ", ".join(f"{n} {cause.replace('_', ' ')}" for cause, n in asset.dropped.items()) or "nothing dropped"
    last = f"{asset.last_sample_at:%H:%M:%S} UTC" if asset.last_sample_at else "never"
    return f"""<section class="card"><h3>{escape(name)} <span class="chip {kind}">{word}</span></h3>
<meter min="0" max="1" low="0.4" high="0.5" optimum="0" value="{score:.3f}" aria-label="anomaly score"></meter>
<p class="soft">score {score:.2f} · {asset.windows:,} windows · last sample {last} · {escape(dropped)}</p>
<a class="button quiet" href="/annotate?asset={escape(name)}">Report without an alarm</a></section>"""


def _alarms(journal: Journal) -> str:
    episodes = journal.episodes(25)
    if not episodes:
        return '<p class="soft">None so far.</p>'
    rows = "".join(
        f"<tr><td>{e.event.opened_at:%d %b %H:%M:%S}</td><td>{escape(e.event.asset)}</td>"
        f'<td><span class="chip {"bad" if e.open else ""}">{"open" if e.open else "cleared"}</span></td>'
        f'<td class="n">{e.score:.2f}</td><td class="wide soft">{escape(_says(e))}</td>'
        f'<td><a class="button" href="/annotate/{e.event.event_id}">What was it?</a></td></tr>'
        for e in episodes
    )
    return f"""<div class="scroll alarms"><table><thead><tr><th>Since (UTC)</th><th>Machine</th><th>State</th>
<th class="n">Score</th><th>What the model says</th><th></th></tr></thead><tbody>{rows}</tbody></table></div>"""
