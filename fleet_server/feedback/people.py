"""Signing in on the server: models.form.signin's rules over its database."""

from __future__ import annotations

from datetime import datetime

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from fleet_server.store import people
from fleet_server.store.pool import Connection, Pool
from models.form.signin import CODE_LASTS, PersonRow, Role, SessionRow, hashed, new_code, new_person, plain

_HASHER = PasswordHasher()


class People:
    """A Store of models.form.signin; each call is one transaction."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def person(self, person: str) -> PersonRow | None:
        with self._pool.connection() as conn:
            return people.person(conn, person)

    def take_code(self, code: str, now: datetime) -> str | None:
        with self._pool.connection() as conn:
            return people.take_code(conn, code, now)

    def add_session(self, row: SessionRow) -> None:
        with self._pool.connection() as conn:
            people.add_session(conn, row)

    def session(self, token: str) -> SessionRow | None:
        with self._pool.connection() as conn:
            return people.session(conn, token)

    def drop_session(self, token: str) -> None:
        with self._pool.connection() as conn:
            people.drop_session(conn, token)

    def set_seen(self, token: str, at: datetime) -> None:
        with self._pool.connection() as conn:
            people.set_seen(conn, token, at)

    def set_locked(self, token: str) -> None:
        with self._pool.connection() as conn:
            people.set_locked(conn, token)

    def set_unlocked(self, token: str, at: datetime) -> None:
        with self._pool.connection() as conn:
            people.set_unlocked(conn, token, at)

    def set_pin(self, token: str, pin: str) -> None:
        with self._pool.connection() as conn:
            people.set_pin(conn, token, pin)

    def try_pin(self, token: str) -> int:
        with self._pool.connection() as conn:
            return people.try_pin(conn, token) or 1_000_000

    def people_of(self, phone: str) -> frozenset[str]:
        with self._pool.connection() as conn:
            return people.people_of(conn, phone)

    def tries(self, address: str, since: datetime) -> tuple[int, int]:
        with self._pool.connection() as conn:
            return people.tries(conn, address, since)

    def note_try(self, address: str, at: datetime) -> None:
        with self._pool.connection() as conn:
            people.note_try(conn, address, at)


def invite(conn: Connection, name: str, role: Role, now: datetime, person: str | None = None) -> tuple[PersonRow, str]:
    """A code for this person, who is known by the name, else new."""
    row = PersonRow(people.by_name(conn, name) or person or new_person(), name, role)
    people.put_person(conn, row)
    code = new_code()
    people.add_code(conn, hashed(plain(code)), row.person, now, now + CODE_LASTS)
    return row, code


def hash_pin(pin: str) -> str:
    return _HASHER.hash(pin)


def check_pin(stored: str, pin: str) -> bool:
    try:
        return _HASHER.verify(stored, pin)
    except VerificationError:
        return False
