"""The device says how it is: a heartbeat, with the outbox's own count taken just before."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from models.contract.base import ModelRef, Stream, TimeQuality
from models.contract.ids import new_epoch, new_trace_id
from models.contract.messages import AssetHealth, Heartbeat, Step, StreamCount

STARTED_FROM = datetime(2026, 1, 1, tzinfo=UTC)  # a clock before this program was written is wrong


class Health:
    """Counters of everything that was dropped or refused, and the heartbeat that tells of them."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._began = time.monotonic()
        self._due = 0.0
        self.boot = new_epoch()
        self.counters: Counter[str] = Counter()

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._due

    def beat(
        self,
        running: ModelRef,
        step: Step,
        assignment: int,
        outbox: dict[Stream, StreamCount],
        assets: dict[str, AssetHealth],
        latencies: tuple[float, float] | None,
    ) -> Heartbeat:
        """The next heartbeat; the one after it is due `every_s` from now."""
        self._due = time.monotonic() + self._every_s
        return Heartbeat(
            trace_id=new_trace_id(),
            made_at=datetime.now(UTC),
            time_quality=time_quality(),
            agent_version=agent_version(),
            boot=self.boot,
            uptime_s=time.monotonic() - self._began,
            running=running,
            step=step,
            assignment=assignment,
            outbox=outbox,
            assets=assets,
            latency_us_p50=latencies[0] if latencies else None,
            latency_us_p99=latencies[1] if latencies else None,
            rss_bytes=rss_bytes(),
            counters={name: n for name, n in self.counters.items() if n},
        )


def time_quality() -> TimeQuality:
    """What can be told without asking anybody: systemd-timesyncd leaves a mark once it has synchronised."""
    if datetime.now(UTC) < STARTED_FROM:
        return TimeQuality.UNSYNCED
    return TimeQuality.SYNCED if Path("/run/systemd/timesync/synchronized").exists() else TimeQuality.UNKNOWN


def agent_version() -> str:
    try:
        return version("pdm-loop")
    except PackageNotFoundError:  # run from a checkout
        return "0"


def rss_bytes() -> int:
    """Memory now where /proc tells, else its peak."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
