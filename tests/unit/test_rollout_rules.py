"""What a rollout does next, row by row of a table; and how devices are put in waves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fleet_server.config import Rollouts
from fleet_server.errors import Refused
from fleet_server.release.waves import Do, Standing, decide, split, standing
from fleet_server.store.rollouts import AssignmentRow, RolloutRow
from models.contract.messages import Step

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RULES = Rollouts(soak_s=60, deadline_s=3600)
ROLLOUT = RolloutRow(
    rollout_id="pump-2",
    sha256="a" * 64,
    name="pump",
    version=2,
    mode="trial",
    state="running",
    wave=1,
    n_waves=2,
    started_at=NOW,
    wave_done_at=None,
    ended_at=None,
    reason="",
)


def order(
    device: str, wave: int = 1, step: Step | None = None, age_s: float | None = 10, **more: bool
) -> AssignmentRow:
    """An order of that age; None: its wave has not started."""
    return AssignmentRow(
        device_id=device,
        sequence=1,
        rollout_id="pump-2",
        wave=wave,
        sha256="a" * 64,
        mode="trial",
        issued_at=None if age_s is None else NOW - timedelta(seconds=age_s),
        published=True,
        step=step,
        step_at=None,
        reason="",
        cause=None,
        superseded=more.get("superseded", False),
        running=more.get("running", False),
    )


LATER = order("z", wave=2, age_s=None)
ACTIVE, TRIAL, BACK, REJECTED = Step.ACTIVE, Step.TRIAL, Step.ROLLED_BACK, Step.REJECTED


@pytest.mark.parametrize(
    ("rows", "do"),
    [
        ([order("a", age_s=None), LATER], Do.ISSUE),
        ([order("a"), LATER], Do.WAIT),
        ([order("a", step=TRIAL), LATER], Do.WAIT),
        ([order("a", step=ACTIVE), LATER], Do.SOAK),
        ([order("a", step=ACTIVE), order("b", step=TRIAL), LATER], Do.WAIT),
        ([order("a", running=True), LATER], Do.SOAK),  # its heartbeat says so, the status got lost
        ([order("a", step=REJECTED), LATER], Do.STOP),
        ([order("a", step=ACTIVE), order("b", step=BACK), LATER], Do.STOP),
        ([order("a", age_s=4000), LATER], Do.PAUSE),  # nobody proved anything
        ([order("a", step=ACTIVE), order("b", age_s=4000), LATER], Do.SOAK),  # offline: counted apart
        ([order("a", superseded=True), LATER], Do.SOAK),
        ([order("a", superseded=True, step=BACK), LATER], Do.STOP),  # harm counts whatever came after it
    ],
)
def test_the_first_wave(rows: list[AssignmentRow], do: Do) -> None:
    assert decide(ROLLOUT, rows, NOW, RULES).do is do


@pytest.mark.parametrize(
    ("soaked_s", "wave", "do"), [(30, 1, Do.WAIT), (61, 1, Do.NEXT), (30, 2, Do.WAIT), (61, 2, Do.FINISH)]
)
def test_soak_comes_before_the_next_wave_and_before_the_end(soaked_s: float, wave: int, do: Do) -> None:
    rollout = replace(ROLLOUT, wave=wave, wave_done_at=NOW - timedelta(seconds=soaked_s))
    rows = [order("a", step=ACTIVE), order("b", wave=2, step=ACTIVE if wave == 2 else None)]
    assert decide(rollout, rows, NOW, RULES).do is do


def test_harm_during_the_soak_or_a_pause_still_stops() -> None:
    rows = [order("a", step=ACTIVE), order("b", step=BACK), LATER]
    for rollout in (replace(ROLLOUT, wave_done_at=NOW), replace(ROLLOUT, state="paused")):
        step = decide(rollout, rows, NOW, RULES)
        assert step.do is Do.STOP
        assert "b rolled_back" in step.reason


def test_the_share_of_harm_is_of_devices_that_tried() -> None:
    lenient = RULES.model_copy(update={"max_harm_share": 0.25})
    tried = [order("b", step=BACK), *(order(f"a{i}", step=ACTIVE) for i in range(3))]
    assert decide(ROLLOUT, [*tried, LATER], NOW, lenient).do is Do.SOAK
    silent = [order("b", step=BACK), order("a", step=ACTIVE), *(order(f"s{i}") for i in range(9))]
    assert decide(ROLLOUT, [*silent, LATER], NOW, lenient).do is Do.STOP


def test_a_way_back_is_never_stopped_by_harm() -> None:
    rollback = replace(ROLLOUT, mode="rollback", n_waves=1)
    assert decide(rollback, [order("a", step=REJECTED)], NOW, RULES).do is Do.SOAK
    assert decide(replace(rollback, wave_done_at=NOW), [order("a", age_s=4000)], NOW, RULES).do is Do.FINISH


def test_standing_of_an_unissued_superseded_order() -> None:
    assert standing(order("a", age_s=None, superseded=True), NOW, 3600) is Standing.SUPERSEDED


@pytest.mark.parametrize(
    ("n", "waves", "sizes"),
    [
        (5, "1,4", [1, 4]),
        (5, "20%,100%", [1, 4]),
        (5, "1,50%,100%", [1, 2, 2]),
        (3, "2", [2]),
        (10, "1%,100%", [1, 9]),
    ],
)
def test_waves(n: int, waves: str, sizes: list[int]) -> None:
    devices = [f"d{i}" for i in range(n)]
    parts = split(devices, waves)
    assert [len(part) for part in parts] == sizes
    assert [device for part in parts for device in part] == devices[: sum(sizes)]


@pytest.mark.parametrize("waves", ["", "0", "x", "1,,2", "120%", "-1", "5,1", "100%,100%", "1.5"])
def test_waves_that_make_no_sense_are_refused(waves: str) -> None:
    with pytest.raises(Refused):
        split([f"d{i}" for i in range(5)], waves)
