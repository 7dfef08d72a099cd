"""Training runs: asked for, running, and how they ended. Also the lock that lets one server do a job at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import class_row, scalar_row


@dataclass(frozen=True)
class RunRow:
    """`state` is proposed, requested, running, candidate, refused or failed."""

    run_id: str
    model: str
    started_at: datetime
    ended_at: datetime | None
    state: str
    step: str
    cause: str
    dataset: str | None
    version: int | None
    reason: str


def insert(conn: Connection[Any], run_id: str, model: str, at: datetime, state: str, cause: str) -> bool:
    """A new run, proposed or requested. False: it was there already."""
    cursor = conn.execute(
        """
        INSERT INTO training_run (run_id, model, started_at, state, step, cause)
        VALUES (%s, %s, %s, %s, 'dataset', %s) ON CONFLICT DO NOTHING
        """,
        (run_id, model, at, state, cause),
    )
    return cursor.rowcount == 1


def get(conn: Connection[Any], run_id: str) -> RunRow | None:
    return (
        conn.cursor(row_factory=class_row(RunRow))
        .execute(
            """
            SELECT run_id, model, started_at, ended_at, state, step, cause, dataset, version, reason
            FROM training_run WHERE run_id = %s
            """,
            (run_id,),
        )
        .fetchone()
    )


def listing(conn: Connection[Any], limit: int = 100) -> list[RunRow]:
    """The newest first."""
    return (
        conn.cursor(row_factory=class_row(RunRow))
        .execute(
            """
            SELECT run_id, model, started_at, ended_at, state, step, cause, dataset, version, reason
            FROM training_run ORDER BY started_at DESC LIMIT %s
            """,
            (limit,),
        )
        .fetchall()
    )


def unfinished(conn: Connection[Any]) -> list[RunRow]:
    """Proposed, requested or running, the oldest first."""
    return (
        conn.cursor(row_factory=class_row(RunRow))
        .execute(
            """
            SELECT run_id, model, started_at, ended_at, state, step, cause, dataset, version, reason
            FROM training_run WHERE ended_at IS NULL ORDER BY started_at
            """
        )
        .fetchall()
    )


def newest_ended(conn: Connection[Any], model: str) -> RunRow | None:
    return (
        conn.cursor(row_factory=class_row(RunRow))
        .execute(
            """
            SELECT run_id, model, started_at, ended_at, state, step, cause, dataset, version, reason
            FROM training_run WHERE model = %s AND ended_at IS NOT NULL ORDER BY started_at DESC LIMIT 1
            """,
            (model,),
        )
        .fetchone()
    )


def set_state(conn: Connection[Any], run_id: str, state: str) -> None:
    """Of a run that has not ended."""
    conn.execute("UPDATE training_run SET state = %s WHERE run_id = %s AND ended_at IS NULL", (state, run_id))


def set_step(conn: Connection[Any], run_id: str, step: str) -> None:
    """The step that comes next; a run that takes one is running."""
    conn.execute(
        "UPDATE training_run SET step = %s, state = 'running' WHERE run_id = %s AND ended_at IS NULL", (step, run_id)
    )


def set_dataset(conn: Connection[Any], run_id: str, sha256: str) -> None:
    conn.execute("UPDATE training_run SET dataset = %s WHERE run_id = %s", (sha256, run_id))


def set_version(conn: Connection[Any], run_id: str, version: int) -> int:
    """The version this run makes: the one it has, or else this one."""
    taken: int | None = (
        conn.cursor(row_factory=scalar_row)
        .execute(
            "UPDATE training_run SET version = coalesce(version, %s) WHERE run_id = %s RETURNING version",
            (version, run_id),
        )
        .fetchone()
    )
    assert taken is not None, "no such run"
    return taken


def finish(conn: Connection[Any], run_id: str, state: str, reason: str, at: datetime) -> bool:
    """False: it had ended before."""
    cursor = conn.execute(
        """
        UPDATE training_run SET state = %s, reason = %s, ended_at = %s,
            step = CASE WHEN %s = 'failed' THEN step ELSE 'done' END
        WHERE run_id = %s AND ended_at IS NULL
        """,
        (state, reason, at, state, run_id),
    )
    return cursor.rowcount == 1


def try_lock(conn: Connection[Any], job: str) -> bool:
    """Take the job for this connection's session; it is given back when the connection ends, however it ends."""
    taken: bool | None = (
        conn.cursor(row_factory=scalar_row)
        .execute("SELECT pg_try_advisory_lock(hashtextextended('pdm ' || %s, 0))", (job,))
        .fetchone()
    )
    return bool(taken)


def unlock(conn: Connection[Any], job: str) -> None:
    """Give the job back."""
    conn.execute("SELECT pg_advisory_unlock(hashtextextended('pdm ' || %s, 0))", (job,))


def workflow_url(dsn: str) -> str:
    """The same database as a URL, which is the only form that the workflow library takes."""
    words = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    database = quote(words.pop("dbname", words.get("user", "postgres")), safe="")
    user, password = quote(words.pop("user", ""), safe=""), quote(words.pop("password", ""), safe="")
    who = f"{user}:{password}@" if password else f"{user}@" if user else ""
    host, port = words.pop("host", ""), words.pop("port", "")
    if host.startswith("/") or not host:
        words |= {key: value for key, value in (("host", host), ("port", port)) if value}
        where = ""
    else:
        where = f"{host}:{port}" if port else host
    return f"postgresql://{who}{where}/{database}" + (f"?{urlencode(words)}" if words else "")
