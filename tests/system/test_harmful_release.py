"""A release that does harm, on a real agent that nobody can reach any more."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np

from edge_agent.bundles import Memory
from models.bundle.signing import public_pem
from models.contract.codec import dump
from models.contract.messages import Chunk
from simulators.embedded.broker import Broker
from simulators.embedded.processes import Process
from tests.builders import Fleet, a_bundle
from tests.receiver import Receiver
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


def test_with_server_and_broker_gone_it_is_never_verified_and_the_one_before_runs(
    own_broker: Broker, tmp_path: Path
) -> None:
    fleet = Fleet(f"test.{uuid.uuid4().hex[:12]}")
    old, harmful = a_bundle(1), a_bundle(2, limit=0.01)
    (tmp_path / "old.bundle").write_bytes(old.data)
    (tmp_path / "server.pub").write_bytes(public_pem(fleet.server.public))
    (tmp_path / "approval.pub").write_bytes(public_pem(fleet.approver.public))
    (tmp_path / "agent.toml").write_text(CONFIG.format(device=fleet.device, port=own_broker.port))
    quiet = 0.1 * np.random.default_rng(1).standard_normal(200_000)
    (tmp_path / "recording.csv").write_text("\n".join(["vib", *(f"{v:.4f}" for v in quiet)]))
    command = [sys.executable, "-m", "edge_agent", "run", "--config", str(tmp_path / "agent.toml")]
    agent = Process("agent", command, log=tmp_path / "agent.log")
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


def shown(folder: Path) -> dict[str, str]:
    """What `edge-agent status` says."""
    command = [sys.executable, "-m", "edge_agent", "status", "--json", "--config", str(folder / "agent.toml")]
    status: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return status
