"""Totals that nobody wants to count again: one row each, raised in the transaction of what is counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import Connection


def add(conn: Connection[Any], counts: Mapping[str, int]) -> None:
    """Sorted, so that two servers do not wait for each other crosswise."""
    names = sorted(counts)
    conn.execute(
        """
        INSERT INTO counter (name, n) SELECT name, n FROM unnest(%s::text[], %s::bigint[]) AS more (name, n)
        ON CONFLICT (name) DO UPDATE SET n = counter.n + excluded.n
        """,
        (names, [counts[name] for name in names]),
    )


def read(conn: Connection[Any]) -> dict[str, int]:
    return {row[0]: row[1] for row in conn.execute("SELECT name, n FROM counter").fetchall()}
