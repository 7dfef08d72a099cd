"""The retraining on a real database: from rows to a candidate, and through a kill -9 at each step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet_server.config import Config, load
from fleet_server.learning import dataset, steps
from fleet_server.learning.loop import LearningLoop
from fleet_server.learning.workflow import request
from fleet_server.release import registry
from fleet_server.store import bundles, datasets, decisions, runs
from fleet_server.store.migrate import migrate
from fleet_server.store.pool import Pool, connect, open_pool
from models.bundle.files import unpack
from models.bundle.signing import SigningKey
from models.crash_points import VARIABLE
from tests import fleet_rows
from tests.support import eventually

KILLED_IN = ("dataset", "train", "export", "gate", "candidate")  # in this order
PROGRAM = """
import argparse, sys
from fleet_server.learning.commands import add_commands
parser = argparse.ArgumentParser()
add_commands(parser.add_subparsers())
args = parser.parse_args()
sys.exit(args.run(args))
"""


@pytest.fixture
def server(plain_database: str, tmp_path: Path) -> Path:
    """The configuration of a server whose fleet has labels enough for a retraining."""
    SigningKey.generate().write(tmp_path / "server.pem")
    file = tmp_path / "server.toml"
    file.write_text(
        f"""
database = "{plain_database}"
[keys]
server = "server.pem"
[retrain]
min_new_labels = 10
min_reference = 100
cool_down_s = 0
check_every_s = 0.1
"""
    )
    migrate(connect(plain_database))
    with connect(plain_database) as conn:
        fleet_rows.fill(conn)
        registry.register_shipped(conn)
    return file


@pytest.fixture
def config(server: Path) -> Config:
    return load(server)


@pytest.fixture
def pool(config: Config) -> Iterator[Pool]:
    opened = open_pool(config.database)
    yield opened
    opened.close()


def ended(pool: Pool, run_id: str | None = None) -> runs.RunRow | None:
    """The run, once it has ended. A short transaction each time: a long one would hold up DBOS, which makes indexes."""
    with pool.connection() as conn:
        found = runs.get(conn, run_id) if run_id else next(iter(runs.listing(conn)), None)
    return found if found and found.ended_at else None


def outcomes(pool: Pool, kind: str) -> list[str]:
    with pool.connection() as conn:
        return [each.outcome for each in decisions.listing(conn, kind)]


def train(server: Path, crash_at: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", PROGRAM, "train", "--config", str(server), "--wait", "--json"]
    env = os.environ | {VARIABLE: crash_at}
    return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120, check=False)


def test_the_loop_trains_by_itself_and_says_why(config: Config, pool: Pool) -> None:
    loop = LearningLoop(config, pool)
    loop.start()
    try:
        run = eventually(lambda: ended(pool), timeout=60)
        # The new labels are used up, which is a decision too.
        eventually(lambda: "not now" in outcomes(pool, "trigger"))
    finally:
        loop.stop()
    assert run.state == "candidate", run.reason
    assert "started" in outcomes(pool, "trigger")
    assert outcomes(pool, "gate") == ["pass"]
    with pool.connection() as conn:
        row = bundles.get(conn, "pump", run.version or 0)
        assert row is not None
        assert row.gate is not None
        assert (row.state, row.gate["verdict"], row.version) == ("candidate", "pass", 2)
        assert row.gate["how"]["current"] == "scores recorded when version 1 ran"
        frozen = datasets.get(conn, run.dataset or "")
        assert frozen is not None
        assert len(frozen.label_ids) == 20
        made = unpack(bundles.data(conn, row.sha256) or b"")
        assert made.manifest.origin.dataset == run.dataset
        assert made.manifest.window == fleet_rows.WINDOW


def test_the_same_rows_are_the_same_dataset(config: Config, pool: Pool) -> None:
    with pool.connection() as conn:
        first, second = steps.freeze(conn, "pump"), steps.freeze(conn, "pump")
        assert first.sha256 == second.sha256
        assert len(datasets.listing(conn)) == 1
        content = datasets.content(conn, first.sha256)
    assert content is not None
    assert dataset.load(content).sha256 == first.sha256


def test_a_run_killed_in_each_step_goes_on_and_leaves_no_release_without_a_report(server: Path, config: Config) -> None:
    """In one step after the other, each time by whoever took the run up again."""
    for step in KILLED_IN:
        killed = train(server, crash_at=f"train.{step}")
        assert killed.returncode == -signal.SIGKILL, f"{step}: {killed.stderr}"
        with connect(config.database) as conn:
            assert all(row.gate is not None for row in bundles.listing(conn) if row.state != "shipped")
            (run,) = runs.listing(conn)
        if step == "candidate":  # its transaction was committed: the run has ended, only the workflow does not know
            assert run.state == "candidate"
        else:
            assert run.ended_at is None, step
    with connect(config.database) as conn:
        assert len(datasets.listing(conn)) == 1
        made = [row for row in bundles.listing(conn) if row.state != "shipped"]
        assert [(row.version, row.state) for row in made] == [(2, "candidate")]
        assert made[0].gate is not None
        assert made[0].gate["verdict"] == "pass"


def test_two_servers_do_not_train_the_same(config: Config, pool: Pool) -> None:
    first, second = LearningLoop(config, pool), LearningLoop(config, pool)
    first.turn()
    try:
        second.turn()  # has not the lead: opens no workflow, decides nothing
        assert outcomes(pool, "trigger") == ["started"]
        eventually(lambda: ended(pool), timeout=60)
        with pool.connection() as conn:
            assert len(runs.listing(conn)) == 1
    finally:
        first.stop()
        second.stop()


def test_a_run_that_cannot_train_fails_with_its_reason(config: Config, pool: Pool) -> None:
    with pool.connection() as conn:
        conn.execute(
            "UPDATE device SET heartbeat = jsonb_set(heartbeat, '{assets,pump3,window,hop}', '128')"
            " WHERE device_id = 'plant1.gw3'"
        )
        run_id = request(conn, "pump", "a test")
        assert request(conn, "pump", "asked for twice") == run_id
    loop = LearningLoop(config, pool)
    try:
        loop.turn()
        run = eventually(lambda: ended(pool, run_id), timeout=60)
        assert run.state == "failed"
        assert "cut their windows differently" in run.reason
        with pool.connection() as conn:
            assert [row.state for row in bundles.listing(conn)] == ["shipped"]
    finally:
        loop.stop()


def test_asking_first_waits_for_a_yes(config: Config, pool: Pool) -> None:
    asking = config.model_copy(update={"retrain": config.retrain.model_copy(update={"mode": "ask"})})
    loop = LearningLoop(asking, pool)
    try:
        loop.turn()
        loop.turn()
        assert outcomes(pool, "trigger") == ["proposed"]
        with pool.connection() as conn:
            assert [run.state for run in runs.listing(conn)] == ["proposed"]
            request(conn, "pump", "yes")
        loop.turn()
        assert eventually(lambda: ended(pool), timeout=60).state == "candidate"
    finally:
        loop.stop()
