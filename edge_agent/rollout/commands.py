"""`edge-agent model ...`: what somebody at the device may see and decide. A running agent acts on it at once, a stopped
one when it starts; everything goes through the same steps as an order of the server."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edge_agent import config as settings
from edge_agent.bundles import BundleStore, Memory
from edge_agent.errors import AgentError, BundleRejected
from models.bundle.files import MAX_BUNDLE, BadBundle, Bundle, unpack
from models.contract.messages import Approval, Signed
from models.contract.release import Step

AT_THE_DEVICE: Final = "somebody at the device asked for it"
Leaf = Callable[[argparse.Namespace, settings.Config, Memory, BundleStore], dict[str, Any]]


def add_commands(commands: Any) -> None:
    """Add `model` to the program's parser."""
    _leaf(commands, "rollback", go_back).add_argument("--reason", default=AT_THE_DEVICE)
    model = commands.add_parser("model", help="the models on this device: see, install, go back, deny, forgive")
    leaves = model.add_subparsers(required=True, metavar="COMMAND")
    _leaf(leaves, "list", _list)
    _leaf(leaves, "show", _show).add_argument("model", nargs="?", help="version or hash; what runs if left out")
    install = _leaf(leaves, "install", _install)
    install.add_argument("file", type=Path, help="a bundle, as fleet-server release export writes it")
    install.add_argument("--approval", type=Path, help="who approved it; default: FILE.approval")
    _leaf(leaves, "rollback", go_back).add_argument("--reason", default=AT_THE_DEVICE)
    deny = _leaf(leaves, "deny", _deny)
    deny.add_argument("model", help="version or hash")
    deny.add_argument("--reason", default=AT_THE_DEVICE)
    _leaf(leaves, "forgive", _forgive).add_argument("model", help="version or hash, or all")


def _leaf(commands: Any, name: str, leaf: Leaf) -> argparse.ArgumentParser:
    def run(args: argparse.Namespace) -> int:
        config = settings.load(args.config)
        result = leaf(args, config, Memory(config.state_dir), BundleStore(config.state_dir / "bundles"))
        text = result.pop("text")
        print(json.dumps(result) if args.json else text)
        return 0

    parser: argparse.ArgumentParser = commands.add_parser(name, help=leaf.__doc__, description=leaf.__doc__)
    parser.add_argument("--config", type=Path, default=Path("agent.toml"), metavar="FILE", help="default: agent.toml")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    return parser


def _list(args: argparse.Namespace, config: settings.Config, memory: Memory, store: BundleStore) -> dict[str, Any]:
    """Every model this device has, or has sent away"""
    roles, failed = _roles(memory), set(memory.get("failed", []))
    verified, why = set(memory.get("verified", [])), memory.get("failed_why") or {}
    found = []
    for sha256 in sorted({*store.list(), *failed}):
        bundle, problem = _loaded(store, sha256)
        found.append(
            {
                "name": bundle.manifest.name if bundle else None,
                "version": bundle.manifest.version if bundle else None,
                "sha256": sha256,
                "roles": roles.get(sha256, []),
                "verified": sha256 in verified,
                "denied": why.get(sha256, "sent away before") if sha256 in failed else None,
                "problem": problem if sha256 in store.list() else None,
            }
        )
    return {"models": found, "text": "\n".join(map(_line, found)) or "no model yet: the agent has not started here"}


def _show(args: argparse.Namespace, config: settings.Config, memory: Memory, store: BundleStore) -> dict[str, Any]:
    """What a model is: signals, window, alarm rule, what it was made from"""
    sha256 = _find(args.model, memory, store) if args.model else memory.get("current")
    if sha256 is None:
        raise AgentError("no model yet: the agent has not started here")
    bundle = store.load(sha256)
    manifest = bundle.manifest.model_dump(mode="json", exclude={"usual"})
    lines = [
        f"{name:12} {value if isinstance(value, str | int) else json.dumps(value)}" for name, value in manifest.items()
    ]
    roles = ", ".join(_roles(memory).get(sha256, [])) or "not in use"
    text = "\n".join([f"{'sha256':12} {sha256}", f"{'here':12} {roles}", *lines])
    return {"sha256": sha256, "roles": _roles(memory).get(sha256, []), "manifest": manifest, "text": text}


def _install(args: argparse.Namespace, config: settings.Config, memory: Memory, store: BundleStore) -> dict[str, Any]:
    """Take a model from a file: approved as one from the server must be, checked and tried the same way"""
    bundle = _read(args.file)
    signed = _approval(args.approval or args.file.with_name(args.file.name + ".approval"), bundle, config)
    if bundle.sha256 in memory.get("failed", []):
        raise AgentError(f"{bundle.sha256[:12]} was sent away on this device: edge-agent model forgive it first")
    store.save(bundle.data)
    memory.set(install={"sha256": bundle.sha256, "approval": signed.model_dump() if signed else None})
    title = f"{bundle.manifest.name} {bundle.manifest.version}"
    return {"sha256": bundle.sha256, "text": f"{title} is checked and tried next; edge-agent status shows how it goes"}


def go_back(args: argparse.Namespace, config: settings.Config, memory: Memory, store: BundleStore) -> dict[str, Any]:
    """Return to the model that ran before, without a network; the one left is not taken again on this device"""
    if memory.get("previous") in (None, memory.get("current")) and memory.get("step") != Step.TRIAL:
        raise AgentError("there is no bundle before the one that runs")
    memory.set(go_back=args.reason)  # on disk: a running agent does it at once, a stopped one when it starts
    return {"asked": True, "text": "the agent goes back now, or when it starts"}


def _deny(args: argparse.Namespace, config: settings.Config, memory: Memory, store: BundleStore) -> dict[str, Any]:
    """Never take this model here; what runs or is on trial now is left"""
    sha256 = _find(args.model, memory, store)
    if sha256 == memory.get("baseline"):
        raise AgentError("the shipped baseline is the last way back and can not be denied")
    on_trial = memory.get("step") == Step.TRIAL and "on its way" in _roles(memory).get(sha256, [])
    if sha256 == memory.get("current") or on_trial:
        memory.set(go_back=args.reason)
        return {"sha256": sha256, "text": f"{sha256[:12]} is left now, or when the agent starts, and then denied"}
    memory.set(
        failed=lambda known: sorted({*(known or []), sha256}),
        failed_why=lambda known: {**(known or {}), sha256: args.reason},
    )
    return {"sha256": sha256, "text": f"{sha256[:12]} is denied on this device"}


def _forgive(args: argparse.Namespace, config: settings.Config, memory: Memory, store: BundleStore) -> dict[str, Any]:
    """Let this device take a model again that it has sent away; it is checked and tried like a new one"""
    failed = memory.get("failed", [])
    forgiven = list(failed) if args.model == "all" else [_find(args.model, memory, store)]
    if not set(forgiven) <= set(failed):
        raise AgentError(f"{forgiven[0][:12]} is not denied on this device")
    memory.set(
        failed=lambda known: [sha256 for sha256 in known or [] if sha256 not in forgiven],
        failed_why=lambda known: {sha256: why for sha256, why in (known or {}).items() if sha256 not in forgiven},
        kills=lambda known: {sha256: n for sha256, n in (known or {}).items() if sha256 not in forgiven},
    )
    return {"forgiven": forgiven, "text": "\n".join(f"{sha256[:12]} may come again" for sha256 in forgiven) or "nobody"}


def _read(path: Path) -> Bundle:
    try:
        with path.open("rb") as file:
            return unpack(file.read(MAX_BUNDLE + 1))
    except (OSError, BadBundle) as exc:
        raise AgentError(f"{path}: {exc}") from exc


def _approval(path: Path, bundle: Bundle, config: settings.Config) -> Signed | None:
    """None: no approver's key is configured, so whoever is at the device decides. Raises AgentError."""
    if not config.trust.approval_keys:
        return None
    from models.bundle.signing import NotTrusted, PublicKeys  # cryptography loads here, and for no other command

    try:
        signed = Signed.model_validate_json(path.read_bytes())
        keys = PublicKeys.read(config.trust.approval_keys, config.trust.approval_threshold)
        approval = keys.open(Approval, signed)
    except OSError as exc:
        raise AgentError(f"no approval in {path}: fleet-server release export writes it beside the bundle") from exc
    except (ValueError, NotTrusted) as exc:
        raise AgentError(f"{path}: {exc}"[:300]) from exc
    if approval.model != bundle.ref:
        raise AgentError(f"{path} approves {approval.model.name} {approval.model.version}, not this bundle")
    return signed


def _roles(memory: Memory) -> dict[str, list[str]]:
    roles: dict[str, list[str]] = {}
    for slot in ("current", "previous", "baseline"):
        if sha256 := memory.get(slot):
            roles.setdefault(sha256, []).append(slot)
    on_its_way = memory.get("step") in (Step.OFFERED, Step.FETCHING, Step.CHECKING, Step.SHADOW, Step.TRIAL)
    if on_its_way and (assignment := memory.get("assignment")):
        roles.setdefault(assignment["model"]["sha256"], []).append("on its way")
    return roles


def _find(word: str, memory: Memory, store: BundleStore) -> str:
    """By version or by the first letters of its hash. Raises AgentError: none, or more than one."""
    known = sorted({*store.list(), *memory.get("failed", []), *_roles(memory)})
    if re.fullmatch(r"[0-9a-f]{6,64}", word) and (found := [sha256 for sha256 in known if sha256.startswith(word)]):
        return _only(word, found)
    if re.fullmatch(r"[0-9a-f]{64}", word):
        return word  # not here, and may be denied all the same
    if word.isdecimal():
        bundles = [bundle for bundle, _ in (_loaded(store, sha256) for sha256 in known) if bundle]
        return _only(word, [bundle.sha256 for bundle in bundles if bundle.manifest.version == int(word)])
    return _only(word, [])


def _only(word: str, found: list[str]) -> str:
    if len(found) == 1:
        return found[0]
    several = f"{len(found)} models are called {word}: say the hash" if found else f"no model {word} here"
    raise AgentError(f"{several} (edge-agent model list)")


def _loaded(store: BundleStore, sha256: str) -> tuple[Bundle | None, str]:
    try:
        return store.load(sha256), ""
    except BundleRejected as exc:
        return None, exc.reason


def _line(row: dict[str, Any]) -> str:
    title = f"{row['name']} {row['version']}" if row["name"] else "-"
    state = "denied: " + row["denied"] if row["denied"] else "verified" if row["verified"] else "not verified"
    problem = f"  ({row['problem']})" if row["problem"] else ""
    return f"{row['sha256'][:12]}  {title:20} {', '.join(row['roles']):20} {state}{problem}".rstrip()
