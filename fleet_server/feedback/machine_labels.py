"""`fleet-server labels`, and the machines that the page of labels shows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fleet_server import config as settings
from fleet_server.errors import Refused
from fleet_server.store import devices
from fleet_server.store.pool import Connection, connect
from models.contract.health import AssetHealth
from models.form import machine_labels
from models.form.machine_labels import Machine


def add_commands(commands: Any) -> None:
    parser = commands.add_parser("labels", help=_labels.__doc__, description=_labels.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the server's TOML file")
    machine_labels.add_arguments(parser)
    parser.set_defaults(run=_labels)


def machines(conn: Connection) -> list[Machine]:
    """As their devices describe them, in the order of their names."""
    found = []
    for device in devices.listing(conn):
        said = (device.heartbeat or {}).get("assets", {})
        health = {name: AssetHealth.model_validate(said.get(name, {})) for name in device.assets}
        found += [Machine(name, each.kind, each.hall, each.code) for name, each in health.items()]
    return sorted(found)


def _labels(args: argparse.Namespace) -> int:
    """Make a page of QR labels to print, one a machine: its name, and the link to its place in the form."""
    config = settings.load(args.config)
    with connect(config.database) as conn:
        found = machines(conn)
    try:
        print(machine_labels.run(args, found, args.url or f"http://{config.web.host}:{config.web.port}"))
    except ValueError as exc:
        raise Refused(str(exc)) from exc
    return 0
