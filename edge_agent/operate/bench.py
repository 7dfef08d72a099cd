"""`edge-agent bench`: what this device can do, through the agent itself, on its own processor and disk.

In a folder of its own beside the state, on noise: an agent whose source always has a block ready (throughput), each
station alone (latencies), and an agent as a process on a recording in real time (start-up, memory). Under 20 s.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent import config as settings
from edge_agent.agent import Agent
from edge_agent.clock import SYSTEM
from edge_agent.detect.judge import Judge
from edge_agent.detect.predictions import PredictionLog
from edge_agent.errors import AgentError
from edge_agent.outbox import Outbox
from edge_agent.sensors import Block
from models.bundle.files import Bundle
from models.contract.ids import new_trace_id
from models.contract.messages import Flag
from models.contract.signals import Signal, WindowSpec
from models.features.extract import Extractor
from models.recordings import RecordingOptions, read_csv
from models.scoring import Scorer
from models.windows import Windower

BLOCK_S: Final = 0.25  # of samples in a block
BUSY_S: Final = 4.0  # of processor time, for throughput
LONGEST_S: Final = 12.0  # for the same by the clock, and for a start a few times that
TURNS: Final = 300  # of each station; `read` and `store` a part of that
LOG_WINDOWS: Final = 24  # of a log as it is stored: two seconds of the usual window
STEADY_S: Final = 5.0  # from the first score to the look at the memory
ASSET: Final = "bench"
CONFIG: Final = """
device = "local.bench"
state_dir = "{state}"
baseline = "model.bundle"
[form]
port = {port}
help_port = -1
[[asset]]
id = "bench"
source = "csv"
csv = {{ path = "recording.npz", speed = 1.0 }}
[asset.window]
rate_hz = {spec.rate_hz}
n_samples = {spec.n_samples}
hop = {spec.hop}
max_gap_samples = {spec.max_gap_samples}
"""


class Noise:
    """A source that always has a block ready, until the agent has worked on them for so much processor time."""

    ends = True
    period_s = None
    dropped = unreadable = 0

    def __init__(self, signals: tuple[Signal, ...], spec: WindowSpec, busy_s: float) -> None:
        self._busy_s = busy_s
        self.signals, self.rate_hz, self.counts = signals, spec.rate_hz, Counter[str]()
        self.scores: Callable[[], bool] = lambda: True  # what is normal is known: from here on it counts
        self.began_cpu_s, self.samples, self._stopping = 0.0, 0, False
        n = max(spec.hop, int(spec.rate_hz * BLOCK_S))
        self._blocks = [some_noise(signals, n, seed) for seed in range(8)]

    def blocks(self) -> Iterator[Block | None]:
        n, began_s = self._blocks[0].shape[1], time.monotonic()
        start = time.time()
        for i, values in enumerate(cycle(self._blocks)):
            if not self.samples and self.scores():
                self.began_cpu_s, began_s = time.process_time(), time.monotonic()
                self.samples = 1  # below, it is counted from here
            if self._stopping or time.monotonic() - began_s > LONGEST_S:
                return
            if self.samples:
                if time.process_time() - self.began_cpu_s > self._busy_s:
                    return
                self.samples += values.size
            yield Block(start + (i * n + np.arange(n)) / self.rate_hz, values)

    def stop(self) -> None:
        self._stopping = True


def some_noise(signals: tuple[Signal, ...], n: int, seed: int) -> NDArray[np.float32]:
    """float32[n_signals, n]; a channel that gives a speed turns at 1500 rpm."""
    values = np.random.default_rng(seed).standard_normal((len(signals), n)).astype(np.float32)
    speeds = {signal.bearing.speed for signal in signals if signal.bearing}
    for i, signal in enumerate(signals):
        if signal.name in speeds:
            values[i] += 1500
    return values


def measure(bundle: Bundle, state_dir: Path, share: float = 1.0) -> dict[str, Any]:
    """All figures, or a rough idea of them in a share of the time.

    Raises:
        AgentError: the agent did not start, or did not score.
    """
    names = [s.name for s in bundle.manifest.signals or ()] or ["a", "b", "c"]
    known = {s.name: s for s in bundle.manifest.signals or ()}
    # Without bounds: noise has no unit, and is not to be taken for a broken sensor.
    signals = tuple(known.get(n, Signal(name=n)).model_copy(update={"low": None, "high": None}) for n in names)
    spec = bundle.manifest.window or WindowSpec(rate_hz=25_600, n_samples=4096, hop=2048)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=state_dir if state_dir.is_dir() else None) as folder:
        home = Path(folder)
        (home / "model.bundle").write_bytes(bundle.data)
        recording = some_noise(signals, int(LONGEST_S * spec.rate_hz) + 2 * spec.n_samples, 0)
        np.savez(home / "recording.npz", rate_hz=np.float64(spec.rate_hz), **dict(zip(names, recording, strict=True)))
        return {
            "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
            "bundle": f"{bundle.manifest.name} {bundle.manifest.version}",
            "window": {"channels": len(signals), **spec.model_dump()},
            **throughput(home, signals, spec, share * BUSY_S),
            "stations": stations(home, bundle, signals, spec, max(LOG_WINDOWS, int(share * TURNS))),
            **as_a_process(home, spec, share * STEADY_S),
        }


def throughput(home: Path, signals: tuple[Signal, ...], spec: WindowSpec, busy_s: float) -> dict[str, float]:
    """Samples, each a number of one channel, from source block to stored record, for a second of one core."""
    source = Noise(signals, spec, busy_s)
    config = _config(home, "busy", spec, port=-1)
    agent = Agent(config, once=True, tell=lambda _line: None, given={ASSET: source})
    source.scores = lambda: agent.detector.latencies() is not None
    if agent.run() or not source.samples:
        raise AgentError("the agent did not score")
    per_s = source.samples / (time.process_time() - source.began_cpu_s)
    return {"samples_per_s": per_s, "windows_per_s": per_s / len(signals) / spec.hop}


def stations(home: Path, bundle: Bundle, signals: tuple[Signal, ...], spec: WindowSpec, turns: int) -> dict[str, Any]:
    """Each alone, in microseconds, window by window as a slow source brings them.

    read: a block of delimited text. window: a block. store: a log of scored windows, on the disk for good.
    """
    took: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[..., Any], *args: Any) -> Any:
        began = time.perf_counter()
        result = call(*args)
        took.setdefault(name, []).append((time.perf_counter() - began) * 1e6)
        return result

    scorer = Scorer(bundle)
    judge = Judge(ASSET, scorer, signals, spec, home / "busy" / "references")
    cut, extract = Windower(spec, len(signals)), Extractor(signals, spec.rate_hz)
    classes = bundle.manifest.classifier.classes if bundle.manifest.classifier else ()
    outbox, log = Outbox(home / "stations.db"), PredictionLog(ASSET, bundle.ref, classes, SYSTEM)
    n = max(spec.hop, int(spec.rate_hz * BLOCK_S))
    values = some_noise(signals, n, 1)
    lines = [",".join(s.name for s in signals), *(",".join(f"{x:.4f}" for x in row) for row in values.T)]
    text = RecordingOptions(rate_hz=spec.rate_hz, header=True, delimiter=",")
    for turn in range(turns):
        if turn % 30 == 0:
            timed("read", read_csv, lines, text)
        times = (turn * n + np.arange(n)) / spec.rate_hz
        for window in timed("window", lambda *block: list(cut.feed(*block)), times, values)[:1]:
            vector = timed("features", extract, window.values)
            inputs = judge.inputs(vector)
            scored = timed("inference", scorer.score, inputs, judge.reference)
            seen = timed("decide", judge.see, vector, scored)
            log.add(new_trace_id(), window, seen, Flag(0))
        if turn % LOG_WINDOWS == LOG_WINDOWS - 1 and (body := log.take()):
            timed("store", outbox.put, [body])
    outbox.close()
    return {
        name: {"p50_us": float(np.percentile(us, 50)), "p99_us": float(np.percentile(us, 99)), "n": len(us)}
        for name, us in took.items()
    }


def as_a_process(home: Path, spec: WindowSpec, steady_s: float) -> dict[str, Any]:
    """Seconds from its start to the first score, kernels cached and what is normal on the disk; bytes a while later."""
    if (learned := home / "busy" / "references").exists():
        shutil.copytree(learned, home / "steady" / "references")
    _config(home, "steady", spec, port=0)
    began = time.monotonic()
    argv = [sys.executable, "-m", "edge_agent", "run", "--config", str(home / "agent.toml")]
    with (home / "agent.log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            while (shown := _status(home / "steady")) is None:
                if process.poll() is not None or time.monotonic() - began > 3 * LONGEST_S:
                    raise AgentError(f"the agent did not score: {(home / 'agent.log').read_text()[-500:]}")
                time.sleep(0.02)
            took_s = time.monotonic() - began
            time.sleep(steady_s)
            shown = _status(home / "steady") or shown
        finally:
            process.terminate()
    return {"start_s": took_s, "rss_bytes": shown["rss_bytes"]}


def _status(state: Path) -> dict[str, Any] | None:
    """What the agent shows, once it has scored."""
    try:
        url = json.loads((state / "page.json").read_text())["url"]
        with urllib.request.urlopen(url + "/api/status", timeout=1) as answer:  # noqa: S310 - our own, on loopback
            shown: dict[str, Any] = json.load(answer)
    except (OSError, ValueError):
        return None
    return shown if all(asset["score"] is not None for asset in shown["assets"].values()) else None


def _config(home: Path, state: str, spec: WindowSpec, port: int) -> settings.Config:
    path = home / "agent.toml"
    path.write_text(CONFIG.format(state=state, port=port, spec=spec))
    return settings.load(path)


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    except OSError:
        named = []
    return named[0] if named else platform.processor() or platform.machine()


def table(found: dict[str, Any]) -> str:
    """For people."""
    window = found["window"]
    lines = [
        f"{found['machine']['processor']}, {found['machine']['cores']} cores, Python {found['machine']['python']}",
        f"bundle {found['bundle']}: {window['channels']} channels, windows of {window['n_samples']}, a new one every"
        f" {window['hop']} samples, {window['rate_hz']:g} Hz",
        "",
        f"throughput  {found['samples_per_s'] / 1e6:.3g} million samples/s, {found['windows_per_s']:.0f} windows/s",
        f"start       {found['start_s']:.2f} s to the first score",
        f"memory      {found['rss_bytes'] / 1e6:.0f} MB",
        "",
        f"{'station':12}{'p50':>10}{'p99':>10}  us",
    ]
    lines += [f"{name:12}{us['p50_us']:10.0f}{us['p99_us']:10.0f}" for name, us in found["stations"].items()]
    return "\n".join(lines)
