"""Errors to statuses, once, in one shape: {"error": {"code", "message"}}."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fleet_server.errors import BadConfig, FleetError, NotFound, NotReady, Refused
from fleet_server.store.pool import Trouble, trouble
from models.contract.codec import Unreadable

log = logging.getLogger(__name__)

STATUS: dict[type[FleetError], tuple[int, str]] = {
    NotFound: (404, "not_found"),
    Refused: (409, "conflict"),
    NotReady: (503, "not_ready"),
    BadConfig: (500, "bad_config"),
}


def error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)


def install(app: FastAPI) -> None:
    """Every error leaves in the one shape."""

    def known(request: Request, exc: Exception) -> JSONResponse:
        status, code = STATUS.get(type(exc), (500, "error"))  # type: ignore[arg-type]
        return error(status, code, str(exc))

    def unreadable(request: Request, exc: Exception) -> JSONResponse:
        return error(422, "unreadable", str(exc))

    def invalid(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        first = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors()[:3])
        return error(422, "invalid", first)

    def http(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "http")
        return error(exc.status_code, code, str(exc.detail))

    def other(request: Request, exc: Exception) -> JSONResponse:
        log.error("request failed", extra={"path": request.url.path, "reason": str(exc)}, exc_info=exc)
        if trouble(exc) is not Trouble.INPUT:
            return error(503, "not_ready", "the database does not answer, try again")
        return error(500, "internal", "this failed here; the log says why")

    app.add_exception_handler(FleetError, known)
    app.add_exception_handler(Unreadable, unreadable)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, other)
