"""The agent's web application, put together."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from edge_agent.page import actions, form_api, metrics, pages, uploads
from edge_agent.page.answers import error
from edge_agent.page.desk import Desk
from models import form
from models.form import gate
from models.form.shell import FormFiles

MAX_BODY: Final = 256 * 1024


def make_app(desk: Desk) -> Starlette:
    """The pages of one agent, and what the phone asks it."""
    device, sign_in = desk.agent.device, desk.sign_in
    return Starlette(
        routes=[
            *pages.routes(desk),
            *(gate.routes(sign_in, device, desk.now) if sign_in else ()),
            *form_api.routes(desk),
            *uploads.routes(desk),
            *actions.routes(desk),
            *metrics.routes(desk),
            Mount("/form", FormFiles()),
            Mount("/static", StaticFiles(directory=form.STATIC)),
        ],
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=_guard),
            Middleware(gate.Gate, sign_in=sign_in, host=device, now=desk.now, rest="technician"),
        ],
    )


async def _guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
    if request.method not in ("GET", "HEAD") and form.cross_site(request.headers):
        return error(403, "cross_site", "this request came from another site's page")
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers or not length.isdecimal() or int(length) > MAX_BODY:
        return error(413, "too_large", f"more than {MAX_BODY} bytes, or of unknown length")
    response = await call_next(request)
    for name, value in form.HEADERS.items():
        response.headers.setdefault(name, value)
    if request.url.path.startswith("/api/"):
        response.headers["Cache-Control"] = "no-store"
    return response
