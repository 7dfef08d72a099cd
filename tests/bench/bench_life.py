"""Remaining useful life of turbofan engines (C-MAPSS FD001, FD002), trained as a user would from files.

The kind of model is chosen on the training engines alone; the test engines' last cycle is told once. RMSE is that with
the truth cut at 125 cycles, which the floor and the goal are of; as given, it is printed beside it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fleet_server.learning.files import train
from tests.bench.figure import Bench

CAP = 125


def engines(folder: Path, data: Path, part: str) -> list[str]:
    """An archive an engine, and what the file to train by says of them."""
    said: list[str] = []
    left = np.loadtxt(data / f"RUL_{part}.txt.gz")
    for side in ("train", "test"):
        table = np.loadtxt(data / f"{side}_{part}.txt.gz")
        for k, engine in enumerate(np.unique(table[:, 0])):
            rows = table[table[:, 0] == engine]
            columns: dict[str, Any] = {f"setting_{i}": rows[:, 1 + i] for i in (1, 2, 3)}
            columns |= {f"sensor_{i}": rows[:, 4 + i] for i in range(1, 22)}
            name = f"{side}_{int(engine):03d}.npz"
            np.savez(folder / name, rate_hz=1.0, **columns)
            held = side == "test"
            said += ["[[recording]]", f'path = "{name}"', f"remaining = {left[k] if held else 0}"]
            said += [f"holdout = {str(held).lower()}", "normal_rows = 20"]
    return said


def of(part: str) -> tuple[float, float]:
    """RMSE in cycles, the truth cut at CAP; twice: there is no peer in this run."""
    with tempfile.TemporaryDirectory() as folder:
        said = ['name = "turbofan"', "[window]", "n_samples = 4", "hop = 1", "[life]", 'unit = "cycles"']
        said += [f"cap = {CAP}", 'conditions = ["setting_1", "setting_2", "setting_3"]']
        path = Path(folder) / "train.toml"
        path.write_text("\n".join(said + engines(Path(folder), Path(os.environ["PDM_DATA"]) / "cmapss", part)))
        facts = train(path).summary["remaining_life"]
    print(f"C-MAPSS {part}: {facts}")
    error = float(facts["held_out"]["rmse_cut"])
    return error, error


FIGURES = [
    Bench("rul_cmapss_fd001", "published: 10.97 to 12.4", "cy", 13.5, 11.5, "lower", lambda: of("FD001"), "PDM_DATA"),
    Bench("rul_cmapss_fd002", "published: 12.55 to 14.9", "cy", 14.4, 12.5, "lower", lambda: of("FD002"), "PDM_DATA"),
]
