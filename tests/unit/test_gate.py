"""The gate: a better model passes, an equal one does not, a worse one does not, and "cannot tell" is an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from fleet_server.learning import export, gate, training
from fleet_server.learning.dataset import Dataset, assemble
from models import baseline
from models.bundle.files import Bundle, Canary, CanaryCase, pack, unpack
from models.bundle.manifest import Origin
from models.scoring import Scorer
from tests import fleet_rows
from tests.fleet_rows import NAMES_OF_ALL, SIGNALS, WINDOW


def bundle(data: Dataset, version: int) -> Bundle:
    origin = Origin(trained_on="fleet")
    when = datetime(2026, 3, 1, tzinfo=UTC)
    return export.export(training.fit(data), data, export.Said("pump", version, when, origin))[0]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return fleet_rows.dataset()


@pytest.fixture(scope="module")
def knows_load(data: Dataset) -> Bundle:
    """Has learned from verdicts that a high load is no fault."""
    return bundle(data, 3)


@pytest.fixture(scope="module")
def alarms_on_load() -> Bundle:
    rows = [row for row in fleet_rows.rows() if not (row.window_class == "normal" and row.block.startswith("event"))]
    return bundle(assemble(rows, NAMES_OF_ALL, WINDOW, SIGNALS), 2)


def verdict(report: dict[str, Any]) -> str:
    json.dumps(report, allow_nan=False)  # PostgreSQL stores no nan in JSON
    assert report["text"].startswith(f"# Gate: {report['verdict']}")
    assert report["reasons"]
    return str(report["verdict"])


def test_a_better_model_passes(data: Dataset, knows_load: Bundle, alarms_on_load: Bundle) -> None:
    report = gate.judge(data, knows_load, alarms_on_load)
    assert verdict(report) == "pass"
    assert report["metrics"]["difference"]["cost"]["high"] < 0
    assert report["counts"]["fault_blocks"] >= gate.MIN_FAULT_BLOCKS


def test_an_equal_model_fails(data: Dataset, knows_load: Bundle) -> None:
    report = gate.judge(data, knows_load, knows_load)
    assert verdict(report) == "fail"
    assert "not better" in report["reasons"][0]


def test_a_worse_model_fails(data: Dataset, knows_load: Bundle, alarms_on_load: Bundle) -> None:
    assert verdict(gate.judge(data, alarms_on_load, knows_load)) == "fail"


def test_a_model_that_sees_nothing_fails_whatever_it_saves(data: Dataset, alarms_on_load: Bundle) -> None:
    """No false alarm at all, and no fault found."""
    blind = _with_limit(alarms_on_load, -1e9)
    report = gate.judge(data, blind, alarms_on_load)
    assert verdict(report) == "fail"
    assert any("fewer faults" in reason for reason in report["reasons"])


def test_chance_alone_does_not_pass() -> None:
    """Many pairs of models that are equally good: about one in forty may look better, not more."""
    rng = np.random.default_rng(5)
    passed = 0
    for draw in range(60):
        fault = np.arange(240) >= 200
        blocks = np.array([f"b{i // 5}" for i in range(240)])
        new, old = (rng.random(240) < np.where(fault, 0.8, 0.1) for _ in range(2))
        generator = np.random.default_rng(draw)
        cost, _ = gate._differences(new, old, fault, np.ones(240), blocks, generator, gate.NOISE)
        passed += cost.high < 0
    assert passed <= 6


def test_the_scores_that_a_self_learning_model_gave_speak_for_it(data: Dataset, knows_load: Bundle) -> None:
    report = gate.judge(data, knows_load, baseline.shipped().bundle)
    assert verdict(report) == "pass"
    assert "recorded" in report["how"]["current"]
    silent = replace(data, versions=np.full_like(data.versions, 7))  # another model ran
    assert verdict(gate.judge(silent, knows_load, baseline.shipped().bundle)) == "cannot tell"


@pytest.mark.parametrize("changes", [{"events": 1}, {"n_assets": 2, "events": 2}], ids=["one event each", "two assets"])
def test_too_few_held_out_faults_cannot_tell(
    changes: dict[str, int], knows_load: Bundle, alarms_on_load: Bundle
) -> None:
    report = gate.judge(fleet_rows.dataset(**changes), knows_load, alarms_on_load)
    assert verdict(report) == "cannot tell"
    assert "held-out fault windows" in report["summary"]


def test_no_current_model_cannot_tell(data: Dataset, knows_load: Bundle) -> None:
    assert verdict(gate.judge(data, knows_load, None)) == "cannot tell"


def test_a_model_that_is_better_on_the_whole_and_worse_on_one_asset_fails() -> None:
    rows = fleet_rows.rows(n_assets=6, normal=120, events=8)
    data = assemble(rows, NAMES_OF_ALL, WINDOW, SIGNALS)
    victim = sorted(set(data.assets[data.holdout]))[0]
    rng = np.random.default_rng(3)
    fault = data.classes != "normal"
    held = data.holdout
    right = np.where(fault, 0.9, 0.1)
    old = np.where(rng.random(len(right)) < 0.6, 1 - right, right)
    old[data.assets == victim] = right[data.assets == victim]
    new = right.copy()
    quiet = (data.assets == victim) & ~fault
    new[quiet] = np.where(rng.random(int(quiet.sum())) < 0.3, 0.9, 0.1)
    report: dict[str, Any] = {}
    failed: list[str] = []
    one, two = (gate.Verdicts(scores[held], 0.5, "") for scores in (new, old))
    gate._compare(data, np.flatnonzero(held), one, two, fault[held], report, failed)
    assert report["metrics"]["difference"]["cost"]["high"] < 0
    assert failed
    assert all(victim in reason for reason in failed)


def test_a_slow_or_large_model_fails(
    data: Dataset, knows_load: Bundle, alarms_on_load: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_BYTES", 1000)
    monkeypatch.setattr(gate, "MAX_LATENCY_US", 0.1)
    report = gate.judge(data, knows_load, alarms_on_load)
    assert verdict(report) == "fail"
    assert len(report["reasons"]) == 2


def _with_limit(made: Bundle, limit: float) -> Bundle:
    """A novelty that lets everything pass, and no classifier."""
    fields = made.manifest.model_dump(exclude={"files"}) | {
        "classifier": None,
        "novelty": made.manifest.novelty.model_copy(update={"limit": limit}),
    }
    models = {"novelty.onnx": made.files["novelty.onnx"]}
    vector = made.canary.cases[0].vector
    draft = Scorer(unpack(pack(fields, models, Canary(cases=(CanaryCase(vector=vector, score=0.0),)))))
    score = draft.score(np.array(vector)).score
    return unpack(pack(fields, models, Canary(cases=(CanaryCase(vector=vector, score=score),))))
