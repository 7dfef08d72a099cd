"""The door of agent and server: who asks, and whether they may. One ASGI middleware and the routes of signing in.

Everything is closed but what is named here: a new route is for operators until somebody decides otherwise.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from models.contract.base import Message
from models.contract.codec import Unreadable, load
from models.form.api import Person
from models.form.signin import Cookies, Refused, Role, SessionRow, SignIn, cookie_names, is_program_of_ours, reaches

M = TypeVar("M", bound=Message)


class Need(enum.Enum):
    """What a request needs where people sign in."""

    NOTHING = enum.auto()
    SESSION = enum.auto()  # a locked one too: what waits on the phone is taken
    UNLOCKED = enum.auto()
    OWN_KEY = enum.auto()  # a program, with a key of its own: the route looks at it
    REST = enum.auto()  # whatever is not named: the host says which role


_NEEDS: Final[tuple[tuple[str, str, Need], ...]] = (
    (r"GET|HEAD", r"/form(/.*)?|/static/.*|/live|/ready|/favicon\.ico|/api/form/bootstrap", Need.NOTHING),
    (r"GET", r"/metrics", Need.NOTHING),  # the agent's, which looks where the question comes from
    (r"POST", r"/api/form/enrol", Need.NOTHING),
    (r"POST", r"/api/work-orders", Need.OWN_KEY),
    (
        r"PUT",
        r"/api/annotations/[^/]+|/api/attachments/[^/]+|/api/form/(actions|questions|satisfaction)/[^/]+",
        Need.SESSION,
    ),
    (r"GET", r"/api/attachments/[^/]+/state", Need.SESSION),
    (r"GET", r"/api/form/me", Need.SESSION),
    (r"POST", r"/api/form/(unlock|lock|sign-out)", Need.SESSION),
    (r"PUT", r"/api/form/pin", Need.SESSION),
    (r"GET", r"/api/form/history|/api/work-list|/api/annotations/[^/]+|/api/attachments/[^/]+", Need.UNLOCKED),
)
_PHONE_LASTS: Final = timedelta(days=400)  # as long as browsers keep any cookie
_MEDIA_TYPES: Final = ("application/json", "application/octet-stream")  # no plain HTML form can send these
_LOCAL: Final = re.compile(r"^(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Visitor:
    """Who asks."""

    who: Person
    session: SessionRow

    @property
    def role(self) -> Role:
        return self.who.role


def needed(method: str, path: str) -> Need:
    for methods, paths, need in _NEEDS:
        if re.fullmatch(methods, method) and re.fullmatch(paths, path):
            return need
    return Need.REST


def visitor_of(request: HTTPConnection) -> Visitor | None:
    """As the gate found it; None: nobody is signed in, or nobody needs to be."""
    found: Visitor | None = getattr(request.state, "visitor", None)
    return found


def person_of(request: HTTPConnection) -> str | None:
    """The pseudonym of who is signed in and not locked."""
    visitor = visitor_of(request)
    return visitor.who.person if visitor and not visitor.who.locked else None


class Gate:
    """`sign_in` None: nobody signs in; then only this machine's own names are answered, so that no page from elsewhere
    gets here by a name that suddenly points to this machine."""

    def __init__(
        self, app: ASGIApp, sign_in: SignIn | None, host: str, now: Callable[[], datetime], rest: Role
    ) -> None:
        self._app, self._sign_in, self._now, self._rest = app, sign_in, now, rest
        self._cookies = cookie_names(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["visitor"] = await self._look(HTTPConnection(scope), scope["method"])
        except Refused as exc:
            await refusal(exc)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _look(self, request: HTTPConnection, method: str) -> Visitor | None:
        if self._sign_in is None:
            if not _LOCAL.match(request.headers.get("host", "localhost")):
                raise Refused(403, "wrong_host", "without sign-in this is for this machine alone: use localhost")
            return None
        need = needed(method, request.scope["path"])
        if need is Need.OWN_KEY:
            return None
        if method not in ("GET", "HEAD", "OPTIONS") and not is_program_of_ours(request.headers):
            raise Refused(403, "cross_site", "this can only be sent by our own form")
        media_type = request.headers.get("content-type", "").partition(";")[0]
        if method not in ("GET", "HEAD", "OPTIONS") and media_type not in _MEDIA_TYPES:
            raise Refused(415, "json_only", "send application/json")
        token = request.cookies.get(self._cookies.session, "")
        looks = need is not Need.SESSION
        found = await run_in_threadpool(self._sign_in.visitor, token, self._now(), looks=looks)
        visitor = Visitor(*found) if found else None
        if need is Need.NOTHING:
            return visitor
        if visitor is None:
            raise Refused(401, "signin", "sign in with a code first")
        if need is not Need.SESSION and visitor.who.locked:
            raise Refused(401, "locked", "unlock with the PIN first")
        if need is Need.REST and not reaches(visitor.role, self._rest):
            raise Refused(403, "not_yours", f"this is for the role {self._rest}")
        return visitor


def refusal(exc: Refused) -> Response:
    headers = {"Retry-After": str(exc.facts["retry_after"])} if "retry_after" in exc.facts else {}
    body = {"error": {"code": exc.code, "message": str(exc)}} | exc.facts
    return JSONResponse(body, exc.status, headers=headers | {"Cache-Control": "no-store"})


class _Code(Message):
    code: Annotated[str, Field(max_length=64)]


class _Pin(Message):
    pin: Annotated[str, Field(max_length=64)]
    old: Annotated[str, Field(max_length=64)] | None = None


def routes(sign_in: SignIn, host: str, now: Callable[[], datetime]) -> list[Route]:
    """Of signing in; docs/form-api.md has them."""
    names = cookie_names(host)

    def answer(who: Person) -> Response:
        return Response(who.model_dump_json(), media_type="application/json")

    async def enrol(request: Request) -> Response:
        code = (await _read(_Code, request)).code
        address = request.client.host if request.client else ""
        old, phone = (request.cookies.get(name, "") for name in names)
        who, cookies = await run_in_threadpool(
            lambda: sign_in.enrol(code, now(), address=address, old_token=old, phone=phone)
        )
        response = answer(who)
        _set(response, names, cookies, request, sign_in.lasts)
        return response

    def me(request: Request) -> Response:
        return answer(_visitor(request).who)

    async def pin(request: Request) -> Response:
        given = await _read(_Pin, request)
        session = _visitor(request).session
        await run_in_threadpool(sign_in.set_pin, session, given.pin, given.old, now())
        return answer(await run_in_threadpool(_again, request))

    async def unlock(request: Request) -> Response:
        given = await _read(_Pin, request)
        await run_in_threadpool(sign_in.unlock, _visitor(request).session, given.pin, now())
        return answer(await run_in_threadpool(_again, request))

    def lock(request: Request) -> Response:
        sign_in.lock(_visitor(request).session)
        return answer(_again(request))

    def sign_out(request: Request) -> Response:
        sign_in.sign_out(_visitor(request).session)
        response = Response(status_code=204)
        response.delete_cookie(names.session, path="/", httponly=True, samesite="strict")
        return response

    def _again(request: Request) -> Person:
        found = sign_in.visitor(request.cookies.get(names.session, ""), now(), looks=False)
        if found is None:
            raise Refused(401, "signin", "the session is over")
        return found[0]

    return [
        Route("/api/form/enrol", guarded(enrol), methods=["POST"]),
        Route("/api/form/me", me),
        Route("/api/form/pin", guarded(pin), methods=["PUT"]),
        Route("/api/form/unlock", guarded(unlock), methods=["POST"]),
        Route("/api/form/lock", lock, methods=["POST"]),
        Route("/api/form/sign-out", sign_out, methods=["POST"]),
    ]


def guarded(route: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """A refusal as an answer."""

    async def answered(request: Request) -> Response:
        try:
            response: Response = await route(request)
        except Refused as exc:
            return refusal(exc)
        except Unreadable as exc:
            return refusal(Refused(422, "unreadable", str(exc)))
        return response

    return answered


async def _read(kind: type[M], request: Request) -> M:
    return load(kind, await request.body())


def _visitor(request: Request) -> Visitor:
    found = visitor_of(request)
    assert found, "the gate lets nobody else through"
    return found


def _set(response: Response, names: Cookies, cookies: Cookies, request: Request, lasts: timedelta) -> None:
    """`Secure` where the phone came by https, also to a proxy on this machine that says so."""
    secure = request.url.scheme == "https"
    for name, value, age in ((names.session, cookies.session, lasts), (names.phone, cookies.phone, _PHONE_LASTS)):
        response.set_cookie(
            name,
            value,
            max_age=int(age.total_seconds()),
            path="/",
            secure=secure,
            httponly=True,
            samesite="strict",
        )
