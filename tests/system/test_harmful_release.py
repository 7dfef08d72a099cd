"""A release that does harm, on a real agent that nobody can reach any more."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.bundles import Memory
from fleet_server.cli import main as server_main
from fleet_server.config import Rollouts
from fleet_server.release import registry, rollouts
from fleet_server.release.publisher import Publisher
from fleet_server.store import rollouts as stored
from models.bundle.files import Bundle
from models.bundle.signing import PublicKeys, public_pem
from models.contract.codec import dump
from models.contract.messages import Chunk
from models.contract.release import TrialLimits
from simulators.embedded.broker import Broker
from simulators.embedded.processes import Process
from tests.builders import Fleet, a_bundle
from tests.faults.figures import Measured
from tests.receiver import Receiver
from tests.services.station import Station
from tests.support import eventually

CONFIG = """
device = "{device}"
baseline = "old.bundle"
state_dir = "state"
[broker]
port = {port}
[trust]
server_keys = ["server.pub"]
approval_keys = ["approval.pub"]
[form]
port = -1
[[asset]]
id = "pump1"
source = "csv"
[asset.csv]
path = "recording.csv"
speed = 20
[asset.csv.recording]
rate_hz = 100.0
"""


def write_device(folder: Path, fleet: Fleet, port: int, old: Bundle) -> Process:
    """An agent with a quiet machine and that bundle."""
    (folder / "old.bundle").write_bytes(old.data)
    (folder / "server.pub").write_bytes(public_pem(fleet.server.public))
    (folder / "approval.pub").write_bytes(public_pem(fleet.approver.public))
    (folder / "agent.toml").write_text(CONFIG.format(device=fleet.device, port=port))
    quiet = 0.1 * np.random.default_rng(1).standard_normal(200_000)
    (folder / "recording.csv").write_text("\n".join(["vib", *(f"{v:.4f}" for v in quiet)]))
    command = [sys.executable, "-m", "edge_agent", "run", "--config", str(folder / "agent.toml")]
    return Process("agent", command, log=folder / "agent.log")


def test_with_server_and_broker_gone_it_is_never_verified_and_the_one_before_runs(
    own_broker: Broker, tmp_path: Path
) -> None:
    fleet = Fleet(f"test.{uuid.uuid4().hex[:12]}")
    old, harmful = a_bundle(1), a_bundle(2, limit=0.01)
    agent = write_device(tmp_path, fleet, own_broker.port, old)
    memory = Memory(tmp_path / "state")
    try:
        agent.start()
        with Receiver(own_broker.port, tmp_path / "received.db", fleet) as server:
            eventually(lambda: "connected to the broker" in agent.tail(), timeout=30, message=agent.tail())
            server.publish("offer", dump(fleet.offer(harmful)))
            size = 1024
            count = -(-len(harmful.data) // size)
            eventually(lambda: server.fetches, timeout=20, message="the pieces are not asked for")
            for i in range(count):
                piece = base64.b64encode(harmful.data[i * size : (i + 1) * size])
                server.publish("chunk", dump(Chunk(sha256=harmful.sha256, index=i, count=count, data=piece)))
            eventually(lambda: memory.get("step") not in ("fetching", "checking"), timeout=20)
        own_broker.kill()
        eventually(lambda: memory.get("step") == "rolled_back", timeout=30, message="it is still there")
        assert memory.get("current") == old.sha256
        assert harmful.sha256 not in memory.get("verified")
        assert harmful.sha256 in memory.get("failed")
        agent.kill()
        agent.start()
        eventually(lambda: shown(tmp_path)["agent"] == "running", timeout=20)
        assert shown(tmp_path)["current"] == old.sha256
    finally:
        agent.stop()
        memory.close()


def test_the_server_shows_the_cause_in_numbers_once_the_device_is_back(
    own_broker: Broker, plain_database: str, tmp_path: Path, measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(f"test.{uuid.uuid4().hex[:12]}")
    old, harmful = a_bundle(1), a_bundle(2, limit=0.01)
    fleet.server.write(tmp_path / "server.pem")
    (tmp_path / "server.toml").write_text(f'database = "{plain_database}"\n[keys]\nserver = "server.pem"\n')
    rules = Rollouts(soak_s=0, trial=TrialLimits(windows=400, max_seconds=600))
    station = Station(plain_database, own_broker, fleet.server).start()
    publisher = Publisher(station.pool, station.subscriber.publish)
    agent = write_device(tmp_path, fleet, own_broker.port, old)
    memory = Memory(tmp_path / "state")

    def turn() -> None:
        """The server's release loop, and its answers to who asks for pieces."""
        with station.pool.connection() as conn:
            rollouts.advance(conn, rules, fleet.server)
        publisher.publish_new()
        while station.fetched:
            publisher.handle_fetch(*station.fetched.pop())

    def show() -> dict[str, Any]:
        """What `fleet-server rollout show` says."""
        assert server_main(["rollout", "show", "--json", "--config", str(tmp_path / "server.toml")]) == 0
        shown: dict[str, Any] = json.loads(capsys.readouterr().out)
        return shown

    def known() -> bool:
        with station.pool.connection() as conn:
            return any(row.device_id == fleet.device and row.model_sha256 for row in stored.fleet(conn))

    try:
        agent.start()
        eventually(known, timeout=60, message=agent.tail())
        with station.pool.connection() as conn:
            for bundle in (old, harmful):
                row = registry.register(conn, bundle, state="candidate", gate={"verdict": "pass", "summary": ""})
                registry.approve(
                    conn, fleet.approver.sign(registry.document(row, "Olga", "")), PublicKeys([fleet.approver.public])
                )
            rollouts.start(conn, rollouts.preview(conn, registry.find(conn, 2, "pump"), "1"))
        eventually(lambda: (turn(), memory.get("step") in ("checking", "trial"))[1], timeout=60, message=agent.tail())
        own_broker.kill()
        began = time.monotonic()
        eventually(lambda: memory.get("step") == "rolled_back", timeout=60, message=agent.tail())
        took = time.monotonic() - began
        assert memory.get("current") == old.sha256
        (waiting,) = show()["devices"]
        assert waiting["standing"] == "waiting"  # the server knows nothing of it yet
        own_broker.start()
        eventually(lambda: (turn(), show()["state"] == "stopped")[1], timeout=90, message=agent.tail())
        (told,) = show()["devices"]
        assert (told["standing"], told["step"]) == ("harmed", "rolled_back")
        assert told["evidence"]["cause"] == "alarms"
        assert told["evidence"]["before"] == 0.0
        assert told["evidence"]["after"] > told["evidence"]["allowed"]
        assert told["report"]["windows"] < 400
        assert "alarms on 100%" in told["reason"]
    finally:
        agent.stop()
        station.stop()
        memory.close()
    said = f"back {took:.1f} s after the cut, {told['report']['windows']} of 400 windows; server: {told['reason'][:60]}"
    measured(
        "I7", "a harmful bundle, broker cut off", "back within the trial; cause on the server after reconnect", said
    )


def shown(folder: Path) -> dict[str, str]:
    """What `edge-agent status` says."""
    command = [sys.executable, "-m", "edge_agent", "status", "--json", "--config", str(folder / "agent.toml")]
    status: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return status
