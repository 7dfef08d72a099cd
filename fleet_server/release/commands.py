"""The commands about bundles and rollouts. They change rows; the server that runs acts on them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleet_server import config as settings
from fleet_server.config import Config
from fleet_server.errors import BadConfig, NotFound, Refused
from fleet_server.release import registry, rollouts, shadows, waves
from fleet_server.release.floors import raise_to as raise_floor
from fleet_server.store import bundles, floors
from fleet_server.store import rollouts as rows
from fleet_server.store import shadows as reports
from fleet_server.store.bundles import BundleRow
from fleet_server.store.pool import Connection, connect
from fleet_server.store.rollouts import RolloutRow
from models.bundle.signing import PublicKeys, SigningKey
from models.contract.messages import Signed
from models.contract.release import Evidence

Commands = Any  # argparse's own type for sub-commands is private
Leaf = Callable[[argparse.Namespace, Config, Connection], dict[str, Any]]


def add_commands(commands: Commands) -> None:
    """Add `release`, `rollout`, `rollback` and `keys` to the program's parser."""
    release = commands.add_parser("release", help="bundles: what there is, who approved it").add_subparsers(
        required=True
    )
    _leaf(release, "list", _list)
    _with_version(_leaf(release, "show", _show))
    approve = _with_version(_leaf(release, "approve", _approve))
    approve.add_argument("--key", type=Path, action="append", required=True, help="the approver's private key, PEM")
    approve.add_argument("--by", required=True, metavar="NAME", help="who approves")
    approve.add_argument("--reason", default="", help="why")
    approve.add_argument("--despite-gate", metavar="REASON", help="approve what the gate did not pass; kept on record")
    approve.add_argument("--partial", type=Path, help="a file with the signatures so far, where several must sign")
    _leaf(release, "import", _import).add_argument("file", type=Path)
    export = _with_version(_leaf(release, "export", _export))
    export.add_argument("--out", type=Path, required=True)
    bar = _with_version(_leaf(release, "bar", _bar))
    bar.add_argument("--reason", required=True)
    floor = _leaf(release, "floor", _floor)
    floor.add_argument("version", type=int, nargs="?", help="the lowest that may run; shows the floor if left out")
    floor.add_argument("--reason", default="raised by an operator")

    rollout = commands.add_parser("rollout", help="a release to the fleet, in waves").add_subparsers(required=True)
    start = _with_version(_leaf(rollout, "start", _start))
    start.add_argument("--waves", required=True, help="how many devices each: 1,4 or 20%%,100%% (of all, in total)")
    start.add_argument("--devices", help="these only, with commas between")
    start.add_argument("--reason", default="")
    start.add_argument("--mode", choices=("trial", "shadow"), default="trial", help="shadow takes nothing over")
    start.add_argument("--dry-run", action="store_true", help="say who would get it, and stop there")
    for name, leaf in (("show", _show_rollout), ("pause", _pause), ("resume", _resume), ("stop", _stop)):
        parser = _leaf(rollout, name, leaf)
        parser.add_argument("rollout", nargs="?", help="its id; the newest if left out")
        parser.add_argument("--reason", default="")

    back = _leaf(commands, "rollback", _rollback)
    back.add_argument("--from", dest="bad", type=int, metavar="VERSION", help="what to leave; the newest rollout's")
    back.add_argument("--to", type=int, metavar="VERSION", help="where to; each device's last good one if left out")
    back.add_argument("--model", help="the model line, where the version alone does not say which")
    back.add_argument("--reason", default="ordered by an operator")

    keys = commands.add_parser("keys", help="keys for signing").add_subparsers(required=True)
    new = keys.add_parser("new", help="make a private key and, beside it, its public half")
    new.add_argument("--out", type=Path, required=True)
    new.set_defaults(run=new_key)


def new_key(args: argparse.Namespace) -> int:
    """Make a key pair; never over an existing file."""
    try:
        SigningKey.generate().write(args.out)
    except OSError as exc:
        raise Refused(f"no key written to {args.out}: {exc.strerror}") from exc
    print(f"{args.out} is private, mode 0600; {args.out}.pub goes to those who check")
    return 0


def _leaf(commands: Commands, name: str, leaf: Leaf) -> argparse.ArgumentParser:
    """A command that opens the database in one transaction and prints what it gives, in words or as JSON."""

    def run(args: argparse.Namespace) -> int:
        config = settings.load(args.config)
        with connect(config.database) as conn:
            result = leaf(args, config, conn)
        text = result.pop("text")
        print(json.dumps(result, default=str) if args.json else text)
        return 0

    parser: argparse.ArgumentParser = commands.add_parser(name, help=leaf.__doc__, description=leaf.__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    return parser


def _with_version(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("version", type=int)
    parser.add_argument("--model", help="the model line, where the version alone does not say which")
    return parser


def _list(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Every bundle there is."""
    found = bundles.listing(conn)
    return {"bundles": [_view(row) for row in found], "text": "\n".join(map(_line, found))}


def _show(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """A bundle, what it was made from, and its gate's report."""
    row = registry.find(conn, args.version, args.model)
    report = (row.gate or {}).get("text", "no gate has judged it")
    made = row.manifest["origin"]
    text = f"{_line(row)}\nsha256 {row.sha256}, {row.size} bytes, made from {made['trained_on']}\n\n{report}"
    return {**_view(row), "manifest": row.manifest, "gate": row.gate, "text": text}


def _approve(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Sign "this bundle is good" with a person's own key, which the server never has."""
    if not config.keys.approval:
        raise BadConfig(f"{args.config}: keys.approval names nobody who may approve")
    row = registry.find(conn, args.version, args.model)
    signed = _signed(args, row)
    if args.partial and len(signed.signatures) < config.keys.approval_threshold:
        args.partial.write_text(signed.model_dump_json(), encoding="utf-8")
        missing = config.keys.approval_threshold - len(signed.signatures)
        text = f"signed into {args.partial}; {missing} more must sign before it counts"
        return {**_view(row), "approved": False, "text": text}
    try:
        keys = PublicKeys.read(config.keys.approval, config.keys.approval_threshold)
    except ValueError as exc:
        raise BadConfig(f"{args.config}: keys.approval: {exc}") from exc
    approval = registry.approve(conn, signed, keys, despite_gate=args.despite_gate)
    text = f"{row.name} {row.version} is approved by {approval.approved_by}"
    return {**_view(row), "approved": True, "state": "approved", "approved_by": approval.approved_by, "text": text}


def _signed(args: argparse.Namespace, row: BundleRow) -> Signed:
    """The approval with the signature of each key given, on top of those in the partial file."""
    try:
        keys = [SigningKey.read(path) for path in args.key]
        if args.partial and args.partial.exists():
            signed = Signed.model_validate_json(args.partial.read_bytes())
        else:
            signed = keys.pop(0).sign(registry.document(row, args.by, args.despite_gate or args.reason))
    except (ValueError, OSError) as exc:
        raise Refused(str(exc)) from exc
    for key in keys:
        signed = key.add_to(signed)
    return signed


def _import(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Register a bundle that was made elsewhere."""
    try:
        data = args.file.read_bytes()
    except OSError as exc:
        raise NotFound(f"{args.file}: {exc.strerror}") from exc
    row = registry.import_file(conn, data)
    return {**_view(row), "text": f"{_line(row)}\nno gate has judged it: approving it needs --despite-gate"}


def _export(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Write a bundle to a file, and its approval beside it, so that a device can take it by hand."""
    row = registry.find(conn, args.version, args.model)
    data = bundles.data(conn, row.sha256)
    assert data is not None, "it was there in this transaction"
    args.out.write_bytes(data)
    text = f"{row.name} {row.version}: {len(data)} bytes to {args.out}"
    if (envelope := bundles.approval(conn, row.sha256)) is not None:
        beside = args.out.with_name(args.out.name + ".approval")
        beside.write_text(Signed.model_validate(envelope).model_dump_json(), encoding="utf-8")
        text += f", its approval beside it: edge-agent model install {args.out.name}"
    return {**_view(row), "file": str(args.out), "text": text}


def _bar(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Never let a bundle run again; `rollback` also brings devices back from it."""
    row = registry.find(conn, args.version, args.model)
    registry.bar(conn, row, args.reason)
    return {**_view(row), "state": "barred", "text": f"{row.name} {row.version} is barred: {args.reason}"}


def _floor(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Show the floor under versions, or raise it: devices refuse whatever is below, whoever orders it, for ever."""
    if args.version is None:
        floor = floors.current(conn)
        behind = {row.device_id: (row.heartbeat or {}).get("floor", 0) for row in rows.fleet(conn)}
        behind = {device: at for device, at in behind.items() if at < floor}
        lines = [f"the floor is {floor}", *(f"  {device} knows {at or 'none'}" for device, at in behind.items())]
        return {"floor": floor, "behind": behind, "text": "\n".join(lines)}
    raised = raise_floor(conn, args.version, args.reason)
    lines = [f"the floor is {raised.floor}; {len(raised.told)} devices are told"]
    lines += [f"  later: {device} ({why})" for device, why in raised.later.items()]
    return {"floor": raised.floor, "told": raised.told, "later": raised.later, "text": "\n".join(lines)}


def _start(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Roll an approved release out, wave by wave."""
    row = registry.find(conn, args.version, args.model)
    devices = [name.strip() for name in args.devices.split(",")] if args.devices else None
    plan = rollouts.preview(conn, row, args.waves, devices, args.mode)
    lines = [f"wave {i}: {', '.join(part)}" for i, part in enumerate(plan.waves, start=1)]
    lines += [f"left out: {device} ({why})" for device, why in plan.left_out.items()]
    view: dict[str, Any] = {"bundle": _view(row), "waves": plan.waves, "left_out": plan.left_out}
    if args.dry_run:
        return {**view, "rollout": None, "text": "\n".join([*lines, "dry run: nothing was started"])}
    rollout_id = rollouts.start(conn, plan, args.reason)
    return {**view, "rollout": rollout_id, "text": "\n".join([f"rollout {rollout_id}", *lines])}


def _show_rollout(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Where a rollout is, device by device."""
    return _rollout_view(conn, rollouts.find(conn, args.rollout), config)


def _pause(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Start no further wave."""
    row = rollouts.find(conn, args.rollout)
    rollouts.pause(conn, row, args.reason)
    return _rollout_view(conn, rollouts.find(conn, row.rollout_id), config)


def _resume(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Go on with a paused rollout."""
    row = rollouts.find(conn, args.rollout)
    rollouts.resume(conn, row)
    return _rollout_view(conn, rollouts.find(conn, row.rollout_id), config)


def _stop(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """End a rollout; devices keep what they have (`rollback` brings them back)."""
    row = rollouts.find(conn, args.rollout)
    rollouts.stop(conn, row, args.reason)
    return _rollout_view(conn, rollouts.find(conn, row.rollout_id), config)


def _rollback(args: argparse.Namespace, config: Config, conn: Connection) -> dict[str, Any]:
    """Bring the whole fleet back from a release to what ran well before, and bar it."""
    bad = rollouts.bad_one(conn, args.bad, args.model)
    to = registry.find(conn, args.to, args.model) if args.to is not None else None
    made = rollouts.go_back(conn, bad, args.reason, to)
    devices = [row.device_id for each in made for row in rows.assignments(conn, each)]
    text = f"{bad.name} {bad.version} is barred; {len(devices)} devices are ordered back"
    return {"barred": _view(bad) | {"state": "barred"}, "rollouts": made, "devices": devices, "text": text}


def _rollout_view(conn: Connection, row: RolloutRow, config: Config) -> dict[str, Any]:
    assigned = rows.assignments(conn, row.rollout_id)
    now, deadline_s = datetime.now(UTC), config.rollouts.deadline_s
    stands = {each.device_id: waves.standing(each, now, deadline_s).value for each in assigned}
    lines = [f"{row.rollout_id}: {row.state}, wave {row.wave} of {row.n_waves}. {row.reason}".rstrip()]
    lines += [
        f"  {each.wave}  {each.device_id:30} {stands[each.device_id]:10} {each.step or '-':12} {each.reason}"
        f"{_numbers(each.evidence)}".rstrip()
        for each in assigned
    ]
    shadow = shadows.summary(reports.of_rollout(conn, row.rollout_id))
    lines += [shadows.words(entry) for entry in shadow]
    return {
        "rollout": row.rollout_id,
        "version": row.version,
        "mode": row.mode,
        "state": row.state,
        "wave": row.wave,
        "n_waves": row.n_waves,
        "reason": row.reason,
        "counts": waves.count(assigned, now, deadline_s),
        "devices": [
            {
                "device": each.device_id,
                "wave": each.wave,
                "standing": stands[each.device_id],
                "step": each.step,
                "reason": each.reason,
                "evidence": each.evidence,
                "report": each.report,
            }
            for each in assigned
        ],
        "shadow": shadow,
        "text": "\n".join(lines),
    }


def _numbers(evidence: dict[str, Any] | None) -> str:
    """Before, after and what was allowed, where a device gave them."""
    words = Evidence.model_validate(evidence).words() if evidence else ""
    return f" [{words}]" if words else ""


def _view(row: BundleRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "version": row.version,
        "sha256": row.sha256,
        "size": row.size,
        "state": row.state,
        "approved_by": row.approved_by,
        "gate_verdict": None if row.gate is None else row.gate.get("verdict"),
        "run": row.run_id,
        "dataset": row.dataset,
    }


def _line(row: BundleRow) -> str:
    verdict = "no gate" if row.gate is None else f"gate: {row.gate.get('verdict')}"
    by = f", approved by {row.approved_by}" if row.approved_by else ""
    return f"{row.name} {row.version}  {row.sha256[:12]}  {row.state}  {verdict}{by}"
