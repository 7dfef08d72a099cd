"""Columns of a recording, whatever it is kept in: which is a signal, the time, the label, and in what unit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from models.contract.signals import Signal
from models.recordings.options import BadRecording, Floats, Recording, RecordingOptions

TIME_NAME: Final = re.compile(r"(^|[^a-z])(date|time|timestamp|datetime|date_time|ts|utc)($|[^a-z])", re.IGNORECASE)
UNIT: Final = re.compile(r"^(?P<name>.*?\S)\s*(\[(?P<square>[^\]]*)\]|\((?P<round>[^)]*)\))\s*$")


def first_time_name(names: list[str], options: RecordingOptions) -> int | None:
    skip = {options.label, *options.exclude, *options.signals}
    return next((i for i, name in enumerate(names) if name not in skip and TIME_NAME.search(name)), None)


def signals_of(
    names: list[str],
    numeric: list[str],
    options: RecordingOptions,
    time: int | None,
    label: int | None,
    titles: list[str] | None = None,
) -> list[tuple[int, Signal]]:
    """The columns that are signals, in the order asked for, or of the file. `numeric` is "" for a column of text."""
    titles = titles or names
    if options.signals:
        positions = [position_of(names, name, titles) for name in options.signals]
    else:
        taken = {time, label, *(position_of(names, name, titles) for name in options.exclude)}
        positions = [i for i in range(len(names)) if i not in taken and numeric[i]]
    if not positions:
        raise BadRecording("no column of numbers is left to be a signal")
    given = {position_of(names, name, titles): unit for name, unit in options.units.items()}
    bearings = {position_of(names, name, titles): bearing for name, bearing in options.bearings.items()}
    signals = []
    for i in positions:
        found = UNIT.match(titles[i])
        unit = given.get(i) or (found and (found["square"] or found["round"])) or "1"
        try:
            signals.append((i, Signal(name=names[i], unit=unit.strip(), bearing=bearings.get(i))))
        except ValidationError as exc:
            raise BadRecording(f"column {i + 1} cannot be a signal: {exc.errors()[0]['msg']}; give names") from exc
    return signals


def scale_of(signal: Signal, options: RecordingOptions, facts: dict[str, float]) -> float:
    """Raises BadRecording: it is the name of a number that is not there."""
    scale = options.scale.get(signal.name, 1.0)
    if isinstance(scale, str):
        if scale not in facts:
            there = ", ".join(facts) or "none"
            raise BadRecording(f"scale of {signal.name}: no number is called {scale!r}; there is: {there}")
        return facts[scale]
    return scale


def with_speed(signal: Signal, facts: dict[str, float]) -> Signal:
    """A bearing whose speed is a number in the archive turns at that speed throughout."""
    bearing = signal.bearing
    if bearing is None or bearing.speed not in facts:
        return signal
    turning = bearing.model_copy(update={"shaft_hz": facts[bearing.speed] / 60, "speed": None})
    return signal.model_copy(update={"bearing": turning})


def position_of(names: list[str], wanted: str, titles: list[str] | None = None) -> int:
    """Which column is meant. Raises BadRecording."""
    for known in (titles or [], names):
        if wanted in known:
            return known.index(wanted)
    raise BadRecording(f"no column {wanted!r}; there are {', '.join(names)[:300]}")


def unique(names: Iterable[str]) -> list[str]:
    """The same names; one that came before gets a number."""
    seen: list[str] = []
    for name in names:
        number = 2
        unique = name
        while unique in seen:
            unique = f"{name}_{number}"
            number += 1
        seen.append(unique)
    return seen


def rate_of(times: Floats) -> float:
    """One over the median step. Raises BadRecording."""
    steps = np.diff(times[np.isfinite(times)])
    step = float(np.median(steps)) if steps.size else 0.0
    if not step > 0:
        raise BadRecording("the times do not rise from row to row: exclude that column and give rate_hz")
    return 1 / step


def as_label(values: Floats) -> npt.NDArray[np.int8]:
    if np.any((values != np.round(values)) & ~np.isnan(values)) or np.any(np.abs(values) > 127):
        raise BadRecording("a label is a whole number from 0 to 127, true or false")
    return np.where(np.isnan(values), -1, values).astype(np.int8)


def joined(blocks: Sequence[Recording], options: RecordingOptions) -> Recording:
    """One recording of its blocks of rows."""
    times = np.concatenate([block.times for block in blocks])
    return Recording(
        blocks[0].signals,
        times,
        np.concatenate([block.values for block in blocks], axis=1),
        None if blocks[0].label is None else np.concatenate([b.label for b in blocks if b.label is not None]),
        options.rate_hz or rate_of(times),
    )
