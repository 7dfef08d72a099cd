"""What the server does about alarms on devices: verdicts and lifted suppressions go down, states are folded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from fleet_server.commands import send
from fleet_server.errors import NotFound
from fleet_server.store import alarm_actions, devices, events, maintenance
from fleet_server.store.events import EventRow
from fleet_server.store.pool import Connection
from models import alarms
from models.alarms import AlarmState
from models.contract.commands import LiftSuppression, TakeVerdict
from models.contract.labels import Severity, Verdict
from models.contract.messages import Annotation

DEADLINE: Final = timedelta(days=30)  # for a device that is off


def states(conn: Connection, rows: Sequence[EventRow]) -> dict[UUID, AlarmState]:
    """What was done about each of these."""
    done = alarm_actions.of_events(conn, [row.event_id for row in rows])
    return {
        row.event_id: alarms.state(done.get(row.event_id, ()), Severity(row.severity) if row.severity else None)
        for row in rows
    }


def hear_verdict(conn: Connection, said: Annotation) -> None:
    """What somebody said here is done on the device at once: a false alarm is quiet there, a fault is not."""
    device = None
    if said.event_id is not None:
        event = events.get(conn, said.event_id)
        device = event.device_id if event else None
    elif said.verdict is Verdict.FAULT:
        device = devices.of_asset(conn, said.asset)
    if device is not None:
        send(conn, device, TakeVerdict(annotation=said), datetime.now(UTC) + DEADLINE, by=said.annotator)


def lift(conn: Connection, suppression_id: UUID, by: str) -> UUID:
    """Have a device alarm again; the command's id. Raises NotFound."""
    now = datetime.now(UTC)
    rows = maintenance.suppressions(conn, suppression_id=suppression_id, holding_at=now)
    if not rows:
        raise NotFound(f"there is no suppression {suppression_id}, or it has ended")
    body = LiftSuppression(suppression_id=suppression_id, by=by)
    return send(conn, rows[0].device_id, body, now + DEADLINE, by=by)
