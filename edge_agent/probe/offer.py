"""What was found at a source, as a table for people, and as a configuration that the agent starts with."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from edge_agent.config import Config, lines
from edge_agent.errors import AgentError

_WIDEST: Final = 44  # characters of a cell
_HEAD: Final = """\
# What `edge-agent probe` has found, to begin with: take out what says nothing of the machine's health, give the signals
# the names, units and believable ranges (low, high) that people know them by.
"""


class Found(NamedTuple):
    """The table of one asset: `[asset.SOURCE]`."""

    asset: str
    source: str
    table: dict[str, Any]


class Offer(NamedTuple):
    """What a source offers.

    rows: by column, in the order of `columns`; all of them are in --json.
    assets: what a configuration would say; empty: nothing that could be watched.
    notes: what people should know of it.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    assets: list[Found]
    notes: list[str]


def as_text(offer: Offer) -> str:
    """For people: a column as wide as its widest cell."""
    cells = [[_cell(row.get(name)) for name in offer.columns] for row in offer.rows]
    table = [list(offer.columns), *cells]
    widths = [max(len(row[i]) for row in table) for i in range(len(offer.columns))]
    shown = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*(shown if offer.rows else []), *offer.notes])


def as_config(offer: Offer) -> str:
    """TOML. Raises AgentError: there is nothing in it to watch."""
    if not offer.assets:
        raise AgentError("nothing was found that could be watched, so there is no configuration to write")
    out = [_HEAD, 'device = "local.device"', 'state_dir = "agent-state"']
    for found in offer.assets:
        out += ["", "[[asset]]", f"id = {_toml(found.asset)}", f"source = {_toml(found.source)}"]
        out += ["", f"[asset.{found.source}]", *_table(found.table, f"asset.{found.source}")]
    return "\n".join(out) + "\n"


def write(text: str, path: Path) -> None:
    """A new file. Raises AgentError: it is there already, or can not be written."""
    try:
        Config.model_validate(tomllib.loads(text), context={"base": path.resolve().parent})
    except ValidationError as exc:  # a name or unit that the agent does not take
        raise AgentError("; ".join(lines(exc))) from exc
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as exc:
        raise AgentError(f"{path} is there already, and is left as it is") from exc
    except OSError as exc:
        raise AgentError(str(exc)) from exc


def names_for(raw: Iterable[str]) -> list[str]:
    """Signal names, each once, of whatever the things are called."""
    names: list[str] = []
    for text in raw:
        name = first = re.sub(r"[^\w.-]+", "_", text).strip("_.")[:60] or "signal"
        number = 2
        while name in names:
            name, number = f"{first}_{number}", number + 1
        names.append(name)
    return names


def asset_id(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-_.")[:60] or "machine"


def _table(table: Mapping[str, Any], place: str) -> list[str]:
    """Keys of a table, its signals one a line, its own tables behind."""
    plain = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
    out = [f"{key} = {_toml(value)}" for key, value in plain.items() if key != "signals"]
    if signals := table.get("signals"):
        out += ["signals = [", *(f"  {_toml(signal)}," for signal in signals), "]"]
    for key, value in table.items():
        if isinstance(value, Mapping):
            out += ["", f"[{place}.{key}]", *_table(value, f"{place}.{key}")]
    return out


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."
