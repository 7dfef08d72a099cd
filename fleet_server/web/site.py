"""The web application, put together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Final

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from fleet_server.feedback.people import People, check_pin, hash_pin
from fleet_server.web import (
    actions,
    alarms,
    attachments,
    commands,
    errors,
    events,
    feedback,
    fleet,
    form_api,
    pages,
    records,
    releases,
    rollouts,
    voices,
)
from fleet_server.web.deps import Site
from fleet_server.web.guard import Guard
from models import form
from models.form import gate
from models.form.shell import FormFiles
from models.form.signin import SignIn

HOST: Final = "fleet server"
STATIC: Final = str(resources.files("fleet_server.web") / "static")


def build(site: Site) -> FastAPI:
    """No documentation pages: they would load scripts from elsewhere. The schema is at /api/openapi.json."""
    app = FastAPI(title="fleet server", version="1", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    form_settings, sign_in = site.config.form, None
    if form_settings.sign_in == "enrolled":
        sign_in = SignIn(People(site.pool), timedelta(days=form_settings.session_days), hash_pin, check_pin)
        app.router.routes.extend(gate.routes(sign_in, HOST, _now))
        site = replace(site, sign_in=sign_in)
    app.state.site, app.state.ledger = site, pages.new_ledger()
    app.add_middleware(gate.Gate, sign_in=sign_in, host=HOST, now=_now, rest="operator")
    app.add_middleware(Guard)
    errors.install(app)
    for part in (
        fleet,
        events,
        alarms,
        form_api,
        attachments,
        actions,
        feedback,
        releases,
        rollouts,
        records,
        commands,
    ):
        app.include_router(part.router, prefix="/api")
    app.include_router(records.health)
    app.include_router(pages.router)
    app.include_router(voices.router)
    app.mount("/form", FormFiles())
    app.mount("/static", StaticFiles(directory=form.STATIC))
    app.mount("/assets", StaticFiles(directory=STATIC))
    return app


def _now() -> datetime:
    return datetime.now(UTC)
