"""The registers of a Modbus TCP device: which can be read, and as what their contents make sense."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np

from edge_agent.errors import SourceFailed
from edge_agent.probe.offer import Found, Offer
from edge_agent.sensors.base import LineLost
from edge_agent.sensors.modbus import MAX_REGISTERS, Kind, Modbus, ModbusSource, Register, Request

BIT_KINDS: Final = ("coil", "discrete")
_SANE: Final = (1e-4, 1e7)  # magnitudes that a measured value has, in whatever unit
_DIGITS: Final = 5  # a setting, a limit or a value with few digits, as opposed to a pair taken from two values
_PLACEHOLDER: Final = (Register(name="probe", address=0),)


def probe(
    host: str,
    port: int = 502,
    unit_id: int = 1,
    kinds: Sequence[Kind] = ("holding", "input"),
    first: int = 0,
    last: int = 99,
    seconds: float = 1.0,
    asset: str = "machine",
) -> Offer:
    """Reads each register twice, `seconds` apart, to see which of them move.

    Raises:
        SourceFailed: nothing answers, or nothing can be read.
    """
    settings = ModbusSource(host=host, port=port, unit_id=unit_id, signals=_PLACEHOLDER)
    source = settings.open(asset, None)
    try:
        with source.client() as client:
            before = {kind: _readable(source, client, unit_id, kind, first, last) for kind in kinds}
            time.sleep(seconds)
            after = {kind: _again(source, client, unit_id, kind, words) for kind, words in before.items()}
    except (LineLost, OSError) as exc:
        raise SourceFailed(f"{host}:{port}: {exc}") from exc
    if not any(before.values()):
        answers = {name: n for name, n in source.counts.items() if name.startswith("modbus_") and n}
        raise SourceFailed(f"none of these registers of unit {unit_id} can be read: {answers or 'no answer'}")
    rows, signals = [], []
    for kind in kinds:
        for row in _rows(kind, before[kind], after[kind]):
            rows.append(row)
            if row["type"] is not None and (row["moves"] or row["value"]):
                signals.append({"name": f"{kind}_{row['address']}", "kind": kind} | _settings(row))
    table = {"host": host, "port": port, "unit_id": unit_id, "rate_hz": 1.0, "signals": signals}
    notes = ["type: a guess, by what makes sense; the device's manual knows, and knows scale and unit"]
    notes += [
        f"not readable: {kind} {_ranges(first, last, before[kind])}"
        for kind in kinds
        if len(before[kind]) <= last - first
    ]
    columns = ("kind", "address", "raw", "uint16", "int16", "float32", "float32_swapped", "moves", "type", "value")
    return Offer(columns, rows, [Found(asset, "modbus", table)] if signals else [], notes)


def _readable(source: Modbus, client: Any, unit_id: int, kind: Kind, first: int, last: int) -> dict[int, int]:
    """Words (or bits) by address. A range that is refused is halved, down to the single ones that are not there."""
    found: dict[int, int] = {}
    waiting = [(a, min(a + MAX_REGISTERS - 1, last)) for a in range(first, last + 1, MAX_REGISTERS)]
    while waiting:
        a, b = waiting.pop(0)
        words = source.ask(client, Request(unit_id, kind, a, b - a + 1, ()))
        if isinstance(words, list):
            found |= dict(zip(range(a, b + 1), words, strict=False))
        elif words == 1:  # it does not know this function at all
            return found
        elif words is not None and b > a:
            middle = (a + b) // 2
            waiting = [(a, middle), (middle + 1, b), *waiting]
    return found


def _again(source: Modbus, client: Any, unit_id: int, kind: Kind, words: dict[int, int]) -> dict[int, int]:
    """The same addresses once more."""
    found: dict[int, int] = {}
    addresses = sorted(words)
    while addresses:
        n = 1
        while n < min(len(addresses), MAX_REGISTERS) and addresses[n] == addresses[0] + n:
            n += 1
        answer = source.ask(client, Request(unit_id, kind, addresses[0], n, ()))
        if isinstance(answer, list):
            found |= dict(zip(addresses[:n], answer, strict=False))
        addresses = addresses[n:]
    return found


def _rows(kind: Kind, before: dict[int, int], after: dict[int, int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    taken = -1  # the second register of a pair
    for a, word in sorted(before.items()):
        moves = after.get(a, word) != word
        row: dict[str, Any] = {"kind": kind, "address": a, "moves": moves, "type": None, "value": None}
        if kind in BIT_KINDS:
            rows.append(row | {"type": "bool", "value": int(word), "raw": int(word)})
            continue
        row |= {"raw": f"0x{word:04x}", "uint16": word, "int16": _int16(word)}
        pairs = _pairs(before, a)
        row |= {name: value for name, value in pairs.items() if _sane(value)}
        if a > taken:
            row |= _best(before, a)
            if row["type"] == "float32":
                taken = a + 1
                row["moves"] = moves or after.get(a + 1) != before[a + 1]
        rows.append(row)
    return rows


def _pairs(words: dict[int, int], a: int) -> dict[str, float]:
    """This register and the next as a float: the high word first, or second."""
    if a not in words or a + 1 not in words:
        return {}
    high, low = words[a], words[a + 1]
    both = {"float32": (high, low), "float32_swapped": (low, high)}
    return {name: float(struct.unpack(">f", struct.pack(">HH", *pair))[0]) for name, pair in both.items()}


def _best(words: dict[int, int], a: int) -> dict[str, Any]:
    """Type and value. A pair is a float if that is a sane number, unless the next pair would make a rounder one."""
    here = {name: value for name, value in _pairs(words, a).items() if _sane(value)}
    there = {name: value for name, value in _pairs(words, a + 1).items() if _sane(value)}
    if here:
        name = min(here, key=lambda n: (_n_digits(here[n]), n))
        rounder = min(map(_n_digits, there.values()), default=99)
        if _n_digits(here[name]) <= max(rounder, _DIGITS):
            return {"type": "float32", "value": here[name], "swapped": name.endswith("swapped")}
    signed = _int16(words[a])
    return {"type": "int16" if -10_000 <= signed < 0 else "uint16", "value": signed if signed >= -10_000 else words[a]}


def _settings(row: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {"address": row["address"]}
    if row["kind"] not in BIT_KINDS and row["type"] != "uint16":
        settings["type"] = row["type"]
    if row.get("swapped"):
        settings["word_order"] = "little"
    return settings


def _int16(word: int) -> int:
    return word - 0x10000 if word & 0x8000 else word


def _sane(value: float) -> bool:
    return _SANE[0] <= abs(value) <= _SANE[1]


def _n_digits(value: float) -> int:
    """How many it takes to write it as a float32."""
    digits: Literal[""] | str = np.format_float_scientific(np.float32(value), unique=True).partition("e")[0]
    return sum(c.isdigit() for c in digits.rstrip("0."))


def _ranges(first: int, last: int, there: dict[int, int]) -> str:
    """The addresses that are not, shortly."""
    missing = [a for a in range(first, last + 1) if a not in there]
    runs: list[list[int]] = []
    for a in missing:
        if runs and a == runs[-1][1] + 1:
            runs[-1][1] = a
        else:
            runs.append([a, a])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs[:10]) + (", ..." if len(runs) > 10 else "")
