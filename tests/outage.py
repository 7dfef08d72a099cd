"""A long outage and a link that comes and goes, scaled: what is kept, and how fast the rest gets through."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.config import OutboxRoom
from models.contract.base import Stream
from models.contract.codec import dump
from models.contract.health import StreamCount
from tests.builders import Fleet, a_status, an_annotation, an_event, some_scores
from tests.faults.proxy import Proxy
from tests.receiver import Receiver
from tests.services.test_uplink import Device, running
from tests.support import eventually

OVERFILL = 4


@dataclass
class Outage:
    """What came of it."""

    counts: dict[Stream, StreamCount]
    stored: dict[Stream, int]
    missing: dict[Stream, set[int]]
    live_s: list[float] = field(default_factory=list)  # of each live alarm, from its making to its storing
    drained_per_s: float = 0.0

    def p99_s(self) -> float:
        return sorted(self.live_s)[int(0.99 * (len(self.live_s) - 1))]


def outage(folder: Path, port: int, telemetry: int, flaps: int, live: int) -> Outage:
    """`telemetry` records find room, and four times as many are made while the broker is away, with alarms, health and
    annotations among them; then the link is cut again and again while `live` alarms are made and the backlog drains."""
    fleet = Fleet(f"test.outage{time.monotonic_ns()}")
    room = OutboxRoom(telemetry_bytes=telemetry * (len(dump(some_scores())) + 120))
    with Proxy(port) as proxy, Receiver(port, folder / "received.db", fleet) as receiver:
        receiver.takes_packs = True
        with running(folder, proxy.port, fleet, receipt_s=2.0, room=room) as device:
            device.outbox.put([an_annotation()])  # and with its receipt the device knows that packs are read
            eventually(lambda: device.waiting() == 0)
            proxy.up.held = proxy.down.held = True
            for i in range(OVERFILL * telemetry // 20):
                device.outbox.put([some_scores() for _ in range(20)])
                if i % 5 == 0:
                    device.outbox.put([an_event(), a_status(), an_annotation()])
            waited = device.waiting()
            proxy.reset()
            proxy.up.held = proxy.down.held = False
            began = time.monotonic()
            result = Outage({}, {}, {})
            with flapping(proxy, flaps):
                _live(device, receiver, live, result)
            eventually(lambda: device.waiting() == 0, timeout=120)
            result.drained_per_s = waited / (time.monotonic() - began)
            result.counts = device.outbox.counts()
            result.stored = {stream: len(receiver.numbers(stream)) for stream in Stream}
            result.missing = receiver.missing(result.counts)
    return result


@contextlib.contextmanager
def flapping(proxy: Proxy, times: int) -> Iterator[None]:
    """Cut every two seconds, so often."""

    def cut() -> None:
        for _ in range(times):
            time.sleep(2)
            proxy.reset()

    thread = threading.Thread(target=cut)
    thread.start()
    yield
    thread.join()


def _live(device: Device, receiver: Receiver, n: int, result: Outage) -> None:
    """Alarms while the backlog drains; those made while there is no connection are no measure of the lanes."""
    for _ in range(n):
        connected = device.uplink.connected
        made = time.monotonic()
        ((stream, seq),) = device.outbox.put([an_event()])
        eventually(lambda: device.outbox.confirmed(stream, seq), timeout=60)  # noqa: B023
        if connected and device.uplink.connected and _same(device, made):
            result.live_s.append(time.monotonic() - made)
        time.sleep(0.02)


def _same(device: Device, since: float) -> bool:
    """No connection was made anew meanwhile."""
    return device.uplink.connected_at < since
