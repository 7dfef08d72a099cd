"""How well a bundle does on labelled recordings, through the same windows, features, scores and smoothing as `run`.

Point by point: a window's decision counts for the samples after the end of the window before it, up to its own last
sample. The decision is whether the smoothed score is at or over the threshold. Samples that the model learned from, and
samples without a label, are not scored.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import Asset, Config
from edge_agent.detect import Pipeline
from edge_agent.errors import BadConfig
from edge_agent.sensors.base import Block
from edge_agent.sensors.csv import CsvReplay
from edge_agent.sensors.resampled import joiner
from models.bundle.files import Bundle
from models.features.extract import Extractor
from models.recordings import Recording
from models.scoring import Scorer
from models.windows import Windower, default_window


@dataclass
class Counts:
    """Points by label and decision; a point is a sample."""

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0
    not_scored: int = 0
    delays_s: list[float] = field(default_factory=list)  # of the stretches that were found
    stretches: int = 0

    def add(self, other: Counts) -> None:
        for name in ("tp", "fp", "tn", "fn", "not_scored", "stretches"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.delays_s += other.delays_s

    def figures(self) -> dict[str, Any]:
        """Shares are None where nothing could have counted."""
        precision, recall = _share(self.tp, self.fp), _share(self.tp, self.fn)
        return {
            "points": self.tp + self.fp + self.tn + self.fn,
            "anomalous": self.tp + self.fn,
            "not_scored": self.not_scored,
            "precision": precision,
            "recall": recall,
            "f1": 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp + self.fp + self.fn else None,
            "false_alarm_rate": _share(self.fp, self.tn),
            "missing_alarm_rate": _share(self.fn, self.tp),
            "stretches": self.stretches,
            "stretches_found": len(self.delays_s),
            "median_delay_s": statistics.median(self.delays_s) if self.delays_s else None,
        }


def evaluate(config: Config, bundle: Bundle) -> dict[str, Any]:
    """Figures of every file of every asset with a labelled recording.

    Raises:
        BadConfig: nothing is labelled.
        SourceFailed, BundleRejected
    """
    scorer = Scorer(bundle)
    files: list[dict[str, Any]] = []
    total, unlabelled = Counts(), 0
    for asset in config.asset:
        if asset.csv is None:
            continue
        replay = CsvReplay(asset.csv)
        for path in replay.paths:
            recording = replay.recording(path)
            if recording.label is None:
                unlabelled += 1
                continue
            counts = _one(asset, recording, scorer, asset.csv.normal_rows)
            total.add(counts)
            files.append({"file": f"{path.parent.name}/{path.name}", **counts.figures()})
    if not files:
        raise BadConfig("nothing to evaluate: no recording has labels; name the column in [asset.csv.recording] label")
    return {
        "bundle": bundle.ref.model_dump(),
        "files": files,
        "unlabelled_files": unlabelled,
        "total": total.figures(),
        "per_file_means": _means(files),
    }


def _one(asset: Asset, recording: Recording, scorer: Scorer, normal_rows: int | None) -> Counts:
    rate_hz = asset.resample.rate_hz if asset.resample else recording.rate_hz
    spec = asset.window or scorer.manifest.window or default_window(rate_hz)
    pipeline = Pipeline(asset, recording.signals, spec, folder=None)
    judge = pipeline.judge(scorer)
    windower, extract = Windower(spec, len(recording.signals)), Extractor(recording.signals, spec.rate_hz)
    decisions = np.full(recording.times.size, -1, np.int8)
    decided = 0  # samples up to here have their decision
    times, values, rows = _on_its_grid(asset, recording)
    for window in windower.feed(times, values):
        vector = extract(window.values)
        last = int(rows[window.last])
        if not np.isfinite(vector).all():
            decided = last + 1
            continue
        known_normal = normal_rows is not None and last < normal_rows
        if judge.learning and known_normal:
            judge.gather(vector)
            decided = last + 1
            continue
        if judge.learning:
            if normal_rows is None:
                judge.learn(vector)
                decided = last + 1
                continue
            judge.finish_learning()
        over = judge.see(vector).over
        if not known_normal:
            decisions[decided : last + 1] = over
        decided = last + 1
    if normal_rows is not None:
        decisions[:normal_rows] = -1
    assert recording.label is not None
    return _count(decisions, recording.label, recording.times)


def _on_its_grid(
    asset: Asset, recording: Recording
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.intp]]:
    """What the windows are cut from: times, values, and of each instant the last row of the recording up to it."""
    if asset.resample is None:
        return recording.times, recording.values, np.arange(recording.times.size)
    join = joiner(recording.signals, recording.rate_hz, asset.resample)
    join.add_block(Block(recording.times, recording.values))
    blocks = list(join.cut())
    times = np.concatenate([np.empty(0), *(block.times for block in blocks)])
    values = np.concatenate([recording.values[:, :0], *(block.values for block in blocks)], axis=1)
    reached = np.maximum.accumulate(np.where(np.isfinite(recording.times), recording.times, -np.inf))
    return times, values, np.searchsorted(reached, times, "right") - 1


def _count(decisions: NDArray[np.int8], label: NDArray[np.int8], times: NDArray[np.float64]) -> Counts:
    scored = (decisions >= 0) & (label >= 0)
    said, true = decisions[scored] == 1, label[scored] != 0
    counts = Counts(
        tp=int((said & true).sum()),
        fp=int((said & ~true).sum()),
        tn=int((~said & ~true).sum()),
        fn=int((~said & true).sum()),
        not_scored=int((~scored).sum()),
    )
    when = times[scored]
    edges = np.flatnonzero(np.diff(np.concatenate(([False], true, [False])).astype(np.int8)))
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        counts.stretches += 1
        found = np.flatnonzero(said[begin:end])
        if found.size:
            counts.delays_s.append(float(when[begin + found[0]] - when[begin]))
    return counts


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None


def _means(files: list[dict[str, Any]]) -> dict[str, float | None]:
    names = ("precision", "recall", "f1", "false_alarm_rate", "missing_alarm_rate")
    known = {name: [f[name] for f in files if f[name] is not None] for name in names}
    return {name: statistics.fmean(values) if values else None for name, values in known.items()}


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    head = f"{'file':28}" + "".join(f"{name:>{width}}" for name, width, *_ in _COLUMNS)
    rows = [*report["files"], {"file": "all points", **report["total"]}]
    lines = [head, *(f"{row['file']:28}" + "".join(_cell(row, *column) for column in _COLUMNS) for row in rows)]
    t = report["total"]
    lines.append(
        f"{t['stretches_found']} of {t['stretches']} anomalous stretches found; {t['not_scored']} points not scored"
        f" (learned from, or no label); {report['unlabelled_files']} files without labels"
    )
    return "\n".join(lines)


_COLUMNS: Final = (  # title, width, figure, times, digits
    ("points", 8, "points", 1, 0),
    ("anomalous", 11, "anomalous", 1, 0),
    ("precision", 11, "precision", 1, 2),
    ("recall", 8, "recall", 1, 2),
    ("F1", 7, "f1", 1, 3),
    ("FAR %", 8, "false_alarm_rate", 100, 1),
    ("MAR %", 8, "missing_alarm_rate", 100, 1),
    ("delay s", 9, "median_delay_s", 1, 1),
)


def _cell(row: dict[str, Any], _title: str, width: int, figure: str, times: int, digits: int) -> str:
    value = row[figure]
    return f"{'-' if value is None else f'{value * times:.{digits}f}':>{width}}"
