"""What comes back to the person who said something: outcomes, questions, and whether it was worth it."""

from __future__ import annotations

import threading
import uuid
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from edge_agent.agent import Agent
from edge_agent.config import Broker as BrokerSettings
from edge_agent.uplink import Uplink
from fleet_server.commands.loop import CommandLoop
from fleet_server.feedback import repairs
from fleet_server.feedback.news import TURNS, NewsLoop, news
from fleet_server.release import registry
from fleet_server.store import bundles, devices, feedback, maintenance
from fleet_server.store.migrate import migrate
from fleet_server.store.pool import connect, open_pool
from models.bundle.signing import PublicKeys
from models.contract.alarms import Maintenance
from models.contract.commands import FormNews
from models.contract.ids import new_trace_id
from models.contract.messages import Annotation
from models.contract.people import Question, Verdicted
from models.form.sent import implicit
from simulators.embedded.broker import Broker
from tests import builders, fleet_rows
from tests.builders import an_annotation
from tests.services.station import Station, now, value
from tests.services.test_form_api import AgentHost, Host, ServerHost, agent, an_alarm, host, server  # noqa: F401
from tests.support import eventually


def a_verdict(where: Host, event: Any, **changes: Any) -> Annotation:
    fields = {"event_id": event.event_id, "verdict": "fault", "fault": "bearing", "made_at": now()} | changes
    said = an_annotation(**fields)
    assert where.say(said).status_code == 201
    return said


def learn_from_everything(server: ServerHost, version: int = 2, *, state: str = "candidate") -> None:  # noqa: F811
    """A dataset of all labels, a run and its bundle; no device has it yet."""
    bundle = builders.a_bundle(version=version)
    with connect(server.shop.dsn) as conn:
        conn.execute(
            """
            INSERT INTO dataset SELECT %s, now(), 'pump', '{}', array_agg(label_id), '' FROM label
            """,
            (f"d{version}",),
        )
        registry.register(conn, bundle, state=state, run_id="run", dataset=f"d{version}", gate={"verdict": "pass"})


def release(server: ServerHost, version: int = 2) -> None:  # noqa: F811
    with connect(server.shop.dsn) as conn:
        (row,) = [row for row in bundles.listing(conn) if row.version == version]
        conn.execute(
            "INSERT INTO rollout VALUES (%s, %s, 'trial', 'done', 1, 1, now(), NULL, now(), '')",
            (f"ro{version}", row.sha256),
        )
        conn.execute(
            """
            INSERT INTO assignment (device_id, sequence, rollout_id, wave, sha256, mode, envelope, issued_at, published,
                                    step, step_at)
            VALUES ('plant1.gw1', %s, %s, 1, %s, 'trial', '{}', now(), true, 'active', now())
            """,
            (version, f"ro{version}", row.sha256),
        )


def test_an_outcome_goes_from_a_second_opinion_to_the_model_that_learned(server: ServerHost) -> None:  # noqa: F811
    event = an_alarm()
    server.raise_alarm(event)
    unsure = a_verdict(server, event, verdict="unsure", fault=None)

    def outcome() -> Any:
        found = {each.annotation_id: each for each in server.bootstrap().outcomes}
        return found[unsure.annotation_id]

    assert outcome().outcome == "accepted"
    wrong = a_verdict(server, event, annotator="Björn", start=now(), end=now() + timedelta(days=2))
    (held,) = [each for each in server.bootstrap().outcomes if each.annotation_id == wrong.annotation_id]
    assert (held.outcome, held.text.startswith("A second opinion is needed: It is about a time that had not come")) == (
        "held",
        True,
    )
    right = a_verdict(server, event, annotator="Chidi")
    kept_out = a_verdict(server, event, annotator="Dora", learn=False)
    learn_from_everything(server)

    def of(said: Annotation) -> Any:
        return next(each for each in server.bootstrap().outcomes if each.annotation_id == said.annotation_id)

    assert (of(right).outcome, of(right).model.version, of(right).model.released) == ("learned", 2, False)
    assert of(kept_out).outcome == "kept_out", "no model learned from it"
    release(server)
    assert of(right).text == "It went into pump version 2, which is in use. Thank you."
    learn_from_everything(server, 3, state="refused")
    assert of(right).model.version == 2, "a refused candidate is no news"


def test_ones_own_history_page_by_page(host: Host) -> None:  # noqa: F811
    event = an_alarm()
    host.raise_alarm(event)
    said = [a_verdict(host, event, made_at=now() - timedelta(minutes=i)) for i in range(3)]
    found = host.http.get("/api/form/history", params={"limit": 2}).json()
    assert [each["annotation_id"] for each in found["outcomes"]] == [str(each.annotation_id) for each in said[:2]]
    assert found["more"]
    rest = host.http.get("/api/form/history", params={"before": found["outcomes"][-1]["made_at"]}).json()
    assert ([each["annotation_id"] for each in rest["outcomes"]], rest["more"]) == ([str(said[2].annotation_id)], False)
    assert host.http.get("/api/form/history", params={"limit": 0}).status_code == 422
    assert host.http.get("/api/form/history", params={"before": "yesterday"}).status_code == 422


def test_questions_are_asked_only_where_an_answer_tells_something(server: ServerHost) -> None:  # noqa: F811
    sure = an_alarm()
    server.raise_alarm(sure)
    (thin,) = server.bootstrap().questions
    assert (thin.kind, thin.event_id, thin.blind) == ("thin_group", sure.event_id, False)
    a_verdict(server, sure)
    assert server.bootstrap().questions == (), "it is judged"
    close = an_alarm(score=0.55)
    server.raise_alarm(close)
    assert [each.kind for each in server.bootstrap().questions] == ["uncertain"]
    a_verdict(server, close, verdict="unsure", fault=None)
    (second,) = server.bootstrap().questions
    assert (second.kind, second.blind) == ("second_opinion", True)
    a_verdict(server, close, annotator="Björn")
    a_verdict(server, close, annotator="Chidi", verdict="false_alarm", fault=None)
    shown = server.bootstrap()
    assert [each.kind for each in shown.questions] == ["disagreement"]
    (alarm,) = [each for each in shown.alarms if each.event_id == close.event_id]
    assert (alarm.blind, alarm.looks_like) == (True, None)
    assert not any("Bearing" in sentence for sentence in alarm.why)
    assert b"Bearing worn" not in server.http.get("/api/form/bootstrap", params={"labels_version": 2}).content.replace(
        b"Bearing worn or damaged.", b"", 1
    ), "the class stands in the other alarm only"


def test_nobody_is_asked_more_than_five_things_a_day(server: ServerHost) -> None:  # noqa: F811
    for _ in range(8):
        server.raise_alarm(an_alarm(score=0.52))
    asked = server.bootstrap().questions
    assert len(asked) == 5
    for i, question in enumerate(asked):
        body = {"cannot": "locked off"}
        answer = server.http.put(f"/api/form/questions/{question.question_id}", json=body)
        assert (answer.status_code, answer.json()["question_id"]) == (200, str(question.question_id))
        assert len(server.bootstrap().questions) == 4 - i
    assert value(server.shop.dsn, "SELECT count(*) FROM feedback WHERE signal = 'question_declined'") == 5


def test_a_random_window_a_day_is_asked_about(server: ServerHost) -> None:  # noqa: F811
    with connect(server.shop.dsn) as conn:
        for i in range(4):
            conn.execute(
                """
                INSERT INTO sample VALUES (%s, 'pump1', 'plant1.gw1', now() - interval '1 hour', now() - interval
                    '1 hour', 'reference', 0.05, NULL, 0.1, 7, '', '{}')
                """,
                (uuid.UUID(int=i),),
            )
    (question,) = server.bootstrap().questions
    assert (question.kind, question.event_id) == ("random", None)
    said = an_annotation(answers=question.question_id, start=question.start, end=question.end)
    assert server.say(said).status_code == 201
    assert server.bootstrap().questions == ()


def test_satisfaction_is_asked_once_a_month_and_shown_as_a_trend(host: Host) -> None:  # noqa: F811
    event = an_alarm()
    host.raise_alarm(event)
    assert host.bootstrap().satisfaction is None, "nothing was said yet"
    for name in ("Ada", "Björn", "Chidi"):
        a_verdict(host, event, annotator=name)
    asked = host.bootstrap(lang="de").satisfaction
    assert asked is not None
    assert asked.text.startswith("Haben deine")
    address = f"/api/form/satisfaction/{asked.ask_id}"
    assert host.http.put(address, json={"score": 6}).status_code == 422
    assert host.http.put(address, json={"score": 4}).json()["taken"] == "new"
    assert host.http.put(address, json={"score": 1}).json()["taken"] == "before"
    assert host.bootstrap().satisfaction is None
    if isinstance(host, ServerHost):
        (month,) = host.http.get("/api/satisfaction").json()["months"]
        assert (month["asked"], month["mean"], month["satisfied"]) == (1, 4.0, 1.0)


def test_operators_read_satisfaction_by_site_what_is_doubtful_and_whose_clock_is_wrong(
    server: ServerHost,  # noqa: F811
) -> None:
    event = an_alarm()
    server.raise_alarm(event)
    a_verdict(server, event, annotator="p-ada", sent_at=now() + timedelta(hours=3))
    a_verdict(server, event, annotator="p-bo", fault="leak")
    with connect(server.shop.dsn) as conn:
        years_off = now() + timedelta(days=2000)
        for person, value, via in (("p-ada", 2, "server"), ("p-cy", 5, "plant9.gw1")):
            answer = implicit("satisfaction", uuid.uuid4(), person=person, value=value, made_at=years_off)
            feedback.insert(conn, answer, via=via, received_at=now())
    sites = server.http.get("/api/satisfaction").json()["sites"]
    assert [(row["site"], row["mean"]) for row in sites] == [("plant1", 2.0), ("plant9", 5.0)]
    assert {row["month"] for row in sites} == {f"{now():%Y-%m}"}
    (site,) = server.http.get("/api/voices").json()["sites"]
    assert (site["site"], site["said"], site["people"]) == ("plant1", 2, 2)
    off = [each["clock_off_s"] for each in server.http.get("/api/annotations").json()["annotations"]]
    assert max(each for each in off if each is not None) == pytest.approx(3 * 3600, abs=60)
    page = server.http.get("/voices").text
    assert "plant9" in page
    assert "clock was 180 min ahead" in page


def test_work_orders_are_kept_as_implicit_feedback_and_never_as_a_label(server: ServerHost) -> None:  # noqa: F811
    event = an_alarm()
    server.raise_alarm(event)
    order = {"work_order_id": "WO-1", "state": "opened", "asset": "pump1", "at": now().isoformat()}
    closed = order | {"state": "closed", "parts": ["6205", "seal"], "event_id": str(event.event_id), "by": "Ada"}
    answers = [server.http.post("/api/work-orders", json=[order, closed]) for _ in range(2)]
    assert [answer.json() for answer in answers] == [{"taken": 4, "new": 4}, {"taken": 4, "new": 0}]
    found = server.http.get("/api/feedback", params={"asset": "pump1"}).json()["feedback"]
    assert sorted(each["signal"] for each in found) == [
        *("part_used", "part_used", "work_order_closed", "work_order_opened"),
    ]
    assert {each["provenance"] for each in found} == {"implicit"}
    assert value(server.shop.dsn, "SELECT count(*) FROM label") == 0
    assert server.http.post("/api/work-orders", json=[order | {"at": "today"}]).status_code == 422


@pytest.mark.parametrize(("alarms_after", "told"), [(1, "repair_helped"), (12, "repair_did_not_help")])
def test_whether_a_repair_helped_is_automated_feedback_and_never_a_label(
    server: ServerHost,  # noqa: F811
    alarms_after: int,
    told: str,
) -> None:
    start, end = now() - timedelta(hours=2), now() - timedelta(hours=1)
    event = an_alarm(opened_at=start - timedelta(minutes=9))
    server.raise_alarm(event)
    made = {"trace_id": new_trace_id(), "made_at": end}
    repair = Maintenance(maintenance_id=uuid.uuid4(), asset="pump1", start=start, end=end, actor="Ada", **made)

    def scored(since: datetime, alarms: int, n: int = repairs.WINDOWS) -> None:
        with connect(server.shop.dsn) as conn:
            for i in range(n):
                at = since + timedelta(seconds=20 * i)
                conn.execute(
                    "INSERT INTO prediction (window_start, window_end, asset_id, trace_id, device_id, model_version,"
                    " model_sha256, score, alarm) VALUES (%s, %s, 'pump1', %s, 'plant1.gw1', 1, '', 0.5, %s)",
                    (at, at + timedelta(seconds=20), uuid.uuid4(), i < alarms),
                )

    def looked() -> int:
        with connect(server.shop.dsn) as conn:
            return repairs.look(conn, now())

    with connect(server.shop.dsn) as conn:
        maintenance.put(conn, repair, via="form", received_at=now())
    scored(start - timedelta(minutes=8), alarms=16)
    scored(start + timedelta(minutes=5), alarms=20)  # while somebody worked on it: says nothing
    scored(end + timedelta(minutes=30), alarms=alarms_after, n=repairs.WINDOWS - 1)
    assert looked() == 0, "too early to say"
    scored(end + timedelta(minutes=45), alarms=0, n=1)
    assert [looked(), looked()] == [1, 0]
    (found,) = server.http.get("/api/feedback", params={"asset": "pump1"}).json()["feedback"]
    assert (found["signal"], found["provenance"], found["event_id"]) == (told, "automated", str(event.event_id))
    assert found["detail"].startswith("alarms in 80% of 20 windows before")
    assert value(server.shop.dsn, "SELECT count(*) FROM label") == 0


def test_the_agents_form_shows_what_the_server_said_of_it(agent: AgentHost) -> None:  # noqa: F811
    event = an_alarm()
    agent.raise_alarm(event)
    said = a_verdict(agent, event)
    assert agent.bootstrap().outcomes[0].outcome == "waiting"
    asked = Question(
        question_id=uuid.uuid4(),
        kind="second_opinion",
        asset="pump1",
        event_id=an_alarm().event_id,
        start=now(),
        end=now(),
        blind=True,
        expires_at=now() + timedelta(days=1),
    )
    verdicted = Verdicted(annotation_id=said.annotation_id, status="accepted", model="pump", version=12, released=True)
    note(agent.agent, FormNews(outcomes=(verdicted,), questions=(asked,)))
    shown = agent.bootstrap()
    assert shown.outcomes[0].text == "It went into pump version 12, which is in use. Thank you."
    assert [each.question_id for each in shown.questions] == [asked.question_id]
    agent.http.put(f"/api/form/questions/{asked.question_id}", json={"cannot": "no key"})
    assert agent.bootstrap().questions == ()
    note(
        agent.agent, FormNews(questions=(asked.model_copy(update={"expires_at": now(), "question_id": uuid.uuid4()}),))
    )
    assert agent.bootstrap().questions == (), "it is over"


def note(agent: Agent, body: FormNews) -> None:  # noqa: F811
    agent._outbox.put([], within=lambda db: agent.journal.note_news(body, db))


@pytest.fixture
def station(plain_database: str, own_broker: Broker) -> Iterator[Station]:
    running = Station(plain_database, own_broker).start()
    yield running
    running.stop()


def test_news_travel_to_the_device_once_and_again_when_they_change(
    station: Station,
    agent: AgentHost,  # noqa: F811
    own_broker: Broker,
) -> None:
    commands = CommandLoop(station.pool, station.subscriber.publish, station.key)
    tellers = NewsLoop(station.pool)
    me = agent.agent
    me.commands._server = PublicKeys([station.key.public])
    uplink = Uplink(
        "plant1.gw1",
        BrokerSettings(port=own_broker.port),
        me.commands._server,
        agent.outbox,
        lambda _: None,
        me.commands.take,
        me.health.counters,
    )
    thread = threading.Thread(target=uplink.loop)
    thread.start()
    try:
        event = an_alarm()
        agent.raise_alarm(event)
        me._beat(force=True)
        a_verdict(agent, event)

        def told() -> str:
            tellers.turn()
            commands.turn()
            return agent.bootstrap().outcomes[0].outcome

        eventually(lambda: told() == "accepted", timeout=30)
        with connect(station.dsn) as conn:
            (row,) = devices.listing(conn)
            assert news(conn, row, now()).questions == ()
        eventually(lambda: value(station.dsn, "SELECT outcome FROM command ORDER BY sequence DESC LIMIT 1") == "done")
        n = value(station.dsn, "SELECT count(*) FROM command")
        assert tellers.turn() == 0, "nothing is new"
        a_verdict(agent, event, annotator="Björn", verdict="false_alarm", fault=None)
        eventually(lambda: told() and agent.bootstrap().questions, timeout=30)
        assert agent.bootstrap().questions[0].kind == "disagreement"
        assert value(station.dsn, "SELECT count(*) FROM command") > n
    finally:
        uplink.stop()
        thread.join(10)


def test_a_turn_of_the_news_looks_at_what_has_changed_and_little_else(plain_database: str) -> None:
    with connect(plain_database) as conn:
        migrate(conn)
        fleet_rows.fill(conn, n_assets=40, references=0, events=0)
        conn.execute("UPDATE device SET last_seen = last_seen - interval '1 hour'")
    with open_pool(plain_database) as pool:
        tellers = NewsLoop(pool)
        looked = []
        for _ in range(TURNS):
            tellers.turn()
            looked.append(tellers.looked)
        assert sum(looked) == 40  # everybody once in ten minutes
        assert max(looked) <= 5
        with connect(plain_database) as conn:
            conn.execute("INSERT INTO asset VALUES ('pump7', 'plant1.gw7', now(), now())")
            begin = now() - timedelta(hours=1)
            fleet_rows.label(conn, uuid.uuid4(), "pump7", begin, now(), "bearing")
            conn.execute("UPDATE device SET last_seen = now() WHERE device_id = 'plant1.gw8'")
        due = {f"plant1.gw{n}" for n in range(40) if zlib.crc32(f"plant1.gw{n}".encode()) % TURNS == 0}
        tellers.turn()
        assert tellers.looked == len(due | {"plant1.gw7", "plant1.gw8"})
