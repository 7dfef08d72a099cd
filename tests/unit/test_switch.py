"""What a device does when a switch goes wrong: falls, loops, time-outs, closed ways back, a disk that takes nothing."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.config import Asset
from edge_agent.detect import Detector, Pipeline
from edge_agent.errors import BundleRejected
from edge_agent.rollout.guard import CALM_S, FIRST_WAIT_S, MAX_FALLS, MAX_SWITCHES, SETTLE_S
from edge_agent.rollout.machine import MAX_BAD
from models.contract.messages import Body, RolloutStatus, ScoredWindows, ShadowReport, Step, TrialLimits
from models.contract.release import Cause, ShadowLimits
from models.paired import mean_difference
from tests.builders import SIGNALS, SPEC, Fleet, a_bundle
from tests.device import NEW, NEWER, OLD, Device, report


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def device(tmp_path: Path, fleet: Fleet) -> Device:
    return Device(tmp_path, fleet)


def cause(device: Device) -> Cause | None:
    evidence = device.said[-1].evidence
    return evidence.cause if evidence else None


def full(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


# Falls and loops


def test_a_release_that_kills_the_agent_twice_on_trial_is_denied(device: Device) -> None:
    device.to_trial(NEW)
    device.restart()  # nobody stopped it: a crash, or the kernel's memory killer
    assert (device.step, cause(device)) == (Step.ROLLED_BACK, Cause.RESTART)
    device.to_trial(NEW)
    device.restart()
    assert (device.step, cause(device)) == (Step.ROLLED_BACK, Cause.KILLED)
    assert "killed 2 times" in device.said[-1].reason
    device.offer(NEW)
    assert (device.step, cause(device)) == (Step.REJECTED, Cause.DENIED)


def test_clean_restarts_during_a_trial_go_back_and_blame_nobody(device: Device) -> None:
    for _ in range(3):
        device.to_trial(NEW)
        device.rollout.stop()
        device.restart()
        assert (device.step, cause(device)) == (Step.ROLLED_BACK, Cause.RESTART)
    device.verify(NEW)


def test_a_verified_release_that_lets_the_agent_fall_again_and_again_gives_way(device: Device) -> None:
    device.verify(NEW)
    for _ in range(MAX_FALLS - 1):
        device.restart()
        assert device.engine.runs == NEW
    device.restart()
    assert (device.engine.runs, device.step, cause(device)) == (OLD, Step.ROLLED_BACK, Cause.KILLED)
    device.restart()
    assert device.engine.runs == OLD  # the baseline stays, whoever falls
    device.wait(SETTLE_S + 1)
    device.offer(NEW)
    assert (device.step, cause(device)) == (Step.REJECTED, Cause.DENIED)


def test_what_has_run_for_long_is_not_blamed_for_falls(device: Device) -> None:
    device.verify(NEW)
    device.wait(SETTLE_S + 1)
    for _ in range(MAX_FALLS + 2):
        device.restart()
    assert device.engine.runs == NEW


def test_many_switches_make_the_next_release_wait_and_an_order_to_go_back_does_not(device: Device) -> None:
    for version in range(2, 2 + MAX_SWITCHES):
        device.verify(a_bundle(version, limit=0.5 + version / 100))
    last = device.engine.runs
    device.offer(NEWER)
    assert (device.step, cause(device)) == (Step.OFFERED, Cause.LOOP)
    assert f"{MAX_SWITCHES} switches" in device.said[-1].reason
    device.wait(FIRST_WAIT_S / 2)
    assert (device.step, device.engine.runs) == (Step.OFFERED, last)
    device.offer(OLD, mode="rollback")
    assert device.engine.runs == OLD
    device.offer(NEWER)
    device.wait(4 * FIRST_WAIT_S)
    assert device.step is Step.FETCHING


def test_after_an_hour_of_calm_loops_are_forgotten(device: Device) -> None:
    for version in range(2, 2 + MAX_SWITCHES + 3):
        device.memory.set(switches=version)
    device.restart()
    device.wait(CALM_S + 1)
    device.offer(NEW)
    assert device.step is Step.FETCHING
    assert device.memory.get("switches") == 0


# Time-outs


def test_what_does_not_come_is_given_up_and_not_blamed(device: Device) -> None:
    device.offer(NEW, fetch_seconds=50)
    device.wait(40)
    assert device.step is Step.FETCHING
    device.wait(11)
    assert (device.step, cause(device)) == (Step.REJECTED, Cause.TIMEOUT)
    device.to_trial(NEW)


def test_a_trial_lasts_by_windows_and_by_time(device: Device) -> None:
    device.to_trial(NEW, trial=TrialLimits(windows=16, min_seconds=100, max_seconds=50))
    device.engine.shown = report(16)
    device.wait(60)
    assert device.step is Step.TRIAL
    device.engine.shown = report(400, candidate_alarm_share=0.9)  # well at first, and harmful after an hour
    device.wait(10)
    assert device.step is Step.ROLLED_BACK
    assert device.said[-1].report is not None
    assert device.said[-1].report.seconds == pytest.approx(70)


# Ways back


def test_a_way_back_that_is_closed_is_said_and_nothing_is_made_up(device: Device) -> None:
    device.verify(NEW)
    device.engine.bad = frozenset({OLD.sha256})
    device.memory.set(go_back="it cries")
    device.rollout.turn()
    assert (device.step, cause(device)) == (Step.INCONSISTENT, Cause.NO_WAY_BACK)
    assert (device.said[-1].release, device.said[-1].running) == (NEW.ref, NEW.ref)
    assert "could not go back (it cries)" in device.said[-1].reason
    device.engine.bad = frozenset()
    device.verify(NEWER)  # a new order is the way out


def test_an_ordered_way_back_that_is_closed_leads_to_one_the_device_knows(device: Device) -> None:
    device.verify(NEW)
    device.verify(NEWER)
    device.engine.bad = frozenset({NEW.sha256})
    device.offer(NEW, mode="rollback", barred=[NEWER.sha256])
    assert device.engine.runs == OLD
    assert [s.step for s in device.said[-2:]] == [Step.REJECTED, Step.ROLLED_BACK]
    assert cause(device) is Cause.BARRED


def test_nothing_below_the_floor_is_gone_back_to_while_there_is_a_choice(device: Device) -> None:
    device.verify(NEW)
    device.verify(NEWER)
    device.offer(NEWER, floor=3)
    assert device.memory.get("floor") == 3
    device.memory.set(go_back="it cries")
    device.rollout.turn()
    assert device.engine.runs == OLD  # version 2 is below; the baseline is the last resort


def test_a_disk_that_takes_nothing_stops_no_way_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.to_trial(NEW)
    device.engine.shown = report(16, non_finite=3)
    with monkeypatch.context() as patch:
        patch.setattr(device.memory, "set", full)
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError):
                device.rollout.turn()
        assert (device.engine.runs, device.engine.tries) == (OLD, None)
        assert device.step is Step.TRIAL  # what is on disk
    device.rollout.turn()
    assert (device.step, cause(device)) == (Step.ROLLED_BACK, Cause.NOT_FINITE)


def test_going_back_on_a_full_disk_goes_one_step_back_and_no_further(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.verify(NEW)
    device.verify(NEWER)
    device.memory.set(go_back="it cries")
    with monkeypatch.context() as patch:
        patch.setattr(device.memory, "set", full)
        for _ in range(3):
            with pytest.raises(sqlite3.OperationalError):
                device.rollout.turn()
        assert device.engine.runs == NEW
    device.rollout.turn()
    assert (device.step, device.engine.runs, device.memory.get("current")) == (Step.ROLLED_BACK, NEW, NEW.sha256)


def test_a_device_starts_on_a_full_disk_with_what_is_known_to_be_good(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.verify(NEW)
    device.to_trial(NEWER)
    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.bundles.Memory.set", full)
        patch.setattr("edge_agent.bundles.write_whole", full)
        device.restart()
        assert (device.engine.runs, device.engine.tries) == (NEW, None)
        with pytest.raises(sqlite3.OperationalError):
            device.rollout.turn()
    device.rollout.turn()
    assert (device.step, cause(device)) == (Step.ROLLED_BACK, Cause.RESTART)


def test_a_candidate_altered_on_the_disk_is_not_verified_and_not_blamed(device: Device) -> None:
    device.to_trial(NEW)
    path = device.folder / "bundles" / f"{NEW.sha256}.bundle"
    path.write_bytes(path.read_bytes()[:-1])
    device.engine.shown = report(16)
    device.rollout.turn()
    assert (device.step, cause(device), device.engine.runs) == (Step.ROLLED_BACK, Cause.UNUSABLE, OLD)
    device.to_trial(NEW)  # fetched again


def test_a_check_that_can_not_be_started_says_nothing_of_the_release(device: Device) -> None:
    def no_process(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    device.rollout._checker._examine = no_process
    device.offer(NEW)
    for act in (lambda: device.send(NEW), device.rollout.turn, device.rollout.turn, device.rollout.turn):
        with pytest.raises(OSError, match="allocate"):
            act()
        assert device.step is Step.CHECKING
    device.rollout._checker._examine = lambda *_: None
    device.rollout.turn()
    assert device.step is Step.TRIAL


def test_what_can_not_be_told_at_once_is_told_later(device: Device) -> None:
    put = device.rollout._record._put

    device.rollout._record._put = full
    with pytest.raises(sqlite3.OperationalError):  # the loop says so and goes on
        device.offer(NEWER, barred=[NEWER.sha256])
    assert (device.step, device.said) == (Step.REJECTED, [])
    device.rollout._record._put = put
    device.rollout.turn()
    assert [s.step for s in device.said] == [Step.REJECTED]


def test_another_bundle_that_scores_than_should_is_put_right(device: Device) -> None:
    device.verify(NEW)
    device.engine.runs = OLD
    device.rollout.turn()
    assert device.engine.runs == NEW
    device.engine.run = lambda bundle: None  # type: ignore[method-assign]
    device.engine.runs = OLD
    device.rollout.turn()
    assert (device.step, cause(device)) == (Step.INCONSISTENT, Cause.RUNNING_HASH)


def test_a_verified_model_that_stops_giving_numbers_is_left(device: Device) -> None:
    device.verify(NEW)
    device.engine.bad_windows = MAX_BAD
    device.rollout.turn()
    assert (device.engine.runs, device.step, cause(device)) == (OLD, Step.ROLLED_BACK, Cause.NOT_FINITE)
    said = len(device.said)
    device.rollout.turn()  # the baseline has nothing behind it
    assert (device.engine.runs, len(device.said)) == (OLD, said)


# Shadow


def to_shadow(device: Device, **changes: Any) -> None:
    device.offer(NEW, mode="shadow", shadow=ShadowLimits(seconds=100), **changes)
    if device.step is Step.FETCHING:
        device.send(NEW)
    assert (device.step, device.engine.runs, device.engine.shadows) == (Step.SHADOW, OLD, NEW)
    assert device.engine.tries is None


def test_a_challenger_runs_in_shadow_for_its_time_and_takes_nothing_over(device: Device) -> None:
    to_shadow(device)
    device.wait(70)
    device.wait(1)
    device.rollout.stop()
    device.restart()  # it decides nothing, so it goes on; the time so far counts
    assert device.engine.shadows == NEW
    device.wait(31)
    assert (device.step, device.engine.runs, device.engine.shadows) == (Step.SHADOWED, OLD, None)
    device.to_trial(NEW)
    assert device.asked == [(NEW.sha256, (0, 1))]  # downloaded once


def test_a_newer_order_ends_the_shadow(device: Device) -> None:
    to_shadow(device)
    device.verify(NEWER)
    assert device.engine.shadows is None
    assert Step.SHADOWED in [s.step for s in device.said]


def test_a_challenger_that_fails_or_kills_is_sent_away(device: Device) -> None:
    to_shadow(device)
    device.engine.failure = "it does not score"
    device.rollout.turn()
    assert (device.step, device.engine.shadows) == (Step.REJECTED, None)
    device.engine.failure = None
    to_shadow(device)
    device.restart()
    assert device.step is Step.SHADOW
    device.restart()
    assert (device.step, cause(device)) == (Step.REJECTED, Cause.KILLED)
    device.offer(NEW)
    assert cause(device) is Cause.DENIED


# With the detector itself


class Machine:
    """One pump and its detector, with a clock that the test holds."""

    def __init__(self, device: Device, folder: Path | None = None) -> None:
        fields = {"id": "pump1", "source": "mqtt", "sample_share": 0.0, "hard_share": 0.0}
        source = {"topic": "t", "rate_hz": SPEC.rate_hz, "signals": SIGNALS}
        asset = Asset.model_validate(fields | {"mqtt": source})
        self.said: list[Body] = []
        self.pipeline = Pipeline(asset, SIGNALS, SPEC, folder, device.clock)
        self.detector = Detector([self.pipeline], self.said.extend, device.clock)
        self._device, self._dice = device, np.random.default_rng(1)

    def run(self, windows: int, seconds: float = 0.5, amplitude: float = 0.1) -> None:
        for _ in range(windows):
            self._device.now += seconds
            times = self._device.now + np.arange(SPEC.n_samples) / SPEC.rate_hz
            values = amplitude * self._dice.standard_normal((1, SPEC.n_samples))
            self.detector.feed("pump1", times, values.astype(np.float32))


def test_a_shadow_keeps_to_its_share_sends_pairs_and_raises_nothing(device: Device, fleet: Fleet) -> None:
    machine = Machine(device)
    machine.detector.run(OLD)
    harmful = a_bundle(2, limit=0.01)
    limits = ShadowLimits(cpu_share=0.5, report_s=1000)
    machine.detector.shadow(harmful, fleet.assignment(harmful, "shadow", shadow=limits))
    machine.run(50)
    machine.detector.end_shadow()
    (told,) = [body for body in machine.said if isinstance(body, ShadowReport)]
    assert (told.windows, told.scores.n, told.challenger, told.champion) == (50, 50, harmful.ref, OLD.ref)
    assert told.scores.only_challenger_over == 50
    assert mean_difference(told.scores) > 0.5
    assert 0 < told.cpu_s <= 0.5 * told.wall_s
    # Nothing of it is an alarm or in the prediction log: those are what the champion says.
    assert {type(body) for body in machine.said} == {ShadowReport, ScoredWindows}
    assert {body.model for body in machine.said if isinstance(body, ScoredWindows)} == {OLD.ref}
    # A share far under what one window takes: few are scored, the rest passed over and counted.
    mean = told.cpu_s / 50
    limits = ShadowLimits(cpu_share=mean / 0.5 / 10, report_s=1000)  # a tenth of the windows, of one each half second
    machine.detector.shadow(harmful, fleet.assignment(harmful, "shadow", shadow=limits))
    machine.run(200)
    machine.detector.end_shadow()
    told = [body for body in machine.said if isinstance(body, ShadowReport)][-1]
    assert told.windows == 200
    assert 2 <= told.scores.n <= 80
    assert told.cpu_s <= limits.cpu_share * told.wall_s + 5 * mean  # no more than about one window ahead


def test_a_challenger_that_breaks_harms_nobody(device: Device, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(device)
    machine.detector.run(OLD)
    machine.detector.shadow(NEW, fleet.assignment(NEW, "shadow"))
    shadow = machine.detector._shadow
    assert shadow is not None

    def breaks(_: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(shadow._judges["pump1"], "see", breaks)
    machine.run(5)
    assert machine.pipeline.windows == 5
    assert machine.detector.shadow_failure() == "it does not score: no kernel"


def test_a_model_that_raises_gives_no_score_and_takes_nothing_down(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(device)
    machine.detector.run(OLD)
    machine.detector.try_out(NEW)
    candidate = machine.pipeline.candidate
    assert candidate is not None

    def breaks(*_: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(candidate.scorer, "score", breaks)
    machine.run(3)
    shown = machine.detector.trial()
    assert shown is not None
    assert (shown.windows, shown.non_finite, machine.pipeline.windows) == (3, 3, 3)


def test_going_back_brings_rule_and_learned_normal_back_too(device: Device, tmp_path: Path) -> None:
    from models.baseline import shipped

    learns = shipped().bundle
    machine = Machine(device, tmp_path / "references")
    machine.detector.run(learns)
    machine.run(60)
    before = machine.pipeline.current
    assert before is not None
    assert before.reference is not None
    machine.detector.run(NEW)
    assert machine.pipeline.current is not None
    assert machine.pipeline.current.rule != before.rule
    machine.detector.run(learns)  # as a Rollout does on the way back
    after = machine.pipeline.current
    assert after is not None
    assert after.reference is not None
    assert after.rule == before.rule
    assert not after.learning
    np.testing.assert_array_equal(after.reference.whiten, before.reference.whiten)
    vector = np.abs(np.random.default_rng(2).standard_normal(len(machine.pipeline.names))) + 0.1
    assert after.see(vector).scored == before.see(vector).scored


def test_a_bundle_for_another_runtime_or_agent_is_refused(device: Device) -> None:
    machine = Machine(device)
    for manifest in ({"min_agent": "99.0"}, {"feature_set": "0" * 16}):
        with pytest.raises(BundleRejected) as refused:
            machine.detector.check(a_bundle(2, **manifest))
        assert refused.value.cause is Cause.FIT


@pytest.mark.parametrize(("off", "passes"), [(5e-4, True), (2e-3, False), (-2e-3, False), (float("nan"), False)])
def test_other_scores_than_the_golden_ones_are_no_fit_for_this_machine(
    device: Device, off: float, passes: bool
) -> None:
    """As another processor or runtime would give them: within the tolerance of 0.001, or refused."""
    good = a_bundle(2)
    (case,) = good.canary.cases
    edited = good.canary.model_copy(update={"cases": (case.model_copy(update={"score": case.score + off}),)})
    bundle = replace(good, canary=edited)
    machine = Machine(device)
    if passes:
        machine.detector.check(bundle)
        return
    with pytest.raises(BundleRejected, match="canary window 0") as refused:
        machine.detector.check(bundle)
    assert refused.value.cause is Cause.CANARY


def test_the_step_is_told_with_numbers(device: Device) -> None:
    device.to_trial(NEW)
    device.engine.shown = report(16, candidate_latency_us=9000.0)
    device.rollout.turn()
    last: RolloutStatus = device.said[-1]
    assert last.evidence is not None
    assert (last.evidence.before, last.evidence.after, last.evidence.allowed) == (100.0, 9000.0, 2300.0)
    assert last.evidence.unit == "us"
