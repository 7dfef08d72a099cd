"""Connections to the database, and what its errors mean to those who may not know the driver."""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from fleet_server.errors import NotReady

log = logging.getLogger(__name__)

Connection: TypeAlias = psycopg.Connection[Any]
Pool: TypeAlias = ConnectionPool[psycopg.Connection[Any]]
T = TypeVar("T")

POOL_SIZE: Final = 16
_OPTIONS: Final[dict[str, Any]] = {
    "application_name": "fleet-server",
    "options": "-c TimeZone=UTC -c lock_timeout=30s -c idle_in_transaction_session_timeout=5min",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class Trouble(enum.Enum):
    """What to do about an error."""

    AWAY = "away"  # the database cannot work now: the same again, later
    AGAIN = "again"  # two transactions got in each other's way: the same again, at once
    INPUT = "input"  # what was given cannot be stored


def trouble(exc: BaseException) -> Trouble:
    """What an error means. Anything that is not clearly the database's own fault is the input's."""
    if isinstance(exc, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected):
        return Trouble.AGAIN
    if isinstance(exc, psycopg.DataError | psycopg.IntegrityError):
        return Trouble.INPUT
    # A missing table or a full disk is the server's fault too: no message may be put aside for it.
    return Trouble.AWAY if isinstance(exc, psycopg.Error | PoolTimeout | OSError) else Trouble.INPUT


def connect(dsn: str, wait_s: float = 10.0) -> Connection:
    """One connection, for a command; as a context manager it is one transaction and closes.

    Raises:
        NotReady: nobody answered in time, or the answer was no.
    """
    return _until(wait_s, lambda: psycopg.connect(dsn, **_OPTIONS), dsn)


def open_pool(dsn: str, wait_s: float = 60.0) -> Pool:
    """Connections for the server's threads, once the database answers. Raises NotReady."""
    connect(dsn, wait_s).close()
    pool: Pool = ConnectionPool(
        dsn,
        kwargs=_OPTIONS,
        min_size=2,
        max_size=POOL_SIZE,
        timeout=5.0,  # who waits longer is told that the database is away
        reconnect_timeout=30.0,
        check=ConnectionPool.check_connection,
        name="fleet",
        open=True,
    )
    return pool


def is_there(conn: Connection) -> None:
    """Raises if the database does not answer."""
    conn.execute("SELECT 1")


def _until(wait_s: float, attempt: Callable[[], T], dsn: str) -> T:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return attempt()
        except psycopg.ProgrammingError as exc:  # not a connection string at all
            raise NotReady(f"the database's address cannot be read: {_first_line(exc)}") from exc
        except psycopg.OperationalError as exc:
            if time.monotonic() >= deadline:
                raise NotReady(f"no database at {_where(dsn)} after {wait_s:g} s: {_first_line(exc)}") from exc
            log.info("waiting for the database", extra={"reason": _first_line(exc)})
            time.sleep(0.5)


def _where(dsn: str) -> str:
    """Host, port and name: never the password."""
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    return f"{parts.get('host', 'the default host')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().split("\n", 1)[0][:200]
