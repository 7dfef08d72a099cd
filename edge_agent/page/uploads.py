"""Photos and sounds: docs/form-api.md."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_agent.errors import AttachmentRefused
from edge_agent.page.answers import answer, error
from edge_agent.page.desk import Desk
from models.contract.people import Attachment
from models.form.api import PIECE_BYTES, UPLOAD_STATUS


def routes(desk: Desk) -> list[Route]:
    async def put_piece(request: Request) -> Response:
        given = {"sha256": request.path_params["sha256"], **request.query_params}
        try:
            whole = Attachment.model_validate(given)
            offset = int(request.query_params.get("offset", ""))
        except ValueError as exc:
            text = "; ".join(e["msg"] for e in exc.errors()) if isinstance(exc, ValidationError) else "offset: a number"
            return error(422, "invalid", text)
        piece = await request.body()
        if not 0 < len(piece) <= PIECE_BYTES:
            return error(413, "too_large", f"a piece has 1 to {PIECE_BYTES} bytes")
        try:
            return answer(await run_in_threadpool(desk.attachments.take, whole, offset, piece))
        except AttachmentRefused as exc:
            refused = exc.here.model_dump(mode="json") | {"error": {"code": exc.code, "message": str(exc)}}
            return JSONResponse(refused, UPLOAD_STATUS[exc.code])

    def show_state(request: Request) -> Response:
        state = desk.attachments.state(request.path_params["sha256"])
        return answer(state) if state else error(404, "not_found", "nothing of it is here")

    return [
        Route("/api/attachments/{sha256}", put_piece, methods=["PUT"]),
        Route("/api/attachments/{sha256}/state", show_state),
    ]
