"""Records on disk: put, read, forgotten on receipt, given up on record.

SQLite in WAL mode with synchronous=FULL: NORMAL forgets confirmed rows in a power cut. Several processes may use one
file (the daemon, and `edge-agent annotate` beside it). The rules:

- a row's sequence number is given in the transaction that stores it; epoch, stream and number are its identity;
- each stream has its own room: no stream pushes out another while bytes and disk suffice (`room`);
- what a person said or recorded is never evicted;
- what is evicted stays on record as ranges of numbers by cause, so produced = gone + waiting + evicted, row by row.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from edge_agent import state
from edge_agent.clock import Clock
from edge_agent.config import OutboxRoom
from edge_agent.errors import DiskTrouble, OutboxDamaged, OutboxFailed
from edge_agent.outbox import file, identity
from edge_agent.outbox.cipher import SEALED, Cipher, WrongKey
from edge_agent.outbox.disk import Disk
from edge_agent.outbox.place import BITS, LAST, STREAMS, at, between, crc, where
from edge_agent.outbox.room import ROW_OVERHEAD, Room
from edge_agent.outbox.trouble import meaning
from models.contract.base import SeqRange, Stream
from models.contract.codec import dump
from models.contract.health import StorageHealth, StreamCount
from models.contract.messages import STREAM_OF, Body
from models.crash_points import crash_point

log = logging.getLogger(__name__)

MAX_RANGES: Final = 500  # of one kind in one count, which has to fit into a message
ENDED_TOLD: Final = 5  # epochs that ended, of which a heartbeat tells
URGENT: Final = (Stream.ANNOTATION, Stream.ALARM)
_KNOWN: Final = frozenset(stream.value for stream in Stream)  # a newer agent's are left alone
ASIDE_BYTES: Final = 16 * 2**20  # damaged and quarantined rows kept; beyond, the oldest of them go


class Row(NamedTuple):
    """One record that waits."""

    stream: Stream
    seq: int
    body: bytes


class Outbox:
    """One file. Every method is one transaction and may be called from any thread."""

    def __init__(
        self,
        path: Path,
        room: OutboxRoom | None = None,
        now: Callable[[], float] = time.time,
        *,
        owner: bool = True,
    ) -> None:
        """Raises OutboxFailed if the file can not be used, BadConfig for its key file, StateTooNew.

        Args:
            owner: may set a damaged file aside and begin a new one; only one process at a time.
        """
        state.refuse_newer(path.parent)
        self.path, self._now = path, now
        room = room or OutboxRoom()
        self._sync = room.sync
        self._cipher = Cipher.read(room.key_file) if room.key_file else None
        self._lock = threading.RLock()
        everyday = "FULL" if room.sync == "full" else "NORMAL"
        self._db, self._id = (file.open_owned if owner else file.open_shared)(path, everyday)
        self.epoch = self._id.epoch
        self._room = Room(self._db, path, room, now if owner else None)
        self.disk = Disk(path, room.ballast_bytes, owner)
        self.changes = 0  # rises with each put here, for whoever wants to know whether it pays to look
        try:
            self._check_key()
        except OutboxFailed:
            self._db.close()
            raise

    @classmethod
    def beside(cls, state_dir: Path, room: OutboxRoom) -> Outbox:
        """The one in this folder, for another program than the agent. Raises as the constructor."""
        return cls(state_dir / "outbox.db", room, Clock(state_dir).time, owner=False)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # -- records in ---------------------------------------------------------------------------------------------

    def put(
        self,
        bodies: Sequence[Body],
        within: Callable[[sqlite3.Connection], object] | None = None,
        dropped: Mapping[tuple[Stream, str], int] | None = None,
    ) -> list[tuple[Stream, int]]:
        """Confirm these records: when this returns they survive a power cut.

        Args:
            within: runs in the same transaction, first, and may still add to `bodies`; what it raises undoes
                everything. dropped: how many records were given up before they came here, by stream and cause; they get
                numbers, too.

        Returns:
            Stream and sequence number of each.

        Raises:
            DiskTrouble: the disk takes nothing now, though everything was tried that may be.
            OutboxDamaged: the file is; the next start sets it aside.
        """
        try:
            return self._put(bodies, within, dropped or {})
        except DiskTrouble as exc:
            if exc.kind != "full" or not self._relieve(str(exc)):
                raise
            return self._put(bodies, within, dropped or {})

    def _put(
        self,
        bodies: Sequence[Body],
        within: Callable[[sqlite3.Connection], object] | None,
        dropped: Mapping[tuple[Stream, str], int],
    ) -> list[tuple[Stream, int]]:
        urgent = self._sync == "urgent" and any(STREAM_OF[type(body)] in URGENT for body in bodies)
        with self._transaction(full=urgent) as db:
            if within:
                within(db)
            places = self._insert(bodies)
            for (stream, cause), n in dropped.items():
                last = self._number(stream, n, 0)
                self._room.note_evicted(stream, cause, last - n + 1, last)
            self._room.make({stream for stream, _ in places})
            crash_point("outbox.before_commit")
        crash_point("outbox.after_commit")
        self.changes += 1
        if self.disk.recovered():
            self._room.limit = self._room.total
        return places

    def _insert(self, bodies: Sequence[Body]) -> list[tuple[Stream, int]]:
        waiting: dict[Stream, list[bytes]] = defaultdict(list)
        order: list[tuple[Stream, int]] = []
        for body in bodies:
            stream = STREAM_OF[type(body)]
            order.append((stream, len(waiting[stream])))
            waiting[stream].append(self._seal(dump(body)))
        first: dict[Stream, int] = {}
        created = self._now()
        for stream, each in waiting.items():
            size = sum(map(len, each)) + len(each) * ROW_OVERHEAD
            first[stream] = self._number(stream, len(each), size) - len(each) + 1
            self._db.executemany(
                "INSERT INTO record (place, created, crc, body) VALUES (?, ?, ?, ?)",
                (
                    (at(stream, seq), created, crc(at(stream, seq), body), body)
                    for seq, body in enumerate(each, first[stream])
                ),
            )
        return [(stream, first[stream] + i) for stream, i in order]

    def _number(self, stream: Stream, n: int, size: int) -> int:
        """The last of n new numbers. Beyond what the copy knows of, the copy is written first."""
        (last,) = self._db.execute(
            "UPDATE sequence SET produced = produced + ?, bytes = bytes + ? WHERE stream = ? RETURNING produced",
            (n, size, stream),
        ).fetchone()
        if last > self._id.reserved.get(stream, 0):
            written = self._db.execute("SELECT key, value FROM meta WHERE key IN ('opens', 'reserved')").fetchall()
            meta = dict(written)  # another process may have been here since
            self._id.opens = int(meta["opens"])
            self._id.reserved = json.loads(meta["reserved"])
            if last > self._id.reserved[stream]:
                self._id.reserved[stream] = last + identity.AHEAD
                self._id.write(identity.copy_of(self.path))
                self._db.execute("UPDATE meta SET value = ? WHERE key = 'reserved'", (json.dumps(self._id.reserved),))
        return int(last)

    # -- records out --------------------------------------------------------------------------------------------

    def after(self, stream: Stream, seq: int, limit: int, before: int = LAST) -> list[Row]:
        """The next rows of a stream that wait, in order. A row that is not what was written is put aside."""
        with self._guard(), self._lock:  # only a read, many times a second: it must not take the file from writers
            rows = self._db.execute(
                "SELECT place, crc, body FROM record WHERE place > ? AND place < ? ORDER BY place LIMIT ?",
                (*between(stream, seq, before), limit),
            ).fetchall()
        found, damaged = [], []
        for place, found_crc, body in rows:
            n = where(place)[1]
            try:
                if not isinstance(body, bytes) or crc(place, body) != found_crc:
                    raise WrongKey("it is not what was written")
                found.append(Row(stream, n, self._unseal(body)))
            except WrongKey:
                damaged.append(n)
        if damaged:
            self.put_aside(stream, damaged, "damaged")
        return found

    def newest(self, stream: Stream) -> int:
        """The highest number given out so far."""
        with self._guard(), self._lock:
            row = self._db.execute("SELECT produced FROM sequence WHERE stream = ?", (stream,)).fetchone()
        return int(row[0])

    def stored(
        self, stream: Stream, ranges: Iterable[SeqRange], within: Callable[[sqlite3.Connection], object] | None = None
    ) -> int:
        """Forget what the server has stored. Returns how many rows that were."""
        crash_point("receipt.before_delete")
        with self._transaction() as db:
            n = self._room.remove(stream, ranges, cause=None)
            if within:
                within(db)
        crash_point("receipt.after_delete")
        return n

    def confirmed(self, stream: Stream, first: int, last: int | None = None) -> bool:
        """True: the server has said that all of these are stored. False: one of them waits, or was given up."""
        last = first if last is None else last
        with self._guard(), self._lock:
            row = self._db.execute(
                "SELECT ?3 <= (SELECT produced FROM sequence WHERE stream = ?1)"
                " AND NOT EXISTS (SELECT 1 FROM record WHERE place BETWEEN ?4 AND ?5)"
                " AND NOT EXISTS (SELECT 1 FROM evicted WHERE stream = ?1 AND first <= ?3 AND last >= ?2)",
                (stream, first, last, *between(stream, first, last)),
            ).fetchone()
        return bool(row[0])

    def size(self, stream: Stream) -> int:
        """Bytes that a stream's waiting rows take."""
        with self._guard(), self._lock:
            return int(self._db.execute("SELECT bytes FROM sequence WHERE stream = ?", (stream,)).fetchone()[0])

    def evict(self, stream: Stream, seq: int, cause: str) -> None:
        """Give one row up, on record."""
        with self._transaction():
            self._room.remove(stream, [(seq, seq)], cause)

    def put_aside(self, stream: Stream, seqs: Iterable[int], cause: str) -> None:
        """Send these no more, but keep them on the disk: counted as evicted for that cause."""
        with self._transaction() as db:
            for seq in seqs:
                db.execute(
                    "INSERT OR REPLACE INTO aside (stream, seq, cause, body) SELECT ?, ?, ?, body FROM record"
                    " WHERE place = ?",
                    (stream, seq, cause, at(stream, seq)),
                )
                self._room.remove(stream, [(seq, seq)], cause)
            db.execute(
                "DELETE FROM aside WHERE rowid <= (SELECT rowid FROM (SELECT rowid, sum(length(body)) OVER"
                " (ORDER BY rowid DESC) AS kept FROM aside) WHERE kept > ? ORDER BY rowid DESC LIMIT 1)",
                (ASIDE_BYTES,),
            )
        log.error("records put aside", extra={"stream": stream.value, "cause": cause})

    def aside(self) -> list[tuple[Stream, int, str, bytes]]:
        """What was put aside: stream, number, cause and bytes as they are."""
        with self._guard(), self._lock:
            rows = self._db.execute("SELECT stream, seq, cause, body FROM aside ORDER BY rowid").fetchall()
        return [(Stream(stream), seq, cause, bytes(body)) for stream, seq, cause, body in rows if stream in _KNOWN]

    # -- accounts -----------------------------------------------------------------------------------------------

    def waiting(self) -> dict[Stream, int]:
        """Rows that wait, by stream."""
        with self._guard(), self._lock:
            rows = self._db.execute(f"SELECT place >> {BITS}, count(*) FROM record GROUP BY 1").fetchall()  # noqa: S608
        return {STREAMS[code]: n for code, n in rows if code in STREAMS}

    def counts(self) -> dict[Stream, StreamCount]:
        """Produced, waiting and evicted of each stream, as they were at one moment."""
        with self._transaction(kind="DEFERRED") as db:
            islands = db.execute(  # a stream's code is far above its numbers: no island spans two
                "SELECT min(place), max(place) FROM (SELECT place, place - row_number() OVER (ORDER BY place) AS island"
                " FROM record) GROUP BY island ORDER BY 1"
            ).fetchall()
            evicted = db.execute(
                "SELECT stream, cause, first, last FROM evicted ORDER BY stream, cause, first"
            ).fetchall()
            sequence = db.execute("SELECT stream, produced, bytes FROM sequence").fetchall()
        islands = [(a, b) for a, b in islands if a >> BITS in STREAMS]
        return {
            Stream(stream): _count(
                produced,
                n_bytes,
                [(where(a)[1], where(b)[1]) for a, b in islands if where(a)[0] == stream],
                {
                    cause: [(a, b) for s, c, a, b in evicted if (s, c) == (stream, cause)]
                    for cause in {c for s, c, *_ in evicted if s == stream}
                },
            )
            for stream, produced, n_bytes in sequence
            if stream in _KNOWN
        }

    def ended(self) -> dict[str, dict[Stream, StreamCount]]:
        """What became of the numbers of epochs before this one, the last few."""
        with self._guard(), self._lock:
            rows = self._db.execute("SELECT epoch, counts FROM ended ORDER BY n DESC LIMIT ?", (ENDED_TOLD,)).fetchall()
        return {
            epoch: {
                Stream(s): _count(c["produced"], 0, [], {k: [(a, b) for a, b in v] for k, v in c["evicted"].items()})
                for s, c in json.loads(counts).items()
                if s in _KNOWN
            }
            for epoch, counts in rows
        }

    def storage(self, buffered: int = 0) -> StorageHealth:
        """State of the disk, for the heartbeat."""
        with self._guard(), self._lock:
            return self.disk.health(self._room.used(), buffered)

    def remember(self, key: str, value: str | None = None) -> str | None:
        """A named value in this file: as it was, or written anew if one is given."""
        if value is not None:
            with self._transaction() as db:
                db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))
            return value
        with self._guard(), self._lock:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def suspect(self, reason: str) -> None:
        """This file must not go on: the next owner sets it aside and begins a new epoch. Raises OutboxDamaged."""
        file.suspect_mark(self.path).write_text(reason, encoding="utf-8")
        raise OutboxDamaged(f"{self.path}: {reason}")

    # -- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Errors of the disk and of SQLite in our own words."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as exc:
            if (own := meaning(exc, self.path)) is None:
                raise
            if isinstance(own, OutboxDamaged):
                file.suspect_mark(self.path).write_text(str(own), encoding="utf-8")
            raise own from exc

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE", *, full: bool = False) -> Iterator[sqlite3.Connection]:
        with self._guard(), self._lock:
            if full:
                self._db.execute("PRAGMA synchronous=FULL")
            try:
                self._db.execute(f"BEGIN {kind}")
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if full:
                    self._db.execute("PRAGMA synchronous=NORMAL")

    def _relieve(self, reason: str) -> bool:
        """The disk is full: throw off the ballast and take half of its room, the log takes the other; without one give
        up the lowest class. From there on do not grow. False: nothing came of it."""
        thrown = self.disk.throw_off(reason)
        try:
            with self._lock, contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            with self._transaction():
                room = self._room
                room.limit = min(room.total, room.pages() + (2 if thrown else 1) * room.log_bytes)
                freed = 0 if thrown else room.free(max(256 * 1024, room.limit // 50), "disk_full")
        except (OutboxFailed, sqlite3.Error) as exc:
            log.error("no room could be made", extra={"reason": str(exc)})
            return thrown
        return thrown or freed > 0

    def _check_key(self) -> None:
        """Refuse a key that does not open what is here; leave everything as it is."""
        check = self.remember("key_check")
        if check is None and self._cipher:
            self.remember("key_check", self._cipher.seal(b"key").hex())
        elif check is not None:
            if self._cipher is None:
                raise OutboxFailed(f"{self.path} is encrypted: outbox.key_file must name its key; nothing was changed")
            try:
                self._cipher.unseal(bytes.fromhex(check))
            except (WrongKey, ValueError) as exc:
                raise OutboxFailed(f"outbox.key_file is not the key of {self.path}; nothing was changed") from exc

    def _seal(self, body: bytes) -> bytes:
        return self._cipher.seal(body) if self._cipher else body

    def _unseal(self, body: bytes) -> bytes:
        """Raises WrongKey."""
        if body[:1] != SEALED:
            return bytes(body)
        if self._cipher is None:
            raise WrongKey("it is encrypted")
        return self._cipher.unseal(body)


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
