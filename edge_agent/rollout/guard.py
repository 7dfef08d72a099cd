"""Keeps a loop from turning for ever: counts switches, falls of the agent, and who ran when it fell.

By uptime alone, for a device's clock may be wrong: an hour of calm, and everything before is forgotten. A fall is an
end that was not a clean stop: a crash, the kernel's memory killer, a watchdog, a power cut.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Final

from edge_agent.bundles import Memory
from edge_agent.clock import Clock
from models.contract.release import Cause, Evidence

CALM_S: Final = 3600.0  # so long without a switch or a fall, and both are forgotten
SETTLE_S: Final = 600.0  # a bundle that ran so long in one go is not blamed for falls any more
MAX_SWITCHES: Final = 10
MAX_FALLS: Final = 3
MAX_KILLS: Final = 2  # falls during the trial, the shadow or the check of the same release
FIRST_WAIT_S: Final = 60.0  # doubled with each one too many
LONGEST_WAIT_S: Final = 3600.0


class Guard:
    """One device's counts, on disk."""

    def __init__(self, memory: Memory, clock: Clock) -> None:
        self._memory, self._clock = memory, clock
        self._since = self._clock.monotonic()  # of the last switch, or the start
        self._settled = False

    def start(self) -> bool:
        """Note that the agent runs. True: the last one fell."""
        fell = bool(self._memory.get("alive", False))
        with contextlib.suppress(OSError, sqlite3.OperationalError):  # a full disk is no reason not to start
            self._memory.set(alive=True, falls=lambda n: (n or 0) + 1 if fell else 0)
        return fell

    def stop(self) -> None:
        """A clean end."""
        self._memory.set(alive=False)

    @property
    def falls(self) -> int:
        """In a row."""
        return int(self._memory.get("falls", 0))

    def blames(self, sha256: str) -> bool:
        """True: the agent fell again and again, and this bundle has never run for long."""
        return self.falls >= MAX_FALLS and sha256 not in self._memory.get("settled", [])

    def after(self, sha256: str, fell: bool, where: str) -> tuple[str, Evidence]:
        """What a restart says of the release that was `where` then: in words, and as a cause."""
        if fell:
            self._memory.set(kills=lambda kills: {**(kills or {}), sha256: (kills or {}).get(sha256, 0) + 1})
        kills = (self._memory.get("kills") or {}).get(sha256, 0)
        cause, reason = Cause.RESTART, f"the agent was restarted while it was {where}"
        if fell and kills >= MAX_KILLS:
            cause, reason = Cause.KILLED, f"the agent was killed {kills} times while it was {where}"
        return reason, Evidence(cause=cause, after=kills, allowed=MAX_KILLS - 1, unit="kills")

    def switched(self) -> None:
        """A model was taken up or sent away."""
        self._since, self._settled = self._clock.monotonic(), False
        self._memory.set(switches=lambda n: (n or 0) + 1)

    def wait_s(self) -> float:
        """How long the next release has to wait; 0: it may come."""
        n = max(self.falls - MAX_FALLS + 1, 0) + max(self._memory.get("switches", 0) - MAX_SWITCHES + 1, 0)
        if n <= 0:
            return 0.0
        wait: float = min(FIRST_WAIT_S * 2 ** min(n - 1, 20), LONGEST_WAIT_S)
        return max(0.0, self._since + wait - self._clock.monotonic())

    def why(self) -> str:
        return f"{self._memory.get('switches', 0)} switches and {self.falls} falls of the agent in a short time"

    def turn(self, running: str) -> None:
        """Forget what is long past; cheap enough for each turn of the loop."""
        calm_s = self._clock.monotonic() - self._since
        if calm_s > SETTLE_S and not self._settled:
            self._settled = True
            self._memory.set(settled=lambda known: [*(known or []), running][-20:], falls=0)
        if calm_s > CALM_S and self._memory.get("switches", 0):
            self._memory.set(switches=0)
