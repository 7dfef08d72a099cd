"""Which case needs somebody first, in points, each with its reason.

| points | for |
|---|---|
| 40, 20, 8 | severity stop, major, minor or not known |
| 0 to 10 | the score |
| 10 | it is still active |
| 15 | nobody has acknowledged it |
| 1 an hour, to 10 | how long nobody has |
| 10 each | level of escalation |
| 2 each, to 10 | times that it came back, and other alarms of the same case |
| 8 | people disagree, or a second opinion is needed |
| 5 | nobody has said what it was |
| 5 a day, to 15 | days without data of the machine |

Times 1.5 where much depends on the machine, 0.6 where little does; times 0.1 while it is snoozed, dismissed or in
maintenance: it stays in the list, below what is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from models.alarms import AlarmState
from models.contract.alarms import Criticality

SEVERITY: Final = {"stop": 40.0, "major": 20.0, "minor": 8.0}
CRITICALITY: Final[dict[Criticality, float]] = {"high": 1.5, "normal": 1.0, "low": 0.6}
ASIDE: Final = 0.1


@dataclass(frozen=True)
class Reason:
    """`points` as they count, before what multiplies them; a multiplier has `times` instead."""

    what: str
    text: str
    points: float = 0.0
    times: float = 1.0


@dataclass(frozen=True)
class Facts:
    """What is known of a case."""

    severity: str | None
    score: float
    active: bool
    raised_at: datetime
    repeats: int  # times raised, beyond the first, over all alarms of the case
    label_status: str | None
    annotations: int
    muted: bool
    criticality: Criticality
    last_data: datetime | None
    state: AlarmState


def need(facts: Facts, now: datetime) -> tuple[float, list[Reason]]:
    """Points, and the reasons, the heaviest first."""
    found: list[Reason] = []

    def add(points: float, what: str, text: str) -> None:
        if points > 0:
            found.append(Reason(what, text, round(points, 1)))

    add(SEVERITY.get(facts.severity or "minor", 8.0), "severity", f"severity {facts.severity or 'not known'}")
    add(10 * facts.score, "score", f"score {facts.score:.2f}")
    add(10.0 * facts.active, "active", "still active")
    hours = max(timedelta(0), now - facts.raised_at) / timedelta(hours=1)
    if facts.state.acknowledged is None:
        add(15.0, "unacknowledged", "nobody has acknowledged it")
        add(min(10.0, hours), "age", f"for {_span(hours)}")
    add(10.0 * facts.state.level, "escalated", f"escalated to level {facts.state.level}")
    add(min(10.0, 2.0 * facts.repeats), "repeats", f"came back {facts.repeats} times")
    if facts.label_status == "held":
        add(8.0, "question", "people disagree, or a second opinion is needed")
    elif facts.label_status is None and not facts.annotations:
        add(5.0, "question", "nobody has said what it was")
    if facts.last_data is not None and (days := (now - facts.last_data) / timedelta(days=1)) >= 1:
        add(min(15.0, 5.0 * days), "no data", f"no data for {_span(24 * days)}")
    total = sum(reason.points for reason in found)
    found.sort(key=lambda reason: -reason.points)
    if (times := CRITICALITY[facts.criticality]) != 1.0:
        found.append(Reason("criticality", f"criticality {facts.criticality}", times=times))
    if facts.muted:
        found.append(Reason("maintenance", "in maintenance", times=ASIDE))
    elif facts.state.dismissed:
        found.append(Reason("dismissed", f"dismissed by {facts.state.dismissed.by}", times=ASIDE))
    elif facts.state.snoozed_until and now < facts.state.snoozed_until:
        found.append(Reason("snoozed", f"snoozed until {facts.state.snoozed_until:%Y-%m-%d %H:%M} UTC", times=ASIDE))
    for reason in found:
        total *= reason.times
    return round(total, 1), found


def _span(hours: float) -> str:
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
