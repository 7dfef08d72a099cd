"""Actions and maintenance windows in the outbox's file. What a function writes belongs to its caller's transaction."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from models.alarms import better, newer
from models.contract.alarms import AlarmAction, Maintenance
from models.contract.codec import dump

KEPT_WINDOWS: Final = 500
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alarm_action (
    action_id TEXT NOT NULL, digest TEXT NOT NULL, event_id TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (action_id, digest)
);
CREATE INDEX IF NOT EXISTS alarm_action_event ON alarm_action (event_id);
CREATE TABLE IF NOT EXISTS maintenance (
    maintenance_id TEXT PRIMARY KEY, asset TEXT NOT NULL, start TEXT NOT NULL, body TEXT NOT NULL
);
"""


def merge_action(db: sqlite3.Connection, action: AlarmAction) -> None:
    """Keep it, as models.alarms says which record of the same action counts."""
    key = (str(action.action_id), action.digest())
    row = db.execute("SELECT body FROM alarm_action WHERE action_id = ? AND digest = ?", key).fetchone()
    kept = better(AlarmAction.model_validate_json(row[0]), action) if row else action
    db.execute(
        "INSERT OR REPLACE INTO alarm_action (action_id, digest, event_id, body) VALUES (?, ?, ?, ?)",
        (*key, str(action.event_id), dump(kept).decode()),
    )


def known_as(db: sqlite3.Connection, action_id: UUID) -> list[str]:
    """The digests of what this id stands for: none, one, or a conflict."""
    rows = db.execute("SELECT digest FROM alarm_action WHERE action_id = ?", (str(action_id),)).fetchall()
    return [digest for (digest,) in rows]


def actions(db: sqlite3.Connection, event_ids: Iterable[UUID]) -> dict[UUID, list[AlarmAction]]:
    """All on these alarms."""
    found: dict[UUID, list[AlarmAction]] = defaultdict(list)
    for event_id in event_ids:
        for (body,) in db.execute("SELECT body FROM alarm_action WHERE event_id = ?", (str(event_id),)):
            found[event_id].append(AlarmAction.model_validate_json(body))
    return found


def forget_old(db: sqlite3.Connection) -> None:
    """Actions on alarms that the journal has dropped, and windows long over."""
    db.execute("DELETE FROM alarm_action WHERE event_id NOT IN (SELECT event_id FROM episode)")
    db.execute(
        "DELETE FROM maintenance WHERE body ->> 'end' IS NOT NULL AND maintenance_id NOT IN"
        " (SELECT maintenance_id FROM maintenance ORDER BY start DESC LIMIT ?)",
        (KEPT_WINDOWS,),
    )


def merge_maintenance(db: sqlite3.Connection, word: Maintenance) -> bool:
    """Keep the word that counts. False: it changes nothing."""
    known = window(db, word.maintenance_id)
    if known is not None and (known == word or newer(known, word) is known):
        return False
    db.execute(
        "INSERT OR REPLACE INTO maintenance (maintenance_id, asset, start, body) VALUES (?, ?, ?, ?)",
        (str(word.maintenance_id), word.asset, word.start.isoformat(), dump(word).decode()),
    )
    return True


def window(db: sqlite3.Connection, maintenance_id: UUID) -> Maintenance | None:
    row = db.execute("SELECT body FROM maintenance WHERE maintenance_id = ?", (str(maintenance_id),)).fetchone()
    return Maintenance.model_validate_json(row[0]) if row else None


def windows(db: sqlite3.Connection, asset: str | None = None) -> list[Maintenance]:
    """The latest start first."""
    rows = db.execute(
        "SELECT body FROM maintenance WHERE ?1 IS NULL OR asset = ?1 ORDER BY start DESC", (asset,)
    ).fetchall()
    return [Maintenance.model_validate_json(body) for (body,) in rows]
