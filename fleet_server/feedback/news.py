"""What agents' forms are told: what became of what was said there, and what to ask. A command of which only the newest
counts, sent when it says something else than the last one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from fleet_server.commands import send
from fleet_server.feedback import intake, questions
from fleet_server.loop import Loop
from fleet_server.store import commands, devices, outcomes
from fleet_server.store.devices import DeviceRow
from fleet_server.store.pool import Connection, Pool
from models.contract.commands import FormNews
from models.contract.messages import AssetHealth
from models.contract.people import Verdicted

EVERY_S: Final = 10.0
OUTCOMES: Final = 50
DEADLINE: Final = timedelta(days=30)
SEEN: Final = timedelta(days=30)  # a device that was not heard of for longer is told when it is back
REFUSED_FOR: Final = timedelta(days=1)  # an older agent does not know this command: not asked more often


class NewsLoop(Loop):
    """Every few seconds: what was held for want of windows is looked at again; devices whose news have changed are
    told."""

    def __init__(self, pool: Pool, every_s: float = EVERY_S) -> None:
        super().__init__("news", every_s)
        self._pool = pool

    def turn(self) -> int:
        """One turn; how many devices were told. Raises what the database raises."""
        now, told = datetime.now(UTC), 0
        with self._pool.connection() as conn:
            intake.measured_since(conn, now)
        with self._pool.connection() as conn:
            rows = [row for row in devices.listing(conn) if row.heartbeat and now - row.last_seen < SEEN]
        for row in rows:
            with self._pool.connection() as conn:
                told += tell(conn, row, now)
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
