"""What programs and people are told over HTTP, and what they may do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from fleet_server.app import WebServer
from fleet_server.config import Broker, Config, Keys, Web
from fleet_server.ingest.batch import store
from fleet_server.release import registry
from fleet_server.store import bundles
from fleet_server.store.migrate import migrate
from fleet_server.store.pool import connect, open_pool
from fleet_server.web.deps import Site
from models.contract.codec import dump
from models.contract.messages import Annotation
from simulators.embedded.broker import Broker as EmbeddedBroker
from tests import builders, support
from tests.builders import NOW, an_annotation
from tests.services.conftest import Client
from tests.services.station import Device, ServerProcess, now, query, value
from tests.services.test_ingest import a_beat, message
from tests.support import eventually


class Shop:
    """A web server with a database behind it, and whether its broker is there."""

    def __init__(self, dsn: str, **settings: Any) -> None:
        self.dsn, self.broker = dsn, True
        with connect(dsn) as conn:
            migrate(conn)
        config = Config(database=dsn, keys=Keys(server=Path("unused")), web=Web(port=0), broker=Broker(), **settings)
        self.pool = open_pool(dsn)
        self._web = WebServer(Site(config, self.pool, lambda: self.broker))
        self._web.start()
        self.http = httpx.Client(base_url=self._web.address)

    def put(self, *messages: Any) -> None:
        with connect(self.dsn) as conn:
            store(conn, list(messages), now())

    def say(self, said: Annotation, **headers: str) -> httpx.Response:
        return self.http.put(f"/api/annotations/{said.annotation_id}", content=dump(said), headers=headers)

    def close(self) -> None:
        self.http.close()
        self._web.stop()
        self.pool.close()


@pytest.fixture
def shop(plain_database: str) -> Iterator[Shop]:
    made = Shop(plain_database)
    yield made
    made.close()


def error_of(response: httpx.Response) -> dict[str, str]:
    assert set(response.json()) - {"annotation_id", "reasons"} == {"error"}
    error: dict[str, str] = response.json()["error"]
    assert set(error) == {"code", "message"}
    assert error["message"]
    return error


def test_an_annotation_put_five_times_is_one_row(shop: Shop) -> None:
    event = builders.an_event()
    shop.put(message(event))
    said = an_annotation(event_id=event.event_id, verdict="fault", fault="bearing")
    answers = [shop.say(said) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200]
    assert answers[0].json() == {
        "annotation_id": str(said.annotation_id),
        "taken": "new",
        "state": "stored",
        "status": "accepted",
        "reason": "",
    }
    assert value(shop.dsn, "SELECT count(*) FROM annotation") == 1


def test_the_same_id_with_other_words_is_a_conflict(shop: Shop) -> None:
    said = an_annotation()
    shop.say(said)
    answer = shop.say(said.model_copy(update={"note": "other"}))
    assert (answer.status_code, error_of(answer)["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"kind":"annotation"}', b"\xff", dump(builders.an_event()), b'{"a":NaN}']
)
def test_what_is_no_annotation_is_refused_with_what_is_wrong(shop: Shop, body: bytes) -> None:
    answer = shop.http.put(f"/api/annotations/{uuid.uuid4()}", content=body)
    assert (answer.status_code, error_of(answer)["code"]) == (422, "unreadable")


def test_the_id_in_the_address_must_be_the_one_inside(shop: Shop) -> None:
    answer = shop.http.put(f"/api/annotations/{uuid.uuid4()}", content=dump(an_annotation()))
    assert answer.status_code == 422
    assert "is not the one in the address" in error_of(answer)["message"]


def test_what_a_rule_speaks_against_is_stored_and_said(shop: Shop) -> None:
    answer = shop.say(an_annotation(asset="nobody-knows-it"))
    assert answer.status_code == 201
    assert (answer.json()["status"], answer.json()["reason"]) == ("held", "no such asset here yet: nobody-knows-it")


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # no browser
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "https://elsewhere.example"}, False),
    ],
)
def test_another_sites_page_may_not_act_here(shop: Shop, headers: dict[str, str], allowed: bool) -> None:
    answer = shop.say(an_annotation(), **headers)
    assert answer.status_code == (201 if allowed else 403)
    assert value(shop.dsn, "SELECT count(*) FROM annotation") == allowed
    if not allowed:
        assert error_of(answer)["code"] == "cross_site"


def test_every_error_has_the_one_shape(shop: Shop) -> None:
    for path, status in (
        (f"/api/events/{uuid.uuid4()}", 404),
        ("/api/events/not-an-id", 422),
        ("/api/events?limit=0", 422),
        ("/api/devices/nobody", 404),
        ("/api/rollouts/none", 404),
        ("/api/trace/nothing", 404),
        ("/api/nothing", 404),
        (f"/annotate/{uuid.uuid4()}", 404),
        ("/api/trace/%00", 422),
        ("/api/events?asset=%00", 422),
    ):
        answer = shop.http.get(path)
        assert answer.status_code == status, path
        error_of(answer)
    assert error_of(shop.http.delete("/api/events"))["code"] == "method_not_allowed"
    too_large = shop.http.put(f"/api/annotations/{uuid.uuid4()}", content=b"x" * 300_000)
    assert (too_large.status_code, error_of(too_large)["code"]) == (413, "too_large")


def test_counts_along_the_loop(shop: Shop) -> None:
    event, other = builders.an_event(), builders.an_event()
    shop.put(
        message(event, 1),
        message(other, 2),
        message(builders.some_scores(5)),
        message(a_beat(running=builders.USUAL, outbox={"alarm": {"produced": 4, "waiting": [[3, 4]]}})),
    )
    shop.say(an_annotation(event_id=event.event_id))
    shop.say(an_annotation(event_id=event.event_id))
    shop.say(an_annotation(event_id=other.event_id, verdict="unsure"))
    found = shop.http.get("/api/summary").json()
    assert (found["windows"], found["alarms"], found["alarms_open"], found["annotations"]) == (5, 2, 2, 3)
    assert found["labels"] == {"accepted": 1, "held": 1, "rejected": 1}
    assert found["versions"] == {"7": 1}
    (device,) = shop.http.get("/api/devices").json()["devices"]
    assert (device["device_id"], device["assets"], device["waiting"]) == ("plant1.gw1", ["pump1"], 2)
    assert (device["model_version"], device["step"], device["state"]) == (7, "active", "ok")
    assert shop.http.get("/api/devices/plant1.gw1").json()["heartbeat"]["agent_version"] == "0.1.0"
    ledger = shop.http.get("/api/ledger").json()
    assert (ledger["closed"], ledger["totals"]["waiting"]) == (True, 2)


def test_events_are_filtered_and_tell_what_was_said(shop: Shop) -> None:
    event, other = builders.an_event(), builders.an_event(asset="pump2", phase="cleared")
    shop.put(message(event, 1), message(other, 2))
    shop.say(an_annotation(event_id=event.event_id))

    def listed(**query: Any) -> list[str]:
        return [each["asset_id"] for each in shop.http.get("/api/events", params=query).json()["events"]]

    assert sorted(listed()) == ["pump1", "pump2"]
    assert listed(asset="pump2") == ["pump2"]
    assert listed(open_only=True) == ["pump1"]
    assert listed(unlabelled_only=True) == ["pump2"]
    assert len(listed(limit=1)) == 1
    one = shop.http.get(f"/api/events/{event.event_id}").json()
    assert one["label"]["verdict"] == "false_alarm"
    assert [each["annotator"] for each in one["said"]] == ["Ada"]
    assert one["body"]["features"]["vib.rms"] == 0.5


def test_lists_for_programs_answer(shop: Shop) -> None:
    shop.put(message(builders.an_event()))
    names = "annotations labels quarantine models runs datasets rollouts steps decisions sensor-faults".split()  # noqa: SIM905
    for name in names:
        answer = shop.http.get(f"/api/{name}")
        assert answer.status_code == 200, name
        assert name.replace("-", "_") in answer.json()
    assert shop.http.get("/api/openapi.json").json()["info"]["title"] == "fleet server"
    assert shop.http.get("/docs").status_code == 404  # it would load scripts from elsewhere


def test_ready_asks_broker_and_database(shop: Shop) -> None:
    assert shop.http.get("/live").json() == {"live": True}
    assert shop.http.get("/ready").status_code == 200
    shop.broker = False
    answer = shop.http.get("/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "broker": False, "database": True})
    shop.broker = True
    shop.pool.close()
    answer = shop.http.get("/ready")
    assert (answer.status_code, answer.json()["database"]) == (503, False)
    assert error_of(shop.http.get("/api/summary"))["code"] == "not_ready"


def test_pages_hold_what_strangers_wrote_as_text(shop: Shop) -> None:
    hostile = "<script>alert(1)</script>"
    event = builders.an_event(fault_class=hostile)
    shop.put(message(event))
    shop.say(an_annotation(event_id=event.event_id, annotator=hostile, note=hostile))
    for path in ("/", "/now", f"/annotate/{event.event_id}", f"/trace/{event.event_id}", f"/trace/{hostile}"):
        answer = shop.http.get(path)
        assert hostile not in answer.text, path
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert "http://" not in answer.text.replace(str(shop.http.base_url), "")
        assert "https://" not in answer.text
        assert 'style="' not in answer.text, "inline styles do not survive the policy"


def test_the_form_stores_what_was_filled_in_and_says_what_is_missing(shop: Shop) -> None:
    event = builders.an_event()
    shop.put(message(event))
    page = shop.http.get(f"/annotate/{event.event_id}").text
    assert "pump1" in page
    fields = {
        "annotation_id": str(uuid.uuid4()),
        "asset": "pump1",
        "event_id": str(event.event_id),
        "trace_id": str(event.trace_id),
        "start": NOW.isoformat(),
        "end": (NOW + timedelta(seconds=1)).isoformat(),
        "verdict": "fault",
        "annotator": "Ada",
    }
    answer = shop.http.post("/annotate", data=fields)
    assert answer.status_code == 422
    assert 'class="problem"' in answer.text
    answers = [shop.http.post("/annotate", data=fields | {"fault": "bearing"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert 'class="done"' in answers[0].text
    assert value(shop.dsn, "SELECT count(*) FROM annotation") == 1
    answer = shop.http.post("/annotate", data=fields | {"fault": "leak"})
    assert answer.status_code == 422
    assert "with other words" in answer.text
    assert shop.http.post("/annotate", data=fields, headers={"Origin": "https://elsewhere.example"}).status_code == 403


def test_a_trace_goes_both_ways_through_the_whole_chain(shop: Shop, tmp_path: Path) -> None:
    event = builders.an_event()
    scores = builders.some_scores(1)
    bundle = builders.a_bundle(version=2)
    shop.put(message(event), message(scores))
    said = an_annotation(event_id=event.event_id, verdict="fault", fault="bearing")
    shop.say(said)
    with connect(shop.dsn) as conn:
        label = value(shop.dsn, "SELECT label_id FROM label")
        conn.execute(
            "INSERT INTO dataset VALUES ('d5', now(), 'pump', '{\"rows\": 9}', ARRAY[%s]::uuid[], '')", (label,)
        )
        conn.execute(
            """
            INSERT INTO training_run (run_id, model, started_at, state, step, cause, dataset, version)
            VALUES ('run-1', 'pump', now(), 'candidate', 'done', 'new labels', 'd5', 2)
            """
        )
        row = registry.register(conn, bundle, state="candidate", run_id="run-1", dataset="d5", gate={"verdict": "pass"})
        bundles.approve(conn, row.sha256, "Olga", NOW, {})
        conn.execute(
            "INSERT INTO rollout VALUES ('ro-1', %s, 'trial', 'done', 1, 1, now(), NULL, now(), '')", (row.sha256,)
        )
        conn.execute(
            """
            INSERT INTO assignment VALUES ('plant1.gw1', 1, 'ro-1', 1, %s, 'trial', '{}', now(), true, 'active', now())
            """,
            (row.sha256,),
        )
    running = {"name": "pump", "version": 2, "sha256": bundle.sha256}
    shop.put(message(a_beat(running=running), 2))
    chain = ["window", "event", "annotation", "label", "dataset", "run", "bundle", "rollout", "device"]
    ids = [
        *(str(event.trace_id), str(event.event_id), str(said.annotation_id), str(label), "d5", "run-1"),
        *(bundle.sha256, "ro-1", "plant1.gw1"),
    ]
    for i, given in enumerate(ids):
        (found,) = shop.http.get(f"/api/trace/{given}").json()["found"]
        assert found["kind"] == chain[i]
        assert walk(found, "led_to") == chain[i:]
        expected = chain[i::-1]
        if chain[i] == "device":  # it runs the bundle; that it came by a rollout is told from the bundle on
            expected = ["device", *chain[6::-1]]
        assert walk(found, "made_from") == expected
    assert [each["id"] for each in shop.http.get("/api/trace/2").json()["found"]] == [bundle.sha256]
    (found,) = shop.http.get("/api/trace/ro-1").json()["found"]
    assert "runs it now" in found["led_to"][0]["note"]
    server = ServerProcess(tmp_path / "server", shop.dsn, 1)
    done = server.command("trace", str(event.event_id))
    assert done.returncode == 0
    for given in ids:
        assert given in done.stdout
    assert "approved by Olga" in done.stdout
    assert json.loads(server.command("trace", "pump 2", "--json").stdout)["found"][0]["kind"] == "bundle"
    missing = server.command("trace", "nothing")
    assert (missing.returncode, missing.stderr) == (2, "fleet-server: nothing here has the id nothing\n")


def walk(node: dict[str, Any], side: str) -> list[str]:
    """The kinds along the chain, always by the first neighbour."""
    return [node["kind"], *(walk(node[side][0], side) if node[side] else [])]


def test_status_shows_what_runs_where(shop: Shop, tmp_path: Path) -> None:
    shop.put(message(a_beat()))
    server = ServerProcess(tmp_path / "server", shop.dsn, 1)
    assert "pump 7 active" in server.command("status").stdout
    assert json.loads(server.command("status", "--json").stdout)["fleet"][0]["device_id"] == "plant1.gw1"


@pytest.fixture
def server(tmp_path: Path, plain_database: str, own_broker: EmbeddedBroker) -> Iterator[ServerProcess]:
    running = ServerProcess(tmp_path / "server", plain_database, own_broker.port)
    yield running
    running.kill()


def test_sigterm_ends_the_server_in_order_and_a_lifeline_does_too(server: ServerProcess) -> None:
    server.start()
    assert server.stop() == 0
    assert "serving" in server.log()
    assert "stopping" in server.log()
    assert all(" INFO " in line or " WARNING " in line for line in server.log().splitlines()), server.log()
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    process = subprocess.Popen(
        ["env", f"LIFELINE_FD={reading}", *_serve(server)], pass_fds=[reading], stderr=subprocess.DEVNULL
    )
    os.close(reading)
    try:
        eventually(lambda: httpx_ok(server.url + "/ready"), timeout=60)
        os.close(writing)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def _serve(server: ServerProcess) -> list[str]:
    return [sys.executable, "-m", "fleet_server", "serve", "--config", str(server.config)]


def httpx_ok(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_server_that_cannot_start_says_why_and_ends(server: ServerProcess) -> None:
    server.config.write_text(server.config.read_text().replace("server.pem", "missing.pem"))
    server.start(wait=False)
    assert server.process
    assert server.process.wait(60) == 2
    assert "keys.server" in server.log()


def test_a_part_that_dies_ends_the_server(server: ServerProcess) -> None:
    code = (
        "import sys; from fleet_server.ingest.worker import Worker; Worker._run = lambda self: None; "
        "from fleet_server.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", code, "serve", "--config", str(server.config)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "a part has died, ending parts=ingest" in done.stderr


def test_a_phone_shows_the_fleet_and_takes_an_annotation(
    server: ServerProcess, own_broker: EmbeddedBroker, connect: Callable[..., Client]
) -> None:
    browser_path = support.chromium()
    if browser_path is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import expect, sync_playwright

    server.start()
    device = Device("plant1.gw1", connect(own_broker), server.key)
    event = builders.an_event()
    for body in (event, builders.some_scores(5), a_beat(outbox={})):
        device.send(body)
    eventually(lambda: not device.unconfirmed)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        complaints: list[str] = []
        page.on("console", lambda entry: complaints.append(entry.text) if entry.type == "error" else None)
        page.on("request", lambda request: complaints.append(request.url) if server.url not in request.url else None)
        page.goto(server.url)
        expect(page.locator("#loop li").first).to_contain_text("5")
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], "the page is wider than the phone"
        page.get_by_role("link", name="What was it?").click()
        page.get_by_text("It is a fault").click()
        page.get_by_text("Bearing worn or damaged").click()
        page.get_by_label("Your name").fill("Ada")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("heading", name="Saved")).to_be_visible()
        assert query(server.dsn, "SELECT annotator, verdict, fault, status FROM annotation") == [
            ("Ada", "fault", "bearing", "accepted")
        ]
        assert complaints == []
        page.goto(server.url)
        expect(page.locator("#alarms")).to_contain_text("Bearing worn or damaged")
        assert server.process
        server.process.send_signal(signal.SIGKILL)
        expect(page.locator("#strip")).to_contain_text("does not answer", timeout=15_000)
        server.process.wait()
        server.start()
        expect(page.locator("#strip")).to_be_hidden(timeout=20_000)
        browser.close()
