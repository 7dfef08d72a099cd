"""A release on its way to run here. The rules:

1. An offer counts only with a signed assignment for this device, of a higher sequence than any before, and a signed
   approval of the very same bytes. No version below the floor, none that is barred, none that failed here before.
2. Each step is on disk before it is taken, and told to the server through the outbox.
3. Nothing runs before its hash, its fit to this device's signals and its golden scores were checked.
4. A release runs on trial beside the one it replaces, on the same windows. Any limit crossed: back at once, from disk.
5. A restart during the trial goes back: only the old model is known to be good.
6. Only a release that was verified here before may come back without a trial.
7. What does not load at a start gives way to the one before it, and that to the baseline: a device is never without.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from edge_agent.bundles import BundleStore, Memory
from edge_agent.clock import SYSTEM, Clock
from edge_agent.errors import BundleRejected
from edge_agent.files import write_whole
from models.baseline import keys as baseline_keys
from models.bundle.files import MAX_BUNDLE, BadBundle, Bundle, digest
from models.bundle.signing import NotTrusted, PublicKeys
from models.contract.base import ModelRef
from models.contract.ids import new_trace_id
from models.contract.messages import (
    Approval,
    Assignment,
    Body,
    Chunk,
    Offer,
    RolloutStatus,
    Signed,
    Step,
    TrialLimits,
    TrialReport,
)
from models.crash_points import crash_point

log = logging.getLogger(__name__)


class Event(enum.Enum):
    """What can happen to a release on its way."""

    ACCEPTED = enum.auto()  # both signatures hold and no rule forbids it
    FETCHED = enum.auto()  # its bytes are here, and are the approved ones
    VERIFIED = enum.auto()  # it loads, fits and gives its golden scores
    KNOWN_GOOD = enum.auto()  # the same, and it was verified on this device before
    REFUSED = enum.auto()
    HEALTHY = enum.auto()  # the trial is over and no limit was crossed
    WORSE = enum.auto()  # a limit was crossed
    SUPERSEDED = enum.auto()  # a newer assignment, or somebody at the device, wants something else
    RESTARTED = enum.auto()


STEPS: Final = {
    (Step.OFFERED, Event.ACCEPTED): Step.FETCHING,
    (Step.OFFERED, Event.REFUSED): Step.REJECTED,
    (Step.FETCHING, Event.FETCHED): Step.CHECKING,
    (Step.FETCHING, Event.REFUSED): Step.REJECTED,
    (Step.FETCHING, Event.SUPERSEDED): Step.REJECTED,
    (Step.FETCHING, Event.RESTARTED): Step.FETCHING,  # the pieces that came are on disk
    (Step.CHECKING, Event.VERIFIED): Step.TRIAL,
    (Step.CHECKING, Event.KNOWN_GOOD): Step.ACTIVE,
    (Step.CHECKING, Event.REFUSED): Step.REJECTED,
    (Step.CHECKING, Event.RESTARTED): Step.CHECKING,
    (Step.SHADOW, Event.HEALTHY): Step.SHADOWED,
    (Step.SHADOW, Event.SUPERSEDED): Step.SHADOWED,
    (Step.SHADOW, Event.WORSE): Step.REJECTED,
    (Step.SHADOW, Event.RESTARTED): Step.SHADOW,  # it decides nothing, so it may go on
    (Step.TRIAL, Event.HEALTHY): Step.ACTIVE,
    (Step.TRIAL, Event.WORSE): Step.ROLLED_BACK,
    (Step.TRIAL, Event.SUPERSEDED): Step.ROLLED_BACK,
    (Step.TRIAL, Event.RESTARTED): Step.ROLLED_BACK,
}
FETCH_AHEAD: Final = 8  # pieces asked for at once
FETCH_AGAIN_S: Final = 5.0
FETCH_TRIES: Final = 3  # whole downloads that did not give the approved bytes
MAX_CHECKS: Final = 2  # begun and not ended: a release whose check takes the agent down must not do so for ever
MIN_HARM_WINDOWS: Final = 8  # clear harm is not watched for longer


class Engine(Protocol):
    """What scores: the detector."""

    def check(self, bundle: Bundle) -> None:
        """Raises BundleRejected unless it loads, fits every asset and gives its golden scores."""

    def run(self, bundle: Bundle) -> None:
        """Score with this one alone from the next window on."""

    def try_out(self, bundle: Bundle) -> None:
        """Score with this one, beside the one that runs."""

    def end_trial(self) -> None:
        """Only the one that ran before scores again."""

    def trial(self) -> TrialReport | None:
        """What the trial has shown so far, with the share and score figures of both; None: no trial."""

    def mean_shift(self) -> float:
        """Mean score of the candidate less that of the previous one, on the trial's windows that did not alarm the
        previous one: where that did alarm, being quieter is often what the new one is for."""


class Rollout:
    """Takes one release at a time through STEPS, in a thread of its own."""

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
    ) -> None:
        self._clock = clock
        self.device, self._approvers, self._server = device, approvers, server
        self._engine, self._put, self._fetch = engine, put, fetch
        self.store, self.memory = BundleStore(state_dir / "bundles"), Memory(state_dir)
        self._parts = state_dir / "parts"
        self.refused_offers = 0
        self._inbox: queue.Queue[Offer | Chunk] = queue.Queue(maxsize=64)
        self._stop = threading.Event()
        self._asked_at = -math.inf
        self._tries = 0
        self._trial_began = 0.0

    # -- what runs ----------------------------------------------------------------------------------------------

    def start_up(self, baseline: Bundle) -> Bundle:
        """The bundle to run after a start: the current one, else the one before, else the baseline."""
        self.baseline = baseline
        self.store.save(baseline.data)
        current, shipped = self.memory.get("current"), self.memory.get("baseline")
        if current is None or (current == shipped != baseline.sha256):  # the first start, or one with a newer baseline
            verified = sorted({*self.memory.get("verified", []), baseline.sha256})
            self.memory.set(current=baseline.sha256, previous=current or baseline.sha256, verified=verified)
        if shipped != baseline.sha256:
            self.memory.set(baseline=baseline.sha256)
        go_back = self.memory.get("go_back")
        if go_back and self.step is not Step.TRIAL:
            with contextlib.suppress(BundleRejected):
                # Read and not run: it may be the very reason why somebody wants to leave it.
                self._running = self.store.load(self.memory.get("current")).ref
                self.go_back(go_back)
        bundle, problem = self._first_usable()
        self._running = bundle.ref
        self._engine.run(bundle)
        self._tell()
        if problem:
            log.error("bundle not usable", extra={"reason": problem, "running": bundle.sha256})
            self._remember(Step.ROLLED_BACK, problem, current=bundle.sha256, previous=baseline.sha256)
        elif self.step is Step.TRIAL:
            left = [self.assignment.model.sha256] if go_back and self.assignment else []
            failed = sorted({*self.memory.get("failed", []), *left})
            self._take(Event.RESTARTED, "the agent was restarted during the trial", failed=failed, go_back=None)
        return bundle

    def _first_usable(self) -> tuple[Bundle, str]:
        """What to run, and why it is not the current one; "": it is. Raises BundleRejected."""
        problems = []
        for slot in ("current", "previous", "baseline"):
            sha256 = self.memory.get(slot)
            if slot == "previous" and sha256 in {*self.memory.get("barred", []), *self.memory.get("failed", [])}:
                continue
            try:
                bundle = self.baseline if slot == "baseline" else self.store.load(sha256)
                self._engine.check(bundle)
            except BundleRejected as exc:
                problems.append(f"{slot}: {exc}")
                continue
            return bundle, "; ".join(problems)
        raise BundleRejected("every bundle on this device", "; ".join(problems))

    @property
    def running(self) -> ModelRef:
        """The verified bundle that runs; during a trial still the one before."""
        return self._running

    @property
    def step(self) -> Step:
        return Step(self.memory.get("step", Step.ACTIVE))

    @property
    def assignment(self) -> Assignment | None:
        raw = self.memory.get("assignment")
        return Assignment.model_validate(raw) if raw else None

    # -- the thread ---------------------------------------------------------------------------------------------

    def offer(self, message: Offer | Chunk) -> None:
        """Take a message from the server; a flood is dropped, for both kinds are asked for or sent again."""
        try:
            self._inbox.put_nowait(message)
        except queue.Full:
            self.refused_offers += 1

    def loop(self) -> None:
        """Until `stop`."""
        while not self._stop.is_set():
            try:
                message: Offer | Chunk | None = self._inbox.get(timeout=0.1)
            except queue.Empty:
                message = None
            self.turn(message)

    def stop(self) -> None:
        self._stop.set()

    def turn(self, message: Offer | Chunk | None = None) -> None:
        """One turn of the loop: at most one message, then whatever the present step allows."""
        if isinstance(message, Offer):
            self._take_offer(message)
        elif isinstance(message, Chunk):
            self._take_chunk(message)
        if self.memory.get("go_back"):
            self.go_back(self.memory.get("go_back"))
        if self.step is Step.FETCHING:
            try:
                self._fetch_missing()
            except OSError as exc:  # a full disk is no reason to stop watching machines
                log.error("bundle can not be stored", extra={"reason": str(exc)})
                self._asked_at = self._clock.monotonic()
        if self.step is Step.CHECKING:
            self._check()
        if self.step is Step.TRIAL:
            self._judge()

    # -- offered ------------------------------------------------------------------------------------------------

    def _take_offer(self, offer: Offer) -> None:
        try:
            assignment, approval = self._opened(offer)
        except NotTrusted as exc:
            self.refused_offers += 1  # not a word to the server: this is not from it
            log.warning("offer refused", extra={"reason": str(exc)})
            return
        if assignment.sequence <= self.memory.get("sequence", 0):
            return  # a retained offer comes again with each connection
        if self.step in (Step.TRIAL, Step.FETCHING):
            self._take(Event.SUPERSEDED, "a newer assignment came")
        reason = self._forbidden(assignment, approval)
        if reason:
            step = STEPS[Step.OFFERED, Event.REFUSED]
        elif assignment.model.sha256 == self.memory.get("current"):
            step, reason = Step.ACTIVE, "it runs already"
        else:
            step = STEPS[Step.OFFERED, Event.ACCEPTED]
        self._tries, self._asked_at = 0, -math.inf
        self._remember(
            step,
            reason or "",
            assignment=assignment.model_dump(mode="json"),
            sequence=assignment.sequence,
            floor=self.memory.get("floor", 0) if step is Step.REJECTED else assignment.floor,
            barred=sorted({*self.memory.get("barred", []), *assignment.barred}),
            checks=0,
        )

    def _opened(self, offer: Offer) -> tuple[Assignment, Approval]:
        """Both documents, signed by whom they must be and about the same bytes. Raises NotTrusted."""
        if self._server is None or self._approvers is None:
            raise NotTrusted("no keys are configured, so nobody may send releases")
        assignment = self._server.open(Assignment, offer.assignment)
        if assignment.device != self.device:
            raise NotTrusted(f"the assignment is for {assignment.device}")
        approval = self._opened_approval(offer.approval)
        if approval.model != assignment.model or approval.size != assignment.size:
            raise NotTrusted("approval and assignment are not about the same release")
        return assignment, approval

    def _opened_approval(self, signed: Signed) -> Approval:
        assert self._approvers
        try:
            return self._approvers.open(Approval, signed)
        except NotTrusted:
            # The shipped baseline carries its own approval, with a key that signed nothing else.
            approval = baseline_keys().open(Approval, signed)
            if approval.model != self.baseline.ref:
                raise
            return approval

    def _forbidden(self, assignment: Assignment, approval: Approval) -> str | None:
        """Why this release may not even be fetched; None: it may."""
        model = assignment.model
        if model.version < (floor := max(self.memory.get("floor", 0), assignment.floor)):
            return f"version {model.version} is below the floor {floor}"
        if model.sha256 in {*self.memory.get("barred", []), *assignment.barred}:
            return "it is barred"
        if model.sha256 in self.memory.get("failed", []):
            return "it was sent away on this device before"
        if approval.size > MAX_BUNDLE:
            return f"{approval.size} bytes are more than {MAX_BUNDLE}"
        return None

    # -- fetching -----------------------------------------------------------------------------------------------

    def _fetch_missing(self) -> None:
        assignment = self.assignment
        assert assignment
        model = assignment.model
        if self.store.has(model.sha256):
            self._take(Event.FETCHED)
            return
        count = math.ceil(assignment.size / assignment.chunk_bytes)
        folder = self._part_folder(model)
        missing = [i for i in range(count) if not (folder / str(i)).exists()]
        if not missing:
            data = b"".join((folder / str(i)).read_bytes() for i in range(count))
            self._drop_parts()
            if digest(data) == model.sha256:
                self.store.save(data)
                self._take(Event.FETCHED)
                return
            self._tries += 1
            if self._tries >= FETCH_TRIES:
                self._take(Event.REFUSED, f"{self._tries} downloads were not the approved bytes")
        elif self._clock.monotonic() - self._asked_at > FETCH_AGAIN_S:
            self._asked_at = self._clock.monotonic()
            self._fetch(model.sha256, tuple(missing[:FETCH_AHEAD]))

    def _take_chunk(self, chunk: Chunk) -> None:
        assignment = self.assignment
        if self.step is not Step.FETCHING or assignment is None or chunk.sha256 != assignment.model.sha256:
            return
        count = math.ceil(assignment.size / assignment.chunk_bytes)
        last = assignment.size - (count - 1) * assignment.chunk_bytes
        size = last if chunk.index == count - 1 else assignment.chunk_bytes
        if chunk.index >= count or len(chunk.data) != size:
            self.refused_offers += 1
            return
        folder = self._part_folder(assignment.model)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / str(chunk.index)
        if not path.exists():
            try:
                write_whole(path, chunk.data)
            except OSError as exc:
                log.error("piece of a bundle can not be stored", extra={"reason": str(exc)})
                return
        if len(list(folder.iterdir())) % FETCH_AHEAD == 0:
            self._asked_at = -math.inf  # what was asked for is here: ask for more

    def _part_folder(self, model: ModelRef) -> Path:
        return self._parts / model.sha256

    def _drop_parts(self) -> None:
        for folder in self._parts.glob("*"):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    # -- checking -----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        assignment, checks = self.assignment, self.memory.get("checks", 0)
        assert assignment
        if checks >= MAX_CHECKS:
            self._take(Event.REFUSED, f"the agent ended {checks} times while it checked this release")
            return
        self.memory.set(checks=checks + 1)
        try:
            bundle = self.store.load(assignment.model.sha256)
            if bundle.ref != assignment.model:
                raise BundleRejected(bundle.ref.name, "it is not the version it was approved as")
            self._engine.check(bundle)
        except (BundleRejected, BadBundle) as exc:
            self._take(Event.REFUSED, str(exc))
            return
        known_good = assignment.mode == "rollback" and bundle.sha256 in self.memory.get("verified", [])
        if known_good:
            self._activate(bundle, Event.KNOWN_GOOD, "verified here before")
        else:
            self._take(Event.VERIFIED)
            self._trial_began = self._clock.monotonic()
            self._engine.try_out(bundle)

    # -- trial --------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        assignment, report = self.assignment, self._engine.trial()
        assert assignment
        if report is None:  # a restart came between; start_up has dealt with it
            return
        limits = assignment.trial
        reason = harm(report, self._engine.mean_shift(), limits)
        if reason is None and report.windows < limits.windows:
            if self._clock.monotonic() - self._trial_began > limits.max_seconds:
                reason = f"only {report.windows} of {limits.windows} windows came in {limits.max_seconds:g} s"
            else:
                return
        if reason:
            self._engine.end_trial()
            failed = sorted({*self.memory.get("failed", []), assignment.model.sha256})
            self._take(Event.WORSE, reason, report, failed=failed)
        else:
            self._activate(self.store.load(assignment.model.sha256), Event.HEALTHY, "no limit was crossed", report)

    def _activate(self, bundle: Bundle, event: Event, reason: str, report: TrialReport | None = None) -> None:
        verified = sorted({*self.memory.get("verified", []), bundle.sha256})
        self._running = bundle.ref
        self._take(event, reason, report, current=bundle.sha256, previous=self.memory.get("current"), verified=verified)
        self._engine.run(bundle)
        self.store.keep_only([bundle.sha256, self.memory.get("previous"), self.baseline.sha256])

    # -- back ---------------------------------------------------------------------------------------------------

    def go_back(self, reason: str) -> ModelRef:
        """Return to the bundle before, at once and without a network; the one left is not taken again."""
        failed = {*self.memory.get("failed", [])}
        if self.step is Step.TRIAL:  # the one before still runs: only the candidate goes
            left = [self.assignment.model.sha256] if self.assignment else []
            self._take(Event.SUPERSEDED, reason, failed=sorted(failed | {*left}), go_back=None)
            return self.running
        left_ref = self.running
        for sha256 in (self.memory.get("previous"), self.baseline.sha256):
            if sha256 in {left_ref.sha256, *failed, *self.memory.get("barred", [])}:
                continue
            try:
                bundle = self.baseline if sha256 == self.baseline.sha256 else self.store.load(sha256)
                self._engine.check(bundle)
            except BundleRejected as exc:
                log.error("bundle not usable", extra={"sha256": sha256, "reason": str(exc)})
                continue
            self._engine.run(bundle)
            self._running = bundle.ref
            failed |= {left_ref.sha256} - {self.baseline.sha256}  # the last way back stays open
            self._remember(
                Step.ROLLED_BACK,
                reason,
                release=left_ref,
                current=sha256,
                previous=self.baseline.sha256,
                failed=sorted(failed),
                go_back=None,
            )
            return bundle.ref
        self.memory.set(go_back=None)
        return self.running

    # -- steps --------------------------------------------------------------------------------------------------

    def _take(self, event: Event, reason: str = "", report: TrialReport | None = None, **values: Any) -> None:
        step = STEPS[self.step, event]
        if event is Event.SUPERSEDED and self.step is Step.TRIAL:
            self._engine.end_trial()
        self._remember(step, reason, report, **values)

    def _remember(
        self,
        step: Step,
        reason: str = "",
        report: TrialReport | None = None,
        release: ModelRef | None = None,
        **values: Any,
    ) -> None:
        """On disk first, then told, then done by whoever called. What a cut left untold is told at the start."""
        raw = values.get("assignment") or self.memory.get("assignment")
        assignment = Assignment.model_validate(raw) if raw else None
        if release is None:
            release = assignment.model if assignment else self.running
        about = assignment if assignment and assignment.model == release else None
        status = RolloutStatus(
            trace_id=new_trace_id(),
            made_at=self._clock.now(),
            assignment=about.sequence if about else 0,
            rollout=about.rollout if about else None,
            release=release,
            step=step,
            reason=reason[:500],
            running=self.running,
            report=report,
        )
        self.memory.set(step=step, untold=status.model_dump(mode="json"), **values)
        crash_point(f"rollout.{step}")
        log.info("rollout step", extra={"step": step.value, "reason": reason})
        self._tell()

    def _tell(self) -> None:
        if untold := self.memory.get("untold"):
            self._put([RolloutStatus.model_validate(untold)])
            self.memory.set(untold=None)


def harm(report: TrialReport, mean_shift: float, limits: TrialLimits) -> str | None:
    """Which limit the trial has crossed; None: none so far. Nothing is said before a quarter of the windows is in."""
    if report.non_finite:
        return f"{report.non_finite} scores were not numbers"
    if report.windows < max(MIN_HARM_WINDOWS, limits.windows // 4):
        return None
    candidate, previous = report.candidate_alarm_share, report.previous_alarm_share
    if candidate > previous * limits.alarm_ratio and candidate - previous > limits.alarm_margin:
        return f"alarms on {candidate:.0%} of {report.windows} windows, the model before on {previous:.0%}"
    if abs(mean_shift) > limits.mean_score_shift:
        return f"on windows that alarm nobody, scores differ by {mean_shift:+.2f} on average from the model before"
    if report.windows >= limits.windows and report.candidate_spread == 0:
        return f"the same score for each of {report.windows} windows: it looks at nothing"
    slack = limits.latency_slack_us
    if report.candidate_latency_us > report.previous_latency_us * limits.latency_ratio + slack:
        return (
            f"takes {report.candidate_latency_us:.0f} us a window, the model before {report.previous_latency_us:.0f} us"
        )
    return None
