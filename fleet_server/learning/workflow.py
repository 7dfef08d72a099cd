"""The steps as a durable workflow: killed anywhere, the next start goes on with the step that was not done.

DBOS keeps its own tables in the schema `dbos` of the same database. One process at a time may have it open: who holds
the lead for "learning".
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from typing import Any, Final

from dbos import DBOS, DBOSConfig, SetWorkflowID

from fleet_server.config import Config
from fleet_server.errors import FleetError
from fleet_server.learning.steps import Steps
from fleet_server.store import runs
from fleet_server.store.pool import Connection, Pool, Trouble, trouble
from models.contract.ids import new_trace_id

log = logging.getLogger(__name__)

STEPS_VERSION: Final = "1"  # raised when the order of steps changes: a run begun under another is not resumed
_ALIVE: Final = ("PENDING", "ENQUEUED", "DELAYED")
_open: Workflows | None = None


class Workflows:
    """DBOS, launched: it resumes at once what was cut off."""

    def __init__(self, config: Config, pool: Pool) -> None:
        global _open
        assert _open is None, "one at a time in a process"
        self.steps, self._pool = Steps(config, pool), pool
        self.stopping = threading.Event()
        _open = self
        logging.getLogger("dbos").setLevel(logging.WARNING)
        DBOS(
            config=DBOSConfig(
                name="fleet-server",
                system_database_url=runs.workflow_url(config.database),
                dbos_system_schema="dbos",
                application_version=STEPS_VERSION,
                executor_id="fleet-server",
                log_level="WARNING",
                enable_otlp=False,
                sys_db_pool_size=4,
            )
        )
        try:
            DBOS.launch()
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """A step that runs is given a little time; what is not done is resumed at the next start."""
        global _open
        self.stopping.set()
        try:
            active = bool(DBOS.list_workflows(status=list(_ALIVE), load_input=False, load_output=False))
        except Exception:  # the database is away: there is nothing to wait for
            active = False
        DBOS.destroy(workflow_completion_timeout_sec=10 if active else 0)
        _open = None

    def start(self, run_id: str) -> None:
        """Begin this run; a second time changes nothing."""
        with SetWorkflowID(run_id):
            DBOS.start_workflow(retrain, run_id)

    def is_over(self, run_id: str) -> bool:
        """True: it was begun and has ended, one way or another."""
        status = DBOS.get_workflow_status(run_id)
        return status is not None and status.status not in _ALIVE

    def wait(self, run_id: str) -> None:
        """Until it has ended."""
        DBOS.retrieve_workflow(run_id).get_result()


def request(conn: Connection, model: str, cause: str, *, proposed: bool = False) -> str:
    """Write down that a model shall be retrained; whoever leads begins it. What was proposed already is agreed to, what
    is on its way already is not asked for twice. The run's id."""
    for run in runs.unfinished(conn):
        if run.model == model:
            if run.state == "proposed" and not proposed:
                runs.set_state(conn, run.run_id, "requested")
            return run.run_id
    run_id = f"{model}-{new_trace_id()}"
    runs.insert(conn, run_id, model, datetime.now(UTC), "proposed" if proposed else "requested", cause)
    return run_id


def _steps() -> Steps:
    assert _open is not None, "workflows run only while they are open"
    return _open.steps


@DBOS.workflow(name="retrain")
def retrain(run_id: str) -> str:
    """A retraining from data to candidate; the run's last state."""
    try:
        _dataset(run_id)
        facts = _train(run_id)
        data = _export(run_id)
        report = _gate(run_id, data)
        return _candidate(run_id, data, report, facts)
    except Exception as exc:
        if _open is None or _open.stopping.is_set():
            raise
        if not isinstance(exc, FleetError):
            log.exception("training failed", extra={"run": run_id})
        return _fail(run_id, str(exc) if isinstance(exc, FleetError) else f"{type(exc).__name__}: {exc}"[:500])


def _worth_a_retry(exc: BaseException) -> bool:
    """The database may come back; a refusal stays one."""
    return trouble(exc) is not Trouble.INPUT


_step: Any = {"retries_allowed": True, "max_attempts": 6, "interval_seconds": 1.0, "should_retry": _worth_a_retry}


@DBOS.step(name="dataset", **_step)
def _dataset(run_id: str) -> str:
    return _steps().dataset(run_id)


@DBOS.step(name="train", **_step)
def _train(run_id: str) -> dict[str, Any]:
    return _steps().train(run_id)


@DBOS.step(name="export", **_step)
def _export(run_id: str) -> bytes:
    return _steps().export(run_id)


@DBOS.step(name="gate", **_step)
def _gate(run_id: str, data: bytes) -> dict[str, Any]:
    return _steps().gate(run_id, data)


@DBOS.step(name="candidate", **_step)
def _candidate(run_id: str, data: bytes, report: dict[str, Any], facts: dict[str, Any]) -> str:
    return _steps().candidate(run_id, data, report, facts)


@DBOS.step(name="fail", **_step)
def _fail(run_id: str, reason: str) -> str:
    return _steps().fail(run_id, reason)
