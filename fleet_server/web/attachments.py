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
from fleet_server.web.deps import PoolOf
from fleet_server.web.errors import error
from models.contract.ids import new_trace_id
from models.contract.people import AttachmentPiece, AttachmentSize, MediaType
from models.form.api import PIECE_BYTES, UPLOAD_STATUS, Upload

router = APIRouter()
Hash = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
VIA: Final = "server"
# A stranger's bytes: never shown in our own name, whatever the browser thinks that they are.
DOWNLOAD: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}


@router.put("/attachments/{sha256}")
async def put_piece(
    sha256: Hash,
    request: Request,
    pool: PoolOf,
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
        here = await run_in_threadpool(_take, pool, piece, now)
    except AttachmentRefused as exc:
        refused = exc.here.model_dump(mode="json") | {"error": {"code": exc.code, "message": str(exc)}}
        return JSONResponse(refused, UPLOAD_STATUS[exc.code])
    return Response(here.model_dump_json(), media_type="application/json")


@router.get("/attachments/{sha256}/state")
def show_state(sha256: Hash, pool: PoolOf) -> Upload:
    """How far it has come."""
    with pool.connection() as conn:
        here = attachments.state(conn, sha256, VIA)
    if here is None:
        raise NotFound("nothing of it is here")
    return here


@router.get("/attachments/{sha256}")
def download(sha256: Hash, pool: PoolOf) -> Response:
    """The bytes, as a download only."""
    with pool.connection() as conn:
        row, data = stored.get(conn, sha256), stored.data(conn, sha256)
    if row is None:
        raise NotFound(f"there is no attachment {sha256}")
    name = f"{sha256[:12]}.{row.media_type.partition('/')[2]}"
    headers = DOWNLOAD | {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type=row.media_type, headers=headers)


def _take(pool: Pool, piece: AttachmentPiece, now: datetime) -> Upload:
    """Committed when this returns; a refusal is committed too, for it is on record."""
    refused = None
    with pool.connection() as conn:
        try:
            return attachments.add(conn, piece, via=VIA, at=now, in_order=True)
        except AttachmentRefused as exc:
            refused = exc
    raise refused
