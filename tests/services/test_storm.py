"""Ten times as much as usual, and more, from one device and from all: nobody else waits, alarms come through."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fleet_server.ingest import mailbox
from fleet_server.ingest.flood import Flood, Rate
from models.contract import topics
from models.contract.base import Stream
from simulators.embedded.broker import Broker
from tests import builders
from tests.faults.figures import Measured, Scale
from tests.services.conftest import Client
from tests.services.station import Device, Station, value
from tests.support import eventually

Connect = Callable[..., Client]
SMALL = (Rate(100, 30), Rate(400, 200))  # so that a short storm is one
A_SECOND = 300  # messages of each device: ten times what it may; a broker's queue is in order, and does not fill up


@pytest.fixture
def station(plain_database: str, own_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    monkeypatch.setattr(mailbox, "Flood", lambda: Flood(*SMALL))
    running = Station(plain_database, own_broker).start()
    yield running
    running.stop()


@contextmanager
def storm(broker: Broker, devices: list[Device]) -> Iterator[None]:
    """All telemetry that these have made, again and again and without waiting for receipts, until it is over."""
    over = threading.Event()
    told = [[(topics.up(d.name, key[0]), payload) for key, payload in d._made.items()] for d in devices]

    def rage(messages: list[tuple[str, bytes]]) -> None:
        client = Client(broker)  # beside the device's own, which keeps to the rules
        while not over.is_set():
            for topic, payload in messages:
                client.paho.publish(topic, payload, qos=1)
                if over.wait(1 / A_SECOND):
                    break
        client.close()

    threads = [threading.Thread(target=rage, args=(messages,)) for messages in told]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def stored(device: Device, which: Callable[[tuple[Stream, int]], bool]) -> None:
    """Wait until it has the receipts; what got none in two seconds it sends again, as an agent does."""

    def told() -> bool:
        return not any(map(which, device.unconfirmed))

    began = time.monotonic()
    while not told():
        assert time.monotonic() - began < 90, "no receipt"
        with contextlib.suppress(AssertionError):
            eventually(told, timeout=2)
            return
        device.send_again(which)


def receipts_after(device: Device, n: int) -> list[float]:
    """Seconds from an alarm to its receipt, so many times, and sorted."""
    took = []
    for _ in range(n):
        began = time.monotonic()
        device.send(builders.an_event())
        stored(device, lambda key: True)
        took.append(time.monotonic() - began)
    return sorted(took)


def p95(took: list[float]) -> float:
    return took[int(0.95 * (len(took) - 1))]


def shed(station: Station) -> int:
    return int(value(station.dsn, "SELECT coalesce(max(n), 0) FROM counter WHERE name = 'shed'"))


def test_a_storm_of_one_device_holds_up_no_other_and_loses_nothing(
    station: Station, own_broker: Broker, connect: Connect, scale: Scale, measured: Measured
) -> None:
    n = scale.times(20, 300)
    quiet, loud = (Device(f"plant1.gw{i}", connect(own_broker), station.key) for i in (1, 2))
    usual = receipts_after(quiet, n)
    for _ in range(300):
        loud.make(builders.some_scores())
    with storm(own_broker, [loud]):
        eventually(lambda: shed(station) > 300, timeout=60)
        during = receipts_after(quiet, n)
    told = f"p95 of a receipt {p95(usual) * 1000:.0f} ms, in the storm {p95(during) * 1000:.0f} ms"
    measured("G6", "a storm of one device", "the others' p95 < 2x", f"{told}; {shed(station)} messages not taken")
    assert p95(during) < (2 * p95(usual) if scale.full else 10 * p95(usual) + 1)
    loud.deliver(timeout=120)  # what was not taken comes again
    assert value(station.dsn, "SELECT count(*) FROM prediction") == 900
    assert value(station.dsn, "SELECT count(*) FROM event") == 2 * n


def test_in_a_storm_of_all_telemetry_gives_way_before_alarms(
    station: Station, own_broker: Broker, connect: Connect, measured: Measured
) -> None:
    devices = [Device(f"plant1.gw{i}", connect(own_broker), station.key) for i in range(1, 4)]
    for device in devices:
        for _ in range(200):
            device.make(builders.some_scores())
    with storm(own_broker, devices):
        eventually(lambda: shed(station) > 400, timeout=60)
        took = []
        for device in devices:
            for _ in range(10):
                device.make(builders.an_event())
            began = time.monotonic()
            device.send_again(lambda key: key[0] is Stream.ALARM)
            stored(device, lambda key: key[0] is Stream.ALARM)
            took.append(time.monotonic() - began)
    assert value(station.dsn, "SELECT count(*) FROM event") == 30
    told = f"ten alarms of a device stored after {statistics.median(took):.2f} s, {max(took):.2f} s at most"
    measured("G6", "a storm of all", "telemetry is shed before alarms", told)
    assert shed(station) > 400


def test_what_a_device_may_send() -> None:
    now = [0.0]
    flood = Flood(Rate(10, 1), Rate(20, 1), clock=lambda: now[0])
    telemetry, alarm, other = (
        topics.up(device, stream)
        for device, stream in (
            ("plant1.gw1", Stream.TELEMETRY), ("plant1.gw1", Stream.ALARM), ("plant1.gw2", Stream.TELEMETRY),
        )
    )  # fmt: skip
    assert [flood.bears(telemetry, False) for _ in range(12)] == [True] * 10 + [False] * 2
    assert flood.bears(alarm, False)
    assert flood.bears(other, False)
    now[0] += 3
    assert [flood.bears(telemetry, False) for _ in range(4)] == [True] * 3 + [False]
    assert not flood.bears(telemetry, True)
    assert [flood.bears(other, True) for _ in range(7)] == [True] * 6 + [False]  # crowded: the upper half only
    assert [flood.bears(alarm, True) for _ in range(21)] == [True] * 20 + [False]
    assert [flood.bears("nobody's", False) for _ in range(11)] == [True] * 10 + [False]
