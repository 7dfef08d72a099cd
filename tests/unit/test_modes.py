"""Operating modes: a start-up is no fault, a fault at any load is one, and each load has a normal of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.config import ModeRule
from edge_agent.detect.modes import CHANGE, LEARNING, OFF, START_UP, Modes, groups_of
from edge_agent.errors import SourceFailed
from models.baseline import shipped
from models.contract.events import FaultOfSensor, Phase
from models.contract.messages import ScoredWindows
from models.contract.signals import Signal, WindowSpec
from models.windows import Windower, default_window
from simulators.machine import RATE_HZ, SIGNALS, Doing, Episode, Kind, Plan, Pump, Shift
from tests.unit.test_detect import Machine

SPEC = default_window(RATE_HZ)
RULE = {"signal": "current", "off_below": 3.0, "bands": [15.0], "start_up_s": 4.0}
FOREVER = 1e9


class Works:
    """A pump at work, watched."""

    def __init__(self, folder: Path | None = None, mode: dict[str, Any] | None = None) -> None:
        self.pump = Pump(Plan(seed=4, quiet_s=FOREVER))
        self.shift = Shift(self.pump)
        self.machine = Machine(shipped().bundle, folder, signals=SIGNALS, spec=SPEC, mode=mode or RULE)

    def do(self, doing: Doing, seconds: float, fault: Kind | None = None) -> None:
        n = round(seconds * RATE_HZ)
        at = self.pump._n / RATE_HZ
        episodes = [Episode(fault, at - seconds, at + seconds)] if fault else []
        self.pump._episodes = [*episodes, Episode("high_load", FOREVER, 2 * FOREVER)]
        self.machine.samples(self.shift.block(doing, n), RATE_HZ)

    def a_day(self) -> None:
        self.do("off", 4)
        self.do("start_up", 4)
        self.do("low", 8)
        self.do("high", 8)

    def learn(self) -> None:
        for _ in range(4):
            self.a_day()


def test_starts_stops_and_loads_are_no_faults_and_a_fault_at_each_load_is_one() -> None:
    works = Works()
    works.learn()
    for _ in range(3):
        works.a_day()
    assert works.machine.phases() == []
    assert works.machine.sensor_alarms() == []
    works.machine.detector.flush(force=True)
    logs = [body for body in works.machine.said if isinstance(body, ScoredWindows)]
    told = [log.modes[i] for log in logs if log.mode for i in log.mode.raw()]
    assert set(told) == {"load_1", "load_2"}
    assert len(told) == sum(log.n for log in logs)
    health = works.machine.pipeline.health()
    assert health.mode == "load_2"
    assert {"mode_off", "mode_start_up", "mode_change"} <= set(health.dropped)
    for doing, mode in (("high", "load_2"), ("low", "load_1")):
        works.machine.said.clear()
        works.do(doing, 4)  # type: ignore[arg-type]
        works.do(doing, 6, "bearing")  # type: ignore[arg-type]
        assert [(a.phase, a.mode) for a in works.machine.alarms()][:1] == [(Phase.RAISED, mode)]
        works.do(doing, 8)  # type: ignore[arg-type]
        assert works.machine.phases()[-1] is Phase.CLEARED


def test_without_modes_the_same_days_are_full_of_alarms() -> None:
    works = Works()
    works.machine = Machine(shipped().bundle, None, signals=SIGNALS, spec=SPEC)
    works.do("low", 30)
    works.a_day()
    assert Phase.RAISED in works.machine.phases()


def test_a_start_up_is_scored_where_that_is_asked_for() -> None:
    works = Works(mode=RULE | {"score": ["start_up"]})
    works.learn()
    works.machine.detector.flush(force=True)
    assert "mode_start_up" not in works.machine.pipeline.health().dropped
    assert "mode_off" in works.machine.pipeline.health().dropped


def test_a_stop_keeps_an_alarm_open_and_it_ends_when_the_machine_runs_well() -> None:
    works = Works()
    works.learn()
    works.do("high", 5, "bearing")
    works.do("off", 8)
    assert works.machine.phases() == [Phase.RAISED]
    works.do("start_up", 4)
    works.do("high", 8)
    assert works.machine.phases() == [Phase.RAISED, Phase.CLEARED]


def test_the_signal_that_tells_the_mode_may_be_ill_itself() -> None:
    works = Works()
    works.learn()
    values = works.shift.block("high", round(8 * RATE_HZ))
    values[2] = 0.0  # no current, says its sensor, and the pump shakes as ever
    works.machine.samples(values, RATE_HZ)
    (alarm,) = works.machine.sensor_alarms()
    assert [(s.signal, s.fault) for s in alarm.sensors] == [("current", FaultOfSensor.STUCK)]


def test_bands_are_learned_and_outlive_a_restart(tmp_path: Path) -> None:
    rule = {"signal": "current", "learn": 80, "start_up_s": 4.0}
    works = Works(tmp_path, rule)
    works.a_day()
    assert works.machine.pipeline.health().state == "learning"
    works.learn()
    works.a_day()
    assert works.machine.phases() == []
    modes = works.machine.pipeline._modes
    assert modes
    assert modes._off is not None
    assert 1 < modes._off < 11
    (edge,) = modes._edges if modes._edges is not None else ()
    assert 12 < edge < 19
    again = Works(tmp_path, rule)
    again.do("high", 2)
    assert again.machine.pipeline.health().mode == "load_2"


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from([0.0, 5.0, 9.9, 10.1, 20.0]), st.integers(2, 8)), max_size=12))
def test_windows_have_the_mode_of_their_halves(stretches: list[tuple[float, int]]) -> None:
    spec = WindowSpec(rate_hz=1.0, n_samples=4, hop=2)
    rule = ModeRule(signal="speed", off_below=1.0, bands=(10.0,), start_up_s=6.0)
    modes = Modes(rule, (Signal(name="speed"),), spec, None)
    values = np.concatenate([np.full(4 * n, v) for v, n in stretches] or [np.empty(0)]).astype(np.float32)
    on_since = -1000.0
    for window in Windower(spec, 1).feed(np.arange(values.size, dtype=float), values[None]):
        mode = modes.tell(window)
        x = window.values[0]
        if (x < 1).all():
            assert mode == OFF
        elif (x[2:] >= 1).all() and window.start < on_since + 6.0:
            assert mode == START_UP
        elif abs(x[:2].mean() - x[2:].mean()) > 14:
            assert mode in (CHANGE, START_UP)
        before = values[: int(window.end) + 1]
        off = np.flatnonzero(before < 1)
        on_since = float(off[-1] + 1) if off.size else -1000.0
        if (before[-4:] > 15).all() and window.start > on_since + 12:
            assert mode == "load_2"


def test_groups_are_as_many_as_lie_apart() -> None:
    noise = np.random.default_rng(1)
    for levels in ((5.0,), (0.0, 12.0), (0.0, 12.0, 19.0), (1.0, 5.0, 9.0, 13.0)):
        values = np.concatenate([level + 0.4 * noise.standard_normal(80) for level in levels])
        groups = groups_of(noise.permutation(values))
        assert [float(group.mean()) for group in groups] == pytest.approx(levels, abs=0.3)
    assert len(groups_of(noise.uniform(0, 10, 300))) == 1


def test_settings_that_say_nothing_or_too_much_are_refused() -> None:
    for wrong in ({}, {"bands": [3, 2]}, {"off_below": 5.0, "bands": [2.0]}, {"bands": [2.0], "learn": 100}):
        with pytest.raises(ValidationError):
            ModeRule.model_validate({"signal": "current"} | wrong)
    rule = ModeRule(signal="speed", off_below=1.0)
    with pytest.raises(SourceFailed, match="speed"):
        Modes(rule, SIGNALS, SPEC, None)
    assert Modes(ModeRule(signal="current", learn=10), SIGNALS, SPEC, None).passes_over(LEARNING)
