"""What agents' forms are told: what became of what was said there, and what to ask. A command of which only the newest
counts, sent when it says something else than the last one.

A turn looks at the devices of which something has come since the last one; and at one in TURNS of all the others, for
what changes by itself: a day that is over, a model that has been released somewhere else.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta
from typing import Final

from fleet_server.commands import send
from fleet_server.feedback import intake, questions, repairs
from fleet_server.loop import Loop
from fleet_server.store import commands, devices, outcomes
from fleet_server.store.devices import DeviceRow
from fleet_server.store.pool import Connection, Pool
from models.contract.commands import FormNews
from models.contract.health import AssetHealth
from models.contract.people import Verdicted

EVERY_S: Final = 10.0
TURNS: Final = 60
OVERLAP: Final = timedelta(minutes=1)  # what was written then may have been committed since
OUTCOMES: Final = 50
DEADLINE: Final = timedelta(days=30)
SEEN: Final = timedelta(days=30)  # a device that was not heard of for longer is told when it is back
REFUSED_FOR: Final = timedelta(days=1)  # an older agent does not know this command: not asked more often


class NewsLoop(Loop):
    """Every few seconds: what was held for want of windows is looked at again, repairs are judged; devices whose news
    have changed are told."""

    def __init__(self, pool: Pool, every_s: float = EVERY_S) -> None:
        super().__init__("news", every_s)
        self._pool = pool
        self._turn, self._looked_at = 0, datetime.now(UTC)
        self.looked = 0  # at how many devices in the last turn

    def turn(self) -> int:
        """One turn; how many devices were told. Raises what the database raises."""
        now, told = datetime.now(UTC), 0
        with self._pool.connection() as conn:
            intake.measured_since(conn, now)
            repairs.look(conn, now)
        with self._pool.connection() as conn:
            known = outcomes.devices_heard_of(conn, now - SEEN)
            fresh = frozenset(outcomes.devices_with_news(conn, self._looked_at - OVERLAP))
        turn = self._turn % TURNS
        due = [each for each in known if each in fresh or zlib.crc32(each.encode()) % TURNS == turn]
        for device_id in due:
            with self._pool.connection() as conn:
                told += any(tell(conn, row, now) for row in devices.listing(conn, device_id) if row.heartbeat)
        self._turn, self._looked_at, self.looked = self._turn + 1, now, len(due)
        return told


def tell(conn: Connection, device: DeviceRow, now: datetime) -> bool:
    """False: it knows all of this, or does not want to."""
    body = news(conn, device, now)
    last = commands.newest_of(conn, device.device_id, "form_news")
    known = FormNews().model_dump(mode="json") if last is None else last.body
    if known == body.model_dump(mode="json"):
        return False
    if last and last.outcome == "refused" and now < last.issued_at + REFUSED_FOR:
        return False
    send(conn, device.device_id, body, now + DEADLINE)
    return True


def news(conn: Connection, device: DeviceRow, now: datetime) -> FormNews:
    said = (device.heartbeat or {}).get("assets", {})
    health = {name: AssetHealth.model_validate(said[name]) for name in device.assets if name in said}
    return FormNews(
        outcomes=tuple(
            Verdicted.model_validate(
                {
                    "annotation_id": row.annotation_id,
                    "status": row.status,
                    "reason": row.reason[:500],
                    "model": row.model_name or "",
                    "version": row.model_version or 0,
                    "released": bool(row.released),
                }
            )
            for row in outcomes.newest(conn, OUTCOMES, via=device.device_id)
        ),
        questions=tuple(questions.open_for(conn, health, now, device=device.device_id)),
    )
