"""`fleet-server enrol` and `people`: who may use the form and the pages; `satisfaction`: what they think of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleet_server import config as settings
from fleet_server.config import Config
from fleet_server.errors import Refused
from fleet_server.feedback.people import invite
from fleet_server.store import feedback, people
from fleet_server.store.pool import Connection, connect
from models.form.invitation import add_invitation, invitation, invitation_text, people_text


def add_commands(commands: Any) -> None:
    """Add them to the program's parser."""
    add_invitation(_leaf(commands, "enrol", _enrol))
    parser = _leaf(commands, "people", _people)
    parser.add_argument("--revoke", metavar="PERSON", help="the pseudonym: p-...")
    parser.add_argument("--json", action="store_true")
    _leaf(commands, "satisfaction", _satisfaction).add_argument("--json", action="store_true")


def _leaf(commands: Any, name: str, leaf: Callable[[argparse.Namespace, Config, Connection], str]) -> Any:
    def run(args: argparse.Namespace) -> int:
        config = settings.load(args.config)
        with connect(config.database) as conn:
            print(leaf(args, config, conn))
        return 0

    parser = commands.add_parser(name, help=leaf.__doc__, description=leaf.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the server's TOML file")
    parser.set_defaults(run=run)
    return parser


def _enrol(args: argparse.Namespace, config: Config, conn: Connection) -> str:
    """Give a person a code for form and pages: once, for a quarter of an hour. The same name is the same person."""
    if config.form.sign_in != "enrolled":
        raise Refused('nobody signs in here: set sign_in = "enrolled" in [form] first')
    who, code = invite(conn, args.name, args.role, datetime.now(UTC), args.person)
    url = args.url or f"http://{config.web.host}:{config.web.port}"
    return json.dumps(invitation(who, code, url)) if args.json else invitation_text(who, code, url)


def _people(args: argparse.Namespace, config: Config, conn: Connection) -> str:
    """Show who may use form and pages, or put somebody out: every phone of theirs has to be enrolled anew."""
    if args.revoke:
        n = people.revoke(conn, args.revoke)
        return json.dumps({"person": args.revoke, "sessions_ended": n}) if args.json else f"{n} sessions ended"
    names = ("person", "name", "role", "sessions")
    rows = [dict(zip(names, row, strict=True)) for row in people.listing(conn)]
    return json.dumps(rows) if args.json else people_text(rows)


def _satisfaction(args: argparse.Namespace, config: Config, conn: Connection) -> str:
    """Show by month and site whether technicians find that their answers change something: 1 (no) to 5 (yes)."""
    rows = feedback.satisfaction(conn, by_site=True)
    if args.json:
        return json.dumps(rows)
    lines = [
        f"{row['month']}  {row['site'] or '-':16} {row['answered']:>4} of {row['asked']:<4} mean {row['mean'] or '-'}"
        for row in rows
    ]
    return "\n".join(lines) or "nobody was asked yet"
