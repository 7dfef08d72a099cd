"""The outbox: what was confirmed here is on disk until the server says that it is stored.

SQLite in WAL mode with synchronous=FULL: NORMAL forgets confirmed rows in a power cut. Several processes may use one
file (the daemon, and `edge-agent annotate` beside it). The rules:

- a row's sequence number is given in the transaction that stores it; epoch, stream and number are its identity;
- each stream has its own room: its oldest rows are evicted for its newest, and no stream pushes out another;
- an annotation is never evicted;
- what is evicted stays on record as ranges of numbers by cause, so produced = gone + waiting + evicted, row by row.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from edge_agent.config import OutboxRoom
from edge_agent.errors import OutboxFailed
from models.contract.base import SeqRange, Stream
from models.contract.codec import dump
from models.contract.ids import new_epoch
from models.contract.messages import STREAM_OF, Body, StreamCount
from models.crash_points import crash_point

# A person's word first, then alarms; health before telemetry, or a long backlog hides that the device is well.
PRIORITY: Final = (*(Stream.ANNOTATION, Stream.ALARM, Stream.HEALTH, Stream.ATTACHMENT, Stream.TELEMETRY, Stream.RAW),)
ROW_OVERHEAD: Final = 120  # bytes of SQLite's own for a row and its index entries, measured by test_outbox
MAX_RANGES: Final = 500  # of one kind in one count, which has to fit into a message

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sequence (
    stream TEXT PRIMARY KEY, produced INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS row (
    stream TEXT NOT NULL, seq INTEGER NOT NULL, created REAL NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (stream, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evicted (
    stream TEXT NOT NULL, cause TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (stream, cause, first)
);
CREATE TABLE IF NOT EXISTS damaged (stream TEXT NOT NULL, seq INTEGER NOT NULL, body BLOB, PRIMARY KEY (stream, seq));
"""


class Row(NamedTuple):
    """One record that waits."""

    stream: Stream
    seq: int
    body: bytes


class Outbox:
    """One file. Every method is one transaction and may be called from any thread."""

    def __init__(self, path: Path, room: OutboxRoom | None = None, now: Callable[[], float] = time.time) -> None:
        """Raises OutboxFailed if the file can not be used."""
        self.path, self._now = path, now
        room = room or OutboxRoom()
        self._room = {
            Stream.ALARM: (room.alarm_bytes, room.alarm_hours),
            Stream.HEALTH: (room.health_bytes, room.health_hours),
            Stream.TELEMETRY: (room.telemetry_bytes, room.telemetry_hours),
            Stream.RAW: (room.raw_bytes, room.raw_hours),
        }
        self._lock = threading.RLock()
        self._age_checked = 0.0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            with self._transaction():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._db.execute(statement)
                self._db.execute("INSERT OR IGNORE INTO meta VALUES ('epoch', ?)", (new_epoch(),))
                self._db.executemany("INSERT OR IGNORE INTO sequence (stream) VALUES (?)", [(s.value,) for s in Stream])
            self.epoch: str = self._db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0]
        except (sqlite3.Error, OSError) as exc:
            raise OutboxFailed(f"the outbox {path} can not be used: {exc}") from exc

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def put(
        self, bodies: Sequence[Body], within: Callable[[sqlite3.Connection], object] | None = None
    ) -> list[tuple[Stream, int]]:
        """Confirm these records: when this returns they survive a power cut.

        Args:
            within: runs in the same transaction, first; what it raises undoes everything.

        Returns:
            Stream and sequence number of each.
        """
        with self._transaction() as db:
            if within:
                within(db)
            places = [self._insert(STREAM_OF[type(body)], dump(body)) for body in bodies]
            for stream in {stream for stream, _ in places}:
                self._make_room(stream)
            crash_point("outbox.before_commit")
        crash_point("outbox.after_commit")
        return places

    def after(self, stream: Stream, seq: int, limit: int) -> list[Row]:
        """The next rows of a stream that wait, in order. A row that is not what was written is put aside."""
        with self._lock:  # only a read, many times a second: it must not take the file from those who write
            rows = self._db.execute(
                "SELECT seq, crc, body FROM row WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?", (stream, seq, limit)
            ).fetchall()
        if damaged := [(n, body) for n, crc, body in rows if zlib.crc32(body) != crc]:
            self._put_aside(stream, damaged)
        return [Row(stream, n, bytes(body)) for n, crc, body in rows if zlib.crc32(body) == crc]

    def stored(self, stream: Stream, ranges: Iterable[SeqRange]) -> int:
        """Forget what the server has stored. Returns how many rows that were."""
        crash_point("receipt.before_delete")
        with self._transaction():
            n = self._remove(stream, ranges, cause=None)
        crash_point("receipt.after_delete")
        return n

    def evict(self, stream: Stream, seq: int, cause: str) -> None:
        """Give one row up, on record."""
        with self._transaction():
            self._remove(stream, [(seq, seq)], cause)

    def confirmed(self, stream: Stream, first: int, last: int | None = None) -> bool:
        """True: the server has said that all of these are stored. False: one of them waits, or was given up."""
        last = first if last is None else last
        with self._lock:
            row = self._db.execute(
                "SELECT ?3 <= (SELECT produced FROM sequence WHERE stream = ?1)"
                " AND NOT EXISTS (SELECT 1 FROM row WHERE stream = ?1 AND seq BETWEEN ?2 AND ?3)"
                " AND NOT EXISTS (SELECT 1 FROM evicted WHERE stream = ?1 AND first <= ?3 AND last >= ?2)",
                (stream, first, last),
            ).fetchone()
        return bool(row[0])

    def size(self, stream: Stream) -> int:
        """Bytes that a stream's waiting rows take."""
        with self._lock:
            return int(self._db.execute("SELECT bytes FROM sequence WHERE stream = ?", (stream,)).fetchone()[0])

    def waiting(self) -> dict[Stream, int]:
        """Rows that wait, by stream."""
        with self._lock:
            rows = self._db.execute("SELECT stream, count(*) FROM row GROUP BY stream").fetchall()
        return {Stream(stream): n for stream, n in rows}

    def counts(self) -> dict[Stream, StreamCount]:
        """Produced, waiting and evicted of each stream, as they were at one moment."""
        with self._transaction() as db:
            waiting = db.execute(
                "SELECT stream, min(seq), max(seq) FROM"
                " (SELECT stream, seq, seq - row_number() OVER (PARTITION BY stream ORDER BY seq) AS island FROM row)"
                " GROUP BY stream, island ORDER BY stream, 2"
            ).fetchall()
            evicted = db.execute(
                "SELECT stream, cause, first, last FROM evicted ORDER BY stream, cause, first"
            ).fetchall()
            sequence = db.execute("SELECT stream, produced, bytes FROM sequence").fetchall()
        return {
            Stream(stream): _count(
                produced,
                n_bytes,
                [(a, b) for s, a, b in waiting if s == stream],
                {
                    cause: [(a, b) for s, c, a, b in evicted if (s, c) == (stream, cause)]
                    for cause in {c for s, c, *_ in evicted if s == stream}
                },
            )
            for stream, produced, n_bytes in sequence
        }

    def _put_aside(self, stream: Stream, damaged: Iterable[tuple[int, bytes]]) -> None:
        with self._transaction() as db:
            for seq, body in damaged:
                if self._remove(stream, [(seq, seq)], cause="damaged"):  # else somebody else has done so
                    db.execute("INSERT OR REPLACE INTO damaged VALUES (?, ?, ?)", (stream, seq, body))

    # -- inside a transaction -----------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _insert(self, stream: Stream, body: bytes) -> tuple[Stream, int]:
        (seq,) = self._db.execute(
            "UPDATE sequence SET produced = produced + 1, bytes = bytes + ? WHERE stream = ? RETURNING produced",
            (len(body) + ROW_OVERHEAD, stream),
        ).fetchone()
        self._db.execute("INSERT INTO row VALUES (?, ?, ?, ?, ?)", (stream, seq, self._now(), zlib.crc32(body), body))
        return stream, seq

    def _make_room(self, stream: Stream) -> None:
        if stream not in self._room:
            return  # annotations stay, and so do attachments: where there is no room for one, it is not taken
        room = self._room[stream][0]
        (used,) = self._db.execute("SELECT bytes FROM sequence WHERE stream = ?", (stream,)).fetchone()
        if used > room:
            oldest = self._db.execute("SELECT seq, length(body) FROM row WHERE stream = ? ORDER BY seq", (stream,))
            last = 0
            for seq, size in oldest:
                if used <= room:
                    break
                used -= size + ROW_OVERHEAD
                last = seq
            self._remove_up_to(stream, last, "room")
        if time.monotonic() - self._age_checked > 60:
            self._age_checked = time.monotonic()
            for each, (_, limit_h) in self._room.items():
                old = self._now() - limit_h * 3600
                (last,) = self._db.execute(
                    "SELECT max(seq) FROM row WHERE stream = ? AND created < ?", (each, old)
                ).fetchone()
                self._remove_up_to(each, last or 0, "age")

    def _remove_up_to(self, stream: Stream, last: int, cause: str) -> None:
        islands = self._db.execute(
            "SELECT min(seq), max(seq) FROM (SELECT seq, seq - row_number() OVER (ORDER BY seq) AS island"
            " FROM row WHERE stream = ? AND seq <= ?) GROUP BY island ORDER BY 1",
            (stream, last),
        ).fetchall()
        self._remove(stream, islands, cause)

    def _remove(self, stream: Stream, ranges: Iterable[SeqRange], cause: str | None) -> int:
        """Delete rows; with a cause, keep their numbers as evicted."""
        n = 0
        for first, last in ranges:
            where = (stream, first, last)
            count, size = self._db.execute(
                "SELECT count(*), coalesce(sum(length(body)), 0) FROM row WHERE stream = ? AND seq BETWEEN ? AND ?",
                where,
            ).fetchone()
            if count:
                self._db.execute("DELETE FROM row WHERE stream = ? AND seq BETWEEN ? AND ?", where)
                self._db.execute(
                    "UPDATE sequence SET bytes = bytes - ? WHERE stream = ?", (size + count * ROW_OVERHEAD, stream)
                )
                if cause:
                    self._note_evicted(stream, cause, first, last)
            n += count
        return n

    def _note_evicted(self, stream: Stream, cause: str, first: int, last: int) -> None:
        joined = self._db.execute(
            "UPDATE evicted SET last = ? WHERE stream = ? AND cause = ? AND last = ?", (last, stream, cause, first - 1)
        ).rowcount
        if not joined:
            self._db.execute("INSERT INTO evicted VALUES (?, ?, ?, ?)", (stream, cause, first, last))


def _count(
    produced: int, waiting_bytes: int, waiting: list[SeqRange], evicted: dict[str, list[SeqRange]]
) -> StreamCount:
    """Where there are more ranges than can be told, the count ends before the first one that is not told: a number that
    is neither waiting nor evicted would be missing to the server."""
    untold = [ranges[MAX_RANGES][0] for ranges in (waiting, *evicted.values()) if len(ranges) > MAX_RANGES]
    return StreamCount(
        produced=min([produced, *(first - 1 for first in untold)]),
        waiting=tuple(waiting[:MAX_RANGES]),
        evicted={cause: tuple(ranges[:MAX_RANGES]) for cause, ranges in evicted.items()},
        waiting_bytes=waiting_bytes,
    )
