"""One row a message, and the sum that must come out: produced = stored + waiting + quarantined + evicted.

Computed with sets of numbers, not with counters: a number that is in none of the sets is missing, and one that is in
two is counted once, so nothing can cancel out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.rows import class_row, tuple_row


class Key(NamedTuple):
    """Identity of one message."""

    device: str
    epoch: str
    stream: str
    seq: int


class StreamKey(NamedTuple):
    """One sequence of one outbox."""

    device: str
    epoch: str
    stream: str


@dataclass(frozen=True)
class Line:
    """The account of one stream. `missing` shows the first of the numbers that nobody accounts for."""

    device: str
    epoch: str
    stream: str
    produced: int
    stored: int
    waiting: int
    quarantined: int
    evicted: dict[str, int]
    difference: int
    missing: str


def statement(lines: Sequence[Line]) -> dict[str, Any]:
    """The account as JSON: each stream, the totals, and whether nothing is missing anywhere."""
    totals: dict[str, Any] = {
        name: sum(getattr(line, name) for line in lines)
        for name in ("produced", "stored", "waiting", "quarantined", "difference")
    }
    evicted: Counter[str] = Counter()
    for line in lines:
        evicted.update(line.evicted)
    return {
        "closed": all(line.difference == 0 for line in lines),
        "totals": totals | {"evicted": dict(sorted(evicted.items()))},
        "streams": [asdict(line) for line in lines],
    }


def enter(conn: Connection[Any], keys: Iterable[Key], at: datetime) -> set[Key]:
    """Write messages down; those that were not there before. In key order: two servers with the same messages wait for
    each other in a row, not in a circle."""
    ordered = sorted(set(keys))
    rows = (
        conn.cursor(row_factory=tuple_row)
        .execute(
            """
            INSERT INTO ledger (device_id, epoch, stream, seq, received_at)
            SELECT device_id, epoch, stream, seq, %s
            FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) AS k (device_id, epoch, stream, seq)
            ON CONFLICT DO NOTHING RETURNING device_id, epoch, stream, seq
            """,
            (at, *(list(column) for column in zip(*ordered, strict=True))),
        )
        .fetchall()
        if ordered
        else []
    )
    return {Key(*row) for row in rows}


def set_quarantined(conn: Connection[Any], keys: Sequence[Key]) -> None:
    """These were put aside, not stored."""
    conn.execute(
        """
        UPDATE ledger l SET quarantined = true
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) AS k (device_id, epoch, stream, seq)
        WHERE (l.device_id, l.epoch, l.stream, l.seq) = (k.device_id, k.epoch, k.stream, k.seq)
        """,
        [list(column) for column in zip(*keys, strict=True)],
    )


def advance_marks(conn: Connection[Any], keys: Iterable[StreamKey]) -> dict[StreamKey, int]:
    """How far each stream is complete from 1 on. Walks from the last mark to the first gap and no further, so a hole
    that will never be filled (the device evicted it) costs one look."""
    ordered = sorted(set(keys))
    if not ordered:
        return {}
    rows = (
        conn.cursor(row_factory=tuple_row)
        .execute(
            """
            INSERT INTO ledger_mark AS mark (device_id, epoch, stream, up_to)
            SELECT k.device_id, k.epoch, k.stream, coalesce(walk.seq, old.up_to, 0)
            FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (device_id, epoch, stream)
            LEFT JOIN ledger_mark old USING (device_id, epoch, stream)
            LEFT JOIN LATERAL (
                SELECT l.seq FROM ledger l
                WHERE (l.device_id, l.epoch, l.stream) = (k.device_id, k.epoch, k.stream)
                  AND l.seq > coalesce(old.up_to, 0)
                  AND EXISTS (
                      SELECT FROM ledger f
                      WHERE (f.device_id, f.epoch, f.stream) = (k.device_id, k.epoch, k.stream)
                        AND f.seq = coalesce(old.up_to, 0) + 1
                  )
                  AND NOT EXISTS (
                      SELECT FROM ledger n
                      WHERE (n.device_id, n.epoch, n.stream) = (l.device_id, l.epoch, l.stream) AND n.seq = l.seq + 1
                      OFFSET 0
                  )
                ORDER BY l.seq LIMIT 1
            ) walk ON true
            ORDER BY 1, 2, 3
            ON CONFLICT (device_id, epoch, stream) DO UPDATE SET up_to = greatest(mark.up_to, excluded.up_to)
            RETURNING device_id, epoch, stream, up_to
            """,
            [list(column) for column in zip(*ordered, strict=True)],
        )
        .fetchall()
    )
    return {StreamKey(*row[:3]): row[3] for row in rows}


def account(conn: Connection[Any], device_id: str | None = None) -> list[Line]:
    """The ledger as of each outbox's newest heartbeat. A stream of which no heartbeat has told yet counts as produced
    up to the highest number seen."""
    return (
        conn.cursor(row_factory=class_row(Line))
        .execute(
            """
            WITH claim AS (
                SELECT o.device_id, o.epoch, s.key AS stream, (s.value ->> 'produced')::bigint AS produced,
                       s.value -> 'waiting' AS waiting, s.value -> 'evicted' AS evicted
                FROM outbox_count o, jsonb_each(o.counts) AS s
                WHERE %(device)s::text IS NULL OR o.device_id = %(device)s
            ), seen AS (
                SELECT m.device_id, m.epoch, m.stream, m.up_to,
                       (SELECT coalesce(max(l.seq), 0) FROM ledger l
                        WHERE (l.device_id, l.epoch, l.stream) = (m.device_id, m.epoch, m.stream)) AS highest,
                       (SELECT range_agg(int8range(l.seq, l.seq + 1)) FROM ledger l
                        WHERE (l.device_id, l.epoch, l.stream) = (m.device_id, m.epoch, m.stream)
                          AND l.seq > m.up_to) AS later,
                       (SELECT range_agg(int8range(l.seq, l.seq + 1)) FROM ledger l
                        WHERE (l.device_id, l.epoch, l.stream) = (m.device_id, m.epoch, m.stream)
                          AND l.quarantined) AS aside
                FROM ledger_mark m
                WHERE %(device)s::text IS NULL OR m.device_id = %(device)s
            ), sets AS (
                SELECT device_id, epoch, stream, coalesce(c.produced, s.highest) AS produced,
                       int8multirange(int8range(1, coalesce(c.produced, s.highest) + 1)) AS whole,
                       int8multirange(int8range(1, coalesce(s.up_to, 0) + 1)) + coalesce(s.later, '{}') AS here,
                       coalesce(s.aside, '{}') AS aside,
                       coalesce(
                           (SELECT range_agg(int8range((r ->> 0)::bigint, (r ->> 1)::bigint + 1))
                            FROM jsonb_array_elements(c.waiting) AS r), '{}'
                       ) AS waiting,
                       coalesce(
                           (SELECT jsonb_object_agg(cause.key, (
                                SELECT range_agg(int8range((r ->> 0)::bigint, (r ->> 1)::bigint + 1))::text
                                FROM jsonb_array_elements(cause.value) AS r))
                            FROM jsonb_each(c.evicted) AS cause
                            WHERE jsonb_array_length(cause.value) > 0), '{}'::jsonb
                       ) AS evicted
                FROM claim c FULL JOIN seen s USING (device_id, epoch, stream)
            ), gone AS (
                SELECT *, coalesce((SELECT range_agg(r) FROM jsonb_each_text(evicted) AS e,
                                    unnest(e.value::int8multirange) AS r), '{}') AS evicted_set
                FROM sets
            ), counted AS (
                SELECT *, whole - here - waiting - evicted_set AS missing FROM gone
            )
            SELECT device_id AS device, epoch, stream, produced,
                   (SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM unnest((here - aside) * whole) AS r) AS
                   stored, (SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint
                    FROM unnest((waiting - here - evicted_set) * whole) AS r) AS waiting,
                   (SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM unnest(aside * whole) AS r) AS
                   quarantined, (SELECT coalesce(jsonb_object_agg(e.key, (
                        SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint
                        FROM unnest((e.value::int8multirange - here) * whole) AS r)), '{}')
                    FROM jsonb_each_text(evicted) AS e) AS evicted,
                   (SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM unnest(missing) AS r) AS difference,
                   left(missing::text, 200) AS missing
            FROM counted ORDER BY device_id, epoch, stream
            """,
            {"device": device_id},
        )
        .fetchall()
    )
