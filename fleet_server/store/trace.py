"""From a sensor window to the devices that run what was learned from it, and back.

The chain: window, event, annotation, label, dataset, run, bundle, rollout, device. LED_TO and MADE_FROM hold one
statement for each of its links, DESCRIBE one for each kind of node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg import Connection
from psycopg.rows import tuple_row

from fleet_server.errors import NotFound

MOST: Final = 20  # neighbours of one node that are shown; how many more there are is said

# Each takes an id and gives (kind, id, note).
LED_TO: Final[Mapping[str, LiteralString]] = {
    "window": """
        SELECT DISTINCT 'event', event_id::text, '' FROM sample WHERE trace_id = %(id)s::uuid AND event_id IS NOT NULL
        UNION SELECT 'event', event_id::text, 'raised it' FROM event WHERE trace_id = %(id)s::uuid
            AND NOT EXISTS (SELECT FROM sample WHERE trace_id = %(id)s::uuid AND event_id IS NOT NULL)
        UNION SELECT 'annotation', annotation_id::text, '' FROM annotation
            WHERE trace_id = %(id)s::uuid AND event_id IS NULL
        """,
    "event": """
        SELECT 'annotation', annotation_id::text, '' FROM annotation WHERE event_id = %(id)s::uuid ORDER BY received_at
        """,
    "annotation": """
        SELECT 'label', label_id::text, '' FROM label WHERE annotations @> ARRAY[%(id)s::uuid]
            OR subject_id = %(id)s::uuid
        """,
    "label": "SELECT 'dataset', sha256, '' FROM dataset WHERE label_ids @> ARRAY[%(id)s::uuid] ORDER BY made_at",
    "dataset": "SELECT 'run', run_id, '' FROM training_run WHERE dataset = %(id)s ORDER BY started_at",
    "run": "SELECT 'bundle', sha256, '' FROM bundle WHERE run_id = %(id)s",
    "bundle": """
        SELECT 'rollout', rollout_id, '' FROM rollout WHERE sha256 = %(id)s
        UNION ALL SELECT 'device', device_id, 'runs it now' FROM device d WHERE model_sha256 = %(id)s AND NOT EXISTS (
            SELECT FROM assignment a WHERE a.device_id = d.device_id AND a.sha256 = %(id)s AND a.envelope IS NOT NULL
        )
        """,
    "rollout": """
        SELECT 'device', a.device_id, concat_ws(', ', 'wave ' || a.wave, a.step, nullif(a.reason, ''),
            (SELECT 'ran it from ' || to_char(min(s.at) FILTER (WHERE s.step IN ('trial', 'active')), 'YYYY-MM-DD
            HH24:MI:SS')
             FROM rollout_step s WHERE s.device_id = a.device_id AND s.assignment = a.sequence),
            CASE WHEN d.model_sha256 = a.sha256 THEN 'runs it now' ELSE 'does not run it now' END)
        FROM assignment a LEFT JOIN device d USING (device_id) WHERE a.rollout_id = %(id)s ORDER BY a.wave, a.device_id
        """,
}
MADE_FROM: Final[Mapping[str, LiteralString]] = {
    "device": """
        SELECT 'bundle', model_sha256, 'runs now, ' || step FROM device
        WHERE device_id = %(id)s AND model_sha256 IS NOT NULL
        """,
    "rollout": "SELECT 'bundle', sha256, '' FROM rollout WHERE rollout_id = %(id)s",
    "bundle": "SELECT 'run', run_id, '' FROM bundle WHERE sha256 = %(id)s AND run_id IS NOT NULL",
    "run": "SELECT 'dataset', dataset, '' FROM training_run WHERE run_id = %(id)s AND dataset IS NOT NULL",
    "dataset": """
        SELECT 'label', l.label_id::text, '' FROM dataset d JOIN label l ON l.label_id = ANY (d.label_ids)
        WHERE d.sha256 = %(id)s ORDER BY l.decided_at DESC
        """,
    "label": """
        SELECT 'annotation', unnest(annotations)::text, '' FROM label WHERE label_id = %(id)s::uuid
        """,
    "annotation": """
        SELECT CASE WHEN event_id IS NULL THEN 'window' ELSE 'event' END, coalesce(event_id, trace_id)::text, ''
        FROM annotation WHERE annotation_id = %(id)s::uuid
        """,
    "event": """
        SELECT 'window', trace_id::text, CASE WHEN trace_id = e.first THEN 'raised it' ELSE '' END
        FROM (SELECT trace_id AS first FROM event WHERE event_id = %(id)s::uuid) e, LATERAL (
            SELECT e.first AS trace_id UNION SELECT trace_id FROM sample WHERE event_id = %(id)s::uuid
        ) AS w ORDER BY (trace_id = e.first) DESC, trace_id
        """,
}
# Each takes ids and gives (id, text).
DESCRIBE: Final[Mapping[str, LiteralString]] = {
    "window": """
        SELECT DISTINCT ON (id) id, text FROM (
            SELECT trace_id::text AS id, 1 AS rank, concat_ws(', ', asset_id || ' on ' || device_id,
                'until ' || to_char(window_end, 'YYYY-MM-DD HH24:MI:SS.MS'), 'score ' || round(score::numeric, 3),
                fault_class, 'model version ' || model_version) AS text
            FROM prediction WHERE trace_id = ANY (%(ids)s::uuid[])
            UNION ALL SELECT trace_id::text, 2, concat_ws(', ', asset_id || ' on ' || device_id,
                'until ' || to_char(window_end, 'YYYY-MM-DD HH24:MI:SS.MS'), 'score ' || round(score::numeric, 3),
                'features kept: ' || reason, 'model version ' || model_version)
            FROM sample WHERE trace_id = ANY (%(ids)s::uuid[])
        ) w ORDER BY id, rank
        """,
    "event": """
        SELECT event_id::text, concat_ws(', ', asset_id || ' on ' || device_id,
            'raised ' || to_char(raised_at, 'YYYY-MM-DD HH24:MI:SS'), 'score ' || round(score::numeric, 3), fault_class,
            'model ' || model_name || ' ' || model_version, CASE WHEN cleared_at IS NULL THEN 'open' ELSE 'cleared' END)
        FROM event WHERE event_id = ANY (%(ids)s::uuid[])
        """,
    "annotation": """
        SELECT annotation_id::text, concat_ws(', ', annotator || ': ' || verdict || coalesce(' ' || fault, ''),
            'by way of ' || via, status, nullif(reason, ''))
        FROM annotation WHERE annotation_id = ANY (%(ids)s::uuid[])
        """,
    "label": """
        SELECT label_id::text, concat_ws(', ', verdict || coalesce(' ' || fault, ''), status,
            'weight ' || round(weight::numeric, 3), reason)
        FROM label WHERE label_id = ANY (%(ids)s::uuid[])
        """,
    "dataset": """
        SELECT sha256, concat_ws(', ', model, 'made ' || to_char(made_at, 'YYYY-MM-DD HH24:MI:SS'),
            (summary ->> 'rows') || ' rows', cardinality(label_ids) || ' labels')
        FROM dataset WHERE sha256 = ANY (%(ids)s)
        """,
    "run": """
        SELECT run_id, concat_ws(', ', model || coalesce(' ' || version, ''), state, nullif(reason, ''), 'because ' ||
        cause)
        FROM training_run WHERE run_id = ANY (%(ids)s)
        """,
    "bundle": """
        SELECT b.sha256, concat_ws(', ', b.name || ' ' || b.version, b.state,
            coalesce('gate: ' || (b.gate ->> 'verdict'), 'no gate has judged it'),
            'approved by ' || a.approved_by || ' ' || to_char(a.approved_at, 'YYYY-MM-DD HH24:MI:SS'))
        FROM bundle b LEFT JOIN approval a USING (sha256) WHERE b.sha256 = ANY (%(ids)s)
        """,
    "rollout": """
        SELECT r.rollout_id, concat_ws(', ', b.name || ' ' || b.version, r.mode, r.state,
            'wave ' || r.wave || ' of ' || r.n_waves, nullif(r.reason, ''))
        FROM rollout r JOIN bundle b USING (sha256) WHERE r.rollout_id = ANY (%(ids)s)
        """,
    "device": """
        SELECT device_id, concat_ws(', ', 'last seen ' || to_char(last_seen, 'YYYY-MM-DD HH24:MI:SS'))
        FROM device WHERE device_id = ANY (%(ids)s)
        """,
}


@dataclass
class Node:
    """One station of the chain. `more` neighbours are not shown."""

    kind: str
    id: str
    text: str
    note: str = ""
    made_from: list[Node] = field(default_factory=list)
    led_to: list[Node] = field(default_factory=list)
    more: int = 0


def trace(conn: Connection[Any], text: str) -> list[Node]:
    """Everything that has this id (or, for a bundle, this version), each with what it was made from and what it led to.

    Raises:
        NotFound: nothing has it.
    """
    found = []
    for kind, key in resolve(conn, text):
        node = _nodes(conn, [(kind, key, "")])[0]
        _grow(conn, node, "made_from", MADE_FROM)
        _grow(conn, node, "led_to", LED_TO)
        found.append(node)
    if not found:
        raise NotFound(f"nothing here has the id {text}")
    return found


def resolve(conn: Connection[Any], text: str) -> list[tuple[str, str]]:
    """What this could be: (kind, id)."""
    try:
        uuid = UUID(text)
    except ValueError:
        uuid = None
    return (
        conn.cursor(row_factory=tuple_row)
        .execute(
            """
            SELECT 'window', %(uuid)s::text
            WHERE EXISTS (SELECT FROM prediction WHERE trace_id = %(uuid)s::uuid)
               OR EXISTS (SELECT FROM sample WHERE trace_id = %(uuid)s::uuid)
               OR EXISTS (SELECT FROM event WHERE trace_id = %(uuid)s::uuid)
            UNION ALL SELECT 'event', event_id::text FROM event WHERE event_id = %(uuid)s::uuid
            UNION ALL SELECT 'annotation', annotation_id::text FROM annotation WHERE annotation_id = %(uuid)s::uuid
            UNION ALL SELECT 'label', label_id::text FROM label WHERE label_id = %(uuid)s::uuid
            UNION ALL SELECT 'dataset', sha256 FROM dataset WHERE sha256 = %(text)s
            UNION ALL SELECT 'run', run_id FROM training_run WHERE run_id = %(text)s
            UNION ALL SELECT 'bundle', sha256 FROM bundle
                WHERE %(text)s IN (sha256, version::text, name || ' ' || version, name || '@' || version)
            UNION ALL SELECT 'rollout', rollout_id FROM rollout WHERE rollout_id = %(text)s
            UNION ALL SELECT 'device', device_id FROM device WHERE device_id = %(text)s
            """,
            {"uuid": uuid, "text": text},
        )
        .fetchall()
    )


def _grow(conn: Connection[Any], node: Node, side: str, links: Mapping[str, LiteralString]) -> None:
    """Follow the chain one way. It has no circles: each link leads to the next kind, in one direction."""
    statement = links.get(node.kind)
    if statement is None:
        return
    rows = conn.cursor(row_factory=tuple_row).execute(statement, {"id": node.id}).fetchall()
    node.more += max(0, len(rows) - MOST)
    children = _nodes(conn, rows[:MOST])
    getattr(node, side).extend(children)
    for child in children:
        _grow(conn, child, side, links)


def _nodes(conn: Connection[Any], refs: list[tuple[str, str, str]]) -> list[Node]:
    texts: dict[tuple[str, str], str] = {}
    for kind in {kind for kind, _, _ in refs}:
        ids = [key for each, key, _ in refs if each == kind]
        rows = conn.cursor(row_factory=tuple_row).execute(DESCRIBE[kind], {"ids": ids}).fetchall()
        texts |= {(kind, key): text for key, text in rows}
    return [Node(kind, key, texts.get((kind, key), "not here (yet)"), note or "") for kind, key, note in refs]
