"""When a source counts as silent, and how a line is tried again."""

from __future__ import annotations

from edge_agent.sensors.base import RETRY_MAX_S, RETRY_MIN_S, Backoff
from edge_agent.sensors.silence import LEAST_S, UNKNOWN_S, Silence


def test_a_source_is_silent_after_three_of_its_periods_once() -> None:
    silence = Silence(0.0, period_s=20.0)
    silence.heard(20.0)
    assert not silence.falls(80.0)
    assert silence.falls(80.1)
    assert not silence.falls(90.0)
    silence.heard(100.0)
    assert not silence.falls(101.0)
    assert silence.falls(161.0)


def test_the_period_is_found_by_watching_and_one_outage_does_not_change_it() -> None:
    silence = Silence(0.0, period_s=None)
    assert silence.limit_s == UNKNOWN_S
    for i in range(1, 9):
        silence.heard(5.0 * i)
    assert silence.limit_s == 15.0
    assert silence.falls(60.0)
    silence.heard(4000.0)
    assert silence.limit_s == 15.0


def test_a_fast_source_is_given_time_to_come_back() -> None:
    silence = Silence(0.0, period_s=0.1)
    assert not silence.falls(LEAST_S)
    assert silence.falls(LEAST_S + 0.1)
    assert Silence(0.0, period_s=0.1, after_s=0.5).falls(0.6)


def test_standing_still_ourselves_is_no_silence() -> None:
    silence = Silence(0.0, period_s=1.0)
    silence.stood_still(600.0)
    assert not silence.falls(602.0)


def test_retries_are_spread_bounded_and_slower_after_each_failure() -> None:
    backoff = Backoff()
    waits = [[Backoff().next_s(0.0) for _ in range(50)], [backoff.next_s(0.0) for _ in range(50)]]
    assert max(waits[0]) <= RETRY_MIN_S
    assert len({round(w, 6) for w in waits[0]}) > 40  # a whole plant of them does not come at once
    assert RETRY_MIN_S * 8 < max(waits[1]) <= RETRY_MAX_S
    assert backoff.next_s(RETRY_MAX_S) <= RETRY_MIN_S  # a line that lasted is tried again at once
