"""A degradation alarm on bearings run to failure (FEMTO, PRONOSTIA), leaving one bearing out after the other.

Five bearings train, as a user would from files; the sixth runs through the agent's own detection with that bundle, and
nothing of it has set a feature or a limit. An alarm in the first half of its life is a false one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edge_agent.config import Asset
from edge_agent.detect import Detector, Pipeline
from fleet_server.learning.files import train
from models.contract.events import AlarmEvent, Phase
from models.contract.messages import Body
from models.contract.signals import Signal, WindowSpec
from tests.bench.figure import Bench

BEARINGS = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2")
STEP_S = 10.0  # from one snapshot to the next
LEARN = 60


def snapshots(bearing: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    """Times float64[n], values float32[2, n] in g, and the rate."""
    with np.load(Path(os.environ["PDM_DATA"]) / "femto" / f"Bearing{bearing}.npz") as archive:
        rate = float(archive["fs"])
        values = ((archive["hi"].astype(np.int32) << 8) | archive["lo"]).astype(np.float32) / np.float32(1000)
    n, _, length = values.shape
    times = (np.arange(n)[:, None] * STEP_S + np.arange(length) / rate).ravel()
    return times, np.ascontiguousarray(values.transpose(1, 0, 2).reshape(2, -1)), rate


def alarms(bearing: str, folder: Path) -> tuple[list[float], float]:
    """When alarms are raised on a bearing that the others have not seen, in seconds; and its life."""
    said = ['name = "bearing"', "[window]", "n_samples = 2560", "hop = 2560", "[degradation]", f"learn = {LEARN}"]
    for other in BEARINGS:
        if other != bearing:
            said += ["[[recording]]", f'path = "{other}.npz"', "remaining = 0", f"normal_rows = {LEARN * 2560}"]
    path = folder / f"without_{bearing}.toml"
    path.write_text("\n".join(said))
    result = train(path)
    facts = result.summary["training"]
    signals = (Signal(name="horizontal", unit="g"), Signal(name="vertical", unit="g"))
    times, values, rate = snapshots(bearing)
    spec = WindowSpec(rate_hz=rate, n_samples=2560, hop=2560)
    asset = {"id": "b", "source": "mqtt", "mqtt": {"topic": "t", "rate_hz": rate, "signals": signals}}
    heard: list[Body] = []
    detector = Detector([Pipeline(Asset.model_validate(asset), signals, spec, None)], heard.extend)
    detector.run(result.bundle)
    for begin in range(0, times.size, 2560 * 50):
        block = slice(begin, begin + 2560 * 50)
        detector.feed("b", times[block], values[:, block])
    raised = [e.window_end.timestamp() for e in heard if isinstance(e, AlarmEvent) and e.phase is Phase.RAISED]
    print(f"  {bearing}: {facts['feature']} by {facts['limit']}, alarms at {np.round(raised)} of {times[-1]:.0f} s")
    return raised, float(times[-1])


def left_out() -> tuple[float, float]:
    """The median lead in seconds; 0 where an alarm is missed, comes twice or in the first half of a life."""
    leads, right, false = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for bearing in BEARINGS:
            times, values, rate = snapshots(bearing)
            np.savez(Path(folder) / f"{bearing}.npz", time=times, horizontal=values[0], vertical=values[1], fs=rate)
        for bearing in BEARINGS:
            raised, life = alarms(bearing, Path(folder))
            false += sum(at < life / 2 for at in raised)
            right += len(raised) == 1 and raised[0] >= life / 2
            leads.append(life - raised[0] if raised and raised[0] >= life / 2 else 0.0)
    print(f"FEMTO, one left out: {right} of 6 once and in time, {false} false, leads {np.round(leads)} s")
    lead = median(leads)
    return lead, lead if right == len(BEARINGS) else 0.0


FIGURES = [Bench("degradation_femto_lead", "6 of 6, 0 false", "s", 360, 420, "higher", left_out, needs="PDM_DATA")]
