"""A device can measure itself, and a page's figures are those that were measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import __main__ as runner
from tests.bench import page
from tests.bench.figure import Bench

STATIONS = {"read", "window", "features", "inference", "decide", "store"}


def test_a_device_measures_itself(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "edge_agent", "bench", "--quick", "--json", "--config", str(tmp_path / "none.toml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert set(found["stations"]) == STATIONS
    assert all(0 < us["p50_us"] <= us["p99_us"] for us in found["stations"].values())
    assert min(found["samples_per_s"], found["start_s"], found["rss_bytes"]) > 0


def test_figures_are_written_and_those_not_measured_stay(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text(f"before\n{page.BEGIN}\n{page.END}\nafter\n")
    line = {"figure": "speed", "value": 2.0, "unit": "us", "peer": "NumPy", "ratio": 8.0, "floor": 4, "goal": 16}
    line |= {"better": "higher", "ok": True, "problem": ""}
    page.write([line, line | {"figure": "other", "ratio": 3.0, "ok": False}], path)
    page.write([line | {"ratio": 20.0}, line | {"figure": "other", "value": None, "problem": "no disk"}], path)
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| `")]
    assert [(row[0], row[3], row[6]) for row in rows] == [
        ("| `other`", "3", "**falls short**"), ("| `speed`", "20", "goal"),
    ]  # fmt: skip


def test_a_figure_that_cannot_be_measured_says_so_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> tuple[float, float]:
        raise OSError("no disk")

    figures = [
        Bench("first", "a peer", "us", 1, 2, "higher", broken),
        Bench("second", "a peer", "us", 1, 2, "higher", lambda: (7.0, 1.5)),
        Bench("third", "a peer", "us", 1, 2, "higher", broken, needs="PDM_NO_SUCH_VARIABLE"),
    ]
    monkeypatch.setattr(runner, "figures", lambda _module, _only: figures)
    runner.measure("bench_x", "")
    lines = [json.loads(line.removeprefix(runner.MARK)) for line in capsys.readouterr().out.splitlines()]
    assert [(line["ok"], line["value"], bool(line["problem"])) for line in lines] == [
        (False, None, True), (True, 7.0, False), (True, None, True),
    ]  # fmt: skip
    assert ["FAILED" in runner.row(line) for line in lines] == [True, False, False]
