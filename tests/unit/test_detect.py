"""From samples to what is sent: windows, scores, episodes, sensor faults, references, trials. No broker, no outbox."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.clock import SYSTEM, Clock
from edge_agent.config import Asset
from edge_agent.detect import Detector, Pipeline
from edge_agent.errors import BundleRejected
from models.baseline import shipped
from models.bundle.files import Bundle
from models.contract.events import AlarmEvent, FaultOfSensor, Phase, SensorFault
from models.contract.features import vector_names
from models.contract.messages import Body, Flag, SampledWindow, ScoredWindows
from models.contract.signals import Quality, Signal, WindowSpec
from models.form.speech import why
from models.windows import default_window
from tests.builders import SIGNALS, SPEC, a_bundle, a_bundle_that_turns_nan

QUIET, LOUD = 0.1, 1.0  # amplitudes; the bundle's limit is 0.5 on the RMS
N = SPEC.n_samples


class Machine:
    """One asset and its detector; `said` is all that was put."""

    def __init__(self, bundle: Bundle | None = None, folder: Path | None = None, **changes: Any) -> None:
        signals: tuple[Signal, ...] = changes.pop("signals", SIGNALS)
        spec: WindowSpec = changes.pop("spec", SPEC)
        clock: Clock = changes.pop("clock", SYSTEM)
        fields: dict[str, Any] = {
            "id": "pump1",
            "source": "mqtt",
            "mqtt": {"topic": "t", "rate_hz": spec.rate_hz, "signals": signals},
            "sample_share": 0.0,
            "hard_share": 0.0,
        }
        asset = Asset.model_validate(fields | changes)
        self.pipeline = Pipeline(asset, signals, spec, folder, clock)
        self.said: list[Body] = []
        self.detector = Detector([self.pipeline], self.said.extend)
        self.detector.run(bundle or a_bundle())
        self.t = 1_000_000.0
        self.noise = np.random.default_rng(1)

    def run(self, amplitude: float, windows: int) -> None:
        n, rate = windows * self.pipeline.spec.hop, self.pipeline.spec.rate_hz
        rows = len(self.pipeline.signals)
        self.samples(amplitude * np.sign(self.noise.standard_normal((rows, n))) + 0.0 * n, rate)

    def samples(
        self,
        values: NDArray[np.floating[Any]],
        rate: float = SPEC.rate_hz,
        quality: NDArray[np.uint8] | None = None,
    ) -> None:
        n = values.shape[1]
        self.detector.feed("pump1", self.t + np.arange(n) / rate, values.astype(np.float32), quality)
        self.t += n / rate

    def alarms(self) -> list[AlarmEvent]:
        return [body for body in self.said if isinstance(body, AlarmEvent) and body.family != "sensor"]

    def sensor_alarms(self) -> list[AlarmEvent]:
        return [body for body in self.said if isinstance(body, AlarmEvent) and body.family == "sensor"]

    def phases(self) -> list[Phase]:
        return [alarm.phase for alarm in self.alarms()]

    def faults(self) -> list[SensorFault]:
        return [body for body in self.said if isinstance(body, SensorFault)]


def column(logs: Sequence[ScoredWindows], name: str, dtype: str) -> NDArray[Any]:
    return np.concatenate([np.frombuffer(getattr(log, name).raw(), dtype) for log in logs])


# Episodes


def test_an_alarm_is_raised_once_and_cleared_once_with_hysteresis_in_windows() -> None:
    machine = Machine()
    machine.run(QUIET, 10)
    machine.run(LOUD, 1)  # raise_after is 2
    machine.run(QUIET, 5)
    assert machine.phases() == []
    machine.run(LOUD, 20)
    machine.run(QUIET, 1)  # clear_after is 2
    machine.run(LOUD, 5)
    assert machine.phases() == [Phase.RAISED]
    machine.run(QUIET, 2)
    assert machine.phases() == [Phase.RAISED, Phase.CLEARED]
    raised, cleared = machine.alarms()
    assert raised.event_id == cleared.event_id
    assert raised.trace_id != cleared.trace_id
    assert raised.opened_at == cleared.opened_at <= raised.window_end
    machine.run(QUIET, 130)  # longer than the hold time
    machine.run(LOUD, 3)
    assert machine.alarms()[-1].event_id != raised.event_id


def test_an_alarm_says_what_drove_it_and_carries_every_feature() -> None:
    machine = Machine()
    machine.run(LOUD, 3)
    alarm = machine.alarms()[0]
    assert set(alarm.features) == set(vector_names(["vib"]))
    assert alarm.features["vib.rms"] == pytest.approx(LOUD, rel=1e-4)
    (driver,) = alarm.drivers
    assert (driver.feature, driver.usual) == ("vib.rms", 0.1)
    assert driver.deviation == pytest.approx((LOUD - 0.1) / 0.05, rel=1e-3)
    assert (alarm.threshold, alarm.trial) == (0.5, False)


def test_every_scored_window_is_in_the_prediction_log_once() -> None:
    machine = Machine()
    machine.run(QUIET, 300)
    machine.run(LOUD, 40)
    machine.detector.flush(force=True)
    logs = [body for body in machine.said if isinstance(body, ScoredWindows)]
    assert sum(log.n for log in logs) == 340
    assert max(log.n for log in logs) <= 256
    starts = column(logs, "start_us", "<i8")
    assert np.array_equal(starts, 1_000_000_000_000 + np.arange(340) * 500_000)
    assert int(column(logs, "alarm", "u1").sum()) == 40
    assert len({bytes(t) for t in column(logs, "trace", "V16")}) == 340
    assert (column(logs, "latency_us", "<f4") > 0).all()
    assert set(column(logs, "fault_class", "u1")) == {255}


def test_an_open_alarm_goes_on_after_a_restart_under_its_id() -> None:
    before, after = Machine(), Machine()
    before.run(LOUD, 5)
    (raised,) = before.alarms()
    assert after.pipeline.resume(raised)
    after.run(LOUD, 5)
    assert after.phases() == []
    after.run(QUIET, 2)
    assert [(a.phase, a.event_id) for a in after.alarms()] == [(Phase.CLEARED, raised.event_id)]


def test_sampling_follows_its_probabilities() -> None:
    machine = Machine(sample_share=0.25)
    machine.run(QUIET, 2000)
    samples = [body for body in machine.said if isinstance(body, SampledWindow)]
    assert 400 < len(samples) < 600
    assert {(s.reason, s.probability) for s in samples} == {("reference", 0.25)}
    hard = Machine(hard_share=1.0)
    hard.run(0.5, 50)  # right at the threshold
    assert {s.reason for s in hard.said if isinstance(s, SampledWindow)} == {"hard"}


# Sensors


def test_a_window_with_a_nan_is_not_scored_and_is_told_once() -> None:
    machine = Machine()
    machine.run(QUIET, 3)
    values = np.full((1, 4 * N), QUIET)
    values[0, ::N] = math.nan
    machine.samples(values)
    assert [(f.fault, f.signal) for f in machine.faults()] == [(FaultOfSensor.NOT_A_NUMBER, "vib")]
    assert machine.pipeline.windows == 3
    assert machine.pipeline.health().dropped["not_a_number"] == 4
    machine.run(QUIET, 1)
    machine.samples(values)
    assert len(machine.faults()) == 2  # another episode


def test_a_value_that_is_not_believable_is_a_sensor_fault_and_no_alarm() -> None:
    machine = Machine(signals=(Signal(name="vib", unit="m/s2", low=-5, high=5),))
    machine.run(QUIET, 3)
    machine.samples(np.full((1, 10 * N), 900.0))
    assert [f.fault for f in machine.faults()] == [FaultOfSensor.OUT_OF_RANGE]
    assert machine.phases() == []
    (told,) = machine.sensor_alarms()  # once, after it has lasted
    assert [(s.signal, s.fault) for s in told.sensors] == [("vib", FaultOfSensor.OUT_OF_RANGE)]
    assert why(told, "en", {}, blind=True) == ("The sensor vib gives values that cannot be.",)
    machine.run(QUIET, 5)
    assert [a.phase for a in machine.sensor_alarms()] == [Phase.RAISED, Phase.CLEARED]


def test_infinity_and_what_overflows_is_never_scored() -> None:
    machine = Machine()
    machine.samples(np.full((1, 5 * N), np.inf))
    machine.samples(np.full((1, 5 * N), 3e38))
    assert machine.pipeline.windows == 0
    assert machine.phases() == []
    machine.run(LOUD, 3)
    assert machine.phases() == [Phase.RAISED]


def test_a_gap_is_counted_and_no_window_spans_it() -> None:
    machine = Machine()
    machine.samples(np.full((1, N + 20), QUIET))
    machine.t += 10
    machine.samples(np.full((1, N), QUIET))
    assert machine.pipeline.windows == 2
    assert machine.pipeline.health().dropped["gap"] == 20


def test_what_the_source_calls_bad_is_in_no_window_and_what_it_doubts_is_flagged() -> None:
    machine = Machine(sample_share=1.0)
    machine.run(QUIET, 2)
    marks = np.zeros((1, 6 * N), np.uint8)
    marks[0, N + 3], marks[0, 4 * N : 4 * N + 2] = Quality.BAD, Quality.UNCERTAIN
    machine.samples(np.full((1, 6 * N), QUIET), quality=marks)
    machine.detector.flush(force=True)
    assert [(f.fault, f.signal) for f in machine.faults()] == [(FaultOfSensor.BAD_QUALITY, "vib")]
    health = machine.pipeline.health()
    assert (health.dropped, health.flagged, machine.pipeline.windows) == ({"bad_quality": 1}, {"uncertain": 1}, 7)
    logs = [body for body in machine.said if isinstance(body, ScoredWindows)]
    assert sum(log.n for log in logs) == 7
    flags = [f for log in logs for f in (log.flags.raw() if log.flags else bytes(log.n))]
    assert flags == [0, 0, 0, 0, 0, Flag.UNCERTAIN, 0]
    assert len([b for b in machine.said if isinstance(b, SampledWindow)]) == 6  # it does not train


def test_samples_at_another_rate_are_a_sensor_fault_and_are_not_scored() -> None:
    machine = Machine()
    machine.run(QUIET, 2)
    for pace in (0.5, 2.0):  # twice as fast; half as fast, which is no gap by its steps
        machine.samples(np.full((1, 4 * N), QUIET), SPEC.rate_hz / pace)
    assert [f.fault for f in machine.faults()] == [FaultOfSensor.SAMPLE_RATE]
    assert machine.pipeline.health().dropped["sample_rate"] >= 7
    assert machine.pipeline.windows == 2
    machine.run(QUIET, 2)
    assert machine.pipeline.windows >= 3


def test_a_source_clock_set_back_an_hour_loses_nothing_and_its_windows_are_flagged() -> None:
    now = 0.0
    began = 1_772_000_000.0
    clock = Clock(monotonic=lambda: now, wall=lambda: began + now, synchronised=lambda: True)
    machine = Machine(clock=clock)
    machine.t = began
    for i in range(20):
        machine.t -= 3600 if i == 10 else 0
        machine.run(QUIET if i < 15 else LOUD, 2)  # a second
        now += 1.0
    machine.detector.flush(force=True)
    assert machine.pipeline.windows == 40
    assert machine.pipeline.health().dropped == {"clock_set_back": 1}
    logs = [body for body in machine.said if isinstance(body, ScoredWindows)]
    flags = [f for log in logs for f in (log.flags.raw() if log.flags else bytes(log.n))]
    assert flags == [0] * 20 + [Flag.CLOCK] * 20
    assert machine.phases() == [Phase.RAISED]


# What is normal, learnt here


def noise(machine: Machine, windows: int, amplitude: float = 1.0) -> None:
    spec = machine.pipeline.spec
    n = windows * spec.hop
    machine.samples(amplitude * machine.noise.standard_normal((len(machine.pipeline.signals), n)), spec.rate_hz)


def test_a_bundle_that_learns_here_says_nothing_until_it_knows_and_remembers_it(tmp_path: Path) -> None:
    baseline = shipped().bundle
    learn = baseline.manifest.novelty.learn
    machine = Machine(baseline, tmp_path)
    noise(machine, learn - 1)
    assert machine.pipeline.health().state == "learning"
    assert machine.said == []
    noise(machine, 30)
    assert machine.pipeline.health().state == "scoring"
    noise(machine, 30, amplitude=20.0)
    assert machine.phases() == [Phase.RAISED]
    assert machine.alarms()[0].drivers
    again = Machine(baseline, tmp_path)  # a restart
    noise(again, 30, amplitude=20.0)
    assert again.phases() == [Phase.RAISED]
    other = Machine(baseline, tmp_path, id="pump1", signals=(Signal(name="current"),))
    noise(other, 30, amplitude=20.0)
    assert other.phases() == []  # another signal's normal is not this one's


def test_a_damaged_reference_is_learnt_again(tmp_path: Path) -> None:
    baseline = shipped().bundle
    machine = Machine(baseline, tmp_path)
    noise(machine, baseline.manifest.novelty.learn + 5)
    (file,) = tmp_path.glob("*.npz")
    for damage in (b"", b"PK\x03\x04 rubbish", file.read_bytes()[:200]):
        file.write_bytes(damage)
        again = Machine(baseline, tmp_path)
        noise(again, 5)
        assert again.pipeline.health().state == "learning"


def test_a_still_machine_and_one_that_starts_learning_with_nan_do_not_stop_the_agent(tmp_path: Path) -> None:
    machine = Machine(shipped().bundle, tmp_path)
    machine.samples(np.zeros((1, 100 * N)))
    assert machine.pipeline.health().state == "scoring"


# Trials


def test_windows_without_a_number_in_a_row_are_counted() -> None:
    machine = Machine(a_bundle_that_turns_nan())
    machine.run(LOUD, 4)
    assert machine.detector.bad_in_a_row() == 4
    machine.run(QUIET, 1)
    assert machine.detector.bad_in_a_row() == 0


def test_both_models_score_the_same_windows_and_either_may_alarm() -> None:
    machine = Machine(a_bundle(1))
    machine.run(QUIET, 10)
    machine.detector.try_out(a_bundle(2, limit=0.05))  # alarms on everything
    machine.run(QUIET, 20)
    report = machine.detector.trial()
    assert report is not None
    assert (report.windows, report.candidate_alarm_share, report.previous_alarm_share) == (20, 1.0, 0.0)
    assert report.mean_shift is not None
    assert report.mean_shift > 0.4
    (alarm,) = machine.alarms()
    assert alarm.trial
    assert alarm.model.version == 2
    machine.detector.end_trial()
    machine.run(QUIET, 1)
    assert machine.phases() == [Phase.RAISED, Phase.CLEARED]
    assert machine.detector.trial() is None


def test_a_silent_candidate_does_not_hide_a_fault() -> None:
    machine = Machine(a_bundle(1))
    machine.detector.try_out(a_bundle(2, limit=50.0))
    machine.run(LOUD, 5)
    (alarm,) = machine.alarms()
    assert not alarm.trial
    assert alarm.model.version == 1


def test_scores_that_are_not_numbers_are_counted_and_never_sent() -> None:
    machine = Machine(a_bundle(1))
    machine.detector.try_out(a_bundle_that_turns_nan(2))
    machine.run(LOUD, 5)
    machine.detector.flush(force=True)
    report = machine.detector.trial()
    assert report is not None
    assert report.non_finite == 5
    assert {b.model.version for b in machine.said if isinstance(b, ScoredWindows)} == {1}


def test_a_verified_model_takes_over_an_open_alarm_between_two_windows() -> None:
    machine = Machine(a_bundle(1))
    machine.run(LOUD, 5)
    machine.detector.run(a_bundle(2, limit=0.6))
    machine.run(LOUD, 5)
    assert machine.phases() == [Phase.RAISED]
    machine.run(QUIET, 2)
    assert machine.phases() == [Phase.RAISED, Phase.CLEARED]
    assert len({a.event_id for a in machine.alarms()}) == 1
    assert machine.alarms()[-1].model.version == 2


@pytest.mark.parametrize(
    "misfit",
    [
        {"window": SPEC.model_copy(update={"n_samples": 64})},
        {"signals": (*SIGNALS, Signal(name="temperature"))},
        {"inputs": ("vib.no_such_feature",)},
        {"feature_set": "0" * 16},
    ],
)
def test_a_bundle_that_does_not_fit_the_asset_is_refused(misfit: dict[str, Any]) -> None:
    machine = Machine()
    with pytest.raises(BundleRejected):
        machine.detector.check(a_bundle(9, **misfit))


def test_default_windows_fit_their_rate() -> None:
    assert default_window(1.0).n_samples < default_window(10_000.0).n_samples
    for rate in (0.001, 1.0, 10.0, 11.0, 1000.0, 51_200.0):
        spec = default_window(rate)
        assert spec.rate_hz == rate
        assert spec.hop <= spec.n_samples
