"""Samples over MQTT, as a plant sends them."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_agent.config import Broker as FleetBroker
from edge_agent.sensors.base import QUEUE
from edge_agent.sensors.mqtt import Mapped, MqttSource
from simulators.embedded.broker import Broker
from tests.faults.proxy import Proxy
from tests.services.conftest import Client
from tests.services.sources.probing import Probed
from tests.services.sources.reading import Reading
from tests.support import eventually

T = 1_772_000_000.0


def a_source(topic: str, port: int) -> Reading:
    settings = MqttSource(topic=topic, rate_hz=4.0, signals=(Mapped(name="a"), Mapped(name="b")))
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


def test_a_plants_own_messages_by_paths_times_and_topics(broker: Broker, connect: Callable[..., Client]) -> None:
    """Two signals in one message with its time, one alone on a topic that ends otherwise for each shift."""
    root = f"plant/{uuid.uuid4().hex}"
    settings = {
        "topic": f"{root}/state",
        "rate_hz": 1.0,
        "time": "$.header.ts",
        "signals": [
            {"name": "temp", "unit": "degC", "value": "$.data[0].temp"},
            {"name": "on", "value": '$["is.on"]', "valid_s": 100},
            {"name": "load", "value": "$.v", "topic": f"{root}/load/+", "method": "mean", "valid_s": 100},
        ],
    }
    client = connect(broker)
    source = MqttSource.model_validate(settings).open("pump1", FleetBroker(port=broker.port))

    def tell(topic: str, second: float, **more: object) -> None:
        body = {"header": {"ts": round((T + second) * 1000), "by": "plc"}} | more
        client.publish(f"{root}/{topic}", json.dumps(body).encode())

    with Reading(source) as reading:
        eventually(lambda: source.counts["connected"])
        client.publish(f"{root}/state", b'{"data": 1}')
        tell("state", 0, data=[{"temp": 20}], **{"is.on": True})
        tell("load/early", 0.0, v=2)
        tell("state", 1, data=[{"temp": "20.5"}])
        tell("load/late", 0.6, v="4")
        tell("load/late", 1.0, v=6)
        tell("state", 2, data=[{"temp": "hot"}])
        tell("load/late", 2.0, v=8)
        tell("state", 3, data=[{"temp": 21}], **{"is.on": False})
        tell("load/late", 3.0, v=8)
        eventually(lambda: reading.row("temp")[-1:] == [21])
    assert reading.times[:4] == [T, T + 1, T + 2, T + 3]
    assert [str(v) for v in reading.row("temp")[:4]] == ["20.0", "20.5", "nan", "21.0"]
    assert reading.quality("temp")[:4] == [0, 0, 2, 0]
    assert reading.row("on")[:4] == [1, 1, 1, 0]
    assert reading.row("load")[:4] == [2, 5, 8, 8], "the mean since the instant before"
    assert (source.unreadable, source.counts["mqtt_no_number"]) == (1, 1)


def test_without_a_time_it_is_when_the_message_came_and_what_was_retained_is_not_now(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    topic = f"plant/{uuid.uuid4().hex}/temp"
    client = connect(broker)
    client.publish(topic, b"99", retain=True)
    settings = {"topic": topic, "rate_hz": 10, "wait_s": 0.1, "signals": [{"name": "temp", "value": "$", "valid_s": 9}]}
    source = MqttSource.model_validate(settings).open("pump1", FleetBroker(port=broker.port))
    with Reading(source) as reading:
        eventually(lambda: source.counts["mqtt_retained"])
        began = time.time()
        client.publish(topic, b"20.5")
        eventually(lambda: reading.times)
    client.publish(topic, b"", retain=True)
    assert set(reading.row("temp")) == {20.5}
    assert began - 0.2 < reading.times[0] < time.time()


@pytest.mark.parametrize(
    "fields",
    [
        {"signals": [{"name": "a", "value": "$.a"}, {"name": "b"}]},
        {"signals": [{"name": "a", "value": "a"}]},
        {"signals": [{"name": "a", "topic": "x"}]},
        {"time": "$.t"},
    ],
)
def test_mappings_that_can_not_be_meant_are_refused(fields: dict[str, object]) -> None:
    whole: dict[str, object] = {"topic": "t", "rate_hz": 1, "signals": [{"name": "a"}]}
    MqttSource.model_validate(whole)
    with pytest.raises(ValidationError):
        MqttSource.model_validate(whole | fields)


def test_a_probe_lists_topics_and_paths_and_what_it_writes_is_read(
    broker: Broker, connect: Callable[..., Client], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"plant/{uuid.uuid4().hex}"
    client = connect(broker)
    over = threading.Event()

    def plant() -> None:
        while not over.wait(0.1):
            state = {"ts": round(time.time() * 1000), "by": "plc", "data": [{"temp": 20.5, "odd.name": "7"}]}
            client.publish(f"{root}/state", json.dumps(state).encode())
            client.publish(f"{root}/raw/load", b"0.5")
            client.publish(f"{root}/raw/flow", b"12")
            client.publish(f"{root}/blocks", a_block(1))
            client.publish(f"{root}/text", b"hello")

    publisher = threading.Thread(target=plant)
    publisher.start()
    try:
        where = ["mqtt", "--port", str(broker.port), "--topic", f"{root}/#", "--seconds", "1.5"]
        probed = Probed(tmp_path / "agent.toml", capsys, *where)
        assert probed.row(topic=f"{root}/state", path="$.data[0].temp")["value"] == 20.5
        assert probed.row(topic=f"{root}/text")["value"] == "no JSON"
        by_topic = {asset.mqtt.topic.removeprefix(root): i for i, asset in enumerate(probed.assets) if asset.mqtt}
        state = probed.assets[by_topic["/state"]].mqtt
        assert state is not None
        assert state.time == "$.ts"
        with probed.reading(by_topic["/state"]) as reading:
            eventually(lambda: reading.times)
        raw = min(name for name in by_topic if "raw" in name)
        with probed.reading(by_topic[raw]) as loose, probed.reading(by_topic["/blocks"]) as blocks:
            eventually(lambda: loose.times and blocks.times)
    finally:
        over.set()
        publisher.join(10)
    assert [s.name for s in reading.source.signals] == ["data.0.temp", "data.0.odd.name"]
    assert reading.values[:, 0].tolist() == [20.5, 7]
    assert {s.name: loose.row(s.name)[0] for s in loose.source.signals} == {"flow": 12, "load": 0.5}
    assert blocks.row("a")[:4] == [1] * 4
