"""The life of an alarm on the device: one fault is one alarm, a false one stays quiet, a true one never does.

The pumps are the simulated ones, scored by the shipped baseline; no broker, no server.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.alarms.desk import AlarmDesk
from edge_agent.annotate import Journal
from edge_agent.cli import main
from edge_agent.clock import Clock
from edge_agent.config import Alarms, Asset
from edge_agent.detect import Detector, Pipeline
from edge_agent.errors import AgentError
from edge_agent.outbox import Outbox
from models.baseline import shipped
from models.bundle.files import Bundle
from models.contract.alarms import Act, AlarmAction, Maintenance, Suppression
from models.contract.base import Stream
from models.contract.codec import load
from models.contract.commands import LiftSuppression, SetMaintenance, TakeAction, TakeVerdict
from models.contract.events import AlarmEvent, Phase
from models.contract.labels import FaultKind, Severity, Verdict
from models.contract.messages import Annotation, Body, SampledWindow
from models.contract.people import Feedback
from models.windows import default_window
from simulators.machine import RATE_HZ, SIGNALS, Kind, Plan, Pump
from simulators.machine import Episode as Happening
from tests.builders import an_action, an_annotation

FOREVER = 1e9


class Plant:
    """One pump, watched; `said` is all that was put. A restart keeps the folder and the pump."""

    def __init__(self, folder: Path, bundle: Bundle | None = None, **rules: Any) -> None:
        self.folder, self.bundle, self.rules = folder, bundle or shipped().bundle, Alarms(**rules)
        self.pump = Pump(Plan(seed=1, quiet_s=FOREVER))
        self.now = 0.0  # monotonic seconds; the wall goes with it
        self.began = datetime(2026, 3, 2, 8, tzinfo=UTC).timestamp()
        self.said: list[Body] = []
        self.start()

    def start(self) -> None:
        self.clock = Clock(monotonic=lambda: self.now, wall=lambda: self.began + self.now, synchronised=lambda: True)
        self.outbox = Outbox(self.folder / "outbox.db")
        self.journal = Journal(self.outbox)
        self.desk = AlarmDesk(self.outbox, self.journal, self.rules, self.clock)
        asset = Asset.model_validate(
            {
                "id": "pump1",
                "source": "mqtt",
                "mqtt": {"topic": "t", "rate_hz": RATE_HZ, "signals": SIGNALS, "host": "h", "port": 1},
                "sample_share": 0.0,
                "hard_share": 1.0,
            }
        )
        self.pipeline = Pipeline(
            asset, SIGNALS, default_window(RATE_HZ), self.folder / "references", self.clock, self.rules
        )
        self.detector = Detector([self.pipeline], self._put, self.clock)
        self.detector.run(self.bundle)
        spec = self.pipeline.spec
        self.desk.serve(self.detector, [("pump1", [s.name for s in SIGNALS], 3600 * spec.rate_hz / spec.hop)])
        for episode in self.journal.episodes():  # as the agent does
            if episode.open:
                assert self.pipeline.resume(episode.event)
            elif episode.cleared_at:
                self.pipeline.rest(episode.event, episode.cleared_at)

    def _put(self, bodies: list[Body]) -> None:
        self.said.extend(bodies)
        self.desk.put(bodies)

    def restart(self) -> None:
        self.journal.close()
        self.outbox.close()
        self.start()

    def run(self, seconds: float, *kinds: Kind) -> None:
        """So many seconds of the pump's life with these things going on."""
        n = round(seconds * RATE_HZ)
        at = self.pump._n / RATE_HZ
        self.pump._episodes = [
            *(Happening(kind, at - seconds, at + seconds) for kind in kinds),  # in full strength from the start
            Happening("high_load", FOREVER, FOREVER + 1),
        ]
        samples, _ = self.pump.block(n)
        for part in np.array_split(np.arange(n), max(1, round(seconds))):  # a second at a time
            times = self.began + self.now + np.arange(part.size) / RATE_HZ
            self.detector.feed("pump1", times, samples[:, part])
            self.now += part.size / RATE_HZ
            self.desk.turn()

    def learn(self) -> None:
        self.run(25)
        assert self.pipeline.health().state == "scoring"

    def alarms(self, phase: Phase | None = None) -> list[AlarmEvent]:
        return [b for b in self.said if isinstance(b, AlarmEvent) and phase in (None, b.phase)]

    def verdict(self, event: AlarmEvent, verdict: Verdict, **changes: Any) -> Annotation:
        fields: dict[str, Any] = {"event_id": event.event_id, "asset": "pump1", "verdict": verdict}
        fields |= {"fault": FaultKind.BEARING} if verdict is Verdict.FAULT else {}
        said = an_annotation(**(fields | changes))
        assert self.desk.annotate(said) == "new"
        return said

    def sent(self, kind: type[Body]) -> list[Any]:
        rows = [row for stream in Stream for row in self.outbox.after(stream, 0, 1000)]
        marker = f'"kind":"{kind.model_fields["kind"].default}"'.encode()
        return [load(kind, row.body) for row in rows if marker in row.body.replace(b": ", b":")]


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """A pump that has been learned."""
    plant = Plant(tmp_path)
    plant.learn()
    yield plant
    plant.journal.close()
    plant.outbox.close()


# One fault is one alarm


def test_one_fault_is_one_alarm_through_flapping_restarts_and_a_switch_of_models(plant: Plant) -> None:
    plant.run(10, "bearing")
    plant.run(8)  # away, and back within the hold time
    plant.run(5, "bearing")
    plant.restart()
    plant.run(5, "bearing")
    plant.detector.run(plant.bundle)  # the same model again is a switch too
    plant.run(5, "bearing")
    plant.run(8)
    plant.restart()
    plant.run(5, "bearing")
    assert {a.event_id for a in plant.alarms()} == {plant.alarms()[0].event_id}
    assert [a.repeats for a in plant.alarms(Phase.RAISED)] == [1, 2, 3]
    (episode,) = plant.journal.episodes()
    assert episode.open
    assert episode.event.repeats == 3


def test_after_the_hold_time_it_is_another_alarm(plant: Plant) -> None:
    plant.run(5, "bearing")
    plant.run(70)
    plant.run(5, "bearing")
    assert len({a.event_id for a in plant.alarms()}) == 2
    assert [a.repeats for a in plant.alarms(Phase.RAISED)] == [1, 1]


# A false alarm stays quiet, a fault does not


def test_a_false_alarm_is_quiet_within_a_minute_and_a_fault_during_it_is_raised(plant: Plant) -> None:
    plant.run(5, "high_load")
    (raised,) = plant.alarms(Phase.RAISED)
    plant.run(3, "high_load")
    plant.verdict(raised, Verdict.FALSE_ALARM)
    said_at = plant.now
    plant.run(10, "high_load")
    (cleared,) = plant.alarms(Phase.CLEARED)
    assert cleared.cleared_by == "verdict"
    assert cleared.window_end.timestamp() - plant.began - said_at < 60
    plant.run(70)
    plant.run(20, "high_load")
    assert len(plant.alarms(Phase.RAISED)) == 1
    plant.run(10, "high_load", "bearing")  # a fault that begins while the pattern is there
    assert len(plant.alarms(Phase.RAISED)) == 2
    plant.run(70)
    plant.run(10, "imbalance")
    assert len({a.event_id for a in plant.alarms()}) == 3


def test_suppression_outlives_restarts_and_switches_and_is_counted_and_sampled(plant: Plant) -> None:
    plant.run(5, "high_load")
    plant.verdict(plant.alarms()[0], Verdict.FALSE_ALARM)
    plant.run(75)
    plant.restart()
    plant.run(20, "high_load")
    plant.detector.run(plant.bundle)
    plant.run(20, "high_load")
    assert len(plant.alarms(Phase.RAISED)) == 1
    (row,) = plant.desk.suppressions()
    assert row.said.windows > 60
    assert plant.pipeline.health().suppressed > 60
    samples = [b for b in plant.said if isinstance(b, SampledWindow) and b.suppressed_by]
    assert {s.suppressed_by for s in samples} == {row.said.suppression_id}
    told: list[Suppression] = plant.sent(Suppression)
    assert told[0].annotator == "Ada"
    assert told[0].drivers


def test_a_fault_of_the_same_kind_but_larger_than_what_was_called_false_alarms(plant: Plant) -> None:
    plant.pump._size = plant.pump._size.copy()
    plant.run(6, "imbalance")
    plant.verdict(plant.alarms()[0], Verdict.FALSE_ALARM)  # wrong, and it hides what was seen
    plant.run(75)
    plant.run(10, "imbalance")
    assert len(plant.alarms(Phase.RAISED)) == 1
    plant.run(70)
    plant.pump._size[:2] *= 2.5
    plant.run(10, "imbalance")
    assert len(plant.alarms(Phase.RAISED)) == 2


@pytest.mark.parametrize("how", ["fault", "taken back", "free report", "lift", "lift from the server", "expiry", "cap"])
def test_what_ends_a_suppression(tmp_path: Path, how: str) -> None:
    plant = Plant(tmp_path, suppress_hours=0.01 if how == "cap" else 24)  # 36 seconds
    plant.learn()
    plant.run(5, "high_load")
    event = plant.alarms()[0]
    said = plant.verdict(event, Verdict.FALSE_ALARM)
    plant.run(75)
    plant.run(10, "high_load")
    assert len(plant.alarms(Phase.RAISED)) == 1
    (row,) = plant.desk.suppressions()
    key = row.said.suppression_id
    if how == "fault":
        plant.verdict(event, Verdict.FAULT, annotator="Björn")
    elif how == "taken back":
        plant.verdict(event, Verdict.UNSURE, supersedes=said.annotation_id)
    elif how == "free report":
        now = plant.clock.now()
        plant.verdict(event, Verdict.FAULT, event_id=None, start=now - timedelta(minutes=1), end=now)
    elif how == "lift":
        assert plant.desk.lift(key, "Ada")
        assert not plant.desk.lift(key, "Ada")
    elif how == "lift from the server":
        plant.outbox.put([], within=lambda db: plant.desk.take_lift(LiftSuppression(suppression_id=key, by="Olga"), db))
    elif how == "expiry":
        plant.run(70)
        plant.now += 15 * 86400
    plant.run(75)
    plant.run(60, "high_load")
    assert len(plant.alarms(Phase.RAISED)) == 2
    ended = {"expiry": "expired", "cap": "capped"}.get(how, "lifted" if "lift" in how else "contradicted")
    assert plant.desk.suppressions()[0].said.ended == ended
    assert [s.ended for s in plant.sent(Suppression)][-1] == ended


def test_what_is_not_suppressed_says_why(plant: Plant) -> None:
    plant.run(5, "bearing")
    event = plant.alarms()[0]
    plant.verdict(event, Verdict.FAULT, annotator="Björn")
    said = plant.verdict(event, Verdict.FALSE_ALARM)
    assert plant.desk.why_not_suppressed(said.annotation_id) == "somebody says that it is a fault"
    stop = event.model_copy(update={"event_id": uuid.uuid4(), "severity": Severity.STOP})
    plant.journal.put([stop])
    shape = np.zeros((2, 5), np.float32)
    plant.outbox.put([], within=lambda db: plant.desk._keep(db, [("pump1", stop.event_id, shape)]))
    said = plant.verdict(stop, Verdict.FALSE_ALARM)
    assert "never" in (plant.desk.why_not_suppressed(said.annotation_id) or "")
    assert plant.desk.suppressions() == []


def test_a_verdict_from_the_server_works_and_one_heard_on_both_ways_works_once(plant: Plant) -> None:
    plant.run(5, "high_load")
    event = plant.alarms()[0]
    said = an_annotation(event_id=event.event_id)
    for _ in range(2):
        plant.outbox.put([], within=lambda db: plant.desk.take_verdict(TakeVerdict(annotation=said), db))
    assert plant.desk.annotate(said) == "new"  # the phone reached both
    plant.run(75)
    plant.run(10, "high_load")
    assert len(plant.alarms(Phase.RAISED)) == 1
    assert len(plant.desk.suppressions()) == 1


# What people do


def test_an_action_is_done_once_travels_up_and_leaves_its_trace_as_feedback(plant: Plant) -> None:
    plant.run(5, "bearing")
    event = plant.alarms()[0]
    action = an_action(Act.ACKNOWLEDGE, event_id=event.event_id, made_at=event.opened_at + timedelta(seconds=90))
    assert [plant.desk.act(action) for _ in range(3)] == ["new", "again", "again"]
    assert plant.desk.act(action.model_copy(update={"actor": "Björn"})) == "conflict"
    assert [a.action_id for a in plant.sent(AlarmAction)] == [action.action_id]
    (feedback,) = plant.sent(Feedback)
    assert (feedback.signal, feedback.value, feedback.event_id) == ("acknowledged", 90.0, event.event_id)
    server = an_action(Act.ASSIGN, event_id=event.event_id, to="Ada", place="server", tick=2)
    plant.outbox.put([], within=lambda db: plant.desk.take_action(TakeAction(action=server), db))
    state = plant.desk.states(plant.journal.episodes())[event.event_id]
    assert state.acknowledged_at_machine is not None
    assert state.assigned_to == "Ada"
    plant.restart()
    assert plant.desk.states(plant.journal.episodes())[event.event_id] == state
    with pytest.raises(AgentError, match="there is no alarm"):
        plant.desk.act(an_action(Act.ACKNOWLEDGE, event_id=uuid.uuid4()))


# Maintenance


def test_maintenance_mutes_marks_and_settles(plant: Plant) -> None:
    window = plant.desk.start_maintenance("pump1", "Ada", settle_s=20)
    plant.run(10, "bearing")
    (raised,) = plant.alarms(Phase.RAISED)
    assert raised.muted
    health = plant.pipeline.health()
    assert (health.maintenance_id, health.alarm) == (window.maintenance_id, True)
    assert plant.desk.end_maintenance("Ada", asset="pump1", part_replaced="6205") == 1
    assert plant.desk.end_maintenance("Ada", asset="pump1") == 0
    plant.run(10, "bearing")
    assert all(a.muted for a in plant.alarms())  # it settles
    plant.run(20, "bearing")
    assert not plant.alarms()[-1].muted  # still there after settling: now it counts
    assert [w.part_replaced for w in plant.sent(Maintenance)] == ["", "6205"]
    assert [f.signal for f in plant.sent(Feedback)] == ["maintenance_started", "maintenance_ended", "part_used"]


def test_a_planned_window_begins_and_ends_by_itself_also_over_a_restart(plant: Plant) -> None:
    now = plant.clock.now()
    planned = plant.desk.start_maintenance(
        "pump1", "Olga", start=now + timedelta(seconds=30), end=now + timedelta(seconds=60), settle_s=0
    )
    seen = []
    for _ in range(8):
        plant.run(10)
        plant.restart()
        plant.desk.turn()
        seen.append(plant.pipeline.health().maintenance_id == planned.maintenance_id)
    assert seen == [False, False, True, True, True, False, False, False]


def test_a_word_of_the_server_on_maintenance_counts_by_its_tick(plant: Plant) -> None:
    word = plant.desk.start_maintenance("pump1", "Ada")
    ended = word.model_copy(update={"end": word.start, "tick": 2, "settle_s": 0.0, "place": "server"})
    for window in (ended, word):
        plant.outbox.put([], within=lambda db, w=window: plant.desk.take_maintenance(SetMaintenance(window=w), db))
    assert plant.desk.maintenance()[0].end == word.start


# The command line, beside a running agent


def test_the_commands_work_beside_the_agent_and_it_does_what_they_say(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    config = plant.folder / "agent.toml"
    config.write_text(
        f'state_dir = "{plant.folder}"\n[[asset]]\nid = "pump1"\nsource = "mqtt"\n'
        '[asset.mqtt]\ntopic = "t"\nhost = "h"\nport = 1\nrate_hz = 1024\nsignals = [{ name = "vib_x" }]\n'
    )

    def run(*words: str, code: int = 0) -> Any:
        assert main([*words, "--config", str(config), "--json"]) == code
        said = capsys.readouterr()
        return json.loads(said.out) if code == 0 else said.err

    plant.began = datetime.now(UTC).timestamp() - plant.now  # the commands have no clock but the machine's
    plant.run(5, "high_load")
    subject = str(plant.alarms()[0].event_id)
    run("alarms", "acknowledge", subject, "--by", "Ada")
    run("alarms", "comment", subject, "--by", "Ada", "--text", "The valve is open.")
    (alarm,) = run("alarms", "list")
    assert (alarm["event_id"], alarm["open"], alarm["state"]["comments"]) == (subject, True, 1)
    assert alarm["state"]["acknowledged"]["by"] == "Ada"
    assert "no alarm" in run("alarms", "dismiss", str(uuid.uuid4()), "--by", "Ada", code=2)
    main(["annotate", "--config", str(config), "--event", subject, "--verdict", "false_alarm", "--by", "Ada"])
    capsys.readouterr()
    plant.run(75)
    plant.run(10, "high_load")
    assert len(plant.alarms(Phase.RAISED)) == 1
    (held,) = run("suppressions", "list")
    run("suppressions", "lift", held["suppression_id"], "--by", "Ada")
    assert "has ended" in run("suppressions", "lift", held["suppression_id"], "--by", "Ada", code=2)
    key = run("maintenance", "start", "pump1", "--by", "Ada")["maintenance_id"]
    plant.run(75)
    assert str(plant.pipeline.health().maintenance_id) == key
    assert [each["maintenance_id"] for each in run("maintenance", "list")] == [key]
    assert run("maintenance", "end", "pump1", "--by", "Ada") == {"ended": 1}
    assert "no maintenance runs" in run("maintenance", "end", "pump1", "--by", "Ada", code=2)
    assert "not an asset" in run("maintenance", "start", "pump9", "--by", "Ada", code=2)
