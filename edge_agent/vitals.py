"""Whether every part makes progress. A part that stands still is worse than one that died: nobody sees it.

Each loop calls its pulse every turn. One that has not for too long ends the process, which a service manager starts
anew; and systemd's watchdog is kept quiet only while all of them move, so a process that can not end is ended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from edge_agent import systemd
from edge_agent.clock import Clock

Pulse = Callable[[], object]
STALL_S: Final = 60.0
LONGER_S: Final = {"rollout": 300.0}  # checking a release is loading it and scoring its canary in a process of its own
AWAY_S: Final = 2.0  # between two looks: this process was stopped, or the machine slept
LINES_UP_S: Final = 5.0  # the status line for `systemctl status`, at most so often


def no_pulse() -> None:
    """For a loop that nobody watches."""


class Vitals:
    """The main loop looks; the others have a pulse."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._beats: dict[str, float] = {}
        self._looked_at = self._kicked_at = self._told_at = clock.monotonic()
        self._every_s = (systemd.watchdog_s() or 0.0) / 3

    def pulse(self, part: str) -> Pulse:
        """To be called by the part's loop, every turn. It is watched from now on."""
        self._beat(part)
        return partial(self._beat, part)

    def over(self, part: str) -> None:
        """It has ended, as it should."""
        with self._lock:
            self._beats.pop(part, None)

    def look(self, status: Callable[[], str] = str) -> str | None:
        """Keep the watchdog quiet; or which part stands still."""
        now = self._clock.monotonic()
        away, self._looked_at = now - self._looked_at, now
        with self._lock:
            if away > AWAY_S:  # all of them stood still, this loop too
                self._beats = {part: at + away for part, at in self._beats.items()}
            still = [part for part, at in self._beats.items() if now - at > LONGER_S.get(part, STALL_S)]
        if still:
            return still[0]
        if self._every_s and now - self._kicked_at > self._every_s:
            self._kicked_at = now
            systemd.notify(systemd.ALIVE)
        if now - self._told_at > LINES_UP_S and os.environ.get("NOTIFY_SOCKET"):
            self._told_at = now
            systemd.notify(f"STATUS={status()}")
        return None

    def _beat(self, part: str) -> None:
        with self._lock:
            self._beats[part] = self._clock.monotonic()
