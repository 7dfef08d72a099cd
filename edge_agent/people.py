"""Who may use this device's form: people, their codes and sessions, in a file of their own beside the outbox.

models.form.signin has the rules. Codes are made on the command line (`edge-agent enrol`), also while the agent runs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edge_agent import state
from models.form.signin import CODE_LASTS, PersonRow, Role, SessionRow, hashed, new_code, new_person, plain

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS person (person TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS code (code TEXT PRIMARY KEY, person TEXT NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS session (
    token TEXT PRIMARY KEY, phone TEXT NOT NULL, person TEXT NOT NULL, made_at REAL NOT NULL, expires_at REAL NOT NULL,
    seen_at REAL NOT NULL, pin TEXT, tried INTEGER NOT NULL DEFAULT 0, locked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS phone (phone TEXT NOT NULL, person TEXT NOT NULL, PRIMARY KEY (phone, person));
CREATE TABLE IF NOT EXISTS try (address TEXT NOT NULL, at REAL NOT NULL);
"""
_SCRYPT: Final = (2**14, 8, 1)  # n, r, p: 16 MiB and some 50 ms on a gateway, for each guess


class People:
    """A Store of models.form.signin, in SQLite; every call is one transaction, from any thread or process."""

    def __init__(self, path: Path) -> None:
        state.refuse_newer(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")  # who was put out stays out after a power cut
        self._db.executescript(_SCHEMA)
        path.chmod(0o600)

    def close(self) -> None:
        self._db.close()

    # -- for the command line -----------------------------------------------------------------------------------

    def invite(self, name: str, role: Role, now: datetime, person: str | None = None) -> tuple[PersonRow, str]:
        """A code for this person, who is known by the name, else new."""
        with self._lock:
            found = self._db.execute("SELECT person FROM person WHERE name = ?", (name,)).fetchone()
            who = found[0] if found else person or new_person()
            self._db.execute(
                "INSERT INTO person (person, name, role) VALUES (?, ?, ?)"
                " ON CONFLICT (person) DO UPDATE SET name = excluded.name, role = excluded.role",
                (who, name, role),
            )
            code = new_code()
            self._db.execute("DELETE FROM code WHERE expires_at < ?", (now.timestamp(),))
            self._db.execute(
                "INSERT INTO code (code, person, expires_at) VALUES (?, ?, ?)",
                (hashed(plain(code)), who, (now + CODE_LASTS).timestamp()),
            )
        return PersonRow(who, name, role), code

    def listing(self) -> list[tuple[PersonRow, int]]:
        """Everybody, with how many sessions they have."""
        with self._lock:
            rows = self._db.execute(
                "SELECT person, name, role, (SELECT count(*) FROM session s WHERE s.person = p.person) FROM person p"
                " ORDER BY name"
            ).fetchall()
        return [(PersonRow(who, name, role), n) for who, name, role, n in rows]

    def revoke(self, person: str) -> int:
        """End all sessions and codes of a person; how many sessions there were."""
        with self._lock:
            self._db.execute("DELETE FROM code WHERE person = ?", (person,))
            return self._db.execute("DELETE FROM session WHERE person = ?", (person,)).rowcount

    # -- a Store ------------------------------------------------------------------------------------------------

    def person(self, person: str) -> PersonRow | None:
        with self._lock:
            row = self._db.execute("SELECT person, name, role FROM person WHERE person = ?", (person,)).fetchone()
        return PersonRow(*row) if row else None

    def take_code(self, code: str, now: datetime) -> str | None:
        with self._lock:
            row = self._db.execute("DELETE FROM code WHERE code = ? RETURNING person, expires_at", (code,)).fetchone()
        return row[0] if row and now.timestamp() < row[1] else None

    def add_session(self, row: SessionRow) -> None:
        times = (row.made_at.timestamp(), row.expires_at.timestamp(), row.seen_at.timestamp())
        with self._lock:
            self._db.execute("DELETE FROM session WHERE expires_at < ?", times[:1])
            self._db.execute(
                "INSERT INTO session (token, phone, person, made_at, expires_at, seen_at) VALUES (?, ?, ?, ?, ?, ?)",
                (row.token, row.phone, row.person, *times),
            )
            self._db.execute("INSERT OR IGNORE INTO phone (phone, person) VALUES (?, ?)", (row.phone, row.person))

    def session(self, token: str) -> SessionRow | None:
        with self._lock:
            row = self._db.execute(
                "SELECT token, phone, person, made_at, expires_at, seen_at, pin, locked FROM session WHERE token = ?",
                (token,),
            ).fetchone()
        if row is None:
            return None
        made, expires, seen = (datetime.fromtimestamp(at, UTC) for at in row[3:6])
        return SessionRow(row[0], row[1], row[2], made, expires, seen, row[6], bool(row[7]))

    def drop_session(self, token: str) -> None:
        self._do("DELETE FROM session WHERE token = ?", token)

    def set_seen(self, token: str, at: datetime) -> None:
        self._do("UPDATE session SET seen_at = ? WHERE token = ?", at.timestamp(), token)

    def set_locked(self, token: str) -> None:
        self._do("UPDATE session SET locked = 1 WHERE token = ?", token)

    def set_unlocked(self, token: str, at: datetime) -> None:
        self._do("UPDATE session SET locked = 0, tried = 0, seen_at = ? WHERE token = ?", at.timestamp(), token)

    def set_pin(self, token: str, pin: str) -> None:
        self._do("UPDATE session SET pin = ?, tried = 0, locked = 0 WHERE token = ?", pin, token)

    def try_pin(self, token: str) -> int:
        with self._lock:
            row = self._db.execute(
                "UPDATE session SET tried = tried + 1 WHERE token = ? RETURNING tried", (token,)
            ).fetchone()
        return int(row[0]) if row else 1_000_000

    def people_of(self, phone: str) -> frozenset[str]:
        with self._lock:
            return frozenset(
                person for (person,) in self._db.execute("SELECT person FROM phone WHERE phone = ?", (phone,))
            )

    def tries(self, address: str, since: datetime) -> tuple[int, int]:
        with self._lock:
            self._db.execute("DELETE FROM try WHERE at < ?", (since.timestamp(),))
            row = self._db.execute("SELECT count(*) FILTER (WHERE address = ?), count(*) FROM try", (address,))
            here, everywhere = row.fetchone()
        return int(here), int(everywhere)

    def note_try(self, address: str, at: datetime) -> None:
        self._do("INSERT INTO try (address, at) VALUES (?, ?)", address, at.timestamp())

    def _do(self, statement: str, *values: object) -> None:
        with self._lock:
            self._db.execute(statement, values)


def hash_pin(pin: str) -> str:
    """scrypt (RFC 7914) of the standard library: a dependency less on the device."""
    salt = os.urandom(16)
    n, r, p = _SCRYPT
    key = hashlib.scrypt(pin.encode(), salt=salt, n=n, r=r, p=p, dklen=32)
    return f"scrypt${n}${r}${p}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def check_pin(stored: str, pin: str) -> bool:
    _, n, r, p, salt, key = stored.split("$")
    made = hashlib.scrypt(pin.encode(), salt=base64.b64decode(salt), n=int(n), r=int(r), p=int(p), dklen=32)
    return hmac.compare_digest(made, base64.b64decode(key))
