"""From what people say to labels, with a real database: once, in any order, and always with a reason."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from fleet_server.errors import Refused
from fleet_server.feedback import intake
from fleet_server.feedback.news import NewsLoop
from fleet_server.ingest.batch import store
from fleet_server.store import annotations as spoken
from fleet_server.store import labels
from fleet_server.store.migrate import migrate
from fleet_server.store.pool import connect, open_pool
from models.contract.events import AlarmEvent, Phase
from models.contract.messages import Annotation, Column
from tests import builders
from tests.builders import NOW, an_annotation
from tests.services.station import now, query, value
from tests.services.test_ingest import message


@pytest.fixture
def dsn(plain_database: str) -> str:
    with connect(plain_database) as conn:
        migrate(conn)
    return plain_database


def say(dsn: str, said: Annotation, at: datetime | None = None) -> bool:
    with connect(dsn) as conn:
        return intake.receive(conn, said, via="server", received_at=at or NOW + timedelta(minutes=10))


def raise_alarm(dsn: str, **changes: Any) -> AlarmEvent:
    event = builders.an_event(**changes)
    with connect(dsn) as conn:
        store(conn, [message(event, seq=int(uuid4()) % 2**40 + 1)], now())
    return event


def label(dsn: str, subject: UUID) -> labels.LabelRow | None:
    with connect(dsn) as conn:
        return labels.get(conn, subject)


def status(dsn: str, said: Annotation) -> tuple[str, str]:
    with connect(dsn) as conn:
        row = spoken.get(conn, said.annotation_id)
    assert row is not None
    return row.status, row.reason


def a_fault(event: AlarmEvent, **changes: Any) -> Annotation:
    return an_annotation(**{"event_id": event.event_id, "verdict": "fault", "fault": "bearing"} | changes)


def test_the_same_annotation_five_times_is_one_row_and_one_label(dsn: str) -> None:
    event = raise_alarm(dsn)
    said = a_fault(event)
    assert [say(dsn, said) for _ in range(5)] == [True, False, False, False, False]
    assert value(dsn, "SELECT count(*) FROM annotation") == 1
    found = label(dsn, event.event_id)
    assert found is not None
    assert (found.status, found.verdict, found.fault, found.weight) == ("accepted", "fault", "bearing", 0.5)
    assert (found.trace_id, found.start_at) == (event.trace_id, event.opened_at)
    kinds = query(dsn, "SELECT kind, outcome FROM decision ORDER BY decision_id")
    assert kinds == [("validation", "accepted"), ("consensus", "accepted")]


def test_the_same_id_with_other_words_is_refused_and_the_first_stands(dsn: str) -> None:
    event = raise_alarm(dsn)
    said = a_fault(event)
    say(dsn, said)
    with pytest.raises(Refused, match="with other words"):
        say(dsn, said.model_copy(update={"note": "or not"}))
    assert value(dsn, "SELECT note FROM annotation") == ""


def test_from_a_device_other_words_are_put_aside(dsn: str) -> None:
    said = an_annotation()
    with connect(dsn) as conn:
        store(conn, [message(said, 1)], now())
        store(conn, [message(said.model_copy(update={"note": "x"}), 2), message(said, 3)], now())
    assert query(dsn, "SELECT seq, quarantined FROM ledger ORDER BY seq") == [(1, False), (2, True), (3, False)]
    assert "with other words" in value(dsn, "SELECT reason FROM quarantine")


def test_an_annotation_may_be_here_before_its_event(dsn: str) -> None:
    event = builders.an_event()
    said = a_fault(event)
    say(dsn, said)
    assert status(dsn, said)[0] == "held"
    assert label(dsn, event.event_id) is None
    with connect(dsn) as conn:
        store(conn, [message(event)], now())
    assert status(dsn, said) == ("accepted", "")
    found = label(dsn, event.event_id)
    assert found is not None
    assert found.status == "accepted"


def test_a_fault_on_a_machine_that_was_off_is_held_until_windows_of_then_come_late(dsn: str) -> None:
    def measured(minutes: float, seq: int) -> None:
        """A window a second long, so long after NOW."""
        at = int((NOW + timedelta(minutes=minutes)).timestamp() * 1e6)
        one = Column.of("i8", np.array([at], "<i8").tobytes()), Column.of("i8", np.array([at + 10**6], "<i8").tobytes())
        log = builders.some_scores(1).model_copy(update={"start_us": one[0], "end_us": one[1]})
        with connect(dsn) as conn:
            store(conn, [message(log, seq)], now())

    def a_free_fault(begins: float, ends: float) -> Annotation:
        start, end = NOW + timedelta(minutes=begins), NOW + timedelta(minutes=ends)
        return an_annotation(verdict="fault", fault="bearing", start=start, end=end)

    measured(-60, 1)
    last, off = a_free_fault(-10, 5), a_free_fault(-40, -20)
    say(dsn, last)
    assert status(dsn, last)[0] == "accepted", "what is not here yet speaks against nothing"
    measured(8, 2)
    say(dsn, off)
    assert status(dsn, off) == ("held", "the machine was off then: no window was measured")
    measured(-30, 3)
    with open_pool(dsn) as pool:
        NewsLoop(pool).turn()
    assert status(dsn, off) == ("accepted", "")


def test_also_in_the_same_batch_and_on_a_machine_nobody_has_heard_of(dsn: str) -> None:
    event = builders.an_event(asset="pump9")
    free = an_annotation(asset="pump9")
    say(dsn, free)
    assert status(dsn, free)[0] == "held"
    with connect(dsn) as conn:
        store(conn, [message(a_fault(event, asset="pump9")), message(event)], now())
    assert query(dsn, "SELECT DISTINCT status FROM annotation") == [("accepted",)]
    assert value(dsn, "SELECT count(*) FROM label WHERE status = 'accepted'") == 2


def test_two_who_disagree_hold_the_label_and_a_third_settles_it(dsn: str) -> None:
    event = raise_alarm(dsn)
    say(dsn, a_fault(event, annotator="Ada"))
    say(dsn, a_fault(event, annotator="Björn", verdict="false_alarm", fault=None))
    held = label(dsn, event.event_id)
    assert held is not None
    assert (held.status, held.weight) == ("held", 0.0)
    assert held.reason.startswith("no agreement")
    say(dsn, a_fault(event, annotator="Chidi"))
    found = label(dsn, event.event_id)
    assert found is not None
    assert (found.status, found.verdict, found.label_id) == ("accepted", "fault", held.label_id)
    assert found.weight == pytest.approx(2 / 3, abs=1e-6)


def test_a_changed_mind_is_one_vote_in_any_order_of_arrival(dsn: str) -> None:
    for order in itertools.permutations(range(3)):
        event = raise_alarm(dsn)
        said = [
            a_fault(event, made_at=NOW),
            a_fault(event, made_at=NOW + timedelta(minutes=1), verdict="unsure", fault=None),
            a_fault(event, made_at=NOW + timedelta(minutes=2), fault="leak"),
        ]
        for i in order:
            say(dsn, said[i])
        assert [status(dsn, each)[0] for each in said] == ["rejected", "rejected", "accepted"]
        found = label(dsn, event.event_id)
        assert found is not None
        assert (found.fault, found.annotations) == ("leak", [said[2].annotation_id])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"end": NOW + timedelta(days=1)}, "held"),
        ({"asset": "pump2"}, "held"),
        ({"fault": None}, "rejected"),
        ({"end": NOW - timedelta(days=1)}, "rejected"),
    ],
)
def test_what_is_not_believed_is_kept_with_its_reason_and_makes_no_label(
    dsn: str, changes: dict[str, Any], expected: str
) -> None:
    event = raise_alarm(dsn)
    said = a_fault(event, **changes)
    say(dsn, said)
    found, reason = status(dsn, said)
    assert found == expected
    assert reason
    assert label(dsn, event.event_id) is None
    assert query(dsn, "SELECT outcome, reason FROM decision") == [(expected, reason)]


def test_a_correction_elsewhere_takes_the_first_label_back(dsn: str) -> None:
    raise_alarm(dsn)
    first = an_annotation()
    say(dsn, first)
    corrected = an_annotation(start=NOW - timedelta(minutes=5), supersedes=first.annotation_id)
    say(dsn, corrected)
    before, after = label(dsn, first.annotation_id), label(dsn, corrected.annotation_id)
    assert before is not None
    assert after is not None
    assert (before.status, before.reason) == ("held", "no valid annotation is left")
    assert after.status == "accepted"
    # Nobody takes back what somebody else said.
    say(dsn, an_annotation(annotator="Chidi", end=NOW, supersedes=corrected.annotation_id))
    assert status(dsn, corrected)[0] == "accepted"


def test_a_label_lasts_as_long_as_its_alarm_and_keeps_its_time_of_decision(dsn: str) -> None:
    event = raise_alarm(dsn)
    say(dsn, a_fault(event))
    before = label(dsn, event.event_id)
    end = NOW + timedelta(minutes=7)
    raise_alarm(dsn, event_id=event.event_id, phase=Phase.CLEARED, window_end=end)
    after = label(dsn, event.event_id)
    assert before is not None
    assert after is not None
    assert after.end_at == end > before.end_at
    assert after.decided_at == before.decided_at


def test_what_nobody_may_learn_from_is_kept_and_counted_and_makes_no_label(dsn: str) -> None:
    event = raise_alarm(dsn)
    say(dsn, a_fault(event, learn=False))
    assert query(dsn, "SELECT status, count(*) FROM annotation GROUP BY status") == [("accepted", 1)]
    assert label(dsn, event.event_id) is None
    say(dsn, a_fault(event, annotator="Björn"))
    found = label(dsn, event.event_id)
    assert found is not None
    assert (found.status, found.weight, len(found.annotations)) == ("accepted", 0.5, 1)


def test_who_says_later_that_nobody_may_learn_from_it_takes_the_label_back(dsn: str) -> None:
    event = raise_alarm(dsn)
    first = a_fault(event)
    say(dsn, first)
    say(dsn, a_fault(event, learn=False, made_at=NOW + timedelta(minutes=1)))
    assert status(dsn, first)[0] == "rejected"
    found = label(dsn, event.event_id)
    assert found is not None
    assert (found.status, found.reason) == ("held", "no valid annotation is left")
