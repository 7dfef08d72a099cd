"""Photos and sounds: put together from pieces, believed only when hash and content are what they say."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from fleet_server.errors import AttachmentRefused
from fleet_server.store import attachments, counters, decisions
from fleet_server.store.attachments import AttachmentRow
from fleet_server.store.pool import Connection
from models.contract.people import AttachmentPiece
from models.form.api import Upload
from models.form.media import BadMedia, inspect

ROOM: Final = 64 * 2**20  # bytes of unfinished attachments that one sender may have here
GIVEN_UP: Final = timedelta(days=7)  # pieces that nobody went on with
UNNAMED: Final = timedelta(days=30)  # whole ones that no annotation names: a photo goes up after its annotation
DROPPED: Final = "attachments_dropped"  # the counter


def state(conn: Connection, sha256: str, via: str) -> Upload | None:
    """How far it has come. None: nothing of it is here."""
    if row := attachments.get(conn, sha256):
        return Upload(sha256=sha256, size=row.size, offset=row.size, state="stored")
    there = attachments.pieces(conn, sha256, via)
    if not there:
        return None
    return Upload(sha256=sha256, size=0, offset=_complete_to(there), state="partial")


def add(conn: Connection, piece: AttachmentPiece, *, via: str, at: datetime, in_order: bool) -> Upload:
    """Keep a piece; with the last one the whole is checked and stored, all in the caller's transaction.

    Args:
        in_order: refuse a piece that does not begin where the last one ended. From a device they come in any order.

    Raises:
        AttachmentRefused: with a code of docs/form-api.md. For anything but `offset`, `no_room` and `too_large` its
            pieces are gone: commit what was done.
    """
    attachments.lock(conn, piece.sha256)
    here = state(conn, piece.sha256, via)
    if here and here.state == "stored":
        return here
    complete = here.offset if here else 0
    so_far = Upload(sha256=piece.sha256, size=piece.size, offset=complete, state="partial")
    if in_order and piece.offset != complete:
        raise AttachmentRefused("offset", f"go on at byte {complete}", so_far)
    if piece.offset + len(piece.data) > piece.size:
        raise AttachmentRefused("too_large", f"more than the {piece.size} bytes that were announced", so_far)
    attachments.drop_old_pieces(conn, at - GIVEN_UP)
    if in_order and attachments.waiting_bytes(conn, via) + piece.size - complete > ROOM:
        raise AttachmentRefused("no_room", "too many attachments were begun and not ended", so_far)
    attachments.insert_piece(conn, piece, via=via, at=at)
    complete = _complete_to(attachments.pieces(conn, piece.sha256, via))
    if complete < piece.size:
        return so_far.model_copy(update={"offset": complete})
    return _finish(conn, piece, via, at)


def _finish(conn: Connection, piece: AttachmentPiece, via: str, at: datetime) -> Upload:
    content = attachments.put_together(conn, piece.sha256, via)
    nothing = Upload(sha256=piece.sha256, size=piece.size, offset=0, state="partial")
    try:
        if hashlib.sha256(content).hexdigest() != piece.sha256 or len(content) != piece.size:
            raise BadMedia("wrong_hash", "these are other bytes than announced; start again")
        inspect(content, piece.media_type)
    except BadMedia as exc:
        attachments.drop_pieces(conn, piece.sha256, via)
        decisions.record(conn, "attachment", piece.sha256, "refused", str(exc), {"via": via, "size": piece.size})
        raise AttachmentRefused(exc.code, str(exc), nothing) from exc
    attachments.insert(conn, AttachmentRow(piece.sha256, piece.media_type, piece.size, via, at), content)
    attachments.drop_pieces(conn, piece.sha256)
    _drop_unnamed(conn, at)
    return nothing.model_copy(update={"offset": piece.size, "state": "stored"})


def _drop_unnamed(conn: Connection, at: datetime) -> None:
    dropped = attachments.drop_unnamed(conn, at - UNNAMED)
    if dropped:
        counters.add(conn, {DROPPED: len(dropped)})
        reason = f"no annotation named it within {UNNAMED.days} days"
        for sha256 in dropped:
            decisions.record(conn, "attachment", sha256, "dropped", reason, {})


def _complete_to(there: list[tuple[int, int]]) -> int:
    """How many bytes are here without a hole, from the start. Pieces do not overlap, or the hash will tell."""
    at = 0
    for start, length in there:
        if start != at:
            break
        at += length
    return at
