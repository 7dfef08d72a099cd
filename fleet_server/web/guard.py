"""What holds for every request: no other site's page may act in a visitor's name, and no page loads from elsewhere."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fleet_server.web.errors import error
from models import form

MAX_BODY = 256 * 1024


class Guard:
    """Plain ASGI, so that nothing is buffered on the way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in form.HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(("/api/", "/now")):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and form.cross_site(headers):
            await error(403, "cross_site", "this request came from another site's page")(scope, receive, send_guarded)
        elif b"%00" in scope.get("raw_path", b"") + b"?" + scope["query_string"]:
            await error(422, "invalid", "there is a NUL in the address")(scope, receive, send_guarded)
        elif _too_large(headers):
            await error(413, "too_large", f"more than {MAX_BODY} bytes, or of unknown length")(
                scope, receive, send_guarded
            )
        else:
            await self._app(scope, receive, send_guarded)


def _too_large(headers: Headers) -> bool:
    if "transfer-encoding" in headers:
        return True
    length = headers.get("content-length", "0")
    return not length.isdecimal() or int(length) > MAX_BODY
