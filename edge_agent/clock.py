"""What time it is, and what that is worth. Every part of the agent asks here.

Durations are monotonic. Wall time comes with a quality, and never falls below the floor: the last time that was on
disk, carried on by the monotonic clock. The rules of the floor:

1. A synchronised clock moves it, also down: only that overrules what is on disk, and it is counted.
2. A clock that nobody vouches for moves it as far as time went on. A leap forward does not: one wrong second in 2040
   would hold the device there.
3. It is written at most every ten minutes, twice; the higher copy counts, one that cannot be read counts for nothing.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from edge_agent.files import write_whole
from models.contract import ids
from models.contract.base import TimeQuality
from models.contract.health import ClockReport

log = logging.getLogger(__name__)

BUILT: Final = datetime(2026, 1, 1, tzinfo=UTC).timestamp()  # a clock before this program was written is wrong
LOOK_S: Final = 1.0
JUMP_S: Final = 0.02  # reading both clocks is a matter of microseconds, and slewing moves both
WRITE_S: Final = 600.0
OFF_S: Final = 400 * 86400.0  # a device may have been off for so long; a leap beyond is no proof of time gone by
DOUBT_S: Final = 3600.0  # so long after a jump that nobody vouches for, times are doubtful
FILES: Final = ("clock.json", "clock.copy.json")
STA_UNSYNC: Final = 0x40
SYNC_MARK: Final = Path("/run/systemd/timesync/synchronized")


class Clock:
    """One for the whole agent; any thread may ask."""

    def __init__(
        self,
        state_dir: Path | None = None,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        synchronised: Callable[[], bool | None] | None = None,
    ) -> None:
        """Without a folder the floor is this program's age, and nothing is written."""
        self.monotonic, self._wall = monotonic, wall
        self._synchronised = synchronised or kernel_says
        self._dir = state_dir
        self._lock = threading.Lock()
        self.counters: Counter[str] = Counter()
        self._began, now = self._read()
        stored = _stored(state_dir) if state_dir else None
        self._synced = self._synchronised()
        self._offset = self._offset_at_start = now - self._began
        self._rates = deque([0.0] * 9, maxlen=9)  # seconds that the wall gained per second, look by look
        self._looked_at = self._began
        self._jumped_at = -math.inf
        self._base = (max(stored or BUILT, BUILT), self._began)  # the floor, and when it was that
        self._plausible = stored is None or now < stored + OFF_S
        self._written_at = -math.inf
        ids.not_before(self._base[0])
        self._move_floor(self._began, now)

    # -- the time -----------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """Wall time, UTC, never below the floor."""
        return datetime.fromtimestamp(self.time(), UTC)

    def time(self) -> float:
        """The same in epoch seconds."""
        return max(self._wall(), self.at_least())

    def at_least(self) -> float:
        """The floor, in epoch seconds: it moves with the monotonic clock and with nothing that jumps, so ages may be
        told by it."""
        floor, at = self._base
        return floor + self.monotonic() - at

    def past(self) -> datetime:
        """The same as an instant: what has ended by then is over, whatever the wall says."""
        return datetime.fromtimestamp(self.at_least(), UTC)

    @property
    def quality(self) -> TimeQuality:
        """What `now` is worth."""
        if self._wall() < self.at_least() - JUMP_S:
            return TimeQuality.FLOOR
        if self._synced:
            return TimeQuality.SYNCED
        if self.monotonic() - self._jumped_at < DOUBT_S:
            return TimeQuality.JUMPED
        return TimeQuality.UNKNOWN if self._synced is None else TimeQuality.UNSYNCED

    @property
    def doubtful(self) -> bool:
        """Certificates' dates cannot be judged by this clock."""
        return self.quality not in (TimeQuality.SYNCED, TimeQuality.UNKNOWN)

    # -- watching it --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Call it often: once a second it compares the clocks, and now and then it writes the floor."""
        if self.monotonic() - self._looked_at < LOOK_S:
            return
        with self._lock:
            monotonic, wall = self._read()
            self._synced = self._synchronised()
            self._count_jumps(monotonic, wall)
            self._move_floor(monotonic, wall)
            if monotonic - self._written_at > WRITE_S:
                self._write(monotonic)

    def close(self) -> None:
        """Write the floor a last time."""
        with self._lock:
            self._write(self.monotonic())

    def report(self) -> ClockReport:
        """For the heartbeat."""
        return ClockReport(
            offset_s=self._offset - self._offset_at_start,
            drift_ppm=statistics.median(self._rates) * 1e6,
            jumps_forward=self.counters["clock_jumps.forward"],
            jumps_back=self.counters["clock_jumps.back"],
            floor=self.past(),
        )

    def _read(self) -> tuple[float, float]:
        """Both clocks at one moment: read again if something came in between."""
        best = (math.inf, 0.0, 0.0)
        for _ in range(5):
            before, wall = self.monotonic(), self._wall()
            took = self.monotonic() - before
            best = min(best, (took, before, wall))
            if took < 1e-3:
                break
        return best[1:]

    def _count_jumps(self, monotonic: float, wall: float) -> None:
        """A step is what the clock's usual pace does not explain: one that runs ten times too fast drifts."""
        took = max(monotonic - self._looked_at, 1e-9)
        gained = wall - monotonic - self._offset
        step = gained - statistics.median(self._rates) * took
        if abs(step) > JUMP_S + 1e-3 * took:
            way = "forward" if step > 0 else "back"
            self.counters[f"clock_jumps.{way}"] += 1
            self._jumped_at = monotonic
            self._plausible = False
            log.warning("the clock jumped", extra={"by_s": round(step, 3), "synchronised": self._synced})
        self._rates.append(gained / took)
        self._offset, self._looked_at = wall - monotonic, monotonic

    def _move_floor(self, monotonic: float, wall: float) -> None:
        least = self._base[0] + monotonic - self._base[1]
        if self._synced:
            if wall < least - JUMP_S:
                self.counters["clock_floor_overruled"] += 1
                self._written_at = -math.inf
                log.error("synchronised time is below the floor, which moves", extra={"by_s": round(least - wall, 3)})
            self._base, self._plausible = (wall, monotonic), True
        elif self._plausible and wall > least:
            self._base = (wall, monotonic)

    def _write(self, monotonic: float) -> None:
        self._written_at = monotonic
        if self._dir is None:
            return
        try:
            store_floor(self._dir, self._base[0] + monotonic - self._base[1])
        except OSError as exc:  # a full disk is no reason to stop watching machines
            self.counters["clock_floor_unwritten"] += 1
            log.warning("the clock's floor is not on disk", extra={"reason": str(exc)})


def store_floor(state_dir: Path, floor: float) -> None:
    """Write both copies. Raises OSError."""
    for name in FILES:
        write_whole(state_dir / name, json.dumps({"floor": floor}).encode())


def _stored(state_dir: Path) -> float | None:
    """The higher of the copies that can be read."""
    found = []
    for name in FILES:
        try:
            floor = float(json.loads((state_dir / name).read_bytes())["floor"])
            datetime.fromtimestamp(floor, UTC)
            found.append(floor)
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            continue
    return max(found, default=None)


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as it is looked at."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 40),
    )


def kernel_says() -> bool | None:
    """True: the kernel's clock is kept by time synchronisation. None: nobody can tell.

    adjtimex(2) knows of every daemon; where it is not allowed, systemd-timesyncd leaves a mark. Setting the time by
    hand ends the kernel's state, so a clock that was put back is no longer synchronised.
    """
    timex = _Timex()
    try:
        if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) >= 0:
            return not timex.status & STA_UNSYNC
    except (AttributeError, OSError):
        pass  # no Linux
    return True if SYNC_MARK.exists() else None


SYSTEM: Final = Clock()  # for whoever keeps no state
