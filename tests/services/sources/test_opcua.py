"""Variables of a real OPC UA server."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge_agent.sensors.opcua import OpcUaSource
from tests.faults.proxy import Proxy
from tests.services.sources.probing import Probed
from tests.services.sources.reading import Reading
from tests.services.sources.ua_server import NAMESPACE, UaServer, certificate
from tests.support import eventually

UNCERTAIN, BAD = 0x40000000, 0x80000000


@pytest.fixture(scope="module")
def server() -> Iterator[UaServer]:
    """One for the tests that do not end it; each has variables of its own."""
    names = ("speed", "a", "b", "banded", "there", "cut")
    with UaServer(dict.fromkeys(names, 1.0) | {"running": True, "count": 3}) as running:
        yield running


def a_source(url: str, *names: str, **more: Any) -> Reading:
    signals = [{"name": name, "node": f"nsu={NAMESPACE};s=Pump1.{name}"} for name in names]
    fields = {"url": url, "rate_hz": 10, "publishing_s": 0.1, "timeout_s": 2, "signals": signals} | more
    return Reading(OpcUaSource.model_validate(fields).open("pump1", None))


def test_changes_come_with_the_sources_time_and_an_unchanged_value_is_not_missing(server: UaServer) -> None:
    with a_source(server.url, "speed", "running", "count", sampling_s=0) as reading:
        eventually(lambda: len(reading.times) > 3)
        changed_at = time.time()
        server.write("speed", 2.0, stamp=changed_at)
        eventually(lambda: reading.row("speed")[-1] == 2)
        eventually(lambda: reading.times[-1] > changed_at + 1)
    assert reading.failed is None
    first = next(t for t, v in zip(reading.times, reading.row("speed"), strict=True) if v == 2)
    assert 0 <= first - changed_at <= 0.11, "the first instant at or after the source's own time"
    assert set(reading.row("running")) == {1}
    assert set(reading.row("count")) == {3}
    steps = [b - a for a, b in zip(reading.times, reading.times[1:], strict=False)]
    assert max(steps) < 0.11, "on every instant, though nothing was sent"


def test_status_codes_become_quality(server: UaServer) -> None:
    with a_source(server.url, "a", "b", sampling_s=0) as reading:
        eventually(lambda: reading.times)
        server.write("a", 2.0, UNCERTAIN)
        eventually(lambda: reading.row("a")[-1] == 2)
        server.write("a", 3.0, BAD)
        eventually(lambda: math.isnan(reading.row("a")[-1]))
        server.write("a", 4.0)
        eventually(lambda: reading.row("a")[-1] == 4)
    seen = {(v if v == v else None, q) for v, q in zip(reading.row("a"), reading.quality("a"), strict=True)}
    assert seen == {(1.0, 0), (2.0, 1), (None, 2), (4.0, 0)}
    assert set(reading.row("b")) == {1}
    assert reading.source.counts["opcua_uncertain"] == 1
    assert reading.source.counts["opcua_bad"] == 1


def test_between_two_publishings_every_sample_is_kept_in_the_servers_queue(server: UaServer) -> None:
    """And a value that did not change further than the dead band is not sent."""
    item = {"name": "a", "node": f"nsu={NAMESPACE};s=Pump1.banded", "report": {"on": "change", "dead_band": 0.5}}
    with a_source(server.url, signals=[item], rate_hz=100, publishing_s=0.5, queue_size=100, sampling_s=0) as reading:
        eventually(lambda: reading.times)
        began = math.floor(time.time()) + 1.0
        for i in range(2, 22):
            server.write("banded", float(i), stamp=began + 0.02 * i)
            server.write("banded", i + 0.3, stamp=began + 0.02 * i + 0.01)
        eventually(lambda: reading.row("a")[-1] == 21, 20)
    steps = [v for v, before in zip(reading.row("a")[1:], reading.row("a"), strict=False) if v != before]
    assert steps == list(range(2, 22))


def test_a_node_that_is_not_there_is_bad_and_told_and_the_others_go_on(server: UaServer) -> None:
    with a_source(server.url, "there", "gone") as reading:
        eventually(lambda: len(reading.times) > 3)
        assert reading.source.counts["opcua_refused"] == 1
    assert set(reading.row("there")) == {1}
    assert all(map(math.isnan, reading.row("gone")))
    assert set(reading.quality("gone")) == {2}


def test_a_line_that_is_cut_is_subscribed_anew(server: UaServer) -> None:
    with Proxy(server.port) as proxy, a_source(f"opc.tcp://127.0.0.1:{proxy.port}/plant/", "cut") as reading:
        for turn in range(2, 5):
            server.write("cut", float(turn))
            eventually(lambda n=turn: reading.times and reading.row("cut")[-1] == n, 20)  # type: ignore[misc]
            proxy.reset()
            eventually(lambda n=turn: reading.source.counts["line_lost"] == n - 1)  # type: ignore[misc]
    assert set(reading.row("cut")) - {1} == {2, 3, 4}
    assert reading.times == sorted(set(reading.times))


@pytest.mark.slow
def test_a_server_that_restarts_is_found_again() -> None:
    with UaServer({"a": 1.0}) as first, a_source(first.url, "a") as reading:
        eventually(lambda: reading.times)
        first.stop()
        with UaServer({"a": 2.0}, first.port):
            eventually(lambda: reading.row("a")[-1] == 2, 30)
    assert reading.failed is None


def test_signed_and_encrypted_with_a_user_and_nobody_else_gets_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = certificate(tmp_path, "server", "urn:plant:server")
    ours = certificate(tmp_path, "gateway", "urn:plant1:gw1")
    (tmp_path / "password").write_text("s3cret\n")
    (tmp_path / "wrong").write_text("guess\n")
    security = {"certificate": ours[0], "key": ours[1], "server_certificate": theirs[0]}
    user = {"username": "reader", "password_file": tmp_path / "password"}
    with UaServer({"a": 1.0}, secured=theirs) as server:
        with a_source(server.url, "a", security=security, **user) as reading:
            eventually(lambda: reading.times)
        refused: list[dict[str, Any]] = [
            {},
            user,
            {"security": security},
            {"security": security} | user | {"password_file": tmp_path / "wrong"},
            {"security": security | {"server_certificate": ours[0]}} | user,
        ]
        others = [a_source(server.url, "a", **settings) for settings in refused]
        for each in others:
            each.__enter__()
        eventually(lambda: sum(r.getMessage() == "source away" for r in caplog.records) >= len(refused), 20)
        for each in others:
            each.source.stop()
        for settings, each in zip(refused, others, strict=True):
            assert not each.times, settings
            assert each.source.counts["connected"] == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://here"},
        {"username": "reader"},
        {"user_certificate": "a.der"},
        {"security": {"policy": "None"}},
        {"signals": []},
    ],
)
def test_settings_that_can_not_be_meant_are_refused(fields: dict[str, Any]) -> None:
    whole = {"url": "opc.tcp://x", "signals": [{"name": "a", "node": "i=1"}]}
    OpcUaSource.model_validate(whole)
    with pytest.raises(ValidationError):
        OpcUaSource.model_validate(whole | fields)


def test_a_probe_lists_variables_with_type_unit_and_status(
    server: UaServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.describe("there", "bar", 0.0, 16.0)
    server.write("b", 3.0, UNCERTAIN)
    probed = Probed(tmp_path / "agent.toml", capsys, "opcua", "--url", server.url, "--asset", "pump1")
    row = probed.row(path="Pump1/there")
    assert (row["type"], row["unit"], row["low"], row["high"]) == ("Double", "bar", 0, 16)
    assert row["node"] == f"nsu={NAMESPACE};s=Pump1.there"
    assert probed.row(path="Pump1/b")["status"] == "Uncertain"
    assert probed.row(path="Pump1/running")["type"] == "Boolean"
    assert not any(row["path"].startswith("Server") for row in probed.offers)
    (asset,) = probed.assets
    assert asset.id == "pump1"
    with probed.reading() as reading:
        eventually(lambda: reading.times, 20)
    assert reading.row("Pump1.there")[0] == 1
    assert reading.source.counts["opcua_refused"] == 0
