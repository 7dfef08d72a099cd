"""What the agent costs a gateway: memory in steady state and the way from nothing to the first score, as a process with
the shipped bundle, a broker and its outbox on disk."""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simulators.embedded.broker import embedded_broker
from tests.bench.figure import Bench
from tests.builders import Fleet
from tests.faults.gateway import Gateway
from tests.faults.ledger import rss_bytes
from tests.receiver import Receiver
from tests.support import eventually

STEADY_S = 20
BOUND_MB = 200.0
BOUND_S = 3.0


@contextmanager
def gateway() -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory() as folder, embedded_broker(Path(folder) / "broker") as broker:
        fleet = Fleet("bench.gw1")
        with Receiver(broker.port, Path(folder) / "received.db", fleet):
            agent = Gateway(Path(folder) / "agent", fleet, broker.port, speed=200, heartbeat_s=2)
            try:
                yield agent
            finally:
                agent.stop()


def scores(agent: Gateway) -> bool:
    try:
        url = json.loads((agent.state / "page.json").read_text())["url"]
        with urllib.request.urlopen(url + "/api/status", timeout=1) as answer:
            return any(asset["score"] is not None for asset in json.load(answer)["assets"].values())
    except (OSError, ValueError):
        return False


def steady() -> tuple[float, float]:
    with gateway() as agent:
        agent.start()
        eventually(lambda: scores(agent), timeout=60)
        time.sleep(STEADY_S)
        megabytes = rss_bytes(agent.process.pid) / 1e6
    return megabytes, megabytes / BOUND_MB


def first_score() -> tuple[float, float]:
    """The least of three starts; the kernels are in the cache, what is normal is on the disk."""
    taken = []
    with gateway() as agent:
        agent.start()
        eventually(lambda: scores(agent), timeout=60)
        for _ in range(3):
            agent.stop()
            began = time.monotonic()
            agent.start()
            eventually(lambda: scores(agent), timeout=60)
            taken.append(time.monotonic() - began)
    return min(taken), min(taken) / BOUND_S


FIGURES = [
    Bench("agent_rss_steady", f"{BOUND_MB:g} MB", "MB", 1.0, 0.7, "lower", steady),
    Bench("agent_first_score", f"{BOUND_S:g} s", "s", 1.0, 0.5, "lower", first_score),
]
