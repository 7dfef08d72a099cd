"""The thread that decides when to retrain, and has it done. Every decision is on record, yes and no."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fleet_server.config import Config, Retrain
from fleet_server.learning.workflow import Workflows, request
from fleet_server.loop import Loop
from fleet_server.release.lead import Lead
from fleet_server.store import datasets, decisions, runs
from fleet_server.store.pool import Pool


@dataclass(frozen=True)
class Facts:
    """What the rule looks at."""

    new_labels: int
    references: int
    last_ended: datetime | None


@dataclass(frozen=True)
class Trigger:
    """`kind` is the same for the same reason, `reason` has the figures."""

    go: bool
    kind: str
    reason: str


def decide(facts: Facts, rule: Retrain, now: datetime) -> Trigger:
    """Whether to retrain now."""
    if rule.mode == "off":
        return Trigger(False, "off", "retraining is switched off")
    if facts.new_labels < rule.min_new_labels:
        return Trigger(False, "labels", f"{facts.new_labels} new labels, {rule.min_new_labels} are wanted")
    if facts.references < rule.min_reference:
        return Trigger(False, "reference", f"{facts.references} reference windows, {rule.min_reference} are wanted")
    if facts.last_ended and now - facts.last_ended < timedelta(seconds=rule.cool_down_s):
        return Trigger(False, "cool-down", f"the last run ended less than {rule.cool_down_s:g} s ago")
    return Trigger(True, "labels", f"{facts.new_labels} new labels, {facts.references} reference windows")


class LearningLoop(Loop):
    """Every `check_every_s`: begin what was asked for, tidy up what ended badly, and decide."""

    def __init__(self, config: Config, pool: Pool) -> None:
        super().__init__("learning", config.retrain.check_every_s)
        self._config, self._pool = config, pool
        self._rule = config.retrain
        self._lead = Lead(pool, "learning")
        self._workflows: Workflows | None = None
        self._last_no = ""

    def stop(self) -> None:
        """Ends the thread. A run that is cut off goes on at the next start."""
        super().stop()
        self._close()
        self._lead.give_up()

    def turn(self) -> None:
        """One turn. Raises what the database raises."""
        try:
            leads = self._lead.held()
        except Exception:
            self._close()  # another server may have taken over already
            raise
        if not leads:
            return
        if self._workflows is None:
            self._workflows = Workflows(self._config, self._pool)
        busy = self._tend(self._workflows)
        with self._pool.connection() as conn:
            if busy or runs.unfinished(conn):
                return
            last = runs.newest_ended(conn, self._rule.model)
            facts = Facts(
                datasets.new_labels(conn, self._rule.model),
                datasets.reference_samples(conn),
                last.ended_at if last else None,
            )
            trigger = decide(facts, self._rule, datetime.now(UTC))
            if trigger.go or trigger.kind != self._last_no:
                inputs: dict[str, Any] = {**vars(facts), "last_ended": last and last.run_id}
                outcome = ("proposed" if self._rule.mode == "ask" else "started") if trigger.go else "not now"
                decisions.record(
                    conn,
                    kind="trigger",
                    subject=self._rule.model,
                    outcome=outcome,
                    reason=trigger.reason,
                    inputs=inputs,
                )
            self._last_no = "" if trigger.go else trigger.kind
            if trigger.go:
                request(conn, self._rule.model, trigger.reason, proposed=self._rule.mode == "ask")
        if trigger.go:
            self._tend(self._workflows)

    def _tend(self, workflows: Workflows) -> bool:
        """Begin the oldest request, end what no workflow works on any more; True: one is at work."""
        with self._pool.connection() as conn:
            open_runs = runs.unfinished(conn)
        wanted = [run.run_id for run in open_runs if run.state in ("running", "requested")]
        for run_id in wanted:
            if workflows.is_over(run_id):
                workflows.steps.fail(run_id, "its workflow ended without a word")
            else:
                workflows.start(run_id)  # one at a time; one that is at work already goes on as it is
                return True
        return False

    def _close(self) -> None:
        if self._workflows is not None:
            workflows, self._workflows = self._workflows, None
            workflows.close()
