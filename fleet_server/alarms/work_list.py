"""The cases of the fleet, ranked by need: one an asset and family, whatever number of alarms it has had."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from fleet_server.alarms import desk, rank
from fleet_server.store import devices, events, maintenance
from fleet_server.store.events import EventRow
from fleet_server.store.pool import Connection
from models.alarms import AlarmState, mutes
from models.contract.health import AssetHealth

RECENT: Final = timedelta(days=14)  # alarms that are over and that nobody has judged stay for so long
MOST: Final = 1000  # alarms looked at


@dataclass(frozen=True)
class Case:
    """One thing to take care of. `event` is its alarm that is active, else the newest; `others` its earlier ones."""

    asset: str
    family: str
    device: str
    need: float
    reasons: list[rank.Reason]
    event: EventRow
    others: list[UUID]
    state: AlarmState
    criticality: str
    maintenance: UUID | None


def work_list(
    conn: Connection, now: datetime, *, asset: str | None = None, assigned_to: str | None = None, limit: int = 100
) -> list[Case]:
    """The neediest first."""
    health = _health(conn)
    rows = events.to_do(conn, since=now - RECENT, asset_id=asset, limit=MOST)
    states = desk.states(conn, rows)
    muted = {name: mutes(maintenance.listing(conn, name, now_or_later=now), now) for name in {r.asset_id for r in rows}}
    grouped: dict[tuple[str, str], list[EventRow]] = defaultdict(list)
    for row in rows:
        grouped[row.asset_id, row.family].append(row)
    cases = []
    for (name, family), of_case in grouped.items():
        of_case.sort(key=lambda row: (row.cleared_at is not None, -row.raised_at.timestamp()))
        first, state, window = of_case[0], states[of_case[0].event_id], muted[name]
        known = health.get(name, AssetHealth())
        facts = rank.Facts(
            severity=first.severity,
            score=first.score,
            active=first.cleared_at is None,
            raised_at=first.raised_at,
            repeats=sum(row.repeats for row in of_case) - 1,
            label_status=first.label_status,
            annotations=first.annotations,
            muted=window is not None or first.muted,
            criticality=known.criticality,
            last_data=known.last_sample_at,
            state=state,
        )
        need, reasons = rank.need(facts, now)
        others = [row.event_id for row in of_case[1:]]
        window_id = window.maintenance_id if window else None
        cases.append(
            Case(name, family, first.device_id, need, reasons, first, others, state, known.criticality, window_id)
        )
    found = [each for each in cases if assigned_to is None or each.state.assigned_to == assigned_to]
    found.sort(key=lambda each: (-each.need, each.asset, each.family))
    return found[:limit]


def _health(conn: Connection) -> dict[str, AssetHealth]:
    """What each device said last of its assets."""
    found: dict[str, AssetHealth] = {}
    for device in devices.listing(conn):
        for name, said in ((device.heartbeat or {}).get("assets", {})).items():
            if name in device.assets:
                found[name] = AssetHealth.model_validate(said)
    return found
