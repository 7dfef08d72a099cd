"""What the uplink decides without a network: how long to wait, what a budget lets through, what goes first."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from edge_agent.clock import Clock
from edge_agent.config import UplinkSettings
from edge_agent.outbox import Outbox
from edge_agent.uplink.backoff import Backoff, why
from edge_agent.uplink.budget import Budget
from edge_agent.uplink.lanes import DEATHS, WINDOWS, Lanes
from models.contract.base import Stream
from models.contract.codec import Unreadable, pack, unpacked, wrap
from models.contract.commands import SetBudget
from tests.builders import a_status, an_annotation, an_event, some_scores


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.db")


def test_waits_grow_with_full_jitter_and_shrink_when_it_worked() -> None:
    waits = [[Backoff(random.Random(seed)).wait_s("network")] for seed in range(50)]
    for seed, each in enumerate(waits):
        backoff = Backoff(random.Random(seed))
        each[:] = [backoff.wait_s("network") for _ in range(12)]
        backoff.worked()
        assert backoff.wait_s("network") == 1.0
    assert all(1.0 <= wait <= 60 for each in waits for wait in each)
    last = [each[-1] for each in waits]
    assert max(last) > 45  # anywhere up to the longest,
    assert min(last) < 15  # so that a fleet does not come back in step


@pytest.mark.parametrize(("code", "reason"), [(0x87, "refused"), (0x8A, "refused"), (0x89, "busy"), (None, "network")])
def test_who_is_refused_waits_five_minutes(code: int | None, reason: str) -> None:
    assert why(code) == reason
    backoff = Backoff()
    waits = [backoff.wait_s(why(code)) for _ in range(20)]
    assert all(300 <= wait <= 360 for wait in waits) if reason == "refused" else max(waits) <= 120


class Day:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 1_772_438_400.0  # 2 March 2026, 08:00 UTC
        self.clock = Clock(wall=lambda: self.at, monotonic=lambda: self.at, synchronised=lambda: True)


def test_a_budget_lets_less_and_less_through_but_never_stops_an_alarm(outbox: Outbox) -> None:
    day, counters = Day(), Counter()
    budget = Budget(UplinkSettings(bytes_per_day=100_000), outbox, counters, day.clock)
    order = (Stream.RAW, Stream.TELEMETRY, Stream.HEALTH, Stream.ALARM, Stream.ANNOTATION)
    seen = []
    for _ in range(11):
        seen.append("".join(s.value[0] for s in order if budget.allows(s)))
        budget.spend(10_000)
    assert seen == ["rthaa"] * 5 + ["thaa"] * 3 + ["haa"] * 2 + ["aa"]
    assert counters["bytes_over_budget"] == 10_000
    day.at += 86_400
    day.clock.look()
    assert budget.allows(Stream.RAW)


def test_what_was_used_and_what_was_ordered_stays_over_a_restart(outbox: Outbox) -> None:
    day = Day()
    budget = Budget(UplinkSettings(bytes_per_day=100_000), outbox, Counter(), day.clock)
    budget.spend(60_000)
    budget.write()
    assert not Budget(UplinkSettings(bytes_per_day=100_000), outbox, Counter(), day.clock).allows(Stream.RAW)
    said: list[str] = []

    def order(db: sqlite3.Connection) -> None:
        said.append(budget.set(SetBudget(bytes_per_month=10_000_000), db))

    outbox.put([], within=order)
    again = Budget(UplinkSettings(bytes_per_day=100_000), outbox, Counter(), day.clock)
    assert again.allows(Stream.RAW)
    assert again.used_share() == pytest.approx(0.006)
    assert said == ["used 60000 bytes today, 60000 this month"]


def test_a_rate_is_kept_over_time_and_alarms_do_not_wait_for_it(outbox: Outbox) -> None:
    day = Day()
    budget = Budget(UplinkSettings(kbit_per_s=8), outbox, Counter(), day.clock)  # 1000 bytes a second
    sent = 0
    for _ in range(600):
        day.at += 0.1
        while budget.allows(Stream.TELEMETRY):
            budget.spend(500)
            sent += 500
        assert budget.allows(Stream.ALARM)
    assert 55_000 <= sent <= 63_000


def test_no_lane_starves_another(outbox: Outbox) -> None:
    outbox.put([an_event() for _ in range(200)])
    outbox.put([some_scores() for _ in range(200)])
    lanes = Lanes(outbox, 10.0)
    outbox.put([an_event(), some_scores(), an_annotation(), a_status()])
    outbox.put([an_event() for _ in range(100)])
    went: Counter[str] = Counter()
    order = []
    for lane, rows in lanes.next(100_000, False, {}):
        lanes.sent(lane, rows, 100, 0.0)
        went[lane] += 1
        order.append((lane, rows[0].stream, rows[0].seq))
    assert went == {"live": WINDOWS["live"], "bulk": 1, "backlog": WINDOWS["backlog"]}
    assert order[:2] == [("live", Stream.ANNOTATION, 1), ("live", Stream.ALARM, 201)]


def test_what_dies_with_the_connection_goes_alone_and_what_kills_it_alone_goes_away(outbox: Outbox) -> None:
    outbox.put([an_event(), an_event()])
    lanes, guilty = Lanes(outbox, 10.0), []
    for _ in range(DEATHS):
        for lane, rows in lanes.next(10_000, False, {}):
            lanes.sent(lane, rows, 100, 0.0)
        guilty += lanes.died()
        lanes.forget()
    while not guilty:
        (lane, rows), *more = lanes.next(10_000, False, {})
        assert not more
        parcel = lanes.sent(lane, rows, 100, 0.0)
        if rows[0].seq == 2:
            lanes.acked(parcel)  # innocent
        else:
            guilty += lanes.died()
            lanes.forget()
    assert guilty == [(Stream.ALARM, 1)]
    outbox.put_aside(*guilty[0][:1], [1], "kills_link")
    assert [rows[0].seq for _, rows in lanes.next(10_000, False, {})] == [2]


def test_a_pack_is_bounded_when_it_is_opened() -> None:
    assert unpacked(b"{}") == b"{}"
    packed = pack("plant1.gw7", "0f" * 16, Stream.ALARM, [(1, b'{"a":1}'), (2, b'{"b":"\xc3\xb6"}')])
    assert b'"records":[[1,{"a":1}],[2,{"b":"\xc3\xb6"}]]' in unpacked(packed)
    bomb = pack("plant1.gw7", "0f" * 16, Stream.ALARM, [(1, b" " * 10_000_000)])
    for bad in (bomb, packed[:-3], b"\x78nonsense", b"\x78"):
        with pytest.raises(Unreadable, match="compressed"):
            unpacked(bad)
    assert len(wrap("plant1.gw7", "0f" * 16, Stream.ALARM, 1, b"{}")) < 200
