"""Takes one release at a time through STEPS, in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from edge_agent.bundles import BundleStore, Memory
from edge_agent.clock import SYSTEM, Clock
from edge_agent.errors import BundleRejected
from edge_agent.rollout.check import Checker
from edge_agent.rollout.download import FETCH_TRIES, Download
from edge_agent.rollout.engine import Engine, Examine
from edge_agent.rollout.guard import Guard
from edge_agent.rollout.offers import Gatekeeper, forbidden
from edge_agent.rollout.record import Record
from edge_agent.rollout.slots import Slots
from edge_agent.rollout.steps import STEPS, Event
from edge_agent.rollout.trial import Harm, Sentence, sentence
from edge_agent.vitals import Pulse, no_pulse
from models.bundle.files import Bundle
from models.bundle.signing import NotTrusted, PublicKeys
from models.contract.base import ModelRef
from models.contract.messages import Assignment, Body, Chunk, Offer, TrialReport
from models.contract.release import Cause, Evidence, Step

log = logging.getLogger(__name__)

MAX_BAD: Final = 20  # windows in a row without a score that is a number: then what runs is left, verified or not
SHADOW_NOTE_S: Final = 60.0  # how often the time spent in shadow is noted
_NO_BLAME: Final = frozenset({Cause.SUPERSEDED, Cause.TIMEOUT, Cause.RESTART, Cause.UNUSABLE})


class Rollout:
    """What runs on this device, and the release on its way."""

    def __init__(
        self,
        device: str,
        state_dir: Path,
        approvers: PublicKeys | None,
        server: PublicKeys | None,
        engine: Engine,
        put: Callable[[list[Body]], object],
        fetch: Callable[[str, tuple[int, ...]], None],
        clock: Clock = SYSTEM,
        examine: Examine = lambda bundle, give_up: None,
    ) -> None:
        self._engine, self._clock = engine, clock
        self.store, self.memory = BundleStore(state_dir / "bundles"), Memory(state_dir)
        self._gate = Gatekeeper(device, approvers, server)
        self._guard = Guard(self.memory, clock)
        self._record = Record(self.memory, put, clock)
        self._checker = Checker(self.store, self.memory, engine, examine)
        self._download = Download(state_dir / "parts", self.store, fetch, clock)
        self._refused = 0
        self._inbox: queue.Queue[Offer | Chunk] = queue.Queue(maxsize=64)
        self._stop = threading.Event()
        self._began = 0.0  # the trial, or this stretch of the shadow
        self._owed: Callable[[], object] | None = None  # decided and done, and not written down yet
        self.problem = ""  # what keeps models from being changed as they should

    @property
    def running(self) -> ModelRef:
        """The verified bundle that runs; during a trial still the one before."""
        return self._running

    @property
    def step(self) -> Step:
        return self._record.step

    @property
    def assignment(self) -> Assignment | None:
        return self._record.assignment

    @property
    def refused_offers(self) -> int:
        return self._refused + self._download.refused

    # -- a start ------------------------------------------------------------------------------------------------

    def start_up(self, baseline: Bundle) -> Bundle:
        """The bundle to run after a start: the current one, else the one before, else the baseline."""
        self._slots = Slots(self.store, self.memory, baseline, self._engine.check)
        fell = self._guard.start()
        if (go_back := self.memory.get("go_back")) and self.step is not Step.TRIAL:
            with contextlib.suppress(BundleRejected):
                # Read and not run: it may be the very reason why somebody wants to leave it.
                self._running = self.store.load(self.memory.get("current")).ref
                self.go_back(go_back)
        current: str = self.memory.get("current")
        blamed = f"the agent fell {self._guard.falls} times in a row with it" if self._guard.blames(current) else None
        bundle, problem = self._slots.first_usable(blamed)
        self._running = bundle.ref
        self._engine.run(bundle)
        if problem:
            log.error("bundle not usable", extra={"reason": problem, "running": bundle.sha256})
            slots: dict[str, Any] = {"current": bundle.sha256, "previous": baseline.sha256}
            why, denied = (Cause.KILLED, _denied(current, problem)) if blamed else (Cause.UNUSABLE, {})
            self._owed = partial(self._write, Step.ROLLED_BACK, problem, why, **slots, **denied)
        elif self.step is Step.TRIAL:
            self._owed = partial(self._trial_cut_short, fell, go_back)
        elif self.step is Step.SHADOW:
            self._owed = partial(self._shadow_again, fell)
        with contextlib.suppress(OSError, sqlite3.OperationalError):  # a full disk: what is owed is tried again
            self._record.tell()
            self._pay(self._owed)
        return bundle

    def _trial_cut_short(self, fell: bool, go_back: str | None) -> None:
        found = self._guard.after(self._sha256, fell, "on trial")
        reason, why = (go_back, Evidence(cause=Cause.PERSON)) if go_back else found
        self._take(Event.RESTARTED, reason, why, go_back=None, **_denied(self._sha256, reason, why.cause))

    def _shadow_again(self, fell: bool) -> None:
        reason, why = self._guard.after(self._sha256, fell, "in shadow")
        if why.cause is Cause.KILLED:
            self._take(Event.WORSE, reason, why, **_denied(self._sha256, reason))
            return
        assert self.assignment
        try:
            self._start_shadow(self._slots.usable(self._sha256), self.assignment)
        except BundleRejected as exc:
            self._take(Event.WORSE, str(exc), Cause.UNUSABLE)

    # -- the thread ---------------------------------------------------------------------------------------------

    def offer(self, message: Offer | Chunk) -> None:
        """Take a message from the server; a flood is dropped, for both kinds are asked for or sent again."""
        try:
            self._inbox.put_nowait(message)
        except queue.Full:
            self._refused += 1

    def loop(self, pulse: Pulse = no_pulse) -> None:
        """Until `stop`."""
        while not self._stop.is_set():
            pulse()
            try:
                message: Offer | Chunk | None = self._inbox.get(timeout=0.1)
            except queue.Empty:
                message = None
            try:
                self.turn(message)
                self.problem = ""
            except (OSError, sqlite3.OperationalError) as exc:
                # The disk is full, or fails, or there is no memory for a process. It is tried again.
                if not self.problem:
                    log.error("the rollout can not go on", extra={"reason": str(exc)})
                self.problem = f"can not go on at step {self.step.value}: {exc}"[:500]
                self._stop.wait(1.0)

    def stop(self, clean: bool = True) -> None:
        """To be called when nothing is scored any more. Unless the end is a clean one it counts as a fall."""
        self._stop.set()
        with contextlib.suppress(sqlite3.Error, OSError):
            if clean:
                self._guard.stop()

    def turn(self, message: Offer | Chunk | None = None) -> None:
        """One turn of the loop: at most one message, then whatever the present step allows."""
        self._pay(self._owed)
        if isinstance(message, Offer):
            self._take_offer(message)
        elif isinstance(message, Chunk):
            assignment = self.assignment
            if self.step is Step.FETCHING and assignment and message.sha256 == assignment.model.sha256:
                self._download.take(assignment, message)
        self._guard.turn(self.running.sha256)
        if self._engine.running() != {self.running.sha256}:
            self._set_right()
        if self.step is not Step.TRIAL and (bad := self._engine.bad_in_a_row()) >= MAX_BAD:
            self._leave_broken(bad)
        if go_back := self.memory.get("go_back"):
            self.go_back(go_back)
        if install := self.memory.get("install"):
            self._install(install)
        if self.step is Step.OFFERED and not self._guard.wait_s():
            self._accept()
        if self.step is Step.FETCHING:
            self._fetch()
        if self.step is Step.CHECKING:
            self._check()
        if self.step is Step.SHADOW:
            self._watch_shadow()
        if self.step is Step.TRIAL:
            self._judge()
        self._record.tell()

    def _pay(self, write: Callable[[], object] | None) -> None:
        """Write down what was decided. If the disk does not take it now it is tried with each turn, before all else."""
        self._owed = write
        if write:
            write()
            self._owed = None

    def _set_right(self) -> None:
        """What scores is not what should: run that once more; where that fails too, a person is needed."""
        found = ", ".join(sorted(sha256[:12] for sha256 in self._engine.running()))
        log.error("another bundle scores than should", extra={"scores": found, "should": self.running.sha256})
        if self.step is Step.TRIAL:
            self._engine.end_trial()
        try:
            self._engine.run(self._slots.usable(self.running.sha256))
        except BundleRejected as exc:
            self.go_back(f"{found} scores instead, and what should can not: {exc}", Cause.RUNNING_HASH)
            return
        if self._engine.running() != {self.running.sha256}:
            self._write(Step.INCONSISTENT, f"{found} scores instead", Cause.RUNNING_HASH)
        elif self.step is Step.TRIAL:
            self._take(Event.WORSE, f"{found} scored during the trial instead", Cause.RUNNING_HASH)

    def _leave_broken(self, bad: int) -> None:
        """What was verified gives no scores any more. The baseline stays: there is nothing behind it."""
        if self.running != self._slots.baseline.ref:
            evidence = Evidence(cause=Cause.NOT_FINITE, after=bad, allowed=MAX_BAD - 1, unit="windows in a row")
            self.go_back(f"no score that is a number for {bad} windows in a row", evidence)

    # -- offered ------------------------------------------------------------------------------------------------

    def _take_offer(self, offer: Offer) -> None:
        try:
            assignment, approval = self._gate.opened(offer, self._slots.baseline.ref)
        except NotTrusted as exc:
            self._refused += 1  # not a word to the server: this is not from it
            log.warning("offer refused", extra={"reason": str(exc)})
            return
        if assignment.sequence <= self.memory.get("sequence", 0):
            return  # a retained offer comes again with each connection
        self._supersede("a newer assignment came")
        self._begin(
            assignment,
            approval.size,
            sequence=assignment.sequence,
            barred=lambda known: sorted({*(known or []), *assignment.barred}),
            local=False,
        )

    def _install(self, wanted: dict[str, Any]) -> None:
        """A file that somebody at the device brought. It takes the place of whatever is on its way."""
        try:
            bundle = self.store.load(wanted["sha256"])
            self._gate.admit(bundle.ref, wanted["approval"], self._slots.baseline.ref)
        except (BundleRejected, NotTrusted) as exc:
            log.warning("file not installed", extra={"reason": str(exc)})
            self.memory.set(install=None)
            return
        self._supersede("somebody at the device brought another")
        assignment = self._gate.local_order(bundle, self.memory, self._clock.now())
        self._begin(assignment, len(bundle.data), local=True, install=None)

    def _supersede(self, reason: str) -> None:
        if self.step in (Step.TRIAL, Step.SHADOW, Step.FETCHING, Step.OFFERED):
            self._take(Event.SUPERSEDED, reason, Cause.SUPERSEDED)

    def _begin(self, assignment: Assignment, size: int, **values: Any) -> None:
        """At the first step with it, or at once at the last."""
        why: Cause | None = None
        reason, event = "", Event.ACCEPTED
        if refusal := forbidden(assignment, size, self.memory):
            (reason, why), event = refusal, Event.REFUSED
        elif assignment.mode != "rollback" and (wait := self._guard.wait_s()):
            event, why, reason = Event.HELD, Cause.LOOP, f"waits {wait:.0f} s: {self._guard.why()}"
        step = STEPS[Step.OFFERED, event]
        if not refusal and assignment.mode != "shadow" and assignment.model.sha256 == self.memory.get("current"):
            step, why, reason = Step.ACTIVE, None, "it runs already"
        if not refusal:
            values["floor"] = assignment.floor
        self._download.begin(assignment.model.sha256)
        self._write(step, reason, why, assignment=assignment.model_dump(mode="json"), checks=0, shadow_s=0, **values)

    def _accept(self) -> None:
        self._download.began = self._clock.monotonic()
        self._take(Event.ACCEPTED, "it has waited long enough")

    # -- fetching and checking ----------------------------------------------------------------------------------

    def _fetch(self) -> None:
        assignment = self.assignment
        assert assignment
        if self._download.turn(assignment):
            self._take(Event.FETCHED)
        elif self._download.tries >= FETCH_TRIES:
            self._take(Event.REFUSED, f"{self._download.tries} downloads were not the approved bytes", Cause.FETCH)
        elif self._clock.monotonic() - self._download.began > assignment.fetch_seconds:
            self._download.drop()
            self._take(Event.LATE, f"it did not come in {assignment.fetch_seconds:g} s", Cause.TIMEOUT)

    def _check(self) -> None:
        assignment = self.assignment
        assert assignment
        try:
            bundle, verified = self._checker.look(assignment, self._stop.is_set)
        except BundleRejected as exc:
            if not self._stop.is_set():
                self._refuse(exc)
            return
        if assignment.mode == "rollback" and verified:
            self._activate(bundle, Event.KNOWN_GOOD, "verified here before")
        elif assignment.mode == "shadow":
            self._take(Event.CHALLENGES)
            self._start_shadow(bundle, assignment)
        else:
            self._take(Event.VERIFIED)
            self._began = self._clock.monotonic()
            self._engine.try_out(bundle)

    def _refuse(self, exc: BundleRejected) -> None:
        """Not this one. Where it was the way away from what must not run, go the one this device knows."""
        must_leave = not self._slots.may_run(self.running.sha256) and self.running != self._slots.baseline.ref
        self._take(Event.REFUSED, str(exc), exc.cause)
        if must_leave:
            self.go_back(f"it must not run, and the way back that was ordered is closed: {exc}", Cause.BARRED)

    # -- shadow -------------------------------------------------------------------------------------------------

    def _start_shadow(self, bundle: Bundle, order: Assignment) -> None:
        self._began = self._clock.monotonic()
        self._engine.shadow(bundle, order)

    def _watch_shadow(self) -> None:
        assignment = self.assignment
        assert assignment
        if failure := self._engine.shadow_failure():
            self._take(Event.WORSE, failure, Cause.CANARY)
            return
        if assignment.model.sha256 in self.memory.get("failed", []):
            self._take(Event.WORSE, "it was denied at the device", Cause.DENIED)
            return
        spent = self._clock.monotonic() - self._began
        if self.memory.get("shadow_s", 0) + spent >= assignment.shadow.seconds:
            self._take(Event.HEALTHY, f"{assignment.shadow.seconds:g} s in shadow are over")
        elif spent > SHADOW_NOTE_S:
            self._began = self._clock.monotonic()
            self.memory.set(shadow_s=lambda so_far: (so_far or 0) + spent)

    # -- trial --------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        assignment, report = self.assignment, self._engine.trial()
        assert assignment
        if report is None:  # a restart came between; start_up has dealt with it
            return
        report = report.model_copy(update={"seconds": self._clock.monotonic() - self._began})
        found = sentence(report, assignment.trial)
        if found is not None and found.harm is None:
            try:
                self._activate(self.store.load(self._sha256), found.event, "no limit was crossed", report)
            except BundleRejected as exc:  # altered on the disk since it was loaded
                found = Sentence(Event.WORSE, Harm(str(exc), Evidence(cause=Cause.UNUSABLE)), report)
        if found is not None and found.harm is not None:
            reason, why = found.harm
            self._engine.end_trial()
            denied = _denied(self._sha256, reason, why.cause)
            self._pay(partial(self._take, found.event, reason, why, report, **denied))
            self._guard.switched()

    def _activate(self, bundle: Bundle, event: Event, reason: str, report: TrialReport | None = None) -> None:
        before, self._running = self._running, bundle.ref
        try:
            self._take(
                event,
                reason,
                report=report,
                current=bundle.sha256,
                previous=self.memory.get("current"),
                verified=lambda known: sorted({*(known or []), bundle.sha256}),
            )
        except BaseException:
            self._running = before
            raise
        self._engine.run(bundle)
        self._guard.switched()
        self.store.keep_only([bundle.sha256, self.memory.get("previous"), self._slots.baseline.sha256])

    # -- back ---------------------------------------------------------------------------------------------------

    def go_back(self, reason: str, why: Cause | Evidence = Cause.PERSON) -> ModelRef:
        """Return to the bundle before, at once and without a network; the one left is not taken again."""
        if self.step is Step.TRIAL:  # the one before still runs: only the candidate goes
            self._take(Event.SUPERSEDED, reason, why, go_back=None, **_denied(self._sha256, reason))
            return self.running
        if self.step in (Step.SHADOW, Step.OFFERED, Step.FETCHING):
            self._take(Event.SUPERSEDED, reason, why)
        left = self.running
        bundle, problems = self._slots.way_back(left)
        if bundle is not None:
            self._engine.run(bundle)
            self._running = bundle.ref
            # The last way back stays open.
            denied = {} if left == self._slots.baseline.ref else _denied(left.sha256, reason)
            slots: dict[str, Any] = {"current": bundle.sha256, "previous": self._slots.baseline.sha256}
            back = partial(self._write, Step.ROLLED_BACK, reason, why, release=left, go_back=None, **slots, **denied)
            self._pay(back)
            self._guard.switched()
        elif problems:
            said = f"could not go back ({reason}): {problems}"
            self._write(Step.INCONSISTENT, said, Cause.NO_WAY_BACK, release=left, go_back=None)
        else:
            log.warning("there is nothing to go back to", extra={"reason": reason})
            self.memory.set(go_back=None)
        return self.running

    # -- steps --------------------------------------------------------------------------------------------------

    @property
    def _sha256(self) -> str:
        """Of the release on its way."""
        assert self.assignment
        return self.assignment.model.sha256

    def _take(
        self,
        event: Event,
        reason: str = "",
        why: Cause | Evidence | None = None,
        report: TrialReport | None = None,
        **values: Any,
    ) -> None:
        step = STEPS[self.step, event]
        if self.step is Step.SHADOW and step is not Step.SHADOW:
            self._engine.end_shadow()
        if event is Event.SUPERSEDED and self.step is Step.TRIAL:
            self._engine.end_trial()
        self._write(step, reason, why, report, **values)

    def _write(
        self,
        step: Step,
        reason: str = "",
        why: Cause | Evidence | None = None,
        report: TrialReport | None = None,
        **values: Any,
    ) -> None:
        self._record.write(step, reason, running=self.running, why=why, report=report, **values)


def _denied(sha256: str, reason: str, cause: Cause | None = None) -> dict[str, Any]:
    """What to write down so that it is not taken again; nothing where it is not to blame."""
    if cause in _NO_BLAME:
        return {}
    return {
        "failed": lambda known: sorted({*(known or []), sha256}),
        "failed_why": lambda known: {**(known or {}), sha256: reason[:500]},
    }
