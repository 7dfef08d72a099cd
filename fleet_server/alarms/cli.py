"""`fleet-server alarms`, `maintenance` and `suppressions`: the same words as the API."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from pydantic import ValidationError

from fleet_server import config as settings
from fleet_server.alarms import desk
from fleet_server.alarms.work_list import work_list
from fleet_server.errors import NotFound, Refused
from fleet_server.feedback import actions
from fleet_server.store import events, maintenance
from fleet_server.store.pool import Connection, connect
from models.contract.alarms import Act, Maintenance
from models.contract.codec import Unreadable
from models.contract.ids import new_trace_id
from models.form.actions import FormAction

Answer = tuple[Any, list[str]]  # for scripts, and for people
VERBS = (Act.ACKNOWLEDGE, Act.SNOOZE, Act.ASSIGN, Act.COMMENT, Act.DISMISS)


def add_commands(commands: Any) -> None:
    """Add the three groups to the program's parser."""
    group = commands.add_parser("alarms", help="what needs somebody, and what is done about it")
    group = group.add_subparsers(required=True)
    sub = _leaf(group, "list", _list)
    sub.add_argument("--asset")
    sub.add_argument("--assigned-to", metavar="NAME")
    sub.add_argument("--why", action="store_true", help="all reasons")
    _leaf(group, "show", _show).add_argument("event", type=UUID)
    for verb in VERBS:
        sub = _leaf(group, verb.value, _act)
        sub.add_argument("event", type=UUID, help="the alarm's id")
        sub.add_argument("--by", required=True, metavar="NAME")
        sub.set_defaults(verb=verb)
        if verb is Act.SNOOZE:
            sub.add_argument("--hours", type=float, required=True)
        elif verb is Act.ASSIGN:
            sub.add_argument("--to", default="", metavar="NAME", help="without it: to nobody")
        else:
            sub.add_argument("--text", default="", required=verb is Act.COMMENT)
    group = commands.add_parser("maintenance", help="mute machines while somebody works on them")
    group = group.add_subparsers(required=True)
    _leaf(group, "list", _list_maintenance).add_argument("--asset")
    for name, leaf in (("start", _start), ("end", _end)):
        sub = _leaf(group, name, leaf)
        sub.add_argument("asset")
        sub.add_argument("--by", required=True, metavar="NAME")
        if name == "start":
            sub.add_argument("--from", dest="start", type=_when, metavar="TIME", help="ISO, with its zone; else now")
            sub.add_argument("--to", dest="end", type=_when, metavar="TIME")
            sub.add_argument("--reason", default="")
        else:
            sub.add_argument("--part-replaced", default="", metavar="PART")
    group = commands.add_parser("suppressions", help="patterns that somebody called a false alarm")
    group = group.add_subparsers(required=True)
    _leaf(group, "list", _suppressions).add_argument("--asset")
    sub = _leaf(group, "lift", _lift)
    sub.add_argument("suppression", type=UUID)
    sub.add_argument("--by", required=True, metavar="NAME")


def _leaf(group: Any, name: str, leaf: Callable[[argparse.Namespace, Connection], Answer]) -> argparse.ArgumentParser:
    def run(args: argparse.Namespace) -> int:
        try:
            with connect(settings.load(args.config).database) as conn:
                data, lines = leaf(args, conn)
        except ValidationError as exc:
            raise Refused("; ".join(str(error["msg"]) for error in exc.errors())) from exc
        print(json.dumps(data, default=str) if args.json else "\n".join(lines))
        return 0

    parser: argparse.ArgumentParser = group.add_parser(name, help=leaf.__doc__, description=leaf.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the server's TOML file")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    return parser


def _list(args: argparse.Namespace, conn: Connection) -> Answer:
    """The work list: one case a machine and kind of fault, the neediest first."""
    cases = work_list(conn, datetime.now(UTC), asset=args.asset, assigned_to=args.assigned_to)
    lines = []
    for case in cases:
        reasons = case.reasons if args.why else case.reasons[:3]
        why = ", ".join(reason.text for reason in reasons)
        who = f" ({case.state.assigned_to})" if case.state.assigned_to else ""
        lines.append(f"{case.need:6.1f} {case.asset:20} {case.family:12} {case.event.event_id}{who}: {why}")
    data = [
        {
            "asset": case.asset,
            "family": case.family,
            "device": case.device,
            "need": case.need,
            "reasons": [vars(reason) for reason in case.reasons],
            "event": vars(case.event),
            "state": case.state.model_dump(mode="json", exclude={"actions"}),
        }
        for case in cases
    ]
    return data, lines or ["nothing needs anybody"]


def _show(args: argparse.Namespace, conn: Connection) -> Answer:
    """One alarm, and everything that was done about it."""
    row = events.get(conn, args.event)
    if row is None:
        raise NotFound(f"there is no alarm {args.event}")
    state = desk.states(conn, [row])[args.event]
    lines = [f"{name:20} {value}" for name, value in vars(row).items()]
    for action in state.actions:
        more = action.text or action.to or (f"until {action.until:%Y-%m-%d %H:%M} UTC" if action.until else "")
        lines.append(
            f"  {action.made_at:%Y-%m-%d %H:%M:%S} {action.actor} at the {action.place}: {action.action} {more}"
        )
    lines += [f"  conflict: {text}" for text in state.conflicts]
    return {"alarm": vars(row), "state": state.model_dump(mode="json")}, lines


def _act(args: argparse.Namespace, conn: Connection) -> Answer:
    """Do this about an alarm; its device is told."""
    now, action_id = datetime.now(UTC), uuid4()
    until = now + timedelta(hours=args.hours) if args.verb is Act.SNOOZE else None
    words = {"to": getattr(args, "to", ""), "text": getattr(args, "text", ""), "until": until}
    _do(conn, action_id, action=args.verb.value, actor=args.by, event_id=args.event, **words)
    return {"action_id": action_id}, [str(action_id)]


def _do(conn: Connection, action_id: UUID, **fields: Any) -> None:
    """As the form would."""
    now = datetime.now(UTC)
    done = FormAction.model_validate({"at": now} | fields)
    try:
        actions.take(conn, action_id, done, person="", at=now)
    except Unreadable as exc:
        raise Refused(str(exc)) from exc


def _list_maintenance(args: argparse.Namespace, conn: Connection) -> Answer:
    """Windows that run or are planned."""
    found = maintenance.listing(conn, args.asset, now_or_later=datetime.now(UTC))
    lines = [
        f"{each.maintenance_id} {each.asset:20} {each.start:%Y-%m-%d %H:%M} to"
        f" {f'{each.end:%Y-%m-%d %H:%M}' if each.end else 'somebody ends it'} UTC by {each.actor} {each.reason}"
        for each in found
    ]
    return [each.model_dump(mode="json") for each in found], lines or ["none"]


def _start(args: argparse.Namespace, conn: Connection) -> Answer:
    """Mute a machine and keep its windows out of training, now or as planned."""
    now = datetime.now(UTC)
    word = Maintenance(
        trace_id=new_trace_id(),
        made_at=now,
        maintenance_id=uuid4(),
        asset=args.asset,
        start=args.start or now,
        end=args.end,
        actor=args.by,
        reason=args.reason,
    )
    actions.plan(conn, word, now)
    return {"maintenance_id": word.maintenance_id}, [str(word.maintenance_id)]


def _end(args: argparse.Namespace, conn: Connection) -> Answer:
    """End what runs on a machine now."""
    now = datetime.now(UTC)
    found = maintenance.listing(conn, args.asset, now_or_later=now)
    running = [each for each in found if each.start <= now and (each.end is None or now < each.end)]
    if not running:
        raise NotFound(f"no maintenance runs on {args.asset}")
    for each in running:
        changes = {"end": now, "made_at": now, "actor": args.by, "part_replaced": args.part_replaced}
        actions.plan(conn, each.model_copy(update=changes), now)
    return {"ended": len(running)}, [f"ended: {len(running)}"]


def _suppressions(args: argparse.Namespace, conn: Connection) -> Answer:
    """What does not alarm now, on whose word, and how many windows that was."""
    rows = maintenance.suppressions(conn, asset_id=args.asset, holding_at=datetime.now(UTC))
    lines = [
        f"{row.suppression_id} {row.device_id} {row.asset_id} by {row.annotator} until {row.until:%Y-%m-%d}:"
        f" {row.windows} windows ({', '.join(row.drivers[:3])})"
        for row in rows
    ]
    return [vars(row) for row in rows], lines or ["none"]


def _lift(args: argparse.Namespace, conn: Connection) -> Answer:
    """Have the device alarm again."""
    command_id = desk.lift(conn, args.suppression, args.by)
    return {"command_id": command_id}, [f"told, command {command_id}"]


def _when(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} has no zone: write 2026-05-01T08:00:00+00:00")
    return when
