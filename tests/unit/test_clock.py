"""The clock through jumps, wrong starts and a wrong pace, with both of its sources in the test's hand."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.clock import BUILT, FILES, Clock, store_floor
from models.contract import ids
from models.contract.base import TimeQuality

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
HOUR, DAY = 3600.0, 86400.0


class Time:
    """What a machine's two clocks say. `pace` is of the wall."""

    def __init__(self, wall: float = NOON, synced: bool | None = False) -> None:
        self.monotonic, self.wall, self.pace, self.synced = 1000.0, wall, 1.0, synced

    def clock(self, folder: Path | None = None) -> Clock:
        return Clock(folder, wall=lambda: self.wall, monotonic=lambda: self.monotonic, synchronised=lambda: self.synced)

    def passes(self, seconds: float, clock: Clock) -> None:
        """The agent looks ten times a second."""
        for _ in range(round(seconds * 10)):
            self.monotonic += 0.1
            self.wall += 0.1 * self.pace
            clock.look()


def jumps(clock: Clock) -> tuple[int, int]:
    report = clock.report()
    return report.jumps_forward, report.jumps_back


@pytest.mark.parametrize(
    ("by", "counted"), [(-HOUR, (0, 1)), (DAY, (1, 0)), (-0.05, (0, 1)), (0.05, (1, 0)), (0.001, (0, 0))]
)
def test_a_jump_is_counted_once_with_its_direction(by: float, counted: tuple[int, int]) -> None:
    machine = Time()
    clock = machine.clock()
    machine.passes(20, clock)
    machine.wall += by
    machine.passes(20, clock)
    assert jumps(clock) == counted
    assert clock.report().offset_s == pytest.approx(by, abs=1e-4)
    assert clock.report().drift_ppm == pytest.approx(0, abs=9)
    assert (clock.quality is TimeQuality.UNSYNCED) == (counted == (0, 0))


@pytest.mark.parametrize("pace", [10.0, 0.5])
def test_a_wrong_pace_is_drift_and_no_storm_of_jumps(pace: float) -> None:
    machine = Time()
    clock = machine.clock()
    machine.passes(10, clock)
    machine.pace = pace
    machine.passes(60, clock)
    assert clock.report().drift_ppm == pytest.approx((pace - 1) * 1e6)
    assert sum(jumps(clock)) <= 5


def test_a_process_that_was_stopped_sees_no_jump() -> None:
    machine = Time()
    clock = machine.clock()
    machine.passes(5, clock)
    machine.monotonic, machine.wall = machine.monotonic + 600, machine.wall + 600
    machine.passes(5, clock)
    assert jumps(clock) == (0, 0)


def test_no_time_is_told_below_the_floor_also_after_a_restart_in_1970(tmp_path: Path) -> None:
    machine = Time()
    clock = machine.clock(tmp_path)
    machine.passes(30, clock)
    clock.close()
    last = clock.time()
    machine.wall = 100.0
    after = machine.clock(tmp_path)
    assert last <= after.time() <= last + 1
    assert after.quality is TimeQuality.FLOOR
    machine.passes(50, after)
    assert after.time() == pytest.approx(last + 50)  # it goes on, by the monotonic clock
    machine.wall, machine.synced = NOON + DAY, True
    machine.passes(2, after)
    assert after.quality is TimeQuality.SYNCED
    assert after.time() == pytest.approx(machine.wall, abs=1e-3)


def test_a_jump_back_is_bridged_while_nobody_vouches_for_it() -> None:
    machine = Time()
    clock = machine.clock()
    machine.passes(10, clock)
    before = clock.time()
    machine.wall -= HOUR
    assert clock.time() >= before
    machine.passes(10, clock)
    assert clock.time() == pytest.approx(before + 10, abs=0.2)
    assert clock.quality is TimeQuality.FLOOR


def test_a_leap_forward_does_not_move_the_floor_until_somebody_vouches(tmp_path: Path) -> None:
    machine = Time()
    clock = machine.clock(tmp_path)
    machine.passes(10, clock)
    machine.wall += 14 * 365 * DAY
    machine.passes(10, clock)
    assert clock.now().year == 2040  # what else could it say
    assert clock.quality is TimeQuality.JUMPED
    assert clock.at_least() == pytest.approx(NOON + 20, abs=1)  # ages go by this: nothing is evicted
    clock.close()
    machine.wall = NOON + HOUR
    assert machine.clock(tmp_path).time() == NOON + HOUR


def test_a_start_in_2040_does_not_hold_the_device_there(tmp_path: Path) -> None:
    store_floor(tmp_path, NOON)
    machine = Time(NOON + 14 * 365 * DAY)
    clock = machine.clock(tmp_path)
    machine.passes(10, clock)
    clock.close()
    machine.wall = NOON + HOUR
    assert machine.clock(tmp_path).time() == NOON + HOUR


def test_synchronised_time_overrules_a_floor_from_the_future(tmp_path: Path) -> None:
    store_floor(tmp_path, NOON + 365 * DAY)
    machine = Time(synced=True)
    clock = machine.clock(tmp_path)
    machine.passes(2, clock)
    assert clock.time() == pytest.approx(machine.wall, abs=1e-3)
    assert clock.counters["clock_floor_overruled"] == 1
    assert machine.clock(tmp_path).time() == pytest.approx(machine.wall, abs=1e-3)  # it is on disk at once


@pytest.mark.parametrize("broken", [b"", b"{}", b'{"floor": 1e300}', b'{"floor": NaN}', b"\xff", b"[1]"])
@pytest.mark.parametrize("which", FILES)
def test_one_damaged_copy_does_not_lower_the_floor(tmp_path: Path, which: str, broken: bytes) -> None:
    store_floor(tmp_path, NOON + HOUR)
    (tmp_path / which).write_bytes(broken)
    assert Time().clock(tmp_path).time() == NOON + HOUR


def test_with_no_copy_left_the_floor_is_the_age_of_the_program(tmp_path: Path) -> None:
    store_floor(tmp_path, NOON)
    for name in FILES:
        (tmp_path / name).write_bytes(b"{")
    assert Time(wall=5.0).clock(tmp_path).time() == BUILT


def test_the_floor_is_written_rarely_and_a_full_disk_is_counted(tmp_path: Path) -> None:
    machine = Time()
    clock = machine.clock(tmp_path)
    machine.passes(2, clock)
    first = (tmp_path / FILES[0]).stat().st_mtime_ns
    machine.passes(500, clock)
    assert (tmp_path / FILES[0]).stat().st_mtime_ns == first
    machine.passes(120, clock)
    assert json.loads((tmp_path / FILES[0]).read_text())["floor"] > NOON + 590
    (tmp_path / "gone").mkdir()
    lost = machine.clock(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    machine.passes(2, lost)
    assert lost.counters["clock_floor_unwritten"] == 1
    assert lost.time() >= NOON


@pytest.mark.parametrize(("synced", "quality"), [(True, "synced"), (False, "unsynced"), (None, "unknown")])
def test_the_quality_says_who_keeps_the_clock(synced: bool | None, quality: str) -> None:
    clock = Time(synced=synced).clock()
    assert clock.quality == quality
    assert clock.doubtful == (quality == "unsynced")


def test_ids_rise_and_stay_unique_through_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = time.time_ns
    for by in (timedelta(), timedelta(hours=-1), timedelta(days=1), timedelta(seconds=-0.05), timedelta(days=-9999)):
        monkeypatch.setattr(time, "time_ns", lambda by=by: max(0, real() + int(by.total_seconds() * 1e9)))
        made += [ids.new_trace_id() for _ in range(2000)]
    assert made == sorted(set(made))
    assert {(u.version, u.variant) for u in made} == {(7, "specified in RFC 4122")}


def test_twins_with_the_same_clock_and_seed_make_different_ids() -> None:
    program = "import random; random.seed(1); import time; time.time_ns = lambda: 10**18\n"
    program += (
        "from models.contract.ids import new_trace_id as n, new_epoch as e; print(*(n() for _ in range(99)), e())"
    )
    twins = [subprocess.run([sys.executable, "-c", program], capture_output=True, check=True) for _ in range(2)]
    first, second = (set(twin.stdout.split()) for twin in twins)
    assert len(first) == len(second) == 100
    assert not first & second
