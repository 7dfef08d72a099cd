"""What a rollout does next, as rules on rows: no database, no clock.

1. A device has tried a release when it says how that ended: verified (active, and running that hash) or harmed
   (rejected, rolled back, could not go back). An order that was never answered is no evidence, and neither are windows
   or pieces that did not come in time. In a rollout to the shadow, to be scored there is all there is to try.
2. More harm than allowed among the devices that tried stops the rollout, in any state, also while it is paused.
3. The next wave starts when each device of this one has tried, and the soak time has passed since.
4. A device that does not answer within the deadline is counted apart: it blocks nobody and proves nothing. A wave in
   which nobody verified pauses the rollout.
5. A device that has newer orders is out of it: the last sequence wins.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from fleet_server.config import Rollouts
from fleet_server.errors import Refused
from fleet_server.store.rollouts import AssignmentRow, RolloutRow
from models.contract.release import Cause, Step


class Standing(enum.StrEnum):
    """Where one device is with one order."""

    PLANNED = "planned"
    WAITING = "waiting"
    VERIFIED = "verified"
    HARMED = "harmed"
    SHADOWED = "shadowed"
    APART = "apart"
    SUPERSEDED = "superseded"


# Ended without the release having shown anything.
_NO_HARM: Final[dict[str, Standing]] = {
    Cause.TIMEOUT: Standing.APART,
    Cause.SUPERSEDED: Standing.SUPERSEDED,
}


class Do(enum.StrEnum):
    WAIT = "wait"
    ISSUE = "issue"  # sign the orders of this wave
    SOAK = "soak"  # this wave is done: note the time
    NEXT = "next"  # go to the next wave
    FINISH = "finish"
    PAUSE = "pause"
    STOP = "stop"  # bar the release and bring everybody back


@dataclass(frozen=True)
class Next:
    """What to do, and why, in words for people."""

    do: Do
    reason: str


def standing(row: AssignmentRow, now: datetime, deadline_s: float) -> Standing:
    """Harm and success count whatever came after them."""
    if row.step in (Step.REJECTED, Step.ROLLED_BACK, Step.INCONSISTENT):
        return _NO_HARM.get(row.cause or "", Standing.HARMED)
    if row.mode == "shadow" and row.step in (Step.SHADOW, Step.SHADOWED):
        return Standing.SHADOWED
    if row.step == Step.ACTIVE or row.running:
        return Standing.VERIFIED
    if row.superseded:
        return Standing.SUPERSEDED
    if row.issued_at is None:
        return Standing.PLANNED
    return Standing.APART if now - row.issued_at > timedelta(seconds=deadline_s) else Standing.WAITING


def count(rows: Sequence[AssignmentRow], now: datetime, deadline_s: float) -> dict[str, int]:
    """Devices by standing, each one named, also those of which there are none."""
    found = [standing(row, now, deadline_s) for row in rows]
    return {each.value: found.count(each) for each in Standing}


def decide(rollout: RolloutRow, rows: Sequence[AssignmentRow], now: datetime, rules: Rollouts) -> Next:
    """The one thing to do now."""
    stands = {row.device_id: standing(row, now, rules.deadline_s) for row in rows}
    harmed = [row for row in rows if stands[row.device_id] is Standing.HARMED]
    tried = len(harmed) + sum(1 for each in stands.values() if each is Standing.VERIFIED)
    if rollout.mode == "trial" and harmed and len(harmed) / tried > rules.max_harm_share:
        what = "; ".join(f"{row.device_id} {row.step}: {row.reason}".rstrip(": ") for row in harmed[:3])
        return Next(Do.STOP, f"{len(harmed)} of {tried} devices that tried it were harmed ({what})"[:500])
    if rollout.state == "paused":
        return Next(Do.WAIT, "paused")
    wave = [stands[row.device_id] for row in rows if row.wave == rollout.wave]
    if Standing.PLANNED in wave:
        return Next(Do.ISSUE, f"wave {rollout.wave} of {rollout.n_waves} starts")
    if waiting := wave.count(Standing.WAITING):
        return Next(Do.WAIT, f"wave {rollout.wave}: {waiting} of {len(wave)} have not answered yet")
    proved = Standing.VERIFIED in wave or all(each is Standing.SUPERSEDED for each in wave)
    last = rollout.wave == rollout.n_waves
    if rollout.mode == "trial" and not proved:
        return Next(Do.PAUSE, f"nobody of wave {rollout.wave} verified it: {wave.count(Standing.APART)} did not answer")
    if rollout.wave_done_at is None:
        return Next(Do.SOAK, f"wave {rollout.wave} of {rollout.n_waves} is done")
    if rollout.mode == "trial" and now - rollout.wave_done_at < timedelta(seconds=rules.soak_s):
        return Next(Do.WAIT, f"wave {rollout.wave} soaks")
    if not last:
        return Next(Do.NEXT, f"wave {rollout.wave} is verified")
    total = count(rows, now, rules.deadline_s)
    return Next(Do.FINISH, ", ".join(f"{n} {name}" for name, n in total.items() if n) or "no device")


def split(devices: Sequence[str], waves: str) -> list[list[str]]:
    """Devices in waves. "1,4" is one device, then four more; "20%,100%" is a fifth of all, then up to all. Whoever is
    in no wave is not part of the rollout.

    Raises:
        Refused: not such a list, or a wave in which nobody would be.
    """
    parts: list[list[str]] = []
    done = 0
    for word in (part.strip() for part in waves.split(",")):
        number = word.removesuffix("%")
        if not number.isdecimal() or int(number) == 0 or (word != number and int(number) > 100):
            raise Refused(f"waves are counts or shares, such as 1,4 or 20%,100%, not {waves!r}")
        upto = math.ceil(len(devices) * int(number) / 100) if word != number else done + int(number)
        if not (part := list(devices[done:upto])):
            raise Refused(f"nobody is left for wave {len(parts) + 1} ({word}): there are {len(devices)} devices")
        parts.append(part)
        done += len(part)
    return parts
