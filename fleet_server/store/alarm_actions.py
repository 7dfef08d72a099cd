"""What was done about alarms. Rows are kept by models.alarms' rules, so that they are the same on agent and server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg import Connection
from psycopg.types.json import Jsonb

from models.alarms import better
from models.contract.alarms import AlarmAction


def put(
    conn: Connection[Any], action: AlarmAction, *, via: str, received_at: datetime
) -> Literal["new", "again", "conflict"]:
    """Keep an action. "conflict": its id stands for something else too; both are kept."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('action ' || %s::text, 0))", (action.event_id,))
    rows = conn.execute("SELECT digest, body FROM alarm_action WHERE action_id = %s", (action.action_id,)).fetchall()
    known = {digest: AlarmAction.model_validate(body) for digest, body in rows}
    digest = action.digest()
    kept = better(known[digest], action) if digest in known else action
    conn.execute(
        """
        INSERT INTO alarm_action (action_id, digest, event_id, asset_id, action, made_at, via, received_at, body)
        VALUES (%(id)s, %(digest)s, %(event)s, %(asset)s, %(action)s, %(made)s, %(via)s, %(received)s, %(body)s)
        ON CONFLICT (action_id, digest) DO UPDATE SET body = excluded.body
        """,
        {
            "id": kept.action_id,
            "digest": digest,
            "event": kept.event_id,
            "asset": kept.asset,
            "action": kept.action.value,
            "made": kept.made_at,
            "via": via,
            "received": received_at,
            "body": Jsonb(kept.model_dump(mode="json")),
        },
    )
    return "again" if digest in known else "conflict" if known else "new"


def of_events(conn: Connection[Any], event_ids: Sequence[UUID]) -> dict[UUID, list[AlarmAction]]:
    """All on these alarms, by alarm; none, an empty list."""
    found: dict[UUID, list[AlarmAction]] = defaultdict(list)
    rows = conn.execute("SELECT body FROM alarm_action WHERE event_id = ANY(%s)", (list(event_ids),)).fetchall()
    for (body,) in rows:
        action = AlarmAction.model_validate(body)
        found[action.event_id].append(action)
    return found


def get(conn: Connection[Any], action_id: UUID) -> list[AlarmAction]:
    """One; more where the id stands for different things."""
    rows = conn.execute("SELECT body FROM alarm_action WHERE action_id = %s ORDER BY digest", (action_id,)).fetchall()
    return [AlarmAction.model_validate(body) for (body,) in rows]
