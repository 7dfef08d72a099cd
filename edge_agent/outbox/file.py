"""The outbox's file: opened, checked, and where it cannot go on, set aside and salvaged. Never deleted.

A file goes on if it can be read, is not behind its copy (`identity`), and nobody marked it as suspect. Otherwise it is
renamed, a new one begins with a new epoch, and every row whose CRC holds is put into the new one as a new record. What
became of each number of the old epoch is kept in `ended`, for the server's account.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edge_agent.errors import OutboxDamaged, OutboxFailed
from edge_agent.outbox import identity, ranges
from edge_agent.outbox.identity import Identity
from edge_agent.outbox.place import LAST, VIEW, at, between, crc
from edge_agent.outbox.room import ROW_OVERHEAD
from edge_agent.outbox.trouble import ERRORS, meaning
from models.contract.base import SeqRange, Stream
from models.contract.ids import new_epoch

log = logging.getLogger(__name__)

CHECK_BYTES: Final = 64 * 2**20  # a larger file is not read whole at each start; what is wrong in it shows when used
TRIES: Final = 2000  # number by number past what cannot be read; then in larger and larger steps
OURS: Final = ("meta", "sequence", "row", "record", "damaged", "evicted", "aside", "ended")
SUFFIXES: Final = ("", "-wal", "-shm")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sequence (
    stream TEXT PRIMARY KEY, produced INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS record (
    place INTEGER PRIMARY KEY, created REAL NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS evicted (
    stream TEXT NOT NULL, cause TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (stream, cause, first)
);
CREATE TABLE IF NOT EXISTS aside (
    stream TEXT NOT NULL, seq INTEGER NOT NULL, cause TEXT NOT NULL, body BLOB, PRIMARY KEY (stream, seq)
);
CREATE TABLE IF NOT EXISTS ended (
    n INTEGER PRIMARY KEY, epoch TEXT NOT NULL, cause TEXT NOT NULL, counts TEXT NOT NULL
);
"""


def open_owned(path: Path, sync: str) -> tuple[sqlite3.Connection, Identity]:
    """The file, ready for use, by the one process that may repair it. Raises OutboxFailed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    copy, marker = identity.read(path), suspect_mark(path)
    try:
        _finish(path)
        why = marker.read_text(encoding="utf-8") if marker.exists() else None
        if path.exists():
            why = why or _wrong_with(path, sync, copy)
        elif copy:
            why = f"{path.name} is gone"
        if why:
            return _begin_anew(path, sync, copy, why)
        db = connect(path, sync)
        return db, _enter(db, path, copy)
    except (sqlite3.Error, OSError, UnicodeDecodeError) as exc:
        raise _failed(path, exc) from exc


def open_shared(path: Path, sync: str) -> tuple[sqlite3.Connection, Identity]:
    """Beside the owner, or instead of it: repairs nothing. Raises OutboxFailed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and identity.read(path):
            raise OutboxFailed(f"{path} is gone: start the agent, which begins a new one and says so")
        db = connect(path, sync)
        if db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'ended'").fetchone()[0]:
            meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
            return db, Identity(meta["epoch"], int(meta["opens"]), json.loads(meta["reserved"]))
        return db, _enter(db, path, None)
    except (sqlite3.Error, OSError, UnicodeDecodeError) as exc:
        raise _failed(path, exc) from exc


def connect(path: Path, sync: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={sync}")
    except ERRORS:
        db.close()
        raise
    return db


def suspect_mark(path: Path) -> Path:
    """While this file is there the next owner sets the outbox aside; it holds the reason."""
    return path.with_name(f"{path.stem}.suspect")


def _is_suspect(path: Path | None) -> bool:
    return path is not None and suspect_mark(path).exists()


def _failed(path: Path, exc: sqlite3.Error | OSError | UnicodeDecodeError) -> OutboxFailed:
    return OutboxFailed(f"the outbox {path} can not be used: {meaning(exc, path) or exc}")


def _wrong_with(path: Path, sync: str, copy: Identity | None) -> str | None:
    """Why this file may not go on; None: it may."""
    try:
        db = connect(path, sync)
    except ERRORS as exc:
        if isinstance(meaning(exc, path), OutboxDamaged):
            return str(exc)
        raise
    try:
        if (
            path.stat().st_size <= CHECK_BYTES
            and (found := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok"
        ):
            return str(found)
        if copy is None or not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]:
            return None
        here = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('epoch', 'opens', 'reserved')").fetchall())
        if "reserved" in here:
            Identity(here["epoch"], int(here["opens"]), {k: int(v) for k, v in json.loads(here["reserved"]).items()})
        if here.get("epoch") not in (None, copy.epoch):
            return f"its epoch {here['epoch'][:8]} is not that of its copy, {copy.epoch[:8]}"
        # One behind is a power cut between the copy and the commit.
        if "opens" in here and int(here["opens"]) < copy.opens - 1:
            return f"it was opened {here['opens']} times and its copy {copy.opens}: an older one was put back"
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as exc:  # of what it says of itself
        return f"its own account cannot be read: {exc}"
    except ERRORS as exc:
        if isinstance(meaning(exc, path), OutboxDamaged):
            return str(exc)
        raise
    finally:
        db.close()


def _enter(db: sqlite3.Connection, path: Path, copy: Identity | None, epoch: str | None = None) -> Identity:
    """Tables, epoch and copy; one more opening is on record, in the copy first."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in filter(str.strip, _SCHEMA.split(";")):
            db.execute(statement)
        _bring_up_to_date(db)
        db.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('epoch', ?)", (epoch or new_epoch(),))
        db.executemany("INSERT OR IGNORE INTO sequence (stream) VALUES (?)", [(s.value,) for s in Stream])
        here = dict(db.execute("SELECT key, value FROM meta").fetchall())
        produced = dict(db.execute("SELECT stream, produced FROM sequence").fetchall())
        reserved = {
            stream: max(n + identity.AHEAD, json.loads(here.get("reserved", "{}")).get(stream, 0))
            for stream, n in produced.items()
        }
        opens = max(int(here.get("opens", 0)), copy.opens if copy else 0) + 1
        found = Identity(here["epoch"], opens, reserved)
        found.write(identity.copy_of(path))
        db.executemany(
            "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)",
            [("opens", str(opens)), ("reserved", json.dumps(reserved))],
        )
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return found


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """A file of version 0.1 has other tables for what waits and for what is damaged."""
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "damaged" in there:
        db.execute(
            "INSERT OR IGNORE INTO aside (stream, seq, cause, body) SELECT stream, seq, 'damaged', body FROM damaged"
        )
        db.execute("DROP TABLE damaged")
    if "row" in there:
        for stream, seq, created, old, body in db.execute("SELECT stream, seq, created, crc, body FROM row").fetchall():
            place = at(Stream(stream), seq)
            held = crc(place, body) if zlib.crc32(body) == old else 0  # what was damaged stays so
            db.execute(
                "INSERT OR IGNORE INTO record (place, created, crc, body) VALUES (?, ?, ?, ?)",
                (place, created, held, body),
            )
        db.execute("DROP TABLE row")
    db.execute(VIEW)


# -- when it cannot go on -------------------------------------------------------------------------------------------


def _begin_anew(path: Path, sync: str, copy: Identity | None, why: str) -> tuple[sqlite3.Connection, Identity]:
    """The new file is whole before the old one moves, so killed anywhere in here, the next start does the rest."""
    fresh = _fresh(path)
    db = connect(fresh, sync)
    _enter(db, fresh, None)
    identity.copy_of(fresh).unlink()
    n = _salvage(db, path if path.exists() else None, copy, why)
    db.close()
    _put_in_place(path)
    db = connect(path, sync)
    found = _enter(db, path, None)
    suspect_mark(path).unlink(missing_ok=True)
    log.error("outbox set aside, a new one with a new epoch", extra={"reason": why, "rows_salvaged": n})
    return db, found


def _fresh(path: Path) -> Path:
    return path.with_name(f"{path.stem}.new.db")


def _finish(path: Path) -> None:
    """What a start that was killed has left: a new file that is not in its place yet, or only half made."""
    if not path.exists() and _fresh(path).exists():
        _put_in_place(path)
    for suffix in SUFFIXES:
        _fresh(path).with_name(_fresh(path).name + suffix).unlink(missing_ok=True)


def _put_in_place(path: Path) -> None:
    """The database moves first, what belongs to it next, and the new one comes only then: a stray -wal beside it would
    be read as its own."""
    n = 1
    while path.with_name(f"{path.stem}.aside-{n}.db").exists() and path.exists():
        n += 1
    while not path.exists() and path.with_name(f"{path.stem}.aside-{n + 1}.db").exists():
        n += 1  # killed in between: the newest is the one that moved
    for suffix in SUFFIXES:
        if (each := path.with_name(path.name + suffix)).exists():
            each.rename(path.with_name(f"{path.stem}.aside-{n}.db{suffix}"))
    _fresh(path).rename(path)
    _sync_folder(path.parent)


def _salvage(db: sqlite3.Connection, old: Path | None, copy: Identity | None, why: str) -> int:
    """Into the new file, in one transaction; how many rows."""
    source = sqlite3.connect(old, isolation_level=None) if old else None
    n, counts, epoch = 0, {}, copy.epoch if copy else None
    db.execute("BEGIN IMMEDIATE")
    try:
        epoch = _one(source, "SELECT value FROM meta WHERE key = 'epoch'") or epoch
        opens = _one(source, "SELECT value FROM meta WHERE key = 'opens'")
        behind = copy is not None and (
            opens is None or int(opens) < copy.opens - 1 or suspect_mark(old or Path()).exists()
        )
        if source:
            _copy_others(source, db)
        for stream in Stream:
            saved = _copy_rows(source, db, stream)
            produced = _one(source, "SELECT produced FROM sequence WHERE stream = ?", stream)
            last = max([int(produced or 0), *saved[-1:]])
            if copy and (behind or produced is None):
                last = max(last, copy.reserved.get(stream.value, 0))
            n += len(saved)
            _renumber(db, stream, saved)
            evicted, moved = _old_evicted(source, stream), ranges.of(saved)
            gone = ranges.rest(last, [*moved, *(r for found in evicted.values() for r in found)])
            causes = {**evicted, "salvaged": moved, "lost_with_file": gone}
            counts[stream.value] = {"produced": last, "evicted": {c: r for c, r in causes.items() if r}}
        if epoch:
            db.execute(
                "INSERT INTO ended (epoch, cause, counts) VALUES (?, ?, ?)", (epoch, why[:300], json.dumps(counts))
            )
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
        if source:
            source.close()
    return n


def _copy_rows(source: sqlite3.Connection | None, db: sqlite3.Connection, stream: Stream) -> list[int]:
    """The old numbers of the rows saved, in order; their new ones count from 1."""
    saved: list[int] = []
    size = 0
    for seq, created, body in _readable(source, stream) if source else ():
        saved.append(seq)
        size += len(body) + ROW_OVERHEAD
        place = at(stream, len(saved))
        db.execute(
            "INSERT INTO record (place, created, crc, body) VALUES (?, ?, ?, ?)",
            (place, created, crc(place, body), body),
        )
    db.execute("UPDATE sequence SET produced = ?, bytes = ? WHERE stream = ?", (len(saved), size, stream))
    return saved


# Tables of other parts that remember numbers of a stream: what became of them they are asked by number.
PLACES: Final = {Stream.ANNOTATION: ("said", ("seq",)), Stream.ATTACHMENT: ("attachment", ("first", "last"))}


def _renumber(db: sqlite3.Connection, stream: Stream, saved: list[int]) -> None:
    """What is not among the rows saved may be stored or lost: nobody here knows, so it is not said to be stored."""
    if stream not in PLACES:
        return
    table, columns = PLACES[stream]
    there = {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")}
    if not there.issuperset(columns):
        return
    new = {old: i for i, old in enumerate(saved, 1)}
    for rowid, *numbers in db.execute(f"SELECT rowid, {', '.join(columns)} FROM {table}").fetchall():  # noqa: S608
        moved = [new.get(number) for number in numbers]
        if None not in moved:
            places = ", ".join(f"{column} = ?" for column in columns)
            db.execute(f"UPDATE {table} SET {places} WHERE rowid = ?", (*moved, rowid))  # noqa: S608
        elif table == "said":
            db.execute("UPDATE said SET seq = NULL WHERE rowid = ?", (rowid,))
        else:
            db.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))  # noqa: S608 - the phone sends it again


_SAVED: Final = "SELECT place & (1 << 50) - 1, created, crc, body FROM record WHERE place > ? AND place <= ?"
_SAVED_OLD: Final = "SELECT seq, created, crc, body FROM row WHERE stream = ? AND seq > ? ORDER BY seq"


def _bounds(stream: Stream, after: int, new: bool) -> tuple[object, ...]:
    return between(stream, after, LAST) if new else (stream, after)


def _readable(db: sqlite3.Connection, stream: Stream) -> Iterator[tuple[int, float, bytes]]:
    """Number, time and bytes of every row that can be read and whose CRC holds: past a damaged page number by number,
    after many of them in larger steps."""
    new = _one(db, "SELECT count(*) FROM sqlite_master WHERE name = 'record'") != 0
    seq, tries, step = 0, 0, 1
    while seq < LAST:
        try:
            for n, created, found, body in db.execute(_SAVED if new else _SAVED_OLD, _bounds(stream, seq, new)):
                seq, tries, step = n, 0, 1
                if isinstance(body, bytes) and found == (crc(at(stream, n), body) if new else zlib.crc32(body)):
                    yield n, created, body
            return
        except ERRORS:
            tries += 1
            step = step * 2 if tries > TRIES else 1
            seq += step


def _old_evicted(source: sqlite3.Connection | None, stream: Stream) -> dict[str, list[SeqRange]]:
    found: dict[str, list[SeqRange]] = {}
    try:
        for cause, a, b in (
            source.execute("SELECT cause, first, last FROM evicted WHERE stream = ? ORDER BY cause, first", (stream,))
            if source
            else ()
        ):
            found.setdefault(cause, []).append((a, b))
    except ERRORS:
        pass  # told before, where it could be told
    return found


def _copy_others(source: sqlite3.Connection, db: sqlite3.Connection) -> None:
    """The journal and what other parts keep in this file, as far as it can be read; key check and ends of epochs
    too."""
    wanted = ["ended", "aside"]
    try:
        for name, sql in source.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall():
            if name not in OURS and not name.startswith("sqlite_"):
                db.execute(sql)
                wanted.append(name)
        for key in ("key_check", "usage", "budget"):
            if (value := _one(source, "SELECT value FROM meta WHERE key = ?", key)) is not None:
                db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))
    except ERRORS as exc:
        log.error("tables not salvaged", extra={"reason": str(exc)})
    for name in wanted:
        columns = ", ".join(f'"{column}"' for _, column, *_ in db.execute(f'PRAGMA table_info("{name}")'))
        try:
            for row in source.execute(f'SELECT {columns} FROM "{name}"'):  # noqa: S608 - names of our own tables
                marks = ", ".join("?" * len(row))
                db.execute(f'INSERT OR IGNORE INTO "{name}" ({columns}) VALUES ({marks})', row)  # noqa: S608
        except ERRORS as exc:
            log.error("table salvaged in part", extra={"table": name, "reason": str(exc)})


def _one(db: sqlite3.Connection | None, sql: str, *values: str) -> Any:
    try:
        row = db.execute(sql, values).fetchone() if db else None
    except ERRORS:
        return None
    return row[0] if row else None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
