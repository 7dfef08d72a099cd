"""Answers in the shapes of models.form.api."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from starlette.responses import JSONResponse, Response

from models.contract.base import Message
from models.form.api import Reason


def answer(message: Message, status: int = 200) -> Response:
    return Response(message.model_dump_json(), status, media_type="application/json")


def error(
    status: int, code: str, text: str, annotation_id: UUID | str | None = None, reasons: Sequence[Reason] = ()
) -> JSONResponse:
    """The one shape of errors; about an annotation it names its id, so that it is taken for nobody else's answer."""
    body: dict[str, Any] = {"error": {"code": code, "message": text}}
    if annotation_id is not None:
        body |= {"annotation_id": str(annotation_id), "reasons": [reason.model_dump() for reason in reasons]}
    return JSONResponse(body, status)
