"""The steps of a retraining: dataset, train, export, gate, candidate. Each can be done again after a crash in it.

A run's state is in its row. A bundle is stored in one transaction with its gate's report, in the last step: there is no
moment at which a release without a report exists.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from fleet_server.config import Config
from fleet_server.errors import NotFound, Refused
from fleet_server.learning import dataset, gate, rows
from fleet_server.learning.dataset import Dataset
from fleet_server.release import registry
from fleet_server.store import bundles, datasets, decisions, maintenance, runs
from fleet_server.store.datasets import DatasetRow
from fleet_server.store.pool import Connection, Pool
from fleet_server.store.runs import RunRow
from models.bundle.files import unpack
from models.bundle.manifest import Origin
from models.crash_points import crash_point

if TYPE_CHECKING:
    from fleet_server.learning.training import Fitted

log = logging.getLogger(__name__)

MAX_SAMPLES: Final = 200_000  # the newest; an older window says little of the machine as it is


class Steps:
    """The steps, with what is kept in memory between them. What is not there any more is made again, the same."""

    def __init__(self, config: Config, pool: Pool) -> None:
        self._config, self._pool = config, pool
        self._trained: tuple[str, Dataset, Fitted] | None = None

    def dataset(self, run_id: str) -> str:
        """Freeze what is known now; the dataset's hash."""
        with self._pool.connection() as conn:
            run = _run(conn, run_id)
            sha256 = run.dataset
            if sha256 is None:
                runs.set_step(conn, run_id, "dataset")
                sha256 = freeze(conn, run.model).sha256
                runs.set_dataset(conn, run_id, sha256)
            runs.set_step(conn, run_id, "train")
        crash_point("train.dataset")
        return sha256

    def train(self, run_id: str) -> dict[str, Any]:
        """Fit the models; what came out, in figures."""
        fitted = self._fitted(run_id)[1]
        with self._pool.connection() as conn:
            runs.set_step(conn, run_id, "export")
        crash_point("train.train")
        return fitted.facts

    def export(self, run_id: str) -> bytes:
        """The bundle's bytes."""
        from fleet_server.learning import export  # with its converters; a server that only stores does without

        data, fitted = self._fitted(run_id)
        with self._pool.connection() as conn:
            run = _run(conn, run_id)
            version = runs.set_version(conn, run_id, bundles.next_version(conn, run.model))
        origin = Origin(
            trained_on="fleet",
            dataset=data.sha256,
            run=run_id,
            windows=int((~data.holdout).sum()),
            labels=int(data.summary["labels"]),
            note=run.cause[:500],
        )
        said = export.Said(run.model, version, run.started_at, origin, asset_kind=run.model)
        bundle, proof = export.export(fitted, data, said)
        log.info("exported", extra={"run": run_id, "version": version, **proof})
        with self._pool.connection() as conn:
            runs.set_step(conn, run_id, "gate")
        crash_point("train.export")
        return bundle.data

    def gate(self, run_id: str, data: bytes) -> dict[str, Any]:
        """Judge the bundle against what most devices run."""
        with self._pool.connection() as conn:
            run = _run(conn, run_id)
            assert run.dataset is not None, "the dataset step comes first"
            content = datasets.content(conn, run.dataset)
            current = registry.current(conn)
            current_data = bundles.data(conn, current.sha256) if current else None
        assert content is not None, "datasets are never deleted"
        report = gate.judge(dataset.load(content), unpack(data), unpack(current_data) if current_data else None)
        with self._pool.connection() as conn:
            runs.set_step(conn, run_id, "candidate")
        crash_point("train.gate")
        return report

    def candidate(self, run_id: str, data: bytes, report: dict[str, Any], facts: dict[str, Any]) -> str:
        """Store bundle, report and decision, and end the run; its state."""
        state = "candidate" if report["verdict"] == "pass" else "refused"
        with self._pool.connection() as conn:
            run = _run(conn, run_id)
            if run.ended_at is None:
                bundle = unpack(data)
                registry.register(
                    conn,
                    bundle,
                    state=state,
                    run_id=run_id,
                    dataset=run.dataset,
                    gate=report | {"training": facts},
                )
                runs.finish(conn, run_id, state, f"{report['verdict']}: {report['summary']}", datetime.now(UTC))
                decisions.record(
                    conn,
                    kind="gate",
                    subject=f"{run.model} {bundle.manifest.version}",
                    outcome=report["verdict"],
                    reason="; ".join(report["reasons"]),
                    inputs={
                        "run": run_id,
                        "dataset": run.dataset,
                        "sha256": bundle.sha256,
                        "summary": report["summary"],
                    },
                )
        crash_point("train.candidate")
        return state

    def fail(self, run_id: str, reason: str) -> str:
        """End a run that cannot go on."""
        with self._pool.connection() as conn:
            run = _run(conn, run_id)
            if runs.finish(conn, run_id, "failed", reason, datetime.now(UTC)):
                decisions.record(
                    conn,
                    kind="gate",
                    subject=run.model,
                    outcome="no candidate",
                    reason=reason,
                    inputs={"run": run_id, "step": run.step},
                )
        return "failed"

    def _fitted(self, run_id: str) -> tuple[Dataset, Fitted]:
        from fleet_server.learning import training  # scikit-learn takes a second to load: not at the server's start

        with self._pool.connection() as conn:
            sha256 = _run(conn, run_id).dataset
            assert sha256 is not None, "the dataset step comes first"
            if self._trained is None or self._trained[0] != sha256:
                content = datasets.content(conn, sha256)
                assert content is not None, "datasets are never deleted"
                data = dataset.load(content)
            else:
                return self._trained[1], self._trained[2]
        fitted = training.fit(data)
        self._trained = (sha256, data, fitted)
        return data, fitted


def freeze(conn: Connection, model: str) -> Dataset:
    """The dataset of what is stored now, kept under its hash.

    Raises:
        Refused: nothing that may train is stored.
    """
    chosen = rows.choose(
        datasets.samples(conn, MAX_SAMPLES),
        datasets.episodes(conn),
        datasets.accepted_labels(conn),
        datasets.asset_settings(conn),
        maintenance.listing(conn, limit=MAX_SAMPLES),
    )
    data = dataset.assemble(
        chosen.rows, chosen.names, chosen.window, chosen.signals, notes={"left_out": chosen.left_out}
    )
    row = DatasetRow(data.sha256, datetime.now(UTC), model, data.summary, chosen.label_ids)
    datasets.insert(conn, row, dataset.dump(data))
    return data


def _run(conn: Connection, run_id: str) -> RunRow:
    run = runs.get(conn, run_id)
    if run is None:
        raise NotFound(f"there is no training run {run_id}")
    if run.state == "failed":
        raise Refused(f"training run {run_id} has failed: {run.reason}")
    return run
