"""Many agents as real processes, each with its own configuration and state folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from simulators.machine import RATE_HZ, SIGNALS
from simulators.plant import topic

WINDOW = 256  # samples: four windows a second


@dataclass(frozen=True)
class Member:
    """One device of the fleet and the pump it watches."""

    device: str
    asset: str
    folder: Path
    form_port: int

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def form(self) -> str:
        return f"http://127.0.0.1:{self.form_port}"

    def argv(self) -> list[str]:
        return [sys.executable, "-m", "edge_agent", "run", "--config", str(self.config)]


def make(folder: Path, form_ports: list[int], *, broker_port: int, approval: Path, server: Path) -> list[Member]:
    """As many members as there are ports, with their configuration files written.

    Args:
        approval: the approvers' public key, PEM.
        server: the server's public key, PEM.
    """
    members = [
        Member(f"plant1.gw{i}", f"pump{i}", folder / f"gw{i}", port) for i, port in enumerate(form_ports, start=1)
    ]
    for member in members:
        member.folder.mkdir(parents=True, exist_ok=True)
        member.config.write_text(_config(member, broker_port, approval, server), encoding="utf-8")
    return members


def _config(member: Member, broker_port: int, approval: Path, server: Path) -> str:
    signals = "\n".join(
        f'  {{ name = "{s.name}", unit = "{s.unit}", low = {s.low:g}, high = {s.high:g} }},' for s in SIGNALS
    )
    return f"""\
device = "{member.device}"
state_dir = "state"
heartbeat_s = 2.0

[broker]
host = "127.0.0.1"
port = {broker_port}

[uplink]
telemetry_every_s = 1.0

[trust]
approval_keys = ["{approval}"]
server_keys = ["{server}"]

[form]
port = {member.form_port}

# A life in minutes: faults follow each other in seconds, and what is called false shall be seen again, to learn from.
[alarms]
hold_s = 1.0
suppressions = 0

[[asset]]
id = "{member.asset}"
kind = "pump"
source = "mqtt"
sample_share = 0.5

[asset.mqtt]
topic = "{topic(member.asset)}"
rate_hz = {RATE_HZ:g}
signals = [
{signals}
]

[asset.window]
rate_hz = {RATE_HZ:g}
n_samples = {WINDOW}
hop = {WINDOW}
"""
