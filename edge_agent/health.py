"""The device says how it is: a heartbeat, with the outbox's own count taken just before."""

from __future__ import annotations

import math
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_agent.clock import SYSTEM, Clock
from edge_agent.state import agent_version
from models.contract.base import ModelRef, Stream
from models.contract.health import AssetHealth, Heartbeat, StreamCount
from models.contract.ids import new_epoch, new_trace_id
from models.contract.messages import Step

SOON_S: Final = 10.0  # between two heartbeats, whatever changes
QUIET_S: Final = 1800.0  # while nothing does: that the device is there at all is told by its session


class Health:
    """Counters of everything that was dropped or refused, and the heartbeat that tells of them."""

    def __init__(self, every_s: float | None, clock: Clock = SYSTEM) -> None:
        """`every_s` None: soon after something has changed, and now and then while nothing does."""
        self._clock = clock
        self.every(every_s)
        self._mark: object = None
        self._soon = -math.inf
        self._began = clock.monotonic()
        self._due = -math.inf
        self.boot = new_epoch()
        agent_version()  # read from disk now: later there may be no file descriptor for it
        self.counters: Counter[str] = Counter()

    def due(self, mark: Callable[[], object]) -> bool:
        """A heartbeat is to be made now, and is on its way. `mark`: what must not change without one; asked for now and
        then only."""
        now = self._clock.monotonic()
        if now < min(self._soon, self._due):
            return False
        before, self._mark = self._mark, mark()
        if now < self._due and self._mark == before:
            self._soon = now + self._soon_s
            return False
        self._soon, self._due = now + self._soon_s, now + self._every_s
        return True

    def every(self, every_s: float | None) -> None:
        """As at the start, from the next heartbeat on."""
        self._every_s, self._soon_s = every_s or QUIET_S, every_s or SOON_S

    @property
    def uptime_s(self) -> float:
        return self._clock.monotonic() - self._began

    def ask(self) -> None:
        """Somebody wants to know now."""
        self._due = -math.inf

    def beat(
        self,
        running: ModelRef,
        step: Step,
        assignment: int,
        outbox: dict[Stream, StreamCount],
        assets: dict[str, AssetHealth],
        latencies: tuple[float, float] | None,
    ) -> Heartbeat:
        """How it is now."""
        return Heartbeat(
            trace_id=new_trace_id(),
            made_at=self._clock.now(),
            time_quality=self._clock.quality,
            agent_version=agent_version(),
            boot=self.boot,
            every_s=self._every_s,
            uptime_s=self.uptime_s,
            running=running,
            step=step,
            assignment=assignment,
            outbox=outbox,
            assets=assets,
            latency_us_p50=latencies[0] if latencies else None,
            latency_us_p99=latencies[1] if latencies else None,
            rss_bytes=rss_bytes(),
            clock=self._clock.report(),
            counters={name: n for name, n in (self.counters + self._clock.counters).items() if n},
        )


def rss_bytes() -> int:
    """Memory now where /proc tells, else its peak."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
