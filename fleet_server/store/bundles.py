"""Every bundle ever made, its bytes, its gate's report, and who approved it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True)
class BundleRow:
    """A bundle without its bytes. `state` is shipped, candidate, refused, approved or barred."""

    name: str
    version: int
    sha256: str
    size: int
    manifest: dict[str, Any]
    made_at: datetime
    run_id: str | None
    dataset: str | None
    state: str
    gate: dict[str, Any] | None
    approved_by: str | None
    approved_at: datetime | None


def insert(conn: Connection[Any], row: BundleRow, data: bytes) -> bool:
    """Store one bundle. False: this name and version, or these bytes, are there already."""
    cursor = conn.execute(
        """
        INSERT INTO bundle (name, version, sha256, size, manifest, data, made_at, run_id, dataset, state, gate)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT DO NOTHING
        """,
        (
            row.name,
            row.version,
            row.sha256,
            row.size,
            Jsonb(row.manifest),
            data,
            row.made_at,
            row.run_id,
            row.dataset,
            row.state,
            None if row.gate is None else Jsonb(row.gate),
        ),
    )
    return cursor.rowcount == 1


def get(conn: Connection[Any], name: str, version: int) -> BundleRow | None:
    return (
        conn.cursor(row_factory=class_row(BundleRow))
        .execute(
            """
            SELECT b.name, b.version, b.sha256, b.size, b.manifest, b.made_at, b.run_id, b.dataset, b.state, b.gate,
                   a.approved_by, a.approved_at
            FROM bundle b LEFT JOIN approval a USING (sha256)
            WHERE b.name = %s AND b.version = %s
            """,
            (name, version),
        )
        .fetchone()
    )


def by_sha256(conn: Connection[Any], sha256: str) -> BundleRow | None:
    return (
        conn.cursor(row_factory=class_row(BundleRow))
        .execute(
            """
            SELECT b.name, b.version, b.sha256, b.size, b.manifest, b.made_at, b.run_id, b.dataset, b.state, b.gate,
                   a.approved_by, a.approved_at
            FROM bundle b LEFT JOIN approval a USING (sha256)
            WHERE b.sha256 = %s
            """,
            (sha256,),
        )
        .fetchone()
    )


def listing(conn: Connection[Any]) -> list[BundleRow]:
    """All, the newest first."""
    return (
        conn.cursor(row_factory=class_row(BundleRow))
        .execute(
            """
            SELECT b.name, b.version, b.sha256, b.size, b.manifest, b.made_at, b.run_id, b.dataset, b.state, b.gate,
                   a.approved_by, a.approved_at
            FROM bundle b LEFT JOIN approval a USING (sha256)
            ORDER BY b.version DESC, b.name
            """
        )
        .fetchall()
    )


def data(conn: Connection[Any], sha256: str) -> bytes | None:
    """The whole file."""
    return (
        conn.cursor(row_factory=scalar_row).execute("SELECT data FROM bundle WHERE sha256 = %s", (sha256,)).fetchone()
    )


def piece(conn: Connection[Any], sha256: str, offset: int, n: int) -> bytes | None:
    """`n` bytes of the file from `offset`, fewer at its end."""
    return (
        conn.cursor(row_factory=scalar_row)
        .execute("SELECT substring(data FROM %s FOR %s) FROM bundle WHERE sha256 = %s", (offset + 1, n, sha256))
        .fetchone()
    )


def next_version(conn: Connection[Any], name: str) -> int:
    """Never 1, which is the shipped baseline, and never one that a run has taken, or that a device says it runs: a
    database that was restored from a backup must not give a number to other bytes."""
    version: int | None = (
        conn.cursor(row_factory=scalar_row)
        .execute(
            """
            SELECT greatest(
                2,
                (SELECT coalesce(max(version), 0) + 1 FROM bundle WHERE name = %(name)s),
                (SELECT coalesce(max(version), 0) + 1 FROM training_run WHERE model = %(name)s),
                (SELECT coalesce(max(model_version), 0) + 1 FROM device WHERE model_name = %(name)s)
            )
            """,
            {"name": name},
        )
        .fetchone()
    )
    assert version is not None
    return version


def set_state(conn: Connection[Any], sha256: str, state: str) -> None:
    conn.execute("UPDATE bundle SET state = %s WHERE sha256 = %s", (state, sha256))


def barred(conn: Connection[Any]) -> list[str]:
    """The hashes that shall not run anywhere, the newest first."""
    return (
        conn.cursor(row_factory=scalar_row)
        .execute("SELECT sha256 FROM bundle WHERE state = 'barred' ORDER BY made_at DESC")
        .fetchall()
    )


def approve(
    conn: Connection[Any], sha256: str, approved_by: str, approved_at: datetime, envelope: dict[str, Any]
) -> None:
    """Store the signed approval; a newer one takes the older one's place."""
    conn.execute(
        """
        INSERT INTO approval (sha256, approved_by, approved_at, envelope) VALUES (%s, %s, %s, %s)
        ON CONFLICT (sha256) DO UPDATE SET approved_by = excluded.approved_by, approved_at = excluded.approved_at,
            envelope = excluded.envelope
        """,
        (sha256, approved_by, approved_at, Jsonb(envelope)),
    )


def approval(conn: Connection[Any], sha256: str) -> dict[str, Any] | None:
    """The signed envelope as it travels."""
    return (
        conn.cursor(row_factory=scalar_row)
        .execute("SELECT envelope FROM approval WHERE sha256 = %s", (sha256,))
        .fetchone()
    )


def most_run(conn: Connection[Any]) -> str | None:
    """The registered bundle that most devices say they run; the newer one of two."""
    return (
        conn.cursor(row_factory=scalar_row)
        .execute(
            """
            SELECT b.sha256 FROM device d JOIN bundle b ON b.sha256 = d.model_sha256
            WHERE b.state <> 'barred'
            GROUP BY b.sha256, b.version ORDER BY count(*) DESC, b.version DESC LIMIT 1
            """
        )
        .fetchone()
    )
