"""The agent for a long time under load: its memory does not grow."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest

from simulators.embedded.broker import Broker
from tests.builders import Fleet
from tests.faults import ledger
from tests.faults.figures import Measured
from tests.faults.gateway import Gateway
from tests.receiver import Receiver


@pytest.mark.parametrize(
    ("seconds", "per_minute"),
    [pytest.param(20, 12.0, id="short"), pytest.param(1800, 0.1, id="half an hour", marks=pytest.mark.slow)],
)
@pytest.mark.timeout(2400)
def test_memory_does_not_grow(
    tmp_path: Path, broker: Broker, seconds: int, per_minute: float, measured: Measured
) -> None:
    """`per_minute`: MiB. A short run sees little, so its bound is coarse: it finds what leaks with each window."""
    fleet = Fleet(f"test.{uuid.uuid4().hex[:12]}")
    with Receiver(broker.port, tmp_path / "received.db", fleet):
        gateway = Gateway(tmp_path, fleet, broker.port, speed=200, rows=200 * (seconds + 60))
        gateway.start()
        try:
            gateway.ready()
            time.sleep(seconds / 4)  # buffers and caches fill
            samples = []
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                samples.append((time.monotonic(), float(ledger.rss_bytes(gateway.process.pid))))
                time.sleep(0.25)
        finally:
            gateway.stop()
    grows = ledger.slope(samples) * 60 / 2**20
    highest = max(rss for _, rss in samples)
    measured(
        "soak",
        f"{seconds} s at 40 windows a second",
        "RSS <= 200 MiB, no slope",
        f"{highest / 2**20:.0f} MiB at most, {grows:+.3f} MiB a minute over {seconds} s",
    )
    assert highest <= ledger.MAX_RSS
    assert grows < per_minute
