"""Delimited text: what a file is like is found by looking at its first lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from models.contract.signals import Signal
from models.recordings.columns import (
    TIME_NAME,
    UNIT,
    as_label,
    joined,
    position_of,
    rate_of,
    scale_of,
    signals_of,
    unique,
)
from models.recordings.options import BadRecording, Floats, Recording, RecordingOptions
from models.recordings.stamps import EPOCH_UNITS, epoch_unit, is_missing, seconds

_HEAD: Final = 200  # lines looked at to find out what the file is like
_DELIMITERS: Final = (";", "\t", "|", ",")  # in this order: a comma may be a decimal point
_DECIMAL_COMMA: Final = re.compile(r"^\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*$")


def read_csv(lines: Iterable[str], options: RecordingOptions | None = None) -> Recording:
    """A whole recording from the lines of a text (an open text file, a list, ...).

    Raises:
        BadRecording
    """
    options = options or RecordingOptions()
    return joined(list(iter_csv_blocks(lines, options)), options)


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
    form = look_at(head, options, skipped)
    rate_hz = options.rate_hz
    n_rows = 0
    for rows, numbers in _row_blocks(chain(head, source), form, block_rows, skipped):
        columns = list(zip(*rows, strict=True))
        if form.time is None:
            assert options.rate_hz is not None  # or _look_at had raised
            times = options.start_s + np.arange(n_rows, n_rows + len(rows)) / options.rate_hz
        else:
            times = form.stamps.read(columns[form.time], numbers)
        rate_hz = rate_hz or rate_of(times)
        n_rows += len(rows)
        values = np.empty((len(form.signals), len(rows)), np.float32)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and a window with that is not scored
            for row, (position, signal) in zip(values, form.signals, strict=True):
                row[:] = _numbers(columns[position], form.decimal, numbers, signal.name) * scale_of(signal, options, {})
        label = None if form.label is None else _labels(columns[form.label], form.decimal, numbers)
        yield Recording(tuple(signal for _, signal in form.signals), times, values, label, rate_hz)
    if n_rows == 0:
        raise BadRecording("no rows of data")


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
                times[i] = seconds(cell, self.format)
            except ValueError as exc:
                raise BadRecording(
                    f"{cell[:40]!r} is no time; ISO 8601 is read by itself, for others give time_format", numbers[i]
                ) from exc
        return times


class Form(NamedTuple):
    """What was found out about a file. Positions are of columns."""

    delimiter: str
    decimal: str
    header: bool
    n_columns: int
    time: int | None
    stamps: _Stamps
    label: int | None
    signals: list[tuple[int, Signal]]


def look_at(head: list[str], options: RecordingOptions, skipped: int = 0) -> Form:
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
    names = unique(UNIT.sub(r"\g<name>", title) for title in titles)
    columns = [[row[i] for row in body if i < len(row)] for i in range(n_columns)]

    label = None if options.label is None else position_of(names, options.label, titles)
    taken = {label, *(position_of(names, name, titles) for name in options.exclude)}
    numeric = [_all(column, lambda cell: _is_number(cell, decimal)) for column in columns]
    if options.time is not None:
        time: int | None = position_of(names, options.time, titles)
    else:
        wanted = {position_of(names, name, titles) for name in options.signals}
        time = _find_time(names, columns, numeric, decimal, taken | wanted)
    if time is None and options.rate_hz is None:
        raise BadRecording("no time column found: name it (time), or give rate_hz")
    stamps = _stamps(columns[time] if time is not None else [], options, decimal)
    usable = [name if ok else "" for name, ok in zip(names, numeric, strict=True)]
    signals = signals_of(names, usable, options, time, label, titles)
    return Form(delimiter, decimal, header, n_columns, time, stamps, label, signals)


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
        if TIME_NAME.search(names[i]) and (i in dates or (numeric[i] and _rises(columns[i], decimal))):
            return i
    if dates:
        return dates[0]
    for i in free:
        if numeric[i] and _rises(columns[i], decimal) and _unit_of(columns[i], decimal):
            return i
    return None


def _stamps(cells: list[str], options: RecordingOptions, decimal: str) -> _Stamps:
    number = bool(cells) and options.time_format is None and _all(cells, lambda cell: _is_number(cell, decimal))
    if not number:
        return _Stamps(options.time_format, None, decimal)
    return _Stamps(None, EPOCH_UNITS[options.time_unit or _unit_of(cells, decimal) or "s"], decimal)


def _unit_of(cells: list[str], decimal: str) -> str | None:
    """In which unit these would be times of our day."""
    first = next((cell for cell in cells if _is_number(cell, decimal)), "nan")
    return epoch_unit(_number(first, decimal))


def _rises(cells: list[str], decimal: str) -> bool:
    numbers = [_number(cell, decimal) for cell in cells if _is_number(cell, decimal)]
    return bool(numbers) and numbers[0] < numbers[-1] and all(a <= b for a, b in pairwise(numbers))


# Lines and cells


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as exc:
        raise BadRecording(f"not text in the expected encoding: {exc.reason}; save it as UTF-8") from exc


def _row_blocks(
    lines: Iterable[str], form: Form, block_rows: int, skipped: int
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
    return as_label(_numbers([words.get(cell.strip().lower(), cell) for cell in cells], decimal, numbers, "label"))


def _number(cell: str, decimal: str) -> float:
    try:
        return float(cell.replace(",", ".") if decimal == "," else cell)
    except ValueError:
        if is_missing(cell):
            return float("nan")
        raise


def _is_number(cell: str, decimal: str) -> bool:
    """A number that is there."""
    try:
        return not np.isnan(_number(cell, decimal))
    except ValueError:
        return False


def _is_stamp(cell: str) -> bool:
    """A date and perhaps a time, as ISO 8601 has it; digits alone would be a number."""
    try:
        return "-" in cell[1:] and not np.isnan(seconds(cell, None))
    except ValueError:
        return False


def _all(cells: list[str], test: Any) -> bool:
    """True of every cell that is not empty, and of one at least."""
    there = [cell for cell in cells if not is_missing(cell)]
    return bool(there) and all(map(test, there))
