"""What one person's word is worth before anybody else has spoken."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from fleet_server.feedback.validation import AHEAD, MAX_STRETCH, Facts, Status, check, judge
from fleet_server.store.annotations import AnnotationRow
from tests.builders import NOW, an_annotation

EVENT = uuid4()
KNOWN = Facts(event_asset="pump1", asset_known=True)


def a_row(**changes: Any) -> AnnotationRow:
    """A plain false alarm of Ada's, received a minute after it was written."""
    fields: dict[str, Any] = {
        "annotation_id": uuid4(),
        "trace_id": uuid4(),
        "event_id": EVENT,
        "asset_id": "pump1",
        "start_at": NOW,
        "end_at": NOW + timedelta(minutes=1),
        "verdict": "false_alarm",
        "fault": None,
        "severity": None,
        "note": "",
        "annotator": "Ada",
        "provenance": "explicit",
        "via": "server",
        "written_at": NOW + timedelta(minutes=1),
        "received_at": NOW + timedelta(minutes=2),
        "digest": "",
        "status": "new",
        "reason": "",
    }
    return AnnotationRow(**(fields | changes))


def test_a_plain_annotation_of_a_known_event_is_accepted() -> None:
    assert check(a_row(), KNOWN).status is Status.ACCEPTED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"end_at": NOW - timedelta(seconds=1)}, "it ends before it starts"),
        ({"verdict": "fault"}, "a fault needs its kind"),
        ({"fault": "bearing"}, "false_alarm has no kind of fault"),
        ({"verdict": "unsure", "fault": "bearing"}, "unsure has no kind of fault"),
        ({"end_at": NOW + MAX_STRETCH + timedelta(seconds=1)}, "longer than 31 days"),
        ({"superseded_by": UUID(int=1)}, f"superseded by {UUID(int=1)}"),
    ],
)
def test_what_contradicts_itself_is_rejected(changes: dict[str, Any], reason: str) -> None:
    outcome = check(a_row(**changes), KNOWN)
    assert (outcome.status, outcome.reason) == (Status.REJECTED, reason)


@pytest.mark.parametrize(
    ("changes", "facts", "reason"),
    [
        ({}, Facts(None, True), "no such event here yet"),
        ({}, Facts("pump2", True), "the event is of pump2"),
        ({"event_id": None}, Facts(None, False), "no such asset here yet"),
        ({"end_at": NOW + timedelta(minutes=2) + AHEAD + timedelta(seconds=1)}, KNOWN, "speaks of a time 301 s after"),
    ],
)
def test_what_may_still_turn_out_right_is_held(changes: dict[str, Any], facts: Facts, reason: str) -> None:
    outcome = check(a_row(**changes), facts)
    assert outcome.status is Status.HELD
    assert outcome.reason.startswith(reason)


def test_an_honest_clock_may_be_a_little_ahead() -> None:
    assert check(a_row(end_at=NOW + timedelta(minutes=2) + AHEAD), KNOWN).status is Status.ACCEPTED


def test_saying_it_again_is_a_duplicate() -> None:
    first, again = a_row(), a_row(written_at=NOW + timedelta(minutes=5))
    outcomes = judge([first, again], KNOWN)
    assert outcomes[first.annotation_id].status is Status.ACCEPTED
    assert outcomes[again.annotation_id].reason == f"duplicate of {first.annotation_id}"


def test_who_changes_their_mind_has_the_last_word() -> None:
    first = a_row()
    later = a_row(verdict="fault", fault="bearing", written_at=NOW + timedelta(minutes=5))
    outcomes = judge([first, later], KNOWN)
    assert outcomes[first.annotation_id].reason == f"superseded by {later.annotation_id}"
    assert outcomes[later.annotation_id].status is Status.ACCEPTED


def test_a_vote_that_is_held_does_not_take_the_place_of_one_that_counts() -> None:
    counts = a_row()
    later = a_row(verdict="fault", fault="leak", written_at=NOW + timedelta(minutes=5), end_at=NOW + timedelta(days=1))
    outcomes = judge([counts, later], KNOWN)
    assert outcomes[counts.annotation_id].status is Status.ACCEPTED
    assert outcomes[later.annotation_id].status is Status.HELD


def test_different_people_do_not_duplicate_each_other() -> None:
    outcomes = judge([a_row(), a_row(annotator="Chidi")], KNOWN)
    assert {outcome.status for outcome in outcomes.values()} == {Status.ACCEPTED}


def test_the_order_of_arrival_plays_no_part() -> None:
    rows = [
        a_row(),
        a_row(written_at=NOW + timedelta(minutes=3)),
        a_row(written_at=NOW + timedelta(minutes=4), verdict="fault", fault="leak"),
        a_row(written_at=NOW + timedelta(minutes=5)),
    ]
    results = [judge(order, KNOWN) for order in itertools.permutations(rows)]
    assert all(result == results[0] for result in results)
    assert [results[0][row.annotation_id].status for row in rows][-1] is Status.ACCEPTED


def test_the_digest_is_of_the_words_and_not_of_the_sending() -> None:
    said = an_annotation()
    again = said.model_copy(update={"made_at": NOW + timedelta(hours=1), "trace_id": uuid4()})
    assert again.digest() == said.digest()
    for change in ({"note": "x"}, {"annotator": "Chidi"}, {"end": NOW}, {"asset": "pump2"}):
        assert said.model_copy(update=change).digest() != said.digest()


def test_a_fault_on_a_machine_that_was_off_is_held_and_a_false_alarm_is_not() -> None:
    off = Facts(event_asset=None, asset_known=True, measured=False)
    fault = a_row(event_id=None, verdict="fault", fault="bearing")
    assert check(fault, off).status is Status.HELD
    assert "was off" in check(fault, off).reason
    assert check(a_row(event_id=None), off).status is Status.ACCEPTED
