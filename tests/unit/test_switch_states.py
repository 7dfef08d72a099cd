"""Any order of offers, pieces, trials, falls, people and power cuts: what must hold after each of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.contract.messages import Step
from models.contract.release import ShadowLimits
from tests.builders import Fleet, a_bundle
from tests.device import OLD, Device, report

RELEASES = [a_bundle(version, limit=0.5 + version / 100) for version in range(2, 6)]
KNOWN = {bundle.sha256: bundle for bundle in (OLD, *RELEASES)}
ON_THE_WAY = (Step.OFFERED, Step.FETCHING, Step.CHECKING, Step.SHADOW, Step.TRIAL)


class Switch(RuleBasedStateMachine):
    """One device, its disk and its server."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.device = Device(Path(self.home.name), Fleet())
        self.floor = self.sequence = 0
        self.barred: set[str] = set()
        self.denied: set[str] = set()  # by people: nothing else forgives

    def teardown(self) -> None:
        self.device.memory.close()
        self.home.cleanup()

    @rule(
        release=st.sampled_from([OLD, *RELEASES]),
        mode=st.sampled_from(["trial", "trial", "rollback", "shadow"]),
        floor=st.sampled_from([1, 1, 1, 2, 3]),
        bar=st.lists(st.sampled_from(RELEASES), max_size=1),
    )
    def offer(self, release: Any, mode: Any, floor: int, bar: list[Any]) -> None:
        shadow = ShadowLimits(seconds=50)
        barred = [bundle.sha256 for bundle in bar]
        self.device.offer(release, mode=mode, floor=floor, barred=barred, shadow=shadow)
        self.barred |= set(barred)

    @precondition(lambda self: self.device.step is Step.FETCHING)
    @rule()
    def pieces_come(self) -> None:
        self.device.send(KNOWN[self.device.rollout.assignment.model.sha256])

    @precondition(lambda self: self.device.step is Step.TRIAL)
    @rule(harmful=st.booleans())
    def trial_ends(self, harmful: bool) -> None:
        self.device.engine.shown = report(16, candidate_alarm_share=1.0 if harmful else 0.0)
        self.device.rollout.turn()
        assert self.device.step is (Step.ROLLED_BACK if harmful else Step.ACTIVE)

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        if clean:
            self.device.rollout.stop()
        self.device.memory.close()
        self.device.restart()
        assert self.device.step is not Step.TRIAL

    @rule()
    def somebody_goes_back(self) -> None:
        self.device.memory.set(go_back="somebody wants to")
        self.device.rollout.turn()

    @rule(release=st.sampled_from(RELEASES))
    def somebody_forgives(self, release: Any) -> None:
        self.device.memory.set(failed=lambda known: [each for each in known or [] if each != release.sha256])

    @rule(seconds=st.sampled_from([10.0, 60.0, 4000.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.device.wait(seconds)

    @rule(bad=st.lists(st.sampled_from(RELEASES), max_size=2))
    def releases_go_bad(self, bad: list[Any]) -> None:
        """They fit no more, from now on or from the next start on."""
        self.device.bad = frozenset(bundle.sha256 for bundle in bad)
        self.device.engine.bad = self.device.bad

    @invariant()
    def one_verified_bundle_runs_and_is_the_one_it_says(self) -> None:
        runs, memory = self.device.engine.runs, self.device.memory
        assert runs is not None
        assert runs.ref == self.device.rollout.running
        assert runs.sha256 == memory.get("current")
        assert runs.sha256 in memory.get("verified")

    @invariant()
    def a_candidate_scores_on_trial_alone(self) -> None:
        step, engine = self.device.step, self.device.engine
        assert (engine.tries is not None) == (step is Step.TRIAL)
        assert (engine.shadows is not None) == (step is Step.SHADOW)
        for each in (engine.tries, engine.shadows):
            assert each is None or each.ref == self.device.rollout.assignment.model

    @invariant()
    def the_last_order_counts_and_nothing_falls(self) -> None:
        memory = self.device.memory
        assert memory.get("sequence", 0) >= self.sequence
        assert memory.get("floor", 0) >= self.floor
        assert set(memory.get("barred", [])) == self.barred
        self.sequence, self.floor = memory.get("sequence", 0), memory.get("floor", 0)
        if self.device.step in ON_THE_WAY:
            assert self.device.rollout.assignment.sequence == self.sequence

    @invariant()
    def what_is_on_its_way_may_come(self) -> None:
        if self.device.step in (Step.TRIAL, Step.SHADOW):
            model = self.device.rollout.assignment.model
            assert model.sha256 not in self.barred
            assert model.version >= self.floor

    @invariant()
    def every_step_was_told(self) -> None:
        assert self.device.memory.get("untold") is None
        if self.device.said and self.device.step is not Step.ACTIVE:
            assert self.device.said[-1].step is self.device.step


Switch.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_a_device_in_any_order_of_events = Switch.TestCase
