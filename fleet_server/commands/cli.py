"""`fleet-server command`: tell a device to do something, and see what came of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from fleet_server import config as settings
from fleet_server.commands import send as give
from fleet_server.errors import NotFound, Refused
from fleet_server.store import commands as rows
from fleet_server.store.commands import CommandRow
from fleet_server.store.pool import Connection, connect
from models.contract.commands import COMMANDS, read_body


def add_commands(commands: Any) -> None:
    """Add `command` to the program's parser."""
    group = commands.add_parser("command", help="tell a device to do something").add_subparsers(required=True)
    send = _leaf(group, "send", _send)
    send.add_argument("device")
    send.add_argument("kind", help=", ".join(kind.model_fields["kind"].default for kind in COMMANDS))
    send.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="as docs/schema.json has them; null lifts one")
    send.add_argument("--within-h", type=float, default=24.0, metavar="HOURS", help="after that it is not done at all")
    send.add_argument("--by", required=True, metavar="NAME", help="who orders it")
    _leaf(group, "list", _list).add_argument("--device")
    _leaf(group, "show", _show).add_argument("command_id", type=UUID)


def _leaf(group: Any, name: str, leaf: Callable[[argparse.Namespace, Connection], list[CommandRow]]) -> Any:
    def run(args: argparse.Namespace) -> int:
        with connect(settings.load(args.config).database) as conn:
            found = leaf(args, conn)
        print(json.dumps([asdict(row) for row in found], default=str) if args.json else "\n".join(map(_line, found)))
        return 0

    parser = group.add_parser(name, help=leaf.__doc__, description=leaf.__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    return parser


def _send(args: argparse.Namespace, conn: Connection) -> list[CommandRow]:
    """Give a command; the server sends it until the device has answered."""
    try:
        body = read_body({"kind": args.kind} | dict(map(_setting, args.settings)))
    except ValueError as exc:
        raise Refused(str(exc)) from exc
    command_id = give(conn, args.device, body, datetime.now(UTC) + timedelta(hours=args.within_h), by=args.by)
    row = rows.get(conn, command_id)
    assert row
    return [row]


def _list(args: argparse.Namespace, conn: Connection) -> list[CommandRow]:
    """The newest first, with what came of them."""
    return rows.listing(conn, args.device)


def _show(args: argparse.Namespace, conn: Connection) -> list[CommandRow]:
    """One of them."""
    row = rows.get(conn, args.command_id)
    if row is None:
        raise NotFound(f"there is no command {args.command_id}")
    return [row]


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a word


def _line(row: CommandRow) -> str:
    settings = " ".join(f"{name}={value}" for name, value in row.body.items() if name != "kind")
    state = row.outcome or (f"sent {row.sends} times, no answer yet" if row.sends else "not sent yet")
    reason = f": {row.reason}" if row.reason else ""
    return f"{row.command_id} {row.device_id} {row.kind} {settings} by {row.issued_by}: {state}{reason}"
