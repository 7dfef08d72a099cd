"""Samples over MQTT, as a plant sends them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

from edge_agent.config import Broker as FleetBroker
from edge_agent.config import MqttSource
from edge_agent.sensors import Block
from edge_agent.sensors.mqtt import MqttJson
from models.contract.signals import Signal
from simulators.embedded.broker import Broker
from tests.services.conftest import Client

T = 1_772_000_000.0


def test_good_blocks_come_through_and_the_unreadable_are_counted(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    topic = f"plant/{uuid.uuid4().hex}/samples"
    settings = MqttSource(topic=topic, rate_hz=4.0, signals=(Signal(name="a"), Signal(name="b")))
    source = MqttJson(settings, "pump1", FleetBroker(port=broker.port))
    blocks = source.blocks()
    assert next(blocks) is None  # connected, nothing there yet
    client = connect(broker)
    bad = [
        b"",
        b"[1]",
        b'{"t": 1, "signals": {"a": [1]}}',
        b'{"t": 1, "signals": {"a": [1], "b": [1, 2]}}',
        b'{"t": NaN}',
    ]
    good = {"t": T, "rate_hz": 4.0, "signals": {"b": [5, 6], "a": [1.5, None], "other": ["x"]}}
    found: list[Block] = []
    for _ in range(200):  # the subscription may be younger than the first messages
        for payload in [*bad, json.dumps(good).encode()]:
            client.publish(topic, payload)
        found += [block for _ in range(8) if (block := next(blocks))]
        if found and source.unreadable >= len(bad):
            break
    source.stop()
    assert found[0].times.tolist() == [T, T + 0.25]
    assert found[0].values[:, 0].tolist() == [1.5, 5.0]
    assert str(found[0].values[0, 1]) == "nan"
