"""Ten times as much as usual, and more, from one device and from all: nobody else waits, alarms come through."""

from __future__ import annotations

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
SMALL = (Rate(100, 50), Rate(400, 200))  # so that a short storm is one


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
            eventually(lambda: len(client.paho._out_messages) < 200 or over.is_set(), timeout=60)
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


def receipts_after(device: Device, n: int) -> list[float]:
    """Seconds from an alarm to its receipt, so many times, and sorted."""
    took = []
    for _ in range(n):
        began = time.monotonic()
        device.send(builders.an_event())
        eventually(lambda: not device.unconfirmed, timeout=60)
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
            alarms = [device.make(builders.an_event()) for _ in range(10)]
            began = time.monotonic()
            device.send_again(lambda key: key[0] is Stream.ALARM)
            eventually(lambda: not {(Stream.ALARM, seq) for seq in alarms} & {*device.unconfirmed}, timeout=60)  # noqa: B023
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
