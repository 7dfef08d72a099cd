"""Training and export: the bundle scores as the estimators do, the same rows give the same bytes; and from files."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from fleet_server.errors import BadConfig, NotFound, Refused
from fleet_server.learning import classifiers, export, files, training
from fleet_server.learning.dataset import Dataset, assemble
from fleet_server.learning.training import Distance, Fitted
from models.bundle import graph
from models.bundle.files import Bundle, unpack
from models.bundle.manifest import Origin
from models.contract.labels import NORMAL
from models.contract.signals import WindowSpec
from models.scoring import Scorer
from tests import fleet_rows

WHEN = datetime(2026, 3, 1, tzinfo=UTC)


def exported(data: Dataset) -> tuple[Bundle, Fitted, float]:
    fitted = training.fit(data)
    origin = Origin(trained_on="fleet", dataset=data.sha256)
    bundle, proof = export.export(fitted, data, export.Said("pump", 2, WHEN, origin))
    return bundle, fitted, proof["worst"]


def slow(data: Dataset) -> Dataset:
    return replace(data, window=WindowSpec(rate_hz=1, n_samples=20, hop=1))


@pytest.mark.parametrize("shape", [lambda data: data, slow], ids=["mixture", "distance"])
def test_the_bundle_scores_as_what_was_trained(shape: object) -> None:
    data = shape(fleet_rows.dataset())  # type: ignore[operator]
    bundle, fitted, worst = exported(data)
    assert worst <= export.TOLERANCE
    assert isinstance(fitted.novelty, Distance) == (data.window.rate_hz == 1)
    scorer = Scorer(bundle)
    scorer.check_canary()
    positions = scorer.positions(data.names)
    scores = np.array([scorer.score(row[positions]).score for row in data.vectors])
    together = scorer.score_all(data.vectors[:, positions])
    np.testing.assert_allclose([scored.score for scored in together], scores, atol=1e-6)
    assert np.isfinite(scores).all()
    held, normal = data.holdout, data.classes == NORMAL
    assert (scores[held & normal] >= 0.5).mean() < 0.05
    if data.window.rate_hz > 1:
        assert (scores[held & ~normal] >= 0.5).all()


def test_a_calibrated_classifier_ships_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "CALIBRATE", (1, 1))  # the fleet's rows are too few for it
    bundle, fitted, worst = exported(fleet_rows.dataset())
    assert fitted.facts["calibrated"]
    assert worst <= export.TOLERANCE
    graph.check(bundle)


def test_the_same_rows_give_the_same_bytes() -> None:
    assert exported(fleet_rows.dataset())[0].sha256 == exported(fleet_rows.dataset())[0].sha256


def test_without_enough_faults_there_is_no_classifier() -> None:
    bundle, fitted, _ = exported(
        assemble([row for row in fleet_rows.rows() if row.window_class == NORMAL], *_meaning())
    )
    assert fitted.classifier is None
    assert bundle.manifest.classifier is None
    assert "novelty.onnx" in bundle.files


def test_constant_and_repeated_features_are_not_inputs() -> None:
    data = fleet_rows.dataset()
    data.vectors[:, 0] = 3.0
    data.vectors[:, 1] = 2 * data.vectors[:, 2] + 1
    inputs = training.fit(data).inputs
    assert data.names[0] not in inputs
    assert not {data.names[1], data.names[2]} <= set(inputs)


def test_too_little_normal_is_refused() -> None:
    with pytest.raises(Refused, match="normal windows to learn from"):
        training.fit(fleet_rows.dataset(n_assets=2, normal=5))


def test_an_export_that_scores_otherwise_is_refused() -> None:
    data = fleet_rows.dataset()
    fitted = training.fit(data)

    class Liar(Fitted):
        def raw(self, vectors: np.ndarray) -> np.ndarray:
            return super().raw(vectors) + 0.01 * self.scale

    liar = Liar(**vars(fitted))
    with pytest.raises(Refused, match="off what was trained"):
        export.export(liar, data, export.Said("pump", 2, WHEN, Origin(trained_on="fleet")))


def _meaning() -> tuple[object, ...]:
    return fleet_rows.NAMES_OF_ALL, fleet_rows.WINDOW, fleet_rows.SIGNALS


# From files


def recordings(folder: Path, label: str = "number", n: int = 600) -> None:
    """Four slow recordings with German decimals, any names, and a leak in the second half."""
    rng = np.random.default_rng(1)
    for k in range(4):
        lines = ["Zeit;Druck [bar];Durchfluss;Zustand"]
        for i in range(n):
            leak = i >= n // 2
            values = (rng.normal(4 - 2 * leak, 0.2), rng.normal(30 + 9 * leak, 1))
            said = {"number": str(int(leak)), "word": "leak" if leak else "normal"}[label]
            stamp = f"2026-01-0{k + 1} {i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}"
            lines.append(";".join([stamp, *(f"{value:.3f}".replace(".", ",") for value in values), said]))
        (folder / f"pump{k}.csv").write_text("\n".join(lines), encoding="utf-8")


def trained(folder: Path, text: str) -> files.Result:
    file = folder / "train.toml"
    file.write_text(text, encoding="utf-8")
    return files.train(file)


@pytest.mark.parametrize(("label", "kind"), [("number", "fault"), ("word", "leak")])
def test_labelled_recordings_of_any_columns(tmp_path: Path, label: str, kind: str) -> None:
    recordings(tmp_path, label)
    result = trained(tmp_path, 'name = "pump"\n[[recording]]\npath = "pump*.csv"\nreading = { label = "Zustand" }\n')
    summary = result.summary
    assert summary["signals"] == ["Druck", "Durchfluss"]
    assert result.data.split == "asset"
    assert unpack(result.bundle.data).manifest.classifier is not None
    assert set(result.fitted.classes) == {NORMAL, kind}
    assert summary["held_out_false_alarms"] <= 0.02
    assert summary["held_out_missed"] == 0
    assert "Druck" in files.as_text(summary)
    json.dumps(summary)


def test_what_is_known_to_be_normal_is_enough(tmp_path: Path) -> None:
    recordings(tmp_path)
    text = 'name = "pump"\n[[recording]]\npath = "*.csv"\nnormal_rows = 300\nreading = { exclude = ["Zustand"] }\n'
    result = trained(tmp_path, text)
    assert result.fitted.classifier is None
    assert result.summary["held_out_missed"] is None
    assert set(result.data.classes) == {NORMAL}


@pytest.mark.parametrize(("apart", "calibration"), [(0.0, "trained"), (40.0, "self")])
def test_where_machines_differ_more_than_one_moves_each_learns_its_own_normal(
    tmp_path: Path, apart: float, calibration: str
) -> None:
    rng = np.random.default_rng(5)
    for k in range(4):
        rows = rng.normal([3.0 + apart * k, 12.0 - apart * k], 0.1, size=(400, 2))
        lines = [f"{second},{a:.3f},{b:.3f}" for second, (a, b) in enumerate(rows)]
        (tmp_path / f"{k}.csv").write_text("\n".join(["time_s,pressure,current", *lines]))
    reading = 'reading = { time = "time_s", time_unit = "s" }'
    result = trained(tmp_path, f'name = "pump"\n[[recording]]\npath = "*.csv"\nnormal_rows = 400\n{reading}\n')
    assert result.bundle.manifest.novelty.calibration == calibration
    assert result.summary["learns_on_device"] is (calibration == "self")
    assert result.summary["held_out_false_alarms"] < 0.1
    assert result.summary["alarm"] == result.bundle.manifest.alarm.model_dump()


def test_fast_archives_with_a_fault_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for k in range(3):
        quiet, knock = rng.normal(size=20000), rng.normal(size=20000)
        knock[::97] += 12
        np.savez(tmp_path / f"quiet{k}.npz", drive_end=quiet, fs=12000.0)
        np.savez(tmp_path / f"knock{k}.npz", drive_end=knock, fs=12000.0)
    text = """
name = "motor"
[window]
n_samples = 512
hop = 512
[[recording]]
path = "quiet*.npz"
normal = [1, 20000]
[[recording]]
path = "knock*.npz"
fault = "outer_race"
"""
    result = trained(tmp_path, text)
    assert result.bundle.manifest.window == WindowSpec(rate_hz=12000, n_samples=512, hop=512)
    assert result.summary["held_out_false_alarms"] == 0
    assert result.summary["held_out_missed"] == 0


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('name = "pump"', BadConfig, "recording"),
        ('name = "pump"\n[[recording]]\npath = "*.csv"', BadConfig, "say what is known"),
        ('name = "pump"\nsize = 3\n[[recording]]\npath = "*.csv"\nnormal_rows = 9', BadConfig, "size"),
        ('name = "pump"\n[[recording]]\npath = "nothing*.csv"\nnormal_rows = 9', NotFound, "nothing"),
        ('name = "pump"\n[[recording]]\npath = "*.csv"\nreading = { label = "anomaly" }', Refused, "no column"),
        ('name = "pump"\n[[recording]]\npath = "*.csv"\nnormal_rows = 30', Refused, "do not overlap"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    recordings(tmp_path, n=60)
    with pytest.raises(error, match=words):
        trained(tmp_path, text)


def test_a_fault_that_nobody_has_named_yet_scores_as_high_as_one_that_was_learned() -> None:
    data = fleet_rows.dataset()
    scorer = Scorer(exported(data)[0])
    normal, faults = data.vectors[data.classes == NORMAL], data.vectors[data.classes != NORMAL]
    away = normal.mean(axis=0) - faults.mean(axis=0)  # to the other side than any fault that it knows
    new = normal[:40] + 2 * away
    positions = scorer.positions(data.names)
    scored = [scorer.score(row[positions]) for row in new]
    assert np.mean([each.score >= 0.5 for each in scored]) > 0.95
    assert np.mean([each.probabilities[NORMAL] > 0.5 for each in scored]) > 0.5  # no class explains it: "novelty"
