"""How much may be sent: bytes a day and a month, and a rate. What is least urgent stops first.

As the share of a budget that is used rises, raw stops, then telemetry and attachments, then health. Alarms and
annotations always go, and what they take beyond the budget is counted. The days and months are UTC's.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from datetime import datetime
from typing import Any, Final

from edge_agent.clock import Clock
from edge_agent.config import UplinkSettings
from edge_agent.outbox import Outbox
from models.contract.base import Stream
from models.contract.commands import SetBudget

log = logging.getLogger(__name__)

STOPS_AT: Final = {Stream.RAW: 0.5, Stream.TELEMETRY: 0.75, Stream.ATTACHMENT: 0.75, Stream.HEALTH: 0.95}
BURST_S: Final = 2.0  # of the rate: so much may go at once after a pause
WRITE_BYTES: Final = 20_000  # used since it was last written: at most so much is forgotten in a power cut


class Budget:
    """Of one device. Not for several threads, except `set`."""

    def __init__(self, settings: UplinkSettings, outbox: Outbox, counters: Counter[str], clock: Clock) -> None:
        self._outbox, self._counters, self._clock = outbox, counters, clock
        ordered = json.loads(outbox.remember("budget") or "{}")
        self._limits = SetBudget.model_validate(ordered or settings.model_dump(include=set(SetBudget.model_fields)))
        self._used: dict[str, Any] = json.loads(outbox.remember("usage") or "{}")
        self._unwritten = 0
        self._tokens, self._filled_at = 0.0, clock.monotonic()

    def set(self, limits: SetBudget, db: sqlite3.Connection) -> str:
        """Ordered by the server; kept from now on. Inside a transaction of the outbox."""
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('budget', ?)", (limits.model_dump_json(),))
        self._limits = limits
        day, month = self._today()
        return f"used {self._used.get(day, 0)} bytes today, {self._used.get(month, 0)} this month"

    def used_share(self) -> float:
        """Of the day's or the month's bytes, whichever is nearer to its end; 0: there is no limit."""
        shares = [
            self._used.get(period, 0) / limit
            for period, limit in zip(
                self._today(), (self._limits.bytes_per_day, self._limits.bytes_per_month), strict=True
            )
            if limit
        ]
        return max(shares, default=0.0)

    def allows(self, stream: Stream) -> bool:
        """One more message of this stream may go now."""
        if stream not in STOPS_AT:
            return True
        return self._rate_allows() and self.used_share() < STOPS_AT[stream]

    def spend(self, n_bytes: int) -> None:
        """So much went over the link, in either direction."""
        if n_bytes <= 0:
            return
        self._tokens -= n_bytes
        self._unwritten += n_bytes
        day, month = self._today()
        self._used = {period: self._used.get(period, 0) + n_bytes for period in (day, month)}
        if self.used_share() > 1:
            self._counters["bytes_over_budget"] += n_bytes

    def write(self, db: sqlite3.Connection | None = None) -> None:
        """Have it on disk, in a transaction that is made anyway, or when much is not."""
        if db is None and self._unwritten < WRITE_BYTES:
            return
        text, self._unwritten = json.dumps(self._used), 0
        if db:
            db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('usage', ?)", (text,))
        else:
            self._outbox.remember("usage", text)

    def _rate_allows(self) -> bool:
        if not self._limits.kbit_per_s:
            return True
        rate, now = self._limits.kbit_per_s * 125, self._clock.monotonic()
        self._tokens = min(self._tokens + (now - self._filled_at) * rate, BURST_S * rate)
        self._filled_at = now
        return self._tokens > 0

    def _today(self) -> tuple[str, str]:
        now: datetime = self._clock.now()
        return f"{now:%Y-%m-%d}", f"{now:%Y-%m}"
