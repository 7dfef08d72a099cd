"""Sensor faults told apart from machine faults: on the simulated pump through the whole pipeline, on real recordings
through the check alone."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.detect.sensors import Channels
from models.baseline import shipped
from models.contract.alarms import Maintenance
from models.contract.events import FaultOfSensor, Phase
from models.contract.ids import new_trace_id
from models.contract.messages import SampledWindow, ScoredWindows
from models.contract.signals import Signal, WindowSpec
from models.features.extract import Extractor
from models.features.stillness import COLUMNS, stillness
from models.form.speech import why
from models.sensor_check import Ill, SensorCheck
from models.units import mix_ups
from models.windows import Window, default_window
from simulators.machine import RATE_HZ, SIGNALS, Episode, Kind, Plan, Pump
from tests.builders import NOW
from tests.sensor_faults import FAULTS, told
from tests.unit.test_detect import Machine

HEALTHY_S, FAULT_S = 30, 6
SPEC = default_window(RATE_HZ)
RATE = int(RATE_HZ)


@cache
def recording(kind: Kind | None = None, seed: int = 3) -> NDArray[np.float64]:
    """float64[3, n] of the pump: healthy, then in full this fault."""
    pump = Pump(Plan(seed=seed, quiet_s=1e9))
    if kind:
        pump._episodes = [Episode(kind, HEALTHY_S - FAULT_S, HEALTHY_S + FAULT_S), Episode("high_load", 1e9, 2e9)]
        calm, _ = Pump(Plan(seed=seed, quiet_s=1e9)).block(HEALTHY_S * RATE)
        return np.concatenate((calm, pump.block((HEALTHY_S + FAULT_S) * RATE)[0][:, HEALTHY_S * RATE :]), axis=1)
    return pump.block((HEALTHY_S + FAULT_S) * RATE)[0].astype(np.float64)


def ill(values: NDArray[np.float64], signal: int, name: str) -> NDArray[np.float64]:
    values, at = values.copy(), HEALTHY_S * RATE
    after = FAULTS[name](values[signal, :at], values[signal, at:], SIGNALS[signal], np.random.default_rng(1))
    assert after is not None
    values[signal, at:] = after
    return values


def watched(values: NDArray[np.float64], **changes: Any) -> Machine:
    machine = Machine(shipped().bundle, None, signals=SIGNALS, spec=SPEC, **changes)
    machine.samples(values, RATE_HZ)
    machine.detector.flush(force=True)
    return machine


KINDS = {
    "stuck": {FaultOfSensor.STUCK},
    "stuck with tiny noise": {FaultOfSensor.STUCK},
    "all zero": {FaultOfSensor.STUCK},
    "at its range's end": {FaultOfSensor.STUCK, FaultOfSensor.SATURATED},
    "clipped": {FaultOfSensor.SATURATED},
    "offset step": {FaultOfSensor.OFFSET},
    "unit": {FaultOfSensor.UNIT},
    "white noise": {FaultOfSensor.NOISE},
    "dropouts": {FaultOfSensor.DROPOUTS},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_sensors_fault_is_told_as_such_and_is_no_machine_fault(name: str) -> None:
    signal = list(KINDS).index(name) % 2  # vibration: x or y
    machine = watched(ill(recording(), signal, name), sample_share=1.0)
    assert machine.phases() == []
    raised = machine.sensor_alarms()[0]
    assert (raised.phase, raised.family, len(machine.sensor_alarms())) == (Phase.RAISED, "sensor", 1)
    (found,) = raised.sensors
    assert found.signal == SIGNALS[signal].name
    assert found.fault in KINDS[name]
    assert found.signal in why(raised, "en", {}, blind=True)[0]
    assert found.signal in why(raised, "de", {}, blind=True)[0]
    assert machine.faults()[-1].fault in KINDS[name]
    # Every window is scored without the channel, flagged, and none of them is sent to be learned from.
    logs = [body for body in machine.said if isinstance(body, ScoredWindows)]
    flags = np.concatenate([np.frombuffer(log.flags.raw() if log.flags else bytes(log.n), "u1") for log in logs])
    began = 1_000_000 + HEALTHY_S
    ends = np.concatenate([np.frombuffer(log.end_us.raw(), "<i8") for log in logs]) / 1e6
    assert not flags[ends < began].any()
    assert (flags[ends > began + 2.5] == 4).all()
    samples = [b for b in machine.said if isinstance(b, SampledWindow)]
    assert max(s.window_end.timestamp() for s in samples) < began + 2.0
    health = machine.pipeline.health()
    assert [s.signal for s in health.sensors] == [found.signal]
    assert health.flagged["sensor"] > 5


@pytest.mark.parametrize("kind", ["bearing", "imbalance", "high_load"])
def test_a_machine_fault_and_a_load_are_no_sensor_faults(kind: Kind) -> None:
    machine = watched(recording(kind))
    assert machine.sensor_alarms() == []
    assert machine.faults() == []
    assert machine.phases()[:1] == [Phase.RAISED]


def test_with_a_dead_sensor_a_machine_fault_that_the_others_show_still_alarms_and_says_what_was_left_out() -> None:
    values = recording("imbalance").copy()
    values[0, (HEALTHY_S - 4) * RATE :] = 0.2  # before
    machine = watched(values)
    assert machine.sensor_alarms()
    alarm = next(a for a in machine.alarms() if a.phase is Phase.RAISED)
    assert [s.signal for s in alarm.sensors] == ["vib_x"]
    assert all(not d.feature.startswith("vib_x.") for d in alarm.drivers)
    assert "left out" in why(alarm, "en", {}, blind=True)[0]


def test_a_sensor_that_is_well_again_ends_its_alarm_and_all_ill_is_no_score() -> None:
    values = ill(recording(), 2, "stuck")
    machine = watched(np.concatenate((values, recording()[:, : 8 * RATE]), axis=1))
    assert [a.phase for a in machine.sensor_alarms()] == [Phase.RAISED, Phase.CLEARED]
    assert machine.pipeline.health().sensors == ()
    everything = recording().copy()
    everything[:, HEALTHY_S * RATE :] = everything[:, HEALTHY_S * RATE - 1 : HEALTHY_S * RATE]
    machine = watched(everything)
    assert machine.phases() == []
    assert len(machine.sensor_alarms()[-1].sensors) == 3
    assert machine.pipeline.health().dropped["ill_sensors"] > 5


def test_what_is_usual_outlives_a_restart(tmp_path: Path) -> None:
    first = Machine(shipped().bundle, tmp_path, signals=SIGNALS, spec=SPEC)
    first.samples(recording()[:, : HEALTHY_S * RATE], RATE_HZ)
    first.detector.flush(force=True)
    again = Machine(shipped().bundle, tmp_path, signals=SIGNALS, spec=SPEC)
    again.samples(ill(recording(), 0, "stuck")[:, (HEALTHY_S + 1) * RATE :], RATE_HZ)
    assert [a.sensors[0].fault for a in again.sensor_alarms()] == [FaultOfSensor.STUCK]
    for file in tmp_path.glob("*.npz"):
        file.write_bytes(b"rubbish")
    Machine(shipped().bundle, tmp_path, signals=SIGNALS, spec=SPEC)


def test_after_maintenance_what_a_sensor_shows_is_usual() -> None:
    shifted = ill(recording(), 0, "offset step")
    machine = watched(shifted)
    assert [a.phase for a in machine.sensor_alarms()] == [Phase.RAISED]
    word = Maintenance(
        trace_id=new_trace_id(),
        made_at=NOW,
        maintenance_id=new_trace_id(),
        asset="pump1",
        start=NOW,
        actor="Ada",
    )
    machine.detector.mute("pump1", word)
    machine.samples(shifted[:, -RATE:], RATE_HZ)
    machine.detector.mute("pump1", None)
    offset = shifted[0, -1] - recording()[0, -1]
    machine.samples(recording()[:, : 28 * RATE] + np.array([[offset], [0.0], [0.0]]), RATE_HZ)
    assert [a.phase for a in machine.sensor_alarms()] == [Phase.RAISED, Phase.CLEARED]
    assert machine.phases() == []


def test_two_cables_swapped() -> None:
    values = recording().copy()
    values[[0, 2], HEALTHY_S * RATE :] = values[[2, 0], HEALTHY_S * RATE :]
    signals = tuple(Signal(name=s.name, unit=s.unit) for s in SIGNALS)  # any value is believable
    *_, (_, last) = told(signals, np.arange(values.shape[1]) / RATE_HZ, values, SPEC)
    assert [(i.signal, i.fault, i.looks_like) for i in last] == [
        (0, FaultOfSensor.SWAPPED, "current"),
        (2, FaultOfSensor.SWAPPED, "vib_x"),
    ]


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from([1e-6, 0.1, 1.0, 3.0, 1e6, 1e30]), st.floats(-1e6, 1e6), st.booleans()), max_size=60
    )
)
def test_whatever_comes_each_channel_is_told_at_most_once_a_window(steps: list[tuple[float, float, bool]]) -> None:
    spec = WindowSpec(rate_hz=1.0, n_samples=16, hop=16)
    signals = (Signal(name="a", unit="degC", low=-50, high=50), Signal(name="b", unit="g"))
    check, extract, channels = SensorCheck(signals, spec), Extractor(signals, 1.0), Channels(16)
    noise = np.random.default_rng(0)
    for i in range(25 + len(steps)):
        scale, level, still = (1.0, 0.0, False) if i < 25 else steps[i - 25]
        values = (level + scale * noise.standard_normal((2, 16)) * (not still)).astype(np.float32)
        vector = extract(values)
        if not np.isfinite(vector).all():
            continue
        window = Window(16.0 * i, 16.0 * i + 15, values, 16 * i + 15)
        found = check.look(window, vector)
        assert len({each.signal for each in found}) == len(found)
        assert all(math.isfinite(each.value) for each in found)
        if not found:
            check.keep(window)
        before = {each.signal for each, _ in channels.told}
        news = channels.move(window, found)
        assert {each.signal for each, _ in channels.told} - before <= {each.signal for each in news}
        if i < 25:
            assert not found


def test_stillness_as_one_would_write_it_down() -> None:
    noise = np.random.default_rng(2)
    for n in (4, 20, 700):
        for _ in range(30):
            x = noise.integers(-2, 3, n).astype(np.float32)
            out = np.empty((1, len(COLUMNS)))
            stillness(x[None], np.array([True]), True, out)
            steps = np.diff(x.astype(float))
            runs = np.split(x, np.flatnonzero(steps) + 1)
            inner = [len(run) for run in runs[1:-1] if run[0] == 0]
            at_ends = max((x == x.min()).sum(), (x == x.max()).sum()) / n if len(runs) > 1 else 0.0
            want = [np.sqrt((steps**2).mean()), np.abs(steps).max(), max(map(len, runs)), len(runs[-1]), at_ends]
            np.testing.assert_allclose(out[0], [*want, sum(inner) / n], rtol=1e-6)


def test_units_that_are_taken_for_each_other() -> None:
    ways = {way.unit: way for way in mix_ups("degC")}
    assert ways["degf"].scale * 100 + ways["degf"].offset == pytest.approx(212)
    assert {way.unit for way in mix_ups("m/s2")} == {"g", "mm/s2"}
    assert next(way.scale for way in mix_ups("g")) == pytest.approx(9.80665)
    assert list(mix_ups("1")) == []


def skab(path: Path) -> tuple[tuple[Signal, ...], NDArray[np.float64], NDArray[np.float64]]:
    head = path.open(encoding="utf-8").readline().strip().split(";")[1:9]
    rows = np.genfromtxt(path, delimiter=";", skip_header=1, usecols=range(1, 9))
    times = np.genfromtxt(path, delimiter=";", skip_header=1, usecols=0, dtype="datetime64[s]").astype(float)
    units = ("g", "g", "A", "bar", "degC", "degC", "V", "l/min")
    names = (name.replace(" ", "_") for name in head)
    return tuple(Signal(name=n, unit=u) for n, u in zip(names, units, strict=True)), times, rows.T


def cwru(path: Path) -> tuple[tuple[Signal, ...], NDArray[np.float64], NDArray[np.float64]]:
    with np.load(path) as file:
        values = np.stack([file["DE"] * float(file["DE_step"]), file["FE"] * float(file["FE_step"])])
    return (Signal(name="DE", unit="g"), Signal(name="FE", unit="g")), np.arange(values.shape[1]) / 12_000, values


CWRU_SPEC = WindowSpec(rate_hz=12_000, n_samples=2048, hop=1024)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_recordings_have_ill_sensors_hardly_ever_and_faults_put_into_them_are_told(
    pdm_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures of docs/signals.md."""
    wrong: dict[str, int] = {}
    files = [(skab(f), default_window(1.0), f) for f in sorted((pdm_data / "skab").glob("*/*.csv"))]
    files += [(cwru(f), CWRU_SPEC, f) for f in sorted((pdm_data / "cwru" / "records").glob("*.npz"))]
    for what, spec, path in files:
        if n := _alarms(told(*what, spec)):
            wrong[f"{path.parent.name}/{path.name}"] = n
    lines = [f"unmodified: {len(files)} recordings, false alarms: {wrong or 'none'}"]
    signals, times, values = skab(pdm_data / "skab" / "anomaly-free" / "anomaly-free.csv")
    parts = [(signals, times[i : i + 1000], values[:, i : i + 1000]) for i in range(0, 9000, 2000)]
    lines += _shares("SKAB", [(part, default_window(1.0), 700) for part in parts])
    records = ("Normal_0", "B007_1", "IR014_2", "OR021_3", "B021_0")
    bearings = [cwru(pdm_data / "cwru" / "records" / f"{name}.npz") for name in records]
    lines += _shares("CWRU", [((s, t[:120_000], v[:, :120_000]), CWRU_SPEC, 70_000) for s, t, v in bearings])
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert sum(wrong.values()) <= 1


def _alarms(windows: Any) -> int:
    n, open_before = 0, False
    for _, ills in windows:
        n, open_before = n + (bool(ills) and not open_before), bool(ills)
    return n


def _shares(title: str, parts: list[Any]) -> list[str]:
    lines = []
    for name, fault in FAULTS.items():
        tried = hits = 0
        for (signals, times, values), spec, at in parts:
            for i, signal in enumerate(signals):
                after = fault(values[i, :at], values[i, at:], signal, np.random.default_rng(5))
                if after is None:
                    continue
                changed = values.copy()
                changed[i, at:] = after
                tried += 1
                hits += any(_is_of(ills, i) for end, ills in told(signals, times, changed, spec) if end >= times[at])
        lines.append(f"{title}: {name}: {hits} of {tried}")
    return lines


def _is_of(ills: list[Ill], signal: int) -> bool:
    return any(each.signal == signal for each in ills)
