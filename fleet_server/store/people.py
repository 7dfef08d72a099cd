"""Who may use the server's form and pages. Names stand in `person` and nowhere else."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row, scalar_row

from models.form.signin import PersonRow, Role, SessionRow


def put_person(conn: Connection[Any], row: PersonRow) -> None:
    conn.execute(
        """
        INSERT INTO person (person, name, role) VALUES (%s, %s, %s)
        ON CONFLICT (person) DO UPDATE SET name = excluded.name, role = excluded.role
        """,
        (row.person, row.name, row.role),
    )


def by_name(conn: Connection[Any], name: str) -> str | None:
    found: str | None = (
        conn.cursor(row_factory=scalar_row).execute("SELECT person FROM person WHERE name = %s", (name,)).fetchone()
    )
    return found


def person(conn: Connection[Any], person: str) -> PersonRow | None:
    return (
        conn.cursor(row_factory=class_row(PersonRow))
        .execute("SELECT person, name, role FROM person WHERE person = %s", (person,))
        .fetchone()
    )


def listing(conn: Connection[Any]) -> list[tuple[str, str, Role, int]]:
    """(pseudonym, name, role, sessions) of everybody, by name."""
    return conn.execute(
        """
        SELECT person, name, role, (SELECT count(*) FROM form_session s WHERE s.person = p.person) FROM person p
        ORDER BY name
        """
    ).fetchall()


def add_code(conn: Connection[Any], code: str, person: str, now: datetime, expires_at: datetime) -> None:
    conn.execute("DELETE FROM enrolment_code WHERE expires_at < %s", (now,))
    conn.execute(
        "INSERT INTO enrolment_code (code, person, expires_at) VALUES (%s, %s, %s)", (code, person, expires_at)
    )


def take_code(conn: Connection[Any], code: str, now: datetime) -> str | None:
    row = conn.execute(
        "DELETE FROM enrolment_code WHERE code = %s RETURNING person, expires_at > %s", (code, now)
    ).fetchone()
    return str(row[0]) if row and row[1] else None


def add_session(conn: Connection[Any], row: SessionRow) -> None:
    conn.execute("DELETE FROM form_session WHERE expires_at < %s", (row.made_at,))
    conn.execute(
        """
        INSERT INTO form_session (token, phone, person, made_at, expires_at, seen_at) VALUES (%s, %s, %s, %s, %s, %s)
        """,
        (row.token, row.phone, row.person, row.made_at, row.expires_at, row.seen_at),
    )
    conn.execute("INSERT INTO phone (phone, person) VALUES (%s, %s) ON CONFLICT DO NOTHING", (row.phone, row.person))


def session(conn: Connection[Any], token: str) -> SessionRow | None:
    return (
        conn.cursor(row_factory=class_row(SessionRow))
        .execute(
            """
            SELECT token, phone, person, made_at, expires_at, seen_at, pin, locked FROM form_session WHERE token = %s
            """,
            (token,),
        )
        .fetchone()
    )


def drop_session(conn: Connection[Any], token: str) -> None:
    conn.execute("DELETE FROM form_session WHERE token = %s", (token,))


def revoke(conn: Connection[Any], person: str) -> int:
    """End all sessions and codes of a person; how many sessions there were."""
    conn.execute("DELETE FROM enrolment_code WHERE person = %s", (person,))
    return conn.execute("DELETE FROM form_session WHERE person = %s", (person,)).rowcount


def set_seen(conn: Connection[Any], token: str, at: datetime) -> None:
    conn.execute("UPDATE form_session SET seen_at = %s WHERE token = %s", (at, token))


def set_locked(conn: Connection[Any], token: str) -> None:
    conn.execute("UPDATE form_session SET locked = true WHERE token = %s", (token,))


def set_unlocked(conn: Connection[Any], token: str, at: datetime) -> None:
    conn.execute("UPDATE form_session SET locked = false, tried = 0, seen_at = %s WHERE token = %s", (at, token))


def set_pin(conn: Connection[Any], token: str, pin: str) -> None:
    conn.execute("UPDATE form_session SET pin = %s, tried = 0, locked = false WHERE token = %s", (pin, token))


def try_pin(conn: Connection[Any], token: str) -> int | None:
    tried: int | None = (
        conn.cursor(row_factory=scalar_row)
        .execute("UPDATE form_session SET tried = tried + 1 WHERE token = %s RETURNING tried", (token,))
        .fetchone()
    )
    return tried


def people_of(conn: Connection[Any], phone: str) -> frozenset[str]:
    return frozenset(
        conn.cursor(row_factory=scalar_row).execute("SELECT person FROM phone WHERE phone = %s", (phone,)).fetchall()
    )


def tries(conn: Connection[Any], address: str, since: datetime) -> tuple[int, int]:
    conn.execute("DELETE FROM enrolment_try WHERE at < %s", (since,))
    row = conn.execute(
        "SELECT count(*) FILTER (WHERE address = %s), count(*) FROM enrolment_try", (address,)
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def note_try(conn: Connection[Any], address: str, at: datetime) -> None:
    conn.execute("INSERT INTO enrolment_try (address, at) VALUES (%s, %s)", (address, at))
