"""The commands of `fleet-server`. Each is a function that returns an exit code; our own errors are 2, in plain
words."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fleet_server import config as settings
from fleet_server.errors import FleetError
from fleet_server.store import devices, ledger, summary
from fleet_server.store.migrate import migrate as bring_up_to_date
from fleet_server.store.pool import connect
from fleet_server.store.trace import Node
from fleet_server.store.trace import trace as follow
from models import logs

# Loaded only when asked for: looking at the ledger must not load scikit-learn.
ELSEWHERE: Final = {
    "train": ("fleet_server.learning.commands", "make a new version from labels, or from files"),
    "release": ("fleet_server.release.commands", "bundles: what there is, who approved it"),
    "rollout": ("fleet_server.release.commands", "a release to the fleet, in waves"),
    "rollback": ("fleet_server.release.commands", "bring the fleet back to what ran well before"),
    "alarms": ("fleet_server.alarms.cli", "what needs somebody, and what is done about it"),
    "maintenance": ("fleet_server.alarms.cli", "mute machines while somebody works on them"),
    "suppressions": ("fleet_server.alarms.cli", "patterns that somebody called a false alarm"),
    "command": ("fleet_server.commands.cli", "tell a device to do something, and see what came of it"),
    "enrol": ("fleet_server.feedback.people_cli", "give a person a code for the form and the pages"),
    "labels": ("fleet_server.feedback.machine_labels", "QR labels for machines, to print"),
    "people": ("fleet_server.feedback.people_cli", "who may use the form and the pages"),
    "satisfaction": ("fleet_server.feedback.people_cli", "whether technicians find that answering is worth it"),
    "keys": ("fleet_server.release.commands", "keys for signing"),
}


def serve(args: argparse.Namespace) -> int:
    """Run the server: MQTT, database, web pages, retraining, rollouts. Until SIGTERM."""
    config = settings.load(args.config)
    logs.set_up(config.log_level)
    from fleet_server import app

    return app.serve(config)


def migrate(args: argparse.Namespace) -> int:
    """Bring the database's schema up to date, and say what it is."""
    with connect(settings.load(args.config).database) as conn:
        found = bring_up_to_date(conn)
    if args.json:
        print(json.dumps(vars(found)))
        return 0
    timescale = "none, plain tables" if found.edition == "none" else f"{found.extension}, {found.edition} edition"
    print(f"PostgreSQL {found.postgresql}, TimescaleDB: {timescale}, schema {found.schema:04d}")
    print(f"applied: {', '.join(found.applied)}" if found.applied else "nothing to apply")
    return 0


def show_ledger(args: argparse.Namespace) -> int:
    """Show that every record produced is stored, waiting, quarantined or counted as evicted. Exit code 1 if one is
    not."""
    with connect(settings.load(args.config).database) as conn:
        account = ledger.statement(ledger.account(conn, args.device))
    if args.json:
        print(json.dumps(account))
    else:
        names = ("produced", "stored", "waiting", "quarantined", "evicted", "difference")
        print(f"{'device':24}{'epoch':10}{'stream':12}" + "".join(f"{name:>13}" for name in names))
        for line in account["streams"]:
            print(f"{line['device']:24}{line['epoch'][:8]:10}{line['stream']:12}" + _counts(line))
            for cause, n in line["evicted"].items():
                print(f"{'':46}{n:,} evicted: {cause}")
            if line["difference"]:
                print(f"{'':46}missing: {line['missing']}")
        print(f"{'total':46}{_counts(account['totals'])}")
        print("closed: nothing is missing" if account["closed"] else "NOT closed")
    return 0 if account["closed"] else 1


def trace(args: argparse.Namespace) -> int:
    """Show what something was made from and what it led to: window, event, annotation, label, dataset, run, bundle,
    rollout, device."""
    with connect(settings.load(args.config).database) as conn:
        found = follow(conn, args.id)
    if args.json:
        print(json.dumps({"id": args.id, "found": found}, default=vars))
        return 0
    for node in found:
        print(_line(node))
        for title, side in (("made from", "made_from"), ("led to", "led_to")):
            if children := getattr(node, side):
                print(f"  {title}")
                _print_tree(children, side, "    ")
    return 0


def status(args: argparse.Namespace) -> int:
    """Show counts along the loop, and what runs where."""
    with connect(settings.load(args.config).database) as conn:
        counts, fleet = summary.summary(conn), devices.listing(conn)
    if args.json:
        rows = [{name: value for name, value in vars(row).items() if name != "heartbeat"} for row in fleet]
        print(json.dumps(counts | {"fleet": rows}, default=str))
        return 0
    for name, value in counts.items():
        shown = ", ".join(f"{n} {key}" for key, n in sorted(value.items())) if isinstance(value, dict) else value
        print(f"{name:20} {shown if shown != '' else '-'}")
    for row in fleet:
        seen = (datetime.now(UTC) - row.last_seen).total_seconds()
        model = f"{row.model_name} {row.model_version} {row.step}" if row.model_version else "-"
        waiting = "?" if row.waiting is None else row.waiting
        gone = f", offline: {row.offline_reason}" if row.offline_at else ""
        print(f"  {row.device_id:28} {model:24} {waiting} waiting, seen {seen:.0f} s ago{gone}")
    return 0


def main(argv: Sequence[str]) -> int:
    """One command; its exit code."""
    args = _parser(argv[0] if argv else "").parse_args(argv)
    if args.run is not serve:
        logs.set_up("warning")
    try:
        return int(args.run(args))
    except FleetError as exc:
        print(f"fleet-server: {exc}", file=sys.stderr)
        return 2


def run() -> None:
    """The program."""
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser(first: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleet-server", description="The fleet server of pdm-loop.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function in (
        ("serve", serve),
        ("migrate", migrate),
        ("ledger", show_ledger),
        ("trace", trace),
        ("status", status),
    ):
        command = _command(commands, name, function)
        if name != "serve":
            command.add_argument("--json", action="store_true")
        if name == "ledger":
            command.add_argument("--device", help="this one only")
        if name == "trace":
            command.add_argument("id", help="any id of the chain; for a bundle also its version, or 'pump 2'")
    if first in ELSEWHERE:
        module = ELSEWHERE[first][0]
        importlib.import_module(module).add_commands(commands)
    for name, (module, text) in ELSEWHERE.items():
        if first not in ELSEWHERE or module != ELSEWHERE[first][0]:
            commands.add_parser(name, help=text)
    return parser


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    text = " ".join((function.__doc__ or "").split())
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--config", type=Path, required=True, help="the server's TOML file")
    command.set_defaults(run=function)
    return command


def _counts(line: dict[str, Any]) -> str:
    evicted = sum(line["evicted"].values())
    return "".join(
        f"{n:>13,}"
        for n in (
            *(line[name] for name in ("produced", "stored", "waiting", "quarantined")),
            evicted,
            line["difference"],
        )
    )


def _line(node: Node) -> str:
    note = f" ({node.note})" if node.note else ""
    more = f" and {node.more} more" if node.more else ""
    return f"{node.kind} {node.id}{note}: {node.text}{more}"


def _print_tree(nodes: Sequence[Node], side: str, indent: str) -> None:
    for node in nodes:
        print(f"{indent}{_line(node)}")
        _print_tree(getattr(node, side), side, indent + "  ")
