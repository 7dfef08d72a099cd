"""Where all that is done about alarms on this device is done: by form, command line, the server's commands, timers."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import numpy as np
from numpy.typing import NDArray

from edge_agent.alarms import records, verdicts
from edge_agent.annotate import Episode, Journal, Taken
from edge_agent.clock import SYSTEM, Clock
from edge_agent.config import Alarms
from edge_agent.errors import AgentError, CommandRefused, DiskTrouble
from edge_agent.outbox import Outbox
from models import alarms
from models.alarms import AlarmState
from models.contract.alarms import Act, AlarmAction, Maintenance, Suppression
from models.contract.commands import LiftSuppression, SetMaintenance, TakeAction, TakeVerdict
from models.contract.events import AlarmEvent
from models.contract.features import vector_names
from models.contract.ids import new_trace_id
from models.contract.messages import Annotation, Body
from models.contract.people import Feedback, Signal
from models.suppress import Pattern

log = logging.getLogger(__name__)

TURN_S: Final = 1.0
SHAPES_S: Final = 5.0  # an open alarm's windows are on disk at least so often
REPORT_S: Final = 60.0  # how often a suppression's count is told to the server
_SIGNAL: Final[dict[Act, Literal["acknowledged", "dismissed"]]] = {
    Act.ACKNOWLEDGE: "acknowledged",
    Act.DISMISS: "dismissed",
}


class Engine(Protocol):
    """What the desk changes in the detector."""

    def suppress(self, asset: str, patterns: Sequence[Pattern]) -> list[UUID]: ...
    def mute(self, asset: str, window: Maintenance | None) -> None: ...
    def shapes(self) -> list[tuple[str, UUID, NDArray[np.float32]]]: ...
    def suppressed(self) -> dict[UUID, tuple[int, float]]: ...


class AlarmDesk:
    """One a process; any thread may call. A running agent gives it an engine and calls `turn` all the time."""

    def __init__(
        self,
        outbox: Outbox,
        journal: Journal,
        rules: Alarms,
        clock: Clock = SYSTEM,
        counters: Counter[str] | None = None,
    ) -> None:
        self._outbox, self._journal, self._rules, self._clock = outbox, journal, rules, clock
        self._db = sqlite3.connect(outbox.path, timeout=30, isolation_level=None, check_same_thread=False)
        outbox.put([], within=_make_tables)
        self.counters = Counter[str]() if counters is None else counters
        self._reading = threading.Lock()
        self._engine: Engine | None = None
        self._names: dict[str, tuple[str, ...]] = {}
        self._max_windows: dict[str, float] = {}
        self._applied: dict[str, frozenset[UUID]] = {}
        self._counted: dict[UUID, int] = {}
        self._shapes_at = self._reported_at = -1e9
        self._stopping = threading.Event()
        self.not_told_apart: set[UUID] = set()  # suppressions that the model that runs cannot tell from a fault

    def now(self) -> datetime:
        """By the device's clock."""
        return self._clock.now()

    def serve(self, engine: Engine, assets: Iterable[tuple[str, Sequence[str], float]]) -> None:
        """Work on a detector. `assets`: id, signals' names, windows an hour."""
        for asset, signals, per_hour in assets:
            self._names[asset] = vector_names(signals)
            self._max_windows[asset] = per_hour * self._rules.suppress_hours
        self._engine = engine
        self._apply()

    # -- what people do -----------------------------------------------------------------------------------------

    def annotate(self, said: Annotation) -> Taken:
        """Take a verdict, and do on the device what it asks for, in one step."""
        return self._journal.take(said, lambda db: verdicts.act_on(db, said, self._rules, self._clock.now()))

    def act(self, action: AlarmAction) -> Taken:
        """Do something about an alarm: the same id again is the same action, with other words it is refused.

        Raises:
            AgentError: there is no such alarm on this device.
        """
        episode = self._journal.episode(action.event_id)
        if episode is None:
            raise AgentError(f"there is no alarm {action.event_id} on this device")
        taken: Taken = "new"
        bodies: list[Body] = []

        def do(db: sqlite3.Connection) -> None:
            nonlocal taken
            if known := records.known_as(db, action.action_id):
                taken = "again" if action.digest() in known else "conflict"
                return
            others = records.actions(db, [action.event_id])[action.event_id]
            done = action.model_copy(
                update={
                    "asset": episode.event.asset,
                    "trace_id": episode.event.trace_id,
                    "place": "machine",
                    "tick": alarms.next_tick(others),
                    "severity": episode.event.severity,
                    "taken_at": self._clock.now(),
                    "time_quality": self._clock.quality,
                }
            )
            records.merge_action(db, done)
            bodies.append(done)
            if signal := _SIGNAL.get(action.action):
                bodies.append(self._feedback(done, signal, episode.event.opened_at))

        self._outbox.put(bodies, within=do)
        return taken

    def set_maintenance(self, word: Maintenance) -> Taken:
        """Plan, start, change or end a maintenance window; the same word again changes nothing."""
        taken: Taken = "again"
        bodies: list[Body] = []

        def do(db: sqlite3.Connection) -> None:
            nonlocal taken
            known = records.window(db, word.maintenance_id)
            same = {"tick", "made_at", "trace_id", "time_quality"}
            if known is not None and known.model_dump(exclude=same) == word.model_dump(exclude=same):
                return
            tick = alarms.next_tick([known] if known else [])
            done = word.model_copy(update={"place": "machine", "tick": tick, "time_quality": self._clock.quality})
            records.merge_maintenance(db, done)
            bodies.append(done)
            if not done.cancelled and done.end is None:
                bodies.append(_note_maintenance("maintenance_started", done))
            elif not done.cancelled and known and known.end is None:
                bodies.append(_note_maintenance("maintenance_ended", done))
                if done.part_replaced:
                    bodies.append(_note_maintenance("part_used", done))
            taken = "new"

        self._outbox.put(bodies, within=do)
        return taken

    def start_maintenance(self, asset: str, actor: str, **details: Any) -> Maintenance:
        """Mute an asset from now on; details are Maintenance's fields."""
        now = self._clock.now()
        fields: dict[str, Any] = {"maintenance_id": uuid4(), "start": now, "settle_s": self._rules.settle_s}
        fields |= {"trace_id": new_trace_id(), "made_at": now, "asset": asset, "actor": actor}
        word = Maintenance.model_validate(fields | details)
        self.set_maintenance(word)
        return word

    def end_maintenance(
        self, actor: str, *, asset: str = "", maintenance_id: UUID | None = None, **details: Any
    ) -> int:
        """End what runs now: this window, or all of this asset. Returns how many those were."""
        now, n = self._clock.now(), 0
        for each in self.maintenance(asset or None):
            if each.cancelled or maintenance_id not in (None, each.maintenance_id):
                continue
            if each.start <= now and (each.end is None or now < each.end):
                ended: dict[str, Any] = {"end": now, "actor": actor, "made_at": now, "trace_id": new_trace_id()}
                n += self.set_maintenance(each.model_copy(update=ended | details)) == "new"
        return n

    def lift(self, suppression_id: UUID, by: str) -> bool:
        """Alarm again. False: there is no such suppression, or it has ended."""
        lifted = False

        def do(db: sqlite3.Connection) -> None:
            nonlocal lifted
            lifted = verdicts.lift(db, suppression_id, by)

        self._outbox.put([], within=do)
        return lifted

    # -- what is known ------------------------------------------------------------------------------------------

    def states(self, episodes: Sequence[Episode]) -> dict[UUID, AlarmState]:
        """What was done about each of these alarms."""
        with self._reading:
            done = records.actions(self._db, [e.event.event_id for e in episodes])
        return {e.event.event_id: alarms.state(done[e.event.event_id], e.event.severity) for e in episodes}

    def knows(self, action_id: UUID) -> bool:
        with self._reading:
            return bool(records.known_as(self._db, action_id))

    def maintenance(self, asset: str | None = None) -> list[Maintenance]:
        """All windows that are kept, the latest start first."""
        with self._reading:
            return records.windows(self._db, asset)

    def window(self, maintenance_id: UUID | None) -> Maintenance | None:
        with self._reading:
            return records.window(self._db, maintenance_id) if maintenance_id else None

    def suppressions(self) -> list[verdicts.Row]:
        """All that are kept, the newest first; ended ones too."""
        with self._reading:
            return verdicts.rows(self._db)

    def suppressed_by(self, annotation_id: UUID) -> bool:
        """True: this verdict keeps a pattern quiet now."""
        return any(row.holds and row.said.annotation_id == annotation_id for row in self.suppressions())

    def why_not_suppressed(self, annotation_id: UUID) -> str | None:
        """Why a false alarm was not suppressed; None: it was."""
        with self._reading:
            row = self._db.execute(
                "SELECT reason FROM not_suppressed WHERE annotation_id = ?", (str(annotation_id),)
            ).fetchone()
        return row[0] if row else None

    # -- what the server orders, inside the transaction of its command ------------------------------------------

    def take_action(self, body: TakeAction, db: sqlite3.Connection) -> str:
        records.merge_action(db, body.action)
        return body.action.action.value

    def take_verdict(self, body: TakeVerdict, db: sqlite3.Connection) -> str:
        known = db.execute(
            "SELECT 1 FROM verdict WHERE annotation_id = ?", (str(body.annotation.annotation_id),)
        ).fetchone()
        if known:
            return "it was said here too"
        return verdicts.act_on(db, body.annotation, self._rules, self._clock.now()) or "done"

    def take_maintenance(self, body: SetMaintenance, db: sqlite3.Connection) -> str:
        if self._names and body.window.asset not in self._names:
            raise CommandRefused(f"{body.window.asset} is not an asset of this device")
        return "done" if records.merge_maintenance(db, body.window) else "a newer word was here before"

    def take_lift(self, body: LiftSuppression, db: sqlite3.Connection) -> str:
        if not verdicts.lift(db, body.suppression_id, body.by):
            raise CommandRefused("there is no such suppression, or it has ended")
        return "lifted"

    # -- what the running agent does ----------------------------------------------------------------------------

    def put(self, bodies: Sequence[Body]) -> None:
        """Into outbox and journal; with alarms, their windows, for a verdict to come."""
        shapes = self._engine.shapes() if self._engine and any(isinstance(b, AlarmEvent) for b in bodies) else []
        self._journal.put(bodies, (lambda db: self._keep(db, shapes)) if shapes else None)

    def loop(self, pulse: Callable[[], object] = lambda: None) -> None:
        """Until `stop`. A disk that takes nothing is waited for: what is known goes on working."""
        while not self._stopping.wait(TURN_S):
            pulse()
            try:
                self.turn()
            except (DiskTrouble, sqlite3.OperationalError) as exc:
                self.counters["alarm_turns_failed"] += 1
                log.warning("the alarms' desk could not do its turn", extra={"reason": str(exc)})

    def stop(self) -> None:
        self._stopping.set()

    def turn(self) -> None:
        """Once a second: what others have written (the form, another process) works, what has lasted enough ends."""
        if self._engine is None:
            return
        now = self._clock.monotonic()
        if now - self._shapes_at > SHAPES_S:
            self._shapes_at = now
            self._store(self._clock.past())
        self._apply()
        self._report(now)

    def _store(self, past: datetime) -> None:
        """Windows of open alarms and counts to the disk; end what is old."""
        assert self._engine
        shapes, counts = self._engine.shapes(), self._engine.suppressed()

        def do(db: sqlite3.Connection) -> None:
            self._keep(db, shapes)
            for key, (n, last) in counts.items():
                new, self._counted[key] = n - self._counted.get(key, 0), n
                db.execute(
                    "UPDATE suppression SET windows = windows + ?, last_at = ? WHERE suppression_id = ?",
                    (new, last, str(key)),
                )
            verdicts.age(db, past, self._max_windows)
            records.forget_old(db)

        self._outbox.put([], within=do)

    def _apply(self) -> None:
        """What is on disk to the detector, where it is another thing than before."""
        assert self._engine
        with self._reading:
            held = self._db.execute("SELECT asset, suppression_id FROM suppression WHERE ended = ''").fetchall()
        wall = self._clock.now()
        for asset in self._names:
            self._engine.mute(asset, alarms.mutes(self.maintenance(asset), wall))
            wanted = frozenset(UUID(key) for on, key in held if on == asset)
            if wanted != self._applied.get(asset, frozenset()):
                rows = [row for row in self.suppressions() if row.said.suppression_id in wanted]
                patterns = [Pattern(row.said.suppression_id, row.names, row.vectors) for row in rows]
                cannot = set(self._engine.suppress(asset, patterns))
                self.not_told_apart = (self.not_told_apart - wanted) | cannot
                self._applied[asset] = wanted
                log.info("suppressions", extra={"asset": asset, "held": len(wanted), "not_told_apart": len(cannot)})

    def _report(self, now: float) -> None:
        """Tell the server of suppressions that are new or have ended, and now and then of their counts."""
        counts_too = now - self._reported_at > REPORT_S
        news = []
        for row in self.suppressions():
            told_ended, _, told_windows = row.told.partition(" ")
            fresh = not row.told or told_ended != (row.said.ended or "holds")
            if fresh or (counts_too and told_windows != str(row.said.windows)):
                news.append(row.said.model_copy(update={"made_at": self._clock.now()}))
        if counts_too:
            self._reported_at = now
        if news:
            self._outbox.put(news, within=lambda db: _told(db, news))

    def _keep(self, db: sqlite3.Connection, shapes: Sequence[tuple[str, UUID, NDArray[np.float32]]]) -> None:
        for asset, event_id, vectors in shapes:
            verdicts.keep_shape(db, self._names[asset], event_id, vectors, int(self._clock.at_least() * 1000))

    def _feedback(
        self, done: AlarmAction, signal: Literal["acknowledged", "dismissed"], opened_at: datetime
    ) -> Feedback:
        return Feedback(
            trace_id=done.trace_id,
            made_at=done.made_at,
            feedback_id=uuid5(NAMESPACE_OID, f"{signal} {done.action_id}"),
            signal=signal,
            asset=done.asset,
            event_id=done.event_id,
            person=done.actor,
            value=max(timedelta(0), done.made_at - opened_at).total_seconds(),
            detail=done.text[:500],
        )


def _note_maintenance(signal: Signal, done: Maintenance) -> Feedback:
    """The same signal of the same window is one, on the server too."""
    return Feedback(
        trace_id=done.trace_id,
        made_at=done.made_at,
        feedback_id=uuid5(NAMESPACE_OID, f"{signal} {done.maintenance_id}"),
        signal=signal,
        asset=done.asset,
        person=done.actor,
        about=done.maintenance_id,
        detail=done.part_replaced if signal == "part_used" else "",
    )


def _make_tables(db: sqlite3.Connection) -> None:
    for statement in filter(str.strip, (records.SCHEMA + verdicts.SCHEMA).split(";")):
        db.execute(statement)


def _told(db: sqlite3.Connection, news: Sequence[Suppression]) -> None:
    for said in news:
        told = f"{said.ended or 'holds'} {said.windows}"
        db.execute("UPDATE suppression SET told = ? WHERE suppression_id = ?", (told, str(said.suppression_id)))
