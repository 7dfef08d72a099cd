"""A Sparkplug B edge node over a real broker, and what the host makes of its births, deaths and numbers."""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cli import main
from edge_agent.sensors.sparkplug import SparkplugSource
from edge_agent.sensors.sparkplug.payload import Quality, read
from edge_agent.sensors.sparkplug.session import Kind, Node
from simulators.embedded.broker import Broker
from tests.faults.proxy import Proxy
from tests.services.conftest import Client
from tests.services.sources import edge_node
from tests.services.sources.edge_node import EdgeNode, metric, payload
from tests.services.sources.probing import Probed
from tests.services.sources.reading import Reading
from tests.support import eventually


def a_source(port: int, group: str, **more: Any) -> Reading:
    signals = [
        {"name": "speed", "metric": "Speed"},
        {"name": "temperature", "metric": "Temperature"},
    ]
    fields = {"host": "127.0.0.1", "port": port, "group": group, "node": "gw", "device": "motor"}
    settings = SparkplugSource.model_validate(fields | {"rate_hz": 20, "wait_s": 0.3, "signals": signals} | more)
    return Reading(settings.open("pump1", None))


@pytest.fixture
def group() -> str:
    return uuid.uuid4().hex


def test_births_aliases_and_changes_by_exception(broker: Broker, group: str) -> None:
    with EdgeNode(broker.port, group) as node, a_source(broker.port, group) as reading:
        eventually(lambda: reading.row("speed"))
        assert node.births == 2, "who comes late asks for a birth"
        node.change("motor", "Speed", 1500.0)
        eventually(lambda: reading.row("speed")[-1] == 1500)
        n = len(reading.times)
        eventually(lambda: len(reading.times) > n + 10)  # nothing was sent, nothing is missing
    assert set(reading.row("speed")) == {1450, 1500}
    assert set(reading.row("temperature")) == {40}


def test_a_number_left_out_is_a_lost_message_and_asks_for_a_birth(broker: Broker, group: str) -> None:
    with EdgeNode(broker.port, group) as node, a_source(broker.port, group) as reading:
        reading.source._asked = -math.inf  # type: ignore[attr-defined]
        eventually(lambda: reading.row("speed"))
        reading.source._asked = -math.inf  # type: ignore[attr-defined]
        node.lose = 1
        node.change("motor", "Speed", 1600.0)  # this is lost
        node.change("motor", "Temperature", 41.0)
        eventually(lambda: reading.row("speed")[-1] == 1600)
        assert reading.source.counts["sparkplug_gaps"] == 1
    assert set(reading.row("speed")) == {1450, 1600}


def test_a_death_holds_nothing_and_a_late_will_of_an_earlier_life_is_none(broker: Broker, group: str) -> None:
    with EdgeNode(broker.port, group) as node, a_source(broker.port, group) as reading:
        eventually(lambda: reading.row("speed"))
        node.publish("NDEATH", node.death(bd_seq=99))
        eventually(lambda: reading.source.counts["sparkplug_deaths_of_earlier"] == 1)
        n = len(reading.times)
        eventually(lambda: len(reading.times) > n + 10)
        node.publish("NDEATH", node.death(node.bd_seq))
        eventually(lambda: reading.source.counts["sparkplug_deaths"] == 1)
        died = time.time()
        node.values["motor"]["Speed"] = 5.0
        eventually(lambda: time.time() > died + 1)
        node.born()
        eventually(lambda: reading.row("speed")[-1] == 5)
    gap = max((b - a, a) for a, b in zip(reading.times, reading.times[1:], strict=False))
    assert gap[0] > 0.5, "nothing was made up while it was dead"


def test_a_dead_device_is_bad_until_its_birth(broker: Broker, group: str) -> None:
    with EdgeNode(broker.port, group) as node, a_source(broker.port, group) as reading:
        eventually(lambda: reading.row("speed"))
        node.send("DDEATH", [], "motor")
        eventually(lambda: math.isnan(reading.row("speed")[-1]))
        assert reading.quality("speed")[-1] == Quality.BAD
        node.send("DBIRTH", [metric(7, name="Speed", alias=7), metric(8, name="Temperature", alias=8)], "motor")
        eventually(lambda: reading.row("speed")[-1] == 7)


def test_what_was_stored_is_marked_late_and_is_not_now(broker: Broker, group: str) -> None:
    with EdgeNode(broker.port, group) as node, a_source(broker.port, group) as reading:
        eventually(lambda: reading.row("speed"))
        old = time.time() - 7200
        node.change("motor", "Speed", 9.0, stamp=old, historical=True)
        eventually(lambda: reading.source.counts["samples_historical"] == 1)
        n = len(reading.times)
        eventually(lambda: len(reading.times) > n + 5)
    late = [block for block in reading.blocks if block.late]
    assert len(late) == 1
    assert late[0].times[0] == pytest.approx(old, abs=0.002)
    assert {v for b in reading.blocks if not b.late for v in b.values[0].tolist()} == {1450}


def test_quality_and_null_of_a_metric(broker: Broker, group: str) -> None:
    with EdgeNode(broker.port, group) as node, a_source(broker.port, group) as reading:
        eventually(lambda: reading.row("speed"))
        node.change("motor", "Speed", 3.0, quality=64)
        eventually(lambda: reading.quality("speed")[-1] == Quality.UNCERTAIN)
        node.send("DDATA", [metric(None, alias=7, stamp=time.time())], "motor")
        eventually(lambda: math.isnan(reading.row("speed")[-1]))
        node.change("motor", "Speed", 4.0, quality=500)
        node.change("motor", "Speed", 5.0, quality=192)
        eventually(lambda: reading.row("speed")[-1] == 5)
    assert 4 not in reading.row("speed")


def test_the_host_says_that_it_is_there_and_that_it_is_gone(
    broker: Broker, group: str, connect: Callable[..., Client]
) -> None:
    host = f"host-{group}"
    client = connect(broker)
    client.subscribe(f"spBv1.0/STATE/{host}")

    def states() -> list[bool]:
        return [json.loads(raw)["online"] for raw in client.payloads()]

    with Proxy(broker.port) as proxy, a_source(proxy.port, group, host_id=host):
        eventually(lambda: states() == [True])
        proxy.reset()  # its will speaks for it
        eventually(lambda: states()[:2] == [True, False], 20)
        eventually(lambda: states()[-1] is True, 20)
    eventually(lambda: states()[-1] is False)


def test_a_line_that_is_cut_begins_with_a_birth(broker: Broker, group: str) -> None:
    with EdgeNode(broker.port, group) as node, Proxy(broker.port) as proxy, a_source(proxy.port, group) as reading:
        for turn in (1.0, 2.0, 3.0):
            node.values["motor"]["Speed"] = turn
            eventually(lambda n=turn: reading.source.counts["connected"] >= n, 20)  # type: ignore[misc]
            node.born()
            eventually(lambda n=turn: reading.times and reading.row("speed")[-1] == n, 20)  # type: ignore[misc]
            proxy.reset()
            eventually(lambda n=turn: reading.source.counts["line_lost"] == n)  # type: ignore[misc]
    assert {1.0, 2.0, 3.0} <= set(reading.row("speed"))


@pytest.mark.parametrize(
    ("value", "datatype"), [(-5, edge_node.INT32), (-(2**40), edge_node.INT64), (2.5, 10), (True, edge_node.BOOLEAN)]
)
def test_values_of_each_type(value: float, datatype: int) -> None:
    found = read(payload([metric(value, name="a", datatype=datatype)], seq=3, stamp=1_772_000_000.5))
    assert (found.seq, found.stamp) == (3, 1_772_000_000.5)
    assert found.metrics[0].value(0) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_payload_or_refused(raw: bytes) -> None:
    with contextlib.suppress(ValueError):
        read(raw)


@given(st.lists(st.integers(0, 3), max_size=600))
def test_every_lost_message_is_counted_once_whatever_is_lost(lost: list[int]) -> None:
    """As long as fewer than a round of them is lost at once; and none is taken for lost that was not."""
    node = Node()
    node.take(Kind.NBIRTH, "", read(payload([metric(1, name="a", alias=1)], 0)))
    seq = 0
    for n in lost:
        seq = (seq + 1 + n) % 256
        told = node.take(Kind.NDATA, "", read(payload([metric(2, alias=1)], seq)))
        assert told.rebirth == (n > 0)
        assert len(told.given) == 1
    assert node.counts["gaps"] == sum(lost)
    assert not node.take(Kind.NDATA, "", read(payload([metric(2, alias=1)], seq))).given, "the same one again"


def test_a_probe_asks_for_births_and_lists_metrics_with_their_aliases(
    broker: Broker, group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["sparkplug", "--port", str(broker.port), "--seconds", "0.7", "--group", group]
    with EdgeNode(broker.port, group) as node:
        assert main(["probe", *where, "--node", "gw", "--listen-only"]) == 0
        assert "births of 0 nodes" in capsys.readouterr().out
        assert node.births == 1, "nobody was asked"
        probed = Probed(tmp_path / "agent.toml", capsys, *where, "--node", "gw")
        assert node.births == 2
        row = probed.row(device="motor", metric="Speed")
        assert (row["alias"], row["type"], row["value"], row["quality"]) == (7, "Double", 1450, "good")
        assert [asset.id for asset in probed.assets] == [f"{group}-gw", f"{group}-gw-motor"]
        with probed.reading(1) as reading:
            eventually(lambda: reading.times, 20)
    assert reading.row("Speed")[0] == 1450
