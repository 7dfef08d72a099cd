"""A release that does harm, on a real agent that nobody can reach any more."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from edge_agent.bundles import Memory
from fleet_server.config import Rollouts
from models.contract.codec import dump
from models.contract.messages import Chunk
from models.contract.release import TrialLimits
from simulators.embedded.broker import Broker
from tests.builders import Fleet, a_bundle
from tests.faults.figures import Measured
from tests.receiver import Receiver
from tests.support import eventually
from tests.system.plant import Plant, write_device


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
    old, harmful = a_bundle(1), a_bundle(2, limit=0.01)
    rules = Rollouts(soak_s=0, trial=TrialLimits(windows=400, max_seconds=600))
    with Plant(tmp_path, own_broker, plain_database, old, rules, capsys) as plant:
        plant.roll_out(harmful)
        plant.until("checking", "trial")
        own_broker.kill()
        began = time.monotonic()
        eventually(lambda: plant.memory.get("step") == "rolled_back", timeout=60, message=plant.agent.tail())
        took = time.monotonic() - began
        assert plant.memory.get("current") == old.sha256
        (waiting,) = plant.show()["devices"]
        assert waiting["standing"] == "waiting"  # the server knows nothing of it yet
        own_broker.start()
        eventually(lambda: (plant.turn(), plant.show()["state"] == "stopped")[1], timeout=90)
        (told,) = plant.show()["devices"]
        assert (told["standing"], told["step"]) == ("harmed", "rolled_back")
        assert told["evidence"]["cause"] == "alarms"
        assert told["evidence"]["before"] == 0.0
        assert told["evidence"]["after"] > told["evidence"]["allowed"]
        assert told["report"]["windows"] < 400
        assert "alarms on 100%" in told["reason"]
    said = f"back {took:.1f} s after the cut, {told['report']['windows']} of 400 windows; server: {told['reason'][:60]}"
    measured(
        "I7", "a harmful bundle, broker cut off", "back within the trial; cause on the server after reconnect", said
    )


def shown(folder: Path) -> dict[str, str]:
    """What `edge-agent status` says."""
    command = [sys.executable, "-m", "edge_agent", "status", "--json", "--config", str(folder / "agent.toml")]
    status: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return status
