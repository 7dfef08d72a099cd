"""Photos and sounds from the phone: taken piece by piece, whole into the outbox, in pieces to the server.

What has not come whole waits as a file in a folder; how far it is, is how long the file is. Whole and checked, it goes
into the outbox in one transaction: then it survives a power cut, and the file goes.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import threading
from pathlib import Path
from typing import Final

from edge_agent.clock import SYSTEM, Clock
from edge_agent.errors import AttachmentRefused
from edge_agent.outbox import Outbox
from models.contract.base import Stream
from models.contract.ids import new_trace_id
from models.contract.people import ATTACHMENT_BYTES, PIECE_BYTES, Attachment, AttachmentPiece
from models.form.api import Upload
from models.form.media import BadMedia, inspect

GIVEN_UP_S: Final = 7 * 86400.0  # a part that nobody went on with
_HASH: Final = re.compile(r"^[0-9a-f]{64}$")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS attachment (
    sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL
)
"""


class Attachments:
    """Of one device."""

    def __init__(self, folder: Path, outbox: Outbox, room: int, clock: Clock = SYSTEM) -> None:
        """`room`: bytes for what waits here, in parts or in the outbox."""
        self._folder, self._outbox, self._room, self._clock = folder, outbox, room, clock
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(outbox.path, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.execute(_SCHEMA)

    def state(self, sha256: str) -> Upload | None:
        """How far it has come. None: nothing of it is here."""
        row = self._db.execute("SELECT size, first, last FROM attachment WHERE sha256 = ?", (sha256,)).fetchone()
        if row:
            size, first, last = row
            stored = self._outbox.confirmed(Stream.ATTACHMENT, first, last)
            return Upload(sha256=sha256, size=size, offset=size, state="stored" if stored else "kept")
        part = self._part(sha256)
        if _HASH.match(sha256) and part.exists():
            return Upload(sha256=sha256, size=ATTACHMENT_BYTES, offset=part.stat().st_size, state="partial")
        return None

    def take(self, whole: Attachment, offset: int, piece: bytes) -> Upload:
        """One piece of it; on disk when this returns. Pieces may come again.

        Raises:
            AttachmentRefused: with a code of docs/form-api.md, and how far it has come.
        """
        with self._lock:
            there = self.state(whole.sha256)
            if there and there.state != "partial":
                return there
            at = there.offset if there else 0
            here = Upload(sha256=whole.sha256, size=whole.size, offset=at, state="partial")
            if offset != at:
                raise AttachmentRefused("offset", f"go on at byte {at}", here)
            if at + len(piece) > whole.size:
                raise AttachmentRefused("too_large", f"more than the {whole.size} bytes that were announced", here)
            self._make_room(whole, here)
            self._append(whole.sha256, piece)
            if at + len(piece) < whole.size:
                return here.model_copy(update={"offset": at + len(piece)})
            return self._finish(whole)

    def _finish(self, whole: Attachment) -> Upload:
        part = self._part(whole.sha256)
        data = part.read_bytes()
        nothing = Upload(sha256=whole.sha256, size=whole.size, offset=0, state="partial")
        if hashlib.sha256(data).hexdigest() != whole.sha256:
            part.unlink()
            raise AttachmentRefused("wrong_hash", "these are other bytes than announced; start again", nothing)
        try:
            inspect(data, whole.media_type)
        except BadMedia as exc:
            part.unlink()
            raise AttachmentRefused(exc.code, str(exc), nothing) from exc
        trace, at, quality = new_trace_id(), self._clock.now(), self._clock.quality
        pieces = [
            AttachmentPiece.model_construct(
                trace_id=trace,
                made_at=at,
                time_quality=quality,
                sha256=whole.sha256,
                media_type=whole.media_type,
                size=whole.size,
                offset=offset,
                data=data[offset : offset + PIECE_BYTES],
            )
            for offset in range(0, whole.size, PIECE_BYTES)
        ]

        def note(db: sqlite3.Connection) -> None:
            (last,) = db.execute("SELECT produced FROM sequence WHERE stream = ?", (Stream.ATTACHMENT,)).fetchone()
            db.execute(
                "INSERT INTO attachment (sha256, size, first, last) VALUES (?, ?, ?, ?)",
                (whole.sha256, whole.size, last + 1, last + len(pieces)),
            )

        self._outbox.put(pieces, within=note)
        part.unlink()
        return nothing.model_copy(update={"offset": whole.size, "state": "kept"})

    def _append(self, sha256: str, piece: bytes) -> None:
        with self._part(sha256).open("ab") as file:
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def _make_room(self, whole: Attachment, here: Upload) -> None:
        """Parts that nobody went on with go; then there is room for all of this one, or it is not begun."""
        parts = 0
        for path in self._folder.glob("*.part"):
            if self._clock.at_least() - path.stat().st_mtime > GIVEN_UP_S and path != self._part(whole.sha256):
                path.unlink()
            elif path != self._part(whole.sha256):
                parts += path.stat().st_size
        # base64 in the outbox takes four bytes for three
        if (parts + whole.size) * 4 // 3 + self._outbox.size(Stream.ATTACHMENT) > self._room:
            raise AttachmentRefused("no_room", "this device is full of attachments that wait for the server", here)

    def _part(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.part"
