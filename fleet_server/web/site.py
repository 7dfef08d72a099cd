"""The web application, put together."""

from __future__ import annotations

from importlib import resources
from typing import Final

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from fleet_server.web import (
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
)
from fleet_server.web.deps import Site
from fleet_server.web.guard import Guard
from models import form
from models.form.shell import FormFiles

STATIC: Final = str(resources.files("fleet_server.web") / "static")


def build(site: Site) -> FastAPI:
    """No documentation pages: they would load scripts from elsewhere. The schema is at /api/openapi.json."""
    app = FastAPI(title="fleet server", version="1", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.site, app.state.ledger = site, pages.new_ledger()
    app.add_middleware(Guard)
    errors.install(app)
    for part in (fleet, events, form_api, attachments, feedback, releases, rollouts, records, commands):
        app.include_router(part.router, prefix="/api")
    app.include_router(records.health)
    app.include_router(pages.router)
    app.mount("/form", FormFiles())
    app.mount("/static", StaticFiles(directory=form.STATIC))
    app.mount("/assets", StaticFiles(directory=STATIC))
    return app
