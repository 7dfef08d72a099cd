"""Recordings that are arrays already: NumPy archives and Parquet files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any, BinaryIO, Final

import numpy as np

from models.recordings.columns import (
    TIME_NAME,
    UNIT,
    as_label,
    first_time_name,
    joined,
    position_of,
    rate_of,
    scale_of,
    signals_of,
    unique,
    with_speed,
)
from models.recordings.options import BadRecording, Floats, Recording, RecordingOptions
from models.recordings.stamps import EPOCH_UNITS, epoch_unit, seconds

PARQUET: Final = (".parquet", ".pq")  # what such files are called
_ROWS: Final = 65_536  # of a Parquet file at once


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
    time = position_of(names, options.time) if options.time else first_time_name(names, options)
    scale = EPOCH_UNITS[options.time_unit or "s"]
    return _recording(names, names, list(columns.values()), time, scale, options, rate_hz, facts)


def read_parquet(file: BinaryIO, options: RecordingOptions | None = None) -> Recording:
    """A whole recording from a Parquet file.

    Raises:
        BadRecording
    """
    options = options or RecordingOptions()
    return joined(list(iter_parquet_blocks(file, options)), options)


def iter_parquet_blocks(
    file: BinaryIO, options: RecordingOptions | None = None, block_rows: int = _ROWS
) -> Iterator[Recording]:
    """A Parquet file in blocks of rows. Columns of numbers and truths are signals, named and with units as in a text's
    header; the time is a column of timestamps, or one named like it: epoch numbers or ISO stamps.

    Raises:
        BadRecording: while iterating.
    """
    options = options or RecordingOptions()
    arrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
    try:
        source = parquet.ParquetFile(file)
        fields = list(source.schema_arrow)
        titles = [field.name for field in fields]
        names = unique(UNIT.sub(r"\g<name>", title) for title in titles)
        time = _time_column(arrow.types, names, titles, fields, options)
        scale: float | None = None if time is None or options.time_unit is None else EPOCH_UNITS[options.time_unit]
        rate_hz, n_rows = options.rate_hz, 0
        for batch in source.iter_batches(batch_size=block_rows):
            data = [_floats(arrow, column, i == time) for i, column in enumerate(batch.columns)]
            if time is not None and scale is None:
                stamps = data[time]
                assert stamps is not None
                known = stamps[np.isfinite(stamps)]
                guessed = epoch_unit(float(known[0])) if known.size else None
                scale = EPOCH_UNITS[guessed or "s"]
            part = _recording(names, titles, data, time, scale or 1.0, options, rate_hz, {}, n_rows)
            n_rows, rate_hz = n_rows + part.times.size, part.rate_hz
            yield part
    except (arrow.ArrowException, OSError) as exc:
        raise BadRecording(f"not a Parquet file that can be read: {exc}") from exc
    if not n_rows:
        raise BadRecording("no rows of data")


def _time_column(types: Any, names: list[str], titles: list[str], fields: Any, options: RecordingOptions) -> int | None:
    if options.time is not None:
        return position_of(names, options.time, titles)
    skip = {options.label, *options.exclude, *options.signals}
    free = [i for i, name in enumerate(names) if name not in skip]
    stamps = [i for i in free if types.is_timestamp(fields[i].type)]
    return next(iter([*stamps, *(i for i in free if TIME_NAME.search(names[i]))]), None)


def _floats(arrow: Any, column: Any, is_time: bool) -> Floats | None:
    """float64[n] of a column, nan where it is null; None: it has no numbers."""
    types = arrow.types
    if types.is_timestamp(column.type):
        column = column.cast(arrow.timestamp("us", column.type.tz), safe=False)
        micros = column.cast("int64").cast("float64", safe=False)
        return np.asarray(micros.to_numpy(zero_copy_only=False), np.float64) * 1e-6
    if is_time and (types.is_string(column.type) or types.is_large_string(column.type)):
        try:
            return np.array([np.nan if cell is None else seconds(cell) for cell in column.to_pylist()])
        except ValueError as exc:
            raise BadRecording(f"the time column holds what is no time: {exc}") from exc
    if types.is_boolean(column.type):
        column = column.cast("uint8")
    if types.is_integer(column.type) or types.is_floating(column.type) or types.is_decimal(column.type):
        column = column.cast("float64", safe=False)
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
    return None


def _recording(
    names: list[str],
    titles: list[str],
    data: list[Floats | None] | list[Floats],
    time: int | None,
    scale: float,
    options: RecordingOptions,
    rate_hz: float | None,
    facts: dict[str, float],
    n_before: int = 0,
) -> Recording:
    """Of columns of one length, None where one has no numbers; `n_before`: rows of the recording before these."""
    label = None if options.label is None else position_of(names, options.label, titles)
    if time is not None:
        times = _column(data, time, names) * scale
    elif rate_hz is not None:
        n = next((column.size for column in data if column is not None), 0)
        times = options.start_s + np.arange(n_before, n_before + n) / rate_hz
    else:
        raise BadRecording("no time column: name it (time), or give rate_hz")
    usable = ["" if column is None else name for name, column in zip(names, data, strict=True)]
    signals = signals_of(names, usable, options, time, label, titles)
    rows = [_column(data, at, names) * scale_of(signal, options, facts) for at, signal in signals]
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and a window with that is not scored
        values = np.array(rows).astype(np.float32)
    return Recording(
        tuple(with_speed(signal, facts) for _, signal in signals),
        times,
        values,
        None if label is None else as_label(_column(data, label, names)),
        rate_hz or rate_of(times),
    )


def _column(data: list[Floats | None] | list[Floats], at: int, names: list[str]) -> Floats:
    column = data[at]
    if column is None:
        raise BadRecording(f"column {names[at]!r} holds no numbers: exclude it")
    return column


def _library(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise BadRecording("a Parquet file needs pyarrow: pip install 'pdm-loop[parquet]'") from exc
