"""The phone's form as files: below /form/ on agent and server alike, with a worker that names each by its hash.

No build step: the worker's text begins with what is really served, so one changed byte anywhere is a new version.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

FOLDER: Final = Path(__file__).parent / "pwa"
ROOT: Final = "/form/"
_WORKER: Final = "worker.js"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_SHELL: Final = "index.html"


class Served(NamedTuple):
    """One file, ready to be sent."""

    body: bytes
    packed: bytes | None  # gzip; None: it would not be smaller
    media_type: str
    sha256: str


class FormFiles:
    """An ASGI application, to be mounted at /form. What is no file is a place in the form and gets the shell."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._files = {name: _served(name, body) for name, body in _read(folder)}
        listed = [[ROOT if name == _SHELL else ROOT + name, served.sha256] for name, served in self.kept_offline()]
        version = hashlib.sha256(json.dumps(listed).encode() + self._files[_WORKER].body).hexdigest()[:16]
        names = json.dumps(listed, separators=(",", ":"))
        worker = (
            f"const VERSION = {json.dumps(version)};\nconst FILES = {names};\n".encode() + self._files[_WORKER].body
        )
        self._files[_WORKER] = _served(_WORKER, worker)

    def kept_offline(self) -> list[tuple[str, Served]]:
        """What the worker keeps: all but itself and what only the home screen asks for."""
        return [(name, each) for name, each in self._files.items() if name != _WORKER and not name.endswith(".png")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        response = self._answer(request)
        await response(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(status_code=405, headers={"Allow": "GET, HEAD"})
        name = request.url.path.removeprefix(ROOT)
        served = self._files.get(name)
        if served is None:
            if Path(name).suffix in _TYPES:  # a script that is gone must not be answered with a page
                return Response(status_code=404)
            served = self._files[_SHELL]
        # Kept by the browser, but asked for each time: the answer is then 304, and never an old file beside a new one.
        headers = {"ETag": f'"{served.sha256[:32]}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        body = served.body
        if served.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            body = served.packed
            headers["Content-Encoding"] = "gzip"
        return Response(body, headers=headers, media_type=served.media_type)


def _read(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in _TYPES:
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _served(name: str, body: bytes) -> Served:
    packed = gzip.compress(body, 9, mtime=0)
    return Served(
        body,
        packed if len(packed) < len(body) * 0.9 else None,
        _TYPES[Path(name).suffix],
        hashlib.sha256(body).hexdigest(),
    )
