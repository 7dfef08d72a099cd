"""Samples over MQTT, as a plant sends them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

from edge_agent.config import Broker as FleetBroker
from edge_agent.sensors.base import QUEUE
from edge_agent.sensors.channel import Channel
from edge_agent.sensors.mqtt import MqttSource
from simulators.embedded.broker import Broker
from tests.faults.proxy import Proxy
from tests.services.conftest import Client
from tests.services.sources.reading import Reading
from tests.support import eventually

T = 1_772_000_000.0


def a_source(topic: str, port: int) -> Reading:
    settings = MqttSource(topic=topic, rate_hz=4.0, signals=(Channel(name="a"), Channel(name="b")))
    return Reading(settings.open("pump1", FleetBroker(port=port)))


def a_block(i: int) -> bytes:
    return json.dumps({"t": T + i, "signals": {"a": [i] * 4, "b": [0] * 4}}).encode()


def test_good_blocks_come_through_and_the_unreadable_are_counted(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    topic = f"plant/{uuid.uuid4().hex}/samples"
    client = connect(broker)
    bad = [
        b"",
        b"[1]",
        b'{"t": 1, "signals": {"a": [1]}}',
        b'{"t": 1, "signals": {"a": [1], "b": [1, 2]}}',
        b'{"t": NaN}',
    ]
    good = {"t": T, "rate_hz": 4.0, "signals": {"b": [5, 6], "a": [1.5, None], "other": ["x"]}}
    with a_source(topic, broker.port) as reading:
        eventually(lambda: reading.source.counts["connected"])
        for payload in [*bad, json.dumps(good).encode()]:
            client.publish(topic, payload)
        eventually(lambda: reading.blocks)
    assert reading.source.unreadable == len(bad)
    assert reading.times == [T, T + 0.25]
    assert reading.values[:, 0].tolist() == [1.5, 5.0]
    assert str(reading.values[0, 1]) == "nan"


def test_a_line_that_is_cut_comes_back_by_itself(broker: Broker, connect: Callable[..., Client]) -> None:
    topic = f"plant/{uuid.uuid4().hex}/samples"
    client = connect(broker)
    with Proxy(broker.port) as proxy, a_source(topic, proxy.port) as reading:
        for turn in range(1, 4):
            eventually(lambda n=turn: reading.source.counts["connected"] == n, 20)  # type: ignore[misc]
            client.publish(topic, a_block(turn))
            eventually(lambda n=turn: len(reading.blocks) == n)  # type: ignore[misc]
            proxy.reset()
            eventually(lambda n=turn: reading.source.counts["line_lost"] == n)  # type: ignore[misc]
    assert reading.row("a") == [1] * 4 + [2] * 4 + [3] * 4
    assert reading.failed is None


def test_a_flood_is_bounded_the_newest_is_kept_and_every_drop_is_counted(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    topic = f"plant/{uuid.uuid4().hex}/samples"
    client = connect(broker)
    n = 10 * QUEUE
    with a_source(topic, broker.port) as reading:
        eventually(lambda: reading.source.counts["connected"])
        reading.pause()
        for i in range(n):
            client.publish(topic, a_block(i))
        eventually(lambda: reading.source.dropped >= n - QUEUE - 2)
        reading.resume()
        eventually(lambda: T + n - 1 in reading.times)
        assert len(reading.blocks) + reading.source.dropped == n
        assert len(reading.blocks) <= QUEUE + 2
