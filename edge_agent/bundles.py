"""The bundles on the device's own disk, and what must not be forgotten about them.

A bundle's file is named by its hash, hashed again at every load, and loaded from the bytes that were hashed. What runs,
what ran before and what must never run is in a SQLite file with synchronous=FULL; sequence and floor have a second copy
beside it, and the higher of the two counts, so that losing one file does not open the way to an older release.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from edge_agent import state
from edge_agent.errors import BundleRejected
from edge_agent.files import write_whole
from models.bundle.files import BadBundle, Bundle, digest, unpack

log = logging.getLogger(__name__)

FLOORS: Final = ("sequence", "floor")


class BundleStore:
    """Files named by their hash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, data: bytes) -> str:
        """Have these bytes on disk, whole or not at all; their hash."""
        sha256 = digest(data)
        write_whole(self._path(sha256), data)
        return sha256

    def load(self, sha256: str) -> Bundle:
        """Raises BundleRejected: not there, altered since it was saved, or not a bundle."""
        try:
            data = self._path(sha256).read_bytes()
        except OSError as exc:
            raise BundleRejected(sha256[:12], f"not on this disk: {exc.strerror}") from exc
        if digest(data) != sha256:
            raise BundleRejected(sha256[:12], "its file was altered")
        try:
            return unpack(data)
        except BadBundle as exc:
            raise BundleRejected(sha256[:12], str(exc)) from exc

    def has(self, sha256: str) -> bool:
        """True: there, and still what it was."""
        try:
            return digest(self._path(sha256).read_bytes()) == sha256
        except OSError:
            return False

    def list(self) -> list[str]:
        """The hashes of all that is there, as their names say."""
        return sorted(path.stem for path in self._folder.glob("*.bundle"))

    def keep_only(self, wanted: Iterable[str]) -> None:
        names = {self._path(sha256).name for sha256 in wanted}
        for path in self._folder.glob("*.bundle"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.bundle"


class Memory:
    """What the device remembers of releases: a few named values, written together or not at all."""

    def __init__(self, state_dir: Path) -> None:
        state.refuse_newer(state_dir)
        state_dir.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._copy = state_dir / "floors.json"
        path = state_dir / "rollout.db"
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as exc:
            if isinstance(exc, sqlite3.OperationalError):  # locked, no rights, disk full: not the file's fault
                raise
            # A damaged memory must not brick the device: the baseline runs, and the floors' second copy still holds.
            log.error("rollout memory is damaged, starting a new one", extra={"reason": str(exc)})
            for name in ("rollout.db", "rollout.db-wal", "rollout.db-shm"):
                with contextlib.suppress(FileNotFoundError):
                    (state_dir / name).replace(state_dir / f"{name}.damaged")
            self._db = _open(path)
        self._mend()

    def _mend(self) -> None:
        """What one copy of the floors has lost it gets back from the other, before that one can be lost too."""
        stored = {key: self._stored(key, 0) for key in FLOORS}
        if stored != {key: self._copied(key) for key in FLOORS}:
            with contextlib.suppress(OSError, sqlite3.Error):  # a disk that takes nothing: with the next start
                self.set(**stored)

    def get(self, key: str, default: Any = None) -> Any:
        with self._lock:
            return self._get(key, default)

    def set(self, **values: Any) -> None:
        """All of these, durably, in one step. A function is given the value before, so that two programs which change
        the same one both count. A floor never falls."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                values = {key: value(self._get(key)) if callable(value) else value for key, value in values.items()}
                floors: dict[str, int] = {key: max(values[key], self._get(key, 0)) for key in FLOORS if key in values}
                if floors:
                    copy = {key: floors.get(key, self._get(key, 0)) for key in FLOORS}
                    write_whole(self._copy, json.dumps(copy).encode())
                self._db.executemany(
                    "INSERT INTO memory (key, value) VALUES (?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    [(key, json.dumps(value)) for key, value in (values | floors).items()],
                )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _get(self, key: str, default: Any = None) -> Any:
        value = self._stored(key, default)
        return max(value or 0, self._copied(key)) if key in FLOORS else value

    def _stored(self, key: str, default: Any = None) -> Any:
        row = self._db.execute("SELECT value FROM memory WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else default

    def _copied(self, key: str) -> int:
        try:
            return int(json.loads(self._copy.read_text(encoding="utf-8")).get(key, 0))
        except (OSError, ValueError, TypeError, AttributeError):
            return 0

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE IF NOT EXISTS memory (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        if (found := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
    except sqlite3.Error:
        db.close()
        raise
    return db
