"""The alarms of the fleet: one case a machine and kind of fault, ranked by need; what is done reaches the device, what
nobody acknowledged is told again."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from fleet_server import cli
from fleet_server.alarms.escalation import EscalationLoop
from fleet_server.config import Alarms
from fleet_server.store import alarm_actions, events
from fleet_server.store.migrate import migrate
from fleet_server.store.pool import connect
from models import alarms
from models.contract.alarms import Act, Suppression
from models.contract.commands import TakeAction, read_body
from models.contract.events import AlarmEvent, Phase
from models.contract.ids import new_trace_id
from models.contract.labels import Severity
from models.webhook import SIGNATURE
from tests.builders import an_action, an_annotation
from tests.services.station import now, query, value
from tests.services.test_form_api import AgentHost, ServerHost, agent, an_alarm, server  # noqa: F401
from tests.services.test_ingest import a_beat, message


class Fleet(ServerHost):
    """The server with machines of one device."""

    def beat(self, **assets: dict[str, Any]) -> None:
        self._seq += 1
        self.shop.put(message(a_beat(assets=assets), self._seq))

    def put(self, *bodies: Any) -> None:
        for body in bodies:
            self._seq += 1
            self.shop.put(message(body, self._seq))

    def cases(self, **params: Any) -> list[dict[str, Any]]:
        answer = self.http.get("/api/work-list", params=params)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["cases"]
        return found


@pytest.fixture
def fleet(server: ServerHost) -> Fleet:  # noqa: F811
    """One machine, pump1."""
    return Fleet(server.shop)


def test_an_alarm_that_came_back_is_the_same_row_whatever_order_its_phases_come_in(plain_database: str) -> None:
    begin = now()

    def phase(at: int, phase: Phase, repeats: int, **changes: Any) -> AlarmEvent:
        when = begin + timedelta(seconds=at)
        times = {"window_start": when, "window_end": when + timedelta(seconds=1), "opened_at": begin}
        return an_alarm(event_id=uuid.UUID(int=5), phase=phase, repeats=repeats, **(times | changes))

    life = [
        phase(0, Phase.RAISED, 1, family="novelty", severity=Severity.MINOR),
        phase(2, Phase.UPDATED, 1, family="bearing", severity=Severity.MAJOR, score=0.95),
        phase(4, Phase.CLEARED, 1, family="bearing", severity=Severity.MAJOR),
        phase(6, Phase.RAISED, 2, family="bearing", severity=Severity.MAJOR, muted=True),
        phase(8, Phase.CLEARED, 2, family="bearing", severity=Severity.MAJOR, muted=True, cleared_by="verdict"),
    ]
    with connect(plain_database) as conn:
        migrate(conn)
        for upto, cleared in ((4, None), (5, life[4].window_end), (3, life[2].window_end)):
            found = set()
            for order in itertools.permutations(life[:upto]):
                conn.execute("DELETE FROM event")
                for each in order:
                    events.merge(conn, "plant1.gw1", each, None)
                (row,) = events.listing(conn)
                found.add((row.cleared_at, row.repeats, row.family, row.severity, row.muted, round(row.score, 3)))
            assert found == {(cleared, 1 if upto == 3 else 2, "bearing", "major", upto > 3, 0.95)}


def test_the_work_list_has_one_case_a_machine_and_family_and_says_why_it_is_where_it_is(fleet: Fleet) -> None:
    fleet.beat(
        pump1={"kind": "pump"},
        pump2={"kind": "pump", "criticality": "high"},
        pump3={"kind": "pump", "last_sample_at": (now() - timedelta(days=3)).isoformat()},
    )
    old = an_alarm(asset="pump1", family="bearing", severity=Severity.MAJOR, score=0.9)
    gone = old.model_copy(update={"phase": Phase.CLEARED})
    again = an_alarm(asset="pump1", family="bearing", severity=Severity.MAJOR, score=0.9, repeats=3)
    other = an_alarm(asset="pump1", family="rotor", severity=Severity.MINOR, score=0.6)
    critical = an_alarm(asset="pump2", family="bearing", severity=Severity.MAJOR, score=0.9, repeats=3)
    silent = an_alarm(asset="pump3", family="rotor", severity=Severity.MINOR, score=0.6)
    fleet.put(old, gone, again, other, critical, silent)
    cases = fleet.cases()
    assert [(case["asset"], case["family"]) for case in cases] == [
        ("pump2", "bearing"),
        ("pump1", "bearing"),
        ("pump3", "rotor"),
        ("pump1", "rotor"),
    ]
    first, second, third, _ = cases
    assert first["criticality"] == "high"
    assert {"what": "criticality", "text": "criticality high", "points": 0.0, "times": 1.5} in first["reasons"]
    assert second["event"]["event_id"] == str(again.event_id)
    assert second["others"] == [str(old.event_id)], "one case, its earlier alarm behind it"
    assert {reason["what"] for reason in second["reasons"]} >= {"severity", "active", "unacknowledged", "repeats"}
    assert "no data for 3 days" in {reason["text"] for reason in third["reasons"]}
    act(fleet, "acknowledge", critical)
    act(fleet, "snooze", again, until=(now() + timedelta(hours=1)).isoformat())
    act(fleet, "assign", other, to="Ada")
    cases = fleet.cases()
    assert [(case["asset"], case["family"]) for case in cases][-1] == ("pump1", "bearing"), "snoozed: at the end"
    assert "unacknowledged" not in {reason["what"] for case in cases[:1] for reason in case["reasons"]}
    assert [case["family"] for case in fleet.cases(assigned_to="Ada")] == ["rotor"]


def act(fleet: Fleet, action: str, event: AlarmEvent, **fields: Any) -> None:
    body = {"action": action, "at": now().isoformat(), "event_id": str(event.event_id), "actor": "Ada"} | fields
    answer = fleet.http.put(f"/api/form/actions/{uuid.uuid4()}", json=body)
    assert answer.status_code == 201, answer.text


def test_a_verdict_given_on_the_server_goes_down_to_the_device(fleet: Fleet) -> None:
    event = an_alarm()
    fleet.raise_alarm(event)
    said = an_annotation(event_id=event.event_id)
    assert [fleet.say(said).status_code for _ in range(2)] == [201, 200]
    fleet.say(an_annotation(verdict="fault", fault="leak"))
    fleet.say(an_annotation())  # a false alarm of nothing in particular
    sent = query(fleet.shop.dsn, "SELECT kind, body -> 'annotation' ->> 'verdict' FROM command ORDER BY sequence")
    assert sent == [("take_verdict", "false_alarm"), ("take_verdict", "fault")]


def test_agent_and_server_come_to_the_same_state_from_both_ends(
    fleet: Fleet,
    agent: AgentHost,  # noqa: F811
) -> None:
    event = an_alarm(severity=Severity.MAJOR)
    fleet.raise_alarm(event)
    agent.raise_alarm(event)
    both = an_action(Act.COMMENT, event_id=event.event_id, made_at=now())  # a phone that reached agent and server
    agent.agent.alarms.act(both)
    body = {"action": "comment", "at": both.made_at.isoformat(), "text": both.text, "actor": "Ada"}
    fleet.http.put(f"/api/form/actions/{both.action_id}", json=body | {"event_id": str(event.event_id)})
    agent.agent.alarms.act(an_action(Act.ASSIGN, event_id=event.event_id, to="Björn", made_at=now()))
    act(fleet, "assign", event, to="Ada")
    act(fleet, "acknowledge", event)
    done = [a for rows in agent.agent.alarms.states(agent.agent.journal.episodes()).values() for a in rows.actions]
    fleet.put(*reversed(done))
    for (raw,) in query(fleet.shop.dsn, "SELECT body FROM command ORDER BY sequence DESC"):
        order = read_body(raw)
        assert isinstance(order, TakeAction)
        for _ in range(2):
            agent.outbox.put([], within=lambda db, o=order: agent.agent.alarms.take_action(o, db))
    there = agent.agent.alarms.states(agent.agent.journal.episodes())[event.event_id]
    with connect(fleet.shop.dsn) as conn:
        here = alarms.state(alarm_actions.of_events(conn, [event.event_id])[event.event_id], Severity.MAJOR)
    assert there == here
    assert (here.comments, here.acknowledged is not None) == (1, True)
    assert here.conflicts == ("assigned twice at once",)


# Told again


class Receiver:
    """Somebody's web hook."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, Any], str]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status == 200:
                    outer.got.append((json.loads(body), self.headers.get(SIGNATURE, "")))
                    outer.last = body
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.last = b""
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/alarms"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def test_what_nobody_acknowledges_goes_up_and_is_told_once_a_level(
    fleet: Fleet, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"s3cret\n")
    steps = [{"after_min": 10}, {"after_min": 30}]
    told: dict[str, Any] = {"webhook": receiver.url, "webhook_secret_file": tmp_path / "secret"}
    settings = Alarms.model_validate({"escalate": steps} | told)
    forgotten, seen, muted = an_alarm(), an_alarm(), an_alarm(muted=True)
    for event in (forgotten, seen, muted):
        fleet.raise_alarm(event)
    act(fleet, "acknowledge", seen)
    loops = [EscalationLoop(settings, fleet.shop.pool) for _ in range(2)]
    begin = now()

    def turn(minutes: float) -> int:
        return sum(loop.turn(begin + timedelta(minutes=minutes)) for loop in loops)

    assert turn(9) == 0
    receiver.status = 503
    assert turn(11) == 1
    assert receiver.got == []
    receiver.status = 200
    assert [turn(minutes) for minutes in (12, 13)] == [0, 0]
    (body, signature) = receiver.got[0]
    assert (body["event_id"], body["level"], len(receiver.got)) == (str(forgotten.event_id), 1, 1)
    assert signature == "sha256=" + hmac.new(b"s3cret", receiver.last, hashlib.sha256).hexdigest()
    assert turn(31) == 1
    assert [body["level"] for body, _ in receiver.got] == [1, 2]
    assert [turn(minutes) for minutes in (100, 5000)] == [0, 0]
    assert query(fleet.shop.dsn, "SELECT tries, done FROM notice ORDER BY made_at") == [(2, True), (1, True)]
    assert fleet.http.get(f"/api/alarms/{forgotten.event_id}").json()["state"]["level"] == 2


def test_a_snooze_puts_the_time_off(fleet: Fleet) -> None:
    event = an_alarm()
    fleet.raise_alarm(event)
    begin = now()
    act(fleet, "snooze", event, until=(begin + timedelta(hours=2)).isoformat())
    loop = EscalationLoop(Alarms.model_validate({"escalate": [{"after_min": 10}]}), fleet.shop.pool)
    assert [loop.turn(begin + timedelta(minutes=m)) for m in (60, 119, 125, 131)] == [0, 0, 0, 1]


# The same words on the command line


def test_the_commands_do_what_the_api_does(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "server.toml"
    config.write_text(f'database = "{fleet.shop.dsn}"\n[keys]\nserver = "none.pem"\n')

    def run(*words: str, code: int = 0) -> Any:
        assert cli.main([*words, "--config", str(config), "--json"]) == code
        said = capsys.readouterr()
        return json.loads(said.out) if code == 0 else said.err

    event = an_alarm(family="bearing")
    fleet.raise_alarm(event)
    (case,) = run("alarms", "list")
    assert (case["asset"], case["event"]["event_id"]) == ("pump1", str(event.event_id))
    subject = str(event.event_id)
    run("alarms", "acknowledge", subject, "--by", "Olga")
    run("alarms", "comment", subject, "--by", "Olga", "--text", "On my way.")
    run("alarms", "snooze", subject, "--by", "Olga", "--hours", "2")
    run("alarms", "assign", subject, "--by", "Olga", "--to", "Ada")
    state = run("alarms", "show", subject)["state"]
    assert (state["acknowledged"]["by"], state["assigned_to"], state["comments"]) == ("Olga", "Ada", 1)
    assert "there is no" in run("alarms", "dismiss", str(uuid.uuid4()), "--by", "Olga", code=2)
    until = (now() + timedelta(days=1)).isoformat()
    key = run("maintenance", "start", "pump1", "--by", "Olga", "--to", until)["maintenance_id"]
    assert [each["maintenance_id"] for each in run("maintenance", "list")] == [key]
    assert fleet.cases()[0]["maintenance"] == key
    assert run("maintenance", "end", "pump1", "--by", "Olga") == {"ended": 1}
    assert "no maintenance runs" in run("maintenance", "end", "pump1", "--by", "Olga", code=2)
    assert "no asset" in run("maintenance", "start", "pump9", "--by", "Olga", code=2)
    held = Suppression(
        trace_id=new_trace_id(),
        made_at=now(),
        suppression_id=uuid.uuid4(),
        asset="pump1",
        event_id=event.event_id,
        annotation_id=uuid.uuid4(),
        annotator="Ada",
        since=now(),
        until=now() + timedelta(days=1),
        windows=7,
    )
    fleet.put(held, held.model_copy(update={"windows": 3}))
    (row,) = run("suppressions", "list")
    assert (row["suppression_id"], row["windows"]) == (str(held.suppression_id), 7)
    command_id = run("suppressions", "lift", str(held.suppression_id), "--by", "Olga")["command_id"]
    assert value(fleet.shop.dsn, "SELECT kind FROM command WHERE command_id = %s", command_id) == "lift_suppression"
    fleet.put(held.model_copy(update={"ended": "lifted", "windows": 9}), held)
    assert run("suppressions", "list") == []


def test_a_planned_window_can_be_changed_and_cancelled(fleet: Fleet) -> None:
    fleet.raise_alarm(an_alarm())
    key = uuid.uuid4()

    def put(**changes: Any) -> str:
        start: datetime = now() + timedelta(days=1)
        body = {"asset": "pump1", "start": start.replace(microsecond=0).isoformat(), "by": "Olga"} | changes
        answer = fleet.http.put(f"/api/maintenance/{key}", json=body)
        assert answer.status_code == 200, answer.text
        taken: str = answer.json()["taken"]
        return taken

    start = (now() + timedelta(days=1)).isoformat()
    assert [put(start=start), put(start=start), put(start=start, reason="oil")] == ["new", "before", "new"]
    assert [each["reason"] for each in fleet.http.get("/api/maintenance").json()["maintenance"]] == ["oil"]
    assert put(start=start, cancelled=True) == "new"
    assert fleet.http.get("/api/maintenance").json()["maintenance"] == []
    ticks = query(fleet.shop.dsn, "SELECT body -> 'window' ->> 'tick' FROM command ORDER BY sequence")
    assert ticks == [("1",), ("2",), ("3",)]
    assert fleet.http.put(f"/api/maintenance/{key}", json={"asset": "pump9", "start": start}).status_code == 404
