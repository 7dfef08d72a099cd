"""The whole path of the agent: source block to stored record, and how long a finished window waits for its decision.

Three channels at 25.6 kHz, windows of 4096 half overlapping, a trained bundle with novelty and fault class. A sample is
a number of one channel. The agent is the one that runs on devices, with its outbox on the disk and FULL sync.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from edge_agent import config as settings
from edge_agent.agent import Agent
from edge_agent.operate.bench import some_noise
from edge_agent.sensors import Block
from fleet_server.learning.files import train
from models.contract.signals import Signal
from tests.bench.figure import Bench

RATE_HZ: Final = 25_600
RECORDED_S: Final = 12
MACHINES: Final = 4
CHANNELS: Final = ("a", "b", "c")
ASSETS: Final = 8  # of eight channels each
SLOW_HZ: Final = 1000.0
WARM_S, LIVE_S = 6.0, 15.0
BLOCK_S: Final = 0.1
LEARNED: Final = 400  # blocks that come at once, from which each learns what is normal


def a_bundle(home: Path) -> Path:
    """Trained as `fleet-server train --files` does, on noise with a hum, with two faults in it."""
    said = ['name = "motor"', "[window]", "n_samples = 4096", "hop = 2048"]
    time_s = np.arange(RECORDED_S * RATE_HZ) / RATE_HZ
    signals = tuple(Signal(name=name) for name in CHANNELS)
    for machine in range(MACHINES):
        for i, kind in enumerate(("normal", "bearing", "imbalance")):
            values = some_noise(signals, time_s.size, 10 * machine + i) + np.sin(2 * np.pi * 50 * time_s)
            if kind == "bearing":
                values[0] += 3 * np.sin(2 * np.pi * 4000 * time_s) * (np.sin(2 * np.pi * 90 * time_s) > 0.95)
            if kind == "imbalance":
                values[1] += 4 * np.sin(2 * np.pi * 25 * time_s)
            path = home / f"{kind}{machine}.npz"
            np.savez(path, rate_hz=np.float64(RATE_HZ), **dict(zip(CHANNELS, values, strict=True)))
            known = f"normal = [1, {time_s.size}]" if kind == "normal" else f'fault = "{kind}"'
            said += ["[[recording]]", f'path = "{path}"', f'asset = "motor{machine}"', known]
    (home / "train.toml").write_text("\n".join(said))
    bundle = home / "motor.bundle"
    bundle.write_bytes(train(home / "train.toml").bundle.data)
    return bundle


def whole_path() -> tuple[float, float]:
    """Millions of samples a second and core, as `edge-agent bench --json` says; the bar is in the same."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        bundle = a_bundle(Path(folder).resolve())
        argv = [sys.executable, "-m", "edge_agent", "bench", "--json", "--bundle", str(bundle)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)
    millions = json.loads(done.stdout)["samples_per_s"] / 1e6
    return millions, millions


class Live:
    """A machine: blocks of eight channels at 1 kHz, each when its time has come."""

    ends = False
    period_s = BLOCK_S
    dropped = unreadable = 0

    def __init__(self, seed: int) -> None:
        self.signals = tuple(Signal(name=f"s{i}") for i in range(8))
        self.rate_hz, self.counts, self._stopping = SLOW_HZ, Counter[str](), threading.Event()
        self._n, self._seed = int(SLOW_HZ * BLOCK_S), seed

    def blocks(self) -> Iterator[Block | None]:
        values = some_noise(self.signals, 10 * self._n, self._seed)
        wall, begin = time.time(), time.monotonic()
        for i in range(10**9):
            if i == LEARNED:
                begin = time.monotonic() + (self._seed / ASSETS - i) * BLOCK_S
            if i >= LEARNED and self._stopping.wait(max(0.0, begin + i * BLOCK_S - time.monotonic())):
                return
            at = i % 10 * self._n
            times = wall + (i * self._n + np.arange(self._n)) / SLOW_HZ
            yield Block(times, np.ascontiguousarray(values[:, at : at + self._n]))

    def stop(self) -> None:
        self._stopping.set()


def decision_p99() -> tuple[float, float]:
    """Milliseconds from the source's handing over of the block that completes a window to its decision, p99."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        home = Path(folder)
        said = ['device = "bench.gw1"', 'state_dir = "state"', "[form]", "port = -1"]
        for i in range(ASSETS):
            said += ["[[asset]]", f'id = "a{i}"', 'source = "csv"', 'csv = { path = "none.csv" }']
            said += [f"window = {{ rate_hz = {SLOW_HZ}, n_samples = 256, hop = 128 }}"]
        (home / "agent.toml").write_text("\n".join(said))
        given = {f"a{i}": Live(i) for i in range(ASSETS)}
        agent = Agent(settings.load(home / "agent.toml"), tell=lambda _line: None, given=given)
        threading.Timer(WARM_S, lambda: [p.latencies.clear() for p in agent.detector.pipelines.values()]).start()
        threading.Timer(WARM_S + LIVE_S, agent.stopping.set).start()
        assert agent.run() == 0
        latencies = agent.detector.latencies()
    assert latencies, "no window was scored"
    return latencies[1] / 1000, latencies[1] / 1000


FIGURES = [
    Bench("whole_path", "a million samples a second", "M", 10, 40, "higher", whole_path),
    Bench("decision_p99_64_channels", "1 ms", "ms", 5, 1, "lower", decision_p99),
]
