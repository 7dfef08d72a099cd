"""Training from recordings in files: no server, no database, no fleet. The same windows, features and models.

What is known of each recording is said in a TOML file: which rows are normal, which column labels them, or which fault
the whole file shows. What is not known is not used.
"""

from __future__ import annotations

import csv
import os
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from fleet_server.config import Settings
from fleet_server.errors import BadConfig, NotFound, Refused
from fleet_server.learning import dataset, degradation, export, lives, summary, training
from fleet_server.learning.dataset import Dataset, Row
from fleet_server.learning.degradation import DegradationSettings
from fleet_server.learning.novelties import KindName
from fleet_server.learning.summary import as_text as as_text
from fleet_server.learning.training import Fitted
from models.bundle.files import Bundle
from models.bundle.manifest import Origin
from models.contract.base import ModelName, ModelVersion
from models.contract.features import vector_names
from models.contract.labels import NORMAL
from models.contract.signals import Signal, WindowSpec
from models.features.extract import Extractor
from models.life import Steps
from models.recordings import PARQUET, BadRecording, Recording, RecordingOptions, read_csv, read_npz, read_parquet
from models.windows import Windower, default_window

UNKNOWN: Final = ""  # the class of a row of which nothing is known
BLOCK_WINDOWS: Final = 10  # lengths of a window that are taken as one stretch
Strings = npt.NDArray[np.str_]


class Window(Settings):
    """Left out: 20 rows, a window each, up to 10 Hz; above, 1024 rows, half overlapping. As the agent does."""

    rate_hz: Annotated[float, Field(gt=0)] | None = None
    n_samples: Annotated[int, Field(ge=4)]
    hop: Annotated[int, Field(ge=1)]
    max_gap_samples: Annotated[int, Field(ge=0)] = 3


class Source(Settings):
    """One or more recordings of which the same is known. Rows count from 1, without the header."""

    path: str  # may be a pattern, and name ${VARIABLES}; relative to the configuration file
    asset: str | None = None  # each file is its own machine if left out
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    holdout: bool = False  # judged, not learned from; if any is, nothing else is held out
    normal: tuple[int, int] | None = None  # first and last row
    normal_rows: Annotated[int, Field(ge=1)] | None = None  # the first so many
    fault: Annotated[str, Field(min_length=1, max_length=40)] | None = None  # shown by every other row
    remaining: Annotated[float, Field(ge=0)] | None = None  # life after the last row, in the unit of [life]; 0: failed
    classes: dict[str, str] = Field(default_factory=dict)  # what the labels mean, where 0 and 1 are not enough
    reading: RecordingOptions = RecordingOptions()

    @model_validator(mode="after")
    def _something_is_known(self) -> Source:
        if not (self.normal or self.normal_rows or self.fault or self.reading.label or self.remaining is not None):
            raise ValueError("say what is known of it: normal, normal_rows, fault, remaining, or reading.label")
        return self


class Files(Settings):
    """What to train, from what."""

    name: ModelName
    version: ModelVersion = 2
    asset_kind: str | None = None
    window: Window | None = None
    novelty: KindName | None = None  # by validation if left out
    life: lives.LifeSettings | None = None  # remaining life, learned from the recordings with `remaining`
    degradation: DegradationSettings | None = None  # learned from the recordings with `remaining = 0`
    recording: Annotated[tuple[Source, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _life_is_known(self) -> Files:
        if self.degradation and sum(each.remaining == 0 for each in self.recording) == 0:
            raise ValueError("[degradation] needs recordings that end with a failure: remaining = 0")
        if self.life and all(each.remaining is None for each in self.recording):
            raise ValueError(
                "[life] needs recordings that say what was left after their last row: remaining = 0 is failed"
            )
        return self


@dataclass(frozen=True)
class Result:
    """A bundle and how it does on what it has not seen."""

    bundle: Bundle
    data: Dataset
    fitted: Fitted | None  # None: what is normal is learned on each machine
    summary: dict[str, Any]


def train(path: Path, version: int | None = None) -> Result:
    """Train as the configuration at `path` says.

    Raises:
        BadConfig: the configuration; names every mistake.
        NotFound: a pattern that matches no file.
        Refused: a recording that cannot be read or does not fit the others, or too little to learn from.
    """
    config = _load(path)
    rows, spec, signals, seen, runs, whole = _rows(config, path.resolve().parent)
    if not rows:
        raise Refused(f"no window of these recordings can be used: {dict(+seen)}")
    names = vector_names(signals)
    data = dataset.assemble(rows, names, spec, signals, {"left_out": dict(+seen)})
    said = export.Said(
        name=config.name,
        version=version or config.version,
        created_at=datetime.now(UTC),
        origin=Origin(trained_on="files", dataset=data.sha256, windows=int((~data.holdout).sum())),
        asset_kind=config.asset_kind,
    )
    remaining = (
        lives.fit(runs, Steps([s.name for s in signals], spec).names, config.life, spec) if config.life else None
    )
    left = {"remaining_life": remaining.facts} if remaining else {}
    if config.degradation:
        worn = degradation.fit(whole, signals, spec, config.degradation)
        bundle = export.export_relative(worn, data, said, remaining)
        return Result(bundle, data, None, summary.about(bundle, data) | summary.relative(worn) | left)
    if config.novelty is None and training.machines_differ(data):
        bundle = export.export_self_learning(data, said, remaining)
        return Result(bundle, data, None, summary.about(bundle, data) | summary.on_each(bundle, data) | left)
    fitted = training.fit(data, config.novelty)
    bundle, proof = export.export(fitted, data, said, remaining)
    return Result(
        bundle, data, fitted, summary.about(bundle, data) | summary.held_out(data, fitted) | {"onnx": proof} | left
    )


def _load(path: Path) -> Files:
    try:
        return Files.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise BadConfig(f"{path}: {exc}") from exc
    except ValidationError as exc:
        mistakes = "\n".join(f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in exc.errors())
        raise BadConfig(f"{path}:\n{mistakes}") from exc


class Found(NamedTuple):
    """What recordings hold: every usable window, and whole or partial lives of those whose end is known."""

    rows: list[Row]
    spec: WindowSpec
    signals: tuple[Signal, ...]
    left_out: Counter[str]
    runs: list[lives.Run]
    whole: list[degradation.Life]


def _rows(config: Files, base: Path) -> Found:
    """Every recording of every file."""
    rows: list[Row] = []
    runs: list[lives.Run] = []
    whole: list[degradation.Life] = []
    left_out: Counter[str] = Counter()
    spec: WindowSpec | None = None
    signals: tuple[Signal, ...] = ()
    for source in config.recording:
        for path in _files(base, os.path.expandvars(source.path)):
            recording, classes = _read(path, source)
            spec = spec or _spec(config.window, recording.rate_hz)
            signals = signals or recording.signals
            if [s.name for s in recording.signals] != [s.name for s in signals]:
                wanted, found = ", ".join(s.name for s in signals), ", ".join(s.name for s in recording.signals)
                raise Refused(f"{path}: it has {found}; the first recording has {wanted}")
            if not 0.8 < recording.rate_hz / spec.rate_hz < 1.25:
                raise Refused(f"{path}: {recording.rate_hz:g} Hz, the window is for {spec.rate_hz:g} Hz")
            rows += _windows(path, source, recording, classes, spec, left_out)
            if config.life and source.remaining is not None:
                steps = lives.steps_of(recording, spec, config.life.every)
                runs.append(lives.Run(_asset(path, source), steps, source.remaining, source.holdout))
            if config.degradation and source.remaining == 0 and not source.holdout:
                whole.append(degradation.Life(_asset(path, source), degradation.vectors_of(recording, spec)))
    assert spec is not None, "there is at least one recording"
    return Found(rows, spec, signals, left_out, runs, whole)


def _files(base: Path, pattern: str) -> list[Path]:
    given = Path(pattern)
    root, inside = (
        (Path(given.anchor), str(given.relative_to(given.anchor))) if given.is_absolute() else (base, pattern)
    )
    while inside.startswith("../"):
        root, inside = root.parent, inside[3:]
    if found := sorted(path for path in root.glob(inside) if path.is_file()):
        return found
    raise NotFound(f"no file matches {pattern!r} in {base}")


def _asset(path: Path, source: Source) -> str:
    return source.asset or f"{path.parent.name}/{path.stem}"


def _read(path: Path, source: Source) -> tuple[Recording, Strings]:
    """A recording and the class of each of its rows."""
    labels: Sequence[str] | None = None
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file:
                recording = read_npz(file, source.reading)
        elif path.suffix in PARQUET:
            with path.open("rb") as file:
                recording = read_parquet(file, source.reading)
        else:
            labels = _text_labels(path, source.reading)
            options = source.reading.model_copy(update={"label": None}) if labels else source.reading
            with path.open(encoding="utf-8", newline="") as lines:
                recording = read_csv(lines, options)
    except (BadRecording, OSError) as exc:
        raise Refused(f"{path}: {exc}") from exc
    n = recording.times.size
    classes = np.full(n, source.fault or UNKNOWN, dtype="U40")
    if labels is None and recording.label is not None:
        labels = ["" if value < 0 else str(int(value)) for value in recording.label]
    if labels is not None:
        if len(labels) != n:
            raise Refused(f"{path}: {len(labels)} labels for {n} rows")
        several = len(set(labels) - {"", "0"}) > 1
        classes[:] = [_class_of(label, source, several) for label in labels]
    if source.normal_rows:
        classes[: source.normal_rows] = NORMAL
    if source.normal:
        classes[source.normal[0] - 1 : source.normal[1]] = NORMAL
    return recording, classes


def _class_of(label: str, source: Source, several: bool) -> str:
    if label in source.classes:
        return source.classes[label]
    if label == "":
        return UNKNOWN
    if label == "0" or label.lower() == NORMAL:
        return NORMAL
    return (f"fault_{label}" if several else source.fault or "fault") if label.isdecimal() else label[:40]


def _text_labels(path: Path, options: RecordingOptions) -> list[str] | None:
    """The label column, if it holds words: numbers are read with the rest. None: it does not, or there is none."""
    if options.label is None:
        return None
    with path.open(encoding="utf-8", newline="") as lines:
        for _ in range(options.skip_lines):
            next(lines, "")
        head = lines.readline()
        delimiter: str = options.delimiter or max((",", ";", "\t", "|"), key=head.count)
        names = list(options.names) or [
            name.strip().removeprefix("\ufeff") for name in next(csv.reader([head], delimiter=delimiter))
        ]
        if options.label not in names:
            return None
        at = names.index(options.label)
        found = [row[at].strip() for row in csv.reader(lines, delimiter=delimiter) if any(map(str.strip, row))]
    words = [value for value in found if value and value.lower() not in ("true", "false", "nan") and not _number(value)]
    return found if words else None


def _number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _spec(window: Window | None, rate_hz: float) -> WindowSpec:
    if window is None:
        return default_window(round(rate_hz, 6))
    return WindowSpec(
        rate_hz=window.rate_hz or round(rate_hz, 6),
        n_samples=window.n_samples,
        hop=window.hop,
        max_gap_samples=window.max_gap_samples,
    )


def _windows(
    path: Path, source: Source, recording: Recording, classes: Strings, spec: WindowSpec, left_out: Counter[str]
) -> list[Row]:
    """The windows of a file whose rows are all of one known class."""
    asset = _asset(path, source)
    rows: list[Row] = []
    try:
        windower, extract = Windower(spec, len(recording.signals)), Extractor(recording.signals, spec.rate_hz)
    except ValueError as exc:
        raise Refused(f"{path}: {exc}") from exc
    for window in windower.feed(recording.times, recording.values):
        inside = np.unique(classes[window.last - spec.n_samples + 1 : window.last + 1])
        if inside.size > 1 or inside[0] == UNKNOWN:
            left_out["of more than one class" if inside.size > 1 else "nothing is known of it"] += 1
            continue
        vector = extract(window.values)
        if not np.isfinite(vector).all():
            left_out["missing values"] += 1
            continue
        kind = str(inside[0])
        # Windows of one stretch stay together: neighbours overlap, and would tell the answer.
        stretch = window.last // (BLOCK_WINDOWS * spec.n_samples)
        rows.append(
            Row(
                trace=f"{path.parent.name}/{path.name}:{window.last:09d}",
                asset=asset,
                block=f"{path.parent.name}/{path.name}/{kind}/{stretch}",
                time=window.end,
                window_class=kind,
                weight=source.weight,
                vector=tuple(vector.tolist()),
                provenance="file",
                held=source.holdout,
                label=path.name,
            )
        )
    left_out.update({f"rows: {cause}": n for cause, n in windower.dropped.items() if n})
    return rows
