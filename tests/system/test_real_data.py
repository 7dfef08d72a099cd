"""SKAB, a public benchmark of a water pump, through the agent and through the whole loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleet_server.store import ledger
from fleet_server.store.pool import connect
from models.bundle.signing import SigningKey
from simulators.embedded.broker import Broker
from simulators.embedded.processes import Process, free_port, http_ready
from tests.support import eventually

ROOT = Path(__file__).parents[2]


def test_the_shipped_baseline_on_skab_by_the_protocol_of_its_leaderboard(
    pdm_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "edge_agent", "evaluate", "--config", "docs/examples/skab.toml", "--json"]
    env = {**os.environ, "PDM_DATA": str(pdm_data)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    total = json.loads(done.stdout)["total"]
    with capsys.disabled():
        print(
            f"\nSKAB, shipped baseline: F1 {total['f1']:.3f}, false alarms {total['false_alarm_rate']:.1%},"
            f" missing alarms {total['missing_alarm_rate']:.1%} of {total['points']} points"
        )
    assert total["points"] == 23801  # every test row of the 34 files: none is left out to look better
    assert total["anomalous"] == 12771
    assert total["f1"] >= 0.78
    assert total["false_alarm_rate"] <= 0.16


@pytest.mark.timeout(180)
def test_skab_runs_through_the_real_loop(
    pdm_data: Path, plain_database: str, own_broker: Broker, tmp_path: Path
) -> None:
    key = SigningKey.generate()
    key.write(tmp_path / "server.pem")
    port = free_port()
    (tmp_path / "server.toml").write_text(
        f'database = "{plain_database}"\n[broker]\nport = {own_broker.port}\n[keys]\nserver = "server.pem"\n'
        f'[web]\nport = {port}\n[retrain]\nmode = "off"\n'
    )
    example = (ROOT / "docs/examples/skab.toml").read_text()
    fleet = f"[broker]\nport = {own_broker.port}\n[uplink]\ntelemetry_every_s = 0.5\n"
    fleet += '[trust]\nserver_keys = ["server.pem.pub"]\n[form]\nport = -1\n'
    example = example.replace('state_dir = "../../build/skab-state"', 'state_dir = "state"\nheartbeat_s = 1.0')
    (tmp_path / "agent.toml").write_text(example.replace("[[asset]]", fleet + "[[asset]]"))
    python = [sys.executable, "-m"]
    server = Process(
        "server",
        [*python, "fleet_server", "serve", "--config", str(tmp_path / "server.toml")],
        log=tmp_path / "server.log",
        ready=lambda: http_ready(f"http://127.0.0.1:{port}/ready"),
    )
    agent = Process(
        "agent",
        [*python, "edge_agent", "run", "--config", str(tmp_path / "agent.toml")],
        log=tmp_path / "agent.log",
        env={"PDM_DATA": str(pdm_data)},
    )
    try:
        server.start()
        agent.start()
        eventually(lambda: "the recordings have ended" in agent.tail(), timeout=90, message=agent.tail())

        def told() -> dict[str, int] | None:
            with connect(plain_database) as conn:
                account = ledger.statement(ledger.account(conn))
            totals: dict[str, int] = account["totals"]
            return totals if account["closed"] and totals["produced"] and not totals["waiting"] else None

        totals = eventually(told, timeout=60, message="the ledger does not close")
        with connect(plain_database) as conn:
            alarms, raised, windows = conn.execute(
                "SELECT count(*), coalesce(sum(repeats), 0), (SELECT count(*) FROM prediction) FROM event"
            ).fetchone() or (0, 0, 0)
        said = sum((tmp_path / "agent.log").read_text().count(word) for word in (" ALARM ", " SENSOR raised "))
        print(f"SKAB through the loop: {windows} windows, {alarms} alarms, {totals}")
        assert raised == said > 20
        assert windows > 20_000
        assert totals["quarantined"] == 0
    finally:
        agent.stop()
        server.stop()
