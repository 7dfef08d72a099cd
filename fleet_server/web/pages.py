"""Pages for people: the overview, the technician's form, and where something came from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from fleet_server.alarms.desk import states
from fleet_server.errors import NotFound, Refused
from fleet_server.feedback import machine_labels
from fleet_server.store import bundles, decisions, devices, events, ledger, rollouts, runs, summary
from fleet_server.store.pool import Pool
from fleet_server.store.trace import Node, trace
from fleet_server.web import overview
from fleet_server.web.deps import PoolOf, Site, SiteOf
from fleet_server.web.form_api import take
from fleet_server.web.rollouts import view
from models import form
from models.contract.labels import FAULT_TEXT, FaultKind
from models.form import machine_labels as sheet
from models.form import speech

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
ASSETS: Final = ("/assets/fleet.css", "/assets/fleet.js")
LEDGER_S: Final = 5.0  # a page that is open all day must not count everything every two seconds


@dataclass
class _Ledger:
    """The account as of a few seconds ago."""

    at: float = float("-inf")
    statement: dict[str, Any] = field(default_factory=dict)


@router.get("/")
def show_overview(site: SiteOf, request: Request) -> str:
    """The fleet at a glance."""
    body = overview.page(_facts(site, request.app.state.ledger))
    return form.document("Fleet", "Predictive maintenance that closes its loop", body, assets=ASSETS)


@router.get("/now")
def show_now(site: SiteOf, request: Request) -> str:
    """The sections again."""
    return overview.page(_facts(site, request.app.state.ledger))


@router.get("/annotate/{event_id}")
def show_form(event_id: UUID, pool: PoolOf) -> str:
    """Three taps to a verdict."""
    return form.form_page(_subject(pool, event_id), action="/annotate")


@router.post("/annotate")
async def take_form(request: Request, pool: PoolOf) -> Response:
    """The form, sent. Answers with a page either way: it works without script."""
    raw = await request.body()
    fields = dict(parse_qsl(raw.decode(errors="replace"), keep_blank_values=True, max_num_fields=50))
    try:
        said = form.read_form(fields, datetime.now(UTC))
        await run_in_threadpool(take, pool, said)
    except Refused:
        return await _again(
            pool, fields, "This was saved already, with other words. Open the alarm again to correct it."
        )
    except ValueError as exc:
        return await _again(pool, fields, str(exc))
    return HTMLResponse(form.saved_page(said, sent=True, back="/"))


@router.get("/trace")
def find_trace(id: str = "") -> Response:
    """The search field, and what was typed there."""
    if id.strip():
        return RedirectResponse(f"/trace/{quote(id.strip())}", status_code=303)
    return HTMLResponse(form.document("Trace", "Where it came from, what it led to", _search(""), assets=ASSETS))


@router.get("/trace/{text:path}")
def show_trace(text: str, pool: PoolOf) -> Response:
    """From a window to the devices that run what was learned from it, and back."""
    try:
        with pool.connection() as conn:
            found = trace(conn, text)
    except NotFound as exc:
        body = f'{_search(text)}<p class="problem" role="alert">{escape(str(exc))}</p>'
        return HTMLResponse(form.document("Trace", "Where it came from, what it led to", body, assets=ASSETS), 404)
    body = _search(text) + "".join(map(_chain, found))
    return HTMLResponse(form.document("Trace", "Where it came from, what it led to", body, assets=ASSETS))


@router.get("/labels")
def show_labels(pool: PoolOf, request: Request, lang: str = "") -> str:
    """QR labels of all machines, to print; with links to this host by the name that it was asked by."""
    with pool.connection() as conn:
        machines = machine_labels.machines(conn)
    spoken = speech.language(lang or request.headers.get("accept-language"))
    return sheet.page(machines, str(request.base_url), spoken)


@router.get("/favicon.ico")
def icon() -> FileResponse:
    """Browsers ask for it on their own."""
    return FileResponse(Path(__file__).with_name("static") / "icon.svg", media_type="image/svg+xml")


def new_ledger() -> _Ledger:
    """To be kept beside the application."""
    return _Ledger()


def _facts(site: Site, account: _Ledger) -> overview.Facts:
    with site.pool.connection() as conn:
        if time.monotonic() - account.at > LEDGER_S:
            account.statement, account.at = ledger.statement(ledger.account(conn)), time.monotonic()
        found = events.listing(conn, limit=12)
        return overview.Facts(
            at=datetime.now(UTC),
            summary=summary.summary(conn),
            ledger=account.statement,
            devices=devices.listing(conn),
            events=found,
            states=states(conn, found),
            rollouts=[view(conn, row, site.config.rollouts.deadline_s) for row in rollouts.listing(conn, 4)],
            runs=runs.listing(conn, 5),
            bundles=bundles.listing(conn)[:6],
            decisions=decisions.listing(conn, limit=8),
        )


def _subject(pool: Pool, event_id: UUID) -> form.Subject:
    with pool.connection() as conn:
        row = events.get(conn, event_id)
    if row is None:
        raise NotFound(f"there is no event {event_id}")
    fault = FAULT_TEXT[FaultKind(row.fault_class)] if row.fault_class in list(FaultKind) else row.fault_class
    says = f"The model says: {fault or 'something is unusual'}, score {row.score:.2f} (alarm at {row.threshold:.2f})."
    end = row.cleared_at or row.updated_at
    return form.Subject(row.asset_id, row.opened_at, end, row.event_id, row.trace_id, says)


async def _again(pool: Pool, fields: Mapping[str, str], problem: str) -> Response:
    """The form with what was filled in, and what is wrong with it."""
    try:
        subject = await run_in_threadpool(_subject, pool, UUID(fields.get("event_id", "")))
    except (ValueError, NotFound):
        body = f'<p class="problem" role="alert">{escape(problem)}</p>'
        return HTMLResponse(form.document("Not saved", "", body), 422)
    return HTMLResponse(form.form_page(subject, "/annotate", problem, fields), 422)


def _search(text: str) -> str:
    return (
        '<form class="search" action="/trace"><label for="id">Any id: window, event, annotation, label, dataset, run, '
        f'model version, rollout or device</label><input id="id" name="id" type="text" value="{escape(text)}" required>'
        '<button>Trace</button></form><p><a href="/">Back to the fleet</a></p>'
    )


def _chain(node: Node) -> str:
    before = f"<h2>Made from</h2>{_tree(node.made_from, 'made_from')}" if node.made_from else ""
    after = f"<h2>Led to</h2>{_tree(node.led_to, 'led_to')}" if node.led_to else ""
    nothing = "" if before or after else '<p class="soft">Nothing leads here, and it has led to nothing yet.</p>'
    return f'<div class="card focus">{_node(node)}</div>{before}{after}{nothing}'


def _tree(nodes: list[Node], side: str) -> str:
    items = "".join(f"<li>{_node(node)}{_tree(getattr(node, side), side)}</li>" for node in nodes)
    return f'<ul class="tree">{items}</ul>' if items else ""


def _node(node: Node) -> str:
    note = f' <span class="note">{escape(node.note)}</span>' if node.note else ""
    more = f' <span class="soft">and {node.more} more</span>' if node.more else ""
    return (
        f'<span class="kind">{node.kind}</span> <a href="/trace/{quote(node.id)}"><code>{escape(node.id)}</code></a>'
        f"{note}<br>{escape(node.text)}{more}"
    )
