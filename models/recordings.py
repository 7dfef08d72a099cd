"""Recordings in files of any origin: delimited text with or without a header, and NumPy archives.

What a file does not say about itself is found by looking at its first lines, and can be said in RecordingOptions
instead. A recording that cannot be read raises BadRecording, with the line and with what to do.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice, pairwise
from typing import Annotated, Any, BinaryIO, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.contract.signals import Bearing, Signal

Floats = npt.NDArray[np.float64]

_HEAD: Final = 200  # lines looked at to find out what the file is like
_DELIMITERS: Final = (";", "\t", "|", ",")  # in this order: a comma may be a decimal point
_MISSING: Final = frozenset({"", "nan", "na", "n/a", "null", "none", "-", "?", "--"})
_TIME_NAME: Final = re.compile(r"(^|[^a-z])(date|time|timestamp|datetime|date_time|ts|utc)($|[^a-z])", re.IGNORECASE)
_UNIT: Final = re.compile(r"^(?P<name>.*?\S)\s*(\[(?P<square>[^\]]*)\]|\((?P<round>[^)]*)\))\s*$")
_DECIMAL_COMMA: Final = re.compile(r"^\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*$")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Seconds per unit, and the values that a present-day epoch time (1990 to 2100) has in it.
_EPOCH_UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_PRESENT: Final = (6.3e8, 4.1e9)


class BadRecording(ValueError):
    """This is not a recording that can be read; the text says where, and what to do.

    Attributes:
        line: of the text file, counted from 1; None if the trouble is with the file as a whole.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.line = line


class RecordingOptions(BaseModel):
    """What is known of a file beforehand. Whatever is left out is found by looking.

    Columns go by the name in the header, with or without its unit, or c1, c2, ... where there is no header.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    delimiter: Literal[",", ";", "\t", "|"] | None = None
    decimal: Literal[".", ","] | None = None
    skip_lines: Annotated[int, Field(ge=0)] = 0  # before the header
    header: bool | None = None
    names: tuple[str, ...] = ()  # of all columns in order, instead of the header's
    time: str | None = None  # the time column
    time_format: str | None = None  # of strptime, for stamps that are not ISO 8601
    time_unit: Literal["s", "ms", "us", "ns"] | None = None  # of a numeric time column
    start_s: float = 0.0  # epoch seconds of the first row, if there is no time column
    rate_hz: Annotated[float, Field(gt=0)] | None = None
    signals: tuple[str, ...] = ()  # all numeric columns if empty
    exclude: tuple[str, ...] = ()
    label: str | None = None
    units: dict[str, str] = Field(default_factory=dict)
    # Of signals by name; what an archive says in a number of its own goes by that number's name.
    scale: dict[str, float | str] = Field(default_factory=dict)
    bearings: dict[str, Bearing] = Field(default_factory=dict)


@dataclass(frozen=True)
class Recording:
    """One source's samples. Times are as recorded: they may repeat, skip and run backwards."""

    signals: tuple[Signal, ...]
    times: Floats  # [n], epoch seconds; a stamp without a zone is taken as UTC; nan where empty
    values: npt.NDArray[np.float32]  # [n_signals, n], nan where empty
    label: npt.NDArray[np.int8] | None  # [n], -1 where empty
    rate_hz: float  # as given, or one over the median step


def read_csv(lines: Iterable[str], options: RecordingOptions | None = None) -> Recording:
    """A whole recording from the lines of a text (an open text file, a list, ...).

    Raises:
        BadRecording
    """
    options = options or RecordingOptions()
    blocks = list(iter_csv_blocks(lines, options))
    times = np.concatenate([block.times for block in blocks])
    return Recording(
        blocks[0].signals,
        times,
        np.concatenate([block.values for block in blocks], axis=1),
        None if blocks[0].label is None else np.concatenate([b.label for b in blocks if b.label is not None]),
        options.rate_hz or _rate_of(times),
    )


def iter_csv_blocks(
    lines: Iterable[str], options: RecordingOptions | None = None, block_rows: int = 4096
) -> Iterator[Recording]:
    """The same in blocks of rows, for a file of any size. The rate is that of the first block.

    Raises:
        BadRecording: while iterating; the blocks before the bad line have been given by then.
    """
    options = options or RecordingOptions()
    source = _decoded(lines)
    skipped = sum(1 for _ in islice(source, options.skip_lines))
    head = list(islice(source, _HEAD))
    if head:
        head[0] = head[0].removeprefix("\ufeff")
    form = _look_at(head, options, skipped)
    rate_hz = options.rate_hz
    n_rows = 0
    for rows, numbers in _row_blocks(chain(head, source), form, block_rows, skipped):
        columns = list(zip(*rows, strict=True))
        if form.time is None:
            assert options.rate_hz is not None  # or _look_at had raised
            times = options.start_s + np.arange(n_rows, n_rows + len(rows)) / options.rate_hz
        else:
            times = form.stamps.read(columns[form.time], numbers)
        rate_hz = rate_hz or _rate_of(times)
        n_rows += len(rows)
        values = np.empty((len(form.signals), len(rows)), np.float32)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and a window with that is not scored
            for row, (position, signal) in zip(values, form.signals, strict=True):
                row[:] = _numbers(columns[position], form.decimal, numbers, signal.name) * _scale(signal, options, {})
        label = None if form.label is None else _labels(columns[form.label], form.decimal, numbers)
        yield Recording(tuple(signal for _, signal in form.signals), times, values, label, rate_hz)
    if n_rows == 0:
        raise BadRecording("no rows of data")


def read_npz(file: BinaryIO, options: RecordingOptions | None = None) -> Recording:
    """A recording from a NumPy archive: one-dimensional arrays of one length are columns, named by their keys; the rows
    (or columns, if it is taller than wide) of a two-dimensional one are `key_1`, `key_2`, ... A column named like time
    holds epoch seconds; a number called rate_hz or fs is the rate.

    Raises:
        BadRecording
    """
    options = options or RecordingOptions()
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: np.asarray(archive[key]) for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as exc:
        raise BadRecording(f"not a NumPy archive of plain arrays: {exc}") from exc
    columns: dict[str, Floats] = {}
    facts = {key: float(array) for key, array in arrays.items() if array.ndim == 0 and array.dtype.kind in "fiu"}
    rate_hz = options.rate_hz
    for key, array in arrays.items():
        if array.dtype.kind not in "fiub":
            continue
        if array.size == 1 and key.lower() in ("rate_hz", "fs"):
            rate_hz = rate_hz or float(array.reshape(-1)[0])
        elif array.ndim == 1:
            columns[key] = array.astype(np.float64)
        elif array.ndim == 2:
            wide = array if array.shape[0] <= array.shape[1] else array.T
            columns |= {f"{key}_{i + 1}": row.astype(np.float64) for i, row in enumerate(wide)}
    if not columns:
        raise BadRecording("no array of numbers in the archive")
    if len({column.size for column in columns.values()}) > 1:
        sizes = ", ".join(f"{name} has {column.size}" for name, column in columns.items())
        raise BadRecording(f"arrays of several lengths: {sizes}")
    names = list(columns)
    time = _position(names, options.time) if options.time else _first_time_name(names, options)
    label = None if options.label is None else _position(names, options.label)
    data = list(columns.values())
    n = data[0].size
    if time is not None:
        times = data[time] * _EPOCH_UNITS[options.time_unit or "s"]
    elif rate_hz is not None:
        times = options.start_s + np.arange(n) / rate_hz
    else:
        raise BadRecording("no time array: give rate_hz")
    signals = _signals(names, [str(i) for i in range(len(names))], options, time, label)
    with np.errstate(over="ignore"):
        values = np.array([data[at] * _scale(signal, options, facts) for at, signal in signals], dtype=np.float32)
    return Recording(
        tuple(_with_speed(signal, facts) for _, signal in signals),
        times,
        values,
        None if label is None else _as_label(data[label]),
        rate_hz or _rate_of(times),
    )


# What a file is like


class _Stamps(NamedTuple):
    """How a time column is written: a format, ISO 8601, or a number times a scale."""

    format: str | None
    scale: float | None
    decimal: str

    def read(self, cells: Sequence[str], numbers: Sequence[int]) -> Floats:
        """float64[n], epoch seconds. Raises BadRecording."""
        if self.scale is not None:
            return _numbers(cells, self.decimal, numbers, "the time") * self.scale
        times = np.empty(len(cells))
        for i, cell in enumerate(cells):
            try:
                times[i] = _seconds(cell, self.format)
            except ValueError as exc:
                raise BadRecording(
                    f"{cell[:40]!r} is no time; ISO 8601 is read by itself, for others give time_format", numbers[i]
                ) from exc
        return times


class _Form(NamedTuple):
    """What was found out about a file. Positions are of columns."""

    delimiter: str
    decimal: str
    header: bool
    n_columns: int
    time: int | None
    stamps: _Stamps
    label: int | None
    signals: list[tuple[int, Signal]]


def _look_at(head: list[str], options: RecordingOptions, skipped: int) -> _Form:
    """Find out from the first lines. Raises BadRecording."""
    delimiter = options.delimiter or _delimiter(head)
    try:
        rows = [row for row in csv.reader(head, delimiter=delimiter) if any(cell.strip() for cell in row)]
    except csv.Error as exc:
        raise BadRecording(f"not delimited text: {exc}", skipped + 1) from exc
    if not rows:
        raise BadRecording("the file is empty")
    decimal = options.decimal or _decimal(rows, delimiter)
    header = options.header
    if header is None:  # a header is a row of words
        header = not any(_is_number(cell, decimal) or _is_stamp(cell) for cell in rows[0])
    body = rows[1:] if header else rows
    if not body:
        raise BadRecording("there is a header, but no rows of data")
    # A last delimiter at the end of each line makes no column.
    n_columns = max(len(rows[0]), len(options.names))
    width = len(body[0])
    if width > n_columns and not any(cell.strip() for cell in body[0][n_columns:]):
        width = n_columns
    if width != n_columns:
        raise BadRecording(f"{width} cells under {n_columns} names: is the delimiter {delimiter!r}?", skipped + 2)
    titles = list(options.names) or (rows[0] if header else [f"c{i + 1}" for i in range(n_columns)])
    if len(titles) != n_columns:
        raise BadRecording(f"{len(titles)} names for {n_columns} columns")
    titles = [title.strip() or f"c{i + 1}" for i, title in enumerate(titles)]
    names = _unique(_UNIT.sub(r"\g<name>", title) for title in titles)
    columns = [[row[i] for row in body if i < len(row)] for i in range(n_columns)]

    label = None if options.label is None else _position(names, options.label, titles)
    taken = {label, *(_position(names, name, titles) for name in options.exclude)}
    numeric = [_all(column, lambda cell: _is_number(cell, decimal)) for column in columns]
    if options.time is not None:
        time: int | None = _position(names, options.time, titles)
    else:
        wanted = {_position(names, name, titles) for name in options.signals}
        time = _find_time(names, columns, numeric, decimal, taken | wanted)
    if time is None and options.rate_hz is None:
        raise BadRecording("no time column found: name it (time), or give rate_hz")
    stamps = _stamps(columns[time] if time is not None else [], options, decimal)
    usable = [name if ok else "" for name, ok in zip(names, numeric, strict=True)]
    signals = _signals(names, usable, options, time, label, titles)
    return _Form(delimiter, decimal, header, n_columns, time, stamps, label, signals)


def _delimiter(head: list[str]) -> str:
    """The one that splits the lines most evenly: into several cells, and as many on nearly every line."""
    lines = [line for line in head if line.strip()]
    for candidate in _DELIMITERS:
        try:
            counts = [len(row) for row in csv.reader(lines, delimiter=candidate)]
        except csv.Error:
            continue
        if counts and counts[-1] > 1 and counts.count(counts[-1]) >= 0.9 * len(counts):
            return candidate
    return ","


def _decimal(rows: list[list[str]], delimiter: str) -> str:
    commas = any(_DECIMAL_COMMA.match(cell) for row in rows for cell in row)
    return "," if delimiter != "," and commas else "."


def _find_time(
    names: list[str], columns: list[list[str]], numeric: list[bool], decimal: str, taken: set[int | None]
) -> int | None:
    """A column called time that holds times; else one that holds dates; else rising epoch numbers."""
    free = [i for i in range(len(names)) if i not in taken]
    dates = [i for i in free if not numeric[i] and _all(columns[i], _is_stamp)]
    for i in free:
        if _TIME_NAME.search(names[i]) and (i in dates or (numeric[i] and _rises(columns[i], decimal))):
            return i
    if dates:
        return dates[0]
    for i in free:
        if numeric[i] and _rises(columns[i], decimal) and _epoch_unit(columns[i], decimal):
            return i
    return None


def _first_time_name(names: list[str], options: RecordingOptions) -> int | None:
    skip = {options.label, *options.exclude, *options.signals}
    return next((i for i, name in enumerate(names) if name not in skip and _TIME_NAME.search(name)), None)


def _stamps(cells: list[str], options: RecordingOptions, decimal: str) -> _Stamps:
    number = bool(cells) and options.time_format is None and _all(cells, lambda cell: _is_number(cell, decimal))
    if not number:
        return _Stamps(options.time_format, None, decimal)
    return _Stamps(None, _EPOCH_UNITS[options.time_unit or _epoch_unit(cells, decimal) or "s"], decimal)


def _epoch_unit(cells: list[str], decimal: str) -> str | None:
    """In which unit these would be times of our day."""
    first = next((cell for cell in cells if _is_number(cell, decimal)), "nan")
    value = _number(first, decimal)
    return next((unit for unit, s in _EPOCH_UNITS.items() if _PRESENT[0] < value * s < _PRESENT[1]), None)


def _rises(cells: list[str], decimal: str) -> bool:
    numbers = [_number(cell, decimal) for cell in cells if _is_number(cell, decimal)]
    return bool(numbers) and numbers[0] < numbers[-1] and all(a <= b for a, b in pairwise(numbers))


def _signals(
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
        positions = [_position(names, name, titles) for name in options.signals]
    else:
        taken = {time, label, *(_position(names, name, titles) for name in options.exclude)}
        positions = [i for i in range(len(names)) if i not in taken and numeric[i]]
    if not positions:
        raise BadRecording("no column of numbers is left to be a signal")
    given = {_position(names, name, titles): unit for name, unit in options.units.items()}
    bearings = {_position(names, name, titles): bearing for name, bearing in options.bearings.items()}
    signals = []
    for i in positions:
        found = _UNIT.match(titles[i])
        unit = given.get(i) or (found and (found["square"] or found["round"])) or "1"
        try:
            signals.append((i, Signal(name=names[i], unit=unit.strip(), bearing=bearings.get(i))))
        except ValidationError as exc:
            raise BadRecording(f"column {i + 1} cannot be a signal: {exc.errors()[0]['msg']}; give names") from exc
    return signals


def _scale(signal: Signal, options: RecordingOptions, facts: dict[str, float]) -> float:
    """Raises BadRecording: it is the name of a number that is not there."""
    scale = options.scale.get(signal.name, 1.0)
    if isinstance(scale, str):
        if scale not in facts:
            there = ", ".join(facts) or "none"
            raise BadRecording(f"scale of {signal.name}: no number is called {scale!r}; there is: {there}")
        return facts[scale]
    return scale


def _with_speed(signal: Signal, facts: dict[str, float]) -> Signal:
    """A bearing whose speed is a number in the archive turns at that speed throughout."""
    bearing = signal.bearing
    if bearing is None or bearing.speed not in facts:
        return signal
    turning = bearing.model_copy(update={"shaft_hz": facts[bearing.speed] / 60, "speed": None})
    return signal.model_copy(update={"bearing": turning})


def _position(names: list[str], wanted: str, titles: list[str] | None = None) -> int:
    """Which column is meant. Raises BadRecording."""
    for known in (titles or [], names):
        if wanted in known:
            return known.index(wanted)
    raise BadRecording(f"no column {wanted!r}; there are {', '.join(names)[:300]}")


def _unique(names: Iterable[str]) -> list[str]:
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


def _rate_of(times: Floats) -> float:
    """One over the median step. Raises BadRecording."""
    steps = np.diff(times[np.isfinite(times)])
    step = float(np.median(steps)) if steps.size else 0.0
    if not step > 0:
        raise BadRecording("the times do not rise from row to row: exclude that column and give rate_hz")
    return 1 / step


# Lines and cells


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as exc:
        raise BadRecording(f"not text in the expected encoding: {exc.reason}; save it as UTF-8") from exc


def _row_blocks(
    lines: Iterable[str], form: _Form, block_rows: int, skipped: int
) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Rows of n_columns cells, with their line numbers. Raises BadRecording."""
    reader = csv.reader(lines, delimiter=form.delimiter)
    header = form.header
    rows: list[list[str]] = []
    numbers: list[int] = []
    try:
        for row in reader:
            if not row or not any(map(str.strip, row)):
                continue
            if header:
                header = False
                continue
            if len(row) != form.n_columns:
                if len(row) < form.n_columns or any(map(str.strip, row[form.n_columns :])):
                    raise BadRecording(
                        f"{len(row)} cells where {form.n_columns} were expected: mend or remove the line",
                        skipped + reader.line_num,
                    )
                del row[form.n_columns :]
            rows.append(row)
            numbers.append(skipped + reader.line_num)
            if len(rows) == block_rows:
                yield rows, numbers
                rows, numbers = [], []
    except csv.Error as exc:
        raise BadRecording(f"not delimited text: {exc}", skipped + reader.line_num) from exc
    if rows:
        yield rows, numbers


def _numbers(cells: Sequence[str], decimal: str, numbers: Sequence[int], column: str) -> Floats:
    """float64[n], nan where empty. Raises BadRecording."""
    try:
        if decimal == ".":
            return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        pass  # a cell is empty, or bad: look at each
    result = np.empty(len(cells))
    for i, cell in enumerate(cells):
        try:
            result[i] = _number(cell, decimal)
        except ValueError as exc:
            raise BadRecording(
                f"{cell[:40]!r} in column {column!r} is no number: mend it, or exclude the column", numbers[i]
            ) from exc
    return result


def _labels(cells: Sequence[str], decimal: str, numbers: Sequence[int]) -> npt.NDArray[np.int8]:
    words = {"true": "1", "false": "0"}
    return _as_label(_numbers([words.get(cell.strip().lower(), cell) for cell in cells], decimal, numbers, "label"))


def _as_label(values: Floats) -> npt.NDArray[np.int8]:
    if np.any((values != np.round(values)) & ~np.isnan(values)) or np.any(np.abs(values) > 127):
        raise BadRecording("a label is a whole number from 0 to 127, true or false")
    return np.where(np.isnan(values), -1, values).astype(np.int8)


def _number(cell: str, decimal: str) -> float:
    try:
        return float(cell.replace(",", ".") if decimal == "," else cell)
    except ValueError:
        if cell.strip().lower() in _MISSING:
            return float("nan")
        raise


def _is_number(cell: str, decimal: str) -> bool:
    """A number that is there."""
    try:
        return not np.isnan(_number(cell, decimal))
    except ValueError:
        return False


def _seconds(cell: str, form: str | None) -> float:
    """Epoch seconds. Raises ValueError."""
    text = cell.strip()
    if text.lower() in _MISSING:
        return float("nan")
    stamp = datetime.strptime(text, form) if form else datetime.fromisoformat(text)  # noqa: DTZ007 - UTC if naive
    return ((stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)) - _EPOCH).total_seconds()


def _is_stamp(cell: str) -> bool:
    """A date and perhaps a time, as ISO 8601 has it; digits alone would be a number."""
    try:
        return "-" in cell[1:] and not np.isnan(_seconds(cell, None))
    except ValueError:
        return False


def _all(cells: list[str], test: Any) -> bool:
    """True of every cell that is not empty, and of one at least."""
    there = [cell for cell in cells if cell.strip().lower() not in _MISSING]
    return bool(there) and all(map(test, there))
