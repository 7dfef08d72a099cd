"""Outbox and uplink: what a confirmed record costs, how fast a backlog drains, what a quiet day takes on the wire.

The day is extrapolated from turns measured byte by byte at a TCP proxy, through the real ingest with its coalesced
receipts.
"""

from __future__ import annotations

import random
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_agent.config import UplinkSettings
from edge_agent.health import QUIET_S
from edge_agent.outbox import Outbox
from models.contract.base import ModelRef
from models.contract.codec import dump
from models.contract.features import FEATURE_SET, vector_names
from models.contract.health import AssetHealth
from models.contract.ids import new_trace_id
from models.contract.messages import Body, Column, SampledWindow, ScoredWindows
from models.contract.signals import Signal
from simulators.embedded.broker import embedded_broker
from simulators.embedded.postgres import EmbeddedPostgres
from tests import support
from tests.bench.figure import Bench
from tests.builders import NOW, USUAL, Fleet, some_scores
from tests.faults.proxy import Proxy
from tests.outage import outage
from tests.services.station import Station
from tests.services.test_ingest import a_beat
from tests.services.test_uplink import Device, running
from tests.support import eventually

DAY_S = 86_400
KEEPALIVE_S = 30  # of the configuration's default; a ping and its answer are two bytes each
ASSETS, SHARE = 10, 0.05
PRODUCED_PER_S = ASSETS / 60 * (1 + SHARE)  # records of ten assets with a window a minute
TURNS = 5


def writes() -> tuple[float, float]:
    """Records confirmed with FULL sync, in batches of 500, against the same bytes appended to a file that nobody
    syncs."""
    batches = [[some_scores(16) for _ in range(500)] for _ in range(8)]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        outbox = Outbox(Path(folder) / "outbox.db")
        outbox.put(batches[0])
        ours, plain = [], []
        for batch in batches:
            began = time.perf_counter()
            outbox.put(batch)
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            with (Path(folder) / "plain").open("ab") as file:
                file.writelines(dump(body) for body in batch)
            plain.append(time.perf_counter() - began)
        outbox.close()
    return sum(ours) / len(ours) / 500 * 1e6, sum(ours) / sum(plain)


def drain() -> tuple[float, float]:
    """Records a second out of a backlog with a flapping link, against what ten assets make."""
    with tempfile.TemporaryDirectory() as folder, embedded_broker(Path(folder) / "broker") as broker:
        result = outage(Path(folder), broker.port, 4000, 3, 150)
    return result.drained_per_s, result.drained_per_s / PRODUCED_PER_S


def live_p99() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder, embedded_broker(Path(folder) / "broker") as broker:
        result = outage(Path(folder), broker.port, 4000, 3, 150)
    return result.p99_s(), result.p99_s() / 2.0


def silent_day() -> tuple[float, float]:
    kb = (_per_turn(lambda: [_heartbeat()]) * DAY_S / QUIET_S + _pings()) / 1000
    return kb, kb / 200


def busy_day() -> tuple[float, float]:
    every_s = UplinkSettings().telemetry_every_s
    n = round(ASSETS * every_s / 60)
    telemetry = _per_turn(lambda: [*(_window(i) for i in range(n)), *(_sample() for _ in range(round(n * SHARE)))])
    kb = (telemetry * DAY_S / every_s + _per_turn(lambda: [_heartbeat()]) * DAY_S / QUIET_S + _pings()) / 1000
    return kb, kb / 1000


def _pings() -> float:
    return 4 * DAY_S / KEEPALIVE_S


def _per_turn(make: Callable[[], list[Body]]) -> float:
    """Bytes in both directions until such records are confirmed."""
    with (
        support.reachable_folder() as home,
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(home / "postgres", settings={"fsync": "off"}) as server,
        embedded_broker(Path(folder) / "broker") as broker,
    ):
        fleet = Fleet(f"plant1.{uuid.uuid4().hex[:8]}")
        station = Station(server.dsn, broker, fleet.server).start()
        try:
            with Proxy(broker.port) as proxy, running(Path(folder), proxy.port, fleet) as device:
                _confirmed(device, make())  # plain: the first receipt says that packs are read
                _confirmed(device, make())
                before = proxy.up.passed + proxy.down.passed
                for _ in range(TURNS):
                    _confirmed(device, make())
                return (proxy.up.passed + proxy.down.passed - before) / TURNS
        finally:
            station.stop()


def _confirmed(device: Device, bodies: list[Body]) -> None:
    device.outbox.put(bodies)
    eventually(lambda: device.waiting() == 0, timeout=30)
    time.sleep(0.3)  # the last acknowledgement


def _window(i: int) -> ScoredWindows:
    """One scored window, as the prediction log sends it."""
    start = int(NOW.timestamp() * 1e6) + i * 6_000_000
    return ScoredWindows(
        trace_id=new_trace_id(),
        made_at=NOW,
        asset=f"pump{i % ASSETS}",
        model=ModelRef.model_validate(USUAL),
        n=1,
        trace=Column.of("uuid", new_trace_id().bytes),
        start_us=Column.of("i8", np.array([start], "<i8").tobytes()),
        end_us=Column.of("i8", np.array([start + 60_000_000], "<i8").tobytes()),
        score=Column.of("f4", np.array([random.random()], "<f4").tobytes()),
        alarm=Column.of("u1", b"\0"),
        fault_class=Column.of("u1", b"\xff"),
        latency_us=Column.of("f4", np.array([random.uniform(100, 400)], "<f4").tobytes()),
    )


def _sample() -> SampledWindow:
    return SampledWindow.model_validate(
        {
            "trace_id": new_trace_id(), "made_at": NOW, "asset": "pump1", "window_start": NOW, "window_end": NOW,
            "reason": "reference", "probability": SHARE, "score": random.random(), "model": USUAL,
            "feature_set": FEATURE_SET, "features": {n: random.gauss(0, 1) for n in vector_names(["vib", "current"])},
        }
    )  # fmt: skip


def _heartbeat() -> Body:
    signals = (Signal(name="vib", unit="m/s2"), Signal(name="current", unit="A"))
    assets = {f"pump{i}": AssetHealth(windows=1440, state="scoring", signals=signals) for i in range(ASSETS)}
    return a_beat(outbox={}, assets=assets)


FIGURES = [
    Bench("uplink_silent_day", "200 kB", "kB", 1.0, 0.5, "lower", silent_day),
    Bench("uplink_quiet_day", "1 MB", "kB", 1.0, 0.7, "lower", busy_day),
    Bench("uplink_drain", "ten assets, a window a minute", "/s", 10, 100, "higher", drain),
    Bench("uplink_live_p99", "2 s", "s", 1.0, 0.2, "lower", live_p99),
    Bench("outbox_write_full_sync", "one unsynced file write", "us", 5.0, 2.0, "lower", writes),
]
