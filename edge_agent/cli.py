"""The commands of `edge-agent`: functions that return an exit code."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID, uuid4

from edge_agent import config as settings
from edge_agent.alarms import cli as alarm_commands
from edge_agent.errors import AgentError
from edge_agent.operate import commands as operate_commands
from edge_agent.probe import commands as probe_commands
from edge_agent.rollout import commands as model_commands
from models import logs
from models.contract.labels import FaultKind, Severity, Verdict
from models.form import machine_labels
from models.form.invitation import add_invitation, invitation, invitation_text, people_text

if TYPE_CHECKING:
    from models.bundle.files import Bundle


def start(args: argparse.Namespace) -> int:
    """Watch the configured assets: score, alarm, keep, send. Runs until it is stopped."""
    from edge_agent.agent import Agent  # the kernels and the runtime load here, and for no other command

    config = settings.load(args.config)
    try:
        logs.set_up(config.log_level, config.log.format, config.log.file, config.log.max_bytes, config.log.keep)
    except OSError as exc:
        raise AgentError(f"log.file: {exc}") from exc
    return Agent(config, once=args.once, tell=_tell(config), again=partial(settings.load, args.config)).run()


def _tell(config: settings.Config) -> Callable[[str], None]:
    """Where people read: the terminal; or the log, where that is for programs."""
    if config.log.format == "json":
        return logging.getLogger("edge_agent").info
    return lambda line: print(logs.one_line(line), flush=True)


def status(args: argparse.Namespace) -> int:
    """Show what runs here and what waits, also while the agent is stopped."""
    from edge_agent import local
    from edge_agent.bundles import Memory
    from edge_agent.outbox import Outbox
    from edge_agent.rollout.report import for_status
    from edge_agent.state import agent_version
    from edge_agent.status import Status

    config = settings.load(args.config)
    memory, outbox = Memory(config.state_dir), Outbox.beside(config.state_dir, config.outbox)
    said = Status(
        device=config.device,
        version=agent_version(),
        agent="running" if _runs(config.state_dir) else "stopped",
        page=_page(config.state_dir),
        current=memory.get("current"),
        previous=memory.get("previous"),
        **for_status(memory),
        assignment=memory.get("sequence", 0),
        waiting={stream.value: n for stream, n in outbox.waiting().items()},
        live=local.ask(config.state_dir),
    )
    if args.json:
        print(said.model_dump_json())
        return 0
    shown = said.model_dump(exclude={"evidence", "report", "live"})
    if live := said.live:
        shown["link"] = {None: "no broker is configured", True: "connected"}.get(live.connected, live.link)
        shown |= {name: f"{a.state}{', in alarm' if a.alarm else ''}" for name, a in live.assets.items()}
    print("\n".join(f"{name:12} {_plain(value)}" for name, value in shown.items()))
    return 0


def outbox(args: argparse.Namespace) -> int:
    """Show what waits for the server, by stream: produced, waiting, evicted by cause."""
    from edge_agent.outbox import Outbox

    config = settings.load(args.config)
    counts = Outbox.beside(config.state_dir, config.outbox).counts()
    rows: dict[str, dict[str, Any]] = {
        stream.value: {
            "produced": c.produced,
            "waiting": sum(b - a + 1 for a, b in c.waiting),
            "waiting_bytes": c.waiting_bytes,
            "evicted": {cause: sum(b - a + 1 for a, b in ranges) for cause, ranges in c.evicted.items()},
        }
        for stream, c in counts.items()
    }
    if args.json:
        print(json.dumps(rows))
        return 0
    print(f"{'stream':12}{'produced':>10}{'waiting':>10}{'bytes':>12}  evicted")
    for stream, row in rows.items():
        evicted = ", ".join(f"{n} for {cause}" for cause, n in row["evicted"].items()) or "none"
        print(f"{stream:12}{row['produced']:>10}{row['waiting']:>10}{row['waiting_bytes']:>12}  {evicted}")
    return 0


def annotate(args: argparse.Namespace) -> int:
    """Say what an alarm was, or what happened on an asset. Works without a network; prints the annotation's id."""
    from pydantic import ValidationError

    from edge_agent.alarms.desk import AlarmDesk
    from edge_agent.annotate import Journal
    from edge_agent.clock import Clock
    from edge_agent.outbox import Outbox
    from models.contract.ids import new_trace_id
    from models.contract.messages import Annotation

    config = settings.load(args.config)
    outbox = Outbox.beside(config.state_dir, config.outbox)
    journal = Journal(outbox)
    episode = journal.episode(args.event) if args.event else None
    if args.event and episode is None:
        raise AgentError(f"there is no alarm {args.event} on this device")
    asset = episode.event.asset if episode else args.asset
    if asset is None:
        raise AgentError("give --event, or --asset with what happened on it")
    if asset not in {a.id for a in config.asset}:
        raise AgentError(f"{asset} is not an asset of this device: {', '.join(a.id for a in config.asset)}")
    clock = Clock(config.state_dir)
    now = clock.now()
    fields: dict[str, Any] = {
        "annotation_id": args.id or uuid4(),
        "trace_id": episode.event.trace_id if episode else new_trace_id(),
        "made_at": now,
        "time_quality": clock.quality,
        "asset": asset,
        "event_id": args.event,
        "start": args.start or (episode.event.opened_at if episode else now - timedelta(minutes=10)),
        "end": args.end or (episode.end if episode else now),
        "verdict": args.verdict,
        "fault": args.fault,
        "severity": args.severity,
        "note": args.note,
        "annotator": args.by,
    }
    try:
        annotation = Annotation.model_validate(fields)
    except ValidationError as exc:
        raise AgentError("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())) from exc
    taken = AlarmDesk(outbox, journal, config.alarms, clock).annotate(annotation)
    if taken == "conflict":
        raise AgentError(f"annotation {annotation.annotation_id} was saved already, with other words")
    print(
        json.dumps({"annotation_id": str(annotation.annotation_id), "taken": taken})
        if args.json
        else annotation.annotation_id
    )
    return 0


def enrol(args: argparse.Namespace) -> int:
    """Give a person a code for the form: once, for a quarter of an hour. The same name is the same person."""
    from edge_agent.clock import Clock
    from edge_agent.people import People

    config = settings.load(args.config)
    if config.form.sign_in != "enrolled":
        raise AgentError('nobody signs in here: set sign_in = "enrolled" in [form] first')
    people = People(config.state_dir / "people.db")
    who, code = people.invite(args.name, args.role, Clock(config.state_dir).now(), args.person)
    url = args.url or _page(config.state_dir) or f"http://{config.form.host}:{config.form.port}"
    print(json.dumps(invitation(who, code, url)) if args.json else invitation_text(who, code, url))
    return 0


def labels(args: argparse.Namespace) -> int:
    """Make a page of QR labels to print, one a machine: its name, and the link to its place in the form."""
    config = settings.load(args.config)
    machines = [machine_labels.Machine(each.id, each.kind, each.hall, each.code) for each in config.asset]
    print(machine_labels.run(args, machines, args.url or _form_url(config)))
    return 0


def _form_url(config: settings.Config) -> str:
    """By the name that phones use, where there is one; else where the page is now."""
    if config.form.names:
        return f"https://{config.form.names[0]}:{config.form.port}"
    return _page(config.state_dir) or f"http://{config.form.host}:{config.form.port}"


def certificate(args: argparse.Namespace) -> int:
    """Make or renew the certificate of the page, for the names in [form]; show what phones must compare."""
    from edge_agent import certificate as station
    from edge_agent.clock import Clock

    config = settings.load(args.config)
    if not config.form.names:
        raise AgentError('no names: set names = ["gw7.plant.example"] in [form], as phones will call this device')
    now = Clock(config.state_dir).now()
    written = station.ensure(config.state_dir, config.device, config.form.names, now, anew=args.new_authority)
    until = f"{station.ends(config.state_dir):%Y-%m-%d}"
    shown = {
        "names": list(config.form.names),
        "written": written,
        "until": until,
        "authority": str(station.files(config.state_dir).authority),
        "sha256": station.fingerprint(config.state_dir),
    }
    if args.json:
        print(json.dumps(shown))
        return 0
    print(f"{'made' if written else 'there already'}, until {until}, for {', '.join(config.form.names)}")
    print(f"authority for phones: {shown['authority']}\nSHA-256 {shown['sha256']}")
    return 0


def people(args: argparse.Namespace) -> int:
    """Show who may use the form, or put somebody out: every phone of theirs has to be enrolled anew."""
    from edge_agent.people import People

    known = People(settings.load(args.config).state_dir / "people.db")
    if args.revoke:
        n = known.revoke(args.revoke)
        print(json.dumps({"person": args.revoke, "sessions_ended": n}) if args.json else f"{n} sessions ended")
        return 0
    rows = [{"person": row.person, "name": row.name, "role": row.role, "sessions": n} for row, n in known.listing()]
    print(json.dumps(rows) if args.json else people_text(rows))
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Replay labelled recordings through the same path as run, and print how good the alarms are."""
    from edge_agent import evaluate as station

    config = settings.load(args.config)
    report = station.evaluate(config, _bundle(args.bundle, config))
    print(json.dumps(report) if args.json else station.table(report))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Parse, run, and turn our own errors into one line and exit code 2."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except (AgentError, ValueError) as exc:
        print(f"edge-agent: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def run() -> NoReturn:
    """The entry point of the installed command."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-agent", description="Scores sensor streams and keeps what it finds until it is stored."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=function.__doc__.split(".")[0], description=function.__doc__)
        sub.add_argument("--config", type=Path, default=Path("agent.toml"), metavar="FILE", help="default: agent.toml")
        sub.set_defaults(run=function)
        return sub

    sub = command("run", start)
    sub.add_argument("--once", action="store_true", help="end when the recordings have ended")
    for name, function in (("status", status), ("outbox", outbox)):
        command(name, function).add_argument("--json", action="store_true")
    sub = command("annotate", annotate)
    sub.add_argument("--event", type=UUID, help="the alarm's id")
    sub.add_argument("--asset", help="where there was no alarm")
    sub.add_argument("--verdict", required=True, choices=[v.value for v in Verdict])
    sub.add_argument("--fault", choices=[f.value for f in FaultKind])
    sub.add_argument("--severity", choices=[s.value for s in Severity])
    sub.add_argument("--note", default="")
    sub.add_argument("--by", required=True, metavar="NAME")
    sub.add_argument("--start", type=_when, help="ISO time, with its zone")
    sub.add_argument("--end", type=_when)
    sub.add_argument("--id", type=UUID, help="the same id again is the same annotation")
    sub.add_argument("--json", action="store_true")
    sub = command("enrol", enrol)
    add_invitation(sub)
    machine_labels.add_arguments(command("labels", labels))
    sub = command("certificate", certificate)
    sub.add_argument("--new-authority", action="store_true", help="another one: every phone has to install it")
    sub.add_argument("--json", action="store_true")
    sub = command("people", people)
    sub.add_argument("--revoke", metavar="PERSON", help="the pseudonym: p-...")
    sub.add_argument("--json", action="store_true")
    model_commands.add_commands(commands)
    alarm_commands.add_commands(commands)
    probe_commands.add_commands(commands)
    operate_commands.add_commands(commands, lambda state_dir: (_runs(state_dir), _page(state_dir)))
    sub = command("evaluate", evaluate)
    sub.add_argument("--bundle", type=Path, help="default: the configured one, else the shipped baseline")
    sub.add_argument("--json", action="store_true")
    return parser


def _when(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} has no zone: write 2026-05-01T08:00:00+00:00")
    return when


def _bundle(path: Path | None, config: settings.Config) -> Bundle:
    from edge_agent.agent import first_bundle

    return first_bundle(config.model_copy(update={"baseline": path}) if path else config)


def _runs(state_dir: Path) -> bool:
    """True if an agent holds the state folder."""
    import fcntl

    try:
        with (state_dir / "agent.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _page(state_dir: Path) -> str | None:
    try:
        return (
            str(json.loads((state_dir / "page.json").read_text(encoding="utf-8"))["url"]) if _runs(state_dir) else None
        )
    except (OSError, ValueError, KeyError):
        return None


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{n} {name}" for name, n in value.items()) or "nothing"
    return "-" if value is None else str(value)
