"""Anomalies of a water pump (SKAB), by the protocol of its leaderboard, with the bundle that every agent starts with.

No label and no scored row has set anything: each file's first 400 rows teach what is normal, one configuration for all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.bench.figure import Bench

FALSE_ALARMS = 0.16  # share of normal points, above which F1 counts for nothing: saying "anomaly" always scores 0.70


def baseline() -> tuple[float, float]:
    """F1 over the points of all 34 files; 0 with more false alarms than are allowed."""
    command = [sys.executable, "-m", "edge_agent", "evaluate", "--config", "docs/examples/skab.toml", "--json"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    total = json.loads(done.stdout)["total"]
    f1, false, missing = (float(total[name]) for name in ("f1", "false_alarm_rate", "missing_alarm_rate"))
    print(f"SKAB: F1 {f1:.3f}, false alarms {false:.1%} (goal 12), missing alarms {missing:.1%} (goal 22)")
    return f1, f1 if false <= FALSE_ALARMS else 0.0


FIGURES = [Bench("skab_f1", "leaderboard's best: 0.78", "", 0.78, 0.83, "higher", baseline, needs="PDM_DATA")]
