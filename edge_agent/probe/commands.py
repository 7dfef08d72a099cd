"""The words of `edge-agent probe`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_agent.config import lines
from edge_agent.errors import AgentError
from edge_agent.probe.offer import Offer, as_config, as_text, write
from edge_agent.settings import Broker

_BROKER = ("host", "port", "username", "password_file", "ca", "certificate", "key")
_SESSION = ("url", "username", "password_file", "user_certificate", "user_key")
_SECURITY = ("policy", "mode", "certificate", "key", "server_certificate")
_RECORDING = ("time", "rate_hz", "label", "delimiter", "decimal")


def add_commands(commands: Any) -> None:
    words = "Show what a source offers, and write a configuration to begin with. Nothing is written to the source."
    probe = commands.add_parser("probe", help=words.split(".")[0], description=words)
    kinds = probe.add_subparsers(required=True, metavar="SOURCE")

    sub = _add(kinds, "csv", _recorded, "recorded files: text, NumPy, Parquet")
    sub.add_argument("path", type=Path, help="a file, or a pattern in quotes")
    for name in _RECORDING:
        sub.add_argument(
            f"--{name.replace('_', '-')}",
            type=float if name == "rate_hz" else str,
            help=f"its {name}, where it is not found",
        )

    sub = _add(kinds, "lines", _written, "lines of text, as they come")
    sub.add_argument("--stdin", action="store_true")
    sub.add_argument("--socket", help="a unix socket's path")
    sub.add_argument("--host")
    sub.add_argument("--port", type=int)
    sub.add_argument("--listen", action="store_true", help="the sender connects to us")
    sub.add_argument("--seconds", type=float, default=10.0, help="how long to listen; default: 10")

    sub = _add(kinds, "modbus", _modbus, "registers of a Modbus TCP device")
    sub.add_argument("--host", required=True)
    sub.add_argument("--port", type=int, default=502)
    sub.add_argument("--unit", type=int, default=1, help="default: 1")
    sub.add_argument(
        "--kind",
        action="append",
        choices=["coil", "discrete", "holding", "input"],
        help="again for more; default: holding and input",
    )
    sub.add_argument("--first", type=int, default=0, help="address from 0; default: 0")
    sub.add_argument("--last", type=int, default=99, help="default: 99")
    sub.add_argument("--seconds", type=float, default=1.0, help="between two looks; default: 1")

    sub = _add(kinds, "opcua", _opcua, "variables of an OPC UA server")
    sub.add_argument("--url", required=True, help="opc.tcp://host:4840/path")
    for name in (*_SESSION[1:], *_SECURITY):
        sub.add_argument(f"--{name.replace('_', '-')}")
    sub.add_argument("--most", type=int, default=500, help="variables; default: 500")

    for name, run, what in (
        ("mqtt", _mqtt, "topics and JSON of an MQTT broker"),
        ("sparkplug", _sparkplug, "metrics of Sparkplug B nodes"),
    ):
        sub = _add(kinds, name, run, what)
        for key in _BROKER:
            sub.add_argument(
                f"--{key.replace('_', '-')}",
                type=int if key == "port" else str,
                default={"host": "127.0.0.1", "port": 1883}.get(key),
            )
        sub.add_argument("--seconds", type=float, default=10.0, help="how long to listen; default: 10")
        if name == "mqtt":
            sub.add_argument("--topic", default="#", help="a filter; default: everything")
        else:
            sub.add_argument("--group")
            sub.add_argument("--node")
            sub.add_argument("--listen-only", action="store_true", help="ask no node for its births")


def _add(kinds: Any, name: str, run: Callable[[argparse.Namespace], Offer], what: str) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = kinds.add_parser(name, help=what, description=f"Show {what}.")
    sub.add_argument("--json", action="store_true")
    sub.add_argument("--write", type=Path, metavar="FILE", help="a configuration to begin with; a new file")
    sub.add_argument("--asset", help="what to call the machine in it")
    sub.set_defaults(run=lambda args: _show(args, run))
    return sub


def _show(args: argparse.Namespace, run: Callable[[argparse.Namespace], Offer]) -> int:
    try:
        offer = run(args)
    except ValidationError as exc:
        raise AgentError("; ".join(lines(exc))) from exc
    config = as_config(offer) if offer.assets or args.write else None
    if args.write and config:
        write(config, args.write)
    if args.json:
        print(json.dumps({"offers": offer.rows, "notes": offer.notes, "config": config}, default=str))
        return 0
    print(as_text(offer))
    if args.write:
        print(f"\nwritten: {args.write}; edge-agent check --config {args.write}")
    elif config:
        print("\n--write FILE makes a configuration of it")
    return 0


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Files by their whole path, wherever the configuration will be."""
    found = {name: value for name in names if (value := getattr(args, name)) is not None}
    files = {"password_file", "ca", "certificate", "key", "server_certificate", "user_certificate", "user_key"}
    return {name: str(Path(value).absolute()) if name in files else value for name, value in found.items()}


def _recorded(args: argparse.Namespace) -> Offer:
    from edge_agent.probe import recorded

    return recorded.probe(args.path, _given(args, _RECORDING), args.asset or "machine")


def _written(args: argparse.Namespace) -> Offer:
    from edge_agent.probe import written

    table = {name: value for name in ("stdin", "socket", "host", "port", "listen") if (value := getattr(args, name))}
    return written.probe(table, args.seconds, args.asset or "machine")


def _modbus(args: argparse.Namespace) -> Offer:
    from edge_agent.probe import modbus

    if not 0 <= args.first <= args.last <= 65535:
        raise AgentError("--first and --last are addresses from 0 to 65535, the first one first")
    kinds = tuple(args.kind or ("holding", "input"))
    return modbus.probe(
        args.host, args.port, args.unit, kinds, args.first, args.last, args.seconds, args.asset or "machine"
    )


def _opcua(args: argparse.Namespace) -> Offer:
    from edge_agent.probe import opcua

    table = _given(args, _SESSION)
    if security := _given(args, _SECURITY):
        table["security"] = security
    return opcua.probe(table, args.most, args.asset or "machine")


def _mqtt(args: argparse.Namespace) -> Offer:
    from edge_agent.probe import listening

    written = _given(args, _BROKER)
    return listening.topics(Broker.model_validate(written), written, args.topic, args.seconds, args.asset)


def _sparkplug(args: argparse.Namespace) -> Offer:
    from edge_agent.probe import listening

    written = _given(args, _BROKER)
    broker = Broker.model_validate(written)
    return listening.nodes(broker, written, args.seconds, args.group, args.node, ask=not args.listen_only)
