"""One agent as a process and the server's release side in this one: rows, orders, pieces, receipts, what it shows."""

from __future__ import annotations

import json
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
from simulators.embedded.broker import Broker
from simulators.embedded.processes import Process
from tests.builders import Fleet
from tests.faults.gateway import program
from tests.services.station import Station
from tests.support import eventually

CONFIG = """
device = "{device}"
baseline = "old.bundle"
state_dir = "state"
[broker]
port = {port}
[uplink]
telemetry_every_s = 0.3
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
    """An agent with a quiet machine, 40 windows a second, and that bundle."""
    (folder / "old.bundle").write_bytes(old.data)
    (folder / "server.pub").write_bytes(public_pem(fleet.server.public))
    (folder / "approval.pub").write_bytes(public_pem(fleet.approver.public))
    (folder / "agent.toml").write_text(CONFIG.format(device=fleet.device, port=port))
    quiet = 0.1 * np.random.default_rng(1).standard_normal(200_000)
    (folder / "recording.csv").write_text("\n".join(["vib", *(f"{v:.4f}" for v in quiet)]))
    command = [*program("edge_agent"), "run", "--config", str(folder / "agent.toml")]
    return Process("agent", command, log=folder / "agent.log")


class Plant:
    """A context manager: at its end the agent and the station are stopped."""

    def __init__(
        self, folder: Path, broker: Broker, dsn: str, old: Bundle, rules: Rollouts, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.fleet = Fleet(f"test.{uuid.uuid4().hex[:12]}")
        self._folder, self._old, self._rules, self._capsys = folder, old, rules, capsys
        self.fleet.server.write(folder / "server.pem")
        (folder / "server.toml").write_text(f'database = "{dsn}"\n[keys]\nserver = "server.pem"\n')
        self.station = Station(dsn, broker, self.fleet.server).start()
        self._publisher = Publisher(self.station.pool, self.station.subscriber.publish)
        self.agent = write_device(folder, self.fleet, broker.port, old)
        self.memory = Memory(folder / "state")

    def __enter__(self) -> Plant:
        self.agent.start()
        eventually(self._known, timeout=60, message=self.agent.tail())
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.stop()
        self.station.stop()
        self.memory.close()

    def roll_out(self, bundle: Bundle, mode: str = "trial") -> None:
        """Registered, approved, and started."""
        with self.station.pool.connection() as conn:
            for each in (self._old, bundle):
                row = registry.register(conn, each, state="candidate", gate={"verdict": "pass", "summary": ""})
                signed = self.fleet.approver.sign(registry.document(row, "Olga", ""))
                registry.approve(conn, signed, PublicKeys([self.fleet.approver.public]))
            found = registry.find(conn, bundle.manifest.version, bundle.manifest.name)
            rollouts.start(conn, rollouts.preview(conn, found, "1", mode=mode))

    def turn(self) -> None:
        """The server's release loop, and its answers to who asks for pieces."""
        with self.station.pool.connection() as conn:
            rollouts.advance(conn, self._rules, self.fleet.server)
        self._publisher.publish_new()
        while self.station.fetched:
            self._publisher.handle_fetch(*self.station.fetched.pop())

    def show(self) -> dict[str, Any]:
        """What `fleet-server rollout show` says."""
        assert server_main(["rollout", "show", "--json", "--config", str(self._folder / "server.toml")]) == 0
        shown: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return shown

    def until(self, *steps: str) -> None:
        """The server has its turns until the device is at one of these."""

        def there() -> bool:
            self.turn()
            return self.memory.get("step") in steps

        eventually(there, timeout=60, message=self.agent.tail())

    def _known(self) -> bool:
        with self.station.pool.connection() as conn:
            return any(row.device_id == self.fleet.device and row.model_sha256 for row in stored.fleet(conn))
