"""Every mistake in a configuration at once: keys and types, files that are not there, keys that are none, folders that
can not be written, sources that can not be read. Nothing is connected to, nothing is written."""

from __future__ import annotations

import os
import socket
import ssl
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from edge_agent import sensors
from edge_agent.config import Asset, Broker, Config, Form, OutboxRoom, Trust, lines
from edge_agent.errors import AgentError
from edge_agent.outbox.cipher import Cipher
from edge_agent.settings import Settings
from models.bundle.files import BadBundle, unpack
from models.bundle.signing import NotTrusted, PublicKeys

S = TypeVar("S", bound=Settings)


def mistakes(path: Path) -> list[str]:
    """One line each; none: the agent can start with it."""
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        return [f"{path}: {exc}"]
    context = {"base": path.resolve().parent, "look": True}
    found = []
    try:
        Config.model_validate(raw, context=context)
    except ValidationError as exc:
        found = lines(exc)
    found += [line for line in _contents(raw, context) if line not in found]
    return found


def _contents(raw: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
    """What is wrong inside of the tables that are well formed, also where another one is not."""
    broker = _part(Broker, raw.get("broker"), context)
    if broker:
        yield from _says(broker.password)
        yield from _says(broker.tls)
        if broker.certificate and not broker.ca:
            yield "broker.certificate: without broker.ca nothing is encrypted, and it is not shown"
    if (trust := _part(Trust, raw.get("trust", {}), context)) is not None:
        for name, paths in (("approval_keys", trust.approval_keys), ("server_keys", trust.server_keys)):
            n = trust.approval_threshold if name == "approval_keys" else 1
            yield from _says(lambda paths=paths, n=n: PublicKeys.read(paths, n) if paths else None, f"trust.{name}")
    if room := _part(OutboxRoom, raw.get("outbox", {}), context):
        yield from _says(lambda: Cipher.read(room.key_file) if room.key_file else None, "outbox.key_file")
    if (form := _part(Form, raw.get("form", {}), context)) and form.port >= 0:
        yield from _says(lambda: socket.getaddrinfo(form.host, form.port), "form.host")
    assets = raw.get("asset")
    for i, table in enumerate(assets if isinstance(assets, list) else []):
        if asset := _part(Asset, table, context):
            yield from _says(lambda a=asset: _open(a, broker), f"asset.{i}")
    shell = _part(Config, {k: raw[k] for k in ("state_dir", "baseline") if k in raw} | _SHELL, context)
    if shell:
        yield from _folder(shell.state_dir)
        if shell.baseline:
            yield from _says(lambda: unpack(shell.baseline.read_bytes()), "baseline")


_SHELL = {"form": {"port": -1}, "asset": [{"id": "x", "source": "csv", "csv": {"path": "x"}}]}


def _part(kind: type[S], table: Any, context: dict[str, Any]) -> S | None:
    """None: not there, or refused already."""
    if table is None:
        return None
    try:
        return kind.model_validate(table, context=context)
    except ValidationError:
        return None


def _open(asset: Asset, broker: Broker | None) -> None:
    sensors.open_source(asset.id, asset.settings, asset.resample, broker).stop()


def _says(attempt: Any, place: str = "") -> Iterator[str]:
    try:
        attempt()
    except (AgentError, BadBundle, NotTrusted, OSError, ssl.SSLError, ValueError, ImportError) as exc:
        yield f"{place}: {exc}" if place else str(exc)


def _folder(folder: Path) -> Iterator[str]:
    """The state folder, or the one in which it will be made."""
    if folder.exists() and not folder.is_dir():
        yield f"state_dir: {folder} is not a folder"
        return
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        yield f"state_dir: {place} can not be written by this user"
