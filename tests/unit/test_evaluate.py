"""The figures of `edge-agent evaluate`, on recordings whose truth is known by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.config import Config
from edge_agent.errors import BadConfig
from edge_agent.evaluate import _count, evaluate, table
from edge_agent.sensors.channel import Resample
from models.bundle.files import Bundle
from models.contract.signals import WindowSpec
from tests.builders import a_bundle

SPEC = WindowSpec(rate_hz=1.0, n_samples=10, hop=5)
RULE = {"raise_at": 0.5, "clear_at": 0.4, "raise_after": 2, "clear_after": 2, "smooth": 1}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Over the threshold where the RMS of 10 samples is 0.5 or more."""
    return a_bundle(window=SPEC, signals=({"name": "vib"},), alarm=RULE)


def a_config(folder: Path, **csv: Any) -> Config:
    source = {"path": folder / "*.csv", "recording": {"label": "anomaly"}} | csv
    return Config.model_validate({"state_dir": folder, "asset": [{"id": "pump1", "source": "csv", "csv": source}]})


def write(path: Path, values: Any, labels: Any) -> None:
    rows = [f"{1_772_000_000 + i},{v},{label}" for i, (v, label) in enumerate(zip(values, labels, strict=True))]
    path.write_text("\n".join(["time,vib,anomaly", *rows]))


def test_a_window_decides_for_the_samples_since_the_window_before(tmp_path: Path, bundle: Bundle) -> None:
    """Loud from 53 to 71. Windows end at 9, 14, 19, ...; with two loud samples of ten they are under the threshold,
    with three over it: so those that end at 59, 64, 69 and 74 are over, and flag 55 to 74."""
    values, labels = np.full(100, 0.1), np.zeros(100, int)
    values[53:72], labels[53:72] = 1.0, 1
    write(tmp_path / "1.csv", values, labels)
    (row,) = evaluate(a_config(tmp_path), bundle)["files"]
    assert (row["points"], row["anomalous"]) == (100, 19)
    assert row["precision"] == pytest.approx(17 / 20)
    assert row["recall"] == pytest.approx(17 / 19)
    assert row["f1"] == pytest.approx(2 * 17 / (20 + 19))
    assert row["false_alarm_rate"] == pytest.approx(3 / 81)
    assert row["missing_alarm_rate"] == pytest.approx(2 / 19)
    assert (row["median_delay_s"], row["stretches_found"]) == (2.0, 1)


def test_labels_change_the_figures_and_nothing_else(tmp_path: Path, bundle: Bundle) -> None:
    values = np.random.default_rng(1).uniform(0, 1, 400)
    totals = []
    for labels in (np.arange(400) % 2, 1 - np.arange(400) % 2):
        write(tmp_path / "1.csv", values, labels)
        totals.append(evaluate(a_config(tmp_path), bundle)["total"])
    first, second = totals
    assert first["points"] == second["points"]
    assert first["recall"] == pytest.approx(second["false_alarm_rate"])  # the same decisions against turned truth


def test_what_is_known_to_be_normal_and_what_has_no_label_is_not_scored(tmp_path: Path, bundle: Bundle) -> None:
    labels = ["0"] * 150 + [""] * 10 + ["1"] * 40
    write(tmp_path / "1.csv", np.full(200, 0.1), labels)
    total = evaluate(a_config(tmp_path, normal_rows=100), bundle)["total"]
    assert (total["points"], total["not_scored"]) == (90, 110)
    assert (total["recall"], total["precision"]) == (0.0, None)


def test_every_file_starts_anew_and_files_without_labels_are_refused_or_counted(tmp_path: Path, bundle: Bundle) -> None:
    for name in ("1", "2", "10"):
        write(tmp_path / f"{name}.csv", np.full(100, 0.1), np.zeros(100, int))
    report = evaluate(a_config(tmp_path), bundle)
    assert [row["file"].split("/")[-1] for row in report["files"]] == ["1.csv", "2.csv", "10.csv"]
    assert {row["points"] for row in report["files"]} == {100}
    assert "all points" in table(report)
    with pytest.raises(BadConfig, match="labels"):
        evaluate(a_config(tmp_path, recording={"exclude": ["anomaly"]}), bundle)


def test_the_delay_is_from_the_start_of_each_stretch_to_its_first_flag() -> None:
    label = np.array([0, 1, 1, 1, 0, 1, 1, 0, 1, 1], np.int8)
    said = np.array([0, 0, 0, 1, 0, 1, 0, 0, 0, 0], np.int8)
    counts = _count(said, label, np.arange(10.0) * 2)
    assert (counts.stretches, counts.delays_s) == (3, [4.0, 0.0])
    assert (counts.tp, counts.fp, counts.tn, counts.fn) == (2, 0, 3, 5)


def test_on_a_grid_the_decisions_are_about_the_rows_of_the_recording(tmp_path: Path, bundle: Bundle) -> None:
    """Five samples a second, some missing, onto 1 Hz: windows are those of the grid, points those of the file."""
    times = np.delete(np.arange(0, 100, 0.2), np.arange(7, 480, 31))
    labels = ((times > 52.99) & (times < 72)).astype(int)
    rows = [f"{1_772_000_000 + t:.1f},{1.0 if label else 0.1},{label}" for t, label in zip(times, labels, strict=True)]
    (tmp_path / "1.csv").write_text("\n".join(["time,vib,anomaly", *rows]))
    config = a_config(tmp_path)
    asset = config.asset[0].model_copy(update={"resample": Resample(rate_hz=1.0)})
    (row,) = evaluate(config.model_copy(update={"asset": (asset,)}), bundle)["files"]
    said = (times > 54) & (times <= 74)  # as without a grid, see above: the windows that end at 59, 64, 69 and 74
    assert row["points"] + row["not_scored"] == times.size
    assert row["recall"] == pytest.approx((said & (labels == 1)).sum() / labels.sum())
    assert row["precision"] == pytest.approx((said & (labels == 1)).sum() / said.sum())
