"""Who goes when room is short. Everything here runs inside a transaction of the outbox.

1. Each class has its own room and age: its own oldest rows go for its newest, or its newest are refused, as configured.
2. Short of bytes in total (the budget, write-ahead log included, or the disk itself), the lowest class gives way first.
3. What a person said or recorded is never given up.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from edge_agent.config import OutboxRoom
from edge_agent.outbox.place import LAST, between
from models.contract.base import SeqRange, Stream

# A person's word first, then alarms; health before telemetry, or a long backlog hides that the device is well.
PRIORITY: Final[tuple[Stream, ...]] = (
    *(Stream.ANNOTATION, Stream.ALARM, Stream.HEALTH, Stream.ATTACHMENT, Stream.TELEMETRY, Stream.RAW),
)
KEPT: Final = (Stream.ANNOTATION, Stream.ATTACHMENT)  # never given up; an attachment without room is not taken
ROW_OVERHEAD: Final = 120  # bytes of SQLite's own for a row and its index entries, measured by test_outbox
AGE_CHECK_S: Final = 60.0
STEP_BYTES: Final = 128 * 1024  # given up at once when the total is short, so that it does not happen with each record


class ClassRoom(NamedTuple):
    """Of one stream."""

    max_bytes: int
    hours: float
    drop_newest: bool


class Room:
    """The rules, on one connection. `limit` in bytes may be lowered while the disk is short."""

    def __init__(self, db: sqlite3.Connection, path: Path, room: OutboxRoom, now: Callable[[], float] | None) -> None:
        """`now`: by which rows grow old; None: here none do."""
        self._db, self._now = db, now
        self._wal = path.with_name(path.name + "-wal")
        # The log is written into the file long before it would take the ballast with it.
        self.log_bytes = max(2**16, min(4 * 2**20, room.total_bytes // 8, room.ballast_bytes // 2 or 2**22))
        db.execute(f"PRAGMA wal_autocheckpoint={self.log_bytes // db.execute('PRAGMA page_size').fetchone()[0]}")
        db.execute(f"PRAGMA journal_size_limit={self.log_bytes}")
        self.classes: dict[Stream, ClassRoom] = {
            stream: ClassRoom(
                getattr(room, f"{stream.value}_bytes"),
                getattr(room, f"{stream.value}_hours"),
                getattr(room, f"{stream.value}_when_full") == "drop_newest",
            )
            for stream in PRIORITY
            if stream not in KEPT
        }
        self.total, self.limit = room.total_bytes, room.total_bytes
        self.age_checked = 0.0

    def used(self) -> int:
        """Bytes of the file on the disk, with its log."""
        try:
            log = self._wal.stat().st_size
        except OSError:
            log = 0
        return self.pages() + log

    def pages(self) -> int:
        """Bytes of the file, without pages that are free to be used again."""
        pages, free, size = (
            self._db.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def make(self, streams: Iterable[Stream]) -> None:
        """After an insert into these: whoever is over its room gives way."""
        for stream in streams:
            if stream in self.classes:
                self._class_room(stream)
        if self._now and time.monotonic() - self.age_checked > AGE_CHECK_S:
            self.age_checked = time.monotonic()
            for stream, room in self.classes.items():
                old = self._now() - room.hours * 3600
                (last,) = self._db.execute(
                    f"SELECT max(place & {LAST}) FROM record WHERE place BETWEEN ? AND ? AND created < ?",  # noqa: S608
                    (*between(stream, 0, LAST), old),
                ).fetchone()
                self._remove_between(stream, 1, last or 0, "age")
        if (over := self.pages() + self.log_bytes - self.limit) > 0:  # the log as it usually is: it shrinks by itself
            self.free(over + min(STEP_BYTES, self.limit // 20), "budget" if self.limit == self.total else "disk_full")

    def free(self, n_bytes: int, cause: str) -> int:
        """Give up so many bytes, the lowest class and its oldest rows first; how many it became."""
        freed = 0
        for stream in reversed(PRIORITY):
            if stream in self.classes and freed < n_bytes:
                last, size = self._oldest(stream, n_bytes - freed, newest=False)
                self._remove_between(stream, 1, last, cause)
                freed += size
        return freed

    def remove(self, stream: Stream, ranges: Iterable[SeqRange], cause: str | None) -> int:
        """Delete rows; with a cause, keep their numbers as evicted. How many there were."""
        n = 0
        for first, last in ranges:
            where = between(stream, first, last)
            count, size = self._db.execute(
                "SELECT count(*), coalesce(sum(length(body)), 0) FROM record WHERE place BETWEEN ? AND ?",
                where,
            ).fetchone()
            if count:
                self._db.execute("DELETE FROM record WHERE place BETWEEN ? AND ?", where)
                self._db.execute(
                    "UPDATE sequence SET bytes = bytes - ? WHERE stream = ?", (size + count * ROW_OVERHEAD, stream)
                )
                if cause:
                    self.note_evicted(stream, cause, first, last)
            n += count
        return n

    def note_evicted(self, stream: Stream, cause: str, first: int, last: int) -> None:
        joined = self._db.execute(
            "UPDATE evicted SET last = ? WHERE stream = ? AND cause = ? AND last = ?", (last, stream, cause, first - 1)
        ).rowcount
        joined = (
            joined
            or self._db.execute(  # the newest are refused from the end
                "UPDATE evicted SET first = ? WHERE stream = ? AND cause = ? AND first = ?",
                (first, stream, cause, last + 1),
            ).rowcount
        )
        if not joined:
            self._db.execute(
                "INSERT INTO evicted (stream, cause, first, last) VALUES (?, ?, ?, ?)", (stream, cause, first, last)
            )

    def _class_room(self, stream: Stream) -> None:
        room = self.classes[stream]
        (used,) = self._db.execute("SELECT bytes FROM sequence WHERE stream = ?", (stream,)).fetchone()
        if used <= room.max_bytes:
            return
        bound, _ = self._oldest(stream, used - room.max_bytes, newest=room.drop_newest)
        if room.drop_newest:
            self._remove_between(stream, bound, LAST, "refused")
        else:
            self._remove_between(stream, 1, bound, "room")

    def _oldest(self, stream: Stream, n_bytes: int, *, newest: bool) -> tuple[int, int]:
        """How far from the oldest (or the newest) row on so many bytes reach, and how many it are."""
        order = "DESC" if newest else "ASC"
        rows = self._db.execute(
            f"SELECT place & {LAST}, length(body) FROM record WHERE place BETWEEN ? AND ? ORDER BY place {order}",  # noqa: S608
            between(stream, 0, LAST),
        )
        bound = size = 0
        for seq, length in rows:
            if size >= n_bytes:
                break
            bound, size = seq, size + length + ROW_OVERHEAD
        return bound, size

    def _remove_between(self, stream: Stream, first: int, last: int, cause: str) -> None:
        if not first or last < first:
            return
        islands = self._db.execute(
            f"SELECT min(place) & {LAST}, max(place) & {LAST} FROM (SELECT place, place - row_number() OVER"  # noqa: S608
            " (ORDER BY place) AS island FROM record WHERE place BETWEEN ? AND ?) GROUP BY island ORDER BY 1",
            between(stream, first, last),
        ).fetchall()
        self.remove(stream, islands, cause)
