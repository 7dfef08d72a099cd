"""`edge-agent check`, `doctor`, `clock` and `bench`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent import config as settings
from edge_agent import state
from edge_agent.errors import AgentError, BadConfig, StateTooNew
from edge_agent.operate import check as checks

WHERE = Callable[[Path], tuple[bool, str | None]]


def add_commands(commands: Any, where: WHERE) -> None:
    """`where`: whether an agent runs on a state folder, and the address of its page."""
    _add(commands, "check", check)
    _add(commands, "doctor", lambda args: doctor(args, where)).description = doctor.__doc__
    clock = _add(commands, "clock", clock_)
    measure = _add(commands, "bench", bench)
    measure.add_argument("--bundle", type=Path, help="default: the configured one, else the shipped baseline")
    measure.add_argument("--quick", action="store_true", help="a rough idea in a third of the time")
    clock.add_argument("--accept", action="store_true", help="the system's time is right: take it as the floor")


def check(args: argparse.Namespace) -> int:
    """List every mistake in the configuration at once, and change nothing. Exit code 0: the agent can start with it
    and the state that is there."""
    found = checks.mistakes(args.config)
    try:
        state.refuse_newer(settings.load(args.config).state_dir)
    except BadConfig:
        pass  # said by `mistakes`
    except StateTooNew as exc:
        found.append(f"state_dir: {exc}")
    if args.json:
        print(json.dumps({"mistakes": found}))
    else:
        print("\n".join(found) or f"{args.config}: no mistake")
    return 2 if found else 0


def doctor(args: argparse.Namespace, where: WHERE) -> int:
    """Say what is wrong with this device and what to do. Exit code 0: nothing, 1: something to look at, 2: something is
    broken."""
    from edge_agent.operate.doctor import examine, verdict
    from edge_agent.operate.finding import Finding

    found_mistakes = checks.mistakes(args.config)
    try:
        config = settings.load(args.config)
    except BadConfig:
        found = [Finding("config", "broken", line, "correct the file") for line in found_mistakes]
    else:
        running, page = where(config.state_dir)
        found = examine(config, found_mistakes, page, running)
    if args.json:
        print(json.dumps({"findings": [finding._asdict() for finding in found]}))
    else:
        for finding in found:
            do = f"\n{'':8}{'':13}-> {finding.do}" if finding.do else ""
            print(f"{finding.state:8}{finding.part:13}{finding.says}{do}")
    return verdict(found)


def clock_(args: argparse.Namespace) -> int:
    """Show the clock's quality and floor; with --accept, say that the system's time is right."""
    from edge_agent.clock import Clock, store_floor

    config = settings.load(args.config)
    if args.accept:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        store_floor(config.state_dir, time.time())
    clock = Clock(config.state_dir)
    shown = {"now": clock.now().isoformat(), "quality": clock.quality.value, "floor": clock.report().floor.isoformat()}
    print(json.dumps(shown) if args.json else "\n".join(f"{name:10}{value}" for name, value in shown.items()))
    if args.accept and not args.json:
        print("a running agent takes it at its next start")
    return 0


def bench(args: argparse.Namespace) -> int:
    """Measure this device: samples a second, latency of each station, memory, start-up. About 15 s of one core, in
    a folder of its own."""
    from edge_agent.operate import bench as station
    from models.baseline import shipped
    from models.bundle.files import unpack

    config = settings.load(args.config) if args.config.exists() else None
    path = args.bundle or (config and config.baseline)
    try:
        bundle = unpack(path.read_bytes()) if path else shipped().bundle
    except OSError as exc:
        raise AgentError(f"{path}: {exc.strerror}") from exc
    found = station.measure(bundle, config.state_dir if config else Path("agent-state"), 0.1 if args.quick else 1.0)
    print(json.dumps(found) if args.json else station.table(found))
    return 0


def _add(commands: Any, name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    words = run.__doc__ or (doctor.__doc__ if name == "doctor" else "") or ""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=words.split(".")[0], description=words)
    parser.add_argument("--config", type=Path, default=Path("agent.toml"), metavar="FILE", help="default: agent.toml")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    return parser
