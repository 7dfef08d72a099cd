"""The device says how it is: a heartbeat, with the outbox's own count taken just before."""

from __future__ import annotations

import math
import resource
import sys
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_agent.clock import SYSTEM, Clock
from models.contract.base import ModelRef, Stream
from models.contract.ids import new_epoch, new_trace_id
from models.contract.messages import AssetHealth, Heartbeat, Step, StreamCount


class Health:
    """Counters of everything that was dropped or refused, and the heartbeat that tells of them."""

    def __init__(self, every_s: float, clock: Clock = SYSTEM) -> None:
        self._every_s, self._clock = every_s, clock
        self._began = clock.monotonic()
        self._due = -math.inf
        self.boot = new_epoch()
        agent_version()  # read from disk now: later there may be no file descriptor for it
        self.counters: Counter[str] = Counter()

    @property
    def due(self) -> bool:
        return self._clock.monotonic() >= self._due

    def asked(self) -> None:
        """A heartbeat is on its way: the next one is due `every_s` from now."""
        self._due = self._clock.monotonic() + self._every_s

    def ask(self) -> None:
        """Somebody wants to know now."""
        self._due = 0.0

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
            uptime_s=self._clock.monotonic() - self._began,
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


@cache
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
