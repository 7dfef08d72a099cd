"""The schema: numbered files, each applied once, in order, whole or not at all; hypertables where TimescaleDB is
offered.

A file that was applied is never changed: the next number says what is different. Whoever runs an older program against
a newer database is refused, because it could not know what it breaks.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, Literal

import psycopg
from psycopg.rows import scalar_row, tuple_row

from fleet_server.errors import NotReady, Refused
from fleet_server.store.pool import Connection

log = logging.getLogger(__name__)

Edition = Literal["none", "apache", "timescale"]
HYPERTABLES: Final = {"prediction": "window_end", "heartbeat": "at"}
_LOCK: Final = 7203946158042  # any number, the same in every version
_FILE: Final = re.compile(r"^(\d{4})_\w+\.sql$")


@dataclass(frozen=True)
class Migration:
    """One file."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True)
class Found:
    """What the database is after migrating. `version` of PostgreSQL and, where there is one, of the extension."""

    edition: Edition
    extension: str | None
    postgresql: str
    schema: int
    applied: tuple[str, ...]


def migrate(conn: Connection, folder: Traversable | None = None) -> Found:
    """Bring the schema up to date; several at once wait for each other. `conn` is for this alone.

    Raises:
        Refused: the database is newer than this program, or a file that was applied has changed.
        NotReady: a statement failed; nothing of its file is left behind.
    """
    conn.autocommit = True
    files = migrations(folder)
    with _alone(conn):
        applied = _apply(conn, files)
        edition, extension = _timescale(conn)
        if edition != "none" and folder is None:
            for table, column in HYPERTABLES.items():
                _make_hypertable(conn, table, column)
    return Found(edition, extension, _server_version(conn), files[-1].number if files else 0, applied)


def migrations(folder: Traversable | None = None) -> list[Migration]:
    """The files, in order."""
    folder = folder or resources.files("fleet_server.store") / "migrations"
    found = [
        Migration(int(match[1]), path.name, path.read_text(encoding="utf-8"))
        for path in folder.iterdir()
        if (match := _FILE.match(path.name))
    ]
    return sorted(found, key=lambda each: each.number)


def edition(conn: Connection) -> tuple[Edition, str | None]:
    """Which TimescaleDB is at work here, and its version: asked, never assumed."""
    row = (
        conn.cursor(row_factory=tuple_row)
        .execute(
            """
            SELECT extversion, current_setting('timescaledb.license', true)
            FROM pg_extension WHERE extname = 'timescaledb'
            """
        )
        .fetchone()
    )
    if row is None:
        return "none", None
    return ("timescale" if row[1] == "timescale" else "apache"), row[0]


def _apply(conn: Connection, files: list[Migration]) -> tuple[str, ...]:
    conn.execute(
        """
        CREATE TABLE IF NOT EXISTS schema_migration (
            number     integer PRIMARY KEY,
            name       text NOT NULL,
            sha256     text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    there = {row[0]: row[1:] for row in conn.execute("SELECT number, name, sha256 FROM schema_migration").fetchall()}
    known = {each.number for each in files}
    if newer := sorted(there.keys() - known):
        raise Refused(
            f"the database is newer than this program: it has migration {newer[-1]:04d}, {there[newer[-1]][0]}"
        )
    done = []
    for each in files:
        if each.number in there:
            if there[each.number][1] != each.sha256:
                raise Refused(f"{each.name} is not what was applied to this database: write a new file instead")
            continue
        try:
            with conn.transaction():
                conn.execute(each.sql.encode())
                conn.execute(
                    "INSERT INTO schema_migration (number, name, sha256) VALUES (%s, %s, %s)",
                    (each.number, each.name, each.sha256),
                )
        except psycopg.Error as exc:
            raise NotReady(f"{each.name} could not be applied, the schema is as it was: {exc}") from exc
        log.info("migrated", extra={"migration": each.name})
        done.append(each.name)
    return tuple(done)


def _timescale(conn: Connection) -> tuple[Edition, str | None]:
    """Take the extension where the server offers it. A server without it, or a role that may not, is no error."""
    found = edition(conn)
    if found[0] != "none" or not _is_offered(conn):
        return found
    try:
        with conn.transaction():
            conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    except psycopg.Error as exc:
        log.warning(
            "TimescaleDB is offered but not taken, going on plain", extra={"reason": str(exc).split("\n", 1)[0]}
        )
        return "none", None
    return edition(conn)


def _is_offered(conn: Connection) -> bool:
    row = conn.execute(
        """
        SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
           AND current_setting('shared_preload_libraries') LIKE '%timescaledb%'
        """
    ).fetchone()
    return bool(row and row[0])


def _make_hypertable(conn: Connection, table: str, column: str) -> None:
    """Rows that are there already move into chunks. Does nothing to a hypertable."""
    conn.execute(
        """
        SELECT create_hypertable(%s::regclass, by_range(%s, INTERVAL '1 day'), migrate_data => true, if_not_exists =>
        true)
        """,
        (table, column),
    )


def _server_version(conn: Connection) -> str:
    version: str | None = conn.cursor(row_factory=scalar_row).execute("SHOW server_version").fetchone()
    return version or "?"


@contextmanager
def _alone(conn: Connection) -> Iterator[None]:
    """Under a lock that goes away with the session, however that ends."""
    conn.execute("SET lock_timeout = 0")  # another server may be moving a big table
    conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
