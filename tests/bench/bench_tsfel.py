"""Our kernels against tsfel, on a window of 3 x 4096.

tsfel brings IPython and statsmodels with it, so it is not among our packages: the first run installs it into an
environment of its own, build/tsfel, by pip and with our pins.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from models.features.extract import N_FEATURES, extract
from models.features.time_domain import time_domain
from tests.bench.bench_kernels import VIBRATION, a_window
from tests.bench.figure import Bench, best_us

TSFEL: Final = "tsfel==0.2.0"
HOME: Final = Path("build/tsfel")
PEER: Final = Path(__file__).with_name("peer_tsfel.py")


@cache
def tsfel() -> dict[str, float]:
    """Microseconds of tsfel, by set of features."""
    python = HOME / "bin" / "python"
    if not (HOME / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(HOME)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
        subprocess.run([*pip, TSFEL], check=True, capture_output=True, timeout=250)
        (HOME / ".ready").touch()
    done = subprocess.run([str(python), str(PEER)], check=True, capture_output=True, text=True, timeout=120)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def against_time_domain() -> tuple[float, float]:
    window, out = a_window(VIBRATION), np.empty((VIBRATION[0], N_FEATURES))
    ours = best_us(lambda: time_domain(window, out))
    return ours, tsfel()["time_domain"] / ours


def against_all() -> tuple[float, float]:
    window, out = a_window(VIBRATION), np.empty(VIBRATION[0] * N_FEATURES)
    ours = best_us(lambda: extract(window, out))
    return ours, tsfel()["all"] / ours


FIGURES = [
    Bench("time_domain_vs_tsfel", "tsfel, the 8 of our 12 that it has", "us", 50, 300, "higher", against_time_domain),
    Bench("features_vs_tsfel", "tsfel, the 12 of our 21 that it has", "us", 50, 300, "higher", against_all),
]
