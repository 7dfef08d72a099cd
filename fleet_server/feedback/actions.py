"""What people do about alarms and maintenance on the server: kept once, told to the device, counted as implicit
feedback. All in the caller's transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import NAMESPACE_OID, UUID, uuid5

from fleet_server.commands import send
from fleet_server.errors import NotFound, Refused
from fleet_server.store import alarm_actions, decisions, devices, events, feedback, maintenance
from fleet_server.store.events import EventRow
from fleet_server.store.pool import Connection
from models.alarms import next_tick
from models.contract.alarms import Act, AlarmAction, Maintenance
from models.contract.commands import CommandBody, SetMaintenance, TakeAction
from models.contract.ids import new_trace_id
from models.contract.labels import Severity
from models.contract.people import Signal
from models.form.actions import NOBODY, FormAction
from models.form.sent import implicit

DEADLINE: Final = timedelta(days=7)  # a device that is off for longer is told no more
AHEAD: Final = timedelta(minutes=5)  # so far may a phone's clock be off
_SIGNAL: Final[dict[Act, Signal]] = {Act.ACKNOWLEDGE: "acknowledged", Act.DISMISS: "dismissed"}
Taken = Literal["new", "before"]


def take(conn: Connection, action_id: UUID, done: FormAction, *, person: str, at: datetime) -> Taken:
    """Do it, once.

    Raises:
        NotFound: no such alarm, machine or maintenance.
        Refused: this id stands for something else.
        Unreadable: it lacks what it needs.
    """
    if done.action == "maintenance_start":
        return _start(conn, action_id, done, person, at)
    if done.action == "maintenance_end":
        return _end(conn, action_id, done, person, at)
    return _act(conn, action_id, done, person, at)


def _act(conn: Connection, action_id: UUID, done: FormAction, person: str, at: datetime) -> Taken:
    assert done.event_id
    event = events.get(conn, done.event_id)
    if event is None:
        raise NotFound(f"there is no event {done.event_id}")
    return record(conn, event, done.on_alarm(action_id, person, event.asset_id), at)


def record(conn: Connection, event: EventRow, action: AlarmAction, at: datetime) -> Taken:
    """Keep what was done about an alarm, and tell its device. Raises Refused: this id stands for something else."""
    others = alarm_actions.of_events(conn, [event.event_id]).get(event.event_id, [])
    action = action.model_copy(
        update={
            "trace_id": event.trace_id,
            "place": "server",
            "tick": next_tick(others),
            "severity": event.severity and Severity(event.severity),
            "taken_at": at,
        }
    )
    if known := alarm_actions.get(conn, action.action_id):
        if action.digest() not in {each.digest() for each in known}:
            raise Refused(f"action {action.action_id} is here already, with something else")
        return "before"
    alarm_actions.put(conn, action, via="server", received_at=at)
    _tell(conn, event.device_id, TakeAction(action=action), action.actor, at)
    if signal := _SIGNAL.get(action.action):
        waited = max(0.0, (min(action.made_at, at) - event.raised_at).total_seconds())
        _note(conn, signal, action, at, value=waited if signal == "acknowledged" else None)
    return "new"


def _start(conn: Connection, action_id: UUID, done: FormAction, person: str, at: datetime) -> Taken:
    assert done.asset
    assert done.maintenance_id
    device = devices.of_asset(conn, done.asset)
    if device is None:
        raise NotFound(f"there is no asset {done.asset}")
    known = maintenance.get(conn, done.maintenance_id)
    if known is not None:
        if known.asset != done.asset:
            raise Refused(f"maintenance {done.maintenance_id} is of {known.asset}")
        return "before"
    word = Maintenance(
        trace_id=new_trace_id(),
        made_at=at,
        maintenance_id=done.maintenance_id,
        asset=done.asset,
        start=done.at if done.at < at + AHEAD else at,
        actor=person or done.actor or NOBODY,
        place="server",
        reason=done.text[:500],
    )
    _keep(conn, device, word, "maintenance_started", at)
    return "new"


def _end(conn: Connection, action_id: UUID, done: FormAction, person: str, at: datetime) -> Taken:
    assert done.maintenance_id
    known = maintenance.get(conn, done.maintenance_id)
    if known is None or known.asset != done.asset:
        raise NotFound(f"there is no maintenance {done.maintenance_id} of {done.asset}")
    if known.end is not None:
        return "before"
    device = devices.of_asset(conn, known.asset)
    if device is None:
        raise NotFound(f"there is no asset {known.asset}")
    changes = {
        "made_at": at,
        "end": max(known.start, min(done.at, at)),
        "actor": person or done.actor or NOBODY,
        "place": "server",
        "tick": next_tick([known]),
        "part_replaced": done.part_replaced,
    }
    _keep(conn, device, known.model_copy(update=changes), "maintenance_ended", at)
    return "new"


def plan(conn: Connection, word: Maintenance, at: datetime) -> Taken:
    """Plan, change, end or cancel a maintenance window; its device is told. Raises NotFound: no such asset."""
    device = devices.of_asset(conn, word.asset)
    if device is None:
        raise NotFound(f"there is no asset {word.asset}")
    known = maintenance.get(conn, word.maintenance_id)
    same = {"tick", "made_at", "trace_id", "time_quality", "actor", "place"}
    if known is not None and known.model_dump(exclude=same) == word.model_dump(exclude=same):
        return "before"
    word = word.model_copy(update={"place": "server", "tick": next_tick([known] if known else [])})
    signal: Signal | None = None
    if not word.cancelled and (word.end is None or (known and known.end is None)):
        signal = "maintenance_ended" if word.end else "maintenance_started"
    _keep(conn, device, word, signal, at)
    return "new"


def _keep(conn: Connection, device: str, word: Maintenance, signal: Signal | None, at: datetime) -> None:
    maintenance.put(conn, word, via="server", received_at=at)
    _tell(conn, device, SetMaintenance(window=word), word.actor, at)
    what = "cancelled" if word.cancelled else "ended" if signal == "maintenance_ended" else "set"
    decisions.record(
        conn, "maintenance", str(word.maintenance_id), what, f"by {word.actor}", word.model_dump(mode="json")
    )
    if signal:
        _note(conn, signal, word, at)
    if word.part_replaced and word.end is not None:
        _note(conn, "part_used", word, at, detail=word.part_replaced)


def _tell(conn: Connection, device: str, body: CommandBody, actor: str, at: datetime) -> None:
    send(conn, device, body, at + DEADLINE, by=actor)


def _note(conn: Connection, signal: Signal, about: AlarmAction | Maintenance, at: datetime, **more: Any) -> None:
    """The same signal of the same thing is one, whatever brought it."""
    is_action = isinstance(about, AlarmAction)
    key = about.action_id if isinstance(about, AlarmAction) else about.maintenance_id
    said = implicit(
        signal,
        uuid5(NAMESPACE_OID, f"{signal} {key}"),
        person=about.actor,
        asset=about.asset,
        event_id=about.event_id if isinstance(about, AlarmAction) else None,
        about=None if is_action else key,
        made_at=about.made_at,
        **more,
    )
    feedback.insert(conn, said, via="server", received_at=at)
