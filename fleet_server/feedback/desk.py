"""What a technician's phone is shown: machines, alarms with why, and what became of what was said."""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from fleet_server.feedback import questions, satisfaction
from fleet_server.store import alarm_actions, devices, events, maintenance, outcomes
from fleet_server.store.outcomes import OutcomeRow
from fleet_server.store.pool import Connection
from models.alarms import state
from models.contract.alarms import AlarmAction, Maintenance
from models.contract.events import AlarmEvent
from models.contract.health import AssetHealth
from models.contract.labels import LABELS_VERSION, taxonomy
from models.contract.messages import Annotation
from models.form import api, speech

ALARMS, OUTCOMES = 40, 50  # the newest; the bootstrap leaves out more where they do not fit
RECENT: Final = timedelta(days=14)  # alarms that are over


def bootstrap(
    conn: Connection,
    lang: str,
    *,
    known_labels: int = 0,
    hall: str | None = None,
    sign_in: bool = False,
    me: api.Person | None = None,
) -> api.Bootstrap:
    """Everything that the form needs until the next one, for who is signed in; where people sign in and nobody has, or
    the session is locked, next to nothing.

    Args:
        known_labels: the taxonomy that the phone has.
    """
    now, person = datetime.now(UTC), me.person if me else None
    door = api.Bootstrap(
        host="server",
        name="fleet server",
        now=now,
        sign_in="enrolled" if sign_in else "none",
        me=me,
        taxonomy=None if known_labels == LABELS_VERSION else taxonomy(),
        policy=speech.policy(lang),
    )
    if sign_in and (me is None or me.locked):
        return door
    served = _maintained(conn, now)
    health: dict[str, AssetHealth] = {}
    assets = []
    for device in devices.listing(conn):
        said = (device.heartbeat or {}).get("assets", {})
        for name in device.assets:
            each = health[name] = AssetHealth.model_validate(said.get(name, {}))
            if hall is None or each.hall == hall:
                assets.append(_asset(name, device.device_id, each, served.get(name), known=name in said))
    shown = {asset.id: health[asset.id] for asset in assets}
    asked = questions.open_for(conn, shown, now, person=person)
    blind = {question.event_id for question in asked if question.blind}
    recent = events.recent(conn, since=now - RECENT, limit=ALARMS, person=person)
    recent = [row for row in recent if row.asset_id in shown]
    done = alarm_actions.of_events(conn, [row.event_id for row in recent])
    quiet = maintenance.suppressions(conn, holding_at=now, limit=1000)
    by_verdict = {each.annotation_id for each in quiet}
    said = outcomes.newest(conn, OUTCOMES, annotator=person)
    return api.fit(
        door.model_copy(
            update={
                "assets": tuple(assets),
                "alarms": tuple(
                    _alarm(
                        row,
                        lang,
                        health,
                        blind=row.event_id in blind,
                        actions=done.get(row.event_id, ()),
                        suppressed=any(each.event_id == row.event_id for each in quiet),
                    )
                    for row in recent
                ),
                "questions": tuple(speech.question_view(question, lang) for question in asked),
                "outcomes": tuple(_outcome(row, lang, by_verdict) for row in said),
                "satisfaction": satisfaction.due(conn, lang, now, person),
            }
        )
    )


def history(
    conn: Connection, lang: str, *, limit: int, before: datetime | None, person: str | None = None
) -> api.History:
    """What this person (None: everybody) said, and what became of it."""
    rows = outcomes.newest(conn, limit + 1, annotator=person, before=before)
    quiet = {each.annotation_id for each in maintenance.suppressions(conn, holding_at=datetime.now(UTC), limit=1000)}
    return api.History(outcomes=tuple(_outcome(row, lang, quiet) for row in rows[:limit]), more=len(rows) > limit)


def _maintained(conn: Connection, now: datetime) -> dict[str, Maintenance]:
    """Machines that are worked on now: the window that began first."""
    running: dict[str, Maintenance] = {}
    for window in maintenance.listing(conn, now_or_later=now, limit=1000):
        if window.start <= now and (window.end is None or now < window.end):
            running[window.asset] = window  # the latest start comes first
    return running


def _asset(name: str, device: str, health: AssetHealth, served: Maintenance | None, *, known: bool) -> api.AssetView:
    return api.AssetView(
        id=name,
        kind=health.kind,
        hall=health.hall,
        code=api.short_code(name, health.code),
        device=device,
        state=health.state if known else "unknown",
        alarm=health.alarm,
        score=health.score,
        last_sample_at=health.last_sample_at,
        maintenance_since=served.start if served else None,
        maintenance_id=served.maintenance_id if served else None,
    )


def _alarm(
    row: events.RecentRow,
    lang: str,
    health: dict[str, AssetHealth],
    *,
    blind: bool,
    actions: Sequence[AlarmAction],
    suppressed: bool,
) -> api.AlarmView:
    asset = health.get(row.asset_id)
    end = row.cleared_at or row.updated_at
    if row.cleared_at is None and asset and asset.last_sample_at:
        end = max(end, asset.last_sample_at)
    event = AlarmEvent.model_validate(row.body)
    return speech.alarm_view(
        event,
        lang,
        device=row.device_id,
        open=row.cleared_at is None,
        end=end,
        score=row.score,
        units={signal.name: signal.unit for signal in asset.signals} if asset else {},
        blind=blind,
        answered=row.annotations > 0,
        state=state(actions, event.severity),
        suppressed=suppressed,
    )


def _outcome(row: OutcomeRow, lang: str, quiet: Set[UUID]) -> api.OutcomeView:
    """`quiet`: annotations that put an alarm to rest on its device."""
    model = None
    if row.model_name is not None and row.model_version is not None:
        model = api.ModelView(name=row.model_name, version=row.model_version, released=bool(row.released))
    return speech.outcome_view(
        Annotation.model_validate(row.body),
        lang,
        state="stored",
        status=row.status,
        reason=row.reason,
        model=model,
        suppressed=row.annotation_id in quiet,
    )
