"""Who has not heard is told again: an alarm that nobody acknowledged goes up a level after each step's time.

The time counts from when the server heard of the alarm, or from the end of a snooze. Each level is an action on record,
made once, with a notice that is posted until it was taken or is a day old.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from fleet_server.alarms import desk
from fleet_server.config import Alarms
from fleet_server.feedback import actions
from fleet_server.loop import Loop
from fleet_server.store import events, notices
from fleet_server.store.events import EventRow
from fleet_server.store.pool import Connection, Pool
from models.alarms import AlarmState
from models.contract.alarms import Act, AlarmAction
from models.contract.ids import new_trace_id
from models.webhook import WebhookFailed, post

log = logging.getLogger(__name__)

EVERY_S: Final = 10.0
TIMEOUT_S: Final = 5.0
GIVE_UP: Final = timedelta(days=1)
FIRST_WAIT: Final = timedelta(seconds=10)  # after a failure; then twice as long, and so on
BY: Final = "timer"
MOST: Final = 1000


class EscalationLoop(Loop):
    """Every few seconds. Several servers may run it: a level is one action, and a notice is locked by who posts it."""

    def __init__(self, settings: Alarms, pool: Pool, every_s: float = EVERY_S) -> None:
        super().__init__("alarms", every_s)
        self._settings, self._pool = settings, pool
        self._secret = settings.secret()

    def turn(self, now: datetime | None = None) -> int:
        """One turn; how many alarms went up. Raises what the database raises."""
        now = now or datetime.now(UTC)
        with self._pool.connection() as conn:
            n = escalate(conn, self._settings, now)
        while self._post_one(now):
            pass
        return n

    def _post_one(self, now: datetime) -> bool:
        """True: there may be more."""
        with self._pool.connection() as conn:
            notice = notices.due(conn, now, FIRST_WAIT)
            if notice is None:
                return False
            failure = ""
            try:
                post(notice.url, json.dumps(notice.body).encode(), self._secret, TIMEOUT_S)
            except WebhookFailed as exc:
                failure = str(exc)
                log.warning("escalation not taken", extra={"url": notice.url, "reason": failure, "tries": notice.tries})
            given_up = bool(failure) and now - notice.made_at > GIVE_UP
            if given_up:
                log.error("escalation given up: nobody was told", extra={"url": notice.url, "reason": failure})
            notices.tried(conn, notice.notice_id, now, failure, given_up=given_up)
        return True


def escalate(conn: Connection, settings: Alarms, now: datetime) -> int:
    """Take up what is due; how many that were."""
    rows = events.listing(conn, open_only=True, limit=MOST)
    known = desk.states(conn, rows)
    n = 0
    for row in rows:
        state = known[row.event_id]
        if row.muted or state.quiet(now):
            continue
        waited = now - max(row.received_at, state.snoozed_until or row.received_at)
        due = sum(waited >= timedelta(minutes=step.after_min) for step in settings.escalate)
        for level in range(state.level + 1, due + 1):
            n += _up(conn, settings, row, state, level, now)
    return n


def _up(conn: Connection, settings: Alarms, row: EventRow, state: AlarmState, level: int, now: datetime) -> bool:
    action = AlarmAction(
        trace_id=new_trace_id(),
        made_at=now,
        action_id=uuid5(NAMESPACE_OID, f"escalate {row.event_id} {level} server"),
        event_id=row.event_id,
        asset=row.asset_id,
        action=Act.ESCALATE,
        actor=BY,
        level=level,
        text=f"nobody has acknowledged it for {settings.escalate[level - 1].after_min:g} min",
    )
    if actions.record(conn, row, action, now) != "new":
        return False
    log.warning("alarm escalated", extra={"asset": row.asset_id, "level": level, "event": str(row.event_id)})
    if url := settings.escalate[level - 1].webhook or settings.webhook:
        notices.put(conn, action.action_id, url, _notice(row, state, level), now)
    return True


def _notice(row: EventRow, state: AlarmState, level: int) -> dict[str, Any]:
    return {
        "what": "escalation",
        "level": level,
        "asset": row.asset_id,
        "device": row.device_id,
        "event_id": str(row.event_id),
        "family": row.family,
        "severity": row.severity,
        "score": round(row.score, 3),
        "raised_at": row.raised_at.isoformat(),
        "repeats": row.repeats,
        "assigned_to": state.assigned_to,
    }
