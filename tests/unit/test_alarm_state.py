"""The life of an alarm, folded from its actions: the same whatever order they come in, on agent and server."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import alarms
from models.contract.alarms import Act, AlarmAction, Maintenance
from models.contract.labels import Severity
from tests.builders import NOW, an_action

_IDS = [uuid.UUID(int=i) for i in range(1, 5)]


@st.composite
def actions(draw: st.DrawFn) -> AlarmAction:
    kind = draw(st.sampled_from([Act.ACKNOWLEDGE, Act.SNOOZE, Act.ASSIGN, Act.COMMENT, Act.DISMISS, Act.ESCALATE]))
    minutes = st.integers(0, 3).map(lambda n: NOW + timedelta(minutes=n))
    return an_action(
        kind,
        action_id=draw(st.sampled_from(_IDS)),  # few, so that one id stands for several things
        actor=draw(st.sampled_from(["Ada", "Björn"])),
        place=draw(st.sampled_from(["machine", "server"])),
        tick=draw(st.integers(1, 3)),
        severity=draw(st.sampled_from([None, *Severity])),
        made_at=draw(minutes),
        until=draw(minutes) if kind is Act.SNOOZE else None,
        to=draw(st.sampled_from(["", "Ada"])) if kind is Act.ASSIGN else "",
        level=draw(st.integers(1, 3)) if kind is Act.ESCALATE else 0,
    )


@given(st.lists(actions(), max_size=8), st.randoms(use_true_random=False), st.sampled_from([None, *Severity]))
def test_agent_and_server_come_to_the_same_state_whatever_order_and_however_often(
    done: list[AlarmAction], random: Any, severity: Severity | None
) -> None:
    shuffled = done + random.sample(done, k=random.randint(0, len(done)))
    random.shuffle(shuffled)
    assert alarms.state(done, severity) == alarms.state(shuffled, severity)


@given(st.lists(actions(), max_size=8), st.integers(0, 8))
def test_merging_two_halves_that_each_kept_the_better_record_changes_nothing(done: list[AlarmAction], cut: int) -> None:
    def kept(some: list[AlarmAction]) -> list[AlarmAction]:
        """As a table does that has one row an id and digest."""
        rows: dict[tuple[uuid.UUID, str], AlarmAction] = {}
        for action in some:
            key = (action.action_id, action.digest())
            rows[key] = alarms.better(rows[key], action) if key in rows else action
        return list(rows.values())

    assert alarms.state(kept(kept(done[cut:]) + kept(done[:cut]))) == alarms.state(done)


def test_both_acknowledgements_are_told_apart_and_either_will_do() -> None:
    there, here = an_action(Act.ACKNOWLEDGE, actor="Ada"), an_action(Act.ACKNOWLEDGE, actor="Olga", place="server")
    found = alarms.state([there, here])
    assert found.acknowledged_at_machine is not None
    assert found.acknowledged_at_server is not None
    assert (found.acknowledged_at_machine.by, found.acknowledged_at_server.by) == ("Ada", "Olga")
    assert alarms.state([here]).acknowledged is not None


def test_an_acknowledgement_holds_until_the_alarm_is_worse() -> None:
    seen = [an_action(kind, severity=Severity.MINOR, until=NOW) for kind in (Act.ACKNOWLEDGE, Act.SNOOZE, Act.DISMISS)]
    before, after = alarms.state(seen, Severity.MINOR), alarms.state(seen, Severity.MAJOR)
    assert (before.acknowledged, before.snoozed_until, before.dismissed) != (None, None, None)
    assert (after.acknowledged, after.snoozed_until, after.dismissed) == (None, None, None)


def test_a_clock_that_is_wrong_orders_nothing_that_was_done_in_knowledge_of_the_other() -> None:
    first = an_action(Act.ASSIGN, to="Ada", tick=1, made_at=NOW + timedelta(days=9000))
    second = an_action(Act.ASSIGN, to="Björn", tick=alarms.next_tick([first]), made_at=NOW)
    assert alarms.state([second, first]).assigned_to == "Björn"
    assert alarms.state([second, first]).conflicts == ()


def test_what_was_done_at_once_and_excludes_each_other_is_shown() -> None:
    both = [an_action(Act.ASSIGN, to=name, made_at=NOW + timedelta(seconds=i)) for i, name in enumerate("AB")]
    found = alarms.state(both)
    assert (found.assigned_to, found.conflicts) == ("B", ("assigned twice at once",))
    same_id = uuid.uuid4()
    texts = [an_action(Act.COMMENT, action_id=same_id, text=text) for text in ("a", "b")]
    assert alarms.state(texts).conflicts == ("one id, two actions",)


def test_an_action_that_lacks_what_it_needs_is_refused() -> None:
    for kind, missing in ((Act.SNOOZE, {"until": None}), (Act.COMMENT, {"text": " "}), (Act.ESCALATE, {"level": 0})):
        with pytest.raises(ValueError, match="needs"):
            an_action(kind, **missing)


def test_severity_follows_its_rule() -> None:
    assert alarms.severity(0.6, 0.5, None, sudden=False) is Severity.MINOR
    assert alarms.severity(0.6, 0.5, "bearing", sudden=False) is Severity.MAJOR
    assert alarms.severity(0.95, 0.5, None, sudden=True) is Severity.MAJOR
    assert alarms.severity(1.0, 0.5, None, sudden=True) is Severity.MAJOR  # nameless: never stop
    assert alarms.severity(0.995, 0.5, "bearing", sudden=True) is Severity.STOP
    assert alarms.severity(0.995, 0.5, "imbalance", sudden=True) is Severity.MAJOR


def test_families() -> None:
    assert alarms.family("imbalance") == alarms.family("misalignment") == "rotor"
    assert alarms.family("cluster_7") == "cluster_7"
    assert alarms.family(None) == "novelty"


def test_a_maintenance_window_mutes_until_the_machine_has_settled() -> None:
    def window(**changes: Any) -> Maintenance:
        fields: dict[str, Any] = {
            "trace_id": uuid.uuid4(),
            "made_at": NOW,
            "maintenance_id": _IDS[0],
            "asset": "pump1",
            "start": NOW,
            "actor": "Ada",
            "settle_s": 60,
        }
        return Maintenance.model_validate(fields | changes)

    minutes = [NOW + timedelta(minutes=n) for n in range(5)]
    running, over = window(), window(tick=2, end=minutes[2])
    assert alarms.newer(running, over) is alarms.newer(over, running) is over
    assert [bool(alarms.mutes([over], at)) for at in minutes] == [True, True, True, False, False]
    assert alarms.mutes([running], minutes[4]) == running
    assert alarms.mutes([window(cancelled=True)], NOW) is None
    assert not alarms.fences(over, NOW - timedelta(minutes=2), NOW - timedelta(minutes=1))
    assert alarms.fences(over, NOW - timedelta(minutes=2), NOW)
