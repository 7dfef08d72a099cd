"""What the technician's phone is told by agent and fleet server: the same paths, the same JSON."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent.agent import Agent
from edge_agent.config import load as load_config
from edge_agent.page import PageServer, make_app
from fleet_server.ingest.batch import store
from fleet_server.store.pool import connect
from models.contract.base import Stream
from models.contract.codec import dump
from models.contract.events import AlarmEvent, Plot
from models.contract.messages import Annotation
from models.form import api
from tests import builders
from tests.builders import an_annotation, an_event
from tests.services.station import now
from tests.services.test_ingest import a_beat, message
from tests.services.test_web import Shop

AGENT = """
device = "plant1.gw1"
heartbeat_s = 3600
[form]
port = -1
[[asset]]
id = "pump1"
kind = "pump"
hall = "North"
source = "mqtt"
[asset.mqtt]
topic = "x"
host = "127.0.0.1"
port = 1
rate_hz = 100.0
[[asset.mqtt.signals]]
name = "vib"
unit = "m/s2"
"""


class Host:
    """Either side, with one machine `pump1`: how an alarm gets there, and an HTTP client."""

    name: str
    http: httpx.Client
    raise_alarm: Callable[[AlarmEvent], None]

    def say(self, said: Annotation, **headers: str) -> httpx.Response:
        return self.http.put(f"/api/annotations/{said.annotation_id}", content=dump(said), headers=headers)

    def bootstrap(self, **query: Any) -> api.Bootstrap:
        answer = self.http.get("/api/form/bootstrap", params=query)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        return api.Bootstrap.model_validate_json(answer.content)


class AgentHost(Host):
    name = "agent"

    def __init__(self, folder: Path, settings: str = AGENT, now: Callable[[], datetime] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        config = folder / "agent.toml"
        config.write_text(settings)
        self.agent = Agent(load_config(config), tell=lambda _: None)
        self.outbox = self.agent._outbox
        desk = self.agent.desk()
        self.desk = replace(desk, now=now or desk.now)
        self.page = PageServer(make_app(self.desk), "127.0.0.1", 0)
        loops = (self.page.loop, self.agent._writer.loop)
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()
        self.http = httpx.Client(base_url=self.page.url)

    def raise_alarm(self, event: AlarmEvent) -> None:  # type: ignore[override]
        self.agent.journal.put([event])
        self.agent._writer.flush(10)

    def close(self) -> None:
        self.http.close()
        self.page.stop()
        self.agent._writer.stop()
        for thread in self._threads:
            thread.join(5)


class ServerHost(Host):
    name = "server"

    def __init__(self, shop: Shop) -> None:
        self.shop, self.http = shop, shop.http
        self._seq = 1
        asset = {"kind": "pump", "hall": "North", "state": "scoring", "signals": [{"name": "vib", "unit": "m/s2"}]}
        shop.put(message(a_beat(assets={"pump1": asset}), 1))

    def raise_alarm(self, event: AlarmEvent) -> None:  # type: ignore[override]
        self._seq += 1
        with connect(self.shop.dsn) as conn:
            store(conn, [message(event, self._seq)], now())


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentHost]:
    made = AgentHost(tmp_path)
    yield made
    made.close()


@pytest.fixture
def server(plain_database: str) -> Iterator[ServerHost]:
    shop = Shop(plain_database)
    yield ServerHost(shop)
    shop.close()


@pytest.fixture(params=["agent", "server"])
def host(request: pytest.FixtureRequest) -> Host:
    made: Host = request.getfixturevalue(request.param)
    return made


def an_alarm(**changes: Any) -> AlarmEvent:
    plot = Plot(signal="vib", unit="m/s2", seconds=0.5, values=(0.1, 0.9), normal=(0.1, 0.2))
    drivers = [{"feature": "vib.rms", "value": 1.25, "usual": 0.5, "deviation": 6.0}]
    when = {"opened_at": now(), "window_start": now(), "window_end": now() + timedelta(milliseconds=1)}
    return an_event(**(when | {"plot": plot, "drivers": drivers, "fault_class": "bearing"} | changes))


def test_both_sides_show_machines_and_alarms_with_why_in_words(host: Host) -> None:
    event = an_alarm()
    host.raise_alarm(event)
    shown = host.bootstrap()
    assert (shown.host, shown.labels_version) == (host.name, 2)
    (asset,) = shown.assets
    assert (asset.id, asset.kind, asset.hall, asset.device) == ("pump1", "pump", "North", "plant1.gw1")
    assert asset.code == api.short_code("pump1")
    assert len(asset.code) == 5
    (alarm,) = shown.alarms
    assert (alarm.event_id, alarm.open, alarm.looks_like, alarm.answered) == (event.event_id, True, "bearing", False)
    assert alarm.why[:2] == (
        "Looks like: Bearing worn or damaged.",
        "vib: level (RMS) is 1.25 m/s², usually 0.5 m/s².",
    )
    assert alarm.plot == event.plot
    assert host.bootstrap(lang="de-AT").alarms[0].why[0] == "Sieht aus wie: Lager verschlissen oder beschädigt."


def test_the_taxonomy_comes_once_in_every_language(host: Host) -> None:
    taxonomy = host.bootstrap().taxonomy
    assert taxonomy is not None
    for term in (*taxonomy.verdicts, *taxonomy.faults, *taxonomy.severities):
        assert set(term.text) == set(term.guide) == set(taxonomy.languages)
    assert host.bootstrap(labels_version=taxonomy.version).taxonomy is None


def test_an_annotation_sent_five_times_is_one_and_each_answer_names_it(host: Host) -> None:
    event = an_alarm()
    host.raise_alarm(event)
    said = an_annotation(event_id=event.event_id, verdict="fault", fault="gear", labels_version=2)
    answers = [host.say(said.model_copy(update={"sent_at": now()})) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200]
    assert {answer.json()["annotation_id"] for answer in answers} == {str(said.annotation_id)}
    assert answers[-1].json()["state"] == ("kept" if host.name == "agent" else "stored")
    assert host.http.get(f"/api/annotations/{said.annotation_id}").json() == answers[-1].json()
    assert host.http.get(f"/api/annotations/{uuid.uuid4()}").status_code == 404
    shown = host.bootstrap()
    assert shown.alarms[0].answered
    assert [outcome.annotation_id for outcome in shown.outcomes] == [said.annotation_id]


def test_other_words_and_what_is_no_annotation_are_refused_by_name_with_reasons(host: Host) -> None:
    said = an_annotation()
    host.say(said)
    for changes in ({"note": "other"}, {"learn": False}, {"part_replaced": "6205"}, {"interval_confidence": 0.5}):
        answer = host.say(said.model_copy(update=changes))
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict"), changes
        assert answer.json()["annotation_id"] == str(said.annotation_id)
    other = str(uuid.uuid4())
    answer = host.http.put(f"/api/annotations/{other}", content=b'{"kind": "annotation", "verdict": "maybe"}')
    assert (answer.status_code, answer.json()["annotation_id"]) == (422, other)
    assert {"verdict", "asset", "annotator"} <= {reason["field"] for reason in answer.json()["reasons"]}


def test_an_older_phones_annotation_is_the_same_before_and_after_the_new_fields(host: Host) -> None:
    old = an_annotation(labels_version=1, verdict="fault", fault="bearing")
    fields = {
        "learn",
        "part_replaced",
        "attachments",
        "interval_confidence",
        "policy",
        "sent_at",
        "taken_at",
        "sent_by",
    }
    body = old.model_dump_json(exclude=fields)
    answers = [host.http.put(f"/api/annotations/{old.annotation_id}", content=body) for _ in range(2)]
    answers.append(host.say(old))
    assert [answer.status_code for answer in answers] == [201, 200, 200]


def test_the_agent_says_stored_when_the_servers_receipt_came_and_not_before(agent: AgentHost) -> None:
    first, second = an_annotation(), an_annotation()
    assert [agent.say(said).json()["state"] for said in (first, second)] == ["kept", "kept"]
    agent.outbox.stored(Stream.ANNOTATION, [(2, 2)])
    assert [agent.say(said).json()["state"] for said in (first, second)] == ["kept", "stored"]
    agent.outbox.evict(Stream.ANNOTATION, 1, "oversize")
    assert agent.say(first).json()["state"] == "kept", "given up is not stored"
    states = {outcome.annotation_id: outcome.state for outcome in agent.bootstrap().outcomes}
    assert states == {first.annotation_id: "kept", second.annotation_id: "stored"}


def test_the_bootstrap_stays_small_and_counts_what_it_leaves_out(host: Host) -> None:
    plot = Plot(signal="vib", seconds=0.5, values=(0.1234,) * 120, normal=(0.1234,) * 120)
    drivers = [{"feature": "vib." + "x" * 2000, "value": 1.0, "usual": 0.5, "deviation": 6.0}]
    for i in range(12):
        host.raise_alarm(an_alarm(plot=plot, drivers=drivers * 3, phase="raised" if i % 2 else "cleared"))
    answer = host.http.get("/api/form/bootstrap")
    shown = api.Bootstrap.model_validate_json(answer.content)
    assert len(answer.content) <= api.BOOTSTRAP_BYTES
    assert len(shown.alarms) + shown.left_out.alarms == 12
    assert sum(alarm.open for alarm in shown.alarms) == 6, "what is over is left out first"
    assert shown.left_out.plots > 0


def test_a_body_of_unknown_length_or_too_large_is_refused(host: Host) -> None:
    address = f"/api/annotations/{uuid.uuid4()}"
    assert host.http.put(address, content=b"x" * 300_000).status_code == 413
    assert host.http.put(address, content=iter([b"x"])).status_code == 413


def test_a_golden_alarm_of_version_one_has_no_plot_and_is_shown(host: Host) -> None:
    host.raise_alarm(an_alarm(plot=None, drivers=(), fault_class="what-only-the-model-knows"))
    (alarm,) = host.bootstrap().alarms
    assert (alarm.plot, alarm.drivers) == (None, ())
    assert "what-only-the-model-knows" in alarm.why[0]


def test_an_alarms_plot_keeps_its_peaks() -> None:
    import numpy as np

    from edge_agent.detect.plot import thin

    samples = np.zeros(10_000, np.float32)
    samples[1234], samples[5678] = 9.87654, -5
    kept = thin(samples)
    assert len(kept) == 120
    assert (max(kept), min(kept)) == (9.877, -5)
    assert kept.index(9.877) < kept.index(-5)
    assert thin(samples[:100]) == tuple(samples[:100].tolist())


def test_pages_of_before_still_answer(agent: AgentHost) -> None:
    event = builders.an_event()
    agent.raise_alarm(event)
    for path in ("/", "/now", f"/annotate/{event.event_id}", "/annotate?asset=pump1", "/api/status", "/api/events"):
        assert agent.http.get(path).status_code == 200, path
