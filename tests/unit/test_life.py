"""Remaining useful life: what it is told from, that the interval keeps its promise, that agent and training agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import BundleRejected
from edge_agent.page.overview import remaining
from fleet_server.errors import BadConfig, Refused
from fleet_server.learning import files, lives
from models import life
from models.bundle import graph
from models.bundle.files import unpack
from models.contract.signals import Signal, WindowSpec
from models.scoring import Scorer
from tests.unit.test_detect import Machine

SPEC = WindowSpec(rate_hz=1.0, n_samples=4, hop=1)
N_RUNS = 24


def a_run(k: int) -> dict[str, Any]:
    """A pump that wears for 60 to 110 cycles, under one of two loads that change at every cycle."""
    rng = np.random.default_rng(k)
    n = int(rng.integers(60, 110))
    left = np.arange(n)[::-1]
    load = rng.integers(0, 2, n).astype(float)
    wear = np.exp(-left / 20)
    return {
        "rate_hz": 1.0,
        "load": load * 100 + rng.normal(0, 0.1, n),
        "heat": 50 + 30 * load + 4 * wear + rng.normal(0, 0.3, n),
        "flow": 8 - 2 * load - 2 * wear + rng.normal(0, 0.1, n),
    }


def recorded(folder: Path, cut: int) -> None:
    """All but the last six run to failure; these are held out, and end `cut` cycles before it."""
    said = ['name = "pump"', "[window]", "n_samples = 4", "hop = 1", "[life]", 'unit = "cycles"', "cap = 50"]
    said += ['conditions = ["load"]', "coverage = 0.8"]
    for k in range(N_RUNS):
        held = k >= N_RUNS - 6
        run = a_run(k)
        n = len(run["load"]) - (cut if held else 0)
        np.savez(folder / f"run{k:02}.npz", **{name: v if np.ndim(v) == 0 else v[:n] for name, v in run.items()})
        said += ["[[recording]]", f'path = "run{k:02}.npz"', f"remaining = {cut if held else 0}", "normal_rows = 15"]
        said += [f"holdout = {str(held).lower()}"]
    (folder / "train.toml").write_text("\n".join(said))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> files.Result:
    folder = tmp_path_factory.mktemp("life")
    recorded(folder, cut=12)
    return files.train(folder / "train.toml")


def test_runs_to_failure_teach_what_is_left_with_an_interval(trained: files.Result) -> None:
    facts = trained.summary["remaining_life"]
    assert facts["conditions"] == 2  # the load is no wear
    assert facts["held_out"]["machines"] == 6
    assert facts["held_out"]["rmse_cut"] < 5
    assert facts["held_out"]["inside_interval"] >= 0.5
    assert 0 < facts["held_out"]["median_width"] < 30
    bundle = unpack(trained.bundle.data)
    graph.check(bundle)
    Scorer(bundle).check_canary()
    assert bundle.manifest.life.channels == ("heat", "flow")
    assert "remaining life" in files.as_text(trained.summary)


def on_device(trained: files.Result, folder: Path | None, signals: str = "load heat flow") -> Machine:
    named = tuple(Signal(name=name) for name in signals.split())
    return Machine(trained.bundle, folder, signals=named, spec=SPEC)


def test_the_agent_tells_what_training_tells_and_goes_on_after_a_restart(trained: files.Result, tmp_path: Path) -> None:
    run = a_run(N_RUNS - 1)
    n = len(run["load"]) - 12
    values = np.array([run["load"], run["heat"], run["flow"]])[:, :n]
    machine = on_device(trained, tmp_path)
    machine.samples(values[:, : n // 2], 1.0)
    machine.detector.flush(force=True)
    again = on_device(trained, tmp_path)
    again.samples(values[:, n // 2 - 3 :], 1.0)  # the windows go on where they were
    told = again.detector.health()["pump1"].life
    assert told is not None
    assert told.steps == n - 3
    assert abs(told.estimate - 12) < 10
    assert told.low <= told.estimate <= (told.high or told.cap)
    spec = trained.bundle.manifest.life
    steps = values.T[3:]
    expected = Scorer(trained.bundle)._life_of(life.compose(life.scaled(steps, ("load", "heat", "flow"), spec), n - 3))
    assert told.estimate == pytest.approx(np.clip(expected, 0, 50), abs=1e-3)
    assert "cycles left" in remaining(told)
    again.detector.begin_recording("pump1")  # another life
    assert again.detector.health()["pump1"].life is None


def test_a_load_nobody_trained_on_is_passed_over(trained: files.Result) -> None:
    machine = on_device(trained, None)
    rng = np.random.default_rng(5)
    machine.samples(np.array([np.full(40, 5000.0), rng.normal(90, 1, 40), rng.normal(2, 1, 40)]), 1.0)
    assert machine.detector.health()["pump1"].life is None


def test_an_asset_that_lacks_a_channel_refuses_the_bundle(trained: files.Result) -> None:
    with pytest.raises(BundleRejected):
        on_device(trained, None, "load heat")


def test_a_damaged_file_of_a_life_begins_anew(trained: files.Result, tmp_path: Path) -> None:
    values = np.array([a_run(1)[name] for name in ("load", "heat", "flow")])
    machine = on_device(trained, tmp_path)
    machine.samples(values, 1.0)
    machine.detector.flush(force=True)
    (file,) = tmp_path.glob("*.life.npz")
    file.write_bytes(file.read_bytes()[:-40])
    again = on_device(trained, tmp_path)
    again.samples(values[:, :20], 1.0)
    assert again.detector.health()["pump1"].life.steps == 17


def test_too_few_runs_and_runs_without_an_end_are_refused(tmp_path: Path) -> None:
    recorded(tmp_path, cut=5)
    text = (tmp_path / "train.toml").read_text()
    few = text.split("[[recording]]")
    (tmp_path / "few.toml").write_text("[[recording]]".join(few[:3]))
    with pytest.raises(Refused, match="at least 4 machines"):
        files.train(tmp_path / "few.toml")
    (tmp_path / "no.toml").write_text("\n".join(line for line in text.split("\n") if "remaining" not in line))
    with pytest.raises(BadConfig, match="what was left after their last row"):
        files.train(tmp_path / "no.toml")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 150), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_history_gives_means_and_rises_as_the_obvious_way_does(n: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(n, width))
    history = life.History(width, 1)
    for row in values:
        assert history.push(row)
    got = life.compose(history.recent, history.age)
    assert got[-1] == min(n, life.MAX_AGE)
    told = got[:-1].reshape(-1, width)
    for row, length in zip(told, life.MEANS, strict=False):
        np.testing.assert_allclose(row, values[-length:].mean(axis=0), atol=1e-9)
    for row, length in zip(told[len(life.MEANS) :], life.SLOPES, strict=True):
        last = values[-length:]
        rise = np.polyfit(np.arange(len(last)), last, 1)[0] * length if len(last) >= 5 else np.zeros(width)
        np.testing.assert_allclose(row, rise, atol=1e-8)
    again = life.History(width, 1)
    assert again.load(history.dump())
    assert again.age == n
    assert not life.History(width + 1, 1).load(history.dump())


def test_the_interval_holds_for_a_machine_to_come_however_many_steps_each_has() -> None:
    """A machine errs alike at all its steps, and one has most of them: the share of machines counts, not of steps."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        errors = rng.normal(size=31)
        counts = rng.integers(1, 5, 30)
        counts[0] = 500
        groups = np.repeat(np.arange(30), counts)
        limit = lives._by_machine(errors[:30][groups], groups, 0.9)
        inside.append(errors[30] <= limit)
    assert np.mean(inside) >= 0.87  # 0.9 promised, 300 tried
    assert lives._by_machine(np.zeros(5), np.arange(5), 0.9) == float("inf")  # five machines cannot promise that
