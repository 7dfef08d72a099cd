"""`edge-agent alarms`, `maintenance` and `suppressions`: the fleet server's words, on the device, without a network."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from pydantic import ValidationError

from edge_agent import config as settings
from edge_agent.config import Config
from edge_agent.errors import AgentError
from models.contract.alarms import Act, AlarmAction
from models.contract.ids import new_trace_id

if TYPE_CHECKING:
    from edge_agent.alarms.desk import AlarmDesk
    from edge_agent.annotate import Journal

Answer = tuple[Any, list[str]]  # for scripts, and for people
Leaf = Callable[[argparse.Namespace, Config, "Journal", "AlarmDesk"], Answer]
VERBS = (Act.ACKNOWLEDGE, Act.SNOOZE, Act.ASSIGN, Act.COMMENT, Act.DISMISS)


def add_commands(commands: Any) -> None:
    """Add the three groups to the program's parser."""
    group = _group(commands, "alarms", "what was alarmed here, and what was done about it")
    _leaf(group, "list", _list)
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
    group = _group(commands, "maintenance", "mute a machine while somebody works on it")
    _leaf(group, "list", _list_maintenance).add_argument("asset", nargs="?")
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
    group = _group(commands, "suppressions", "patterns that somebody called a false alarm")
    _leaf(group, "list", _suppressions)
    sub = _leaf(group, "lift", _lift)
    sub.add_argument("suppression", type=UUID)
    sub.add_argument("--by", required=True, metavar="NAME")


def _group(commands: Any, name: str, text: str) -> Any:
    return commands.add_parser(name, help=text, description=text).add_subparsers(required=True, metavar="COMMAND")


def _leaf(group: Any, name: str, leaf: Leaf) -> argparse.ArgumentParser:
    def run(args: argparse.Namespace) -> int:
        from edge_agent.alarms.desk import AlarmDesk
        from edge_agent.annotate import Journal
        from edge_agent.clock import Clock
        from edge_agent.outbox import Outbox

        config = settings.load(args.config)
        outbox = Outbox.beside(config.state_dir, config.outbox)
        journal = Journal(outbox)
        desk = AlarmDesk(outbox, journal, config.alarms, Clock(config.state_dir))
        try:
            data, lines = leaf(args, config, journal, desk)
        except ValidationError as exc:
            raise AgentError("; ".join(str(error["msg"]) for error in exc.errors())) from exc
        print(json.dumps(data, default=str) if args.json else "\n".join(lines))
        return 0

    parser: argparse.ArgumentParser = group.add_parser(name, help=leaf.__doc__, description=leaf.__doc__)
    parser.add_argument("--config", type=Path, default=Path("agent.toml"), metavar="FILE", help="default: agent.toml")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    return parser


def _list(args: argparse.Namespace, config: Config, journal: Journal, desk: AlarmDesk) -> Answer:
    """The newest alarms, the open ones first."""
    episodes = sorted(journal.episodes(), key=lambda each: not each.open)
    states = desk.states(episodes)
    data, lines = [], []
    for each in episodes:
        event, state = each.event, states[each.event.event_id]
        facts = {
            "event_id": str(event.event_id),
            "asset": event.asset,
            "family": event.family,
            "severity": event.severity,
            "score": each.score,
            "open": each.open,
            "opened_at": event.opened_at.isoformat(),
            "repeats": event.repeats,
            "muted": event.muted,
        }
        data.append(facts | {"state": state.model_dump(mode="json")})
        who = f"acknowledged by {state.acknowledged.by}" if state.acknowledged else "not acknowledged"
        lines.append(
            f"{event.event_id} {event.asset:16} {'open' if each.open else 'cleared':8} {event.family:10}"
            f" {event.severity or '-':6} {each.score:.2f} since {event.opened_at:%Y-%m-%d %H:%M} UTC, {who}"
        )
    return data, lines or ["none"]


def _act(args: argparse.Namespace, config: Config, journal: Journal, desk: AlarmDesk) -> Answer:
    """Do this about an alarm; the server hears of it."""
    now = desk.now()
    action = AlarmAction(
        trace_id=new_trace_id(),
        made_at=now,
        action_id=uuid4(),
        event_id=args.event,
        asset="unknown",  # the desk knows
        action=args.verb,
        actor=args.by,
        until=now + timedelta(hours=args.hours) if args.verb is Act.SNOOZE else None,
        to=getattr(args, "to", ""),
        text=getattr(args, "text", ""),
    )
    desk.act(action)
    return {"action_id": action.action_id}, [str(action.action_id)]


def _list_maintenance(args: argparse.Namespace, config: Config, journal: Journal, desk: AlarmDesk) -> Answer:
    """Maintenance windows, the latest first."""
    found = [each for each in desk.maintenance(args.asset) if not each.cancelled]
    lines = [
        f"{each.maintenance_id} {each.asset:16} {each.start:%Y-%m-%d %H:%M} to"
        f" {f'{each.end:%Y-%m-%d %H:%M}' if each.end else 'somebody ends it'} UTC by {each.actor} {each.reason}"
        for each in found
    ]
    return [each.model_dump(mode="json") for each in found], lines or ["none"]


def _start(args: argparse.Namespace, config: Config, journal: Journal, desk: AlarmDesk) -> Answer:
    """Mute a machine and keep its windows out of training, now or as planned."""
    _known(args.asset, config)
    times = {name: value for name, value in (("start", args.start), ("end", args.end)) if value}
    word = desk.start_maintenance(args.asset, args.by, reason=args.reason, **times)
    return {"maintenance_id": word.maintenance_id}, [str(word.maintenance_id)]


def _end(args: argparse.Namespace, config: Config, journal: Journal, desk: AlarmDesk) -> Answer:
    """End what runs on a machine now."""
    _known(args.asset, config)
    n = desk.end_maintenance(args.by, asset=args.asset, part_replaced=args.part_replaced)
    if not n:
        raise AgentError(f"no maintenance runs on {args.asset}")
    return {"ended": n}, [f"ended: {n}"]


def _suppressions(args: argparse.Namespace, config: Config, journal: Journal, desk: AlarmDesk) -> Answer:
    """What does not alarm, on whose word, and how many windows that was; and what has ended."""
    rows = [row.said for row in desk.suppressions()]
    lines = [
        f"{said.suppression_id} {said.asset:16} by {said.annotator} {said.ended or f'until {said.until:%Y-%m-%d}'}:"
        f" {said.windows} windows ({', '.join(said.drivers[:3])})"
        for said in rows
    ]
    return [said.model_dump(mode="json") for said in rows], lines or ["none"]


def _lift(args: argparse.Namespace, config: Config, journal: Journal, desk: AlarmDesk) -> Answer:
    """Alarm again where somebody had said false alarm."""
    if not desk.lift(args.suppression, args.by):
        raise AgentError(f"there is no suppression {args.suppression}, or it has ended")
    return {"lifted": args.suppression}, ["lifted"]


def _known(asset: str, config: Config) -> None:
    if asset not in {each.id for each in config.asset}:
        raise AgentError(f"{asset} is not an asset of this device: {', '.join(each.id for each in config.asset)}")


def _when(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} has no zone: write 2026-05-01T08:00:00+00:00")
    return when
