"""A heartbeat comes soon after a change, and seldom without one."""

from __future__ import annotations

from edge_agent.clock import Clock
from edge_agent.health import QUIET_S, SOON_S, Health


def beats(every_s: float | None, changes: dict[int, str], seconds: int) -> list[int]:
    """When there was one; what changes when."""
    now, mark = [0.0], "as it was"
    health = Health(every_s, Clock(wall=lambda: 1.8e9 + now[0], monotonic=lambda: now[0], synchronised=lambda: True))
    found = []
    for second in range(seconds):
        now[0], mark = float(second), changes.get(second, mark)
        if changes.get(second) == "asked":
            health.ask()
        if health.due(lambda mark=mark: mark):
            found.append(second)
    return found


def test_a_quiet_device_beats_every_half_hour_and_after_a_change() -> None:
    assert beats(None, {}, 4000) == [0, QUIET_S, 2 * QUIET_S]
    changed = beats(None, {100: "alarm", 103: "another", 106: "and another"}, 1000)
    assert changed[0] == 0
    assert 100 <= changed[1] <= 100 + SOON_S
    assert len(changed) <= 3


def test_a_device_that_was_told_how_often_beats_so_often() -> None:
    assert beats(5, {}, 21) == [0, 5, 10, 15, 20]


def test_who_asks_is_answered_at_once() -> None:
    assert 50 in beats(None, {50: "asked"}, 100)
