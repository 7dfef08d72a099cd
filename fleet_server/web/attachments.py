"""Photos and sounds: docs/form-api.md."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from fleet_server.errors import AttachmentRefused, NotFound
from fleet_server.feedback import attachments
from fleet_server.store import attachments as stored
from fleet_server.store.pool import Pool
from fleet_server.web.deps import PoolOf, VisitorOf
from fleet_server.web.errors import error
from models.contract.ids import new_trace_id
from models.contract.people import AttachmentPiece, AttachmentSize, MediaType
from models.form.api import PIECE_BYTES, UPLOAD_STATUS, Upload
from models.form.gate import Visitor
from models.form.signin import reaches

router = APIRouter()
Hash = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
# A stranger's bytes: never shown in our own name, whatever the browser thinks that they are.
DOWNLOAD: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}


@router.put("/attachments/{sha256}")
async def put_piece(
    sha256: Hash,
    request: Request,
    pool: PoolOf,
    visitor: VisitorOf,
    size: AttachmentSize,
    media_type: MediaType,
    offset: Annotated[int, Query(ge=0)],
) -> Response:
    """One piece of a photo or sound; the answer says where the next one begins."""
    data = await request.body()
    if not 0 < len(data) <= PIECE_BYTES:
        return error(413, "too_large", f"a piece has 1 to {PIECE_BYTES} bytes")
    now = datetime.now(UTC)
    piece = AttachmentPiece.model_construct(
        trace_id=new_trace_id(),
        made_at=now,
        sha256=sha256,
        media_type=media_type,
        size=size,
        offset=offset,
        data=data,
    )
    try:
        here = await run_in_threadpool(_take, pool, piece, now, _via(visitor))
    except AttachmentRefused as exc:
        refused = exc.here.model_dump(mode="json") | {"error": {"code": exc.code, "message": str(exc)}}
        return JSONResponse(refused, UPLOAD_STATUS[exc.code])
    return Response(here.model_dump_json(), media_type="application/json")


@router.get("/attachments/{sha256}/state")
def show_state(sha256: Hash, pool: PoolOf, visitor: VisitorOf) -> Upload:
    """How far it has come."""
    with pool.connection() as conn:
        here = attachments.state(conn, sha256, _via(visitor))
    if here is None:
        raise NotFound("nothing of it is here")
    return here


@router.get("/attachments/{sha256}")
def download(sha256: Hash, pool: PoolOf, visitor: VisitorOf) -> Response:
    """The bytes, as a download only; to a technician only of what they sent or named themselves."""
    with pool.connection() as conn:
        expert = visitor is None or reaches(visitor.role, "reviewer")
        if not expert and visitor and not stored.is_of(conn, sha256, visitor.who.person, _via(visitor)):
            raise NotFound(f"there is no attachment {sha256}")
        row, data = stored.get(conn, sha256), stored.data(conn, sha256)
    if row is None:
        raise NotFound(f"there is no attachment {sha256}")
    name = f"{sha256[:12]}.{row.media_type.partition('/')[2]}"
    headers = DOWNLOAD | {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type=row.media_type, headers=headers)


def _via(visitor: Visitor | None) -> str:
    """By sender, so that nobody's rubbish stands in another's way."""
    return f"server {visitor.who.person}" if visitor else "server"


def _take(pool: Pool, piece: AttachmentPiece, now: datetime, via: str) -> Upload:
    """Committed when this returns; a refusal is committed too, for it is on record."""
    refused = None
    with pool.connection() as conn:
        try:
            return attachments.add(conn, piece, via=via, at=now, in_order=True)
        except AttachmentRefused as exc:
            refused = exc
    raise refused
