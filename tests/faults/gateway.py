"""One agent's folder - configuration, keys, a recording with a fault now and then - and the agent as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.config import load
from edge_agent.outbox import Outbox
from models.bundle.signing import public_pem
from models.contract.base import Stream
from models.contract.health import StreamCount
from simulators.embedded.processes import Lifeline, Process, http_ready
from tests.builders import Fleet
from tests.faults import broken, ledger
from tests.support import eventually

CONFIG = """
device = "{device}"
state_dir = "{state}"
heartbeat_s = {heartbeat_s}
{more}
[broker]
host = "{host}"
port = {port}
keepalive_s = 5
{broker}
[uplink]
telemetry_every_s = 0.3
[trust]
server_keys = ["server.pub"]
approval_keys = ["approval.pub"]
[form]
port = 0
[outbox]
{outbox}
[[asset]]
id = "pump1"
source = "csv"
[asset.csv]
path = "recording.csv"
speed = {speed}
{asset}
"""
LIFELINE = Lifeline()  # a test run that is killed leaves no agents behind
SHORT_WINDOWS = "[asset.window]\nrate_hz = 1.0\nn_samples = 10\nhop = 5"
ROWS = 20_000  # ten seconds at the usual speed; then it begins again with the next start


class Gateway:
    """What a test does not say is as on a good day: a recording at 2000 times its speed, 400 windows a second."""

    def __init__(
        self,
        home: Path,
        fleet: Fleet,
        port: int,
        *,
        state: Path | None = None,
        host: str = "127.0.0.1",
        speed: float = 2000,
        rows: int = ROWS,
        heartbeat_s: float = 0.3,
        launch: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        more: str = "",
        outbox: str = "",
        broker: str = "",
        asset: str = SHORT_WINDOWS,
        samples: str = "",
    ) -> None:
        """`more`, `outbox`, `broker` and `asset` are lines for that part of the configuration; `samples` is another
        recording."""
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.fleet, self.state = home, fleet, state or home / "state"
        (home / "recording.csv").write_text(samples or faulty_now_and_then(rows))
        (home / "server.pub").write_bytes(public_pem(fleet.server.public))
        (home / "approval.pub").write_bytes(public_pem(fleet.approver.public))
        self.config = home / "agent.toml"
        self.config.write_text(
            CONFIG.format(
                device=fleet.device, state=self.state, host=host, port=port, speed=speed, heartbeat_s=heartbeat_s,
                more=more, outbox=outbox, broker=broker, asset=asset,
            )
        )  # fmt: skip
        self.process = self.another(launch, env)

    def another(self, launch: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Process:
        """A process of the same agent, started otherwise."""
        argv = [*launch, *program("edge_agent"), "run", "--config", str(self.config)]
        return Process("agent", argv, log=self.home / "agent.log", lifeline=LIFELINE, env=dict(env or {}))

    def start(self) -> None:
        (self.state / "page.json").unlink(missing_ok=True)
        self.process.start()

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.process.stop()

    @property
    def log(self) -> str:
        path = self.home / "agent.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def starts(self) -> int:
        """How often the agent came as far as its page."""
        return self.log.count("page: http")

    def assert_bounded(self) -> None:
        """Its memory, disk and log."""
        pid = self.process.pid if self.starts and self.process.returncode is None else None
        ledger.assert_bounded(self.state, self.log, load(self.config).outbox, pid)

    def page(self) -> str | None:
        """The address, once it answers: then the agent is ready."""
        try:
            url = str(json.loads((self.state / "page.json").read_text())["url"])
        except (OSError, ValueError):
            return None
        return url if http_ready(url + "/api/status") else None

    def ready(self, timeout: float = 60) -> None:
        """Raises AssertionError: it ended, or is not ready in time."""

        def answers() -> bool:
            if self.process.returncode is not None:
                raise RuntimeError(f"the agent ended with {self.process.returncode}: {self.process.tail()}")
            return self.page() is not None

        eventually(answers, timeout=timeout, message=self.process.tail())

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*program("edge_agent"), words[0], "--config", str(self.config), *words[1:]]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    def status(self) -> dict[str, Any]:
        """What `edge-agent status --json` says."""
        done = self.command("status", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def counts(self) -> dict[Stream, StreamCount]:
        """The outbox's own account. Opens the file for as long as it takes."""
        outbox = Outbox(self.state / "outbox.db", owner=False)
        try:
            return outbox.counts()
        finally:
            outbox.close()


def faulty_now_and_then(rows: int) -> str:
    """Two signals at 1 Hz as CSV: noise, and from row 700 on a fault of 40 s every 150 s."""
    noise = np.random.default_rng(1).standard_normal((rows, 2))
    for begin in range(min(700, rows // 2), rows, 150):
        noise[begin : begin + 40] += 8
    samples = [f"{1_772_000_000 + i},{a:.3f},{b:.3f}" for i, (a, b) in enumerate(noise)]
    return "\n".join(["time,vib,current", *samples])


def program(name: str) -> list[str]:
    """The command line of one of the two programs; PDM_BROKEN names the fault that is built into it."""
    if mutant := os.environ.get(broken.VARIABLE):
        return [sys.executable, "-m", "tests.faults.broken", mutant, name]
    return [sys.executable, "-m", name]
